# SPDX-License-Identifier: MIT
"""Arrays at the boundary of the kernels: what framework, dtype and layout came in, and where results go.

A framework (this module's for NumPy, ``_torch``'s for torch) turns values into what the compiled module takes: an array
or an address. Kernels read C-contiguous memory of the four storage types; everything else is converted or refused here.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnsym_fast._native import cpu

__all__ = ["DTYPE_CODE", "DTYPE_SIZE", "Framework", "NumpyFramework", "check_disjoint", "framework_of"]

DTYPE_CODE = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
"""Storage types, numbered as in csrc/core/orbit.h."""

DTYPE_SIZE = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""Bytes of one number."""

LARGE = 1 << 16
"""Results of so many bytes get aligned memory, huge pages where they fit: small fresh pages cost more than a kernel."""


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised array; a large one begins at a cache line and lies in huge pages."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < LARGE:
        return np.empty(shape, dtype)
    if size >= 1 << 62:
        raise MemoryError(f"no memory for a result of shape {shape}")
    array: npt.NDArray[Any] = cpu.empty(size).view(dtype).reshape(shape)
    return array


class Framework(Protocol):
    """How to look at, allocate and hand over one framework's arrays."""

    name: str

    kernels: Any
    """None, where the compiled module of the CPU reads these arrays; else the functions of ``_device.orbit``."""

    def prepare(self, name: str, value: Any) -> Any:
        """The value in a layout that kernels read; a copy only where it is not. TypeError where it cannot be."""

    def dtype_name(self, value: Any) -> str:
        """Name of the dtype, "float32" and the like."""

    def pointer(self, value: Any) -> Any:
        """What the compiled module takes for the value: an array or an address."""

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """An uninitialised array of the dtype of ``like``."""

    def repeat(self, value: Any, n: int) -> Any:
        """A view with a leading axis of n equal entries."""

    def reverse(self, value: Any) -> Any:
        """The value with its first axis turned round."""

    def check_out(self, name: str, out: Any, like: Any) -> None:
        """TypeError or ValueError unless kernels can write into ``out``, whose dtype must be that of ``like``."""

    def nbytes(self, value: Any) -> int:
        """Bytes of a contiguous array."""

    def span(self, value: Any) -> tuple[int, int]:
        """Addresses of the first byte of a contiguous array and of the one after its last."""


class NumpyFramework:
    """NumPy arrays, and whatever converts to them."""

    name = "numpy"
    kernels = None

    def prepare(self, name: str, value: Any) -> npt.NDArray[Any]:
        array = np.asarray(value)
        if array.dtype.hasobject or array.dtype.names is not None:
            raise TypeError(f"tensor {name!r}: expected a numeric array, got dtype {array.dtype}")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return array if array.flags.c_contiguous and array.flags.aligned else array.copy(order="C")

    def dtype_name(self, value: Any) -> str:
        return str(value.dtype.name)

    def pointer(self, value: Any) -> Any:
        return value

    def empty(self, shape: tuple[int, ...], like: Any) -> npt.NDArray[Any]:
        return empty(shape, like.dtype)

    def repeat(self, value: Any, n: int) -> npt.NDArray[Any]:
        return np.broadcast_to(value, (n, *value.shape))

    def reverse(self, value: Any) -> Any:
        return value[::-1]

    def check_out(self, name: str, out: Any, like: Any) -> None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out[{name!r}]: expected a NumPy array, got {type(out).__name__}")
        if out.dtype != like.dtype:
            raise TypeError(f"out[{name!r}]: expected dtype {like.dtype}, got {out.dtype}")
        if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
            raise ValueError(
                f"out[{name!r}]: expected a writeable, aligned, C-contiguous array; pass the dict of an earlier call"
            )

    def nbytes(self, value: Any) -> int:
        return int(value.nbytes)

    def span(self, value: Any) -> tuple[int, int]:
        begin = value.__array_interface__["data"][0]
        return begin, begin + value.nbytes


def check_disjoint(framework: Framework, outs: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    """ValueError if a result would overwrite what is still to be read, or another result."""
    spans = sorted((*framework.span(value), name) for name, value in outs.items())
    for (_, end, name), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise ValueError(f"out[{other!r}]: overlaps out[{name!r}]; pass the dict of an earlier call")
    begins = [begin for begin, _, _ in spans]
    for source, value in sources.items():
        first, last = framework.span(value)
        at = bisect_left(begins, last) - 1
        if at >= 0 and first < last and spans[at][1] > first:
            raise ValueError(f"out[{spans[at][2]!r}]: overlaps tensor {source!r} of params; pass other buffers")


_NUMPY = NumpyFramework()


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def framework_of(params: Mapping[str, Any], argument: str = "params") -> Framework:
    """The framework of a mapping of tensors.

    Raises:
        TypeError: not a mapping, or torch tensors mixed with other arrays.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"{argument}: expected a mapping tensor name -> array, got {type(params).__name__}")
    torch = [name for name, value in params.items() if is_torch(value)]
    if not torch:
        return _NUMPY
    if len(torch) != len(params):
        other = next(name for name in params if name not in torch)
        raise TypeError(
            f"{argument}: expected torch tensors only, as {torch[0]!r} is one, but {other!r} is a "
            f"{type(params[other]).__name__}"
        )
    from nnsym_fast import _torch

    return _torch.framework_of(params[torch[0]])
