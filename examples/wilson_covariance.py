# SPDX-License-Identifier: MIT
"""The figure of docs/wilson-lines.md: gauge covariance of links, and of what discretisation makes of a gauge field.

A linear neural ODE x' = w(t) x on [0, 1] is transformed by g(t), with g = 1 at both ends, so that the map from x(0) to
x(1) must stay what it was. Links u_k = U(t_{k+1}, t_k) become g_{k+1} u_k g_k^-1, and their product stays to rounding
at any step size. Transforming w at points, g w g^-1 + g' g^-1, and taking Euler steps breaks that in proportion to dt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

import nnsym_fast as nf

Array = npt.NDArray[Any]
D = 4
EULER = "Euler steps, w transformed at points"


def field(t: Array) -> Array:
    """A gauge field w(t) that does not commute with itself, (n, D, D)."""
    a, b, c = np.random.default_rng(0).normal(size=(3, D, D))
    return a + np.cos(3 * t)[:, None, None] * b + np.sin(5 * t)[:, None, None] * c


def gauge(t: Array) -> tuple[Array, Array]:
    """g(t) = exp(s(t) m) with s = sin^2(pi t), and its derivative."""
    m = np.random.default_rng(1).normal(size=(D, D))
    s, s_dot = np.sin(np.pi * t) ** 2, np.pi * np.sin(2 * np.pi * t)
    g = nf.wilson.expm(s[:, None, None] * m)
    return g, s_dot[:, None, None] * (m @ g)


def change(a: Array, b: Array) -> float:
    """Relative change of a matrix."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def violations(steps: int) -> dict[str, float]:
    """Relative change of the map x(0) -> x(1) under the gauge transformation, by what is transformed."""
    dt = 1 / steps
    w = field(nf.wilson.gauss_nodes(0.0, 1.0, steps))
    links = nf.wilson.expm(w * dt)
    sites, _ = gauge(np.linspace(0, 1, steps + 1))
    moved = nf.wilson.gauge_transform(links, sites)

    starts = np.arange(steps) * dt
    g, g_dot = gauge(starts)
    inverse = np.linalg.inv(g)
    pointwise = g @ field(starts) @ inverse + g_dot @ inverse
    euler = nf.wilson.ordered_product(np.eye(D) + dt * field(starts))
    return {
        "links": change(nf.wilson.ordered_product(moved), nf.wilson.ordered_product(links)),
        EULER: change(nf.wilson.ordered_product(np.eye(D) + dt * pointwise), euler),
    }


def network_changes(seeds: int) -> tuple[Array, Array]:
    """A deep linear network of ten layers: relative changes of its weights and of its map, for random gauges."""
    rng = np.random.default_rng(2)
    weights = np.eye(D) + 0.3 * rng.normal(size=(10, D, D))
    g = np.broadcast_to(np.eye(D), (seeds, 11, D, D)) + 0.0
    g[:, 1:-1] = nf.wilson.expm(0.5 * rng.normal(size=(seeds, 9, D, D)))
    moved = nf.wilson.gauge_transform(weights, g)
    before, after = nf.wilson.ordered_product(weights), nf.wilson.ordered_product(moved)
    each = np.linalg.norm(moved - weights, axis=(-2, -1)) / np.linalg.norm(weights, axis=(-2, -1))
    return each, np.linalg.norm(after - before, axis=(-2, -1)) / np.linalg.norm(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "wilson-lines.png")
    out = parser.parse_args().out
    steps = [2**k for k in range(3, 12)]
    found = [violations(n) for n in steps]
    weights, maps = network_changes(200)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.boxplot(weights, positions=range(1, 11), widths=0.6, showfliers=False)
    left.axhline(np.median(maps), color="C3", label="the network's map (median)")
    left.set(yscale="log", xlabel="layer", ylabel="relative change", title="200 gauges of one ten-layer linear network")
    left.set_ylim(1e-17, 10)
    left.legend(loc="center right")
    dt = 1 / np.array(steps)
    for name, style in (("links", "oC3"), (EULER, "sC0")):
        right.loglog(dt, [entry[name] for entry in found], style, label=name)
    euler = found[-1][EULER]
    right.loglog(dt, euler * dt / dt[-1], "--", color="C0", linewidth=1, label="proportional to dt")
    right.set(xlabel="step dt", ylabel="relative change of x(0) → x(1)", title="A linear neural ODE, gauge transformed")
    right.legend()
    figure.savefig(out, dpi=110)

    slope = np.polyfit(np.log(dt[-4:]), np.log([e[EULER] for e in found[-4:]]), 1)[0]
    print(f"weights change by {np.median(weights):.2g}, the network's map by {maps.max():.1e} at most")
    print(f"links: the map changes by {max(e['links'] for e in found):.1e} at most, at any dt")
    print(f"Euler steps: the map changes in proportion to dt^{slope:.2f}")


if __name__ == "__main__":
    main()
