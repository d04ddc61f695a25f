# SPDX-License-Identifier: MIT
"""The emulation that runs CUDA kernels on the CPU: threads, barriers, warps, memory, and what it refuses.

The kernels are those of csrc/emulation/probe.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nnsym_fast import _device
from nnsym_fast._native import cuda_emulated

Array = npt.NDArray[np.int64]

T = np.arange(64)
"""Numbers of the threads of a block of two warps."""

WARP, LANE = T // 32, T % 32


@pytest.fixture(params=[0, 1, 7], ids=["forward", "reverse", "random"])
def order(request: pytest.FixtureRequest) -> Iterator[int]:
    """In which the threads of a block take turns."""
    cuda_emulated().set_order(request.param)
    yield request.param
    cuda_emulated().set_order(0)


def run(name: str, size: int, *, shared: int = 0, grid: Any = (1, 1, 1), block: Any = (64, 1, 1)) -> Array:
    out = np.zeros(size, np.int64)
    cuda_emulated().probe(name, out, grid, block, shared)
    return out


@pytest.mark.usefixtures("order")
class TestBarriers:
    def test_what_was_written_before_is_seen_after(self) -> None:
        """In blocks of 4 x 4 x 4 threads, three of them."""
        out = run("neighbours", 3 * 64, shared=512, grid=(3, 1, 1), block=(4, 4, 4)).reshape(3, 64)
        np.testing.assert_array_equal(out, 1000 * np.arange(3)[:, None] + np.roll(T, -1))

    def test_votes(self) -> None:
        """or, and, and, count of predicates of all 64 threads."""
        np.testing.assert_array_equal(run("votes", 64), 1 + 10 + 22 * 1000)

    def test_threads_that_have_ended_are_not_waited_for(self) -> None:
        np.testing.assert_array_equal(run("ended", 64), np.where(T % 2, -1, 16))

    def test_one_that_not_all_threads_reach(self) -> None:
        where = r"block \(0, 0, 0\) wait at a barrier"
        with pytest.raises(
            RuntimeError, match=rf"^missed block barrier: 64 threads of {where} \(63 of them for the block"
        ):
            run("missed block barrier", 64)
        with pytest.raises(
            RuntimeError, match=rf"^missed warp barrier: 31 threads of {where} \(0 of them for the block"
        ):
            run("missed warp barrier", 64)
        np.testing.assert_array_equal(run("votes", 64), 22011)  # the next launch is as if nothing had been


def test_a_race_shows_in_the_order() -> None:
    """Without the barrier, a thread sees its neighbour's number only if the neighbour's turn was before."""
    seen = []
    for order in (0, 1, 7):
        cuda_emulated().set_order(order)
        seen.append(run("neighbours without a barrier", 64, shared=512))
    cuda_emulated().set_order(0)
    right = np.roll(T, -1)
    np.testing.assert_array_equal(seen[0], np.where(T < 63, -1, right))
    np.testing.assert_array_equal(seen[1], np.where(T < 63, right, -1))
    assert 10 < (seen[2] == right).sum() < 54


@pytest.mark.usefixtures("order")
class TestWarps:
    def test_shuffles(self) -> None:
        value = 100 * WARP + LANE
        by_index, by_xor, up, down = run("shuffles", 4 * 64).reshape(4, 64)
        np.testing.assert_array_equal(by_index, 100 * WARP + WARP + 3)
        np.testing.assert_array_equal(by_xor, 100 * WARP + (LANE ^ 5))
        np.testing.assert_array_equal(up, np.where(LANE % 8 < 2, value, value - 2))
        np.testing.assert_array_equal(down, np.where(LANE % 16 > 12, value, value + 3))

    def test_a_lane_outside_the_mask_has_no_value(self) -> None:
        np.testing.assert_array_equal(run("shuffle from outside", 64), np.where(LANE < 4, -1, 0))

    def test_masks_of_parts_and_of_the_whole(self) -> None:
        """A half that is done with its ballot waits for the whole warp while the other half still votes."""
        bits = sum(1 << lane for lane in range(0, 32, 3))
        half = np.where(LANE < 16, bits & 0xFFFF, bits & 0xFFFF0000)
        np.testing.assert_array_equal(run("ballots", 64), half + (1 << 32))

    def test_a_mask_without_oneself(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"^foreign mask: lane \d+ of a warp .* is not in the mask that it waits"
        ):
            run("foreign mask", 64)


@pytest.mark.usefixtures("order")
class TestMemory:
    def test_shared_memory_begins_as_nan(self) -> None:
        assert np.isnan(run("shared before use", 64, shared=512).view(np.float64)).all()

    @pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer ends the process")
    def test_writing_past_it_is_found(self) -> None:
        with pytest.raises(RuntimeError, match=r"^shared overrun: block .* wrote past its 512 bytes"):
            run("shared overrun", 64, shared=512)

    def test_copies_arrive_when_they_are_waited_for(self) -> None:
        first, second = run("copies", 4 * 64, shared=64 * 32)[:128].reshape(2, 64)
        np.testing.assert_array_equal(first, 30 + 2 * T)
        np.testing.assert_array_equal(second, -1)  # what shared memory began with

    def test_misaligned_copies_are_refused(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"^misaligned copy: an asynchronous copy .* not aligned to its 16 bytes"
        ):
            run("misaligned copy", 64, shared=512)

    def test_atomics_count_every_thread_of_every_block(self) -> None:
        count, sizes = run("counter", 2, grid=(5, 2, 3), block=(16, 4, 1))
        assert (count, sizes) == (5 * 2 * 3 * 64, 405)


def test_blocks_in_order_and_in_reverse() -> None:
    assert run("last block", 1, grid=(9, 1, 1))[0] == 8
    cuda_emulated().set_order(1)
    assert run("last block", 1, grid=(9, 1, 1))[0] == 0
    cuda_emulated().set_order(0)


@pytest.mark.parametrize(
    "too_large",
    [
        {"block": (1025, 1, 1)}, {"block": (32, 32, 2)}, {"block": (0, 1, 1)}, {"shared": 228 << 10},
        {"grid": (1, 65536, 1)}, {"grid": (1, 1, 65536)}, {"grid": (1 << 31, 1, 1)},
    ],
    ids=str,
)  # fmt: skip
def test_launches_that_no_device_takes(too_large: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"^last block: invalid configuration argument$"):
        run("last block", 1, **too_large)


def test_an_empty_grid_launches_nothing() -> None:
    assert run("last block", 1, grid=(0, 1, 1), block=(0, 1, 1))[0] == 0


def test_it_ends_with_its_context() -> None:
    assert not _device.serves(torch.zeros(1))
    with _device.emulated(order=1):
        assert _device.serves(torch.zeros(1))
        assert _device.place(torch.zeros(1)) == (0, 0)
        assert _device.module().emulated
    assert not _device.serves(torch.zeros(1))


class TestLimits:
    """The kernels that benchmarks measure a device with."""

    def test_sums_and_copies(self) -> None:
        module = cuda_emulated()
        numbers = np.arange(4 * 1001, dtype=np.uint32) * np.uint32(2654435761)
        total, copied = np.full(1, 5, np.uint32), np.zeros_like(numbers)
        module.limit_read(0, 0, numbers.ctypes.data, numbers.nbytes, total.ctypes.data)
        assert total[0] == (numbers.sum(dtype=np.uint64) + 5) % 2**32
        module.limit_copy(0, 0, copied.ctypes.data, numbers.ctypes.data, numbers.nbytes)
        np.testing.assert_array_equal(copied, numbers)
        module.limit_write(0, 0, copied.ctypes.data, copied.nbytes)
        np.testing.assert_array_equal(copied, np.tile([1, 2, 3, 4], 1001))

    def test_partial_units_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^expected a multiple of 16 bytes at addresses aligned to 16, got 20"):
            cuda_emulated().limit_write(0, 0, np.zeros(8, np.float32).ctypes.data, 20)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_multiply_adds(self, dtype: Any) -> None:
        """x -> x / 2 + 1, 16 times in each of 8 chains that start with the thread's number."""
        sums = np.zeros(512, dtype)
        operations = cuda_emulated().limit_multiply_add(0, 0, dtype == np.float64, sums.ctypes.data, 512, 3)
        assert operations == 2 * 3 * 16 * 8 * 512
        start = np.arange(512)[:, None] % 256 + np.arange(8)
        np.testing.assert_allclose(sums, (2 + (start - 2) / 2.0**48).sum(axis=1), rtol=1e-6)
