# SPDX-License-Identifier: MIT
"""The definition's fields and derivatives, against differences, torch, and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ode_cases import ACTIVATIONS, ADAPTIVE, ORDERS, Array, random_mlp, states

from nnsym_fast import reference
from nnsym_fast.reference import fields


def differences(function: Callable[[Array], Any], x: Array, h: float = 1e-3) -> Array:
    """d function / dx by central differences of order 6, last axis: entries of x."""
    columns = []
    for e in np.eye(x.size).reshape(x.size, *x.shape) * h:
        columns.append(
            sum(w * (np.asarray(function(x + k * e)) - function(x - k * e)) for k, w in ((1, 45), (2, -9), (3, 1)))
            / (60 * h)
        )
    return np.stack(columns, axis=-1)


def torch_activation(activation: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    name, value = (activation, None) if isinstance(activation, str) else activation
    functional = torch.nn.functional
    special = {
        "identity": lambda x: x,
        "leaky_relu": lambda x: functional.leaky_relu(x, value),
        "elu": lambda x: functional.elu(x, value),
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "softplus": lambda x: functional.softplus(x, threshold=100),
        "sin": torch.sin,
    }
    return special.get(name) or getattr(functional, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: Any) -> None:
    x = np.linspace(-30, 30, 241) + 0.01
    name, value = (activation, None) if isinstance(activation, str) else activation
    function, default = fields.ACTIVATIONS[name]
    y, slope = function(x, default if value is None else value)
    there = torch.tensor(x, requires_grad=True)
    found = torch_activation(activation)(there)
    np.testing.assert_allclose(y, found.detach().numpy(), rtol=1e-13, atol=1e-15)
    (derivative,) = torch.autograd.grad(found.sum(), there)
    np.testing.assert_allclose(slope, derivative.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("time", ["none", "concat", "gate"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu", ["sin", "softplus", "tanh"]])
def test_vjp_of_a_perceptron(activation: Any, time: str) -> None:
    net = random_mlp(0, (3, 5, 4, 3), activation, time)
    y, a, t = states(1, 3), states(2, 3), 0.3
    gy, gp, gt = reference.mlp_vjp(t, y, a, *net)
    np.testing.assert_allclose(gy, differences(lambda x: a @ reference.mlp(t, x, *net), y), atol=1e-10)
    np.testing.assert_allclose(
        gt, differences(lambda s: a @ reference.mlp(s[0], y, *net), np.array([t]))[0], atol=1e-10
    )
    at = 0
    for layer, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        for array in (w, b, *(net.gates[layer] if net.gates else ())):

            def moved(x: Array, array: Array = array) -> Any:
                before = array.copy()
                array[...] = x
                value = a @ reference.mlp(t, y, *net)
                array[...] = before
                return value

            np.testing.assert_allclose(gp[at : at + array.size], differences(moved, array.copy()), atol=1e-10)
            at += array.size
    assert at == len(gp)


@pytest.mark.parametrize("curvature", [1.0, -0.25])
def test_geodesics_in_conformal_coordinates(curvature: float) -> None:
    """The full Christoffel symbols give v' = -(2 (phi.v) v - |v|^2 phi), phi = -2 K x / (1 + K |x|^2)."""
    y = states(0, 6) / 3
    x, v = y[:3], y[3:]
    phi = -2 * curvature * x / (1 + curvature * x @ x)
    found = reference.geodesic(0.0, y, reference.conformal_metric(curvature))
    np.testing.assert_allclose(found, np.concatenate([v, -(2 * (phi @ v) * v - (v @ v) * phi)]), rtol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu"])
def test_geodesics_of_a_metric(activation: str) -> None:
    """v' = -g^-1 [(D_v g) v - 1/2 grad (v^T g v)]; the derivatives of g agree with differences."""
    net = random_mlp(3, (3, 7, 6), activation)
    metric = reference.mlp_metric(net.weights, net.biases, activation, 0.1)
    y = states(1, 6)
    x, v = y[:3], y[3:]
    g, dg = metric(x)
    np.testing.assert_allclose(dg, np.moveaxis(differences(lambda z: metric(z)[0], x), -1, 0), atol=1e-10)
    assert np.linalg.eigvalsh(g).min() >= 0.1 - 1e-12
    force = np.einsum("kij,k,j->i", dg, v, v) - np.einsum("kij,i,j->k", dg, v, v) / 2
    np.testing.assert_allclose(reference.geodesic(0.0, y, metric)[3:], -np.linalg.solve(g, force), rtol=1e-9)


@pytest.mark.parametrize("interpolation", ["piecewise", "linear", "cubic"])
def test_interpolated_matrices(interpolation: str) -> None:
    knots = np.array([0.0, 1.0, 1.5, 3.0])
    w, b = states(0, 4, 2, 2), states(1, 4, 2)
    if interpolation == "piecewise":
        w, b = w[:3], b[:3]
    y = states(2, 2)
    for k in range(3):
        np.testing.assert_allclose(reference.linear(knots[k], y, w, b, knots, interpolation), w[k] @ y + b[k])
    if interpolation != "piecewise":
        np.testing.assert_allclose(reference.linear(3.0, y, w, b, knots, interpolation), w[3] @ y + b[3])
    if interpolation == "cubic":  # lines are met exactly, and the pieces join with one slope
        line = w[0] + (knots - knots[0])[:, None, None] * w[1]
        np.testing.assert_allclose(reference.linear(1.2, y, line, None, knots, "cubic"), (w[0] + 1.2 * w[1]) @ y)
        h = 1e-4
        left, right = (
            (reference.linear(1 + s * h, y, w, b, knots, "cubic") - reference.linear(1.0, y, w, b, knots, "cubic"))
            / (s * h)
            for s in (-1, 1)
        )
        np.testing.assert_allclose(left, right, atol=1e-2)


# --- gradients of solutions

NET = random_mlp(5, (2, 6, 2), "tanh", "concat")


def field(t: float, y: Array) -> Array:
    return reference.mlp(t, y, *NET)


def vjp(t: float, y: Array, a: Array) -> tuple[Array, Array, float]:
    return reference.mlp_vjp(t, y, a, *NET)


def flat_field(p: Array) -> Callable[[float, Array], Array]:
    weights = [p[:18].reshape(6, 3), p[24:36].reshape(2, 6)]
    return lambda t, y: reference.mlp(t, y, weights, [p[18:24], p[36:]], "tanh", "concat")


PARAMETERS = np.concatenate([NET.weights[0].ravel(), NET.biases[0], NET.weights[1].ravel(), NET.biases[1]])


def assert_slope(gradient: Array, function: Callable[[Array], Any], x: Array, tolerance: float) -> None:
    """The gradient along random directions is the slope there."""
    for along in states(7, 2, *x.shape):
        slope = differences(lambda s, along=along: function(x + s[0] * along), np.zeros(1))[0]
        assert slope == pytest.approx(np.sum(gradient * along), abs=tolerance)


@pytest.mark.parametrize("jump", [(), (0.4,)])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ORDERS)
def test_gradients_through_fixed_steps_are_exact(method: str, direction: int, jump: tuple[float, ...]) -> None:
    y0, t = states(0, 2, 2), np.array([0.0, 0.3, 0.7, 1.0]) * direction
    grad = states(1, 4, 2, 2)
    settings: dict[str, Any] = {"method": method, "options": {"steps": 3, "jump_t": tuple(direction * x for x in jump)}}
    gy, gp, gt = reference.gradient(field, vjp, y0, t, grad, **settings)

    def loss(func: Any, y: Array, s: Array) -> Any:
        return (grad * reference.odeint(func, y, s, **settings)).sum()

    np.testing.assert_allclose(gt, differences(lambda s: loss(field, y0, s), t), atol=1e-9)
    assert_slope(gy, lambda y: loss(field, y, t), y0, 1e-9)
    assert_slope(gp, lambda p: loss(flat_field(p), y0, t), PARAMETERS, 1e-9)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("direction", [1, -1])
