# SPDX-License-Identifier: MIT
"""Dense elements and their action by the CUDA kernels, against the reference in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from orbit_cases import (
    DTYPES,
    Params,
    assert_acts,
    assert_same_bits,
    cast,
    elements_of,
    numpy_dtype,
    repeated,
)
from orbit_strategies import Case, dense_cases
from test_dense_elements import accuracy, accurate_normals, groups_of, heads_of, longest
from test_dense_kernels import attention_with, random_params
from tolerances import EPSILON, STORAGE

import nnsym_fast as nf
from nnsym_fast import _device, reference
from nnsym_fast._device import dense
from nnsym_fast._native import cuda_emulated
from nnsym_fast._program import Program
from nnsym_fast.elements import SiteElements
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Orthogonal,
    RotaryCommutant,
    SpecialLinear,
    Translation,
)
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

Array = npt.NDArray[Any]
Tensor = torch.Tensor

SAMPLES = 3
START = 2**64 - SAMPLES


@pytest.fixture(autouse=True, scope="module")
def _accurate() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.dense, "normals", accurate_normals)
        yield


def to_tensor(array: Array, device: torch.device) -> Tensor:
    if array.dtype == numpy_dtype("bfloat16"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(array.copy()).to(device)


def to_array(tensor: Tensor) -> Array:
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return tensor.numpy()


def drawn(group: Group, dtype: str, device: torch.device, count: int = SAMPLES, start: int = START) -> list[Tensor]:
    like = torch.empty(0, device=device)
    matrices = dense.draw_matrices(group, 3, count, 5, start, 1, dtype, like) if group.dense else ()
    shifts = (dense.draw_shift(group, 3, count, 5, start, 1, dtype, like),) if group.shifted else ()
    return [*matrices, *shifts]


def assert_draws(group: Group, dtype: str, device: torch.device, count: int = SAMPLES) -> None:
    expected = reference.sample_site(group, count, 5, START, 3)
    parts = [part for part in (expected.matrix, expected.inverse, expected.shift) if part is not None]
    for tensor, exact in zip(drawn(group, dtype, device, count), parts, strict=True):
        array = to_array(tensor)
        assert array.shape == exact.shape
        assert array.dtype == dtype
        if exact.ndim == 2:
            np.testing.assert_allclose(array, exact, rtol=8 * EPSILON[dtype])
        else:
            error = np.abs(array - exact) / longest(exact)
            assert error.max() <= accuracy(group, dtype), f"{group}: {error.max() / EPSILON[dtype]:.1f} epsilon"
    if isinstance(group, Orthogonal):
        matrix, inverse = drawn(group, dtype, device, count)
        assert torch.equal(matrix.mT, inverse), "in every bit"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [*range(1, 10), 15, 16, 17, 29, 31, 32, 33, 63, 65])
def test_every_group_and_size(device: torch.device, size: int, dtype: str) -> None:
    for group in groups_of(size) + (heads_of(size) if size in (1, 3, 8, 16) else []):
        assert_draws(group, dtype, device, SAMPLES if size < 40 else 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [66, 100, 129, 230, 260])
def test_matrices_of_blocks_of_threads(device: torch.device, size: int, dtype: str) -> None:
    """In float64 the vectors of the last two sizes come in parts."""
    groups: list[Group] = [Orthogonal(size), Orthogonal(size, keeps_mean=True), SpecialLinear(size, 0.3)]
    for group in groups if size < 128 else groups[:1]:
        assert_draws(group, dtype, device, 1)
    assert_draws(RotaryCommutant(2 * size, "interleaved"), dtype, device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 5, 70])
def test_large_matrices_are_drawn_alike(
    device: torch.device, size: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        DENSE_LARGEST = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

    module = _device.module()
    monkeypatch.setattr(_device, "module", Module)
    for group in groups_of(size) + heads_of(size):
        if size < 64 or group.heads < 4:
            assert_draws(group, dtype, device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slices_of_a_sequence_agree(device: torch.device, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where memory for a part at a time is left, and whatever the order of threads."""
    groups = [Orthogonal(5), Heads(3, SpecialLinear(7)), GeneralLinear(33), Orthogonal(9, keeps_mean=True)]
    for group in groups:
        whole = drawn(group, dtype, device, 5, 100)
        single = [drawn(group, dtype, device, 1, 100 + k) for k in range(5)]
        for number, part in enumerate(whole):
            assert torch.equal(part, torch.cat([one[number] for one in single]))
        monkeypatch.setattr(dense, "WORKSPACE_BYTES", 1)
        for ours, theirs in zip(drawn(group, dtype, device, 5, 100), whole, strict=True):
            assert torch.equal(ours, theirs)
        monkeypatch.undo()
        assert [part.shape[0] for part in drawn(group, dtype, device, 0)] == [0, 0]
        if device.type == "cpu":
            for order in (1, 7):
                with _device.emulated(order):
                    for ours, theirs in zip(drawn(group, dtype, device, 5, 100), whole, strict=True):
                        assert torch.equal(ours, theirs)


