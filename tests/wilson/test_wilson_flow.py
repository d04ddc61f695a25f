# SPDX-License-Identifier: MIT
"""The linear neural ODE x' = w(t) x + b(t): gauge field w, Higgs field b, and the closed formula when all commutes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import tolerances
from wilson_cases import (
    DTYPES,
    LAYOUTS,
    NODES,
    ORDERS,
    Array,
    assert_layout_is_free,
    connection,
    fitted_order,
    norm,
    normal,
    wide,
)

from nnsym_fast import reference, wilson


def problem(order: int, batch: tuple[int, ...], steps: int, d: int, dtype: str) -> tuple[Array, Array, Array]:
    """Random w, b, x0."""
    rng = np.random.default_rng([d, steps])
    nodes = () if order == 2 else (NODES[order],)
    w = connection(rng, (*batch, steps, *nodes, d, d), dtype, 0.7)
    return w, normal(rng, (*batch, steps, *nodes, d), dtype), normal(rng, (*batch, d), dtype)


def off(value: Array, exact: Array) -> float:
    """The largest error of a vector over 1 + ||x||: x0 and b have size 1, and x may pass through 0."""
    assert value.shape == exact.shape
    return float((norm(value - exact, axes=1) / (1 + norm(exact, axes=1))).max(initial=0))


# --- against the reference


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flows_of_every_size(isa: str, dtype: str, order: int) -> None:
    for number, d in enumerate((1, 2, 3, 4, 5, 7, 8, 11, 15, 16, 17, 32)):
        for batch in ((1,), (9,), (17,)) if d < 10 else ((2,),):
            steps = (1, 3, 6, 2)[(number + batch[0]) % 4]
            w, b, x0 = problem(order, batch, steps, d, dtype)
            given = (array.astype(wide(dtype)) for array in (w, b, x0))
            exact = reference.affine_flow(*given, 0.3, magnus_order=order, cumulative=True)
            end = wilson.affine_flow(w, b, x0, 0.3, magnus_order=order)
            every = wilson.affine_flow(w, b, x0, 0.3, magnus_order=order, cumulative=True)
            assert end.dtype == every.dtype == dtype
            assert off(end, exact[:, -1]) <= tolerances.steps(dtype, steps)
            assert off(every, exact) <= tolerances.steps(dtype, steps)
            np.testing.assert_array_equal(every[:, 0], x0)


@pytest.mark.parametrize("order", ORDERS)
def test_batch_axes_broadcast(isa: str, order: int) -> None:
    """w, b, x0 and dt may each lack batch axes that another one has."""
    w, b, x0 = problem(order, (2, 3), 4, 3, "float64")
    dt = np.random.default_rng(0).uniform(0.1, 0.4, (2, 3, 4))
    cases = [(w, b, x0, dt), (w[0, 0], b, x0, 0.2), (w, b[0], x0[1, 0], dt[0, 0]), (w[0, 0], b[0, 0], x0[0, 0], 0.2)]
    cases += [(w[0, 0], b[0, 0], x0, 0.2), (w[:, :1], b[:1], x0[0, 0], dt), (w[:0, 0], b[0, 0], x0[0, 0], 0.1)]
    for arguments in cases:
        for cumulative in (False, True):
            exact = reference.affine_flow(*arguments, magnus_order=order, cumulative=cumulative)
            value = wilson.affine_flow(*arguments, magnus_order=order, cumulative=cumulative)
            assert value.shape == exact.shape
            assert off(value, exact) <= tolerances.steps("float64", 4)
    for steps in (0, 1):
        value = wilson.affine_flow(w[:, :, :steps], b[:, :, :steps], x0, 0.1, magnus_order=order, cumulative=True)
        assert value.shape == (2, 3, steps + 1, 3)
        np.testing.assert_array_equal(value[:, :, 0], x0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array]) -> None:
    w, b, x0 = problem(4, (2,), 3, 3, dtype)
    assert_layout_is_free(lambda w: wilson.affine_flow(w, b, x0, 0.1, magnus_order=4), w, layout)
    assert_layout_is_free(lambda b: wilson.affine_flow(w, b, x0, 0.1, magnus_order=4), b, layout)
    assert_layout_is_free(lambda x0: wilson.affine_flow(w, b, x0, 0.1, magnus_order=4), x0, layout)


# --- constant in a step: exact


def augmented_step(w: Array, b: Array, x: Array, dt: float) -> Array:
    """One exact step by scipy, in float64."""
    d = len(x)
    generator = np.zeros((d + 1, d + 1), w.dtype)
    generator[:d, :d], generator[:d, d] = w, b
    return np.asarray((scipy.linalg.expm(dt * generator) @ np.append(x, 1))[:d])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["regular", "singular", "nilpotent", "zero"])
def test_constant_fields_are_exact(isa: str, dtype: str, kind: str) -> None:
    """No step is too long, and no w too singular: w^-1 (exp(w dt) - 1) b never appears."""
    rng = np.random.default_rng(0)
    for d in (1, 2, 3, 8, 17):
        w = connection(rng, (3, d, d), wide(dtype), 0.8)
        if kind == "singular":
            w = w @ np.diag([0.0] + [1.0] * (d - 1))
        elif kind == "nilpotent":
            w = np.triu(w, 1)
        elif kind == "zero":
            w *= 0
        w, b, x = w.astype(dtype), normal(rng, (3, d), dtype), normal(rng, (d,), dtype)
        dt = np.array([0.25, 2.0, 1.0])
        exact = x.astype(wide(dtype))
        for k in range(3):
            exact = augmented_step(w[k].astype(exact.dtype), b[k], exact, dt[k])
        assert off(wilson.affine_flow(w, b, x, dt), exact) <= 2 * tolerances.steps(dtype, 3)
        if kind == "zero":
            np.testing.assert_allclose(exact, x + dt @ b.astype(exact.dtype), rtol=1e-12)


def test_without_a_higgs_field_the_flow_is_the_wilson_line(isa: str) -> None:
    for dtype in DTYPES:
        for order in ORDERS:
            w, b, x0 = problem(order, (5,), 6, 4, dtype)
            line = wilson.wilson_line(w, 0.2, magnus_order=order).astype(wide(dtype))
            flow = wilson.affine_flow(w, 0 * b, x0, 0.2, magnus_order=order)
            assert off(flow, (line @ x0[..., None])[..., 0]) <= tolerances.steps(dtype, 6)


def test_the_flow_is_affine(isa: str) -> None:
    """x0, b -> x(T) is linear; x(T) = U x0 + the sum of what the steps add, transported by the rest of the line."""
    rng = np.random.default_rng(0)
    w, b, x0 = problem(2, (), 7, 3, "float64")
    c, y0 = rng.standard_normal(b.shape), rng.standard_normal(3)
    both = wilson.affine_flow(w, 2 * b - c, 2 * x0 - y0, 0.3)
    parts = 2 * wilson.affine_flow(w, b, x0, 0.3) - wilson.affine_flow(w, c, y0, 0.3)
    assert off(both, parts) <= tolerances.steps("float64", 20)
    rest = wilson.cumulative_product(wilson.expm(0.3 * w)[::-1].swapaxes(-1, -2)).swapaxes(-1, -2)[::-1]
    kicks = [wilson.affine_flow(w[k : k + 1], b[k : k + 1], 0 * x0, 0.3) for k in range(7)]
    total = rest[0] @ x0 + sum(rest[k + 1] @ kick for k, kick in enumerate(kicks))
    assert off(wilson.affine_flow(w, b, x0, 0.3), total) <= tolerances.steps("float64", 20)


# --- smooth fields: orders of convergence


def smooth_w(t: Array) -> Array:
    """(..., 3, 3), at no two times commuting."""
    a, b, c = np.array([[0, 1, 0], [-1, 0, 0.5], [0, 0.3, 0]]), np.diag([0.5, -1, 0.2]), np.ones((3, 3)) / 3
    return np.multiply.outer(np.cos(t), a) + np.multiply.outer(np.sin(2 * t), b) + np.multiply.outer(t, c) * 0.3


def smooth_b(t: Array) -> Array:
    return np.stack([np.sin(3 * t), np.exp(-t), 1 / (1 + t**2)], axis=-1)


X0 = np.array([1.0, -0.5, 0.3])


@pytest.mark.parametrize("order", ORDERS)
def test_smooth_fields_against_an_integrator(isa: str, order: int) -> None:
    """solve_ivp at tolerances of 1e-13; the error falls with the order of Magnus."""
    solved = scipy.integrate.solve_ivp(
        lambda t, x: smooth_w(t) @ x + smooth_b(t), (0, 2), X0, method="DOP853", rtol=1e-13, atol=1e-14
    )
    exact = solved.y[:, -1]
    errors, steps = [], [8, 12, 16, 24]
    for n in steps:
        t = wilson.gauss_nodes(0.0, 2.0, n, order)
        x = wilson.affine_flow(smooth_w(t), smooth_b(t), X0, 2 / n, magnus_order=order)
        errors.append(float(norm(x - exact, axes=1)))
    assert abs(fitted_order(errors, steps) - order) < tolerances.SLOPE
    assert errors[-1] < {2: 1e-2, 4: 1e-4, 6: 1e-6}[order]


# --- the abelian case: the printed formula of the talk


def printed(integral_of_w: Callable[[float], float], b: Callable[[float], float], x0: float, time: float) -> float:
    """x(T) = e^{int_0^T w} x(0) + (int_0^T e^{-int_0^t' w} b(t') dt') e^{int_0^T w}, by quadrature."""
    kick, _ = scipy.integrate.quad(
        lambda t: np.exp(-integral_of_w(t)) * b(t), 0, time, epsabs=1e-13, epsrel=1e-13, limit=200
    )
    return float(np.exp(integral_of_w(time)) * x0 + kick * np.exp(integral_of_w(time)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_abelian_case_with_constant_fields(isa: str, dtype: str) -> None:
    """x(T) = e^{wT} x0 + (e^{wT} - 1) / w b, and x0 + b T for w = 0, in any number of steps."""
    time, x0, b = 1.5, 0.7, -1.2
    for rate in (-2.0, 0.0, 0.5):
        growth = np.exp(rate * time)
        exact = growth * x0 + (np.expm1(rate * time) / rate if rate else time) * b
        np.testing.assert_allclose(exact, printed(lambda t, rate=rate: rate * t, lambda t: b, x0, time), rtol=1e-12)
        for n in (1, 2, 30):
            w, higgs = np.full((n, 1, 1), rate, dtype), np.full((n, 1), b, dtype)
            x = wilson.affine_flow(w, higgs, np.full(1, x0, dtype), time / n)
            assert abs(x[0] - exact) <= tolerances.steps(dtype, n) * (abs(exact) + growth)


@pytest.mark.parametrize("order", ORDERS)
def test_the_abelian_case_in_time(isa: str, order: int) -> None:
    """w = cos t, so e^{int w} = e^{sin t}; b = cos t e^{sin t}, so x(T) = e^{sin T} (x0 + sin T); and diagonal w."""
    time = 2.0
    closed = np.exp(np.sin(time)) * (0.7 + np.sin(time))
    assert abs(printed(np.sin, lambda t: np.cos(t) * np.exp(np.sin(t)), 0.7, time) - closed) < 1e-11
    second = printed(lambda t: -0.5 * t**2, lambda t: np.sin(3 * t), -0.4, time)
    exact = np.array([closed, second])
    errors, steps = [], [6, 9, 12, 18]
    for n in steps:
        t = wilson.gauss_nodes(0.0, time, n, order)
        w = np.zeros((*t.shape, 2, 2))
        w[..., 0, 0], w[..., 1, 1] = np.cos(t), -t
        b = np.stack([np.cos(t) * np.exp(np.sin(t)), np.sin(3 * t)], axis=-1)
        both = wilson.affine_flow(w, b, np.array([0.7, -0.4]), time / n, magnus_order=order)
        # What commutes does not mix: the first equation alone gives the same.
        alone = wilson.affine_flow(w[..., :1, :1], b[..., :1], np.array([0.7]), time / n, magnus_order=order)
        assert abs(alone[0] - both[0]) <= tolerances.steps("float64", n) * 4
        errors.append(float(np.abs(both - exact).max()))
    assert abs(fitted_order(errors, steps) - order) < tolerances.SLOPE
    # Negative control: without the factor of the later times the formula is another one.
    wrong = np.exp(np.sin(time)) * 0.7 + np.sin(time)
    assert abs(wrong - closed) > 0.1


@pytest.mark.parametrize("order", ORDERS)
def test_reparametrised_time(isa: str, order: int) -> None:
    """w / tau_dot and b / tau_dot with the steps of the new clock: the same x(T)."""
    w, b, x0 = problem(order, (4,), 6, 3, "float64")
    clock = np.array([0.5, 3.0, 0.1, 7.0, 1.0, 2.0])
    slow = clock.reshape(-1, *[1] * (w.ndim - 2))
    x = wilson.affine_flow(w, b, x0, 0.2, magnus_order=order)
    same = wilson.affine_flow(w / slow, b / slow[..., 0], x0, 0.2 * clock, magnus_order=order)
    assert off(same, x) <= tolerances.steps("float64", 6)
    other = wilson.affine_flow(w / slow, b, x0, 0.2 * clock, magnus_order=order)
    assert off(other, x) > 1e-2, "b must change with w"


def test_infinitesimal_reparametrisations(isa: str) -> None:
    """t -> t + e f(t): w -> w - e d/dt(w f), b -> b - e d/dt(b f) changes x(T) by O(e^2), if f(0) = f(T) = 0."""
    time, h = 2.0, 1e-5
    t = wilson.gauss_nodes(0.0, time, 200, 6)

    def shifted(field: Callable[[Array], Array], scale: float, whole: bool = True) -> Array:
        """field - scale d/dt (field f), or without the part f_dot, as for a scalar."""

        def product(s: Array) -> Array:
            f = np.sin(np.pi * (s if whole else t) / time)
            return field(s) * f.reshape(*f.shape, *[1] * (field(s).ndim - f.ndim))

        return field(t) - scale * (product(t + h) - product(t - h)) / (2 * h)

    x = wilson.affine_flow(smooth_w(t), smooth_b(t), X0, time / 200, magnus_order=6)
    sizes, orders = [0.08, 0.04, 0.02, 0.01], []
    for whole in (True, False):
        errors = []
        for scale in sizes:
            w, b = shifted(smooth_w, scale, whole), shifted(smooth_b, scale, whole)
            errors.append(float(norm(wilson.affine_flow(w, b, X0, time / 200, magnus_order=6) - x, axes=1)))
        orders.append(fitted_order(errors, [round(1 / scale) for scale in sizes]))
    assert abs(orders[0] - 2) < tolerances.SLOPE
    assert abs(orders[1] - 1) < tolerances.SLOPE, "a negative control"
