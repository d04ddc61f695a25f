# SPDX-License-Identifier: MIT
"""Haar matrices, the orbit of BERT and the rotation of a residual stream in torch, several formulations.

A network is a dict of tensors with weights stored (out, in); a result has the same names and a leading axis n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peers import SCALE_STD, Peer

__all__ = ["bert_peers", "general_linear_peers", "haar_peers", "rotation_peers"]

Tensors = dict[str, torch.Tensor]
Names = Mapping[str, str]
Haar = Callable[[int, int], torch.Tensor]

SHIFT_STD = 0.5
"""Standard deviation of a shift: the default of ``nnsym_fast.groups``."""


def qr(n: int, m: int) -> torch.Tensor:
    """Haar matrices (n, m, m): QR of Gaussian matrices, with the sign fix of Mezzadri 2007."""
    q, r = torch.linalg.qr(torch.randn(n, m, m))
    return q.mul_(r.diagonal(dim1=1, dim2=2).sign()[:, None, :])


def householder(n: int, m: int) -> torch.Tensor:
    """The same in its two steps: R is not copied out of the factorisation."""
    packed, tau = torch.geqrf(torch.randn(n, m, m))
    q = torch.linalg.householder_product(packed, tau)
    return q.mul_(packed.diagonal(dim1=1, dim2=2).sign()[:, None, :])


def _vectors(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reflections 1 - tau v v^T that make a Haar matrix, v the columns (n, m, m), and its signs: no factorisation.

    What QR reflects to an axis, column by column, is Gaussian: it can as well be drawn as such (Stewart 1980).
    """
    v = torch.randn(n, m, m).tril_()
    corner = v.diagonal(dim1=1, dim2=2)
    sign = torch.ones(()).copysign(corner)
    norm = v.square().sum(1).sqrt_()
    tau = 1 / (norm * (norm + corner.abs()))
    corner.add_(sign * norm)
    return v, tau, -sign


def triangular(n: int, m: int) -> torch.Tensor:
    """All reflections of a matrix at once: 1 - V T V^T with a triangular T^-1 (Puglisi 1992)."""
    v, tau, sign = _vectors(n, m)
    inverse = torch.bmm(v.mT, v).triu_(1)
    inverse.diagonal(dim1=1, dim2=2).copy_(1 / tau)
    inner = torch.linalg.solve_triangular(inverse, v.mT, upper=True)
    return torch.baddbmm(torch.eye(m), v, inner, alpha=-1).mul_(sign[:, None, :])


def batch_last(n: int, m: int) -> torch.Tensor:
    """One reflection after the other, of all matrices at once; the batch is the last axis."""
    v = torch.randn(m, m, n)
    q = torch.zeros(m, m, n)
    signs = torch.empty(m, n)
    for k in reversed(range(m)):
        x, block = v[k, k:], q[k:, k:]
        norm = x.square().sum(0).sqrt_()
        tau = 1 / (norm * (norm + x[0].abs()))
        sign = torch.ones(()).copysign(x[0])
        torch.neg(sign, out=signs[k])
        x[0] += sign * norm
        q[k, k] = 1
        inner = (block * x[:, None]).sum(0).mul_(tau)
        block.addcmul_(x[:, None], inner[None], value=-1)
    return q.mul_(signs).permute(2, 0, 1).contiguous()


PIECE = 8192
"""Matrices of which ``batch_last`` makes one piece: beyond, its rows are so long that they leave the caches."""


def pieces(n: int, m: int) -> torch.Tensor:
    """``batch_last``, piece by piece."""
    return torch.cat([batch_last(min(PIECE, n - first), m) for first in range(0, n, PIECE)])


QR = "torch QR"
REFLECTIONS = "torch reflections"
HAAR: tuple[tuple[str, str, Haar], ...] = (
    (QR, "linalg.qr, signs", qr),
    (REFLECTIONS, "bmm, solve_triangular", triangular),
    (REFLECTIONS, "one by one, batch last", batch_last),
    (QR, "geqrf, householder_product, signs", householder),
    (REFLECTIONS, f"one by one, batch last, {PIECE} at a time", pieces),
)
"""The first three are the fastest ones of their kinds for thousands of matrices of 32 x 32."""


