# SPDX-License-Identifier: MIT
"""Random connections and links, memory layouts, and a slow model of the array level, for the tests of Wilson lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import layouts
import numpy as np
import numpy.typing as npt

from nnsym_fast import reference

Array = npt.NDArray[Any]
Generator = np.random.Generator

DTYPES = ("float32", "float64", "complex64", "complex128")
ORDERS = (2, 4, 6)
NODES = {0: 1, 2: 1, 4: 2, 6: 3}

BATCHES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 33)
"""Numbers of paths around the lanes of every vector, of one or two vectors."""

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 17, 31, 32, 33)
"""Sizes of matrices up to and over those with a kernel of their own, and around the lanes."""


def wide(dtype: str) -> str:
    return "complex128" if dtype.startswith("complex") else "float64"


def real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def normal(rng: Generator, shape: tuple[int, ...], dtype: str = "float64") -> Array:
    """Standard normal numbers."""
    values = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        values = (values + 1j * rng.standard_normal(shape)) / 2**0.5
    return values.astype(dtype)


def unitary(rng: Generator, shape: tuple[int, ...], dtype: str = "float64", polish: bool = True) -> Array:
    """Random unitary or orthogonal matrices (..., d, d), rounded to the dtype."""
    q = np.linalg.qr(normal(rng, shape, wide(dtype)))[0]
    if polish and real(dtype) == "float64":  # a decomposition is unitary to several roundings
        q = q.astype(np.clongdouble if np.iscomplexobj(q) else np.longdouble)
        q = q @ (3 * np.eye(shape[-1]) - dagger(q) @ q) / 2
    return q.astype(dtype)


def links(rng: Generator, shape: tuple[int, ...], dtype: str = "float64", spread: float = 0.1) -> Array:
    """Unitary matrices and a small deviation: long products neither grow nor shrink much, nor lose their rank."""
    noise = normal(rng, shape, wide(dtype)) * spread / max(shape[-1], 1) ** 0.5
    return (unitary(rng, shape, wide(dtype), polish=False) + noise).astype(dtype)


def connection(rng: Generator, shape: tuple[int, ...], dtype: str = "float64", norm: float = 1.0) -> Array:
    """Random w (..., d, d) with spectral norms of about 2 ``norm``."""
    return (normal(rng, shape, wide(dtype)) * norm / max(shape[-1], 1) ** 0.5).astype(dtype)


def dagger(a: Array) -> Array:
    return np.conj(np.swapaxes(a, -1, -2))


def norm(a: Array, axes: int = 2) -> Array:
    """Frobenius norms over the last axes."""
    return np.sqrt((np.abs(a) ** 2).sum(axis=tuple(range(-axes, 0))))


def error(value: Array, exact: Array, axes: int = 2) -> Array:
    """Normwise relative errors over the last axes; infinite where a value is not finite."""
    assert value.shape == exact.shape
    difference = norm(value - exact.astype(np.result_type(value, exact)), axes)
    return np.where(np.isfinite(difference), difference, np.inf) / np.maximum(norm(exact, axes), 1e-300)


def worst(value: Array, exact: Array, axes: int = 2) -> float:
    """The largest of these errors, 0 for an empty batch."""
    return float(error(value, exact, axes).max(initial=0))


# --- memory layouts


def transposed(array: Array) -> Array:
    """The last two axes in the other order in memory."""
    return np.swapaxes(np.ascontiguousarray(np.swapaxes(array, -1, -2)), -1, -2)


LAYOUTS: tuple[Callable[[Array], Array], ...] = (*layouts.LAYOUTS, transposed)


def assert_layout_is_free(function: Callable[[Array], Array], array: Array, layout: Callable[[Array], Array]) -> None:
    """A function of an array depends on its numbers alone, and only reads them."""
    given = layout(array)
    before = given.tobytes()
    result = function(given)
    np.testing.assert_array_equal(result, function(array))
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert given.tobytes() == before


# --- the array level in float64 or complex128


def commutator(a: Array, b: Array) -> Array:
    return a @ b - b @ a


def exponents(a: Array, order: int) -> Array:
    """Magnus exponents of a = dt w (N, T, m, d, d)."""
    if order in (0, 2):
        return a[:, :, 0]
    if order == 4:
        return (a[:, :, 0] + a[:, :, 1]) / 2 + 3**0.5 / 12 * commutator(a[:, :, 1], a[:, :, 0])
    a1 = a[:, :, 1]
    a2 = 15**0.5 / 3 * (a[:, :, 2] - a[:, :, 0])
    a3 = 10 / 3 * (a[:, :, 2] - 2 * a[:, :, 1] + a[:, :, 0])
    c1 = commutator(a1, a2)
    c2 = -commutator(a1, 2 * a3 + c1) / 60
    return a1 + a3 / 12 + commutator(-20 * a1 - a3 + c1, a2 + c2) / 240


def model_links(w: Array, dt: Array | None, order: int) -> Array:
    """The links (N, T, d, d) in the wide type."""
    w = w.astype(wide(w.dtype.name))
    if order == 0:
        return w[:, :, 0]
    assert dt is not None
    times = np.broadcast_to(dt.astype(np.float64), w.shape[:2])
    return reference.expm(exponents(times[..., None, None, None] * w, order))


def model_states(u: Array, x0: Array | None, b: Array | None = None) -> Array:
    """X_0 ... X_T (N, T + 1, d, c) with X_k = u_k X_{k-1} + b_k."""
    x = np.broadcast_to(np.eye(u.shape[-1]), (u.shape[0], *u.shape[2:])) if x0 is None else x0
    states = [x.astype(u.dtype)]
    for k in range(u.shape[1]):
        states.append(u[:, k] @ states[-1] + (0 if b is None else b[:, k]))
    return np.stack(states, axis=1)


def fitted_order(errors: Sequence[float], steps: Sequence[int]) -> float:
    """The slope of log error over log step length."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def model_tangents(
    w: Array, dt: Array | None, x0: Array, shift: Array | None, order: int, along: tuple[Array, Array | None, Array]
) -> Array:
    """The derivative of the states along (w, dt, x0), by the algebra of pairs.

    [[a, a'], [0, a]] multiplies, and exponentiates, as a function and its derivative do. Links count as U_k 2^-shift_k.
    """
    e, times, start = along
    n, steps, _, d, _ = w.shape
    pairs = np.zeros((*w.shape[:3], 2 * d, 2 * d), wide(w.dtype.name))
    pairs[..., :d, :d] = pairs[..., d:, d:] = w
    pairs[..., :d, d:] = e
    if dt is not None and times is not None:  # dt (w + e) + dt' w
        each = np.broadcast_to(dt.astype(np.float64), (n, steps))
        pairs[..., :d, d:] += (times / each)[..., None, None, None] * w
    u = model_links(pairs, dt, order)
    if shift is not None:
        u = u * np.ldexp(1.0, -shift)[..., None, None]
    return model_states(u, np.concatenate([start, x0], axis=1))[:, :, :d]


def inner(a: Array, b: Array) -> Array:
    """Re <a, b> of every path."""
    products = (np.conj(a) * b).real
    return np.asarray(products.reshape(len(products), -1).sum(axis=1))
