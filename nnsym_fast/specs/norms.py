# SPDX-License-Identifier: MIT
"""Moving the gains and biases of norms into the weights that read them, and back.

A norm ``x -> (offset + gain) normalised(x) + bias`` in front of ``W`` is the same as one without gains in front of
``W diag(offset + gain)`` and ``W bias`` more on the bias of ``W``. A norm without gains commutes with rotations; see
Ashkboos et al. 2404.00456.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnsym_fast.folds import Fold
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["check_folded", "fold_norms", "unfold_norms"]


def fold_norms(params: Mapping[str, Any], spec: SymmetrySpec) -> dict[str, Any]:
    """Fold the norms that ``spec.folds`` lists: the network computes the same, with gains of one.

    A bias of a norm whose readers have no biases cannot move into them. Where the spec rotates it with the stream, it
    is divided by the gains and stays; elsewhere it must be zero.

    Args:
        params: name -> NumPy array or torch tensor.
        spec: the symmetry, from ``specs.transformer(..., rotate=True)``.

    Returns:
        All tensors by name: new ones, in the dtype that came in, for the norms and their readers, the same ones for the
        rest. The arithmetic is float64 for float64 and float32 for all others.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a tensor is missing; a bias that no reader can take; a gain of zero where a bias is to be divided.

    >>> from nnsym_fast.folds import Reader
    >>> from nnsym_fast.groups import Orthogonal
    >>> spec = SymmetrySpec(
    ...     {"x": Orthogonal(2)},
    ...     {"embed": (None, "x"), "norm": (None,), "head": (None, "x*")},
    ...     folds=[Fold("norm", (Reader("head", 1),))],
    ... )
    >>> folded = fold_norms({"embed": np.eye(2), "norm": np.array([2.0, 3.0]), "head": np.ones((1, 2))}, spec)
    >>> folded["norm"], folded["head"]
    (array([1., 1.]), array([[2., 3.]]))
    """
    result = _copy(params, spec)
    for fold in spec.folds:
        gain = _wide(params[fold.gain]) + fold.offset
        if fold.bias:
            bias = _wide(params[fold.bias])
            if _kept(fold, spec):
                result[fold.bias] = _like(_divide(fold, bias, gain), params[fold.bias])
            else:
                _add_to_readers(fold, result, bias, +1)
                result[fold.bias] = _like(bias * 0, params[fold.bias])
        for reader in fold.readers:
            weight = result[reader.weight]
            result[reader.weight] = _like(_wide(weight) * _along(gain, weight, reader.axis), weight)
        result[fold.gain] = _like(gain * 0 + (1 - fold.offset), params[fold.gain])
    return result


def unfold_norms(params: Mapping[str, Any], spec: SymmetrySpec, norms: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`fold_norms`: give the norms these gains and biases, and take them out of their readers.

    Any gains but zero leave the function unchanged, so this also follows a rotation of the folded network.

    Args:
        params: name -> array of the folded network.
        spec: the symmetry.
        norms: name -> array with at least the gains and biases of all norms of ``spec.folds``: the network before
            folding, for instance.

    Returns:
        As :func:`fold_norms`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a tensor is missing, the norms of ``params`` are not folded, or a gain is zero: there is no inverse.
    """
    result = _copy(params, spec)
    check_folded(params, spec)
    for fold in spec.folds:
        for name in (fold.gain, fold.bias):
            if name and name not in norms:
                raise ValueError(f"norms: expected the gains and biases of all norms, {name!r} is missing")
        gain = _wide(norms[fold.gain]) + fold.offset
        if bool((gain == 0).any()):
            raise ValueError(f"norms: gain {fold.gain!r} has zeros, which folding multiplied into its readers for good")
        for reader in fold.readers:
            weight = result[reader.weight]
            result[reader.weight] = _like(_wide(weight) / _along(gain, weight, reader.axis), weight)
        if fold.bias and _kept(fold, spec):
            result[fold.bias] = _like(_wide(params[fold.bias]) * gain, params[fold.bias])
        elif fold.bias:
            bias = _wide(norms[fold.bias])
            _add_to_readers(fold, result, bias, -1)
            result[fold.bias] = _like(bias, params[fold.bias])
        result[fold.gain] = _like(gain - fold.offset, params[fold.gain])
    return result


