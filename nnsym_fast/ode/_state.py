# SPDX-License-Identifier: MIT
"""States as rows of numbers, and functions of any shape and framework as functions of such rows.

The driver sees a state (S, D): S samples that each have a step of their own, or S = 1 with a shared step. This module
knows how users' arrays and tuples look, what NumPy does with rows, and what a function must return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnsym_fast._arrays import is_torch

__all__ = ["Layout", "NumpyRows", "Rhs", "Rows"]

Array = npt.NDArray[Any]


class Rows(Protocol):
    """The arithmetic of one framework on rows ``(S, D)``; what decides about steps comes back as float64 of NumPy."""

    kind: Any
    """The class of arrays."""

    def array(self, values: Any, like: Any) -> Any:
        """NumPy numbers as an array of the dtype and device of ``like``; real ones stay real."""

    def time(self, t: Any, like: Any) -> Any:
        """A number, or an array ``(S,)``, as a time of the real dtype and device of ``like``."""

    def advance(self, y: Any, h: Any, weights: Sequence[float], ks: Sequence[Any]) -> Any:
        """y + h sum_j weights_j k_j; h a float or ``(S, 1)``. There are at least as many ks as weights."""

    def combine(self, weights: Sequence[float], ks: Sequence[Any]) -> Any:
        """sum_j weights_j k_j."""

    def mix(self, weights: Array, ks: Sequence[Any]) -> Any:
        """The same for every row of weights ``(M, J)`` and ks ``(1, D)`` or ``(M, D)``: ``(M, D)``."""

    def abs(self, x: Any) -> Any:
        """|x|, real."""

    def scale(self, atol: Any, rtol: Any, *sizes: Any) -> Any:
        """atol + rtol max(sizes)."""

    def rms(self, x: Any) -> Array:
        """Root of the mean square of every row."""

    def finite(self, x: Any) -> Array:
        """Which rows are finite."""

    def where(self, mask: Array, x: Any, y: Any) -> Any:
        """Rows of x where the mask ``(S,)`` holds, else of y."""

    def full(self, value: float, count: int, like: Any) -> Any:
        """``(count, D)`` equal numbers."""

    def concatenate(self, values: Sequence[Any], axis: int) -> Any:
        """``numpy.concatenate``."""

    def take(self, x: Any, rows: Array) -> Any:
        """x[rows]."""

    def functional(self, y: Any, weights: Array) -> Array:
        """y . weights of every row, in float64."""

    def quiet(self) -> AbstractContextManager[Any]:
        """Where nothing is differentiated."""

    def traced(self) -> bool:
        """Whether values cannot be looked at."""

    def drifting(self, entry: Any, drift: Any) -> Any:
        """The step of an entry of a schedule that moves with the times of the outputs."""

    def result(self, values: Array) -> Any:
        """NumPy numbers as an array of the framework."""


class NumpyRows:
    """NumPy's arithmetic."""

    kind = np.ndarray

    def array(self, values: Any, like: Array) -> Array:
        return np.asarray(values, like.real.dtype)

    def time(self, t: Any, like: Array) -> Any:
        return like.real.dtype.type(t) if isinstance(t, float) else t.astype(like.real.dtype)

    def combine(self, weights: Sequence[float], ks: Sequence[Array]) -> Array:
        total = None
        for weight, k in zip(weights, ks, strict=False):
            if weight:
                total = weight * k if total is None else total + weight * k
        return np.zeros_like(ks[0]) if total is None else total

    def advance(self, y: Array, h: Any, weights: Sequence[float], ks: Sequence[Array]) -> Array:
        return np.asarray(y + h * self.combine(weights, ks))

    def mix(self, weights: Array, ks: Sequence[Array]) -> Array:
        columns = self.array(weights, ks[0])[:, :, None]
        return np.asarray(sum(columns[:, j] * k for j, k in enumerate(ks)))

    def abs(self, x: Array) -> Array:
        return np.asarray(np.abs(x))

    def scale(self, atol: Any, rtol: Any, *sizes: Array) -> Array:
        return np.asarray(atol + rtol * (np.maximum(*sizes) if len(sizes) > 1 else sizes[0]))

    def rms(self, x: Array) -> Array:
        size = np.abs(x).astype(np.float64)
        return np.asarray(np.sqrt(np.einsum("sd,sd->s", size, size) / x.shape[1]))

    def finite(self, x: Array) -> Array:
        return np.asarray(np.isfinite(x).all(axis=1))

    def where(self, mask: Array, x: Array, y: Array) -> Array:
        return np.where(mask[:, None], x, y)

    def full(self, value: float, count: int, like: Array) -> Array:
        return np.full((count, like.shape[1]), value, like.dtype)

    def concatenate(self, values: Sequence[Array], axis: int) -> Array:
        return np.concatenate(values, axis)

    def take(self, x: Array, rows: Array) -> Array:
        return np.asarray(x[rows])

    def functional(self, y: Array, weights: Array) -> Array:
        return np.asarray(y.astype(np.float64) @ weights)

    def quiet(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def traced(self) -> bool:
        return False

    def drifting(self, entry: Any, drift: Any) -> Any:
        return entry.step

    def result(self, values: Array) -> Array:
        return values


_NUMPY = NumpyRows()


class Layout:
    """How a user's state, an array or a tuple of arrays, lies in rows.

    Attributes:
        batch: the axes of samples; () for a shared step.
        samples: S.
        rows: the arithmetic.
        sizes: entries of each part of the tuple in a row.
        resolution: the machine epsilon of the dtype.

    Raises:
        TypeError, ValueError: parts of different frameworks, dtypes or devices, or that share no batch.
    """

    def __init__(self, y0: Any, sample: bool) -> None:
        self.tuple = isinstance(y0, (tuple, list))
        parts = list(y0) if self.tuple else [y0]
        if not parts:
            raise ValueError("y0: expected an array or a tuple of arrays, got an empty tuple")
        self.torch = is_torch(parts[0])
        if not self.torch:
            parts = [part if is_torch(part) else np.asarray(part) for part in parts]
        first = parts[0]
        for i, part in enumerate(parts):
            self._check_part(f"y0[{i}]" if self.tuple else "y0", part, first, sample)
        self.parts = parts
        self.shapes = [tuple(part.shape) for part in parts]
        self.batch = self.shapes[0][:-1] if sample else ()
        self.samples = math.prod(self.batch)
        self.sizes = [math.prod(shape[len(self.batch) :]) for shape in self.shapes]
        self.dtype = first.dtype
        self.device = first.device if self.torch else None
        if self.torch:
            from nnsym_fast._torch.rows import ROWS, resolution

            self.rows: Rows = ROWS
            self.resolution: float = resolution(first.dtype)
            self.real = np.dtype(np.float64 if self.resolution < 1e-10 else np.float32)
        else:
            self.rows = _NUMPY
            self.resolution = float(np.finfo(first.dtype).eps)
            self.real = first.real.dtype

    def _check_part(self, name: str, part: Any, first: Any, sample: bool) -> None:
        if is_torch(part) != self.torch:
            wanted = "a torch tensor" if self.torch else "a NumPy array"
            raise TypeError(f"{name}: expected {wanted} as y0[0], got {type(part).__name__}; convert one of them")
        if part.dtype != first.dtype:
            raise TypeError(f"{name}: expected dtype {first.dtype} as y0[0], got {part.dtype}; convert one of them")
        floating = part.is_floating_point() or part.is_complex() if self.torch else part.dtype.kind in "fc"
        if not floating:
            raise TypeError(f"{name}: expected floating or complex numbers, got dtype {part.dtype}; convert them first")
        if self.torch and part.device != first.device:
            raise ValueError(f"{name}: expected device {first.device} as y0[0], got {part.device}; use .to")
        if sample and (part.ndim < 1 or part.shape[:-1] != first.shape[:-1]):
            wanted = f"({', '.join(map(str, (*first.shape[:-1], 'd')))})" if first.ndim else "(..., d)"
            raise ValueError(
                f"{name}: expected shape {wanted} where each sample has its own step, got {tuple(part.shape)}; "
                'reshape it, or use options={"batch_step": "shared"}'
            )

    # --- between users and rows

    def _join(self, parts: Sequence[Any]) -> Any:
        flat = [part.reshape(self.samples, size) for part, size in zip(parts, self.sizes, strict=True)]
        return flat[0] if len(flat) == 1 else self.rows.concatenate(flat, 1)

    def start(self) -> Any:
        """The initial state ``(S, D)``."""
        return self._join(self.parts)

    def segments(self, x: Any) -> Iterator[Any]:
        """The columns of each part."""
        if len(self.sizes) == 1:
            yield x
            return
        first = 0
        for size in self.sizes:
            yield x[:, first : first + size]
            first += size

    def open(self, y: Any) -> Any:
        """Rows as users know them."""
        if not self.tuple:
            return y.reshape(self.shapes[0])
        return tuple(part.reshape(shape) for part, shape in zip(self.segments(y), self.shapes, strict=True))

    def open_many(self, ys: Any) -> Any:
        """``(n, S, D)`` as arrays ``(n, ...)``."""
        count = ys.shape[0]
        flat = ys.reshape(count * self.samples, sum(self.sizes))
        opened = [part.reshape(count, *shape) for part, shape in zip(self.segments(flat), self.shapes, strict=True)]
        return tuple(opened) if self.tuple else opened[0]

    def tolerance(self, name: str, value: Any, like: Any) -> Any:
        """A number, or one for each component, as a number or ``(1, D)``; a tuple of states has one for each part."""
        if isinstance(value, (int, float)):
            return float(value)
        numbers = np.asarray(value, np.float64)
        if self.tuple:
            if numbers.shape != (len(self.sizes),):
                raise ValueError(
                    f"{name}: expected a number, or one for each of {len(self.sizes)} states, got {numbers.shape}"
                )
            full = np.repeat(numbers, self.sizes)
        else:
            d = self.shapes[0][-1:] or (1,)
            if numbers.shape != d:
                raise ValueError(
                    f"{name}: expected a number, or one for each of {d[0]} components, got shape {numbers.shape}"
                )
            full = np.broadcast_to(numbers, (*self.shapes[0][len(self.batch) : -1], *d)).reshape(-1)
        return self.rows.array(full[None], like)

    def norm(self, x: Any) -> Array:
        """Root mean square of every sample, float64; for a tuple of states the largest of theirs, as torchdiffeq."""
        norms = [self.rows.rms(part) for part in self.segments(x) if part.shape[1]]
        return norms[0] if len(norms) == 1 else np.max(norms, axis=0)


class Rhs:
    """A user's function as one of times and rows."""

    def __init__(self, func: Callable[..., Any], layout: Layout) -> None:
        self.func, self.layout, self.rows = func, layout, layout.rows
        self.shape = None if layout.tuple else layout.shapes[0]
        self.kind = layout.rows.kind

    def __call__(self, t: Any, y: Any) -> Any:
        """``t``: a float, or ``(S,)``. Its shape is that of the batch when the function sees it."""
        layout = self.layout
        time = self.rows.time(t, y)
        if time.shape != layout.batch:
            time = time.reshape(layout.batch) if math.prod(time.shape) == layout.samples else self._spread(time)
        if self.shape is not None:
            found = self.func(time, y.reshape(self.shape))
            if not self._fits(found, self.shape, y):
                found = self._converted("func", found, self.shape, y)
            return found.reshape(y.shape)
        found = self.func(time, layout.open(y))
        if not isinstance(found, (tuple, list)) or len(found) != len(layout.shapes):
            got = f"{len(found)} of them" if isinstance(found, (tuple, list)) else _describe(found)
            raise ValueError(
                f"func: expected a tuple of {len(layout.shapes)} derivatives, one for each state of y0, got {got}"
            )
        parts = [
            part if self._fits(part, shape, y) else self._converted(f"func: entry {i} of its result", part, shape, y)
            for i, (part, shape) in enumerate(zip(found, layout.shapes, strict=True))
        ]
        return layout._join(parts)

    def _spread(self, time: Any) -> Any:
        """One time as that of all samples."""
        if self.layout.torch:
            return time.expand(self.layout.batch)
        return np.broadcast_to(time, self.layout.batch)

    def _fits(self, found: Any, shape: tuple[int, ...], y: Any) -> bool:
        """Whether a result is what it should be."""
        return (
            isinstance(found, self.kind)
            and found.shape == shape
            and found.dtype == y.dtype
            and (not self.layout.torch or found.device == y.device)
        )

    def _converted(self, name: str, found: Any, shape: tuple[int, ...], y: Any) -> Any:
        """Lists and numbers as an array, or one error."""
        layout = self.layout
        if not layout.torch and not is_torch(found) and not isinstance(found, np.ndarray):
            try:
                array = np.asarray(found)
            except ValueError:  # lists of different lengths
                array = np.asarray(None)
            if array.shape == shape and np.can_cast(array.dtype, y.dtype, "same_kind"):
                return array.astype(y.dtype)
        kind = "a torch tensor" if layout.torch else "a NumPy array"
        where = f" on {y.device}" if layout.torch else ""
        raise (TypeError if getattr(found, "shape", shape) == shape else ValueError)(
            f"{name}: expected the derivative of y, {kind} of its shape {shape} and dtype {y.dtype}{where}, got "
            f"{_describe(found)}; return one number for each of y, without broadcasting or conversion"
        )


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        where = f" on {value.device}" if is_torch(value) else ""
        return f"{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}{where}"
    return type(value).__name__
