# SPDX-License-Identifier: MIT
"""The differentiable functions of the Wilson family with small arguments, for the tests under torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest

from nnsym_fast.lattice import plaquettes
from nnsym_fast.wilson import (
    affine_flow,
    cumulative_product,
    expm,
    gauge_transform,
    ordered_product,
    reunitarize,
    wilson_line,
    wilson_loop,
)

torch = pytest.importorskip("torch")

N, T, D = 2, 3, 2
MATRIX = (N, D, D)
LINKS = (N, T, D, D)


def first(function: Callable[..., Any]) -> Callable[..., Any]:
    """The product of (product, exponent), which is an integer."""
    return lambda *args: function(*args)[0]


class Case(NamedTuple):
    """A differentiable function and the shapes of its arguments; TIMES is real, NEAR_ONE nearly unitary."""

    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...] | str, ...]


TIMES, NEAR_ONE = "times", "near one"

CASES = {
    "expm": Case(expm, (MATRIX,)),
    "ordered": Case(ordered_product, (LINKS,)),
    "ordered checkpoint": Case(partial(ordered_product, checkpoint=True), (LINKS,)),
    "ordered log": Case(first(partial(ordered_product, log_scale=True)), (LINKS,)),
    "ordered log checkpoint": Case(first(partial(ordered_product, log_scale=True, checkpoint=True)), (LINKS,)),
    "cumulative": Case(cumulative_product, (LINKS,)),
    "cumulative log": Case(first(partial(cumulative_product, log_scale=True)), (LINKS,)),
    "loop": Case(wilson_loop, (LINKS,)),
    "loop checkpoint": Case(partial(wilson_loop, checkpoint=True), (LINKS,)),
    "line number": Case(lambda w: wilson_line(w, 0.3), (LINKS,)),
    "line 2": Case(wilson_line, (LINKS, TIMES)),
    "line 2 log": Case(first(partial(wilson_line, log_scale=True, cumulative=True)), (LINKS, TIMES)),
    "line 4": Case(partial(wilson_line, magnus_order=4), ((T, 2, D, D), TIMES)),
    "line 4 cumulative": Case(partial(wilson_line, magnus_order=4, cumulative=True), ((T, 2, D, D), TIMES)),
    "line 6": Case(partial(wilson_line, magnus_order=6), ((T, 3, D, D), TIMES)),
    "line 6 checkpoint": Case(
        partial(wilson_line, magnus_order=6, cumulative=True, checkpoint=True), ((T, 3, D, D), TIMES)
    ),
    "flow": Case(affine_flow, (LINKS, (T, D), (D,), TIMES)),
    "flow of one path": Case(partial(affine_flow, cumulative=True), ((T, D, D), (T, D), (N, D), TIMES)),
    "flow 4": Case(partial(affine_flow, magnus_order=4, checkpoint=True), ((T, 2, D, D), (T, 2, D), (D,), TIMES)),
    "flow 6": Case(partial(affine_flow, magnus_order=6), ((T, 3, D, D), (T, 3, D), (D,), TIMES)),
    "gauge": Case(gauge_transform, (LINKS, (T + 1, D, D))),
    "reunitarize": Case(reunitarize, (NEAR_ONE,)),
    "line reunitarize": Case(lambda a: wilson_line(a - a.mH, 0.3, reunitarize=True), (LINKS,)),
    "plaquettes": Case(plaquettes, ((2, 3, 2, D, D),)),
    "periodic plaquettes": Case(partial(plaquettes, periodic=(True, False)), ((2, 3, 2, D, D),)),
}

SINGLE = [name for name in CASES if "checkpoint" not in name]
DTYPES = {"real": torch.float64, "complex": torch.complex128}


def arguments(
    name: str, kind: str = "real", requires_grad: bool = True, seed: int = 0, device: Any = "cpu"
) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator, dtype=DTYPES[kind])
    found = []
    for shape in CASES[name].shapes:
        if shape == TIMES:
            value = 0.2 + torch.rand(T, generator=generator, dtype=torch.float64)
        elif shape == NEAR_ONE:
            value = torch.linalg.qr(random(MATRIX))[0] + 1e-3 * random(MATRIX)
        else:
            value = 0.5 * random(shape)
        found.append(value.to(device).requires_grad_(requires_grad))
    return tuple(found)


def loss(name: str) -> Callable[..., Any]:
    """A real number that depends on all parts of the result."""

    def function(*args: Any) -> Any:
        result = CASES[name].function(*args)
        weights = torch.linspace(0.5, 1.5, result.numel(), dtype=torch.float64, device=result.device)
        return (weights.reshape(result.shape) * result.abs() ** 2).sum()

    return function


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
