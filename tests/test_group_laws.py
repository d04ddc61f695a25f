# SPDX-License-Identifier: MIT
"""The group laws and the action of the NumPy reference, on random groups, legs and tensors.

Notation: g, h, k are batches of n random elements of a random spec; theta are random tensors. One tolerance serves the
file: every entry is a sum of a few hundred products of at most ten float64 factors, so 1e-12 of the sum of their
absolute values leaves a factor of a hundred over rounding. Where a dense leg acts, entries of a tensor are compared on
the scale of its largest sum, as the inverse of a matrix is exact in norm only.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    Scaling,
    Signs,
    SpecialLinear,
    Translation,
)
from nnsym_fast.legs import axis_legs
from nnsym_fast.reference import (
    SiteArrays,
    act,
    augment,
    compose,
    identity,
    inverse,
    orbit_points,
    sample,
)
from nnsym_fast.symmetry import Axis, Leg, Segments, SymmetrySpec

TOLERANCE = 1e-12
Array = npt.NDArray[Any]
Elements = dict[str, SiteArrays]

UNITS = st.integers(1, 5)
STD = st.just(0.3)  # the condition of a product of matrices must stay small
MONOMIAL: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, UNITS),
    st.builds(Scaling, UNITS),
    st.builds(Signs, UNITS),
    st.builds(Monomial, UNITS, st.booleans(), st.booleans()),
)
ROTARY = [RotaryCommutant(4, scale_std=0.3), RotaryCommutant(5, "interleaved", 2, 0.3), RotaryCommutant(6, rotary=4)]
LINEAR: st.SearchStrategy[Group] = st.one_of(
    st.builds(Orthogonal, UNITS, st.booleans()),
    st.builds(SpecialLinear, UNITS, STD),
    st.builds(GeneralLinear, UNITS, STD),
    st.sampled_from(ROTARY),
)
DENSE: st.SearchStrategy[Group] = st.one_of(LINEAR, st.builds(Affine, LINEAR))
PLAIN = st.one_of(MONOMIAL, DENSE, st.builds(Translation, UNITS))
GROUPS: st.SearchStrategy[Group] = st.one_of(PLAIN, st.builds(Heads, st.integers(1, 3), PLAIN, st.booleans()))


@st.composite
def attention_sites(draw: st.DrawFn) -> tuple[dict[str, Group], dict[str, tuple[int, str]]]:
    """Tied sites, whose query copies move by a site of their own; and the copies and the order of every dense one."""
    heads, copies, tie = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(["", "tie"]))
    sites = {name: Heads(heads, draw(DENSE), bool(tie), tie) for name in ("qk", "vo")}
    return sites | {"q": Heads(heads, Permutation(copies), bool(tie), tie)}, dict.fromkeys(sites, (copies, "q"))


@dataclass(frozen=True)
class Case:
    """A spec, tensors that fit it, and how many elements act."""

    spec: SymmetrySpec
    theta: dict[str, Array]
    n: int
    seed: int

    def elements(self, stream: int) -> Elements:
        return sample(self.spec, self.n, self.seed + stream)


def axis_length(spec: SymmetrySpec, axis: Axis) -> int:
    return spec.axis_length(axis) or 3


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sites, ordered = draw(st.one_of(st.just(({}, {})), attention_sites()))
    sites = {f"s{i}": draw(GROUPS) for i in range(draw(st.integers(1 - bool(sites), 3 - len(sites))))} | sites

    def leg() -> Leg:
        site = draw(st.sampled_from(list(sites)))
        dual, repeat = draw(st.booleans()), draw(st.integers(1, 3))
        if not sites[site].dense:
            powers = [-1.0, 0.0, 1.0, 2.0, 3.0] + ([] if sites[site].signed else [0.5])
            return Leg(site, dual, draw(st.sampled_from(powers)), repeat)
        copies, order = ordered[site] if site in ordered and draw(st.booleans()) else (draw(st.integers(1, 2)), "")
        return Leg(site, dual, 1.0, repeat, copies, order)

    def axis(alone: bool) -> Axis:
        """``alone``: the only axis of a tensor, which may be shifted."""

        def one() -> Leg:
            result = leg()
            shifted = alone and sites[result.site].shifted and draw(st.booleans())
            return Leg(result.site, affine=True) if shifted else result

        kind = draw(st.sampled_from(["none", "leg", "leg", "segments"]))
        if kind == "none":
            return None
        if kind == "leg":
            return one()
        parts: list[tuple[int, Leg | None]] = [(draw(st.integers(1, 3)), None)]
        for _ in range(draw(st.integers(1, 2))):
            part = one()
            parts.append((sites[part.site].size * part.repeat * part.copies, part))
        return Segments(tuple(draw(st.permutations(parts))))

    legs: dict[str, tuple[Axis, ...]] = {f"t{i}": tuple(axis(i == 1) for _ in range(i)) for i in range(4)}
    legs |= {f"w.{site}": (Leg(site), Leg(site, dual=True)) for site in sites}
    legs |= {f"b.{site}": (Leg(site, affine=True),) for site, group in sites.items() if group.shifted}
    spec = SymmetrySpec(sites, legs, state=["t0"])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    theta = {name: rng.normal(size=[axis_length(spec, a) for a in axes]) for name, axes in legs.items()}
    return Case(spec, theta, draw(st.integers(1, 3)), draw(st.integers(0, 2**63)))


# --- errors, on the scale of sums of absolute values


def magnitude(elements: Elements) -> Elements:
    """Absolute values: laws of these bound the sums of the products of the others."""
    return {
        name: SiteArrays(site.perm, *(None if part is None else np.abs(part) for part in site[1:]))
        for name, site in elements.items()
    }


def largest(array: Array) -> Array:
    """Over all axes but the first."""
    return np.abs(array).max(axis=tuple(range(1, array.ndim)), keepdims=True)


def bound(*factors: Elements) -> Elements:
    """Sums of absolute values of a product of elements."""
    result = magnitude(factors[0])
    for factor in factors[1:]:
        result = compose(result, magnitude(factor))
    return result


def assert_elements_equal(a: Elements, b: Elements, sums: Elements | None = None) -> None:
    """Equal, or up to the tolerance on the scale of sums of absolute values."""
    assert set(a) == set(b)
    for site in a:
        for name, part_a, part_b in zip(SiteArrays._fields, a[site], b[site], strict=True):
            assert (part_a is None) == (part_b is None)
            if part_a is None or part_b is None:
                continue
            assert part_a.dtype == part_b.dtype
            if sums is None or name in ("perm", "sign"):
                np.testing.assert_array_equal(part_a, part_b)
            else:
                part = getattr(sums[site], name)
                allowed = TOLERANCE * (part if name == "scale" else largest(part))
                assert np.all(np.abs(part_a - part_b) <= allowed), f"{site} {name}"


def assert_tensors_equal(spec: SymmetrySpec, a: dict[str, Array], b: dict[str, Array], sums: dict[str, Array]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape
        dense = any(spec.sites[leg.site].dense for axis in spec.legs[name] for leg in axis_legs(axis))
        allowed = TOLERANCE * (largest(sums[name]) if dense else sums[name])
        assert np.all(np.abs(a[name] - b[name]) <= allowed), name


def absolute(theta: dict[str, Array]) -> dict[str, Array]:
    return {name: np.abs(array) for name, array in theta.items()}


def repeated(theta: dict[str, Array], n: int) -> dict[str, Array]:
    return {name: np.repeat(array[None], n, axis=0) for name, array in theta.items()}


# --- the laws


@given(cases())
def test_identity_is_neutral(case: Case) -> None:
    """In every bit."""
    g, one = case.elements(0), identity(case.spec, case.n)
    assert_elements_equal(compose(one, g), g)
    assert_elements_equal(compose(g, one), g)
    moved = act(case.spec, one, case.theta)
    for name, array in repeated(case.theta, case.n).items():
        np.testing.assert_array_equal(moved[name], array)


@given(cases())
def test_inverse(case: Case) -> None:
    g, h, one = case.elements(0), case.elements(1), identity(case.spec, case.n)
    assert_elements_equal(compose(g, inverse(g)), one, bound(g, inverse(g)))
    assert_elements_equal(compose(inverse(g), g), one, bound(inverse(g), g))
    assert_elements_equal(inverse(inverse(g)), g, bound(g, inverse(g), g))
    sums = bound(inverse(h), inverse(g), g, h)
    assert_elements_equal(inverse(compose(g, h)), compose(inverse(h), inverse(g)), sums)


@given(cases())
def test_composition_is_associative(case: Case) -> None:
    g, h, k = (case.elements(stream) for stream in range(3))
    assert_elements_equal(compose(compose(g, h), k), compose(g, compose(h, k)), bound(g, h, k))


@given(cases())
def test_the_action_is_a_homomorphism(case: Case) -> None:
    """(g h).theta = g.(h.theta), for every leg, power, repetition, segment, copy, order and shift."""
    g, h = case.elements(0), case.elements(1)
    both = act(case.spec, compose(g, h), case.theta)
    sums = act(case.spec, magnitude(h), absolute(case.theta))
    sums = act(case.spec, magnitude(g), sums, stacked=True)
    assert_tensors_equal(case.spec, both, act(case.spec, g, act(case.spec, h, case.theta), stacked=True), sums)


@given(cases())
def test_the_inverse_undoes_the_action(case: Case) -> None:
    g = case.elements(0)
    undone = act(case.spec, inverse(g), act(case.spec, g, case.theta), stacked=True)
    sums = act(case.spec, magnitude(g), absolute(case.theta))
    sums = act(case.spec, magnitude(inverse(g)), sums, stacked=True)
    assert_tensors_equal(case.spec, undone, repeated(case.theta, case.n), sums)


@given(cases())
def test_the_dual_spec_leaves_the_pairing_invariant(case: Case) -> None:
    """<g^-T.xi, g.theta - g.0> = <xi, theta>: gradients transform with the dual of the spec, and feel no shift."""
    g = case.elements(0)
    rng = np.random.default_rng(0)
    xi = {name: rng.normal(size=array.shape) for name, array in case.theta.items()}
    zero = act(case.spec, g, {name: np.zeros_like(array) for name, array in case.theta.items()})
    moved, dual = act(case.spec, g, case.theta), act(case.spec.dual(), g, xi)
    sums = act(case.spec, magnitude(g), absolute(case.theta))
    dual_sums = act(case.spec.dual(), magnitude(g), absolute(xi))
    for name, theta in case.theta.items():
        for k in range(case.n):
            pairing = (dual[name][k] * (moved[name] - zero[name])[k]).sum()
            assert abs(pairing - (xi[name] * theta).sum()) <= TOLERANCE * (dual_sums[name][k] * sums[name][k]).sum()


@given(cases())
def test_tied_sites_move_their_heads_together(case: Case) -> None:
    """Also after composition and inversion."""
    g, h = case.elements(0), case.elements(1)
    for elements in (g, compose(g, h), inverse(g)):
        heads: dict[str, list[Any]] = {}
        for name, group in case.spec.sites.items():
            perm = elements[name].perm
            if group.tie and perm is not None:
                heads.setdefault(group.tie, []).append((perm[:, :: group.head_size] // group.head_size).tolist())
        assert all(moves == together[0] for together in heads.values() for moves in together)


# --- the same by dense matrices


def matrix_of(spec: SymmetrySpec, elements: Elements, leg: Leg, k: int) -> Array:
    """Element k of a leg that is not dual: the permutation, then what mixes or multiplies."""
    group, element = spec.sites[leg.site], elements[leg.site]
    perm = np.arange(group.size) if element.perm is None else element.perm[k]
    if group.dense:
        m = group.head_size
        assert element.matrix is not None
        blocks = np.repeat(element.matrix[k].reshape(group.heads, m, m), leg.copies, axis=0)
        order = perm[::m, None] // m * leg.copies + np.arange(leg.copies)
        if leg.order:
            move = elements[leg.order].perm
            order = np.arange(group.heads * leg.copies) if move is None else move[k]
        moved = np.kron(np.eye(group.heads * leg.copies)[order.reshape(-1)], np.eye(m))
        return np.asarray(scipy.linalg.block_diag(*blocks) @ moved)
    diagonal = np.ones(group.size)
    if element.sign is not None:
        diagonal = diagonal * element.sign[k] ** leg.power
    if element.scale is not None:
        diagonal = diagonal * element.scale[k] ** leg.power
    return np.asarray(np.diag(diagonal) @ np.eye(group.size)[perm])


def axis_matrix(spec: SymmetrySpec, elements: Elements, axis: Axis, length: int, k: int) -> tuple[Array, Array]:
    """What an axis does, as a matrix and a shift: MATH's g for a plain leg, g^-T for a dual one."""
    if isinstance(axis, Segments):
        parts = [axis_matrix(spec, elements, leg, size, k) for size, leg in axis]
        return scipy.linalg.block_diag(*(matrix for matrix, _ in parts)), np.concatenate([shift for _, shift in parts])
    shift = np.zeros(length)
    if axis is None:
        return np.eye(length), shift
    matrix = np.kron(matrix_of(spec, elements, axis, k), np.eye(axis.repeat))
    if axis.dual:
        matrix = np.linalg.inv(matrix).T
    if axis.affine:
        added = elements[axis.site].shift
        assert added is not None
        shift = added[k]
    return matrix, shift


