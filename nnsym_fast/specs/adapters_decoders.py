# SPDX-License-Identifier: MIT
"""Tables of decoders: GPT-2, and the family of Llama."""

from __future__ import annotations

from dataclasses import replace

from nnsym_fast.specs.adapters_rows import Adapter, Head, Linear, Norm, Row, Tensor

__all__ = ["DECODERS"]

QK_NORM = "queries and keys are normalised (QK-norm), which does not commute with a change of basis of a head"
SANDWICH = "norms with gains stand between what writes and the stream (post-norms), which leaves signed permutations"

GPT2 = Adapter(
    model_type="gpt2",
    prefix="transformer.",
    variants=(
        (
            Tensor("{model}wte.weight", ("vocab", "residual")),
            Tensor("{model}wpe.weight", ("positions", "residual")),
            Norm("{model}h.{layer}.ln_1", ("{model}h.{layer}.attn.c_attn",), bias=True),
            Linear("{model}h.{layer}.attn.c_attn", "q k v", "residual*", "yes", transposed=True),
            Linear("{model}h.{layer}.attn.c_proj", "residual", "o", "yes", transposed=True),
            Norm("{model}h.{layer}.ln_2", ("{model}h.{layer}.mlp.c_fc",), bias=True),
            Linear("{model}h.{layer}.mlp.c_fc", "mlp", "residual*", "yes", transposed=True),
            Linear("{model}h.{layer}.mlp.c_proj", "residual", "mlp*", "yes", transposed=True),
            Norm("{model}ln_f", ("lm_head", "multiple_choice_head.summary", "score", "classifier", "qa_outputs"), True),
        ),
    ),
    heads=(
        Head("LMHeadModel", (Linear("lm_head", "vocab", "residual*", tied=True),), tied=True),
        Head(
            "DoubleHeadsModel",
            (
                Linear("lm_head", "vocab", "residual*", tied=True),
                Linear("multiple_choice_head.summary", None, "residual*", "yes"),
            ),
            tied=True,
        ),
        Head("ForSequenceClassification", (Linear("score", "labels", "residual*"),)),
        Head("ForTokenClassification", (Linear("classifier", "labels", "residual*", "yes"),)),
        Head("ForQuestionAnswering", (Linear("qa_outputs", None, "residual*", "yes"),)),
        Head("Model", stream=True),
    ),
    keys={
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "hidden": "n_inner",
        "activation": "activation_function",
        "vocab": "vocab_size",
        "positions": "n_positions",
    },
    defaults={"n_inner": None, "activation_function": "gelu_new", "tie_word_embeddings": True},
    norm="layer",
    gated=False,
    rotary=False,
    only={"add_cross_attention": (None, False)},
)

EMBEDDING = Tensor("{model}embed_tokens.weight", ("vocab", "residual"))
FINAL = Norm("{model}norm", ("lm_head", "score", "qa_outputs"))
SELF = "{model}layers.{layer}.self_attn."


def attention(bias: str = "no", output_bias: str = "no") -> tuple[Row, ...]:
    """The four projections."""
    return (
        Linear(SELF + "q_proj", "q", "residual*", bias),
        Linear(SELF + "k_proj", "k", "residual*", bias),
        Linear(SELF + "v_proj", "v", "residual*", bias),
        Linear(SELF + "o_proj", "residual", "o", output_bias),
    )


READ_ATTENTION = (SELF + "q_proj", SELF + "k_proj", SELF + "v_proj")
INPUT_NORM = Norm("{model}layers.{layer}.input_layernorm", READ_ATTENTION)
MLP = "{model}layers.{layer}.mlp."
READ_MLP = (MLP + "gate_proj", MLP + "up_proj")
MLP_NORM = Norm("{model}layers.{layer}.post_attention_layernorm", READ_MLP)


def gated(bias: str = "no") -> tuple[Row, ...]:
    """The gated MLP."""
    return (
        Linear(MLP + "gate_proj", "gate", "residual*", bias),
        Linear(MLP + "up_proj", "up", "residual*", bias),
        Linear(MLP + "down_proj", "residual", "down", bias),
    )


