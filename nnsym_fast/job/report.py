# SPDX-License-Identifier: MIT
"""The report of a finished store: an HTML page, pictures, and a table of numbers that do not depend on the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.groups import Group
from nnsym_fast.job.checkpoint import Array
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.figures import MAX_ROWS, draw_distances, draw_function, draw_networks, draw_norms, draw_position
from nnsym_fast.job.inspect import describe_group
from nnsym_fast.job.observables import FunctionGap
from nnsym_fast.job.page import SUMMARY, Section, render
from nnsym_fast.job.projection import project_networks, project_position
from nnsym_fast.job.store import Store
from nnsym_fast.job.verify import ALLOWED

__all__ = ["PAGE", "SUMMARY", "write_report"]

Floats: TypeAlias = npt.NDArray[np.float64]

PAGE = "index.html"
TOTAL = "all together"

MAX_POINTS = 100_000
"""Points whose norms and distances are drawn: points are independent draws, so the first ones are a fair sample."""

POSITION_POINTS = 5_000
POSITION_BYTES = 64 << 20
"""Limits of the group elements that are drawn to show one position of a layer."""

PROJECTED_POINTS = 500
PROJECTED_BYTES = 128 << 20
"""Limits of the whole networks that are projected; these are held in memory at once."""

CONTROLS = 20
"""Random steps that the change of the function along the orbit is compared with."""


def write_report(store: Store, out: str | Path) -> Path:
    """Draw a finished store.

    Args:
        store: the store; every block complete.
        out: directory for the page ``index.html``, its PNGs and ``summary.json``; made if missing, files overwritten.

    Returns:
        The path of the page.

    Raises:
        JobError: the store is unfinished, matplotlib is missing, or the directory cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise JobError('the report needs matplotlib; install it with pip install "nnsym_fast[job]"') from None
    if pending := store.pending():
        raise JobError(
            f"{store.path}: {len(pending)} of {store.plan.blocks} blocks are missing; run the same sample command "
            "again first"
        )
    directory = Path(out)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        summary = _summary(store)
        sections = [
            *_norm_section(store, directory, summary),
            *_distance_section(store, directory, summary),
            *_function_section(store, directory, summary),
            *_projection_sections(store, directory),
        ]
        (directory / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        page = directory / PAGE
        page.write_text(render(store, summary, sections), encoding="utf-8")
    except OSError as error:
        raise JobError(f"{directory}: the report cannot be written ({error.strerror})") from None
    return page


def _three(value: float) -> float:
    """Three significant digits: what every machine agrees on."""
    return float(f"{value:.3g}")


def _spread(values: Floats) -> dict[str, float]:
    return {
        key: _three(q)
        for key, q in zip(("smallest", "median", "largest"), np.quantile(values, [0, 0.5, 1]), strict=True)
    }


def _summary(store: Store) -> dict[str, Any]:
    plan = store.plan
    sizes = {tensor.name: int(np.prod(tensor.shape, dtype=np.int64)) for tensor in plan.tensors}
    return {
        "checkpoint": plan.checkpoint,
        "sha256": plan.sha256,
        "identity": plan.fingerprint(),
        "version": plan.version,
        "seed": plan.seed,
        "samples": plan.samples,
        "parameters": sum(size for name, size in sizes.items() if name not in plan.spec.state),
        "sites": {name: _group(group) for name, group in plan.spec.sites.items()},
        "dimension": plan.spec.dimension,
        "log10_discrete_order": _three(plan.spec.log_order / math.log(10)),
    }


def _group(group: Group) -> str:
    return f"{describe_group(group)}; {group.size:,} units"


def _ratios(store: Store, name: str) -> dict[str, Floats]:
    """An observable relative to the base network's norms, for the tensors that the group moves and all together."""
    array = store.array(f"observables/{name}")
    values = np.asarray(array[:MAX_POINTS])
    attributes: Any = array.attrs.asdict()
    spec = store.plan.spec
    moved = [tensor for tensor in store.plan.tensors if spec.touched(tensor.name) and tensor.name not in spec.state]
    largest = sorted(moved, key=lambda tensor: -tensor.nbytes)[:MAX_ROWS]
    labels = {tensor.name: tensor.name for tensor in largest} | {"total": TOTAL}
    return {
        labels[column]: values[:, number] / base
        for number, (column, base) in enumerate(zip(attributes["columns"], attributes["base"], strict=True))
        if base > 0 and column in labels
    }


def _absent(title: str, name: str) -> list[Section]:
    text = f"This store does not hold the observable “{name}”; sample with --observables {name}."
    return [Section(title, None, text)]


def _norm_section(store: Store, directory: Path, summary: dict[str, Any]) -> list[Section]:
    title = "How large are the weights along the orbit?"
    if "norm" not in store.plan.observables:
        return _absent(title, "norm")
    ratios = _ratios(store, "norm")
    total = ratios[TOTAL]
    summary["norm_ratio"] = _spread(total)
    draw_norms(directory / "norms.png", ratios)
    text = (
        "L2 norm of each tensor, divided by its norm in the starting network (1, red line). Bar: middle half of the "
        "points; line: 5 % to 95 %; tick: median; dots: extremes. Tensors that the symmetry does not touch are left "
        "out. "
    )
    if np.ptp(total) < 1e-3:
        text += "Every point has the norm of the starting network: the group only exchanges and flips units."
    else:
        text += (
            f"The norm of the whole network runs from {total.min():.3g} to {total.max():.3g} times that of the "
            "starting network. A norm of the weights is therefore no property of the function: weight decay prefers "
            "one point of the orbit among many that compute the same."
        )
    return [Section(title, "norms.png", text)]


def _distance_section(store: Store, directory: Path, summary: dict[str, Any]) -> list[Section]:
    title = "How far apart are networks that compute the same function?"
    if "distance" not in store.plan.observables:
        return _absent(title, "distance")
    ratios = _ratios(store, "distance")
    total = ratios[TOTAL]
    median = float(np.median(total))
    summary["distance_ratio"] = _spread(total)
    draw_distances(directory / "distances.png", total, ratios)
    text = (
        "L2 distance of each point from the starting network, in units of the starting network's norm. Two unrelated "
        "networks of equal norm are √2 ≈ 1.41 apart (dashed). Half of the points are farther than "
        f"{median:.3g} norms away and none is nearer than {total.min():.3g}"
    )
    text += ": in weight space these networks look unrelated." if median > 1.3 and total.min() > 1 else "."
    return [Section(title, "distances.png", text)]


def _function_section(store: Store, directory: Path, summary: dict[str, Any]) -> list[Section]:
    title = "Do they compute the same function?"
    if "function" not in store.plan.observables:
        return _absent(title, "function")
    attributes: Any = store.array("observables/function").attrs.asdict()
    arithmetic, rounding = (float(attributes[key]["rms"]) for key in ("arithmetic", "rounding"))
    columns, values = list(attributes["columns"]), store.observable("function")
    gaps = values[:, columns.index("rms")]
    ratios = gaps / (values[:, columns.index("rounding")] if "rounding" in columns else rounding)
    different = int((~(ratios <= ALLOWED)).sum())  # counts gaps that are not numbers too
    summary["same_function"] = different == 0
    control = _control(store)
    draw_function(
        directory / "function.png", gaps[:MAX_POINTS], ratios[:MAX_POINTS], arithmetic, rounding, ALLOWED, control
    )
    text = (
        f"Change of the outputs on {attributes['probes']} probe inputs, root mean square over the inputs, against an "
        "evaluation of the starting network in float64 and relative to the size of the outputs. The starting network "
        f"in its own precision is off by {arithmetic:.1e} (red), and by {rounding:.1e} if its weights are rounded "
        "anew, as those of every other point are: smaller changes mean nothing. "
    )
    if different:
        text += (
            f"{different:,} of {len(gaps):,} points exceed {ALLOWED:g} times that: they do NOT compute the same "
            "function; the spec does not describe this network. "
        )
    else:
        text += (
            f"The worst of {len(gaps):,} points is off by {gaps[np.argmax(ratios)]:.1e}, {ratios.max():.2f} times as "
            "much: every point computes the same function. "
        )
    if control is not None:
        text += (
            f"Right, for comparison: {len(control)} steps of the same length in random directions change the function "
            f"by {control.min():.2g} to {control.max():.2g} times the size of the outputs."
        )
    return [Section(title, "function.png", text)]


def _control(store: Store) -> Floats | None:
    """Change of the function after steps as long as those of the first points, per tensor, in random directions."""
    spec, checkpoint = store.plan.spec, store.checkpoint()
    count = min(CONTROLS, store.plan.samples, max(1, PROJECTED_BYTES // max(1, store.plan.sample_bytes)))
    random = np.random.default_rng(0)
    moved: dict[str, Array] = {}
    for name, values in _points(store, count).items():
        base = checkpoint.params[name]
        # State stays that of the starting network: a running variance must remain positive.
        moved[name] = np.broadcast_to(base, values.shape)
        if spec.touched(name) and name not in spec.state:
            axes = tuple(range(1, values.ndim))
            direction = random.standard_normal(values.shape)
            direction /= np.sqrt(np.square(direction).sum(axis=axes, keepdims=True))
            length = np.sqrt(np.square(values.astype(np.float64) - base).sum(axis=axes, keepdims=True))
            moved[name] = (base + length * direction).astype(base.dtype)
    rms = FunctionGap(checkpoint)(moved)[:, 1]
    return rms if np.isfinite(rms).all() else None


def _points(store: Store, count: int) -> Mapping[str, Array]:
    """The first points: from the store, or computed again if it was written without them."""
    if store.plan.points:
        return store.points(0, count)
    return store.checkpoint().orbit(store.plan.seed).points(0, count)


def _projection_sections(store: Store, directory: Path) -> list[Section]:
    plan = store.plan
    title = "The orbit, projected on a plane"
    count = min(PROJECTED_POINTS, plan.samples, PROJECTED_BYTES // max(1, plan.sample_bytes))
    if count < 3 or not plan.spec.sites or not store.holds_network:
        return [Section(title, None, "Not drawn: it takes a symmetry, and three points that fit into memory.")]
    base = store.base()
    plane = project_networks(_points(store, count), base, plan.spec)
    distances = _ratios(store, "distance")[TOTAL][:count] if "distance" in plan.observables else None
    draw_networks(directory / "orbit.png", plane, distances)
    text = (
        f"Each dot is a whole network, one of the first {count:,} points; the star is the starting network. Left: seen "
        "from the side, how much of the starting network is left in each point (median "
        f"{float(np.median(plane.against_base[:, 0])):.2f}; it has 1 itself). Right: the plane in which these points "
        f"differ most. It holds {sum(plane.explained):.1%} of their spread, which takes about {plane.effective:.0f} "
        f"directions of the {count - 1:,} that so many points can show. "
    )
    if plane.effective > 0.1 * count:
        text += (
            "The orbit is no curve or cluster: it fills a high-dimensional surface, on which the starting network is "
            "nothing special."
        )
    else:
        text += "A few directions dominate: a small symmetry group leaves visible structure."
    return [Section(title, "orbit.png", text), *_position_section(store, base, directory)]


def _position_section(store: Store, base: Mapping[str, Array], directory: Path) -> list[Section]:
    plan = store.plan
    each = sum(16 * group.size * (group.head_size if group.dense else 1) for group in plan.spec.sites.values())
    count = min(plan.samples, POSITION_POINTS, max(1, POSITION_BYTES // each))
    position = project_position(store.checkpoint().orbit(plan.seed).elements(0, count), base, plan.spec)
    if position is None:
        return []
    draw_position(directory / "position.png", position)
    text = (
        f"Incoming weights of the unit at position 0 of site {position.site} (row 0 of {position.tensor}), one dot for "
        f"each of {count:,} points of the orbit, in the plane of the two main directions of that tensor. Coloured: a "
        f"few of the {len(position.units):,} units of the starting network (circles) that are easily told apart; star: "
        "the one that stands at position 0 there. "
    )
    if position.scaled and position.signed:
        text += "Each dot lies on the line of one unit: the unit may be any, stretched and flipped."
    elif position.scaled:
        text += (
            "Each dot lies on the ray of one unit: which unit stands at position 0 is arbitrary (a permutation), and "
            "so is its length (a rescaling that the next layer undoes). Only its direction means something."
        )
    elif position.signed:
        text += "Each dot coincides with a circle or its mirror image: the unit may be any, and flipped."
    else:
        text += "Each dot coincides with a circle: which unit stands there is arbitrary, its weights are not."
    return [Section("One position of a layer, seen along the orbit", "position.png", text)]
