# SPDX-License-Identifier: MIT
"""The kernel's action is a group action, and it leaves the network's function alone.

g, h are batches of random elements, theta the tensors of a random network, f a network's function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tolerances
from hypothesis import given, settings
from orbit_cases import Params, assert_same_bits, repeated
from orbit_strategies import Case, cases

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.elements import Elements
from nnsym_fast.groups import Monomial
from nnsym_fast.symmetry import Axis, Leg, SymmetrySpec

Layers = list[dict[str, Any]]


def elements_of(case: Case, stream: int) -> Elements:
    wide = any(case.dtypes[name] == "float64" and case.spec.touched(name) for name in case.shapes)
    return case.spec.sample(case.count, case.seed + stream, dtype="float64" if wide else "float32")


def assert_close(a: Params, b: Params) -> None:
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_allclose(a[name], b[name], rtol=tolerances.COMPOSED[a[name].dtype.name])


@given(cases())
def test_the_identity_is_exact(case: Case) -> None:
    """1.theta = theta in every bit of every storage type."""
    moved = nf.act(case.spec, case.spec.identity(case.count), case.params)
    assert_same_bits(moved, repeated(case.params, case.count))


@given(cases(["float64"], ["float32"]))
def test_the_action_is_a_homomorphism(case: Case) -> None:
    """(g h).theta = g.(h.theta)"""
    g, h = elements_of(case, 0), elements_of(case, 1)
    both = nf.act(case.spec, nf.compose(g, h), case.params)
    assert_close(both, nf.act(case.spec, g, nf.act(case.spec, h, case.params), stacked=True))


@given(cases(["float64"], ["float32"]))
def test_the_inverse_undoes_the_action(case: Case) -> None:
    """g^-1.(g.theta) = theta"""
    g = elements_of(case, 0)
    moved = nf.act(case.spec, g, case.params)
    assert_close(nf.act(case.spec, nf.inverse(g), moved, stacked=True), repeated(case.params, case.count))


@given(cases(["float64"]))
@settings(max_examples=50)
def test_the_dual_spec_leaves_the_pairing_invariant(case: Case) -> None:
    """<g^-T.xi, g.theta> = <xi, theta>: gradients transform with the dual of the spec."""
    g, theta, xi = elements_of(case, 0), case.params, replace(case, seed=case.seed + 1).params
    moved, dual = nf.act(case.spec, g, theta), nf.act(case.spec.dual(), g, xi)
    for name in theta:
        terms = (dual[name] * moved[name]).reshape(case.count, theta[name].size)
        allowed = tolerances.COMPOSED["float64"] * np.abs(terms).sum(axis=1)
        assert np.all(np.abs(terms.sum(axis=1) - (xi[name] * theta[name]).sum()) <= allowed)


# --- function invariance

NETWORKS: dict[str, tuple[Layers, tuple[int, ...]]] = {
    **{name: (specs.mlp_layers([6, 33, 20, 3], name), (6,)) for name in ("relu", "tanh", "gelu", "squared_relu")},
    "cnn": (
        [
            {"type": "Conv2d", "name": "0", "in": 2, "out": 9, "kernel": 3, "padding": 1},
            {"type": "BatchNorm2d", "name": "1", "features": 9},
            {"type": "ReLU"},
            {"type": "MaxPool2d", "kernel": 2},
            {"type": "Conv2d", "name": "4", "in": 9, "out": 17, "kernel": 3},
            {"type": "Tanh"},
            {"type": "Flatten"},
            {"type": "Linear", "name": "7", "in": 68, "out": 10},
            {"type": "PReLU", "name": "8", "num_parameters": 10},
            {"type": "Linear", "name": "9", "in": 10, "out": 3},
        ],
        (2, 8, 8),
    ),
}


def parameters(layers: Layers, dtype: str) -> Params:
    rng = np.random.default_rng(0)
    params = {}
    for name, shape in specs.shapes(layers).items():
        if name.endswith("num_batches_tracked"):
            params[name] = np.array(7)
        elif name.endswith("running_var"):
            params[name] = rng.uniform(0.5, 2, shape).astype(dtype)
        else:
            fan = np.prod(shape[1:]) if len(shape) > 1 else 4
            params[name] = (rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(dtype)
    return params


def inputs(shape: tuple[int, ...], dtype: str, count: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((count, *shape)).astype(dtype)


def largest_change(layers: Layers, shape: tuple[int, ...], spec: SymmetrySpec, params: Params) -> float:
    """max |f(point)(x) - f(base)(x)| / max |f(base)(x)| over points of the kernel, in float64."""
    x = inputs(shape, "float64")
    base = specs.evaluate(layers, params, x)
    with np.errstate(invalid="ignore"):  # a wrong leg may make a variance negative
        moved = specs.evaluate(layers, nf.Orbit(params, spec, seed=3)[0:20], x, stacked=True)
    return float(np.nan_to_num(np.abs(moved - base), nan=np.inf).max() / np.abs(base).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_invariant_in_float64(isa: str, name: str) -> None:
    layers, shape = NETWORKS[name]
    change = largest_change(layers, shape, specs.from_layers(layers), parameters(layers, "float64"))
    assert change < tolerances.INVARIANCE_FLOAT64


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_points_err_as_the_network_itself_does(isa: str, name: str) -> None:
    """RMS error over all points and inputs, against float64."""
    layers, shape = NETWORKS[name]
    spec, params = specs.from_layers(layers), parameters(layers, "float32")
    x = inputs(shape, "float32", 64)
    wide = {key: array.astype(np.float64) if array.ndim else array for key, array in params.items()}
    exact = specs.evaluate(layers, wide, x.astype(np.float64))
    own = specs.evaluate(layers, params, x) - exact
    moved = specs.evaluate(layers, nf.Orbit(params, spec, seed=3)[0:50], x, stacked=True) - exact
    assert moved.dtype == own.dtype == np.float64
    assert np.sqrt((moved**2).mean()) <= tolerances.INVARIANCE_FLOAT32 * np.sqrt((own**2).mean())


def with_axis(spec: SymmetrySpec, name: str, number: int, axis: Axis) -> SymmetrySpec:
    axes = spec.legs[name]
    # A tensor that uses every site both ways keeps the spec valid.
    uses = {f"use {site}": (Leg(site), Leg(site, dual=True)) for site in spec.sites}
    return SymmetrySpec(
        spec.sites, {**spec.legs, name: (*axes[:number], axis, *axes[number + 1 :]), **uses}, spec.state
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrong_leg_breaks_the_function(name: str) -> None:
    """Negative controls: each leg left out, each turned round, each with another power, each of another site."""
    layers, shape = NETWORKS[name]
    spec, params = specs.from_layers(layers), parameters(layers, "float64")
    unused = {f"use {site}": np.zeros((group.size, group.size)) for site, group in spec.sites.items()}
    broken = 0
    for tensor, axes in spec.legs.items():
        for number, leg in enumerate(axes):
            if not isinstance(leg, Leg):
                continue
            wrong: list[Axis] = [None]
            if spec.sites[leg.site].scaled:
                wrong += [replace(leg, power=leg.power + 1)] + [replace(leg, dual=not leg.dual)] * (leg.power != 0)
            for axis in wrong:
                mutant = with_axis(spec, tensor, number, axis)
                change = largest_change(layers, shape, mutant, params | unused)
                assert change > tolerances.BROKEN, f"{tensor}, axis {number}: {leg} instead of {axis}"
                broken += 1
    assert broken >= 5


def test_a_larger_group_breaks_the_function() -> None:
    """gelu has no scales, relu no signs."""
    for activation, group in (("gelu", Monomial(33)), ("relu", Monomial(33, signs=True))):
        layers, shape = NETWORKS[activation]
        spec = specs.from_layers(layers)
        larger = SymmetrySpec({**spec.sites, "h0": group}, spec.legs)
        assert largest_change(layers, shape, larger, parameters(layers, "float64")) > tolerances.BROKEN
