# SPDX-License-Identifier: MIT
"""Which modules of torch are recognised, what is noticed afterwards, and what is left to Python with a reason."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnsym_fast import ode

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

D = 3
T = [0.0, 0.6, 1.0]
REQUIRE = {"compiled": "require"}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def double(module: Any) -> Any:
    return module.double()


def chain(*activations: Any) -> Any:
    """Linear layers with the activations between them."""
    layers: list[Any] = [nn.Linear(D, 8)]
    for activation in activations:
        layers += [activation, nn.Linear(8, 8)]
    return double(nn.Sequential(*layers, nn.Linear(8, D)))


def state() -> Any:
    return torch.linspace(-1, 1, 4 * D, dtype=torch.float64).reshape(4, D)


class Func(nn.Module):
    """A module whose forward is the given function of (self, t, y)."""

    def __init__(self, forward: Callable[..., Any] | None = None, inputs: int = D) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, D))
        self.first, self.last = nn.Linear(inputs, 8), nn.Linear(8, D)
        self.slope = 0.3
        self.double()

    def forward(self, t: Any, y: Any) -> Any:
        return self.net(y)


def subclass(forward: Callable[..., Any], inputs: int = D) -> Any:
    return type("Sub", (Func,), {"forward": forward})(inputs=inputs)


def agrees(module: Any) -> None:
    """The module runs in the kernel, with its values and gradients."""
    found = ode.MLP.from_torch(module)
    y = state().requires_grad_()
    t = torch.tensor(0.37, dtype=torch.float64)
    expected = module(y) if isinstance(module, nn.Sequential) else module(t, y)
    torch.testing.assert_close(found(t, y), expected, rtol=1e-12, atol=1e-12)
    used = [p for p in module.parameters() if p.requires_grad]
    pairs = [torch.autograd.grad(out.sin().sum(), [y, *used], allow_unused=True) for out in (found(t, y), expected)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    ode.odeint(module, y, T, method="rk4", options=REQUIRE)


def refused(module: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ode.MLP.from_torch(module)
    with pytest.raises(ValueError, match=r"^func: .* cannot run in the kernel"):
        ode.odeint(module, state(), T, options=REQUIRE)


# --- recognised

ACTIVATIONS = {
    "relu": nn.ReLU,
    "inplace": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.3),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU(approximate="tanh"),
    "elu": lambda: nn.ELU(0.7),
    "identity": nn.Identity,
    "no dropout": lambda: nn.Dropout(0.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_sequential(name: str) -> None:
    agrees(chain(ACTIVATIONS[name](), nn.Tanh()))


def test_nested_shared_and_without_bias() -> None:
    inner = nn.Sequential(nn.Linear(D, 4, bias=False), nn.Tanh())
    last = nn.Linear(4, D)
    agrees(double(nn.Sequential(inner, nn.Identity(), nn.Sequential(last, nn.Tanh()))))
    layer = nn.Linear(D, D)
    agrees(double(nn.Sequential(layer, nn.Tanh(), layer)))
    agrees(chain(nn.Dropout(0.5)).eval())


FORWARDS: dict[str, Callable[..., Any]] = {
    "net": lambda self, t, y: self.net(y),
    "layers": lambda self, t, y: self.last(torch.tanh(self.first(y))),
    "methods": lambda self, t, y: self.last(self.first(y).sigmoid()).tanh(),
    "slope": lambda self, t, y: self.last(F.leaky_relu(self.first(y), self.slope)),
    "keywords": lambda self, t, y: self.last(F.gelu(self.first(y), approximate="tanh")),
    "sin": lambda self, t, y: self.last(torch.sin(self.first(y))),
    "elu": lambda self, t, y: self.last(F.elu(self.first(y), alpha=0.4)),
    "softplus": lambda self, t, y: self.last(F.softplus(self.first(y))),
    "functional": lambda self, t, y: F.linear(
        F.silu(F.linear(y, self.first.weight, self.first.bias)), self.last.weight
    ),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_modules(name: str) -> None:
    agrees(subclass(FORWARDS[name]))


CONCAT: dict[str, Callable[..., Any]] = {
    "ones like": lambda self, t, y: self.net(torch.cat([y, torch.ones_like(y[..., :1]) * t], -1)),
    "expand": lambda self, t, y: self.net(torch.cat([y, t.expand(y.shape[0], 1)], dim=-1)),
    "expand as": lambda self, t, y: self.net(torch.cat((y, t.expand_as(y[..., :1])), dim=-1)),
    "first": lambda self, t, y: self.net(torch.cat([t * torch.ones_like(y[:, :1]), y], 1)),
    "full": lambda self, t, y: self.net(torch.cat([y, torch.zeros_like(y[:, :1]) + t], -1)),
}


@pytest.mark.parametrize("name", CONCAT)
def test_modules_that_concatenate_the_time(name: str) -> None:
    module = subclass(CONCAT[name], D + 1)
    assert ode.MLP.from_torch(module).code().time == 1
    agrees(module)


def test_parametrised_weights_are_computed_at_every_call() -> None:
    class Double(nn.Module):
        def forward(self, w: Any) -> Any:
            return 2 * w

    module = chain(nn.Tanh())
    nn.utils.parametrize.register_parametrization(module[0], "weight", Double())
    agrees(module)
    outer = Func()
    nn.utils.parametrizations.weight_norm(outer.net[0])
    agrees(outer)


def test_parameters_are_live() -> None:
    for module in (chain(nn.Tanh()), Func()):
        found = ode.MLP.from_torch(module)
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(0.5)
        y = state()
        expected = module(y) if isinstance(module, nn.Sequential) else module(None, y)
        torch.testing.assert_close(found(0.0, y), expected)
        for p, value in zip(module.parameters(), [p.clone() for p in module.parameters()], strict=True):
            p.data = value + 0.1
        expected = module(y) if isinstance(module, nn.Sequential) else module(None, y)
        torch.testing.assert_close(found(0.0, y), expected)


def test_functional_call() -> None:
    """Other parameters for one call."""
    module = Func()
    others = {name: 2 * p.detach() for name, p in module.named_parameters()}

    class Solve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.func = module

        def forward(self, y: Any) -> Any:
            return ode.odeint(self.func, y, T, method="rk4", options=REQUIRE)

    found = torch.func.functional_call(Solve(), {f"func.{name}": p for name, p in others.items()}, (state(),))
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(others[name])
    torch.testing.assert_close(found, Solve()(state()))


# --- noticed


def both(module: Any) -> tuple[Any, Any]:
    y, t = state(), torch.tensor(0.2, dtype=torch.float64)
    expected = module(y) if isinstance(module, nn.Sequential) else module(t, y)
    return ode.MLP.from_torch(module)(t, y), expected


def test_changes_are_noticed() -> None:
    """After a first recognition: replaced layers, attributes of activations and modules, another forward."""
    sequential = chain(nn.LeakyReLU(0.1))
    outer, sub = Func(), subclass(FORWARDS["slope"])
    outer.net = nn.Sequential(*chain(nn.LeakyReLU(0.1)))
    for module in (sequential, outer, sub):
        torch.testing.assert_close(*both(module))
    sequential[1].negative_slope = outer.net[1].negative_slope = sub.slope = 0.9
    for module in (sequential, outer, sub):
        torch.testing.assert_close(*both(module))
    sequential[1], outer.net[1], sub.last = nn.Sigmoid(), nn.Sigmoid(), double(nn.Linear(8, D))
    for module in (sequential, outer, sub):
        torch.testing.assert_close(*both(module))
    outer.net = chain(nn.ELU(), nn.SiLU())
    torch.testing.assert_close(*both(outer))
    type(sub).forward = FORWARDS["sin"]
    torch.testing.assert_close(*both(sub))


SCALE = 0.2


def test_changed_globals_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = subclass(lambda self, t, y: self.last(F.leaky_relu(self.first(y), SCALE)))
    torch.testing.assert_close(*both(module))
    monkeypatch.setitem(globals(), "SCALE", 0.8)
    torch.testing.assert_close(*both(module))


def test_a_hook_is_noticed() -> None:
    for module, child in ((m, c) for m in (chain(nn.Tanh()), Func()) for c in (m, next(m.children()))):
        ode.MLP.from_torch(module)
        handle = child.register_forward_hook(lambda m, args, out: 2 * out)
        refused(module, "hooks")
        handle.remove()
        ode.MLP.from_torch(module)


def test_dropout_is_noticed() -> None:
    module = chain(nn.Dropout(0.5)).eval()
    ode.MLP.from_torch(module)
    refused(module.train(), "dropout in training mode")


def test_modules_are_not_kept_alive() -> None:
    module = Func()
    ode.odeint(module, state(), T, method="rk4", options=REQUIRE)
    seen = weakref.ref(module)
    del module
    gc.collect()
    assert seen() is None


# --- refused


def counts(self: Any, t: Any, y: Any) -> Any:
    self.nfe = getattr(self, "nfe", 0) + 1
    return self.net(y)


def branches(self: Any, t: Any, y: Any) -> Any:
    if y.sum() > 0:
        return self.net(y)
    return -self.net(y)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "scaled": (lambda self, t, y: 2 * self.net(y), "chain"),
    "time outside": (lambda self, t, y: self.net(y) * t, "chain"),
    "residual": (lambda self, t, y: y + self.net(y), "chain"),
    "two branches": (lambda self, t, y: self.first(y) @ self.last.weight.T, "not a Linear|chain"),
    "cubed": (lambda self, t, y: self.net(y**3), "not a Linear|chain"),
    "counts": (counts, "stores values"),
    "branches": (branches, "torch.fx cannot trace"),
    "one argument": (lambda self, y: self.net(y), r"takes 1 arguments, expected forward\(t, y\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forwards(name: str) -> None:
    forward, reason = REFUSED[name]
    module = subclass(forward)
    refused(module, reason)
    assert not hasattr(module, "nfe"), "recognition has no side effects"


def test_other_times() -> None:
    """What is concatenated is t itself."""
    refused(
        subclass(lambda self, t, y: self.net(torch.cat([y, torch.ones_like(y[:, :1]) * t * 2], -1)), D + 1), "values"
    )
    refused(subclass(lambda self, t, y: self.net(torch.cat([y, y[:, :1]], -1)), D + 1), "values")


def test_other_modules() -> None:
    refused(chain(nn.Softplus(beta=2.0)), "softplus with beta=2")
    refused(chain(nn.Softplus(threshold=5.0)), "threshold=5")
    refused(chain(nn.Hardtanh()), "not a Linear or a known activation")
    refused(chain(nn.LayerNorm(8)), "not a Linear or a known activation")
    refused(double(nn.Sequential(nn.Tanh(), nn.Linear(D, D))), "before the first Linear")
    refused(double(nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.ReLU())), "two activations")
    refused(double(nn.Sequential(nn.Linear(D, D + 1))), "maps 3 numbers to 4")
    refused(nn.Sequential(), "no Linear")
    refused(chain(nn.Tanh()).half(), "float16")

    class Mine(nn.Linear):
        def forward(self, x: Any) -> Any:
            return -super().forward(x)

    refused(double(nn.Sequential(Mine(D, D))), "not a Linear")
    module = chain(nn.Tanh())
    module.forward = lambda y: y
    refused(module, "forward of its own")


def test_unrecognised_modules_run_from_python() -> None:
    """With one warning for all, and with the values of the module."""
    ode.solve.__globals__["_told"].clear()
    module = subclass(counts)
    with pytest.warns(ode.NotCompiledWarning, match="stores values"):
        found = ode.odeint(module, state(), T, method="rk4")
    calls = module.nfe
    again = ode.odeint(module, state(), T, method="rk4")
    assert module.nfe > calls
    expected = ode.odeint(module.net, state(), T, method="rk4", options=REQUIRE)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, expected)


def test_never() -> None:
    """A recognised module runs from Python where that is asked for, without a warning."""
    for module in (chain(nn.Tanh()), Func()):
        never = ode.odeint(module, state(), T, method="rk4", options={"compiled": "never"})
        torch.testing.assert_close(never, ode.odeint(module, state(), T, method="rk4"), rtol=1e-12, atol=1e-12)


def test_numpy_fields_are_not_modules() -> None:
    with pytest.raises(TypeError, match=r"^module: expected a torch.nn.Module, got function"):
        ode.MLP.from_torch(lambda t, y: y)
    with pytest.raises(TypeError, match=r"^y0: expected a torch tensor"):
        ode.odeint(chain(nn.Tanh()), np.zeros((2, D)), T)


# --- what a fingerprint does not show


class Settings(nn.Module):
    """The slope of its activation is looked up in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(D, 8), nn.Linear(8, D)
        self.settings = {"slope": 0.3}
        self.double()

    def forward(self, t: Any, y: Any) -> Any:
        return self.last(F.leaky_relu(self.first(y), self.settings["slope"]))


