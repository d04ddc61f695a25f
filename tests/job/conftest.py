# SPDX-License-Identifier: MIT
"""A small network as a file, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from job_helpers import Outcome, write_llama, write_mlp

from nnsym_fast.cli import main


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_mlp(tmp_path / "tiny.safetensors", [3, 8, 5, 2])


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A small bfloat16 checkpoint folder in shards."""
    pytest.importorskip("ml_dtypes")
    return write_llama(tmp_path / "llama")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
