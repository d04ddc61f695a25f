# SPDX-License-Identifier: MIT
"""Rooted trees: one for each order condition of a Runge-Kutta method (Hairer, Norsett, Wanner 1993, section II.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from operator import mul
from typing import NamedTuple

__all__ = ["Tree", "dot", "elementary_weights", "rooted_trees"]

Vector = tuple[float, ...]


class Tree(NamedTuple):
    """A rooted tree; its children are positions in the list of all trees."""

    vertices: int
    density: int
    children: tuple[int, ...]
    name: str


@cache
def rooted_trees(vertices: int) -> tuple[Tree, ...]:
    """All rooted trees of at most so many vertices, small ones first: 1, 2, 4, 8, 17, 37, 85, 200 for 1 to 8.

    The density is the number of vertices times the densities of the children. ``t`` is the tree of one vertex, and
    brackets join children to a new root.

    >>> [tree.name for tree in rooted_trees(3)]
    ['t', '[t]', '[[t]]', '[tt]']
    """
    trees = [Tree(1, 1, (), "t")]
    for count in range(2, vertices + 1):
        for children in list(_forests(trees, count - 1, len(trees) - 1)):
            density = count * math.prod(trees[child].density for child in children)
            trees.append(Tree(count, density, children, f"[{''.join(trees[child].name for child in children)}]"))
    return tuple(trees)


def _forests(trees: Sequence[Tree], vertices: int, last: int) -> Iterator[tuple[int, ...]]:
    """Multisets of the trees up to number ``last`` with so many vertices together."""
    if vertices == 0:
        yield ()
    for first in range(last, -1, -1):
        if trees[first].vertices <= vertices:
            for rest in _forests(trees, vertices - trees[first].vertices, first):
                yield (first, *rest)


def dot(x: Iterable[float], y: Iterable[float]) -> float:
    """The sum of products, rounded once."""
    return math.fsum(map(mul, x, y))


def elementary_weights(a: Sequence[Vector], trees: Sequence[Tree]) -> list[Vector]:
    """phi_i of every tree: the product over its children of sum_j a_ij phi_j(child)."""
    weights: list[Vector] = []
    inner: dict[int, Vector] = {}
    for tree in trees:
        for child in tree.children:
            if child not in inner:
                inner[child] = tuple(dot(row, weights[child]) for row in a)
        weights.append(tuple(math.prod(inner[child][i] for child in tree.children) for i in range(len(a))))
    return weights
