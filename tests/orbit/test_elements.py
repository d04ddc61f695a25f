# SPDX-License-Identifier: MIT
"""Elements drawn by the kernel against the reference: permutations and signs bit for bit, scales to a few ulp."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tolerances
from hypothesis import given
from hypothesis import strategies as st
from orbit_cases import any_isa

import nnsym_fast as nf
from nnsym_fast import reference
from nnsym_fast._native import cpu
from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import DRAW_PART, DRAW_SHIFT, Group, Heads, Monomial, Permutation, Scaling, Signs
from nnsym_fast.symmetry import SymmetrySpec

Array = npt.NDArray[Any]
UINT64 = st.integers(0, 2**64 - 1)

# Around the lanes of every vector, the 32 signs of a word, and 160, where sorting changes from counting to buckets.
SIZES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 159, 160, 161, 1000]
DTYPES = ["float32", "float64"]
N = 3

# Words 29 and 114 of the permutation keys of this sample (seed 0, site 0) are equal: a sort must be stable.
TIED_SAMPLE, TIED_WORDS = 308641, (29, 114)


def groups_of(n: int) -> list[Group]:
    return [
        Permutation(n),
        Scaling(n, scale_std=0.8),
        Signs(n),
        Monomial(n, scale_std=0.3),
        Monomial(n, signs=True),
        Monomial(n, signs=True, scales=False),
        Heads(3, Permutation(n)),
        Heads(n, Monomial(2, signs=True)),
        Heads(n, Signs(3), permute=False),
        Heads(2, Scaling(n)),
        Heads(5, Monomial(n, signs=True), permute=False),
    ]


def parts_of(element: Any) -> tuple[Array | None, ...]:
    return element.perm, element.sign, element.scale


def assert_same_bits(a: Any, b: Any) -> None:
    """Equal parts of equal dtype; elements have no NaN."""
    for ours, theirs in zip(parts_of(a), parts_of(b), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def assert_equals_reference(drawn: SiteElements, expected: reference.SiteArrays, group: Group, dtype: str) -> None:
    assert_same_bits(SiteElements(drawn.perm, drawn.sign, None), SiteElements(expected.perm, expected.sign, None))
    assert (drawn.scale is None) == (expected.scale is None) == (not group.scaled)
    if drawn.scale is not None and expected.scale is not None:
        assert drawn.scale.dtype == dtype
        error = np.abs(drawn.scale / expected.scale - 1)
        assert np.all(error <= tolerances.scale(dtype, group.scale_std))


@cache
def expected_site(group: Group, seed: int, start: int) -> reference.SiteArrays:
    return reference.sample_site(group, N, seed, start)


def test_the_draw_index_is_one_definition() -> None:
    assert cpu.DRAW_PART == DRAW_PART
    assert cpu.DRAW_SHIFT == DRAW_SHIFT


@given(
    UINT64, UINT64, st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=40)
)
def test_philox_equals_the_reference(seed: int, sample: int, blocks: list[tuple[int, int]]) -> None:
    counters = np.array([[sample % 2**32, sample >> 32, *block] for block in blocks], np.uint32).reshape(-1, 4)
    expected = reference.philox4x32(counters, [seed % 2**32, seed >> 32])
    with any_isa() as names:
        for name in names:
            cpu.select_isa(name)
            words = cpu.philox(seed, sample, [site for site, _ in blocks], [draw for _, draw in blocks])
            np.testing.assert_array_equal(words.T, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_group_and_size(isa: str, size: int, dtype: str) -> None:
    for group in groups_of(size):
        assert_equals_reference(group.sample(N, seed=5, dtype=dtype), expected_site(group, 5, 0), group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("seed", "start"),
    [(0, 2**32 - 2), (2**64 - 1, 0), (2**64 - 2, 2**63 - 2), (2**32, 2**63), (1, 2**64 - N)],
)
def test_seeds_and_samples_of_64_bits(isa: str, dtype: str, seed: int, start: int) -> None:
    for group in groups_of(17):
        drawn = group.sample(N, seed=seed, start=start, dtype=dtype)
        assert_equals_reference(drawn, expected_site(group, seed, start), group, dtype)


@pytest.mark.parametrize("size", [115, 128, 160, 161, 200])
def test_equal_keys_keep_their_order(isa: str, size: int) -> None:
    """Both sorts, by counting and by buckets; words do not depend on the size."""
    first, second = TIED_WORDS
    keys = reference.words(0, np.array([TIED_SAMPLE], np.uint64), 0, "permutation", size)[0]
    assert keys[first] == keys[second], "the case must be a tie"
    perm = Permutation(size).sample(1, seed=0, start=TIED_SAMPLE).perm
    assert perm is not None
    np.testing.assert_array_equal(perm[0], np.argsort(keys, kind="stable"))
    positions = perm[0].tolist()
    assert positions.index(second) == positions.index(first) + 1


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1, 1 << 17])
def test_many_equal_keys(isa: str, size: int) -> None:
    """2^17 keys of 32 bits have about two ties per sample; beyond 2^16 keys another sort takes over."""
    group = Permutation(size)
    drawn = group.sample(N, seed=4)
    keys = reference.words(4, np.arange(N, dtype=np.uint64), 0, "permutation", group.size)
    assert max(len(np.unique(row)) for row in keys) < size, "every sample must have a tie"
    np.testing.assert_array_equal(drawn.perm, np.argsort(keys, axis=1, kind="stable"))


MIXED = SymmetrySpec(
    {
        "a": Monomial(5, signs=True),
        "b": Permutation(170),
        "c": Heads(3, Monomial(7)),
        "d": Signs(70),
        "e": Scaling(9, scale_std=0.1),
    },
    {f"w.{site}": (site, site + "*") for site in "abcde"},
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_site_index_is_part_of_the_counter(isa: str, dtype: str) -> None:
    drawn = MIXED.sample(N, seed=1, start=9, dtype=dtype)
    for site, (name, group) in enumerate(MIXED.sites.items()):
        assert_equals_reference(drawn[name], reference.sample_site(group, N, 1, 9, site), group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_of_a_sequence_agree(isa: str, dtype: str, threads: Callable[[int], None]) -> None:
    """Bit for bit: chunks, threads, other sites beside, and the orbit's own elements."""
    threads(1)
    whole = MIXED.sample(40, seed=2, start=100, dtype=dtype)
    threads(2)
    for start, stop in [(0, 40), (0, 1), (7, 24), (39, 40), (5, 5)]:
        part = MIXED.sample(stop - start, seed=2, start=100 + start, dtype=dtype)
        assert part.count == stop - start
        for name in MIXED.sites:
            assert_same_bits(part[name], whole.take(start, stop)[name])
            assert_same_bits(part[name], whole[name][start:stop])
    assert_same_bits(MIXED.sites["a"].sample(40, seed=2, start=100, dtype=dtype), whole["a"])
    params = {
        name: np.zeros((group.size, group.size), dtype)
        for name, group in zip(MIXED.legs, MIXED.sites.values(), strict=True)
    }
    orbit = nf.Orbit(params, MIXED, seed=2)
    for name in MIXED.sites:
        assert_same_bits(orbit.elements(100, 140)[name], whole[name])


