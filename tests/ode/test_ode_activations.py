# SPDX-License-Identifier: MIT
"""Vector activations against exact values, on every instruction set: the errors that csrc/simd/activations.h states.

Exact values are long doubles; where those lose digits (gelu in float64, the cubic of gelu_tanh), 40 digits of mpmath.
A float32 erfc comes from SciPy's float64. NaN and infinite arguments are asked for one by one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import erfc

from nnsym_fast._native import cpu

Array = npt.NDArray[Any]
ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh", "elu", "sin",
)  # fmt: skip
CURVED = ACTIVATIONS[3:]
DTYPES = ("float32", "float64")
ULP = {"float32": 2.0, "float64": 4.0}
COUNT = {"float32": 1 << 16, "float64": 1 << 13}
PARAMETER = 1.3
PI = np.longdouble("3.14159265358979323846264338327950288")

END = {
    "float32": {"tanh": 12, "silu": 112, "gelu": 15, "gelu_tanh": 11.2, "elu": 40, "sin": 1e5},
    "float64": {"tanh": 24, "silu": 756, "gelu": 39, "gelu_tanh": 21.9, "elu": 60, "sin": 1e9},
}
"""Where an activation ends to change: all else are constants, or z. sigmoid and softplus: as silu."""

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than double here: no exact values"
)


def activate(name: str, what: int, x: Array) -> Array:
    """what: 0 value, 1 slope, 2 curvature, 3 the value that comes with the slope."""
    return np.asarray(cpu.activate(ACTIVATIONS.index(name), what, x, PARAMETER))


def arguments(name: str, dtype: str) -> Array:
    """Uniform over the range and near 0, evenly over exponents, any finite bits, both sides of every power of two;
    for the sine also the multiples of pi / 2 and what lies beyond its fast reduction."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    end, count = END[dtype].get(name, END[dtype]["silu"]), COUNT[dtype]
    if dtype == "float64" and name in ("gelu", "gelu_tanh"):
        count = 400
    bits = rng.integers(0, 2**info.bits, count, dtype=np.dtype(f"uint{info.bits}")).view(dtype)
    powers = np.ldexp(np.ones(1, dtype), np.arange(info.minexp, info.maxexp, 1 if count > 400 else 16)).astype(dtype)
    near = np.concatenate([powers, np.nextafter(powers, np.zeros(1, dtype))])
    parts = [
        rng.uniform(-end, end, count),
        rng.uniform(-4, 4, count),
        rng.choice([-1, 1], count) * np.exp(rng.uniform(np.log(1e-8), np.log(end), count)),
        bits[np.isfinite(bits)],
        near,
        -near,
    ]
    if name == "sin":
        turns = rng.integers(-31000, 31000, count) if dtype == "float32" else rng.integers(-(10**8), 10**8, count)
        parts += [turns * (np.pi / 2), np.array([1e5, 1e9, -1e5, -1e9]) * (1 + 1e-7)]
    return np.concatenate([np.asarray(part, dtype) for part in parts])


def digits(function: Any, x: Array) -> Array:
    """By mpmath, as long doubles."""
    with mpmath.workdps(40):
        text = [mpmath.nstr(function(mpmath.mpf(float(z))), 24) for z in x]
    return np.array([np.longdouble(value) for value in text])


