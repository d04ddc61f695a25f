# SPDX-License-Identifier: MIT
"""Wilson lines in JAX, jitted: jax.scipy.linalg.expm with lax.scan, associative_scan or products of pairs.

Each formulation gets its argument in the layout that suits it, as in ``wilson_torch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import scipy.linalg  # noqa: F401  its OpenBLAS is loaded before one_lapack_thread looks for it
from jax import lax
from jax.scipy.linalg import expm
from peers import Peer

__all__ = ["line_peers", "product_peers"]

Array = Any
Product = Callable[[Array, Array], Array]

CHUNK = 256
"""Matrices that expm takes at a time in the formulation with chunks."""

UNROLLED = 8
"""Largest dimension at which a product written out as multiply-adds may win."""


def steps(u: Array, product: Product = jnp.matmul, unroll: int = 1) -> Array:
    """(T, batch, d, d): lax.scan."""
    return lax.scan(lambda state, factor: (product(factor, state), None), u[0], u[1:], unroll=unroll)[0]


def prefixes(u: Array) -> Array:
    """(T, batch, d, d): the last of all prefixes by associative_scan."""
    return lax.associative_scan(lambda earlier, later: later @ earlier, u)[-1]


def pairs(u: Array, product: Product = jnp.matmul) -> Array:
    """(T, batch, d, d): neighbours together, log2(T) times."""
    while u.shape[0] > 1:
        u = product(u[1::2], u[::2])
    return u[0]


def multiply_adds(a: Array, b: Array) -> Array:
    """a @ b as a sum of outer products, which the compiler fuses."""
    result = a[..., :, 0, None] * b[..., None, 0, :]
    for k in range(1, a.shape[-1]):
        result = result + a[..., :, k, None] * b[..., None, k, :]
    return result


def inside(w: Array, dt: float) -> Array:
    """expm of a step within the scan over steps."""
    one = jnp.broadcast_to(jnp.eye(w.shape[-1], dtype=w.dtype), w.shape[1:])
    return lax.scan(lambda state, step: (jax.vmap(expm)(step * dt) @ state, None), one, w)[0]


def mapped(w: Array, dt: float) -> Array:
    """expm of all matrices."""
    return jax.vmap(jax.vmap(expm))(w * dt)


def chunked(w: Array, dt: float) -> Array:
    """expm of a few matrices at a time."""
    matrices = (w * dt).reshape(-1, *w.shape[2:])
    return lax.map(expm, matrices, batch_size=CHUNK).reshape(w.shape)


def one_lapack_thread() -> None:
    """One thread for each linear system of expm.

    They come from scipy's OpenBLAS, called by JAX's own threads. On a busy machine its threads make a call wait for
    seconds; on an idle one they change nothing.
    """
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return
    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "scipy.libs" in library.filepath:
            library.set_num_threads(1)


def _peer(kind: str, formulation: str, function: Callable[[Array], Array], argument: Array, slow: bool) -> Peer:
    jitted = jax.jit(function)
    return Peer(kind, formulation, lambda: jax.block_until_ready(jitted(argument)), slow=slow)


def line_peers(array: Any, dt: float) -> Iterator[Peer]:
    """w (batch, T, d, d) to the ordered product of exp(w_k dt)."""
    one_lapack_thread()
    late = jnp.asarray(array.swapaxes(0, 1).copy())
    formulations: dict[str, Callable[[Array], Array]] = {
        "vmap of expm, scan": lambda w: steps(mapped(w, dt)),
        "vmap of expm, associative_scan": lambda w: prefixes(mapped(w, dt)),
        "expm inside the scan": partial(inside, dt=dt),
        f"expm of {CHUNK} at a time, pairs": lambda w: pairs(chunked(w, dt)),
    }
    for name, function in formulations.items():
        yield _peer("JAX jit", name, function, late, slow=True)


def product_peers(array: Any) -> Iterator[Peer]:
    """u (batch, T, d, d) to the ordered product."""
    late = jnp.asarray(array.swapaxes(0, 1).copy())
    peer = partial(_peer, argument=late, slow=False)
    yield peer("JAX scan", "matmul", steps)
    yield peer("JAX scan", "matmul, 8 steps unrolled", partial(steps, unroll=8))
    yield peer("JAX tree", "associative_scan", prefixes)
    yield peer("JAX tree", "matmul in pairs", pairs)
    if array.shape[-1] <= UNROLLED:
        yield peer("JAX multiply-adds", "scan", partial(steps, product=multiply_adds))
        yield peer("JAX multiply-adds", "pairs", partial(pairs, product=multiply_adds))
