# SPDX-License-Identifier: MIT
"""act and augment under autograd: gradients to second order, the registered operator, and the words of every error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from orbit_cases import DTYPES, PARAMS, SPEC, STATE, STATE_PARAMS, mlp, tensors_of, wrong

import nnsym_fast as nf
from nnsym_fast import _device
from nnsym_fast.elements import Elements, SiteElements
from nnsym_fast.groups import Heads, Monomial, Permutation, Scaling, Signs
from nnsym_fast.symmetry import Leg, Segments, SymmetrySpec

torch = pytest.importorskip("torch")

N = 3

# Every kind of leg: tied, dual, powers, repetitions, segments, parts that a group lacks.
SMALL = SymmetrySpec(
    {"a": Monomial(3, signs=True), "b": Monomial(2), "p": Permutation(2), "s": Signs(2), "d": Heads(2, Scaling(1))},
    {
        "tied": ("a", "a*"),
        "powers": (Leg("b", power=-1.5), Leg("a", dual=True, power=2)),
        "still": (Leg("b", dual=True, power=0), "p", None),
        "repeated": (Leg("s", repeat=2), "p*"),
        "cut": (Segments(((3, Leg("a", dual=True)), (1, None), (2, Leg("d", dual=True)))), "s*"),
        "vector": ("d",),
        "free": (None, None),
        "number": (),
    },
)
SHAPES: dict[str, tuple[int, ...]] = {
    "tied": (3, 3), "powers": (2, 3), "still": (2, 2, 2), "repeated": (4, 2), "cut": (6, 2), "vector": (2,),
    "free": (1, 2), "number": (),
}  # fmt: skip


def random_tensors(lead: tuple[int, ...] = (), device: Any = "cpu") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn((*lead, *shape), generator=generator, dtype=torch.float64).to(device).requires_grad_()
        for name, shape in SHAPES.items()
    }


def as_function(elements: Any, stacked: bool) -> Callable[..., tuple[Any, ...]]:
    def function(*tensors: Any) -> tuple[Any, ...]:
        params = dict(zip(SHAPES, tensors, strict=True))
        return tuple(nf.act(SMALL, elements, params, stacked=stacked).values())

    return function


@pytest.mark.parametrize("stacked", [False, True])
def test_gradients(any_device: Any, stacked: bool) -> None:
    """First and second derivatives against finite differences."""
    tensors = tuple(random_tensors((N,) if stacked else (), any_device).values())
    function = as_function(SMALL.sample(N, seed=1), stacked)
    fast = _device.serves(tensors[0])  # along random directions
    assert torch.autograd.gradcheck(function, tensors, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=fast)


def test_gradients_of_partial_elements(any_device: Any) -> None:
    """A part that the caller leaves out is the identity's."""
    elements = SMALL.sample(N, seed=1)
    given = {**elements, "a": (elements["a"].perm, None, None), "p": (None, None, None)}
    assert torch.autograd.gradcheck(as_function(given, False), tuple(random_tensors((), any_device).values()))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autograd_changes_no_bit(any_device: Any, dtype: str, stacked: bool) -> None:
    spec, params = mlp([3, 40, 9, 2], "float32", activation="prelu")
    tensors = {name: tensor.to(any_device, getattr(torch, dtype)) for name, tensor in tensors_of(params).items()}
    if stacked:
        tensors = {name: tensor.expand(N, *tensor.shape) * 1 for name, tensor in tensors.items()}
    elements = spec.sample(N, seed=2)
    plain = nf.act(spec, elements, tensors, stacked=stacked)
    with_grad = nf.act(spec, elements, {n: t.clone().requires_grad_() for n, t in tensors.items()}, stacked=stacked)
    some = {name: tensor.clone().requires_grad_(name == "0.bias") for name, tensor in tensors.items()}
    with_some = nf.act(spec, elements, some, stacked=stacked)
    with torch.no_grad():
        without = nf.act(spec, elements, some, stacked=stacked)
    for name, tensor in plain.items():
        assert tensor.dtype == tensors[name].dtype
        for other in (with_grad, with_some, without):
            assert torch.equal(other[name], tensor)
        assert with_grad[name].requires_grad
        assert not without[name].requires_grad
    assert with_some["0.bias"].requires_grad