# --- the action


def on_device(elements: Mapping[str, SiteElements], device: torch.device) -> dict[str, SiteElements]:
    return {
        name: SiteElements(*(None if part is None else to_tensor(part, device) for part in vars(site).values()))
        for name, site in elements.items()
    }


def moved_by(
    spec: SymmetrySpec,
    elements: Mapping[str, SiteElements],
    params: Params,
    count: int,
    device: torch.device,
    stacked: bool = False,
) -> Params:
    """Tensors all of whose legs are dense, through the passes of the device; others as the CPU moves them."""
    first = 1 if stacked else 0
    signature = tuple((name, array.shape[first:], array.dtype.name) for name, array in params.items())
    program = Program(spec, signature)
    targets = [target for target in program.targets if not target.staged]
    tensors = {name: to_tensor(array, device) for name, array in params.items()}
    sources = {
        target.name: (tensors[target.name], params[target.name].nbytes // count if stacked else 0, target.storage)
        for target in targets
    }
    results = {
        target.name: torch.full((count, *target.shape), torch.nan, dtype=tensors[target.name].dtype, device=device)
        for target in targets
    }
    sites = on_device(elements, device)
    dense.run(spec, targets, sites, count, sources, results, program.dtype)
    if device.type == "cpu":
        for order in (1, 7):
            again = {name: torch.empty_like(result) for name, result in results.items()}
            with _device.emulated(order):
                dense.run(spec, targets, sites, count, sources, again, program.dtype)
            for name, result in results.items():
                assert to_array(result).tobytes() == to_array(again[name]).tobytes(), "a race"
    others = nf.act(spec, elements, params, stacked=stacked)
    return {name: to_array(results[name]) if name in results else others[name] for name in params}


def assert_moves(spec: SymmetrySpec, params: Params, count: int, device: torch.device) -> None:
    elements = elements_of(spec, params, count)
    assert_acts(spec, elements, params, moved_by(spec, elements, params, count, device))
    stack = {name: np.stack([np.roll(w, k) if w.size else w for k in range(count)]) for name, w in params.items()}
    assert_acts(spec, elements, stack, moved_by(spec, elements, stack, count, device, stacked=True), stacked=True)


def network(a: Group, b: Group) -> SymmetrySpec:
    return SymmetrySpec(
        {"a": a, "b": b},
        {
            "rows": ("a", None),
            "columns": (None, "a*"),
            "both": ("a", "b*"),
            "bias": ("a",),
            "middle": (None, "b", None),
            "outer two": ("a*", None, "b"),
            "flat": (None, Leg("b", dual=True, repeat=3)),
        },
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "other", "free"), [(1, 3, (5, 3)), (4, 8, (4, 8)), (7, 16, (3, 130)), (32, 5, (6,)), (36, 33, (129, 2))]
)
def test_sizes_around_the_tiles(device: torch.device, dtype: str, size: int, other: int, free: tuple[int, ...]) -> None:
    spec = network(GeneralLinear(size, 0.2), Orthogonal(other))
    assert_moves(spec, random_params(spec, dtype, free), 2, device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [65, 300])
