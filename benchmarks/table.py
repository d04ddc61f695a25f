# SPDX-License-Identifier: MIT
"""The tables of a run, for the terminal and, as ``python benchmarks/table.py RESULTS.json``, in Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from record import Figure, Integration, PeerTime, Results, Row, Work
from targets import BEST_PEER, FRACTION, PEAK, RATIO_FRESH, RATIO_REUSED, TARGETS

__all__ = ["Table", "markdown", "tables", "text"]

NONE = "-"
NAMES = ("speed", "targets", "peers", "wilson", "wilson-peers", "ode", "ode-peers")


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is aligned to the left."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def figures(results: Results) -> list[Figure]:
    """All single numbers: those measured as such, and those that follow from races."""
    result = []
    for row in results.rows:
        if row.limit_seconds is not None:
            result.append(Figure(row.benchmark, FRACTION, row.limit_seconds / row.seconds))
        if row.peers:
            result.append(Figure(row.benchmark, RATIO_REUSED, _fastest(row.peers) / row.seconds))
        fresh = [peer for peer in row.peers if not peer.reuses]
        if fresh and row.fresh is not None:
            result.append(Figure(row.benchmark, RATIO_FRESH, _fastest(fresh) / row.fresh))
    for work in results.work:
        fraction = _of_peak(work)
        if fraction is not None:
            result.append(Figure(work.benchmark, PEAK, fraction))
        if work.relative is not None:
            result.append(Figure(work.benchmark, work.relation, work.relative))
        if work.peers:
            result.append(Figure(work.benchmark, BEST_PEER, _fastest(work.peers) / work.seconds))
    for flow in results.integrations:
        result.append(Figure(flow.benchmark, FRACTION, flow.limit_seconds / flow.seconds))
    return result + results.figures


def tables(results: Results) -> list[Table]:
    """Speed, targets and peers of a run; a table without rows is left out."""
    kinds = list(dict.fromkeys(peer.kind for row in results.rows for peer in row.peers))
    speed = Table(
        "speed",
        "Speed: time, bytes of the result per second (a copy: read + written), fraction of the machine's limit for as "
        "many bytes in the same rounds (matmul: its matrix products alone, by NumPy's BLAS), and how many times longer "
        "the peers take",
        ("benchmark", "result in", "ms", "GB/s", "limit GB/s", "of limit", *kinds, "best peer"),
        tuple(line for row in results.rows for line in _speed_lines(row, kinds)),
    )
    aims = Table(
        "targets",
        "Figures and targets",
        ("benchmark", "quantity", "value", "target", ""),
        tuple(_target_line(figure, results) for figure in figures(results)),
    )
    peers = Table(
        "peers",
        "Peers: the formulations that raced",
        ("benchmark", "peer", "formulation", "ms", "GB/s"),
        tuple(
            (row.benchmark, peer.kind, peer.formulation, _ms(peer.seconds), _rate(row.nbytes, peer.seconds))
            for row in results.rows
            for peer in sorted(row.peers, key=lambda peer: peer.seconds)
        ),
    )
    found = (
        speed,
        *_wilson_tables(results),
        *_ode_tables(results),
        aims,
        peers,
        _wilson_peers(results),
        _ode_peers(results),
    )
    return [table for table in found if table.rows]


def _wilson_tables(results: Results) -> Iterator[Table]:
    """One table per job, with the columns that it fills."""
    for job in dict.fromkeys(work.job for work in results.work):
        group = [work for work in results.work if work.job == job]
        kinds = list(dict.fromkeys(peer.kind for work in group for peer in work.peers))
        relation = next((work.relation for work in group if work.relation), "")
        header = ("batch x d", "ms", "GFLOP/s", "peak GFLOP/s", "of peak", "input GB/s", relation, *kinds, "best peer")
        lines = [_wilson_line(work, kinds, _disturbed(work.benchmark, results)) for work in group]
        header, *rows = _filled(header, lines)
        title = "time, useful arithmetic per second, the multiply-add peak in the same rounds, input per second, and"
        yield Table("wilson", f"Wilson lines, {job}: {title} how many times longer the peers take", header, tuple(rows))


def _filled(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Header and lines without the columns that are empty."""
    columns = (column for column in zip(header, *lines, strict=True) if set(column[1:]) != {NONE})
    return list(zip(*columns, strict=True))


def _wilson_line(work: Work, kinds: Sequence[str], disturbed: bool) -> tuple[str, ...]:
    fraction = _of_peak(work)
    return (
        work.benchmark.removeprefix(f"{work.job} ") + (" (disturbed)" if disturbed else ""),
        _ms(work.seconds),
        NONE if work.flops is None else _rate(work.flops, work.seconds),
        NONE if work.peak is None else _rate(work.peak, 1.0),
        NONE if fraction is None else f"{fraction:.2f}",
        _rate(work.nbytes, work.seconds),
        NONE if work.relative is None else f"{work.relative:.2f}",
        *_ratios(work.peers, kinds, work.seconds),
    )


def _of_peak(work: Work) -> float | None:
    return None if work.flops is None or work.peak is None else work.flops / work.seconds / work.peak


def _ratios(peers: Sequence[PeerTime], kinds: Sequence[str], seconds: float) -> Iterator[str]:
    """How many times longer the fastest of each kind takes, and that of all."""
    for times in (*([peer for peer in peers if peer.kind == kind] for kind in kinds), peers):
        yield f"{_fastest(times) / seconds:.1f}x" if times else NONE


def _wilson_peers(results: Results) -> Table:
    return Table(
        "wilson-peers",
        "Wilson lines, peers: the formulations that raced",
        ("benchmark", "peer", "formulation", "ms"),
        tuple(
            (work.benchmark, peer.kind, peer.formulation, _ms(peer.seconds))
            for work in results.work
            for peer in sorted(work.peers, key=lambda peer: peer.seconds)
        ),
    )


