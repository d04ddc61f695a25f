# SPDX-License-Identifier: MIT
"""All scales of a network at once, by Newton's method: for chains of layers, along which sweeps creep.

With t the logarithms of all scales the norm is ``f(t) = sum_w w^2 exp(2 e_w . t)`` over all weights w, where e_w
holds the exponents of the units that w joins: a convex function.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.gauge_fixing._sites import carriers
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["joint_minimum"]

Array: TypeAlias = npt.NDArray[Any]

STEPS = 50
HALVINGS = 40
RIDGE = 1e-14
"""Added to the Hessian, relative to its largest entry: where nothing fixes a scale it keeps it."""


def joint_minimum(
    spec: SymmetrySpec, values: Mapping[str, Array], free: Mapping[str, Array], tolerance: float
) -> dict[str, Array]:
    """Logarithms of scales of all units that are free, at the minimum of the norm.

    Args:
        spec: the symmetry.
        values: tensor name -> float64: the parameters that count.
        free: site -> ``(size,)``, whether the scale of a unit may change.
        tolerance: the steps end when no logarithm moves by more.

    Returns:
        site -> ``(size,)``; all 0 where no step makes the norm smaller.
    """
    starts = dict(zip(free, np.cumsum([0, *(len(mask) for mask in free.values())]).tolist(), strict=False))
    moves = np.concatenate(list(free.values()))
    terms = [
        _Term(spec, name, np.square(value), starts) for name, value in values.items() if _joins(spec, name, starts)
    ]
    t = np.zeros(len(moves))
    value = sum(term.value(t) for term in terms)
    for _ in range(STEPS):
        gradient, hessian = np.zeros(len(t)), np.zeros((len(t), len(t)))
        for term in terms:
            term.derivatives(t, gradient, hessian)
        gradient[~moves] = 0.0
        hessian[~moves], hessian[:, ~moves] = 0.0, 0.0
        diagonal = np.einsum("ii->i", hessian)
        diagonal += np.where(moves, RIDGE * diagonal.max(), 1.0) + np.finfo(float).tiny
        step = -np.linalg.solve(hessian, gradient)
        # No scale changes by more than a factor of e^4 at once.
        length = min(1.0, 4.0 / max(np.abs(step).max(), 1e-300))
        for _ in range(HALVINGS):
            new = sum(term.value(t + length * step) for term in terms)
            if new <= value:
                break
            length /= 2.0
        else:
            break
        t, value = t + length * step, new
        if length * np.abs(step).max() <= tolerance:
            break
    return {site: t[start : start + len(free[site])] for site, start in starts.items()}


def _joins(spec: SymmetrySpec, name: str, starts: Iterable[str]) -> bool:
    return any(one.tensor == name and one.leg.power for site in starts for one in carriers(spec)[site])


class _Term:
    """The squares of one tensor, summed over the axes without scales, and what every entry of the others carries."""

    def __init__(self, spec: SymmetrySpec, name: str, squares: Array, starts: Mapping[str, int]) -> None:
        found: dict[int, tuple[Array, Array]] = {}
        for site, start in starts.items():
            for one in carriers(spec)[site]:
                if one.tensor != name or not one.leg.power:
                    continue
                length = squares.shape[one.axis]
                index, exponent = found.setdefault(one.axis, (np.zeros(length, dtype=np.intp), np.zeros(length)))
                stretch = slice(one.start, one.start + one.length)
                index[stretch] = start + np.repeat(np.arange(spec.sites[site].size), one.leg.repeat)
                exponent[stretch] = -one.leg.power if one.leg.dual else one.leg.power
        self.squares = squares.sum(axis=tuple(axis for axis in range(squares.ndim) if axis not in found))
        self.axes = [found[axis] for axis in sorted(found)]

    def _weighted(self, t: Array) -> Array:
        result: Array = self.squares
        for number, (index, exponent) in enumerate(self.axes):
            shape = [1] * self.squares.ndim
            shape[number] = -1
            result = result * np.exp(2.0 * exponent * t[index]).reshape(shape)
        return result

    def value(self, t: Array) -> float:
        """The term's part of the norm, squared."""
        with np.errstate(over="ignore"):
            return float(self._weighted(t).sum())

    def derivatives(self, t: Array, gradient: Array, hessian: Array) -> None:
        """Add the term's part of both."""
        weighted, count = self._weighted(t), len(t)
        every = range(len(self.axes))
        for number, (index, exponent) in enumerate(self.axes):
            sums = weighted.sum(axis=tuple(other for other in every if other != number))
            gradient += np.bincount(index, 2.0 * exponent * sums, count)
            hessian[np.diag_indices(count)] += np.bincount(index, 4.0 * exponent**2 * sums, count)
        for a, b in itertools.combinations(every, 2):
            (rows, first), (columns, second) = self.axes[a], self.axes[b]
            block = weighted.sum(axis=tuple(other for other in every if other not in (a, b)))
            block = 4.0 * first[:, None] * second * block
            np.add.at(hessian, (rows[:, None], columns), block)
            np.add.at(hessian, (columns[:, None], rows), block.T)
