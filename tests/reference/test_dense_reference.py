# SPDX-License-Identifier: MIT
"""The measures of the dense groups, and that their elements lie in them: at fixed seeds, against exact laws.

A mean passes within five standard errors, a Kolmogorov-Smirnov test with p > 1e-3: one run at one seed, chosen once.
Moments of Haar matrices: Collins and Sniady, math-ph/0402073; of their traces: Diaconis and Shahshahani 1994.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    SpecialLinear,
    Translation,
)
from nnsym_fast.reference import philox4x32, sample, sample_site, words
from nnsym_fast.reference.dense import haar, matrix_words
from nnsym_fast.reference.philox import normals
from nnsym_fast.symmetry import SymmetrySpec

Array = npt.NDArray[Any]
EPSILON = 2.0**-52
N = 20_000


def matrices(group: Group, n: int = N, seed: int = 0, start: int = 0) -> Array:
    matrix = sample_site(group, n, seed, start).matrix
    assert matrix is not None
    return matrix


def assert_mean(values: Array, expected: float, label: str = "") -> None:
    """Over axis 0, within five standard errors."""
    error = np.std(values, axis=0) / math.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - expected) <= 5 * error + 1e-12), label


def p_value(a: Array, b: Array) -> float:
    """Whether two samples of numbers have one distribution."""
    return float(scipy.stats.ks_2samp(a, b).pvalue)


def statistics(m: Array) -> dict[str, Array]:
    """Numbers of a matrix that tell ensembles apart."""
    fixed = np.arange(m.shape[-1] ** 2).reshape(m.shape[-1], -1) * 7 % 11 - 5.0
    numbers = {
        "trace": np.trace(m, axis1=1, axis2=2),
        "corner": m[:, 0, 0],
        "fourth powers": (m**4).sum(axis=(1, 2)),
        "pairing": (m * fixed).sum(axis=(1, 2)),
        "product": m[:, 0, 0] * m[:, -1, -1],
        "trace of the square": (m * np.swapaxes(m, 1, 2)).sum(axis=(1, 2)),
    }
    # Equal up to rounding is equal: discrete parts have numbers that occur again and again.
    return {name: np.round(values, 9) for name, values in numbers.items()}


def p_values(a: Array, b: Array) -> dict[str, float]:
    theirs = statistics(b)
    return {name: p_value(ours, theirs[name]) for name, ours in statistics(a).items()}


def transposed(m: Array) -> Array:
    return np.swapaxes(m, -1, -2)


# --- the construction


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([1e-10, 1.0, 1e10]))
def test_a_product_of_reflections(n: int, seed: int, scale: float) -> None:
    """Q = Q_0 (1 + Q'), Q_0 symmetric with the first column x_0 / |x_0|, Q' the same of the minor without row 0."""
    gaussian = scale * np.random.default_rng(seed).standard_normal((3, n, n))
    q = haar(gaussian)
    np.testing.assert_allclose(transposed(q) @ q, np.broadcast_to(np.eye(n), q.shape), atol=8 * n * EPSILON)
    x = gaussian[:, 0]
    np.testing.assert_allclose(q[:, :, 0], x / np.linalg.norm(x, axis=1, keepdims=True), atol=8 * EPSILON)
    for k in range(3):
        axis = x[k] / np.linalg.norm(x[k])
        sign = 1.0 if axis[0] >= 0 else -1.0
        normal = axis + sign * np.eye(n)[0]
        reflection = sign * (2 * np.outer(normal, normal) / (normal @ normal) - np.eye(n))
        rest = np.eye(n)
        rest[1:, 1:] = haar(gaussian[k, 1:, 1:])
        np.testing.assert_allclose(q[k], reflection @ rest, atol=16 * n * EPSILON)
    lower = np.tril(np.ones((n, n)), -1)
    assert np.array_equal(haar(gaussian + scale * lower), q), "what is below the diagonal is not read"


def test_one_and_two_units() -> None:
    """(sign x) and (cos t, e sin t; sin t, -e cos t), t uniform, e a fair sign."""
    gaussian = np.random.default_rng(0).standard_normal((N, 2, 2))
    np.testing.assert_allclose(haar(gaussian[:, :1, :1])[:, 0, 0], np.sign(gaussian[:, 0, 0]), rtol=4 * EPSILON)
    q, x, e = haar(gaussian), gaussian[:, 0], np.sign(gaussian[:, 1, 1])
    t = np.arctan2(x[:, 1], x[:, 0])
    expected = np.array([[np.cos(t), e * np.sin(t)], [np.sin(t), -e * np.cos(t)]])
    np.testing.assert_allclose(q, np.moveaxis(expected, 2, 0), atol=8 * EPSILON)


def block_of_normals(site: int, part: int, block: int) -> list[float]:
    """Box-Muller of one block of Philox, seed 0, sample 0."""
    u = [(int(word) + 0.5) / 2**32 for word in philox4x32([0, 0, site, part << 28 | block], [0, 0])]
    radii = [math.sqrt(-2 * math.log(u[0])), math.sqrt(-2 * math.log(u[2]))]
    turns = [2 * math.pi * u[1], 2 * math.pi * u[3]]
    return [r * f(t) for r, t in zip(radii, turns, strict=True) for f in (math.cos, math.sin)]


def test_known_elements() -> None:
    """By hand for seed 0, sample 0, site 0: rows of normals begin at a block, and use their last entries."""
    x, y = block_of_normals(0, 4, 0), block_of_normals(0, 4, 1)
    radius, e = math.hypot(x[0], x[1]), math.copysign(1, y[1])
    q = np.array([[x[0], e * x[1]], [x[1], -e * x[0]]]) / radius
    np.testing.assert_allclose(matrices(Orthogonal(2), 1)[0], q, rtol=1e-14)
    s = [math.exp(0.5 * z) for z in block_of_normals(0, 3, 0)]
    second = haar(np.array([block_of_normals(0, 4, 2)[:2], block_of_normals(0, 4, 3)[:2]]))
    np.testing.assert_allclose(matrices(GeneralLinear(2), 1)[0], q @ np.diag(s[:2]) @ second, rtol=1e-13)
    angle = 2 * math.pi * (int(philox4x32([0, 0, 0, 4 << 28], [0, 0])[1]) + 0.5) / 2**32
    pair = s[1] * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    np.testing.assert_allclose(matrices(RotaryCommutant(4), 1)[0][1::2, 1::2], pair, rtol=1e-14)
    # Pairs first; what is not rotated begins at the next block, and its scales follow the radii.
    rows = np.array([block_of_normals(0, 4, block)[:2] for block in range(1, 5)])
    free = haar(rows[:2]) @ np.diag(s[1:3]) @ haar(rows[2:])
    np.testing.assert_allclose(matrices(RotaryCommutant(4, rotary=2), 1)[0][2:, 2:], free, rtol=1e-13)
    shift = sample_site(Translation(3, 0.25), 1, 0).shift
    np.testing.assert_allclose(shift, [0.25 * np.array(block_of_normals(0, 5, 0)[:3])], rtol=1e-14)
    words_of = {Orthogonal(5): 5 * 8, Orthogonal(5, keeps_mean=True): 4 * 4, GeneralLinear(6): 2 * 6 * 8}
    words_of[RotaryCommutant(10, rotary=6)] = 4 + 2 * 4 * 4
    assert {group: matrix_words(group) for group in words_of} == words_of


# --- Haar measure


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_moments_of_haar_matrices(n: int) -> None:
    q = matrices(Orthogonal(n))
    diagonal, off = q[:, 0, 0], q[:, 1, 0]
    assert_mean(q, 0)
    assert_mean(q**2, 1 / n)
    assert_mean(q**4, 3 / (n * (n + 2)))
    assert_mean(diagonal * off, 0)
    assert_mean(diagonal**2 * off**2, 1 / (n * (n + 2)))
    assert_mean(diagonal**2 * q[:, 1, 1] ** 2, (n + 1) / (n * (n - 1) * (n + 2)))
    assert_mean(diagonal * off * q[:, 0, 1] * q[:, 1, 1], -1 / (n * (n - 1) * (n + 2)))
    assert_mean(np.linalg.det(q), 0)
    np.testing.assert_allclose(np.abs(np.linalg.det(q)), 1, atol=1e-13)


def test_traces_of_powers() -> None:
    """tr Q^k is exactly Normal(1 for even k, variance k) in its first moments, as long as their degree is at most n."""
    q = matrices(Orthogonal(8))
    power, traces = np.broadcast_to(np.eye(8), q.shape), {}
    for k in range(1, 5):
        power = power @ q
        traces[k] = np.trace(power, axis1=1, axis2=2)
        assert_mean(traces[k], 1 - k % 2, f"tr Q^{k}")
    assert_mean(traces[1] ** 2, 1)
    assert_mean(traces[1] ** 4, 3)
    assert_mean((traces[2] - 1) ** 2, 2)
    assert_mean(traces[1] * traces[2], 0)
    assert_mean(traces[1] ** 2 * (traces[2] - 1), 0)


def rotation_of(n: int) -> Array:
    """A fixed rotation that is far from the identity."""
    q, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((n, n)))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return np.asarray(q)


INVARIANT = [Orthogonal(2), Orthogonal(5), GeneralLinear(1), GeneralLinear(4), SpecialLinear(2), SpecialLinear(5)]


@pytest.mark.parametrize("group", INVARIANT, ids=repr)
def test_measures_do_not_change_under_rotations(group: Group) -> None:
    """From the left and from the right."""
    m, other, r = matrices(group), matrices(group, start=N), rotation_of(group.size)
    for moved in (r @ other, other @ r, transposed(other)):
        assert min(p_values(m, moved).values()) > 1e-3


def test_haar_matrices_are_those_of_a_qr_decomposition_with_its_signs_fixed() -> None:
    """Mezzadri math-ph/0609050; without the signs, the same tests see the difference."""
    q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((N, 5, 5)))
    ours = matrices(Orthogonal(5))
    fixed = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    assert min(p_values(ours, fixed).values()) > 1e-3
    assert min(p_values(ours, q).values()) < 1e-9


def test_parts_heads_and_sites_are_independent() -> None:
    """All entries, and their squares, are uncorrelated between heads, between sites, and of the shifts."""
    heads = Heads(2, Affine(Orthogonal(3)), permute=False)
    spec = SymmetrySpec({"a": heads, "b": Orthogonal(3)}, {"w": ("a", "a*", "b", "b*"), "v": ("a+",)})
    elements = sample(spec, N, seed=3)
    assert elements["a"].shift is not None
    pieces = [elements["a"].matrix[:, 0], elements["a"].matrix[:, 1], elements["b"].matrix, elements["a"].shift]  # type: ignore[index]
    for power in (1, 2):
        flat = [np.asarray(piece).reshape(N, -1) ** power for piece in pieces]
        owner = np.repeat(np.arange(len(flat)), [piece.shape[1] for piece in flat])
        correlation = np.corrcoef(np.hstack(flat).T)
        assert np.abs(correlation[owner[:, None] != owner]).max() < 5 / math.sqrt(N)


# --- linear groups


@pytest.mark.parametrize("std", [0.05, 0.5, 1.5])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", [GeneralLinear, SpecialLinear])
def test_singular_values_are_exponentials_of_normals(kind: Any, n: int, std: float) -> None:
    """Sample by sample; of determinant 1: without their mean. So scale_std is the unit of the logarithmic condition."""
    element = sample_site(kind(n, std), 500, seed=2, site=7)
    row = 4 * -(-n // 4)
    logs = std * normals(words(2, np.arange(500), 7, "scale", row))[:, :n]
    if kind is SpecialLinear:
        logs = logs - logs.mean(axis=1, keepdims=True)
    assert element.matrix is not None
    values = np.linalg.svd(element.matrix, compute_uv=False)
    condition = values[:, :1] / values[:, -1:]
    allowed = 16 * n * EPSILON * condition
    assert np.all(np.abs(np.log(values) - np.sort(logs, axis=1)[:, ::-1]) <= allowed)
    assert element.inverse is not None
    for product in (element.matrix @ element.inverse, element.inverse @ element.matrix):
        assert np.all(np.abs(product - np.eye(n)) <= allowed[:, :, None])
    exact = np.linalg.inv(element.matrix)
    largest = np.abs(exact).max(axis=(1, 2), keepdims=True)
    assert np.all(np.abs(element.inverse - exact) <= allowed[:, :, None] * largest)
    if kind is SpecialLinear:
        assert np.all(np.abs(np.linalg.det(element.matrix) - 1) <= allowed[:, 0])


def test_determinants() -> None:
    """Of GL(n): both signs equally often, and log |det| ~ Normal(0, n std^2); independent of each other."""
    det = np.linalg.det(matrices(GeneralLinear(4, 0.3)))
    assert_mean(np.sign(det), 0)
    assert_mean(np.sign(det) * np.log(np.abs(det)), 0)
    assert scipy.stats.kstest(np.log(np.abs(det)) / (0.3 * 2), "norm").pvalue > 1e-3
    np.testing.assert_allclose(matrices(SpecialLinear(1)), 1, rtol=8 * EPSILON)


def test_both_factors_of_a_linear_group_are_haar() -> None:
    """K1 and K2, recovered from the singular value decomposition up to signs of their vectors, have Haar's moments."""
    for group in (GeneralLinear(3), SpecialLinear(3)):
        u, _, v = np.linalg.svd(matrices(group))
        for k in (u, v):
            assert_mean(k**2, 1 / 3)
            assert_mean(k**4, 3 / 15)
        assert_mean(u[:, 0, 0] ** 2 * v[:, 0, 0] ** 2, 1 / 9)
        assert_mean(matrices(group), 0)


def test_the_measure_of_the_commutant() -> None:
    """Angles are uniform, logarithms of radii normal, all independent; the free units carry a GL of their own."""
    group = RotaryCommutant(9, rotary=6, scale_std=0.4)
    m = matrices(group)
    angles = np.stack([np.arctan2(m[:, j, i], m[:, i, i]) for i, j in group.pairs], axis=1)
    logs = np.stack([np.log(np.hypot(m[:, j, i], m[:, i, i])) for i, j in group.pairs], axis=1) / 0.4
    for p in range(3):
        assert scipy.stats.kstest(angles[:, p] / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(logs[:, p], "norm").pvalue > 1e-3
    free = m[:, 6:, 6:]
    values = np.log(np.linalg.svd(free, compute_uv=False)) / 0.4
    other = np.log(np.linalg.svd(matrices(GeneralLinear(3, 0.4), start=N), compute_uv=False)) / 0.4
    assert min(p_value(values[:, k], other[:, k]) for k in range(3)) > 1e-3
    assert min(p_values(free, rotation_of(3) @ free[::-1]).values()) > 1e-3
    assert_mean(np.sign(np.linalg.det(free)), 0)
    numbers = np.hstack([np.cos(angles), np.sin(angles), logs, free.reshape(N, 9), values.sum(axis=1, keepdims=True)])
    assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 5 / math.sqrt(N)
    mixed = np.abs(m).max(axis=0)
    mixed[6:, 6:] = 0
    for i, j in group.pairs:
        mixed[np.ix_((i, j), (i, j))] = 0
    assert not mixed.any(), "nothing else mixes"


# --- norms


def layer_norm(x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5))


def rms_norm(x: Array) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5))


