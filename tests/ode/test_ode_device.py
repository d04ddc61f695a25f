# SPDX-License-Identifier: MIT
"""The ODE kernels of a device against the definition and against those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ode_cases import ACTIVATIONS, ADAPTIVE, ORDERS, Weights, random_mlp, states
from ode_fields import FIELDS, field, start

import nnsym_fast as nf
from nnsym_fast import _device, ode, reference
from nnsym_fast._device import ode as device_ode

T = np.array([0.0, 0.35, 0.4, 1.3])
ROUGH: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def net_on(net: Weights, device: torch.device) -> Any:
    """The field with tensors of the device."""

    def put(array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    gates = net.gates and [(put(w), put(b)) for w, b in net.gates]
    return ode.MLP([put(w) for w in net.weights], [put(b) for b in net.biases], net.activation, net.time, gates)


def assert_as_defined(net: Weights, y0: Any, t: Any, device: torch.device, limit: float, **settings: Any) -> None:
    """The same statuses and numbers of steps, and values to rounding that the flow amplifies."""
    found = ode.solve(net_on(net, device), torch.from_numpy(y0).to(device), torch.from_numpy(t), **settings)
    slow = reference.solve(lambda t, y: reference.mlp(t, y, *net), y0, t, **settings)
    np.testing.assert_array_equal(found.status.cpu(), slow.status)
    for name in ("steps", "accepted", "rejected", "evaluations"):
        np.testing.assert_array_equal(found.stats[name].cpu(), slow.stats[name])
    for name in ("ys", "t_end", "y_end"):
        np.testing.assert_allclose(getattr(found, name).cpu(), getattr(slow, name), rtol=limit, atol=limit)
    assert found.ys.device.type == device.type


# --- solutions


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: Any, device: torch.device) -> None:
    for widths, time in (((3, 9, 3), "concat"), ((2, 7, 2), "none"), ((3, 6, 5, 3), "gate")):
        net = random_mlp(1, widths, activation, time)
        y0 = states(2, 5, widths[0])
        assert_as_defined(net, y0, T, device, 1e-12, method="rk4", options={"steps": 3})


@pytest.mark.parametrize("method", ORDERS)
@pytest.mark.parametrize("widths", [(2, 6, 2), (3, 5, 4, 3)])
def test_every_method(method: str, widths: tuple[int, ...], device: torch.device) -> None:
    net = random_mlp(3, widths, "tanh", "concat")
    y0 = states(4, 5, widths[0])
    for options in ({"steps": 2}, {"step_size": 0.17}, *([{}] if method in ADAPTIVE else [])):
        assert_as_defined(net, y0, -T, device, 1e-10, method=method, options=options, **ROUGH)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", range(1, 10))
def test_sizes(d: int, dtype: str, device: torch.device) -> None:
    """Every width of state around those that one thread holds, and odd numbers of samples and units."""
    limit = 1e-12 if dtype == "float64" else 1e-5
    for hidden, batch in ((3, 1), (33, 70)):
        net = random_mlp(0, (d, hidden, d), "tanh", dtype=dtype)
        y0 = states(1, batch, d, dtype=dtype)
        wide = random_mlp(0, (d, hidden, d), "tanh")
        wide = Weights(*([a.astype(np.float64) for a in part] for part in net[:2]), *wide[2:])
        for settings in ({"method": "rk4", "options": {"steps": 2}}, {"method": "dopri5", "options": {"steps": 2}}):
            expected = reference.solve(lambda t, y, w=wide: reference.mlp(t, y, *w), y0.astype(float), T, **settings)
            found = nf.odeint(net_on(net, device), torch.from_numpy(y0).to(device), T, **settings)
            np.testing.assert_allclose(found.cpu(), expected.ys, rtol=limit, atol=limit)


def tensors(name: str, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    return [torch.from_numpy(array).to(device, dtype).requires_grad_() for array in FIELDS[name][0]]


def everything(name: str, batch: int, t: Any, place: torch.device, dtype: torch.dtype, **settings: Any) -> list[Any]:
    """Solution, status, counts, and gradients of y0, t and parameters."""
    build = FIELDS[name][1]
    params = tensors(name, dtype, place)
    y0 = torch.from_numpy(start(name, batch)).to(place, dtype).requires_grad_()
    times = torch.from_numpy(np.array(t)).requires_grad_()
    found = ode.solve(build(params), y0, times, **settings)
    out = torch.where(found.ys.isnan(), 0.0, found.ys).sin()
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).to(place, dtype).reshape(out.shape)
    grads = torch.autograd.grad((weights * out).sum(), [y0, times, *params])
    return [found.ys.detach(), found.status, *found.stats.values(), *grads]


SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"method": "rk4", "options": {"steps": 2}},
    "jumps": {"method": "dopri5", "options": {"steps": 2, "jump_t": [0.1, 0.35]}},
    "checkpoints": {"method": "midpoint", "options": {"steps": 5, "checkpoints": 2}},
    "adaptive": {"method": "dopri5", **ROUGH},
    "dense output": {"method": "dopri8", "options": {"jump_t": [0.1, 0.35], "pcoeff": 0.2}, **ROUGH},
    "event": {"method": "tsit5", "event": ode.Event(component=0, value=0.2), **ROUGH},
    "event, fixed": {"method": "rk4", "options": {"steps": 2}, "event": ode.Event(component=0, value=0.2)},
    "max_steps": {"method": "bosh3", "options": {"max_steps": 9}, **ROUGH},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", FIELDS)
def test_as_on_the_cpu(name: str, settings: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solutions, statuses, counts and gradients; more samples than a warp has."""
    cpu = torch.device("cpu")
    args = (name, 33, T, device, torch.float64)
    found = everything(*args, **SETTINGS[settings])
    monkeypatch.setattr(_device, "_emulation", None)
    expected = everything(*args[:3], cpu, torch.float64, **SETTINGS[settings])
    limit = 1e-7 if "event" in settings else 1e-9
    if name == "linear linear" and "rtol" in SETTINGS[settings]:
        limit = 1e-4  # steps over its kinks: the last bits of a state decide where they begin
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a = a.cpu()
        if a.is_floating_point():
            scale = float(b.nan_to_num().abs().max()) if b.numel() else 0.0
            torch.testing.assert_close(
                a, b, rtol=limit, atol=limit * (1 + scale), equal_nan=True, msg=lambda m, i=i: f"{i}: {m}"
            )
        elif not ("event" in settings and i == 5):  # the search for it takes another step where rounding differs
            assert torch.equal(a, b), i


