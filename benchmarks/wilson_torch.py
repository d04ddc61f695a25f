# SPDX-License-Identifier: MIT
"""Wilson lines in torch: matrix_exp and bmm, several formulations.

Each formulation gets its argument in the layout that suits it, (batch, T, d, d) or (T, batch, d, d), copied beforehand.
T is a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from peers import Peer

__all__ = ["gradient", "gradient_peers", "line_peers", "product_peers"]

Tensor = torch.Tensor
Product = Callable[[Tensor, Tensor], Tensor]

CHUNK_BYTES = 1 << 20
"""Matrices that matrix_exp takes at a time: its many intermediates then stay in a core's second-level cache."""

UNROLLED = 8
"""Largest dimension at which a product written out as multiply-adds may win; the compiler's time grows with it."""

UNROLLED_STEPS = 256
"""Steps beyond which a loop over them is not offered to the compiler, and is not worth an exponential each."""


def steps(u: Tensor) -> Tensor:
    """(T, batch, d, d): one bmm per step."""
    first, *rest = u.unbind()
    for factor in rest:
        first = torch.bmm(factor, first)
    return first


def steps_out(u: Tensor) -> Tensor:
    """:func:`steps` into two buffers."""
    result, free = torch.bmm(u[1], u[0]), torch.empty_like(u[0])
    for factor in u[2:]:
        torch.bmm(factor, result, out=free)
        result, free = free, result
    return result


def pairs(u: Tensor, product: Product = torch.matmul) -> Tensor:
    """(batch, T, d, d): neighbours together, log2(T) times. unbind, as the gradient of a slice fills with zeros."""
    while u.shape[1] > 1:
        earlier, later = u.unflatten(1, (-1, 2)).unbind(2)
        u = product(later, earlier)
    return u[:, 0]


def multiply_adds(a: Tensor, b: Tensor) -> Tensor:
    """a @ b as a sum of outer products, which a compiler fuses."""
    result = a[..., :, 0, None] * b[..., None, 0, :]
    for k in range(1, a.shape[-1]):
        result = result + a[..., :, k, None] * b[..., None, k, :]
    return result


def exponentials(w: Tensor, dt: float) -> Tensor:
    """All at once."""
    return torch.matrix_exp(w * dt)


def chunked(w: Tensor, dt: float) -> Tensor:
    """A few matrices at a time."""
    matrices = w.flatten(0, 1)
    size = max(1, CHUNK_BYTES // (matrices[0].numel() * matrices.element_size()))
    return torch.cat([torch.matrix_exp(part * dt) for part in matrices.split(size)]).view(w.shape)


def _line(exp: Callable[[Tensor, float], Tensor], fold: Callable[[Tensor], Tensor], w: Tensor, dt: float) -> Tensor:
    return fold(exp(w, dt))


def _time_first(a: Tensor) -> Tensor:
    return a.transpose(0, 1).contiguous()


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=False)


def line_peers(array: Any, dt: float) -> Iterator[Peer]:
    """w (batch, T, d, d) to the ordered product of exp(w_k dt); a long path not step by step."""
    w = torch.from_numpy(array)
    long = w.shape[1] > UNROLLED_STEPS
    late = _time_first(w)
    for kind, exp in (("torch", exponentials), ("torch, chunks", chunked)):
        for argument, fold, note in ((late, steps, "steps"), (w, pairs, "pairs")):
            if not (long and fold is steps):
                yield Peer(kind, f"matrix_exp, bmm in {note}", partial(_line, exp, fold, argument, dt), slow=True)
    # Otherwise the shapes of all benchmarks exceed the recompilation limit, and torch falls back to eager mode.
    torch.compiler.reset()
    compiled = _compile(lambda w: _line(exponentials, pairs, w, dt))
    yield Peer("torch.compile", "matrix_exp, bmm in pairs", partial(compiled, w), slow=True)


def product_peers(array: Any) -> Iterator[Peer]:
    """u (batch, T, d, d) to the ordered product."""
    u = torch.from_numpy(array)
    long = u.shape[1] > UNROLLED_STEPS
    late = _time_first(u)
    yield Peer("torch bmm", "steps", partial(steps, late), slow=long)
    yield Peer("torch bmm", "steps, out=", partial(steps_out, late), slow=long)
    yield Peer("torch bmm", "pairs", partial(pairs, u))
    torch.compiler.reset()
    if not long:
        yield Peer("torch.compile", "bmm in steps", partial(_compile(steps), late))
    yield Peer("torch.compile", "bmm in pairs", partial(_compile(pairs), u))
    if u.shape[-1] <= UNROLLED:
        compiled = _compile(partial(pairs, product=multiply_adds))
        yield Peer("torch.compile", "multiply-adds in pairs", partial(compiled, u))


def gradient(line: Callable[[Tensor], Tensor], w: Tensor, grad: Tensor) -> Tensor:
    """Forward and backward: the gradient of <grad, line(w)>."""
    w = w.detach().requires_grad_()
    (result,) = torch.autograd.grad(line(w), w, grad)
    return result


def gradient_peers(w: Tensor, dt: float, grad: Tensor) -> Iterator[Peer]:
    """Gradient of <grad, line(w)> by w, both in the layout (batch, T, d, d)."""

    def transposed(w: Tensor) -> Tensor:
        return steps(w.transpose(0, 1))

    for exp, note in ((exponentials, "matrix_exp"), (chunked, "matrix_exp in chunks")):
        for fold, how in ((transposed, "steps"), (pairs, "pairs")):
            call = partial(gradient, partial(_line, exp, fold, dt=dt), w, grad)
            yield Peer("torch autograd", f"{note}, bmm in {how}", call, slow=True)
