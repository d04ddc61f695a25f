# SPDX-License-Identifier: MIT
"""The kernels of a device that integrate tiles of samples, which serve wide fields, made to serve all of them here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from ode_cases import ACTIVATIONS, ADAPTIVE, random_mlp
from ode_fields import FIELDS, KNOTS, start

import nnsym_fast as nf
from nnsym_fast import _device
from nnsym_fast._device import ode as on_device
from nnsym_fast.ode import Event

Tensor = torch.Tensor
TIMES = (0.0, 0.35, 0.4, 1.3)
TIGHT: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture
def tiles(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Every job goes to these kernels, also where the ones for narrow fields would serve it."""
    plain = on_device._run

    def run(*args: Any) -> None:
        *most, sizes = args
        plain(*most, {**sizes, "kernel": 2})

    monkeypatch.setattr(on_device, "_run", run)
    monkeypatch.setattr(on_device, "_marks_states", lambda *args: True, raising=False)
    return device


def both(tiles: torch.device, call: Callable[[torch.device], Any]) -> tuple[Any, Any]:
    """What a call returns by these kernels, and by those of the CPU."""
    found = call(tiles)
    emulation, _device._emulation = _device._emulation, None
    try:
        return found, call(torch.device("cpu"))
    finally:
        _device._emulation = emulation


def tensors(arrays: Any, dtype: Any, place: torch.device) -> list[Tensor]:
    return [torch.tensor(array, dtype=dtype, device=place) for array in arrays]


def samples(name: str) -> int:
    """More than a tile of one field; of the others less, which takes half as long."""
    return 34 if name == "mlp gate" else 5


def field(name: str, dtype: Any, place: torch.device) -> Any:
    arrays, build = FIELDS[name]
    return build(tensors(arrays, dtype, place))


def net(place: torch.device, *args: Any, dtype: str = "float64") -> Any:
    weights, biases, activation, time, gates = random_mlp(*args, dtype=dtype)
    kind = getattr(torch, dtype)
    pairs = None if gates is None else [tuple(tensors(pair, kind, place)) for pair in gates]
    return nf.ode.MLP(tensors(weights, kind, place), tensors(biases, kind, place), activation, time, pairs)


def kinks(name: str) -> dict[str, Any]:
    """Steps end where the field has a kink: across one, steps amplify rounding, those of the definition too."""
    return {"jump_t": list(KNOTS)} if name in ("linear linear", "linear cubic") else {}


def same(found: Any, wanted: Any, tolerance: float) -> None:
    """Solutions that agree, to the number of steps."""
    assert torch.equal(found.status.cpu(), wanted.status)
    for name in ("accepted", "rejected", "evaluations"):
        assert torch.equal(found.stats[name].cpu(), wanted.stats[name]), name
    for name in ("ys", "y_end", "t_end"):
        torch.testing.assert_close(
            getattr(found, name).cpu(), getattr(wanted, name), rtol=tolerance, atol=tolerance, equal_nan=True
        )


# --- integration


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
@pytest.mark.parametrize("name", FIELDS)
def test_every_field(name: str, method: str, tiles: torch.device) -> None:
    y0 = start(name, samples(name))

    def solve(place: torch.device) -> Any:
        y = torch.tensor(y0, device=place)
        options = {"steps": 2} if method == "rk4" else kinks(name)
        return nf.ode.solve(field(name, torch.float64, place), y, TIMES, method=method, options=options, **TIGHT)

    same(*both(tiles, solve), 1e-11)


