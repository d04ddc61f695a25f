# SPDX-License-Identifier: MIT
"""One trajectory of y' = f(t, y) by a Runge-Kutta method: the definition that kernels and drivers agree on.

Sources: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993: error control and the first step,
section II.4; dense output, II.6. PID controller: Soderlind 2003. Zeros of events: the Illinois form of regula falsi.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.tableaus import Tableau

__all__ = ["Event", "Field", "Options", "Status", "Step", "Trajectory", "dense_weights"]

Array: TypeAlias = npt.NDArray[Any]
Field: TypeAlias = Callable[[float, Array], npt.ArrayLike]

LANDS = 1 - 1e-12
"""A step of at least this share of the way to a stop goes all the way."""

EVENT_TRIALS = 60


class Status(IntEnum):
    """How an integration ended."""

    SUCCESS = 0
    EVENT = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3
    NON_FINITE = 4


class Event(NamedTuple):
    """The end of a trajectory: g(y) = weights . y - value crosses zero; a component is a unit vector.

    ``direction``: +1 where g rises, -1 where it falls, 0 for both.
    """

    component: int | None = None
    weights: Any = None
    value: float = 0.0
    direction: int = 0


@dataclass(frozen=True)
class Options:
    """Fixed steps (``steps`` per interval, or a longest ``step_size``), or the control of adaptive ones."""

    steps: int | None = None
    step_size: float | None = None
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    dt_min: float = 0.0
    dt_max: float = math.inf
    first_step: float | None = None
    max_steps: int = 100_000
    jump_t: tuple[float, ...] = ()
    batch_step: str = "sample"


class Step(NamedTuple):
    """An accepted step from (t, y) over h to ``end``, its stages, and the outputs (number, theta) that lie in it."""

    t: float
    y: Array
    h: float
    end: float
    times: list[float]
    k: list[Array]
    y_new: Array
    outputs: list[tuple[int, float]]


class Trajectory:
    """The integration of one sample.

    Args:
        f: the field.
        table: the method.
        y0: the first state, any shape, float32, float64 or complex.
        ts: strictly monotone times.
        rtol, atol: numbers or arrays that broadcast to the state.
        options: see :class:`Options`.
        event: anything with the attributes of :class:`Event`.
        controlled: the error norm is that of so many entries of a state of one axis; None: of all.
    """

    def __init__(
        self,
        f: Field,
        table: Tableau,
        y0: Array,
        ts: list[float],
        rtol: Any,
        atol: Any,
        options: Options,
        event: Any = None,
        controlled: int | None = None,
    ) -> None:
        self.f, self.table, self.options = f, table, options
        self.rtol, self.atol, self.controlled = np.asarray(rtol), np.asarray(atol), slice(controlled)
        self.ts, self.t, self.t_end = ts, ts[0], ts[-1]
        self.direction = math.copysign(1.0, ts[-1] - ts[0])
        self.y = y0
        self.rows = [y0]
        self.path: list[Step] = []
        self.rejected = self.evaluations = 0
        self.status = Status.SUCCESS
        self.event = event
        if event is not None:
            unit = np.eye(y0.shape[-1])
            self.functional = unit[event.component] if event.weights is None else np.asarray(event.weights, np.float64)
        with np.errstate(all="ignore"):
            (self._fixed if self.fixed else self._adaptive)()
        self.rows += [np.full_like(y0, math.nan)] * (len(ts) - len(self.rows))

    @property
    def fixed(self) -> bool:
        return not self.table.adaptive or self.options.steps is not None or self.options.step_size is not None

    # --- the field, whose jumps are approached from the side of the step

    def _field(self, t: float, y: Array) -> Array:
        self.evaluations += 1
        k = np.asarray(self.f(t, y))
        if k.shape != self.y.shape:
            raise ValueError(f"func: expected a result of shape {self.y.shape}, got {k.shape}")
        return k.astype(self.y.dtype)

    def _beside(self, t: float, side: float) -> float:
        """t, or where the field jumps at t, the next number on that side."""
        return math.nextafter(t, side * math.inf) if t in self.options.jump_t else t

    def _first_stage(self, t: float, y: Array) -> Array:
        return self._field(self._beside(t, self.direction), y)

    # --- one step

    def _stage(self, k: list[Array], c: float, row: tuple[float, ...], h: float, end: float) -> tuple[float, Array]:
        time = self._beside(end, -self.direction) if c == 1 else self.t + c * h
        return time, self._field(time, self.y + h * _combine(row, k))

    def _step(self, h: float, end: float, k1: Array) -> Step:
        k, times = [k1], [self._beside(self.t, self.direction)]
        for c, row in zip(self.table.c[1:], self.table.a[1:], strict=True):
            time, stage = self._stage(k, c, row, h, end)
            times.append(time)
            k.append(stage)
        return Step(self.t, self.y, h, end, times, k, self.y + h * _combine(self.table.b, k), [])

    def _accept(self, step: Step) -> Array | None:
        """Goes to the end of the step and writes the outputs on the way; the next first stage, None at an event."""
        ended = False
        if self.event is not None and self._crosses(step.y, step.y_new):
            step, ended = self._locate(step), True
        jumps = step.end in self.options.jump_t
        over = step.end == self.t_end
        if (self.table.fsal and (not jumps or ended or over)) or (self.fixed and over):
            following = step.k[-1]
        else:
            following = self._first_stage(step.end, step.y_new)
        number = len(self.rows)
        while number < len(self.ts) and (step.end - self.ts[number]) * self.direction >= 0:
            theta = (self.ts[number] - step.t) / step.h if self.ts[number] != step.end else 1.0
            step.outputs.append((number, theta))
            number += 1
        if any(theta != 1 for _, theta in step.outputs):
            for c, row in zip(self.table.extra_c, self.table.extra_a, strict=True):
                if row == self.table.b and c == 1 and not jumps:  # the next first stage
                    step.times.append(step.end)
                    step.k.append(following)
                else:
                    time, stage = self._stage(step.k, c, row, step.h, step.end)
                    step.times.append(time)
                    step.k.append(stage)
        for _, theta in step.outputs:
            self.rows.append(step.y + step.h * _combine(dense_weights(self.table, theta), step.k))
            if theta == 1:
                self.rows[-1] = step.y_new
        self.path.append(step)
        self.t, self.y = step.end, step.y_new
        if ended:
            self.status = Status.EVENT
        return None if ended else following

    # --- fixed steps

    def _fixed(self) -> None:
        k1 = self._first_stage(self.t, self.y)
        for start, stop in pairwise(self.ts):
            between = [jump for jump in self.options.jump_t if min(start, stop) < jump < max(start, stop)]
            cuts = [start, *sorted(between, reverse=start > stop), stop]
            for left, right in pairwise(cuts):
                count = _steps_between(left, right, abs(stop - start), self.options)
                for number in range(count):
                    end = left + (number + 1) * (right - left) / count if number < count - 1 else right
                    step = self._step((right - left) / count, end, k1)
                    if not np.isfinite(step.y_new).all():
                        self.status = Status.NON_FINITE
                        return
                    following = self._accept(step)
                    if following is None:
                        return
                    k1 = following

    # --- adaptive steps

    def _scale(self, *states: Array) -> Array:
        return np.asarray(self.atol + self.rtol * np.max(np.abs(states), axis=0)[self.controlled])

    def _rms(self, x: Array) -> float:
        return float(np.sqrt(np.mean(np.abs(x.astype(np.result_type(x, np.float64))) ** 2)))

    def _error(self, step: Step) -> float:
        scale = self._scale(step.y, step.y_new)
        norms = [self._rms((step.h * _combine(row, step.k))[self.controlled] / scale) for row in self.table.error]
        if len(norms) == 1:
            return norms[0]
        return norms[0] ** 2 / math.sqrt(norms[0] ** 2 + 0.01 * norms[1] ** 2) if any(norms) else 0.0

    def _first_step(self, f0: Array) -> float:
        if self.options.first_step is not None:
            return self.options.first_step
        scale, span = self._scale(self.y), abs(self.t_end - self.t)
        d0, d1 = (self._rms(x[self.controlled] / scale) for x in (self.y, f0))
        h0 = min(1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1, span)
        f1 = self._field(self.t + self.direction * h0, self.y + self.direction * h0 * f0)
        d2 = self._rms((f1 - f0)[self.controlled] / scale) / h0 if h0 else math.nan
        if max(d1, d2) <= 1e-15:
            h1 = max(1e-6, 1e-3 * h0)
        else:
            h1 = (0.01 / max(d1, d2)) ** (1 / (self.table.error_order + 1))
        h = min(100 * h0, h1)
        h = h if math.isfinite(h) and h > 0 else min(1e-6, span)  # the field is infinite or not a number there
        return max(h, self.options.dt_min)

    def _stop(self) -> float:
        """The nearest time that a step lands on."""
        ahead = [jump for jump in self.options.jump_t if (jump - self.t) * self.direction > 0]
        outputs = [] if self.table.dense else self.ts[len(self.rows) :]
        return min([self.t_end, *ahead, *outputs], key=lambda stop: abs(stop - self.t))

    def _adaptive(self) -> None:
        options, eps = self.options, float(np.finfo(self.y.dtype).eps)
        resolution = eps / 16 * abs(self.t_end - self.t)
        k1 = self._first_stage(self.t, self.y)
        h = self._first_step(k1) if self.t != self.t_end else 0.0
        errors = [1.0, 1.0]  # of the two accepted steps before
        finite = True
        while self.t != self.t_end:
            if len(self.path) + self.rejected == options.max_steps:
                self.status = Status.MAX_STEPS
                return
            stop = self._stop()
            wanted = h = min(h, options.dt_max)
            floor = max(options.dt_min, 4 * 2.0**-52 * max(abs(self.t), abs(self.t_end)), resolution)
            if h >= abs(stop - self.t) * LANDS:
                h, end = abs(stop - self.t), stop
            elif h < floor:
                self.status = Status.STEP_TOO_SMALL if finite else Status.NON_FINITE
                return
            else:
                end = self.t + self.direction * h
            step = self._step(self.direction * h, end, k1)
            error = self._error(step)
            finite = math.isfinite(error) and bool(np.isfinite(step.y_new).all())
            if not finite or error > 1:
                self.rejected += 1
                factor = self._factor(error, errors, options.factor_min, options.safety) if finite else 0.0
                h *= max(factor, options.factor_min)
                continue
            factor = self._factor(error, errors, 1.0, options.factor_max)
            errors = [max(error, 1e-10), errors[0]]
            h = h * factor if end != stop else max(h * factor, wanted)
            following = self._accept(step)
            if following is None:
                return
            k1 = following

    def _factor(self, error: float, errors: list[float], least: float, most: float) -> float:
        """How much longer the next step is (PID)."""
        if error == 0:
            return most
        p, i, d = self.options.pcoeff, self.options.icoeff, self.options.dcoeff
        k = self.table.error_order + 1
        past = errors[0] ** ((p + 2 * d) / k) * errors[1] ** (-d / k)
        return float(min(max(self.options.safety * error ** (-(p + i + d) / k) * past, least), most))

    # --- events

    def _g(self, y: Array) -> float:
        return float(y.astype(np.float64) @ self.functional) - float(self.event.value)

    def _crosses(self, y: Array, y_new: Array) -> bool:
        before, after = self._g(y), self._g(y_new)
        rises, falls = before < 0 <= after, before > 0 >= after
        return (rises and self.event.direction >= 0) or (falls and self.event.direction <= 0)

    def _locate(self, step: Step) -> Step:
        """The shortest step, up to rounding, that ends on the far side of the zero."""
        tolerance = 4 * float(np.finfo(self.y.dtype).eps) * max(abs(step.t), abs(step.h))
        left, right = 0.0, abs(step.h)
        g_left, g_right = self._g(step.y), self._g(step.y_new)
        sign, moved = math.copysign(1.0, g_left), 0
        for _ in range(EVENT_TRIALS):
            if right - left < tolerance or g_right == 0:
                break
            h = right - g_right * (right - left) / (g_right - g_left)
            if not left < h < right:
                h = left + (right - left) / 2
            trial = self._step(self.direction * h, self.t + self.direction * h, step.k[0])
            g = self._g(trial.y_new)
            # An end that stays twice counts half, so that both close in.
            if g * sign > 0:
                left, g_left, g_right, moved = h, g, g_right / (2 if moved == -1 else 1), -1
            else:
                right, g_right, g_left, moved, step = h, g, g_left / (2 if moved == 1 else 1), 1, trial
        return step


def _combine(weights: tuple[float, ...], k: list[Array]) -> Any:
    """sum_j weights_j k_j."""
    return sum((weight * stage for weight, stage in zip(weights, k, strict=False) if weight), start=0 * k[0])


def dense_weights(table: Tableau, theta: float) -> tuple[float, ...]:
    """b_j(theta) of the dense output."""
    return tuple(sum(p * theta ** (power + 1) for power, p in enumerate(row)) for row in table.dense)


def _steps_between(left: float, right: float, interval: float, options: Options) -> int:
    """Fixed steps in a piece of an interval: its share of those of the interval, rounded up."""
    steps = options.steps or 1
    if options.step_size is not None:
        steps = max(1, math.ceil(interval / options.step_size - 1e-9))
    return max(1, math.ceil(steps * abs(right - left) / interval - 1e-9))
