# SPDX-License-Identifier: MIT
"""Representatives of an orbit: the smallest, a canonical one, the nearest to another network, the best for an aim."""

from __future__ import annotations

from nnsym_fast.gauge_fixing.balancing import Balanced, balance
from nnsym_fast.gauge_fixing.canonical import Canonical, Tie, canonicalize
from nnsym_fast.gauge_fixing.choosing import Chosen, choose
from nnsym_fast.gauge_fixing.matching import Barrier, Match, barrier, distance, match

__all__ = [
    "Balanced",
    "Barrier",
    "Canonical",
    "Chosen",
    "Match",
    "Tie",
    "balance",
    "barrier",
    "canonicalize",
    "choose",
    "distance",
    "match",
]