def test_sizes_of_several_tiles(device: torch.device, dtype: str, size: int) -> None:
    spec = SymmetrySpec({"a": Orthogonal(size)}, {"rows": ("a", None), "columns": (None, "a*"), "bias": ("a",)})
    assert_moves(spec, random_params(spec, dtype, (5,)), 1, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tie", ["a", ""])
@pytest.mark.parametrize("size", [4, 9])
def test_grouped_queries(device: torch.device, dtype: str, size: int, tie: str) -> None:
    """Copies, orders of heads, segments, shifts."""
    spec = attention_with(GeneralLinear(size, 0.2), tie)
    assert_moves(spec, random_params(spec, dtype), 2, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [Translation(9), Heads(3, Translation(4)), Affine(Orthogonal(9))], ids=repr)
def test_shifts(device: torch.device, dtype: str, group: Group) -> None:
    size = group.size
    spec = SymmetrySpec(
        {"a": group},
        {
            "bias": ("a+",),
            "linear": ("a",),
            "reader": ("a*", None),
            "cut": (Segments(((2, None), (size, Leg("a", affine=True)), (size, Leg("a", affine=True)))),),
        },
    )
    params = random_params(spec, dtype)
    assert_moves(spec, params, 3, device)
    elements = elements_of(spec, params, 3)
    zeros = {name: np.zeros_like(array) for name, array in params.items()}
    assert elements["a"].shift is not None
    still = moved_by(spec, elements, zeros, 3, device)["bias"]
    assert_same_bits({"bias": still}, {"bias": cast(elements["a"].shift, dtype)})


@given(dense_cases())
@settings(max_examples=15, derandomize=True)
def test_random_specs(case: Case) -> None:
    """Those of their tensors that have dense legs alone."""
    params, count = case.params, min(case.count, 2)
    assume(sum(array.size for array in params.values()) < 10_000)
    elements = elements_of(case.spec, params, count, case.seed)
    wide = any(array.dtype == np.float64 for name, array in params.items() if case.spec.touched(name))
    with _device.emulated():
        moved = moved_by(case.spec, elements, params, count, torch.device("cpu"))
    assert_acts(case.spec, elements, params, moved, arithmetic="float64" if wide else "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_no_leg_touches_is_copied_in_every_bit(device: torch.device, dtype: str) -> None:
    """NaN, infinities and subnormal numbers beside dense legs, and in blocks of them."""
    limits = STORAGE[dtype]
    special = cast(np.array([np.nan, np.inf, -np.inf, -0.0, limits.smallest, -limits.largest, 1 / 3]), dtype)
    a, free = Leg("a"), (7, None)
    spec = SymmetrySpec(
        {"a": Heads(2, Orthogonal(8), permute=False)},
        {
            "rows": (Segments((free, (16, a), free)), None),
            "columns": (None, Segments((free, (16, a), free))),
            "cross": (Segments(((16, a), free)), Segments((free, (16, Leg("a", dual=True))))),
        },
    )
    params = random_params(spec, dtype, free=(7,))
    for part in (params["rows"][:7], params["rows"][23:], params["columns"].T[:7], params["cross"][16:, :7]):
        part[...] = special[: part.shape[1]] if part.shape[1] == 7 else special
    params["rows"][9, 2] = np.nan
    params["columns"][4, 16] = np.inf
    moved = moved_by(spec, elements_of(spec, params, 2), params, 2, device)
    for name, place in {"rows": np.s_[:, :7], "columns": np.s_[:, :, :7], "cross": np.s_[:, 16:, :7]}.items():
        assert_same_bits({name: moved[name][place]}, {name: repeated(params, 2)[name][place]})
    for name, place in {"rows": np.s_[:, 7:15, 2], "columns": np.s_[:, 4, 15:23]}.items():
        inner = np.s_[:, 7:23] if name == "rows" else np.s_[:, :, 7:23]
        broken = ~np.isfinite(moved[name].astype(np.float64))
        expected = np.zeros_like(broken)
        expected[place] = True
        assert np.array_equal(broken[inner], expected[inner]), name


def test_the_identity_is_exact(device: torch.device) -> None:
    spec = attention_with(GeneralLinear(5, 0.2))
    for dtype in DTYPES:
        params = random_params(spec, dtype)
        kind = "float64" if dtype == "float64" else "float32"
        moved = moved_by(spec, spec.identity(2, kind), params, 2, device)
        assert_same_bits(moved, repeated(params, 2))


def test_float32_tensors_beside_float64_ones_are_rounded_once(device: torch.device) -> None:
    spec = network(Heads(2, GeneralLinear(5, 0.2)), Orthogonal(9))
    params = random_params(spec, "float64")
    for name in ("rows", "both", "flat"):
        params[name] = cast(params[name], "float32")
    elements = spec.sample(3)
    moved = moved_by(spec, elements, params, 3, device)
    assert_acts(spec, elements, params, moved, arithmetic="float64")


def test_a_sample_has_the_same_bits_in_every_batch(device: torch.device) -> None:
    spec = network(Heads(2, GeneralLinear(5, 0.2)), Orthogonal(33))
    params = random_params(spec, "float32", (3, 40))
    elements = elements_of(spec, params, 4)
    whole = moved_by(spec, elements, params, 4, device)
    for k in (0, 3):
        single = moved_by(spec, elements.take(k, k + 1), params, 1, device)
        assert_same_bits(single, {name: array[k : k + 1] for name, array in whole.items()})


def test_an_order_out_of_range_makes_nan(device: torch.device) -> None:
    """Elements that lie on a device are not checked there."""
    legs = {"rows": ("a", None), "bias": ("a+",), "use": ("a*",)}
    spec = SymmetrySpec({"a": Heads(3, Affine(GeneralLinear(4)))}, legs)
    params = random_params(spec, "float32")
    elements = {name: SiteElements(**vars(site)) for name, site in elements_of(spec, params, 2).items()}
    perm = np.array(elements["a"].perm)
    perm[1, 4:8] += 400
    wrong = {"a": SiteElements(**{**vars(elements["a"]), "perm": perm})}
    program = Program(spec, tuple((name, array.shape, array.dtype.name) for name, array in params.items()))
    results = {name: torch.empty(2, *array.shape, device=device) for name, array in params.items()}
    sources = {name: (to_tensor(array, device), 0, "float32") for name, array in params.items()}
    dense.run(spec, program.targets, on_device(wrong, device), 2, sources, results, "float32")
    for array in map(to_array, results.values()):
        assert np.isnan(array[1, 4:8]).all()
        assert np.isfinite(np.delete(array.reshape(2, 3, 4, -1), 1, axis=1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nested_legs(device: torch.device, dtype: str) -> None:
    spec = SymmetrySpec(
        {"a": Heads(3, Affine(GeneralLinear(5, 0.2))), "c": Orthogonal(6)},
        {
            "w": (None, Leg("a", dual=True, repeat=2), "c"),
            "v": (Segments(((15, Leg("a")), (1, None), (30, Leg("a", copies=2)))), "c*"),
            "u": (Segments(((6, Leg("c")), (2, None))), Segments(((3, None), (6, Leg("c"))))),
        },
    )
    assert_moves(spec, random_params(spec, dtype, (4,)), 2, device)


def test_errors_of_the_module() -> None:
    module = cuda_emulated()
    with pytest.raises(ValueError, match="not a group"):
        module.dense_draw(0, 0, False, (0, 1, 3, 4, 0, False, 1.0), (0, 0, 0, 1, 1), 0, 0, 0)
    with pytest.raises(ValueError, match="expected a workspace"):
        module.dense_draw(0, 0, False, (2, 1, 40, 40, 0, False, 1.0), (0, 0, 0, 1, 1), 0, 0, 0)
    box = (0, 0, 1, 1, 3, 2, 4, 1, 1, 0)
    with pytest.raises(ValueError, match="not a box"):
        module.dense_apply(0, 0, False, 1, [(box, 0, 0, 0, 0, None, False, None, None)])