@given(cases())
@settings(max_examples=50)
def test_the_action_is_the_tensor_product_of_matrices(case: Case) -> None:
    """T -> (M_1 x M_2 x ...) T + shift with dense matrices, g^-T by numpy.linalg.inv."""
    g = case.elements(0)
    moved, sums = act(case.spec, g, case.theta), act(case.spec, magnitude(g), absolute(case.theta))
    for name, axes in case.spec.legs.items():
        for k in range(case.n):
            expected = case.theta[name]
            for number, axis in enumerate(axes):
                matrix, shift = axis_matrix(case.spec, g, axis, expected.shape[number], k)
                expected = np.moveaxis(np.tensordot(matrix, expected, axes=(1, number)), 0, number)
                if shift.any():
                    expected = expected + shift
            # numpy.linalg.inv has a larger error than the inverse that comes with an element.
            np.testing.assert_allclose(moved[name][k], expected, rtol=1e-11, atol=1e-11 * np.abs(sums[name][k]).max())


@given(cases(), st.integers(0, 5), st.integers(1, 4))
def test_orbit_points_do_not_depend_on_the_chunk(case: Case, start: int, size: int) -> None:
    whole = orbit_points(case.theta, case.spec, case.seed, 0, start + size)
    part = orbit_points(case.theta, case.spec, case.seed, start, start + size)
    for name in whole:
        assert np.array_equal(whole[name][start:], part[name])


