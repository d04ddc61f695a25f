# SPDX-License-Identifier: MIT
"""Links on a two-dimensional lattice (layer x direction): the curvature of a gauge field on its plaquettes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsym_fast._matrices import Backend, backend_of, check_links

__all__ = ["plaquettes"]


def plaquettes(u: Any, *, periodic: Sequence[bool] = (False, False)) -> Any:
    """Ordered products of links round the unit squares of a lattice.

    Plaquette (i, j) is ``u1(i,j)^-1 u0(i,j+1)^-1 u1(i+1,j) u0(i,j)``: from site (i, j) along direction 0, along 1, back
    along 0, back along 1. With ``u -> g_end u g_start^-1`` it becomes ``g(i,j) P g(i,j)^-1``, so its trace is the same
    in every gauge; it is 1 where the connection is flat (Wilson 1974).

    Args:
        u: ``(..., L0, L1, 2, d, d)``: ``u[..., i, j, mu, :, :]`` is the link from site (i, j) one step in direction mu,
            to (i + 1, j) for mu = 0 and to (i, j + 1) for mu = 1.
        periodic: for each direction whether its last site is followed by its first. Links that leave an open lattice
            are not read.

    Returns:
        ``(..., P0, P1, d, d)``, with P = L in a periodic direction, else L - 1.

    Raises:
        TypeError: another dtype than float32, float64, complex64, complex128.
        ValueError: shapes that do not fit, another device, or singular links (on a CUDA device, where a check would
            wait for it, their plaquettes become NaN).

    >>> import numpy as np, nnsym_fast as nf
    >>> g = np.random.default_rng(0).normal(size=(3, 4, 2, 2))
    >>> u = np.zeros((3, 4, 2, 2, 2))
    >>> u[:-1, :, 0] = g[1:] @ np.linalg.inv(g[:-1])  # links of a flat connection
    >>> u[:, :-1, 1] = g[:, 1:] @ np.linalg.inv(g[:, :-1])
    >>> bool(np.allclose(nf.lattice.plaquettes(u), np.eye(2)))
    True
    """
    backend, (links,) = backend_of(u=u)
    check_links("u", links.shape, ("L0", "L1", "2"))
    if links.shape[-3] != 2:
        raise ValueError(f"u: expected shape (..., L0, L1, 2, d, d), two links per site, got {tuple(links.shape)}")
    if links.shape[-5] < 1 or links.shape[-4] < 1:
        raise ValueError(f"u: expected at least one site in either direction, got {tuple(links.shape)}")
    if not isinstance(periodic, (tuple, list)) or len(periodic) != 2:
        raise ValueError(f"periodic: expected a pair of booleans, one per direction, got {periodic!r}")
    wrap0, wrap1 = bool(periodic[0]), bool(periodic[1])
    u0, u1 = links[..., 0, :, :], links[..., 1, :, :]
    if not wrap0:
        u0, u1_next = u0[..., :-1, :, :, :], u1[..., 1:, :, :, :]
        u1 = u1[..., :-1, :, :, :]
    else:
        u1_next = _next(backend, u1, -4)
    if not wrap1:
        u0_next, u0 = u0[..., 1:, :, :], u0[..., :-1, :, :]
        u1, u1_next = u1[..., :-1, :, :], u1_next[..., :-1, :, :]
    else:
        u0_next = _next(backend, u0, -3)
    return backend.contiguous(backend.solve("u", backend.multiply(u0_next, u1), backend.multiply(u1_next, u0)))


def _next(backend: Backend, links: Any, axis: int) -> Any:
    """At every site the link of the next one, round the end."""
    return backend.xp.roll(links, -1, axis)
