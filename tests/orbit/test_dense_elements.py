# SPDX-License-Identifier: MIT
"""Elements of dense groups drawn by the kernels and through the BLAS, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbit_cases import any_isa, attention
from orbit_strategies import DENSE
from tolerances import EPSILON

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
    RotaryCommutant,
    SpecialLinear,
    Translation,
)
from nnsym_fast.symmetry import SymmetrySpec

Array = npt.NDArray[Any]
UINT64 = st.integers(0, 2**64 - 1)
DTYPES = ["float32", "float64"]
N = 3
PARTS = ("perm", "sign", "scale", "matrix", "inverse", "shift")

# Around the lanes of every vector and the tiles of a kernel, and where the BLAS begins.
SIZES = [*range(1, 18), 24, 31, 32, 33, 48, 63, 64, 65, 70, 130]
LARGE = [_dense.LARGEST, _dense.LARGEST + 1, 300]


def accurate_normals(draws: Array) -> Array:
    """Those of the reference without the rounding of the angle 2 pi u, which a short vector of normals would multiply.

    u = (q + f) / 4, q an integer and |f| <= 1/2, both exact: cosine and sine of f pi / 2, and q quarter turns.
    """
    u = reference.philox.uniforms(draws)
    quarters = np.rint(4 * u[..., 1::2])
    angle = (4 * u[..., 1::2] - quarters) * (np.pi / 2)
    q, cos, sin = quarters.astype(np.int64) % 4, np.cos(angle), np.sin(angle)
    turned = np.stack([np.choose(q, [cos, -sin, -cos, sin]), np.choose(q, [sin, cos, -sin, -cos])], axis=-1)
    return np.asarray((np.sqrt(-2.0 * np.log(u[..., 0::2]))[..., None] * turned).reshape(draws.shape))


@pytest.fixture(autouse=True, scope="module")
def _accurate() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.dense, "normals", accurate_normals)
        yield


def test_the_accurate_normals_are_those_of_the_reference() -> None:
    draws = np.random.default_rng(0).integers(0, 2**32, (7, 1000), dtype=np.uint32)
    np.testing.assert_allclose(accurate_normals(draws), reference.philox.normals(draws), atol=50 * EPSILON["float64"])


def groups_of(n: int) -> list[Group]:
    even = 2 * (n // 2)
    rotary: list[Group] = []
    if even:
        rotary = [RotaryCommutant(even), RotaryCommutant(n, "interleaved", even, 0.3), RotaryCommutant(n, rotary=2)]
    return [
        Orthogonal(n),
        Orthogonal(n, keeps_mean=True),
        GeneralLinear(n, 0.3),
        SpecialLinear(n, 0.3),
        *rotary,
        Affine(Orthogonal(n), shift_std=2.0),
        Translation(n, 0.25),
        Heads(3, GeneralLinear(n, 0.3)),
    ]


def heads_of(n: int) -> list[Group]:
    """More heads than the words of one block, of every kind."""
    return [
        Heads(33, Orthogonal(n, keeps_mean=True), permute=False),
        Heads(5, Affine(SpecialLinear(n, 0.3))),
        Heads(4, RotaryCommutant(2 * n + 1, rotary=2 * n, scale_std=0.3)),
        Heads(7, Translation(n)),
    ]


def accuracy(group: Group, dtype: str) -> float:
    """Error of an entry of a matrix, relative to the longest row.

    Every reflection is exact to a few roundings and the errors of normals are independent: they grow as the root of the
    size. The logarithm of a singular value is a normal, of up to 6 ulp (see ``tolerances.scale``), times scale_std.
    Measured: 7 epsilon, over all sizes and groups.
    """
    return (8 + group.head_size**0.5 + 6 * group.scale_std) * EPSILON[dtype]


def longest(matrix: Array) -> Array:
    """The length of the longest row of every matrix."""
    return np.asarray(np.sqrt(np.square(matrix, dtype=np.float64).sum(axis=-1, keepdims=True).max(-2, keepdims=True)))


def assert_equals_reference(drawn: SiteElements, expected: reference.SiteArrays, group: Group, dtype: str) -> None:
    for name in PARTS:
        ours, theirs = getattr(drawn, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if theirs is None:
            continue
        assert ours.shape == theirs.shape
        assert ours.dtype == (dtype if theirs.dtype == np.float64 else theirs.dtype)
        assert ours.flags.c_contiguous
        if name in ("perm", "sign"):
            np.testing.assert_array_equal(ours, theirs)
        elif name == "shift":
            np.testing.assert_allclose(ours, theirs, rtol=8 * EPSILON[dtype])
        elif name != "scale":
            error = np.abs(ours - theirs) / longest(theirs)
            assert error.max() <= accuracy(group, dtype), f"{group}: {error.max() / EPSILON[dtype]:.1f} epsilon"


def assert_same_bits(a: SiteElements, b: SiteElements) -> None:
    for name in PARTS:
        ours, theirs = getattr(a, name), getattr(b, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@cache
def expected_site(group: Group, seed: int = 5, start: int = 0) -> reference.SiteArrays:
    return reference.sample_site(group, N, seed, start)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_group_and_size(isa: str, size: int, dtype: str) -> None:
    for group in groups_of(size) + (heads_of(size) if size < 18 else []):
        assert_equals_reference(group.sample(N, seed=5, dtype=dtype), expected_site(group), group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", LARGE)
def test_sizes_where_the_blas_begins(size: int, dtype: str) -> None:
    groups = (
        Heads(2, Orthogonal(size)),
        Orthogonal(size, keeps_mean=True),
        SpecialLinear(size, 0.3),
        RotaryCommutant(size + 6, rotary=6, scale_std=0.3),
        RotaryCommutant(2 * size, "interleaved"),
        Affine(GeneralLinear(size, 0.3)),
    )
    for group in groups[: 2 if size == LARGE[-1] else None]:
        expected = reference.sample_site(group, 1, 5)
        assert_equals_reference(group.sample(1, seed=5, dtype=dtype), expected, group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 5, 64, 65, 100])
def test_the_blas_draws_what_the_kernel_draws(size: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words give the same matrices on both ways, to rounding."""
    monkeypatch.setattr(_dense, "LARGEST", 0)
    for group in groups_of(size) + heads_of(size):
        assert_equals_reference(group.sample(N, seed=5, dtype=dtype), expected_site(group), group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("seed", "start"),
    [(0, 2**32 - 2), (2**64 - 1, 0), (2**64 - 2, 2**63 - 2), (2**32, 2**63), (1, 2**64 - N)],
)
@pytest.mark.parametrize("largest_head", [_dense.LARGEST, 0])
def test_seeds_and_samples_of_64_bits(
    isa: str, dtype: str, seed: int, start: int, largest_head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dense, "LARGEST", largest_head)
    for group in groups_of(5) + heads_of(3):
        drawn = group.sample(N, seed=seed, start=start, dtype=dtype)
        assert_equals_reference(drawn, expected_site(group, seed, start), group, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_lie_in_their_group(isa: str, dtype: str) -> None:
    """To the precision of the arithmetic, whatever the reference is: Q^T Q = 1, det = 1, R 1 = +-1, g g^-1 = 1."""
    for n in (1, 2, 3, 8, 17, 33, 64):
        allowed = 8 * (n**0.5 + 2) * EPSILON[dtype]
        for group in (Orthogonal(n), Orthogonal(n, keeps_mean=True), SpecialLinear(n, 0.1), GeneralLinear(n, 0.1)):
            site = group.sample(20, seed=1, dtype=dtype)
            assert site.matrix is not None
            assert site.inverse is not None
            matrix, inverse = site.matrix.astype(np.float64), site.inverse.astype(np.float64)
            # The condition is e^{0.1 * 6} at most.
            assert np.abs(matrix @ inverse - np.eye(n)).max() <= 4 * allowed
            if isinstance(group, Orthogonal):
                assert np.array_equal(site.inverse, np.swapaxes(site.matrix, 1, 2)), "in every bit"
                means = matrix.sum(axis=2)
                if group.keeps_mean:
                    sign = np.sign(means[:, :1])
                    assert np.abs(means - sign).max() <= 4 * n**0.5 * allowed
                    assert {-1.0, 1.0} == set(sign.ravel())
            if isinstance(group, SpecialLinear):
                assert np.abs(np.linalg.det(matrix) - 1).max() <= 4 * n**0.5 * allowed


@pytest.mark.parametrize("n", [2, 16, 50])
def test_haar_matrices_have_both_determinants(isa: str, n: int) -> None:
    """And moments in every corner: sums over 4,000 float32 matrices, five standard errors."""
    matrix = Orthogonal(n).sample(4_000, seed=3, dtype="float32").matrix
    assert matrix is not None
    q = matrix.astype(np.float64)
    signs, _ = np.linalg.slogdet(q)
    assert abs(signs.mean()) < 5 / 4_000**0.5
    error = (q**2).std(axis=0) / 4_000**0.5
    assert np.all(np.abs((q**2).mean(axis=0) - 1 / n) < 5 * error)
    assert np.all(np.abs(q.mean(axis=0)) < 5 / (4_000 * n) ** 0.5)


# --- whatever the batch


SPEC = SymmetrySpec(
    {
        "a": Heads(3, Affine(GeneralLinear(5, 0.3)), tie="t"),
        "b": Orthogonal(33),
        "c": Monomial(7, signs=True),
        "d": Heads(3, Permutation(2), tie="t"),
        "e": Affine(RotaryCommutant(6, "interleaved", 4, 0.3)),
        "f": Orthogonal(4, keeps_mean=True),
        "g": Translation(9),
        "h": Heads(3, SpecialLinear(2), tie="t"),
    },
    {f"w.{site}": (site, site + "*") for site in "abcdefgh"},
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest_head", [_dense.LARGEST, 4])
def test_slices_of_a_sequence_agree(
    isa: str, dtype: str, largest_head: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: chunks, threads, other sites beside, and the orbit's own elements."""
    monkeypatch.setattr(_dense, "LARGEST", largest_head)
    threads(1)
    whole = SPEC.sample(40, seed=2, start=100, dtype=dtype)
    for name, group in SPEC.sites.items():
        site = list(SPEC.sites).index(name)
        expected = reference.sample_site(group, 40, 2, 100, site, head_site=SPEC.head_sites[site])
        assert_equals_reference(whole[name], expected, group, dtype)
    threads(2)
    for start, stop in [(0, 40), (0, 1), (7, 24), (39, 40), (5, 5)]:
        part = SPEC.sample(stop - start, seed=2, start=100 + start, dtype=dtype)
        for name in SPEC.sites:
            assert_same_bits(part[name], whole.take(start, stop)[name])
            assert_same_bits(part[name], whole[name][start:stop])
    params = {f"w.{name}": np.zeros((group.size, group.size), dtype) for name, group in SPEC.sites.items()}
    orbit = nf.Orbit(params, SPEC, seed=2)
    for name in SPEC.sites:
        assert_same_bits(orbit.elements(100, 140)[name], whole[name])


def test_ties_hold() -> None:
    elements = SPEC.sample(30, seed=0)
    heads = [elements[name].perm[:, :: SPEC.sites[name].head_size] // SPEC.sites[name].head_size for name in "adh"]  # type: ignore[index]
    assert np.array_equal(heads[0], heads[1])
    assert np.array_equal(heads[0], heads[2])
    assert len(np.unique(heads[0], axis=0)) == 6


@given(st.lists(DENSE, min_size=1, max_size=4), UINT64, st.integers(0, 2**64 - N), st.sampled_from(DTYPES))
@settings(max_examples=50)
def test_random_specs(sites: list[Group], seed: int, start: int, dtype: str) -> None:
    names = {f"s{i}": group for i, group in enumerate(sites)}
    spec = SymmetrySpec(names, {f"w.{name}": (name, name + "*") for name in names})
    expected = reference.sample(spec, N, seed, start)
    with any_isa() as isas:
        for isa in isas:
            cpu.select_isa(isa)
            drawn = spec.sample(N, seed, start, dtype)
            for name, group in names.items():
                assert_equals_reference(drawn[name], expected[name], group, dtype)


# --- the group laws


@given(DENSE, UINT64, st.sampled_from(DTYPES))
@settings(max_examples=60)
def test_group_laws(group: Group, seed: int, dtype: str) -> None:
    """1 g = g = g 1 in every bit; g g^-1 = 1 = g^-1 g, (g h)^-1 = h^-1 g^-1, (g h) k = g (h k) to rounding."""
    one = group.identity(N, dtype)
    g, h, k = (group.sample(N, seed, start, dtype) for start in (0, N, 2 * N))
    compose, inverse = nf.compose, nf.inverse

    def norm(*factors: SiteElements) -> float:
        result = 1.0
        for factor in factors:
            for part in (factor.matrix, factor.inverse):
                result *= 1.0 if part is None else float(np.linalg.norm(part, axis=(-2, -1)).max())
            result *= 1.0 + (0.0 if factor.shift is None else float(np.abs(factor.shift).max()))
        return result

    def assert_equal(a: SiteElements, b: SiteElements, *factors: SiteElements) -> None:
        allowed = 8 * (group.head_size + 4) * EPSILON[dtype] * norm(*factors)
        for name in PARTS:
            ours, theirs = getattr(a, name), getattr(b, name)
            assert (ours is None) == (theirs is None)
            if ours is None:
                continue
            assert ours.dtype == theirs.dtype
            if name == "perm":
                np.testing.assert_array_equal(ours, theirs)
            else:
                assert ours.dtype == dtype
                assert np.abs(ours - theirs).max() <= allowed

    assert_same_bits(compose(one, g), g)
    assert_same_bits(compose(g, one), g)
    assert_equal(compose(g, inverse(g)), one, g)
    assert_equal(compose(inverse(g), g), one, g)
    assert_equal(inverse(inverse(g)), g, g)
    assert_equal(inverse(compose(g, h)), compose(inverse(h), inverse(g)), g, h)
    assert_equal(compose(compose(g, h), k), compose(g, compose(h, k)), g, h, k)


def test_elements_are_a_mapping_of_batches() -> None:
    spec = attention()
    g = spec.sample(6, seed=0)
    assert {name: len(g[name]) for name in g} == dict.fromkeys(spec.sites, 6)
    shapes = {name: None if part is None else part.shape for name, part in vars(g["qk"]).items()}
    assert shapes == {
        "perm": (6, 8), "sign": None, "scale": None, "matrix": (6, 2, 4, 4), "inverse": (6, 2, 4, 4), "shift": (6, 8),
    }  # fmt: skip
    assert g["residual"].matrix is not None
    assert g["residual"].matrix.shape == (6, 5, 5)
    assert len(g["residual"]) == 6, "of elements without a permutation too"
    assert g.take(2, 4)["qk"].matrix.shape == (2, 2, 4, 4)  # type: ignore[union-attr]
    assert np.shares_memory(g.take(2, 4)["qk"].matrix, g["qk"].matrix)
    assert repr(g["residual"]) == "SiteElements(matrix float64(6, 5, 5), inverse float64(6, 5, 5))"
    undone = nf.compose(nf.inverse(g), g)
    assert isinstance(undone, Elements)
    for name, site in spec.identity(6).items():
        for part, expected in vars(site).items():
            if expected is not None:
                np.testing.assert_allclose(getattr(undone[name], part), expected, atol=1e-12)


def test_no_elements() -> None:
    assert SPEC.sample(0).count == 0
    assert Orthogonal(3).sample(0).matrix.shape == (0, 3, 3)  # type: ignore[union-attr]
    assert Orthogonal(300).sample(0).matrix.shape == (0, 300, 300)  # type: ignore[union-attr]
    assert Translation(3).sample(0).shift.shape == (0, 3)  # type: ignore[union-attr]
    assert nf.inverse(SPEC.sample(0)).count == 0
    assert nf.compose(SPEC.sample(0), SPEC.sample(0)).count == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nf.compose(Orthogonal(3).sample(2), Orthogonal(4).sample(2)),
            r"b.matrix: expected shape \(2, 3, 3\), as in a, got \(2, 4, 4\)",
        ),
        (
            lambda: nf.compose(Affine(Orthogonal(3)).sample(2), Orthogonal(3).sample(2)),
            r"b.shift: expected shape \(2, 3\), as in a, got None",
        ),
        (
            lambda: nf.compose(Heads(2, Orthogonal(2)).sample(2), Orthogonal(4).sample(2)),
            r"b.perm: expected shape \(2, 4\), as in a, got None",
        ),
    ],
)
def test_wrong_arguments_are_named(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