@given(cases())
def test_augment_is_the_orbit_of_each_network(case: Case) -> None:
    stacked = repeated(case.theta, case.n)
    moved = augment(stacked, case.spec, seed=case.seed, start=7)
    points = orbit_points(case.theta, case.spec, case.seed, 7, 7 + case.n)
    for name in points:
        assert np.array_equal(moved[name], points[name])


@given(cases())
def test_specs_survive_json_and_pickle(case: Case) -> None:
    for copy in (SymmetrySpec.from_json(case.spec.to_json()), pickle.loads(pickle.dumps(case.spec))):
        assert copy == case.spec
        assert hash(copy) == hash(case.spec)
        assert list(copy.sites) == list(case.spec.sites)
    if not any(leg.affine for axes in case.spec.legs.values() for axis in axes for leg in axis_legs(axis)):
        assert case.spec.dual().dual() == case.spec


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_narrow_tensors_keep_their_dtype_and_round_once(dtype: str) -> None:
    spec = SymmetrySpec({"h": Monomial(64, signs=True)}, {"w": ("h", None), "v": (None, "h*")})
    rng = np.random.default_rng(0)
    theta = {"w": rng.normal(size=(64, 9)).astype(dtype), "v": rng.normal(size=(7, 64)).astype(dtype)}
    g = sample(spec, 5, seed=0)
    moved = act(spec, g, theta)
    exact = act(spec, g, {name: array.astype(np.float64) for name, array in theta.items()})
    for name in theta:
        assert moved[name].dtype == dtype
        # float32 arithmetic: the factor and the product round once each; storage rounds half an ulp more.
        bound = (2 * np.finfo(np.float32).eps + np.finfo(dtype).eps / 2) * np.abs(exact[name])
        assert np.all(np.abs(moved[name].astype(np.float64) - exact[name]) <= bound)


