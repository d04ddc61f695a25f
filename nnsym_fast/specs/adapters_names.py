# SPDX-License-Identifier: MIT
"""Matching the names of a checkpoint's tensors with the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from nnsym_fast.specs.adapters import BUFFERS
from nnsym_fast.specs.adapters_rows import ALWAYS, OPTIONAL, Adapter, Head, Row, Tensor, tensors_of

__all__ = ["Found", "Match", "Shapes", "find_prefix", "match", "measure", "shapes_of"]

MOST = 100_000
"""Largest number of layers, times experts, for which names are written."""

Shapes: TypeAlias = dict[str, "tuple[int, ...] | None"]


@dataclass(frozen=True)
class Found:
    """A tensor of a checkpoint and its row; ``tensor`` is None for a constant that nothing acts on."""

    name: str
    tensor: Tensor | None
    layer: int
    expert: int
    axes: int


@dataclass(frozen=True)
class Match:
    """The tensors of a checkpoint.

    Args:
        head: the class of the network.
        tied: whether its head is the embedding.
        prefix: prefix of the names of the body.
        found: today's name of a tensor -> what was found, in the order of the checkpoint.
        named: whether the config names the class; otherwise it was guessed from the tensors.
    """

    head: Head
    tied: bool
    prefix: str
    found: Mapping[str, Found]
    named: bool


def shapes_of(tensors: object) -> Shapes:
    """Name -> shape, None where it is not known, of what a user may give as ``tensors``.

    Raises:
        TypeError: neither a collection of names nor a mapping name -> shape or array.
    """
    if isinstance(tensors, str) or not isinstance(tensors, Iterable):
        raise TypeError(
            f"tensors: expected the names of tensors, or a mapping name -> shape or array, got {type(tensors).__name__}"
        )
    if not isinstance(tensors, Mapping):
        return {str(name): None for name in tensors}
    shapes: Shapes = {}
    for name, value in tensors.items():
        shape = value if isinstance(value, (tuple, list)) else getattr(value, "shape", None)
        if shape is None:
            raise TypeError(f"tensors[{name!r}]: expected a shape or an array, got {type(value).__name__}")
        shapes[str(name)] = tuple(int(length) for length in shape)
    return shapes


def match(adapter: Adapter, config: Mapping[str, Any], layers: int, experts: int, shapes: Shapes | None) -> Match:
    """Find the row of every tensor.

    Args:
        adapter: the table.
        config: the config, with the table's defaults filled in.
        layers: number of layers.
        experts: number of experts.
        shapes: the tensors of the checkpoint; None: those that a file of the class in ``config["architectures"]`` has.

    Raises:
        ValueError: a tensor is missing, unknown, or belongs to a layer that the config does not have.
    """
    named = _class_of(adapter, config, needed=shapes is None)
    if shapes is None:
        _check_count(adapter, layers, experts)
        head = named or adapter.heads[0]
        prefix = "" if head.stream else head.prefix or adapter.prefix
        wanted = _expected(adapter, head, 0, config, prefix, layers, experts)
        found = {name: entry for name, (entry, there) in wanted.items() if there != "no"}
        return Match(head, _tied(head, config), prefix, found, named is not None)
    prefix = find_prefix(adapter, shapes)
    # The names of a body by itself have no prefix, whatever class the config was saved with.
    head = named if named is not None and (prefix or named.stream) else _guess(adapter, config, prefix, shapes)
    found = _find(adapter, head, prefix, layers, experts, shapes)
    # Before any name is written: a damaged config may ask for millions of layers.
    _check_largest(adapter, layers, experts, found)
    _check_complete(adapter, head, config, prefix, layers, experts, found)
    return Match(head, _tied(head, config), prefix, found, head is named)


def _tied(head: Head, config: Mapping[str, Any]) -> bool:
    return head.tied and bool(config.get("tie_word_embeddings"))


def _class_of(adapter: Adapter, config: Mapping[str, Any], needed: bool) -> Head | None:
    names = config.get("architectures")
    if names is not None and not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        raise ValueError(
            f"config: 'architectures' is {names!r}; expected a list with the name of a class, as in config.json"
        )
    name = names[0] if names else ""
    # Any name may end in "Model": that of the body is the model type with this end.
    body = name.lower() == adapter.model_type + "model"
    fitting = [head for head in adapter.heads if (body if head.suffix == "Model" else name.endswith(head.suffix))]
    if fitting:
        return max(fitting, key=lambda head: len(head.suffix))
    if name and needed:
        known = ", ".join(f"...{head.suffix}" for head in adapter.heads)
        raise ValueError(
            f"config: the class {name!r} of model_type {adapter.model_type!r} is not known; expected one of {known}; "
            "give the network's tensors as tensors=, or write its legs with SymmetrySpec"
        )
    return None


def _anchor(adapter: Adapter) -> str:
    """The end of the name of the embedding, which every checkpoint of the architecture has."""
    return tensors_of(adapter.variants[0][0])[0].name.removeprefix("{model}")


def find_prefix(adapter: Adapter, shapes: Iterable[str]) -> str:
    """What stands before the names of the body.

    Raises:
        ValueError: there is no embedding of the architecture, or more than one.
    """
    end = _anchor(adapter)
    prefixes = [name.removesuffix(end) for name in shapes if name == end or name.endswith("." + end)]
    if len(prefixes) == 1:
        return prefixes[0]
    what = f"more than one: {', '.join(prefix + end for prefix in prefixes)}" if prefixes else "none"
    raise ValueError(
        f"tensors: a checkpoint of model_type {adapter.model_type!r} has one tensor whose name ends in {end!r}, "
        f"found {what}; check that the config belongs to these tensors"
    )


class Measured(NamedTuple):
    """What shapes tell: word -> length of its axis, numbers of layers and experts."""

    lengths: dict[str, int]
    layers: int
    experts: int


def measure(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Measured | None:
    """Sizes of a network whose config is not known; None where the embedding of the architecture is missing."""
    try:
        prefix = find_prefix(adapter, shapes)
    except ValueError:
        return None
    patterns = _patterns(adapter, [row for variant in adapter.variants for row in variant], prefix)
    lengths: dict[str, int] = {}
    layers = experts = 0
    for name, shape in shapes.items():
        for pattern, tensor in patterns:
            matched = pattern.fullmatch(_today(adapter, name))
            if matched and len(shape) == len(tensor.axes):
                indices = matched.groupdict()
                layers = max(layers, int(indices.get("layer", -1)) + 1)
                experts = max(experts, int(indices.get("expert", -1)) + 1)
                for word, length in zip(tensor.axes, shape, strict=True):
                    if word is not None:
                        lengths[word.removesuffix("*")] = length
                break
    return Measured(lengths, layers, lengths.get("experts", experts))


def _guess(adapter: Adapter, config: Mapping[str, Any], prefix: str, shapes: Shapes) -> Head:
    """The class that explains most of the tensors; without a head, the body, or a class whose head is tied."""

    def explained(head: Head) -> int:
        names = [tensor for row in head.rows for tensor in tensors_of(row)]
        needed = [tensor for tensor in names if tensor.when == ALWAYS and not (tensor.tied and _tied(head, config))]
        if not all(tensor.name.format(model=prefix) in shapes for tensor in needed):
            return -1
        return len(needed)

    best = max(adapter.heads, key=explained)
    if explained(best) > 0:
        return best
    tied = [head for head in adapter.heads if _tied(head, config) and explained(head) == 0]
    return tied[0] if tied and prefix else next(head for head in adapter.heads if head.stream)


def _names(tensor: Tensor, prefix: str, layers: int, experts: int) -> Iterator[tuple[str, int, int]]:
    for layer in range(layers if "{layer}" in tensor.name else 1):
        for expert in range(experts if "{expert}" in tensor.name else 1):
            yield tensor.name.format(model=prefix, layer=layer, expert=expert), layer, expert


def _expected(
    adapter: Adapter, head: Head, variant: int, config: Mapping[str, Any], prefix: str, layers: int, experts: int
) -> dict[str, tuple[Found, str]]:
    """Names of a network of this class, and for each whether it is there: "yes", "no" or "maybe"."""
    result = {}
    for row in (*adapter.variants[variant], *head.rows):
        for tensor in tensors_of(row):
            if tensor.tied and _tied(head, config):
                there = "no"
            elif tensor.when in (ALWAYS, OPTIONAL):
                there = "yes" if tensor.when == ALWAYS else "maybe"
            else:
                there = "yes" if config.get(tensor.when) else "no"
            for name, layer, expert in _names(tensor, prefix, layers, experts):
                result[name] = Found(name, tensor, layer, expert, len(tensor.axes)), there
    return result


def _patterns(adapter: Adapter, rows: Iterable[Row], prefix: str) -> list[tuple[re.Pattern[str], Tensor]]:
    patterns = []
    for tensor in (tensor for row in rows for tensor in tensors_of(row)):
        name = re.escape(tensor.name.replace("{model}", prefix))
        for index in ("layer", "expert"):
            name = name.replace(rf"\{{{index}\}}", rf"(?P<{index}>\d+)")
        patterns.append((re.compile(name), tensor))
    return patterns


def _today(adapter: Adapter, name: str) -> str:
    """Today's name of a tensor with an old one."""
    for old, new in adapter.aliases.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _find(adapter: Adapter, head: Head, prefix: str, layers: int, experts: int, shapes: Shapes) -> dict[str, Found]:
    others = [row for other in adapter.heads if other is not head for row in other.rows]
    # The class decides what a name means; tensors of other classes in the same file are recognised after it.
    patterns = _patterns(adapter, (*head.rows, *(row for rows in adapter.variants for row in rows), *others), prefix)
    found = {}
    for name, shape in shapes.items():
        today = _today(adapter, name)
        hit = next(((m, tensor) for pattern, tensor in patterns if (m := pattern.fullmatch(today))), None)
        if hit is None:
            found[today] = _constant(adapter, name, shape)
            continue
        indices, tensor = hit[0].groupdict(), hit[1]
        layer, expert = int(indices.get("layer", 0)), int(indices.get("expert", 0))
        for role, index, count in (("layers", layer, layers), ("experts", expert, experts)):
            if index >= max(count, 1):
                raise ValueError(
                    f"tensors: {name!r} is there, but the config says {adapter.keys[role]} = {count}; check that the "
                    "config belongs to these tensors"
                )
        found[today] = Found(name, tensor, layer, expert, len(tensor.axes) if shape is None else len(shape))
    return found


