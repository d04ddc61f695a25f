# SPDX-License-Identifier: MIT
"""The machine that the figures belong to, and the limits of its memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nnsym_fast
from nnsym_fast._native import cpu

__all__ = ["copy_limit", "describe", "write_limit"]

PACKAGES = ("numpy", "torch", "jax")


def describe() -> dict[str, str]:
    """CPU, cores, instruction set, threads and versions."""
    result = {
        "CPU": _cpu_model(),
        "cores": str(_cores()),
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


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _buffer(nbytes: int) -> Any:
    buffer = cpu.empty(nbytes)
    buffer[:] = 1
    return buffer
