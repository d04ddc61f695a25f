# SPDX-License-Identifier: MIT
"""Legs, segments and specs as values: normal forms, JSON, validation, and the words of every error."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsym_fast import groups, reference
from nnsym_fast.groups import Heads, Monomial, Permutation, Signs
from nnsym_fast.symmetry import Fold, Leg, Reader, Segments, SymmetrySpec

SITES = {"h0": Monomial(4), "h1": Permutation(3)}
LEGS: dict[str, Any] = {
    "0.weight": ("h0", None),
    "0.bias": ("h0",),
    "1.running_var": (Leg("h0", power=2),),
    "1.count": (),
    "2.weight": ("h1", Leg("h0", dual=True, repeat=5)),
    "3.weight": ([(3, "h1*"), (2, None)],),
}
SPEC = SymmetrySpec(SITES, LEGS, state=["1.running_var", "1.count"])
SHAPES: dict[str, Any] = {
    "0.weight": (4, 7),
    "0.bias": (4,),
    "1.running_var": (4,),
    "1.count": (),
    "2.weight": (3, 20),
    "3.weight": (5,),
}


def wrong(value: object) -> Any:
    """A value of the wrong type, hidden from the type checker."""
    return value


def test_axes_are_normalised() -> None:
    assert SPEC.legs["0.weight"] == (Leg("h0"), None)
    assert SPEC.legs["2.weight"] == (Leg("h1"), Leg("h0", dual=True, repeat=5))
    assert SPEC.legs["3.weight"] == (Segments(((3, Leg("h1", dual=True)), (2, None))),)
    assert SPEC.legs["1.count"] == ()
    for axes in ("h0*", Leg("h0", dual=True)):
        assert SymmetrySpec({"h0": Signs(2)}, {"w": ("h0", axes)}).legs["w"][1] == Leg("h0", dual=True)


@given(
    st.text(st.characters(exclude_characters="*"), min_size=1).filter(lambda site: not site.endswith("+")),
    st.booleans(),
    st.floats(-4, 4) | st.integers(-4, 4),
    st.integers(1, 9),
)
def test_legs_are_values(site: str, dual: bool, power: float, repeat: int) -> None:
    leg = Leg(site, dual, power, repeat)
    assert leg == Leg(site, dual, float(power), repeat)
    assert Leg.parse(site + "*" * dual) == Leg(site, dual)
    assert Leg.parse(site + "+") == Leg(site, affine=True)
    with pytest.raises(AttributeError):
        leg.site = "other"  # type: ignore[misc]


def test_short_forms_are_readable() -> None:
    assert str(Leg("h0", dual=True, power=2, repeat=9)) == "h0*^2 x 9"
    assert str(Leg("h0")) == "h0"
    assert str(Segments(((3, Leg("q")), (2, None)))) == "q[3] + -[2]"
    assert str(Leg("qk", affine=True)) == "qk+"
    assert str(Leg("qk", dual=True, copies=4)) == "qk*, 4 copies"
    assert str(Leg("qk", dual=True, copies=4, order="q")) == "qk*, 4 copies by q"
    assert str(Segments(((3, Leg("k", affine=True)), (2, None)))) == "k+[3] + -[2]"


def test_sums_over_the_sites() -> None:
    assert SPEC.dimension == 4
    assert SPEC.log_order == pytest.approx(math.log(24 * 6))
    assert SPEC.state == {"1.running_var", "1.count"}
    assert [name for name in SPEC.legs if not SPEC.touched(name)] == ["1.count"]
    assert SPEC.touched("3.weight"), "segments count"
    assert [SPEC.axis_length(axis) for name in SHAPES for axis in SPEC.legs[name]] == [4, None, 4, 4, 3, 20, 5]


def test_specs_compare_by_value_and_order_of_sites() -> None:
    assert SymmetrySpec(SITES, LEGS, state=("1.count", "1.running_var")) == SPEC
    assert SymmetrySpec(SITES, LEGS) != SPEC
    # The position of a site is its Philox index: another order draws other elements.
    assert SymmetrySpec(dict(reversed(SITES.items())), LEGS, state=SPEC.state) != SPEC
    assert len({SPEC, SymmetrySpec(SITES, LEGS, state=SPEC.state), SPEC.dual()}) == 2
    assert SPEC != "spec"


def test_specs_cannot_be_changed() -> None:
    sites, legs = dict(SITES), dict(LEGS)
    spec = SymmetrySpec(sites, legs, state=SPEC.state)
    sites.clear()
    legs.clear()
    assert spec == SPEC
    with pytest.raises(TypeError):
        wrong(spec.sites)["h0"] = Signs(4)
    with pytest.raises(TypeError):
        wrong(spec.legs)["0.bias"] = (None,)
    with pytest.raises(AttributeError):
        wrong(spec).dimension = 3


def test_dual_flips_every_leg() -> None:
    dual = SPEC.dual()
    assert dual.legs["0.weight"] == (Leg("h0", dual=True), None)
    assert dual.legs["2.weight"] == (Leg("h1", dual=True), Leg("h0", repeat=5))
    assert dual.legs["3.weight"] == (Segments(((3, Leg("h1")), (2, None))),)
    assert dual.sites == SPEC.sites
    assert dual.dual() == SPEC


def test_json_is_the_short_form_where_it_can_be() -> None:
    data = json.loads(SPEC.to_json())
    assert data["version"] == 1
    assert [site["name"] for site in data["sites"]] == ["h0", "h1"]
    assert data["legs"]["0.weight"] == ["h0", None]
    assert data["legs"]["2.weight"] == ["h1", {"site": "h0", "dual": True, "repeat": 5}]
    assert data["legs"]["3.weight"] == [[[3, "h1*"], [2, None]]]
    assert data["state"] == ["1.count", "1.running_var"]
    assert SymmetrySpec.from_json(SPEC.to_json(indent=2)) == SPEC


def test_validate_accepts_arrays_and_shapes() -> None:
    SPEC.validate(SHAPES)
    SPEC.validate({name: np.zeros(shape) for name, shape in SHAPES.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, r"tensor '0.bias': in the spec but missing from params"),
        ({"4.bias": (3, 2)}, r"tensor '4.bias': no legs in the spec; .* a tuple of 2 None"),
        ({"0.bias": (4, 1)}, r"tensor '0.bias': expected 1 axes, one for each leg, got 2 \(shape \(4, 1\)\)"),
        (
            {"0.weight": (5, 7)},
            r"tensor '0.weight' of shape \(5, 7\), axis 0: expected length 4 \(leg 'h0', site 'h0': Monomial",
        ),
        ({"2.weight": (3, 4)}, r"tensor '2.weight' of shape \(3, 4\), axis 1: expected length 20 \(leg 'h0\* x 5'"),
        ({"3.weight": (6,)}, r"tensor '3.weight' of shape \(6,\), axis 0: expected length 5 \(segments 'h1\*\[3\]"),
    ],
)
def test_validate_names_tensor_and_axis(change: dict[str, Any], message: str) -> None:
    shapes = {name: shape for name, shape in (SHAPES | change).items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        SPEC.validate(shapes)


def test_validate_needs_shapes() -> None:
    with pytest.raises(TypeError, match=r"tensor '0.bias': expected an array or a shape tuple, got list"):
        SPEC.validate(SHAPES | {"0.bias": [1.0, 2.0]})
    with pytest.raises(TypeError, match="params: expected a mapping tensor name -> array, got list"):
        SPEC.validate(wrong([]))


def test_touched_names_an_unknown_tensor() -> None:
    with pytest.raises(ValueError, match=r"tensor '9.weight': not in the spec, whose tensors are"):
        SPEC.touched("9.weight")


H = {"h": Monomial(4)}
SIGNED = {"h": Monomial(4, signs=True)}
W = {"w": ("h", "h*")}


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: SymmetrySpec(wrong([]), {}), TypeError, "sites: expected a mapping name -> group, got list"),
        (lambda: SymmetrySpec({}, wrong([])), TypeError, "legs: expected a mapping tensor name"),
        (lambda: SymmetrySpec(H, W, state="w"), TypeError, r"state: expected a collection .* write \['w'\]"),
        (lambda: SymmetrySpec({"h*": Signs(2)}, {}), ValueError, r"sites: expected non-empty names without '\*'"),
        (lambda: SymmetrySpec({"h": wrong(4)}, {}), TypeError, r"sites\['h'\]: expected a group .* got 4 of type int"),
        (lambda: SymmetrySpec(H, W | {"b": "h"}), TypeError, r"legs\['b'\]: .* got 'h'; write \('h',\)"),
        (lambda: SymmetrySpec(H, W | {"b": wrong(None)}), TypeError, r"legs\['b'\]: expected a tuple"),
        (lambda: SymmetrySpec(H, W | {"b": (wrong(3),)}), TypeError, "tensor 'b', axis 0: expected None, a string"),
        (lambda: SymmetrySpec(H, W | {"b": (None, "k")}), ValueError, "tensor 'b', axis 1: unknown site 'k'"),
        (
            lambda: SymmetrySpec(H, W | {"b": ("h**",)}),
            ValueError,
            "tensor 'b', axis 0: Leg.site: expected a non-empty",
        ),
        (lambda: SymmetrySpec(H, W, state=["b"]), ValueError, r"state: \['b'\] have no entry in legs"),
        (lambda: SymmetrySpec(H, {"w": ("h", None)}), ValueError, r"site 'h': no tensor reads from it; .*'h\*'"),
        (lambda: SymmetrySpec(H, {"w": (None, "h*")}), ValueError, "site 'h': no tensor writes to it"),
        (lambda: SymmetrySpec(H, {}), ValueError, "site 'h': no tensor writes to it"),
        (
            lambda: SymmetrySpec(SIGNED, W | {"b": (Leg("h", power=0.5),)}),
            ValueError,
            "tensor 'b', axis 0: power 0.5 of site 'h', whose group has signs; expected an integer power",
        ),
        (
            lambda: SymmetrySpec(H, W | {"b": ([(5, "h"), (2, None)],)}),
            ValueError,
            "tensor 'b', axis 0, segment 0: its leg 'h' covers 4 entries, but its length is 5",
        ),
        (lambda: SymmetrySpec(H, W | {"b": ([],)}), ValueError, "tensor 'b', axis 0: segments: expected at least one"),
        (
            lambda: SymmetrySpec(H, W | {"b": ([(0, None)],)}),
            ValueError,
            "axis 0: segment 0: length: expected an integer",
        ),
        (lambda: SymmetrySpec(H, W | {"b": (wrong([4, "h"]),)}), TypeError, "axis 0: segment 0: expected a pair"),
        (lambda: SymmetrySpec(H, W | {"b": (wrong([(4, [(4, "h")])]),)}), TypeError, "segments cannot be nested"),
        (lambda: Leg("h", dual=wrong(1)), TypeError, "Leg.dual: expected True or False, got 1"),
        (lambda: Leg("h", power=math.nan), ValueError, "Leg.power: expected a finite number, got nan"),
        (lambda: Leg("h", power=wrong("2")), ValueError, "Leg.power: expected a finite number, got '2'"),
        (lambda: Leg("h", repeat=0), ValueError, "Leg.repeat of site 'h': expected an integer >= 1, got 0"),
        (
            lambda: Leg("h", repeat=wrong(True)),
            ValueError,
            "Leg.repeat of site 'h': expected an integer >= 1, got True",
        ),
        (lambda: Leg.parse(wrong(3)), TypeError, "leg: expected a string such as 'h0'"),
        (lambda: Leg("h+"), ValueError, r"Leg.site: .* no '\+' at its end, got 'h\+'; Leg.parse reads .* 's\+'"),
        (lambda: Leg.parse("h+*"), ValueError, "Leg.site: expected a non-empty site name"),
        (lambda: Leg.parse("+"), ValueError, "Leg.site: expected a non-empty site name"),
        (lambda: Leg("h", copies=0), ValueError, "Leg.copies of site 'h': expected an integer >= 1, got 0"),
        (lambda: Leg("h", order=wrong(3)), TypeError, "Leg.order.*: expected a site name .*, got 3"),
        (lambda: Leg("h", affine=wrong(1)), TypeError, "Leg.affine: expected a site name and a bool, got '', 1"),
        *(
            (
                lambda change=change: Leg("h", affine=True, **change),
                ValueError,
                "Leg.affine of site 'h': expected a leg",
            )
            for change in ({"dual": True}, {"repeat": 2}, {"copies": 2})
        ),
        (lambda: SymmetrySpec({"h+": Signs(2)}, {"w": (None,)}), ValueError, r"sites: expected .* no '\+' at its end"),
        (
            lambda: SymmetrySpec(H, W, folds=[Fold("g", (Reader("w", 1), Reader("v", 1, "b")))]),
            ValueError,
            r"folds: the norm of gain 'g' names tensors without legs, \['g', 'v', 'b'\]",
        ),
        (lambda: SymmetrySpec(H, W, folds=wrong(["g"])), TypeError, "folds"),
        (lambda: SymmetrySpec(H, W, absent=wrong(["rotary"])), TypeError, "absent"),
    ],
)
def test_construction_names_tensor_axis_and_remedy(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "spec version: expected 1, got 2"),
        ({"legs": None}, "spec: malformed JSON"),
        ({"legs": {"w": 3}}, "spec: malformed JSON"),
        ({"sites": [{"type": "Signs", "n": 2}]}, "spec: malformed JSON, missing or misplaced entry 'name'"),
        ({"sites": [{"name": "h", "type": "Sign", "n": 2}]}, "group type: expected one of"),
        ({"sites": [{"name": "h", "type": "Signs", "n": 2}] * 2}, "spec sites: names appear twice"),
        ({"legs": {"w": [{"site": "h", "color": 1}]}}, "spec leg: expected the keys site, dual, power, repeat"),
        ({"legs": {"w": ["h", "k*"]}}, "tensor 'w', axis 1: unknown site 'k'"),
    ],
)
def test_wrong_json_is_explained(change: dict[str, Any], message: str) -> None:
    good = {"version": 1, "sites": [{"name": "h", "type": "Signs", "n": 2}], "legs": {"w": ["h", "h*"]}, "state": []}
    assert SymmetrySpec.from_json(json.dumps(good)) == SymmetrySpec({"h": Signs(2)}, {"w": ("h", "h*")})
    with pytest.raises(ValueError, match=message):
        SymmetrySpec.from_json(json.dumps(good | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"sites": []}'])
def test_other_text_is_no_spec(text: str) -> None:
    with pytest.raises(ValueError, match="spec: expected"):
        SymmetrySpec.from_json(text)


def test_the_methods_are_the_reference_per_site() -> None:
    """The position of a site is its Philox index: h1 draws as site 1."""
    for elements, expected in (
        (SPEC.sample(5, seed=3, start=2), reference.sample(SPEC, 5, 3, 2)),
        (SPEC.identity(5), reference.identity(SPEC, 5)),
    ):
        assert list(elements) == list(expected) == ["h0", "h1"]
        for site, part_of in expected.items():
            np.testing.assert_array_equal(elements[site].perm, part_of.perm)
            assert elements[site].sign is part_of.sign is None
            ours = elements[site].scale
            assert (ours is None) == (part_of.scale is None)
            if ours is not None and part_of.scale is not None:
                np.testing.assert_allclose(ours, part_of.scale, rtol=1e-14)


def test_heads_in_a_spec() -> None:
    spec = SymmetrySpec({"vo": Heads(2, Monomial(3))}, {"v": ("vo", None), "o": (None, "vo*")})
    spec.validate({"v": (6, 8), "o": (8, 6)})
    assert spec.dimension == 6
    assert SymmetrySpec.from_json(spec.to_json()).sites["vo"] == groups.Heads(2, groups.Monomial(3))
