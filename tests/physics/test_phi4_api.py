# SPDX-License-Identifier: MIT
"""What a run depends on and what not; arguments that are refused; trajectories that diverge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnsym_fast as nf
from nnsym_fast.physics import on_model

GOOD: dict[str, Any] = {"m2": -0.2, "coupling": 0.5, "seed": 3, "step_size": 0.1, "steps": 5}


def same(a: on_model.Samples, b: on_model.Samples) -> None:
    np.testing.assert_array_equal(a.state.fields, b.state.fields)
    np.testing.assert_array_equal(a.change, b.change)
    np.testing.assert_array_equal(a.magnetisation, b.magnetisation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_in_two_parts_is_one_run(dtype: str) -> None:
    options = GOOD | {"chains": 2, "dtype": dtype}
    whole = on_model.sample((5, 6), 2, trajectories=9, **options)
    first = on_model.sample((5, 6), 2, trajectories=4, **options)
    second = on_model.sample((5, 6), 2, trajectories=5, start=first.state, **options)
    np.testing.assert_array_equal(second.state.fields, whole.state.fields)
    np.testing.assert_array_equal(np.concatenate([first.change, second.change], axis=1), whole.change)
    assert second.state.trajectory == whole.state.trajectory == 9
    again = on_model.sample((5, 6), 2, trajectories=4, **options)
    same(again, first)


def test_tuned_runs_go_on_with_their_step_sizes() -> None:
    options = GOOD | {"step_size": None}
    first = on_model.sample((5, 6), 2, trajectories=4, thermalisation=30, chains=2, **options)
    second = on_model.sample((5, 6), 2, trajectories=5, chains=2, start=first.state, **options)
    whole = on_model.sample((5, 6), 2, trajectories=9, thermalisation=30, chains=2, **options)
    np.testing.assert_array_equal(second.state.fields, whole.state.fields)
    np.testing.assert_array_equal(second.state.step_size, first.state.step_size)


def test_thermalisation_is_the_beginning_of_the_run() -> None:
    whole = on_model.sample((6,), 1, trajectories=100, **GOOD)
    part = on_model.sample((6,), 1, trajectories=30, thermalisation=70, **GOOD)
    np.testing.assert_array_equal(part.action, whole.action[:, 70:])


def test_a_chain_knows_nothing_of_the_others() -> None:
    options = GOOD | {"step_size": None, "thermalisation": 25}
    all_of_them = on_model.sample((4, 4), 1, trajectories=3, chains=4, **options)
    for first, count in ((0, 1), (1, 2), (3, 1)):
        part = on_model.sample((4, 4), 1, trajectories=3, chains=count, first_chain=first, **options)
        np.testing.assert_array_equal(part.state.fields, all_of_them.state.fields[first : first + count])
    assert len(np.unique(all_of_them.state.fields)) == all_of_them.state.fields.size
    other = on_model.sample((4, 4), 1, trajectories=3, chains=4, **(options | {"seed": 4}))
    assert (other.state.fields != all_of_them.state.fields).all()


def test_measurements() -> None:
    often = on_model.sample((4, 6), 2, trajectories=12, **GOOD)
    seldom = on_model.sample(
        (4, 6), 2, trajectories=12, measure_every=4, observables=["propagator", "correlations"], **GOOD
    )
    np.testing.assert_array_equal(seldom.action, often.action[:, 3::4])
    np.testing.assert_array_equal(seldom.change, often.change)
    assert seldom.propagator is not None
    assert seldom.radial is not None
    assert seldom.angular is not None
    assert seldom.propagator.shape == (1, 4, 6)
    assert seldom.radial.shape == seldom.angular.shape == (1, 3)
    np.testing.assert_allclose(seldom.propagator.sum() * 2 / 24, seldom.square.mean(), rtol=1e-13)
    zero = 24 / 2 * (seldom.magnetisation**2).sum(axis=-1).mean()
    np.testing.assert_allclose(seldom.propagator[0, 0, 0], zero, rtol=1e-13)
    np.testing.assert_allclose(seldom.angular[0, 0], 1, rtol=1e-13)
    assert often.propagator is None
    assert often.radial is None


def test_the_start_is_left_alone() -> None:
    start = np.ones((1, 2, 4))
    before = on_model.sample((4,), 2, trajectories=1, start=start, **GOOD)
    assert (start == 1).all()
    kept = before.state.fields.copy()
    on_model.sample((4,), 2, trajectories=1, start=before.state, **GOOD)
    np.testing.assert_array_equal(before.state.fields, kept)


def test_cold_and_given_starts() -> None:
    cold = on_model.sample((4, 3), 2, trajectories=1, start="cold", **GOOD)
    fields = np.zeros((1, 2, 4, 3))
    fields[:, 0] = 1
    given = on_model.sample((4, 3), 2, trajectories=1, start=fields.astype(int)[..., ::-1], **GOOD)
    same(cold, given)


def test_divergence_is_reported_and_refused() -> None:
    start = np.full((1, 1, 8), 2.0)
    options = GOOD | {"step_size": 40.0, "steps": 50}
    with pytest.warns(RuntimeWarning, match="step_size: 6 trajectories diverged"):
        found = on_model.sample((8,), 1, trajectories=6, start=start, **options)
    assert found.diverged.all()
    assert found.acceptance == 0
    np.testing.assert_array_equal(found.state.fields, start)
    assert np.isfinite(found.action).all()


def test_a_chain_that_does_not_move_is_reported() -> None:
    with pytest.warns(RuntimeWarning, match="step_size: 1 of 1 chains accepted none of 20"):
        on_model.sample((16, 16), 4, trajectories=20, **(GOOD | {"step_size": 0.65}))


def test_tuning_reaches_its_aim() -> None:
    for target in (0.6, 0.9):
        found = on_model.sample(
            (8, 8), 2, trajectories=400, thermalisation=300, target_acceptance=target, **(GOOD | {"step_size": None})
        )
        assert found.acceptance == pytest.approx(target, abs=0.08)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"shape": ()}, ValueError, "shape: expected one to three extents"),
        ({"shape": (2, 2, 2, 2)}, ValueError, "shape: expected one to three extents"),
        ({"shape": (4, 0)}, ValueError, "shape: expected an integer from 1"),
        ({"shape": (1 << 16, 1 << 16)}, ValueError, "shape: expected at most"),
        ({"shape": (4, 2.5)}, TypeError, "shape: expected an integer"),
        ({"n_components": 0}, ValueError, "n_components: expected an integer from 1"),
        ({"coupling": -0.1}, ValueError, "coupling: expected lambda >= 0, got -0.1; below"),
        ({"coupling": 0.0}, ValueError, r"m2: expected m\^2 > 0 in the free theory"),
        ({"m2": float("nan")}, ValueError, "m2: expected a finite number"),
        ({"m2": "1"}, TypeError, "m2: expected a real number"),
        ({"m2": 1j}, TypeError, "m2: expected a real number"),
        ({"seed": -1}, ValueError, "seed: expected an integer from 0"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer"),
        ({"chains": 0}, ValueError, "chains: expected"),
        ({"trajectories": 0}, ValueError, "trajectories: expected"),
        ({"step_size": 0.0}, ValueError, "step_size: expected a number > 0"),
        ({"step_size": None}, ValueError, "step_size: tuning it needs a thermalisation"),
        ({"steps": 0}, ValueError, "steps: expected"),
        ({"integrator": "euler"}, ValueError, "integrator: expected one of"),
        ({"target_acceptance": 1.0}, ValueError, "target_acceptance: expected"),
        ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
        ({"dtype": "nonsense"}, TypeError, "dtype: expected float32 or float64"),
        ({"measure_every": 3}, ValueError, "measure_every: expected a divisor of trajectories = 4, got 3"),
        ({"observables": "propagator"}, TypeError, "observables: expected a sequence of names"),
        ({"observables": ["spin"]}, ValueError, "observables: expected names out of"),
        ({"start": "warm"}, ValueError, "start: expected 'hot', 'cold'"),
        ({"start": np.zeros((1, 2, 5))}, ValueError, "start: expected shape"),
        ({"start": np.full((1, 1, 4, 4), np.nan)}, ValueError, "start: expected finite fields"),
        ({"start": np.zeros((1, 1, 4, 4), complex)}, TypeError, "start: expected real fields"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], kind: type[Exception], words: str) -> None:
    arguments = {"shape": (4, 4), "n_components": 1, "trajectories": 4} | GOOD | change
    shape, components = arguments.pop("shape"), arguments.pop("n_components")
    with pytest.raises(kind, match=words):
        on_model.sample(shape, components, **arguments)


def test_wrong_sweeps_and_masses() -> None:
    with pytest.raises(ValueError, match="coupling: expected a number > 0"):
        on_model.m2_of_eta(1.0, 0.0, [1.0])
    with pytest.raises(ValueError, match="eta: expected finite"):
        on_model.m2_of_eta(1.0, 1.0, [np.inf])
    with pytest.raises(ValueError, match="etas: expected shape"):
        on_model.sweep(1.0, (4,), 1, mu=1.0, coupling=1.0, trajectories=4, seed=0, step_size=0.1)
    with pytest.raises(TypeError, match="m2: follows from"):
        on_model.sweep([1.0], (4,), 1, mu=1.0, coupling=1.0, m2=1.0, trajectories=4, seed=0, step_size=0.1)
    with pytest.raises(ValueError, match="m2: expected a number > 0"):
        on_model.exact_propagator((4,), 0.0)


def test_a_sweep_goes_on_counting() -> None:
    found = on_model.sweep([1.0, 2.0], (6,), 2, mu=1.0, coupling=1.0, trajectories=10, seed=0, step_size=0.1)
    np.testing.assert_allclose(found.m2, [-0.75, 0.0])
    assert [run.state.trajectory for run in found.runs] == [10, 20]
    assert [run.m2 for run in found.runs] == found.m2.tolist()
    assert found.estimates(on_model.Samples.energy).shape == (2, 4)


def test_it_is_reached_from_the_package() -> None:
    assert nf.physics.on_model is on_model
