# SPDX-License-Identifier: MIT
"""The smallest representative: charges vanish there, and nothing finds a smaller one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from canonical_cases import CASES, Array, Params, block, chain, difference, mlp, points, random, recurrent
from scipy.optimize import minimize

from nnsym_fast import specs
from nnsym_fast.elements import SiteElements
from nnsym_fast.gauge_fixing import balance
from nnsym_fast.gauge_fixing._sites import carriers, head_matrices, rows, view
from nnsym_fast.groups import GeneralLinear, Orthogonal, RotaryCommutant, SpecialLinear
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import SymmetrySpec

NORM = 1e-13
"""Relative error of a norm at its minimum: quadratic in that of the scales, so rounding alone."""

CHARGE = 1e-9
"""Charges over squared norms: first order in what the last sweep still moves (1e-10)."""


def norm(params: Params) -> float:
    return math.sqrt(sum(float(np.vdot(value, value)) for value in params.values()))


def charges(spec: SymmetrySpec, params: Params, site: str) -> Array:
    """What gradient flow conserves: sums of squares of units, with the powers of their legs, or matrices."""
    group = spec.sites[site]
    if not group.dense:
        return np.sum(
            [
                (-1 if one.leg.dual else 1) * one.leg.power * np.square(rows(spec, one, params[one.tensor])).sum(axis=1)
                for one in carriers(spec)[site]
            ],
            axis=0,
        )
    a, b = head_matrices(spec, site, params)
    charge = a @ np.swapaxes(a, -1, -2) - b @ np.swapaxes(b, -1, -2)
    unit = group.unit_group
    if isinstance(unit, SpecialLinear):
        charge -= np.trace(charge, axis1=-2, axis2=-1)[:, None, None] / unit.n * np.eye(unit.n)
    if isinstance(unit, RotaryCommutant):
        free = unit.n - unit.free
        pairs = [charge[:, i, i] + charge[:, j, j] for i, j in unit.pairs]
        return np.concatenate([np.ravel(pairs), charge[:, free:, free:].ravel()])
    return np.asarray(charge)


def moving(spec: SymmetrySpec) -> list[str]:
    """Sites whose group changes the norm."""
    return [site for site, group in spec.sites.items() if group.scaled or (group.scale_std > 0 and group.dense)]


@pytest.mark.parametrize("name", CASES)
def test_the_charges_vanish(name: str) -> None:
    spec, params = CASES[name]()
    result = balance(params, spec)
    assert result.converged
    for site in moving(spec):
        before, after = charges(spec, params, site), charges(spec, result.params, site)
        if name != "post-norm" or site != "qk":
            assert np.abs(before).max() > 1e-2 * result.norm_before**2 / sum(map(np.size, params.values()))
        np.testing.assert_allclose(after, 0.0, atol=CHARGE * result.norm_after**2)


@pytest.mark.parametrize("name", CASES)
def test_one_minimum_from_every_point_of_the_orbit(name: str) -> None:
    spec, params = CASES[name]()
    result = balance(params, spec)
    assert result.norm_before == pytest.approx(norm(params), rel=NORM)
    assert result.norm_after == pytest.approx(norm(result.params), rel=NORM)
    assert result.norm_after <= result.norm_before
    for point in points(spec, params, 10):
        again = balance(point, spec)
        assert again.norm_after <= again.norm_before * (1 + NORM)
        assert again.norm_after == pytest.approx(result.norm_after, rel=NORM)


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_a_point_of_the_orbit(name: str) -> None:
    spec, params = CASES[name]()
    result = balance(params, spec)
    moved = reference.act(spec, result.element, params)
    assert result.element.count == 1
    assert difference({name: value[0] for name, value in moved.items()}, result.params) < 1e-14
    for site, group in spec.sites.items():
        check_member(result.element[site], group.unit_group)
    # A balanced network stays where it is.
    again = balance(result.params, spec)
    assert difference(again.params, result.params) < 1e-9


def check_member(element: SiteElements, unit: Any) -> None:
    if element.matrix is None or element.inverse is None:
        return
    np.testing.assert_allclose(
        element.matrix @ element.inverse, np.zeros_like(element.matrix) + np.eye(unit.size), atol=1e-12
    )
    if isinstance(unit, SpecialLinear):
        np.testing.assert_allclose(np.linalg.det(element.matrix), 1.0, rtol=1e-12)
    if isinstance(unit, RotaryCommutant):
        rotation = np.eye(unit.n)
        for number, (i, j) in enumerate(unit.pairs):
            rotation[[i, j], [i, j]] = np.cos(number + 1)
            rotation[i, j], rotation[j, i] = -np.sin(number + 1), np.sin(number + 1)
        np.testing.assert_allclose(element.matrix @ rotation, rotation @ element.matrix, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "squared_relu"])
def test_a_numerical_minimiser_finds_no_smaller_norm(activation: str) -> None:
    spec, params = mlp([3, 4, 3, 2], activation, seed=3)
    sizes = [group.size for group in spec.sites.values()]

    def norm_of(logs: Array) -> float:
        parts = np.split(np.exp(logs), np.cumsum(sizes)[:-1])
        elements = {
            site: SiteElements(perm=np.arange(len(part), dtype=np.int32)[None], scale=part[None])
            for site, part in zip(spec.sites, parts, strict=True)
        }
        return norm({name: value[0] for name, value in reference.act(spec, elements, params).items()}) ** 2

    found = minimize(norm_of, np.zeros(sum(sizes)), method="BFGS", options={"gtol": 1e-7})
    assert balance(params, spec).norm_after ** 2 == pytest.approx(found.fun, rel=1e-10)


@pytest.mark.parametrize("special", [False, True])
def test_a_numerical_minimiser_finds_no_smaller_matrices(special: bool) -> None:
    group = SpecialLinear(2) if special else GeneralLinear(2)
    spec = SymmetrySpec({"s": group}, {"a": ("s", None), "b": (None, "s*")})
    params = random({"a": (2, 3), "b": (4, 2)}, seed=5)

    def norm_of(entries: Array) -> float:
        matrix = entries.reshape(2, 2)
        if special:
            matrix = matrix / np.sqrt(np.abs(np.linalg.det(matrix)))
        return float(np.square(matrix @ params["a"]).sum() + np.square(params["b"] @ np.linalg.inv(matrix)).sum())

    found = minimize(norm_of, np.eye(2).ravel(), method="BFGS", options={"gtol": 1e-7})
    assert balance(params, spec).norm_after ** 2 == pytest.approx(found.fun, rel=1e-10)


def test_the_norm_of_a_linear_site_is_the_nuclear_norm_of_its_product() -> None:
    spec, params = block(GeneralLinear(4), GeneralLinear(3), None, copies=2)
    result = balance(params, spec)
    others = ["embedding", "o.bias", "up.weight", "up.bias", "down.weight", "head"]
    expected = norm({name: params[name] for name in others}) ** 2
    for site in ("qk", "vo"):
        a, b = head_matrices(spec, site, params)
        expected += 2.0 * np.linalg.svd(np.swapaxes(a, -1, -2) @ b, compute_uv=False).sum()
    assert result.norm_after**2 == pytest.approx(expected, rel=NORM)


@pytest.mark.parametrize(("widths", "error"), [((4, 4), 1e-12), ((4, 3), 1e-6), ((3, 4), 1e-6)])
def test_the_norm_of_a_linear_chain_is_that_of_its_product(widths: tuple[int, int], error: float) -> None:
    """The least sum of squares of k factors is k times the sum of the 2/k-th powers of the product's singular values.

    Beside a narrower space a wider one has directions that nothing reads: the infimum is approached only.
    """
    spec, params = chain(GeneralLinear, *widths)
    product = params["2"] @ params["1"] @ params["0"]
    singular = np.linalg.svd(product, compute_uv=False)[: min(widths)]
    infimum = 3.0 * float((singular ** (2.0 / 3.0)).sum())
    result = balance(params, spec)
    assert result.converged
    assert infimum * (1 - 1e-13) <= result.norm_after**2 <= infimum * (1 + error)
    assert bool(result.unbounded) == (widths[0] != widths[1])
    np.testing.assert_allclose(result.params["2"] @ result.params["1"] @ result.params["0"], product, atol=1e-9)


def test_the_smallest_similar_matrix_is_normal() -> None:
    """Infimum of |g W g^-1| over GL: the norm of the eigenvalues (a weight with its site on both axes)."""
    spec, params = recurrent(GeneralLinear(4), bare=True)
    eigenvalues = np.linalg.eigvals(params["again"])
    result = balance(params, spec, max_sweeps=10_000)
    assert norm(params) > 1.05 * np.linalg.norm(eigenvalues)
    assert result.norm_after == pytest.approx(float(np.linalg.norm(eigenvalues)), rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "squared_relu", "identity"])
def test_the_function_stays(activation: str) -> None:
    widths = [5, 7, 6, 3]
    spec, params = mlp(widths, activation)
    layers = specs.mlp_layers(widths, activation)
    inputs = np.random.default_rng(1).standard_normal((20, 5))
    result = balance(params, spec)
    assert result.norm_after < 0.99 * result.norm_before
    expected = specs.evaluate(layers, params, inputs)
    np.testing.assert_allclose(specs.evaluate(layers, result.params, inputs), expected, rtol=1e-12, atol=1e-12)


def test_products_of_attention_stay() -> None:
    spec, params = block(RotaryCommutant(4), GeneralLinear(4), Orthogonal(6), copies=2)
    result = balance(params, spec)
    for site in ("qk", "vo"):
        (a, b), (c, d) = head_matrices(spec, site, params), head_matrices(spec, site, result.params)
        np.testing.assert_allclose(np.swapaxes(c, -1, -2) @ d, np.swapaxes(a, -1, -2) @ b, atol=1e-12)
        assert np.abs(c - a).max() > 0.1


def test_a_key_bias_that_nothing_sees_is_zero() -> None:
    spec, params = CASES["post-norm"]()
    result = balance(params, spec)
    np.testing.assert_allclose(result.params["k.bias"], 0.0, atol=1e-14)
    assert np.abs(params["k.bias"]).max() > 0.1


def test_long_chains_converge() -> None:
    """Sweeps alone creep along a chain (about 400 of them here); Newton's method for all scales does not."""
    spec, params = mlp([5, *[8] * 12, 3], "relu")
    result = balance(params, spec)
    assert result.converged
    assert result.sweeps < 20
    one = balance(params, spec, max_sweeps=1)
    assert not one.converged
    assert result.norm_after < one.norm_after < one.norm_before


