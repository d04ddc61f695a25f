# SPDX-License-Identifier: MIT
"""The O(N) phi^4 model on a periodic lattice, by hybrid Monte Carlo: the definition.

S = sum over sites of 1/2 sum_mu |phi(x + mu) - phi(x)|^2 + m^2 / 2 |phi|^2 + lambda / 4 (|phi|^2)^2, with lattice
spacing 1 and fields of shape (N, L0), (N, L0, L1) or (N, L0, L1, L2). A field is drawn from exp(-S) by trajectories of
the Hamiltonian H = p^2 / 2 + S with fresh Gaussian p, which a reversible integrator follows approximately, and a
Metropolis test of exp(-dH) corrects (Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216).

Philox: key = seed; counter = (trajectory, chain, what, block). Momenta (what = 0) come four to a block, along the last
axis: block ``(row N + c) ceil(L / 4) + x // 4`` holds p_c of four sites of a row of length L. The uniform number of the
Metropolis test (what = 1) is word 0 of block 0. A hot start (what = 2, trajectory 0) is laid out as the momenta are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast.reference.philox import normals, philox4x32, uniforms

__all__ = [
    "INTEGRATORS",
    "Trajectory",
    "accept_threshold",
    "action",
    "force",
    "hot_start",
    "integrate",
    "momenta",
    "stages",
    "trajectory",
]

Array = npt.NDArray[Any]

MOMENTA, ACCEPT, HOT = 0, 1, 2

OMELYAN = 0.1931833275037836
"""Minimises the error of the second-order minimum-norm scheme (Omelyan, Mryglod, Folk 2003, equation 31)."""

INTEGRATORS = {"leapfrog": ((0.5, 0.5), (1.0,)), "omelyan": ((OMELYAN, 1 - 2 * OMELYAN, OMELYAN), (0.5, 0.5))}
"""Kicks of p and, between them, drifts of phi of one step, in units of its size."""


class Trajectory(NamedTuple):
    """One trajectory: the field after it, the change of H, and whether the proposal was accepted."""

    phi: Array
    change: float
    accepted: bool


def _axes(phi: Array) -> tuple[int, ...]:
    return tuple(range(1, phi.ndim))


def force(phi: Array, m2: float, coupling: float) -> Array:
    """dS/dphi, of the shape (N, ...) of phi."""
    near = sum(np.roll(phi, 1, axis) + np.roll(phi, -1, axis) for axis in _axes(phi))
    square = (phi * phi).sum(axis=0)
    return np.asarray((2 * (phi.ndim - 1) + m2 + coupling * square) * phi - near)


def action(phi: Array, m2: float, coupling: float) -> float:
    """S of phi, (N, ...), in double precision."""
    phi = phi.astype(np.float64)
    gradient = sum(((np.roll(phi, -1, axis) - phi) ** 2).sum() for axis in _axes(phi))
    square = (phi * phi).sum(axis=0)
    return float(gradient / 2 + m2 / 2 * square.sum() + coupling / 4 * (square * square).sum())


def momenta(seed: int, chain: int, number: int, shape: Sequence[int], components: int) -> Array:
    """Standard normals (N, *shape), float64, of trajectory ``number`` of a chain."""
    return _normals(seed, chain, number, MOMENTA, shape, components)


def hot_start(seed: int, chain: int, shape: Sequence[int], components: int) -> Array:
    """Standard normals (N, *shape), float64: a field in no order, of which no trajectory draws the numbers."""
    return _normals(seed, chain, 0, HOT, shape, components)


def _normals(seed: int, chain: int, number: int, what: int, shape: Sequence[int], components: int) -> Array:
    *outer, width = shape
    rows, blocks = int(np.prod(outer, dtype=np.int64)), -(-width // 4)
    words = _draw(seed, chain, number, what, rows * components * blocks)
    rowwise = normals(words.reshape(rows, components, 4 * blocks))[..., :width]
    return np.ascontiguousarray(np.moveaxis(rowwise, 1, 0)).reshape(components, *shape)


def accept_threshold(seed: int, chain: int, number: int) -> float:
    """-log u: the proposal of the trajectory is accepted if dH is smaller."""
    return -float(np.log(uniforms(_draw(seed, chain, number, ACCEPT, 1)[0, :1])[0]))


def _draw(seed: int, chain: int, number: int, what: int, blocks: int) -> npt.NDArray[np.uint32]:
    counter = np.empty((blocks, 4), dtype=np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2], counter[:, 3] = number, chain, what, np.arange(blocks)
    return philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32])


def stages(integrator: str, steps: int) -> tuple[list[float], list[float]]:
    """Kicks and drifts of ``steps`` steps, in units of the step size: kick, drift, kick, ..., kick, and a drift of 0.

    The last kick of a step and the first one of the next are one.
    """
    kicks, drifts = INTEGRATORS[integrator]
    inner = [*kicks[1:-1], kicks[-1] + kicks[0]]
    every_kick = [kicks[0], *(inner * steps)[:-1], kicks[-1]]
    return every_kick, [*(drifts * steps), 0.0]


def integrate(
    phi: Array, p: Array, *, m2: float, coupling: float, step_size: float, steps: int, integrator: str = "leapfrog"
) -> tuple[Array, Array]:
    """The equations of motion phi' = p, p' = -dS/dphi over ``steps`` steps. Returns phi and p."""
    for kick, drift in zip(*stages(integrator, steps), strict=True):
        p = p - (phi.dtype.type(kick * step_size)) * force(phi, m2, coupling).astype(phi.dtype)
        phi = phi + phi.dtype.type(drift * step_size) * p
    return phi, p


def trajectory(
    phi: Array,
    *,
    m2: float,
    coupling: float,
    step_size: float,
    steps: int,
    seed: int,
    chain: int = 0,
    number: int = 0,
    integrator: str = "leapfrog",
) -> Trajectory:
    """Trajectory ``number`` of a chain at phi, (N, ...) of float32 or float64: proposal and Metropolis test."""
    p = momenta(seed, chain, number, phi.shape[1:], len(phi)).astype(phi.dtype)
    proposed, end = integrate(phi, p, m2=m2, coupling=coupling, step_size=step_size, steps=steps, integrator=integrator)
    kinetic = ((end.astype(np.float64) ** 2).sum() - (p.astype(np.float64) ** 2).sum()) / 2
    change = float(kinetic + action(proposed, m2, coupling) - action(phi, m2, coupling))
    accepted = accept_threshold(seed, chain, number) > change
    return Trajectory(proposed if accepted else phi, change, accepted)
