# SPDX-License-Identifier: MIT
"""The loss along the straight line between two networks, before and after they are matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.gauge_fixing import barrier, match

Params = dict[str, Any]


def point(x: float) -> Params:
    return {"x": np.array([x])}


def value(params: Params) -> float:
    return float(params["x"][0])


def test_the_height_of_a_double_well() -> None:
    found = barrier(point(-1.0), point(1.0), lambda params: (value(params) ** 2 - 1) ** 2, points=5)
    np.testing.assert_allclose(found.alphas, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.losses, [0, 0.5625, 1, 0.5625, 0])
    assert found.height == 1.0


def test_what_lies_below_the_line_is_no_barrier() -> None:
    """A convex loss, and a line: the height is that of the ends, 0."""
    assert barrier(point(-1.0), point(2.0), lambda params: value(params) ** 2).height == 0
    assert barrier(point(-1.0), point(2.0), lambda params: 3 * value(params)).height == pytest.approx(0, abs=1e-12)


def test_the_height_is_measured_from_the_line_between_the_ends() -> None:
    """x (4 - x) between 0 and 2: the ends are 0 and 4, the line 2 x; the excess x (2 - x) is 1 at most, at x = 1."""
    found = barrier(point(0.0), point(2.0), lambda params: value(params) * (4 - value(params)), points=9)
    assert found.height == pytest.approx(1)
    assert found.excess[0] == found.excess[-1] == 0
    assert "height 1" in repr(found)


def test_dtypes_integers_and_frameworks() -> None:
    seen: list[Params] = []

    def loss(params: Params) -> Any:
        seen.append(params)
        return params["x"].sum()

    a = {"x": np.zeros(2, np.float32), "steps": np.array(3)}
    b = {"x": np.ones(2, np.float32), "steps": np.array(9)}
    np.testing.assert_allclose(barrier(a, b, loss, points=3).losses, [0, 1, 2])
    assert {str(params["x"].dtype) for params in seen} == {"float32"}
    assert {int(params["steps"]) for params in seen} == {3}
    seen.clear()
    tensors = [{"x": torch.tensor(p["x"]).bfloat16().requires_grad_(), "steps": torch.tensor(3)} for p in (a, b)]
    np.testing.assert_allclose(barrier(*tensors, loss, points=3).losses, [0, 1, 2])
    assert {params["x"].dtype for params in seen} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1, point(1), value), {}, TypeError, "a: expected a mapping"),
        ((point(0), point(1), 3), {}, TypeError, "loss: expected a function"),
        ((point(0), point(1), value), {"points": 1}, ValueError, "points: expected at least 2"),
        ((point(0), {"y": np.zeros(1)}, value), {}, ValueError, r"b: expected the tensors of a, \['x'\], got \['y'\]"),
        ((point(0), {"x": np.zeros(2)}, value), {}, ValueError, r"b: tensor 'x' has shape \(2,\), but \(1,\) in a"),
        ((point(0), {"x": torch.zeros(1)}, value), {}, TypeError, "b: expected the framework of a, but tensor 'x'"),
        ((point(0), point(1), lambda p: "high"), {}, TypeError, "loss: expected a function that returns one number"),
        ((point(0), point(1), lambda p: np.zeros(2)), {}, TypeError, "loss: expected a function that returns one"),
        (
            (point(0), point(1), lambda p: np.nan),
            {},
            ValueError,
            "loss: expected a finite number at alpha = 0, got nan",
        ),
    ],
)
def test_mistakes_are_named(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        barrier(*arguments, **options)


LAYERS = specs.mlp_layers([2, 96, 1], "relu")
SPEC = specs.mlp([2, 96, 1], "relu")


def inputs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.uniform(-1.5, 1.5, size=(256, 2))
    return x, np.sin(2 * x[:, :1]) * np.cos(x[:, 1:])


def fitted(seed: int) -> Params:
    """A small network that fits a function of two variables: full-batch Adam, gradients by hand."""
    rng = np.random.default_rng(seed)
    x, y = inputs(rng)
    p = {
        "0.weight": rng.normal(size=(96, 2)),
        "0.bias": rng.normal(size=96) / 2,
        "2.weight": rng.normal(size=(1, 96)) / 9,
    }
    p["2.bias"] = np.zeros(1)
    m, v = ({name: np.zeros_like(value) for name, value in p.items()} for _ in range(2))
    for step in range(1, 801):
        z = x @ p["0.weight"].T + p["0.bias"]
        h = np.maximum(z, 0)
        error = 2 * (h @ p["2.weight"].T + p["2.bias"] - y) / len(x)
        back = (error @ p["2.weight"]) * (z > 0)
        gradient = {"0.weight": back.T @ x, "0.bias": back.sum(0), "2.weight": error.T @ h, "2.bias": error.sum(0)}
        for name, g in gradient.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            p[name] = p[name] - 0.01 * m[name] / (1 - 0.9**step) / (np.sqrt(v[name] / (1 - 0.999**step)) + 1e-8)
    return p


def loss(params: Params) -> float:
    x, y = inputs(np.random.default_rng(99))
    return float(np.mean((specs.evaluate(LAYERS, params, x) - y) ** 2))


def test_between_points_of_one_orbit_only_matching_removes_the_barrier() -> None:
    a = fitted(1)
    b = {name: moved[0] for name, moved in nf.act(SPEC, SPEC.sample(1, seed=2), a).items()}
    assert loss(a) < 0.02
    assert loss(b) == pytest.approx(loss(a))
    assert barrier(a, b, loss).height > 0.1
    assert barrier(a, match(a, b, SPEC).params, loss).height < 1e-9


def test_matching_lowers_the_barrier_between_trained_networks() -> None:
    """Two fits from different seeds: most of the barrier is their numbering of units."""
    a, b = fitted(1), fitted(2)
    found = match(a, b, SPEC)
    assert loss(found.params) == pytest.approx(loss(b)), "matching does not change the function"
    before, after = barrier(a, b, loss).height, barrier(a, found.params, loss).height
    assert found.distance < found.distance_before
    assert after < 0.25 * before
    assert before > 0.05
