# SPDX-License-Identifier: MIT
"""A point with dense legs has the same bits on every path to it; buffers, names and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from orbit_cases import DTYPES, Params, assert_same_bits, cast, repeated

import nnsym_fast as nf
from nnsym_fast import _dense
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
)
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

Array = npt.NDArray[Any]

# Dense legs in one pass and in two, staged behind other legs, copies, shifts; tensors without dense legs, free ones.
QUERY = Leg("qk", dual=True, copies=2, order="q")
SPEC = SymmetrySpec(
    {
        "mlp": Monomial(19, scale_std=0.2),
        "qk": Heads(3, Affine(RotaryCommutant(6, rotary=4, scale_std=0.2)), tie="a"),
        "vo": Heads(3, GeneralLinear(5, 0.2), tie="a"),
        "q": Heads(3, Permutation(2), tie="a"),
        "residual": Orthogonal(24),
    },
    {
        "up": ("mlp", "residual*"),
        "up.bias": ("mlp",),
        "down": ("residual", "mlp*"),
        "q.weight": (QUERY, "residual*"),
        "k": ("qk", "residual*"),
        "k.bias": ("qk+",),
        "v": ("vo", "residual*"),
        "o": ("residual", Leg("vo", dual=True, copies=2, order="q")),
        "qkv.bias": (Segments(((36, QUERY), (18, Leg("qk", affine=True)), (15, Leg("vo")))),),
        "gate": ("mlp", "mlp*"),
        "table": (None, None),
        "steps": (),
    },
)


def params_of(spec: SymmetrySpec, dtype: str, free: int = 5) -> Params:
    rng = np.random.default_rng(0)
    params = {
        name: cast(rng.standard_normal([spec.axis_length(axis) or free for axis in axes]), dtype)
        for name, axes in spec.legs.items()
    }
    return params | ({"steps": np.array(7)} if "steps" in params else {})


def stack(points: list[Params]) -> Params:
    return {name: np.stack([point[name] for point in points]) for name in points[0]}


def join(batches: list[Params]) -> Params:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def shifted(count: int, like: Array) -> Array:
    """A buffer whose first entry is the second of an aligned array."""
    size = count * like.size
    return np.empty(size + 1, like.dtype)[1:].reshape(count, *like.shape)


def paths(spec: SymmetrySpec, params: Params, count: int, threads: Callable[[int], None]) -> dict[str, Params]:
    """Points 0 .. count - 1 of one orbit, by every path that leads to them."""
    orbit = nf.Orbit(params, spec, seed=3)
    threads(1)
    result = {"one by one": stack([orbit[i] for i in range(count)]), "one thread": orbit[0:count]}
    threads(2)
    result["two threads"] = orbit[0:count]
    for size in (3, 8, 16, 17):
        result[f"chunks of {size}"] = join([dict(batch) for batch in orbit.batches(size, stop=count, reuse=False)])
    result["reused buffers"] = join(
        [{name: array.copy() for name, array in batch.items()} for batch in orbit.batches(7, stop=count)]
    )
    result["backwards"] = {name: array[::-1] for name, array in orbit[count - 1 :: -1].items()}
    odd, even = orbit[1:count:2], orbit[0:count:2]
    result["every second"] = stack([{n: (even, odd)[i % 2][n][i // 2] for n in params} for i in range(count)])
    elements = orbit.elements(0, count)
    result["act"] = nf.act(spec, elements, params)
    result["act in chunks"] = join([nf.act(spec, elements.take(i, i + 5), params) for i in range(0, count, 5)])
    result["stacked"] = nf.act(spec, elements, repeated(params, count), stacked=True)
    result["augment"] = nf.augment(repeated(params, count), spec, seed=3)
    result["buffers off the cache line"] = orbit.points(
        0, count, out={name: shifted(count, array) for name, array in params.items()}
    )
    result["larger buffers"] = orbit.points(0, count, out=orbit[5 : 2 * count])
    result["act into buffers"] = nf.act(spec, elements, params, out=orbit[0 : count + 1])
    one_by_one = [orbit.points(0, count, names=[name]) for name in params]
    result["tensor by tensor"] = {name: part[name] for name, part in zip(params, one_by_one, strict=True)}
    result["shared"] = {name: np.array(array) for name, array in orbit.points(0, count, share=True).items()}
    return result


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_paths_give_the_same_bits(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    points = paths(SPEC, params_of(SPEC, dtype), 33, threads)
    for name, other in points.items():
        assert_same_bits(other, points["one by one"], name)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_all_paths_through_the_blas_give_the_same_bits(
    dtype: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dense, "LARGEST", 4)
    points = paths(SPEC, params_of(SPEC, dtype), 9, threads)
    for name, other in points.items():
        assert_same_bits(other, points["one by one"], name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_points_of_large_networks(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    """Points larger than a task, and so large that a call holds the elements of one sample at a time."""
    spec = SymmetrySpec(
        {"r": Orthogonal(192), "h": Heads(24, GeneralLinear(64, 0.1))},
        {"w": ("r", "r*"), "v": ("h", "r*"), "o": ("r", "h*"), "e": (None, "r")},
    )
    params = params_of(spec, dtype, 700)
    orbit = nf.Orbit(params, spec, seed=3)
    count = 5
    single = stack([orbit[i] for i in range(count)])
    networks = {name: np.stack([np.roll(w, k) for k in range(count)]) for name, w in params.items()}
    elements = orbit.elements(0, count)
    stacked = join(
        [
            nf.act(spec, elements.take(k, k + 1), {n: w[k : k + 1] for n, w in networks.items()}, stacked=True)
            for k in range(count)
        ]
    )
    for number in (1, 2):
        threads(number)
        assert_same_bits(orbit[0:count], single)
        assert_same_bits(nf.act(spec, elements, params), single)
        assert_same_bits(nf.act(spec, elements, networks, stacked=True), stacked)
        assert_same_bits(nf.augment(networks, spec, seed=3), stacked)


@pytest.mark.parametrize("dtype", DTYPES)
def test_streaming_stores_change_no_bit(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    """A result that exceeds the cache against the same points in small pieces, with one thread and with two."""
    params = params_of(SPEC, dtype, free=11)
    nbytes = sum(array.nbytes for array in params.values())
    count = (20 << 20) // nbytes
    orbit = nf.Orbit(params, SPEC, seed=3)
    pieces = join([dict(batch) for batch in orbit.batches(count // 7, stop=count, reuse=False)])
    for number in (1, 2):
        threads(number)
        assert_same_bits(orbit[0:count], pieces)


def test_threads_of_threads(threads: Callable[[int], None]) -> None:
    """Several callers at once, each with more threads than cores, of one orbit and of different ones."""
    orbits = [nf.Orbit(params_of(SPEC, dtype), SPEC, seed=1) for dtype in ("float32", "float64")]
    threads(1)
    expected = [orbit[0:40] for orbit in orbits]
    threads(5)
    results: list[tuple[int, Params]] = []
    workers = [
        threading.Thread(target=lambda which=which: results.append((which, orbits[which][0:40])))  # type: ignore[misc]
        for which in (0, 1, 0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for which, points in results:
        assert_same_bits(points, expected[which])


def test_instruction_sets_agree() -> None:
    """Of matrices and points, to a few roundings: each against the first."""
    params = params_of(SPEC, "float64")
    results = []
    before = nf._native.cpu.isa()
    for name in nf._native.cpu.isas():
        nf._native.cpu.select_isa(name)
        results.append(nf.Orbit(params, SPEC)[0:20])
    nf._native.cpu.select_isa(before)
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-12, atol=1e-12 * np.abs(array).max())


def test_other_seeds_and_indices_are_other_points() -> None:
    """Negative control: what the paths above agree on does depend on seed and index."""
    params = params_of(SPEC, "float32")
    one, other = nf.Orbit(params, SPEC, seed=3)[0:2], nf.Orbit(params, SPEC, seed=4)[0:2]
    for name in params:
        if SPEC.touched(name):
            assert not np.array_equal(one[name][0], one[name][1]), name
            assert not np.array_equal(one[name][0], other[name][0]), name
        else:
            assert np.array_equal(one[name][0], params[name])


def test_names_choose_tensors() -> None:
    params = params_of(SPEC, "float32")
    orbit = nf.Orbit(params, SPEC, seed=1)
    whole = orbit[4:9]
    for names in (["k.bias"], {"o", "table"}, ("steps",), iter(["up", "q.weight"]), []):
        wanted = names if not hasattr(names, "__next__") else ["up", "q.weight"]
        part = orbit.points(4, 9, names=names)
        assert list(part) == [name for name in params if name in wanted]
        for name, array in part.items():
            np.testing.assert_array_equal(array, whole[name])
    again = orbit.points(4, 9, names=["k"], out={"k": np.empty((5, 18, 24), np.float32)})
    np.testing.assert_array_equal(again["k"], whole["k"])
    with pytest.raises(ValueError, match=r"names: expected tensors of the network, got \['queries'\]"):
        orbit.points(0, 1, names=["k", "queries"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_are_overwritten(dtype: str) -> None:
    """Whatever they held."""
    params = params_of(SPEC, dtype)
    orbit = nf.Orbit(params, SPEC)
    expected = orbit[0:9]
    buffers = {name: np.full((9, *array.shape), 99, array.dtype) for name, array in params.items()}
    if dtype != "bfloat16":
        for name, buffer in buffers.items():
            if name != "steps":
                buffer[...] = np.nan
    points = orbit.points(0, 9, out=buffers)
    assert_same_bits(points, expected)
    assert all(np.shares_memory(points[name], buffers[name]) for name in params)
    inside = nf.Orbit({**params, "k": buffers["k"][2]}, SPEC)
    with pytest.raises(ValueError, match="overlaps tensor 'k' of params"):
        inside.points(0, 9, out=buffers)
