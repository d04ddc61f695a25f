# SPDX-License-Identifier: MIT
"""The symmetry of a checkpoint on disk: from its config.json, or from the names and shapes of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnsym_fast.specs.adapters import ADAPTERS
from nnsym_fast.specs.adapters_names import measure
from nnsym_fast.specs.adapters_rows import Adapter, tensors_of
from nnsym_fast.specs.transformer import HEADS, transformer
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["infer"]

FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
"""Of constants that older files hold: positions and masks."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def infer(
    path: str | Path,
    *,
    symmetries: Iterable[str] | None = None,
    rotate: bool = False,
    config: Mapping[str, Any] | None = None,
) -> SymmetrySpec:
    """The symmetry of a checkpoint of ``transformers``.

    Reads the headers of the files alone, no weights.

    Args:
        path: a folder with ``config.json`` and safetensors files (in several shards with their index), or one
            ``.safetensors`` file; a ``config.json`` beside it is read.
        symmetries: as for :func:`nnsym_fast.specs.transformer`.
        rotate: as for :func:`nnsym_fast.specs.transformer`.
        config: what takes the place of ``config.json``, whole or in part. Without any config the architecture is
            recognised from the names and shapes of the tensors; they do not tell the number of heads of most
            architectures.

    Returns:
        The spec, validated against the shapes of all tensors.

    Raises:
        FileNotFoundError: no such file or folder, or a shard of the index is missing.
        ImportError: safetensors is not installed.
        ValueError: a damaged file, quantised weights, tensors that do not fit the config, or an architecture that is
            not known.
    """
    place = Path(path)
    symmetries = symmetries if symmetries is None or isinstance(symmetries, str) else tuple(symmetries)
    if not place.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected a checkpoint with safetensors files")
    folder = place if place.is_dir() else place.parent
    stored = _header_of_folder(place) if place.is_dir() else _header(place)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    found = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    # Beside a single file, another program's config may lie.
    merged = dict(found if place.is_dir() or "model_type" in found else {}) | dict(config or {})
    if "model_type" not in merged:
        merged = _recognise(place, shapes, merged) | merged
        key = ADAPTERS[merged["model_type"]].keys["heads"]
        if key not in merged and (symmetries is None or any(name in HEADS for name in symmetries)):
            raise ValueError(
                f"{path}: the tensors are those of {merged['model_type']!r}, but they do not tell the number of heads; "
                f"put config.json beside them, give config={{{key!r}: ...}}, or ask for ('hidden', 'residual') alone"
            )
    try:
        spec = transformer(merged, symmetries=symmetries, rotate=rotate, tensors=shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name, tensor in stored.items():
        if tensor.kind not in FLOATS and name not in spec.state:
            raise _quantised(tensor.file, name, tensor.kind)
    return spec


class _Stored(NamedTuple):
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    kind: str
    file: Path


def _quantised(file: Path, name: str, kind: str) -> ValueError:
    return ValueError(
        f"{file}: tensor {name!r} is stored as {kind}; expected floating-point weights "
        f"({', '.join(FLOATS)}), so convert a quantised checkpoint first"
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(data).__name__}")
    return data


def _header(file: Path) -> dict[str, _Stored]:
    """The tensors of one file."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise ImportError(
            f'{file}: reading it needs safetensors; install it with pip install "nnsym_fast[job]"'
        ) from None
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: expected a .safetensors file or a folder; save with save_pretrained or save_file")
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            stored = {name: _Stored(tuple(view.get_shape()), view.get_dtype(), file) for name, view in slices.items()}
    except Exception as error:  # the library has exceptions of its own for damaged files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{file}: cannot be read as safetensors; it is truncated or damaged ({reason})") from None
    for name, tensor in stored.items():
        # Weights here: a quantised file has tensors beside them that would be refused as unknown.
        if tensor.kind not in FLOATS and (tensor.kind not in INTEGERS or name.endswith(".weight")):
            raise _quantised(file, name, tensor.kind)
    return stored


def _header_of_folder(folder: Path) -> dict[str, _Stored]:
    # As transformers: the single file first.
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    index = folder / INDEX
    if index.is_file():
        return _header_of_shards(folder, _read_json(index))
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        what = f"{len(files)} of them and no {INDEX}" if files else "none"
        raise ValueError(f"{folder}: expected one .safetensors file, or shards with {INDEX}; found {what}")
    return _header(files[0])


def _header_of_shards(folder: Path, index: Mapping[str, Any]) -> dict[str, _Stored]:
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise ValueError(f"{folder / INDEX}: expected an object 'weight_map', tensor name -> file")
    stored: dict[str, _Stored] = {}
    for name in dict.fromkeys(where.values()):
        # A bare name: the index may not point anywhere else.
        shard = folder / Path(name).name
        if not shard.is_file():
            raise FileNotFoundError(f"{shard}: the index names this shard, but it is missing")
        stored |= _header(shard)
    for name, file in where.items():
        if name not in stored:
            raise ValueError(f"{folder / Path(file).name}: tensor {name!r} is missing, which the index places there")
    return {name: stored[name] for name in where}


def _recognise(path: Path, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """A config from names and shapes: of the first architecture whose table has exactly these tensors.

    Llama comes before Mistral, whose tensors and symmetries are the same.
    """
    for adapter in ADAPTERS.values():
        config = _config_of(adapter, shapes, given)
        if config is None:
            continue
        try:
            transformer(config | dict(given), symmetries=("hidden", "residual"), tensors=shapes)
        except ValueError:
            continue
        return config
    raise ValueError(
        f"{path}: there is no config.json, and the tensors are not those of a known architecture "
        f"({', '.join(sorted(ADAPTERS))}); put config.json beside them, or write the legs with SymmetrySpec"
    )


def _config_of(
    adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The entries of a config that the shapes tell, with the number of heads where it is given or can be told."""
    measured = measure(adapter, shapes)
    if measured is None:
        return None
    keys, lengths = adapter.keys, measured.lengths
    config: dict[str, Any] = {"model_type": adapter.model_type, keys["layers"]: measured.layers}
    config[keys["width"]] = lengths.get("residual", 0)
    config[keys["hidden"]] = lengths.get("mlp", lengths.get("down", 0))
    if "experts" in keys:
        config[keys["experts"]] = measured.experts
    heads, head_dim = given.get(keys["heads"], 0), lengths.get("head", 0)
    if isinstance(heads, int) and heads > 0 and not head_dim:
        head_dim = lengths.get("q", 0) // heads
    if head_dim and "head_dim" in keys:
        config |= {
            keys["head_dim"]: head_dim,
            keys["heads"]: lengths.get("q", 0) // head_dim,
            keys["kv_heads"]: lengths.get("k", 0) // head_dim,
        }
    # A head that is nowhere in the file is the embedding.
    tied = {tensor.name for head in adapter.heads for row in head.rows for tensor in tensors_of(row) if tensor.tied}
    if tied and not any(name.format(model="") in shapes for name in tied):
        config["tie_word_embeddings"] = True
    return config
