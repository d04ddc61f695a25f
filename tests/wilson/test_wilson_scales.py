# SPDX-License-Identifier: MIT
"""Products that leave the range of their dtype: ``log_scale=True`` gives p and an exponent, for p 2^exponent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import tolerances
from tolerances import EPSILON
from wilson_cases import (
    DTYPES,
    LAYOUTS,
    Array,
    assert_layout_is_free,
    connection,
    links,
    real,
    unitary,
    wide,
    worst,
)

from nnsym_fast import reference, wilson

LIMIT = {"float32": 128, "float64": 1024}
"""The range of a dtype: 2^-LIMIT to 2^LIMIT."""

SHAPES = ((1, 5, 1), (9, 7, 2), (17, 12, 3), (33, 4, 4), (3, 9, 8), (5, 6, 16), (2, 5, 17), (2, 3, 33), (1, 3, 65))
"""Paths, steps, d."""


def scaled(p: Array, exponent: Array) -> Array:
    """p 2^exponent"""
    power = np.ldexp(p.real.dtype.type(1), exponent)[..., None, None]
    return p * power


def largest(p: Array) -> Array:
    return np.maximum(np.abs(p.real), np.abs(p.imag)).max(axis=(-2, -1))


def assert_normalised(p: Array, exponent: Array) -> None:
    assert exponent.dtype == np.int32
    assert exponent.shape == p.shape[:-2]
    assert np.all((largest(p) >= 0.5) & (largest(p) < 1))


def assert_same_value(ours: tuple[Array, Array], exact: tuple[Array, Array], bound: float) -> None:
    """p 2^e = q 2^f, where neither may be a number of the dtype; 1/2 - tiny and 1 - tiny may be one exponent apart."""
    assert np.abs(ours[1].astype(int) - exact[1]).max(initial=0) <= 1
    assert worst(scaled(ours[0], ours[1] - exact[1]), exact[0]) <= bound


def lifted(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, sign: int) -> Array:
    """Links of sizes 2^(sign 20) to 2^(sign 100) in single precision, up to 2^(sign 900) in double."""
    top = 0.8 * LIMIT[real(dtype)]
    exponent = rng.integers(20, int(top), shape[:-2])
    u = links(rng, shape, dtype, 0.3)
    return u * np.ldexp(u.real.dtype.type(1), sign * exponent)[..., None, None]


class Far(NamedTuple):
    """Links whose product leaves the range, and all prefixes with their exponents."""

    u: Array
    p: Array
    exponent: Array


@cache
def far(shape: tuple[int, ...], dtype: str, sign: int) -> Far:
    """The same on every instruction set."""
    u = lifted(np.random.default_rng(shape), shape, dtype, sign)
    return Far(u, *reference.cumulative_product(u.astype(wide(dtype)), log_scale=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ordinary_products_differ_by_a_power_of_two(isa: str, dtype: str) -> None:
    """Where nothing over- or underflows normalising is exact: not a bit is lost."""
    for n, length, d in SHAPES:
        u = links(np.random.default_rng(d), (n, length, d, d), dtype, 0.3)
        p, exponent = wilson.ordered_product(u, log_scale=True)
        assert_normalised(p, exponent)
        np.testing.assert_array_equal(scaled(p, exponent), wilson.ordered_product(u))
        every, exponents = wilson.cumulative_product(u, log_scale=True)
        assert_normalised(every, exponents)
        np.testing.assert_array_equal(scaled(every, exponents), wilson.cumulative_product(u))
        assert np.all(exponents[:, 0] == 1), "1 = 1/2 2^1"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_products_far_outside_the_range(isa: str, dtype: str, sign: int) -> None:
    for n, length, d in SHAPES:
        length *= 5
        u, p, exponent = far((n, length, d, d), dtype, sign)
        bound = tolerances.steps(dtype, length)
        assert np.all(np.abs(exponent[:, -1]) > LIMIT[real(dtype)] // 2)
        ours = wilson.ordered_product(u, log_scale=True)
        assert_normalised(*ours)
        assert_same_value(ours, (p[:, -1], exponent[:, -1]), bound)
        with np.errstate(all="ignore"):
            plain = wilson.ordered_product(u)
        if length > 20:
            assert not np.isfinite(plain).all() if sign > 0 else not plain.any(), "a negative control"
        ours = wilson.cumulative_product(u, log_scale=True)
        assert_normalised(*ours)
        assert_same_value(ours, (p, exponent), bound)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_paths(isa: str, threads: Callable[[int], None], dtype: str, count: int) -> None:
    """One path that is cut into segments: every segment over- or underflows."""
    threads(count)
    for d, length in ((1, 3000), (2, 2000), (4, 1000), (16, 400)):
        for sign in (1, -1):
            u, p, exponent = far((length, d, d), dtype, sign)
            bound = tolerances.steps(dtype, length)
            assert abs(exponent[-1]) > 50 * LIMIT[real(dtype)]
            ours = wilson.ordered_product(u, log_scale=True)
            assert_normalised(*ours)
            assert_same_value(ours, (p[-1], exponent[-1]), bound)
            ours = wilson.cumulative_product(u, log_scale=True)
            assert_normalised(*ours)
            assert_same_value(ours, (p, exponent), bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two_are_exact(isa: str, dtype: str) -> None:
    """Permutations times powers of two: the sum of the powers, and the product of the permutations."""
    rng = np.random.default_rng(0)
    for n, length, d in ((1, 4000, 2), (3, 40, 3), (17, 300, 4), (2, 50, 16), (2, 20, 33)):
        perm = np.argsort(rng.random((n, length, d)), axis=-1)
        matrices = np.eye(d, dtype=dtype)[perm]
        power = rng.integers(-90, 100, (n, length))
        u = matrices * np.ldexp(np.ones((), real(dtype)), power)[..., None, None]
        p, exponent = wilson.ordered_product(u, log_scale=True)
        np.testing.assert_array_equal(exponent, power.sum(axis=1) + 1)
        np.testing.assert_array_equal(2 * p, wilson.ordered_product(matrices))


@pytest.mark.parametrize("dtype", DTYPES)
def test_growth_and_decay_cancel(isa: str, dtype: str) -> None:
    """A product that leaves the range on its way and comes back: (2^a u)(2^-a v) = u v."""
    for n, d in ((1, 2), (9, 3), (2, 16), (1, 33)):
        u = links(np.random.default_rng(d), (n, 8, d, d), dtype)
        big = u.real.dtype.type(2.0 ** (LIMIT[real(dtype)] // 2))
        away = np.concatenate([u[:, :4] * big, u[:, 4:] / big], axis=1)
        p, exponent = wilson.ordered_product(away, log_scale=True)
        np.testing.assert_array_equal(scaled(p, exponent), wilson.ordered_product(u))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_what_is_not_finite_have_exponent_zero(isa: str, dtype: str) -> None:
    for n, d in ((5, 1), (5, 2), (9, 3), (6, 16), (5, 33)):
        u = links(np.random.default_rng(d), (n, 6, d, d), dtype) * 8
        clean = wilson.cumulative_product(u, log_scale=True)
        u[1, 3], u[2, 4, 0, 0], u[3, 2, -1, 0] = 0, np.nan, np.inf
        with np.errstate(invalid="ignore"):
            p, exponent = wilson.ordered_product(u, log_scale=True)
            every, exponents = wilson.cumulative_product(u, log_scale=True)
        assert not p[1].any()
        assert np.isnan(p[2]).any()
        assert not np.isfinite(p[3]).all()
        assert exponent[1:4].tolist() == [0, 0, 0]
        np.testing.assert_array_equal(exponents[1, 4:], 0)
        assert not every[1, 4:].any()
        # Before it happens, and in the other paths, nothing changes.
        np.testing.assert_array_equal(every[1, :4], clean[0][1, :4])
        np.testing.assert_array_equal(exponents[2, :5], clean[1][2, :5])
        for path in (0, 4):
            np.testing.assert_array_equal(every[path], clean[0][path])
            np.testing.assert_array_equal(exponents[path], clean[1][path])
            np.testing.assert_array_equal(p[path], every[path, -1])


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_shapes(isa: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        for length in (0, 1, 3):
            u = 4 * unitary(np.random.default_rng(0), (*shape, length, 2, 2), dtype)
            p, exponent = wilson.ordered_product(u, log_scale=True)
            every, exponents = wilson.cumulative_product(u, log_scale=True)
            assert p.shape == (*shape, 2, 2)
            assert every.shape == (*shape, length + 1, 2, 2)
            assert p.dtype == every.dtype == dtype
            assert_normalised(p, np.asarray(exponent))
            assert_normalised(every, exponents)
            exact = reference.ordered_product(u.astype(wide(dtype)))
            assert worst(scaled(p, exponent), exact) <= tolerances.steps(dtype, length)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: Callable[[Array], Array]) -> None:
    u = links(np.random.default_rng(0), (3, 4, 5, 5), "complex64") * 1e3
    assert_layout_is_free(lambda links: wilson.ordered_product(links, log_scale=True)[0], u, layout)
    assert_layout_is_free(lambda links: wilson.cumulative_product(links, log_scale=True)[0], u, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wilson_lines(isa: str, dtype: str) -> None:
    """exp of a constant w = c 1 + skew over a long time: the exponent is that of e^(c T)."""
    for d in (1, 2, 3, 16):
        w = connection(np.random.default_rng(d), (4, 1, d, d), dtype, 0.3)
        growth = np.array([12.0, -12.0, 0.25, 0.0])[:, None, None, None]
        w = w - np.conj(np.swapaxes(w, -1, -2)) + growth * np.eye(d)
        w = np.broadcast_to(w.astype(dtype), (4, 120, d, d))
        for cumulative in (False, True):
            ours = wilson.wilson_line(w, 0.9, log_scale=True, cumulative=cumulative)
            exact = reference.wilson_line(w.astype(wide(dtype)), 0.9, log_scale=True, cumulative=cumulative)
            assert_normalised(*ours)
            # An exponential errs by about epsilon times its exponent, the same in every step: together 1300.
            assert_same_value(ours, exact, tolerances.steps(dtype, 120) + 4 * 1300 * EPSILON[dtype])
        assert exact[1][0, -1] > 1500
        assert exact[1][1, -1] < -1500
