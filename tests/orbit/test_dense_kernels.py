# SPDX-License-Identifier: MIT
"""The dense action against the reference in float64: legs x dtype x instruction set x awkward sizes, by both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from layouts import LAYOUTS, byte_swapped
from orbit_cases import (
    DTYPES,
    Params,
    any_isa,
    assert_acts,
    assert_same_bits,
    attention,
    attention_params,
    cast,
    elements_of,
    repeated,
    sums_of,
)
from orbit_strategies import Case, dense_cases
from tolerances import EPSILON, STORAGE

import nnsym_fast as nf
from nnsym_fast import _dense, reference
from nnsym_fast._native import cpu
from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    Scaling,
    SpecialLinear,
    Translation,
)
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

Array = npt.NDArray[Any]

SIZES = [*range(1, 10), 12, 15, 16, 17, 23, 24, 25, 31, 32, 33, 48, 63, 64, 65, 70]
LARGE = [130, _dense.LARGEST, _dense.LARGEST + 1, 300]


def random_params(spec: SymmetrySpec, dtype: str, free: tuple[int, ...] = (5, 3), seed: int = 0) -> Params:
    """Axes without legs have the lengths ``free`` in turn."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, axes in spec.legs.items():
        shape = [spec.axis_length(axis) or free[number % len(free)] for number, axis in enumerate(axes)]
        params[name] = cast(rng.standard_normal(shape), dtype)
    return params


def network(a: Group, b: Group) -> SymmetrySpec:
    """Dense legs on every axis of tensors with one to four axes, on one axis or several, beside other legs or none."""
    return SymmetrySpec(
        {"a": a, "b": b, "p": Monomial(3, signs=True, scale_std=0.2)},
        {
            "rows": ("a", None),
            "columns": (None, "a*"),
            "both": ("a", "b*"),
            "same": ("b", "b*"),
            "bias": ("a",),
            "reader": ("b*",),
            "first": ("a", None, None),
            "middle": (None, "b", None),
            "last": (None, None, "a*"),
            "outer two": ("a*", None, "b"),
            "four": ("p", "b", None, "p*"),
            "beside": ("p*", "a"),
            "flat": (None, Leg("b", dual=True, repeat=3)),
            "channels": (Leg("a", repeat=2), "p"),
        },
    )


def assert_moves(spec: SymmetrySpec, params: Params, count: int, seed: int = 0) -> None:
    """One network and a stack of them."""
    elements = elements_of(spec, params, count, seed)
    assert_acts(spec, elements, params, nf.act(spec, elements, params))
    stack = {
        name: np.stack([np.roll(array, k) if array.size else array for k in range(count)])
        for name, array in params.items()
    }
    assert_acts(spec, elements, stack, nf.act(spec, elements, stack, stacked=True), stacked=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_the_tiles(isa: str, dtype: str, size: int) -> None:
    other = SIZES[(SIZES.index(size) + 7) % len(SIZES)]
    spec = network(GeneralLinear(size, 0.2), Orthogonal(other))
    assert_moves(spec, random_params(spec, dtype, free=(size % 7 + 1, 34 - size % 34)), (1, 2, 3)[size % 3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 25, 33])
def test_heads(isa: str, dtype: str, size: int) -> None:
    permute = size % 2 == 0
    spec = network(Heads(3, SpecialLinear(size, 0.2), permute), Heads(5, GeneralLinear(size % 5 + 1, 0.2), permute))
    assert_moves(spec, random_params(spec, dtype, free=(size, 33)), 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", LARGE)
def test_sizes_where_the_blas_begins(dtype: str, size: int) -> None:
    spec = SymmetrySpec(
        {"a": Orthogonal(size), "h": Heads(2, Affine(Orthogonal(size))), "p": Monomial(3, scale_std=0.2)},
        {
            "rows": ("a", None),
            "columns": (None, "a*"),
            "both": ("a", "a*"),
            "bias": ("a",),
            "shifted": ("h+",),
            "heads": ("h", "p*"),
            "readers": ("p", "h*"),
            "copies": (Leg("h", dual=True, copies=2), None),
            "cut": (Segments(((2, None), (size, Leg("a")), (3, Leg("p")))), None),
        },
    )
    assert_moves(spec, random_params(spec, dtype), 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 4, 17, 64])
def test_the_blas_does_what_the_kernel_does(dtype: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dense, "LARGEST", 0)
    spec = network(Heads(2, Affine(GeneralLinear(size, 0.2))), Orthogonal(9))
    spec = SymmetrySpec(spec.sites, {**spec.legs, "shifted": ("a+",), "copies": (None, Leg("a", copies=3))})
    assert_moves(spec, random_params(spec, dtype, free=(2, 31)), 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 383, 384, 385, 1000])
