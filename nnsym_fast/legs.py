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
    leg, times ``sign_i^power scale_i^-power``. A dense element acts head by head, with its matrix, or the transpose of
    its inverse for a dual leg.

    Args:
        site: name of the site.
        dual: whether the axis reads from the site (``g^-T``) instead of writing to it (``g``).
        power: power of the scale and the sign that the axis carries; 0 means the permutation alone. A variance has 2,
            the reader of a squared ReLU 2, the statistics of a BatchNorm whose affine part carries the scale 0.
        repeat: consecutive positions that one unit occupies (height * width after flattening a convolution).
        copies: how often every head of a dense site occurs, one copy after the other (the query heads of a key-value
            head); the axis has ``heads * copies * head_size * repeat`` entries.
        order: the site that moves the copies, with ``heads`` heads of ``copies`` units each and the same tie as this
            one: block b of the transformed axis comes from block ``perm_b`` of that site. Empty: copies follow their
            head.
        affine: whether the shift of the element is added too; for an axis of a tensor with one axis, such as a bias.

    >>> Leg.parse("h0*"), Leg.parse("qk+").affine
    (Leg(site='h0', dual=True, power=1.0, repeat=1, copies=1, order='', affine=False), True)
    """

    site: str
    dual: bool = False
    power: float = 1.0
    repeat: int = 1
    copies: int = 1
    order: str = ""
    affine: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.site, str) or not self.site or "*" in self.site or self.site.endswith("+"):
            raise ValueError(
                f"Leg.site: expected a non-empty site name without '*' and no '+' at its end, got {self.site!r}; "
                "Leg.parse reads the short forms 's*' and 's+'"
            )
        if not isinstance(self.dual, bool):
            raise TypeError(f"Leg.dual: expected True or False, got {self.dual!r}")
        if isinstance(self.power, bool) or not hasattr(self.power, "__float__") or not math.isfinite(self.power):
            raise ValueError(f"Leg.power: expected a finite number, got {self.power!r}")
        object.__setattr__(self, "power", float(self.power))
        object.__setattr__(self, "repeat", _check_length(self.repeat, f"Leg.repeat of site {self.site!r}"))
        object.__setattr__(self, "copies", _check_length(self.copies, f"Leg.copies of site {self.site!r}"))
        if not isinstance(self.order, str) or not isinstance(self.affine, bool):
            raise TypeError(
                f"Leg.order, Leg.affine: expected a site name and a bool, got {self.order!r}, {self.affine!r}"
            )
        if self.affine and (self.dual or self.repeat != 1 or self.copies != 1):
            raise ValueError(f"Leg.affine of site {self.site!r}: expected a leg that is not dual and has no copies")

    @classmethod
    def parse(cls, text: str) -> Leg:
        """Read the short form ``"s"``, ``"s*"`` (dual) or ``"s+"`` (affine)."""
        if not isinstance(text, str):
            raise TypeError(f"leg: expected a string such as 'h0' or 'h0*', got {text!r} of type {type(text).__name__}")
        if text.endswith("+"):
            return cls(text[:-1], affine=True)
        return cls(text[:-1], dual=True) if text.endswith("*") else cls(text)

    def __str__(self) -> str:
        """The short form, with what differs from the rule: ``h0*^2 x 9``, or ``qk*, 4 copies by q``."""
        power = "" if self.power == 1.0 else f"^{self.power:g}"
        repeat = "" if self.repeat == 1 else f" x {self.repeat}"
        order = f" by {self.order}" if self.order else ""
        copies = "" if self.copies == 1 and not order else f", {self.copies} copies{order}"
        return f"{self.site}{'*' if self.dual else ''}{'+' if self.affine else ''}{power}{repeat}{copies}"


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
    """The axis with the dual flag of every leg flipped; shifts, which have no gradient, are gone."""
    if isinstance(axis, Segments):
        return Segments(tuple((length, _flip_leg(leg)) for length, leg in axis))
    return _flip_leg(axis)


def _flip_leg(leg: Leg | None) -> Leg | None:
    return None if leg is None else replace(leg, dual=not leg.dual, affine=False)


def _leg_to_json(leg: Leg | None) -> Any:
    if leg is None:
        return None
    if leg.power == 1.0 and leg.repeat == 1 and leg.copies == 1 and not leg.order:
        return str(leg)
    return {name: value for name, value in vars(leg).items() if value != getattr(Leg, name, None)}


def axis_to_json(axis: Axis) -> Any:
    """An axis as JSON-ready data: null, a short form, an object, or a list of [length, leg] pairs."""
    if isinstance(axis, Segments):
        return [[length, _leg_to_json(leg)] for length, leg in axis]
    return _leg_to_json(axis)


def axis_from_json(data: Any) -> AxisLike:
    """Read back what :func:`axis_to_json` wrote."""
    if isinstance(data, dict):
        unknown = sorted(set(data) - set(Leg.__dataclass_fields__))
        if unknown or "site" not in data:
            raise ValueError(f"spec leg: expected the keys {', '.join(Leg.__dataclass_fields__)}; got {sorted(data)}")
        return Leg(**data)
    if isinstance(data, list):
        return Segments(tuple((length, axis_from_json(leg)) for length, leg in data))  # type: ignore[misc]
    return data  # type: ignore[no-any-return]
