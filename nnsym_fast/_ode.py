# SPDX-License-Identifier: MIT
"""The array level of the ODE family: NumPy arrays in C order, N samples of d numbers, times in float64."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast._native import cpu
from nnsym_fast.tableaus import Tableau, tableau

__all__ = [
    "ACTIVATIONS",
    "FieldCode",
    "Plan",
    "Result",
    "adjoint",
    "field",
    "field_vjp",
    "gradient",
    "integrate",
    "state_buffer",
]

Array = npt.NDArray[Any]

ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh", "elu", "sin",
)  # fmt: skip
"""In the order of csrc/core/activation.h."""

KEPT_BYTES = 256 * 2**20
"""Of states that an integration keeps for the reverse pass; larger ones are computed again, tile by tile."""

INTEGRATE, GRADIENT, ADJOINT, EVALUATE, VJP = range(5)


class FieldCode(NamedTuple):
    """The structure of a vector field, without its numbers."""

    kind: int
    """0 MLP, 1 linear, 2 geodesics of constant curvature, 3 geodesics of a metric that an MLP gives."""
    time: int
    """0 not used, 1 concatenated, 2 a gate."""
    widths: tuple[int, ...]
    """MLP: in, out of every layer; linear: d, degree, pieces; constant curvature: the dimension n, half the state."""
    activations: tuple[int, ...]
    """Of every layer, a position in ACTIVATIONS."""
    values: tuple[float, ...]
    """Parameters of the activations, then epsilon of a metric; the curvature."""


class Plan(NamedTuple):
    """How to integrate."""

    method: str | Tableau
    steps: Array | None
    """Of every interval (N or 1, n - 1), int64; None: adaptive."""
    rtol: Array
    atol: Array
    """(d,) float64."""
    control: tuple[float, ...]
    """safety, factor_min, factor_max, pcoeff, icoeff, dcoeff, dt_min, dt_max, first_step (0: chosen), max_steps."""
    jump_t: Array
    event: tuple[Array, float, int] | None
    """Weights (d,) of the components, value, direction."""


class Result(NamedTuple):
    """What an integration returns."""

    ys: Array
    """(n, N, d); nan where the end came before."""
    status: Array
    """(N,) int32."""
    stats: Array
    """(N, 3) int64: steps accepted and rejected, evaluations."""
    t_end: Array
    """(N,)"""
    y_end: Array
    """(N, d)"""


@lru_cache(256)
def _native_field(code: FieldCode, knots: bytes) -> Any:
    kind, time, widths, activations, values = code
    return cpu.OdeField(kind, time, widths, activations, values, np.frombuffer(knots).tolist())


def _field(code: FieldCode, knots: Array) -> Any:
    return _native_field(code, knots.tobytes())


def method_arguments(known: Tableau) -> tuple[Any, ...]:
    """A tableau as the compiled modules take it."""
    rows = [*known.a, *known.extra_a]
    # The first stage that only the dense output needs is the next step's first one where it is taken at its end.
    last = bool(known.extra_c) and known.extra_c[0] == 1 and tuple(known.extra_a[0]) == tuple(known.b)
    cost = len(known.extra_c) - int(last)
    return rows, known.b, [*known.c, *known.extra_c], known.error, known.dense, known.error_order, known.fsal, cost


@lru_cache(64)
def _native_method(method: str | Tableau) -> Any:
    return cpu.OdeMethod(*method_arguments(tableau(method) if isinstance(method, str) else method))


class _Grid(NamedTuple):
    """Times between which steps are taken."""

    t: Array
    steps: Array
    result: Array
    breaks: Array


def _grid(t: Array, steps: Array, jumps: Array) -> _Grid:
    """The intervals of fixed steps, cut at the jumps in them; a piece has its share of the steps, rounded up."""
    n = t.shape[1]
    low, high = t.min(), t.max()
    jumps = np.unique(jumps[(jumps >= low) & (jumps <= high)])
    if not len(jumps) or n < 2:
        return _Grid(t, steps, np.arange(n), np.zeros(n, np.int8))
    rows = np.broadcast_shapes((t.shape[0], 1), (steps.shape[0], 1))[0]
    t, steps = np.broadcast_to(t, (rows, n)), np.broadcast_to(steps, (rows, n - 1))
    begin, end = t[:, :-1, None], t[:, 1:, None]
    cuts = np.clip(jumps, np.minimum(begin, end), np.maximum(begin, end))
    cuts = np.where(end > begin, cuts, cuts[..., ::-1])
    nodes = np.concatenate([np.concatenate([begin, cuts], 2).reshape(rows, -1), t[:, -1:]], 1)
    per = len(jumps) + 1
    length = np.abs(np.diff(nodes)).reshape(rows, n - 1, per)
    share = length / np.abs(end - begin)
    pieces = np.ceil(steps[..., None] * share - 1e-9).astype(np.int64)
    pieces = np.where(length > 0, np.maximum(pieces, 1), 0).reshape(rows, -1)
    place = np.arange(nodes.shape[1])
    result = np.where(place % per == 0, place // per, -1)
    breaks = np.asarray(np.isin(nodes, jumps), np.int8)
    return _Grid(np.ascontiguousarray(nodes), np.ascontiguousarray(pieces), result, breaks)


def _at_results(gt: Array, grid: _Grid) -> Array:
    """Gradients of the times of results from those of all nodes: a cut at an end of its interval moves with it."""
    count = int((grid.result >= 0).sum())
    if count == gt.shape[1]:
        return gt
    pieces = gt[:, :-1].reshape(len(gt), count - 1, -1)
    nodes = grid.t[:, :-1].reshape(len(grid.t), count - 1, -1)
    end = grid.t[:, grid.result >= 0][:, 1:, None]
    at_begin = nodes == nodes[..., :1]
    out = np.zeros((len(gt), count))
    out[:, :-1] = np.where(at_begin, pieces, 0).sum(2)
    out[:, 1:] += np.where(~at_begin & (nodes == end), pieces, 0).sum(2)
    out[:, -1] += gt[:, -1]
    return out


def _how(plan: Plan, t: Array) -> tuple[Any, Array, dict[str, Any], _Grid | None]:
    """Tableau, times of the nodes, the other arguments of the kernel, and with fixed steps the nodes."""
    method = _native_method(plan.method)
    options: dict[str, Any] = {}
    if plan.event is not None:
        weights, value, direction = plan.event
        options = {"event": weights, "event_value": value, "event_direction": direction}
    if plan.steps is None:
        jumps = np.unique(plan.jump_t) if len(plan.jump_t) else None
        options.update(rtol=plan.rtol, atol=plan.atol, control=plan.control, jumps=jumps)
        return method, t, options, None
    grid = _grid(t, plan.steps, plan.jump_t)
    options.update(steps=grid.steps, result=grid.result, breaks=grid.breaks)
    return method, grid.t, options, grid


def state_buffer(y0: Array, plan: Plan) -> Array | None:
    """Memory for the states before every step, which spare the reverse pass an integration; None where none is kept.

    (samples / lanes, steps, d, lanes), lanes the numbers of a vector. Steps must be fixed and those of all samples.
    """
    if plan.steps is None or plan.steps.shape[0] > 1 or plan.event is not None or len(plan.jump_t):
        return None
    n, d = y0.shape
    lanes = cpu.ode_lanes(y0.itemsize == 8)
    shape = -(-n // lanes), int(plan.steps.sum()), d, lanes
    return np.empty(shape, y0.dtype) if math.prod(shape) * y0.itemsize <= KEPT_BYTES else None


def integrate(
    code: FieldCode, params: Array, knots: Array, y0: Array, t: Array, plan: Plan, states: Array | None = None
) -> Result:
    """Solutions from y0 (N, d) at the times t (N or 1, n); ``states``: see :func:`state_buffer`."""
    method, nodes, options, _ = _how(plan, t)
    n, d = y0.shape
    ys = np.empty((t.shape[1], n, d), y0.dtype)
    status, stats = np.zeros(n, np.int32), np.zeros((n, 3), np.int64)
    t_end, y_end = np.empty(n), np.empty_like(y0)
    cpu.ode_run(
        INTEGRATE, _field(code, knots), method, params, y0, nodes, ys=ys, status=status, stats=stats, t_end=t_end,
        y_end=y_end, states=states, **options,
    )  # fmt: skip
    return Result(ys, status, stats, t_end, y_end)


def gradient(
    code: FieldCode,
    params: Array,
    knots: Array,
    y0: Array,
    t: Array,
    plan: Plan,
    grad_ys: Array,
    checkpoints: int,
    want_t: bool,
    states: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """Gradients of y0, of the parameters and of t through the steps taken; ``checkpoints`` 0 keeps all states.

    ``states`` of an integration in which all samples arrived.
    """
    if states is not None and states.shape[-1] != cpu.ode_lanes(y0.itemsize == 8):
        states = None  # another instruction set was chosen since
    method, nodes, options, grid = _how(plan, t)
    n, count = y0.shape[0], nodes.shape[1]
    gy, gparams = np.empty_like(y0), np.empty_like(params)
    gt = np.zeros((n, count)) if want_t else None
    cpu.ode_run(
        GRADIENT, _field(code, knots), method, params, y0, nodes, grad=grad_ys, checkpoints=checkpoints, gy=gy,
        gparameters=gparams, gt=gt, given=states, **options,
    )  # fmt: skip
    if gt is not None:
        if grid is not None:
            gt = _at_results(gt, grid)
        gt = gt if t.shape[0] == n else gt.sum(0, keepdims=True)
    return gy, gparams, gt


def adjoint(
    code: FieldCode, params: Array, knots: Array, y: Array, a: Array, t: Array, plan: Plan
) -> tuple[Array, Array, Array, Array]:
    """(y, a) with a' = -a df/dy from t[:, 0] to t[:, 1], the integral of -a df/dp over it, and statuses."""
    method, nodes, options, _ = _how(plan, t)
    n, d = y.shape
    end, status, gparams = np.empty((n, 2 * d), y.dtype), np.zeros(n, np.int32), np.empty_like(params)
    cpu.ode_run(
        ADJOINT, _field(code, knots), method, params, y, nodes, cotangent=a, y_end=end, status=status,
        gparameters=gparams, **options,
    )  # fmt: skip
    return end[:, :d], end[:, d:], gparams, status


def field(code: FieldCode, params: Array, knots: Array, t: Array, y: Array) -> Array:
    """f(t, y) (N, d) at times t (N or 1,)."""
    out = np.empty_like(y)
    cpu.ode_run(EVALUATE, _field(code, knots), None, params, y, t[:, None], ys=out)
    return out


def field_vjp(code: FieldCode, params: Array, knots: Array, t: Array, y: Array, a: Array) -> tuple[Array, Array, Array]:
    """Gradients of <a, f(t, y)>: of y (N, d), of the parameters, and of every sample's time (N,)."""
    gy, gparams, gt = np.empty_like(y), np.empty_like(params), np.empty(len(y))
    cpu.ode_run(
        VJP, _field(code, knots), None, params, y, t[:, None], cotangent=a, gy=gy, gparameters=gparams, gt=gt
    )  # fmt: skip
    return gy, gparams, gt
