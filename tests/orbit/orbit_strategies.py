# SPDX-License-Identifier: MIT
"""Random networks for property tests: any groups, legs, segments, repetitions and powers, any storage types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from orbit_cases import COUNTS, Params, cast

from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    Scaling,
    Signs,
    SpecialLinear,
    Translation,
)
from nnsym_fast.symmetry import Axis, Leg, Segments, SymmetrySpec


@dataclass(frozen=True)
class Case:
    """A spec, shapes of tensors that fit it, their storage types, and how many elements act."""

    spec: SymmetrySpec
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    count: int
    seed: int

    @property
    def params(self) -> Params:
        rng = np.random.default_rng(self.seed)
        return {name: cast(rng.standard_normal(shape), self.dtypes[name]) for name, shape in self.shapes.items()}


UNITS = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33])
STD = st.just(0.2)  # powers of scales must not leave float16
PLAIN: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, UNITS),
    st.builds(Scaling, UNITS, STD),
    st.builds(Signs, UNITS),
    st.builds(Monomial, UNITS, st.booleans(), st.booleans(), STD),
)
GROUPS: st.SearchStrategy[Group] = st.one_of(PLAIN, st.builds(Heads, st.integers(1, 3), PLAIN, st.booleans()))
POWERS = [-1.0, 0.0, 1.0, 1.0, 2.0, 3.0]
LARGEST = 20_000
# float64 beside 16 bits is refused.
STORAGE_TYPES = (["float32", "bfloat16", "float16"], ["float64"], ["float64", "float32"])


@st.composite
def cases(draw: st.DrawFn, *storage: list[str]) -> Case:
    """``storage``: sets of storage types that may stand side by side; by default all."""
    sites = {f"s{i}": draw(GROUPS) for i in range(draw(st.integers(1, 3)))}

    def leg() -> Leg:
        site = draw(st.sampled_from(list(sites)))
        powers = POWERS + ([] if sites[site].signed else [0.5, -2.5])
        return Leg(
            site, draw(st.booleans()), draw(st.sampled_from(powers)), draw(st.sampled_from([1, 1, 2, 3, 31, 33]))
        )

    def axis() -> Axis:
        kind = draw(st.sampled_from(["none", "leg", "leg", "segments"]))
        if kind == "none":
            return None
        if kind == "leg":
            return leg()
        legs = [leg() for _ in range(draw(st.integers(1, 2)))]
        parts: list[tuple[int, Leg | None]] = [(sites[part.site].size * part.repeat, part) for part in legs]
        return Segments(tuple(draw(st.permutations([*parts, (draw(st.integers(1, 3)), None)]))))

    axes: dict[str, tuple[Axis, ...]] = {f"w.{site}": (Leg(site), Leg(site, dual=True)) for site in sites}
    free = {}
    for i in range(3):
        name, rank = f"t{i}", draw(st.integers(0, 4))
        axes[name] = tuple(axis() for _ in range(rank))
        free[name] = [draw(st.sampled_from([0, 1, 1, 2, 5, 9, 31, 32, 33])) for _ in range(rank)]
    bare = SymmetrySpec(sites, axes)
    shapes = {
        name: tuple(bare.axis_length(a) or extent for a, extent in zip(axes[name], free.get(name, [0, 0]), strict=True))
        for name in axes
    }
    kept = {name: shape for name, shape in shapes.items() if np.prod(shape) <= LARGEST or name.startswith("w.")}
    spec = SymmetrySpec(sites, {name: axes[name] for name in kept})
    allowed = draw(st.sampled_from(storage or STORAGE_TYPES))
    dtypes = {name: draw(st.sampled_from(allowed)) for name in kept}
    return Case(spec, kept, dtypes, draw(st.sampled_from(COUNTS)), draw(st.integers(0, 2**63)))


# --- dense groups


@st.composite
def linear_groups(draw: st.DrawFn, sizes: tuple[int, ...]) -> Group:
    n = draw(st.sampled_from(sizes))
    kind = draw(st.sampled_from(["orthogonal", "mean", "special", "general", "rotary"]))
    if kind in ("orthogonal", "mean"):
        return Orthogonal(n, keeps_mean=kind == "mean")
    if kind == "rotary" and n > 1:
        rotary = 2 * draw(st.integers(1, n // 2))
        return RotaryCommutant(n, draw(st.sampled_from(["half", "interleaved"])), rotary, 0.2)
    return (SpecialLinear if kind == "special" else GeneralLinear)(n, 0.2)


DENSE_UNITS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 40, 48)
HEAD_UNITS = (1, 2, 3, 4, 5, 8, 9, 16, 17)


def dense_groups(sizes: tuple[int, ...]) -> st.SearchStrategy[Group]:
    return st.one_of(linear_groups(sizes), st.builds(Affine, linear_groups(sizes)))


DENSE: st.SearchStrategy[Group] = st.one_of(
    dense_groups(DENSE_UNITS),
    st.builds(Heads, st.integers(1, 4), dense_groups(HEAD_UNITS), st.booleans()),
    st.builds(Translation, UNITS),
)


@st.composite
def attention_sites(draw: st.DrawFn) -> tuple[dict[str, Group], int]:
    """Tied sites "qk", "vo", and "q", which moves the copies of their heads; the number of copies."""
    heads, copies = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    tie = draw(st.sampled_from(["", "tie"]))
    sites: dict[str, Group] = {
        name: Heads(heads, draw(dense_groups(HEAD_UNITS)), bool(tie), tie) for name in ("qk", "vo")
    }
    return sites | {"q": Heads(heads, Permutation(copies), bool(tie), tie)}, copies


@st.composite
def dense_cases(draw: st.DrawFn, *storage: list[str]) -> Case:
    """Networks in which at least one tensor has a dense leg; legs of all other kinds on its other axes."""
    sites, query_copies = draw(st.one_of(st.just(({}, 1)), attention_sites()))
    if not sites:
        sites["d"] = draw(DENSE)
    sites |= {f"s{i}": draw(st.one_of(DENSE, GROUPS)) for i in range(draw(st.integers(0, 2)))}

    def leg(alone: bool) -> Leg:
        site = draw(st.sampled_from(list(sites)))
        group, dual = sites[site], draw(st.booleans())
        if alone and group.shifted and draw(st.booleans()):
            return Leg(site, affine=True)
        repeat = draw(st.sampled_from([1, 1, 1, 2, 3, 31]))
        if not group.dense:
            powers = [1.0] if group.shifted else POWERS + ([] if group.signed else [0.5])
            return Leg(site, dual, draw(st.sampled_from(powers)), repeat)
        if site in ("qk", "vo") and draw(st.booleans()):
            return Leg(site, dual, 1.0, repeat, query_copies, "q")
        return Leg(site, dual, 1.0, repeat, draw(st.sampled_from([1, 1, 2, 3])))

    def length(part: Leg) -> int:
        return sites[part.site].size * part.repeat * part.copies

    def axis(alone: bool) -> Axis:
        kind = draw(st.sampled_from(["none", "leg", "leg", "segments"]))
        if kind == "none":
            return None
        if kind == "leg":
            return leg(alone)
        legs = [leg(alone) for _ in range(draw(st.integers(1, 3)))]
        parts: list[tuple[int, Leg | None]] = [(length(part), part) for part in legs]
        return Segments(tuple(draw(st.permutations([*parts, (draw(st.integers(1, 3)), None)]))))

    uses: dict[str, tuple[Axis, ...]] = {f"w.{site}": (Leg(site), Leg(site, dual=True)) for site in sites}
    uses |= {f"b.{site}": (Leg(site, affine=True),) for site, group in sites.items() if group.shifted}
    axes = dict(uses)
    free = {}
    for i in range(3):
        name, rank = f"t{i}", draw(st.integers(1, 4))
        axes[name] = tuple(axis(rank == 1) for _ in range(rank))
        free[name] = [draw(st.sampled_from([0, 1, 1, 2, 5, 9, 16, 33])) for _ in range(rank)]
    bare = SymmetrySpec(sites, axes)
    shapes = {
        name: tuple(
            bare.axis_length(axis) or extent
            for axis, extent in zip(axes[name], free.get(name, [0] * len(axes[name])), strict=True)
        )
        for name in axes
    }
    kept = {name: shape for name, shape in shapes.items() if np.prod(shape) <= LARGEST or name in uses}
    spec = SymmetrySpec(sites, {name: axes[name] for name in kept})
    allowed = draw(st.sampled_from(storage or STORAGE_TYPES))
    dtypes = {name: draw(st.sampled_from(allowed)) for name in kept}
    return Case(spec, kept, dtypes, draw(st.sampled_from([1, 2, 3, 5, 8])), draw(st.integers(0, 2**63)))
