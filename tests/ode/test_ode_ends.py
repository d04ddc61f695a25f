# SPDX-License-Identifier: MIT
"""How a sample ends: statuses with what was reached, events, jumps, and the resolution of float32."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, Array, random_mlp, states

import nnsym_fast as nf
from nnsym_fast import reference
from nnsym_fast.ode import Event, Status

pytestmark = pytest.mark.usefixtures("isa")

ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])
KINDS = pytest.mark.parametrize("kind", ["kernel", "function"])


def growth(kind: str) -> tuple[Any, dict[str, Any]]:
    """y' = 40 y, which leaves float64 at t = 18; and y' = y^2, which has a pole at t = 1 / y0."""
    if kind == "kernel":
        return nf.ode.MLP([np.array([[40.0]])], [None]), {"compiled": "require"}
    return (lambda t, y: y * y), {"compiled": "never", "batch_step": "sample"}


def oscillator(kind: str) -> tuple[Any, dict[str, Any]]:
    if kind == "kernel":
        return nf.ode.MLP([ROTATION], [None]), {"compiled": "require"}
    return (lambda t, y: y @ ROTATION.T), {"compiled": "never", "batch_step": "sample"}


# --- statuses


@KINDS
def test_max_steps(kind: str) -> None:
    func, options = oscillator(kind)
    t = np.linspace(0, 50, 26)
    y0 = np.array([[0.0, 1.0], [0.0, 1e-12]])  # the second is below atol: few steps
    solution = nf.ode.solve(func, y0, t, rtol=1e-8, atol=1e-8, options={**options, "max_steps": 40})
    assert solution.status.tolist() == [Status.MAX_STEPS, Status.SUCCESS]
    assert solution.stats["steps"][0] == 40
    reached = t <= solution.t_end[0]
    assert 1 < reached.sum() < 26
    np.testing.assert_array_equal(np.isfinite(solution.ys[:, 0]).all(-1), reached)
    np.testing.assert_allclose(solution.ys[reached, 0, 0], np.sin(t[reached]), atol=1e-6)
    end = solution.t_end[0]
    np.testing.assert_allclose(solution.y_end[0], [math.sin(end), math.cos(end)], atol=1e-6)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 samples took max_steps steps"):
        nf.odeint(func, y0, t, rtol=1e-8, atol=1e-8, options={**options, "max_steps": 40})


@KINDS
def test_states_that_overflow(kind: str) -> None:
    """Adaptive and fixed steps end with NON_FINITE or STEP_TOO_SMALL, what came before stays."""
    func, options = growth(kind)
    y0 = np.ones((3, 1))
    y0[1] = -1e-30
    t = np.array([0.0, 0.5, 30.0])
    for settings in ({"method": "dopri5", "rtol": 1e-5}, {"method": "rk4", "options": {"steps": 600}}):
        merged = {**options, **settings.pop("options", {})}
        solution = nf.ode.solve(func, y0, t, options=merged, **settings)
        assert {int(s) for s in solution.status[[0, 2]]} <= {Status.NON_FINITE, Status.STEP_TOO_SMALL}
        assert np.isfinite(solution.ys[:2, 0]).all()
        assert np.isnan(solution.ys[2, 0]).all()
        assert (solution.t_end[[0, 2]] >= 0.5).all()
        assert (solution.t_end[[0, 2]] < 30).all()
        assert np.isfinite(solution.y_end[0]).all()


@KINDS
def test_steps_below_dt_min(kind: str) -> None:
    func, options = oscillator(kind)
    solution = nf.ode.solve(func, np.array([0.0, 1.0]), [0.0, 5.0], rtol=1e-10, options={**options, "dt_min": 0.2})
    assert solution.status == Status.STEP_TOO_SMALL
    assert np.isnan(solution.ys[1]).all()
    assert np.isfinite(solution.y_end).all()


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_float32_does_not_stall(method: str, rtol: float) -> None:
    """It succeeds, or ends with a status after a number of steps that a user can wait for."""
    net = random_mlp(0, (2, 32, 2), "tanh", dtype="float32")
    y0, t = states(1, 16, 2, dtype="float32"), np.linspace(0, 10, 11)
    solution = nf.ode.solve(
        nf.ode.MLP(*net), y0, t, method=method, rtol=rtol, atol=rtol, options={"max_steps": 200_000}
    )
    assert set(solution.status.tolist()) <= {Status.SUCCESS, Status.STEP_TOO_SMALL}
    if rtol == 1e-6 and method != "heun2":
        assert not solution.status.any()
    exact = nf.odeint(
        nf.ode.MLP([w.astype(float) for w in net.weights], [b.astype(float) for b in net.biases]),
        y0.astype(float), t, method="dopri8", rtol=1e-11, atol=1e-11,
    )  # fmt: skip
    reached = np.isfinite(solution.ys)
    assert np.abs(solution.ys - exact)[reached].max() < 1e-3


# --- events


@KINDS
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_events_of_a_component(method: str, direction: int, kind: str) -> None:
    """a cos t falls through 1/2 at arccos(1 / 2a), in both directions of time."""
    func, options = oscillator(kind)
    if method == "rk4":
        options = {**options, "steps": 20}
    rtol = {"heun2": 1e-6}.get(method, 1e-9)
    amplitude = np.array([0.3, 0.7, 1.0, 2.0, 5.0])
    t = direction * np.linspace(0, 3, 7)
    y0 = np.stack([amplitude, 0 * amplitude], -1)
    solution = nf.ode.solve(
        func, y0, t, method=method, rtol=rtol, atol=rtol, options=options, event=Event(component=0, value=0.5)
    )
    crosses = amplitude > 0.5
    # the first starts below 1/2 and never rises through it
    np.testing.assert_array_equal(solution.status, np.where(crosses, Status.EVENT, Status.SUCCESS))
    times = np.arccos(0.5 / amplitude[crosses])
    np.testing.assert_allclose(np.abs(solution.t_end[crosses]), times, atol=1e-5 if method == "rk4" else 3e2 * rtol)
    np.testing.assert_allclose(solution.y_end[crosses, 0], 0.5, atol=1e-13)
    assert (solution.y_end[crosses, 0] <= 0.5).all()
    reached = np.abs(t)[:, None] <= np.abs(solution.t_end)
    np.testing.assert_array_equal(np.isfinite(solution.ys).all(-1), reached)
    assert solution.t_end[0] == t[-1]


@KINDS
@pytest.mark.parametrize(("sign", "end"), [(0, 1 / 6), (1, 1 / 6), (-1, 5 / 6)])
def test_events_have_a_direction(kind: str, sign: int, end: float) -> None:
    func, options = oscillator(kind)
    y0 = np.array([0.0, 1.0])  # sin t
    event = Event(component=0, value=0.5, direction=sign)
    solution = nf.ode.solve(func, y0, [0.0, 3.0], options=options, event=event)
    assert float(solution.t_end) == pytest.approx(end * math.pi, abs=1e-6)


@KINDS
def test_events_of_a_functional(kind: str) -> None:
    func, options = oscillator(kind)
    y0 = np.array([[0.0, 1.0], [1.0, 0.0]])  # sin t = cos t at pi/4; cos t = -sin t at 3 pi/4
    event = Event(weights=[1.0, -1.0])
    solution = nf.ode.solve(func, y0, [0.0, 3.0], rtol=1e-9, options=options, event=event)
    np.testing.assert_allclose(solution.t_end, [math.pi / 4, 3 * math.pi / 4], atol=1e-7)
    start = nf.ode.solve(func, y0[0], [0.0, 3.0], options=options, event=Event(component=0))
    assert start.status == Status.SUCCESS  # g = 0 at the start is no crossing


def test_events_as_defined() -> None:
    net = random_mlp(5, (3, 8, 3), "sin")
    y0 = states(6, 40, 3)
    event = Event(weights=[1.0, 0.5, -1.0], value=0.3)
    settings: dict[str, Any] = {"method": "dopri8", "rtol": 1e-9, "atol": 1e-9}
    ours = nf.ode.solve(nf.ode.MLP(*net), y0, [0.0, 1.0, 4.0], event=event, **settings)
    slow = reference.solve(lambda t, y: reference.mlp(t, y, *net), y0, [0.0, 1.0, 4.0], event=event, **settings)
    np.testing.assert_array_equal(ours.status, slow.status)
    assert 5 < (ours.status == Status.EVENT).sum() < 40
    np.testing.assert_array_equal(ours.stats["accepted"], slow.stats["accepted"])
    np.testing.assert_allclose(ours.t_end, slow.t_end, atol=1e-11)
    np.testing.assert_allclose(ours.y_end, slow.y_end, atol=1e-11)
    np.testing.assert_allclose(ours.ys, slow.ys, atol=1e-11)


# --- jumps


def switched(t: Any, y: Array) -> Array:
    """y' = y before t = 1, -2 y after it."""
    return np.where(np.asarray(t)[..., None] < 1, 1.0, -2.0) * y


