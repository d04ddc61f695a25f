# SPDX-License-Identifier: MIT
"""Compiled fields under torch: gradients, torch.func, torch.compile, the registered operators."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, ORDERS
from ode_fields import FIELDS, field, start

from nnsym_fast import _device, ode
from nnsym_fast._ode import FieldCode

torch = pytest.importorskip("torch")

N = 2
FIXED = {"steps": 3}
HOME = torch.device("cpu")
"""Where states and parameters of the test under way are; times are on the CPU."""

everywhere = pytest.mark.usefixtures("home")


@pytest.fixture
def home(any_device: Any) -> Iterator[None]:
    """For a test that runs everywhere; the others are those of the CPU, as the emulation of a device is slow."""
    global HOME
    HOME = any_device
    yield
    HOME = torch.device("cpu")


def tensors(name: str, requires_grad: bool = True) -> list[Any]:
    return [torch.from_numpy(array.copy()).to(HOME).requires_grad_(requires_grad) for array in FIELDS[name][0]]


def times(*values: float, requires_grad: bool = False) -> Any:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def states(name: str, *batch: int, requires_grad: bool = False, seed: int = 0) -> Any:
    return torch.from_numpy(start(name, *batch, seed=seed)).to(HOME).requires_grad_(requires_grad)


def solver(name: str, call: Callable[..., Any] = ode.odeint, **options: Any) -> Callable[..., Any]:
    """y0, t and parameters to ys."""
    build = FIELDS[name][1]
    return lambda y0, t, *params: call(build(params), y0, t, **options)


def close(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def slopes(function: Callable[..., Any], args: Any) -> Any:
    """Gradients of a number that depends on all results."""
    out = function(*args)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    used = [x for x in args if x.requires_grad]
    return torch.autograd.grad((weights * out.sin()).sum(), used)


# --- gradients


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("name", ["mlp concat", "linear cubic", "sphere"])
def test_gradients_of_every_method(name: str, method: str) -> None:
    """Of y0, t and parameters, through fixed steps, forwards in time."""
    args = (states(name, N, requires_grad=True), times(0.0, 0.3, 0.7, requires_grad=True), *tensors(name))
    function = solver(name, method=method, options={"steps": 2})
    assert torch.autograd.gradcheck(function, args, fast_mode=ORDERS[method] > 5)


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_of_every_field(name: str) -> None:
    """Backwards in time, one time range for each sample."""
    t = torch.stack([times(0.9, 0.4, 0.05), times(0.8, 0.2, -0.2)]).requires_grad_()
    args = (states(name, N, requires_grad=True), t, *tensors(name))
    assert torch.autograd.gradcheck(solver(name, method="rk4", options=FIXED), args)


@pytest.mark.parametrize("name", FIELDS)
def test_gradients_of_a_field(name: str) -> None:
    build = FIELDS[name][1]
    for t in (torch.tensor(0.2, dtype=torch.float64), times(0.2, -0.9)):
        args = (t.requires_grad_(), states(name, N, requires_grad=True), *tensors(name))
        assert torch.autograd.gradcheck(lambda t, y, *p: build(p)(t, y), args)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("name", ["mlp gate", "sphere", "metric"])
def test_adaptive_gradients_are_those_of_the_flow(name: str, method: str) -> None:
    """At tight tolerances, against many fixed steps of another method; t as well."""
    args = (states(name, N, requires_grad=True), times(0.0, 0.21, 0.4, requires_grad=True), *tensors(name))
    tolerance = {"rtol": 1e-6, "atol": 1e-8} if ORDERS[method] < 4 else {"rtol": 1e-10, "atol": 1e-12}
    found = slopes(solver(name, method=method, **tolerance), args)
    expected = slopes(solver(name, method="rk4_38", options={"steps": 200}), args)
    for a, b in zip(found, expected, strict=True):
        close(a, b, rtol=1e-4 if ORDERS[method] < 4 else 1e-7, atol=1e-5 if ORDERS[method] < 4 else 1e-8)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "rk4"])
@pytest.mark.parametrize("name", FIELDS)
def test_the_adjoint_is_the_gradient(name: str, method: str) -> None:
    args = (states(name, N, requires_grad=True), times(0.0, 0.2, 0.45, requires_grad=True), *tensors(name))
    jumps = {"jump_t": [-0.4, 0.1, 0.35]} if name == "linear piecewise" else {}
    options = (
        {"options": {"steps": 60, **jumps}} if method == "rk4" else {"options": jumps, "rtol": 1e-10, "atol": 1e-12}
    )
    pair = [slopes(solver(name, call, method=method, **options), args) for call in (ode.odeint_adjoint, ode.odeint)]
    for number, (a, b) in enumerate(zip(*pair, strict=True)):
        if number == 1 and name in ("linear piecewise", "linear linear") and method == "rk4":
            continue  # a fixed grid that moves over a kink of w has another derivative than the flow
        close(a, b, rtol=1e-6, atol=1e-7)


@everywhere
def test_gradients_of_fixed_steps_that_are_cut_at_jumps() -> None:
    name = "linear piecewise"
    args = (states(name, N, requires_grad=True), times(0.0, 0.23, 0.45, requires_grad=True), *tensors(name))
    options = {"steps": 2, "jump_t": [-0.4, 0.1, 0.35]}
    assert torch.autograd.gradcheck(solver(name, method="rk4", options=options), args)


def test_adjoint_settings() -> None:
    """The backward solution has its own method and tolerances."""
    args = (states("mlp none", N, requires_grad=True), times(0.0, 1.0), *tensors("mlp none"))
    expected = slopes(solver("mlp none", rtol=1e-10, atol=1e-12), args)
    rough = {"adjoint_method": "euler", "adjoint_options": {"steps": 4}}
    errors = []
    for settings in (rough, {"adjoint_rtol": 1e-3, "adjoint_atol": 1e-3}, {}):
        found = slopes(solver("mlp none", ode.odeint_adjoint, rtol=1e-10, atol=1e-12, **settings), args)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("name", ["mlp concat", "linear cubic", "metric"])
def test_checkpoints_change_memory_and_nothing_else(name: str, method: str) -> None:
    args = (states(name, 5, requires_grad=True), times(0.0, 0.5, 2.0), *tensors(name))
    options = {"steps": 7} if method == "rk4" else {}
    expected = slopes(solver(name, method=method, options=options), args)
    for count in (1, 2, 3, 100):
        found = slopes(solver(name, method=method, options={**options, "checkpoints": count}), args)
        for a, b in zip(found, expected, strict=True):
            close(a, b, rtol=1e-12, atol=1e-13)


@everywhere
def test_some_gradients_only() -> None:
    """Each argument alone gives the gradient that it has beside the others."""
    name = "mlp none"
    args = [states(name, N, requires_grad=True), times(0.0, 0.3, 0.7, requires_grad=True), *tensors(name)]
    for call in (ode.odeint, ode.odeint_adjoint):
        function = solver(name, call, method="rk4", options=FIXED)
        together = slopes(function, args)
        for position, expected in enumerate(together):
            alone = [value.detach().requires_grad_(i == position) for i, value in enumerate(args)]
            close(slopes(function, alone)[0], expected)


@everywhere
def test_gradients_of_what_was_not_reached_are_zero() -> None:
    """A solution that ends early has the gradient of its rows that are numbers."""
    build = ode.MLP([torch.eye(1, dtype=torch.float64, device=HOME)], None)
    y0 = torch.ones(2, 1, dtype=torch.float64, device=HOME, requires_grad=True)
    event = ode.Event(component=0, value=2.0)
    found = ode.solve(build, y0, [0.0, 0.5, 1.0], event=event)
    assert found.status.tolist() == [1, 1]
    assert found.ys.isnan().any(-1).all(-1).tolist() == [False, False, True]
    (whole,) = torch.autograd.grad(found.ys.sum(), y0, retain_graph=True)
    (part,) = torch.autograd.grad(found.ys[:2].sum(), y0)
    close(whole, part)
    close(found.t_end, torch.full_like(found.t_end, np.log(2.0)), rtol=1e-6, atol=0)
    for call in (ode.odeint, ode.odeint_adjoint):
        warns = pytest.warns(RuntimeWarning, match="2 of 2 samples took max_steps")
        with nullcontext() if _device.serves(y0) else warns:
            out = call(build, y0, [0.0, 1e-3, 40.0], options={"max_steps": 9, "first_step": 1e-3, "factor_max": 1.0})
        (grad,) = torch.autograd.grad(out.sum(), y0)
        assert torch.isfinite(grad).all()
        close(grad, torch.full_like(grad, 1 + np.exp(1e-3)), rtol=1e-6)


@everywhere
def test_second_derivatives_say_that_they_are_missing() -> None:
    y0 = states("mlp none", N, requires_grad=True)
    out = solver("mlp none", method="rk4")(y0, times(0.0, 1.0), *tensors("mlp none"))
    (grad,) = torch.autograd.grad(out.sum(), y0, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="second derivatives"):
        torch.autograd.grad(grad.sum(), y0)


@everywhere
@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3)])
def test_gradients_of_nothing(shape: tuple[int, ...]) -> None:
    y0 = states("mlp none", *shape, requires_grad=True)
    for t in (times(0.0, 1.0), times(0.5)):
        out = solver("mlp none", method="rk4")(y0, t, *tensors("mlp none"))
        assert out.shape == (len(t), *y0.shape)
        (grad,) = torch.autograd.grad(out.sum(), y0)
        assert grad.shape == y0.shape


@everywhere
def test_a_graph_through_the_module_trains() -> None:
    """Parameters get their gradients, in float32 too, and none are asked for under no_grad."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(HOME)
    y0 = torch.randn(5, 2).to(HOME)
    out = ode.odeint(net, y0, [0.0, 1.0])
    assert out.dtype == torch.float32
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        assert not ode.odeint(net, y0, [0.0, 1.0]).requires_grad
    net.requires_grad_(False)
    assert not ode.odeint(net, y0, [0.0, 1.0]).requires_grad


