# SPDX-License-Identifier: MIT
"""Orbits of networks whose tensors lie on a CUDA device: elements, points, and the checks of what a caller brings.

The counterparts of ``elements.draw``, ``elements.complete`` and the loops of ``_program``. Nothing here waits for the
device, so elements that lie there are checked by shape and dtype alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from nnsym_fast import _device, elements
from nnsym_fast._dense import matrix_shape
from nnsym_fast._device import dense
from nnsym_fast._program import Monomial, Program
from nnsym_fast.elements import Site, SiteElements, site_tuples
from nnsym_fast.groups import Group

__all__ = ["complete", "draw", "run"]

CHUNK_BYTES = 256 << 20
"""Dense elements, and tensors between two passes, that are held at a time, at most."""

WORKSPACE_BYTES = 128 << 20
"""Elements of tensors without dense legs that are held at a time, at most."""

Draws = tuple[int, int, int]
"""Seed, first sample, step."""


def _workspace(nbytes: int, like: torch.Tensor) -> tuple[torch.Tensor | None, tuple[int, int]]:
    """Uninitialised memory of the current stream, to be held until the launches are queued, and what kernels take."""
    if not nbytes:
        return None, (0, 0)
    memory = torch.empty(nbytes, dtype=torch.uint8, device=like.device)
    return memory, (memory.data_ptr(), nbytes)


def _addresses(site: Any) -> tuple[int | None, ...]:
    """Of the monomial parts of a site."""
    parts = (site.perm, site.sign, site.scale)
    return tuple(None if part is None else part.data_ptr() for part in parts)


# --- elements


@lru_cache(maxsize=64)
def _sampler(module: Any, sites: tuple[Site, ...], dtype: str) -> Any:
    return module.OrbitPlan(dtype == "float64", site_tuples(sites), [], [])


def draw(
    sites: tuple[Site, ...], n: int, seed: int, start: int, step: int, dtype: str, like: torch.Tensor
) -> list[SiteElements]:
    """``elements.draw``, on the device of ``like``."""
    kind = getattr(torch, dtype)
    result = []
    for index, _, group in sites:
        shape = (n, group.size)
        matrices: tuple[Any, Any] = (None, None)
        shift: Any = None
        if group.dense:
            matrices = dense.draw_matrices(group, index, n, seed, start, step, dtype, like)
        if group.shifted:
            shift = dense.draw_shift(group, index, n, seed, start, step, dtype, like)
        parts: list[Any] = [
            torch.empty(shape, dtype=of, device=like.device) if present else None
            for present, of in ((group.permutes, torch.int32), (group.signed, torch.int8), (group.scaled, kind))
        ]
        parts += [*matrices, shift]
        result.append(SiteElements(*parts))
    if n and any(group.permutes or group.signed or group.scaled for _, _, group in sites):
        plan = _sampler(_device.module(), sites, dtype)
        memory, workspace = _workspace(plan.workspace_of_elements(n, WORKSPACE_BYTES), like)
        outs = [_addresses(site) for site in result]
        plan.elements(_device.place(like), (seed, start, step, n), outs, workspace)
        del memory
    return result


def complete(
    sites: Mapping[str, Group], given: Mapping[str, Any], dtype: str, like: torch.Tensor
) -> tuple[list[SiteElements], int]:
    """``elements.complete``, with parts on the device of ``like``.

    Elements of NumPy are checked as on the CPU and uploaded. Tensors must lie on the device already; their shapes and
    dtypes are checked, their numbers not: the kernels write NaN where ``perm`` is no permutation.

    Raises:
        TypeError: not a mapping, an entry that is no element, a part of another kind of dtype, tensors beside arrays.
        ValueError: a site is missing; a part has another shape, or lies on another device.
    """
    if not isinstance(given, Mapping) or any(name not in given for name in sites):
        return elements.complete(sites, given, dtype)  # which says what is wrong
    held = {name: elements._as_site(name, given[name]) for name in sites}
    parts = [part for site in held.values() for part in vars(site).values() if part is not None]
    if not any(isinstance(part, torch.Tensor) for part in parts):
        listed, count = elements.complete(sites, given, dtype)
        for site in listed:
            # What the CPU's kernels find out by themselves.
            if site.perm is not None and (np.sort(site.perm, axis=1) != np.arange(site.perm.shape[1])).any():
                raise ValueError("elements: a row of perm is not a permutation of 0 .. n - 1")
        return [_upload(site, like) for site in listed], count
    count = given.count if isinstance(given, elements.Elements) else len(parts[0])
    return [_checked(name, group, held[name], count, dtype, like) for name, group in sites.items()], count


def _upload(site: SiteElements, like: torch.Tensor) -> SiteElements:
    parts: list[Any] = [
        None if part is None else torch.from_numpy(part).to(like.device) for part in vars(site).values()
    ]
    return SiteElements(*parts)


def _checked(name: str, group: Group, site: SiteElements, count: int, dtype: str, like: torch.Tensor) -> SiteElements:
    flat, square = (count, group.size), matrix_shape(group, count)
    wanted = (
        (group.permutes, "int32", flat), (group.signed, "int8", flat), (group.scaled, dtype, flat),
        (group.dense, dtype, square), (group.dense, dtype, square), (group.shifted, dtype, flat),
    )  # fmt: skip
    parts: list[Any] = []
    for (part, value), (present, kind, shape) in zip(vars(site).items(), wanted, strict=True):
        where = f"elements[{name!r}].{part}"
        if not present and value is not None:
            raise ValueError(f"{where}: expected None, as {group} has no such part")
        if not present:
            parts.append(None)
            continue
        if value is None:
            if group.dense and part in ("matrix", "inverse") and (site.matrix is None) != (site.inverse is None):
                raise ValueError(f"{where}: expected the matrices and their inverses, shape {shape}, got None")
            value = _identity(part, kind, shape, like.device)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{where}: expected a tensor on {like.device}, as others are, got {type(value).__name__}")
        if value.device != like.device:
            raise ValueError(
                f"{where}: expected a tensor on {like.device}, where the network is, got device {value.device}; "
                "move it with .to()"
            )
        if tuple(value.shape) != shape:
            raise ValueError(f"{where}: expected shape {shape}, got {tuple(value.shape)}")
        floating = kind.startswith("float")
        if value.is_floating_point() != floating or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{where}: expected dtype {kind}, got {value.dtype}")
        parts.append(value.detach().to(getattr(torch, kind)).contiguous())
    if (group.dense or group.shifted) and group.permutes:
        parts[0] = _whole_heads(parts[0], group)
    return SiteElements(*parts)


def _identity(part: str, kind: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A part of the identity, made where it is needed."""
    dtype = getattr(torch, kind)
    if part == "perm":
        return torch.arange(shape[-1], dtype=dtype, device=device).expand(shape)
    if part in ("matrix", "inverse"):
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape)
    return torch.full(shape, 0 if part == "shift" else 1, dtype=dtype, device=device)


