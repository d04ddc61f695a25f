# SPDX-License-Identifier: MIT
"""The Wilson family under torch: derivatives, torch.func, torch.compile, the registered operators."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from wilson_torch_cases import CASES, DTYPES, SINGLE, D, N, T, arguments, close, loss, torch

from nnsym_fast.wilson import cumulative_product, expm, ordered_product, wilson_line, wilson_loop

# --- derivatives


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, kind: str) -> None:
    """First and second derivatives against finite differences."""
    args = arguments(name, kind)
    assert torch.autograd.gradcheck(CASES[name].function, args, check_batched_grad=kind == "real")
    assert torch.autograd.gradgradcheck(CASES[name].function, args, fast_mode=kind == "complex")


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    "name", ["expm", "ordered log checkpoint", "cumulative log", "line 2", "line 6 checkpoint", "gauge"]
)
def test_gradients_on_a_device(name: str, kind: str, device: Any) -> None:
    args = arguments(name, kind, device=device)
    assert torch.autograd.gradcheck(CASES[name].function, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(CASES[name].function, args, fast_mode=True)


@pytest.mark.parametrize("name", ["expm", "line 4", "cumulative log"])
def test_third_derivatives(name: str, any_device: Any) -> None:
    args = arguments(name, device=any_device)

    def slope(*args: Any) -> Any:
        return torch.autograd.grad(loss(name)(*args), args, create_graph=True)

    assert torch.autograd.gradgradcheck(slope, args, fast_mode=True)


@pytest.mark.parametrize("name", ["ordered", "ordered log", "line 2", "line 6 checkpoint", "flow"])
def test_gradients_of_some_arguments_only(name: str, any_device: Any) -> None:
    """Each argument alone gives the gradient that it has beside the others."""
    args = arguments(name, device=any_device)
    together = torch.autograd.grad(loss(name)(*args), args)
    for position, expected in enumerate(together):
        alone = [value.detach().requires_grad_(i == position) for i, value in enumerate(args)]
        loss(name)(*alone).backward()
        close(alone[position].grad, expected)
        assert all(value.grad is None for i, value in enumerate(alone) if i != position)


def test_exponents_are_constants(any_device: Any) -> None:
    """The derivative of p 2^e at constant e is that of the product."""
    (u,) = arguments("ordered", device=any_device)
    for options in ({}, {"checkpoint": True}):
        p, exponent = ordered_product(u, log_scale=True, **options)
        assert exponent.dtype == torch.int32
        assert not exponent.requires_grad
        (scaled,) = torch.autograd.grad((p * 2.0 ** exponent[..., None, None]).sum(), u)
        (plain,) = torch.autograd.grad(ordered_product(u).sum(), u)
        close(scaled, plain)


def test_gradients_of_products_out_of_range(any_device: Any) -> None:
    """A product of 2^600 in float32: its normalised form has gradients, with and without checkpoints."""
    u = torch.full((600, 1, 1), 2.0, device=any_device, requires_grad=True)
    for checkpoint in (False, True):
        p, exponent = ordered_product(u, log_scale=True, checkpoint=checkpoint)
        assert (p.item(), exponent.item()) == (0.5, 601)
        (grad,) = torch.autograd.grad(p.sum(), u)
        assert torch.equal(grad, torch.full_like(u, 0.25))


@pytest.mark.parametrize("shape", [(0, T, D, D), (N, 0, D, D), (0, D, D)])
def test_gradients_of_nothing(shape: tuple[int, ...], any_device: Any) -> None:
    u = torch.zeros(shape, dtype=torch.float64, device=any_device, requires_grad=True)
    dt = torch.ones((), dtype=torch.float64, device=any_device, requires_grad=True)
    for result in (ordered_product(u), cumulative_product(u), ordered_product(u, log_scale=True)[0], wilson_loop(u)):
        assert torch.autograd.grad(result.sum(), u)[0].shape == shape
    grads = torch.autograd.grad(wilson_line(u, dt).sum(), (u, dt))
    assert grads[0].shape == shape
    assert grads[1] == 0


# --- torch.func and torch.compile


@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str, any_device: Any) -> None:
    """All arguments mapped along their last axis, and each of them alone."""
    batches = [arguments(name, requires_grad=False, seed=seed, device=any_device) for seed in range(3)]
    function = CASES[name].function
    stacked = tuple(torch.stack(values, dim=-1) for values in zip(*batches, strict=True))
    close(torch.vmap(function, in_dims=-1)(*stacked), torch.stack([function(*args) for args in batches]))
    for position, values in enumerate(stacked):
        rows = [(*batches[0][:position], batch[position], *batches[0][position + 1 :]) for batch in batches]
        mixed = (*batches[0][:position], values, *batches[0][position + 1 :])
        dims = tuple(-1 if i == position else None for i in range(len(stacked)))
        close(torch.vmap(function, in_dims=dims)(*mixed), torch.stack([function(*args) for args in rows]))


@pytest.mark.parametrize("name", SINGLE)
def test_function_transforms(name: str, any_device: Any) -> None:
    """grad, vmap of grad, grad of vmap, grad of grad and jacrev give what autograd gives."""
    args = arguments(name, device=any_device)
    plain = tuple(value.detach() for value in args)
    every = tuple(range(len(args)))
    expected = torch.autograd.grad(loss(name)(*args), args, create_graph=True)
    for found, grad in zip(torch.func.grad(loss(name), every)(*plain), expected, strict=True):
        close(found, grad)
    pairs = tuple(torch.stack([value, 1.01 * value]) for value in plain)
    one_by_one = [torch.func.grad(loss(name))(*(value[i] for value in pairs)) for i in (0, 1)]
    close(torch.vmap(torch.func.grad(loss(name)))(*pairs), torch.stack(one_by_one))
    close(torch.func.grad(lambda *x: torch.vmap(loss(name))(*x).sum())(*pairs), torch.stack(one_by_one))
    (second,) = torch.autograd.grad(expected[0].sum(), args[0])
    close(torch.func.grad(lambda *x: torch.func.grad(loss(name))(*x).sum())(*plain), second)
    function = CASES[name].function
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x, *plain[1:]), plain[0])
    close(torch.func.jacrev(function)(*plain), jacobian)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", CASES)
def test_compile(name: str, any_device: Any) -> None:
    """One graph, forward and reverse."""
    args = arguments(name, device=any_device)
    compiled = torch.compile(CASES[name].function, fullgraph=True, backend="aot_eager")
    found, expected = compiled(*args), CASES[name].function(*args)
    close(found, expected)
    weights = torch.rand(expected.shape, dtype=torch.float64, device=any_device)
    pairs = [torch.autograd.grad((weights * result).sum(), args) for result in (found, expected)]
    for a, b in zip(*pairs, strict=True):
        close(a, b)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler")
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_to_code() -> None:
    args = arguments("line 4")
    compiled = torch.compile(loss("line 4"), fullgraph=True)
    close(torch.autograd.grad(compiled(*args), args), torch.autograd.grad(loss("line 4")(*args), args))


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_keeps_sizes_and_steps_open() -> None:
    """One graph serves all batches, lengths and step sizes."""
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(partial(wilson_line, cumulative=True), fullgraph=True, backend="aot_eager", dynamic=True)
    for n, steps, dt in ((4, 5, 0.1), (6, 7, 0.25), (3, 9, 0.5)):
        w = torch.randn(n, steps, D, D)
        assert torch.equal(compiled(w, dt), wilson_line(w, dt, cumulative=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_of_transforms() -> None:
    (u,) = arguments("loop", requires_grad=False)
    for function in (torch.vmap(wilson_loop), torch.func.grad(loss("loop"))):
        close(torch.compile(function, fullgraph=True, backend="aot_eager")(u), function(u))


# --- operators


def samples(kind: str, requires_grad: bool, device: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    ops = torch.ops.nnsym_fast
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, dtype: Any = DTYPES[kind]) -> Any:
        value = 0.5 * torch.randn(shape, generator=generator, dtype=dtype)
        return value.to(device).requires_grad_(requires_grad)

    dt = torch.full((), 0.3, dtype=torch.float64, device=device).expand(N, T).requires_grad_(requires_grad)
    w, x0, b = random(N, T, 2, D, D), random(N, D, 3), random(N, T, D, 3)
    links = random(N, T, 1, D, D)
    found: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.expm, (random(N, D, D),)),
        (ops.expm, (random(D, D).detach().mH.requires_grad_(requires_grad),)),
    ]
    found.append((ops.expm_frechet, (random(N, D, D), random(N, D, D))))
    for cumulative in (False, True):
        for save in (False, True):
            found.append((ops.transport, (w, dt, x0, None, 4, cumulative, False, save)))
            found.append((ops.transport, (links, None, None, None, 0, cumulative, True, save)))
        found.append((ops.transport, (links, None, x0, b, 0, cumulative, False, False)))
        for states in (None, ops.transport(w, dt, x0, None, 4, True, False, False)[0].detach()):
            grad = random(N, *((T + 1,) if cumulative else ()), D, 3)
            found.append((ops.transport_backward, (w, dt, x0, states, None, grad, 4, cumulative, False)))
    exponent = ops.transport(links, None, None, None, 0, True, True, False)[2]
    found.append((ops.transport_backward, (links, None, None, None, exponent, random(N, D, D), 0, False, True)))
    return found


@pytest.mark.parametrize(("kind", "requires_grad"), [("real", False), ("real", True), ("complex", False)])
def test_operators(kind: str, requires_grad: bool) -> None:
    """Schema, autograd registration, fake kernels and traces, as torch checks them."""
    for operator, args in samples(kind, requires_grad, "cpu"):
        torch.library.opcheck(operator.default, args)


def test_operators_on_a_device(device: Any) -> None:
    for operator, args in samples("complex", False, device):
        torch.library.opcheck(operator.default, args)


@pytest.mark.parametrize("name", SINGLE)
def test_meta_tensors_give_shapes(name: str) -> None:
    args = arguments(name, requires_grad=False)
    expected = CASES[name].function(*args)
    found = CASES[name].function(*(value.to("meta") for value in args))
    assert (found.shape, found.dtype, found.device.type) == (expected.shape, expected.dtype, "meta")


def test_operators_agree_under_vmap(any_device: Any) -> None:
    """Called by name, too."""
    a = torch.randn(3, D, D, dtype=torch.float64, device=any_device)
    close(torch.vmap(torch.ops.nnsym_fast.expm)(a), expm(a))
    links = torch.randn(4, T, 1, D, D, dtype=torch.float64, device=any_device)
    out = torch.vmap(lambda u: torch.ops.nnsym_fast.transport(u, None, None, None, 0, False, False, False)[0])(links)
    close(out, ordered_product(links[..., 0, :, :]))
