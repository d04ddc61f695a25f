# SPDX-License-Identifier: MIT
"""Checkpoint folders: whatever is wrong with one is said in one line, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_helpers import LLAMA, Outcome, tree, write_llama
from safetensors.numpy import load_file, save_file

from nnsym_fast import specs
from nnsym_fast.job import checkpoint as checkpoints
from nnsym_fast.job.checkpoint import load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.folder import is_folder, open_folder
from nnsym_fast.job.lazy import LazyTensor

ml_dtypes = pytest.importorskip("ml_dtypes")

INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def rewrite(folder: Path, edit: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """The same network in one file, its tensors edited."""
    tensors = {name: array for shard in shards(folder) for name, array in load_file(shard).items()}
    edit(tensors)
    for path in [*shards(folder), folder / INDEX]:
        path.unlink(missing_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_the_tensors_are_those_of_the_shards(llama: Path) -> None:
    assert len(shards(llama)) > 3
    expected = {name: array for shard in shards(llama) for name, array in load_file(shard).items()}
    checkpoint = load(llama)
    assert list(checkpoint.params) == sorted(expected)
    assert checkpoint.dtypes == ("bfloat16",)
    assert not checkpoint.large
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.params[name], array, strict=True)
    config = json.loads((llama / "config.json").read_text())
    assert checkpoint.spec == specs.transformer(config)
    assert checkpoint.config == config
    assert checkpoint.name == "llama"
    assert checkpoint.model is None


def test_large_networks_stay_in_their_files(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load(llama)
    monkeypatch.setattr(checkpoints, "LARGE", 1000)
    checkpoint = load(llama)
    assert checkpoint.large
    assert all(isinstance(tensor, LazyTensor) for tensor in checkpoint.params.values())
    assert checkpoint.sha256 == small.sha256
    assert checkpoint.parameters == small.parameters
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(array, small.params[name], strict=True)


def test_the_hash_is_that_of_the_files(llama: Path) -> None:
    """What ``sha256sum config.json model*.json model-*.safetensors | sha256sum`` prints."""
    files = [llama / "config.json", llama / INDEX, *shards(llama)]
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    before = load(llama).sha256
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    (llama / "README.md").write_text("not part of the network")
    assert load(llama).sha256 == before
    edit_json(llama / "config.json", lambda config: config.update(rope_theta=20000.0))
    assert load(llama).sha256 != before


def test_one_file_and_sharded_are_the_same_network(llama: Path, tmp_path: Path) -> None:
    sharded = load(llama)
    rewrite(llama, lambda tensors: None)
    single = load(llama)
    assert single.spec == sharded.spec
    for name, array in sharded.params.items():
        np.testing.assert_array_equal(single.params[name], array)


def test_a_relative_path_has_a_name(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(llama)
    assert load(".").name == "llama"


def test_what_is_a_checkpoint_folder(llama: Path, tmp_path: Path) -> None:
    assert is_folder(llama)
    assert not is_folder(tmp_path)
    assert not is_folder(llama / "config.json")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert is_folder(tmp_path)


# --- options


def test_symmetries_can_be_chosen(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    assert load(llama, symmetries=["hidden"]).spec == specs.transformer(config, symmetries=["hidden"])
    assert set(load(llama, symmetries=["hidden"]).spec.sites) == {"h0.mlp", "h1.mlp", "h2.mlp"}
    with pytest.raises(JobError, match=r"symmetries: expected some of hidden.*got 'colour'"):
        load(llama, symmetries=["colour"])


def test_a_spec_of_ones_own(llama: Path, tmp_path: Path) -> None:
    spec = load(llama, symmetries=["heads"]).spec
    (tmp_path / "spec.json").write_text(spec.to_json())
    assert load(llama, spec=tmp_path / "spec.json").spec == spec
    with pytest.raises(JobError, match="--symmetries and --rotate do not go with it"):
        load(llama, spec=tmp_path / "spec.json", symmetries=["heads"])


def test_rotations_need_folded_norms(llama: Path) -> None:
    with pytest.raises(JobError, match=r"gains are not one; give --fold-norms, which") as caught:
        load(llama, rotate=True)
    assert str(llama) in str(caught.value)
    rotated = load(llama, rotate=True, fold_norms=True)
    plain = load(llama)
    spec = rotated.spec
    assert spec.sites["residual"] != plain.spec.sites["residual"]
    expected = specs.fold_norms(plain.params, spec)
    assert not np.array_equal(expected["lm_head.weight"], plain.params["lm_head.weight"])
    for name, array in expected.items():
        np.testing.assert_array_equal(rotated.params[name], array, strict=True)


def test_norms_that_are_folded_already(llama: Path) -> None:
    folded = load(llama, rotate=True, fold_norms=True).arrays
    rewrite(llama, lambda tensors: tensors.update(folded))
    checkpoint = load(llama, rotate=True)
    for name, array in load(llama, rotate=True, fold_norms=True).params.items():
        np.testing.assert_array_equal(array, checkpoint.params[name])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--fold-norms",), "no norm of its spec is to be folded; it goes with --rotate"),
        (("--activation", "relu"), "--activation and --probes are for networks of layers"),
        (("--rotate", "--symmetries", "hidden"), "rotate=True rotates the residual stream; add 'residual'"),
    ],
)
def test_options_that_do_not_fit(
    llama: Path, arguments: tuple[str, ...], expected: str, cli: Callable[..., Outcome]
) -> None:
    outcome = cli("inspect", llama, *arguments)
    assert outcome.code == 1
    assert expected in outcome.error_line


@pytest.mark.parametrize("option", [("--symmetries", "hidden"), ("--rotate",), ("--fold-norms",)])
def test_options_of_transformers_are_not_for_others(option: tuple[str, ...], cli: Callable[..., Outcome]) -> None:
    outcome = cli("inspect", "digits-mlp", *option)
    assert outcome.code == 1
    assert "are for transformers; its symmetry is given" in outcome.error_line


# --- bad folders


def cut(folder: Path) -> None:
    os.truncate(shards(folder)[2], shards(folder)[2].stat().st_size - 1000)


def quantise(dtype: Any) -> Callable[[Path], None]:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[DOWN] = np.ones(tensors[DOWN].shape, dtype)

    return lambda folder: rewrite(folder, edit)


def config(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", lambda data: data.update(entries))


def index(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / INDEX, edit)


def tensors(edit: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, edit)


def poison(tensors: dict[str, np.ndarray]) -> None:
    tensors[DOWN][3, 5] = np.nan


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unknown architecture": (config(model_type="mamba"), r"mamba.*llama"),
    "no architecture": (lambda f: edit_json(f / "config.json", lambda c: c.pop("model_type")), "model_type"),
    "a shape that contradicts the config": (config(intermediate_size=49), r"shape.*48.*49"),
    "heads that contradict the config": (config(num_key_value_heads=1), "k_proj"),
    "more layers than there are": (config(num_hidden_layers=4), r"num_hidden_layers = 4"),
    "fewer layers than there are": (config(num_hidden_layers=2), r"layers\.2"),
    "a missing tensor": (tensors(lambda t: t.pop(DOWN)), DOWN),
    "a tensor too many": (tensors(lambda t: t.update(extra=np.ones(3, "float32"))), "extra"),
    "a truncated shard": (cut, r"model-00003-of-\d+\.safetensors: cannot be read as .safetensors; it is truncated"),
    "an empty shard": (lambda f: os.truncate(shards(f)[1], 0), r"model-00002.*truncated"),
    "a missing shard": (lambda f: shards(f)[1].unlink(), r"model-00002.*named by .*no such file"),
    "an index that names what is not there": (
        index(lambda d: d["weight_map"].update({"ghost": "model-00001-of-00007.safetensors"})),
        "that it holds tensor 'ghost', and it does not|named by",
    ),
    "an index that does not name what is there": (
        index(lambda d: d["weight_map"].pop(DOWN)),
        f"holds tensor '{DOWN}', but {INDEX} does not name it",
    ),
    "an index that points elsewhere": (
        index(lambda d: d["weight_map"].update({DOWN: "../secret.safetensors"})),
        "expected names of .safetensors files of the same folder",
    ),
    "an index without a map": (index(lambda d: d.pop("weight_map")), "weight_map"),
    "a damaged index": (lambda f: (f / INDEX).write_text("{"), "not JSON"),
    "no index and no single file": (lambda f: (f / INDEX).unlink(), "holds neither model.safetensors nor"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: cannot be read \(No such file"),
    "a damaged config": (lambda f: (f / "config.json").write_text("[1]"), "expected a JSON object"),
    "eight-bit integers": (quantise(np.int8), f"'{DOWN}' is stored as int8, a quantised network"),
    "packed four-bit integers": (quantise(np.uint8), "is stored as uint8, a quantised network"),
    "eight-bit floats": (quantise(ml_dtypes.float8_e4m3fn), "stored as F8_E4M3; quantised files"),
    "a quantised config": (config(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    "weights that are not finite": (tensors(poison), rf"'{DOWN}' holds 1 non-finite values .* \(3, 5\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_one_line_and_nothing_is_written(
    llama: Path, tmp_path: Path, kind: str, cli: Callable[..., Outcome]
) -> None:
    spoil, expected = BAD[kind]
    spoil(llama)
    before = tree(tmp_path)
    commands = [
        ("inspect", llama),
        ("verify", llama),
        ("sample", llama, "--samples", 2, "--out", tmp_path / "x.zarr"),
        ("transform", llama, "--index", 0, "--out", tmp_path / "other"),
        ("canonicalize", llama, "--out", tmp_path / "other"),
        ("match", llama, llama, "--out", tmp_path / "other"),
    ]
    lines = set()
    for command in commands:
        outcome = cli(*command)
        assert outcome.code == 1
        assert outcome.out == ""
        lines.add(outcome.error_line)
    assert len(lines) == 1
    line = lines.pop()
    assert str(llama) in line
    assert len(line) < 700
    with pytest.raises(JobError, match=expected):
        load(llama)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_the_good_folder_passes_what_the_bad_ones_fail(llama: Path, cli: Callable[..., Outcome]) -> None:
    """Negative control of the table above; every layer has its own tensors."""
    assert cli("inspect", llama).code == 0
    assert len(open_folder(llama).tensors) == 9 * LLAMA["layers"] + 3


def test_integers_that_no_leg_touches_are_no_error(tmp_path: Path) -> None:
    """Positions and masks of older files."""
    folder = write_llama(tmp_path / "llama")
    spec = load(folder).spec
    name = "model.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({name: np.arange(4)}))
    legs = dict(spec.legs) | {name: (None,)}
    (tmp_path / "spec.json").write_text(type(spec)(spec.sites, legs).to_json())
    assert load(folder, spec=tmp_path / "spec.json").params[name].dtype == np.int64
