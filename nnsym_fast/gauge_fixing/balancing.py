# SPDX-License-Identifier: MIT
"""The smallest representative of an orbit: the point with the least sum of squares of the trained parameters.

The logarithm of a scale, or a matrix of a linear site, moves the norm along a geodesically convex function (Kempf and
Ness 1979), so sweeps over the sites, each solved exactly, end at the one minimum: there the charges vanish (``|row|^2
+ b^2 - |column|^2`` of a unit, ``W_in W_in^T + b b^T - W_out^T W_out`` of a linear site), and what is left of the
group is compact. Permutations, signs, phases and rotations do not change the norm.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnsym_fast.elements import Elements, SiteElements, check_integer
from nnsym_fast.gauge_fixing._minima import Polar, linear_minimum, log_scales, pair_scales
from nnsym_fast.gauge_fixing._newton import joint_minimum
from nnsym_fast.gauge_fixing._sites import Array, Carrier, carriers, head_matrices, restore, rows, to_float64, view
from nnsym_fast.groups import Affine, GeneralLinear, Group, RotaryCommutant, SpecialLinear
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Balanced", "balance", "balancing_element", "matrix_group"]

TOLERANCE = 1e-10
MAX_SWEEPS = 1000

JOINTLY = 4
"""Every so many sweeps the scales that still move are solved for together."""

LARGEST = 4096
"""Units whose Hessian may be formed for that."""


@dataclass(frozen=True, eq=False)
class Balanced:
    """The smallest representative of an orbit, and how it was reached."""

    params: dict[str, Any]
    """The representative, in the framework and dtype of the network."""
    element: Elements
    """The one element (leading axis 1) that takes the network there."""
    norm_before: float
    """Euclidean norm of all trained parameters of the network."""
    norm_after: float
    """That of the representative."""
    sweeps: int
    """Passes over the sites."""
    converged: bool
    """Whether the last pass moved every scale by less than the tolerance."""
    unbounded: Mapping[str, tuple[int, ...]]
    """Site -> units without a minimum (heads, of a dense site): nothing but zeros, or nothing at all, on one side."""


@dataclass(frozen=True)
class Solution:
    """What :func:`balancing_element` finds; the fields are those of :class:`Balanced`."""

    element: Elements
    sweeps: int
    converged: bool
    unbounded: Mapping[str, tuple[int, ...]]
    sides: Mapping[str, Array]
    """Site with scales -> the sign of the exponents that are left, ``(size,)``; 0 for units that have a minimum."""


def matrix_group(group: Group) -> Group:
    """What acts inside one head, without shifts."""
    unit = group.unit_group
    return unit.group if isinstance(unit, Affine) else unit


def balance(
    params: Mapping[str, Any], spec: SymmetrySpec, *, tolerance: float = TOLERANCE, max_sweeps: int = MAX_SWEEPS
) -> Balanced:
    """The point of a network's orbit with the smallest Euclidean norm of all trained parameters.

    Every site is solved in closed form, given the others: the scale of a unit, the scale of a pair of a rotary
    embedding, the matrix of a linear site from the SVD of the product of what writes to it and what reads from it, a
    shift that takes the mean of what it acts on away. Sweeps over the sites repeat where tensors join two of them.

    Args:
        params: tensor name -> array or torch tensor, one network.
        spec: its symmetry.
        tolerance: the sweeps end when the logarithm of no scale moves by more.
        max_sweeps: and after as many at most.

    Returns:
        :class:`Balanced`. The norm never grows. Units without a minimum are named in ``unbounded``: a scale stays as
            it is, a dense head goes some way towards its infimum.

    Raises:
        TypeError: not a spec, or tensors that are not floating point where a site acts.
        ValueError: params do not fit the spec or are not finite; a tolerance or a number of sweeps below what makes
            sense.

    >>> import numpy as np, nnsym_fast as nf
    >>> numbers = {"0.weight": [[8.0]], "0.bias": [0.0], "2.weight": [[2.0]], "2.bias": [1.0]}
    >>> result = balance({name: np.array(value) for name, value in numbers.items()}, nf.specs.mlp([1, 1, 1]))
    >>> round(result.params["0.weight"].item(), 12), round(result.norm_after**2, 12)
    (4.0, 33.0)
    """
    values = to_float64(params, spec)
    solution = balancing_element(values, spec, tolerance, max_sweeps)
    moved = point(spec, solution.element, values)
    return Balanced(
        restore(moved, params, spec),
        solution.element,
        norm(spec, values),
        norm(spec, moved),
        solution.sweeps,
        solution.converged,
        solution.unbounded,
    )


def point(spec: SymmetrySpec, element: Elements, values: Mapping[str, Array]) -> dict[str, Array]:
    """The one element applied to float64 tensors, by the definition: for one element it is quick enough."""
    return {name: value[0] for name, value in reference.act(spec, element, values).items()}


def norm(spec: SymmetrySpec, values: Mapping[str, Array]) -> float:
    """Euclidean norm of all trained parameters, float64."""
    trained = (np.asarray(values[name]) for name in spec.legs if name not in spec.state)
    return math.sqrt(math.fsum(float(np.vdot(value, value).real) for value in trained if value.dtype.kind == "f"))


def balancing_element(
    values: Mapping[str, Array], spec: SymmetrySpec, tolerance: float, max_sweeps: int, limit: bool = False
) -> Solution:
    """The element that balances float64 tensors, which stay as they are.

    Args:
        limit: the others find their minimum as if units without one had reached their infimum, so that it does not
            depend on the scale of these.

    Raises:
        TypeError, ValueError: see :func:`balance`.
    """
    if not (isinstance(tolerance, (int, float)) and tolerance > 0):
        raise ValueError(f"tolerance: expected a number > 0, the largest change of a logarithm, got {tolerance!r}")
    if check_integer(max_sweeps, "max_sweeps") < 1:
        raise ValueError(f"max_sweeps: expected at least 1 pass over the sites, got {max_sweeps}")
    trained = {name: value for name, value in values.items() if name not in spec.state and spec.touched(name)}
    work = _Work(spec, {name: value.copy() for name, value in trained.items()}, limit)
    waiting = dict.fromkeys(work.active)
    sweeps = 0
    while waiting and sweeps < max_sweeps:
        sweeps += 1
        if sweeps % JOINTLY == 0:
            waiting |= work.solve_jointly(waiting, tolerance)
        for site in [site for site in work.active if site in waiting]:
            del waiting[site]
            if work.solve(site) > tolerance:
                waiting |= dict.fromkeys(work.neighbours[site])
    unbounded = {site: tuple(np.flatnonzero(lost).tolist()) for site, lost in work.lost.items() if lost.any()}
    return Solution(work.element(), sweeps, not waiting, unbounded, work.sides)


class _Work:
    """Tensors on their way to the minimum, changed in place, and the element that has brought them there."""

    def __init__(self, spec: SymmetrySpec, values: dict[str, Array], limit: bool) -> None:
        self.spec, self.values, self.limit = spec, values, limit
        self.carriers = {
            site: tuple(one for one in found if one.tensor in values and not one.order)
            for site, found in carriers(spec).items()
        }
        self.active = [site for site, group in spec.sites.items() if group.scaled or _linear(group)]
        self.logs = {site: np.zeros(spec.sites[site].size) for site in self.active if spec.sites[site].scaled}
        eyes = {site: _eyes(spec.sites[site]) for site in self.active if spec.sites[site].dense}
        self.matrices = {site: (eye, eye) for site, eye in eyes.items()}
        # Units that have no minimum; heads, of dense sites.
        self.lost = {
            site: np.zeros(len(self.logs[site]) if site in self.logs else spec.sites[site].heads, dtype=bool)
            for site in self.active
        }
        self.sides = {site: np.zeros(len(logs)) for site, logs in self.logs.items()}
        self.shifts = {site: self._centre(site) for site, group in spec.sites.items() if group.shifted}
        self.axes = {site: self._axes(site) for site in self.active}
        self.neighbours = {site: self._neighbours(site) for site in self.active}

    def _centre(self, site: str) -> Array:
        """Take the mean of the affine carriers away: the shift with the least sum of squares."""
        affine = [self.values[one.tensor][one.start : one.start + one.length]
                  for one in self.carriers[site] if one.leg.affine]  # fmt: skip
        mean = np.mean(affine, axis=0) if affine else np.zeros(self.spec.sites[site].size)
        for part in affine:
            part -= mean
        return -mean

    def _axes(self, site: str) -> dict[str, int]:
        """Tensor -> on how many of its axes the site acts."""
        found = defaultdict(set)
        for one in self.carriers[site]:
            if one.leg.power:
                found[one.tensor].add(one.axis)
        return {name: len(axes) for name, axes in found.items()}

    def _neighbours(self, site: str) -> list[str]:
        """Sites whose minimum a move of this one changes: itself too where a tensor carries it on two axes."""
        return [
            other
            for other in self.active
            if any(other != site or count > 1 for name, count in self.axes[site].items() if name in self.axes[other])
        ]

    def solve(self, site: str) -> float:
        """Move the site to its minimum, given the others; the largest change of a logarithm."""
        return self._solve_scales(site) if site in self.logs else self._solve_matrices(site)

    def _solve_scales(self, site: str) -> float:
        # A tensor with the site on k axes has products of scales; by the inequality of the means they lie below the sum
        # over axes of the k-th powers over k, which touches them here: its minimum makes the norm smaller.
        sums: dict[float, Array] = {}
        for one in self.carriers[site]:
            if one.leg.power:
                count = self.axes[site][one.tensor]
                exponent = exponent_of(one) * count
                squares = np.square(rows(self.spec, one, self.values[one.tensor])).sum(axis=1) / count
                sums[exponent] = sums.get(exponent, 0.0) + squares
        tau, attained = log_scales(list(sums), np.array(list(sums.values())))
        lost = ~attained & ~self.lost[site]
        self.lost[site] |= lost
        above = [squares > 0 for exponent, squares in sums.items() if exponent > 0]
        self.sides[site][lost] = np.where(np.any([np.zeros(len(lost), dtype=bool), *above], axis=0), 1.0, -1.0)[lost]
        tau[self.lost[site]] = 0.0
        self._scale(site, tau)
        if self.limit and lost.any():
            self._clear(site, lost)
        return float(np.abs(tau).max()) if len(tau) else 0.0

    def solve_jointly(self, waiting: Iterable[str], tolerance: float) -> dict[str, None]:
        """Move scales that are joined to those of ``waiting`` to their common minimum, where that is affordable.

        Returns:
            The sites that are to be solved again, as keys.
        """
        joined = [site for site in waiting if site in self.logs]
        for site in joined:
            joined += [other for other in self.neighbours[site] if other in self.logs and other not in joined]
        if not joined or sum(len(self.logs[site]) for site in joined) > LARGEST:
            return {}
        found = joint_minimum(self.spec, self.values, {site: ~self.lost[site] for site in joined}, tolerance)
        for site, tau in found.items():
            self._scale(site, tau)
        return dict.fromkeys(joined) | dict.fromkeys(other for site in joined for other in self.neighbours[site])

    def _scale(self, site: str, tau: Array) -> None:
        self.logs[site] += tau
        factors = {exponent: np.exp(exponent * tau) for exponent in map(exponent_of, self.carriers[site])}
        for one in self.carriers[site]:
            split = view(self.spec, one, self.values[one.tensor])
            split *= self._column(site, factors[exponent_of(one)], split)

    def _clear(self, site: str, lost: Array) -> None:
        for one in self.carriers[site]:
            if one.leg.power:
                split = view(self.spec, one, self.values[one.tensor])
                split *= self._column(site, 1.0 - lost, split)

    def _column(self, site: str, units: Array, split: Array) -> Array:
        group = self.spec.sites[site]
        return units.reshape(group.heads, 1, group.head_size, *(1 for _ in split.shape[3:]))

    def _solve_matrices(self, site: str) -> float:
        group = self.spec.sites[site]
        stacks = head_matrices(self.spec, site, self.values)
        # As above: for P = g^T g, tr(P w P^-1 w^T) <= (tr(P^2 w w^T) + tr(P^-2 w^T w)) / 2 and P <= (P^2 + 1) / 2.
        power = 1.0 / max(self.axes[site].values(), default=1)
        found = _minimum(matrix_group(group), stacks[0], stacks[1], power)
        self.lost[site] |= ~found.attained
        mixings = (found.matrix, np.swapaxes(found.inverse, -1, -2))
        # A head without a minimum can move for ever; what matters is how much smaller that makes it.
        before, after = (
            sum(np.einsum("hij,hij->h", part, part) for part in parts)
            for parts in (stacks, [mixing @ part for mixing, part in zip(mixings, stacks, strict=True)])
        )
        gain = (before - after) / np.where(before > 0, before, 1.0)
        matrix, inverse = self.matrices[site]
        self.matrices[site] = (found.matrix @ matrix, inverse @ found.inverse)
        for one in self.carriers[site]:
            split = view(self.spec, one, self.values[one.tensor])
            split[...] = np.einsum("hij,hcj...->hci...", mixings[one.leg.dual], split)
        return float(np.where(found.attained, found.step, gain).max())

    def element(self) -> Elements:
        """The element so far."""
        sites = {}
        for site, group in self.spec.sites.items():
            parts = reference.identity_site(group, 1)._asdict()
            if site in self.logs:
                parts["scale"] = np.exp(self.logs[site])[None]
            if site in self.matrices:
                parts["matrix"], parts["inverse"] = (
                    part.reshape(reference.matrix_shape(group, 1)) for part in self.matrices[site]
                )
            if site in self.shifts:
                shift = self.shifts[site].reshape(group.heads, -1, 1)
                parts["shift"] = (self.matrices[site][0] @ shift if site in self.matrices else shift).reshape(1, -1)
            sites[site] = SiteElements(**parts)
        return Elements(sites, 1)


def exponent_of(carrier: Carrier) -> float:
    """The power of the scale by which an element multiplies a stretch."""
    return -carrier.leg.power if carrier.leg.dual else carrier.leg.power


def _linear(group: Group) -> bool:
    return isinstance(matrix_group(group), (GeneralLinear, SpecialLinear, RotaryCommutant))


def _eyes(group: Group) -> Array:
    return np.broadcast_to(np.eye(group.head_size), (group.heads, group.head_size, group.head_size))


def _minimum(unit: Group, a: Array, b: Array, power: float) -> Polar:
    if not isinstance(unit, RotaryCommutant):
        return linear_minimum(a, b, power, special=isinstance(unit, SpecialLinear))
    heads, m = a.shape[:2]
    matrix, inverse = np.zeros((heads, m, m)), np.zeros((heads, m, m))
    step, attained = np.zeros(heads), np.ones(heads, dtype=bool)
    if unit.pairs:
        both = np.array(unit.pairs)
        squares = [np.einsum("hij,hij->hi", side, side)[:, both].sum(axis=-1) for side in (a, b)]
        tau, has = pair_scales(squares[0], squares[1])
        tau *= power
        for column in both.T:
            matrix[:, column, column], inverse[:, column, column] = np.exp(tau), np.exp(-tau)
        step, attained = np.abs(tau).max(axis=-1), np.asarray(has.all(axis=-1))
    if unit.free:
        free = slice(m - unit.free, m)
        rest = linear_minimum(a[:, free], b[:, free], power)
        matrix[:, free, free], inverse[:, free, free] = rest.matrix, rest.inverse
        step, attained = np.maximum(step, rest.step), attained & rest.attained
    return Polar(matrix, inverse, step, attained)
