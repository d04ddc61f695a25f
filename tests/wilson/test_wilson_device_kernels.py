# SPDX-License-Identifier: MIT
"""The CUDA kernels of the Wilson family through their binding, against the slow model in wide arithmetic.

Results begin as NaN and workspaces as bytes 255, so that whatever a kernel leaves out is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from wilson_cases import (
    DTYPES,
    NODES,
    Array,
    connection,
    dagger,
    inner,
    links,
    model_links,
    model_states,
    model_tangents,
    norm,
    normal,
    real,
    wide,
    worst,
)

from nnsym_fast import _device, _native, reference

KINDS = {name: kind for kind, name in enumerate(DTYPES)}
SMALL = (1, 2, 3, 4, 5, 6, 7, 8)
ORDERS = (0, 2, 4, 6)
FORWARD, BACKWARD, DERIVATIVE = 0, 1, 2
TURNS = (1, 7)
"""Other orders in which the threads of a block take turns; results must not depend on them."""


class Kernels:
    """The binding on a device, from arrays to arrays."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module = _device.module()
        self.index, self.stream = _device.place(torch.empty(0, device=device))

    def tensor(self, array: Array | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        if dtype == "int32":
            return torch.full(shape, -999, dtype=torch.int32, device=self.device)
        return torch.full(shape, float("nan"), dtype=getattr(torch, dtype), device=self.device)

    def workspace(self, *sizes: Any) -> torch.Tensor | None:
        count = self.module.wilson_workspace(0, *sizes)
        return torch.full((count,), 255, dtype=torch.uint8, device=self.device) if count else None

    @staticmethod
    def times(dt: torch.Tensor | None) -> tuple[int | None, int, int]:
        if dt is None:
            return None, 0, 0
        return dt.data_ptr(), 0 if dt.shape[0] == 1 else dt.stride(0), 0 if dt.shape[1] == 1 else 1

    def forward(
        self,
        w: Array,
        dt: Array | None,
        x0: Array | None,
        b: Array | None = None,
        *,
        order: int,
        every: bool = False,
        first: bool = True,
        segments: int = 1,
        log_scale: bool = False,
        skew: int = 0,
    ) -> tuple[Array, Array | None]:
        """States; ``skew``: numbers between the paths of w and of the results that belong to nobody."""
        n, total, nodes, d, _ = w.shape
        dtype = w.dtype.name
        c = d if x0 is None else x0.shape[-1]
        padded = np.full((n, total * nodes * d * d + skew), np.nan, dtype)
        padded[:, : total * nodes * d * d] = w.reshape(n, total * nodes * d * d)
        weights, times, start, kicks = self.tensor(padded), self.tensor(dt), self.tensor(x0), self.tensor(b)
        assert weights is not None
        entries = total + 1 if every else segments
        out = self.empty((n, entries * d * c + (skew if every else 0)), dtype)
        exponent = self.empty((n, entries), "int32") if log_scale else None
        steps = total // segments
        sizes = n, segments, steps, d, c, order, every
        workspace = self.workspace(FORWARD, KINDS[dtype], *sizes, x0 is not None, False)
        self.module.wilson_forward(
            self.index,
            self.stream,
            KINDS[dtype],
            weights.data_ptr(),
            weights.stride(0),
            *self.times(times),
            pointer(start),
            pointer(kicks),
            total * d * c,
            out.data_ptr(),
            out.stride(0),
            pointer(exponent),
            entries,
            *sizes,
            first,
            pointer(workspace),
        )
        result = out.cpu().numpy()
        assert np.isnan(result[:, entries * d * c :]).all()
        states = result[:, : entries * d * c].reshape(n, entries, d, c)
        return states, None if exponent is None else exponent.cpu().numpy()

    def backward(
        self,
        w: Array,
        dt: Array | None,
        x0: Array | None,
        states: Array | None,
        shift: Array | None,
        grad: Array,
        *,
        order: int,
        every: bool,
    ) -> tuple[Array, Array | None, Array]:
        n, steps, _, d, _ = w.shape
        c, dtype = grad.shape[-1], w.dtype.name
        tensors = [self.tensor(value) for value in (w, dt, x0, states, shift, grad)]
        weights, times, start, kept, shifts, gradient = tensors
        assert weights is not None
        gw, gx0 = self.empty(w.shape, dtype), self.empty((n, d, c), dtype)
        gdt = self.empty((n, steps), real(dtype)) if order else None
        workspace = self.workspace(
            BACKWARD, KINDS[dtype], n, 1, steps, d, c, order, every, x0 is not None, states is not None
        )
        self.module.wilson_backward(
            self.index,
            self.stream,
            KINDS[dtype],
            weights.data_ptr(),
            weights.stride(0),
            *self.times(times),
            pointer(start),
            pointer(kept),
            (steps + 1) * d * c,
            pointer(shifts),
            steps,
            pointer(gradient),
            (steps + 1 if every else 1) * d * c,
            pointer(gw),
            pointer(gdt),
            pointer(gx0),
            n,
            steps,
            d,
            c,
            order,
            every,
            pointer(workspace),
        )
        return gw.cpu().numpy(), None if gdt is None else gdt.cpu().numpy(), gx0.cpu().numpy()

    def derivative(self, a: Array, e: Array) -> Array:
        n, d, _ = a.shape
        point, tangent, out = self.tensor(a), self.tensor(e), self.empty(a.shape, a.dtype.name)
        kind = KINDS[a.dtype.name]
        workspace = self.workspace(DERIVATIVE, kind, n, 1, 1, d, d, 2, False, False, False)
        self.module.wilson_derivative(
            self.index, self.stream, kind, *map(pointer, (point, tangent, out)), n, d, pointer(workspace)
        )
        return out.cpu().numpy()

    def expm(self, a: Array) -> Array:
        one = np.ones((1, 1), real(a.dtype.name))
        return self.forward(a[:, None, None], one, None, order=2)[0][:, 0]


def pointer(value: torch.Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()


@pytest.fixture
def kernels(device: torch.device) -> Kernels:
    return Kernels(device)


def problem(
    n: int, steps: int, d: int, c: int | None, order: int, dtype: str, shape: tuple[int, int]
) -> tuple[Array, Array | None, Array | None]:
    rng = np.random.default_rng([n, steps, d, order])
    w = (connection if order else links)(rng, (n, steps, NODES[order], d, d), dtype)
    dt = rng.uniform(0.1, 0.4, shape).astype(real(dtype)) if order else None
    return w, dt, None if c is None else normal(rng, (n, d, c), dtype)


def off(value: Array, exact: Array) -> float:
    """The largest error of the states of a path over the largest of its states."""
    assert value.shape == exact.shape
    size = norm(exact).reshape(len(exact), -1).max(axis=1, initial=1e-300)
    error = norm(value - exact) / size.reshape(-1, *[1] * (exact.ndim - 3))
    return float(np.where(np.isfinite(error), error, np.inf).max(initial=0))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_states(kernels: Kernels, dtype: str, order: int) -> None:
    """X_k = U_k X_{k-1}, the last and all of them, with paths that begin at any address."""
    for number, d in enumerate(SMALL):
        n, steps = (3, 1, 34 if d < 5 else 5, 2)[number % 4], (5, 3, 2, 9)[number % 4]
        shape = ((1, 1), (n, 1), (1, steps), (n, steps))[number % 4]
        for c in ((None, 1), (2, d + 3), (None, d), (1, 2 * d + 1))[(number + order // 2) % 4]:
            w, dt, x0 = problem(n, steps, d, c, order, dtype, shape)
            exact = model_states(model_links(w, dt, order), x0)
            bound = tolerances.steps(dtype, steps)
            last, _ = kernels.forward(w, dt, x0, order=order, skew=number % 3)
            every, _ = kernels.forward(w, dt, x0, order=order, every=True, skew=number % 3)
            assert off(last[:, 0], exact[:, -1]) <= bound, (d, c)
            assert off(every, exact) <= bound, (d, c)
            np.testing.assert_array_equal(every[:, 0], exact[:, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_kicks(kernels: Kernels, dtype: str) -> None:
    """X_k = U_k X_{k-1} + b_k."""
    for d, c in ((1, None), (2, 3), (3, None), (5, 1), (8, 9)):
        w, _, x0 = problem(3, 4, d, c, 0, dtype, (1, 1))
        b = normal(np.random.default_rng(d), (3, 4, d, c or d), dtype)
        exact = model_states(model_links(w, None, 0), x0, b)
        for every in (False, True):
            states, _ = kernels.forward(w, None, x0, b, order=0, every=every)
            assert off(states, exact if every else exact[:, -1:]) <= tolerances.steps(dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponents(kernels: Kernels, dtype: str) -> None:
    """The largest part of every state in [1/2, 1) beside its exponent; zero and what is not finite have none."""
    for d, c in ((1, None), (2, 3), (3, 1), (4, None), (7, None), (8, 11)):
        for order in (0, 4):
            w, dt, x0 = problem(3, 4, d, c, order, dtype, (3, 4))
            if order == 0:
                w = (w * real_power(dtype, np.array([100, -100, 3])).reshape(-1, 1, 1, 1, 1)).astype(dtype)
                w[:, 2] *= real_power(dtype, np.array(-20))
            exact = model_states(model_links(w, dt, order).astype(np.clongdouble), x0)
            for every in (False, True):
                p, e = kernels.forward(w, dt, x0, order=order, every=every, log_scale=True)
                assert e is not None
                largest = np.maximum(np.abs(p.real), np.abs(p.imag)).max(axis=(-2, -1))
                assert np.all((largest >= 0.5) & (largest < 1))
                value = p.astype(np.clongdouble) * np.ldexp(np.longdouble(1), e)[..., None, None]
                assert worst(value, exact if every else exact[:, -1:]) <= tolerances.steps(dtype, 4)
    w, _, _ = problem(3, 2, 3, None, 0, dtype, (1, 1))
    w[0] = 0
    w[1, 1, 0, 1, 1] = np.nan
    p, e = kernels.forward(w, None, None, order=0, log_scale=True)
    assert e is not None
    assert e[0] == 0
    assert e[1] == 0
    assert not p[0].any()
    assert np.isnan(p[1]).any()
    assert np.isfinite(p[2]).all()


def real_power(dtype: str, k: Array) -> Array:
    return np.ldexp(np.ones((), real(dtype)), k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_segments(kernels: Kernels, dtype: str) -> None:
    """Segments of a path are paths of their own, with results among those of the path."""
    for d, order in ((1, 2), (2, 0), (3, 2), (4, 0), (4, 6), (7, 2), (8, 0)):
        w, dt, _ = problem(2, 12, d, None, order, dtype, (2, 12))
        u = model_links(w, dt, order)
        exact = model_states(u.reshape(6, 4, d, d), None)
        products, _ = kernels.forward(w, dt, None, order=order, segments=3)
        assert off(products.reshape(6, d, d), exact[:, -1]) <= tolerances.steps(dtype, 4)
        x0 = normal(np.random.default_rng(0), (6, d, 2), dtype)
        exact = model_states(u.reshape(6, 4, d, d), x0)[:, 1:].reshape(2, 12, d, 2)
        every, _ = kernels.forward(w, dt, x0, order=order, segments=3, every=True, first=False)
        assert off(every[:, 1:], exact) <= tolerances.steps(dtype, 4)
        assert np.isnan(every[:, 0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm(kernels: Kernels, dtype: str) -> None:
    """Every degree and many squarings, of random, decaying and nilpotent matrices."""
    for d in SMALL:
        rng = np.random.default_rng(d)
        sizes = 10.0 ** rng.uniform(-9, 1.3, 12)
        for kind in range(3):
            a = normal(rng, (12, d, d), wide(dtype)) * sizes[:, None, None] / d
            if kind == 1:
                a = -a @ dagger(a)
                a /= 1 + norm(a)[:, None, None] / 60
            if kind == 2:
                a = np.triu(a, 1) * 30 - np.eye(d) * (sizes[:, None, None] % 3)
            a = a.astype(dtype)
            exact = reference.expm(a.astype(wide(dtype)))
            size = np.abs(a).sum(axis=-2).max(axis=-1)
            error = norm(kernels.expm(a) - exact) / norm(exact)
            condition = 1 + size if kind < 2 else (1 + size) ** 1.5
            assert np.all(error <= tolerances.FRECHET * tolerances.EPSILON[dtype] * condition), (d, kind)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_nilpotent_matrices(kernels: Kernels, dtype: str) -> None:
    """exp(a) = 1 + a where a a = 0: squarings that the norm asks for are spared, up to the largest numbers."""
    for d in (2, 3, 8):
        a = np.zeros((3, d, d), dtype)
        a[:, 0, -1] = real_power(dtype, np.array([5, 50, 110]))
        np.testing.assert_allclose(kernels.expm(a), a + np.eye(d), rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_entries_of_exp_less_one(kernels: Kernels, dtype: str) -> None:
    """exp(a) x - x is known to its own size, for steps that hardly move x."""
    tiny = tolerances.EPSILON[dtype] / 8
    for d in (2, 4, 7):
        w = (np.ones((2, 64, 1, d, d)) * tiny).astype(dtype)
        x0 = np.zeros((2, d, 1), dtype)
        x0[:, 0] = 1
        states, _ = kernels.forward(w, np.ones((1, 1), real(dtype)), x0, order=2)
        np.testing.assert_allclose(states[:, 0, 1:, 0], 64 * tiny, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivative(kernels: Kernels, dtype: str) -> None:
    for d in SMALL:
        rng = np.random.default_rng(d)
        sizes = 10.0 ** rng.uniform(-9, 1, 7)
        a = (normal(rng, (7, d, d), wide(dtype)) * sizes[:, None, None] / d).astype(dtype)
        e = normal(rng, (7, d, d), dtype)
        exact = reference.expm_frechet(a.astype(wide(dtype)), e.astype(wide(dtype)))
        size = 1 + np.abs(a).sum(axis=-2).max(axis=-1)
        error = norm(kernels.derivative(a, e) - exact) / norm(exact)
        assert np.all(error <= tolerances.FRECHET * tolerances.EPSILON[dtype] * size), d


def length(a: Array) -> Array:
    return np.sqrt(inner(a, a))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_adjoint(kernels: Kernels, dtype: str, order: int) -> None:
    """<g, dX> = <gw, dw> + <gdt, d dt> + <gx0, dx0>, with states given and recomputed, with shifts of links."""
    for number, d in enumerate(SMALL):
        n, steps = (2, 3, 17 if d < 5 else 5, 1)[number % 4], (5, 3, 2, 10)[number % 4]
        c = ((None, 1), (d + 3, None), (2, d))[number % 3][order // 2 % 2]
        every, given, shifted = bool(number % 2), number % 4 < 2, order == 0 and number % 3 == 0
        w, dt, x0 = problem(n, steps, d, c, order, dtype, ((1, 1), (n, 1), (1, steps), (n, steps))[number % 4])
        rng = np.random.default_rng(number)
        start = np.broadcast_to(np.eye(d, dtype=dtype), (n, d, d)) if x0 is None else x0
        grad = normal(rng, (n, steps + 1, *start.shape[1:]) if every else start.shape, dtype)
        along = (
            normal(rng, w.shape, wide(dtype)),
            rng.standard_normal((n, steps)) if order else None,
            normal(rng, start.shape, wide(dtype)),
        )
        shift = rng.integers(-2, 3, (n, steps)).astype(np.int32) if shifted else None
        tangents = model_tangents(w, dt, start, shift, order, along)
        scaled = w if shift is None else w * real_power(dtype, -shift)[..., None, None, None]
        states = model_states(model_links(scaled, dt, order), x0).astype(dtype) if given else None
        gw, gdt, gx0 = kernels.backward(w, dt, x0, states, shift, grad, order=order, every=every)
        left = inner(grad, tangents if every else tangents[:, -1])
        right = inner(gw, along[0]) + inner(gx0, along[2])
        size = length(gw) * length(along[0]) + length(gx0) * length(along[2])
        if order:
            assert gdt is not None
            assert along[1] is not None
            right += inner(gdt, along[1])
            size += length(gdt) * length(along[1])
        bound = tolerances.GRADIENT * tolerances.EPSILON[dtype] * (steps + 4)
        wrong = np.abs(left - right) / size
        assert np.isfinite(wrong).all(), (d, c)
        assert wrong.max() <= bound, (d, c)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_alone(kernels: Kernels, dtype: str) -> None:
    for d in (2, 3, 5, 8):
        a = normal(np.random.default_rng(d), (9, d, d), dtype)
        exact = kernels.expm(a)
        broken = a.copy()
        broken[1, 0, 0], broken[4, -1, 0], broken[7, 0, -1] = np.nan, np.inf, np.nan
        result, derivative = kernels.expm(broken), kernels.derivative(broken, a)
        for i in range(9):
            if i in (1, 4, 7):
                assert np.isnan(result[i]).all()
                assert np.isnan(derivative[i]).all()
            else:
                np.testing.assert_allclose(result[i], exact[i], rtol=1e-4)
                assert np.isfinite(derivative[i]).all()


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_turns_of_threads_change_no_bit(dtype: str) -> None:
    """Results do not depend on which thread comes first between barriers."""
    for d, order in ((3, 2), (5, 4), (8, 2)):
        w, dt, _ = problem(3, 3, d, None, order, dtype, (3, 3))
        grad = normal(np.random.default_rng(1), (3, d, d), dtype)
        found = []
        for turns in (0, *TURNS):
            with _device.emulated(turns):
                kernels = Kernels(torch.device("cpu"))
                states, _ = kernels.forward(w, dt, None, order=order, every=True)
                gw, gdt, gx0 = kernels.backward(w, dt, None, None, None, grad, order=order, every=False)
                assert gdt is not None
                found.append([states, gw, gdt, gx0])
        for other in found[1:]:
            for one, same in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(one, same)


def test_nothing_to_do(kernels: Kernels) -> None:
    """No steps leave x0 alone, and its gradient is that of the state; no paths write nothing."""
    for order in ORDERS:
        w, dt, x0 = problem(3, 0, 3, 2, order, "float32", (1, 1))
        assert x0 is not None
        np.testing.assert_array_equal(kernels.forward(w, dt, x0, order=order)[0][:, 0], x0)
        np.testing.assert_array_equal(kernels.forward(w, dt, x0, order=order, every=True)[0][:, 0], x0)
        np.testing.assert_array_equal(kernels.backward(w, dt, x0, None, None, x0, order=order, every=False)[2], x0)
        w, dt, x0 = problem(0, 2, 3, 2, order, "float32", (1, 1))
        assert kernels.forward(w, dt, x0, order=order)[0].shape == (0, 1, 3, 2)


def test_wrong_arguments() -> None:
    module = _native.cuda_emulated()
    with pytest.raises(ValueError, match="order"):
        module.wilson_workspace(0, FORWARD, 0, 1, 1, 1, 2, 2, 3, False, False, False)
    with pytest.raises(ValueError, match="sizes"):
        module.wilson_workspace(0, FORWARD, 0, 1, 1, 1, 0, 2, 2, False, False, False)
