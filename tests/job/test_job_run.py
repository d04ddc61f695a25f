# SPDX-License-Identifier: MIT
"""Running a job: stopped at any moment it resumes to the same bytes, it damages nothing and needs little memory."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from job_helpers import ROOT, Outcome, finish, spawn, tree, write_mlp

import nnsym_fast as nf
from nnsym_fast.job.checkpoint import load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.plan import make_plan
from nnsym_fast.job.run import check_space, run
from nnsym_fast.job.store import open_store

JOB = ("digits-cnn", "--samples", 2000, "--seed", 5, "--chunk", 20)


def interrupt(out: Path, signals: list[signal.Signals]) -> Outcome:
    """Start the job, wait for its third block, and send it signals."""
    process = spawn("sample", *JOB, "--out", out)
    marks = out / "complete" / "c"
    while process.poll() is None and not (marks.is_dir() and len(os.listdir(marks)) >= 3):
        time.sleep(0.002)
    for number in signals:
        process.send_signal(number)
    return finish(process)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "x.zarr"
    assert finish(spawn("sample", *JOB, "--out", out)).code == 0
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path, whole: Path, number: signal.Signals) -> None:
    out = tmp_path / "x.zarr"
    outcome = interrupt(out, [number])
    store = open_store(out)
    pending = store.pending()
    assert 0 < len(pending) < store.plan.blocks
    if number == signal.SIGINT:
        assert outcome.code == 130
        blocks = store.plan.blocks
        assert f"{blocks - len(pending)} of {blocks} blocks are safe; the same command resumes" in outcome.error_line
    # What the store says it holds is right already.
    orbit = nf.Orbit(store.base(), store.plan.spec, seed=5)
    done = next(block for block in range(store.plan.blocks) if block not in pending)
    start, stop = store.plan.span(done)
    np.testing.assert_array_equal(
        store.points(start, stop)["5.weight"], orbit.points(start, stop)["5.weight"], strict=True
    )
    resumed = finish(spawn("sample", *JOB, "--out", out))
    assert resumed.code == 0
    assert "more were there before" in resumed.out
    assert tree(out) == tree(whole)


def test_an_impatient_user_presses_ctrl_c_twice(tmp_path: Path) -> None:
    outcome = interrupt(tmp_path / "x.zarr", [signal.SIGINT, signal.SIGINT])
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert open_store(tmp_path / "x.zarr").pending()


def test_a_finished_job_is_not_run_again(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    arguments = ("sample", tiny, "--samples", 50, "--out", tmp_path / "x.zarr")
    assert cli(*arguments).code == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "x.zarr").rglob("*")}
    outcome = cli(*arguments)
    assert outcome.code == 0
    assert "already complete" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "x.zarr").rglob("*")} == times


@pytest.mark.parametrize("damage", ["missing", "short", "unmarked"])
def test_a_damaged_block_is_made_again(tmp_path: Path, tiny: Path, damage: str) -> None:
    """After a power failure a marker may be on disk and the data that it speaks of not."""
    checkpoint, out = load(tiny), tmp_path / "x.zarr"
    plan = make_plan(checkpoint, samples=40, block=8)
    run(checkpoint, plan, out)
    before = tree(out)
    shard = out / "points" / "0.weight" / "c" / "2" / "0" / "0"
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        os.truncate(shard, 100)
    else:
        (out / "complete" / "c" / "2").unlink()
    assert open_store(out).pending() == [2]
    assert run(checkpoint, plan, out).samples == 8
    assert tree(out) == before


def test_values_depend_on_neither_blocks_nor_threads(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    threads = nf.get_num_threads()
    try:
        for number, options in enumerate([(), ("--chunk", 7), ("--chunk", 13, "--threads", 1)]):
            code = cli("sample", "digits-cnn", "--samples", 60, "--out", tmp_path / f"{number}.zarr", *options).code
            assert code == 0
    finally:
        nf.set_num_threads(threads)
    stores = [open_store(tmp_path / f"{number}.zarr") for number in range(3)]
    for other in stores[1:]:
        for name, array in stores[0].points(0, 60).items():
            np.testing.assert_array_equal(other.points(0, 60)[name], array)
        for name in ("norm", "distance"):
            np.testing.assert_allclose(other.observable(name), stores[0].observable(name), rtol=1e-14)


def test_a_resumed_store_keeps_its_own_blocks(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    arguments = ("sample", tiny, "--samples", 40, "--out", tmp_path / "x.zarr")
    cli(*arguments, "--chunk", 10)
    (tmp_path / "x.zarr" / "complete" / "c" / "1").unlink()
    outcome = cli(*arguments, "--chunk", 3)
    assert outcome.code == 0
    assert "keeps its own blocks of 10 samples" in outcome.error_line
    assert "10 points of tiny.safetensors (30 more were there before)" in outcome.out


# --- another job's store


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (("--seed", 1), "seed"),
        (("--samples", 41), "samples"),
        (("--observables", "norm"), "observables, function"),
        (("--no-points",), "points"),
        (("--activation", "tanh"), "spec, function"),
        ("other.safetensors", "checkpoint"),
    ],
)
def test_the_store_of_another_job_is_refused(
    tmp_path: Path, tiny: Path, cli: Callable[..., Outcome], change: tuple[object, ...] | str, differs: str
) -> None:
    out = tmp_path / "x.zarr"
    assert cli("sample", tiny, "--samples", 40, "--out", out).code == 0
    before = tree(out)
    if isinstance(change, str):
        other, extra = write_mlp(tmp_path / change, [3, 8, 5, 2], seed=1), ()
    else:
        other, extra = tiny, change
    outcome = cli("sample", other, "--samples", 40, "--out", out, *extra)
    assert outcome.code == 1
    ours = make_plan(load(tiny), samples=40).fingerprint()
    assert f"holds another job, {ours}" in outcome.error_line
    assert "not this one, " in outcome.error_line
    assert f"they differ in {differs}." in outcome.error_line
    assert tree(out) == before


def test_two_processes_do_not_write_to_one_store(tmp_path: Path, tiny: Path) -> None:
    checkpoint = load(tiny)
    plan = make_plan(checkpoint, samples=10)
    store = run(checkpoint, plan, tmp_path / "x.zarr").store
    with store.lock(), pytest.raises(JobError, match="another process is writing"):
        run(checkpoint, plan, tmp_path / "x.zarr")
    assert run(checkpoint, plan, tmp_path / "x.zarr").samples == 0


# --- a full disk


def test_a_job_that_cannot_fit_is_refused_before_it_starts(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    free = shutil.disk_usage(tmp_path).free
    samples = free // load("digits-mlp").params["2.weight"].nbytes
    outcome = cli("sample", "digits-mlp", "--samples", samples, "--out", tmp_path / "new" / "x.zarr")
    assert outcome.code == 1
    assert "the disk is too full" in outcome.error_line
    assert list(tmp_path.iterdir()) == []
    check_space(tmp_path / "x.zarr", free // 2)


def test_a_write_that_the_system_refuses(tmp_path: Path, whole: Path) -> None:
    """A limit on the size of files strikes in the middle of a shard, as a full disk does."""
    out = tmp_path / "x.zarr"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    outcome = finish(spawn("sample", *JOB, "--out", out, preexec_fn=limit))
    assert outcome.code == 1
    assert "cannot be written (File too large); 0 of 100 blocks are safe" in outcome.error_line
    assert not list(out.rglob("*.part"))
    assert finish(spawn("sample", *JOB, "--out", out)).code == 0
    assert tree(out) == tree(whole)


FULL_DISK = """
    set -e
    mount -t tmpfs -o size=2m tmpfs "$1"
    set +e
    "$2" -m nnsym_fast.cli sample "$3" --samples 400 --chunk 1 --out "$1/x.zarr"
    echo "first: $?"
    find "$1/x.zarr" -name '*.part' | sed 's/^/left: /'
    mount -o remount,size=64m "$1"
    "$2" -m nnsym_fast.cli verify "$1/x.zarr" 2>&1 | grep -c 'blocks are missing'
    "$2" -m nnsym_fast.cli sample "$3" --samples 400 --chunk 1 --out "$1/x.zarr"
    echo "second: $?"
    cp -r "$1/x.zarr" "$4"
