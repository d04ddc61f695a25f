# SPDX-License-Identifier: MIT
"""Vector fields that run inside the kernel: what all have in common, and networks.

A field holds its parameters by reference, as NumPy arrays or torch tensors, and reads them at every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnsym_fast._arrays import is_torch
from nnsym_fast._matrices import real_number
from nnsym_fast._ode import ACTIVATIONS, FieldCode
from nnsym_fast.ode import plans

if TYPE_CHECKING:
    import torch

__all__ = ["MLP", "MLP_KIND", "TIMES", "Field", "read_parameters"]

Array = npt.NDArray[Any]

MLP_KIND = 0
TIMES = ("none", "concat", "gate")

VALUES = {"leaky_relu": 0.01, "elu": 1.0}
"""Activations with a parameter, and its default."""


class Field:
    """A vector field f(t, y) that runs inside the kernel; ``field(t, y)`` evaluates it.

    Attributes:
        d: size of the state.
        dtype: "float32", "float64", or None where there are no parameters.
        framework: "numpy", "torch", or None where there are no parameters.
        jumps: times at which the field is discontinuous, where steps land.
    """

    d: int
    jumps: tuple[float, ...] = ()
    dtype: str | None = None
    framework: str | None = None
    device: Any = None
    _code: FieldCode
    _knots: Any = np.zeros(0)

    def code(self) -> FieldCode:
        """The structure without its numbers."""
        return self._code

    def knots(self) -> Any:
        """Times between the pieces of a field that is given piece by piece, float64; else empty."""
        return self._knots

    def check_closed(self) -> None:
        """ValueError unless states go to states."""

    def parts(self) -> Sequence[Any]:
        """The parameters in the order of the kernel, as they are now."""
        return ()

    def parameters(self) -> list[Any]:
        """The arrays or tensors that the field was made of."""
        return []

    def flat(self, like: Any) -> Any:
        """All parameters as one vector of the framework of ``like``, (P,); torch differentiates through it."""
        parts = self.parts()
        if is_torch(like):
            from nnsym_fast import _torch

            return _torch.ODE.join(parts, like)
        if not parts:
            return np.zeros(0, like.dtype)
        return np.concatenate([part.ravel() for part in parts])

    def __call__(self, t: Any, y: Any) -> Any:
        """The derivative dy/dt.

        Args:
            t: a number, or one time for every sample, of the batch shape.
            y: states ``(..., d)``, an array or tensor of the dtype of the parameters.

        Returns:
            ``(..., d)`` of the same framework and dtype.

        Raises:
            TypeError, ValueError: as :func:`nnsym_fast.odeint`.
        """
        y = plans.check_state("y", y, self)
        if is_torch(y):
            from nnsym_fast import _torch

            return _torch.ODE.field(self, t, y)
        if is_torch(t):
            t = t.detach().numpy()
        times = np.asarray(t, np.float64)
        plans.check_batch("t", times.shape, y.shape[:-1], "a number or shape batch =")
        return plans.field(self._code, self.flat(y), self._knots, times, y)


def read_parameters(values: Sequence[tuple[str, Any]]) -> tuple[list[Any], str, str, Any]:
    """Arrays of one framework, dtype and device; with these."""
    tensors = [name for name, value in values if is_torch(value)]
    found: list[Any] = []
    for name, value in values:
        if tensors and not is_torch(value):
            raise TypeError(
                f"{name}: expected a torch tensor, as {tensors[0]} is one, got {type(value).__name__}; "
                "use torch.as_tensor"
            )
        array = value if tensors else plans.native(value)
        kind = str(array.dtype).removeprefix("torch.")
        if kind not in plans.DTYPES:
            raise TypeError(f"{name}: expected dtype float32 or float64, got {array.dtype}; convert it first")
        if found and array.dtype != found[0].dtype:
            raise TypeError(f"{name}: expected dtype {found[0].dtype}, that of {values[0][0]}, got {array.dtype}")
        if tensors and found and array.device != found[0].device:
            raise ValueError(f"{name}: expected device {found[0].device}, that of {values[0][0]}, got {array.device}")
        found.append(array)
    first = found[0]
    device = first.device if tensors else None
    return found, "torch" if tensors else "numpy", str(first.dtype).removeprefix("torch."), device


def activation_code(name: str, value: Any) -> tuple[int, float]:
    """Number and parameter of an activation given as a name or (name, value)."""
    given: Any = value
    number = None
    if isinstance(given, (tuple, list)) and len(given) == 2:
        given, number = given
    if not isinstance(given, str) or given not in ACTIVATIONS:
        raise ValueError(f"{name}: expected one of {', '.join(ACTIVATIONS)}, got {value!r}")
    if number is not None and given not in VALUES:
        raise ValueError(f"{name}: {given!r} has no parameter, got {number!r}; only {', '.join(VALUES)} have one")
    parameter = VALUES.get(given, 0.0) if number is None else real_number(name, number)
    if not math.isfinite(parameter):
        raise ValueError(f"{name}: expected a finite parameter of {given!r}, got {parameter}")
    return ACTIVATIONS.index(given), parameter


def _activations(activation: Any, layers: int) -> tuple[tuple[int, float], ...]:
    pair = isinstance(activation, (tuple, list)) and len(activation) == 2 and isinstance(activation[1], (int, float))
    if pair or isinstance(activation, str):
        return (*[activation_code("activation", activation)] * (layers - 1), (0, 0.0))
    try:
        names = list(activation)
    except TypeError:
        raise TypeError(
            f"activation: expected a name, or a list of one name per layer, got {type(activation).__name__}"
        ) from None
    if len(names) != layers:
        raise ValueError(f"activation: expected one name for each of {layers} layers, got {len(names)}")
    return tuple(activation_code(f"activation[{i}]", name) for i, name in enumerate(names))


class MLP(Field):
    """A multilayer perceptron d -> ... -> d as the right-hand side of y' = f(t, y).

    Args:
        weights: one array ``(out, in)`` for each of L layers, of float32 or float64; they chain.
        biases: one array ``(out,)`` or None for each layer; None: no biases.
        activation: a name for all hidden layers (the last layer is linear), or a sequence of one name per layer:
            ``identity relu leaky_relu tanh sigmoid softplus silu gelu gelu_tanh elu sin``; a name may be a pair
            ``("leaky_relu", slope)``, ``("elu", alpha)``.
        time: ``"none"``; ``"concat"``: the first layer's input is ``[y, t]``; ``"gate"``: the pre-activation of layer l
            is ``(W x + b) sigmoid(gw_l t + gb_l)``.
        gates: for ``"gate"``, a pair ``(gw, gb)`` of arrays ``(out,)`` for each layer.

    Raises:
        TypeError: dtypes or frameworks that differ.
        ValueError: shapes that do not chain, an unknown activation, devices that differ.

    >>> import numpy as np, nnsym_fast as nf
    >>> field = nf.ode.MLP([np.ones((3, 2)), np.ones((2, 3))], [None, np.zeros(2)], activation="relu")
    >>> field(0.0, np.array([1.0, 2.0]))
    array([9., 9.])
    """

    def __init__(
        self,
        weights: Sequence[Any],
        biases: Sequence[Any] | None = None,
        activation: Any = "tanh",
        time: str = "none",
        gates: Sequence[tuple[Any, Any]] | None = None,
    ) -> None:
        if is_torch(weights) or isinstance(weights, np.ndarray) or not isinstance(weights, Sequence):
            raise TypeError(f"weights: expected a list of matrices, got {type(weights).__name__}; [w] is one layer")
        layers = len(weights)
        if not layers:
            raise ValueError("weights: expected at least one layer, got none")
        if time not in TIMES:
            raise ValueError(f"time: expected one of {', '.join(TIMES)}, got {time!r}")
        biases = [None] * layers if biases is None else list(biases)
        if len(biases) != layers:
            raise ValueError(f"biases: expected one (or None) for each of {layers} layers, got {len(biases)}")
        if (gates is not None) != (time == "gate"):
            raise ValueError(f"gates: expected with time='gate' and only then, got time={time!r}")
        if gates is not None and (len(gates) != layers or any(len(pair) != 2 for pair in gates)):
            raise ValueError(f"gates: expected a pair (gw, gb) for each of {layers} layers, got {len(gates)}")
        named = [(f"weights[{i}]", w) for i, w in enumerate(weights)]
        named += [(f"biases[{i}]", b) for i, b in enumerate(biases) if b is not None]
        for i, pair in enumerate(gates or ()):
            named += [(f"gates[{i}][{k}]", gate) for k, gate in enumerate(pair)]
        found, self.framework, self.dtype, self.device = read_parameters(named)
        self.weights: tuple[Any, ...] = tuple(found[:layers])
        rest = iter(found[layers:])
        self.biases: tuple[Any, ...] = tuple(None if b is None else next(rest) for b in biases)
        self.gates: tuple[tuple[Any, Any], ...] = tuple((next(rest), next(rest)) for _ in gates or ())
        widths = _widths(self.weights)
        for i, size in enumerate(widths[1:]):
            vectors = [("biases[{}]", self.biases[i])]
            vectors += [(f"gates[{{}}][{k}]", gate) for k, gate in enumerate(self.gates[i])] if gates else []
            for name, vector in vectors:
                if vector is not None and tuple(vector.shape) != (size,):
                    raise ValueError(
                        f"{name.format(i)}: expected shape ({size},), the outputs of weights[{i}], "
                        f"got {tuple(vector.shape)}"
                    )
        self.d = widths[0] - (time == "concat")
        pairs = _activations(activation, layers)
        self._code = FieldCode(
            MLP_KIND, TIMES.index(time), widths, tuple(code for code, _ in pairs), tuple(value for _, value in pairs)
        )
        self._zeros = [None if b is not None else _zeros(w) for w, b in zip(self.weights, self.biases, strict=True)]

    def check_closed(self) -> None:
        widths = self._code.widths
        if widths[-1] != self.d:
            wanted = f"{self.d} = {widths[0]} inputs less the time" if self.d != widths[0] else f"{self.d}, its inputs"
            raise ValueError(f"weights[{len(widths) - 2}]: expected outputs of size {wanted}, got {widths[-1]}")

    def parameters(self) -> list[Any]:
        gates = [gate for pair in self.gates for gate in pair]
        return [*self.weights, *(b for b in self.biases if b is not None), *gates]

    def parts(self) -> Sequence[Any]:
        found: list[Any] = []
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            found += [w, self._zeros[layer] if b is None else b]
            if self.gates:
                found += self.gates[layer]
        return found

    @staticmethod
    def from_torch(module: torch.nn.Module) -> MLP:
        """The field of a torch module; its parameters are read from the module at every call, not copied.

        Args:
            module: a ``torch.nn.Sequential`` of ``Linear`` and activations that maps y to dy/dt, or a module whose
                ``forward(t, y)`` is such a chain on ``y``, or on ``torch.cat([y, t], -1)``.

        Returns:
            The field; gradients go to the module's parameters.

        Raises:
            TypeError: not a torch module.
            ValueError: a module that is not such a chain; the message says why.
        """
        from nnsym_fast import _torch

        found, reason = _torch.ODE.recognise(module)
        if found is None:
            raise ValueError(
                f"module: expected a chain of Linear and activations, got {type(module).__name__}: {reason}"
            )
        field: MLP = found
        return field


def _zeros(like: Any) -> Any:
    return like.new_zeros(like.shape[:1]) if is_torch(like) else np.zeros(like.shape[:1], like.dtype)


def _widths(weights: Sequence[Any]) -> tuple[int, ...]:
    """in, out_1, ..., out_L of matrices that chain, or ValueError."""
    widths: list[int] = []
    for i, w in enumerate(weights):
        if len(w.shape) != 2 or 0 in w.shape:
            raise ValueError(f"weights[{i}]: expected a matrix (out, in), got shape {tuple(w.shape)}")
        if widths and w.shape[1] != widths[-1]:
            raise ValueError(
                f"weights[{i}]: expected shape (out, {widths[-1]}), as weights[{i - 1}] has {widths[-1]} outputs, "
                f"got {tuple(w.shape)}"
            )
        widths += [int(w.shape[0])] if widths else [int(w.shape[1]), int(w.shape[0])]
    return tuple(widths)
