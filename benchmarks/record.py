# SPDX-License-Identifier: MIT
"""What a run measured: plain data, written as JSON, read by ``table.py``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Figure", "Integration", "PeerTime", "Results", "Row", "Work"]


@dataclass(frozen=True)
class PeerTime:
    """Best time of one formulation of a peer; ``reuses``: its result overwrites the one before.

    ``error``: relative, where it is measured; ``ours``: best time in which ours is as accurate.
    """

    kind: str
    formulation: str
    reuses: bool
    seconds: float
    error: float | None = None
    ours: float | None = None


@dataclass(frozen=True)
class Row:
    """One job and its race.

    Args:
        benchmark: its name.
        nbytes: bytes that count: of the result, and for a copy also of the source.
        seconds: best time with reused buffers.
        fresh: best time with a result that is allocated in the call; None where that makes no difference.
        limit: "write" or "copy"; "matmul" where its matrix products limit; None where nothing is measured.
        limit_seconds: time in which the machine moves ``nbytes`` in that way, or NumPy's BLAS makes the products alone,
            measured in the same rounds.
        peers: what it raced against.
    """

    benchmark: str
    nbytes: int
    seconds: float
    fresh: float | None = None
    limit: str | None = None
    limit_seconds: float | None = None
    peers: tuple[PeerTime, ...] = ()


@dataclass(frozen=True)
class Work:
    """One job that arithmetic limits, and its race.

    Args:
        job: what is done; the jobs of a name share a table.
        batch, d, dtype: paths, dimension and type of their matrices.
        nbytes: bytes of the input.
        seconds: best time.
        flops: useful floating-point operations; None where they are not counted.
        peak: multiply-add peak in floating-point operations per second, measured in the same rounds.
        relation, relative: what else its time stands in relation to, measured in the same rounds, and the ratio.
        peers: what it raced against.
    """

    job: str
    batch: int
    d: int
    dtype: str
    nbytes: int
    seconds: float
    flops: float | None = None
    peak: float | None = None
    relation: str = ""
    relative: float | None = None
    peers: tuple[PeerTime, ...] = ()

    @property
    def benchmark(self) -> str:
        """Its name: float32 goes without saying."""
        return f"{self.job} {self.batch} x {self.d}" + (f" {self.dtype}" if self.dtype != "float32" else "")


@dataclass(frozen=True)
class Integration:
    """One neural ODE and its race.

    Args:
        job: what is done; the jobs of a name share a table.
        batch, d, h: samples, dimension of a state, hidden width of the field.
        seconds: best time.
        error: largest one, relative to the largest entry of the answer in double precision.
        evaluations: of the field, per sample.
        limit_seconds: its multiply-adds and activations at the rates measured in the same rounds.
        peers: what it raced against.
    """

    job: str
    batch: int
    d: int
    h: int
    seconds: float
    error: float
    evaluations: float
    limit_seconds: float
    peers: tuple[PeerTime, ...] = ()

    @property
    def benchmark(self) -> str:
        return f"{self.job} {self.batch}, {self.d}, {self.h}"


@dataclass(frozen=True)
class Figure:
    """A single number with its unit (empty for a ratio)."""

    benchmark: str
    quantity: str
    value: float
    unit: str = ""


@dataclass
class Results:
    """One run.

    ``disturbed`` names benchmarks in whose race other processes ran, with the fraction of all CPU time that they took.
    """

    machine: dict[str, str]
    missing: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    integrations: list[Integration] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    disturbed: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> Results:
        data = json.loads(path.read_text())
        rows = [Row(**{**row, "peers": _peer_times(row)}) for row in data["rows"]]
        work = [Work(**{**row, "peers": _peer_times(row)}) for row in data.get("work", [])]
        flows = [Integration(**{**row, "peers": _peer_times(row)}) for row in data.get("integrations", [])]
        found = [Figure(**figure) for figure in data["figures"]]
        return Results(data["machine"], data["missing"], rows, work, flows, found, data.get("disturbed", {}))


def _peer_times(row: dict[str, Any]) -> tuple[PeerTime, ...]:
    return tuple(PeerTime(**peer) for peer in row["peers"])