def _constant(adapter: Adapter, name: str, shape: tuple[int, ...] | None) -> Found:
    for end, axes in BUFFERS.items():
        if name == end or name.endswith("." + end):
            return Found(name, None, 0, 0, axes if shape is None else len(shape))
    raise ValueError(
        f"tensors: {name!r} is not in the table of model_type {adapter.model_type!r}; if this network differs from the "
        "standard one, write its legs with SymmetrySpec"
    )


def _check_count(adapter: Adapter, layers: int, experts: int) -> None:
    number = layers * max(experts, 1)
    if number > MOST:
        keys = adapter.keys
        parts = f"{keys['layers']} = {layers}" + (f" with {keys['experts']} = {experts}" if experts else "")
        raise ValueError(f"config: {parts} makes {number} MLPs; expected at most {MOST}, so check the config")


def _check_largest(adapter: Adapter, layers: int, experts: int, found: Mapping[str, Found]) -> None:
    """Compare the largest layer and expert of the tensors with the config; smaller counts were refused before."""
    entries = [entry for entry in found.values() if entry.tensor is not None]
    for role, count, index, place in (
        ("layers", layers, "layer", "{layer}"),
        ("experts", experts, "expert", "{expert}"),
    ):
        largest = max((getattr(e, index) for e in entries if e.tensor and place in e.tensor.name), default=-1)
        # Experts may be an axis; layers are always in names.
        if largest + 1 < count and (largest >= 0 or role == "layers"):
            there = f"the last {index} is number {largest}" if largest >= 0 else f"no {index} is there"
            raise ValueError(
                f"tensors: {there}, but the config says {adapter.keys[role]} = {count}; the others are missing, check "
                "that the checkpoint is complete and that the config belongs to it"
            )
    _check_count(adapter, layers, experts)


def _check_complete(
    adapter: Adapter,
    head: Head,
    config: Mapping[str, Any],
    prefix: str,
    layers: int,
    experts: int,
    found: Mapping[str, Found],
) -> None:
    missing = []
    for variant in range(len(adapter.variants)):
        expected = _expected(adapter, head, variant, config, prefix, layers, experts)
        missing.append([name for name, (_, there) in expected.items() if there == "yes" and name not in found])
    fewest = min(missing, key=len)
    if fewest:
        more = f" and {len(fewest) - 1} more" if len(fewest) > 1 else ""
        raise ValueError(
            f"tensors: {fewest[0]!r}{more} missing; expected the tensors of {adapter.model_type!r} "
            f"(...{head.suffix}) with {layers} layers; check that the checkpoint is complete"
        )
