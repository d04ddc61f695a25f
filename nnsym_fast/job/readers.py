# SPDX-License-Identifier: MIT
"""The file formats of checkpoints: each reader turns a file into arrays and text metadata, and runs nothing from it."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from nnsym_fast.job.errors import JobError
from nnsym_fast.job.lazy import TensorFile, TensorLike, open_safetensors

__all__ = ["METADATA_PREFIX", "SUFFIXES", "read", "safetensors"]

Contents: TypeAlias = tuple[dict[str, TensorLike], dict[str, str]]
Result = TypeVar("Result")

METADATA_PREFIX = "nnsym_fast."
"""Entries of a .npz or .pt file whose names begin so hold text, not tensors."""

SAFE_TORCH = (2, 6)
"""First torch whose weights-only loading is closed against crafted files (CVE-2025-32434)."""


def read(file: Path) -> Contents:
    """Tensors and text metadata of a checkpoint file; the tensors of a safetensors file stay in it until loaded.

    Raises:
        JobError: the suffix is unknown, a library is missing, or the file is damaged.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise JobError(f"{file}: unknown kind of checkpoint; expected one of {', '.join(_READERS)}")
    return _guarded(file, reader)


def safetensors(file: Path) -> TensorFile:
    """A safetensors file, its header read and checked.

    Raises:
        JobError: truncated, damaged, quantised, or a library is missing.
    """
    return _guarded(file, lambda path: open_safetensors(path, _require_ml_dtypes))


def _guarded(file: Path, reader: Callable[[Path], Result]) -> Result:
    """Every library has its own exceptions for damaged input; all of them mean the same to the user."""
    try:
        return reader(file)
    except JobError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise JobError(
            f"{file}: cannot be read as {file.suffix.lower()}; it is truncated, damaged or of another kind ({reason})"
        ) from None


def _import_error(file: Path, library: str, extra: str) -> JobError:
    return JobError(f'{file}: reading it needs {library}; install it with pip install "nnsym_fast[{extra}]"')


def _safetensors(file: Path) -> Contents:
    opened = open_safetensors(file, _require_ml_dtypes)
    return {name: opened.tensors[name] for name in sorted(opened.tensors)}, dict(opened.metadata)


def _require_ml_dtypes(file: Path) -> Any:
    try:
        import ml_dtypes  # registers bfloat16 with numpy
    except ImportError:
        raise JobError(f"{file}: bfloat16 tensors need ml_dtypes; install it with pip install ml_dtypes") from None
    return ml_dtypes


def _npz(file: Path) -> Contents:
    # Opened here, because np.load leaves a damaged file open.
    with file.open("rb") as raw, np.load(raw, allow_pickle=False) as opened:
        return _split(file, {name: opened[name] for name in opened.files})


def _pt(file: Path) -> Contents:
    try:
        import torch
    except ImportError:
        raise _import_error(file, "torch", "torch") from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise JobError(f"{file}: reading .pt files safely needs torch 2.6 or later, found {torch.__version__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols of files that are refused in any case
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends to load the file without protection; these must not.
        if "GLOBAL" in str(error):
            raise JobError(
                f"{file}: holds more than tensors, and code from a file is never run; save network.state_dict() instead"
            ) from None
        raise ValueError("no tensors that torch saved") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        extra = {k: v for k, v in loaded.items() if isinstance(k, str) and k.startswith(METADATA_PREFIX)}
        loaded = {**loaded["state_dict"], **extra}
    if not isinstance(loaded, Mapping):
        raise JobError(f"{file}: expected a state dict, name -> tensor; got {type(loaded).__name__}")
    entries: dict[str, Any] = {}
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_quantized:
                raise JobError(f"{file}: tensor {name!r} is sparse or quantised; expected a dense one")
            value = value.detach().contiguous()
            if value.dtype == torch.bfloat16:
                bfloat16 = _require_ml_dtypes(file).bfloat16
                entries[str(name)] = value.view(torch.int16).numpy().view(bfloat16)
            else:
                entries[str(name)] = value.numpy()
        else:
            entries[str(name)] = value
    return _split(file, entries)


def _split(file: Path, entries: Mapping[str, Any]) -> Contents:
    """Tensors and text metadata of a format that keeps both under one roof."""
    tensors: dict[str, TensorLike] = {}
    metadata: dict[str, str] = {}
    for name, value in entries.items():
        if name.startswith(METADATA_PREFIX):
            metadata[name] = str(value)
        elif isinstance(value, np.ndarray):
            tensors[name] = value
        else:
            kind = type(value).__name__
            raise JobError(f"{file}: entry {name!r} is a {kind}, not a tensor; save network.state_dict() alone")
    return tensors, metadata


_READERS: dict[str, Callable[[Path], Contents]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
}

SUFFIXES = tuple(_READERS)
"""Kinds of files that can be read."""
