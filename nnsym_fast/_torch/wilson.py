# SPDX-License-Identifier: MIT
"""The Wilson family as torch operators: exponential, its derivative, transport along a path, and the reverse pass.

Every operator takes any leading batch axes. First derivatives are fused kernels. Where the derivative itself is to be
differentiated, it is written with the same operators and torch's, so that derivatives of any order follow.
Tensors on the CPU are served through NumPy, those of a device by ``_device.wilson``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from nnsym_fast import _device, _matrices
from nnsym_fast._device import wilson as kernels

__all__ = ["REAL", "expm", "keeps", "transport"]

Tensor = torch.Tensor
Array = _matrices.Array

REAL = {getattr(torch, name): getattr(torch, real) for name, real in _matrices.REAL_DTYPE.items()}
"""Dtype -> that of the times that belong to it."""


def _numpy(value: Tensor | None) -> Any:
    """A view of the values; a copy only where the memory holds something else."""
    if value is None:
        return None
    if value.numel() and not value.data_ptr():
        raise ValueError("a tensor's storage was freed; gather or materialise it first")
    # Conjugate and negative views keep their flag in the metadata, which a kernel cannot see.
    tensor = value.detach().resolve_neg().resolve_conj()
    if tensor.data_ptr() % tensor.element_size():
        tensor = tensor.clone()
    return tensor.numpy()


def _tensor(array: Array | None, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The array as a tensor; an operator cannot return None, so it returns an empty tensor instead."""
    return like.new_empty(0, dtype=dtype) if array is None else torch.from_numpy(array)