def test_state_does_not_count() -> None:
    layers: list[dict[str, Any]] = [
        {"type": "Linear", "name": "0", "in": 4, "out": 6},
        {"type": "BatchNorm1d", "name": "1", "features": 6, "eps": 0.0},
        {"type": "ReLU"},
        {"type": "Linear", "name": "3", "in": 6, "out": 3},
    ]
    params = random(specs.shapes(layers)) | {"1.num_batches_tracked": np.array(3), "1.running_var": np.full(6, 100.0)}
    affine = balance(params, specs.from_layers(layers))
    gamma, beta = affine.params["1.weight"], affine.params["1.bias"]
    np.testing.assert_allclose(gamma**2 + beta**2, np.square(affine.params["3.weight"]).sum(axis=0), rtol=1e-9)
    assert affine.norm_before == pytest.approx(
        norm({n: v for n, v in params.items() if n not in specs.from_layers(layers).state})
    )
    assert affine.params["1.num_batches_tracked"] == 3
    # The statistics divide the scale of the weight out: nothing stops it from going to zero.
    weight = balance(params, specs.from_layers(layers, batchnorm="weight"))
    assert weight.unbounded == {"h0": tuple(range(6))}
    assert weight.norm_after == weight.norm_before


def test_units_without_a_minimum_stay() -> None:
    spec, params = mlp([3, 4, 2], "relu")
    params["0.weight"][1] = params["0.bias"][1] = 0.0
    params["2.weight"][:, 2] = 0.0
    result = balance(params, spec)
    assert result.unbounded == {"h0": (1, 2)}
    np.testing.assert_array_equal(result.element["h0"].scale[0, 1:3], 1.0)  # type: ignore[index]
    assert result.norm_after < result.norm_before


