# SPDX-License-Identifier: MIT
"""The check of what ptxas says: its parser on what CUDA 12 and 13 print, and what it refuses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


ptxas = tool("ptxas")

ANONYMOUS = "41_GLOBAL__N__d0eebc95_9_limits_cu_b24ed0b1"
READ = f"_ZN5nnsym4cuda6limits{ANONYMOUS}11read_kernelEPK5uint4mPj"
CHAIN = f"_ZN5nnsym4cuda6limits{ANONYMOUS}19multiply_add_kernelIdEEvPT_iS4_S4_"

CUDA_13 = f"""
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{READ}' for 'sm_90'
ptxas info    : Function properties for {READ}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compile time = 3.914 ms
ptxas info    : Compiling entry function '{CHAIN}' for 'sm_90'
ptxas info    : Function properties for {CHAIN}
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 8 bytes cumulative stack size
ptxas info    : Compile time = 8.699 ms
"""

CUDA_12 = f"""
/work/limits.cu(12): warning #177-D: variable "x" was declared but never referenced
ptxas info    : 24 bytes gmem, 72 bytes cmem[4]
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '{READ}' for 'sm_80'
ptxas info    : Function properties for {READ}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, 2048 bytes smem, 376 bytes cmem[0], 40 bytes cmem[2]
"""


def test_what_cuda_13_prints() -> None:
    chain, read = ptxas.read(CUDA_13)
    assert read == ptxas.Kernel("limits::read_kernel", "sm_90", registers=32, shared=1024)
    assert chain == ptxas.Kernel("limits::multiply_add_kernel<double>", "sm_90", 255, stack=8, stores=12, loads=16)
    assert read.clean()
    assert not chain.clean(8)


def test_what_cuda_12_prints() -> None:
    """Functions that a kernel calls have lines of their own, which are not the kernel's."""
    assert ptxas.read(CUDA_12) == [ptxas.Kernel("limits::read_kernel", "sm_80", registers=30, shared=2048)]


@pytest.mark.parametrize("lines", [3, 4, 5])
def test_a_log_that_breaks_off(lines: int) -> None:
    log = "\n".join(CUDA_13.splitlines()[:lines])
    with pytest.raises(ValueError, match=r"^no registers of \S+read_kernel\S+ for sm_90: the log is not complete"):
        ptxas.read(log)


def test_a_kernel_without_its_frame() -> None:
    log = CUDA_13.replace("    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n", "")
    with pytest.raises(ValueError, match=r"^no stack frame of \S+read_kernel"):
        ptxas.read(log)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void nnsym::cuda::ode::(anonymous namespace)::rk4<float, (nnsym::Kind)2>(nnsym::ode::Job)",
         "ode::rk4<float, (Kind)2>"),
        ("nnsym::cuda::plain(int, void (*)(int))", "plain"),
        ("void nnsym::cuda::a<void (*)(int)>(float)", "a<void (*)(int)>"),
        ("unmangled", "unmangled"),
    ],
)  # fmt: skip
def test_short_names(name: str, expected: str) -> None:
    assert ptxas.short(name) == expected


