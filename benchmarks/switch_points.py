# SPDX-License-Identifier: MIT
"""Where one layout of the Wilson kernels overtakes another: the table in csrc/core/wilson.h comes from here.

``python benchmarks/switch_points.py`` times wilson_line and ordered_product on both sides of every switch, in turns,
and prints ratios: above 1, the layout for larger matrices is the faster one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from timing import REST, seconds

from nnsym_fast import _wilson
from nnsym_fast._native import cpu

STEPS = 32
SMALL = (6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 24, 32)
LARGE = (96, 128, 160, 192, 256, 384)


@contextmanager
def switched(name: str, value: int) -> Iterator[None]:
    """Every kind of number switches at ``value``."""
    before = getattr(cpu, name)
    setattr(cpu, name, [value] * len(before))
    try:
        yield
    finally:
        setattr(cpu, name, before)


def ratio(name: str, d: int, call: Callable[[], object], rounds: int) -> float:
    """Time in the layout for small matrices over that in the one for large ones."""
    best = {}
    for _ in range(rounds):
        for limit in (d, d - 1):
            with switched(name, limit):
                time.sleep(REST)
                call()
                best[limit] = min(best.get(limit, np.inf), seconds(call))
    return best[d] / best[d - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    cpu.TILES_AT = 0
    rng = np.random.default_rng(0)
    for name, sizes in (("LARGEST_LANES", SMALL), ("LARGEST_TILES", LARGE)):
        print(f"{name}: exponentials and product | product alone")
        for dtype in _wilson.KINDS:
            line = []
            for d in sizes:
                paths = max(2, min(1024, 2**18 // d**2 // 16 * 16))
                w = rng.normal(size=(paths, STEPS if d < 64 else 4, 1, d, d)) / np.sqrt(d) / 4
                w = w.astype(dtype) if dtype.startswith("f") else (w * (1 + 1j)).astype(dtype)
                dt = np.full((1, 1), 0.25, w.real.dtype)
                pair = (
                    ratio(name, d, lambda w=w, dt=dt: _wilson.transport(w, dt, None, None, 2, False, False), rounds),
                    ratio(name, d, lambda w=w: _wilson.transport(w, None, None, None, 0, False, False), rounds),
                )
                line.append(f"{d}: {pair[0]:.2f} | {pair[1]:.2f}")
            print(f"  {dtype:10}", "   ".join(line), flush=True)


if __name__ == "__main__":
    main()
