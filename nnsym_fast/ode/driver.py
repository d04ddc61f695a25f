# SPDX-License-Identifier: MIT
"""Integration of any callable of (t, y), of NumPy arrays or torch tensors, and its gradients.

Torch differentiates through the steps that were taken, their lengths held fixed; :func:`adjoint` solves the adjoint
equation backwards in time instead. Derivatives in t: fixed steps move with it, exactly; of adaptive ones, an output
moves along the solution, and so does the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast._arrays import is_torch
from nnsym_fast.ode._run import Functional, Run
from nnsym_fast.ode._state import Layout, Rhs
from nnsym_fast.ode.controller import Control
from nnsym_fast.tableaus import Tableau

__all__ = ["Result", "adjoint", "integrate"]

Array = npt.NDArray[Any]


class Result(NamedTuple):
    """``ys``: the state with an axis (n, ...) in front; the others have the shape of the batch, () for a shared step.

    ``stats`` (..., 3), int64: accepted, rejected, evaluations.
    """

    ys: Any
    status: Any
    stats: Any
    t_end: Any
    y_end: Any


def integrate(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    tableau: Tableau,
    control: Control,
    event: Functional | None = None,
) -> Result:
    """The solution of y' = func(t, y), y(t_0) = y0, at the times t.

    Args:
        func: of a time and a state to its derivative. The time is a number of the real dtype of the state (for torch a
            tensor without axes), or with ``batch_step="sample"`` an array of the shape of the batch.
        y0: an array (..., d), real or complex, or a tuple of them. A shared step takes any shape.
        t: strictly monotone times (n,), float64; with ``batch_step="sample"`` also batch + (n,).
        tableau, control: the method, and how its steps are chosen.
        event: where weights . y - value crosses zero the sample ends.

    Raises:
        TypeError, ValueError: a state or result of ``func`` of the wrong kind: what was expected and came, the remedy.
    """
    if is_torch(t) or is_torch(y0) or (isinstance(y0, (tuple, list)) and any(map(is_torch, y0))):
        from nnsym_fast._torch import driver

        result: Result = driver.eager(_integrate)(func, y0, t, tableau, control, event)
        return result
    return _integrate(func, y0, t, tableau, control, event)


def _integrate(func: Any, y0: Any, t: Any, tableau: Tableau, control: Control, event: Functional | None) -> Result:
    layout = Layout(y0, control.batch_step == "sample")
    ts = times_of(t, layout)
    if event is not None:
        _check_event(event, layout)
    rhs = Rhs(func, layout)
    run = Run(rhs, layout, tableau, control, ts, event=event)
    start = layout.start()
    if ts.shape[1] == 1 or math.prod(start.shape) == 0:
        run.status[:], run.t = 0, run.full[:, -1].copy()
        ys, end = layout.rows.concatenate([start[None]] * ts.shape[1], 0), start
    elif layout.torch:
        from nnsym_fast._torch import driver

        ys, end = driver.solve(run, start, t)
    else:
        with np.errstate(all="ignore"):  # a trial step may overflow: its status says so
            ys, end = run.solve(start)
    stats = np.stack([run.accepted, run.rejected, run.evaluations], axis=-1)

    def like(values: Array, *axes: int) -> Any:
        return layout.rows.result(values.reshape((*layout.batch, *axes)))

    return Result(layout.open_many(ys), like(run.status), like(stats, 3), like(run.t), layout.open(end))


def times_of(t: Any, layout: Layout) -> Array:
    """Times ``(1, n)`` or ``(S, n)``, float64."""
    if is_torch(t):
        # Under a transform of torch.func a tensor shows its numbers, but not its memory.
        t = t.tolist() if layout.rows.traced() else t.detach().cpu()
    times = np.asarray(t, np.float64)
    if times.ndim == 1:
        return times[None]
    if not layout.batch and math.prod(times.shape[:-1]) != 1:
        raise ValueError(
            f"t: expected shape (n,) where all samples share their steps, got {times.shape}; for times of each sample "
            'use options={"batch_step": "sample"}, and a func that takes t of the shape of the batch'
        )
    return np.broadcast_to(times, (*layout.batch, times.shape[-1])).reshape(layout.samples, -1)


def _check_event(event: Functional, layout: Layout) -> None:
    columns = sum(layout.sizes)
    if "complex" in str(layout.dtype):
        raise ValueError(f"event: expected a real state, got dtype {layout.dtype}")
    if len(event[0]) != columns:
        raise ValueError(
            f"event: expected one weight for each of {columns} numbers that share their steps, got {len(event[0])}; "
            'where each sample has an event of its own use options={"batch_step": "sample"}, and a func that takes t '
            "of the shape of the batch"
        )


def adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Any,
    tableau: Tableau,
    control: Control,
    *,
    adjoint_params: Iterable[Any] | None,
    adjoint_tableau: Tableau,
    adjoint_control: Control,
) -> Any:
    """The ``ys`` of :func:`integrate` of torch tensors, whose gradients come from the adjoint equation.

    It is solved backwards from output to output, each time from the state that was stored there. Its error is measured
    over state and adjoint; the gradients of the parameters are quadratures along its steps.

    Args:
        func, y0, t, tableau, control: as :func:`integrate`.
        adjoint_params: tensors that ``func`` depends on; None: the parameters of a module.
        adjoint_tableau, adjoint_control: of the solution backwards.

    Raises:
        TypeError, ValueError: as :func:`integrate`; no tensors, or a function without ``adjoint_params``.
    """
    from nnsym_fast._torch import driver

    return driver.eager(driver.adjoint)(func, y0, t, tableau, control, adjoint_params, adjoint_tableau, adjoint_control)
