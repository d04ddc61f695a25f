# SPDX-License-Identifier: MIT
"""Specs of transformers as values: dense legs, ties of heads, copies of heads, shifts, folds."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from orbit_cases import attention, wrong

from nnsym_fast.groups import Affine, GeneralLinear, Heads, Monomial, Permutation, Signs, Translation
from nnsym_fast.symmetry import Fold, Leg, Reader, Segments, SymmetrySpec

ATTENTION = attention()
DENSE = {"h": Affine(GeneralLinear(4))}
W = {"w": ("h", "h*")}


def test_tied_sites_are_counted_once() -> None:
    """GL(4)^2 twice, keys' shifts, O(5); one permutation of the two heads, and of three queries in each."""
    assert ATTENTION.dimension == 2 * 16 + 8 + 2 * 16 + 10
    assert ATTENTION.log_order == pytest.approx(math.log(2 * 6**2 * 2**2 * 2**2 * 2))
    assert ATTENTION.head_sites == (0, 0, 0, 3)
    loose = SymmetrySpec(
        {"a": Heads(3, Signs(2)), "b": Heads(3, Signs(2)), "c": Heads(3, Signs(2), tie="x"), "d": Heads(3, Signs(1))},
        {"w": ("a", "a*", "b", "b*", "c", "c*", "d", "d*")},
    )
    assert loose.head_sites == (0, 1, 2, 3)
    assert loose.log_order == pytest.approx(math.log(6**4 * 2 ** (3 * 6 + 3)))


def test_two_ties_are_two_permutations() -> None:
    sites = {name: Heads(4, Permutation(2), tie=name[0]) for name in ("a0", "b0", "a1", "b1")}
    spec = SymmetrySpec(sites, {"w": tuple(leg for name in sites for leg in (name, name + "*"))})
    assert spec.head_sites == (0, 1, 0, 1)
    assert spec.log_order == pytest.approx(math.log(2**16 * 24**2))


def test_lengths_of_copies() -> None:
    lengths = {name: [ATTENTION.axis_length(axis) for axis in axes] for name, axes in ATTENTION.legs.items()}
    assert lengths == {"q": [24, 5], "k": [8, 5], "v": [8, 5], "o": [5, 24], "qkv.bias": [40], "norm": [None]}
    wide = Leg("vo", dual=True, repeat=5, copies=3)
    assert ATTENTION.axis_length(wide) == 8 * 3 * 5
    with pytest.raises(ValueError, match=r"axis 0: expected length 24 \(leg 'qk\*, 3 copies by q', site 'qk': Heads"):
        ATTENTION.validate({name: tuple(n or 1 for n in axes) for name, axes in lengths.items()} | {"q": (8, 5)})


def test_copies_in_json() -> None:
    data = json.loads(ATTENTION.to_json())
    query = {"site": "qk", "dual": True, "copies": 3, "order": "q"}
    assert data["legs"]["q"] == [query, "residual*"]
    assert data["legs"]["qkv.bias"] == [[[24, query], [8, "qk+"], [8, "vo"]]]
    assert data["folds"] == [
        {
            "gain": "norm",
            "readers": [
                {"weight": "q", "axis": 1, "bias": "qkv.bias"},
                {"weight": "k", "axis": 1, "bias": ""},
            ],
            "bias": "",
            "offset": 1.0,
        }
    ]
    assert data["absent"] == {"biases": "the norms have none"}
    assert not {"folds", "absent"} & set(json.loads(SymmetrySpec({}, {}).to_json())), (
        "as specs without them were always written"
    )


@pytest.mark.parametrize(
    "copy", [lambda s: SymmetrySpec.from_json(s.to_json(2)), lambda s: pickle.loads(pickle.dumps(s))]
)
def test_everything_survives_json_and_pickle(copy: Any) -> None:
    other = copy(ATTENTION)
    assert other == ATTENTION
    assert hash(other) == hash(ATTENTION)
    assert list(other.sites.items()) == list(ATTENTION.sites.items())
    assert other.legs == ATTENTION.legs
    assert other.folds == ATTENTION.folds
    assert other.absent == ATTENTION.absent


