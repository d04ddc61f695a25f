# SPDX-License-Identifier: MIT
"""Batches of group elements: arrays per site, drawn by the kernel, with the group laws of the reference."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nnsym_fast import _arrays
from nnsym_fast._native import cpu
from nnsym_fast.groups import Group
from nnsym_fast.reference import orbit as reference

if TYPE_CHECKING:
    from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Elements", "SiteElements", "complete", "compose", "identity", "inverse", "sample"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class SiteElements:
    """Elements of the group of one site: ``(g x)_i = sign_i scale_i x_{perm_i}``.

    ``perm`` int32, ``sign`` int8, ``scale`` float, each of shape ``(n, size)``; None for a part that the group lacks.
    """

    perm: Array | None
    sign: Array | None
    scale: Array | None

    def __len__(self) -> int:
        return next((len(part) for part in self._parts() if part is not None), 0)

    def __getitem__(self, index: slice) -> SiteElements:
        if not isinstance(index, slice):
            raise TypeError(f"index: expected a slice of elements such as a[3:4], got {index!r}")
        return SiteElements(*(None if part is None else part[index] for part in self._parts()))

    def _parts(self) -> tuple[Array | None, ...]:
        return self.perm, self.sign, self.scale

    def __repr__(self) -> str:
        parts = (f"{name} {part.dtype}{part.shape}" for name, part in vars(self).items() if part is not None)
        return f"SiteElements({', '.join(parts)})"


class Elements(Mapping[str, SiteElements]):
    """Elements of the group of a network: site name -> :class:`SiteElements`, all with the leading axis ``count``.

    ``len()`` is the number of sites, as for any mapping; ``elements.count`` the number of elements.
    """

    __slots__ = ("_sites", "count")

    def __init__(self, sites: Mapping[str, SiteElements], count: int) -> None:
        self._sites = dict(sites)
        self.count = count
        """Number of elements: the leading axis of every array."""

    def __getitem__(self, site: str) -> SiteElements:
        return self._sites[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def take(self, start: int, stop: int) -> Elements:
        """Elements ``start .. stop - 1`` of the batch, as views."""
        start, stop, _ = slice(start, stop).indices(self.count)
        return Elements({name: site[start:stop] for name, site in self.items()}, max(0, stop - start))

    def __repr__(self) -> str:
        return f"Elements({self.count} elements at the sites {list(self._sites)})"


AnyElements = TypeVar("AnyElements", SiteElements, Elements)


def compose(a: AnyElements, b: AnyElements) -> AnyElements:
    """``a`` after ``b``, element by element: ``act(compose(a, b)) = act(a, act(b))``.

    Args:
        a: elements with leading axis ``n``.
        b: elements of the same sites and count.

    Raises:
        TypeError: not elements.
        ValueError: other sites, sizes or counts.

    >>> from nnsym_fast.groups import Permutation
    >>> a = Permutation(4).sample(2, seed=1)
    >>> bool((compose(a, inverse(a)).perm == [0, 1, 2, 3]).all())
    True
    """
    if isinstance(a, SiteElements) and isinstance(b, SiteElements):
        return _compose_site("", a, b)
    if not (isinstance(a, Elements) and isinstance(b, Elements)):
        raise TypeError(f"a, b: expected Elements, got {type(a).__name__} and {type(b).__name__}")
    if a.count != b.count or set(a) != set(b):
        raise ValueError(f"b: expected {a.count} elements at the sites {sorted(a)}, got {b.count} at {sorted(b)}")
    return Elements({name: _compose_site(f"[{name!r}]", a[name], b[name]) for name in a}, a.count)


def _compose_site(where: str, a: SiteElements, b: SiteElements) -> SiteElements:
    for name, ours, theirs in (("perm", a.perm, b.perm), ("sign", a.sign, b.sign), ("scale", a.scale, b.scale)):
        expected = None if ours is None else ours.shape
        got = None if theirs is None else theirs.shape
        if expected != got:
            raise ValueError(f"b{where}.{name}: expected shape {expected}, as in a, got {got}")
    return SiteElements(*reference.compose_site(a, b))


def inverse(a: AnyElements) -> AnyElements:
    """The inverse of every element.

    Raises:
        TypeError: not elements.
    """
    if isinstance(a, SiteElements):
        return SiteElements(*reference.inverse_site(a))
    if not isinstance(a, Elements):
        raise TypeError(f"a: expected Elements, got {type(a).__name__}")
    return Elements({name: SiteElements(*reference.inverse_site(site)) for name, site in a.items()}, a.count)


def check_integer(value: object, argument: str) -> int:
    """An integer as int; TypeError that names the argument."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument}: expected an integer, got {value!r} of type {type(value).__name__}") from None


