# SPDX-License-Identifier: MIT
"""The architectures that :func:`nnsym_fast.specs.transformer` knows."""

from __future__ import annotations

from nnsym_fast.specs.adapters_decoders import DECODERS
from nnsym_fast.specs.adapters_encoders import ENCODERS
from nnsym_fast.specs.adapters_rows import Adapter

__all__ = ["ADAPTERS", "BUFFERS", "HF_ACTIVATIONS"]

ADAPTERS: dict[str, Adapter] = {adapter.model_type: adapter for adapter in (*DECODERS, *ENCODERS)}
"""``model_type`` of a config -> its table."""

BUFFERS = {
    "rotary_emb.inv_freq": 1,
    "attn.bias": 4,
    "attn.masked_bias": 0,
    "embeddings.position_ids": 2,
    "embeddings.token_type_ids": 2,
}
"""Ends of the names of constants that older files hold -> their number of axes: frequencies, masks, positions."""

HF_ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "leaky_relu": "leaky_relu",
    "linear": "identity",
    "tanh": "tanh",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "mish": "mish",
    "hardswish": "hardswish",
    **dict.fromkeys(
        ("gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
        "gelu",
    ),
    **dict.fromkeys(("quick_gelu", "laplace", "sqrtsoftplus"), "gelu"),
}
"""Activations of configs -> the short name (of ``specs.activations``) of a function with the same symmetry."""