def test_folds_are_values() -> None:
    (fold,) = ATTENTION.folds
    assert Fold.from_json(json.loads(json.dumps(fold.to_json()))) == fold
    assert fold.tensors == ("norm", "q", "qkv.bias", "k")
    assert Fold("g", (Reader("w", 0),), bias="b").tensors == ("g", "b", "w")
    assert SymmetrySpec(ATTENTION.sites, ATTENTION.legs) != ATTENTION, "a spec without its folds promises more"
    assert hash(Fold("g", wrong([Reader("w", 0)]))) == hash(Fold("g", (Reader("w", 0),)))
    with pytest.raises(TypeError):
        wrong(ATTENTION.absent)["x"] = "y"


@pytest.mark.parametrize("folds", [[3], [{"gain": "x"}], [{"gain": "w", "readers": [3]}], 5])
def test_wrong_folds_in_json(folds: Any) -> None:
    data = {"version": 1, "sites": [], "legs": {"w": [None]}, "state": [], "folds": folds}
    with pytest.raises(ValueError, match="spec: malformed JSON"):
        SymmetrySpec.from_json(json.dumps(data))


def test_shifts_have_no_gradient() -> None:
    """b -> g b + c: gradients of b transform with g^-T, without c."""
    dual = ATTENTION.dual()
    keys = Leg("qk", dual=True)
    queries = Leg("qk", copies=3, order="q")
    assert dual.legs["qkv.bias"] == (Segments(((24, queries), (8, keys), (8, Leg("vo", dual=True)))),)
    assert dual.dual().legs["k"] == ATTENTION.legs["k"]
    assert dual.sites == ATTENTION.sites


def test_a_site_of_shifts_alone() -> None:
    """A translation acts on a bias alone: no tensor reads from it, and gradients do not feel it."""
    spec = SymmetrySpec({"k": Translation(4)}, {"k.bias": ("k+",), "k.weight": (None, None)})
    assert (spec.dimension, spec.log_order) == (4, 0.0)
    assert SymmetrySpec.from_json(spec.to_json()) == spec
    assert not any(leg.affine for leg in (spec.dual().legs["k.bias"][0],) if isinstance(leg, Leg))
    with pytest.raises(ValueError, match="site 'k': no tensor writes to it"):
        SymmetrySpec({"k": Translation(4)}, {"k.weight": (None, None)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: SymmetrySpec(DENSE, W | {"b": (Leg("h", power=2),)}),
            "tensor 'b', axis 0: power 2 of site 'h', whose group is dense; expected 1",
        ),
        (
            lambda: SymmetrySpec({"h": GeneralLinear(4)}, W | {"b": ("h+",)}),
            r"tensor 'b', axis 0: leg 'h\+' adds a shift, but GeneralLinear.* has none; expected Affine",
        ),
        (
            lambda: SymmetrySpec(DENSE, W | {"b": (None, "h+")}),
            r"tensor 'b', axis 1: leg 'h\+' adds a shift; expected a tensor with one axis, such as a bias, "
            "got one with 2",
        ),
        (
            lambda: SymmetrySpec({"h": Monomial(4)}, W | {"q": (Leg("h", copies=2),)}),
            "tensor 'q', axis 0: leg 'h, 2 copies' has copies of heads; expected a dense group, got Monomial",
        ),
        (
            lambda: SymmetrySpec(DENSE, W | {"q": (Leg("h", copies=2, order="k"),)}),
            "tensor 'q', axis 0: unknown site 'k' as order; the sites are",
        ),
        *(
            (
                lambda order=order: attention(order),
                r"tensor 'q', axis 0: order 'q' of leg 'qk\*, 3 copies by q'; expected permutations of 2 heads with 3 "
                "units each and the tie 'a'",
            )
            for order in (
                Heads(2, Permutation(2), tie="a"),
                Heads(2, Permutation(3), tie="b"),
                Heads(2, Permutation(3)),
                Heads(2, Monomial(3), tie="a"),
                Permutation(6),
            )
        ),
        (
            # Nothing says that the copies follow their heads.
            lambda: attention(Heads(2, Permutation(3)), tie=""),
            "tensor 'q', axis 0: order 'q' of leg .* tie",
        ),
        (
            lambda: SymmetrySpec(
                {"a": Heads(2, Permutation(3), tie="t"), "b": Heads(3, Permutation(2), tie="t")}, {"w": (None,)}
            ),
            r"sites 'a' and 'b' are tied \('t'\); expected equal numbers of heads, got 2 and 3",
        ),
    ],
)
def test_construction_names_tensor_axis_and_remedy(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
