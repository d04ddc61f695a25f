# SPDX-License-Identifier: MIT
"""What match and distance take: frameworks, dtypes and weights; and what they refuse, with one clear sentence."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from canonical_cases import CASES, Params, mlp, points, random

from nnsym_fast import groups, specs
from nnsym_fast.gauge_fixing import Match, distance, match
from nnsym_fast.symmetry import SymmetrySpec

SPEC, A = mlp([4, 6, 5, 3], "relu")
B = next(points(SPEC, A, 1))


def test_arguments_stay_as_they_are() -> None:
    a, b = ({name: value.copy() for name, value in params.items()} for params in (A, B))
    match(a, b, SPEC)
    distance(a, b, SPEC)
    for name in A:
        np.testing.assert_array_equal(a[name], A[name])
        np.testing.assert_array_equal(b[name], B[name])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_result_has_the_dtype_of_b(dtype: str) -> None:
    a = {name: value.astype(dtype) for name, value in A.items()}
    b = {name: value.astype(dtype) for name, value in B.items()}
    found = match(a, b, SPEC)
    assert {value.dtype.name for value in found.params.values()} == {dtype}
    epsilon = float(np.finfo(dtype).eps)
    # Scales reach 5: what was rounded before and after them.
    assert found.distance <= 5 * epsilon * found.norm
    assert abs(found.distance - _gap(a, found.params)) <= 5 * epsilon * found.norm


def _gap(a: Params, b: Params) -> float:
    return float(np.sqrt(sum(np.sum((np.asarray(b[n], np.float64) - np.asarray(a[n], np.float64)) ** 2) for n in a)))


def test_torch_comes_and_goes() -> None:
    torch = pytest.importorskip("torch")
    a = {name: torch.tensor(value, dtype=torch.bfloat16) for name, value in A.items()}
    b = {name: torch.tensor(value, dtype=torch.bfloat16, requires_grad=True) for name, value in B.items()}
    found = match(a, b, SPEC)
    assert all(isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 for value in found.params.values())
    assert found.distance < 0.02 * found.norm < found.distance_before
    assert distance(a, b, SPEC) < 0.02 * found.norm
    mixed = match({name: value.double().numpy() for name, value in a.items()}, b, SPEC)
    assert mixed.distance == pytest.approx(found.distance, rel=1e-12)


def test_weights_choose_what_counts() -> None:
    """Without the first layer's part of b the site is matched by its reader alone."""
    spec = specs.mlp([3, 6, 4], "gelu")
    a = random(specs.shapes(specs.mlp_layers([3, 6, 4], "gelu")))
    moved = next(points(spec, a, 1))
    noisy = dict(moved) | {"0.weight": random({"w": (6, 3)}, 9)["w"], "0.bias": np.zeros(6)}
    found = match(a, noisy, spec, weights={"0.weight": 0, "0.bias": 0.0})
    np.testing.assert_allclose(found.params["2.weight"], a["2.weight"], atol=1e-15)
    assert found.distance == 0
    assert found.norm == pytest.approx(np.sqrt(np.sum(a["2.weight"] ** 2) + np.sum(a["2.bias"] ** 2)))
    assert match(a, noisy, spec).distance > 0.1
    plain, heavy = match(a, noisy, spec, restarts=0), match(a, noisy, spec, restarts=0, weights={"2.bias": 9.0})
    assert heavy.norm**2 - plain.norm**2 == pytest.approx(8 * np.sum(a["2.bias"] ** 2))


def test_state_and_integers_are_carried_but_not_counted() -> None:
    spec = SymmetrySpec(
        {"h": groups.Permutation(5)},
        {"w": ("h", None), "mean": ("h",), "v": (None, "h*"), "steps": (), "free": (None,)},
        state=["mean", "steps"],
    )
    a: dict[str, Any] = random({"w": (5, 3), "mean": (5,), "v": (2, 5), "free": (4,)})
    a["steps"] = np.array(7)
    order = [3, 0, 4, 1, 2]
    b = {"w": a["w"][order], "v": a["v"][:, order], "free": a["free"] + 1.0, "mean": a["mean"][order] + 10.0}
    b["steps"] = np.array(9)
    found = match(a, b, spec)
    assert found.distance == pytest.approx(2.0), "what no leg can move counts all the same"
    np.testing.assert_array_equal(found.params["mean"], a["mean"] + 10.0)
    assert found.params["steps"] == 9
    assert match(a, b, spec, weights={"mean": 1.0}).distance == pytest.approx(np.sqrt(4 + 500))


def test_a_spec_without_sites_has_nothing_to_do() -> None:
    spec = SymmetrySpec({}, {"w": (None, None)})
    found = match({"w": np.ones((2, 2))}, {"w": np.zeros((2, 2))}, spec)
    assert (found.distance, found.sweeps, found.converged, found.restarts) == (2.0, 0, True, 0)


