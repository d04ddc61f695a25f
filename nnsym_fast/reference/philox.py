# SPDX-License-Identifier: MIT
"""Philox4x32-10, the counter-based random generator, and the words that a part of a group element draws from it.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast.groups import DRAW_PART, DRAW_SHIFT

__all__ = ["normals", "philox4x32", "sample_indices", "uniforms", "words"]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
# Weyl sequence of the key: the golden ratio and sqrt(3) - 1 as 32-bit fractions.
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: npt.ArrayLike, key: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Philox4x32 with 10 rounds: a bijection of 128-bit counters for each 64-bit key.

    Args:
        counter: uint32, shape ``(..., 4)``.
        key: uint32, shape ``(2,)``.

    Returns:
        uint32, shape ``(..., 4)``.

    Raises:
        ValueError: the last axis of ``counter`` has not length 4, or ``key`` has not shape ``(2,)``.

    >>> [hex(word) for word in philox4x32([0, 0, 0, 0], [0, 0])]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    state = np.asarray(counter, dtype=np.uint32).astype(np.uint64)
    keys = np.asarray(key, dtype=np.uint32)
    if state.ndim < 1 or state.shape[-1] != 4:
        raise ValueError(f"counter: expected shape (..., 4), got {state.shape}")
    if keys.shape != (2,):
        raise ValueError(f"key: expected shape (2,), got {keys.shape}")
    c0, c1, c2, c3 = np.moveaxis(state, -1, 0)
    k0, k1 = int(keys[0]), int(keys[1])
    for _ in range(ROUNDS):
        # 32 x 32 -> 64 bit products; the words stay below 2^32, so nothing overflows.
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c2 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0), (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & _MASK, product0 & _MASK
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def _check_64_bit(value: int, argument: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: expected an integer, got {value!r} of type {type(value).__name__}") from None
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{argument}: expected 0 <= {argument} < 2^64, got {number}")
    return number


def sample_indices(n: int, start: int = 0) -> npt.NDArray[np.uint64]:
    """The 64-bit sample indices ``start .. start + n - 1``, uint64 of shape ``(n,)``."""
    if operator.index(n) < 0:
        raise ValueError(f"n: expected a number of elements >= 0, got {n}")
    first = _check_64_bit(start, "start")
    if first + n > 1 << 64:
        raise ValueError(f"start: expected start + n <= 2^64, got {first} + {n}")
    return np.asarray(np.arange(n, dtype=np.uint64) + np.uint64(first))


def words(seed: int, samples: npt.NDArray[np.integer[Any]], site: int, part: str, count: int) -> npt.NDArray[np.uint32]:
    """The first ``count`` words that one part of the elements at one site draws.

    key = (low, high half of the seed); counter = (low, high half of the sample index, site index, draw index) with draw
    index = ``DRAW_PART[part] << DRAW_SHIFT | block``; word ``w`` is word ``w % 4`` of block ``w // 4``.

    Args:
        seed: 64-bit seed.
        samples: sample indices, integers of shape ``(n,)``.
        site: position of the site in the spec.
        part: a key of ``DRAW_PART``.
        count: number of words per sample.

    Returns:
        uint32, shape ``(n, count)``.
    """
    if part not in DRAW_PART:
        raise ValueError(f"part: expected one of {list(DRAW_PART)}, got {part!r}")
    seed = _check_64_bit(seed, "seed")
    blocks = -(-count // 4)
    if blocks > 1 << DRAW_SHIFT:
        raise ValueError(f"count: a part draws at most {4 << DRAW_SHIFT} words per sample, got {count}")
    index = np.asarray(samples).astype(np.uint64)
    counter = np.empty((len(index), blocks, 4), dtype=np.uint32)
    counter[..., 0] = (index & _MASK)[:, None]
    counter[..., 1] = (index >> _HALF)[:, None]
    counter[..., 2] = site
    counter[..., 3] = (DRAW_PART[part] << DRAW_SHIFT) | np.arange(blocks)
    key = [seed & 0xFFFFFFFF, seed >> 32]
    return philox4x32(counter, key).reshape(len(index), 4 * blocks)[:, :count]


def uniforms(draws: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Uniforms in the open interval (0, 1): ``(x + 1/2) 2^-32``."""
    return np.asarray((draws + 0.5) * 2.0**-32, dtype=np.float64)


def normals(draws: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Standard normals by Box-Muller from consecutive pairs of words along the last axis (of even length).

    Words ``(x0, x1)`` with uniforms ``(u0, u1)`` give ``sqrt(-2 ln u0) (cos(2 pi u1), sin(2 pi u1))``.
    """
    u = uniforms(draws)
    radius, angle = np.sqrt(-2.0 * np.log(u[..., 0::2])), 2.0 * np.pi * u[..., 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(draws.shape)
