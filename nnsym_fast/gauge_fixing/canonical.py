# SPDX-License-Identifier: MIT
"""One representative for every orbit: the same, up to rounding, from whichever of its points one starts.

The continuous part that changes the norm goes first (:mod:`balancing`): what is left of every group is compact. Then
dense sites are turned into a frame of their own (:mod:`_frames`), units and heads are put into an order
(:mod:`_order`), and signs are chosen (:mod:`_signs`), each from numbers that nothing which comes later can change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnsym_fast.elements import Elements, SiteElements, compose
from nnsym_fast.gauge_fixing._frames import Frame, frames
from nnsym_fast.gauge_fixing._order import Order
from nnsym_fast.gauge_fixing._signs import signs_of
from nnsym_fast.gauge_fixing._sites import Array, carriers, restore, rows, to_float64
from nnsym_fast.gauge_fixing._ties import Tie
from nnsym_fast.gauge_fixing.balancing import MAX_SWEEPS, balancing_element, exponent_of, point
from nnsym_fast.reference import orbit as reference
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Canonical", "Tie", "canonicalize"]

BALANCE = 1e-13
"""Change of a logarithm at which the sweeps of balancing end: well below any tolerance for ties."""

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Relative difference below which two numbers count as equal, by the coarsest dtype: rounding makes smaller ones."""


@dataclass(frozen=True, eq=False)
class Canonical:
    """The canonical representative of an orbit."""

    params: dict[str, Any]
    """The representative, in the framework and dtype of the network."""
    element: Elements
    """The one element (leading axis 1) that takes the network there."""
    ties: tuple[Tie, ...]
    """Units for which the orbit does not determine the element. None: the representative is that of every point."""


def canonicalize(params: Mapping[str, Any], spec: SymmetrySpec, *, tolerance: float | None = None) -> Canonical:
    """The representative of a network's orbit that does not depend on which of its points the network is.

    Its norm is the smallest of the orbit; units and heads come by falling norm, those of linear sites and rotations by
    falling singular value; signs make fixed sums positive. ``canonicalize(act(g, params))`` equals
    ``canonicalize(params)`` up to rounding, divided by the smallest relative gap between singular values of one site.
    Rounding of float32 and less may also exchange neighbours of the order that differ by no more than that.

    Args:
        params: tensor name -> array or torch tensor, one network.
        spec: its symmetry.
        tolerance: numbers that differ by less, relative to the largest, count as equal; by default 1e-9 for float64,
            1e-5, 4e-3 and 3e-2 for float32, float16 and bfloat16.

    Returns:
        :class:`Canonical`. Two equal units, a unit with nothing but zeros on one side, equal singular values and the
        like are named in ``ties``; the choice between these is arbitrary.

    Raises:
        TypeError, ValueError: see :func:`balance`.

    >>> import numpy as np, nnsym_fast as nf
    >>> spec = nf.specs.mlp([1, 2, 1])
    >>> weights = {"0.weight": [[1.0], [-4.0]], "0.bias": [0.0, 0.0], "2.weight": [[9.0, 1.0]], "2.bias": [0.0]}
    >>> result = canonicalize({name: np.array(value) for name, value in weights.items()}, spec)
    >>> result.params["0.weight"].round(12).tolist(), result.params["2.weight"].round(12).tolist(), result.ties
    ([[3.0], [-2.0]], [[3.0, 2.0]], ())
    """
    values = to_float64(params, spec)
    if tolerance is None:
        tolerance = max((TOLERANCE[_dtype(params[name])] for name in spec.legs if spec.touched(name)), default=1e-9)
    elif not (isinstance(tolerance, (int, float)) and 0 < tolerance < 1):
        raise ValueError(f"tolerance: expected a number between 0 and 1, or None, got {tolerance!r}")
    ties: list[Tie] = []
    element = _smallest(spec, values, ties)
    at = point(spec, element, values)
    found = frames(spec, at, tolerance, ties)
    if found:
        element = _after(spec, {site: _turned(spec, site, frame) for site, frame in found.items()}, element)
        at = point(spec, element, values)
    order = Order(spec, at, tolerance, ties).elements()
    element = _after(spec, order, element)
    at = point(spec, element, values)
    found = {site: _in_order(spec, site, frame, order[site]) for site, frame in found.items()}
    units = {
        site: np.arange(group.size) if order[site].perm is None else np.asarray(order[site].perm)[0]
        for site, group in spec.sites.items()
    }
    signs = signs_of(spec, at, found, units, tolerance, ties)
    element = _after(spec, {site: _signed(spec, site, sign, found) for site, sign in signs.items()}, element)
    return Canonical(restore(point(spec, element, values), params, spec), element, tuple(ties))


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.") if hasattr(value, "dtype") else "float64"


