# SPDX-License-Identifier: MIT
"""The canonical order of units and heads: colour refinement with real numbers (Weisfeiler and Leman).

Two units have different colours as soon as a number that no other site can change tells them apart: first their sum
of squares, so that the largest come first; then sums of what they are joined to, with a weight for every colour
there. Colours are ranks: the position at which the first unit of a colour will stand. When nothing more splits, units
of one colour are tied. One of them is put first and refinement goes on, so that ties which belong together are broken
together.

Where the sign of an entry is not known yet (an axis has signs or a frame), its absolute value is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.elements import SiteElements
from nnsym_fast.gauge_fixing._sites import Carrier, carriers, rows, view
from nnsym_fast.gauge_fixing._ties import Tie, clusters, weights
from nnsym_fast.groups import Group
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["Order"]

Array: TypeAlias = npt.NDArray[Any]

ZERO = 1e-280
"""A site whose sums of squares are all smaller is zero."""


class Order:
    """Ranks of heads and of units inside their heads, refined until they are all different.

    Args:
        spec: the symmetry.
        values: tensor name -> float64, on which only permutations and signs still act.
        tolerance: numbers that differ by less, relative to the largest of their site, count as equal.
        ties: what cannot be told apart joins this list.
    """

    def __init__(self, spec: SymmetrySpec, values: Mapping[str, Array], tolerance: float, ties: list[Tie]) -> None:
        self.spec, self.tolerance, self.ties = spec, tolerance, ties
        self.sites = {site: found for site, found in carriers(spec).items() if found}
        self.values = values
        self.unsigned = {
            name: np.abs(values[name]) if _has_signs(spec, name) else values[name]
            for name in spec.legs
            if spec.touched(name)
        }
        # Sites with one tie have the ranks of their heads together, under the name of the first of them.
        names = list(spec.sites)
        self.head_of = {site: names[first] for site, first in zip(names, spec.head_sites, strict=True)}
        self.members: dict[str, list[str]] = {}
        for site, first in self.head_of.items():
            self.members.setdefault(first, []).append(site)
        self.heads = {site: _start(spec.sites[site].permute_heads, (spec.sites[site].heads,)) for site in self.members}
        self.units = {
            site: _start(group.permute_units, (group.heads, group.head_size)) for site, group in spec.sites.items()
        }
        self.reported: set[tuple[str, bool, int]] = set()
        for site, group in spec.sites.items():
            if group.permute_units or group.signed or group.scaled:
                self._report_zeros(site)

    def elements(self) -> dict[str, SiteElements]:
        """The permutations that put units and heads into their order, one element per site that permutes."""
        self._split(0)
        number = 1
        while self._unresolved():
            if self._split(number):
                number += 1
            else:
                self._break_tie()
        return {site: self._element(site, group) for site, group in self.spec.sites.items()}

    def _element(self, site: str, group: Group) -> SiteElements:
        parts = reference.identity_site(group, 1)._asdict()
        if group.permutes:
            heads, units = np.argsort(self.heads[self.head_of[site]]), np.argsort(self.units[site], axis=1)
            perm = heads[:, None] * group.head_size + units[heads]
            parts["perm"] = perm.reshape(1, -1).astype(np.int32)
        return SiteElements(**parts)

    def _report_zeros(self, site: str) -> None:
        squares = [np.square(rows(self.spec, one, self.values[one.tensor])).sum(axis=1) for one in self.sites[site]]
        zeros = np.flatnonzero(np.sum(squares, axis=0) <= ZERO).tolist()
        if zeros:
            self.ties.append(Tie(site, tuple(zeros), "the units are zero"))
            self.reported |= {(site, False, unit) for unit in zeros}

    # --- splitting

    def _unresolved(self) -> bool:
        return any(True for _ in self._tied())

    def _tied(self) -> Iterator[tuple[Array, Array, str, bool, int]]:
        """Classes of equal rank, in canonical order: all ranks, the members, site, whether they are heads, head."""
        for site, ranks in self.heads.items():
            for members in _classes(ranks):
                yield ranks, members, site, True, 0
        for site, units in self.units.items():
            for head in np.argsort(self.heads[self.head_of[site]], kind="stable").tolist():
                for members in _classes(units[head]):
                    yield units[head], members, site, False, head

    def _split(self, number: int) -> bool:
        """Split classes by the keys of round ``number``; whether any was split."""
        # Keys of all sites come from the ranks before any of them changes.
        heads = {site: self._head_keys(site, number) for site, ranks in self.heads.items() if _open(ranks)}
        units = {site: self._unit_keys(site, number) for site, ranks in self.units.items() if _open(ranks)}
        split = False
        for site, (keys, size) in heads.items():
            split |= self._sort(self.heads[site], keys, size)
        for site, (keys, size) in units.items():
            for head, ranks in enumerate(self.units[site]):
                split |= self._sort(ranks, keys[head], size)
        return split

    def _sort(self, ranks: Array, keys: Array, size: float) -> bool:
        """Split every class by falling keys, in place."""
        split = False
        for members in _classes(ranks):
            order = np.argsort(-keys[members], kind="stable")
            first = ranks[members[0]]
            for found in clusters(keys[members][order], self.tolerance * size):
                ranks[members[order[found]]] = first + found.start
                split |= found.start > 0
        return split

    def _break_tie(self) -> None:
        """Put one member of the first class before the others."""
        ranks, members, site, heads, head = next(self._tied())
        start = 0 if heads else head * self.spec.sites[site].head_size
        units = tuple((members + start).tolist())
        if not self.reported & {(site, heads, unit) for unit in units}:
            reason = "the heads are equal" if heads else "the units are equal"
            self.ties.append(Tie(site, units, reason + " in all that is joined to them", heads))
        self.reported |= {(site, heads, unit) for unit in units}
        ranks[members[1:]] += 1

    # --- keys

    def _head_keys(self, site: str, number: int) -> tuple[Array, float]:
        total, size = np.zeros(self.spec.sites[site].heads), 0.0
        for member in self.members[site]:
            keys, scale = self._keys(member, number, whole=True)
            total, size = total + keys.sum(axis=1), size + scale
        return total, size

    def _unit_keys(self, site: str, number: int) -> tuple[Array, float]:
        return self._keys(site, number, whole=False)

    def _keys(self, site: str, number: int, whole: bool) -> tuple[Array, float]:
        """Keys ``(heads, head_size)`` of the units of a site, and the size of what was summed.

        Args:
            whole: weight the units by their ranks, for a sum over the head.
        """
        group = self.spec.sites[site]
        total, squares = np.zeros((group.heads, group.head_size)), np.zeros((group.heads, group.head_size))
        factors = 2.0 + weights(len(self.sites[site]), number)
        for one, factor in zip(self.sites[site], factors, strict=True):
            if not number:
                part = np.square(rows(self.spec, one, self.values[one.tensor])).sum(axis=1).reshape(total.shape)
                square = part
            else:
                part, square = self._sums(one, number)
                part = part * factor
            if whole and number:
                part = part * (1.0 + weights(group.size, number)[self.units[site]])
            total, squares = total + part, squares + square
        size = squares.sum(axis=1) if whole else squares
        largest = float(size.max())
        if largest <= ZERO:
            return total, 1.0
        return total, math.sqrt(largest) if number else largest

    def _sums(self, one: Carrier, number: int) -> tuple[Array, Array]:
        """Sums over all but the units of a carrier, with the weight of every rank, and of the squares."""
        value = self.unsigned[one.tensor]
        summed, squares = np.moveaxis(value, one.axis, 0), np.moveaxis(value, one.axis, 0) ** 2
        for axis in reversed(range(value.ndim)):
            if axis != one.axis:
                label = weights(value.shape[axis], 3 * number + axis)[self._positions(one.tensor, axis)]
                # The other axes follow the first in their order; the last of them goes first.
                summed, squares = summed @ label, squares.sum(axis=-1)
        return self._inside(one, summed, number), self._inside(one, squares, 0)

    def _inside(self, one: Carrier, summed: Array, number: int) -> Array:
        """Sum over the copies and repeats of a unit, ``(heads, head_size)``; ``number`` 0: without weights."""
        length = summed.shape[0]
        column = np.ones(length)
        if number:
            column = 1.0 + weights(length, number)[self._positions(one.tensor, one.axis, inner=one)]
        inner = view(self.spec, replace(one, axis=0), column * summed)
        return np.asarray(inner.sum(axis=(1, 3)))

    def _positions(self, tensor: str, axis: int, inner: Carrier | None = None) -> Array:
        """Position in the canonical order of every entry of an axis, that of the first entry of its colour.

        Args:
            inner: the carrier whose units are to be compared: their own rank plays no part.
        """
        legs = self.spec.legs[tensor][axis]
        value = self.values[tensor]
        if legs is None:
            return np.arange(value.shape[axis])
        if isinstance(legs, Leg):
            return self._leg_positions(legs, inner)
        parts, start = [], 0
        for length, leg in legs:
            parts.append(start + (np.arange(length) if leg is None else self._leg_positions(leg, inner)))
            start += length
        return np.concatenate(parts)

    def _leg_positions(self, leg: Leg, inner: Carrier | None) -> Array:
        group = self.spec.sites[leg.site]
        heads = self.heads[self.head_of[leg.site]][:, None]
        copies = self.units[leg.order] if leg.order else np.arange(leg.copies)[None]
        units = self.units[leg.site]
        if inner is not None and inner.leg is leg:
            heads = np.zeros_like(heads)
            copies, units = (0 * copies, units) if inner.order else (copies, 0 * units)
        blocks = (heads * leg.copies + copies)[:, :, None]
        positions = (blocks * group.head_size + units[:, None, :]).reshape(-1)
        return np.asarray(positions[:, None] * leg.repeat + np.arange(leg.repeat)).reshape(-1)


def _has_signs(spec: SymmetrySpec, name: str) -> bool:
    """Whether signs of the entries of a tensor are not known yet."""
    for axis in spec.legs[name]:
        for _, leg in ((0, axis),) if isinstance(axis, Leg) else (axis or ()):
            if leg is not None and (spec.sites[leg.site].dense or (spec.sites[leg.site].signed and leg.power % 2)):
                return True
    return False


def _start(permuted: bool, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, dtype=np.int64) if permuted else np.broadcast_to(np.arange(shape[-1]), shape).copy()


def _open(ranks: Array) -> bool:
    """Whether some ranks are equal."""
    flat = ranks.reshape(-1, ranks.shape[-1])
    ordered = np.sort(flat, axis=1)
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def _classes(ranks: Array) -> list[Array]:
    """The members of every class of two or more, by rising rank."""
    order = np.argsort(ranks, kind="stable")
    cuts = np.flatnonzero(np.diff(ranks[order])) + 1
    return [members for members in np.split(order, cuts) if len(members) > 1]
