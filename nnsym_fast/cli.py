# SPDX-License-Identifier: MIT
"""The command line: ``nnsym-fast inspect | sample | verify | report``."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    import zarr  # noqa: F401  the store needs it; a missing extra should be said before anything starts
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise SystemExit(
        f'nnsym-fast: error: the command line needs {error.name}; install it with pip install "nnsym_fast[job]"'
    ) from None

from nnsym_fast.job.errors import Interrupted, JobError

if TYPE_CHECKING:
    from nnsym_fast.job.verify import Verdict

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""

app = typer.Typer(
    name="nnsym-fast",
    help="Sample the symmetry orbit of a neural network: thousands of parameter sets that compute the same function.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

CheckpointPath = Annotated[
    str,
    typer.Argument(
        metavar="CKPT",
        help="A .safetensors, .npz or .pt (weights only) file, or digits-mlp / digits-cnn, which are shipped.",
    ),
]
SpecPath = Annotated[
    Path | None, typer.Option("--spec", metavar="FILE.json", help="The symmetry; overrides the checkpoint's own.")
]
Activation = Annotated[
    str | None, typer.Option(metavar="NAME", help="For a plain MLP: its activation, such as relu or tanh.")
]
Probes = Annotated[
    Path | None, typer.Option(metavar="FILE.npy", help="Inputs (batch, ...) on which functions are compared.")
]
Seed = Annotated[int, typer.Option(help="Seed of the orbit, 0 to 2^64 - 1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the kernels; default: all cores.")]


@app.command()
def inspect(ckpt: CheckpointPath, spec: SpecPath = None, activation: Activation = None) -> None:
    """Show the symmetry of a network: sites, groups, dimension, tensors and legs."""
    from nnsym_fast.job.checkpoint import load

    checkpoint = load(ckpt, spec=spec, activation=activation)
    symmetry = checkpoint.spec
    console = Console(highlight=False)
    state = sum(checkpoint.params[name].size for name in symmetry.state)
    console.print(f"[bold]{escape(checkpoint.name)}[/]  sha256 {checkpoint.sha256[:16]}...", soft_wrap=True)
    stored = f" and {state:,} numbers of state" if state else ""
    console.print(
        f"{checkpoint.parameters:,} parameters{stored}, stored as {', '.join(checkpoint.dtypes)}", soft_wrap=True
    )
    for key, value in (checkpoint.model.notes if checkpoint.model else {}).items():
        console.print(escape(f"{key}: {value}"), soft_wrap=True)

    sites = Table(title="Sites (hidden spaces)", title_justify="left")
    for heading in ("site", "units", "group", "dimension", "log10 of the discrete order"):
        sites.add_column(heading, justify="left" if heading in ("site", "group") else "right")
    for name, group in symmetry.sites.items():
        order = f"{group.log_order / math.log(10):.1f}"
        sites.add_row(
            escape(name),
            f"{group.size:,}",
            f"{type(group).__name__}: {' x '.join(group.parts)}",
            f"{group.dimension:,}",
            order,
        )
    sites.add_section()
    sites.add_row("all", "", "", f"{symmetry.dimension:,}", f"{symmetry.log_order / math.log(10):.1f}")
    console.print(sites)

    tensors = Table(title="Tensors (* dual leg, - no leg)", title_justify="left")
    for heading in ("tensor", "shape", "dtype", "legs"):
        tensors.add_column(heading)
    for name, array in checkpoint.params.items():
        legs = ", ".join("-" if axis is None else str(axis) for axis in symmetry.legs[name])
        note = " (state)" if name in symmetry.state else ""
        tensors.add_row(
            escape(name), " x ".join(map(str, array.shape)) or "scalar", array.dtype.name, escape(f"{legs}{note}")
        )
    console.print(tensors)


@app.command()
def sample(
    ckpt: CheckpointPath,
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Number of points.")],
    out: Annotated[Path, typer.Option("--out", metavar="X.zarr", help="Store to write, or to resume.")],
    seed: Seed = 0,
    observables: Annotated[
        str | None,
        typer.Option(help="A list out of norm,distance,function, or none. Default: all that the file allows."),
    ] = None,
    points: Annotated[
        bool, typer.Option("--points/--no-points", help="Whether to store the points themselves.")
    ] = True,
    chunk: Annotated[int | None, typer.Option(help="Samples per block of the store; default: 16 MiB of them.")] = None,
    threads: Threads = None,
    spec: SpecPath = None,
    activation: Activation = None,
    probes: Probes = None,
) -> None:
    """Write points of the orbit, and what is measured on them, to a Zarr store. The same command resumes."""
    from nnsym_fast.job.checkpoint import load
    from nnsym_fast.job.plan import make_plan
    from nnsym_fast.job.run import run

    _set_threads(threads)
    checkpoint = load(ckpt, spec=spec, activation=activation, probes=probes)
    wanted = None if observables is None else [name for name in observables.split(",") if name not in ("", "none")]
    plan = make_plan(checkpoint, samples=samples, seed=seed, observables=wanted, points=points, block=chunk)
    with _progress("sampling", plan.samples) as progress:
        result = run(checkpoint, plan, out, progress=progress)
    if chunk is not None and result.store.plan.block != chunk:
        _say(f"{out} keeps its own blocks of {result.store.plan.block} samples; --chunk applies to new stores")
    if not result.samples:
        typer.echo(f"{out} is already complete: {plan.samples:,} samples of {checkpoint.name}")
        return
    resumed = plan.samples - result.samples
    typer.echo(
        f"{out}: {result.samples:,} points of {checkpoint.name}"
        + (f" ({resumed:,} more were there before)" if resumed else "")
        + f", {result.nbytes / 1e9:.3g} GB in {result.seconds:.2f} s"
        + f" ({_rate(result.samples, result.nbytes, result.seconds)})"
    )


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(metavar="CKPT", help="A checkpoint (see sample), or a store X.zarr whose points are checked."),
    ],
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Number of points (of a checkpoint).")] = 100,
    seed: Seed = 0,
    threads: Threads = None,
    spec: SpecPath = None,
    activation: Activation = None,
    probes: Probes = None,
) -> None:
    """Check that every point of the orbit computes the same function, up to the network's own rounding error."""
    from nnsym_fast.job import verify as verification
    from nnsym_fast.job.checkpoint import load
    from nnsym_fast.job.store import open_store

    _set_threads(threads)
    if Path(source).is_dir():
        store = open_store(Path(source))
        samples = store.plan.samples
        with _progress("verifying", samples) as progress:
            verdict = verification.verify_store(store, progress=progress)
    else:
        checkpoint = load(source, spec=spec, activation=activation, probes=probes)
        with _progress("verifying", samples) as progress:
            verdict = verification.verify(checkpoint, samples=samples, seed=seed, progress=progress)
    _print_verdict(source, verdict, verification.ALLOWED)
    if not verdict.same:
        worst = verdict.worst
        raise JobError(
            f"{source}: point {worst} computes another function: its outputs change by {verdict.gaps[worst, 1]:.2e}, "
            f"{verdict.ratios[worst]:.3g} times the rounding error; the spec does not describe this network"
        )