def _or_empty(value: Tensor | None, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return like.new_empty(0, dtype=dtype) if value is None else value


def keeps(*values: Tensor | None) -> bool:
    """Whether a reverse pass may come."""
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


# --- under torch.func


def _route(operator: Any, setup: Callable[..., None], backward: Callable[..., Any], vmap: Callable[..., Any]) -> Any:
    """Registers the rules of an operator and returns how to call it.

    Operators of torch.library do not differentiate under torch.func.grad; an autograd.Function of the same rules does.
    ``vmap`` is told by its first argument what to call.
    """
    operator.register_autograd(backward, setup_context=setup)
    if hasattr(operator, "register_vmap"):  # from torch 2.5 on; the function below has it in any case
        operator.register_vmap(partial(vmap, operator))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return operator(*args)

    def call(*args: Any) -> Any:
        return Function.apply(*args) if _transformed(args) else operator(*args)  # type: ignore[no-untyped-call]

    Function.setup_context = staticmethod(setup)  # type: ignore[method-assign]
    Function.backward = staticmethod(backward)  # type: ignore[method-assign]
    Function.vmap = staticmethod(partial(vmap, call))  # type: ignore[method-assign]
    return call


def _transformed(values: Sequence[Any]) -> bool:
    """Whether a transform of torch.func is at work that an operator cannot take."""
    if not torch._C._are_functorch_transforms_active():
        return False
    # The compiler of torch takes operators under vmap, and functions where gradients are taken.
    return not torch.compiler.is_compiling() or keeps(*(value for value in values if isinstance(value, Tensor)))


def _front(value: Tensor | None, axis: int | None, size: int) -> Tensor | None:
    """The tensor with its mapped axis in front, repeated where it is not mapped."""
    if value is None:
        return None
    return value.expand(size, *value.shape) if axis is None else value.movedim(axis, 0)


# --- expm


@torch.library.custom_op("nnsym_fast::expm", mutates_args=())
def _expm_op(a: Tensor) -> Tensor:
    if _device.serves(a):
        return kernels.expm(a)
    return _tensor(_matrices.expm(_numpy(a)), a)


@_expm_op.register_fake
def _(a: Tensor) -> Tensor:
    return a.new_empty(a.shape)


@torch.library.custom_op("nnsym_fast::expm_frechet", mutates_args=())
def _frechet_op(a: Tensor, e: Tensor) -> Tensor:
    if _device.serves(a):
        return kernels.expm(a, e)
    return _tensor(_matrices.expm(_numpy(a), _numpy(e)), a)


@_frechet_op.register_fake
def _(a: Tensor, e: Tensor) -> Tensor:
    return a.new_empty(a.shape)


def _save_inputs(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _expm_backward(ctx: Any, grad: Tensor) -> Tensor:
    (a,) = ctx.saved_tensors
    frechet: Tensor = _frechet(a.mH, grad)
    return frechet


def _frechet_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
    """exp [[a, e], [0, a]] holds L(a, e) in its corner, so the derivative of L is one of the larger exponential."""
    a, e = ctx.saved_tensors
    if not ctx.needs_input_grad[0]:
        return None, _frechet(a.mH, grad)
    d = a.shape[-1]
    zero = torch.zeros_like(a)
    upper = torch.cat([torch.cat([a, e], -1), torch.cat([zero, a], -1)], -2)
    corner = torch.cat([torch.cat([zero, grad], -1), torch.cat([zero, zero], -1)], -2)
    back = _frechet(upper.mH, corner)
    return back[..., :d, :d] + back[..., d:, d:], back[..., :d, d:]


def _expm_vmap(call: Any, info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
    mapped = [_front(value, axis, info.batch_size) for value, axis in zip(args, in_dims, strict=True)]
    return call(*mapped), 0


expm = _route(_expm_op, _save_inputs, _expm_backward, _expm_vmap)
_frechet = _route(_frechet_op, _save_inputs, _frechet_backward, _expm_vmap)


# --- transport


@torch.library.custom_op("nnsym_fast::transport", mutates_args=())
def _transport_op(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    b: Tensor | None,
    order: int,
    cumulative: bool,
    log_scale: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Result, all states (if ``save`` and the result is only the last), and exponents (of all states if ``save``)."""
    every = cumulative or save
    states: Tensor | None = None
    exponent: Tensor | None = None
    if _device.serves(w):
        out, exponent = kernels.transport(w, dt, x0, b, order, every, log_scale)
    else:
        array, powers = _matrices.transport(_numpy(w), _numpy(dt), _numpy(x0), _numpy(b), order, every, log_scale)
        out, exponent = torch.from_numpy(array), None if powers is None else torch.from_numpy(powers)
    if save and not cumulative:
        states, out = out, out[..., -1, :, :].clone()
    return out, _or_empty(states, w), _or_empty(exponent, w, torch.int32)


@_transport_op.register_fake
def _(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    b: Tensor | None,
    order: int,
    cumulative: bool,
    log_scale: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, d = w.shape[:-4], w.shape[-4], w.shape[-1]
    matrix = (d, d if x0 is None else x0.shape[-1])
    all_steps = (*batch, steps + 1)
    out = w.new_empty((*(all_steps if cumulative else batch), *matrix))
    states = w.new_empty((*all_steps, *matrix) if save and not cumulative else (0,))
    exponent = w.new_empty((all_steps if cumulative or save else batch) if log_scale else (0,), dtype=torch.int32)
    return out, states, exponent


def _backward_on_device(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    states: Tensor | None,
    exponent: Tensor | None,
    grad: Tensor,
    order: int,
    cumulative: bool,
    log_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``_backward_op`` without NumPy."""
    shift = scale = None
    if log_scale:
        all_steps = kernels.exponents(w, dt, x0, order) if exponent is None else exponent
        shift = all_steps.diff(dim=-1)
        scale = kernels.power_of_two(-all_steps[..., :1, None], REAL[w.dtype])
        x0 = scale * (torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) if x0 is None else x0)
    gw, gdt, gx0 = kernels.transport_backward(w, dt, x0, states, shift, grad, order, cumulative)
    return gw, _or_empty(gdt, w, REAL[w.dtype]), gx0 if scale is None else gx0 * scale


@torch.library.custom_op("nnsym_fast::transport_backward", mutates_args=())
def _backward_op(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    states: Tensor | None,
    exponent: Tensor | None,
    grad: Tensor,
    order: int,
    cumulative: bool,
    log_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of w, dt and x0. Without states they are computed again, O(sqrt T) of them at a time."""
    if _device.serves(w):
        return _backward_on_device(w, dt, x0, states, exponent, grad, order, cumulative, log_scale)
    arrays = _numpy(w), _numpy(dt), _numpy(x0)
    shift = scale = None
    if log_scale:
        # Powers of two are constants: p_k = (2^(e_{k-1} - e_k) U_k) p_{k-1} is an ordinary product that begins at p_0.
        all_steps = _matrices.exponents(*arrays, order) if exponent is None else _numpy(exponent)
        shift = np.diff(all_steps, axis=-1)
        scale = np.ldexp(arrays[0].real.dtype.type(1), -all_steps[..., :1, None])
        start = np.eye(w.shape[-1], dtype=arrays[0].dtype) if x0 is None else arrays[2]
        arrays = arrays[0], arrays[1], scale * start
    gw, gdt, gx0 = _matrices.transport_backward(*arrays, _numpy(states), shift, _numpy(grad), order, cumulative)
    if scale is not None:
        gx0 = gx0 * scale
    return _tensor(gw, w), _tensor(gdt, w, REAL[w.dtype]), _tensor(gx0, w)


@_backward_op.register_fake
def _(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    states: Tensor | None,
    exponent: Tensor | None,
    grad: Tensor,
    order: int,
    cumulative: bool,
    log_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, d = w.shape[:-4], w.shape[-4], w.shape[-1]
    times = (0,) if dt is None else (*batch, steps)
    gx0 = w.new_empty((*batch, d, grad.shape[-1]))
    return w.new_empty(w.shape), w.new_empty(times, dtype=REAL[w.dtype]), gx0


def _backward_setup(ctx: Any, inputs: Any, output: Any) -> None:
    w, dt, x0, _, exponent, grad, *ctx.options = inputs
    ctx.save_for_backward(w, dt, x0, exponent, grad)


def _backward_backward(ctx: Any, gw: Tensor, gdt: Tensor, gx0: Tensor) -> tuple[Any, ...]:
    """The second derivative: that of the first derivative written in differentiable pieces, states included."""
    w, dt, x0, exponent, grad = ctx.saved_tensors
    held = [value is not None for value in (w, dt, x0, grad)]

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        rest = iter(values)
        w, dt, x0, grad = (next(rest) if here else None for here in held)
        assert w is not None
        found = _differentiable(w, dt, x0, None, exponent, grad, *ctx.options)
        return tuple(value for value in found[:3] if value is not None)

    _, pull, *_ = torch.func.vjp(gradients, *(value for value in (w, dt, x0, grad) if value is not None))
    pulled = iter(pull((gw, gx0) if dt is None else (gw, gdt, gx0)))
    to_w, to_dt, to_x0, to_grad = (next(pulled) if here else None for here in held)
    return to_w, to_dt, to_x0, None, None, to_grad, None, None, None


def _backward_vmap(
    call: Any, info: Any, in_dims: Any, *args: Any
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int | None, ...]]:
    mapped = [_front(value, axis, info.batch_size) for value, axis in zip(args[:6], in_dims[:6], strict=True)]
    return call(*mapped, *args[6:]), (0, None if args[1] is None else 0, 0)


_backward = _route(_backward_op, _backward_setup, _backward_backward, _backward_vmap)


def _transport_setup(ctx: Any, inputs: Any, output: Any) -> None:
    w, dt, x0, b, ctx.order, ctx.cumulative, ctx.log_scale, save = inputs
    out, states, exponent = output
    ctx.set_materialize_grads(False)  # states is an output that nobody reads: no zeros of its size
    kept = (out if ctx.cumulative else states) if save else None
    powers = exponent if ctx.log_scale and (ctx.cumulative or save) else None
    ctx.save_for_backward(w, dt, x0, b, kept, powers)


def _transport_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 8
    w, dt, x0, b, states, exponent = ctx.saved_tensors
    options = ctx.order, ctx.cumulative, ctx.log_scale
    if b is None:
        gw, gdt, gx0 = _backward(w, dt, x0, states, exponent, grad, *options)
        gb = None
    else:
        gw, gdt, gx0, gb = _differentiable(w, dt, x0, b, exponent, grad, *options)
    return gw, None if dt is None else gdt, None if x0 is None else gx0, gb, None, None, None, None


def _transport_vmap(
    call: Any, info: Any, in_dims: Any, *args: Any
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int | None, ...]]:
    w, dt, x0, b, order, cumulative, log_scale, save = args
    options = order, cumulative, log_scale, save
    apart = save and not cumulative
    if in_dims[2] is not None and all(in_dims[i] is None for i in (0, 1, 3)) and b is None and not log_scale:
        # One path for all: mapped vectors are more columns, and exponentials are taken once.
        columns = x0.movedim(in_dims[2], -1)
        shape = columns.shape[-2:]
        results = [
            value.unflatten(-1, shape) if value.dim() > 1 else value
            for value in call(w, dt, columns.flatten(-2), b, *options)
        ]
        out, states, exponent = results
        return (out, states, exponent), (out.dim() - 1, states.dim() - 1 if apart else None, None)
    mapped = [_front(value, axis, info.batch_size) for value, axis in zip(args[:4], in_dims[:4], strict=True)]
    return call(*mapped, *options), (0, 0 if apart else None, 0 if log_scale else None)


transport = _route(_transport_op, _transport_setup, _transport_backward, _transport_vmap)


def _magnus(w: Tensor, dt: Tensor, order: int) -> Tensor:
    """Exponents of the steps (..., T, d, d); Blanes, Casas, Oteo, Ros 2009, section 5."""
    a = [dt[..., None, None] * w[..., i, :, :] for i in range(w.shape[-3])]

    def commutator(x: Tensor, y: Tensor) -> Tensor:
        return x @ y - y @ x

    if order == 2:
        return a[0]
    if order == 4:
        return (a[0] + a[1]) / 2 + commutator(a[1], a[0]) * (math.sqrt(3) / 12)
    a1, a2, a3 = a[1], (a[2] - a[0]) * (math.sqrt(15) / 3), (a[2] - 2 * a[1] + a[0]) * (10 / 3)
    c1 = commutator(a1, a2)
    c2 = commutator(a1, 2 * a3 + c1) / -60
    return a1 + a3 / 12 + commutator(-20 * a1 - a3 + c1, a2 + c2) / 240


def _differentiable(w: Tensor, *rest: Any) -> tuple[Any, ...]:
    """Gradients of w, dt, x0 and b by differentiable pieces; the reverse recursion is a transport, too."""
    with _device.without_autocast(w):
        return _pieces(w, *rest)


def _pieces(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    b: Tensor | None,
    exponent: Tensor | None,
    grad: Any,
    order: int,
    cumulative: bool,
    log_scale: bool,
) -> tuple[Any, ...]:
    omega = w[..., 0, :, :] if dt is None else _magnus(w, dt, order)
    links = omega if dt is None else expm(omega)
    scale = first = None
    if log_scale:
        if exponent is None:
            exponent = transport(links.detach()[..., None, :, :], None, x0, None, 0, True, True, False)[2]
        one = torch.ones_like(exponent, dtype=REAL[w.dtype])
        scale = torch.ldexp(one[..., 1:], exponent[..., :-1] - exponent[..., 1:])[..., None, None]
        first = torch.ldexp(one[..., :1], -exponent[..., :1])[..., None]
        links = links * scale
        x0 = first * (torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) if x0 is None else x0)
    states = transport(links[..., None, :, :], None, x0, b, 0, True, False, keeps(links, x0, b))[0]
    back = links.mH.flip(-3)[..., None, :, :]
    last, pushes = (grad[..., -1, :, :], grad[..., :-1, :, :].flip(-3)) if cumulative else (grad, None)
    costates = transport(back, None, last, pushes, 0, True, False, keeps(back, last, pushes))[0].flip(-3)
    glinks = costates[..., 1:, :, :] @ states[..., :-1, :, :].mH
    if scale is not None:
        glinks = glinks * scale
    gdt = None
    if dt is None:
        gw = glinks[..., None, :, :]
    else:
        _, pull, *_ = torch.func.vjp(partial(_magnus, order=order), w, dt)
        gw, gdt = pull(_frechet(omega.mH, glinks))
    gx0 = costates[..., 0, :, :]
    return gw, gdt, gx0 if first is None else gx0 * first, costates[..., 1:, :, :]
