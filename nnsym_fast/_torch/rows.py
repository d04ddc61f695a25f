# SPDX-License-Identifier: MIT
"""Torch's arithmetic on rows of states, for the driver of ode. Nothing is overwritten, so that autograd follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nnsym_fast.ode._schedule import Entry
from nnsym_fast.ode._stages import Step

__all__ = ["ROWS", "resolution"]

Tensor = torch.Tensor
Array = npt.NDArray[Any]


def resolution(dtype: torch.dtype) -> float:
    """The machine epsilon."""
    return torch.finfo(dtype).eps


def _numpy(x: Tensor) -> Array:
    return x.detach().to("cpu", torch.float64).numpy()


@lru_cache(maxsize=256)
def _used(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Which weights are not zero."""
    return tuple(j for j, weight in enumerate(weights) if weight)


def _keeps_precision(x: Tensor) -> bool:
    """Whether a matrix product has the precision of x: not under autocast, nor in TF32 where users allow it."""
    if torch.is_autocast_enabled(x.device.type):
        return False
    return not x.is_cuda or x.dtype in (torch.float64, torch.complex128)


class TorchRows:
    """Torch's arithmetic; see ``nnsym_fast.ode._state.Rows``."""

    kind = Tensor

    def __init__(self) -> None:
        self._tables: dict[Any, Tensor] = {}

    def array(self, values: Any, like: Tensor) -> Tensor:
        if isinstance(values, Tensor):
            return values.to(like.device, like.dtype.to_real())
        return torch.tensor(values, dtype=like.dtype.to_real(), device=like.device)

    def time(self, t: Any, like: Tensor) -> Tensor:
        if isinstance(t, float):
            return torch.scalar_tensor(t, dtype=like.dtype.to_real(), device=like.device)
        return self.array(t, like)

    def _table(self, weights: Sequence[float], used: tuple[int, ...], like: Tensor) -> Tensor:
        """A row of weights on the device; the same few for every step."""
        key = (weights, like.dtype, like.device)
        table = self._tables.get(key)
        if table is None:
            with torch.inference_mode(False), torch.no_grad():
                table = torch.tensor([[weights[j] for j in used]], dtype=like.dtype, device=like.device)
            if len(self._tables) > 256:
                self._tables.clear()
            self._tables[key] = table
        return table

    def combine(self, weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
        used = _used(weights)
        if not used:
            return torch.zeros_like(ks[0])
        total, last = self._sum(weights, used, ks)
        return total if last == 1 else total * last

    def _sum(self, weights: Sequence[float], used: tuple[int, ...], ks: Sequence[Tensor]) -> tuple[Tensor, float]:
        """The sum over the last weight, and that."""
        last = weights[used[-1]]
        total = ks[used[-1]]
        if len(used) < 4 or not _keeps_precision(total):
            for j in used[:-1]:
                total = torch.add(total, ks[j], alpha=weights[j] / last)
            return total, last
        # One product with the stack of stages: fewer passes over memory and fewer nodes of autograd than a chain.
        shape = total.shape
        stack = torch.cat([ks[j] if shape[0] == 1 else ks[j].reshape(1, -1) for j in used])
        return torch.mm(self._table(weights, used, total), stack).reshape(shape), 1.0

    def advance(self, y: Tensor, h: Any, weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
        used = _used(weights)
        if not used:
            return y
        if not isinstance(h, float):
            return torch.add(y, h * self.combine(weights, ks))
        if len(used) > 3 and y.shape[0] == 1 and _keeps_precision(y):
            return torch.addmm(y, self._table(weights, used, y), torch.cat([ks[j] for j in used]), alpha=h)
        total, last = self._sum(weights, used, ks)
        return torch.add(y, total, alpha=h * last)

    def mix(self, weights: Array, ks: Sequence[Tensor]) -> Tensor:
        table = torch.as_tensor(weights).to(ks[0].device, ks[0].dtype)
        if not _keeps_precision(ks[0]):
            out = table[:, :1] * ks[0]
            for j, k in enumerate(ks[1:], 1):
                out = out + table[:, j, None] * k
            return out
        if ks[0].shape[0] == 1:
            return table @ torch.cat(list(ks))
        return torch.einsum("mj,jmd->md", table, torch.stack(list(ks)))

    def abs(self, x: Tensor) -> Tensor:
        return x.abs()

    def scale(self, atol: Any, rtol: Any, *sizes: Tensor) -> Tensor:
        size = torch.maximum(*sizes) if len(sizes) > 1 else sizes[0]
        return torch.add(size * rtol, atol)

    def rms(self, x: Tensor) -> Array:
        wide = torch.complex128 if x.is_complex() else torch.float64
        found = torch.linalg.vector_norm(x, dim=1, dtype=wide)
        return _numpy(found) / math.sqrt(x.shape[1])

    def finite(self, x: Tensor) -> Array:
        return torch.isfinite(x.detach()).all(dim=1).cpu().numpy()

    def where(self, mask: Array, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(torch.from_numpy(mask).to(x.device)[:, None], x, y)

    def full(self, value: float, count: int, like: Tensor) -> Tensor:
        return like.new_full((count, like.shape[1]), value)

    def concatenate(self, values: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(values), axis)

    def take(self, x: Tensor, rows: Array) -> Tensor:
        return x[torch.from_numpy(rows).to(x.device)]

    def functional(self, y: Tensor, weights: Array) -> Array:
        return np.asarray(_numpy(y) @ weights)

    def quiet(self) -> AbstractContextManager[Any]:
        return torch.no_grad()

    def traced(self) -> bool:
        return bool(torch._C._are_functorch_transforms_active())

    def drifting(self, entry: Entry, drift: Tensor) -> Step:
        i, (t, h, first, last) = entry.interval, entry.step

        def number(value: Any) -> Tensor:
            single = np.ndim(value) and len(value) == 1 and drift.ndim == 1
            return torch.tensor(value[0] if single else value, dtype=torch.float64, device=drift.device)

        def moved(value: Any, weights: tuple[Any, Any]) -> Tensor:
            before, after = map(number, weights)
            return number(value) + before * drift[..., i] + after * drift[..., i + 1]

        ends = (entry.t_weights[0] + entry.h_weights[0], entry.t_weights[1] + entry.h_weights[1])
        begin = moved(t, entry.t_weights)
        return Step(begin, moved(h, entry.h_weights), moved(first, entry.t_weights), moved(last, ends))

    def result(self, values: Array) -> Tensor:
        return torch.from_numpy(values.copy())


ROWS = TorchRows()
