# SPDX-License-Identifier: MIT
"""Grouped queries: sites that order the copies of heads and that tensors carry themselves as well."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.gauge_fixing import distance, match
from nnsym_fast.gauge_fixing._match_blocks import blocks_of
from nnsym_fast.symmetry import SymmetrySpec

Params = dict[str, Any]

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4,
    "intermediate_size": 10, "vocab_size": 20, "hidden_act": "silu",
}  # fmt: skip

CONFIGS = {
    "llama": SMALL | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3": SMALL | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
}

PAIRS = list(itertools.combinations(("heads", "query-key", "value-output", "hidden"), 2))

CASES = [
    (name, symmetries)
    for name in CONFIGS
    for symmetries in (None, ("heads",), *PAIRS)
    if not (name == "qwen3" and "query-key" in (symmetries or ()))
]
"""QK-norm leaves Qwen3 without the symmetry of queries and keys."""


def network(name: str, symmetries: tuple[str, ...] | None, seed: int = 0) -> tuple[SymmetrySpec, Params]:
    spec = specs.transformer(CONFIGS[name], symmetries=symmetries)
    plain = {"embed_tokens": (20, 24), "lm_head": (20, 24), "q_proj": (24, 24), "k_proj": (8, 24), "v_proj": (8, 24),
             "o_proj": (24, 24), "gate_proj": (10, 24), "up_proj": (10, 24), "down_proj": (24, 10), "q_norm": (4,),
             "k_norm": (4,)}  # fmt: skip
    rng = np.random.default_rng(seed)
    shapes = {tensor: plain.get(tensor.split(".")[-2], (24,)) for tensor in spec.legs}
    return spec, {tensor: rng.standard_normal(shape) for tensor, shape in shapes.items()}


def one(points: Params) -> Params:
    return {tensor: value[0] for tensor, value in points.items()}


@pytest.mark.parametrize(("name", "symmetries"), CASES)
def test_hidden_elements_of_grouped_heads_are_recovered(name: str, symmetries: tuple[str, ...] | None) -> None:
    spec, a = network(name, symmetries)
    for seed in range(4):
        b = one(nf.act(spec, spec.sample(1, seed=seed), a))
        found = match(a, b, spec)
        assert found.distance <= 1e-12 * found.norm
        assert found.distance_before > 0.05 * found.norm
        for tensor, value in one(nf.act(spec, found.element, b)).items():
            np.testing.assert_allclose(value, a[tensor], atol=1e-10, err_msg=tensor)
        assert distance(a, b, spec) <= 1e-8 * found.norm


@pytest.mark.parametrize(("name", "symmetries"), CASES)
def test_no_match_is_worse_than_what_came(name: str, symmetries: tuple[str, ...] | None) -> None:
    spec, a = network(name, symmetries)
    _, b = network(name, symmetries, 1)
    # Large queries: what an order site carries itself outweighs what its copies say.
    for params in (a, b):
        for tensor in params:
            params[tensor] = params[tensor] * (5.0 if "q_proj" in tensor else 0.5)
    found = match(a, b, spec, restarts=1, max_sweeps=20)
    assert found.distance <= found.distance_before
    mixed = {tensor: value if "q_proj" in tensor else b[tensor] for tensor, value in a.items()}
    near = match(a, mixed, spec, restarts=0, max_sweeps=20)
    assert near.distance <= near.distance_before
    assert match(a, a, spec).distance == 0.0


def test_every_tensor_that_a_site_moves_is_in_a_block() -> None:
    for name, symmetries in CASES:
        spec, a = network(name, symmetries)
        seen = {tensor for block in blocks_of(spec) for tensor in block.tensors}
        assert seen == {tensor for tensor in a if spec.touched(tensor)}
