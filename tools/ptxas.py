# SPDX-License-Identifier: MIT
"""What ptxas says of the CUDA kernels, as a table; fails where a kernel that must not spill does: `make cuda`.

Reads the output of nvcc -Xptxas=-v. A spilled register, or an array that got no registers, lives in local memory: loads
and stores beside the arithmetic, in the loops that the kernel is fast for.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90")
"""Every kernel is compiled for these."""

SPILL_FREE: dict[str, int] = {
    "limits::*": 0,
    # orbits of float32: elements, their action, both at once
    "prepare<float>": 0,
    "fused<float, *>": 0,
    "move_rows<float, float, *>": 0,
    # dense groups: matrix products with float32 and float64 parameters
    "tiles::multiply<float, float, 32, 128, *, true>": 0,
    "tiles::multiply<double, double, 64, *>": 0,
    # Wilson lines of float32: one path to a thread, one to a part of a warp
    "forward<Shape<float, 1, [234], *": 0,
    "backward<Shape<float, 1, [234], *": 0,
    "line_kernel<Shape<float, 1, [68], *, false>": 0,
    # neural ODEs of float32 with few components: fixed and adaptive steps
    "ode::integrate_fixed<float, 2, 16, *>": 40,
    "ode::integrate_steps<float, 2, *>": 176,
    "ode::integrate_steps<float, 4, *>": 304,
}
"""Kernels that must not spill: fnmatch patterns of their short names, each of which matches some kernel, and the bytes
of stack frame that they may have. 40 come with the sine among the activations, whose reduction of large arguments has
a table; others with arrays that are indexed by a stage. What is not listed holds more numbers than there are registers,
such as wide states of float64, or spills a few bytes outside of its loops."""

ENTRY = re.compile(r"ptxas info\s*: Compiling entry function '(?P<name>\S+)' for '(?P<arch>sm_\w+)'")
PROPERTIES = re.compile(r"ptxas info\s*: Function properties for (?P<name>\S+)")
FRAME = re.compile(
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
USED = re.compile(r"ptxas info\s*: Used (?P<registers>\d+) registers(?P<rest>.*)")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclass
class Kernel:
    """One kernel for one architecture; sizes in bytes, ``shared`` without what a launch adds."""

    name: str
    arch: str
    registers: int = 0
    stack: int = 0
    stores: int = 0
    loads: int = 0
    shared: int = 0

    def clean(self, frame: int = 0) -> bool:
        """Whether it spills nothing, with at most so many bytes of stack frame."""
        return self.stack <= frame and not self.stores and not self.loads

    def __str__(self) -> str:
        return (
            f"{self.name} for {self.arch}: {self.stores} bytes of spill stores, {self.loads} bytes of spill loads, "
            f"{self.stack} bytes of stack frame"
        )


def parse(lines: Iterable[str]) -> Iterator[Kernel]:
    """The kernels of a log, with mangled names.

    Raises:
        ValueError: a kernel's lines are not complete.
    """
    kernel: Kernel | None = None
    framed = own = False
    for line in lines:
        if found := ENTRY.match(line):
            if kernel is not None:
                raise ValueError(f"no registers of {kernel.name} for {kernel.arch}: the log is not complete")
            kernel, framed = Kernel(found["name"], found["arch"]), False
        elif kernel is None:
            continue
        elif found := PROPERTIES.match(line):
            own = found["name"] == kernel.name  # others are functions that it calls
        elif (found := FRAME.match(line)) and own:
            kernel.stack, kernel.stores, kernel.loads = int(found["stack"]), int(found["stores"]), int(found["loads"])
            framed = True
        elif found := USED.match(line):
            if not framed:
                raise ValueError(f"no stack frame of {kernel.name} for {kernel.arch}: the log is not complete")
            kernel.registers = int(found["registers"])
            kernel.shared = sum(int(size) for size in SHARED.findall(found["rest"]))
            yield kernel
            kernel = None
    if kernel is not None:
        raise ValueError(f"no registers of {kernel.name} for {kernel.arch}: the log is not complete")


def demangled(names: Sequence[str]) -> list[str]:
    """As c++filt writes them."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def short(name: str) -> str:
    """Family, name and template arguments: without the parameters and the namespaces that all kernels share.

    >>> short("void nnsym::cuda::wilson::(anonymous namespace)::line<float, 3>(float const*, nnsym::Job)")
    'wilson::line<float, 3>'
    """
    name = name.replace("(anonymous namespace)::", "").replace("nnsym::cuda::", "").replace("nnsym::", "")
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter in "<([") - (letter in ">)]")
        if letter == "(" and depth == 1:
            name = name[:at]
            break
    return name.removeprefix("void ")


