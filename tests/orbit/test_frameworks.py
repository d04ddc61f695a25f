# SPDX-License-Identifier: MIT
"""Arrays of other frameworks: torch in, torch out; datasets; whatever converts to NumPy."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from orbit_cases import (
    DTYPES,
    PARAMS,
    SPEC,
    STATE,
    STATE_PARAMS,
    assert_same_bits,
    mlp,
    numpy_dtype,
    tensors_of,
)

import nnsym_fast as nf
from nnsym_fast import specs

COUNT = 20
ORBIT = nf.Orbit(PARAMS, SPEC, seed=1, samples=COUNT)
POINTS = [ORBIT[i] for i in range(COUNT)]


# --- torch


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_in_torch_out(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    spec, params = mlp([3, 40, 9, 2], "float32")
    kind = getattr(torch, dtype)
    orbit = nf.Orbit({name: tensor.to(kind) for name, tensor in tensors_of(params).items()}, spec, seed=4)
    base = {name: array.astype(numpy_dtype(dtype)) for name, array in params.items()}
    expected = nf.Orbit(base, spec, seed=4)[0:50]
    cases = [orbit[0:50], orbit.points(0, 50, out=orbit[0:60]), {n: t.flip(0) for n, t in orbit[49::-1].items()}]
    cases.append({name: torch.stack([orbit[i][name] for i in range(50)]) for name in params})
    for points in cases:
        for name, tensor in points.items():
            assert tensor.dtype == kind
            assert not tensor.requires_grad
            words = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            assert words == np.ascontiguousarray(expected[name]).tobytes()


def test_modules_hand_over_their_state_dict() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3, padding=1),
        torch.nn.BatchNorm1d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6, 3),
    ).eval()
    spec = specs.sequential(module)
    x = torch.randn(7, 2, 6, dtype=torch.float32)
    for state in (module.state_dict(), dict(module.state_dict(keep_vars=True))):
        orbit = nf.Orbit(state, spec)
        point = orbit[3]
        assert not any(tensor.requires_grad for tensor in point.values())
        assert point["1.num_batches_tracked"].dtype == torch.int64
        with torch.no_grad():
            moved = torch.func.functional_call(module, point, x)
            torch.testing.assert_close(moved, module(x), rtol=1e-4, atol=1e-5)


def test_torch_untouched_tensors() -> None:
    torch = pytest.importorskip("torch")
    params = tensors_of(STATE_PARAMS)
    orbit = nf.Orbit(params, STATE)
    shared, copied = orbit.points(0, 5, share=True), orbit.points(0, 5)
    for name, tensor in copied.items():
        assert tensor.dtype == params[name].dtype
        assert torch.equal(shared[name], tensor)
    assert shared["mean"].data_ptr() == params["mean"].data_ptr()
    assert copied["mean"].data_ptr() != params["mean"].data_ptr()
    assert orbit[3]["steps"].shape == ()


def test_torch_layouts() -> None:
    """Transposed, expanded and misaligned tensors are read as they are meant."""
    torch = pytest.importorskip("torch")
    spec, params = mlp([4, 4, 2])
    params["0.weight"] = np.broadcast_to(params["0.weight"][:1], (4, 4)).copy()
    expected = nf.Orbit(params, spec)[0:9]
    tensors = tensors_of(params)
    tensors["2.weight"] = tensors["2.weight"].T.contiguous().T
    tensors["0.weight"] = tensors["0.weight"][:1].expand(4, 4)
    raw = bytearray(b"\0" + params["0.bias"].tobytes())
    tensors["0.bias"] = torch.frombuffer(raw, dtype=torch.float32, offset=1)
    points = nf.Orbit(tensors, spec)[0:9]
    assert_same_bits({name: tensor.numpy() for name, tensor in points.items()}, expected)


def test_torch_errors() -> None:
    torch = pytest.importorskip("torch")
    tensors = tensors_of(PARAMS)
    with pytest.raises(
        TypeError, match=r"params: expected torch tensors only, as '0.weight' is one, but 'x' is a ndarray"
    ):
        nf.Orbit({**tensors, "x": np.ones(3)}, SPEC)
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    with pytest.raises(
        ValueError, match=r"tensor '0.weight': expected a tensor on the CPU, got device meta; .*\.cpu\(\)"
    ):
        nf.Orbit(meta, SPEC)
    with pytest.raises(TypeError, match=r"tensor '0.weight': expected a dense tensor, got layout torch.sparse_coo"):
        nf.Orbit({**tensors, "0.weight": tensors["0.weight"].to_sparse()}, SPEC)
    with pytest.raises(TypeError, match=r"tensor '0.bias': expected one of float32, .* got int64"):
        nf.Orbit({**tensors, "0.bias": torch.zeros(5, dtype=torch.int64)}, SPEC)
    orbit = nf.Orbit(tensors, SPEC)
    out = orbit[0:4]
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.empty((4, 5, 3), np.float32), TypeError, "expected a torch tensor on the CPU, got ndarray"),
        (torch.empty(4, 5, 3, device="meta"), TypeError, "expected a torch tensor on the CPU, got Tensor"),
        (torch.empty(4, 5, 3, dtype=torch.float64), TypeError, "expected dtype torch.float32, got torch.float64"),
        (torch.empty(4, 3, 5).mT, ValueError, "expected an aligned contiguous tensor that needs no gradient"),
        (torch.empty(4, 5, 3, requires_grad=True), ValueError, "expected an aligned contiguous tensor that needs no"),
        (torch.empty(3, 5, 3), ValueError, r"expected shape \(4 or more, 5, 3\), got \(3, 5, 3\)"),
        (out["0.bias"].expand(4, 5), ValueError, "expected shape"),
    ]
    for wrong_buffer, error, message in cases:
        with pytest.raises(error, match=rf"out\['0.weight'\]: {message}"):
            orbit.points(0, 4, out={**out, "0.weight": wrong_buffer})
    with pytest.raises(ValueError, match=r"overlaps tensor '0.bias' of params"):
        nf.Orbit({**tensors, "0.bias": out["0.bias"][2]}, SPEC).points(0, 4, out=out)


# --- datasets


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
def test_a_data_loader_serves_points(workers: int, method: str | None) -> None:
    """Also from forked workers, although the parent has used its threads before."""
    data = pytest.importorskip("torch.utils.data")
    spec, params = mlp([16, 60, 70, 5])
    tensors = tensors_of(params)
    orbit = nf.Orbit(tensors, spec, seed=1, samples=24)
    expected = orbit[:]
    loader = data.DataLoader(orbit.dataset(), batch_size=9, num_workers=workers, multiprocessing_context=method)
    batches = list(loader)
    assert [len(batch["0.bias"]) for batch in batches] == [9, 9, 6]
    for name, tensor in expected.items():
        joined = np.concatenate([batch[name].numpy() for batch in batches])
        np.testing.assert_array_equal(joined, tensor.numpy())


def test_datasets_are_torch_tensors_whatever_came_in() -> None:
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        spec, params = mlp([3, 5, 2], dtype)
        dataset = nf.Orbit(params, spec, seed=1, samples=6).dataset()
        assert isinstance(dataset, torch.utils.data.Dataset)
        assert len(dataset) == 6
        point = dataset[-1]
        assert {tensor.dtype for tensor in point.values()} == {getattr(torch, dtype)}
        expected = nf.Orbit(params, spec, seed=1)[5]
        for name, tensor in point.items():
            np.testing.assert_array_equal(tensor.double().numpy(), expected[name].astype(float))
        with pytest.raises(IndexError):
            dataset[6]
    steps = nf.Orbit(STATE_PARAMS, STATE).dataset()[0]["steps"]
    assert torch.equal(steps, torch.tensor(12))


def test_batches_of_an_index_sampler() -> None:
    """An orbit is random-access: a shuffled loader gives the same networks in another order."""
    data = pytest.importorskip("torch.utils.data")
    sampler = [7, 3, 3, 19]
    loader = data.DataLoader(ORBIT.dataset(), batch_size=2, sampler=sampler)
    rows = np.concatenate([batch["0.weight"].numpy() for batch in loader])
    np.testing.assert_array_equal(rows, np.stack([POINTS[i]["0.weight"] for i in sampler]))


# --- whatever converts to NumPy


class Wrapped:
    """An array of another library: NumPy asks it for one."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array if dtype is None else self.array.astype(dtype)


def test_arrays_of_other_libraries_come_out_as_numpy() -> None:
    points = nf.Orbit({name: Wrapped(array) for name, array in PARAMS.items()}, SPEC, seed=1)[0:COUNT]
    assert_same_bits(points, ORBIT[:])


JAX = """
import jax.numpy as jnp, numpy as np, nnsym_fast as nf
spec = nf.specs.mlp([3, 5, 2])
shapes = nf.specs.shapes(nf.specs.mlp_layers([3, 5, 2]))
for dtype in (jnp.float32, jnp.bfloat16):
    params = {name: jnp.full(shape, 1.25, dtype) for name, shape in shapes.items()}
    points = nf.Orbit(params, spec)[0:9]
    expected = nf.Orbit({name: np.asarray(array) for name, array in params.items()}, spec)[0:9]
    for name, array in points.items():
        assert array.dtype == dtype and array.tobytes() == expected[name].tobytes()
print("equal")
"""


def test_jax_arrays() -> None:
    """In a process of its own: jax warns whoever forks after it."""
    if not importlib.util.find_spec("jax"):
        pytest.skip("no jax")
    done = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
