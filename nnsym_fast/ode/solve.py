# SPDX-License-Identifier: MIT
"""Initial value problems: arguments are checked, a kernel or the driver is chosen and called, results are wrapped."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnsym_fast._arrays import is_torch
from nnsym_fast.ode import driver, plans
from nnsym_fast.ode.controller import Control
from nnsym_fast.ode.fields import Field
from nnsym_fast.ode.results import Event, Solution
from nnsym_fast.tableaus import Tableau

__all__ = ["NotCompiledWarning", "odeint", "odeint_adjoint", "solve"]

COMPILED = ("require", "auto", "never")
STATISTICS = ("accepted", "rejected", "evaluations")
COMPLEX = (*plans.DTYPES, "complex64", "complex128")


class NotCompiledWarning(UserWarning):
    """A function is called from Python at every stage of every step; a field of ``nf.ode`` runs inside the kernel."""


def odeint(
    func: Any,
    y0: Any,
    t: Any,
    *,
    rtol: float | Sequence[float] = 1e-7,
    atol: float | Sequence[float] = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The solution of y' = func(t, y), y(t_0) = y0, at the times t.

    Args:
        func: a field of ``nf.ode``; a ``torch.nn.Sequential``, or a module whose ``forward(t, y)`` is one, which runs
            in the kernel, too; or any function of (t, y), of NumPy arrays or torch tensors.
        y0: states ``(..., d)``, float32 or float64; for functions also complex, or a tuple of arrays.
        t: times ``(n,)``, strictly ascending or descending, or batch + ``(n,)``, one row for every sample. They are
            float64. With ``y0`` on a CUDA device they may lie there, too, and are not read then: fixed steps take
            ``steps``, not ``step_size`` or ``jump_t``, and samples whose times are not monotone become nan.
        rtol, atol: tolerances of adaptive methods, numbers or one for each component.
        method: ``euler midpoint heun2 rk4 rk4_38 bosh3 dopri5 tsit5 dopri8``; heun2, bosh3, dopri5, tsit5 and dopri8
            are adaptive; or a ``Tableau``.
        options: ``compiled``: ``"require"`` raises where ``func`` cannot run in the kernel, ``"auto"`` (default) runs
            it from Python then, ``"never"`` always does. ``steps`` or ``step_size``: fixed steps. ``safety``,
            ``factor_min``, ``factor_max``, ``pcoeff``, ``icoeff``, ``dcoeff``, ``dt_min``, ``dt_max``, ``first_step``,
            ``max_steps``: of the controller. ``jump_t``: times where ``func`` is discontinuous. ``batch_step``:
            ``"sample"`` or ``"shared"``. ``checkpoints``: states per sample that the reverse pass keeps.

    Returns:
        ``(n, *batch, d)`` of the framework and dtype of ``y0``; the first entry is ``y0``. Values that a sample did not
        reach are nan, with one RuntimeWarning that counts them; their gradients are zero. On a CUDA device nothing
        waits for the kernel and nothing warns: :func:`solve` returns the statuses. Torch differentiates in y0,
        parameters and t, through the steps that were taken.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, with what was expected and what to do.

    >>> import numpy as np, nnsym_fast as nf
    >>> rotation = nf.ode.Linear(np.array([[0.0, -1.0], [1.0, 0.0]]))
    >>> y = nf.odeint(rotation, np.array([1.0, 0.0]), [0.0, np.pi / 2, np.pi])
    >>> bool(np.allclose(y, [[1, 0], [0, 1], [-1, 0]], atol=1e-6))
    True
    """
    return _run(func, y0, t, rtol, atol, method, options, None, True, None)[1]


def odeint_adjoint(
    func: Any,
    y0: Any,
    t: Any,
    *,
    rtol: float | Sequence[float] = 1e-7,
    atol: float | Sequence[float] = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    adjoint_rtol: float | Sequence[float] | None = None,
    adjoint_atol: float | Sequence[float] | None = None,
    adjoint_method: str | Tableau | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Sequence[Any] | None = None,
) -> Any:
    """:func:`odeint` whose gradients come from the adjoint equation, solved backwards in time.

    Memory does not grow with the number of steps; gradients are those of the exact flow, as far as the tolerances go.

    Args:
        func, y0, t, rtol, atol, method, options: see :func:`odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward solution; None: as forward.
        adjoint_params: tensors that ``func`` depends on, where it is a function; None: the parameters of a module.

    Returns:
        As :func:`odeint`.

    Raises:
        TypeError, ValueError: as :func:`odeint`.
    """
    _settings("", rtol, atol, method, options)  # what is wrong with these is said first
    backward = _settings(
        "adjoint_",
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        method if adjoint_method is None else adjoint_method,
        (options if adjoint_method in (None, method) else None) if adjoint_options is None else adjoint_options,
    )
    return _run(func, y0, t, rtol, atol, method, options, None, True, (backward, adjoint_params))[1]


