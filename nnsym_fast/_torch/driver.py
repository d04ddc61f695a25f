# SPDX-License-Identifier: MIT
"""Gradients of the driver of ode: in time, with few states kept (checkpoints), and by the adjoint equation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nnsym_fast.ode._run import SUCCESS, Run
from nnsym_fast.ode._schedule import Entry
from nnsym_fast.ode._stages import Mark, Stages, Step
from nnsym_fast.ode._state import Layout, Rhs
from nnsym_fast.ode.controller import Control
from nnsym_fast.ode.driver import times_of
from nnsym_fast.tableaus import Tableau

__all__ = ["adjoint", "eager", "solve"]

Tensor = torch.Tensor
Array = npt.NDArray[Any]


def eager(function: Any) -> Any:
    """The function, which torch's compilers call and do not trace: what it does depends on values."""
    if not torch.compiler.is_compiling():
        return function
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call]


# --- derivatives through the steps


def _drift(t: Any, layout: Layout) -> Tensor | None:
    """Zeros ``(n,)`` or (S, n) that have the gradient of the times; None where nobody wants it."""
    if not isinstance(t, Tensor) or not t.requires_grad or not torch.is_grad_enabled():
        return None
    times = t.to(torch.float64)
    if times.ndim > 1:
        times = times.expand(*layout.batch, times.shape[-1]).reshape(layout.samples, -1)
    return times - times.detach()


def solve(run: Run, start: Tensor, t: Any) -> tuple[Tensor, Tensor]:
    """Outputs ``(n, S, D)`` and the state at the end, differentiable in the start, in what the field holds, in t."""
    drift = _drift(t, run.layout)
    inner = drift if run.fixed and run.event is None else None  # the grid moves with t
    outer = drift if inner is None else None
    begin = start if outer is None else start - _slopes(run, start, 0) * _column(run, outer, 0)
    if run.control.checkpoints is not None and torch.is_grad_enabled():
        ys, end = _checkpointed(run, begin, inner)
    else:
        ys, end = run.solve(begin, inner)
    if outer is None:
        return ys, end
    moved = [start]
    for i in range(1, run.count):
        slope = torch.nan_to_num(_slopes(run, ys[i], i), 0.0, 0.0, 0.0)  # nan where a sample did not arrive
        moved.append(ys[i] + slope * _column(run, outer, i))
    return torch.stack(moved), end


def _slopes(run: Run, y: Tensor, i: int) -> Tensor:
    """The field at the times t_i, as numbers."""
    time = run.full[:, i]
    with torch.no_grad():
        found: Tensor = run.rhs(float(time[0]) if run.samples == 1 else time, y)
    return found


def _column(run: Run, drift: Tensor, i: int) -> Tensor:
    return run.rows.array(drift[..., i], run.layout.parts[0]).reshape(-1, 1)  # type: ignore[no-any-return]


# --- recursive checkpointing (Griewank, Walther 2000)


