# SPDX-License-Identifier: MIT
"""What carries a site: for every site the stretches of tensors that its group acts on, as matrices "unit x rest".

A :class:`Carrier` is one stretch of one axis of one tensor. Tensors are NumPy arrays, usually those of
:func:`to_float64`, and the spec fits them.

>>> import numpy as np
>>> from nnsym_fast import specs
>>> spec = specs.mlp([2, 3, 1])
>>> [(c.tensor, c.axis, c.leg.dual) for c in carriers(spec)["h0"]]
[('0.weight', 0, False), ('0.bias', 0, False), ('2.weight', 1, True)]
>>> rows(spec, carriers(spec)["h0"][2], np.zeros((1, 3))).shape
(3, 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast._arrays import framework_of, is_torch
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["Array", "Carrier", "carriers", "head_matrices", "restore", "rows", "to_float64", "view"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Carrier:
    """Positions ``start .. start + length - 1`` of one axis of a tensor, which carry a leg.

    Args:
        tensor: name of the tensor.
        axis: number of the axis.
        start: first position (not 0 only for segments).
        length: number of positions.
        leg: the leg, with its dual flag, power, repeat and copies.
        order: whether the carrier is that of the site ``leg.order``, whose units are the copies, not of ``leg.site``.
    """

    tensor: str
    axis: int
    start: int
    length: int
    leg: Leg
    order: bool = False

    @property
    def site(self) -> str:
        """Name of the site whose units the carrier has."""
        return self.leg.order if self.order else self.leg.site


@lru_cache(maxsize=64)
def carriers(spec: SymmetrySpec) -> Mapping[str, tuple[Carrier, ...]]:
    """Site name -> its carriers, in the order of the tensors of the spec; every site has an entry."""
    found: dict[str, list[Carrier]] = {site: [] for site in spec.sites}
    for name, axes in spec.legs.items():
        for number, axis in enumerate(axes):
            stretches: Iterable[tuple[int, Leg | None]]
            if isinstance(axis, Leg):
                stretches = ((spec.axis_length(axis) or 0, axis),)
            else:
                stretches = () if axis is None else axis
            start = 0
            for length, leg in stretches:
                if leg is not None:
                    found[leg.site].append(Carrier(name, number, start, length, leg))
                    if leg.order:
                        found[leg.order].append(Carrier(name, number, start, length, leg, order=True))
                start += length
    return {site: tuple(entries) for site, entries in found.items()}


def view(spec: SymmetrySpec, carrier: Carrier, value: Array) -> Array:
    """The stretch of a tensor as a view, so that it can be changed in place.

    Returns:
        ``(heads, copies, head_size, repeat, *the other axes)``; for the carrier of an order site, whose units are the
        copies of heads, ``(heads, 1, copies, head_size * repeat, *the other axes)``.
    """
    group, leg = spec.sites[carrier.leg.site], carrier.leg
    stretch = np.moveaxis(value, carrier.axis, 0)[carrier.start : carrier.start + carrier.length]
    if carrier.order:
        shape = (group.heads, 1, leg.copies, group.head_size * leg.repeat)
    else:
        shape = (group.heads, leg.copies, group.head_size, leg.repeat)
    return stretch.reshape(*shape, *stretch.shape[1:])


def rows(spec: SymmetrySpec, carrier: Carrier, value: Array) -> Array:
    """The stretch as a matrix "unit x rest", ``(size, rest)``: copies, repeats and the other axes make the rest."""
    split = np.moveaxis(view(spec, carrier, value), 1, 2)
    return split.reshape(split.shape[0] * split.shape[1], -1)


def head_matrices(spec: SymmetrySpec, site: str, values: Mapping[str, Array]) -> tuple[Array, Array]:
    """Everything that carries the leg of a site, and everything that carries its dual, side by side.

    Powers of legs play no part: a dense site has none but 1. Tensors that ``values`` lacks are left out.

    Returns:
        ``(heads, head_size, p)`` for ``"s"`` and ``(heads, head_size, q)`` for ``"s*"``; p or q may be 0. An element
        ``g`` of a dense site turns head by head ``a`` into ``g a`` and ``b`` into ``g^-T b``.
    """
    group = spec.sites[site]
    sides: tuple[list[Array], list[Array]] = ([], [])
    for carrier in carriers(spec)[site]:
        if carrier.tensor not in values:
            continue
        block = rows(spec, carrier, values[carrier.tensor]).reshape(group.heads, group.head_size, -1)
        sides[carrier.leg.dual and not carrier.order].append(block)
    empty = np.zeros((group.heads, group.head_size, 0))
    first, second = (np.concatenate([empty, *side], axis=-1) for side in sides)
    return first, second


SQUARES = (1e-140, 1e140)
"""Between these a square, and a sum of many, is a normal number of float64."""


def to_float64(params: Mapping[str, Any], spec: SymmetrySpec, argument: str = "params") -> dict[str, Array]:
    """A network as contiguous float64 arrays that nobody else holds; tensors that no site touches come as they are.

    Raises:
        TypeError: not a mapping of arrays or of torch tensors; a tensor that a site touches is not floating point.
        ValueError: the tensors do not fit the spec, hold NaN or infinity, or numbers whose squares overflow.
    """
    if not isinstance(spec, SymmetrySpec):
        raise TypeError(f"spec: expected a SymmetrySpec, got {type(spec).__name__}")
    framework_of(params, argument)
    spec.validate({name: value if hasattr(value, "shape") else np.asarray(value) for name, value in params.items()})
    result: dict[str, Array] = {}
    for name, value in params.items():
        touched = spec.touched(name)
        if is_torch(value):
            value = value.detach().cpu()
            # NumPy has no bfloat16 of its own.
            value = value.double() if str(value.dtype) == "torch.bfloat16" else value
        array = np.asarray(value)
        if touched:
            if array.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
                raise TypeError(
                    f"{argument}[{name!r}]: expected a floating-point array where a site acts, got dtype {array.dtype}"
                )
            array = np.array(array, dtype=np.float64, order="C")
            if not np.isfinite(array).all():
                raise ValueError(f"{argument}[{name!r}]: expected finite numbers, got NaN or infinity")
            largest = float(np.abs(array).max(initial=0.0))
            if largest and not SQUARES[0] < largest < SQUARES[1]:
                raise ValueError(
                    f"{argument}[{name!r}]: expected numbers whose squares fit into float64, between "
                    f"{SQUARES[0]:g} and {SQUARES[1]:g}, got a largest one of {largest:g}; rescale the network first"
                )
        result[name] = array
    return result


def restore(values: Mapping[str, Array], params: Mapping[str, Any], spec: SymmetrySpec) -> dict[str, Any]:
    """Results in the framework, dtype and device of ``params``, which lend the tensors that no site touches."""
    result: dict[str, Any] = {}
    for name, value in params.items():
        if not spec.touched(name):
            result[name] = value
        elif is_torch(value):
            result[name] = value.new_tensor(values[name])
        else:
            result[name] = values[name].astype(np.asarray(value).dtype)
    return result
