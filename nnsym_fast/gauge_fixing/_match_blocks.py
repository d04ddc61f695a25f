# SPDX-License-Identifier: MIT
"""Sites that are matched together, what the search must know of them, and their best elements.

A block is a site, or the sites whose heads are permuted together. With the elements of all other blocks held fixed, the
distance to the target depends on a block through inner products only: :func:`gather` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnsym_fast.gauge_fixing._match_action import SiteElement, moved
from nnsym_fast.gauge_fixing._match_monomial import Key
from nnsym_fast.gauge_fixing._sites import Array, Carrier, carriers, view
from nnsym_fast.groups import Group
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["Block", "Problem", "Statistics", "blocks_of", "gather"]


@dataclass(frozen=True)
class Block:
    """Sites that are matched together.

    Args:
        sites: the sites whose units tensors carry.
        orders: the sites that move copies of heads; tensors may carry their units too.
        carriers: every stretch of a tensor that carries one of ``sites`` or of ``orders``.
        coupled: whether a tensor carries the block on two axes; the best element is then not a closed form.
    """

    sites: tuple[str, ...]
    orders: tuple[str, ...]
    carriers: tuple[Carrier, ...]
    coupled: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that carry the block."""
        return tuple(dict.fromkeys(carrier.tensor for carrier in self.carriers))


def blocks_of(spec: SymmetrySpec) -> list[Block]:
    """The sites of a spec, those with one tie or one order together."""
    of = {site: (group.tie or "", "" if group.tie else site) for site, group in spec.sites.items()}
    everything = carriers(spec)
    orders: dict[str, str] = {}
    for site, entries in everything.items():
        for carrier in entries:
            if carrier.leg.order and not carrier.order:
                orders[carrier.leg.order] = site
    for order, site in orders.items():
        of[order] = of[site]
    members: dict[tuple[str, str], list[str]] = {}
    for site, key in of.items():
        members.setdefault(key, []).append(site)
    result = []
    for names in members.values():
        sites = tuple(name for name in names if name not in orders)
        uses = tuple(carrier for site in names for carrier in everything[site] if not carrier.order)
        axes = {(carrier.tensor, carrier.axis) for carrier in uses}
        coupled = len(axes) > len({carrier.tensor for carrier in uses})
        result.append(Block(sites, tuple(name for name in names if name in orders), uses, coupled))
    return result


@dataclass
class Statistics:
    """Inner products of one site: everything that its best element depends on.

    ``cross`` holds ``A X^T``, A the target and X what the site's element is to move, ``(size, size)``; ``own`` and
    ``target`` hold ``X X^T`` and ``A A^T``, for a dense site head by head, ``(heads, m, m)``, else the diagonal
    ``(size,)``; ``copies`` is ``cross`` of legs whose copies an order site moves, ``(heads, copies, m, heads, copies,
    m)``; ``shift`` what carriers of affine legs hold, (weight, A, X).
    """

    cross: dict[Key, Array] = field(default_factory=dict)
    own: dict[Key, Array] = field(default_factory=dict)
    target: dict[Key, Array] = field(default_factory=dict)
    copies: dict[tuple[str, Key], Array] = field(default_factory=dict)
    shift: list[tuple[float, Array, Array]] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """Two networks in float64 that are to be matched.

    Args:
        spec: their symmetry.
        a: the target.
        b: what is moved.
        weights: tensor -> its weight in the squared distance; tensors of weight 0 are not here.
        isometric: whether scales are held at 1, matrices orthogonal and shifts at 0: see ``distance``.
    """

    spec: SymmetrySpec
    a: Mapping[str, Array]
    b: Mapping[str, Array]
    weights: Mapping[str, float]
    isometric: bool = False

    def error(self, elements: Mapping[str, SiteElement], tensors: Iterable[str]) -> float:
        """Weighted squared distance of the moved tensors to their targets."""
        total = 0.0
        for name in tensors:
            if name in self.weights:
                gap = moved(self.spec, elements, name, self.b[name]) - self.a[name]
                total += self.weights[name] * float(np.vdot(gap, gap))
        return total


