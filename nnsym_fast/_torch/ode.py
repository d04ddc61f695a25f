# SPDX-License-Identifier: MIT
"""The ode family as torch operators: a field, its derivative, a solution, and its two reverse passes.

A problem (field, method, control) crosses as lists of integers and numbers, parameters as one tensor, so that compilers
of torch see tensors and constants alone. Times are checked inside the operators, where their values are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nnsym_fast import _device
from nnsym_fast._device import ode as device
from nnsym_fast._torch.problems import decode, decode_field, encode, encode_field
from nnsym_fast._torch.recognise import recognise
from nnsym_fast._torch.wilson import _front, _numpy, _route
from nnsym_fast.ode import plans
from nnsym_fast.ode.plans import Problem

__all__ = ["ODE", "TorchOde"]

Tensor = torch.Tensor
KINDS = ("cpu", "cuda")  # of device, with kernels


def _slices(call: Any, info: Any, in_dims: Any, args: Any, out_dims: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """An operator under vmap as a loop, where parameters differ or their gradients must not be summed."""
    rows = []
    for i in range(info.batch_size):
        rows.append(
            call(*(a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(args, in_dims, strict=True)))
        )
    if not rows:
        raise ValueError("vmap: expected at least one slice, got none")
    return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(out_dims)


def _once(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError(
        "odeint: second derivatives are not compiled; use options={'compiled': 'never'} with a function of torch"
    )


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


# --- the field


def _evaluate(code: Any, params: Tensor, knots: Tensor, t: Tensor, y: Tensor) -> Tensor:
    if _device.serves(y):
        return device.field(code, params, knots, t, y)
    return torch.from_numpy(plans.field(code, *(_numpy(x) for x in (params, knots, t, y))))


def _vjp(code: Any, params: Tensor, knots: Tensor, t: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if _device.serves(y):
        return device.field_vjp(code, params, knots, t, y, a)
    gy, gparams, gt = plans.field_vjp(code, *(_numpy(x) for x in (params, knots, t, y, a)))
    return torch.from_numpy(gy), torch.from_numpy(gparams), torch.from_numpy(gt)


@torch.library.custom_op("nnsym_fast::ode_field_vjp", mutates_args=())
def _field_vjp_op(
    params: Tensor, knots: Tensor, t: Tensor, y: Tensor, a: Tensor, ints: Sequence[int], floats: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    return _vjp(decode_field(tuple(ints), tuple(floats)), params, knots, t, y, a)


@_field_vjp_op.register_fake
def _(
    params: Tensor, knots: Tensor, t: Tensor, y: Tensor, a: Tensor, ints: Sequence[int], floats: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), params.new_empty(params.shape), t.new_empty(t.shape)


def _field_vjp_vmap(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
    return _slices(call, info, in_dims, args, (0, 0, 0))


_field_vjp = _route(_field_vjp_op, _nothing, _once, _field_vjp_vmap)


@torch.library.custom_op("nnsym_fast::ode_field", mutates_args=())
def _field_op(
    params: Tensor, knots: Tensor, t: Tensor, y: Tensor, ints: Sequence[int], floats: Sequence[float]
) -> Tensor:
    return _evaluate(decode_field(tuple(ints), tuple(floats)), params, knots, t, y)


@_field_op.register_fake
def _(params: Tensor, knots: Tensor, t: Tensor, y: Tensor, ints: Sequence[int], floats: Sequence[float]) -> Tensor:
    return y.new_empty(y.shape)


def _field_setup(ctx: Any, inputs: Any, output: Any) -> None:
    params, knots, t, y, ctx.ints, ctx.floats = inputs
    ctx.save_for_backward(params, knots, t, y)


def _field_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    params, knots, t, y = ctx.saved_tensors
    gy, gparams, gt = _field_vjp(params, knots, t, y, grad, ctx.ints, ctx.floats)
    return gparams, None, gt, gy, None, None


def _lead(t: Tensor, axis: int | None, axes: int) -> Tensor:
    """Times with a mapped axis in front of ``axes`` others."""
    if axis is None:
        return t
    t = t.movedim(axis, 0)
    return t.reshape(t.shape[0], *(1,) * (axes - t.dim() + 1), *t.shape[1:])


def _field_vmap(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
    params, knots, t, y, *rest = args
    if in_dims[0] is not None or in_dims[1] is not None:
        found, dims = _slices(lambda *x: (call(*x),), info, in_dims, args, (0,))
        return found[0], dims[0]
    y = _front(y, in_dims[3], info.batch_size)
    assert y is not None
    return call(params, knots, _lead(t, in_dims[2], y.dim() - 2), y, *rest), 0


_field = _route(_field_op, _field_setup, _field_backward, _field_vmap)


# --- reverse passes


def _pull(
    problem: Problem, values: Sequence[Tensor], backsolve: bool, want_t: bool, states: Any = None
) -> tuple[Any, Any, Any]:
    """Gradients of y0, parameters and t, by kernels."""
    params, knots, y0, t, ys, status, grad = values
    if _device.serves(y0):
        if backsolve:
            return device.adjoint(problem, params, knots, t, ys, grad, want_t)[:3]
        return device.gradient(problem, params, knots, y0, t, ys, status, grad, want_t, states)
    p, k, y, times, reached, ends, g = (_numpy(x) for x in values)
    found: Sequence[Any] = ()
    if not backsolve:
        found = plans.gradient(problem, p, k, y, times, reached, ends, g, want_t, states)
    else:
        *found, worst = plans.adjoint(problem, p, k, times, reached, g, want_t)
        plans.warn(worst)
    gy0, gparams, gt = (None if x is None else torch.from_numpy(x) for x in found)
    return gy0, gparams, gt


@torch.library.custom_op("nnsym_fast::ode_gradient", mutates_args=())
def _gradient_op(
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    t: Tensor,
    ys: Tensor,
    status: Tensor,
    grad: Tensor,
    method: str,
    ints: Sequence[int],
    floats: Sequence[float],
    backsolve: bool,
    want_params: bool,
    want_t: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y0, parameters and t: through the steps taken, or by the backsolve of the given problem."""
    problem = decode(method, tuple(ints), tuple(floats))
    gy0, gparams, gt = _pull(problem, (params, knots, y0, t, ys, status, grad), backsolve, want_t)
    return gy0, gparams if want_params else params.new_empty(0), t.new_empty(0) if gt is None else gt


