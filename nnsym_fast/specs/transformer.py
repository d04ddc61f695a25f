# SPDX-License-Identifier: MIT
"""The symmetry of a transformer, from its config and a table of its tensors.

Rules, with W stored (out, in); sources: Hashimoto, Hirono, Sannai 2402.02362; Ashkboos et al. 2404.00456 (rotations of
the residual stream):

* hidden units of an MLP: the group of their activation; behind a gate ``act(gate) * up``, a permutation of both and a
  factor c != 0 on up, 1/c on down;
* query-key, per key-value head: W_K -> g W_K, W_Q -> g^-T W_Q for every query head that shares it. g is any invertible
  matrix, or, with a rotary embedding, one that commutes with its rotations;
* value-output, per key-value head: W_V -> g W_V, W_O -> W_O g^-1;
* heads: permutations of key-value heads, and of the query heads that share one;
* biases: a shift of the key bias adds the same number to all scores of a query, which softmax does not see;
* residual stream: permutations (LayerNorm) or signed permutations (RMSNorm); with the norms' gains folded into their
  readers, rotations (those that keep the vector of ones, for LayerNorm).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnsym_fast.folds import Fold, Reader
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    Translation,
)
from nnsym_fast.specs.activations import ACTIVATIONS, SHORT_NAMES
from nnsym_fast.specs.adapters import HF_ACTIVATIONS
from nnsym_fast.specs.adapters_config import Sizes, adapter_of, as_dict, sizes_of
from nnsym_fast.specs.adapters_names import Found, Match, Shapes, match, shapes_of
from nnsym_fast.specs.adapters_rows import Adapter, Norm, Tensor, tensors_of
from nnsym_fast.symmetry import Axis, Leg, Segments, SymmetrySpec

__all__ = ["ROTATIONS", "SYMMETRIES", "transformer"]

SYMMETRIES = ("hidden", "heads", "query-key", "value-output", "residual", "biases")
"""What ``symmetries`` may name."""

ROTATIONS = "rotations of the residual stream"
"""Key of ``SymmetrySpec.absent``."""

STREAM = "the output is the residual stream itself, which moves with it; ask for 'residual' by name if that is meant"
HEADS = ("heads", "query-key", "value-output", "biases")
"""Symmetries that need the number of heads."""


def transformer(
    config: Any,
    *,
    symmetries: Iterable[str] | None = None,
    rotate: bool = False,
    tensors: Any = None,
) -> SymmetrySpec:
    """The symmetry of a transformer: GPT-2, BERT, MiniLM, Llama, Mistral, Qwen2, Qwen3, Gemma 2, Mixtral, ViT.

    Sites of layer 3 are ``h3.qk`` (per key-value head; K rows g, Q rows the dual), ``h3.vo``, ``h3.q`` (order of the
    query heads that share a key-value head), ``h3.heads`` (permutations of heads alone), ``h3.mlp`` (``h3.e5.mlp`` for
    expert 5), ``h3.experts``; ``residual`` is the stream.

    Args:
        config: what ``config.json`` holds, as a dict, or a config of ``transformers``.
        symmetries: some of "hidden", "heads", "query-key", "value-output", "residual", "biases". None: all that the
            architecture has, without any change to the checkpoint.
        rotate: rotations of the residual stream in place of its permutations; the spec then holds for parameters whose
            norms were folded (:func:`nnsym_fast.specs.fold_norms`).
        tensors: the names of the checkpoint's tensors, or a mapping name -> shape or array (a ``state_dict``), whose
            shapes are checked against the config. None: the names in files of the class ``config["architectures"]``.

    Returns:
        The spec; ``spec.absent`` says which symmetries the architecture lacks, and why.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unknown architecture, missing or contradictory entries of the config, a quantised network, tensors
            that do not fit the config, a symmetry that the architecture does not have.

    >>> config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16,
    ...           "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
    >>> spec = transformer(config)
    >>> [str(leg) for leg in spec.legs["model.layers.0.self_attn.q_proj.weight"]]
    ['h0.qk*, 2 copies by h0.q', 'residual*']
    >>> spec.sites["h0.qk"].group
    RotaryCommutant(n=4, layout='half', rotary=4, scale_std=0.5)
    """
    if not isinstance(rotate, bool):
        raise TypeError(f"rotate: expected True or False, got {rotate!r} of type {type(rotate).__name__}")
    wanted = _wanted(symmetries, rotate)
    data = as_dict(config)
    adapter = adapter_of(data)
    data = {**adapter.defaults, **data}
    sizes = sizes_of(adapter, data, heads_needed=wanted is None or any(name in wanted for name in HEADS))
    shapes = None if tensors is None else shapes_of(tensors)
    matched = match(adapter, data, sizes.layers, sizes.experts, shapes)
    reasons = _reasons(adapter, matched)
    on = _choose(adapter, wanted, reasons, rotate)
    spec = _Builder(adapter, sizes, matched, frozenset(on), rotate).build(shapes, reasons if wanted is None else {})
    if shapes is not None and None not in shapes.values():
        spec.validate({name: shape for name, shape in shapes.items() if shape is not None})
    return spec


def _wanted(symmetries: Iterable[str] | None, rotate: bool) -> tuple[str, ...] | None:
    if symmetries is None:
        return None
    if isinstance(symmetries, str) or not isinstance(symmetries, Iterable):
        raise TypeError(f"symmetries: expected a collection of names, got {symmetries!r}; write [{symmetries!r}]")
    wanted = tuple(symmetries)
    unknown = [name for name in wanted if name not in SYMMETRIES]
    if unknown:
        raise ValueError(f"symmetries: expected some of {', '.join(SYMMETRIES)}; got {unknown[0]!r}")
    if rotate and "residual" not in wanted:
        raise ValueError("symmetries: rotate=True rotates the residual stream; add 'residual', or set rotate=False")
    return wanted


def _reasons(adapter: Adapter, matched: Match) -> dict[str, str]:
    """Symmetry -> why the network lacks it."""
    reasons = dict(adapter.absent)
    words = [word for found in matched.found.values() if found.tensor for word in found.tensor.axes if word]
    axes = [found.tensor.axes for found in matched.found.values() if found.tensor]
    if adapter.rotary:
        turned = "the rotary embedding turns a shift of the key bias, which then depends on the position"
        reasons["biases"] = f"{turned}; {reasons['biases']}" if "biases" in reasons else turned
    elif not any(len(words) == 1 and "k" in (words[0] or "").split() for words in axes):
        reasons.setdefault("biases", "there is no key bias")
    if "experts" not in words and "experts" in adapter.keys:
        reasons["experts"] = "experts are tensors of their own in this layout; a permutation would exchange tensors"
    if matched.head.stream:
        reasons["residual"] = STREAM
    if adapter.post_norm:
        reasons[ROTATIONS] = adapter.post_norm
    elif matched.head.stream:
        reasons[ROTATIONS] = (
            "the output is the residual stream itself; rotations need a head to fold the final norm into"
        )
    elif matched.tied:
        reasons[ROTATIONS] = (
            "the head is tied to the embedding, so the final norm cannot be folded into it; save the head as a tensor "
            "of its own, with tie_word_embeddings false"
        )
    return reasons


def _choose(adapter: Adapter, wanted: tuple[str, ...] | None, reasons: dict[str, str], rotate: bool) -> list[str]:
    if rotate and ROTATIONS in reasons:
        raise ValueError(f"rotate: {adapter.model_type!r} has no {ROTATIONS}: {reasons[ROTATIONS]}")
    if not rotate:
        reasons.setdefault(ROTATIONS, "they need folded norms: rotate=True, then specs.fold_norms(params, spec)")
    if wanted is None:
        return [name for name in SYMMETRIES if name not in reasons]
    for name in wanted:
        # A network whose output is the stream may be moved along it on request.
        if name in reasons and not (name == "residual" and reasons[name] == STREAM):
            raise ValueError(f"symmetries: {adapter.model_type!r} lacks {name!r}: {reasons[name]}")
    return [name for name in SYMMETRIES if name in wanted]


@dataclass
class _Builder:
    """Turns words into legs."""

    adapter: Adapter
    sizes: Sizes
    matched: Match
    on: frozenset[str]
    rotate: bool
    sites: dict[str, Group] = field(default_factory=dict)
    legs: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    words: dict[str, Leg] = field(default_factory=dict)
    """Word, with the number of the layer (and the expert) where it has one -> its leg."""

    own: frozenset[Tensor] = frozenset()
    """Tensors of the head that the config names."""
    layers: dict[int, list[Tensor]] = field(default_factory=dict)
    """Layer -> its tensors."""

    def __post_init__(self) -> None:
        if self.matched.named:
            self.own = frozenset(tensor for row in self.matched.head.rows for tensor in tensors_of(row))
        for found in self.matched.found.values():
            if found.tensor is not None:
                self.layers.setdefault(found.layer, []).append(found.tensor)

    def build(self, shapes: Shapes | None, reasons: Mapping[str, str]) -> SymmetrySpec:
        self._declare()
        folds = self._folds() if self.rotate else ()
        kept = {fold.bias for fold in folds if not all(reader.bias for reader in fold.readers)}
        for found in self.matched.found.values():
            shape = None if shapes is None else shapes[found.name]
            self.legs[found.name] = self._axes(found, shape, found.name in kept)
        used: dict[str, set[bool]] = {site: set() for site in self.sites}
        for axes in self.legs.values():
            for leg in _all_legs(axes):
                used[leg.site].add(leg.dual)
        # A pooler that nothing reads is an output.
        for site in [site for site in ("pooled", "transform") if site in self.sites and len(used[site]) < 2]:
            del self.sites[site]
            self.legs = {name: tuple(_without(site, axis) for axis in axes) for name, axes in self.legs.items()}
        state = [found.name for found in self.matched.found.values() if found.tensor is None]
        return SymmetrySpec(self.sites, self.legs, state, folds=folds, absent=reasons)

    def _declare(self) -> None:
        """Sites and the legs of all words."""
        if "residual" in self.on:
            self.sites["residual"] = self._stream()
            self._word("residual", Leg("residual"))
        for layer in range(self.sizes.layers):
            if self.sizes.heads:
                self._attention(layer)
            if "hidden" in self.on:
                self._hidden(layer)
        present = {word for found in self.matched.found.values() if found.tensor for word in found.tensor.axes}
        if "hidden" in self.on and "pooled" in present:
            self.sites["pooled"] = Monomial(self.sizes.width, signs=True, scales=False)
            self._word("pooled", Leg("pooled"))
        if "transform" in present:
            if self.matched.tied:
                # The columns of the decoder are those of the embedding.
                if "residual" in self.on:
                    self._word("transform", Leg("residual"))
            elif "hidden" in self.on:
                self.sites["transform"] = Permutation(self.sizes.width)
                self._word("transform", Leg("transform"))

    def _word(self, word: str, leg: Leg) -> None:
        self.words[word] = leg
        self.words[word + "*"] = Leg(leg.site, dual=True, power=leg.power)

    def _stream(self) -> Group:
        width, layer_norm = self.sizes.width, self.adapter.norm == "layer"
        if self.rotate:
            return Orthogonal(width, keeps_mean=layer_norm)
        return Permutation(width) if layer_norm else Monomial(width, signs=True, scales=False)

    def _attention(self, layer: int) -> None:
        size, at = self.sizes, f"h{layer}."
        permute = "heads" in self.on
        tie = at + "heads" if permute else ""
        order = at + "q" if permute and size.copies > 1 else ""
        shift = "biases" in self.on
        key: Group | None = None
        if "query-key" in self.on:
            key = RotaryCommutant(size.head_dim, rotary=size.rotary) if size.rotary else GeneralLinear(size.head_dim)
            key = Affine(key) if shift else key
        elif shift:
            key = Translation(size.head_dim)
        value = GeneralLinear(size.head_dim) if "value-output" in self.on else None
        alone = at + "heads"  # moves heads in which nothing acts
        for site, group, rows, columns in ((at + "qk", key, "k", "q"), (at + "vo", value, "v", "o")):
            if group is not None:
                self.sites[site] = Heads(size.kv_heads, group, permute, tie)
                # Where the other pair has no group of its own, its heads follow these: the tie makes both moves one.
                follow = alone if order and None in (key, value) else ""
                self.words[f"{rows}{layer}"] = Leg(site, order=follow)
                self.words[f"{columns}{layer}"] = Leg(site, dual=True, copies=size.copies, order=order)
            elif permute:
                self.sites[alone] = Heads(size.kv_heads, Permutation(1), permute, tie)
                # The dual of a permutation is itself: it only marks that these tensors read.
                reads, read = bool(order) and rows == "v", not order or columns == "o"
                self.words[f"{rows}{layer}"] = Leg(alone, dual=reads, repeat=size.head_dim)
                self.words[f"{columns}{layer}"] = Leg(order or alone, dual=read, repeat=size.head_dim)
        if shift:
            self.words[f"key bias{layer}"] = Leg(at + "qk", affine=True)
            if not permute and "query-key" not in self.on:
                # Nothing but the shift: the weights stay as they are.
                del self.words[f"k{layer}"], self.words[f"q{layer}"]
        if order:
            self.sites[order] = Heads(size.kv_heads, Permutation(size.copies), True, tie)

    def _hidden(self, layer: int) -> None:
        tensors = self.layers.get(layer, [])
        if any("experts" in tensor.axes for tensor in tensors):
            self.sites[f"h{layer}.experts"] = Permutation(self.sizes.experts)
            self.words[f"experts{layer}"] = Leg(f"h{layer}.experts")
            self.words[f"experts*{layer}"] = Leg(f"h{layer}.experts", dual=True)
        split = any("{expert}" in tensor.name for tensor in tensors)
        for expert in range(self.sizes.experts if split else 1):
            site = f"h{layer}.e{expert}.mlp" if split else f"h{layer}.mlp"
            if self.adapter.gated:
                self.sites[site] = Monomial(self.sizes.hidden, signs=True)
                self.words[f"gate{layer}.{expert}"] = Leg(site, power=0)
                self.words[f"up{layer}.{expert}"] = Leg(site)
                self.words[f"down{layer}.{expert}"] = Leg(site, dual=True)
            else:
                self.sites[site], power = _activation(self.sizes.activation, self.sizes.hidden)
                self.words[f"mlp{layer}.{expert}"] = Leg(site)
                self.words[f"mlp*{layer}.{expert}"] = Leg(site, dual=True, power=power)

    def _axes(self, found: Found, shape: tuple[int, ...] | None, kept: bool) -> tuple[Axis, ...]:
        if found.tensor is None:
            return (None,) * found.axes
        words = found.tensor.axes
        if shape is not None and len(shape) != len(words):
            raise ValueError(f"tensors: {found.name!r} has shape {shape}; expected {len(words)} axes")
        axes = []
        for number, word in enumerate(words):
            pieces = [
                (self._length(part, found.tensor), self._leg(part, found, len(words) == 1, kept))
                for part in _split(word)
            ]
            total = sum(length or 0 for length, _ in pieces)
            if shape is not None and total and None not in (length for length, _ in pieces) and shape[number] != total:
                raise ValueError(
                    f"tensors: {found.name!r} has shape {shape}, but axis {number} ({word}) has length {total} by the "
                    f"config ({self.sizes.describe(word)}); check that the config belongs to these tensors"
                )
            axes.append(_axis(pieces))
        return tuple(axes)

    def _length(self, word: str, tensor: Tensor) -> int | None:
        # The number of labels belongs to the head of the class that the config names, and to no other head in the file.
        if word == "labels" and tensor not in self.own:
            return None
        return self.sizes.lengths.get(word.removesuffix("*"))

    def _leg(self, word: str, found: Found, vector: bool, kept: bool) -> Leg | None:
        if word in ("gain", "shift"):
            if self.rotate:
                # Gains are one and biases zero after folding; a bias that no reader can take stays a vector.
                return self.words["residual"] if kept else None
            residual = self.words.get("residual")
            signed = residual is not None and self.sites["residual"].signed
            return Leg("residual", power=0) if signed else residual
        if word == "k" and vector and f"key bias{found.layer}" in self.words:
            return self.words[f"key bias{found.layer}"]
        for key in (word, f"{word}{found.layer}", f"{word}{found.layer}.{found.expert}"):
            if key in self.words:
                return self.words[key]
        return None

    def _folds(self) -> tuple[Fold, ...]:
        """Every norm of the stream with the tensors that read it, in the order of the table."""
        readers: dict[str, tuple[str, ...]] = {}
        for row in (row for variant in self.adapter.variants for row in variant):
            if isinstance(row, Norm) and row.readers:
                readers[row.name] = readers.get(row.name, ()) + row.readers
        places: dict[tuple[str, int], list[tuple[int, str]]] = {}
        for today, entry in self.matched.found.items():
            if entry.tensor is not None:
                places.setdefault((entry.tensor.name, entry.layer), []).append((entry.expert, today))
        folds = []
        for layer in range(self.sizes.layers):
            for name, names in readers.items():
                for _, gain in places.get((name + ".weight", layer), ()):
                    full = [end for reader in dict.fromkeys(names) for end in (reader + ".weight", reader)]
                    weights = [weight for end in full for _, weight in sorted(places.get((end, layer), ()))]
                    bias = self.matched.found.get(gain.removesuffix("weight") + "bias")
                    folds.append(
                        Fold(
                            self.matched.found[gain].name,
                            tuple(map(self._reader, weights)),
                            bias.name if bias else "",
                            self.adapter.offset,
                        )
                    )
        return tuple(folds)

    def _reader(self, weight: str) -> Reader:
        entry = self.matched.found[weight]
        assert entry.tensor is not None
        bias = self.matched.found.get(weight.removesuffix("weight") + "bias") if weight.endswith(".weight") else None
        return Reader(entry.name, entry.tensor.axes.index("residual*"), bias.name if bias else "")


def _split(word: str | None) -> list[str]:
    return [""] if word is None else word.split()


def _axis(pieces: list[tuple[int | None, Leg | None]]) -> Axis:
    if len(pieces) == 1:
        return pieces[0][1]
    if all(leg is None for _, leg in pieces):
        return None
    return Segments(tuple((length or 0, leg) for length, leg in pieces))


def _all_legs(axes: Iterable[Axis]) -> list[Leg]:
    parts = [leg for axis in axes if isinstance(axis, Segments) for _, leg in axis]
    return [leg for leg in [*axes, *parts] if isinstance(leg, Leg)]


def _without(site: str, axis: Axis) -> Axis:
    return None if isinstance(axis, Leg) and axis.site == site else axis


def _activation(name: object, width: int) -> tuple[Group, float]:
    """The group of the hidden units behind an activation, and the power with which they are read."""
    if name in ("prelu", "xielu"):
        raise ValueError(f"config: activation {name!r} has parameters, which the table lacks; write the legs by hand")
    # Any other elementwise function, known or not, commutes with permutations.
    layer = SHORT_NAMES[HF_ACTIVATIONS.get(name, "gelu") if isinstance(name, str) else "gelu"]
    row = ACTIVATIONS[layer["type"]]
    layer = {**row.fields, **layer}
    symmetry = row.symmetry_of(layer)
    if not symmetry.signs and not symmetry.scales:
        return Permutation(width), 1.0
    return Monomial(width, signs=symmetry.signs, scales=symmetry.scales), row.power_of(layer)
