# SPDX-License-Identifier: MIT
"""Instruction sets and threads: what is chosen, how it is overridden, and what show_config says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from orbit_cases import Params, assert_same_bits, mlp, wrong

import nnsym_fast as nf
from nnsym_fast import _native
from nnsym_fast._native import cpu


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    names = ("NNSYM_FAST_ISA", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


SHOW = "import nnsym_fast as nf; from nnsym_fast._native import cpu; print(cpu.isa())"


def test_the_baseline_runs_everywhere_and_the_best_comes_first() -> None:
    names = cpu.isas()
    assert names[-1] == "baseline"
    assert len(set(names)) == len(names)
    assert set(names) <= set(_native.ISA_NAMES)
    assert python(SHOW).stdout.strip() == names[0]


@pytest.mark.parametrize("name", cpu.isas())
def test_the_variable_chooses(name: str) -> None:
    assert python(SHOW, NNSYM_FAST_ISA=name).stdout.strip() == name


def test_an_empty_variable_is_no_choice() -> None:
    assert python(SHOW, NNSYM_FAST_ISA="").stdout.strip() == cpu.isas()[0]


@pytest.mark.parametrize("name", ["bogus", "AVX2", " avx2", "avx512,avx2"])
def test_an_unknown_name_is_refused_with_the_choices(name: str) -> None:
    done = python(SHOW, NNSYM_FAST_ISA=name)
    choices = ", ".join(cpu.isas())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ValueError: NNSYM_FAST_ISA: unknown instruction set {name!r}; expected one of: {choices}; or unset it"
    )


def test_a_name_of_another_machine_is_refused_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldMachine:
        def isas(self) -> list[str]:
            return ["baseline"]

        def select_isa(self, name: str) -> bool:
            return name == "baseline"

    monkeypatch.setattr(_native, "cpu", OldMachine())
    _native._select_isa("baseline")
    message = "NNSYM_FAST_ISA: this machine cannot run 'avx512'; expected one of: baseline; or unset it"
    with pytest.raises(ValueError, match=message):
        _native._select_isa("avx512")


def test_a_refused_name_changes_nothing(isa: str) -> None:
    assert not cpu.select_isa("bogus")
    assert cpu.isa() == isa


def test_instruction_sets_agree() -> None:
    """Permutations and signs bit for bit, floats to a few ulp: each against the first, on one network."""
    spec, params = mlp([9, 170, 33, 3])
    points: list[Params] = []
    elements = []
    before = cpu.isa()
    for name in cpu.isas():
        cpu.select_isa(name)
        points.append(nf.Orbit(params, spec)[0:20])
        elements.append(spec.sample(20))
    cpu.select_isa(before)
    for other_points, other_elements in zip(points[1:], elements[1:], strict=True):
        for site in spec.sites:
            np.testing.assert_array_equal(other_elements[site].perm, elements[0][site].perm)
        for name, array in points[0].items():
            np.testing.assert_allclose(other_points[name], array, rtol=1e-5)


# --- threads


def test_the_number_of_threads(threads: Callable[[int], None]) -> None:
    automatic = nf.get_num_threads()
    assert automatic >= 1
    for number in (1, 2, 5, 4096):
        threads(number)
        assert nf.get_num_threads() == (number if cpu.threads_available() else 1)
    nf.set_num_threads(None)
    assert nf.get_num_threads() == automatic


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (0, ValueError, "n: expected 1 to 4096 threads, or None for OpenMP's default, got 0"),
        (-2, ValueError, "n: expected 1 to 4096 threads, .* got -2"),
        (4097, ValueError, "n: expected 1 to 4096 threads, .* got 4097"),
        (1.5, TypeError, "n: expected an integer or None, got 1.5 of type float"),
        ("2", TypeError, "n: expected an integer or None, got '2' of type str"),
    ],
)
def test_wrong_numbers_of_threads(number: Any, error: type[Exception], message: str) -> None:
    before = nf.get_num_threads()
    with pytest.raises(error, match=message):
        nf.set_num_threads(wrong(number))
    assert nf.get_num_threads() == before


needs_openmp = pytest.mark.skipif(not cpu.threads_available(), reason="built without OpenMP")


@needs_openmp
@pytest.mark.parametrize("number", ["1", "3"])
def test_openmp_s_variable_is_respected(number: str) -> None:
    done = python("import nnsym_fast as nf; print(nf.get_num_threads())", OMP_NUM_THREADS=number)
    assert done.stdout.strip() == number


@needs_openmp
def test_threadpoolctl_is_respected() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = nf.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert nf.get_num_threads() == 1
    assert nf.get_num_threads() == before
    with threadpoolctl.threadpool_limits(3, user_api="openmp"):
        assert nf.get_num_threads() == 3


@needs_openmp
def test_more_threads_than_cores_and_threads_of_threads(threads: Callable[[int], None]) -> None:
    spec, params = mlp([9, 70, 33, 3])
    orbit = nf.Orbit(params, spec)
    threads(1)
    expected = orbit[0:100]
    threads(9)
    assert_same_bits(orbit[0:100], expected)
    results: list[Params] = []
    workers = [threading.Thread(target=lambda: results.append(orbit[0:100])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for points in results:
        assert_same_bits(points, expected)


FORK = """
import os, nnsym_fast as nf
from nnsym_fast._native import config
spec = nf.specs.mlp([9, 70, 3])
import numpy as np
orbit = nf.Orbit({n: np.ones(s) for n, s in nf.specs.shapes(nf.specs.mlp_layers([9, 70, 3])).items()}, spec)
nf.set_num_threads(2)
expected = orbit[0:500]
child = os.fork()
if child == 0:
    same = all(np.array_equal(orbit[0:500][name], expected[name]) for name in expected)
    os._exit(0 if same and nf.get_num_threads() == 1 and "forked" in config()["threads"] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_runs_on_one_thread() -> None:
    """OpenMP does not survive a fork: the child computes, instead of waiting for threads that it has not."""
    assert python(FORK).stdout.strip() == "0"
