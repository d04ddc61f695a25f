# SPDX-License-Identifier: MIT
"""Tensors in their files: what the header says is what the library of the format reads, and nothing damaged passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_helpers import mlp_params
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nnsym_fast.job import lazy, readers
from nnsym_fast.job.checkpoint import check_finite
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.lazy import FileTensor, LazyTensor, header_of, open_safetensors, pieces

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = [dtype for dtype in lazy.DTYPES.values() if dtype != "complex64"]


def several() -> dict[str, np.ndarray]:
    """Every dtype; three bytes first, so that what follows is not aligned."""
    random = np.random.default_rng(0)
    arrays = {"a odd": np.arange(3, dtype=np.uint8), "scalar": np.array(2.5), "empty": np.zeros((0, 3), "float32")}
    return arrays | {dtype: (7 * random.standard_normal((5, 3))).astype(dtype) for dtype in DTYPES}


def packed(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    return header_of(tensors, metadata) + b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(several(), path, {"key": "text"})
    opened = readers.safetensors(path)
    expected = load_file(path)
    assert set(opened.tensors) == set(expected)
    assert opened.metadata == {"key": "text"}
    assert opened.nbytes == path.stat().st_size
    for name, array in expected.items():
        tensor = opened.tensors[name]
        assert (tensor.shape, tensor.dtype, tensor.ndim) == (array.shape, array.dtype, array.ndim)
        assert (tensor.size, tensor.nbytes) == (array.size, array.nbytes)
        if array.size:
            np.testing.assert_array_equal(tensor.load(), array, strict=True)


def test_numbers_that_are_not_aligned(tmp_path: Path) -> None:
    """The library orders tensors by the size of their numbers; other programs may not."""
    path = tmp_path / "x.safetensors"
    tensors = {name: array for name, array in several().items() if array.size}
    path.write_bytes(packed(tensors, {}))
    opened = readers.safetensors(path)
    assert any(tensor.offset % tensor.dtype.itemsize for tensor in opened.tensors.values())
    for name, array in tensors.items():
        np.testing.assert_array_equal(opened.tensors[name].load(), array, strict=True)


def test_a_header_that_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = mlp_params([3, 8, 2])
    path.write_bytes(packed(tensors, {"key": "text"}))
    with safe_open(path, framework="numpy") as opened:
        assert opened.metadata() == {"key": "text"}
        for name, array in tensors.items():
            np.testing.assert_array_equal(opened.get_tensor(name), array, strict=True)


def test_arrays_are_read_only_and_let_go_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((1000, 1000), "float32")}, path)
    array = readers.safetensors(path).tensors["a"].load()
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 2
    assert str(path) in Path("/proc/self/maps").read_text()
    del array
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_lazy_tensor_converts_like_an_array(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6.0).reshape(2, 3)}, path)
    tensor = readers.safetensors(path).tensors["a"]
    assert isinstance(tensor, LazyTensor)
    np.testing.assert_array_equal(np.asarray(tensor), [[0, 1, 2], [3, 4, 5]])
    assert np.asarray(tensor, dtype="float32").dtype == np.float32
    with pytest.raises(NotImplementedError):
        LazyTensor((2,), "float32").load()


DATA = packed(mlp_params([3, 8, 2]), {"key": "text"})


@given(length=st.integers(0, len(DATA) - 1))
def test_no_truncated_file_passes(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(DATA[:length])
    with pytest.raises(JobError, match="truncated, damaged") as caught:
        readers.safetensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_in_use_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(DATA)
    tensors = readers.safetensors(path).tensors
    path.write_bytes(DATA[:-200])
    with pytest.raises(JobError, match="has become shorter"):
        tensors["2.bias"].load()


def header(edit: Callable[[dict[str, Any]], Any], extra: int = 0) -> bytes:
    """A file of one tensor of 24 bytes whose header was edited."""
    entries: dict[str, Any] = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    entries = edit(entries) or entries
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(24 + extra)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "should have 0 bytes"),
        (b"\xff" * 8 + b"{}", "the file has 10"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "not JSON"),
        ((100_001).to_bytes(8, "little") + b"[" * 100_001, "not JSON"),
        (header(lambda e: {"a": 3}), "malformed entry"),
        (header(lambda e: e["a"].pop("shape") and None), "malformed entry"),
        (header(lambda e: e["a"].update(shape=[2, -3])), "malformed entry"),
        (header(lambda e: e["a"].update(shape=[2, True])), "malformed entry"),
        (header(lambda e: e["a"].update(data_offsets=[24, 0])), "malformed entry"),
        (header(lambda e: e["a"].update(data_offsets=[0, 24, 30])), "malformed entry"),
        (header(lambda e: e["a"].update(shape=[2, 4])), "takes 24 bytes, expected 32"),
        (header(lambda e: e["a"].update(data_offsets=[4, 28])), "begins at byte 4"),
        (header(lambda e: e.update(b=e["a"])), "begins at byte 0 of the data, expected 24"),
        (header(lambda e: e.update(__metadata__={"n": 3})), "metadata are not texts"),
        (header(lambda e: None, extra=1), "should have 24 bytes, 25 are there"),
        (header(lambda e: e["a"].update(dtype="F8_E4M3")), "stored as F8_E4M3; quantised files"),
        (header(lambda e: e["a"].update(dtype=None)), "stored as None"),
    ],
)
def test_damaged_headers(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(JobError, match=expected):
        readers.safetensors(path)


def test_a_tensor_named_twice(tmp_path: Path) -> None:
    entry = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    text = b"{" + entry + b", " + entry + b"}"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(JobError, match="names an entry twice"):
        readers.safetensors(tmp_path / "x.safetensors")


def test_bfloat16_asks_for_its_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    asked = []
    save_file({"a": np.ones(3, "float32")}, path)
    open_safetensors(path, asked.append)
    assert asked == []
    save_file({"a": np.ones(3, ml_dtypes.bfloat16)}, path)
    open_safetensors(path, asked.append)
    assert asked == [path]


def test_pieces_are_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "PIECE", 7)
    array = np.arange(60).reshape(3, 4, 5)
    assert [piece.size for piece in pieces(array)] == [7] * 8 + [4]
    np.testing.assert_array_equal(np.concatenate(list(pieces(array))), array.ravel())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_across_pieces(monkeypatch: pytest.MonkeyPatch, dtype: str, bad: float) -> None:
    monkeypatch.setattr(lazy, "PIECE", 16)
    largest = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38, "float64": 1.7e308}[dtype]
    array = np.full((9, 11), -largest, np.float64).astype(dtype)
    check_finite(Path("x"), "a", array)
    array[4, 5] = array[8, 10] = bad
    with pytest.raises(JobError, match=r"'a' holds 2 non-finite values .* the first at \(4, 5\)"):
        check_finite(Path("x"), "a", array)


def test_a_file_tensor_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(np.arange(5, dtype="<i4").tobytes())
    np.testing.assert_array_equal(FileTensor(tmp_path / "raw", 4, (2, 2), "int32").load(), [[1, 2], [3, 4]])
