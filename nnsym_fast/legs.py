# SPDX-License-Identifier: MIT
"""What an axis of a tensor carries: a leg of a site, segments with a leg each, or nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

__all__ = ["Axis", "AxisLike", "Leg", "Segments", "as_axis", "axis_from_json", "axis_legs", "axis_to_json", "flip"]


def _check_length(value: object, what: str) -> int:
    try:
        length = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        length = 0
    if isinstance(value, bool) or length < 1:
        raise ValueError(f"{what}: expected an integer >= 1, got {value!r}")
    return length


@dataclass(frozen=True)
class Leg:
    """An axis (or a segment of one) tied to a site.

    The axis has ``group.size * repeat`` entries; unit ``u`` of the site occupies the positions ``u * repeat`` to
    ``u * repeat + repeat - 1``. With the element ``(g x)_i = sign_i scale_i x_{perm_i}``, position ``(i, r)`` of the
    transformed axis is position ``(perm_i, r)`` of the old one times ``sign_i^power scale_i^power``, or, for a dual
    leg, times ``sign_i^power scale_i^-power``.

    Args:
        site: name of the site.
        dual: whether the axis reads from the site (``g^-T``) instead of writing to it (``g``).
        power: power of the scale and the sign that the axis carries; 0 means the permutation alone. A variance has 2,
            the reader of a squared ReLU 2, the statistics of a BatchNorm whose affine part carries the scale 0.
        repeat: consecutive positions that one unit occupies (height * width after flattening a convolution).

    >>> Leg.parse("h0*")
    Leg(site='h0', dual=True, power=1.0, repeat=1)
    """

    site: str
    dual: bool = False
    power: float = 1.0
    repeat: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.site, str) or not self.site or "*" in self.site:
            raise ValueError(
                f"Leg.site: expected a non-empty site name without '*', got {self.site!r}; "
                "Leg.parse reads the short form 's*'"
            )
        if not isinstance(self.dual, bool):
            raise TypeError(f"Leg.dual: expected True or False, got {self.dual!r}")
        if isinstance(self.power, bool) or not hasattr(self.power, "__float__") or not math.isfinite(self.power):
            raise ValueError(f"Leg.power: expected a finite number, got {self.power!r}")
        object.__setattr__(self, "power", float(self.power))
        object.__setattr__(self, "repeat", _check_length(self.repeat, f"Leg.repeat of site {self.site!r}"))

    @classmethod
    def parse(cls, text: str) -> Leg:
        """Read the short form ``"s"`` or ``"s*"`` (dual)."""
        if not isinstance(text, str):
            raise TypeError(f"leg: expected a string such as 'h0' or 'h0*', got {text!r} of type {type(text).__name__}")
        return cls(text[:-1], dual=True) if text.endswith("*") else cls(text)

    def __str__(self) -> str:
        """The short form, with the power and the repetition where they differ from 1: ``h0*^2 x 9``."""
        power = "" if self.power == 1.0 else f"^{self.power:g}"
        repeat = "" if self.repeat == 1 else f" x {self.repeat}"
        return f"{self.site}{'*' if self.dual else ''}{power}{repeat}"


@dataclass(frozen=True)
class Segments:
    """An axis cut into consecutive segments, each with its own leg or None: concatenated projections.

    >>> Segments(((4, "q"), (8, None))).length
    12
    """

    parts: tuple[tuple[int, Leg | None], ...]

    def __post_init__(self) -> None:
        parts = []
        for number, part in enumerate(self.parts):
            if isinstance(part, str) or not isinstance(part, Sequence) or len(part) != 2:
                raise TypeError(f"segment {number}: expected a pair (length, leg), got {part!r}")
            leg = as_axis(part[1])
            if isinstance(leg, Segments):
                raise TypeError(f"segment {number}: segments cannot be nested; list all of them in one Segments")
            parts.append((_check_length(part[0], f"segment {number}: length"), leg))
        if not parts:
            raise ValueError("segments: expected at least one (length, leg) pair, got none; use None for a free axis")
        object.__setattr__(self, "parts", tuple(parts))

    @property
    def length(self) -> int:
        """Sum of the lengths of the segments: the length of the axis."""
        return sum(length for length, _ in self.parts)

    def __iter__(self) -> Iterator[tuple[int, Leg | None]]:
        return iter(self.parts)

    def __str__(self) -> str:
        return " + ".join(f"{leg or '-'}[{length}]" for length, leg in self.parts)


Axis: TypeAlias = Leg | Segments | None
"""What an axis carries, normalised."""

AxisLike: TypeAlias = str | Leg | Segments | Sequence[tuple[int, str | Leg | None]] | None
"""What a user may write for an axis."""


def as_axis(value: object) -> Axis:
    """Normalise what a user wrote for an axis to None, a Leg or Segments."""
    if value is None or isinstance(value, (Leg, Segments)):
        return value
    if isinstance(value, str):
        return Leg.parse(value)
    if isinstance(value, Sequence):
        return Segments(tuple(value))
    raise TypeError(
        "expected None, a string such as 'h0' or 'h0*', a Leg, or a list of (length, leg) pairs; "
        f"got {value!r} of type {type(value).__name__}"
    )


def axis_legs(axis: Axis) -> Iterator[Leg]:
    """The legs on an axis, in the order of its segments."""
    if isinstance(axis, Leg):
        yield axis
    elif isinstance(axis, Segments):
        yield from (leg for _, leg in axis if leg is not None)


def flip(axis: Axis) -> Axis:
    """The axis with the dual flag of every leg flipped."""
    if isinstance(axis, Segments):
        return Segments(tuple((length, _flip_leg(leg)) for length, leg in axis))
    return _flip_leg(axis)


def _flip_leg(leg: Leg | None) -> Leg | None:
    return None if leg is None else replace(leg, dual=not leg.dual)


def _leg_to_json(leg: Leg | None) -> Any:
    if leg is None:
        return None
    if leg.power == 1.0 and leg.repeat == 1:
        return str(leg)
    values = {"site": leg.site, "dual": leg.dual, "power": leg.power, "repeat": leg.repeat}
    return {name: value for name, value in values.items() if value != getattr(Leg, name, None)}


def axis_to_json(axis: Axis) -> Any:
    """An axis as JSON-ready data: null, a short form, an object, or a list of [length, leg] pairs."""
    if isinstance(axis, Segments):
        return [[length, _leg_to_json(leg)] for length, leg in axis]
    return _leg_to_json(axis)


def axis_from_json(data: Any) -> AxisLike:
    """Read back what :func:`axis_to_json` wrote."""
    if isinstance(data, dict):
        unknown = sorted(set(data) - {"site", "dual", "power", "repeat"})
        if unknown or "site" not in data:
            raise ValueError(f"spec leg: expected the keys site, dual, power, repeat; got {sorted(data)}")
        return Leg(**data)
    if isinstance(data, list):
        return Segments(tuple((length, axis_from_json(leg)) for length, leg in data))  # type: ignore[misc]
    return data  # type: ignore[no-any-return]
