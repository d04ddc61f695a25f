# SPDX-License-Identifier: MIT
"""The Wilson family on device tensors: which kernel serves what, and the public functions there.

The functions of ``_device.wilson_paths`` are called with arrays and judged as those of ``_wilson`` are. On the
emulation every result is computed with the threads in two orders, which may change no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tolerances
from test_wilson_backward import Problem
from test_wilson_kernels import ORDERS, case, off
from wilson_cases import (
    DTYPES,
    Array,
    connection,
    links,
    model_links,
    model_states,
    normal,
    unitary,
    wide,
    worst,
)

import nnsym_fast as nf
from nnsym_fast import _device, reference
from nnsym_fast._device import wilson_large, wilson_paths

torch = pytest.importorskip("torch")

SIZES = (3, 6, 8, 9, 16, 17, 24, 25, 32, 33)
"""Sizes around every switch of kernels."""


def on(device: Any, function: Callable[..., Any], *args: Any) -> tuple[Array | None, ...]:
    """A function of tensors, called with arrays; on the emulation in two orders of the threads."""

    def call() -> tuple[Array | None, ...]:
        moved = (torch.from_numpy(np.ascontiguousarray(x)).to(device) if isinstance(x, np.ndarray) else x for x in args)
        results = function(*moved)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(None if x is None else x.cpu().numpy() for x in results)

    found = call()
    if device.type == "cpu":
        with _device.emulated(7):
            again = call()
        for a, b in zip(found, again, strict=True):
            np.testing.assert_array_equal(a, b)
    return found


def test_sizes_are_those_of_the_module(device: Any) -> None:
    module = _device.module()
    assert (module.WILSON_SMALL, module.WILSON_WARP) == (wilson_paths.WILSON_SMALL, wilson_paths.WILSON_WARP)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_transport(device: Any, dtype: str, order: int) -> None:
    """X_k = U_k X_{k-1}, the last and all of them, and with exponents."""
    for number, d in enumerate(SIZES):
        n, steps = (2, 1, 3)[number % 3], (2, 3)[number % 2]
        shape = ((1, 1), (n, 1), (1, steps), (n, steps))[number % 4]
        w, dt, x0 = case(n, steps, d, (None, 1, 3)[(number + order // 2) % 3], order, dtype, shape)
        exact = model_states(model_links(w, dt, order), x0)
        bound = tolerances.steps(dtype, steps)
        last, _ = on(device, wilson_paths.transport, w, dt, x0, None, order, False, False)
        assert last is not None
        assert off(last, exact[:, -1]) <= bound
        every, powers = on(device, wilson_paths.transport, w, dt, x0, None, order, True, True)
        assert every is not None
        assert powers is not None
        assert powers.dtype == np.int32
        largest = np.maximum(np.abs(every.real), np.abs(every.imag)).max(axis=(-2, -1))
        assert ((largest >= 0.5) & (largest < 1)).all()
        assert off(every * np.ldexp(every.real.dtype.type(1), powers)[..., None, None], exact) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_transport_with_kicks(device: Any, dtype: str) -> None:
    """X_k = U_k X_{k-1} + b_k, of few and of many columns."""
    for d, c, n in ((3, 2, 2), (9, 1, 2), (17, 32, 1), (10, 40, 1), (10, 70, 2), (33, 2, 2)):
        w, _, x0 = case(n, 3, d, c, 0, dtype, (1, 1))
        b = normal(np.random.default_rng(1), (n, 3, d, c), dtype)
        exact = model_states(model_links(w, None, 0), x0, b)
        for cumulative in (False, True):
            found, _ = on(device, wilson_paths.transport, w, None, x0, b, 0, cumulative, False)
            assert found is not None
            assert off(found, exact if cumulative else exact[:, -1]) <= tolerances.steps(dtype, 3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward(device: Any, dtype: str, order: int) -> None:
    """Adjoint to the derivative, from given states and from checkpoints, with shifts where they come."""
    for number, d in enumerate((3, 6, 9, 16, 17, 24, 31, 33)):
        n, steps = (3, 1, 2)[number % 3], (2, 5)[number % 2]
        c = (None, 1, 3)[(number + order // 2) % 3]
        problem = Problem(n, steps, d, c, order, dtype, bool(number % 2))
        shift = problem.shift if order == 0 and number % 3 == 0 else None

        def backward(states: Array | None, problem: Problem = problem, shift: Array | None = shift) -> Any:
            return on(
                device, wilson_paths.transport_backward, problem.w, problem.dt, problem.x0, states, shift,
                problem.grad, problem.order, problem.cumulative,
            )  # fmt: skip

        problem.assert_adjoint(backward(None), shift)
        problem.assert_adjoint(backward(problem.states(shift)), shift)


def test_backward_of_many_columns(device: Any) -> None:
    for n, states in ((1, True), (2, False)):
        problem = Problem(n, 5, 10, 40, 2, "float32", True)
        args = problem.w, problem.dt, problem.x0, problem.states() if states else None, None, problem.grad, 2, True
        problem.assert_adjoint(on(device, wilson_paths.transport_backward, *args))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_paths(device: Any, dtype: str) -> None:
    """They are cut into segments; their gradients use the states of a scan."""
    for d, steps, order in ((2, 77, 4), (9, 51, 0), (12, 35, 2)):
        w, dt, x0 = case(1, steps, d, (None, 1)[steps % 2], order, dtype, (1, steps))
        if order:
            w = (w - np.conj(np.swapaxes(w, -1, -2))).astype(dtype)  # nothing grows
        exact = model_states(model_links(w, dt, order), x0)
        bound = tolerances.steps(dtype, steps)
        for cumulative in (False, True):
            found, _ = on(device, wilson_paths.transport, w, dt, x0, None, order, cumulative, False)
            assert found is not None
            assert off(found, exact if cumulative else exact[:, -1]) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm(device: Any, dtype: str) -> None:
    """Norms of all sizes in one batch, strong decays, and a matrix that is not finite and spoils no other."""
    rng = np.random.default_rng(0)
    for d in (5, 10, 18, 27, 36):
        norms = np.array([0.0, 1e-9, 1e-4, 0.02, 0.2, 0.7, 3.0, 30.0])
        a = normal(rng, (len(norms), d, d), wide(dtype))
        a *= (norms / np.abs(a).sum(axis=-2).max(axis=-1))[:, None, None]
        decay = unitary(rng, (d, d), wide(dtype))
        a[-1] = decay @ np.diag(-np.geomspace(1, 300, d)) @ np.conj(decay.T)
        a = a.astype(dtype)
        exact = reference.expm(a.astype(wide(dtype)))
        (found,) = on(device, wilson_paths.expm, a)
        assert found is not None
        bound = tolerances.EPSILON[dtype] * (8 + 8 * norms)
        bound[-1] = 2000 * tolerances.EPSILON[dtype]
        each = np.array([worst(found[i : i + 1], exact[i : i + 1]) for i in range(len(norms))])
        assert (each <= bound).all(), (d, each / bound)
        a[2, -1, 0], a[4, 0, 0] = np.nan, np.inf
        (spoiled,) = on(device, wilson_paths.expm, a)
        assert spoiled is not None
        good = [0, 1, 3, 5, 6, 7]
        assert np.isnan(spoiled[[2, 4]]).all()
        np.testing.assert_allclose(spoiled[good], found[good], rtol=0, atol=bound[:, None, None][good].max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivative_of_expm(device: Any, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for d in (4, 9, 20, 32, 34):
        a = connection(rng, (3, d, d), dtype) * np.array([0.01, 0.3, 2], dtype=dtype)[:, None, None]
        e = normal(rng, (3, d, d), dtype)
        exact = reference.expm_frechet(a.astype(wide(dtype)), e.astype(wide(dtype)))
        (found,) = on(device, wilson_paths.expm, a, e)
        assert found is not None
        size = np.abs(a).sum(axis=-2).max()
        assert worst(found, exact) <= tolerances.FRECHET * tolerances.EPSILON[dtype] * (1 + size)


def test_squarings_under_capture(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be read, a bound on the squarings holds, and what needs more is NaN."""
    a = np.stack([np.eye(33) * x for x in (0.1, -50.0, -1e9)])
    monkeypatch.setattr(wilson_large, "_capturing", lambda value: True)
    (found,) = on(device, wilson_paths.expm, a)
    assert found is not None
    assert worst(found[:2], reference.expm(a[:2])) <= 1e-12
    assert np.isnan(found[2]).all()


