# SPDX-License-Identifier: MIT
"""Checkpoints: what is written is read back, and nothing damaged, hostile or unfit gets through."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_helpers import Outcome, Params, mlp_params, write_llama, write_mlp
from safetensors.numpy import save_file

from nnsym_fast import specs
from nnsym_fast.job.checkpoint import EXAMPLES, Model, example, load
from nnsym_fast.job.errors import JobError

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

WIDTHS = [3, 8, 5, 2]
Writer = Callable[[Path, Params], None]


def _write_pt(path: Path, params: Params) -> None:
    torch.save({name: torch.from_numpy(array.copy()) for name, array in params.items()}, path)


def _write_old_pt(path: Path, params: Params) -> None:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in params.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Writer] = {
    "net.safetensors": lambda path, params: save_file(params, path),
    "net.npz": lambda path, params: np.savez(path, **params),
    "compressed.npz": lambda path, params: np.savez_compressed(path, **params),
    "net.pt": _write_pt,
    "old.pth": _write_old_pt,
}
formats = pytest.mark.parametrize("name", WRITERS)


@formats
def test_tensors_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    params = mlp_params(WIDTHS)
    WRITERS[name](tmp_path / name, params)
    checkpoint = load(tmp_path / name, activation="relu")
    assert set(checkpoint.params) == set(params)
    for key, array in params.items():
        np.testing.assert_array_equal(checkpoint.params[key], array, strict=True)
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert checkpoint.spec == specs.mlp(WIDTHS)
    assert checkpoint.parameters == sum(array.size for array in params.values())


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_other_storage_formats(tmp_path: Path, dtype: str, suffix: str) -> None:
    params = {name: array.astype(dtype) for name, array in mlp_params(WIDTHS).items()}
    path = tmp_path / f"net.{suffix}"
    tensors = {
        name: torch.from_numpy(array.astype(np.float64)).to(getattr(torch, dtype)) for name, array in params.items()
    }
    if suffix == "pt":
        torch.save(tensors, path)
    else:
        from safetensors.torch import save_file as save_torch

        save_torch(tensors, path)
    checkpoint = load(path, activation="tanh")
    assert checkpoint.dtypes == (dtype,)
    for name, array in params.items():
        np.testing.assert_array_equal(checkpoint.params[name], array)


def test_big_endian_and_fortran_order_become_plain_arrays(tmp_path: Path) -> None:
    params = mlp_params(WIDTHS)
    odd = {name: np.asfortranarray(array).astype(">f4") for name, array in params.items()}
    np.savez(tmp_path / "net.npz", **odd)
    loaded = load(tmp_path / "net.npz", activation="relu").params
    for name, array in params.items():
        assert loaded[name].flags.c_contiguous
        assert loaded[name].dtype.isnative
        np.testing.assert_array_equal(loaded[name], array)


@formats
@pytest.mark.parametrize("part", [0.0, 0.05, 0.5, 0.95])
def test_truncated_files_are_one_clear_line(
    tmp_path: Path, name: str, part: float, cli: Callable[..., Outcome]
) -> None:
    path = tmp_path / name
    WRITERS[name](path, mlp_params([30, 80, 20]))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    for command in (["inspect"], ["verify"], ["sample", "--samples", 4, "--out", tmp_path / "x.zarr"]):
        outcome = cli(command[0], path, "--activation", "relu", *command[1:])
        assert outcome.code == 1
        assert str(path) in outcome.error_line
        assert "cannot be read" in outcome.error_line
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
def test_garbage_is_one_clear_line(tmp_path: Path, suffix: str, cli: Callable[..., Outcome]) -> None:
    path = tmp_path / f"garbage.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "cannot be read" in cli("inspect", path, "--activation", "relu").error_line


@formats
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, name: str, bad: float, cli: Callable[..., Outcome]
) -> None:
    params = mlp_params(WIDTHS)
    params["2.weight"][1, 3] = bad
    WRITERS[name](tmp_path / name, params)
    out = tmp_path / "x.zarr"
    line = cli("sample", tmp_path / name, "--activation", "relu", "--samples", 3, "--out", out).error_line
    assert "'2.weight' holds 1 non-finite values" in line
    assert "(1, 3)" in line
    assert not out.exists()


class _Attack:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "legacy torch", "raw pickle", "beside tensors", "npz"])
def test_a_malicious_file_does_not_run(tmp_path: Path, kind: str, cli: Callable[..., Outcome]) -> None:
    struck, path = tmp_path / "struck", tmp_path / "evil.pt"
    attack = _Attack(struck)
    if kind == "torch":
        torch.save(attack, path)
    elif kind == "legacy torch":
        torch.save(attack, path, _use_new_zipfile_serialization=False)
    elif kind == "raw pickle":
        path.write_bytes(pickle.dumps(attack))
    elif kind == "beside tensors":
        torch.save({"0.weight": torch.ones(2, 2), "extra": attack}, path)
    else:
        path = tmp_path / "evil.npz"
        np.savez(path, weight=np.array([attack], dtype=object))
    outcome = cli("inspect", path, "--activation", "relu")
    assert outcome.code == 1
    assert str(path) in outcome.error_line
    assert not struck.exists()
    # The test can fail: unpickling without protection does run it.
    if kind == "raw pickle":
        pickle.loads(path.read_bytes())
        assert struck.exists()


def test_a_pickled_module_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(JobError, match=r"code from a file is never run; save network\.state_dict\(\)"):
        load(tmp_path / "module.pt", activation="relu")


def test_a_zip_bomb_of_another_kind_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays here")
    with pytest.raises(JobError, match="not a tensor"):
        load(tmp_path / "x.npz", activation="relu")


def test_state_dict_inside_a_training_checkpoint(tmp_path: Path) -> None:
    state = {name: torch.from_numpy(array) for name, array in mlp_params(WIDTHS).items()}
    torch.save({"epoch": 3, "state_dict": state, "nnsym_fast.spec": specs.mlp(WIDTHS).to_json()}, tmp_path / "ckpt.pt")
    assert load(tmp_path / "ckpt.pt").spec == specs.mlp(WIDTHS)
    torch.save({"epoch": 3, **state}, tmp_path / "mixed.pt")
    with pytest.raises(JobError, match="entry 'epoch' is a int, not a tensor"):
        load(tmp_path / "mixed.pt", activation="relu")


# --- the symmetry


def test_spec_from_metadata_option_layers_and_activation(tmp_path: Path) -> None:
    path = write_mlp(tmp_path / "net.safetensors", WIDTHS, "relu")
    assert load(path).spec == specs.mlp(WIDTHS, "relu")
    (tmp_path / "spec.json").write_text(specs.mlp(WIDTHS, "gelu").to_json())
    assert load(path, spec=tmp_path / "spec.json").spec == specs.mlp(WIDTHS, "gelu")
    assert load(path, activation="tanh").spec == specs.mlp(WIDTHS, "tanh")
    layers = json.dumps(specs.mlp_layers(WIDTHS, "tanh"))
    save_file(mlp_params(WIDTHS), tmp_path / "layers.safetensors", {"nnsym_fast.model": layers})
    assert load(tmp_path / "layers.safetensors").spec == specs.mlp(WIDTHS, "tanh")


def test_npz_carries_metadata_too(tmp_path: Path) -> None:
    model = json.dumps(specs.mlp_layers(WIDTHS, "tanh"))
    texts = {"nnsym_fast.spec": specs.mlp(WIDTHS, "tanh").to_json(), "nnsym_fast.model": model}
    np.savez(tmp_path / "net.npz", **mlp_params(WIDTHS), **{key: np.array(text) for key, text in texts.items()})
    checkpoint = load(tmp_path / "net.npz")
    assert checkpoint.spec == specs.mlp(WIDTHS, "tanh")
    assert checkpoint.probes is not None
    assert checkpoint.probes.shape == (64, 3)


def test_a_missing_spec_names_the_three_remedies(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    save_file(mlp_params(WIDTHS), tmp_path / "bare.safetensors")
    line = cli("sample", tmp_path / "bare.safetensors", "--samples", 3, "--out", tmp_path / "x.zarr").error_line
    for remedy in ("--spec", "--activation", "nnsym_fast.spec"):
        assert remedy in line


def test_a_single_file_of_a_transformer_is_recognised(tmp_path: Path) -> None:
    """By its tensors alone as far as they tell; by a config.json beside it."""
    folder = write_llama(tmp_path / "llama", dtype="float32")
    assert load(folder / "model.safetensors").spec == load(folder).spec
    (folder / "config.json").unlink()
    with pytest.raises(JobError, match=r"--spec spec\.json.*do not tell.* number of heads"):
        load(folder / "model.safetensors")
    sites = load(folder / "model.safetensors", symmetries=["hidden"]).spec.sites
    assert list(sites) == ["h0.mlp", "h1.mlp", "h2.mlp"]
    rotated = load(folder / "model.safetensors", symmetries=["residual"], rotate=True, fold_norms=True)
    assert set(np.asarray(rotated.params["model.norm.weight"])) == {1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not json", "not a spec"),
        ('{"version": 99}', "not a spec"),
        (specs.mlp([3, 9, 5, 2]).to_json(), r"does not fit the tensors: tensor '0.bias'.* axis 0: expected length 9"),
        (specs.mlp([3, 8, 2]).to_json(), "does not fit"),
    ],
)
def test_a_spec_that_is_wrong_or_does_not_fit(tmp_path: Path, tiny: Path, text: str, expected: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(JobError, match=expected):
        load(tiny, spec=tmp_path / "spec.json")


def test_a_spec_file_that_is_not_there(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(JobError, match=r"none\.json: the spec cannot be read \(No such file"):
        load(tiny, spec=tmp_path / "none.json")


def test_plain_mlps_of_other_names_in_natural_order(tmp_path: Path) -> None:
    widths = [4] * 12 + [2]  # fc2 must come before fc10
    values = list(mlp_params(widths).values())
    names = [f"net.fc{k}.{part}" for k in range(12) for part in ("weight", "bias")]
    del values[1], names[1]  # and the first layer has no bias
    np.savez(tmp_path / "net.npz", **dict(zip(names, values, strict=True)))
    checkpoint = load(tmp_path / "net.npz", activation="tanh")
    assert checkpoint.model is not None
    linear = [layer for layer in checkpoint.model.layers if layer["type"] == "Linear"]
    assert [layer["name"] for layer in linear] == [f"net.fc{k}" for k in range(12)]
    assert [layer["bias"] for layer in linear] == [False] + [True] * 11
    assert checkpoint.spec.dimension == 0
    assert len(checkpoint.spec.sites) == 11


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"conv.weight": np.ones((2, 2, 3, 3), np.float32)}, "is for plain MLPs"),
        ({"a.weight": np.ones((2, 3), np.float32), "table": np.ones((2, 2), np.float32)}, "is for plain MLPs"),
        ({"a.weight": np.ones((4, 3), np.float32), "b.weight": np.ones((2, 5), np.float32)}, "chain of layers"),
        ({"a.weight": np.ones((2, 3), np.complex64)}, "expected real numbers"),
        ({"a.weight": np.ones((0, 3), np.float32)}, "has no elements"),
    ],
)
def test_networks_that_are_no_plain_mlp(tmp_path: Path, params: Params, expected: str) -> None:
    np.savez(tmp_path / "net.npz", **params)
    with pytest.raises(JobError, match=expected):
        load(tmp_path / "net.npz", activation="relu")


def test_an_unknown_activation_names_the_known_ones(tiny: Path) -> None:
    with pytest.raises(JobError, match=r"--activation wobble: .*relu.*tanh"):
        load(tiny, activation="wobble")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("missing.safetensors", "no such file"), ("digits-mpl", "no such file"), (".", "is a directory")],
)
def test_paths_that_are_no_file(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(JobError, match=f"{expected}.*digits-mlp"):
        load(tmp_path / name)


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(JobError, match=r"unknown kind of checkpoint; expected one of \.safetensors, \.npz, \.pt"):
        load(tmp_path / "net.h5", activation="relu")


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [(("float64", "float16"), "float16 storage beside float64"), (("int32", "float32"), "int32")],
)
def test_dtypes_that_the_kernels_do_not_take(tmp_path: Path, dtypes: tuple[str, str], expected: str) -> None:
    params = {name: array.astype(dtypes[name[0] != "0"]) for name, array in mlp_params(WIDTHS).items()}
    np.savez(tmp_path / "net.npz", **params)
    with pytest.raises(JobError, match=expected):
        load(tmp_path / "net.npz", activation="relu").orbit(0)


# --- the model and the probes


@pytest.mark.parametrize("text", ["nonsense", "{}", '{"layers": 3}', '[{"type": "Linear"}]', '{"layers": [1]}'])
def test_malformed_models_are_errors(tmp_path: Path, text: str) -> None:
    save_file(mlp_params(WIDTHS), tmp_path / "net.safetensors", {"nnsym_fast.model": text})
    with pytest.raises(JobError):
        load(tmp_path / "net.safetensors")


def test_model_round_trip() -> None:
    model = Model(tuple(specs.mlp_layers(WIDTHS)), (3,), {"accuracy": 0.5})
    assert Model.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_probe_files(tmp_path: Path, tiny: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal((7, 3))
    np.save(tmp_path / "x.npy", inputs)
    np.savez(tmp_path / "x.npz", inputs)
    for name in ("x.npy", "x.npz"):
        loaded = load(tiny, probes=tmp_path / name).probes
        assert loaded is not None
        np.testing.assert_array_equal(loaded, inputs)
    np.save(tmp_path / "wrong.npy", inputs[:, :2])
    with pytest.raises(JobError, match=r"expected probe inputs of shape \(batch, 3\), got \(7, 2\)"):
        load(tiny, probes=tmp_path / "wrong.npy")
    (tmp_path / "bad.npy").write_bytes(b"nonsense")
    with pytest.raises(JobError, match="probe inputs cannot be read"):
        load(tiny, probes=tmp_path / "bad.npy")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_shipped_networks(name: str) -> None:
    checkpoint = load(name)
    assert checkpoint.name == example(name).name
    assert checkpoint.model is not None
    assert checkpoint.model.notes["accuracy"] > 0.96
    assert checkpoint.probes is not None
    assert checkpoint.probes.shape == (64, *(checkpoint.model.input_shape or ()))
    assert checkpoint.spec == specs.from_layers(list(checkpoint.model.layers))
    assert example(name).stat().st_size < 300_000


def test_an_unknown_example() -> None:
    with pytest.raises(JobError, match="digits-mlp"):
        example("mnist")
