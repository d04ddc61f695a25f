# SPDX-License-Identifier: MIT
"""Configs that contradict their tensors on axes that nothing acts on, damaged configs, and integers for weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from safetensors.numpy import load_file, save_file
from transformer_cases import CASES, GROUPED, IMAGES, SIZES, Case, build, network

from nnsym_fast import specs
from nnsym_fast.specs.adapters import ADAPTERS
from nnsym_fast.specs.adapters_names import MOST

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 50} | GROUPED


def refused(config: dict[str, Any], message: str, tensors: Any = None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        specs.transformer(config, tensors=tensors)
    assert "\n" not in str(caught.value)


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in network(name).params.items()}


# --- axes that can be observed


def contradictions() -> list[tuple[str, dict[str, Any]]]:
    """Every case with each entry of its config that sets such an axis, changed."""
    found = []
    for name, case in CASES.items():
        changes: list[dict[str, Any]] = [{"vocab_size": 51}]
        if case.config == "GPT2Config":
            changes.append({"n_positions": 33})
        if case.config == "BertConfig":
            changes += [{"max_position_embeddings": 33}, {"type_vocab_size": 3}]
        if case.config == "ViTConfig":
            changes = [{"image_size": 12}, {"image_size": [8, 12]}, {"patch_size": 2}, {"num_channels": 1}]
        if case.model == "ViTModel":
            changes.append({"pooler_output_size": 7})
        if case.model == "ViTForMaskedImageModeling":
            changes.append({"encoder_stride": 2})
        if case.model.endswith(("SequenceClassification", "TokenClassification", "ImageClassification")):
            changes += [{"id2label": {str(label): "" for label in range(5)}}, {"id2label": None, "num_labels": 5}]
        found += [(name, change) for change in changes]
    return found


CONTRADICTIONS = contradictions()


@pytest.mark.parametrize(("name", "change"), CONTRADICTIONS, ids=lambda v: "-".join(v) if isinstance(v, dict) else v)
def test_lengths_that_contradict_the_config(name: str, change: dict[str, Any]) -> None:
    config, shapes = network(name).config, shapes_of(name)
    specs.transformer(config, tensors=shapes)
    key = [key for key in change if change[key] is not None][-1]
    refused(config | change, rf"^tensors: .* has shape .*, but axis \d \(\w+\) has length \d+ by .*{key}", shapes)
    # What the config does not state cannot be contradicted.
    if key not in ("pooler_output_size",):
        specs.transformer({k: v for k, v in config.items() if k not in change}, tensors=shapes)


def test_every_architecture_has_a_contradiction() -> None:
    assert {network(name).config["model_type"] for name, _ in CONTRADICTIONS} == set(ADAPTERS)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"vocab_size": "50"}),
        ("llama", {"vocab_size": 0}),
        ("bert", {"num_labels": -1, "id2label": None}),
        ("vit", {"image_size": "8"}),
        ("vit", {"patch_size": [4, 4, 4]}),
    ],
)
def test_lengths_that_are_no_numbers(name: str, change: dict[str, Any]) -> None:
    refused(network(name).config | change, f"^config: '{next(iter(change))}' is .*; expected an integer >= 1")


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("wider images", Case("ViTModel", "ViTConfig", IMAGES | {"image_size": [8, 12], "pooler_output_size": 7})),
        ("one label", Case("LlamaForSequenceClassification", "LlamaConfig", GROUPED | {"num_labels": 1})),
        ("seven labels", Case("BertForTokenClassification", "BertConfig", SIZES | {"num_labels": 7})),
        ("no class names", Case("BertForMultipleChoice", "BertConfig", SIZES | {"num_labels": 4})),
        ("questions", Case("LlamaForQuestionAnswering", "LlamaConfig", GROUPED | {"num_labels": 4})),
        ("two heads", Case("GPT2DoubleHeadsModel", "GPT2Config", {"n_embd": 24, "n_layer": 2, "n_head": 6})),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_valid_models_with_other_lengths(kind: str, case: Case) -> None:
    model = build(case)
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    config = model.config.to_dict()
    for named in ([case.model], None):
        specs.transformer(config | {"architectures": named}, tensors=shapes)


def test_a_resized_embedding(tmp_path: Path) -> None:
    """Padding the vocabulary changes the config with it."""
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED))
    model.resize_token_embeddings(51, pad_to_multiple_of=16)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].shape[0] == 64
    specs.infer(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 51}))
    with pytest.raises(ValueError, match=r"length 51 by the config \(vocab_size 51\)"):
        specs.infer(tmp_path)


def test_scores_of_experts() -> None:
    """In files the experts are tensors of their own, and the router's rows have no leg."""
    config = network("mixtral").config
    names = specs.transformer(config).legs
    router = "model.layers.1.mlp.gate.weight"
    refused(config, r"axis 0 \(experts\) has length 4", shapes_of("mixtral") | {router: (5, 24)})
    router = next(name for name in names if name.endswith("layers.1.block_sparse_moe.gate.weight"))
    spec = specs.transformer(config)
    sides = {"residual": 24, "mlp": 20}
    shapes = {
        name: tuple(next((n for end, n in sides.items() if end in str(leg)), 0) for leg in axes)
        for name, axes in spec.legs.items()
    }
    refused(config, r"\(routes\) has length 4 .*num_local_experts 4", {router: (5, 24)} | _file_shapes(shapes))