def solve(
    func: Any,
    y0: Any,
    t: Any,
    *,
    rtol: float | Sequence[float] = 1e-7,
    atol: float | Sequence[float] = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    event: Event | None = None,
) -> Solution:
    """:func:`odeint` with everything that is known of the solution, and no warning about its status.

    Args:
        func, y0, t, rtol, atol, method, options: see :func:`odeint`.
        event: where each sample ends early; its ``t_end`` and ``y_end`` are where it crossed.

    Returns:
        A :class:`Solution`. ``y_end`` of a compiled field is differentiable for samples that arrive.

    Raises:
        TypeError, ValueError: as :func:`odeint`; an event that does not fit the state.

    >>> import numpy as np, nnsym_fast as nf
    >>> rotation = nf.ode.Linear(np.array([[0.0, -1.0], [1.0, 0.0]]))
    >>> found = nf.ode.solve(rotation, np.array([1.0, 0.0]), [0.0, 3.0], event=nf.ode.Event(component=0))
    >>> nf.ode.Status(int(found.status)).name, bool(abs(found.t_end - np.pi / 2) < 1e-6)
    ('EVENT', True)
    """
    if event is not None and not isinstance(event, Event):
        raise TypeError(f"event: expected an nf.ode.Event, got {type(event).__name__}")
    ts, ys, status, stats, t_end, y_end = _run(func, y0, t, rtol, atol, method, options, event, False, None)
    if not isinstance(stats, dict):
        stats = {name: stats[..., i] for i, name in enumerate(STATISTICS)}
    if "steps" not in stats:
        stats = {"steps": stats["accepted"] + stats["rejected"], **stats}
    return Solution(ts, ys, status, stats, t_end, y_end)


# --- settings


class _Settings(NamedTuple):
    method: str
    control: Control
    compiled: str


def _key(value: Any) -> Any:
    """A tolerance or option as something hashable."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(value) if isinstance(value, list) else value


def _settings(prefix: str, rtol: Any, atol: Any, method: Any, options: Any) -> _Settings:
    """The checked settings; ``prefix`` is that of the arguments' names."""
    if options is None:
        items: tuple[tuple[Any, Any], ...] = ()
    elif isinstance(options, Mapping):
        items = tuple((name, _key(value)) for name, value in options.items())
    else:
        raise TypeError(f"{prefix}options: expected a dict, got {type(options).__name__}")
    try:
        return _cached(prefix, _key(rtol), _key(atol), method, items)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _cached.__wrapped__(prefix, rtol, atol, method, items)


# Settings are constants for compilers of torch: they call this instead of tracing it.
_settings._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=256, typed=True)
def _cached(prefix: str, rtol: Any, atol: Any, method: Any, items: tuple[tuple[str, Any], ...]) -> _Settings:
    if not isinstance(method, (str, Tableau)):
        raise TypeError(f"{prefix}method: expected a name, got {type(method).__name__}")
    options = dict(items)
    compiled = options.pop("compiled", "auto")
    if compiled not in COMPILED:
        raise ValueError(f"{prefix}options['compiled']: expected one of {', '.join(COMPILED)}, got {compiled!r}")
    name = plans.method_name(method)
    control, _ = Control.from_options(rtol, atol, options)
    return _Settings(name, control, compiled)


# --- what runs


class _Choice(NamedTuple):
    """What integrates: a field in the kernel, or a function in the driver."""

    field: Field | None
    call: Callable[..., Any]


def _choose(func: Any, y0: Any, settings: _Settings) -> _Choice:
    compiled, shared = settings.compiled, settings.control.batch_step == "shared"
    if compiled == "require" and shared:
        raise ValueError(
            "options['batch_step']: expected 'sample' with compiled='require', got 'shared': a step for the batch "
            "is chosen in Python, where the kernel evaluates the field alone; use options={'compiled': 'auto'}"
        )
    if isinstance(func, Field):
        if compiled == "never":
            return _Choice(None, func)
        return _Choice(None if shared else func, func)
    if not callable(func):
        raise TypeError(f"func: expected a field of nf.ode, a torch module or a function of (t, y), got {func!r}")
    call, reason = func, "it is no module of torch and no field of nf.ode"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(func, torch.nn.Module):
        if type(func) is torch.nn.Sequential:
            call = _WithoutTime(func)
        if compiled != "never":
            from nnsym_fast import _torch

            field, reason = _torch.ODE.recognise(func)
            if field is not None and (compiled == "require" or _takes(field, y0)):
                return _Choice(None, field) if shared else _Choice(field, field)
            if field is not None:
                reason = "its state is complex or a tuple"
    if compiled == "require":
        raise ValueError(
            f"func: {type(func).__name__} cannot run in the kernel: {reason}; use a field of nf.ode, "
            'or options={"compiled": "auto"}'
        )
    if compiled == "auto":
        _tell_once(reason)
    return _Choice(None, call)


