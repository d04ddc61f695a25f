# SPDX-License-Identifier: MIT
"""The group laws and the action on a network's parameters: the readable definition that kernels are tested against.

The elements of one site are a :class:`SiteArrays` triple ``(perm, sign, scale)`` of arrays of shape ``(n, size)``, None
for the parts that the group lacks, with ``(g x)_i = sign_i scale_i x_{perm_i}``. The elements of a network are a dict
of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.groups import Group
from nnsym_fast.reference.philox import normals, sample_indices, words
from nnsym_fast.symmetry import Axis, Leg, Segments, SymmetrySpec

__all__ = [
    "Array",
    "SiteArrays",
    "act",
    "augment",
    "compose",
    "compose_site",
    "identity",
    "identity_site",
    "inverse",
    "inverse_site",
    "orbit_points",
    "sample",
    "sample_site",
]

Array: TypeAlias = npt.NDArray[Any]


class SiteArrays(NamedTuple):
    """The elements of one site; see the module's docstring."""

    perm: Array | None
    sign: Array | None
    scale: Array | None


SiteLike: TypeAlias = Any
"""A triple ``(perm, sign, scale)`` or an object with these attributes."""


def _as_site(element: SiteLike) -> SiteArrays:
    if isinstance(element, tuple):
        return SiteArrays(*element)
    return SiteArrays(element.perm, element.sign, element.scale)


def identity_site(group: Group, n: int, dtype: npt.DTypeLike = "float64") -> SiteArrays:
    """``n`` copies of the identity of a group, arrays of shape ``(n, size)``."""
    shape = (n, group.size)
    return SiteArrays(
        np.broadcast_to(np.arange(group.size, dtype=np.int32), shape).copy() if group.permutes else None,
        np.ones(shape, dtype=np.int8) if group.signed else None,
        np.ones(shape, dtype=dtype) if group.scaled else None,
    )