def _after(spec: SymmetrySpec, sites: Mapping[str, SiteElements], element: Elements) -> Elements:
    """``element``, then what is given for some of the sites."""
    full = {site: sites.get(site) or SiteElements(*reference.identity_site(g, 1)) for site, g in spec.sites.items()}
    return compose(Elements(full, 1), element)


# --- the smallest representative


def _smallest(spec: SymmetrySpec, values: Mapping[str, Array], ties: list[Tie]) -> Elements:
    """The balanced point; units that have no minimum get the sum of squares 1."""
    solution = balancing_element(values, spec, BALANCE, MAX_SWEEPS, limit=True)
    element = solution.element
    one_sided: dict[str, Array] = {}
    for site, units in solution.unbounded.items():
        if spec.sites[site].dense:
            reason = "the product of what writes to the head and what reads from it is short of rank"
            ties.append(Tie(site, units, reason, heads=True))
        else:
            # Where the network has one side only (weights before a BatchNorm) this is the rule and hides nothing.
            if len({exponent_of(one) > 0 for one in carriers(spec)[site] if one.leg.power}) > 1:
                ties.append(Tie(site, units, "the units are zero on one side, so that no scale makes them smallest"))
            one_sided[site] = np.array(units)
    for _ in range(MAX_SWEEPS if one_sided else 0):
        step = 0.0
        for site, chosen in one_sided.items():
            at = point(spec, element, values)
            tau = _unit_norm(spec, site, at, chosen, solution.sides[site][chosen])
            scale = np.ones(spec.sites[site].size)
            scale[chosen] = np.exp(tau)
            parts = reference.identity_site(spec.sites[site], 1)._asdict() | {"scale": scale[None]}
            element = _after(spec, {site: SiteElements(**parts)}, element)
            step = max(step, float(np.abs(tau).max()))
        if step <= BALANCE:
            break
    return element


def _unit_norm(spec: SymmetrySpec, site: str, values: Mapping[str, Array], units: Array, sides: Array) -> Array:
    """tau with ``sum_k c_k exp(2 e_k tau) = 1`` over the exponents e of one sign, given for every unit."""
    sums: dict[float, Array] = {}
    for one in carriers(spec)[site]:
        if one.leg.power:
            squares = np.square(rows(spec, one, values[one.tensor])[units]).sum(axis=1)
            squares = squares * (np.sign(exponent_of(one)) == sides)
            sums[exponent_of(one)] = sums.get(exponent_of(one), 0.0) + squares
    tau = np.zeros(len(units))
    for _ in range(200):
        terms = {exponent: squares * np.exp(2.0 * exponent * tau) for exponent, squares in sums.items()}
        total = np.sum(list(terms.values()), axis=0)
        slope = np.sum([2.0 * exponent * term for exponent, term in terms.items()], axis=0)
        # Newton's method for the logarithm, which is monotone and convex or concave: it converges from anywhere.
        step = -np.log(total) * total / slope
        tau += step
        if np.abs(step).max() <= 4e-16 * (1.0 + np.abs(tau).max()):
            break
    return tau


# --- elements of the later steps


def _turned(spec: SymmetrySpec, site: str, frame: Frame) -> SiteElements:
    """Into the coordinates of a frame."""
    group = spec.sites[site]
    shape = reference.matrix_shape(group, 1)
    parts = reference.identity_site(group, 1)._asdict()
    parts |= {"matrix": frame.matrix.reshape(shape), "inverse": np.swapaxes(frame.matrix, -1, -2).reshape(shape)}
    return SiteElements(**parts)


def _in_order(spec: SymmetrySpec, site: str, frame: Frame, order: SiteElements) -> Frame:
    """The frame with its heads in their order."""
    if order.perm is None:
        return frame
    heads = np.asarray(order.perm)[0, :: spec.sites[site].head_size] // spec.sites[site].head_size
    return Frame(frame.matrix[heads], frame.back, frame.blocks, frame.special)


def _signed(spec: SymmetrySpec, site: str, sign: Array, found: Mapping[str, Frame]) -> SiteElements:
    """Signs of the units; those of a dense site in the coordinates of its frame, and back to those of the group."""
    group = spec.sites[site]
    parts = reference.identity_site(group, 1)._asdict()
    if site not in found:
        return SiteElements(**(parts | {"sign": sign.astype(np.int8)[None]}))
    back = found[site].back
    matrix = (back * sign.reshape(group.heads, 1, -1)).reshape(reference.matrix_shape(group, 1))
    return SiteElements(**(parts | {"matrix": matrix, "inverse": np.swapaxes(matrix, -1, -2)}))
