# SPDX-License-Identifier: MIT
"""Random matrices of the dense groups, drawn from Philox: the definition that kernels are tested against.

A Haar matrix of size n is a product of reflections (Stewart 1980; Diaconis and Shahshahani's subgroup algorithm): with
a Gaussian vector x_k of n - k entries for every k, ``Q = Q_0 (1 + Q_1 (1 + Q_2 ...))``, where + is the direct sum and
Q_k the reflection times a sign whose first column is ``x_k / |x_k|``. It has the distribution of the QR decomposition
of a Gaussian matrix with Mezzadri's sign fix, takes half the numbers, and is a well-conditioned function of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast.groups import Affine, GeneralLinear, Group, Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.reference.philox import normals, uniforms, words

__all__ = ["haar", "matrix_words", "sample_matrices", "sample_shift"]

Array = npt.NDArray[Any]


def haar(gaussian: Array) -> Array:
    """Haar matrices ``(..., n, n)`` from Gaussian ones: the last n - k entries of row k are the vector of Q_k."""
    n = gaussian.shape[-1]
    result = np.zeros(gaussian.shape)
    for k in reversed(range(n)):
        x = gaussian[..., k, k:]
        norm = np.sqrt(np.sum(x**2, axis=-1, keepdims=True))
        sign = np.where(x[..., :1] < 0, -1.0, 1.0)
        v = x.copy()
        v[..., :1] += sign * norm
        result[..., k, k] = 1.0
        block = result[..., k:, k:]
        tau = 1.0 / (norm**2 + np.abs(x[..., :1]) * norm)
        block -= (tau * v)[..., :, None] * (v[..., None, :] @ block)
        block *= -sign[..., None]
    return result


def _row(n: int) -> int:
    """Words of a row of n normals: whole blocks of four."""
    return 4 * -(-n // 4)


def matrix_words(group: Group) -> int:
    """Words of the part "matrix" that one head draws."""
    if isinstance(group, Affine):
        return matrix_words(group.group)
    if isinstance(group, Orthogonal):
        return (group.n - group.keeps_mean) * _row(group.n - group.keeps_mean)
    if isinstance(group, RotaryCommutant):
        return _row(len(group.pairs)) + 2 * group.free * _row(group.free)
    return 2 * group.size * _row(group.size)


def sample_matrices(group: Group, seed: int, samples: npt.NDArray[np.uint64], site: int) -> tuple[Array, Array]:
    """Matrices and inverses of a dense group, float64, ``(n, size, size)``, with heads ``(n, heads, m, m)``."""
    unit = group.unit_group
    unit = unit.group if isinstance(unit, Affine) else unit
    n, heads, m = len(samples), group.heads, group.head_size
    count = matrix_words(unit)
    draws = words(seed, samples, site, "matrix", heads * count).reshape(n, heads, count)
    scales = words(seed, samples, site, "scale", _row(heads * m))
    logs = (unit.scale_std * normals(scales)[:, : heads * m]).reshape(n, heads, m)
    if isinstance(unit, Orthogonal):
        matrix = _haar_of(draws, m - unit.keeps_mean)
        if unit.keeps_mean:
            bits = words(seed, samples, site, "sign", -(-heads // 32))
            head = np.arange(heads)
            bit = (bits[:, head // 32] >> (head % 32).astype(np.uint32)) & np.uint32(1)
            matrix = _keep_mean(1.0 - 2.0 * bit, matrix)
        inverse = np.swapaxes(matrix, -1, -2)
    elif isinstance(unit, RotaryCommutant):
        matrix, inverse = _rotary(unit, draws, logs)
    else:
        assert isinstance(unit, (GeneralLinear, SpecialLinear))
        matrix, inverse = _linear(draws, logs, isinstance(unit, SpecialLinear))
    shape = (n, m, m) if group.unit_group is group else (n, heads, m, m)
    return matrix.reshape(shape), inverse.reshape(shape)


def _haar_of(draws: Array, n: int) -> Array:
    gaussian = normals(draws.reshape(*draws.shape[:2], n, _row(n)))[..., :n]
    return haar(gaussian)


def _linear(draws: Array, logs: Array, special: bool) -> tuple[Array, Array]:
    """``K1 diag(s) K2`` and its inverse; special: of determinant 1, by the sign of the last row of K2."""
    m = logs.shape[-1]
    half = draws.shape[-1] // 2
    first, second = _haar_of(draws[..., :half], m), _haar_of(draws[..., half:], m)
    if special:
        logs = logs - logs.mean(axis=-1, keepdims=True)
        sign = np.sign(np.linalg.det(first) * np.linalg.det(second))
        second[..., -1, :] *= sign[..., None]
    matrix = (first * np.exp(logs)[..., None, :]) @ second
    inverse = (np.swapaxes(second, -1, -2) * np.exp(-logs)[..., None, :]) @ np.swapaxes(first, -1, -2)
    return matrix, inverse


def _keep_mean(sign: Array, block: Array) -> Array:
    """``U diag(sign, block) U`` with the reflection U that exchanges the first axis and the direction of ones."""
    m = block.shape[-1] + 1
    middle = np.zeros((*block.shape[:-2], m, m))
    middle[..., 0, 0] = sign
    middle[..., 1:, 1:] = block
    if m == 1:
        return middle
    u = np.full(m, -1.0 / np.sqrt(m))
    u[0] += 1.0
    reflection = np.eye(m) - 2.0 * np.outer(u, u) / (u @ u)
    return np.asarray(reflection @ middle @ reflection)


def _rotary(unit: RotaryCommutant, draws: Array, logs: Array) -> tuple[Array, Array]:
    m, pairs, free = unit.n, unit.pairs, unit.free
    matrix = np.zeros((*draws.shape[:2], m, m))
    inverse = np.zeros_like(matrix)
    angle = 2.0 * np.pi * uniforms(draws[..., : len(pairs)])
    radius = np.exp(logs[..., : len(pairs)])
    for p, (i, j) in enumerate(pairs):
        for target, r, sign in ((matrix, radius[..., p], 1.0), (inverse, 1.0 / radius[..., p], -1.0)):
            target[..., i, i] = target[..., j, j] = r * np.cos(angle[..., p])
            target[..., j, i] = sign * r * np.sin(angle[..., p])
            target[..., i, j] = -target[..., j, i]
    if free:
        rest = draws[..., _row(len(pairs)) :]
        singular = logs[..., len(pairs) : len(pairs) + free]
        matrix[..., m - free :, m - free :], inverse[..., m - free :, m - free :] = _linear(rest, singular, False)
    return matrix, inverse


def sample_shift(group: Group, seed: int, samples: npt.NDArray[np.uint64], site: int) -> Array:
    """Shifts, float64, ``(n, size)``."""
    return np.asarray(group.shift_std * normals(words(seed, samples, site, "shift", _row(group.size)))[:, : group.size])
