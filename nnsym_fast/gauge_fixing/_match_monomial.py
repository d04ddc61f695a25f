# SPDX-License-Identifier: MIT
"""The best permutation, signs and scales of a monomial site, from inner products of units.

Unit i of the target made from unit j costs, up to a constant, ``sum_e C_e[j] s^(2e) - 2 sigma D_e[i, j] s^e``: e is
the power of the scale that a leg carries (1 for what writes, -1 for what reads), C the squared norm of the moved unit,
D its product with the target's, sigma the sign where e is odd. The scale and the sign that are best for a pair are part
of its cost, and all units together are a linear assignment (Ainsworth et al. 2209.04836 for permutations alone). With
the powers 1 and -1 the best scale is a root of ``C_1 s^4 - D_1 s^3 + D_-1 s - C_-1``; Newton's method in log s serves
all powers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from nnsym_fast.gauge_fixing._sites import Array

__all__ = ["Key", "Units", "assignment", "best_units"]

ROUGH_STEPS = 4
"""Newton steps for the cost of a pair, from where both units have equal norms."""

FINE_STEPS = 50
"""Newton steps for a pair that was chosen, from several starts."""

REACH = 4.0
"""Largest distance of log s from where both units have equal norms: a scale must not run away to zero."""


class Key(NamedTuple):
    """How a leg carries an element: the power of the scale, and whether that of the sign is odd."""

    power: float
    odd: bool


Terms: TypeAlias = list[tuple[float, Array, Array]]
"""Power e, C, D: ``sum C exp(2 e t) - 2 D exp(e t)``."""


class Units(NamedTuple):
    """Best signs and scales for pairs (i, j), and what each pair costs; None where the group has no such part."""

    cost: Array
    sign: Array | None
    scale: Array | None


def assignment(cost: Array) -> Array:
    """``j`` for every ``i`` such that ``sum cost[i, j]`` is smallest, each j once.

    Raises:
        ImportError: SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ImportError('matching networks needs scipy; install it with pip install "nnsym_fast[gauge]"') from None
    return np.asarray(linear_sum_assignment(cost)[1])


def best_units(
    cross: Mapping[Key, Array],
    own: Mapping[Key, Array],
    target: Mapping[Key, Array],
    *,
    signed: bool,
    scaled: bool,
    one_sided: bool = False,
    steps: int = ROUGH_STEPS,
) -> Units:
    """The sign and the scale of every pair of units.

    Args:
        cross: key -> D, ``(..., n, n)`` for all pairs or ``(..., n)`` for chosen ones.
        own: key -> C, the squared norms of the moved units, that broadcast against D.
        target: key -> squared norms of the target's units, that broadcast against D.
        signed: whether the group has signs.
        scaled: whether it has scales; without them powers mean nothing.
        one_sided: whether a scale that only one side of the site shows is the ratio of norms: the scale of least
            squares would shrink what does not match well.
        steps: Newton steps.
    """
    if not scaled:
        even = sum((d for key, d in cross.items() if not key.odd), start=np.zeros(()))
        odd = sum((d for key, d in cross.items() if key.odd), start=np.zeros(()))
        if not signed:
            return Units(-2.0 * (even + odd), None, None)
        sign = np.where(odd < 0, -1.0, 1.0)
        return Units(-2.0 * (even + np.abs(odd)), np.broadcast_to(sign, np.shape(even + odd)), None)
    found = []
    for sigma in (1.0, -1.0) if signed else (1.0,):
        terms = [(key.power, own[key], cross[key] * (sigma if key.odd else 1.0)) for key in cross]
        log, cost = _best_scale(terms, [target[key] for key in cross], steps, one_sided)
        found.append((cost, np.exp(log)))
    cost, scale = found[0]
    if not signed:
        return Units(cost, None, scale)
    take = found[1][0] < cost
    return Units(np.where(take, found[1][0], cost), np.where(take, -1.0, 1.0), np.where(take, found[1][1], scale))


def _best_scale(terms: Terms, targets: list[Array], steps: int, one_sided: bool) -> tuple[Array, Array]:
    """``t = log s`` with the smallest ``sum C exp(2 e t) - 2 D exp(e t)``, and that sum."""
    fixed = sum((c - 2.0 * d for e, c, d in terms if e == 0), start=np.zeros(()))
    moving = [(e, c, d, norm) for (e, c, d), norm in zip(terms, targets, strict=True) if e != 0]
    shape = np.broadcast_shapes(*(d.shape for _, _, d in terms))
    fixed = np.broadcast_to(fixed, shape)
    if not moving:
        return np.zeros(shape), fixed
    middle = _middle([(e, c, norm) for e, c, _, norm in moving], shape)
    low, high = middle - REACH, middle + REACH
    parts: Terms = [(e, c, d) for e, c, d, _ in moving]
    if one_sided and len({e > 0 for e, _, _ in parts}) == 1:
        return middle, fixed + _sum(parts, middle)
    best = _newton(parts, middle, low, high, steps)
    cost = _sum(parts, best)
    if steps < FINE_STEPS:
        return best, fixed + cost
    # There may be two minima, all of them between the least-squares scales of the single terms.
    for e, c, d in parts:
        seen = (d > 0) & (c > 0)
        ratio = np.where(seen, d, 1.0) / np.where(seen, c, 1.0)
        t = _newton(parts, np.where(seen, np.clip(np.log(ratio) / e, low, high), middle), low, high, steps)
        value = _sum(parts, t)
        take = value < cost
        best, cost = np.where(take, t, best), np.where(take, value, cost)
    return best, fixed + cost


def _middle(terms: list[tuple[float, Array, Array]], shape: tuple[int, ...]) -> Array:
    """Where moved and target units have equal norms, on the average of the legs; 0 where nothing says."""
    total, count = np.zeros(shape), np.zeros(shape)
    for e, c, norm in terms:
        # Logarithms of single units, not of pairs.
        (log_c, has_c), (log_norm, has_norm) = _log(c), _log(norm)
        both = has_c & has_norm
        gap = (log_norm - log_c) / (2.0 * e)
        total += gap if both.all() else np.where(both, gap, 0.0)
        count += both
    return total / np.maximum(count, 1.0)


def _log(x: Array) -> tuple[Array, Array]:
    """The logarithm where there is one, and where there is one."""
    positive = x > 0
    return np.log(np.where(positive, x, 1.0)), positive


def _power(s: Array, e: float) -> Array:
    """``s^e``: the powers of weights and of their readers without a logarithm."""
    if e == 1.0:
        return s
    return 1.0 / s if e == -1.0 else np.asarray(s**e)


def _sum(terms: Terms, t: Array) -> Array:
    s = np.exp(t)
    result = np.zeros(t.shape)
    for e, c, d in terms:
        x = _power(s, e)
        result += (c * x - 2.0 * d) * x
    return result


def _newton(terms: Terms, t: Array, low: Array, high: Array, steps: int) -> Array:
    for _ in range(steps):
        s = np.exp(t)
        slope, bend = np.zeros(t.shape), np.zeros(t.shape)
        for e, c, d in terms:
            x = _power(s, e)
            square, product = c * x * x, d * x
            slope += (2.0 * e) * (square - product)
            bend += (2.0 * e * e) * (2.0 * square - product)
        step = np.clip(slope / np.maximum(np.abs(bend), np.finfo(np.float64).tiny), -1.0, 1.0)
        t = np.clip(t - step, low, high)
        if np.abs(step).max(initial=0.0) < 1e-15:
            break
    return t
