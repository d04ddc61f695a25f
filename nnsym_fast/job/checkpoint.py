# SPDX-License-Identifier: MIT
"""Read a network from a file: tensors, symmetry, and the layers that evaluate it. No code from the file ever runs."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnsym_fast import specs
from nnsym_fast.job import architecture, readers
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.folder import is_folder, open_folder
from nnsym_fast.job.lazy import LazyTensor, TensorLike, array_of, pieces
from nnsym_fast.job.model import Array, Model, model_of, probes_of
from nnsym_fast.orbit import Orbit
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["EXAMPLES", "LARGE", "Array", "Checkpoint", "Model", "check_finite", "example", "load", "sha256_of"]

EXAMPLES = {"digits-mlp": "digits_mlp.safetensors", "digits-cnn": "digits_cnn.safetensors"}
"""Names of the trained networks that the package ships, and their files."""

LARGE = 256 << 20
"""Networks of more bytes stay in their safetensors files and are worked on tensor by tensor."""

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Checkpoint:
    """A network that was read from a file or a folder.

    Args:
        name: name of the file or the folder, without its directory.
        sha256: hash of the file's bytes, in hexadecimal; of a folder, of the list of its files' hashes.
        params: tensor name -> array, C-contiguous and in native byte order; or, of a large network, lazy tensors.
        spec: its symmetry, validated against ``params``.
        model: what evaluates it, or None.
        probes: inputs ``(batch, *input_shape)`` on which functions are compared, float64; None without a model.
        config: what the ``config.json`` of a folder says; None for a file.
        path: where it was read from; None for one that was not.
        metadata: the texts that the file holds beside its tensors.
    """

    name: str
    sha256: str
    params: Mapping[str, TensorLike]
    spec: SymmetrySpec
    model: Model | None
    probes: Array | None
    config: Mapping[str, Any] | None = None
    path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def large(self) -> bool:
        """Whether tensors stay in their files until they are needed."""
        return any(isinstance(tensor, LazyTensor) for tensor in self.params.values())

    @property
    def arrays(self) -> dict[str, Array]:
        """All tensors as arrays, those of a large network mapped from its files."""
        return {name: array_of(tensor) for name, tensor in self.params.items()}

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
        if self.model is None and self.config is not None:
            raise JobError(f"{self.name}: {what} is not measured for transformers; nnsym-fast verify evaluates them")
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
    path: str | Path,
    *,
    spec: str | Path | None = None,
    activation: str | None = None,
    probes: str | Path | None = None,
    symmetries: Sequence[str] | None = None,
    rotate: bool = False,
    fold_norms: bool = False,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a folder with a ``config.json`` and ``.safetensors`` files; ``.safetensors``, ``.npz`` or ``.pt``/``.pth``
            (weights only); or the name of an example where no such file exists.
        spec: a JSON file with the symmetry; overrides what the checkpoint says.
        activation: for a plain MLP, the activation between its layers; overrides what the checkpoint says.
        probes: a ``.npy`` or ``.npz`` file with one array of inputs, ``(batch, *input_shape)``.
        symmetries: of a transformer, which symmetries its spec has, see ``specs.transformer``; None: all that it has.
        rotate: of a transformer, whether the residual stream is rotated.
        fold_norms: of a transformer, whether gains of norms are folded into the weights that read them, first of all.

    Returns:
        The checkpoint, its spec validated against its tensors, every value finite. Tensors of networks of more than
        ``LARGE`` bytes stay in their safetensors files.

    Raises:
        JobError: unreadable, truncated or unsupported files, non-finite values, no spec, a spec that does not fit.
    """
    file = Path(path)
    if not file.exists() and str(path) in EXAMPLES:
        file = example(str(path))
    if is_folder(file):
        if activation is not None or probes is not None:
            raise JobError(f"{file}: --activation and --probes are for networks of layers, not for checkpoint folders")
        return _load_folder(file, spec, symmetries, rotate, fold_norms)
    if not file.is_file():
        kind = "is a directory without a checkpoint" if file.is_dir() else "no such file"
        raise JobError(
            f"{path}: {kind}; expected a .safetensors, .npz or .pt file, a folder with config.json and .safetensors "
            f"files, or one of {', '.join(EXAMPLES)}"
        )
    sha256 = _hash(file)
    tensors, metadata = readers.read(file)
    _check_kinds(file, tensors)
    model = model_of(file, tensors, metadata, activation)
    symmetry = _spec(file, metadata, model, spec, activation)
    if symmetry is None:
        symmetry = _inferred(file, symmetries, rotate)
    elif symmetries is not None or rotate or fold_norms:
        raise JobError(f"{path}: --symmetries, --rotate and --fold-norms are for transformers; its symmetry is given")
    _validate(spec or file, symmetry, tensors)
    params = _accepted(file, architecture.folded(file, tensors, symmetry, fold_norms))
    inputs = None if model is None else probes_of(file, metadata, model, probes)
    return Checkpoint(file.name, sha256, params, symmetry, model, inputs, None, file, metadata)


def _load_folder(
    path: Path, spec: str | Path | None, symmetries: Sequence[str] | None, rotate: bool, fold_norms: bool
) -> Checkpoint:
    folder = open_folder(path)
    if spec is None:
        symmetry = architecture.spec_of(folder, symmetries, rotate)
    elif symmetries is not None or rotate:
        raise JobError(f"--spec {spec}: says which symmetries there are; --symmetries and --rotate do not go with it")
    else:
        symmetry = _read_spec(spec)
    tensors: Mapping[str, TensorLike] = folder.tensors
    _check_kinds(path, tensors)
    _validate(spec or path, symmetry, tensors)
    tensors = architecture.folded(path, tensors, symmetry, fold_norms)
    params = _accepted(path, tensors)
    lines = (f"{_hash(file)}  {file.name}\n" for file in folder.files)
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Checkpoint(path.resolve().name, sha256, params, symmetry, None, None, folder.config, path)


