# SPDX-License-Identifier: MIT
"""Dense legs on torch tensors: the same bits as NumPy, gradients to second order, the registered operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from orbit_cases import DTYPES, assert_same_bits, attention, attention_params, cast, tensors_of

import nnsym_fast as nf
from nnsym_fast import _dense, _device
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    SpecialLinear,
    Translation,
)
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

torch = pytest.importorskip("torch")

N = 3
QUERY = Leg("qk", dual=True, copies=2, order="q")

# Every kind of dense leg, alone, twice, beside other legs, in segments, with shifts; and what has none.
SMALL = SymmetrySpec(
    {
        "a": Orthogonal(2),
        "qk": Heads(2, Affine(RotaryCommutant(2)), tie="t"),
        "vo": Heads(2, GeneralLinear(2, 0.3), tie="t"),
        "q": Heads(2, Permutation(2), tie="t"),
        "p": Monomial(2, signs=True),
        "s": SpecialLinear(3, 0.3),
        "t": Translation(2),
    },
    {
        "both": ("a", "s*"),
        "beside": (Leg("p", power=3), "a*"),
        "query": (QUERY, "s*"),
        "value": (None, Leg("vo", dual=True, repeat=2), "p*"),
        "cut": (Segments(((4, Leg("qk", affine=True)), (1, None), (8, QUERY), (2, Leg("p")), (2, Leg("a")))),),
        "key": ("qk+",),
        "reader": ("qk", "vo", "s"),
        "moved": ("t+",),
        "free": (None, None),
        "number": (),
    },
)
SHAPES: dict[str, tuple[int, ...]] = {
    "both": (2, 3), "beside": (2, 2), "query": (8, 3), "value": (1, 8, 2), "cut": (17,), "key": (4,),
    "reader": (4, 4, 3), "moved": (2,), "free": (1, 2), "number": (),
}  # fmt: skip


def random_tensors(lead: tuple[int, ...] = (), dtype: Any = None, device: Any = "cpu") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn((*lead, *shape), generator=generator, dtype=dtype or torch.float64)
        for name, shape in SHAPES.items()
    }
    return {name: tensor.to(device).requires_grad_() for name, tensor in tensors.items()}


def as_function(elements: Any, stacked: bool) -> Callable[..., tuple[Any, ...]]:
    def function(*tensors: Any) -> tuple[Any, ...]:
        return tuple(nf.act(SMALL, elements, dict(zip(SHAPES, tensors, strict=True)), stacked=stacked).values())

    return function


@pytest.mark.parametrize("stacked", [False, True])
def test_gradients(any_device: Any, stacked: bool, threads: Callable[[int], None]) -> None:
    """First and second derivatives against finite differences, the second along random directions."""
    threads(1)  # thousands of tiny calls
    lead = (2,) if stacked else ()
    tensors = tuple(random_tensors(lead, device=any_device).values())
    function = as_function(SMALL.sample(2, seed=1), stacked)
    assert torch.autograd.gradcheck(function, tensors, fast_mode=_device.serves(tensors[0]))
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_gradients_through_the_blas(monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> None:
    threads(1)
    monkeypatch.setattr(_dense, "LARGEST", 1)
    assert torch.autograd.gradcheck(as_function(SMALL.sample(2, seed=1), False), tuple(random_tensors().values()))


@pytest.mark.parametrize("stacked", [False, True])
def test_the_gradient_is_the_transpose(any_device: Any, stacked: bool) -> None:
    """grad_theta <xi, g.theta> = sum over k of g_k^T xi_k = act of g^-1 on the dual spec: shifts have no part in it."""
    kept = {name: axes for name, axes in SMALL.legs.items() if SMALL.touched(name) and name != "moved"}
    sites = {name: group for name, group in SMALL.sites.items() if name != "t"}
    spec = SymmetrySpec(sites, kept)
    tensors = random_tensors((N,) if stacked else (), device=any_device)
    tensors = {name: tensor for name, tensor in tensors.items() if name in kept}
    xi = {name: torch.randn(N, *SHAPES[name]).to(tensors[name]) for name in kept}
    elements = spec.sample(N, seed=1)
    moved = nf.act(spec, elements, tensors, stacked=stacked)
    sum((xi[name] * moved[name]).sum() for name in kept).backward()
    transposed = nf.act(spec.dual(), nf.inverse(elements), xi, stacked=True)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.grad, transposed[name] if stacked else transposed[name].sum(0))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest_head", [_dense.LARGEST, 1])
def test_torch_changes_no_bit(dtype: str, stacked: bool, largest_head: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of NumPy's results; nor does autograd."""
    monkeypatch.setattr(_dense, "LARGEST", largest_head)
    kind = getattr(torch, dtype)
    elements = SMALL.sample(N, seed=2, dtype="float64" if dtype == "float64" else "float32")
    tensors = {n: t.detach().to(kind) for n, t in random_tensors((N,) if stacked else ()).items()}
    arrays = {name: cast(tensor.double().numpy(), dtype) for name, tensor in tensors.items()}
    expected = nf.act(SMALL, elements, arrays, stacked=stacked)
    plain = nf.act(SMALL, elements, tensors, stacked=stacked)
    with_grad = nf.act(SMALL, elements, {n: t.clone().requires_grad_() for n, t in tensors.items()}, stacked=stacked)
    some = {name: tensor.clone().requires_grad_(name == "query") for name, tensor in tensors.items()}
    with_some = nf.act(SMALL, elements, some, stacked=stacked)
    for name, tensor in plain.items():
        assert tensor.dtype == kind
        words = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        assert words == np.ascontiguousarray(expected[name]).tobytes(), name
        assert torch.equal(with_grad[name], tensor)
        assert torch.equal(with_some[name], tensor)
        assert with_grad[name].requires_grad
    assert with_some["query"].requires_grad


