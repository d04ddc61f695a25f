# SPDX-License-Identifier: MIT
"""Memory of orbits with dense legs: of processes of their own, and of builds without sanitizers, which need more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tolerances import EXTRA_MEMORY_MIB

MEMORY = """
import sys
import numpy as np, nnsym_fast as nf
from nnsym_fast.groups import *

MIB = 1 << 20

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))

nf.set_num_threads(THREADS)
spec = nf.SymmetrySpec(
    {"r": Orthogonal(192), "h": Heads(6, Affine(GeneralLinear(32)), tie="a"), "o": Heads(6, Orthogonal(32), tie="a")},
    {name + str(i): axes for i in range(LAYERS) for name, axes in {
        "q": ("h*", "r*"), "k": ("h", "r*"), "b": ("h+",), "v": ("o", "r*"), "w": ("r", "o*")}.items()},
)
params = {name: np.ones([spec.axis_length(a) for a in axes], DTYPE) for name, axes in spec.legs.items()}
orbit = nf.Orbit(params, spec)
orbit[0:1]  # what the first call of all loads
base = status("VmRSS")
"""


def run(script: str, threads: int, layers: int, dtype: str = "np.float32") -> list[float]:
    """The numbers that a script prints, in MiB, from a process of its own."""
    code = MEMORY.replace("THREADS", str(threads)).replace("LAYERS", str(layers)).replace("DTYPE", dtype) + script
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@needs_proc
@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize("dtype", ["np.float32", "np.float16"])
def test_a_slice_costs_its_result_and_little_more(threads: int, dtype: str) -> None:
    """Elements and stages are held for a few samples, however many there are."""
    result, peak = run(
        """
points = orbit[0:320]
print(sum(array.nbytes for array in points.values()) / MIB, (status("VmHWM") - base) / MIB)
""",
        threads,
        3,
        dtype,
    )
    assert result > EXTRA_MEMORY_MIB, "the case must be large enough to tell"
    assert result * 0.95 <= peak <= result + 2 * EXTRA_MEMORY_MIB


@needs_proc
def test_batches_cost_one_batch_and_memory_comes_back() -> None:
    batch, written, peak, released = run(
        """
written = 0
for points in orbit.batches(32, stop=400):
    written += sum(array.nbytes for array in points.values())
batch, peak = sum(array.nbytes for array in points.values()), status("VmHWM") - base
del points
nf.release_memory()
print(batch / MIB, written / MIB, peak / MIB, (status("VmRSS") - base) / MIB)
""",
        2,
        3,
    )
    assert written > 8 * EXTRA_MEMORY_MIB
    assert peak <= batch + 2 * EXTRA_MEMORY_MIB
    assert released <= 0.5 * batch + 8
