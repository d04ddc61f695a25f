# SPDX-License-Identifier: MIT
"""Wilson lines: ordered products of matrix exponentials, as readable definitions that kernels are tested against.

Later times stand on the left: the line of a connection w(t) is the solution of U' = w U, U(0) = 1. On a lattice the
links u_0 ... u_{T-1} play its part, u_k the step from time k to k + 1, and a change of basis g acts on them as
u_k -> g_{k+1} u_k g_k^-1.

Arrays are float32, float64, complex64 or complex128. The arithmetic is float64 or complex128, rounded once at the end.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "affine_flow",
    "cumulative_product",
    "expm",
    "expm_frechet",
    "gauge_transform",
    "gauss_nodes",
    "ordered_product",
    "plaquettes",
    "reunitarize",
    "wilson_line",
    "wilson_loop",
]

Array: TypeAlias = npt.NDArray[Any]

DTYPES = ("float32", "float64", "complex64", "complex128")

GAUSS_NODES = {
    2: (0.5,),
    4: (0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6),
    6: (0.5 - 15**0.5 / 10, 0.5, 0.5 + 15**0.5 / 10),
}
"""Magnus order -> the Gauss-Legendre nodes of a step of length 1."""

TAYLOR_TERMS = 16
"""||a|| <= 1/4 leaves a remainder of 4^-17 / 17! = 2e-25."""


def _wide(name: str, value: npt.ArrayLike) -> Array:
    """The value in float64 or complex128."""
    array = np.asarray(value)
    if array.dtype.name not in DTYPES:
        raise TypeError(f"{name}: expected one of {', '.join(DTYPES)}, got {array.dtype}")
    return array.astype(np.result_type(array, np.float64))


def _matrices(name: str, value: npt.ArrayLike, axes: tuple[str, ...] = ()) -> Array:
    """The same for an array of shape ``(..., *axes, d, d)``."""
    array = _wide(name, value)
    if array.ndim < len(axes) + 2 or array.shape[-1] != array.shape[-2]:
        expected = ", ".join(("...", *axes, "d", "d"))
        raise ValueError(f"{name}: expected shape ({expected}), got {array.shape}")
    return array


def _narrow(result: Array, *like: npt.ArrayLike) -> Array:
    """The result in the dtype of the arguments; overflow to infinity is meant."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return result.astype(np.result_type(*like).newbyteorder("="))


def _finite(a: Array) -> Array:
    """Which matrices hold no infinity and no NaN, shape (..., 1, 1)."""
    return np.asarray(np.isfinite(a).all(axis=(-2, -1), keepdims=True))


def _norm(a: Array) -> Array:
    """1-norms, shape (...)."""
    return np.asarray(np.abs(a).sum(axis=-2).max(axis=-1, initial=0))


def _commutator(a: Array, b: Array) -> Array:
    return np.asarray(a @ b - b @ a)


def _largest(p: Array) -> Array:
    """The largest |real or imaginary part| of each matrix, shape (...)."""
    return np.asarray(np.maximum(np.abs(p.real), np.abs(p.imag)).max(axis=(-2, -1), initial=0))