def sample_site(
    group: Group, n: int, seed: int, start: int = 0, site: int = 0, dtype: npt.DTypeLike = "float64"
) -> SiteArrays:
    """Elements ``start .. start + n - 1`` of the random sequence of a site.

    Args:
        group: the group.
        n: number of elements.
        seed: 64-bit seed.
        start: index of the first element.
        site: Philox site index: the position of the site in the spec.
        dtype: dtype of the scales; the arithmetic is float64 in any case.

    Returns:
        perm int32, sign int8, scale ``dtype``, each of shape ``(n, size)`` or None.
    """
    samples = sample_indices(n, start)
    perm = sign = scale = None
    if group.permutes:
        perm = _sample_permutation(group, seed, samples, site)
    if group.signed:
        units = np.arange(group.size)
        draws = words(seed, samples, site, "sign", -(-group.size // 32))
        bit = (draws[:, units // 32] >> (units % 32).astype(np.uint32)) & np.uint32(1)
        sign = (1 - 2 * bit.astype(np.int8)).astype(np.int8)
    if group.scaled:
        # Whole blocks: four words make the normals of four units.
        draws = words(seed, samples, site, "scale", 4 * -(-group.size // 4))
        scale = np.exp(group.scale_std * normals(draws)[:, : group.size]).astype(dtype)
    return SiteArrays(perm, sign, scale)


def _sample_permutation(group: Group, seed: int, samples: npt.NDArray[np.uint64], site: int) -> Array:
    """``perm[h * m + k] = pi[h] * m + sigma_h[k]``, with pi and every sigma_h the stable argsort of 32-bit keys."""
    n, heads, m = len(samples), group.heads, group.head_size
    if group.permute_units:
        keys = words(seed, samples, site, "permutation", group.size).reshape(n, heads, m)
        sigma = np.argsort(keys, axis=-1, kind="stable")
    else:
        sigma = np.broadcast_to(np.arange(m), (n, heads, m))
    if group.permute_heads:
        pi = np.argsort(words(seed, samples, site, "heads", heads), axis=-1, kind="stable")
    else:
        pi = np.broadcast_to(np.arange(heads), (n, heads))
    return (pi[:, :, None] * m + sigma).reshape(n, group.size).astype(np.int32)


def _gather(values: Array | None, perm: Array | None) -> Array | None:
    if values is None or perm is None:
        return values
    return np.take_along_axis(values, perm.astype(np.intp), axis=1)


def _product(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return a if b is None else b
    return np.multiply(a, b, dtype=np.result_type(a, b))


def compose_site(a: SiteLike, b: SiteLike) -> SiteArrays:
    """``a`` after ``b``: ``(a b x)_i = s^a_i s^b_{p^a_i} x_{p^b_{p^a_i}}``."""
    a, b = _as_site(a), _as_site(b)
    perm = a.perm if b.perm is None else _gather(b.perm, a.perm)
    return SiteArrays(perm, _product(a.sign, _gather(b.sign, a.perm)), _product(a.scale, _gather(b.scale, a.perm)))


def inverse_site(a: SiteLike) -> SiteArrays:
    """The inverse: ``(g^-1 y)_j = y_i / s_i`` with ``p_i = j``."""
    a = _as_site(a)
    perm = None if a.perm is None else np.argsort(a.perm, axis=1).astype(np.int32)
    scale = _gather(a.scale, perm)
    return SiteArrays(perm, _gather(a.sign, perm), None if scale is None else np.reciprocal(scale))


def identity(spec: SymmetrySpec, n: int, dtype: npt.DTypeLike = "float64") -> dict[str, SiteArrays]:
    """``n`` copies of the identity of every site."""
    return {name: identity_site(group, n, dtype) for name, group in spec.sites.items()}


def sample(
    spec: SymmetrySpec, n: int, seed: int = 0, start: int = 0, dtype: npt.DTypeLike = "float64"
) -> dict[str, SiteArrays]:
    """Elements ``start .. start + n - 1`` of the random sequence of a spec, per site."""
    return {
        name: sample_site(group, n, seed, start, site, dtype) for site, (name, group) in enumerate(spec.sites.items())
    }


def compose(a: Mapping[str, SiteLike], b: Mapping[str, SiteLike]) -> dict[str, SiteArrays]:
    """``a`` after ``b``, per site.

    Raises:
        ValueError: the sites of ``a`` and ``b`` differ.
    """
    if set(a) != set(b):
        raise ValueError(f"b: expected the sites of a, {sorted(a)}, got {sorted(b)}")
    return {name: compose_site(a[name], b[name]) for name in a}


def inverse(a: Mapping[str, SiteLike]) -> dict[str, SiteArrays]:
    """The inverse, per site."""
    return {name: inverse_site(element) for name, element in a.items()}


def _leg_action(leg: Leg, element: SiteLike, n: int, size: int) -> tuple[Array, Array]:
    perm, sign, scale = _as_site(element)
    index = np.broadcast_to(np.arange(size), (n, size)) if perm is None else perm.astype(np.intp)
    factor = np.ones((n, size))
    if sign is not None:
        factor = factor * sign.astype(np.float64) ** leg.power
    if scale is not None:
        factor = factor * scale.astype(np.float64) ** (-leg.power if leg.dual else leg.power)
    positions = index[:, :, None] * leg.repeat + np.arange(leg.repeat)
    return positions.reshape(n, size * leg.repeat), np.repeat(factor, leg.repeat, axis=1)


def _axis_action(
    spec: SymmetrySpec, axis: Leg | Segments, elements: Mapping[str, SiteLike], n: int
) -> tuple[Array, Array]:
    """What an axis does: ``out[k, i] = factor[k, i] * in[k, index[k, i]]``, both of shape ``(n, length)``."""
    if isinstance(axis, Leg):
        return _leg_action(axis, elements[axis.site], n, spec.sites[axis.site].size)
    indices, factors, first = [], [], 0
    for length, leg in axis:
        if leg is None:
            index, factor = np.broadcast_to(np.arange(length), (n, length)), np.ones((n, length))
        else:
            index, factor = _leg_action(leg, elements[leg.site], n, spec.sites[leg.site].size)
        indices.append(index + first)
        factors.append(factor)
        first += length
    return np.concatenate(indices, axis=1), np.concatenate(factors, axis=1)


def _act_on_tensor(
    spec: SymmetrySpec, axes: tuple[Axis, ...], elements: Mapping[str, SiteLike], n: int, stacked: Array
) -> Array:
    """``stacked`` has the leading axis n, or 1 when all elements act on one tensor."""
    work = stacked.astype(np.float64 if stacked.dtype == np.float64 else np.float32)
    for number, axis in enumerate(axes, start=1):
        if axis is not None:
            index, factor = _axis_action(spec, axis, elements, n)
            shape = (n, *(index.shape[1] if k == number else 1 for k in range(1, work.ndim)))
            work = np.take_along_axis(work, index.reshape(shape), axis=number)
            work = work * factor.astype(work.dtype).reshape(shape)
    return work.astype(stacked.dtype)


def act(
    spec: SymmetrySpec, elements: Mapping[str, SiteLike], params: Mapping[str, Any], stacked: bool = False
) -> dict[str, Array]:
    """Apply ``n`` group elements to the parameters of a network.

    Every leg of a tensor gathers along its axis and multiplies: for a weight with the legs ``("a", "b*")``
    ``out[k, i, j] = s^a[k, i] W[p^a[k, i], p^b[k, j]] / s^b[k, j]``.

    Args:
        spec: the symmetry.
        elements: site name -> triple ``(perm, sign, scale)`` or an object with these attributes, leading axis ``n``.
        params: tensor name -> array, one network; with ``stacked``, ``n`` networks along the leading axis.
        stacked: whether element ``k`` acts on network ``k``.

    Returns:
        tensor name -> array with the leading axis ``n``, in the dtype that it came in. The arithmetic is float64 for
        float64 tensors and float32 for all others.

    Raises:
        ValueError: see ``SymmetrySpec.validate``; or the leading axes differ.
        TypeError: a tensor that a site touches is not a real floating-point array.
    """
    arrays = {name: np.asarray(value) for name, value in params.items()}
    return _act(spec, elements, arrays, stacked, _element_count(spec, elements, arrays, stacked))


def _act(
    spec: SymmetrySpec, elements: Mapping[str, SiteLike], arrays: Mapping[str, Array], stacked: bool, n: int
) -> dict[str, Array]:
    if stacked:
        for name, array in arrays.items():
            if array.ndim < 1 or array.shape[0] != n:
                raise ValueError(
                    f"tensor {name!r}: expected the leading axis {n}, one network per element, got shape {array.shape}"
                )
    spec.validate({name: array.shape[stacked:] for name, array in arrays.items()})
    result = {}
    for name, array in arrays.items():
        base = array if stacked else array[None]
        if spec.touched(name):
            if base.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
                raise TypeError(f"tensor {name!r}: expected a floating-point array where a site acts, got {base.dtype}")
            result[name] = _act_on_tensor(spec, spec.legs[name], elements, n, base)
        else:
            result[name] = np.broadcast_to(base, (n, *base.shape[1:])).copy()
    return result


def _element_count(
    spec: SymmetrySpec, elements: Mapping[str, SiteLike], arrays: Mapping[str, Array], stacked: bool
) -> int:
    missing = [name for name in spec.sites if name not in elements]
    if missing:
        raise ValueError(f"elements: expected one entry per site of the spec, missing {missing}")
    counts = {len(part) for name in spec.sites for part in _as_site(elements[name]) if part is not None}
    if len(counts) > 1:
        raise ValueError(f"elements: expected one leading axis for all sites, got {sorted(counts)}")
    if counts:
        return counts.pop()
    # A spec without sites: only the stacked networks say how many there are.
    return len(next(iter(arrays.values()))) if stacked and arrays else 1


def augment(params: Mapping[str, Any], spec: SymmetrySpec, *, seed: int, start: int = 0) -> dict[str, Array]:
    """Move each of ``n`` stacked networks to a random point of its orbit: network ``k`` by element ``start + k``."""
    arrays = {name: np.asarray(value) for name, value in params.items()}
    if not arrays:
        raise ValueError("params: expected at least one stacked tensor, got none")
    name, first = next(iter(arrays.items()))
    if first.ndim < 1:
        raise ValueError(f"tensor {name!r}: expected a leading axis of networks, got a scalar; use act for one network")
    return act(spec, sample(spec, first.shape[0], seed, start), arrays, stacked=True)


def orbit_points(params: Mapping[str, Any], spec: SymmetrySpec, seed: int, start: int, stop: int) -> dict[str, Array]:
    """Points ``start .. stop - 1`` of the orbit of a network: ``act`` of the sampled elements, stacked."""
    n = stop - start
    return _act(spec, sample(spec, n, seed, start), {k: np.asarray(v) for k, v in params.items()}, False, n)