"""


def test_a_disk_that_fills_up(tmp_path: Path, tiny: Path) -> None:
    """A real file system of 2 MB: blocks of one sample each waste its pages until it is full."""
    unshare = ["unshare", "--mount", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a file system; the size limit above stands for the full disk")
    (tmp_path / "disk").mkdir()
    arguments = [tmp_path / "disk", sys.executable, tiny, tmp_path / "copy.zarr"]
    script = ["sh", "-c", textwrap.dedent(FULL_DISK), "sh", *map(str, arguments)]
    done = subprocess.run(
        [*unshare, *script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert "first: 1" in done.stdout, done.stderr
    assert "second: 0" in done.stdout, done.stderr
    assert "left:" not in done.stdout
    assert "\n1\n" in done.stdout  # an unfinished store says so
    errors = [line for line in done.stderr.splitlines() if line.startswith("nnsym-fast: error")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "the same command resumes" in errors[0]
    assert "Traceback" not in done.stderr
    checkpoint = load(tiny)
    run(checkpoint, make_plan(checkpoint, samples=400, block=1), tmp_path / "whole.zarr")
    assert tree(tmp_path / "copy.zarr") == tree(tmp_path / "whole.zarr")


def test_a_place_that_cannot_be_written(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = cli("sample", tiny, "--samples", 3, "--out", tmp_path / "file" / "x.zarr")
    assert outcome.code == 1
    assert f"{tmp_path}/file/x.zarr: cannot be created (" in outcome.error_line


# --- memory

PEAK = """
    import resource, sys
    from nnsym_fast.cli import main
    assert main(sys.argv[1:]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(*arguments: object) -> int:
    command = [sys.executable, "-c", textwrap.dedent(PEAK), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300
    )
    return int(done.stdout.rsplit("peak", 1)[1])


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    net = write_mlp(tmp_path / "net.safetensors", [64, 64, 10])
    few, many = (
        peak_kib("sample", net, "--samples", samples, "--chunk", 50, "--out", tmp_path / f"{samples}.zarr")
        for samples in (100, 10_000)
    )
    written = sum(path.stat().st_size for path in (tmp_path / "10000.zarr").rglob("*") if path.is_file())
    assert written > 190e6
    assert many - few < 16 * 1024, (few, many)


def test_memory_is_bounded_by_a_few_blocks(tmp_path: Path) -> None:
    """With the default cut the blocks of a short job are shorter, so it may need less, but never much less."""
    few, many = (
        peak_kib("sample", "digits-mlp", "--samples", samples, "--no-points", "--out", tmp_path / f"{samples}.zarr")
        for samples in (100, 3_000)
    )
    assert many - few < 5 * 16 * 1024, (few, many)
