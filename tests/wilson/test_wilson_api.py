# SPDX-License-Identifier: MIT
"""What holds for every function of the Wilson family: frameworks, dtypes, batch axes, step sizes, documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from wilson_cases import DTYPES, LAYOUTS, assert_layout_is_free, connection, links, normal, real, unitary

import nnsym_fast as nf
from nnsym_fast import lattice, reference, wilson
from nnsym_fast.lattice import plaquettes
from nnsym_fast.wilson import (
    affine_flow,
    cumulative_product,
    expm,
    gauge_transform,
    gauss_nodes,
    ordered_product,
    reunitarize,
    wilson_line,
    wilson_loop,
)

T, D = 5, 3


class Case(NamedTuple):
    """A function of arrays and the shapes of its arguments without batch axes; ``exact``: no LAPACK or sum in it."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    draw: Callable[..., Any] = connection
    exact: bool = True


PATH, ORDER4, ORDER6 = (T, D, D), (T, 2, D, D), (T, 3, D, D)

CASES = {
    "expm": Case(expm, ((D, D),)),
    "ordered": Case(ordered_product, (PATH,), links),
    "ordered log": Case(partial(ordered_product, log_scale=True), (PATH,), links),
    "ordered unitary": Case(partial(ordered_product, reunitarize=True), (PATH,), unitary),
    "cumulative": Case(cumulative_product, (PATH,), links),
    "cumulative log": Case(partial(cumulative_product, log_scale=True), (PATH,), links),
    "cumulative unitary": Case(partial(cumulative_product, reunitarize=True), (PATH,), unitary),
    "loop": Case(wilson_loop, (PATH,), links, exact=False),
    "line 2": Case(lambda w: wilson_line(w, 0.1), (PATH,)),
    "line 4": Case(lambda w: wilson_line(w, 0.1, magnus_order=4, cumulative=True), (ORDER4,)),
    "line 6": Case(lambda w: wilson_line(w, 0.1, magnus_order=6, log_scale=True), (ORDER6,)),
    "flow 2": Case(lambda w, b, x: affine_flow(w, b, x, 0.1, cumulative=True), (PATH, (T, D), (D,))),
    "flow 4": Case(lambda w, b, x: affine_flow(w, b, x, 0.1, magnus_order=4), (ORDER4, (T, 2, D), (D,))),
    "flow 6": Case(lambda w, b, x: affine_flow(w, b, x, 0.1, magnus_order=6), (ORDER6, (T, 3, D), (D,))),
    "gauge": Case(gauge_transform, (PATH, (T + 1, D, D)), links, exact=False),
    "reunitarize": Case(reunitarize, ((D, D),), unitary),
    "plaquettes": Case(partial(plaquettes, periodic=(True, False)), ((3, 4, 2, D, D),), links, exact=False),
}

BATCHES = [(), (1,), (4,), (2, 3), (0,), (2, 0)]


