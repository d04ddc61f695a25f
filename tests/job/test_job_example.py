# SPDX-License-Identifier: MIT
"""The script that trained the shipped networks still does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from job_helpers import ROOT

from nnsym_fast.job.checkpoint import EXAMPLES, load
from nnsym_fast.job.verify import verify


def test_training_writes_what_the_package_ships(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    script = ROOT / "examples" / "train_digits.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, "--out", tmp_path], env=environment, check=True, capture_output=True)
    assert done.stdout.decode().count("held-out digits") == 2
    for name, file in EXAMPLES.items():
        trained, shipped = load(tmp_path / file), load(name)
        assert trained.spec == shipped.spec
        assert trained.model is not None
        assert shipped.model is not None
        assert trained.model.layers == shipped.model.layers
        # Another torch or processor may train slightly different weights.
        assert trained.model.notes["accuracy"] == pytest.approx(shipped.model.notes["accuracy"], abs=0.015)
        assert trained.probes is not None
        assert shipped.probes is not None
        np.testing.assert_array_equal(trained.probes, shipped.probes)
        assert verify(trained, samples=20).same
