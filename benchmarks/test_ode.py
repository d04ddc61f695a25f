# SPDX-License-Identifier: MIT
"""Neural ODEs against torchdiffeq, torchode, JAX and the rates of multiply-adds and activations of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import machine
import numpy as np
import numpy.typing as npt
import peers
import pytest
from ode_work import TOLERANCES, Checker, Problem, limit, problem, small, tolerance_for
from record import Figure, Integration, PeerTime, Results
from targets import (
    ADAPTIVE,
    EQUAL_ERROR,
    GRADIENT,
    RATIO_DIFFRAX,
    RATIO_SCAN,
    RATIO_TORCHDIFFEQ,
    RK4,
    SECOND_THREAD,
    SIZES,
    SMALL,
    SMALL_GRADIENT,
    THREAD_GAIN,
)
from timing import contenders, raced

import nnsym_fast as nf

Array = npt.NDArray[Any]

STEPS = 100
TOLERANCE = 1e-6
RK4_OPTIONS: dict[str, Any] = {"method": "rk4", "options": {"steps": STEPS, "compiled": "require"}}

BOUNDS = {RK4: 1e-5, ADAPTIVE: 1e-4, GRADIENT: 1e-5, SMALL: 1e-4, SMALL_GRADIENT: 1e-4}
"""Errors allowed to every contestant: roundings of 400 evaluations; a hundred times the tolerance."""

RK4_RATIOS = {"torchdiffeq": RATIO_TORCHDIFFEQ, "JAX scan": RATIO_SCAN, "JAX scan, columns": f"{RATIO_SCAN}, columns"}
ADAPTIVE_RATIOS = {"torchdiffeq": RATIO_TORCHDIFFEQ, "torchode": "ratio to torchode", "diffrax": RATIO_DIFFRAX}
"""What the fastest run of a kind of peer gives."""


def adaptive(tolerance: float) -> dict[str, Any]:
    return {"method": "dopri5", "rtol": tolerance, "atol": tolerance, "options": {"compiled": "require"}}


def samples(benchmark: Any, batch: int) -> int:
    """Of a job; a run that only checks takes a few, that fill no vector."""
    return batch if benchmark.enabled else min(batch, 19)


def field(problem: Problem) -> Any:
    """Ours."""
    return nf.ode.MLP(problem.weights, problem.biases, problem.activations)


def end(function: Any, y0: Any, t: Any, options: dict[str, Any]) -> Any:
    """y(t1); the kernel has written all of it when odeint returns."""
    return nf.odeint(function, y0, t, **options)[-1]


def evaluations(problem: Problem, options: dict[str, Any]) -> float:
    """Of the field, all samples together."""
    return float(np.sum(nf.ode.solve(field(problem), problem.y0, problem.t, **options).stats["evaluations"]))


def libraries() -> Iterator[ModuleType]:
    """The peers' formulations."""
    missing = peers.missing_libraries()
    if "torch" not in missing:
        import ode_torch

        yield ode_torch
    if "jax" not in missing:
        import ode_jax

        yield ode_jax


def rivals_of(formulations: str, problem: Problem, precision: float) -> Iterator[peers.Peer]:
    """``precision``: steps or tolerance."""
    for library in libraries():
        yield from getattr(library, formulations)(problem, precision)


