# SPDX-License-Identifier: MIT
"""Dense gauge groups: the orbit of MiniLM, Haar matrices, the rotation of a residual stream, drawn in the timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import machine
import numpy as np
import numpy.typing as npt
import peers
import pytest
from record import Figure, PeerTime, Results, Row
from targets import HAAR, LINEAR, MATRICES, MINILM, RATIO_QR, ROTATION, THREAD_GAIN
from timing import contenders, raced
from transformer_work import BERT, FIXED, LLAMA, ROLES, Bert, Rotated, general_linear_error, haar_error

import nnsym_fast as nf

Array = npt.NDArray[Any]

TOLERANCE = 2e-5
"""Change of what a symmetry leaves alone, relative to its largest value: matrices and weights are float32, and a matrix
of GL(32) has a condition number of about ten."""

POINTS = 16
ROTATIONS = 4
"""Points per call."""


SMALLER = {"num_hidden_layers": 2, "vocab_size": 500, "intermediate_size": 400}


def sized(benchmark: Any, config: dict[str, Any], **smaller: Any) -> dict[str, Any]:
    """The network; a run that only checks takes a small one."""
    return config if benchmark.enabled else config | SMALLER | smaller


def check(error: Callable[[Any], float], result: Any) -> None:
    found = error(result)
    assert found <= TOLERANCE, found


def limited(error: Callable[[Any], float]) -> Callable[[Any], None]:
    """The check of a result whose error must be small."""
    return partial(check, error)


def rivals_of(name: str, *arguments: Any) -> Iterator[peers.Peer]:
    """The formulations of a function of ``transformer_torch``, if there is torch; arrays become tensors."""
    if "torch" in peers.missing_libraries():
        return
    import torch
    import transformer_torch

    converted = (
        {key: torch.from_numpy(value) for key, value in argument.items()} if isinstance(argument, dict) else argument
        for argument in arguments
    )
    yield from getattr(transformer_torch, name)(*converted)


def compete(
    benchmark: Any,
    results: Results,
    name: str,
    nbytes: int,
    ours: Callable[[], Any],
    error: Callable[[Any], float],
    rivals: Sequence[peers.Peer],
    fresh: Callable[[], Any] | None = None,
    limit: tuple[str, Callable[[], Any]] | None = None,
) -> dict[str, float]:
    """The race of one row, and the errors of those who ran it. Returns the best times."""
    others: dict[str, Callable[[], Any]] = {f"peer {i}": peer.call for i, peer in enumerate(rivals)}
    if fresh:
        others["fresh"] = fresh
    if limit:
        others["limit"] = limit[1]
    slow = [f"peer {i}" for i, peer in enumerate(rivals) if peer.slow]
    best = raced(benchmark, results, name, ours, others, slow=slow)
    times = [PeerTime(peer.kind, peer.formulation, peer.reuses, best[f"peer {i}"]) for i, peer in enumerate(rivals)]
    row = Row(name, nbytes, best["ours"], best.get("fresh"), limit and limit[0], best.get("limit"), tuple(times))
    results.rows.append(row)
    results.figures.append(Figure(name, "error", error(ours())))
    kinds = list(dict.fromkeys(peer.kind for peer in rivals))
    for kind in kinds:
        fastest = min((i for i, peer in enumerate(rivals) if peer.kind == kind), key=lambda i: times[i].seconds)
        results.figures.append(Figure(name, f"error, {kind}", error(rivals[fastest].call())))
        if kind == "torch QR" and len(kinds) > 1:
            results.figures.append(Figure(name, RATIO_QR, times[fastest].seconds / best["ours"]))
    return best


def test_minilm(benchmark: Any, results: Results) -> None:
    """All symmetries of MiniLM but the residual one, every tensor written, against the streaming-write limit."""
    net = Bert(sized(benchmark, BERT, hidden_size=192, num_attention_heads=6))
    n = POINTS if benchmark.enabled else 3
    orbit = nf.Orbit(net.params, net.spec, seed=0)
    starts = count(step=n)
    out = orbit.points(0, n)
    nbytes = sum(value.nbytes for value in out.values())
    error = partial(net.error, n)

    def ours() -> Any:
        start = next(starts)
        return orbit.points(start, start + n, out=out)

    def fresh() -> Any:
        start = next(starts)
        return orbit.points(start, start + n)

    check(error, ours())
    check(error, fresh())
    found = rivals_of("bert_peers", net.params, net.layers, n, net.heads)
    rivals = contenders(found, limited(error), timed=benchmark.enabled)
    if benchmark.disabled:
        return
    limit = "write", machine.write_limit(nbytes)
    compete(benchmark, results, MINILM, nbytes, ours, error, rivals, fresh, limit)
    results.figures.append(Figure(MINILM, "parameters", sum(value.size for value in net.params.values()) / 1e6, "M"))


def test_minilm_threads(benchmark: Any, results: Results) -> None:
    """What the second thread gains, beside what the write limit gains from it. Points do not depend on threads."""
    if nf.get_num_threads() < 2:
        pytest.skip("one core")
    net = Bert(sized(benchmark, BERT, hidden_size=192, num_attention_heads=6))
    n = POINTS if benchmark.enabled else 3
    orbit = nf.Orbit(net.params, net.spec, seed=0)
    out = orbit.points(0, n)
    points = partial(orbit.points, 0, n, out=out)
    machine.on(1, points)
    alone = {name: value.copy() for name, value in out.items() if net.spec.touched(name)}
    machine.on(2, points)
    assert all(np.array_equal(value, out[name]) for name, value in alone.items())
    del alone
    if benchmark.disabled:
        return
    write = machine.write_limit(sum(value.nbytes for value in out.values()))
    name = f"threads {MINILM}"
    others = {"one": points, "write one": write, "write two": write}
    others = {key: partial(machine.on, 2 if key == "write two" else 1, call) for key, call in others.items()}
    best = raced(benchmark, results, name, partial(machine.on, 2, points), others)
    gain, most = best["one"] / best["ours"], best["write one"] / best["write two"]
    results.figures += [
        Figure(name, "one thread to two", gain, "x"),
        Figure(name, "one thread to two, write limit", most, "x"),
        Figure(name, "fraction of the limit on one thread", best["write one"] / best["one"]),
        Figure(name, THREAD_GAIN, gain / most),
    ]


GROUPS = {
    HAAR: (nf.groups.Orthogonal, "haar_peers", haar_error),
    LINEAR: (nf.groups.GeneralLinear, "general_linear_peers", general_linear_error),
}


@pytest.mark.parametrize("name", GROUPS)
def test_matrices(benchmark: Any, results: Results, name: str) -> None:
    """Random matrices alone, with their inverses."""
    n, m = MATRICES
    n = n if benchmark.enabled else 2_000
    kind, formulations, error_of = GROUPS[name]
    group = kind(m)
    error = partial(error_of, n, m)
    starts = count(step=n)

    def ours() -> Any:
        element = group.sample(n, start=next(starts), dtype="float32")
        return [element.matrix, element.inverse]

    check(error, ours())
    rivals = contenders(rivals_of(formulations, n, m), limited(error), timed=benchmark.enabled)
    if benchmark.disabled:
        return
    compete(benchmark, results, name, n * m * m * 4, ours, error, rivals)


def products(net: Rotated, rotations: Array, out: Mapping[str, Array]) -> None:
    """The products of a rotation by numpy.matmul, into buffers, and nothing else."""
    for k, rotation in enumerate(rotations):
        for name in (net.embedding, *net.readers):
            np.matmul(net.params[name], rotation.T, out=out[name][k])
        for name in net.writers:
            np.matmul(rotation, net.params[name], out=out[name][k])


def test_rotation(benchmark: Any, results: Results) -> None:
    """The residual rotation of Llama's shapes, against the products alone by the BLAS that NumPy has."""
    net = Rotated(sized(benchmark, LLAMA))
    n = ROTATIONS if benchmark.enabled else 2
    orbit = nf.Orbit(net.params, net.spec, seed=0)
    starts = count(step=n)
    out = orbit.points(0, n)
    nbytes = sum(value.nbytes for value in out.values())
    error = partial(net.error, n)

    def ours() -> Any:
        start = next(starts)
        return orbit.points(start, start + n, out=out)

    def fresh() -> Any:
        start = next(starts)
        return orbit.points(start, start + n)

    check(error, ours())
    check(error, fresh())
    matrices = orbit.elements(0, n)["residual"].matrix.astype(np.float32)
    bare = {name: np.ones_like(value) for name, value in out.items()}
    products(net, matrices, bare)
    check(error, bare)
    found = rivals_of("rotation_peers", net.params, [net.embedding, *net.readers], net.writers, n)
    rivals = contenders(found, limited(error), timed=benchmark.enabled)
    if benchmark.disabled:
        return
    limit = "matmul", partial(products, net, matrices, bare)
    best = compete(benchmark, results, ROTATION, nbytes, ours, error, rivals, fresh, limit)
    flops = 2.0 * n * net.size * matrices.shape[1]
    results.figures += [
        Figure(ROTATION, "parameters", sum(value.size for value in net.params.values()) / 1e6, "M"),
        Figure(ROTATION, "rate of its products", flops / best["ours"] / 1e9, "GFLOP/s"),
        Figure(ROTATION, "rate of numpy.matmul", flops / best["limit"] / 1e9, "GFLOP/s"),
    ]


