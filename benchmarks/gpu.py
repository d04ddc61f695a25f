# SPDX-License-Identifier: MIT
"""The CUDA kernels on a GPU: are they right, how close to the limits of the device, how far ahead of peers.

``python benchmarks/gpu.py [--out results.json] [--quick]``, in an environment with the package built with CUDA, torch
and, for their columns, torchdiffeq, JAX and diffrax. Every section runs in a process of its own: one that fails, or
takes too long, is recorded, and the others go on. Exit status: 0, all checks pass; 1, some do not, or a section failed;
2, no GPU. ``--emulated`` checks the kernels on the CPU instead, at sizes that show only that this program works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by JAX and cuBLAS when they are loaded.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from gpu_tools import NONE, Bench, Record, describe

from nnsym_fast import _device
from nnsym_fast._native import config

TOTAL = 460.0
"""Seconds for all sections: eight minutes, less what starting and writing take."""


@dataclass(frozen=True)
class Section:
    """``run`` of ``module``, with so many seconds to do it."""

    module: str
    run: str
    budget: float


SECTIONS = {
    "check orbit": Section("gpu_checks", "check_orbit", 60.0),
    "check dense": Section("gpu_checks", "check_dense", 60.0),
    "check wilson": Section("gpu_checks", "check_wilson", 60.0),
    "check ode": Section("gpu_checks", "check_ode", 60.0),
    "check runtime": Section("gpu_runtime", "check_runtime", 90.0),
    "race orbit": Section("gpu_races", "race_orbit", 90.0),
    "race wilson, small": Section("gpu_races", "race_wilson_small", 75.0),
    "race wilson, large": Section("gpu_races", "race_wilson_large", 75.0),
    "race ode, fixed": Section("gpu_races", "race_ode_fixed", 75.0),
    "race ode, adaptive": Section("gpu_races", "race_ode_adaptive", 90.0),
    "race dense": Section("gpu_races", "race_dense", 45.0),
}
"""In the order in which they run: what is right first, then what the targets are for."""


def run_section(name: str, bench: Bench) -> None:
    """In this process; what it raises is recorded."""
    section = SECTIONS[name]
    try:
        function: Callable[[Bench], Any] = getattr(__import__(section.module), section.run)
        function(bench)
    except Exception as error:
        bench.fail(name, error)
    bench.save()


def run_apart(name: str, options: argparse.Namespace, seconds: float) -> Record:
    """In a process of its own, which is ended when its time is over; with what it had recorded by then."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "section.json"
        command = [sys.executable, __file__, "--section", name, "--out", str(path), "--seed", str(options.seed)]
        if options.quick:
            command.append("--quick")
        try:
            code = subprocess.run(command, timeout=seconds).returncode
            reason = "" if code == 0 else f"its process ended with status {code}"
        except subprocess.TimeoutExpired:
            reason = f"not done after {seconds:.0f} seconds"
        record = Record.load(path) if path.exists() else Record()
    if reason:
        record.failures.append({"where": name, "error": reason})
        print(f"  FAIL {name}: {reason}", flush=True)
    return record


def run_all(names: Sequence[str], options: argparse.Namespace) -> Record:
    whole = Record(describe(torch.device("cuda" if not options.emulated else "cpu"), options.emulated))
    whole.machine["seed"] = str(options.seed)
    begin = time.perf_counter()
    for name in names:
        left = TOTAL - (time.perf_counter() - begin)
        if left < 10:
            whole.skipped.append(f"{name}: no time left")
            continue
        print(f"{name}:", flush=True)
        start = time.perf_counter()
        if options.emulated:
            bench = Bench(torch.device("cpu"), emulated=True, quick=True, seed=options.seed)
            with _device.emulated():
                run_section(name, bench)
            whole.add(bench.record)
        else:
            whole.add(run_apart(name, options, min(SECTIONS[name].budget, left)))
        whole.sections[name] = time.perf_counter() - start
        if options.out:
            whole.save(options.out)
    return whole


def rows(record: Record) -> Iterator[tuple[str, ...]]:
    """One for each job: time, rate, fraction of its limit, fastest rival of each kind; then its targets."""
    for figure in record.figures:
        fraction = NONE if figure["fraction"] is None else f"{figure['fraction']:.2f} of {figure['limit']}"
        best: dict[str, tuple[float, float]] = {}
        for rival in figure["rivals"]:
            best[rival["kind"]] = min(best.get(rival["kind"], (float("inf"), 1.0)), (rival["seconds"], rival["scaled"]))
        rivals = [
            f"{kind} {seconds / figure['seconds']:.1f}x{' (scaled)' if scaled != 1 else ''}"
            for kind, (seconds, scaled) in best.items()
        ]
        targets = [
            f"{target['quantity']} {target['value']:.3g} (aim {target['bound']:g}: "
            f"{'reached' if target['value'] >= target['bound'] else 'missed'})"
            for target in figure["targets"]
        ]
        yield figure["job"], f"{1e3 * figure['seconds']:.3g} ms", figure["rate"], fraction, *rivals, *targets


def report(record: Record) -> str:
    """What a run found, as text."""
    lines = ["", "Machine: " + "; ".join(f"{name} {value}" for name, value in record.machine.items()) + "."]
    passed = sum(check["passed"] for check in record.checks)
    lines.append(f"Checks: {passed} of {len(record.checks)} passed.")
    lines += [
        f"  FAIL {check['name']}: relative error {check['error']:.2g}, at most {check['bound']:.2g}"
        for check in record.checks
        if not check["passed"]
    ]
    lines += [f"Limit: {name}: {rate:.4g}" for name, rate in record.limits.items()]
    for job, *cells in rows(record):
        lines += [job, *(f"    {cell}" for cell in cells)]
    if any(rival["scaled"] != 1 for figure in record.figures for rival in figure["rivals"]):
        lines.append("scaled: timed on fewer samples, and multiplied by how many times fewer they were.")
    lines += [f"Skipped: {reason}" for reason in record.skipped]
    lines += [f"Failed: {failure['where']}: {failure['error']}" for failure in record.failures]
    lines.append(f"Time: {sum(record.sections.values()):.0f} s.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to write the results, as JSON")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the samples")
    parser.add_argument("--emulated", action="store_true", help="the checks alone, on the CPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections")
    parser.add_argument("--seed", type=int, help="of the inputs; by default another one every time")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "little")
    if not options.emulated:
        if not torch.cuda.is_available():
            print(
                "benchmarks/gpu.py: no GPU: torch.cuda.is_available() is False; --emulated runs the checks on the CPU"
            )
            return 2
        if not config()["cuda"].startswith("kernels built"):
            print(f"benchmarks/gpu.py: CUDA kernels of nnsym_fast: {config()['cuda']}")
            return 1
    if options.section:
        device = torch.device("cuda", torch.cuda.current_device())
        run_section(options.section, Bench(device, quick=options.quick, seed=options.seed, path=options.out))
        return 0
    names = options.only or list(SECTIONS)
    if options.emulated:
        names = [name for name in names if name.startswith("check")]
    record = run_all(names, options)
    print(report(record))
    if options.out:
        record.save(options.out)
    return 1 if record.failures or not all(check["passed"] for check in record.checks) else 0


if __name__ == "__main__":
    sys.exit(main())
