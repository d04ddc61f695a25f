# SPDX-License-Identifier: MIT
"""The module _cuda as `make cuda` built it, on a machine with or without a GPU; and how CMake looks for a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILT = os.environ.get("NNSYM_CUDA_MODULE")

built = pytest.mark.skipif(BUILT is None, reason="NNSYM_CUDA_MODULE names no module: make cuda builds one")

LOAD = """
import importlib.util, sys
import nnsym_fast as nf
spec = importlib.util.spec_from_file_location("nnsym_fast._cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["nnsym_fast._cuda"] = nf._cuda = module
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", LOAD + code, str(BUILT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@built
class TestModule:
    def test_it_says_how_many_devices_there_are(self) -> None:
        """Also where there is no driver: nothing of CUDA is linked but its static runtime."""
        printed = python("print(module.device_count(), module.emulated)\nnf.show_config()")
        count = printed.split()[0]
        assert printed.split()[1] == "False"
        devices = {"0": "0 devices found", "1": "1 device"}.get(count, f"{count} devices")
        assert re.search(rf"^ *cuda: kernels built, {devices}$", printed, re.MULTILINE), printed

    def test_it_counts_the_devices_of_torch(self) -> None:
        torch = pytest.importorskip("torch")
        assert int(python("print(module.device_count())")) == torch.cuda.device_count()

    def test_it_has_what_the_emulated_module_has(self) -> None:
        """But for what tests ask of the emulation."""
        from nnsym_fast._native import cuda_emulated

        names = set(python("print(*dir(module))").split())
        assert {name for name in dir(cuda_emulated()) if name not in ("set_order", "probe")} == names

    @pytest.mark.skipif(shutil.which("ldd") is None, reason="no ldd")
    def test_it_needs_no_library_of_cuda(self) -> None:
        listed = subprocess.run(["ldd", str(BUILT)], capture_output=True, text=True, check=True).stdout
        assert "libc.so" in listed
        assert "cuda" not in listed.replace(str(BUILT), "")


needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")


@needs_cmake
class TestConfigure:
    def configure(self, tmp_path: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        pybind11 = pytest.importorskip("pybind11")
        command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
        command += [f"-DPython_EXECUTABLE={sys.executable}", "-DNNSYM_OPENMP=OFF", *options]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})

    def test_off_asks_for_no_compiler(self, tmp_path: Path) -> None:
        done = self.configure(tmp_path, "-DNNSYM_CUDA=OFF", CUDACXX="/no/such/nvcc")
        assert done.returncode == 0, done.stderr
        assert "CUDA" not in done.stdout

    def test_auto_goes_without(self, tmp_path: Path) -> None:
        done = self.configure(tmp_path, CUDACXX="/no/such/nvcc")
        assert done.returncode == 0, done.stderr
        assert "No CUDA compiler: without the CUDA kernels" in done.stdout

    def test_on_says_what_to_do(self, tmp_path: Path) -> None:
        done = self.configure(tmp_path, "-DNNSYM_CUDA=ON", CUDACXX="/no/such/nvcc")
        assert done.returncode != 0
        assert re.search(r"no CUDA compiler was found\s.*set\s+CUDACXX", done.stderr, re.DOTALL)
