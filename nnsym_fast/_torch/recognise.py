# SPDX-License-Identifier: MIT
"""Modules of torch that are a chain of Linear and activations, found by their structure, with live parameters.

An ``nn.Sequential`` is read module by module at every call. Another module is traced once by ``torch.fx``; what that
finds is kept while nothing that the trace depends on has changed, and is checked against the module's own numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks_of_all

from nnsym_fast._ode import FieldCode
from nnsym_fast._torch.purity import fingerprint, impure
from nnsym_fast.ode import plans
from nnsym_fast.ode.fields import MLP, MLP_KIND, activation_code

__all__ = ["ModuleMLP", "recognise"]

Tensor = torch.Tensor
Path = tuple[str, ...]


class Unknown(Exception):
    """A module that is not such a chain, and why."""


@dataclass
class Chain:
    """Layers in order: where weight and bias lie below the module, and the activation that follows.

    ``time``: None, or the place of t in the first layer's input: -1 last, 0 first.
    """

    layers: list[tuple[Path, Path | None]] = field(default_factory=list)
    activations: list[tuple[int, float]] = field(default_factory=list)
    time: int | None = None

    def linear(self, weight: Path, bias: Path | None) -> None:
        self.layers.append((weight, bias))
        self.activations.append((0, 0.0))

    def activate(self, path: Path, name: str, value: float | None) -> None:
        if name == "identity":
            return
        if not self.layers:
            raise Unknown(f"{'.'.join(path)}: an activation before the first Linear")
        if self.activations[-1][0]:
            raise Unknown(f"{'.'.join(path)}: two activations follow each other")
        self.activations[-1] = activation_code("activation", name if value is None else (name, value))


# --- modules


def _softplus(beta: float, threshold: float) -> tuple[str, None]:
    if beta != 1 or threshold < 20:
        raise Unknown(f"softplus with beta={beta} and threshold={threshold}, expected 1 and at least 20")
    return "softplus", None


def _gelu(approximate: str) -> tuple[str, None]:
    return ("gelu" if approximate == "none" else "gelu_tanh"), None


def _dropout(p: float, training: bool) -> tuple[str, None]:
    if training and p:
        raise Unknown("dropout in training mode; call .eval() first")
    return "identity", None


MODULES: dict[type, Callable[[Any], tuple[str, float | None]]] = {
    nn.ReLU: lambda m: ("relu", None),
    nn.LeakyReLU: lambda m: ("leaky_relu", m.negative_slope),
    nn.Tanh: lambda m: ("tanh", None),
    nn.Sigmoid: lambda m: ("sigmoid", None),
    nn.Softplus: lambda m: _softplus(m.beta, m.threshold),
    nn.SiLU: lambda m: ("silu", None),
    nn.GELU: lambda m: _gelu(m.approximate),
    nn.ELU: lambda m: ("elu", m.alpha),
    nn.Identity: lambda m: ("identity", None),
    nn.Dropout: lambda m: _dropout(m.p, m.training),
}
"""Class, and no subclass -> activation and its parameter."""

FUNCTIONS: dict[Any, Callable[..., tuple[str, float | None]]] = {
    torch.relu: lambda: ("relu", None),
    F.relu: lambda inplace=False: ("relu", None),
    F.leaky_relu: lambda negative_slope=0.01, inplace=False: ("leaky_relu", negative_slope),
    torch.tanh: lambda: ("tanh", None),
    F.tanh: lambda: ("tanh", None),
    torch.sigmoid: lambda: ("sigmoid", None),
    F.sigmoid: lambda: ("sigmoid", None),
    F.softplus: lambda beta=1, threshold=20: _softplus(beta, threshold),
    F.silu: lambda inplace=False: ("silu", None),
    F.gelu: lambda approximate="none": _gelu(approximate),
    F.elu: lambda alpha=1.0, inplace=False: ("elu", alpha),
    torch.sin: lambda: ("sin", None),
    F.dropout: lambda p=0.5, training=True, inplace=False: _dropout(p, training),
}

METHODS = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "sin": "sin", "contiguous": "identity"}


def _name(path: Path, module: nn.Module) -> str:
    return f"module {'.'.join(path)!r} ({type(module).__name__})" if path else "the module"


def _check_calls(path: Path, module: nn.Module) -> None:
    """Unknown if a module's call may do more than its class says."""
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    ):
        raise Unknown(f"{_name(path, module)}: it has hooks, or a forward of its own")


