# SPDX-License-Identifier: MIT
"""Autocorrelation times and errors, on series whose answers are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from phi4_cases import SIGMAS

from nnsym_fast.physics import autocorrelation, estimate

RHO = (0.0, 0.5, 0.9)


def autoregressive(rho: float, chains: int, length: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """x_t = rho x_{t-1} + noise, in equilibrium with variance 1: tau = (1 + rho) / (2 (1 - rho))."""
    noise = np.random.default_rng(seed).normal(size=(chains, length))
    x = np.empty_like(noise)
    x[:, 0] = noise[:, 0]
    for t in range(1, length):
        x[:, t] = rho * x[:, t - 1] + (1 - rho**2) ** 0.5 * noise[:, t]
    return x


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("chains", [1, 8])
def test_autocorrelation_time_of_an_autoregressive_series(rho: float, chains: int) -> None:
    exact = (1 + rho) / (2 * (1 - rho))
    tau, error = autocorrelation(autoregressive(rho, chains, 16_000 // chains))
    assert abs(tau - exact) < SIGMAS * error
    assert error < 0.15 * exact


@pytest.mark.parametrize("rho", RHO)
def test_errors_cover_the_truth(rho: float) -> None:
    """Over 300 series the mean deviates by its stated error: two thirds within one, and the squares average to 1."""
    found = [estimate(autoregressive(rho, 1, 1000, seed)) for seed in range(300)]
    pulls = np.array([one.value / one.error for one in found])
    assert np.mean(pulls**2) == pytest.approx(1, abs=SIGMAS * (2 / 300) ** 0.5)
    naive = np.array([one.value * 1000**0.5 for one in found])
    if rho == 0.9:
        assert np.mean(naive**2) > 10, "negative control: errors that know no autocorrelation are wrong"


def test_error_of_a_function_of_averages() -> None:
    """A ratio of two correlated averages, whose error the projected series gives."""
    pulls = []
    for seed in range(200):
        x = autoregressive(0.5, 1, 1000, seed)[0]
        y = 2 + 0.5 * x + 0.3 * np.random.default_rng(1000 + seed).normal(size=1000)
        found = estimate(x + 1, y, function=lambda a, b: a / b)
        pulls.append((found.value - 0.5) / found.error)
    assert np.mean(np.square(pulls)) == pytest.approx(1, abs=SIGMAS * (2 / 200) ** 0.5)


def test_a_constant_has_no_error() -> None:
    assert estimate(np.full((2, 50), 3.0)) == (3.0, 0.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (np.zeros(3), ValueError, "x: expected shape"),
        (np.zeros((2, 3, 4)), ValueError, "x: expected shape"),
        (np.array([1.0, np.nan, 2.0, 3.0]), ValueError, "1 that are not"),
        (np.zeros(8, complex), TypeError, "x: expected real numbers"),
    ],
)
def test_wrong_series(x: npt.NDArray[np.generic], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        autocorrelation(x)


def test_series_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="function: expected"):
        estimate(np.zeros(5), np.zeros(5))
    with pytest.raises(ValueError, match="series: expected equal shapes"):
        estimate(np.zeros(5), np.zeros(6), function=lambda a, b: a - b)