def read(log: str) -> list[Kernel]:
    """Of the text of a log, with short names, in order."""
    kernels = list(parse(log.splitlines()))
    for kernel, name in zip(kernels, demangled([kernel.name for kernel in kernels]), strict=True):
        kernel.name = short(name)
    return sorted(kernels, key=lambda kernel: (kernel.name, kernel.arch))


def failures(kernels: Sequence[Kernel], frames: Mapping[str, int], architectures: Sequence[str]) -> Iterator[str]:
    """What is wrong, a line each."""
    names = {kernel.name for kernel in kernels}
    if not names:
        yield "no kernel in the log: was it compiled with -Xptxas=-v?"
    for arch in architectures:
        for name in sorted(names - {kernel.name for kernel in kernels if kernel.arch == arch}):
            yield f"{name}: not compiled for {arch}"
    for pattern, frame in frames.items():
        matching = [kernel for kernel in kernels if fnmatch.fnmatchcase(kernel.name, pattern)]
        if not matching:
            yield f"{pattern}: no kernel of this name; was it renamed? The list is SPILL_FREE of tools/ptxas.py"
        yield from (f"{kernel}, {frame} allowed" for kernel in matching if not kernel.clean(frame))


def table(kernels: Sequence[Kernel], patterns: Iterable[str]) -> Iterator[str]:
    """A line per kernel and architecture; a star marks those that must not spill."""
    patterns = tuple(patterns)
    header = ("kernel", "arch", "registers", "stack", "spill stores", "spill loads", "shared")
    rows = [
        (
            kernel.name + (" *" if any(fnmatch.fnmatchcase(kernel.name, pattern) for pattern in patterns) else ""),
            kernel.arch,
            *map(str, (kernel.registers, kernel.stack, kernel.stores, kernel.loads, kernel.shared)),
        )
        for kernel in kernels
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        name, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([name.strip().ljust(widths[0]), *rest])


def summary(kernels: Sequence[Kernel], arch: str) -> Iterator[str]:
    """A Markdown table with a line per template, for one architecture: that of docs/cuda.md."""
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if kernel.arch == arch:
            groups.setdefault(kernel.name.split("<")[0], []).append(kernel)

    def span(values: Iterable[int]) -> str:
        low, high = min(values := list(values)), max(values)
        return str(low) if low == high else f"{low} to {high}"

    yield "| kernel | variants | registers | stack frame or spills |"
    yield "|---|---:|---:|---|"
    for name, group in sorted(groups.items()):
        local = [kernel for kernel in group if not kernel.clean()]
        most = max(kernel.stack + kernel.stores for kernel in group)
        said = f"{len(local)} of {len(group)}, up to {most} bytes" if local else "none"
        yield f"| `{name}` | {len(group)} | {span(kernel.registers for kernel in group)} | {said} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("logs", nargs="+", type=Path, help="what nvcc -Xptxas=-v printed")
    parser.add_argument("--summary", metavar="ARCH", help="a Markdown table of one architecture, and no check")
    options = parser.parse_args(arguments)
    kernels = read("".join(log.read_text() for log in options.logs))
    if options.summary:
        print("\n".join(summary(kernels, options.summary)))
        return 0
    print("\n".join(table(kernels, SPILL_FREE)))
    wrong = list(failures(kernels, SPILL_FREE, ARCHITECTURES))
    print(
        f"{len(kernels)} kernels, {sum(not kernel.clean() for kernel in kernels)} of them with a stack frame or spills"
    )
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
