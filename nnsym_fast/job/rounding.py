# SPDX-License-Identifier: MIT
"""What the points of an orbit are judged by: the rounding errors that they cannot help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnsym_fast.groups import Affine, Group, RotaryCommutant
from nnsym_fast.job.checkpoint import Array
from nnsym_fast.job.evaluate import floating
from nnsym_fast.legs import axis_legs
from nnsym_fast.reference import orbit as reference
from nnsym_fast.reference.orbit import SiteArrays
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["naive", "rounded"]

FLOATING = ("scale", "matrix", "inverse", "shift")


def naive(
    params: Mapping[str, Array], spec: SymmetrySpec, seed: int, index: int, work: np.dtype[Any], order: int = 0
) -> dict[str, Array]:
    """A point as plain NumPy computes it in the network's precision, moved back in float64: what is left is rounding.

    A spec that describes another network moves it elsewhere and back all the same, so this excuses no error but that of
    rounding; and neither elements nor action are those of the kernels that are judged by it.

    Args:
        params: the network.
        spec: its symmetry.
        seed: seed of the orbit.
        index: the point.
        work: float32 or float64, the precision.
        order: computes in another order of operations: other roundings of the same point.
    """
    exact = reference.sample(spec, 1, seed=seed, start=index)
    random = np.random.default_rng(order)
    given = {
        name: site if work == np.float64 else _single(spec.sites[name], site, random) for name, site in exact.items()
    }
    there = reference.act(spec, given, params)
    wide = {name: floating(array, np.float64) for name, array in there.items()}
    return {name: array[0] for name, array in reference.act(spec, reference.inverse(exact), wide, stacked=True).items()}


def _single(group: Group, site: SiteArrays, random: np.random.Generator) -> SiteArrays:
    """An element as it comes out of arithmetic in float32: orthogonal factors by Householder's QR, then products."""
    parts = {
        name: part.astype(np.float32) for name, part in site._asdict().items() if name in FLOATING and part is not None
    }
    unit = group.unit_group
    if site.matrix is not None and not isinstance(unit.group if isinstance(unit, Affine) else unit, RotaryCommutant):
        left, singular, right = np.linalg.svd(site.matrix)
        first = random.permutation(group.head_size)
        left, singular, right = left[..., first], singular[..., first], right[..., first, :]
        left, right, scale = _orthogonal(left), _orthogonal(right), singular[..., None, :].astype(np.float32)
        parts["matrix"] = (left * scale) @ right
        parts["inverse"] = np.swapaxes(right, -1, -2) @ np.swapaxes(left / scale, -1, -2)
    return site._replace(**parts)


def _orthogonal(matrix: Array) -> Array:
    """An orthogonal matrix as Householder's QR decomposition gives it in float32 (NumPy's own computes in float64)."""
    rest = matrix.astype(np.float32)
    result = np.broadcast_to(np.eye(matrix.shape[-1], dtype=np.float32), matrix.shape).copy()
    for k in range(matrix.shape[-1]):
        v = rest[..., k:, k].copy()
        norm = np.sqrt(np.sum(v * v, axis=-1))
        v[..., 0] += np.where(v[..., 0] < 0, -norm, norm)
        tau = np.float32(2) / np.sum(v * v, axis=-1)
        column, row = v[..., :, None], v[..., None, :] * tau[..., None, None]
        rest[..., k:, k:] -= column @ (row @ rest[..., k:, k:])
        result[..., :, k:] -= (result[..., :, k:] @ column) @ row
    return np.asarray(result * np.sign(np.diagonal(rest, axis1=-2, axis2=-1))[..., None, :])


def rounded(params: Mapping[str, Array], spec: SymmetrySpec, random: np.random.Generator) -> dict[str, Array]:
    """The network with its weights rounded anew, as those of every other point of a monomial group are."""
    moved = dict(params)
    for name, array in params.items():
        roundings = _roundings(spec, name, array.dtype)
        if roundings:
            relative = _roundoff(array.dtype.name) * random.uniform(-1, 1, (roundings, *array.shape)).sum(axis=0)
            moved[name] = array.astype(np.float64) * (1 + relative)
    return moved


def _roundings(spec: SymmetrySpec, name: str, dtype: np.dtype[Any]) -> int:
    """How often the kernel rounds the numbers of a tensor to its storage format: once per leg that multiplies them."""
    legs = [leg for axis in spec.legs[name] for leg in axis_legs(axis)]
    count = len({leg.site for leg in legs if leg.power != 0 and spec.sites[leg.site].scaled})
    # 16-bit tensors are multiplied in float32 and rounded at the end.
    return count if dtype.name in ("float32", "float64") else min(count, 1)


def _roundoff(dtype: str) -> float:
    """Largest relative error of one rounding to a storage format: half the spacing at 1."""
    return 2.0**-8 if dtype == "bfloat16" else float(np.finfo(dtype).eps) / 2