def test_gradients_through_adaptive_steps(method: str, direction: int) -> None:
    """They come near the exact ones; those of backsolve do too, and t may differ from sample to sample."""
    rtol = 1e-5 if method == "heun2" else 1e-9
    y0 = states(0, 2, 2)
    t = np.array([0.0, 0.31, 0.7, 1.3]) * direction + np.array([[0.0], [0.1]])
    grad = states(1, 4, 2, 2)
    settings: dict[str, Any] = {"method": method, "rtol": rtol, "atol": rtol}
    through = reference.gradient(field, vjp, y0, t, grad, **settings)
    back = reference.odeint_adjoint(field, vjp, y0, t, grad, **settings)
    fine: dict[str, Any] = {"method": "dopri8", "options": {"steps": 8}}

    def loss(func: Any, y: Array, s: Array) -> Any:
        return (grad * reference.odeint(func, y, s, **fine)).sum()

    for gy, gp, gt in (through, back):
        assert (gy.shape, gp.shape, gt.shape) == (y0.shape, PARAMETERS.shape, t.shape)
        assert_slope(gy, lambda y: loss(field, y, t), y0, 200 * rtol)
        assert_slope(gp, lambda p: loss(flat_field(p), y0, t), PARAMETERS, 200 * rtol)
        assert_slope(gt, lambda s: loss(field, y0, s), t, 200 * rtol)
