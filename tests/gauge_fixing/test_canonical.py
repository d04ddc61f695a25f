# SPDX-License-Identifier: MIT
"""One representative for all points of an orbit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from canonical_cases import CASES, Params, block, difference, mlp, points
from test_balance import check_member

from nnsym_fast import specs
from nnsym_fast.gauge_fixing import Canonical, balance, canonicalize
from nnsym_fast.gauge_fixing._sites import carriers, rows
from nnsym_fast.groups import GeneralLinear, Orthogonal
from nnsym_fast.job.checkpoint import example, load
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import SymmetrySpec

SAME = 1e-8
"""Difference of two canonical representatives, relative to the largest entry: a bound of the project. Measured: 2e-12,
where rounding is divided by the smallest gap of singular values."""

OTHER = 1e-3
"""What another network differs by: much more than rounding, whatever the gaps."""

THOUSAND = ("relu", "tanh", "gelu", "llama")
"""Cases that see a thousand points; the others see fewer."""


def assert_one_representative(spec: SymmetrySpec, params: Params, count: int) -> Canonical:
    result = canonicalize(params, spec)
    for point in points(spec, params, count):
        again = canonicalize(point, spec)
        assert len(again.ties) == len(result.ties)
        assert difference(again.params, result.params) < SAME
    return result


@pytest.mark.parametrize("name", CASES)
def test_one_representative_for_every_point_of_an_orbit(name: str) -> None:
    spec, params = CASES[name]()
    result = assert_one_representative(spec, params, 1000 if name in THOUSAND else 50)
    assert result.ties == ()


def test_one_representative_of_a_trained_convolution() -> None:
    checkpoint = load(example("digits-cnn"))
    params = {name: np.asarray(value) for name, value in checkpoint.params.items()}
    params = {name: value.astype("float64") if value.dtype.kind == "f" else value for name, value in params.items()}
    result = assert_one_representative(checkpoint.spec, params, 1000)
    assert result.ties == ()


@pytest.mark.parametrize("name", CASES)
def test_the_result_is_the_element_applied(name: str) -> None:
    spec, params = CASES[name]()
    result = canonicalize(params, spec)
    moved = reference.act(spec, result.element, params)
    assert result.element.count == 1
    assert difference({name: value[0] for name, value in moved.items()}, result.params) < 1e-14
    for site, group in spec.sites.items():
        check_member(result.element[site], group.unit_group)
        matrix = result.element[site].matrix
        if isinstance(group, Orthogonal) and matrix is not None:
            np.testing.assert_allclose(matrix[0] @ matrix[0].T, np.eye(group.n), atol=1e-12)
            if group.keeps_mean:
                np.testing.assert_allclose(np.abs(matrix[0].sum(axis=1)), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_other_networks_have_other_representatives(name: str) -> None:
    """Negative control: a change of one entry, or of one site in one tensor only, is not undone."""
    spec, params = CASES[name]()
    result = canonicalize(params, spec)
    tensor = next(name for name, axes in spec.legs.items() if any(axes))
    changed = {name: value.copy() for name, value in params.items()}
    changed[tensor].flat[0] *= 1.1
    assert difference(canonicalize(changed, spec).params, result.params) > OTHER
    if len(params) == 1:
        return
    turned = params | {tensor: next(points(spec, params, 1))[tensor]}
    assert difference(canonicalize(turned, spec).params, result.params) > OTHER


@pytest.mark.parametrize("name", ["relu", "llama", "grouped"])
def test_it_is_its_own_representative_and_balanced(name: str) -> None:
    spec, params = CASES[name]()
    result = canonicalize(params, spec)
    assert difference(canonicalize(result.params, spec).params, result.params) < SAME
    smallest = balance(params, spec)
    norm = sum(float(np.vdot(value, value)) for value in result.params.values()) ** 0.5
    assert norm == pytest.approx(smallest.norm_after, rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_the_function_stays(activation: str) -> None:
    widths = [5, 7, 6, 3]
    spec, params = mlp(widths, activation)
    layers = specs.mlp_layers(widths, activation)
    inputs = np.random.default_rng(1).standard_normal((20, 5))
    result = canonicalize(params, spec)
    assert difference(result.params, params) > 0.1
    expected = specs.evaluate(layers, params, inputs)
    np.testing.assert_allclose(specs.evaluate(layers, result.params, inputs), expected, rtol=1e-12, atol=1e-12)


def test_units_come_by_falling_norm() -> None:
    spec, params = mlp([5, 7, 6, 3], "gelu")
    result = canonicalize(params, spec)
    for site in spec.sites:
        squares = sum(np.square(rows(spec, one, result.params[one.tensor])).sum(axis=1) for one in carriers(spec)[site])
        assert (np.diff(squares) < 0).all()


def test_linear_sites_come_by_falling_singular_value() -> None:
    spec, params = block(GeneralLinear(4), GeneralLinear(3), None)
    result = canonicalize(params, spec)
    keys, queries = (
        np.concatenate([result.params[f"{name}.weight"], result.params[f"{name}.bias"][:, None]], axis=1).reshape(
            2, 4, -1
        )
        for name in ("k", "q")
    )
    for head in range(2):
        gram = keys[head] @ keys[head].T
        np.testing.assert_allclose(gram, queries[head] @ queries[head].T, atol=1e-10)
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)
        assert (np.diff(np.diag(gram)) < 0).all()


def test_dtypes() -> None:
    spec, params = mlp([5, 7, 6, 3], "relu")
    low = {name: value.astype("float32") for name, value in params.items()}
    result = canonicalize(low, spec)
    assert result.ties == ()
    assert {value.dtype.name for value in result.params.values()} == {"float32"}
    assert difference(result.params, canonicalize(params, spec).params) < 1e-5
    for point in points(spec, low, 20):
        assert difference(canonicalize(point, spec).params, result.params) < 1e-5


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    spec, params = mlp([5, 7, 6, 3], "relu")
    result = canonicalize({name: torch.from_numpy(value) for name, value in params.items()}, spec)
    exact = canonicalize(params, spec)
    for name, value in result.params.items():
        assert torch.equal(value, torch.from_numpy(exact.params[name]))
    half = canonicalize({name: torch.from_numpy(value).bfloat16() for name, value in params.items()}, spec)
    assert {value.dtype for value in half.params.values()} == {torch.bfloat16}


def test_bad_input() -> None:
    spec, params = mlp([3, 4, 2], "relu")
    for tolerance in (0.0, 1.0, "small"):
        with pytest.raises(ValueError, match="tolerance: expected a number between 0 and 1, or None, got"):
            canonicalize(params, spec, tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("params['0.bias']: expected finite numbers, got NaN or infinity")):
        canonicalize(params | {"0.bias": np.full(4, np.inf)}, spec)
    with pytest.raises(TypeError, match="spec: expected a SymmetrySpec, got NoneType"):
        canonicalize(params, None)  # type: ignore[arg-type]


def test_a_network_without_symmetry_stays() -> None:
    spec = SymmetrySpec({}, {"w": (None, None)})
    params = {"w": np.ones((2, 3))}
    result = canonicalize(params, spec)
    assert result.params["w"] is params["w"]
    assert (len(result.element), result.ties) == (0, ())
