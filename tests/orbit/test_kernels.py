# SPDX-License-Identifier: MIT
"""The action against its definition: operation x dtype x instruction set x awkward shapes, counts and layouts.

Two oracles. For matrices and vectors with powers +-1 the definition out = (w * row) * column, in the arithmetic type
and rounded once, is computed in NumPy and must agree in every bit: gathers, rounding, NaN, infinities and subnormal
numbers. Everything else (any number of axes, repetitions, segments, powers) is compared with the reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import tolerances
from hypothesis import example, given, settings
from layouts import LAYOUTS, byte_swapped
from orbit_cases import (
    COUNTS,
    DTYPES,
    LANES,
    Params,
    any_isa,
    assert_rounded,
    assert_same_bits,
    cast,
    mlp,
    numpy_dtype,
    repeated,
)
from orbit_strategies import Case, cases
from tolerances import ARITHMETIC

import nnsym_fast as nf
from nnsym_fast import reference
from nnsym_fast._native import cpu
from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import Group, Monomial, Permutation, Scaling, Signs
from nnsym_fast.symmetry import Leg, SymmetrySpec

Array = npt.NDArray[Any]

# --- the definition, bit for bit


def factor(element: Any, dual: bool, dtype: str, shape: tuple[int, int]) -> Array:
    value = np.ones(shape, dtype)
    if element.scale is not None:
        value = value * element.scale
    if element.sign is not None:
        value = value * element.sign.astype(dtype)
    return 1 / value if dual else value


def definition(spec: SymmetrySpec, elements: Elements, params: Params, stacked: bool = False) -> Params:
    """out[k, i, j] = (w[p_k(i), q_k(j)] * row[k, i]) * column[k, j], for tensors of one or two axes."""
    if not stacked:
        params = repeated(params, elements.count)
    result = {}
    for name, axes in spec.legs.items():
        w = params[name]
        dtype = ARITHMETIC[w.dtype.name]
        out = w.astype(dtype)
        for number, axis in enumerate(axes, start=1):
            if isinstance(axis, Leg):
                element = elements[axis.site]
                shape = [w.shape[d] if d in (0, number) else 1 for d in range(w.ndim)]
                if element.perm is not None:
                    out = np.take_along_axis(out, element.perm.astype(np.intp).reshape(shape), axis=number)
                both = (w.shape[0], w.shape[number])
                with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                    out = out * factor(element, axis.dual, dtype, both).reshape(shape)
        result[name] = cast(out, w.dtype.name)
    return result


def network(rows: int, columns: int, group: Callable[[int], Group]) -> SymmetrySpec:
    """Every combination of legs on vectors and matrices."""
    return SymmetrySpec(
        {"a": group(rows), "b": group(columns)},
        {
            "both": ("a", "b*"),
            "dual": ("b", "a*"),
            "same": ("a", "a*"),
            "rows": ("a", None),
            "columns": (None, "b*"),
            "readers": ("b*", None),
            "bias": ("a",),
            "vector": ("b*",),
        },
    )


def random_params(spec: SymmetrySpec, dtype: str, free: int = 5, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return {
        name: cast(rng.standard_normal([spec.axis_length(axis) or free for axis in axes]), dtype)
        for name, axes in spec.legs.items()
    }


def signed(n: int) -> Group:
    return Monomial(n, signs=True)


def moved_by(spec: SymmetrySpec, count: int, dtype: str, seed: int = 0) -> Elements:
    return spec.sample(count, seed, dtype=ARITHMETIC[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", LANES)
def test_matrices_around_the_lanes(isa: str, dtype: str, rows: int) -> None:
    for number, columns in enumerate((*LANES, 65)):
        spec = network(rows, columns, signed)
        params = random_params(spec, dtype, free=(number + rows) % 34 + 1)
        elements = moved_by(spec, COUNTS[(number + rows) % len(COUNTS)], dtype)
        assert_same_bits(nf.act(spec, elements, params), definition(spec, elements, params))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("group", [Permutation, Scaling, Signs, Monomial, signed], ids=lambda g: g.__name__)
def test_groups_and_counts(isa: str, dtype: str, count: int, group: Callable[[int], Group]) -> None:
    """Also a site of which only a part is there: no permutation, no factor."""
    spec = network(37, 70, group)
    params = random_params(spec, dtype)
    elements = moved_by(spec, count, dtype)
    assert_same_bits(nf.act(spec, elements, params), definition(spec, elements, params))
    networks = [random_params(spec, dtype, seed=k) for k in range(count)]
    stack = {name: np.stack([network[name] for network in networks]) for name in params}
    assert_same_bits(nf.act(spec, elements, stack, stacked=True), definition(spec, elements, stack, stacked=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows(isa: str, dtype: str) -> None:
    """10 000 columns are more than a kernel interleaves, 10 000 rows more than one task takes."""
    for rows, columns in ((3, 10_000), (10_000, 3), (17, 8191), (17, 8192), (17, 8193)):
        spec = network(rows, columns, Monomial)
        legs = {name: axes for name, axes in spec.legs.items() if name != "same"}
        spec = SymmetrySpec(spec.sites, legs)
        params = random_params(spec, dtype, free=1)
        for count in (2, 9):
            elements = moved_by(spec, count, dtype)
            assert_same_bits(nf.act(spec, elements, params), definition(spec, elements, params))


# ml_dtypes has no byte-swapped bfloat16.
DTYPES_AND_LAYOUTS = [(d, layout) for d in DTYPES for layout in LAYOUTS if (d, layout) != ("bfloat16", byte_swapped)]


@pytest.mark.parametrize(("dtype", "layout"), DTYPES_AND_LAYOUTS)
@pytest.mark.parametrize("stacked", [False, True])
def test_memory_layouts(dtype: str, layout: Callable[[Array], Array], stacked: bool) -> None:
    spec = network(19, 33, signed)
    params = random_params(spec, dtype)
    elements = moved_by(spec, 5, dtype)
    given_params = {name: layout(np.stack([w] * 5) if stacked else w) for name, w in params.items()}
    before = {name: array.tobytes() for name, array in given_params.items()}
    moved = nf.act(spec, elements, given_params, stacked=stacked)
    assert_same_bits(moved, definition(spec, elements, params))
    assert all(array.dtype.isnative and array.flags.c_contiguous for array in moved.values())
    assert {name: array.tobytes() for name, array in given_params.items()} == before, "the input is only read"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_in_any_layout(layout: Callable[[Array], Array]) -> None:
    spec = network(19, 33, signed)
    params = random_params(spec, "float64")
    elements = spec.sample(5)
    other = {
        name: tuple(None if part is None else layout(part) for part in (site.perm, site.sign, site.scale))
        for name, site in elements.items()
    }
    assert_same_bits(nf.act(spec, other, params), definition(spec, elements, params))


# --- rounding, and numbers that are not ordinary


def every_pattern(dtype: str) -> Array:
    """All 65536 numbers of a 16-bit storage type."""
    return np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype(dtype)).reshape(256, 256)


def given_scales(spec: SymmetrySpec, values: list[float], count: int, dtype: str) -> Elements:
    """Random permutations and signs, scales that are chosen."""
    elements = moved_by(spec, count, dtype)
    sites = {}
    for name, site in elements.items():
        assert site.scale is not None
        scale = np.resize(np.array(values, site.scale.dtype), site.scale.shape)
        sites[name] = SiteElements(site.perm, site.sign, scale)
    return Elements(sites, count)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("count", [1, 9])
def test_every_sixteen_bit_number_is_rounded_to_nearest_even(isa: str, dtype: str, count: int) -> None:
    """Scales that give ties, overflow to infinity, subnormal results and underflow to zero, at every weight."""
    half_ulp = tolerances.EPSILON[dtype] / 2
    # A power of two more than the 1 + ulp / 2 that ties at 1; the next ones round up and down; 3 and 1/3 round anyhow.
    scales = [1, 1 + half_ulp, 1 + 3 * half_ulp, 1 + half_ulp * (1 + 2**-12), 1 + half_ulp * (1 - 2**-12), 3, 1 / 3]
    scales += [2.0**-k for k in (1, 3, 14, 15, 25)] + [2.0**k for k in (1, 10)]
    spec = SymmetrySpec(
        {"a": signed(256), "b": signed(256)},
        {"both": ("a", "b*"), "rows": ("b", None), "columns": (None, "a*"), "narrow": ("a", None)},
    )
    w = every_pattern(dtype)
    params = {"both": w, "rows": w, "columns": w, "narrow": np.ascontiguousarray(w[:, 100:103])}
    elements = given_scales(spec, scales, count, dtype)
    assert_same_bits(nf.act(spec, elements, params), definition(spec, elements, params))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("columns", [3, 40])
def test_nan_infinity_zero_and_subnormal_numbers(isa: str, dtype: str, count: int, columns: int) -> None:
    """They stay where their entry goes, and nothing else changes."""
    limits = tolerances.STORAGE[dtype]
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, limits.smallest, -3 * limits.smallest, limits.largest, 1.0]
    spec = network(35, columns, signed)
    params = random_params(spec, dtype)
    for number, (name, w) in enumerate(params.items()):
        w.reshape(-1)[number::4] = np.resize(cast(np.array(special), dtype), w.reshape(-1)[number::4].shape)
        assert np.isnan(w).any() or w.size < 40, name
    elements = moved_by(spec, count, dtype)
    assert_same_bits(nf.act(spec, elements, params), definition(spec, elements, params))
    tiny = given_scales(spec, [limits.smallest**0.25, 1.5, limits.smallest**-0.25], count, dtype)
    assert_same_bits(nf.act(spec, tiny, params), definition(spec, tiny, params))


def test_bfloat16_of_torch_and_of_ml_dtypes_are_one() -> None:
    torch = pytest.importorskip("torch")
    spec = SymmetrySpec({"a": signed(256)}, {"rows": ("a", None), "columns": (None, "a*")})
    params = {"rows": every_pattern("bfloat16"), "columns": every_pattern("bfloat16").T}
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(w).view(np.int16)).view(torch.bfloat16)
        for name, w in params.items()
    }
    elements = moved_by(spec, 3, "bfloat16")
    moved = nf.act(spec, elements, tensors)
    assert {value.dtype for value in moved.values()} == {torch.bfloat16}
    as_numpy = {name: value.view(torch.int16).numpy().view(ml_dtypes.bfloat16) for name, value in moved.items()}
    assert_same_bits(as_numpy, nf.act(spec, elements, params))


# --- any number of axes, against the reference


SIGNED_POWERS = SymmetrySpec(
    {"a": Monomial(33, signs=True, scale_std=0.2), "b": Monomial(17, scale_std=0.2)},
    {
        "w": (Leg("a", power=3), Leg("b", dual=True, power=-2.5)),
        "v": (Leg("b", power=0.5, repeat=3), None, Leg("a", dual=True, power=2, repeat=5)),
        "u": (Leg("a", dual=True, power=0), Leg("b", power=0), None),
    },
)


def signed_powers(dtype: str) -> Case:
    shapes = {"w": (33, 17), "v": (51, 4, 165), "u": (33, 17, 3)}
    return Case(SIGNED_POWERS, shapes, dict.fromkeys(shapes, dtype), 9, 1)


def assert_acts(case: Case, isa: str) -> None:
    params = case.params
    arithmetic = "float64" if "float64" in [case.dtypes[n] for n in params if case.spec.touched(n)] else "float32"
    cpu.select_isa(isa)
    elements = case.spec.sample(case.count, case.seed, dtype=arithmetic)
    exact = reference.act(case.spec, elements, {name: array.astype(np.float64) for name, array in params.items()})
    moved = nf.act(case.spec, elements, params)
    points = nf.Orbit(params, case.spec, case.seed).points(0, case.count)
    augmented = nf.augment(repeated(params, case.count), case.spec, seed=case.seed)
    assert_same_bits(points, moved)
    assert_same_bits(augmented, moved)
    for name, array in moved.items():
        assert_rounded(array, exact[name], case.dtypes[name], tolerances.action(case.dtypes[name]))


@given(cases())
@settings(max_examples=100)
@example(signed_powers("float32"))
@example(signed_powers("float64"))
@example(signed_powers("bfloat16"))
@example(signed_powers("float16"))
def test_random_specs(case: Case) -> None:
    """Legs, segments, repetitions, powers and free axes in any order; act, orbit and augment give the same bits."""
    with any_isa() as names:
        for name in names:
            assert_acts(case, name)


def test_float32_tensors_beside_float64_ones_are_rounded_once(isa: str) -> None:
    """Their arithmetic is float64, as one element serves all tensors of a network."""
    spec, params = mlp([9, 40, 33, 3], "float64")
    params["2.weight"] = cast(params["2.weight"], "float32")
    params["0.bias"] = cast(params["0.bias"], "float32")
    elements = spec.sample(9)
    moved = nf.act(spec, elements, params)
    exact = reference.act(spec, elements, {name: array.astype(np.float64) for name, array in params.items()})
    for name, array in params.items():
        assert moved[name].dtype == array.dtype
        # Half an ulp, and what float64 loses before.
        allowed = (np.spacing(np.abs(exact[name]).astype(array.dtype)) / 2).astype(float) * (1 + 1e-6)
        allowed += tolerances.action("float64") * np.abs(exact[name])
        assert np.all(np.abs(moved[name] - exact[name]) <= allowed)


def test_empty_tensors_and_empty_batches(isa: str) -> None:
    spec = SymmetrySpec({"a": Monomial(3)}, {"w": ("a", None), "v": (None, "a*"), "empty": (None,), "e": (None, None)})
    params = {"w": np.ones((3, 0)), "v": np.ones((2, 3)), "empty": np.ones(0), "e": np.ones((0, 4), np.int8)}
    for count in (0, 1, 5):
        moved = nf.act(spec, spec.sample(count), params)
        shapes = {name: array.shape for name, array in moved.items()}
        assert shapes == {"w": (count, 3, 0), "v": (count, 2, 3), "empty": (count, 0), "e": (count, 0, 4)}
        np.testing.assert_allclose(moved["v"] * spec.sample(count)["a"].scale[:, None, :], 1)
        assert nf.Orbit(params, spec).points(0, count)["w"].shape == (count, 3, 0)


def test_nine_axes_with_legs(isa: str) -> None:
    """The most that a kernel takes; one more is refused with the tensor's name."""
    legs: tuple[str, ...] = ("a", "b*", "a*", "b", "a", "b*", "a", "b", "a*")
    spec = SymmetrySpec({"a": Monomial(2), "b": Monomial(3, signs=True)}, {"w": legs})
    params = random_params(spec, "float64")
    elements = spec.sample(3)
    moved, exact = nf.act(spec, elements, params), reference.act(spec, elements, params)
    np.testing.assert_allclose(moved["w"], exact["w"], rtol=tolerances.action("float64", 9))
    wider = SymmetrySpec(spec.sites, {"w": (*legs, "b")})
    with pytest.raises(ValueError, match=r"tensor 'w' of shape \(2, 3, .*at most 9 axes with legs"):
        nf.act(wider, wider.sample(1), random_params(wider, "float64"))
