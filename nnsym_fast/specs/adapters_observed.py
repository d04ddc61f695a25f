# SPDX-License-Identifier: MIT
"""Lengths of the axes that nothing acts on, vocabulary, positions, classes, patches, as far as the config sets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnsym_fast.specs.adapters_rows import Adapter

__all__ = ["count", "observed_of"]


def count(config: Mapping[str, Any], key: str) -> int:
    """A positive integer of a config.

    Raises:
        ValueError: it is missing, or something else.
    """
    if key not in config:
        raise ValueError(
            f"config: {key!r} is missing; expected it beside model_type {config.get('model_type')!r}, as in config.json"
        )
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"config: {key!r} is {value!r}; expected an integer >= 1")
    return value


def observed_of(adapter: Adapter, config: Mapping[str, Any], width: int, experts: int) -> dict[str, tuple[int, str]]:
    """Word -> length of its axis, and the entries of the config that say so.

    An entry that the config lacks, or that is null, says nothing. Equality is right for vocabularies, too: resizing the
    embedding of a model changes ``vocab_size`` with it, and transformers loads no other shape.

    Args:
        adapter: the table.
        config: the config.
        width: entries of the residual stream.
        experts: number of experts, 0 without.

    Raises:
        ValueError: an entry is not a positive integer (or, for images and patches, a pair of them).
    """
    found: dict[str, tuple[int, str]] = {}
    for role in ("vocab", "positions", "types", "channels"):
        key = adapter.keys.get(role, "")
        if config.get(key) is not None:
            found[role] = count(config, key), f"{key} {config[key]}"
    labels, number = config.get("id2label"), config.get("num_labels")
    if isinstance(labels, Mapping) and labels:
        found["labels"] = len(labels), f"id2label with {len(labels)} entries"
    elif number is not None and number != 0:  # without labels there is no such tensor
        found["labels"] = count(config, "num_labels"), f"num_labels {number}"
    if experts:
        found["routes"] = experts, f"{adapter.keys['experts']} {experts}"
    if "image" in adapter.keys:
        found |= _images(adapter, config, width)
    return found


def _images(adapter: Adapter, config: Mapping[str, Any], width: int) -> dict[str, tuple[int, str]]:
    keys = adapter.keys
    found: dict[str, tuple[int, str]] = {}
    # Null and 0 mean the width, as in transformers.
    pooler = count(config, keys["pooler"]) if config.get(keys["pooler"]) else width
    found["pooler"] = pooler, f"{keys['pooler']} {pooler}"
    image, patch = _pair(config, keys["image"]), _pair(config, keys["patch"])
    if patch is not None:
        text = f"{keys['patch']} {config[keys['patch']]}"
        found |= {"patch_height": (patch[0], text), "patch_width": (patch[1], text)}
        if image is not None:
            patches = (image[0] // patch[0]) * (image[1] // patch[1])
            # One position more than patches: that of the class token.
            found["patches"] = patches + 1, f"{keys['image']} {config[keys['image']]}, {text}, and the class token"
    if None not in (config.get(keys["stride"]), config.get(keys["channels"])):
        stride, channels = count(config, keys["stride"]), count(config, keys["channels"])
        found["pixels"] = stride**2 * channels, f"{keys['stride']} {stride}, {keys['channels']} {channels}"
    return found


def _pair(config: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    value = config.get(key)
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or any(isinstance(part, bool) or not isinstance(part, int) or part < 1 for part in pair):
        raise ValueError(f"config: {key!r} is {value!r}; expected an integer >= 1, or two of them")
    return pair[0], pair[1]
