# SPDX-License-Identifier: MIT
"""Two-dimensional pictures of an orbit: of whole networks, and of the unit at one position of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.checkpoint import Array
from nnsym_fast.symmetry import Leg, SymmetrySpec

__all__ = ["Plane", "Position", "project_networks", "project_position"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Networks projected on two planes, in units of the starting network's norm.

    Args:
        against_base: ``(n, 2)``: component along the starting network (which itself is at (1, 0)), and along the main
            direction of the points at right angles to it.
        principal: ``(n, 2)``: components along the two main directions of the points, relative to their mean.
        base: ``(2,)``: the starting network in the second plane.
        explained: share of the variance along each of these two directions.
        effective: effective number of directions that the points spread over, (sum of variances)^2 / sum of squared
            variances (participation ratio); at most n - 1.
    """

    against_base: Floats
    principal: Floats
    base: Floats
    explained: tuple[float, float]
    effective: float


def project_networks(points: Mapping[str, Array], base: Mapping[str, Array], spec: SymmetrySpec) -> Plane:
    """Main directions of the trainable tensors that the group moves.

    The directions are spherical principal components (Locantore et al., Test 8, 1999): every point counts by its
    direction from the mean and not by its distance, or else the few points with the largest scales would be all there
    is to see.

    Args:
        points: stacked networks, ``(n, ...)`` per tensor, n >= 3.
        base: the network that they come from.
        spec: its symmetry.
    """
    names = [name for name in base if spec.touched(name) and name not in spec.state]
    rows = np.concatenate([points[name].reshape(len(points[name]), -1).astype(np.float32) for name in names], axis=1)
    origin = np.concatenate([base[name].ravel().astype(np.float32) for name in names])
    unit = np.linalg.norm(origin) or np.float32(1.0)
    rows /= unit
    origin /= unit
    along = rows @ origin
    mean = rows.mean(axis=0)
    rows -= mean
    directions, variances = _directions(rows)
    explained = variances[:2] / (variances.sum() or 1.0)
    across = rows - (rows @ origin)[:, None] * origin
    main, _ = _directions(across, count=1)
    # Relative to the origin again, not to the mean, so that the starting network and zero have their true places.
    sideways = (across + (mean - (mean @ origin) * origin)) @ main[:, 0]
    return Plane(
        against_base=np.stack([along, sideways], axis=1).astype(np.float64),
        principal=(rows @ directions).astype(np.float64),
        base=((origin - mean) @ directions).astype(np.float64),
        explained=(float(explained[0]), float(explained[1])),
        effective=float(variances.sum() ** 2 / (np.square(variances).sum() or 1.0)),
    )


def _directions(rows: Array, count: int = 2) -> tuple[Array, Floats]:
    """Spherical principal directions ``(parameters, count)`` of centred rows, and all variances, largest first."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    sphere = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    # n is far smaller than the number of parameters, so the eigenvectors come from the n x n matrix of inner products.
    variances, vectors = np.linalg.eigh((sphere @ sphere.T).astype(np.float64))
    variances, vectors = np.maximum(variances[::-1], 0.0), vectors[:, ::-1]
    weights = vectors[:, :count] / np.sqrt(np.maximum(variances[:count], np.finfo(np.float64).tiny))
    return sphere.T @ weights.astype(rows.dtype), variances


@dataclass(frozen=True)
class Position:
    """The incoming weights at position 0 of a layer over the orbit, in the plane of the base network's main directions.

    Args:
        tensor: name of the weight.
        site: name of the site.
        units: ``(units, 2)``, the incoming weights of every unit of the base network.
        occupants: ``(n, 2)``, what stands at position 0 of each point.
        origin: ``(n,)``, the unit of the base network that it comes from.
        scaled: whether the group stretches a unit's weights.
        signed: whether the group flips them.
    """

    tensor: str
    site: str
    units: Floats
    occupants: Floats
    origin: npt.NDArray[np.intp]
    scaled: bool
    signed: bool


def project_position(elements: Mapping[str, Any], base: Mapping[str, Array], spec: SymmetrySpec) -> Position | None:
    """Position 0 of the first weight whose rows write into a site of units, not of matrices; None if there is none.

    Args:
        elements: the group elements of the points, see ``Orbit.elements``.
        base: the network that the orbit starts from.
        spec: its symmetry.
    """
    for name, axes in spec.legs.items():
        leg = axes[0] if axes else None
        if not isinstance(leg, Leg) or leg.dual or leg.repeat != 1 or name in spec.state:
            continue
        if spec.sites[leg.site].dense or spec.sites[leg.site].shifted:
            continue
        # A second leg would mix the permutation of the inputs into the picture.
        if any(axis is not None for axis in axes[1:]):
            continue
        rows = base[name].reshape(len(base[name]), -1).astype(np.float64)
        if min(rows.shape) < 2:
            continue
        _, _, directions = np.linalg.svd(rows, full_matrices=False)
        units = rows @ directions[:2].T
        group, site = spec.sites[leg.site], elements[leg.site]
        count = len(next(part for part in (site.perm, site.sign, site.scale) if part is not None))
        origin = np.zeros(count, dtype=np.intp) if site.perm is None else site.perm[:, 0].astype(np.intp)
        occupants = units[origin]
        if site.scale is not None:
            occupants = occupants * site.scale[:, :1].astype(np.float64) ** leg.power
        if site.sign is not None:
            occupants = occupants * site.sign[:, :1].astype(np.float64) ** leg.power
        moves = leg.power != 0
        return Position(name, leg.site, units, occupants, origin, group.scaled and moves, group.signed and moves)
    return None
