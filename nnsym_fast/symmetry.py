# SPDX-License-Identifier: MIT
"""The specification of a network's symmetry: a group per site, a leg per axis of every tensor.

A tensor T whose axes carry the legs ``(l_1, l_2, ...)`` transforms as ``T -> (M_1 x M_2 x ...) T`` with ``M = g`` for a
leg ``"s"``, ``g^-T`` for ``"s*"`` and 1 for None, where ``g`` is the group element at site ``s``. Nothing in this
module holds an array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nnsym_fast import groups
from nnsym_fast.folds import Fold, Reader
from nnsym_fast.groups import Group
from nnsym_fast.legs import Axis, AxisLike, Leg, Segments, as_axis, axis_from_json, axis_legs, axis_to_json, flip

if TYPE_CHECKING:
    from nnsym_fast.elements import Elements

__all__ = ["Axis", "AxisLike", "Fold", "Leg", "Reader", "Segments", "SymmetrySpec"]

JSON_VERSION = 1
"""Version of the text that ``SymmetrySpec.to_json`` writes."""


class SymmetrySpec:
    """The symmetry of a network: a group per site, a leg per axis of every tensor.

    A spec is immutable, hashable and compares by value. The position of a site in ``sites`` is its Philox site index,
    so the order of the sites is part of the spec.

    Args:
        sites: name -> group; names must not contain ``*``.
        legs: name of a tensor -> one entry per axis: None, ``"s"``, ``"s*"``, a :class:`Leg`, a :class:`Segments`, or a
            list of ``(length, leg)`` pairs. Every tensor is named, untouched ones with None for every axis.
        state: names of the tensors that are not trained, such as running means.
        folds: norms whose gains and biases must be folded into their readers for the spec to hold; see
            ``specs.fold_norms``.
        absent: symmetry that a user might expect -> why this network does not have it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a leg names an unknown site, a segment has not the length of its leg, a power is fractional where
            the site has signs or differs from 1 where it is dense, sites of one tie have different numbers of heads, or
            a site is not both written to and read from.

    >>> spec = SymmetrySpec(
    ...     sites={"h0": groups.Monomial(128)},
    ...     legs={"0.weight": ("h0", None), "0.bias": ("h0",), "2.weight": (None, "h0*"), "2.bias": (None,)},
    ... )
    >>> spec.dimension, spec.touched("2.bias")
    (128, False)
    >>> SymmetrySpec.from_json(spec.to_json()) == spec
    True
    """

    __slots__ = ("_absent", "_folds", "_hash", "_legs", "_sites", "_state")

    def __init__(
        self,
        sites: Mapping[str, Group],
        legs: Mapping[str, Sequence[AxisLike]],
        state: Iterable[str] = (),
        *,
        folds: Iterable[Fold] = (),
        absent: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if not isinstance(sites, Mapping):
            raise TypeError(f"sites: expected a mapping name -> group, got {type(sites).__name__}")
        if not isinstance(legs, Mapping):
            raise TypeError(f"legs: expected a mapping tensor name -> one leg per axis, got {type(legs).__name__}")
        if isinstance(state, str):
            raise TypeError(f"state: expected a collection of tensor names, got a string; write [{state!r}]")
        if not isinstance(absent, Mapping):
            raise TypeError(f"absent: expected a mapping symmetry -> reason, got {type(absent).__name__}")
        self._sites = dict(sites)
        self._legs = {name: _normalise(name, axes) for name, axes in legs.items()}
        self._state = frozenset(state)
        self._folds = tuple(folds)
        self._absent = dict(absent)
        self._check()
        self._hash = hash((tuple(self._sites.items()), frozenset(self._legs.items()), self._state, self._folds))

    def _check(self) -> None:
        for site, group in self._sites.items():
            if not isinstance(site, str) or not site or "*" in site or site.endswith("+"):
                raise ValueError(
                    "sites: expected non-empty names without '*' (it marks the dual) and no '+' at its end "
                    f"(affine legs), got {site!r}"
                )
            if not isinstance(group, Group):
                raise TypeError(
                    f"sites[{site!r}]: expected a group such as groups.Monomial(128), "
                    f"got {group!r} of type {type(group).__name__}"
                )
        self._check_ties()
        for fold in self._folds:
            if not isinstance(fold, Fold):
                raise TypeError(f"folds: expected a collection of Fold, got {fold!r} of type {type(fold).__name__}")
            lacking = [name for name in fold.tensors if name not in self._legs]
            if lacking:
                raise ValueError(f"folds: the norm of gain {fold.gain!r} names tensors without legs, {lacking}")
        unknown = sorted(self._state - set(self._legs))
        if unknown:
            raise ValueError(f"state: {unknown} have no entry in legs; give each a tuple, one leg or None per axis")
        written: set[str] = set()
        read: set[str] = set()
        for name, axes in self._legs.items():
            for number, axis in enumerate(axes):
                self._check_axis(f"tensor {name!r}, axis {number}", axis)
                for leg in axis_legs(axis):
                    if leg.affine and len(axes) != 1:
                        raise ValueError(
                            f"tensor {name!r}, axis {number}: leg {str(leg)!r} adds a shift; expected a tensor with "
                            f"one axis, such as a bias, got one with {len(axes)}"
                        )
                    (read if leg.dual else written).add(leg.site)
                    if leg.order:
                        written.add(leg.order)
                        read.add(leg.order)
        for site, group in self._sites.items():
            if group.parts == ("shift",) and (site in written or site in read):
                continue
            if site not in written:
                raise ValueError(
                    f"site {site!r}: no tensor writes to it; give the axis that produces its units the leg {site!r}, "
                    "or remove the site"
                )
            if site not in read:
                raise ValueError(
                    f"site {site!r}: no tensor reads from it; give the axis that consumes its units the dual leg "
                    f"{site + '*'!r}, or remove the site"
                )

    def _check_axis(self, where: str, axis: Axis) -> None:
        for leg in axis_legs(axis):
            if leg.site not in self._sites:
                raise ValueError(f"{where}: unknown site {leg.site!r}; the sites are {list(self._sites)}")
            self._check_leg(where, leg, self._sites[leg.site])
        if isinstance(axis, Segments):
            for number, (length, part) in enumerate(axis):
                expected = length if part is None else self._leg_length(part)
                if length != expected:
                    raise ValueError(
                        f"{where}, segment {number}: its leg {str(part)!r} covers {expected} entries, "
                        f"but its length is {length}"
                    )

    def _check_leg(self, where: str, leg: Leg, group: Group) -> None:
        if group.signed and not leg.power.is_integer():
            raise ValueError(
                f"{where}: power {leg.power:g} of site {leg.site!r}, whose group has signs; "
                "expected an integer power, or a group without signs"
            )
        if group.dense and leg.power != 1:
            raise ValueError(f"{where}: power {leg.power:g} of site {leg.site!r}, whose group is dense; expected 1")
        if leg.affine and not group.shifted:
            raise ValueError(f"{where}: leg {str(leg)!r} adds a shift, but {group} has none; expected Affine")
        if (leg.copies > 1 or leg.order) and not group.dense:
            raise ValueError(f"{where}: leg {str(leg)!r} has copies of heads; expected a dense group, got {group}")
        if leg.order:
            order = self._sites.get(leg.order)
            if order is None:
                raise ValueError(f"{where}: unknown site {leg.order!r} as order; the sites are {list(self._sites)}")
            wanted = (group.heads, leg.copies, group.tie)
            tied = group.tie or not (group.permute_heads or order.permute_heads)
            if not tied or (order.heads, order.head_size, order.tie) != wanted or order.parts != ("permutation",):
                raise ValueError(
                    f"{where}: order {leg.order!r} of leg {str(leg)!r}; expected permutations of {group.heads} heads "
                    f"with {leg.copies} units each and the tie {group.tie!r}, got {order}"
                )

    def _check_ties(self) -> None:
        heads: dict[str, tuple[str, int]] = {}
        for site, group in self._sites.items():
            if group.tie:
                first, count = heads.setdefault(group.tie, (site, group.heads))
                if group.heads != count:
                    raise ValueError(
                        f"sites {first!r} and {site!r} are tied ({group.tie!r}); expected equal numbers of heads, got "
                        f"{count} and {group.heads}"
                    )

    @property
    def sites(self) -> Mapping[str, Group]:
        """Site name -> group, in the order of the Philox site index (read-only)."""
        return MappingProxyType(self._sites)

    @property
    def legs(self) -> Mapping[str, tuple[Axis, ...]]:
        """Tensor name -> what each axis carries, normalised to None, Leg or Segments (read-only)."""
        return MappingProxyType(self._legs)

    @property
    def state(self) -> frozenset[str]:
        """Names of the tensors that are not trained."""
        return self._state

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Norms that must be folded into their readers for the spec to hold."""
        return self._folds

    @property
    def absent(self) -> Mapping[str, str]:
        """Symmetry that a user might expect -> why this network does not have it (read-only)."""
        return MappingProxyType(self._absent)

    @property
    def head_sites(self) -> tuple[int, ...]:
        """For every site, the Philox site index of its permutation of heads: that of the first site of its tie."""
        return groups.head_sites(self._sites.values())

    @property
    def dimension(self) -> int:
        """Dimension of the continuous part of the group."""
        return sum(group.dimension for group in self._sites.values())

    @property
    def log_order(self) -> float:
        """Natural logarithm of the order of the discrete part of the group."""
        # Tied sites have one permutation of heads together.
        again = [group.heads for group, first in zip(self._sites.values(), self._ties(), strict=True) if not first]
        return math.fsum(group.log_order for group in self._sites.values()) - math.fsum(
            math.lgamma(heads + 1) for heads in again
        )

    def _ties(self) -> list[bool]:
        return [index == head for index, head in enumerate(self.head_sites)]

    def touched(self, name: str) -> bool:
        """Whether any axis of the tensor carries a leg.

        Raises:
            ValueError: the spec has no tensor of that name.
        """
        if name not in self._legs:
            raise ValueError(f"tensor {name!r}: not in the spec, whose tensors are {list(self._legs)}")
        return any(True for axis in self._legs[name] for _ in axis_legs(axis))

    def axis_length(self, axis: Axis) -> int | None:
        """Length that an axis with these legs must have; None where the spec does not say (an axis without legs)."""
        if axis is None:
            return None
        return axis.length if isinstance(axis, Segments) else self._leg_length(axis)

    def _leg_length(self, leg: Leg) -> int:
        return self._sites[leg.site].size * leg.repeat * leg.copies

    def validate(self, params: Mapping[str, Any]) -> None:
        """Check names and shapes of a network's tensors against the spec.

        Args:
            params: name -> array (anything with ``.shape``) or a shape tuple.

        Raises:
            TypeError: ``params`` is not a mapping, or a value has no shape.
            ValueError: a tensor of the spec is missing, a tensor has no legs, or an axis has the wrong length.

        >>> spec = SymmetrySpec({"h": groups.Permutation(3)}, {"a": ("h", None), "b": (None, "h*")})
        >>> spec.validate({"a": (3, 5), "b": (2, 4)})
        Traceback (most recent call last):
            ...
        ValueError: tensor 'b' of shape (2, 4), axis 1: expected length 3 (leg 'h*', site 'h': Permutation(n=3)), got 4
        """
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a mapping tensor name -> array, got {type(params).__name__}")
        for name in self._legs:
            if name not in params:
                raise ValueError(f"tensor {name!r}: in the spec but missing from params, which hold {list(params)}")
        for name, value in params.items():
            if name not in self._legs:
                raise ValueError(
                    f"tensor {name!r}: no legs in the spec; if nothing acts on it, add it to legs with a tuple of "
                    f"{len(_shape_of(name, value))} None, otherwise with its legs"
                )
            self._validate_shape(name, _shape_of(name, value))

    def _validate_shape(self, name: str, shape: tuple[int, ...]) -> None:
        axes = self._legs[name]
        if len(shape) != len(axes):
            raise ValueError(
                f"tensor {name!r}: expected {len(axes)} axes, one for each leg, got {len(shape)} (shape {shape})"
            )
        for number, (axis, length) in enumerate(zip(axes, shape, strict=True)):
            expected = self.axis_length(axis)
            if expected is not None and length != expected:
                group = f", site {axis.site!r}: {self._sites[axis.site]}" if isinstance(axis, Leg) else ""
                kind = "leg" if isinstance(axis, Leg) else "segments"
                raise ValueError(
                    f"tensor {name!r} of shape {shape}, axis {number}: expected length {expected} "
                    f"({kind} {str(axis)!r}{group}), got {length}"
                )

    def dual(self) -> SymmetrySpec:
        """The spec with every leg's dual flag flipped: gradients transform with it."""
        flipped = {name: tuple(map(flip, axes)) for name, axes in self._legs.items()}
        return SymmetrySpec(self._sites, flipped, self._state)

    def to_json(self, indent: int | None = None) -> str:
        """The spec as JSON text; :meth:`from_json` reads it back. The order of sites and tensors is kept."""
        legs = {name: [axis_to_json(axis) for axis in axes] for name, axes in self._legs.items()}
        sites = [{"name": name} | group.to_json() for name, group in self._sites.items()]
        data = {"version": JSON_VERSION, "sites": sites, "legs": legs, "state": sorted(self._state)}
        if self._folds:
            data["folds"] = [fold.to_json() for fold in self._folds]
        if self._absent:
            data["absent"] = self._absent
        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> SymmetrySpec:
        """Read a spec from the text that :meth:`to_json` wrote.

        Raises:
            ValueError: not JSON, another version, missing or malformed entries; and what the constructor raises.
        """
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"spec: expected JSON text, got something else ({error})") from None
        if not isinstance(data, dict) or "version" not in data:
            raise ValueError("spec: expected a JSON object with the keys version, sites, legs, state")
        if data["version"] != JSON_VERSION:
            raise ValueError(
                f"spec version: expected {JSON_VERSION}, got {data['version']!r}; write it again with this package"
            )
        try:
            sites = {
                site["name"]: groups.from_json({key: value for key, value in site.items() if key != "name"})
                for site in data["sites"]
            }
            if len(sites) != len(data["sites"]):
                raise ValueError(f"spec sites: names appear twice in {[site['name'] for site in data['sites']]}")
            legs = {name: tuple(map(axis_from_json, axes)) for name, axes in data["legs"].items()}
            state = data["state"]
            folds = [Fold.from_json(fold) for fold in data.get("folds", ())]
            absent = dict(data.get("absent", {}))
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"spec: malformed JSON, missing or misplaced entry {error}") from None
        return cls(sites, legs, state, folds=folds, absent=absent)

    def identity(self, n: int, dtype: str = "float64") -> Elements:
        """``n`` copies of the identity element, per site with leading axis ``n``."""
        # Deferred: this module is pure data, and the arrays live in a layer above it.
        from nnsym_fast import elements

        return elements.identity(self, n, dtype)

    def sample(self, n: int, seed: int = 0, start: int = 0, dtype: str = "float64") -> Elements:
        """Elements ``start .. start + n - 1`` of the random sequence of ``seed``, per site with leading axis ``n``.

        Element ``i`` depends on ``(spec.sites, seed, i)`` alone.
        """
        from nnsym_fast import elements

        return elements.sample(self, n, seed, start, dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SymmetrySpec):
            return NotImplemented
        ours = (list(self._sites.items()), self._legs, self._state, self._folds)
        return ours == (list(other._sites.items()), other._legs, other._state, other._folds)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return SymmetrySpec.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        return (
            f"SymmetrySpec({len(self._sites)} sites, {len(self._legs)} tensors, dimension {self.dimension}, "
            f"log10 of the discrete order {self.log_order / math.log(10.0):.1f})"
        )


def _normalise(name: str, axes: Sequence[AxisLike]) -> tuple[Axis, ...]:
    if isinstance(axes, str) or not isinstance(axes, Sequence):
        raise TypeError(f"legs[{name!r}]: expected a tuple with one entry per axis, got {axes!r}; write ({axes!r},)")
    result = []
    for number, axis in enumerate(axes):
        try:
            result.append(as_axis(axis))
        except (TypeError, ValueError) as error:
            raise type(error)(f"tensor {name!r}, axis {number}: {error}") from None
    return tuple(result)


def _shape_of(name: str, value: Any) -> tuple[int, ...]:
    shape = value if isinstance(value, tuple) else getattr(value, "shape", None)
    if shape is None:
        raise TypeError(f"tensor {name!r}: expected an array or a shape tuple, got {type(value).__name__}")
    return tuple(int(length) for length in shape)
