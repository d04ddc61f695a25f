# SPDX-License-Identifier: MIT
"""Correlations of fields, averaged over the lattice and over the measurements of each chain, by Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Correlations"]

Array = npt.NDArray[np.float64]


class Correlations:
    """Sums over measurements, for a lattice of some shape."""

    def __init__(self, shape: tuple[int, ...], components: int, chains: int) -> None:
        self.shape, self.volume = shape, int(np.prod(shape))
        self.axes = tuple(range(-len(shape), 0))
        self.components, self.count = components, 0
        self.power = np.zeros((chains, *shape))
        self.radius = np.zeros(chains)
        self.radii = np.zeros((chains, shape[0] // 2 + 1))
        self.angles = np.zeros((chains, shape[0] // 2 + 1))

    def add(self, fields: npt.NDArray[Any]) -> None:
        """One measurement of ``(chains, N, *shape)``."""
        phi = fields.astype(np.float64)
        self.power += self._power(phi).sum(axis=1)
        radius = np.sqrt((phi * phi).sum(axis=1, keepdims=True))
        # A field that vanishes at a site has no direction there.
        direction = np.divide(phi, radius, out=np.zeros_like(phi), where=radius > 0)
        self.radius += radius.mean(axis=self.axes)[:, 0]
        self.radii += self._along_axes(self._power(radius)[:, 0])
        self.angles += self._along_axes(self._power(direction).sum(axis=1))
        self.count += 1

    def averages(self, observables: tuple[str, ...]) -> tuple[Array | None, Array | None, Array | None]:
        """Propagator, radial and angular correlation of each chain; None where it was not asked for."""
        propagator = self.power / (self.count * self.components) if "propagator" in observables else None
        if "correlations" not in observables:
            return propagator, None, None
        mean = self.radius.mean() / self.count
        return propagator, self.radii / self.count - mean**2, self.angles / self.count

    def _power(self, f: Array) -> Array:
        """|f(k)|^2 / V."""
        transform = np.fft.fftn(f, axes=self.axes)
        return np.asarray((transform.real**2 + transform.imag**2) / self.volume)

    def _along_axes(self, power: Array) -> Array:
        """The average of f(x) f(x + r) over the sites, at distances r along the axes that are as long as the first."""
        found = np.fft.ifftn(power, axes=self.axes).real
        lines = []
        for axis, length in enumerate(self.shape):
            if length == self.shape[0]:
                at = [slice(None), *(slice(None) if other == axis else 0 for other in range(len(self.shape)))]
                lines.append(found[tuple(at)][:, : length // 2 + 1])
        return np.asarray(np.mean(lines, axis=0))