class Race:
    """A race beside the measured limits, and what it adds to the record."""

    def __init__(self, benchmark: Any, results: Results, job: str, problem: Problem, rivals: Sequence[peers.Peer]):
        self.benchmark, self.results, self.problem, self.rivals = benchmark, results, problem, rivals
        batch, d = problem.y0.shape
        self.row = Integration(job, batch, d, problem.weights[0].shape[0], 0.0, 0.0, 0.0, 0.0)

    def run(self, ours: Callable[[], Any], check: Checker, options: dict[str, Any], others: Mapping[str, Any]) -> Any:
        """Best times by name, with those of ``others``."""
        peak = machine.multiply_add_peak(np.float32)
        rates = {name: machine.activation_rate(np.float32, name) for name in self.problem.activated()}
        calls = {"peak": peak} | {f"rate {name}": call for name, call in rates.items()} | dict(others)
        calls |= {f"peer {i}": peer.call for i, peer in enumerate(self.rivals)}
        slow = [f"peer {i}" for i, peer in enumerate(self.rivals) if peer.slow]
        best = raced(self.benchmark, self.results, self.row.benchmark, ours, calls, slow)
        count = evaluations(self.problem, options)
        speeds = {name: call() / best[f"rate {name}"] for name, call in rates.items()}
        backward = self.row.job in (GRADIENT, SMALL_GRADIENT)
        self.row = replace(
            self.row,
            seconds=best["ours"],
            error=check.error(ours()),
            evaluations=count / self.row.batch,
            limit_seconds=limit(self.problem, count, peak() / best["peak"], speeds, gradient=backward),
            peers=tuple(
                PeerTime(peer.kind, peer.formulation, False, best[f"peer {i}"], check.error(peer.call()))
                for i, peer in enumerate(self.rivals)
            ),
        )
        return best

    def record(self, quantities: Mapping[str, str]) -> None:
        """The row, and its ratios to kinds of peers."""
        self.results.integrations.append(self.row)
        for kind, quantity in quantities.items():
            times = [peer for peer in self.row.peers if peer.kind == kind]
            equal = [peer.seconds / peer.ours for peer in times if peer.ours is not None]
            if times:
                ratio = min(peer.seconds for peer in times) / self.row.seconds
                self.results.figures.append(Figure(self.row.benchmark, quantity, ratio))
            if equal:
                self.results.figures.append(Figure(self.row.benchmark, quantity + EQUAL_ERROR, min(equal)))

    def run_adaptive(
        self, ours: Callable[[float], Callable[[], Any]], check: Checker, others: Mapping[str, Any]
    ) -> dict[str, float]:
        """:meth:`run` of ``ours(tolerance)``, also at the tolerances at which it is as accurate as each peer."""
        errors = {tolerance: check.error(ours(tolerance)()) for tolerance in TOLERANCES}
        wanted = [tolerance_for(check.error(peer.call()), errors) for peer in self.rivals]
        equal = {f"at {tolerance}": ours(tolerance) for tolerance in wanted if tolerance is not None}
        best: dict[str, float] = self.run(ours(TOLERANCE), check, adaptive(TOLERANCE), {**others, **equal})
        times = zip(self.row.peers, wanted, strict=True)
        found = tuple(replace(peer, ours=best.get(f"at {tolerance}")) for peer, tolerance in times)
        self.row = replace(self.row, peers=found)
        return best


