# SPDX-License-Identifier: MIT
"""The rules of attention and of hidden units, one by one, each beside a rule that looks like it and is wrong."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformer_cases import BROKEN, EXACT, GROUPED, SIZES, Case, Network, altered, network, orbit

import nnsym_fast as nf
from nnsym_fast.groups import Affine, GeneralLinear, Group, Heads, Monomial, Permutation, RotaryCommutant, Translation


def holds(net: Network, spec: nf.SymmetrySpec) -> None:
    for moved in orbit(spec, net.params):
        assert net.change(moved) < EXACT


def breaks(net: Network, spec: nf.SymmetrySpec) -> None:
    # One element is enough: a permutation may be the identity by chance.
    assert max(net.change(moved) for moved in orbit(spec, net.params)) > BROKEN


def with_unit_group(spec: nf.SymmetrySpec, end: str, group: Group) -> nf.SymmetrySpec:
    """Another group inside the heads of all sites whose name ends so."""
    sites = {name: old for name, old in spec.sites.items() if name.endswith(end)}
    assert sites
    return altered(
        spec, sites={name: Heads(old.heads, group, old.permute_heads, old.tie) for name, old in sites.items()}
    )


def written(net: Network, sites: dict[str, Group], legs: dict[str, tuple[Any, ...]]) -> nf.SymmetrySpec:
    """A spec by hand: ``legs`` for the second layer, nothing for the rest."""
    free = {name: (None,) * value.ndim for name, value in net.params.items()}
    assert set(legs) <= set(free)
    return nf.SymmetrySpec(sites, free | legs)


# --- query-key


def test_queries_carry_the_dual_of_the_keys() -> None:
    net = network("bert")
    spec = net.spec(symmetries=["query-key"])
    assert spec.sites["h0.qk"].unit_group == GeneralLinear(4)
    holds(net, spec)
    query = "bert.encoder.layer.0.attention.self.query."
    breaks(net, altered(spec, leg=lambda name, _, leg: replace(leg, dual=False) if name == query + "weight" else leg))
    breaks(net, altered(spec, leg=lambda name, _, leg: None if name == query + "bias" else leg))


@functools.cache
def gptj(rotary: int) -> Network:
    sizes = {"vocab_size": 50, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "n_inner": 20}
    tokens = {name: SIZES[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return Network("gptj", Case("GPTJForCausalLM", "GPTJConfig", sizes | tokens | {"rotary_dim": rotary}))


@functools.cache
def stablelm(factor: float) -> Network:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}
    sizes = SIZES | {"num_attention_heads": 3, "num_key_value_heads": 3, "rope_parameters": rope}
    return Network("stablelm", Case("StableLmForCausalLM", "StableLmConfig", sizes))


ROTARY = {
    "interleaved": (gptj, 8, "transformer.h.1.attn.", "interleaved", 8),
    "interleaved, half of a head": (gptj, 4, "transformer.h.1.attn.", "interleaved", 4),
    "half-split": (stablelm, 1.0, "model.layers.1.self_attn.", "half", 8),
    "half-split, half of a head": (stablelm, 0.5, "model.layers.1.self_attn.", "half", 4),
}


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_leaves_its_commutant(name: str) -> None:
    make, argument, prefix, layout, rotary = ROTARY[name]
    net = make(argument)

    def spec(group: Group) -> nf.SymmetrySpec:
        legs = {prefix + "q_proj.weight": ("qk*", None), prefix + "k_proj.weight": ("qk", None)}
        return written(net, {"qk": Heads(3, group)}, legs)

    # Heads permute in queries and keys alone here, so they must not.
    def fixed(group: Group) -> nf.SymmetrySpec:
        return altered(spec(group), sites={"qk": Heads(3, group, permute=False)})

    holds(net, fixed(RotaryCommutant(8, layout, rotary)))
    other = "half" if layout == "interleaved" else "interleaved"
    breaks(net, fixed(RotaryCommutant(8, other, rotary)))
    breaks(net, fixed(RotaryCommutant(8, layout, rotary // 2)))  # too few pairs
    breaks(net, fixed(GeneralLinear(8)))
    breaks(net, spec(RotaryCommutant(8, layout, rotary)))


def test_llama_has_the_half_split_layout() -> None:
    net = network("llama")
    spec = net.spec(symmetries=["query-key"])
    holds(net, spec)
    breaks(net, with_unit_group(spec, "qk", RotaryCommutant(4, "interleaved")))
    breaks(net, with_unit_group(spec, "qk", GeneralLinear(4)))


def test_qk_norm_breaks_query_key() -> None:
    net = network("qwen3")
    heads = net.spec(symmetries=["heads"])
    assert "QK-norm" in net.spec().absent["query-key"]
    assert "query-key" not in network("llama").spec().absent
    holds(net, heads)
    layer = "model.layers.1.self_attn."
    legs: dict[str, tuple[Any, ...]] = {layer + "k_proj.weight": ("qk", None), layer + "k_proj.bias": ("qk",)}
    for end, rest in (("q_proj.weight", (None,)), ("q_proj.bias", ())):
        legs[layer + end] = (nf.Leg("qk", dual=True, copies=3), *rest)
    breaks(net, written(net, {"qk": Heads(2, RotaryCommutant(6), permute=False)}, legs))


# --- value-output and grouped queries


def test_outputs_carry_the_dual_of_the_values() -> None:
    net = network("bert")
    spec = net.spec(symmetries=["value-output"])
    holds(net, spec)
    value = "bert.encoder.layer.0.attention.self.value."
    breaks(net, altered(spec, leg=lambda name, _, leg: replace(leg, dual=True) if name == value + "weight" else leg))
    breaks(net, altered(spec, leg=lambda name, _, leg: None if name == value + "bias" else leg))


def test_query_heads_of_a_group_share_an_element() -> None:
    net = network("mistral")
    layer = "model.layers.1.self_attn."
    commutant = RotaryCommutant(4)
    for shared, check in ((True, holds), (False, breaks)):
        site = "qk" if shared else "own"
        sites: dict[str, Group] = {"qk": Heads(2, commutant, permute=False)}
        legs: dict[str, tuple[Any, ...]] = {layer + "k_proj.weight": ("qk", None)}
        legs[layer + "q_proj.weight"] = (nf.Leg("qk", dual=True, copies=3), None)
        if not shared:
            # An element per query head; one reader of each keeps the spec formally complete.
            sites["own"] = Heads(6, commutant, permute=False)
            legs[layer + "q_proj.weight"] = ("own*", None)
            legs["model.layers.0.self_attn.q_proj.weight"] = (nf.Leg("qk", dual=True, copies=3), None)
            legs["model.layers.0.self_attn.k_proj.weight"] = ("qk", None)
            legs["model.layers.0.self_attn.o_proj.weight"] = (None, site)
        check(net, written(net, sites, legs))


@pytest.mark.parametrize(
    ("group", "check"),
    [(Heads(2, Permutation(3), permute=False), holds), (Heads(2, Permutation(3)), breaks), (Permutation(6), breaks)],
    ids=["inside a group", "groups without their keys", "any query heads"],
)
def test_query_heads_permute_inside_their_group(group: Group, check: Any) -> None:
    net = network("mistral")
    layer = "model.layers.1.self_attn."
    query, output = nf.Leg("q", repeat=4), nf.Leg("q", dual=True, repeat=4)
    check(
        net,
        written(net, {"q": group}, {layer + "q_proj.weight": (query, None), layer + "o_proj.weight": (None, output)}),
    )


@pytest.mark.parametrize("name", ["bert", "mistral", "qwen3"])
def test_groups_permute_as_wholes(name: str) -> None:
    net = network(name)
    spec = net.spec(symmetries=["heads"])
    assert spec.dimension == 0
    holds(net, spec)
    if "h0.q" in spec.sites:  # the keys and values go their own way
        breaks(net, altered(spec, sites={"h0.heads": Heads(2, Permutation(1))}))
    else:
        key = "bert.encoder.layer.0.attention.self.key.weight"
        breaks(net, altered(spec, leg=lambda tensor, _, leg: None if tensor == key else leg))


@pytest.mark.parametrize("name", ["bert", "llama-body"])
def test_query_key_and_value_output_permute_together(name: str) -> None:
    net = network(name)
    spec = net.spec(symmetries=["heads", "query-key", "value-output"])
    holds(net, spec)
    loose = {site: Heads(old.heads, old.unit_group) for site, old in spec.sites.items()}
    breaks(net, altered(spec, sites=loose))


def test_alibi_breaks_permutations_of_heads() -> None:
    """BLOOM and GPT-NeoX store their heads in the same way; positions enter BLOOM by a slope per head."""
    sizes = {"vocab_size": 50, "hidden_size": 24, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    cases = (
        (Case("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES), "gpt_neox.layers.1.attention.", holds),
        (Case("BloomForCausalLM", "BloomConfig", sizes | {"n_layer": 2, "n_head": 6}), "h.1.self_attention.", breaks),
    )
    for case, layer, check in cases:
        net = Network(case.model, case)
        layer = next(name.removesuffix("dense.weight") for name in net.params if name.endswith(layer + "dense.weight"))
        rows, columns = nf.Leg("heads", repeat=12), nf.Leg("heads", dual=True, repeat=4)
        legs = {layer + "query_key_value.weight": (rows, None), layer + "query_key_value.bias": (rows,)}
        check(net, written(net, {"heads": Permutation(6)}, legs | {layer + "dense.weight": (None, columns)}))


# --- shifts of the key bias


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit"])
def test_softmax_does_not_see_the_key_bias(name: str) -> None:
    net = network(name)
    spec = net.spec(symmetries=["biases"])
    assert spec.sites["h0.qk"].unit_group == Translation(4)
    assert spec.dimension == 2 * 24
    holds(net, spec)
    both = net.spec(symmetries=["biases", "query-key"])
    assert both.sites["h0.qk"].unit_group == Affine(GeneralLinear(4))
    assert both.dimension == 2 * 6 * (16 + 4)


def test_the_query_bias_may_not_be_shifted() -> None:
    net = network("bert")
    layer = "bert.encoder.layer.1.attention.self."
    holds(net, written(net, {"shift": Translation(24)}, {layer + "key.bias": ("shift+",)}))
    breaks(net, written(net, {"shift": Translation(24)}, {layer + "query.bias": ("shift+",)}))


def test_rotary_and_soft_capping_break_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all tokens at position 0 the rotary embedding does nothing: then soft-capping alone decides."""

    def shifted(net: Network) -> nf.SymmetrySpec:
        group = Translation(net.params["model.layers.1.self_attn.k_proj.bias"].shape[0])
        return written(net, {"shift": group}, {"model.layers.1.self_attn.k_proj.bias": ("shift+",)})

    capped = GROUPED | {"attn_logit_softcapping": 1.0, "attention_bias": True}
    gemma = Network("gemma2", Case("Gemma2ForCausalLM", "Gemma2Config", capped))
    llama = network("llama")
    for net in (gemma, llama):
        assert "biases" in net.spec().absent
        breaks(net, shifted(net))
        forward = net.model.forward
        still = functools.partial(forward, position_ids=torch.zeros((2, 9), dtype=torch.int64))
        monkeypatch.setattr(net.model, "forward", still)
    holds(llama, shifted(llama))
    breaks(gemma, shifted(gemma))


