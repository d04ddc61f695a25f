# SPDX-License-Identifier: MIT
"""A gauge that pays: equivalent networks round differently, and some lose less to int8 and int4 weights than others.

    python examples/quantise_gauge.py [--samples N] [--refine N] [--points N] [--out docs/quantise.png]

Weights are rounded to nearest, symmetric, with one scale per output channel. Two networks:

* MiniLM: its post-norm residual stream has no rotations, so its gauge is one matrix per head between query and key and
  one between value and output. Error: embeddings of sentences against those of the network in float32.
* A Llama-shaped network of random weights in which 8 of 512 residual channels are 10 to 30 times larger than the rest.
  Its gauge is a rotation of the residual stream, with the gains of the norms folded. Error: logits of random tokens.

Draws the figure of docs/minilm.md. Needs torch, transformers and matplotlib; takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from minilm import Encoder, load
from transformers import LlamaConfig, LlamaForCausalLM

import nnsym_fast as nf
from nnsym_fast.gauge_fixing import balance, choose
from nnsym_fast.groups import Heads, Orthogonal

Array = npt.NDArray[Any]
Params = dict[str, Array]
Errors = dict[tuple[str, int], float]
"""(what is rounded, to how many bits) -> relative error."""

BITS = (8, 4)
SEED = 0

OTHER_SENTENCES = (
    "The bridge was closed to traffic after an inspection found cracks in two beams.",
    "Bake the bread until it sounds hollow when you tap it underneath.",
    "Few people remember who invented the zip.",
    "Is it safe to charge a phone overnight?",
    "The orchestra rehearses on Tuesdays in the old customs house.",
    "Whales sleep with one half of the brain at a time.",
    "The landlord must give notice of three months, in writing.",
    "Our flight was diverted because of fog.",
    "A prime number has exactly two divisors.",
    "The patient was told to avoid heavy lifting for six weeks.",
    "Volunteers planted four hundred trees along the canal.",
    "Why does the kettle get louder before it boils?",
)
"""What a search by embeddings sees: not the sentences that its result is judged by."""


def rounded(weight: Array, bits: int, axis: int = -1) -> Array:
    """Symmetric rounding to nearest, one scale for all entries along an axis: per output channel, for the last."""
    levels = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(axis=axis, keepdims=True) / levels
    return np.asarray(np.round(weight / np.where(scale > 0, scale, 1)) * scale)


def relative(a: Array, b: Array) -> float:
    """Euclidean distance of a from b, relative to b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def square(x: Array, y: Array) -> Array:
    """|x^T y|^2 = tr(x x^T y y^T), for every head."""
    return np.asarray(((x @ x.swapaxes(-1, -2)) * (y @ y.swapaxes(-1, -2))).sum(axis=(-1, -2), dtype=np.float64))


# --- MiniLM


