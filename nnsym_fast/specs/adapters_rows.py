# SPDX-License-Identifier: MIT
"""The vocabulary of the tables of transformers: rows that name tensors, and words that say what their axes carry.

Names hold ``{model}`` (the prefix of the body: ``"model."``, ``"bert."`` or nothing), ``{layer}`` and ``{expert}``.

| word | axis |
|---|---|
| ``residual``, ``residual*`` | writes into the residual stream, reads from it |
| ``gain``, ``shift`` | gain and bias of a norm of the stream |
| ``q``, ``k``, ``v``, ``o`` | rows of the query, key and value projections, columns of the output projection |
| ``head`` | one head's dimensions, shared by all heads, untouched |
| ``mlp``, ``mlp*`` | hidden units behind an activation |
| ``gate``, ``up``, ``down`` | hidden units of a gated activation |
| ``experts``, ``experts*`` | the axis of experts |
| ``pooled``, ``pooled*`` | units of a pooler behind tanh |
| ``transform``, ``transform*`` | hidden units of a masked-language head |
| ``vocab``, ``positions``, ``types``, ``labels`` | tokens, positions, token types, classes |
| ``patches``, ``channels``, ``patch_height``, ``patch_width``, ``pixels``, ``pooler`` | of images |
| ``routes`` | scores of experts that are tensors of their own |
| None | an axis whose length no entry of the config sets |

Nothing acts on the words from ``vocab`` on, which can be observed; they have lengths alone. Several words, ``"q k v"``,
are projections one after the other on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Adapter", "Head", "Linear", "Norm", "Row", "Tensor", "Words", "tensors_of"]

Words: TypeAlias = tuple["str | None", ...]

ALWAYS = ""
OPTIONAL = "optional"
"""``Tensor.when``: there by default, but a checkpoint may lack it."""


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Args:
        name: its name.
        axes: a word, several words, or None per axis.
        when: ``""``: always there; ``"optional"``: a checkpoint may lack it; otherwise the key of the config that says.
        tied: whether it is absent (or the same memory) where the config ties the head to the embedding.
    """

    name: str
    axes: Words
    when: str = ALWAYS
    tied: bool = False


@dataclass(frozen=True)
class Linear:
    """A weight ``name.weight`` and, where ``bias`` says so, a bias ``name.bias``.

    Args:
        name: name without its last part.
        out: word of what it writes.
        into: word of what it reads.
        bias: ``"no"``, ``"yes"``, or the key of the config that says.
        transposed: whether the weight is stored (in, out).
        when: as for :class:`Tensor`.
        tied: as for :class:`Tensor`.
    """

    name: str
    out: str | None
    into: str | None
    bias: str = "no"
    transposed: bool = False
    when: str = ALWAYS
    tied: bool = False


@dataclass(frozen=True)
class Norm:
    """A norm with gains ``name.weight`` and, for LayerNorm, biases ``name.bias``.

    Args:
        name: name without its last part.
        readers: names (without the last part) of all weights that read its output; empty where its gains cannot be
            folded, because its output goes into the stream.
        bias: whether it has biases.
        on: the word of the space it acts on.
    """

    name: str
    readers: tuple[str, ...] = ()
    bias: bool = False
    on: str = "residual"


Row: TypeAlias = Tensor | Linear | Norm


@dataclass(frozen=True)
class Head:
    """What a class of models adds to the body.

    Args:
        suffix: the end of the name of the class: ``"ForCausalLM"``.
        rows: the tensors it adds.
        tied: whether its head can be tied to the embedding.
        stream: whether its output is the residual stream itself.
        prefix: prefix of the body where it is not that of the architecture.
    """

    suffix: str
    rows: tuple[Row, ...] = ()
    tied: bool = False
    stream: bool = False
    prefix: str = ""


@dataclass(frozen=True)
class Adapter:
    """One architecture: its tensors, its config, and what it breaks.

    Args:
        model_type: as in ``config.json``.
        prefix: what stands before the names of the body in classes with a head.
        variants: the body; several where the names in files and in memory differ. The first tensor names the embedding.
        heads: the classes; the first is taken where nothing says which.
        keys: role -> key of the config: width, layers, heads, kv_heads, head_dim, hidden, activation, experts,
            and those of the axes that can be observed.
        defaults: key of the config -> what its absence means.
        norm: ``"rms"`` or ``"layer"``.
        post_norm: whether gains stand on the stream, or between what writes and the stream.
        offset: what the network adds to a stored gain.
        gated: whether the MLP multiplies an activation by a second projection.
        rotary: whether queries and keys are turned by a rotary position embedding.
        absent: symmetry -> why the architecture lacks it.
        only: key of the config -> values that the table covers, None for its absence.
        aliases: old endings of names -> today's.
    """

    model_type: str
    prefix: str
    variants: tuple[tuple[Row, ...], ...]
    heads: tuple[Head, ...]
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "rms"
    post_norm: str = ""
    offset: float = 0.0
    gated: bool = True
    rotary: bool = True
    absent: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


def tensors_of(row: Row) -> tuple[Tensor, ...]:
    """The tensors of a row.

    >>> [(tensor.name, tensor.axes) for tensor in tensors_of(Linear("fc", "mlp", "residual*", bias="yes"))]
    [('fc.weight', ('mlp', 'residual*')), ('fc.bias', ('mlp',))]
    """
    if isinstance(row, Tensor):
        return (row,)
    if isinstance(row, Norm):
        gain, shift = ("gain", "shift") if row.on == "residual" else (row.on, row.on)
        weight = Tensor(row.name + ".weight", (gain,))
        return (weight, Tensor(row.name + ".bias", (shift,))) if row.bias else (weight,)
    axes = (row.into, row.out) if row.transposed else (row.out, row.into)
    weight = Tensor(row.name + ".weight", axes, row.when, row.tied)
    if row.bias == "no":
        return (weight,)
    when = row.when if row.bias == "yes" else row.bias
    return weight, Tensor(row.name + ".bias", (row.out,), when, row.tied)
