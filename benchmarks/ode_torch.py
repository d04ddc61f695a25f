# SPDX-License-Identifier: MIT
"""Neural ODEs in torch: torchdiffeq with the field as it is and compiled, torchode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from ode_work import Problem
from peers import Peer

__all__ = ["adaptive_gradient_peers", "adaptive_peers", "gradient", "module", "rk4_gradient_peers", "rk4_peers"]

Tensor = torch.Tensor
Solver = Callable[..., Tensor]
ACTIVATIONS = {"tanh": torch.nn.Tanh, "softplus": torch.nn.Softplus}


class Field(torch.nn.Module):
    """f(t, y) of a network that knows no time."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.network(y)
        return result


def module(problem: Problem) -> torch.nn.Sequential:
    """The field's network with its own copy of the parameters."""
    layers: list[torch.nn.Module] = []
    for weight, bias, name in zip(problem.weights, problem.biases, problem.activations, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)
        layers += [linear, ACTIVATIONS[name]()] if name != "identity" else [linear]
    return torch.nn.Sequential(*layers)


def fields(problem: Problem) -> Iterator[tuple[str, torch.nn.Module]]:
    """The field, and the field through torch.compile."""
    yield "eager", Field(module(problem))
    # Otherwise the shapes of all benchmarks exceed the recompilation limit, and torch falls back to eager mode.
    torch.compiler.reset()
    yield "torch.compile of the field", Field(torch.compile(module(problem), dynamic=False))


def _end(solve: Solver, field: torch.nn.Module, problem: Problem) -> Callable[[], Tensor]:
    y0, t = torch.tensor(problem.y0), torch.tensor([0.0, problem.t1])

    def call() -> Tensor:
        with torch.no_grad():
            return solve(field, y0, t)[-1]

    return call


def gradient(solve: Solver, field: torch.nn.Module, problem: Problem) -> Callable[[], Tensor]:
    """A call that returns the gradient of <slope, y(t1)> by all parameters, flat; forward and reverse pass."""
    y0, t, slope = torch.tensor(problem.y0), torch.tensor([0.0, problem.t1]), torch.tensor(problem.slope)
    parameters = tuple(field.parameters())

    def call() -> Tensor:
        found = torch.autograd.grad(solve(field, y0, t)[-1], parameters, slope)
        return torch.cat([part.reshape(-1) for part in found])

    return call


def _rk4(problem: Problem, steps: int, odeint: Solver) -> Solver:
    return partial(odeint, method="rk4", options={"step_size": problem.t1 / steps})


def rk4_peers(problem: Problem, steps: int) -> Iterator[Peer]:
    """torchdiffeq's rk4 (the 3/8 rule) in so many steps."""
    if find_spec("torchdiffeq"):
        from torchdiffeq import odeint

        for note, field in fields(problem):
            yield Peer("torchdiffeq", f"rk4, {note}", _end(_rk4(problem, steps, odeint), field, problem), slow=True)


def adaptive_peers(problem: Problem, tolerance: float) -> Iterator[Peer]:
    """torchdiffeq's dopri5 and torchode's tsit5."""
    if find_spec("torchdiffeq"):
        from torchdiffeq import odeint

        solve = partial(odeint, method="dopri5", rtol=tolerance, atol=tolerance)
        for note, field in fields(problem):
            yield Peer("torchdiffeq", f"dopri5, {note}", _end(solve, field, problem))
    if find_spec("torchode"):
        yield Peer("torchode", "tsit5, eager", _torchode(problem, tolerance))


def _torchode(problem: Problem, tolerance: float) -> Callable[[], Tensor]:
    import torchode

    term = torchode.ODETerm(Field(module(problem)))  # type: ignore[no-untyped-call]
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
    y0, ends = torch.tensor(problem.y0), torch.tensor([[0.0, problem.t1]]).repeat(len(problem.y0), 1)

    def call() -> Tensor:
        with torch.no_grad():
            start = torchode.InitialValueProblem(y0=y0, t_start=ends[:, 0], t_end=ends[:, 1], t_eval=ends)
            result: Tensor = solver.solve(start).ys[:, -1]
            return result

    return call


def rk4_gradient_peers(problem: Problem, steps: int) -> Iterator[Peer]:
    """torchdiffeq's rk4 with backpropagation through its steps, and with its adjoint method."""
    if find_spec("torchdiffeq"):
        from torchdiffeq import odeint, odeint_adjoint

        yield from _backpropagated(problem, _rk4(problem, steps, odeint))
        call = gradient(_rk4(problem, steps, odeint_adjoint), Field(module(problem)), problem)
        yield Peer("torchdiffeq adjoint", "rk4, odeint_adjoint, eager", call, slow=True)


def adaptive_gradient_peers(problem: Problem, tolerance: float) -> Iterator[Peer]:
    """torchdiffeq's dopri5 with backpropagation through its steps."""
    if find_spec("torchdiffeq"):
        from torchdiffeq import odeint

        yield from _backpropagated(problem, partial(odeint, method="dopri5", rtol=tolerance, atol=tolerance))


def _backpropagated(problem: Problem, solve: Solver) -> Iterator[Peer]:
    for note, field in fields(problem):
        yield Peer("torchdiffeq", f"odeint, backpropagation, {note}", gradient(solve, field, problem), slow=True)
