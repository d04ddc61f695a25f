# SPDX-License-Identifier: MIT
"""What all tests share: the instruction sets of the machine, the devices, and the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

import nnsym_fast as nf
from nnsym_fast import _device
from nnsym_fast._native import cpu

# A machine under load may need long for one example; a speed claim is a benchmark, not a deadline.
settings.register_profile("nnsym_fast", deadline=None)
settings.load_profile("nnsym_fast")


@pytest.fixture(params=cpu.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine can run, one after another."""
    before = cpu.isa()
    assert cpu.select_isa(request.param)
    yield request.param
    cpu.select_isa(before)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; OpenMP's own choice comes back afterwards."""
    yield nf.set_num_threads
    nf.set_num_threads(None)


DEVICES = [
    pytest.param("emulated", id="emulated"),
    pytest.param(
        "cuda",
        id="cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
        ],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the CUDA kernels run: on the CPU, which emulates them, and on a GPU."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    with _device.emulated():
        yield torch.device("cpu")


@pytest.fixture(params=["cpu", *DEVICES])
def any_device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The CPU's own kernels, and those of :func:`device`."""
    if request.param == "emulated":
        with _device.emulated():
            yield torch.device("cpu")
    else:
        yield torch.device(request.param)
