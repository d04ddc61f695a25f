# SPDX-License-Identifier: MIT
"""``choose``: a planted minimum is found, nothing depends on batches, sites and heads take their own best."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import nnsym_fast as nf
from nnsym_fast import groups
from nnsym_fast.gauge_fixing import Chosen, choose
from nnsym_fast.gauge_fixing._choose_steps import Factor, nearby

Array = npt.NDArray[Any]
Params = dict[str, Array]

MLP = nf.specs.mlp([3, 5, 4, 2])
RNG = np.random.default_rng(0)
NETWORK: Params = {
    name: RNG.normal(size=shape) for name, shape in nf.specs.shapes(nf.specs.mlp_layers([3, 5, 4, 2])).items()
}

# Two sites that share no tensor, and one of three heads: terms that are separate by construction.
APART = nf.SymmetrySpec(
    {
        "a": groups.GeneralLinear(3),
        "b": groups.Monomial(4, signs=True),
        "c": groups.Heads(3, groups.Orthogonal(2), permute=False),
    },
    {f"{site}.{side}": (site + dual, None) for site in "abc" for side, dual in (("in", ""), ("out", "*"))}
    | {"free": (None,)},
)
BLOCKS: Params = {name: RNG.normal(size=(n, 7)) for name, n in zip(("a.in", "a.out"), (3, 3), strict=True)}
BLOCKS |= {"b.in": RNG.normal(size=(4, 7)), "b.out": RNG.normal(size=(4, 7))}
BLOCKS |= {"c.in": RNG.normal(size=(6, 7)), "c.out": RNG.normal(size=(6, 7)), "free": RNG.normal(size=2)}


def rounding(value: Array) -> Array:
    """Squared error of rounding to integers, per row: rough, and no symmetry leaves it alone."""
    return np.square(np.round(3 * value) - 3 * value).sum(axis=-1)


def terms(point: Params) -> dict[str, Any]:
    """Of sites a and b, and per head of c; works on one point and on stacked points."""
    table = {site: rounding(point[f"{site}.in"]) + 2 * rounding(point[f"{site}.out"]) for site in "abc"}
    heads = table["c"].reshape(*table["c"].shape[:-1], 3, 2).sum(axis=-1)
    return {"a": table["a"].sum(axis=-1), "b": table["b"].sum(axis=-1), "c": heads}


def total(point: Params) -> Any:
    """The same as one number."""
    return sum(value.sum(axis=-1) if site == "c" else value for site, value in terms(point).items())


def spread(point: Params) -> float:
    """Of an MLP: how uneven its weights are."""
    return float(max(np.abs(value).max() for value in point.values()))


def same(a: Chosen, b: Chosen) -> None:
    """Bit for bit."""
    assert (a.value, a.index, a.indices, a.history, a.accepted) == (b.value, b.index, b.indices, b.history, b.accepted)
    for name, value in a.params.items():
        np.testing.assert_array_equal(value, b.params[name])


def test_a_planted_minimum_is_found() -> None:
    """The distance to point 137 of the orbit is smallest, 0, there."""
    hidden = nf.Orbit(NETWORK, MLP, seed=4)[137]

    def away(point: Params) -> float:
        return math.sqrt(sum(np.square(point[name] - hidden[name]).sum() for name in hidden))

    found = choose(NETWORK, MLP, away, 200, seed=4)
    assert (found.index, found.value) == (137, 0.0)
    assert found.base_value > 1.0
    for name, value in hidden.items():
        np.testing.assert_array_equal(found.params[name], value)
    moved = nf.act(MLP, found.element, NETWORK)
    assert all(np.allclose(moved[name][0], value, rtol=1e-12) for name, value in hidden.items())
    # Not in the range that is searched: another point, at a distance.
    for options in ({"seed": 5}, {"seed": 4, "start": 138}):
        other = choose(NETWORK, MLP, away, 100, **options)  # type: ignore[arg-type]
        assert other.index != 137
        assert other.value > 1e-3


def test_the_value_is_the_least_of_all_points() -> None:
    values = [spread(point) for point in map(nf.Orbit(NETWORK, MLP, seed=1).__getitem__, range(50, 150))]
    found = choose(NETWORK, MLP, spread, 100, seed=1, start=50)
    assert found.index == 50 + int(np.argmin(values))
    assert found.value == min(values) < found.base_value == spread(NETWORK)
    falls = [(k + 1, value) for k, value in enumerate(values) if value < min([spread(NETWORK), *values[:k]])]
    assert found.history == ((0, found.base_value), *falls)


def test_the_network_itself_competes() -> None:
    def grown(point: Params) -> float:
        return float(sum(np.abs(point[name] - NETWORK[name]).sum() for name in point))

    found = choose(NETWORK, MLP, grown, 30, refine=10)
    assert (found.index, found.value, found.accepted, found.history) == (None, 0.0, 0, ((0, 0.0),))
    for name, value in NETWORK.items():
        np.testing.assert_array_equal(found.params[name], value)
    # Equal values: the first stays.
    assert choose(NETWORK, MLP, lambda point: 1, 30).index is None
    assert choose(NETWORK, MLP, spread, 0).value == spread(NETWORK)


@pytest.mark.parametrize("objective", [terms, total], ids=["terms", "one number"])
def test_nothing_depends_on_batches(objective: Callable[[Params], Any]) -> None:
    """Bit for bit: batches of any size, stacked points or single ones, and a second run."""
    first = choose(BLOCKS, APART, objective, 40, seed=7, start=5, refine=12)
    for batch, batched in [(1, False), (7, False), (40, True), (13, True), (None, True), (None, False)]:
        same(choose(BLOCKS, APART, objective, 40, seed=7, start=5, refine=12, batch=batch, batched=batched), first)
    other = choose(BLOCKS, APART, objective, 40, seed=8, start=5, refine=12)
    assert other.value != first.value


def test_every_site_and_head_takes_its_own_best() -> None:
    """Against all 6^5 combinations of 5 samples and the network itself at two sites and three heads."""
    n, seed = 5, 2
    best = choose(BLOCKS, APART, terms, n, seed=seed)
    drawn, one = APART.sample(n, seed), APART.identity(1)
    parts = {site: [np.concatenate(pair) for pair in both(drawn[site], one[site])] for site in "abc"}  # the last: 1
    a, b, *c = np.array(list(itertools.product(range(n + 1), repeat=5))).T
    heads = [np.stack([part[k, h] for h, k in enumerate(c)], axis=1) for part in parts["c"]]
    sites = {
        "a": nf.SiteElements(matrix=parts["a"][0][a], inverse=parts["a"][1][a]),
        "b": nf.SiteElements(*(part[b] for part in parts["b"])),
        "c": nf.SiteElements(matrix=heads[0], inverse=heads[1]),
    }
    points = nf.act(APART, nf.Elements(sites, len(a)), BLOCKS)
    values = total(points)
    winner = int(np.argmin(values))
    assert best.value == pytest.approx(values[winner], rel=1e-12)
    taken = [n if k is None else k for site in "abc" for k in best.indices[site]]
    assert taken == [int(k[winner]) for k in (a, b, *c)]
    assert len(set(taken)) > 1, "the case must need more than one sample"
    assert best.value < choose(BLOCKS, APART, total, n, seed=seed).value
    # What is returned is that point, the terms are its own, and the element leads there.
    assert best.index is None
    moved = nf.act(APART, best.element, BLOCKS)
    for name, value in best.params.items():
        np.testing.assert_allclose(value, points[name][winner], rtol=1e-12)
        np.testing.assert_allclose(value, moved[name][0], rtol=1e-12)
    for site, value in terms(best.params).items():
        np.testing.assert_allclose(best.terms[site], np.ravel(value), rtol=1e-12)


def both(a: nf.SiteElements, b: nf.SiteElements) -> list[tuple[Array, Array]]:
    """The parts that two elements have."""
    return [(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True) if x is not None]


def test_terms_may_fall_to_zero() -> None:
    """In float32, where the point that is put together differs from that of the orbit by rounding."""
    single = {name: value.astype(np.float32) for name, value in BLOCKS.items()}
    hidden = nf.Orbit(single, APART, seed=3)[0:40]

    def away(point: Params) -> dict[str, float]:
        return {
            site: float(
                sum(np.square(point[f"{site}.{side}"] - hidden[f"{site}.{side}"][k]).sum() for side in ("in", "out"))
            )
            for site, k in (("a", 11), ("b", 29), ("c", 4))
        }

    found = choose(single, APART, away, 40, seed=3)
    assert found.indices == {"a": (11,), "b": (29,), "c": (4,)}
    assert found.value < 1e-10 * found.base_value


def test_tied_sites_have_one_sample() -> None:
    """Their heads are permuted together, so their terms are added; other sites choose by themselves."""
    tied = {name: groups.Heads(3, groups.GeneralLinear(2), tie="heads") for name in ("k", "v")}
    spec = nf.SymmetrySpec(
        tied | {"m": groups.Permutation(4)},
        {f"{site}.{dual}": (site + dual,) for site in "kvm" for dual in ("", "*")},
    )
    rng = np.random.default_rng(1)
    params = {f"{site}.{dual}": rng.normal(size=spec.sites[site].size) for site in "kvm" for dual in ("", "*")}
    weights = {site: rng.normal(size=spec.sites[site].size) for site in "kvm"}

    def by_site(point: Params) -> dict[str, Any]:
        return {site: float(np.abs(point[f"{site}."] - weights[site]).sum()) for site in "kvm"}

    found = choose(params, spec, by_site, 60, refine=60)
    assert found.indices["k"] == found.indices["v"] != found.indices["m"]
    assert found.accepted > 0
    heads = [found.element[site].perm[0, ::2] // 2 for site in "kv"]  # type: ignore[index]
    np.testing.assert_array_equal(*heads)
    points = nf.Orbit(params, spec)[:60]
    each = [by_site({name: value[i] for name, value in points.items()}) for i in range(60)]
    sampled = choose(params, spec, by_site, 60)
    assert sampled.indices["k"] == (int(np.argmin([term["k"] + term["v"] for term in each])),)
    assert sampled.indices["m"] == (int(np.argmin([term["m"] for term in each])),)
    assert found.terms.keys() == {"k", "m"}
    assert found.value == pytest.approx(sum(by_site(found.params).values()))


def test_sites_without_a_term_stay() -> None:
    found = choose(BLOCKS, APART, lambda point: {"b": terms(point)["b"]}, 20, refine=5)
    for name in ("a.in", "a.out", "c.in", "c.out", "free"):
        np.testing.assert_array_equal(found.params[name], BLOCKS[name])
    assert not np.array_equal(found.params["b.in"], BLOCKS["b.in"])


MATRICES: list[tuple[groups.Group, Callable[[Array], Array]]] = [
    (groups.Orthogonal(4), lambda g: g @ g.T - np.eye(4)),
    (groups.Orthogonal(4, keeps_mean=True), lambda g: np.stack([g @ np.ones(4) - 1, g.T @ np.ones(4) - 1])),
    (groups.SpecialLinear(4), lambda g: np.linalg.det(g) - 1),
    (groups.RotaryCommutant(6), lambda g: g @ QUARTER - QUARTER @ g),
    (groups.RotaryCommutant(6, "interleaved", rotary=4), lambda g: g @ TURNED - TURNED @ g),
]
QUARTER = np.kron([[0, -1], [1, 0]], np.eye(3))
TURNED = np.zeros((6, 6))
TURNED[:4, :4] = np.kron(np.eye(2), [[0, -1], [1, 0]])


@pytest.mark.parametrize(("group", "law"), MATRICES, ids=lambda x: repr(x) if isinstance(x, groups.Group) else "")
def test_small_steps_stay_in_the_group(group: groups.Group, law: Callable[[Array], Array]) -> None:
    spec = nf.SymmetrySpec({"s": group}, {"in": ("s",), "out": ("s*",)})
    for number in range(4):
        near, moves = nearby(spec, [Factor(("s",))], 3, number, np.array([0.05]))
        g, inverse = near["s"].matrix, near["s"].inverse
        assert g is not None
        assert inverse is not None
        assert moves.all()
        np.testing.assert_allclose(law(g[0]), 0.0, atol=1e-14)
        np.testing.assert_allclose(g[0] @ inverse[0], np.eye(group.size), atol=1e-14)
        away = np.linalg.norm(g[0] - np.eye(group.size), 2)
        assert 1e-3 < away < 0.5, "near 1, but not 1"
    # Negative control: the law is not one of all matrices.
    assert np.abs(law(groups.GeneralLinear(group.size).sample(1).matrix[0])).max() > 1e-2  # type: ignore[index]


def test_small_steps_change_one_thing_at_a_time() -> None:
    group = groups.Heads(3, groups.Monomial(4, signs=True), permute=True)
    spec = nf.SymmetrySpec({"s": group}, {"in": ("s",), "out": ("s*",)})
    seen = []
    for number in range(8):
        near, moves = nearby(spec, [Factor(("s",))], 0, number, np.array([0.1]))
        one = near["s"]
        assert one.perm is not None
        assert one.sign is not None
        assert one.scale is not None
        moved = one.perm[0] != np.arange(12)
        whole = moved.reshape(3, 4)
        kind = {
            "scale": bool((one.scale != 1).all()),
            "units": moved.sum() == 2 and whole.any(axis=1).sum() == 1,
            "heads": moved.sum() == 8 and whole.all(axis=1).sum() == 2,
            "sign": (one.sign == -1).sum() == 1,
        }
        assert sum(kind.values()) == 1
        assert moves.all() == kind["scale"]
        seen.append(next(name for name, found in kind.items() if found))
    assert seen == ["scale", "units", "heads", "sign"] * 2


@pytest.mark.parametrize(
    "group",
    [groups.Orthogonal(4), groups.GeneralLinear(3), groups.RotaryCommutant(4), groups.Scaling(5), groups.Monomial(5)],
    ids=repr,
)
def test_small_steps_go_on_where_samples_end(group: groups.Group) -> None:
    """Towards a hidden point of the orbit, in the component of the group that the best sample lies in."""
    spec = nf.SymmetrySpec({"s": group}, {"in": ("s", None), "out": (None, "s*")})
    rng = np.random.default_rng(1)
    params = {"in": rng.normal(size=(group.size, 3)), "out": rng.normal(size=(2, group.size))}
    hidden = nf.Orbit(params, spec, seed=9)[0]

    def away(point: Params) -> float:
        return math.sqrt(sum(np.square(point[name] - hidden[name]).sum() for name in hidden))

    sampled = choose(params, spec, away, 60)
    found = choose(params, spec, away, 60, refine=400)
    assert found.value < 0.25 * sampled.value
    assert found.index == sampled.index
    values = [value for _, value in found.history]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(sampled.history) + found.accepted
    moved = nf.act(spec, found.element, params)
    for name, value in found.params.items():
        np.testing.assert_allclose(moved[name][0], value, rtol=1e-9)
    invariant = found.params["out"] @ found.params["in"] - params["out"] @ params["in"]
    np.testing.assert_allclose(invariant, 0.0, atol=1e-12 * np.linalg.norm(params["in"]) ** 2)


def test_frameworks_and_dtypes() -> None:
    """A torch network with gradients gives torch tensors, the same as NumPy; the objective may return a tensor."""
    torch = pytest.importorskip("torch")
    single = {name: value.astype(np.float32) for name, value in BLOCKS.items()}
    numpy = choose(single, APART, terms, 20, refine=5)
    assert {value.dtype.name for value in numpy.params.values()} == {"float32"}

    def torch_terms(point: dict[str, Any]) -> dict[str, Any]:
        found = terms({name: value.detach().numpy() for name, value in point.items()})
        return {site: torch.as_tensor(value) for site, value in found.items()}

    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in single.items()}
    for batched in (False, True):
        found = choose(tensors, APART, torch_terms, 20, refine=5, batched=batched)
        assert (found.value, found.indices) == (numpy.value, numpy.indices)
        for name, value in found.params.items():
            assert isinstance(value, torch.Tensor)
            np.testing.assert_array_equal(value.numpy(), numpy.params[name])


def test_an_objective_may_ask_for_some_tensors() -> None:
    asked = ["b.in", "b.out"]

    def of_b(point: Params) -> float:
        assert list(point) == asked
        return float(terms({**BLOCKS, **point})["b"])

    found = choose(BLOCKS, APART, of_b, 20, tensors=asked, refine=4)
    free = choose(BLOCKS, APART, lambda point: float(terms(point)["b"]), 20, refine=4)
    assert (found.value, found.index) == (free.value, free.index)
    assert set(found.params) == set(BLOCKS)
    for name, value in free.params.items():
        np.testing.assert_array_equal(found.params[name], value)


MEMORY = """
import numpy as np, nnsym_fast as nf
from nnsym_fast.gauge_fixing.choosing import choose
def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
spec = nf.specs.mlp([256, 256, 256])
params = {name: np.ones(shape, "float32") for name, shape in nf.specs.shapes(nf.specs.mlp_layers([256] * 3)).items()}
largest = lambda point: point["0.weight"].max(axis=(1, 2))
choose(params, spec, largest, 100, batched=True, batch=16)
before = status("VmHWM")
choose(params, spec, largest, SAMPLES, batched=True, batch=BATCH)
print((status("VmHWM") - before) / (1 << 20))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_depend_on_the_samples() -> None:
    """2,000 points of half a MiB, 16 at a time; negative control: 400 at a time are seen."""

    def extra(samples: int, batch: int) -> float:
        script = MEMORY.replace("SAMPLES", str(samples)).replace("BATCH", str(batch))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert extra(2000, 16) < 16
    assert extra(400, 400) > 100


