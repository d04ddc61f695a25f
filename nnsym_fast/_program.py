# SPDX-License-Identifier: MIT
"""A spec compiled for tensors of given shapes and dtypes, and how its parts run: the kernel of the monomial legs, and,
for tensors with dense legs, the passes behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnsym_fast._arrays import DTYPE_CODE, DTYPE_SIZE, Framework, empty
from nnsym_fast._blocks import blocks_of
from nnsym_fast._native import cpu
from nnsym_fast._passes import Target, passes_of, run, split_legs, widened
from nnsym_fast.elements import Elements, SiteElements, complete, draw, numbered, site_tuples
from nnsym_fast.legs import Axis, axis_legs
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Program", "Signature", "complete_elements", "draw_elements", "run_points"]

CHUNK_SAMPLES = 16
CHUNK_BYTES = 64 << 20
"""Samples whose dense elements, and tensors between two passes, are held at a time, at most."""

Signature = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every tensor of one network."""


class Program:
    """A spec compiled for tensors of given shapes and dtypes, or for those that are named."""

    def __init__(self, spec: SymmetrySpec, signature: Signature, names: frozenset[str] | None = None) -> None:
        spec.validate({name: shape for name, shape, _ in signature})
        touched = [entry for entry in signature if spec.touched(entry[0])]
        for name, _, dtype in touched:
            if dtype not in DTYPE_CODE:
                raise TypeError(
                    f"tensor {name!r}: expected one of {', '.join(DTYPE_CODE)}, as its legs multiply it, got {dtype}"
                )
        self.dtype = "float64" if any(dtype == "float64" for _, _, dtype in touched) else "float32"
        for name, _, dtype in touched:
            if self.dtype == "float64" and DTYPE_SIZE[dtype] == 2:
                raise TypeError(
                    f"tensor {name!r}: {dtype} storage beside float64 tensors is not supported; "
                    "convert the float64 tensors to float32"
                )
        self.spec = spec
        self.sites = dict(zip(spec.sites, numbered(spec.sites.values()), strict=True))
        plain: list[tuple[str, tuple[int, ...], str, tuple[Axis, ...]]] = []
        staged = list(plain)
        targets = []
        for name, shape, dtype in touched:
            if names is not None and name not in names:
                continue
            rest, dense = split_legs(spec, spec.legs[name])
            if not dense:
                plain.append((name, shape, dtype, spec.legs[name]))
            elif 0 not in shape:
                others = any(True for axis in rest for _ in axis_legs(axis))
                targets.append(Target(name, shape, dtype, passes_of(spec, shape, spec.legs[name]), others))
                if others:
                    staged.append((name, shape, self.dtype, rest))
        self.plain = Monomial(self, plain)
        self.staged = Monomial(self, staged)
        self.targets = tuple(targets)
        legs = [leg for target in targets for axis in spec.legs[target.name] for leg in axis_legs(axis)]
        dense_sites = {leg.site for leg in legs} | {leg.order for leg in legs if leg.order}
        self.dense_sites = tuple(name for name in self.sites if name in dense_sites)
        bytes_of_elements = sum(
            2 * 8 * site.group.head_size * site.group.size for name, site in self.sites.items() if name in dense_sites
        )
        bytes_of_stages = sum(8 * target.size for target in targets if target.staged or len(target.passes) > 1)
        self.sample_bytes = max(1, bytes_of_elements + bytes_of_stages)
        self.chunk = max(1, min(CHUNK_SAMPLES, CHUNK_BYTES // self.sample_bytes))
        self.touched = frozenset(name for name, *_ in plain) | frozenset(target.name for target in targets)


class Monomial:
    """The part of a program that the orbit kernel serves: tensors whose legs permute and scale."""

    def __init__(self, program: Program, tensors: Sequence[tuple[str, tuple[int, ...], str, tuple[Axis, ...]]]) -> None:
        self.names = tuple(name for name, *_ in tensors)
        used = {leg.site for *_, axes in tensors for axis in axes for leg in axis_legs(axis)}
        self.sites = tuple(name for name in program.sites if name in used)
        local = {name: (i, program.sites[name].group) for i, name in enumerate(self.sites)}
        blocks = []
        sizes = []
        for index, (name, shape, dtype, axes) in enumerate(tensors):
            boxes = blocks_of(index, DTYPE_CODE[dtype], shape, axes, local)
            if any(len(outer) > cpu.MAX_OUTER for _, _, outer, *_ in boxes):
                raise ValueError(
                    f"tensor {name!r} of shape {shape}: its legs cut it into more than {cpu.MAX_OUTER + 1} loops; "
                    "expected at most 9 axes with legs, neighbouring axes without legs being one"
                )
            blocks += boxes
            sizes.append(int(np.prod(shape, dtype=np.int64)) * DTYPE_SIZE[dtype])
        tuples = site_tuples(program.sites[name] for name in self.sites)
        self.description = (program.dtype == "float64", tuples, blocks, sizes)
        """What a compiled module makes its plan of."""
        self.native = cpu.OrbitPlan(*self.description) if tensors else None
        self.on_device: dict[Any, Any] = {}
        """The plans of modules for devices, made when they are first needed."""

    def run(
        self,
        sources: list[Any],
        results: list[Any],
        stacked: bool,
        draws: tuple[int, int, int],
        count: int,
        elements: Mapping[str, SiteElements] | None,
    ) -> None:
        if self.native is None or not count:
            return
        given: list[tuple[Any, Any, Any]] | None = None
        if elements is not None:
            given = [(site.perm, site.sign, site.scale) for site in map(elements.__getitem__, self.sites)]
        seed, first, step = draws
        self.native.run(sources, results, stacked, seed, first, step, count, given)


def run_points(
    program: Program,
    framework: Framework,
    tensors: Mapping[str, Any],
    results: Mapping[str, Any],
    count: int,
    stacked: bool,
    draws: tuple[int, int, int],
    elements: Mapping[str, SiteElements] | None,
) -> None:
    """Points of prepared tensors into ``results``: by given elements, or by those of ``draws`` (seed, first, step)."""
    if framework.kernels is not None:
        framework.kernels.run(program, tensors, results, count, stacked, draws, elements)
        return
    sources = {name: framework.pointer(tensors[name]) for name in results}
    outs = {name: framework.pointer(target) for name, target in results.items()}
    nbytes = {name: framework.nbytes(target) // count for name, target in results.items()}
    copies = [
        (sources[name], nbytes[name] if stacked else 0, outs[name], nbytes[name])
        for name in results
        if name not in program.touched and nbytes[name]
    ]
    if copies:
        cpu.copy(count, copies)
    names = program.plain.names
    program.plain.run(
        [sources[name] for name in names], [outs[name] for name in names], stacked, draws, count, elements
    )
    if program.targets:
        _run_dense(program, sources, outs, nbytes, count, stacked, draws, elements)


def draw_elements(
    program: Program, framework: Framework, tensors: Mapping[str, Any], count: int, seed: int, first: int
) -> Elements:
    """Elements first, first + 1, ... of a seed, where the tensors are."""
    sites = tuple(program.sites.values())
    if framework.kernels is None:
        drawn = draw(sites, count, seed, first, 1, program.dtype)
    else:
        drawn = framework.kernels.draw(sites, count, seed, first, 1, program.dtype, next(iter(tensors.values())))
    return Elements(dict(zip(program.sites, drawn, strict=True)), count)


def complete_elements(
    program: Program, framework: Framework, tensors: Mapping[str, Any], elements: Mapping[str, Any]
) -> tuple[dict[str, SiteElements], int]:
    """Elements that a caller brings, as the kernels take them, where the tensors are; and their count."""
    sites = program.spec.sites
    if framework.kernels is None:
        listed, count = complete(sites, elements, program.dtype)
    else:
        listed, count = framework.kernels.complete(sites, elements, program.dtype, next(iter(tensors.values())))
    return dict(zip(sites, listed, strict=True)), count


def _run_dense(
    program: Program,
    sources: Mapping[str, Any],
    results: Mapping[str, Any],
    nbytes: Mapping[str, int],
    count: int,
    stacked: bool,
    draws: tuple[int, int, int],
    elements: Mapping[str, SiteElements] | None,
) -> None:
    """The tensors with dense legs, a few samples at a time: their elements and stages stay near the cores."""
    seed, first, step = draws
    sites = tuple(program.sites[name] for name in program.dense_sites)
    for begin in range(0, count, program.chunk):
        n = min(program.chunk, count - begin)
        part = None if elements is None else {name: site[begin : begin + n] for name, site in elements.items()}
        drawn = part or dict(
            zip(program.dense_sites, draw(sites, n, seed, first + begin * step, step, program.dtype), strict=True)
        )
        inputs = {}
        for target in program.targets:
            stride = nbytes[target.name] if stacked else 0
            inputs[target.name] = (_at(sources[target.name], begin if stacked else 0, stride), stride, target.storage)
        _stage(program, inputs, n, stacked, (seed, first + begin * step, step), part)
        outs = {target.name: _at(results[target.name], begin, nbytes[target.name]) for target in program.targets}
        run(program.spec, program.targets, drawn, n, inputs, outs, program.dtype)


def _stage(
    program: Program,
    inputs: dict[str, tuple[Any, int, str]],
    n: int,
    stacked: bool,
    draws: tuple[int, int, int],
    elements: Mapping[str, SiteElements] | None,
) -> None:
    """Permutations and scales of tensors that have dense legs too, in the type of the arithmetic."""
    staged = [target for target in program.targets if target.staged]
    stages = [empty((n, *target.shape), program.dtype) for target in staged]
    moved = [widened(target, inputs[target.name], n, program.dtype) for target in staged]
    program.staged.run(moved, list(stages), stacked, draws, n, elements)
    for target, stage in zip(staged, stages, strict=True):
        inputs[target.name] = (stage, stage.nbytes // n, program.dtype)


def _at(data: Any, sample: int, nbytes: int) -> Any:
    """An array or an address from a sample on."""
    return data + sample * nbytes if isinstance(data, int) else data[sample:] if sample else data
