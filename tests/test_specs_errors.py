# SPDX-License-Identifier: MIT
"""Networks as data that are wrong: every message names the layer, what was expected, and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnsym_fast import specs
from nnsym_fast.specs.layers import complete


def linear(name: str, width_in: int, width_out: int) -> dict[str, Any]:
    return {"type": "Linear", "name": name, "in": width_in, "out": width_out}


CONV = {"type": "Conv2d", "name": "0", "in": 2, "out": 4, "kernel": 3}
FLATTEN = {"type": "Flatten"}


def wrong(value: object) -> Any:
    """A value of the wrong type, hidden from the type checker."""
    return value


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"type": "LayerNorm"}, r"layer 0 \(LayerNorm\): not a supported layer type; write the legs .* by hand"),
        ({"name": "0"}, r"layer 0 \(None '0'\): not a supported layer type"),
        ({"type": "ReLU", "slope": 1}, r"layer 0 \(ReLU\): unknown fields \['slope'\]"),
        ({"type": "Linear", "in": 2, "out": 3}, r"layer 0 \(Linear\): missing fields \['name'\]"),
        ({"type": "Linear", "name": "", "in": 2, "out": 3}, "name: expected a non-empty string, got ''"),
        ({"type": "Linear", "name": "0", "out": 3}, r"layer 0 \(Linear '0'\): missing fields \['in'\]"),
        (linear("0", 0, 3), r"layer 0 \(Linear '0'\): in: expected an integer >= 1, got 0"),
        (linear("0", 2, wrong(3.0)), "out: expected an integer >= 1, got 3.0"),
        (linear("0", 2, 3) | {"bias": 1}, "bias: expected true or false, got 1"),
        (CONV | {"kernel": [3]}, r"kernel: expected an integer >= 1 or a list of 2 of them, got \[3\]"),
        (CONV | {"kernel": 0}, "kernel: expected an integer >= 1"),
        (CONV | {"stride": -1}, "stride: expected an integer >= 1"),
        (CONV | {"padding": -1}, "padding: expected an integer >= 0"),
        (CONV | {"padding": "same"}, "padding: expected an integer >= 0"),
        (CONV | {"padding_mode": "mirror"}, "padding_mode: expected one of zeros, circular, reflect, replicate"),
        (CONV | {"groups": 2}, r"groups=2 with 2 -> 4 channels; expected groups=1 or .*Segments along axis 0"),
        ({"type": "BatchNorm1d", "name": "0", "features": 2, "eps": -1.0}, "eps: expected a finite number >= 0"),
        ({"type": "MaxPool2d", "kernel": 2, "padding": 2}, r"padding \[2, 2\] exceeds half of the kernel \[2, 2\]"),
        ({"type": "Flatten", "start_dim": 2}, r"start_dim=2, end_dim=-1; expected Flatten\(1, -1\)"),
        ({"type": "GELU", "approximate": "erf"}, "approximate: expected 'none' or 'tanh', got 'erf'"),
        ({"type": "LeakyReLU", "negative_slope": "x"}, "negative_slope: expected a finite number, got 'x'"),
        ({"type": "Power", "exponent": 1.5}, "exponent: expected an integer, got 1.5"),
        ({"type": "ReLUPower", "exponent": 0.0}, "exponent: expected a finite number > 0, got 0.0"),
        ({"type": "Softmax"}, r"layer 0 \(Softmax\): missing fields \['dim'\]"),
    ],
)
def test_wrong_layers_are_named(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specs.from_layers([layer])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [linear("0", 2, 3), {"type": "ReLU"}, linear("2", 4, 1)],
            r"layer 2 \(Linear '2'\): in is 4, but the layers before it give 3",
        ),
        ([CONV, linear("1", 4, 1)], r"layer 1 \(Linear '1'\): .* leave 2; put a Flatten before it"),
        ([CONV, FLATTEN, linear("2", 10, 1)], r"layer 2 \(Linear '2'\): in is 10, .* give a multiple of 4"),
        ([CONV, {"type": "MaxPool1d", "kernel": 2}], r"layer 1 \(MaxPool1d\): expected an input with 1 spatial axes"),
        ([linear("1", 2, 3), CONV], r"layer 1 \(Conv2d '0'\): expected an input with 2 spatial axes"),
        ([linear("0", 2, 4), {"type": "MaxPool1d", "kernel": 2}], r"layer 1 \(MaxPool1d\): expected an input"),
        ([CONV, {"type": "BatchNorm1d", "name": "1", "features": 4}], r"layer 1 \(BatchNorm1d '1'\): expected"),
        ([CONV, {"type": "BatchNorm2d", "name": "1", "features": 5}], "features is 5, but the layers before it give 4"),
        ([CONV, {"type": "PReLU", "name": "1", "num_parameters": 3}], "num_parameters is 3, but .* give 4"),
        ([CONV, CONV | {"name": "1", "in": 3}], r"layer 1 \(Conv2d '1'\): in is 3, but the layers before it give 4"),
        ([linear("0", 2, 2), linear("0", 2, 2)], r"layer 1 \(Linear '0'\): another layer has this name"),
        (
            [CONV, FLATTEN, {"type": "PReLU", "name": "2", "num_parameters": 8}, linear("3", 12, 1)],
            "in is 12, but the layers before it give 8",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(layers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specs.from_layers(layers)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: specs.from_layers([], batchnorm="gamma"), ValueError, "batchnorm: expected one of affine, weight"),
        (lambda: specs.from_layers(wrong("relu")), TypeError, "layers: expected a list of dicts, got str"),
        (lambda: specs.from_layers(wrong([3])), TypeError, "layer 0: expected a mapping with the key 'type', got int"),
        (lambda: specs.mlp([3]), ValueError, r"widths: expected at least the input and the output width, got \[3\]"),
        (lambda: specs.mlp([3, 0, 2]), ValueError, r"layer 0 \(Linear '0'\): out: expected an integer >= 1, got 0"),
        (lambda: specs.mlp([3, 2, 1], "cosine"), ValueError, "activation: expected one of .* got 'cosine'"),
    ],
)
def test_wrong_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


MLP = specs.mlp_layers([2, 3, 1], bias=False)
PARAMS = {"0.weight": np.ones((3, 2)), "2.weight": np.ones((1, 3))}


@pytest.mark.parametrize(
    ("params", "x", "stacked", "message"),
    [
        ({"0.weight": PARAMS["0.weight"]}, np.ones((1, 2)), False, r"tensor '2.weight' of shape \(1, 3\) is missing"),
        (
            PARAMS | {"2.weight": np.ones(3)},
            np.ones((1, 2)),
            False,
            r"'2.weight': expected the shape \(1, 3\), got \(3,\)",
        ),
        (PARAMS, np.ones((1, 2)), True, r"'0.weight': expected the shape \(n, ...\) with ... = \(3, 2\), got \(3, 2\)"),
        (
            {"0.weight": np.ones((4, 3, 2)), "2.weight": np.ones((5, 1, 3))},
            np.ones((1, 2)),
            True,
            "expected one leading axis of networks for all tensors, got the lengths",
        ),
        (PARAMS, np.ones((1, 3)), False, r"layer 0 \(Linear '0'\): input of shape \(1, 3\) does not fit"),
    ],
)
def test_evaluate_names_tensor_or_layer(params: dict[str, Any], x: Any, stacked: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specs.evaluate(MLP, params, x, stacked)


def test_evaluate_names_an_image_that_does_not_fit() -> None:
    params = {"0.weight": np.ones((4, 2, 3, 3)), "0.bias": np.ones(4)}
    for shape in ((1, 3, 8, 8), (1, 2, 8), (1, 2, 2, 2)):
        with pytest.raises(ValueError, match=r"layer 0 \(Conv2d '0'\): input of shape .* does not fit"):
            specs.evaluate([CONV], params, np.ones(shape))


def test_defaults_are_those_of_torch() -> None:
    assert complete(0, CONV) == {
        "type": "Conv2d",
        "name": "0",
        "in": 2,
        "out": 4,
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "bias": True,
        "padding_mode": "zeros",
    }
    assert complete(0, complete(0, CONV)) == complete(0, CONV)
