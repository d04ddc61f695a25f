# SPDX-License-Identifier: MIT
"""Lattices, and sampling by the reference, for the tests of the O(N) model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast.reference import phi4

Array = npt.NDArray[Any]

# Odd extents, extents of 1 and 2, whole vectors, one more and one less.
SHAPES = ((1,), (5,), (16,), (33,), (2, 3), (6, 7), (4, 16), (17, 8), (3, 2, 5), (4, 5, 6), (2, 3, 17), (5, 3, 16))

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
"""Relative error of a field after a trajectory: a few dozen roundings, which the motion multiplies by less than ten.
That of a sum over the lattice, relative to the sum of its terms' magnitudes, is not larger."""

SIGMAS = 4.5
"""Deviations that a correct result is allowed: seven in a million. Seeds are fixed."""


class Chain(NamedTuple):
    """Trajectories of one chain by the reference."""

    phi: Array
    change: Array
    accepted: Array
    fields: Array


def follow(phi: Array, count: int, *, seed: int, chain: int = 0, first: int = 0, **motion: Any) -> Chain:
    """The reference's trajectories ``first``, ``first + 1``, ... from phi, (N, *shape)."""
    change, accepted, fields = [], [], []
    for number in range(first, first + count):
        step = phi4.trajectory(phi, seed=seed, chain=chain, number=number, **motion)
        phi = step.phi
        change.append(step.change)
        accepted.append(step.accepted)
        fields.append(phi)
    return Chain(phi, np.array(change), np.array(accepted), np.array(fields))


def hot(shape: Sequence[int], components: int, dtype: Any = np.float64, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(components, *shape)).astype(dtype)


def square_of_chain(length: int, m2: float, coupling: float) -> float:
    """<phi^2> of the model in one dimension with N = 1, from its transfer matrix on a grid.

    The weight of a configuration is a product of T(a, b) = exp(-(a - b)^2 / 2 - (V(a) + V(b)) / 2) round the circle.
    The trapezoidal rule converges exponentially for such functions: halving the grid changes nothing to 1e-10.
    """
    grid = np.linspace(-6, 6, 241)
    potential = m2 / 2 * grid**2 + coupling / 4 * grid**4
    transfer = np.exp(-((grid[:, None] - grid) ** 2) / 2 - (potential[:, None] + potential) / 2)
    weight = np.diag(np.linalg.matrix_power(transfer / transfer.max(), length))
    return float((weight * grid**2).sum() / weight.sum())
