# SPDX-License-Identifier: MIT
"""Tensors that stay in their file until they are needed, so that a checkpoint may be larger than the memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.errors import JobError

__all__ = [
    "FileTensor",
    "LazyTensor",
    "TensorFile",
    "TensorLike",
    "array_of",
    "header_of",
    "open_safetensors",
    "pieces",
]

Array: TypeAlias = npt.NDArray[Any]

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
"""Names of dtypes in a safetensors header and in NumPy (bfloat16 once ml_dtypes is loaded)."""

MAX_HEADER = 100_000_000
"""Longest header that the safetensors library reads."""

PIECE = 1 << 20
"""Numbers of a tensor that are looked at together."""


class LazyTensor:
    """A tensor with a shape and a dtype whose numbers come with :meth:`load`; an orbit takes it like an array.

    Args:
        shape: its shape.
        dtype: its NumPy dtype.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.size * self.dtype.itemsize

    def load(self) -> Array:
        """The numbers: a read-only array of the same shape and dtype, released with the last reference to it."""
        raise NotImplementedError(f"{type(self).__name__}.load")

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        array = self.load()
        return array.astype(array.dtype if dtype is None else dtype, copy=bool(copy))


TensorLike: TypeAlias = Array | LazyTensor


def array_of(tensor: TensorLike) -> Array:
    """The numbers of a tensor, wherever they are."""
    return tensor.load() if isinstance(tensor, LazyTensor) else tensor


def pieces(array: Array) -> Iterator[Array]:
    """The entries of a C-contiguous array in flat views of at most ``PIECE`` numbers."""
    flat = array.reshape(-1)
    for first in range(0, flat.size, PIECE):
        yield flat[first : first + PIECE]


class FileTensor(LazyTensor):
    """A tensor in C order in a file, mapped into memory while someone looks at it.

    Args:
        file: the file.
        offset: position of its first byte.
        shape: its shape.
        dtype: its NumPy dtype.
    """

    def __init__(self, file: Path, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        super().__init__(shape, dtype)
        self.file = file
        self.offset = offset

    def load(self) -> Array:
        """See :meth:`LazyTensor.load`.

        Raises:
            JobError: the file is shorter than it was when it was opened.
            OSError: it cannot be read.
        """
        with self.file.open("rb") as opened:
            # To touch a page beyond the end of the file would kill the process.
            if opened.seek(0, 2) < self.offset + self.nbytes:
                raise JobError(f"{self.file}: has become shorter while it was in use")
            mapped = np.memmap(opened, np.uint8, "r", self.offset, (self.nbytes,))
        return np.asarray(mapped).view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file: the bytes before the data, and its tensors in the order in which they lie there.

    Args:
        path: the file.
        header: its first bytes, up to the data.
        tensors: name -> tensor.
        metadata: the texts under ``__metadata__``.
    """

    path: Path
    header: bytes
    tensors: Mapping[str, FileTensor]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors.values())


def open_safetensors(path: Path, bfloat16: Callable[[Path], Any]) -> TensorFile:
    """Read the header of a safetensors file: 8 bytes with its length, then JSON; the data follow without gaps.

    Args:
        path: the file.
        bfloat16: called with ``path`` if a tensor is stored as bfloat16, to make that dtype known to NumPy.

    Raises:
        JobError: a dtype that NumPy does not have.
        ValueError: not such a file, or a truncated one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER):
            raise ValueError(f"its header should have {length} bytes, the file has {size}")
        header = start + file.read(length)
    try:
        entries = json.loads(header[8:], object_pairs_hook=_unique)
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(entries, dict):
        raise ValueError("its header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not texts")
    spans = sorted((*_span(name, entry), name) for name, entry in entries.items())
    end = 0
    tensors = {}
    for first, last, name in spans:
        if first != end:
            raise ValueError(f"tensor {name!r} begins at byte {first} of the data, expected {end}")
        tensors[name] = _tensor(path, len(header), name, entries[name], bfloat16)
        if tensors[name].nbytes != last - first:
            raise ValueError(f"tensor {name!r} takes {last - first} bytes, expected {tensors[name].nbytes}")
        end = last
    if size != len(header) + end:
        raise ValueError(f"its tensors should have {end} bytes, {size - len(header)} are there")
    return TensorFile(path, header, tensors, metadata)


def header_of(tensors: Mapping[str, TensorLike], metadata: Mapping[str, str]) -> bytes:
    """What stands before the data of a safetensors file that holds these tensors in this order.

    >>> len(header_of({"a": np.zeros((2, 3), "float32")}, {})) % 8
    0
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.nbytes
        entries[name] = {"dtype": names[tensor.dtype.name], "shape": tensor.shape, "data_offsets": [first, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("its header names an entry twice")
    return result


def _span(name: str, entry: Any) -> tuple[int, int]:
    entry = entry if isinstance(entry, dict) else {}
    span: Any = entry.get("data_offsets")
    if not _is_counts(span) or len(span) != 2 or span[0] > span[1] or not _is_counts(entry.get("shape")):
        raise ValueError(f"tensor {name!r} has a malformed entry in the header")
    return span[0], span[1]


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)


def _tensor(path: Path, data: int, name: str, entry: Mapping[str, Any], bfloat16: Callable[[Path], Any]) -> FileTensor:
    stored = entry.get("dtype")
    if stored not in DTYPES:
        raise JobError(
            f"{path}: tensor {name!r} is stored as {stored}; quantised files cannot be moved along an orbit, expected "
            "F64, F32, F16 or BF16; use the checkpoint that they were made from"
        )
    if stored == "BF16":
        bfloat16(path)
    return FileTensor(path, data + entry["data_offsets"][0], tuple(entry["shape"]), DTYPES[stored])
