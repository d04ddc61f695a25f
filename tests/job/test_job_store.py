# SPDX-License-Identifier: MIT
"""The store: any Zarr reader finds the orbit in it, bit for bit, and it says truly what it holds."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from job_helpers import mlp_params, write_mlp
from safetensors.numpy import save_file

import nnsym_fast as nf
from nnsym_fast.job import shards
from nnsym_fast.job.checkpoint import Checkpoint, load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.plan import BLOCK_BYTES, make_plan
from nnsym_fast.job.run import run
from nnsym_fast.job.store import Store, open_store


def sample(checkpoint: Checkpoint, out: Path, samples: int, **options: Any) -> Store:
    return run(checkpoint, make_plan(checkpoint, samples=samples, **options), out).store


def assert_holds_orbit(path: Path, checkpoint: Checkpoint, samples: int, seed: int) -> None:
    group = zarr.open_group(path, mode="r")
    points = nf.Orbit(checkpoint.params, checkpoint.spec, seed=seed).points(0, samples)
    for name, expected in points.items():
        stored = np.asarray(group[f"points/{name}"][...])
        np.testing.assert_array_equal(stored, expected, strict=True, err_msg=name)


@pytest.mark.parametrize("samples", [1, 6, 7, 8, 50])
@pytest.mark.parametrize("block", [1, 3, 7, 64])
def test_plain_zarr_reads_the_orbit_bit_for_bit(tmp_path: Path, tiny: Path, samples: int, block: int) -> None:
    checkpoint = load(tiny)
    sample(checkpoint, tmp_path / "x.zarr", samples, seed=3, block=block)
    assert_holds_orbit(tmp_path / "x.zarr", checkpoint, samples, seed=3)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_the_shipped_networks_are_stored_bit_for_bit(tmp_path: Path, name: str) -> None:
    checkpoint = load(name)
    sample(checkpoint, tmp_path / "x.zarr", 150, seed=1, observables=[])
    assert_holds_orbit(tmp_path / "x.zarr", checkpoint, 150, seed=1)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_storage_formats(tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    params = {name: array.astype(dtype) for name, array in mlp_params([3, 8, 2]).items()}
    save_file(params, tmp_path / "net.safetensors")
    checkpoint = load(tmp_path / "net.safetensors", activation="relu")
    store = sample(checkpoint, tmp_path / "x.zarr", 10, block=4)
    expected = nf.Orbit(checkpoint.params, checkpoint.spec, seed=0).points(2, 9)
    for name, array in store.points(2, 9).items():
        assert array.dtype.name == dtype
        np.testing.assert_array_equal(array, expected[name])
    for name, array in store.base().items():
        np.testing.assert_array_equal(array, params[name])
    if dtype == "bfloat16":  # Zarr has no such type: the bits, and a word about them
        array = store.array("points/0.weight")
        assert array.dtype == np.uint16
        assert array.attrs["dtype"] == "bfloat16"


def test_layout_and_attributes(tmp_path: Path) -> None:
    checkpoint = load("digits-cnn")
    sample(checkpoint, tmp_path / "x.zarr", 20, seed=9, block=8)
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    attributes: Any = group.attrs["nnsym_fast"]
    assert (attributes["seed"], attributes["samples"], attributes["block"]) == (9, 20, 8)
    assert attributes["checkpoint"] == {"name": "digits_cnn.safetensors", "sha256": checkpoint.sha256}
    assert attributes["version"] == nf.__version__
    assert nf.SymmetrySpec.from_json(json.dumps(attributes["spec"])) == checkpoint.spec
    assert attributes["model"]["accuracy"] > 0.96
    weight = group["points/5.weight"]
    assert weight.shape == (20, 10, 256)
    assert weight.shards == (8, 10, 256)
    assert weight.metadata.zarr_format == 3
    assert group["points/1.running_mean"].attrs["state"] is True
    assert group["observables/norm"].attrs["columns"] == [*checkpoint.params, "total"]
    assert np.asarray(group["complete"][...]).all()


def test_metadata_round_trip(tmp_path: Path, tiny: Path) -> None:
    """A store alone gives back the network, its spec, its model and the plan."""
    checkpoint = load(tiny)
    plan = make_plan(checkpoint, samples=12, seed=2**64 - 1)
    run(checkpoint, plan, tmp_path / "x.zarr")
    store = open_store(tmp_path / "x.zarr")
    assert store.plan == plan
    back = store.checkpoint()
    assert (back.name, back.sha256, back.spec, back.model) == (
        checkpoint.name,
        checkpoint.sha256,
        checkpoint.spec,
        checkpoint.model,
    )
    assert checkpoint.probes is not None
    assert back.probes is not None
    np.testing.assert_array_equal(back.probes, checkpoint.probes)
    for name, array in checkpoint.params.items():
        np.testing.assert_array_equal(back.params[name], array)
    np.testing.assert_array_equal(
        nf.Orbit(back.params, back.spec, seed=store.plan.seed)[11]["2.weight"], store.points(11, 12)["2.weight"][0]
    )


def test_without_points(tmp_path: Path, tiny: Path) -> None:
    store = sample(load(tiny), tmp_path / "x.zarr", 30, points=False)
    assert "points" not in store.group
    assert store.observable("norm").shape == (30, 7)
    with pytest.raises(JobError, match="--no-points"):
        store.points(0, 1)


def test_what_is_not_there_yet_reads_as_nan(tmp_path: Path, tiny: Path) -> None:
    sample(load(tiny), tmp_path / "x.zarr", 30, block=10)
    shutil.rmtree(tmp_path / "x.zarr" / "points" / "0.weight" / "c" / "1")
    weight = np.asarray(zarr.open_group(tmp_path / "x.zarr", mode="r")["points/0.weight"][...])
    assert np.isnan(weight[10:20]).all()
    assert np.isfinite(weight[:10]).all()


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "/etc/escape", "a//b", "__a", "zarr.json", ".", ""])
def test_tensor_names_cannot_leave_the_store(tmp_path: Path, name: str) -> None:
    weight = np.ones((2, 2), np.float32)
    spec = nf.SymmetrySpec({}, {name: (None, None)})
    checkpoint = Checkpoint("evil", "0" * 64, {name: weight}, spec, None, None)
    with pytest.raises(JobError, match="cannot name an array"):
        sample(checkpoint, tmp_path / "deep" / "er" / "x.zarr", 2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nested_tensor_names(tmp_path: Path) -> None:
    params = {f"net/{name}": array for name, array in mlp_params([3, 4, 2]).items()}
    np.savez(tmp_path / "net.npz", **params)
    store = sample(load(tmp_path / "net.npz", activation="relu"), tmp_path / "x.zarr", 5)
    assert store.points(0, 5)["net/0.weight"].shape == (5, 4, 3)
    spec = nf.SymmetrySpec({}, {"a": (None,), "a/b": (None,)})
    clash = Checkpoint("x", "0" * 64, {"a": np.ones(2, "f4"), "a/b": np.ones(2, "f4")}, spec, None, None)
    with pytest.raises(JobError, match="lies inside tensor 'a'"):
        sample(clash, tmp_path / "y.zarr", 2)


@pytest.mark.parametrize("content", ["nothing", "a file", "a foreign zarr", "a foreign folder", "bad json", "a gap"])
def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path, tiny: Path, content: str) -> None:
    path = tmp_path / "x.zarr"
    if content == "a file":
        path.write_text("precious")
    elif content == "a foreign zarr":
        zarr.create_group(path, attributes={"precious": 1})
    elif content == "a foreign folder":
        path.mkdir()
        (path / "precious").write_text("data")
    elif content in ("bad json", "a gap"):
        sample(load(tiny), path, 3)
        text = (path / "zarr.json").read_text()
        (path / "zarr.json").write_text("{" if content == "bad json" else text.replace('"seed"', '"seeds"'))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(JobError, match=str(path)) as caught:
        open_store(path)
    assert "\n" not in str(caught.value)
    if content != "nothing":
        with pytest.raises(JobError):
            sample(load(tiny), path, 3)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_default_blocks_fit_the_memory_target(tmp_path: Path) -> None:
    small = make_plan(load(write_mlp(tmp_path / "s.safetensors", [2, 32, 32, 1])), samples=10**6)
    large = make_plan(load("digits-mlp"), samples=10**6)
    for plan in (small, large):
        assert plan.block * plan.sample_bytes <= BLOCK_BYTES
        assert plan.block & (plan.block - 1) == 0
        spans = [plan.span(block) for block in range(plan.blocks)]
        assert spans[0][0] == 0
        assert spans[-1][1] == 10**6
        assert all(a[1] == b[0] for a, b in pairwise(spans))


# --- shards: the bytes that the codec "sharding_indexed" prescribes


@given(block=st.integers(1, 5000), sample_bytes=st.integers(1, 1 << 23))
def test_chunks_divide_the_block_and_are_about_a_mebibyte(block: int, sample_bytes: int) -> None:
    chunk = shards.chunk_samples(block, sample_bytes)
    assert block % chunk == 0
    assert chunk == 1 or chunk * sample_bytes <= shards.CHUNK_BYTES


@given(data=st.binary(max_size=300))
def test_crc32c_against_the_library_that_zarr_uses(data: bytes) -> None:
    google_crc32c = pytest.importorskip("google_crc32c")
    assert shards.crc32c(data) == google_crc32c.value(data)


def test_a_full_shard_has_the_bytes_that_zarr_itself_writes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((64, 100, 400)).astype(np.float32)
    chunk = shards.chunk_samples(64, 160_000)
    assert 1 < chunk < 64
    options: Any = {"chunks": (chunk, 100, 400), "shards": (64, 100, 400), "compressors": None}
    array = zarr.create_array(tmp_path / "z", shape=values.shape, dtype="float32", **options)
    array[...] = values
    shards.write_shard(tmp_path / "ours", values, 64)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "z" / "c" / "0" / "0" / "0").read_bytes()
    assert (tmp_path / "ours").stat().st_size == shards.shard_bytes(64, 64, 160_000)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        shards.write_file(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
