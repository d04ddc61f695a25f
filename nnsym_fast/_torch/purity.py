# SPDX-License-Identifier: MIT
"""What the forward of a module depends on beside its arguments, so that a trace of it is not used when it is stale."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

__all__ = ["fingerprint", "impure"]

STORES = {"STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR", "DELETE_SUBSCR", "DELETE_GLOBAL"}
CHANGERS = {"append", "extend", "insert", "pop", "clear", "update", "setattr", "print", "write", "setdefault"}
CONTEXTS = {"no_grad", "enable_grad", "inference_mode", "set_grad_enabled", "detach", "detach_", "autocast"}
"""What changes derivatives or dtypes without a trace of it."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn")


def _functions(module: nn.Module) -> Iterator[FunctionType]:
    """The methods of a user's module that its forward may call."""
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.nn") or kind is object:
            continue
        for value in vars(kind).values():
            if isinstance(value, FunctionType) and value.__name__ != "__init__":
                yield value


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def impure(module: nn.Module) -> str:
    """Why a trace would not tell all that the forward does, or "": it keeps count, or stores what it saw."""
    for child in module.modules():
        if _is_torchs(child):
            continue
        forward = type(child).forward
        if not isinstance(forward, FunctionType):
            return f"{type(child).__name__}.forward is no function"
        for function in (forward, *_helpers(forward)):
            for code in _codes(function.__code__):
                stored = {i.opname for i in dis.get_instructions(code)} & STORES
                names = set(code.co_names)
                if stored or CHANGERS & names or any(x[-1:] == "_" and x[-2:] != "__" for x in names):
                    return f"{type(child).__name__}.forward stores values, which a compiled field would not do"
                if CONTEXTS & names:
                    return f"{type(child).__name__}.forward changes what is differentiated, or dtypes"
    return ""


def _helpers(function: FunctionType) -> Iterator[FunctionType]:
    """The functions of a user that a function reads from its globals."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, FunctionType) and not value.__module__.startswith("torch"):
                yield value


def _value(value: Any) -> Any:
    """What two equal attributes have in common."""
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_value(x) for x in value)
    if isinstance(value, (dict, set)):
        return id(value), len(value)
    return id(value)


def _names(function: FunctionType) -> Iterator[Any]:
    """The globals and cells that a function reads, by identity or value."""
    yield function.__code__
    scope = function.__globals__
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in scope:
                yield name, _value(scope[name])
    for cell in function.__closure__ or ():
        try:
            yield _value(cell.cell_contents)
        except ValueError:  # not yet filled
            yield None


def fingerprint(module: nn.Module, prefix: str = "") -> tuple[Any, ...]:
    """All that a trace depends on: classes, attributes, shapes, hooks, globals that are read. Not the parameters."""
    found: list[Any] = [prefix, type(module)]
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers"):
            found.append(tuple((key, _value(x)) for key, x in value.items()))
        elif name != "_modules":
            found.append((name, _value(value)))
    if not _is_torchs(module):
        for function in _functions(module):
            found.extend(_names(function))
    for name, child in module._modules.items():
        found.append(name if child is None else fingerprint(child, name))
    return tuple(found)
