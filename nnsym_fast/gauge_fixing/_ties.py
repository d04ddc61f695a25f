# SPDX-License-Identifier: MIT
"""What cannot be told apart, and the generic numbers that tell the rest apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Tie", "clusters", "weights"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Tie:
    """Units of a site for which an orbit has no distinguished choice, up to the tolerance.

    Args:
        site: the site.
        units: numbers of the units, as the network that came in has them (inside the heads of a dense site: by falling
            singular value); numbers of heads where ``heads`` is True.
        reason: what is equal, or missing.
        heads: whether ``units`` are heads.
    """

    site: str
    units: tuple[int, ...]
    reason: str
    heads: bool = False


def weights(count: int, number: int = 0) -> Array:
    """``count`` fixed numbers between -1 and 1, on which no network depends; ``number`` chooses the sequence."""
    return np.asarray(np.sin(math.sqrt(2.0 + number) * np.arange(1.0, count + 1.0) + number))


def clusters(keys: Array, gap: float) -> list[slice]:
    """Sorted numbers cut wherever two neighbours differ by more than ``gap``: the stretches between the cuts."""
    cuts = [0, *(np.flatnonzero(np.abs(np.diff(keys)) > gap) + 1).tolist(), len(keys)]
    return [slice(first, last) for first, last in pairwise(cuts) if first < last]