def gather(
    problem: Problem, block: Block, elements: Mapping[str, SiteElement], uses: Iterable[Carrier] | None = None
) -> dict[str, Statistics]:
    """The inner products of a block's sites, every other site at its element.

    Args:
        problem: the networks.
        block: the block.
        elements: site -> element.
        uses: the carriers to look at; None: all.
    """
    spec = problem.spec
    result = {site: Statistics() for site in (*block.sites, *block.orders)}
    for use in block.carriers if uses is None else uses:
        weight = problem.weights.get(use.tensor, 0.0)
        if not weight:
            continue
        x = moved(spec, elements, use.tensor, problem.b[use.tensor], but=use)
        x = view(spec, replace(use, start=0), x)
        y = view(spec, use, problem.a[use.tensor])
        if use.leg.affine and not problem.isometric:
            result[use.site].shift.append((weight, y.reshape(-1), x.reshape(-1)))
        else:
            _add(result[use.site], spec.sites[use.site], use, weight, y, x)
    for site, statistics in result.items():
        _centre(spec.sites[site], statistics)
    return result


def _add(statistics: Statistics, group: Group, use: Carrier, weight: float, y: Array, x: Array) -> None:
    """``y`` and ``x`` of shape ``(heads, copies, m, ...)``."""
    leg = use.leg
    power = -leg.power if leg.dual else leg.power
    heads, copies, m = y.shape[:3]
    if not group.dense:
        key = Key(power if group.scaled else 0.0, leg.power % 2 == 1)
        y, x = y.reshape(group.size, -1), x.reshape(group.size, -1)
        _increase(statistics.cross, key, weight * (y @ x.T if group.permutes else np.einsum("ij,ij->i", y, x)))
        _increase(statistics.own, key, weight * np.einsum("ij,ij->i", x, x))
        _increase(statistics.target, key, weight * np.einsum("ij,ij->i", y, y))
        return
    key = Key(power, False)
    # A single copy goes where its head goes: nothing is left to order.
    ordered = leg.order and copies > 1
    if ordered:
        y, x = y.reshape(heads * copies * m, -1), x.reshape(heads * copies * m, -1)
        _increase(statistics.copies, (leg.order, key), weight * (y @ x.T).reshape(heads, copies, m, heads, copies, m))
        y, x = (part.reshape(heads, copies, m, -1) for part in (y, x))
    y, x = (np.moveaxis(part, 1, 2).reshape(group.size, -1) for part in (y, x))
    if not ordered:
        _increase(statistics.cross, key, weight * (y @ x.T))
    y, x = y.reshape(heads, m, -1), x.reshape(heads, m, -1)
    _increase(statistics.own, key, weight * (x @ np.swapaxes(x, 1, 2)))
    _increase(statistics.target, key, weight * (y @ np.swapaxes(y, 1, 2)))


def _increase(sums: dict[Any, Array], key: Any, term: Array) -> None:
    sums[key] = sums[key] + term if key in sums else term


def _centre(group: Group, statistics: Statistics) -> None:
    """Several tensors that share a shift: what the best shift leaves of them counts. Of one it leaves nothing."""
    if len(statistics.shift) < 2:
        return
    weights = np.array([weight for weight, _, _ in statistics.shift])
    root = np.sqrt(weights)
    pair = []
    for part in (1, 2):
        columns = np.stack([entry[part] for entry in statistics.shift], axis=1)
        columns = (columns - (columns @ weights / weights.sum())[:, None]) * root
        pair.append(columns.reshape(group.heads, 1, group.head_size, -1))
    first = Leg("s", affine=True)
    _add(statistics, group, Carrier("", 0, 0, group.size, first), 1.0, *pair)
