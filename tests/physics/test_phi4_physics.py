# SPDX-License-Identifier: MIT
"""Samples against exact results. Each check is also made with a wrong model, which has to fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from phi4_cases import SIGMAS, square_of_chain

from nnsym_fast.physics import Estimate, estimate, on_model

Samples = on_model.Samples


def deviation(found: Estimate, exact: float) -> float:
    """In standard errors, which include the autocorrelation."""
    return (found.value - exact) / found.error


MODELS: dict[str, tuple[tuple[int, ...], int, float, float]] = {
    "1d, N = 1, broken": ((24,), 1, -1.0, 2.0),
    "1d, N = 3": ((15,), 3, -0.5, 1.0),
    "2d, N = 2": ((8, 7), 2, -0.7, 1.0),
    "2d, N = 4, symmetric": ((6, 6), 4, 0.5, 1.5),
    "3d, N = 1": ((4, 5, 6), 1, 0.3, 3.0),
    "3d, N = 4, broken": ((5, 5, 5), 4, -1.5, 1.0),
}


@pytest.mark.parametrize(
    ("integrator", "dtype"), [("leapfrog", "float64"), ("leapfrog", "float32"), ("omelyan", "float64")]
)
@pytest.mark.parametrize("model", MODELS)
def test_identities(model: str, integrator: str, dtype: str) -> None:
    """<exp(-dH)> = 1 and <phi dS/dphi> = 1 per number of the field, at an acceptance of about 0.7."""
    shape, components, m2, coupling = MODELS[model]
    found = on_model.sample(
        shape, components, m2=m2, coupling=coupling, chains=8, trajectories=1000, thermalisation=60, steps=6,
        target_acceptance=0.7, integrator=integrator, dtype=dtype, seed=11,
    )  # fmt: skip
    assert 0.5 < found.acceptance < 0.9
    energy, identity = found.exp_minus_dh(), found.schwinger_dyson()
    assert energy.error < 0.03
    assert identity.error < 0.02
    assert abs(deviation(energy, 1)) < SIGMAS
    assert abs(deviation(identity, 1)) < SIGMAS
    assert found.change.mean() > SIGMAS * found.change.std() / found.change.size**0.5, "<dH> is positive"
    wrong = replace(found, coupling=0.5 * coupling)
    assert abs(deviation(wrong.schwinger_dyson(), 1)) > 2 * SIGMAS, "negative control: another coupling"
    half = replace(found, change=found.change / 2)
    assert abs(deviation(half.exp_minus_dh(), 1)) > 2 * SIGMAS, "negative control: half of dH"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12,), (6, 8), (4, 4, 6)])
def test_free_propagator(shape: tuple[int, ...], dtype: str) -> None:
    """All momenta at once: chi^2 of the averages of 64 chains, whose scatter gives their errors."""
    m2, components, chains = 0.6, 2, 64
    found = on_model.sample(
        shape, components, m2=m2, coupling=0.0, chains=chains, trajectories=240, thermalisation=40, steps=8,
        measure_every=4, observables=["propagator"], dtype=dtype, seed=5,
    )  # fmt: skip
    assert found.propagator is not None
    # k and -k are one momentum: the field is real.
    mirrored = np.stack([np.ravel_multi_index(index, shape) for index in np.ndindex(shape)])
    opposite = np.stack(
        [
            np.ravel_multi_index(tuple((-i) % n for i, n in zip(index, shape, strict=True)), shape)
            for index in np.ndindex(shape)
        ]
    )
    independent = mirrored <= opposite
    measured = found.propagator.reshape(chains, -1)[:, independent]
    mean, error = measured.mean(axis=0), measured.std(axis=0, ddof=1) / chains**0.5

    def pulls(mass: float) -> np.ndarray:
        return (mean - on_model.exact_propagator(shape, mass).ravel()[independent]) / error

    momenta = independent.sum()
    # Student's t with 63 degrees of freedom has the variance 63/61.
    assert (pulls(m2) ** 2).sum() == pytest.approx(momenta * 63 / 61, abs=SIGMAS * (2.2 * momenta) ** 0.5)
    assert np.abs(pulls(m2)).max() < SIGMAS
    assert (error / mean).max() < 0.1
    assert (pulls(1.25 * m2) ** 2).sum() > 3 * momenta, "negative control: another mass"


@pytest.mark.parametrize(("length", "m2", "coupling"), [(3, -1.0, 1.0), (20, -0.5, 2.0), (33, 0.4, 0.3)])
def test_one_dimension_against_the_transfer_matrix(length: int, m2: float, coupling: float) -> None:
    found = on_model.sample(
        (length,),
        1,
        m2=m2,
        coupling=coupling,
        chains=8,
        trajectories=1500,
        thermalisation=60,
        step_size=0.25,
        steps=6,
        seed=2,
    )
    square = estimate(found.square)
    assert square.error < 0.02 * square.value
    assert abs(deviation(square, square_of_chain(length, m2, coupling))) < SIGMAS
    assert abs(deviation(square, square_of_chain(length, m2, 1.5 * coupling))) > SIGMAS, "negative control"


def test_rotated_fields_move_alike() -> None:
    """O(N) invariance: p is drawn, so trajectories differ, but the action and its force do not know the direction."""
    options: dict[str, Any] = {
        "m2": -0.7, "coupling": 1.0, "chains": 16, "trajectories": 2000, "thermalisation": 100, "seed": 3,
    }  # fmt: skip
    found = on_model.sample((4, 4), 3, start="cold", **options)
    m = found.magnetisation
    second = [estimate(m[..., a] * m[..., b]) for a in range(3) for b in range(a, 3)]
    mean = estimate((m**2).mean(axis=-1)).value
    exact = [mean * (a == b) for a in range(3) for b in range(a, 3)]
    # The diagonal ones share their mean, which only makes them closer to it.
    assert max(abs(deviation(one, value)) for one, value in zip(second, exact, strict=True)) < SIGMAS
    assert max(abs(deviation(estimate(m[..., a]), 0.0)) for a in range(3)) < SIGMAS


def test_phases_of_the_sweep() -> None:
    """Below eta_c the order parameter stays and the Binder cumulant goes to 2/3, above both fall."""
    options: dict[str, Any] = {
        "mu": 2.0, "coupling": 1.0, "chains": 4, "trajectories": 200, "thermalisation": 50, "seed": 4,
        "start": "cold",
    }  # fmt: skip
    small, large = (on_model.sweep([0.5, 4.6], (size,) * 3, 2, **options) for size in (4, 8))
    for found in (small, large):
        ordered, symmetric = found.estimates(Samples.order_parameter)[:, 0]
        assert ordered > 1 > 2 * symmetric
        high, low = found.estimates(Samples.binder)[:, 0]
        assert high == pytest.approx(2 / 3, abs=0.02)
        assert low == pytest.approx(1 / 3, abs=0.1)
    # |M| of a disordered field falls like V^(-1/2).
    falls = small.runs[1].order_parameter().value / large.runs[1].order_parameter().value
    assert falls == pytest.approx(8**0.5, rel=0.15)


def test_one_dimension_does_not_order() -> None:
    """Where the classical potential is broken, |M| of a longer and longer chain falls all the same."""
    found = [
        on_model.sample((length,), 2, m2=-0.5, coupling=1.0, chains=8, trajectories=500, thermalisation=60, seed=6)
        for length in (32, 128)
    ]
    short, long = (one.order_parameter().value for one in found)
    assert short / long == pytest.approx(2, rel=0.25)


def test_correlations_of_an_ordered_field() -> None:
    """Angular correlations stay, radial ones decay with a mass; in the symmetric phase both decay."""
    options: dict[str, Any] = {
        "coupling": 1.0, "chains": 4, "trajectories": 100, "thermalisation": 50, "seed": 8,
        "observables": ["correlations"], "start": "cold",
    }  # fmt: skip
    ordered = on_model.sample((10, 6, 6), 2, m2=-2.0, **options)
    symmetric = on_model.sample((10, 6, 6), 2, m2=1.0, **options)
    for found in (ordered, symmetric):
        assert found.radial is not None
        assert found.angular is not None
        assert abs(found.radial.mean(axis=0)[5]) < 0.1 * found.radial.mean(axis=0)[0]
    assert ordered.angular.mean(axis=0)[5] > 0.8
    assert abs(symmetric.angular.mean(axis=0)[5]) < 0.05
