# SPDX-License-Identifier: MIT
"""Networks that stay in their files: tensor by tensor the job gives the same numbers, and needs little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from job_helpers import ROOT, Outcome, example_script, tree, write_llama
from safetensors.numpy import load_file, save_file

import nnsym_fast as nf
from nnsym_fast.job import checkpoint as checkpoints
from nnsym_fast.job import plan as plans
from nnsym_fast.job import run as runs
from nnsym_fast.job.checkpoint import load
from nnsym_fast.job.errors import Interrupted, JobError
from nnsym_fast.job.plan import make_plan
from nnsym_fast.job.report import write_report
from nnsym_fast.job.run import run
from nnsym_fast.job.store import open_store

pytest.importorskip("ml_dtypes")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network counts as large, and goes to work one tensor after another."""
    monkeypatch.setattr(checkpoints, "LARGE", 0)
    monkeypatch.setattr(runs, "SHARE_BYTES", 1)


@pytest.mark.parametrize("options", [(), ("--rotate", "--fold-norms"), ("--symmetries", "hidden,value-output")])
@pytest.mark.parametrize("share", [1, 10_000, 1 << 30])
def test_the_numbers_do_not_depend_on_the_way(
    llama: Path,
    tmp_path: Path,
    share: int,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Outcome],
) -> None:
    """Norms, distances and points, bit for bit, whatever the cut into blocks."""
    arguments = ("sample", llama, *options, "--samples", 7, "--seed", 3)
    assert cli(*arguments, "--out", tmp_path / "whole.zarr").code == 0
    monkeypatch.setattr(checkpoints, "LARGE", 0)
    monkeypatch.setattr(runs, "SHARE_BYTES", share)
    outcome = cli(*arguments, "--chunk", 3, "--out", tmp_path / "parts.zarr")
    assert outcome.code == 0
    whole, parts = open_store(tmp_path / "whole.zarr"), open_store(tmp_path / "parts.zarr")
    assert whole.plan.identity() == parts.plan.identity()
    for name in ("norm", "distance"):
        np.testing.assert_array_equal(parts.observable(name), whole.observable(name))
        assert dict(parts.array(f"observables/{name}").attrs) == dict(whole.array(f"observables/{name}").attrs)
    for name, array in whole.points(0, 7).items():
        np.testing.assert_array_equal(parts.points(0, 7)[name], array)
    for name, array in whole.base().items():
        np.testing.assert_array_equal(parts.base()[name], array)
    assert len({float(total) for total in whole.observable("norm")[:, -1]}) == 7


def test_norms_of_a_network_against_numpy(llama: Path, tmp_path: Path, stream: None) -> None:
    checkpoint = load(llama)
    store = run(checkpoint, make_plan(checkpoint, samples=3, points=False, block=2), tmp_path / "x.zarr").store
    points = nf.Orbit(checkpoint.arrays, checkpoint.spec, seed=0).points(0, 3)
    for name, column in zip(checkpoint.params, store.observable("norm").T, strict=False):
        wide = points[name].astype(np.float64).reshape(3, -1)
        np.testing.assert_allclose(column, np.linalg.norm(wide, axis=1), rtol=1e-12)
    origin = np.concatenate([array.astype(np.float64).ravel() for array in checkpoint.arrays.values()])
    for k in range(3):
        point = np.concatenate([points[name][k].astype(np.float64).ravel() for name in checkpoint.params])
        np.testing.assert_allclose(store.observable("norm")[k, -1], np.linalg.norm(point), rtol=1e-12)
        np.testing.assert_allclose(store.observable("distance")[k, -1], np.linalg.norm(point - origin), rtol=1e-12)


def test_tensors_longer_than_a_slab(tmp_path: Path) -> None:
    """The sum over a long tensor is cut, and the cut does not depend on how many samples there are."""
    params = {"a": np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)}
    save_file(params, tmp_path / "net.safetensors")
    (tmp_path / "spec.json").write_text(nf.SymmetrySpec({}, {"a": (None, None)}).to_json())
    checkpoint = load(tmp_path / "net.safetensors", spec=tmp_path / "spec.json")
    observables = runs.build(checkpoint, ["norm", "distance"])
    stacked = np.random.default_rng(1).standard_normal((5, 300, 400)).astype(np.float32)
    for name, base in (("norm", 0.0), ("distance", params["a"].astype(np.float64))):
        values = observables[name]({"a": stacked})
        expected = np.sqrt(np.square(stacked.astype(np.float64) - base).sum(axis=(1, 2)))
        np.testing.assert_allclose(values[:, 0], expected, rtol=1e-13)
        for k in range(5):
            np.testing.assert_array_equal(observables[name]({"a": stacked[k : k + 1]})[0], values[k])


