# SPDX-License-Identifier: MIT
"""Orbits of tensors on a device: elements and points of the CPU and the reference, on every path of the kernels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from orbit_cases import (
    DTYPES,
    PARAMS,
    SPEC,
    STATE,
    STATE_PARAMS,
    Params,
    assert_acts,
    assert_same_bits,
    attention,
    attention_params,
    cast,
    mlp,
    numpy_dtype,
    repeated,
    tensors_of,
)
from orbit_strategies import Case, cases
from tolerances import EPSILON

import nnsym_fast as nf
from nnsym_fast import _device, reference
from nnsym_fast._device import orbit as device_orbit
from nnsym_fast.elements import Elements, SiteElements, numbered
from nnsym_fast.groups import Heads, Monomial, Permutation, Scaling, Signs
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

Tensors = dict[str, torch.Tensor]

TIED_SAMPLE = 308641
"""Of seed 0: two keys of the first 115 of site 0 are equal."""


def to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    if array.dtype == numpy_dtype("bfloat16"):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(array.copy()).to(device)


def to_tensors(params: Params, device: torch.device) -> Tensors:
    return {name: to_tensor(array, device) for name, array in params.items()}


def to_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return np.asarray(tensor.numpy())


def to_arrays(tensors: Tensors) -> Params:
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def to_elements(elements: Elements) -> Elements:
    """Elements of a device as NumPy ones."""
    sites = {
        name: SiteElements(*(None if part is None else to_array(part) for part in vars(site).values()))  # type: ignore[arg-type]
        for name, site in elements.items()
    }
    return Elements(sites, elements.count)


def assert_drawn(elements: Elements, spec: SymmetrySpec, seed: int, start: int, dtype: str) -> None:
    """Permutations and signs of the reference, scales to a few ulp."""
    expected = reference.sample(spec, elements.count, seed, start)
    for name, site in to_elements(elements).items():
        for part in ("perm", "sign"):
            ours, theirs = getattr(site, part), getattr(expected[name], part)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}.{part}")
        if site.scale is not None:
            assert site.scale.dtype == dtype
            np.testing.assert_allclose(site.scale, expected[name].scale, rtol=16 * EPSILON[dtype])


# --- elements

MIXED = SymmetrySpec(
    {
        "a": Monomial(5, signs=True),
        "b": Permutation(170),
        "c": Heads(3, Monomial(7), tie="t"),
        "d": Signs(300),
        "e": Scaling(9, scale_std=0.1),
        "f": Heads(40, Permutation(2)),
        "g": Heads(5, Scaling(3)),
        "h": Heads(3, Monomial(130, signs=True), tie="t"),
        "i": Permutation(1),
        "j": Heads(2, Permutation(5), permute=False),
    },
    {f"w.{site}": (site, site + "*") for site in "abcdefghij"},
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("seed", "start"), [(1, 9), (2**64 - 1, 2**32 - 2), (3, 2**63)])
def test_elements_are_those_of_the_reference(device: torch.device, dtype: str, seed: int, start: int) -> None:
    """More sites than one launch takes, and every kind of group; sample indices of 64 bits."""
    like = torch.empty(0, device=device)
    sites = numbered(MIXED.sites.values())
    drawn = device_orbit.draw(sites, 3, seed, start, 1, dtype, like)
    assert all(part.device.type == device.type for site in drawn for part in vars(site).values() if part is not None)
    assert_drawn(Elements(dict(zip(MIXED.sites, drawn, strict=True)), 3), MIXED, seed, start, dtype)


def test_elements_of_large_sites(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted in shared memory, and in the workspace, a few samples at a time."""
    spec = SymmetrySpec(
        {"a": Permutation(4096), "b": Monomial(9000), "c": Heads(3, Monomial(1500)), "d": Permutation(3072)},
        {f"{site}{i}": ((site,) if i else (site + "*",)) for site in "abcd" for i in range(2)},
    )
    tensors = {name: torch.zeros(spec.axis_length(axes[0]) or 0, device=device) for name, axes in spec.legs.items()}
    for name in ("b0", "b1"):
        tensors[name] = torch.arange(1.0, 9001.0, device=device)
    orbit = nf.Orbit(tensors, spec, seed=2)
    for limit in (128 << 20, 1):
        monkeypatch.setattr(device_orbit, "WORKSPACE_BYTES", limit)
        elements = orbit.elements(1, 3)
        assert_drawn(elements, spec, 2, 1, "float32")
        points = to_arrays(orbit[1:3])
        assert_acts(spec, to_elements(elements), to_arrays(tensors), points)


