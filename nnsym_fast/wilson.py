# SPDX-License-Identifier: MIT
"""Wilson lines: ordered products of matrix exponentials along paths, and what they do under gauge transformations.

Later times stand on the left. A path of T steps has the links u_0 .. u_{T-1}, and its Wilson line is u_{T-1} ... u_0.
Arrays are NumPy's or torch's (on the CPU or a CUDA device, differentiable to any order): float32, float64, complex64 or
complex128, with any number of leading batch axes.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast._matrices import (
    NODES,
    Backend,
    backend_of,
    broadcast_batch,
    check_generators,
    check_links,
    check_order,
    check_times,
    real_number,
)

__all__ = [
    "affine_flow",
    "cumulative_product",
    "expm",
    "gauge_transform",
    "gauss_nodes",
    "ordered_product",
    "reunitarize",
    "wilson_line",
    "wilson_loop",
]


def expm(a: Any) -> Any:
    """Matrix exponentials, each scaled by its own norm (Bader, Blanes, Casas 2019).

    Args:
        a: ``(..., d, d)``, float32, float64, complex64 or complex128.

    Returns:
        ``(..., d, d)`` of the same framework and dtype; a matrix that holds inf or NaN gives NaN, and it alone.

    Raises:
        TypeError: another dtype.
        ValueError: not square, or a tensor on another device.

    >>> import numpy as np, nnsym_fast as nf
    >>> nf.wilson.expm(np.array([[0.0, 1.0], [0.0, 0.0]]))
    array([[1., 1.],
           [0., 1.]])
    """
    backend, (matrices,) = backend_of(a=a)
    check_links("a", matrices.shape, ())
    return backend.expm(matrices)


def ordered_product(u: Any, *, log_scale: bool = False, reunitarize: bool = False, checkpoint: bool = False) -> Any:
    """The product ``u_{T-1} ... u_1 u_0`` of the links of a path, later ones on the left.

    Args:
        u: links ``(..., T, d, d)``; T may be 0.
        log_scale: return ``(p, exponent)`` with the product ``p * 2**exponent``, for products that leave the range of
            the dtype.
        reunitarize: return the nearest unitary matrix, for links that are unitary (orthogonal).
        checkpoint: the reverse pass of torch computes prefixes again, in memory O(sqrt(T) d^2) instead of O(T d^2).

    Returns:
        ``(..., d, d)``, the identity where T = 0. With ``log_scale`` also an int32 exponent of the batch shape: the
        largest real or imaginary part of ``p`` lies in [1/2, 1) (zero or non-finite: exponent 0). Derivatives take the
        exponent as constant.

    Raises:
        TypeError: another dtype than float32, float64, complex64, complex128.
        ValueError: not square, no axis T, another device, or ``log_scale`` with ``reunitarize``.

    >>> import numpy as np, nnsym_fast as nf
    >>> u = np.array([[[1.0, 2.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 1.0]]])
    >>> bool((nf.wilson.ordered_product(u) == u[1] @ u[0]).all())
    True
    >>> p, exponent = nf.wilson.ordered_product(np.full((3000, 1, 1), 2.0), log_scale=True)
    >>> p, int(exponent)
    (array([[0.5]]), 3001)
    """
    return _product(u, False, log_scale, reunitarize, checkpoint)


def cumulative_product(u: Any, *, log_scale: bool = False, reunitarize: bool = False) -> Any:
    """All prefixes of an ordered product: entry 0 is 1 and entry k is ``u_{k-1} ... u_0``.

    Args:
        u: links ``(..., T, d, d)``.
        log_scale: return ``(p, exponent)``, see :func:`ordered_product`, with an exponent for every entry.
        reunitarize: return the nearest unitary matrices.

    Returns:
        ``(..., T + 1, d, d)``; with ``log_scale`` also an int32 exponent ``(..., T + 1)``.

    Raises:
        TypeError, ValueError: as :func:`ordered_product`.

    >>> import numpy as np, nnsym_fast as nf
    >>> nf.wilson.cumulative_product(np.array([2.0, 3.0, 5.0]).reshape(3, 1, 1)).ravel()
    array([ 1.,  2.,  6., 30.])
    """
    return _product(u, True, log_scale, reunitarize, False)


def _product(u: Any, cumulative: bool, log_scale: bool, unitary: bool, checkpoint: bool) -> Any:
    backend, (links,) = backend_of(u=u)
    check_links("u", links.shape)
    return _line(backend, links[..., None, :, :], None, 0, cumulative, log_scale, unitary, checkpoint)


def wilson_line(
    w: Any,
    dt: Any,
    *,
    magnus_order: int = 2,
    cumulative: bool = False,
    log_scale: bool = False,
    reunitarize: bool = False,
    checkpoint: bool = False,
) -> Any:
    """The Wilson line P exp of the integral of w dt: the ordered product of one exponential per step.

    The exponent of a step is that of Magnus: order 2 takes ``dt w`` at the midpoint; orders 4 and 6 take w at two and
    three Gauss nodes (Blanes, Casas, Oteo, Ros 2009, section 5).

    Args:
        w: at the times of :func:`gauss_nodes`: ``(..., T, d, d)`` for order 2, ``(..., T, 2, d, d)`` for order 4,
            ``(..., T, 3, d, d)`` for order 6.
        dt: length of the steps: a real number, or an array that broadcasts to the batch axes and ``(T,)``. A torch
            tensor has the real dtype of ``w`` and is differentiated, too.
        magnus_order: 2, 4 or 6: the error is O(dt^order).
        cumulative: return the lines from the start to every step.
        log_scale, reunitarize, checkpoint: see :func:`ordered_product`.

    Returns:
        ``(..., d, d)``, or with ``cumulative`` ``(..., T + 1, d, d)`` that begin with 1; with ``log_scale`` also an
        int32 exponent per matrix.

    Raises:
        TypeError: another dtype of ``w``, or a ``dt`` that is not real or of another framework or dtype.
        ValueError: shapes that do not fit, another order, another device, or ``log_scale`` with ``reunitarize``.

    >>> import numpy as np, nnsym_fast as nf
    >>> t = nf.wilson.gauss_nodes(0.0, np.pi / 2, 10, magnus_order=4)
    >>> w = np.cos(t)[..., None, None] * np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> line = nf.wilson.wilson_line(w, np.pi / 20, magnus_order=4)  # a rotation by the integral of cos, 1 radian
    >>> bool(np.allclose(line, [[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]], atol=1e-6))
    True
    """
    backend, (fields,) = backend_of(w=w)
    order = check_order(magnus_order)
    check_generators(fields.shape, order)
    if order == 2:
        fields = fields[..., None, :, :]
    times = backend.times(dt, fields)
    target = fields.shape[:-3]
    check_times(times.shape, target)
    times = backend.xp.broadcast_to(times, target)
    return _line(backend, fields, times, order, cumulative, log_scale, reunitarize, checkpoint)


def _line(
    backend: Backend,
    w: Any,
    times: Any,
    order: int,
    cumulative: bool,
    log_scale: bool,
    unitary: bool,
    checkpoint: bool,
) -> Any:
    if log_scale and unitary:
        raise ValueError(
            "log_scale: not with reunitarize, expected one of them: products that shrink or grow are not unitary"
        )
    out, exponent = backend.transport(w, times, None, order, bool(cumulative), bool(log_scale), bool(checkpoint))
    if log_scale:
        return out, exponent
    return _nearest_unitary(backend, out) if unitary else out


def gauss_nodes(t0: float, t1: float, steps: int, magnus_order: int = 2) -> npt.NDArray[np.float64]:
    """The times at which :func:`wilson_line` and :func:`affine_flow` take w (and b): Gauss-Legendre nodes of each step.

    Args:
        t0: start of the path.
        t1: its end; the steps are ``dt = (t1 - t0) / steps``.
        steps: number T of steps.
        magnus_order: 2, 4 or 6.

    Returns:
        float64, ascending within a step: ``(T,)`` midpoints for order 2, ``(T, 2)`` with 1/2 -+ sqrt(3)/6 of a step for
        order 4, ``(T, 3)`` with 1/2 -+ sqrt(15)/10 and 1/2 for order 6.

    Raises:
        TypeError: an argument is not a number of its kind.
        ValueError: a time that is not finite, negative ``steps``, another order.

    >>> import nnsym_fast as nf
    >>> nf.wilson.gauss_nodes(0.0, 1.0, 2)
    array([0.25, 0.75])
    >>> nf.wilson.gauss_nodes(0.0, 1.0, 5, magnus_order=6).shape
    (5, 3)
    """
    begin, end = real_number("t0", t0), real_number("t1", t1)
    for name, time in (("t0", begin), ("t1", end)):
        if not math.isfinite(time):
            raise ValueError(f"{name}: expected a finite time, got {time}")
    try:
        count = operator.index(steps)
    except TypeError:
        raise TypeError(f"steps: expected an integer, got {type(steps).__name__}") from None
    if count < 0:
        raise ValueError(f"steps: expected 0 or more, got {count}")
    order = check_order(magnus_order)
    offset = {2: (), 4: (math.sqrt(3) / 6,), 6: (math.sqrt(15) / 10,)}[order]
    nodes = np.array([*(-x for x in offset), *([0.0] if NODES[order] % 2 else []), *offset]) + 0.5
    times = begin + (np.arange(count)[:, None] + nodes) * ((end - begin) / max(count, 1))
    return times[:, 0] if order == 2 else times


def wilson_loop(u: Any, *, checkpoint: bool = False) -> Any:
    """Trace of the ordered product round a closed path; the same in every gauge.

    Args:
        u: links ``(..., T, d, d)``, the last of which ends where the first begins.
        checkpoint: see :func:`ordered_product`.

    Returns:
        ``(...)``, d where T = 0.

    Raises:
        TypeError, ValueError: as :func:`ordered_product`.

    >>> import numpy as np, nnsym_fast as nf
    >>> u = np.random.default_rng(0).normal(size=(7, 3, 3))
    >>> g = np.random.default_rng(1).normal(size=(8, 3, 3))
    >>> g[7] = g[0]
    >>> moved = nf.wilson.gauge_transform(u, g)
    >>> bool(np.isclose(nf.wilson.wilson_loop(moved), nf.wilson.wilson_loop(u)))
    True
    """
    backend, (links,) = backend_of(u=u)
    check_links("u", links.shape)
    out, _ = backend.transport(links[..., None, :, :], None, None, 0, False, False, bool(checkpoint))
    return backend.trace(out)


def affine_flow(
    w: Any,
    b: Any,
    x0: Any,
    dt: Any,
    *,
    magnus_order: int = 2,
    cumulative: bool = False,
    checkpoint: bool = False,
) -> Any:
    """Solution of x' = w(t) x + b(t): a gauge field w and a Higgs field b.

    One Wilson line of ``[[w, b], [0, 0]]``, so exact for w and b that are constant within a step, singular w included.

    Args:
        w: as in :func:`wilson_line`.
        b: ``(..., T, d)`` for order 2, ``(..., T, nodes, d)`` for orders 4 and 6.
        x0: ``(..., d)``. The batch axes of ``w``, ``b`` and ``x0`` broadcast.
        dt: as in :func:`wilson_line`.
        magnus_order, cumulative, checkpoint: as in :func:`wilson_line`.

    Returns:
        x at the end ``(..., d)``, or with ``cumulative`` at every step ``(..., T + 1, d)``, beginning with ``x0``.

    Raises:
        TypeError, ValueError: as :func:`wilson_line`; mixed frameworks, dtypes or devices.

    >>> import numpy as np, nnsym_fast as nf
    >>> x = nf.wilson.affine_flow(np.zeros((4, 2, 2)), np.ones((4, 2)), np.zeros(2), 0.5, cumulative=True)
    >>> x[:, 0]  # no w: the integral of b
    array([0. , 0.5, 1. , 1.5, 2. ])
    """
    backend, (fields, higgs, start) = backend_of(w=w, b=b, x0=x0)
    order = check_order(magnus_order)
    d = check_generators(fields.shape, order)
    tail = fields.shape[(-3 if order == 2 else -4) : -1]
    if len(higgs.shape) < len(tail) or higgs.shape[-len(tail) :] != tail:
        raise ValueError(f"b: expected shape (..., {str(tuple(tail))[1:]}, as w, got {tuple(higgs.shape)}")
    if len(start.shape) < 1 or start.shape[-1] != d:
        raise ValueError(f"x0: expected shape (..., {d}), vectors that w acts on, got {tuple(start.shape)}")
    if order == 2:
        fields, higgs = fields[..., None, :, :], higgs[..., None, :]
    xp, steps = backend.xp, fields.shape[-4]
    path = broadcast_batch(w=fields.shape[:-4], b=higgs.shape[:-3])
    batch = broadcast_batch(w=fields.shape[:-4], b=higgs.shape[:-3], x0=start.shape[:-1])
    times = backend.times(dt, fields)
    check_times(times.shape, (*batch, steps))
    one_path = all(size == 1 for size in (*path, *times.shape[:-1]))
    start = backend.append_one(xp.broadcast_to(start, (*batch, d)))
    if one_path:
        # All vectors move along one path: they are the columns of one matrix, and exponentials are taken once.
        path = ()
        fields, higgs = fields.reshape(fields.shape[-4:]), higgs.reshape(higgs.shape[-3:])
        times = times.reshape(times.shape[-1:])
        start = start.reshape((math.prod(batch), d + 1)).swapaxes(0, 1)
    else:
        path = batch
        fields = xp.broadcast_to(fields, (*batch, *fields.shape[-4:]))
        higgs = xp.broadcast_to(higgs, (*batch, *higgs.shape[-3:]))
        start = start[..., None]
    times = xp.broadcast_to(times, (*path, steps))
    augmented = backend.augment(fields, higgs)
    out, _ = backend.transport(augmented, times, start, order, bool(cumulative), False, bool(checkpoint))
    if one_path:
        out = out[..., :d, :].swapaxes(-1, -2)
        if cumulative:
            out = out.swapaxes(0, 1)
        return backend.contiguous(out).reshape((*batch, *out.shape[1:]))
    return backend.contiguous(out[..., :d, 0])


def gauge_transform(u: Any, g: Any) -> Any:
    """Links in another basis at every site of their path: ``g_{k+1} u_k g_k^-1``.

    The ordered product becomes ``g_T U g_0^-1``, exactly and at any step size (Hashimoto, Hirono, Sannai 2402.02362).

    Args:
        u: links ``(..., T, d, d)``.
        g: invertible matrices at the T + 1 sites, ``(..., T + 1, d, d)``. The batch axes of ``u`` and ``g`` broadcast.

    Returns:
        ``(..., T, d, d)``.

    Raises:
        TypeError: mixed frameworks or dtypes, or another dtype.
        ValueError: shapes that do not fit, mixed devices, or a singular ``g`` (on a CUDA device, where a check would
            wait for it, its links become NaN).

    >>> import numpy as np, nnsym_fast as nf
    >>> u, g = np.full((2, 1, 1), 3.0), np.array([1.0, 2.0, 8.0]).reshape(3, 1, 1)
    >>> nf.wilson.gauge_transform(u, g).ravel()
    array([ 6., 12.])
    """
    backend, (links, bases) = backend_of(u=u, g=g)
    d = check_links("u", links.shape)
    if tuple(bases.shape[-3:]) != (links.shape[-3] + 1, d, d):
        raise ValueError(
            f"g: expected shape (..., {links.shape[-3] + 1}, {d}, {d}), one matrix more than links, "
            f"got {tuple(bases.shape)}"
        )
    broadcast_batch(u=links.shape[:-3], g=bases.shape[:-3])
    moved = backend.multiply(bases[..., 1:, :, :], links)
    starts = backend.xp.broadcast_to(bases[..., :-1, :, :], moved.shape)
    solved = backend.solve("g", starts.swapaxes(-1, -2), moved.swapaxes(-1, -2))
    return backend.contiguous(solved.swapaxes(-1, -2))


def reunitarize(u: Any) -> Any:
    """The nearest unitary (orthogonal) matrices, for matrices that rounding has moved off.

    Newton-Schulz steps ``u (3 - u^H u) / 2``: from ``|u^H u - 1| < 1e-2`` to rounding, and from up to 0.3 near it.

    Args:
        u: ``(..., d, d)``, nearly unitary.

    Returns:
        ``(..., d, d)``.

    Raises:
        TypeError: another dtype than float32, float64, complex64, complex128.
        ValueError: not square, or another device.

    >>> import numpy as np, nnsym_fast as nf
    >>> u = nf.wilson.reunitarize(np.array([[1.001, 0.002], [-0.001, 0.999]]))
    >>> bool(np.allclose(u.T @ u, np.eye(2), atol=1e-15))
    True
    """
    backend, (matrices,) = backend_of(u=u)
    check_links("u", matrices.shape, ())
    return _nearest_unitary(backend, matrices)


def _nearest_unitary(backend: Backend, u: Any) -> Any:
    """Each step squares the error: 2e-2, 3e-4, 7e-8 (the rounding of float32), 4e-15, 1e-29."""
    one = backend.eye(u)

    def product(a: Any, b: Any) -> Any:
        return backend.transport(a[..., None, None, :, :], None, b, 0, False, False, True)[0]

    for _ in range(4):
        gram = product(u.conj().swapaxes(-1, -2), u)
        u = u + product(u, (one - gram) / 2)
    return u