# --- hidden units


def test_gated_units_permute_together_and_up_scales() -> None:
    net = network("llama")
    spec = net.spec(symmetries=["hidden"])
    assert spec.sites["h0.mlp"] == Monomial(20, signs=True)
    assert (spec.sample(1)["h0.mlp"].sign < 0).any()
    holds(net, spec)
    gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    # silu(c x) is not c silu(x); gate and up may not move apart; down must divide.
    breaks(net, altered(spec, leg=lambda name, _, leg: replace(leg, power=1.0) if name == gate else leg))
    breaks(net, altered(spec, leg=lambda name, _, leg: None if name == gate else leg))
    breaks(net, altered(spec, leg=lambda name, _, leg: replace(leg, dual=True) if name == up else leg))


def test_gelu_units_permute_and_nothing_else() -> None:
    net = network("gpt2")
    spec = net.spec(symmetries=["hidden"])
    assert spec.sites["h1.mlp"] == Permutation(20)
    holds(net, spec)
    breaks(net, altered(spec, sites={"h1.mlp": Monomial(20)}))
    breaks(net, altered(spec, sites={"h1.mlp": Monomial(20, signs=True, scales=False)}))


def test_squared_relu_is_read_with_the_square_of_the_scale() -> None:
    net = network("gpt2-relu")
    spec = net.spec(symmetries=["hidden"])
    assert spec.sites["h1.mlp"] == Monomial(20)
    assert spec.legs["h.1.mlp.c_proj.weight"][0] == nf.Leg("h1.mlp", dual=True, power=2)
    holds(net, spec)
    breaks(net, altered(spec, leg=lambda _, axis, leg: replace(leg, power=1.0)))


