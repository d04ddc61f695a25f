# SPDX-License-Identifier: MIT
"""The kernels against the limits of the device, and against torch, torchdiffeq and diffrax on the same device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import orbit_torch
import torch
import transformer_torch
import wilson_torch
from gpu_tools import Bench, Figure, Target, relative_error
from ode_torch import Field, module
from ode_work import Problem, problem
from transformer_work import BERT, Bert
from wilson_work import DT, STEPS, line_flops

import nnsym_fast as nf

__all__ = ["race_dense", "race_ode_adaptive", "race_ode_fixed", "race_orbit", "race_wilson_large", "race_wilson_small"]

MILLION = 1 << 20

BACKENDS = ("gpu", "cuda")
"""What JAX calls a GPU."""


def points_that_fit(bench: Bench, nbytes: int, wanted: int) -> int:
    return max(1, min(wanted, (bench.memory >> (4 * bench.quick)) // nbytes))


def smaller(bench: Bench, count: int) -> int:
    return max(1, count // 16) if bench.quick else count


# --- orbits


def race_orbit(bench: Bench) -> None:
    """784-512-512-10 and a million of 2-32-32-1: result written per second, and torch's formulations."""
    for widths, wanted, of_write, of_torch in (
        ([784, 512, 512, 10], 1 << 14, 0.75, 8.0),
        ([2, 32, 32, 1], MILLION, 0.5, None),
    ):
        spec = nf.specs.mlp(widths, activation="relu")
        shapes = nf.specs.shapes(nf.specs.mlp_layers(widths))
        params = {name: torch.randn(shape, device=bench.device) for name, shape in shapes.items()}
        nbytes = 4 * sum(value.numel() for value in params.values())
        n = points_that_fit(bench, nbytes, smaller(bench, wanted))
        orbit = nf.Orbit(params, spec, seed=1)
        out = orbit.points(0, n)
        start = iter(range(n, 1 << 62, n))

        def ours(orbit: Any = orbit, out: Any = out, n: int = n, start: Any = start) -> Any:
            first = next(start)
            return orbit.points(first, first + n, out=out)

        figure = raced(bench, f"orbit {'-'.join(map(str, widths))}, {n} points", ours, n * nbytes, "write")
        del out, ours
        _orbit_rivals(bench, figure, params, n, widths)
        figure.targets.append(Target("of write bandwidth", figure.fraction or 0.0, of_write))
        best = figure.best("torch batched")
        if best is not None and of_torch is not None:
            figure.targets.append(Target("torch / ours", best / figure.seconds, of_torch))
        bench.figure(figure)


def raced(bench: Bench, job: str, ours: Callable[[], Any], nbytes: float, limit: str) -> Figure:
    """Times ours beside the limit on the bytes that it must move."""
    rate = {"write": bench.write_rate, "read": bench.read_rate, "copy": bench.copy_rate}[limit]
    seconds = bench.seconds(ours)
    figure = Figure(job, seconds, f"{limit} bandwidth", nbytes / seconds / rate, f"{nbytes / seconds / 1e9:.0f} GB/s")
    _tell(figure)
    return figure


def _tell(figure: Figure) -> None:
    fraction = "" if figure.fraction is None else f", {figure.fraction:.2f} of {figure.limit}"
    print(f"  {figure.job}: {1e3 * figure.seconds:.3g} ms, {figure.rate}{fraction}", flush=True)


def _orbit_rivals(bench: Bench, figure: Figure, params: Any, n: int, widths: list[int]) -> None:
    """A quarter of the points at most: their temporaries are several times the result."""
    scaled = 4 if n >= 64 else 1
    few = n // scaled
    values = list(params.values())
    layers = [(values[i], values[i + 1]) for i in range(0, len(values), 2)]
    with bench.device:
        for peer in orbit_torch.peers(layers, few, widths[1:-1]):
            # torch keeps freed memory: fresh results cost what given buffers do.
            if peer.kind != "torch loop" and not peer.formulation.endswith("into buffers"):
                bench.rival(figure, peer.kind, peer.formulation, peer.call, n / few)


def race_dense(bench: Bench) -> None:
    """Haar matrices, and points of a sentence encoder of 22.7 million parameters."""
    n, m = smaller(bench, 100_000), 32
    spec = nf.SymmetrySpec(sites={"s": nf.groups.Orthogonal(m)}, legs={"w": ("s", None), "v": (None, "s*")})
    one = torch.eye(m, device=bench.device)
    matrices = nf.Orbit({"w": one, "v": one}, spec, seed=1)
    draw = partial(matrices.points, 0, n, names=["w"], out=matrices.points(0, n, names=["w"]))
    figure = raced(bench, f"{n} Haar matrices {m} x {m}", draw, 4.0 * n * m * m, "write")
    few = min(n, 10_000)
    with bench.device:
        for kind, formulation, haar in transformer_torch.HAAR[:4]:
            bench.rival(figure, kind, formulation, partial(haar, few, m), n / few)
    bench.figure(figure)
    del draw
    bert = Bert(BERT)
    params = {name: bench.tensor(value) for name, value in bert.params.items()}
    nbytes = 4 * sum(value.numel() for value in params.values())
    count = points_that_fit(bench, nbytes, smaller(bench, 64))
    encoder = nf.Orbit(params, bert.spec, seed=1)
    buffers = encoder.points(0, count)
    job = f"orbit of MiniLM, {count} points"
    bench.figure(raced(bench, job, lambda: encoder.points(0, count, out=buffers), float(count * nbytes), "write"))