@KINDS
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_jumps_are_stops(method: str, direction: int, kind: str) -> None:
    w = np.array([[[1.0]], [[-2.0]]])
    field = nf.ode.Linear(w, None, [0.0, 1.0, 2.0], "piecewise")
    func: Any = field if kind == "kernel" else switched
    options: dict[str, Any] = {"jump_t": [1.0]}
    options |= {"compiled": "require"} if kind == "kernel" else {"compiled": "never", "batch_step": "sample"}
    t = np.array([0.0, 0.9, 1.2, 2.0])[::direction]
    exact = np.exp(np.where(t < 1, t, 3 - 2 * t))
    rtol = {"heun2": 1e-6}.get(method, 1e-10)
    if method == "rk4":
        options["steps"], rtol = 60, 1e-9
    y0 = exact[0] * np.array([[1.0], [-3.0]])
    solution = nf.ode.solve(func, y0, t, method=method, rtol=rtol, atol=rtol, options=options)
    np.testing.assert_allclose(solution.ys, exact[:, None, None] * [[1.0], [-3.0]], rtol=300 * rtol)
    if kind == "kernel":  # the field knows where it jumps
        del options["jump_t"]
        again = nf.ode.solve(func, y0, t, method=method, rtol=rtol, atol=rtol, options=options)
        np.testing.assert_array_equal(again.ys, solution.ys)
    elif method != "rk4":
        blind = nf.ode.solve(func, y0, t, method=method, rtol=rtol, atol=rtol, options=options | {"jump_t": []})
        assert (solution.stats["rejected"] < blind.stats["rejected"]).all()


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_jumps_as_defined(method: str) -> None:
    knots = np.array([0.0, 0.3, 1.0, 1.7])
    w, b = states(0, 3, 2, 2), states(1, 3, 2)
    y0 = states(2, 6, 2)
    options = {"jump_t": (0.3, 1.0)}
    settings: dict[str, Any] = {"method": method, "rtol": 1e-6, "atol": 1e-6}
    for t in (np.array([0.0, 0.5, 1.0, 1.6]), np.array([1.6, 0.9, 0.1])):
        ours = nf.ode.solve(nf.ode.Linear(w, b, knots, "piecewise"), y0, t, options=options, **settings)
        slow = reference.solve(
            lambda s, y: reference.linear(s, y, w, b, knots, "piecewise"), y0, t, options=options, **settings
        )
        np.testing.assert_array_equal(ours.stats["accepted"], slow.stats["accepted"])
        np.testing.assert_array_equal(ours.stats["rejected"], slow.stats["rejected"])
        np.testing.assert_allclose(ours.ys, slow.ys, atol=1e-11)