# --- torch.func and torch.compile


CASES = ("mlp gate", "linear linear", "sphere")


@everywhere
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str, method: str) -> None:
    """Over y0, t, parameters, and all of them, along any axis."""
    function = solver(name, method=method)
    batches = [
        (states(name, 2, seed=i), times(0.0, 0.3 + 0.1 * i, 0.9), *(p * (1 + 0.1 * i) for p in tensors(name, False)))
        for i in range(3)
    ]
    first = batches[0]
    stacked = tuple(torch.stack(values, -1) for values in zip(*batches, strict=True))
    close(torch.vmap(function, in_dims=-1, out_dims=1)(*stacked), torch.stack([function(*b) for b in batches], 1))
    for position in range(len(first)):
        rows = [(*first[:position], b[position], *first[position + 1 :]) for b in batches]
        mixed = (*first[:position], stacked[position], *first[position + 1 :])
        dims = tuple(-1 if i == position else None for i in range(len(first)))
        close(torch.vmap(function, in_dims=dims)(*mixed), torch.stack([function(*row) for row in rows]))


@everywhere
def test_vmap_of_times_of_each_sample() -> None:
    function = solver("mlp none", method="rk4")
    y0, params = states("mlp none", 3, 2, 2), tensors("mlp none", False)
    t = torch.rand(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    expected = torch.stack([function(y0[i], t[i], *params) for i in range(3)])
    close(torch.vmap(lambda y0, t: function(y0, t, *params))(y0, t[:, None].expand(3, 2, 2, 4)), expected[:, :])


@everywhere
@pytest.mark.parametrize("call", [ode.odeint, ode.odeint_adjoint])
def test_function_transforms(call: Callable[..., Any]) -> None:
    """grad, vmap of grad, grad of vmap and jacrev give what autograd gives."""
    name = "mlp concat"
    args = (states(name, 2), times(0.0, 0.4, 1.0), *tensors(name, False))
    every = tuple(range(len(args)))
    function = solver(name, call, method="rk4", options=FIXED)

    def loss(*args: Any) -> Any:
        return function(*args).sin().sum()

    live = [value.clone().requires_grad_() for value in args]
    expected = torch.autograd.grad(loss(*live), live)
    for a, b in zip(torch.func.grad(loss, every)(*args), expected, strict=True):
        close(a, b)
    pairs = tuple(torch.stack([value, 1.01 * value]) for value in args)
    ones = [torch.func.grad(loss, every)(*(value[i] for value in pairs)) for i in (0, 1)]
    for a, b in zip(torch.vmap(torch.func.grad(loss, every))(*pairs), zip(*ones, strict=True), strict=True):
        close(a, torch.stack(b))
    close(torch.func.grad(lambda *x: torch.vmap(loss)(*x).sum())(*pairs), torch.stack([o[0] for o in ones]))
    close(torch.vmap(torch.func.grad(loss), (0, *(None,) * (len(args) - 1)))(pairs[0], *args[1:])[0], ones[0][0])
    jacobian = torch.autograd.functional.jacobian(lambda y: function(y, *args[1:]), args[0])
    close(torch.func.jacrev(function)(*args), jacobian)


@everywhere
def test_transforms_of_a_field() -> None:
    build = FIELDS["mlp concat"][1]
    y, params = states("mlp concat", 3), tensors("mlp concat", False)
    close(torch.vmap(build(params), (None, 0))(0.3, y), build(params)(0.3, y))
    t = times(0.1, 0.2, 0.3)
    close(torch.vmap(build(params))(t, y), build(params)(t, y))
    stacked = [torch.stack([p, 2 * p]) for p in params]
    close(torch.vmap(lambda *p: build(p)(0.3, y))(*stacked)[1], build([2 * p for p in params])(0.3, y))
    jacobian = torch.autograd.functional.jacobian(lambda y: build(params)(0.3, y), y[0])
    close(torch.func.jacrev(lambda y: build(params)(0.3, y))(y[0]), jacobian)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@everywhere
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("name", ["mlp concat", "linear cubic", "metric"])
def test_compile(name: str, method: str) -> None:
    """One graph, forward and reverse."""
    args = (states(name, N, requires_grad=True), times(0.0, 0.3, 0.7, requires_grad=True), *tensors(name))
    for call in (ode.odeint, ode.odeint_adjoint):
        function = solver(name, call, method=method, options={"safety": 0.8})
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        close(compiled(*args), function(*args))
        for a, b in zip(slopes(compiled, args), slopes(function, args), strict=True):
            close(a, b)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_to_code() -> None:
    args = (states("mlp none", N, requires_grad=True), times(0.0, 0.7), *tensors("mlp none"))
    function = solver("mlp none")
    for a, b in zip(slopes(torch.compile(function, fullgraph=True), args), slopes(function, args), strict=True):
        close(a, b)


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_of_modules_and_of_solve() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.LeakyReLU(0.2), torch.nn.Linear(4, 2)).double().to(HOME)
    made = ode.MLP.from_torch(net)
    y0 = torch.randn(3, 2, dtype=torch.float64).to(HOME)
    for func in (net, made):

        def last(y0: Any, func: Any = func) -> Any:
            found = ode.solve(func, y0, [0.0, 1.0], event=ode.Event(component=1, value=0.3))
            return found.y_end * 2, found.status, found.stats["steps"]

        for a, b in zip(torch.compile(last, fullgraph=True, backend="aot_eager")(y0), last(y0), strict=True):
            close(a, b)
    module = torch.compile(partial(ode.odeint, net, t=times(0.0, 1.0)), fullgraph=True, backend="aot_eager")
    module(y0).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    ode.odeint(net, y0, times(0.0, 1.0)).sum().backward()
    for a, p in zip(found, net.parameters(), strict=True):
        close(a, p.grad)


