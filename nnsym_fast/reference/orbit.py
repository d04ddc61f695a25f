# SPDX-License-Identifier: MIT
"""The group laws and the action on a network's parameters: the readable definition that kernels are tested against.

The elements of one site are a :class:`SiteArrays` tuple ``(perm, sign, scale, matrix, inverse, shift)``, None for the
parts that the group lacks: arrays of shape ``(n, size)``, ``matrix`` and ``inverse`` of shape ``(n, size, size)`` or,
for a group with heads, ``(n, heads, m, m)``. They act as ``(g x)_i = sign_i scale_i x_{perm_i}``, dense ones head by
head as ``(g x)_{a, i} = sum_j matrix_a[i, j] x_{perm(a, j)}``, plus ``shift`` where a leg is affine. The elements of a
network are a dict of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.groups import Group
from nnsym_fast.reference.dense import sample_matrices, sample_shift
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

    perm: Array | None = None
    sign: Array | None = None
    scale: Array | None = None
    matrix: Array | None = None
    inverse: Array | None = None
    shift: Array | None = None


SiteLike: TypeAlias = Any
"""A tuple of these parts, or of the first three; or an object with these attributes."""


def _as_site(element: SiteLike) -> SiteArrays:
    if isinstance(element, tuple):
        return SiteArrays(*element)
    return SiteArrays(*(getattr(element, name) for name in SiteArrays._fields))


def identity_site(group: Group, n: int, dtype: npt.DTypeLike = "float64") -> SiteArrays:
    """``n`` copies of the identity of a group, arrays of shape ``(n, size)``."""
    shape = (n, group.size)
    eye = np.broadcast_to(np.eye(group.head_size, dtype=dtype), matrix_shape(group, n)) if group.dense else None
    return SiteArrays(
        np.broadcast_to(np.arange(group.size, dtype=np.int32), shape).copy() if group.permutes else None,
        np.ones(shape, dtype=np.int8) if group.signed else None,
        np.ones(shape, dtype=dtype) if group.scaled else None,
        None if eye is None else eye.copy(),
        None if eye is None else eye.copy(),
        np.zeros(shape, dtype=dtype) if group.shifted else None,
    )


def matrix_shape(group: Group, n: int) -> tuple[int, ...]:
    """Shape of the matrices of ``n`` elements of a dense group: ``(n, size, size)``, or ``(n, heads, m, m)``."""
    m = group.head_size
    return (n, m, m) if group.unit_group is group else (n, group.heads, m, m)


def sample_site(
    group: Group,
    n: int,
    seed: int,
    start: int = 0,
    site: int = 0,
    dtype: npt.DTypeLike = "float64",
    head_site: int | None = None,
) -> SiteArrays:
    """Elements ``start .. start + n - 1`` of the random sequence of a site.

    Args:
        group: the group.
        n: number of elements.
        seed: 64-bit seed.
        start: index of the first element.
        site: Philox site index: the position of the site in the spec.
        dtype: dtype of the scales, matrices and shifts; the arithmetic is float64 in any case.
        head_site: Philox site index of the permutation of heads (``SymmetrySpec.head_sites``), by default ``site``.

    Returns:
        perm int32, sign int8, scale ``dtype``, each of shape ``(n, size)`` or None; matrix, inverse and shift.
    """
    samples = sample_indices(n, start)
    perm = sign = scale = matrix = inverse = shift = None
    if group.permutes:
        perm = _sample_permutation(group, seed, samples, site, site if head_site is None else head_site)
    if group.signed:
        units = np.arange(group.size)
        draws = words(seed, samples, site, "sign", -(-group.size // 32))
        bit = (draws[:, units // 32] >> (units % 32).astype(np.uint32)) & np.uint32(1)
        sign = (1 - 2 * bit.astype(np.int8)).astype(np.int8)
    if group.scaled:
        # Whole blocks: four words make the normals of four units.
        draws = words(seed, samples, site, "scale", 4 * -(-group.size // 4))
        scale = np.exp(group.scale_std * normals(draws)[:, : group.size]).astype(dtype)
    if group.dense:
        matrix, inverse = (array.astype(dtype) for array in sample_matrices(group, seed, samples, site))
    if group.shifted:
        shift = sample_shift(group, seed, samples, site).astype(dtype)
    return SiteArrays(perm, sign, scale, matrix, inverse, shift)


def _sample_permutation(group: Group, seed: int, samples: npt.NDArray[np.uint64], site: int, head_site: int) -> Array:
    """``perm[h * m + k] = pi[h] * m + sigma_h[k]``, with pi and every sigma_h the stable argsort of 32-bit keys."""
    n, heads, m = len(samples), group.heads, group.head_size
    if group.permute_units:
        keys = words(seed, samples, site, "permutation", group.size).reshape(n, heads, m)
        sigma = np.argsort(keys, axis=-1, kind="stable")
    else:
        sigma = np.broadcast_to(np.arange(m), (n, heads, m))
    if group.permute_heads:
        pi = np.argsort(words(seed, samples, head_site, "heads", heads), axis=-1, kind="stable")
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


def _blocks(matrix: Array, size: int) -> Array:
    """Matrices ``(n, heads, m, m)``, one head for a group without."""
    return matrix.reshape(len(matrix), size // matrix.shape[-1], *matrix.shape[-2:])


def _heads_of(perm: Array | None, blocks: Array) -> Array:
    """Where every head comes from, ``(n, heads)``."""
    n, heads, m, _ = blocks.shape
    if perm is None:
        return np.broadcast_to(np.arange(heads), (n, heads))
    return np.asarray(perm[:, ::m].astype(np.intp) // m)


def _gather_blocks(matrix: Array, perm: Array | None, size: int) -> Array:
    """The matrix of head ``perm(a)`` in the place of head a."""
    blocks = _blocks(matrix, size)
    return np.asarray(np.take_along_axis(blocks, _heads_of(perm, blocks)[:, :, None, None], axis=1))


def _apply_blocks(blocks: Array, vectors: Array) -> Array:
    """``blocks`` (n, heads, m, m) times ``vectors`` (n, heads * m)."""
    n, heads, m, _ = blocks.shape
    return np.asarray((blocks @ vectors.reshape(n, heads, m, 1)).reshape(n, heads * m))


def _matrix_product(left: Array, right: Array, shape: tuple[int, ...]) -> Array:
    product: Array = (left @ right).reshape(shape)
    return product


def compose_site(a: SiteLike, b: SiteLike) -> SiteArrays:
    """``a`` after ``b``: ``(a b x)_i = s^a_i s^b_{p^a_i} x_{p^b_{p^a_i}}``; dense: matrices of head a and p^a(a)."""
    a, b = _as_site(a), _as_site(b)
    perm = a.perm if b.perm is None else _gather(b.perm, a.perm)
    matrix = inverse = None
    shift = _gather(b.shift, a.perm)
    if a.matrix is not None:
        size = a.matrix.shape[-1] if a.matrix.ndim == 3 else a.matrix.shape[1] * a.matrix.shape[-1]
        shape = a.matrix.shape
        matrix = _matrix_product(_blocks(a.matrix, size), _gather_blocks(b.matrix, a.perm, size), shape)
        inverse = _matrix_product(_gather_blocks(b.inverse, a.perm, size), _blocks(a.inverse, size), shape)
        shift = None if shift is None else _apply_blocks(_blocks(a.matrix, size), shift)
    return SiteArrays(
        perm,
        _product(a.sign, _gather(b.sign, a.perm)),
        _product(a.scale, _gather(b.scale, a.perm)),
        matrix,
        inverse,
        None if shift is None else shift + a.shift,
    )


def inverse_site(a: SiteLike) -> SiteArrays:
    """The inverse: ``(g^-1 y)_j = y_i / s_i`` with ``p_i = j``; the matrices of a dense element change places."""
    a = _as_site(a)
    perm = None if a.perm is None else np.argsort(a.perm, axis=1).astype(np.int32)
    scale = _gather(a.scale, perm)
    matrix = inverse = None
    shift = a.shift
    if a.matrix is not None:
        size = a.matrix.shape[-1] if a.matrix.ndim == 3 else a.matrix.shape[1] * a.matrix.shape[-1]
        matrix = _gather_blocks(a.inverse, perm, size).reshape(a.matrix.shape)
        inverse = _gather_blocks(a.matrix, perm, size).reshape(a.matrix.shape)
        shift = None if shift is None else _apply_blocks(_blocks(a.inverse, size), shift)
    return SiteArrays(
        perm,
        _gather(a.sign, perm),
        None if scale is None else np.reciprocal(scale),
        matrix,
        inverse,
        None if shift is None else -np.asarray(_gather(shift, perm)),
    )


def identity(spec: SymmetrySpec, n: int, dtype: npt.DTypeLike = "float64") -> dict[str, SiteArrays]:
    """``n`` copies of the identity of every site."""
    return {name: identity_site(group, n, dtype) for name, group in spec.sites.items()}


def sample(
    spec: SymmetrySpec, n: int, seed: int = 0, start: int = 0, dtype: npt.DTypeLike = "float64"
) -> dict[str, SiteArrays]:
    """Elements ``start .. start + n - 1`` of the random sequence of a spec, per site."""
    return {
        name: sample_site(group, n, seed, start, site, dtype, spec.head_sites[site])
        for site, (name, group) in enumerate(spec.sites.items())
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


def _leg_action(spec: SymmetrySpec, leg: Leg, elements: Mapping[str, SiteLike], n: int) -> tuple[Array, Array]:
    """What an axis does before matrices: ``out[k, i] = factor[k, i] * in[k, index[k, i]]``, both ``(n, length)``."""
    group = spec.sites[leg.site]
    perm, sign, scale, *_ = _as_site(elements[leg.site])
    index = np.broadcast_to(np.arange(group.size), (n, group.size)) if perm is None else perm.astype(np.intp)
    if leg.copies > 1 or leg.order:
        blocks = _copies(spec, leg, elements, index[:, :: group.head_size] // group.head_size)
        index = _entries(blocks, group.head_size)
    factor = np.ones(index.shape)
    if sign is not None:
        factor = factor * sign.astype(np.float64) ** leg.power
    if scale is not None:
        factor = factor * scale.astype(np.float64) ** (-leg.power if leg.dual else leg.power)
    return _entries(index, leg.repeat), np.repeat(factor, leg.repeat, axis=1)


def _entries(blocks: Array, size: int) -> Array:
    """Positions of all entries of blocks of a size, ``(n, blocks)`` to ``(n, blocks * size)``."""
    n, count = blocks.shape
    return (blocks[:, :, None] * size + np.arange(size)).reshape(n, count * size)


def _copies(spec: SymmetrySpec, leg: Leg, elements: Mapping[str, SiteLike], heads: Array) -> Array:
    """Where the blocks ``(head, copy)`` of an axis come from, ``(n, heads * copies)``."""
    if not leg.order:
        return _entries(heads, leg.copies)
    order = _as_site(elements[leg.order]).perm
    blocks = spec.sites[leg.site].heads * leg.copies
    return np.broadcast_to(np.arange(blocks), (len(heads), blocks)) if order is None else order.astype(np.intp)


def _parts(spec: SymmetrySpec, axis: Leg | Segments) -> list[tuple[int, int, Leg | None]]:
    """The segments of an axis: first position, length, leg."""
    if isinstance(axis, Leg):
        return [(0, spec.axis_length(axis) or 0, axis)]
    result, first = [], 0
    for length, leg in axis:
        result.append((first, length, leg))
        first += length
    return result


def _act_on_axis(spec: SymmetrySpec, axis: Leg | Segments, elements: Mapping[str, SiteLike], work: Array) -> Array:
    """``work`` (n, length, ...): the axis is the first after n."""
    n = len(work)
    pieces = []
    for first, length, leg in _parts(spec, axis):
        piece = work[:, first : first + length]
        if leg is not None:
            index, factor = _leg_action(spec, leg, elements, n)
            shape = (n, length, *(1 for _ in work.shape[2:]))
            piece = np.take_along_axis(piece, index.reshape(shape), axis=1) * factor.astype(work.dtype).reshape(shape)
            piece = _mix(spec.sites[leg.site], leg, _as_site(elements[leg.site]), piece)
        pieces.append(piece)
    return np.concatenate(pieces, axis=1)


def _mix(group: Group, leg: Leg, element: SiteArrays, piece: Array) -> Array:
    """Matrices of a dense site on axis 1, and the shift of an affine leg."""
    if element.matrix is not None and element.inverse is not None:
        blocks = _blocks(element.inverse if leg.dual else element.matrix, group.size).astype(piece.dtype)
        shape = piece.shape
        rest = int(np.prod(shape[1:], dtype=np.int64)) // (group.size * leg.copies)
        split = piece.reshape(len(piece), group.heads, leg.copies, group.head_size, rest)
        mixed = np.einsum("naji,nacjx->nacix" if leg.dual else "naij,nacjx->nacix", blocks, split)
        piece = mixed.reshape(shape)
    if leg.affine and element.shift is not None:
        piece = piece + element.shift.astype(piece.dtype)
    return piece


def _act_on_tensor(
    spec: SymmetrySpec, axes: tuple[Axis, ...], elements: Mapping[str, SiteLike], n: int, stacked: Array
) -> Array:
    """``stacked`` has the leading axis n, or 1 when all elements act on one tensor."""
    work = stacked.astype(np.float64 if stacked.dtype == np.float64 else np.float32)
    work = np.broadcast_to(work, (n, *work.shape[1:]))
    for number, axis in enumerate(axes, start=1):
        if axis is not None:
            work = np.moveaxis(_act_on_axis(spec, axis, elements, np.moveaxis(work, number, 1)), 1, number)
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
