# SPDX-License-Identifier: MIT
"""Neural ODEs in JAX, jitted: Runge-Kutta steps in lax.scan, and diffrax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ode_work import Problem
from peers import Peer

__all__ = ["adaptive_gradient_peers", "adaptive_peers", "rk4_gradient_peers", "rk4_peers"]

Array = Any
Parameters = list[tuple[Array, Array]]
Solver = Callable[[Parameters, Array], Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
}

FEW_STEPS = 256
"""Limit of steps that a gradient through diffrax also runs with: fewer checkpointed loops than with its default."""


def parameters(problem: Problem) -> Parameters:
    return [(jnp.asarray(w), jnp.asarray(b)) for w, b in zip(problem.weights, problem.biases, strict=True)]


def rows(problem: Problem, layers: Parameters, y: Array) -> Array:
    """The field of samples in rows (..., d)."""
    for (weight, bias), name in zip(layers, problem.activations, strict=True):
        y = ACTIVATIONS[name](y @ weight.T + bias)
    return y


def columns(problem: Problem, layers: Parameters, y: Array) -> Array:
    """The field of samples in columns (d, batch)."""
    for (weight, bias), name in zip(layers, problem.activations, strict=True):
        y = ACTIVATIONS[name](weight @ y + bias[:, None])
    return y


def _rk4(problem: Problem, steps: int, field: Any, layers: Parameters, y0: Array) -> Array:
    """Classical steps of equal size; samples in rows, or in columns throughout if the field takes them so."""
    h = problem.t1 / steps
    f = partial(field, problem, layers)

    def step(y: Array, _: None) -> tuple[Array, None]:
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + h / 2 * k2)
        k4 = f(y + h * k3)
        return y + h / 6 * (k1 + 2 * (k2 + k3) + k4), None

    start = y0.T if field is columns else y0
    end, _ = lax.scan(step, start, None, length=steps)
    return end.T if field is columns else end


LAYOUTS = {"JAX scan": rows, "JAX scan, columns": columns}
"""As one writes it, and with the batch along the vectors of the machine."""


def _forward(problem: Problem, solve: Solver) -> Callable[[], Array]:
    jitted, layers, y0 = jax.jit(solve), parameters(problem), jnp.asarray(problem.y0)
    return lambda: jax.block_until_ready(jitted(layers, y0))


def _gradient(problem: Problem, solve: Solver) -> Callable[[], Array]:
    """Of <slope, y(t1)> by all parameters, flat."""
    layers, y0, slope = parameters(problem), jnp.asarray(problem.y0), jnp.asarray(problem.slope)

    @jax.jit
    def gradient(layers: Parameters, y0: Array) -> Array:
        found = jax.grad(lambda layers: jnp.sum(solve(layers, y0) * slope))(layers)
        return jnp.concatenate([part.ravel() for layer in found for part in layer])

    return lambda: jax.block_until_ready(gradient(layers, y0))


def rk4_peers(problem: Problem, steps: int) -> Iterator[Peer]:
    for kind, layout in LAYOUTS.items():
        yield Peer(kind, "rk4", _forward(problem, partial(_rk4, problem, steps, layout)))


def rk4_gradient_peers(problem: Problem, steps: int) -> Iterator[Peer]:
    for kind, layout in LAYOUTS.items():
        yield Peer(kind, "rk4, reverse mode", _gradient(problem, partial(_rk4, problem, steps, layout)), slow=True)


def _diffrax(problem: Problem, tolerance: float, vmapped: bool, options: Any, layers: Parameters, y0: Array) -> Array:
    import diffrax

    term = diffrax.ODETerm(lambda t, y, layers: rows(problem, layers, y))
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)

    def solve(y0: Array) -> Array:
        ends = {"t0": 0.0, "t1": problem.t1, "dt0": None}
        found = diffrax.diffeqsolve(
            term, diffrax.Dopri5(), **ends, y0=y0, args=layers, stepsize_controller=controller, **options
        )
        return found.ys[0]

    return jax.vmap(solve)(y0) if vmapped else solve(y0)


def _diffrax_solvers(problem: Problem, tolerance: float, options: dict[str, Any]) -> Iterator[tuple[str, Solver]]:
    note = "".join(f", {name}={value}" for name, value in options.items())
    yield f"dopri5, batched{note}", partial(_diffrax, problem, tolerance, False, options)
    yield f"dopri5, vmapped{note}", partial(_diffrax, problem, tolerance, True, options)


def adaptive_peers(problem: Problem, tolerance: float) -> Iterator[Peer]:
    """Diffrax: one step for the batch, and one for each sample."""
    if find_spec("diffrax"):
        for note, solve in _diffrax_solvers(problem, tolerance, {}):
            yield Peer("diffrax", note, _forward(problem, solve))


def adaptive_gradient_peers(problem: Problem, tolerance: float) -> Iterator[Peer]:
    """Diffrax with its default adjoint, recursive checkpointing."""
    if find_spec("diffrax"):
        for options in ({}, {"max_steps": FEW_STEPS}):
            for note, solve in _diffrax_solvers(problem, tolerance, options):
                yield Peer("diffrax", note, _gradient(problem, solve))
