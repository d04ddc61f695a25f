# SPDX-License-Identifier: MIT
"""Read a network from a file: tensors, symmetry, and the layers that evaluate it. No code from the file ever runs."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast import specs
from nnsym_fast.job import readers
from nnsym_fast.job.errors import JobError
from nnsym_fast.orbit import Orbit
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["EXAMPLES", "Array", "Checkpoint", "Model", "example", "load", "sha256_of"]

Array: TypeAlias = npt.NDArray[Any]

EXAMPLES = {"digits-mlp": "digits_mlp.safetensors", "digits-cnn": "digits_cnn.safetensors"}
"""Names of the trained networks that the package ships, and their files."""

PROBES = 64
"""Number of probe inputs where the checkpoint brings none."""

FLOATS = ("float64", "float32", "float16", "bfloat16")


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


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read from a file.

    Args:
        name: name of the file, without its directory.
        sha256: hash of the file's bytes, in hexadecimal.
        params: tensor name -> array, C-contiguous and in native byte order.
        spec: its symmetry, validated against ``params``.
        model: what evaluates it, or None.
        probes: inputs ``(batch, *input_shape)`` on which functions are compared, float64; None without a model.
    """

    name: str
    sha256: str
    params: Mapping[str, Array]
    spec: SymmetrySpec
    model: Model | None
    probes: Array | None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(array.size for name, array in self.params.items() if name not in self.spec.state)

    def function(self, what: str) -> tuple[Model, Array]:
        """The layers and the probe inputs, for a caller that cannot do without them.

        Args:
            what: what needs them, for the message.

        Raises:
            JobError: the checkpoint says neither how to evaluate the network nor on which inputs.
        """
        if self.model is None:
            raise JobError(
                f"{self.name}: {what} evaluates the network, but the file does not describe its layers; give "
                '--activation for a plain MLP, or save the checkpoint with the metadata "nnsym_fast.model"'
            )
        if self.probes is None:
            raise JobError(f"{self.name}: {what} needs inputs of a known shape; give --probes FILE.npy")
        return self.model, self.probes

    def orbit(self, seed: int) -> Orbit:
        """The orbit of the network.

        Raises:
            JobError: the kernels do not take its mixture of dtypes.
        """
        try:
            return Orbit(self.params, self.spec, seed=seed)
        except (TypeError, ValueError) as error:
            raise JobError(f"{self.name}: {error}") from None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Storage dtypes of the floating-point tensors, most frequent first."""
        counts: dict[str, int] = {}
        for array in self.params.values():
            if array.dtype.name in FLOATS:
                counts[array.dtype.name] = counts.get(array.dtype.name, 0) + array.size
        return tuple(sorted(counts, key=lambda name: -counts[name]))


def example(name: str) -> Path:
    """Path of a trained network that the package ships: ``"digits-mlp"`` or ``"digits-cnn"``.

    Raises:
        JobError: no example of that name.

    >>> example("digits-mlp").name
    'digits_mlp.safetensors'
    """
    if name not in EXAMPLES:
        raise JobError(f"no example network {name!r}; the package ships {', '.join(EXAMPLES)}")
    return Path(str(importlib.resources.files("nnsym_fast") / "data" / EXAMPLES[name]))


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def load(
    path: str | Path, *, spec: str | Path | None = None, activation: str | None = None, probes: str | Path | None = None
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: ``.safetensors``, ``.npz`` or ``.pt``/``.pth`` (weights only), or the name of an example where no such
            file exists.
        spec: a JSON file with the symmetry; overrides what the checkpoint says.
        activation: for a plain MLP, the activation between its layers; overrides what the checkpoint says.
        probes: a ``.npy`` or ``.npz`` file with one array of inputs, ``(batch, *input_shape)``.

    Returns:
        The checkpoint, its spec validated against its tensors, every value finite.

    Raises:
        JobError: unreadable, truncated or unsupported files, non-finite values, no spec, a spec that does not fit.
    """
    file = Path(path)
    if not file.exists() and str(path) in EXAMPLES:
        file = example(str(path))
    if not file.is_file():
        kind = "is a directory" if file.is_dir() else "no such file"
        raise JobError(f"{path}: {kind}; expected a .safetensors, .npz or .pt file, or one of {', '.join(EXAMPLES)}")
    try:
        sha256 = sha256_of(file)
    except OSError as error:
        raise JobError(f"{file}: cannot be read ({error.strerror})") from None
    tensors, metadata = readers.read(file)
    params = {name: _checked(file, name, array) for name, array in tensors.items()}
    if not params:
        raise JobError(f"{file}: holds no tensors")
    model = _model(file, params, metadata, activation)
    symmetry = _spec(file, params, metadata, model, spec, activation)
    try:
        symmetry.validate(params)
    except (TypeError, ValueError) as error:
        raise JobError(f"{spec or file}: the spec does not fit the tensors: {error}") from None
    inputs = None if model is None else _probes(file, metadata, model, probes)
    return Checkpoint(file.name, sha256, params, symmetry, model, inputs)