class Attention:
    """The weights of the attention of MiniLM, head by head."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.tensors = [name for layer in range(self.layers) for name in self.names(layer)]

    def names(self, layer: int) -> tuple[str, str, str, str]:
        """Query, key, value and output weight of a layer."""
        block = f"encoder.layer.{layer}.attention."
        query, key, value = (f"{block}self.{name}.weight" for name in ("query", "key", "value"))
        return query, key, value, f"{block}output.dense.weight"

    def product_errors(self, point: Mapping[str, Array], bits: int) -> dict[str, Array]:
        """Site -> squared relative error that rounding makes in W_Q^T W_K or W_V^T W_O^T, one number per head.

        A row of W_O has one scale for all heads. Here every head has the scale of its own columns, since the term of a
        head must not depend on other heads.
        """
        errors = {}
        for layer in range(self.layers):
            query, key, value, output = (point[name] for name in self.names(layer))
            for site, left, right, axis in ((f"h{layer}.qk", query, key, 2), (f"h{layer}.vo", value, output.T, 1)):
                a, b = (matrix.reshape(self.heads, -1, matrix.shape[-1]) for matrix in (left, right))
                new_a, new_b = rounded(a, bits), rounded(b, bits, axis)
                # new_a^T new_b - a^T b = (new_a - a)^T new_b + a^T (new_b - b)
                x, y = np.concatenate([new_a - a, a], axis=1), np.concatenate([new_b, new_b - b], axis=1)
                errors[site] = square(x, y) / square(a, b)
        return errors


class MiniLM:
    """The encoder, and what rounding does to its embeddings."""

    def __init__(self) -> None:
        self.params, self.config = load()
        self.encoder, self.other = Encoder(self.config), Encoder(self.config, OTHER_SENTENCES)
        self.exact, self.other_exact = self.encoder(self.params), self.other(self.params)
        self.attention = Attention(self.config)
        every = [name for name, value in self.params.items() if name.startswith("encoder.") and value.ndim == 2]
        self.weights = {"attention": self.attention.tensors, "all layers": every}
        self.general = nf.specs.transformer(self.config, symmetries=("query-key", "value-output"), tensors=self.params)
        orthogonal = {
            site: Heads(group.heads, Orthogonal(group.head_size), permute=False)
            for site, group in self.general.sites.items()
        }
        self.rotations = nf.SymmetrySpec(orthogonal, self.general.legs)

    def rounded(self, params: Params, which: str, bits: int) -> Params:
        """The network with some of its weights rounded."""
        return params | {name: rounded(params[name], bits) for name in self.weights[which]}

    def errors(self, params: Params, bits: Iterable[int] = BITS) -> Errors:
        """Of the embeddings."""
        cases = [(which, b) for which in self.weights for b in bits]
        return {(which, b): relative(self.encoder(self.rounded(params, which, b)), self.exact) for which, b in cases}

    def points(self, params: Params, spec: nf.SymmetrySpec, count: int) -> Iterator[Params]:
        """Points of the orbit; tensors that do not move are those of ``params``."""
        orbit = nf.Orbit(params, spec, SEED)
        moving = [name for name in params if spec.touched(name)]
        for k in range(count):
            yield params | {name: value[0] for name, value in orbit.points(k, k + 1, names=moving).items()}

    def turned(self, params: Params) -> Params:
        """Every head in the basis of Hadamard's matrix."""
        sites = {}
        for site, group in self.rotations.sites.items():
            matrix = np.broadcast_to(hadamard(group.head_size), (1, group.heads, group.head_size, group.head_size))
            sites[site] = nf.SiteElements(matrix=matrix, inverse=matrix.swapaxes(-1, -2))
        return {name: value[0] for name, value in nf.act(self.rotations, nf.Elements(sites, 1), params).items()}

    def by_products(self, params: Params, bits: int, samples: int, refine: int) -> Params:
        """The rotation of every head with the smallest error of its products."""

        def objective(point: Params) -> dict[str, Array]:
            return self.attention.product_errors(point, bits)

        tensors = self.attention.tensors
        best = choose(params, self.rotations, objective, samples, seed=SEED, tensors=tensors, refine=refine, step=0.05)
        heads = sum(len(values) for values in best.terms.values())
        came = sum(float(values.sum()) for values in objective(self.params).values())
        sampled = next(value for n, value in reversed(best.history) if n <= samples)
        steps = (came, best.base_value, sampled, best.value)
        came, base, sampled, value = (math.sqrt(total / heads) for total in steps)
        print(
            f"  int{bits}, rms relative error of a head's product: {came:.4f} as it came, {base:.4f} balanced, "
            f"{sampled:.4f} best of {samples} samples, {value:.4f} after {refine} small steps"
        )
        return best.params

    def by_embeddings(self, params: Params, bits: int, samples: int) -> Params:
        """The rotation with the smallest error of the embeddings of other sentences."""
        moving = [name for name in params if self.rotations.touched(name)]

        def objective(point: Params) -> float:
            return relative(self.other(self.rounded(params | point, "attention", bits)), self.other_exact)

        best = choose(params, self.rotations, objective, samples, seed=SEED, tensors=moving)
        print(
            f"  int{bits}, error of {len(OTHER_SENTENCES)} other embeddings: {objective(self.params):.4f} as it came, "
            f"{best.base_value:.4f} balanced, {best.value:.4f} best of {samples} samples"
        )
        return best.params