def test_the_gradient_is_the_transpose(any_device: Any) -> None:
    """grad_theta <xi, g.theta> = sum over k of g_k^T xi_k = act of g^-1 on the dual spec."""
    spec = SymmetrySpec(SMALL.sites, {name: axes for name, axes in SMALL.legs.items() if SMALL.touched(name)})
    tensors = {name: tensor for name, tensor in random_tensors((), any_device).items() if name in spec.legs}
    xi = {
        name: torch.randn(N, *tensor.shape, dtype=torch.float64, device=any_device) for name, tensor in tensors.items()
    }
    elements = spec.sample(N, seed=1)
    moved = nf.act(spec, elements, tensors)
    sum((xi[name] * moved[name]).sum() for name in spec.legs).backward()
    transposed = nf.act(spec.dual(), nf.inverse(elements), xi, stacked=True)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.grad, transposed[name].sum(0))


@pytest.mark.parametrize("names", [["tied"], ["free"], ["number", "cut"], list(SHAPES)])
def test_gradients_of_some_results(any_device: Any, names: list[str]) -> None:
    tensors = random_tensors((), any_device)
    moved = nf.act(SMALL, SMALL.sample(N), tensors)
    sum(moved[name].square().sum() for name in names).backward()
    for name, tensor in tensors.items():
        reached = tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)
        assert reached == (name in names)


def test_gradients_keep_their_dtype(any_device: Any) -> None:
    spec, params = mlp([3, 5, 2])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        tensors = {name: tensor.to(any_device, dtype).requires_grad_() for name, tensor in tensors_of(params).items()}
        sum(tensor.sum() for tensor in nf.act(spec, spec.sample(N), tensors).values()).backward()
        assert {tensor.grad.dtype for tensor in tensors.values()} == {dtype}


def test_no_elements_have_a_gradient_of_zero(any_device: Any) -> None:
    tensors = random_tensors((), any_device)
    moved = nf.act(SMALL, SMALL.sample(0), tensors)
    assert moved["tied"].shape == (0, 3, 3)
    sum(tensor.sum() for tensor in moved.values()).backward()
    assert all(not tensor.grad.any() for tensor in tensors.values())


def test_a_network_without_sites_has_gradients(any_device: Any) -> None:
    spec = SymmetrySpec({}, {"w": (None,)})
    w = torch.ones(2, requires_grad=True, device=any_device)
    nf.act(spec, spec.sample(5), {"w": w})["w"].sum().backward()
    assert w.grad.tolist() == [5, 5]
    stack = torch.ones(3, 2, requires_grad=True, device=any_device)
    nf.act(spec, {}, {"w": stack}, stacked=True)["w"].sum().backward()
    assert stack.grad.shape == (3, 2)


def test_state_beside_parameters(any_device: Any) -> None:
    """Integer tensors pass through a differentiable call; only what needs a gradient gets one."""
    tensors = {name: tensor.to(any_device) for name, tensor in tensors_of(STATE_PARAMS).items()}
    tensors["w"].requires_grad_()
    moved = nf.act(STATE, STATE.sample(4), tensors)
    assert {name: tensor.dtype for name, tensor in moved.items()} == {n: t.dtype for n, t in tensors.items()}
    assert torch.equal(moved["mean"], tensors["mean"].expand(4, 2, 4))
    assert moved["w"].requires_grad
    assert not moved["steps"].requires_grad


@pytest.mark.parametrize("stacked", [False, True])
def test_the_operator_is_registered_well(any_device: Any, stacked: bool) -> None:
    """Schema, fake tensors, autograd and ahead-of-time dispatch, as torch.library checks them."""
    from nnsym_fast import _torch

    spec = _torch._touched(SMALL)
    tensors = [t for name, t in random_tensors((N,) if stacked else (), any_device).items() if name in spec.legs]
    parts = [
        torch.from_numpy(part).to(any_device)
        for site in SMALL.sample(N, seed=1).values()
        for part in (site.perm, site.sign, site.scale)
        if part is not None
    ]
    torch.library.opcheck(torch.ops.nnsym_fast.act.default, (tensors, parts, spec.to_json(), N, stacked))