def _print_verdict(source: str, verdict: Verdict, allowed: float) -> None:
    typer.echo(f"{source}: {len(verdict.gaps):,} points of the orbit, {verdict.probes} probe inputs")
    typer.echo("  change of the function / size of the outputs      rms       worst probe")
    for label, (largest, rms) in (
        ("the network's own arithmetic, against float64", verdict.arithmetic),
        ("that, and its weights rounded anew", verdict.rounding),
        ("the points of the orbit, at most", verdict.gaps.max(axis=0)),
    ):
        typer.echo(f"  {label:<48}  {rms:.2e}  {largest:.2e}")
    typer.echo(f"  worst point / rounding error: {verdict.ratios.max():.2f} (allowed {allowed:g})")
    if verdict.same:
        typer.echo("  every point computes the same function")


@app.command()
def report(
    store: Annotated[Path, typer.Argument(metavar="X.zarr", help="A finished store.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: X-report beside the store.")
    ] = None,
) -> None:
    """Draw what a store holds: an HTML page and PNGs."""
    from nnsym_fast.job.report import write_report
    from nnsym_fast.job.store import open_store

    page = write_report(open_store(store), out or store.resolve().with_name(store.resolve().stem + "-report"))
    typer.echo(f"{page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the entry point of ``nnsym-fast``.

    Args:
        arguments: what follows the program's name; None takes them from the process.

    Returns:
        The exit code: 0, 1 after an error, 2 for a wrong command line, 130 after Ctrl-C. Errors are one line on stderr.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # --help prints in colour where a terminal allows; errors are printed here, in one line, not in a box.
        code = typer.main.get_command(app)(args=given or ["--help"], prog_name="nnsym-fast", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except Interrupted as error:
        _say(str(error))
        return INTERRUPTED
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except JobError as error:
        _say(f"error: {error}")
        return 1
    except BrokenPipeError:
        # The reader of our output went away (| head); that is its right, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _say(f"error: {place}{error.strerror or error}")
        return 1
    except MemoryError:
        _say("error: out of memory; choose a smaller --chunk")
        return 1
    except Exception as error:
        # A wrong command line: click, or typer's own copy of it, whichever this typer has.
        if not hasattr(error, "format_message"):
            raise
        _say(f"error: {error.format_message()} (nnsym-fast --help tells more)")
        return int(getattr(error, "exit_code", 2))


def _say(message: str) -> None:
    """One line on stderr, never wrapped or coloured: other programs read it too."""
    print("nnsym-fast: " + " ".join(message.split()), file=sys.stderr)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import nnsym_fast

        nnsym_fast.set_num_threads(threads)


def _rate(samples: int, nbytes: int, seconds: float) -> str:
    written = nbytes / seconds / 1e9
    # Without points next to nothing is written, and "0.00 GB/s" would look like a fault.
    return f"{samples / seconds:,.0f} samples/s" + (f", {written:.2f} GB/s" if written >= 0.005 else "")


class _Rate(ProgressColumn):
    """Samples and bytes per second since the first block of this run."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        fresh = task.completed - task.fields["found"]
        if elapsed <= 0 or fresh <= 0:
            return Text("")
        return Text(_rate(fresh, task.fields["nbytes"], elapsed))


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
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


if __name__ == "__main__":
    raise SystemExit(main())
