# SPDX-License-Identifier: MIT
"""torch.nn.Sequential: read, evaluated and moved along its orbit, against torch's own forward pass in float64."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnsym_fast import specs
from nnsym_fast.groups import Monomial, Permutation
from nnsym_fast.reference import orbit_points
from nnsym_fast.symmetry import Leg

torch = pytest.importorskip("torch")
nn = torch.nn

# Both sides are sums of a few hundred float64 products in different orders.
TOLERANCE = 1e-12

MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 3)), (5,)),
    "sequences": (lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)), (4, 5)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32, 10),
        ),
        (2, 8, 8),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            nn.Softsign(),
            nn.Conv2d(6, 6, 3, padding="same", groups=6),
            nn.AdaptiveAvgPool2d((2, 3)),
            nn.Flatten(),
            nn.Linear(36, 4),
            nn.LogSoftmax(dim=1),
        ),
        (3, 9, 8),
    ),
    "padding": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular"),
            nn.PReLU(4),
            nn.Conv2d(4, 5, 5, padding=2, padding_mode="reflect", stride=2),
            nn.ReLU6(),
            nn.Conv2d(5, 4, 3, padding=1, padding_mode="replicate"),
            nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            nn.Conv2d(4, 3, 1, padding="valid"),
        ),
        (2, 7, 6),
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 5, 4, stride=2, dilation=2),
            nn.BatchNorm1d(5, affine=False),
            nn.ELU(),
            nn.MaxPool1d(3, stride=2, padding=1, dilation=2),
            nn.AdaptiveMaxPool1d(2),
            nn.AvgPool1d(2, stride=1, padding=1),
            nn.Flatten(),
            nn.BatchNorm1d(15, track_running_stats=False),
            nn.Linear(15, 3),
            nn.Softmax(dim=-1),
        ),
        (2, 31),
    ),
    "nested": (
        lambda: nn.Sequential(
            OrderedDict(
                body=nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 7), nn.Softplus(2.0)), nn.Identity()),
                head=nn.Linear(7, 3, bias=False),
            )
        ),
        (3, 4),
    ),
}


def build(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module = make().double().eval()
    with torch.no_grad():
        for tensor_name, tensor in module.state_dict().items():
            if tensor_name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                # Defaults of one and zero would hide a leg that is missing on a slope or a mean.
                tensor.add_(0.3 * torch.randn_like(tensor))
    return module, torch.randn(6, *shape, dtype=torch.float64)


def arrays(module: Any) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def relative_gap(value: Any, expected: Any) -> float:
    return float(np.abs(value - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", MODULES)
def test_evaluate_is_torchs_forward_pass(name: str) -> None:
    module, x = build(name)
    layers = specs.describe(module)
    assert specs.shapes(layers) == {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    value = specs.evaluate(layers, arrays(module), x.numpy())
    assert value.dtype == np.float64
    assert relative_gap(value, module(x).detach().numpy()) < TOLERANCE


@pytest.mark.parametrize("batchnorm", ["affine", "weight"])
@pytest.mark.parametrize("name", MODULES)
def test_every_point_of_the_orbit_is_the_same_function(name: str, batchnorm: str) -> None:
    module, x = build(name)
    for child in module.modules():
        if batchnorm == "weight" and getattr(child, "track_running_stats", False):
            child.eps = 0.0  # makes this mode exact; torch wants eps > 0 for the statistics of a batch
    spec, layers = specs.sequential(module, batchnorm), specs.describe(module)
    spec.validate(module.state_dict())
    base = module(x).detach().numpy()
    points = orbit_points(arrays(module), spec, seed=0, start=0, stop=4)
    assert relative_gap(specs.evaluate(layers, points, x.numpy(), stacked=True), base) < TOLERANCE
    for k in range(4):
        point = {key: torch.from_numpy(np.array(array[k])) for key, array in points.items()}
        moved = torch.func.functional_call(module, point, (x,)).detach().numpy()
        assert relative_gap(moved, base) < TOLERANCE
    trained = [points[key] - array for key, array in arrays(module).items() if spec.touched(key)]
    assert all(np.abs(change).max() > 1e-3 for change in trained), "an orbit that does not move proves nothing"


@pytest.mark.parametrize("batchnorm", ["affine", "weight"])
def test_training_mode_is_invariant_too(batchnorm: str) -> None:
    """Statistics of the batch instead of running ones: "affine" is exact, "weight" up to eps."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double().train()
    x = torch.randn(16, 4, dtype=torch.float64)
    spec = specs.sequential(module, batchnorm)
    start = arrays(module)
    point = {name: torch.from_numpy(np.array(array[0])) for name, array in orbit_points(start, spec, 1, 0, 1).items()}
    base_state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    base = torch.func.functional_call(module, base_state, (x,)).detach().numpy()
    moved = torch.func.functional_call(module, point, (x,)).detach().numpy()
    gap = relative_gap(moved, base)
    if batchnorm == "affine":
        assert gap < TOLERANCE
    else:
        assert 1e-8 < gap < 1e-3
    # The statistics that training gathered lie on the same orbit: the step commutes with the group.
    after = orbit_points({name: tensor.detach().numpy() for name, tensor in base_state.items()}, spec, 1, 0, 1)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        np.testing.assert_allclose(point[name].numpy(), after[name][0], rtol=1e-12, atol=1e-14)


