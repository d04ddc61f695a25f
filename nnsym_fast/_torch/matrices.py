# SPDX-License-Identifier: MIT
"""Torch tensors at the boundary of the Wilson family."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nnsym_fast import _device, _matrices
from nnsym_fast._torch.wilson import REAL, Tensor, expm, keeps, transport

__all__ = ["MATRICES", "TorchMatrices"]


class TorchMatrices:
    """Tensors of torch on the CPU or a CUDA device; meta tensors give shapes."""

    xp: Any = torch

    def prepare(self, name: str, value: Tensor) -> Tensor:
        if value.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}; use .to_dense()")
        self._check_device(name, value)
        if value.dtype not in REAL:
            raise TypeError(f"{name}: expected dtype {_matrices.DTYPES}, got {value.dtype}; convert it with .to")
        return value

    def _check_device(self, name: str, value: Tensor) -> None:
        if value.device.type not in ("cpu", "cuda", "meta"):
            raise ValueError(
                f"{name}: expected a tensor on the CPU or a CUDA device, got device {value.device}, which has no "
                "kernels; move it with .cpu()"
            )

    def match(self, name: str, value: Tensor, other: str, like: Tensor) -> None:
        if value.device != like.device:
            raise ValueError(f"{name}: expected device {like.device}, that of {other}, got {value.device}")
        if value.dtype != like.dtype:
            raise TypeError(f"{name}: expected dtype {like.dtype}, that of {other}, got {value.dtype}")

    def times(self, dt: Any, like: Tensor) -> Tensor:
        real = REAL[like.dtype]
        if isinstance(dt, Tensor):
            self._check_device("dt", dt)
            if dt.device != like.device:
                raise ValueError(f"dt: expected device {like.device}, that of w, got {dt.device}")
            if dt.dtype != real:
                raise TypeError(f"dt: expected dtype {real}, as w is {like.dtype}, got {dt.dtype}; use dt.to({real})")
            return dt
        if isinstance(dt, (list, tuple)) or (isinstance(dt, np.ndarray) and dt.ndim):
            raise TypeError(
                f"dt: expected a number or a torch tensor, as w is one, got {type(dt).__name__}; "
                f"use torch.as_tensor(dt, dtype={real})"
            )
        # A product, as compilers of torch keep it open for other numbers; torch.full would be compiled for each anew.
        return torch.ones((), dtype=real, device=like.device) * _matrices.real_number("dt", dt)

    def eye(self, like: Tensor) -> Tensor:
        return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)

    def expm(self, a: Tensor) -> Tensor:
        result: Tensor = expm(a)
        return result

    def transport(
        self,
        w: Tensor,
        dt: Tensor | None,
        x0: Tensor | None,
        order: int,
        cumulative: bool,
        log_scale: bool,
        checkpoint: bool,
    ) -> tuple[Tensor, Tensor | None]:
        save = not checkpoint and keeps(w, dt, x0)
        out, _, exponent = transport(w, dt, x0, None, order, cumulative, log_scale, save)
        if not log_scale:
            return out, None
        return out, exponent[..., -1] if save and not cumulative else exponent

    def augment(self, w: Tensor, b: Tensor) -> Tensor:
        rows = torch.cat([w, b.unsqueeze(-1)], -1)
        return torch.nn.functional.pad(rows, (0, 0, 0, 1))

    def append_one(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1), value=1.0)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        with _device.without_autocast(a):
            return a @ b

    def solve(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """a^-1 b; on a device, where a check would wait for it, NaN in place of an error where a is singular."""
        if _device.serves(a):
            solved, info = torch.linalg.solve_ex(a, b)
            singular = torch.where(info == 0, 0.0, torch.nan).to(REAL[a.dtype])
            checked: Tensor = solved + singular[..., None, None]
            return checked
        try:
            result: Tensor = torch.linalg.solve(a, b)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise ValueError(f"{name}: expected invertible matrices, one is singular") from None
        return result

    def trace(self, a: Tensor) -> Tensor:
        return a.diagonal(dim1=-2, dim2=-1).sum(-1)

    def contiguous(self, value: Tensor) -> Tensor:
        return value.contiguous()


MATRICES = TorchMatrices()
