# SPDX-License-Identifier: MIT
"""A peer's problems at its own tolerances: torchdiffeq's tests (Chen 2018), as torch functions through the driver.

Its tests ask for a mean relative error of 1e-3 at t in [1, 8] with its default rtol 1e-7, atol 1e-9 in float64, of 4e-3
for the fixed methods of low order, on a grid of ten times, in both directions of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.linalg
import torch
import torchdiffeq
from ode_cases import ADAPTIVE, ORDERS

import nnsym_fast as nf

NEVER = {"compiled": "never"}


class Problem(NamedTuple):
    """f(t, y) and the solution at all t."""

    f: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    exact: Callable[[torch.Tensor], torch.Tensor]


def constant() -> Problem:
    """y' = a + (y - (a t + b))^5."""
    a, b = 0.2, 3.0
    return Problem(lambda t, y: a + (y - (a * t + b)) ** 5, lambda t: (a * t + b)[:, None])


def sine() -> Problem:
    """y' = 2 y / t + t^4 sin 2t - t^2 + 4 t^3."""

    def exact(t: torch.Tensor) -> torch.Tensor:
        y = -0.5 * t**4 * torch.cos(2 * t) + 0.5 * t**3 * torch.sin(2 * t) + 0.25 * t**2 * torch.cos(2 * t)
        return (y - t**3 + 2 * t**4 + (math.pi - 0.25) * t**2)[:, None]

    return Problem(lambda t, y: 2 * y / t + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3, exact)


def linear() -> Problem:
    """y' = A y with A antisymmetric, ten components."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((10, 10)) * 0.1
    a = 2 * u - (u + u.T)
    y0 = np.ones(10)

    def exact(t: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.stack([scipy.linalg.expm(a * s) @ y0 for s in t.tolist()]))

    return Problem(lambda t, y: torch.from_numpy(a) @ y, exact)


def exponential() -> Problem:
    """y' = y - t, whose solution 1 + t + c e^t is taken with c = 1e-2."""
    return Problem(lambda t, y: y - t, lambda t: (1 + t + 0.01 * torch.exp(t))[:, None])


PROBLEMS = {"constant": constant, "sine": sine, "linear": linear, "exp": exponential}


def relative_error(exact: torch.Tensor, found: torch.Tensor) -> float:
    """The peer's measure."""
    return float(torch.mean(torch.abs((exact - found) / (exact + 1e-8))))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods(method: str, name: str, reverse: bool) -> None:
    problem = PROBLEMS[name]()
    t = torch.linspace(1, 8, 10, dtype=torch.float64)
    t = t.flip(0) if reverse else t
    exact = problem.exact(t)
    settings = {"rtol": 1e-7, "atol": 1e-9} if method != "heun2" else {"rtol": 1e-6, "atol": 1e-8}
    found = nf.odeint(problem.f, exact[0], t, method=method, options=NEVER, **settings)
    assert found.shape == exact.shape
    assert relative_error(exact, found) < 1e-3
    back = nf.odeint_adjoint(
        problem.f, exact[0], t, method=method, options=NEVER, adjoint_params=(), **settings
    )  # fmt: skip
    np.testing.assert_array_equal(back, found)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ORDERS)
def test_fixed_methods(method: str, name: str, reverse: bool) -> None:
    problem = PROBLEMS[name]()
    t = torch.linspace(1, 8, 10, dtype=torch.float64)
    t = t.flip(0) if reverse else t
    exact = problem.exact(t)
    size = {1: 2e-3, 2: 1e-2}.get(ORDERS[method], 2e-2)
    found = nf.odeint(problem.f, exact[0], t, method=method, options={"step_size": size, **NEVER})
    assert relative_error(exact, found) < (3e-2 if method == "euler" else 4e-3)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_gradients_are_those_of_the_peer(method: str) -> None:
    """Through the steps and by backsolve, for parameters, the start and the times."""
    a = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.2, 0.3], dtype=torch.float64, requires_grad=True)
    t = torch.linspace(0, 2, 4, dtype=torch.float64).requires_grad_()

    class Spiral(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(a.detach().clone())

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return y**3 @ self.a

    func = Spiral()
    weights = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    found = []
    for solver in (
        lambda: nf.odeint(func, y0, t, method=method, rtol=1e-9, atol=1e-10, options=NEVER),
        lambda: nf.odeint_adjoint(func, y0, t, method=method, rtol=1e-9, atol=1e-10, options=NEVER),
        lambda: torchdiffeq.odeint_adjoint(func, y0, t, method="dopri8", rtol=1e-10, atol=1e-11),
    ):
        loss = (weights * solver()).sum()
        found.append(torch.autograd.grad(loss, [y0, func.a, t]))
    for ours in found[:2]:
        for mine, theirs in zip(ours, found[2], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-6)
