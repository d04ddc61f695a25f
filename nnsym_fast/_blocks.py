# SPDX-License-Identifier: MIT
"""From legs to loops: a tensor's axes become blocks that the orbit kernel runs row by row.

A block is a box of the tensor with at most one leg per axis. Neighbouring axes without legs are one; an axis that
repeats its units is two; a short axis without legs at the end joins the leg before it, as repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple, TypeAlias

from nnsym_fast.groups import Group
from nnsym_fast.symmetry import Axis, Leg, Segments

__all__ = ["blocks_of"]

Use: TypeAlias = tuple[int, bool, float, int]
"""Site index (-1: no leg), dual, power, repeat."""

NO_LEG: Use = (-1, False, 1.0, 1)

JOIN_WIDTH = 32
"""Longest run without a leg that joins the leg before it: shorter than a few vectors, it is cheaper to gather."""

JOIN_SIZE = 1 << 16
"""Longest index list that joining may make."""


class Loop(NamedTuple):
    """One loop: its length, its stride in elements (the same in source and result), its leg."""

    size: int
    stride: int
    use: Use


def blocks_of(
    tensor: int, dtype: int, shape: tuple[int, ...], axes: tuple[Axis, ...], sites: Mapping[str, tuple[int, Group]]
) -> list[tuple[Any, ...]]:
    """Blocks of one tensor, as tuples that the compiled module takes.

    Args:
        tensor: index of the tensor.
        dtype: storage code of ``_arrays.DTYPE_CODE``.
        shape: shape of one network's tensor.
        axes: its legs.
        sites: site name -> (index, group).

    Returns:
        Tuples (tensor, dtype, [(size, source stride, result stride, use), ...], width, use, source offset, result
        offset).
    """
    if 0 in shape:
        return []
    strides = [1] * len(shape)
    for d in reversed(range(len(shape) - 1)):
        strides[d] = strides[d + 1] * shape[d + 1]
    cuts = []
    for axis, length, stride in zip(axes, shape, strides, strict=True):
        parts = axis.parts if isinstance(axis, Segments) else ((length, axis),)
        first, pieces = 0, []
        for part, leg in parts:
            pieces.append((first * stride, _loops(part, stride, leg, sites)))
            first += part
        cuts.append(pieces)
    return [
        _block(tensor, dtype, sum(at for at, _ in box), [loop for _, loops in box for loop in loops])
        for box in product(*cuts)
    ]


def _loops(length: int, stride: int, leg: Leg | None, sites: Mapping[str, tuple[int, Group]]) -> list[Loop]:
    if leg is None:
        return [Loop(length, stride, NO_LEG)]
    index, group = sites[leg.site]
    if not group.permutes and leg.power == 0:
        return [Loop(length, stride, NO_LEG)]
    use = (index, leg.dual, leg.power, 1)
    loops = [Loop(group.size, stride * leg.repeat, use)]
    return loops if leg.repeat == 1 else [*loops, Loop(leg.repeat, stride, NO_LEG)]


def _block(tensor: int, dtype: int, offset: int, loops: list[Loop]) -> tuple[Any, ...]:
    merged: list[Loop] = []
    for loop in loops:
        if loop.use == NO_LEG and loop.size == 1:
            continue
        last = merged[-1] if merged else None
        if last and last.use == loop.use == NO_LEG and last.stride == loop.stride * loop.size:
            merged[-1] = Loop(last.size * loop.size, loop.stride, NO_LEG)
        else:
            merged.append(loop)
    if merged and merged[-1].stride == 1:
        width, _, use = merged.pop()
        if use == NO_LEG and merged and width <= JOIN_WIDTH and merged[-1].stride == width:
            size, _, joined = merged[-1]
            if joined != NO_LEG and size * width <= JOIN_SIZE:
                merged.pop()
                width, use = size * width, (*joined[:3], width)
    else:  # every axis that is left out has length 1, or the box is narrower than its tensor
        width, use = 1, NO_LEG
    outer = [(loop.size, loop.stride, loop.stride, loop.use) for loop in merged]
    return tensor, dtype, outer, width, use, offset, offset
