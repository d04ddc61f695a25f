# SPDX-License-Identifier: MIT
"""What an exponential obeys: group laws, its derivative, batches, memory layouts, numbers that are not finite."""

from __future__ import annotations

from collections.abc import Callable

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
    connection,
    dagger,
    norm,
    normal,
    unitary,
    wide,
    worst,
)
from wilson_exact import Exact, from_fixed

from nnsym_fast import _wilson, reference, wilson

LAW_SIZES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 33)


def condition(g: Array) -> float:
    return float((norm(g) * norm(np.linalg.inv(g))).max())


# --- group laws


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LAW_SIZES)
def test_one_parameter_groups(isa: str, dtype: str, d: int) -> None:
    """exp((s + t) A) = exp(s A) exp(t A), exp(A) exp(-A) = 1."""
    a = connection(np.random.default_rng(d), (9, d, d), dtype)
    p = wilson.expm(a)
    bound = tolerances.law(dtype, condition(p))
    for s, t in ((0.25, 0.75), (1.5, -0.5), (1.0, -1.0)):
        both = wilson.expm((s + t) * a)
        assert worst(wilson.expm(s * a) @ wilson.expm(t * a), both.astype(wide(dtype))) <= bound
    if d > 1:
        b = connection(np.random.default_rng(d + 1), (9, d, d), dtype)
        assert worst(p @ wilson.expm(b), wilson.expm(a + b).astype(wide(dtype))) > 1e-2, "only where A and B commute"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LAW_SIZES)
def test_transposes_conjugates_and_changes_of_basis(isa: str, dtype: str, d: int) -> None:
    """exp(A^T) = exp(A)^T, exp(A*) = exp(A)*, exp(g A g^-1) = g exp(A) g^-1."""
    rng = np.random.default_rng(d)
    a = connection(rng, (9, d, d), dtype)
    p = wilson.expm(a).astype(wide(dtype))
    bound = tolerances.law(dtype)
    assert worst(wilson.expm(np.swapaxes(a, -1, -2)), np.swapaxes(p, -1, -2)) <= bound
    assert worst(wilson.expm(np.conj(a)), np.conj(p)) <= bound
    g = unitary(rng, (9, d, d), dtype)
    assert worst(wilson.expm(g @ a @ dagger(g)), g @ p @ dagger(g)) <= bound
    if d > 1:
        assert worst(wilson.expm(np.swapaxes(a, -1, -2)), p) > 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LAW_SIZES)
def test_the_determinant_is_the_exponential_of_the_trace(isa: str, dtype: str, d: int) -> None:
    a = connection(np.random.default_rng(d), (9, d, d), dtype)
    p = wilson.expm(a).astype(wide(dtype))
    trace = np.trace(a.astype(p.dtype), axis1=1, axis2=2)
    np.testing.assert_allclose(np.linalg.det(p) / np.exp(trace), 1, atol=tolerances.law(dtype, condition(p)))
    turned = wilson.expm(a - dagger(a)).astype(p.dtype)
    assert worst(dagger(turned) @ turned, np.broadcast_to(np.eye(d), p.shape)) <= tolerances.law(dtype)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_blocks_do_not_mix(isa: str, dtype: str) -> None:
    """exp of a block diagonal matrix, for blocks of every pair of sizes around the lanes."""
    rng = np.random.default_rng(0)
    for first in (1, 3, 8, 15):
        for second in (1, 2, 9, 16):
            a, b = connection(rng, (first, first), dtype), connection(rng, (second, second), dtype)
            both = np.zeros((first + second, first + second), dtype)
            both[:first, :first], both[first:, first:] = a, b
            p = wilson.expm(both)
            bound = tolerances.law(dtype)
            assert worst(p[:first, :first], reference.expm(a.astype(wide(dtype)))) <= bound
            assert worst(p[first:, first:], reference.expm(b.astype(wide(dtype)))) <= bound
            assert not p[:first, first:].any()
            assert not p[first:, :first].any()


