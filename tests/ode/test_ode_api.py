# SPDX-License-Identifier: MIT
"""The public functions with compiled fields: shapes, dtypes, frameworks, statuses, events, options."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, ORDERS
from ode_fields import FIELDS, field, start

import nnsym_fast as nf
from nnsym_fast import ode, reference

T = [0.0, 0.3, 1.0]
ROTATION = np.array([[0.0, -1.0], [1.0, 0.0]])


def decay(dtype: str = "float64") -> ode.Linear:
    return ode.Linear(-np.eye(1, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3), (0,), (4, 0)])
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_shapes_and_dtypes(method: str, batch: tuple[int, ...], dtype: str) -> None:
    y0 = start("mlp none", *batch, dtype=dtype)
    found = ode.solve(field("mlp none", dtype), y0, T, method=method)
    assert (found.ys.shape, found.ys.dtype) == ((3, *y0.shape), y0.dtype)
    assert np.array_equal(found.ys[0], y0)
    assert np.array_equal(found.y_end, found.ys[-1])
    assert found.ts.dtype == np.float64
    for value, kind in ((found.status, np.int32), (found.t_end, np.float64), (found.stats["steps"], np.int64)):
        assert (value.shape, value.dtype) == (batch, kind)
    assert set(found.stats) == {"steps", "accepted", "rejected", "evaluations"}
    assert np.array_equal(ode.odeint(field("mlp none", dtype), y0, T, method=method), found.ys)
    assert np.array_equal(ode.odeint_adjoint(field("mlp none", dtype), y0, T, method=method), found.ys)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_batch_is_its_samples(name: str, method: str) -> None:
    """Bit for bit, in NumPy and torch."""
    torch = pytest.importorskip("torch")
    y0 = start(name, 3)
    together = ode.solve(field(name), y0, T, method=method)
    tensors = ode.solve(field(name), torch.from_numpy(y0), T, method=method)
    assert np.array_equal(tensors.ys.numpy(), together.ys)
    assert isinstance(tensors.status, torch.Tensor)
    for i in range(3):
        alone = ode.solve(field(name), y0[i], T, method=method)
        assert np.array_equal(alone.ys, together.ys[:, i])
        assert alone.stats["evaluations"] == together.stats["evaluations"][i]


@pytest.mark.parametrize("method", ORDERS)
def test_the_definition(method: str) -> None:
    """Values, statuses and counts of the reference."""
    y0 = start("mlp none", 3)
    net = field("mlp none")
    settings: dict[str, Any] = {"method": method, "rtol": 1e-5, "atol": 1e-7}
    found = ode.solve(net, y0, T, **settings)
    expected = reference.ode.solve(lambda t, y: net(t, y), y0, T, **settings)
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-11, atol=1e-12)
    for key in found.stats:
        assert np.array_equal(found.stats[key], expected.stats[key]), key


def test_times() -> None:
    """As lists, integers, arrays of each sample, descending, or one alone."""
    y0 = start("mlp concat", 2)
    net = field("mlp concat")
    expected = ode.odeint(net, y0, np.array([0.0, 1.0, 2.0]))
    assert np.array_equal(ode.odeint(net, y0, [0, 1, 2]), expected)
    assert np.array_equal(ode.odeint(net, y0, np.array([0, 1, 2], np.float32)), expected)
    assert np.array_equal(ode.odeint(net, y0, np.array([[0.0, 1.0, 2.0]] * 2)), expected)
    assert np.array_equal(ode.odeint(net, y0, [[0.0, 1.0, 2.0]]), expected)
    each = np.array([[0.0, 0.5, 1.0], [2.0, 1.0, -1.0]])
    rows = ode.odeint(net, y0, each)
    for i in range(2):
        assert np.array_equal(rows[:, i], ode.odeint(net, y0[i], each[i]))
    for t in ([0.5], [[0.5], [0.7]]):
        found = ode.solve(net, y0, t)
        assert np.array_equal(found.ys, y0[None])
        assert (found.status == 0).all()
        assert found.t_end.tolist() == np.broadcast_to(np.array(t)[..., -1], 2).tolist()


def test_there_and_back() -> None:
    net, y0 = field("mlp gate"), start("mlp gate", 4)
    there = ode.odeint(net, y0, [0.0, 1.5], rtol=1e-11, atol=1e-12)[-1]
    np.testing.assert_allclose(ode.odeint(net, there, [1.5, 0.0], rtol=1e-11, atol=1e-12)[-1], y0, atol=1e-9)


def test_lists_and_layouts() -> None:
    rotation = ode.Linear(ROTATION)
    expected = ode.odeint(rotation, np.array([[1.0, 0.0], [0.0, 2.0]]), T)
    assert np.array_equal(ode.odeint(rotation, [[1.0, 0.0], [0.0, 2.0]], T), expected)
    assert np.array_equal(ode.odeint(rotation, np.array([[1.0, 0.0], [0.0, 2.0]]).T.copy().T, T), expected)
    wide = np.zeros((2, 4))
    wide[:, ::2] = [[1.0, 0.0], [0.0, 2.0]]
    assert np.array_equal(ode.odeint(rotation, wide[:, ::2], T), expected)
    swapped = wide[:, ::2].astype(">f8")
    assert np.array_equal(ode.odeint(rotation, swapped, T), expected)
    frozen = np.array([[1.0, 0.0], [0.0, 2.0]])
    frozen.flags.writeable = False
    assert np.array_equal(ode.odeint(rotation, frozen, T), expected)


# --- steps and status


def test_fixed_steps() -> None:
    found = ode.solve(decay(), np.ones(1), [0.0, 0.5, 2.0], method="rk4", options={"steps": 5})
    assert found.stats["steps"] == 10
    found = ode.solve(decay(), np.ones(1), [0.0, 0.5, 2.0], method="dopri5", options={"step_size": 0.25})
    assert found.stats["steps"] == 8
    assert found.stats["rejected"] == 0
    once = ode.odeint(decay(), np.ones(1), [0.0, 1.0], method="euler", options={"steps": 2})
    assert once[-1] == 0.25


def test_tolerances_of_components() -> None:
    net = ode.Linear(np.diag([-1.0, -30.0]))
    loose = ode.solve(net, np.ones(2), [0.0, 1.0], rtol=[1e-9, 1e9], atol=[1e-9, 1e9])
    tight = ode.solve(net, np.ones(2), [0.0, 1.0], rtol=1e-9, atol=np.array([1e-9, 1e-9]))
    assert loose.stats["steps"] < tight.stats["steps"]
    assert abs(tight.ys[-1] - np.exp([-1.0, -30.0])).max() < 1e-8


def test_events() -> None:
    rotation = ode.Linear(ROTATION)
    y0 = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1e-3]])
    times = np.linspace(0, 7, 15)
    settings: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
    for event in (ode.Event(component=0), ode.Event(component=-2), ode.Event(weights=[2.0, 0.0])):
        found = ode.solve(rotation, y0[:2], times, event=event, **settings)
        assert found.status.tolist() == [ode.Status.EVENT] * 2
        np.testing.assert_allclose(found.t_end, [np.pi / 2, np.pi], atol=1e-8)  # a zero at the start does not count
        np.testing.assert_allclose(found.y_end[:, 0], 0, atol=1e-8)
        assert np.isnan(found.ys[times > found.t_end[0], 0]).all()
        assert np.isfinite(found.ys[times <= found.t_end[0], 0]).all()
    rising = ode.solve(rotation, y0[:1], times, event=ode.Event(component=0, direction=1), **settings)
    np.testing.assert_allclose(rising.t_end, [3 * np.pi / 2], atol=1e-8)
    shifted = ode.solve(rotation, y0[:1], times, event=ode.Event(weights=(1.0, 1.0), value=-1.0), **settings)
    np.testing.assert_allclose(shifted.t_end, [np.pi], atol=1e-8)
    never = ode.solve(rotation, y0[:1], times, event=ode.Event(component=0, value=5.0))
    assert never.status.tolist() == [ode.Status.SUCCESS]


def test_statuses_and_their_warning() -> None:
    """Each trajectory has its own; odeint counts them once, solve says nothing."""
    explosion = ode.MLP([np.eye(1), np.eye(1)], None, activation=["identity", "elu"])
    y0 = np.array([[-1.0], [700.0]])
    assert ode.solve(explosion, y0, T).status.tolist() == [0, 0]
    grow = ode.Linear(np.full((1, 1), 400.0, np.float32))
    found = ode.solve(grow, np.array([[0.0], [1.0]], np.float32), [0.0, 1.0], method="rk4", options={"steps": 400})
    assert found.status.tolist() == [ode.Status.SUCCESS, ode.Status.NON_FINITE]
    assert np.isnan(found.ys[-1, 1])
    assert found.ys[-1, 0] == 0
    limited = {"max_steps": 3}
    found = ode.solve(decay(), np.ones((2, 1)), [0.0, 50.0], options=limited)
    assert found.status.tolist() == [ode.Status.MAX_STEPS] * 2
    assert (found.t_end < 50).all()
    assert np.isfinite(found.y_end).all()
    with pytest.warns(RuntimeWarning, match=r"2 of 2 samples took max_steps steps .*options\['max_steps'\]"):
        out = ode.odeint(decay(), np.ones((2, 1)), [0.0, 50.0], options=limited)
    assert np.isnan(out[-1]).all()
    with pytest.warns(RuntimeWarning, match="1 of 1 samples needed a step below"):
        ode.odeint(decay(), np.ones(1), [0.0, 50.0], options={"dt_min": 10.0})


def test_single_precision_does_not_stall() -> None:
    for method in ADAPTIVE:
        found = ode.solve(field("mlp none", "float32"), start("mlp none", 4, dtype="float32"), [0.0, 5.0], rtol=1e-6,
                          atol=1e-8, method=method)  # fmt: skip
        assert (found.stats["steps"] < 100_000).all()


def test_discontinuities() -> None:
    """Steps land on the jumps of a piecewise constant field, which makes its solution exact."""
    knots = [0.0, 0.3, 1.0]
    jump = ode.Linear(np.array([[[1.0]], [[-2.0]]]), None, knots, "piecewise")
    exact = np.exp(0.3 - 2 * 0.7)
    found = ode.solve(jump, np.ones(1), [0.0, 1.0], rtol=1e-10, atol=1e-12)
    told = ode.solve(jump, np.ones(1), [0.0, 1.0], rtol=1e-10, atol=1e-12, options={"jump_t": knots[1:-1]})
    assert abs(found.ys[-1, 0] - exact) < 1e-9
    np.testing.assert_array_equal(found.ys, told.ys)
    shared = ode.solve(jump, np.ones(1), [0.0, 1.0], rtol=1e-10, atol=1e-12, options={"batch_step": "shared"})
    assert abs(shared.ys[-1, 0] - exact) < 1e-9
    fixed = ode.solve(jump, np.ones(1), [0.0, 1.0], method="rk4", options={"steps": 40})
    assert abs(fixed.ys[-1, 0] - exact) < 1e-6
    back = ode.odeint(jump, np.ones(1), [1.0, 0.0], rtol=1e-10, atol=1e-12, options={"jump_t": 0.3})
    assert abs(back[-1, 0] - 1 / exact) < 1e-8


def test_two_knots_of_a_cubic() -> None:
    """One Hermite piece between two values is the line between them."""
    w = np.array([[[0.5]], [[-1.0]]])
    both = [ode.odeint(ode.Linear(w, None, [0.0, 1.0], kind), np.ones(1), [0.0, 1.0]) for kind in ("cubic", "linear")]
    np.testing.assert_allclose(*both, rtol=1e-8)


def test_too_many_steps() -> None:
    with pytest.raises(ValueError, match=r"options\['step_size'\]: expected at most 2\^31 steps"):
        ode.odeint(field("mlp concat"), start("mlp concat", 3), T, method="rk4", options={"step_size": 1e-20})


def test_required_kernels_choose_a_step_for_each_sample() -> None:
    with pytest.raises(ValueError, match="batch_step"):
        ode.odeint(
            field("mlp concat"), start("mlp concat", 3), T, options={"batch_step": "shared", "compiled": "require"}
        )


# --- what runs


def test_functions_and_fields_agree() -> None:
    """A shared step, a function of Python, and torch's modules take the same road as the kernel."""
    net, y0 = field("mlp concat"), start("mlp concat", 3)
    expected = ode.odeint(net, y0, T)
    shared = ode.solve(net, y0, T, options={"batch_step": "shared"})
    np.testing.assert_allclose(shared.ys, expected, atol=1e-6)
    never = ode.odeint(lambda t, y: net(t, y), y0, T, options={"compiled": "never"})
    np.testing.assert_allclose(never, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"^func: function cannot run in the kernel: it is no module"):
        ode.odeint(lambda t, y: -y, y0, T, options={"compiled": "require"})
    ode.odeint(net, y0, T, options={"compiled": "require"})


