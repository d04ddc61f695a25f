# SPDX-License-Identifier: MIT
"""The options of a solver: their names, ranges and errors; and the controller that lengthens and shortens steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnsym_fast.ode.controller import PID, Control, first_trial, second_trial
from nnsym_fast.tableaus import tableau


def control(**options: Any) -> Control:
    return Control.from_options(1e-6, 1e-8, options)[0]


# --- options


def test_defaults() -> None:
    assert control() == Control(1e-6, 1e-8)
    assert Control.from_options(1e-6, 1e-8, None) == (Control(1e-6, 1e-8), {})


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("ifactor", "factor_max", 5.0),
        ("dfactor", "factor_min", 0.5),
        ("max_num_steps", "max_steps", 77),
        ("min_step", "dt_min", 0.1),
        ("max_step", "dt_max", 2.0),
    ],
)
def test_names_of_torchdiffeq(theirs: str, ours: str, value: float) -> None:
    assert control(**{theirs: value}) == control(**{ours: value}) != control()
    with pytest.raises(ValueError, match="given twice"):
        control(**{theirs: value, ours: value})


def test_numbers_of_any_framework() -> None:
    torch = pytest.importorskip("torch")
    found, rest = Control.from_options(
        torch.tensor([1e-3, 1e-4]),
        np.float32(0.5),
        {
            "first_step": torch.tensor(0.25), "jump_t": torch.tensor([2.0, 1.0, 2.0]), "max_steps": 1e5,
            "compiled": "auto", "pcoeff": np.float64(0.25), "checkpoints": np.int64(3), "batch_step": None,
        },
    )  # fmt: skip
    assert rest == {"compiled": "auto"}
    assert found.rtol == pytest.approx((1e-3, 1e-4))
    assert (found.atol, found.first_step, found.jump_t) == (0.5, 0.25, (1.0, 2.0))
    assert (found.max_steps, found.pcoeff, found.checkpoints) == (100_000, 0.25, 3)
    assert isinstance(hash(found), int), "plans of kernels are kept by their options"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"stepsize": 0.1}, ValueError, r"options\['stepsize'\]: not an option.*step_size"),
        ({"norm": max}, ValueError, "norm.*rtol and atol one number for each component"),
        ({"grid_constructor": None}, ValueError, "'steps' or 'step_size'"),
        ({"steps": 2, "step_size": 0.1}, ValueError, "expected one of them"),
        ({"steps": 0}, ValueError, "steps.*expected 1 or more, got 0"),
        ({"steps": 2.5}, TypeError, "steps.*expected an integer, got 2.5"),
        ({"step_size": -0.1}, ValueError, "step_size.*above 0, got -0.1"),
        ({"step_size": "0.1"}, TypeError, "step_size.*expected a number, got str"),
        ({"safety": 1.5}, ValueError, r"safety.*\(0, 1\]"),
        ({"factor_min": 1.0}, ValueError, "factor_min"),
        ({"factor_max": 0.5}, ValueError, "factor_max.*1 or more"),
        ({"icoeff": 0.0}, ValueError, "large error shortens the step"),
        ({"dt_min": 1.0, "dt_max": 0.5}, ValueError, "dt_min.*at most dt_max"),
        ({"dt_min": -1.0}, ValueError, "dt_min"),
        ({"dt_max": math.nan}, ValueError, "dt_max.*nan"),
        ({"first_step": math.inf}, ValueError, "first_step.*finite"),
        ({"max_steps": True}, TypeError, "max_steps.*bool"),
        ({"jump_t": [math.inf]}, ValueError, "jump_t.*finite"),
        ({"jump_t": "x"}, TypeError, "jump_t.*sequence"),
        ({"batch_step": "all"}, ValueError, "'sample', 'shared', got 'all'"),
        ({"checkpoints": 0}, ValueError, "checkpoints"),
    ],
)
def test_errors_name_the_option(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        control(**options)


@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf, [1e-3, -1.0]])
def test_tolerances_are_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="rtol"):
        Control.from_options(value, 1e-8, {})


def test_a_tolerance_of_zero_has_no_step() -> None:
    with pytest.raises(ValueError, match="no step has an error of 0"):
        Control.from_options(0.0, 0.0, {})
    assert Control.from_options(0.0, 0.0, {"steps": 4})[0].steps == 4


# --- fixed steps


def test_fixed_steps() -> None:
    t = np.array([[0.0, 1.0, 1.5], [3.0, 2.0, 1.9]])
    assert control().fixed_steps(t, tableau("dopri5")) is None
    for options, expected in (
        ({}, [[1, 1], [1, 1]]),
        ({"steps": 3}, [[3, 3], [3, 3]]),
        ({"step_size": 0.1}, [[10, 5], [10, 1]]),
        ({"step_size": 0.3}, [[4, 2], [4, 1]]),
    ):
        found = control(**options).fixed_steps(t, tableau("rk4"))
        assert found is not None
        assert found.dtype == np.int64
        assert found.tolist() == expected


# --- control


def test_the_elementary_controller() -> None:
    pid = PID(control(), 5, 4)
    accepted, factor = pid.decide(np.array([0.0, 1e-20, 1.0, 0.9**5 / 2**5]))
    assert accepted.all()
    np.testing.assert_allclose(factor, [10.0, 10.0, 1.0, 2.0])
    accepted, factor = pid.decide(np.array([1.0001, 32.0, 1e30, math.inf]))
    assert not accepted.any()
    np.testing.assert_allclose(factor, [0.9, 0.45, 0.2, 0.2], rtol=1e-3)


def test_pid_remembers_accepted_errors() -> None:
    p, i, d, k = 0.3, 0.4, 0.1, 4
    pid = PID(control(pcoeff=p, icoeff=i, dcoeff=d), k, 1)
    before = [1.0, 1.0]
    for error in (0.5, 3.0, 0.7, 0.2):
        accepted, factor = pid.decide(np.array([error]))
        expected = 0.9 * error ** (-(p + i + d) / k) * before[0] ** ((p + 2 * d) / k) * before[1] ** (-d / k)
        clipped = np.clip(expected, *((1.0, 10.0) if error <= 1 else (0.2, 0.9)))
        np.testing.assert_allclose(factor, clipped)
        assert accepted == (error <= 1)
        if accepted:
            before = [error, before[0]]


def test_the_first_step() -> None:
    """y' = -y with y = 1 and a tolerance of 1e-6: Euler's step is 0.01, the first one (0.01 tolerance)^(1/5)."""
    d0 = d1 = np.array([1e6])
    h0 = first_trial(d0, d1, np.array([10.0]))
    np.testing.assert_allclose(h0, 0.01)
    h = second_trial(h0, d1, h0 * 1e6, np.array([10.0]), 5)
    np.testing.assert_allclose(h, (0.01 / 1e6) ** 0.2)
    assert first_trial(d0, d1, np.array([1e-3])) == 1e-3
    zero = np.zeros(1)
    assert second_trial(first_trial(zero, zero, np.ones(1)), zero, zero, np.ones(1), 5) == 1e-6 * 100 / 100
    assert second_trial(np.array([1e-6]), np.array([math.nan]), zero, np.ones(1), 5) == 1e-6