def test_values_that_change_inside_a_dict_are_noticed() -> None:
    module = Settings()
    for slope in (0.3, 0.9, 0.3):
        module.settings["slope"] = slope
        expected = ode.odeint(module, state(), T, options={"compiled": "never"})
        torch.testing.assert_close(ode.odeint(module, state(), T, options=REQUIRE), expected, rtol=1e-3, atol=1e-4)


def test_derivatives_that_are_switched_off_stay_off() -> None:
    def forward(self: Any, t: Any, y: Any) -> Any:
        with torch.no_grad():
            h = self.first(y)
        return self.last(torch.tanh(h))

    with pytest.raises(ValueError, match="changes what is differentiated"):
        ode.odeint(subclass(forward), state(), T, options=REQUIRE)


def test_counters_in_place_go_on() -> None:
    def forward(self: Any, t: Any, y: Any) -> Any:
        self.calls.add_(1)
        return self.net(y)

    module = subclass(forward)
    module.register_buffer("calls", torch.zeros(()))
    with pytest.raises(ValueError, match="stores values"):
        ode.odeint(module, state(), T, options=REQUIRE)


def test_random_weights_are_drawn_at_every_stage() -> None:
    class Drop(nn.Module):
        def forward(self, w: Any) -> Any:
            return F.dropout(w, 0.5, self.training)

    module = chain(nn.Tanh())
    nn.utils.parametrize.register_parametrization(module[0], "weight", Drop())
    with pytest.raises(ValueError, match="not a Linear"):
        ode.odeint(module, state(), T, options=REQUIRE)
    ode.odeint(module.eval(), state(), T, options=REQUIRE)


def test_parameters_are_those_of_the_call_from_the_first_one_on() -> None:
    module = chain(nn.Tanh())
    found = ode.MLP.from_torch(module)
    module[0].weight = nn.Parameter(module[0].weight.detach() * -2)
    torch.testing.assert_close(found(0.0, state()), module(state()), rtol=1e-12, atol=1e-12)
    module.float()
    assert ode.odeint(found, state().float(), T).dtype == torch.float32


def test_results_may_be_changed_in_place() -> None:
    module = chain(nn.Tanh())
    y = ode.odeint(module, state(), T)
    y.mul_(2).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
