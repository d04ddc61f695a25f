# SPDX-License-Identifier: MIT
"""What ``specs.transformer`` writes, what it takes, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformer_cases import CASES, GPT2, Case, Network, build, network

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.groups import GeneralLinear, Heads, Monomial, Permutation, RotaryCommutant
from nnsym_fast.specs.adapters import ADAPTERS

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
}


def legs(spec: nf.SymmetrySpec, name: str) -> list[str]:
    return [str(axis) for axis in spec.legs[name]]


def test_gpt2_has_concatenated_and_transposed_projections() -> None:
    spec = network("gpt2").spec()
    layer = "transformer.h.1."
    assert legs(spec, layer + "attn.c_attn.weight") == ["residual*", "h1.qk*[24] + h1.qk[24] + h1.vo[24]"]
    assert legs(spec, layer + "attn.c_attn.bias") == ["h1.qk*[24] + h1.qk+[24] + h1.vo[24]"]
    assert legs(spec, layer + "attn.c_proj.weight") == ["h1.vo*", "residual"]
    assert legs(spec, layer + "mlp.c_fc.weight") == ["residual*", "h1.mlp"]
    assert legs(spec, "transformer.wte.weight") == ["None", "residual"]
    assert list(spec.sites) == ["residual", "h0.qk", "h0.vo", "h0.mlp", "h1.qk", "h1.vo", "h1.mlp"]
    assert spec.sites["h1.vo"] == Heads(6, GeneralLinear(4), tie="h1.heads")


def test_llama_has_grouped_queries() -> None:
    spec = specs.transformer(LLAMA)
    layer = "model.layers.1."
    assert legs(spec, layer + "self_attn.q_proj.weight") == ["h1.qk*, 3 copies by h1.q", "residual*"]
    assert legs(spec, layer + "self_attn.k_proj.weight") == ["h1.qk", "residual*"]
    assert legs(spec, layer + "self_attn.o_proj.weight") == ["residual", "h1.vo*, 3 copies by h1.q"]
    assert legs(spec, layer + "mlp.gate_proj.weight") == ["h1.mlp^0", "residual*"]
    assert legs(spec, layer + "mlp.up_proj.weight") == ["h1.mlp", "residual*"]
    assert legs(spec, layer + "mlp.down_proj.weight") == ["residual", "h1.mlp*"]
    assert legs(spec, layer + "input_layernorm.weight") == ["residual^0"]
    assert spec.sites["h1.q"] == Heads(2, Permutation(3), tie="h1.heads")
    assert spec.sites["h1.qk"] == Heads(2, RotaryCommutant(4), tie="h1.heads")
    assert spec.sites["residual"] == Monomial(24, signs=True, scales=False)
    # continuous: per layer two heads of two pairs, two heads of GL(4), twenty factors
    assert spec.dimension == 2 * (2 * 4 + 2 * 16 + 20)


def test_without_heads_copies_follow_their_head() -> None:
    spec = specs.transformer(LLAMA, symmetries=["query-key", "value-output"])
    assert legs(spec, "model.layers.1.self_attn.q_proj.weight") == ["h1.qk*, 3 copies", "None"]
    assert spec.sites["h1.vo"] == Heads(2, GeneralLinear(4), permute=False)
    assert list(spec.sites) == ["h0.qk", "h0.vo", "h1.qk", "h1.vo"]


def test_the_choice_of_symmetries() -> None:
    alone = {name: specs.transformer(LLAMA, symmetries=[name]) for name in ("hidden", "heads", "residual")}
    assert set(alone["hidden"].sites) == {"h0.mlp", "h1.mlp"}
    assert set(alone["heads"].sites) == {"h0.heads", "h0.q", "h1.heads", "h1.q"}
    assert set(alone["residual"].sites) == {"residual"}
    # The order of the argument does not matter; a choice is no absence.
    assert specs.transformer(LLAMA, symmetries=("residual", "hidden")) == specs.transformer(
        LLAMA, symmetries={"hidden", "residual"}
    )
    assert specs.transformer(LLAMA, symmetries=()).sites == {}
    assert not alone["hidden"].absent


def test_what_is_absent_and_why() -> None:
    absent = {name: network(name).spec().absent for name in CASES}
    rotations = "rotations of the residual stream"
    assert set(absent["llama"]) == {"biases", rotations}
    assert "rotate=True" in absent["llama"][rotations]
    assert "rotary" in absent["llama"]["biases"]
    assert set(absent["gpt2"]) == {rotations}
    assert "QK-norm" in absent["qwen3"]["query-key"]
    assert "soft-capping" in absent["gemma2"]["biases"]
    assert absent["vit-body"]["biases"] == "there is no key bias"
    assert "output is the residual stream" in absent["bert-body"]["residual"]
    file = specs.transformer(network("mixtral").config)
    assert "experts" in file.absent
    assert "experts" not in absent["mixtral"]
    assert file.sites["h1.e3.mlp"] == Monomial(20, signs=True)
    assert network("llama").spec(rotate=True).absent == {"biases": absent["llama"]["biases"]}


def test_the_stream_of_a_body_moves_on_request() -> None:
    """Outputs move with it: by the same permutation in every token."""
    net = network("bert-body")
    spec = net.spec(symmetries=["residual"])
    element = spec.sample(1)
    moved = {name: value[0] for name, value in nf.act(spec, element, net.params).items()}
    stream, pooled = net.outputs(net.params)
    after, pooled_after = net.outputs(moved)
    np.testing.assert_allclose(after, stream[..., element["residual"].perm[0]], atol=1e-12)
    np.testing.assert_allclose(pooled_after, pooled, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_tensors_may_be_names_shapes_or_arrays(name: str) -> None:
    net = network(name)
    model = build(CASES[name])
    spec = net.spec()
    assert specs.transformer(model.config, tensors=list(net.params)) == specs.transformer(
        model.config, tensors={key: value.shape for key, value in net.params.items()}
    )
    # The config of a new model does not name its class: the tensors tell.
    assert model.config.architectures is None
    assert specs.transformer(model.config, tensors=list(net.params)) == spec
    # A state_dict holds a tied head a second time.
    state = specs.transformer(net.config, tensors=model.state_dict())
    assert {key: state.legs[key] for key in spec.legs} == dict(spec.legs)
    assert state.sites == spec.sites


def test_prefixes_old_names_and_constants() -> None:
    net = network("bert-body")
    old: dict[str, tuple[int, ...]] = {"0.auto_model.embeddings.position_ids": (1, 32)}
    for name, value in net.params.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old["0.auto_model." + name] = value.shape
    spec = specs.transformer(net.config, symmetries=["residual"], tensors=old)
    assert legs(spec, "0.auto_model.encoder.layer.1.output.LayerNorm.gamma") == ["residual"]
    assert spec.legs["0.auto_model.embeddings.position_ids"] == (None, None)
    assert spec.state == {"0.auto_model.embeddings.position_ids"}
    by_name = specs.transformer(net.config, symmetries=["residual"], tensors=list(old))
    assert by_name == spec


def test_tensors_of_other_classes_in_the_file() -> None:
    """bert-base-uncased holds the pooler and both heads, whatever class its config names."""
    net = network("bert-pretraining")
    config = net.config | {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": True}
    spec = specs.transformer(config, tensors=net.params)
    assert legs(spec, "bert.pooler.dense.weight") == ["pooled", "residual*"]
    assert legs(spec, "cls.seq_relationship.weight") == ["None", "pooled*"]
    assert legs(spec, "cls.predictions.transform.dense.weight") == ["residual", "residual*"]
    # The class decides what a classifier reads.
    tensors = {name: value.shape for name, value in network("bert-sequences").params.items()}
    config = network("bert-sequences").config
    assert legs(specs.transformer(config, tensors=tensors), "classifier.weight") == ["None", "pooled*"]
    tokens = specs.transformer(config | {"architectures": ["BertForTokenClassification"]}, tensors=tensors)
    assert legs(tokens, "classifier.weight") == ["None", "residual*"]
    assert legs(tokens, "bert.pooler.dense.weight") == ["None", "residual*"]


def test_an_unknown_activation_is_elementwise() -> None:
    net = Network("quick", Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"activation_function": "quick_gelu"}))
    assert net.spec().sites["h0.mlp"] == Permutation(20)
    assert net.spec() == specs.transformer(net.config | {"activation_function": "new one"}, tensors=net.params)
    with pytest.raises(ValueError, match="'prelu' has parameters"):
        specs.transformer(net.config | {"activation_function": "prelu"})


def test_json_keeps_folds_and_reasons() -> None:
    for spec in (network("llama").spec(rotate=True), network("gemma2").spec(), network("mixtral").spec()):
        again = nf.SymmetrySpec.from_json(spec.to_json())
        assert again == spec
        assert again.absent == spec.absent
        assert again.folds == spec.folds


# --- errors: one line that names the argument and the remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, r"'mamba' is not known; expected one of bert, .*SymmetrySpec"),
        ({"model_type": None}, r"model_type None is not known"),
        ({"hidden_size": "24"}, r"'hidden_size' is '24'; expected an integer"),
        ({"num_attention_heads": 5}, r"'num_attention_heads' is 5; expected a multiple of 'num_key_value_heads', 2"),
        ({"hidden_size": 25}, r"'hidden_size' is 25; expected a multiple of 'num_attention_heads', 6"),
        ({"head_dim": 3}, r"turns pairs, but a head has 3 entries"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"'partial_rotary_factor' is 0\.5, but .*whole heads"),
        ({"quantization_config": {"bits": 4}}, r"quantised; expected floating-point weights"),
        ({"architectures": ["LlamaForRewards"]}, r"'LlamaForRewards' .* is not known; .*tensors="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configs_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config: .*{message}") as caught:
        specs.transformer(LLAMA | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
def test_missing_entries_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"^config: '{key}' is missing; .*'llama'"):
        specs.transformer({name: value for name, value in LLAMA.items() if name != key})


def test_variants_that_the_tables_do_not_cover() -> None:
    with pytest.raises(ValueError, match="'add_cross_attention' is True"):
        specs.transformer(network("gpt2").config | {"add_cross_attention": True})
    with pytest.raises(ValueError, match="'position_embedding_type' is 'relative_key'"):
        specs.transformer(network("bert").config | {"position_embedding_type": "relative_key"})


def test_arguments_of_the_wrong_type() -> None:
    with pytest.raises(TypeError, match=r"config: expected a dict .* got int"):
        specs.transformer(3)
    with pytest.raises(TypeError, match=r"symmetries: .* write \['hidden'\]"):
        specs.transformer(LLAMA, symmetries="hidden")
    with pytest.raises(ValueError, match=r"symmetries: expected some of hidden, .*; got 'colour'"):
        specs.transformer(LLAMA, symmetries=["colour"])
    with pytest.raises(TypeError, match="rotate: expected True or False, got 1"):
        specs.transformer(LLAMA, rotate=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add 'residual', or set rotate=False"):
        specs.transformer(LLAMA, symmetries=["hidden"], rotate=True)
    with pytest.raises(TypeError, match="tensors: expected the names"):
        specs.transformer(LLAMA, tensors="model.norm.weight")
    with pytest.raises(TypeError, match=r"tensors\['a'\]: expected a shape or an array, got int"):
        specs.transformer(LLAMA, tensors={"a": 3})


@pytest.mark.parametrize(
    ("name", "symmetry", "reason"),
    [("llama", "biases", "rotary"), ("qwen3", "query-key", "QK-norm"), ("vit-body", "biases", "no key bias")],
)
def test_a_symmetry_that_is_not_there(name: str, symmetry: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^symmetries: .* lacks {symmetry!r}: .*{reason}"):
        network(name).spec(symmetries=[symmetry])


def test_tensors_that_do_not_fit_the_config() -> None:
    shapes = {name: value.shape for name, value in network("mistral").params.items()}
    config = network("mistral").config
    gate, key = "model.layers.1.mlp.gate_proj.weight", "model.layers.0.self_attn.k_proj.weight"

    def refused(tensors: dict[str, Any], message: str, **change: Any) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            specs.transformer(config | change, tensors=tensors)
        assert "\n" not in str(caught.value)

    refused({name: shapes[name] for name in shapes if name != gate}, f"{gate!r} missing")
    refused(shapes | {"model.layers.1.lora_A": (3,)}, "'model.layers.1.lora_A' is not in the table of .*'mistral'")
    refused(shapes | {key: (9, 24)}, r"k_proj.weight' has shape \(9, 24\), but axis 0 \(k\) has length 8 .*head_dim 4")
    refused(shapes | {key: (8,)}, r"k_proj.weight' has shape \(8,\); expected 2 axes")
    refused(shapes, r"layers\.1\..* is there, but the config says num_hidden_layers = 1", num_hidden_layers=1)
    refused(shapes, "last layer is number 1, but .* num_hidden_layers = 3; .* missing", num_hidden_layers=3)
    refused(shapes, r"axis \d \(\w+\*?\) has length 32 by the config \(hidden_size 32\)", hidden_size=32)
    refused({"wte.weight": (50, 24)}, r"one tensor whose name ends in 'embed_tokens\.weight', found none")
    refused(shapes | {"other.embed_tokens.weight": (50, 24)}, "found more than one: model.embed_tokens")
    # Shapes are checked where no symmetry acts, too.
    with pytest.raises(ValueError, match="axis 0"):
        specs.transformer(config, symmetries=["hidden"], tensors=shapes | {key: (9, 24)})


def test_every_architecture_has_cases() -> None:
    assert {network(name).config["model_type"] for name in CASES} == set(ADAPTERS)
