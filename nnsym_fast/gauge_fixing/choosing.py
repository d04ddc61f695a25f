# SPDX-License-Identifier: MIT
"""The representative of an orbit that is best under a user's objective, found by random search and small steps.

One random point of an orbit of high dimension is rarely much better than the next. Two things help. The group is a
product over sites, and over heads where heads are not permuted; so an objective that is a sum of terms, one per site,
is minimised site by site: each takes its own best sample, and n samples do the work of n to the number of sites. And
small steps from the best element go on where sampling ends: a (1+1) evolution strategy with the one-fifth rule
(Rechenberg 1973), again for every site by itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast._arrays import is_torch
from nnsym_fast.elements import Elements, check_count, check_seed, check_start, compose
from nnsym_fast.gauge_fixing._choose_steps import Factor, merge, nearby
from nnsym_fast.orbit import Orbit, act
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Chosen", "choose"]

Array: TypeAlias = npt.NDArray[Any]
Objective: TypeAlias = Callable[[dict[str, Any]], Any]

BATCH_BYTES = 64 << 20
BATCH_POINTS = 256
"""Points that are held at a time, at most, unless the caller says otherwise."""

SEPARABLE = 1e-3
ROUNDING = 1e-6
"""Changes that the terms of an objective may show when the best elements of all sites meet, relative to their sum, and
to that of the network as it came in: a term that has fallen to zero comes back as rounding."""

GROW = 1.5
"""Factor of the size of a move that succeeded. One that failed has its fourth root, so one in five balances."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The best representative that was found.

    Args:
        params: the representative, in the framework and dtype of the network.
        element: the element that takes the network there, ``count`` 1: ``nf.act(spec, element, params)``.
        value: the objective there; the sum of its terms, where it has several.
        base_value: the objective of the network as it came in.
        index: ``Orbit(params, spec, seed)[index]`` is the sample that won, before small steps. None where the network
            as it came in is no worse than any sample, and where every site has a sample of its own.
        indices: site -> index of the sample that it took, one per head where the objective has a term per head; None
            where it stayed. Empty for an objective of one number.
        terms: site -> its terms at the representative; empty for an objective of one number. Tied sites have one sum,
            under the first that the objective named.
        accepted: small steps that were taken, summed over all choices.
        history: ``(evaluations, best value)`` at the start and whenever the value fell.
    """

    params: dict[str, Any]
    element: Elements
    value: float
    base_value: float
    index: int | None
    indices: Mapping[str, tuple[int | None, ...]]
    terms: Mapping[str, Array]
    accepted: int
    history: tuple[tuple[int, float], ...]


def choose(
    params: Mapping[str, Any],
    spec: SymmetrySpec,
    objective: Objective,
    samples: int,
    *,
    seed: int = 0,
    start: int = 0,
    batch: int | None = None,
    batched: bool = False,
    tensors: Iterable[str] | None = None,
    refine: int = 0,
    step: float = 0.1,
) -> Chosen:
    """Search the orbit of a network for the representative with the smallest objective.

    The network itself and points ``start .. start + samples - 1`` of its orbit compete; the first of equals wins.
    Points are streamed: memory does not depend on ``samples``, and the result not on ``batch``. Then ``refine`` small
    elements are composed onto the best one, each kept if the objective falls: moves of matrices, scales and shifts,
    exchanges of two units or two heads and flips of one sign, in turns, as far as the group has them.

    Args:
        params: tensor name -> array or torch tensor, one network.
        spec: its symmetry.
        objective: takes a point, a dict of tensors that is valid during the call, and returns a number; lower is
            better. Or a mapping site -> number, whose sum is minimised: then every site takes its own best sample,
            which finds far more. A term may depend on the element of its own site alone, or on those of its tie, whose
            terms are added. A site whose heads are not permuted may have an array of one term per head. Sites without a
            term stay.
        samples: how many points of the orbit are tried.
        seed: 64-bit seed of the orbit.
        start: index of the first point.
        batch: points that are computed together; by default as many as fit in 64 MiB, at most 256.
        batched: whether the objective takes stacked points, as ``Orbit.points`` returns them, and returns an array of
            one number per point; for a mapping, arrays of shape ``(n,)`` or ``(n, heads)``.
        tensors: names of those that the objective wants; by default all.
        refine: how many small elements are tried.
        step: size of the first moves, in logarithms of scales, angles, and units of shifts; it adapts.

    Returns:
        :class:`Chosen`.

    Raises:
        TypeError: an argument of the wrong type; an objective that returns no numbers.
        ValueError: params do not fit the spec; a value that is not finite, with the index of the point; an unknown
            site; a term per head where heads are permuted; terms that depend on other sites than their own.

    >>> import numpy as np, nnsym_fast as nf
    >>> shapes = {"0.weight": (8, 2), "0.bias": (8,), "2.weight": (1, 8), "2.bias": (1,)}
    >>> rng = np.random.default_rng(0)
    >>> params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    >>> def largest(point):
    ...     return max(abs(value).max() for value in point.values())
    >>> found = choose(params, nf.specs.mlp([2, 8, 1]), largest, 100)
    >>> finer = choose(params, nf.specs.mlp([2, 8, 1]), largest, 100, refine=100)
    >>> found.base_value > found.value > finer.value
    True
    """
    if not callable(objective):
        raise TypeError(f"objective: expected a function of a point, got {type(objective).__name__}")
    count, rounds = check_count(samples, "samples"), check_count(refine, "refine")
    first = check_start(start, count)
    if first + count > sys.maxsize:
        raise ValueError(f"start: expected start + samples <= {sys.maxsize}, the length of an orbit, got {start}")
    if batch is not None and check_count(batch, "batch") < 1:
        raise ValueError("batch: expected at least 1 point, got 0")
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not (math.isfinite(step) and step > 0):
        raise ValueError(f"step: expected a finite number > 0, the size of the first small moves, got {step!r}")
    search = _Search(params, spec, objective, check_seed(seed), batched, tensors)
    search.sample(first, count, batch)
    search.refine(rounds, float(step))
    return search.result()


class _Terms:
    """A user's objective as a table: one row per point, one column per choice of the search."""

    def __init__(self, spec: SymmetrySpec, objective: Objective, batched: bool) -> None:
        self.spec, self.objective, self.batched = spec, objective, batched
        self.factors: tuple[Factor, ...] = ()
        self.columns: dict[str, slice] = {}
        self.kinds: dict[str, tuple[int, ...]] | None = None

    def __call__(self, points: Mapping[str, Any], count: int, where: str, first: int = 0) -> Array:
        """Float64 of shape ``(count, choices)``; ``where.format(first + row)`` says which point a row is."""
        if self.batched:
            table = self._table(self.objective(dict(points)), count)
        else:
            rows = (self.objective({name: value[k] for name, value in points.items()}) for k in range(count))
            table = np.concatenate([self._table(row, None) for row in rows])
        bad = np.argwhere(~np.isfinite(table))
        if len(bad):
            row, column = bad[0]
            site = "" if "" in self.columns else f" for site {self.site_of(int(column))!r}"
            raise ValueError(
                f"objective: expected finite numbers, got {table[row, column]}{site} {where.format(first + row)}; "
                "return a large number for points that are to lose"
            )
        return table

    def site_of(self, column: int) -> str:
        """The site that a column was first named by."""
        return next(site for site, part in self.columns.items() if part.start <= column < part.stop)

    def _table(self, raw: Any, count: int | None) -> Array:
        """What the objective returned; ``count`` None: for one point that was not stacked."""
        named = raw if isinstance(raw, Mapping) else {"": raw}
        numbers = {site: _numbers(value, site, count) for site, value in named.items()}
        kinds = {site: value.shape[1:] for site, value in numbers.items()}
        if self.kinds is None:
            self._learn(kinds)
        elif kinds != self.kinds:
            raise ValueError(
                f"objective: expected the same terms for every point, {_describe(self.kinds)}, got {_describe(kinds)}"
            )
        rows = 1 if count is None else count
        table = np.zeros((rows, sum(factor.choices for factor in self.factors)))
        for site, value in numbers.items():
            table[:, self.columns[site]] += value.reshape(rows, -1)
        return table

    def _learn(self, kinds: dict[str, tuple[int, ...]]) -> None:
        """The factors of the group that the terms speak of: one with all sites for a single number."""
        if not kinds:
            raise ValueError("objective: expected a number or terms of sites, got an empty mapping")
        if "" in kinds:
            if kinds[""]:
                raise ValueError(f"objective: expected one number for each point, got shape {kinds['']}")
            self.factors, self.columns = (Factor(tuple(self.spec.sites)),), {"": slice(0, 1)}
        else:
            factors: list[Factor] = []
            width = 0
            for site, shape in kinds.items():
                choices = self._choices(site, shape)
                tie = self.spec.sites[site].tie
                tied = [other for other, group in self.spec.sites.items() if tie and group.tie == tie]
                known = [other for other in tied if other in self.columns]
                if known:
                    self.columns[site] = self.columns[known[0]]
                    continue
                factors.append(Factor(tuple(tied) or (site,), choices))
                self.columns[site] = slice(width, width + choices)
                width += choices
            self.factors = tuple(factors)
        self.kinds = kinds

    def _choices(self, site: str, shape: tuple[int, ...]) -> int:
        group = self.spec.sites.get(site)
        if group is None:
            raise ValueError(f"objective: unknown site {site!r}; the sites of the spec are {list(self.spec.sites)}")
        if not shape:
            return 1
        if shape != (group.heads,):
            raise ValueError(
                f"objective: expected one number for site {site!r}, or one for each of its {group.heads} heads, "
                f"got shape {shape}"
            )
        if group.permute_heads:
            raise ValueError(
                f"objective: got a term per head of site {site!r}, whose heads are permuted, so that no head has a "
                "term of its own; return their sum, or use a spec without permutations of heads"
            )
        return group.heads


