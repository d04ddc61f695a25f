# SPDX-License-Identifier: MIT
"""Networks that are written: the same files with other weights, whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_helpers import Outcome, finish, mlp_params, spawn, tree, write_llama, write_mlp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.job import run
from nnsym_fast.job.checkpoint import Checkpoint, load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.verify import verify
from nnsym_fast.job.write import write_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

WIDTHS = [3, 8, 5, 2]


def header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: 8 + int.from_bytes(data[:8], "little")]


def assert_is_point(checkpoint: Checkpoint, original: Checkpoint, seed: int, index: int) -> None:
    expected = nf.Orbit(original.arrays, original.spec, seed=seed)[index]
    assert set(checkpoint.params) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.params[name], array, strict=True, err_msg=name)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_the_shipped_networks(tmp_path: Path, name: str, cli: Callable[..., Outcome]) -> None:
    out = tmp_path / "new" / "other.safetensors"
    outcome = cli("transform", name, "--seed", 3, "--index", 7, "--out", out)
    assert outcome.code == 0
    assert "point 7 of seed 3" in outcome.out
    original, written = load(name), load(out)
    assert_is_point(written, original, 3, 7)
    assert original.path is not None
    assert header(out) == header(original.path)
    assert (written.spec, written.model) == (original.spec, original.model)
    assert not np.array_equal(written.params["5.weight" if name == "digits-cnn" else "2.weight"], 0)
    assert cli("verify", out).code == 0
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_folder(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    (llama / "tokenizer.json").write_text('{"a": 1}')
    (llama / "1_Pooling").mkdir()
    (llama / "1_Pooling" / "config.json").write_text("{}")
    (llama / "pytorch_model.bin").write_bytes(b"the weights of another point")
    (llama / "pytorch_model.bin.index.json").write_text("{}")
    (llama / ".cache").mkdir()
    (llama / ".cache" / "lock").write_text("")
    out = tmp_path / "other"
    outcome = cli("transform", llama, "--index", 5, "--out", out)
    assert outcome.code == 0
    assert "not copied, as they hold weights or are large: pytorch_model.bin, pytorch_model.bin.index" in outcome.err
    original, written = load(llama), load(out)
    assert_is_point(written, original, 0, 5)
    assert written.config == original.config
    before, after = tree(llama), tree(out)
    left = {"pytorch_model.bin", "pytorch_model.bin.index.json", ".cache/lock"}
    assert set(after) == set(before) - left
    for name, data in after.items():
        if name.endswith(".safetensors"):
            assert header(out / name) == header(llama / name)
            assert data != before[name]
        else:
            assert data == before[name]
    assert (out.stat().st_mode & 0o777) == 0o777 & ~_umask()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "other"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_links_are_followed(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Caches of downloads are folders of links."""
    (tmp_path / "blobs").mkdir()
    for file in list(llama.iterdir()):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    assert cli("transform", llama, "--index", 1, "--out", tmp_path / "other").code == 0
    assert not any(path.is_symlink() for path in (tmp_path / "other").iterdir())
    assert_is_point(load(tmp_path / "other"), load(llama), 0, 1)


