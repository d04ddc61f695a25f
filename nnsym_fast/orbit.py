# SPDX-License-Identifier: MIT
"""The action of group elements on a network's parameters, and the orbit that random elements make."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, overload

from nnsym_fast._arrays import Framework, check_disjoint, framework_of
from nnsym_fast._program import Program, Signature, complete_elements, draw_elements, run_points
from nnsym_fast.elements import Elements, SiteElements, check_count, check_integer, check_seed, check_start
from nnsym_fast.specs.norms import check_folded
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["Orbit", "act", "augment"]

Tensors = dict[str, Any]
_program = lru_cache(maxsize=16)(Program)  # each keeps its scratch memory for the next call


def _check_spec(spec: object) -> None:
    if not isinstance(spec, SymmetrySpec):
        raise TypeError(f"spec: expected a SymmetrySpec, got {type(spec).__name__}; see the order of the arguments")


def _signature(framework: Framework, tensors: Mapping[str, Any], stacked: bool) -> Signature:
    return tuple(
        (name, tuple(value.shape[1:] if stacked else value.shape), framework.dtype_name(value))
        for name, value in tensors.items()
    )


def _prepare(framework: Framework, params: Mapping[str, Any]) -> Tensors:
    return {name: framework.prepare(name, value) for name, value in params.items()}


def _run(
    program: Program,
    framework: Framework,
    tensors: Tensors,
    count: int,
    *,
    out: Mapping[str, Any] | None = None,
    share: bool = False,
    stacked: bool = False,
    seed: int = 0,
    first: int = 0,
    step: int = 1,
    elements: Mapping[str, SiteElements] | None = None,
) -> Tensors:
    """Points of prepared tensors: by given elements, or by elements first, first + step, ... of a seed."""
    if out is not None and not isinstance(out, Mapping):
        raise TypeError(f"out: expected the dict of an earlier call, got {type(out).__name__}")
    result: Tensors = {}
    written: Tensors = {}
    for name, value in tensors.items():
        shape = value.shape[1:] if stacked else value.shape
        if share and name not in program.touched:
            result[name] = value if stacked else framework.repeat(value, count)
        elif out is None:
            result[name] = written[name] = framework.empty((count, *shape), value)
        else:
            result[name] = written[name] = _out(framework, out, name, value, count, shape)
    if out is not None:
        check_disjoint(framework, written, tensors)
    if not count:
        return result
    run_points(program, framework, tensors, written, count, stacked, (seed, first, step), elements)
    return result


def _out(framework: Framework, out: Mapping[str, Any], name: str, like: Any, count: int, shape: tuple[int, ...]) -> Any:
    if name not in out:
        raise ValueError(f"out: no buffer for tensor {name!r}; pass the dict of an earlier call")
    target = out[name]
    framework.check_out(name, target, like)
    if tuple(target.shape[1:]) != tuple(shape) or target.ndim != len(shape) + 1 or target.shape[0] < count:
        expected = f"({count} or more, {str(tuple(shape))[1:]}" if shape else f"({count} or more,)"
        raise ValueError(f"out[{name!r}]: expected shape {expected}, got {tuple(target.shape)}")
    return target[:count]


def apply(
    spec: SymmetrySpec,
    elements: Mapping[str, Any],
    params: Mapping[str, Any],
    stacked: bool,
    framework: Framework,
    out: Mapping[str, Any] | None = None,
) -> Tensors:
    """:func:`act` without autograd."""
    tensors, program, given, count = _compile(spec, elements, params, stacked, framework)
    return _run(program, framework, tensors, count, out=out, stacked=stacked, elements=given)


def _compile(
    spec: SymmetrySpec, elements: Mapping[str, Any], params: Mapping[str, Any], stacked: bool, framework: Framework
) -> tuple[Tensors, Program, dict[str, SiteElements], int]:
    _check_folded(framework, params, spec)
    tensors = _prepare(framework, params)
    networks = _leading_axis(tensors, None) if stacked else None
    program = _program(spec, _signature(framework, tensors, stacked))
    given, count = complete_elements(program, framework, tensors, elements)
    if networks is not None:
        if not spec.sites:
            return tensors, program, given, networks
        _leading_axis(tensors, count)
    return tensors, program, given, count


def _check_folded(framework: Framework, params: Mapping[str, Any], spec: SymmetrySpec) -> None:
    """:func:`check_folded`, but for tensors on a device: to look at their numbers would be to wait for them."""
    if framework.kernels is None:
        check_folded(params, spec)


def _leading_axis(tensors: Mapping[str, Any], count: int | None) -> int:
    """The common leading axis of stacked networks; ``count`` where it is known."""
    for name, value in tensors.items():
        if value.ndim < 1 or (count is not None and value.shape[0] != count):
            expected = "a leading axis of networks" if count is None else f"the leading axis {count}, one network each"
            raise ValueError(f"tensor {name!r}: expected {expected}, got shape {tuple(value.shape)}")
        count = int(value.shape[0])
    if count is None:
        raise ValueError("params: expected at least one stacked tensor, got none")
    return count


def act(
    spec: SymmetrySpec,
    elements: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    stacked: bool = False,
    out: Mapping[str, Any] | None = None,
) -> Tensors:
    """Apply ``n`` group elements to a network, or element ``k`` to network ``k`` of a stack.

    A weight with the legs ``("a", "b*")`` becomes ``out[k, i, j] = a[k, i] W[p_a[k, i], p_b[k, j]] / b[k, j]``, a link
    of a lattice gauge field (Hashimoto, Hirono, Sannai 2402.02362). Differentiable in ``params`` to any order (torch).

    Args:
        spec: the symmetry.
        elements: ``spec.sample(n)`` and the like: site name -> ``perm`` int32, ``sign`` int8, ``scale`` of shape
            ``(n, size)``, NumPy or, beside tensors on a device, tensors there. Of those only shapes and dtypes are
            checked; where ``perm`` is no permutation, the tensors that it moves become NaN.
        params: tensor name -> array or torch tensor on the CPU or a CUDA device, float32, float64, bfloat16 or float16
            where a leg acts. One network, or with ``stacked`` ``n`` of them along a leading axis.
        stacked: whether ``params`` carry that leading axis.
        out: results of an earlier call, to be overwritten; not with tensors that need gradients.

    Returns:
        tensor name -> array of the same framework and dtype, with the leading axis ``n``. Arithmetic is float64 where a
        leg acts on a float64 tensor, else float32.

    Raises:
        TypeError: mixed frameworks, or a dtype that the kernel does not take.
        ValueError: params do not fit the spec, or elements do not; a tensor on another device.

    >>> import numpy as np, nnsym_fast as nf
    >>> spec = nf.specs.mlp([2, 3, 1])
    >>> params = {name: np.ones(shape) for name, shape in nf.specs.shapes(nf.specs.mlp_layers([2, 3, 1])).items()}
    >>> points = nf.act(spec, spec.sample(5), params)
    >>> points["0.weight"].shape
    (5, 3, 2)
    >>> bool(np.allclose(points["2.weight"] @ points["0.weight"], 3.0))
    True
    """
    _check_spec(spec)
    framework = framework_of(params)
    if framework.name == "torch":
        from nnsym_fast import _torch

        if _torch.needs_grad(list(params.values())):
            if out is not None:
                raise ValueError("out: not with tensors that need gradients; call under torch.no_grad(), or omit it")
            _, _, given, count = _compile(spec, elements, params, stacked, framework)
            return _torch.differentiable_act(spec, given, count, params, stacked)
    return apply(spec, elements, params, stacked, framework, out)


def augment(
    params: Mapping[str, Any], spec: SymmetrySpec, *, seed: int, start: int = 0, out: Mapping[str, Any] | None = None
) -> Tensors:
    """Move each of ``n`` stacked networks to a random point of its orbit: data augmentation in weight space.

    Network ``k`` is acted on by element ``start + k`` of ``seed``, whatever the batch it comes in.

    Args:
        params: tensor name -> array of shape ``(n, ...)``, see :func:`act`.
        spec: the symmetry of one network.
        seed: 64-bit seed.
        start: index of the first element; advance it by ``n`` for fresh elements.
        out: results of an earlier call, to be overwritten.

    Returns:
        tensor name -> array of shape ``(n, ...)``.

    Raises:
        TypeError, ValueError: as :func:`act`.

    >>> import numpy as np, nnsym_fast as nf
    >>> spec = nf.specs.mlp([2, 3, 1])
    >>> stack = {name: np.ones((7, *shape)) for name, shape in nf.specs.shapes(nf.specs.mlp_layers([2, 3, 1])).items()}
    >>> nf.augment(stack, spec, seed=0)["0.weight"].shape
    (7, 3, 2)
    """
    _check_spec(spec)
    seed = check_seed(seed)
    framework = framework_of(params)
    _check_folded(framework, params, spec)
    tensors = _prepare(framework, params)
    count = _leading_axis(tensors, None)
    start = check_start(start, count)
    program = _program(spec, _signature(framework, tensors, True))
    if framework.name == "torch":
        from nnsym_fast import _torch

        if _torch.needs_grad(list(params.values())):
            elements = draw_elements(program, framework, tensors, count, seed, start)
            return act(spec, elements, params, stacked=True, out=out)
    return _run(program, framework, tensors, count, out=out, stacked=True, seed=seed, first=start)


class Orbit(Sequence[Tensors]):
    """The orbit of a network under random elements of its symmetry group: a lazy, random-access sequence of networks.

    Point ``i`` depends on ``(params, spec, seed, i)`` alone, bit for bit, whatever the slices and threads it comes in.
    Nothing is stored but a reference to ``params``: do not change them while the orbit is in use. Tensors on a CUDA
    device give points there, on its current stream. That norms are folded (``spec.folds``) is checked here, where this
    waits for a device; ``act`` and ``augment`` check it for tensors on the CPU alone.

    Args:
        params: tensor name -> array or torch tensor, one network, see :func:`act`; or an object with ``shape``,
            ``dtype`` and a method ``load()`` that gives the array, which is called when the tensor is needed.
        spec: its symmetry.
        seed: 64-bit seed.
        samples: length of the sequence, by default ``sys.maxsize``.

    Raises:
        TypeError, ValueError: as :func:`act`.

    >>> import numpy as np, nnsym_fast as nf
    >>> params = {name: np.ones(shape) for name, shape in nf.specs.shapes(nf.specs.mlp_layers([2, 3, 1])).items()}
    >>> orbit = nf.Orbit(params, nf.specs.mlp([2, 3, 1]), seed=0, samples=100)
    >>> orbit[7]["0.weight"].shape, orbit[10:20]["0.weight"].shape, len(orbit)
    ((3, 2), (10, 3, 2), 100)
    """

    def __init__(
        self, params: Mapping[str, Any], spec: SymmetrySpec, seed: int = 0, *, samples: int | None = None
    ) -> None:
        _check_spec(spec)
        self._framework = framework_of(params)
        self._tensors = {
            name: value if hasattr(value, "load") else self._framework.prepare(name, value)
            for name, value in params.items()
        }
        gains = {name for fold in spec.folds for name in (fold.gain, fold.bias) if name in self._tensors}
        check_folded(self._loaded(gains), spec)
        self._signature = _signature(self._framework, self._tensors, False)
        self._program = _program(spec, self._signature)
        self._length = sys.maxsize if samples is None else check_count(samples, "samples")
        if self._length > sys.maxsize:
            raise ValueError(f"samples: expected at most {sys.maxsize}, got {samples}")
        self.spec = spec
        self.seed = check_seed(seed)

    def __len__(self) -> int:
        return self._length

    @property
    def params(self) -> Tensors:
        """The base point."""
        return self._loaded(self._tensors)

    def _loaded(self, names: Iterable[str]) -> Tensors:
        """Tensors of the base point; those on disk are read."""
        result = {}
        for name in names:
            value = self._tensors[name]
            result[name] = self._framework.prepare(name, value.load()) if hasattr(value, "load") else value
        return result

    def points(
        self,
        start: int,
        stop: int,
        out: Mapping[str, Any] | None = None,
        *,
        share: bool = False,
        names: Iterable[str] | None = None,
    ) -> Tensors:
        """Points ``start .. stop - 1``, stacked.

        Args:
            start: first index, ``0 <= start``.
            stop: one past the last, ``start <= stop <= len(self)``.
            out: results of an earlier call of as many points or more, to be overwritten (the result is views of them).
            share: tensors that no leg touches come as views of the base point, with stride 0 along the first axis.
            names: tensors to compute; by default all. A large network goes through memory tensor by tensor.

        Returns:
            tensor name -> array of shape ``(stop - start, ...)``.

        Raises:
            IndexError: indices out of range.
            TypeError, ValueError: buffers that do not fit, unknown names.
        """
        first, last = self._range(start, stop)
        return self._points(first, 1, last - first, out, share, names)

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        first, last = check_integer(start, "start"), check_integer(stop, "stop")
        if not 0 <= first <= last <= self._length:
            raise IndexError(f"points {first} to {last}: expected 0 <= start <= stop <= {self._length}")
        return first, last

    def _points(
        self,
        first: int,
        step: int,
        count: int,
        out: Mapping[str, Any] | None,
        share: bool,
        names: Iterable[str] | None = None,
    ) -> Tensors:
        program, chosen = self._program, self._tensors
        if names is not None:
            wanted = frozenset([names] if isinstance(names, str) else names)
            if unknown := sorted(wanted - set(self._tensors)):
                raise ValueError(f"names: expected tensors of the network, got {unknown}")
            program = _program(self.spec, self._signature, wanted)
            chosen = {name: value for name, value in self._tensors.items() if name in wanted}
        return _run(
            program,
            self._framework,
            self._loaded(chosen),
            count,
            out=out,
            share=share,
            seed=self.seed,
            first=first,
            step=step,
        )

    @overload  # type: ignore[override]  # a slice is one dict of stacked tensors
    def __getitem__(self, index: int) -> Tensors: ...
    @overload
    def __getitem__(self, index: slice) -> Tensors: ...
    def __getitem__(self, index: int | slice) -> Tensors:
        """Point ``index``; or, for a slice, its points stacked along a new first axis."""
        if isinstance(index, slice):
            indices = range(*index.indices(self._length))
            if not indices:
                return self._points(0, 1, 0, None, False)
            step = indices.step if len(indices) > 1 else 1
            if indices[0] + step * (len(indices) - 1) < 0 or step < 0:
                # Ascending for the kernel, whose indices are unsigned; then turned round.
                points = self._points(indices[-1], -step, len(indices), None, False)
                return {name: self._framework.reverse(value) for name, value in points.items()}
            return self._points(indices[0], step, len(indices), None, False)
        try:
            position = operator.index(index)
        except TypeError:
            raise TypeError(f"index: expected an integer or a slice, got {type(index).__name__}") from None
        if not -self._length <= position < self._length:
            raise IndexError(f"index: expected {-self._length} .. {self._length - 1}, got {position}")
        points = self._points(position % self._length, 1, 1, None, False)
        return {name: value[0, ...] for name, value in points.items()}

    def elements(self, start: int, stop: int) -> Elements:
        """The group elements of points ``start .. stop - 1``: ``act(spec, elements, params)`` gives the points."""
        first, last = self._range(start, stop)
        return draw_elements(self._program, self._framework, self._tensors, last - first, self.seed, first)

    def batches(
        self, size: int, *, start: int = 0, stop: int | None = None, reuse: bool = True, share: bool = False
    ) -> Iterator[Tensors]:
        """Points in batches of ``size``, the last one shorter.

        Args:
            size: points per batch, at least 1.
            start, stop: range of points; by default all.
            reuse: overwrite the buffers of the batch before, which is then no longer valid; False allocates each anew.
            share: see :meth:`points`.

        Yields:
            tensor name -> array of shape ``(size, ...)``.
        """
        size = check_count(size, "size")
        if size < 1:
            raise ValueError("size: expected at least 1 point per batch, got 0")
        first, last = self._range(start, self._length if stop is None else stop)
        return self._batches(size, first, last, reuse, share)

    def _batches(self, size: int, first: int, last: int, reuse: bool, share: bool) -> Iterator[Tensors]:
        buffers: Tensors | None = None
        for begin in range(first, last, size):
            count = min(size, last - begin)
            batch = self._points(begin, 1, count, buffers, share)
            if reuse and buffers is None:
                buffers = batch
            yield dict(batch)

    def dataset(self) -> Any:
        """The orbit as a map-style ``torch.utils.data.Dataset`` of torch tensors, one dict per point.

        Raises:
            ImportError: torch is not installed.
        """
        from nnsym_fast import _torch

        return _torch.OrbitDataset(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Orbit, samples=self._length), (self._tensors, self.spec, self.seed)

    def __repr__(self) -> str:
        return f"Orbit({self.spec!r}, seed={self.seed}, {self._length} points)"
