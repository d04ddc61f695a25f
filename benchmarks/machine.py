# SPDX-License-Identifier: MIT
"""The machine that the figures belong to, and the limits of its memory and its arithmetic."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import nnsym_fast
from nnsym_fast._native import cpu
from nnsym_fast._ode import ACTIVATIONS

__all__ = [
    "activation_rate",
    "busy_seconds",
    "copy_limit",
    "cores",
    "describe",
    "lanes",
    "multiply_add_peak",
    "on",
    "write_limit",
]

PACKAGES = ("numpy", "torch", "jax", "torchdiffeq", "torchode", "diffrax")

VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}

MULTIPLY_ADDS = 1 << 24
"""Vectors of multiply-adds per thread in a measurement of the peak: a few milliseconds."""


ACTIVATED = 1 << 18
"""Vectors of arguments per thread in a measurement of an activation's rate: a few milliseconds."""


def describe() -> dict[str, str]:
    """CPU, cores, instruction set, threads and versions."""
    result = {
        "CPU": _cpu_model(),
        "cores": str(cores()),
        "ISA": cpu.isa(),
        "threads": str(nnsym_fast.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "nnsym_fast": nnsym_fast.__version__,
    }
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_seconds() -> float:
    """CPU time since the start that other processes, or other machines on the host, took; 0 where it is not known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    own = os.times()
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return total - own.user - own.system - own.children_user - own.children_system


def _cpu_model() -> str:
    """Model name; where a hypervisor hides it, with the family and model numbers that identify the design."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in info.read_text().splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def write_limit(nbytes: int) -> Callable[[], None]:
    """A call that writes ``nbytes`` with streaming stores on all threads: as fast as a result can be written."""
    return partial(cpu.stream_write, _buffer(nbytes))


def copy_limit(nbytes: int) -> Callable[[], None]:
    """A call that copies ``nbytes`` with streaming stores on all threads: as fast as it can be read and written."""
    return partial(cpu.stream_copy, _buffer(nbytes), _buffer(nbytes))


def lanes(dtype: Any) -> int:
    """Numbers of ``dtype`` in a vector of the instruction set in use."""
    return VECTOR_BYTES[cpu.isa()] // np.dtype(dtype).itemsize


def multiply_add_peak(dtype: Any) -> Callable[[], float]:
    """A call that does nothing but independent fused multiply-adds in registers, on all threads.

    Returns the number of floating-point operations that it did, two for each multiply-add and lane. A complex ``dtype``
    stands for that of its parts.
    """
    double = np.dtype(dtype).type in (np.float64, np.complex128)
    return partial(cpu.multiply_add, double, MULTIPLY_ADDS)


def activation_rate(dtype: Any, name: str) -> Callable[[], float]:
    """A call that does nothing but evaluate an activation, on all threads. Returns how often it did."""
    return partial(cpu.activation_rate, np.dtype(dtype) == np.float64, ACTIVATIONS.index(name), ACTIVATED)


def on(threads: int, call: Callable[[], Any]) -> Any:
    """The result of a call on so many threads."""
    nnsym_fast.set_num_threads(threads)
    try:
        return call()
    finally:
        nnsym_fast.set_num_threads(None)


def _buffer(nbytes: int) -> Any:
    buffer = cpu.empty(nbytes)
    buffer[:] = 1
    return buffer
