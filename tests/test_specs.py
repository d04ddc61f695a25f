# SPDX-License-Identifier: MIT
"""The sites that ``from_layers`` finds: the function is invariant to 1e-12, and every leg and every power is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnsym_fast import specs
from nnsym_fast.groups import Group, Monomial, Permutation
from nnsym_fast.reference import act, sample
from nnsym_fast.specs.activations import SHORT_NAMES
from nnsym_fast.symmetry import Axis, Leg, SymmetrySpec

Layers = list[dict[str, Any]]
Params = dict[str, npt.NDArray[Any]]

# Sums of a few hundred products, scaled by factors e^{+-2}: 1e-12 is the bound, rounding stays near 1e-15.
INVARIANT = 1e-12
# A wrong leg changes the function at order one; three decimals leave room for small couplings.
BROKEN = 1e-3


def linear(name: str, width_in: int, width_out: int, bias: bool = True) -> dict[str, Any]:
    return {"type": "Linear", "name": name, "in": width_in, "out": width_out, "bias": bias}


def conv(name: str, width_in: int, width_out: int, kernel: int = 3, **fields: Any) -> dict[str, Any]:
    size = {"kernel": kernel, "padding": kernel // 2}
    return {"type": "Conv2d", "name": name, "in": width_in, "out": width_out} | size | fields


def batchnorm(name: str, features: int, spatial: int = 2, **fields: Any) -> dict[str, Any]:
    # eps = 0 makes the mode "weight" exact too; the test below shows what eps costs.
    return {"type": f"BatchNorm{spatial}d", "name": name, "features": features, "eps": 0.0} | fields


def layer(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind} | fields


def P(n: int) -> Group:
    return Permutation(n)


def POS(n: int) -> Group:
    return Monomial(n)


def ODD(n: int) -> Group:
    return Monomial(n, signs=True, scales=False)


def BOTH(n: int) -> Group:
    return Monomial(n, signs=True)


HEAD = [layer("Flatten"), linear("head", 5 * 64, 3)]

# name -> (layers, shape of one input, sites in the mode "affine", sites in the mode "weight")
NETWORKS: dict[str, tuple[Layers, tuple[int, ...], list[Group], list[Group]]] = {
    "cnn": (
        [
            conv("0", 2, 6), batchnorm("1", 6), layer("ReLU"), layer("MaxPool2d", kernel=2),
            conv("4", 6, 5), batchnorm("5", 5), layer("Tanh"), layer("AvgPool2d", kernel=2),
            layer("Flatten"), linear("9", 20, 7), layer("PReLU", name="10", num_parameters=7), linear("11", 7, 3),
        ],
        (2, 8, 8), [POS(6), ODD(5), POS(7)], [POS(6), POS(5), POS(7)],
    ),
    "max-pooling kills signs": (
        [conv("0", 2, 5), layer("Tanh"), layer("MaxPool2d", kernel=3, stride=1, padding=1), *HEAD],
        (2, 8, 8), [P(5)], [P(5)]),
    "average pooling keeps signs": (
        [conv("0", 2, 5), layer("Softsign"), layer("AvgPool2d", kernel=3, stride=1, padding=1), *HEAD],
        (2, 8, 8), [ODD(5)], [ODD(5)]),
    "adaptive pooling": (
        [conv("0", 2, 5), layer("ReLU"), layer("AdaptiveMaxPool2d", output=3),
         layer("AdaptiveAvgPool2d", output=[1, 2]), layer("Flatten"), linear("5", 10, 3)],
        (2, 8, 8), [POS(5)], [POS(5)]),
    "depthwise": (
        [conv("0", 2, 6), layer("ReLU"), conv("2", 6, 6, groups=6), layer("LeakyReLU"), conv("4", 6, 4, 1),
         layer("GELU"), layer("AdaptiveAvgPool2d", output=1), layer("Flatten"), linear("8", 4, 3)],
        (2, 8, 8), [POS(6), P(4)], [POS(6), P(4)]),
    "depthwise with signs": (
        [conv("0", 2, 5), layer("Tanh"), conv("2", 5, 5, groups=5), *HEAD], (2, 8, 8), [ODD(5)], [ODD(5)]),
    "depthwise after a square": (
        [conv("0", 2, 5), layer("ReLUPower"), conv("2", 5, 5, groups=5), *HEAD], (2, 8, 8), [POS(5)], [POS(5)]),
    "two batchnorms in a site": (
        [conv("0", 2, 5), batchnorm("1", 5), layer("ReLU"), conv("3", 5, 5, groups=5, bias=False), batchnorm("4", 5),
         layer("LeakyReLU"), *HEAD],
        (2, 8, 8), [POS(5)], [POS(5)]),
    "batchnorm after ReLU": (
        [conv("0", 2, 5), layer("ReLU"), batchnorm("2", 5), *HEAD], (2, 8, 8), [BOTH(5)], [POS(5)]),
    "batchnorm after tanh": (
        [conv("0", 2, 5), layer("Tanh"), batchnorm("2", 5), *HEAD], (2, 8, 8), [BOTH(5)], [P(5)]),
    "batchnorm after a square": (
        [conv("0", 2, 5), layer("ReLUPower"), batchnorm("2", 5), layer("SiLU"), *HEAD], (2, 8, 8), [P(5)], [POS(5)]),
    "batchnorm without affine part": (
        [linear("0", 4, 6), batchnorm("1", 6, 1, affine=False), layer("ReLU"), linear("3", 6, 3)],
        (4,), [P(6)], [POS(6)]),
    "batchnorm of the batch": (
        [linear("0", 4, 6), batchnorm("1", 6, 1, track_running_stats=False), layer("ReLU"), linear("3", 6, 3)],
        (4,), [POS(6)], [POS(6)]),
    "batchnorm after flatten": (
        [{"type": "Conv1d", "name": "0", "in": 2, "out": 5, "kernel": 3}, layer("MaxPool1d", kernel=2),
         layer("Flatten"), batchnorm("3", 15, 1), layer("PReLU", name="4", num_parameters=15), linear("5", 15, 3)],
        (2, 8), [POS(5)], [POS(5)]),
    "batchnorm of inputs and outputs": (
        [batchnorm("0", 4, 1), linear("1", 4, 6), layer("ReLU"), linear("3", 6, 3), batchnorm("4", 3, 1)],
        (4,), [POS(6)], [POS(6)]),
    "one slope for all": (
        [linear("0", 4, 6), layer("PReLU", name="1"), layer("Dropout"), linear("3", 6, 3)], (4,), [POS(6)], [POS(6)]),
    "powers": (
        [linear("0", 4, 6), layer("ReLUPower", exponent=1.5), linear("2", 6, 5), layer("Power", exponent=3),
         linear("4", 5, 3)],
        (4,), [POS(6), BOTH(5)], [POS(6), BOTH(5)]),
    "a square hides signs from a sigmoid": (
        [linear("0", 4, 6), layer("Power", exponent=2), layer("Sigmoid"), linear("3", 6, 3)], (4,), [ODD(6)], [ODD(6)]),
    "no activation": ([linear("0", 4, 6, False), linear("1", 6, 3, False)], (4,), [BOTH(6)], [BOTH(6)]),
    "softmax": ([linear("0", 4, 6), layer("Softmax", dim=1), linear("2", 6, 3)], (4,), [P(6)], [P(6)]),
    "one layer": ([layer("Flatten"), linear("1", 8, 3), layer("LogSoftmax", dim=-1)], (2, 4), [], []),
}  # fmt: skip

ACTIVATION_GROUPS: dict[str, Any] = {
    **dict.fromkeys(["identity", "square"], BOTH),
    **dict.fromkeys(["relu", "leaky_relu", "prelu", "relu2", "squared_relu"], POS),
    **dict.fromkeys(["tanh", "sin", "softsign", "tanhshrink", "softshrink", "hardshrink", "hardtanh"], ODD),
}


def parameters(layers: Layers, seed: int = 0) -> Params:
    """Random parameters of order one per unit; variances and slopes positive."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, shape in specs.shapes(layers).items():
        if name.endswith("running_var"):
            params[name] = rng.uniform(0.5, 2.0, size=shape)
        elif name.endswith("num_batches_tracked"):
            params[name] = np.array(3)
        else:
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1.0
            params[name] = rng.normal(size=shape) * np.sqrt(2.0 / fan_in)
    return params


