# SPDX-License-Identifier: MIT
"""Torch tensors at the boundary, and the torch operators. Imported when a torch tensor first arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from nnsym_fast import _arrays, orbit
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["FRAMEWORK", "OrbitDataset", "differentiable_act", "needs_grad"]

_NUMPY_DTYPE = {torch.bfloat16: "uint16", torch.float16: "float16", torch.float32: "float32", torch.float64: "float64"}


class TorchFramework:
    """CPU tensors of torch."""

    name = "torch"

    def prepare(self, name: str, value: Any) -> torch.Tensor:
        if value.device.type != "cpu":
            raise ValueError(
                f"tensor {name!r}: expected a tensor on the CPU, got device {value.device}; this version has no "
                "kernels for it (nnsym_fast.show_config() says more), move it with .cpu()"
            )
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"tensor {name!r}: expected a dense tensor, got layout {value.layout}; use .to_dense()")
        if value.numel() and not value.data_ptr():
            raise ValueError(f"tensor {name!r}: its storage was freed; gather or materialise it first")
        tensor: torch.Tensor = value.detach()
        # Conjugate and negative views keep their flag in the metadata, which a kernel cannot see.
        tensor = tensor.resolve_neg().resolve_conj().contiguous()
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

    def dtype_name(self, value: Any) -> str:
        return str(value.dtype).removeprefix("torch.")

    def pointer(self, value: Any) -> Any:
        return value.data_ptr()

    def empty(self, shape: tuple[int, ...], like: Any) -> torch.Tensor:
        if like.dtype not in _NUMPY_DTYPE:
            return torch.empty(shape, dtype=like.dtype)
        # torch's own allocator maps small pages.
        return torch.from_numpy(_arrays.empty(shape, _NUMPY_DTYPE[like.dtype])).view(like.dtype)

    def repeat(self, value: Any, n: int) -> torch.Tensor:
        return value.detach().expand(n, *value.shape)  # type: ignore[no-any-return]

    def fill(self, out: Any, value: Any) -> None:
        out.copy_(value)

    def reverse(self, value: Any) -> Any:
        return value.flip(0)

    def check_out(self, name: str, out: Any, like: Any) -> None:
        if not isinstance(out, torch.Tensor) or out.device.type != "cpu":
            raise TypeError(f"out[{name!r}]: expected a torch tensor on the CPU, got {type(out).__name__}")
        if out.dtype != like.dtype:
            raise TypeError(f"out[{name!r}]: expected dtype {like.dtype}, got {out.dtype}")
        if not out.is_contiguous() or out.requires_grad or out.data_ptr() % out.element_size():
            raise ValueError(
                f"out[{name!r}]: expected an aligned contiguous tensor that needs no gradient; "
                "pass the dict of an earlier call"
            )

    def span(self, value: Any) -> tuple[int, int]:
        return value.data_ptr(), value.data_ptr() + value.nbytes


FRAMEWORK = TorchFramework()


def needs_grad(values: Sequence[Any]) -> bool:
    """Whether autograd must see what is done with these tensors."""
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)


@lru_cache(maxsize=64)
def _spec(text: str) -> SymmetrySpec:
    return SymmetrySpec.from_json(text)


def _elements_of(spec: SymmetrySpec, parts: Sequence[torch.Tensor]) -> dict[str, tuple[Any, Any, Any]]:
    """Site -> (perm, sign, scale) from the arrays that elements have, flattened over sites and ``Group.parts``."""
    rest = iter(parts)
    result = {}
    for site, group in spec.sites.items():
        held = {part: next(rest).contiguous().numpy() for part in group.parts}
        result[site] = (held.get("permutation"), held.get("sign"), held.get("scale"))
    return result


def _inverse_parts(spec: SymmetrySpec, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    rest = iter(parts)
    result = []
    for group in spec.sites.values():
        held = {part: next(rest) for part in group.parts}
        order = held["permutation"].argsort(dim=1) if group.permutes else None
        for part in group.parts:
            value = held[part]
            if part == "permutation":
                result.append(value.argsort(dim=1).to(torch.int32))
                continue
            moved = value if order is None else value.gather(1, order)
            result.append(moved.reciprocal() if part == "scale" else moved)
    return result


# Tensors in the order of the spec's legs, elements as a flat list, the spec as its JSON text; stacked tensors out.
@torch.library.custom_op("nnsym_fast::act", mutates_args=())
def _act(
    tensors: Sequence[torch.Tensor],
    parts: Sequence[torch.Tensor],
    spec: str,
    count: int,
    stacked: bool,
) -> list[torch.Tensor]:
    symmetry = _spec(spec)
    params = dict(zip(symmetry.legs, tensors, strict=True))
    return list(orbit.apply(symmetry, _elements_of(symmetry, parts), params, stacked, FRAMEWORK).values())


@_act.register_fake
def _(
    tensors: Sequence[torch.Tensor],
    parts: Sequence[torch.Tensor],
    spec: str,
    count: int,
    stacked: bool,
) -> list[torch.Tensor]:
    return [torch.empty(t.shape if stacked else (count, *t.shape), dtype=t.dtype, device=t.device) for t in tensors]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, parts, ctx.spec, ctx.count, ctx.stacked = inputs
    ctx.save_for_backward(*parts)


def _backward(ctx: Any, grads: Sequence[torch.Tensor]) -> Any:
    # The transpose of the action of g is the action of g^-1 on the dual legs.
    spec = _spec(ctx.spec)
    parts = _inverse_parts(spec, ctx.saved_tensors)
    back = _act(list(grads), parts, spec.dual().to_json(), ctx.count, True)
    return [g if ctx.stacked else g.sum(0) for g in back], [None] * len(parts), None, None, None


_act.register_autograd(_backward, setup_context=_setup_context)


def differentiable_act(
    spec: SymmetrySpec,
    elements: Sequence[tuple[Any, Any, Any]],
    count: int,
    params: Mapping[str, torch.Tensor],
    stacked: bool,
) -> dict[str, torch.Tensor]:
    """``orbit.act`` as a torch operator, differentiable in ``params`` to any order.

    ``elements`` are triples (perm, sign, scale) in the order of the sites, complete and of the kernel's dtypes.
    """
    touched = _touched(spec)
    parts = [torch.from_numpy(part) for triple in elements for part in triple if part is not None]
    tensors = [params[name] for name in touched.legs]
    moved = _act(tensors, parts, touched.to_json(), count, stacked) if tensors else []
    result = dict(zip(touched.legs, moved, strict=True))
    for name, value in params.items():
        if name not in result:
            result[name] = value.clone() if stacked else value.expand(count, *value.shape).clone()
    return {name: result[name] for name in params}


@lru_cache(maxsize=64)
def _touched(spec: SymmetrySpec) -> SymmetrySpec:
    """The spec of the tensors that carry legs."""
    return SymmetrySpec(spec.sites, {name: legs for name, legs in spec.legs.items() if spec.touched(name)})


class OrbitDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Points of an orbit as a map-style dataset."""

    def __init__(self, points: orbit.Orbit) -> None:
        self.orbit = points

    def __len__(self) -> int:
        return len(self.orbit)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: _as_tensor(value) for name, value in self.orbit[index].items()}


def _as_tensor(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) and value.dtype.name == "bfloat16":  # torch knows NumPy's own dtypes only
        return torch.from_numpy(value.view("uint16")).view(torch.bfloat16)
    return torch.as_tensor(value)