# --- Wilson lines


def _lines(bench: Bench, d: int, wanted: int) -> tuple[torch.Tensor, int]:
    batch = points_that_fit(bench, 4 * STEPS * d * d, smaller(bench, wanted))
    return torch.randn(batch, STEPS, d, d, device=bench.device).mul_(1 / math.sqrt(d)), batch


def race_wilson_small(bench: Bench) -> None:
    """d = 2, 3, 4, a million paths: limited by reading w."""
    for d in (2, 3, 4):
        w, batch = _lines(bench, d, MILLION)
        job = f"Wilson lines, d = {d}, {batch} paths of {STEPS} steps"
        figure = raced(bench, job, lambda w=w: nf.wilson.wilson_line(w, DT), 4.0 * w.numel(), "read")
        figure.targets.append(Target("of read bandwidth", figure.fraction or 0.0, 0.6))
        _line_rivals(bench, figure, w, 1 << 16, 50.0)


def race_wilson_large(bench: Bench) -> None:
    """d = 8, 16, 32: limited by multiply-adds."""
    for d, wanted in ((8, 1 << 16), (16, 1 << 14), (32, 1 << 12)):
        w, batch = _lines(bench, d, wanted)
        some = w[: min(batch, 256)]
        flops = line_flops(some.cpu().numpy()) * batch / len(some)
        seconds = bench.seconds(lambda w=w: nf.wilson.wilson_line(w, DT))
        peak = bench.peak(torch.float32)
        job = f"Wilson lines, d = {d}, {batch} paths of {STEPS} steps"
        figure = Figure(job, seconds, "fp32 peak", flops / seconds / peak, f"{flops / seconds / 1e12:.1f} TFLOP/s")
        _tell(figure)
        figure.targets.append(Target("of fp32 peak", figure.fraction or 0.0, 0.35))
        _line_rivals(bench, figure, w, wanted // 8, 20.0)


def _line_rivals(bench: Bench, figure: Figure, w: torch.Tensor, few: int, bound: float) -> None:
    """matrix_exp and bmm, on as many paths as their temporaries leave room for."""
    few = min(len(w), few)
    scaled, part = len(w) / few, w[:few].contiguous()
    late = part.transpose(0, 1).contiguous()
    exp, line = wilson_torch.exponentials, wilson_torch.pairs
    difference = relative_error(nf.wilson.wilson_line(part[:64], DT), line(exp(part[:64].double(), DT)))
    if difference > 1e-3:
        bench.fail(figure.job, AssertionError(f"differs from torch by {difference:.2g}"))
    bench.rival(figure, "torch", "matrix_exp, bmm in steps", lambda: wilson_torch.steps(exp(late, DT)), scaled)
    bench.rival(figure, "torch", "matrix_exp, bmm in pairs", lambda: line(exp(part, DT)), scaled)
    torch.compiler.reset()
    compiled = torch.compile(lambda w: line(exp(w, DT)), dynamic=False)
    bench.rival(figure, "torch.compile", "matrix_exp, bmm in pairs", lambda: compiled(part), scaled)
    best = figure.best("torch")
    if best is not None:
        figure.targets.append(Target("torch / ours", best / figure.seconds, bound))
    bench.figure(figure)


# --- neural ODEs

RK4_STEPS = 100
TOLERANCE = 1e-6


def _network(bench: Bench) -> tuple[Problem, torch.nn.Module, torch.Tensor, torch.Tensor]:
    task = problem(smaller(bench, MILLION), 2, 64)
    network = module(task).to(bench.device).requires_grad_(False)
    y0 = torch.tensor(task.y0, device=bench.device)
    return task, network, y0, torch.tensor([0.0, task.t1], dtype=torch.float64)


def _rk4_step(network: torch.nn.Module, h: float, y: torch.Tensor) -> torch.Tensor:
    k1 = network(y)
    k2 = network(y + h / 2 * k1)
    k3 = network(y + h / 2 * k2)
    k4 = network(y + h * k3)
    return y + h / 6 * (k1 + 2 * (k2 + k3) + k4)


def _exact(network: torch.nn.Module, y0: torch.Tensor) -> torch.Tensor:
    """y(1) in double precision by 1000 steps."""
    double = copy.deepcopy(network).double()
    y = y0.double()
    for _ in range(1000):
        y = _rk4_step(double, 1e-3, y)
    return y


def _flops(task: Problem, evaluations: float) -> float:
    """Of the multiply-adds; the activations come on top."""
    return 2.0 * task.multiply_adds() * evaluations


def _solved(bench: Bench, job: str, task: Problem, ours: Callable[[], Any], evaluations: float) -> Figure:
    seconds = bench.seconds(ours)
    flops = _flops(task, evaluations)
    fraction = flops / seconds / bench.peak(torch.float32)
    figure = Figure(job, seconds, "fp32 peak, without tanh", fraction, f"{flops / seconds / 1e12:.2f} TFLOP/s")
    _tell(figure)
    return figure


def _aim(figure: Figure, kind: str, bound: float) -> None:
    best = figure.best(kind)
    if best is not None:
        figure.targets.append(Target(f"{kind} / ours", best / figure.seconds, bound))


def race_ode_fixed(bench: Bench) -> None:
    """100 steps of rk4, MLP 2-64-2, a million samples."""
    task, network, y0, t = _network(bench)
    field = nf.ode.MLP.from_torch(network)

    def ours(y0: torch.Tensor = y0) -> Any:
        return nf.odeint(field, y0, t, method="rk4", options={"steps": RK4_STEPS, "compiled": "require"})[-1]

    few = y0[:4096]
    with torch.no_grad():
        bench.check("rk4, MLP 2-64-2", ours(few), _exact(network, few), 1e-5)
        figure = _solved(
            bench, f"rk4 x {RK4_STEPS}, MLP 2-64-2, {len(y0)} samples", task, ours, 4.0 * RK4_STEPS * len(y0)
        )
        torch.compiler.reset()
        step = torch.compile(partial(_rk4_step, network, task.t1 / RK4_STEPS), dynamic=False)

        def loop() -> torch.Tensor:
            y = y0
            for _ in range(RK4_STEPS):
                y = step(y)
            return y

        bench.rival(figure, "torch.compile", "a step, called in a loop", loop)
        if find_spec("torchdiffeq"):
            from torchdiffeq import odeint

            options = {"method": "rk4", "options": {"step_size": task.t1 / RK4_STEPS}}
            for note, solved in (
                ("eager", network),
                ("torch.compile of the field", torch.compile(network, dynamic=False)),
            ):
                call = partial(odeint, Field(solved), y0, t.to(bench.device, torch.float32), **options)
                bench.rival(figure, "torchdiffeq", f"rk4, {note}", call)
        else:
            bench.skip("no peer from torchdiffeq: not installed")
    _aim(figure, "torchdiffeq", 30.0)
    _aim(figure, "torch.compile", 5.0)
    bench.figure(figure)


def race_ode_adaptive(bench: Bench) -> None:
    """dopri5 at rtol = atol = 1e-6, a step for each sample, MLP 2-64-2, a million samples."""
    task, network, y0, t = _network(bench)
    field = nf.ode.MLP.from_torch(network)
    options: dict[str, Any] = {
        "method": "dopri5",
        "rtol": TOLERANCE,
        "atol": TOLERANCE,
        "options": {"compiled": "require"},
    }
    few = y0[:4096]
    with torch.no_grad():
        bench.check("dopri5, MLP 2-64-2", nf.odeint(field, few, t, **options)[-1], _exact(network, few), 1e-5)
        stats = nf.ode.solve(field, y0, t, **options).stats
        evaluations = float(stats["evaluations"].double().sum())
        job = f"dopri5, 1e-6, MLP 2-64-2, {len(y0)} samples"
        figure = _solved(bench, job, task, lambda: nf.odeint(field, y0, t, **options), evaluations)
        if find_spec("torchdiffeq"):
            from torchdiffeq import odeint

            torch.compiler.reset()
            for note, solved in (
                ("eager", network),
                ("torch.compile of the field", torch.compile(network, dynamic=False)),
            ):
                call = partial(
                    odeint, Field(solved), y0, t.to(bench.device, torch.float32), rtol=TOLERANCE, atol=TOLERANCE
                )
                bench.rival(figure, "torchdiffeq", f"dopri5, one step for all, {note}", call)
        else:
            bench.skip("no peer from torchdiffeq: not installed")
    _diffrax(bench, figure, task)
    _aim(figure, "torchdiffeq", 30.0)
    _aim(figure, "diffrax, vmapped", 5.0)
    bench.figure(figure)


def _diffrax(bench: Bench, figure: Figure, task: Problem) -> None:
    if not (find_spec("jax") and find_spec("diffrax")):
        bench.skip("no peer from diffrax: not installed")
        return
    import jax

    if jax.default_backend() not in BACKENDS:
        bench.skip(f"no peer from diffrax: JAX runs on {jax.default_backend()} here")
        return
    jax.config.update("jax_default_matmul_precision", "highest")
    import ode_jax

    few = len(task.y0) // 16
    fewer = replace(task, y0=task.y0[:few], slope=task.slope[:few])
    for whole, part in zip(*(ode_jax.adaptive_peers(each, TOLERANCE) for each in (task, fewer)), strict=True):
        kind = "diffrax, vmapped" if "vmapped" in whole.formulation else "diffrax, batched"
        if not bench.rival(figure, kind, whole.formulation, whole.call, wall=True):
            bench.rival(figure, kind, part.formulation, part.call, len(task.y0) / few, wall=True)