def test_elements_may_be_read_only() -> None:
    elements = SMALL.sample(N)
    for site in elements.values():
        for part in (site.perm, site.sign, site.scale):
            if part is not None:
                part.flags.writeable = False
    nf.act(SMALL, elements, random_tensors())["tied"].sum().backward()


# --- augment


@pytest.mark.parametrize("grad", [False, True])
def test_augment_is_act_of_fresh_elements(any_device: Any, grad: bool) -> None:
    stack = {name: tensor.detach().requires_grad_(grad) for name, tensor in random_tensors((8,), any_device).items()}
    moved = nf.augment(stack, SMALL, seed=5, start=11)
    orbit = nf.Orbit({name: tensor[0] for name, tensor in stack.items()}, SMALL, seed=5)
    expected = nf.act(SMALL, orbit.elements(11, 19), stack, stacked=True)
    for name, tensor in moved.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.requires_grad == grad
    parts = [nf.augment({n: t[i : i + 3] for n, t in stack.items()}, SMALL, seed=5, start=11 + i) for i in (0, 3, 6)]
    for name, tensor in moved.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor), "whatever the batch it comes in"
    if not grad:
        buffers = {
            name: torch.empty(9, *shape, dtype=torch.float64, device=any_device) for name, shape in SHAPES.items()
        }
        again = nf.augment(stack, SMALL, seed=5, start=11, out=buffers)
        for name, tensor in again.items():
            assert torch.equal(tensor, moved[name])
            assert tensor.data_ptr() == buffers[name].data_ptr()


def test_gradients_pass_through_augment(any_device: Any) -> None:
    """A loss of augmented weights: the gradient with respect to the stack, against finite differences."""

    def function(*tensors: Any) -> Any:
        return nf.augment(dict(zip(SHAPES, tensors, strict=True)), SMALL, seed=5)["tied"]

    assert torch.autograd.gradcheck(function, tuple(random_tensors((2,), any_device).values()))


# --- errors

ELEMENTS = SPEC.sample(4)
PERM, SCALE = ELEMENTS["h0"].perm, ELEMENTS["h0"].scale
STACK = {name: np.repeat(array[None], 4, axis=0) for name, array in PARAMS.items()}


