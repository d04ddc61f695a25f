# SPDX-License-Identifier: MIT
"""A point has the same bits on every path to it: chunks, threads, buffers, streaming stores, act and augment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tolerances
from orbit_cases import DTYPES, Params, assert_rounded, assert_same_bits, cast, mlp, repeated
from tolerances import ARITHMETIC

import nnsym_fast as nf
from nnsym_fast import reference
from nnsym_fast.groups import Monomial, Permutation, Scaling
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

Array = npt.NDArray[Any]


def paths(spec: SymmetrySpec, params: Params, count: int, threads: Callable[[int], None]) -> dict[str, Params]:
    """Points 0 .. count - 1 of one orbit, by every path that leads to them."""
    orbit = nf.Orbit(params, spec, seed=3)
    threads(1)
    result = {"one by one": stack([orbit[i] for i in range(count)]), "one thread": orbit[0:count]}
    threads(2)
    result["two threads"] = orbit[0:count]
    for size in (2, 3, 7, 8, 16, 17):
        result[f"chunks of {size}"] = join([dict(batch) for batch in orbit.batches(size, stop=count, reuse=False)])
    result["backwards"] = {name: array[::-1] for name, array in orbit[count - 1 :: -1].items()}
    odd, even = orbit[1:count:2], orbit[0:count:2]
    result["every second"] = stack([{n: (even, odd)[i % 2][n][i // 2] for n in params} for i in range(count)])
    elements = orbit.elements(0, count)
    result["act"] = nf.act(spec, elements, params)
    result["act in chunks"] = join(
        [nf.act(spec, elements.take(start, start + 5), params) for start in range(0, count, 5)]
    )
    result["stacked"] = nf.act(spec, elements, repeated(params, count), stacked=True)
    result["augment"] = nf.augment(repeated(params, count), spec, seed=3)
    buffers = {name: shifted(count, array) for name, array in params.items()}
    result["buffers off the cache line"] = orbit.points(0, count, out=buffers)
    return result


def shifted(count: int, like: Array) -> Array:
    """A buffer whose first entry is the second of an aligned array."""
    size = count * like.size
    return np.empty(size + 1, like.dtype)[1:].reshape(count, *like.shape)


def stack(points: list[Params]) -> Params:
    return {name: np.stack([point[name] for point in points]) for name in points[0]}


def join(batches: list[Params]) -> Params:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [[2, 5, 3], [9, 33, 70, 4], [3, 250, 120, 7]], ids=str)
def test_all_paths_give_the_same_bits(isa: str, dtype: str, widths: list[int], threads: Callable[[int], None]) -> None:
    spec, params = mlp(widths, dtype)
    points = paths(spec, params, 33, threads)
    for name, other in points.items():
        assert_same_bits(other, points["one by one"], name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_points_of_large_networks(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    """Points larger than a task, and elements so large that a call holds only some of its samples' at once."""
    spec, params = mlp([3, 9000, 3], dtype)
    count = 70
    orbit = nf.Orbit(params, spec, seed=3)
    single = join([orbit[start : start + 5] for start in range(0, count, 5)])
    networks = {name: np.stack([np.roll(w, k) for k in range(count)]) for name, w in params.items()}
    elements = orbit.elements(0, count)
    stacked = join(
        [
            nf.act(spec, elements.take(k, k + 5), {n: w[k : k + 5] for n, w in networks.items()}, stacked=True)
            for k in range(0, count, 5)
        ]
    )
    for number in (1, 2):
        threads(number)
        assert_same_bits(orbit[0:count], single)
        assert_same_bits(nf.act(spec, elements, params), single)
        assert_same_bits(nf.act(spec, elements, networks, stacked=True), stacked)
        assert_same_bits(nf.augment(networks, spec, seed=3), stacked)


STREAMING_BYTES = 16 << 20
"""Results from here on are written past the cache."""

# Aligned rows, rows of whole cache lines, rows of neither; gathered in panels, too wide or too narrow for them; copied.
STREAMED = SymmetrySpec(
    {"a": Monomial(160), "b": Monomial(161, signs=True), "c": Permutation(8200), "d": Scaling(72), "e": Monomial(3)},
    {
        "aligned": ("a", "a*"),
        "unaligned": ("b", "b*"),
        "half": ("b", Segments(((160, Leg("a", dual=True)), (32, None)))),
        "too wide": ("e", "c*"),
        "too narrow": ("a", "e*"),
        "copied": ("a", None),
        "copied and scaled": (None, "d*"),
        "conv": ("e*", "a", None, None),
        "flat": ("d", Leg("e", dual=True, repeat=49)),
        "bias": ("c",),
        "free": (None, None),
    },
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [1, 3], ids=["points", "large points"])
def test_streaming_stores_change_no_bit(isa: str, dtype: str, copies: int, threads: Callable[[int], None]) -> None:
    """A result that exceeds the cache against the same points in small pieces, with one thread and with two."""
    legs = {f"{name} {i}": axes for i in range(copies) for name, axes in STREAMED.legs.items()}
    spec = SymmetrySpec(STREAMED.sites, legs)
    shapes = {"conv": (3, 160, 3, 3), "copied": (160, 77), "copied and scaled": (50, 72), "free": (5, 3)}
    rng = np.random.default_rng(0)
    params = {}
    for name, axes in legs.items():
        shape = shapes.get(name[:-2]) or [spec.axis_length(axis) or 0 for axis in axes]
        params[name] = cast(rng.standard_normal(shape), dtype)
    point = sum(array.nbytes for array in params.values())
    count = STREAMING_BYTES // point + 2
    orbit = nf.Orbit(params, spec, seed=1)
    size = 1 + STREAMING_BYTES // (3 * point)
    pieces = join([orbit[start : min(start + size, count)] for start in range(0, count, size)])
    assert size * point < STREAMING_BYTES
    for number in (1, 2):
        threads(number)
        buffers = {name: shifted(count, array) for name, array in params.items()}
        for streamed in (orbit[0:count], orbit.points(0, count, out=buffers)):
            assert sum(array.nbytes for array in streamed.values()) >= STREAMING_BYTES
            assert_same_bits(streamed, pieces)
    exact = reference.act(
        spec, spec.sample(2, 1, dtype=ARITHMETIC[dtype]), {name: w.astype(np.float64) for name, w in params.items()}
    )
    for name, array in exact.items():
        assert_rounded(pieces[name][:2], array, dtype, tolerances.action(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_streaming_small_networks(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    """Thousands of points of a network that stays in the cache, through buffers and without."""
    spec, params = mlp([8, 48, 33, 4], dtype)
    count = STREAMING_BYTES // sum(array.nbytes for array in params.values()) + 5
    orbit = nf.Orbit(params, spec, seed=1)
    whole = orbit[0:count]
    threads(1)
    again = orbit.points(0, count, out={name: shifted(count, array) for name, array in params.items()})
    assert_same_bits(again, whole)
    for start in (0, 7, count // 2, count - 33):
        small = orbit[start : start + 33]
        assert_same_bits(small, {name: array[start : start + 33] for name, array in whole.items()})
