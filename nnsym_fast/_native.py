# SPDX-License-Identifier: MIT
"""The compiled module: instruction set, threads, configuration. The only importer of ``_cpu``."""

from __future__ import annotations

import operator
import os
import sys

import nnsym_fast._cpu as cpu

__all__ = ["cpu", "get_num_threads", "release_memory", "set_num_threads", "show_config"]

ISA_VARIABLE = "NNSYM_FAST_ISA"
ISA_NAMES = ("baseline", "avx2", "avx512")


def _select_isa(name: str) -> None:
    if cpu.select_isa(name):
        return
    here = ", ".join(cpu.isas())
    if name in ISA_NAMES:
        raise ValueError(f"{ISA_VARIABLE}: this machine cannot run {name!r}; expected one of: {here}; or unset it")
    raise ValueError(f"{ISA_VARIABLE}: unknown instruction set {name!r}; expected one of: {here}; or unset it")


if os.environ.get(ISA_VARIABLE):
    _select_isa(os.environ[ISA_VARIABLE])


def set_num_threads(n: int | None) -> None:
    """Number of threads that kernels use.

    Args:
        n: at least 1; None follows OpenMP again (``OMP_NUM_THREADS``, ``threadpoolctl``), which is the default.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is less than 1.

    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(None)
    """
    if n is None:
        cpu.set_thread_count(0)
        return
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected an integer or None, got {n!r} of type {type(n).__name__}") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"n: expected 1 to 4096 threads, or None for OpenMP's default, got {count}")
    cpu.set_thread_count(count)


def get_num_threads() -> int:
    """Number of threads that the next kernel uses."""
    return int(cpu.thread_count())


def release_memory() -> None:
    """Give memory of freed results, which is kept for results of the same size (1 GiB at most), back to the system."""
    cpu.release_memory()


def config() -> dict[str, str]:
    """What :func:`show_config` prints, as a dict."""
    from nnsym_fast import __version__

    threads = str(get_num_threads())
    if cpu.forked_process():
        threads += " (a forked process: OpenMP does not survive a fork, so kernels run on one thread)"
    elif not cpu.threads_available():
        threads += " (built without OpenMP)"
    torch = sys.modules.get("torch")
    return {
        "nnsym_fast": __version__,
        "isa": f"{cpu.isa()} (this machine: {', '.join(cpu.isas())}; override: {ISA_VARIABLE})",
        "threads": threads,
        "cuda": "not available: this version has no CUDA kernels, and a CUDA tensor is refused; move it with .cpu()",
        "numpy": sys.modules["numpy"].__version__,
        "torch": "not imported" if torch is None else str(torch.__version__),
    }


def show_config() -> None:
    """Print the instruction set chosen, the threads, the state of CUDA and the versions."""
    for name, value in config().items():
        print(f"{name:>10}: {value}")
