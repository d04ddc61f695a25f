# SPDX-License-Identifier: MIT
"""The layers that evaluate a network, and the inputs on which functions are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast import specs
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.lazy import TensorLike

__all__ = ["PROBES", "Model", "model_of", "probes_of"]

Array: TypeAlias = npt.NDArray[Any]

PROBES = 64
"""Number of probe inputs where the checkpoint brings none."""


@dataclass(frozen=True)
class Model:
    """What evaluates the network: the layers of :mod:`nnsym_fast.specs.layers`, and what is known about it.

    Args:
        layers: one dict per layer.
        input_shape: shape of one input, without the batch axis; None where unknown.
        notes: anything else that the checkpoint says, such as accuracy and training.
    """

    layers: tuple[Mapping[str, Any], ...]
    input_shape: tuple[int, ...] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The model as the JSON object that the metadata of a checkpoint holds."""
        shape = None if self.input_shape is None else list(self.input_shape)
        return {"layers": [dict(layer) for layer in self.layers], "input_shape": shape} | dict(self.notes)

    @classmethod
    def from_json(cls, data: Any) -> Model:
        """Read what :meth:`to_json` wrote, or a bare list of layers.

        Raises:
            ValueError: neither a list of layers nor an object with the key "layers".
        """
        data = {"layers": data} if isinstance(data, list) else data
        layers = data.get("layers") if isinstance(data, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise ValueError('expected a JSON list of layers, or an object with the key "layers"')
        shape = data.get("input_shape")
        if shape is not None and not (isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)):
            raise ValueError(f'expected "input_shape" to be a list of positive integers, got {shape!r}')
        notes = {key: value for key, value in data.items() if key not in ("layers", "input_shape")}
        return cls(tuple(layers), None if shape is None else tuple(shape), notes)


def model_of(
    file: Path, params: Mapping[str, TensorLike], metadata: Mapping[str, str], activation: str | None
) -> Model | None:
    """The layers of a network: a plain MLP with a given activation, or what the metadata say; None if nothing does.

    Raises:
        JobError: malformed metadata; with ``activation``, tensors that are no plain MLP, or an unknown activation.
    """
    if activation is not None:
        return _plain_mlp(file, params, activation)
    text = metadata.get("nnsym_fast.model")
    if text is None:
        return None
    try:
        return Model.from_json(json.loads(text))
    except ValueError as error:
        raise JobError(f"{file}: metadata nnsym_fast.model is malformed: {error}") from None


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which "2.weight" comes before "10.weight"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _plain_mlp(file: Path, params: Mapping[str, TensorLike], activation: str) -> Model:
    """The layers of an MLP, read off its tensors: weights in the natural order of their names must form a chain."""
    weights = sorted((name for name, array in params.items() if array.ndim == 2), key=_natural)
    prefixes = [name.removesuffix("weight") for name in weights]
    expected = {*weights, *(prefix + "bias" for prefix in prefixes)}
    other = [name for name in params if name not in expected]
    if other or not weights or any(not name.endswith("weight") for name in weights):
        raise JobError(
            f"{file}: --activation is for plain MLPs, whose tensors are NAME.weight (out, in) and NAME.bias (out,); "
            f"this one holds {', '.join(map(repr, (other or list(params))[:4]))}; give --spec spec.json"
        )
    widths = [params[weights[0]].shape[1]]
    for name in weights:
        out, inputs = params[name].shape
        if inputs != widths[-1]:
            raise JobError(
                f"{file}: --activation expects a chain of layers, but tensor {name!r} of shape {(out, inputs)} follows "
                f"a layer of width {widths[-1]}; give --spec spec.json"
            )
        widths.append(out)
    try:
        layers = [dict(layer) for layer in specs.mlp_layers(widths, activation, True)]
    except (TypeError, ValueError) as error:
        raise JobError(f"--activation {activation}: {error}") from None
    linear = [layer for layer in layers if layer["type"] == "Linear"]
    for layer, prefix in zip(linear, prefixes, strict=True):
        layer["name"] = prefix.removesuffix(".")
        layer["bias"] = prefix + "bias" in params
    return Model(tuple(layers), (widths[0],), {"architecture": f"MLP {'-'.join(map(str, widths))}, {activation}"})


def probes_of(file: Path, metadata: Mapping[str, str], model: Model, path: str | Path | None) -> Array | None:
    """Probe inputs: of a file, else what the metadata name, else random ones; None if their shape is unknown.

    Raises:
        JobError: the file cannot be read, or its inputs do not fit.
    """
    if path is None and "nnsym_fast.probes" in metadata:
        # A bare file name beside the checkpoint: metadata may not point anywhere else.
        beside = file.parent / Path(metadata["nnsym_fast.probes"]).name
        path = beside if beside.is_file() else None
    if path is not None:
        return _read_probes(Path(path), model)
    shape = model.input_shape
    if shape is None and model.layers and model.layers[0].get("type") == "Linear":
        shape = (int(model.layers[0]["in"]),)
    if shape is None:
        return None
    return np.random.default_rng(0).standard_normal((PROBES, *shape))


def _read_probes(path: Path, model: Model) -> Array:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
            inputs = np.asarray(array, dtype=np.float64)
    except Exception as error:  # numpy, zipfile and zlib each raise their own for a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise JobError(f"{path}: probe inputs cannot be read as .npy or .npz ({reason})") from None
    if inputs.ndim < 1 or inputs.size == 0 or not np.isfinite(inputs).all():
        raise JobError(f"{path}: expected probe inputs (batch, ...) with finite values, got shape {inputs.shape}")
    if model.input_shape is None:
        return inputs
    if inputs[0].size != int(np.prod(model.input_shape)):
        expected = ", ".join(map(str, model.input_shape))
        raise JobError(f"{path}: expected probe inputs of shape (batch, {expected}), got {inputs.shape}")
    return inputs.reshape(len(inputs), *model.input_shape)
