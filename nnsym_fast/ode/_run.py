# SPDX-License-Identifier: MIT
"""The loops of the driver: steps that are fixed or controlled by their error, jumps, events, outputs.

Written once for the rows of any framework. What decides about steps is float64 of NumPy, one entry per sample; autograd
sees only the operations of the steps that were taken, and takes their lengths as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast.ode._schedule import beside, schedule
from nnsym_fast.ode._stages import Mark, Stages, Step
from nnsym_fast.ode._state import Layout
from nnsym_fast.ode.controller import LANDS, PID, Control, first_trial, second_trial
from nnsym_fast.tableaus import Tableau

__all__ = ["SUCCESS", "Functional", "Run"]

Array = npt.NDArray[Any]

RUNNING = -1
SUCCESS, EVENT, MAX_STEPS, STEP_TOO_SMALL, NON_FINITE = range(5)

EVENT_TRIALS = 60

NO_MARK = Mark(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

Functional = tuple[Sequence[float], float, int]
"""An event, where weights . y - value crosses zero: weights, value, and +1 where it rises, -1 where it falls, or 0."""


class Run:
    """An integration of rows ``(S, D)``.

    Args:
        rhs: the field, a function of times and rows.
        layout: of the rows.
        tableau, control: how.
        ts: times ``(S or 1, n)``.
        tolerances: rtol and atol as numbers or ``(1, D)``; None: those of the control.
        event: where samples end early.
        quadrature: its ``add`` gets every step that was taken, the state before it and its stages; ``clear`` takes
            all of that back.

    ``record``, where it is set, is called likewise with every step, its outputs and the state before it.
    """

    def __init__(
        self,
        rhs: Any,
        layout: Layout,
        tableau: Tableau,
        control: Control,
        ts: Array,
        *,
        tolerances: tuple[Any, Any] | None = None,
        event: Functional | None = None,
        quadrature: Any = None,
    ) -> None:
        self.rhs, self.layout, self.table, self.control = rhs, layout, tableau, control
        self.rows, self.samples, self.tolerances = layout.rows, layout.samples, tolerances
        self.stages = Stages(tableau, layout, rhs)
        self.ts, self.count = ts, ts.shape[1]
        self.full = np.broadcast_to(ts, (self.samples, self.count))
        self.sign = np.sign(self.full[:, -1] - self.full[:, 0])
        self.everyone = np.arange(self.samples)
        self.event = None if event is None else (np.asarray(event[0], np.float64), event[1], event[2])
        self.fixed = control.fixed_steps(ts[:1, :1], tableau) is not None
        self.quadrature = quadrature
        self.record: Any = None
        self._begin()

    def _begin(self) -> None:
        self.t = self.full[:, 0].copy()
        self.status = np.full(self.samples, RUNNING, np.int32)
        self.accepted, self.rejected, self.evaluations = np.zeros((3, self.samples), np.int64)
        self.next = np.ones(self.samples, np.int64)  # output of each sample
        self.marks: list[Mark] = []
        self.pieces: list[Any] = []
        for observer in (self.record, self.quadrature):
            if observer is not None:
                observer.clear()

    def solve(self, y: Any, drift: Any = None) -> tuple[Any, Any]:
        """Outputs ``(n, S, D)`` and the state at the end. ``drift``: zeros ``(n,)`` or (S, n) whose gradient is t's."""
        start = y
        if not self.fixed:
            y = self._adaptive(y)
        elif self.event is not None:
            y = self._carefully(y, None)
        else:
            y = self._blindly(y, drift)
            if (self.status == NON_FINITE).any():
                # Once more, looking at every step, for where it happened. A shared step keeps what is finite.
                kept = self.pieces if self.samples == 1 else None
                self._begin()
                y = self._carefully(start, drift)
                if kept is not None:
                    self.marks, self.pieces = [], kept
        return self._gather(start), y

    def _gather(self, start: Any) -> Any:
        """All outputs; nan where a sample did not arrive."""
        rows, pieces = self.rows, self.pieces
        if not self.marks or self.samples == 1:
            missing = (self.count - 1) * self.samples - sum(piece.shape[0] for piece in pieces)
            if missing:
                pieces = [*pieces, rows.full(math.nan, missing, start)]
            flat = rows.concatenate([start, *pieces], 0)
        else:
            numbers, who = (np.concatenate([mark[i] for mark in self.marks]) for i in (1, 0))
            where = np.full((self.count, self.samples), len(numbers) + self.samples)
            where[0] = np.arange(self.samples)
            where[numbers, who] = self.samples + np.arange(len(numbers))
            flat = rows.concatenate([start, *pieces, rows.full(math.nan, 1, start)], 0)
            flat = rows.take(flat, where.reshape(-1))
        return flat.reshape(self.count, self.samples, start.shape[1])

    # --- what all steps have in common

    def _step(self, h: Array, end: Array) -> Step:
        """The step from where the samples are; ``h`` has its sign and is 0 where a sample rests."""
        first, last = (
            beside(t, s, self.control, self.layout.real) for t, s in ((self.t, self.sign), (end, -self.sign))
        )
        last = np.where(h != 0, last, first)
        step = Step(self.t, h, first, last)
        return Step(*(float(x[0]) for x in step)) if self.samples == 1 else step

    def _slope(self, y: Any) -> Any:
        """The first stage of the next step."""
        time = beside(self.t, self.sign, self.control, self.layout.real)
        return self.rhs(float(time[0]) if self.samples == 1 else time, y)

    def _accept(
        self, step: Step, mask: Array, end: Array, y: Any, y_new: Any, ks: list[Any], entry: Any = None
    ) -> tuple[Any, Any]:
        """Goes to the end of the step for the samples of the mask; the state there, and its slope.

        Samples outside the mask rest in the step, or it was taken in vain for them.
        """
        rows, every = self.rows, bool(mask.all())
        jumps = mask & np.isin(end, self.control.jump_t)
        y_next = y_new if every else rows.where(mask, y_new, y)
        start, self.t = self.t, np.where(mask, end, self.t)
        self.accepted += mask
        over = self.t == self.full[:, -1]
        if self.table.fsal:
            following = ks[-1] if every else rows.where(mask, ks[-1], ks[0])
            again = jumps & ~over & (self.status == RUNNING)
            if again.any():
                following = rows.where(again, self._slope(y_next), following)
        else:
            again = mask & ~(over & self.fixed)
            following = self._slope(y_next) if again.any() else ks[0]
        self.evaluations += again
        mark = self._due(start, mask)
        if len(mark.rows):
            known = following if self.stages.shared_extra and not jumps.any() else None
            self.pieces.append(self.stages.values(step, mark, y, y_new, ks, known))
            self.marks.append(mark)
            inside = np.zeros(self.samples, bool)
            inside[mark.rows[mark.theta < 1]] = True
            self.evaluations += inside * (len(self.table.extra_c) - (self.stages.shared_extra & ~jumps))
        if self.record is not None:
            self.record(self._taken(step, mask) if entry is None else entry, mark, y)
        if self.quadrature is not None:
            self.quadrature.add(self.stages, self._taken(step, mask), y, ks)
        return y_next, following

    def _taken(self, step: Step, mask: Array) -> Step:
        """The step as it was taken: nowhere outside the mask."""
        if mask.all():
            return step
        return step._replace(h=step.h * mask, last=np.where(mask, step.last, step.first))

    def _due(self, start: Array, mask: Array) -> Mark:
        """The outputs between ``start`` and where the samples are now."""
        number = np.minimum(self.next, self.count - 1)
        coming = self.full[self.everyone, number]
        due = np.flatnonzero(mask & (self.next < self.count) & ((self.t - coming) * self.sign >= 0))
        if not due.size:
            return NO_MARK
        begin, now, sign = self.next[due], self.t[due], self.sign[due]
        if len(self.ts) == 1:
            stop = np.searchsorted(self.ts[0] * sign[0], now * sign, "right")
        else:
            stop = ((self.full[due] - now[:, None]) * sign[:, None] <= 0).sum(axis=1)
        self.next[due] = stop
        count = stop - begin
        rows = np.repeat(due, count)
        numbers = np.arange(len(rows)) + np.repeat(begin - np.cumsum(count) + count, count)
        times, end, begun = self.full[rows, numbers], self.t[rows], start[rows]
        return Mark(rows, numbers, np.where(times == end, 1.0, (times - begun) / (end - begun)))

    # --- fixed steps

    def _blindly(self, y: Any, drift: Any) -> Any:
        """Fixed steps, without a look at the values before the end."""
        k1, stages = None, self.table.stages
        taken = begun = 0  # of every sample, or of all
        anew: Any = 1  # whose slope is not the last stage
        for entry in schedule(self.ts, self.control, self.layout.real):
            step = entry.step if drift is None else self.rows.drifting(entry, drift)
            if self.record is not None:
                number = np.full(self.samples, entry.interval + 1)
                self.record(entry, Mark(self.everyone, number, np.ones(self.samples)) if entry.last else NO_MARK, y)
            if k1 is None:
                k1 = self.rhs(step.first, y)
                begun = begun + (anew if self.table.fsal else entry.moves)
            before = y
            y, ks = self.stages.trial(step, y, k1)
            taken = taken + entry.moves
            if self.quadrature is not None:
                self.quadrature.add(self.stages, step, before, ks)
            anew = entry.jumps
            k1 = ks[-1] if self.table.fsal and not np.any(anew) else None
            if entry.last:
                self.pieces.append(y)
        self.accepted[:], self.evaluations[:] = taken, begun + taken * (stages - 1)
        self.t = self.full[:, -1].copy()
        self.status[:] = SUCCESS
        if not self.rows.traced():
            self.status[~self.rows.finite(y)] = NON_FINITE
        return y

    def _carefully(self, y: Any, drift: Any) -> Any:
        """Fixed steps that are looked at one by one: for events, and for where a sample stops being finite."""
        k1 = None
        for entry in schedule(self.ts, self.control, self.layout.real):
            mask = (self.status == RUNNING) & entry.moves
            if not mask.any():
                continue
            end = np.where(mask, entry.end, self.t)
            if k1 is None:
                k1 = self._slope(y)
                self.evaluations += mask
            step = self._step(entry.step.h * mask, end)
            y_new, ks = self.stages.trial(step, y, k1)
            self.evaluations += mask * (self.table.stages - 1)
            broken = mask & ~self.rows.finite(y_new)
            self.status[broken] = NON_FINITE
            mask &= ~broken
            if not mask.any():
                continue
            step = self._taken(step, mask)
            entry = entry.masked(step, mask)
            if drift is not None:
                step = self.rows.drifting(entry, drift)
            if broken.any() or drift is not None:
                y_new, ks = self.stages.trial(step, y, k1)  # nothing infinite in what is differentiated
            step, end, y_new, ks = self._shorten(step, mask, end, y, y_new, ks)
            y, k1 = self._accept(step, mask, end, y, y_new, ks, entry if self.event is None else None)
        self.status[self.status == RUNNING] = SUCCESS
        return y

    # --- adaptive steps

    def _adaptive(self, y: Any) -> Any:
        control, rows, layout = self.control, self.rows, self.layout
        order, t_end = self.table.error_order + 1, self.full[:, -1]
        pid = PID(control, order, self.samples)
        span = np.abs(t_end - self.t)
        floor_of_run = np.maximum(control.dt_min, layout.resolution / 16 * span)
        k1 = self._slope(y)
        self.evaluations += 1
        with rows.quiet(), np.errstate(all="ignore"):
            rtol, atol = self.tolerances or (
                layout.tolerance("rtol", control.rtol, y),
                layout.tolerance("atol", control.atol, y),
            )
            size = rows.abs(y)
            h = self._first_step(y, k1, rows.scale(atol, rtol, size), span, order)
        finite = np.ones(self.samples, bool)
        while True:
            tried = self.accepted + self.rejected
            self.status[(self.status == RUNNING) & (tried >= control.max_steps)] = MAX_STEPS
            stop = self._stop()
            wanted, distance = np.minimum(h, control.dt_max), np.abs(stop - self.t)
            lands = wanted >= distance * LANDS
            floor = np.maximum(floor_of_run, 4 * 2.0**-52 * np.maximum(np.abs(self.t), np.abs(t_end)))
            stuck = (self.status == RUNNING) & ~lands & (wanted < floor)
            if stuck.any():
                self.status[stuck] = np.where(finite[stuck], STEP_TOO_SMALL, NON_FINITE)
            active = self.status == RUNNING
            if not active.any():
                return y
            h = np.where(lands, distance, wanted)
            end = np.where(active, np.where(lands, stop, self.t + self.sign * h), self.t)
            step = self._step(np.where(active, self.sign * h, 0.0), end)
            with np.errstate(all="ignore"):
                y_new, ks = self.stages.trial(step, y, k1)
                with rows.quiet():
                    new_size = rows.abs(y_new)
                    error = self.stages.error(step.h, ks, rows.scale(atol, rtol, size, new_size))
                    finite = np.isfinite(error) & rows.finite(new_size)
            self.evaluations += active * (self.table.stages - 1)
            accepted, factor = pid.decide(np.where(finite, error, math.inf))
            accepted &= active
            self.rejected += active & ~accepted
            h = np.where(accepted & lands, np.maximum(h * factor, wanted), h * factor)
            if not accepted.any():
                continue
            if not (finite | ~active).all():
                step = self._taken(step, accepted)
                y_new, ks = self.stages.trial(step, y, k1)  # nothing infinite in what is differentiated
            step, end, y_new, ks = self._shorten(step, accepted, end, y, y_new, ks)
            every = bool(accepted.all()) and self.event is None
            y, k1 = self._accept(step, accepted, end, y, y_new, ks)
            if every:
                size = new_size
            else:
                with rows.quiet():
                    size = rows.abs(y)
            self.status[(self.status == RUNNING) & (self.t == t_end)] = SUCCESS

    def _first_step(self, y: Any, f0: Any, scale: Any, span: Array, order: int) -> Array:
        if self.control.first_step is not None:
            return np.full(self.samples, self.control.first_step)
        norm = self.layout.norm
        d0, d1 = norm(y / scale), norm(f0 / scale)
        h0 = first_trial(d0, d1, span)
        step = self._step(self.sign * h0, self.t + self.sign * h0)
        f1 = self.rhs(step.t + step.h, self.stages.euler(step, y, f0))
        self.evaluations += 1
        return np.maximum(second_trial(h0, d1, norm((f1 - f0) / scale), span, order), self.control.dt_min)

    def _stop(self) -> Array:
        """The nearest time that a step lands on."""
        stops = [self.full[:, -1]]
        for jump in self.control.jump_t:
            stops.append(np.where((jump - self.t) * self.sign > 0, jump, stops[0]))
        if not self.table.dense:
            stops.append(self.full[self.everyone, np.minimum(self.next, self.count - 1)])
        if len(stops) == 1:
            return stops[0]
        return np.asarray(np.min(np.stack(stops) * self.sign, axis=0) * self.sign)

    # --- events

    def _functional(self, y: Any) -> Array:
        assert self.event is not None
        return self.rows.functional(y, self.event[0]) - self.event[1]

    def _shorten(self, step: Step, mask: Array, end: Array, y: Any, y_new: Any, ks: list[Any]) -> tuple[Any, ...]:
        """The same step, but shorter for the samples of the mask that meet their event in it: they end there."""
        if self.event is None:
            return step, end, y_new, ks
        with self.rows.quiet():
            before, after, direction = self._functional(y), self._functional(y_new), self.event[2]
            rises, falls = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
            met = mask & ((rises & (direction >= 0)) | (falls & (direction <= 0)))
            if not met.any():
                return step, end, y_new, ks
            h = np.broadcast_to(step.h, mask.shape) * mask
            h, end = self._locate(h, end, met, y, before, after, ks[0])
        self.status[met] = EVENT
        step = self._step(h, np.where(mask, end, self.t))
        return step, end, *self.stages.trial(step, y, ks[0])

    def _locate(
        self, h: Array, end: Array, met: Array, y: Any, g_left: Array, g_right: Array, k1: Any
    ) -> tuple[Array, Array]:
        """Lengths and ends of the shortest steps, up to rounding, to the far side of a zero (Illinois)."""
        left, right = np.zeros_like(h), np.abs(h)
        tolerance = 4 * self.layout.resolution * np.maximum(np.abs(self.t), right)
        side, moved = np.sign(g_left), np.zeros_like(h)
        for _ in range(EVENT_TRIALS):
            wide = met & (right - left >= tolerance) & (g_right != 0)
            if not wide.any():
                break
            with np.errstate(all="ignore"):
                guess = right - g_right * (right - left) / (g_right - g_left)
            guess = np.where((left < guess) & (guess < right), guess, left + (right - left) / 2)
            guess = np.where(wide, guess, 0.0)
            there = self.t + self.sign * guess
            trial, _ = self.stages.trial(self._step(self.sign * guess, there), y, k1)
            self.evaluations += wide * (self.table.stages - 1)
            g = self._functional(trial)
            near, far = wide & (g * side > 0), wide & ~(g * side > 0)
            # An end that stays twice counts half, so that both close in.
            g_right = np.where(near, g_right / np.where(moved == -1, 2, 1), np.where(far, g, g_right))
            g_left = np.where(far, g_left / np.where(moved == 1, 2, 1), np.where(near, g, g_left))
            left, right, end = np.where(near, guess, left), np.where(far, guess, right), np.where(far, there, end)
            moved = np.where(near, -1, np.where(far, 1, moved))
        return self.sign * right, end
