# SPDX-License-Identifier: MIT
"""Networks with every kind of site: a spec, and shapes that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nnsym_fast import specs
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    SpecialLinear,
)
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import AxisLike, Leg, SymmetrySpec

Array = npt.NDArray[Any]
Params = dict[str, Array]


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def mlp(widths: list[int], activation: str, seed: int = 0) -> tuple[SymmetrySpec, Params]:
    return specs.mlp(widths, activation), random(specs.shapes(specs.mlp_layers(widths, activation)), seed)


def block(
    qk: Group,
    vo: Group,
    residual: Group | None,
    hidden: Group | None = None,
    copies: int = 1,
    heads: int = 2,
    shifted: bool = False,
) -> tuple[SymmetrySpec, Params]:
    """An embedding, one block of attention, one of an MLP, and a head, in a residual stream of 6."""
    d, m, hidden = 6, qk.size, hidden or Permutation(5)
    sites = {} if residual is None else {"residual": residual}
    sites |= {"qk": Heads(heads, qk, tie="heads"), "vo": Heads(heads, vo, tie="heads"), "mlp": hidden}
    order = "q" if copies > 1 else ""
    if order:
        sites[order] = Heads(heads, Permutation(copies), tie="heads")
    write, read = (None, None) if residual is None else ("residual", "residual*")
    query = Leg("qk", dual=True, copies=copies, order=order)
    output = Leg("vo", dual=True, copies=copies, order=order)
    keys, values = heads * m, heads * vo.size
    tensors: dict[str, tuple[tuple[AxisLike, ...], tuple[int, ...]]] = {
        "embedding": ((None, write), (9, d)),
        "k.weight": (("qk", read), (keys, d)),
        "k.bias": (("qk+" if shifted else "qk",), (keys,)),
        "q.weight": ((query, read), (keys * copies, d)),
        "q.bias": ((query,), (keys * copies,)),
        "v.weight": (("vo", read), (values, d)),
        "v.bias": (("vo",), (values,)),
        "o.weight": ((write, output), (d, values * copies)),
        "o.bias": ((write,), (d,)),
        "up.weight": (("mlp", read), (hidden.size, d)),
        "up.bias": (("mlp",), (hidden.size,)),
        "down.weight": ((write, "mlp*"), (d, hidden.size)),
        "head": ((None, read), (7, d)),
    }
    spec = SymmetrySpec(sites, {name: legs for name, (legs, _) in tensors.items()})
    return spec, random({name: shape for name, (_, shape) in tensors.items()})


def chain(group: Callable[[int], Group], first: int = 4, second: int = 4) -> tuple[SymmetrySpec, Params]:
    """A linear network: every space has its own group."""
    legs: dict[str, tuple[AxisLike, ...]] = {"0": ("a", None), "1": ("b", "a*"), "2": (None, "b*")}
    shapes = {"0": (first, 5), "1": (second, first), "2": (6, second)}
    return SymmetrySpec({"a": group(first), "b": group(second)}, legs), random(shapes)


def recurrent(group: Group, bare: bool = False) -> tuple[SymmetrySpec, Params]:
    """A weight that carries its site on both axes; ``bare``: it alone."""
    legs: dict[str, tuple[AxisLike, ...]] = {"again": ("h", "h*")}
    shapes: dict[str, tuple[int, ...]] = {"again": (group.size, group.size)}
    if not bare:
        legs |= {"in": ("h", None), "bias": ("h",), "out": (None, "h*")}
        shapes |= {"in": (group.size, 3), "bias": (group.size,), "out": (2, group.size)}
    return SymmetrySpec({"h": group}, legs), random(shapes)


def experts() -> tuple[SymmetrySpec, Params]:
    """Experts that a router numbers, with gate and up projection in one tensor."""
    sites = {
        "experts": Heads(3, Monomial(4), tie="experts"),
        "router": Heads(3, Permutation(1), tie="experts"),
        "residual": Permutation(6),
    }
    legs: dict[str, tuple[AxisLike, ...]] = {
        "embedding": (None, "residual"),
        "router": ("router", "residual*"),
        "scores": ("router*",),
        "gate_up": ([(12, Leg("experts", power=0)), (12, "experts")], "residual*"),
        "down": ("residual", "experts*"),
        "head": (None, "residual*"),
    }
    shapes = {
        "embedding": (9, 6),
        "router": (3, 6),
        "scores": (3,),
        "gate_up": (24, 6),
        "down": (6, 12),
        "head": (4, 6),
    }
    return SymmetrySpec(sites, legs), random(shapes)


def signed(n: int) -> Group:
    return Monomial(n, signs=True, scales=False)


CASES: dict[str, Callable[[], tuple[SymmetrySpec, Params]]] = {
    "relu": lambda: mlp([5, 7, 6, 4, 3], "relu"),
    "tanh": lambda: mlp([5, 7, 6, 3], "tanh"),
    "gelu": lambda: mlp([5, 7, 6, 3], "gelu"),
    "squares": lambda: mlp([4, 6, 5, 3], "squared_relu"),
    "square": lambda: mlp([4, 6, 5, 3], "square"),
    "identity": lambda: mlp([4, 6, 5, 3], "identity"),
    "linear": lambda: block(GeneralLinear(4), GeneralLinear(3), None),
    "special": lambda: block(SpecialLinear(4), SpecialLinear(3), Orthogonal(6)),
    "rotary": lambda: block(RotaryCommutant(4), GeneralLinear(4), Orthogonal(6)),
    "partial": lambda: block(
        RotaryCommutant(6, "interleaved", rotary=4), GeneralLinear(4), Orthogonal(6, keeps_mean=True), heads=3
    ),
    "grouped": lambda: block(GeneralLinear(4), GeneralLinear(4), Orthogonal(6), copies=3),
    "llama": lambda: block(RotaryCommutant(4), GeneralLinear(4), Orthogonal(6), Monomial(5, signs=True), copies=2),
    "post-norm": lambda: block(Affine(GeneralLinear(4)), GeneralLinear(4), Permutation(6), shifted=True),
    "signed": lambda: block(GeneralLinear(4), GeneralLinear(4), signed(6), signed(5), heads=3),
    "gated": lambda: block(signed(4), Monomial(4), signed(6), heads=3),
    "experts": experts,
    "chain": lambda: chain(GeneralLinear),
    "recurrent": lambda: recurrent(Monomial(5, signs=True)),
    "recurrent linear": lambda: recurrent(GeneralLinear(4)),
    "recurrent rotation": lambda: recurrent(Orthogonal(4), bare=True),
}


def points(spec: SymmetrySpec, params: Params, count: int, seed: int = 1) -> Iterator[Params]:
    """Random points of the orbit, by the reference."""
    stack = reference.act(spec, reference.sample(spec, count, seed), params)
    for index in range(count):
        yield {name: value[index] for name, value in stack.items()}


def difference(a: Params, b: Params) -> float:
    """The largest difference of two entries, relative to the largest entry of the network."""
    size = max(np.abs(value).max() for value in b.values())
    return float(max(np.abs(a[name] - b[name]).max() for name in b) / size)