def tensor(a: Array, device: Any) -> Any:
    return torch.from_numpy(a).to(device)


def same(found: Any, expected: Array, bound: float) -> None:
    assert worst(found.cpu().numpy(), expected) <= bound


def test_public_functions(device: Any) -> None:
    """Each against its NumPy definition."""
    rng = np.random.default_rng(2)
    for d in (3, 10):
        u, g = links(rng, (2, 4, d, d)), links(rng, (2, 5, d, d))
        t = tensor(u, device)
        same(nf.wilson.ordered_product(t), reference.ordered_product(u), 1e-13)
        same(nf.wilson.cumulative_product(t), reference.cumulative_product(u), 1e-13)
        loop = nf.wilson.wilson_loop(t)
        np.testing.assert_allclose(loop.cpu(), reference.wilson_loop(u), rtol=1e-12, atol=1e-12)
        same(nf.wilson.gauge_transform(t, tensor(g, device)), reference.gauge_transform(u, g), 1e-12)
        p, exponent = nf.wilson.ordered_product(t * 2.0**30, log_scale=True)
        assert exponent.device.type == device.type
        same(p * 2.0 ** (exponent[:, None, None] - 120), reference.ordered_product(u), 1e-13)
        lattice = links(rng, (3, 2, 2, d, d))
        for periodic in ((False, False), (True, False)):
            expected = reference.plaquettes(lattice, periodic=periodic)
            same(nf.lattice.plaquettes(tensor(lattice, device), periodic=periodic), expected, 1e-12)
        near = unitary(rng, (3, d, d)) + 1e-4 * normal(rng, (3, d, d))
        same(nf.wilson.reunitarize(tensor(near, device)), reference.reunitarize(near), 1e-12)
        w, b, x0 = connection(rng, (2, 4, 2, d, d)), normal(rng, (4, 2, d)), normal(rng, (d,))
        for dt in (0.1, np.array([0.1, 0.2, 0.3, 0.1])):
            times = tensor(dt, device) if isinstance(dt, np.ndarray) else dt
            line = nf.wilson.wilson_line(tensor(w, device), times, magnus_order=4, cumulative=True)
            same(line, reference.wilson_line(w, dt, magnus_order=4, cumulative=True), 1e-12)
            args = tensor(w, device), tensor(b, device), tensor(x0, device), times
            flow = nf.wilson.affine_flow(*args, magnus_order=4)
            expected = reference.affine_flow(w, b, x0, dt, magnus_order=4)
            np.testing.assert_allclose(flow.cpu(), expected, rtol=1e-11, atol=1e-12)
            moved = nf.wilson.affine_flow(args[0][0], args[1], args[2].expand(5, d), times, magnus_order=4)
            np.testing.assert_allclose(moved.cpu(), np.broadcast_to(expected[0], (5, d)), rtol=1e-11, atol=1e-12)


