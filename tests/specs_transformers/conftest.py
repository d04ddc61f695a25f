# SPDX-License-Identifier: MIT
"""One thread for models that are too small for two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import nnsym_fast as nf


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    nf.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    nf.set_num_threads(None)
