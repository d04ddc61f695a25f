# SPDX-License-Identifier: MIT
"""Gradients of the driver: through the steps, with few states kept, and by the adjoint equation."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnsym_fast.ode.controller import Control
from nnsym_fast.tableaus import tableau

torch = pytest.importorskip("torch")
driver = pytest.importorskip("nnsym_fast.ode.driver")
gradients = pytest.importorskip("nnsym_fast._torch.driver")


class Field(torch.nn.Module):  # type: ignore[misc]
    """A small network of the state and the time, of whatever shape that is."""

    def __init__(self, d: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = torch.nn.Linear(d + 1, 6).double(), torch.nn.Linear(6, d).double()

    def forward(self, t: Any, y: Any) -> Any:
        time = t[..., None] if t.ndim else t
        return self.outer(torch.tanh(self.inner(torch.cat([y, time.expand(*y.shape[:-1], 1)], -1))))


def control(rtol: float = 1e-10, atol: float = 1e-12, **options: Any) -> Control:
    return Control.from_options(rtol, atol, options)[0]


def start(*shape: int) -> Any:
    return torch.from_numpy(np.random.default_rng(2).normal(size=shape)).requires_grad_()


def times(backward: bool = False) -> Any:
    t = torch.linspace(0.0, 1.5, 4, dtype=torch.float64)
    return (t.flip(0) if backward else t).requires_grad_()


def pulled(solution: Callable[[], Any], *inputs: Any) -> list[Any]:
    """A solution, and its gradients against random directions."""
    ys = solution()
    weights = torch.from_numpy(np.random.default_rng(3).normal(size=tuple(ys.shape)))
    return [ys.detach(), *torch.autograd.grad((ys * weights.to(ys.dtype)).real.sum(), inputs)]


def close(found: list[Any], expected: list[Any], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- through the steps


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("method", ["euler", "rk4", "rk4_38", "dopri5", "dopri8"])
def test_fixed_steps_are_differentiated_exactly(method: str, batch_step: str) -> None:
    """In the start, in the parameters, and in t, with which the grid moves; a jump stays."""
    func, y0 = Field(2), start(2, 2)
    options = control(steps=2, jump_t=[0.7], batch_step=batch_step)

    def solution(y0: Any, t: Any, *params: Any) -> Any:
        return driver.integrate(func, y0, t, tableau(method), options).ys

    assert torch.autograd.gradcheck(solution, (y0, times(), *func.parameters()))


def test_times_of_each_sample_are_differentiated() -> None:
    func, y0 = Field(2), start(2, 2)
    t = torch.stack([times().detach(), 1 - 2 * times().detach()]).requires_grad_()
    for options in (control(steps=2, batch_step="sample"), control(step_size=0.4, jump_t=[0.3], batch_step="sample")):

        def solution(y0: Any, t: Any) -> Any:
            return driver.integrate(func, y0, t, tableau("rk4"), options).ys  # noqa: B023

        assert torch.autograd.gradcheck(solution, (y0, t))


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_adaptive_steps_agree_with_many_fixed_ones(method: str, backward: bool, batch_step: str) -> None:
    func, y0, t = Field(), start(5, 3), times(backward)
    inputs = (y0, t, *func.parameters())
    expected = pulled(lambda: driver.integrate(func, y0, t, tableau("dopri8"), control(steps=20)).ys, *inputs)
    options = control(1e-9, 1e-11, batch_step=batch_step)
    found = pulled(lambda: driver.integrate(func, y0, t, tableau(method), options).ys, *inputs)
    close(found, expected, 1e-6)


def test_complex_and_tuple_states() -> None:
    frequency = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0 + 1j, 2.0], dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def rotated(y0: Any, frequency: Any) -> Any:
        return driver.integrate(lambda t, y: 1j * frequency * y, y0, t, tableau("rk4"), control(steps=2)).ys

    assert torch.autograd.gradcheck(rotated, (y0, frequency))

    def pendulum(x: Any, v: Any) -> Any:
        return driver.integrate(lambda t, s: (s[1], -torch.sin(s[0])), (x, v), t, tableau("rk4"), control(steps=2)).ys

    assert torch.autograd.gradcheck(pendulum, (start(2, 1), start(2, 1)))


def test_second_derivatives() -> None:
    func, t = Field(2), times().detach()

    def solution(y0: Any) -> Any:
        return driver.integrate(func, y0, t, tableau("rk4"), control()).ys

    assert torch.autograd.gradgradcheck(solution, (start(1, 2),))


def test_vmap_over_fixed_steps() -> None:
    func, y0, t = Field(2), start(5, 2).detach(), times().detach()

    def solution(y: Any) -> Any:
        return driver.integrate(func, y, t, tableau("rk4"), control(steps=3)).ys

    torch.testing.assert_close(torch.func.vmap(solution, out_dims=1)(y0), solution(y0))
    jacobians = torch.func.vmap(torch.func.jacrev(solution))(y0)
    assert jacobians.shape == (5, 4, 2, 2)


@pytest.mark.parametrize("options", [{}, {"steps": 40}])
def test_a_sample_that_ends_early_poisons_nothing(options: dict[str, Any]) -> None:
    """Gradients of values that were not reached are zero, and those of the others are what they are alone."""
    rate = torch.ones((), dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[0.5], [2.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    t, settings = times().detach(), control(1e-8, 1e-10, batch_step="sample", **options)

    def loss(y0: Any) -> Any:
        ys = driver.integrate(lambda t, y: rate * y**2, y0, t, tableau("dopri5"), settings).ys
        return torch.where(torch.isnan(ys), 0.0, ys).sum()

    found = torch.autograd.grad(loss(y0), (y0, rate))
    alone = torch.autograd.grad(loss(y0[[0, 2]]), (y0, rate))
    torch.testing.assert_close(found[0][[0, 2]], alone[0][[0, 2]], rtol=1e-6, atol=1e-6)
    assert all(torch.isfinite(grad).all() for grad in found)


def test_event_states_are_differentiated() -> None:
    y0, t = start(3, 2), times().detach()
    settings = control(batch_step="sample")
    found = driver.integrate(
        lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1), y0, t, tableau("dopri5"), settings, ((1.0, 0.0), 0.1, 0)
    )
    (grad,) = torch.autograd.grad(found.y_end.sum(), y0)
    angle = found.t_end
    torch.testing.assert_close(grad[:, 0], torch.cos(angle) - torch.sin(angle), rtol=1e-7, atol=1e-7)


# --- checkpoints


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("checkpoints", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("method", "options"), [("dopri5", {}), ("dopri8", {"jump_t": [0.4]}), ("rk4", {"steps": 5, "jump_t": [0.4]})]
)
def test_checkpoints_change_nothing(method: str, options: dict[str, Any], checkpoints: int, batch_step: str) -> None:
    func, y0, t = Field(), start(4, 3), times()
    inputs, settings = (y0, t, *func.parameters()), {**options, "batch_step": batch_step}
    expected = pulled(lambda: driver.integrate(func, y0, t, tableau(method), control(**settings)).ys, *inputs)
    settings["checkpoints"] = checkpoints
    found = pulled(lambda: driver.integrate(func, y0, t, tableau(method), control(**settings)).ys, *inputs)
    close(found, expected, 1e-12)


def test_checkpoints_find_what_a_function_closes_over() -> None:
    matrix, y0, t = start(3, 3), start(2, 3), times().detach()
    hidden = torch.tanh(matrix)  # not a leaf
    settings = control(steps=3), control(steps=3, checkpoints=2)

    def solution(settings: Control) -> Any:
        return driver.integrate(lambda t, y: torch.sin(y @ hidden), y0, t, tableau("rk4"), settings).ys

    expected, found = ([*torch.autograd.grad(solution(s).sum(), (y0, matrix), retain_graph=True)] for s in settings)
    close(found, expected, 1e-12)
    late = torch.ones(3, dtype=torch.float64, requires_grad=True)
    ys = driver.integrate(lambda t, y: y * late if t > 0.9 else y, y0, t, tableau("rk4"), settings[1]).ys
    with pytest.raises(RuntimeError, match="did not use at the first time"):
        ys.sum().backward()


def test_the_schedule_of_checkpoints() -> None:
    """No more states than allowed, and no more steps than the binomial schedule takes (Griewank, Walther 2000)."""
    for length, slots in ((1, 1), (10, 1), (10, 3), (35, 3), (100, 5), (100, 200)):
        moved: list[int] = []
        reverse = gradients._Reverse.__new__(gradients._Reverse)
        reverse._back = lambda number, state, costate: costate + [(number, state)]  # noqa: RUF005
        reverse._forth = lambda first, stop, state: moved.append(stop - first) or stop  # noqa: B023
        seen = reverse.segment(0, length, 0, slots, [])
        assert seen == [(i, i) for i in range(length)][::-1], "each step once, from its own state"
        repeats = next(r for r in range(length) if gradients.math.comb(slots + r, slots) >= length)
        assert sum(moved) <= repeats * length


# --- the adjoint equation


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("method", "options"), [("dopri5", {}), ("dopri8", {"jump_t": [0.5]}), ("rk4", {"steps": 60})])
def test_adjoint(method: str, options: dict[str, Any], backward: bool, batch_step: str) -> None:
    func, y0, t = Field(), start(4, 3), times(backward)
    inputs = (y0, t, *func.parameters())
    expected = pulled(lambda: driver.integrate(func, y0, t, tableau("dopri8"), control(steps=20)).ys, *inputs)
    settings = control(batch_step=batch_step, **options)

    def solution() -> Any:
        return driver.adjoint(
            func, y0, t, tableau(method), settings,
            adjoint_params=None, adjoint_tableau=tableau(method), adjoint_control=settings,
        )  # fmt: skip

    close(pulled(solution, *inputs), expected, 1e-7)


def adjoint(func: Any, y0: Any, t: Any, params: Any = None, **options: Any) -> Any:
    settings = control(**options)
    return driver.adjoint(
        func, y0, t, tableau("dopri5"), settings,
        adjoint_params=params, adjoint_tableau=tableau("dopri5"), adjoint_control=settings,
    )  # fmt: skip


def test_adjoint_of_times_of_each_sample() -> None:
    func, y0 = Field(2), start(3, 2)
    t = torch.stack([times().detach() * s for s in (1.0, -0.5, 2.0)]).requires_grad_()
    inputs = (y0, t, *func.parameters())
    exact = control(steps=20, batch_step="sample")
    expected = pulled(lambda: driver.integrate(func, y0, t, tableau("dopri8"), exact).ys, *inputs)
    close(pulled(lambda: adjoint(func, y0, t, batch_step="sample"), *inputs), expected, 1e-7)


def test_adjoint_of_complex_and_tuple_states() -> None:
    t = times().detach()
    matrix = torch.complex(start(2, 2).detach(), start(2, 2).detach() / 3).requires_grad_()
    y0 = torch.complex(start(3, 2).detach(), start(3, 2).detach()).requires_grad_()
    field = lambda t, y: y @ matrix  # noqa: E731
    expected = pulled(lambda: driver.integrate(field, y0, t, tableau("dopri8"), control(steps=9)).ys, y0, matrix)
    close(pulled(lambda: adjoint(field, y0, t, [matrix]), y0, matrix), expected, 1e-7)
    x, v, strength = start(3, 1), start(3, 2), torch.ones(1, dtype=torch.float64, requires_grad=True)
    pair = lambda t, s: (s[1].sum(1, keepdim=True), -strength * torch.sin(s[0]) * s[1])  # noqa: E731
    joined = lambda ys: torch.cat(ys, -1)  # noqa: E731
    expected = pulled(
        lambda: joined(driver.integrate(pair, (x, v), t, tableau("dopri8"), control(steps=9)).ys), x, v, strength
    )
    close(pulled(lambda: joined(adjoint(pair, (x, v), t, [strength])), x, v, strength), expected, 1e-7)


def test_adjoint_params() -> None:
    y0, t, rate = start(2, 2), times().detach(), torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="adjoint_params: expected the tensors that func depends on"):
        adjoint(lambda t, y: -rate * y, y0, t)
    with pytest.raises(TypeError, match="y0: expected a torch tensor"):
        adjoint(lambda t, y: -y, np.ones((2, 2)), [0.0, 1.0], ())
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    ys = adjoint(lambda t, y: -rate * y, y0, t, [rate, unused, torch.ones(1)])
    grads = torch.autograd.grad(ys.sum(), (y0, rate, unused), allow_unused=True)
    torch.testing.assert_close(grads[0], torch.exp(-t).sum() * torch.ones_like(y0))
    assert grads[2] is None
    constant = adjoint(lambda t, y: torch.ones_like(y), y0, t, ())
    torch.testing.assert_close(torch.autograd.grad(constant.sum(), y0)[0], torch.full_like(y0, len(t)))


def test_adjoint_says_where_it_failed() -> None:
    y0, t = torch.full((1, 1), 2.0, dtype=torch.float64, requires_grad=True), times().detach()
    with pytest.warns(RuntimeWarning, match="on the way forward"):
        ys = adjoint(lambda t, y: y**2, y0, t, ())
    (grad,) = torch.autograd.grad(torch.where(torch.isnan(ys), 0.0, ys).sum(), y0)
    assert torch.isfinite(grad).all()


# --- compilers


def test_compiled_functions() -> None:
    """A compiled function runs compiled; a compiled caller calls the driver, which is not traced."""
    graphs: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    func, y0, t, settings, method = Field(2), start(3, 2), times().detach(), control(), tableau("dopri5")
    expected = pulled(lambda: driver.integrate(func, y0, t, method, settings).ys, y0)
    compiled = torch.compile(lambda t, y: func(t, y), backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        close(pulled(lambda: driver.integrate(compiled, y0, t, method, settings).ys, y0), expected, 1e-12)
        assert graphs
        caller = torch.compile(lambda y: driver.integrate(func, y * 1, t, method, settings).ys * 1, backend=backend)
        close(pulled(lambda: caller(y0), y0), expected, 1e-12)
