# SPDX-License-Identifier: MIT
"""Tables that write a SymmetrySpec for a network: from its widths, from its layers as data, or from a torch module."""

from __future__ import annotations

from nnsym_fast.specs.layers import shapes
from nnsym_fast.specs.mlp import mlp, mlp_layers
from nnsym_fast.specs.network import evaluate
from nnsym_fast.specs.sequential import describe, sequential
from nnsym_fast.specs.sites import from_layers

__all__ = ["describe", "evaluate", "from_layers", "mlp", "mlp_layers", "sequential", "shapes"]
