# SPDX-License-Identifier: MIT
"""Derivatives of solutions of neural ODEs: through the steps that were taken, and by integrating backwards.

A field comes with its vjp: (t, y, a) to a . df with respect to y (d,), to the parameters (flat) and to t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.reference.ode import integrate, method_of, parse
from nnsym_fast.reference.ode_steps import Field, Step, Trajectory, dense_weights
from nnsym_fast.tableaus import Tableau

__all__ = ["gradient", "odeint_adjoint"]

Array: TypeAlias = npt.NDArray[Any]
Vjp: TypeAlias = Callable[[float, Array, Array], tuple[Array, Array, float]]


def gradient(
    func: Field,
    vjp: Vjp,
    y0: npt.ArrayLike,
    t: npt.ArrayLike,
    grad_ys: npt.ArrayLike,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> tuple[Array, Array, Array]:
    """The derivative of sum(grad_ys * odeint(...)) through the steps taken, reverse mode.

    Fixed steps move with ``t``, so its gradient is exact too. Adaptive steps count as constants, and ``t`` acts through
    the solution's slope: dL/dt_i = grad_i . f(t_i, y_i), dL/dt_0 = -(lambda - grad_0) . f(t_0, y_0) with
    lambda = dL/dy_0.

    Returns:
        gradients of y0 ``(*batch, d)``, of the parameters (flat, summed over the batch), of t in its shape.
    """
    state, times, _ = parse(y0, t, options)
    runs, _ = integrate(func, y0, t, rtol=rtol, atol=atol, method=method, options=options)
    grads = np.moveaxis(np.asarray(grad_ys), 0, state.ndim - 1).reshape(len(runs), times.shape[-1], state.shape[-1])
    found = [_through(run, vjp, grad) for run, grad in zip(runs, grads, strict=True)]
    gt = np.array([part[2] for part in found]).reshape(times.shape)
    extra = tuple(range(gt.ndim - np.ndim(t)))
    return (
        np.array([part[0] for part in found]).reshape(state.shape),
        sum(part[1] for part in found),
        gt.sum(axis=extra),
    )


def _through(run: Trajectory, vjp: Vjp, grads: Array) -> tuple[Array, Any, Array]:
    """The steps of one trajectory, backwards."""
    table, ts = run.table, np.array(run.ts)
    back, gt = np.zeros_like(run.y), np.zeros(len(ts))
    gp: Any = 0.0
    for step in reversed(run.path):
        stages = len(step.k)
        slopes = [np.zeros_like(back) for _ in range(stages)]  # dL / dk
        gh, before = 0.0, np.zeros_like(back)  # dL / dh and dL / dy of the step
        ends = [(back, _padded(table.b, stages))]
        for number, theta in step.outputs:
            weights = _padded(table.b, stages) if theta == 1 else dense_weights(table, theta)
            ends.append((grads[number], weights))
            if not run.fixed:
                gt[number] = grads[number] @ run.f(float(ts[number]), run.rows[number])
        for lam, weights in ends:
            before = before + lam
            for j, weight in enumerate(weights):
                slopes[j] = slopes[j] + step.h * weight * lam
                gh += weight * float(lam @ step.k[j])
        c = table.c + table.extra_c
        rows = table.a + table.extra_a
        start = 0.0  # dL / dt of the step
        for i in range(stages - 1, -1, -1):
            y = step.y + step.h * sum((w * k for w, k in zip(rows[i], step.k, strict=False)), np.zeros_like(back))
            gy, parameters, slope = vjp(step.times[i], y, slopes[i])
            before, gp, start, gh = before + gy, gp + parameters, start + slope, gh + c[i] * slope
            for j, weight in enumerate(rows[i]):
                slopes[j] = slopes[j] + step.h * weight * gy
                gh += weight * float(gy @ step.k[j])
        if run.fixed:
            _move_grid(gt, step, run, start, gh)
        back = before
    if not run.fixed:
        gt[0] = -back @ run.f(run.ts[0], run.rows[0])
    return back + grads[0], gp, gt


def _padded(weights: tuple[float, ...], length: int) -> tuple[float, ...]:
    return weights + (0.0,) * (length - len(weights))


def _move_grid(gt: Array, step: Step, run: Trajectory, start: float, gh: float) -> None:
    """A fixed step cuts [left, right] into n parts: t = left + j h, h = (right - left) / n; jumps do not move."""
    ts, middle = np.array(run.ts), step.t + step.h / 2
    number = int(np.searchsorted(ts * run.direction, middle * run.direction)) - 1
    ends = [run.ts[number], run.ts[number + 1]]
    jumps = [jump for jump in run.options.jump_t if min(ends) < jump < max(ends)]
    cuts = sorted([*ends, *jumps], reverse=run.direction < 0)
    piece = next(k for k in range(len(cuts) - 1) if (middle - cuts[k + 1]) * run.direction < 0)
    left, right = cuts[piece], cuts[piece + 1]
    share = (step.t - left) / (right - left)
    count = (right - left) / step.h
    if left == ends[0]:
        gt[number] += start * (1 - share) - gh / count
    if right == ends[1]:
        gt[number + 1] += start * share + gh / count


def odeint_adjoint(
    func: Field,
    vjp: Vjp,
    y0: npt.ArrayLike,
    t: npt.ArrayLike,
    grad_ys: npt.ArrayLike,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Tableau = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> tuple[Array, Array, Array]:
    """The same derivatives by backsolve: (y, a) with a' = -a . df/dy runs backwards from every t_i to t_{i-1}.

    It starts anew at every t_i with the y_i of the forward pass. The error norm is that of (y, a); the parameters'
    integral of a . df/dtheta takes the same steps and weights (Chen et al. 1806.07366, appendix B).

    Returns:
        as :func:`gradient`.
    """
    state, times, parsed = parse(y0, t, options)
    runs, _ = integrate(func, y0, t, rtol=rtol, atol=atol, method=method, options=options)
    grads = np.moveaxis(np.asarray(grad_ys), 0, state.ndim - 1).reshape(len(runs), times.shape[-1], state.shape[-1])
    table, d = method_of(method), state.shape[-1]
    backwards = replace(parsed, first_step=None)
    gy0, gt = np.zeros((len(runs), d)), np.zeros((len(runs), times.shape[-1]))
    gp: Any = 0.0

    def both(s: float, z: Array) -> Array:
        gy, parameters, _ = vjp(s, z[:d], z[d : 2 * d])
        return np.concatenate([func(s, z[:d]), -gy, -parameters])

    tight = [np.concatenate([np.broadcast_to(x, d)] * 2) for x in (rtol, atol)]
    for number, (run, grad) in enumerate(zip(runs, grads, strict=True)):
        a = np.zeros(d)
        for i in range(len(run.ts) - 1, 0, -1):
            slope = np.asarray(func(run.ts[i], run.rows[i]))
            gt[number, i] = grad[i] @ slope
            a = a + grad[i]
            zeros = np.zeros_like(vjp(run.ts[i], run.rows[i], a)[1])
            z = np.concatenate([run.rows[i], a, zeros]).astype(state.dtype)
            span = [run.ts[i], run.ts[i - 1]]
            z = Trajectory(both, table, z, span, tight[0], tight[1], backwards, controlled=2 * d).y
            a, gp = z[d : 2 * d], gp + z[2 * d :]
        gt[number, 0] = -a @ np.asarray(func(run.ts[0], run.rows[0]))
        gy0[number] = a + grad[0]
    axes = tuple(range(times.ndim - np.ndim(t)))
    return gy0.reshape(state.shape), gp, gt.reshape(times.shape).sum(axis=axes)
