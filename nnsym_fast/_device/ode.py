# SPDX-License-Identifier: MIT
"""The ODE family on tensors of a device: the functions of ``nnsym_fast.ode.plans``, with its shapes.

Times may lie on the device, where the kernels check them: a sample whose times are not finite or not strictly monotone
is nan throughout, with status NON_FINITE. Times on the CPU are checked here and uploaded. Nothing warns: what happened
is in the statuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from nnsym_fast import _device, _ode
from nnsym_fast.ode import plans
from nnsym_fast.ode.plans import Problem
from nnsym_fast.tableaus import Tableau, tableau

__all__ = ["Result", "adjoint", "field", "field_vjp", "gradient", "integrate", "state_buffer", "upload"]

Tensor = torch.Tensor
Array = npt.NDArray[Any]


class Result(NamedTuple):
    """As ``_ode.Result``, with tensors in the shapes of the batch."""

    ys: Tensor
    status: Tensor
    stats: Tensor
    t_end: Tensor
    y_end: Tensor


# --- what goes to the device


@lru_cache(maxsize=256)
def _uploaded(data: bytes, dtype: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype).reshape(shape)).to(device)


_captured: dict[int, Tensor] = {}
"""Uploads that a captured graph reads, whenever it is replayed."""


def upload(array: Array, like: Tensor) -> Tensor:
    """A copy of an array on the device of a tensor; small ones are kept, and must not be written to."""
    if array.nbytes > 2**16 or not array.size:
        return torch.from_numpy(np.array(array)).to(like.device)
    found = _uploaded(array.tobytes(), array.dtype.str, array.shape, like.device)
    if like.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            _captured[found.data_ptr()] = found
        else:
            found.record_stream(torch.cuda.current_stream(like.device))  # its memory outlives what this stream runs
    return found


def moved(times: Tensor, like: Tensor) -> Tensor:
    """Times on the device of a tensor, without waiting for it where equal ones came before; for the caller to keep."""
    plain = type(times) is Tensor and not times.requires_grad and not torch.compiler.is_compiling()
    if like.is_cuda and not times.is_cuda and plain:
        return upload(times.numpy(), like).clone()
    return times.to(like.device)


def _clean(value: Tensor, like: Tensor) -> Tensor:
    """The value in C order on the device of ``like``."""
    value = value.detach().resolve_neg()
    if value.device != like.device:
        value = upload(value.numpy(), like)
    return value.contiguous()


@lru_cache(maxsize=256)
def _native_field(module: Any, code: _ode.FieldCode) -> Any:
    kind, time, widths, activations, values = code
    return module.OdeField(kind, time, widths, activations, values, [0.0] * (widths[2] if kind == 1 else 0))


@lru_cache(maxsize=64)
def _native_method(module: Any, method: str | Tableau) -> Any:
    known = tableau(method) if isinstance(method, str) else method
    return module.OdeMethod(*_ode.method_arguments(known))


@lru_cache(maxsize=256)
def _marks_states(module: Any, code: _ode.FieldCode, method: str | Tableau, wide: bool, device: int) -> bool:
    """Whether the kernels that serve a gradient through fixed steps know from ``states`` which samples failed."""
    places = {"steps": 1, "result": 1, "breaks": 1}
    job = module.OdeJob(
        _ode.GRADIENT, _native_field(module, code), _native_method(module, method), wide, 0, places, {}, ()
    )
    return bool(job.marks_states(device))


def _on_host(t: Tensor) -> bool:
    """Whether the values of times can be read without waiting for a device."""
    return t.device.type == "cpu"


class _How(NamedTuple):
    """How an integration goes: its tableau, times of nodes, and the other arguments of the job."""

    method: Any
    nodes: Tensor
    arrays: dict[str, Tensor]
    sizes: dict[str, Any]
    control: Sequence[float]
    grid: Any
    plan: _ode.Plan


def _how(problem: Problem, t: Tensor, like: Tensor) -> _How:
    """For times (N or 1, n)."""
    control = problem.control
    method = plans.table(problem.method)
    plan = plans._plan(problem)
    arrays: dict[str, Tensor] = {}
    sizes: dict[str, Any] = {}
    if plan.event is not None:
        weights, sizes["event_value"], sizes["event_direction"] = plan.event
        arrays["event"] = upload(weights, like)
    native = _native_method(_device.module(), plan.method)
    n = t.shape[1]
    if method.adaptive and control.steps is None and control.step_size is None:
        jumps = np.unique(plan.jump_t)
        arrays.update(rtol=upload(plan.rtol, like), atol=upload(plan.atol, like))
        if len(jumps):
            arrays["jumps"] = upload(jumps, like)
        sizes.update(nodes=n, results=n, jump_count=len(jumps), t_sample=n if t.shape[0] > 1 else 0)
        return _How(native, _clean(t, like), arrays, sizes, plan.control, None, plan)
    if _on_host(t):
        times = t.detach().numpy()
        steps = control.fixed_steps(times, method)
        assert steps is not None
        grid = _ode._grid(times, steps, plan.jump_t)
        nodes = upload(grid.t, like)
        counts, result, breaks = grid.steps, grid.result, grid.breaks
    else:
        if control.step_size is not None or len(plan.jump_t):
            name = "step_size" if control.step_size is not None else "jump_t"
            raise ValueError(
                f"options[{name!r}]: expected t on the CPU, whose values say where steps end, got device {t.device}; "
                'pass t.cpu(), or options={"steps": n}'
            )
        grid, nodes = None, _clean(t, like)
        counts = np.full((1, n - 1), control.steps or 1, np.int64)
        result, breaks = np.arange(n), np.zeros(n, np.int8)
    count = len(result)
    arrays.update(
        steps=upload(counts, like),
        result=upload(np.asarray(result, np.int64), like),
        breaks=upload(np.ascontiguousarray(breaks), like),
    )
    sizes.update(
        nodes=count,
        results=n,
        t_sample=count if nodes.shape[0] > 1 else 0,
        steps_sample=count - 1 if counts.shape[0] > 1 else 0,
        breaks_sample=count if breaks.ndim > 1 and breaks.shape[0] > 1 else 0,
        most_steps=int(counts.sum(1).max()),
    )
    return _How(native, nodes, arrays, sizes, (), grid, plan)


def _run(
    operation: int,
    code: _ode.FieldCode,
    how: _How | None,
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    arrays: dict[str, Tensor],
    sizes: dict[str, Any],
) -> None:
    """One job on the current stream of the device of y0 (N, d); the tensors are clean."""
    module = _device.module()
    held = {"parameters": params, "knots": knots, "y0": y0, **arrays}
    control: Sequence[float] = ()
    if how is not None:
        held.update(how.arrays)
        held["t"] = how.nodes
        sizes = {**how.sizes, **sizes}
        control = how.control
    places = {name: value.data_ptr() for name, value in held.items() if value.numel()}
    job = module.OdeJob(
        operation,
        _native_field(module, code),
        None if how is None else how.method,
        y0.dtype == torch.float64,
        len(y0),
        places,
        sizes,
        control,
    )
    index, stream = _device.place(y0)
    size = job.workspace_bytes(index)
    workspace = torch.empty(size, dtype=torch.uint8, device=y0.device) if size else None
    job.run(index, stream, workspace.data_ptr() if workspace is not None else 0)


# --- shapes


def _rows(t: Tensor, batch: tuple[int, ...]) -> Tensor:
    """t (..., n) as (N or 1, n)."""
    n = t.shape[-1]
    if math.prod(t.shape[:-1]) == 1:
        return t.reshape(1, n)
    return t.broadcast_to(*batch, n).reshape(-1, n)


def _flat(y: Tensor, like: Tensor) -> Tensor:
    return _clean(y.reshape(-1, y.shape[-1]), like)


def _times_like(gt: Tensor, t: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Gradients of (N or 1, n) summed to the shape of t, where t is."""
    if gt.shape[0] != math.prod(t.shape[:-1]):
        full = gt.reshape(*batch, t.shape[-1])
        extra = full.dim() - t.dim()
        if extra:
            full = full.sum(tuple(range(extra)))
        axes = tuple(i for i, length in enumerate(t.shape[:-1]) if length == 1 and full.shape[i] != 1)
        gt = full.sum(axes, keepdim=True) if axes else full
    return gt.reshape(t.shape).to(t.device)


