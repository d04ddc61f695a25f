# SPDX-License-Identifier: MIT
"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from job_helpers import ROOT, Outcome, finish, mlp_params, spawn

import nnsym_fast
from nnsym_fast import groups
from nnsym_fast.job.checkpoint import load
from nnsym_fast.job.inspect import describe_group
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
        (["transform", "digits-mlp", "--out", "x.safetensors"], 2, "--index"),
        (["canonicalize", "digits-mlp"], 2, "--out"),
        (["match", "digits-mlp", "--out", "x.safetensors"], 2, "Missing argument 'B'"),
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
    for arguments in ([], ["--help"], ["-h"], ["sample", "--help"], ["transform", "-h"]):
        outcome = cli(*arguments)
        assert outcome.code == 0
        assert "Usage: nnsym-fast" in outcome.out


def test_version(cli: Callable[..., Outcome]) -> None:
    outcome = cli("--version")
    assert outcome.code == 0
    assert outcome.out == f"nnsym-fast {nnsym_fast.__version__}\n"


def test_a_store_is_verified_by_its_own_points(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    store = tmp_path / "x.zarr"
    assert cli("sample", tiny, "--samples", 7, "--seed", 2, "--out", store).code == 0
    outcome = cli("verify", store)
    assert outcome.err == ""
    outcome = cli("verify", store, "--samples", 3, "--seed", 0, "--activation", "tanh")
    assert outcome.code == 0
    assert "7 points of the orbit" in outcome.out
    line = "is a store, whose own points are checked; ignored: --samples, --seed, --activation"
    assert line in outcome.error_line


def test_an_empty_directory_is_a_place_for_a_store(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    (tmp_path / "x.zarr").mkdir()
    assert cli("sample", tiny, "--samples", 3, "--out", tmp_path / "x.zarr").code == 0
    assert cli("verify", tmp_path / "x.zarr").code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    assert "not a Zarr v3 store" in cli("sample", tiny, "--samples", 3, "--out", tmp_path / "full").error_line
    assert (tmp_path / "full" / "precious").read_text() == "data"


@pytest.mark.parametrize("command", [("verify",), ("inspect",), ("sample", "--samples", 3, "--out", "x.zarr")])
@pytest.mark.parametrize("dtype", ["int32", "int8", "bool"])
def test_weights_that_are_integers(
    tmp_path: Path, dtype: str, command: tuple[object, ...], cli: Callable[..., Outcome]
) -> None:
    params = {name: np.ones_like(array, dtype) for name, array in mlp_params([3, 8, 2]).items()}
    np.savez(tmp_path / "net.npz", **params)
    outcome = cli(command[0], tmp_path / "net.npz", "--activation", "relu", *command[1:])
    assert outcome.code == 1
    assert f"tensor '0.weight' is stored as {dtype}, and its legs multiply it; expected float64" in outcome.error_line


def test_inspect_takes_layers_of_a_kind_together(llama: Path, cli: Callable[..., Outcome]) -> None:
    short, long = cli("inspect", llama), cli("inspect", llama, "--all")
    assert short.code == long.code == 0
    assert len(long.out.splitlines()) > len(short.out.splitlines()) + 20
    for fact in (
        "architecture: llama (LlamaForCausalLM)",
        "h0-2.qk",
        "3 x 16",
        "2 heads of RotaryCommutant: matrix; heads permuted",
        "2 heads of GeneralLinear: matrix; heads permuted",
        "model.layers.0-2.self_attn.o_proj.weight",
        "3 x: 32 x 32",
        "residual, h#.vo*, 2 copies by h#.q",
        "What this network does not have:",
        "  biases: the rotary embedding",
    ):
        assert fact in short.out
    for fact in ("h1.qk", "model.layers.1.self_attn.o_proj.weight", "residual, h1.vo*, 2 copies by h1.q"):
        assert fact in long.out
        assert fact not in short.out
    dimension = f"{load(llama).spec.dimension:,}"
    for outcome in (short, long):
        total = next(line for line in outcome.out.splitlines() if line.startswith("│ all"))
        assert dimension in total
    rotated = cli("inspect", llama, "--rotate", "--fold-norms").out
    assert "Orthogonal: matrix" in rotated
    assert "7 norms are folded into the weights that read them" in rotated


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (groups.Permutation(4), "Permutation: permutation"),
        (groups.Orthogonal(4), "Orthogonal: matrix"),
        (groups.Affine(groups.GeneralLinear(3)), "GeneralLinear and shifts: matrix x shift"),
        (
            groups.Heads(4, groups.Affine(groups.GeneralLinear(3))),
            "4 heads of GeneralLinear and shifts: matrix x shift; heads permuted",
        ),
        (groups.Heads(4, groups.GeneralLinear(3), permute=False), "4 heads of GeneralLinear: matrix"),
        (groups.Heads(4, groups.Permutation(1)), "4 heads; heads permuted"),
    ],
)
def test_groups_in_words(group: groups.Group, expected: str) -> None:
    assert describe_group(group) == expected


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
    heavy = ("zarr", "typer", "rich", "matplotlib", "safetensors", "torch", "transformers", "scipy")
    script = f"import sys, nnsym_fast; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
