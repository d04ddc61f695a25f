# SPDX-License-Identifier: MIT
"""show_config: one line per fact."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import nnsym_fast as nf
from nnsym_fast._native import config, cpu


def lines_of(text: str) -> dict[str, str]:
    return {name.strip(): value for name, value in (line.split(": ", 1) for line in text.splitlines())}


def test_it_prints_what_config_holds(capsys: pytest.CaptureFixture[str]) -> None:
    nf.show_config()
    assert lines_of(capsys.readouterr().out) == config()


def test_the_facts(isa: str) -> None:
    facts = config()
    assert list(facts) == ["nnsym_fast", "isa", "threads", "cuda", "numpy", "torch"]
    assert facts["nnsym_fast"] == nf.__version__
    assert facts["isa"] == f"{isa} (this machine: {', '.join(cpu.isas())}; override: NNSYM_FAST_ISA)"
    assert facts["threads"].split()[0] == str(nf.get_num_threads())
    assert facts["numpy"] == np.__version__
    assert facts["cuda"].startswith(("not available: ", "kernels built, "))


def test_it_imports_no_framework() -> None:
    code = "import nnsym_fast as nf, sys; nf.show_config(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert lines_of(done.stdout)["torch"] == "not imported"


def test_it_names_the_torch_that_is_loaded() -> None:
    torch = pytest.importorskip("torch")
    assert config()["torch"] == torch.__version__
