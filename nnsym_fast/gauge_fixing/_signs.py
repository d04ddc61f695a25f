# SPDX-License-Identifier: MIT
"""The last choice: signs of units, once everything is in its order and every dense site in its frame.

The sign of a unit is found from sums of its entries in which no other unknown sign occurs, with fixed generic
weights: it makes the first of them positive. So signs spread from the axes that can be observed, and from biases,
along the network. A part of the network that nothing of this kind reaches has a sign in common that changes nothing;
it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.gauge_fixing._frames import Frame
from nnsym_fast.gauge_fixing._sites import Carrier, carriers, rows, view
from nnsym_fast.gauge_fixing._ties import Tie, weights
from nnsym_fast.legs import axis_legs
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["signs_of"]

Array: TypeAlias = npt.NDArray[Any]

TRIES = 3
"""Sets of weights: a sum that vanishes with all of them has no sign."""


@dataclass
class _Site:
    """Signs of one site: one for every number in ``blocks``."""

    blocks: Array
    """``(size,)`` number of the sign of every unit."""
    found: Array
    """``(count,)`` 1 and -1, as sums tell them; 0 while unknown."""
    parity: Array | None = None
    """``(heads,)``: what the product of the signs of a head must be."""

    @property
    def signs(self) -> Array:
        """The signs in force: with a parity the last of a head gives way, and a head waits until all are found."""
        if self.parity is None:
            return self.found
        split = self.found.reshape(len(self.parity), -1).copy()
        split[(split == 0).any(axis=1)] = 0.0
        split[:, -1] = split[:, :-1].prod(axis=1) * self.parity * np.abs(split[:, -1])
        return np.asarray(split.reshape(-1))


def signs_of(
    spec: SymmetrySpec,
    values: Mapping[str, Array],
    frames: Mapping[str, Frame],
    units: Mapping[str, Array],
    tolerance: float,
    ties: list[Tie],
) -> dict[str, Array]:
    """Signs of the units of every site that has any, ``(size,)``.

    Args:
        spec: the symmetry.
        values: tensor name -> float64, on which only signs still act.
        frames: the dense sites' frames, with their heads in the order of ``values``.
        units: site -> number of every unit in the network that came in, for the report.
        tolerance: a sum that is smaller, relative to its terms, has no sign.
        ties: units whose sign nothing tells join this list.
    """
    return _Signs(spec, values, frames, units, tolerance, ties).find()


class _Signs:
    def __init__(
        self,
        spec: SymmetrySpec,
        values: Mapping[str, Array],
        frames: Mapping[str, Frame],
        units: Mapping[str, Array],
        tolerance: float,
        ties: list[Tie],
    ) -> None:
        self.spec, self.values, self.units, self.tolerance, self.ties = spec, values, units, tolerance, ties
        self.sites: dict[str, _Site] = {}
        for site, group in spec.sites.items():
            if site in frames:
                frame = frames[site]
                heads, count = np.arange(group.heads)[:, None], int(frame.blocks.max()) + 1
                parity = np.sign(np.linalg.det(frame.matrix)) if frame.special else None
                blocks = (heads * count + frame.blocks).reshape(-1)
                self.sites[site] = _Site(blocks, np.zeros(group.heads * count), parity)
            elif group.signed:
                self.sites[site] = _Site(np.arange(group.size), np.zeros(group.size))
        self.pairwise = not any(found.parity is not None for found in self.sites.values()) and all(
            sum(any(self._acts(leg) for leg in axis_legs(axis)) for axis in axes) <= 2 for axes in spec.legs.values()
        )
        """Whether a sign that nothing tells changes nothing: entries have two signs at most, and all are free."""
        self.carriers = {
            site: [one for one in carriers(spec)[site] if not one.order and one.leg.power % 2] for site in self.sites
        }

    def find(self) -> dict[str, Array]:
        while self._open():
            # All of them, each with what those before it have found.
            found = [self._advance(site) for site in self._open()]
            if not any(found):
                self._root()
        return {site: found.signs[found.blocks] for site, found in self.sites.items()}

    def _open(self) -> list[str]:
        return [site for site, found in self.sites.items() if (found.found == 0).any()]

    def _advance(self, site: str) -> bool:
        """Find signs from what is known so far; whether any was found."""
        found = self.sites[site]
        new = np.zeros(len(found.found))
        for number in range(TRIES):
            sums, scale = self._sums(site, number)
            clear = (np.abs(sums) > self.tolerance * scale) & (scale > 0)
            new = np.where((new == 0) & clear, np.sign(sums), new)
            if not ((new == 0) & (found.found == 0) & (scale > 0)).any():
                break
        new = np.where(found.found == 0, new, found.found)
        changed = bool((new != found.found).any())
        found.found = new
        return changed

    def _root(self) -> None:
        """Keep the first unknown sign as it is: nothing that is known is joined to it."""
        site = self._open()[0]
        found = self.sites[site]
        block = int(np.flatnonzero(found.found == 0)[0])
        _, scale = self._sums(site, 0)
        squares = [rows(self.spec, one, self.values[one.tensor]) ** 2 for one in self.carriers[site]]
        sizes = np.bincount(found.blocks, np.sum([square.sum(axis=1) for square in squares], axis=0))
        if sizes[block] > self.tolerance * sizes.max() and (scale[block] > 0 or not self.pairwise):
            units = tuple(self.units[site][found.blocks == block].tolist())
            self.ties.append(Tie(site, units, "no sum of the unit's weights tells its sign"))
        found.found[block] = 1.0

    def _sums(self, site: str, number: int) -> tuple[Array, Array]:
        """For every sign, a sum of the entries that depend on it alone, and the root of the sum of their squares."""
        found = self.sites[site]
        count = len(found.found)
        total, squares = np.zeros(count), np.zeros(count)
        for factor, one in enumerate(self.carriers[site]):
            part, square = self._contract(one, number * len(self.carriers[site]) + factor)
            total += np.bincount(found.blocks, part, count)
            squares += np.bincount(found.blocks, square, count)
        return total, np.sqrt(squares)

    def _contract(self, one: Carrier, number: int) -> tuple[Array, Array]:
        value = self.values[one.tensor]
        summed = np.moveaxis(value, one.axis, 0)
        squares = np.square(summed)
        for axis in reversed(range(value.ndim)):
            if axis != one.axis:
                known = self._known(one.tensor, axis)
                summed = summed @ (known * weights(len(known), number + axis))
                squares = squares @ np.square(known)
        flat = Carrier(one.tensor, 0, one.start, one.length, one.leg)
        column = weights(len(summed), number)
        group = self.spec.sites[one.leg.site]
        # Weights of copies and repeats differ too; every unit has the same, so that those of a pair do not matter.
        inner = view(self.spec, flat, summed)
        column = column[: one.leg.copies * one.leg.repeat].reshape(one.leg.copies, 1, one.leg.repeat)
        part = (inner * column).sum(axis=(1, 3)).reshape(group.size)
        return part, view(self.spec, flat, squares).sum(axis=(1, 3)).reshape(group.size)

    def _known(self, tensor: str, axis: int) -> Array:
        """The sign of every entry of an axis, 0 where it is unknown."""
        legs = self.spec.legs[tensor][axis]
        length = self.values[tensor].shape[axis]
        parts = [np.ones(length)] if legs is None else [self._leg_signs(*part) for part in _stretches(legs, length)]
        return np.concatenate(parts)

    def _acts(self, leg: Leg) -> bool:
        return leg.site in self.sites and leg.power % 2 == 1

    def _leg_signs(self, length: int, leg: Leg | None) -> Array:
        if leg is None or not self._acts(leg):
            return np.ones(length)
        group, found = self.spec.sites[leg.site], self.sites[leg.site]
        signs = found.signs[found.blocks].reshape(group.heads, 1, group.head_size, 1)
        return np.asarray(np.broadcast_to(signs, (group.heads, leg.copies, group.head_size, leg.repeat))).reshape(-1)


def _stretches(legs: Any, length: int) -> Iterator[tuple[int, Leg | None]]:
    return iter(((length, legs),)) if isinstance(legs, Leg) else iter(legs)