def breaks(norm: Any, matrix: Array) -> float:
    x = np.random.default_rng(0).standard_normal((7, matrix.shape[-1]))
    return float(np.abs(norm(x @ transposed(matrix)) - norm(x) @ transposed(matrix)).max())


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_what_norms_cannot_see(n: int) -> None:
    """RMSNorm commutes with every rotation, LayerNorm with those that keep the mean up to a sign, and no others."""
    all_of_them, keeping = matrices(Orthogonal(n), 100), matrices(Orthogonal(n, keeps_mean=True), 100)
    assert breaks(rms_norm, all_of_them) < 1e-13
    assert breaks(layer_norm, keeping) < 1e-13
    if n > 1:
        assert breaks(layer_norm, all_of_them) > 0.1
        assert breaks(rms_norm, matrices(GeneralLinear(n), 100)) > 0.1
    product = keeping @ transposed(keeping)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(n), product.shape), atol=1e-14 * n)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_rotations_that_keep_the_mean_are_o1_times_o(n: int) -> None:
    """R 1 = +-1; on the orthogonal complement of the ones a Haar matrix; all four components equally often."""
    group = Orthogonal(n, keeps_mean=True)
    r = matrices(group)
    sign = r.sum(axis=(1, 2)) / n
    np.testing.assert_allclose(np.abs(sign), 1, atol=1e-13)
    np.testing.assert_allclose(r.sum(axis=2), np.repeat(sign[:, None], n, axis=1), atol=1e-13)
    basis = np.linalg.qr(np.hstack([np.ones((n, 1)), np.random.default_rng(0).standard_normal((n, n - 1))]))[0][:, 1:]
    block = basis.T @ r @ basis
    assert_mean(block**2, 1 / (n - 1))
    assert_mean(block**4, 3 / ((n - 1) * (n + 1)))
    det = np.linalg.det(block)
    for numbers in (sign, det, sign * det, sign[:, None, None] * block):
        assert_mean(numbers, 0)
    if n > 2:
        fixed = r[np.argmax(sign * det < 0)]
        assert min(p_values(r, fixed @ matrices(group, start=N)).values()) > 1e-3