def _checked(file: Path, name: str, array: Array) -> Array:
    if array.dtype.kind not in "fiub" and array.dtype.name not in FLOATS:
        raise JobError(f"{file}: tensor {name!r} has dtype {array.dtype}; expected real numbers")
    if array.dtype.kind == "f" and array.dtype.name not in FLOATS:
        raise JobError(f"{file}: tensor {name!r} has dtype {array.dtype}; expected one of {', '.join(FLOATS)}")
    if array.size == 0:
        raise JobError(f"{file}: tensor {name!r} of shape {array.shape} has no elements")
    if array.dtype.name in FLOATS and not (finite := np.isfinite(array)).all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = f", the first at {first}" if first else ""
        raise JobError(
            f"{file}: tensor {name!r} holds {int((~finite).sum())} non-finite values (NaN or infinity){where}; "
            "an orbit needs finite weights"
        )
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS"]).reshape(array.shape)


def _model(
    file: Path, params: Mapping[str, Array], metadata: Mapping[str, str], activation: str | None
) -> Model | None:
    if activation is not None:
        return _plain_mlp(file, params, activation)
    text = metadata.get("nnsym_fast.model")
    if text is None:
        return None
    try:
        return Model.from_json(json.loads(text))
    except ValueError as error:
        raise JobError(f"{file}: metadata nnsym_fast.model is malformed: {error}") from None


def _spec(
    file: Path,
    params: Mapping[str, Array],
    metadata: Mapping[str, str],
    model: Model | None,
    path: str | Path | None,
    activation: str | None,
) -> SymmetrySpec:
    if path is not None:
        try:
            return SymmetrySpec.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise JobError(f"{path}: the spec cannot be read ({error.strerror})") from None
        except (TypeError, ValueError) as error:
            raise JobError(f"{path}: not a spec: {error}") from None
    if activation is None and "nnsym_fast.spec" in metadata:
        try:
            return SymmetrySpec.from_json(metadata["nnsym_fast.spec"])
        except (TypeError, ValueError) as error:
            raise JobError(f"{file}: metadata nnsym_fast.spec is not a spec: {error}") from None
    if model is not None:
        try:
            return specs.from_layers(list(model.layers))
        except (TypeError, ValueError, KeyError) as error:
            raise JobError(f"{file}: no symmetry found for its layers: {error}") from None
    raise JobError(
        f"{file}: no symmetry spec; give --spec spec.json (SymmetrySpec.to_json writes it), or --activation relu for a "
        'plain MLP, or save the checkpoint with the metadata "nnsym_fast.spec"'
    )


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which "2.weight" comes before "10.weight"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _plain_mlp(file: Path, params: Mapping[str, Array], activation: str) -> Model:
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


def _probes(file: Path, metadata: Mapping[str, str], model: Model, path: str | Path | None) -> Array | None:
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