class TestFailures:
    def found(self, *patterns: str, frame: int = 0, architectures: tuple[str, ...] = ("sm_90",)) -> list[str]:
        return list(ptxas.failures(ptxas.read(CUDA_13), dict.fromkeys(patterns, frame), architectures))

    def test_none(self) -> None:
        assert self.found("limits::read_*") == []

    def test_a_spill_names_kernel_architecture_and_bytes(self) -> None:
        assert self.found("limits::*") == [
            "limits::multiply_add_kernel<double> for sm_90: 12 bytes of spill stores, 16 bytes of spill loads, "
            "8 bytes of stack frame, 0 allowed"
        ]

    def test_a_stack_frame_that_is_allowed(self) -> None:
        log = CUDA_13.replace("12 bytes spill stores, 16 bytes spill", "0 bytes spill stores, 0 bytes spill")
        assert list(ptxas.failures(ptxas.read(log), {"limits::*": 8}, ("sm_90",))) == []
        (line,) = ptxas.failures(ptxas.read(log), {"limits::*": 7}, ("sm_90",))
        assert line.endswith("8 bytes of stack frame, 7 allowed")

    def test_a_pattern_that_matches_nothing(self) -> None:
        (line,) = self.found("limits::read_kernel", "limits::gone<*>")
        assert line.startswith("limits::gone<*>: no kernel of this name; was it renamed?")

    def test_an_architecture_that_is_missing(self) -> None:
        assert self.found("limits::read_kernel", architectures=("sm_80", "sm_90")) == [
            "limits::multiply_add_kernel<double>: not compiled for sm_80",
            "limits::read_kernel: not compiled for sm_80",
        ]

    def test_an_empty_log(self) -> None:
        (line,) = ptxas.failures([], {}, ())
        assert line.startswith("no kernel in the log")


def test_the_table_marks_what_must_not_spill() -> None:
    header, chain, read = ptxas.table(ptxas.read(CUDA_13), ("limits::read_*",))
    assert header.split() == ["kernel", "arch", "registers", "stack", "spill", "stores", "spill", "loads", "shared"]
    assert chain.split() == ["limits::multiply_add_kernel<double>", "sm_90", "255", "8", "12", "16", "0"]
    assert read.split() == ["limits::read_kernel", "*", "sm_90", "32", "0", "0", "0", "1024"]


def test_the_summary_has_a_line_per_template() -> None:
    twice = CUDA_13 + CUDA_13.replace("kernelId", "kernelIf").replace("255 registers", "40 registers").replace(
        "12 b", "0 b"
    )
    header, _, chain, read = ptxas.summary(ptxas.read(twice), "sm_90")
    assert header == "| kernel | variants | registers | stack frame or spills |"
    assert chain == "| `limits::multiply_add_kernel` | 2 | 40 to 255 | 2 of 2, up to 20 bytes |"
    assert read == "| `limits::read_kernel` | 2 | 32 | none |"
    assert len(list(ptxas.summary(ptxas.read(twice), "sm_80"))) == 2


def run(tmp_path: Path, log: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "ptxas.log").write_text(log)
    command = [sys.executable, str(TOOLS / "ptxas.py"), str(tmp_path / "ptxas.log")]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_fails_with_the_reasons(tmp_path: Path) -> None:
    """The list's other families are not in this log."""
    done = run(tmp_path, CUDA_13)
    assert done.returncode == 1
    assert "limits::read_kernel *" in done.stdout
    assert "2 kernels, 1 of them with a stack frame or spills" in done.stdout
    assert "error: limits::multiply_add_kernel<double> for sm_90: 12 bytes of spill stores" in done.stderr
    assert "error: limits::read_kernel: not compiled for sm_80" in done.stderr


class TestCompileLog:
    """The launcher that keeps what a compiler says."""

    LOG = "ptxas info    : Used 1 registers\n    0 bytes stack frame, 0\nwarning: something\n"

    def compile(self, tmp_path: Path, code: int) -> subprocess.CompletedProcess[str]:
        script = f"import sys; sys.stderr.write({self.LOG!r}); sys.exit({code})"
        compiler = [sys.executable, "-c", script, "-o", str(tmp_path / "a.o")]
        command = [sys.executable, str(TOOLS / "compile_log.py"), *compiler]
        return subprocess.run(command, capture_output=True, text=True)

    def test_it_keeps_everything_and_prints_the_rest(self, tmp_path: Path) -> None:
        done = self.compile(tmp_path, 0)
        assert (done.returncode, done.stdout) == (0, "warning: something\n")
        assert (tmp_path / "a.o.log").read_text() == self.LOG

    def test_a_failure_leaves_no_log(self, tmp_path: Path) -> None:
        self.compile(tmp_path, 0)
        assert self.compile(tmp_path, 3).returncode == 3
        assert not (tmp_path / "a.o.log").exists()
