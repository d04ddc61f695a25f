# SPDX-License-Identifier: MIT
"""The orbit as a sequence: indices, slices, batches, threads, and the words of every error."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_cases import COUNT, DTYPES, ORBIT, PARAMS, POINTS, SPEC, assert_same_bits, bits, mlp, stacked, wrong

import nnsym_fast as nf
from nnsym_fast import reference

# --- a sequence


def test_points_are_the_reference_to_rounding() -> None:
    expected = reference.orbit_points(PARAMS, SPEC, 1, 0, COUNT)
    for name, array in ORBIT[:].items():
        assert array.dtype == PARAMS[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-5)


@pytest.mark.parametrize("index", [0, 7, COUNT - 1, -1, -COUNT])
@pytest.mark.parametrize("kind", [int, np.int8, np.int64, np.array])
def test_indices_are_those_of_a_list(index: int, kind: Callable[[int], Any]) -> None:
    point = ORBIT[kind(index)]
    assert_same_bits(point, POINTS[index])
    assert {name: array.shape for name, array in point.items()} == {name: p.shape for name, p in PARAMS.items()}


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, 10**30, -(10**30)])
def test_indices_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=rf"index: expected -{COUNT} .. {COUNT - 1}, got {index}"):
        ORBIT[index]


@pytest.mark.parametrize("index", [1.0, "1", None, (1, 2), ...])
def test_indices_of_another_type(index: Any) -> None:
    with pytest.raises(TypeError, match=f"index: expected an integer or a slice, got {type(index).__name__}"):
        ORBIT[index]


BOUND = st.none() | st.integers(-COUNT - 5, COUNT + 5)


@given(BOUND, BOUND, st.none() | st.integers(-7, 7).filter(bool))
def test_slices_are_those_of_a_list(start: int | None, stop: int | None, step: int | None) -> None:
    cut = slice(start, stop, step)
    assert_same_bits(ORBIT[cut], stacked(POINTS[cut]))


def test_slices_of_another_type() -> None:
    with pytest.raises(TypeError, match="slice indices must be integers"):
        ORBIT[wrong(0.5) :]
    with pytest.raises(ValueError, match="slice step cannot be zero"):
        ORBIT[::0]


def test_it_is_a_sequence() -> None:
    assert isinstance(ORBIT, Sequence)
    assert len(ORBIT) == COUNT
    assert len(list(ORBIT)) == COUNT
    for ours, theirs in zip(ORBIT, POINTS, strict=True):
        assert_same_bits(ours, theirs)
    for ours, theirs in zip(reversed(ORBIT), reversed(POINTS), strict=True):
        assert_same_bits(ours, theirs)


def test_an_orbit_of_no_points_or_one() -> None:
    empty = nf.Orbit(PARAMS, SPEC, samples=0)
    assert (len(empty), list(empty)) == (0, [])
    assert empty[:]["0.weight"].shape == (0, 5, 3)
    with pytest.raises(IndexError):
        empty[0]
    assert len(list(nf.Orbit(PARAMS, SPEC, samples=1))) == 1


def test_the_default_length_is_the_longest() -> None:
    orbit = nf.Orbit(PARAMS, SPEC, seed=1)
    assert len(orbit) == sys.maxsize
    assert_same_bits(orbit[3], POINTS[3])
    assert_same_bits(orbit[-1], orbit[sys.maxsize - 1])
    assert_same_bits(orbit[-3:], {n: np.stack([orbit[i][n] for i in (-3, -2, -1)]) for n in PARAMS})
    far = orbit[:: -(sys.maxsize // 2)]
    assert_same_bits(
        far, {n: np.stack([orbit[i][n] for i in range(sys.maxsize - 1, -1, -(sys.maxsize // 2))]) for n in far}
    )
    for ours, theirs in zip(islice(orbit, COUNT), POINTS, strict=True):
        assert_same_bits(ours, theirs)
    with pytest.raises(MemoryError, match="no memory for a result of shape"):
        orbit[:]


def test_a_point_depends_on_seed_and_index_alone() -> None:
    longer = nf.Orbit(PARAMS, SPEC, seed=1, samples=10**6)
    assert_same_bits(longer[7], POINTS[7])
    other = nf.Orbit(PARAMS, SPEC, seed=2)
    assert not np.array_equal(other[7]["0.weight"], POINTS[7]["0.weight"])
    assert not np.array_equal(POINTS[8]["0.weight"], POINTS[7]["0.weight"])
    largest = nf.Orbit(PARAMS, SPEC, seed=2**64 - 1)
    expected = reference.orbit_points(PARAMS, SPEC, 2**64 - 1, 2**63 - 2, 2**63 - 1)
    np.testing.assert_allclose(largest[-1]["0.weight"], expected["0.weight"][0], rtol=1e-5)


def test_points_do_not_share_memory() -> None:
    a, b = ORBIT[3], ORBIT[3]
    for name in PARAMS:
        assert not np.shares_memory(a[name], b[name])
        assert not np.shares_memory(a[name], PARAMS[name])
        a[name][...] = 0
    assert_same_bits(ORBIT[3], b)


def test_attributes_and_repr() -> None:
    assert ORBIT.spec is SPEC
    assert ORBIT.seed == 1
    assert_same_bits(ORBIT.params, PARAMS)
    ORBIT.params.clear()
    assert list(ORBIT.params) == list(PARAMS), "the property hands out a copy"
    assert repr(ORBIT) == f"Orbit({SPEC!r}, seed=1, 20 points)"


def test_an_orbit_survives_pickle() -> None:
    """Worker processes that are not forked get it that way."""
    copy = pickle.loads(pickle.dumps(ORBIT))
    assert (len(copy), copy.seed, copy.spec) == (COUNT, 1, SPEC)
    assert_same_bits(copy[:], ORBIT[:])


# --- elements


@pytest.mark.parametrize("dtype", DTYPES)
def test_acting_with_the_elements_gives_the_points(dtype: str) -> None:
    spec, params = mlp([3, 40, 9, 2], dtype, activation="tanh")
    orbit = nf.Orbit(params, spec, seed=4)
    elements = orbit.elements(5, 25)
    assert elements.count == 20
    assert_same_bits(nf.act(spec, elements, params), orbit[5:25])
    sampled = spec.sample(20, seed=4, start=5, dtype="float64" if dtype == "float64" else "float32")
    assert_same_bits(nf.act(spec, sampled, params), orbit[5:25])
    assert orbit.elements(7, 7).count == 0


@pytest.mark.parametrize("method", ["points", "elements"])
@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, COUNT + 1), (COUNT + 1, COUNT + 1)])
def test_ranges_are_checked(method: str, start: int, stop: int) -> None:
    message = f"points {start} to {stop}: expected 0 <= start <= stop <= {COUNT}"
    with pytest.raises(IndexError, match=message):
        getattr(ORBIT, method)(start, stop)
    with pytest.raises(TypeError, match=r"start: expected an integer, got 0.5 of type float"):
        getattr(ORBIT, method)(0.5, 3)
    with pytest.raises(TypeError, match="stop: expected an integer, got '3' of type str"):
        getattr(ORBIT, method)(0, "3")


# --- batches


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 20, 50])
def test_batches_cover_the_orbit(size: int, reuse: bool) -> None:
    first = 0
    for batch in ORBIT.batches(size, reuse=reuse):
        count = min(size, COUNT - first)
        assert_same_bits(batch, stacked(POINTS[first : first + count]))
        first += count
    assert first == COUNT


def test_batches_of_a_range() -> None:
    lengths = [len(batch["0.bias"]) for batch in ORBIT.batches(4, start=3, stop=13)]
    assert lengths == [4, 4, 2]
    assert list(ORBIT.batches(4, start=5, stop=5)) == []
    (batch,) = ORBIT.batches(4, start=18)
    assert_same_bits(batch, stacked(POINTS[18:]))


def test_batches_reuse_their_buffers_unless_asked_not_to() -> None:
    reused = list(ORBIT.batches(8))
    assert all(np.shares_memory(reused[0][name], batch[name]) for batch in reused for name in PARAMS)
    assert_same_bits({n: array[:4] for n, array in reused[0].items()}, stacked(POINTS[16:]))
    kept = list(ORBIT.batches(8, reuse=False))
    assert not any(np.shares_memory(kept[0][name], batch[name]) for batch in kept[1:] for name in PARAMS)
    assert_same_bits(kept[0], stacked(POINTS[:8]))


def test_a_consumer_may_empty_its_batch() -> None:
    for batch in ORBIT.batches(8):
        batch.clear()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0,), {}, ValueError, "size: expected at least 1 point per batch, got 0"),
        ((-1,), {}, ValueError, "size: expected an integer >= 0, got -1"),
        ((2.0,), {}, TypeError, "size: expected an integer, got 2.0 of type float"),
        ((2,), {"start": 5, "stop": 4}, IndexError, "points 5 to 4: expected 0 <= start <= stop <= 20"),
        ((2,), {"stop": 21}, IndexError, "points 0 to 21"),
    ],
)
def test_wrong_batches_raise_at_once(
    arguments: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ORBIT.batches(*arguments, **options)


# --- what an orbit is made of


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**PARAMS, name: value}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nf.Orbit(wrong(SPEC), wrong(PARAMS)), TypeError, "spec: expected a SymmetrySpec, got dict"),
        (lambda: nf.Orbit(wrong([1]), SPEC), TypeError, "params: expected a mapping tensor name -> array, got list"),
        (lambda: nf.Orbit({}, SPEC), ValueError, "tensor '0.weight': in the spec but missing from params"),
        (lambda: nf.Orbit(changed("x", np.ones(3)), SPEC), ValueError, "tensor 'x': no legs in the spec; if nothing"),
        (lambda: nf.Orbit(changed("0.bias", np.ones(4)), SPEC), ValueError, r"tensor '0.bias' of shape \(4,\), axis 0"),
        (lambda: nf.Orbit(changed("0.bias", np.ones((5, 1))), SPEC), ValueError, "tensor '0.bias': expected 1 axes"),
        (
            lambda: nf.Orbit(changed("0.bias", np.ones(5, int)), SPEC),
            TypeError,
            "'0.bias': expected one of float32, .*int64",
        ),
        (
            lambda: nf.Orbit(changed("0.bias", np.ones(5, complex)), SPEC),
            TypeError,
            "expected one of .* got complex128",
        ),
        (
            lambda: nf.Orbit(changed("0.bias", np.ones(5, np.longdouble)), SPEC),
            TypeError,
            "expected one of .* got longd|float128",
        ),
        (lambda: nf.Orbit(changed("0.bias", ["a"] * 5), SPEC), TypeError, "'0.bias': expected one of .* got str"),
        (
            lambda: nf.Orbit(changed("2.bias", [{}, 1]), SPEC),
            TypeError,
            "'2.bias': expected a numeric array, got dtype obj",
        ),
        (
            lambda: nf.Orbit(changed("2.bias", np.zeros(2, "f4,i4")), SPEC),
            TypeError,
            "'2.bias': expected a numeric array",
        ),
        (
            lambda: nf.Orbit({**mlp([3, 5, 2], "float64")[1], "0.bias": np.ones(5, np.float16)}, SPEC),
            TypeError,
            "tensor '0.bias': float16 storage beside float64 tensors is not supported; convert the float64 tensors",
        ),
        (lambda: nf.Orbit(PARAMS, SPEC, seed=-1), ValueError, "seed: expected an integer >= 0, got -1"),
        (lambda: nf.Orbit(PARAMS, SPEC, seed=2**64), ValueError, r"seed: expected an integer below 2\^64"),
        (
            lambda: nf.Orbit(PARAMS, SPEC, seed=wrong(1.0)),
            TypeError,
            "seed: expected an integer, got 1.0 of type float",
        ),
        (lambda: nf.Orbit(PARAMS, SPEC, samples=-1), ValueError, "samples: expected an integer >= 0, got -1"),
        (
            lambda: nf.Orbit(PARAMS, SPEC, samples=2**63),
            ValueError,
            "samples: expected at most 9223372036854775807, got",
        ),
    ],
)
def test_wrong_networks(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_whatever_converts_to_an_array() -> None:
    lists = {name: array.astype(float).tolist() for name, array in PARAMS.items()}
    points = nf.Orbit(lists, SPEC)[0:3]
    assert all(type(array) is np.ndarray and array.dtype == np.float64 for array in points.values())
    wide = {name: array.astype(float) for name, array in PARAMS.items()}
    assert_same_bits(points, nf.Orbit(wide, SPEC)[0:3])


# --- threads


def test_many_python_threads_on_one_orbit() -> None:
    """The kernel releases the GIL; calls at once neither mix their workspaces nor wait for each other."""
    spec, params = mlp([16, 60, 70, 5])
    orbit = nf.Orbit(params, spec, seed=1)
    expected = orbit[0:64]

    def work(job: int) -> bool:
        start = job % 48
        if job % 3 == 0:
            points, count = orbit[start : start + 16], 16
        elif job % 3 == 1:
            points, count = {name: array[None] for name, array in orbit[start].items()}, 1
        else:
            points, count = nf.act(spec, orbit.elements(start, start + 9), params), 9
        return all(np.array_equal(bits(points[n]), bits(expected[n][start : start + count])) for n in params)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(240)))
