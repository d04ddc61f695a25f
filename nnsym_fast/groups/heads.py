# SPDX-License-Identifier: MIT
"""One group per attention head, and permutations of the heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from nnsym_fast.groups.base import Group, _check_count, _check_flag

__all__ = ["Heads", "head_sites"]


@dataclass(frozen=True)
class Heads(Group):
    """One copy of ``group`` per head and, with ``permute``, permutations of the heads: a wreath product.

    Units of head ``h`` are ``h * group.size .. (h + 1) * group.size - 1``. Sites of a spec whose groups have the same
    ``tie`` permute their heads together: their groups are one wreath product, of a direct product, that is named in
    parts (the query-key space and the value-output space of attention).

    >>> import math
    >>> from nnsym_fast.groups import Permutation
    >>> Heads(2, Permutation(3)).size, round(math.exp(Heads(2, Permutation(3)).log_order))
    (6, 72)
    """

    # field(): a bare annotation would take the value of Group.heads as the default.
    heads: int = dataclasses.field()
    group: Group
    permute: bool = True
    tie: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", _check_count(self.heads, "Heads.heads"))
        if isinstance(self.group, Heads):
            raise TypeError("Heads.group: Heads cannot be nested; expected a plain group such as Permutation(n)")
        if not isinstance(self.group, Group):
            raise TypeError(
                "Heads.group: expected a group such as Permutation(n), "
                f"got {self.group!r} of type {type(self.group).__name__}"
            )
        _check_flag(self.permute, "Heads.permute")
        if not isinstance(self.tie, str):
            raise TypeError(f"Heads.tie: expected a string, got {self.tie!r} of type {type(self.tie).__name__}")
        if self.tie and not self.permute:
            raise ValueError(f"Heads.tie: {self.tie!r} ties permutations of heads; expected permute=True, or no tie")
        _check_count(self.size, "Heads size (heads * group.size)")

    @property
    def size(self) -> int:
        return self.heads * self.group.size

    @property
    def permute_heads(self) -> bool:
        return self.permute

    @property
    def permute_units(self) -> bool:
        return self.group.permute_units

    @property
    def signed(self) -> bool:
        return self.group.signed

    @property
    def scaled(self) -> bool:
        return self.group.scaled

    @property
    def scale_std(self) -> float:
        return self.group.scale_std

    @property
    def dense(self) -> bool:
        return self.group.dense

    @property
    def matrix_dimension(self) -> int:
        return self.group.matrix_dimension

    @property
    def matrix_components(self) -> int:
        return self.group.matrix_components

    @property
    def shifted(self) -> bool:
        return self.group.shifted

    @property
    def shift_std(self) -> float:
        return self.group.shift_std

    @property
    def unit_group(self) -> Group:
        return self.group


def head_sites(groups: Iterable[Group]) -> tuple[int, ...]:
    """For every site of a spec, the Philox site index of its permutation of heads: of the first site of its tie."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(group.tie, index) if group.tie else index for index, group in enumerate(groups))
