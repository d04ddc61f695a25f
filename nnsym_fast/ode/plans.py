# SPDX-License-Identifier: MIT
"""From arguments to kernels: checks of states and times, and the array level with any leading batch axes."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast import _ode
from nnsym_fast._arrays import is_torch
from nnsym_fast._matrices import fits
from nnsym_fast.ode.controller import Control
from nnsym_fast.tableaus import METHODS, Tableau, tableau

if TYPE_CHECKING:
    from nnsym_fast.ode.fields import Field

__all__ = [
    "DTYPES",
    "Problem",
    "adjoint",
    "check_state",
    "check_times",
    "field",
    "gradient",
    "integrate",
    "state_buffer",
]

Array = npt.NDArray[Any]

DTYPES = ("float32", "float64")

OUTCOMES = {
    1: ("ended at their event", "solve returns where they ended"),
    2: ("took max_steps steps", "raise options['max_steps'] or the tolerances"),
    3: ("needed a step below what the dtype or dt_min resolves", "raise rtol and atol, or use float64"),
    4: ("became inf or NaN", "use smaller steps, or look at the field there"),
}
"""Status -> what it says, and the remedy."""


_given: dict[str, Tableau] = {}


def method_name(method: Any) -> str:
    """The name of a method, also of a Tableau that somebody wrote, which is kept."""
    known = method if isinstance(method, Tableau) else tableau(method)
    if known.name in METHODS and tableau(known.name) == known:
        return known.name
    for name, other in _given.items():
        if other == known:
            return name
    name = f"{known.name} ({len(_given)})"
    _given[name] = known
    return name


def table(name: str) -> Tableau:
    """The tableau of such a name."""
    return _given[name] if name in _given else tableau(name)


class Problem(NamedTuple):
    """Everything of an integration that is no array: hashable."""

    code: _ode.FieldCode
    method: str
    control: Control
    event: tuple[tuple[float, ...], float, int] | None = None


# --- arguments


def integer(name: str, value: Any, least: int) -> int:
    """An integer of at least ``least``, or TypeError, ValueError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{name}: expected {least} or more, got {number}")
    return number


def shape_text(*sizes: Any) -> str:
    """A shape as it is written, with letters for what is free."""
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def check_float(name: str, value: Any, dtypes: Sequence[str] = DTYPES) -> str:
    """The dtype of an array, or TypeError."""
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in dtypes:
        wanted = " or ".join(dtypes) if len(dtypes) < 3 else ", ".join(dtypes)
        raise TypeError(f"{name}: expected dtype {wanted}, got {value.dtype}; convert it first")
    return kind


def native(value: Any) -> Array:
    """The value as an array whose bytes are in the order of this machine."""
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_state(name: str, y: Any, field: Field) -> Any:
    """States (..., d) of a field as an array of its dtype, framework and device, or TypeError, ValueError."""
    if isinstance(y, tuple):
        raise TypeError(
            f"{name}: expected an array (..., {field.d}), got a tuple; a compiled field has one array as its state, "
            'a tuple takes a function and options={"compiled": "never"}'
        )
    torch = is_torch(y)
    if not torch:
        y = native(y)
    kind = check_float(name, y)
    if torch and y.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(
            f"{name}: expected a tensor on the CPU or a CUDA device, got device {y.device}; there are no kernels for "
            "it (nnsym_fast.show_config() says more), move it with .cpu()"
        )
    if field.dtype is not None:
        if not torch and field.framework == "torch":
            raise TypeError(
                f"{name}: expected a torch tensor, as the parameters of the field are, got {type(y).__name__}; "
                "use torch.as_tensor"
            )
        if kind != field.dtype:
            raise TypeError(
                f"{name}: expected dtype {field.dtype}, that of the parameters of the field, got {kind}; "
                "convert one of them"
            )
        if torch and field.device is not None and field.device != y.device:
            raise ValueError(
                f"{name}: expected device {field.device}, that of the parameters of the field, got {y.device}"
            )
    field.check_closed()
    if len(y.shape) < 1 or y.shape[-1] != field.d:
        raise ValueError(f"{name}: expected shape (..., {field.d}), states of the field, got {tuple(y.shape)}")
    return y


def check_batch(name: str, shape: Sequence[int], batch: Sequence[int], wanted: str) -> None:
    """ValueError unless a shape broadcasts to the batch axes."""
    if not fits(shape, batch):
        raise ValueError(f"{name}: expected {wanted} {tuple(batch)}, that of y0, got {tuple(shape)}")


def check_times(t: Array) -> Array:
    """ValueError unless t (..., n) is finite and strictly monotone along its last axis."""
    if not np.isfinite(t).all():
        raise ValueError(f"t: expected finite times, got {t[~np.isfinite(t)][0]}")
    if t.shape[-1] > 1:
        steps = t[..., 1:] - t[..., :-1]
        rising = steps > 0
        if not (rising.all() or (steps < 0).all()):
            rows = rising.all(-1) | (steps < 0).all(-1)
            if not rows.all():
                row = t[~rows][0] if t.ndim > 1 else t
                raise ValueError(
                    "t: expected strictly ascending or strictly descending times, "
                    f"got {np.array2string(row, threshold=8)}; sort them and leave out what comes twice"
                )
    return t


