# SPDX-License-Identifier: MIT
"""Weight matching: hidden elements are recovered, and where the minimum can be had otherwise it is the one found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from canonical_cases import CASES, Params, block, mlp, points, random, recurrent
from scipy.linalg import expm, orthogonal_procrustes
from scipy.optimize import minimize

import nnsym_fast as nf
from nnsym_fast import groups, specs
from nnsym_fast.gauge_fixing import distance, match
from nnsym_fast.groups import (
    Affine,
    GeneralLinear,
    Group,
    Heads,
    Monomial,
    Orthogonal,
    Permutation,
    RotaryCommutant,
    Scaling,
    Signs,
    SpecialLinear,
)
from nnsym_fast.symmetry import Leg, SymmetrySpec

RECOVERED = 1e-13
"""Distance over norm of a recovered float64 network: rounding, times condition numbers up to 30. Measured: 3e-15."""

BALANCED = 1e-8
"""The same for ``distance``, whose balanced points are those of sweeps that end at 1e-10. Measured: 5e-10."""

RECOVERABLE = [name for name in CASES if name != "recurrent rotation"]
"""All cases but a weight that nothing observable joins: finding its element is a problem of conjugate matrices."""


def norm(params: Params) -> float:
    return math.sqrt(sum(float(np.vdot(value, value)) for value in params.values()))


def gap(a: Params, b: Params) -> float:
    return norm({name: np.asarray(b[name], dtype=np.float64) - a[name] for name in a})


def hidden(spec: SymmetrySpec, a: Params, seed: int) -> tuple[nf.Elements, Params]:
    """A random element, and the network that it leads back to ``a``."""
    element = spec.sample(1, seed=seed)
    moved = nf.act(spec, nf.inverse(element), a)
    return element, {name: value[0] for name, value in moved.items()}


def assert_same_element(found: nf.Elements, element: nf.Elements, tolerance: float) -> None:
    for site, expected in element.items():
        got = found[site]
        for part in ("perm", "sign"):
            if getattr(expected, part) is not None:
                np.testing.assert_array_equal(getattr(got, part), getattr(expected, part), err_msg=f"{site}.{part}")
        for part in ("scale", "matrix", "inverse", "shift"):
            if getattr(expected, part) is not None:
                size = np.abs(getattr(expected, part)).max()
                error = np.abs(getattr(got, part) - getattr(expected, part)).max()
                assert error <= tolerance * size, f"{site}.{part}"


@pytest.mark.parametrize("name", RECOVERABLE)
def test_networks_on_one_orbit_are_matched_to_rounding(name: str) -> None:
    spec, a = CASES[name]()
    for b in points(spec, a, 5):
        found = match(a, b, spec)
        assert found.distance <= RECOVERED * found.norm < 0.01 * found.distance_before
        assert found.starts == (found.distance,), "the first start recovers it"
        assert gap(a, found.params) <= RECOVERED * found.norm
        assert distance(a, b, spec) <= BALANCED * found.norm


UNIQUE: dict[str, Callable[[], tuple[SymmetrySpec, Params]]] = {
    name: CASES[name] for name in ("relu", "tanh", "gelu", "linear", "special", "rotary", "llama", "post-norm", "chain")
} | {
    "wide relu": lambda: mlp([16, 200, 128, 64, 10], "relu"),
    "heads of units": lambda: (
        SymmetrySpec(
            {"h": Heads(4, Monomial(5)), "signs": Signs(6), "scales": Scaling(5), "rows": Heads(2, Signs(3))},
            {"0": ("h", None), "1": ("signs", "h*"), "2": ("scales", "signs*"), "3": ("rows", "scales*"),
             "4": (None, "rows*")},
        ),
        random({"0": (20, 9), "1": (6, 20), "2": (5, 6), "3": (6, 5), "4": (4, 6)}),
    ),
    "convolution": lambda: (
        SymmetrySpec(
            {"c": Monomial(12), "h": Monomial(9)},
            {"0": ("c", None, None, None), "gain": ("c",), "square": (Leg("c", power=2),),
             "1": ("h", Leg("c", dual=True, repeat=4)), "2": (None, Leg("h", dual=True, power=2.5))},
        ),
        random({"0": (12, 2, 3, 3), "gain": (12,), "square": (12,), "1": (9, 48), "2": (4, 9)}),
    ),
    "concatenated": lambda: (
        SymmetrySpec(
            {"qk": Heads(3, Affine(GeneralLinear(4)), tie="t"), "vo": Heads(3, GeneralLinear(4), tie="t")},
            {"in": (None, [(12, "qk*"), (12, "qk"), (12, "vo")]), "q": ("qk*",), "k": ("qk+",), "o": ("vo*", None)},
        ),
        random({"in": (17, 36), "q": (12,), "k": (12,), "o": (12, 17)}),
    ),
}  # fmt: skip
"""Networks that only one element leads back: nothing of their weights is degenerate."""


@pytest.mark.parametrize("name", UNIQUE)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_hidden_element_is_recovered(name: str, dtype: str) -> None:
    spec, params = UNIQUE[name]()
    a = {tensor: value.astype(dtype) for tensor, value in params.items()}
    # A tensor in float32 has 24 bits, and elements with condition numbers up to about 30 lose five of them.
    tolerance = {"float64": 1e-11, "float32": 1e-4}[dtype]
    for seed in range(3):
        element, b = hidden(spec, a, seed)
        found = match(a, b, spec)
        assert_same_element(found.element, element, tolerance)
        moved = nf.act(spec, found.element, b)
        assert gap(a, {tensor: value[0] for tensor, value in moved.items()}) <= tolerance * found.norm
        for tensor, value in found.params.items():
            assert value.dtype == dtype
            assert value.shape == a[tensor].shape


def test_a_site_without_observable_axes_is_not_recovered_and_said_so() -> None:
    """The control of the cases above: the distance shows that nothing was found."""
    spec, a = recurrent(Orthogonal(6), bare=True)
    found = match(a, next(points(spec, a, 1)), spec, restarts=0)
    assert found.distance > 0.1 * found.norm
    assert found.restarts == 0


@pytest.mark.parametrize("name", ["relu", "tanh", "linear", "special", "llama", "post-norm", "experts", "chain"])
def test_other_networks_stay_far_and_never_get_farther(name: str) -> None:
    spec, a = CASES[name]()
    other = {tensor: np.random.default_rng(5).standard_normal(value.shape) for tensor, value in a.items()}
    found = match(a, other, spec, restarts=1)
    assert 0.2 * found.norm < found.distance <= found.distance_before
    assert found.distance == min(found.starts)
    assert len(found.starts) == 2
    assert distance(a, other, spec, restarts=0) > 0.2 * found.norm
    again = match(a, other, spec, restarts=1)
    assert again.starts == found.starts


def test_a_wrong_permutation_is_farther() -> None:
    spec, a = mlp([6, 12, 5], "gelu")
    _, b = hidden(spec, a, 3)
    found = match(a, b, spec)
    perm = found.element["h0"].perm
    assert perm is not None
    perm[0, [2, 7]] = perm[0, [7, 2]]
    wrong = {tensor: value[0] for tensor, value in nf.act(spec, found.element, b).items()}
    assert gap(a, wrong) > 1.0 > 1e10 * found.distance


# --- against minima that are found in another way


def units(group: Group) -> tuple[SymmetrySpec, Params, Params]:
    n = group.size
    spec = SymmetrySpec({"h": group}, {"in": ("h", None), "bias": ("h",), "out": (None, "h*")})
    shapes: dict[str, tuple[int, ...]] = {"in": (n, 3), "bias": (n,), "out": (6, n)}
    return spec, random(shapes, 1), random(shapes, 2)


@pytest.mark.parametrize("signed", [False, True])
def test_permutations_and_signs_are_the_best_of_all(signed: bool) -> None:
    spec, a, b = units(Monomial(5, signs=signed, scales=False))
    best = math.inf
    for perm in itertools.permutations(range(5)):
        for signs in itertools.product((1.0, -1.0), repeat=5) if signed else [(1.0,) * 5]:
            g = np.array(signs)[:, None] * np.eye(5)[list(perm)]
            moved = {"in": g @ b["in"], "bias": g @ b["bias"], "out": b["out"] @ g.T}
            best = min(best, gap(a, moved))
    assert match(a, b, spec, restarts=0).distance == pytest.approx(best, rel=1e-12)
    assert distance(a, b, spec, restarts=0) == pytest.approx(best, rel=1e-12), "no scales: nothing to balance"


@pytest.mark.parametrize("signed", [False, True])
def test_scales_are_part_of_the_assignment(signed: bool) -> None:
    """The best scale of every pair by a fine grid, then the best permutation of all: no search has a say."""
    spec, a, b = units(Monomial(5, signs=signed))
    scale = np.exp(np.linspace(-4.0, 4.0, 80_001))
    scales = np.concatenate([scale, -scale]) if signed else scale
    rows = [np.column_stack([params["in"], params["bias"]]) for params in (a, b)]
    columns = [params["out"].T for params in (a, b)]
    cost = np.empty((5, 5))
    for i, j in np.ndindex(5, 5):
        write = np.sum((rows[0][i] - scales[:, None] * rows[1][j]) ** 2, axis=1)
        cost[i, j] = np.min(write + np.sum((columns[0][i] - columns[1][j] / scales[:, None]) ** 2, axis=1))
    best = min(sum(cost[i, p] for i, p in enumerate(perm)) for perm in itertools.permutations(range(5)))
    # The grid is off by half a step, which costs its square: 2.5e-9 times the curvature.
    assert match(a, b, spec, restarts=0).distance ** 2 == pytest.approx(best, rel=1e-7)


def test_rotations_are_those_of_procrustes() -> None:
    spec, a, b = units(Orthogonal(4))
    stacked = [np.column_stack([params["in"], params["bias"], params["out"].T]) for params in (a, b)]
    rotation, _ = orthogonal_procrustes(stacked[1].T, stacked[0].T)
    found = match(a, b, spec)
    assert found.element["h"].matrix is not None
    np.testing.assert_allclose(found.element["h"].matrix[0], rotation.T, atol=1e-12)


def generators(group: Group) -> list[np.ndarray]:
    """A basis of the Lie algebra."""
    m = group.size
    unit = np.eye(m)
    if isinstance(group, RotaryCommutant):
        result = []
        for i, j in group.pairs:
            one, turn = np.zeros((m, m)), np.zeros((m, m))
            one[i, i] = one[j, j] = turn[j, i] = 1.0
            turn[i, j] = -1.0
            result += [one, turn]
        first = m - group.free
        return result + [np.outer(unit[i], unit[j]) for i in range(first, m) for j in range(first, m)]
    basis = [np.outer(unit[i], unit[j]) for i in range(m) for j in range(m)]
    if isinstance(group, SpecialLinear):
        return [matrix - np.trace(matrix) / m * unit for matrix in basis][:-1]
    if isinstance(group, Orthogonal):
        ones = np.full((m, 1), m**-0.5)
        keep = unit - ones @ ones.T
        basis = [keep @ matrix @ keep for matrix in basis] if group.keeps_mean else basis
        return [matrix - matrix.T for matrix in basis]
    return basis


@pytest.mark.parametrize(
    ("group", "best"),
    [
        (GeneralLinear(3), False),
        (SpecialLinear(3), False),
        (RotaryCommutant(4), True),
        (RotaryCommutant(5, "interleaved", rotary=2), False),
        (Orthogonal(4, keeps_mean=True), True),
    ],
    ids=str,
)
def test_matrices_are_minima_that_a_general_method_cannot_improve(group: Group, best: bool) -> None:
    """From the matrix that was found, for every group; from anywhere, where there is a closed form (``best``)."""
    spec, a, b = units(group)
    basis = np.array(generators(group))
    assert np.linalg.matrix_rank(basis.reshape(len(basis), -1)) == group.dimension

    def squared(x: np.ndarray, start: np.ndarray) -> float:
        g = expm(np.tensordot(x, basis, 1)) @ start
        q = np.linalg.inv(g).T
        return gap(a, {"in": g @ b["in"], "bias": g @ b["bias"], "out": b["out"] @ q.T}) ** 2

    found = match(a, b, spec, restarts=0)
    matrix = found.element["h"].matrix
    assert matrix is not None
    here = np.zeros(len(basis))
    assert squared(here, matrix[0]) == pytest.approx(found.distance**2, rel=1e-12)
    near = minimize(squared, here, args=(matrix[0],), method="BFGS")
    assert near.fun >= found.distance**2 * (1 - 1e-7), "a local minimum"
    for start in group.sample(6, seed=1).matrix if best else ():
        assert minimize(squared, here, args=(start,), method="BFGS").fun >= found.distance**2 * (1 - 1e-7)


def test_heads_are_the_best_of_all() -> None:
    """Every permutation of heads, each with the best rotations: what ties them is one permutation."""
    spec = SymmetrySpec(
        {"qk": Heads(4, Orthogonal(2), tie="t"), "vo": Heads(4, Orthogonal(2), tie="t")},
        {"q": ("qk*", None), "k": ("qk", None), "v": ("vo", None), "o": (None, "vo*")},
    )
    shapes: dict[str, tuple[int, ...]] = {"q": (8, 3), "k": (8, 3), "v": (8, 3), "o": (3, 8)}
    a, b = random(shapes, 1), random(shapes, 2)

    def stacked(params: Params) -> np.ndarray:
        write = [np.concatenate(pair, axis=1).reshape(4, 2, -1) for pair in (
            (params["q"], params["k"]), (params["v"], params["o"].T))]  # fmt: skip
        return np.stack(write)

    first, second = stacked(a), stacked(b)
    gains = np.linalg.svd(np.einsum("shik,stjk->shtij", first, second), compute_uv=False).sum(axis=(0, -1))
    best = max(sum(gains[h, p] for h, p in enumerate(perm)) for perm in itertools.permutations(range(4)))
    expected = norm(a) ** 2 + norm(b) ** 2 - 2 * best
    found = match(a, b, spec, restarts=0)
    assert found.distance**2 == pytest.approx(expected, rel=1e-10)
    np.testing.assert_array_equal(found.element["qk"].perm, found.element["vo"].perm)


def test_a_shift_takes_what_it_can() -> None:
    """One bias: the shift explains it all. Two biases that share it: their mean."""
    spec = SymmetrySpec({"t": groups.Translation(3)}, {"one": ("t+",), "two": ("t+",)})
    a = {"one": np.array([1.0, 2.0, 3.0]), "two": np.array([5.0, 5.0, 5.0])}
    b = {"one": np.zeros(3), "two": np.zeros(3)}
    found = match(a, b, spec)
    np.testing.assert_allclose(found.element["t"].shift, [[3.0, 3.5, 4.0]], atol=1e-14)
    assert found.distance**2 == pytest.approx(2 * (4 + 2.25 + 1))
    spec, a = block(Affine(GeneralLinear(4)), GeneralLinear(4), None, shifted=True)
    b = {name: value + (name == "k.bias") for name, value in a.items()}
    assert match(a, b, spec).distance < 1e-12


# --- the distance of orbits


def test_the_distance_is_a_metric_on_orbits() -> None:
    """One hidden layer: the search is a linear assignment, which is exact, so the laws hold to rounding."""
    spec = specs.mlp([4, 6, 3], "relu")
    shapes = specs.shapes(specs.mlp_layers([4, 6, 3], "relu"))
    a, b, c = (random(shapes, seed) for seed in range(3))
    ab, bc, ac = distance(a, b, spec), distance(b, c, spec), distance(a, c, spec)
    assert ab == pytest.approx(distance(b, a, spec), rel=1e-9)
    assert 0 < ac <= ab + bc
    for other in points(spec, b, 3):
        assert distance(a, other, spec) == pytest.approx(ab, rel=1e-7)
        moved = match(a, other, spec).distance
        assert moved == pytest.approx(match(a, b, spec).distance, rel=1e-6), "so is the distance to an orbit"
    assert distance(a, a, spec) < 1e-12


def test_dead_units_do_not_spoil_the_distance() -> None:
    """What a dead unit reads, and what reads one that is always 0, has no scale: it must not count."""
    spec = specs.mlp([4, 6, 3], "relu")
    shapes = specs.shapes(specs.mlp_layers([4, 6, 3], "relu"))
    a, b = (random(shapes, seed) for seed in range(2))
    a["2.weight"][:, 2] = 0.0
    a["0.weight"][4], a["0.bias"][4] = 0.0, 0.0
    expected = distance(a, b, spec)
    for other in points(spec, a, 3):
        assert distance(other, b, spec) == pytest.approx(expected, rel=1e-7)
        assert distance(a, other, spec) < BALANCED


def test_matching_depends_on_the_target_where_scales_are_free() -> None:
    """Why ``distance`` balances: the distance from a point to an orbit is not the same all along the point's orbit."""
    spec = specs.mlp([4, 6, 3], "relu")
    shapes = specs.shapes(specs.mlp_layers([4, 6, 3], "relu"))
    a, b = (random(shapes, seed) for seed in range(2))
    far = next(points(spec, a, 1))
    assert abs(match(far, b, spec).distance / match(a, b, spec).distance - 1) > 0.01


def test_heads_without_permutation_stay() -> None:
    spec = SymmetrySpec({"s": Heads(3, Permutation(2), permute=False)}, {"w": ("s", None), "v": (None, "s*")})
    a = random({"w": (6, 4), "v": (3, 6)})
    swapped = {"w": a["w"][[4, 5, 2, 3, 0, 1]], "v": a["v"][:, [4, 5, 2, 3, 0, 1]]}
    inside = {"w": a["w"][[1, 0, 2, 3, 5, 4]], "v": a["v"][:, [1, 0, 2, 3, 5, 4]]}
    assert match(a, inside, spec).distance == 0
    assert match(a, swapped, spec).distance > 1