def _is_linear(module: nn.Module) -> bool:
    kind = type(module)
    if kind is nn.Linear:
        return True
    if kind.__bases__ != (nn.Linear,) or not nn.utils.parametrize.is_parametrized(module):
        return False
    if not module.training or torch._C._are_functorch_transforms_active():
        return True
    # In training some are random, or count their calls; a weight is asked for once for a whole integration.
    with torch.no_grad():
        first, second = (getattr(module, "weight") for _ in range(2))  # noqa: B009
        return bool(torch.equal(first, second))


def _leaf(chain: Chain, path: Path, module: nn.Module) -> None:
    _check_calls(path, module)
    if _is_linear(module):
        chain.linear((*path, "weight"), None if module.bias is None else (*path, "bias"))
        return
    read = MODULES.get(type(module))
    if read is None:
        raise Unknown(f"{_name(path, module)}: not a Linear or a known activation")
    chain.activate(path, *read(module))


def _sequential(chain: Chain, path: Path, module: nn.Module) -> None:
    _check_calls(path, module)
    for name, child in module._modules.items():
        if child is None:
            raise Unknown(f"module {'.'.join((*path, name))!r}: None")
        if type(child) is nn.Sequential:
            _sequential(chain, (*path, name), child)
        else:
            _leaf(chain, (*path, name), child)


# --- traces

SIDE_METHODS = {"expand", "expand_as", "view", "reshape", "unsqueeze", "to", "type_as", "size", "new_ones", "repeat"}
SIDE_FUNCTIONS = {
    operator.getitem, operator.mul, operator.add, operator.sub, getattr, torch.ones_like, torch.zeros_like,
    torch.full_like, torch.ones, torch.full, torch.mul, torch.add, torch.broadcast_to, torch.unsqueeze, torch.reshape,
}  # fmt: skip
"""What may make a column of t; the numbers decide whether it is one."""


