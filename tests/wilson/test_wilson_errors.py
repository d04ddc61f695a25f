# SPDX-License-Identifier: MIT
"""Every wrong argument of the Wilson family gives one error that names it, what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

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

torch = pytest.importorskip("torch")

T, D = 3, 2


def zeros(*shape: int, dtype: str = "float64") -> Any:
    return np.zeros(shape, dtype)


def as_numpy(array: Any) -> Any:
    return array


def as_torch(array: Any) -> Any:
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


FRAMEWORKS = {"numpy": as_numpy, "torch": as_torch}
Make = Callable[[Any], Any]


@pytest.fixture(params=FRAMEWORKS)
def make(request: pytest.FixtureRequest) -> Make:
    return FRAMEWORKS[request.param]


LINKS = zeros(T, D, D)
FUNCTIONS = {
    "ordered_product": ("u", ordered_product),
    "cumulative_product": ("u", cumulative_product),
    "wilson_loop": ("u", wilson_loop),
    "wilson_line": ("w", lambda w: wilson_line(w, 0.1)),
    "gauge_transform": ("u", lambda u: gauge_transform(u, u)),
    "affine_flow": ("w", lambda w: affine_flow(w, w, w, 0.1)),
    "expm": ("a", expm),
    "reunitarize": ("u", reunitarize),
    "plaquettes": ("u", plaquettes),
}


# --- matrices


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 1, 0), (4, 0, 0), (4, 2, 3)])
def test_not_square(function: str, shape: tuple[int, ...], make: Make) -> None:
    name, call = FUNCTIONS[function]
    with pytest.raises(ValueError, match=rf"^{name}: expected square matrices.*got \(4, {shape[1]}, {shape[2]}\)"):
        call(make(zeros(*shape)))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_matrices(function: str, make: Make) -> None:
    name, call = FUNCTIONS[function]
    with pytest.raises(ValueError, match=rf"^{name}: expected square matrices, shape \(\.\.\., .*d, d\).* got \(3,\)"):
        call(make(zeros(3)))


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name not in ("expm", "reunitarize", "plaquettes")])
def test_no_axis_of_steps(function: str, make: Make) -> None:
    name, call = FUNCTIONS[function]
    with pytest.raises(ValueError, match=rf"^{name}: .*\(\.\.\., T, d, d\), got \(2, 2\): no axis T; {name}\[None\]"):
        call(make(zeros(2, 2)))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float16"])
def test_dtypes(function: str, dtype: str, make: Make) -> None:
    name, call = FUNCTIONS[function]
    wanted = "float32, float64, complex64 or complex128"
    with pytest.raises(TypeError, match=rf"^{name}: expected dtype {wanted}, got (torch\.)?{dtype}; convert it"):
        call(make(zeros(4, D, D, dtype=dtype)))


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (np.full((1, 1), None), "object"),
        ("text", "<U4"),
        ([[1, 2], [3, 4]], "int64"),
    ],
)
def test_what_is_no_array_of_numbers(value: Any, came: str) -> None:
    with pytest.raises(TypeError, match=rf"^a: expected dtype .*, got {came}"):
        expm(value)


def test_lists_of_several_lengths() -> None:
    with pytest.raises(ValueError, match=r"^a: expected an array, got list: "):
        expm([[1.0, 2.0], [3.0]])


def test_bfloat16_and_sparse_tensors() -> None:
    with pytest.raises(TypeError, match=r"^a: expected dtype .*, got torch.bfloat16"):
        expm(torch.zeros(D, D, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"^a: expected a dense tensor, got layout torch.sparse_coo; use .to_dense"):
        expm(torch.zeros(D, D).to_sparse())


# --- Magnus orders


@pytest.mark.parametrize("order", [3, 0, -2, 8])
def test_orders(order: int, make: Make) -> None:
    message = rf"^magnus_order: expected 2, 4 or 6, got {order}$"
    with pytest.raises(ValueError, match=message):
        wilson_line(make(LINKS), 0.1, magnus_order=order)
    with pytest.raises(ValueError, match=message):
        affine_flow(make(LINKS), make(zeros(T, D)), make(zeros(D)), 0.1, magnus_order=order)
    with pytest.raises(ValueError, match=message):
        gauss_nodes(0, 1, 3, order)


@pytest.mark.parametrize("order", [2.0, "4", None])
def test_orders_are_integers(order: Any) -> None:
    with pytest.raises(TypeError, match=rf"^magnus_order: expected 2, 4 or 6, got {type(order).__name__}$"):
        wilson_line(LINKS, 0.1, magnus_order=order)


def test_nodes(make: Make) -> None:
    for order, nodes in ((4, 2), (6, 3)):
        wanted = rf"^w: expected shape \(\.\.\., T, {nodes}, d, d\)"
        with pytest.raises(ValueError, match=rf"{wanted}.* magnus_order {order}, got \(5, 4, 2, 2\); see gauss_nodes"):
            wilson_line(make(zeros(5, 4, D, D)), 0.1, magnus_order=order)
        with pytest.raises(ValueError, match=rf"{wanted}, got \(3, 2, 2\): no axis {nodes}"):
            wilson_line(make(LINKS), 0.1, magnus_order=order)


# --- step sizes


@pytest.mark.parametrize("shape", [(2,), (4,), (T, 1), (2, T), (3, 3, T), (1, 1, 1, 1), (0,)])
def test_shapes_of_dt(shape: tuple[int, ...], make: Make) -> None:
    """Of a batch of one axis: (4, T) steps."""
    w = make(zeros(4, T, D, D))
    came = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"^dt: expected a number, or .* batch \+ \(T,\) = \(4, 3\), got {came}$"):
        wilson_line(w, make(zeros(*shape)))
    with pytest.raises(ValueError, match=r"^dt: .* = \(4, 3\)"):
        affine_flow(w, make(zeros(T, D)), make(zeros(D)), make(zeros(*shape)))


@pytest.mark.parametrize("dt", [1j, np.complex64(1), True, np.True_, Decimal("0.1")])
def test_dt_is_a_real_number(dt: Any, make: Make) -> None:
    for call in (
        lambda: wilson_line(make(LINKS), dt),
        lambda: affine_flow(make(LINKS), make(zeros(T, D)), make(zeros(D)), dt),
    ):
        with pytest.raises(TypeError, match=rf"^dt: expected a real number, got {type(dt).__name__}$"):
            call()


@pytest.mark.parametrize("dt", [None, "0.1"])
def test_dt_is_a_number(dt: Any, make: Make) -> None:
    with pytest.raises(TypeError, match=r"^dt: expected a real number"):
        wilson_line(make(LINKS), dt)


@pytest.mark.parametrize("dtype", ["complex128", "bool", "object"])
def test_dt_is_an_array_of_real_numbers(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"^dt: expected a real number or an array of them, got dtype {dtype}"):
        wilson_line(LINKS, zeros(T, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64", "bool"])
def test_dt_of_torch_has_the_real_dtype_of_w(dtype: str) -> None:
    for w in (LINKS, LINKS + 0j):
        with pytest.raises(
            TypeError, match=rf"^dt: expected dtype torch.float64, as w is .*, got torch.{dtype}; use dt"
        ):
            wilson_line(as_torch(w), as_torch(zeros(T, dtype=dtype)))


def test_dt_of_the_other_framework() -> None:
    with pytest.raises(TypeError, match=r"^dt: expected a number or a NumPy array.*, got a torch tensor; use dt.numpy"):
        wilson_line(LINKS, torch.ones(T))
    for dt in (np.ones(T), [0.1] * T):
        with pytest.raises(
            TypeError, match=rf"^dt: .* torch tensor, as w is one, got {type(dt).__name__}; use torch.as_t"
        ):
            wilson_line(as_torch(LINKS), dt)


# --- arguments that must agree


AGREE = {
    "g": lambda u, g: gauge_transform(u(T, D, D), g(T + 1, D, D)),
    "b": lambda w, b: affine_flow(w(T, D, D), b(T, D), w(D), 0.1),
    "x0": lambda w, x0: affine_flow(w(T, D, D), w(T, D), x0(D), 0.1),
}


@pytest.mark.parametrize("name", AGREE)
def test_dtypes_agree(name: str, make: Make) -> None:
    message = rf"^{name}: expected dtype (torch\.)?float64, that of [uw], got (torch\.)?"
    for dtype in ("float32", "complex128"):
        with pytest.raises(TypeError, match=message + dtype):
            AGREE[name](lambda *s: make(zeros(*s)), lambda *s, dtype=dtype: make(zeros(*s, dtype=dtype)))


@pytest.mark.parametrize("name", AGREE)
def test_frameworks_agree(name: str) -> None:
    with pytest.raises(
        TypeError, match=rf"^{name}: expected a torch tensor, as [uw] is one, got ndarray; use torch.as_"
    ):
        AGREE[name](torch.zeros, zeros)
    with pytest.raises(
        TypeError, match=rf"^[uw]: expected a torch tensor, as {name} is one, got ndarray; use torch.as_"
    ):
        AGREE[name](zeros, torch.zeros)


@pytest.mark.parametrize("name", AGREE)
def test_devices_agree(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected device cpu, that of [uw], got meta"):
        AGREE[name](torch.zeros, lambda *shape: torch.zeros(shape, device="meta"))


def test_devices_of_dt() -> None:
    with pytest.raises(ValueError, match=r"^dt: expected device cpu, that of w, got meta"):
        wilson_line(torch.zeros(T, D, D), torch.zeros(T, device="meta"))


@pytest.mark.parametrize("shape", [(T, D, D), (T + 2, D, D), (T + 1, D, 3), (T + 1, 3, 3), (D, D), (4,)])
def test_shapes_of_g(shape: tuple[int, ...], make: Make) -> None:
    with pytest.raises(ValueError, match=r"^g: expected shape \(\.\.\., 4, 2, 2\), one matrix more than links, got \("):
        gauge_transform(make(LINKS), make(zeros(*shape)))


def test_batches_agree(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^g: expected batch axes that broadcast with \(4,\), those of u, got \(3,\)"):
        gauge_transform(make(zeros(4, T, D, D)), make(zeros(3, T + 1, D, D)))
    with pytest.raises(
        ValueError, match=r"^b: expected batch axes that broadcast with \(4,\), those of w, got \(5, 3\)"
    ):
        affine_flow(make(zeros(4, T, D, D)), make(zeros(5, 3, T, D)), make(zeros(D)), 0.1)
    with pytest.raises(ValueError, match=r"^x0: .* broadcast with \(5, 4\), those of w, b, got \(3,\)"):
        affine_flow(make(zeros(4, T, D, D)), make(zeros(5, 1, T, D)), make(zeros(3, D)), 0.1)


@pytest.mark.parametrize("shape", [(T,), (T, 3), (2, D), (T + 1, D), (D,), ()])
def test_shapes_of_b(shape: tuple[int, ...], make: Make) -> None:
    with pytest.raises(ValueError, match=r"^b: expected shape \(\.\.\., 3, 2\), as w, got \("):
        affine_flow(make(LINKS), make(zeros(*shape)), make(zeros(D)), 0.1)


def test_nodes_of_b(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^b: expected shape \(\.\.\., 3, 2, 2\), as w, got \(3, 2\)"):
        affine_flow(make(zeros(T, 2, D, D)), make(zeros(T, D)), make(zeros(D)), 0.1, magnus_order=4)


@pytest.mark.parametrize("shape", [(), (3,), (D, 1), (1,)])
def test_shapes_of_x0(shape: tuple[int, ...], make: Make) -> None:
    with pytest.raises(ValueError, match=r"^x0: expected shape \(\.\.\., 2\), vectors that w acts on, got \("):
        affine_flow(make(LINKS), make(zeros(T, D)), make(zeros(*shape)), 0.1)


# --- values, devices, options


def test_singular_matrices(make: Make) -> None:
    g = np.stack([np.eye(D)] * (T + 1))
    g[1] = 0
    with pytest.raises(ValueError, match=r"^g: expected invertible matrices, one is singular"):
        gauge_transform(make(LINKS), make(g))
    with pytest.raises(ValueError, match=r"^u: expected invertible matrices, one is singular"):
        plaquettes(make(zeros(2, 2, 2, D, D)))


def test_other_devices() -> None:
    """A tensor of a device without kernels is refused before anything else is done with it; here one without memory."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake.FakeTensorMode():
        u = torch.empty(2, 2, 2, D, D, device="xpu")
        for name, call in (*((name, call) for name, call in FUNCTIONS.values() if name == "u"), ("a", expm)):
            message = rf"^{name}: expected a tensor on the CPU or a CUDA device, got device xpu:0, .*\.cpu\(\)"
            with pytest.raises(ValueError, match=message):
                call(u)
        with pytest.raises(ValueError, match=r"^dt: expected a tensor on the CPU or a CUDA device, got device xpu:0"):
            wilson_line(torch.zeros(T, D, D), torch.zeros(T, device="xpu"))
        with pytest.raises(ValueError, match=r"^dt: expected device cpu, that of w, got cuda:0"):
            wilson_line(torch.zeros(T, D, D), torch.zeros(T, device="cuda"))