def _numbers(value: Any, site: str, count: int | None) -> Array:
    """One term as float64, ``(n, ...)``."""
    what = f"objective: term of site {site!r}" if site else "objective"
    if is_torch(value):
        value = value.detach().cpu().double()
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what}: expected real numbers, got {value!r} of type {type(value).__name__}")
    if count is None:
        array = array[None]
    elif array.ndim < 1 or len(array) != count:
        raise ValueError(f"{what}: expected one number for each of {count} stacked points, got shape {array.shape}")
    return array.astype(np.float64)


def _describe(kinds: Mapping[str, tuple[int, ...]]) -> str:
    if "" in kinds:
        return "one number"
    return ", ".join(f"{site!r}" + (f" with {shape[0]} heads" if shape else "") for site, shape in kinds.items())


class _Search:
    """The best element so far, and what it is worth."""

    def __init__(
        self,
        params: Mapping[str, Any],
        spec: SymmetrySpec,
        objective: Objective,
        seed: int,
        batched: bool,
        tensors: Iterable[str] | None,
    ) -> None:
        self.orbit = Orbit(params, spec, seed)
        self.spec, self.seed = spec, seed
        base = self.orbit.params
        self.base = {name: value.detach() if is_torch(value) else value for name, value in base.items()}
        self.names = list(self.base) if tensors is None else [tensors] if isinstance(tensors, str) else list(tensors)
        if unknown := sorted(set(self.names) - set(self.base)):
            raise ValueError(f"tensors: expected names of tensors of the network, got {unknown}")
        # What elements are applied to, one by one: tensors that no site touches are not copied for each.
        self.touched = {name: value for name, value in self.base.items() if spec.touched(name)}
        self.lean = SymmetrySpec(spec.sites, {name: spec.legs[name] for name in self.touched})
        self.buffers: dict[str, Any] | None = None
        self.terms = _Terms(spec, objective, batched)
        network = {name: _read_only(self.base[name])[None] for name in self.names}
        self.best = self.terms(network, 1, "for the network itself")[0]
        self.base_value = float(self.best.sum())
        self.rounding = ROUNDING * float(np.abs(self.best).sum())
        self.index = np.full(len(self.best), -1, dtype=np.int64)
        self.element: Elements | None = None
        self.evaluations, self.accepted = 0, 0
        self.history = [(0, self.base_value)]

    def sample(self, first: int, count: int, batch: int | None) -> None:
        """Random points of the orbit: every choice takes the best of its own."""
        size = self._batch_size() if batch is None else batch
        buffers: dict[str, Any] | None = None
        for begin in range(first, first + count, size):
            end = min(begin + size, first + count)
            points = self.orbit.points(begin, end, buffers, share=True, names=self.names)
            buffers = points if buffers is None else buffers
            table = self.terms(points, end - begin, "at point {}", begin)
            running = np.minimum.accumulate(np.vstack([self.best, table]), axis=0)
            for row in np.flatnonzero((running[1:] < running[:-1]).any(axis=1)).tolist():
                better = table[row] < self.best
                self.best = np.where(better, table[row], self.best)
                self.index[better] = begin + row
                self.history.append((self.evaluations + row + 1, float(self.best.sum())))
            self.evaluations += end - begin

    def _batch_size(self) -> int:
        wanted = (value for name, value in self.touched.items() if name in self.names)
        bytes_of_point = sum(math.prod(map(int, value.shape)) * int(value.dtype.itemsize) for value in wanted)
        return max(1, min(BATCH_POINTS, BATCH_BYTES // max(1, bytes_of_point)))

    def refine(self, rounds: int, step: float) -> None:
        """Small elements after the best one: every choice keeps what makes its term fall."""
        sizes = np.full(len(self.best), step)
        for number in range(rounds if self.touched else 0):
            near, moves = nearby(self.spec, self.terms.factors, self.seed, number, sizes)
            old = self._best_element()
            new = compose(near, old)
            terms = self._evaluate(new, f"at small step {number}")
            self.evaluations += 1
            better = terms < self.best
            sizes *= np.where(moves, np.where(better, GROW, GROW**-0.25), 1.0)
            if better.any():
                self.element = merge(self.spec, self.terms.factors, old, new, better)
                self.best = np.where(better, terms, self.best)
                self.accepted += int(better.sum())
                self.history.append((self.evaluations, float(self.best.sum())))

    def _best_element(self) -> Elements:
        """The best element so far; before the first small step, put together from samples."""
        if self.element is None:
            self.element = self.spec.identity(1)
            for index in np.unique(self.index[self.index >= 0]).tolist():
                drawn = self.spec.sample(1, self.seed, index)
                self.element = merge(self.spec, self.terms.factors, self.element, drawn, self.index == index)
        return self.element

    def _evaluate(self, element: Elements, where: str) -> Array:
        self.buffers = act(self.lean, element, self.touched, out=self.buffers)
        point = {
            name: self.buffers[name] if name in self.touched else _read_only(self.base[name])[None]
            for name in self.names
        }
        return np.asarray(self.terms(point, 1, where)[0])

    def result(self) -> Chosen:
        """What was found, after a check that the terms are what they were when they were chosen one by one."""
        whole = "" in self.terms.columns
        index = int(self.index[0]) if whole else -1
        element = self._best_element()
        params = dict(self.base)
        if self.accepted or (index < 0 and (self.index >= 0).any()):
            params |= {name: value[0] for name, value in act(self.lean, element, self.touched).items()}
        elif index >= 0:
            points = self.orbit.points(index, index + 1, names=list(self.touched))
            params |= {name: value[0] for name, value in points.items()}
        if whole:
            return self._chosen(params, element, index if index >= 0 else None, {}, {})
        self._check(self._evaluate(element, "for the best elements of all sites together"))
        taken = {site: self.index[part].tolist() for site, part in self.terms.columns.items()}
        indices = {site: tuple(None if one < 0 else one for one in found) for site, found in taken.items()}
        first = {part.start: site for site, part in reversed(self.terms.columns.items())}
        terms = {site: self.best[self.terms.columns[site]].copy() for site in reversed(first.values())}
        return self._chosen(params, element, None, indices, terms)

    def _check(self, together: Array) -> None:
        apart = np.abs(together - self.best)
        if apart.sum() > SEPARABLE * np.abs(self.best).sum() + self.rounding:
            worst = int(np.argmax(apart))
            raise ValueError(
                f"objective: the term of site {self.terms.site_of(worst)!r} depends on other sites: it was "
                f"{self.best[worst]:.6g} when that site was chosen, and is {together[worst]:.6g} with the choices of "
                "all; return one number, or terms of which each depends on its own site alone"
            )
        self.best = together

    def _chosen(
        self,
        params: dict[str, Any],
        element: Elements,
        index: int | None,
        indices: dict[str, tuple[int | None, ...]],
        terms: dict[str, Array],
    ) -> Chosen:
        return Chosen(
            params,
            element,
            float(self.best.sum()),
            self.base_value,
            index,
            indices,
            terms,
            self.accepted,
            tuple(self.history),
        )


def _read_only(value: Any) -> Any:
    """What an objective may look at and not change: the caller's own memory. A torch tensor has no such view."""
    if is_torch(value):
        return value.clone()
    view = np.asarray(value).view()
    view.flags.writeable = False
    return view
