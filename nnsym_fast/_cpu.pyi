# SPDX-License-Identifier: MIT
"""Types of the compiled module (csrc/bindings)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

DRAW_PART: dict[str, int]
DRAW_SHIFT: int
MAX_OUTER: int
DENSE_KIND: dict[str, int]
TAYLOR: dict[str, list[tuple[int, float]]]
LARGEST_LANES: list[int]
LARGEST_TILES: list[int]
TILES_AT: int

Use = tuple[int, bool, float, int]
Loop = tuple[int, int, int, Use]
Block = tuple[int, int, list[Loop], int, Use, int, int]
Site = tuple[int, int, int, int, bool, bool, bool, bool, float]
Buffer = npt.NDArray[Any] | int | None

def isas() -> list[str]: ...
def isa() -> str: ...
def select_isa(name: str) -> bool: ...
def thread_count() -> int: ...
def set_thread_count(n: int) -> None: ...
def threads_available() -> bool: ...
def forked_process() -> bool: ...
def empty(nbytes: int) -> npt.NDArray[np.uint8]: ...
def release_memory() -> None: ...
def stream_write(out: npt.NDArray[Any]) -> None: ...
def stream_copy(out: npt.NDArray[Any], source: npt.NDArray[Any]) -> None: ...
def math_float(op: int, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]: ...
def math_double(op: int, x: npt.NDArray[Any]) -> npt.NDArray[np.float64]: ...
def philox(seed: int, sample: int, site: Sequence[int], draw: Sequence[int]) -> npt.NDArray[np.uint32]: ...

Array = npt.NDArray[Any]

def dense_draw(
    float64: bool,
    kind: int,
    heads: int,
    size: int,
    haar: int,
    pairs: int,
    interleaved: bool,
    scale_std: float,
    site: int,
    seed: int,
    first: int,
    step: int,
    count: int,
    matrix: Array,
    inverse: Array,
) -> None: ...
def normals(
    float64: bool, site: int, part: int, seed: int, first: int, step: int, count: int, blocks: int, out: Array
) -> Array: ...
def dense_apply(float64: bool, samples: int, passes: Sequence[tuple[Any, ...]]) -> None: ...
def copy(samples: int, copies: Sequence[tuple[Buffer, int, Buffer, int]]) -> None: ...
def phi4_run(
    float64: bool,
    shape: Sequence[int],
    components: int,
    m2: float,
    coupling: float,
    kick: Sequence[float],
    drift: Sequence[float],
    step: Sequence[float],
    seed: int,
    number: Sequence[int],
    first: int,
    trajectories: int,
    fields: Array,
    change: Array,
    outcome: Array,
    observables: Array,
) -> None: ...
def lanes(wide: bool) -> int: ...
def multiply_add(float64: bool, count: int) -> float: ...
def wilson_forward(
    kind: int,
    tiles: bool,
    w: Array,
    dt: Array | None,
    x0: Array | None,
    b: Array | None,
    out: Array,
    exponent: Array | None,
    order: int,
    segments: int,
    every: bool,
    first: bool,
) -> None: ...
def wilson_backward(
    kind: int,
    tiles: bool,
    w: Array,
    dt: Array | None,
    x0: Array | None,
    states: Array | None,
    shift: Array | None,
    grad: Array,
    gw: Array,
    gdt: Array | None,
    gx0: Array | None,
    order: int,
) -> None: ...
def wilson_derivative(kind: int, tiles: bool, a: Array, tangent: Array, out: Array) -> None: ...

class OrbitPlan:
    def __init__(
        self, float64: bool, sites: Sequence[Site], blocks: Sequence[Block], tensor_bytes: Sequence[int]
    ) -> None: ...
    def run(
        self,
        sources: list[Buffer],
        outs: list[Buffer],
        stacked: bool,
        seed: int,
        first: int,
        step: int,
        count: int,
        elements: list[tuple[Buffer, Buffer, Buffer]] | None,
    ) -> None: ...
    def elements(
        self, seed: int, first: int, step: int, count: int, outs: list[tuple[Buffer, Buffer, Buffer]]
    ) -> None: ...

class OdeMethod:
    def __init__(
        self,
        a: Sequence[Sequence[float]],
        b: Sequence[float],
        c: Sequence[float],
        error: Sequence[Sequence[float]],
        dense: Sequence[Sequence[float]],
        error_order: int,
        fsal: bool,
        extra_cost: int,
    ) -> None: ...

class OdeField:
    def __init__(
        self,
        kind: int,
        time: int,
        widths: Sequence[int],
        activations: Sequence[int],
        values: Sequence[float],
        knots: Sequence[float],
    ) -> None: ...
    parameters: int
    d: int

def ode_run(
    operation: int,
    field: OdeField,
    tableau: OdeMethod | None,
    parameters: Array,
    y0: Array,
    t: Array,
    steps: Array | None = None,
    result: Array | None = None,
    breaks: Array | None = None,
    jumps: Array | None = None,
    rtol: Array | None = None,
    atol: Array | None = None,
    control: Sequence[float] = (),
    event: Array | None = None,
    event_value: float = 0.0,
    event_direction: int = 0,
    cotangent: Array | None = None,
    ys: Array | None = None,
    y_end: Array | None = None,
    t_end: Array | None = None,
    status: Array | None = None,
    stats: Array | None = None,
    grad: Array | None = None,
    checkpoints: int = 0,
    gy: Array | None = None,
    gparameters: Array | None = None,
    gt: Array | None = None,
    states: Array | None = None,
    given: Array | None = None,
) -> None: ...
def ode_lanes(float64: bool) -> int: ...
def activate(code: int, what: int, x: Array, parameter: float) -> Array: ...
def activation_rate(float64: bool, code: int, count: int) -> float: ...