def _whole_heads(perm: torch.Tensor, group: Group) -> torch.Tensor:
    """Permutations that move whole heads; any other becomes -1, and its points nan: nobody waits to be told."""
    m = group.head_size
    heads = torch.div(perm[:, ::m], m, rounding_mode="floor")
    units = torch.arange(m, dtype=torch.int32, device=perm.device)
    numbers = torch.arange(group.heads, dtype=torch.int32, device=perm.device)
    whole = ((heads[:, :, None] * m + units).flatten(1) == perm).all(1) & (heads.sort(1).values == numbers).all(1)
    return torch.where(whole[:, None], perm, torch.full_like(perm, -1))


# --- points


def run(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    results: Mapping[str, torch.Tensor],
    count: int,
    stacked: bool,
    draws: Draws,
    given: Mapping[str, SiteElements] | None,
) -> None:
    """Points of prepared tensors, into contiguous ``results`` with the leading axis ``count``, on the current stream.

    Args:
        program: the spec, compiled.
        tensors: tensor name -> contiguous tensor, with a leading axis of networks where ``stacked``.
        results: tensor name -> where its points go.
        count: number of points, at least 1.
        stacked: whether every point has its own network.
        draws: the elements, where none are given.
        given: elements per site, checked.
    """
    for name, target in results.items():
        if name not in program.touched:
            target.copy_(tensors[name])
    sources, outs = ([group[name] for name in program.plain.names] for group in (tensors, results))
    _run_monomial(program.plain, sources, outs, stacked, draws, count, given)
    if program.targets:
        _run_dense(program, tensors, results, count, stacked, draws, given)


def _run_monomial(
    part: Monomial,
    sources: Sequence[torch.Tensor],
    results: Sequence[torch.Tensor],
    stacked: bool,
    draws: Draws,
    count: int,
    given: Mapping[str, SiteElements] | None,
) -> None:
    if not part.names:
        return
    module = _device.module()
    plan = part.on_device.get(module)
    if plan is None:
        plan = part.on_device.setdefault(module, module.OrbitPlan(*part.description))
    parts = None
    if given is not None:
        parts = [_addresses(given[name]) for name in part.sites]
    memory, workspace = _workspace(plan.workspace(count, stacked, WORKSPACE_BYTES), results[0])
    places = [[tensor.data_ptr() for tensor in group] for group in (sources, results)]
    plan.run(_device.place(results[0]), *places, stacked, (*draws, count), parts, workspace)
    del memory  # torch hands it out again on this stream alone


def _run_dense(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    results: Mapping[str, torch.Tensor],
    count: int,
    stacked: bool,
    draws: Draws,
    given: Mapping[str, SiteElements] | None,
) -> None:
    """The tensors with dense legs, as many samples at a time as CHUNK_BYTES allow."""
    seed, first, step = draws
    sites = tuple(program.sites[name] for name in program.dense_sites)
    chunk = max(1, CHUNK_BYTES // program.sample_bytes)
    kind = getattr(torch, program.dtype)
    for begin in range(0, count, chunk):
        n = min(chunk, count - begin)
        start = first + begin * step
        part = None if given is None else {name: site[begin : begin + n] for name, site in given.items()}
        like = results[program.targets[0].name]
        drawn = part or dict(
            zip(program.dense_sites, draw(sites, n, seed, start, step, program.dtype, like), strict=True)
        )
        inputs = {t.name: tensors[t.name][begin : begin + n] if stacked else tensors[t.name] for t in program.targets}
        strides = {t.name: inputs[t.name][0].nbytes if stacked else 0 for t in program.targets}
        stored = {t.name: t.storage for t in program.targets}
        staged = [target for target in program.targets if target.staged]
        if staged:
            moved = [inputs[target.name].to(kind) for target in staged]
            stages = [torch.empty((n, *target.shape), dtype=kind, device=like.device) for target in staged]
            _run_monomial(program.staged, moved, stages, stacked, (seed, start, step), n, part)
            for target, stage in zip(staged, stages, strict=True):
                inputs[target.name], strides[target.name] = stage, stage[0].nbytes
                stored[target.name] = program.dtype
        sources = {name: (inputs[name], strides[name], stored[name]) for name in inputs}
        outs = {target.name: results[target.name][begin : begin + n] for target in program.targets}
        dense.run(program.spec, program.targets, drawn, n, sources, outs, program.dtype)
