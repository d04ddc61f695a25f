# SPDX-License-Identifier: MIT
"""Small random models of the classes of transformers, their tensors as NumPy arrays, and what they compute.

Gains, biases and weights are all random: nothing is one or zero by chance, so a wrong leg shows. transformers computes
some norms, softmaxes and routers in float32 even in a float64 model; ``Double`` lifts these into float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers as hf
from torch.overrides import TorchFunctionMode

import nnsym_fast as nf
from nnsym_fast import specs

Params = dict[str, npt.NDArray[Any]]

EXACT = 1e-11
"""Largest change of an output, over the largest output, in float64. Measured: 4e-15 with the elements of these tests,
whose condition numbers stay below 30; the bound leaves room for others."""

BROKEN = 1e-3
"""A wrong rule changes the output by this at least. Measured: 5e-3 or more."""

FLOAT32 = 1e-6
"""As EXACT for classes that compute norms and softmaxes in float32: a few roundings of 6e-8 each, which add up over two
layers. Measured: 3.5e-7."""

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 4}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 24,
    "n_inner": 20,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
IMAGES = {name: SIZES[name] for name in SIZES if name.startswith(("hidden", "inter", "num"))} | {
    "image_size": 8,
    "patch_size": 4,
    "encoder_stride": 4,
}


class Case(NamedTuple):
    """A class of models and the arguments of its config."""

    model: str
    config: str
    arguments: Mapping[str, Any]


CASES = {
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-untied": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False}),
    "gpt2-relu": Case("GPT2Model", "GPT2Config", GPT2 | {"activation_function": "relu2"}),
    "gpt2-sequences": Case("GPT2ForSequenceClassification", "GPT2Config", GPT2),
    "bert": Case("BertForMaskedLM", "BertConfig", SIZES),
    "bert-body": Case("BertModel", "BertConfig", SIZES),
    "bert-pretraining": Case("BertForPreTraining", "BertConfig", SIZES | {"tie_word_embeddings": False}),
    "bert-sequences": Case("BertForSequenceClassification", "BertConfig", SIZES),
    "bert-tokens": Case("BertForTokenClassification", "BertConfig", SIZES),
    "llama": Case("LlamaForCausalLM", "LlamaConfig", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "llama-body": Case("LlamaModel", "LlamaConfig", GROUPED | {"num_key_value_heads": 6}),
    "llama-questions": Case("LlamaForQuestionAnswering", "LlamaConfig", GROUPED),
    "mistral": Case("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 4}),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
    "qwen2-untied": Case("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 6, "attention_bias": True}),
    "gemma2": Case(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        GROUPED | {"head_dim": 6, "sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "mixtral": Case("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 4}),
    "vit": Case("ViTForImageClassification", "ViTConfig", IMAGES),
    "vit-body": Case("ViTModel", "ViTConfig", IMAGES | {"qkv_bias": False}),
    "vit-masked": Case("ViTForMaskedImageModeling", "ViTConfig", IMAGES),
}


class Double(TorchFunctionMode):
    """Every request for float32 becomes one for float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lift = {torch.float32: torch.float64}
        args = tuple(lift.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        given = {k: lift.get(v, v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **given)


def build(case: Case, seed: int = 0) -> torch.nn.Module:
    """The model in float64 and evaluation mode, every parameter random."""
    config = getattr(hf, case.config)(**case.arguments)
    # The experts as a loop: the grouped kernel of torch has no float64.
    config._experts_implementation = "eager"
    model = getattr(hf, case.model)(config).double().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=random, dtype=torch.float64)
            vector = value.ndim == 1 or "token" in name or "position" in name
            value.copy_(0.4 * noise if vector else noise / value.shape[-1] ** 0.5)
            if value.ndim == 1 and name.endswith("weight") and "gemma" not in config.model_type:
                value += 1.0
    return model


@functools.cache
def network(name: str) -> Network:
    return Network(name)


class Network:
    """A case of the table above: its parameters, and the outputs for given parameters."""

    def __init__(self, name: str, case: Case | None = None, seed: int = 0) -> None:
        self.name = name
        self.model = build(case or CASES[name], seed)
        self.config = self.model.config.to_dict()
        self.config["architectures"] = [type(self.model).__name__]
        # Without repetition: a tied head is the embedding.
        self.params: Params = {key: value.detach().numpy().copy() for key, value in self.model.named_parameters()}

    def spec(self, **options: Any) -> nf.SymmetrySpec:
        return specs.transformer(self.config, tensors=self.params, **options)

    def outputs(self, params: Mapping[str, Any], double: bool = True) -> list[npt.NDArray[Any]]:
        """Everything the class computes from fixed inputs."""
        random = torch.Generator().manual_seed(1)
        if "image_size" in self.config:
            pixels = torch.randn((2, 3, 8, 8), generator=random, dtype=torch.float64)
            inputs: dict[str, Any] = {"pixel_values": pixels}
            if "Masked" in type(self.model).__name__:
                inputs["bool_masked_pos"] = torch.tensor([[True, False, False, True]] * 2)
        else:
            mask = torch.ones((2, 9), dtype=torch.int64)
            mask[1, 7:] = 0
            ids = torch.randint(3, 50, (2, 9), generator=random)
            inputs = {"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask}
            if self.config["model_type"] == "bert":
                inputs["token_type_ids"] = torch.tensor([[0] * 4 + [1] * 5] * 2)
        missing = self.model.load_state_dict(
            {k: torch.from_numpy(np.array(v)) for k, v in params.items()}, strict=False
        )
        assert not missing.unexpected_keys
        assert all("lm_head" in key or "decoder" in key for key in missing.missing_keys), missing
        with torch.no_grad(), Double() if double else torch.no_grad():
            result = self.model(**inputs)
        names = ("logits", "last_hidden_state", "pooler_output", "reconstruction", "prediction_logits")
        names += ("seq_relationship_logits", "start_logits", "end_logits")
        found = [result[name].numpy() for name in names if name in result and result[name] is not None]
        assert found
        return found

    def change(self, params: Mapping[str, Any], base: Mapping[str, Any] | None = None, double: bool = True) -> float:
        """Largest change of an output, over the largest output."""
        before = self.outputs(self.params if base is None else base, double)
        after = self.outputs(params, double)
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(after, before, strict=True))


def point(points: Mapping[str, npt.NDArray[Any]], index: int) -> Params:
    return {name: value[index] for name, value in points.items()}


def orbit(spec: nf.SymmetrySpec, params: Params, n: int = 3, seed: int = 0) -> list[Params]:
    """Points of the orbit."""
    points = nf.act(spec, spec.sample(n, seed), params)
    return [point(points, index) for index in range(n)]


def altered(
    spec: nf.SymmetrySpec,
    *,
    sites: Mapping[str, nf.groups.Group] | None = None,
    leg: Callable[[str, int, nf.Leg], nf.Leg | None] | None = None,
) -> nf.SymmetrySpec:
    """A spec with other groups at some sites, or with other legs: ``leg(tensor, axis, leg)`` says which."""

    def axis(name: str, number: int, old: Any) -> Any:
        if leg is None or old is None:
            return old
        if isinstance(old, nf.Segments):
            return nf.Segments(tuple((length, part and leg(name, number, part)) for length, part in old))
        return leg(name, number, old)

    legs = {name: tuple(axis(name, i, old) for i, old in enumerate(axes)) for name, axes in spec.legs.items()}
    return nf.SymmetrySpec(dict(spec.sites) | dict(sites or {}), legs, spec.state, folds=spec.folds)


__all__ = [
    "BROKEN",
    "CASES",
    "EXACT",
    "FLOAT32",
    "Case",
    "Network",
    "Params",
    "altered",
    "network",
    "orbit",
    "point",
]
