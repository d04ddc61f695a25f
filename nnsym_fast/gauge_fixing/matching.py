# SPDX-License-Identifier: MIT
"""Matching two networks: the point of one's orbit that is nearest to the other, and the barrier between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnsym_fast._arrays import is_torch
from nnsym_fast.elements import Elements, check_count, check_seed
from nnsym_fast.gauge_fixing._match_action import as_elements, moved
from nnsym_fast.gauge_fixing._match_blocks import Problem
from nnsym_fast.gauge_fixing._match_search import search
from nnsym_fast.gauge_fixing._sites import Array, carriers, restore, to_float64, view
from nnsym_fast.gauge_fixing.balancing import MAX_SWEEPS, TOLERANCE, balancing_element, point
from nnsym_fast.specs.norms import check_folded
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Barrier", "Match", "barrier", "distance", "match"]


@dataclass(frozen=True, eq=False)
class Match:
    """The nearest point of an orbit that a search found.

    Args:
        element: the group element, ``Elements`` with ``count`` 1: ``nf.act(spec, element, b)`` is near ``a``.
        params: that point, in the dtype and the framework of ``b``.
        distance: its Euclidean distance from ``a``, weighted as asked, in float64.
        distance_before: the distance of ``b`` itself.
        norm: the norm of ``a``, weighted alike: what makes distances relative.
        sweeps: sweeps over all sites of the start that won.
        converged: whether that start came to a standstill before ``max_sweeps``.
        starts: the distance that every start ended with; fewer than asked for where one recovered ``a``.
    """

    element: Elements
    params: dict[str, Any]
    distance: float
    distance_before: float
    norm: float
    sweeps: int
    converged: bool
    starts: tuple[float, ...]

    @property
    def restarts(self) -> int:
        """Random starts that were made after the first."""
        return len(self.starts) - 1

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        return (
            f"Match(distance {self.distance:.4g}, before {self.distance_before:.4g}, norm {self.norm:.4g}; "
            f"{len(self.starts)} starts, {self.sweeps} sweeps, {state})"
        )


def match(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    spec: SymmetrySpec,
    *,
    restarts: int = 2,
    seed: int = 0,
    max_sweeps: int = 100,
    weights: Mapping[str, float] | None = None,
) -> Match:
    """Find the element g of the symmetry that makes ``g b`` as near to ``a`` as it can, by weight matching.

    Minimises ``sum_T w_T |(g b)_T - a_T|^2`` over the group by block coordinate descent: the sites in turn, each with
    its best element while all others are held. Permutations come from a linear assignment (Ainsworth, Hayase and
    Srinivasa 2209.04836) in whose costs every pair of units has its best sign and scale; heads from an assignment whose
    costs are those of a matrix for each pair; orthogonal matrices from Procrustes; matrices of GL and SL from balancing
    both heads, Procrustes, and Gauss-Newton steps; rotary pairs from a phase and a scale; shifts in closed form. The
    first start works from the observable axes inwards and finds the element exactly if ``b`` lies on the orbit of
    ``a``; further starts are random. The problem is NP-hard in general: what is found is a local minimum.

    Args:
        a: the target, tensor name -> array or torch tensor.
        b: the network that is moved.
        spec: the symmetry of both.
        restarts: random starts after the first, made unless the first recovers ``a`` to one part in a thousand.
        seed: of the random starts.
        max_sweeps: largest number of sweeps per start.
        weights: tensor name -> weight w_T >= 0 in the squared distance; by default 1, and 0 for what is not trained
            (``spec.state``) or not floating point.

    Returns:
        The element, the moved network and the distances.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: networks that do not fit the spec or one another, non-finite numbers, or negative weights.
        ImportError: SciPy is not installed.

    >>> import numpy as np
    >>> import nnsym_fast as nf
    >>> spec = nf.specs.mlp([3, 6, 2])
    >>> rng = np.random.default_rng(0)
    >>> a = {name: rng.normal(size=s) for name, s in nf.specs.shapes(nf.specs.mlp_layers([3, 6, 2])).items()}
    >>> b = {name: points[0] for name, points in nf.act(spec, spec.sample(1, seed=1), a).items()}
    >>> found = match(a, b, spec)
    >>> found.distance_before > 1, found.distance < 1e-12
    (True, True)
    """
    problem = _problem(a, b, spec, weights, isometric=False)
    found = search(problem, **_counts(restarts, seed, max_sweeps))
    values = {
        name: moved(spec, found.elements, name, value) if spec.touched(name) else value
        for name, value in to_float64(b, spec, "b").items()
    }
    identity = sum(w * _squared(problem.b[name] - problem.a[name]) for name, w in problem.weights.items())
    return Match(
        element=as_elements(spec, found.elements),
        params=restore(values, b, spec),
        distance=math.sqrt(found.error),
        distance_before=math.sqrt(identity),
        norm=math.sqrt(sum(w * _squared(problem.a[name]) for name, w in problem.weights.items())),
        sweeps=found.sweeps,
        converged=found.converged,
        starts=tuple(math.sqrt(error) for error in found.errors),
    )


def distance(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    spec: SymmetrySpec,
    *,
    restarts: int = 2,
    seed: int = 0,
    max_sweeps: int = 100,
    weights: Mapping[str, float] | None = None,
) -> float:
    """The distance of the orbits of two networks, as far as a search finds it: an upper bound of the true one.

    Where scales are free, the points of two orbits can come as near as one likes to each other's distance along
    directions that mean nothing, and ``min |g b - a|`` depends on where on its orbit ``a`` lies. So both networks are
    balanced first (``balance``: the points of smallest norm, which an isometry joins if the networks are on one
    orbit), and the distance is ``min_k |k b' - a'|`` over the isometries k of the group: permutations, signs,
    orthogonal matrices, phases. That is a metric on the orbits: it does not depend on the points that represent them,
    is symmetric, obeys the triangle inequality and is 0 for one orbit only. The minimum over k is the one that the
    search of :func:`match` finds, which is exact for networks on one orbit and a local minimum otherwise.

    A unit with nothing but zeros on one side has no balanced point; its weights count as 0, their infimum. A head
    without one (``Balanced.unbounded``), which lacks rank, is taken where ``balance`` leaves it.

    Args:
        a: a network, tensor name -> array or torch tensor.
        b: another.
        spec: the symmetry of both.
        restarts: see :func:`match`.
        seed: see :func:`match`.
        max_sweeps: see :func:`match`.
        weights: see :func:`match`; the balanced points are those of weight 1.

    Returns:
        The distance, float64.

    Raises:
        TypeError, ValueError, ImportError: see :func:`match`.

    >>> import numpy as np
    >>> import nnsym_fast as nf
    >>> spec = nf.specs.mlp([1, 1, 1], bias=False)
    >>> a, b = ({"0.weight": np.array([[x]]), "2.weight": np.array([[y]])} for x, y in ((8.0, 2.0), (1.0, 9.0)))
    >>> round(distance(a, b, spec) ** 2, 9)  # the balanced points are (4, 4) and (3, 3)
    2.0
    """
    problem = _problem(a, b, spec, weights, isometric=True)
    return math.sqrt(search(problem, **_counts(restarts, seed, max_sweeps)).error)


def _counts(restarts: int, seed: int, max_sweeps: int) -> dict[str, int]:
    if check_count(max_sweeps, "max_sweeps") < 1:
        raise ValueError(f"max_sweeps: expected at least 1 sweep over the sites, got {max_sweeps}")
    return {"restarts": check_count(restarts, "restarts"), "seed": check_seed(seed), "max_sweeps": max_sweeps}


def _problem(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    spec: SymmetrySpec,
    weights: Mapping[str, float] | None,
    isometric: bool,
) -> Problem:
    values = []
    for argument, params in (("a", a), ("b", b)):
        try:
            values.append(to_float64(params, spec, argument))
            check_folded(values[-1], spec)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith(f"{argument}[") else f"{argument}: {text}") from None
    first, second = values
    for name, value in first.items():
        if np.shape(second[name]) != np.shape(value):
            raise ValueError(
                f"b: tensor {name!r} has shape {np.shape(second[name])}, but {np.shape(value)} in a; "
                "expected two networks of one architecture"
            )
    weighed = _weights(first, spec, weights)
    if isometric:
        first, second = (_balanced(spec, params) for params in values)
    return Problem(
        spec,
        {name: _as_float64("a", name, first[name]) for name in weighed},
        {name: _as_float64("b", name, second[name]) for name in weighed},
        weighed,
        isometric,
    )


def _balanced(spec: SymmetrySpec, values: Mapping[str, Array]) -> dict[str, Array]:
    """The point of smallest norm, or where the norm has its infimum: units without a minimum are 0."""
    solution = balancing_element(values, spec, TOLERANCE, MAX_SWEEPS, limit=True)
    result = point(spec, solution.element, values)
    for site, units in solution.unbounded.items():
        group = spec.sites[site]
        if not group.dense:
            kept = np.ones(group.size)
            kept[list(units)] = 0.0
            for one in carriers(spec)[site]:
                if one.leg.power and one.tensor not in spec.state:
                    split = view(spec, one, result[one.tensor])
                    split *= kept.reshape(group.heads, 1, group.head_size, *(1 for _ in split.shape[3:]))
    return result


def _as_float64(argument: str, name: str, value: Any) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}[{name!r}]: expected finite numbers, got NaN or infinity; repair the tensor")
    return array


def _weights(values: Mapping[str, Array], spec: SymmetrySpec, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Tensor -> weight, those above 0."""
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"weights: expected a mapping tensor name -> number, got {type(weights).__name__}")
    result = {
        name: 1.0
        for name, value in values.items()
        if name not in spec.state and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")
    }
    for name, weight in ({} if weights is None else weights).items():
        if name not in values:
            raise ValueError(f"weights: no tensor {name!r}; the networks hold {list(values)}")
        if isinstance(weight, bool) or not hasattr(weight, "__float__"):
            raise TypeError(
                f"weights[{name!r}]: expected a number >= 0, got {weight!r} of type {type(weight).__name__}"
            )
        if not (math.isfinite(float(weight)) and float(weight) >= 0):
            raise ValueError(f"weights[{name!r}]: expected a finite number >= 0, got {weight}")
        result[name] = float(weight)
    return {name: weight for name, weight in result.items() if weight > 0}


