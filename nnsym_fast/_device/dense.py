# SPDX-License-Identifier: MIT
"""Dense groups on a device: the functions of ``_dense``, and ``_passes.run``, on tensors.

The kernels compute float32 in float32, without TF32, and add in one order: a point has the same bits in every batch.
Matrices of more than 1024 units (``DENSE_LARGEST``) are drawn through torch's products, sample by sample, in the
precision that ``torch.backends.cuda.matmul`` asks for; nothing here changes it. Nothing reads values on the host:
blocks whose ``perm`` is out of range become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from nnsym_fast import _device
from nnsym_fast._arrays import DTYPE_CODE, DTYPE_SIZE
from nnsym_fast._dense import PANEL, _unit, matrix_shape
from nnsym_fast._native import cpu
from nnsym_fast._passes import Box, Target
from nnsym_fast.elements import SiteElements
from nnsym_fast.groups import DRAW_PART, DRAW_SHIFT, Group, Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["draw_matrices", "draw_shift", "normals", "run"]

WORKSPACE_BYTES = 256 << 20
"""Memory beside the results that drawing takes, at most, but for one sample."""

Tensor = torch.Tensor
Numbers = tuple[int, int, int, int, int]
"""Site, seed, first sample, step, count."""


# --- elements


class _Kind(NamedTuple):
    """A unit's group as the compiled module takes it."""

    kind: int
    heads: int
    size: int
    haar: int
    pairs: int
    interleaved: bool
    scale_std: float


def _kind(group: Group) -> _Kind:
    unit = _unit(group)
    pairs, haar, kind, interleaved = 0, unit.size, "general", False
    if isinstance(unit, Orthogonal):
        kind, haar = ("keeps_mean", unit.n - 1) if unit.keeps_mean else ("orthogonal", unit.n)
    elif isinstance(unit, RotaryCommutant):
        kind, haar, pairs, interleaved = "rotary", unit.free, len(unit.pairs), unit.layout == "interleaved"
    elif isinstance(unit, SpecialLinear):
        kind = "special"
    return _Kind(cpu.DENSE_KIND[kind], group.heads, unit.size, haar, pairs, interleaved, unit.scale_std)