@pytest.mark.parametrize("group", [GeneralLinear(4), SpecialLinear(4)])
def test_a_head_that_is_short_of_rank(group: GeneralLinear | SpecialLinear) -> None:
    spec, params = block(group, GeneralLinear(3), None)
    for name in ("k.weight", "k.bias"):
        params[name][1] = 0.0
    result = balance(params, spec)
    assert result.unbounded == {"qk": (0,)}
    assert result.converged
    assert result.norm_after < result.norm_before
    a, b = head_matrices(spec, "qk", params)
    c, d = head_matrices(spec, "qk", result.params)
    np.testing.assert_allclose(np.swapaxes(c, -1, -2) @ d, np.swapaxes(a, -1, -2) @ b, atol=1e-10)
    check_member(result.element["qk"], group)


def test_a_wide_linear_layer() -> None:
    """Fewer inputs than units: the matrix that writes has not the rank of the space."""
    spec = SymmetrySpec({"s": GeneralLinear(5)}, {"a": ("s", None), "b": (None, "s*")})
    params = random({"a": (5, 2), "b": (7, 5)})
    result = balance(params, spec)
    assert result.unbounded == {"s": (0,)}
    nuclear = 2.0 * np.linalg.svd(params["b"] @ params["a"], compute_uv=False).sum()
    assert nuclear < result.norm_after**2 < nuclear * 1.01
    np.testing.assert_allclose(result.params["b"] @ result.params["a"], params["b"] @ params["a"], atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dtypes(dtype: str) -> None:
    spec, params = mlp([5, 7, 6, 3], "relu")
    low = {name: value.astype(dtype) for name, value in params.items()}
    result = balance(low, spec)
    exact = balance({name: value.astype("float64") for name, value in low.items()}, spec)
    for name, value in result.params.items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, exact.params[name].astype(dtype))
    np.testing.assert_array_equal(low["0.weight"], params["0.weight"].astype(dtype))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    spec, params = mlp([5, 7, 6, 3], "relu")
    tensors = {
        name: torch.from_numpy(value).to(getattr(torch, dtype)).requires_grad_() for name, value in params.items()
    }
    result = balance(tensors, spec)
    exact = balance({name: value.detach().double().numpy() for name, value in tensors.items()}, spec)
    for name, value in result.params.items():
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value, torch.from_numpy(exact.params[name]).to(value.dtype))
    assert result.params["4.bias"] is tensors["4.bias"]


