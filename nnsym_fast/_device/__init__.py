# SPDX-License-Identifier: MIT
"""Kernels on torch tensors of a CUDA device: which module serves them, and on which stream.

The modules of this folder have the names, functions and shapes of their CPU counterparts (``_wilson``, ``ode.plans``,
``_passes`` ...), on tensors in place of arrays. Nothing in them waits for the device or allocates but through torch, so
that they can be captured in a CUDA graph once they have run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from nnsym_fast._native import cuda, cuda_emulated

__all__ = ["emulated", "module", "place", "serves", "without_autocast"]

_emulation: Any = None


def serves(value: torch.Tensor) -> bool:
    """Whether the kernels of a device serve a tensor, not those of the CPU."""
    return value.device.type == "cuda" or (_emulation is not None and value.device.type == "cpu")


def module() -> Any:
    """The compiled module.

    Raises:
        RuntimeError: the package was built without it; says how to build it.
    """
    return cuda() if _emulation is None else _emulation


def place(value: torch.Tensor) -> tuple[int, int]:
    """Index of the device of a tensor, and address of its current stream, as the compiled module takes them."""
    if _emulation is not None:
        return 0, 0
    return value.device.index, torch.cuda.current_stream(value.device).cuda_stream


def without_autocast(value: torch.Tensor) -> AbstractContextManager[Any]:
    """Within it, products of torch keep the dtype of their factors, which kernels read by address."""
    kind = value.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@contextmanager
def emulated(order: int = 0) -> Iterator[None]:
    """Within it, the CUDA kernels run on the CPU and serve CPU tensors: for tests, where no GPU is.

    Args:
        order: in which the threads of a block take turns: 0 forward, 1 reverse, or the seed of random orders. Results
            that depend on it have a race.
    """
    global _emulation
    before, _emulation = _emulation, cuda_emulated()
    _emulation.set_order(order)
    try:
        yield
    finally:
        _emulation.set_order(0)
        _emulation = before