def check_count(n: object, argument: str) -> int:
    """A count of elements as int; TypeError or ValueError that name the argument."""
    count = check_integer(n, argument)
    if count < 0:
        raise ValueError(f"{argument}: expected an integer >= 0, got {count}")
    return count


def check_seed(seed: object, argument: str = "seed") -> int:
    """A 64-bit seed or sample index; TypeError or ValueError that name the argument."""
    value = check_count(seed, argument)
    if value >= 1 << 64:
        raise ValueError(f"{argument}: expected an integer below 2^64, got {value}")
    return value


def check_start(start: object, n: int) -> int:
    """The first of n sample indices, all below 2^64; TypeError or ValueError that name the argument."""
    first = check_seed(start, "start")
    if first + n > 1 << 64:
        raise ValueError(f"start: expected start + n <= 2^64, got {first} + {n}")
    return first


def check_dtype(dtype: npt.DTypeLike) -> str:
    """Dtype of the scales: float32 or float64."""
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = str(dtype)
    if name not in ("float32", "float64"):
        raise TypeError(f"dtype: expected 'float32' or 'float64', in which elements are drawn, got {name!r}")
    return name


def site_tuples(groups: tuple[Group, ...]) -> list[tuple[Any, ...]]:
    """The sites as the compiled module takes them."""
    return [
        (i, g.heads, g.head_size, g.permute_heads, g.permute_units, g.signed, g.scaled, g.scale_std)
        for i, g in enumerate(groups)
    ]


@lru_cache(maxsize=64)
def _sampler(groups: tuple[Group, ...], dtype: str) -> Any:
    return cpu.OrbitPlan(dtype == "float64", site_tuples(groups), [], [])


def draw(groups: tuple[Group, ...], n: int, seed: int, start: int, step: int, dtype: str) -> list[SiteElements]:
    """Elements ``start, start + step, ...`` (n of them) of the random sequence of every site; arguments are checked."""
    result = []
    for group in groups:
        shape = (n, group.size)
        result.append(
            SiteElements(
                _arrays.empty(shape, np.int32) if group.permutes else None,
                _arrays.empty(shape, np.int8) if group.signed else None,
                _arrays.empty(shape, dtype) if group.scaled else None,
            )
        )
    if n:
        outs = [(site.perm, site.sign, site.scale) for site in result]
        _sampler(groups, dtype).elements(seed, start, step, n, outs)
    return result


def sample_site(group: Group, n: int, seed: int, start: int, dtype: npt.DTypeLike) -> SiteElements:
    """See ``Group.sample``."""
    count = check_count(n, "n")
    return draw((group,), count, check_seed(seed), check_start(start, count), 1, check_dtype(dtype))[0]


def sample(spec: SymmetrySpec, n: int, seed: int, start: int, dtype: npt.DTypeLike) -> Elements:
    """See ``SymmetrySpec.sample``."""
    count = check_count(n, "n")
    sites = draw(tuple(spec.sites.values()), count, check_seed(seed), check_start(start, count), 1, check_dtype(dtype))
    return Elements(dict(zip(spec.sites, sites, strict=True)), count)


