# SPDX-License-Identifier: MIT
"""A frame for every dense site of a balanced network: rows are its units up to signs, the same along the orbit.

Once the norm is minimal what is left of a dense group is orthogonal, and the other sites act on a matrix "unit x
rest" X by orthogonal matrices from the right. So the Gram matrix ``sum X X^T`` over everything that carries the site
only turns with the site itself, and its eigenvectors, by falling eigenvalue, are a frame up to signs. The two rows of
a frequency pair of a rotary embedding make one row z of complex numbers, which has the phase of the site; ``sum z
z^T``, with twice that phase, is made positive, which leaves one sign for the pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.gauge_fixing._sites import carriers, rows
from nnsym_fast.gauge_fixing._ties import Tie, clusters, weights
from nnsym_fast.gauge_fixing.balancing import matrix_group
from nnsym_fast.groups import Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Frame", "frames", "mean_reflection"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Frame:
    """Coordinates in which a dense site has signs only."""

    matrix: Array
    """``(heads, m, m)``: orthogonal matrices that lead to the coordinates."""
    back: Array
    """``(m, m)``: from these coordinates to those of the group, which has ``back diag(signs) matrix``."""
    blocks: Array
    """``(m,)``: units with the same number have one sign together."""
    special: bool
    """Whether the determinant, with the signs, must be 1."""


def mean_reflection(m: int) -> Array:
    """The reflection that exchanges the first axis and the direction of ones."""
    u = np.full(m, -1.0 / np.sqrt(m))
    u[0] += 1.0
    return np.eye(m) if m == 1 else np.eye(m) - 2.0 * np.outer(u, u) / (u @ u)


def frames(spec: SymmetrySpec, values: Mapping[str, Array], tolerance: float, ties: list[Tie]) -> dict[str, Frame]:
    """The frames of all dense sites of a balanced network; what is degenerate joins ``ties``."""
    return {site: _Site(spec, site, values, tolerance, ties).frame() for site, g in spec.sites.items() if g.dense}


class _Site:
    """The Gram matrices of one site: plain, and with a weight for every carrier."""

    def __init__(
        self, spec: SymmetrySpec, site: str, values: Mapping[str, Array], tolerance: float, ties: list[Tie]
    ) -> None:
        self.site, self.group, self.tolerance, self.ties = site, spec.sites[site], tolerance, ties
        heads, m = self.group.heads, self.group.head_size
        self.gram = np.zeros((2, heads, m, m))
        found = carriers(spec)[site]
        for one, weight in zip(found, weights(len(found)), strict=True):
            x = rows(spec, one, values[one.tensor]).reshape(heads, m, -1)
            square = x @ np.swapaxes(x, -1, -2)
            self.gram += np.stack([square, weight * square])

    def frame(self) -> Frame:
        unit, m = matrix_group(self.group), self.group.head_size
        back, blocks = np.eye(m), np.arange(m)
        matrix = np.zeros((self.group.heads, m, m))
        free = slice(0, m)
        if isinstance(unit, Orthogonal) and unit.keeps_mean:
            back = mean_reflection(m)
            self.gram = back @ self.gram @ back
            matrix[:, 0, 0] = 1.0
            free = slice(1, m)
        elif isinstance(unit, RotaryCommutant):
            for number, (i, j) in enumerate(unit.pairs):
                blocks[[i, j]] = number
                self._turn(matrix, i, j)
            free = slice(m - unit.free, m)
        for head in range(self.group.heads):
            matrix[head, free, free] = self._axes(head, free)
        return Frame(matrix @ back, back, blocks, isinstance(unit, SpecialLinear))

    def _turn(self, matrix: Array, i: int, j: int) -> None:
        """Turn a pair so that its second moment ``sum (x_i + 1j x_j)^2`` is positive."""
        gram = self.gram[0]
        moment = gram[:, i, i] - gram[:, j, j] + 2j * gram[:, i, j]
        size = gram[:, i, i] + gram[:, j, j]
        for head in np.flatnonzero((np.abs(moment) <= self.tolerance * size) & (size > 0)):
            first = int(head) * self.group.head_size
            self._tie((first + i, first + j), "the phase of the rotary pair has no second moment")
        angle = -np.angle(moment) / 2.0
        matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
        matrix[:, j, i] = np.sin(angle)
        matrix[:, i, j] = -matrix[:, j, i]

    def _axes(self, head: int, free: slice) -> Array:
        """Eigenvectors as rows, by falling eigenvalue; those of equal ones by the second Gram matrix."""
        first, second = self.gram[:, head, free, free]
        if not len(first):
            return np.asarray(first)
        values, vectors = np.linalg.eigh(first)
        values, axes = values[::-1], vectors.T[::-1].copy()
        gap = self.tolerance * values[0]
        for found in clusters(values, gap):
            start = head * self.group.head_size + free.start
            if values[found.start] <= gap:
                units = tuple(range(start + found.start, start + found.stop))
                self._tie(units, "nothing is joined to the site in these directions")
                continue
            if found.stop - found.start == 1:
                continue
            inner, turn = np.linalg.eigh(axes[found] @ second @ axes[found].T)
            axes[found] = turn.T[::-1] @ axes[found]
            for again in clusters(inner[::-1], gap):
                if again.stop - again.start > 1:
                    units = tuple(range(start + found.start + again.start, start + found.start + again.stop))
                    self._tie(units, "equal singular values (the units are numbered by falling singular value)")
        return np.asarray(axes)

    def _tie(self, units: tuple[int, ...], reason: str) -> None:
        self.ties.append(Tie(self.site, units, reason))
