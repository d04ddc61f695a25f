# SPDX-License-Identifier: MIT
"""What a device adds to calling a kernel: streams, CUDA graphs, no waiting, torch.compile, autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gpu_tools import Bench

import nnsym_fast as nf

__all__ = ["check_runtime"]

SLEEP = 50_000_000
"""Cycles that a stream sleeps before its input is complete: who does not wait for it reads what was there before."""


class Case(NamedTuple):
    """A function of one tensor on the device.

    ``waits``: reads a number from the device where no graph is captured, and takes other steps in a graph.
    """

    name: str
    call: Callable[[torch.Tensor], torch.Tensor]
    argument: torch.Tensor
    compiles: bool = True
    waits: bool = False


def cases(bench: Bench) -> Iterator[Case]:
    """One or two of every family."""
    n = 4 if bench.emulated else 300
    widths = [3, 6, 2] if bench.emulated else [20, 300, 70, 5]
    spec = nf.specs.mlp(widths, activation="relu")
    shapes = nf.specs.shapes(nf.specs.mlp_layers(widths))
    params = {name: bench.tensor(bench.rng.standard_normal(shape), torch.float32) for name, shape in shapes.items()}
    stacked = bench.tensor(bench.rng.standard_normal((n, *shapes["0.weight"])), torch.float32)
    rest = {name: value.expand(n, *value.shape).contiguous() for name, value in params.items()}

    def augmented(weight: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = nf.augment({**rest, "0.weight": weight}, spec, seed=1)["0.weight"]
        return result

    yield Case("augment", augmented, stacked, compiles=False)

    def line(w: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = nf.wilson.wilson_line(w, 1 / 16)
        return result

    for d in (2, 4) if bench.emulated else (2, 4, 16, 40):
        w = bench.rng.standard_normal((n, 6, d, d)) / np.sqrt(d)
        yield Case(f"wilson_line, d = {d}", line, bench.tensor(w, torch.float32), waits=d > LARGEST)
    u = np.eye(3) + bench.rng.standard_normal((n, 6, 3, 3)) / 8
    yield Case("cumulative_product", nf.wilson.cumulative_product, bench.tensor(u, torch.float32))
    sizes = [(2, 5)] if bench.emulated else [(2, 64), (32, 128)]
    for d, h in sizes:
        mlp = torch.nn.Sequential(torch.nn.Linear(d, h), torch.nn.Tanh(), torch.nn.Linear(h, d)).to(bench.device)
        field = nf.ode.MLP.from_torch(mlp.requires_grad_(False))
        for options in (
            {"method": "rk4", "options": {"steps": 5, "compiled": "require"}},
            {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4, "options": {"compiled": "require"}},
        ):

            def solved(y0: torch.Tensor, field: Any = field, options: Any = options) -> torch.Tensor:
                result: torch.Tensor = nf.odeint(field, y0, TIMES, **options)
                return result

            y0 = bench.tensor(bench.rng.standard_normal((n, d)), torch.float32)
            yield Case(f"{options['method']}, MLP {d}-{h}-{d}", solved, y0)


LARGEST = 32
"""Beyond, exponentials are torch's matrix products, as many as the largest norm asks for."""

TIMES = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
"""On the CPU: their values are arguments of the kernels."""


def check_runtime(bench: Bench) -> None:
    with torch.no_grad():
        for case in cases(bench):
            expected = bench.attempt(case.name, lambda case=case: case.call(case.argument))
            if expected is None:
                continue
            if not bench.emulated:
                _stream(bench, case, expected)
                if not case.waits:
                    _no_waiting(bench, case)
                _graph(bench, case, expected)
            _compiled(bench, case, expected)
    if not bench.emulated:
        _orbit_graph(bench)
    _gradcheck(bench)


def _stream(bench: Bench, case: Case, expected: torch.Tensor) -> None:
    """On a stream of its own whose input arrives late."""

    def late() -> torch.Tensor:
        argument = torch.zeros_like(case.argument)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(SLEEP)
            argument.copy_(case.argument)
            result = case.call(argument)
        stream.synchronize()
        return result

    result = bench.attempt(f"{case.name}: on a stream", late)
    if result is not None:
        bench.check(f"{case.name}: on a stream", result, expected, 0.0)


