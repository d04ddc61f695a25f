# SPDX-License-Identifier: MIT
"""Problems of the ode family as lists of integers and numbers, which operators of torch can take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from nnsym_fast._ode import FieldCode
from nnsym_fast.ode.controller import Control
from nnsym_fast.ode.plans import Problem

__all__ = ["decode", "decode_field", "encode", "encode_field"]

NUMBERS = ("safety", "factor_min", "factor_max", "pcoeff", "icoeff", "dcoeff", "dt_min", "dt_max")


def encode_field(code: FieldCode) -> tuple[list[int], list[float]]:
    kind, time, widths, activations, values = code
    return [kind, time, len(widths), *widths, len(activations), *activations, len(values)], list(values)


def encode(problem: Problem) -> tuple[str, list[int], list[float]]:
    control, event = problem.control, problem.event
    ints, floats = encode_field(problem.code)
    ints += [control.steps or 0, control.max_steps, control.checkpoints or 0]
    numbers = [getattr(control, name) for name in NUMBERS]
    floats += [*numbers, control.step_size or 0.0, control.first_step or 0.0]
    for group in (control.rtol, control.atol, control.jump_t):
        values: Any = [group] if isinstance(group, (int, float)) else group
        ints += [-1 if isinstance(group, (int, float)) else len(values)]
        floats += [float(value) for value in values]
    if event is not None:
        ints += [event[2]]
        floats += [event[1], *event[0]]
    return problem.method, ints, floats


class _Reader:
    def __init__(self, ints: Sequence[int], floats: Sequence[float]) -> None:
        self.ints, self.floats = iter(ints), iter(floats)

    def counts(self) -> tuple[int, ...]:
        return tuple(next(self.ints) for _ in range(next(self.ints)))

    def numbers(self, count: int) -> tuple[float, ...]:
        return tuple(next(self.floats) for _ in range(count))

    def group(self) -> float | tuple[float, ...]:
        count = next(self.ints)
        return next(self.floats) if count < 0 else self.numbers(count)

    def code(self) -> FieldCode:
        kind, time = next(self.ints), next(self.ints)
        widths, activations = self.counts(), self.counts()
        return FieldCode(kind, time, widths, activations, self.numbers(next(self.ints)))


@lru_cache(maxsize=256)
def decode(method: str, ints: tuple[int, ...], floats: tuple[float, ...]) -> Problem:
    reader = _Reader(ints, floats)
    code = reader.code()
    steps, max_steps, checkpoints = (next(reader.ints) for _ in range(3))
    numbers: dict[str, Any] = dict(zip(NUMBERS, reader.numbers(len(NUMBERS)), strict=True))
    step_size, first_step = reader.numbers(2)
    rtol, atol, jump_t = (reader.group() for _ in range(3))
    assert isinstance(jump_t, tuple)
    control = Control(
        rtol=rtol,
        atol=atol,
        steps=steps or None,
        step_size=step_size or None,
        first_step=first_step or None,
        max_steps=max_steps,
        jump_t=jump_t,
        checkpoints=checkpoints or None,
        **numbers,
    )
    event = None
    for direction in reader.ints:
        value, *weights = reader.floats
        event = tuple(weights), value, direction
    return Problem(code, method, control, event)


@lru_cache(maxsize=256)
def decode_field(ints: tuple[int, ...], floats: tuple[float, ...]) -> FieldCode:
    return _Reader(ints, floats).code()
