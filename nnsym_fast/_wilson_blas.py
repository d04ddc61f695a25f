# SPDX-License-Identifier: MIT
"""The Wilson family on large matrices, one after the other through NumPy's BLAS, which has the threads.

exp by Taylor polynomials with scaling and squaring: Paterson-Stockmeyer with the thresholds of the compiled kernels,
through exp - 1 as long as that is the accurate one (csrc/cpu/wilson_exp.inl has the reasons). The polynomials and the
Magnus exponents take tensors of torch, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast._native import cpu

__all__ = [
    "adjoint",
    "expm",
    "expm_pair",
    "magnus",
    "magnus_backward",
    "plus",
    "scaled",
    "taylor",
    "times",
    "transport",
    "transport_backward",
]

Array = npt.NDArray[Any]
Pair = tuple[Any, Any]
"""Matrices (..., d, d), and the tangents that are carried along (None: none)."""


def times(a: Pair, b: Pair) -> Pair:
    if a[1] is None or b[1] is None:
        return a[0] @ b[0], None
    return a[0] @ b[0], a[0] @ b[1] + a[1] @ b[0]


def plus(a: Pair, b: Pair, factor: float = 1.0) -> Pair:
    """a + factor b."""
    if a[1] is None or b[1] is None:
        return a[0] + factor * b[0], None
    return a[0] + factor * b[0], a[1] + factor * b[1]


def scaled(a: Pair, factor: Any) -> Pair:
    return a[0] * factor, None if a[1] is None else a[1] * factor


def _norm(a: Array) -> float:
    return float(np.abs(a).sum(axis=0).max())


def taylor(a: Pair, degree: int) -> Pair:
    """Sum of a^k / k! for k = 1 to ``degree``, which the square root's floor divides."""
    size = max(1, math.isqrt(degree))
    while degree % size:
        size -= 1
    powers = [a]
    while len(powers) < size:
        powers.append(times(powers[-1], a))
    top = degree - size
    total: Pair | None = None
    for begin in range(top, -1, -size):
        # a^begin (a / (begin + 1)! + ... + a^size / (begin + size)!), and below it what the loop adds next.
        part = scaled(powers[0], 1 / math.factorial(begin + 1))
        for k in range(2, size + 1):
            part = plus(part, powers[k - 1], 1 / math.factorial(begin + k))
        if total is not None:
            part = plus(part, times(powers[-1], total))
        total = part
    assert total is not None
    return total


def _exponential(a: Pair) -> tuple[Pair, float]:
    """(m, f): the exponential is m + f 1."""
    value = a[0]
    dtype = value.real.dtype
    norm = _norm(value)
    if not math.isfinite(norm):
        nan = np.full_like(value, np.nan)
        return (nan, None if a[1] is None else nan), math.nan
    degrees: list[tuple[int, float]] = cpu.TAYLOR[dtype.name]
    if a[1] is not None:  # the derivative of the polynomial is one degree shorter
        unit = float(np.finfo(dtype).eps) / 2
        degrees = [(m, (unit * math.factorial(m)) ** (1 / m)) for m, _ in degrees]
    for degree, theta in degrees:
        if norm <= theta:
            return taylor(a, degree), 1.0
    degree, theta = degrees[-1]
    count = min(max(0, math.ceil(math.log2(norm / theta))), 1000 if dtype == np.float64 else 120)
    small = scaled(a, 2.0**-count)
    # All powers past the first are products of squares and cubes: Al-Mohy and Higham 2009.
    square = small[0] @ small[0]
    alpha = max(_norm(square) ** 0.5, _norm(square @ small[0]) ** (1 / 3))
    spare = min(count, max(0, math.floor(math.log2(theta / alpha)))) if alpha > 0 else count
    count -= spare
    m, f = taylor(scaled(small, 2.0**spare), degree), 1.0
    diagonal = np.arange(len(value))
    for _ in range(count):
        if f:
            whole = m[0].copy()
            whole[diagonal, diagonal] += 1
            if _norm(whole) < 0.5:
                m, f = (whole, m[1]), 0.0
        squared = times(m, m)
        m = plus(squared, m, 2 * f) if f else squared
    return m, f