def _no_waiting(bench: Bench, case: Case) -> None:
    """Torch raises where it would wait for the device; and the call returns while the stream still sleeps."""

    def call() -> float:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            case.call(case.argument)  # what the first call uploads, and this stream's memory
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(SLEEP)
                case.call(case.argument)
            waiting = not stream.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        return 0.0 if waiting else 1.0

    result = bench.attempt(f"{case.name}: does not wait", call)
    if result is not None:
        bench.check(f"{case.name}: does not wait", np.array(result), np.array(0.0), 0.0)


def _graph(bench: Bench, case: Case, expected: torch.Tensor) -> None:
    """Captured on another stream than the first call's, with other input; replayed twice."""

    def captured() -> torch.Tensor:
        static = torch.zeros_like(case.argument)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            case.call(static)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = case.call(static)
        static.copy_(case.argument)
        for _ in range(2):
            result.fill_(torch.nan)
            graph.replay()
        torch.cuda.synchronize()
        return result.clone()

    result = bench.attempt(f"{case.name}: in a graph", captured)
    if result is not None:
        bench.check(f"{case.name}: in a graph", result, expected, 1e-5 if case.waits else 0.0)


def _orbit_graph(bench: Bench) -> None:
    """Points into given buffers, in a graph; one of a monomial group, one of dense ones."""
    llama = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20,
    }  # fmt: skip
    for name, spec in (("mlp", nf.specs.mlp([20, 300, 5])), ("llama", nf.specs.transformer(llama))):
        shapes = {key: tuple(spec.axis_length(axis) or 20 for axis in axes) for key, axes in spec.legs.items()}
        params = {key: torch.randn(shape, device=bench.device) for key, shape in shapes.items()}

        def captured(spec: Any = spec, params: Any = params) -> Any:
            orbit = nf.Orbit(params, spec, seed=5)
            expected = orbit.points(3, 10)
            out = orbit.points(0, 7)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                orbit.points(3, 10, out=out)
            for value in out.values():
                value.fill_(torch.nan)
            graph.replay()
            torch.cuda.synchronize()
            return out, expected

        found = bench.attempt(f"orbit of {name}: in a graph", captured)
        if found is not None:
            bench.check(f"orbit of {name}: in a graph", found[0], found[1], 0.0)


def _compiled(bench: Bench, case: Case, expected: torch.Tensor) -> None:
    """Inside a function that torch.compile takes whole."""
    if not case.compiles:
        return

    def call() -> torch.Tensor:
        torch.compiler.reset()
        backend = "aot_eager" if bench.emulated else "inductor"
        function = torch.compile(lambda x: 2 * case.call(x) + 1, fullgraph=True, backend=backend)
        result: torch.Tensor = function(case.argument)
        return result

    result = bench.attempt(f"{case.name}: torch.compile", call)
    if result is not None:
        bench.check(f"{case.name}: torch.compile", result, 2 * expected + 1, 1e-6)


def _gradcheck(bench: Bench) -> None:
    """First derivatives against differences, in double precision."""

    def leaf(*shape: int) -> torch.Tensor:
        return bench.tensor(bench.rng.standard_normal(shape), torch.float64).requires_grad_()

    mlp = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(bench.device).double()
    spec = nf.specs.mlp([2, 3, 1])
    elements = spec.sample(2, seed=1)
    bias = {name: leaf(*shape).detach() for name, shape in nf.specs.shapes(nf.specs.mlp_layers([2, 3, 1])).items()}

    def act(weight: torch.Tensor) -> Any:
        return nf.act(spec, elements, {**bias, "0.weight": weight})["0.weight"]

    def solved(y0: torch.Tensor) -> Any:
        return nf.odeint(mlp, y0, TIMES, method="rk4", options={"steps": 2})[-1]

    functions: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
        "wilson_line": (lambda w: nf.wilson.wilson_line(w, 0.1), leaf(1, 3, 2, 2)),
        "act": (act, leaf(3, 2)),
        "odeint": (solved, leaf(2, 2)),
    }
    for name, (function, argument) in functions.items():

        def call(function: Any = function, argument: Any = argument) -> float:
            return 0.0 if torch.autograd.gradcheck(function, (argument,)) else 1.0

        wrong = bench.attempt(f"gradcheck of {name}", call)
        if wrong is not None:
            bench.check(f"gradcheck of {name}", np.array(wrong), np.array(0.0), 0.0)
