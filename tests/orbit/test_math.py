# SPDX-License-Identifier: MIT
"""The vector functions that draw scales, against extended precision: the errors that csrc/simd/math.h states.

Draws are 32-bit words x with u = (x + 1/2) 2^-32. Their exact sine and cosine come from the angle reduced in integers:
2 pi u = k pi / 2 + t with t at most pi / 4 in size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tolerances import MATH_ULP

from nnsym_fast._native import cpu

Array = npt.NDArray[Any]
OPS = {"exp": 0, "log": 1, "sin": 2, "cos": 3, "-log u": 4}
DTYPES = ("float32", "float64")
PI = np.longdouble("3.14159265358979323846264338327950288")
COUNT = 1 << 16

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than double here: no exact values"
)


def evaluate(name: str, dtype: str, x: Array) -> Array:
    function: Callable[[int, Array], Array] = cpu.math_float if dtype == "float32" else cpu.math_double
    return function(OPS[name], x)


def errors_in_ulp(value: Array, exact: Array, dtype: str) -> Array:
    """|value - exact| over the distance of neighbouring numbers of the dtype at the exact result."""
    info = np.finfo(dtype)
    exponent = np.frexp(np.maximum(np.abs(exact), np.longdouble(info.smallest_normal)))[1] - 1
    return np.asarray(np.abs(value - exact) / np.ldexp(np.longdouble(1), exponent - info.nmant))


def draws() -> Array:
    """The ends of the range, both sides of every multiple of an eighth turn, and random words."""
    near = np.arange(-2000, 2000)
    eighths = np.concatenate([(k << 29) + near for k in range(8)]) % 2**32
    return np.concatenate([eighths, np.random.default_rng(0).integers(0, 2**32, COUNT)]).astype(np.uint32)


def exact_sine_and_cosine(x: Array) -> tuple[Array, Array]:
    word = x.astype(np.int64)
    quarter = (word + (1 << 29)) >> 30
    t = ((word - (quarter << 30)).astype(np.longdouble) + 0.5) * (2 * PI / 2**32)
    sine, cosine = np.sin(t), np.cos(t)
    turn = quarter % 4
    return np.choose(turn, [sine, cosine, -sine, -cosine]), np.choose(turn, [cosine, -sine, -cosine, sine])


def exact_minus_log_uniform(x: Array) -> Array:
    return -np.log((x.astype(np.longdouble) + 0.5) / 2**32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp(isa: str, dtype: str) -> None:
    """Over the whole range of results, subnormal ones included, and densely where log-normal scales lie."""
    info = np.finfo(dtype)
    lowest, highest = np.log(float(info.smallest_subnormal)) + 0.01, np.log(float(info.max)) - 0.01
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(lowest, highest, COUNT), rng.normal(0, 0.5, COUNT)]).astype(dtype)
    error = errors_in_ulp(evaluate("exp", dtype, x), np.exp(x.astype(np.longdouble)), dtype)
    assert error.max() <= MATH_ULP[dtype]["exp"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_outside_the_range(isa: str, dtype: str) -> None:
    info = np.finfo(dtype)
    over, under = np.log(float(info.max)), np.log(float(info.smallest_subnormal))
    x = np.array([0.0, -0.0, over + 0.01, 2 * over, np.inf, under - 1, 2 * under, -np.inf, np.nan], dtype)
    expected = [1, 1, np.inf, np.inf, np.inf, 0, 0, 0, np.nan]
    np.testing.assert_array_equal(evaluate("exp", dtype, x), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log(isa: str, dtype: str) -> None:
    """Of every positive normal number: random bit patterns, and both sides of 1."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    bits = np.dtype(f"uint{info.bits}")
    low, high = (np.array([v], dtype).view(bits)[0] for v in (info.smallest_normal, info.max))
    anywhere = rng.integers(low, high, COUNT, dtype=bits).view(dtype)
    near_one = (1 + 0.1 * rng.uniform(-1, 1, COUNT)).astype(dtype)
    ends = np.array(
        [info.smallest_normal, info.max, 1, np.nextafter(1, 2, dtype=dtype), np.nextafter(1, 0, dtype=dtype)]
    )
    x = np.concatenate([anywhere, near_one, ends]).astype(dtype)
    error = errors_in_ulp(evaluate("log", dtype, x), np.log(x.astype(np.longdouble)), dtype)
    assert error.max() <= MATH_ULP[dtype]["log"]
    assert evaluate("log", dtype, np.ones(1, dtype))[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_and_cosine_of_a_draw(isa: str, dtype: str) -> None:
    x = draws()
    for name, exact in zip(("sin", "cos"), exact_sine_and_cosine(x), strict=True):
        error = errors_in_ulp(evaluate(name, dtype, x), exact, dtype)
        assert error.max() <= MATH_ULP[dtype][name], f"{name} of the draw {x[error.argmax()]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_log_of_a_draw(isa: str, dtype: str) -> None:
    """Also where u is so near 1 that a float32 of it would be 1: -log u is then (2^32 - 1/2 - x) 2^-32."""
    x = draws()
    value = evaluate("-log u", dtype, x)
    error = errors_in_ulp(value, exact_minus_log_uniform(x), dtype)
    assert error.max() <= MATH_ULP[dtype]["-log u"], f"draw {x[error.argmax()]}"
    assert value.min() > 0, "a radius sqrt(-2 log u) must be real"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x", [0, 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1])
def test_single_draws(isa: str, dtype: str, x: int) -> None:
    """The same for one draw at a time: vectors that are not full."""
    word = np.array([x], np.uint32)
    sine, cosine = exact_sine_and_cosine(word)
    for name, exact in (("sin", sine), ("cos", cosine), ("-log u", exact_minus_log_uniform(word))):
        assert errors_in_ulp(evaluate(name, dtype, word), exact, dtype)[0] <= MATH_ULP[dtype][name]


def test_the_header_states_these_errors() -> None:
    header = Path(__file__).parents[2] / "csrc" / "simd" / "math.h"
    comment = " ".join(line.lstrip("/ ") for line in header.read_text().splitlines() if line.startswith("//"))
    for dtype, functions in MATH_ULP.items():
        (stated,) = re.findall(rf"{dtype} ((?:[^;.])*ulp)", comment)
        figures = dict(re.findall(r"(exp|log|sincos|-log u) (\d+)(?: ulp)?", stated))
        expected = {"sincos" if name in ("sin", "cos") else name: f"{ulp:g}" for name, ulp in functions.items()}
        assert figures == expected
