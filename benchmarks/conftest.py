# SPDX-License-Identifier: MIT
"""The record of a run: fixtures that fill it, the tables at the end, the JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import machine
import peers
import pytest
import table
from record import Results

# Collected as modules with doctests, they would have to import libraries that may be missing.
FAMILIES = ("ode", "orbit", "transformer", "wilson")
collect_ignore = [f"{family}_{library}.py" for family in FAMILIES for library in ("jax", "torch")]
collect_ignore += ["gpu.py", "gpu_checks.py", "gpu_races.py", "gpu_runtime.py", "gpu_tools.py"]

RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results", type=Path, default=Path(".benchmarks/latest.json"), help="where the figures of the run are written"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results(machine.describe(), peers.missing_libraries())
    # Deprecations inside the peers are not ours to fail on.
    config.addinivalue_line("filterwarnings", "ignore")


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    """The record of this run."""
    return request.config.stash[RESULTS]


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> Iterator[None]:
    """Torch on all cores, as the kernels are."""
    if "torch" in peers.missing_libraries():
        yield
        return
    import torch

    import nnsym_fast

    before = torch.get_num_threads()
    torch.set_num_threads(nnsym_fast.get_num_threads())
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[RESULTS]
    if not (found.rows or found.work or found.integrations or found.figures):
        return
    terminalreporter.section("nnsym_fast against its limits and its peers")
    terminalreporter.write_line(table.text(found))
    path: Path = config.getoption("--results")
    found.save(path)
    terminalreporter.write_line(f"\nWritten to {path}; python benchmarks/table.py {path} prints it as Markdown.")
