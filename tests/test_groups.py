# SPDX-License-Identifier: MIT
"""The groups as data, and the measure of their elements."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsym_fast import reference
from nnsym_fast.groups import (
    DRAW_PART,
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
    from_json,
)

STDS = st.floats(0.01, 2.0)
UNITS = st.integers(1, 9)
PLAIN: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, UNITS),
    st.builds(Scaling, UNITS, STDS),
    st.builds(Signs, UNITS),
    st.builds(Monomial, UNITS, st.booleans(), st.booleans(), STDS),
)


@st.composite
def rotaries(draw: st.DrawFn) -> RotaryCommutant:
    pairs, free = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    layout = draw(st.sampled_from(["half", "interleaved"]))
    return RotaryCommutant(2 * pairs + free, layout, 2 * pairs, draw(STDS))


LINEAR: st.SearchStrategy[Group] = st.one_of(
    st.builds(Orthogonal, UNITS, st.booleans()),
    st.builds(SpecialLinear, UNITS, STDS),
    st.builds(GeneralLinear, UNITS, STDS),
    rotaries(),
)
DENSE: st.SearchStrategy[Group] = st.one_of(
    LINEAR, st.builds(Translation, UNITS, STDS), st.builds(Affine, LINEAR, STDS)
)


def with_heads(plain: st.SearchStrategy[Group]) -> st.SearchStrategy[Group]:
    tied = st.builds(Heads, st.integers(1, 4), plain, st.just(True), st.sampled_from(["", "tie"]))
    return st.one_of(plain, tied, st.builds(Heads, st.integers(1, 4), plain, st.just(False)))


MONOMIAL_GROUPS = with_heads(PLAIN)
GROUPS = with_heads(st.one_of(PLAIN, DENSE))


@pytest.mark.parametrize(
    ("group", "parts", "dimension", "order"),
    [
        (Permutation(4), ("permutation",), 0, 24),
        (Scaling(4), ("scale",), 4, 1),
        (Signs(4), ("sign",), 0, 16),
        (Monomial(4), ("permutation", "scale"), 4, 24),
        (Monomial(4, signs=True), ("permutation", "sign", "scale"), 4, 24 * 16),
        (Monomial(4, signs=True, scales=False), ("permutation", "sign"), 0, 24 * 16),
        (Heads(3, Permutation(2)), ("permutation",), 0, 2**3 * 6),
        (Heads(3, Permutation(2), permute=False), ("permutation",), 0, 2**3),
        (Heads(3, Scaling(2), permute=False), ("scale",), 6, 1),
        (Heads(3, Signs(2)), ("permutation", "sign"), 0, 2**6 * 6),
        (Heads(2, Monomial(3, signs=True)), ("permutation", "sign", "scale"), 6, (6 * 8) ** 2 * 2),
        # Dense groups: the order is the number of connected components.
        (Orthogonal(1), ("matrix",), 0, 2),
        (Orthogonal(4), ("matrix",), 6, 2),
        (Orthogonal(1, keeps_mean=True), ("matrix",), 0, 2),
        (Orthogonal(2, keeps_mean=True), ("matrix",), 0, 4),
        (Orthogonal(4, keeps_mean=True), ("matrix",), 3, 4),
        (SpecialLinear(1), ("matrix",), 0, 1),
        (SpecialLinear(4), ("matrix",), 15, 1),
        (GeneralLinear(1), ("matrix",), 1, 2),
        (GeneralLinear(4), ("matrix",), 16, 2),
        (RotaryCommutant(2), ("matrix",), 2, 1),
        (RotaryCommutant(8), ("matrix",), 8, 1),
        (RotaryCommutant(8, "interleaved", rotary=4), ("matrix",), 4 + 16, 2),
        (RotaryCommutant(7, rotary=6), ("matrix",), 6 + 1, 2),
        (Translation(5), ("shift",), 5, 1),
        (Affine(GeneralLinear(3)), ("matrix", "shift"), 12, 2),
        (Affine(Orthogonal(3, keeps_mean=True)), ("matrix", "shift"), 4, 4),
        (Heads(3, GeneralLinear(2)), ("permutation", "matrix"), 12, 6 * 2**3),
        (Heads(3, Orthogonal(2), permute=False), ("matrix",), 3, 2**3),
        (Heads(3, SpecialLinear(2), tie="a"), ("permutation", "matrix"), 9, 6),
        (Heads(2, Affine(RotaryCommutant(4, rotary=2))), ("permutation", "matrix", "shift"), 2 * 10, 2 * 2**2),
        (Heads(4, Translation(3), permute=False), ("shift",), 12, 1),
    ],
)
def test_parts_dimension_and_order(group: Group, parts: tuple[str, ...], dimension: int, order: int) -> None:
    assert group.parts == parts
    assert group.dimension == dimension
    assert math.exp(group.log_order) == pytest.approx(order, rel=1e-12)


@given(GROUPS)
def test_flags_agree_with_parts(group: Group) -> None:
    assert group.size == group.heads * group.head_size
    held = (group.permutes, group.signed, group.scaled, group.dense, group.shifted)
    names = ("permutation", "sign", "scale", "matrix", "shift")
    assert group.parts == tuple(name for name, present in zip(names, held, strict=True) if present)
    assert set(group.parts) <= set(DRAW_PART)
    assert group.permutes == (group.permute_heads or group.permute_units)
    assert (group.scale_std > 0) >= group.scaled
    assert (group.shift_std > 0) == group.shifted
    unit = group.unit_group
    assert (unit.size, unit.heads) == (group.head_size, 1)
    assert group.dimension == group.heads * unit.dimension
    heads = math.lgamma(group.heads + 1) if group.permute_heads else 0
    assert group.log_order == pytest.approx(group.heads * unit.log_order + heads)
    assert group.dimension == group.size * (group.scaled + group.shifted) + group.heads * group.matrix_dimension
    if not group.dense:
        assert (group.matrix_dimension, group.matrix_components) == (0, 1)


@given(GROUPS)
def test_json_round_trip(group: Group) -> None:
    data = json.loads(json.dumps(group.to_json()))
    assert data["type"] == type(group).__name__
    assert from_json(data) == group


@given(GROUPS)
def test_groups_are_values(group: Group) -> None:
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group
    assert hash(copy) == hash(group)
    assert copy != Permutation(10)
    with pytest.raises(AttributeError):
        copy.n = 3


@given(LINEAR, STDS)
def test_affine_adds_the_translations(group: Group, std: float) -> None:
    affine, shifts = Affine(group, std), Translation(group.size, std)
    assert affine.parts == (*group.parts, *shifts.parts)
    assert affine.dimension == group.dimension + shifts.dimension
    assert affine.log_order == group.log_order
    assert (affine.scale_std, affine.shift_std) == (group.scale_std, std)


@given(rotaries())
def test_rotary_pairs(group: RotaryCommutant) -> None:
    """They cover the rotated units, the first ones; the last ones are free."""
    units = [unit for pair in group.pairs for unit in pair]
    assert group.rotary is not None
    assert sorted(units) == list(range(group.rotary))
    assert group.free == group.size - group.rotary
    offset = group.rotary // 2 if group.layout == "half" else 1
    assert {j - i for i, j in group.pairs} == {offset}


def test_all_units_are_rotary_by_default() -> None:
    assert RotaryCommutant(6) == RotaryCommutant(6, rotary=6)
    assert RotaryCommutant(6).pairs == ((0, 3), (1, 4), (2, 5))
    assert RotaryCommutant(6, "interleaved").pairs == ((0, 1), (2, 3), (4, 5))
    assert from_json({"type": "RotaryCommutant", "n": 6}) == RotaryCommutant(6)


def test_json_names_every_field() -> None:
    group = Heads(2, Affine(RotaryCommutant(6, rotary=4), shift_std=0.25), tie="h0")
    assert group.to_json() == {
        "type": "Heads",
        "heads": 2,
        "group": {
            "type": "Affine",
            "group": {"type": "RotaryCommutant", "n": 6, "layout": "half", "rotary": 4, "scale_std": 0.5},
            "shift_std": 0.25,
        },
        "permute": True,
        "tie": "h0",
    }
    assert from_json({"type": "Orthogonal", "n": 3}) == Orthogonal(3), "defaults may be left out"


@pytest.mark.parametrize(
    "group",
    [
        Permutation(4),
        Signs(5),
        Monomial(3, signs=True),
        Heads(2, Permutation(3)),
        Heads(3, Permutation(2), permute=False),
        Heads(3, Signs(1)),
    ],
)
def test_sampling_is_uniform_on_the_discrete_part(group: Group) -> None:
    """Every element of the discrete part occurs, and its counts pass a chi-square test."""
    order = round(math.exp(group.log_order))
    n = 200 * order
    perm, sign, *_ = reference.sample_site(group, n, seed=1)
    discrete = np.hstack([part for part in (perm, sign) if part is not None])
    _, counts = np.unique(discrete, axis=0, return_counts=True)
    assert len(counts) == order
    chi_square = ((counts - n / order) ** 2 / (n / order)).sum()
    # Mean order - 1, variance 2 (order - 1): five standard deviations, at one fixed seed.
    assert abs(chi_square - (order - 1)) < 5 * math.sqrt(2 * (order - 1))


@pytest.mark.parametrize("group", [Scaling(6, 0.5), Monomial(5, scale_std=1.25), Heads(2, Scaling(3, 0.1))])
def test_log_scales_are_independent_normals(group: Group) -> None:
    n = 20_000
    scale = reference.sample_site(group, n, seed=2).scale
    assert scale is not None
    z = np.log(scale) / group.scale_std
    # Five standard errors of the mean, the variance, the correlations and the fourth moment.
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(n)
    assert np.abs(z.var(axis=0) - 1).max() < 5 * math.sqrt(2 / n)
    assert np.abs(np.corrcoef(z.T) - np.eye(group.size)).max() < 5 * math.sqrt(2 / n)
    assert np.abs((z**4).mean(axis=0) - 3).max() < 5 * math.sqrt(96 / n)


@given(GROUPS, st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**63))
def test_elements_have_the_parts_of_the_group(group: Group, n: int, seed: int, start: int) -> None:
    m = group.head_size
    matrices = (n, group.heads, m, m) if isinstance(group, Heads) else (n, m, m)
    for element in (reference.sample_site(group, n, seed, start), reference.identity_site(group, n)):
        present = {name: part for name, part in element._asdict().items() if part is not None}
        names = {"permutation": ["perm"], "matrix": ["matrix", "inverse"]}
        assert list(present) == [name for part in group.parts for name in names.get(part, [part])]
        for name, part in present.items():
            assert part.shape == (matrices if name in ("matrix", "inverse") else (n, group.size))
            assert part.dtype == {"perm": np.int32, "sign": np.int8}.get(name, np.float64)
            assert np.all(np.isfinite(part))
        if element.perm is not None:
            assert np.array_equal(np.sort(element.perm, axis=1), np.tile(np.arange(group.size), (n, 1)))
        if element.sign is not None:
            assert set(np.unique(element.sign)) <= {-1, 1}
        if element.scale is not None:
            assert np.all(element.scale > 0)


@given(MONOMIAL_GROUPS, st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**63))
def test_the_methods_are_the_reference_for_site_zero(group: Group, n: int, seed: int, start: int) -> None:
    """Of monomial groups; kernels of dense ones have a tolerance of their own."""
    for element, expected in (
        (group.sample(n, seed, start), reference.sample_site(group, n, seed, start)),
        (group.identity(n), reference.identity_site(group, n)),
    ):
        for name, part_expected in expected._asdict().items():
            part = getattr(element, name)
            assert (part is None) == (part_expected is None)
            if part_expected is not None:
                assert part.dtype == part_expected.dtype
                # Permutations and signs are exact; exp, log and cos of scales are within a few ulp.
                np.testing.assert_allclose(part, part_expected, rtol=1e-14 if part.dtype == np.float64 else 0)


@given(st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_heads_move_as_wholes(heads: int, size: int, permute: bool) -> None:
    perm = reference.sample_site(Heads(heads, Permutation(size), permute), 20, seed=3).perm
    assert perm is not None
    source = perm.reshape(20, heads, size) // size
    assert np.all(source == source[:, :, :1]), "units of one head came from several heads"
    if not permute:
        assert np.all(source[:, :, 0] == np.arange(heads))


def test_a_known_element() -> None:
    """Stable argsort of keys, bits of one word, Box-Muller of one block: by hand for seed 0, sample 0, site 0."""
    perm, sign, scale, *_ = reference.sample_site(Monomial(4, signs=True), 1, seed=0)
    assert perm is not None
    assert sign is not None
    assert scale is not None
    # philox4x32(0, 0) is the first known answer of Random123: the keys of part "permutation", block 0.
    keys = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert perm[0].tolist() == sorted(range(4), key=keys.__getitem__)
    bits = int(reference.philox4x32([0, 0, 0, 2 << 28], [0, 0])[0])
    assert sign[0].tolist() == [-1 if bits >> u & 1 else 1 for u in range(4)]
    u = [(int(x) + 0.5) / 2**32 for x in reference.philox4x32([0, 0, 0, 3 << 28], [0, 0])]
    z = [
        math.sqrt(-2 * math.log(u[0])) * math.cos(2 * math.pi * u[1]),
        math.sqrt(-2 * math.log(u[0])) * math.sin(2 * math.pi * u[1]),
        math.sqrt(-2 * math.log(u[2])) * math.cos(2 * math.pi * u[3]),
        math.sqrt(-2 * math.log(u[2])) * math.sin(2 * math.pi * u[3]),
    ]
    np.testing.assert_allclose(scale[0], np.exp(0.5 * np.array(z)), rtol=1e-14)


def wrong(value: object) -> Any:
    """A value of the wrong type, hidden from the type checker."""
    return value


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Permutation(0), ValueError, "Permutation.n: expected an integer between 1 and 2147483647, got 0"),
        (lambda: Permutation(2**31), ValueError, "Permutation.n: expected"),
        (lambda: Signs(wrong(2.0)), TypeError, "Signs.n: expected an integer >= 1, got 2.0 of type float"),
        (lambda: Monomial(True), TypeError, "Monomial.n: expected an integer >= 1, got the bool True"),
        (lambda: Monomial(2, signs=wrong(1)), TypeError, "Monomial.signs: expected True or False, got 1"),
        (lambda: Monomial(2, scales=wrong("no")), TypeError, "Monomial.scales: expected True or False, got 'no'"),
        (lambda: Scaling(2, 0.0), ValueError, "Scaling.scale_std: expected a finite standard deviation > 0"),
        (lambda: Scaling(2, math.inf), ValueError, "Scaling.scale_std: expected a finite"),
        (
            lambda: Monomial(2, scale_std=wrong("x")),
            TypeError,
            "Monomial.scale_std: expected a positive number, got 'x'",
        ),
        (lambda: Heads(2, Heads(2, Signs(2))), TypeError, "Heads.group: Heads cannot be nested"),
        (lambda: Heads(2, wrong(3)), TypeError, "Heads.group: expected a group such as Permutation"),
        (lambda: Heads(0, Signs(2)), ValueError, "Heads.heads: expected"),
        (lambda: Heads(2**20, Signs(2**20)), ValueError, r"Heads size \(heads \* group.size\): expected"),
        (lambda: from_json(wrong([])), TypeError, "group: expected a JSON object with the key 'type', got list"),
        (
            lambda: from_json({"type": "Orthonormal"}),
            ValueError,
            "group type: expected one of Permutation.*Orthogonal.*Heads; got 'Orthonormal'",
        ),
        (lambda: from_json({"type": "Signs"}), ValueError, r"group Signs: missing fields \['n'\]"),
        (lambda: from_json({"type": "Signs", "n": 1, "m": 2}), ValueError, r"group Signs: unknown fields \['m'\]"),
        (lambda: from_json({"type": "Heads", "heads": 2, "group": 3}), TypeError, "group: expected a JSON object"),
        (lambda: Heads(2, Signs(2), wrong(1)), TypeError, "Heads.permute: expected True or False, got 1 of type int"),
        (lambda: Heads(2, Signs(2), tie=wrong(3)), TypeError, "Heads.tie: expected a string, got 3 of type int"),
        (
            lambda: Heads(2, Signs(2), permute=False, tie="a"),
            ValueError,
            "Heads.tie: 'a' ties permutations of heads; expected permute=True, or no tie",
        ),
        (lambda: Orthogonal(0), ValueError, "Orthogonal.n: expected an integer between 1 and 2147483647, got 0"),
        (lambda: Orthogonal(3, wrong(1)), TypeError, "Orthogonal.keeps_mean: expected True or False, got 1"),
        (lambda: SpecialLinear(wrong("3")), TypeError, "SpecialLinear.n: expected an integer >= 1, got '3'"),
        (lambda: SpecialLinear(3, -1.0), ValueError, "SpecialLinear.scale_std: expected a finite standard deviation"),
        (lambda: GeneralLinear(wrong(None)), TypeError, "GeneralLinear.n: expected an integer >= 1, got None"),
        (lambda: GeneralLinear(3, math.nan), ValueError, "GeneralLinear.scale_std: expected a finite standard dev"),
        (lambda: GeneralLinear(3, wrong(True)), TypeError, "GeneralLinear.scale_std: expected a positive number"),
        (lambda: RotaryCommutant(0), ValueError, "RotaryCommutant.n: expected"),
        (
            lambda: RotaryCommutant(8, "pairs"),
            ValueError,
            "RotaryCommutant.layout: expected one of half, interleaved, got 'pairs'",
        ),
        (
            lambda: RotaryCommutant(8, rotary=3),
            ValueError,
            "RotaryCommutant.rotary: expected an even number of rotated units, at most n = 8, got 3",
        ),
        (lambda: RotaryCommutant(8, rotary=10), ValueError, "RotaryCommutant.rotary: .* at most n = 8, got 10"),
        (lambda: RotaryCommutant(8, rotary=0), ValueError, "RotaryCommutant.rotary: expected an integer between 1"),
        (lambda: RotaryCommutant(7), ValueError, "RotaryCommutant.rotary: expected an even number .*, got 7"),
        (lambda: RotaryCommutant(8, scale_std=0), ValueError, "RotaryCommutant.scale_std: expected a finite"),
        (lambda: Translation(0), ValueError, "Translation.n: expected"),
        (lambda: Translation(3, math.inf), ValueError, "Translation.shift_std: .* standard deviation > 0(?! of log)"),
        (lambda: Affine(GeneralLinear(3), 0.0), ValueError, "Affine.shift_std: .* standard deviation > 0(?! of log)"),
        (lambda: Affine(Permutation(3)), TypeError, r"Affine.group: expected a dense group such as GeneralLinear\(n\)"),
        (lambda: Affine(Translation(3)), TypeError, "Affine.group: expected a dense group .* of type Translation"),
        (lambda: Affine(Heads(2, Orthogonal(3))), TypeError, "Affine.group: expected a dense group .* of type Heads"),
        (lambda: Affine(wrong(3)), TypeError, "Affine.group: expected a dense group .*, got 3 of type int"),
        (lambda: from_json({"type": "Affine"}), ValueError, r"group Affine: missing fields \['group'\]"),
        (lambda: from_json({"type": "Orthogonal", "m": 1}), ValueError, r"group Orthogonal: unknown fields \['m'\]"),
    ],
)
def test_wrong_arguments_are_named(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
