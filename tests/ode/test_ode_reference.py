# SPDX-License-Identifier: MIT
"""The definition itself: order of convergence, exact solutions, scipy, events, jumps and statuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, ORDERS, PROBLEMS, Array, fitted_order, steps_for
from scipy.integrate import solve_ivp

from nnsym_fast.reference.ode import Event, Status, integrate, odeint, solve
from nnsym_fast.tableaus import Tableau, tableau

EVALUATIONS = {name: tableau(name).stages - (1 if tableau(name).fsal else 0) for name in ORDERS}


def pendulum(t: float, y: Array) -> Array:
    return np.array([y[1], -np.sin(y[0])])


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ORDERS)
def test_order_of_convergence(method: str, direction: int, problem: str) -> None:
    f, exact = PROBLEMS[problem]
    t = [0.2, 0.2 + 1.8 * direction]
    steps = steps_for(method)
    errors = [
        np.abs(odeint(f, exact(t[0]), t, method=method, options={"steps": n})[-1] - exact(t[1])).max() for n in steps
    ]
    assert -0.35 < fitted_order(errors, steps) - ORDERS[method] < 0.8


@pytest.mark.parametrize("method", ADAPTIVE)
def test_order_of_the_dense_output(method: str) -> None:
    """One step of length h, values inside: the error is O(h^(order + 1))."""
    f, exact = PROBLEMS["forced rotation"]
    order = tableau(method).dense_order
    errors = []
    lengths = [0.4, 0.28, 0.2]
    for h in lengths:
        t = [0.1, *(0.1 + h * np.array([0.2, 0.4, 0.6, 0.8, 1.0]))]
        options = {"first_step": h, "factor_min": 1.0}
        solution = solve(f, exact(t[0]), t, method=method, rtol=1e3, atol=1e3, options=options)
        assert int(solution.stats["steps"]) == 1
        errors.append(np.abs(solution.ys[1:5] - np.array([exact(s) for s in t[1:5]])).max())
    assert float(np.polyfit(np.log(lengths), np.log(errors), 1)[0]) == pytest.approx(order + 1, abs=0.5)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_agreement_with_scipy(method: str, direction: int) -> None:
    t = np.linspace(0, 10, 41) * direction
    y0 = np.array([1.0, 0.5])
    ours = odeint(pendulum, y0, t, method=method, rtol=1e-12, atol=1e-13)
    theirs = solve_ivp(pendulum, (0, t[-1]), y0, "DOP853", t_eval=t, rtol=1e-13, atol=1e-14)
    # order 5 leaves its local error of 1e-12 in some thousand steps; both are far above rounding
    assert np.abs(ours - theirs.y.T).max() < (3e-11 if method != "dopri8" else 3e-12)


@pytest.mark.parametrize("direction", [1, -1])
def test_values_between_the_steps_lose_no_digits(direction: int) -> None:
    """dopri8 at rtol 1e-12: values inside of steps are as good as those at their ends."""
    f, exact = PROBLEMS["forced rotation"]
    t = 0.1 + direction * np.linspace(0, 4, 201)
    runs, _ = integrate(f, exact(t[0]), t, method="dopri8", rtol=1e-12, atol=1e-12)
    inside = max(np.abs(y - exact(s)).max() for y, s in zip(runs[0].rows, t, strict=True))
    at_ends = max(np.abs(step.y_new - exact(step.end)).max() for step in runs[0].path)
    assert len(runs[0].path) < 100  # several outputs in a step
    assert inside < 1e-11
    assert inside < 10 * at_ends  # a continuation of order 7 between steps of order 8


def test_outputs_do_not_move_the_steps() -> None:
    few = solve(pendulum, np.ones(2), [0.0, 5.0], method="dopri8", rtol=1e-9)
    many = solve(pendulum, np.ones(2), np.linspace(0, 5, 101), method="dopri8", rtol=1e-9)
    np.testing.assert_array_equal(few.ys[-1], many.ys[-1])
    assert few.stats["steps"] == many.stats["steps"]


def test_without_dense_output_steps_land_on_the_outputs() -> None:
    table = tableau("dopri5")
    bare = Tableau("bare", "", 5, table.c, table.a, table.b, table.error, table.error_order)
    t = np.linspace(0, 5, 12)
    solution = solve(pendulum, np.ones(2), t, method=bare, rtol=1e-8)
    assert int(solution.stats["accepted"]) >= 11
    np.testing.assert_allclose(solution.ys, odeint(pendulum, np.ones(2), t, rtol=1e-11, atol=1e-12), atol=1e-7)


# --- steps


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"step_size": 0.3}])
def test_fixed_steps(method: str, options: dict[str, Any]) -> None:
    if not options and tableau(method).adaptive:
        options = {"steps": 1}
    t = [0.0, 1.0, 0.9 + 1.0, 4.0]
    count = {"steps": 9, "step_size": 4 + 3 + 7}.get(next(iter(options), ""), 3)
    count = 3 if options == {"steps": 1} else count
    solution = solve(pendulum, np.ones(2), t, method=method, options=options)
    assert (int(solution.stats["accepted"]), int(solution.stats["rejected"])) == (count, 0)
    extra = 1 if tableau(method).fsal else 0
    assert int(solution.stats["evaluations"]) == count * EVALUATIONS[method] + extra


def test_euler_is_what_it_is() -> None:
    t = np.array([0.0, 0.5, 2.0])
    ys = odeint(lambda s, y: s + y, np.array([1.0]), t, method="euler")
    assert ys.ravel().tolist() == [1.0, 1.5, 1.5 + 1.5 * 2.0]


@pytest.mark.parametrize("method", ADAPTIVE)
def test_evaluations(method: str) -> None:
    table = tableau(method)
    calls = 0

    def f(t: float, y: Array) -> Array:
        nonlocal calls
        calls += 1
        return pendulum(t, y)

    stats = solve(f, np.array([2.0, 0.1]), [0.0, 4.0], method=method, rtol=1e-6, options={"first_step": 2.0}).stats
    accepted, trials = int(stats["accepted"]), int(stats["steps"])
    assert int(stats["rejected"]) > 0
    assert calls == stats["evaluations"] == 1 + trials * (table.stages - 1) + (0 if table.fsal else accepted)
    assert trials == accepted + int(stats["rejected"])


def test_pid_coefficients_change_the_steps() -> None:
    plain = solve(pendulum, np.ones(2), [0.0, 20.0], rtol=1e-6)
    pid = solve(pendulum, np.ones(2), [0.0, 20.0], rtol=1e-6, options={"pcoeff": 0.2, "icoeff": 0.4})
    assert int(plain.stats["steps"]) != int(pid.stats["steps"])
    assert np.abs(plain.ys[-1] - pid.ys[-1]).max() < 1e-4


def test_samples_are_independent() -> None:
    y0 = np.random.default_rng(0).standard_normal((3, 4, 2))
    t = np.linspace(0, 3, 5) * np.where(np.arange(12) % 2 == 0, 1, -1).reshape(3, 4, 1)
    both = solve(pendulum, y0, t, rtol=1e-6)
    assert both.ys.shape == (5, 3, 4, 2)
    for i in np.ndindex(3, 4):
        alone = solve(pendulum, y0[i], t[i], rtol=1e-6)
        np.testing.assert_array_equal(both.ys[(slice(None), *i)], alone.ys)
        assert both.stats["steps"][i] == alone.stats["steps"]


def test_one_step_for_the_batch() -> None:
    y0 = np.random.default_rng(0).standard_normal((3, 2))
    calls = []

    def f(t: float, y: Array) -> Array:
        calls.append(y.shape)
        return np.stack([y[:, 1], -np.sin(y[:, 0])], axis=1)

    shared = solve(f, y0, [0.0, 2.0], rtol=1e-8, atol=1e-10, options={"batch_step": "shared"})
    assert set(calls) == {(3, 2)}
    assert shared.stats["steps"].shape == ()
    np.testing.assert_allclose(shared.ys, odeint(pendulum, y0, [0.0, 2.0], rtol=1e-10), atol=1e-7)


def test_complex_states() -> None:
    ys = odeint(lambda t, y: 1j * y, np.array([1.0 + 0j]), [0.0, 3.0], rtol=1e-10, atol=1e-12)
    assert abs(ys[-1, 0] - np.exp(3j)) < 1e-9


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-9])
def test_float32_does_not_stall(rtol: float) -> None:
    solution = solve(pendulum, np.ones(2, np.float32), np.linspace(0, 10, 21), rtol=rtol, atol=rtol)
    assert solution.ys.dtype == np.float32
    assert int(solution.stats["steps"]) < 100_000
    good = np.isfinite(solution.ys).all(axis=1)
    exact = odeint(pendulum, np.ones(2), np.linspace(0, 10, 21), rtol=1e-11, atol=1e-12)
    assert good[0]
    assert np.abs(solution.ys - exact)[good].max() < 1e-4
    assert int(solution.status) in (Status.SUCCESS, Status.STEP_TOO_SMALL)
    assert good.all() == (solution.status == Status.SUCCESS)


# --- how an integration ends


def test_max_steps_keeps_what_there_is() -> None:
    t = np.linspace(0, 100, 11)
    solution = solve(pendulum, np.ones(2), t, rtol=1e-8, options={"max_steps": 200})
    assert (int(solution.status), int(solution.stats["steps"])) == (Status.MAX_STEPS, 200)
    reached = t <= solution.t_end
    assert 1 < reached.sum() < 11
    np.testing.assert_array_equal(np.isfinite(solution.ys).all(axis=1), reached)
    exact = odeint(pendulum, np.ones(2), [0.0, float(solution.t_end)], rtol=1e-11)[-1]
    np.testing.assert_allclose(solution.y_end, exact, atol=1e-6)


def test_a_pole_makes_the_step_too_small_or_the_state_infinite() -> None:
    """y' = y^2 from 1 has its pole at 1."""
    for options, status in (({"dt_min": 1e-3}, Status.STEP_TOO_SMALL), ({}, None)):
        solution = solve(lambda t, y: y * y, np.ones(1), [0.0, 0.5, 2.0], rtol=1e-6, options=options)
        assert solution.status in ((Status.STEP_TOO_SMALL, Status.NON_FINITE) if status is None else (status,))
        assert solution.ys[1, 0] == pytest.approx(2, abs=1e-4)
        assert math.isnan(solution.ys[2, 0])
        assert 0.9 < float(solution.t_end) < 1.001


