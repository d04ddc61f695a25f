# SPDX-License-Identifier: MIT
"""Matrices that are too large for the kernels, or states of many columns: batched products of torch.

The polynomials and the Magnus exponents are those of ``_wilson_blas``, on batches. How often each matrix is squared
depends on its norm: :func:`expm` and :func:`expm_pair` read the largest count from the device, the one wait in this
folder. Inside a CUDA graph's capture, where nothing can be read, :data:`CAPTURED_SQUARINGS` are queued, and matrices
that need more become NaN. Products of float32 are those of torch: where users allow TF32, they have its precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nnsym_fast._native import cpu
from nnsym_fast._wilson_blas import Pair, adjoint, magnus, magnus_backward, plus, scaled, taylor, times

__all__ = ["expm", "expm_pair", "power_of_two", "transport", "transport_backward"]

Tensor = torch.Tensor
Links = Callable[[Tensor, Tensor | None, int], Tensor]
"""(w, dt, order) -> links (n, T, 1, d, d)."""

CAPTURED_SQUARINGS = 16
"""Enough for norms up to 2^16."""

CHUNK_BYTES = 1 << 28
"""Links that are held at a time."""


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^k in a real dtype, exact; k is cut to those of normal numbers."""
    if dtype == torch.float32:
        return (exponent.to(torch.int32).clamp(-126, 127) + 127).bitwise_left_shift(23).view(torch.float32)
    return (exponent.to(torch.int64).clamp(-1022, 1023) + 1023).bitwise_left_shift(52).view(torch.float64)


def _real(value: Tensor) -> torch.dtype:
    return value.real.dtype if value.is_complex() else value.dtype


def _norm(a: Tensor) -> Tensor:
    """1-norms (n,)."""
    result: Tensor = a.abs().sum(-2).amax(-1)
    return result


def _capturing(value: Tensor) -> bool:
    return value.is_cuda and torch.cuda.is_current_stream_capturing()


def _exponential(a: Pair) -> tuple[Pair, Tensor]:
    """(m, f) of matrices (n, d, d): exponentials are m + f 1, with f (n, 1, 1)."""
    value: Tensor = a[0]
    dtype = _real(value)
    info = torch.finfo(dtype)
    degrees: list[tuple[int, float]] = cpu.TAYLOR[str(dtype).removeprefix("torch.")]
    if a[1] is not None:  # the derivative of the polynomial is one degree shorter
        degrees = [(m, (info.eps / 2 * math.factorial(m)) ** (1 / m)) for m, _ in degrees]
    degree, theta = degrees[-1]

    def halvings(ratio: Tensor) -> Tensor:
        """Whole numbers, 0 where the ratio is no number."""
        return torch.nan_to_num(torch.log2(ratio), 0.0, 1e4, -1e4).ceil().to(torch.int32)

    def column(count: Tensor) -> Tensor:
        return power_of_two(count, dtype)[:, None, None]

    norm = _norm(value)
    finite = norm.isfinite()
    count = halvings(norm / theta).clamp(0, 120 if dtype == torch.float32 else 1000)
    small = scaled(a, column(-count))
    # All powers past the first are products of squares and cubes: Al-Mohy and Higham 2009.
    square = small[0] @ small[0]
    alpha = torch.maximum(_norm(square) ** 0.5, _norm(square @ small[0]) ** (1 / 3))
    spare = torch.minimum((-halvings(alpha / theta)).clamp(min=0), count)
    count = torch.where(finite, count - spare, 0)
    small = scaled(small, column(spare))
    if _capturing(value):
        loops = CAPTURED_SQUARINGS
        finite = finite & (count <= loops)
    else:
        sizes = torch.stack([torch.where(finite, norm, 0).amax(), count.amax().to(dtype)])
        largest, most = sizes.tolist()  # waits for the device
        loops = int(most)
        if not loops:
            degree = next((m for m, theta in degrees if largest <= theta), degree)
    m = taylor(small, degree)
    f = torch.ones_like(norm)[:, None, None]
    for k in range(loops):
        active = (count > k)[:, None, None]
        whole = m[0] + torch.eye(value.shape[-1], dtype=dtype, device=value.device)
        small_now = active & (f != 0) & (_norm(whole) < 0.5)[:, None, None]
        m = torch.where(small_now, whole, m[0]), m[1]
        f = torch.where(small_now, torch.zeros_like(f), f)
        squared = times(m, m)
        more = plus(squared, scaled(m, f), 2)
        m = torch.where(active, more[0], m[0]), None if m[1] is None else torch.where(active, more[1], m[1])
    nan = torch.where(finite, 0.0, math.nan).to(dtype)[:, None, None]
    return (m[0] + nan, None if m[1] is None else m[1] + nan), f