def test_lengths_of_the_other_axis(isa: str, dtype: str, rows: int) -> None:
    """Columns and rows that a kernel takes at once, and one more or less."""
    spec = SymmetrySpec({"a": Heads(2, GeneralLinear(6, 0.2))}, {"w": ("a", None), "v": (None, "a*"), "u": ("a", "a*")})
    assert_moves(spec, random_params(spec, dtype, free=(rows,)), 2)


# --- attention: copies, orders, segments, shifts

QUERY = Leg("qk", dual=True, copies=3, order="q")


def attention_with(group: Group, tie: str = "a") -> SymmetrySpec:
    """The legs of grouped-query attention in all layouts that checkpoints have."""
    heads, permute = 2, bool(tie)
    legs = {
        "q": (QUERY, None),
        "q.T": (None, QUERY),
        "k": ("qk", None),
        "k.bias": ("qk+",),
        "q.bias": (QUERY,),
        "o": (None, Leg("vo", dual=True, copies=3, order="q")),
        "v": ("vo", None),
        "shared": (Leg("vo", copies=3), None),
        "cut": (None, Segments(((6 * group.size, QUERY), (2, None), (2 * group.size, Leg("qk"))))),
        "cut.bias": (Segments(((2 * group.size, Leg("qk", affine=True)), (1, None), (6 * group.size, QUERY))),),
        "flat": (Leg("vo", dual=True, repeat=5, copies=3, order="q"), None),
    }
    sites: dict[str, Group] = {
        "qk": Heads(heads, Affine(group), permute, tie),
        "vo": Heads(heads, group, permute, tie),
        "q": Heads(heads, Permutation(3), permute, tie),
    }
    return SymmetrySpec(sites, legs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tie", ["a", ""])
@pytest.mark.parametrize("size", [1, 4, 16, 33])
def test_grouped_queries(isa: str, dtype: str, size: int, tie: str) -> None:
    spec = attention_with(GeneralLinear(size, 0.2), tie)
    assert_moves(spec, random_params(spec, dtype), 4)


def test_copies_of_a_group_without_heads(isa: str) -> None:
    """One head, whose copies move among themselves."""
    query = Leg("qk", dual=True, copies=4, order="q")
    spec = SymmetrySpec(
        {"qk": Affine(GeneralLinear(5, 0.2)), "q": Permutation(4)},
        {"q": (query, None), "k": ("qk", None), "b": ("qk+",), "o": (None, replace(query, dual=False))},
    )
    assert_moves(spec, random_params(spec, "float32"), 6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_attention_layer(isa: str, dtype: str) -> None:
    assert_moves(attention(), attention_params(dtype), 9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "group",
    [Translation(9), Heads(3, Translation(4)), Heads(3, Translation(4), permute=False), Affine(Orthogonal(9))],
    ids=repr,
)
def test_shifts(isa: str, dtype: str, group: Group) -> None:
    size = group.size
    spec = SymmetrySpec(
        {"a": group},
        {
            "bias": ("a+",),
            "linear": ("a",),
            "reader": ("a*", None),
            "cut": (Segments(((2, None), (size, Leg("a", affine=True)), (size, Leg("a", affine=True)))),),
        },
    )
    params = random_params(spec, dtype)
    assert_moves(spec, params, 5)
    elements = elements_of(spec, params, 5)
    still = nf.act(spec, elements, {name: np.zeros_like(array) for name, array in params.items()})
    assert elements["a"].shift is not None
    # What is added to nothing is rounded once.
    assert_same_bits({"bias": still["bias"]}, {"bias": cast(elements["a"].shift, dtype)})
    assert not still["linear"].any()


# --- random specs


def assert_case(case: Case) -> None:
    params = case.params
    elements = elements_of(case.spec, params, case.count, case.seed)
    moved = nf.act(case.spec, elements, params)
    wide = any(params[name].dtype == np.float64 for name in params if case.spec.touched(name))
    assert_acts(case.spec, elements, params, moved, arithmetic="float64" if wide else "float32")
    assert_same_bits(nf.Orbit(params, case.spec, case.seed).points(0, case.count), moved)
    assert_same_bits(nf.augment(repeated(params, case.count), case.spec, seed=case.seed), moved)


NESTED = SymmetrySpec(
    {"a": Heads(3, Affine(GeneralLinear(5, 0.2))), "b": Scaling(4, 0.2), "c": Orthogonal(6)},
    {
        "w": (Leg("b", power=-2.5), Leg("a", dual=True, repeat=2), "c"),
        "v": (Segments(((15, Leg("a")), (8, Leg("b", dual=True, repeat=2)), (30, Leg("a", copies=2)))), "c*"),
        "u": (Segments(((6, Leg("c")), (4, Leg("b")), (1, None))), Segments(((6, Leg("c")), (4, Leg("b"))))),
        "b": ("a+",),
    },
)


def nested(dtype: str) -> Case:
    shapes = {"w": (4, 30, 6), "v": (53, 6), "u": (11, 10), "b": (15,)}
    return Case(NESTED, shapes, dict.fromkeys(shapes, dtype), 9, 1)


@given(dense_cases())
@settings(max_examples=40)
@example(nested("float32"))
@example(nested("float64"))
@example(nested("bfloat16"))
@example(nested("float16"))
def test_random_specs(case: Case) -> None:
    """Legs of all kinds in any order; act, orbit and augment give the same bits."""
    with any_isa() as names:
        for name in names:
            cpu.select_isa(name)
            assert_case(case)


@given(dense_cases())
@settings(max_examples=30)
def test_random_specs_through_the_blas(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_dense, "LARGEST", 3)
        assert_case(case)


@given(dense_cases())
@settings(max_examples=30)
def test_the_identity_is_exact(case: Case) -> None:
    """1.theta = theta in every bit of every storage type."""
    params = case.params
    assert_same_bits(nf.act(case.spec, case.spec.identity(case.count), params), repeated(params, case.count))


@given(dense_cases(["float64"], ["float32"]))
@settings(max_examples=30)
def test_the_action_is_a_homomorphism(case: Case) -> None:
    """(g h).theta = g.(h.theta), and g^-1.(g.theta) = theta, relative to sums of absolute products."""
    params, spec, n = case.params, case.spec, case.count
    g, h = (elements_of(spec, params, n, case.seed + stream) for stream in range(2))
    allowed = 400 * max(EPSILON[array.dtype.name] for array in params.values())
    both = nf.act(spec, nf.compose(g, h), params)
    turned = nf.act(spec, g, nf.act(spec, h, params), stacked=True)
    undone = nf.act(spec, nf.inverse(g), nf.act(spec, g, params), stacked=True)
    sums = sums_of(spec, g, sums_of(spec, h, params), stacked=True)
    back = sums_of(spec, nf.inverse(g), sums_of(spec, g, params), stacked=True)
    for name, theta in params.items():
        if not theta.size:
            continue
        axes = tuple(range(1, theta.ndim + 1))
        scale, scale_back = (np.abs(part[name]).max(axis=axes, keepdims=True) for part in (sums, back))
        assert np.all(np.abs(both[name] - turned[name]) <= allowed * scale)
        assert np.all(np.abs(undone[name] - theta) <= allowed * scale_back)


# --- what comes in


DTYPES_AND_LAYOUTS = [(d, layout) for d in DTYPES for layout in LAYOUTS if (d, layout) != ("bfloat16", byte_swapped)]


@pytest.mark.parametrize(("dtype", "layout"), DTYPES_AND_LAYOUTS)
@pytest.mark.parametrize("stacked", [False, True])
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array], stacked: bool) -> None:
    spec = network(Heads(2, GeneralLinear(9, 0.2)), Orthogonal(17))
    params = random_params(spec, dtype)
    elements = elements_of(spec, params, 3)
    given_params = {name: layout(np.stack([w] * 3) if stacked else w) for name, w in params.items()}
    before = {name: array.tobytes() for name, array in given_params.items()}
    moved = nf.act(spec, elements, given_params, stacked=stacked)
    assert_same_bits(moved, nf.act(spec, elements, params))
    assert {name: array.tobytes() for name, array in given_params.items()} == before, "the input is only read"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_in_any_layout(layout: Callable[[Array], Array]) -> None:
    spec = attention_with(GeneralLinear(5, 0.2))
    params = random_params(spec, "float64")
    elements = spec.sample(5)
    other = {
        name: SiteElements(*(None if part is None else layout(part) for part in vars(site).values()))
        for name, site in elements.items()
    }
    assert_same_bits(nf.act(spec, other, params), nf.act(spec, elements, params))


