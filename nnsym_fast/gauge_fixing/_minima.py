# SPDX-License-Identifier: MIT
"""The smallest representative at one site, in closed form: positive scales, and matrices from the SVD of a product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["RANK", "Polar", "linear_minimum", "log_scales", "pair_scales"]

Array: TypeAlias = npt.NDArray[Any]

RANK = 1e-12
"""Singular values of a product below this fraction of the largest count as zero."""

RIDGE = 1e-8
"""What stands for zero where a product is short of rank, relative to the mean square of an entry of the two factors."""


def log_scales(exponents: Sequence[float], coefficients: Array) -> tuple[Array, Array]:
    """The minimum over tau of ``sum_k c_k exp(2 e_k tau)`` for every unit: a convex problem in one dimension.

    Args:
        exponents: ``e_k``, not 0 and different from each other.
        coefficients: ``c_k >= 0``, ``(k, units)``.

    Returns:
        tau ``(units,)``, 0 where there is no minimum; and whether there is one or the sum is 0. Closed form where one
        exponent is positive and one negative, which is the rule; else Newton's method inside a bracket.
    """
    e = np.asarray(exponents, dtype=float)
    c = np.asarray(coefficients, dtype=float)
    if not len(e):
        return np.zeros(c.shape[1]), np.ones(c.shape[1], dtype=bool)
    above, below = e > 0, e < 0
    has_above, has_below = (c[above] > 0).any(axis=0), (c[below] > 0).any(axis=0)
    attained = has_above == has_below
    solve = has_above & has_below
    tau = np.zeros(c.shape[1])
    if solve.any():
        weights = np.abs(e)[:, None] * c[:, solve]
        up, down = (_LogSum(2.0 * e[side], weights[side]) for side in (above, below))
        tau[solve] = _root(up, down)
    return tau, attained


class _LogSum:
    """``log sum_k w_k exp(r_k tau)`` and its derivative, for every unit."""

    def __init__(self, rates: Array, weights: Array) -> None:
        self.rates = rates
        with np.errstate(divide="ignore"):
            self.logs = np.log(weights)

    def __call__(self, tau: Array) -> tuple[Array, Array]:
        terms = self.logs + self.rates[:, None] * tau
        top = terms.max(axis=0)
        parts = np.exp(terms - top)
        total = parts.sum(axis=0)
        return np.asarray(top + np.log(total)), np.asarray((self.rates[:, None] * parts).sum(axis=0) / total)


def _root(up: _LogSum, down: _LogSum) -> Array:
    """Where the two logarithms meet: their difference rises with a slope between known bounds."""
    least = up.rates.min() - down.rates.max()
    zero = np.zeros(up.logs.shape[1])
    tau: Array = zero - (up(zero)[0] - down(zero)[0]) / least
    if len(up.rates) == len(down.rates) == 1:
        return tau
    low, high = np.minimum(tau, 0.0), np.maximum(tau, 0.0)
    tau = (low + high) / 2.0
    for _ in range(200):
        (first, slope), (second, fall) = up(tau), down(tau)
        value = first - second
        low, high = np.where(value <= 0, tau, low), np.where(value >= 0, tau, high)
        step = tau - value / (slope - fall)
        new = np.where((step >= low) & (step <= high), step, (low + high) / 2.0)
        done = np.all(np.abs(new - tau) <= 4e-16 * (1.0 + np.abs(new)))
        tau = new
        if done:
            break
    return tau


class Polar(NamedTuple):
    """A symmetric positive definite element, one per head."""

    matrix: Array
    """``(heads, m, m)``"""
    inverse: Array
    """``(heads, m, m)``"""
    step: Array
    """Largest logarithm of an eigenvalue, in absolute value ``(heads,)``: how far the element moves."""
    attained: Array
    """Whether the head has a minimum ``(heads,)``; the element of one that has none makes the norm smaller."""


def linear_minimum(a: Array, b: Array, power: float = 1.0, special: bool = False) -> Polar:
    """The symmetric positive definite g that minimises ``|g a|^2 + |g^-T b|^2``, over GL(m) or, ``special``, SL(m).

    With ``a^T = Q_a R_a``, ``b^T = Q_b R_b`` and the SVD ``R_a R_b^T = U s V^T`` of the product ``a^T b`` in these
    bases, ``g = K s^(-1/2) V^T R_b`` and ``g^-T = K s^(-1/2) U^T R_a`` are minimal for every orthogonal K; for the
    determinant 1 ``g = K z^(1/2) s^-1 V^T R_b``, ``g^-T = K z^(-1/2) U^T R_a``, with ``z^2 - lambda z = s^2``. The K
    that is returned makes g symmetric. Where the product is short of rank the infimum is not attained; a small multiple
    of the unit matrix joins a and b, for which ``tr g^T g + tr (g^T g)^-1 >= 2 m`` shows that the norm does not grow.

    Args:
        a: ``(heads, m, p)``.
        b: ``(heads, m, q)``.
        power: the element is raised to this power.
        special: whether the determinant is 1.
    """
    heads, m = a.shape[:2]
    size = (np.einsum("hij,hij->h", a, a) + np.einsum("hij,hij->h", b, b)) / m
    identity = np.broadcast_to(np.eye(m), (heads, m, m))
    live = size > 0
    safe = np.where(live, size, 1.0)[:, None, None]
    first, second = a / np.sqrt(safe), b / np.sqrt(safe)
    attained = ~live | _full_rank(first, second, m)
    ridge = np.where(attained, 0.0, RIDGE)[:, None, None] ** 0.5 * identity
    if not attained.all():
        first, second = np.concatenate([first, ridge], axis=-1), np.concatenate([second, ridge], axis=-1)
    r_a, r_b = _triangle(first), _triangle(second)
    r_a, r_b = np.where(live[:, None, None], r_a, identity), np.where(live[:, None, None], r_b, identity)
    _, s, vt = np.linalg.svd(r_a @ np.swapaxes(r_b, -1, -2))
    z = _special(s, r_a) if special else s
    g = (np.sqrt(z) / s)[..., None] * (vt @ r_b)
    # g = K P with P symmetric; so P^power needs the eigenvalues of g^T g only.
    _, d, wt = np.linalg.svd(g)
    d = d**power
    w = np.swapaxes(wt, -1, -2)
    return Polar((w * d[:, None, :]) @ wt, (w / d[:, None, :]) @ wt, np.abs(np.log(d)).max(axis=-1), attained)


def _triangle(a: Array) -> Array:
    """R of the QR decomposition of ``a^T``, with as many rows as columns."""
    m = a.shape[1]
    if a.shape[2] < m:
        a = np.concatenate([a, np.zeros((*a.shape[:2], m - a.shape[2]))], axis=-1)
    return np.asarray(np.linalg.qr(np.swapaxes(a, -1, -2), mode="r"))


def _full_rank(a: Array, b: Array, m: int) -> Array:
    s = np.linalg.svd(_triangle(a) @ np.swapaxes(_triangle(b), -1, -2), compute_uv=False)
    return np.asarray(s[:, -1] > RANK * m * s[:, 0])


def _special(s: Array, r_a: Array) -> Array:
    """z > 0 with ``z^2 - lambda z = s^2`` for one lambda per head, and ``prod z = det(a a^T)``."""
    target = 2.0 * np.log(np.abs(np.diagonal(r_a, axis1=-2, axis2=-1))).sum(axis=-1)

    def roots(value: Array) -> tuple[Array, Array]:
        half = value[:, None] / 2.0
        q = np.hypot(half, s)
        # Without cancellation for either sign.
        return np.where(half >= 0, half + q, s**2 / (q - half)), q

    low, high = -np.ones(len(s)), np.ones(len(s))
    for _ in range(1100):
        under = np.log(roots(low)[0]).sum(axis=-1) > target
        over = np.log(roots(high)[0]).sum(axis=-1) < target
        if not under.any() and not over.any():
            break
        low, high = np.where(under, 2.0 * low, low), np.where(over, 2.0 * high, high)
    value = (low + high) / 2.0
    for _ in range(200):
        z, q = roots(value)
        excess = np.log(z).sum(axis=-1) - target
        low, high = np.where(excess <= 0, value, low), np.where(excess >= 0, value, high)
        step = value - excess / (0.5 / q).sum(axis=-1)
        new = np.where((step >= low) & (step <= high), step, (low + high) / 2.0)
        done = np.all(np.abs(new - value) <= 4e-16 * (np.abs(new) + s[:, -1]))
        value = new
        if done:
            break
    return roots(value)[0]


def pair_scales(above: Array, below: Array) -> tuple[Array, Array]:
    """tau that minimises ``above exp(2 tau) + below exp(-2 tau)``: 0 where there is none; and whether there is one."""
    tau, attained = log_scales((1.0, -1.0), np.stack([above.ravel(), below.ravel()]))
    return tau.reshape(above.shape), attained.reshape(above.shape)
