# SPDX-License-Identifier: MIT
"""Matrices that are hard to exponentiate, each with its exact exponential and the error of scipy on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import scipy.linalg
from wilson_cases import Array, Generator, dagger, norm, normal, real, wide
from wilson_exact import Exact

from nnsym_fast import reference

DECADES = tuple(range(-12, 5))


def norm1(a: Array) -> float:
    return float(np.abs(a).sum(axis=0).max())


def scaled(a: Array, size: float) -> Array:
    return a * (size / norm1(a))


def gaussian(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """Of 1-norm ``size``; from 10 on moved to where the exponential neither over- nor underflows."""
    a = scaled(normal(rng, (d, d), dtype), size)
    return a - max(np.linalg.eigvals(a).real) * np.eye(d) if size >= 10 else a


def skew(rng: Generator, d: int, dtype: str, size: float) -> Array:
    a = normal(rng, (d, d), dtype)
    return scaled(a - dagger(a), size * rng.uniform(0.5, 1))


def nilpotent(rng: Generator, d: int, dtype: str, size: float) -> Array:
    return np.triu(normal(rng, (d, d), dtype), 1) * size


def defective(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """One Jordan block."""
    return -rng.uniform(0.5, 1) * np.eye(d, dtype=dtype) + size * rng.uniform(0.5, 1) * np.eye(d, k=1)


def turned(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """One Jordan block in a basis where nothing shows that it is triangular."""
    q = np.linalg.qr(normal(rng, (d, d), dtype))[0]
    return q @ defective(rng, d, dtype, size) @ dagger(q)


def overscaled(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """Small eigenvalues below huge off-diagonal entries: scaling by the norm squares far too often."""
    return nilpotent(rng, d, dtype, size) + np.diag(rng.uniform(-1, 1, d))


def textbook(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """[[1, size], [0, -1]], whose square is 1."""
    return np.array([[1, size * rng.uniform(0.5, 1)], [0, -1]], dtype)


def stiff(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """Hermitian with eigenvalues -size ... -1."""
    q = np.linalg.qr(normal(rng, (d, d), dtype))[0]
    return q @ np.diag(-np.geomspace(1, size, d)) @ dagger(q)


def stiff_general(rng: Generator, d: int, dtype: str, size: float) -> Array:
    """The same eigenvalues in a skew basis."""
    q = normal(rng, (d, d), dtype) + 2 * np.eye(d)
    return q @ np.diag(-np.geomspace(1, size, d)) @ np.linalg.inv(q)


@dataclass(frozen=True)
class Family:
    kind: str
    size: float
    make: Callable[[Generator, int, str], Array]
    sizes: tuple[int, ...]
    count: int = 8


SMALL = (2, 3, 4, 5)
LARGE = (8, 12, 16, 17, 24, 33, 64)


def family(make: Callable[..., Array], size: float, sizes: tuple[int, ...], count: int = 8) -> Family:
    return Family(make.__name__, size, partial(make, size=size), sizes, count)


FAMILIES = (
    *(family(gaussian, 10.0**k, SMALL, 4) for k in DECADES),
    *(family(gaussian, size, LARGE) for size in (1e-6, 0.1, 3.0, 100.0)),
    *(family(skew, size, SMALL) for size in (1.0, 30.0, 1e3)),
    family(skew, 29.0, LARGE),
    family(nilpotent, 1.0, (2, 3, 4, 5, 8)),
    family(nilpotent, 1e3, (2, 3, 4)),
    family(nilpotent, 1e8, (2, 3)),
    family(defective, 1.0, (2, 3, 5, 8)),
    family(defective, 1e3, (2, 3, 4)),
    family(turned, 1.0, (2, 3, 5, 8)),
    family(turned, 30.0, (2, 3, 4)),
    family(overscaled, 1e2, (2, 3, 4, 5, 8)),
    family(overscaled, 1e3, (2, 3, 4)),
    family(overscaled, 1e6, (2, 3, 4)),
    family(textbook, 1e6, (2,)),
    family(stiff, 1e4, (2, 3, 4, 5, 8)),
    family(stiff_general, 1e4, (2, 3, 4, 5)),
)


def conditioning(a: Array) -> float:
    """||L(a)|| ||a|| / ||exp(a)|| in the Frobenius norm, by power iteration in float64."""
    a = a.astype(wide(a.dtype.name))
    e = normal(np.random.default_rng(0), a.shape, a.dtype.name)
    growth = 0.0
    for _ in range(6):
        e /= np.linalg.norm(e)
        image = reference.expm_frechet(a, e)
        growth = float(np.linalg.norm(image))
        e = reference.expm_frechet(dagger(a), image)
    return growth * float(np.linalg.norm(a)) / float(np.linalg.norm(reference.expm(a)))


class Wide:
    """A wider type as the judge where integers are slow: scipy in float64 for float32, else a series in long double."""

    def __init__(self, a: Array) -> None:
        self.value = scipy_expm(a.astype(wide(a.dtype.name))) if real(a.dtype.name) == "float32" else long_expm(a)

    def error(self, p: Array) -> float:
        return float(norm(p - self.value) / norm(self.value))


LONG = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps / 100
"""Whether long double is wider than double; not so on every machine."""


def long_expm(a: Array) -> Array:
    """Scaled Taylor series in long double: 2^-64 2^s with 2^s below 8 ||a||, far below epsilon times the condition."""
    squarings = max(0, int(np.frexp(norm1(a))[1]) + 2)
    x = a.astype(np.clongdouble if np.iscomplexobj(a) else np.longdouble) * np.longdouble(2) ** -squarings
    p = one = np.eye(len(a), dtype=x.dtype)
    for k in range(20, 0, -1):
        p = one + x @ p / k
    for _ in range(squarings):
        p = p @ p
    return p


def scipy_expm(a: Array) -> Array:
    """scipy in the precision of the matrix; it may meet numbers that under- or overflow on its way."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = np.asarray(scipy.linalg.expm(a))
    assert result.dtype == a.dtype
    return result


@dataclass(frozen=True)
class Sample:
    """One matrix with its exact exponential and the relative error of scipy in the same precision."""

    family: Family
    matrix: Array
    exact: Exact | Wide
    scipy: float

    @cached_property
    def condition(self) -> float:
        return conditioning(self.matrix)


def _judge(a: Array) -> Exact | Wide:
    if len(a) <= 5 or (real(a.dtype.name) == "float64" and not (LONG and len(a) > 8)):
        return Exact(a)
    return Wide(a)


def _count(kind: Family, d: int) -> int:
    """Fewer of those for which the judges take long."""
    return kind.count if d <= 5 else 4 if d <= 16 else 2


@cache
def samples(d: int, dtype: str) -> tuple[Sample, ...]:
    """All families of one size, shuffled: neighbours in a vector have nothing in common."""
    rng = np.random.default_rng(d)
    found = []
    for kind in FAMILIES:
        if d not in kind.sizes:
            continue
        for _ in range(_count(kind, d)):
            a = kind.make(rng, d, wide(dtype)).astype(dtype)
            exact = _judge(a)
            found.append(Sample(kind, a, exact, exact.error(scipy_expm(a))))
    return tuple(found[i] for i in rng.permutation(len(found)))