def moved_with(**parts: Any) -> Callable[[], Any]:
    triple = {"perm": PERM, "sign": None, "scale": SCALE} | parts
    return lambda: nf.act(SPEC, {"h0": SiteElements(**triple)}, PARAMS)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nf.act(wrong("x"), ELEMENTS, PARAMS), TypeError, "spec: expected a SymmetrySpec, got str"),
        (lambda: nf.act(SPEC, wrong(3), PARAMS), TypeError, "elements: expected Elements, one entry per site, got int"),
        (lambda: nf.act(SPEC, {}, PARAMS), ValueError, r"elements: expected one entry per site .*, missing \['h0'\]"),
        (lambda: nf.act(SPEC, {"h0": 5}, PARAMS), TypeError, r"elements\['h0'\]: expected SiteElements or a tuple"),
        (lambda: nf.act(SPEC, {"h0": (PERM, None)}, PARAMS), TypeError, r"elements\['h0'\]: expected SiteElements or"),
        (lambda: nf.act(SPEC, ELEMENTS, wrong(5)), TypeError, "params: expected a mapping tensor name -> array"),
        (lambda: nf.act(SPEC, ELEMENTS, {}), ValueError, "tensor '0.weight': in the spec but missing from params"),
        (moved_with(perm=PERM[:, :4]), ValueError, r"elements\['h0'\].perm: expected shape \(4, 5\), got \(4, 4\)"),
        (moved_with(scale=SCALE[:3]), ValueError, r"elements\['h0'\].scale: expected shape \(4, 5\), got \(3, 5\)"),
        (moved_with(perm=PERM.astype(float)), TypeError, r"elements\['h0'\].perm: expected dtype int32, got float64"),
        (moved_with(perm=PERM - 1), ValueError, r"elements\['h0'\].perm: expected entries 0 .. 4, got -1 .. 3"),
        (moved_with(perm=PERM * 0), ValueError, r"a row of perm is not a permutation of 0 .. n - 1"),
        (moved_with(sign=PERM), ValueError, r"elements\['h0'\].sign: expected None, as Monomial.* has no such part"),
        (moved_with(scale=PERM), TypeError, r"elements\['h0'\].scale: expected dtype float32, got int32"),
        (moved_with(scale=-SCALE), ValueError, r"elements\['h0'\].scale: expected finite entries > 0"),
        (moved_with(scale=SCALE * np.nan), ValueError, r"elements\['h0'\].scale: expected finite entries > 0"),
        (moved_with(scale=SCALE * np.inf), ValueError, r"elements\['h0'\].scale: expected finite entries > 0"),
        (
            lambda: nf.act(SMALL, {**SMALL.sample(2), "s": (None, np.zeros((2, 2), np.int8), None)}, random_tensors()),
            ValueError,
            r"elements\['s'\].sign: expected entries 1 and -1",
        ),
        (
            lambda: nf.act(SPEC, Elements({"h0": Permutation(5).sample(2)}, 3), PARAMS),
            ValueError,
            r"elements\['h0'\].perm: expected shape \(3, 5\), got \(2, 5\)",
        ),
        (
            lambda: nf.act(SPEC, ELEMENTS, PARAMS, stacked=True),
            ValueError,
            "'2.weight': expected the leading axis 5, one network each",
        ),
        (
            lambda: nf.act(SPEC, SPEC.sample(3), STACK, stacked=True),
            ValueError,
            r"tensor '0.weight': expected the leading axis 3, one network each, got shape \(4, 5, 3\)",
        ),
        (
            lambda: nf.act(SPEC, ELEMENTS, {**STACK, "2.bias": np.float32(1)}, stacked=True),
            ValueError,
            r"tensor '2.bias': expected the leading axis 4, one network each, got shape \(\)",
        ),
        (lambda: nf.augment(wrong(SPEC), wrong(STACK), seed=0), TypeError, "spec: expected a SymmetrySpec, got dict"),
        (lambda: nf.augment({}, SPEC, seed=0), ValueError, "params: expected at least one stacked tensor, got none"),
        (
            lambda: nf.augment({"w": 1.0}, SPEC, seed=0),
            ValueError,
            "'w': expected a leading axis of networks, got shape",
        ),
        (lambda: nf.augment(STACK, SPEC, seed=wrong("a")), TypeError, "seed: expected an integer, got 'a' of type str"),
        (lambda: nf.augment(STACK, SPEC, seed=0, start=-1), ValueError, "start: expected an integer >= 0, got -1"),
        (lambda: nf.augment(STACK, SPEC, seed=0, start=2**64 - 3), ValueError, r"start: expected start \+ n <= 2\^64"),
        (lambda: nf.act(SPEC, ELEMENTS, PARAMS, out=wrong(1)), TypeError, "out: expected the dict of an earlier call"),
        (
            lambda: nf.act(SMALL, SMALL.sample(2), random_tensors(), out=wrong({})),
            ValueError,
            r"out: not with tensors that need gradients; call under torch.no_grad\(\), or omit it",
        ),
        (
            lambda: nf.augment(random_tensors((2,)), SMALL, seed=0, out=wrong({})),
            ValueError,
            "out: not with tensors that need gradients",
        ),
        (
            lambda: nf.act(SMALL, SMALL.sample(2), {n: t.to("meta") for n, t in random_tensors().items()}),
            ValueError,
            "tensor 'tied': expected a tensor on the CPU, got device meta",
        ),
        (
            lambda: nf.act(SMALL, SMALL.sample(2), {**random_tensors(), "free": np.ones((1, 2))}),
            TypeError,
            "params: expected torch tensors only, as 'tied' is one, but 'free' is a ndarray",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_row_that_is_no_permutation_is_refused_under_autograd_too() -> None:
    elements = SMALL.sample(N)
    twice = elements["a"].perm.copy()
    twice[1] = [0, 0, 1]
    bad = {**elements, "a": (twice, elements["a"].sign, elements["a"].scale)}
    with pytest.raises(ValueError, match="a row of perm is not a permutation"):
        nf.act(SMALL, bad, random_tensors())
