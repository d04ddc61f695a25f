# SPDX-License-Identifier: MIT
"""The problems of the ODE benchmarks: fields, initial values, the answers in double precision, and what counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCES", "Checker", "Problem", "limit", "problem", "small", "tolerance_for"]

Array = npt.NDArray[Any]

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""Of the solution in double precision."""

TOLERANCES = tuple(1e-6 * 2.0**-k for k in range(8))
"""rtol = atol at which ours may run to reach the error of a peer: never looser than the peer's own."""

RESOLVED = 2.0**-22
"""Relative errors below this one are equal: four roundings of the largest entry."""


@dataclass(frozen=True)
class Problem:
    """y' = MLP(y) from ``y0`` (batch, d) at 0 to ``t1``, weights (out, in), one activation per layer; float32.

    The gradient is that of <slope, y(t1)> by all parameters: weight and bias of the first layer, of the second, ...
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activations: tuple[str, ...]
    y0: Array
    slope: Array
    t1: float

    @property
    def t(self) -> Array:
        return np.array([0.0, self.t1])

    @property
    def parameters(self) -> tuple[Array, ...]:
        return tuple(part for layer in zip(self.weights, self.biases, strict=True) for part in layer)

    def multiply_adds(self) -> int:
        """Of one evaluation of the field for one sample."""
        return sum(weight.size for weight in self.weights)

    def activated(self) -> dict[str, int]:
        """Calls of each activation in one evaluation of the field for one sample."""
        count: Counter[str] = Counter()
        for name, bias in zip(self.activations, self.biases, strict=True):
            if name != "identity":
                count[name] += bias.size
        return dict(count)

    @cached_property
    def solution(self) -> Array:
        """y(t1)."""
        return np.asarray(self._trajectory.y[:, -1].reshape(self.y0.shape))

    @cached_property
    def gradient(self) -> Array:
        """By the adjoint equation, along the continuous extension of the solution; flat."""
        from scipy.integrate import solve_ivp

        shape, size = self.y0.shape, self.y0.size
        start = np.concatenate([np.ravel(self.slope), np.zeros(sum(part.size for part in self.parameters))])

        def backwards(t: float, state: Array) -> Array:
            y, adjoint = self._trajectory.sol(t).reshape(shape), state[:size].reshape(shape)
            by_y, by_parameters = self._reverse(y, adjoint)
            return -np.concatenate([np.ravel(by_y), by_parameters])

        found = solve_ivp(backwards, (self.t1, 0.0), start.astype(float), method="DOP853", **EXACT)
        return np.asarray(found.y[size:, -1])

    @cached_property
    def _trajectory(self) -> Any:
        from scipy.integrate import solve_ivp

        def field(t: float, y: Array) -> Array:
            return self._layers(y.reshape(self.y0.shape))[-1][1].ravel()

        start = self.y0.astype(float).ravel()
        return solve_ivp(field, (0.0, self.t1), start, method="DOP853", dense_output=True, **EXACT)

    def _layers(self, y: Array) -> list[tuple[Array, Array]]:
        """Before and after each activation, in double precision."""
        result = []
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            before = y @ weight.T.astype(float) + bias
            y = FUNCTIONS[name][0](before)
            result.append((before, y))
        return result

    def _reverse(self, y: Array, grad: Array) -> tuple[Array, Array]:
        """The field's vector-Jacobian product by y and, summed over the batch, by all parameters."""
        layers = self._layers(y)
        inputs = [y, *(after for _, after in layers)]
        parts = []
        for i in reversed(range(len(layers))):
            grad = grad * FUNCTIONS[self.activations[i]][1](layers[i][0])
            parts = [np.ravel(grad.T @ inputs[i]), grad.sum(axis=0), *parts]
            grad = grad @ self.weights[i].astype(float)
        return grad, np.concatenate(parts)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "identity": (lambda x: x, np.ones_like),
    "tanh": (np.tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    "softplus": (lambda x: np.logaddexp(0.0, x), _sigmoid),
}
"""Activations and their derivatives."""


def problem(batch: int, d: int, h: int) -> Problem:
    """tanh MLP d -> h -> d on t in [0, 1]."""
    return _drawn(batch, (d, h, d), ("tanh", "identity"), 1.0)


def small(batch: int) -> Problem:
    """Diffrax's small neural ODE (benchmarks/small_neural_ode.py in its repository): t in [0, 100], loss sum(y)."""
    return _drawn(batch, (4, 32, 4), ("softplus", "tanh"), 100.0)


def _drawn(batch: int, widths: Sequence[int], activations: tuple[str, ...], t1: float) -> Problem:
    """Weights and biases as torch.nn.Linear draws them, uniform in +-1 / sqrt(inputs); standard normal y0."""
    rng = np.random.default_rng(0)
    weights, biases = [], []
    for inputs, outputs in pairwise(widths):
        bound = 1.0 / math.sqrt(inputs)
        weights.append(rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32))
        biases.append(rng.uniform(-bound, bound, outputs).astype(np.float32))
    y0 = rng.standard_normal((batch, widths[0])).astype(np.float32)
    return Problem(tuple(weights), tuple(biases), activations, y0, np.ones_like(y0), t1)


class Checker:
    """Asserts that a result of ``problem`` is right: its gradient, or y(t1).

    ``bound`` is for the largest error, relative to the largest entry of the answer in double precision.
    """

    def __init__(self, problem: Problem, bound: float, *, gradient: bool = False) -> None:
        self.exact = problem.gradient if gradient else problem.solution
        self.bound = bound

    def error(self, result: Any) -> float:
        found = np.asarray(result)
        assert found.dtype == np.float32
        assert found.shape == self.exact.shape
        assert np.isfinite(found).all()
        return float(np.abs(found - self.exact).max() / np.abs(self.exact).max())

    def __call__(self, result: Any) -> None:
        error = self.error(result)
        assert error <= self.bound, f"relative error {error:.2g}, at most {self.bound:.2g} expected"


def tolerance_for(error: float, errors: Mapping[float, float]) -> float | None:
    """The largest tolerance at which ours, with ``errors`` by tolerance, is at least as accurate; None if none is."""
    good = [tolerance for tolerance, own in errors.items() if own <= max(error, RESOLVED)]
    return max(good, default=None)


def limit(
    problem: Problem, evaluations: float, peak: float, rates: Mapping[str, float], *, gradient: bool = False
) -> float:
    """Seconds below which no program gets that works without pause at the measured rates.

    Args:
        problem: whose field is evaluated.
        evaluations: of the field, all samples together.
        peak: floating-point operations of multiply-adds per second.
        rates: calls of each activation per second.
        gradient: with the reverse pass, which takes twice the multiply-adds of an evaluation (by y and by the weights)
            and, where activations are kept, no further calls of them.

    What combines the stages of a step does not count.
    """
    passes = 3 if gradient else 1
    arithmetic = 2.0 * passes * problem.multiply_adds() * evaluations / peak
    return arithmetic + sum(count * evaluations / rates[name] for name, count in problem.activated().items())
