# SPDX-License-Identifier: MIT
"""Small random elements of the group of a network, and elements put together from those of several samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import Affine, Group, Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.reference.philox import normals, uniforms, words
from nnsym_fast.symmetry import SymmetrySpec
from nnsym_fast.wilson import expm

__all__ = ["Factor", "merge", "nearby"]

Array: TypeAlias = npt.NDArray[Any]

LAST = (1 << 64) - 1
"""Steps draw from the far end of the sample indices, which no orbit reaches."""

MOVE, UNITS, HEADS, SIGN = "move", "units", "heads", "sign"


@dataclass(frozen=True)
class Factor:
    """Sites whose elements are chosen together; or one site whose heads are, each by itself."""

    sites: tuple[str, ...]
    choices: int = 1
    """1, or the number of heads."""


def merge(spec: SymmetrySpec, factors: Sequence[Factor], a: Elements, b: Elements, take: Array) -> Elements:
    """``b`` where ``take``, one flag per choice of every factor, says so, else ``a``; one element each."""
    sites = dict(a)
    column = 0
    for factor in factors:
        flags = take[column : column + factor.choices]
        column += factor.choices
        for site in factor.sites:
            sites[site] = _merge_site(spec.sites[site], a[site], b[site], flags)
    return Elements(sites, 1)


def _merge_site(group: Group, a: SiteElements, b: SiteElements, flags: Array) -> SiteElements:
    parts: list[Array | None] = []
    for ours, theirs in zip(vars(a).values(), vars(b).values(), strict=True):
        if ours is None or theirs is None:
            parts.append(None)
        else:
            by_choice = (len(flags), -1)
            mixed = np.where(flags[:, None], theirs.reshape(by_choice), ours.reshape(by_choice))
            parts.append(mixed.reshape(ours.shape))
    return SiteElements(*parts)


def nearby(
    spec: SymmetrySpec, factors: Sequence[Factor], seed: int, number: int, sizes: Array
) -> tuple[Elements, Array]:
    """Step ``number``: one element near the identity, in the sense of one part of the group.

    Every factor goes through the kinds of steps that its sites have, in turns: a move of all matrices, scales and
    shifts; an exchange of two units; an exchange of two heads; the flip of one sign. The last three happen at one of
    its sites (exchanges of heads at all of its tie); where every head is chosen by itself, in every head.

    Args:
        spec: the symmetry.
        factors: what is chosen; sites of none stay as they are.
        seed: 64-bit seed.
        number: of the step.
        sizes: of the moves, one per choice of every factor: standard deviation of logarithms of scales and of shifts,
            and half the typical spectral norm of the logarithm of a matrix.

    Returns:
        the element, and for every choice whether it was a move, whose size matters.
    """
    sites = {name: group.identity(1) for name, group in spec.sites.items()}
    moves = np.zeros(len(sizes), dtype=bool)
    column = 0
    for factor in factors:
        part = slice(column, column + factor.choices)
        column += factor.choices
        kinds: dict[str, list[str]] = {}
        for site in factor.sites:
            for kind in _kinds(spec.sites[site]):
                kinds.setdefault(kind, []).append(site)
        if not kinds:
            continue
        kind, able = list(kinds.items())[number % len(kinds)]
        moves[part] = kind == MOVE
        draws = _Draws(seed, LAST - number, _index(spec, factor.sites[0]))
        if kind != MOVE:
            able = _one(spec, able, able[draws.below(len(able))], kind)
        for site in able:
            group = spec.sites[site]
            index = spec.head_sites[_index(spec, site)] if kind == HEADS else _index(spec, site)
            draws = _Draws(seed, LAST - number, index)
            if kind == MOVE:
                sites[site] = _move(draws, group, np.broadcast_to(sizes[part], group.heads))
            else:
                sites[site] = _change(draws, kind, group, sites[site], factor.choices)
    return Elements(sites, 1), moves


def _index(spec: SymmetrySpec, site: str) -> int:
    return list(spec.sites).index(site)


def _one(spec: SymmetrySpec, able: list[str], site: str, kind: str) -> list[str]:
    """The site at which a change happens; all of its tie, where heads are exchanged."""
    tie = spec.sites[site].tie if kind == HEADS else ""
    return [other for other in able if spec.sites[other].tie == tie] if tie else [site]


def _kinds(group: Group) -> list[str]:
    present = {
        MOVE: group.dimension > 0,
        UNITS: group.permute_units and group.head_size > 1,
        HEADS: group.permute_heads and group.heads > 1,
        SIGN: group.signed,
    }
    return [kind for kind, has in present.items() if has]


@dataclass
class _Draws:
    """Random numbers of one site in one step."""

    seed: int
    sample: int
    site: int
    taken: int = 0

    def normals(self, part: str, count: int) -> Array:
        """Standard normals."""
        return np.asarray(normals(self._words(part, 2 * -(-count // 2)))[:count])

    def below(self, n: int) -> int:
        """An integer below n; another one with each call."""
        self.taken += 1
        return min(n - 1, int(n * uniforms(self._words("permutation", self.taken))[-1]))

    def _words(self, part: str, count: int) -> Array:
        return np.asarray(words(self.seed, np.array([self.sample], np.uint64), self.site, part, count)[0])


def _change(draws: _Draws, kind: str, group: Group, one: SiteElements, choices: int) -> SiteElements:
    """Two units, or two heads, exchanged, or one sign flipped: once, or in every head."""
    m = group.head_size
    if kind == HEADS:
        first, second = _pair(draws, group.heads)
        heads = np.arange(group.heads)
        heads[[first, second]] = second, first
        assert one.perm is not None
        return replace(one, perm=one.perm.reshape(1, group.heads, m)[:, heads].reshape(1, -1))
    perm = None if one.perm is None else one.perm.copy()
    sign = None if one.sign is None else one.sign.copy()
    for head in range(group.heads) if choices > 1 else [draws.below(group.heads)]:
        if kind == SIGN and sign is not None:
            sign[0, head * m + draws.below(m)] = -1
        elif perm is not None:
            first, second = (head * m + unit for unit in _pair(draws, m))
            perm[0, [first, second]] = second, first
    return replace(one, perm=perm, sign=sign)


def _pair(draws: _Draws, n: int) -> tuple[int, int]:
    first, second = draws.below(n), draws.below(n - 1)
    return first, second + (second >= first)


def _move(draws: _Draws, group: Group, size: Array) -> SiteElements:
    """Matrices, scales and shifts near the identity's; ``size`` one per head."""
    one = group.identity(1)
    units = np.repeat(size, group.head_size)
    scale = matrix = inverse = shift = None
    if group.scaled:
        scale = np.exp(units * draws.normals("scale", group.size))[None]
    if one.matrix is not None:
        m = group.head_size
        numbers = draws.normals("matrix", group.heads * m * m).reshape(group.heads, m, m)
        unit = group.unit_group
        generator = size[:, None, None] * _generator(unit.group if isinstance(unit, Affine) else unit, numbers)
        shape = one.matrix.shape
        matrix, inverse = expm(generator).reshape(shape), expm(-generator).reshape(shape)
    if group.shifted:
        shift = (units * draws.normals("shift", group.size))[None]
    return replace(one, scale=scale, matrix=matrix, inverse=inverse, shift=shift)


def _generator(group: Group, numbers: Array) -> Array:
    """Elements of the Lie algebra of a dense group, spectral norm about 2, from normals ``(heads, m, m)``."""
    m = numbers.shape[-1]
    general = numbers / np.sqrt(m)
    if isinstance(group, Orthogonal):
        if group.keeps_mean:
            general = general - general.mean(axis=-1, keepdims=True)
            general = general - general.mean(axis=-2, keepdims=True)
        return np.asarray((general - np.swapaxes(general, -1, -2)) / np.sqrt(2.0))
    if isinstance(group, SpecialLinear):
        trace = np.trace(general, axis1=-2, axis2=-1)
        return np.asarray(general - trace[:, None, None] / m * np.eye(m))
    if isinstance(group, RotaryCommutant):
        result = np.zeros_like(numbers)
        for i, j in group.pairs:
            result[:, i, i] = result[:, j, j] = numbers[:, i, i]
            result[:, j, i] = numbers[:, i, j]
            result[:, i, j] = -numbers[:, i, j]
        rest = slice(m - group.free, m)
        result[:, rest, rest] = numbers[:, rest, rest] / np.sqrt(max(group.free, 1))
        return result
    return np.asarray(general)
