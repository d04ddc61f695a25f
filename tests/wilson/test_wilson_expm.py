# SPDX-License-Identifier: MIT
"""The exponential of a matrix against exact values and against scipy in the same precision.

The ensembles: Gaussian matrices of every decade of norm, nilpotent, defective, overscaled (non-normal), stiff and
antihermitian ones. All matrices of one size go into one call, shuffled, so that each stands beside matrices that need
other degrees and other numbers of squarings.
"""

from __future__ import annotations

from collections import defaultdict

import mpmath
import numpy as np
import pytest
import tolerances
from tolerances import EPSILON
from wilson_cases import DTYPES, Array, connection, error, real, wide, worst
from wilson_exact import BITS, Exact, from_fixed
from wilson_families import LARGE, SMALL, Family, Sample, Wide, conditioning, gaussian, samples, scipy_expm, textbook

from nnsym_fast import reference, wilson

# --- the judges


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_exact_exponential_is_that_of_mpmath(dtype: str) -> None:
    """50 digits of mpmath against integers with 256 bits after the point, about 77 digits."""
    ends = [sample for sample in samples(3, dtype) if sample.family.size in (1e-12, 1e4)]
    hard = [sample for sample in samples(2, dtype) if sample.family.kind in ("textbook", "nilpotent", "overscaled")]
    chosen = ends + hard
    assert len(chosen) > 20
    with mpmath.workdps(60):
        for sample in chosen[::8]:
            exact = mpmath.expm(mpmath.matrix(sample.matrix.tolist()))
            d = len(sample.matrix)
            ours = [[mpmath.mpf(int(number)) / 2**BITS for number in row] for row in sample.exact.value]
            difference = mpmath.matrix(ours[:d]) + 1j * mpmath.matrix(ours[d:] or d) - exact
            assert mpmath.norm(difference) < mpmath.mpf(10) ** -50 * (1 + mpmath.norm(exact))


def test_the_judge_sees_the_last_bit() -> None:
    a = np.array([[0.3, -1.1], [0.7, 0.2]])
    exact = Exact(a)
    p = from_fixed(exact.value)
    assert exact.error(p) <= EPSILON["float64"] / 2
    assert exact.error(np.nextafter(np.nextafter(p, 9), 9)) > EPSILON["float64"] / 2
    p[1, 1] = np.nan
    assert exact.error(p) == np.inf


def test_the_condition_number_predicts_what_a_change_does() -> None:
    rng = np.random.default_rng(0)
    for a in (gaussian(rng, 4, "float64", 3.0), gaussian(rng, 4, "float64", 100.0), textbook(rng, 2, "float64", 100.0)):
        exact = reference.expm(a)
        changes = rng.standard_normal((200, *a.shape)) * 1e-9 * np.linalg.norm(a)
        changes /= np.linalg.norm(changes, axis=(1, 2), keepdims=True) / (1e-9 * np.linalg.norm(a))
        seen = error(reference.expm(a + changes), np.broadcast_to(exact, changes.shape)).max() / 1e-9
        assert 0.3 * conditioning(a) < seen < 1.1 * conditioning(a)


# --- accuracy


def failures(dtype: str, ensemble: tuple[Sample, ...], values: Array) -> list[str]:
    """What breaks the bounds of tolerances.py, in words; empty if all is well."""
    epsilon = EPSILON[dtype]
    floor, of_input = tolerances.EXPM_FLOOR * epsilon, tolerances.EXPM_INPUT * epsilon
    found = []
    kinds, alike = defaultdict(list), defaultdict(list)
    for sample, value in zip(ensemble, values, strict=True):
        e = sample.exact.error(value)
        kinds[sample.family.kind].append(e <= tolerances.EXPM_RATIO * sample.scipy + floor)
        alike[sample.family].append((e, sample))
    for kind, within in kinds.items():
        if len(within) >= tolerances.EXPM_MANY and 2 * sum(within) <= len(within):
            found.append(f"{kind}: only {sum(within)} of {len(within)} within the bound of scipy")
    for family, members in alike.items():
        peer = max(sample.scipy for _, sample in members)
        for e, sample in members:
            name = f"{family.kind} {family.size:g}: {e:.3g}, scipy at most {peer:.3g}"
            if not e <= tolerances.EXPM_RATIO * peer + floor and not e <= floor + of_input * sample.condition:
                found.append(f"{name}, condition {sample.condition:.3g}")
            if real(dtype) == "float32" and not e <= tolerances.EXPM_FLOAT32:
                limit = tolerances.EXPM_CONDITIONED / epsilon
                # The direction 1 gives a lower bound, ||a|| / sqrt(d), which is cheap.
                if np.linalg.norm(sample.matrix) <= limit * len(sample.matrix) ** 0.5 and sample.condition <= limit:
                    found.append(f"{name}, although the condition is {sample.condition:.3g}")
    return found


