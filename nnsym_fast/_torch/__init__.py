# SPDX-License-Identifier: MIT
"""Torch: its tensors at the boundary, and the torch operators. Imported when a torch tensor first arrives."""

from __future__ import annotations

from nnsym_fast._torch.framework import FRAMEWORK, framework_of, needs_grad
from nnsym_fast._torch.matrices import MATRICES
from nnsym_fast._torch.ode import ODE
from nnsym_fast._torch.orbit import OrbitDataset, _touched, differentiable_act

__all__ = [
    "FRAMEWORK",
    "MATRICES",
    "ODE",
    "OrbitDataset",
    "_touched",
    "differentiable_act",
    "framework_of",
    "needs_grad",
]
