# SPDX-License-Identifier: MIT
"""Networks and dtypes that the tests of the orbit share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from tolerances import STORAGE

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast._native import cpu
from nnsym_fast.groups import Monomial
from nnsym_fast.symmetry import SymmetrySpec

Array = npt.NDArray[Any]
Params = dict[str, Array]

DTYPES = ("float32", "float64", "bfloat16", "float16")
COUNTS = (1, 2, 3, 7, 8, 9, 17, 40)
"""Numbers of elements: below and above what a kernel takes at once."""

LANES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)
"""Lengths around the lanes of every vector, of one or two vectors and of a panel of rows."""


@contextmanager
def any_isa() -> Iterator[list[str]]:
    """The instruction sets of this machine, for property tests, which cannot use the fixture; restored afterwards."""
    before = cpu.isa()
    try:
        yield list(cpu.isas())
    finally:
        cpu.select_isa(before)


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def cast(array: Array, dtype: str) -> Array:
    """Rounded to nearest even by NumPy or ml_dtypes; overflow to infinity is meant."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(array).astype(numpy_dtype(dtype))


def bits(array: Array) -> Array:
    """The array as unsigned integers, every NaN as the same one."""
    array = np.ascontiguousarray(array)
    words = array.view(f"u{array.dtype.itemsize}").copy()
    words[np.isnan(array)] = np.iinfo(words.dtype).max
    return words


def assert_same_bits(a: Mapping[str, Array], b: Mapping[str, Array], label: str = "") -> None:
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(bits(a[name]), bits(b[name]), err_msg=f"{label} {name}")


def assert_rounded(value: Array, exact: Array, dtype: str, rtol: float) -> None:
    """``value`` of a storage type is ``exact`` up to a relative error and half of the smallest subnormal."""
    assert value.dtype == numpy_dtype(dtype)
    assert value.shape == exact.shape
    limits = STORAGE[dtype]
    value = value.astype(np.float64)
    overflows = np.abs(exact) * (1 + rtol) > limits.largest
    assert np.all(np.abs(value[overflows]) >= limits.largest * (1 - rtol))
    error = np.abs(np.where(overflows, 0, value - exact))
    allowed = rtol * np.abs(exact) + limits.smallest / 2 * 1.001
    assert np.all(error <= allowed), f"{(error / allowed).max():.2f} of the tolerance"


def mlp(
    widths: Sequence[int], dtype: str = "float32", activation: str = "relu", seed: int = 0
) -> tuple[SymmetrySpec, Params]:
    """A spec and He-initialised parameters."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in specs.shapes(specs.mlp_layers(list(widths), activation)).items():
        fan = shape[1] if len(shape) == 2 else 100
        params[name] = cast(rng.standard_normal(shape) * (2 / fan) ** 0.5, dtype)
    return specs.mlp(list(widths), activation), params


SPEC, PARAMS = mlp([3, 5, 2])
"""The smallest network with every kind of leg."""

STATE = SymmetrySpec(
    {"h": Monomial(3)}, {"w": ("h", "h*"), "mean": (None, None), "steps": (), "none": (None,)}, state=["mean", "steps"]
)
STATE_PARAMS: Params = {
    "w": np.arange(9.0).reshape(3, 3),
    "mean": np.arange(8, dtype=np.int16).reshape(2, 4),
    "steps": np.array(12, dtype=np.int64),
    "none": np.zeros(0, dtype=bool),
}
"""A network of which most tensors carry no leg, in dtypes that no kernel takes."""


def tensors_of(params: Mapping[str, Array]) -> dict[str, Any]:
    """Torch tensors; the test is skipped without torch."""
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(array.copy()) for name, array in params.items()}


def wrong(value: object) -> Any:
    """A value of the wrong type, hidden from the type checker."""
    return value


def repeated(params: Mapping[str, Array], n: int) -> Params:
    return {name: np.repeat(array[None], n, axis=0) for name, array in params.items()}


COUNT = 20
ORBIT = nf.Orbit(PARAMS, SPEC, seed=1, samples=COUNT)
POINTS = [ORBIT[i] for i in range(COUNT)]


def stacked(points: Sequence[Params]) -> Params:
    return {
        name: np.stack([point[name] for point in points]) if points else np.empty((0, *array.shape), array.dtype)
        for name, array in PARAMS.items()
    }