def _squared(value: Array) -> float:
    return float(np.vdot(value, value))


# --- the straight line between two networks


@dataclass(frozen=True, eq=False)
class Barrier:
    """Losses along the straight line between two networks.

    Args:
        alphas: positions on the line, 0 at the first network and 1 at the second, ``(points,)``.
        losses: the loss at each, ``(points,)``.
    """

    alphas: Array
    losses: Array

    @property
    def excess(self) -> Array:
        """Loss above the straight line between the losses of the ends, ``(points,)``."""
        return np.asarray(self.losses - (1.0 - self.alphas) * self.losses[0] - self.alphas * self.losses[-1])

    @property
    def height(self) -> float:
        """The largest excess, at least 0: the barrier of Frankle et al. 1912.05671 and Entezari et al. 2110.06296."""
        return float(self.excess.max())

    def __repr__(self) -> str:
        ends = f"{self.losses[0]:.4g} and {self.losses[-1]:.4g}"
        return f"Barrier(height {self.height:.4g} between {ends}, {len(self.alphas)} points)"


def barrier(
    a: Mapping[str, Any], b: Mapping[str, Any], loss: Callable[[dict[str, Any]], Any], *, points: int = 25
) -> Barrier:
    """The loss along the straight line ``(1 - alpha) a + alpha b`` between two networks.

    Args:
        a: a network, tensor name -> array or torch tensor.
        b: another with the same tensors.
        loss: called with the parameters of a network, in the framework and dtype of ``a``; returns a number.
        points: how many points of the line, both ends included.

    Returns:
        The losses; their ``height`` is the barrier. Tensors that are not floating point are those of ``a``. A running
        mean or variance is interpolated like everything else, which a loss that evaluates such a network may want to
        renew from data first (Jordan et al. 2211.08403).

    Raises:
        TypeError: networks that are no mappings, or of two frameworks; a loss that is no function or returns no number.
        ValueError: other tensors or shapes in ``b``, fewer than 2 points, or a loss that is not finite.

    >>> import numpy as np
    >>> double_well = lambda params: float((params["x"][0] ** 2 - 1) ** 2)
    >>> barrier({"x": np.array([-1.0])}, {"x": np.array([1.0])}, double_well).height
    1.0
    """
    for argument, params in (("a", a), ("b", b)):
        if not isinstance(params, Mapping):
            raise TypeError(f"{argument}: expected a mapping tensor name -> array, got {type(params).__name__}")
    if not callable(loss):
        raise TypeError(f"loss: expected a function of a network's parameters, got {type(loss).__name__}")
    if check_count(points, "points") < 2:
        raise ValueError(f"points: expected at least 2, the ends of the line, got {points}")
    if set(a) != set(b):
        raise ValueError(f"b: expected the tensors of a, {sorted(a)}, got {sorted(b)}")
    for name in a:
        if is_torch(a[name]) != is_torch(b[name]):
            kinds = type(b[name]).__name__, type(a[name]).__name__
            raise TypeError(f"b: expected the framework of a, but tensor {name!r} is a {kinds[0]}, in a a {kinds[1]}")
        if _shape(a[name]) != _shape(b[name]):
            raise ValueError(f"b: tensor {name!r} has shape {_shape(b[name])}, but {_shape(a[name])} in a")
    alphas = np.linspace(0.0, 1.0, points)
    losses = np.array([_loss_at(a, b, loss, float(alpha)) for alpha in alphas])
    return Barrier(alphas, losses)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if is_torch(value) else np.shape(value)


def _loss_at(a: Mapping[str, Any], b: Mapping[str, Any], loss: Callable[[dict[str, Any]], Any], alpha: float) -> float:
    value = loss({name: _between(a[name], b[name], alpha) for name in a})
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"loss: expected a function that returns one number, got {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"loss: expected a finite number at alpha = {alpha:g}, got {number}")
    return number


def _between(a: Any, b: Any, alpha: float) -> Any:
    if is_torch(a):
        a = a.detach()
        return a.double().lerp(b.detach().to(a.device).double(), alpha).to(a.dtype) if a.is_floating_point() else a
    a = np.asarray(a)
    if a.dtype.kind in "iub":
        return a
    return ((1.0 - alpha) * a.astype(np.float64) + alpha * np.asarray(b).astype(np.float64)).astype(a.dtype)
