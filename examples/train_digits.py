# SPDX-License-Identifier: MIT
"""Train the two small networks that the package ships, on scikit-learn's handwritten digits.

    python examples/train_digits.py [--out DIRECTORY]

Writes ``digits_mlp.safetensors`` (64-256-128-10, ReLU), ``digits_cnn.safetensors`` (convolution, batch normalisation,
ReLU, pooling, linear) and ``digits_probe.npz`` (held-out images, the inputs on which the function is compared). The
metadata of each checkpoint holds its symmetry spec and its layers, so ``nnsym-fast`` needs nothing else.

Needs torch, scikit-learn and safetensors; takes well under a minute on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from nnsym_fast import specs

SEED = 0
EPOCHS = 40
BATCH = 64
NOISE = 0.1  # standard deviation of the noise added to the pixels (range 0 to 1) in every epoch
PROBES = 64
REQUIRED_ACCURACY = 0.96
DATA_DIRECTORY = Path(__file__).resolve().parent.parent / "nnsym_fast" / "data"


def mlp() -> nn.Sequential:
    """The MLP 64-256-128-10 with ReLU; inputs are images flattened to (batch, 64)."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Sequential:
    """A one-layer convolutional network; inputs are images of shape (batch, 1, 8, 8)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The 1,797 digits: training images (n, 1, 8, 8) in [0, 1], held-out images (20 %), and the labels of each."""
    data = load_digits()
    images = (data.images[:, None] / 16.0).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        images, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )
    return tuple(torch.from_numpy(array) for array in (train, test, train_labels, test_labels))  # type: ignore[return-value]


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Adam with a one-cycle learning rate on noisy copies of the images; leaves the network in evaluation mode."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            noisy = images[batch] + NOISE * torch.randn_like(images[batch])
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(noisy), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Fraction of the images whose largest output is their label."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the networks on digits that the package ships.")
    parser.add_argument("--out", type=Path, default=DATA_DIRECTORY, help="directory to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # one thread: the networks are tiny, and the sums do not depend on the machine's cores

    images, held_out, labels, held_out_labels = digits()
    for name, build, input_shape in (("digits_mlp", mlp, [64]), ("digits_cnn", cnn, [1, 8, 8])):
        torch.manual_seed(SEED)
        network = build()
        train(network, images.reshape(-1, *input_shape), labels)
        score = accuracy(network, held_out.reshape(-1, *input_shape), held_out_labels)
        print(f"{name}: {score:.2%} of {len(held_out)} held-out digits")
        if score <= REQUIRED_ACCURACY:
            raise AssertionError(f"{name}: expected more than {REQUIRED_ACCURACY:.0%} of them, got {score:.2%}")
        model = {
            "layers": specs.describe(network),
            "input_shape": input_shape,
            "accuracy": round(score, 4),
            "training": f"scikit-learn digits, pixels / 16, {len(images)} images for training and {len(held_out)} held "
            f"out; Adam, one-cycle to 5e-3, {EPOCHS} epochs of batches of {BATCH}, pixel noise {NOISE}, seed {SEED}",
        }
        metadata = {
            "nnsym_fast.spec": specs.sequential(network).to_json(),
            "nnsym_fast.model": json.dumps(model),
            "nnsym_fast.probes": "digits_probe.npz",
        }
        save_file(network.state_dict(), out / f"{name}.safetensors", metadata)
    np.savez_compressed(out / "digits_probe.npz", probes=held_out[:PROBES].flatten(1).numpy())


if __name__ == "__main__":
    main()
