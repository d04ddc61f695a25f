# SPDX-License-Identifier: MIT
"""Checkpoints that are folders, as transformers writes them: a configuration, and one or several safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnsym_fast.job import readers
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.lazy import FileTensor, TensorFile

__all__ = ["CONFIG", "Folder", "is_folder", "open_folder"]

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Folder:
    """A checkpoint folder, its headers read.

    Args:
        path: the folder.
        config: what ``config.json`` says.
        shards: its safetensors files.
        files: every file that makes the network: configuration, index, shards.
    """

    path: Path
    config: Mapping[str, Any]
    shards: tuple[TensorFile, ...]
    files: tuple[Path, ...]

    @property
    def tensors(self) -> dict[str, FileTensor]:
        """All tensors, by name."""
        found = {name: tensor for shard in self.shards for name, tensor in shard.tensors.items()}
        return {name: found[name] for name in sorted(found)}


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that means to be a checkpoint (and not, say, a store)."""
    return path.is_dir() and ((path / CONFIG).exists() or any(path.glob("*.safetensors*")))


def open_folder(path: Path) -> Folder:
    """Read the configuration, the index and the headers of a checkpoint folder.

    Raises:
        JobError: a file is missing, truncated or contradicts another; a quantised network.
    """
    config = _json(path / CONFIG)
    if config.get("quantization_config") is not None:
        raise JobError(
            f"{path / CONFIG}: a quantised network (quantization_config); its weights cannot be moved along an orbit, "
            "use the checkpoint that it was made from"
        )
    index = path / INDEX
    if (path / SINGLE).exists():
        shards, files = [readers.safetensors(path / SINGLE)], [path / CONFIG, path / SINGLE]
    elif index.exists():
        shards = _sharded(index)
        files = [path / CONFIG, index, *(shard.path for shard in shards)]
    else:
        raise JobError(
            f"{path}: holds neither {SINGLE} nor {INDEX}; save the network again with transformers' save_pretrained"
        )
    folder = Folder(path, config, tuple(shards), tuple(files))
    for name, tensor in folder.tensors.items():
        if name.endswith("weight") and tensor.dtype.kind in "iub":
            raise JobError(
                f"{tensor.file}: tensor {name!r} is stored as {tensor.dtype}, a quantised network; its weights cannot "
                "be moved along an orbit, use the checkpoint that it was made from"
            )
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise JobError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    return data


def _sharded(index: Path) -> list[TensorFile]:
    """The shards that an index names, after checking that both agree."""
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise JobError(f'{index}: expected "weight_map", an object tensor name -> file name')
    shards = []
    for file in sorted(set(places.values())):
        # The index may not point anywhere else.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise JobError(f"{index}: names {file!r}; expected names of .safetensors files of the same folder")
        path = index.parent / file
        if not path.is_file():
            raise JobError(f"{path}: named by {index.name}, but there is no such file; the checkpoint is incomplete")
        shard = readers.safetensors(path)
        listed = {name for name, place in places.items() if place == file}
        for name in sorted(listed - set(shard.tensors)):
            raise JobError(f"{path}: {index.name} says that it holds tensor {name!r}, and it does not")
        for name in sorted(set(shard.tensors) - listed):
            where = f"says that {places[name]} holds it" if name in places else "does not name it"
            raise JobError(f"{path}: holds tensor {name!r}, but {index.name} {where}")
        shards.append(shard)
    return shards