def expm(a: Tensor) -> Tensor:
    """exp of every matrix (n, d, d)."""
    m, f = _exponential((a, None))
    result: Tensor = m[0] + f * torch.eye(a.shape[-1], dtype=f.dtype, device=a.device)
    return result


def expm_pair(a: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """exp of every matrix, and its derivative along ``tangent``."""
    m, f = _exponential((a, tangent))
    return m[0] + f * torch.eye(a.shape[-1], dtype=f.dtype, device=a.device), m[1]


def _some(dt: Tensor | None, begin: int, end: int) -> Tensor | None:
    return dt if dt is None or dt.shape[1] == 1 else dt[:, begin:end]


def _chunks(w: Tensor, length: int | None = None) -> Iterator[tuple[int, int]]:
    """Steps [begin, end) whose links are held at a time."""
    n, steps, _, d, _ = w.shape
    size = max(1, CHUNK_BYTES // max(1, n * d * d * w.element_size()))
    size = min(size, length or size)
    for begin in range(0, steps, size):
        yield begin, min(begin + size, steps)


def _tree(u: Tensor) -> Tensor:
    """u_{t-1} ... u_0 of links (n, t, d, d), in pairs."""
    while u.shape[1] > 1:
        pairs = u.shape[1] // 2
        rest = u[:, 2 * pairs :]
        u = u[:, 1 : 2 * pairs : 2] @ u[:, 0 : 2 * pairs : 2]
        if rest.shape[1]:
            u = torch.cat([u, rest], 1)
    return u[:, 0]


def _normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """States (n, d, c) whose largest part lies in [1/2, 1), and the exponents (n,) taken out; -1: not a number."""
    parts = torch.view_as_real(x).flatten(-2) if x.is_complex() else x
    largest = parts.abs().amax((-2, -1))
    regular = largest.isfinite() & (largest > 0)
    exponent = torch.where(regular, torch.frexp(largest)[1].to(torch.int32), 0)
    return _shifted(x, -exponent[:, None, None]), torch.where(regular, exponent, _NOTHING)


_NOTHING = -(1 << 30)
"""No exponent that a number can have."""


def _shifted(x: Tensor, by: Tensor) -> Tensor:
    """x 2^by by two factors, as one may not be a number."""
    half = by // 2
    dtype = _real(x)
    return x * power_of_two(half, dtype) * power_of_two(by - half, dtype)


def transport(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    b: Tensor | None,
    order: int,
    cumulative: bool,
    log_scale: bool,
    links: Links,
) -> tuple[Tensor, Tensor | None]:
    """States of every path, as ``_wilson.transport``: all paths at a time."""
    n, d = w.shape[0], w.shape[-1]
    if b is None and not cumulative and not log_scale and (x0 is None or x0.shape[-1] >= d):
        line = x0
        for begin, end in _chunks(w):
            u = _tree(links(w[:, begin:end], _some(dt, begin, end), order)[:, :, 0])
            line = u if line is None else u @ line
        assert line is not None
        return line.clone(memory_format=torch.contiguous_format), None
    x = torch.eye(d, dtype=w.dtype, device=w.device).repeat(n, 1, 1) if x0 is None else x0
    total = torch.zeros(n, dtype=torch.int32, device=w.device)
    states, exponents = [], []

    def emit() -> None:
        nonlocal x, total
        if log_scale:
            x, more = _normalise(x)
            total = torch.where(more == _NOTHING, 0, total + more)
            exponents.append(total)
        states.append(x)
        if not cumulative:
            del states[:-1], exponents[:-1]

    emit()
    for begin, end in _chunks(w):
        u = links(w[:, begin:end], _some(dt, begin, end), order)[:, :, 0]
        for k in range(begin, end):
            x = u[:, 0] if x0 is None and not log_scale and k == 0 else u[:, k - begin] @ x
            if b is not None:
                x = x + b[:, k]
            emit()
    if not cumulative:
        return states[0].clone(memory_format=torch.contiguous_format), exponents[0] if log_scale else None
    return torch.stack(states, 1), torch.stack(exponents, 1) if log_scale else None


def transport_backward(
    w: Tensor,
    dt: Tensor | None,
    x0: Tensor | None,
    states: Tensor | None,
    shift: Tensor | None,
    grad: Tensor,
    order: int,
    links: Links,
    derivative: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Vector-Jacobian product, as ``_wilson.transport_backward``: chunks of steps from the last to the first.

    ``derivative``: that of exp at matrices (n, d, d) along others.
    """
    n, steps, nodes, d, _ = w.shape
    every = grad.dim() == 4
    real = _real(w)
    gw = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    gdt = torch.empty((n, steps), dtype=real, device=w.device) if order else None

    def some(begin: int, end: int) -> Tensor:
        u = links(w[:, begin:end], _some(dt, begin, end), order)[:, :, 0]
        return u if shift is None else _shifted(u, -shift[:, begin:end, None, None])

    def run(x: Tensor, u: Tensor) -> list[Tensor]:
        """The states before each of these links, and after the last."""
        found = [x]
        for k in range(u.shape[1]):
            found.append(u[:, k] @ found[-1])
        return found

    length = None if states is not None else max(1, math.isqrt(max(0, steps - 1)) + 1)
    chunks = list(_chunks(w, length))
    marks: list[Tensor] = []
    if states is None:
        x = torch.eye(d, dtype=w.dtype, device=w.device).expand(n, d, d) if x0 is None else x0
        for begin, end in chunks:
            marks.append(x)
            if end < steps:
                x = run(x, some(begin, end))[-1]
    lam = grad[:, -1] if every else grad
    for begin, end in reversed(chunks):
        u = some(begin, end)
        before = torch.stack(run(marks.pop(), u[:, :-1]), 1) if states is None else states[:, begin:end]
        back = adjoint(u)
        pushes = []
        for k in range(end - begin - 1, -1, -1):
            pushes.append(lam)
            lam = back[:, k] @ lam
            if every:
                lam = lam + grad[:, begin + k]
        glinks = torch.stack(pushes[::-1], 1) @ adjoint(before)
        if shift is not None:
            glinks = _shifted(glinks, -shift[:, begin:end, None, None])
        if gdt is None:
            gw[:, begin:end, 0] = glinks
            continue
        times_now = _some(dt, begin, end)
        assert times_now is not None
        step = times_now[..., None, None]
        a = [step * w[:, begin:end, i] for i in range(nodes)]
        flat = (-1, d, d)
        omega = adjoint(magnus(a, order)).reshape(flat)
        g = derivative(omega.resolve_conj().contiguous(), glinks.reshape(flat)).reshape(glinks.shape)
        parts: Any = 0
        for i, part in enumerate(magnus_backward(g, a, order)):
            parts = parts + (part.conj() * w[:, begin:end, i]).real.sum((-2, -1))
            gw[:, begin:end, i] = part * step
        gdt[:, begin:end] = parts
    return gw, gdt, lam.clone()
