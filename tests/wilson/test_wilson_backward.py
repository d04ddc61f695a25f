# SPDX-License-Identifier: MIT
"""The vector-Jacobian product of transport: adjoint to the derivative, for every order, shape and way to get states.

<g, dX> = <gw, dw> + <gdt, d dt> + <gx0, dx0> for random directions; the derivative dX comes from the algebra of pairs
in wide arithmetic, which never sees the reverse pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property

import numpy as np
import pytest
import tolerances
from test_wilson_kernels import LARGE, ORDERS, SIZES, case, columns
from tolerances import EPSILON
from wilson_cases import (
    BATCHES,
    DTYPES,
    Array,
    inner,
    model_tangents,
    norm,
    normal,
    real,
    wide,
)

from nnsym_fast import _wilson

Gradients = tuple[Array, Array | None, Array]


def length(a: Array) -> Array:
    """The norm of everything that belongs to a path."""
    return np.sqrt(inner(a, a))


class Problem:
    """A random path, a random gradient of its states, and a random direction."""

    def __init__(self, n: int, steps: int, d: int, c: int | None, order: int, dtype: str, cumulative: bool) -> None:
        number = n + steps + d
        self.w, self.dt, self.x0 = case(
            n, steps, d, c, order, dtype, ((1, 1), (n, 1), (1, steps), (n, steps))[number % 4]
        )
        rng = np.random.default_rng(number)
        self.order, self.cumulative, self.dtype = order, cumulative, dtype
        self.start = np.broadcast_to(np.eye(d, dtype=dtype), (n, d, d)) if self.x0 is None else self.x0
        shape = (n, steps + 1, *self.start.shape[1:]) if cumulative else self.start.shape
        self.grad = normal(rng, shape, dtype)
        self.along = (
            normal(rng, self.w.shape, wide(dtype)),
            rng.standard_normal((n, steps)) if order else None,
            normal(rng, self.start.shape, wide(dtype)),
        )
        self.shift = rng.integers(-2, 3, (n, steps)).astype(np.int32)

    def states(self, shift: Array | None = None) -> Array:
        w = self.w
        if shift is not None:  # the normalised links themselves
            assert self.order == 0
            w = w * np.ldexp(np.ones((), real(self.dtype)), -shift)[..., None, None, None]
        return _wilson.transport(w, self.dt, self.x0, None, self.order, True, False)[0]

    def backward(self, states: Array | None, shift: Array | None) -> Gradients:
        return _wilson.transport_backward(
            self.w, self.dt, self.x0, states, shift, self.grad, self.order, self.cumulative
        )

    @cached_property
    def tangents(self) -> Array:
        return self.tangents_of(None)

    def tangents_of(self, shift: Array | None) -> Array:
        """The derivative of the states along the direction."""
        return model_tangents(self.w, self.dt, self.start, shift, self.order, self.along)

    def assert_adjoint(self, gradients: Gradients, shift: Array | None = None) -> None:
        gw, gdt, gx0 = gradients
        assert gw.shape == self.w.shape
        assert gx0.shape == self.start.shape
        assert gw.dtype == gx0.dtype == self.dtype
        tangents = self.tangents if shift is None else self.tangents_of(shift)
        left = inner(self.grad, tangents if self.cumulative else tangents[:, -1])
        right = inner(gw, self.along[0]) + inner(gx0, self.along[2])
        size = length(gw) * length(self.along[0]) + length(gx0) * length(self.along[2])
        if self.order:
            assert gdt is not None
            assert gdt.shape == self.w.shape[:2]
            assert gdt.dtype == real(self.dtype)
            right += inner(gdt, self.along[1])
            size += length(gdt) * length(self.along[1])
        else:
            assert gdt is None
        bound = tolerances.GRADIENT * EPSILON[self.dtype] * (self.w.shape[1] + 4)
        wrong = np.abs(left - right) / size
        assert wrong.max(initial=0) <= bound, f"w {self.w.shape}, x0 {self.start.shape}, cumulative {self.cumulative}"


@cache
def problems(order: int, dtype: str) -> tuple[Problem, ...]:
    """Every size with two or three numbers of columns; the numbers of paths and steps go round."""
    found: list[Problem] = []
    for d in (*SIZES, LARGE[dtype]):
        for c in columns(d)[d % 2 :: 2] if d <= 17 else columns(d)[order // 2 :: 3 if d < 100 else 5]:
            number = len(found)
            n = BATCHES[number % len(BATCHES)] if d <= 17 else (2, 1, 3)[number % 3]
            steps = (3, 1, 5, 2)[number % 4] if d < 40 else 2
            found.append(Problem(n if d < 40 else 1, steps, d, c, order, dtype, number % 2 == 0))
    return tuple(found)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_adjoint(isa: str, dtype: str, order: int) -> None:
    """Every size; from given states and recomputed ones, of the last state and of all of them."""
    for problem in problems(order, dtype):
        problem.assert_adjoint(problem.backward(problem.states(), None))
        problem.assert_adjoint(problem.backward(None, None))


@cache
def long_problems(order: int) -> tuple[Problem, ...]:
    """Few paths of many steps, which nothing divides evenly."""
    found: list[Problem] = []
    for dtype in DTYPES:
        for n, steps, d, c in ((1, 301, 2, None), (1, 117, 4, 1), (2, 97, 3, 5), (9, 50, 2, None), (1, 35, 16, None)):
            for cumulative in (False, True):
                found.append(Problem(n, steps, d, c, order, dtype, cumulative))
                if order:
                    found[-1].w -= np.conj(np.swapaxes(found[-1].w, -1, -2))  # nothing grows
    return tuple(found)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_long_paths(isa: str, threads: Callable[[int], None], order: int, count: int) -> None:
    """Segments, one for each lane and thread, and checkpoints."""
    threads(count)
    for problem in long_problems(order):
        problem.assert_adjoint(problem.backward(problem.states(), None))
        problem.assert_adjoint(problem.backward(None, None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shifted_links(isa: str, dtype: str) -> None:
    """Link k counts as U_k 2^-shift_k: what a normalised product needs, where each step takes a power of two away."""
    for n, steps, d, c in (
        (1, 4, 1, None),
        (9, 5, 2, None),
        (17, 3, 3, 1),
        (1, 60, 2, 2),
        (3, 4, 8, 11),
        (2, 3, 17, None),
    ):
        for cumulative in (False, True):
            for order in ORDERS:
                problem = Problem(n, steps, d, c, order, dtype, cumulative)
                if order == 0:
                    states = problem.states(problem.shift)
                    problem.assert_adjoint(problem.backward(states, problem.shift), problem.shift)
                problem.assert_adjoint(problem.backward(None, problem.shift), problem.shift)
                if n == 17:
                    with pytest.raises(AssertionError):
                        problem.assert_adjoint(problem.backward(None, None), problem.shift)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_normalised_product_has_the_gradient_of_its_links(isa: str, dtype: str) -> None:
    """transport with exponents and the shifts between them: p = product of U_k 2^-shift_k, with these states."""
    for d in (1, 2, 4, 17):
        for order in ORDERS:
            problem = Problem(5, 12, d, None, order, dtype, False)
            problem.w *= real_scale(dtype, 1e3 if order == 0 else 4)
            out, exponent = _wilson.transport(problem.w, problem.dt, None, None, order, True, True)
            assert exponent is not None
            # The first state 1/2 2^1: the gradient is that of the product with x0 = 1/2.
            problem.x0 = problem.start = out[:, 0].copy()
            shift = np.diff(exponent, axis=1).astype(np.int32)
            problem.assert_adjoint(problem.backward(out, shift), shift)


def real_scale(dtype: str, value: float) -> Array:
    return np.array(value, real(dtype))


@pytest.mark.parametrize("order", ORDERS)
def test_single_precision_has_the_gradients_of_double(isa: str, order: int) -> None:
    """Link by link, which one inner product for a path would not see."""
    for narrow in ("float32", "complex64"):
        for n, steps, d in (
            (9, 4, 2),
            (1, 80, 3),
            (17, 3, 4),
            (5, 4, 9),
            (3, 3, 16),
            (2, 3, 33),
            (1, 2, LARGE[narrow]),
        ):
            for cumulative in (False, True):
                problem = Problem(n, steps, d, None, order, narrow, cumulative)
                gw, gdt, gx0 = problem.backward(None, None)
                again = problem.backward(problem.states(), None)
                problem.w, problem.grad = problem.w.astype(wide(narrow)), problem.grad.astype(wide(narrow))
                problem.dt = None if problem.dt is None else problem.dt.astype(np.float64)
                exact = problem.backward(None, None)
                bound = tolerances.GRADIENT * EPSILON[narrow] * (steps + 4)
                size = norm(exact[0]).max(axis=(1, 2), keepdims=True)
                for one in (gw, again[0]):
                    assert np.all(norm(one - exact[0]) <= bound * size)
                for one in (gx0, again[2]):
                    assert np.all(norm(one - exact[2]) <= bound * norm(exact[2]))
                if order:
                    # |gdt| is at most ||gw|| ||w|| / dt.
                    limit = (norm(exact[0]) * norm(problem.w)).sum(axis=2) / 0.1
                    for one in (gdt, again[1]):
                        assert np.all(np.abs(one - exact[1]) <= bound * limit)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_are_those_of_differences(isa: str, order: int) -> None:
    """Every single entry, by central differences of the kernel itself in float64."""
    for dtype in ("float64", "complex128"):
        problem = Problem(2, 3, 2, 3, order, dtype, True)
        problem.dt = None if problem.dt is None else np.array([[0.2, 0.4, 0.3], [0.5, 0.1, 0.2]])
        gw, gdt, gx0 = problem.backward(problem.states(), None)
        variables = [(problem.w, gw), (problem.x0, gx0)] + ([(problem.dt, gdt)] if order else [])
        for variable, gradient in variables:
            units = (1, 1j) if np.iscomplexobj(variable) else (1,)
            for place in np.ndindex(variable.shape):
                before = variable[place]
                for unit in units:
                    values = []
                    for h in (1e-5, -1e-5):
                        variable[place] = before + h * unit
                        values.append(inner(problem.grad, problem.states())[place[0]])
                    variable[place] = before
                    expected = (gradient[place] * np.conj(unit)).real
                    assert abs((values[0] - values[1]) / 2e-5 - expected) <= 1e-8 * (1 + abs(expected))


@pytest.mark.parametrize("order", ORDERS)
def test_no_steps_and_no_paths(isa: str, order: int) -> None:
    for dtype in DTYPES:
        for n, steps in ((3, 0), (0, 3), (0, 0)):
            for cumulative in (False, True):
                for d in (2, 17, LARGE[dtype]):
                    problem = Problem(n, steps, d, None, order, dtype, cumulative)
                    gw, gdt, gx0 = problem.backward(problem.states(), None)
                    assert gw.shape == problem.w.shape
                    assert (gdt is None) == (order == 0)
                    if steps == 0:
                        np.testing.assert_array_equal(gx0, problem.grad[:, 0] if cumulative else problem.grad)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_paths_do_not_see_each_other(isa: str, dtype: str) -> None:
    """NaN in one path: the gradients of the others are the same."""
    for d in (2, 3, 8, 17):
        for order in ORDERS:
            problem = Problem(18, 4, d, None, order, dtype, False)
            states = problem.states()
            clean = problem.backward(states, None)
            problem.w[5, 2, 0, 0, -1] = np.nan
            with np.errstate(invalid="ignore"):
                touched = problem.backward(problem.states(), None)
            others = np.delete(np.arange(18), 5)
            for before, after in zip(clean, touched, strict=True):
                if before is not None and after is not None:
                    size = np.abs(before[others]).max()
                    assert np.abs(after[others] - before[others]).max() <= 8 * EPSILON[dtype] * size
            assert np.isnan(touched[0][5]).any()


def test_inputs_are_only_read(isa: str) -> None:
    for order in ORDERS:
        for d, steps in ((3, 20), (17, 20), (200, 2)):
            problem = Problem(2, steps, d, 2, order, "float64", True)
            states = problem.states()
            arrays = [problem.w, problem.x0, problem.grad, states, *([problem.dt] if order else [])]
            before = [array.copy() for array in arrays]
            problem.backward(states, None)
            problem.backward(None, None)
            for old, new in zip(before, arrays, strict=True):
                np.testing.assert_array_equal(old, new)


def test_the_check_sees_a_wrong_gradient() -> None:
    """Negative controls: one entry, the order of the nodes, a missing conjugation."""
    problem = Problem(3, 4, 3, None, 4, "complex128", False)
    gw, gdt, gx0 = problem.backward(None, None)
    problem.assert_adjoint((gw, gdt, gx0))
    wrong = gw.copy()
    wrong[1, 2, 0, 1, 1] *= 1 + 1e-6
    for gradients in ((wrong, gdt, gx0), (gw[:, :, ::-1], gdt, gx0), (gw.conj(), gdt, gx0), (gw, 2 * gdt, gx0)):
        with pytest.raises(AssertionError):
            problem.assert_adjoint(gradients)