def exact(name: str, x: Array) -> Array:
    z, e = x.astype(np.longdouble), np.exp(-np.abs(x.astype(np.longdouble)))
    sigmoid = np.where(z < 0, e, 1) / (1 + e)
    if name == "tanh":
        return np.asarray(np.tanh(z))
    if name == "sigmoid":
        return np.asarray(sigmoid)
    if name == "softplus":
        return np.asarray(np.maximum(z, 0) + np.log1p(e))
    if name == "silu":
        return np.asarray(z * sigmoid)
    if name == "elu":
        return np.where(z > 0, z, np.longdouble(x.dtype.type(PARAMETER)) * np.expm1(np.minimum(z, 0)))
    if name == "sin":
        return np.asarray(np.sin(z))
    if name == "gelu":
        if x.dtype == np.float32:
            return np.asarray(z * (erfc(-x.astype(float) / np.sqrt(2.0)) / 2).astype(np.longdouble))
        return digits(lambda v: v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2 if abs(v) < 45 else max(v, 0), x)
    if x.dtype == np.float32:
        w = 2 * np.sqrt(2 / PI) * (z + np.longdouble("0.044715") * z**3)
        e = np.exp(-np.abs(w))
        return np.asarray(z * (np.where(w < 0, e, 1) / (1 + e)))

    def gelu_tanh(v: Any) -> Any:
        w = 2 * mpmath.sqrt(2 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)
        return v / (1 + mpmath.exp(-w)) if w > -800 else mpmath.mpf(0)

    return digits(gelu_tanh, x)


def in_ulp(value: Array, expected: Array) -> Array:
    info = np.finfo(value.dtype)
    exponent = np.frexp(np.maximum(np.abs(expected), np.longdouble(info.smallest_normal)))[1] - 1
    error = np.abs(value.astype(np.longdouble) - expected) / np.ldexp(np.longdouble(1), exponent - info.nmant)
    return np.where(np.isnan(error), np.inf, error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CURVED)
def test_value(isa: str, name: str, dtype: str) -> None:
    """Also as it comes with the slope. Below the normal numbers an ulp is the smallest number."""
    x = arguments(name, dtype)
    with np.errstate(over="ignore", under="ignore"):
        expected = exact(name, x)
    for what in (0, 3):
        error = in_ulp(activate(name, what, x), expected)
        assert error.max() <= ULP[dtype], f"{error.max()} ulp at {x[error.argmax()]!r}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_of_lines(isa: str, dtype: str) -> None:
    x = arguments("tanh", dtype)
    p = np.dtype(dtype).type(PARAMETER)
    with np.errstate(over="ignore"):
        expected = {
            "identity": (x, np.ones_like(x)),
            "relu": (np.maximum(x, 0), np.where(x > 0, x.dtype.type(1), 0)),
            "leaky_relu": (np.where(x > 0, x, x * p), np.where(x > 0, x.dtype.type(1), p)),
        }
    for name, (value, slope) in expected.items():
        np.testing.assert_array_equal(activate(name, 0, x), value)
        np.testing.assert_array_equal(activate(name, 3, x), value)
        np.testing.assert_array_equal(activate(name, 1, x), slope)
        np.testing.assert_array_equal(activate(name, 2, x), np.zeros_like(x))


