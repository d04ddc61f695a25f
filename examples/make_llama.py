# SPDX-License-Identifier: MIT
"""Write a random checkpoint of the shape of Llama: config.json, bfloat16 shards and their index.

    python examples/make_llama.py DIRECTORY [--hidden 2048 --ff 5632 --layers 22 --heads 32 --kv-heads 4 --vocab 32000]

The defaults have 1.1 billion parameters and take 2.2 GB. Weights are written shard by shard and piece by piece, so the
memory needed does not depend on the size of the network. transformers loads the result, and so does nnsym-fast:

    nnsym-fast sample DIRECTORY --samples 4 --observables norm --no-points --out orbit.zarr
    nnsym-fast transform DIRECTORY --seed 3 --index 1 --out OTHER

Needs ml_dtypes, for bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nnsym_fast.job.lazy import LazyTensor, header_of

PIECE = 1 << 22
"""Numbers that are drawn at a time."""


def config_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``config.json`` holds."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.ff,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads,
        "num_key_value_heads": arguments.kv_heads,
        "head_dim": arguments.hidden // arguments.heads,
        "vocab_size": arguments.vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, in the order of the network."""
    width, hidden, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (width,),
                "self_attn.q_proj": (width, width),
                "self_attn.k_proj": (keys, width),
                "self_attn.v_proj": (keys, width),
                "self_attn.o_proj": (width, width),
                "post_attention_layernorm": (width,),
                "mlp.gate_proj": (hidden, width),
                "mlp.up_proj": (hidden, width),
                "mlp.down_proj": (width, hidden),
            }.items()
        }
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}


def numbers(shape: tuple[int, ...], random: np.random.Generator) -> Iterator[np.ndarray]:
    """The weights of a tensor in pieces: variance 1 / inputs; gains of norms near 1."""
    for first in range(0, math.prod(shape), PIECE):
        draws = random.standard_normal(min(PIECE, math.prod(shape) - first), np.float32)
        yield (1 + 0.1 * draws if len(shape) == 1 else draws / math.sqrt(shape[-1])).astype(ml_dtypes.bfloat16)


def shards_of(shapes: dict[str, tuple[int, ...]], limit: int) -> list[list[str]]:
    """Names of the tensors of every shard, each of at most ``limit`` bytes or one tensor."""
    shards: list[list[str]] = []
    filled = limit + 1
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        if filled + nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards


def write(out: Path, config: dict[str, Any], shard_bytes: int, seed: int) -> int:
    """Write the checkpoint; the number of its parameters."""
    out.mkdir(parents=True, exist_ok=True)
    shapes = shapes_of(config)
    shards = shards_of(shapes, shard_bytes)
    places = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file)
        with (out / file).open("wb") as shard:
            declared = {name: LazyTensor(shapes[name], ml_dtypes.bfloat16) for name in names}
            shard.write(header_of(declared, {"format": "pt"}))
            for name in names:
                for piece in numbers(shapes[name], np.random.default_rng([seed, list(shapes).index(name)])):
                    shard.write(piece.view(np.uint8).data)
    parameters = sum(map(math.prod, shapes.values()))
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * parameters}, "weight_map": places}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return parameters


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random checkpoint of the shape of Llama.")
    parser.add_argument("out", type=Path, help="directory to write to")
    defaults = {"hidden": 2048, "ff": 5632, "layers": 22, "heads": 32, "kv-heads": 4, "vocab": 32000, "seed": 0}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--shard-bytes", type=int, default=500_000_000, help="largest size of a shard")
    arguments = parser.parse_args()
    parameters = write(arguments.out, config_of(arguments), arguments.shard_bytes, arguments.seed)
    print(f"{arguments.out}: {parameters:,} parameters, {2 * parameters / 1e9:.3g} GB")


if __name__ == "__main__":
    main()