def arguments(name: str, batch: tuple[int, ...], dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(7)
    return [CASES[name].draw(rng, (*batch, *shape), dtype) for shape in CASES[name].shapes]


def results(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


# --- frameworks, dtypes, shapes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_torch_and_numpy_give_the_same_bits(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    case = CASES[name]
    args = arguments(name, (4,), dtype)
    expected = results(case.function(*args))
    found = results(case.function(*map(torch.from_numpy, args)))
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, torch.Tensor)
        assert a.is_contiguous()
        assert a.numpy().dtype == b.dtype
        if case.exact:
            np.testing.assert_array_equal(a.numpy(), b)
        else:
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-4 if real(dtype) == "float32" else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CASES)
def test_batch_axes_and_dtypes(name: str, batch: tuple[int, ...], dtype: str) -> None:
    """A batch is its entries one by one; results have the dtype of the arguments, exponents are int32."""
    case = CASES[name]
    args = arguments(name, batch, dtype)
    found = results(case.function(*args))
    single = results(case.function(*arguments(name, (), dtype)))
    for number, (a, b) in enumerate(zip(found, single, strict=True)):
        assert a.shape == (*batch, *np.shape(b))
        assert a.dtype == (dtype if number == 0 else "int32")
    for index in np.ndindex(*batch):
        alone = results(case.function(*(value[index] for value in args)))
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3 if real(dtype) == "float32" else 1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("log") and name != "line 6"])
def test_layouts(name: str, layout: Callable[[Any], Any]) -> None:
    """Every argument in every layout."""
    case = CASES[name]
    for dtype in ("float32", "complex128"):
        args = arguments(name, (2,), dtype)
        for position, value in enumerate(args):

            def alone(value: Any, position: int = position, args: list[Any] = args) -> Any:
                return case.function(*args[:position], value, *args[position + 1 :])

            assert_layout_is_free(alone, value, layout)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_short_paths(steps: int) -> None:
    rng = np.random.default_rng(8)
    u = links(rng, (4, steps, D, D))
    one = np.broadcast_to(np.eye(D), (4, D, D))
    expected = (one, u[:, 0] if steps else one, u[:, -1] @ u[:, 0] if steps else one)[steps]
    np.testing.assert_allclose(ordered_product(u), expected, rtol=1e-14)
    states = cumulative_product(u)
    assert states.shape == (4, steps + 1, D, D)
    np.testing.assert_array_equal(states[:, 0], one)
    np.testing.assert_allclose(states[:, -1], expected, rtol=1e-14)
    p, exponent = cumulative_product(u, log_scale=True)
    np.testing.assert_array_equal(p[:, 0], one / 2)
    np.testing.assert_array_equal(exponent[:, 0], 1)
    np.testing.assert_allclose(wilson_loop(u), np.trace(expected, axis1=1, axis2=2))
    assert gauge_transform(u, links(rng, (4, steps + 1, D, D))).shape == u.shape
    x0 = normal(rng, (4, D))
    flow = affine_flow(u, u[..., 0], x0, 0.1, cumulative=True)
    assert flow.shape == (4, steps + 1, D)
    np.testing.assert_array_equal(flow[:, 0], x0)


def test_checkpoint_changes_nothing_in_numpy() -> None:
    for name in ("ordered", "loop", "line 2", "flow 4"):
        args = arguments(name, (3,))
        plain = CASES[name].function(*args)
        options = {"magnus_order": 4} if name == "flow 4" else {}
        function = {"ordered": ordered_product, "loop": wilson_loop, "line 2": wilson_line, "flow 4": affine_flow}[name]
        dt = (0.1,) if name in ("line 2", "flow 4") else ()
        np.testing.assert_array_equal(function(*args, *dt, checkpoint=True, **options), plain)


def test_lists_are_arrays() -> None:
    np.testing.assert_allclose(expm([[0.0, 1.0], [0.0, 0.0]]), [[1.0, 1.0], [0.0, 1.0]], rtol=1e-15)