# --- operators


def samples(requires_grad: bool) -> list[tuple[Any, tuple[Any, ...]]]:
    from nnsym_fast._torch.problems import encode, encode_field
    from nnsym_fast.ode.controller import Control
    from nnsym_fast.ode.plans import Problem

    ops = torch.ops.nnsym_fast
    code = field("mlp concat").code()
    assert isinstance(code, FieldCode)
    params = torch.from_numpy(field("mlp concat").flat(np.zeros(0))).to(HOME).requires_grad_(requires_grad)
    y0, t = states("mlp concat", 3, requires_grad=requires_grad), times(0.0, 0.5, 1.0, requires_grad=requires_grad)
    knots = times().to(HOME)
    a = states("mlp concat", 3, seed=1)
    found: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.ode_field, (params, knots, t, y0, *encode_field(code))),
        (ops.ode_field_vjp, (params.detach(), knots, t.detach(), y0.detach(), a, *encode_field(code))),
    ]
    control, _ = Control.from_options(1e-5, 1e-7, {"jump_t": [0.3], "checkpoints": 2})
    for method, event in (("rk4", None), ("dopri5", ((1.0, 0.0, 0.0), 0.2, -1))):
        problem = encode(Problem(code, method, control, event))
        found.append((ops.ode_solve, (params, knots, y0, t, *problem, "", [], [], False)))
        found.append((ops.ode_solve, (params, knots, y0, t, *problem, *problem, False)))
        ys, status, *_ = ops.ode_solve(*(x.detach() for x in (params, knots, y0, t)), *problem, "", [], [], False)
        values = [x.detach() for x in (params, knots, y0, t)]
        for wants in ((False, True, True), (True, True, True), (False, False, False)):
            found.append((ops.ode_gradient, (*values, ys, status, torch.ones_like(ys), *problem, *wants)))
    return found


