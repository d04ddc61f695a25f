# SPDX-License-Identifier: MIT
"""The driver for any callable: against its definition, exact solutions and scipy; states, jumps, events, statuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ode_cases import PROBLEMS
from scipy.integrate import solve_ivp

from nnsym_fast.ode.controller import Control
from nnsym_fast.ode.driver import integrate
from nnsym_fast.reference import ode as reference
from nnsym_fast.tableaus import METHODS, tableau

torch = pytest.importorskip("torch")

SUCCESS, EVENT, MAX_STEPS, STEP_TOO_SMALL, NON_FINITE = range(5)
MATRIX = np.random.default_rng(0).normal(size=(3, 3))
START = np.random.default_rng(1).normal(size=(5, 3))
TIMES = np.linspace(0.0, 2.0, 6)


def run(func: Any, y0: Any, t: Any, method: str = "dopri5", rtol: Any = 1e-7, atol: Any = 1e-9, **options: Any) -> Any:
    event = options.pop("event", None)
    return integrate(func, y0, t, tableau(method), Control.from_options(rtol, atol, options)[0], event)


def waves(t: Any, y: Any) -> Any:
    """A field for t that is a number, or one for each sample."""
    return np.sin(y @ MATRIX.T + (np.asarray(t)[..., None] if np.ndim(t) else t))


def torch_waves(t: Any, y: Any) -> Any:
    return torch.sin(y @ torch.from_numpy(MATRIX.T.copy()).to(y.dtype) + (t[..., None] if t.ndim else t))


# --- the definition


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_definition(method: str, backward: bool, batch_step: str) -> None:
    t = TIMES[::-1] if backward else TIMES
    cases: list[dict[str, Any]] = [{}, {"jump_t": (0.5, 1.2)}, {"step_size": 0.13, "jump_t": (0.5, 1.2)}]
    if method in ("dopri5", "heun2"):
        cases += [{"steps": 7}, {"pcoeff": 0.2, "dcoeff": 0.1}, {"first_step": 0.1, "dt_max": 0.2}]
    for options in cases:
        found = run(waves, START, t, method, 1e-5, 1e-7, batch_step=batch_step, **options)
        expected = reference.solve(
            waves, START, t, rtol=1e-5, atol=1e-7, method=method, options={**options, "batch_step": batch_step}
        )
        np.testing.assert_allclose(found.ys, expected.ys, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.y_end, expected.y_end, rtol=0, atol=1e-11)
        np.testing.assert_array_equal(found.t_end, expected.t_end)
        np.testing.assert_array_equal(found.status, expected.status)
        for number, name in enumerate(("accepted", "rejected", "evaluations")):
            np.testing.assert_array_equal(found.stats[..., number], expected.stats[name], err_msg=f"{name} {options}")


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("options", [{}, {"steps": 5}, {"step_size": 0.3, "jump_t": [0.7]}])
@pytest.mark.parametrize("method", ["rk4_38", "dopri5", "dopri8"])
def test_torch_agrees_with_numpy(method: str, options: dict[str, Any], batch_step: str) -> None:
    expected = run(waves, START, TIMES, method, batch_step=batch_step, **options)
    found = run(torch_waves, torch.from_numpy(START), torch.from_numpy(TIMES), method, batch_step=batch_step, **options)
    np.testing.assert_allclose(found.ys.numpy(), expected.ys, rtol=0, atol=1e-10)
    assert (found.ys.dtype, found.status.dtype, found.t_end.dtype) == (torch.float64, torch.int32, torch.float64)
    np.testing.assert_array_equal(found.stats.numpy(), expected.stats)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("options", [{}, {"step_size": 0.1, "jump_t": [0.33, 0.8]}])
def test_times_of_each_sample(method: str, options: dict[str, Any]) -> None:
    """Also in both directions at once; each sample is what it is alone."""
    t = np.stack([TIMES, TIMES[::-1], TIMES / 3, 1 - TIMES, TIMES + 4])
    found = run(waves, START, t, method, batch_step="sample", **options)
    for sample in range(5):
        alone = run(waves, START[sample], t[sample], method, batch_step="sample", **options)
        assert alone.status == SUCCESS
        np.testing.assert_allclose(found.ys[:, sample], alone.ys, rtol=0, atol=1e-13)
        np.testing.assert_array_equal(found.stats[sample], alone.stats)
    with pytest.raises(ValueError, match="t: expected shape"):
        run(waves, START, t, method, batch_step="shared")


# --- exact solutions, scipy


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dopri8"])
def test_exact_solutions(name: str, method: str) -> None:
    problem, t = PROBLEMS[name], np.linspace(0.0, 1.0, 41)
    expected = np.array([problem.exact(time) for time in t])
    tolerance = 1e-8 if method == "bosh3" else 1e-11
    found = run(problem.f, problem.exact(0.0), t, method, tolerance, tolerance)
    assert found.status == SUCCESS
    np.testing.assert_allclose(found.ys, expected, rtol=100 * tolerance, atol=100 * tolerance)


def test_scipy_at_tight_tolerance() -> None:
    exact = solve_ivp(lambda t, y: waves(t, y), (0, 2), START[0], "DOP853", TIMES, rtol=1e-13, atol=1e-14).y.T
    found = run(waves, START[0], TIMES, "dopri8", 1e-12, 1e-12)
    np.testing.assert_allclose(found.ys, exact, rtol=0, atol=2e-11)


# --- states


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_complex_states(kind: str, method: str) -> None:
    """y' = i w y keeps the modulus; errors are measured by it."""
    frequency = np.array([1.0, 2.0, -3.0])
    y0, t = np.array([1.0 + 0j, 1j, 1 + 1j]), np.linspace(0, 1, 5)
    options: dict[str, Any] = {"steps": 50} if method == "rk4" else {"rtol": 1e-9, "atol": 1e-9}
    if kind == "numpy":
        found = run(lambda t, y: 1j * frequency * y, y0, t, method, **options).ys
    else:
        omega = torch.from_numpy(1j * frequency)
        found = run(lambda t, y: omega * y, torch.from_numpy(y0), torch.from_numpy(t), method, **options).ys.numpy()
    np.testing.assert_allclose(found, np.exp(1j * t[:, None] * frequency) * y0, atol=2e-7)


