# SPDX-License-Identifier: MIT
"""The best element of a block of sites, all others held fixed: heads by assignment, then units, scales and matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnsym_fast.gauge_fixing import _match_dense as dense
from nnsym_fast.gauge_fixing._match_action import SiteElement, identity
from nnsym_fast.gauge_fixing._match_blocks import Block, Problem, Statistics
from nnsym_fast.gauge_fixing._match_monomial import FINE_STEPS, Key, Units, assignment, best_units
from nnsym_fast.gauge_fixing._sites import Array
from nnsym_fast.gauge_fixing.balancing import matrix_group
from nnsym_fast.groups import Group

__all__ = ["solve"]

COPY_ROUNDS = 10
"""Turns between the order of the copies of a head and its matrix."""

WRITES, READS = Key(1.0, False), Key(-1.0, False)
"""The two kinds of legs of a dense site: ``g`` and ``g^-T``."""


@dataclass(frozen=True)
class Pairs:
    """Pairs (head of the target, head of the moved network) that may be matched: all of them, or each with itself."""

    to: Array
    source: Array
    heads: int
    permuted: bool

    @classmethod
    def of(cls, heads: int, permuted: bool) -> Pairs:
        if permuted:
            to, source = (index.reshape(-1) for index in np.indices((heads, heads)))
            return cls(to, source, heads, True)
        return cls(np.arange(heads), np.arange(heads), heads, False)

    def chosen(self, pi: Array) -> Array:
        """Positions in ``to`` of the pairs ``(h, pi[h])``."""
        return np.asarray(np.arange(self.heads) * self.heads + pi if self.permuted else pi)

    def blocks(self, cross: Array) -> Array:
        """``(size, size)`` -> ``(pairs, m, m)``."""
        m = cross.shape[0] // self.heads
        return np.asarray(cross.reshape(self.heads, m, self.heads, m)[self.to, :, self.source, :])


def solve(
    problem: Problem,
    block: Block,
    statistics: Mapping[str, Statistics],
    elements: Mapping[str, SiteElement],
    settling: bool = False,
) -> tuple[dict[str, SiteElement], float]:
    """The best element of a block, every other block held fixed.

    Args:
        problem: the networks.
        block: the block.
        statistics: what ``gather`` made.
        elements: the elements so far. A block keeps its own where the new one is not better.
        settling: whether only a part of the tensors was looked at, so that the elements so far mean nothing.

    Returns:
        the elements of the block's sites, and by how much the squared distance fell, up to shifts.
    """
    groups = {site: problem.spec.sites[site] for site in block.sites}
    heads = next(iter(groups.values())).heads
    pairs = Pairs.of(heads, any(problem.spec.sites[site].permute_heads for site in (*block.sites, *block.orders)))
    copies = _copy_orders(problem, block, statistics, pairs)
    candidates: dict[str, _Units | _Matrices] = {
        site: (
            _Matrices(problem, group, statistics[site], pairs, copies)
            if group.dense
            else _Units(problem, group, statistics[site], pairs, settling)
        )
        for site, group in groups.items()
    }
    cost = sum((candidate.cost for candidate in candidates.values()), start=np.zeros(len(pairs.to)))
    for order in block.orders:
        gains = _copy_gains(statistics[order], pairs, copies[order].shape[1])
        cost = cost - 2.0 * np.take_along_axis(gains, copies[order][:, :, None], axis=2).sum(axis=(1, 2))
    pi = assignment(cost.reshape(heads, heads)) if pairs.permuted else np.arange(heads)
    found = {
        site: candidate.element(pi, None if settling else elements[site]) for site, candidate in candidates.items()
    }
    for order in block.orders:
        found[order] = _order_element(pi, copies[order][pairs.chosen(pi)])
    kept = {name: elements[name] for name in found}
    if settling:
        return _with_shifts(statistics, found), 0.0
    if block.coupled:
        found = _with_shifts(statistics, found)
        old = problem.error(elements, block.tensors)
        new = problem.error({**elements, **found}, block.tensors)
        return (found, old - new) if new < old else (kept, 0.0)
    old, new = (
        sum(_value(groups[site], statistics[site], given[site], given) for site in block.sites)
        + sum(_value_of_units(statistics[order], given[order]) for order in block.orders)
        for given in (kept, found)
    )
    # Equal values: the new element is the solution to rounding, where the old one may be that of an earlier stage.
    return _with_shifts(statistics, found if new <= old else kept), max(0.0, old - new)


def _order_element(pi: Array, copies: Array) -> SiteElement:
    """Block ``(h, c)`` comes from block ``(pi_h, copies[h, c])``."""
    return SiteElement((pi[:, None] * copies.shape[1] + copies).reshape(-1))


# --- shifts


def _with_shifts(statistics: Mapping[str, Statistics], elements: Mapping[str, SiteElement]) -> dict[str, SiteElement]:
    """The elements with the shifts that are best for them: the mean of what is left of the target."""
    result = dict(elements)
    for site, known in statistics.items():
        if known.shift:
            total = sum(weight for weight, _, _ in known.shift)
            gaps = [weight / total * (y - _linear(elements[site], x)) for weight, y, x in known.shift]
            result[site] = replace(elements[site], shift=np.sum(gaps, axis=0))
    return result


def _linear(element: SiteElement, x: Array) -> Array:
    x = x[element.perm]
    if element.matrix is None:
        return x
    heads, m, _ = element.matrix.shape
    return np.asarray((element.matrix @ x.reshape(heads, m, 1)).reshape(-1))


# --- units: permutations, signs and scales


class _Units:
    """The best monomial element for every pair of heads."""

    def __init__(self, problem: Problem, group: Group, statistics: Statistics, pairs: Pairs, settling: bool) -> None:
        self.group, self.statistics, self.pairs = group, statistics, pairs
        self.scaled = group.scaled and not problem.isometric
        self.settling = settling
        m, count = group.head_size, len(pairs.to)
        self.sigma = np.broadcast_to(np.arange(m), (count, m))
        self.cost = np.zeros(count)
        if not statistics.cross or not group.permutes:
            return
        units = self._units(
            {key: pairs.blocks(cross) for key, cross in statistics.cross.items()},
            {key: own.reshape(-1, 1, m)[pairs.source] for key, own in statistics.own.items()},
            {key: target.reshape(-1, m, 1)[pairs.to] for key, target in statistics.target.items()},
        )
        if group.permute_units:
            self.sigma = np.stack([assignment(cost) for cost in units.cost])
        cost = np.take_along_axis(units.cost, self.sigma[:, :, None], axis=2)
        self.cost = cost.sum(axis=(1, 2))

    def _units(self, cross: dict[Key, Array], own: dict[Key, Array], target: dict[Key, Array], **steps: int) -> Units:
        return best_units(
            cross, own, target, signed=self.group.signed, scaled=self.scaled, one_sided=self.settling, **steps
        )

    def element(self, pi: Array, _: SiteElement | None) -> SiteElement:
        """The element that makes head h from head ``pi[h]``."""
        perm = (pi[:, None] * self.group.head_size + self.sigma[self.pairs.chosen(pi)]).reshape(-1)
        result = replace(identity(self.group), perm=perm)
        known = self.statistics
        if not known.cross or not (self.group.signed or self.scaled):
            return result
        rows = np.arange(len(perm))
        units = self._units(
            {key: cross[rows, perm] if cross.ndim == 2 else cross for key, cross in known.cross.items()},
            {key: own[perm] for key, own in known.own.items()},
            known.target,
            steps=FINE_STEPS,
        )
        return replace(
            result,
            sign=result.sign if units.sign is None else units.sign,
            scale=result.scale if units.scale is None else units.scale,
        )


# --- matrices


class _Matrices:
    """The best matrix for every pair of heads."""

    def __init__(
        self, problem: Problem, group: Group, statistics: Statistics, pairs: Pairs, copies: Mapping[str, Array]
    ) -> None:
        self.group, self.pairs = group, pairs
        self.unit = matrix_group(group)
        self.free = dense.has_scales(self.unit) and not problem.isometric
        target, own = _grams(group, statistics.target), _grams(group, statistics.own)
        self.heads = _heads(_crosses(group, statistics, pairs, copies), target, own, pairs)
        cross = self.heads.cross
        isometry, gain = dense.isometry(self.unit, cross[0] + cross[1])
        if not self.free:
            self.matrix, self.cost = isometry, -2.0 * gain
            return
        left, right = (dense.balancing(self.unit, side) for side in (target, own))
        left, right = left[pairs.to], right[pairs.source]
        between, _ = dense.isometry(self.unit, _balanced(cross, left, right))
        matrix = np.linalg.solve(left, between @ right)
        # Heads that lack rank have balanced points far out, or none.
        usable = np.isfinite(dense.objective(matrix, self.heads))
        self.matrix = np.where(usable[:, None, None], matrix, isometry)
        self.cost = dense.objective(self.matrix, self.heads)

    def element(self, pi: Array, so_far: SiteElement | None) -> SiteElement:
        """The element that makes head h from head ``pi[h]``; of a group with scales improved from ``so_far``, and from
        the closed form where that is better before."""
        chosen = self.pairs.chosen(pi)
        m = self.group.head_size
        matrix, heads = self.matrix[chosen], self.heads.take(chosen)
        if self.free:
            if so_far is None or so_far.matrix is None:
                matrix, _ = dense.polish(self.unit, matrix, heads)
            else:
                closed = np.flatnonzero(self.cost[chosen] < dense.objective(so_far.matrix, heads, so_far.inverse))
                found, cost = dense.polish(self.unit, matrix[closed], heads.take(closed))
                matrix, before = dense.polish(self.unit, so_far.matrix, heads)
                better = cost < before[closed]
                matrix[closed[better]] = found[better]
            inverse = dense.inverse_of(matrix)
        else:
            inverse = np.swapaxes(matrix, -1, -2)
        perm = (pi[:, None] * m + np.arange(m)).reshape(-1)
        return replace(identity(self.group), perm=perm, matrix=matrix, inverse=inverse)


def _heads(cross: dense.Pair, target: dense.Pair, own: dense.Pair, pairs: Pairs) -> dense.Heads:
    """The problems of pairs of heads, from Gram matrices of single ones."""
    sizes = [np.trace(side[0] + side[1], axis1=1, axis2=2) for side in (target, own)]
    norm = sizes[0][pairs.to] + sizes[1][pairs.source]
    return dense.Heads(cross, (own[0][pairs.source], own[1][pairs.source]), norm)


def _grams(group: Group, known: Mapping[Key, Array]) -> dense.Pair:
    """Gram matrices of what writes and of what reads, ``(heads, m, m)``; 0 where there is nothing."""
    zero = np.zeros((group.heads, group.head_size, group.head_size))
    return known.get(WRITES, zero), known.get(READS, zero)


def _crosses(group: Group, statistics: Statistics, pairs: Pairs, copies: Mapping[str, Array]) -> dense.Pair:
    """``A X^T`` of every pair of heads, for what writes and for what reads, copies in their best order."""
    m, count = group.head_size, len(pairs.to)
    result = [np.zeros((count, m, m)), np.zeros((count, m, m))]
    for number, key in enumerate((WRITES, READS)):
        if key in statistics.cross:
            result[number] += pairs.blocks(statistics.cross[key])
        for (order, kind), cross in statistics.copies.items():
            if kind == key:
                between = cross[pairs.to, :, :, pairs.source, :, :]
                result[number] += _ordered(between, copies[order])
    return result[0], result[1]


def _ordered(between: Array, order: Array) -> Array:
    """``sum_c between[p, c, :, order[p, c], :]`` of ``(pairs, copies, m, copies, m)``."""
    rows, columns = np.arange(len(order))[:, None], np.arange(order.shape[1])
    return np.asarray(between[rows, columns, :, order, :].sum(axis=1))


def _balanced(cross: dense.Pair, left: Array, right: Array) -> Array:
    """The sum of both sides, after balancing: ``P A X^T Q^T + P^-T B Y^T Q^-1``."""
    left_dual, right_dual = (np.swapaxes(np.linalg.inv(side), -1, -2) for side in (left, right))
    return np.asarray(
        left @ cross[0] @ np.swapaxes(right, -1, -2) + left_dual @ cross[1] @ np.swapaxes(right_dual, -1, -2)
    )


def _copy_orders(
    problem: Problem, block: Block, statistics: Mapping[str, Statistics], pairs: Pairs
) -> dict[str, Array]:
    """For every pair of heads the best order of their copies, ``(pairs, copies)``, found by turns with the matrix."""
    result = {}
    for order in block.orders:
        group = problem.spec.sites[order]
        start = np.broadcast_to(np.arange(group.head_size), (len(pairs.to), group.head_size))
        known = {
            site: statistics[site] for site in block.sites if any(key == order for key, _ in statistics[site].copies)
        }
        result[order] = start
        if group.permute_units:
            sides = [_CopySide(problem, site, entry, order, pairs) for site, entry in known.items()]
            result[order] = _alternate(sides, start, _copy_gains(statistics[order], pairs, group.head_size))
    return result


def _copy_gains(statistics: Statistics, pairs: Pairs, copies: int) -> Array:
    """What tensors that carry an order site itself say: products of copy c of a head of the target with copy d of one
    of the moved network, ``(pairs, copies, copies)``."""
    zero = np.zeros((len(pairs.to), copies, copies))
    return np.asarray(sum((pairs.blocks(cross) for cross in statistics.cross.values()), start=zero))


class _CopySide:
    """What one site says about the order of copies: sums of both sides after balancing."""

    def __init__(self, problem: Problem, site: str, statistics: Statistics, order: str, pairs: Pairs) -> None:
        group = problem.spec.sites[site]
        self.unit = matrix_group(group)
        m = group.head_size
        left = right = np.broadcast_to(np.eye(m), (len(pairs.to), m, m))
        if dense.has_scales(self.unit) and not problem.isometric:
            sides = (_grams(group, known) for known in (statistics.target, statistics.own))
            left, right = (dense.balancing(self.unit, side) for side in sides)
            left, right = left[pairs.to], right[pairs.source]
        zero = np.zeros((len(pairs.to), m, m))
        base = [pairs.blocks(statistics.cross[key]) if key in statistics.cross else zero for key in (WRITES, READS)]
        self.base = _balanced((base[0], base[1]), left, right)
        self.between: Array = np.zeros(())
        left, right = left[:, None, None], right[:, None, None]
        for (name, key), cross in statistics.copies.items():
            if name == order:
                part = np.moveaxis(cross[pairs.to, :, :, pairs.source, :, :], 2, 3)
                none = np.zeros_like(part)
                both = (part, none) if key == WRITES else (none, part)
                self.between = self.between + _balanced(both, left, right)

    def matrix(self, order: Array | None) -> Array:
        """The isometry for given orders; None: from what has no copies, where there is such."""
        cross = self.base
        if order is not None or not np.abs(cross).max(initial=0.0) > 0:
            taken = (
                np.broadcast_to(np.arange(self.between.shape[1]), self.between.shape[:2]) if order is None else order
            )
            cross = cross + _ordered(np.moveaxis(self.between, 3, 2), taken)
        return dense.isometry(self.unit, cross)[0]

    def gains(self, matrix: Array) -> Array:
        """``(pairs, copies, copies)``."""
        return np.asarray(np.einsum("pcdij,pij->pcd", self.between, matrix))


def _alternate(sides: list[_CopySide], start: Array, known: Array) -> Array:
    """The order of copies, from ``known`` gains of every pair of copies and those that depend on matrices."""
    first = np.stack([assignment(-gain) for gain in known]) if np.any(known) else None
    matrices = [side.matrix(first) for side in sides]
    order = start
    for _ in range(COPY_ROUNDS):
        gains = sum((side.gains(matrix) for side, matrix in zip(sides, matrices, strict=True)), start=known)
        found = np.stack([assignment(-gain) for gain in gains])
        if np.array_equal(found, order):
            break
        order = found
        matrices = [side.matrix(order) for side in sides]
    return order


# --- the objective


def _value(group: Group, known: Statistics, element: SiteElement, elements: Mapping[str, SiteElement]) -> float:
    """The part of the squared distance that a site's element decides, its shift at its best.

    ``elements`` are those of the block, for the orders of copies.
    """
    if not group.dense:
        return _value_of_units(known, element)
    assert element.matrix is not None
    heads, m = group.heads, group.head_size
    pi = element.perm[::m] // m
    pairs = Pairs(np.arange(heads), pi, heads, False)
    orders = {order: elements[order].perm.reshape(heads, -1) for order, _ in known.copies}
    orders = {order: perm - pi[:, None] * perm.shape[1] for order, perm in orders.items()}
    grams = (_grams(group, known.target), _grams(group, known.own))
    problems = _heads(_crosses(group, known, pairs, orders), *grams, pairs)
    return float(dense.objective(element.matrix, problems, element.inverse).sum())


def _value_of_units(known: Statistics, element: SiteElement) -> float:
    rows = np.arange(len(element.perm))
    total = 0.0
    for key, cross in known.cross.items():
        factor = np.ones(len(rows)) if element.scale is None else element.scale**key.power
        total += float(known.own[key][element.perm] @ factor**2)
        if key.odd and element.sign is not None:
            factor = factor * element.sign
        total -= 2.0 * float((cross[rows, element.perm] if cross.ndim == 2 else cross) @ factor)
    return total