def general_linear(n: int, m: int, haar: Haar) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices K1 diag(s) K2 and their duals, the transposed inverses, which the factors give: K1 diag(1/s) K2."""
    left, right = haar(2 * n, m).view(2, n, m, m)
    scale = torch.randn(n, 1, m).mul_(SCALE_STD).exp_()
    return torch.bmm(left * scale, right), torch.bmm(left / scale, right)


def haar_peers(n: int, m: int) -> Iterator[Peer]:
    """Haar matrices alone."""
    for kind, formulation, haar in HAAR:
        yield Peer(kind, formulation, lambda haar=haar: [haar(n, m)], slow=True)


def general_linear_peers(n: int, m: int) -> Iterator[Peer]:
    """Matrices and inverses."""

    def job(haar: Haar) -> list[torch.Tensor]:
        matrix, dual = general_linear(n, m, haar)
        return [matrix, dual.mT]

    for kind, formulation, haar in HAAR[:2]:
        yield Peer(kind, formulation, partial(job, haar), slow=True)


@dataclass(frozen=True)
class Elements:
    """Of one layer, or with one more leading axis of all of them.

    ``heads`` (n, h): permutation; ``key``, ``query``, ``value``, ``output`` (n, h, m, m): what acts on the rows of the
    first three and on the columns of the last; ``shift`` (n, h m) of the key bias; ``units`` (n, ff): permutation.
    """

    heads: torch.Tensor
    key: torch.Tensor
    query: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    shift: torch.Tensor
    units: torch.Tensor

    def __getitem__(self, index: int | slice) -> Elements:
        return Elements(**{name: part[index] for name, part in vars(self).items()})


def draw(layers: int, n: int, h: int, m: int, units: int, haar: Haar) -> Elements:
    """The elements of all layers."""
    matrix, dual = general_linear(2 * layers * n * h, m, haar)
    (key, value), (query, output) = (part.view(2, layers, n, h, m, m) for part in (matrix, dual))
    # Sorting random integers is the fastest batch of permutations.
    heads, hidden = (
        torch.randint(-(2**31), 2**31 - 1, (layers, n, size), dtype=torch.int32).argsort(2) for size in (h, units)
    )
    shift = torch.randn(layers, n, h * m).mul_(SHIFT_STD)
    return Elements(heads, key, query, value, output, shift, hidden)


class Bert:
    """The job: ``layers`` says role -> tensor name for each layer, roles as in ``transformer_work``."""

    def __init__(self, params: Tensors, layers: Sequence[Names], n: int, h: int) -> None:
        self.params, self.layers, self.n, self.h = params, layers, n, h
        inside = {name for layer in layers for name in layer.values()}
        self.rest = [name for name in params if name not in inside]
        self.width = params[layers[0]["output"]].shape[0]
        self.m = params[layers[0]["key"]].shape[0] // h
        self.units = params[layers[0]["up"]].shape[0]
        # Made once, in the layout that suits: columns of the output projection by head, each (m, d).
        self.columns = [params[layer["output"]].T.contiguous().view(h, self.m, -1) for layer in layers]

    def buffers(self, make: Callable[..., torch.Tensor] = torch.empty) -> Tensors:
        return {name: make(self.n, *value.shape) for name, value in self.params.items()}

    def draw(self, haar: Haar) -> Elements:
        return draw(len(self.layers), self.n, self.h, self.m, self.units, haar)

    def _vector(self, name: str, matrix: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """A bias (n, h m) that moves with the rows of its weight."""
        moved = self.params[name].view(self.h, self.m)[heads]
        return (matrix @ moved[..., None]).view(len(heads), -1)

    def matmul(self, haar: Haar) -> Tensors:
        """Advanced indices and matmul of everything at once."""
        n, params, result = self.n, self.params, {}
        for layer, columns, e in zip(self.layers, self.columns, self._all(haar), strict=True):
            for role in ("query", "key", "value"):
                matrix, name = getattr(e, role), layer[role]
                moved = params[name].view(self.h, self.m, -1)[e.heads]
                result[name] = (matrix @ moved).view(n, -1, self.width)
                result[layer[f"{role} bias"]] = self._vector(layer[f"{role} bias"], matrix, e.heads)
            result[layer["key bias"]] += e.shift
            moved = torch.einsum("nhij,nhjd->ndhi", e.output, columns[e.heads])
            result[layer["output"]] = moved.reshape(n, self.width, -1)
            down = params[layer["down"]]
            result[layer["up"]] = params[layer["up"]][e.units]
            result[layer["up bias"]] = params[layer["up bias"]][e.units]
            result[layer["down"]] = down.expand(n, -1, -1).gather(2, e.units[:, None].expand(n, *down.shape))
            for name in (layer["output bias"], layer["down bias"]):
                result[name] = params[name].expand(n, -1).clone()
        for name in self.rest:
            result[name] = params[name].expand(n, *params[name].shape).clone()
        return result

    def _all(self, haar: Haar) -> list[Elements]:
        elements = self.draw(haar)
        return [elements[i] for i in range(len(self.layers))]

    def into(self, haar: Haar, chunk: int, out: Tensors | None = None) -> Tensors:
        """index_select, bmm and gather into buffers, ``chunk`` samples at a time; without ``out`` these are new."""
        out = self.buffers() if out is None else out
        elements = self._all(haar)
        for first in range(0, self.n, chunk):
            part = slice(first, first + chunk)
            for layer, columns, e in zip(self.layers, self.columns, elements, strict=True):
                self._layer(layer, columns, e[part], {name: out[name][part] for name in layer.values()})
            for name in self.rest:
                out[name][part].copy_(self.params[name])
        return out

    def _layer(self, layer: Names, columns: torch.Tensor, e: Elements, out: Tensors) -> None:
        n, h, m, width = len(e.heads), self.h, self.m, self.width
        flat = e.heads.reshape(-1)
        for role in ("query", "key", "value"):
            moved = self.params[layer[role]].view(h, m * width).index_select(0, flat).view(n * h, m, width)
            matrix = getattr(e, role)
            torch.bmm(matrix.reshape(n * h, m, m), moved, out=out[layer[role]].view(n * h, m, width))
            out[layer[f"{role} bias"]].copy_(self._vector(layer[f"{role} bias"], matrix, e.heads))
        out[layer["key bias"]].add_(e.shift)
        moved = columns.view(h, m * width).index_select(0, flat).view(n * h, m, width)
        product = torch.bmm(e.output.reshape(n * h, m, m), moved)
        out[layer["output"]].copy_(product.view(n, h * m, width).mT)
        up, down = out[layer["up"]], out[layer["down"]]
        torch.index_select(self.params[layer["up"]], 0, e.units.reshape(-1), out=up.view(-1, width))
        out[layer["up bias"]].copy_(self.params[layer["up bias"]][e.units])
        torch.gather(self.params[layer["down"]].expand(down.shape), 2, e.units[:, None].expand(down.shape), out=down)
        for name in (layer["output bias"], layer["down bias"]):
            out[name].copy_(self.params[name].expand(n, -1))


def bert_peers(params: Tensors, layers: Sequence[Names], n: int, h: int) -> Iterator[Peer]:
    """Every formulation of the orbit, with QR and with what makes Haar matrices faster."""
    job = Bert(params, layers, n, h)
    out = job.buffers(torch.zeros)
    for kind, haar_formulation, haar in HAAR[:3]:
        yield Peer(kind, f"{haar_formulation}; matmul", partial(job.matmul, haar))
        for chunk, note in ((n, "all"), (4, "4")):
            formulation = f"{haar_formulation}; index_select, bmm, gather, {note} at a time"
            yield Peer(kind, formulation, partial(job.into, haar, chunk))
            yield Peer(kind, f"{formulation}, out=", partial(job.into, haar, chunk, out), reuses=True)


def rotation_peers(params: Tensors, readers: Sequence[str], writers: Sequence[str], n: int) -> Iterator[Peer]:
    """R on the rows of ``writers`` and R^T on the columns of ``readers``; the other tensors are copied."""
    rest = [name for name in params if name not in {*readers, *writers}]
    out = {name: torch.zeros(n, *value.shape) for name, value in params.items()}
    width = params[readers[0]].shape[1]
    # Made once: one product for all that reads the stream or is read from it by rows.
    sizes = [params[name].shape[0] for name in readers]
    together = torch.cat([params[name] for name in readers])
    stack = torch.zeros(n, *together.shape)

    def matmul() -> Tensors:
        rotation = qr(n, width)
        result = {name: params[name] @ rotation.mT for name in readers}
        result |= {name: rotation @ params[name] for name in writers}
        return result | {name: params[name].expand(n, *params[name].shape).clone() for name in rest}

    def others(rotation: torch.Tensor, k: int) -> None:
        for name in writers:
            torch.matmul(rotation, params[name], out=out[name][k])
        for name in rest:
            out[name][k].copy_(params[name])

    def into() -> Tensors:
        for k, rotation in enumerate(qr(n, width)):
            for name in readers:
                torch.matmul(params[name], rotation.T, out=out[name][k])
            others(rotation, k)
        return out

    def joined() -> Tensors:
        for k, rotation in enumerate(qr(n, width)):
            torch.matmul(together, rotation.T, out=stack[k])
            others(rotation, k)
        return out | dict(zip(readers, stack.split(sizes, 1), strict=True))

    yield Peer(QR, "matmul of all", matmul)
    yield Peer(QR, "matmul, out=, one by one", into, reuses=True)
    yield Peer(QR, "matmul, out=, readers as one matrix", joined, reuses=True)