@pytest.mark.parametrize("requires_grad", [False, True])
def test_operators(requires_grad: bool) -> None:
    """Schema, autograd registration, fake kernels and traces, as torch checks them."""
    for operator, args in samples(requires_grad):
        torch.library.opcheck(operator.default, args)


def test_problems_cross_unchanged() -> None:
    from nnsym_fast._torch.problems import decode, encode
    from nnsym_fast.ode.controller import Control
    from nnsym_fast.ode.plans import Problem

    for options in ({}, {"steps": 4}, {"step_size": 0.1, "jump_t": [1.0, 2.0]}, {"first_step": 0.1, "max_steps": 7}):
        for rtol in (1e-3, (1e-3, 1e-4, 1e-5)):
            for event in (None, ((1.0, 2.0, 3.0), 0.5, -1)):
                control, _ = Control.from_options(rtol, 1e-6, {"dt_max": 0.3, "checkpoints": 3, **options})
                problem = Problem(field("mlp gate").code(), "tsit5", control, event)
                method, ints, floats = encode(problem)
                assert decode(method, tuple(ints), tuple(floats)) == problem


def test_meta_tensors_give_shapes() -> None:
    y0 = states("mlp none", 4, 5).to("meta")
    params = [p.to("meta") for p in tensors("mlp none", False)]
    out = solver("mlp none")(y0, [0.0, 1.0, 2.0], *params)
    assert (out.shape, out.dtype, out.device.type) == ((3, 4, 5, 3), torch.float64, "meta")


@everywhere
def test_the_fast_path_and_the_operator_agree() -> None:
    """Without a mode the kernels are called directly; under one the operators are."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    name = "mlp concat"
    args = (states(name, N, requires_grad=True), times(0.0, 0.3, 0.7, requires_grad=True), *tensors(name))
    for call in (ode.odeint, ode.odeint_adjoint):
        function = solver(name, call, options={"checkpoints": 2})
        expected = slopes(function, args)
        with Watch():
            found = slopes(function, args)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
    assert {"nnsym_fast.ode_solve.default", "nnsym_fast.ode_gradient.default"} <= set(seen)