# --- batches, layouts, neighbours


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_and_batches(isa: str, dtype: str) -> None:
    """A matrix has one exponential, whatever batch it comes in: every size with every number of matrices."""
    for d in SIZES:
        a = connection(np.random.default_rng(d), (max(BATCHES), d, d), dtype)
        exact = reference.expm(a.astype(wide(dtype)))
        for n in BATCHES if d <= 9 else BATCHES[::3]:
            result = wilson.expm(a[:n])
            assert result.dtype == dtype
            assert worst(result, exact[:n]) <= tolerances.law(dtype)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3), (2, 0, 3), (1, 1, 1, 2)])
def test_batch_axes(isa: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        for d in (1, 3, 17):
            a = connection(np.random.default_rng(d), (*shape, d, d), dtype)
            result = wilson.expm(a)
            assert result.shape == a.shape
            assert result.dtype == dtype
            assert worst(result, reference.expm(a.astype(wide(dtype)))) <= tolerances.law(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array]) -> None:
    for d in (1, 4, 9, 33):
        assert_layout_is_free(wilson.expm, connection(np.random.default_rng(d), (5, d, d), dtype), layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 8, 16, 17, 33, 130])
def test_infinities_and_nan_stay_in_their_matrix(isa: str, dtype: str, d: int) -> None:
    n = 37 if d < 130 else 3
    a = connection(np.random.default_rng(d), (n, d, d), dtype)
    zeroed, poisoned = a.copy(), a.copy()
    bad = np.arange(1, n, 3)
    zeroed[bad] = 0
    for number, value in zip(bad, np.resize([np.nan, np.inf, -np.inf], len(bad)), strict=True):
        poisoned[number, number % d, (number // 2) % d] = value
    with np.errstate(invalid="ignore"):
        result = wilson.expm(poisoned)
    assert np.isnan(result[bad]).all()
    good = np.setdiff1d(np.arange(n), bad)
    assert worst(result[good], wilson.expm(zeroed)[good].astype(wide(dtype))) <= 4 * EPSILON[dtype]


def test_an_infinite_imaginary_part_is_not_finite(isa: str) -> None:
    a = np.zeros((3, 2, 2), np.complex64)
    a[1, 0, 1] = complex(0, np.inf)
    result = wilson.expm(a)
    assert np.isnan(result[1]).all()
    np.testing.assert_array_equal(result[[0, 2]], np.broadcast_to(np.eye(2), (2, 2, 2)))


# --- the derivative


def frechet_error(a: Array, e: Array, value: Array) -> float:
    """The largest error against the block matrix in wide arithmetic, over ||e|| and the size of the derivative."""
    exact = reference.expm_frechet(a.astype(wide(a.dtype.name)), e.astype(wide(a.dtype.name)))
    size = norm(e) * norm(reference.expm(a)) / a.shape[-1] ** 0.5
    return float((norm(value - exact) / np.maximum(norm(exact), size)).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [*SIZES, 48, 65])
def test_the_derivative_is_that_of_the_block_matrix(isa: str, dtype: str, d: int) -> None:
    """exp([[a, e], [0, a]]) = [[exp(a), L(a, e)], [0, exp(a)]], for norms from 1e-9 to 30."""
    rng = np.random.default_rng(d)
    for n, size in ((1, 1.0), (9, 1e-9), (17, 1e-2), (3, 3.0), (8, 12.0)):
        if d > 33 and n > 3:
            continue
        # Antihermitian for large norms, so that nothing grows.
        a = connection(rng, (n, d, d), dtype, min(size, 1.0))
        if size > 1:
            a = a - dagger(a)
            a *= a.real.dtype.type(size / 2)
        e = normal(rng, a.shape, dtype)
        value = _wilson.expm(a, e)
        assert value.dtype == dtype
        norm1 = np.abs(a).sum(axis=-2).max()
        assert frechet_error(a, e, value) <= tolerances.FRECHET * EPSILON[dtype] * (1 + norm1)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_derivative_against_exact_arithmetic(isa: str, dtype: str) -> None:
    """Integers with 256 bits after the point, for the block matrix."""
    rng = np.random.default_rng(0)
    for d in (1, 2, 3, 4):
        a, e = connection(rng, (5, d, d), dtype), normal(rng, (5, d, d), dtype)
        value = _wilson.expm(a, e)
        for point, tangent, found in zip(a, e, value, strict=True):
            blocks = from_fixed(Exact(np.block([[point, tangent], [0 * point, point]])).value)
            exact = blocks[:d, d:] + (1j * blocks[2 * d : 3 * d, d:] if dtype == "complex128" else 0)
            bound = tolerances.FRECHET * EPSILON[dtype] * (1 + np.abs(point).sum())
            assert worst(found, exact) <= bound
            assert worst(reference.expm_frechet(point, tangent), exact) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 17])
