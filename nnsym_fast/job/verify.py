# SPDX-License-Identifier: MIT
"""Check that every point of an orbit computes the same function as the network that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.checkpoint import Array, Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.observables import FunctionGap
from nnsym_fast.job.plan import make_plan
from nnsym_fast.job.store import Store

__all__ = ["ALLOWED", "Verdict", "default_samples", "verify", "verify_store"]

ALLOWED = 2.0
"""Largest allowed rms gap of a point, in units of the rounding error of the base network (the criterion of
flash-attention: at most twice the error of the naive computation in the same precision, both against float64)."""


@dataclass(frozen=True)
class Verdict:
    """The outcome, with the numbers that it rests on.

    Args:
        gaps: the observable "function" of every point, ``(n, 2)``: largest and rms gap; or ``(n, 3)``, with the rms gap
            that the point is judged by.
        arithmetic: the same of the base network evaluated in its own precision, ``(2,)``.
        rounding: that and its weights rounded anew, together, ``(2,)``; see ``FunctionGap``.
        probes: number of probe inputs.
    """

    gaps: npt.NDArray[np.float64]
    arithmetic: npt.NDArray[np.float64]
    rounding: npt.NDArray[np.float64]
    probes: int

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """rms gap of every point in units of its rounding error, or of the base network's, ``(n,)``."""
        return np.asarray(self.gaps[:, 1] / (self.gaps[:, 2] if self.gaps.shape[1] > 2 else self.rounding[1]))

    @property
    def worst(self) -> int:
        """The point with the largest ratio; one that is not a number counts as the largest."""
        return int(np.argmax(np.where(np.isnan(self.ratios), np.inf, self.ratios)))

    @property
    def same(self) -> bool:
        """Whether every point computes the same function."""
        return bool((self.ratios <= ALLOWED).all())  # false for NaN


def default_samples(checkpoint: Checkpoint) -> int:
    """Points that are looked at unless someone says how many: transformers take longer to evaluate than layers do."""
    return 100 if checkpoint.model is not None else 8


def verify(
    checkpoint: Checkpoint, *, samples: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Evaluate points ``0 .. samples - 1`` of the orbit on the probe inputs.

    The criterion is the root mean square over probes and not the largest value: both are printed, but the first
    is a property of the arithmetic, the second of the luck of one probe.

    Raises:
        JobError: the checkpoint does not say how to evaluate the network, or what evaluates it is not installed.
    """
    block = 1 if checkpoint.model is None else None  # transformers evaluates point by point
    plan = make_plan(checkpoint, samples=samples, seed=seed, observables=["norm"], block=block)
    gap = FunctionGap(checkpoint, seed)
    orbit = checkpoint.orbit(seed)
    return _collect(gap, orbit.batches(plan.block, stop=samples), progress)


def verify_store(store: Store, *, progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Evaluate the points that a finished store holds.

    Raises:
        JobError: the store is unfinished, holds no points, or does not say how to evaluate the network.
    """
    plan = store.plan
    if pending := store.pending():
        raise JobError(
            f"{store.path}: {len(pending)} of {plan.blocks} blocks are missing; run the same sample command again first"
        )
    gap = FunctionGap(store.checkpoint(), plan.seed)
    blocks = (store.points(*plan.span(block)) for block in range(plan.blocks))
    return _collect(gap, blocks, progress)


def _collect(
    gap: FunctionGap, blocks: Iterator[Mapping[str, Array]], progress: Callable[[int, int], None] | None
) -> Verdict:
    rows: list[npt.NDArray[np.float64]] = []
    for points in blocks:
        rows.append(gap(points, sum(map(len, rows))))
        if progress is not None:
            progress(len(rows[-1]), sum(array.nbytes for array in points.values()))
    return Verdict(np.concatenate(rows), gap.arithmetic, gap.rounding, gap.probes)
