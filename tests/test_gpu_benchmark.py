# SPDX-License-Identifier: MIT
"""benchmarks/gpu.py: what it says without a GPU, its checks on the emulation, its record and its table."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ("gpu", "gpu_tools", "gpu_checks", "gpu_runtime")


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The program as a module, beside the modules that it imports."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.path.remove(str(BENCHMARKS))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "no GPU: torch.cuda.is_available() is False" in done.stdout


@pytest.mark.parametrize("section", ["orbit", "dense", "wilson", "ode", "runtime"])
def test_its_checks_pass_on_the_emulation(
    gpu: ModuleType, section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    assert gpu.main(["--emulated", "--only", f"check {section}", "--seed", "5", "--out", str(path)]) == 0
    record = json.loads(path.read_text())
    assert len(record["checks"]) > 4
    assert all(check["passed"] for check in record["checks"])
    assert record["machine"]["seed"] == "5"
    assert list(record["sections"]) == [f"check {section}"]
    assert f"Checks: {len(record['checks'])} of {len(record['checks'])} passed." in capsys.readouterr().out


class TestBench:
    @pytest.fixture
    def bench(self, gpu: ModuleType) -> object:
        return gpu.Bench(torch.device("cpu"), emulated=True)

    def test_relative_errors(self, gpu: ModuleType) -> None:
        error = importlib.import_module("gpu_tools").relative_error
        assert error(torch.tensor([1.0, 4.5]), np.array([1.0, 4.0])) == 0.125
        assert error(torch.tensor([1.0, torch.nan]), np.array([1.0, 4.0])) == math.inf
        assert error(torch.ones(2), np.ones(3)) == math.inf
        assert error(torch.zeros(0), np.zeros(0)) == 0.0
        assert error(torch.tensor([1j]), np.array([1.0])) == pytest.approx(math.sqrt(2))

    def test_what_a_kernel_does_not_write_is_nan(self, gpu: ModuleType) -> None:
        with importlib.import_module("gpu_tools").poisoned():
            assert torch.empty(1000).isnan().all()
        assert not torch.are_deterministic_algorithms_enabled()

    def test_a_wrong_result_and_an_exception_are_recorded(self, bench: object) -> None:
        bench.check("wrong", {"a": np.ones(2)}, {"a": np.zeros(2)}, 0.5)
        bench.compare("raises", lambda: 1 / 0, np.ones(1), 0.5)
        (check,) = bench.record.checks
        assert not check["passed"]
        assert bench.record.failures == [{"where": "raises", "error": "ZeroDivisionError: division by zero"}]

    def test_a_section_that_raises_leaves_what_it_had(
        self, gpu: ModuleType, bench: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def section(bench: object) -> None:
            bench.check("before", np.ones(1), np.ones(1), 0.0)
            raise RuntimeError("in the middle")

        monkeypatch.setattr(importlib.import_module("gpu_checks"), "check_orbit", section)
        gpu.run_section("check orbit", bench)
        assert [check["passed"] for check in bench.record.checks] == [True]
        assert bench.record.failures == [{"where": "check orbit", "error": "RuntimeError: in the middle"}]


class TestRunApart:
    """A section in a process of its own, whatever becomes of the process."""

    def options(self, gpu: ModuleType) -> object:
        return gpu.argparse.Namespace(seed=1, quick=True)

    def run(
        self, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, seconds: float
    ) -> object:
        program = tmp_path / "program.py"
        program.write_text(code)
        monkeypatch.setattr(gpu, "__file__", str(program))
        return gpu.run_apart("check ode", self.options(gpu), seconds)

    def test_what_it_recorded_arrives(self, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        code = "import sys\nopen(sys.argv[sys.argv.index('--out') + 1], 'w').write('{\"skipped\": [\"a\"]}')"
        record = self.run(gpu, monkeypatch, tmp_path, code, 30.0)
        assert (record.skipped, record.failures) == (["a"], [])

    def test_a_crash(self, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        record = self.run(gpu, monkeypatch, tmp_path, "import os; os.abort()", 30.0)
        assert record.failures == [{"where": "check ode", "error": "its process ended with status -6"}]

    def test_no_end(self, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        record = self.run(gpu, monkeypatch, tmp_path, "import time; time.sleep(60)", 0.5)
        assert record.failures == [{"where": "check ode", "error": "not done after 0 seconds"}]


def test_the_report_shows_targets_rivals_and_failures(gpu: ModuleType) -> None:
    rivals = [
        {"kind": "torch", "formulation": "slow", "seconds": 0.9, "scaled": 1.0},
        {"kind": "torch", "formulation": "fast", "seconds": 0.5, "scaled": 16.0},
    ]
    figure = {
        "job": "job", "seconds": 0.1, "limit": "read bandwidth", "fraction": 0.5, "rate": "7 GB/s", "rivals": rivals,
        "targets": [{"quantity": "torch / ours", "value": 5.0, "bound": 8.0}],
    }  # fmt: skip
    check = {"name": "c", "error": math.inf, "bound": 0.1, "passed": False}
    failure = {"where": "section", "error": "reason"}
    record = gpu.Record({"device": "D"}, {"read, B/s": 2e12}, [check], [figure], ["no diffrax"], [failure])
    lines = gpu.report(record).splitlines()
    assert "Machine: device D." in lines
    assert "Checks: 0 of 1 passed." in lines
    assert "  FAIL c: relative error inf, at most 0.1" in lines
    assert [line.strip() for line in lines[lines.index("job") :][:6]] == [
        "job", "100 ms", "7 GB/s", "0.50 of read bandwidth", "torch 5.0x (scaled)",
        "torch / ours 5 (aim 8: missed)",
    ]  # fmt: skip
    assert "Skipped: no diffrax" in lines
    assert "Failed: section: reason" in lines