def returns(value: Any) -> Callable[[Params], Any]:
    return lambda point: value


def nan_at(index: int) -> Callable[[Params], Any]:
    """NaN at one point of the orbit of BLOCKS, of seed 0."""
    bad = nf.Orbit(BLOCKS, APART)[index]["a.in"]
    return lambda point: {"b": 1.0, "c": np.full(3, np.nan if np.array_equal(point["a.in"], bad) else 1.0)}


def at_home(point: Params) -> bool:
    return np.array_equal(point["a.in"], BLOCKS["a.in"])


def coupled(point: Params) -> dict[str, Any]:
    """The term of site b reads what site a moves."""
    return terms(point) | {"b": rounding(point["b.in"][:3] + point["a.in"]).sum()}


TIED = nf.SymmetrySpec({"c": groups.Heads(3, groups.Orthogonal(2))}, {"c.in": ("c", None), "c.out": ("c*", None)})
C = {name: BLOCKS[name] for name in ("c.in", "c.out")}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: choose(BLOCKS, APART, 3, 2), TypeError, "objective: expected a function of a point, got int"),  # type: ignore[arg-type]
        (lambda: choose(BLOCKS, APART, total, -1), ValueError, "samples: expected an integer >= 0, got -1"),
        (lambda: choose(BLOCKS, APART, total, 2, refine=-1), ValueError, "refine: expected an integer >= 0"),
        (lambda: choose(BLOCKS, APART, total, 2, batch=0), ValueError, "batch: expected at least 1 point, got 0"),
        (lambda: choose(BLOCKS, APART, total, 2, seed=-1), ValueError, "seed: expected an integer >= 0, got -1"),
        (lambda: choose(BLOCKS, APART, total, 2, step=0.0), ValueError, "step: expected a finite number > 0"),
        (lambda: choose(BLOCKS, APART, total, 2, tensors=["x"]), ValueError, r"tensors: expected names .* got \['x'\]"),
        (lambda: choose({}, APART, total, 2), ValueError, "tensor 'a.in': in the spec but missing"),
        (lambda: choose(BLOCKS, APART, returns("x"), 2), TypeError, "objective: expected real numbers, got 'x'"),
        (lambda: choose(BLOCKS, APART, returns(None), 2), TypeError, "objective: expected real numbers, got None"),
        (lambda: choose(BLOCKS, APART, returns([1.0, 2.0]), 2), ValueError, "expected one number for each point"),
        (lambda: choose(BLOCKS, APART, returns({}), 2), ValueError, "objective: expected a number or terms of sites"),
        (lambda: choose(BLOCKS, APART, returns({"x": 1.0}), 2), ValueError, "unknown site 'x'; the sites of the spec"),
        (
            lambda: choose(BLOCKS, APART, returns({"c": np.ones(2)}), 2),
            ValueError,
            r"expected one number for site 'c', or one for each of its 3 heads, got shape \(2,\)",
        ),
        (
            lambda: choose(C, TIED, returns({"c": np.ones(3)}), 2),
            ValueError,
            "a term per head of site 'c', whose heads are permuted, .*; return their sum",
        ),
        (
            lambda: choose(BLOCKS, APART, returns(1.0), 2, batched=True),
            ValueError,
            r"objective: expected one number for each of 1 stacked points, got shape \(\)",
        ),
        (
            lambda: choose(BLOCKS, APART, lambda point: terms(point) if at_home(point) else 1.0, 2),
            ValueError,
            "objective: expected the same terms for every point, 'a', 'b', 'c' with 3 heads, got one number",
        ),
        (lambda: choose(BLOCKS, APART, returns(1.0), 2, start=2**63), ValueError, r"start: expected start \+ samples"),
        (lambda: choose(BLOCKS, APART, returns(np.inf), 2), ValueError, "got inf for the network itself"),
        (
            lambda: choose(BLOCKS, APART, nan_at(17), 20, batch=6),
            ValueError,
            "objective: expected finite numbers, got nan for site 'c' at point 17; return a large number",
        ),
        (
            lambda: choose(BLOCKS, APART, coupled, 50),
            ValueError,
            "objective: the term of site 'b' depends on other sites: it was",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_steps_that_leave_the_numbers_are_named() -> None:
    calls = itertools.count()
    with pytest.raises(ValueError, match="got nan at small step 3; return"):
        choose(BLOCKS, APART, lambda point: math.nan if next(calls) == 9 else 1.0, 5, refine=9)
