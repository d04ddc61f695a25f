# SPDX-License-Identifier: MIT
"""Rotations of the residual stream, after the norms were folded; and folding itself."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from transformer_cases import BROKEN, CASES, EXACT, FLOAT32, GPT2, Case, Network, Params, altered, network, orbit

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.groups import Orthogonal
from nnsym_fast.specs.transformer import ROTATIONS

ROTATED = [
    "gpt2-untied",
    "gpt2-sequences",
    "llama",
    "llama-questions",
    "mistral",
    "qwen2-untied",
    "qwen3",
    "mixtral",
    "vit",
    "vit-masked",
]
REFUSED = {
    "gpt2": "tied",
    "qwen2": "tied",
    "gemma2": "post-norms",
    "bert": "post-norm",
    "bert-body": "post-norm",
    "llama-body": "output is the residual stream",
    "vit-body": "output is the residual stream",
}


def rotated(name: str) -> tuple[Network, nf.SymmetrySpec, Params]:
    net = network(name)
    spec = net.spec(symmetries=["residual"], rotate=True)
    return net, spec, specs.fold_norms(net.params, spec)


def unchecked(spec: nf.SymmetrySpec) -> nf.SymmetrySpec:
    """The spec without its demand that norms be folded."""
    return nf.SymmetrySpec(spec.sites, spec.legs, spec.state)


def norms(net: Network) -> list[str]:
    """Gains of norms of the stream."""
    found = [name for name, value in net.params.items() if value.shape == (24,) and name.endswith("weight")]
    return [name for name in found if "head" not in name]


def test_the_cases_are_all_there() -> None:
    rest = {"gpt2-relu", "bert-pretraining", "bert-sequences", "bert-tokens"}
    assert set(ROTATED) | set(REFUSED) | rest == set(CASES)


@pytest.mark.parametrize("name", ROTATED)
def test_folding_changes_parameters_but_not_the_function(name: str) -> None:
    net, spec, folded = rotated(name)
    assert net.change(folded) < EXACT
    assert sorted(fold.gain for fold in spec.folds) == sorted(norms(net))
    for gain in norms(net):
        assert (folded[gain] == 1).all()
        assert (net.params[gain] != 1).any()
    specs.check_folded(folded, spec)


@pytest.mark.parametrize("name", ROTATED)
def test_rotations_hold_for_folded_norms(name: str) -> None:
    net, spec, folded = rotated(name)
    layer_norm = name.startswith(("gpt2", "vit"))
    assert spec.sites["residual"] == Orthogonal(24, keeps_mean=layer_norm)
    for moved in orbit(spec, folded):
        assert net.change(moved) < EXACT
    # with everything else together, and in the float32 of the classes as they are
    together = net.spec(rotate=True)
    for moved in orbit(together, folded):
        assert net.change(moved) < EXACT
        assert net.change(moved, double=False) < FLOAT32


@pytest.mark.parametrize("name", ROTATED)
def test_rotations_break_norms_that_are_not_folded(name: str) -> None:
    net, spec, _ = rotated(name)
    for moved in orbit(unchecked(spec), net.params):
        assert net.change(moved) > BROKEN
    message = r"fold the norms first, params = specs\.fold_norms\(params, spec\)"
    with pytest.raises(ValueError, match=message):
        specs.check_folded(net.params, spec)
    with pytest.raises(ValueError, match=message):
        orbit(spec, net.params)


@pytest.mark.parametrize("name", ["gpt2-untied", "vit"])
def test_layer_norm_needs_rotations_that_keep_the_mean(name: str) -> None:
    net, spec, folded = rotated(name)
    for moved in orbit(altered(spec, sites={"residual": Orthogonal(24)}), folded):
        assert net.change(moved) > BROKEN


@pytest.mark.parametrize("name", ["gpt2-untied", "vit", "llama", "mixtral"])
def test_every_tensor_turns(name: str) -> None:
    net, spec, folded = rotated(name)
    (moved,) = orbit(spec, folded, 1)
    for key in (key for key in folded if spec.touched(key)):
        assert net.change(moved | {key: folded[key]}) > BROKEN, key


@pytest.mark.parametrize("name", ["vit", "gpt2-sequences"])
def test_biases_of_norms_must_be_folded_too(name: str) -> None:
    net, spec, folded = rotated(name)
    fold = spec.folds[0]
    # The gains alone: the same function, but a vector that does not turn stands in the stream.
    half = dict(net.params)
    half[fold.bias] = net.params[fold.bias] / net.params[fold.gain]
    for reader in fold.readers:
        half[reader.weight] = folded[reader.weight]
    half[fold.gain] = folded[fold.gain]
    others = {name for other in spec.folds[1:] for name in other.tensors}
    half |= {name: folded[name] for name in others}
    assert net.change(half) < EXACT
    for moved in orbit(unchecked(spec), half):
        assert net.change(moved) > BROKEN
    with pytest.raises(ValueError, match=f"{fold.bias}.*bias is not zero"):
        specs.check_folded(half, spec)


def test_a_bias_that_no_reader_can_take_turns_with_the_stream() -> None:
    net, spec, folded = rotated("gpt2-untied")
    final = "transformer.ln_f.bias"
    assert [str(leg) for leg in spec.legs[final]] == ["residual"]
    assert not spec.touched("transformer.h.0.ln_1.bias")
    np.testing.assert_allclose(folded[final], net.params[final] / net.params["transformer.ln_f.weight"], rtol=1e-15)
    without = altered(spec, leg=lambda name, _, leg: None if name == final else leg)
    with pytest.raises(ValueError, match=r"ln_f\.bias'.*reader 'lm_head\.weight' has none"):
        specs.fold_norms(net.params, without)
    flat = net.params | {final: np.zeros(24)}
    assert net.change(specs.fold_norms(flat, without), flat) < EXACT
    gain = net.params["transformer.ln_f.weight"].copy()
    gain[3] = 0
    with pytest.raises(ValueError, match=r"ln_f\.weight'.*zero"):
        specs.fold_norms(net.params | {"transformer.ln_f.weight": gain}, spec)


@pytest.mark.parametrize("name", REFUSED)
def test_rotations_are_refused_with_the_reason(name: str) -> None:
    net = network(name)
    assert REFUSED[name] in net.spec().absent[ROTATIONS]
    with pytest.raises(ValueError, match=f"^rotate: .*{REFUSED[name]}"):
        net.spec(rotate=True)


def test_gemma_cannot_turn() -> None:
    """The reason is true: post-norms with gains stand in the way even where the head is a tensor of its own."""
    net = network("gemma2")
    stream = {"residual": Orthogonal(24)}
    legs = {name: axes for name, axes in net.spec(symmetries=["residual"]).legs.items() if len(axes) > 1}
    ones = {name: np.zeros_like(value) if value.ndim == 1 else value for name, value in net.params.items()}
    free = {name: (None,) for name, value in net.params.items() if value.ndim == 1}
    spec = nf.SymmetrySpec(stream, legs | free)
    (moved,) = orbit(spec, ones, 1)
    assert net.change(moved, ones) < EXACT  # gains 1 + w of one
    kept = ones | {name: net.params[name] for name in ones if name.endswith("post_attention_layernorm.weight")}
    (moved,) = orbit(spec, kept, 1)
    assert net.change(moved, kept) > BROKEN


# --- the inverse


@pytest.mark.parametrize("name", ROTATED)
def test_unfolding_is_the_inverse(name: str) -> None:
    net, spec, folded = rotated(name)
    back = specs.unfold_norms(folded, spec, net.params)
    for key, value in net.params.items():
        np.testing.assert_allclose(back[key], value, rtol=1e-13, atol=1e-13)
    # It follows a rotation, too: another network, with the gains of the first.
    (moved,) = orbit(spec, folded, 1)
    loose = specs.unfold_norms(moved, spec, net.params)
    assert net.change(loose) < EXACT
    assert all((loose[gain] == net.params[gain]).all() for gain in norms(net))
    with pytest.raises(ValueError, match="gains are not one"):
        specs.unfold_norms(net.params, spec, net.params)


def test_zero_gains_have_no_inverse() -> None:
    net, spec, _ = rotated("llama")
    gain = "model.layers.0.input_layernorm.weight"
    params = net.params | {gain: np.where(np.arange(24) == 5, 0.0, net.params[gain])}
    folded = specs.fold_norms(params, spec)
    assert net.change(folded, params) < EXACT
    with pytest.raises(ValueError, match=f"{gain}' has zeros"):
        specs.unfold_norms(folded, spec, params)


# --- what comes in goes out


def convert(value: Any, kind: str) -> Any:
    if kind == "torch bfloat16":
        return torch.from_numpy(value).bfloat16()
    if kind == "torch float64":
        return torch.from_numpy(value)
    return value.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "torch bfloat16", "torch float64"])
def test_folding_keeps_framework_and_dtype(kind: str) -> None:
    net, spec, folded = rotated("vit")
    given = {name: convert(value, kind) for name, value in net.params.items()}
    found = specs.fold_norms(given, spec)
    assert list(found) == list(given)
    rounding = {"float32": 1e-6, "float16": 4e-3, "torch float64": 1e-14}.get(kind, 3e-2)
    for name, value in found.items():
        assert type(value) is type(given[name])
        assert value.dtype == given[name].dtype
        # A bias takes a product of weights and a bias that were each rounded before.
        plain = (value.double() if hasattr(value, "double") else value).__array__().astype(np.float64)
        assert np.abs(plain - folded[name]).max() <= rounding * max(1.0, np.abs(folded[name]).max())
    untouched = "vit.embeddings.cls_token"
    assert found[untouched] is given[untouched]
    back = specs.unfold_norms(found, spec, given)
    assert all(back[name].dtype == given[name].dtype for name in given)


def test_sums_are_not_taken_in_two_bytes() -> None:
    """Negative control of the arithmetic: 256 + 1 is 256 in bfloat16."""
    spec = nf.SymmetrySpec(
        {"x": Orthogonal(2)},
        {"in": ("x", None), "gain": (None,), "shift": (None,), "out": (None, "x*"), "bias": (None,)},
        folds=[nf.symmetry.Fold("gain", (nf.symmetry.Reader("out", 1, "bias"),), "shift")],
    )
    small = {"in": np.eye(2), "gain": np.ones(2), "shift": np.array([256.0, 1.0]), "out": np.ones((1, 2))}
    params = {name: value.astype(ml_dtypes.bfloat16) for name, value in (small | {"bias": np.array([1.0])}).items()}
    assert float(specs.fold_norms(params, spec)["bias"][0]) == 258.0


def test_folding_names_what_is_missing() -> None:
    net, spec, folded = rotated("llama")
    params = {name: value for name, value in net.params.items() if name != "model.norm.weight"}
    with pytest.raises(ValueError, match=r"'model\.norm\.weight': in the folds of the spec but missing"):
        specs.fold_norms(params, spec)
    with pytest.raises(ValueError, match=r"'model\.norm\.weight': in the folds"):
        specs.check_folded(params, spec)
    with pytest.raises(ValueError, match=r"norms: .*'model\.norm\.weight' is missing"):
        specs.unfold_norms(folded, spec, params)
    with pytest.raises(TypeError, match="params: expected a mapping"):
        specs.fold_norms([1], spec)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="see the order of the arguments"):
        specs.fold_norms(net.params, net.params)  # type: ignore[arg-type]


def test_without_folds_nothing_changes() -> None:
    net = network("gpt2")
    assert specs.fold_norms(net.params, net.spec()) == net.params
    specs.check_folded(net.params, net.spec())


def test_the_untied_class_is_needed_for_rotations() -> None:
    """The remedy in the message works: a copy of the embedding as a head of its own."""
    tied = network("gpt2")
    untied = Network("untied", Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False}))
    untied.params = tied.params | {"lm_head.weight": tied.params["transformer.wte.weight"]}
    spec = untied.spec(rotate=True)
    (moved,) = orbit(spec, specs.fold_norms(untied.params, spec), 1)
    before, after = tied.outputs(tied.params), untied.outputs(moved)
    assert max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) < EXACT * np.abs(before[0]).max()