class _WithoutTime:
    """A Sequential, which takes y alone, as a function of (t, y)."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, t: Any, y: Any) -> Any:
        return self.module(y)

    def parameters(self) -> Any:
        """Those of the module."""
        return self.module.parameters()


def _takes(field: Field, y0: Any) -> bool:
    return not isinstance(y0, tuple) and "complex" not in str(getattr(y0, "dtype", ""))


_told: list[str] = []


def _tell_once(reason: str) -> None:
    if _told:
        return
    _told.append(reason)
    warnings.warn(
        f"odeint: func is not compiled, as {reason}; it is called from Python at every stage. "
        'nf.ode.MLP, Linear and Geodesic run in the kernel; options={"compiled": "never"} says that this is meant',
        NotCompiledWarning,
        stacklevel=5,
    )


def _run(
    func: Any,
    y0: Any,
    t: Any,
    rtol: Any,
    atol: Any,
    method: str | Tableau,
    options: Mapping[str, Any] | None,
    event: Event | None,
    warn: bool,
    adjoint: tuple[_Settings, Sequence[Any] | None] | None,
) -> tuple[Any, ...]:
    """ts, ys, status, stats, t_end, y_end."""
    settings = _settings("", rtol, atol, method, options)
    field, call = _choose(func, y0, settings)
    if field is None:
        return _drive(call, y0, t, settings, event, warn, adjoint)
    y0 = plans.check_state("y0", y0, field)
    functional = None if event is None else event.functional(field.d)
    problem = plans.Problem(field.code(), settings.method, _with_jumps(settings.control, field), functional)
    if is_torch(y0):
        from nnsym_fast import _torch

        times = _torch.ODE.times(t, y0)
        plans.check_times_shape(times.shape, y0.shape[:-1])
        back = None
        if adjoint is not None:
            control = _with_jumps(adjoint[0].control, field)
            back = problem._replace(method=adjoint[0].method, control=control)
        ys, status, stats, t_end, y_end = _torch.ODE.solve(problem, field, y0, times, back, warn)
        if not warn:
            times = _torch.ODE.moved(times, y0)
        return times, ys, status, stats, t_end, y_end if warn else _torch.ODE.end(ys, status, y_end)
    times = _times(t)
    plans.check_times_shape(times.shape, y0.shape[:-1])
    found = plans.integrate(problem, field.flat(y0), field.knots(), y0, times)
    if warn:
        plans.warn(found.status)
    return times, *found


def _with_jumps(control: Control, field: Field) -> Control:
    return replace(control, jump_t=(*control.jump_t, *field.jumps)) if field.jumps else control


def _times(t: Any) -> Any:
    """Times as a float64 array of NumPy."""
    array = np.asarray(t.detach().cpu() if is_torch(t) else t)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"t: expected real times, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def _drive(
    call: Callable[..., Any],
    y0: Any,
    t: Any,
    settings: _Settings,
    event: Event | None,
    warn: bool,
    adjoint: tuple[_Settings, Sequence[Any] | None] | None,
) -> tuple[Any, ...]:
    """The same by the driver, for any function."""
    control = settings.control
    if isinstance(call, Field):
        y0 = plans.check_state("y0", y0, call)
        control = _with_jumps(control, call)
        if control.batch_step is None:
            control = replace(control, batch_step="sample")  # as in the kernel
    parts = list(y0) if isinstance(y0, tuple) else [y0]
    if not parts:
        raise ValueError("y0: expected an array or a tuple of arrays, got an empty tuple")
    for i, part in enumerate(parts):
        name = f"y0[{i}]" if isinstance(y0, tuple) else "y0"
        parts[i] = part if is_torch(part) else plans.native(part)
        if is_torch(parts[i]) != is_torch(parts[0]):
            raise TypeError(f"{name}: expected the framework of y0[0], got {type(part).__name__}")
        plans.check_float(name, parts[i], COMPLEX)
    state = tuple(parts) if isinstance(y0, tuple) else parts[0]
    times: Any = _times(t)
    plans.check_times(times)
    if is_torch(parts[0]):
        from nnsym_fast import _torch

        times = _torch.ODE.times(t, parts[0])
    if times.ndim < 1 or times.shape[-1] < 1:
        raise ValueError(f"t: expected shape (n,) with n >= 1, or batch + (n,), got {tuple(times.shape)}")
    functional = None
    if event is not None:
        if len(parts) > 1 or not parts[0].ndim or "complex" in str(parts[0].dtype):
            raise ValueError("event: expected a real state (..., d), not a tuple, a number or complex numbers")
        functional = event.functional(parts[0].shape[-1])
    table = plans.table(settings.method)
    if adjoint is None or not is_torch(parts[0]):
        found = driver.integrate(call, state, times, table, control, event=functional)
        ys, status, stats, t_end, y_end = found
        if warn:
            plans.warn(np.asarray(status.detach() if is_torch(status) else status))
        elif is_torch(parts[0]):
            times, status, stats, t_end = (x.to(parts[0].device) for x in (times, status, stats, t_end))
        return times, ys, status, stats, t_end, y_end
    backward, params = adjoint
    if params is None and isinstance(call, (Field, _WithoutTime)):
        params = list(call.parameters())
    found = driver.adjoint(
        call,
        state,
        times,
        table,
        control,
        adjoint_params=params,
        adjoint_tableau=plans.table(backward.method),
        adjoint_control=backward.control,
    )
    return times, found, None, None, None, None
