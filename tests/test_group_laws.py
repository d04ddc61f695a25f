# SPDX-License-Identifier: MIT
"""The group laws and the action of the NumPy reference, on random groups, legs and tensors.

Notation: g, h, k are batches of n random elements of a random spec; theta are random tensors. One tolerance serves the
file: every entry is a product of at most ten float64 factors, so 1e-12 relative leaves a factor of a hundred over
rounding.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsym_fast.groups import Group, Heads, Monomial, Permutation, Scaling, Signs
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

PLAIN: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, st.integers(1, 5)),
    st.builds(Scaling, st.integers(1, 5)),
    st.builds(Signs, st.integers(1, 5)),
    st.builds(Monomial, st.integers(1, 5), st.booleans(), st.booleans()),
)
GROUPS: st.SearchStrategy[Group] = st.one_of(PLAIN, st.builds(Heads, st.integers(1, 3), PLAIN, st.booleans()))


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
    sites = {f"s{i}": draw(GROUPS) for i in range(draw(st.integers(1, 3)))}

    def leg() -> Leg:
        site = draw(st.sampled_from(list(sites)))
        powers = [-1.0, 0.0, 1.0, 2.0, 3.0] + ([] if sites[site].signed else [0.5])
        return Leg(site, draw(st.booleans()), draw(st.sampled_from(powers)), draw(st.integers(1, 3)))

    def axis() -> Axis:
        kind = draw(st.sampled_from(["none", "leg", "leg", "segments"]))
        if kind == "none":
            return None
        if kind == "leg":
            return leg()
        parts: list[tuple[int, Leg | None]] = [(draw(st.integers(1, 3)), None)]
        for _ in range(draw(st.integers(1, 2))):
            part = leg()
            parts.append((sites[part.site].size * part.repeat, part))
        return Segments(tuple(draw(st.permutations(parts))))

    legs: dict[str, tuple[Axis, ...]] = {f"t{i}": tuple(axis() for _ in range(i)) for i in range(4)}
    legs |= {f"w.{site}": (Leg(site), Leg(site, dual=True)) for site in sites}
    spec = SymmetrySpec(sites, legs, state=["t0"])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    theta = {name: rng.normal(size=[axis_length(spec, a) for a in axes]) for name, axes in legs.items()}
    return Case(spec, theta, draw(st.integers(1, 3)), draw(st.integers(0, 2**63)))


def assert_elements_equal(a: Elements, b: Elements) -> None:
    for site in a:
        for part_a, part_b in zip(a[site], b[site], strict=True):
            assert (part_a is None) == (part_b is None)
            if part_a is not None and part_b is not None:
                assert part_a.dtype == part_b.dtype
                np.testing.assert_allclose(part_a, part_b, rtol=TOLERANCE)


def assert_tensors_equal(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_allclose(a[name], b[name], rtol=TOLERANCE)


def repeated(theta: dict[str, Array], n: int) -> dict[str, Array]:
    return {name: np.repeat(array[None], n, axis=0) for name, array in theta.items()}


@given(cases())
def test_identity_is_neutral(case: Case) -> None:
    g, one = case.elements(0), identity(case.spec, case.n)
    assert_elements_equal(compose(one, g), g)
    assert_elements_equal(compose(g, one), g)
    assert_tensors_equal(act(case.spec, one, case.theta), repeated(case.theta, case.n))


@given(cases())
def test_inverse(case: Case) -> None:
    g, h, one = case.elements(0), case.elements(1), identity(case.spec, case.n)
    assert_elements_equal(compose(g, inverse(g)), one)
    assert_elements_equal(compose(inverse(g), g), one)
    assert_elements_equal(inverse(inverse(g)), g)
    assert_elements_equal(inverse(compose(g, h)), compose(inverse(h), inverse(g)))


@given(cases())
def test_composition_is_associative(case: Case) -> None:
    g, h, k = (case.elements(stream) for stream in range(3))
    assert_elements_equal(compose(compose(g, h), k), compose(g, compose(h, k)))


@given(cases())
def test_the_action_is_a_homomorphism(case: Case) -> None:
    """(g h).theta = g.(h.theta), for every leg, power, repetition and segment."""
    g, h = case.elements(0), case.elements(1)
    both = act(case.spec, compose(g, h), case.theta)
    assert_tensors_equal(both, act(case.spec, g, act(case.spec, h, case.theta), stacked=True))


@given(cases())
def test_the_inverse_undoes_the_action(case: Case) -> None:
    g = case.elements(0)
    moved = act(case.spec, g, case.theta)
    assert_tensors_equal(act(case.spec, inverse(g), moved, stacked=True), repeated(case.theta, case.n))


@given(cases())
def test_the_dual_spec_leaves_the_pairing_invariant(case: Case) -> None:
    """<g^-T.xi, g.theta> = <xi, theta>: gradients transform with the dual of the spec."""
    g = case.elements(0)
    rng = np.random.default_rng(0)
    xi = {name: rng.normal(size=array.shape) for name, array in case.theta.items()}
    moved, dual = act(case.spec, g, case.theta), act(case.spec.dual(), g, xi)
    for name, theta in case.theta.items():
        for k in range(case.n):
            terms = dual[name][k] * moved[name][k]
            scale = max(np.abs(terms).sum(), 1e-300)
            assert abs(terms.sum() - (xi[name] * theta).sum()) <= TOLERANCE * scale


def dense(element: SiteArrays, size: int, k: int) -> tuple[Array, Array]:
    """Element k as two matrices, of its permutation and of its diagonal: g = diagonal @ permutation."""
    perm = np.arange(size) if element.perm is None else element.perm[k]
    diagonal = np.ones(size)
    if element.sign is not None:
        diagonal = diagonal * element.sign[k]
    if element.scale is not None:
        diagonal = diagonal * element.scale[k]
    return np.eye(size)[perm], np.diag(diagonal)


def axis_matrix(spec: SymmetrySpec, elements: Elements, axis: Axis, length: int, k: int) -> Array:
    """What an axis does, as a matrix: MATH's g for a plain leg, g^-T for a dual one."""
    if axis is None:
        return np.eye(length)
    if isinstance(axis, Segments):
        result = np.zeros((length, length))
        first = 0
        for size, leg in axis:
            result[first : first + size, first : first + size] = axis_matrix(spec, elements, leg, size, k)
            first += size
        return result
    permutation, diagonal = dense(elements[axis.site], spec.sites[axis.site].size, k)
    entries = np.diag(diagonal)
    powered = np.diag(np.sign(entries) ** axis.power * np.abs(entries) ** axis.power)
    matrix = powered @ permutation
    if axis.dual:
        matrix = np.linalg.inv(matrix).T
    return np.kron(matrix, np.eye(axis.repeat))


@given(cases())
@settings(max_examples=50)
def test_the_action_is_the_tensor_product_of_matrices(case: Case) -> None:
    """T -> (M_1 x M_2 x ...) T with dense matrices, g^-T by numpy.linalg.inv."""
    g = case.elements(0)
    moved = act(case.spec, g, case.theta)
    for name, axes in case.spec.legs.items():
        for k in range(case.n):
            expected = case.theta[name]
            for number, axis in enumerate(axes):
                matrix = axis_matrix(case.spec, g, axis, expected.shape[number], k)
                expected = np.moveaxis(np.tensordot(matrix, expected, axes=(1, number)), 0, number)
            np.testing.assert_allclose(moved[name][k], expected, rtol=1e-11, atol=1e-13)


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


def test_no_elements_give_no_networks() -> None:
    spec = SymmetrySpec({"h": Monomial(3, signs=True)}, {"w": ("h", "h*"), "b": (None,)})
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
