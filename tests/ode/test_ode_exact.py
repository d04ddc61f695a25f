# SPDX-License-Identifier: MIT
"""Solutions that are known: Wilson lines, geodesics, oscillators; orders of convergence through the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, ORDERS, Array, fitted_order, random_mlp, states, steps_for
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import nnsym_fast as nf
from nnsym_fast import reference

pytestmark = pytest.mark.usefixtures("isa")

TIGHT: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12}
NEVER = {"compiled": "never"}
ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])
DIRECTIONS = pytest.mark.parametrize("direction", [1, -1])


# --- linear equations and their Wilson lines


def random_connection(seed: int, *shape: int) -> tuple[Array, Array]:
    d = shape[-1]
    return states(seed, *shape, d) / math.sqrt(d), states(seed + 1, *shape)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 17])
def test_a_constant_connection_is_an_exponential(d: int) -> None:
    w, b = random_connection(0, d)
    y0 = states(1, 5, d)
    t = np.array([0.0, 0.3, 1.0])
    ys = nf.odeint(nf.ode.Linear(w, b), y0, t, **TIGHT)
    augmented = np.block([[w, b[:, None]], [np.zeros((1, d + 1))]])
    for time, y in zip(t, ys, strict=True):
        flow = expm(time * augmented)
        np.testing.assert_allclose(y, y0 @ flow[:d, :d].T + flow[:d, d], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("d", [2, 3, 4, 8])
@pytest.mark.parametrize("method", ["tsit5", "dopri8"])
def test_piecewise_constant_connections_agree_with_the_wilson_kernel(method: str, d: int) -> None:
    pieces = 7
    knots = np.cumsum([0.0, *np.random.default_rng(3).uniform(0.1, 0.4, pieces)])
    w, b = random_connection(0, pieces, d)
    y0 = states(1, 9, d)
    options = {"jump_t": tuple(knots[1:-1])}
    settings: dict[str, Any] = {"method": method, "rtol": 1e-12, "atol": 1e-13, "options": options}
    ys = nf.odeint(nf.ode.Linear(w, None, knots, "piecewise"), y0, knots, **settings)
    line = nf.wilson.wilson_line(w, np.diff(knots), cumulative=True)
    np.testing.assert_allclose(ys, np.einsum("kij,nj->kni", line, y0), atol=2e-11)
    affine = nf.odeint(nf.ode.Linear(w, b, knots, "piecewise"), y0[0], knots, **settings)
    flow = nf.wilson.affine_flow(w, b, y0[0], np.diff(knots), cumulative=True)
    np.testing.assert_allclose(affine, flow, atol=2e-11)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_connections_that_move_agree_with_the_wilson_kernel(interpolation: str) -> None:
    """Magnus steps of order 6 within every piece, whose connection is smooth there."""
    d, knots = 3, np.array([0.0, 0.5, 0.8, 1.6])
    w, _ = random_connection(0, 4, d)
    y0 = states(1, 4, d)
    ys = nf.odeint(nf.ode.Linear(w, None, knots, interpolation), y0, knots, **TIGHT)
    x = y0
    for k in range(3):
        nodes = nf.wilson.gauss_nodes(knots[k], knots[k + 1], 60, 6)
        columns = [
            [[reference.linear(float(s), e, w, None, knots, interpolation) for e in np.eye(d)] for s in row]
            for row in nodes
        ]
        connection = np.swapaxes(np.array(columns), -1, -2)
        line = nf.wilson.wilson_line(connection, (knots[k + 1] - knots[k]) / 60, magnus_order=6)
        x = x @ line.T
        np.testing.assert_allclose(ys[k + 1], x, atol=5e-11)


# --- geodesics


def lift(x: Array, sign: int, radius: float) -> Array:
    """From conformal coordinates to the sphere (sign 1) or hyperboloid (-1) in R^{n + 1}, whose last axis is theirs."""
    square = sign * (x * x).sum(-1, keepdims=True) / radius**2
    return np.concatenate([2 * x, sign * radius * (square - 1)], -1) / (1 + square)


def great_circle(y: Array, t: float, sign: int, radius: float) -> Array:
    """x(t) of the geodesic with y = (x, v): X cos(w t) + V / w sin(w t), with cosh and sinh for sign -1."""
    x, v = np.split(y, 2, axis=-1)
    point, h = lift(x, sign, radius), 1e-3
    stencil = [(1, 45), (2, -9), (3, 1)]
    velocity = sum(n * (lift(x + k * h * v, sign, radius) - lift(x - k * h * v, sign, radius)) for k, n in stencil)
    velocity = velocity / (60 * h)
    signs = np.array([1.0] * x.shape[-1] + [float(sign)])
    w = np.sqrt((signs * velocity * velocity).sum(-1, keepdims=True)) / radius
    c, s = (np.cos, np.sin) if sign > 0 else (np.cosh, np.sinh)
    there = point * c(w * t) + velocity / w * s(w * t)
    return there[..., :-1] / (1 - sign * there[..., -1:] / radius)


@DIRECTIONS
@pytest.mark.parametrize("radius", [1.0, 2.0])
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("kind", ["sphere", "hyperbolic"])
def test_geodesics_are_great_circles(kind: str, n: int, radius: float, direction: int) -> None:
    sign = 1 if kind == "sphere" else -1
    field = getattr(nf.ode.Geodesic, kind)(n, radius)
    y0 = 0.2 * states(n, 6, 2 * n) / math.sqrt(n)
    t = direction * np.array([0.0, 0.5, 1.7])
    ys = nf.odeint(field, y0, t, **TIGHT)
    for time, y in zip(t, ys, strict=True):
        np.testing.assert_allclose(y[:, :n], great_circle(y0, time, sign, radius), atol=1e-10)


@DIRECTIONS
@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_geodesics_of_a_metric_keep_their_speed(n: int, activation: str, direction: int) -> None:
    net = random_mlp(n, (n, 8, n * (n + 1) // 2), activation)
    mlp = nf.ode.MLP(net.weights, net.biases, activation)
    metric = reference.mlp_metric(net.weights, net.biases, activation, 0.5)
    y0 = states(1, 4, 2 * n) / 2
    t = direction * np.linspace(0, 2, 5)
    ys = nf.odeint(nf.ode.Geodesic.metric(mlp, epsilon=0.5), y0, t, **TIGHT)

    def speed(y: Array) -> float:
        return float(y[n:] @ metric(y[:n])[0] @ y[n:])

    speeds = np.array([[speed(y) for y in row] for row in ys])
    np.testing.assert_allclose(speeds, np.broadcast_to(speeds[0], speeds.shape), rtol=1e-9, atol=1e-10)
    assert np.abs(ys[-1] - ys[0]).max() > 0.1
    slow = reference.odeint(lambda s, y: reference.geodesic(s, y, metric), y0[:1], t[[0, -1]], **TIGHT)
    np.testing.assert_allclose(ys[-1, :1], slow[-1], atol=1e-10)


# --- oscillators, as every kind of function


def oscillators() -> dict[str, Any]:
    return {
        "Linear": nf.ode.Linear(ROTATION),
        "MLP": nf.ode.MLP([ROTATION], [None]),
        "function": lambda t, y: y @ ROTATION.T,
    }


@DIRECTIONS
@pytest.mark.parametrize("kind", ["Linear", "MLP", "function"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_harmonic_oscillator(method: str, kind: str, direction: int) -> None:
    t = direction * np.linspace(0, 7, 29)
    rtol = {"heun2": 1e-6, "bosh3": 1e-8}.get(method, 1e-10)
    options = NEVER if kind == "function" else {"compiled": "require"}
    y0 = np.array([[0.0, 1.0], [0.0, -2.0]])
    ys = nf.odeint(oscillators()[kind], y0, t, method=method, rtol=rtol, atol=rtol, options=options)
    exact = np.stack([np.sin(t), np.cos(t)], -1)[:, None] * [[1.0], [-2.0]]
    np.testing.assert_allclose(ys, exact, atol=200 * rtol)


@DIRECTIONS
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_the_spiral_agrees_with_scipy(method: str, direction: int) -> None:
    """y' = y^3 A, componentwise powers; values between the steps included."""
    a = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    t = direction * np.linspace(0, 1.5 if direction < 0 else 10, 101)
    y0 = np.array([1.2, 0.3])
    ys = nf.odeint(lambda s, y: y**3 @ a, y0, t, method=method, rtol=1e-12, atol=1e-12, options=NEVER)
    theirs = solve_ivp(lambda s, y: y**3 @ a, (0, t[-1]), y0, "DOP853", t_eval=t, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(ys, theirs.y.T, atol=1e-9 if direction < 0 else 1e-10)


@DIRECTIONS
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
@pytest.mark.parametrize("kind", ["kernel", "function"])
def test_a_perceptron_agrees_with_scipy(kind: str, method: str, direction: int) -> None:
    net = random_mlp(4, (3, 16, 3), "tanh", "concat")

    def f(t: float, y: Array) -> Array:
        return reference.mlp(t, y, *net)

    y0, t = states(5, 3), direction * np.linspace(0, 4, 57)
    func: Any = nf.ode.MLP(*net) if kind == "kernel" else f
    options = {"compiled": "require"} if kind == "kernel" else NEVER
    ys = nf.odeint(func, y0, t, method=method, rtol=1e-12, atol=1e-12, options=options)
    theirs = solve_ivp(f, (0, t[-1]), y0, "DOP853", t_eval=t, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(ys, theirs.y.T, atol=2e-10)


# --- order of convergence and composition


@DIRECTIONS
@pytest.mark.parametrize("kind", ["kernel", "function"])
@pytest.mark.parametrize("method", ORDERS)
def test_order_of_convergence(method: str, kind: str, direction: int) -> None:
    """Fixed steps on y1' = y2, y2' = -y1 + sin 2t and a perceptron of both: a network with the time as input."""
    net = random_mlp(11, (2, 12, 2), "sin", "concat")
    net.weights[0][...] *= 2
    y0, t = states(2, 4, 2), 0.2 + direction * np.array([0.0, 1.8])

    def f(s: float, y: Array) -> Array:
        return np.array([reference.mlp(s, x, *net) for x in y])

    exact = reference.odeint(lambda s, y: reference.mlp(s, y, *net), y0, t, method="dopri8", options={"steps": 120})[-1]
    steps = steps_for(method)
    errors = []
    for count in steps:
        options = {"steps": count, "compiled": "require" if kind == "kernel" else "never"}
        ys = nf.odeint(nf.ode.MLP(*net) if kind == "kernel" else f, y0, t, method=method, options=options)
        errors.append(float(np.abs(ys[-1] - exact).max()))
    assert -0.4 < fitted_order(errors, steps) - ORDERS[method] < 0.9


@DIRECTIONS
@pytest.mark.parametrize("kind", ["kernel", "function"])
def test_a_split_interval(kind: str, direction: int) -> None:
    """Fixed steps: bit for bit, adaptive ones: to the tolerance; and backwards again to the start."""
    net = random_mlp(1, (2, 8, 2))
    func: Any = (
        nf.ode.MLP(*net) if kind == "kernel" else (lambda s, y: np.tanh(y @ net.weights[0].T) @ net.weights[1].T)
    )
    never = {} if kind == "kernel" else NEVER
    t, y0 = direction * np.array([0.0, 1.0, 2.5]), states(3, 6, 2)
    for method in ORDERS:
        whole = nf.odeint(func, y0, t, method=method, options={"steps": 4, **never})
        second = nf.odeint(func, whole[1], t[1:], method=method, options={"steps": 4, **never})
        np.testing.assert_array_equal(second[1], whole[2])
    for method in ADAPTIVE:
        settings: dict[str, Any] = {"method": method, "rtol": 1e-7, "atol": 1e-7, "options": never}
        whole = nf.odeint(func, y0, t, **settings)
        second = nf.odeint(func, whole[1], t[1:], **settings)
        np.testing.assert_allclose(second[1], whole[2], atol=2e-5)
        back = nf.odeint(func, whole[2], t[[2, 0]], **settings)
        np.testing.assert_allclose(back[1], y0, atol=2e-4)


Function = Callable[[float, Array], Array]


@pytest.mark.parametrize("method", ORDERS)
def test_a_function_and_the_reference_take_the_same_steps(method: str) -> None:
    """The driver, with a step of its own for each sample or one for all, is the definition, sample by sample."""
    y0, t = states(0, 5, 2), np.array([0.0, 0.4, 1.1, 3.0])

    def pendulum(s: Any, y: Array) -> Array:
        return np.stack([y[..., 1], -np.sin(y[..., 0])], -1)

    for batch_step in ("sample", "shared"):
        options: dict[str, Any] = {"batch_step": batch_step}
        settings: dict[str, Any] = {"method": method, "rtol": 1e-6, "atol": 1e-7}
        ours = nf.ode.solve(pendulum, y0, t, options={**options, **NEVER}, **settings)
        slow = reference.solve(pendulum, y0, t, options=options, **settings)
        np.testing.assert_allclose(ours.ys, slow.ys, atol=1e-11)
        accepted = np.broadcast_to(np.asarray(slow.stats["accepted"]), (5,))
        np.testing.assert_array_equal(np.broadcast_to(np.asarray(ours.stats["accepted"]), (5,)), accepted)