def check_times_shape(shape: Sequence[int], batch: Sequence[int]) -> None:
    """ValueError unless t is (n,) or batch + (n,)."""
    if len(shape) < 1 or shape[-1] < 1 or not fits(shape[:-1], batch):
        raise ValueError(
            f"t: expected shape (n,) with n >= 1, or batch + (n,) = {shape_text(*batch, 'n')}, got {tuple(shape)}"
        )


def warn(status: Array) -> None:
    """One warning with counts where an integration did not succeed."""
    if not status.any():
        return
    parts = []
    for number, (what, remedy) in OUTCOMES.items():
        count = int(np.count_nonzero(status == number))
        if count:
            parts.append(f"{count} of {status.size} samples {what} ({remedy})")
    warnings.warn(f"odeint: {'; '.join(parts)}; their values beyond are nan", RuntimeWarning, stacklevel=4)


# --- kernels on arrays with any leading batch axes


@lru_cache(maxsize=256)
def _plan(problem: Problem) -> _ode.Plan:
    """The plan of a problem, without its fixed steps."""
    code, method, control, event = problem
    d = size(code)

    def tolerance(name: str, value: Any) -> Array:
        array: Array = np.asarray(value, np.float64)
        if array.ndim and array.shape != (d,):
            raise ValueError(f"{name}: expected a number, or one for each of {d} components, got shape {array.shape}")
        return np.array(np.broadcast_to(array, (d,)))

    numbers = (
        control.safety, control.factor_min, control.factor_max, control.pcoeff, control.icoeff, control.dcoeff,
        control.dt_min, control.dt_max, control.first_step or 0.0, float(control.max_steps),
    )  # fmt: skip
    found = None if event is None else (np.asarray(event[0], np.float64), event[1], event[2])
    return _ode.Plan(
        table(method),
        None,
        tolerance("rtol", control.rtol),
        tolerance("atol", control.atol),
        numbers,
        np.asarray(control.jump_t, np.float64),
        found,
    )


def size(code: _ode.FieldCode) -> int:
    """Size of the state of a field."""
    if code.kind == 0:
        return code.widths[-1]
    return code.widths[0] if code.kind == 1 else 2 * code.widths[0]


def plan_of(problem: Problem, t: Array) -> _ode.Plan:
    """The plan for times (N or 1, n)."""
    plan = _plan(problem)
    steps = problem.control.fixed_steps(t, table(problem.method))
    return plan if steps is None else plan._replace(steps=steps)


def _rows(t: Array, batch: tuple[int, ...]) -> Array:
    """t (..., n) as (N or 1, n)."""
    n = t.shape[-1]
    if math.prod(t.shape[:-1]) == 1:
        return np.ascontiguousarray(t.reshape(1, n))
    return np.ascontiguousarray(np.broadcast_to(t, (*batch, n)).reshape(-1, n))


def _flat(y: Array, d: int) -> Array:
    return np.ascontiguousarray(y.reshape(-1, d))


def state_buffer(problem: Problem, y0: Array, t: Array) -> Array | None:
    """``_ode.state_buffer`` likewise, unless the number of states to keep was chosen."""
    if problem.control.checkpoints or t.shape[-1] == 1 or not y0.size:
        return None
    return _ode.state_buffer(_flat(y0, y0.shape[-1]), plan_of(problem, _rows(t, y0.shape[:-1])))


def integrate(
    problem: Problem, params: Array, knots: Array, y0: Array, t: Array, states: Array | None = None
) -> _ode.Result:
    """``_ode.integrate`` for y0 (*batch, d) and t (n,) or batch + (n,)."""
    *lead, d = y0.shape
    batch = tuple(lead)
    check_times(t)
    n = t.shape[-1]
    if n == 1 or not y0.size:
        ys = np.broadcast_to(y0, (n, *batch, d)).copy()
        t_end = np.broadcast_to(t[..., -1], batch).copy()
        return _ode.Result(ys, np.zeros(batch, np.int32), np.zeros((*batch, 3), np.int64), t_end, y0.copy())
    rows = _rows(t, batch)
    found = _ode.integrate(problem.code, params, knots, _flat(y0, d), rows, plan_of(problem, rows), states)
    return _ode.Result(
        found.ys.reshape(n, *batch, d),
        found.status.reshape(batch),
        found.stats.reshape(*batch, 3),
        found.t_end.reshape(batch),
        found.y_end.reshape(*batch, d),
    )


def _times_like(gt: Array, t: Array, batch: tuple[int, ...]) -> Array:
    """Gradients of (N or 1, n) summed to the shape of t."""
    if gt.shape[0] == math.prod(t.shape[:-1]):
        return gt.reshape(t.shape)
    full = gt.reshape(*batch, t.shape[-1])
    extra = full.ndim - t.ndim
    full = full.sum(tuple(range(extra)))
    axes = tuple(i for i, length in enumerate(t.shape[:-1]) if length == 1)
    return np.asarray(full.sum(axes, keepdims=True)).reshape(t.shape)


