# SPDX-License-Identifier: MIT
"""Groups of matrices that mix units, and translations."""

from __future__ import annotations

from dataclasses import dataclass

from nnsym_fast.groups.base import Group, _check_count, _check_flag, _check_std

__all__ = ["Affine", "GeneralLinear", "Orthogonal", "RotaryCommutant", "SpecialLinear", "Translation"]

LAYOUTS = ("half", "interleaved")
"""Which dimensions a rotary embedding turns together: ``(p, p + rotary / 2)``, or ``(2 p, 2 p + 1)``."""


@dataclass(frozen=True)
class Orthogonal(Group):
    """Orthogonal matrices of ``n`` units, by the Haar measure: what a norm without gains cannot see.

    With ``keeps_mean`` only those with ``R 1 = +1 or -1`` times the vector of ones: the group O(1) x O(n - 1) that
    LayerNorm, which subtracts the mean, commutes with.

    >>> Orthogonal(3).dimension, Orthogonal(3, keeps_mean=True).dimension
    (3, 1)
    """

    n: int
    keeps_mean: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Orthogonal.n"))
        _check_flag(self.keeps_mean, "Orthogonal.keeps_mean")

    @property
    def size(self) -> int:
        return self.n

    @property
    def matrix_dimension(self) -> int:
        free = self.n - self.keeps_mean
        return free * (free - 1) // 2

    @property
    def matrix_components(self) -> int:
        return 4 if self.keeps_mean and self.n > 1 else 2


@dataclass(frozen=True)
class GeneralLinear(Group):
    """Invertible matrices of ``n`` units, drawn as ``K1 diag(s) K2``, K Haar, ``log s ~ Normal(0, scale_std^2)``.

    The inverse ``K2^T diag(1/s) K1^T`` comes for free, and ``scale_std`` controls the condition number.

    >>> GeneralLinear(3).parts, GeneralLinear(3).dimension
    (('matrix',), 9)
    """

    n: int
    scale_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "GeneralLinear.n"))
        object.__setattr__(self, "scale_std", _check_std(self.scale_std, "GeneralLinear.scale_std", "log s"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def matrix_dimension(self) -> int:
        return self.n**2

    @property
    def matrix_components(self) -> int:
        return 2


@dataclass(frozen=True)
class SpecialLinear(Group):
    """Matrices of determinant 1: as :class:`GeneralLinear`, with ``sum(log s) = 0`` and ``det K1 det K2 = 1``.

    >>> SpecialLinear(3).dimension, SpecialLinear(3).log_order
    (8, 0.0)
    """

    n: int
    scale_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "SpecialLinear.n"))
        object.__setattr__(self, "scale_std", _check_std(self.scale_std, "SpecialLinear.scale_std", "log s"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def dense(self) -> bool:
        return True

    @property
    def matrix_dimension(self) -> int:
        return self.n**2 - 1


@dataclass(frozen=True)
class RotaryCommutant(Group):
    """Matrices of ``n`` units that commute with every rotation of a rotary position embedding.

    Per frequency pair ``r (cos phi, -sin phi; sin phi, cos phi)``, with ``log r ~ Normal(0, scale_std^2)`` and phi
    uniform; the ``n - rotary`` last units, which are not rotated, keep GL, drawn as :class:`GeneralLinear`.

    Args:
        n: units (the size of a head).
        layout: which units form a pair: ``"half"`` (p and p + rotary / 2: Llama, GPT-NeoX) or ``"interleaved"`` (2 p
            and 2 p + 1: GPT-J).
        rotary: rotated units, an even number; None: all.
        scale_std: standard deviation of ``log r``.

    >>> RotaryCommutant(8).dimension, RotaryCommutant(8, rotary=4).dimension
    (8, 20)
    """

    n: int
    layout: str = "half"
    rotary: int | None = None
    scale_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "RotaryCommutant.n"))
        if self.layout not in LAYOUTS:
            raise ValueError(f"RotaryCommutant.layout: expected one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        rotary = self.n if self.rotary is None else _check_count(self.rotary, "RotaryCommutant.rotary")
        if rotary % 2 or rotary > self.n:
            raise ValueError(
                f"RotaryCommutant.rotary: expected an even number of rotated units, at most n = {self.n}, got {rotary}"
            )
        object.__setattr__(self, "rotary", rotary)
        object.__setattr__(self, "scale_std", _check_std(self.scale_std, "RotaryCommutant.scale_std", "log s"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The units that are rotated together."""
        half = (self.rotary or 0) // 2
        if self.layout == "half":
            return tuple((p, p + half) for p in range(half))
        return tuple((2 * p, 2 * p + 1) for p in range(half))

    @property
    def free(self) -> int:
        """Number of units that are not rotated: the last ones."""
        return self.n - (self.rotary or 0)

    @property
    def matrix_dimension(self) -> int:
        return (self.rotary or 0) + self.free**2

    @property
    def matrix_components(self) -> int:
        return 2 if self.free else 1


@dataclass(frozen=True)
class Translation(Group):
    """Translations ``x -> x + shift`` of ``n`` units, drawn with ``shift ~ Normal(0, shift_std^2)``.

    They act where a leg is affine (``"s+"``): on a bias. A key bias that is shifted leaves softmax unchanged.

    >>> Translation(3).parts, Translation(3).dimension
    (('shift',), 3)
    """

    n: int
    shift_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Translation.n"))
        object.__setattr__(self, "shift_std", _check_std(self.shift_std, "Translation.shift_std", "the shift"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def shifted(self) -> bool:
        return True


@dataclass(frozen=True)
class Affine(Group):
    """A dense group and translations: ``x -> matrix x + shift`` where a leg is affine (``"s+"``), else ``matrix x``.

    >>> Affine(GeneralLinear(3)).parts, Affine(GeneralLinear(3)).dimension
    (('matrix', 'shift'), 12)
    """

    group: Group
    shift_std: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.group, (Orthogonal, GeneralLinear, SpecialLinear, RotaryCommutant)):
            raise TypeError(
                "Affine.group: expected a dense group such as GeneralLinear(n), "
                f"got {self.group!r} of type {type(self.group).__name__}"
            )
        object.__setattr__(self, "shift_std", _check_std(self.shift_std, "Affine.shift_std", "the shift"))

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def dense(self) -> bool:
        return True

    @property
    def scale_std(self) -> float:
        return self.group.scale_std

    @property
    def matrix_dimension(self) -> int:
        return self.group.matrix_dimension

    @property
    def matrix_components(self) -> int:
        return self.group.matrix_components

    @property
    def shifted(self) -> bool:
        return True