@pytest.mark.parametrize("batch_step", ["sample", "shared"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_tuple_states(kind: str, batch_step: str) -> None:
    """A pendulum in two arrays, beside one in a single array."""
    x, v = START[:, :1], START[:, 1:2]
    if kind == "torch":
        x, v, sin = torch.from_numpy(x), torch.from_numpy(v), torch.sin
    else:
        sin = np.sin
    tight: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10, "batch_step": batch_step}
    found = run(lambda t, s: (s[1], -sin(s[0])), (x, v), TIMES, **tight)
    assert [tuple(part.shape) for part in found.ys] == [(6, 5, 1), (6, 5, 1)]
    assert [tuple(part.shape) for part in found.y_end] == [(5, 1), (5, 1)]
    together = run(lambda t, y: np.stack([y[..., 1], -np.sin(y[..., 0])], -1), START[:, :2], TIMES, **tight).ys
    np.testing.assert_allclose(np.concatenate([np.asarray(part) for part in found.ys], -1), together, atol=1e-8)


def test_tolerances_of_components() -> None:
    """A component with a wide tolerance does not shorten the steps."""
    field = lambda t, y: np.stack([-y[..., 0], 100 * np.cos(100 * t) + 0 * y[..., 1]], -1)  # noqa: E731
    y0, t = np.array([[1.0, 0.0]]), [0.0, 1.0]
    tight = run(field, y0, t, rtol=0.0, atol=1e-8)
    wide = run(field, y0, t, rtol=0.0, atol=(1e-8, 1e3))
    assert wide.stats[0] < tight.stats[0] / 3
    parts = run(lambda t, s: (-s[0], 100 * np.cos(100 * t) + 0 * s[1]), (y0[:, :1], y0[:, 1:]), t, atol=(1e-8, 1e3))
    assert parts.stats[0] < tight.stats[0] / 3
    with pytest.raises(ValueError, match="atol: expected a number, or one for each of 2 components"):
        run(field, y0, t, atol=(1e-8, 1e-8, 1e-8))


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (0, 3), (1, 1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    for y0 in (np.ones(shape), torch.ones(shape)):
        found = run(lambda t, y: -y, y0, [0.0, 0.5, 1.0])
        assert tuple(found.ys.shape) == (3, *shape)
        assert tuple(found.status.shape) == ()
        np.testing.assert_allclose(np.asarray(found.ys[2]), np.full(shape, math.exp(-1)), rtol=1e-6)
    assert run(lambda t, y: -y, np.ones(shape), [2.0]).ys.shape == (1, *shape)


def test_the_time_that_functions_get() -> None:
    """A number of the real dtype of the state; one for each sample where each has its own step."""
    for dtype, real in ((torch.float32, torch.float32), (torch.complex128, torch.float64)):
        seen = []
        run(lambda t, y: seen.append(t) or y, torch.ones(2, 3, dtype=dtype), [0.0, 1.0], "rk4")  # noqa: B023
        assert {(time.dtype, tuple(time.shape)) for time in seen} == {(real, ())}
        seen.clear()
        run(lambda t, y: seen.append(t) or y, torch.ones(2, 3, dtype=dtype), [0.0, 1.0], batch_step="sample")  # noqa: B023
        assert {(time.dtype, tuple(time.shape)) for time in seen} == {(real, (2,))}
    kinds = []
    run(lambda t, y: kinds.append(type(t)) or y, np.ones(3, np.float32), [0.0, 1.0], "rk4")
    assert set(kinds) == {np.float32}
    found = run(lambda t, y: torch.cat([y[:, :1], t.expand(2, 1)], 1), torch.ones(2, 2), [0.0, 1.0])
    np.testing.assert_allclose(found.ys[-1], [[math.e, 1.5]] * 2, rtol=1e-5)


def test_lists_are_accepted_from_numpy_functions() -> None:
    for dtype in (np.float32, np.float64):
        found = run(lambda t, y: [y[1], -y[0]], np.array([1.0, 0.0], dtype), [0.0, 1.0], rtol=1e-5, atol=1e-6)
        assert found.ys.dtype == dtype
        np.testing.assert_allclose(found.ys[-1], [math.cos(1), -math.sin(1)], atol=1e-4)


# --- jumps, events, statuses


@pytest.mark.parametrize("method", ["rk4", "bosh3", "dopri5", "dopri8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backward", [False, True])
def test_jumps(method: str, dtype: Any, backward: bool) -> None:
    """y' = 1 before 0.3, -2 after: exact, if no stage looks across."""
    t = np.array([0.0, 0.2, 0.3, 0.9])
    exact = np.where(t < 0.3, t, 0.3 - 2 * (t - 0.3))[:, None]
    t, exact = (t[::-1], exact[::-1]) if backward else (t, exact)
    found = run(
        lambda t, y: np.where(t < 0.3, np.ones_like(y), -2 * np.ones_like(y)),
        exact[0].astype(dtype),
        t,
        method,
        jump_t=[0.3],
    )
    assert found.status == SUCCESS
    np.testing.assert_allclose(found.ys, exact, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("options", [{}, {"steps": 9}])
@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_events_of_each_sample(method: str, options: dict[str, Any]) -> None:
    """Oscillators of different phase meet x = 1/2, falling."""
    phase = np.array([0.0, 0.5, 1.0, -2.0])
    y0 = np.stack([np.cos(phase), -np.sin(phase)], -1)
    event = ((1.0, 0.0), 0.5, -1)
    found = run(
        lambda t, y: np.stack([y[..., 1], -y[..., 0]], -1), y0, np.linspace(0, 1, 11), method, 1e-10, 1e-10,
        batch_step="sample", event=event, **options,
    )  # fmt: skip
    crossing = math.pi / 3 - phase
    met = (crossing > 0) & (crossing < 1)
    np.testing.assert_array_equal(found.status, np.where(met, EVENT, SUCCESS))
    np.testing.assert_allclose(found.t_end[met], crossing[met], atol=1e-8 if not options else 1e-6)
    np.testing.assert_allclose(found.y_end[met, 0], 0.5, atol=1e-14)
    assert (found.y_end[met, 0] <= 0.5).all()
    late = np.linspace(0, 1, 11)[:, None] > found.t_end
    np.testing.assert_array_equal(np.isnan(found.ys[..., 0]), late)


def test_events_need_steps_of_each_sample() -> None:
    with pytest.raises(ValueError, match='"batch_step": "sample"'):
        run(lambda t, y: -y, np.ones((2, 2)), [0.0, 1.0], event=((1.0, 0.0), 0.5, 0))
    with pytest.raises(ValueError, match="expected a real state"):
        run(lambda t, y: -y, np.ones(2, complex), [0.0, 1.0], event=((1.0, 0.0), 0.5, 0))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_one_sample_ends_early(method: str) -> None:
    """y' = y^2 leaves for infinity at 1 / y0; the other samples are what they are alone."""
    y0, t = np.array([[0.5], [2.0], [-1.0]]), np.linspace(0.0, 1.0, 5)
    field = lambda t, y: y**2  # noqa: E731
    options: dict[str, Any] = {"steps": 50} if method == "rk4" else {}
    with np.errstate(all="ignore"):
        found = run(field, y0, t, method, batch_step="sample", **options)
    assert found.status[0] == found.status[2] == SUCCESS
    assert found.status[1] in (STEP_TOO_SMALL, NON_FINITE)
    assert 0.49 < found.t_end[1] < (0.501 if method == "dopri5" else 0.6)
    assert np.isfinite(found.y_end).all()
    np.testing.assert_array_equal(np.isnan(found.ys[:, 1, 0]), t > found.t_end[1])
    for sample in (0, 2):
        alone = run(field, y0[sample], t, method, batch_step="sample", **options)
        np.testing.assert_array_equal(found.ys[:, sample], alone.ys)


def test_a_shared_fixed_step_keeps_what_is_finite() -> None:
    y0 = torch.tensor([[0.5], [2.0]])
    found = run(lambda t, y: y**2, y0, [0.0, 0.5, 1.0], "rk4", steps=50)
    assert found.status == NON_FINITE
    assert torch.isfinite(found.ys[:, 0]).all()
    assert not torch.isfinite(found.ys[-1, 1]).any()
    assert 0.5 <= found.t_end < 0.6


def test_statuses() -> None:
    t = [0.0, 0.5, 1.0]
    found = run(waves, START, t, max_steps=2)
    assert found.status == MAX_STEPS
    assert found.stats[:2].sum() == 2
    assert found.t_end < 1
    assert np.isnan(found.ys[2]).all()
    found = run(lambda t, y: y / 0 if t > 0.25 else y, torch.ones(1, 2).double(), t)
    assert found.status == NON_FINITE
    assert 0 < found.t_end <= 0.25
    coarse = run(lambda t, y: torch.sin(1000 * y), torch.ones(1, 2), t, dt_min=0.1)
    assert coarse.status == STEP_TOO_SMALL


@pytest.mark.parametrize("method", ["heun2", "dopri5", "dopri8"])
def test_float32_does_not_stall(method: str) -> None:
    found = run(torch_waves, torch.from_numpy(START).float(), TIMES, method, 1e-7, 1e-9)
    assert found.status in (SUCCESS, STEP_TOO_SMALL)
    assert found.stats[:2].sum() < 20_000


# --- functions that return something else


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (lambda y: y[:, :2], ValueError, r"func: expected the derivative of y.*\(5, 3\).*got Tensor of shape \(5, 2\)"),
        (lambda y: y[:1], ValueError, r"got Tensor of shape \(1, 3\).*without broadcasting"),
        (lambda y: y.float(), TypeError, "float64 on cpu, got Tensor of shape.*float32"),
        (lambda y: y.to("meta"), TypeError, "on meta"),
        (lambda y: y.numpy(), TypeError, "expected the derivative of y, a torch tensor.*got ndarray"),
        (lambda y: None, TypeError, "got NoneType"),
        (lambda y: (y, y), TypeError, "got tuple"),
    ],
)
@pytest.mark.parametrize("batch_step", ["sample", "shared"])
def test_wrong_results_of_torch_functions(result: Any, error: type[Exception], match: str, batch_step: str) -> None:
    with pytest.raises(error, match=match):
        run(lambda t, y: result(y), torch.from_numpy(START), TIMES, batch_step=batch_step)


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (lambda y: y[:, :2], ValueError, r"expected the derivative of y, a NumPy array of its shape \(5, 3\)"),
        (lambda y: y.astype(np.float32), TypeError, "dtype float64, got ndarray of shape.*float32"),
        (lambda y: torch.from_numpy(y), TypeError, "got Tensor"),
        (lambda y: [[1.0], [1.0, 2.0]], TypeError, "got list"),
        (lambda y: y + 1j, TypeError, "complex128"),
    ],
)
def test_wrong_results_of_numpy_functions(result: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run(lambda t, y: result(y), START, TIMES)


def test_wrong_tuples() -> None:
    pair = (torch.ones(2, 1), torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected a tuple of 2 derivatives, one for each state of y0, got 1 of them"):
        run(lambda t, y: (y[0],), pair, TIMES)
    with pytest.raises(ValueError, match=r"entry 1 of its result: expected.*\(2, 3\).*\(2, 1\)"):
        run(lambda t, y: (y[0], y[0]), pair, TIMES)
    with pytest.raises(TypeError, match=r"y0\[1\]: expected dtype torch.float32"):
        run(lambda t, y: y, (torch.ones(1), torch.ones(1).double()), TIMES)
    with pytest.raises(TypeError, match=r"y0\[1\]: expected a torch tensor"):
        run(lambda t, y: y, (torch.ones(1), np.ones(1)), TIMES)
    with pytest.raises(ValueError, match=r"y0\[1\]: expected shape \(2, d\)"):
        run(lambda t, y: y, (torch.ones(2, 1), torch.ones(3, 1)), TIMES, batch_step="sample")
    with pytest.raises(TypeError, match="y0: expected floating or complex"):
        run(lambda t, y: y, torch.ones(3, dtype=torch.int64), TIMES)
