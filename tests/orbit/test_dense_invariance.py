# SPDX-License-Identifier: MIT
"""What a transformer cannot see: rotary embeddings and norms commute with their groups, and whole blocks with all.

The groups are all there is: their dimensions are those of the solutions of the equations that define them. And negative
controls: other groups, other legs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from orbit_cases import Params
from tolerances import BROKEN, INVARIANCE_FLOAT32, INVARIANCE_FLOAT64

import nnsym_fast as nf
from nnsym_fast.groups import Affine, GeneralLinear, Group, Heads, Orthogonal, Permutation, RotaryCommutant
from nnsym_fast.reference import act, sample_site
from nnsym_fast.symmetry import Axis, Leg, SymmetrySpec

Array = npt.NDArray[Any]


def matrices(group: Group, n: int) -> Array:
    matrix = sample_site(group, n, seed=0).matrix
    assert matrix is not None
    return matrix


def transposed(m: Array) -> Array:
    return np.swapaxes(m, -1, -2)


def dimension_of(constraints: list[Array]) -> int:
    """Dimension of the matrices X with every constraint @ vec X = 0."""
    stacked = np.vstack(constraints)
    return int(stacked.shape[1] - np.linalg.matrix_rank(stacked))


# --- rotary embeddings


def rotary_embedding(x: Array, position: float, layout: str, rotary: int) -> Array:
    """What networks do to x (..., n): GPT-NeoX and Llama ("half"), GPT-J ("interleaved"); the last units stay."""
    angle = position * 10_000.0 ** (-np.arange(0, rotary, 2) / rotary)
    turned, rest = x[..., :rotary], x[..., rotary:]
    if layout == "half":
        cos, sin = np.cos(np.tile(angle, 2)), np.sin(np.tile(angle, 2))
        first, second = np.split(turned, 2, axis=-1)
        swapped = np.concatenate([-second, first], axis=-1)
    else:
        cos, sin = np.cos(np.repeat(angle, 2)), np.sin(np.repeat(angle, 2))
        swapped = np.stack([-turned[..., 1::2], turned[..., ::2]], axis=-1).reshape(turned.shape)
    return np.concatenate([turned * cos + swapped * sin, rest], axis=-1)


ROTARY = [
    RotaryCommutant(2),
    RotaryCommutant(8),
    RotaryCommutant(8, "interleaved"),
    RotaryCommutant(10, rotary=4),
    RotaryCommutant(9, "interleaved", rotary=6),
]


def moves(group: RotaryCommutant, layout: str, matrix: Array) -> float:
    """The largest |R_t g x - g R_t x| over positions, units and elements."""
    assert group.rotary is not None
    units, rotary = np.eye(group.n), group.rotary
    changes = [
        # Row u of a product with g^T is g applied to unit u.
        rotary_embedding(units @ transposed(matrix), t, layout, rotary)
        - rotary_embedding(units, t, layout, rotary) @ transposed(matrix)
        for t in (1.0, 2.5, 1000.0)
    ]
    return float(np.abs(changes).max())


@pytest.mark.parametrize("group", ROTARY, ids=repr)
def test_the_commutant_commutes(group: RotaryCommutant) -> None:
    """And neither a matrix of the other layout nor a general one does."""
    element = sample_site(group, 50, seed=1)
    assert element.matrix is not None
    assert element.inverse is not None
    assert moves(group, group.layout, element.matrix) < 1e-13
    assert moves(group, group.layout, element.inverse) < 1e-13
    product = element.matrix @ element.inverse - np.eye(group.n)
    assert np.abs(product).max() < 1e-13
    assert moves(group, group.layout, matrices(GeneralLinear(group.n), 50)) > 0.1
    other = "half" if group.layout == "interleaved" else "interleaved"
    if group.rotary != 2:
        assert moves(group, other, element.matrix) > 0.1


@pytest.mark.parametrize("group", ROTARY, ids=repr)
def test_scores_of_rotary_attention_do_not_change(group: RotaryCommutant) -> None:
    """<R_s g^-T q, R_t g k> = <R_s q, R_t k>: queries carry the dual leg."""
    assert group.rotary is not None
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 6, group.n))
    element = sample_site(group, 10, seed=1)
    assert element.matrix is not None
    assert element.inverse is not None

    def scores(queries: Array, keys: Array) -> Array:
        turned = rotary_embedding(queries, 3.0, group.layout, group.rotary or 0)
        return turned @ transposed(rotary_embedding(keys, 17.0, group.layout, group.rotary or 0))

    moved = scores(q @ element.inverse, k @ transposed(element.matrix))
    np.testing.assert_allclose(moved, np.broadcast_to(scores(q, k), moved.shape), atol=1e-12)
    assert np.abs(scores(q, k @ transposed(element.matrix)) - scores(q, k)).max() > 0.1, "both must move"


@pytest.mark.parametrize("group", ROTARY, ids=repr)
def test_the_commutant_is_all_of_it(group: RotaryCommutant) -> None:
    """Its dimension is that of the solutions of X R_t = R_t X."""
    assert group.rotary is not None
    one = np.eye(group.n)
    turns = [transposed(rotary_embedding(one, t, group.layout, group.rotary)) for t in (1.0, 2.5, 40.0)]
    assert group.dimension == dimension_of([np.kron(one, r.T) - np.kron(r, one) for r in turns])


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
def test_these_rotations_are_all(n: int) -> None:
    # Skew matrices that annihilate the ones: X + X^T = 0, X 1 = 0.
    one, ones = np.eye(n), np.ones((1, n))
    swap = np.eye(n * n).reshape(n, n, n, n).swapaxes(0, 1).reshape(n * n, n * n)
    assert Orthogonal(n, keeps_mean=True).dimension == dimension_of([np.eye(n * n) + swap, np.kron(one, ones)])
    assert Orthogonal(n).dimension == dimension_of([np.eye(n * n) + swap])


# --- whole blocks, by the kernels

KV, COPIES, HEAD, WIDTH, HIDDEN, TOKENS, WORDS = 2, 3, 4, 10, 7, 5, 6
LAYOUT = "interleaved"


def block(kind: str, unit: Group, residual: Group) -> SymmetrySpec:
    """Embedding, grouped-query attention, a gated layer, and the head; "gpt": with biases, without rotary embedding."""
    sites: dict[str, Group] = {
        "residual": residual,
        "qk": Heads(KV, unit, tie="0"),
        "vo": Heads(KV, GeneralLinear(HEAD, 0.3), tie="0"),
        "q": Heads(KV, Permutation(COPIES), tie="0"),
        "mlp": Permutation(HIDDEN),
    }
    query = Leg("qk", dual=True, copies=COPIES, order="q")
    legs: dict[str, tuple[Any, ...]] = {
        "embed": (None, "residual"),
        "q": (query, "residual*"),
        "k": ("qk", "residual*"),
        "v": ("vo", "residual*"),
        "o": ("residual", Leg("vo", dual=True, copies=COPIES, order="q")),
        "gate": ("mlp", "residual*"),
        "up": ("mlp", "residual*"),
        "down": ("residual", "mlp*"),
        "head": (None, "residual*"),
    }
    if kind == "gpt":
        biases = {"q.b": (query,), "k.b": ("qk+",), "v.b": ("vo",), "o.b": ("residual",), "up.b": ("mlp",)}
        legs |= biases
    return SymmetrySpec(sites, legs)


BLOCKS = {
    "llama": block("llama", RotaryCommutant(HEAD, LAYOUT, scale_std=0.3), Orthogonal(WIDTH)),
    "gpt": block("gpt", Affine(GeneralLinear(HEAD, 0.3)), Orthogonal(WIDTH, keeps_mean=True)),
}
FREE = {"embed": WORDS, "head": WORDS}


def weights(spec: SymmetrySpec, dtype: str = "float64") -> Params:
    rng = np.random.default_rng(0)
    shapes = {name: [spec.axis_length(axis) or FREE[name] for axis in axes] for name, axes in spec.legs.items()}
    return {name: (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(dtype) for name, shape in shapes.items()}


def forward(kind: str, w: Params) -> Array:
    """Logits (..., tokens, words) of one sequence."""

    def linear(x: Array, name: str) -> Array:
        y = x @ transposed(w[name])
        return y + w[name + ".b"][..., None, :] if name + ".b" in w else y

    norm = layer_norm if kind == "gpt" else rms_norm
    x = w["embed"][..., [3, 1, 4, 1, 5], :]
    y = norm(x)
    q, k, v = (linear(y, name) for name in "qkv")
    lead = q.shape[:-1]
    q, k, v = (part.reshape(*lead, -1, HEAD) for part in (q, k, v))
    if kind == "llama":
        turn = range(TOKENS)
        q, k = (np.stack([rotary_embedding(p[..., t, :, :], t, LAYOUT, HEAD) for t in turn], -3) for p in (q, k))
    q = q.reshape(*lead, KV, COPIES, HEAD)
    scores = np.exp(np.einsum("...saci,...tai->...acst", q, k) / HEAD**0.5)
    mixed = np.einsum("...acst,...tai->...saci", scores / scores.sum(axis=-1, keepdims=True), v)
    x = x + linear(mixed.reshape(*lead, -1), "o")
    y = norm(x)
    gate = linear(y, "gate")
    x = x + linear(gate / (1 + np.exp(-gate)) * linear(y, "up"), "down")
    return linear(norm(x), "head")


def change(kind: str, spec: SymmetrySpec, params: Params) -> float:
    base = forward(kind, params)
    with np.errstate(over="ignore", invalid="ignore"):  # a wrong leg may overflow
        moved = forward(kind, nf.Orbit(params, spec, seed=1)[0:20])
    return float(np.nan_to_num(np.abs(moved - base), nan=np.inf).max() / np.abs(base).max())


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_invariant_in_float64(isa: str, kind: str) -> None:
    params = weights(BLOCKS[kind])
    assert change(kind, BLOCKS[kind], params) < INVARIANCE_FLOAT64
    moved = nf.Orbit(params, BLOCKS[kind], seed=1)[0]
    for name, array in params.items():
        assert np.abs(moved[name] - array).max() > BROKEN, "everything moves"


@pytest.mark.parametrize("kind", BLOCKS)
def test_in_float32_points_err_as_exact_ones_that_are_rounded(isa: str, kind: str) -> None:
    """RMS error of the function over points against that of points computed in float64 and rounded to float32."""
    spec = BLOCKS[kind]
    params = weights(spec, "float32")
    wide = {name: array.astype(np.float64) for name, array in params.items()}
    exact = forward(kind, wide)
    orbit = nf.Orbit(params, spec, seed=1)
    rounded = {n: array.astype(np.float32) for n, array in act(spec, orbit.elements(0, 50), wide).items()}
    own, theirs = forward(kind, orbit[0:50]) - exact, forward(kind, rounded) - exact
    assert np.sqrt((own**2).mean()) <= INVARIANCE_FLOAT32 * np.sqrt((theirs**2).mean())


def with_axis(spec: SymmetrySpec, name: str, number: int, axis: Axis) -> SymmetrySpec:
    axes = spec.legs[name]
    uses = {f"use {site}": (Leg(site), Leg(site, dual=True)) for site in spec.sites}
    return SymmetrySpec(spec.sites, {**spec.legs, name: (*axes[:number], axis, *axes[number + 1 :]), **uses})


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_wrong_leg_breaks_the_function(kind: str) -> None:
    """Each leg left out, each turned round, copies that follow their head instead of their order."""
    spec = BLOCKS[kind]
    params = weights(spec)
    unused = {f"use {site}": np.zeros((group.size, group.size)) for site, group in spec.sites.items()}
    broken = 0
    for name, axes in spec.legs.items():
        for number, leg in enumerate(axes):
            # Softmax does not see a key's bias, so it may carry any leg.
            if not isinstance(leg, Leg) or name == "k.b":
                continue
            wrong: list[Axis] = [None]
            if spec.sites[leg.site].scale_std > 0:
                wrong.append(replace(leg, dual=not leg.dual, affine=False))
            if leg.order:
                wrong.append(replace(leg, order=""))
            for axis in wrong:
                found = change(kind, with_axis(spec, name, number, axis), params | unused)
                assert found > BROKEN, f"{name}, axis {number}: {leg} instead of {axis}"
                broken += 1
    assert broken >= 20


def test_a_larger_group_breaks_the_function() -> None:
    """GL behind a rotary embedding, rotations before a LayerNorm, shifted keys behind a rotary embedding."""
    params = weights(BLOCKS["llama"])
    larger = block("llama", GeneralLinear(HEAD, 0.3), Orthogonal(WIDTH))
    assert change("llama", larger, params) > BROKEN
    other = block("llama", RotaryCommutant(HEAD, "half", scale_std=0.3), Orthogonal(WIDTH))
    assert change("llama", other, params) > BROKEN
    params = weights(BLOCKS["gpt"])
    assert change("gpt", block("gpt", Affine(GeneralLinear(HEAD, 0.3)), Orthogonal(WIDTH)), params) > BROKEN
    rotary = block("gpt", Affine(RotaryCommutant(HEAD, LAYOUT)), Orthogonal(WIDTH))
    for shifted in (True, False):
        legs = {**rotary.legs, "k.b": (Leg("qk", affine=shifted),)}
        moved = SymmetrySpec(rotary.sites, legs)
        assert (change("llama", moved, params) > BROKEN) == shifted
