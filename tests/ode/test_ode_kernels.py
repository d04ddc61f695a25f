# SPDX-License-Identifier: MIT
"""The kernels against the definition: every activation, use of time and method; awkward shapes; independent samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ode_cases import ACTIVATIONS, ADAPTIVE, ORDERS, Array, Weights, random_mlp, states

import nnsym_fast as nf
from nnsym_fast import reference

pytestmark = pytest.mark.usefixtures("isa")

REQUIRE = {"compiled": "require"}
TOLERANCES: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-7}
T = np.array([0.0, 0.35, 0.4, 1.3])


def definition(net: Weights) -> Callable[[float, Array], Array]:
    return lambda t, y: reference.mlp(t, y, *net)


def assert_as_defined(
    net: Weights, y0: Array, t: Array, options: dict[str, Any], limit: float, **settings: Any
) -> None:
    """The same statuses and numbers of steps, and values to rounding that the flow amplifies."""
    ours = nf.ode.solve(nf.ode.MLP(*net), y0, t, options={**options, **REQUIRE}, **settings)
    slow = reference.solve(definition(net), y0, t, options=options, **settings)
    np.testing.assert_array_equal(ours.status, slow.status)
    for name in ("steps", "accepted", "rejected"):
        np.testing.assert_array_equal(ours.stats[name], slow.stats[name])
    for name in ("ys", "t_end", "y_end"):
        np.testing.assert_allclose(getattr(ours, name), getattr(slow, name), rtol=limit, atol=limit)
    assert ours.ys.dtype == y0.dtype


@pytest.mark.parametrize("time", ["none", "concat", "gate"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_use_of_time(activation: Any, time: str) -> None:
    net = random_mlp(1, (3, 9, 5, 3), activation, time)
    y0 = states(2, 7, 3)
    assert_as_defined(net, y0, T, {"steps": 3}, 1e-13, method="rk4")
    # At a kink the error estimate, and the step with it, feels the last bits of the state.
    limit = 1e-8 if activation == "relu" or not isinstance(activation, str) else 1e-11
    assert_as_defined(net, y0, -T, {}, limit, method="dopri5", **TOLERANCES)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, options) for method in ORDERS for options in ({}, {"steps": 2}, {"step_size": 0.17})),
        *((method, {"pcoeff": 0.2, "icoeff": 0.5}) for method in ADAPTIVE),
    ],
)
def test_every_method(method: str, direction: int, options: dict[str, Any]) -> None:
    net = random_mlp(3, (2, 17, 2), ["gelu", "tanh"], "concat")
    assert_as_defined(net, states(4, 9, 2), direction * T, options, 1e-11, method=method, **TOLERANCES)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_evaluations_are_counted(method: str) -> None:
    net = random_mlp(3, (2, 6, 2), "tanh")
    for t in (T, T[[0, -1]]):
        ours = nf.ode.solve(nf.ode.MLP(*net), states(4, 9, 2), t, method=method, options=REQUIRE, **TOLERANCES)
        slow = reference.solve(definition(net), states(4, 9, 2), t, method=method, **TOLERANCES)
        np.testing.assert_array_equal(ours.stats["evaluations"], slow.stats["evaluations"])


@pytest.mark.parametrize("method", ["rk4", "tsit5", "dopri8"])
def test_tolerances_for_each_component(method: str) -> None:
    net = random_mlp(3, (3, 6, 3), "sin")
    settings: dict[str, Any] = {"method": method, "rtol": [1e-3, 1e-6, 1e-4], "atol": [1e-5, 1e-8, 1e-4]}
    assert_as_defined(net, states(4, 5, 3), T, {}, 1e-11, **settings)


# --- shapes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [*range(1, 71)])
def test_batch_sizes(batch: int, dtype: str) -> None:
    """Around every number of lanes; both kinds of steps."""
    net = random_mlp(0, (3, 11, 3), "tanh", dtype=dtype)
    y0 = states(1, 70, 3, dtype=dtype)
    field = nf.ode.MLP(*net)
    for settings in ({"method": "rk4", "options": {"steps": 2}}, {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}):
        np.testing.assert_array_equal(
            nf.odeint(field, y0[:batch], T, **settings), nf.odeint(field, y0, T, **settings)[:, :batch]
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "widths",
    [
        (1, 1), (1, 1, 1), (1, 3, 1), (2, 5, 2), (3, 7, 3), (4, 8, 4), (5, 17, 5), (7, 31, 7), (8, 33, 9, 8),
        (15, 16, 15), (17, 3, 17), (33, 65, 33), (2, 130, 2), (64, 5, 64), (3, *[6] * 9, 3), (2, *[3, 18] * 8, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("time", ["none", "concat", "gate"])
def test_widths_and_depths(widths: tuple[int, ...], time: str, dtype: str) -> None:
    net = random_mlp(0, widths, "tanh", time, dtype)
    y0 = states(1, 5, widths[0], dtype=dtype)
    eps = float(np.finfo(dtype).eps)
    ours = nf.odeint(nf.ode.MLP(*net), y0, T, method="rk4", options={"steps": 2, **REQUIRE})
    slow = reference.odeint(definition(random_mlp(0, widths, "tanh", time)), y0.astype("float64"), T, method="rk4",
                            options={"steps": 2})  # fmt: skip
    scale = np.abs(slow).max()
    # the weights of float32 are rounded: the definition takes those of float64
    np.testing.assert_allclose(ours, slow, atol=(100 if dtype == "float64" else 30) * eps * scale * len(widths))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (4, 0), (2, 1, 3)])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_batch_axes(shape: tuple[int, ...], method: str) -> None:
    net = random_mlp(0, (3, 4, 3))
    field = nf.ode.MLP(*net)
    y0 = states(1, *shape, 3)
    solution = nf.ode.solve(field, y0, T, method=method, options=REQUIRE)
    assert solution.ys.shape == (4, *shape, 3)
    assert solution.y_end.shape == y0.shape
    for array in (solution.status, solution.t_end, *solution.stats.values()):
        assert array.shape == shape
    flat = nf.odeint(field, y0.reshape(-1, 3), T, method=method, options=REQUIRE)
    np.testing.assert_array_equal(solution.ys.reshape(flat.shape), flat)
    one = nf.odeint(field, y0, T[:1], method=method)
    np.testing.assert_array_equal(one, y0[None])


# --- samples do not see one another


def sensitive() -> Any:
    """A field whose samples need very different steps."""
    net = random_mlp(8, (3, 24, 3), "sin", "concat")
    net.weights[0][...] *= 4
    return nf.ode.MLP(*net)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_samples_do_not_depend_on_the_batch(method: str, dtype: str, threads: Callable[[int], None]) -> None:
    """Bit for bit: in another order, in a part of the batch, alone, with another number of threads."""
    net = random_mlp(8, (3, 24, 3), "sin", "concat", dtype)
    net.weights[0][...] *= 4
    field, y0 = nf.ode.MLP(*net), states(9, 61, 3, dtype=dtype) * np.geomspace(1e-3, 10, 61)[:, None].astype(dtype)
    rtol = 1e-3 if method == "heun2" else 1e-5

    def run(rows: Any) -> nf.ode.Solution:
        return nf.ode.solve(field, y0[rows], T, method=method, rtol=rtol, atol=rtol, options=REQUIRE)

    threads(1)
    whole = run(slice(None))
    if method in ADAPTIVE:
        assert len(set(whole.stats["steps"].tolist())) > 5
    order = np.random.default_rng(0).permutation(61)
    selections = [order, slice(5, 38), [17], [60, 0], np.r_[0:61, 0:61, 3:9]]
    for count in (1, 2, 3):
        threads(count)
        for rows in selections:
            part = run(rows)
            np.testing.assert_array_equal(part.ys, whole.ys[:, rows])
            for name in ("steps", "accepted", "evaluations"):
                np.testing.assert_array_equal(part.stats[name], whole.stats[name][rows])


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_times_of_their_own(method: str) -> None:
    """Forwards and backwards in one batch, short and long: each as if it were alone."""
    field = sensitive()
    rng = np.random.default_rng(1)
    y0 = states(2, 4, 5, 3) / 4
    t = np.cumsum(rng.uniform(0.05, 0.4, (4, 5, 6)), -1) * rng.choice([-1.0, 1.0], (4, 5, 1)) + rng.uniform(
        -1, 1, (4, 5, 1)
    )
    settings: dict[str, Any] = {"method": method, "rtol": 1e-4, "atol": 1e-4, "options": REQUIRE}
    whole = nf.ode.solve(field, y0, t, **settings)
    for i in np.ndindex(4, 5):
        alone = nf.ode.solve(field, y0[i], t[i], **settings)
        np.testing.assert_array_equal(whole.ys[(slice(None), *i)], alone.ys)
        assert whole.stats["steps"][i] == alone.stats["steps"]
    assert not whole.status.any()


def test_a_sample_that_fails_harms_no_other() -> None:
    field = sensitive()
    y0 = states(2, 33, 3) / 4
    good = nf.ode.solve(field, y0, T, rtol=1e-5, options=REQUIRE)
    y0[7], y0[20] = np.nan, np.inf
    bad = nf.ode.solve(field, y0, T, rtol=1e-5, options=REQUIRE)
    keep = np.setdiff1d(np.arange(33), [7, 20])
    np.testing.assert_array_equal(bad.ys[:, keep], good.ys[:, keep])
    assert bad.status[[7, 20]].tolist() == [nf.ode.Status.NON_FINITE] * 2
