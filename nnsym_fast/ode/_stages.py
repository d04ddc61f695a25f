# SPDX-License-Identifier: MIT
"""One Runge-Kutta step of all samples: its stages, its error in units of the tolerance, and the values inside it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast.ode._state import Layout
from nnsym_fast.tableaus import Tableau

__all__ = ["Mark", "Stages", "Step"]

Array = npt.NDArray[Any]


class Step(NamedTuple):
    """A step from t over h: floats where all samples share them, else arrays ``(S,)``; h = 0 where a sample rests.

    Fixed steps that are differentiated in time hold tensors. ``first`` and ``last`` are the times of the stages with
    c = 0 and c = 1: t and t + h, or beside them where the field jumps.
    """

    t: Any
    h: Any
    first: Any
    last: Any


class Mark(NamedTuple):
    """The outputs of a step: of which samples, their numbers, and where in the step; 1 is its end."""

    rows: Array
    numbers: Array
    theta: Array


class Stages:
    """The arithmetic of a method on the rows of a layout; ``rhs`` is the function of times and rows."""

    def __init__(self, tableau: Tableau, layout: Layout, rhs: Any) -> None:
        self.table, self.layout, self.rows, self.rhs = tableau, layout, layout.rows, rhs
        self.dense = np.array(tableau.dense)
        self.fsal = tableau.fsal
        # The next first stage is also one of the dense output (dopri8).
        self.shared_extra = bool(tableau.extra_c) and tableau.extra_c[0] == 1 and tableau.extra_a[0] == tableau.b

    def length(self, h: Any, y: Any) -> Any:
        """A float, or ``(S, 1)``."""
        return h if isinstance(h, float) else self.rows.array(h, y).reshape(-1, 1)

    def time(self, step: Step, c: float) -> Any:
        """Of a stage."""
        return step.last if c == 1 else step.t + c * step.h

    def euler(self, step: Step, y: Any, slope: Any) -> Any:
        """y + h slope."""
        return self.rows.advance(y, self.length(step.h, y), (1.0,), [slope])

    def trial(self, step: Step, y: Any, k1: Any) -> tuple[Any, list[Any]]:
        """The end of the step, and its stages."""
        table, rows = self.table, self.rows
        h, ks, stage = self.length(step.h, y), [k1], y
        for c, weights in zip(table.c[1:], table.a[1:], strict=True):
            stage = rows.advance(y, h, weights, ks)
            ks.append(self.rhs(self.time(step, c), stage))
        return stage if self.fsal else rows.advance(y, h, table.b, ks), ks

    def error(self, h: Any, ks: list[Any], scale: Any) -> Array:
        """The error of every sample in units of its tolerance."""
        rows = self.table.error
        norms: list[Array] = [self.layout.norm(self.rows.combine(row, ks) / scale) * np.abs(h) for row in rows]
        if len(norms) == 1:
            return norms[0]
        # Hairer's estimate of DOP853; both norms are means, as the error of the others.
        with np.errstate(invalid="ignore", divide="ignore"):
            mixed = norms[0] ** 2 / np.sqrt(norms[0] ** 2 + 0.01 * norms[1] ** 2)
        return np.where((norms[0] == 0) & (norms[1] == 0), 0.0, mixed)

    def values(self, step: Step, mark: Mark, y: Any, y_new: Any, ks: list[Any], following: Any = None) -> Any:
        """The outputs of a step ``(M, D)``.

        ``following``: the slope at its end, where it is known; None: taken anew if the dense output wants it.
        """
        inside = mark.theta < 1
        if not inside.any():
            return self._rows(y_new, mark.rows)
        table, rows = self.table, self.rows
        h, ks = self.length(step.h, y), list(ks)
        for number, (c, weights) in enumerate(zip(table.extra_c, table.extra_a, strict=True)):
            if number == 0 and self.shared_extra:
                ks.append(self.rhs(step.last, y_new) if following is None else following)
            else:
                ks.append(self.rhs(self.time(step, c), rows.advance(y, h, weights, ks)))
        powers = mark.theta[:, None] ** np.arange(1, self.dense.shape[1] + 1)
        selected = [self._rows(k, mark.rows) if self.layout.samples > 1 else k for k in ks]
        lengths = h if isinstance(h, float) or h.shape[0] == 1 else self._rows(h, mark.rows)
        found = self._rows(y, mark.rows) + lengths * rows.mix(powers @ self.dense.T, selected)
        return found if inside.all() else rows.where(inside, found, self._rows(y_new, mark.rows))

    def _rows(self, x: Any, which: Array) -> Any:
        if x.shape[0] == 1 and len(which) == 1:
            return x
        if len(which) == x.shape[0] and (which == np.arange(len(which))).all():
            return x
        return self.rows.take(x, which)
