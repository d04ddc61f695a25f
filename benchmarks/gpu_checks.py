# SPDX-License-Identifier: MIT
"""Every kernel family on the device against the same function of NumPy arrays in double precision on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_tools import Bench, host, poisoned

import nnsym_fast as nf
from nnsym_fast import _device

__all__ = ["check_dense", "check_ode", "check_orbit", "check_wilson", "on_cpu"]

FLOATS = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Relative to the largest entry: roundings of some operations, or of the storage."""

MATRICES = {torch.float32: 2e-4, torch.complex64: 2e-4, torch.float64: 1e-11, torch.complex128: 1e-11}
"""Products of tens of exponentials."""


def network(bench: Bench, shapes: dict[str, Any]) -> dict[str, Any]:
    """Random parameters in double precision; the entries are numbers of every storage type."""
    return {name: np.round(bench.rng.standard_normal(shape) * 16) / 16 for name, shape in shapes.items()}


def points(params: Any, spec: nf.SymmetrySpec, seed: int, start: int, stop: int) -> dict[str, torch.Tensor]:
    """In buffers that were full of NaN."""
    orbit = nf.Orbit(params, spec, seed=seed)
    out = {
        name: torch.full((stop - start, *value.shape), torch.nan, dtype=value.dtype, device=value.device)
        for name, value in orbit.params.items()
    }
    result: dict[str, torch.Tensor] = orbit.points(start, stop, out=out)
    return result


def products(params: Any, spec: nf.SymmetrySpec, seed: int, n: int) -> Any:
    """v w of the points 0 to n - 1."""
    found = points(params, spec, seed, 0, n)
    return host(found["v"]) @ host(found["w"])