def derivatives(name: str, z: Array) -> tuple[Array, Array]:
    """Slope and curvature in long double, exact to far less than the rounding of float64 where |z| is below 40."""
    e = np.exp(-np.abs(z))
    s = np.where(z < 0, e, 1) / (1 + e)
    product = e / (1 + e) ** 2
    one = np.longdouble(1)
    if name == "tanh":
        t = np.tanh(z)
        return 1 / np.cosh(z) ** 2, -2 * t / np.cosh(z) ** 2
    if name == "sigmoid":
        return product, product * (1 - 2 * s)
    if name == "softplus":
        return s, product
    if name == "silu":
        return s + z * product, product * (2 + z * (1 - 2 * s))
    if name == "elu":
        alpha = np.longdouble(PARAMETER)
        return np.where(z > 0, one, alpha * e), np.where(z > 0, 0 * one, alpha * e)
    if name == "sin":
        return np.cos(z), -np.sin(z)
    if name == "gelu":
        density = np.exp(-z * z / 2) / np.sqrt(2 * PI)
        return (erfc(-z.astype(float) / np.sqrt(2.0)) / 2) + z * density, density * (2 - z * z)
    a = 2 * np.sqrt(2 / PI)
    b = a * np.longdouble("0.044715")
    w, dw, d2w = z * (a + b * z * z), a + 3 * b * z * z, 6 * b * z
    e = np.exp(-np.abs(w))
    s, product = np.where(w < 0, e, 1) / (1 + e), e / (1 + e) ** 2
    return s + z * product * dw, product * (2 * dw + z * (dw * dw * (1 - 2 * s) + d2w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CURVED)
def test_derivatives(isa: str, name: str, dtype: str) -> None:
    """Relative to the largest slope, about 1: slopes to 8 epsilon, curvatures to 16 epsilon."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-8, 8, 4096), rng.uniform(-40, 40, 1024)]).astype(dtype)
    slope, curvature = derivatives(name, x.astype(np.longdouble))
    epsilon = float(np.finfo(dtype).eps)
    assert np.abs(activate(name, 1, x) - slope).max() <= 8 * epsilon
    assert np.abs(activate(name, 2, x) - curvature).max() <= 16 * epsilon


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(isa: str, dtype: str) -> None:
    inf = np.inf
    limits = {
        "identity": (-inf, inf), "relu": (0, inf), "leaky_relu": (-inf, inf), "tanh": (-1, 1), "sigmoid": (0, 1),
        "softplus": (0, inf), "silu": (0, inf), "gelu": (0, inf), "gelu_tanh": (0, inf),
        "elu": (-np.dtype(dtype).type(PARAMETER), inf), "sin": (np.nan, np.nan),
    }  # fmt: skip
    slopes = {
        "identity": (1, 1), "leaky_relu": (np.dtype(dtype).type(PARAMETER), 1), "tanh": (0, 0), "sigmoid": (0, 0),
        "sin": (np.nan, np.nan),
    }  # fmt: skip
    largest = float(np.finfo(dtype).max)
    x = np.array([-inf, inf, np.nan, -largest, largest, 0, -0.0], dtype)
    for name, (low, high) in limits.items():
        for what in (0, 3):
            value = activate(name, what, x)
            np.testing.assert_array_equal(value[:3], np.array([low, high, np.nan], dtype), err_msg=name)
            assert value[5] == value[6] == {"sigmoid": 0.5}.get(name, value[5])
        slope = activate(name, 1, x[:2])
        np.testing.assert_allclose(slope, slopes.get(name, (0, 1)), rtol=1e-6, atol=1e-17, err_msg=name)
        if name not in ("sin", "identity", "relu", "leaky_relu"):
            np.testing.assert_allclose(activate(name, 2, x[:2]), [0, 0], atol=1e-17, err_msg=name)
    for name in CURVED:
        assert np.isnan(activate(name, 1, x[2:3])[0])
        if name not in ("sigmoid", "softplus"):
            assert activate(name, 0, x[5:6])[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CURVED)
def test_lanes_and_tails_do_not_matter(isa: str, name: str, dtype: str) -> None:
    x = np.random.default_rng(2).normal(0, 3, 67).astype(dtype)
    x[5] = 3e9  # one lane of the sine takes the way by the C library
    for what in range(4):
        whole = activate(name, what, x)
        for start, stop in ((0, 1), (1, 18), (3, 66), (7, 7)):
            np.testing.assert_array_equal(activate(name, what, x[start:stop].copy()), whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bounded_activations_keep_their_bounds(isa: str, dtype: str) -> None:
    for name in ("tanh", "sin"):
        assert np.abs(activate(name, 0, arguments(name, dtype))).max() <= 1
    sigmoid = activate("sigmoid", 0, arguments("sigmoid", dtype))
    assert sigmoid.min() >= 0
    assert sigmoid.max() <= 1


def test_the_header_states_these_errors() -> None:
    header = Path(__file__).parents[2] / "csrc" / "simd" / "activations.h"
    comment = " ".join(line.lstrip("/ ") for line in header.read_text().splitlines() if line.startswith("//"))
    for dtype, bound in ULP.items():
        (stated,) = re.findall(rf"{dtype} ((?:[a-z_]+ [\d.]+(?:, )?)+) ulp", comment)
        figures = dict(re.findall(r"([a-z_]+) ([\d.]+)", stated))
        assert set(figures) == set(CURVED)
        assert max(map(float, figures.values())) <= bound
