# SPDX-License-Identifier: MIT
"""What a solution consists of, how it ended, and what ends it early."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from nnsym_fast._matrices import real_number
from nnsym_fast.ode import plans

__all__ = ["Event", "Solution", "Status"]


class Status(IntEnum):
    """How the integration of a sample ended."""

    SUCCESS = 0
    EVENT = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3
    NON_FINITE = 4


@dataclass(frozen=True)
class Event:
    """The end of a trajectory where g(y) = <weights, y> - value crosses zero.

    Args:
        component: index of the component that is g, alone.
        weights: or the numbers ``(d,)`` of a linear functional.
        value: the number that is subtracted.
        direction: 0 for any crossing, 1 where g rises, -1 where it falls.

    Raises:
        TypeError: numbers that are none.
        ValueError: both or neither of ``component`` and ``weights``, or values that are not finite.
    """

    component: int | None = None
    weights: Sequence[float] | None = None
    value: float = 0.0
    direction: int = 0

    def __post_init__(self) -> None:
        if (self.component is None) == (self.weights is None):
            raise ValueError("event: expected one of component and weights")
        if self.component is not None:
            plans.integer("event.component", self.component, -sys.maxsize)
        else:
            values: Any = self.weights
            values = values.tolist() if hasattr(values, "tolist") else values
            numbers = tuple(real_number("event.weights", x) for x in values or ())
            if not all(math.isfinite(x) for x in numbers) or not any(numbers):
                raise ValueError(f"event.weights: expected finite numbers, not all zero, got {numbers}")
            object.__setattr__(self, "weights", numbers)
        if not math.isfinite(real_number("event.value", self.value)):
            raise ValueError(f"event.value: expected a finite number, got {self.value}")
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"event.direction: expected -1, 0 or 1, got {self.direction!r}")

    def functional(self, d: int) -> tuple[tuple[float, ...], float, int]:
        """Weights (d,), value and direction."""
        if self.component is not None:
            if not -d <= self.component < d:
                raise ValueError(
                    f"event.component: expected an index of {d} components, {-d} to {d - 1}, got {self.component}"
                )
            weights = tuple(float(i == self.component % d) for i in range(d))
        else:
            assert self.weights is not None
            weights = tuple(self.weights)
            if len(weights) != d:
                raise ValueError(f"event.weights: expected {d} numbers, one for each component, got {len(weights)}")
        return weights, float(self.value), int(self.direction)


class Solution(NamedTuple):
    """What :func:`solve` returns; arrays of the framework of y0, statistics and status of the batch shape.

    Attributes:
        ts: times ``(n,)`` or batch + ``(n,)``, float64.
        ys: ``(n, *batch, d)``; nan where a sample did not arrive.
        status: :class:`Status` of each sample, int32.
        stats: "steps", "accepted", "rejected", "evaluations" of each sample, int64.
        t_end: where each sample ended, float64.
        y_end: its state there.
    """

    ts: Any
    ys: Any
    status: Any
    stats: dict[str, Any]
    t_end: Any
    y_end: Any