def test_a_field_that_is_not_finite() -> None:
    solution = solve(lambda t, y: np.sqrt(1 - t) * y, np.ones(1), [0.0, 0.5, 2.0])
    assert solution.status == Status.NON_FINITE
    assert np.isfinite(solution.ys).ravel().tolist() == [True, True, False]
    assert float(solution.t_end) == pytest.approx(1, abs=1e-6)
    fixed = solve(lambda t, y: np.sqrt(1 - t) * y, np.ones(1), [0.0, 0.5, 2.0], method="rk4", options={"steps": 3})
    assert fixed.status == Status.NON_FINITE
    assert (float(fixed.t_end), np.isfinite(fixed.ys).ravel().tolist()) == (1.0, [True, True, False]) or (
        float(fixed.t_end) == 0.5
    )
    nowhere = solve(lambda t, y: y * math.nan, np.ones(1), [0.0, 1.0])
    assert nowhere.status == Status.NON_FINITE
    assert nowhere.y_end.tolist() == [1.0]


# --- events


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
@pytest.mark.parametrize("direction", [1, -1])
def test_events_are_located(method: str, direction: int) -> None:
    """cos t crosses 1/2 at pi/3, falling in both directions of time."""
    options = {"steps": 100} if method == "rk4" else {}
    rtol = 1e-5 if method == "heun2" else 1e-9
    t = np.linspace(0, 3, 31) * direction
    solution = solve(
        lambda s, y: np.array([y[1], -y[0]]), np.array([1.0, 0.0]), t, method=method, rtol=rtol, atol=rtol,
        options=options, event=Event(component=0, value=0.5),
    )  # fmt: skip
    assert solution.status == Status.EVENT
    assert float(solution.t_end) == pytest.approx(direction * math.pi / 3, abs=1e3 * rtol)
    assert abs(solution.y_end[0] - 0.5) < 1e-14
    assert solution.y_end[0] <= 0.5
    np.testing.assert_array_equal(np.isfinite(solution.ys).all(axis=1), np.abs(t) <= abs(solution.t_end))
    np.testing.assert_allclose(solution.ys[:11, 0], np.cos(t[:11]), atol=1e4 * rtol)


