# SPDX-License-Identifier: MIT
"""One element acting on single tensors in float64, with one stretch of an axis left alone: what a search needs.

The search looks at one site at a time: it moves a tensor by the elements of all other sites and asks what the element
of this one should be. :func:`moved` is that action; ``nnsym_fast.act`` is the definition it is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.gauge_fixing._match_dense import isometry
from nnsym_fast.gauge_fixing._sites import Array, Carrier
from nnsym_fast.gauge_fixing.balancing import matrix_group
from nnsym_fast.groups import Group
from nnsym_fast.symmetry import Axis, Leg, SymmetrySpec

__all__ = ["SiteElement", "as_elements", "identity", "moved", "random_element"]


@dataclass(frozen=True)
class SiteElement:
    """One element of a site's group, without the leading axis of ``SiteElements``, all float64 but ``perm``.

    ``perm``, ``sign``, ``scale``, ``shift`` ``(size,)``; ``matrix``, ``inverse`` ``(heads, m, m)``. A part that the
    group lacks is None, but for ``perm``, which is then the identity.
    """

    perm: Array
    sign: Array | None = None
    scale: Array | None = None
    matrix: Array | None = None
    inverse: Array | None = None
    shift: Array | None = None


def identity(group: Group) -> SiteElement:
    """The identity of a group."""
    size, m = group.size, group.head_size
    eye = np.broadcast_to(np.eye(m), (group.heads, m, m)) if group.dense else None
    return SiteElement(
        np.arange(size),
        np.ones(size) if group.signed else None,
        np.ones(size) if group.scaled else None,
        eye,
        eye,
        np.zeros(size) if group.shifted else None,
    )


def random_element(spec: SymmetrySpec, rng: np.random.Generator) -> dict[str, SiteElement]:
    """Random permutations, of tied heads together, random signs and isometries; scales are 1 and shifts 0."""
    result = {}
    ties: dict[str, Array] = {}
    for name, group in spec.sites.items():
        heads, m = group.heads, group.head_size
        pi = rng.permutation(heads) if group.permute_heads else np.arange(heads)
        pi = ties.setdefault(group.tie, pi) if group.tie else pi
        units = np.tile(np.arange(m), (heads, 1))
        units = rng.permuted(units, axis=1) if group.permute_units else units
        perm = (pi[:, None] * m + units).reshape(-1)
        element = replace(identity(group), perm=perm)
        if group.signed:
            element = replace(element, sign=rng.choice((-1.0, 1.0), size=group.size))
        if group.dense:
            # The nearest isometry to a Gaussian matrix is a Haar matrix of the compact part of the group.
            matrix, _ = isometry(matrix_group(group), rng.standard_normal((heads, m, m)))
            element = replace(element, matrix=matrix, inverse=np.swapaxes(matrix, -1, -2))
        result[name] = element
    return result


def as_elements(spec: SymmetrySpec, elements: Mapping[str, SiteElement]) -> Elements:
    """What the rest of the package takes: one element per site, with the leading axis 1."""
    sites = {}
    for name, group in spec.sites.items():
        element = elements[name]
        shape = (1, group.size, group.size) if group.unit_group is group else (1, group.heads, *[group.head_size] * 2)
        sites[name] = SiteElements(
            element.perm.astype(np.int32)[None] if group.permutes else None,
            None if element.sign is None else element.sign.astype(np.int8)[None],
            None if element.scale is None else element.scale[None].copy(),
            None if element.matrix is None else element.matrix.reshape(shape).copy(),
            None if element.inverse is None else element.inverse.reshape(shape).copy(),
            None if element.shift is None else element.shift[None].copy(),
        )
    return Elements(sites, 1)


def moved(
    spec: SymmetrySpec,
    elements: Mapping[str, SiteElement],
    name: str,
    value: Array,
    but: Carrier | None = None,
) -> Array:
    """A tensor moved by an element.

    Args:
        spec: the symmetry.
        elements: site -> element.
        name: name of the tensor.
        value: the tensor, float64.
        but: a carrier of this tensor that is left alone; the rest of its axis is left out.

    Returns:
        The moved tensor; with ``but`` only its stretch of that axis, moved along every other axis.
    """
    axes = spec.legs[name]
    if but is not None:
        value = np.moveaxis(np.moveaxis(value, but.axis, 0)[but.start : but.start + but.length], 0, but.axis)
    for number, axis in enumerate(axes):
        if axis is None or (but is not None and number == but.axis):
            continue
        if isinstance(axis, Leg) and axis.repeat == 1 and not spec.sites[axis.site].dense:
            # Along the axis where it is: moving it to the front makes gathering a transposition.
            value = np.take(value, elements[axis.site].perm, axis=number)
            _finish_units(axis, elements[axis.site], np.moveaxis(value, number, 0))
        else:
            value = np.moveaxis(_moved_axis(spec, elements, axis, np.moveaxis(value, number, 0)), 0, number)
    return value


def _moved_axis(spec: SymmetrySpec, elements: Mapping[str, SiteElement], axis: Axis, value: Array) -> Array:
    """The axis is the first."""
    if isinstance(axis, Leg):
        return _moved_leg(spec, elements, axis, value)
    pieces, start = [], 0
    for length, leg in axis or ():
        piece = value[start : start + length]
        pieces.append(piece if leg is None else _moved_leg(spec, elements, leg, piece))
        start += length
    return np.concatenate(pieces)


def _moved_leg(spec: SymmetrySpec, elements: Mapping[str, SiteElement], leg: Leg, value: Array) -> Array:
    group, element = spec.sites[leg.site], elements[leg.site]
    heads, m, shape = group.heads, group.head_size, value.shape
    if not group.dense:
        result = value.reshape(group.size, leg.repeat, -1)[element.perm]
        _finish_units(leg, element, result)
        return result.reshape(shape)
    blocks = value.reshape(heads * leg.copies, m, -1)
    blocks = blocks[blocks_from(leg, element, elements, heads, m)]
    assert element.matrix is not None
    assert element.inverse is not None
    matrix = np.swapaxes(element.inverse, -1, -2) if leg.dual else element.matrix
    split = blocks.reshape(heads, leg.copies, m, -1)
    # Many columns: the product as one matrix product per head. Repeats of a unit are columns too.
    result = matrix[:, None] @ split
    if leg.affine and element.shift is not None:
        result = result + element.shift.reshape(heads, 1, m, 1)
    return np.asarray(result).reshape(shape)


def _finish_units(leg: Leg, element: SiteElement, value: Array) -> None:
    """Signs, scales and shifts of permuted units, in place; the units are the first axis."""
    shape = (-1, *(1 for _ in value.shape[1:]))
    factor = factors(leg, element)
    if factor is not None:
        value *= factor.reshape(shape)
    if leg.affine and element.shift is not None:
        value += element.shift.reshape(shape)


def factors(leg: Leg, element: SiteElement) -> Array | None:
    """What a monomial element multiplies the units of an axis with, ``(size,)``; None for 1."""
    result: Array | None = None
    if element.sign is not None and leg.power % 2 == 1:
        result = element.sign
    if element.scale is not None and leg.power != 0:
        scale = element.scale ** (-leg.power if leg.dual else leg.power)
        result = scale if result is None else result * scale
    return result


def blocks_from(leg: Leg, element: SiteElement, elements: Mapping[str, SiteElement], heads: int, m: int) -> Array:
    """Where the blocks ``(head, copy)`` of an axis come from, ``(heads * copies,)``."""
    if leg.order:
        return elements[leg.order].perm
    pi = element.perm[::m] // m
    return np.asarray((pi[:, None] * leg.copies + np.arange(leg.copies)).reshape(-1))