@pytest.mark.parametrize("role", [role for role in ROLES if role not in ("key bias", *FIXED)])
def test_the_check_of_minilm_sees(role: str) -> None:
    """Negative control: one kind of tensor that is moved by another element. A key bias does not change any score."""
    net = Bert(BERT | {"num_hidden_layers": 1, "vocab_size": 10})
    points = nf.Orbit(net.params, net.spec, seed=0).points(0, 3)
    check(partial(net.error, 3), points)
    name = net.layers[0][role]
    with pytest.raises(AssertionError):
        check(partial(net.error, 3), points | {name: np.roll(points[name], 1, axis=0)})


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight", "lm_head.weight"])
def test_the_check_of_the_rotation_sees(name: str) -> None:
    """Negative control, as for MiniLM."""
    net = Rotated(LLAMA | {"num_hidden_layers": 1, "vocab_size": 50})
    points = nf.Orbit(net.params, net.spec, seed=0).points(0, 2)
    check(partial(net.error, 2), points)
    with pytest.raises(AssertionError):
        check(partial(net.error, 2), points | {name: points[name][::-1]})


@pytest.mark.parametrize(("name", "wrong"), [(HAAR, -1), (LINEAR, -1), (HAAR, 1), (LINEAR, 1)])
def test_the_check_of_matrices_sees(name: str, wrong: int) -> None:
    """Negative control: determinants or traces that no random matrices have, and inverses of others."""
    kind, _, error_of = GROUPS[name]
    element = kind(32).sample(2_000, dtype="float32")
    matrix, inverse = element.matrix, element.inverse
    check(partial(error_of, 2_000, 32), [matrix, inverse])
    if wrong == 1:
        matrix, inverse = 1.01 * matrix, inverse
    elif name == HAAR:
        matrix = matrix * np.sign(np.einsum("kii->ki", matrix))[:, None, :]
    else:
        matrix, inverse = matrix * 2, inverse / 2
    with pytest.raises(AssertionError):
        check(partial(error_of, 2_000, 32), [matrix, inverse])
