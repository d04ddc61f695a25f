# SPDX-License-Identifier: MIT
"""Write a network as a checkpoint of the same layout as the one that it came from."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nnsym_fast.job import readers
from nnsym_fast.job.checkpoint import Array, Checkpoint, check_finite
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.folder import Folder, open_folder
from nnsym_fast.job.lazy import TensorFile, TensorLike, header_of
from nnsym_fast.job.run import SHARE_BYTES, batches, check_space
from nnsym_fast.job.store import is_free

__all__ = ["check_index", "check_out", "write_checkpoint"]

SMALL = 64 << 20
"""Files of a folder that are neither weights nor larger are copied: tokeniser, vocabulary, settings."""

WEIGHTS = {".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".safetensors", ".tflite"}
"""Suffixes of weights, which would be those of another point of the orbit if they were copied."""

Produce = Callable[[Sequence[str]], Mapping[str, Array]]
"""Tensors by name: what is to be written."""


def check_index(seed: int, index: int) -> int:
    """The seed, if there is such a point.

    Raises:
        JobError: the seed or the index is out of range.
    """
    if not 0 <= seed < 1 << 64:
        raise JobError(f"--seed: expected an integer from 0 to 2^64 - 1, got {seed}")
    if not 0 <= index < sys.maxsize:
        raise JobError(f"--index: expected an integer from 0 to {sys.maxsize - 1}, got {index}")
    return seed


def check_out(checkpoint: Checkpoint, out: Path) -> None:
    """Refuse a place that is taken, or that is of another kind than the checkpoint, before work is spent on it.

    Raises:
        JobError: something is there, or the suffix is another one.
    """
    if checkpoint.path is None:
        raise JobError(f"{checkpoint.name}: was not read from a file, so there is no layout to write")
    if checkpoint.config is not None:
        if not is_free(out):
            raise JobError(f"{out}: is there already; expected a new or an empty folder")
        if checkpoint.path.resolve() in out.resolve().parents:
            raise JobError(f"{out}: lies inside the checkpoint {checkpoint.path}; expected a folder elsewhere")
        return
    suffix = checkpoint.path.suffix.lower()
    allowed = (".safetensors", ".npz") if suffix in (".pt", ".pth") else (suffix,)
    if out.suffix.lower() not in allowed:
        raise JobError(f"--out {out}: {checkpoint.name} is written as {' or '.join(allowed)}; expected such a name")
    if out.exists():
        raise JobError(f"{out}: is there already; expected a new file")


def write_checkpoint(checkpoint: Checkpoint, out: str | Path, produce: Produce) -> list[str]:
    """Write tensors in the place of those of a checkpoint: same files, names, shapes, dtypes and metadata.

    A folder's configuration, index and other small files are copied. Everything is written under a temporary name
    until it is whole.

    Args:
        checkpoint: the checkpoint whose layout is taken.
        out: a new or empty folder for a folder, otherwise a new file of the same kind (of a .pt file, .safetensors or
            .npz).
        produce: gives the tensors of some names at a time, shaped like those of the checkpoint.

    Returns:
        Names of files of the folder that were not copied, because they hold weights or are large.

    Raises:
        JobError: something is there, or it cannot be written; or a tensor does not fit its dtype. Nothing is left
            but new parent directories.
    """
    path = Path(out)
    check_out(checkpoint, path)
    check_space(path, sum(tensor.nbytes for tensor in checkpoint.params.values()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.config is None:
            with _whole(path, folder=False) as partial:
                _write_file(checkpoint, partial, path, produce)
            return []
        assert checkpoint.path is not None  # check_out has looked
        folder = open_folder(checkpoint.path)
        copied, left = _companions(folder)
        with _whole(path, folder=True) as partial:
            for shard in folder.shards:
                with (partial / shard.path.name).open("xb") as file:
                    _write_shard(file, shard, path, produce)
            for name in copied:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path / name, partial / name)
        return left
    except OSError as error:
        raise JobError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _whole(path: Path, folder: bool) -> Iterator[Path]:
    """A temporary name in the same directory, which becomes ``path`` if all goes well, and else is gone."""
    mask = os.umask(0)
    os.umask(mask)
    if folder:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    else:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        partial = Path(name)
    try:
        yield partial
        partial.chmod((0o777 if folder else 0o666) & ~mask)  # temporary names are private
        partial.rename(path)
    finally:
        if folder:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _write_file(checkpoint: Checkpoint, partial: Path, out: Path, produce: Produce) -> None:
    """One file, of the kind that its name says."""
    params = checkpoint.params
    if out.suffix.lower() == ".npz":
        with zipfile.ZipFile(partial, "w") as archive:
            for name in params:
                _write_npy(archive, name, _fitting(params, name, produce([name])[name], out))
            for key, text in checkpoint.metadata.items():
                _write_npy(archive, key, np.array(text))
        return
    with partial.open("wb") as file:
        if checkpoint.path is not None and checkpoint.path.suffix.lower() == ".safetensors":
            _write_shard(file, readers.safetensors(checkpoint.path), out, produce)
        else:
            file.write(header_of(params, checkpoint.metadata))
            for name in params:
                _write_array(file, _fitting(params, name, produce([name])[name], out))


def _write_npy(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _write_shard(file: BinaryIO, shard: TensorFile, out: Path, produce: Produce) -> None:
    """One safetensors file: the header of the old one, and the new tensors in the same order."""
    file.write(shard.header)
    for names in batches({name: tensor.nbytes for name, tensor in shard.tensors.items()}, SHARE_BYTES):
        arrays = produce(names)
        for name in names:
            _write_array(file, _fitting(shard.tensors, name, arrays[name], out))


def _write_array(file: BinaryIO, array: Array) -> None:
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _fitting(tensors: Mapping[str, TensorLike], name: str, array: Array, out: Path) -> Array:
    """A tensor in the dtype of its file; there it must be finite."""
    like = tensors[name]
    if array.shape != like.shape:
        raise ValueError(f"tensor {name!r}: expected shape {like.shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        stored = array.astype(like.dtype, copy=False)
    if like.dtype.kind not in "iub":
        check_finite(out, name, stored)
    return stored


def _companions(folder: Folder) -> tuple[list[str], list[str]]:
    """Files beside the shards, relative to the folder: those that are copied, and those that are not."""
    own = {shard.path.name for shard in folder.shards}
    copied: list[str] = []
    left: list[str] = []
    for directory, folders, files in os.walk(folder.path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            path = Path(directory) / file
            name = path.relative_to(folder.path).as_posix()
            if name in own or file.startswith(".") or not path.is_file():
                continue
            # An index of shards that are not the ones that were read would name files that are not written.
            index = file.endswith(".index.json") and path not in folder.files
            weights = path.suffix.lower() in WEIGHTS or index
            (left if weights or path.stat().st_size > SMALL else copied).append(name)
    return copied, left
