# SPDX-License-Identifier: MIT
"""Ordered and cumulative products against a wider type: no worse than the plain loop in the same precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import tolerances
from tolerances import EPSILON
from wilson_cases import (
    BATCHES,
    DTYPES,
    LAYOUTS,
    SIZES,
    Array,
    assert_layout_is_free,
    dagger,
    error,
    links,
    norm,
    normal,
    real,
    unitary,
    wide,
    worst,
)
from wilson_families import LONG

from nnsym_fast import reference, wilson

LARGE_SIZES = (48, 64, 65, 130, 257)
LENGTHS = (1, 2, 5, 16, 3)


def prefixes(u: Array) -> Array:
    """The plain loop p = u_k p in the dtype of the links: all prefixes (..., T + 1, d, d)."""
    p = np.broadcast_to(np.eye(u.shape[-1], dtype=u.dtype), (*u.shape[:-3], *u.shape[-2:]))
    result = [p]
    for k in range(u.shape[-3]):
        p = u[..., k, :, :] @ p if k else u[..., 0, :, :]
        result.append(p)
    return np.stack(result, axis=-3)


def exact_prefixes(u: Array) -> Array:
    """The same in float64 for single precision, and in long double for double."""
    if real(u.dtype.name) == "float32" or not LONG:
        return prefixes(u.astype(wide(u.dtype.name)))
    return prefixes(u.astype(np.clongdouble if np.iscomplexobj(u) else np.longdouble))


def assert_as_good_as_the_loop(value: Array, loop: Array, exact: Array) -> None:
    """Over the ensemble of all matrices: median and largest error against those of the loop, see tolerances.py."""
    dtype = loop.dtype.name
    assert value.dtype == dtype
    ours, theirs = error(value, exact), error(loop, exact)
    floor = tolerances.PRODUCT_FLOOR * EPSILON[dtype]
    if not LONG and real(dtype) == "float64":  # float64 judges itself
        floor *= 10
    assert ours.max() <= tolerances.PRODUCT_OUTLIER * theirs.max() + floor
    if len(ours) * value.shape[-1] ** 2 >= tolerances.PRODUCT_MANY:
        assert np.median(ours) <= tolerances.PRODUCT_RATIO * np.median(theirs) + floor


class Paths(NamedTuple):
    """Links and all their prefixes, exact and by the loop."""

    u: Array
    exact: Array
    loop: Array


@cache
def paths(n: int, steps: int, d: int, dtype: str, spread: float, every: int = 1) -> Paths:
    """The same links on every instruction set; of the prefixes each of so many."""
    u = links(np.random.default_rng(100 * d + n), (n, steps, d, d), dtype, spread)
    return Paths(u, exact_prefixes(u)[:, ::every].copy(), prefixes(u)[:, ::every].copy())


# --- accuracy and shapes


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_every_size_and_batch(isa: str, dtype: str) -> None:
    """Ordered and cumulative; links with a spread of singular values, so that errors of every direction count."""
    for number, d in enumerate(SIZES):
        for n in BATCHES if d <= 10 else BATCHES[number % 3 :: 3]:
            u, exact, loop = paths(n, LENGTHS[(d + n) % 5], d, dtype, 0.5)
            assert_as_good_as_the_loop(wilson.ordered_product(u), loop[:, -1], exact[:, -1])
            assert_as_good_as_the_loop(wilson.cumulative_product(u), loop, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LARGE_SIZES)
def test_products_of_large_matrices(isa: str, dtype: str, d: int) -> None:
    for n, length in ((1, 3), (3, 2)) if d < 100 else ((1, 2),):
        u, exact, loop = paths(n, length, d, dtype, 0.5)
        assert_as_good_as_the_loop(wilson.ordered_product(u), loop[:, -1], exact[:, -1])
        assert_as_good_as_the_loop(wilson.cumulative_product(u), loop, exact)


LONG_PATHS = {1: (64, 4000), 2: (32, 5000), 3: (16, 3000), 4: (8, 2000), 5: (8, 1001), 16: (5, 1000)}
"""d -> paths that make an ensemble, and their steps."""


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LONG_PATHS)
def test_long_paths(isa: str, threads: Callable[[int], None], dtype: str, d: int, count: int) -> None:
    """One path at a time, cut into segments for the lanes and the threads."""
    threads(count)
    n, steps = LONG_PATHS[d]
    every = 50 if steps % 50 == 0 else 7
    u, exact, loop = paths(n, steps if real(dtype) == "float32" or steps == 1001 else 1000, d, dtype, 0.05, every)
    assert_as_good_as_the_loop(np.stack([wilson.ordered_product(path) for path in u]), loop[:, -1], exact[:, -1])
    assert_as_good_as_the_loop(np.stack([wilson.cumulative_product(path)[::every] for path in u]), loop, exact)
    start = wilson.cumulative_product(u[0])
    np.testing.assert_array_equal(start[0], np.eye(d))
    np.testing.assert_array_equal(start[1], u[0, 0])


def test_the_bounds_are_narrow() -> None:
    """Negative controls: half of the digits, and the order of the factors."""
    u = links(np.random.default_rng(0), (33, 16, 4, 4), "float64")
    exact, loop = exact_prefixes(u)[:, -1], prefixes(u)[:, -1]
    assert_as_good_as_the_loop(loop, loop, exact)
    with pytest.raises(AssertionError):
        assert_as_good_as_the_loop(loop * (1 + 100 * EPSILON["float64"]), loop, exact)
    assert worst(prefixes(u[:, ::-1])[:, -1], exact) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_steps_and_one_step(isa: str, dtype: str) -> None:
    """T = 0 gives the identity, T = 1 the link itself."""
    for d in (1, 2, 7, 16, 33, 65):
        u = links(np.random.default_rng(d), (5, 1, d, d), dtype)
        one = np.broadcast_to(np.eye(d, dtype=dtype), (5, d, d))
        np.testing.assert_array_equal(wilson.ordered_product(u), u[:, 0])
        np.testing.assert_array_equal(wilson.ordered_product(u[:, :0]), one)
        np.testing.assert_array_equal(wilson.cumulative_product(u), np.stack([one, u[:, 0]], axis=1))
        np.testing.assert_array_equal(wilson.cumulative_product(u[:, :0]), one[:, None])
        assert wilson.ordered_product(u[:, :0]).dtype == dtype


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (3, 0, 2), (1, 1, 2)])
def test_batch_axes(isa: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        for length in (0, 1, 4):
            for d in (1, 3, 17):
                u = links(np.random.default_rng(d), (*shape, length, d, d), dtype)
                value, every = wilson.ordered_product(u), wilson.cumulative_product(u)
                assert value.shape == (*shape, d, d)
                assert every.shape == (*shape, length + 1, d, d)
                assert value.dtype == every.dtype == dtype
                exact = prefixes(u.astype(wide(dtype)))
                assert worst(value, exact[..., -1, :, :]) <= tolerances.steps(dtype, length)
                assert worst(every, exact) <= tolerances.steps(dtype, length)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array]) -> None:
    for n, length, d in ((5, 3, 4), (1, 40, 3), (2, 3, 17)):
        u = links(np.random.default_rng(d), (n, length, d, d), dtype)
        assert_layout_is_free(wilson.ordered_product, u, layout)
        assert_layout_is_free(wilson.cumulative_product, u, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cumulative_entries_are_products_of_the_parts(isa: str, dtype: str) -> None:
    """P_k = product of u_0 ... u_{k-1}; P_T = (product from k on) P_k."""
    for n, length, d in ((9, 20, 3), (1, 300, 4), (3, 12, 12), (2, 6, 33)):
        u = links(np.random.default_rng(d), (n, length, d, d), dtype)
        every = wilson.cumulative_product(u).astype(wide(dtype))
        bound = tolerances.steps(dtype, length)
        for k in (0, 1, length // 3, length - 1, length):
            assert worst(wilson.ordered_product(u[:, :k]), every[:, k]) <= bound
            assert worst(wilson.ordered_product(u[:, k:]) @ every[:, k], every[:, -1]) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_paths_do_not_see_each_other(isa: str, dtype: str) -> None:
    """NaN, infinities and huge numbers in one path change no bit of the others."""
    for n, d in ((1, 3), (3, 1), (17, 2), (33, 4), (9, 8), (8, 16), (5, 33)):
        u = links(np.random.default_rng(d), (n + 2, 6, d, d), dtype)
        clean = wilson.ordered_product(u), wilson.cumulative_product(u)
        u[0, 3, 0, 0], u[-1, 1, -1, -1], u[-1, 2] = np.nan, np.inf, 1e30
        with np.errstate(all="ignore"):
            touched = wilson.ordered_product(u), wilson.cumulative_product(u)
        for before, after in zip(clean, touched, strict=True):
            np.testing.assert_array_equal(after[1:-1], before[1:-1])
        assert np.isnan(touched[0][0]).any()
        assert not np.isfinite(touched[0][-1]).all()
        np.testing.assert_array_equal(touched[1][0, :4], clean[1][0, :4])


# --- products of unitary matrices


def defect(p: Array) -> Array:
    """||p^H p - 1||"""
    p = p.astype(wide(p.dtype.name))
    return norm(dagger(p) @ p - np.eye(p.shape[-1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_unitary_links_stay_unitary(isa: str, dtype: str) -> None:
    """The drift is a random walk of roundings, and re-unitarising takes it away."""
    for n, length, d in ((9, 100, 2), (1, 4000, 3), (2, 1000, 4), (5, 200, 8), (3, 100, 16), (1, 30, 33)):
        u = unitary(np.random.default_rng(d), (n, length, d, d), dtype)
        assert defect(wilson.ordered_product(u)).max() <= tolerances.drift(dtype, length, d)
        every = wilson.cumulative_product(u)
        assert np.all(defect(every) <= tolerances.drift(dtype, length, d))
        clean = wilson.ordered_product(u, reunitarize=True)
        assert defect(clean).max() <= tolerances.unitary(dtype, d)
        assert worst(clean, every[:, -1].astype(wide(dtype))) <= tolerances.drift(dtype, length, d)
        assert defect(wilson.cumulative_product(u, reunitarize=True)).max() <= tolerances.unitary(dtype, d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 16, 33, 65])
def test_reunitarize_is_the_nearest_unitary_matrix(dtype: str, d: int) -> None:
    """v w^H of u = v s w^H; it commutes with unitary factors and leaves unitary matrices alone."""
    rng = np.random.default_rng(d)
    v, w = unitary(rng, (2, 7, d, d), dtype)
    noise = normal(rng, (7, d, d), dtype)
    u = v + (noise / norm(noise)[:, None, None] * 9e-3).astype(dtype)
    p = wilson.reunitarize(u)
    assert p.dtype == dtype
    bound = tolerances.unitary(dtype, d)
    assert defect(p).max() <= bound
    # The singular value decomposition errs by as much, in float64.
    assert norm(p - reference.reunitarize(u.astype(wide(dtype)))).max() <= 6 * bound
    assert norm(wilson.reunitarize(w @ u) - w @ p).max() <= 2 * bound
    assert norm(wilson.reunitarize(v) - v).max() <= bound
    assert defect(u).min() > 1e-3, "nothing to do"
    # The nearest: no other unitary matrix that is close to p is closer to u.
    turns = wilson.expm(1e-4 * (noise - dagger(noise)))
    assert np.all(norm(turns @ p - u) >= norm(p - u) * (1 - 1e-3))
