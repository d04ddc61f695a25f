# SPDX-License-Identifier: MIT
"""Dense legs: from the axes of a tensor to passes of block matrices, and their work by the kernel or a BLAS.

A tensor with dense legs goes through one pass per axis that carries some, after its other legs (permutations, scales)
have acted. A pass covers the whole tensor: what carries no dense leg on the axis moves through it as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast import _arrays, _dense
from nnsym_fast._native import cpu
from nnsym_fast.elements import SiteElements
from nnsym_fast.symmetry import Axis, Leg, Segments, SymmetrySpec

__all__ = ["Box", "Target", "passes_of", "run", "split_legs", "widened"]

Array = npt.NDArray[Any]

PIECE = 4096
"""Units without a dense leg that are moved together."""


class Box(NamedTuple):
    """A part of one axis, with what is around it: offset + outer * outer_stride + unit * axis_stride + inner."""

    outer: int
    outer_stride: int
    blocks: int
    copies: int
    size: int
    axis_stride: int
    inner: int
    offset: int
    leg: Leg | None


@dataclass(frozen=True)
class Target:
    """A tensor with dense legs.

    Args:
        name: its name.
        shape: shape of one network's tensor.
        storage: its dtype, a key of ``_arrays.DTYPE_CODE``.
        passes: for every axis with dense legs, boxes that cover the tensor.
        staged: whether other legs act first.
    """

    name: str
    shape: tuple[int, ...]
    storage: str
    passes: tuple[tuple[Box, ...], ...]
    staged: bool

    @property
    def size(self) -> int:
        """Numbers of one sample."""
        return int(np.prod(self.shape, dtype=np.int64))


def _is_dense(spec: SymmetrySpec, leg: Leg | None) -> bool:
    return leg is not None and (spec.sites[leg.site].dense or leg.affine)


def split_legs(spec: SymmetrySpec, axes: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """The axes without their dense legs, and the numbers of the axes that have some."""
    rest: list[Axis] = []
    dense = []
    for number, axis in enumerate(axes):
        parts = axis.parts if isinstance(axis, Segments) else ((0, axis),)
        if not any(_is_dense(spec, leg) for _, leg in parts):
            rest.append(axis)
            continue
        dense.append(number)
        kept = tuple((length, None if _is_dense(spec, leg) else leg) for length, leg in parts)
        rest.append(Segments(kept) if any(leg is not None for _, leg in kept) else None)
    return tuple(rest), tuple(dense)


def passes_of(spec: SymmetrySpec, shape: tuple[int, ...], axes: tuple[Axis, ...]) -> tuple[tuple[Box, ...], ...]:
    """The passes of one tensor that is not empty."""
    result = []
    for number in split_legs(spec, axes)[1]:
        axis = axes[number]
        inner = int(np.prod(shape[number + 1 :], dtype=np.int64))
        outer = int(np.prod(shape[:number], dtype=np.int64))
        parts = axis.parts if isinstance(axis, Segments) else ((shape[number], axis),)
        boxes, first = [], 0
        for length, leg in parts:
            where = (outer, shape[number] * inner)
            if leg is None or not _is_dense(spec, leg):
                # In pieces, of which the kernel keeps a few rows or columns.
                piece = PIECE if inner == 1 else PIECE // 16
                for begin in range(0, length, piece):
                    units = min(piece, length - begin)
                    boxes.append(Box(*where, 1, 1, units, inner, inner, (first + begin) * inner, None))
            else:
                group = spec.sites[leg.site]
                unit = leg.repeat * inner
                blocks = group.heads * leg.copies
                boxes.append(Box(*where, blocks, leg.copies, group.head_size, unit, unit, first * inner, leg))
            first += length
        result.append(tuple(boxes))
    return tuple(result)


def _order(spec: SymmetrySpec, leg: Leg, elements: Mapping[str, SiteElements]) -> Array | None:
    """Where the blocks of an axis come from, int32 ``(n, blocks)``; None: each from its own place."""
    if leg.order:
        perm = elements[leg.order].perm
        return None if perm is None else np.ascontiguousarray(perm)
    perm = elements[leg.site].perm
    if perm is None:
        return None
    heads = perm[:, :: spec.sites[leg.site].head_size] // spec.sites[leg.site].head_size
    if leg.copies > 1:
        heads = (heads[:, :, None] * leg.copies + np.arange(leg.copies, dtype=np.int32)).reshape(len(perm), -1)
    return np.ascontiguousarray(heads, dtype=np.int32)


class _Action(NamedTuple):
    """What one pass does to a box: matrices that fit the leg, the order of blocks, shifts."""

    matrix: Array | None
    dual: bool
    order: Array | None
    shift: Array | None


def _action(spec: SymmetrySpec, leg: Leg | None, elements: Mapping[str, SiteElements]) -> _Action:
    if leg is None:
        return _Action(None, False, None, None)
    site = elements[leg.site]
    matrix = site.inverse if leg.dual else site.matrix
    return _Action(matrix, leg.dual, _order(spec, leg, elements), site.shift if leg.affine else None)


def run(
    spec: SymmetrySpec,
    targets: Sequence[Target],
    elements: Mapping[str, SiteElements],
    count: int,
    sources: Mapping[str, tuple[Any, int, str]],
    results: Mapping[str, Any],
    dtype: str,
) -> None:
    """Pass tensors through their dense legs.

    Args:
        spec: the symmetry.
        targets: the tensors.
        elements: site -> elements of all sites on their dense legs, ``count`` of them, of dtype ``dtype``.
        count: number of samples.
        sources: tensor -> array or address, bytes from sample to sample (0: one for all), its dtype.
        results: tensor -> where its samples go, stacked, in its own storage: array or address.
        dtype: type of the arithmetic, float32 or float64.
    """
    wide = dtype == "float64"
    small: list[tuple[Any, ...]] = []
    for target in targets:
        source, stride, stored = sources[target.name]
        last = len(target.passes) - 1
        for number, boxes in enumerate(target.passes):
            wanted = target.storage if number == last else dtype
            out = results[target.name] if number == last else _arrays.empty((count, *target.shape), dtype)
            large = any(box.leg is not None and box.size > _dense.LARGEST for box in boxes)
            given = (source, stride, stored)
            if large:
                _large(spec, target, boxes, elements, count, given, (out, wanted), dtype)
            elif last == 0:
                small += _small(spec, target, boxes, elements, given, (out, wanted))
            else:
                cpu.dense_apply(wide, count, _small(spec, target, boxes, elements, given, (out, wanted)))
            source, stride, stored = out, target.size * _arrays.DTYPE_SIZE[wanted], wanted
    if small:
        cpu.dense_apply(wide, count, small)


def _small(
    spec: SymmetrySpec,
    target: Target,
    boxes: Sequence[Box],
    elements: Mapping[str, SiteElements],
    source: tuple[Any, int, str],
    result: tuple[Any, str],
) -> list[tuple[Any, ...]]:
    """A pass as the compiled module takes it."""
    (data, stride, stored), (out, wanted) = source, result
    codes = _arrays.DTYPE_CODE[stored], _arrays.DTYPE_CODE[wanted]
    step = target.size * _arrays.DTYPE_SIZE[wanted]
    return [((*codes, *box[:-1]), data, stride, out, step, *_action(spec, box.leg, elements)) for box in boxes]


def _convert(target: Target, count: int, source: tuple[Any, int, str], out: Any, wanted: str, wide: bool) -> None:
    """The same numbers in another storage."""
    data, stride, stored = source
    # One unit of all numbers: the block-wise kernel works on pieces of it.
    box = (1, target.size, 1, 1, 1, target.size, target.size, 0)
    codes = _arrays.DTYPE_CODE[stored], _arrays.DTYPE_CODE[wanted]
    step = target.size * _arrays.DTYPE_SIZE[wanted]
    cpu.dense_apply(wide, count, [((*codes, *box), data, stride, out, step, None, False, None, None)])


def widened(target: Target, source: tuple[Any, int, str], count: int, dtype: str) -> Any:
    """A source in the type of the arithmetic."""
    data, stride, stored = source
    if stored == dtype:
        return data
    n = count if stride else 1
    out = _arrays.empty((n, *target.shape), dtype)
    _convert(target, n, source, out, dtype, dtype == "float64")
    return out


def _view(data: Any, stride: int, shape: tuple[int, ...], dtype: str, count: int) -> Array:
    """Samples at an array or an address, ``(count, *shape)`` or, where one serves all, ``(1, *shape)``."""
    n = count if stride else 1
    size = n * int(np.prod(shape, dtype=np.int64))
    if isinstance(data, int):
        nbytes = size * _arrays.DTYPE_SIZE[dtype]
        buffer: Any = (ctypes.c_char * nbytes).from_address(data)
        data = np.frombuffer(buffer, dtype)
    view: Array = data.reshape(-1)[:size].reshape(n, *shape)
    return view


def _large(
    spec: SymmetrySpec,
    target: Target,
    boxes: Sequence[Box],
    elements: Mapping[str, SiteElements],
    count: int,
    source: tuple[Any, int, str],
    result: tuple[Any, str],
    dtype: str,
) -> None:
    """A pass with large matrices, through NumPy's BLAS."""
    wide = dtype == "float64"
    _, stride, _ = source
    data = widened(target, source, count, dtype)
    stride = target.size * _arrays.DTYPE_SIZE[dtype] if stride else 0
    out, wanted = result
    narrow = wanted != dtype
    inputs = _view(data, stride, (target.size,), dtype, count)
    for k in range(count):
        # In 16-bit storage one sample at a time is kept in the type of the arithmetic.
        step = target.size * _arrays.DTYPE_SIZE[wanted]
        place = _arrays.empty((target.size,), dtype) if narrow else _view(out, step, (target.size,), dtype, count)[k]
        with np.errstate(all="ignore"):  # as the kernels, which make infinities and NaN without a word
            for box in boxes:
                _multiply(box, _action(spec, box.leg, elements), k, inputs[k if stride else 0], place)
        if narrow:
            one = out + k * step if isinstance(out, int) else out[k]
            _convert(target, 1, (place, 0, dtype), one, wanted, wide)


def _multiply(box: Box, action: _Action, k: int, source: Array, out: Array) -> None:
    shape = (box.outer, box.blocks, box.size, box.inner)
    size = source.itemsize
    strides = (box.outer_stride * size, box.size * box.axis_stride * size, box.axis_stride * size, size)
    x, y = (np.lib.stride_tricks.as_strided(array[box.offset :], shape, strides) for array in (source, out))
    for block in range(box.blocks):
        origin = block if action.order is None else int(action.order[k, block])
        if action.matrix is None:
            y[:, block] = x[:, origin]
        else:
            matrix = action.matrix[k].reshape(-1, box.size, box.size)[block // box.copies]
            matrix = matrix.T if action.dual else matrix
            if box.inner == 1:
                y[:, block, :, 0] = x[:, origin, :, 0] @ matrix.T
            else:
                for row in range(box.outer):
                    np.matmul(matrix, x[row, origin], out=y[row, block])
        if action.shift is not None:
            shift = action.shift[k].reshape(box.blocks, box.size)[block]
            y[:, block] += shift[None, :, None]