def _ode_tables(results: Results) -> Iterator[Table]:
    """One table per job."""
    for job in dict.fromkeys(flow.job for flow in results.integrations):
        group = [flow for flow in results.integrations if flow.job == job]
        kinds = list(dict.fromkeys(peer.kind for flow in group for peer in flow.peers))
        equal = [f"{kind}, equal error" for kind in kinds]
        header = ("batch, d, h", "ms", "error", "evaluations", "of limit", *kinds, "best peer", *equal)
        lines = [_ode_line(flow, kinds, _disturbed(flow.benchmark, results)) for flow in group]
        header, *rows = _filled(header, lines)
        title = (
            f"Neural ODEs, {job}: time, relative error, evaluations of the field per sample, what its multiply-adds "
            "and activations take at their measured rates over the time, and how many times longer the peers take"
        )
        yield Table("ode", title, header, tuple(rows))


def _ode_line(flow: Integration, kinds: Sequence[str], disturbed: bool) -> tuple[str, ...]:
    equal = []
    for kind in kinds:
        ratios = [peer.seconds / peer.ours for peer in flow.peers if peer.kind == kind and peer.ours is not None]
        equal.append(f"{min(ratios):.1f}x" if ratios else NONE)
    return (
        f"{flow.batch}, {flow.d}, {flow.h}" + (" (disturbed)" if disturbed else ""),
        _ms(flow.seconds),
        f"{flow.error:.1e}",
        f"{flow.evaluations:.1f}",
        f"{flow.limit_seconds / flow.seconds:.2f}",
        *_ratios(flow.peers, kinds, flow.seconds),
        *equal,
    )


def _ode_peers(results: Results) -> Table:
    return Table(
        "ode-peers",
        "Neural ODEs, peers: the formulations that raced, and the time in which ours is as accurate",
        ("benchmark", "peer", "formulation", "ms", "error", "ours, ms"),
        tuple(
            (
                flow.benchmark,
                peer.kind,
                peer.formulation,
                _ms(peer.seconds),
                NONE if peer.error is None else f"{peer.error:.1e}",
                NONE if peer.ours is None else _ms(peer.ours),
            )
            for flow in results.integrations
            for peer in sorted(flow.peers, key=lambda peer: peer.seconds)
        ),
    )


def _fastest(peers: Sequence[PeerTime]) -> float:
    return min(peer.seconds for peer in peers)


def _speed_lines(row: Row, kinds: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """One line with reused buffers, against every peer; one with fresh results, against those that return such."""
    fresh = replace(row, peers=tuple(peer for peer in row.peers if not peer.reuses))
    sides = [("reused buffers" if row.fresh is not None else NONE, row.seconds, row)]
    if row.fresh is not None:
        sides.append(("fresh memory", row.fresh, fresh))
    for result, seconds, side in sides:
        limit = side.limit_seconds
        yield (
            row.benchmark,
            result,
            _ms(seconds),
            _rate(row.nbytes, seconds),
            NONE if limit is None else f"{_rate(row.nbytes, limit)} ({row.limit})",
            NONE if limit is None else f"{limit / seconds:.2f}",
            *_ratios(side.peers, kinds, seconds),
        )


def _disturbed(benchmark: str, results: Results) -> bool:
    """Whether its race was; a race of several types bears the name without the type."""
    return any(benchmark == name or benchmark.startswith(f"{name} ") for name in results.disturbed)


def _target_line(figure: Figure, results: Results) -> tuple[str, ...]:
    value = f"{figure.value:.3g} {figure.unit}".strip()
    bound = verdict = NONE
    for target in TARGETS:
        if (target.benchmark, target.quantity) == (figure.benchmark, figure.quantity):
            bound, verdict = f"{target} {figure.unit}".strip(), target.verdict(figure.value)
    if _disturbed(figure.benchmark, results):
        verdict = "disturbed"
    return figure.benchmark, figure.quantity, value, bound, verdict


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def _rate(amount: float, seconds: float) -> str:
    """Billions a second, of bytes or operations."""
    return f"{amount / seconds / 1e9:.3g}"


def _machine(results: Results) -> str:
    parts = [f"{name} {value}" for name, value in results.machine.items()]
    absent = [f"no peer from {name}: not installed" for name in results.missing]
    shares = ", ".join(f"{name} ({share:.0%})" for name, share in results.disturbed.items())
    noise = [f"not to be relied on, as other processes took CPU time in the race: {shares}"] if shares else []
    return "; ".join([*parts, *absent, *noise])


def text(results: Results) -> str:
    """For a terminal."""
    return _render(results, _text_table)


def markdown(results: Results) -> str:
    """For a README."""
    return _render(results, _markdown_table)


def _render(results: Results, form: Callable[[Table], str], names: Sequence[str] = ()) -> str:
    shown = [table for table in tables(results) if not names or table.name in names]
    return "\n\n".join([f"Machine: {_machine(results)}.", *(form(table) for table in shown)])


def _text_table(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (_align(cell, width, i == 0) for i, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join([first, *rest]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([f"{table.title}:", line(table.header), rule, *map(line, table.rows)])


def _align(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def _markdown_table(table: Table) -> str:
    lines = [table.header, ("---", *("---:" for _ in table.header[1:])), *table.rows]
    return "\n".join([f"{table.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file of a run")
    parser.add_argument("--tables", nargs="+", default=[], choices=NAMES, help="default: all")
    arguments = parser.parse_args()
    print(_render(Results.load(arguments.results), _markdown_table, arguments.tables))


if __name__ == "__main__":
    main()
