# SPDX-License-Identifier: MIT
"""What is measured on the points, and the verdict that rests on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_helpers import Outcome, mlp_params, write_mlp
from safetensors.numpy import save_file

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.job.checkpoint import Checkpoint, Model, load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.observables import Distance, FunctionGap, Norm
from nnsym_fast.job.plan import OBSERVABLES, make_plan
from nnsym_fast.job.run import run
from nnsym_fast.job.verify import ALLOWED, verify, verify_store
from nnsym_fast.symmetry import Leg


def network(widths: Sequence[int], activation: str = "relu", dtype: Any = np.float32, seed: int = 0) -> Checkpoint:
    layers = specs.mlp_layers(widths, activation)
    probes = np.random.default_rng(seed).standard_normal((32, widths[0]))
    model = Model(tuple(layers), (widths[0],))
    return Checkpoint(
        "net", "0" * 64, mlp_params(list(widths), seed, dtype), specs.mlp(widths, activation), model, probes
    )


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
@pytest.mark.parametrize("observable", [Norm, Distance])
def test_norms_and_distances_against_numpy(name: str, observable: type[Norm]) -> None:
    checkpoint = load(name)
    points = nf.Orbit(checkpoint.params, checkpoint.spec, seed=2).points(0, 5)
    measured = observable(checkpoint)
    values = measured(points)
    trainable = [key for key in checkpoint.params if key not in checkpoint.spec.state]
    for k in range(5):
        difference = {
            key: points[key][k].astype(np.float64) - (checkpoint.params[key] if observable is Distance else 0.0)
            for key in checkpoint.params
        }
        expected = [np.linalg.norm(difference[key]) for key in checkpoint.params]
        expected.append(np.linalg.norm(np.concatenate([difference[key].ravel() for key in trainable])))
        np.testing.assert_allclose(values[k], expected, rtol=1e-12)
    assert measured.columns == (*checkpoint.params, "total")
    norms = [np.linalg.norm(array.astype(np.float64)) for array in checkpoint.params.values()]
    np.testing.assert_allclose(measured.attributes()["base"][:-1], norms, rtol=1e-12)


def test_the_base_point_is_at_distance_zero_and_state_is_left_out_of_the_total() -> None:
    checkpoint = load("digits-cnn")
    stacked = {name: array[None].copy() for name, array in checkpoint.params.items()}
    assert not Distance(checkpoint)(stacked).any()
    stacked["1.running_mean"] += 1.0
    values = dict(zip(Distance(checkpoint).columns, Distance(checkpoint)(stacked)[0], strict=True))
    assert values["1.running_mean"] == pytest.approx(4.0)  # 16 channels
    assert values["total"] == 0.0


def test_the_function_gap_is_the_relative_change_of_the_outputs() -> None:
    checkpoint = network([3, 6, 2], dtype=np.float64)
    assert checkpoint.model is not None
    assert checkpoint.probes is not None
    moved = {name: array[None] * 1.01 for name, array in checkpoint.params.items()}
    base = specs.evaluate(checkpoint.model.layers, checkpoint.params, checkpoint.probes)
    other = specs.evaluate(checkpoint.model.layers, {k: v[0] for k, v in moved.items()}, checkpoint.probes)
    change = np.linalg.norm(other - base, axis=1) / np.sqrt(np.mean(np.linalg.norm(base, axis=1) ** 2))
    gap = FunctionGap(checkpoint)(moved)[0]
    np.testing.assert_allclose(gap, [change.max(), np.sqrt(np.mean(change**2))], rtol=1e-12)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_float32_error_is_at_most_twice_that_of_the_network_itself(name: str) -> None:
    """Both against float64, rms over the probes; the factor is the project's, the yardstick its strictest reading."""
    verdict = verify(load(name), samples=300, seed=1)
    assert verdict.same
    assert verdict.gaps[:, 1].max() <= 2 * verdict.arithmetic[1]
    assert 1e-8 < verdict.arithmetic[1] < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("widths", "activation"),
    [
        ([2, 3, 1], "relu"),
        ([2, 32, 32, 1], "relu"),
        ([4, 8, 8, 8, 8, 3], "relu"),
        ([3, 16, 2], "tanh"),
        ([1, 1, 1], "relu"),
    ],
)
def test_small_networks_pass_in_every_format(widths: list[int], activation: str, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    verdict = verify(network(widths, activation, dtype), samples=1000)
    assert verdict.same, verdict.ratios.max()
    roundoff = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert verdict.gaps[:, 1].max() < 20 * roundoff
    assert verdict.rounding[1] < 10 * roundoff


RIGHT = specs.mlp([4, 8, 6, 3])
WRONG_LEGS: dict[str, dict[str, Any]] = {
    "a bias that does not move": {"0.bias": (None,)},
    "a reader that is not dual": {"2.weight": ("h1", "h0"), "0.bias": ("h0*",)},
    "a power too many": {"0.bias": (Leg("h0", power=2.0),)},
}


@pytest.mark.parametrize("wrong", WRONG_LEGS)
def test_a_wrong_leg_is_found_out(tmp_path: Path, wrong: str, cli: Callable[..., Outcome]) -> None:
    path = write_mlp(tmp_path / "net.safetensors", [4, 8, 6, 3])
    spec = nf.SymmetrySpec(RIGHT.sites, {**RIGHT.legs, **WRONG_LEGS[wrong]})
    (tmp_path / "wrong.json").write_text(spec.to_json())
    assert cli("verify", path, "--samples", 20).code == 0
    outcome = cli("verify", path, "--spec", tmp_path / "wrong.json", "--samples", 20)
    assert outcome.code == 1
    assert "computes another function" in outcome.error_line
    assert "every point computes the same function" not in outcome.out


def test_the_group_of_another_activation_is_found_out() -> None:
    checkpoint = network([4, 8, 6, 3], "tanh")
    wrong = Checkpoint(
        "net",
        checkpoint.sha256,
        checkpoint.params,
        specs.mlp([4, 8, 6, 3], "relu"),
        checkpoint.model,
        checkpoint.probes,
    )
    assert verify(checkpoint, samples=20).same
    verdict = verify(wrong, samples=20)
    assert not verdict.same
    assert verdict.ratios.min() > 1000


def linear_network(dtype: str, spec: nf.SymmetrySpec, seed: int = 0) -> Checkpoint:
    """Two linear layers, whose hidden space any invertible matrix may act on."""
    layers = specs.mlp_layers([10, 12, 8], "identity")
    probes = np.random.default_rng(seed).standard_normal((32, 10))
    params = mlp_params([10, 12, 8], seed, dtype)
    return Checkpoint("net", "0" * 64, params, spec, Model(tuple(layers), (10,)), probes)


def linear_spec(group: nf.groups.Group) -> nf.SymmetrySpec:
    legs = {"0.weight": ("h0", None), "0.bias": ("h0",), "2.weight": (None, "h0*"), "2.bias": (None,)}
    return nf.SymmetrySpec({"h0": group}, legs)


GROUPS = {
    "orthogonal": nf.groups.Orthogonal(12),
    "general": nf.groups.GeneralLinear(12),
    "special": nf.groups.SpecialLinear(12),
    "rotary": nf.groups.RotaryCommutant(12),
    "heads": nf.groups.Heads(2, nf.groups.GeneralLinear(6)),
}


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dense_groups_are_judged_by_their_own_rounding(kind: str, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    verdict = verify(linear_network(dtype, linear_spec(GROUPS[kind])), samples=100)
    assert verdict.same, verdict.ratios.max()
    roundoff = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert verdict.rounding[1] < 60 * roundoff


@pytest.mark.parametrize(
    "legs",
    [
        {"0.bias": (None,)},
        {"0.bias": ("h0*",)},
        {"0.weight": ("h0*", None)},
    ],
)
def test_the_rounding_of_dense_groups_excuses_no_wrong_leg(legs: dict[str, Any]) -> None:
    """A spec that is wrong moves the network elsewhere, and back again: only roundings are left."""
    right = linear_spec(nf.groups.GeneralLinear(12))
    wrong = nf.SymmetrySpec(right.sites, {**right.legs, **legs})
    for dtype in ("float64", "float32"):
        verdict = verify(linear_network(dtype, wrong), samples=10)
        assert not verdict.same
        assert verdict.ratios.min() > 1000
        assert verdict.rounding[1] < 10 * verify(linear_network(dtype, right), samples=1).rounding[1]


def test_a_change_in_a_store_is_found_out(tmp_path: Path) -> None:
    checkpoint = network([4, 8, 6, 3])
    store = run(checkpoint, make_plan(checkpoint, samples=30, block=10), tmp_path / "x.zarr").store
    assert verify_store(store).same
    shard = tmp_path / "x.zarr" / "points" / "2.weight" / "c" / "1" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[4 * 4 * 48 : 4 * 4 * 48 + 4] = np.float32(3.0).tobytes()
    shard.write_bytes(bytes(data))
    verdict = verify_store(store)
    assert not verdict.same
    assert verdict.worst == 14


def test_gaps_that_are_no_numbers_fail() -> None:
    checkpoint = network([2, 3, 1])
    verdict = verify(checkpoint, samples=5)
    broken = type(verdict)(verdict.gaps.copy(), verdict.arithmetic, verdict.rounding, verdict.probes)
    broken.gaps[3] = np.nan
    assert verdict.same
    assert not broken.same
    assert broken.worst == 3
    assert ALLOWED == 2.0


def test_a_network_that_is_constantly_zero_has_no_relative_change() -> None:
    checkpoint = network([2, 3, 1])
    for array in checkpoint.params.values():
        array[...] = 0
    with pytest.raises(JobError, match="all zero or not finite"):
        verify(checkpoint, samples=5)


def test_layers_that_do_not_fit_the_tensors(tmp_path: Path) -> None:
    metadata = {"nnsym_fast.spec": specs.mlp([3, 8, 2]).to_json(), "nnsym_fast.model": "[]"}
    layers = '[{"type": "Linear", "name": "7", "in": 3, "out": 8, "bias": true}]'
    save_file(mlp_params([3, 8, 2]), tmp_path / "net.safetensors", metadata | {"nnsym_fast.model": layers})
    with pytest.raises(JobError, match=r"do not evaluate on the probe inputs: .*'7\.weight'"):
        verify(load(tmp_path / "net.safetensors"), samples=3)


# --- which observables a job has


def test_by_default_everything_that_the_file_allows(tmp_path: Path, tiny: Path) -> None:
    assert make_plan(load(tiny), samples=1).observables == OBSERVABLES
    save_file(mlp_params([3, 8, 2]), tmp_path / "bare.safetensors", {"nnsym_fast.spec": specs.mlp([3, 8, 2]).to_json()})
    bare = load(tmp_path / "bare.safetensors")
    assert make_plan(bare, samples=1).observables == ("norm", "distance")
    with pytest.raises(JobError, match="does not describe its layers; give --activation"):
        make_plan(bare, samples=1, observables=["function"])
    with pytest.raises(JobError, match="does not describe its layers"):
        verify(bare, samples=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"samples": 0}, "--samples: expected at least 1, got 0"),
        ({"samples": 1, "seed": -1}, "--seed"),
        ({"samples": 1, "seed": 2**64}, "--seed"),
        ({"samples": 1, "block": 0}, "--chunk"),
        ({"samples": 1, "observables": ["norms"]}, "unknown 'norms'; expected a list of norm, distance, function"),
        ({"samples": 1, "observables": [], "points": False}, "nothing to store"),
    ],
)
def test_plans_that_make_no_sense(tiny: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(JobError, match=expected):
        make_plan(load(tiny), **options)


def test_the_identity_of_a_job(tiny: Path, tmp_path: Path) -> None:
    checkpoint = load(tiny)
    plan = make_plan(checkpoint, samples=10)
    assert make_plan(checkpoint, samples=10, block=3).fingerprint() == plan.fingerprint()
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    others = [
        make_plan(checkpoint, samples=11),
        make_plan(checkpoint, samples=10, seed=1),
        make_plan(checkpoint, samples=10, points=False),
        make_plan(checkpoint, samples=10, observables=["norm"]),
        make_plan(load(tiny, probes=tmp_path / "x.npy"), samples=10),
        make_plan(load(tiny, activation="gelu"), samples=10),
    ]
    assert len({plan.fingerprint(), *(other.fingerprint() for other in others)}) == 7
