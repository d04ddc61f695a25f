# SPDX-License-Identifier: MIT
"""What is measured on every point of an orbit: norms, distances to the base point, and change of the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.checkpoint import Array, Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.evaluate import evaluator_of, floating
from nnsym_fast.job.lazy import TensorLike, array_of
from nnsym_fast.job.rounding import naive, rounded

__all__ = ["Distance", "FunctionGap", "Norm", "Observable", "PerTensor", "build"]

Floats: TypeAlias = npt.NDArray[np.float64]

FEW_DRAWS = 4
"""Points whose naive computation gives the size of rounding errors where every point has its own."""

SLAB = 1 << 15
"""Numbers are measured in slabs of so many, in float64, so that temporaries stay in the cache."""


class Observable(Protocol):
    """A row of float64 numbers per point."""

    columns: tuple[str, ...]

    def attributes(self) -> dict[str, Any]:
        """What the store keeps beside the numbers, JSON-ready."""

    def __call__(self, points: Mapping[str, Array], start: int = 0) -> Floats:
        """The observable of stacked points ``(n, ...)``, of which ``start`` is the first: shape ``(n, columns)``."""


class PerTensor(Observable, Protocol):
    """An observable that is made of one number per tensor, so that a point need never be in memory as a whole."""

    def measure(self, name: str, stacked: Array) -> Floats:
        """The number of one tensor of every point, from ``(n, ...)``: ``(n,)``."""

    def combine(self, parts: Floats) -> Floats:
        """The observable ``(n, columns)`` from the numbers of all tensors, ``(n, tensors)``."""


def _squares(rows: Array, base: Array | None) -> Floats:
    """Sums of squares over the rows of ``(n, size)``, or of their differences from ``base``, in float64."""
    if rows.shape[1] <= SLAB:
        slab = rows.astype(np.float64)
        if base is not None:
            slab -= base.astype(np.float64, copy=False)
        return np.asarray(np.einsum("ij,ij->i", slab, slab))
    total = np.zeros(len(rows))
    for first in range(0, rows.shape[1], SLAB):
        part = None if base is None else base[first : first + SLAB].astype(np.float64)
        for number, row in enumerate(rows):
            total[number] += _squares(row[None, first : first + SLAB], part)[0]
    return total


def _measure(tensor: Array, base: TensorLike | None) -> Floats:
    """L2 norm, in float64, of every sample of ``(n, ...)``, or of its difference from ``base``."""
    rows = tensor.reshape(len(tensor), -1)
    origin = None if base is None else array_of(base).reshape(-1)
    step = max(1, SLAB // rows.shape[1])
    slabs = [_squares(rows[first : first + step], origin) for first in range(0, len(rows), step)]
    return np.sqrt(np.concatenate(slabs))


class Norm:
    """L2 norm of every tensor, and of all trainable tensors together.

    Columns: one per tensor in the order of the checkpoint, then ``"total"``, which leaves out state such as
    running means.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names = tuple(checkpoint.params)
        self.columns = (*self.names, "total")
        self.trainable = np.array([name not in checkpoint.spec.state for name in self.names])
        self.base: Mapping[str, TensorLike] = {}
        # The norm of the base network itself, for scale.
        norms = [_measure(array_of(tensor)[None], None) for tensor in checkpoint.params.values()]
        self.reference = self.combine(np.stack(norms, axis=1))[0]

    def attributes(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "trainable": [*map(bool, self.trainable), True],
            "base": self.reference.tolist(),
            "description": "L2 norm of each tensor of each point; base: of the network that the orbit starts from; "
            "total: of all trainable tensors",
        }

    def measure(self, name: str, stacked: Array) -> Floats:
        return _measure(stacked, self.base.get(name))

    def combine(self, parts: Floats) -> Floats:
        # Contiguous, so that the order of additions does not depend on the number of points.
        total = _squares(np.ascontiguousarray(parts[:, self.trainable]), None)
        return np.concatenate([parts, np.sqrt(total)[:, None]], axis=1)

    def __call__(self, points: Mapping[str, Array], start: int = 0) -> Floats:
        return self.combine(np.stack([self.measure(name, points[name]) for name in self.names], axis=1))


