# SPDX-License-Identifier: MIT
"""The job of the phi^4 benchmarks in vectorised NumPy: a trajectory of hybrid Monte Carlo, written in two ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import Peer

__all__ = ["COUPLING", "M2", "STEPS", "STEP_SIZE", "fields", "flops", "peers_of"]

Array = npt.NDArray[Any]
Update = Callable[[Array, np.random.Generator], tuple[Array, float]]

M2, COUPLING = -0.5, 1.0
STEPS, STEP_SIZE = 10, 0.05


def fields(chains: int, components: int, shape: tuple[int, ...], dtype: Any) -> Array:
    """Fields near equilibrium."""
    return (0.5 * np.random.default_rng(0).standard_normal((chains, components, *shape))).astype(dtype)


def flops(count: int, dims: int, components: int) -> float:
    """Useful floating-point operations of a trajectory of ``count`` numbers, without the drawing of its momenta.

    A force takes 2 dims additions, 3 operations for the local term and 2 for its share of |phi|^2; kick and drift two
    each.
    """
    return float(count * (STEPS + 1) * (2 * dims + 3 + 2 + 4) + count / components)


def rolled(phi: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """As it is written down: np.roll and temporary arrays. phi: (N, *shape)."""
    axes = tuple(range(1, phi.ndim))
    real = phi.dtype.type
    step = real(STEP_SIZE)

    def force(f: Array) -> Array:
        near = sum(np.roll(f, 1, axis) + np.roll(f, -1, axis) for axis in axes)
        local = real(COUPLING) * (f * f).sum(axis=0) + real(2 * len(axes) + M2)
        return np.asarray(local * f - near)

    def action(f: Array) -> float:
        gradient = sum(((np.roll(f, -1, axis) - f) ** 2).sum(dtype=np.float64) for axis in axes)
        square = (f * f).sum(axis=0)
        local = M2 / 2 * square.sum(dtype=np.float64) + COUPLING / 4 * (square * square).sum(dtype=np.float64)
        return float(gradient / 2 + local)

    p = rng.standard_normal(phi.shape, dtype=phi.dtype)
    before = (p * p).sum(dtype=np.float64) / 2 + action(phi)
    new = phi
    p = p - step / 2 * force(new)
    for k in range(STEPS):
        new = new + step * p
        p = p - (step if k + 1 < STEPS else step / 2) * force(new)
    change = float((p * p).sum(dtype=np.float64) / 2 + action(new) - before)
    return (new if -np.log(rng.random()) > change else phi), change


class InPlace:
    """Without temporary arrays: a field with a halo, whose neighbours are views, and ufuncs with ``out=``."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        components, *extents = shape
        self.dims = len(extents)
        self.halo = np.zeros((components, *(length + 2 for length in extents)), dtype)
        self.phi = self.halo[(slice(None), *[slice(1, -1)] * self.dims)]
        self.neighbours = [self._shifted(axis, by) for axis in range(self.dims) for by in (-1, 1)]
        self.force, self.work, self.p = (np.empty(shape, dtype) for _ in range(3))
        self.square, self.local = (np.empty(tuple(extents), dtype) for _ in range(2))
        self.faces = list(self._faces())

    def _shifted(self, axis: int, by: int) -> Array:
        inner = [slice(1, -1)] * self.dims
        inner[axis] = slice(1 + by, self.halo.shape[axis + 1] - 1 + by)
        return np.asarray(self.halo[(slice(None), *inner)])

    def _faces(self) -> Iterator[tuple[Array, Array]]:
        for axis in range(self.dims):
            for to, source in ((0, -2), (-1, 1)):
                at: list[Any] = [slice(1, -1)] * self.dims
                at[axis] = to
                into = self.halo[(slice(None), *at)]
                at[axis] = source
                yield into, self.halo[(slice(None), *at)]

    def wrap(self) -> None:
        for into, source in self.faces:
            into[...] = source

    def set_force(self) -> None:
        """The force; |phi|^2 stays in ``square``."""
        real = self.force.dtype.type
        np.einsum("c...,c...->...", self.phi, self.phi, out=self.square)
        np.multiply(self.square, real(COUPLING), out=self.local)
        self.local += real(2 * self.dims + M2)
        np.multiply(self.local, self.phi, out=self.force)
        for neighbour in self.neighbours:
            self.force -= neighbour

    def energy(self) -> float:
        """H, after set_force: S = phi dS/dphi / 2 - coupling / 4 (phi^2)^2."""
        flat = self.square.ravel()
        np.multiply(self.phi, self.force, out=self.work)
        quartic = float(np.einsum("i,i->", flat, flat, dtype=np.float64))
        kinetic = np.einsum("i,i->", self.p.ravel(), self.p.ravel(), dtype=np.float64)
        return float(kinetic / 2 + self.work.sum(dtype=np.float64) / 2 - COUPLING / 4 * quartic)

    def __call__(self, phi: Array, rng: np.random.Generator) -> tuple[Array, float]:
        step = phi.dtype.type(STEP_SIZE)
        self.phi[...] = phi
        self.wrap()
        rng.standard_normal(out=self.p, dtype=phi.dtype)
        self.set_force()
        before = self.energy()
        self._kick(step / 2)
        for k in range(STEPS):
            np.multiply(self.p, step, out=self.work)
            self.phi += self.work
            self.wrap()
            self.set_force()
            self._kick(step if k + 1 < STEPS else step / 2)
        change = self.energy() - before
        return (self.phi.copy() if -np.log(rng.random()) > change else phi), change

    def _kick(self, size: Any) -> None:
        np.multiply(self.force, size, out=self.work)
        self.p -= self.work


def peers_of(start: Array, trajectories: int) -> Iterator[Peer]:
    """``trajectories`` of every chain of (chains, N, *shape); they return dH, (chains, trajectories)."""

    def runner(update: Update) -> Callable[[], Array]:
        def run() -> Array:
            rng = np.random.default_rng(1)
            change = np.empty((len(start), trajectories))
            for chain, phi in enumerate(start):
                for k in range(trajectories):
                    phi, change[chain, k] = update(phi, rng)
            return change

        return run

    yield Peer("NumPy", "np.roll", runner(rolled))
    yield Peer("NumPy", "halo, out=", runner(InPlace(start.shape[1:], start.dtype)), reuses=True)
