# SPDX-License-Identifier: MIT
"""Wilson lines: exponentials and ordered products against torch, JAX and the multiply-add peak of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import machine
import numpy as np
import numpy.typing as npt
import peers
import pytest
from record import Figure, PeerTime, Results, Work
from targets import (
    BACKWARD,
    BOTH,
    BOTH_AT,
    DTYPE_RATE,
    DTYPES_AT,
    LINE,
    LONG_PATH,
    PAIRS,
    PRODUCT,
    RATIO_AUTOGRAD,
    RATIO_PRODUCT,
    RATIO_TORCH,
    THREAD_GAIN,
)
from timing import contenders, raced
from wilson_work import (
    DT,
    STEPS,
    checker,
    exponentials,
    generators,
    line,
    line_flops,
    links,
    product,
    product_flops,
    rotations,
)

import nnsym_fast as nf
from nnsym_fast import wilson

Array = npt.NDArray[Any]

LONG = 65_536
LONG_D = 4
LONG_TOLERANCE = LONG * 2.0**-24
"""A rounding of float32 per step, all of them in the same direction."""

DTYPES = ("float32", "float64", "complex64", "complex128")

JOBS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], float], Callable[[Array], Array]]] = {
    LINE: (partial(wilson.wilson_line, dt=DT), line_flops, line),
    PRODUCT: (wilson.ordered_product, product_flops, product),
}
"""Ours, its useful arithmetic, and the answer in double precision."""


def argument(job: str, batch: int, d: int, dtype: Any = np.float32) -> Array:
    w = generators(batch, STEPS, d, d, dtype=dtype)
    return w if job == LINE else links(w)


def paths(benchmark: Any, batch: int) -> int:
    """Paths of a job; a run that only checks takes a few, that fill no vector."""
    return batch if benchmark.enabled else min(batch, 19)


def rivals_of(job: str, array: Array) -> Iterator[peers.Peer]:
    missing = peers.missing_libraries()
    if "torch" not in missing:
        import wilson_torch

        yield from wilson_torch.line_peers(array, DT) if job == LINE else wilson_torch.product_peers(array)
    if "jax" not in missing:
        import wilson_jax

        yield from wilson_jax.line_peers(array, DT) if job == LINE else wilson_jax.product_peers(array)


def turns(
    benchmark: Any,
    results: Results,
    name: str,
    ours: Callable[[], Any],
    others: dict[str, Callable[[], Any]],
    dtypes: Sequence[str] = ("float32",),
    rivals: Sequence[peers.Peer] = (),
) -> tuple[dict[str, float], dict[str, float], tuple[PeerTime, ...]]:
    """A race beside the multiply-add peaks: best times, the peaks per second for each type, times of the peers."""
    peaks = {dtype: machine.multiply_add_peak(dtype) for dtype in dtypes}
    calls: dict[str, Callable[[], Any]] = {f"peak {dtype}": call for dtype, call in peaks.items()}
    calls |= others | {f"peer {i}": peer.call for i, peer in enumerate(rivals)}
    slow = [f"peer {i}" for i, peer in enumerate(rivals) if peer.slow]
    best = raced(benchmark, results, name, ours, calls, slow)
    rates = {dtype: call() / best[f"peak {dtype}"] for dtype, call in peaks.items()}
    times = (PeerTime(peer.kind, peer.formulation, False, best[f"peer {i}"]) for i, peer in enumerate(rivals))
    return best, rates, tuple(times)


def ratio(work: Work, quantity: str, *kinds: str) -> list[Figure]:
    """How many times longer the fastest of some kinds takes; nothing where their library is missing."""
    times = [peer.seconds for peer in work.peers if peer.kind in kinds]
    return [Figure(work.benchmark, quantity, min(times) / work.seconds)] if times else []


@pytest.mark.parametrize(("batch", "d"), PAIRS)
@pytest.mark.parametrize("job", JOBS)
def test_against_peers(benchmark: Any, results: Results, job: str, batch: int, d: int) -> None:
    """exp + product and the product alone in float32."""
    function, flops, exact = JOBS[job]
    array = argument(job, paths(benchmark, batch), d)
    check = checker(exact, array)
    check(function(array))
    rivals = contenders(rivals_of(job, array), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    best, peak, times = turns(benchmark, results, f"{job} {batch} x {d}", partial(function, array), {}, rivals=rivals)
    row = best["ours"], flops(array), peak["float32"]
    work = Work(job, batch, d, "float32", array.nbytes, *row, peers=times)
    results.work.append(work)
    if job == LINE:
        results.figures += ratio(work, RATIO_TORCH, "torch")
    else:
        results.figures += ratio(work, RATIO_PRODUCT, "torch bmm", "JAX scan")


@pytest.mark.parametrize(("batch", "d"), [pair for pair in PAIRS if pair[1] in DTYPES_AT])
@pytest.mark.parametrize("job", JOBS)
def test_types(benchmark: Any, results: Results, job: str, batch: int, d: int) -> None:
    """Matrices per second in each type, beside float32's. Complex64 has the peak of float32, complex128 of float64."""
    function, flops, exact = JOBS[job]
    arrays = {dtype: argument(job, paths(benchmark, batch), d, dtype) for dtype in DTYPES}
    for array in arrays.values():
        checker(exact, array)(function(array))
    if benchmark.disabled:
        return
    calls = {dtype: partial(function, array) for dtype, array in arrays.items()}
    name = f"{job} by type {batch} x {d}"
    best, peaks, _ = turns(benchmark, results, name, calls.pop("float32"), calls, ("float32", "float64"))
    best["float32"] = best["ours"]
    for dtype, array in arrays.items():
        peak = peaks["float64" if dtype in ("float64", "complex128") else "float32"]
        row = best[dtype], flops(array), peak
        relative = None if dtype == "float32" else best["float32"] / best[dtype]
        results.work.append(Work(f"{job} by type", batch, d, dtype, array.nbytes, *row, DTYPE_RATE, relative))


