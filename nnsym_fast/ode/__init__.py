# SPDX-License-Identifier: MIT
"""Neural ODEs: vector fields that run inside the kernel, and the solution of their initial value problems."""

from __future__ import annotations

from nnsym_fast.ode.equations import Geodesic, Linear
from nnsym_fast.ode.fields import MLP, Field
from nnsym_fast.ode.results import Event, Solution, Status
from nnsym_fast.ode.solve import NotCompiledWarning, odeint, odeint_adjoint, solve
from nnsym_fast.tableaus import METHODS

__all__ = [
    "METHODS",
    "MLP",
    "Event",
    "Field",
    "Geodesic",
    "Linear",
    "NotCompiledWarning",
    "Solution",
    "Status",
    "odeint",
    "odeint_adjoint",
    "solve",
]
