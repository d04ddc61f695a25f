# SPDX-License-Identifier: MIT
"""Torch tensors at the boundary of the orbit family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nnsym_fast import _arrays

__all__ = ["FRAMEWORK", "TorchFramework", "needs_grad"]

_NUMPY_DTYPE = {torch.bfloat16: "uint16", torch.float16: "float16", torch.float32: "float32", torch.float64: "float64"}


class TorchFramework:
    """CPU tensors of torch."""

    name = "torch"

    def prepare(self, name: str, value: Any) -> torch.Tensor:
        if value.device.type != "cpu":
            raise ValueError(
                f"tensor {name!r}: expected a tensor on the CPU, got device {value.device}; this version has no "
                "kernels for it (nnsym_fast.show_config() says more), move it with .cpu()"
            )
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"tensor {name!r}: expected a dense tensor, got layout {value.layout}; use .to_dense()")
        if value.numel() and not value.data_ptr():
            raise ValueError(f"tensor {name!r}: its storage was freed; gather or materialise it first")
        tensor: torch.Tensor = value.detach()
        # Conjugate and negative views keep their flag in the metadata, which a kernel cannot see.
        tensor = tensor.resolve_neg().resolve_conj().contiguous()
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

    def dtype_name(self, value: Any) -> str:
        return str(value.dtype).removeprefix("torch.")

    def pointer(self, value: Any) -> Any:
        return value.data_ptr()

    def empty(self, shape: tuple[int, ...], like: Any) -> torch.Tensor:
        if like.dtype not in _NUMPY_DTYPE:
            return torch.empty(shape, dtype=like.dtype)
        # torch's own allocator maps small pages.
        return torch.from_numpy(_arrays.empty(shape, _NUMPY_DTYPE[like.dtype])).view(like.dtype)

    def repeat(self, value: Any, n: int) -> torch.Tensor:
        return value.detach().expand(n, *value.shape)  # type: ignore[no-any-return]

    def reverse(self, value: Any) -> Any:
        return value.flip(0)

    def check_out(self, name: str, out: Any, like: Any) -> None:
        if not isinstance(out, torch.Tensor) or out.device.type != "cpu":
            raise TypeError(f"out[{name!r}]: expected a torch tensor on the CPU, got {type(out).__name__}")
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


FRAMEWORK = TorchFramework()


def needs_grad(values: Sequence[Any]) -> bool:
    """Whether autograd must see what is done with these tensors."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)