def test_a_folded_and_rotated_folder(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    options = ("--rotate", "--fold-norms", "--seed", 2)
    assert cli("transform", llama, *options, "--index", 3, "--out", tmp_path / "other").code == 0
    assert_is_point(load(tmp_path / "other"), load(llama, rotate=True, fold_norms=True), 2, 3)


def test_npz_and_pt(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    params = mlp_params(WIDTHS)
    texts = {"nnsym_fast.spec": specs.mlp(WIDTHS).to_json(), "nnsym_fast.note": "kept"}
    np.savez(tmp_path / "net.npz", **params, **{key: np.array(text) for key, text in texts.items()})
    torch.save({"state_dict": {k: torch.from_numpy(v) for k, v in params.items()}, **texts}, tmp_path / "net.pt")
    for source, out in (("net.npz", "a.npz"), ("net.pt", "b.npz"), ("net.pt", "c.safetensors")):
        assert cli("transform", tmp_path / source, "--index", 2, "--out", tmp_path / out).code == 0
        written = load(tmp_path / out)
        assert_is_point(written, load(tmp_path / source), 0, 2)
        assert written.metadata == texts


def test_the_libraries_read_what_is_written(tmp_path: Path, tiny: Path) -> None:
    checkpoint = load(tiny)
    write_checkpoint(checkpoint, tmp_path / "x.safetensors", lambda names: {n: checkpoint.arrays[n] for n in names})
    assert (tmp_path / "x.safetensors").read_bytes() == tiny.read_bytes()
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as opened:
        assert "nnsym_fast.spec" in opened.metadata()


@pytest.mark.parametrize("limit", [1, 3000, 1 << 30])
def test_the_result_does_not_depend_on_the_shares(
    llama: Path, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    from nnsym_fast.job import write

    monkeypatch.setattr(write, "SHARE_BYTES", limit)
    assert cli("transform", llama, "--index", 4, "--out", tmp_path / "other").code == 0
    assert_is_point(load(tmp_path / "other"), load(llama), 0, 4)


# --- places


def test_an_empty_folder_is_a_place(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    (tmp_path / "other").mkdir()
    assert cli("transform", llama, "--index", 0, "--out", tmp_path / "other").code == 0
    assert_is_point(load(tmp_path / "other"), load(llama), 0, 0)


def test_a_folder_inside_the_checkpoint_is_refused(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    folder = tmp_path / "net"
    shutil.copytree(llama, folder)
    result = cli("transform", folder, "--seed", 1, "--index", 2, "--out", folder / "inner")
    assert result.code == 1
    assert "lies inside the checkpoint" in result.error_line
    assert not (folder / "inner").exists()


def test_an_index_that_was_not_read_is_not_copied(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """Its shards are not written, so whoever reads it would look for files that are not there."""
    folder, out = tmp_path / "net", tmp_path / "out"
    shutil.copytree(llama, folder)
    tensors = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
    save_file(tensors, folder / "model.safetensors")
    assert (folder / "model.safetensors.index.json").exists()
    assert cli("transform", folder, "--seed", 1, "--index", 2, "--out", out).code == 0
    assert sorted(path.name for path in out.glob("model*")) == ["model.safetensors"]


@pytest.mark.parametrize("command", ["transform", "canonicalize", "match"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_left_alone(
    llama: Path, tiny: Path, tmp_path: Path, command: str, kind: str, cli: Callable[..., Outcome]
) -> None:
    source = tiny if kind == "file" else llama
    out = tmp_path / "there.safetensors"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "precious").write_text("data")
    before = tree(tmp_path)
    arguments = {"transform": (source, "--index", 0), "canonicalize": (source,), "match": (source, source)}[command]
    for place in (out, source):
        outcome = cli(command, *arguments, "--out", place)
        assert outcome.code == 1
        assert f"{place}: is there already" in outcome.error_line
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.npz", "is written as .safetensors"), ("x", "is written as .safetensors"), ("x.pt", "written as .safetensors")],
)
def test_another_kind_of_file_is_refused(
    tiny: Path, tmp_path: Path, name: str, expected: str, cli: Callable[..., Outcome]
) -> None:
    assert expected in cli("transform", tiny, "--index", 0, "--out", tmp_path / name).error_line
    assert not (tmp_path / name).exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = cli("transform", tiny, "--index", 0, "--out", tmp_path / "file" / "x.safetensors")
    assert outcome.code == 1
    assert "cannot be written (" in outcome.error_line


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path, kind: str) -> None:
    source = write_llama(tmp_path / "net") if kind == "folder" else write_mlp(tmp_path / "net.safetensors", [30, 80, 9])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))

    outcome = finish(spawn("transform", source, "--index", 1, "--out", tmp_path / "o.safetensors", preexec_fn=limit))
    assert outcome.code == 1
    assert "cannot be written (File too large)" in outcome.error_line
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_a_disk_that_is_too_small_is_said_first(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    monkeypatch.setattr(run.shutil, "disk_usage", lambda place: type("usage", (), {"free": 10}))
    assert (
        "the disk is too full" in cli("transform", tiny, "--index", 0, "--out", tmp_path / "x.safetensors").error_line
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--index", "-1"), "--index: expected an integer from 0 to"),
        (("--index", str(sys.maxsize)), "--index: expected an integer from 0 to"),
        (("--index", "0", "--seed", "-1"), "--seed: expected an integer from 0 to 2^64 - 1"),
        (("--index", "0", "--seed", str(1 << 64)), "--seed: expected an integer from 0 to 2^64 - 1"),
    ],
)
def test_points_that_do_not_exist(
    tiny: Path, tmp_path: Path, arguments: tuple[str, ...], expected: str, cli: Callable[..., Outcome]
) -> None:
    assert expected in cli("transform", tiny, *arguments, "--out", tmp_path / "x.safetensors").error_line
    assert not (tmp_path / "x.safetensors").exists()


def test_a_point_that_its_format_cannot_hold(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    params = {name: np.full_like(array, 6e4, np.float16) for name, array in mlp_params(WIDTHS).items()}
    save_file(params, tmp_path / "net.safetensors")
    out = tmp_path / "x.safetensors"
    outcome = cli("transform", tmp_path / "net.safetensors", "--activation", "relu", "--index", 0, "--out", out)
    assert "non-finite values" in outcome.error_line
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_network_that_came_from_nowhere(tmp_path: Path) -> None:
    checkpoint = load("digits-mlp")
    bare = Checkpoint("net", "", checkpoint.params, checkpoint.spec, None, None)
    with pytest.raises(JobError, match="was not read from a file"):
        write_checkpoint(bare, tmp_path / "x.safetensors", lambda names: {})


def test_tensors_of_another_shape(tmp_path: Path, tiny: Path) -> None:
    def wrong(names: Sequence[str]) -> Mapping[str, Any]:
        return {name: np.zeros(3) for name in names}

    with pytest.raises(ValueError, match="expected shape"):
        write_checkpoint(load(tiny), tmp_path / "x.safetensors", wrong)
    assert [path.name for path in tmp_path.iterdir()] == [tiny.name]


# --- representatives


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_points_of_one_orbit_have_one_representative(tmp_path: Path, name: str, cli: Callable[..., Outcome]) -> None:
    point = tmp_path / "point.safetensors"
    assert cli("transform", name, "--seed", 1, "--index", 9, "--out", point).code == 0
    representatives = []
    for number, source in enumerate((name, point)):
        out = tmp_path / f"{number}.safetensors"
        outcome = cli("canonicalize", source, "--out", out)
        assert outcome.code == 0
        assert "every point of the orbit has this representative" in outcome.out
        representatives.append(load(out))
    first, second = representatives
    assert verify(first, samples=3).same
    original, moved = load(name), load(point)
    for key, array in first.params.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(second.params[key], array, rtol=0, atol=2e-4 * scale, err_msg=key)
    weight = "2.weight" if name == "digits-mlp" else "0.weight"
    # Negative control: the points themselves are far apart.
    far = np.abs(np.asarray(moved.params[weight]) - np.asarray(original.params[weight])).max()
    assert far > 0.1 * np.abs(original.params[weight]).max()


def test_ties_are_reported(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    params = mlp_params([3, 4, 2])
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        rows = np.moveaxis(params[name], axis, 0)
        rows[2] = rows[0]
    save_file(params, tmp_path / "net.safetensors")
    out = tmp_path / "x.safetensors"
    outcome = cli("canonicalize", tmp_path / "net.safetensors", "--activation", "gelu", "--out", out)
    assert outcome.code == 0
    assert "not unique: site h0, units 0,2:" in outcome.out


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_a_point_is_matched_with_the_network_that_it_comes_from(
    tmp_path: Path, name: str, cli: Callable[..., Outcome]
) -> None:
    point, out = tmp_path / "point.safetensors", tmp_path / "back.safetensors"
    assert cli("transform", name, "--seed", 4, "--index", 2, "--out", point).code == 0
    outcome = cli("match", name, point, "--out", out)
    assert outcome.code == 0
    line = next(line for line in outcome.out.splitlines() if "distance to" in line)
    before, after = (float(part.split()[0]) for part in line.split(": ")[1].split(" before, "))
    assert before > 1
    assert after < 1e-4 * before
    original, back = load(name), load(out)
    for key, array in original.params.items():
        np.testing.assert_allclose(back.params[key], array, rtol=0, atol=1e-4 * np.abs(array).max() + 1e-6)


def test_a_folder_is_matched(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """bfloat16 rounds the point that is matched, so it comes back to within that."""
    options = ("--symmetries", "hidden,heads")
    assert cli("transform", llama, *options, "--index", 1, "--out", tmp_path / "point").code == 0
    assert cli("match", llama, tmp_path / "point", *options, "--out", tmp_path / "back").code == 0
    back, original = load(tmp_path / "back"), load(llama)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == original.config
    for key, array in original.arrays.items():
        wide = array.astype(np.float64)
        np.testing.assert_allclose(back.arrays[key].astype(np.float64), wide, rtol=0, atol=0.02 * np.abs(wide).max())


def test_networks_that_cannot_be_matched(tmp_path: Path, tiny: Path, cli: Callable[..., Outcome]) -> None:
    other = write_mlp(tmp_path / "other.safetensors", [3, 9, 5, 2])
    line = cli("match", tiny, other, "--out", tmp_path / "x.safetensors").error_line
    assert "expected networks with the same tensors; '0.bias' has the shapes (8,) and (9,)" in line
    tanh = write_mlp(tmp_path / "tanh.safetensors", WIDTHS, "tanh")
    assert "the same symmetry" in cli("match", tiny, tanh, "--out", tmp_path / "x.safetensors").error_line
    assert not (tmp_path / "x.safetensors").exists()


def test_the_written_files_are_plain_safetensors(llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    assert cli("transform", llama, "--index", 1, "--out", tmp_path / "other").code == 0
    for shard in sorted(llama.glob("*.safetensors")):
        old, new = load_file(shard), load_file(tmp_path / "other" / shard.name)
        assert {k: (v.shape, v.dtype) for k, v in old.items()} == {k: (v.shape, v.dtype) for k, v in new.items()}
