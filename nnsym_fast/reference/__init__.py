# SPDX-License-Identifier: MIT
"""The definitions in plain NumPy: the same names and arguments as the fast functions, written to be read."""

from __future__ import annotations

from nnsym_fast.reference.fields import (
    conformal_metric,
    geodesic,
    linear,
    linear_vjp,
    mlp,
    mlp_metric,
    mlp_vjp,
)
from nnsym_fast.reference.ode import odeint, solve
from nnsym_fast.reference.ode_gradients import gradient, odeint_adjoint
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
from nnsym_fast.reference.wilson import (
    affine_flow,
    cumulative_product,
    expm,
    expm_frechet,
    gauge_transform,
    gauss_nodes,
    ordered_product,
    plaquettes,
    reunitarize,
    wilson_line,
    wilson_loop,
)

__all__ = [
    "SiteArrays",
    "act",
    "affine_flow",
    "augment",
    "compose",
    "compose_site",
    "conformal_metric",
    "cumulative_product",
    "expm",
    "expm_frechet",
    "gauge_transform",
    "gauss_nodes",
    "geodesic",
    "gradient",
    "identity",
    "identity_site",
    "inverse",
    "inverse_site",
    "linear",
    "linear_vjp",
    "mlp",
    "mlp_metric",
    "mlp_vjp",
    "odeint",
    "odeint_adjoint",
    "orbit_points",
    "ordered_product",
    "philox4x32",
    "plaquettes",
    "reunitarize",
    "sample",
    "sample_site",
    "solve",
    "wilson_line",
    "wilson_loop",
    "words",
]