def test_elements_of_another_precision_are_converted() -> None:
    """float64 elements on a float32 network are rounded to float32 first."""
    spec = attention_with(GeneralLinear(5, 0.2))
    params = random_params(spec, "float32")
    wide = spec.sample(3)
    narrow = Elements(
        {
            name: SiteElements(
                *(p if p is None or p.dtype != np.float64 else p.astype(np.float32) for p in vars(site).values())
            )
            for name, site in wide.items()
        },
        3,
    )
    assert_same_bits(nf.act(spec, wide, params), nf.act(spec, narrow, params))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_no_leg_touches_is_copied_in_every_bit(isa: str, dtype: str) -> None:
    """Segments without a leg beside dense ones, on rows and columns; NaN, infinities and subnormal numbers in them."""
    limits = STORAGE[dtype]
    special = cast(np.array([np.nan, np.inf, -np.inf, -0.0, limits.smallest, -limits.largest, 1 / 3]), dtype)
    a, free = Leg("a"), (7, None)
    spec = SymmetrySpec(
        {"a": Heads(2, Orthogonal(8)), "p": Permutation(5)},
        {
            "rows": (Segments((free, (16, a), free)), None),
            "columns": (None, Segments((free, (16, a), free))),
            "cross": (Segments(((16, a), free)), Segments((free, (16, Leg("a", dual=True))))),
            "moved": (Segments(((5, Leg("p")), (16, a))), None),
            "use": ("a*", "p*"),
        },
    )
    params = random_params(spec, dtype, free=(7,))
    for part in (params["rows"][:7], params["rows"][23:], params["columns"].T[:7], params["cross"][16:, :7]):
        part[...] = special[: part.shape[1]] if part.shape[1] == 7 else special
    params["moved"][:5] = special
    elements = elements_of(spec, params, 3)
    moved = nf.act(spec, elements, params)
    for name, part in {"rows": np.s_[:, :7], "columns": np.s_[:, :, :7], "cross": np.s_[:, 16:, :7]}.items():
        assert_same_bits({name: moved[name][part]}, {name: repeated(params, 3)[name][part]})
    assert elements["p"].perm is not None
    assert_same_bits({"p": moved["moved"][:, :5]}, {"p": params["moved"][elements["p"].perm]})
    assert np.isfinite(moved["rows"][:, 7:23].astype(float)).all(), "and nothing else is touched by them"
    assert np.isfinite(moved["moved"][:, 5:].astype(float)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest_head", [_dense.LARGEST, 2])
def test_a_nan_stays_in_its_block(isa: str, dtype: str, largest_head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It mixes with the units of its head, at its place on the other axes, and with nothing else."""
    monkeypatch.setattr(_dense, "LARGEST", largest_head)
    spec = SymmetrySpec(
        {"a": Heads(3, GeneralLinear(5, 0.2), permute=False)},
        {"rows": ("a", None), "columns": (None, "a*"), "middle": (None, "a", None)},
    )
    params = random_params(spec, dtype, free=(9, 11))
    params["rows"][7, 2] = np.nan
    params["columns"][4, 12] = np.inf
    params["middle"][1, 0, 3] = np.nan
    moved = nf.act(spec, elements_of(spec, params, 4), params)
    for name, place in {"rows": np.s_[:, 5:10, 2], "columns": np.s_[:, 4, 10:15], "middle": np.s_[:, 1, :5, 3]}.items():
        broken = ~np.isfinite(moved[name].astype(np.float64))
        expected = np.zeros_like(broken)
        expected[place] = True
        assert np.array_equal(broken, expected), name


def test_float32_tensors_beside_float64_ones_are_rounded_once(isa: str) -> None:
    spec = network(Heads(2, GeneralLinear(5, 0.2)), Orthogonal(9))
    params = random_params(spec, "float64")
    for name in ("rows", "both", "four", "flat"):
        params[name] = cast(params[name], "float32")
    elements = spec.sample(3)
    assert_acts(spec, elements, params, nf.act(spec, elements, params), arithmetic="float64")


def test_empty_tensors_and_empty_batches(isa: str) -> None:
    spec = SymmetrySpec(
        {"a": Affine(Orthogonal(3)), "p": Permutation(2)},
        {"w": ("a", None), "v": (None, "a*"), "u": ("p", None, "a"), "use": ("p*",), "b": ("a+",), "empty": (None,)},
    )
    params = {
        "w": np.ones((3, 0)), "v": np.ones((2, 3)), "u": np.ones((2, 0, 3)), "use": np.ones(2), "b": np.ones(3),
        "empty": np.ones(0, np.int8),
    }  # fmt: skip
    for count in (0, 1, 5):
        moved = nf.act(spec, spec.sample(count), params)
        assert {name: array.shape for name, array in moved.items()} == {n: (count, *a.shape) for n, a in params.items()}
        assert nf.Orbit(params, spec).points(0, count)["u"].shape == (count, 2, 0, 3)
        stack = nf.act(spec, spec.sample(count), repeated(params, count), stacked=True)
        assert_same_bits(stack, moved)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_errors_are_those_of_a_careful_loop(isa: str, size: int) -> None:
    """RMS error in float32 against twice that of NumPy's own float32 products, both against float64."""
    spec = SymmetrySpec({"a": GeneralLinear(size, 0.2)}, {"w": ("a", "a*"), "v": (None, "a", None), "u": (None, "a*")})
    params = random_params(spec, "float32", free=(40, 9))
    elements = spec.sample(4, dtype="float32")
    exact = reference.act(spec, elements, {name: array.astype(np.float64) for name, array in params.items()})
    own, naive = nf.act(spec, elements, params), reference.act(spec, elements, params)
    for name in params:
        ours, theirs = (np.sqrt(((moved[name] - exact[name]) ** 2).mean()) for moved in (own, naive))
        assert ours <= 2 * theirs
