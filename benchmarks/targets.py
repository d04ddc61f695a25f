# SPDX-License-Identifier: MIT
"""What is aimed at, as data. A target is printed as met or not met; it never decides whether a test passes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BFLOAT16_RATE",
    "FRACTION",
    "IMPORT_TIME",
    "LATENCY",
    "RATIO_FRESH",
    "RATIO_REUSED",
    "TARGETS",
    "THREAD_GAIN",
    "Target",
]

FRACTION = "fraction of the limit"
RATIO_REUSED = "ratio to the best peer, all may reuse buffers"
RATIO_FRESH = "ratio to the best peer, all return a fresh result"
BFLOAT16_RATE = "bytes per second, of float32's"
LATENCY = "latency"
IMPORT_TIME = "beyond numpy's"
THREAD_GAIN = "gain of the second thread, of the limit's gain"


@dataclass(frozen=True)
class Target:
    """``at_least`` or ``at_most`` bounds a quantity of a benchmark, in the quantity's unit."""

    benchmark: str
    quantity: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"< {self.at_most:g}"


def _race(benchmark: str, fraction: float, ratio: float) -> tuple[Target, ...]:
    return (
        Target(benchmark, FRACTION, at_least=fraction),
        Target(benchmark, RATIO_FRESH, at_least=ratio),
        Target(benchmark, RATIO_REUSED, at_least=ratio),
    )


TARGETS = (
    *_race("orbit 2-32-32-1", 0.35, 5),
    *_race("orbit 784-128-128-10", 0.75, 6),
    *_race("orbit 784-512-512-10", 0.75, 6),
    *_race("orbit 256-1024-1024-256", 0.65, 6),
    *_race("augment 2-32-32-1", 0.3, 6),
    Target("bfloat16 784-512-512-10", BFLOAT16_RATE, at_least=0.7),
    Target("bfloat16 256-1024-1024-256", BFLOAT16_RATE, at_least=0.7),
    Target("threads 2-32-32-1", THREAD_GAIN, at_least=0.9),
    Target("threads 784-512-512-10", THREAD_GAIN, at_least=0.9),
    Target("orbit[i] 2-32-32-1", LATENCY, at_most=30),
    Target("import nnsym_fast", IMPORT_TIME, at_most=0.15),
)
