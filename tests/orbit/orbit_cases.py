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
from tolerances import ARITHMETIC, EPSILON, STORAGE

import nnsym_fast as nf
from nnsym_fast import reference, specs
from nnsym_fast._native import cpu
from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import Affine, GeneralLinear, Group, Heads, Monomial, Orthogonal, Permutation
from nnsym_fast.legs import axis_legs
from nnsym_fast.symmetry import Fold, Leg, Reader, SymmetrySpec

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


def magnitude(elements: Mapping[str, Any]) -> dict[str, SiteElements]:
    """Absolute values of all parts: their action bounds the sums of absolute products of another action."""
    return {
        name: SiteElements(*(p if p is None or p.dtype == np.int32 else np.abs(p) for p in vars(site).values()))
        for name, site in elements.items()
    }


def sums_of(spec: SymmetrySpec, elements: Mapping[str, Any], params: Params, stacked: bool = False) -> Params:
    """Sums of absolute products, in float64: what errors of the action are relative to."""
    absolute = {name: np.abs(array.astype(np.float64)) for name, array in params.items() if spec.touched(name)}
    rest = {name: array for name, array in params.items() if not spec.touched(name)}
    return reference.act(spec, magnitude(elements), absolute | rest, stacked)


def terms(spec: SymmetrySpec, name: str) -> int:
    """Roundings of one entry: a sum of m products on a dense leg (Higham 2002, section 3.1) and the shift; a leg of
    another kind has a power, its reciprocal and a product."""
    legs = [leg for axis in spec.legs[name] for leg in axis_legs(axis)]
    groups = [spec.sites[leg.site] for leg in legs]
    return 2 + sum(group.head_size + 2 if group.dense else 4 for group in groups)


def assert_acts(
    spec: SymmetrySpec, elements: Elements, params: Params, moved: Params, stacked: bool = False, arithmetic: str = ""
) -> None:
    """``moved`` is the action of ``elements`` on ``params``: against the reference in float64, entry by entry.

    Within one epsilon of the arithmetic per rounding, relative to the sum of absolute products, and half an ulp of the
    storage.
    """
    wide = {name: array.astype(np.float64) if spec.touched(name) else array for name, array in params.items()}
    exact, sums = reference.act(spec, elements, wide, stacked), sums_of(spec, elements, params, stacked)
    assert list(moved) == list(params)
    for name, array in moved.items():
        dtype = params[name].dtype.name
        assert array.dtype == params[name].dtype
        assert array.shape == exact[name].shape
        if not spec.touched(name):
            np.testing.assert_array_equal(array, exact[name])
            continue
        kind = arithmetic or ARITHMETIC[dtype]
        allowed = terms(spec, name) * EPSILON[kind] * sums[name] + STORAGE[dtype].smallest / 2 * 1.001
        if kind != dtype:
            allowed = allowed + EPSILON[dtype] / 2 * (np.abs(exact[name]) + allowed)
        finite = np.abs(exact[name]) + allowed <= STORAGE[dtype].largest
        error = np.abs(np.where(finite, array.astype(np.float64) - np.where(finite, exact[name], 0), 0))
        assert np.all(error <= allowed), f"{name}: {(error / allowed).max():.2f} of the tolerance"


def elements_of(spec: SymmetrySpec, params: Params, count: int, seed: int = 0, start: int = 0) -> Elements:
    """Elements in the type of the arithmetic."""
    wide = any(params[name].dtype == np.float64 and spec.touched(name) for name in params)
    return spec.sample(count, seed, start, dtype="float64" if wide else "float32")


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


QUERIES = Heads(2, Permutation(3), tie="a")


def attention(order: Group = QUERIES, tie: str = "a") -> SymmetrySpec:
    """Two key-value heads of four units, with three query heads each."""
    copies = {"copies": 3, "order": "q"}
    return SymmetrySpec(
        {
            "qk": Heads(2, Affine(GeneralLinear(4)), tie=tie),
            "vo": Heads(2, GeneralLinear(4), tie=tie),
            "q": order,
            "residual": Orthogonal(5),
        },
        {
            "q": (Leg("qk", dual=True, **copies), "residual*"),
            "k": ("qk", "residual*"),
            "v": ("vo", "residual*"),
            "o": ("residual", Leg("vo", dual=True, **copies)),
            "qkv.bias": ([(24, Leg("qk", dual=True, **copies)), (8, "qk+"), (8, "vo")],),
            "norm": (None,),
        },
        folds=[Fold("norm", (Reader("q", 1, "qkv.bias"), Reader("k", 1)), offset=1.0)],
        absent={"biases": "the norms have none"},
    )


def attention_params(dtype: str) -> Params:
    """Random tensors of :func:`attention`, whose norm is folded: it stores gains less one."""
    rng, spec = np.random.default_rng(0), attention()
    params = {
        name: cast(rng.standard_normal([spec.axis_length(axis) or 5 for axis in axes]), dtype)
        for name, axes in spec.legs.items()
    }
    return params | {"norm": np.zeros_like(params["norm"])}


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
