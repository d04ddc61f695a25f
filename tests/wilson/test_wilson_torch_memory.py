# SPDX-License-Identifier: MIT
"""Torch tensors as memory: views of every kind, what kernels are asked for, and what autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from wilson_torch_cases import CASES, D, N, T, arguments, close, loss, torch

from nnsym_fast import _wilson
from nnsym_fast.wilson import affine_flow, cumulative_product, expm, ordered_product, wilson_line


def test_views_are_read_as_they_are_meant() -> None:
    """Conjugate, negative, transposed, expanded, offset and misaligned tensors."""
    u = torch.randn(6, T, 3, 3, dtype=torch.complex64)
    raw = torch.frombuffer(bytearray(b"\0" + u.numpy().tobytes()), dtype=torch.complex64, offset=1).reshape(u.shape)
    views = {
        "conj": u.conj(), "neg": u.conj().imag, "mH": u.mH, "flip": u.flip(1), "step": u[::2], "offset": u[1:, 1:],
        "swap": u.transpose(0, 1), "expand": u[:1].expand(4, T, 3, 3), "real": u.real, "misaligned": raw,
    }  # fmt: skip
    for name, view in views.items():
        expected = ordered_product(view.resolve_conj().resolve_neg().numpy())
        np.testing.assert_array_equal(ordered_product(view).numpy(), expected, err_msg=name)
    with torch.inference_mode():
        np.testing.assert_array_equal(ordered_product(u).numpy(), ordered_product(u.numpy()))


def test_freed_storage_is_refused() -> None:
    a = torch.randn(D, D)
    a.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="storage was freed"):
        expm(a)


def test_inputs_stay_and_results_are_new() -> None:
    u = torch.randn(N, T, D, D)
    before = u.clone()
    x0 = torch.randn(N, D)
    results = [expm(u), cumulative_product(u[:, :0]), affine_flow(u[:, :0], torch.zeros(N, 0, D), x0, 1.0)]
    for result in results:
        result.fill_(7.0)
    assert torch.equal(u, before)
    assert (x0 != 7.0).all()


@pytest.mark.parametrize("name", ["ordered", "ordered log", "loop", "line 2", "line 4"])
def test_states_are_computed_for_gradients_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    kernel = _wilson.transport

    def watch(w: Any, dt: Any, x0: Any, b: Any, order: int, cumulative: bool, log_scale: bool) -> Any:
        asked.append(cumulative)
        return kernel(w, dt, x0, b, order, cumulative, log_scale)

    monkeypatch.setattr(_wilson, "transport", watch)
    args = arguments(name)
    CASES[name].function(*(value.detach() for value in args))
    with torch.no_grad():
        CASES[name].function(*args)
    assert asked == [False, False]
    CASES[name].function(*args)
    assert asked[-1] is True


def saved(function: Callable[..., Any], *args: Any) -> list[Any]:
    """The tensors that autograd keeps."""
    found: list[Any] = []

    def pack(value: Any) -> Any:
        found.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        function(*args)
    return found


@pytest.mark.parametrize("options", [{}, {"log_scale": True}, {"magnus_order": 4}, {"cumulative": True}])
def test_a_checkpoint_keeps_the_path_only(options: dict[str, Any]) -> None:
    """Of the size of T matrices, autograd keeps w itself and no more."""
    steps, d = 64, 5
    nodes = (2,) if options.get("magnus_order") == 4 else ()
    w = torch.randn(steps, *nodes, d, d, requires_grad=True)
    dt = torch.full((steps,), 0.01, requires_grad=True)
    large = {
        checkpoint: [
            value for value in saved(partial(wilson_line, **options, checkpoint=checkpoint), w, dt)
            if value.numel() >= steps * d
        ]
        for checkpoint in (False, True)
    }  # fmt: skip
    assert {value.untyped_storage().data_ptr() for value in large[True]} == {w.untyped_storage().data_ptr()}
    assert sum(value.numel() == (steps + 1) * d * d for value in large[False]) == 1


def test_a_checkpoint_changes_no_gradient() -> None:
    for name in ("ordered", "loop", "ordered log"):
        args = arguments(name)
        kept = torch.autograd.grad(loss(name)(*args), args)
        again = torch.autograd.grad(loss(f"{name} checkpoint")(*args), args)
        close(kept, again)


def test_a_step_size_needs_no_memory() -> None:
    """A number for dt reaches the kernel as one number, whatever the batch."""
    seen: list[Any] = []
    kernel = _wilson.transport
    w = torch.randn(5, 7, D, D)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wilson, "transport", lambda w, dt, *rest: seen.append(dt.shape) or kernel(w, dt, *rest))
        wilson_line(w, 0.1)
        wilson_line(w, torch.rand(7))
        wilson_line(w, torch.rand(5, 1))
        wilson_line(w.numpy(), 0.1)
    assert seen == [(1, 1), (1, 7), (5, 1), (1, 1)]