@pytest.mark.parametrize("time", ["none", "concat", "gate"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: Any, time: str, tiles: torch.device) -> None:
    y0 = np.random.default_rng(1).standard_normal((5, 3))

    def call(place: torch.device) -> Any:
        f, y = net(place, 1, (3, 9, 5, 3), activation, time), torch.tensor(y0, device=place).requires_grad_()
        out = f(0.4, y)
        (slope,) = torch.autograd.grad(out.sin().sum(), y)
        return out.detach().cpu(), slope.cpu()

    for ours, theirs in zip(*both(tiles, call), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "widths", [(1, 1), (2, 130, 2), (5, 33, 17, 5), (40, 3, 40), (3, *[6] * 9, 3), (2, *[3, 18] * 8, 2), (33, 301, 33)]
)
def test_widths_and_depths(widths: tuple[int, ...], dtype: str, tiles: torch.device) -> None:
    y0 = np.random.default_rng(1).standard_normal((3, widths[0])).astype(dtype)

    def call(place: torch.device) -> Any:
        y = torch.tensor(y0, device=place)
        return nf.odeint(net(place, 0, widths, "tanh", "concat", dtype=dtype), y, TIMES[::3], method="euler").cpu()

    found, wanted = both(tiles, call)
    scale = float(wanted.abs().max())
    limit = (1e-14 if dtype == "float64" else 2e-6) * scale * len(widths)
    torch.testing.assert_close(found, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4"])
def test_times_of_their_own(method: str, tiles: torch.device) -> None:
    """Forwards and backwards in one batch, with results that lie close."""
    rng = np.random.default_rng(1)
    y0 = 0.4 * rng.standard_normal((34, 3))
    t = np.cumsum(rng.uniform(0.02, 0.2, (34, 6)), -1) * rng.choice([-1.0, 1.0], (34, 1))

    def solve(place: torch.device) -> Any:
        f = net(place, 8, (3, 12, 3), "sin", "concat")
        options = {"step_size": 0.1} if method == "rk4" else {}
        y = torch.tensor(y0, device=place)
        return nf.ode.solve(f, y, torch.tensor(t), method=method, rtol=1e-4, atol=1e-4, options=options)

    same(*both(tiles, solve), 1e-10)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "dopri8"])
def test_events(method: str, tiles: torch.device) -> None:
    y0 = np.random.default_rng(6).standard_normal((33, 3))

    def solve(place: torch.device) -> Any:
        options = {"steps": 6} if method == "rk4" else {}
        y, event = torch.tensor(y0, device=place), Event(weights=[1.0, 0.5, -1.0], value=0.3)
        f = net(place, 5, (3, 8, 3), "sin")
        return nf.ode.solve(f, y, [0.0, 1.0, 4.0], method=method, options=options, event=event, **TIGHT)

    found, wanted = both(tiles, solve)
    assert 5 < int((wanted.status == nf.ode.Status.EVENT).sum()) < 33
    for name in ("ys", "y_end", "t_end"):
        torch.testing.assert_close(
            getattr(found, name).cpu(), getattr(wanted, name), rtol=1e-9, atol=1e-9, equal_nan=True
        )
    assert torch.equal(found.status.cpu(), wanted.status)
    assert torch.equal(found.stats["accepted"].cpu(), wanted.stats["accepted"])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", ["rk4", "bosh3", "dopri8"])
def test_jumps(method: str, backwards: bool, tiles: torch.device) -> None:
    rng = np.random.default_rng(0)
    w, b, y0 = rng.standard_normal((3, 2, 2)), rng.standard_normal((3, 2)), rng.standard_normal((6, 2))
    times = [0.0, 0.5, 1.0, 1.6]

    def solve(place: torch.device) -> Any:
        f = nf.ode.Linear(*tensors((w, b), torch.float64, place), [0.0, 0.3, 1.0, 1.7], "piecewise")
        y, t = torch.tensor(y0, device=place), times[::-1] if backwards else times
        return nf.ode.solve(f, y, t, method=method, options={"jump_t": (0.3, 1.0)}, **TIGHT)

    same(*both(tiles, solve), 1e-11)


@pytest.mark.parametrize("options", [{"max_steps": 5}, {"dt_min": 0.3}, {"steps": 40}])
def test_samples_that_fail(options: dict[str, Any], tiles: torch.device) -> None:
    """A growth that leaves float64, a state that is nan, and one that does well."""
    y0 = np.array([[1.0], [1e-300], [np.nan], [-2.0]])

    def solve(place: torch.device) -> Any:
        f = nf.ode.MLP(tensors([[[40.0]]], torch.float64, place), [None])
        y = torch.tensor(y0, device=place)
        return nf.ode.solve(f, y, [0.0, 0.1, 18.0], rtol=1e-4, atol=1e-200, options=options)

    same(*both(tiles, solve), 1e-9)


