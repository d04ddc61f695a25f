# SPDX-License-Identifier: MIT
"""Wilson lines: against the reference, their order of convergence, and closed forms in SU(2), SU(3) and SO(3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tolerances
from wilson_cases import (
    DTYPES,
    LAYOUTS,
    NODES,
    ORDERS,
    Array,
    assert_layout_is_free,
    connection,
    dagger,
    fitted_order,
    norm,
    real,
    wide,
    worst,
)

from nnsym_fast import reference, wilson

# --- against the reference


def fields(order: int, batch: tuple[int, ...], steps: int, d: int, dtype: str, seed: int = 0) -> Array:
    """A random w in the shape that an order takes."""
    nodes = () if order == 2 else (NODES[order],)
    return connection(np.random.default_rng([seed, d, steps]), (*batch, steps, *nodes, d, d), dtype, 0.7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lines_of_every_size(isa: str, dtype: str, order: int) -> None:
    for number, d in enumerate((1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 33)):
        for batch in ((1,), (9,), (17,)) if d < 10 else ((2,),):
            steps = (1, 3, 6, 2)[(number + batch[0]) % 4]
            w = fields(order, batch, steps, d, dtype)
            dt = np.float64(0.3)
            exact = reference.wilson_line(w.astype(wide(dtype)), dt, magnus_order=order, cumulative=True)
            line = wilson.wilson_line(w, dt, magnus_order=order)
            every = wilson.wilson_line(w, dt, magnus_order=order, cumulative=True)
            assert line.dtype == every.dtype == dtype
            assert worst(line, exact[:, -1]) <= tolerances.steps(dtype, steps)
            assert worst(every, exact) <= tolerances.steps(dtype, steps)
            np.testing.assert_array_equal(every[:, 0], np.broadcast_to(np.eye(d), (*batch, d, d)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_step_lengths(isa: str, dtype: str, order: int) -> None:
    """dt: a number, or whatever broadcasts to batch + (T,)."""
    rng = np.random.default_rng(0)
    steps, d = 4, 3
    for batch in ((), (5,), (2, 3)):
        w = fields(order, batch, steps, d, dtype)
        shapes: list[tuple[int, ...]] = [(), (1,), (steps,), (*batch, steps), (*batch, 1)]
        shapes += [(3, steps), (2, 1, steps), (3, 1)] if batch == (2, 3) else []
        for shape in shapes:
            dt = rng.uniform(-0.5, 0.5, shape)
            exact = reference.wilson_line(w.astype(wide(dtype)), dt, magnus_order=order)
            for value in (dt, dt.astype(real(dtype)), *([float(dt)] if shape == () else [])):
                assert worst(wilson.wilson_line(w, value, magnus_order=order), exact) <= tolerances.steps(dtype, steps)
    same = wilson.wilson_line(w, 0.5, magnus_order=order)
    np.testing.assert_array_equal(wilson.wilson_line(w, np.full((2, 3, steps), 0.5), magnus_order=order), same)
    np.testing.assert_array_equal(wilson.wilson_line(w, np.full((steps,), 0.5)[::-1], magnus_order=order), same)
    one = np.broadcast_to(np.eye(d), same.shape)
    np.testing.assert_array_equal(wilson.wilson_line(w, 0.0, magnus_order=order), one)
    assert norm(same - one).min() > 0.1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_shapes(isa: str, order: int, batch: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        for steps in (0, 1, 5):
            w = fields(order, batch, steps, 3, dtype)
            line = wilson.wilson_line(w, 0.1, magnus_order=order)
            every = wilson.wilson_line(w, 0.1, magnus_order=order, cumulative=True)
            assert line.shape == (*batch, 3, 3)
            assert every.shape == (*batch, steps + 1, 3, 3)
            exact = reference.wilson_line(w.astype(wide(dtype)), 0.1, magnus_order=order, cumulative=True)
            assert worst(every, exact) <= tolerances.steps(dtype, steps)
            assert worst(line, exact[..., -1, :, :]) <= tolerances.steps(dtype, steps)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array]) -> None:
    dt = layout(np.random.default_rng(0).uniform(0.1, 0.3, (2, 3)).astype(real(dtype)))
    for order in ORDERS:
        w = fields(order, (2,), 3, 4, dtype)
        assert_layout_is_free(lambda w, order=order: wilson.wilson_line(w, dt, magnus_order=order), w, layout)


def test_a_link_is_the_exponential_of_its_step(isa: str) -> None:
    """Order 2: the ordered product of exp(dt w_k). Order 4 and 6 with equal nodes: no commutator is left."""
    for dtype in DTYPES:
        w = fields(2, (3,), 5, 4, dtype)
        product = wilson.ordered_product(wilson.expm(w * w.real.dtype.type(0.25))).astype(wide(dtype))
        for order in ORDERS:
            nodes = w if order == 2 else np.repeat(w[:, :, None], NODES[order], axis=2)
            assert worst(wilson.wilson_line(nodes, 0.25, magnus_order=order), product) <= tolerances.steps(dtype, 5)


# --- nodes and orders of convergence


@pytest.mark.parametrize("order", ORDERS)
def test_gauss_nodes_integrate_polynomials(order: int) -> None:
    """m nodes: t^k is integrated exactly for k < 2 m, and not for k = 2 m."""
    weights = {2: [1.0], 4: [0.5, 0.5], 6: [5 / 18, 8 / 18, 5 / 18]}[order]
    t0, t1, steps = -0.5, 2.0, 3
    t = wilson.gauss_nodes(t0, t1, steps, order)
    assert t.dtype == np.float64
    assert t.shape == ((steps,) if order == 2 else (steps, NODES[order]))
    assert np.all(np.diff(t.ravel()) > 0)
    t = t.reshape(steps, -1)
    for k in range(order + 1):
        integral = (t**k @ np.array(weights)).sum() * (t1 - t0) / steps
        exact = (t1 ** (k + 1) - t0 ** (k + 1)) / (k + 1)
        assert (abs(integral - exact) < 1e-13) == (k < order)
    np.testing.assert_allclose(t, reference.gauss_nodes(t0, t1, steps, order).reshape(t.shape), atol=1e-14)
    np.testing.assert_allclose(wilson.gauss_nodes(t1, t0, steps, order).reshape(t.shape), t[::-1, ::-1], atol=1e-14)
    assert wilson.gauss_nodes(t0, t1, 0, order).shape[0] == 0


SIGMA = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
W0, FREQUENCY, DRIVE, TIME = 1.0, 2.3, 1.7, 3.0


def spin(t: Array) -> Array:
    """The driven spin of two levels, -i [w0/2 sz + W/2 (cos wt sx + sin wt sy)]: it does not commute with itself."""
    x, y = np.cos(FREQUENCY * t), np.sin(FREQUENCY * t)
    hamiltonian = np.multiply.outer(x, SIGMA[0]) + np.multiply.outer(y, SIGMA[1])
    return -0.5j * (W0 * SIGMA[2] + DRIVE * hamiltonian)


def rotation(axis: Array) -> Array:
    """exp(-i axis . sigma / 2) = cos(|axis| / 2) - i sin(|axis| / 2) n . sigma"""
    angle = np.linalg.norm(axis)
    return np.cos(angle / 2) * np.eye(2) - 1j * np.sin(angle / 2) * np.tensordot(axis / angle, SIGMA, 1)


def spin_line(time: float) -> Array:
    """In the frame that turns with the drive nothing depends on time."""
    frame = rotation(np.array([0, 0, FREQUENCY * time]))
    return np.asarray(frame @ rotation(time * np.array([DRIVE, 0, W0 - FREQUENCY])))


def spin_errors(order: int, steps: list[int], turned_round: bool = False) -> list[float]:
    result = []
    for n in steps:
        w = spin(wilson.gauss_nodes(0.0, TIME, n, order))
        if turned_round:
            w = w[:, ::-1]
        line = wilson.wilson_line(w, TIME / n, magnus_order=order)
        result.append(float(norm(line - spin_line(TIME))))
    return result


@pytest.mark.parametrize("order", ORDERS)
def test_the_driven_spin_shows_the_order(isa: str, order: int) -> None:
    steps = [16, 24, 32, 48]
    errors = spin_errors(order, steps)
    assert abs(fitted_order(errors, steps) - order) < tolerances.SLOPE
    assert errors[-1] < {2: 1e-2, 4: 1e-4, 6: 1e-6}[order]
    if order > 2:
        # Negative control: nodes in the wrong order give every commutator the wrong sign, which leaves order 2.
        assert abs(fitted_order(spin_errors(order, steps, turned_round=True), steps) - 2) < tolerances.SLOPE


def test_unitary_connections_give_unitary_lines(isa: str) -> None:
    """At any step length: exponents of antihermitian nodes are antihermitian."""
    for dtype in ("complex64", "complex128"):
        for order in ORDERS:
            w = spin(wilson.gauss_nodes(0.0, 40.0, 40, order)).astype(dtype)
            every = wilson.wilson_line(w, 1.0, magnus_order=order, cumulative=True).astype(wide(dtype))
            assert norm(dagger(every) @ every - np.eye(2)).max() <= 4 * tolerances.drift(dtype, 40, 2)


# --- time


@pytest.mark.parametrize("order", ORDERS)
def test_reparametrised_time_gives_the_same_line(isa: str, order: int) -> None:
    """t_new = tau(t), w_new = w / tau_dot: the same line, up to the error of the steps, which are others."""

    def tau(t: Array) -> Array:
        return t + 0.3 * np.sin(t)

    errors, steps = [], [16, 24, 32, 48]
    for n in steps:
        edges = tau(np.linspace(0, TIME, n + 1))
        dt = np.diff(edges)
        nodes = wilson.gauss_nodes(0.0, 1.0, 1, order).reshape(-1)
        times = edges[:-1, None] + dt[:, None] * nodes  # nodes in the new time
        old = times.copy()
        for _ in range(60):
            old -= (tau(old) - times) / (1 + 0.3 * np.cos(old))
        w = spin(old) / (1 + 0.3 * np.cos(old))[..., None, None]
        line = wilson.wilson_line(w[:, 0] if order == 2 else w, dt, magnus_order=order)
        errors.append(float(norm(line - spin_line(TIME))))
    assert abs(fitted_order(errors, steps) - order) < tolerances.SLOPE
    # What a clock shows does not matter at all: w / c with c dt, for any c per step.
    w = spin(wilson.gauss_nodes(0.0, TIME, 8, order))
    clock = np.array([0.5, 3.0, 0.1, 7.0, 1.0, 2.0, 0.25, 5.0])
    line = wilson.wilson_line(w, TIME / 8, magnus_order=order)
    slower = wilson.wilson_line(w / clock.reshape(-1, *[1] * (w.ndim - 1)), TIME / 8 * clock, magnus_order=order)
    assert worst(slower, line) <= tolerances.steps("complex128", 8)


# --- closed forms


def one_step(generator: Array, dt: float = 1.0) -> Array:
    """The line of a constant connection, in steps of different lengths that add up to dt."""
    shares = np.array([0.1, 0.4, 0.2, 0.3]) * dt
    w = np.broadcast_to(generator, (4, *generator.shape))
    return np.asarray(wilson.wilson_line(w, shares))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_su2(isa: str, dtype: str) -> None:
    """exp(-i theta n . sigma / 2) = cos(theta / 2) - i n . sigma sin(theta / 2); 4 pi, not 2 pi, gives 1."""
    axes = np.random.default_rng(0).standard_normal((20, 3)) * 2
    for axis in axes:
        generator = -0.5j * np.tensordot(axis, SIGMA, 1)
        assert worst(one_step(generator.astype(dtype)), rotation(axis)) <= tolerances.steps(dtype, 8)
    n = axes[0] / np.linalg.norm(axes[0])
    for angle, sign in ((2 * np.pi, -1), (4 * np.pi, 1)):
        line = one_step((-0.5j * angle * np.tensordot(n, SIGMA, 1)).astype(dtype))
        assert norm(line - sign * np.eye(2)) <= tolerances.steps(dtype, 16)


def gell_mann() -> Array:
    """The eight generators of SU(3), tr l_a l_b = 2 delta_ab."""
    generators = np.zeros((8, 3, 3), dtype=complex)
    for (real_part, imaginary), (i, j) in zip(((0, 1), (3, 4), (5, 6)), ((0, 1), (0, 2), (1, 2)), strict=True):
        generators[real_part, i, j] = generators[real_part, j, i] = 1
        generators[imaginary, i, j], generators[imaginary, j, i] = -1j, 1j
    generators[2] = np.diag([1, -1, 0])
    generators[7] = np.diag([1, 1, -2]) / 3**0.5
    return generators


def su3(h: Array, theta: float) -> Array:
    """exp(i theta h) for traceless hermitian h with tr h^2 = 2: Curtright and Zachos, arXiv 1508.00868."""
    phi = (np.arccos(1.5 * 3**0.5 * np.linalg.det(h).real) - np.pi / 2) / 3
    result = np.zeros((3, 3), dtype=complex)
    for k in range(3):
        angle = phi + 2 * np.pi * k / 3
        projector = h @ h + 2 / 3**0.5 * h * np.sin(angle) - np.eye(3) * (1 + 2 * np.cos(2 * angle)) / 3
        result += projector * np.exp(2j / 3**0.5 * theta * np.sin(angle)) / (1 - 2 * np.cos(2 * angle))
    return result


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_su3(isa: str, dtype: str) -> None:
    generators = gell_mann()
    bound = tolerances.steps(dtype, 8)
    for theta in (0.3, 2.0, -5.0):
        # The first two turn two colours into each other, number 3 and number 8 only change phases.
        c, s, phase = np.cos(theta), np.sin(theta), np.exp(1j * theta / 3**0.5)
        known = {
            0: np.array([[c, 1j * s, 0], [1j * s, c, 0], [0, 0, 1]]),
            1: np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]),
            2: np.diag([c + 1j * s, c - 1j * s, 1]),
            7: np.diag([phase, phase, phase**-2]),
        }
        for number, exact in known.items():
            assert worst(one_step((1j * theta * generators[number]).astype(dtype)), exact) <= bound
        for axis in np.random.default_rng(0).standard_normal((10, 8)):
            h = np.tensordot(axis / np.linalg.norm(axis), generators, 1)
            line = one_step((1j * theta * h).astype(dtype))
            assert worst(line, su3(h, theta)) <= 4 * bound
            assert abs(np.linalg.det(line.astype(complex)) - 1) <= 4 * bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_so3(isa: str, dtype: str) -> None:
    """Rodrigues: exp(theta [n]) = 1 + sin(theta) [n] + (1 - cos(theta)) [n]^2."""
    for axis in np.random.default_rng(0).standard_normal((20, 3)) * 2:
        theta = np.linalg.norm(axis)
        x, y, z = axis / theta
        n = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        exact = np.eye(3) + np.sin(theta) * n + (1 - np.cos(theta)) * n @ n
        assert worst(one_step((theta * n).astype(dtype)), exact) <= tolerances.steps(dtype, 8)
