# SPDX-License-Identifier: MIT
"""The orbit of an MLP in torch: permutations and positive rescalings of every hidden layer, several formulations.

Layers are pairs (weight, bias) with weights stored (out, in), or stacked (n, out, in); a result is the flat list
weight, bias, weight, bias, ... with the leading axis n. A side of a layer is None, or a permutation (n, h) and the
factors (n, h) that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from peers import SCALE_STD, Peer

__all__ = ["peers", "sample"]

Side = tuple[torch.Tensor, torch.Tensor] | None
Layer = tuple[torch.Tensor, torch.Tensor]
Formulation = Callable[[torch.Tensor, int, Side, Side], torch.Tensor]

CHUNK_BYTES = 2 << 20
"""Result that a chunk makes: what stays in a core's second-level cache between two passes over it."""


def sample(n: int, hidden: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per hidden layer n uniform permutations and n vectors of log-normal scales."""
    return [
        # Sorting random integers is the fastest batch of permutations; floats, randperm and multinomial take longer.
        (
            torch.randint(-(2**31), 2**31 - 1, (n, h), dtype=torch.int32).argsort(1),
            torch.randn(n, h).mul_(SCALE_STD).exp_(),
        )
        for h in hidden
    ]


def _sides(elements: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[Side, Side]]:
    """What multiplies each layer from the left and, inverted, from the right."""
    left: list[Side] = [*elements, None]
    right: list[Side] = [None, *((perm, scale.reciprocal()) for perm, scale in elements)]
    return list(zip(left, right, strict=True))


def _row_index(w: torch.Tensor, perm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all networks as one matrix, and the rows to take from it."""
    if w.ndim == 2:
        return w, perm.reshape(-1)
    first = torch.arange(w.shape[0]).mul_(w.shape[1])
    return w.reshape(-1, w.shape[2]), (perm + first[:, None]).view(-1)


def advanced(w: torch.Tensor, n: int, left: Side, right: Side) -> torch.Tensor:
    """W[k, p[:, :, None], q[:, None, :]] with broadcast indices."""
    rows = left[0][:, :, None] if left else torch.arange(w.shape[-2])[None, :, None]
    columns = right[0][:, None, :] if right else torch.arange(w.shape[-1])[None, None, :]
    if w.ndim == 3:
        moved = w[torch.arange(n)[:, None, None], rows, columns]
    else:
        moved = w[left[0]] if left and not right else w[rows, columns]
    if left:
        moved.mul_(left[1][:, :, None])
    return moved.mul_(right[1][:, None, :]) if right else moved


def gather(w: torch.Tensor, n: int, left: Side, right: Side) -> torch.Tensor:
    """index_select of the rows, then gather along them."""
    moved = w if w.ndim == 3 else w.expand(n, *w.shape)
    if left:
        matrix, index = _row_index(w, left[0])
        moved = matrix.index_select(0, index).view(n, w.shape[-2], w.shape[-1]).mul_(left[1][:, :, None])
    if right:
        moved = moved.gather(2, right[0][:, None, :].expand(moved.shape)).mul_(right[1][:, None, :])
    return moved


def apply(
    layers: Sequence[Layer], n: int, elements: list[tuple[torch.Tensor, torch.Tensor]], weight: Formulation
) -> list[torch.Tensor]:
    """All layers at once, with a fresh result."""
    result: list[torch.Tensor] = []
    for (w, b), (left, right) in zip(layers, _sides(elements), strict=True):
        result.append(weight(w, n, left, right))
        if left is None:
            result.append(b.clone() if b.ndim == 2 else b.expand(n, -1).clone())
        else:
            result.append((b.gather(1, left[0]) if b.ndim == 2 else b[left[0]]).mul_(left[1]))
    return result


def gather_into(w: torch.Tensor, left: Side, right: Side, out: torch.Tensor, work: torch.Tensor) -> None:
    """:func:`gather`, with the result and the intermediate in given memory."""
    moved = w if w.ndim == 3 else w.expand(out.shape)
    if left:
        target = (work.view(-1)[: out.numel()].view(out.shape) if right else out).view(-1, out.shape[2])
        torch.index_select(*_select_arguments(w, left[0]), out=target)
        moved = target.view(out.shape).mul_(left[1][:, :, None])
    if right:
        torch.gather(moved, 2, right[0][:, None, :].expand(out.shape), out=out)
        out.mul_(right[1][:, None, :])
    elif not left:
        out.copy_(moved)


def _select_arguments(w: torch.Tensor, perm: torch.Tensor) -> tuple[torch.Tensor, int, torch.Tensor]:
    matrix, index = _row_index(w, perm)
    return matrix, 0, index


def buffers(layers: Sequence[Layer], n: int) -> list[torch.Tensor]:
    return [torch.zeros(n, *t.shape[-d:]) for layer in layers for t, d in zip(layer, (2, 1), strict=True)]


def chunked(layers: Sequence[Layer], n: int, hidden: Sequence[int], out: list[torch.Tensor], chunk: int) -> None:
    """The whole job, a few networks at a time into buffers that exist."""
    sides = _sides(sample(n, hidden))
    work = torch.empty(chunk * max(w.shape[-2] * w.shape[-1] for w, _ in layers))

    def part(side: Side, k: int) -> Side:
        return side and (side[0][k : k + chunk], side[1][k : k + chunk])

    for k in range(0, n, chunk):
        for i, ((w, b), (left, right)) in enumerate(zip(layers, sides, strict=True)):
            left, right = part(left, k), part(right, k)
            if w.ndim == 3:
                w, b = w[k : k + chunk], b[k : k + chunk]
            gather_into(w, left, right, out[2 * i][k : k + chunk], work)
            bias = out[2 * i + 1][k : k + chunk]
            if left is None:
                bias.copy_(b)
            else:
                torch.gather(b.expand(bias.shape), 1, left[0], out=bias).mul_(left[1])


def loop(layers: Sequence[Layer], n: int, hidden: Sequence[int], out: list[torch.Tensor], fancy: bool) -> None:
    """The whole job, one network after the other: W[p][:, q], or index_select twice."""
    for k in range(n):
        elements = [(torch.randperm(h), torch.randn(h).mul_(SCALE_STD).exp_()) for h in hidden]
        for i, ((w, b), (left, right)) in enumerate(zip(layers, _sides(elements), strict=True)):
            moved, bias = (w[k], b[k]) if w.ndim == 3 else (w, b)
            if left:
                moved = moved[left[0]] if fancy else moved.index_select(0, left[0])
                moved.mul_(left[1][:, None])
                bias = bias[left[0]].mul_(left[1])
            if right:
                moved = moved[:, right[0]] if fancy else moved.index_select(1, right[0])
                moved.mul_(right[1])
            out[2 * i][k] = moved
            out[2 * i + 1][k] = bias


def peers(layers: Sequence[Layer], n: int, hidden: Sequence[int]) -> Iterator[Peer]:
    """Every formulation, eager and compiled."""
    out = buffers(layers, n)

    def looped() -> list[torch.Tensor]:
        fresh = [torch.empty_like(t) for t in out]
        loop(layers, n, hidden, fresh, True)
        return fresh

    def looped_into() -> list[torch.Tensor]:
        loop(layers, n, hidden, out, False)
        return out

    yield Peer("torch loop", "W[p][:, q]", looped, slow=True)
    yield Peer("torch loop", "index_select twice, buffers", looped_into, reuses=True, slow=True)
    for weight in (advanced, gather):
        yield Peer(
            "torch batched", weight.__name__, partial(_sampled, layers, n, hidden, partial(apply, weight=weight))
        )
    chunk = max(1, CHUNK_BYTES // sum(4 * t[0].numel() for t in out))
    for size, note in ((n, "all"), (chunk, str(chunk))):

        def chunks(size: int = size) -> list[torch.Tensor]:
            chunked(layers, n, hidden, out, size)
            return out

        yield Peer("torch batched", f"gather, out=, {note} at a time", chunks, reuses=True)
    yield from _compiled(layers, n, hidden, out)


def _sampled(
    layers: Sequence[Layer], n: int, hidden: Sequence[int], job: Callable[..., list[torch.Tensor]]
) -> list[torch.Tensor]:
    return job(layers, n, sample(n, hidden))


def _compiled(layers: Sequence[Layer], n: int, hidden: Sequence[int], out: list[torch.Tensor]) -> Iterator[Peer]:
    # Otherwise the shapes of all benchmarks exceed the recompilation limit, and torch falls back to eager mode.
    torch.compiler.reset()
    for weight in (advanced, gather):

        def job(layers: Sequence[Layer], n: int, elements: Any, weight: Formulation = weight) -> list[torch.Tensor]:
            return apply(layers, n, elements, weight)

        def job_into(
            layers: Sequence[Layer], n: int, elements: Any, weight: Formulation = weight
        ) -> list[torch.Tensor]:
            for target, value in zip(out, apply(layers, n, elements, weight), strict=True):
                target.copy_(value)
            return out

        # Elements are drawn outside: inside, the generated random numbers take twice as long.
        for function, note, reuses in ((job, "", False), (job_into, ", into buffers", True)):
            compiled = torch.compile(function, dynamic=False)
            yield Peer(
                "torch.compile", weight.__name__ + note, partial(_sampled, layers, n, hidden, compiled), reuses=reuses
            )