class _Walk:
    """One pass over a graph: the chain on y, and beside it what is made of t and of shapes."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.chain = Chain()
        self.current: Any = None
        self.state: Any = None
        self.side: set[Any] = set()
        self.attributes: dict[Any, Path] = {}

    def run(self, graph: torch.fx.Graph) -> Chain:
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 2:
            raise Unknown(f"its forward takes {len(inputs)} arguments, expected forward(t, y)")
        time, self.state = inputs
        self.current = self.state
        self.side.add(time)
        for node in graph.nodes:
            if node.op == "get_attr":
                self.attributes[node] = tuple(node.target.split("."))
            elif node.op == "output":
                if node.args[0] is not self.current:
                    raise Unknown("its forward returns something else than the end of one chain on y")
            elif node.op != "placeholder":
                self.step(node)
        return self.chain

    def step(self, node: Any) -> None:
        arguments = node.all_input_nodes
        on_chain = bool(node.args) and node.args[0] is self.current and (self.chain.layers or node.op == "call_module")
        if node.op == "call_module":
            if arguments != [self.current] or node.kwargs:
                raise Unknown(f"{node.target}: its input is not the end of one chain on y")
            _leaf(self.chain, tuple(node.target.split(".")), self.root.get_submodule(node.target))
        elif node.op == "call_function" and node.target in (torch.cat, torch.concat, torch.concatenate):
            self.cat(node)
        elif node.op == "call_function" and node.target is F.linear:
            self.linear(node)
        elif node.op == "call_function" and node.target in FUNCTIONS and on_chain:
            try:
                found = FUNCTIONS[node.target](*node.args[1:], **node.kwargs)
            except TypeError:
                raise Unknown(f"{node}: arguments that are not known") from None
            self.chain.activate((str(node),), *found)
        elif node.op == "call_method" and node.target in METHODS and on_chain and len(node.args) == 1:
            self.chain.activate((str(node),), METHODS[node.target], None)
        elif node.target in (SIDE_METHODS if node.op == "call_method" else SIDE_FUNCTIONS):
            if not all(value in self.side or value is self.state for value in arguments):
                raise Unknown(f"{node}: more than one chain of Linear and activations")
            self.side.add(node)
            return
        else:
            raise Unknown(f"{node} ({node.target}): not a Linear or a known activation")
        self.current = node

    def linear(self, node: Any) -> None:
        values = [*node.args, *([node.kwargs["bias"]] if set(node.kwargs) == {"bias"} else [])]
        paths = [None if value is None else self.attributes.get(value) for value in values[1:]]
        known = all(path or value is None for path, value in zip(paths, values[1:], strict=True))
        if values[0] is not self.current or not known or not 1 <= len(paths) <= 2 or paths[0] is None:
            raise Unknown(f"{node}: expected F.linear(x, weight, bias) on the chain, with attributes of the module")
        self.chain.linear(paths[0], paths[1] if len(paths) == 2 else None)

    def cat(self, node: Any) -> None:
        parts, *rest = node.args
        axis = rest[0] if rest else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        if (
            self.current is not self.state
            or not isinstance(parts, (list, tuple))
            or len(parts) != 2
            or axis not in (-1, 1)
        ):
            raise Unknown(f"{node}: expected torch.cat([y, t], -1) before the first Linear")
        place = next((i for i, part in enumerate(parts) if part is self.state), None)
        if place is None or parts[1 - place] not in self.side:
            raise Unknown(f"{node}: expected torch.cat([y, t], -1) before the first Linear")
        self.chain.time = -1 if place == 0 else 0


def _trace(module: nn.Module) -> Chain:
    for name, child in module.named_modules():
        _check_calls((name,) if name else (), child)
    reason = impure(module)
    if reason:
        raise Unknown(reason)
    try:
        graph = torch.fx.Tracer().trace(module)
    except Exception as error:  # whatever a forward raises for symbols, it says that the forward is no chain
        raise Unknown(f"torch.fx cannot trace its forward: {error}") from None
    return _Walk(module).run(graph)


def _agrees(module: nn.Module, found: ModuleMLP, times: Sequence[float] = (0.7, -1.9)) -> None:
    """Unknown unless module and chain agree on a few numbers."""
    if found.device.type == "meta" or torch._C._are_functorch_transforms_active():
        return
    w = found.weights[0]
    y = torch.linspace(-1.3, 1.7, 5 * found.d, dtype=w.dtype).reshape(5, found.d).to(w.device)
    for time in times:
        t = torch.tensor(time, dtype=w.dtype, device=w.device)
        try:
            with torch.no_grad():
                expected = module(t, y)
        except Exception as error:
            raise Unknown(f"its forward failed for y of shape {tuple(y.shape)}: {error}") from None
        with torch.no_grad():
            params, states = (x.cpu().numpy() for x in (found.flat(y), y))
            values = plans.field(found.code(), params, found.knots(), t.double().cpu().numpy(), states)
        tolerance = 1e-3 if w.dtype == torch.float32 else 1e-8
        if not isinstance(expected, Tensor) or expected.shape != y.shape:
            raise Unknown("its forward does not return a tensor of the shape of y")
        if not torch.allclose(torch.from_numpy(values), expected.cpu(), rtol=tolerance, atol=tolerance, equal_nan=True):
            raise Unknown("its forward does not have the values of the chain of its layers")


# --- the field


def _read(module: nn.Module, path: Path) -> Any:
    *modules, name = path
    for part in modules:
        module = module._modules[part]  # type: ignore[assignment]
    found = module._parameters.get(name)  # attributes of modules are slow
    return getattr(module, name) if found is None else found


class ModuleMLP(MLP):
    """An MLP whose parameters are those of a module at every call."""

    def __init__(self, module: nn.Module, chain: Chain) -> None:
        self.module, self.chain = module, chain
        self.framework = "torch"
        tensors = self._tensors()
        first = tensors[0][0]
        if self.dtype not in plans.DTYPES:
            raise Unknown(f"parameters of dtype {self.dtype}, expected float32 or float64")
        widths = [int(first.shape[1])]
        for (weight, _), (w, b) in zip(chain.layers, tensors, strict=True):
            name = ".".join(weight)
            if w.dim() != 2 or w.shape[1] != widths[-1]:
                raise Unknown(f"{name}: expected shape (out, {widths[-1]}), got {tuple(w.shape)}")
            for value in (w, b):
                if value is not None and (value.dtype != first.dtype or value.device != first.device):
                    raise Unknown(f"{name}: parameters of several dtypes or devices")
            widths.append(int(w.shape[0]))
        self.d = widths[0] - (chain.time is not None)
        self._code = FieldCode(
            MLP_KIND,
            int(chain.time is not None),
            tuple(widths),
            tuple(code for code, _ in chain.activations),
            tuple(value for _, value in chain.activations),
        )

    def _tensors(self) -> list[tuple[Tensor, Tensor | None]]:
        found = []
        for weight, bias in self.chain.layers:
            found.append((_read(self.module, weight), None if bias is None else _read(self.module, bias)))
        return found

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """That of the parameters, as they are now."""
        return str(_read(self.module, self.chain.layers[0][0]).dtype).removeprefix("torch.")

    @property
    def device(self) -> Any:
        """That of the parameters, as they are now."""
        return _read(self.module, self.chain.layers[0][0]).device

    @property
    def weights(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The matrices, as they are now."""
        return tuple(w for w, _ in self._tensors())

    @property
    def biases(self) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The vectors, as they are now."""
        return tuple(b for _, b in self._tensors())

    @property
    def gates(self) -> tuple[tuple[Any, Any], ...]:  # type: ignore[override]
        """No layer of a chain has a gate."""
        return ()

    def parts(self) -> Sequence[Tensor]:
        found = []
        for layer, (w, b) in enumerate(self._tensors()):
            wanted = (self._code.widths[layer + 1], self._code.widths[layer])
            if tuple(w.shape) != wanted:
                raise ValueError(
                    f"{'.'.join(self.chain.layers[layer][0])}: expected shape {wanted}, as when the field was made, "
                    f"got {tuple(w.shape)}; call MLP.from_torch again"
                )
            if layer == 0 and self.chain.time == 0:
                w = w.roll(-1, 1)
            found += [w, w.new_zeros(w.shape[0]) if b is None else b]
        return found


_known: WeakKeyDictionary[nn.Module, tuple[Any, Chain | str]] = WeakKeyDictionary()


def _global_hooks() -> Iterator[Any]:
    for name in ("forward", "forward_pre", "backward", "backward_pre"):
        yield getattr(hooks_of_all, f"_global_{name}_hooks", None)


def recognise(module: Any) -> tuple[ModuleMLP | None, str]:
    """The field of a module, or None and why it is none."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    try:
        if any(_global_hooks()):
            raise Unknown("torch has hooks on all modules")
        if type(module) is nn.Sequential:
            chain = Chain()
            _sequential(chain, (), module)
            if not chain.layers:
                raise Unknown("no Linear")
            found = ModuleMLP(module, chain)
            _check_state(found)
            return found, ""
        if torch.compiler.is_compiling():
            raise Unknown("torch.compile cannot trace it again; make its field before, with ode.MLP.from_torch")
        return _traced(module), ""
    except Unknown as unknown:
        return None, str(unknown)


def _check_state(found: ModuleMLP) -> None:
    if found.code().widths[-1] != found.d:
        raise Unknown(f"it maps {found.d} numbers to {found.code().widths[-1]}, expected as many")


def _traced(module: nn.Module) -> ModuleMLP:
    state = fingerprint(module)
    before = _known.get(module)
    if before is not None and before[0] == state:
        if isinstance(before[1], str):
            raise Unknown(before[1])
        found = ModuleMLP(module, before[1])
        if found.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return found  # nothing can be read here; it agreed when it was traced
        try:
            # A forward can depend on what no fingerprint shows: it is asked for a few numbers at every call.
            _agrees(module, found, (0.7,))
            return found
        except Unknown:
            pass
    try:
        chain = _trace(module)
        if not chain.layers:
            raise Unknown("no Linear")
        found = ModuleMLP(module, chain)
        _check_state(found)
        _agrees(module, found)
    except Unknown as unknown:
        _known[module] = (state, str(unknown))
        raise
    if fingerprint(module) != state:
        raise Unknown("its forward changes its attributes")
    _known[module] = (state, chain)
    return ModuleMLP(module, chain)
