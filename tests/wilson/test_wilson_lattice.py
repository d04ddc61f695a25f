# SPDX-License-Identifier: MIT
"""Plaquettes of links on a square lattice: covariant, with invariant traces; the curvature of the connection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tolerances
from wilson_cases import DTYPES, LAYOUTS, Array, assert_layout_is_free, fitted_order, links, norm, wide, worst

from nnsym_fast import reference, wilson
from nnsym_fast.lattice import plaquettes

BOUNDARIES = [(False, False), (True, False), (False, True), (True, True)]


def lattice(rows: int, columns: int, d: int, dtype: str, batch: tuple[int, ...] = ()) -> tuple[Array, Array]:
    """Links (..., L0, L1, 2, d, d), and a matrix g for every site, one row and one column more than there are."""
    rng = np.random.default_rng([rows, columns, d])
    u = links(rng, (*batch, rows, columns, 2, d, d), dtype, spread=0.3)
    return u, links(rng, (*batch, rows + 1, columns + 1, d, d), dtype, spread=0.3)


def closed(g: Array, periodic: tuple[bool, bool]) -> Array:
    """The same g where the lattice closes."""
    g = g.copy()
    if periodic[0]:
        g[..., -1, :, :, :] = g[..., 0, :, :, :]
    if periodic[1]:
        g[..., :, -1, :, :] = g[..., :, 0, :, :]
    return g


def moved(u: Array, g: Array) -> Array:
    """u0(i, j) -> g(i+1, j) u0 g(i, j)^-1, u1(i, j) -> g(i, j+1) u1 g(i, j)^-1"""
    start = np.linalg.inv(g[..., :-1, :-1, :, :])
    ends = np.stack([g[..., 1:, :-1, :, :], g[..., :-1, 1:, :, :]], axis=-3)
    return (ends @ u @ start[..., None, :, :]).astype(u.dtype)


def condition(g: Array) -> float:
    return float((norm(g) * norm(np.linalg.inv(g))).max())


@pytest.mark.parametrize("periodic", BOUNDARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_plaquette_by_hand(dtype: str, periodic: tuple[bool, bool]) -> None:
    """Along 0, along 1, back along 0, back along 1."""
    rows, columns = 3, 4
    u, _ = lattice(rows, columns, 3, dtype)
    p = plaquettes(u, periodic=periodic)
    assert p.dtype == dtype
    assert p.shape == (rows - (not periodic[0]), columns - (not periodic[1]), 3, 3)
    for i in range(p.shape[0]):
        for j in range(p.shape[1]):
            up, right = (i + 1) % rows, (j + 1) % columns
            path = [u[i, j, 0], u[up, j, 1], np.linalg.inv(u[i, right, 0]), np.linalg.inv(u[i, j, 1])]
            exact = reference.ordered_product(np.stack(path).astype(wide(dtype)))
            assert worst(p[i, j], exact) <= tolerances.law(dtype)
    exact = reference.plaquettes(u.astype(wide(dtype)), periodic=periodic)
    assert worst(p, exact) <= tolerances.law(dtype)
    assert worst(plaquettes(u.swapaxes(0, 1)[:, :, ::-1], periodic=periodic[::-1]).swapaxes(0, 1), exact) > 0.1


@pytest.mark.parametrize("periodic", BOUNDARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_plaquettes_are_covariant(isa: str, dtype: str, periodic: tuple[bool, bool]) -> None:
    """P(i, j) -> g(i, j) P(i, j) g(i, j)^-1, so its trace is invariant."""
    for d in (1, 2, 3, 8, 17):
        u, g = lattice(4, 3, d, dtype, (2,))
        g = closed(g, periodic)
        before, after = plaquettes(u, periodic=periodic), plaquettes(moved(u, g), periodic=periodic)
        here = g[:, : before.shape[1], : before.shape[2]].astype(wide(dtype))
        bound = tolerances.law(dtype, condition(g) ** 2)
        assert worst(after, here @ before @ np.linalg.inv(here)) <= bound
        traces = [np.trace(p, axis1=-2, axis2=-1) for p in (before, after)]
        np.testing.assert_allclose(traces[1], traces[0], atol=bound * d)
        if d > 1:
            assert worst(after, before.astype(wide(dtype))) > 0.1


def test_a_seam_with_two_gauges_is_seen() -> None:
    """Negative control: on a closed lattice g must close, too."""
    u, g = lattice(3, 3, 2, "float64")
    before, after = (plaquettes(links, periodic=(True, True)) for links in (u, moved(u, g)))
    traces = [np.trace(p, axis1=-2, axis2=-1) for p in (before, after)]
    np.testing.assert_allclose(traces[1][:-1, :-1], traces[0][:-1, :-1], rtol=1e-9)
    assert np.abs(traces[1] - traces[0])[-1].max() > 1e-2


@pytest.mark.parametrize("periodic", BOUNDARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pure_gauge_has_no_curvature(dtype: str, periodic: tuple[bool, bool]) -> None:
    for d in (1, 3, 17):
        u, g = lattice(3, 4, d, dtype)
        g = closed(g, periodic)
        p = plaquettes(moved(np.broadcast_to(np.eye(d, dtype=dtype), u.shape), g), periodic=periodic)
        assert worst(p, np.broadcast_to(np.eye(d), p.shape)) <= tolerances.law(dtype, condition(g))


def test_links_that_leave_an_open_lattice_are_not_read() -> None:
    u, _ = lattice(3, 4, 2, "float64")
    poisoned = u.copy()
    poisoned[-1, :, 0] = np.nan
    poisoned[:, -1, 1] = np.nan
    np.testing.assert_array_equal(plaquettes(poisoned), plaquettes(u))
    assert np.isnan(plaquettes(poisoned, periodic=(True, True))).any()


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_small_lattices(batch: tuple[int, ...], shape: tuple[int, int]) -> None:
    u, _ = lattice(*shape, 3, "complex64", batch)
    for periodic in BOUNDARIES:
        p = plaquettes(u, periodic=periodic)
        sites = tuple(n - (not closes) for n, closes in zip(shape, periodic, strict=True))
        assert p.shape == (*batch, *sites, 3, 3)
        exact = reference.plaquettes(u.astype("complex128"), periodic=periodic)
        assert worst(p, exact) <= tolerances.law("complex64")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(layout: Callable[[Array], Array]) -> None:
    u, _ = lattice(3, 2, 4, "float32")
    assert_layout_is_free(lambda u: plaquettes(u, periodic=(True, False)), u, layout)


def test_the_abelian_loop_is_the_sum_of_the_flux(isa: str) -> None:
    """Stokes: round a rectangle tr U is the product of all plaquettes inside."""
    rng = np.random.default_rng(0)
    u = np.exp(1j * rng.uniform(-np.pi, np.pi, (4, 5, 2, 1, 1)))
    along, across = [u[i, 0, 0] for i in range(3)], [u[3, j, 1] for j in range(4)]
    back = [u[i, 4, 0].conj() for i in (2, 1, 0)] + [u[0, j, 1].conj() for j in (3, 2, 1, 0)]
    loop = wilson.wilson_loop(np.stack([*along, *across, *back]))
    assert abs(loop - plaquettes(u).prod()) <= tolerances.steps("complex128", 20)


def test_a_small_plaquette_is_the_curvature() -> None:
    """P = 1 + a^2 (d_0 w_1 - d_1 w_0 + [w_1, w_0]) + O(a^3)"""
    rng = np.random.default_rng(0)
    constant, slope = rng.standard_normal((2, 2, 2)), rng.standard_normal((2, 2, 2, 2))

    def w(mu: int, x: Array) -> Array:
        return constant[mu] + np.tensordot(x, slope[mu], 1)

    curvature = slope[1, 0] - slope[0, 1] + constant[1] @ constant[0] - constant[0] @ constant[1]
    errors, counts = [], [50, 100, 200, 400]
    for n in counts:
        a = 1 / n
        sites = np.stack(np.meshgrid([0, a], [0, a], indexing="ij"), axis=-1)
        u = wilson.expm(a * np.stack([w(0, sites), w(1, sites)], axis=2))
        errors.append(float(norm((plaquettes(u)[0, 0] - np.eye(2)) / a**2 - curvature)))
    assert abs(fitted_order(errors, counts) - 1) < tolerances.SLOPE
    assert norm(slope[1, 0] - slope[0, 1] - curvature) > 0.1, "without the commutator it is another matrix"