def heads(questions: str = "") -> tuple[Head, ...]:
    """The classes of a decoder; ``questions`` is the prefix of the body in the one that answers questions."""
    return (
        Head("ForCausalLM", (Linear("lm_head", "vocab", "residual*", tied=True),), tied=True),
        Head("ForSequenceClassification", (Linear("score", "labels", "residual*"),)),
        Head("ForTokenClassification", (Linear("score", "labels", "residual*", "yes"),)),
        Head("ForQuestionAnswering", (Linear("qa_outputs", None, "residual*", "yes"),), prefix=questions),
        Head("Model", stream=True),
    )


KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden": "intermediate_size",
    "vocab": "vocab_size",
}

LLAMA = Adapter(
    model_type="llama",
    prefix="model.",
    variants=(
        (
            EMBEDDING,
            INPUT_NORM,
            *attention("attention_bias", "attention_bias"),
            MLP_NORM,
            *gated("mlp_bias"),
            FINAL,
        ),
    ),
    heads=heads("transformer."),
    keys=KEYS,
    defaults={"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    heads=heads(),
    variants=((EMBEDDING, INPUT_NORM, *attention(), MLP_NORM, *gated(), FINAL),),
    defaults={"head_dim": None, "tie_word_embeddings": False},
)

QWEN2 = replace(
    MISTRAL,
    model_type="qwen2",
    heads=heads("transformer."),
    variants=((EMBEDDING, INPUT_NORM, *attention("yes"), MLP_NORM, *gated(), FINAL),),
)

QWEN3 = replace(
    MISTRAL,
    model_type="qwen3",
    heads=heads("transformer."),
    variants=(
        (
            EMBEDDING,
            INPUT_NORM,
            *attention("attention_bias", "attention_bias"),
            Norm(SELF + "q_norm", on="head"),
            Norm(SELF + "k_norm", on="head"),
            MLP_NORM,
            *gated(),
            FINAL,
        ),
    ),
    defaults={"head_dim": 128, "tie_word_embeddings": False},
    absent={"query-key": QK_NORM},
)

GEMMA2 = replace(
    MISTRAL,
    model_type="gemma2",
    variants=(
        (
            EMBEDDING,
            INPUT_NORM,
            *attention("attention_bias", "attention_bias"),
            Norm("{model}layers.{layer}.post_attention_layernorm"),
            Norm("{model}layers.{layer}.pre_feedforward_layernorm", READ_MLP),
            *gated(),
            Norm("{model}layers.{layer}.post_feedforward_layernorm"),
            FINAL,
        ),
    ),
    defaults={"head_dim": 256, "tie_word_embeddings": True},
    post_norm=SANDWICH,
    offset=1.0,
    absent={"biases": "soft-capping of the scores is not invariant under shifts"},
)

FILE_MOE = "{model}layers.{layer}.block_sparse_moe."
MEMORY_MOE = "{model}layers.{layer}.mlp."


def mixtral(moe: str, readers: tuple[str, ...], experts: tuple[Row, ...], router: str) -> tuple[Row, ...]:
    """A body with a mixture of experts."""
    norm = Norm("{model}layers.{layer}.post_attention_layernorm", (moe + "gate", *readers))
    return EMBEDDING, INPUT_NORM, *attention(), norm, Linear(moe + "gate", router, "residual*"), *experts, FINAL


MIXTRAL = replace(
    MISTRAL,
    model_type="mixtral",
    variants=(
        mixtral(
            FILE_MOE,
            (FILE_MOE + "experts.{expert}.w1", FILE_MOE + "experts.{expert}.w3"),
            (
                Linear(FILE_MOE + "experts.{expert}.w1", "gate", "residual*"),
                Linear(FILE_MOE + "experts.{expert}.w2", "residual", "down"),
                Linear(FILE_MOE + "experts.{expert}.w3", "up", "residual*"),
            ),
            "routes",
        ),
        mixtral(
            MEMORY_MOE,
            (MEMORY_MOE + "experts.gate_up_proj",),
            (
                Tensor(MEMORY_MOE + "experts.gate_up_proj", ("experts", "gate up", "residual*")),
                Tensor(MEMORY_MOE + "experts.down_proj", ("experts*", "residual", "down")),
            ),
            "experts",
        ),
    ),
    keys=KEYS | {"experts": "num_local_experts"},
)

DECODERS = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, MIXTRAL)
