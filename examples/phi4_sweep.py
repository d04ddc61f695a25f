# SPDX-License-Identifier: MIT
"""The figure of docs/phi4.md: the O(2) phi^4 model against eta in one, two and three dimensions, for several sizes.

m^2(eta) = -mu^2 + lambda eta^2 / 4. Every size is swept from the ordered side to the symmetric one, each eta from the
last field of the one before. Errors include autocorrelation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nnsym_fast.physics import Estimate, on_model

Samples = on_model.Samples

MU, COUPLING, N = 1.5, 1.0, 2
SIZES = {1: (16, 64, 256), 2: (8, 16, 32), 3: (4, 6, 10)}
ROWS: tuple[tuple[str, Callable[[Samples], Estimate]], ...] = (
    (r"order parameter $\langle |M| \rangle$", Samples.order_parameter),
    ("Binder cumulant", Samples.binder),
    (r"susceptibility $V(\langle M^2 \rangle - \langle |M| \rangle^2)$", Samples.susceptibility),
)


def draw(path: Path, points: int, trajectories: int) -> None:
    etas = np.linspace(0.2, 3.8, points)
    figure, axes = plt.subplots(len(ROWS), len(SIZES), figsize=(11, 8), sharex=True, sharey="row")
    for column, (dims, sizes) in enumerate(SIZES.items()):
        for shade, size in zip((0.75, 0.5, 0.2), sizes, strict=True):
            found = on_model.sweep(
                etas, (size,) * dims, N, mu=MU, coupling=COUPLING, chains=4, trajectories=trajectories,
                thermalisation=max(50, trajectories // 10), steps=8, start="cold", seed=dims,
            )  # fmt: skip
            for row, (_, observable) in enumerate(ROWS):
                values = found.estimates(observable)
                axes[row, column].errorbar(
                    etas, values[:, 0], values[:, 1], color=plt.get_cmap("viridis")(shade), marker=".", ms=4, lw=1,
                    label=f"L = {size}",
                )  # fmt: skip
        axes[0, column].set_title(f"{dims} dimension{'s' if dims > 1 else ''}")
        axes[0, column].legend(frameon=False)
        axes[-1, column].set_xlabel(r"$\eta$")
        for axis in axes[:, column]:
            axis.axvline(2 * MU / COUPLING**0.5, color="0.7", ls=":", lw=1)
        # The cumulant of an ordered and of a Gaussian M.
        for value in (2 / 3, 1 - (N + 2) / (3 * N)):
            axes[1, column].axhline(value, color="0.7", ls="--", lw=1)
    for row, (label, _) in enumerate(ROWS):
        axes[row, 0].set_ylabel(label)
    axes[2, 0].set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("phi4.png"))
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--trajectories", type=int, default=2000)
    arguments = parser.parse_args()
    draw(arguments.out, arguments.points, arguments.trajectories)
