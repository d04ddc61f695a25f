# SPDX-License-Identifier: MIT
"""What every group has: the parts of its elements, its size and dimension, and where its random numbers come from."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsym_fast.elements import SiteElements

__all__ = ["DRAW_PART", "DRAW_SHIFT", "MAX_SIZE", "Group"]

DRAW_PART = {"permutation": 0, "heads": 1, "sign": 2, "scale": 3, "matrix": 4, "shift": 5}
"""Part of an element -> the top four bits of the 32-bit draw index of the Philox counter."""

DRAW_SHIFT = 28
"""draw index = ``DRAW_PART[part] << DRAW_SHIFT | block``; a block is one call of Philox, four 32-bit words."""

MAX_SIZE = (1 << 31) - 1
"""Permutations are stored as int32."""


def _check_count(value: object, argument: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{argument}: expected an integer >= 1, got the bool {value!r}")
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument}: expected an integer >= 1, got {value!r} of type {type(value).__name__}") from None
    if not 1 <= count <= MAX_SIZE:
        raise ValueError(f"{argument}: expected an integer between 1 and {MAX_SIZE}, got {count}")
    return count


def _check_flag(value: object, argument: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument}: expected True or False, got {value!r} of type {type(value).__name__}")
    return value


def _check_std(value: object, argument: str, of: str = "log(scale)") -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{argument}: expected a positive number, got {value!r} of type {type(value).__name__}")
    std = float(value)
    if not (math.isfinite(std) and std > 0):
        raise ValueError(
            f"{argument}: expected a finite standard deviation > 0 of {of}, got {std}"
            + (
                "; for a group without scales use Permutation, Signs or Monomial(..., scales=False)"
                if of == "log(scale)"
                else ""
            )
        )
    return std


class Group:
    """Base of all groups; use one of its subclasses."""

    @property
    def size(self) -> int:
        """Number of units the group acts on: the length of an axis that carries its leg once."""
        raise NotImplementedError(f"{type(self).__name__}.size")

    heads: int = 1
    """Number of blocks of units that are permuted as wholes; 1 for a group without heads."""

    @property
    def head_size(self) -> int:
        """Units per head: ``size == heads * head_size``."""
        return self.size // self.heads

    @property
    def permute_heads(self) -> bool:
        """Whether whole heads are exchanged."""
        return False

    @property
    def permute_units(self) -> bool:
        """Whether units are exchanged inside a head (inside the only head, for a group without heads)."""
        return False

    @property
    def permutes(self) -> bool:
        """Whether an element has the part ``perm``."""
        return self.permute_heads or self.permute_units

    @property
    def signed(self) -> bool:
        """Whether an element has the part ``sign``."""
        return False

    @property
    def scaled(self) -> bool:
        """Whether an element has the part ``scale``."""
        return False

    @property
    def scale_std(self) -> float:
        """Standard deviation of ``log(scale)``, or of the logarithms of singular values, of a sampled element; or 0."""
        return 0.0

    @property
    def dense(self) -> bool:
        """Whether an element has the parts ``matrix`` and ``inverse``."""
        return self.matrix_dimension > 0 or self.matrix_components > 1

    @property
    def matrix_dimension(self) -> int:
        """Dimension of the group of the matrices of one head."""
        return 0

    @property
    def matrix_components(self) -> int:
        """Number of connected components of that group."""
        return 1

    @property
    def shifted(self) -> bool:
        """Whether an element has the part ``shift``."""
        return False

    @property
    def shift_std(self) -> float:
        """Standard deviation of ``shift`` of a sampled element; 0 for a group without shifts."""
        return 0.0

    @property
    def unit_group(self) -> Group:
        """What acts inside one head; the group itself where there are no heads."""
        return self

    @property
    def tie(self) -> str:
        """Sites whose groups have the same non-empty tie permute their heads together."""
        return ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that an element has: some of ``permutation, sign, scale, matrix, shift``, in that order."""
        held = (self.permutes, self.signed, self.scaled, self.dense, self.shifted)
        names = ("permutation", "sign", "scale", "matrix", "shift")
        return tuple(name for name, present in zip(names, held, strict=True) if present)

    @property
    def dimension(self) -> int:
        """Number of continuous parameters: the dimension of the group as a manifold."""
        return self.size * (self.scaled + self.shifted) + self.heads * self.matrix_dimension

    @property
    def log_order(self) -> float:
        """Natural logarithm of the number of elements of the discrete part (of connected components)."""
        head = math.lgamma(self.head_size + 1) if self.permute_units else 0.0
        head += math.log(self.matrix_components)
        if self.signed:
            head += self.head_size * math.log(2.0)
        return self.heads * head + (math.lgamma(self.heads + 1) if self.permute_heads else 0.0)

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON-ready dict with its class name under ``"type"``; :func:`from_json` reads it back."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {field.name: getattr(self, field.name) for field in fields}
        return {"type": type(self).__name__} | {
            name: value.to_json() if isinstance(value, Group) else value for name, value in values.items()
        }

    def identity(self, n: int, dtype: str = "float64") -> SiteElements:
        """``n`` copies of the identity.

        Args:
            n: number of elements.
            dtype: dtype of the scales.

        Returns:
            ``SiteElements`` with arrays of shape ``(n, size)``; parts that the group lacks are None.
        """
        # Deferred: this module is pure data, and the arrays live in a layer above it.
        from nnsym_fast import elements

        return elements.identity_site(self, n, dtype)

    def sample(self, n: int, seed: int = 0, start: int = 0, dtype: str = "float64") -> SiteElements:
        """Elements ``start .. start + n - 1`` of the random sequence of ``seed`` (as site 0 of a spec would draw them).

        Args:
            n: number of elements.
            seed: 64-bit seed.
            start: index of the first element; element ``i`` depends on ``(group, seed, i)`` alone.
            dtype: dtype of the scales.

        Returns:
            ``SiteElements`` with arrays of shape ``(n, size)``; parts that the group lacks are None.
        """
        from nnsym_fast import elements

        return elements.sample_site(self, n, seed, start, dtype)