PLAIN: st.SearchStrategy[Group] = st.one_of(
    st.builds(Permutation, st.integers(1, 40)),
    st.builds(Scaling, st.integers(1, 40), st.floats(0.01, 2)),
    st.builds(Signs, st.integers(1, 70)),
    st.builds(Monomial, st.integers(1, 40), st.booleans(), st.booleans(), st.floats(0.01, 2)),
)
GROUPS: st.SearchStrategy[Group] = st.one_of(PLAIN, st.builds(Heads, st.integers(1, 5), PLAIN, st.booleans()))


@given(st.lists(GROUPS, min_size=1, max_size=5), UINT64, st.integers(0, 2**64 - N), st.sampled_from(DTYPES))
def test_random_specs(sites: list[Group], seed: int, start: int, dtype: str) -> None:
    names = {f"s{i}": group for i, group in enumerate(sites)}
    spec = SymmetrySpec(names, {f"w.{name}": (name, name + "*") for name in names})
    drawn, expected = spec.sample(N, seed, start, dtype), reference.sample(spec, N, seed, start)
    for name, group in names.items():
        assert_equals_reference(drawn[name], expected[name], group, dtype)


@given(GROUPS, UINT64, st.sampled_from(DTYPES))
def test_group_laws(group: Group, seed: int, dtype: str) -> None:
    """1 g = g = g 1, g g^-1 = 1 = g^-1 g, (g h)^-1 = h^-1 g^-1, (g h) k = g (h k)."""
    one = group.identity(N, dtype)
    g, h, k = (group.sample(N, seed, start, dtype) for start in (0, N, 2 * N))
    compose, inverse = nf.compose, nf.inverse
    rtol = 4 * tolerances.EPSILON[dtype]

    def assert_equal(a: SiteElements, b: SiteElements) -> None:
        assert_same_bits(SiteElements(a.perm, a.sign, None), SiteElements(b.perm, b.sign, None))
        if a.scale is not None:
            assert a.scale.dtype == dtype
            np.testing.assert_allclose(a.scale, b.scale, rtol=rtol)

    assert_same_bits(compose(one, g), g)
    assert_same_bits(compose(g, one), g)
    assert_equal(compose(g, inverse(g)), one)
    assert_equal(compose(inverse(g), g), one)
    assert_equal(inverse(inverse(g)), g)
    assert_equal(inverse(compose(g, h)), compose(inverse(h), inverse(g)))
    assert_equal(compose(compose(g, h), k), compose(g, compose(h, k)))