def test_networks_of_zeros_are_matched() -> None:
    """Nothing to divide by, in any kind of site."""
    for name in ("relu", "special", "llama", "post-norm"):
        spec, a = CASES[name]()
        nothing = {tensor: np.zeros_like(value) for tensor, value in a.items()}
        assert match(nothing, nothing, spec).distance == 0
        found = match(a, nothing, spec, restarts=1)
        assert found.distance <= found.norm * (1 + 1e-12)
        assert match(nothing, a, spec, restarts=0).distance <= found.norm * (1 + 1e-12)


def test_dead_units_do_not_disturb_the_others() -> None:
    spec, a = mlp([4, 6, 3], "relu")
    a["0.weight"][2], a["0.bias"][2] = 0.0, 0.0
    a["2.weight"][:, 4] = 0.0
    found = match(a, next(points(spec, a, 1)), spec)
    assert found.distance <= 1e-13 * found.norm
    scale = found.element["h0"].scale
    assert scale is not None
    assert np.isfinite(scale).all()


def wrong(change: dict[str, Any], drop: str = "") -> dict[str, Any]:
    return {name: value for name, value in (dict(A) | change).items() if name != drop}


def poisoned(value: float) -> dict[str, Any]:
    weight = A["2.weight"].copy()
    weight[1, 2] = value
    return wrong({"2.weight": weight})


MISTAKES: dict[str, tuple[tuple[Any, Any, Any], dict[str, Any], type[Exception], str]] = {
    "other shape": (
        (A, wrong({"0.weight": np.zeros((6, 9))}), SPEC), {}, ValueError,
        r"b: tensor '0\.weight' has shape \(6, 9\), but \(6, 4\) in a; expected two networks of one architecture",
    ),
    "b does not fit": ((A, wrong({"0.bias": np.zeros(7)}), SPEC), {}, ValueError, r"b: tensor '0\.bias'.*got 7"),
    "a does not fit": ((wrong({"0.bias": np.zeros((6, 1))}), B, SPEC), {}, ValueError, r"a: tensor '0\.bias'"),
    "missing": ((A, wrong({}, "4.bias"), SPEC), {}, ValueError, r"b: tensor '4\.bias'.*missing"),
    "too many": ((wrong({"extra": np.zeros(2)}), B, SPEC), {}, ValueError, "a: tensor 'extra': no legs"),
    "NaN": ((A, poisoned(np.nan), SPEC), {}, ValueError, r"b\['2\.weight'\]: expected finite numbers"),
    "infinity": ((poisoned(np.inf), B, SPEC), {}, ValueError, r"a\['2\.weight'\]: expected finite numbers"),
    "untouched NaN": (
        (A, wrong({"4.bias": np.array([0.0, np.nan, 0.0])}), SPEC), {}, ValueError,
        r"b\['4\.bias'\]: expected finite numbers",
    ),
    "integers": ((A, wrong({"0.weight": np.ones((6, 4), int)}), SPEC), {}, TypeError, r"b\['0\.weight'\].*floating"),
    "no mapping": ((A, [1.0], SPEC), {}, TypeError, "b: expected a mapping"),
    "no spec": ((A, B, "relu"), {}, TypeError, "spec: expected a SymmetrySpec, got str"),
    "negative restarts": ((A, B, SPEC), {"restarts": -1}, ValueError, "restarts: expected an integer >= 0, got -1"),
    "no sweeps": ((A, B, SPEC), {"max_sweeps": 0}, ValueError, "max_sweeps: expected at least 1"),
    "seed": ((A, B, SPEC), {"seed": 1.5}, TypeError, "seed: expected an integer"),
    "unknown weight": ((A, B, SPEC), {"weights": {"w": 1}}, ValueError, "weights: no tensor 'w'; the networks hold"),
    "negative weight": ((A, B, SPEC), {"weights": {"0.bias": -1}}, ValueError, r"weights\['0\.bias'\].*>= 0, got -1"),
    "no number": ((A, B, SPEC), {"weights": {"0.bias": "x"}}, TypeError, r"weights\['0\.bias'\].*number"),
    "no weights": ((A, B, SPEC), {"weights": 3.0}, TypeError, "weights: expected a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("function", [match, distance], ids=lambda function: function.__name__)
def test_mistakes_are_named(name: str, function: Any) -> None:
    arguments, options, error, message = MISTAKES[name]
    with pytest.raises(error, match=message) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_without_scipy_one_line_says_so() -> None:
    """In a process of its own, where SciPy cannot be imported."""
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.optimize'] = None\n"
        "import numpy as np, nnsym_fast as nf\n"
        "from nnsym_fast.gauge_fixing import match\n"
        "spec = nf.SymmetrySpec({'h': nf.groups.Permutation(2)}, {'w': ('h',), 'v': ('h*',)})\n"
        "params = {'w': np.ones(2), 'v': np.ones(2)}\n"
        "try:\n    match(params, params, spec)\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "scipy" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_match_says_what_it_is() -> None:
    found = match(A, B, SPEC)
    assert isinstance(found, Match)
    assert found.element.count == 1
    assert "distance" in repr(found)
    assert len(repr(found)) < 200, "not the tensors"