def _with_identity(m: Array, f: float) -> Array:
    index = np.arange(len(m))
    m[index, index] += f
    return m


def expm(a: Array) -> Array:
    """exp of every matrix (n, d, d)."""
    out = np.empty_like(a)
    for i, matrix in enumerate(a):
        m, f = _exponential((matrix, None))
        out[i] = _with_identity(m[0], f)
    return out


def expm_pair(a: Array, tangent: Array) -> tuple[Array, Array]:
    """exp of every matrix, and its derivative along ``tangent``."""
    out, derivative = np.empty_like(a), np.empty_like(a)
    for i in range(len(a)):
        m, f = _exponential((a[i], tangent[i]))
        assert m[1] is not None
        out[i], derivative[i] = _with_identity(m[0], f), m[1]
    return out, derivative


def _commutator(a: Any, b: Any) -> Any:
    return a @ b - b @ a


def magnus(a: Sequence[Any], order: int) -> Any:
    """Exponent from dt A at the nodes, each (..., d, d)."""
    if order == 2:
        return a[0]
    if order == 4:
        return (a[0] + a[1]) / 2 + math.sqrt(3) / 12 * _commutator(a[1], a[0])
    a1, a2, a3 = _order6(a)
    c1 = _commutator(a1, a2)
    c2 = -_commutator(a1, 2 * a3 + c1) / 60
    return a1 + a3 / 12 + _commutator(-20 * a1 - a3 + c1, a2 + c2) / 240


def _order6(a: Sequence[Any]) -> tuple[Any, Any, Any]:
    return a[1], math.sqrt(15) / 3 * (a[2] - a[0]), 10 / 3 * (a[2] - 2 * a[1] + a[0])


def adjoint(a: Any) -> Any:
    return a.conj().swapaxes(-1, -2)


def magnus_backward(g: Any, a: Sequence[Any], order: int) -> list[Any]:
    """Gradients with respect to dt A at the nodes, from that of the exponent."""
    if order == 2:
        return [g]
    if order == 4:
        s = math.sqrt(3) / 12
        return [g / 2 + s * _commutator(adjoint(a[1]), g), g / 2 - s * _commutator(adjoint(a[0]), g)]
    a1, a2, a3 = _order6(a)
    c1 = _commutator(a1, a2)
    y = 2 * a3 + c1
    p, q = -20 * a1 - a3 + c1, a2 - _commutator(a1, y) / 60
    gp, g2 = _commutator(g, adjoint(q)) / 240, _commutator(adjoint(p), g) / 240
    g1, g3, gc1, gc2 = g - 20 * gp, g / 12 - gp, gp, -g2 / 60
    g1 = g1 + _commutator(gc2, adjoint(y))
    gy = _commutator(adjoint(a1), gc2)
    g3, gc1 = g3 + 2 * gy, gc1 + gy
    g1, g2 = g1 + _commutator(gc1, adjoint(a2)), g2 + _commutator(adjoint(a1), gc1)
    r = math.sqrt(15) / 3
    return [10 / 3 * g3 - r * g2, g1 - 20 / 3 * g3, 10 / 3 * g3 + r * g2]


def _step(dt: Array, i: int, k: int) -> Any:
    return dt[i if dt.shape[0] > 1 else 0, k if dt.shape[1] > 1 else 0]


def _advance(w: Array, dt: Array | None, order: int, path: int, k: int, x: Array) -> Array:
    """U_k x of the nodes w of step k."""
    if dt is None:
        result: Array = w[0] @ x
    else:
        m, f = _exponential((magnus(w * _step(dt, path, k), order), None))
        result = m[0] @ x + f * x
    return result


