# SPDX-License-Identifier: MIT
"""Batches of group elements: arrays per site, drawn by the kernel, with the group laws of the reference."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from nnsym_fast import _arrays
from nnsym_fast._dense import draw_matrices, draw_shift, matrix_shape
from nnsym_fast._native import cpu
from nnsym_fast.groups import Group, head_sites
from nnsym_fast.reference import orbit as reference

if TYPE_CHECKING:
    from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Elements", "SiteElements", "complete", "compose", "identity", "inverse", "sample"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class SiteElements:
    """Elements of the group of one site: ``(g x)_i = sign_i scale_i x_{perm_i}``, or matrices head by head.

    ``perm`` int32, ``sign`` int8, ``scale``, ``shift`` float, each of shape ``(n, size)``; ``matrix``, ``inverse`` of
    shape ``(n, size, size)`` or, for a group with heads, ``(n, heads, m, m)``; None for a part that the group lacks. A
    dense element acts as ``(g x)_{a, i} = sum_j matrix_a[i, j] x_{perm(a, j)}``; ``shift`` is added where a leg is
    affine. The elements of an orbit whose network lies on a CUDA device are tensors there.
    """

    perm: Array | None = None
    sign: Array | None = None
    scale: Array | None = None
    matrix: Array | None = None
    inverse: Array | None = None
    shift: Array | None = None

    def __len__(self) -> int:
        return next((len(part) for part in self._parts() if part is not None), 0)

    def __getitem__(self, index: slice) -> SiteElements:
        if not isinstance(index, slice):
            raise TypeError(f"index: expected a slice of elements such as a[3:4], got {index!r}")
        return SiteElements(*(None if part is None else part[index] for part in self._parts()))

    def _parts(self) -> tuple[Array | None, ...]:
        return tuple(vars(self).values())

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


def _check_on_host(where: str, site: SiteElements) -> None:
    for name, part in vars(site).items():
        if getattr(part, "is_cuda", False):
            raise TypeError(
                f"{where}.{name}: expected a NumPy array, as the group laws are NumPy's, got a CUDA tensor; draw the "
                "elements with spec.sample, or move them with .cpu().numpy()"
            )


def _compose_site(where: str, a: SiteElements, b: SiteElements) -> SiteElements:
    _check_on_host(f"a{where}", a)
    _check_on_host(f"b{where}", b)
    for name, ours in vars(a).items():
        theirs = getattr(b, name)
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
        return _inverse_site("a", a)
    if not isinstance(a, Elements):
        raise TypeError(f"a: expected Elements, got {type(a).__name__}")
    return Elements({name: _inverse_site(f"a[{name!r}]", site) for name, site in a.items()}, a.count)


def _inverse_site(where: str, a: SiteElements) -> SiteElements:
    _check_on_host(where, a)
    return SiteElements(*reference.inverse_site(a))


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


class Site(NamedTuple):
    """A site of a spec, wherever it is needed without the others."""

    number: int
    """Philox site index: its position in the spec."""

    head_number: int
    """Philox site index of its permutation of heads."""

    group: Group


def numbered(groups: Iterable[Group]) -> tuple[Site, ...]:
    """All sites of a spec."""
    groups = tuple(groups)
    return tuple(Site(i, head, group) for i, (head, group) in enumerate(zip(head_sites(groups), groups, strict=True)))


def site_tuples(sites: Iterable[Site]) -> list[tuple[Any, ...]]:
    """The monomial part of sites as the compiled module takes them."""
    return [
        (i, head, g.heads, g.head_size, g.permute_heads, g.permute_units, g.signed, g.scaled, g.scale_std)
        for i, head, g in sites
    ]


@lru_cache(maxsize=64)
def _sampler(sites: tuple[Site, ...], dtype: str) -> Any:
    return cpu.OrbitPlan(dtype == "float64", site_tuples(sites), [], [])


def draw(sites: tuple[Site, ...], n: int, seed: int, start: int, step: int, dtype: str) -> list[SiteElements]:
    """Elements ``start, start + step, ...`` (n of them) of the random sequence of every site; arguments are checked."""
    result = []
    for index, _, group in sites:
        shape = (n, group.size)
        matrices = draw_matrices(group, index, n, seed, start, step, dtype) if group.dense else (None, None)
        result.append(
            SiteElements(
                _arrays.empty(shape, np.int32) if group.permutes else None,
                _arrays.empty(shape, np.int8) if group.signed else None,
                _arrays.empty(shape, dtype) if group.scaled else None,
                matrices[0],
                matrices[1],
                draw_shift(group, index, n, seed, start, step, dtype) if group.shifted else None,
            )
        )
    if n and any(group.permutes or group.signed or group.scaled for _, _, group in sites):
        outs = [(site.perm, site.sign, site.scale) for site in result]
        _sampler(sites, dtype).elements(seed, start, step, n, outs)
    return result


def sample_site(group: Group, n: int, seed: int, start: int, dtype: npt.DTypeLike) -> SiteElements:
    """See ``Group.sample``."""
    count = check_count(n, "n")
    return draw(numbered([group]), count, check_seed(seed), check_start(start, count), 1, check_dtype(dtype))[0]


def sample(spec: SymmetrySpec, n: int, seed: int, start: int, dtype: npt.DTypeLike) -> Elements:
    """See ``SymmetrySpec.sample``."""
    count = check_count(n, "n")
    sites = draw(
        numbered(spec.sites.values()), count, check_seed(seed), check_start(start, count), 1, check_dtype(dtype)
    )
    return Elements(dict(zip(spec.sites, sites, strict=True)), count)


def identity_site(group: Group, n: int, dtype: npt.DTypeLike) -> SiteElements:
    """See ``Group.identity``."""
    return SiteElements(*reference.identity_site(group, check_count(n, "n"), check_dtype(dtype)))


def identity(spec: SymmetrySpec, n: int, dtype: npt.DTypeLike) -> Elements:
    """See ``SymmetrySpec.identity``."""
    return Elements({name: identity_site(group, n, dtype) for name, group in spec.sites.items()}, check_count(n, "n"))


def complete(
    sites: Mapping[str, Group], elements: Mapping[str, Any], dtype: str, fallback: int = 1
) -> tuple[list[SiteElements], int]:
    """Elements that a caller brings, checked, completed with the identity's parts and converted for the kernel.

    Args:
        sites: site name -> group.
        elements: site name -> tuple of the parts, or of the first three, or an object with these attributes.
        dtype: dtype of the scales, matrices and shifts that the kernel takes.
        fallback: count where no part says it.

    Returns:
        one entry per site, its arrays writeable and contiguous, and the count of elements.

    Raises:
        TypeError: not a mapping, or an entry is no element; a part of another kind of dtype.
        ValueError: a site is missing; a part has another shape, or entries that no element has.
    """
    if not isinstance(elements, Mapping):
        raise TypeError(f"elements: expected Elements, one entry per site, got {type(elements).__name__}")
    missing = [name for name in sites if name not in elements]
    if missing:
        raise ValueError(f"elements: expected one entry per site of the spec, missing {missing}")
    given = {name: _as_site(name, elements[name]) for name in sites}
    counts = (len(part) for site in given.values() for part in vars(site).values() if part is not None)
    count = elements.count if isinstance(elements, Elements) else next(counts, fallback)
    result = {}
    for name, group in sites.items():
        square = matrix_shape(group, count)
        flat = (count, group.size)
        held = (
            (group.permutes, "int32", flat), (group.signed, "int8", flat), (group.scaled, dtype, flat),
            (group.dense, dtype, square), (group.dense, dtype, square), (group.shifted, dtype, flat),
        )  # fmt: skip
        parts: list[Any] = []
        for (part, value), (present, kind, shape) in zip(vars(given[name]).items(), held, strict=True):
            where = f"elements[{name!r}].{part}"
            if not present and value is not None:
                raise ValueError(f"{where}: expected None, as {group} has no such part")
            if present and value is None:
                other = {"matrix": given[name].inverse, "inverse": given[name].matrix}.get(part)
                if other is not None:
                    what = "inverses of the matrices" if part == "inverse" else "matrices, whose inverses are given"
                    raise ValueError(f"{where}: expected the {what}, shape {shape}, got None")
                value = getattr(identity_site(group, count, dtype), part)
            if getattr(value, "is_cuda", False):
                raise ValueError(
                    f"{where}: expected an array on the CPU, where the network is, got a tensor on "
                    f"{value.device}; move it with .cpu()"
                )
            parts.append(_check_part(where, part, np.asarray(value), kind, shape) if present else None)
        result[name] = SiteElements(*parts)
        if (group.dense or group.shifted) and group.permutes:
            _check_heads(name, group, result[name])
    _check_ties(sites, result)
    return list(result.values()), count


def _as_site(name: str, site: Any) -> SiteElements:
    fields = SiteElements.__dataclass_fields__
    if isinstance(site, tuple) and len(site) in (3, len(fields)):
        return SiteElements(*site)
    if not all(hasattr(site, part) for part in fields):
        raise TypeError(
            f"elements[{name!r}]: expected SiteElements or a tuple ({', '.join(fields)}), got {type(site).__name__}"
        )
    return SiteElements(*(getattr(site, part) for part in fields))


def _check_heads(name: str, group: Group, site: SiteElements) -> None:
    """ValueError unless permutations move whole heads: matrices act inside them."""
    assert site.perm is not None
    m = group.head_size
    heads = site.perm[:, ::m] // m
    whole = (heads[:, :, None] * m + np.arange(m)).reshape(site.perm.shape)
    permuted = np.sort(heads, axis=1)
    if not ((whole == site.perm).all() and (permuted == np.arange(group.heads)).all()):
        raise ValueError(f"elements[{name!r}].perm: expected permutations of whole heads of {m} units")


def _check_ties(sites: Mapping[str, Group], result: Mapping[str, SiteElements]) -> None:
    """ValueError unless sites of one tie permute their heads in the same way."""
    first: dict[str, str] = {}
    for name, group in sites.items():
        if not group.tie:
            continue
        other = first.setdefault(group.tie, name)
        if other != name and (_heads(sites[other], result[other]) != _heads(group, result[name])).any():
            raise ValueError(
                f"elements[{name!r}].perm: expected the permutation of heads of elements[{other!r}], to which the "
                f"site is tied ({group.tie!r})"
            )


def _heads(group: Group, site: SiteElements) -> Array:
    """Where every head comes from; tied sites have permutations of heads."""
    assert site.perm is not None
    heads: Array = site.perm[:, :: group.head_size] // group.head_size
    return heads


def _check_part(where: str, part: str, array: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise ValueError(f"{where}: expected shape {shape}, got {array.shape}")
    if array.dtype.kind not in ("f" if dtype.startswith("float") else "iu"):
        raise TypeError(f"{where}: expected dtype {dtype}, got {array.dtype}")
    if array.size:
        if part == "perm" and not (array.min() >= 0 and array.max() < shape[1]):
            raise ValueError(f"{where}: expected entries 0 .. {shape[1] - 1}, got {array.min()} .. {array.max()}")
        if part == "sign" and not (np.abs(array) == 1).all():
            raise ValueError(f"{where}: expected entries 1 and -1")
    with np.errstate(over="ignore", under="ignore"):
        array = np.require(array, dtype, ("C", "A", "W"))
    if not dtype.startswith("float"):
        return array
    if not np.isfinite(array).all() or (part == "scale" and not (array > 0).all()):
        wanted = "finite entries > 0" if part == "scale" else "finite entries"
        raise ValueError(f"{where}: expected {wanted} in {dtype}, the type of the arithmetic")
    return array
