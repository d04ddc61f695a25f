# SPDX-License-Identifier: MIT
"""Fixed steps: where each begins and ends, and how that moves with the times of the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast.ode._stages import Step
from nnsym_fast.ode.controller import Control

__all__ = ["Entry", "beside", "schedule"]

Array = npt.NDArray[Any]


class Entry(NamedTuple):
    """A fixed step.

    Attributes:
        interval: number i of the interval [t_i, t_(i+1)] that it lies in.
        step: the step; arrays here have one entry per sample, numbers hold for all.
        end: where it ends.
        t_weights, h_weights: derivatives of its t and h in t_i and t_(i+1).
        moves: whose step it is; others rest.
        jumps: for whom the field jumps at its end.
        last: whether it is the last one of the interval.
    """

    interval: int
    step: Step
    end: Any
    t_weights: tuple[Any, Any]
    h_weights: tuple[Any, Any]
    moves: Any
    jumps: Any
    last: bool

    def masked(self, step: Step, mask: Array) -> Entry:
        """The entry with another step, which moves for the samples of the mask alone."""
        t_weights, h_weights = ((w[0] * mask, w[1] * mask) for w in (self.t_weights, self.h_weights))
        return self._replace(step=step, t_weights=t_weights, h_weights=h_weights, moves=mask)


def beside(t: Array, side: Array, control: Control, real: npt.DTypeLike) -> Array:
    """t, or where the field jumps at t, the next number on that side of the dtype in which the field gets it."""
    if not control.jump_t:
        return t
    nudged = np.nextafter(t.astype(real), (side * math.inf).astype(real)).astype(np.float64)
    least = float(np.finfo(real).smallest_normal)  # to a kernel, smaller numbers are zero
    nudged = np.where(np.abs(nudged) < least, side * least, nudged)
    return np.where(np.isin(t, control.jump_t), nudged, t)


def schedule(ts: Array, control: Control, real: npt.DTypeLike) -> Iterator[Entry]:
    """Fixed steps through times ``(N or 1, n)``; samples that need fewer rest at the end of an interval.

    Each interval is cut at the times where the field jumps, and a piece has its share of the steps of its interval.
    """
    sign = np.sign(ts[:, -1] - ts[:, 0])
    jumps = np.array(control.jump_t)[None, :]
    even = control.steps_between(np.diff(ts), 1.0)
    for i in range(ts.shape[1] - 1):
        a, b = ts[:, i], ts[:, i + 1]
        if len(a) == 1 and not control.jump_t:
            yield from _even(i, float(a[0]), float(b[0]), int(even[0, i]))
            continue
        # Jumps outside become cuts at an end: pieces of no length, and of no steps.
        inside = np.clip(jumps, np.minimum(a, b)[:, None], np.maximum(a, b)[:, None])
        inside = np.where(sign[:, None] > 0, inside, inside[:, ::-1])
        cuts = np.concatenate([a[:, None], inside, b[:, None]], axis=1)
        plan = []
        for left, right in zip(cuts.T[:-1], cuts.T[1:], strict=True):
            length = right - left
            share_of = np.ceil(control.steps_between(b - a, 1.0) * (length / (b - a)) - 1e-9)
            count = np.where(length != 0, np.maximum(1, share_of), 0).astype(np.int64)
            plan += [(left, right, length, count, j) for j in range(int(count.max()))]
        for number, (left, right, length, count, j) in enumerate(plan):
            moves, many = j < count, np.maximum(count, 1)
            share = np.where(moves, j / many, 1.0)
            t = np.where(moves, left + j * length / many, right)
            h = np.where(moves, length / many, 0.0)
            end = np.where(j + 1 < count, left + (j + 1) * length / many, right)
            first = beside(t, sign, control, real)
            last = np.where(moves, beside(end, -sign, control, real), first)
            at_a, at_b = ((1.0 * (left == x), 1.0 * (right == x)) for x in (a, b))
            yield Entry(
                i,
                Step(*(float(x[0]) for x in (t, h, first, last))) if len(t) == 1 else Step(t, h, first, last),
                end,
                (at_a[0] * (1 - share) + at_a[1] * share, at_b[0] * (1 - share) + at_b[1] * share),
                ((at_a[1] - at_a[0]) * moves / many, (at_b[1] - at_b[0]) * moves / many),
                moves,
                moves & (last != end),
                number == len(plan) - 1,
            )


def _even(i: int, a: float, b: float, count: int) -> Iterator[Entry]:
    """The steps of an interval without jumps, in the same numbers for all samples."""
    length = b - a
    h, weight = length / count, 1.0 / count
    end = a
    for j in range(count):
        start, end = end, a + (j + 1) * length / count if j < count - 1 else b
        share = j * weight
        yield Entry(
            i, Step(start, h, start, end), end, (1.0 - share, share), (-weight, weight), True, False, j == count - 1
        )
