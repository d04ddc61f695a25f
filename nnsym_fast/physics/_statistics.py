# SPDX-License-Identifier: MIT
"""Errors of Monte Carlo averages: autocorrelations are measured, not assumed away (the Gamma method).

Madras, Sokal, J. Stat. Phys. 50 (1988) 109; Wolff, Comput. Phys. Commun. 156 (2004) 143, of which equations are cited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "autocorrelation", "estimate"]

Array = npt.NDArray[np.float64]

WINDOW = 1.5
"""Wolff's S: where the window is chosen, the slowest decay is assumed to take this multiple of the integrated time."""


class Estimate(NamedTuple):
    """An average and its standard error, with the integrated autocorrelation time and the error of that."""

    value: float
    error: float
    tau: float
    tau_error: float


def _series(x: npt.ArrayLike) -> Array:
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"x: expected real numbers, got dtype {array.dtype}; give real and imaginary parts apart")
    array = np.atleast_2d(array.astype(np.float64))
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 4:
        raise ValueError(
            f"x: expected shape (T,) or (chains, T) with T >= 4, got {np.shape(x)}; measure more often, or longer"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"x: expected finite numbers, got {int((~np.isfinite(array)).sum())} that are not")
    return array


def autocovariance(x: Array) -> Array:
    """Gamma(t) of (chains, T) around the common mean, averaged over the chains: (T,) (Wolff, equation 31)."""
    length = x.shape[1]
    deviation = x - x.mean()
    transform = np.fft.rfft(deviation, 2 * length, axis=1)
    products = np.fft.irfft((transform * transform.conj()).real, 2 * length, axis=1)[:, :length].mean(axis=0)
    return np.asarray(products / (length - np.arange(length)))


def _window(tau_of: Array, count: int) -> int:
    """The first window in which the statistical error outgrows the systematic one (Wolff, equations 50-52)."""
    for w in range(1, len(tau_of)):
        tau = WINDOW / math.log((2 * tau_of[w] + 1) / (2 * tau_of[w] - 1)) if tau_of[w] > 0.5 else 1e-12
        if math.exp(-w / tau) - tau / math.sqrt(w * count) < 0:
            return w
    return len(tau_of) - 1


def _analyse(x: Array) -> tuple[float, float, float]:
    """Standard error of the mean, tau, its error."""
    count, length = x.size, x.shape[1]
    gamma = autocovariance(x)
    if gamma[0] <= 0:
        return 0.0, 0.5, 0.0
    rho = gamma[: max(2, length // 2)] / gamma[0]
    tau_of = 0.5 + np.concatenate([[0.0], np.cumsum(rho[1:])])
    window = _window(tau_of, count)
    # The mean was subtracted, so Gamma is too small by its variance (Wolff, equation 49).
    variance = 2 * tau_of[window] * gamma[0]
    gamma = gamma + variance / count
    tau = float(0.5 + (gamma[1 : window + 1] / gamma[0]).sum())
    error = math.sqrt(max(2 * tau * gamma[0], 0.0) / count)
    return error, tau, tau * math.sqrt(4 * (window + 0.5 - tau) / count) if window + 0.5 > tau else 0.0


def autocorrelation(x: npt.ArrayLike) -> tuple[float, float]:
    """Integrated autocorrelation time of a series, tau = 1/2 + sum over t >= 1 of Gamma(t) / Gamma(0).

    The sum ends at the window where statistical and systematic error balance (Madras, Sokal 1988; Wolff 2004, S = 1.5).
    An average of T numbers has as much information as T / (2 tau) independent ones.

    Args:
        x: real numbers, ``(T,)``, or ``(chains, T)`` for independent chains of the same process.

    Returns:
        tau, in units of the distance of two numbers (0.5 where they are independent), and its standard error.

    Raises:
        TypeError: numbers that are not real.
        ValueError: another shape, fewer than 4 numbers in a chain, or numbers that are not finite.

    >>> import numpy as np
    >>> tau, error = autocorrelation(np.random.default_rng(0).normal(size=10_000))
    >>> abs(tau - 0.5) < 4 * error < 0.1
    True
    """
    _, tau, error = _analyse(_series(x))
    return tau, error


def estimate(*series: npt.ArrayLike, function: Callable[..., Any] | None = None) -> Estimate:
    """The average of a series, or a function of the averages of several, with an error that includes autocorrelation.

    Args:
        series: one or more, each ``(T,)`` or ``(chains, T)``, measured at the same times.
        function: of the averages, smooth; None for one series: the average itself. Its derivatives are taken
            numerically, and the error is that of the series projected on them (Wolff 2004, equation 34).

    Returns:
        value, error, tau and its error.

    Raises:
        TypeError, ValueError: as for :func:`autocorrelation`; series of different shapes; several without a function.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(1.0, 0.1, size=(4, 1000))
    >>> found = estimate(x, x**2, function=lambda mean, square: square - mean**2)
    >>> abs(found.value - 0.01) < 4 * found.error
    True
    """
    arrays = [_series(x) for x in series]
    if not arrays or (function is None and len(arrays) > 1):
        raise ValueError(f"function: expected a function of {len(arrays)} averages, got None")
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"series: expected equal shapes, got {[array.shape for array in arrays]}")
    means = [float(array.mean()) for array in arrays]
    if function is None:
        return Estimate(means[0], *_analyse(arrays[0]))
    value = float(function(*means))
    projected = np.zeros_like(arrays[0])
    for i, array in enumerate(arrays):
        width = float(array.std()) / math.sqrt(array.size)
        if width == 0:
            continue
        up, down = ([*means[:i], means[i] + sign * width, *means[i + 1 :]] for sign in (1, -1))
        slope = (float(function(*up)) - float(function(*down))) / (2 * width)
        projected += slope * (array - means[i])
    return Estimate(value, *_analyse(projected))
