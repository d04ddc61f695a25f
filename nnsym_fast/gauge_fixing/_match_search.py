# SPDX-License-Identifier: MIT
"""Block coordinate descent over the sites: where it starts, in which order it goes, when it ends.

The first start *settles* the sites from the network's inputs and outputs inwards. An axis without a leg is observable,
so it is the same in both networks. What a tensor says about a site is seen when all its other axes are observable or
settled; the site with the largest part of its weights seen is matched first, by what is seen, and then counts as
settled itself. Of two networks on one orbit this finds the element at once. Every further start has random permutations
and a random order of the sites, as in Ainsworth, Hayase and Srinivasa (2209.04836).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nnsym_fast.gauge_fixing._match_action import SiteElement, identity, random_element
from nnsym_fast.gauge_fixing._match_blocks import Block, Problem, blocks_of, gather
from nnsym_fast.gauge_fixing._match_solve import solve
from nnsym_fast.gauge_fixing._sites import Carrier
from nnsym_fast.legs import axis_legs

__all__ = ["Found", "search"]

RECOVERED = 1e-3
"""A distance below this part of the target's norm is a recovery: no further start is made."""

STANDSTILL = 1e-8
"""The search ends when a sweep lowers the squared distance by less than this part of it."""

ROUNDING = 1e-13
"""Or by less than this part of the target's squared norm."""


@dataclass(frozen=True)
class Found:
    """The best element of all starts: its squared distance, sweeps of that start, squared distances of all starts."""

    elements: dict[str, SiteElement]
    error: float
    sweeps: int
    converged: bool
    errors: tuple[float, ...]


def search(problem: Problem, *, restarts: int, seed: int, max_sweeps: int) -> Found:
    """Minimise the distance over the group.

    Args:
        problem: the networks.
        restarts: random starts after the first.
        seed: of the random starts.
        max_sweeps: largest number of sweeps over all sites, per start.
    """
    blocks = blocks_of(problem.spec)
    size = sum(w * float(np.vdot(problem.a[name], problem.a[name])) for name, w in problem.weights.items())
    here = {site: identity(group) for site, group in problem.spec.sites.items()}
    before = problem.error(here, problem.weights)
    best: Found | None = None
    errors: list[float] = []
    for start in range(restarts + 1):
        rng = np.random.default_rng((seed, start))
        if start == 0:
            elements, order = _settle(problem, blocks)
            if before < problem.error(elements, problem.weights):
                elements = dict(here)
        else:
            elements = random_element(problem.spec, rng)
            order = [blocks[i] for i in rng.permutation(len(blocks))]
        sweeps, converged = _descend(problem, order, elements, max_sweeps, ROUNDING * size)
        error = problem.error(elements, problem.weights)
        if start == 0 and error > before:
            # What is found is never worse than the network as it came, not even by rounding.
            elements, error = here, before
        errors.append(error)
        if best is None or error < best.error:
            best = Found(elements, error, sweeps, converged, ())
        if error <= RECOVERED**2 * size or not blocks:
            break
    assert best is not None
    return Found(best.elements, best.error, best.sweeps, best.converged, tuple(errors))


def _descend(
    problem: Problem, blocks: list[Block], elements: dict[str, SiteElement], max_sweeps: int, rounding: float
) -> tuple[int, bool]:
    """Sweep until nothing gets better; changes ``elements``. Returns the number of sweeps, and whether it converged."""
    if not blocks:
        return 0, True
    error = problem.error(elements, problem.weights)
    for sweep in range(1, max_sweeps + 1):
        fall = 0.0
        for block in blocks:
            found, gain = solve(problem, block, gather(problem, block, elements), elements)
            elements.update(found)
            fall += gain
        error -= fall
        if fall <= max(STANDSTILL * error, rounding):
            return sweep, True
    return max_sweeps, False


def _settle(problem: Problem, blocks: list[Block]) -> tuple[dict[str, SiteElement], list[Block]]:
    """Match the sites from the observable axes inwards; the elements, and the order in which they were found."""
    elements = {site: identity(group) for site, group in problem.spec.sites.items()}
    weight = {
        block: {use: _mass(problem, use) for use in block.carriers if use.tensor in problem.weights} for block in blocks
    }
    left, settled, order = list(blocks), set[str](), list[Block]()
    while left:
        seen = {block: [use for use in weight[block] if _is_seen(problem, use, settled)] for block in left}
        block = max(left, key=lambda block: _part(weight[block], seen[block]))
        # A site that nothing is known of is matched with its neighbours as they are.
        uses = seen[block] or None
        elements.update(solve(problem, block, gather(problem, block, elements, uses), elements, settling=True)[0])
        settled.update(block.sites, block.orders)
        order.append(block)
        left.remove(block)
    return elements, order


def _mass(problem: Problem, use: Carrier) -> float:
    part = np.moveaxis(problem.a[use.tensor], use.axis, 0)[use.start : use.start + use.length]
    return problem.weights[use.tensor] * float(np.sum(part * part))


def _part(masses: dict[Carrier, float], seen: Iterable[Carrier]) -> float:
    total = sum(masses.values())
    return sum(masses[use] for use in seen) / total if total > 0 else 0.0


def _is_seen(problem: Problem, use: Carrier, settled: set[str]) -> bool:
    """Whether every other axis of the tensor is observable or of settled sites."""
    axes = problem.spec.legs[use.tensor]
    others = (axis for number, axis in enumerate(axes) if number != use.axis)
    return all(leg.site in settled for axis in others for leg in axis_legs(axis))
