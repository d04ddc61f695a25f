# SPDX-License-Identifier: MIT
"""The array level: transport of any x0 along every kind of path, against a slow model in wide arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import tolerances
from wilson_cases import (
    BATCHES,
    DTYPES,
    NODES,
    Array,
    connection,
    links,
    model_links,
    model_states,
    norm,
    normal,
    real,
    wide,
    worst,
)

from nnsym_fast import _wilson

ORDERS = (0, 2, 4, 6)
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 17, 24, 31, 32, 33, 48, 65)
LARGE = {"float32": 200, "float64": 200, "complex64": 130, "complex128": 130}
"""Sizes for a BLAS."""

LENGTHS = (3, 1, 5, 2, 8)


class Case(NamedTuple):
    """What the array level takes."""

    w: Array
    dt: Array | None
    x0: Array | None


def case(n: int, steps: int, d: int, c: int | None, order: int, dtype: str, shape: tuple[int, int]) -> Case:
    """Random links (order 0) or a random connection; dt of the given shape; x0 with c columns, None for 1."""
    rng = np.random.default_rng([n, steps, d, order])
    w = (connection if order else links)(rng, (n, steps, NODES[order], d, d), dtype)
    dt = rng.uniform(0.1, 0.4, shape).astype(real(dtype)) if order else None
    return Case(w, dt, None if c is None else normal(rng, (n, d, c), dtype))


def columns(d: int) -> tuple[int | None, ...]:
    return (None, 1, 2, d, d + 3)


def cases(order: int, dtype: str) -> Iterator[Case]:
    """Every size, over the orders with every number of columns; paths, steps and the shape of dt go round."""
    number = 0
    for d in (*SIZES, LARGE[dtype]):
        some = columns(d)[order // 2 % 2 :: 2 if order else 1]
        for c in some if d <= 17 else some[: 2 if d < 100 else 1]:
            number += 1
            n = BATCHES[number % len(BATCHES)] if d <= 17 else (2, 1, 3)[number % 3] if d < 100 else 1
            steps = LENGTHS[number % 5] if d <= 33 else 2
            shape = ((1, 1), (n, 1), (1, steps), (n, steps))[number % 4]
            yield case(n, steps, d, c, order, dtype, shape)


@cache
def solved(order: int, dtype: str) -> tuple[tuple[Case, Array], ...]:
    """The cases with their exact states, the same on every instruction set."""
    return tuple((one, model_states(model_links(one.w, one.dt, order), one.x0)) for one in cases(order, dtype))


def off(value: Array, exact: Array) -> float:
    """The largest error of the states of a path over the largest of its states: x may become small."""
    assert value.shape == exact.shape
    size = norm(exact).reshape(len(exact), -1).max(axis=1, initial=1e-300)
    return float((norm(value - exact) / size.reshape(-1, *[1] * (exact.ndim - 3))).max(initial=0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_transport(isa: str, dtype: str, order: int) -> None:
    """X_k = U_k X_{k-1}, the last and all of them."""
    for (w, dt, x0), exact in solved(order, dtype):
        bound = tolerances.steps(dtype, w.shape[1])
        last, nothing = _wilson.transport(w, dt, x0, None, order, False, False)
        every, none = _wilson.transport(w, dt, x0, None, order, True, False)
        assert nothing is None
        assert none is None
        assert last.dtype == every.dtype == dtype
        assert last.flags.c_contiguous
        assert every.flags.c_contiguous
        assert off(last, exact[:, -1]) <= bound
        assert off(every, exact) <= bound
        np.testing.assert_array_equal(every[:, 0], exact[:, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_transport_with_kicks(isa: str, dtype: str) -> None:
    """X_k = U_k X_{k-1} + b_k, from x0 and from 1."""
    for (w, _, x0), _ in solved(0, dtype):
        c = w.shape[-1] if x0 is None else x0.shape[-1]
        b = normal(np.random.default_rng(1), (*w.shape[:2], w.shape[-1], c), dtype)
        exact = model_states(model_links(w, None, 0), x0, b)
        bound = tolerances.steps(dtype, w.shape[1])
        last, _ = _wilson.transport(w, None, x0, b, 0, False, False)
        every, _ = _wilson.transport(w, None, x0, b, 0, True, False)
        assert last.dtype == every.dtype == dtype
        assert off(last, exact[:, -1]) <= bound
        assert off(every, exact) <= bound


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_transport_with_exponents(isa: str, dtype: str, order: int) -> None:
    """X_k = out_k 2^exponent_k with the largest part of out_k in [1/2, 1), and the plain states to the last bit."""
    for (w, dt, x0), _ in solved(order, dtype)[::2]:
        plain = _wilson.transport(w, dt, x0, None, order, True, False)[0]
        last, exponent = _wilson.transport(w, dt, x0, None, order, False, True)
        every, exponents = _wilson.transport(w, dt, x0, None, order, True, True)
        assert exponent is not None
        assert exponents is not None
        assert exponent.dtype == exponents.dtype == np.int32
        assert exponent.shape == w.shape[:1]
        assert exponents.shape == plain.shape[:2]
        for p, e in ((last, exponent), (every, exponents)):
            largest = np.maximum(np.abs(p.real), np.abs(p.imag)).max(axis=(-2, -1))
            assert np.all((largest >= 0.5) & (largest < 1))
            value = p * np.ldexp(p.real.dtype.type(1), e)[..., None, None]
            exact = plain[:, -1] if p is last else plain
            assert off(value, exact.astype(wide(dtype))) <= tolerances.steps(dtype, w.shape[1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_do(isa: str, dtype: str, order: int) -> None:
    """No steps leave x0 alone; no paths give an empty result."""
    for d in (1, 3, 17, LARGE[dtype]):
        for c in (None, 2):
            for n, steps in ((0, 3), (3, 0), (0, 0)):
                w, dt, x0 = case(n, steps, d, c, order, dtype, (1, 1))
                start = np.broadcast_to(np.eye(d, dtype=dtype), (n, d, d)) if x0 is None else x0
                last, _ = _wilson.transport(w, dt, x0, None, order, False, False)
                every, _ = _wilson.transport(w, dt, x0, None, order, True, False)
                np.testing.assert_array_equal(last, start)
                assert every.shape == (n, steps + 1, *start.shape[1:])
                np.testing.assert_array_equal(every[:, :1], start[:, None])


@cache
def long_paths(order: int) -> tuple[tuple[Case, Array], ...]:
    """Few paths of many steps, which nothing divides evenly."""
    found = []
    for dtype in DTYPES:
        for d, steps in ((1, 1003), (2, 517), (4, 263), (9, 131), (16, 65)):
            for n, c in ((1, None), (2, 1), (1, 3)):
                w, dt, x0 = case(n, steps, d, c, order, dtype, ((1, 1), (n, steps))[n % 2])
                if order:
                    w = (w - np.conj(np.swapaxes(w, -1, -2))).astype(dtype)  # nothing grows
                found.append((Case(w, dt, x0), model_states(model_links(w, dt, order), x0)))
    return tuple(found)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_long_paths(isa: str, threads: Callable[[int], None], order: int, count: int) -> None:
    """They are cut into segments, one for each lane and thread."""
    threads(count)
    for (w, dt, x0), exact in long_paths(order):
        bound = tolerances.steps(w.dtype.name, w.shape[1])
        assert off(_wilson.transport(w, dt, x0, None, order, False, False)[0], exact[:, -1]) <= bound
        assert off(_wilson.transport(w, dt, x0, None, order, True, False)[0], exact) <= bound
        if order == 0:
            b = normal(np.random.default_rng(0), (w.shape[0], 40, *exact.shape[2:]), w.dtype.name)
            u = np.ascontiguousarray(w[:, :40])
            kicked = model_states(model_links(u, None, 0), x0, b)
            assert off(_wilson.transport(u, None, x0, b, 0, True, False)[0], kicked) <= bound


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_threads_change_no_bit_of_many_paths(isa: str, threads: Callable[[int], None], dtype: str) -> None:
    for d, n in ((2, 700), (3, 333), (8, 130), (17, 40), (33, 12)):
        for order in ORDERS:
            w, dt, _ = case(n, 4, d, None, order, dtype, (n, 4))
            results = []
            for count in (1, 2):
                threads(count)
                results.append(_wilson.transport(w, dt, None, None, order, True, False)[0])
            np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_path_does_not_depend_on_its_batch(isa: str, dtype: str) -> None:
    """The same path first, last and alone among others of other norms: equal up to rounding."""
    for d in (1, 2, 3, 4, 8, 16, 17, 33):
        for order in (2, 4, 6):
            w, dt, _ = case(17, 3, d, None, order, dtype, (1, 1))
            w[1:] *= (10.0 ** np.linspace(-6, 0.5, 16)[:, None, None, None, None]).astype(real(dtype))
            w[-1] = w[0]
            together = _wilson.transport(w, dt, None, None, order, False, False)[0]
            alone = _wilson.transport(w[:1].copy(), dt, None, None, order, False, False)[0]
            exact = model_states(model_links(w, dt, order), None)[:, -1]
            # Norms of 3 add up over the steps.
            assert worst(together, exact) <= 4 * tolerances.steps(dtype, 3)
            assert worst(together[[0, -1]], exact[[0, -1]]) <= tolerances.steps(dtype, 3)
            assert worst(alone, exact[:1]) <= tolerances.steps(dtype, 3)


def test_inputs_are_only_read(isa: str) -> None:
    for order in ORDERS:
        for d, steps in ((3, 20), (17, 20), (200, 2)):
            arguments = case(2, steps, d, 2, order, "float64", (2, steps))
            before = [None if array is None else array.copy() for array in arguments]
            for cumulative in (False, True):
                _wilson.transport(*arguments, None, order, cumulative, True)
                _wilson.transport(*arguments, None, order, cumulative, False)
            for old, new in zip(before, arguments, strict=True):
                if old is not None:
                    np.testing.assert_array_equal(old, new)
