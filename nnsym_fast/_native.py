# SPDX-License-Identifier: MIT
"""The compiled modules: instruction set, threads, configuration. The only importer of ``_cpu`` and ``_cuda``."""

from __future__ import annotations

import operator
import os
import sys
from functools import lru_cache
from typing import Any

import nnsym_fast._cpu as cpu

__all__ = ["cpu", "cuda", "cuda_emulated", "get_num_threads", "release_memory", "set_num_threads", "show_config"]

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


BUILD_CUDA = (
    "with a CUDA compiler of 12.4 or later on the path, reinstall with "
    "pip install --force-reinstall --no-deps nnsym_fast --config-settings=cmake.define.NNSYM_CUDA=ON"
)


@lru_cache(maxsize=1)
def cuda() -> Any:
    """The module ``_cuda``, imported when a CUDA tensor first arrives.

    Raises:
        RuntimeError: it was not built, or cannot be loaded.
    """
    try:
        import nnsym_fast._cuda as module
    except ModuleNotFoundError:
        raise RuntimeError(
            f"CUDA tensors: this build of nnsym_fast has no CUDA kernels; {BUILD_CUDA}, or move the tensors with .cpu()"
        ) from None
    except ImportError as error:
        raise RuntimeError(f"CUDA tensors: the CUDA kernels of nnsym_fast cannot be loaded: {error}") from error
    return module


def cuda_emulated() -> Any:
    """The module ``_cuda_emulated``: the CUDA kernels, compiled for the CPU.

    Raises:
        RuntimeError: it was not built.
    """
    try:
        import nnsym_fast._cuda_emulated as module
    except ModuleNotFoundError:
        raise RuntimeError(
            "emulation: not in this build; install with --config-settings=cmake.define.NNSYM_EMULATION=ON"
        ) from None
    return module


def _cuda_status() -> str:
    try:
        count = int(cuda().device_count())
    except RuntimeError as error:
        return f"not available: {str(error).removeprefix('CUDA tensors: ')}"
    return f"kernels built, {count} device{'' if count == 1 else 's'}{'' if count else ' found'}"


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
        "cuda": _cuda_status(),
        "numpy": sys.modules["numpy"].__version__,
        "torch": "not imported" if torch is None else str(torch.__version__),
    }


def show_config() -> None:
    """Print the instruction set chosen, the threads, the state of CUDA and the versions."""
    for name, value in config().items():
        print(f"{name:>10}: {value}")
