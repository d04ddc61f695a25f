# SPDX-License-Identifier: MIT
"""Units that an orbit does not tell apart are named; exchanging them may still change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from canonical_cases import CASES, Params, block, difference, mlp, points

from nnsym_fast.gauge_fixing import Tie, canonicalize
from nnsym_fast.groups import GeneralLinear, Group, Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import SymmetrySpec

SAME = 1e-8


def ties_of(spec: SymmetrySpec, params: Params, unique: bool = True) -> list[Tie]:
    """The ties of a network; every point of its orbit has as many, and ``unique``: the same representative."""
    result = canonicalize(params, spec)
    for point in points(spec, params, 20):
        again = canonicalize(point, spec)
        assert [(tie.site, len(tie.units), tie.reason) for tie in again.ties] == [
            (tie.site, len(tie.units), tie.reason) for tie in result.ties
        ]
        assert (difference(again.params, result.params) < SAME) == unique
    return list(result.ties)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_two_equal_units(activation: str) -> None:
    spec, params = mlp([5, 7, 6, 3], activation)
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        value = np.moveaxis(params[name], axis, 0)
        value[2] = value[4]
    (tie,) = ties_of(spec, params)
    assert (tie.site, tie.units, tie.heads) == ("h0", (2, 4), False)
    # The report speaks of the network that came in.
    for index, point in enumerate(points(spec, params, 3)):
        perm = reference.sample(spec, 3, 1)["h0"].perm[index]  # type: ignore[index]
        expected = tuple(np.flatnonzero(np.isin(perm, (2, 4))).tolist())
        assert canonicalize(point, spec).ties[0].units == expected


def test_units_that_are_equal_but_for_a_sign_of_tanh() -> None:
    spec, params = mlp([5, 7, 6, 3], "tanh")
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        value = np.moveaxis(params[name], axis, 0)
        value[2] = -value[4]
    (tie,) = ties_of(spec, params)
    assert tie.units == (2, 4)


def test_units_of_equal_norm_are_no_tie() -> None:
    """What they are joined to tells them apart."""
    spec, params = mlp([5, 7, 6, 3], "gelu")
    params["0.weight"][2] = np.roll(params["0.weight"][4], 1)
    params["0.bias"][2] = params["0.bias"][4]
    params["2.weight"][:, 2] = -params["2.weight"][:, 4]
    assert ties_of(spec, params) == []


def test_ties_that_belong_together_are_broken_together() -> None:
    """Exchanging two units in one layer and two in the next: neither alone changes nothing."""
    spec, params = mlp([5, 4, 4, 3], "gelu")
    for name in ("0.weight", "0.bias", "2.bias"):
        params[name][1] = params[name][0]
    inner = params["2.weight"]
    inner[1, :2] = inner[0, 1::-1]
    inner[1, 2:] = inner[0, 2:]
    inner[2:, 1] = inner[2:, 0]
    params["4.weight"][:, 1] = params["4.weight"][:, 0]
    ties = ties_of(spec, params)
    assert [(tie.site, tie.units) for tie in ties] == [("h0", (0, 1))]


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_zero_units(activation: str) -> None:
    spec, params = mlp([5, 7, 6, 3], activation)
    params["0.weight"][[1, 3]] = 0.0
    params["0.bias"][[1, 3]] = 0.0
    params["2.weight"][:, [1, 3]] = 0.0
    assert ties_of(spec, params) == [Tie("h0", (1, 3), "the units are zero")]


def test_units_that_are_zero_on_one_side() -> None:
    """No scale of theirs is the best; the sum of their squares is set to 1, and the others do not notice."""
    spec, params = mlp([5, 7, 6, 3], "relu")
    params["4.weight"][:, 1] = 0.0
    params["2.weight"][[0, 2, 3, 4, 5], 2] = 0.0
    ties = ties_of(spec, params)
    assert [(tie.site, tie.units) for tie in ties] == [("h0", (2,)), ("h1", (1,))]
    assert "zero on one side" in ties[0].reason
    gelu, _ = mlp([5, 7, 6, 3], "gelu")
    assert ties_of(gelu, params) == []


@pytest.mark.parametrize("name", ["linear", "special", "rotary", "grouped", "llama", "signed"])
def test_two_equal_heads(name: str) -> None:
    spec, params = CASES[name]()
    for tensor, axis in (("k.weight", 0), ("k.bias", 0), ("q.weight", 0), ("q.bias", 0), ("v.weight", 0), ("v.bias", 0),
                         ("o.weight", 1)):  # fmt: skip
        value = np.moveaxis(params[tensor], axis, 0)
        length = len(value) // spec.sites["qk"].heads
        value[length : 2 * length] = value[:length]
    (tie,) = ties_of(spec, params)
    assert (tie.site, tie.units, tie.heads) == ("qk", (0, 1), True)


@pytest.mark.parametrize("group", [GeneralLinear(4), SpecialLinear(4), Orthogonal(4)])
def test_equal_singular_values(group: Group) -> None:
    """Keys and queries whose product is a multiple of a partial isometry: any rotation of the head gives the same."""
    spec, params = block(group, GeneralLinear(3), None)
    rng = np.random.default_rng(3)
    for name in ("k", "q"):
        basis = np.linalg.qr(rng.standard_normal((6, 4)))[0].T
        params[f"{name}.weight"][:4] = 2.0 * basis
        params[f"{name}.bias"][:4] = 0.0
    ties = ties_of(spec, params, unique=False)
    assert [(tie.site, tie.units) for tie in ties] == [("qk", (0, 1, 2, 3))]
    assert "equal singular values" in ties[0].reason


def test_a_rotary_pair_without_a_phase() -> None:
    spec, params = block(RotaryCommutant(4), GeneralLinear(4), None)
    pair = [0, 2]
    for name in ("k", "q"):
        # Two orthogonal rows of one length: every phase gives another pair of this kind.
        params[f"{name}.weight"][pair] = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 2)))[0].T
        params[f"{name}.bias"][pair] = 0.0
    (tie,) = ties_of(spec, params, unique=False)
    assert (tie.site, tie.units) == ("qk", (0, 2))
    assert "phase" in tie.reason


def test_a_head_that_is_short_of_rank() -> None:
    spec, params = block(GeneralLinear(4), GeneralLinear(3), None)
    params["k.weight"][1] = params["k.bias"][1] = 0.0
    (tie,) = ties_of(spec, params, unique=False)
    assert (tie.site, tie.units, tie.heads) == ("qk", (0,), True)
    assert "short of rank" in tie.reason


def test_directions_that_nothing_is_joined_to() -> None:
    spec, params = block(GeneralLinear(4), GeneralLinear(3), Orthogonal(6))
    for name in ("v.weight", "v.bias"):
        params[name][:3] = 0.0
    params["o.weight"][:, :3] = 0.0
    (tie,) = ties_of(spec, params)
    assert (tie.site, tie.units) == ("vo", (0, 1, 2))
    assert "nothing is joined" in tie.reason


def test_a_sign_that_nothing_tells() -> None:
    """Signs of a rotation of determinant 1 in a loop: no bias and no input anchors them."""
    spec = SymmetrySpec({"s": SpecialLinear(3)}, {"first": ("s", "s*"), "second": ("s", "s*")})
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal((3, 3)) for name in ("first", "second")}
    ties = canonicalize(params, spec).ties
    assert {tie.reason for tie in ties} == {"no sum of the unit's weights tells its sign"}
    assert {unit for tie in ties for unit in tie.units} <= {0, 1, 2}


def test_the_tolerance_says_what_is_equal() -> None:
    spec, params = mlp([5, 7, 6, 3], "gelu")
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        value = np.moveaxis(params[name], axis, 0)
        value[2] = value[4]
    params["0.weight"][2] += 1e-6
    assert canonicalize(params, spec).ties == ()
    (tie,) = canonicalize(params, spec, tolerance=1e-4).ties
    assert tie.units == (2, 4)
    single = {name: value.astype("float32") for name, value in params.items()}
    assert [tie.units for tie in canonicalize(single, spec).ties] == [(2, 4)]
