# SPDX-License-Identifier: MIT
"""The figure of docs/neural-odes.md: a neural ODE learns a spiral from noisy samples of its trajectories.

The truth is y' = A y^3. The network, a plain nn.Sequential, goes to nf.odeint as it is and runs in the kernel, forward
and backward. Where torchdiffeq is installed, the same training step is timed through it in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import nnsym_fast as nf

Tensor = torch.Tensor

SEED = 0
A = ((-0.1, 2.0), (-2.0, -0.1))
TRAJECTORIES = 64
TIMES = 40
DURATION = 4.0
NOISE = 0.04
EPOCHS = 1500
SOLVER: dict[str, Any] = {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5}


def truth(t: Any, y: Tensor) -> Tensor:
    """A y^3, by component."""
    return y**3 @ torch.tensor(A, dtype=y.dtype).T


def true_trajectories(start: Tensor, t: Tensor) -> Tensor:
    """From (n, 2) at the times t, (len(t), n, 2)."""
    options = {"compiled": "never"}  # a function of Python, and meant as one
    found: Tensor = nf.odeint(truth, start.double(), t, rtol=1e-9, atol=1e-9, options=options)
    return found.float()


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Times (TIMES,), true trajectories (TIMES, TRAJECTORIES, 2) and what is seen of them."""
    generator = torch.Generator().manual_seed(SEED)
    angle = 2 * np.pi * torch.rand(TRAJECTORIES, generator=generator)
    radius = 1.0 + torch.rand(TRAJECTORIES, generator=generator)
    start = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    t = torch.linspace(0.0, DURATION, TIMES, dtype=torch.float64)
    y = true_trajectories(start, t)
    return t, y, y + NOISE * torch.randn(y.shape, generator=generator)


def network() -> nn.Sequential:
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


def step(
    solve: Callable[..., Tensor], field: Any, optimiser: torch.optim.Optimizer, y0: Tensor, t: Tensor, seen: Tensor
) -> float:
    """One step of training: trajectories from y0 are to come close to what is seen."""
    optimiser.zero_grad()
    loss = (solve(field, y0, t, **SOLVER) - seen).square().mean()
    loss.backward()
    optimiser.step()
    return loss.item()


def train(y0: Tensor, t: Tensor, seen: Tensor) -> tuple[nn.Sequential, list[float]]:
    """The trained network and its losses. It first sees short times, then the whole."""
    field = network()
    optimiser = torch.optim.Adam(field.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    losses = []
    for epoch in range(EPOCHS):
        shown = min(TIMES, 4 + 2 * TIMES * epoch // EPOCHS)
        losses.append(step(nf.odeint, field, optimiser, y0, t[:shown], seen[:shown]))
        schedule.step()
    return field, losses


def milliseconds(solve: Callable[..., Tensor], wrap: Callable[[nn.Module], Any], t: Tensor, seen: Tensor) -> float:
    """Best time of a training step on the whole trajectories."""
    module = network()
    optimiser = torch.optim.Adam(module.parameters())
    best = np.inf
    for _ in range(8):
        start = time.perf_counter()
        step(solve, wrap(module), optimiser, seen[0], t, seen)
        best = min(best, time.perf_counter() - start)
    return 1e3 * float(best)


class WithTime(nn.Module):
    """f(t, y), as torchdiffeq calls it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.module(y)
        return result


def draw(out: Path, field: nn.Sequential, t: Tensor, y: Tensor, seen: Tensor) -> None:
    fine = torch.linspace(0.0, DURATION, 400, dtype=torch.float64)
    with torch.no_grad():
        fit = nf.odeint(field, y[0], fine, **SOLVER)
    exact = true_trajectories(y[0], fine)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for i in range(3):
        left.plot(*seen[:, i].T, ".", color=f"C{i}", markersize=4, alpha=0.6, label="seen" if i == 0 else None)
        left.plot(*exact[:, i].T, color="0.8", linewidth=4, zorder=0, label="truth" if i == 0 else None)
        left.plot(*fit[:, i].T, color=f"C{i}", linewidth=1.2, label="neural ODE" if i == 0 else None)
    left.set(title=f"3 of {TRAJECTORIES} trajectories", xlabel="$y_1$", ylabel="$y_2$", aspect="equal")
    left.legend(loc="center", fontsize="small")

    axis = torch.linspace(-2.0, 2.0, 41)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    with torch.no_grad():
        velocity = field(grid)
    error = (velocity - truth(0.0, grid)).norm(dim=-1) / (1.0 + truth(0.0, grid).norm(dim=-1))
    image = right.pcolormesh(axis, axis, error, cmap="Greys", vmin=0.0, vmax=1.0, shading="nearest")
    figure.colorbar(image, ax=right, label="relative error of the field")
    right.streamplot(
        axis.numpy(), axis.numpy(), *velocity.permute(2, 0, 1).numpy(), color="C0", linewidth=0.7, density=1.4
    )
    right.plot(*y.reshape(-1, 2).T, ".", color="C1", markersize=1, alpha=0.4)
    right.set(title="phase portrait that was learned", xlabel="$y_1$", ylabel="$y_2$", aspect="equal")
    right.set(xlim=(-2, 2), ylim=(-2, 2))
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "neural-odes.png")
    out = parser.parse_args().out
    t, y, seen = data()
    start = time.perf_counter()
    field, losses = train(y[0], t, seen)
    took = time.perf_counter() - start
    with torch.no_grad():
        error = (nf.odeint(field, y[0], t, **SOLVER) - y).square().mean().sqrt()
    print(f"{EPOCHS} steps of training in {took:.1f} s; rms residual {losses[-1] ** 0.5:.3f}, noise {NOISE}")
    print(f"rms distance from the true trajectories: {error:.3f}")

    ours = milliseconds(nf.odeint, lambda module: module, t, seen)
    print(f"a step of training on whole trajectories: {ours:.2f} ms")
    try:
        from torchdiffeq import odeint
    except ImportError:
        print("torchdiffeq is not installed: nothing to compare with")
    else:
        theirs = milliseconds(odeint, WithTime, t, seen)
        print(f"the same through torchdiffeq: {theirs:.2f} ms, {theirs / ours:.0f} times as long")
    draw(out, field, t, y, seen)


if __name__ == "__main__":
    main()
