# SPDX-License-Identifier: MIT
"""The symmetry of a checkpoint folder, and the folding of its norms, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnsym_fast import specs
from nnsym_fast.folds import Fold
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.folder import Folder
from nnsym_fast.job.lazy import Array, LazyTensor, TensorLike, array_of
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["folded", "spec_of"]


def spec_of(folder: Folder, symmetries: Sequence[str] | None, rotate: bool) -> SymmetrySpec:
    """The symmetry that a folder's configuration and tensors have.

    Args:
        folder: the folder.
        symmetries: which of them, see ``specs.transformer``; None: all.
        rotate: whether the residual stream is rotated.

    Raises:
        JobError: unknown architecture or symmetry, or tensors that contradict the configuration.
    """
    shapes = {name: tensor.shape for name, tensor in folder.tensors.items()}
    try:
        return specs.transformer(folder.config, symmetries=symmetries, tensors=shapes, rotate=rotate)
    except (KeyError, TypeError, ValueError) as error:
        raise JobError(f"{folder.path}: {error}") from None


def folded(path: Path, tensors: Mapping[str, TensorLike], spec: SymmetrySpec, fold: bool) -> Mapping[str, TensorLike]:
    """The network with the norms folded for which the spec asks, each tensor when it is needed.

    Args:
        path: the checkpoint, for messages.
        tensors: its tensors.
        spec: its symmetry.
        fold: whether to fold; otherwise the norms must be folded already.

    Returns:
        The same names.

    Raises:
        JobError: norms that are not folded and shall not be, or cannot be; nothing to fold.
    """
    try:
        if not fold:
            specs.check_folded(tensors, spec)
            return tensors
    except ValueError as error:
        reason = str(error).partition("; ")[0]
        raise JobError(f"{path}: {reason}; give --fold-norms, which leaves the function as it is") from None
    if not spec.folds:
        raise JobError(f"{path}: --fold-norms: no norm of its spec is to be folded; it goes with --rotate")
    result = dict(tensors)
    for norm in spec.folds:
        for name in filter(None, (norm.gain, norm.bias)):
            result[name] = _Folded(path, name, tensors, spec, replace(norm, readers=()))
        for reader in norm.readers:
            for name in filter(None, (reader.weight, reader.bias)):
                # One reader alone: the others need not be read for it.
                result[name] = _Folded(path, name, tensors, spec, replace(norm, readers=(reader,)))
    return result


class _Folded(LazyTensor):
    """A tensor after a norm was folded; ``specs.fold_norms`` says how."""

    def __init__(
        self, path: Path, name: str, tensors: Mapping[str, TensorLike], spec: SymmetrySpec, norm: Fold
    ) -> None:
        super().__init__(tensors[name].shape, tensors[name].dtype)
        self.path = path
        self.name = name
        self.parts = {part: tensors[part] for part in norm.tensors}
        self.spec = SymmetrySpec(spec.sites, spec.legs, spec.state, folds=[norm])

    def load(self) -> Array:
        arrays = {name: array_of(part) for name, part in self.parts.items()}
        try:
            folded: Array = specs.fold_norms(arrays, self.spec)[self.name]
        except ValueError as error:
            raise JobError(f"{self.path}: {error}") from None
        return folded