def _file_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """True shapes of the parts of Mixtral whose axes the legs do not tell."""
    ends = {"embed_tokens.weight": (50, 24), "lm_head.weight": (50, 24), "q_proj.weight": (24, 24)}
    ends |= {"k_proj.weight": (8, 24), "v_proj.weight": (8, 24), "o_proj.weight": (24, 24)}
    return {
        name: next((true for end, true in ends.items() if name.endswith(end)), shape)
        for name, shape in shapes.items()
        if not name.endswith("layers.1.block_sparse_moe.gate.weight")
    } | {name: (4, 24) for name in shapes if name.endswith("layers.0.block_sparse_moe.gate.weight")}


# --- absurd counts


@pytest.mark.parametrize("layers", [3, MOST + 1, 10**7, 10**18])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "vit"])
def test_more_layers_than_tensors(name: str, layers: int) -> None:
    """Refused before any name is written: 10**18 names would never end."""
    net = network(name)
    key = ADAPTERS[net.config["model_type"]].keys["layers"]
    message = f"^tensors: the last layer is number 1, but the config says {key} = {layers}"
    refused(net.config | {key: layers}, message, net.params)
    refused(net.config | {key: layers}, message, list(net.params))
    if layers > MOST:
        refused(net.config | {key: layers}, f"^config: {key} = {layers} .*expected at most {MOST}")
    else:
        specs.transformer(net.config | {key: layers})


def test_more_experts_than_tensors() -> None:
    net = network("mixtral")
    names = list(specs.transformer(net.config).legs)
    for experts in (5, 10**18):
        config = net.config | {"num_local_experts": experts}
        refused(config, f"last expert is number 3, but .* num_local_experts = {experts}", names)
    refused(config, f"^config: num_hidden_layers = 2 with num_local_experts = {experts}", net.params)
    refused(config, f"^config: num_hidden_layers = 2 with num_local_experts = {experts}")


def test_no_layer_at_all() -> None:
    refused(
        LLAMA, "no layer is there, but the config says num_hidden_layers = 2", {"model.embed_tokens.weight": (50, 24)}
    )


# --- damaged entries


@pytest.mark.parametrize("value", ["x", 5, ["x"]])
def test_rope_parameters_that_are_no_object(value: Any) -> None:
    refused(LLAMA | {"rope_parameters": value}, "^config: 'rope_parameters' is .*; expected an object")


def test_rope_parameters_that_are_objects() -> None:
    plain = specs.transformer(LLAMA)
    for value in (None, {}, {"rope_theta": 1e4}, {"full_attention": {"partial_rotary_factor": 1.0}}):
        assert specs.transformer(LLAMA | {"rope_parameters": value}) == plain
    for value in ({"partial_rotary_factor": 0.5}, {"full_attention": {"partial_rotary_factor": 0.5}}):
        refused(LLAMA | {"rope_parameters": value}, r"'partial_rotary_factor' is 0\.5")


@pytest.mark.parametrize("value", [5, "LlamaForCausalLM", [5], [None], {"a": "b"}])
def test_architectures_that_are_no_list_of_names(value: Any) -> None:
    refused(LLAMA | {"architectures": value}, "^config: 'architectures' is .*; expected a list")


@pytest.mark.parametrize("name", ["LlamaForRewardModel", "Model", "Qwen2Model", "MyLlamaModel"])
def test_only_the_body_is_the_body(name: str) -> None:
    refused(LLAMA | {"architectures": [name]}, f"^config: the class '{name}' .* is not known")


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_the_body_of_every_architecture(adapter: Any) -> None:
    case = next(case for name, case in CASES.items() if network(name).config["model_type"] == adapter.model_type)
    body = case.config.removesuffix("Config") + "Model"
    assert hasattr(hf, body)
    config = getattr(hf, case.config)(**case.arguments).to_dict() | {"architectures": [body]}
    assert "residual" in specs.transformer(config).absent
    refused(config | {"architectures": [body.replace("Model", "ForRewardModel")]}, "ForRewardModel' .* is not known")


def test_no_quantisation() -> None:
    assert specs.transformer(LLAMA | {"quantization_config": None}) == specs.transformer(LLAMA)


# --- files


def save(name: str, folder: Path, **options: Any) -> Path:
    network(name).model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool"])
@pytest.mark.parametrize("end", ["layers.0.mlp.up_proj.weight", "layers.0.self_attn.k_proj.bias"])
def test_weights_that_are_integers(kind: str, end: str, tmp_path: Path) -> None:
    file = save("llama", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    name = "model." + end
    save_file(tensors | {name: tensors[name].astype(kind)}, file)
    with pytest.raises(ValueError, match=f"tensor '{name}' is stored as .*; expected floating-point") as caught:
        specs.infer(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("kind", ["uint8", "bool", "int64", "float32"])
def test_constants_that_are_integers(kind: str, tmp_path: Path) -> None:
    file = save("gpt2", tmp_path) / "model.safetensors"
    mask = {"transformer.h.0.attn.bias": np.ones((1, 1, 32, 32), kind)}
    before = specs.infer(tmp_path)
    save_file(load_file(file) | mask, file)
    spec = specs.infer(tmp_path)
    assert spec.state == set(mask)
    assert spec.sites == before.sites


def test_the_single_file_comes_before_an_index(tmp_path: Path) -> None:
    """As for jobs, which read the weights of the same folder."""
    save("llama", tmp_path)
    plain = specs.infer(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert specs.infer(tmp_path) == plain
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        specs.infer(tmp_path)