def test_orbits_of_torch_tensors() -> None:
    spec, params = attention(), attention_params("float32")
    expected = nf.Orbit(params, spec, seed=4)[0:20]
    orbit = nf.Orbit(tensors_of(params), spec, seed=4)
    chosen = orbit.points(0, 20, names=["q", "qkv.bias"])
    assert list(chosen) == ["q", "qkv.bias"]
    for points in (orbit[0:20], orbit.points(0, 20, out=orbit[0:30]), {**orbit[0:20], **chosen}):
        assert_same_bits({name: tensor.numpy() for name, tensor in points.items()}, expected)
    dataset = orbit.dataset()
    assert torch.equal(dataset[7]["qkv.bias"], orbit[7]["qkv.bias"])


def test_gradients_keep_their_dtype(any_device: Any) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        tensors = random_tensors(dtype=dtype, device=any_device)
        sum(tensor.sum() for tensor in nf.act(SMALL, SMALL.sample(N), tensors).values()).backward()
        assert {tensor.grad.dtype for tensor in tensors.values()} == {dtype}


@pytest.mark.parametrize("names", [["key"], ["moved"], ["both", "cut"], list(SHAPES)])
def test_gradients_of_some_results(any_device: Any, names: list[str]) -> None:
    tensors = random_tensors(device=any_device)
    moved = nf.act(SMALL, SMALL.sample(N), tensors)
    sum(moved[name].square().sum() for name in names).backward()
    for name, tensor in tensors.items():
        reached = tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)
        assert reached == (name in names)


def test_a_shift_alone_has_the_gradient_of_one() -> None:
    """d(b + c)/db = 1 for every element."""
    spec = SymmetrySpec({"k": Translation(3)}, {"b": ("k+",)})
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    elements = spec.sample(4)
    moved = nf.act(spec, elements, {"b": b})["b"]
    np.testing.assert_array_equal(moved.detach().numpy(), elements["k"].shift)
    moved.sum().backward()
    assert b.grad.tolist() == [4, 4, 4]


