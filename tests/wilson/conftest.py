# SPDX-License-Identifier: MIT
"""One BLAS thread for the judges: threads of several pools take milliseconds to meet over a matrix of size 2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="package")
def one_blas_thread() -> Iterator[None]:
    with threadpool_limits(limits=1, user_api="blas"):
        yield