@pytest.mark.parametrize("settings", ["fixed", "adaptive"])
@pytest.mark.parametrize("name", ["mlp gate", "linear cubic", "sphere", "metric"])
def test_the_adjoint_equation(name: str, settings: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in (device, torch.device("cpu")):
        params = tensors(name, torch.float64, place)
        y0 = torch.from_numpy(start(name, 33)).to(place).requires_grad_()
        t = torch.from_numpy(T).requires_grad_()
        out = nf.odeint_adjoint(FIELDS[name][1](params), y0, t, **SETTINGS[settings])
        found.append(torch.autograd.grad(out.sin().sum(), [y0, t, *params]))
        monkeypatch.setattr(_device, "_emulation", None)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("settings", ["fixed", "adaptive"])
@pytest.mark.parametrize("name", ["mlp concat", "linear piecewise", "sphere"])
def test_order_of_threads(name: str, settings: str) -> None:
    found = []
    for order in (0, 1, 7):
        with _device.emulated(order):
            found.append(everything(name, 33, T, torch.device("cpu"), torch.float32, **SETTINGS[settings]))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b) or torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("widths", [(2, 33, 2), (3, 5, 6, 3)])
def test_gradients_of_a_field(widths: tuple[int, ...], device: torch.device) -> None:
    net = random_mlp(2, widths, "silu", "concat", "float32")
    for t in (0.3, np.linspace(-1, 1, 70)):
        grads = []
        for dtype in (torch.float32, torch.float64):
            place = device if dtype == torch.float32 else torch.device("cpu")
            params = [torch.from_numpy(a).to(place, dtype).requires_grad_() for a in (*net.weights, *net.biases)]
            n = len(widths) - 1
            times = torch.tensor(t, dtype=torch.float64).requires_grad_()
            y = torch.from_numpy(states(5, 70, widths[0])).to(place, dtype).requires_grad_()
            out = ode.MLP(params[:n], params[n:], "silu", "concat")(times, y)
            grads.append(torch.autograd.grad(out.sin().sum(), [y, times, *params]))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a.cpu().double(), b.cpu(), rtol=2e-5, atol=2e-4)


def test_two_samples_to_a_thread(device: torch.device) -> None:
    """Where there are samples enough, threads take pairs of them."""
    count = 3103 if device.type == "cpu" else 200_003
    for d in (2, 3):
        net = random_mlp(0, (d, 3, d), "tanh", dtype="float32")
        y0 = states(1, count, d, dtype="float32")
        y0[5] = np.nan
        start, func = torch.from_numpy(y0).to(device), net_on(net, device)
        settings: dict[str, Any] = {"method": "heun2", "options": {"steps": 1}}
        found, few = ode.solve(func, start, T, **settings), ode.solve(func, start[:90], T, **settings)
        assert torch.equal(found.ys[:, :90].nan_to_num(), few.ys.nan_to_num())
        assert found.status.nonzero().tolist() == [[5]]
        last = ode.solve(func, start[-90:], T, **settings)
        assert torch.equal(found.ys[:, -90:], last.ys)


# --- what a device does otherwise