def hadamard(n: int) -> Array:
    """Sylvester's matrix over sqrt(n), n a power of two: orthogonal, all entries of one size."""
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / math.sqrt(n)


def minilm(samples: int, refine: int, count: int) -> dict[str, list[Errors]]:
    """Kind of gauge -> errors of some of its points."""
    network = MiniLM()
    balanced = balance(network.params, network.general).params
    families: dict[str, Iterable[Params]] = {
        "as it came": [network.params],
        "random matrices": network.points(network.params, network.general, count),
        "random rotations": network.points(network.params, network.rotations, count),
        "balanced": [balanced],
        "balanced, Hadamard": [network.turned(balanced)],
        "balanced, rotations": network.points(balanced, network.rotations, count),
    }
    table = {name: [network.errors(point) for point in points] for name, points in families.items()}
    products: Errors = {}
    embeddings: Errors = {}
    for bits in BITS:
        products |= network.errors(network.by_products(balanced, bits, samples, refine), [bits])
        embeddings |= network.errors(network.by_embeddings(balanced, bits, samples), [bits])
    return table | {"balanced, by products": [products], "balanced, by embeddings": [embeddings]}


# --- a Llama with outlier channels


class Llama:
    """A Llama-shaped network of random weights, and what rounding does to its logits.

    What writes to OUTLIERS of the residual channels is 10 to 30 times larger than the rest.
    """

    OUTLIERS = 8

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        config = LlamaConfig(
            vocab_size=2000, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=False,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config).eval()
        rng = np.random.default_rng(SEED)
        size = np.ones(config.hidden_size, np.float32)
        where = rng.choice(config.hidden_size, self.OUTLIERS, replace=False)
        size[where] = np.exp(rng.uniform(math.log(10), math.log(30), self.OUTLIERS))
        self.params: Params = {}
        for name, tensor in self.model.state_dict().items():
            value = tensor.numpy()
            if "norm" in name:
                value = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
            elif "embed_tokens" in name:
                value = value * size
            elif "o_proj" in name or "down_proj" in name:
                value = value * size[:, None]
            self.params[name] = value
        self.spec = nf.specs.transformer(config, symmetries=("residual",), rotate=True, tensors=self.params)
        tokens = torch.from_numpy(rng.integers(0, config.vocab_size, (32, 32)))
        self.tokens, self.other = tokens[:16], tokens[16:]
        self.exact, self.other_exact = (self.logits(self.params, which) for which in (self.tokens, self.other))

    def logits(self, params: Params, tokens: torch.Tensor, inputs: int = 0) -> Array:
        """``inputs``: bits to which the inputs of linear layers are rounded, one scale per token; 0: they are not."""

        def round_input(module: torch.nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
            return torch.from_numpy(rounded(given[0].numpy(), inputs))

        linear = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        hooks = [module.register_forward_pre_hook(round_input) for module in linear if inputs]
        tensors = {name: torch.from_numpy(np.require(value, requirements=["C", "W"])) for name, value in params.items()}
        with torch.no_grad():
            result: Array = torch.func.functional_call(self.model, tensors, (tokens,)).logits.numpy()
        for hook in hooks:
            hook.remove()
        return result

    def rounded(self, params: Params, which: str, bits: int) -> Params:
        """Weights of the linear layers by output channel, the embedding by token, or both."""
        matrices = {name: "embedding" if "embed_tokens" in name else "layers" for name in params}
        chosen = {name for name, part in matrices.items() if params[name].ndim == 2 and part in which}
        return {name: rounded(value, bits) if name in chosen else value for name, value in params.items()}

    def errors(self, params: Params, bits: Iterable[int] = BITS) -> Errors:
        """Of the logits."""
        result = {}
        for b in bits:
            for which in ("layers", "embedding", "layers, embedding"):
                result[which, b] = relative(self.logits(self.rounded(params, which, b), self.tokens), self.exact)
            new = self.logits(self.rounded(params, "layers, embedding", b), self.tokens, inputs=8)
            result["both, int8 inputs", b] = relative(new, self.exact)
        return result

    def by_logits(self, params: Params, bits: int, samples: int) -> Params:
        """The rotation with the smallest error of the logits of other tokens."""

        def objective(point: Params) -> float:
            return relative(self.logits(self.rounded(point, "layers, embedding", bits), self.other), self.other_exact)

        best = choose(params, self.spec, objective, samples, seed=SEED + 1)
        print(
            f"  int{bits}, error of the logits of other tokens: {objective(self.params):.4f} as it came, "
            f"{best.base_value:.4f} folded, {best.value:.4f} best of {samples} rotations"
        )
        return best.params


def llama(samples: int, count: int) -> dict[str, list[Errors]]:
    """Kind of gauge -> errors of some of its points."""
    network = Llama()
    folded = nf.specs.fold_norms(network.params, network.spec)
    orbit = nf.Orbit(folded, network.spec, SEED)
    table = {
        "as it came": [network.errors(network.params)],
        "norms folded": [network.errors(folded)],
        "random rotations": [network.errors(orbit[k]) for k in range(count)],
    }
    chosen: Errors = {}
    for bits in BITS:
        chosen |= network.errors(network.by_logits(folded, bits, samples), [bits])
    return table | {"rotated, by logits": [chosen]}


# --- report


def show(title: str, table: Mapping[str, list[Errors]]) -> None:
    """Mean over points, and their standard deviation where there are several."""
    first = next(iter(table.values()))[0]
    print(f"\n{title}\n{'':<25}" + "".join(f"{f'{which}, int{bits}':>25}" for which, bits in first))
    for name, points in table.items():
        cells = []
        for case in first:
            values = [point[case] for point in points]
            spread = f" +- {np.std(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{f'{np.mean(values):.4f}{spread}':>25}")
        print(f"{name:<25}" + "".join(cells))