# --- shifts, heads, ties


def test_shifts_are_independent_normals() -> None:
    for group, std in ((Translation(5, 0.25), 0.25), (Affine(GeneralLinear(5), 2.0), 2.0)):
        shift = sample_site(group, N, seed=4).shift
        assert shift is not None
        assert min(scipy.stats.kstest(column / std, "norm").pvalue for column in shift.T) > 1e-3
        assert np.abs(np.corrcoef(shift.T) - np.eye(5)).max() < 5 / math.sqrt(N)


def test_heads_have_a_matrix_each_and_ties_one_permutation() -> None:
    sites: dict[str, Group] = {
        "alone": Heads(4, Orthogonal(2)),
        "qk": Heads(4, GeneralLinear(3), tie="0"),
        "vo": Heads(4, GeneralLinear(2), tie="0"),
        "q": Heads(4, Permutation(3), tie="0"),
        "next": Heads(4, Orthogonal(2), tie="1"),
    }
    spec = SymmetrySpec(sites, {"w": tuple(leg for name in sites for leg in (name, name + "*"))})
    elements = sample(spec, 2_000, seed=0)
    heads = {}
    for name, group in sites.items():
        perm = elements[name].perm
        assert perm is not None
        heads[name] = perm[:, :: group.head_size] // group.head_size
        _, counts = np.unique(heads[name], axis=0, return_counts=True)
        assert len(counts) == 24, "every permutation of the heads occurs"
        if group.dense:
            assert np.array_equal(perm % group.head_size, np.tile(np.arange(group.size) % group.head_size, (2_000, 1)))
            first = sample_site(group.unit_group, 2_000, 0, site=list(sites).index(name)).matrix
            matrix = elements[name].matrix
            assert matrix is not None
            assert np.array_equal(matrix[:, 0], first), "the first head draws what a site without heads draws"
    assert np.array_equal(heads["qk"], heads["vo"])
    assert np.array_equal(heads["qk"], heads["q"])
    for other in ("alone", "next"):
        assert_mean((heads[other] == heads["qk"]).mean(axis=1), 1 / 4)
    units = elements["q"].perm
    assert units is not None
    inner = units.reshape(2_000, 4, 3) % 3
    assert len(np.unique(inner.reshape(2_000, 12), axis=0)) > 6**4 // 2, "copies move in every head by themselves"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elements_are_drawn_in_float64_and_rounded(dtype: str) -> None:
    group = Heads(2, Affine(GeneralLinear(3)))
    narrow, wide = sample_site(group, 5, 0, dtype=dtype), sample_site(group, 5, 0)
    for name in ("matrix", "inverse", "shift"):
        part = getattr(narrow, name)
        assert part.dtype == dtype
        assert np.array_equal(part, getattr(wide, name).astype(dtype))
