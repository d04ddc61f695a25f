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
from nnsym_fast.groups import Group, Heads, Monomial, Permutation, Scaling, Signs, from_json

STDS = st.floats(0.01, 2.0)
PLAIN: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, st.integers(1, 9)),
    st.builds(Scaling, st.integers(1, 9), STDS),
    st.builds(Signs, st.integers(1, 9)),
    st.builds(Monomial, st.integers(1, 9), st.booleans(), st.booleans(), STDS),
)
GROUPS: st.SearchStrategy[Group] = st.one_of(PLAIN, st.builds(Heads, st.integers(1, 4), PLAIN, st.booleans()))


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
    ],
)
def test_parts_dimension_and_order(group: Group, parts: tuple[str, ...], dimension: int, order: int) -> None:
    assert group.parts == parts
    assert group.dimension == dimension
    assert math.exp(group.log_order) == pytest.approx(order, rel=1e-12)


@given(GROUPS)
def test_flags_agree_with_parts(group: Group) -> None:
    assert group.size == group.heads * group.head_size
    assert group.parts == tuple(
        name
        for name, held in (("permutation", group.permutes), ("sign", group.signed), ("scale", group.scaled))
        if held
    )
    assert group.permutes == (group.permute_heads or group.permute_units)
    assert group.dimension == (group.size if group.scaled else 0)


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
    with pytest.raises(AttributeError):
        copy.n = 3


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
    perm, sign, _ = reference.sample_site(group, n, seed=1)
    discrete = np.hstack([part for part in (perm, sign) if part is not None])
    _, counts = np.unique(discrete, axis=0, return_counts=True)
    assert len(counts) == order
    chi_square = ((counts - n / order) ** 2 / (n / order)).sum()
    # Mean order - 1, variance 2 (order - 1): five standard deviations, at one fixed seed.
    assert abs(chi_square - (order - 1)) < 5 * math.sqrt(2 * (order - 1))


@pytest.mark.parametrize("group", [Scaling(6, 0.5), Monomial(5, scale_std=1.25), Heads(2, Scaling(3, 0.1))])
def test_log_scales_are_independent_normals(group: Group) -> None:
    n = 20_000
    _, _, scale = reference.sample_site(group, n, seed=2)
    assert scale is not None
    z = np.log(scale) / group.scale_std
    # Five standard errors of the mean, the variance, the correlations and the fourth moment.
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(n)
    assert np.abs(z.var(axis=0) - 1).max() < 5 * math.sqrt(2 / n)
    assert np.abs(np.corrcoef(z.T) - np.eye(group.size)).max() < 5 * math.sqrt(2 / n)
    assert np.abs((z**4).mean(axis=0) - 3).max() < 5 * math.sqrt(96 / n)


@given(GROUPS, st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**63))
def test_elements_have_the_parts_of_the_group(group: Group, n: int, seed: int, start: int) -> None:
    for element in (reference.sample_site(group, n, seed, start), reference.identity_site(group, n)):
        held = {"permutation": element.perm, "sign": element.sign, "scale": element.scale}
        assert tuple(name for name, part in held.items() if part is not None) == group.parts
        for part, dtype in ((element.perm, np.int32), (element.sign, np.int8), (element.scale, np.float64)):
            if part is not None:
                assert part.shape == (n, group.size)
                assert part.dtype == dtype
        if element.perm is not None:
            assert np.array_equal(np.sort(element.perm, axis=1), np.tile(np.arange(group.size), (n, 1)))
        if element.sign is not None:
            assert set(np.unique(element.sign)) <= {-1, 1}
        if element.scale is not None:
            assert np.all(element.scale > 0)
            assert np.all(np.isfinite(element.scale))


@given(GROUPS, st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**63))
def test_the_methods_are_the_reference_for_site_zero(group: Group, n: int, seed: int, start: int) -> None:
    for element, expected in (
        (group.sample(n, seed, start), reference.sample_site(group, n, seed, start)),
        (group.identity(n), reference.identity_site(group, n)),
    ):
        for part, part_expected in zip((element.perm, element.sign, element.scale), expected, strict=True):
            assert (part is None) == (part_expected is None)
            if part is not None and part_expected is not None:
                assert part.dtype == part_expected.dtype
                # Permutations and signs are exact; exp, log and cos of scales are within a few ulp.
                np.testing.assert_allclose(part, part_expected, rtol=1e-14 if part.dtype == np.float64 else 0)


@given(st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_heads_move_as_wholes(heads: int, size: int, permute: bool) -> None:
    perm, _, _ = reference.sample_site(Heads(heads, Permutation(size), permute), 20, seed=3)
    assert perm is not None
    source = perm.reshape(20, heads, size) // size
    assert np.all(source == source[:, :, :1]), "units of one head came from several heads"
    if not permute:
        assert np.all(source[:, :, 0] == np.arange(heads))


def test_a_known_element() -> None:
    """Stable argsort of keys, bits of one word, Box-Muller of one block: by hand for seed 0, sample 0, site 0."""
    perm, sign, scale = reference.sample_site(Monomial(4, signs=True), 1, seed=0)
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
            "group type: expected one of Permutation.*'Orthonormal'",
        ),
        (lambda: from_json({"type": "Signs"}), ValueError, r"group Signs: missing fields \['n'\]"),
        (lambda: from_json({"type": "Signs", "n": 1, "m": 2}), ValueError, r"group Signs: unknown fields \['m'\]"),
        (lambda: from_json({"type": "Heads", "heads": 2, "group": 3}), TypeError, "group: expected a JSON object"),
    ],
)
def test_wrong_arguments_are_named(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()
