# SPDX-License-Identifier: MIT
"""The orbit of an MLP in JAX, the layout of ``orbit_torch``: one jitted function that samples and applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers import SCALE_STD, Peer

__all__ = ["peers", "ready", "sample"]

Array = Any
ready: Callable[[Any], Any] = jax.block_until_ready
Side = tuple[Array, Array] | None
IN_BOUNDS = "promise_in_bounds"


def sample(key: Array, n: int, hidden: Sequence[int]) -> list[tuple[Array, Array]]:
    """Per hidden layer n permutations and n vectors of log-normal scales.

    Sorting keys that carry the unit in their low bits takes a quarter of the time of argsort, top_k or
    ``jax.random.permutation``; the 32 - log2(h) random bits left are enough for a benchmark.
    """
    result = []
    for h in hidden:
        key, for_keys, for_scales = jax.random.split(key, 3)
        low = np.uint32((1 << (h - 1).bit_length()) - 1)
        keys = (jax.random.bits(for_keys, (n, h)) & ~low) | jnp.arange(h, dtype=jnp.uint32)
        perm = (jnp.sort(keys, axis=1) & low).astype(jnp.int32)
        result.append((perm, jnp.exp(SCALE_STD * jax.random.normal(for_scales, (n, h)))))
    return result


def along(w: Array, left: Side, right: Side) -> Array:
    """Rows by indexing, columns by take_along_axis."""
    if left:
        w = w.at[left[0]].get(mode=IN_BOUNDS)
    if right:
        w = jnp.take_along_axis(w if left else w[None], right[0][:, None, :], axis=2, mode=IN_BOUNDS)
    return _scaled(w, left, right)


def broadcast(w: Array, left: Side, right: Side) -> Array:
    """W[p[:, :, None], q[:, None, :]]."""
    rows = left[0] if left else jnp.arange(w.shape[0])[None]
    columns = right[0] if right else jnp.arange(w.shape[1])[None]
    if left and not right:
        return _scaled(w.at[left[0]].get(mode=IN_BOUNDS), left, right)
    return _scaled(w.at[rows[:, :, None], columns[:, None, :]].get(mode=IN_BOUNDS), left, right)


def mapped(w: Array, left: Side, right: Side) -> Array:
    """vmap of W[p][:, q]."""

    def one(p: Array, q: Array) -> Array:
        moved = w if p is None else w[p]
        return moved if q is None else moved[:, q]

    axes = (None if left is None else 0, None if right is None else 0)
    return _scaled(jax.vmap(one, in_axes=axes)(left and left[0], right and right[0]), left, right)


def _scaled(w: Array, left: Side, right: Side) -> Array:
    w = w * left[1][:, :, None] if left else w
    return w * right[1][:, None, :] if right else w


def batched(
    key: Array, layers: Sequence[tuple[Array, Array]], n: int, hidden: Sequence[int], weight: Callable[..., Array]
) -> list[Array]:
    elements = sample(key, n, hidden)
    left: list[Side] = [*elements, None]
    right: list[Side] = [None, *((perm, 1.0 / scale) for perm, scale in elements)]
    result = []
    for (w, b), a, c in zip(layers, left, right, strict=True):
        result.append(weight(w, a, c))
        result.append(jnp.broadcast_to(b, (n, *b.shape)) if a is None else b.at[a[0]].get(mode=IN_BOUNDS) * a[1])
    return result


def peers(layers: Sequence[tuple[Any, Any]], n: int, hidden: Sequence[int]) -> Iterator[Peer]:
    """Every formulation, with a fresh result and into the donated memory of the result before."""
    arrays = [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers]
    keys = iter(range(1 << 62))

    for weight in (along, broadcast, mapped):

        def job(key: Array, layers: Any, weight: Callable[..., Array] = weight) -> list[Array]:
            return batched(key, layers, n, hidden, weight)

        def job_into(key: Array, layers: Any, out: Any, weight: Callable[..., Array] = weight) -> list[Array]:
            return batched(key, layers, n, hidden, weight)

        jitted = jax.jit(job)
        donating = jax.jit(job_into, donate_argnums=2, keep_unused=True)
        held: list[Any] = []

        def call(jitted: Callable[..., list[Array]] = jitted) -> Any:
            return ready(jitted(jax.random.key(next(keys)), arrays))

        def call_into(
            donating: Callable[..., list[Array]] = donating,
            jitted: Callable[..., list[Array]] = jitted,
            held: list[Any] = held,
        ) -> list[Array]:
            key = jax.random.key(next(keys))
            held[:] = ready(donating(key, arrays, list(held)) if held else jitted(key, arrays))
            return list(held)

        yield Peer("JAX jit", weight.__name__, call)
        yield Peer("JAX jit", f"{weight.__name__}, donated buffers", call_into, reuses=True)
