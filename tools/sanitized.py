# SPDX-License-Identifier: MIT
"""Run the kernel tests on the sanitizer build: `make sanitize`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "build" / "sanitize" / "site"), os.environ["NNSYM_SITE"]]

import pytest  # noqa: E402

import nnsym_fast  # noqa: E402

if "sanitize" not in str(nnsym_fast.__file__):
    sys.exit(f"expected the sanitizer build, got {nnsym_fast.__file__}")
kernels = [
    *(ROOT / "tests" / "orbit" / f"test_{name}.py" for name in ("math", "elements", "kernels", "paths", "buffers")),
    *(ROOT / "tests" / "orbit" / f"test_dense_{name}.py" for name in ("elements", "kernels", "paths")),
    *(ROOT / "tests" / "wilson" / f"test_wilson_{name}.py" for name in ("kernels", "backward")),
    *(ROOT / "tests" / "ode" / f"test_ode_{name}.py" for name in ("activations", "kernels", "ends", "gradients")),
    ROOT / "tests" / "test_emulation.py",
    *sorted((ROOT / "tests").glob("*/test_*_device.py")),
]
sys.exit(pytest.main(["-p", "no:cacheprovider", *map(str, kernels)]))