def test_stacked_float32_and_float16_parameters_compute_in_float32() -> None:
    module, x = build("cnn")
    layers = specs.describe(module)
    narrow = {name: array.astype(np.float32) for name, array in arrays(module).items()}
    assert specs.evaluate(layers, narrow, x.numpy().astype(np.float32)).dtype == np.float32
    half = {name: array.astype(np.float16)[None] for name, array in arrays(module).items()}
    value = specs.evaluate(layers, half, x.numpy().astype(np.float32), stacked=True)
    assert value.dtype == np.float32
    exact = {name: array[0].astype(np.float64) for name, array in half.items()}
    assert relative_gap(value[0], specs.evaluate(layers, exact, x.numpy())) < 1e-5


def test_names_and_sites_of_a_nested_module() -> None:
    module, _ = build("nested")
    spec = specs.sequential(module)
    assert [layer.get("name") for layer in specs.describe(module)] == [None, "body.1.0", None, None, "head"]
    assert list(spec.legs) == ["body.1.0.weight", "body.1.0.bias", "head.weight"]
    assert spec.sites == {"h0": Permutation(7)}
    assert specs.sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), scale_std=0.1).sites == {
        "h0": Monomial(3, scale_std=0.1)
    }


def test_the_scale_can_sit_on_either_side_of_a_batchnorm() -> None:
    module, _ = build("cnn")
    names = ("0.weight", "0.bias", "1.running_mean", "1.running_var", "1.weight")
    for batchnorm, powers in (("affine", [0, 0, 0, 0, 1]), ("weight", [1, 1, 1, 2, 0])):
        spec = specs.sequential(module, batchnorm)
        assert [spec.legs[name][0] for name in names] == [Leg("h0", power=power) for power in powers]


class Doubled(nn.Linear):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


def hooked() -> Any:
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda *_: None)
    return module


def shared() -> Any:
    module = nn.Linear(2, 2)
    return nn.Sequential(module, nn.Tanh(), module)


def tied() -> Any:
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.LayerNorm(2)), r"module '0' \(LayerNorm\) .*not a supported module; write the legs"),
        (lambda: nn.Sequential(nn.Sequential(nn.LSTM(2, 2))), r"module '0.0' \(LSTM\)"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), r"module '0' \(ConvTranspose2d\)"),
        (lambda: nn.Sequential(Doubled(2, 2)), r"module '0' \(Doubled\) from .*: not a supported module"),
        (lambda: nn.Sequential(hooked()), r"module '0' \(Linear\): it has forward hooks"),
        (shared, r"module '2' \(Linear\): shares its tensor 'weight' with module '0'"),
        (tied, r"module '2' \(Linear\): shares its tensor 'weight' with module '0'"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
            r"module '0' \(ParametrizedLinear\)",
        ),
        (lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), r"module '0' \(MaxPool2d\): ceil_mode=True is not"),
        (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "return_indices=True is not supported"),
        (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "divisor_override=3 is not supported"),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 2, padding="same")), "padding='same' pads unequally"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), r"layer 0 \(Conv2d '0'\): groups=2 with 4 -> 4"),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((None, 1))), r"output: expected an integer .* got \[None, 1\]"),
        (lambda: nn.Sequential(nn.Softmax()), "dim: expected an integer, got None"),
        (lambda: nn.Sequential(nn.Flatten(2)), r"start_dim=2, end_dim=-1; expected Flatten\(1, -1\)"),
    ],
)
def test_unsupported_modules_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        specs.sequential(make())


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: type("Mine", (nn.Sequential,), {})()])
def test_only_a_sequential_can_be_read(make: Any) -> None:
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Sequential, got .* write the legs"):
        specs.describe(make())


def test_what_replaces_the_forward_pass_is_refused() -> None:
    hooked = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="forward hooks"):
        specs.sequential(hooked)
    overridden = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    overridden[1].forward = torch.tanh
    with pytest.raises(ValueError, match=r"module '1'.*a forward of its own"):
        specs.sequential(overridden)
