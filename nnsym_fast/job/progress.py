# SPDX-License-Identifier: MIT
"""A progress bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["progress_bar", "rate"]


def rate(samples: int, nbytes: int, seconds: float) -> str:
    """Samples and bytes per second, in words."""
    written = nbytes / seconds / 1e9
    # Without points next to nothing is written, and "0.00 GB/s" would look like a fault.
    each = f"{samples / seconds:,.0f}" if samples >= 10 * seconds else f"{samples / seconds:.2g}"
    return f"{each} samples/s" + (f", {written:.2f} GB/s" if written >= 0.005 else "")


class _Rate(ProgressColumn):
    """Samples and bytes per second since the first block of this run."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        fresh = task.completed - task.fields["found"]
        if elapsed <= 0 or fresh <= 0:
            return Text("")
        return Text(rate(int(fresh), task.fields["nbytes"], elapsed))


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; the function that it yields is told of every block: samples, bytes."""
    console = Console(stderr=True)
    columns: list[Any] = [TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, found=0, nbytes=0)

        def advance(samples: int, nbytes: int) -> None:
            fields = bar.tasks[task].fields
            if nbytes:
                bar.update(task, advance=samples, nbytes=fields["nbytes"] + nbytes)
            else:  # found on disk: not part of the rate
                bar.update(task, completed=samples, found=samples)

        yield advance