def _normalise(x: Array) -> tuple[Array, int]:
    largest = float(np.maximum(np.abs(x.real), np.abs(x.imag)).max())
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 0
    factor = x.real.dtype.type(2.0)
    return x * factor ** -(exponent // 2) * factor ** -(exponent - exponent // 2), exponent


def transport(
    w: Array,
    dt: Array | None,
    x0: Array | None,
    b: Array | None,
    order: int,
    cumulative: bool,
    log_scale: bool,
) -> tuple[Array, Array | None]:
    """States of every path, as ``_wilson.transport``."""
    n, steps, _, d, _ = w.shape
    c = d if x0 is None else x0.shape[-1]
    out = np.empty((n, steps + 1, d, c) if cumulative else (n, 1, d, c), w.dtype)
    exponent = np.zeros(out.shape[:2], np.int32)
    for i in range(n):
        x = np.eye(d, dtype=w.dtype) if x0 is None else x0[i]
        total = 0
        for k in range(steps + 1):
            if k:
                x = _advance(w[i, k - 1], dt, order, i, k - 1, x)
                if b is not None:
                    x = x + b[i, k - 1]
            if log_scale:
                x, more = _normalise(x)
                total += more
            at = k if cumulative else 0
            out[i, at], exponent[i, at] = x, total
    if not cumulative:
        return out[:, 0], exponent[:, 0] if log_scale else None
    return out, exponent if log_scale else None


def transport_backward(
    w: Array,
    dt: Array | None,
    x0: Array | None,
    states: Array | None,
    shift: Array | None,
    grad: Array,
    order: int,
) -> tuple[Array, Array | None, Array]:
    """Vector-Jacobian product, as ``_wilson.transport_backward``."""
    n, steps, _, d, _ = w.shape
    every = grad.ndim == 4
    gw = np.empty_like(w)
    gdt = np.zeros((n, steps), w.real.dtype)
    gx0 = np.empty((n, d, grad.shape[-1]), w.dtype)
    for i in range(n):
        factor = np.ones(steps, w.real.dtype) if shift is None else np.ldexp(w.real.dtype.type(1), -shift[i])
        state = _recall(w[i], dt, x0, states, factor, order, i)
        lam = grad[i, -1] if every else grad[i]
        for k in range(steps - 1, -1, -1):
            lam = lam * factor[k]
            link = lam @ adjoint(state(k))
            if order == 0:
                gw[i, k, 0] = link
                lam = adjoint(w[i, k, 0]) @ lam
            else:
                assert dt is not None
                step = _step(dt, i, k)
                nodes = w[i, k] * step
                m, f = _exponential((adjoint(magnus(nodes, order)), link))
                assert m[1] is not None
                g = np.stack(magnus_backward(m[1], nodes, order))
                gdt[i, k] = np.vdot(g, w[i, k]).real
                gw[i, k] = g * step
                lam = m[0] @ lam + f * lam
            if every:
                lam = lam + grad[i, k]
        gx0[i] = lam
    return gw, gdt if order else None, gx0


def _recall(
    w: Array, dt: Array | None, x0: Array | None, states: Array | None, factor: Array, order: int, path: int
) -> Callable[[int], Array]:
    """States of one path, asked for in falling order: given ones, or recomputed from every sqrt(T)-th."""
    if states is not None:
        given = states[path]
        return lambda k: given[k]
    steps, d = w.shape[0], w.shape[-1]
    length = max(1, math.isqrt(max(0, steps - 1)) + 1)

    def run(x: Array, begin: int, end: int) -> list[Array]:
        found = [x]
        for k in range(begin, end):
            x = _advance(w[k], dt, order, path, k, x) * factor[k]
            found.append(x)
        return found

    marks = [np.eye(d, dtype=w.dtype) if x0 is None else x0[path]]
    for begin in range(0, steps - length, length):
        marks.append(run(marks[-1], begin, begin + length)[-1])
    held: dict[int, list[Array]] = {}

    def state(k: int) -> Array:
        chunk = k // length
        if chunk not in held:
            held.clear()
            held[chunk] = run(marks[chunk], chunk * length, min(steps, (chunk + 1) * length) - 1)
        return held[chunk][k - chunk * length]

    return state
