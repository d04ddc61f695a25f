# SPDX-License-Identifier: MIT
"""Gauge covariance of Wilson lines: u_k -> g_{k+1} u_k g_k^-1 changes a line at its ends and a loop not at all."""

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
    fitted_order,
    links,
    norm,
    wide,
    worst,
)

from nnsym_fast import reference, wilson

SHAPES = ((1, 6, 1), (9, 5, 2), (1, 200, 3), (17, 4, 4), (3, 5, 8), (2, 4, 17), (1, 3, 33))
"""Paths, steps, d."""


def group_elements(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Invertible matrices with condition numbers of about 5."""
    return links(rng, shape, dtype, spread=0.7)


def condition(g: Array) -> float:
    g = g.astype(wide(g.dtype.name))
    return float((norm(g) * norm(np.linalg.inv(g))).max())


def inverse(a: Array) -> Array:
    return np.linalg.inv(a.astype(wide(a.dtype.name)))


# --- lines and loops


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_line_changes_at_its_ends_only(isa: str, dtype: str) -> None:
    """U -> g_T U g_0^-1, to rounding, at any step size."""
    for n, steps, d in SHAPES:
        rng = np.random.default_rng(d)
        u, g = links(rng, (n, steps, d, d), dtype), group_elements(rng, (n, steps + 1, d, d), dtype)
        line = wilson.ordered_product(u).astype(wide(dtype))
        moved = wilson.gauge_transform(u, g)
        assert moved.dtype == dtype
        bound = tolerances.steps(dtype, steps) * condition(g)
        assert worst(moved, reference.gauge_transform(u.astype(wide(dtype)), g.astype(wide(dtype)))) <= bound
        exact = g[:, -1] @ line @ inverse(g[:, 0])
        assert worst(wilson.ordered_product(moved), exact) <= bound
        every = g @ wilson.cumulative_product(u).astype(wide(dtype)) @ inverse(g[:, :1])
        assert worst(wilson.cumulative_product(moved), every) <= bound
        if d > 1:
            assert worst(moved, u.astype(wide(dtype))) > 0.1, "every link has changed"
            g[:, 1] = g[:, 1] @ g[:, 1]
            wrong = np.concatenate([moved[:, :1], wilson.gauge_transform(u, g)[:, 1:]], axis=1)
            assert worst(wilson.ordered_product(wrong), exact) > 1e-2, "a link with another g at its end"


@pytest.mark.parametrize("dtype", DTYPES)
def test_loops_are_invariant(isa: str, dtype: str) -> None:
    """tr U is the same in every gauge with g_T = g_0, and does not depend on where the loop begins."""
    for n, steps, d in SHAPES:
        rng = np.random.default_rng(d)
        u, g = links(rng, (n, steps, d, d), dtype), group_elements(rng, (n, steps + 1, d, d), dtype)
        open_ends = wilson.wilson_loop(wilson.gauge_transform(u, g))
        g[:, -1] = g[:, 0]
        loop = wilson.wilson_loop(u)
        assert loop.shape == (n,)
        assert loop.dtype == dtype
        size = norm(wilson.ordered_product(u).astype(wide(dtype))) * d**0.5
        bound = tolerances.steps(dtype, steps) * condition(g)
        exact = reference.wilson_loop(u.astype(wide(dtype)))
        assert np.all(np.abs(loop - exact) <= tolerances.steps(dtype, steps) * size)
        assert np.all(np.abs(wilson.wilson_loop(wilson.gauge_transform(u, g)) - exact) <= bound * size)
        assert np.all(np.abs(wilson.wilson_loop(np.roll(u, 1, axis=1)) - exact) <= bound * size)
        assert np.abs(open_ends - exact).max() > 1e-3, "a path that does not close is not invariant"
    assert wilson.wilson_loop(u[:, :0]).tolist() == [d]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gauge_transformations_form_a_group(dtype: str) -> None:
    """First g, then h, is h g; g^-1 undoes g; pure gauge links g_{k+1} g_k^-1 have the line g_T g_0^-1."""
    for shape in ((), (3,), (2, 2)):
        rng = np.random.default_rng(0)
        u = links(rng, (*shape, 5, 4, 4), dtype)
        g, h = (group_elements(rng, (*shape, 6, 4, 4), dtype) for _ in range(2))
        bound = tolerances.law(dtype, condition(g) * condition(h))
        twice = wilson.gauge_transform(wilson.gauge_transform(u, g), h)
        assert worst(twice, wilson.gauge_transform(u, h @ g).astype(wide(dtype))) <= bound
        back = wilson.gauge_transform(wilson.gauge_transform(u, g), inverse(g).astype(dtype))
        assert worst(back, u.astype(wide(dtype))) <= bound
        pure = wilson.gauge_transform(np.broadcast_to(np.eye(4, dtype=dtype), u.shape), g)
        exact = g[..., -1, :, :] @ inverse(g[..., 0, :, :])
        assert worst(wilson.ordered_product(pure), exact) <= bound
        g[..., -1, :, :] = g[..., 0, :, :]
        round_trip = wilson.gauge_transform(np.broadcast_to(np.eye(4, dtype=dtype), u.shape), g)
        np.testing.assert_allclose(wilson.wilson_loop(round_trip), 4, atol=bound)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: Callable[[Array], Array]) -> None:
    rng = np.random.default_rng(0)
    u, g = links(rng, (2, 3, 4, 4), "complex64"), group_elements(rng, (2, 4, 4, 4), "complex64")
    assert_layout_is_free(lambda u: wilson.gauge_transform(u, g), u, layout)
    assert_layout_is_free(lambda g: wilson.gauge_transform(u, g), g, layout)
    assert_layout_is_free(wilson.wilson_loop, u, layout)


# --- paths


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_way_back_is_the_inverse(isa: str, dtype: str) -> None:
    """u_0^-1 u_1^-1 ... undoes the path."""
    for n, steps, d in SHAPES:
        u = links(np.random.default_rng(d), (n, steps, d, d), dtype)
        back = inverse(u).astype(dtype)[:, ::-1]
        there = wilson.ordered_product(u)
        bound = tolerances.steps(dtype, 2 * steps) * condition(there)
        assert worst(wilson.ordered_product(back), inverse(there)) <= bound
        loop = wilson.ordered_product(np.concatenate([u, back], axis=1))
        assert worst(loop, np.broadcast_to(np.eye(d), loop.shape)) <= bound


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_connection_read_backwards_gives_the_inverse(isa: str, dtype: str, order: int) -> None:
    """-w in the opposite order of steps and nodes: Magnus exponents are odd in time, so this is exact."""
    nodes = () if order == 2 else (NODES[order],)
    for batch, steps, d in (((), 6, 2), ((9,), 5, 3), ((3,), 4, 8), ((2,), 3, 17)):
        rng = np.random.default_rng(d)
        w, dt = connection(rng, (*batch, steps, *nodes, d, d), dtype), rng.uniform(0.2, 0.6, steps)
        axes = (-3,) if order == 2 else (-4, -3)
        line = wilson.wilson_line(w, dt, magnus_order=order)
        back = wilson.wilson_line(-np.flip(w, axes), dt[::-1], magnus_order=order)
        assert worst(back, inverse(line)) <= tolerances.steps(dtype, steps) * condition(line)
        if order > 2:
            wrong = wilson.wilson_line(-np.flip(w, -4), dt[::-1], magnus_order=order)
            assert worst(wrong, inverse(line)) > 1e-3, "the nodes turn round, too"


@pytest.mark.parametrize("order", ORDERS)
def test_a_path_may_be_cut_anywhere(isa: str, order: int) -> None:
    """U(t2, t0) = U(t2, t1) U(t1, t0)"""
    nodes = () if order == 2 else (NODES[order],)
    for dtype in DTYPES:
        for n, steps, d in ((5, 7, 3), (1, 300, 2), (2, 5, 16)):
            rng = np.random.default_rng(d)
            w, dt = connection(rng, (n, steps, *nodes, d, d), dtype, 0.3), rng.uniform(0.1, 0.3, steps)
            line = wilson.wilson_line(w, dt, magnus_order=order).astype(wide(dtype))
            for cut in (0, 1, steps // 2, steps - 1, steps):
                first = wilson.wilson_line(w[:, :cut], dt[:cut], magnus_order=order)
                second = wilson.wilson_line(w[:, cut:], dt[cut:], magnus_order=order)
                bound = tolerances.steps(dtype, steps) * max(condition(first), condition(second))
                assert worst(second @ first, line) <= bound
            assert worst(first @ wilson.wilson_line(w[:, :2], dt[:2], magnus_order=order), line) > 1e-3


# --- the continuum: what a step size breaks


def field(t: Array) -> Array:
    """A connection of GL(2), (..., 2, 2)."""
    a, b = np.array([[0.2, 1.0], [-0.7, 0.1]]), np.array([[0.5, 0.3], [0.4, -0.6]])
    return np.multiply.outer(np.cos(t), a) + np.multiply.outer(np.sin(2 * t), b)


GENERATORS = np.array([[[0.3, 0.8], [-0.5, 0.1]], [[0.2, -0.4], [0.9, -0.3]]])


def frame(t: Array) -> tuple[Array, Array]:
    """g(t) = exp(sin(t) J) exp(t^2 / 4 K), and its derivative."""
    j, k = GENERATORS
    s, r = np.sin(t)[..., None, None], (t**2 / 4)[..., None, None]
    first, second = reference.expm(s * j), reference.expm(r * k)
    derivative = np.cos(t)[..., None, None] * j @ first @ second + first @ second @ k * (t / 2)[..., None, None]
    return first @ second, derivative


def transformed(t: Array) -> Array:
    """w -> g w g^-1 + g_dot g^-1, point by point."""
    g, derivative = frame(t)
    return (g @ field(t) + derivative) @ np.linalg.inv(g)


def euler_links(w: Callable[[Array], Array], steps: int) -> Array:
    return np.eye(2) + 2.0 / steps * w(np.arange(steps) * 2.0 / steps)


def broken(line: Array, moved: Array) -> float:
    """||U_new - g(T) U g(0)^-1||"""
    (end, start), _ = frame(np.array([2.0, 0.0]))
    return float(norm(moved - end @ line @ np.linalg.inv(start)))


def test_euler_steps_break_covariance_in_proportion_to_dt(isa: str) -> None:
    """A residual network is one Euler step per layer: transformed pointwise it is another map, at O(dt)."""
    counts = [32, 64, 128, 256]
    errors, on_links = [], []
    for n in counts:
        u = euler_links(field, n)
        errors.append(broken(wilson.ordered_product(u), wilson.ordered_product(euler_links(transformed, n))))
        g, _ = frame(np.linspace(0, 2, n + 1))
        moved = wilson.gauge_transform(u, g)
        on_links.append(broken(wilson.ordered_product(u), wilson.ordered_product(moved)))
    assert abs(fitted_order(errors, counts) - 1) < tolerances.SLOPE
    assert min(errors) > 1e-3
    assert max(on_links) <= tolerances.steps("float64", max(counts)) * condition(g) ** 2, "links: at any step size"


@pytest.mark.parametrize("order", ORDERS)
def test_magnus_steps_break_covariance_at_their_order(isa: str, order: int) -> None:
    """And the links of the same steps do not: on 2 steps as on 48."""
    counts = [16, 24, 32, 48]
    errors = []
    for n in counts:
        t = wilson.gauss_nodes(0.0, 2.0, n, order)
        line = wilson.wilson_line(field(t), 2 / n, magnus_order=order)
        errors.append(broken(line, wilson.wilson_line(transformed(t), 2 / n, magnus_order=order)))
    assert abs(fitted_order(errors, counts) - order) < tolerances.SLOPE
    for n in (2, 48):
        every = wilson.wilson_line(
            field(wilson.gauss_nodes(0.0, 2.0, n, order)), 2 / n, magnus_order=order, cumulative=True
        )
        u = every[1:] @ np.linalg.inv(every[:-1])
        g, _ = frame(np.linspace(0, 2, n + 1))
        moved = wilson.ordered_product(wilson.gauge_transform(u, g))
        assert broken(every[-1], moved) <= tolerances.steps("float64", n) * condition(g) ** 2


@pytest.mark.parametrize("order", ORDERS)
def test_a_higgs_field_turns_with_the_frame(isa: str, order: int) -> None:
    """x -> g(t) x for w -> g w g^-1 + g_dot g^-1 and b -> g b, up to the error of the steps."""
    x0, counts, errors, wrong = np.array([1.0, -0.5]), [16, 24, 32, 48], [], []
    (end, start), _ = frame(np.array([2.0, 0.0]))
    for n in counts:
        t = wilson.gauss_nodes(0.0, 2.0, n, order)
        b = np.stack([np.sin(3 * t), np.exp(-t)], axis=-1)
        turned = (frame(t)[0] @ b[..., None])[..., 0]
        x = wilson.affine_flow(field(t), b, x0, 2 / n, magnus_order=order)
        for higgs, found in ((turned, errors), (b, wrong)):
            moved = wilson.affine_flow(transformed(t), higgs, start @ x0, 2 / n, magnus_order=order)
            found.append(float(norm(moved - end @ x, axes=1)))
    assert abs(fitted_order(errors, counts) - order) < tolerances.SLOPE
    assert min(wrong) > 0.1, "b has a leg, too"