def test_events_have_a_direction() -> None:
    """sin t crosses 1/2 rising at pi/6 and falling at 5 pi/6; a functional of both components."""
    f, y0 = (lambda s, y: np.array([y[1], -y[0]])), np.array([0.0, 1.0])
    for sign, end in ((0, 1 / 6), (1, 1 / 6), (-1, 5 / 6)):
        solution = solve(f, y0, [0.0, 3.0], event=Event(component=0, value=0.5, direction=sign))
        assert float(solution.t_end) == pytest.approx(end * math.pi, abs=1e-6)
    weights = solve(f, y0, [0.0, 3.0], event=Event(weights=[1.0, -1.0]))  # sin t = cos t
    assert float(weights.t_end) == pytest.approx(math.pi / 4, abs=1e-6)
    never = solve(f, y0, [0.0, 3.0], event=Event(component=0, value=2.0))
    assert never.status == Status.SUCCESS
    start = solve(f, y0, [0.0, 3.0], event=Event(component=0))  # g = 0 at the start does not count
    assert start.status == Status.SUCCESS
    assert float(solve(f, y0, [0.0, 4.0], event=Event(component=0)).t_end) == pytest.approx(math.pi, abs=1e-6)


# --- jumps


def step_field(t: float, y: Array) -> Array:
    """1 before t = 1, -2 y after; at t = 1 nothing that may be used."""
    assert t != 1.0
    return np.ones_like(y) if t < 1 else -2 * y


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("direction", [1, -1])
def test_steps_stop_at_a_jump_of_the_field(method: str, direction: int) -> None:
    t, y0 = ([0.0, 1.5, 2.0], 0.0) if direction > 0 else ([2.0, 0.5, 0.0], math.exp(-2))
    options: dict[str, Any] = {"jump_t": (1.0,)}
    if not tableau(method).adaptive:
        options["steps"] = 64
    rtol = 1e-5 if method == "heun2" else 1e-9
    solution = solve(step_field, np.array([y0]), t, method=method, rtol=rtol, atol=rtol, options=options)
    exact = [0.0, math.exp(-1), math.exp(-2)] if direction > 0 else [math.exp(-2), 0.5, 0.0]
    tolerance = {"euler": 0.05, "midpoint": 1e-3, "heun2": 1e-4}.get(method, 1e-6)
    np.testing.assert_allclose(solution.ys.ravel(), exact, atol=tolerance)


