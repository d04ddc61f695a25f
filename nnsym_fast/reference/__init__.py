# SPDX-License-Identifier: MIT
"""The definitions in plain NumPy: the same names and arguments as the fast functions, written to be read."""

from __future__ import annotations

from nnsym_fast.reference.orbit import (
    SiteArrays,
    act,
    augment,
    compose,
    compose_site,
    identity,
    identity_site,
    inverse,
    inverse_site,
    orbit_points,
    sample,
    sample_site,
)
from nnsym_fast.reference.philox import philox4x32, words

__all__ = [
    "SiteArrays",
    "act",
    "augment",
    "compose",
    "compose_site",
    "identity",
    "identity_site",
    "inverse",
    "inverse_site",
    "orbit_points",
    "philox4x32",
    "sample",
    "sample_site",
    "words",
]
