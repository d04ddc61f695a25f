# SPDX-License-Identifier: MIT
"""Groups of monomial matrices: permutations, signs, positive scales, and their products."""

from __future__ import annotations

from dataclasses import dataclass

from nnsym_fast.groups.base import Group, _check_count, _check_flag, _check_std

__all__ = ["Monomial", "Permutation", "Scaling", "Signs"]


@dataclass(frozen=True)
class Permutation(Group):
    """All permutations of ``n`` units; sampled uniformly.

    >>> import math
    >>> Permutation(3).parts, Permutation(3).dimension, round(math.exp(Permutation(3).log_order))
    (('permutation',), 0, 6)
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Permutation.n"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def permute_units(self) -> bool:
        return True


@dataclass(frozen=True)
class Scaling(Group):
    """Positive diagonal matrices of ``n`` units; sampled with ``log(scale) ~ Normal(0, scale_std^2)``.

    >>> Scaling(3).parts, Scaling(3).dimension, Scaling(3).log_order
    (('scale',), 3, 0.0)
    """

    n: int
    scale_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Scaling.n"))
        object.__setattr__(self, "scale_std", _check_std(self.scale_std, "Scaling.scale_std"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def scaled(self) -> bool:
        return True


@dataclass(frozen=True)
class Signs(Group):
    """Diagonal matrices of signs of ``n`` units; sampled uniformly.

    >>> import math
    >>> Signs(3).parts, round(math.exp(Signs(3).log_order))
    (('sign',), 8)
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Signs.n"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def signed(self) -> bool:
        return True


@dataclass(frozen=True)
class Monomial(Group):
    """Permutations times diagonal matrices of ``n`` units: the symmetry of most elementwise activations.

    ``Monomial(n)`` (positive scales) is the group of ReLU, ``Monomial(n, signs=True, scales=False)`` the signed
    permutations of tanh, ``Monomial(n, signs=True)`` every invertible monomial matrix.

    >>> Monomial(4).parts, Monomial(4, signs=True, scales=False).parts
    (('permutation', 'scale'), ('permutation', 'sign'))
    >>> from nnsym_fast.groups import from_json
    >>> from_json(Monomial(4).to_json()) == Monomial(4)
    True
    """

    n: int
    signs: bool = False
    scales: bool = True
    scale_std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check_count(self.n, "Monomial.n"))
        _check_flag(self.signs, "Monomial.signs")
        _check_flag(self.scales, "Monomial.scales")
        object.__setattr__(self, "scale_std", _check_std(self.scale_std, "Monomial.scale_std"))

    @property
    def size(self) -> int:
        return self.n

    @property
    def permute_units(self) -> bool:
        return True

    @property
    def signed(self) -> bool:
        return self.signs

    @property
    def scaled(self) -> bool:
        return self.scales
