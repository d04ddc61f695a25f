# SPDX-License-Identifier: MIT
"""Every architecture computes the same along its orbit: each symmetry alone, and all of them together."""

from __future__ import annotations

import numpy as np
import pytest
from transformer_cases import BROKEN, CASES, EXACT, FLOAT32, Network, network, orbit

from nnsym_fast import reference, specs

FLOAT32_PARTS = [name for name in CASES if not name.startswith(("gpt2", "bert", "vit"))]


def lacking(net: Network) -> set[str]:
    """What must be requested by name, or is not there at all."""
    return set(net.spec().absent)


@pytest.mark.parametrize("symmetry", specs.SYMMETRIES)
@pytest.mark.parametrize("name", CASES)
def test_each_symmetry_alone(name: str, symmetry: str) -> None:
    net = network(name)
    if symmetry in lacking(net):
        return
    spec = net.spec(symmetries=[symmetry])
    for moved in orbit(spec, net.params):
        assert net.change(moved) < EXACT
        assert any((moved[key] != net.params[key]).any() for key in net.params)


@pytest.mark.parametrize(
    "chosen",
    [
        ("heads", "query-key"),
        ("heads", "value-output"),
        ("heads", "biases"),
        ("heads", "value-output", "biases"),
        ("query-key", "value-output"),
        ("query-key", "biases"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "llama-body", "qwen3", "vit"])
def test_symmetries_of_attention_combine(name: str, chosen: tuple[str, ...]) -> None:
    net = network(name)
    if set(chosen) & lacking(net):
        return
    for moved in orbit(net.spec(symmetries=chosen), net.params):
        assert net.change(moved) < EXACT


@pytest.mark.parametrize("name", CASES)
def test_all_together(name: str) -> None:
    net = network(name)
    spec = net.spec()
    points = orbit(spec, net.params, 4)
    for moved in points:
        assert net.change(moved) < EXACT
    for key in (key for key in net.params if spec.touched(key)):
        assert any((moved[key] != net.params[key]).any() for moved in points), key


@pytest.mark.parametrize("name", FLOAT32_PARTS)
def test_classes_as_they_are(name: str) -> None:
    """Norms, softmaxes and routers in float32, as transformers computes them."""
    net = network(name)
    for moved in orbit(net.spec(), net.params):
        assert net.change(moved, double=False) < FLOAT32


@pytest.mark.parametrize("name", CASES)
def test_every_leg_matters(name: str) -> None:
    """Negative control: one tensor that stays behind changes the output."""
    net = network(name)
    spec = net.spec()
    points = orbit(spec, net.params, 4)
    for key in (key for key in net.params if spec.touched(key)):
        if key.endswith(("key.bias", "k_proj.bias")) and "biases" not in spec.absent:
            continue  # softmax does not see this bias at all, which is a symmetry of its own
        moved = next(moved for moved in points if (moved[key] != net.params[key]).any())
        assert net.change(moved | {key: net.params[key]}) > BROKEN, key


@pytest.mark.parametrize("name", CASES)
def test_kernels_and_reference_agree(name: str) -> None:
    net = network(name)
    spec = net.spec()
    points = reference.act(spec, reference.sample(spec, 2, 5), net.params)
    for index, moved in enumerate(orbit(spec, net.params, 2, 5)):
        for key, value in moved.items():
            np.testing.assert_allclose(value, points[key][index], rtol=1e-12, atol=1e-12)
