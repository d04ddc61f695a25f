# SPDX-License-Identifier: MIT
"""What the sections of ``gpu.py`` share: their record, checks, the clock of the device and its limits."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nnsym_fast as nf
from nnsym_fast import _device

__all__ = ["NONE", "Bench", "Figure", "Record", "Rival", "Target", "describe", "host", "poisoned", "relative_error"]

NONE = "-"
PACKAGES = ("numpy", "torch", "triton", "jax", "torchdiffeq", "diffrax")

ROUNDS = 15
FEW_ROUNDS = 3
SECONDS = 1.0
"""Time that one contestant gets, beyond its first calls."""

CACHES = 8
"""Buffers are this many times as large as the second-level cache, where the memory allows it."""

SHARE = 0.12
"""Part of the device's memory that the result, or the input, of one job takes at most."""


@dataclass(frozen=True)
class Target:
    """``value >= bound`` is what a figure should reach: a ratio to a peer, or a fraction of a limit."""

    quantity: str
    value: float
    bound: float

    @property
    def verdict(self) -> str:
        return "reached" if self.value >= self.bound else "missed"


@dataclass(frozen=True)
class Rival:
    """A peer's time for the whole job; ``scaled``: measured on so many times fewer samples, and multiplied."""

    kind: str
    formulation: str
    seconds: float
    scaled: float = 1.0


@dataclass
class Figure:
    """One job: its time, what limits it, and what it raced against."""

    job: str
    seconds: float
    limit: str = ""
    fraction: float | None = None
    rate: str = ""
    rivals: list[Rival] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def best(self, *kinds: str) -> float | None:
        """Time of the fastest rival of these kinds, or of all."""
        times = [rival.seconds for rival in self.rivals if not kinds or rival.kind in kinds]
        return min(times) if times else None


@dataclass
class Record:
    """What one section, or a whole run, found."""

    machine: dict[str, str] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    sections: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        os.replace(part, path)

    @staticmethod
    def load(path: Path) -> Record:
        return Record(**json.loads(path.read_text()))

    def add(self, other: Record) -> None:
        """What another section found."""
        self.machine |= other.machine
        self.limits |= other.limits
        self.checks += other.checks
        self.figures += other.figures
        self.skipped += other.skipped
        self.failures += other.failures
        self.sections |= other.sections


def describe(device: torch.device, emulated: bool) -> dict[str, str]:
    """The device, and the versions of what ran on it."""
    result = {"system": f"{platform.system()} {platform.machine()}", "Python": platform.python_version()}
    if emulated:
        result["device"] = "CPU, which emulates one"
    else:
        properties = torch.cuda.get_device_properties(device)
        result |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "L2": f"{getattr(properties, 'L2_cache_size', 0) / 2**20:.0f} MiB",
            "CUDA of torch": str(torch.version.cuda),
        }
    result["nnsym_fast"] = nf.__version__
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result


