# SPDX-License-Identifier: MIT
"""Representatives of an orbit for the command line: the canonical point, and the point nearest to another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnsym_fast import gauge_fixing
from nnsym_fast.job.checkpoint import Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.inspect import ranges

__all__ = ["canonical", "matched"]

SHOWN = 10
"""Ties that are described; the others are counted."""


def canonical(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], list[str]]:
    """The canonical point of the orbit, and lines that say for which units there is none.

    Raises:
        JobError: see ``gauge_fixing.canonicalize``.
    """
    try:
        found = gauge_fixing.canonicalize(checkpoint.arrays, checkpoint.spec)
    except (TypeError, ValueError) as error:
        raise JobError(f"{checkpoint.name}: {error}") from None
    if not found.ties:
        return found.params, ["every point of the orbit has this representative"]
    lines = []
    for tie in found.ties[:SHOWN]:
        what = "heads" if tie.heads else "units"
        lines.append(f"not unique: site {tie.site}, {what} {ranges(tie.units)}: {tie.reason}")
    if len(found.ties) > SHOWN:
        lines.append(f"not unique: {len(found.ties) - SHOWN} more ties")
    return found.params, lines


def matched(a: Checkpoint, b: Checkpoint, seed: int) -> tuple[Mapping[str, Any], list[str]]:
    """``b`` moved along its orbit near to ``a``, and lines that say how near.

    Raises:
        JobError: the networks are not of one kind, or a library is missing; see ``gauge_fixing.match``.
    """
    ours, theirs = ({name: tensor.shape for name, tensor in x.params.items()} for x in (a, b))
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        first, second = (str(shapes[name]) if name in shapes else "none" for shapes in (ours, theirs))
        raise JobError(
            f"{a.name}, {b.name}: expected networks with the same tensors; {name!r} has the shapes {first} and {second}"
        )
    if a.spec != b.spec:
        raise JobError(f"{a.name}, {b.name}: expected networks with the same symmetry; give both the same --spec")
    try:
        found = gauge_fixing.match(a.arrays, b.arrays, b.spec, seed=seed)
    except (ImportError, TypeError, ValueError) as error:
        raise JobError(f"{a.name}, {b.name}: {error}") from None
    before, after = (f"{x:.6g} ({x / (found.norm or 1):.3g} norms)" for x in (found.distance_before, found.distance))
    lines = [f"distance to {a.name}: {before} before, {after} after"]
    if not found.converged:
        lines.append(f"the search was still making progress after {found.sweeps} sweeps")
    return found.params, lines