def test_bad_input() -> None:
    spec, params = mlp([3, 4, 2], "relu")
    with pytest.raises(TypeError, match="spec: expected a SymmetrySpec, got int"):
        balance(params, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params: expected a mapping"):
        balance([1.0], spec)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tensor '0.bias': in the spec but missing"):
        balance({name: value for name, value in params.items() if name != "0.bias"}, spec)
    with pytest.raises(TypeError, match=r"params\['0.weight'\]: expected a floating-point array .* got dtype int64"):
        balance(params | {"0.weight": np.ones((4, 3), dtype=np.int64)}, spec)
    with pytest.raises(ValueError, match=r"params\['0.bias'\]: expected finite numbers"):
        balance(params | {"0.bias": np.array([1.0, np.nan, 0.0, 0.0])}, spec)
    for tolerance in (0.0, -1.0, "1"):
        with pytest.raises(ValueError, match="tolerance: expected a number > 0"):
            balance(params, spec, tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_sweeps: expected at least 1"):
        balance(params, spec, max_sweeps=0)


def test_a_network_without_scales_stays() -> None:
    spec, params = mlp([3, 4, 2], "gelu")
    result = balance(params, spec)
    assert (result.sweeps, result.converged, result.norm_after) == (0, True, result.norm_before)
    assert difference(result.params, params) == 0.0
    spec, params = chain(Orthogonal)
    assert difference(balance(params, spec).params, params) == 0.0


def test_what_carries_a_site() -> None:
    """``head_matrices`` moves as it says: by g and by its dual, every copy of a head alike."""
    spec, params = CASES["grouped"]()
    elements = reference.sample(spec, 1, 3)
    moved = {name: value[0] for name, value in reference.act(spec, elements, params).items()}
    matrix, inverse, perm = (getattr(elements["qk"], part)[0] for part in ("matrix", "inverse", "perm"))
    heads = perm[::4] // 4
    a, b = head_matrices(spec, "qk", params)
    c, d = head_matrices(spec, "qk", moved)
    assert (a.shape, b.shape) == ((2, 4, 6 + 1), (2, 4, 3 * (6 + 1)))
    # The residual stream turns the other axis, the order of copies permutes it: Gram matrices do not see that.
    for before, after, mixing in ((a, c, matrix), (b, d, np.swapaxes(inverse, -1, -2))):
        gram = mixing @ (before @ np.swapaxes(before, -1, -2))[heads] @ np.swapaxes(mixing, -1, -2)
        np.testing.assert_allclose(after @ np.swapaxes(after, -1, -2), gram, atol=1e-11)
    order = [one for one in carriers(spec)["q"] if one.tensor == "q.bias"]
    assert [(one.order, view(spec, one, params["q.bias"]).shape) for one in order] == [(True, (2, 1, 3, 4))]
    # A view: what is written into it is written into the tensor.
    view(spec, order[0], params["q.bias"])[1, 0, 2, 3] = 7.0
    assert params["q.bias"][-1] == 7.0
