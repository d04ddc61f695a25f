# SPDX-License-Identifier: MIT
"""Weight-space augmentation in a DataLoader: each time a checkpoint is seen, it is another point of its orbit.

A dataset of small trained networks (implicit representations, say) is a stack of checkpoints. A model that learns on
weights should not depend on the numbering of neurons; moving every network of a batch to a random equivalent one is
data augmentation for it.
"""

from __future__ import annotations

import time

import torch
from torch.utils.data import DataLoader, Dataset

import nnsym_fast as nf

WIDTHS = [2, 32, 32, 1]
LAYERS = nf.specs.mlp_layers(WIDTHS, activation="sin")
SPEC = nf.specs.mlp(WIDTHS, activation="sin")  # signed permutations: sin is odd


class Checkpoints(Dataset[dict[str, torch.Tensor]]):
    """Networks stacked along the first axis of every tensor."""

    def __init__(self, stack: dict[str, torch.Tensor]) -> None:
        self.stack = stack

    def __len__(self) -> int:
        return len(self.stack["0.weight"])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {name: value[indices] for name, value in self.stack.items()}


def main() -> None:
    torch.manual_seed(0)
    count, batch = 4096, 512
    stack = {name: torch.randn(count, *shape) for name, shape in nf.specs.shapes(LAYERS).items()}
    loader = DataLoader(Checkpoints(stack), batch_size=batch, shuffle=True, collate_fn=lambda networks: networks)
    x = torch.randn(16, 2)
    nf.augment(next(iter(loader)), SPEC, seed=0)  # the first call registers the operators with torch
    seconds, seen, largest = 0.0, 0, 0.0
    for epoch in range(3):
        for networks in loader:
            before = time.perf_counter()
            moved = nf.augment(networks, SPEC, seed=epoch, start=seen)
            seconds += time.perf_counter() - before
            seen += batch
            largest = max(largest, change_of_function(networks, moved, x))
    each = seconds / seen * 1e6
    print(f"{seen} networks augmented, {each:.2f} us each; their functions changed by {largest:.1e} at most")


def change_of_function(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    """Largest difference of the outputs, relative to their size."""
    old, new = (
        nf.specs.evaluate(LAYERS, {name: value.numpy() for name, value in networks.items()}, x.numpy(), stacked=True)
        for networks in (before, after)
    )
    return float(abs(new - old).max() / old.std())


if __name__ == "__main__":
    main()