def test_it_says_once_that_it_is_not_compiled() -> None:
    ode.solve.__globals__["_told"].clear()
    with pytest.warns(ode.NotCompiledWarning, match="it is called from Python at every stage"):
        ode.odeint(lambda t, y: -y, np.ones(1), T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ode.odeint(lambda t, y: -y, np.ones(1), T)


def test_numpy_parameters_with_tensors() -> None:
    """Arrays are constants of a torch solution."""
    torch = pytest.importorskip("torch")
    y0 = torch.from_numpy(start("mlp none", 2)).requires_grad_()
    out = ode.odeint(field("mlp none"), y0, T)
    (grad,) = torch.autograd.grad(out.sum(), y0)
    assert grad.shape == y0.shape


def test_exports() -> None:
    assert nf.odeint is ode.odeint
    assert nf.odeint_adjoint is ode.odeint_adjoint
    code = "import nnsym_fast.ode, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tableaus() -> None:
    """A method of one's own, which a built-in name is short for."""
    from nnsym_fast.tableaus import Tableau, tableau

    y0 = start("mlp none", 2)
    expected = ode.odeint(field("mlp none"), y0, T, method="rk4")
    assert np.array_equal(ode.odeint(field("mlp none"), y0, T, method=tableau("rk4")), expected)
    ralston = Tableau("Ralston", "Ralston 1962", 2, c=(0, 2 / 3), a=((), (2 / 3,)), b=(1 / 4, 3 / 4))
    found = ode.odeint(decay(), np.ones(1), [0.0, 0.5], method=ralston)
    assert abs(found[-1, 0] - (1 - 0.5 + 0.125)) < 1e-15