@_gradient_op.register_fake
def _(
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    t: Tensor,
    ys: Tensor,
    status: Tensor,
    grad: Tensor,
    method: str,
    ints: Sequence[int],
    floats: Sequence[float],
    backsolve: bool,
    want_params: bool,
    want_t: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gparams = params.new_empty(params.shape if want_params else (0,))
    return y0.new_empty(y0.shape), gparams, t.new_empty(t.shape if want_t else (0,))


def _gradient_vmap(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
    params, knots, y0, t, ys, status, grad, *rest = args
    *_, want_params, want_t = rest
    if want_params or want_t or any(in_dims[i] is not None for i in (0, 1)):
        return _slices(call, info, in_dims, args, (0, 0, 0))
    size = info.batch_size
    y0, status = _front(y0, in_dims[2], size), _front(status, in_dims[5], size)
    ys, grad = (_front(x, in_dims[i], size).movedim(0, 1) for x, i in ((ys, 4), (grad, 6)))  # type: ignore[union-attr]
    assert y0 is not None
    found = call(params, knots, y0, _lead(t, in_dims[3], y0.dim() - 1), ys, status, grad, *rest)
    return found, (0, None, None)


_gradient = _route(_gradient_op, _nothing, _once, _gradient_vmap)


# --- the solution


def _integrate(
    problem: Problem, params: Tensor, knots: Tensor, y0: Tensor, t: Tensor, warn: bool, states: Any = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if _device.serves(y0):
        return device.integrate(problem, params, knots, y0, t, states)
    found = plans.integrate(problem, _numpy(params), _numpy(knots), _numpy(y0), _numpy(t), states)
    if warn:
        plans.warn(found.status)
    ys, status, stats, t_end, y_end = (torch.from_numpy(np.asarray(x)) for x in found)
    return ys, status, stats, t_end, y_end


@torch.library.custom_op("nnsym_fast::ode_solve", mutates_args=())
def _solve_op(
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    t: Tensor,
    method: str,
    ints: Sequence[int],
    floats: Sequence[float],
    adjoint_method: str,
    adjoint_ints: Sequence[int],
    adjoint_floats: Sequence[float],
    warn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ys, status, statistics, and where each sample ended. ``adjoint_method`` "": gradients through the steps."""
    return _integrate(decode(method, tuple(ints), tuple(floats)), params, knots, y0, t, warn)


@_solve_op.register_fake
def _(
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    t: Tensor,
    method: str,
    ints: Sequence[int],
    floats: Sequence[float],
    adjoint_method: str,
    adjoint_ints: Sequence[int],
    adjoint_floats: Sequence[float],
    warn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = y0.shape[:-1]
    return (
        y0.new_empty((t.shape[-1], *y0.shape)),
        y0.new_empty(batch, dtype=torch.int32),
        y0.new_empty((*batch, 3), dtype=torch.int64),
        y0.new_empty(batch, dtype=torch.float64),
        y0.new_empty(y0.shape),
    )


def _solve_setup(ctx: Any, inputs: Any, output: Any) -> None:
    params, knots, y0, t, method, ints, floats, adjoint_method, adjoint_ints, adjoint_floats, _ = inputs
    ys, status, stats, t_end, y_end = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(status, stats, t_end, y_end)
    ctx.backsolve = bool(adjoint_method)
    ctx.problem = (adjoint_method, adjoint_ints, adjoint_floats) if adjoint_method else (method, ints, floats)
    ctx.save_for_backward(params, knots, y0, t, ys, status)


def _solve_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 11
    want_params, _, _, want_t, *_ = ctx.needs_input_grad
    found = _gradient(*ctx.saved_tensors, grad, *ctx.problem, ctx.backsolve, want_params, want_t)
    gy0, gparams, gt = found
    return gparams if want_params else None, None, gy0, gt if want_t else None, *(None,) * 7


def _solve_vmap(call: Any, info: Any, in_dims: Any, *args: Any) -> Any:
    params, knots, y0, t, *rest = args
    if in_dims[0] is not None or in_dims[1] is not None:
        return _slices(call, info, in_dims, args, (0,) * 5)
    y0 = _front(y0, in_dims[2], info.batch_size)
    assert y0 is not None
    return call(params, knots, y0, _lead(t, in_dims[3], y0.dim() - 1), *rest), (1, 0, 0, 0, 0)


_solve = _route(_solve_op, _solve_setup, _solve_backward, _solve_vmap)


# --- the same without a dispatcher, which costs as much as a small problem


def _plain(*values: Tensor) -> bool:
    """Whether nobody watches: no compiler, no transform, no mode, no subclass; then the kernels are called directly."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and all(type(value) in (Tensor, torch.nn.Parameter) and value.device.type in KINDS for value in values)
    )


def _state_buffer(problem: Problem, y0: Tensor, t: Tensor) -> Any:
    if _device.serves(y0):
        return device.state_buffer(problem, y0, t)
    return plans.state_buffer(problem, _numpy(y0), _numpy(t))


class _Solve(torch.autograd.Function):
    """``ode_solve`` and its reverse pass."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        params, knots, y0, t, problem, back, warn = args
        keep = back is None and any(ctx.needs_input_grad)
        ctx.states = _state_buffer(problem, y0, t) if keep else None
        found = _integrate(problem, params, knots, y0, t, warn, ctx.states)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*found[1:])
        ctx.problem = problem, back
        # What was reached is read by the backsolve alone, and where samples failed, which a device does not tell yet:
        # else the result is the user's.
        needed = back is not None or _device.serves(y0) or bool(found[1].any())
        ctx.save_for_backward(params, knots, y0, t, found[0] if needed else y0.new_empty(0), found[1])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        grad = grads[0]
        if grad is None:
            return (None,) * 7
        problem, back = ctx.problem
        want_params, _, want_y0, want_t, *_ = ctx.needs_input_grad
        values = (*ctx.saved_tensors, grad)
        if torch.is_grad_enabled():  # the operator knows that second derivatives are missing
            gy0, gparams, gt = _gradient(*values, *encode(back or problem), back is not None, want_params, want_t)
        else:
            gy0, gparams, gt = _pull(back or problem, values, back is not None, want_t, ctx.states)
        found = (gparams if want_params else None, None, gy0 if want_y0 else None, gt if want_t else None)
        return *found, None, None, None


class _Field(torch.autograd.Function):
    """``ode_field`` and its reverse pass."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        params, knots, t, y, code = args
        ctx.code = code
        ctx.save_for_backward(params, knots, t, y)
        return _evaluate(code, params, knots, t, y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        values = (*ctx.saved_tensors, grads[0])
        if torch.is_grad_enabled():
            gy, gparams, gt = _field_vjp(*values, *encode_field(ctx.code))
        else:
            gy, gparams, gt = _vjp(ctx.code, *values)
        want_params, _, want_t, want_y, _ = ctx.needs_input_grad
        return gparams if want_params else None, None, gt if want_t else None, gy if want_y else None, None


# --- what the public functions call


class TorchOde:
    """Tensors of torch on the CPU or a CUDA device; meta tensors give shapes."""

    xp: Any = torch
    recognise = staticmethod(recognise)
    moved = staticmethod(device.moved)

    def join(self, parts: Sequence[Any], like: Tensor) -> Tensor:
        """All parameters as one vector; arrays of NumPy are constants."""
        if not parts:
            return torch.empty(0, dtype=like.dtype, device=like.device)  # not new_empty, which vmap would map
        tensors = [x if isinstance(x, Tensor) else self._constant(x, like) for x in parts]
        return torch.cat([x.reshape(-1) for x in tensors])

    def constant(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def _constant(self, values: Any, like: Tensor) -> Tensor:
        """An array of NumPy on the device of ``like``."""
        if like.device.type == "cuda" and not torch.compiler.is_compiling():
            return device.upload(np.ascontiguousarray(values), like)
        return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)

    def times(self, t: Any, like: Tensor) -> Tensor:
        """Times as float64 on the device of ``like``, or on the CPU for a CUDA device, where their values are known."""
        home = torch.device("cpu") if like.device.type == "cuda" else like.device
        if isinstance(t, Tensor):
            if t.device not in (like.device, home):
                other = "" if home == like.device else " or cpu"
                raise ValueError(f"t: expected device {like.device}, that of y0,{other} got {t.device}")
            if t.is_complex() or t.dtype == torch.bool:
                raise TypeError(f"t: expected real times, got dtype {t.dtype}")
            return t if t.dtype == torch.float64 else t.to(torch.float64)
        if isinstance(t, np.ndarray):
            return torch.from_numpy(np.array(t, np.float64)).to(home)
        return torch.tensor(t, dtype=torch.float64, device=home)

    def _knots(self, field: Any, like: Tensor) -> Tensor:
        knots = field.knots()
        return knots if isinstance(knots, Tensor) else self._constant(knots, like)

    def field(self, field: Any, t: Any, y: Tensor) -> Tensor:
        times = self.times(t, y)
        plans.check_batch("t", times.shape, y.shape[:-1], "a number or shape batch =")
        values = field.flat(y), self._knots(field, y), times, y
        if _plain(*values):
            return _Field.apply(*values, field.code())  # type: ignore[no-untyped-call, no-any-return]
        found: Tensor = _field(*values, *encode_field(field.code()))
        return found

    def solve(
        self, problem: Problem, field: Any, y0: Tensor, t: Tensor, adjoint: Problem | None, warn: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        values = field.flat(y0), self._knots(field, y0), y0, t
        if _plain(*values):
            keep = torch.is_grad_enabled() and any(value.requires_grad for value in values)
            found = _Solve.apply(*values, problem, adjoint, warn) if keep else _integrate(problem, *values, warn)  # type: ignore[no-untyped-call]
        else:
            back: tuple[str, list[int], list[float]] = ("", [], []) if adjoint is None else encode(adjoint)
            found = _solve(*values, *encode(problem), *back, warn)
        ys, status, stats, t_end, y_end = found
        return ys, status, stats, t_end, y_end

    def end(self, ys: Tensor, status: Tensor, y_end: Tensor) -> Tensor:
        """The last states, which are differentiable where they are the last of ``ys``."""
        return torch.where((status == 0)[..., None], ys[-1], y_end)

    def stack(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values))


ODE = TorchOde()
