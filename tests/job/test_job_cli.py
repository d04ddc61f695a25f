# SPDX-License-Identifier: MIT
"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from job_helpers import ROOT, Outcome, finish, spawn

from nnsym_fast.job.store import open_store


def test_inspect_tells_the_symmetry(cli: Callable[..., Outcome]) -> None:
    outcome = cli("inspect", "digits-cnn")
    assert outcome.code == 0
    for fact in ("2,762 parameters and 33 numbers of state", "accuracy: 0.98", "10 x 256", "h0* x 16", "13.3"):
        assert fact in outcome.out
    outcome = cli("inspect", "digits-mlp")
    for fact in ("50,826 parameters", "256", "384", "722.5", "h1, h0*"):
        assert fact in outcome.out


def test_sample_verify_report(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    store = tmp_path / "orbit.zarr"
    outcome = cli("sample", "digits-mlp", "--samples", 70, "--seed", 2, "--out", store)
    assert outcome.code == 0
    assert re.search(r"70 points of digits_mlp.safetensors, 0\.01\d+ GB in .* samples/s, .* GB/s", outcome.out)
    for source in ("digits-mlp", store):
        outcome = cli("verify", source)
        assert outcome.code == 0
        assert "every point computes the same function" in outcome.out
        assert f"{70 if source == store else 100} points of the orbit, 64 probe inputs" in outcome.out
    assert cli("report", store, "--out", tmp_path / "r").out.strip() == str(tmp_path / "r" / "index.html")


def test_observables_and_points_can_be_chosen(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    options = {"none": (), "distance": ("distance",), "function,norm": ("norm", "function")}
    for number, (text, expected) in enumerate(options.items()):
        out = tmp_path / f"{number}.zarr"
        assert cli("sample", tiny, "--samples", 5, "--out", out, "--observables", text).code == 0
        assert open_store(out).plan.observables == expected
    outcome = cli("sample", tiny, "--samples", 5, "--out", tmp_path / "x", "--observables", "none", "--no-points")
    assert "leaves nothing to store" in outcome.error_line


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["sample"], 2, "Missing argument 'CKPT'"),
        (["sample", "digits-mlp"], 2, "--samples"),
        (["sample", "digits-mlp", "--samples", "many", "--out", "x"], 2, "Invalid value for '--samples'"),
        (["sample", "digits-mlp", "--samples", "0", "--out", "x"], 1, "--samples: expected at least 1, got 0"),
        (["sample", "digits-mlp", "--samples", "1", "--out", "x", "--observables", "size"], 1, "unknown 'size'"),
        (["sample", "digits-mlp", "--samples", "1", "--out", "x", "--threads", "0"], 2, "threads"),
        (["frobnicate"], 2, "frobnicate"),
        (["verify", "nowhere.pt"], 1, "nowhere.pt: no such file"),
        (["report", "nowhere.zarr"], 1, "nowhere.zarr: no such store"),
        (["inspect", "digits-mlp", "--activation", "wobble"], 1, "wobble"),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], code: int, expected: str, cli: Callable[..., Outcome]
) -> None:
    outcome = cli(*arguments)
    assert outcome.code == code
    assert expected in outcome.error_line
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) == 1


def test_help(cli: Callable[..., Outcome]) -> None:
    for arguments in ([], ["--help"], ["sample", "--help"]):
        outcome = cli(*arguments)
        assert outcome.code == 0
        assert "Usage: nnsym-fast" in outcome.out


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = spawn("inspect", "digits-cnn")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    process.wait()


def test_a_process_of_its_own(tmp_path: Path, tiny: Path) -> None:
    assert finish(spawn("verify", tiny, "--samples", 5)).code == 0
    assert finish(spawn("verify", tmp_path / "none.npz")).code == 1


def test_a_missing_extra_is_one_line() -> None:
    script = "import sys; sys.modules['typer'] = None; import nnsym_fast.cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_package_itself_does_not_import_the_job() -> None:
    heavy = ("zarr", "typer", "rich", "matplotlib", "safetensors", "torch")
    script = f"import sys, nnsym_fast; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