@pytest.mark.parametrize(("batch", "d"), [pair for pair in PAIRS if pair[1] in BOTH_AT])
def test_gradient(benchmark: Any, results: Results, batch: int, d: int) -> None:
    """Forward and backward of a line of torch tensors, beside the forward alone and torch's autograd."""
    torch = pytest.importorskip("torch")
    import wilson_torch

    array = argument(LINE, paths(benchmark, batch), d)
    slope = generators(d, d)
    w, grad = torch.from_numpy(array), torch.from_numpy(slope).expand(len(array), d, d).contiguous()

    def exact(few: Array) -> Array:
        grads = torch.from_numpy(slope).double().expand(len(few), d, d)
        wide = torch.from_numpy(few).double()
        return np.asarray(next(wilson_torch.gradient_peers(wide, DT, grads)).call())

    forward = partial(wilson.wilson_line, dt=DT)
    ours = partial(wilson_torch.gradient, forward, w, grad)
    checkpointed = partial(wilson_torch.gradient, partial(forward, checkpoint=True), w, grad)
    check = checker(exact, array)
    check(ours())
    check(checkpointed())
    rivals = contenders(wilson_torch.gradient_peers(w, DT, grad), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    others = {"forward": partial(forward, w), "checkpoint": checkpointed}
    best, _, times = turns(benchmark, results, f"{BOTH} {batch} x {d}", ours, others, rivals=rivals)
    relative = best["ours"] / best["forward"]
    work = Work(BOTH, batch, d, "float32", array.nbytes, best["ours"], None, None, BACKWARD, relative, times)
    results.work.append(work)
    results.figures += ratio(work, RATIO_AUTOGRAD, "torch autograd")
    results.figures.append(Figure(work.benchmark, f"{BACKWARD}, checkpoint=True", best["checkpoint"] / best["forward"]))


@pytest.mark.parametrize("job", JOBS)
def test_long_path(benchmark: Any, results: Results, job: str) -> None:
    """One path of 4 x 4 matrices, against a serial loop of the same kernel on one lane of one thread.

    The kernel cannot be told to use one lane. But a vector instruction takes the same time whatever its lanes hold, so
    that as many paths as there are lanes take as long, on one thread, as one path in one lane. To lie in the same cache
    as the long path, they are shorter by the number of lanes, and their time, less that of a call with one step, is
    multiplied by that number.
    """
    function, flops, exact = JOBS[job]
    array = rotations(generators(1, LONG if benchmark.enabled else LONG // 16, LONG_D, LONG_D))
    array = array if job == LINE else exponentials(array).astype(np.float32)
    check = checker(exact, array, LONG_TOLERANCE)
    ours = partial(function, array)
    check(ours())
    lanes = machine.lanes(np.float32)
    side_by_side = np.ascontiguousarray(array.reshape(lanes, -1, LONG_D, LONG_D))
    checker(exact, side_by_side, LONG_TOLERANCE)(machine.on(1, partial(function, side_by_side)))
    rivals = contenders(rivals_of(job, array), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    others = {
        "lanes": partial(machine.on, 1, partial(function, side_by_side)),
        "call": partial(machine.on, 1, partial(function, np.ascontiguousarray(side_by_side[:, :1]))),
    }
    name = f"{job} of one long path"
    best, peak, times = turns(benchmark, results, f"{name} 1 x {LONG_D}", ours, others, rivals=rivals)
    serial = lanes * (best["lanes"] - best["call"]) + best["call"]
    row = best["ours"], flops(array), peak["float32"], LONG_PATH, serial / best["ours"]
    results.work.append(Work(name, 1, LONG_D, "float32", array.nbytes, *row, times))
    results.figures.append(Figure(results.work[-1].benchmark, "a serial loop on one lane", 1e3 * serial, "ms"))


@pytest.mark.parametrize(("batch", "d"), [(2048, 4), (64, 32)])
@pytest.mark.parametrize("job", JOBS)
def test_threads(benchmark: Any, results: Results, job: str, batch: int, d: int) -> None:
    """What the second thread gains, beside what the multiply-add peak gains from it."""
    if nf.get_num_threads() < 2:
        pytest.skip("one core")
    function, flops, exact = JOBS[job]
    array = argument(job, paths(benchmark, batch), d)
    call = partial(function, array)
    for threads in (1, 2):
        checker(exact, array)(machine.on(threads, call))
    if benchmark.disabled:
        return
    peak = machine.multiply_add_peak(np.float32)
    others = {
        "one": partial(machine.on, 1, call),
        "peak one": partial(machine.on, 1, peak),
        "peak two": partial(machine.on, 2, peak),
    }
    name = f"threads, {job} {batch} x {d}"
    best = raced(benchmark, results, name, partial(machine.on, 2, call), others)
    # Each thread does as many multiply-adds as the other: two do twice the work in the time.
    gain, limit = best["one"] / best["ours"], 2.0 * best["peak one"] / best["peak two"]
    one = flops(array) / best["one"] / (machine.on(1, peak) / best["peak one"])
    results.figures += [
        Figure(name, "one thread to two", gain, "x"),
        Figure(name, "one thread to two, multiply-add peak", limit, "x"),
        Figure(name, "fraction of the multiply-add peak on one thread", one),
        Figure(name, THREAD_GAIN, gain / limit),
    ]