@pytest.mark.parametrize("grad", [False, True])
def test_augment_is_act_of_fresh_elements(any_device: Any, grad: bool) -> None:
    random = random_tensors((8,), device=any_device)
    stack = {name: tensor.detach().requires_grad_(grad) for name, tensor in random.items()}
    moved = nf.augment(stack, SMALL, seed=5, start=11)
    orbit = nf.Orbit({name: tensor[0] for name, tensor in stack.items()}, SMALL, seed=5)
    expected = nf.act(SMALL, orbit.elements(11, 19), stack, stacked=True)
    for name, tensor in moved.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.requires_grad == grad
    parts = [nf.augment({n: t[i : i + 3] for n, t in stack.items()}, SMALL, seed=5, start=11 + i) for i in (0, 3, 6)]
    for name, tensor in moved.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor), "whatever the batch it comes in"


@pytest.mark.parametrize("stacked", [False, True])
def test_the_operator_is_registered_well(any_device: Any, stacked: bool) -> None:
    """Schema, fake tensors, autograd and ahead-of-time dispatch, as torch.library checks them."""
    from nnsym_fast import _torch

    spec = _torch._touched(SMALL)
    random = random_tensors((N,) if stacked else (), device=any_device)
    tensors = [tensor for name, tensor in random.items() if name in spec.legs]
    parts = [
        torch.from_numpy(part).to(any_device)
        for site in SMALL.sample(N, seed=1).values()
        for part in vars(site).values()
        if part is not None
    ]
    torch.library.opcheck(torch.ops.nnsym_fast.act.default, (tensors, parts, spec.to_json(), N, stacked))


# Dynamo looks through the caches of compiled specs, and says so.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_compiled_function_computes_the_same(any_device: Any) -> None:
    elements = SMALL.sample(N, seed=1)
    tensors = random_tensors(device=any_device)

    def loss(params: dict[str, Any]) -> Any:
        moved = nf.act(SMALL, elements, params)
        return sum((tensor * tensor).sum() for tensor in moved.values())

    expected = loss(tensors)
    expected.backward()
    gradients = {name: tensor.grad.clone() for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.grad = None
    compiled = torch.compile(loss, backend="eager")
    value = compiled(tensors)
    value.backward()
    assert torch.equal(value, expected)
    for name, tensor in tensors.items():
        assert torch.equal(tensor.grad, gradients[name])


def test_a_model_trains_through_the_action() -> None:
    """Attention scores do not change along the orbit, so their gradient with respect to an element's direction is 0.

    The loss is a function of q^T k alone; moved and unmoved weights give the same loss and gradients that are each
    other's transforms.
    """
    spec = SymmetrySpec({"qk": Heads(2, GeneralLinear(3, 0.3))}, {"q": ("qk*", None), "k": ("qk", None)})
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(6, 5, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    x = torch.randn(7, 5, generator=rng, dtype=torch.float64)

    def loss(query: Any, key: Any) -> Any:
        scores = torch.einsum(
            "...hmi,si,...hmj,tj->...hst", query.unflatten(-2, (2, 3)), x, key.unflatten(-2, (2, 3)), x
        )
        return scores.softmax(-1).square().sum((-3, -2, -1))

    elements = spec.sample(4, seed=1)
    moved = nf.act(spec, elements, {"q": q, "k": k})
    torch.testing.assert_close(loss(moved["q"], moved["k"]), loss(q, k).sum(0).expand(4))
    broken = nf.act(spec.dual(), elements, {"q": q, "k": k})
    assert not torch.allclose(loss(broken["k"], moved["k"]), loss(q, k).expand(4)), "negative control"
    base = torch.autograd.grad(loss(q, k), (q, k))
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in moved.items()}
    gradients = torch.autograd.grad(loss(leaves["q"], leaves["k"]).sum(), list(leaves.values()))
    expected = nf.act(spec.dual(), elements, dict(zip(("q", "k"), base, strict=True)))
    for ours, theirs in zip(gradients, expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