def test_times_that_are_wrong(tiles: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a device are not read by Python."""
    monkeypatch.setattr(on_device, "_on_host", lambda t: False)
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 1.0], [0.0, float("nan"), 2.0]], dtype=torch.float64, device=tiles)
    y0 = torch.ones(3, 2, dtype=torch.float64, device=tiles)
    for method in ("rk4", "dopri5"):
        found = nf.ode.solve(net(tiles, 0, (2, 3, 2)), y0, t, method=method)
        assert found.status.tolist() == [0, 4, 4]
        assert torch.isnan(found.ys[:, 1:]).all()
        assert torch.isfinite(found.ys[:, 0]).all()


# --- reverse passes


def gradients(place: torch.device, name: str, count: int, dtype: Any, call: Any, t: Any, **settings: Any) -> Any:
    arrays, build = FIELDS[name]
    y0, *params = [x.requires_grad_() for x in tensors([start(name, count), *arrays], dtype, place)]
    times = torch.tensor(t, dtype=torch.float64).requires_grad_()
    out = call(build(params), y0, times, **settings)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=dtype, device=place).reshape(out.shape)
    found = torch.autograd.grad((weights * out.sin()).sum(), [y0, times, *params])
    return [x.cpu() for x in found]


def close(pair: Any, tolerance: float) -> None:
    for ours, theirs in zip(*pair, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * scale)


REVERSE: dict[str, dict[str, Any]] = {
    "states given": {"method": "rk4", "options": {"steps": 2}},
    "states recorded": {"method": "rk4", "options": {"steps": 3, "checkpoints": 2}},
    "jumps": {"method": "dopri5", "options": {"steps": 2, "jump_t": [0.1, 0.35, 0.4]}},
    "adaptive": {"method": "dopri5", **TIGHT},
    "dense": {"method": "dopri8", "rtol": 1e-5, "atol": 1e-5},
}


@pytest.mark.parametrize("how", REVERSE)
@pytest.mark.parametrize("name", FIELDS)
def test_gradients_of_every_field(name: str, how: str, tiles: torch.device) -> None:
    settings, count = {"options": kinks(name), **REVERSE[how]}, samples(name)
    close(both(tiles, lambda place: gradients(place, name, count, torch.float64, nf.odeint, TIMES, **settings)), 1e-9)


@pytest.mark.parametrize("name", FIELDS)
def test_adjoints_of_every_field(name: str, tiles: torch.device) -> None:
    settings: dict[str, Any] = {"method": "dopri5", "rtol": 1e-7, "atol": 1e-7, "options": kinks(name)}
    call, count = nf.odeint_adjoint, samples(name)
    close(both(tiles, lambda place: gradients(place, name, count, torch.float64, call, TIMES, **settings)), 1e-9)


def test_float32(tiles: torch.device) -> None:
    for call in (nf.odeint, nf.odeint_adjoint):
        for settings in ({"method": "rk4", "options": {"steps": 4}}, {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}):
            for name in ("mlp gate", "linear cubic", "metric"):
                close(both(tiles, lambda p: gradients(p, name, 5, torch.float32, call, TIMES, **settings)), 2e-4)  # noqa: B023


def test_more_steps_than_records(tiles: torch.device) -> None:
    """With few records the reverse pass integrates parts again, from snapshots that it keeps and gives up."""
    t, few = [0.0, 0.5, 2.0], {"checkpoints": 4, "first_step": 0.0125, "dt_max": 0.0125}
    for method, options in (("bosh3", few), ("midpoint", {"steps": 80, "checkpoints": 4})):
        settings: dict[str, Any] = {"method": method, "options": options, **TIGHT}

        def call(place: torch.device) -> Any:
            return gradients(place, "mlp concat", 2, torch.float64, nf.odeint, t, **settings)  # noqa: B023

        close(both(tiles, call), 1e-9)


def test_gradients_with_samples_that_fail(tiles: torch.device) -> None:
    """A sample that overflows on the way has the gradient of what came before, and harms no other."""
    y0 = np.array([[1.0], [1e-300], [-2.0]])

    def call(place: torch.device) -> Any:
        w, y = tensors([[[40.0]], y0], torch.float64, place)
        f = nf.ode.MLP([w.requires_grad_()], [None])
        found = nf.odeint(f, y.requires_grad_(), [0.0, 0.1, 18.0], method="rk4", options={"steps": 100})
        return [x.cpu() for x in torch.autograd.grad(found[:2].sum() + found[2, 1].sum(), [w, y])]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(both(tiles, call), 1e-9)


# --- the order of threads


@pytest.mark.parametrize("name", ["mlp gate", "linear cubic", "sphere", "metric"])
def test_the_order_of_threads_does_not_matter(name: str, tiles: torch.device) -> None:
    emulated = tiles.type == "cpu"
    orders: list[Any] = [_device.emulated(order) if emulated else nullcontext() for order in (0, 1, 7)]
    runs = []
    for order in orders:
        with order:
            runs.append(
                [
                    value
                    for call in (nf.odeint, nf.odeint_adjoint)
                    for value in gradients(tiles, name, 34, torch.float32, call, TIMES, method="dopri5", rtol=1e-3)
                ]
            )
    for run in runs[1:]:
        for ours, theirs in zip(run, runs[0], strict=True):
            assert torch.equal(ours, theirs)