def _check(t: Tensor) -> None:
    if _on_host(t):
        plans.check_times(t.detach().numpy())


# --- the functions of plans


def state_buffer(problem: Problem, y0: Tensor, t: Tensor) -> Tensor | None:
    """Memory for the states before every step, (steps, d, samples); None where none is kept."""
    control = problem.control
    if control.checkpoints or t.shape[-1] == 1 or not y0.numel() or problem.event is not None or control.jump_t:
        return None
    rows = _rows(t, tuple(y0.shape[:-1]))
    if _on_host(t):
        _check(t)
        steps = control.fixed_steps(rows.detach().numpy(), plans.table(problem.method))
    elif control.step_size is not None or (plans.table(problem.method).adaptive and control.steps is None):
        steps = None
    else:
        steps = np.full((1, rows.shape[1] - 1), control.steps or 1, np.int64)
    if steps is None or steps.shape[0] > 1:
        return None
    wide, method = y0.dtype == torch.float64, plans._plan(problem).method
    if not _marks_states(_device.module(), problem.code, method, wide, _device.place(y0)[0]):
        return None
    shape = int(steps.sum()), y0.shape[-1], y0.numel() // y0.shape[-1]
    if math.prod(shape) * y0.element_size() > _ode.KEPT_BYTES:
        return None
    return torch.empty(shape, dtype=y0.dtype, device=y0.device)


