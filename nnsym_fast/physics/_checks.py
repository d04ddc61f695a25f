# SPDX-License-Identifier: MIT
"""Arguments of the O(N) model, checked: errors name the argument, what was expected, what came and the remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnsym_fast.reference.phi4 import INTEGRATORS

__all__ = ["OBSERVABLES", "Options", "check_lattice", "check_options", "check_start", "integer", "number"]

OBSERVABLES = ("propagator", "correlations")

MOST = 1 << 31
"""Numbers of a field at most."""


class Options(NamedTuple):
    """The arguments of ``on_model.sample`` that are no arrays."""

    m2: float
    coupling: float
    trajectories: int
    seed: int
    chains: int
    thermalisation: int
    step_size: float | None
    steps: int
    integrator: str
    target_acceptance: float
    first_chain: int
    dtype: np.dtype[Any]
    measure_every: int
    observables: tuple[str, ...]


def integer(name: str, value: Any, least: int, most: int = MOST) -> int:
    """``value`` as an integer in a range."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r} of type {type(value).__name__}") from None
    if not least <= found <= most:
        raise ValueError(f"{name}: expected an integer from {least} to {most}, got {found}")
    return found


def number(name: str, value: Any, above: float | None = None, least: float | None = None) -> float:
    """``value`` as a finite real number, larger than ``above``, or at least ``least``."""
    if isinstance(value, (str, bytes, complex)) or np.ndim(value):
        raise TypeError(f"{name}: expected a real number, got {value!r} of type {type(value).__name__}")
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a real number, got {value!r} of type {type(value).__name__}") from None
    if not math.isfinite(found):
        raise ValueError(f"{name}: expected a finite number, got {found}")
    if above is not None and found <= above:
        raise ValueError(f"{name}: expected a number > {above:g}, got {found:g}")
    if least is not None and found < least:
        raise ValueError(f"{name}: expected a number >= {least:g}, got {found:g}")
    return found


def check_lattice(shape: Any, n_components: Any) -> tuple[tuple[int, ...], int]:
    """Extents and N."""
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence) or not 1 <= len(shape) <= 3:
        raise ValueError(f"shape: expected one to three extents, as in (32, 32), got {shape!r}")
    extents = tuple(integer("shape", length, 1) for length in shape)
    components = integer("n_components", n_components, 1, 1 << 16)
    if math.prod(extents) * components > MOST:
        raise ValueError(f"shape: expected at most 2^31 numbers in a field, got {components} x {extents}")
    return extents, components


def check_options(**given: Any) -> Options:
    """All of them, in their types."""
    m2 = number("m2", given["m2"])
    coupling = number("coupling", given["coupling"])
    if coupling < 0:
        raise ValueError(f"coupling: expected lambda >= 0, got {coupling:g}; below 0 the potential has no bottom")
    if coupling == 0 and m2 <= 0:
        raise ValueError(
            f"m2: expected m^2 > 0 in the free theory (coupling = 0), got {m2:g}; give a mass or a coupling"
        )
    trajectories = integer("trajectories", given["trajectories"], 1)
    every = integer("measure_every", given["measure_every"], 1)
    if trajectories % every:
        raise ValueError(f"measure_every: expected a divisor of trajectories = {trajectories}, got {every}")
    if given["integrator"] not in INTEGRATORS:
        raise ValueError(f"integrator: expected one of {list(INTEGRATORS)}, got {given['integrator']!r}")
    target = number("target_acceptance", given["target_acceptance"], above=0.0)
    if target >= 1:
        raise ValueError(f"target_acceptance: expected a number between 0 and 1, got {target:g}")
    chains = integer("chains", given["chains"], 1)
    step_size = None if given["step_size"] is None else number("step_size", given["step_size"], above=0.0)
    return Options(
        m2, coupling, trajectories, integer("seed", given["seed"], 0, (1 << 64) - 1), chains,
        integer("thermalisation", given["thermalisation"], 0), step_size, integer("steps", given["steps"], 1, 1 << 20),
        given["integrator"], target, integer("first_chain", given["first_chain"], 0, (1 << 32) - chains),
        _dtype(given["dtype"]), every, _observables(given["observables"]),
    )  # fmt: skip


def _dtype(value: Any) -> np.dtype[Any]:
    try:
        found = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}") from None
    if found.name not in ("float32", "float64"):
        raise TypeError(f"dtype: expected float32 or float64, got {found}")
    return np.dtype(np.float32 if found.name == "float32" else np.float64)


def _observables(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"observables: expected a sequence of names, got {value!r}; put it into a list")
    found = tuple(value)
    for name in found:
        if name not in OBSERVABLES:
            raise ValueError(f"observables: expected names out of {list(OBSERVABLES)}, got {name!r}")
    return found


def check_start(value: Any, full: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A copy of the fields to start from."""
    fields = np.asarray(value)
    if fields.dtype.kind not in "iuf":
        raise TypeError(f"start: expected real fields, got dtype {fields.dtype}")
    if fields.shape != full:
        raise ValueError(f"start: expected shape (chains, N, *shape) = {full}, got {fields.shape}")
    if not np.isfinite(fields).all():
        raise ValueError(
            "start: expected finite fields, got NaN or infinity; start hot, cold, or from an earlier state"
        )
    return np.array(fields, dtype=dtype, order="C")