def gradient(
    problem: Problem,
    params: Array,
    knots: Array,
    y0: Array,
    t: Array,
    ys: Array,
    status: Array,
    grad: Array,
    want_t: bool,
    states: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """``_ode.gradient`` likewise; gradients of values that were not reached count as zero."""
    *lead, d = y0.shape
    batch = tuple(lead)
    n = t.shape[-1]
    if n == 1 or not y0.size:
        return grad.sum(0), np.zeros_like(params), np.zeros_like(t) if want_t else None
    if status.any():
        grad = np.where(np.isnan(ys), grad.dtype.type(0), grad)
    rows = _rows(t, batch)
    count = math.prod(batch)
    keep = problem.control.checkpoints or 0
    gy0, gparams, gt = _ode.gradient(
        problem.code,
        params,
        knots,
        _flat(y0, d),
        rows,
        plan_of(problem, rows),
        np.ascontiguousarray(grad.reshape(n, count, d)),
        keep,
        want_t,
        None if status.any() else states,
    )
    return gy0.reshape(y0.shape), gparams, None if gt is None else _times_like(gt, t, batch)


def adjoint(
    problem: Problem,
    params: Array,
    knots: Array,
    t: Array,
    ys: Array,
    grad: Array,
    want_t: bool,
) -> tuple[Array, Array, Array | None, Array]:
    """The backsolve from output to output, begun anew from the stored states; and its worst status per sample."""
    n, *lead, d = ys.shape
    batch = tuple(lead)
    count = math.prod(batch)
    if n == 1 or not ys.size:
        return grad.sum(0), np.zeros_like(params), np.zeros_like(t) if want_t else None, np.zeros(batch, np.int32)
    rows = _rows(t, batch)
    states, pushes = ys.reshape(n, count, d), grad.reshape(n, count, d)
    reached = np.asarray(np.isfinite(states).all(-1))
    if not reached.all():
        # A sample that ended early: its states stay where they are, and nothing is pulled back.
        pushes = np.where(reached[..., None], pushes, pushes.dtype.type(0))
        states = np.where(reached[..., None], states, states.dtype.type(0))
    problem = problem._replace(event=None)
    total = np.zeros(params.shape, np.float64)
    worst = np.zeros(count, np.int32)
    a = np.zeros((count, d), ys.dtype)
    for i in range(n - 1, 0, -1):
        a = a + pushes[i]
        interval = np.ascontiguousarray(rows[:, [i, i - 1]])
        plan = plan_of(problem, interval)
        _, a, part, status = _ode.adjoint(
            problem.code, params, knots, np.ascontiguousarray(states[i]), np.ascontiguousarray(a), interval, plan
        )
        total += part
        worst = np.maximum(worst, np.where(reached[i], status, 0))
    gt = None
    if want_t:
        slopes = np.stack(
            [
                _ode.field(
                    problem.code, params, knots, np.ascontiguousarray(rows[:, i]), np.ascontiguousarray(states[i])
                )
                for i in range(n)
            ]
        )
        with np.errstate(invalid="ignore"):  # a sample that ended early pulls nothing back, whatever its slope
            full = np.where(pushes == 0, 0.0, pushes.astype(np.float64) * slopes).sum(-1).T.copy()
            full[:, 0] = -np.where(a == 0, 0.0, a.astype(np.float64) * slopes[0]).sum(-1)
        gt = _times_like(full, t, batch)
    gy0 = (a + pushes[0]).reshape(*batch, d)
    return gy0, total.astype(params.dtype), gt, worst.reshape(batch)


def field(code: _ode.FieldCode, params: Array, knots: Array, t: Array, y: Array) -> Array:
    """``_ode.field`` for y (*batch, d) and t of a shape that broadcasts to the batch."""
    if not y.size:
        return np.empty_like(y)
    return _ode.field(code, params, knots, _field_times(t, y), _flat(y, y.shape[-1])).reshape(y.shape)


def _field_times(t: Array, y: Array) -> Array:
    return _rows(t.reshape(*t.shape, 1), y.shape[:-1])[:, 0]


def field_vjp(
    code: _ode.FieldCode, params: Array, knots: Array, t: Array, y: Array, a: Array
) -> tuple[Array, Array, Array]:
    """``_ode.field_vjp`` likewise: gradients of y, parameters, and t."""
    if not y.size:
        return np.empty_like(y), np.zeros_like(params), np.zeros_like(t)
    d = y.shape[-1]
    gy, gparams, gt = _ode.field_vjp(code, params, knots, _field_times(t, y), _flat(y, d), _flat(a, d))
    return (
        gy.reshape(y.shape),
        gparams,
        _times_like(gt.reshape(-1, 1), t.reshape(*t.shape, 1), y.shape[:-1]).reshape(t.shape),
    )
