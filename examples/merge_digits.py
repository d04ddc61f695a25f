# SPDX-License-Identifier: MIT
"""Two networks that were trained apart, merged: the barrier between them before and after matching their weights.

    python examples/merge_digits.py [--out docs/merge.png] [--width 1024] [--seeds 1 2]

Two ReLU networks on scikit-learn's digits start from different seeds and see their images in different orders. Half-way
between their weights the loss is high. After weight matching (``nf.gauge_fixing.match``), which moves the second
network along its orbit and leaves its function as it is, most of that barrier is gone. Matched by permutations alone
(as in Ainsworth, Hayase and Srinivasa 2209.04836) and by permutations and the scales that ReLU has.

Needs torch, scikit-learn, SciPy and matplotlib; about a minute on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import nn
from train_digits import digits

import nnsym_fast as nf
from nnsym_fast.gauge_fixing import Barrier, barrier, distance, match

EPOCHS = 30
BATCH = 64
NOISE = 0.1  # standard deviation of the noise added to the pixels (range 0 to 1) in every epoch
POINTS = 25
COLORS = {"nothing": "0.45", "permutations": "C0", "permutations and scales": "C1"}

Params = dict[str, Any]
Data = tuple[torch.Tensor, torch.Tensor]


def build(widths: list[int]) -> nn.Sequential:
    """A multilayer perceptron with ReLU."""
    layers: list[nn.Module] = []
    for number in range(len(widths) - 1):
        layers += [nn.Linear(widths[number], widths[number + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(widths: list[int], data: Data, seed: int) -> Params:
    """Adam with a learning rate that falls along a cosine, on noisy copies of the images; the weights."""
    torch.manual_seed(seed)
    network = build(widths)
    images, labels = data
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(images) // BATCH))
    for batch in batches(len(images)):
        optimizer.zero_grad()
        noisy = images[batch] + NOISE * torch.randn_like(images[batch])
        nn.functional.cross_entropy(network(noisy), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def batches(count: int) -> Iterator[torch.Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(count).split(BATCH)


def measure(widths: list[int], data: Data) -> tuple[Callable[[Params], float], Callable[[Params], float]]:
    """The loss and the error rate of given weights on data, as functions."""
    network = build(widths)
    images, labels = data

    @torch.no_grad()
    def outputs(params: Params) -> torch.Tensor:
        return torch.func.functional_call(network, params, (images,))

    def loss(params: Params) -> float:
        return float(nn.functional.cross_entropy(outputs(params), labels))

    def accuracy(params: Params) -> float:
        return float((outputs(params).argmax(1) == labels).double().mean())

    return loss, accuracy


def draw(out: Path, lines: dict[str, tuple[Barrier, Barrier, Barrier]], widths: list[int]) -> None:
    """The losses and the accuracy along the straight line."""
    titles = ("Loss on training images", "Loss on held-out images", "Accuracy on held-out images")
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    for panel, title, number in zip(panels, titles, range(3), strict=True):
        for label, line in lines.items():
            values = 100 * line[number].losses if number == 2 else line[number].losses
            panel.plot(line[number].alphas, values, color=COLORS[label], marker=".", markersize=4, label=label)
        panel.set(title=title, xlabel="position between the two networks", xlim=(0, 1))
        panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["first", "¼", "½", "¾", "second"])
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("cross entropy")
    panels[1].set_ylabel("cross entropy")
    panels[2].set_ylabel("percent")
    for panel in panels[:2]:
        panel.set_ylim(bottom=0)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, title="The second network, matched by", frameon=False)
    name = "-".join(map(str, widths))
    figure.suptitle(f"On the straight line between two networks {name} (ReLU) from different seeds")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "merge.png")
    parser.add_argument("--width", type=int, default=1024, help="units of each of the two hidden layers")
    parser.add_argument("--seeds", type=int, nargs=2, default=[1, 2], help="seeds of the two networks")
    arguments = parser.parse_args()
    widths = [64, arguments.width, arguments.width, 10]

    images, held_out, labels, held_out_labels = digits()
    seen, unseen = (images.flatten(1), labels), (held_out.flatten(1), held_out_labels)
    a, b = (train(widths, seen, seed) for seed in arguments.seeds)
    train_loss, _ = measure(widths, seen)
    loss, accuracy = measure(widths, unseen)
    for name, params in (("first", a), ("second", b)):
        print(f"{name} network: held-out loss {loss(params):.4f}, accuracy {accuracy(params):.2%}")

    specs = {"permutations": nf.specs.mlp(widths, "gelu"), "permutations and scales": nf.specs.mlp(widths, "relu")}
    lines = {}
    for label in COLORS:
        second = b
        if label in specs:
            begin = time.perf_counter()
            found = match(a, b, specs[label], restarts=0)
            took = time.perf_counter() - begin
            second = found.params
            print(
                f"matched by {label}: distance {found.distance_before:.2f} -> {found.distance:.2f} (norm "
                f"{found.norm:.2f}), {found.sweeps} sweeps, {took:.1f} s; loss of the second now {loss(second):.4f}"
            )
        lines[label] = tuple(barrier(a, second, one, points=POINTS) for one in (train_loss, loss, accuracy))
    print(f"distance of the orbits: {distance(a, b, specs['permutations and scales'], restarts=0):.2f}")

    print(f"{'barrier, matched by':<26}{'training loss':>15}{'held-out loss':>15}{'lowest accuracy':>17}")
    for label, (seen_line, unseen_line, accuracies) in lines.items():
        print(f"{label:<26}{seen_line.height:>15.4f}{unseen_line.height:>15.4f}{accuracies.losses.min():>17.2%}")
    draw(arguments.out, lines, widths)


if __name__ == "__main__":
    main()