def check_folded(params: Mapping[str, Any], spec: SymmetrySpec) -> None:
    """Check that the norms of ``spec.folds`` are folded, so that the spec holds for these parameters.

    Reads gains and biases of norms alone, so ``params`` may be lazy.

    Raises:
        ValueError: a gain that is not one, or a bias that is not zero.
    """
    for name in (name for fold in spec.folds for name in (fold.gain, fold.bias)):
        if name and name not in params:
            raise ValueError(f"tensor {name!r}: in the folds of the spec but missing from params")
    for fold in spec.folds:
        ones = not bool((_wide(params[fold.gain]) + fold.offset != 1).any())
        zero = not fold.bias or _kept(fold, spec) or not bool((_wide(params[fold.bias]) != 0).any())
        if not (ones and zero):
            name, what = (fold.bias, "bias is not zero") if ones else (fold.gain, "gains are not one")
            raise ValueError(
                f"tensor {name!r}: the spec rotates the residual stream, but this norm's {what}; fold the norms first, "
                "params = specs.fold_norms(params, spec)"
            )


def _copy(params: Mapping[str, Any], spec: SymmetrySpec) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a mapping tensor name -> array, got {type(params).__name__}")
    if not isinstance(spec, SymmetrySpec):
        raise TypeError(f"spec: expected a SymmetrySpec, got {type(spec).__name__}; see the order of the arguments")
    for fold in spec.folds:
        for name in fold.tensors:
            if name not in params:
                raise ValueError(f"tensor {name!r}: in the folds of the spec but missing from params")
    return dict(params)


def _kept(fold: Fold, spec: SymmetrySpec) -> bool:
    """Whether the norm's bias stays where it is and moves with the stream."""
    return spec.touched(fold.bias)


def _divide(fold: Fold, bias: Any, gain: Any) -> Any:
    if bool(((gain == 0) & (bias != 0)).any()):
        raise ValueError(
            f"tensor {fold.gain!r}: a gain is zero where the bias {fold.bias!r} is not, and a reader has no bias to "
            f"take it ({_without_bias(fold)}); expected gains other than zero"
        )
    # Where the gain is zero the bias is, too.
    return bias / (gain + (gain == 0))


def _without_bias(fold: Fold) -> str:
    return ", ".join(repr(reader.weight) for reader in fold.readers if not reader.bias)


def _add_to_readers(fold: Fold, result: dict[str, Any], bias: Any, sign: int) -> None:
    """``W bias``, for the weights that are in ``result``, on their biases."""
    if not bool((bias != 0).any()):
        return
    for reader in fold.readers:
        if not reader.bias:
            raise ValueError(
                f"tensor {fold.bias!r}: this norm has a bias, but its reader {reader.weight!r} has none to take it; "
                "expected zeros, or a reader with a bias"
            )
        weight = result[reader.weight]
        product = (_wide(weight) * _along(bias, weight, reader.axis)).sum(reader.axis)
        old = result[reader.bias]
        result[reader.bias] = _like(_wide(old) + sign * product.reshape(old.shape), old)


def _along(vector: Any, weight: Any, axis: int) -> Any:
    """The vector as an array that broadcasts along an axis of the weight."""
    return vector.reshape((1,) * axis + (-1,) + (1,) * (weight.ndim - axis - 1))


def _is_torch(value: Any) -> bool:
    # By behaviour, not by import: this package works without torch.
    return hasattr(value, "detach")


def _wide(value: Any) -> Any:
    """In float64 if it is, else in float32; storage types of two bytes are too coarse to add in."""
    double = str(value.dtype).endswith("float64")
    if _is_torch(value):
        return value.double() if double else value.float()
    return np.asarray(value).astype(np.float64 if double else np.float32)


def _like(value: Any, original: Any) -> Any:
    """In the dtype of the original."""
    return value.to(original.dtype) if _is_torch(original) else value.astype(original.dtype)
