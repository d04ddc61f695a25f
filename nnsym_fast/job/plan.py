# SPDX-License-Identifier: MIT
"""A job as immutable data: what is sampled, what is measured, what is stored, and how it is cut into blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnsym_fast import __version__
from nnsym_fast.job.checkpoint import Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["OBSERVABLES", "Plan", "Tensor", "make_plan"]

OBSERVABLES = ("norm", "distance", "function")
"""What can be measured on every point; see :mod:`nnsym_fast.job.observables`."""

BLOCK_BYTES = 16 << 20
"""Target size of a block. A few blocks are alive at a time, so this bounds the memory of a run; and a block that stays
in the last-level cache between its computation and its writing is written faster than a larger one."""

TENSOR_BYTES = 128 << 20
"""The same for a large network, which is worked on tensor by tensor: target size of one tensor of a block."""

BLOCK_SAMPLES = 4096
"""Largest block of a small network: progress is shown, and kept on Ctrl-C, block by block."""


@dataclass(frozen=True)
class Tensor:
    """Name, shape and dtype of one tensor of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one sample of the tensor."""
        size = 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize
        return size * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Plan:
    """One job. Two plans with equal :meth:`identity` produce the same store, bit for bit, up to the cut into blocks.

    Args:
        checkpoint: name of the checkpoint's file (shown, not part of the identity).
        sha256: hash of the checkpoint's bytes.
        spec: the symmetry.
        seed: 64-bit seed of the orbit.
        samples: number of points.
        observables: a selection of :data:`OBSERVABLES`, in that order.
        points: whether the points themselves are stored.
        function: hash of the layers and the probe inputs; empty without the observable "function".
        version: version of this package.
        tensors: the tensors of the network.
        block: samples per block (not part of the identity: no value depends on it).
    """

    checkpoint: str
    sha256: str
    spec: SymmetrySpec
    seed: int
    samples: int
    observables: tuple[str, ...]
    points: bool
    function: str
    version: str
    tensors: tuple[Tensor, ...]
    block: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.samples // self.block)

    def span(self, block: int) -> tuple[int, int]:
        """First sample of a block and one past its last."""
        return block * self.block, min((block + 1) * self.block, self.samples)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one point."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def identity(self) -> dict[str, Any]:
        """What makes this job this job, as JSON-ready data."""
        return {
            "checkpoint": self.sha256,
            "spec": hashlib.sha256(self.spec.to_json().encode()).hexdigest(),
            "seed": self.seed,
            "samples": self.samples,
            "observables": list(self.observables),
            "points": self.points,
            "function": self.function,
            "version": self.version,
        }

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that name the identity."""
        return fingerprint(self.identity())


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name an identity."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:12]


def describe(identity: Mapping[str, Any]) -> str:
    """An identity in a few words, for a message that names two of them."""
    observables = ",".join(identity["observables"]) or "none"
    return (
        f"{fingerprint(identity)} (checkpoint {identity['checkpoint'][:12]}, spec {identity['spec'][:8]}, "
        f"seed {identity['seed']}, {identity['samples']} samples, observables {observables}, "
        f"{'with' if identity['points'] else 'without'} points, version {identity['version']})"
    )


def make_plan(
    checkpoint: Checkpoint,
    *,
    samples: int,
    seed: int = 0,
    observables: Sequence[str] | None = None,
    points: bool = True,
    block: int | None = None,
) -> Plan:
    """Plan a job.

    Args:
        checkpoint: the network.
        samples: number of points, at least 1.
        seed: 64-bit seed.
        observables: what to measure; None is everything that the checkpoint allows ("function" needs a model).
        points: whether to store the points themselves.
        block: samples per block; None cuts blocks of at most 16 MiB and 4096 samples, or, of a large network, blocks
            whose largest tensor takes at most 128 MiB.

    Raises:
        JobError: a number out of range, an unknown observable, "function" without a model, or nothing to store.
    """
    if samples < 1:
        raise JobError(f"--samples: expected at least 1, got {samples}")
    if not 0 <= seed < 1 << 64:
        raise JobError(f"--seed: expected an integer from 0 to 2^64 - 1, got {seed}")
    if block is not None and block < 1:
        raise JobError(f"--chunk: expected at least 1 sample per block, got {block}")
    chosen = _choose(checkpoint, observables)
    if not points and not chosen:
        raise JobError("--no-points without --observables leaves nothing to store; name at least one observable")
    tensors = tuple(Tensor(name, array.shape, array.dtype.name) for name, array in checkpoint.params.items())
    if block is None:
        sizes = [tensor.nbytes for tensor in tensors]
        by_tensor = checkpoint.large and "function" not in chosen
        fitting = min(samples, TENSOR_BYTES // max(sizes)) if by_tensor else BLOCK_BYTES // max(1, sum(sizes))
        fitting = max(1, fitting)
        # A power of two, so that a block can be cut into equal chunks of any power of two.
        block = min(1 << (fitting.bit_length() - 1), BLOCK_SAMPLES)
    else:
        block = min(block, samples)
    return Plan(
        checkpoint=checkpoint.name,
        sha256=checkpoint.sha256,
        spec=checkpoint.spec,
        seed=seed,
        samples=samples,
        observables=chosen,
        points=points,
        function=_function_hash(checkpoint) if "function" in chosen else "",
        version=__version__,
        tensors=tensors,
        block=block,
    )


def _choose(checkpoint: Checkpoint, observables: Sequence[str] | None) -> tuple[str, ...]:
    evaluable = checkpoint.model is not None and checkpoint.probes is not None
    if observables is None:
        return tuple(name for name in OBSERVABLES if name != "function" or evaluable)
    unknown = [name for name in observables if name not in OBSERVABLES]
    if unknown:
        raise JobError(f"--observables: unknown {unknown[0]!r}; expected a list of {', '.join(OBSERVABLES)}")
    if "function" in observables:
        checkpoint.function("the observable 'function'")
    return tuple(name for name in OBSERVABLES if name in observables)


def _function_hash(checkpoint: Checkpoint) -> str:
    model, probes = checkpoint.function("the observable 'function'")
    digest = hashlib.sha256(json.dumps([dict(layer) for layer in model.layers], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(probes, dtype="<f8").tobytes())
    return digest.hexdigest()