def test_nothing_to_do(device: Any) -> None:
    for d in (3, 12, 33):
        for n, steps in ((0, 3), (2, 0), (0, 0)):
            u = torch.zeros(n, steps, d, d, device=device)
            product = nf.wilson.ordered_product(u)
            assert torch.equal(product.cpu(), torch.eye(d).expand(n, d, d))
            assert nf.wilson.cumulative_product(u).shape == (n, steps + 1, d, d)
            p, exponent = nf.wilson.ordered_product(u, log_scale=True)
            assert (p.shape, exponent.shape, exponent.dtype) == ((n, d, d), (n,), torch.int32)
        assert nf.wilson.expm(torch.zeros(0, d, d, device=device)).shape == (0, d, d)


def test_a_singular_basis_gives_nan(device: Any) -> None:
    """A check would wait for the device; the other links stay."""
    u, g = torch.ones(3, 2, 2, device=device), torch.eye(2, device=device).repeat(4, 1, 1)
    g[1] = 0
    moved = nf.wilson.gauge_transform(u, g)
    assert moved[1].isnan().all()
    assert torch.equal(moved[2], u[2])


def test_results_are_new(device: Any) -> None:
    """No result shares memory with an argument, even where a path has one link."""
    for d in (2, 12, 33):
        u = torch.randn(2, 1, d, d, device=device)
        before = u.clone()
        for result in (nf.wilson.ordered_product(u), nf.wilson.cumulative_product(u)):
            result.fill_(7.0)
            assert torch.equal(u, before)


def test_nothing_waits(device: Any) -> None:
    """On a GPU: no synchronisation, forward or backward, and the same numbers from a captured graph."""
    if device.type != "cuda":
        pytest.skip("the emulation has no stream")
    w = 0.1 * torch.randn(7, 9, 3, 12, 12, device=device)

    def work() -> Any:
        with torch.enable_grad():
            leaf = w.clone().requires_grad_()
            line = nf.wilson.wilson_line(leaf, 0.1, magnus_order=6)
            return line, torch.autograd.grad(line.square().sum(), leaf)[0]

    work()
    torch.cuda.set_sync_debug_mode("error")
    try:
        expected = work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    graph.replay()
    for a, b in zip(captured, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_leaves_the_family_alone(device: Any) -> None:
    """Torch leaves autocast on inside operators, where its products would have other numbers than kernels read."""
    generator = torch.Generator().manual_seed(0)

    def results(d: int) -> list[torch.Tensor]:
        u = torch.randn(2, 5, d, d, generator=generator.manual_seed(1)).to(device) / d**0.5
        u.requires_grad_()
        line = nf.wilson.wilson_line(u[..., None, :, :].expand(2, 5, 2, d, d), 0.1, magnus_order=4)
        (first,) = torch.autograd.grad(line.square().sum(), u, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), u)
        g = torch.eye(d, device=device) + 0.1 * u.detach()[:, :1].expand(2, 6, d, d)
        return [line, first, second, nf.wilson.ordered_product(u), nf.wilson.expm(u), nf.wilson.gauge_transform(u, g)]

    for d in (3, 40):
        plain = results(d)
        with torch.autocast(device.type, torch.bfloat16):
            cast = results(d)
        for number, (a, b) in enumerate(zip(plain, cast, strict=True)):
            assert b.dtype == torch.float32
            # Of the second derivative some products are torch's own, and cast.
            tolerance = 1e-2 if number == 2 else 1e-4
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance)