class Distance(Norm):
    """L2 distance of every tensor from that of the base point, and of all trainable tensors together."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.base = checkpoint.params

    def attributes(self) -> dict[str, Any]:
        return super().attributes() | {
            "description": "L2 distance of each tensor of each point from the network that the orbit starts from; "
            "base: norm of that network; total: of all trainable tensors"
        }


class FunctionGap:
    """Change of the function on probe inputs, relative to the size of the outputs.

    With ``f`` the base network evaluated in float64 and ``f_i`` point ``i`` in its own arithmetic, the columns are
    ``largest`` = max over probes x of ``|f_i(x) - f(x)| / s`` and ``rms``, the root mean square of the same; ``s`` is
    the root mean square over probes of ``|f(x)|``, and ``|.|`` the L2 norm over outputs.

    No exact symmetry can fall below the rounding errors of the base network itself, which are known in the same two
    columns: ``arithmetic`` is the gap of the base network evaluated in its own precision, ``storage`` the worst gap of
    several copies whose weights are rounded anew, as those of every other point are, and ``rounding`` both together, as
    independent errors add up.

    Where an element adds numbers (matrices, shifts), its rounding errors depend on the element. There a third column,
    ``rounding``, holds what the rms gap of the very same point would be if it were computed naively in the same
    precision, see :func:`nnsym_fast.job.rounding.naive`.

    Args:
        checkpoint: the network.
        seed: seed of its orbit.
    """

    columns: tuple[str, ...] = ("largest", "rms")

    def __init__(self, checkpoint: Checkpoint, seed: int = 0) -> None:
        self.work = np.dtype(np.float64 if "float64" in checkpoint.dtypes else np.float32)
        self.evaluator = evaluator_of(checkpoint, self.work)
        self.spec, self.seed, self.params = checkpoint.spec, seed, checkpoint.arrays
        self.mixes = any(group.dense or group.shifted for group in self.spec.sites.values())
        if self.mixes:
            self.columns = (*self.columns, "rounding")
        self.exact, self.scale = self._reference(checkpoint.name, self.params)
        self.probes = len(self.exact)
        self.arithmetic = self._arithmetic(self.params)
        self.storage = self._storage()
        self.rounding = np.hypot(self.arithmetic, self.storage)

    def _reference(self, name: str, params: Mapping[str, Array]) -> tuple[Floats, float]:
        try:
            exact = self.evaluator.outputs(params, np.dtype(np.float64))
        except (RuntimeError, TypeError, ValueError) as error:
            raise JobError(f"{name}: its layers do not evaluate on the probe inputs: {error}") from None
        scale = float(np.sqrt(np.mean(np.sum(np.square(exact), axis=1))))
        if not (np.isfinite(scale) and scale > 0):
            raise JobError(
                f"{name}: the outputs on the probe inputs are all zero or not finite, so a relative change of the "
                "function means nothing; give other inputs with --probes"
            )
        return exact, scale

    def _arithmetic(self, params: Mapping[str, Array]) -> Floats:
        if self.work == np.float32:
            return np.asarray(self._gap(self.evaluator.outputs(params, self.work)[None])[0])
        # Nothing wider evaluates a float64 network. Rounding errors are proportional to the spacing of the format, so
        # those of its float32 copy are scaled; and the reference has the same error as the point, hence the sqrt(2).
        narrow = {name: floating(array, np.float32) for name, array in params.items()}
        outputs = self.evaluator.outputs(narrow, np.dtype(np.float32))
        exact = self.evaluator.outputs(narrow, self.work)
        ratio = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
        return np.asarray(self._gap(outputs[None], exact)[0] * ratio * np.sqrt(2.0))

    def _storage(self) -> Floats:
        """Evaluated in the network's own precision too: the error of one evaluation may be small by luck."""
        if self.mixes:
            return np.asarray(np.max([self._naive_gap(index) for index in range(FEW_DRAWS)], axis=0))
        random = np.random.default_rng(0)
        gaps = []
        for _ in range(self.evaluator.draws):
            gaps.append(self._gap_of(rounded(self.params, self.spec, random)))
        return np.asarray(np.max(gaps, axis=0))

    def _gap_of(self, network: Mapping[str, Array]) -> Floats:
        cast = {name: floating(array, self.work) for name, array in network.items()}
        return np.asarray(self._gap(self.evaluator.outputs(cast, self.work)[None])[0])

    def _naive_gap(self, index: int) -> Floats:
        """The worst of a few orders of operations: that of one may be small by luck."""
        orders = range(self.evaluator.orders)
        networks = (naive(self.params, self.spec, self.seed, index, self.work, order) for order in orders)
        return np.asarray(np.max([self._gap_of(network) for network in networks], axis=0))

    def attributes(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "arithmetic": dict(zip(self.columns, self.arithmetic.tolist(), strict=False)),
            "storage": dict(zip(self.columns, self.storage.tolist(), strict=False)),
            "rounding": dict(zip(self.columns, self.rounding.tolist(), strict=False)),
            "probes": self.probes,
            "description": "change of the function relative to the root mean square of the outputs, over the probe "
            "inputs; arithmetic: the same of the base network evaluated in its own precision; storage: of its weights "
            "rounded anew; rounding: both together, as a column those of the very point",
        }

    def __call__(self, points: Mapping[str, Array], start: int = 0) -> Floats:
        gaps = np.concatenate([self._gap(outputs) for outputs in self.evaluator.stacked(points, self.work)])
        if not self.mixes:
            return gaps
        own = [self._naive_gap(start + k)[1] for k in range(len(gaps))]
        return np.concatenate([gaps, np.hypot(own, self.arithmetic[1])[:, None]], axis=1)

    def _gap(self, outputs: Array, exact: Floats | None = None) -> Floats:
        change = outputs - (self.exact if exact is None else exact)
        squares = np.sum(np.square(change, dtype=np.float64), axis=2) / self.scale**2
        return np.asarray(np.sqrt(np.stack([squares.max(axis=1), squares.mean(axis=1)], axis=1)))


def build(checkpoint: Checkpoint, names: Sequence[str], seed: int = 0) -> dict[str, Observable]:
    """The observables of a job, by name; see :data:`nnsym_fast.job.plan.OBSERVABLES`."""
    classes: dict[str, Callable[[], Observable]] = {
        "norm": lambda: Norm(checkpoint),
        "distance": lambda: Distance(checkpoint),
        "function": lambda: FunctionGap(checkpoint, seed),
    }
    return {name: classes[name]() for name in names}