def stack(ensemble: tuple[Sample, ...]) -> Array:
    return np.stack([sample.matrix for sample in ensemble])


@pytest.mark.parametrize("d", SMALL + LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracy(isa: str, dtype: str, d: int) -> None:
    ensemble = samples(d, dtype)
    values = wilson.expm(stack(ensemble))
    assert values.dtype == dtype
    assert not failures(dtype, ensemble, values)


def test_the_bounds_are_narrow() -> None:
    """Negative controls: a Taylor series in the same precision without scaling, and 5 epsilon more everywhere."""
    ensemble = samples(4, "float32")
    a = stack(ensemble)
    with np.errstate(over="ignore", invalid="ignore"):
        term = total = np.broadcast_to(np.eye(4, dtype=np.float32), a.shape)
        for k in range(1, 40):
            term = term @ a / np.float32(k)
            total = total + term
    wrong = failures("float32", ensemble, total)
    assert {words.split(":")[0] for words in wrong} >= {"skew", "stiff", "skew 30", "gaussian 100"}
    exact = scipy_expm(a.astype(np.float64)).astype(np.float32)
    assert not failures("float32", ensemble, exact)
    assert len(failures("float32", ensemble, exact * np.float32(1 + 5 * EPSILON["float32"]))) > 10


@pytest.mark.parametrize("d", [2, 5])
def test_the_reference_is_as_good_as_the_conditioning(d: int) -> None:
    """The reference scales by the norm and squares in float64, so 2^s epsilon, where 2^s is at most 8 ||a||."""
    for dtype in ("float64", "complex128"):
        for sample in samples(d, dtype):
            e = sample.exact.error(reference.expm(sample.matrix))
            assert e <= EPSILON[dtype] * (4 + 8 * max(conditioning(sample.matrix), np.linalg.norm(sample.matrix)))


@pytest.mark.parametrize(("dtype", "d", "count"), [("float32", 130, 2), ("complex64", 130, 1), ("float32", 257, 1)])
def test_large_matrices(dtype: str, d: int, count: int) -> None:
    """A size for which the matrix products are those of a BLAS."""
    a = connection(np.random.default_rng(d), (count, d, d), dtype, 1.5)
    kind = Family("connection", 1.5, gaussian, (d,))
    ensemble = tuple(Sample(kind, m, Wide(m), Wide(m).error(scipy_expm(m))) for m in a)
    assert not failures(dtype, ensemble, wilson.expm(a))


def test_numbers_are_exponentials(isa: str) -> None:
    """d = 1 is the function of every dtype, and an exponential that leaves its range is infinite or 0."""
    for dtype in DTYPES:
        x = np.concatenate([np.linspace(-80, 80, 801), np.geomspace(1e-12, 1, 100)]).astype(dtype)[:, None, None]
        if dtype.startswith("complex"):
            x = x + 1j * x[::-1]
        exact = np.exp(x.astype(np.clongdouble if dtype.startswith("complex") else np.longdouble))
        errors = error(wilson.expm(x), exact) / (EPSILON[dtype] * (1 + np.abs(x[:, 0, 0])))
        assert errors.max() <= tolerances.EXPM_NUMBERS
        assert np.median(errors) <= 1
    with np.errstate(all="ignore"):
        ends = wilson.expm(np.array([-1e4, 1e4, -2000.0, 2000.0])[:, None, None])[:, 0, 0]
    np.testing.assert_array_equal(ends, [0, np.inf, 0, np.inf])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gives_the_identity(isa: str, dtype: str) -> None:
    for d in (*SMALL, 8, 16, 17, 33):
        result = wilson.expm(np.zeros((3, d, d), dtype))
        np.testing.assert_array_equal(result, np.broadcast_to(np.eye(d, dtype=dtype), result.shape))


def test_the_worst_case_of_overscaling(isa: str) -> None:
    """[[1, b], [0, -1]]: exp = cosh(1) + sinh(1) a. Squaring 20 times would leave nothing of float32."""
    for b in (1e2, 1e6, 1e10):
        a = np.array([[1, b], [0, -1]])
        exact = np.cosh(1) * np.eye(2) + np.sinh(1) * a
        for dtype in DTYPES:
            ours = wilson.expm(a.astype(dtype))
            rounded = np.abs(a - a.astype(dtype)).max() / b
            assert worst(ours, exact.astype(wide(dtype))) <= 8 * EPSILON[dtype] + rounded
            # Also the entries that the norm does not see, up to what rounding of b alone does to them: nothing.
            np.testing.assert_allclose(np.diagonal(ours), [np.e, 1 / np.e], rtol=64 * EPSILON[dtype] * np.log2(b))
