# SPDX-License-Identifier: MIT
"""The symmetry of a network as tables: sites, tensors and legs, and what there is not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nnsym_fast.groups import Affine, Group
from nnsym_fast.job.checkpoint import Checkpoint

__all__ = ["describe_group", "inspect", "ranges"]

FILE_WIDTH = 160
"""Columns where the tables go to a file or to another program."""

FEW = 2
"""So many sites or tensors of a kind are listed one by one; more take one line together."""


def describe_group(group: Group) -> str:
    """A group in a few words.

    >>> from nnsym_fast import groups
    >>> describe_group(groups.Heads(4, groups.GeneralLinear(64), tie="h0"))
    '4 heads of GeneralLinear: matrix; heads permuted'
    >>> describe_group(groups.Monomial(8, signs=True))
    'Monomial: permutation x sign x scale'
    """
    unit = group.unit_group
    inner = unit.group if isinstance(unit, Affine) else unit
    name = type(inner).__name__ + (" and shifts" if inner is not unit else "")
    parts = " x ".join(unit.parts) or "nothing"
    if unit is group:
        return f"{name}: {parts}"
    permuted = "; heads permuted" if group.permute_heads else ""
    if not unit.parts or (unit.head_size == 1 and not unit.dimension):
        return f"{group.heads} heads{permuted}"
    return f"{group.heads} heads of {name}: {parts}{permuted}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, runs shortened.

    >>> ranges([3, 0, 1, 2, 7])
    '0-3,7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _together(names: Sequence[str]) -> str:
    """One name for several that differ in their numbers: ``h0-21.mlp``."""
    columns = zip(*(map(int, re.findall(r"\d+", name)) for name in names), strict=True)
    shown = [ranges(column) for column in columns]
    parts = re.split(r"\d+", names[0])
    return "".join(part + (shown[number] if number < len(shown) else "") for number, part in enumerate(parts))


def _grouped(kinds: Mapping[str, object], every: bool) -> list[list[str]]:
    """Names whose kinds are equal and that differ in their numbers alone, in the order of the first of each."""
    found: dict[object, list[str]] = {}
    for name, kind in kinds.items():
        found.setdefault(name if every else (_pattern(name), kind), []).append(name)
    return [group for names in found.values() for group in ([names] if len(names) > FEW else [[n] for n in names])]


def inspect(checkpoint: Checkpoint, every: bool) -> None:
    """Print what the symmetry of a checkpoint is.

    Args:
        checkpoint: the network.
        every: whether every site and tensor has a line of its own.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, FILE_WIDTH)
    spec = checkpoint.spec
    state = sum(checkpoint.params[name].size for name in spec.state)
    console.print(f"[bold]{escape(checkpoint.name)}[/]  sha256 {checkpoint.sha256[:16]}...", soft_wrap=True)
    stored = f" and {state:,} numbers of state" if state else ""
    console.print(
        f"{checkpoint.parameters:,} parameters{stored}, stored as {', '.join(checkpoint.dtypes)}", soft_wrap=True
    )
    for key, value in (checkpoint.model.notes if checkpoint.model else {}).items():
        console.print(escape(f"{key}: {value}"), soft_wrap=True)
    if checkpoint.config is not None:
        kinds = ", ".join(map(str, checkpoint.config.get("architectures") or ()))
        console.print(escape(f"architecture: {checkpoint.config.get('model_type')} ({kinds})"), soft_wrap=True)
    console.print(_sites(checkpoint, every))
    if spec.folds:
        console.print(f"{len(spec.folds)} norms are folded into the weights that read them", soft_wrap=True)
    if spec.absent:
        console.print("What this network does not have:", soft_wrap=True)
        for symmetry, reason in spec.absent.items():
            console.print(escape(f"  {symmetry}: {reason}"), soft_wrap=True)
    console.print(_tensors(checkpoint, every))


def _sites(checkpoint: Checkpoint, every: bool) -> Table:
    spec = checkpoint.spec
    table = Table(title="Sites (hidden spaces)", title_justify="left")
    for heading in ("site", "units", "group", "dimension", "log10 of the discrete order"):
        table.add_column(heading, justify="left" if heading in ("site", "group") else "right")
    # Ties differ in their numbers, as names do.
    kinds = {name: (describe_group(group), group.size, _pattern(group.tie)) for name, group in spec.sites.items()}
    for names in _grouped(kinds, every):
        group = spec.sites[names[0]]
        times = f"{len(names)} x " if len(names) > 1 else ""
        table.add_row(
            escape(_together(names)),
            f"{times}{group.size:,}",
            describe_group(group),
            f"{times}{group.dimension:,}",
            f"{times}{group.log_order / math.log(10):.1f}",
        )
    table.add_section()
    table.add_row("all", "", "", f"{spec.dimension:,}", f"{spec.log_order / math.log(10):.1f}")
    return table


def _tensors(checkpoint: Checkpoint, every: bool) -> Table:
    spec, params = checkpoint.spec, checkpoint.params
    table = Table(title="Tensors (* dual leg, + with shift, - no leg)", title_justify="left")
    for heading in ("tensor", "shape", "dtype", "legs"):
        table.add_column(heading, overflow="fold")
    legs = {name: ", ".join("-" if axis is None else str(axis) for axis in spec.legs[name]) for name in params}
    legs |= {name: f"{legs[name]} (state)".strip() for name in spec.state}
    kinds = {name: (array.shape, array.dtype.name, _pattern(legs[name])) for name, array in params.items()}
    for names in _grouped(kinds, every):
        first = params[names[0]]
        times = f"{len(names)} x: " if len(names) > 1 else ""
        shown = re.sub(r"\b([a-z]+)\d+", r"\1#", legs[names[0]]) if len(names) > 1 else legs[names[0]]
        table.add_row(
            escape(_together(names)),
            times + (" x ".join(map(str, first.shape)) or "scalar"),
            first.dtype.name,
            escape(shown),
        )
    return table
