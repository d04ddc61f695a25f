# SPDX-License-Identifier: MIT
"""Lattice field theory beside the networks: the models whose phases the dynamics of learning is compared with."""

from __future__ import annotations

from nnsym_fast.physics import on_model
from nnsym_fast.physics._statistics import Estimate, autocorrelation, estimate

__all__ = ["Estimate", "autocorrelation", "estimate", "on_model"]
