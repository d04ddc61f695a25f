# SPDX-License-Identifier: MIT
"""Torch tensors at the boundary of the orbit family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from nnsym_fast import _arrays, _device
from nnsym_fast._device import orbit as device_kernels

__all__ = ["FRAMEWORK", "DeviceFramework", "TorchFramework", "framework_of", "needs_grad"]

_NUMPY_DTYPE = {torch.bfloat16: "uint16", torch.float16: "float16", torch.float32: "float32", torch.float64: "float64"}


class TorchFramework:
    """CPU tensors of torch."""

    name = "torch"
    kernels: Any = None

    def prepare(self, name: str, value: Any) -> torch.Tensor:
        self._check_device(name, value)
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"tensor {name!r}: expected a dense tensor, got layout {value.layout}; use .to_dense()")
        if value.numel() and not value.data_ptr():
            raise ValueError(f"tensor {name!r}: its storage was freed; gather or materialise it first")
        tensor: torch.Tensor = value.detach()
        # Conjugate and negative views keep their flag in the metadata, which a kernel cannot see.
        tensor = tensor.resolve_neg().resolve_conj().contiguous()
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

    def _check_device(self, name: str, value: Any) -> None:
        if value.device.type != "cpu":
            raise ValueError(
                f"tensor {name!r}: expected a tensor on the CPU, got device {value.device}; kernels serve CPU and CUDA "
                "tensors, all tensors of a call on one device; move it with .cpu()"
            )

    def dtype_name(self, value: Any) -> str:
        return str(value.dtype).removeprefix("torch.")

    def pointer(self, value: Any) -> Any:
        return value.data_ptr()

    def empty(self, shape: tuple[int, ...], like: Any) -> torch.Tensor:
        if like.dtype not in _NUMPY_DTYPE:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        # torch's own allocator maps small pages.
        return torch.from_numpy(_arrays.empty(shape, _NUMPY_DTYPE[like.dtype])).view(like.dtype)

    def repeat(self, value: Any, n: int) -> torch.Tensor:
        return value.detach().expand(n, *value.shape)  # type: ignore[no-any-return]

    def reverse(self, value: Any) -> Any:
        return value.flip(0)

    def check_out(self, name: str, out: Any, like: Any) -> None:
        if not isinstance(out, torch.Tensor) or out.device != like.device:
            where = "the CPU" if like.device.type == "cpu" else like.device
            got = f"{type(out).__name__}{f' on {out.device}' if isinstance(out, torch.Tensor) else ''}"
            raise TypeError(f"out[{name!r}]: expected a torch tensor on {where}, got {got}")
        if out.dtype != like.dtype:
            raise TypeError(f"out[{name!r}]: expected dtype {like.dtype}, got {out.dtype}")
        if not out.is_contiguous() or out.requires_grad or out.data_ptr() % out.element_size():
            raise ValueError(
                f"out[{name!r}]: expected an aligned contiguous tensor that needs no gradient; "
                "pass the dict of an earlier call"
            )

    def nbytes(self, value: Any) -> int:
        return int(value.nbytes)

    def span(self, value: Any) -> tuple[int, int]:
        return value.data_ptr(), value.data_ptr() + value.nbytes


class DeviceFramework(TorchFramework):
    """Tensors of one CUDA device."""

    kernels = device_kernels

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _check_device(self, name: str, value: Any) -> None:
        if value.device != self.device:
            raise ValueError(
                f"tensor {name!r}: expected a tensor on {self.device}, as other tensors of params are, got device "
                f"{value.device}; move all of them to one device with .to()"
            )

    def empty(self, shape: tuple[int, ...], like: Any) -> torch.Tensor:
        return torch.empty(shape, dtype=like.dtype, device=self.device)


FRAMEWORK = TorchFramework()
_on_device = lru_cache(maxsize=64)(DeviceFramework)


def framework_of(value: torch.Tensor) -> TorchFramework:
    """The framework of the tensors that lie where this one does."""
    return _on_device(value.device) if _device.serves(value) else FRAMEWORK


def needs_grad(values: Sequence[Any]) -> bool:
    """Whether autograd must see what is done with these tensors."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)
