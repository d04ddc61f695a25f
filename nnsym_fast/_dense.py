# SPDX-License-Identifier: MIT
"""Random matrices and shifts of the dense groups: small ones by the kernel, large ones through NumPy's BLAS.

``reference/dense.py`` is the definition. Above :data:`LARGEST` units the product of reflections is taken in panels
(compact WY form: Schreiber and Van Loan 1989, Puglisi 1992), whose work is matrix products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast import _arrays
from nnsym_fast._native import cpu
from nnsym_fast.groups import DRAW_PART, DRAW_SHIFT, Affine, Group, Orthogonal, RotaryCommutant, SpecialLinear

__all__ = ["LARGEST", "draw_matrices", "draw_shift", "matrix_shape"]

Array = npt.NDArray[Any]

LARGEST = 256
"""Largest size of a head that the kernels serve; beyond it a BLAS is faster (benchmarks/switch_points.py)."""

PANEL = 64
"""Reflections that are applied together."""


def matrix_shape(group: Group, n: int) -> tuple[int, ...]:
    """Shape of the matrices of ``n`` elements: ``(n, size, size)``, with heads ``(n, heads, m, m)``."""
    m = group.head_size
    return (n, m, m) if group.unit_group is group else (n, group.heads, m, m)


def _unit(group: Group) -> Group:
    unit = group.unit_group
    return unit.group if isinstance(unit, Affine) else unit


def draw_matrices(
    group: Group, index: int, n: int, seed: int, start: int, step: int, dtype: str
) -> tuple[Array, Array]:
    """Matrices and inverses of elements ``start, start + step, ...`` of a dense site; arguments are checked."""
    unit, shape = _unit(group), matrix_shape(group, n)
    matrix, inverse = _arrays.empty(shape, dtype), _arrays.empty(shape, dtype)
    if not n:
        return matrix, inverse
    pairs, haar, kind = 0, unit.size, "general"
    if isinstance(unit, Orthogonal):
        kind, haar = ("keeps_mean", unit.n - 1) if unit.keeps_mean else ("orthogonal", unit.n)
    elif isinstance(unit, RotaryCommutant):
        kind, haar, pairs = "rotary", unit.free, len(unit.pairs)
    elif isinstance(unit, SpecialLinear):
        kind = "special"
    if haar > LARGEST:
        for k in range(n):
            sample = start + k * step
            blocks = (array[k].reshape(group.heads, unit.size, unit.size) for array in (matrix, inverse))
            _draw_large(group, unit, index, seed, sample, dtype, *blocks)
        return matrix, inverse
    interleaved = isinstance(unit, RotaryCommutant) and unit.layout == "interleaved"
    what = (cpu.DENSE_KIND[kind], group.heads, unit.size, haar, pairs, interleaved, unit.scale_std)
    cpu.dense_draw(dtype == "float64", *what, index, seed, start, step, n, matrix, inverse)
    return matrix, inverse


def draw_shift(group: Group, index: int, n: int, seed: int, start: int, step: int, dtype: str) -> Array:
    """Shifts ``(n, size)`` of elements ``start, start + step, ...``."""
    draws = _normals("shift", index, n, seed, start, step, group.size, dtype)[:, : group.size]
    return np.ascontiguousarray(draws * np.dtype(dtype).type(group.shift_std))


def _normals(part: str, index: int, n: int, seed: int, start: int, step: int, count: int, dtype: str) -> Array:
    """The first ``count`` normals, or some more, of a part of every sample."""
    blocks = -(-count // 4)
    if blocks > 1 << DRAW_SHIFT:
        raise ValueError(f"site {index}: expected at most {4 << DRAW_SHIFT} numbers of one element, got {count}")
    out = _arrays.empty((n, 4 * blocks), dtype)
    if out.size:
        cpu.normals(dtype == "float64", index, DRAW_PART[part], seed, start, step, n, blocks, out)
    return out


def _row(n: int) -> int:
    return 4 * -(-n // 4)


def _draw_large(
    group: Group, unit: Group, index: int, seed: int, sample: int, dtype: str, matrix: Array, inverse: Array
) -> None:
    """All heads of one element."""
    heads, m = matrix.shape[:2]
    if isinstance(unit, Orthogonal):
        n = unit.n - unit.keeps_mean
        draws = _normals("matrix", index, 1, seed, sample, 1, heads * n * _row(n), dtype)
        for head, gaussian in enumerate(draws.reshape(heads, n, _row(n))):
            block, _ = _haar(gaussian)
            if unit.keeps_mean:
                part = DRAW_PART["sign"] << DRAW_SHIFT | head // 128
                word = int(cpu.philox(seed, sample, [index], [part])[head // 32 % 4, 0])
                block = _keep_mean(1.0 - 2.0 * (word >> head % 32 & 1), block)
            matrix[head] = block
            inverse[head] = block.T
        return
    logs = _normals("scale", index, 1, seed, sample, 1, heads * m, dtype)[0, : heads * m].reshape(heads, m)
    logs = logs * np.dtype(dtype).type(unit.scale_std)
    phases = _row(len(unit.pairs)) if isinstance(unit, RotaryCommutant) else 0
    n = unit.free if isinstance(unit, RotaryCommutant) else m
    words = phases + 2 * n * _row(n)
    draws = _normals("matrix", index, 1, seed, sample, 1, heads * words, dtype).reshape(heads, words)
    for head in range(heads):
        free = draws[head, phases:].reshape(2, n, _row(n))
        singular = logs[head]
        corner = slice(m - n, m)
        if isinstance(unit, RotaryCommutant):
            _rotary(unit, index, seed, sample, head * (words // 4), logs[head], matrix[head], inverse[head])
            singular = logs[head, len(unit.pairs) : len(unit.pairs) + n]
        _linear(
            free, singular, isinstance(unit, SpecialLinear), matrix[head, corner, corner], inverse[head, corner, corner]
        )


def _rotary(
    unit: RotaryCommutant, index: int, seed: int, sample: int, block: int, logs: Array, matrix: Array, inverse: Array
) -> None:
    pairs = len(unit.pairs)
    numbers = [DRAW_PART["matrix"] << DRAW_SHIFT | block + b for b in range(-(-pairs // 4))]
    words = cpu.philox(seed, sample, [index] * len(numbers), numbers).T.ravel()[:pairs]
    angle = 2.0 * np.pi * (words + 0.5) * 2.0**-32
    first, second = (np.array(units) for units in zip(*unit.pairs, strict=True))
    for target, radius, sign in ((matrix, np.exp(logs[:pairs]), 1), (inverse, np.exp(-logs[:pairs]), -1)):
        target[...] = 0
        target[first, first] = target[second, second] = radius * np.cos(angle)
        target[second, first] = sign * radius * np.sin(angle)
        target[first, second] = -target[second, first]


def _linear(gaussian: Array, logs: Array, special: bool, matrix: Array, inverse: Array) -> None:
    (first, sign), (second, other) = _haar(gaussian[0]), _haar(gaussian[1])
    if special:
        logs = logs - logs.mean()
        if sign * other < 0:
            second[-1] *= -1
    matrix[...] = (first * np.exp(logs)) @ second
    inverse[...] = ((first * np.exp(-logs)) @ second).T


def _haar(gaussian: Array) -> tuple[Array, int]:
    """The Haar matrix of a Gaussian one, whose rows may be longer, and the sign of its determinant."""
    n = len(gaussian)
    square = gaussian[:, :n]
    corner = np.diagonal(square)
    negative = corner < 0
    upper = np.triu(square)
    norm = np.sqrt(np.einsum("ij,ij->i", upper, upper))
    tau = 1.0 / (norm * norm + np.abs(corner) * norm)
    upper[np.arange(n), np.arange(n)] += np.where(negative, -norm, norm)  # rows: the vectors of the reflections
    # sign[k]: product of the signs of the reflections from k on. Q is sign[0] times what is built below.
    sign = np.cumprod(np.where(negative, 1, -1)[::-1])[::-1].astype(square.dtype)
    result = np.zeros((n, n), square.dtype)
    for first in reversed(range(0, n, PANEL)):
        last = min(n, first + PANEL)
        inner = np.append(sign[first + 1 : last], sign[last] if last < n else 1)
        result[np.arange(first, last), np.arange(first, last)] = inner
        block = result[first:, first:]
        v = upper[first:last, first:]
        # H_1 ... H_b = 1 - V T V^T with T^-1 the upper triangle of V^T V, 1 / tau on its diagonal.
        triangle = np.triu(v @ v.T, 1)
        triangle[np.arange(last - first), np.arange(last - first)] = 1.0 / tau[first:last]
        block -= v.T @ np.linalg.solve(triangle, v @ block)
    # det of reflection k with its sign: (-1) sign_k^(n - k).
    odd = (n - np.arange(n)) % 2 == 1
    determinant = int(np.prod(np.where(odd & ~negative, 1, -1)))
    return result * sign[0], determinant


def _keep_mean(sign: float, block: Array) -> Array:
    """``U diag(sign, block) U``; see the reference."""
    m = len(block) + 1
    middle = np.zeros((m, m), block.dtype)
    middle[0, 0] = sign
    middle[1:, 1:] = block
    u = np.full(m, -1.0 / np.sqrt(m), block.dtype)
    u[0] += 1
    beta = block.dtype.type(1.0 / (1.0 - 1.0 / np.sqrt(m)))
    middle -= beta * np.outer(u, u @ middle)
    middle -= beta * np.outer(middle @ u, u)
    return middle
