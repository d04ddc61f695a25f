# SPDX-License-Identifier: MIT
"""The tolerances of the tests of kernels, one table per question, with the reason of every number.

An ulp is the distance of neighbouring numbers of a dtype at the exact result. EPSILON is the ulp at 1.
"""

from __future__ import annotations

from typing import NamedTuple

EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "complex128": 2.0**-52,
    "complex64": 2.0**-23,
}

ARITHMETIC = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}
"""Storage type -> the type that the kernel computes in."""


class Storage(NamedTuple):
    """Limits of a storage type, which NumPy does not know for bfloat16."""

    largest: float
    smallest: float
    """The smallest subnormal: the ulp of everything below the normal numbers."""


STORAGE = {
    "float64": Storage((2 - 2.0**-52) * 2.0**1023, 2.0**-1074),
    "float32": Storage((2 - 2.0**-23) * 2.0**127, 2.0**-149),
    "float16": Storage((2 - 2.0**-10) * 2.0**15, 2.0**-24),
    "bfloat16": Storage((2 - 2.0**-7) * 2.0**127, 2.0**-133),
}

MATH_ULP: dict[str, dict[str, float]] = {
    # Measured on 2^25 arguments per function and instruction set, and rounded up: csrc/simd/math.h states the same.
    "float32": {"exp": 2, "log": 1, "sin": 3, "cos": 3, "-log u": 3},
    "float64": {"exp": 2, "log": 1, "sin": 2, "cos": 2, "-log u": 1},
}
"""Vector functions against exact values."""


def action(dtype: str, factors: int = 4) -> float:
    """Relative error of one entry of a kernel point against float64, for the same elements.

    A leg's factor (a power, then a reciprocal, or a rounded float64 power) has 1.5 ulp, each product 0.5, so a leg 2;
    the storage rounds once more by half an ulp.
    """
    arithmetic = ARITHMETIC[dtype]
    stored = 0.0 if arithmetic == dtype else EPSILON[dtype] / 2
    return 2 * factors * EPSILON[arithmetic] + stored


def scale(dtype: str, scale_std: float) -> float:
    """Relative error of a sampled scale exp(std * normal) against the reference.

    exp has 1 ulp. A normal goes up to 6.8 (32-bit draws end there) with an error of 6 ulp at most, and std times that
    error is the error of the scale: measured on 10^6 scales, 4.6 std epsilon in float32, and 10.7 in float64, where the
    angle 2 pi u of the reference is rounded too.
    """
    return (2 + (14 if dtype == "float64" else 6) * scale_std) * EPSILON[dtype]


COMPOSED = {"float64": 1e-13, "float32": 1e-5}
"""act(a b) against act(a) act(b), relative: both round every factor; at most twenty roundings and powers up to 3."""

INVARIANCE_FLOAT64 = 1e-12
"""Change of a network's function along its orbit in float64, relative to its largest output: a bound of the project.
Sums of a few hundred products with factors e^{+-2} stay near 1e-15."""

INVARIANCE_FLOAT32 = 2.0
"""RMS error of a point in float32 over the RMS error of the base network in float32, both against float64."""

BROKEN = 1e-3
"""A wrong leg changes the function at order one; three decimals leave room for small couplings."""

EXTRA_MEMORY_MIB = 64
"""Memory of a slice beyond its result: a bound of the project."""


# --- Wilson lines. Errors of matrices are normwise: ||p - exact|| / ||exact|| in the Frobenius norm, unless it is said.

EXPM_RATIO = 4.0
"""Error of an exponential over that of scipy.linalg.expm in the same precision: a bound of the project.

An error of scipy may be small by luck, so this is asked of more than half of the matrices of a kind (EXPM_MANY or
more), and of every matrix against the largest error of scipy among those of the same kind and norm. A single matrix
may also err by what rounding its entries costs (EXPM_INPUT).
"""

EXPM_MANY = 8

EXPM_FLOOR = 2.0
"""Epsilons that are always allowed: scipy has a tenth of an epsilon where exp(a) is nearly 1, and 4 times that is less
than one rounding."""

EXPM_INPUT = 2.0
"""Times epsilon times the condition number: a change of a by 2 epsilon in norm changes exp(a) by that, and the tail of
an ensemble of 4 to 8 matrices cannot be told from it. Measured on Taylor polynomials with squarings: 1.0."""

EXPM_NUMBERS = 12.0
"""Epsilons times (1 + |x|) for d = 1, where scipy calls exp: a Taylor polynomial and up to 7 squarings, each of which
doubles the error so far. Measured: 8.3 at most, 0.7 in the median."""

EXPM_FLOAT32 = 1e-5
"""The largest error in single precision where epsilon times the condition number is at most EXPM_CONDITIONED: a bound
of the project."""

EXPM_CONDITIONED = 1e-6

FRECHET = 8.0
"""Epsilons times (1 + ||a||_1) for L(a, e), relative to ||L||: the rule of the product doubles the roundings of exp.
Measured: 3.0."""


def law(dtype: str, condition: float = 1.0) -> float:
    """Relative error of an identity between a few exponentials or products, for norms up to about 3.

    Each factor has an error of about ||a|| epsilon, times the condition of what it is multiplied with. Measured: 30,
    most of it by float64 judging itself.
    """
    return 64 * EPSILON[dtype] * condition


PRODUCT_RATIO = 2.0
"""Error of an ordered product over that of the loop p = u_k p in the same precision, both against a wider type: a bound
of the project. The median over an ensemble; single products of ill-conditioned links scatter by the order of additions,
so the largest error may be PRODUCT_OUTLIER times the loop's largest."""

PRODUCT_OUTLIER = 8.0

PRODUCT_MANY = 64
"""Entries (paths times d^2) that an ensemble needs for a median."""

PRODUCT_FLOOR = 2.0
"""Epsilons that are always allowed: for T of 1 or 2 the loop has less than one."""


def steps(dtype: str, count: int) -> float:
    """Relative error of a line of ``count`` steps with well-conditioned links of norm about 1.

    Errors of a step, and of the float64 that judges them, add up at worst. Measured: 6.5.
    """
    return 8 * EPSILON[dtype] * (count + 4)


def drift(dtype: str, count: int, d: int) -> float:
    """||p^H p - 1|| of a product of ``count`` unitary links of size d.

    A rounded link is off by sqrt(d) epsilon in the Frobenius norm, so is a rounded product, and the errors of different
    steps are independent. Measured: 1.8 epsilon times the root.
    """
    return float(4 * EPSILON[dtype] * (d * max(count, 1)) ** 0.5)


def unitary(dtype: str, d: int) -> float:
    """||p^H p - 1|| after re-unitarising: rounding of p, whose columns have half an epsilon. Measured: 1.2."""
    return float(4 * EPSILON[dtype] * d**0.5)


GRADIENT = 16.0
"""Epsilons times (T + 4) for gradients of a line, relative to the norms of the two vectors whose inner product is
taken: a gradient passes twice through what a line passes once, and through the derivative of the exponent.
Measured: 5.4."""

SLOPE = 0.35
"""How far a fitted order of convergence may be from the exact one, between step lengths that differ by 2 to 4."""
