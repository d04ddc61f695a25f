# SPDX-License-Identifier: MIT
"""The tolerances of the tests of kernels, one table per question, with the reason of every number.

An ulp is the distance of neighbouring numbers of a dtype at the exact result. EPSILON is the ulp at 1.
"""

from __future__ import annotations

from typing import NamedTuple

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

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
