# SPDX-License-Identifier: MIT
"""What is measured on every point of an orbit: norms, distances to the base point, and change of the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.checkpoint import Array, Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.legs import axis_legs
from nnsym_fast.specs.network import evaluate
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Distance", "FunctionGap", "Norm", "Observable", "build"]

Floats: TypeAlias = npt.NDArray[np.float64]

SLAB_BYTES = 1 << 18
"""Samples are measured in slabs of this many float64 bytes, so that temporaries stay in the cache."""

SLAB_POINTS = 16
"""Points that are evaluated together on the probe inputs; bounds the memory of their activations."""

DRAWS = 16
"""Random roundings of the weights, the worst of which counts: the points are judged by their worst too."""


class Observable(Protocol):
    """A row of float64 numbers per point."""

    columns: tuple[str, ...]

    def attributes(self) -> dict[str, Any]:
        """What the store keeps beside the numbers, JSON-ready."""

    def __call__(self, points: Mapping[str, Array]) -> Floats:
        """The observable of stacked points ``(n, ...)``, shape ``(n, columns)``."""


def _norms(rows: Array) -> Floats:
    """L2 norms of the rows of ``(n, size)``, summed in float64."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)))


def _measure(tensor: Array, base: Array | None) -> Floats:
    """L2 norm, in float64, of every sample of ``(n, ...)``, or of its difference from ``base``."""
    rows = tensor.reshape(len(tensor), -1)
    if base is None and rows.dtype.name != "bfloat16":
        return _norms(rows)
    result = np.empty(len(rows))
    step = max(1, SLAB_BYTES // (8 * rows.shape[1]))
    for first in range(0, len(rows), step):
        slab = rows[first : first + step].astype(np.float64)
        if base is not None:
            slab -= base
        result[first : first + step] = _norms(slab)
    return result


class Norm:
    """L2 norm of every tensor, and of all trainable tensors together.

    Columns: one per tensor in the order of the checkpoint, then ``"total"``, which leaves out state such as
    running means.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names = tuple(checkpoint.params)
        self.columns = (*self.names, "total")
        self.trainable = np.array([name not in checkpoint.spec.state for name in self.names])
        self.base: Mapping[str, Floats] | None = None
        # The norm of the base network itself, for scale.
        self.reference = self({name: array[None] for name, array in checkpoint.params.items()})[0]

    def attributes(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "trainable": [*map(bool, self.trainable), True],
            "base": self.reference.tolist(),
            "description": "L2 norm of each tensor of each point; base: of the network that the orbit starts from; "
            "total: of all trainable tensors",
        }

    def __call__(self, points: Mapping[str, Array]) -> Floats:
        parts = np.stack(
            [_measure(points[name], None if self.base is None else self.base[name]) for name in self.names], axis=1
        )
        total = np.sqrt(np.sum(np.square(parts[:, self.trainable]), axis=1, keepdims=True))
        return np.concatenate([parts, total], axis=1)


class Distance(Norm):
    """L2 distance of every tensor from that of the base point, and of all trainable tensors together."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.base = {name: array.astype(np.float64).ravel() for name, array in checkpoint.params.items()}

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
    :data:`DRAWS` copies whose weights are rounded anew, as those of every other point are, and ``rounding`` both
    together, as independent errors add up.
    """

    columns: tuple[str, ...] = ("largest", "rms")

    def __init__(self, checkpoint: Checkpoint) -> None:
        model, probes = checkpoint.function("the function's change")
        self.layers: Sequence[Mapping[str, Any]] = model.layers
        self.work = np.dtype(np.float64 if "float64" in checkpoint.dtypes else np.float32)
        # Rounded first: every network, the one in float64 included, must see the same inputs.
        self.probes = probes.astype(self.work)
        self.exact, self.scale = self._reference(checkpoint)
        self.arithmetic = self._arithmetic(checkpoint)
        self.storage = self._storage(checkpoint)
        self.rounding = np.hypot(self.arithmetic, self.storage)

    def _reference(self, checkpoint: Checkpoint) -> tuple[Floats, float]:
        try:
            exact = self._evaluate(checkpoint.params, np.dtype(np.float64))
        except (TypeError, ValueError) as error:
            raise JobError(f"{checkpoint.name}: its layers do not evaluate on the probe inputs: {error}") from None
        scale = float(np.sqrt(np.mean(np.sum(np.square(exact), axis=1))))
        if not (np.isfinite(scale) and scale > 0):
            raise JobError(
                f"{checkpoint.name}: the outputs on the probe inputs are all zero or not finite, so a relative change "
                "of the function means nothing; give other inputs with --probes"
            )
        return exact, scale

    def _arithmetic(self, checkpoint: Checkpoint) -> Floats:
        if self.work == np.float32:
            return np.asarray(self._gap(self._evaluate(checkpoint.params, self.work)[None])[0])
        # Nothing wider evaluates a float64 network. Rounding errors are proportional to the spacing of the format, so
        # those of its float32 copy are scaled; and the reference has the same error as the point, hence the sqrt(2).
        single = np.dtype(np.float32)
        narrow = {name: _floating(array, single) for name, array in checkpoint.params.items()}
        probes = self.probes.astype(single)
        outputs = np.asarray(evaluate(self.layers, narrow, probes)).reshape(len(probes), -1)
        wide = {name: _floating(array, self.work) for name, array in narrow.items()}
        exact = np.asarray(evaluate(self.layers, wide, probes.astype(self.work))).reshape(len(probes), -1)
        ratio = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
        return np.asarray(self._gap(outputs[None], exact)[0] * ratio * np.sqrt(2.0))

    def _storage(self, checkpoint: Checkpoint) -> Floats:
        """Evaluated in the network's own precision too: the error of one evaluation may be small by luck."""
        random = np.random.default_rng(0)
        gaps = []
        for _ in range(DRAWS):
            moved = dict(checkpoint.params)
            for name, array in moved.items():
                roundings = _roundings(checkpoint.spec, name, array.dtype)
                if roundings:
                    relative = _roundoff(array.dtype.name) * random.uniform(-1, 1, (roundings, *array.shape)).sum(
                        axis=0
                    )
                    moved[name] = (array.astype(np.float64) * (1 + relative)).astype(self.work)
            gaps.append(self._gap(self._evaluate(moved, self.work)[None])[0])
        return np.asarray(np.max(gaps, axis=0))

    def attributes(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "arithmetic": dict(zip(self.columns, self.arithmetic.tolist(), strict=True)),
            "storage": dict(zip(self.columns, self.storage.tolist(), strict=True)),
            "rounding": dict(zip(self.columns, self.rounding.tolist(), strict=True)),
            "probes": len(self.probes),
            "description": "change of the function relative to the root mean square of the outputs, over the probe "
            "inputs; arithmetic: the same of the base network evaluated in its own precision; storage: of its weights "
            "rounded anew; rounding: both together",
        }

    def __call__(self, points: Mapping[str, Array]) -> Floats:
        n = len(next(iter(points.values())))
        result = np.empty((n, len(self.columns)))
        for first in range(0, n, SLAB_POINTS):
            part = {name: _floating(array[first : first + SLAB_POINTS], self.work) for name, array in points.items()}
            outputs = evaluate(self.layers, part, self.probes, stacked=True)
            result[first : first + SLAB_POINTS] = self._gap(outputs)
        return result

    def _evaluate(self, params: Mapping[str, Array], dtype: np.dtype[Any]) -> Array:
        cast = {name: _floating(array, dtype) for name, array in params.items()}
        outputs = np.asarray(evaluate(self.layers, cast, self.probes.astype(dtype)))
        return outputs.reshape(len(self.probes), -1)

    def _gap(self, outputs: Array, exact: Floats | None = None) -> Floats:
        change = outputs.reshape(len(outputs), len(self.probes), -1) - (self.exact if exact is None else exact)
        squares = np.sum(np.square(change, dtype=np.float64), axis=2) / self.scale**2
        return np.asarray(np.sqrt(np.stack([squares.max(axis=1), squares.mean(axis=1)], axis=1)))


def _roundings(spec: SymmetrySpec, name: str, dtype: np.dtype[Any]) -> int:
    """How often the kernel rounds the numbers of a tensor to its storage format: once per leg that multiplies them."""
    legs = [leg for axis in spec.legs[name] for leg in axis_legs(axis)]
    count = len({leg.site for leg in legs if leg.power != 0 and spec.sites[leg.site].scaled})
    # 16-bit tensors are multiplied in float32 and rounded at the end.
    return count if dtype.name in ("float32", "float64") else min(count, 1)


def _roundoff(dtype: str) -> float:
    """Largest relative error of one rounding to a storage format: half the spacing at 1."""
    return 2.0**-8 if dtype == "bfloat16" else float(np.finfo(dtype).eps) / 2


def _floating(array: Array, dtype: np.dtype[Any]) -> Array:
    """Floating-point tensors in the format of the evaluation; counters as they are."""
    return array if array.dtype.kind in "iub" else array.astype(dtype, copy=False)


def build(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, Observable]:
    """The observables of a job, by name; see :data:`nnsym_fast.job.plan.OBSERVABLES`."""
    classes: dict[str, Callable[[Checkpoint], Observable]] = {
        "norm": Norm,
        "distance": Distance,
        "function": FunctionGap,
    }
    return {name: classes[name](checkpoint) for name in names}