def _broadcast_time(dt: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """Step lengths of shape ``batch + (T,)`` from a number or from anything that broadcasts to it."""
    steps = np.asarray(dt)
    if steps.dtype.kind not in "fiu":
        raise TypeError(f"dt: expected real numbers, got {steps.dtype}")
    return np.broadcast_to(steps.astype(np.float64), shape)


# --- the exponential


def expm(a: npt.ArrayLike) -> Array:
    """Exponential of matrices: exp(a) = exp(a / 2^s)^(2^s), with s such that the Taylor series needs few terms.

    Args:
        a: shape ``(..., d, d)``.

    Returns:
        shape ``(..., d, d)``; NaN for a matrix that holds an infinity or a NaN.

    >>> import numpy as np
    >>> bool(np.allclose(expm(np.array([[0, -np.pi], [np.pi, 0]])), -np.eye(2)))
    True
    """
    return _narrow(_expm(_matrices("a", a)), a)


def _expm(a: Array) -> Array:
    finite = _finite(a)
    a = np.where(finite, a, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        squarings = np.maximum(np.frexp(_norm(a))[1] + 2, 0)  # the norm is m 2^e with m < 1
        a = a * np.ldexp(1.0, -squarings)[..., None, None]
        one = np.eye(a.shape[-1])
        p = np.broadcast_to(one, a.shape)
        for k in range(TAYLOR_TERMS, 0, -1):  # Horner: 1 + a (1 + a / 2 (1 + a / 3 (...)))
            p = one + a @ p / k
        for k in range(squarings.max(initial=0)):
            p = np.where((k < squarings)[..., None, None], p @ p, p)
    return np.where(finite, p, np.nan)


def expm_frechet(a: npt.ArrayLike, e: npt.ArrayLike) -> Array:
    """Derivative of the exponential in the direction e: exp([[a, e], [0, a]]) = [[exp(a), L(a, e)], [0, exp(a)]].

    L(a, e) = d/ds exp(a + s e) at s = 0; all of shape ``(..., d, d)``.

    >>> import numpy as np
    >>> bool(np.allclose(expm_frechet(np.eye(2), np.eye(2)), np.e * np.eye(2)))
    True
    """
    point, tangent = np.broadcast_arrays(_matrices("a", a), _matrices("e", e))
    d = point.shape[-1]
    # L is linear in e: a tangent of norm below 1/8 adds no squarings.
    with np.errstate(over="ignore", invalid="ignore"):
        exponent = np.frexp(_norm(tangent))[1][..., None, None] + 3
        tangent = tangent * np.ldexp(1.0, -exponent)
    both = np.block([[point, tangent], [np.zeros_like(point), point]])
    return _narrow(_expm(both)[..., :d, d:] * np.ldexp(1.0, exponent), a, e)


# --- products


def _cumulative(u: Array, normalise: bool = False) -> tuple[Array, Array]:
    """All prefixes p_k = u_{k-1} ... u_0 and their exponents: the true values are p_k 2^exponent_k."""
    batch, steps, d = u.shape[:-3], u.shape[-3], u.shape[-1]
    p = np.broadcast_to(np.eye(d, dtype=u.dtype), (*batch, d, d))
    exponent = np.zeros(batch, dtype=np.int32)
    prefixes, exponents = [], []
    for k in range(steps + 1):
        if k > 0:
            with np.errstate(over="ignore", invalid="ignore"):
                p = u[..., k - 1, :, :] @ p
        if normalise:
            p, exponent = _normalised(p, exponent)
        prefixes.append(p)
        exponents.append(exponent)
    return np.stack(prefixes, axis=-3), np.stack(exponents, axis=-1)


def _normalised(p: Array, exponent: Array) -> tuple[Array, Array]:
    """The same p 2^exponent with the largest part of p in [1/2, 1); zero and what is not finite get exponent 0."""
    largest = _largest(p)
    ordinary = np.isfinite(largest) & (largest > 0)
    shift = np.where(ordinary, np.frexp(largest)[1], 0)
    # In two halves, because 2^-shift of a subnormal number is not finite.
    with np.errstate(invalid="ignore"):
        p = p * np.ldexp(1.0, -(shift // 2))[..., None, None] * np.ldexp(1.0, shift // 2 - shift)[..., None, None]
    return p, np.where(ordinary, exponent + shift, 0).astype(np.int32)


def _finish(p: Array, exponent: Array, log_scale: bool, unitary: bool, *like: npt.ArrayLike) -> Any:
    if log_scale and unitary:
        raise ValueError("reunitarize: expected False with log_scale, got True; unitary products do not grow or shrink")
    if unitary:
        p = _reunitarize(p)
    result = _narrow(p, *like)
    if not log_scale:
        return result
    result, exponent = _normalised(result, exponent)  # rounding may reach 1
    return _narrow(result, *like), exponent


def cumulative_product(u: npt.ArrayLike, *, log_scale: bool = False, reunitarize: bool = False) -> Any:
    """All prefixes of an ordered product: entry k is u_{k-1} ... u_1 u_0, entry 0 is 1.

    Args:
        u: links, shape ``(..., T, d, d)``.
        log_scale: normalise every prefix, see :func:`ordered_product`.
        reunitarize: replace every prefix by the nearest unitary matrix.

    Returns:
        shape ``(..., T + 1, d, d)``; with ``log_scale`` also the exponents, int32 of shape ``(..., T + 1)``.

    >>> import numpy as np
    >>> cumulative_product(np.array([[[2.0]], [[3.0]], [[5.0]]]))[:, 0, 0].tolist()
    [1.0, 2.0, 6.0, 30.0]
    """
    return _finish(*_cumulative(_matrices("u", u, ("T",)), log_scale), log_scale, reunitarize, u)


def ordered_product(
    u: npt.ArrayLike, *, log_scale: bool = False, reunitarize: bool = False, checkpoint: bool = False
) -> Any:
    """The ordered product u_{T-1} ... u_1 u_0, later factors on the left; 1 for T = 0.

    Args:
        u: links, shape ``(..., T, d, d)``.
        log_scale: normalise the product so that it neither over- nor underflows.
        reunitarize: replace the product by the nearest unitary matrix.
        checkpoint: without effect here.

    Returns:
        p, shape ``(..., d, d)``. With ``log_scale`` (p, exponent): the product is ``p * 2**exponent``, exponent int32
        of shape ``(...)``, the largest |real or imaginary part| of p in [1/2, 1); 0 and what is not finite: exponent 0.

    >>> import numpy as np
    >>> ordered_product(np.array([[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]]))
    array([[2., 2.],
           [0., 1.]])
    """
    p, exponent = _cumulative(_matrices("u", u, ("T",)), log_scale)
    return _finish(p[..., -1, :, :], exponent[..., -1], log_scale, reunitarize, u)


def wilson_loop(u: npt.ArrayLike, *, checkpoint: bool = False) -> Array:
    """The trace of the ordered product round a closed path, shape ``(...)``: invariant under g with g_T = g_0."""
    product = _cumulative(_matrices("u", u, ("T",)))[0][..., -1, :, :]
    return _narrow(np.trace(product, axis1=-2, axis2=-1), u)


def reunitarize(u: npt.ArrayLike) -> Array:
    """The nearest unitary (orthogonal) matrix: v w^H of the singular value decomposition u = v s w^H.

    All of shape ``(..., d, d)``; NaN for a matrix that is not finite.

    >>> import numpy as np
    >>> reunitarize(np.array([[0.0, -1.01], [0.99, 0.0]])).round(12) + 0.0
    array([[ 0., -1.],
           [ 1.,  0.]])
    """
    return _narrow(_reunitarize(_matrices("u", u)), u)


def _reunitarize(u: Array) -> Array:
    finite = _finite(u)
    v, _, w = np.linalg.svd(np.where(finite, u, 0))
    return np.where(finite, v @ w, np.nan)


# --- Wilson lines


def gauss_nodes(t0: float, t1: float, steps: int, magnus_order: int = 2) -> npt.NDArray[np.float64]:
    """The times at which :func:`wilson_line` wants the connection: Gauss-Legendre nodes of equal steps.

    Args:
        t0, t1: begin and end of the path.
        steps: number of steps T; each has the length ``dt = (t1 - t0) / steps``.
        magnus_order: 2, 4 or 6.

    Returns:
        float64, shape ``(T,)``, ``(T, 2)`` or ``(T, 3)``.

    >>> gauss_nodes(0.0, 2.0, 2).tolist()
    [0.5, 1.5]
    """
    nodes = np.array(GAUSS_NODES[_check_order(magnus_order)])
    times = np.arange(steps)[:, None] + nodes
    result = t0 + (t1 - t0) * times / max(steps, 1)
    return np.asarray(result[:, 0] if magnus_order == 2 else result, dtype=np.float64)


def _check_order(magnus_order: int) -> int:
    if magnus_order not in GAUSS_NODES:
        raise ValueError(f"magnus_order: expected 2, 4 or 6, got {magnus_order!r}")
    return magnus_order


def _magnus(a: Array, order: int) -> Array:
    """The exponent of a step from ``dt w`` at its nodes, (..., m, d, d): Blanes, Casas, Oteo, Ros 2009, section 5."""
    if order == 2:
        return np.asarray(a[..., 0, :, :])
    if order == 4:
        first, second = a[..., 0, :, :], a[..., 1, :, :]
        return np.asarray((first + second) / 2 + 3**0.5 / 12 * _commutator(second, first))
    before, middle, after = a[..., 0, :, :], a[..., 1, :, :], a[..., 2, :, :]
    # The Taylor coefficients of w at the middle of the step, times powers of dt.
    a1, a2, a3 = middle, 15**0.5 / 3 * (after - before), 10 / 3 * (after - 2 * middle + before)
    c1 = _commutator(a1, a2)
    c2 = -_commutator(a1, 2 * a3 + c1) / 60
    return np.asarray(a1 + a3 / 12 + _commutator(-20 * a1 - a3 + c1, a2 + c2) / 240)


def _links(w: Array, dt: npt.ArrayLike, order: int) -> Array:
    """exp(Omega_k) of every step, shape ``(..., T, d, d)``, from w of shape ``(..., T, m, d, d)``."""
    steps = _broadcast_time(dt, w.shape[:-3])
    with np.errstate(over="ignore", invalid="ignore"):
        return _expm(_magnus(steps[..., None, None, None] * w, order))


def _nodes(name: str, value: npt.ArrayLike, order: int, legs: int) -> Array:
    """The value with its axis of nodes, which order 2 omits, before the last ``legs`` axes."""
    wide = _wide(name, value)
    nodes = len(GAUSS_NODES[_check_order(order)])
    if order == 2 and wide.ndim > legs:
        wide = np.expand_dims(wide, -1 - legs)
    if wide.ndim < legs + 2 or wide.shape[-1 - legs] != nodes or len(set(wide.shape[-legs:])) != 1:
        axes = "T, " + f"{nodes}, " * (nodes > 1) + ", ".join(["d"] * legs)
        raise ValueError(f"{name}: expected shape (..., {axes}), got {np.shape(value)}")
    return wide


def wilson_line(
    w: npt.ArrayLike,
    dt: npt.ArrayLike,
    *,
    magnus_order: int = 2,
    cumulative: bool = False,
    log_scale: bool = False,
    reunitarize: bool = False,
    checkpoint: bool = False,
) -> Any:
    """P exp of the integral of w dt: the ordered product of exp(Omega_k), Omega_k the Magnus exponent of step k.

    Args:
        w: the connection at :func:`gauss_nodes`, shape ``(..., T, d, d)`` for order 2, ``(..., T, 2, d, d)`` for 4,
            ``(..., T, 3, d, d)`` for 6.
        dt: step, real: a number, or an array that broadcasts to ``batch + (T,)``.
        magnus_order: 2, 4 or 6.
        cumulative: all prefixes, as :func:`cumulative_product`.
        log_scale, reunitarize, checkpoint: as in :func:`ordered_product`.

    Returns:
        shape ``(..., d, d)`` or ``(..., T + 1, d, d)``; with ``log_scale`` also the exponents.

    >>> import numpy as np
    >>> w = np.broadcast_to(np.diag([1.0, 2.0]), (10, 2, 2))
    >>> bool(np.allclose(wilson_line(w, 0.1), np.diag(np.exp([1.0, 2.0]))))
    True
    """
    links = _links(_nodes("w", w, magnus_order, 2), dt, magnus_order)
    p, exponent = _cumulative(links, log_scale)
    if not cumulative:
        p, exponent = p[..., -1, :, :], exponent[..., -1]
    return _finish(p, exponent, log_scale, reunitarize, w)


def affine_flow(
    w: npt.ArrayLike,
    b: npt.ArrayLike,
    x0: npt.ArrayLike,
    dt: npt.ArrayLike,
    *,
    magnus_order: int = 2,
    cumulative: bool = False,
    checkpoint: bool = False,
) -> Array:
    """The solution of x' = w(t) x + b(t): the Wilson line of [[w, b], [0, 0]] applied to (x, 1).

    Args:
        w: gauge field, as in :func:`wilson_line`.
        b: Higgs field at the same times, shape ``(..., T, d)``, ``(..., T, 2, d)`` or ``(..., T, 3, d)``.
        x0: shape ``(..., d)``; the batch axes of w, b and x0 broadcast.
        dt: step, as in :func:`wilson_line`.
        magnus_order, checkpoint: as in :func:`wilson_line`.
        cumulative: all times.

    Returns:
        x at the end, shape ``(..., d)``, or ``(..., T + 1, d)`` with entry 0 = x0.

    >>> import numpy as np
    >>> affine_flow(np.zeros((4, 1, 1)), np.ones((4, 1)), np.zeros(1), 0.25, cumulative=True)[:, 0].tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    gauge, higgs = _nodes("w", w, magnus_order, 2), _nodes("b", b, magnus_order, 1)
    start = _wide("x0", x0)
    d = gauge.shape[-1]
    if higgs.shape[-1] != d or higgs.shape[-3] != gauge.shape[-4]:
        raise ValueError(f"b: expected the T and d of w, {gauge.shape}, got {np.shape(b)}")
    if start.ndim < 1 or start.shape[-1] != d:
        raise ValueError(f"x0: expected shape (..., {d}), got {start.shape}")
    batch = np.broadcast_shapes(gauge.shape[:-4], higgs.shape[:-3], start.shape[:-1])
    generator = np.zeros((*batch, *gauge.shape[-4:-2], d + 1, d + 1), np.result_type(gauge, higgs))
    generator[..., :d, :d] = gauge
    generator[..., :d, d] = higgs
    x = np.append(start, np.ones((*start.shape[:-1], 1)), axis=-1)
    lines = _cumulative(_links(generator, dt, magnus_order))[0]
    with np.errstate(over="ignore", invalid="ignore"):
        states = (lines @ x[..., None, :, None])[..., :d, 0]
    return _narrow(states if cumulative else states[..., -1, :], w, b, x0)


# --- gauge transformations


def gauge_transform(u: npt.ArrayLike, g: npt.ArrayLike) -> Array:
    """Links u ``(..., T, d, d)`` in the bases g ``(..., T + 1, d, d)`` of the sites: u_k -> g_{k+1} u_k g_k^-1."""
    links, sites = _matrices("u", u, ("T",)), _matrices("g", g, ("T + 1",))
    if sites.shape[-3] != links.shape[-3] + 1:
        raise ValueError(f"g: expected T + 1 = {links.shape[-3] + 1} matrices, got shape {sites.shape}")
    return _narrow(sites[..., 1:, :, :] @ links @ np.linalg.inv(sites[..., :-1, :, :]), u, g)


def plaquettes(u: npt.ArrayLike, *, periodic: tuple[bool, bool] = (False, False)) -> Array:
    """The curvature of links on a square lattice: the product round every elementary square.

    Args:
        u: shape ``(..., L0, L1, 2, d, d)``; ``u[..., i, j, mu, :, :]`` goes from site (i, j) one step in direction mu.
        periodic: whether the lattice closes in each direction; otherwise the links that leave it are not read.

    Returns:
        ``u1(i, j)^-1 u0(i, j+1)^-1 u1(i+1, j) u0(i, j)``: along 0, along 1, back along 0, back along 1. Shape
        ``(..., P0, P1, d, d)``, P = L if periodic, else L - 1. A gauge transformation takes it to g(i, j) P g(i, j)^-1.
    """
    links = _matrices("u", u, ("L0", "L1", "2"))
    if links.shape[-3] != 2:
        raise ValueError(f"u: expected shape (..., L0, L1, 2, d, d), got {links.shape}")
    rows, columns = (np.arange(n if p else n - 1) for n, p in zip(links.shape[-5:-3], periodic, strict=True))
    i, j = rows[:, None], columns
    up, right = (rows[:, None] + 1) % links.shape[-5], (columns + 1) % links.shape[-4]
    first, second = links[..., i, j, 0, :, :], links[..., up, j, 1, :, :]
    back_first, back_second = links[..., i, right, 0, :, :], links[..., i, j, 1, :, :]
    return _narrow(np.linalg.inv(back_second) @ np.linalg.inv(back_first) @ second @ first, u)
