# SPDX-License-Identifier: MIT
"""Tables of encoders: BERT (and MiniLM, which is one), and ViT."""

from __future__ import annotations

from nnsym_fast.specs.adapters_rows import OPTIONAL, Adapter, Head, Linear, Norm, Row, Tensor

__all__ = ["ENCODERS"]

POST_NORM = "the stream itself passes through norms with gains (post-norm), which leaves permutations"

LAYER = "{model}encoder.layer.{layer}."
POOLER = Linear("{model}pooler.dense", "pooled", "residual*", "yes")
MASKED_LM: tuple[Row, ...] = (
    Tensor("cls.predictions.bias", ("vocab",)),
    Linear("cls.predictions.transform.dense", "transform", "residual*", "yes"),
    Norm("cls.predictions.transform.LayerNorm", bias=True, on="transform"),
    Linear("cls.predictions.decoder", "vocab", "transform*", "yes", tied=True),
)
NEXT_SENTENCE = Linear("cls.seq_relationship", None, "pooled*", "yes")

BERT = Adapter(
    model_type="bert",
    prefix="bert.",
    variants=(
        (
            Tensor("{model}embeddings.word_embeddings.weight", ("vocab", "residual")),
            Tensor("{model}embeddings.position_embeddings.weight", ("positions", "residual")),
            Tensor("{model}embeddings.token_type_embeddings.weight", ("types", "residual")),
            Norm("{model}embeddings.LayerNorm", bias=True),
            Linear(LAYER + "attention.self.query", "q", "residual*", "yes"),
            Linear(LAYER + "attention.self.key", "k", "residual*", "yes"),
            Linear(LAYER + "attention.self.value", "v", "residual*", "yes"),
            Linear(LAYER + "attention.output.dense", "residual", "o", "yes"),
            Norm(LAYER + "attention.output.LayerNorm", bias=True),
            Linear(LAYER + "intermediate.dense", "mlp", "residual*", "yes"),
            Linear(LAYER + "output.dense", "residual", "mlp*", "yes"),
            Norm(LAYER + "output.LayerNorm", bias=True),
        ),
    ),
    heads=(
        Head("Model", (Linear("{model}pooler.dense", "pooled", "residual*", "yes", when=OPTIONAL),), stream=True),
        Head("ForPreTraining", (POOLER, *MASKED_LM, NEXT_SENTENCE), tied=True),
        Head("ForMaskedLM", MASKED_LM, tied=True),
        Head("LMHeadModel", MASKED_LM, tied=True),
        Head("ForNextSentencePrediction", (POOLER, NEXT_SENTENCE)),
        Head("ForSequenceClassification", (POOLER, Linear("classifier", "labels", "pooled*", "yes"))),
        Head("ForMultipleChoice", (POOLER, Linear("classifier", None, "pooled*", "yes"))),
        Head("ForTokenClassification", (Linear("classifier", "labels", "residual*", "yes"),)),
        Head("ForQuestionAnswering", (Linear("qa_outputs", "labels", "residual*", "yes"),)),
    ),
    keys={
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "activation": "hidden_act",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "types": "type_vocab_size",
    },
    defaults={"hidden_act": "gelu", "tie_word_embeddings": True},
    norm="layer",
    post_norm=POST_NORM,
    gated=False,
    rotary=False,
    only={"position_embedding_type": (None, "absolute"), "add_cross_attention": (None, False)},
    aliases={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)


def vit(block: str, query: str, key: str, value: str, output: str, first: str, second: str) -> tuple[Row, ...]:
    """The body of ViT, whose names in files and in memory differ."""
    return (
        Tensor("{model}embeddings.cls_token", (None, None, "residual")),
        Tensor("{model}embeddings.position_embeddings", (None, "patches", "residual")),
        Tensor(
            "{model}embeddings.patch_embeddings.projection.weight",
            ("residual", "channels", "patch_height", "patch_width"),
        ),
        Tensor("{model}embeddings.patch_embeddings.projection.bias", ("residual",)),
        Norm(block + "layernorm_before", (block + query, block + key, block + value), bias=True),
        Linear(block + query, "q", "residual*", "qkv_bias"),
        Linear(block + key, "k", "residual*", "qkv_bias"),
        Linear(block + value, "v", "residual*", "qkv_bias"),
        Linear(block + output, "residual", "o", "yes"),
        Norm(block + "layernorm_after", (block + first,), bias=True),
        Linear(block + first, "mlp", "residual*", "yes"),
        Linear(block + second, "residual", "mlp*", "yes"),
        Norm("{model}layernorm", ("{model}pooler.dense", "classifier", "decoder.0"), bias=True),
    )


VIT = Adapter(
    model_type="vit",
    prefix="vit.",
    variants=(
        vit(
            LAYER, "attention.attention.query", "attention.attention.key", "attention.attention.value",
            "attention.output.dense", "intermediate.dense", "output.dense",
        ),
        vit(
            "{model}layers.{layer}.", "attention.q_proj", "attention.k_proj", "attention.v_proj",
            "attention.o_proj", "mlp.fc1", "mlp.fc2",
        ),
    ),
    heads=(
        Head("Model", (Linear("{model}pooler.dense", "pooler", "residual*", "yes", when=OPTIONAL),), stream=True),
        Head("ForImageClassification", (Linear("classifier", "labels", "residual*", "yes"),)),
        Head(
            "ForMaskedImageModeling",
            (
                Tensor("{model}embeddings.mask_token", (None, None, "residual")),
                Tensor("decoder.0.weight", ("pixels", "residual*", None, None)),
                Tensor("decoder.0.bias", ("pixels",)),
            ),
        ),
    ),
    keys={
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "activation": "hidden_act",
        "channels": "num_channels",
        "image": "image_size",
        "patch": "patch_size",
        "stride": "encoder_stride",
        "pooler": "pooler_output_size",
    },
    defaults={"hidden_act": "gelu", "qkv_bias": True},
    norm="layer",
    gated=False,
    rotary=False,
)  # fmt: skip

ENCODERS = (BERT, VIT)