def test_a_jump_that_is_named_costs_no_rejections() -> None:
    def f(t: float, y: Array) -> Array:
        return pendulum(t, y) + (t >= 1)

    blind = solve(f, np.ones(2), [0.0, 3.0], rtol=1e-9)
    named = solve(f, np.ones(2), [0.0, 3.0], rtol=1e-9, options={"jump_t": (1.0, 7.0)})
    assert int(named.stats["rejected"]) < int(blind.stats["rejected"])
    first = odeint(pendulum, np.ones(2), [0.0, 1.0], rtol=1e-12, atol=1e-13)[-1]
    last = odeint(lambda t, y: pendulum(t, y) + 1, first, [1.0, 3.0], rtol=1e-12, atol=1e-13)[-1]
    np.testing.assert_allclose(named.ys[-1], last, atol=1e-7)


# --- arguments


def test_wrong_arguments() -> None:
    for t in ([0.0, 1.0, 1.0], [0.0, 1.0, 0.5], []):
        with pytest.raises(ValueError, match="t: expected strictly monotone"):
            odeint(pendulum, np.ones(2), t)
    with pytest.raises(TypeError, match="y0: expected a floating array"):
        odeint(pendulum, [1, 2], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"options: expected some of .*step_sise"):
        odeint(pendulum, np.ones(2), [0.0, 1.0], options={"step_sise": 1})
    with pytest.raises(ValueError, match=r"func: expected a result of shape \(2,\), got \(1,\)"):
        odeint(lambda t, y: y[:1], np.ones(2), [0.0, 1.0])
    np.testing.assert_array_equal(odeint(pendulum, np.ones((3, 2)), [0.5]), np.ones((1, 3, 2)))
