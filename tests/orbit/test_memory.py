# SPDX-License-Identifier: MIT
"""Memory: a slice costs its result and little more; batches cost one batch; freed memory can be given back.

Each case runs in a process of its own and reads the kernel's record of its peak, VmHWM. (getrusage's ru_maxrss is no
use: a child inherits the peak of the process that started it.)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tolerances

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")

PRELUDE = """
import numpy as np, nnsym_fast as nf

MIB = 1 << 20

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))

def network(widths, dtype="float32"):
    shapes = nf.specs.shapes(nf.specs.mlp_layers(widths))
    return {name: np.ones(shape, dtype) for name, shape in shapes.items()}, nf.specs.mlp(widths)

def nbytes(points):
    return sum(array.nbytes for array in points.values())

nf.set_num_threads(THREADS)
nf.Orbit(*network([2, 3, 1]))[0:9]  # what the first call of all loads
base = status("VmRSS")
"""


def run(script: str, threads: int = 2) -> list[float]:
    """The numbers that a script prints, in MiB."""
    code = PRELUDE.replace("THREADS", str(threads)) + script
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


# Thousands of small points; points larger than a task; every tensor just above one huge page; sites of 10^5 units.
NETWORKS = {
    "small": ([16, 32, 32, 4], 15_000),
    "large": ([784, 1024, 1024, 10], 12),
    "deep": ([16, *[24] * 60, 4], 911),
    "wide": ([2, 100_000, 2], 40),
}


@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_slice_costs_its_result_and_little_more(name: str, threads: int) -> None:
    """However many threads the machine has."""
    widths, count = NETWORKS[name]
    result, peak = run(
        f"""
orbit = nf.Orbit(*network({widths}))
base = status("VmRSS")
points = orbit[0:{count}]
print(nbytes(points) / MIB, (status("VmHWM") - base) / MIB)
""",
        threads,
    )
    assert result > tolerances.EXTRA_MEMORY_MIB, "the case must be large enough to tell"
    assert result * 0.95 <= peak <= result + tolerances.EXTRA_MEMORY_MIB


def test_slices_of_other_sizes_do_not_add_up() -> None:
    """Memory of a freed result is kept for the next, or freed before it is taken."""
    largest, peak = run(
        """
orbit = nf.Orbit(*network([16, 32, 32, 4], "float64"))
sizes = [nbytes(orbit[0:count]) for count in (5_000, 8_000, 3_000, 8_100, 2_000)]
print(max(sizes) / MIB, (status("VmHWM") - base) / MIB)
"""
    )
    assert largest > tolerances.EXTRA_MEMORY_MIB
    assert peak <= largest + tolerances.EXTRA_MEMORY_MIB


def test_batches_cost_one_batch() -> None:
    batch, written, peak = run(
        """
orbit = nf.Orbit(*network([16, 32, 32, 4]))
written = 0
for points in orbit.batches(2_000, stop=40_000):
    written += nbytes(points)
print(nbytes(points) / MIB, written / MIB, (status("VmHWM") - base) / MIB)
"""
    )
    assert written > 4 * tolerances.EXTRA_MEMORY_MIB
    assert peak <= batch + tolerances.EXTRA_MEMORY_MIB


def test_memory_can_be_given_back() -> None:
    result, held, released = run(
        """
points = nf.Orbit(*network([16, 32, 32, 4]))[0:15_000]
result, held = nbytes(points), status("VmRSS") - base
del points
nf.release_memory()
print(result / MIB, held / MIB, (status("VmRSS") - base) / MIB)
"""
    )
    assert held >= 0.95 * result
    assert released <= 0.1 * result


def test_shared_tensors_cost_nothing() -> None:
    result, peak = run(
        """
params, spec = network([16, 32, 4])
params["table"] = np.ones((1024, 1024))
legs = {**spec.legs, "table": (None, None)}
orbit = nf.Orbit(params, nf.SymmetrySpec(spec.sites, legs))
base = status("VmRSS")
points = orbit.points(0, 100, share=True)
print(nbytes(points) / MIB, (status("VmHWM") - base) / MIB)
"""
    )
    assert result > 800
    assert peak < tolerances.EXTRA_MEMORY_MIB
