# SPDX-License-Identifier: MIT
"""Every row of the activation table, proved in float64: what passes through, what does not, and that it is torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnsym_fast import reference, specs
from nnsym_fast.specs.activations import ACTIVATIONS, SHORT_NAMES, Symmetry
from nnsym_fast.specs.layers import complete

# Away from zero on both sides, dense where activations bend, and far out where they saturate.
X = np.concatenate([sign * np.geomspace(1e-3, 40.0, 500) for sign in (-1, 1)])

# Rows whose fields matter: at least one layer per type, and both sides of every condition.
LAYERS: list[dict[str, Any]] = [
    *({"type": name} for name in ACTIVATIONS),
    {"type": "LeakyReLU", "negative_slope": 0.3},
    {"type": "RReLU", "lower": 0.1, "upper": 0.7},
    {"type": "Threshold", "threshold": 0.5, "value": -1.0},
    {"type": "Hardtanh", "min_val": -1.0, "max_val": 2.0},
    {"type": "Hardtanh", "min_val": -2.5, "max_val": 2.5},
    {"type": "Softshrink", "lambd": 1.25},
    {"type": "Hardshrink", "lambd": 1.25},
    {"type": "GELU", "approximate": "tanh"},
    {"type": "Softplus", "beta": 2.5, "threshold": 15.0},
    {"type": "ELU", "alpha": 1.5},
    {"type": "CELU", "alpha": 0.7},
    {"type": "Power", "exponent": 1},
    {"type": "Power", "exponent": 3},
    {"type": "ReLUPower", "exponent": 0.5},
    {"type": "ReLUPower", "exponent": 3.0},
]


def name_of(layer: dict[str, Any]) -> str:
    return "-".join(str(value) for value in layer.values())


def gap(layer: dict[str, Any], c: float) -> float:
    """Largest |f(c x) - c^p f(x)|, relative to the largest |f(c x)|."""
    row = ACTIVATIONS[layer["type"]]
    full = complete(0, layer)
    power = row.power_of(full)
    moved = row.function(c * X, full)
    factor = np.sign(c) ** int(power) * abs(c) ** power if c < 0 else c**power
    return float(np.abs(moved - factor * row.function(X, full)).max() / np.abs(moved).max())


def symmetry(layer: dict[str, Any]) -> Symmetry:
    return ACTIVATIONS[layer["type"]].symmetry_of(complete(0, layer))


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_positive_scales_pass_exactly_where_the_table_says_so(layer: dict[str, Any]) -> None:
    gaps = [gap(layer, c) for c in (0.37, 1.9)]
    if symmetry(layer).scales:
        assert max(gaps) < 1e-14
    else:
        assert min(gaps) > 1e-3


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_signs_pass_exactly_where_the_table_says_so(layer: dict[str, Any]) -> None:
    if symmetry(layer).signs:
        assert gap(layer, -1.0) < 1e-15
    else:
        assert gap(layer, -1.0) > 1e-3


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_activations_are_elementwise(layer: dict[str, Any]) -> None:
    """Every permutation passes; vector and scalar loops of numpy may differ in the last bit."""
    row, full = ACTIVATIONS[layer["type"]], complete(0, layer)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(row.function(X[order], full), row.function(X, full)[order], rtol=1e-14)


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_float32_stays_float32_and_close(layer: dict[str, Any]) -> None:
    row, full = ACTIVATIONS[layer["type"]], complete(0, layer)
    x = X.astype(np.float32)
    narrow, wide = row.function(x, full), row.function(x.astype(np.float64), full)
    assert narrow.dtype == np.float32
    # Elementary functions of numpy are within 4 ulp; cancellation (1 + erf, x - tanh x) costs absolute accuracy.
    np.testing.assert_allclose(narrow, wide, rtol=3e-6, atol=4e-6)


@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_the_functions_are_those_of_torch(layer: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, layer["type"], None)
    if module is None:
        assert layer["type"] in {"Sin", "Power", "ReLUPower"}
        return
    full = complete(0, layer)
    fields = {name: value for name, value in full.items() if name != "type"}
    x = np.concatenate([X, [0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0]])
    expected = module(**fields).eval()(torch.from_numpy(x)).numpy()
    # GELU cancels 1 + erf near -8: its absolute error is that of the sum.
    np.testing.assert_allclose(ACTIVATIONS[layer["type"]].function(x, full), expected, rtol=1e-13, atol=1e-14)


def test_data_only_rows_are_what_their_names_say() -> None:
    x = np.array([-2.0, 0.5, 3.0])
    assert np.array_equal(ACTIVATIONS["Sin"].function(x, {}), np.sin(x))
    assert ACTIVATIONS["Power"].function(x, {"exponent": 3}).tolist() == [-8.0, 0.125, 27.0]
    assert ACTIVATIONS["ReLUPower"].function(x, {"exponent": 2.0}).tolist() == [0.0, 0.25, 9.0]


def test_every_row_has_a_short_name() -> None:
    named = {layer["type"] for layer in SHORT_NAMES.values()}
    # RReLU draws its slopes while training and Threshold needs its two numbers: both only as layers.
    assert named == (set(ACTIVATIONS) - {"RReLU", "Threshold"}) | {"PReLU"}
    for layer in SHORT_NAMES.values():
        complete(0, layer if layer["type"] != "PReLU" else layer | {"name": "1"})


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("first", ["Identity", "Tanh"])
def test_signs_do_not_come_back_after_an_even_power(first: str, exponent: float) -> None:
    """2 * 1.5 is odd, but a square has forgotten the signs: the reader must not carry them."""
    layers: list[dict[str, object]] = [
        {"type": "Linear", "name": "0", "in": 4, "out": 8},
        {"type": first},
        {"type": "Power", "exponent": 2},
        {"type": "ReLUPower", "exponent": exponent},
        {"type": "Linear", "name": "9", "in": 8, "out": 3},
    ]
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in specs.shapes(layers).items()}
    spec = specs.from_layers(layers)
    x = rng.normal(size=(5, 4))
    points = reference.orbit_points(params, spec, 0, 0, 20)
    before, after = specs.evaluate(layers, params, x), specs.evaluate(layers, points, x, stacked=True)
    assert np.abs(after - before).max() < 1e-12 * np.abs(before).max()
