# SPDX-License-Identifier: MIT
"""What a benchmark races against: one formulation of the same job in another library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

__all__ = ["LIBRARIES", "SCALE_STD", "Peer", "missing_libraries"]

LIBRARIES = ("torch", "jax", "torchdiffeq", "torchode", "diffrax")

SCALE_STD = 0.5
"""Standard deviation of the logarithm of a scale: the default of ``nnsym_fast.groups``."""


@dataclass(frozen=True)
class Peer:
    """One formulation of a job.

    Args:
        kind: the column that it competes for; the fastest formulation of a kind stands for it.
        formulation: what it does, in a few words.
        call: does the whole job, random elements included, and returns when the result is complete.
        reuses: whether the result overwrites that of the call before; if not, every call allocates its result.
        slow: takes so long that it is timed only a few times.
    """

    kind: str
    formulation: str
    call: Callable[[], Sequence[Any]]
    reuses: bool = False
    slow: bool = False


def missing_libraries() -> list[str]:
    """Peer libraries that are not installed, and so cannot race."""
    return [name for name in LIBRARIES if find_spec(name) is None]