@torch.no_grad()
def draw_matrices(
    group: Group, index: int, n: int, seed: int, start: int, step: int, dtype: str, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Matrices and inverses of elements ``start, start + step, ...`` of a dense site, on the device of ``like``."""
    shape = matrix_shape(group, n)
    matrix, inverse = (torch.empty(shape, dtype=getattr(torch, dtype), device=like.device) for _ in range(2))
    if not n:
        return matrix, inverse
    module, kind = _device.module(), _kind(group)
    large = kind.haar > module.DENSE_LARGEST
    beside = 0 if large else kind.heads * module.dense_workspace(tuple(kind))
    chunk = 1 if large else max(1, min(n, WORKSPACE_BYTES // max(1, beside * DTYPE_SIZE[dtype])) if beside else n)
    work = torch.empty(chunk * beside, dtype=matrix.dtype, device=like.device) if beside else None
    for begin in range(0, n, chunk):
        some = min(chunk, n - begin)
        parts = matrix[begin : begin + some], inverse[begin : begin + some]
        numbers = (index, seed, (start + begin * step) % 2**64, step, some)
        if large:
            _draw_large(group, kind, numbers, *(part.view(-1, kind.size, kind.size) for part in parts))
            continue
        addresses = (*(part.data_ptr() for part in parts), 0 if work is None else work.data_ptr())
        module.dense_draw(*_device.place(matrix), dtype == "float64", tuple(kind), numbers, *addresses)
    return matrix, inverse


def draw_shift(group: Group, index: int, n: int, seed: int, start: int, step: int, dtype: str, like: Tensor) -> Tensor:
    """Shifts ``(n, size)`` of elements ``start, start + step, ...``, on the device of ``like``."""
    draws = normals("shift", index, n, seed, start, step, group.size, dtype, like)[:, : group.size]
    return torch.mul(draws, group.shift_std).contiguous()


def normals(
    part: str, index: int, n: int, seed: int, start: int, step: int, count: int, dtype: str, like: Tensor
) -> Tensor:
    """The first ``count`` normals, or some more, of a part of every sample: ``(n, 4 ceil(count / 4))``."""
    blocks = -(-count // 4)
    if blocks > 1 << DRAW_SHIFT:
        raise ValueError(f"site {index}: expected at most {4 << DRAW_SHIFT} numbers of one element, got {count}")
    out = torch.empty((n, 4 * blocks), dtype=getattr(torch, dtype), device=like.device)
    if out.numel():
        numbers = (seed, start % 2**64, step, n, blocks)
        place = _device.place(like)
        _device.module().dense_normals(*place, dtype == "float64", index, DRAW_PART[part], *numbers, out.data_ptr())
    return out


def _draw_large(group: Group, kind: _Kind, numbers: Numbers, matrix: Tensor, inverse: Tensor) -> None:
    """All heads of one element, ``(heads, m, m)``. The shapes of all products are those of one sample: so are bits."""
    unit, (index, seed, start, step, _) = _unit(group), numbers
    dtype = str(matrix.dtype).removeprefix("torch.")
    heads, m, n = kind.heads, kind.size, kind.haar
    row, phases = 4 * -(-n // 4), 4 * -(-kind.pairs // 4)
    both = not isinstance(unit, Orthogonal)
    words = phases + (2 if both else 1) * n * row
    draws = normals("matrix", index, 1, seed, start, step, heads * words, dtype, matrix)
    gaussian = draws[0, : heads * words].view(heads, words)[:, phases:].reshape(heads, -1, n, row)[..., :n]
    corner = matrix[:, m - n :, m - n :], inverse[:, m - n :, m - n :]
    with torch.autocast(matrix.device.type, enabled=False):
        first, sign = _haar(gaussian[:, 0])
        if both:
            second, other = _haar(gaussian[:, 1])
            logs = normals("scale", index, 1, seed, start, step, heads * m, dtype, matrix)
            logs = (logs[0, : heads * m].view(heads, m) * kind.scale_std)[:, kind.pairs : kind.pairs + n]
            if isinstance(unit, SpecialLinear):
                logs = logs - logs.mean(-1, keepdim=True)
                second[:, -1] *= (sign * other)[:, None]
            corner[0].copy_((first * logs.exp()[:, None]) @ second)
            corner[1].copy_(((first * logs.neg().exp()[:, None]) @ second).mT)
        else:
            corner[0].copy_(first)
            corner[1].copy_(first.mT)
    if kind.pairs or (isinstance(unit, Orthogonal) and unit.keeps_mean):
        addresses = matrix.data_ptr(), inverse.data_ptr()
        place = _device.place(matrix)
        _device.module().dense_frame(*place, dtype == "float64", tuple(kind), numbers, *addresses)


def _haar(gaussian: Tensor) -> tuple[Tensor, Tensor]:
    """Haar matrices of Gaussian ones ``(b, n, n)``, and the signs of their determinants: ``_dense._haar``."""
    n = gaussian.shape[-1]
    corner = gaussian.diagonal(dim1=-2, dim2=-1)
    negative = corner < 0
    upper = gaussian.triu()
    norm = upper.square().sum(-1).sqrt()
    tau = 1.0 / (norm * norm + corner.abs() * norm)
    upper.diagonal(dim1=-2, dim2=-1).add_(torch.where(negative, -norm, norm))  # rows: the vectors of the reflections
    result = torch.zeros_like(upper)
    result.diagonal(dim1=-2, dim2=-1).fill_(1)
    for first in reversed(range(0, n, PANEL)):
        last = min(n, first + PANEL)
        block, v = result[:, first:, first:], upper[:, first:last, first:]
        # H_1 ... H_b = 1 - V T V^T with T^-1 the upper triangle of V^T V, 1 / tau on its diagonal.
        triangle = (v @ v.mT).triu(1)
        triangle.diagonal(dim1=-2, dim2=-1).copy_(1.0 / tau[:, first:last])
        block.sub_(v.mT @ torch.linalg.solve_triangular(triangle, v @ block, upper=True))
    minus = torch.where(negative, 1.0, -1.0).to(result)
    odd = (n - torch.arange(n, device=result.device)) % 2 == 1
    determinant = torch.where(odd & ~negative, 1.0, -1.0).to(result).prod(-1)
    return result * minus.cumprod(-1)[:, None], determinant


# --- passes


@lru_cache(maxsize=1024)
def _joined(boxes: tuple[Box, ...]) -> tuple[Box, ...]:
    """Neighbouring pieces without a leg as one: what the CPU moves piece by piece takes one launch here."""
    result: list[Box] = []
    for box in boxes:
        last = result[-1] if result else None
        if (
            last is not None
            and last.leg is None
            and box.leg is None
            and last[:4] == box[:4]
            and box.offset == last.offset + last.size * last.axis_stride
        ):
            result[-1] = last._replace(size=last.size + box.size)
        else:
            result.append(box)
    return tuple(result)


def _order(spec: SymmetrySpec, leg: Leg, elements: Mapping[str, SiteElements]) -> Tensor | None:
    """Where the blocks of an axis come from, int32 ``(n, blocks)``; None: each from its own place."""
    if leg.order:
        perm: Any = elements[leg.order].perm
        return None if perm is None else perm.contiguous()
    perm = elements[leg.site].perm
    if perm is None:
        return None
    size = spec.sites[leg.site].head_size
    heads = torch.div(perm[:, ::size], size, rounding_mode="floor")
    if leg.copies > 1:
        copies = torch.arange(leg.copies, dtype=torch.int32, device=perm.device)
        heads = (heads[:, :, None] * leg.copies + copies).flatten(1)
    return heads.to(torch.int32).contiguous()


class _Action(NamedTuple):
    """What a pass does to the blocks of a leg, as tensors that live until it is queued."""

    matrix: Tensor | None
    dual: bool
    order: Tensor | None
    shift: Tensor | None

    def addresses(self) -> tuple[int | None, bool, int | None, int | None]:
        matrix, order, shift = (
            None if part is None else part.data_ptr() for part in (self.matrix, self.order, self.shift)
        )
        return matrix, self.dual, order, shift


def _action(spec: SymmetrySpec, leg: Leg | None, elements: Mapping[str, SiteElements]) -> _Action:
    if leg is None:
        return _Action(None, False, None, None)
    site: Any = elements[leg.site]
    parts = (site.inverse if leg.dual else site.matrix), (site.shift if leg.affine else None)
    matrix, shift = (None if part is None else part.contiguous() for part in parts)
    return _Action(matrix, leg.dual, _order(spec, leg, elements), shift)


@torch.no_grad()
def run(
    spec: SymmetrySpec,
    targets: Sequence[Target],
    elements: Mapping[str, SiteElements],
    count: int,
    sources: Mapping[str, tuple[Tensor, int, str]],
    results: Mapping[str, Tensor],
    dtype: str,
) -> None:
    """Pass tensors through their dense legs, on the current stream of their device.

    Args:
        spec: the symmetry.
        targets: the tensors.
        elements: site -> elements of all sites on their dense legs, ``count`` of them, tensors of dtype ``dtype``.
        count: number of samples.
        sources: tensor -> contiguous tensor, bytes from sample to sample (0: one for all), its dtype.
        results: tensor -> where its samples go, contiguous, ``(count, *shape)`` in its own storage.
        dtype: type of the arithmetic, float32 or float64.
    """
    if not count or not targets:
        return
    kind, place = getattr(torch, dtype), _device.place(results[targets[0].name])
    passes: list[tuple[Any, ...]] = []
    actions: dict[Leg | None, _Action] = {}
    held: list[Any] = []  # what is referred to by address
    for target in targets:
        source, stride, stored = sources[target.name]
        for number, boxes in enumerate(target.passes):
            last = number == len(target.passes) - 1
            wanted = target.storage if last else dtype
            out = results[target.name]
            if not last:
                out = torch.empty((count, *target.shape), dtype=kind, device=out.device)
            step = target.size * DTYPE_SIZE[wanted]
            codes = DTYPE_CODE[stored], DTYPE_CODE[wanted]
            for box in _joined(boxes):
                if box.leg not in actions:
                    actions[box.leg] = _action(spec, box.leg, elements)
                given = source.data_ptr(), stride, out.data_ptr(), step
                passes.append(((*codes, *box[:-1]), *given, *actions[box.leg].addresses()))
            held.append((source, out))
            source, stride, stored = out, step, wanted
        if len(target.passes) > 1:  # its stage is given back before the next one's is taken
            _apply(place, dtype, count, passes)
            held.clear()
    _apply(place, dtype, count, passes)


def _apply(place: tuple[int, int], dtype: str, count: int, passes: list[tuple[Any, ...]]) -> None:
    if passes:
        _device.module().dense_apply(*place, dtype == "float64", count, passes)
        passes.clear()
