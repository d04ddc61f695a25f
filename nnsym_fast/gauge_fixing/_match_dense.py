# SPDX-License-Identifier: MIT
"""The best matrix of a dense group for one head: minimise ``|g X - A|^2 + |g^-T Y - B|^2`` from Gram matrices alone.

Every function takes stacks of problems ``(..., m, m)``. With ``cross = (A X^T, B Y^T)`` and ``own = (X X^T, Y Y^T)``
the objective is, up to ``|A|^2 + |B|^2``,

    f(g) = <g, g XX^T> - 2 <g, A X^T> + <q, q YY^T> - 2 <q, B Y^T>,   q = g^-T.

Isometries have a closed form (orthogonal Procrustes: Schoenemann 1966). For the non-compact groups both sides are first
*balanced*, which leaves an isometry to be found, and the result is improved by Gauss-Newton steps ``g -> (1 + E) g``:
each solves the Sylvester equation ``E S_X + S_Y E = (A - gX)(gX)^T - (qY)(B - qY)^T`` with symmetric ``S``.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from nnsym_fast.gauge_fixing._minima import linear_minimum
from nnsym_fast.gauge_fixing._sites import Array
from nnsym_fast.groups import Group, Orthogonal, RotaryCommutant, SpecialLinear

__all__ = ["Heads", "Pair", "balancing", "has_scales", "inverse_of", "isometry", "objective", "polish"]

Pair: TypeAlias = tuple[Array, Array]
"""A matrix for what carries the leg and one for what carries the dual leg, ``(..., m, m)``."""

FLOOR = 1e-12
"""Eigenvalues of a Gram matrix below this part of the largest are taken as this: heads may lack full rank."""

MAX_STEPS = 30
"""Gauss-Newton steps per visit of a site, which starts where the last visit ended."""

MAX_HALVINGS = 12
"""Times that a step is halved until the objective falls."""

LIMIT = 1e6
"""Largest ``|g X|^2 + |g^-T Y|^2`` over ``Heads.norm`` that is looked at."""

CONDITION = 1e8
"""Largest ``|g| |g^-1|``: where heads lack rank the infimum may lie at a singular matrix, which no element is."""

ROUNDING = 1e-15
"""What two values of the objective may differ by for no reason, over ``Heads.norm``."""


def has_scales(unit: Group) -> bool:
    """Whether the group is not compact: matrices can grow, and their duals shrink."""
    return not isinstance(unit, Orthogonal)


def _transpose(a: Array) -> Array:
    return np.swapaxes(a, -1, -2)


def _inner(a: Array, b: Array) -> Array:
    return np.asarray(np.einsum("...ij,...ij->...", a, b))


# --- isometries


def isometry(unit: Group, cross: Array) -> Pair:
    """The matrix R of a group, among its isometries, with the largest ``<R, cross>``, and that number.

    Args:
        unit: Orthogonal, GeneralLinear (its isometries: O(m)), SpecialLinear (SO(m)) or RotaryCommutant (a phase per
            pair, and O of what is not rotated).
        cross: ``(..., m, m)``.

    Returns:
        ``(..., m, m)`` and ``(...)``.
    """
    if isinstance(unit, RotaryCommutant):
        return _phases(unit, cross)
    if isinstance(unit, Orthogonal) and unit.keeps_mean:
        return _mean_keeping(cross)
    return _procrustes(cross, special=isinstance(unit, SpecialLinear))


def _procrustes(cross: Array, special: bool = False) -> Pair:
    u, s, vt = np.linalg.svd(cross)
    if special:
        # The smallest singular value pays for a determinant of -1.
        flip = np.sign(np.linalg.det(u) * np.linalg.det(vt))
        u[..., -1] *= flip[..., None]
        s[..., -1] *= flip
    return u @ vt, s.sum(axis=-1)


def _mean_keeping(cross: Array) -> Pair:
    """``R 1 = +-1``: Procrustes in the complement of the vector of ones, a sign along it."""
    m = cross.shape[-1]
    ones = np.full((m, 1), m**-0.5)
    # Columns 1, 2, ... of the reflection that exchanges the first axis and the direction of ones.
    v = ones.copy()
    v[0] -= 1.0
    basis = (np.eye(m) - (2.0 * v @ v.T / (v.T @ v) if m > 1 else 0.0))[:, 1:]
    along = (ones.T @ cross @ ones)[..., 0, 0]
    sign = np.where(along < 0, -1.0, 1.0)
    inner, gain = _procrustes(basis.T @ cross @ basis)
    return basis @ inner @ basis.T + sign[..., None, None] * (ones @ ones.T), gain + np.abs(along)


def _units(unit: RotaryCommutant) -> Pair:
    pairs = np.asarray(unit.pairs, dtype=np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _complex(unit: RotaryCommutant, matrix: Array) -> Array:
    """``sum_k a_k conj(x_k)`` per pair, from ``sum_k`` of the 2 x 2 blocks of ``A X^T``."""
    i, j = _units(unit)
    return np.asarray(matrix[..., i, i] + matrix[..., j, j] + 1j * (matrix[..., j, i] - matrix[..., i, j]))


def _from_complex(unit: RotaryCommutant, z: Array, free: Array) -> Array:
    i, j = _units(unit)
    m = unit.n
    matrix = np.zeros((*z.shape[:-1], m, m))
    matrix[..., i, i] = matrix[..., j, j] = z.real
    matrix[..., j, i] = z.imag
    matrix[..., i, j] = -z.imag
    matrix[..., m - unit.free :, m - unit.free :] = free
    return matrix


def _free(unit: RotaryCommutant, matrix: Array) -> Array:
    first = unit.n - unit.free
    return matrix[..., first:, first:]


def _phases(unit: RotaryCommutant, cross: Array) -> Pair:
    z = _complex(unit, cross)
    size = np.abs(z)
    phase = np.where(size > 0, z / np.where(size > 0, size, 1.0), 1.0)
    free, gain = _procrustes(_free(unit, cross))
    return _from_complex(unit, phase, free), size.sum(axis=-1) + gain


# --- balancing


def balancing(unit: Group, own: Pair) -> Array:
    """The P in the group with ``P XX^T P^T = P^-T YY^T P^-1``; where one side is zero, that makes the other one 1.

    Balanced networks of one orbit differ by an isometry: ``P^T P`` is the geometric mean of ``(XX^T)^-1`` and ``YY^T``.
    """
    if isinstance(unit, RotaryCommutant):
        i, j = _units(unit)
        first, second = (matrix[..., i, i] + matrix[..., j, j] for matrix in own)
        radius = _ratio(first, second).astype(np.complex128)
        return _from_complex(unit, radius, _geometric(_free(unit, own[0]), _free(unit, own[1])))
    p = _geometric(*own)
    if isinstance(unit, SpecialLinear):
        log = np.linalg.slogdet(p)[1]
        p = p * np.exp(-log / p.shape[-1])[..., None, None]
    return p


def _ratio(first: Array, second: Array) -> Array:
    """``r`` with ``r^2 first = second / r^2``; of one side alone, its inverse root."""
    safe_first, safe_second = np.where(first > 0, first, 1.0), np.where(second > 0, second, 1.0)
    both = (safe_second / safe_first) ** 0.25
    return np.where((first > 0) & (second > 0), both, np.where(first > 0, safe_first**-0.5, safe_second**0.5))


def _eigh(s: Array) -> Pair:
    """Eigenvalues and vectors of symmetric matrices that are not negative, small eigenvalues raised to FLOOR.

    By singular values: LAPACK's symmetric solver takes many times longer for stacks of small matrices when it has
    threads and the machine is busy.
    """
    v, w, _ = np.linalg.svd(s)
    return np.maximum(w, FLOOR * np.maximum(w[..., :1], np.finfo(np.float64).tiny)), v


def _power(w: Array, v: Array, exponent: float) -> Array:
    return np.asarray((v * (w**exponent)[..., None, :]) @ _transpose(v))


def _geometric(s: Array, t: Array) -> Array:
    if s.shape[-1] == 0 or not (s.any() or t.any()):
        return np.broadcast_to(np.eye(s.shape[-1]), s.shape)
    if not t.any():
        return _power(*_eigh(s), -0.5)
    root = _power(*_eigh(t), 0.5)
    return linear_minimum(_power(*_eigh(s), 0.5), root).matrix if s.any() else root


# --- the objective, and Gauss-Newton steps


class Heads(NamedTuple):
    """A stack of problems, one per head or per pair of heads."""

    cross: Pair
    own: Pair
    norm: Array
    """``|A|^2 + |B|^2 + |X|^2 + |Y|^2``, ``(...)``: what the objective is compared with."""

    def take(self, index: Array) -> Heads:
        """Some of them."""
        return Heads(
            (self.cross[0][index], self.cross[1][index]), (self.own[0][index], self.own[1][index]), self.norm[index]
        )


def inverse_of(g: Array) -> Array:
    """Inverses; NaN for a matrix that has none."""
    try:
        return np.asarray(np.linalg.inv(g))
    except np.linalg.LinAlgError:
        flat = g.reshape(-1, *g.shape[-2:])
        regular = np.linalg.slogdet(flat)[0] != 0
        result = np.full(flat.shape, np.nan)
        result[regular] = np.linalg.inv(flat[regular])
        return result.reshape(g.shape)


def objective(g: Array, heads: Heads, inverse: Array | None = None) -> Array:
    """``f(g)`` of the module's docstring, ``(...)``, infinite where g is out of proportion.

    Args:
        g: ``(..., m, m)``.
        heads: the problems.
        inverse: the inverse of ``g``, where it is known.
    """
    q = _transpose(inverse_of(g) if inverse is None else inverse)
    own = _inner(g, g @ heads.own[0]) + _inner(q, q @ heads.own[1])
    value = own - 2.0 * (_inner(g, heads.cross[0]) + _inner(q, heads.cross[1]))
    # So far from the target no g is the best one, and the sum above would be lost in its rounding.
    regular = (own <= LIMIT * heads.norm) & (_inner(g, g) * _inner(q, q) <= CONDITION**2)
    return np.where(np.isfinite(value) & regular, value, np.inf)


def polish(unit: Group, g: Array, heads: Heads) -> Pair:
    """Improve matrices of a non-compact group by up to MAX_STEPS steps; the matrices and their objectives.

    Args:
        unit: GeneralLinear, SpecialLinear or RotaryCommutant.
        g: where to start, ``(k, m, m)``.
        heads: the problems, as many.
    """
    if isinstance(unit, RotaryCommutant):
        free = _free(unit, g)
        if unit.free:
            cross, own = ((_free(unit, pair[0]), _free(unit, pair[1])) for pair in (heads.cross, heads.own))
            free = _gauss_newton(free, heads._replace(cross=cross, own=own), special=False)
        g = _from_complex(unit, _polish_pairs(unit, g, heads), free)
    else:
        g = _gauss_newton(g, heads, special=isinstance(unit, SpecialLinear))
    return g, objective(g, heads)


def _polish_pairs(unit: RotaryCommutant, g: Array, heads: Heads) -> Array:
    """``min a r^2 + c / r^2 - 2 |beta r + delta / r|`` by turns: the phase in closed form, r by Newton in log r."""
    i, j = _units(unit)
    beta, delta = (_complex(unit, side) for side in heads.cross)
    a, c = (side[..., i, i] + side[..., j, j] for side in heads.own)
    z = g[..., i, i] + 1j * g[..., j, i]
    for _ in range(MAX_STEPS):
        r = np.abs(z)
        towards = beta * r + delta / r
        size = np.abs(towards)
        phase = np.where(size > 0, towards / np.where(size > 0, size, 1.0), z / r)
        b, d = (beta * phase.conj()).real, (delta * phase.conj()).real
        slope = 2.0 * (a * r**2 - c / r**2 - b * r + d / r)
        bend = np.abs(4.0 * (a * r**2 + c / r**2) - 2.0 * (b * r + d / r))
        step = np.clip(-slope / np.maximum(bend, np.finfo(np.float64).tiny), -1.0, 1.0)
        old = a * r**2 + c / r**2 - 2.0 * size
        for _ in range(MAX_HALVINGS):
            s = r * np.exp(step)
            worse = a * s**2 + c / s**2 - 2.0 * (b * s + d / s) > old
            step = np.where(worse, step / 2, step)
        z = r * np.exp(np.where(worse, 0.0, step)) * phase
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    return np.asarray(z)


def _sylvester(s: Array, t: Array, right: Array, special: bool) -> Array:
    """``E`` with ``E s + t E = right``, s and t symmetric, not negative; special: of trace 0, by a multiplier."""
    w, v = _eigh(s)
    w2, v2 = _eigh(t)
    below = w2[..., :, None] + w[..., None, :]

    def solve(r: Array) -> Array:
        return np.asarray(v2 @ ((_transpose(v2) @ r @ v) / below) @ _transpose(v))

    step = solve(right)
    if special:
        unit = solve(np.broadcast_to(np.eye(s.shape[-1]), s.shape))
        traces = [np.trace(matrix, axis1=-2, axis2=-1) for matrix in (step, unit)]
        step = step - (traces[0] / traces[1])[..., None, None] * unit
    # A step of first order that is as large as g itself says little.
    size = np.linalg.norm(step, axis=(-2, -1)) / s.shape[-1] ** 0.5
    return np.asarray(step / np.maximum(1.0, 2.0 * size)[..., None, None])


def _retract(g: Array, step: Array, special: bool) -> Array:
    moved = g + step @ g
    if special:
        log = np.linalg.slogdet(moved)[1]
        moved = moved * np.exp(-log / g.shape[-1])[:, None, None]
    return np.asarray(moved)


def _gauss_newton(g: Array, heads: Heads, special: bool) -> Array:
    g, value = g.copy(), objective(g, heads)
    # Where there is nothing to move every matrix is as good.
    something = np.trace(heads.own[0] + heads.own[1], axis1=-2, axis2=-1) > 0
    active = np.flatnonzero(np.isfinite(value) & something)
    for _ in range(MAX_STEPS):
        if not active.size:
            break
        some, now = heads.take(active), g[active]
        q = _transpose(inverse_of(now))
        s, t = now @ some.own[0] @ _transpose(now), q @ some.own[1] @ _transpose(q)
        step = _sylvester(s, t, some.cross[0] @ _transpose(now) - s + t - q @ _transpose(some.cross[1]), special)
        length = np.ones(len(active))
        better = np.zeros(len(active), dtype=bool)
        fell = np.zeros(len(active))
        for _ in range(MAX_HALVINGS):
            trial = _retract(now, length[:, None, None] * step, special)
            found = objective(trial, some)
            # Where the minimum is reached to rounding the last step may seem to lead up.
            take = ~better & (found <= value[active] + ROUNDING * some.norm)
            g[active[take]] = trial[take]
            fell[take] = value[active[take]] - found[take]
            better |= take
            if better.all():
                break
            length = np.where(better, length, length / 2)
        value[active] -= fell
        active = active[better & (fell > ROUNDING * some.norm)]
    return g