def test_group_laws_of_a_network() -> None:
    g, one = MIXED.sample(4, seed=0), MIXED.identity(4)
    undone = nf.compose(nf.inverse(g), g)
    assert isinstance(undone, Elements)
    assert undone.count == 4
    for name in MIXED.sites:
        np.testing.assert_array_equal(undone[name].perm, one[name].perm)
        assert_same_bits(nf.compose(g, one)[name], g[name])


def test_elements_are_a_mapping_of_batches() -> None:
    g = MIXED.sample(6, seed=0)
    assert list(g) == list(MIXED.sites)
    assert len(g) == 5
    assert (g.count, len(g["a"])) == (6, 6)
    assert g["a"].perm is not None
    assert g["a"].perm.dtype == np.int32
    assert g["a"].sign is not None
    assert g["a"].sign.dtype == np.int8
    assert (g["b"].sign, g["b"].scale, g["d"].perm) == (None, None, None)
    assert g.take(2, 100).count == 4
    assert np.shares_memory(g.take(2, 4)["a"].perm, g["a"].perm)
    assert repr(g) == "Elements(6 elements at the sites ['a', 'b', 'c', 'd', 'e'])"
    assert repr(g["b"]) == "SiteElements(perm int32(6, 170))"


def test_no_elements() -> None:
    assert MIXED.sample(0).count == 0
    assert Monomial(3).sample(0).perm.shape == (0, 3)  # type: ignore[union-attr]
    assert nf.inverse(MIXED.sample(0)).count == 0
    assert SymmetrySpec({}, {"w": (None,)}).sample(5).count == 5


G, SPEC = Monomial(4), SymmetrySpec({"h": Monomial(4)}, {"w": ("h", "h*")})


def wrong(value: object) -> Any:
    """A value of the wrong type, hidden from the type checker."""
    return value


@pytest.mark.parametrize("sample", [G.sample, SPEC.sample], ids=["group", "spec"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2.5,), TypeError, "n: expected an integer, got 2.5 of type float"),
        ((-1,), ValueError, "n: expected an integer >= 0, got -1"),
        ((2, "x"), TypeError, "seed: expected an integer, got 'x' of type str"),
        ((2, -1), ValueError, "seed: expected an integer >= 0, got -1"),
        ((2, 2**64), ValueError, r"seed: expected an integer below 2\^64, got 18446744073709551616"),
        ((2, 0, -3), ValueError, "start: expected an integer >= 0, got -3"),
        ((2, 0, 2**64 - 1), ValueError, r"start: expected start \+ n <= 2\^64, got 18446744073709551615 \+ 2"),
        ((2, 0, 0, "float16"), TypeError, "dtype: expected 'float32' or 'float64', .* got 'float16'"),
        ((2, 0, 0, "quad"), TypeError, "dtype: expected 'float32' or 'float64', .* got 'quad'"),
    ],
)
def test_wrong_arguments_of_sample(
    sample: Callable[..., Any], arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sample(*arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: G.identity(-1), ValueError, "n: expected an integer >= 0, got -1"),
        (lambda: SPEC.identity(2, "int8"), TypeError, "dtype: expected 'float32' or 'float64'"),
        (lambda: G.sample(2)[wrong(0)], TypeError, "index: expected a slice of elements such as .*, got 0"),
        (lambda: nf.compose(SPEC.sample(2), wrong({})), TypeError, "a, b: expected Elements, got Elements and dict"),
        (lambda: nf.inverse(wrong(3)), TypeError, "a: expected Elements, got int"),
        (
            lambda: nf.compose(SPEC.sample(2), SPEC.sample(3)),
            ValueError,
            r"b: expected 2 elements at the sites \['h'\], got 3 at \['h'\]",
        ),
        (
            lambda: nf.compose(G.sample(2), Monomial(5).sample(2)),
            ValueError,
            r"b.perm: expected shape \(2, 4\), as in a, got \(2, 5\)",
        ),
        (
            lambda: nf.compose(SPEC.sample(2), Elements({"h": Permutation(4).sample(2)}, 2)),
            ValueError,
            r"b\['h'\].scale: expected shape \(2, 4\), as in a, got None",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
