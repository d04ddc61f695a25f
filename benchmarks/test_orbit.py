# SPDX-License-Identifier: MIT
"""Orbits of MLPs: permutations and positive rescalings of every hidden layer, elements drawn inside the timing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peers
import pytest
from machine import copy_limit, write_limit
from record import Figure, PeerTime, Results, Row
from targets import BFLOAT16_RATE, IMPORT_TIME, LATENCY, THREAD_GAIN
from timing import contenders, race

import nnsym_fast as nf

Array = npt.NDArray[Any]

SHAPES = [
    ((2, 32, 32, 1), 20_000),
    ((784, 128, 128, 10), 500),
    ((784, 512, 512, 10), 100),
    ((256, 1024, 1024, 256), 40),
]
SMALL = SHAPES[0][0]
STACK = 8_192
TOLERANCE = 1e-4
"""Change of the network's function, relative to its largest value: weights are rounded to float32 twice."""


def label(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))


def tensors(widths: Sequence[int], *leading: int) -> dict[str, Array]:
    """Random weights and biases that keep activations of order one."""
    rng = np.random.default_rng(0)
    shapes = nf.specs.shapes(nf.specs.mlp_layers(list(widths)))
    return {
        name: (rng.standard_normal((*leading, *shape)) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }


def function(flat: Sequence[Array], x: Array) -> Array:
    """The ReLU network weight, bias, weight, bias, ... at points x, in float64."""
    for i in range(0, len(flat), 2):
        w, b = (np.asarray(t, dtype=np.float64) for t in flat[i : i + 2])
        x = (np.maximum(x, 0.0) if i else x) @ w.T + b
    return x


def check_orbit(base: Callable[[int], Sequence[Array]], samples: int, points: Sequence[Any]) -> None:
    """Every network computes the function of its base point, with other weights, which differ from sample to sample."""
    assert [len(t) for t in points] == [samples] * len(points)
    first = points[0]
    assert not np.array_equal(np.asarray(first[0]), np.asarray(first[samples - 1]))
    for k in (0, 1, samples // 2, samples - 1):
        origin, moved = base(k), [np.asarray(t[k]) for t in points]
        x = np.random.default_rng(k).standard_normal((16, origin[0].shape[1]))
        expected = function(origin, x)
        assert [t.shape for t in moved] == [t.shape for t in origin]
        assert np.abs(function(moved, x) - expected).max() <= TOLERANCE * np.abs(expected).max()
        assert not np.array_equal(np.sort(origin[0], axis=None), np.sort(moved[0], axis=None)), "not rescaled"
        assert not np.array_equal(np.argsort(origin[1]), np.argsort(moved[1])), "not permuted"


def layers_of(params: dict[str, Array], convert: Callable[[Array], Any]) -> list[tuple[Any, Any]]:
    values = [convert(value) for value in params.values()]
    return list(zip(values[::2], values[1::2], strict=True))


def orbit_peers(params: dict[str, Array], n: int, widths: Sequence[int]) -> Iterator[peers.Peer]:
    """All formulations in the libraries that are installed; JAX for one network, not for a stack."""
    missing = peers.missing_libraries()
    if "torch" not in missing:
        import orbit_torch
        import torch

        yield from orbit_torch.peers(layers_of(params, torch.from_numpy), n, widths[1:-1])
    if "jax" not in missing and params["0.weight"].ndim == 2:
        import orbit_jax

        yield from orbit_jax.peers(layers_of(params, np.asarray), n, widths[1:-1])


def element_peers(n: int, hidden: Sequence[int]) -> Iterator[peers.Peer]:
    missing = peers.missing_libraries()
    if "torch" not in missing:
        import orbit_torch

        yield peers.Peer("torch batched", "argsort of random integers", partial(orbit_torch.sample, n, hidden))
    if "jax" not in missing:
        import jax
        import orbit_jax

        sample = jax.jit(lambda key: orbit_jax.sample(key, n, hidden))
        seeds = count()
        yield peers.Peer("JAX jit", "sort of packed keys", lambda: orbit_jax.ready(sample(jax.random.key(next(seeds)))))


def compete(
    benchmark: Any,
    name: str,
    nbytes: int,
    ours: Callable[[], Any],
    rivals: Sequence[peers.Peer],
    fresh: Callable[[], Any] | None = None,
    limit: tuple[str, Callable[[], None]] | None = None,
) -> Row:
    """The race of one row."""
    others: dict[str, Callable[[], Any]] = {f"peer {i}": peer.call for i, peer in enumerate(rivals)}
    if fresh:
        others["fresh"] = fresh
    if limit:
        others["limit"] = limit[1]
    best = race(benchmark, ours, others, slow=[f"peer {i}" for i, peer in enumerate(rivals) if peer.slow])
    times = [PeerTime(peer.kind, peer.formulation, peer.reuses, best[f"peer {i}"]) for i, peer in enumerate(rivals)]
    return Row(
        name, nbytes, best["ours"], best.get("fresh"), limit[0] if limit else None, best.get("limit"), tuple(times)
    )


@pytest.mark.parametrize(("widths", "n"), SHAPES, ids=[label(widths) for widths, _ in SHAPES])
def test_points(benchmark: Any, results: Results, widths: tuple[int, ...], n: int) -> None:
    """Points of an orbit, against the streaming-write limit."""
    params = tensors(widths)
    orbit = nf.Orbit(params, nf.specs.mlp(list(widths)), seed=0)
    starts = count(step=n)
    out = orbit.points(0, n)
    nbytes = sum(value.nbytes for value in out.values())
    check = partial(check_orbit, lambda k: list(params.values()), n)
    check(list(out.values()))

    def ours() -> Any:
        start = next(starts)
        return orbit.points(start, start + n, out=out)

    def fresh() -> Any:
        start = next(starts)
        return orbit.points(start, start + n)

    check(list(ours().values()))
    check(list(fresh().values()))
    rivals = contenders(orbit_peers(params, n, widths), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    limit = "write", write_limit(nbytes)
    results.rows.append(compete(benchmark, f"orbit {label(widths)}", nbytes, ours, rivals, fresh, limit))


def test_augment(benchmark: Any, results: Results) -> None:
    """A stack of small networks, each moved along its own orbit, against the copy limit."""
    params = tensors(SMALL, STACK)
    spec = nf.specs.mlp(list(SMALL))
    starts = count(step=STACK)
    out = nf.augment(params, spec, seed=0)
    nbytes = 2 * sum(value.nbytes for value in out.values())
    check = partial(check_orbit, lambda k: [value[k] for value in params.values()], STACK)

    def ours() -> Any:
        return nf.augment(params, spec, seed=0, start=next(starts), out=out)

    def fresh() -> Any:
        return nf.augment(params, spec, seed=0, start=next(starts))

    check(list(ours().values()))
    check(list(fresh().values()))
    rivals = contenders(orbit_peers(params, STACK, SMALL), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    limit = "copy", copy_limit(nbytes // 2)
    results.rows.append(compete(benchmark, f"augment {label(SMALL)}", nbytes, ours, rivals, fresh, limit))


@pytest.mark.parametrize(("widths", "n"), SHAPES, ids=[label(widths) for widths, _ in SHAPES])
def test_elements(benchmark: Any, results: Results, widths: tuple[int, ...], n: int) -> None:
    """Random elements alone: a permutation and a vector of scales per hidden layer and sample."""
    orbit = nf.Orbit(tensors(widths), nf.specs.mlp(list(widths)), seed=0)
    starts = count(step=n)

    def ours() -> Any:
        start = next(starts)
        return [(site.perm, site.scale) for site in orbit.elements(start, start + n).values()]

    def check(elements: Any) -> None:
        for (perm, scale), size in zip(elements, widths[1:-1], strict=True):
            assert np.array_equal(np.sort(np.asarray(perm), axis=1), np.tile(np.arange(size), (n, 1)))
            logs = np.log(np.asarray(scale, dtype=np.float64))
            assert logs.shape == (n, size)
            # Five standard errors of a standard deviation over at least 40,000 draws.
            assert abs(logs.std() - 0.5) < 0.01

    check(ours())
    rivals = contenders(element_peers(n, widths[1:-1]), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    nbytes = n * sum(widths[1:-1]) * 8
    results.rows.append(compete(benchmark, f"elements {label(widths)}", nbytes, ours, rivals))


@pytest.mark.parametrize(("widths", "n"), SHAPES[2:], ids=[label(widths) for widths, _ in SHAPES[2:]])
def test_bfloat16(benchmark: Any, results: Results, widths: tuple[int, ...], n: int) -> None:
    """Bytes per second of bfloat16 storage, beside float32's."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    spec = nf.specs.mlp(list(widths))
    params = tensors(widths)
    narrow = {name: value.astype(bfloat16) for name, value in params.items()}
    rounded = {name: value.astype(np.float32) for name, value in narrow.items()}
    wide_orbit, narrow_orbit = nf.Orbit(rounded, spec, seed=0), nf.Orbit(narrow, spec, seed=0)
    wide_out, narrow_out = wide_orbit.points(0, n), narrow_orbit.points(0, n)
    for name, value in narrow_out.items():
        assert np.array_equal(value, wide_out[name].astype(bfloat16))
    if benchmark.disabled:
        return
    best = race(
        benchmark,
        lambda: narrow_orbit.points(0, n, out=narrow_out),
        {"float32": lambda: wide_orbit.points(0, n, out=wide_out)},
    )
    results.figures.append(Figure(f"bfloat16 {label(widths)}", BFLOAT16_RATE, 0.5 * best["float32"] / best["ours"]))


@pytest.mark.parametrize(("widths", "n"), SHAPES[::2], ids=[label(widths) for widths, _ in SHAPES[::2]])
def test_threads(benchmark: Any, results: Results, widths: tuple[int, ...], n: int) -> None:
    """What the second thread gains, beside what the write limit gains from it. Points do not depend on threads."""
    available = nf.get_num_threads()
    if available < 2:
        pytest.skip("one core")
    orbit = nf.Orbit(tensors(widths), nf.specs.mlp(list(widths)), seed=0)
    out = orbit.points(0, n)
    write = write_limit(sum(value.nbytes for value in out.values()))

    def on(threads: int, call: Callable[[], Any]) -> Any:
        nf.set_num_threads(threads)
        try:
            return call()
        finally:
            nf.set_num_threads(None)

    points = partial(orbit.points, 0, n)
    one, two = (on(threads, points) for threads in (1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    del one, two
    if benchmark.disabled:
        return
    points = partial(orbit.points, 0, n, out=out)
    best = race(
        benchmark,
        partial(on, 2, points),
        {"one": partial(on, 1, points), "write one": partial(on, 1, write), "write two": partial(on, 2, write)},
    )
    gain, limit = best["one"] / best["ours"], best["write one"] / best["write two"]
    name = f"threads {label(widths)}"
    results.figures += [
        Figure(name, "one thread to two", gain, "x"),
        Figure(name, "one thread to two, write limit", limit, "x"),
        Figure(name, "fraction of the limit on one thread", best["write one"] / best["one"]),
        Figure(name, THREAD_GAIN, gain / limit),
    ]


def test_one_point(benchmark: Any, results: Results) -> None:
    """``orbit[i]`` of a small network: the time to call, not to move memory."""
    params = tensors(SMALL)
    orbit = nf.Orbit(params, nf.specs.mlp(list(SMALL)), seed=0)
    index = count()
    check_orbit(
        lambda k: list(params.values()),
        1_000,
        [np.stack(t) for t in zip(*(orbit[i].values() for i in range(1_000)), strict=True)],
    )
    benchmark.pedantic(lambda: orbit[next(index)], rounds=100, iterations=100, warmup_rounds=2)
    if benchmark.enabled:
        results.figures.append(Figure(f"orbit[i] {label(SMALL)}", LATENCY, 1e6 * benchmark.stats.stats.min, "us"))


def test_import_time(benchmark: Any, results: Results, tmp_path: Path) -> None:
    """``import nnsym_fast`` in a process that has numpy, and imports neither torch nor jax."""
    program = (
        "import sys, time, numpy; start = time.perf_counter(); import nnsym_fast; took = time.perf_counter() - start; "
        "assert not {'torch', 'jax'} & set(sys.modules); print(took)"
    )
    times = []

    def once() -> None:
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True
        )
        times.append(float(run.stdout))

    benchmark.pedantic(once, rounds=7, warmup_rounds=1)
    assert all(took > 0 for took in times)
    if benchmark.enabled:
        results.figures.append(Figure("import nnsym_fast", IMPORT_TIME, min(times), "s"))
