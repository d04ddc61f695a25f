# SPDX-License-Identifier: MIT
"""Problems with known solutions, random fields, and measures, for the tests of neural ODEs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ADAPTIVE = ("heun2", "bosh3", "dopri5", "tsit5", "dopri8")
ORDERS = {
    "euler": 1, "midpoint": 2, "heun2": 2, "rk4": 4, "rk4_38": 4, "bosh3": 3, "dopri5": 5, "tsit5": 5, "dopri8": 8,
}  # fmt: skip

ACTIVATIONS = (
    "identity", "relu", ("leaky_relu", 0.2), "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh", ("elu", 0.7),
    "sin",
)  # fmt: skip


class Problem(NamedTuple):
    """y' = f(t, y) with the solution through exact(t_0)."""

    f: Callable[[float, Array], Any]
    exact: Callable[[float], Array]


def forced(t: float, y: Array) -> Array:
    """A rotation that depends on the time, whose solution has |y| = e^(sin t)."""
    return np.cos(t) * y + (1 + t) * np.array([-y[1], y[0]])


PROBLEMS = {
    "riccati": Problem(lambda t, y: y * y * np.cos(t), lambda t: np.array([1 / (2 - np.sin(t))])),
    "forced rotation": Problem(
        forced, lambda t: np.exp(np.sin(t)) * np.array([np.cos(t + t * t / 2), np.sin(t + t * t / 2)])
    ),
}
"""Neither linear with constant coefficients nor autonomous: every order condition counts."""


def fitted_order(errors: Sequence[float], steps: Sequence[int]) -> float:
    """The slope of log error over log step length."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def steps_for(method: str) -> tuple[int, ...]:
    """Numbers of steps whose errors lie between 0.1 and rounding."""
    return (8, 11, 16) if ORDERS[method] > 5 else (64, 91, 128)


class Weights(NamedTuple):
    """The arguments of ``ode.MLP`` and of ``reference.mlp``."""

    weights: list[Array]
    biases: list[Array]
    activation: Any
    time: str
    gates: list[tuple[Array, Array]] | None


def random_mlp(
    seed: int, widths: Sequence[int], activation: Any = "tanh", time: str = "none", dtype: str = "float64"
) -> Weights:
    """Weights of order 1 / sqrt(width); ``widths`` begins and ends with d."""
    rng = np.random.default_rng(seed)
    inputs = [widths[0] + (time == "concat"), *widths[1:-1]]

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    weights = [normal(m, n) / np.sqrt(n).astype(dtype) for n, m in zip(inputs, widths[1:], strict=True)]
    biases = [normal(m) / 2 for m in widths[1:]]
    gates = [(normal(m), normal(m)) for m in widths[1:]] if time == "gate" else None
    return Weights(weights, biases, activation, time, gates)


def states(seed: int, *shape: int, dtype: str = "float64") -> Array:
    """Standard normal states."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
