# SPDX-License-Identifier: MIT
"""Networks of the transformer benchmarks, and what their symmetries must leave alone, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import SCALE_STD

import nnsym_fast as nf

__all__ = ["BERT", "FIXED", "LLAMA", "ROLES", "Bert", "Rotated", "general_linear_error", "haar_error"]

Array = npt.NDArray[Any]
Points = Mapping[str, Any]

BERT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
        "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu"}  # fmt: skip
LLAMA = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "num_key_value_heads": 12,
         "intermediate_size": 1024, "vocab_size": 15744, "tie_word_embeddings": False}  # fmt: skip
"""Llama's shapes, with as many parameters as MiniLM."""

ROLES = {
    "query": "attention.self.query.weight", "query bias": "attention.self.query.bias",
    "key": "attention.self.key.weight", "key bias": "attention.self.key.bias",
    "value": "attention.self.value.weight", "value bias": "attention.self.value.bias",
    "output": "attention.output.dense.weight", "output bias": "attention.output.dense.bias",
    "up": "intermediate.dense.weight", "up bias": "intermediate.dense.bias",
    "down": "output.dense.weight", "down bias": "output.dense.bias",
}  # fmt: skip
FIXED = ("output bias", "down bias")
"""Roles that no symmetry touches."""


def bert_shapes(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of BertModel."""
    d, units = c["hidden_size"], c["intermediate_size"]

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (c["vocab_size"], d),
        "embeddings.position_embeddings.weight": (c["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (c["type_vocab_size"], d),
        **norm("embeddings.LayerNorm"),
    }
    sizes = {"up": (units, d), "up bias": (units,), "down": (d, units)}
    for i in range(c["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        for role, name in ROLES.items():
            shapes[layer + name] = sizes.get(role, (d,) if role.endswith("bias") else (d, d))
        shapes |= norm(layer + "attention.output.LayerNorm") | norm(layer + "output.LayerNorm")
    return {**shapes, "pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}


def llama_shapes(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of LlamaForCausalLM."""
    d, units, vocabulary = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, d)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {f"{layer}self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
        shapes |= {f"{layer}mlp.{name}_proj.weight": (units, d) for name in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (d, units)
        shapes |= {f"{layer}{name}_layernorm.weight": (d,) for name in ("input", "post_attention")}
    return {**shapes, "model.norm.weight": (d,), "lm_head.weight": (vocabulary, d)}


def random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Weights that keep activations of order one."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]) if len(shape) > 1 else 1)
        for name, shape in shapes.items()
    }


def split(value: Array, heads: int) -> Array:
    """(..., h m) -> (..., h, m)."""
    return value.reshape(*value.shape[:-1], heads, -1)


def layer_values(p: Mapping[str, Array], heads: int) -> tuple[Array, Array, Array]:
    """What one layer makes of 16 tokens, in float64: scores (h, keys, queries), what heads write (h, keys, d), MLP.

    The scores of a query count up to a constant, which softmax does not see.
    """
    x = np.random.default_rng(1).standard_normal((16, p["query"].shape[1]))
    query, key, value = (split(x @ p[name].T + p[f"{name} bias"], heads) for name in ("query", "key", "value"))
    scores = np.einsum("khm,qhm->hkq", key, query)
    written = np.einsum("khm,dhm->hkd", value, split(p["output"], heads))
    # Softplus commutes with permutations, and with neither signs nor scales.
    return scores - scores[:, :1], written, np.logaddexp(0, x @ p["up"].T + p["up bias"]) @ p["down"].T


class Bert:
    """The network, its names by role, and what must not change along its orbit."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shapes = bert_shapes(config)
        self.params = random(shapes)
        self.heads: int = config["num_attention_heads"]
        self.spec = nf.specs.transformer({"model_type": "bert", **config}, tensors=shapes)
        self.layers = [
            {role: f"encoder.layer.{i}.{name}" for role, name in ROLES.items()}
            for i in range(config["num_hidden_layers"])
        ]
        inside = {name for layer in self.layers for role, name in layer.items() if role not in FIXED}
        self.rest = [name for name in self.params if name not in inside]
        self.values = [layer_values(self._layer(names, self.params), self.heads) for names in self.layers]

    @staticmethod
    def _layer(names: Mapping[str, str], params: Mapping[str, Array]) -> dict[str, Array]:
        return {role: params[name].astype(np.float64) for role, name in names.items()}

    def error(self, n: int, points: Points) -> float:
        """Largest relative change over some of ``n`` points, which must differ from each other and from the base."""
        assert set(points) == set(self.params)
        worst = 0.0
        orders = []
        for k in (0, n - 1):
            moved = {name: np.asarray(value[k]) for name, value in points.items()}
            assert all(np.array_equal(moved[name], self.params[name]) for name in self.rest)
            for names, base in zip(self.layers, self.values, strict=True):
                worst = max(worst, self._changed(names, moved, base, orders))
        assert len(set(orders)) > 1, "every point has the same order of heads"
        return worst

    def _changed(
        self, names: Mapping[str, str], moved: Mapping[str, Array], base: tuple[Array, Array, Array], orders: list[Any]
    ) -> float:
        for name in (name for role, name in names.items() if role not in FIXED):
            assert not np.allclose(moved[name][:8], self.params[name][:8]), name
        layer = self._layer(names, moved)
        units = (np.sort(p[names["up bias"]]) for p in (moved, self.params))
        assert np.array_equal(*units), "hidden units are not permuted"
        values = layer_values(layer, self.heads)
        distance = np.abs(values[0][:, None] - base[0]).max((2, 3))
        order = distance.argmin(1)  # the head that each one was
        assert np.array_equal(np.sort(order), np.arange(self.heads))
        orders.append(tuple(order))
        before = base[0][order], base[1][order], base[2]
        return max(float(np.abs(b - a).max() / np.abs(a).max()) for a, b in zip(before, values, strict=True))


class Rotated:
    """Llama's shapes, readers and writers of the stream, and what must not change when it is rotated."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        shapes = llama_shapes(config)
        names = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        self.spec = nf.specs.transformer(names | config, tensors=shapes, symmetries=["residual"], rotate=True)
        params = random(shapes)
        norms = [name for name in params if name.endswith("norm.weight")]
        self.params = params | {name: np.ones_like(params[name]) for name in norms}
        self.writers = [name for name in params if name.endswith(("o_proj.weight", "down_proj.weight"))]
        self.embedding = "model.embed_tokens.weight"
        self.readers = [name for name in params if name not in {*self.writers, *norms, self.embedding}]
        self.norms = norms
        self.size = sum(params[name].size for name in (*self.writers, *self.readers, self.embedding))
        self.before = self._read(self.params)

    def _read(self, p: Mapping[str, Array]) -> dict[str, Array]:
        """What 32 rows of every reader make of 8 columns of every writer and of the embedding, in float64."""
        written = [p[self.embedding][:8].T, *(p[name][:, :8] for name in self.writers)]
        stream = np.concatenate(written, axis=1).astype(np.float64)
        return {name: p[name][:32].astype(np.float64) @ stream for name in self.readers}

    def error(self, n: int, points: Points) -> float:
        """As of :class:`Bert`."""
        assert set(points) == set(self.params)
        worst = 0.0
        for k in (0, n - 1):
            moved = {name: np.asarray(value[k]) for name, value in points.items()}
            assert all(np.array_equal(moved[name], self.params[name]) for name in self.norms)
            for name in (self.embedding, *self.readers, *self.writers):
                assert not np.allclose(moved[name][:8], self.params[name][:8])
            # What a norm sees is the length of the stream.
            lengths = [np.linalg.norm(p[self.embedding][:32].astype(np.float64), axis=1) for p in (moved, self.params)]
            worst = max(worst, float(np.abs(lengths[0] / lengths[1] - 1).max()))
            for name, after in self._read(moved).items():
                before = self.before[name]
                worst = max(worst, float(np.abs(after - before).max() / np.abs(before).max()))
        first, last = (np.asarray(points[self.embedding][k][:8]) for k in (0, n - 1))
        assert not np.allclose(first, last), "every point has the same rotation"
        return worst


def some(matrices: Any) -> Array:
    """A part of many matrices, in float64."""
    part: Array = np.asarray(matrices[:: max(1, len(matrices) // 4096)]).astype(np.float64)
    return part


def haar_error(n: int, m: int, result: Sequence[Any]) -> float:
    """Largest entry of Q Q^T - 1, of matrices whose traces are those of Haar matrices: mean 0, variance 1."""
    matrices = result[0]
    assert matrices.shape == (n, m, m)
    traces = np.einsum("kii->k", np.asarray(matrices)).astype(np.float64)
    assert abs(traces.mean()) < 5 / np.sqrt(n)
    assert abs(traces.var() - 1) < 5 * np.sqrt(2 / n)
    q = some(matrices)
    return float(np.abs(q @ q.transpose(0, 2, 1) - np.eye(m)).max())


def general_linear_error(n: int, m: int, result: Sequence[Any]) -> float:
    """Largest entry of A A^-1 - 1; log |det A| has mean 0 and the standard deviation that the scales give."""
    matrix, inverse = (some(part) for part in result)
    assert result[0].shape == result[1].shape == (n, m, m)
    logs = np.linalg.slogdet(matrix)[1]
    std = SCALE_STD * np.sqrt(m)
    assert abs(logs.mean()) < 5 * std / np.sqrt(len(logs))
    assert abs(logs.std() / std - 1) < 5 / np.sqrt(2 * len(logs))
    return float(np.abs(matrix @ inverse - np.eye(m)).max())