def integrate(
    problem: Problem, params: Tensor, knots: Tensor, y0: Tensor, t: Tensor, states: Tensor | None = None
) -> Result:
    """``plans.integrate``; ``states`` of :func:`state_buffer`."""
    batch = tuple(y0.shape[:-1])
    d, n = y0.shape[-1], t.shape[-1]
    _check(t)
    place = y0.device
    if n == 1 or not y0.numel():
        ys = y0.detach().expand(n, *batch, d).clone()
        t_end = t.detach()[..., -1].expand(batch).to(y0.device, copy=True)
        status = torch.zeros(batch, dtype=torch.int32, device=place)
        stats = torch.zeros((*batch, 3), dtype=torch.int64, device=place)
        return Result(ys, status, stats, t_end, y0.detach().clone())
    start = _flat(y0, y0)
    count = len(start)
    how = _how(problem, _rows(t, batch), y0)
    arrays = {
        "ys": torch.empty((n, *batch, d), dtype=y0.dtype, device=place),
        "status": torch.empty(batch, dtype=torch.int32, device=place),
        "stats": torch.empty((*batch, 3), dtype=torch.int64, device=place),
        "t_end": torch.empty(batch, dtype=torch.float64, device=place),
        "y_end": torch.empty((*batch, d), dtype=y0.dtype, device=place),
    }
    found = Result(**arrays)
    sizes: dict[str, Any] = {}
    if states is not None:
        assert states.shape[2] == count
        arrays["states"], sizes["kept_steps"] = states, states.shape[0]
    _run(_ode.INTEGRATE, problem.code, how, _clean(params, y0), _clean(knots, y0), start, arrays, sizes)
    return found