def _hash(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise JobError(f"{file}: cannot be read ({error.strerror})") from None


def _check_kinds(file: Path, tensors: Mapping[str, TensorLike]) -> None:
    """Refuse tensors without numbers, or with numbers of other kinds than networks have."""
    if not tensors:
        raise JobError(f"{file}: holds no tensors")
    for name, tensor in tensors.items():
        dtype = tensor.dtype
        if dtype.kind not in "fiub" and dtype.name not in FLOATS:
            raise JobError(f"{file}: tensor {name!r} has dtype {dtype}; expected real numbers")
        if dtype.kind == "f" and dtype.name not in FLOATS:
            raise JobError(f"{file}: tensor {name!r} has dtype {dtype}; expected one of {', '.join(FLOATS)}")
        if tensor.size == 0:
            raise JobError(f"{file}: tensor {name!r} of shape {tensor.shape} has no elements")


def _accepted(file: Path, tensors: Mapping[str, TensorLike]) -> dict[str, TensorLike]:
    """Finite tensors, in memory unless they are large."""
    large = sum(tensor.nbytes for tensor in tensors.values()) > LARGE
    return {name: _finite(file, name, tensor, large) for name, tensor in tensors.items()}


def _finite(file: Path, name: str, tensor: TensorLike, large: bool) -> TensorLike:
    array = array_of(tensor)
    if array.dtype.name in FLOATS:
        check_finite(file, name, array)
    if isinstance(tensor, LazyTensor):
        return tensor if large else np.array(array)
    return np.require(array, array.dtype.newbyteorder("="), ["C_CONTIGUOUS"]).reshape(array.shape)


EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of the exponent, all of which are set in what is not finite."""


def check_finite(file: Path, name: str, array: Array) -> None:
    """Refuse NaN and infinity.

    Raises:
        JobError: that names the tensor, the number of such entries and the first of them.
    """
    count, first, seen = 0, 0, 0
    for piece in pieces(array):
        if array.dtype.name in EXPONENT:
            mask = np.uint16(EXPONENT[array.dtype.name])
            bad = (piece.astype(array.dtype.newbyteorder("="), copy=False).view(np.uint16) & mask) == mask
        else:
            bad = ~np.isfinite(piece)
        if bad.any():
            first = first if count else seen + int(np.argmax(bad))
            count += int(bad.sum())
        seen += piece.size
    if count:
        position = tuple(int(i) for i in np.unravel_index(first, array.shape))
        where = f", the first at {position}" if position else ""
        raise JobError(
            f"{file}: tensor {name!r} holds {count} non-finite values (NaN or infinity){where}; an orbit needs finite "
            "weights"
        )


def _validate(source: str | Path, spec: SymmetrySpec, params: Mapping[str, TensorLike]) -> None:
    """Check a spec against the tensors: names, shapes, and numbers that can be multiplied."""
    if missing := [name for name in spec.legs if name not in params]:
        raise JobError(f"{source}: the spec does not fit the tensors: tensor {missing[0]!r} is missing{_more(missing)}")
    if unknown := [name for name in params if name not in spec.legs]:
        raise JobError(
            f"{source}: the spec does not fit the tensors: it has no legs for tensor {unknown[0]!r}{_more(unknown)}"
        )
    try:
        spec.validate(params)
    except (TypeError, ValueError) as error:
        raise JobError(f"{source}: the spec does not fit the tensors: {error}") from None
    for name, tensor in params.items():
        if spec.touched(name) and tensor.dtype.kind in "iub":
            raise JobError(
                f"{source}: tensor {name!r} is stored as {tensor.dtype}, and its legs multiply it; expected "
                f"{', '.join(FLOATS)} (of a quantised network, use the checkpoint that it was made from)"
            )


def _more(names: Iterable[str]) -> str:
    count = len(list(names)) - 1
    return f", and {count} more" if count else ""


def _read_spec(path: str | Path) -> SymmetrySpec:
    try:
        return SymmetrySpec.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: the spec cannot be read ({error.strerror})") from None
    except (TypeError, ValueError) as error:
        raise JobError(f"{path}: not a spec: {error}") from None


def _spec(
    file: Path, metadata: Mapping[str, str], model: Model | None, path: str | Path | None, activation: str | None
) -> SymmetrySpec | None:
    """The symmetry that the user, the metadata or the layers give; None if nothing does."""
    if path is not None:
        return _read_spec(path)
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
    return None


def _inferred(file: Path, symmetries: Sequence[str] | None, rotate: bool) -> SymmetrySpec:
    """The symmetry of a file that nobody describes, if its tensors are those of a transformer."""
    reason = ""
    if file.suffix.lower() == ".safetensors":
        try:
            return specs.infer(file, symmetries=symmetries, rotate=rotate)
        except (OSError, TypeError, ValueError) as error:
            reason = f"; it is not recognised as a transformer: {str(error).removeprefix(f'{file}: ')}"
    raise JobError(
        f"{file}: no symmetry spec; give --spec spec.json (SymmetrySpec.to_json writes it), or --activation relu for a "
        f'plain MLP, or save the checkpoint with the metadata "nnsym_fast.spec"{reason}'
    )
