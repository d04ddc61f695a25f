# SPDX-License-Identifier: MIT
"""The definition of the O(N) model: force and action, the integrators, the random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from phi4_cases import SHAPES, SIGMAS, follow, hot, square_of_chain

from nnsym_fast.reference import phi4

M2, COUPLING = -0.4, 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_force_is_the_gradient_of_the_action(shape: tuple[int, ...]) -> None:
    phi, direction = hot(shape, 3), hot(shape, 3, seed=2)
    h = 1e-5
    slope = (phi4.action(phi + h * direction, M2, COUPLING) - phi4.action(phi - h * direction, M2, COUPLING)) / (2 * h)
    assert slope == pytest.approx((phi4.force(phi, M2, COUPLING) * direction).sum(), rel=1e-6, abs=1e-6)


def test_an_axis_of_one_site_is_none() -> None:
    phi = hot((5, 7), 2)
    assert phi4.action(phi, M2, COUPLING) == pytest.approx(phi4.action(phi[:, None], M2, COUPLING), rel=1e-13)
    np.testing.assert_allclose(phi4.force(phi[:, None], M2, COUPLING)[:, 0], phi4.force(phi, M2, COUPLING), atol=1e-13)


@pytest.mark.parametrize("integrator", phi4.INTEGRATORS)
def test_motion_is_reversible(integrator: str) -> None:
    phi, p = hot((4, 5, 6), 2), hot((4, 5, 6), 2, seed=2)
    motion = {"m2": M2, "coupling": COUPLING, "step_size": 0.1, "steps": 10, "integrator": integrator}
    there, speed = phi4.integrate(phi, p, **motion)
    assert np.abs(there - phi).max() > 1
    back, end = phi4.integrate(there, -speed, **motion)
    np.testing.assert_allclose(back, phi, atol=1e-13)
    np.testing.assert_allclose(end, -p, atol=1e-13)


@pytest.mark.parametrize("integrator", phi4.INTEGRATORS)
def test_motion_preserves_volume(integrator: str) -> None:
    """The Jacobian of (phi, p) -> (phi', p') has determinant 1; a drift without its kick would not."""
    shape, h = (3,), 1e-6

    def end(x: np.ndarray) -> np.ndarray:
        phi, p = x.reshape(2, 1, *shape)
        return np.concatenate(
            phi4.integrate(phi, p, m2=M2, coupling=COUPLING, step_size=0.2, steps=3, integrator=integrator), axis=None
        )

    x = np.random.default_rng(0).normal(size=6)
    jacobian = np.stack([(end(x + h * e) - end(x - h * e)) / (2 * h) for e in np.eye(6)], axis=1)
    assert np.linalg.det(jacobian) == pytest.approx(1, abs=1e-8)
    assert np.abs(jacobian - np.eye(6)).max() > 0.3


@pytest.mark.parametrize("integrator", phi4.INTEGRATORS)
def test_energy_error_is_of_second_order(integrator: str) -> None:
    phi, p = hot((6, 6), 2) / 2, hot((6, 6), 2, seed=2)

    def change(steps: int) -> float:
        end = phi4.integrate(phi, p, m2=M2, coupling=COUPLING, step_size=1 / steps, steps=steps, integrator=integrator)
        before, after = ((q**2).sum() / 2 + phi4.action(f, M2, COUPLING) for f, q in ((phi, p), end))
        return abs(after - before)

    orders = [np.log2(change(n) / change(2 * n)) for n in (20, 40, 80)]
    assert orders[-1] == pytest.approx(2, abs=0.1)


def test_omelyan_is_more_accurate_per_force() -> None:
    motion = {"m2": M2, "coupling": COUPLING, "seed": 5}
    phi = hot((6, 6), 2) / 2
    leapfrog = follow(phi, 20, step_size=0.05, steps=20, **motion).change
    omelyan = follow(phi, 20, step_size=0.1, steps=10, integrator="omelyan", **motion).change
    assert np.abs(omelyan).mean() < 0.5 * np.abs(leapfrog).mean()


def test_random_numbers_are_independent_normals() -> None:
    draws = np.stack([phi4.momenta(3, chain, number, (7, 9), 3) for chain in range(8) for number in range(50)])
    count = draws.size
    assert abs(draws.mean()) < SIGMAS / count**0.5
    assert abs((draws**2).mean() - 1) < SIGMAS * (2 / count) ** 0.5
    covariance = np.cov(draws.reshape(len(draws), -1), rowvar=False)
    off = covariance[~np.eye(len(covariance), dtype=bool)]
    assert np.abs(off).max() < 6 / len(draws) ** 0.5
    assert len(np.unique(draws)) == count, "no number is drawn twice"
    thresholds = [phi4.accept_threshold(3, 0, number) for number in range(4000)]
    assert abs(np.mean(thresholds) - 1) < SIGMAS / len(thresholds) ** 0.5


@pytest.mark.parametrize("wrong", [False, True], ids=["of dH", "of dS"])
def test_the_transfer_matrix_judges_the_metropolis_test(wrong: bool) -> None:
    """Steps so large that a fifth is refused: <phi^2> is exact, and far off where the test forgets the momenta."""
    phi = np.zeros((1, 6))
    motion = {"m2": M2, "coupling": COUPLING, "step_size": 0.5, "steps": 3}
    found = []
    for number in range(2500):
        if wrong:
            proposed, _ = phi4.integrate(phi, phi4.momenta(0, 0, number, phi.shape[1:], 1), **motion)
            change = phi4.action(proposed, M2, COUPLING) - phi4.action(phi, M2, COUPLING)
            phi = proposed if phi4.accept_threshold(0, 0, number) > change else phi
        else:
            phi = phi4.trajectory(phi, seed=0, number=number, **motion).phi
        found.append((phi**2).mean())
    blocks = np.reshape(found, (25, -1)).mean(axis=1)
    deviation = (blocks.mean() - square_of_chain(6, M2, COUPLING)) / (blocks.std(ddof=1) / 5)
    assert (abs(deviation) > 2 * SIGMAS) if wrong else (abs(deviation) < SIGMAS)
