# SPDX-License-Identifier: MIT
"""How long steps are: the options of a solver, and a PID controller for samples that each have a step of their own.

Sources: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, section II.4 (error control, first
step); Soderlind 2003 (PID). An accepted step never shrinks the next one, which is the rule of torchdiffeq.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast.tableaus import Tableau

__all__ = ["LANDS", "PID", "Control", "first_trial", "second_trial"]

Array = npt.NDArray[Any]

LANDS = 1 - 1e-12
"""A step of at least this share of the way to a stop goes all the way."""

ALIASES = {
    "ifactor": "factor_max",
    "dfactor": "factor_min",
    "max_num_steps": "max_steps",
    "min_step": "dt_min",
    "max_step": "dt_max",
}
"""Names that torchdiffeq has for options -> ours."""

ELSEWHERE = {
    "norm": "give rtol and atol one number for each component instead",
    "dtype": "time is always float64; leave it out",
    "grid_constructor": "give the grid as t, or use 'steps' or 'step_size'",
    "grid_points": "give them as t",
    "step_t": "give the times as t",
    "perturb": "times where func is discontinuous are 'jump_t'",
    "interp": "values between steps have the order of the method; leave it out",
}
"""Options of torchdiffeq that mean nothing here, and the remedy."""

PASSED_ON = ("compiled",)
"""Options that are not the controller's."""

BATCH_STEPS = ("sample", "shared")


@dataclass(frozen=True)
class Control:
    """The options of a solver.

    Attributes:
        rtol, atol: the error of a step is measured in units of atol + rtol |y|; numbers, or one for each component.
        steps: fixed steps in every interval of t.
        step_size: the longest fixed step.
        safety, factor_min, factor_max: a step is multiplied by the controller's factor times safety, between the two.
        pcoeff, icoeff, dcoeff: the exponents of the PID controller are these over the order of the error.
        dt_min, dt_max: bounds of the length of a step; one that lands on a stop may be shorter.
        first_step: length of the first trial; None: chosen.
        max_steps: trials, accepted or not, after which a sample ends.
        jump_t: times where the field is discontinuous.
        batch_step: "sample": each sample has its own step; "shared": one step for all; None: left to the field.
        checkpoints: states that the reverse pass keeps; None: all.
    """

    rtol: Any
    atol: Any
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
    batch_step: str | None = None
    checkpoints: int | None = None

    @classmethod
    def from_options(cls, rtol: Any, atol: Any, options: Mapping[str, Any] | None) -> tuple[Control, dict[str, Any]]:
        """The checked options of a mapping, and those of its entries that are not the controller's.

        torchdiffeq's names ``ifactor``, ``dfactor``, ``max_num_steps``, ``min_step`` and ``max_step`` are understood.

        Raises:
            TypeError: a value of another kind.
            ValueError: an unknown name, or a value out of its range.
        """
        known = [field.name for field in fields(cls) if field.name not in ("rtol", "atol")]
        values: dict[str, Any] = {"rtol": _tolerance("rtol", rtol), "atol": _tolerance("atol", atol)}
        rest: dict[str, Any] = {}
        for given, value in (options or {}).items():
            name = ALIASES.get(given, given)
            label = f"options[{given!r}]"
            if name in PASSED_ON:
                rest[name] = value
            elif name not in known:
                remedy = ELSEWHERE.get(name, f"expected one of {', '.join((*known, *PASSED_ON, *ALIASES))}")
                raise ValueError(f"{label}: not an option of this solver; {remedy}")
            elif name in values:
                raise ValueError(f"{label}: {name!r} is given twice, expected one of its names")
            else:
                values[name] = _READERS[name](label, value)
        control = cls(**values)
        control._check()
        return control, rest

    def _check(self) -> None:
        if self.steps is not None and self.step_size is not None:
            raise ValueError("options['steps']: not with 'step_size', expected one of them")
        if not 0 < self.safety <= 1:
            raise ValueError(f"options['safety']: expected a number in (0, 1], got {self.safety}")
        if not 0 < self.factor_min < 1:
            raise ValueError(f"options['factor_min']: expected a number in (0, 1), got {self.factor_min}")
        if not self.factor_max >= 1:
            raise ValueError(f"options['factor_max']: expected 1 or more, got {self.factor_max}")
        if not self.pcoeff + self.icoeff + self.dcoeff > 0:
            raise ValueError(
                "options['icoeff']: expected pcoeff + icoeff + dcoeff > 0, so that a large error shortens the step, "
                f"got {self.pcoeff} + {self.icoeff} + {self.dcoeff}"
            )
        if self.dt_min > self.dt_max:
            raise ValueError(f"options['dt_min']: expected at most dt_max = {self.dt_max}, got {self.dt_min}")
        if self.steps is None and self.step_size is None and not np.any(np.asarray(self.rtol) + np.asarray(self.atol)):
            raise ValueError("atol: expected a positive number where rtol is 0; no step has an error of 0")

    def fixed_steps(self, t: Array, tableau: Tableau) -> npt.NDArray[np.int64] | None:
        """Fixed steps in every interval of times ``(N or 1, n)``: ``(N or 1, n - 1)``; None for adaptive steps."""
        if self.steps is None and self.step_size is None and tableau.adaptive:
            return None
        return self.steps_between(np.diff(t), 1.0)

    def steps_between(self, length: Any, share: Any) -> npt.NDArray[np.int64]:
        """Fixed steps in pieces of intervals: their lengths, and their shares of the whole intervals."""
        if self.step_size is not None:
            count = np.abs(length) / self.step_size
        else:
            count = (self.steps or 1) * share * np.ones_like(length)
        if np.any(count > 2**31):
            name = "steps" if self.step_size is None else "step_size"
            raise ValueError(
                f"options[{name!r}]: expected at most 2^31 steps between two times, got {float(np.max(count)):.3g}"
            )
        return np.asarray(np.maximum(1, np.ceil(count - 1e-9)).astype(np.int64))