def test_no_warning_from_solve_or_success() -> None:
    func, options = oscillator("kernel")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nf.ode.solve(func, np.array([0.0, 1.0]), [0.0, 9.0], options={**options, "max_steps": 2})
        nf.odeint(func, np.array([0.0, 1.0]), [0.0, 9.0], options=options)


@pytest.mark.parametrize("knots", [[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0]])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_jumps_at_the_ends_and_at_zero(method: str, knots: list[float]) -> None:
    """A jump where an integration begins or ends is seen from its side, whoever else is in the batch."""
    field = nf.ode.Linear(np.array([[[1.0]], [[-2.0]]]), None, knots, "piecewise")
    a, b, c = knots
    options: dict[str, Any] = {"steps": 100}
    settings: dict[str, Any] = {"method": method, "rtol": 1e-10, "atol": 1e-10}
    for chosen in (options, {}) if method != "rk4" else (options,):
        for t, exact in (([a, b], 1.0), ([b, c], -2.0), ([b, a], -1.0), ([c, b], 2.0), ([a, c], -1.0), ([c, a], 1.0)):
            found = nf.ode.solve(field, np.ones(1), t, options=chosen, **settings)
            np.testing.assert_allclose(found.ys[-1], np.exp(exact), rtol=1e-7)
            assert found.stats["rejected"] <= 2
        ranges = np.array([[a, b], [a, c], [c, b], [b, (b + c) / 2], [c, a]])
        together = nf.odeint(field, np.ones((5, 1)), ranges, options=chosen, **settings)
        for i, t in enumerate(ranges):
            np.testing.assert_array_equal(together[:, i], nf.odeint(field, np.ones(1), t, options=chosen, **settings))


def test_the_first_step_is_no_shorter_than_dt_min() -> None:
    rotation = nf.ode.Linear(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    options = {"dt_min": 0.05}
    found = nf.ode.solve(rotation, np.array([1.0, 0.0]), [0.0, 1.0], rtol=1e-5, atol=1e-5, options=options)
    assert found.status == Status.SUCCESS
    np.testing.assert_allclose(found.ys[-1], [np.cos(1), -np.sin(1)], atol=1e-4)
