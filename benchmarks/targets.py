# SPDX-License-Identifier: MIT
"""What is aimed at, as data. A target is printed as met or not met; it never decides whether a test passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "ADAPTIVE",
    "BACKWARD",
    "BEST_PEER",
    "BFLOAT16_RATE",
    "BOTH",
    "BOTH_AT",
    "DTYPES_AT",
    "DTYPE_RATE",
    "EQUAL_ERROR",
    "FRACTION",
    "GRADIENT",
    "HAAR",
    "IMPORT_TIME",
    "LATENCY",
    "LINE",
    "LINEAR",
    "LONG_PATH",
    "MATRICES",
    "MINILM",
    "PAIRS",
    "PEAK",
    "PHI4",
    "PRODUCT",
    "RATIO_AUTOGRAD",
    "RATIO_DIFFRAX",
    "RATIO_FRESH",
    "RATIO_NUMPY",
    "RATIO_NUMPY_REUSED",
    "RATIO_PRODUCT",
    "RATIO_QR",
    "RATIO_REUSED",
    "RATIO_SCAN",
    "RATIO_TORCH",
    "RATIO_TORCHDIFFEQ",
    "RK4",
    "ROTATION",
    "SECOND_THREAD",
    "SIZES",
    "SMALL",
    "SMALL_GRADIENT",
    "TARGETS",
    "THREAD_GAIN",
    "Target",
]

FRACTION = "fraction of the limit"
RATIO_REUSED = "ratio to the best peer, all may reuse buffers"
RATIO_FRESH = "ratio to the best peer, all return a fresh result"
BFLOAT16_RATE = "bytes per second, of float32's"
LATENCY = "latency"
IMPORT_TIME = "beyond numpy's"
THREAD_GAIN = "gain of the second thread, of the limit's gain"
PEAK = "fraction of the multiply-add peak"
BEST_PEER = "ratio to the best peer"
RATIO_TORCH = "ratio to torch matrix_exp + bmm"
RATIO_PRODUCT = "ratio to the better of torch bmm and JAX scan"
RATIO_AUTOGRAD = "ratio to torch autograd through matrix_exp + bmm"
DTYPE_RATE = "matrices per second, of float32's"
BACKWARD = "forward + backward, of the forward time"
LONG_PATH = "speed of a serial loop of the same kernel on one lane"

LINE = "exp + product"
PRODUCT = "product"
BOTH = "forward + backward"
PAIRS = ((4096, 2), (4096, 3), (2048, 4), (1024, 8), (256, 16), (64, 32), (16, 64), (4, 128))
"""Paths and dimension of their matrices in the Wilson benchmarks."""

DTYPES_AT = (4, 8, 16, 64)
BOTH_AT = (2, 3, 4, 8, 16)
"""Dimensions at which all types are measured, and gradients."""

RATIO_TORCHDIFFEQ = "ratio to torchdiffeq"
RATIO_SCAN = "ratio to JAX scan"
RATIO_DIFFRAX = "ratio to the better diffrax run"
EQUAL_ERROR = ", at equal error"
"""What a ratio adds to its name that compares runs of equal measured error, not of equal tolerance."""
SECOND_THREAD = "one thread to two"

RK4 = "rk4 x 100"
ADAPTIVE = "dopri5, 1e-6"
GRADIENT = "rk4 x 100 with gradient"
SMALL = "small neural ODE"
SMALL_GRADIENT = "small neural ODE with gradient"
SIZES = ((1024, 2, 32), (4096, 2, 64), (256, 32, 128), (64, 64, 256))
"""Samples, dimension of their states and hidden width in the ODE benchmarks."""

MINILM = "orbit of MiniLM"
ROTATION = "rotation of a residual stream"
MATRICES = (100_000, 32)
"""Number and size of the random matrices."""
HAAR = "Haar, {} of {}".format(*MATRICES)
LINEAR = "GL, {} of {}".format(*MATRICES)
RATIO_QR = "ratio to torch with QR and sign fix"
"""Torch makes Haar matrices faster without a factorisation; the other ratios are to that."""

PHI4 = "phi^4, O(4), 32^3"
RATIO_NUMPY = "ratio to a vectorised NumPy update"
RATIO_NUMPY_REUSED = "ratio to a NumPy update without temporary arrays"


@dataclass(frozen=True)
class Target:
    """``at_least`` or ``at_most`` bounds a quantity of a benchmark, in the quantity's unit.

    An ``aim`` is where the design wants to go; a target is what it promised.
    """

    benchmark: str
    quantity: str
    at_least: float | None = None
    at_most: float | None = None
    aim: bool = False

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"< {self.at_most:g}"
        return f"aim {bound}" if self.aim else bound

    def verdict(self, value: float) -> str:
        if self.met(value):
            return "met"
        return "aim not met" if self.aim else "NOT MET"


def _race(benchmark: str, fraction: float, ratio: float) -> tuple[Target, ...]:
    return (
        Target(benchmark, FRACTION, at_least=fraction),
        Target(benchmark, RATIO_FRESH, at_least=ratio),
        Target(benchmark, RATIO_REUSED, at_least=ratio),
    )


def _wilson() -> Iterator[Target]:
    """What is asked of the Wilson benchmarks."""
    ratios = zip(PAIRS, (150, 150, 200, 60, 40, 20, 7, 4), (8, 15, 15, 5, 3, 1.5, 1.2, 1.0), strict=True)
    for (batch, d), line, product in ratios:
        yield Target(f"{LINE} {batch} x {d}", RATIO_TORCH, at_least=line)
        yield Target(f"{PRODUCT} {batch} x {d}", RATIO_PRODUCT, at_least=product)
        for job in (LINE, PRODUCT):
            if d >= 8:
                yield Target(f"{job} {batch} x {d}", PEAK, at_least=0.6, aim=True)
            if d in DTYPES_AT:
                yield Target(f"{job} by type {batch} x {d} float64", DTYPE_RATE, at_least=0.45)
                yield Target(f"{job} by type {batch} x {d} complex64", DTYPE_RATE, at_least=0.2)
        if d in BOTH_AT:
            yield Target(f"{BOTH} {batch} x {d}", BACKWARD, at_most=4)
            yield Target(f"{BOTH} {batch} x {d}", RATIO_AUTOGRAD, at_least=30 if d <= 4 else 10)
    for job in (LINE, PRODUCT):
        yield Target(f"{job} of one long path 1 x 4", LONG_PATH, at_least=5)


def _ode() -> Iterator[Target]:
    """What is asked of the ODE benchmarks."""
    asked = {
        (RK4, RATIO_TORCHDIFFEQ): (20, 8, 4, 4),
        (RK4, RATIO_SCAN): (6, 1.8, 1.4, 1.4),
        (ADAPTIVE, RATIO_TORCHDIFFEQ): (20, 12, 8, 8),
        (ADAPTIVE, RATIO_DIFFRAX): (4, 2, 1.5, 1.3),
        (GRADIENT, RATIO_TORCHDIFFEQ): (15, 8, 4, 3),
    }
    for (job, quantity), ratios in asked.items():
        for (batch, d, h), ratio in zip(SIZES, ratios, strict=True):
            yield Target(f"{job} {batch}, {d}, {h}", quantity, at_least=ratio)
            if job == ADAPTIVE:
                yield Target(f"{job} {batch}, {d}, {h}", quantity + EQUAL_ERROR, at_least=ratio)
    for job in (RK4, ADAPTIVE, GRADIENT):
        for batch, d, h in SIZES:
            yield Target(f"{job} {batch}, {d}, {h}", FRACTION, at_least=0.5, aim=True)
    for job in (SMALL, SMALL_GRADIENT):
        for quantity in (RATIO_DIFFRAX, RATIO_DIFFRAX + EQUAL_ERROR):
            yield Target(f"{job} 64, 4, 32", quantity, at_least=3)
        yield Target(f"{job} 64, 4, 32", FRACTION, at_least=0.5, aim=True)
    for batch, d, h in SIZES:
        if batch >= 256:
            yield Target(f"threads, {RK4} {batch}, {d}, {h}", SECOND_THREAD, at_least=1.8)


def _transformers() -> Iterator[Target]:
    """What is asked of the dense groups."""
    yield from _race(MINILM, 0.55, 4)
    yield Target(MINILM, RATIO_QR, at_least=4)
    yield Target(HAAR, RATIO_QR, at_least=15)
    yield Target(ROTATION, FRACTION, at_least=0.6)


def _phi4() -> Iterator[Target]:
    """What is asked of the lattice model."""
    for chains in ("1 chain", "4 chains"):
        for dtype in ("float64", "float32"):
            yield Target(f"{PHI4}, {chains}, {dtype}", RATIO_NUMPY, at_least=30)


TARGETS = (
    *_race("orbit 2-32-32-1", 0.35, 5),
    *_race("orbit 784-128-128-10", 0.75, 6),
    *_race("orbit 784-512-512-10", 0.75, 6),
    *_race("orbit 256-1024-1024-256", 0.65, 6),
    *_race("augment 2-32-32-1", 0.3, 6),
    Target("bfloat16 784-512-512-10", BFLOAT16_RATE, at_least=0.7),
    Target("bfloat16 256-1024-1024-256", BFLOAT16_RATE, at_least=0.7),
    Target("threads 2-32-32-1", THREAD_GAIN, at_least=0.9),
    Target("threads 784-512-512-10", THREAD_GAIN, at_least=0.9),
    Target("orbit[i] 2-32-32-1", LATENCY, at_most=30),
    Target("import nnsym_fast", IMPORT_TIME, at_most=0.15),
    *_wilson(),
    *_ode(),
    *_transformers(),
    *_phi4(),
)