class _Keeper:
    """The steps of an integration, and at most ``slots`` of the states before them, evenly spread."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.clear()

    def clear(self) -> None:
        self.log: list[tuple[Any, Mark]] = []
        self.states: dict[int, Tensor] = {}
        self.stride = 1

    def __call__(self, item: Any, mark: Mark, y: Tensor) -> None:
        number = len(self.log)
        self.log.append((item, mark))
        if number % self.stride:
            return
        self.states[number] = y
        if len(self.states) > self.slots:
            self.stride *= 2
            self.states = {i: state for i, state in self.states.items() if i % self.stride == 0}


def _leaves(outputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """The tensors whose gradients a result accumulates, by identity."""
    found, seen = {}, set()
    nodes = [output.grad_fn for output in outputs]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        nodes += [following for following, _ in node.next_functions]
    return found


def _checkpointed(run: Run, start: Tensor, drift: Tensor | None) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        probe = start.detach().requires_grad_()
        time = run.full[:, 0]
        found = _leaves([run.rhs(float(time[0]) if run.samples == 1 else time, probe)])
    found.pop(id(probe), None)
    if hasattr(run.rhs.func, "parameters"):
        found.update((id(p), p) for p in run.rhs.func.parameters() if p.requires_grad)
    ys, end = _Checkpointed.apply(run, start, drift, *found.values())  # type: ignore[no-untyped-call]
    return ys, end


class _Checkpointed(torch.autograd.Function):
    """An integration of which few states are kept; the others are computed again when they are differentiated."""

    @staticmethod
    def forward(ctx: Any, run: Run, start: Tensor, drift: Tensor | None, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        ctx.run, ctx.keeper = run, _Keeper(run.control.checkpoints or 1)
        ctx.save_for_backward(drift, *leaves)
        run.record = ctx.keeper
        try:
            ys, end = run.solve(start)
        finally:
            run.record = None
        return ys, end.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_ys: Tensor, grad_end: Tensor) -> tuple[Any, ...]:
        drift, *leaves = ctx.saved_tensors
        reverse = _Reverse(ctx.run, ctx.keeper.log, grad_ys, drift, leaves)
        costate, stop = grad_end, len(ctx.keeper.log)
        kept = sorted(ctx.keeper.states.items())
        while kept:
            first, state = kept.pop()
            costate = reverse.segment(first, stop, state, ctx.keeper.slots - len(kept), costate)
            stop = first
        return None, costate + grad_ys[0], reverse.grad_drift, *reverse.grads


class _Reverse:
    """The way back through the steps of a log."""

    def __init__(
        self, run: Run, log: list[tuple[Any, Mark]], grad_ys: Tensor, drift: Tensor | None, leaves: list[Tensor]
    ) -> None:
        self.run, self.log, self.grad_ys, self.leaves = run, log, grad_ys, leaves
        self.drift = None if drift is None else drift.detach().requires_grad_()
        self.grads: list[Tensor | None] = [None] * len(leaves)
        self.grad_drift: Tensor | None = None

    def segment(self, first: int, stop: int, y: Tensor, slots: int, costate: Tensor) -> Tensor:
        """Back from step ``stop`` to ``first``, before which the state is y; ``slots`` states may be held with y."""
        held = [(first, y)]
        while stop > first:
            number, state = held[-1]
            free = slots - len(held)
            if number == stop - 1:
                costate = self._back(number, state, costate)
                stop -= 1
                if number > first:
                    held.pop()
            elif free > 0:
                middle = number + _advance(stop - number, free + 1)
                held.append((middle, self._forth(number, middle, state)))
            else:
                costate = self._back(stop - 1, self._forth(number, stop - 1, state), costate)
                stop -= 1
        return costate

    def _end(self, item: Any, mark: Mark, y: Tensor, wanted: bool) -> list[Tensor]:
        """The state after a step, and the outputs in it."""
        run = self.run
        step = item
        if isinstance(item, Entry):
            step = item.step if self.drift is None else run.rows.drifting(item, self.drift)
        y_new, ks = run.stages.trial(step, y, run.rhs(step.first, y))
        return [y_new, run.stages.values(step, mark, y, y_new, ks)] if wanted and len(mark.rows) else [y_new]

    def _forth(self, first: int, stop: int, y: Tensor) -> Tensor:
        with torch.no_grad():
            for item, mark in self.log[first:stop]:
                (y,) = self._end(item, mark, y, False)
        return y

    def _back(self, number: int, y: Tensor, costate: Tensor) -> Tensor:
        item, mark = self.log[number]
        inputs = [y.detach().requires_grad_(), *self.leaves]
        if self.drift is not None:
            inputs.append(self.drift)
        with torch.enable_grad():
            outputs = self._end(item, mark, inputs[0], True)
        unknown = _leaves(outputs).keys() - {id(tensor) for tensor in inputs}
        if unknown:
            raise RuntimeError(
                f"func: {len(unknown)} tensors that it did not use at the first time need gradients; with checkpoints "
                "expected a torch module that has them as parameters, or leave the option out"
            )
        pushes = [costate]
        if len(outputs) > 1:
            numbers, rows = (torch.from_numpy(x).to(y.device) for x in (mark.numbers, mark.rows))
            pushes.append(self.grad_ys[numbers, rows])
        found, *grads = torch.autograd.grad(outputs, inputs, pushes, allow_unused=True, retain_graph=True)
        if self.drift is not None:
            self.grad_drift = _plus(self.grad_drift, grads.pop())
        self.grads = [_plus(total, grad) for total, grad in zip(self.grads, grads, strict=True)]
        return found


def _plus(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    return grad if total is None else total if grad is None else total + grad


def _advance(length: int, slots: int) -> int:
    """Steps to the next state to hold, if ``slots`` of them may be held in all: the fewest steps are taken twice."""
    repeats = 0
    while math.comb(slots + repeats, slots) < length:
        repeats += 1
    return max(1, length - math.comb(slots - 1 + repeats, slots - 1))


# --- the adjoint equation


class _Augmented:
    """(y, a)' = (f, -a df/dy) as rows ``(S, 2 D)``, and the gradients of the parameters along its steps.

    With a shared step a stage brings its share of them with it. Where each sample has its own step, they are taken at
    the stages of the accepted steps, since the weight of a sample is known only then.
    """

    def __init__(self, rhs: Rhs, params: Sequence[Tensor], shared: bool) -> None:
        self.rhs, self.params, self.shared = rhs, tuple(params), shared
        self.total: list[Tensor | None] = [None] * len(params)
        self.kept: list[Tensor | None] = []

    def __call__(self, t: Any, z: Tensor) -> Tensor:
        y, a = z.detach().chunk(2, 1)
        slope, grads = self._pull(t, y, a, self.params if self.shared else (), True)
        found = torch.cat([slope, -grads[0]], 1)  # type: ignore[operator]
        found.of_params = grads[1:]  # type: ignore[attr-defined]
        return found

    def _pull(
        self, t: Any, y: Tensor, a: Tensor, params: Sequence[Tensor], state: bool
    ) -> tuple[Tensor, list[Tensor | None]]:
        with torch.enable_grad():
            y = y.detach().requires_grad_(state)
            slope = self.rhs(t, y)
        inputs = [y, *params] if state else list(params)
        grads: list[Tensor | None] = [None] * len(inputs)
        if slope.requires_grad:
            grads = list(torch.autograd.grad(slope, inputs, a, allow_unused=True, retain_graph=True))
        if state and grads[0] is None:
            grads[0] = torch.zeros_like(y)
        return slope.detach(), grads

    def keep(self) -> None:
        """An interval begins."""
        self.kept = list(self.total)

    def clear(self) -> None:
        """Takes back what the interval has brought."""
        self.total = list(self.kept)

    def add(self, stages: Stages, step: Step, z: Tensor, ks: Sequence[Tensor]) -> None:
        """The quadrature of a step: its h is negative where time runs forwards."""
        table, rows = stages.table, self.rhs.rows
        for j, weight in enumerate(table.b):
            if weight == 0:
                continue
            if self.shared:
                self._plus(ks[j].of_params, -weight * step.h)  # type: ignore[attr-defined]
                continue
            lengths = stages.length(step.h, z)
            y, a = rows.advance(z, lengths, table.a[j], ks).chunk(2, 1)
            time = step.first if j == 0 else stages.time(step, table.c[j])
            self._plus(self._pull(time, y, a * lengths, self.params, False)[1], -weight)

    def _plus(self, grads: Sequence[Tensor | None], factor: float) -> None:
        for i, grad in enumerate(grads):
            if grad is not None:
                total = self.total[i]
                self.total[i] = grad * factor if total is None else torch.add(total, grad, alpha=factor)


def adjoint(
    func: Any,
    y0: Any,
    t: Any,
    tableau: Tableau,
    control: Control,
    params: Iterable[Any] | None,
    adjoint_tableau: Tableau,
    adjoint_control: Control,
) -> Any:
    """See ``nnsym_fast.ode.driver.adjoint``."""
    layout = Layout(y0, control.batch_step == "sample")
    if not layout.torch:
        raise TypeError(f"y0: expected a torch tensor, which has gradients, got {type(layout.parts[0]).__name__}")
    if params is None:
        if not hasattr(func, "parameters"):
            raise ValueError(
                "adjoint_params: expected the tensors that func depends on, as func is no torch module; "
                "pass them, or () if there are none"
            )
        params = func.parameters()
    wanted = [param for param in params if param.requires_grad]
    times = times_of(t, layout)
    start = layout.start()
    drift = _drift(t, layout)
    if times.shape[1] == 1 or start.numel() == 0:
        return layout.open_many(torch.stack([start] * times.shape[1]))
    run = Run(Rhs(func, layout), layout, tableau, control, times)
    ys = _Adjoint.apply(run, adjoint_tableau, adjoint_control, len(wanted), start, drift, *wanted)  # type: ignore[no-untyped-call]
    _warn(run, "forward")
    return layout.open_many(ys)


def _warn(run: Run, way: str) -> None:
    count = int((run.status != SUCCESS).sum())
    if count:
        remedy = "nf.ode.solve says why" if way == "forward" else "raise the adjoint tolerances, or use odeint"
        warnings.warn(
            f"odeint_adjoint: {count} of {run.status.size} samples did not arrive on the way {way}; {remedy}",
            RuntimeWarning,
            stacklevel=5,
        )


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: Run,
        tableau: Tableau,
        control: Control,
        count: int,
        start: Tensor,
        drift: Tensor | None,
        *params: Tensor,
    ) -> Tensor:
        ys: Tensor = run.solve(start)[0]
        ctx.run, ctx.tableau, ctx.control = run, tableau, control
        ctx.moving = drift is not None and ctx.needs_input_grad[5]
        ctx.times = None if drift is None else (drift.ndim, drift.device)
        ctx.save_for_backward(ys, *params)
        return ys

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        ys, *params = ctx.saved_tensors
        run: Run = ctx.run
        layout = run.layout
        # A sample that ended early: nothing is pulled back from where it did not arrive.
        arrived = torch.isfinite(ys).all(dim=2, keepdim=True)
        grad, ys = torch.where(arrived, grad, 0.0), torch.where(arrived, ys, ys[0])
        shared = layout.samples == 1
        augmented = _Augmented(run.rhs, params, shared)
        doubled = Layout(torch.cat([ys[0], ys[0]], 1), not shared)
        tolerances = []
        for name in ("rtol", "atol"):
            value = layout.tolerance(name, getattr(ctx.control, name), ys)
            tolerances.append(value if isinstance(value, float) else torch.cat([value, value], 1))
        costate = torch.zeros_like(ys[0])
        moments: list[Tensor] = []
        for i in range(run.count - 1, 0, -1):
            costate = costate + grad[i]
            interval = np.ascontiguousarray(run.ts[:, [i, i - 1]])
            augmented.keep()
            back = Run(
                augmented, doubled, ctx.tableau, ctx.control, interval,
                tolerances=(tolerances[0], tolerances[1]), quadrature=augmented,
            )  # fmt: skip
            _, end = back.solve(torch.cat([ys[i], costate], 1))
            _warn(back, "back")
            costate = end.chunk(2, 1)[1]
            if ctx.moving:
                moments.append(_along(grad[i], _slopes(run, ys[i], i)))
        grad_drift = None
        if ctx.moving:
            moments.append(-_along(costate, _slopes(run, ys[0], 0)))
            grad_drift = torch.stack(moments[::-1], dim=1).to(ctx.times[1], torch.float64)
            if ctx.times[0] == 1:
                grad_drift = grad_drift.sum(0)
        return None, None, None, None, costate + grad[0], grad_drift, *augmented.total


def _along(grad: Tensor, slope: Tensor) -> Tensor:
    """The derivatives of samples that move with their slopes ``(S,)``."""
    return (grad.conj() * slope).real.sum(1) if grad.is_complex() else (grad * slope).sum(1)