def identity_site(group: Group, n: int, dtype: npt.DTypeLike) -> SiteElements:
    """See ``Group.identity``."""
    return SiteElements(*reference.identity_site(group, check_count(n, "n"), check_dtype(dtype)))


def identity(spec: SymmetrySpec, n: int, dtype: npt.DTypeLike) -> Elements:
    """See ``SymmetrySpec.identity``."""
    return Elements({name: identity_site(group, n, dtype) for name, group in spec.sites.items()}, check_count(n, "n"))


Triple: TypeAlias = tuple[Any, Any, Any]
"""perm, sign, scale of one site; None for a part that the group lacks."""


def complete(
    sites: Mapping[str, Group], elements: Mapping[str, Any], dtype: str, fallback: int = 1
) -> tuple[list[Triple], int]:
    """Elements that a caller brings, checked, completed with the identity's parts and converted for the kernel.

    Args:
        sites: site name -> group.
        elements: site name -> triple ``(perm, sign, scale)`` or an object with these attributes.
        dtype: dtype of the scales that the kernel takes.
        fallback: count where no part says it.

    Returns:
        one triple per site, writeable and contiguous, and the count of elements.

    Raises:
        TypeError: not a mapping, or an entry is no element; a part of another kind of dtype.
        ValueError: a site is missing; a part has another shape, or entries that no element has.
    """
    if not isinstance(elements, Mapping):
        raise TypeError(f"elements: expected Elements, one entry per site, got {type(elements).__name__}")
    missing = [name for name in sites if name not in elements]
    if missing:
        raise ValueError(f"elements: expected one entry per site of the spec, missing {missing}")
    given = {name: _as_triple(name, elements[name]) for name in sites}
    counts = (len(part) for triple in given.values() for part in triple if part is not None)
    count = elements.count if isinstance(elements, Elements) else next(counts, fallback)
    result = []
    for name, group in sites.items():
        held = (("perm", group.permutes, "int32"), ("sign", group.signed, "int8"), ("scale", group.scaled, dtype))
        parts: list[Any] = []
        for (part, present, kind), value in zip(held, given[name], strict=True):
            where = f"elements[{name!r}].{part}"
            if not present and value is not None:
                raise ValueError(f"{where}: expected None, as {group} has no such part")
            if present and value is None:
                value = getattr(identity_site(group, count, dtype), part)
            parts.append(_check_part(where, np.asarray(value), kind, (count, group.size)) if present else None)
        result.append((parts[0], parts[1], parts[2]))
    return result, count


def _as_triple(name: str, site: Any) -> Triple:
    if isinstance(site, tuple) and len(site) == 3:
        return site
    if not all(hasattr(site, part) for part in ("perm", "sign", "scale")):
        raise TypeError(
            f"elements[{name!r}]: expected SiteElements or a triple (perm, sign, scale), got {type(site).__name__}"
        )
    return site.perm, site.sign, site.scale


def _check_part(where: str, array: Array, dtype: str, shape: tuple[int, int]) -> Array:
    if array.shape != shape:
        raise ValueError(f"{where}: expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in ("f" if dtype.startswith("float") else "iu"):
        raise TypeError(f"{where}: expected dtype {dtype}, got {array.dtype}")
    if array.size:
        if dtype == "int32" and not (array.min() >= 0 and array.max() < shape[1]):
            raise ValueError(f"{where}: expected entries 0 .. {shape[1] - 1}, got {array.min()} .. {array.max()}")
        if dtype == "int8" and not (np.abs(array) == 1).all():
            raise ValueError(f"{where}: expected entries 1 and -1")
    with np.errstate(over="ignore", under="ignore"):
        array = np.require(array, dtype, ("C", "A", "W"))
    if dtype.startswith("float") and not ((array > 0) & np.isfinite(array)).all():
        raise ValueError(f"{where}: expected finite entries > 0 in {dtype}, the type of the arithmetic")
    return array
