# SPDX-License-Identifier: MIT
"""Reading a config: which table it belongs to, and the sizes that the table needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnsym_fast.specs.adapters import ADAPTERS
from nnsym_fast.specs.adapters_observed import count, observed_of
from nnsym_fast.specs.adapters_rows import Adapter

__all__ = ["Sizes", "adapter_of", "as_dict", "sizes_of"]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a network; ``heads`` and what follows from it are 0 where nobody needs them.

    Args:
        width: entries of the residual stream.
        layers: number of layers.
        heads: number of query heads.
        kv_heads: number of key-value heads.
        head_dim: entries of a head.
        rotary: entries of a head that a rotary embedding turns.
        hidden: hidden units of an MLP.
        experts: number of experts, 0 without.
        activation: name of the activation behind hidden units without a gate.
        lengths: word -> length of the axis that carries it.
        keys: role -> key of the config, for messages.
        observed: word of an axis that nothing acts on -> the entries of the config that set its length.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary: int
    hidden: int
    experts: int
    activation: object
    lengths: Mapping[str, int]
    keys: Mapping[str, str]
    observed: Mapping[str, str]

    @property
    def copies(self) -> int:
        """Query heads per key-value head."""
        return self.heads // self.kv_heads

    def describe(self, word: str | None) -> str:
        """The entries of the config that set the length of an axis, for messages."""
        if word is None:
            return ""
        if word in self.observed:
            return self.observed[word]
        parts = word.replace("*", "").split()
        roles: list[str] = []
        for part in parts:
            roles += _ROLES.get(part, ("width",))
        texts = []
        for role in dict.fromkeys(roles):
            value = getattr(self, role)
            texts.append(f"{self.keys.get(role, role)} {value}")
        return ", ".join(texts)


_ROLES = {
    "q": ("heads", "head_dim"),
    "o": ("heads", "head_dim"),
    "k": ("kv_heads", "head_dim"),
    "v": ("kv_heads", "head_dim"),
    "head": ("head_dim",),
    "mlp": ("hidden",),
    "gate": ("hidden",),
    "up": ("hidden",),
    "down": ("hidden",),
    "experts": ("experts",),
}
"""Word -> the sizes that make its length."""


def as_dict(config: Any) -> dict[str, Any]:
    """A config as a dict.

    Raises:
        TypeError: neither a mapping nor an object with ``to_dict``.
    """
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    raise TypeError(
        f"config: expected a dict as in config.json, or a config of transformers, got {type(config).__name__}"
    )


def adapter_of(config: Mapping[str, Any]) -> Adapter:
    """The table of a config.

    Raises:
        ValueError: an unknown architecture, a quantised network, or a variant that the table does not cover.
    """
    name = config.get("model_type")
    adapter = ADAPTERS.get(name) if isinstance(name, str) else None
    if adapter is None:
        raise ValueError(
            f"config: model_type {name!r} is not known; expected one of {', '.join(sorted(ADAPTERS))}; for another "
            "architecture write the legs of its tensors with SymmetrySpec(sites, legs)"
        )
    if config.get("quantization_config") is not None:
        raise ValueError(
            "config: 'quantization_config' says that the weights are quantised; expected floating-point weights, so "
            "convert the checkpoint to float32, float16 or bfloat16 first"
        )
    for key, values in adapter.only.items():
        if config.get(key) not in values:
            raise ValueError(
                f"config: {key!r} is {config[key]!r}, which the table of {name!r} does not cover; write the legs of "
                "this network with SymmetrySpec"
            )
    return adapter


def _rotary(config: Mapping[str, Any], head_dim: int) -> int:
    """Entries of a head that are turned: all of them, in the classes of the tables."""
    parameters = config.get("rope_parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError(f"config: 'rope_parameters' is {parameters!r}; expected an object, as in config.json")
    # One object for all layers, or one per type of layer.
    places = [config, *(place for place in ([parameters, *parameters.values()] if parameters else []))]
    factors = [place.get("partial_rotary_factor") for place in places if isinstance(place, Mapping)]
    factor = next((factor for factor in factors if factor is not None and factor != 1), None)
    if factor is not None:
        raise ValueError(
            f"config: 'partial_rotary_factor' is {factor}, but the classes of model_type {config['model_type']!r} turn "
            "whole heads; write the legs of this network with SymmetrySpec and RotaryCommutant(n, rotary=...)"
        )
    if head_dim % 2:
        raise ValueError(
            f"config: a rotary embedding turns pairs, but a head has {head_dim} entries; expected an even number"
        )
    return head_dim


def sizes_of(adapter: Adapter, config: Mapping[str, Any], heads_needed: bool = True) -> Sizes:
    """The sizes in a config, with the table's defaults filled in.

    Args:
        adapter: the table.
        config: the config.
        heads_needed: whether a config without the number of heads is an error.

    Raises:
        ValueError: an entry is missing, not a positive integer, or contradicts another.
    """
    keys = adapter.keys
    width, layers = count(config, keys["width"]), count(config, keys["layers"])
    hidden = 4 * width if config.get(keys["hidden"], 0) is None else count(config, keys["hidden"])
    experts = count(config, keys["experts"]) if "experts" in keys else 0
    heads = kv_heads = head_dim = rotary = 0
    if heads_needed or keys["heads"] in config:
        heads = count(config, keys["heads"])
        kv = keys.get("kv_heads", keys["heads"])
        kv_heads = heads if config.get(kv, 0) is None else count(config, kv)
        if heads % kv_heads:
            raise ValueError(f"config: {keys['heads']!r} is {heads}; expected a multiple of {kv!r}, {kv_heads}")
        if config.get(keys.get("head_dim", "")) is not None:
            head_dim = count(config, keys["head_dim"])
        elif width % heads:
            raise ValueError(f"config: {keys['width']!r} is {width}; expected a multiple of {keys['heads']!r}, {heads}")
        else:
            head_dim = width // heads
        rotary = _rotary(config, head_dim) if adapter.rotary else 0
    lengths = dict.fromkeys(("residual", "gain", "shift", "transform"), width)
    lengths |= dict.fromkeys(("mlp", "gate", "up", "down"), hidden) | {"experts": experts, "pooled": width}
    lengths |= {"q": heads * head_dim, "o": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    lengths |= {"head": head_dim}
    known = {word: length for word, length in lengths.items() if length}
    activation = config.get(keys.get("activation", ""))
    observed = observed_of(adapter, config, width, experts)
    known |= {word: length for word, (length, _) in observed.items()}
    texts = {word: text for word, (_, text) in observed.items()}
    return Sizes(width, layers, heads, kv_heads, head_dim, rotary, hidden, experts, activation, known, keys, texts)