# --- step sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_forms_of_a_number(dtype: str) -> None:
    """Half a unit of time, in every form that a real number has."""
    rng = np.random.default_rng(8)
    w = connection(rng, (2, T, D, D), dtype)
    expected = wilson_line(w, 0.5)
    forms: list[Any] = [Fraction(1, 2), np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5)]
    forms += [np.array(0.5), np.array([0.5], "float32"), np.full(T, 0.5), np.full((2, 1), 0.5, ">f8"), [0.5] * T]
    for dt in forms:
        found = wilson_line(w, dt)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
    for dt in (2, np.int8(2), np.array(2), np.full((1, 1), 2, "uint8")):
        np.testing.assert_array_equal(wilson_line(w, dt), wilson_line(w, 2.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_forms_of_a_number_in_torch(dtype: str) -> None:
    rng = np.random.default_rng(8)
    torch = pytest.importorskip("torch")
    w = connection(rng, (2, T, D, D), dtype)
    expected = wilson_line(w, 0.3)
    tensor = torch.from_numpy(w)
    exact = torch.tensor(0.3, dtype=getattr(torch, real(dtype)))
    for dt in (0.3, np.float64(0.3), np.array(0.3), exact, exact.expand(T), exact.expand(2, 1), exact.expand(2, T)):
        np.testing.assert_array_equal(wilson_line(tensor, dt).numpy(), expected)
    np.testing.assert_array_equal(wilson_line(tensor, 2).numpy(), wilson_line(w, 2))


@pytest.mark.parametrize("shape", [(T,), (1,), (4, T), (4, 1), (1, T), (3, 1, T), (3, 4, 1), (3, 4, T)])
def test_steps_of_several_lengths(shape: tuple[int, ...]) -> None:
    """dt w is all that counts, so dt may be drawn into w, whatever axes it lacks."""
    rng = np.random.default_rng(8)
    w = connection(rng, (3, 4, T, D, D))
    dt = rng.uniform(0.1, 1, shape)
    moved = dt[..., None, None] * w
    np.testing.assert_allclose(wilson_line(w, dt), wilson_line(moved, 1), rtol=1e-12)
    b, x0 = normal(rng, (4, T, D)), normal(rng, (D,))
    expected = affine_flow(moved, dt[..., None] * b, x0, 1)
    np.testing.assert_allclose(affine_flow(w, b, x0, dt), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize(
    "batches", [((), (), (6,)), ((), (), (2, 3)), ((1,), (), (4,)), ((2, 1), (3,), ()), ((), (2,), (2, 2))]
)
def test_flows_broadcast(batches: tuple[tuple[int, ...], ...], order: int) -> None:
    """One path for many vectors is the same as a path for each."""
    rng = np.random.default_rng(8)
    nodes = {2: (), 4: (2,), 6: (3,)}[order]
    shapes = [(T, *nodes, D, D), (T, *nodes, D), (D,)]
    args = [normal(rng, (*batch, *shape)) for batch, shape in zip(batches, shapes, strict=True)]
    common = np.broadcast_shapes(*batches)
    full = [np.broadcast_to(value, (*common, *shape)) for value, shape in zip(args, shapes, strict=True)]
    for cumulative in (False, True):
        flow = partial(affine_flow, magnus_order=order, cumulative=cumulative)
        found = flow(*args, 0.1)
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, flow(*full, 0.1), rtol=1e-11, atol=1e-12)


def test_nodes() -> None:
    """Gauss-Legendre rules: exact for polynomials of degree 2 nodes - 1, on every step."""
    for order, nodes in ((2, 1), (4, 2), (6, 3)):
        times = gauss_nodes(-1.0, 3.0, 4, order).reshape(4, nodes)
        points, _ = np.polynomial.legendre.leggauss(nodes)
        np.testing.assert_allclose(times, np.arange(-1, 3)[:, None] + (points + 1) / 2, rtol=1e-15)
        assert gauss_nodes(0, 1, 0, order).shape == (0, nodes)[: 1 if order == 2 else 2]
        assert gauss_nodes(0, 1, 3, order).dtype == "float64"
    assert (np.diff(gauss_nodes(1.0, 0.0, 3)) < 0).all()


# --- documentation


PUBLIC = [(wilson, name) for name in wilson.__all__] + [(lattice, name) for name in lattice.__all__]


def test_names() -> None:
    assert {nf.wilson, nf.lattice} == {wilson, lattice}
    assert {"wilson", "lattice"} <= set(nf.__all__)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_documentation(module: Any, name: str) -> None:
    """One line; arguments, each of them; returns; raises; an example."""
    function = getattr(module, name)
    text = inspect.getdoc(function)
    assert text is not None
    assert re.match(r"[^\n]+[.]\n\n", text)
    sections = [text.index(f"\n{title}:\n") for title in ("Args", "Returns", "Raises")]
    assert sections == sorted(sections)
    assert text.index(">>> ") > sections[-1]
    described = text[sections[0] : sections[1]]
    for argument in inspect.signature(function).parameters:
        assert re.search(rf"^    (\w+, )*{argument}(, \w+)*:", described, re.MULTILINE), argument


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_the_reference_has_the_same_signature(module: Any, name: str) -> None:
    def parameters(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(getattr(module, name)) == parameters(getattr(reference, name))