def panel(axes: Any, table: Mapping[str, list[Errors]], cases: Mapping[tuple[str, int], str]) -> None:
    """Errors relative to the network as it came: every point, and the mean of a family as a bar."""
    base = table["as it came"][0]
    rows = {name: points for name, points in table.items() if name != "as it came"}
    for number, (case, label) in enumerate(cases.items()):
        colour = f"C{number}"
        for row, points in enumerate(rows.values()):
            values = np.array([point[case] / base[case] for point in points])
            height = row + (number - (len(cases) - 1) / 2) * 0.17
            if len(values) > 1:
                axes.plot(values, np.full(len(values), height), "o", color=colour, markersize=4, alpha=0.5, mew=0)
            axes.plot([values.mean()] * 2, [height - 0.085, height + 0.085], color=colour, linewidth=3.5)
        axes.plot([], [], color=colour, linewidth=3.5, label=label)
    for row in range(0, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    axes.axvline(1.0, color="0.4", linewidth=1, linestyle="--", zorder=1, label="as it came")
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(left=False)
    axes.legend(fontsize="small", ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def draw(out: Path, encoder: Mapping[str, list[Errors]], decoder: Mapping[str, list[Errors]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="constrained")
    panel(
        left, encoder, {(which, bits): f"{which} int{bits}" for which in ("attention", "all layers") for bits in BITS}
    )
    left.set(title="MiniLM: a matrix per head", xlabel="error of embeddings, relative to the network as it came")
    labels = {
        ("layers", 8): "layers int8",
        ("layers", 4): "layers int4",
        ("layers, embedding", 8): "layers, embedding int8",
        ("layers, embedding", 4): "layers, embedding int4",
        ("both, int8 inputs", 8): "the same int8, inputs int8",
    }
    panel(right, decoder, labels)
    right.set(title="Llama with outlier channels: a rotation", xlim=(0, None))
    right.set(xlabel="error of logits, relative to the network as it came")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=300, help="points that a search tries")
    parser.add_argument("--refine", type=int, default=300, help="small steps after that")
    parser.add_argument("--points", type=int, default=12, help="random points that are shown of every family")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "quantise.png")
    options = parser.parse_args()
    print("MiniLM")
    encoder = minilm(options.samples, options.refine, options.points)
    print("Llama")
    decoder = llama(max(1, options.samples // 4), options.points)
    show("MiniLM, relative error of the embeddings", encoder)
    show("Llama, relative error of the logits", decoder)
    draw(options.out, encoder, decoder)


if __name__ == "__main__":
    main()