def in_poison(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    with poisoned():
        return call(*arguments, **options)


def check_orbit(bench: Bench) -> None:
    """Permutations, signs and scales of MLPs: drawn and applied; given; stacked; differentiated."""
    small = bench.emulated
    sizes = [([3, 9, 5, 2], 5)] if small else [([2, 32, 32, 1], 1001), ([784, 512, 512, 10], 5), ([7, 33, 65, 5], 300),
                                               ([16, 1500, 8], 7), ([16, 9000, 3], 3)]  # fmt: skip
    for widths, n in sizes:
        for activation in ("relu", "tanh", "gelu"):
            spec = nf.specs.mlp(widths, activation=activation)
            params = network(bench, nf.specs.shapes(nf.specs.mlp_layers(widths)))
            seed, start = int(bench.rng.integers(2**63)), int(bench.rng.integers(2**40))
            expected = nf.Orbit(params, spec, seed=seed).points(start, start + n)
            for dtype, bound in FLOATS.items():
                where = f"orbit {'-'.join(map(str, widths))}, {activation}, {str(dtype).removeprefix('torch.')}"
                moved = {name: bench.tensor(value, dtype) for name, value in params.items()}
                bench.compare(where, partial(points, moved, spec, seed, start, start + n), expected, bound)
        _augmented(bench, widths, min(n, 50))


def _augmented(bench: Bench, widths: list[int], n: int) -> None:
    """Networks that carry the axis of the batch, and the gradient by them."""
    spec = nf.specs.mlp(widths, activation="relu")
    shapes = nf.specs.shapes(nf.specs.mlp_layers(widths))
    stacked = network(bench, {name: (n, *shape) for name, shape in shapes.items()})
    seed = int(bench.rng.integers(2**63))
    where = f"augment {'-'.join(map(str, widths))}"
    expected = nf.augment(stacked, spec, seed=seed, start=3)
    moved = {name: bench.tensor(value, torch.float32) for name, value in stacked.items()}
    call = partial(in_poison, nf.augment, moved, spec, seed=seed, start=3)
    bench.compare(where, call, expected, FLOATS[torch.float32])

    def gradients(device: torch.device, dtype: torch.dtype) -> Any:
        elements = spec.sample(n, seed=seed, start=3)
        leaves = {k: torch.tensor(v, dtype=dtype, device=device, requires_grad=True) for k, v in stacked.items()}
        points = nf.act(spec, elements, leaves, stacked=True)
        weights = {k: torch.as_tensor(np.cos(np.arange(v.size)).reshape(v.shape)) for k, v in stacked.items()}
        loss = sum((points[k] * weights[k].to(device, dtype)).sum() for k in points)
        names = list(leaves)
        return dict(zip(names, torch.autograd.grad(loss, [leaves[k] for k in names]), strict=True))

    where = f"gradient of act {'-'.join(map(str, widths))}"
    expected = on_cpu(lambda: gradients(torch.device("cpu"), torch.float64))
    bench.compare(where, lambda: gradients(bench.device, torch.float32), expected, FLOATS[torch.float32])


def on_cpu(call: Callable[[], Any]) -> Any:
    """A call whose CPU tensors the CPU's own kernels serve, also where an emulated device does."""
    before, _device._emulation = _device._emulation, None
    try:
        return call()
    finally:
        _device._emulation = before


def check_dense(bench: Bench) -> None:
    """Transformers: orthogonal and general linear groups of every head, permuted heads, rotated residual streams."""
    size = 16 if bench.emulated else 64
    configs = {
        "llama": {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": size,
            "intermediate_size": 2 * size, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 20,
        },
        "gpt2": {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": size, "n_layer": 1, "n_head": 4,
            "vocab_size": 20, "n_positions": 8,
        },
    }  # fmt: skip
    n = 2 if bench.emulated else 5
    for name, config in configs.items():
        spec = nf.specs.transformer(config)
        shapes = {key: tuple(spec.axis_length(axis) or 20 for axis in axes) for key, axes in spec.legs.items()}
        params = network(bench, shapes)
        seed = int(bench.rng.integers(2**63))
        expected = nf.Orbit(params, spec, seed=seed).points(7, 7 + n)
        for dtype, bound in ((torch.float32, 1e-3), (torch.float64, 1e-10), (torch.bfloat16, 3e-2)):
            where = f"orbit of {name}, {str(dtype).removeprefix('torch.')}"
            moved = {key: bench.tensor(value, dtype) for key, value in params.items()}
            bench.compare(where, partial(points, moved, spec, seed, 7, 7 + n), expected, bound)
    _haar(bench)


def _haar(bench: Bench) -> None:
    """One weight (2, m) between the frame and a site with the group: its points show the drawn matrices."""
    orders = (3, 8) if bench.emulated else (1, 2, 3, 5, 8, 16, 31, 32, 33, 64, 100, 128)
    for m in orders:
        for group in (nf.groups.Orthogonal(m), nf.groups.GeneralLinear(m)):
            spec = nf.SymmetrySpec(sites={"s": group}, legs={"w": ("s", None), "v": (None, "s*")})
            params = {"w": np.eye(m), "v": np.eye(m)}
            seed, n = int(bench.rng.integers(2**63)), 3
            expected = nf.Orbit(params, spec, seed=seed).points(0, n)
            for dtype, bound in ((torch.float32, 2e-4), (torch.float64, 1e-11)):
                where = f"{type(group).__name__} of order {m}, {str(dtype).removeprefix('torch.')}"
                moved = {key: bench.tensor(value, dtype) for key, value in params.items()}
                bench.compare(where, partial(points, moved, spec, seed, 0, n), expected, bound)
                one = np.broadcast_to(np.eye(m), (n, m, m))
                bench.compare(f"{where}: inverse", partial(products, moved, spec, seed, n), one, bound)


def check_wilson(bench: Bench) -> None:
    """Exponentials, products, lines of every Magnus order, flows; sizes from 1 to beyond a warp; gradients."""
    sizes = (1, 2, 3, 5) if bench.emulated else (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 24, 31, 32, 33, 64)
    batch, steps = (3, 5) if bench.emulated else (130, 37)
    rng = bench.rng
    for d in sizes:
        for dtype, bound in MATRICES.items():

            def draw(*shape: int, dtype: torch.dtype = dtype) -> Any:
                values = rng.standard_normal(shape)
                return values + 1j * rng.standard_normal(shape) if dtype.is_complex else values

            count = max(2, batch // max(1, d // 4))
            w = draw(count, steps, d, d) / np.sqrt(d)
            jobs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
                "expm": (nf.wilson.expm, (3 * w[:, 0],)),
                "ordered_product": (nf.wilson.ordered_product, (np.eye(d) + w / 8,)),
                "cumulative_product": (nf.wilson.cumulative_product, (np.eye(d) + w / 8,)),
                "wilson_line": (lambda w: nf.wilson.wilson_line(w, 1 / 16), (w,)),
                "wilson_line, order 4": (
                    lambda w: nf.wilson.wilson_line(w, 1 / 8, magnus_order=4),
                    (w[:, : steps // 2 * 2].reshape(count, -1, 2, d, d),),
                ),
                "wilson_line, order 6, cumulative": (
                    lambda w: nf.wilson.wilson_line(w, 1 / 6, magnus_order=6, cumulative=True),
                    (w[:, : steps // 3 * 3].reshape(count, -1, 3, d, d),),
                ),
                "affine_flow": (
                    lambda w, b, x: nf.wilson.affine_flow(w, b, x, 1 / 16),
                    (w, draw(count, steps, d), draw(count, d)),
                ),
                "wilson_loop": (nf.wilson.wilson_loop, (np.eye(d) + w / 8,)),
            }
            for name, (call, arguments) in jobs.items():
                where = f"{name}, d = {d}, {str(dtype).removeprefix('torch.')}"
                expected = call(*arguments)
                moved = [bench.tensor(value, dtype) for value in arguments]
                bench.compare(where, partial(in_poison, call, *moved), expected, bound)
    for d in (2, 3, 8):
        _line_gradient(bench, d)


def _line_gradient(bench: Bench, d: int) -> None:
    values = bench.rng.standard_normal((3, 6, d, d))
    slope = bench.rng.standard_normal((3, d, d))

    def gradient(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        w = torch.tensor(values, dtype=dtype, device=device, requires_grad=True)
        line = nf.wilson.wilson_line(w, 1 / 16)
        (found,) = torch.autograd.grad(line, w, torch.tensor(slope, dtype=dtype, device=device))
        return found

    where = f"gradient of wilson_line, d = {d}"
    expected = on_cpu(lambda: gradient(torch.device("cpu"), torch.float64))
    bench.compare(where, lambda: gradient(bench.device, torch.float32), expected, 1e-4)


def _mlp(bench: Bench, widths: list[int]) -> tuple[list[Any], list[Any]]:
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [bench.rng.uniform(-1, 1, pair) / np.sqrt(pair[1]) for pair in pairs]
    return weights, [bench.rng.uniform(-1, 1, pair[0]) / np.sqrt(pair[1]) for pair in pairs]


def check_ode(bench: Bench) -> None:
    """Fixed and adaptive methods, fields that run in the kernel, times, statuses and gradients."""
    networks = (
        [[2, 5, 2]]
        if bench.emulated
        else [[2, 64, 2], [2, 32, 32, 2], [3, 17, 3], [8, 64, 8], [32, 128, 32], [64, 256, 64]]
    )
    batch = 3 if bench.emulated else 517
    times = np.linspace(0, 1, 4)
    methods: dict[str, dict[str, Any]] = {
        "rk4": {"method": "rk4", "options": {"steps": 6 if bench.emulated else 20}},
        "euler": {"method": "euler", "options": {"steps": 6}},
        "dopri5": {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
        "tsit5": {"method": "tsit5", "rtol": 1e-5, "atol": 1e-5},
        "dopri8": {"method": "dopri8", "rtol": 1e-5, "atol": 1e-5},
    }
    for widths in networks:
        parts = _mlp(bench, widths)
        y0 = bench.rng.standard_normal((batch, widths[0]))
        for name, options in methods.items():
            exact = {**options, "rtol": 1e-11, "atol": 1e-11} if "rtol" in options else options
            expected = nf.odeint(nf.ode.MLP(*parts, "tanh"), y0, times, **exact)
            bounds = (1e-4, 1e-4) if "rtol" in options else (1e-5, 1e-12)
            for dtype, bound in zip((torch.float32, torch.float64), bounds, strict=True):
                where = f"{name}, tanh MLP {'-'.join(map(str, widths))}, {str(dtype).removeprefix('torch.')}"
                moved = [[bench.tensor(value, dtype) for value in part] for part in parts]
                field, start = nf.ode.MLP(*moved, "tanh"), bench.tensor(y0, dtype)
                bench.compare(where, partial(in_poison, nf.odeint, field, start, times, **options), expected, bound)
        _solution_gradient(bench, parts, y0[: min(batch, 40)])
    _linear(bench)


def _linear(bench: Bench) -> None:
    """A linear field, whose solution the exponential knows."""
    for d in (2, 3) if bench.emulated else (2, 3, 8, 20):
        a, y0 = bench.rng.standard_normal((d, d)) / np.sqrt(d), bench.rng.standard_normal((7, d))
        expected = y0 @ nf.wilson.expm(a).T
        where = f"dopri5, linear field of dimension {d}"

        field, start = nf.ode.Linear(bench.tensor(a, torch.float64)), bench.tensor(y0, torch.float64)
        solution = bench.attempt(where, partial(nf.ode.solve, field, start, [0.0, 1.0], rtol=1e-9, atol=1e-9))
        if solution is not None:
            bench.check(where, solution.ys[-1], expected, 1e-7)
            bench.check(f"{where}: statuses", solution.status, np.zeros(7), 0.0)


def _solution_gradient(bench: Bench, parts: Any, y0: Any) -> None:
    slope = bench.rng.standard_normal(y0.shape)

    def gradient(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        flat = [[torch.tensor(v, dtype=dtype, device=device, requires_grad=True) for v in part] for part in parts]
        start = torch.tensor(y0, dtype=dtype, device=device, requires_grad=True)
        end = nf.odeint(nf.ode.MLP(*flat, "tanh"), start, [0.0, 1.0], method="rk4", options={"steps": 5})[-1]
        leaves = [start, *flat[0], *flat[1]]
        found = torch.autograd.grad(end, leaves, torch.tensor(slope, dtype=dtype, device=device))
        return torch.cat([part.reshape(-1) for part in found])

    widths = "-".join(str(len(part)) for part in parts[1])
    where = f"gradient of rk4, tanh MLP of layers {widths}"
    expected = on_cpu(lambda: gradient(torch.device("cpu"), torch.float64))
    bench.compare(where, lambda: gradient(bench.device, torch.float32), expected, 1e-4)