def blow_up(device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """y' = w y (through relu units): a field, its weight, and states of which the second overflows."""
    w = torch.tensor([[40.0]], dtype=dtype, device=device, requires_grad=True)
    one = torch.ones(1, 1, dtype=dtype, device=device)
    y0 = torch.tensor([[1.0], [1e305], [float("nan")]], dtype=dtype, device=device, requires_grad=True)
    return ode.MLP([w, one], None, "relu"), w, y0


def test_samples_that_fail_do_not_touch_the_others(device: torch.device) -> None:
    """Fixed steps: what was reached has its gradient, what was not counts as zero, without asking the device."""
    func, w, y0 = blow_up(device)
    t = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    found = nf.odeint(func, y0, t, method="euler", options={"steps": 4})
    assert found.isnan().any(-1).tolist() == [[False, False, True], [False, False, True], [False, True, True]]
    gy, gw = torch.autograd.grad(found.nansum(), [y0, w])
    rates = np.array([1.0, (1 + 40 * 0.025) ** 4, (1 + 40 * 0.025) ** 4 * (1 + 40 * 0.225) ** 4])
    np.testing.assert_allclose(gy.detach().cpu()[:, 0], [rates.sum(), rates[:2].sum(), 0.0], rtol=1e-12)
    assert bool(gw.isfinite().all())


def test_times_on_the_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not read: rows that are not times end as not finite, and the others go on."""
    monkeypatch.setattr(device_ode, "_on_host", lambda t: False)
    func = net_on(random_mlp(0, (2, 5, 2)), device)
    y0 = torch.from_numpy(states(0, 5, 2)).to(device)
    rows = [[0.0, 0.5, 1.0], [0.0, 0.5, 0.5], [0.0, float("nan"), 1.0], [1.0, 0.5, 0.7], [1.0, 0.5, 0.2]]
    t = torch.tensor(rows, dtype=torch.float64, device=device)
    for settings in ({"method": "rk4", "options": {"steps": 2}}, {"method": "dopri5"}):
        found = ode.solve(func, y0, t, **settings)
        assert found.status.tolist() == [0, 4, 4, 4, 0]
        assert found.ys.isnan().all(-1).all(0).tolist() == [False, True, True, True, False]
        one = ode.solve(func, y0[0], t[0], **settings)
        torch.testing.assert_close(one.ys, found.ys[:, 0])
    with pytest.raises(ValueError, match="expected t on the CPU"):
        nf.odeint(func, y0, t, method="rk4", options={"step_size": 0.1})
    with pytest.raises(ValueError, match="expected t on the CPU"):
        nf.odeint(func, y0, t, method="rk4", options={"jump_t": [0.1]})


def test_nothing_warns(device: torch.device, recwarn: pytest.WarningsRecorder) -> None:
    func, _, y0 = blow_up(device)
    nf.odeint(func, y0, torch.tensor([0.0, 9.0], dtype=torch.float64), options={"max_steps": 3})
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3)])
def test_empty_batches(shape: tuple[int, ...], device: torch.device) -> None:
    func = net_on(random_mlp(0, (2, 5, 2)), device)
    y0 = torch.zeros(*shape, 2, dtype=torch.float64, device=device, requires_grad=True)
    for t in ([0.0, 1.0], [0.5]):
        found = nf.odeint(func, y0, t)
        assert found.shape == (len(t), *y0.shape)
        (grad,) = torch.autograd.grad(found.sum(), y0)
        assert grad.shape == y0.shape
    assert func(0.0, y0).shape == y0.shape


def test_a_field_that_is_too_wide(device: torch.device) -> None:
    func = net_on(random_mlp(0, (2, 6000, 2)), device)
    with pytest.raises(RuntimeError, match="no kernel serves an MLP with d = 2"):
        nf.odeint(func, torch.zeros(3, 2, dtype=torch.float64, device=device), [0.0, 1.0])


def test_parameters_of_numpy_go_to_the_device(device: torch.device) -> None:
    y0 = torch.from_numpy(start("linear cubic", 5)).to(device)
    found = nf.odeint(field("linear cubic"), y0, T, **SETTINGS["fixed"])
    expected = nf.odeint(field("linear cubic"), start("linear cubic", 5), T, **SETTINGS["fixed"])
    np.testing.assert_allclose(found.cpu(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:odeint")
@pytest.mark.parametrize("integrate", [nf.odeint, nf.odeint_adjoint])
def test_a_sample_that_fails_leaves_gradients_of_shared_times_alone(integrate: Any, any_device: Any) -> None:
    """Its slope at the beginning is not finite, and it pulls nothing back."""
    found = []
    for rows in ([1e200, 0.3], [0.3]):
        y0 = torch.tensor(rows, dtype=torch.float64, device=any_device)[:, None].repeat(1, 10).requires_grad_()
        t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
        integrate(ode.Geodesic.sphere(5), y0, t)[:, -1].square().sum().backward()
        found.append(t.grad)
    torch.testing.assert_close(found[0], found[1])