def test_bfloat16_storage() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    spec = SymmetrySpec({"h": Monomial(64)}, {"w": ("h", None), "v": (None, "h*")})
    rng = np.random.default_rng(0)
    theta = {"w": rng.normal(size=(64, 9)).astype(ml_dtypes.bfloat16), "v": np.ones((2, 64), ml_dtypes.bfloat16)}
    g = sample(spec, 5, seed=0)
    moved = act(spec, g, theta)
    as_float32 = act(spec, g, {name: array.astype(np.float32) for name, array in theta.items()})
    for name in theta:
        assert moved[name].dtype == ml_dtypes.bfloat16
        assert np.array_equal(moved[name], as_float32[name].astype(ml_dtypes.bfloat16))


def test_untouched_tensors_of_any_dtype_are_repeated() -> None:
    spec = SymmetrySpec({"h": Signs(2)}, {"w": ("h", "h*"), "count": (), "flag": (None,)}, state=["count"])
    theta = {"w": np.eye(2), "count": np.int64(5), "flag": np.array([True, False])}
    moved = act(spec, sample(spec, 3), theta)
    assert moved["count"].tolist() == [5, 5, 5]
    assert moved["count"].dtype == np.int64
    assert moved["flag"].tolist() == [[True, False]] * 3


def test_a_network_without_sites_has_a_trivial_orbit() -> None:
    spec = SymmetrySpec({}, {"w": (None, None)})
    points = orbit_points({"w": np.eye(2)}, spec, 0, 3, 7)
    assert np.array_equal(points["w"], np.tile(np.eye(2), (4, 1, 1)))