@pytest.mark.parametrize(("batch", "d", "h"), SIZES)
def test_rk4(benchmark: Any, results: Results, batch: int, d: int, h: int) -> None:
    """100 steps of order 4: classical here and in JAX, the 3/8 rule in torchdiffeq; all errors are roundings."""
    task = problem(samples(benchmark, batch), d, h)
    check = Checker(task, BOUNDS[RK4])
    ours = partial(end, field(task), task.y0, task.t, RK4_OPTIONS)
    others = through_torch(task, check, RK4_OPTIONS)
    check(ours())
    rivals = contenders(rivals_of("rk4_peers", task, STEPS), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    race = Race(benchmark, results, RK4, task, rivals)
    best = race.run(ours, check, RK4_OPTIONS, others)
    race.record(RK4_RATIOS)
    results.figures += overhead(race.row.benchmark, best)


def race_adaptive(benchmark: Any, results: Results, job: str, task: Problem) -> None:
    """dopri5 at rtol = atol = 1e-6, and ours once more with the error that each peer has."""
    check = Checker(task, BOUNDS[job])
    function = field(task)
    others = through_torch(task, check, adaptive(TOLERANCE))
    check(end(function, task.y0, task.t, adaptive(TOLERANCE)))
    rivals = contenders(rivals_of("adaptive_peers", task, TOLERANCE), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    race = Race(benchmark, results, job, task, rivals)
    best = race.run_adaptive(lambda tol: partial(end, function, task.y0, task.t, adaptive(tol)), check, others)
    race.record(ADAPTIVE_RATIOS)
    results.figures += overhead(race.row.benchmark, best)


@pytest.mark.parametrize(("batch", "d", "h"), SIZES)
def test_adaptive(benchmark: Any, results: Results, batch: int, d: int, h: int) -> None:
    """dopri5 of the four sizes."""
    race_adaptive(benchmark, results, ADAPTIVE, problem(samples(benchmark, batch), d, h))


@pytest.mark.parametrize(("batch", "d", "h"), SIZES)
def test_gradient(benchmark: Any, results: Results, batch: int, d: int, h: int) -> None:
    """Forward and reverse pass of rk4 in 100 steps, of an nn.Sequential, by all parameters."""
    pytest.importorskip("torch")
    from ode_torch import gradient, module

    task = problem(samples(benchmark, batch), d, h)
    check = Checker(task, BOUNDS[GRADIENT], gradient=True)
    ours = gradient(partial(nf.odeint, **RK4_OPTIONS), module(task), task)
    check(ours())
    rivals = contenders(rivals_of("rk4_gradient_peers", task, STEPS), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    race = Race(benchmark, results, GRADIENT, task, rivals)
    race.run(ours, check, RK4_OPTIONS, {})
    race.record(RK4_RATIOS)


def test_small(benchmark: Any, results: Results) -> None:
    """Diffrax's small neural ODE."""
    race_adaptive(benchmark, results, SMALL, small(samples(benchmark, 64)))


def test_small_gradient(benchmark: Any, results: Results) -> None:
    """Its gradient by all parameters, through the steps taken."""
    pytest.importorskip("torch")
    from ode_torch import gradient, module

    task = small(samples(benchmark, 64))
    check = Checker(task, BOUNDS[SMALL_GRADIENT], gradient=True)
    network = module(task)

    def ours(tolerance: float) -> Callable[[], Any]:
        return gradient(partial(nf.odeint, **adaptive(tolerance)), network, task)

    check(ours(TOLERANCE)())
    rivals = contenders(rivals_of("adaptive_gradient_peers", task, TOLERANCE), check, timed=benchmark.enabled)
    if benchmark.disabled:
        return
    race = Race(benchmark, results, SMALL_GRADIENT, task, rivals)
    race.run_adaptive(ours, check, {})
    race.record(ADAPTIVE_RATIOS)


@pytest.mark.parametrize(("batch", "d", "h"), [size for size in SIZES if size[0] >= 256])
def test_threads(benchmark: Any, results: Results, batch: int, d: int, h: int) -> None:
    """What the second thread gains, beside what the multiply-add peak gains from it."""
    if nf.get_num_threads() < 2:
        pytest.skip("one core")
    task = problem(samples(benchmark, batch), d, h)
    check = Checker(task, BOUNDS[RK4])
    ours = partial(end, field(task), task.y0, task.t, RK4_OPTIONS)
    alone, both = machine.on(1, ours), machine.on(2, ours)
    check(both)
    assert np.array_equal(alone, both)
    if benchmark.disabled:
        return
    peak = machine.multiply_add_peak(np.float32)
    others = {"one": ours, "peak one": peak, "peak two": peak}
    others = {name: partial(machine.on, 2 if name == "peak two" else 1, call) for name, call in others.items()}
    name = f"threads, {RK4} {batch}, {d}, {h}"
    best = raced(benchmark, results, name, partial(machine.on, 2, ours), others)
    # Each thread does as many multiply-adds as the other: two do twice the work in the time.
    gain, most = best["one"] / best["ours"], 2.0 * best["peak one"] / best["peak two"]
    results.figures += [
        Figure(name, SECOND_THREAD, gain, "x"),
        Figure(name, f"{SECOND_THREAD}, multiply-add peak", most, "x"),
        Figure(name, THREAD_GAIN, gain / most),
    ]


def test_call(benchmark: Any, results: Results) -> None:
    """One Euler step of one sample: what a call takes, of arrays and of an nn.Sequential."""
    task = problem(1, 2, 32)
    check = Checker(task, 1.0)
    options = {"method": "euler", "options": {"compiled": "require"}}
    ours = partial(end, field(task), task.y0, task.t, options)
    others = through_torch(task, check, options)
    check(ours())
    if benchmark.disabled:
        return
    best = raced(benchmark, results, "call", ours, others)
    results.figures += [Figure("call", f"latency, {name}", 1e6 * best[name], "us") for name in ("ours", *others)]


def through_torch(problem: Problem, check: Checker, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The same through an nn.Sequential that odeint recognises, if there is torch; checked."""
    if "torch" in peers.missing_libraries():
        return {}
    import torch
    from ode_torch import module

    network, y0, t = module(problem).requires_grad_(False), torch.tensor(problem.y0), torch.from_numpy(problem.t)
    call = partial(end, network, y0, t, options)
    check(call())
    return {"nn.Sequential": call}


def overhead(name: str, best: Mapping[str, float]) -> list[Figure]:
    """What the way through torch adds."""
    if "nn.Sequential" not in best:
        return []
    return [Figure(name, "nn.Sequential, of the time with arrays", best["nn.Sequential"] / best["ours"])]