# --- reading options


def _tolerance(name: str, value: Any) -> Any:
    """A float, or a tuple of them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_tolerance(name, entry) for entry in value)
    number = _number(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number of 0 or more, got {number}")
    return number


def _number(label: str, value: Any) -> float:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{label}: expected a number, got {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{label}: expected a number, got nan")
    return float(value)


def _positive(label: str, value: Any) -> float:
    number = _number(label, value)
    if not number > 0:
        raise ValueError(f"{label}: expected a number above 0, got {number}")
    return number


def _length(label: str, value: Any) -> float:
    number = _positive(label, value)
    if math.isinf(number):
        raise ValueError(f"{label}: expected a finite number, got {number}; leave the option out")
    return number


def _not_negative(label: str, value: Any) -> float:
    number = _number(label, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{label}: expected a finite number of 0 or more, got {number}")
    return number


def _finite(label: str, value: Any) -> float:
    number = _number(label, value)
    if math.isinf(number):
        raise ValueError(f"{label}: expected a finite number, got {number}")
    return number


def _count(label: str, value: Any) -> int:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**62:
        value = int(value)  # 1e5
    if isinstance(value, bool):
        raise TypeError(f"{label}: expected an integer, got bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{label}: expected an integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{label}: expected 1 or more, got {number}")
    return min(number, 2**62)


def _times(label: str, value: Any) -> tuple[float, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (int, float)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{label}: expected a sequence of times, got {type(value).__name__}")
    return tuple(sorted({_finite(label, time) for time in value}))


def _batch_step(label: str, value: Any) -> str:
    if value not in BATCH_STEPS:
        raise ValueError(f"{label}: expected one of {', '.join(map(repr, BATCH_STEPS))}, got {value!r}")
    return str(value)


def _optional(reader: Any) -> Any:
    return lambda label, value: None if value is None else reader(label, value)


_READERS: dict[str, Any] = {
    "steps": _optional(_count),
    "step_size": _optional(_length),
    "safety": _positive,
    "factor_min": _positive,
    "factor_max": _positive,
    "pcoeff": _finite,
    "icoeff": _finite,
    "dcoeff": _finite,
    "dt_min": _not_negative,
    "dt_max": _positive,
    "first_step": _optional(_length),
    "max_steps": _count,
    "jump_t": _times,
    "batch_step": _optional(_batch_step),
    "checkpoints": _optional(_count),
}


# --- control


class PID:
    """The step-size controllers of independent samples; all arrays are float64 of one entry per sample."""

    def __init__(self, control: Control, order: int, samples: int) -> None:
        """``order``: the error of a step is O(h^order)."""
        self.control = control
        p, i, d = control.pcoeff, control.icoeff, control.dcoeff
        self.now, self.last, self.before = -(p + i + d) / order, (p + 2 * d) / order, -d / order
        self.errors = np.ones((2, samples))

    def decide(self, error: Array) -> tuple[Array, Array]:
        """Which trials are accepted, and how much longer the next ones are; remembers the errors of those accepted.

        A trial whose error is not finite is rejected.
        """
        control = self.control
        accepted = error <= 1
        finite = np.isfinite(error)
        safe = np.where(finite & (error > 0), error, 1.0)
        factor = control.safety * safe**self.now
        if self.last or self.before:
            factor = factor * self.errors[0] ** self.last * self.errors[1] ** self.before
        factor = np.where(error == 0, control.factor_max, factor)
        least = np.where(accepted, 1.0, control.factor_min)
        most = np.where(accepted, control.factor_max, control.safety)
        factor = np.where(finite, np.minimum(np.maximum(factor, least), most), control.factor_min)
        if self.last or self.before:
            latest = np.stack([np.maximum(error, 1e-10), self.errors[0]])
            self.errors = np.where(accepted, latest, self.errors)
        return accepted, factor


def first_trial(d0: Array, d1: Array, span: Array) -> Array:
    """The length of an explicit Euler step that shows how fast the field changes.

    ``d0``, ``d1``: norms of the state and of the field in units of the tolerance. ``span``: length of the integration.
    """
    with np.errstate(all="ignore"):
        return np.asarray(np.minimum(np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1), span))


def second_trial(h0: Array, d1: Array, change: Array, span: Array, order: int) -> Array:
    """The first step. ``change``: norm of the change of the field over that Euler step."""
    with np.errstate(all="ignore"):
        largest = np.maximum(d1, change / h0)
        h1 = np.where(largest <= 1e-15, np.maximum(1e-6, 1e-3 * h0), (0.01 / largest) ** (1 / order))
        h = np.minimum(100 * h0, h1)
    # Where the field is infinite or not a number, the first trial finds out.
    return np.where(np.isfinite(h) & (h > 0), h, np.minimum(1e-6, span))
