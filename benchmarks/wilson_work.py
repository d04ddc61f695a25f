# SPDX-License-Identifier: MIT
"""The jobs of the Wilson benchmarks: inputs, the answer in double precision, and the arithmetic that counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast._native import cpu

__all__ = [
    "DT",
    "STEPS",
    "checker",
    "exponentials",
    "generators",
    "line",
    "line_flops",
    "links",
    "product",
    "product_flops",
    "rotations",
]

Array = npt.NDArray[Any]

STEPS = 64
DT = 1 / 16
"""Step of a line: STEPS of them cover four units of time, in which exp(w t) grows and turns by factors of order one."""

SAMPLE = 4
"""Paths of a batch that are compared with the answer in double precision."""

PRODUCTS = {1: 0, 2: 1, 4: 2, 8: 3, 12: 4, 18: 5}
"""Matrix products that the Taylor polynomial of a degree takes (Bader, Blanes, Casas 2019, table 1)."""

TOLERANCE = {"float32": 1e-4, "complex64": 1e-4, "float64": 1e-12, "complex128": 1e-12}
"""Error relative to the largest entry of a result: 64 steps, each of them with the rounding of an exponential."""


def generators(*shape: int, dtype: Any = np.float32) -> Array:
    """Matrices (..., d, d) with independent normal entries of variance 1/d: eigenvalues within the unit disc."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        w = (w + 1j * rng.standard_normal(shape)) / math.sqrt(2.0)
    return (w / math.sqrt(shape[-1])).astype(dtype)


def links(w: Array) -> Array:
    """Euler's links 1 + w dt: what a product takes does not depend on how its factors came about."""
    return (np.eye(w.shape[-1]) + DT * w).astype(w.dtype)


def rotations(w: Array) -> Array:
    """Antisymmetric parts, whose lines are orthogonal: a product of any length stays of order one."""
    return ((w - np.swapaxes(w, -1, -2)) / math.sqrt(2.0)).astype(w.dtype)


def product(u: Array) -> Array:
    """u_{T-1} ... u_0 of (..., T, d, d), in double precision."""
    u = u.astype(np.result_type(u, np.float64))
    while u.shape[-3] > 1:
        last = u[..., u.shape[-3] // 2 * 2 :, :, :]
        u = np.concatenate([u[..., 1::2, :, :] @ u[..., : u.shape[-3] // 2 * 2 : 2, :, :], last], axis=-3)
    return u[..., 0, :, :]


def line(w: Array, dt: float = DT) -> Array:
    """The ordered product of exp(w_k dt), in double precision."""
    return product(exponentials(w, dt))


def exponentials(w: Array, dt: float = DT) -> Array:
    """exp(w_k dt), in double precision: Taylor's series at 2^-6 of the exponent, squared."""
    a = w.astype(np.result_type(w, np.float64)) * (dt / 64)
    one = np.eye(w.shape[-1])
    # One-norms stay below 1.2 / 64 here: the first term left out is below 1e-26.
    u = one + a / 10
    for k in range(9, 0, -1):
        u = one + a @ u / k
    for _ in range(6):
        u = u @ u
    return u


def checker(exact: Callable[[Array], Array], argument: Array, tolerance: float | None = None) -> Callable[[Any], None]:
    """Asserts that a result agrees with ``exact`` of a few paths of ``argument``, and that all of it is finite."""
    chosen = np.unique(np.linspace(0, len(argument) - 1, SAMPLE).astype(int))
    expected = exact(argument[chosen])
    scale = np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
    bound = TOLERANCE[argument.dtype.name] if tolerance is None else tolerance

    def check(result: Any) -> None:
        found = np.asarray(result)
        assert found.dtype == argument.dtype
        assert len(found) == len(argument)
        assert np.isfinite(found).all()
        error = (np.abs(found[chosen] - expected) / scale).max()
        assert error <= bound, f"relative error {error:.2g}, at most {bound:.2g} expected"

    return check


def product_flops(u: Array) -> float:
    """Useful floating-point operations of the ordered products of (batch, T, d, d).

    T - 1 matrix products a path, each 2 d^3 operations (8 d^3 for complex numbers).
    """
    return math.prod(u.shape[:-3]) * (u.shape[-3] - 1) * _matrix_product(u)


def line_flops(w: Array, dt: float = DT) -> float:
    """Useful floating-point operations of the Wilson lines of (batch, T, d, d).

    Per matrix, the products of the Taylor scheme that its own one-norm times dt asks for (degrees 2, 4, 8, 12, 18 take
    1, 2, 3, 4, 5 products; beyond the last threshold one more per squaring), whatever its neighbours in a vector ask
    for; and T - 1 products a path. Each counts 2 d^3 operations (8 d^3 for complex numbers). The multiply-adds that
    combine the powers in a polynomial, entry by entry, do not count.
    """
    scheme = cpu.TAYLOR["float64" if w.dtype.name in ("float64", "complex128") else "float32"]
    norms = np.abs(w).sum(axis=-2).max(axis=-1).ravel() * dt
    thetas = np.array([theta for _, theta in scheme])
    index = np.searchsorted(thetas, norms)
    products = np.array([PRODUCTS[degree] for degree, _ in scheme])[np.minimum(index, len(scheme) - 1)]
    beyond = norms > thetas[-1]
    squarings = np.ceil(np.log2(norms[beyond] / thetas[-1])).sum()
    return float(products.sum() + squarings) * _matrix_product(w) + product_flops(w)


def _matrix_product(a: Array) -> float:
    return (8.0 if a.dtype.kind == "c" else 2.0) * a.shape[-1] ** 3
