# SPDX-License-Identifier: MIT
"""Random networks for property tests: any groups, legs, segments, repetitions and powers, any storage types."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from orbit_cases import COUNTS, Params, cast

from nnsym_fast.groups import Group, Heads, Monomial, Permutation, Scaling, Signs
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