@pytest.mark.parametrize("count", [1, 33], ids=["records", "small network"])
@pytest.mark.parametrize("size", [115, 128])
def test_equal_keys_keep_their_order(device: torch.device, size: int, count: int) -> None:
    spec = SymmetrySpec({"a": Permutation(size)}, {"w": ("a",), "v": ("a*",)})
    keys = reference.words(0, np.array([TIED_SAMPLE], np.uint64), 0, "permutation", size)[0]
    assert len(np.unique(keys)) < size, "the case must be a tie"
    w = torch.arange(float(size), device=device)
    points = nf.Orbit({"w": w, "v": w}, spec).points(TIED_SAMPLE, TIED_SAMPLE + count)
    np.testing.assert_array_equal(to_array(points["w"])[0], np.argsort(keys, kind="stable"))


# --- points

NETWORKS = [[3, 5, 2], [2, 32, 32, 1], [3, 40, 9, 2], [4, 33, 64, 8], [20, 136, 144, 6]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", NETWORKS, ids=str)
def test_points_are_those_of_the_elements(device: torch.device, dtype: str, widths: list[int]) -> None:
    """Both kinds of kernels against the reference in float64; and the words of the permutations of the CPU's points."""
    spec, params = mlp(widths, dtype, "prelu" if widths[0] == 3 else "relu")
    orbit = nf.Orbit(to_tensors(params, device), spec, seed=4)
    cpu = nf.Orbit(params, spec, seed=4)
    for start, stop in ((5, 8), (0, 40 if widths[1] < 100 else 1)):
        elements = orbit.elements(start, stop)
        assert_drawn(elements, spec, 4, start, "float64" if dtype == "float64" else "float32")
        points = orbit[start:stop]
        assert all(tensor.device.type == device.type and not tensor.requires_grad for tensor in points.values())
        assert_acts(spec, to_elements(elements), params, to_arrays(points))
        for name, array in cpu[start:stop].items():
            ours = to_array(points[name]).astype(np.float64)
            np.testing.assert_allclose(ours, array.astype(np.float64), rtol=64 * EPSILON[dtype], atol=1e-6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(case=cases())
def test_networks_of_every_kind(device: torch.device, case: Case) -> None:
    count = min(case.count, 9) if sum(map(np.prod, case.shapes.values())) < 2000 else 2
    tensors = to_tensors(case.params, device)
    orbit = nf.Orbit(tensors, case.spec, seed=case.seed)
    elements = to_elements(orbit.elements(0, count))
    points = to_arrays(orbit[0:count])
    assert_acts(case.spec, elements, case.params, points)
    assert_same_bits(to_arrays(nf.act(case.spec, elements, tensors)), points)
    stack = to_tensors(repeated(case.params, count), device)
    assert_same_bits(to_arrays(nf.augment(stack, case.spec, seed=case.seed)), points)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(case=cases(["float32"], ["float64"], ["bfloat16"], ["float16"]))
def test_small_networks_of_every_kind(device: torch.device, case: Case) -> None:
    """As many points as the kernel of small networks serves, in one storage type, against the same one by one."""
    kept = [name for name in case.shapes if np.prod(case.shapes[name]) <= 300]
    orbit = nf.Orbit(to_tensors(case.params, device), case.spec, seed=case.seed)
    points = to_arrays(orbit.points(0, 33, names=kept))
    for start in (0, 32):
        single = to_arrays(orbit.points(start, start + 1, names=kept))
        assert_same_bits({name: array[start : start + 1] for name, array in points.items()}, single)
    wide = {name: array.astype(np.float64) for name, array in case.params.items()}
    rtol = {name: 64 * EPSILON[dtype] for name, dtype in case.dtypes.items()}
    moved = reference.act(case.spec, to_elements(orbit.elements(0, 33)), wide)
    for name, array in points.items():
        np.testing.assert_allclose(array.astype(np.float64), moved[name], rtol=rtol[name], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [[2, 5, 3], [4, 32, 16, 4], [9, 33, 132, 4]], ids=str)
def test_all_paths_give_the_same_bits(
    device: torch.device, dtype: str, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, params = mlp(widths, dtype)
    count = 34 if widths[2] < 100 else 5
    tensors = to_tensors(params, device)
    orbit = nf.Orbit(tensors, spec, seed=3, samples=count)
    expected = to_arrays(orbit[0:count])
    elements = orbit.elements(0, count)
    stack = {name: tensor.expand(count, *tensor.shape).contiguous() for name, tensor in tensors.items()}

    def join(batches: Any) -> Params:
        batches = [to_arrays(batch) for batch in batches]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in params}

    results = {
        "one by one": join([{n: t[None] for n, t in orbit[k].items()} for k in range(count)]),
        "batches": join([{n: t.clone() for n, t in batch.items()} for batch in orbit.batches(7)]),
        "backwards": to_arrays({name: tensor.flip(0) for name, tensor in orbit[::-1].items()}),
        "act": to_arrays(nf.act(spec, elements, tensors)),
        "act of arrays": to_arrays(nf.act(spec, to_elements(elements), tensors)),
        "act in chunks": join([nf.act(spec, elements.take(k, k + 3), tensors) for k in range(0, count, 3)]),
        "stacked": to_arrays(nf.act(spec, elements, stack, stacked=True)),
        "augment": to_arrays(nf.augment(stack, spec, seed=3)),
    }
    buffers = {n: torch.empty(count * t.numel() + 1, dtype=t.dtype, device=device)[1:] for n, t in tensors.items()}
    out = {name: buffers[name].reshape(count, *tensor.shape) for name, tensor in tensors.items()}
    results["misaligned buffers"] = to_arrays(orbit.points(0, count, out=out))
    off = {n: torch.cat([torch.zeros(1, dtype=t.dtype, device=device), t.flatten()]) for n, t in tensors.items()}
    sources = {name: off[name][1:].reshape(tensor.shape) for name, tensor in tensors.items()}
    results["misaligned sources"] = to_arrays(nf.Orbit(sources, spec, seed=3)[0:count])
    monkeypatch.setattr(device_orbit, "WORKSPACE_BYTES", 1)
    results["small workspace"] = join([orbit[0 : count // 2], orbit[count // 2 : count]])
    for name, points in results.items():
        assert_same_bits(points, expected, name)
    second = to_arrays(orbit[1:count:2])
    assert_same_bits(second, {name: array[1::2] for name, array in expected.items()}, "every second")
    first = orbit.points(0, 2, names=["0.bias"])
    assert list(first) == ["0.bias"]
    np.testing.assert_array_equal(to_array(first["0.bias"]), expected["0.bias"][:2])


# Rows gathered in panels, too wide for them, copied, with several outer axes, joined, cut; odd and even widths.
WIDE = SymmetrySpec(
    {"a": Monomial(36), "b": Monomial(37, signs=True), "c": Permutation(8), "d": Scaling(72), "e": Monomial(3)},
    {
        "even": ("a", "a*"),
        "odd": ("b", "b*"),
        "half": ("b", Segments(((36, Leg("a", dual=True)), (4, None)))),
        "too wide": ("e", Leg("c", dual=True, repeat=8000)),
        "narrow": ("a", "e*"),
        "copied": ("a", None),
        "copied and scaled": (None, "d*"),
        "conv": ("e*", "a", None, None),
        "outer": ("e*", None, "c", "a*"),
        "flat": ("d", Leg("e", dual=True, repeat=49)),
        "bias": ("c",),
        "powers": (Leg("a", power=-1.5), Leg("b", dual=True, power=2)),
        "free": (None, None),
        "empty": ("a", None),
    },
)
WIDE_SHAPES = {
    "even": (36, 36), "odd": (37, 37), "half": (37, 40), "too wide": (3, 64000), "narrow": (36, 3), "copied": (36, 80),
    "copied and scaled": (3, 72), "conv": (3, 36, 6, 7), "outer": (3, 5, 8, 36), "flat": (72, 147), "bias": (8,),
    "powers": (36, 37), "free": (2, 3), "empty": (36, 0),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_rows_of_every_kind(device: torch.device, dtype: str) -> None:
    rng = np.random.default_rng(0)
    storage = dict.fromkeys(WIDE_SHAPES, dtype)
    if dtype == "mixed":
        storage = {name: ("float32", "float64")[i % 2] for i, name in enumerate(WIDE_SHAPES)}
    params = {name: cast(rng.standard_normal(shape), storage[name]) for name, shape in WIDE_SHAPES.items()}
    orbit = nf.Orbit(to_tensors(params, device), WIDE, seed=1)
    points = to_arrays(orbit[0:2])
    arithmetic = "float64" if dtype == "mixed" else ""
    assert_acts(WIDE, to_elements(orbit.elements(0, 2)), params, points, arithmetic=arithmetic)
    stack = to_tensors(repeated(params, 2), device)
    assert_same_bits(to_arrays(nf.augment(stack, WIDE, seed=1)), points)


@pytest.mark.parametrize("widths", [[4, 16, 9, 3], [4, 136, 3]], ids=str)
def test_threads_take_any_turn(widths: list[int]) -> None:
    spec, params = mlp(widths)
    spec = SymmetrySpec({name: Monomial(group.size, signs=True) for name, group in spec.sites.items()}, spec.legs)
    tensors = tensors_of(params)
    count = 33 if widths[1] < 100 else 3
    results = []
    for order in (0, 1, 7):
        with _device.emulated(order):
            orbit = nf.Orbit(tensors, spec, seed=5)
            elements = orbit.elements(0, count)
            stack = {name: tensor.expand(count, *tensor.shape) for name, tensor in tensors.items()}
            points = [orbit[0:count], nf.act(spec, elements, tensors), nf.augment(stack, spec, seed=5)]
            results.append(([to_arrays(moved) for moved in points], to_elements(elements)))
    for arrays, elements in results:
        for moved in arrays:
            assert_same_bits(moved, results[0][0][0])
        for name, site in elements.items():
            for ours, theirs in zip(vars(site).values(), vars(results[0][1][name]).values(), strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_legs(device: torch.device, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside permutations, in segments, with shifts; and a few samples at a time."""
    spec, params = attention(), attention_params(dtype)
    tensors = to_tensors(params, device)
    orbit = nf.Orbit(tensors, spec, seed=2)
    elements, points = orbit.elements(1, 6), to_arrays(orbit[1:6])
    assert_acts(spec, to_elements(elements), params, points)
    assert_same_bits(to_arrays(nf.act(spec, elements, tensors)), points)
    assert_same_bits(to_arrays(nf.act(spec, to_elements(elements), tensors)), points)
    stack = to_tensors(repeated(params, 5), device)
    monkeypatch.setattr(device_orbit, "CHUNK_BYTES", 1)
    assert_same_bits(to_arrays(nf.augment(stack, spec, seed=2, start=1)), points)
    assert_same_bits(to_arrays(orbit[1:6]), points)
    unfolded = {**tensors, "norm": tensors["norm"] + 1}
    with pytest.raises(ValueError, match="this norm's gains are not one"):
        nf.Orbit(unfolded, spec)


# --- what callers bring


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("count", [3, 34])
def test_wrong_permutations_give_nan(device: torch.device, count: int, stacked: bool) -> None:
    """Entries outside, and twice the same: NaN where the site acts, for that sample alone."""
    spec, params = mlp([3, 40, 9, 2])
    tensors = to_tensors(repeated(params, count) if stacked else params, device)
    elements = nf.Orbit(to_tensors(params, device), spec, seed=1).elements(0, count)
    expected = to_arrays(nf.act(spec, elements, tensors, stacked=stacked))
    perm = elements["h0"].perm
    assert perm is not None
    for sample, unit, entry in ((0, 3, 40), (1, 0, -1), (2, 5, int(perm[2, 6])), (0, 9, 2**31 - 1)):
        wrong = perm.clone()  # type: ignore[attr-defined]
        wrong[sample, unit] = entry
        given = {**elements, "h0": SiteElements(wrong, None, elements["h0"].scale)}
        moved = to_arrays(nf.act(spec, given, tensors, stacked=stacked))
        for name, array in moved.items():
            others = np.arange(count) != sample
            np.testing.assert_array_equal(array[others], expected[name][others])
            touched = name in ("0.weight", "0.bias", "2.weight")
            assert np.isnan(array[sample]).all() if touched else (array[sample] == expected[name][sample]).all()


def test_elements_of_a_caller_are_checked(device: torch.device) -> None:
    tensors = to_tensors(PARAMS, device)
    elements = nf.Orbit(tensors, SPEC, seed=1).elements(0, 4)
    perm, scale = elements["h0"].perm, elements["h0"].scale
    assert perm is not None
    assert scale is not None
    wide = nf.act(SPEC, {"h0": (perm.long(), None, scale.double())}, tensors)  # type: ignore[attr-defined]
    assert_same_bits(to_arrays(wide), to_arrays(nf.act(SPEC, elements, tensors)))
    without = nf.act(SPEC, {"h0": (perm, None, None)}, tensors)
    ones = nf.act(SPEC, {"h0": (perm, None, torch.ones_like(scale))}, tensors)  # type: ignore[call-overload]
    assert_same_bits(to_arrays(without), to_arrays(ones))
    cases: list[tuple[Any, type[Exception], str]] = [
        ((perm[:, :4], None, scale), ValueError, r"\.perm: expected shape \(4, 5\), got \(4, 4\)"),
        ((perm, None, scale[:3]), ValueError, r"\.scale: expected shape \(4, 5\), got \(3, 5\)"),
        ((scale, None, scale), TypeError, r"\.perm: expected dtype int32, got torch.float32"),
        ((perm, None, perm), TypeError, r"\.scale: expected dtype float32, got torch.int32"),
        ((perm, perm, scale), ValueError, r"\.sign: expected None, as Monomial.* has no such part"),
        ((perm, None, np.ones((4, 5))), TypeError, r"\.scale: expected a tensor on .*, as others are, got ndarray"),
        (
            (perm, None, torch.ones(4, 5, device="meta")),
            ValueError,
            r"\.scale: expected a tensor on .*, got device meta",
        ),
        (5, TypeError, "expected SiteElements or a tuple"),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            nf.act(SPEC, {"h0": wrong}, tensors)
    with pytest.raises(ValueError, match=r"elements: expected one entry per site .* missing \['h0'\]"):
        nf.act(SPEC, {}, tensors)
    with pytest.raises(ValueError, match=r"elements\['h0'\].perm: expected entries 0 .. 4"):
        nf.act(SPEC, {"h0": (to_array(perm) - 1, None, None)}, tensors)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a row of perm is not a permutation of 0 .. n - 1"):
        nf.act(SPEC, {"h0": (to_array(perm) * 0, None, None)}, tensors)  # type: ignore[arg-type]


def test_tensors_of_one_device(device: torch.device) -> None:
    tensors = to_tensors(PARAMS, device)
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=r"tensor '0.weight': expected a tensor on the CPU, got device meta"):
        nf.Orbit(meta, SPEC)
    with pytest.raises(ValueError, match=rf"tensor '0.bias': expected a tensor on {device}.*, got device meta"):
        nf.Orbit({**tensors, "0.bias": meta["0.bias"]}, SPEC)
    orbit = nf.Orbit(tensors, SPEC)
    out = orbit[0:4]
    with pytest.raises(TypeError, match=r"out\['0.weight'\]: expected a torch tensor on .*, got Tensor on meta"):
        orbit.points(0, 4, out={**out, "0.weight": torch.empty(4, 5, 3, device="meta")})
    with pytest.raises(ValueError, match=r"overlaps tensor '0.bias' of params"):
        nf.Orbit({**tensors, "0.bias": out["0.bias"][2]}, SPEC).points(0, 4, out=out)


def test_untouched_tensors_and_results_of_no_point(device: torch.device) -> None:
    params = {name: torch.from_numpy(np.asarray(array).copy()).to(device) for name, array in STATE_PARAMS.items()}
    orbit = nf.Orbit(params, STATE)
    shared, copied = orbit.points(0, 5, share=True), orbit.points(0, 5)
    for name, tensor in copied.items():
        assert tensor.dtype == params[name].dtype
        assert torch.equal(shared[name], tensor)
    assert shared["mean"].data_ptr() == params["mean"].data_ptr()
    assert copied["mean"].data_ptr() != params["mean"].data_ptr()
    assert orbit[0:0]["w"].shape == (0, 3, 3)
    assert len(orbit.elements(3, 3)["h"]) == 0
    assert nf.act(STATE, orbit.elements(3, 3), params)["w"].shape == (0, 3, 3)


def test_orbits_are_pickled_and_are_datasets(device: torch.device) -> None:
    orbit = nf.Orbit(to_tensors(PARAMS, device), SPEC, seed=2, samples=6)
    again = pickle.loads(pickle.dumps(orbit))
    assert_same_bits(to_arrays(again[-1]), to_arrays(orbit[5]))
    loader = torch.utils.data.DataLoader(orbit.dataset(), batch_size=4)
    batches = list(loader)
    assert_same_bits(to_arrays(batches[1]), to_arrays(orbit[4:6]))
    assert repr(orbit.elements(0, 2)["h0"]).startswith("SiteElements(perm torch.int32")
