# SPDX-License-Identifier: MIT
"""Timing in turns: every contestant once per round, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import machine
from peers import Peer
from record import Results

__all__ = ["contenders", "race", "raced"]

Call = Callable[[], Any]

ROUNDS = 15
SLOW_ROUNDS = 2
CLOSE = 1.5
"""A formulation that takes longer in a trial than this multiple of the fastest one of its kind does not race."""

REST = 0.005
"""Seconds between contestants, in which the spinning threads of one library go to sleep before the next one starts."""

WARM = 0.005
"""Seconds for which a contestant warms up at least: clocks and caches are still those of the one before it."""

SLOW_SECONDS = 0.4
"""Time that a slow peer gets in a recorded race at least: several rounds of all but the slowest ones."""

DISTURBED = 0.02
"""Fraction of all CPU time that other processes may take in a race. They delay those most whose threads wait for each
other most often: torch and JAX, by factors."""


def seconds(call: Call) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warm_up(call: Call) -> None:
    """Calls it, and again until its time is over."""
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < WARM:
        call()


def race(
    benchmark: Any,
    ours: Call,
    others: Mapping[str, Call],
    slow: Iterable[str] = (),
    rounds: int = ROUNDS,
    slow_seconds: float = 0.0,
) -> dict[str, float]:
    """Best time of every contestant, in seconds; ours, by pytest-benchmark, under "ours".

    Each turn is some calls to warm up and one that counts. Those in ``slow`` do not warm up, and take turns in a few
    rounds only, or in as many as fit into ``slow_seconds`` if these are more.
    """
    best = dict.fromkeys(others, math.inf)
    spent = dict.fromkeys(others, 0.0)
    slow = frozenset(slow)
    turn = 0

    def before() -> None:
        nonlocal turn
        for name, call in others.items():
            if name in slow and turn >= SLOW_ROUNDS and spent[name] >= slow_seconds:
                continue
            time.sleep(REST)
            if name not in slow:
                warm_up(call)
            took = seconds(call)
            spent[name] += took
            best[name] = min(best[name], took)
        turn += 1
        time.sleep(REST)
        warm_up(ours)

    benchmark.pedantic(ours, setup=before, rounds=rounds)
    return {**best, "ours": benchmark.stats.stats.min}


def raced(
    benchmark: Any, results: Results, name: str, ours: Call, others: Mapping[str, Call], slow: Sequence[str] = ()
) -> dict[str, float]:
    """Best times of a race; the record says where other processes disturbed it."""
    start, busy = time.perf_counter(), machine.busy_seconds()
    best = race(benchmark, ours, others, slow=slow, slow_seconds=SLOW_SECONDS)
    share = (machine.busy_seconds() - busy) / (time.perf_counter() - start) / machine.cores()
    if share > DISTURBED:
        results.disturbed[name] = share
    return best


def contenders(peers: Iterable[Peer], check: Callable[[Any], None], *, timed: bool = True) -> list[Peer]:
    """The peers that may be the fastest of their kind, with and without reused buffers, their results checked.

    ``check`` asserts that a result is right. With ``timed=False`` that is all, and nothing is returned.
    """
    trials: dict[tuple[str, bool], list[tuple[float, Peer]]] = {}
    for peer in peers:
        check(peer.call())
        if not timed:
            continue
        if not peer.slow:
            check(peer.call())  # the first call compiled, or made the buffers that this one reuses
        took = min(seconds(peer.call) for _ in range(1 if peer.slow else 3))
        trials.setdefault((peer.kind, peer.reuses), []).append((took, peer))
    return [
        peer for group in trials.values() for took, peer in group if took <= CLOSE * min(other for other, _ in group)
    ]
