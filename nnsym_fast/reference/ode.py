# SPDX-License-Identifier: MIT
"""Neural ODEs, one sample at a time: the readable definition of :func:`odeint` and :func:`solve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.reference.ode_steps import Event, Field, Options, Status, Trajectory
from nnsym_fast.tableaus import Tableau, tableau

__all__ = ["Event", "Options", "Solution", "Status", "integrate", "odeint", "solve"]

Array: TypeAlias = npt.NDArray[Any]


class Solution(NamedTuple):
    """``ts`` as given; ``ys`` (n, *batch, d), nan after the end; the others have the shape of the batch."""

    ts: Array
    ys: Array
    status: Array
    stats: dict[str, Array]
    t_end: Array
    y_end: Array


def parse(y0: npt.ArrayLike, t: npt.ArrayLike, options: Mapping[str, Any] | None) -> tuple[Array, Array, Options]:
    """The state, its times ``batch + (n,)``, and the options; the batch of a shared step is one sample."""
    unknown = set(options or {}) - {field.name for field in fields(Options)}
    if unknown:
        raise ValueError(f"options: expected some of {[field.name for field in fields(Options)]}, got {unknown}")
    parsed = Options(**(options or {}))
    state, times = np.asarray(y0), np.asarray(t, np.float64)
    if state.dtype.kind not in "fc" or state.ndim == 0:
        raise TypeError(f"y0: expected a floating array with at least one axis, got {state.dtype} {state.shape}")
    batch = () if parsed.batch_step == "shared" else state.shape[:-1]
    steps = np.diff(times)
    if not any(times.shape[-1:]) or not ((steps > 0).all(axis=-1) | (steps < 0).all(axis=-1)).all():
        raise ValueError(f"t: expected strictly monotone times of shape (n,) or batch + (n,), got {times}")
    return state, np.broadcast_to(times, (*batch, times.shape[-1])), parsed


def method_of(method: str | Tableau) -> Tableau:
    return method if isinstance(method, Tableau) else tableau(method)


def integrate(
    func: Field,
    y0: npt.ArrayLike,
    t: npt.ArrayLike,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    event: Any = None,
) -> tuple[list[Trajectory], Array]:
    """The trajectories of a batch, sample by sample, and ``t`` spread over the batch; arguments: :func:`solve`."""
    state, times, parsed = parse(y0, t, options)
    table = method_of(method)
    samples = list(np.ndindex(times.shape[:-1]))
    return [
        Trajectory(func, table, state[i], times[i].tolist(), rtol, atol, parsed, event) for i in samples
    ], times  # fmt: skip


def solve(
    func: Field,
    y0: npt.ArrayLike,
    t: npt.ArrayLike,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
    event: Any = None,
) -> Solution:
    """The solution of y' = func(t, y), y(t_0) = y0, at all times.

    Args:
        func: ``(t, y)`` with a float and a state ``(d,)`` to the derivative ``(d,)``; with ``batch_step="shared"`` the
            state is the whole batch.
        y0: shape ``(*batch, d)``, float32, float64 or complex; the steps have its precision, the time float64.
        t: strictly monotone, either way, shape ``(n,)`` or ``batch + (n,)``.
        rtol, atol: numbers or ``(d,)``: the error of a step is measured in units of atol + rtol |y|.
        method: a name of :data:`nnsym_fast.tableaus.METHODS`, or a Tableau.
        options: see :class:`Options`.
        event: an :class:`Event`.

    >>> import numpy as np
    >>> solution = solve(lambda t, y: -y, np.ones((2, 1)), [0.0, 1.0], rtol=1e-9)
    >>> bool(abs(solution.ys[1] - np.exp(-1)).max() < 1e-8), solution.status.tolist()
    (True, [0, 0])
    """
    runs, times = integrate(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event=event)
    batch = times.shape[:-1]
    state = np.asarray(y0)

    def stack(values: list[Any], dtype: Any) -> Array:
        return np.array(values, dtype).reshape(batch)

    accepted = stack([len(run.path) for run in runs], np.int64)
    rejected = stack([run.rejected for run in runs], np.int64)
    stats = {
        "steps": accepted + rejected,
        "accepted": accepted,
        "rejected": rejected,
        "evaluations": stack([run.evaluations for run in runs], np.int64),
    }
    ys = np.array([run.rows for run in runs], state.dtype).reshape(
        len(runs), times.shape[-1], *state.shape[len(batch) :]
    )
    return Solution(
        ts=np.asarray(t, np.float64),
        ys=np.moveaxis(ys, 1, 0).reshape(times.shape[-1], *state.shape),
        status=stack([run.status for run in runs], np.int32),
        stats=stats,
        t_end=stack([run.t for run in runs], np.float64),
        y_end=np.array([run.y for run in runs], state.dtype).reshape(state.shape),
    )


def odeint(
    func: Field,
    y0: npt.ArrayLike,
    t: npt.ArrayLike,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> Array:
    """The ``ys`` of :func:`solve`, shape ``(n, *batch, d)``."""
    return solve(func, y0, t, rtol=rtol, atol=atol, method=method, options=options).ys