@pytest.mark.parametrize(
    "group", [Monomial(3, signs=True), Orthogonal(3), RotaryCommutant(3, rotary=2), Affine(SpecialLinear(3))], ids=repr
)
def test_no_elements_give_no_networks(group: Group) -> None:
    spec = SymmetrySpec({"h": group}, {"w": ("h", "h*"), "b": (None,)})
    points = orbit_points({"w": np.eye(3), "b": np.ones(2)}, spec, 0, 5, 5)
    assert {name: array.shape for name, array in points.items()} == {"w": (0, 3, 3), "b": (0, 2)}


SPEC = SymmetrySpec({"h": Signs(2)}, {"w": ("h", "h*")})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: act(SPEC, {}, {"w": np.eye(2)}), ValueError, r"elements: .* missing \['h'\]"),
        (lambda: act(SPEC, sample(SPEC, 2), {"w": np.eye(3)}), ValueError, "tensor 'w' of shape .* axis 0"),
        (
            lambda: act(SPEC, sample(SPEC, 2), {"w": np.ones((3, 2, 2))}, stacked=True),
            ValueError,
            r"tensor 'w': expected the leading axis 2, one network per element, got shape \(3, 2, 2\)",
        ),
        (
            lambda: act(SPEC, sample(SPEC, 2), {"w": np.eye(2, dtype=int)}),
            TypeError,
            "tensor 'w': expected a floating-point array where a site acts, got int64",
        ),
        (lambda: compose(sample(SPEC, 2), {}), ValueError, r"b: expected the sites of a, \['h'\], got \[\]"),
        (lambda: augment({}, SPEC, seed=0), ValueError, "params: expected at least one stacked tensor"),
        (lambda: augment({"w": np.float64(1)}, SPEC, seed=0), ValueError, "tensor 'w': expected a leading axis"),
    ],
)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
