# SPDX-License-Identifier: MIT
"""What acts at a site: finite-dimensional groups of monomial matrices, as plain data.

An element of every group here acts on a vector of ``size`` units as ``(g x)_i = sign_i scale_i x_{perm_i}``; a group
says which of the three parts its elements have and how they are drawn. Nothing in this module holds an array: drawing,
composing and inverting elements is the work of :mod:`nnsym_fast.elements`.

Sources: intertwiner groups of the activations, Godfrey et al. 2205.14258; monomial groups, Tran et al. 2409.11697.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsym_fast.elements import SiteElements

__all__ = ["DRAW_PART", "DRAW_SHIFT", "Group", "Heads", "Monomial", "Permutation", "Scaling", "Signs", "from_json"]

DRAW_PART = {"permutation": 0, "heads": 1, "sign": 2, "scale": 3, "matrix": 4}
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


def _check_std(value: object, argument: str) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{argument}: expected a positive number, got {value!r} of type {type(value).__name__}")
    std = float(value)
    if not (math.isfinite(std) and std > 0):
        raise ValueError(
            f"{argument}: expected a finite standard deviation > 0 of log(scale), got {std}; "
            "for a group without scales use Permutation, Signs or Monomial(..., scales=False)"
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
        """Standard deviation of ``log(scale)`` of a sampled element; 0 for a group without scales."""
        return 0.0

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that an element has, a selection of ``("permutation", "sign", "scale")`` in that order."""
        held = (("permutation", self.permutes), ("sign", self.signed), ("scale", self.scaled))
        return tuple(name for name, present in held if present)

    @property
    def dimension(self) -> int:
        """Number of continuous parameters: the dimension of the group as a manifold."""
        return self.size if self.scaled else 0

    @property
    def log_order(self) -> float:
        """Natural logarithm of the number of elements of the discrete part."""
        head = math.lgamma(self.head_size + 1) if self.permute_units else 0.0
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


@dataclass(frozen=True)
class Permutation(Group):
    """All permutations of ``n`` units; sampled uniformly.

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


@dataclass(frozen=True)
class Heads(Group):
    """One copy of ``group`` per head and, with ``permute``, permutations of the heads: a wreath product.

    Units of head ``h`` are ``h * group.size .. (h + 1) * group.size - 1``.

    >>> Heads(2, Permutation(3)).size, round(math.exp(Heads(2, Permutation(3)).log_order))
    (6, 72)
    """

    # field(): a bare annotation would take the value of Group.heads as the default.
    heads: int = dataclasses.field()
    group: Group
    permute: bool = True

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


_TYPES: dict[str, type[Group]] = {cls.__name__: cls for cls in (Permutation, Scaling, Signs, Monomial, Heads)}


def from_json(data: Mapping[str, Any]) -> Group:
    """Read a group from what ``Group.to_json`` wrote.

    Args:
        data: a mapping with the class name under ``"type"`` and the fields of that class.

    Returns:
        An equal group.

    Raises:
        TypeError: ``data`` is not a mapping, or a field has the wrong type.
        ValueError: unknown type, missing or unknown fields, or a field out of range.

    >>> from_json({"type": "Permutation", "n": 4})
    Permutation(n=4)
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"group: expected a JSON object with the key 'type', got {type(data).__name__}")
    name = data.get("type")
    if name not in _TYPES:
        raise ValueError(f"group type: expected one of {', '.join(_TYPES)}; got {name!r}")
    cls = _TYPES[name]
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    given = {key: value for key, value in data.items() if key != "type"}
    unknown = sorted(set(given) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"group {name}: unknown fields {unknown}; expected {[field.name for field in fields]}")
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in given]
    if missing:
        raise ValueError(f"group {name}: missing fields {missing}")
    if cls is Heads:
        given["group"] = from_json(given["group"])
    return cls(**given)