def host(value: Any) -> np.ndarray[Any, Any]:
    """In double precision on the CPU."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = value.to(torch.complex128 if value.is_complex() else torch.float64).cpu().numpy()
    value = np.asarray(value)
    return value.astype(np.result_type(value.dtype, np.float64))


def relative_error(found: Any, expected: Any) -> float:
    """The largest difference over the largest entry; infinite where an entry is not finite, or the shapes differ."""
    a, b = host(found), host(expected)
    if a.shape != b.shape or not np.isfinite(a).all():
        return math.inf
    if not a.size:
        return 0.0
    return float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(np.float64).tiny))


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, torch.empty is full of NaN: what a kernel does not write is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@dataclass
class Bench:
    """One section at work: where it runs, how large, and its record, which is saved at every step."""

    device: torch.device
    emulated: bool = False
    quick: bool = False
    seed: int = 0
    path: Path | None = None
    record: Record = field(default_factory=Record)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    # --- checks

    def tensor(self, value: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """On the device."""
        return torch.as_tensor(np.asarray(value)).to(self.device, dtype)

    def check(self, name: str, found: Any, expected: Any, bound: float) -> None:
        """The relative error of a result, or the worst of several results by name."""
        if isinstance(expected, dict):
            error = max(relative_error(found[key], value) for key, value in expected.items())
        else:
            error = relative_error(found, expected)
        passed = error <= bound
        self.record.checks.append({"name": name, "error": error, "bound": bound, "passed": passed})
        print(f"  {'ok  ' if passed else 'FAIL'} {name}: relative error {error:.2g}, at most {bound:.2g}", flush=True)
        self.save()

    def attempt(self, name: str, call: Callable[[], Any]) -> Any:
        """The result of a call, or None; an exception is a failed check."""
        try:
            return call()
        except Exception as error:
            self.fail(name, error)
            return None

    def compare(self, name: str, call: Callable[[], Any], expected: Any, bound: float) -> None:
        """:meth:`check` of what a call returns, which may raise."""
        found = self.attempt(name, call)
        if found is not None:
            self.check(name, found, expected, bound)

    def fail(self, name: str, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()
        self.record.failures.append({"where": name, "error": " ".join(reason[:4])[:600]})
        print(f"  FAIL {name}: {reason[0][:300]}", flush=True)
        self.save()

    def skip(self, reason: str) -> None:
        self.record.skipped.append(reason)
        print(f"  skipped: {reason}", flush=True)
        self.save()

    def save(self) -> None:
        if self.path is not None:
            self.record.save(self.path)

    # --- time

    def synchronize(self) -> None:
        if not self.emulated:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any], warm: int = 2) -> float:
        """Median time of a call on the device: between two events, after some calls to warm up.

        Of a call that ends on the host, as JAX's do, see :meth:`wall_seconds`.
        """
        if self.emulated:
            return self.wall_seconds(call, 1)
        self._warm(call, warm)
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < ROUNDS and (len(times) < FEW_ROUNDS or time.perf_counter() - begin < SECONDS):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            call()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) * 1e-3)
            if times[-1] > 4 * SECONDS:
                break
        return statistics.median(times)

    def _warm(self, call: Callable[[], Any], times: int) -> None:
        begin = time.perf_counter()
        for _ in range(times):
            call()
            self.synchronize()
            if time.perf_counter() - begin > 4 * SECONDS:
                break

    def wall_seconds(self, call: Callable[[], Any], warm: int = 2) -> float:
        """Median time of a call that returns when its result is complete."""
        self._warm(call, warm)
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < ROUNDS and (len(times) < FEW_ROUNDS or time.perf_counter() - begin < SECONDS):
            start = time.perf_counter()
            call()
            self.synchronize()
            times.append(time.perf_counter() - start)
            if times[-1] > 4 * SECONDS:
                break
        return statistics.median(times)

    def rival(
        self,
        figure: Figure,
        kind: str,
        formulation: str,
        call: Callable[[], Any],
        scaled: float = 1.0,
        *,
        wall: bool = False,
    ) -> bool:
        """Times a peer, and whether it ran; one that fails is told of, and does not race."""
        try:
            seconds = (self.wall_seconds if wall else self.seconds)(call) * scaled
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self.skip(f"{figure.job}: {kind}, {formulation}: {reason}")
            return False
        finally:
            if not self.emulated:
                torch.cuda.empty_cache()
        figure.rivals.append(Rival(kind, formulation, seconds, scaled))
        self.figure(figure)
        note = f", timed on 1/{scaled:g} of the samples" if scaled != 1 else ""
        print(f"    {kind}, {formulation}: {1e3 * seconds:.3g} ms, {seconds / figure.seconds:.1f}x{note}", flush=True)
        return True

    def figure(self, figure: Figure) -> None:
        """What a race has found so far, in the record."""
        others = [other for other in self.record.figures if other["job"] != figure.job]
        self.record.figures = [*others, asdict(figure)]
        self.save()

    # --- limits, each measured when it is first asked for

    @cached_property
    def memory(self) -> int:
        """Bytes that one job may take for its result or its input."""
        return int(SHARE * torch.cuda.get_device_properties(self.device).total_memory)

    @cached_property
    def buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or 64 << 20
        count = min(max(CACHES * cache, 2 << 30), self.memory // 2) // 4096 * 1024
        first, second = (torch.empty(count, dtype=torch.float32, device=self.device) for _ in range(2))
        return first.fill_(1), second.fill_(2)

    def limit(self, name: str, unit: str, amount: float, calls: list[Callable[[], Any]]) -> float:
        """Units per second of the fastest of several calls."""
        rate = amount / min(self.seconds(call) for call in calls)
        self.record.limits[f"{name}, {unit}"] = rate
        scale, word = (1e12, "T") if rate > 1e12 else (1e9, "G")
        print(f"  {name}: {rate / scale:.3g} {word}{unit}", flush=True)
        self.save()
        return rate

    def _native(self, name: str, *arguments: Any) -> Callable[[], Any]:
        function = getattr(_device.module(), name)
        return lambda: function(*_device.place(self.buffers[0]), *arguments)

    @cached_property
    def write_rate(self) -> float:
        a, _ = self.buffers
        ours = self._native("limit_write", a.data_ptr(), 4 * a.numel())
        return self.limit("write", "B/s", 4.0 * a.numel(), [ours, lambda: a.fill_(3.0)])

    @cached_property
    def copy_rate(self) -> float:
        """Bytes read and bytes written, together."""
        a, b = self.buffers
        ours = self._native("limit_copy", a.data_ptr(), b.data_ptr(), 4 * a.numel())
        return self.limit("copy, read and written", "B/s", 8.0 * a.numel(), [ours, lambda: a.copy_(b)])

    @cached_property
    def read_rate(self) -> float:
        a, _ = self.buffers
        total = torch.zeros(1, dtype=torch.int32, device=self.device)
        ours = self._native("limit_read", a.data_ptr(), 4 * a.numel(), total.data_ptr())
        return self.limit("read", "B/s", 4.0 * a.numel(), [ours, lambda: a.sum()])

    def peak(self, dtype: torch.dtype) -> float:
        """Of multiply-adds without tensor cores, in operations per second."""
        cached: dict[torch.dtype, float] = self.__dict__.setdefault("_peaks", {})
        if dtype not in cached:
            threads = 256 * 64 * torch.cuda.get_device_properties(self.device).multi_processor_count
            sums = torch.empty(threads, dtype=dtype, device=self.device)
            double, rounds = dtype == torch.float64, 512
            operations = 2.0 * 128 * rounds * threads
            chains = self._native("limit_multiply_add", double, sums.data_ptr(), threads, rounds)
            name = f"multiply-adds, {str(dtype).removeprefix('torch.')}"
            cached[dtype] = self.limit(name, "FLOP/s", operations, [chains])
        return cached[dtype]