@pytest.mark.parametrize("cumulative", [False, True])
def test_options_that_exclude_each_other(cumulative: bool, make: Make) -> None:
    message = r"^log_scale: not with reunitarize"
    with pytest.raises(ValueError, match=message):
        wilson_line(make(LINKS), 0.1, cumulative=cumulative, log_scale=True, reunitarize=True)
    with pytest.raises(ValueError, match=message):
        (cumulative_product if cumulative else ordered_product)(make(LINKS), log_scale=True, reunitarize=True)


def test_lattices(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"^u: .*\(\.\.\., L0, L1, 2, d, d\), two links per site, got \(3, 4, 3, 2, 2\)"
    ):
        plaquettes(make(zeros(3, 4, 3, D, D)))
    with pytest.raises(ValueError, match=r"^u: expected shape \(\.\.\., L0, L1, 2, d, d\), got \(3, 2, 2, 2\)"):
        plaquettes(make(zeros(3, 2, D, D)))
    with pytest.raises(ValueError, match=r"^u: expected at least one site in either direction, got \(0, 4, 2, 2, 2\)"):
        plaquettes(make(zeros(0, 4, 2, D, D)))
    for periodic in (True, (True,), (False, False, True), "no"):
        with pytest.raises(ValueError, match=r"^periodic: expected a pair of booleans, one per direction, got "):
            plaquettes(make(zeros(2, 2, 2, D, D)), periodic=periodic)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("0", 1, 3), TypeError, "t0: expected a real number, got str"),
        ((0, 1j, 3), TypeError, "t1: expected a real number, got complex"),
        ((0, [1.0], 3), TypeError, "t1: expected a real number, got list"),
        ((float("nan"), 1, 3), ValueError, "t0: expected a finite time, got nan"),
        ((0, float("inf"), 3), ValueError, "t1: expected a finite time, got inf"),
        ((0, 1, 2.5), TypeError, "steps: expected an integer, got float"),
        ((0, 1, -1), ValueError, "steps: expected 0 or more, got -1"),
    ],
)
def test_nodes_of_what(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        gauss_nodes(*arguments)
