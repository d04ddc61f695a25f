# SPDX-License-Identifier: MIT
"""Where points go: buffers of the caller, tensors that are shared, memory that is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from orbit_cases import ORBIT, PARAMS, POINTS, SPEC, STATE, STATE_PARAMS, Params, assert_same_bits, mlp, stacked

import nnsym_fast as nf
from nnsym_fast.symmetry import SymmetrySpec

# --- buffers


def test_points_go_into_buffers() -> None:
    buffers = ORBIT.points(0, 10)
    filled = ORBIT.points(4, 12, out=buffers)
    assert_same_bits(filled, stacked(POINTS[4:12]))
    assert all(len(filled[name]) == 8 and np.shares_memory(filled[name], buffers[name]) for name in PARAMS)
    np.testing.assert_array_equal(buffers["0.bias"][8:], stacked(POINTS[8:10])["0.bias"])
    more = {"another": np.empty(3), **buffers}
    assert list(ORBIT.points(0, 2, out=more)) == list(PARAMS)


def buffer(shape: tuple[int, ...] = (4, 5, 3), dtype: str = "float32") -> Params:
    return {**ORBIT.points(0, 4), "0.weight": np.empty(shape, dtype)}


def overlapping() -> Params:
    out = ORBIT.points(0, 4)
    return {**out, "0.bias": out["0.weight"].reshape(-1)[:20].reshape(4, 5)}


def unwritable() -> Params:
    out = buffer()
    out["0.weight"].flags.writeable = False
    return out


def misaligned() -> Params:
    memory = np.empty(4 * 5 * 3 * 4 + 1, np.uint8)[1:]
    return {**buffer(), "0.weight": memory.view(np.float32).reshape(4, 5, 3)}


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([1], TypeError, "out: expected the dict of an earlier call, got list"),
        ({}, ValueError, "out: no buffer for tensor '0.weight'; pass the dict of an earlier call"),
        (buffer((3, 5, 3)), ValueError, r"out\['0.weight'\]: expected shape \(4 or more, 5, 3\), got \(3, 5, 3\)"),
        (buffer((4, 3, 5)), ValueError, r"out\['0.weight'\]: expected shape \(4 or more, 5, 3\), got \(4, 3, 5\)"),
        (buffer((4, 5, 3, 1)), ValueError, r"out\['0.weight'\]: expected shape"),
        (buffer(()), ValueError, r"out\['0.weight'\]: expected shape \(4 or more, 5, 3\), got \(\)"),
        (buffer(dtype="float64"), TypeError, r"out\['0.weight'\]: expected dtype float32, got float64"),
        (buffer(dtype=">f4"), TypeError, r"out\['0.weight'\]: expected dtype float32, got >f4"),
        ({**buffer(), "0.weight": [0]}, TypeError, r"out\['0.weight'\]: expected a NumPy array, got list"),
        (
            {**buffer(), "0.weight": np.empty((4, 5, 6), "f4")[..., ::2]},
            ValueError,
            "expected a writeable, aligned, C-c",
        ),
        (unwritable(), ValueError, r"out\['0.weight'\]: expected a writeable, aligned, C-contiguous array"),
        (misaligned(), ValueError, r"out\['0.weight'\]: expected a writeable, aligned, C-contiguous array"),
        (overlapping(), ValueError, r"out\['0.*'\]: overlaps out\['0.*'\]; pass the dict of an earlier call"),
    ],
)
def test_wrong_buffers(out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ORBIT.points(0, 4, out=out)


def test_buffers_must_not_overlap_the_base_point() -> None:
    """A kernel reads the base point after it has written: results would be wrong, not only the base point."""
    memory = {name: np.repeat(array[None], 3, axis=0) for name, array in PARAMS.items()}
    orbit = nf.Orbit({name: array[1] for name, array in memory.items()}, SPEC)
    with pytest.raises(
        ValueError, match=r"out\['0.weight'\]: overlaps tensor '0.weight' of params; pass other buffers"
    ):
        orbit.points(0, 3, out=memory)
    assert_same_bits(memory, {name: np.repeat(array[None], 3, axis=0) for name, array in PARAMS.items()})
    with pytest.raises(ValueError, match="overlaps tensor"):
        nf.augment(memory, SPEC, seed=0, out=memory)
    with pytest.raises(ValueError, match="overlaps tensor"):
        nf.act(SPEC, SPEC.sample(3), memory, stacked=True, out=memory)


# --- tensors that no leg touches


def test_untouched_tensors_of_any_dtype_are_repeated() -> None:
    orbit = nf.Orbit(STATE_PARAMS, STATE)
    batch = orbit[0:5]
    for name in ("mean", "steps", "none"):
        assert batch[name].dtype == STATE_PARAMS[name].dtype
        np.testing.assert_array_equal(batch[name], np.broadcast_to(STATE_PARAMS[name], (5, *STATE_PARAMS[name].shape)))
        assert not np.shares_memory(batch[name], STATE_PARAMS[name])
    point = orbit[2]
    assert isinstance(point["steps"], np.ndarray)
    assert point["steps"].shape == ()
    assert point["steps"] == 12


def test_untouched_tensors_can_be_shared() -> None:
    orbit = nf.Orbit(STATE_PARAMS, STATE)
    shared, copied = orbit.points(0, 5, share=True), orbit.points(0, 5)
    assert_same_bits(shared, copied)
    assert list(shared) == list(STATE_PARAMS)
    for name in ("mean", "steps"):
        assert np.shares_memory(shared[name], STATE_PARAMS[name])
        assert shared[name].strides[0] == 0
        assert not shared[name].flags.writeable
    assert not np.shares_memory(shared["w"], STATE_PARAMS["w"])
    for batch in orbit.batches(3, stop=7, share=True):
        assert np.shares_memory(batch["mean"], STATE_PARAMS["mean"])
    reused = orbit.points(0, 4, out={"w": np.empty((4, 3, 3))}, share=True)
    assert_same_bits(reused, {name: array[:4] for name, array in copied.items()})


def test_a_network_without_sites() -> None:
    orbit = nf.Orbit({"w": np.eye(2), "flag": np.array(True)}, SymmetrySpec({}, {"w": (None, None), "flag": ()}))
    np.testing.assert_array_equal(orbit[2:5]["w"], np.stack([np.eye(2)] * 3))
    assert orbit[5]["flag"].dtype == bool


# --- memory that is kept


def test_release_memory_leaves_results_alone() -> None:
    spec, params = mlp([64, 256, 10])
    orbit = nf.Orbit(params, spec)
    first = orbit[0:200]
    copy = {name: array.copy() for name, array in first.items()}
    nf.release_memory()
    again = orbit[0:200]
    assert_same_bits(again, copy)
    assert_same_bits(first, copy)
    del again
    nf.release_memory()
    nf.release_memory()
    assert_same_bits(orbit[0:200], copy)


def test_large_results_are_aligned_and_live_on() -> None:
    """Freed results are reused, those in use never: a result of half a gigabyte's worth of slices keeps its numbers."""
    spec, params = mlp([64, 256, 10])
    orbit = nf.Orbit(params, spec)
    held = []
    for start in range(0, 600, 100):
        points = orbit[start : start + 100]
        assert points["0.weight"].ctypes.data % 64 == 0
        held.append((start, points["0.weight"]))
        del points
    for start, weights in held:
        np.testing.assert_array_equal(weights[[0, 99]], [orbit[start]["0.weight"], orbit[start + 99]["0.weight"]])