def gap(layers: Layers, spec: SymmetrySpec, params: Params, shape: tuple[int, ...]) -> float:
    """Largest change of the function under three elements of the group, relative to its largest value."""
    x = np.random.default_rng(1).normal(size=(7, *shape))
    base = specs.evaluate(layers, params, x)
    # A wrong spec may make a variance negative: a function that is not a number has changed without bound.
    with np.errstate(invalid="ignore"):
        moved = specs.evaluate(layers, act(spec, sample(spec, 3, seed=2), params), x, stacked=True)
    assert moved.shape[1:] == base.shape
    return float(np.nan_to_num(np.abs(moved - base), nan=np.inf).max() / np.abs(base).max())


@pytest.mark.parametrize("mode", ["affine", "weight"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sites_and_their_groups(name: str, mode: str) -> None:
    layers, _, affine, weight = NETWORKS[name]
    spec = specs.from_layers(layers, batchnorm=mode)
    assert list(spec.sites.values()) == (affine if mode == "affine" else weight)
    assert list(spec.sites) == [f"h{number}" for number in range(len(spec.sites))]
    assert set(spec.legs) == set(specs.shapes(layers))
    assert spec.state == {n for n in spec.legs if n.split(".")[-1].startswith(("running", "num_batches"))}


@pytest.mark.parametrize("mode", ["affine", "weight"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_invariant(name: str, mode: str) -> None:
    layers, shape, _, _ = NETWORKS[name]
    spec, params = specs.from_layers(layers, batchnorm=mode), parameters(layers)
    assert gap(layers, spec, params, shape) < INVARIANT


def mutants(spec: SymmetrySpec) -> Iterator[tuple[str, SymmetrySpec]]:
    """The spec with one leg removed, or one power off by one (which also flips the parity of its signs)."""
    # A tensor that uses every site both ways keeps the mutants valid.
    uses = {f"use {site}": (Leg(site), Leg(site, dual=True)) for site in spec.sites}
    for name, axes in spec.legs.items():
        for number, axis in enumerate(axes):
            if isinstance(axis, Leg):
                group = spec.sites[axis.site]
                changes: list[tuple[str, Axis]] = [("without leg", None)]
                if group.scaled or group.signed:
                    changes.append(("power + 1", replace(axis, power=axis.power + 1)))
                for label, change in changes:
                    legs = dict(spec.legs) | {name: (*axes[:number], change, *axes[number + 1 :])} | uses
                    yield f"{name} axis {number} {label}", SymmetrySpec(spec.sites, legs, spec.state)


@pytest.mark.parametrize("mode", ["affine", "weight"])
# Statistics of the batch divide out whatever scale comes in, so no power before them can be wrong.
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "batchnorm of the batch"])
def test_every_leg_and_every_power_is_needed(name: str, mode: str) -> None:
    layers, shape, _, _ = NETWORKS[name]
    spec, params = specs.from_layers(layers, batchnorm=mode), parameters(layers)
    unused = {f"use {site}": np.zeros((group.size, group.size)) for site, group in spec.sites.items()}
    for label, mutant in mutants(spec):
        assert gap(layers, mutant, params | unused, shape) > BROKEN, label


@pytest.mark.parametrize("name", ["max-pooling kills signs", "batchnorm after a square", "softmax", "cnn", "depthwise"])
def test_a_larger_group_breaks_the_function(name: str) -> None:
    layers, shape, _, _ = NETWORKS[name]
    spec, params = specs.from_layers(layers), parameters(layers)
    for site, group in spec.sites.items():
        for part in ("signs", "scales"):
            held = {"signs": group.signed, "scales": group.scaled}
            if not held[part]:
                larger = Monomial(group.size, **(held | {part: True}))
                wider = SymmetrySpec(dict(spec.sites) | {site: larger}, spec.legs, spec.state)
                assert gap(layers, wider, params, shape) > BROKEN, f"{site} with {part}"


@pytest.mark.parametrize("activation", SHORT_NAMES)
@pytest.mark.parametrize("bias", [True, False])
def test_multilayer_perceptrons(activation: str, bias: bool) -> None:
    layers = specs.mlp_layers([4, 7, 6, 3], activation, bias)
    spec, params = specs.mlp([4, 7, 6, 3], activation, bias), parameters(layers)
    expected = ACTIVATION_GROUPS.get(activation, P)
    assert list(spec.sites.values()) == [expected(7), expected(6)]
    assert gap(layers, spec, params, (4,)) < INVARIANT
    unused = {f"use {site}": np.zeros((group.size, group.size)) for site, group in spec.sites.items()}
    for label, mutant in mutants(spec):
        assert gap(layers, mutant, params | unused, (4,)) > BROKEN, label


def test_mlp_names_and_legs() -> None:
    spec = specs.mlp([784, 128, 10], activation="relu")
    assert spec == SymmetrySpec(
        sites={"h0": Monomial(128)},
        legs={"0.weight": ("h0", None), "0.bias": ("h0",), "2.weight": (None, "h0*"), "2.bias": (None,)},
    )
    assert list(specs.mlp([2, 3, 1], bias=False, prefix="net.").legs) == ["net.0.weight", "net.2.weight"]
    assert list(specs.mlp([2, 3, 1], "prelu", bias=False, prefix="f.").legs) == [
        "f.0.weight",
        "f.1.weight",
        "f.2.weight",
    ]
    assert specs.mlp([2, 3, 1], scale_std=0.1).sites["h0"] == Monomial(3, scale_std=0.1)


def test_the_mode_weight_is_exact_up_to_eps() -> None:
    """x -> x / sqrt(var + eps) scales with 1 / a only where eps is small against var; gamma and beta do not care."""
    gaps = {}
    for eps in (1e-5, 1e-7):
        layers = [linear("0", 4, 6), batchnorm("1", 6, 1, eps=eps), layer("Tanh"), linear("3", 6, 3)]
        params = parameters(layers)
        weight, affine = specs.from_layers(layers, "weight"), specs.from_layers(layers, "affine")
        assert gap(layers, affine, params, (4,)) < INVARIANT
        gaps[eps] = gap(layers, weight, params, (4,))
    assert 1e-7 < gaps[1e-5] < 1e-3
    # First order in eps.
    assert gaps[1e-5] / gaps[1e-7] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_float32_points_are_as_exact_as_the_network_itself(activation: str) -> None:
    """Root mean square error against float64 over probes: at every point at most twice that of the float32 network."""
    layers = specs.mlp_layers([64, 256, 128, 10], activation)
    spec = specs.from_layers(layers)
    params = {name: array.astype(np.float32) for name, array in parameters(layers).items()}
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    exact = specs.evaluate(layers, {name: array.astype(np.float64) for name, array in params.items()}, x)
    own = specs.evaluate(layers, params, x) - exact
    moved = specs.evaluate(layers, act(spec, sample(spec, 20, seed=3), params), x, stacked=True)
    assert moved.dtype == np.float32
    errors = np.sqrt(((moved - exact) ** 2).mean(axis=(1, 2)))
    assert errors.max() <= 2 * np.sqrt((own**2).mean())


def test_layers_are_json() -> None:
    for layers, *_ in NETWORKS.values():
        assert specs.from_layers(json.loads(json.dumps(layers))) == specs.from_layers(layers)


def test_a_gated_layer_with_its_two_projections_in_one_tensor() -> None:
    """SwiGLU by hand: y = V (silu(G x) * U x); rows of [G; U] share a permutation, U carries c != 0 and V 1 / c."""
    rng = np.random.default_rng(0)
    params = {"gate_up": rng.normal(size=(12, 4)), "down": rng.normal(size=(3, 6))}
    x = rng.normal(size=(4, 9))

    def function(gate_up: npt.NDArray[Any], down: npt.NDArray[Any]) -> Any:
        gate, up = np.split(gate_up @ x, 2)
        return down @ (gate / (1 + np.exp(-gate)) * up)

    def largest_gap(gate: Leg) -> float:
        spec = SymmetrySpec(
            {"ff": Monomial(6, signs=True)},
            {"gate_up": ([(6, gate), (6, "ff")], None), "down": (None, "ff*")},
        )
        points = act(spec, sample(spec, 5, seed=1), params)
        base = function(**params)
        moved = [function(points["gate_up"][k], points["down"][k]) for k in range(5)]
        return float(np.abs(np.array(moved) - base).max() / np.abs(base).max())

    assert largest_gap(Leg("ff", power=0)) < INVARIANT
    assert largest_gap(Leg("ff", power=1)) > BROKEN