def test_the_derivative_is_linear_and_real_symmetric(isa: str, dtype: str, d: int) -> None:
    """L(a, x e + f) = x L(a, e) + L(a, f); L(a, a) = a exp(a); <f, L(a, e)> = <L(a^H, f), e>."""
    rng = np.random.default_rng(d)
    a, e, f = connection(rng, (7, d, d), dtype), normal(rng, (7, d, d), dtype), normal(rng, (7, d, d), dtype)
    bound = tolerances.law(dtype)
    along_e, along_f = (_wilson.expm(a, direction).astype(wide(dtype)) for direction in (e, f))
    x = a.dtype.type(-0.75)
    size = norm(along_e) + norm(along_f)
    assert np.all(norm(_wilson.expm(a, x * e + f) - (x * along_e + along_f)) <= bound * size)
    p = wilson.expm(a).astype(wide(dtype))
    assert np.all(norm(_wilson.expm(a, a) - a @ p) <= bound * norm(p))
    adjoint = _wilson.expm(np.ascontiguousarray(dagger(a)), f).astype(wide(dtype))
    left, right = (np.conj(f) * along_e).sum((1, 2)), (np.conj(adjoint) * e).sum((1, 2))
    assert np.all(np.abs(left - right) <= bound * norm(f) * norm(along_e))
    if d > 1:
        transposed = _wilson.expm(np.ascontiguousarray(np.swapaxes(a, -1, -2)), e).astype(wide(dtype))
        assert norm(transposed - along_e).min() > 1e-2


def test_the_derivative_is_what_exp_does(isa: str) -> None:
    """Central differences in float64: the error is that of h^2."""
    rng = np.random.default_rng(0)
    for dtype in ("float64", "complex128"):
        a, e = connection(rng, (4, 3, 3), dtype), normal(rng, (4, 3, 3), dtype)
        h = 1e-5
        difference = (wilson.expm(a + h * e) - wilson.expm(a - h * e)) / (2 * h)
        assert worst(difference, _wilson.expm(a, e)) <= 1e-8


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_a_derivative_that_is_not_finite_stays_in_its_matrix(isa: str, dtype: str) -> None:
    """In the point or in the tangent: the other matrices do not see it."""
    rng = np.random.default_rng(0)
    for d in (1, 3, 16, 33):
        a, e = connection(rng, (20, d, d), dtype), normal(rng, (20, d, d), dtype)
        exact = _wilson.expm(a, e)
        a[3, 0, -1], e[11, -1, 0] = np.nan, np.inf
        with np.errstate(invalid="ignore"):
            value = _wilson.expm(a, e)
        assert np.isnan(value[3]).any()
        assert not np.isfinite(value[11]).all()
        others = np.setdiff1d(np.arange(20), [3, 11])
        assert worst(value[others], exact[others].astype(wide(dtype))) <= 4 * EPSILON[dtype]