def gradient(
    problem: Problem,
    params: Tensor,
    knots: Tensor,
    y0: Tensor,
    t: Tensor,
    ys: Tensor,
    status: Tensor,
    grad: Tensor,
    want_t: bool,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``plans.gradient``: gradients of values that were not reached count as zero."""
    batch = tuple(y0.shape[:-1])
    d, n = y0.shape[-1], t.shape[-1]
    if n == 1 or not y0.numel():
        return grad.sum(0), torch.zeros_like(params), torch.zeros_like(t) if want_t else None
    grad = torch.where(torch.isnan(ys), 0.0, grad)
    start = _flat(y0, y0)
    rows = _rows(t, batch)
    how = _how(problem, rows, y0)
    count = len(start)
    gy, gparams = torch.empty_like(start), torch.empty_like(params, memory_format=torch.contiguous_format)
    arrays = {"grad": _clean(grad.reshape(n, count, d), y0), "gy": gy, "gparameters": gparams}
    sizes: dict[str, Any] = {"checkpoints": problem.control.checkpoints or 0}
    if want_t:
        arrays["gt"] = torch.zeros((count, how.sizes["nodes"]), dtype=torch.float64, device=y0.device)
    if states is not None:
        arrays["given"], sizes["kept_steps"] = states, states.shape[0]
    _run(_ode.GRADIENT, problem.code, how, _clean(params, y0), _clean(knots, y0), start, arrays, sizes)
    gt = None
    if want_t:
        found = arrays["gt"]
        if how.grid is not None:
            found = _at_results(found, how.grid)
        gt = _times_like(found if len(rows) == count else found.sum(0, keepdim=True), t, batch)
    return gy.reshape(y0.shape), gparams, gt


def _at_results(gt: Tensor, grid: Any) -> Tensor:
    """``_ode._at_results``: the weights of nodes in the results they move with, which the host knows."""
    count, nodes = int((grid.result >= 0).sum()), gt.shape[1]
    if count == nodes:
        return gt
    inside = grid.t[:, :-1].reshape(len(grid.t), count - 1, -1)
    end = grid.t[:, grid.result >= 0][:, 1:, None]
    at_begin = inside == inside[..., :1]
    at_end = ~at_begin & (inside == end)

    def part(mask: Array) -> Tensor:
        pieces = gt[:, :-1].reshape(len(gt), count - 1, -1)
        return torch.where(upload(np.ascontiguousarray(mask), gt), pieces, 0.0).sum(2)

    out = gt.new_zeros(len(gt), count)
    out[:, :-1] = part(at_begin)
    out[:, 1:] += part(at_end)
    out[:, -1] += gt[:, -1]
    return out


def adjoint(
    problem: Problem, params: Tensor, knots: Tensor, t: Tensor, ys: Tensor, grad: Tensor, want_t: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """``plans.adjoint``: the backsolve from output to output, and its worst status per sample."""
    n, *lead, d = ys.shape
    batch = tuple(lead)
    count = math.prod(batch)
    if n == 1 or not ys.numel():
        worst = torch.zeros(batch, dtype=torch.int32, device=ys.device)
        return grad.sum(0), torch.zeros_like(params), torch.zeros_like(t) if want_t else None, worst
    rows = moved = _rows(t.detach(), batch)
    control = problem.control
    fixed = control.steps is not None or not plans.table(problem.method).adaptive
    if control.step_size is None and not (control.jump_t and fixed):
        rows = moved = _clean(rows, ys)  # at once, not an interval at a time
    elif want_t:
        moved = _clean(rows, ys)
    states, pushes = ys.detach().reshape(n, count, d), grad.detach().reshape(n, count, d)
    # A sample that ended early: its states stay where they are, and nothing is pulled back.
    reached = torch.isfinite(states).all(-1)
    pushes = torch.where(reached[..., None], pushes, 0.0)
    states = torch.where(reached[..., None], states, 0.0)
    problem = problem._replace(event=None)
    flat, knots = _clean(params, ys), _clean(knots, ys)
    total = torch.zeros(params.shape, dtype=torch.float64, device=ys.device)
    worst = torch.zeros(count, dtype=torch.int32, device=ys.device)
    a = torch.zeros((count, d), dtype=ys.dtype, device=ys.device)
    for i in range(n - 1, 0, -1):
        a = (a + pushes[i]).contiguous()
        how = _how(problem, torch.stack([rows[:, i], rows[:, i - 1]], 1), ys)
        end, part = a.new_empty(count, 2 * d), torch.empty_like(flat)
        status = torch.empty_like(worst)
        arrays = {"cotangent": a, "y_end": end, "status": status, "gparameters": part}
        _run(_ode.ADJOINT, problem.code, how, flat, knots, states[i].contiguous(), arrays, {})
        a = end[:, d:]
        total += part
        worst = torch.maximum(worst, torch.where(reached[i], status, 0))
    gt = None
    if want_t:
        slopes = torch.stack([field(problem.code, flat, knots, moved[:, i], states[i]) for i in range(n)])
        # A sample that ended early pulls nothing back, whatever its slope.
        full = torch.where(pushes == 0, 0.0, pushes.to(torch.float64) * slopes).sum(-1).transpose(0, 1)
        first = -torch.where(a == 0, 0.0, a.to(torch.float64) * slopes[0]).sum(-1)
        full = torch.cat([first[:, None], full[:, 1:]], 1)
        gt = _times_like(full if len(rows) == count else full.sum(0, keepdim=True), t, batch)
    gy0 = (a + pushes[0]).reshape(*batch, d)
    return gy0, total.to(params.dtype), gt, worst.reshape(batch)


def _field_times(t: Tensor, y: Tensor) -> Tensor:
    return _clean(_rows(t.reshape(*t.shape, 1), tuple(y.shape[:-1])), y)


def field(code: _ode.FieldCode, params: Tensor, knots: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """``plans.field`` for y (*batch, d) and t of a shape that broadcasts to the batch."""
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if y.numel():
        times = _field_times(t, y)
        arrays = {"ys": out, "t": times}
        sizes = {"t_sample": 1 if len(times) > 1 else 0}
        _run(_ode.EVALUATE, code, None, _clean(params, y), _clean(knots, y), _flat(y, y), arrays, sizes)
    return out


def field_vjp(
    code: _ode.FieldCode, params: Tensor, knots: Tensor, t: Tensor, y: Tensor, a: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``plans.field_vjp``: gradients of y, parameters, and t."""
    if not y.numel():
        return torch.empty(y.shape, dtype=y.dtype, device=y.device), torch.zeros_like(params), torch.zeros_like(t)
    times, flat = _field_times(t, y), _flat(y, y)
    gy, gparams = torch.empty_like(flat), torch.empty_like(params, memory_format=torch.contiguous_format)
    gt = torch.empty(len(flat), dtype=torch.float64, device=y.device)
    arrays = {"t": times, "cotangent": _flat(a, y), "gy": gy, "gparameters": gparams, "gt": gt}
    sizes = {"t_sample": 1 if len(times) > 1 else 0}
    _run(_ode.VJP, code, None, _clean(params, y), _clean(knots, y), flat, arrays, sizes)
    full = gt.reshape(-1, 1)
    if len(times) != len(flat):
        full = full.sum(0, keepdim=True)
    shaped = _times_like(full, t.reshape(*t.shape, 1), tuple(y.shape[:-1]))
    return gy.reshape(y.shape), gparams, shaped.reshape(t.shape)