def test_experts_permute_with_the_router() -> None:
    net = network("mixtral")
    spec = net.spec(symmetries=["hidden"])
    assert spec.sites["h1.experts"] == Permutation(4)
    holds(net, spec)
    router = "model.layers.1.mlp.gate.weight"
    breaks(net, altered(spec, leg=lambda name, _, leg: None if name == router else leg))


def test_the_pooler_of_a_classifier_has_the_signs_of_tanh() -> None:
    net = network("bert-sequences")
    spec = net.spec(symmetries=["hidden"])
    assert spec.sites["pooled"] == Monomial(24, signs=True, scales=False)
    holds(net, spec)
    breaks(net, altered(spec, sites={"pooled": Monomial(24)}))
    assert "pooled" not in network("bert-body").spec().sites


# --- the stream


@pytest.mark.parametrize(("name", "signed"), [("llama", True), ("gemma2", True), ("gpt2", False), ("bert", False)])
def test_the_stream_permutes_with_signs_for_rms_norms(name: str, signed: bool) -> None:
    net = network(name)
    spec = net.spec(symmetries=["residual"])
    assert spec.sites["residual"].signed == signed
    holds(net, spec)
    breaks(net, altered(spec, sites={"residual": Monomial(24, signs=not signed, scales=signed)}))
    if signed:
        gain = next(tensor for tensor in net.params if tensor.endswith("norm.weight"))
        breaks(net, altered(spec, leg=lambda tensor, _, leg: replace(leg, power=1.0) if tensor == gain else leg))
