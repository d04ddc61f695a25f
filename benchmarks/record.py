# SPDX-License-Identifier: MIT
"""What a run measured: plain data, written as JSON, read by ``table.py``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Figure", "PeerTime", "Results", "Row"]


@dataclass(frozen=True)
class PeerTime:
    """Best time of one formulation of a peer; ``reuses``: its result overwrites the one before."""

    kind: str
    formulation: str
    reuses: bool
    seconds: float


@dataclass(frozen=True)
class Row:
    """One job and its race.

    Args:
        benchmark: its name.
        nbytes: bytes that count: of the result, and for a copy also of the source.
        seconds: best time with reused buffers.
        fresh: best time with a result that is allocated in the call; None where that makes no difference.
        limit: "write", "copy", or None where memory is not what limits.
        limit_seconds: time in which the machine moves ``nbytes`` in that way, measured in the same rounds.
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
class Figure:
    """A single number with its unit (empty for a ratio)."""

    benchmark: str
    quantity: str
    value: float
    unit: str = ""


@dataclass
class Results:
    """One run."""

    machine: dict[str, str]
    missing: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> Results:
        data = json.loads(path.read_text())
        rows = [Row(**{**row, "peers": tuple(PeerTime(**peer) for peer in row["peers"])}) for row in data["rows"]]
        return Results(data["machine"], data["missing"], rows, [Figure(**figure) for figure in data["figures"]])
