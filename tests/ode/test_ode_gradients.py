# SPDX-License-Identifier: MIT
"""Gradients of compiled fields against those that torch finds through the same steps in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ode_fields import FIELDS, start

from nnsym_fast import _ode, ode

torch = pytest.importorskip("torch")

TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}
TIMES = [0.0, 0.4, 1.0]


def leaves(name: str, samples: int = 2) -> list[Any]:
    arrays = [start(name, samples), *(array.copy() for array in FIELDS[name][0])]
    return [torch.from_numpy(array).requires_grad_() for array in arrays]


def gradients(name: str, args: Any, call: Callable[..., Any] = ode.odeint, **settings: Any) -> Any:
    y0, *params = args
    out = call(FIELDS[name][1](params), y0, TIMES, **settings)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).reshape(out.shape)
    return torch.autograd.grad((weights * out.sin()).sum(), args)


def close(a: Any, b: Any, tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("name", ["mlp concat", "mlp gate", "sphere", "metric"])
def test_the_driver_agrees(name: str, method: str) -> None:
    """The same steps in Python, and one step for the batch: torch differentiates them, the kernel only the field."""
    args = leaves(name)
    found = gradients(name, args, method=method, **TIGHT)
    close(gradients(name, args, method=method, options={"compiled": "never"}, **TIGHT), found, 1e-9)
    if method != "rk4":
        close(gradients(name, args, method=method, options={"batch_step": "shared"}, **TIGHT), found, 1e-7)


@pytest.mark.parametrize("options", [{"compiled": "never"}, {"batch_step": "shared"}])
def test_the_adjoint_of_the_driver_agrees(options: dict[str, Any]) -> None:
    args = leaves("mlp concat")
    found = gradients("mlp concat", args, ode.odeint_adjoint, **TIGHT)
    close(gradients("mlp concat", args, ode.odeint_adjoint, options=options, **TIGHT), found, 1e-7)


def test_modules_agree() -> None:
    """A module in the kernel and from Python, by both gradients."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.SiLU(), torch.nn.Linear(6, 2)).double()
    y0 = torch.randn(3, 2, dtype=torch.float64)
    found = []
    for call in (ode.odeint, ode.odeint_adjoint):
        for compiled in ("require", "never"):
            net.zero_grad()
            call(net, y0, TIMES, options={"compiled": compiled}, **TIGHT).square().sum().backward()
            found.append([p.grad.clone() for p in net.parameters()])
    for other in found[1:]:
        close(other, found[0], 1e-7)


def test_parameters_cross_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the kernel per pass, whatever the number of steps; nothing is read from the module in between."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    calls: list[str] = []

    def count(name: str) -> None:
        original = getattr(_ode, name)

        def counted(*args: Any) -> Any:
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(_ode, name, counted)

    for name in ("integrate", "gradient", "adjoint", "field", "field_vjp"):
        count(name)
    read: list[str] = []
    plain = torch.nn.Module.__getattr__

    def watched(self: Any, name: str) -> Any:
        if name == "weight":
            read.append(name)
        return plain(self, name)

    monkeypatch.setattr(torch.nn.Module, "__getattr__", watched)
    ode.odeint(net, torch.ones(4, 2), TIMES, method="rk4", options={"steps": 500}).sum().backward()
    assert calls == ["integrate", "gradient"]
    assert len(read) <= 2
    calls.clear()
    ode.odeint_adjoint(net, torch.ones(4, 2), TIMES, method="rk4", options={"steps": 500}).sum().backward()
    assert calls == ["integrate", "adjoint", "adjoint"]


def test_gradients_with_an_event() -> None:
    """Rows before the event have the gradients that they have without it."""
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    rotation = ode.Linear(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))
    times = [0.0, 0.5, 1.0, 3.0]
    ended = ode.solve(rotation, y0, times, event=ode.Event(component=0), **TIGHT)
    assert ended.status.tolist() == [ode.Status.EVENT]
    (found,) = torch.autograd.grad(ended.ys[:3].sum(), y0)
    (expected,) = torch.autograd.grad(ode.odeint(rotation, y0, times, **TIGHT)[:3].sum(), y0)
    close([found], [expected], 1e-9)
    arrived = ode.solve(rotation, y0, times[:3], event=ode.Event(component=0), **TIGHT)
    (found,) = torch.autograd.grad(arrived.y_end.sum(), y0, retain_graph=True)
    (expected,) = torch.autograd.grad(arrived.ys[-1].sum(), y0)
    close([found], [expected], 1e-12)