def test_transform_does_not_depend_on_the_way(
    llama: Path, tmp_path: Path, stream: None, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    options = ("--rotate", "--fold-norms", "--index", 2)
    assert cli("transform", llama, *options, "--out", tmp_path / "parts").code == 0
    monkeypatch.undo()
    assert cli("transform", llama, *options, "--out", tmp_path / "whole").code == 0
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_large_network_without_points_is_not_stored_itself(
    llama: Path, tmp_path: Path, stream: None, cli: Callable[..., Outcome]
) -> None:
    out = tmp_path / "x.zarr"
    outcome = cli("sample", llama, "--samples", 4, "--observables", "norm", "--no-points", "--out", out)
    assert outcome.code == 0
    assert "4 points of llama" in outcome.out
    store = open_store(out)
    assert store.observable("norm").shape == (4, len(store.plan.tensors) + 1)
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 100_000
    with pytest.raises(JobError, match="does not hold the network itself"):
        store.base()
    pytest.importorskip("matplotlib")
    assert write_report(store, tmp_path / "report").exists()


def test_a_stopped_run_resumes(
    llama: Path, tmp_path: Path, stream: None, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    arguments = ("sample", llama, "--samples", 8, "--chunk", 2)
    assert cli(*arguments, "--out", tmp_path / "whole.zarr").code == 0
    checkpoint = load(llama)
    plan = make_plan(checkpoint, samples=8, block=2)

    def interrupt(samples: int, nbytes: int) -> None:
        if nbytes:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"1 of 4 blocks are safe; the same command resumes"):
        run(checkpoint, plan, tmp_path / "x.zarr", progress=interrupt)
    store = open_store(tmp_path / "x.zarr")
    assert store.pending() == [1, 2, 3]
    outcome = cli(*arguments, "--out", tmp_path / "x.zarr")
    assert "6 points of llama (2 more were there before)" in outcome.out
    assert tree(tmp_path / "x.zarr") == tree(tmp_path / "whole.zarr")


def test_an_error_of_a_worker_is_the_error_of_the_run(llama: Path, tmp_path: Path, stream: None) -> None:
    checkpoint = load(llama)
    orbit = checkpoint.orbit(0)
    shard = sorted(llama.glob("*.safetensors"))[3]
    os.truncate(shard, 100)
    with pytest.raises(JobError, match="has become shorter"):
        orbit.points(0, 1)
    with pytest.raises(JobError, match="has become shorter"):
        run(checkpoint, make_plan(checkpoint, samples=2), tmp_path / "x.zarr")


def test_blocks_of_a_large_network_follow_its_largest_tensor(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_plan(load(llama), samples=100_000)
    assert small.block * small.sample_bytes <= plans.BLOCK_BYTES
    monkeypatch.setattr(checkpoints, "LARGE", 0)
    monkeypatch.setattr(plans, "TENSOR_BYTES", 20_000)
    plan = make_plan(load(llama), samples=100_000)
    assert plan.block * max(tensor.nbytes for tensor in plan.tensors) <= 20_000 < plan.block * plan.sample_bytes
    monkeypatch.setattr(plans, "TENSOR_BYTES", 1)
    assert make_plan(load(llama), samples=100_000).block == 1


PEAK = """
    import sys
    from pathlib import Path
    from nnsym_fast.job import checkpoint, run, write
    checkpoint.LARGE, run.SHARE_BYTES, write.SHARE_BYTES = int(sys.argv[1]), 1, 1
    from nnsym_fast.cli import main
    assert main(sys.argv[2:]) == 0
    print(Path("/proc/self/status").read_text())
"""


def peak_mib(large: int, *arguments: object) -> int:
    """Largest resident memory of a process; getrusage would begin with that of this one."""
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(large), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
    return int(done.stdout.rsplit("VmHWM:", 1)[1].split()[0]) // 1024


SHAPE = {"hidden": 256, "ff": 1024, "heads": 8, "kv_heads": 2, "vocab": 1024}
SAMPLE = ("--samples", 16, "--chunk", 16, "--observables", "norm,distance", "--no-points", "--out")


def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    """Sixteen points of eight layers take 240 MB, those of the largest tensor 8."""
    nets = [write_llama(tmp_path / f"{n}", shard_bytes=4_000_000, **SHAPE, layers=n) for n in (2, 10)]
    few, many = (peak_mib(0, "sample", net, *SAMPLE, tmp_path / f"{net.name}.zarr") for net in nets)
    assert many - few < 60, (few, many)
    # Negative control: in memory, the points of eight more layers can be seen.
    few, many = (peak_mib(1 << 40, "sample", net, *SAMPLE, tmp_path / f"{net.name}-.zarr") for net in nets)
    assert many - few > 150, (few, many)


def test_memory_of_a_transformed_network_does_not_grow_with_it(tmp_path: Path) -> None:
    nets = [write_llama(tmp_path / f"{n}", shard_bytes=4_000_000, **SHAPE, layers=n) for n in (2, 40)]
    few, many = (peak_mib(0, "transform", net, "--index", 1, "--out", tmp_path / f"{net.name}o") for net in nets)
    assert many - few < 40, (few, many)
    few, many = (peak_mib(1 << 40, "transform", net, "--index", 1, "--out", tmp_path / f"{net.name}p") for net in nets)
    assert many - few > 60, (few, many)


# --- the script that writes such a network


def test_the_script_writes_what_it_says(tmp_path: Path) -> None:
    script = ROOT / "examples" / "make_llama.py"
    sizes = ["--hidden", "32", "--ff", "48", "--layers", "2", "--heads", "4", "--kv-heads", "2", "--vocab", "64"]
    for name, shard in (("one", "1000000"), ("many", "9000")):
        command = [sys.executable, script, tmp_path / name, *sizes, "--shard-bytes", shard]
        done = subprocess.run(
            list(map(str, command)), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
        )
        assert b"19,616 parameters" in done.stdout
    assert (tmp_path / "one" / "model.safetensors").exists()
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert len(shards) >= 4
    one, many = load(tmp_path / "one"), load(tmp_path / "many")
    assert one.parameters == 19_616
    assert one.spec == many.spec
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(many.params[name], array, strict=True)
    read = {name for shard in shards for name in load_file(shard)}
    assert read == set(one.params)


def test_the_script_draws_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = example_script("make_llama")
    monkeypatch.setattr(script, "PIECE", 100)
    pieces = list(script.numbers((30, 40), np.random.default_rng(0)))
    assert [piece.size for piece in pieces] == [100] * 12
    assert np.concatenate(pieces).astype(np.float64).std() == pytest.approx(40**-0.5, rel=0.1)
    assert script.shards_of({"a": (10,), "b": (10,), "c": (50,), "d": (1,)}, 45) == [["a", "b"], ["c"], ["d"]]
