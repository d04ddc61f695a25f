# SPDX-License-Identifier: MIT
"""The Zarr v3 store of a job: blocks that are either complete or not there.

Layout::

    X.zarr/                 attributes: seed, spec, checkpoint hash, version, model, identity ...
      points/<tensor>       (samples, ...)        one array per tensor, one shard per block of samples
      base/<tensor>         (...)                 the network that the orbit starts from; not with a large network
                                                  whose points are not stored
      observables/<name>    (samples, columns)    float64, attributes name the columns
      probes                (batch, ...)          the inputs on which functions are compared
      complete              (blocks,)             true where all data of a block is on disk; one file per block

The file of ``complete`` is written last, so a run that stops anywhere (Ctrl-C, a full disk, a lost machine) leaves a
store that says truly what it holds. Blocks are independent of each other and share no file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from nnsym_fast.job import shards
from nnsym_fast.job.checkpoint import Checkpoint, Model
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.lazy import array_of
from nnsym_fast.job.observables import Observable
from nnsym_fast.job.plan import Plan, Tensor, describe
from nnsym_fast.symmetry import SymmetrySpec

__all__ = ["FORMAT", "Store", "create", "is_free", "open_store", "prepare"]

Array: TypeAlias = npt.NDArray[Any]

FORMAT = 1
"""Version of the layout above."""

KEY = "nnsym_fast"
"""The attribute of the root group under which everything is kept."""


BFLOAT16_NAN = 0x7FC0
"""Zarr has no bfloat16: such tensors are stored as the uint16 of their bits, with the attribute dtype = "bfloat16"."""


class Store:
    """An existing store.

    Args:
        path: its directory.
        plan: the job that it belongs to.
        model: what evaluates the network, or None.
        config: its configuration, or None.
        group: its root, opened by zarr.
    """

    def __init__(
        self, path: Path, plan: Plan, model: Model | None, config: Mapping[str, Any] | None, group: zarr.Group
    ) -> None:
        self.path = path
        self.plan = plan
        self.model = model
        self.config = config
        self.group = group

    @property
    def holds_network(self) -> bool:
        """Whether the network that the orbit starts from is in the store."""
        return "base" in self.group or not self.plan.tensors

    def base(self) -> dict[str, Array]:
        """The network that the orbit starts from.

        Raises:
            JobError: the store does not hold it.
        """
        if not self.holds_network:
            raise JobError(f"{self.path}: does not hold the network itself (it is large, and --no-points was given)")
        return {tensor.name: self._tensor(f"base/{tensor.name}", tensor, ...) for tensor in self.plan.tensors}

    def checkpoint(self) -> Checkpoint:
        """The network that the orbit starts from, as :func:`nnsym_fast.job.checkpoint.load` gave it."""
        probes = np.asarray(self.array("probes")[...]) if "probes" in self.group else None
        plan = self.plan
        return Checkpoint(plan.checkpoint, plan.sha256, self.base(), plan.spec, self.model, probes, self.config)

    def points(self, start: int, stop: int) -> dict[str, Array]:
        """Stored points ``start .. stop - 1``, stacked; bfloat16 as ml_dtypes knows it."""
        if not self.plan.points:
            raise JobError(f"{self.path}: holds no points (it was written with --no-points)")
        return {
            tensor.name: self._tensor(f"points/{tensor.name}", tensor, slice(start, stop))
            for tensor in self.plan.tensors
        }

    def observable(self, name: str) -> Array:
        """All samples of an observable, ``(samples, columns)``."""
        return np.asarray(self.array(f"observables/{name}")[...])

    def array(self, name: str) -> zarr.Array[Any]:
        """One array of the store.

        Raises:
            JobError: it is not there.
        """
        found = self.group.get(name)
        if not isinstance(found, zarr.Array):
            raise JobError(f"{self.path}: damaged, the array {name!r} is missing")
        return found

    def pending(self) -> list[int]:
        """Blocks that still have to be computed, in order.

        A block counts as complete if it is marked so and its files have their full size: after a power failure a file
        system may keep a later file and lose an earlier one.
        """
        # The chunks of the array "complete" are listed and not read: there may be a million of them.
        chunks = self.path / "complete" / "c"
        marked = set(os.listdir(chunks)) if chunks.is_dir() else set()
        return [block for block in range(self.plan.blocks) if not (str(block) in marked and self._whole(block))]

    def _arrays(self) -> Iterator[tuple[str, int, int]]:
        """Path, number of axes and bytes per sample of every array that is cut into blocks."""
        if self.plan.points:
            for tensor in self.plan.tensors:
                yield f"points/{tensor.name}", len(tensor.shape) + 1, tensor.nbytes
        for name in self.plan.observables:
            yield f"observables/{name}", 2, 8 * self.array(f"observables/{name}").shape[1]

    def _whole(self, block: int) -> bool:
        start, stop = self.plan.span(block)
        for name, ndim, nbytes in self._arrays():
            file = shards.shard_path(self.path / name, block, ndim)
            if not file.is_file() or file.stat().st_size != shards.shard_bytes(stop - start, self.plan.block, nbytes):
                return False
        return True

    def block_bytes(self, block: int) -> int:
        """Bytes that a block takes on disk."""
        start, stop = self.plan.span(block)
        return sum(shards.shard_bytes(stop - start, self.plan.block, nbytes) for _, _, nbytes in self._arrays())

    def write_points(self, block: int, points: Mapping[str, Array]) -> None:
        """Write some tensors of the points of a block, if the store holds points.

        Raises:
            OSError: see :func:`shards.write_shard`.
        """
        if self.plan.points:
            for name, values in points.items():
                self._write(f"points/{name}", block, values)

    def write_block(self, block: int, points: Mapping[str, Array], observables: Mapping[str, Array]) -> None:
        """Write all data of a block that are not there yet, then mark it complete.

        Raises:
            OSError: see :func:`shards.write_shard`; the block stays incomplete.
        """
        self.write_points(block, points)
        for name, values in observables.items():
            self._write(f"observables/{name}", block, values)
        shards.write_file(shards.shard_path(self.path / "complete", block, 1), b"\x01")

    def _write(self, name: str, block: int, values: Array) -> None:
        shards.write_shard(shards.shard_path(self.path / name, block, values.ndim), values, self.plan.block)

    def _tensor(self, name: str, tensor: Tensor, selection: Any) -> Array:
        values = np.asarray(self.array(name)[selection])
        if tensor.dtype == "bfloat16":
            import ml_dtypes

            return values.view(ml_dtypes.bfloat16)
        return values

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to the store.

        Raises:
            JobError: one does.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise JobError(f"{self.path}: another process is writing to this store; wait for it, or stop it") from None
        except OSError:
            pass  # a file system without locks: the blocks are written atomically in any case
        try:
            yield
        finally:
            os.close(descriptor)


def prepare(path: Path, plan: Plan, checkpoint: Checkpoint, observables: Mapping[str, Observable]) -> Store:
    """The store of a job: the one that is there, if it belongs to this job, or a new one.

    Raises:
        JobError: something else is there.
    """
    if is_free(path):
        create(path, plan, checkpoint, observables)
    store = open_store(path)
    ours, theirs = plan.identity(), store.plan.identity()
    if ours != theirs:
        differing = ", ".join(key for key in ours if ours[key] != theirs.get(key))
        raise JobError(
            f"{path} holds another job, {describe(theirs)}, not this one, {describe(ours)}; they differ in "
            f"{differing}. Choose another --out, or remove that store"
        )
    return store


def is_free(path: Path) -> bool:
    """Whether nothing is there, or an empty directory."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def open_store(path: Path) -> Store:
    """Open an existing store.

    Raises:
        JobError: there is none, or it is damaged or of another version.
    """
    if not path.exists():
        raise JobError(f"{path}: no such store; nnsym-fast sample writes one")
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attributes: Any = group.attrs.asdict().get(KEY)
    except Exception as error:  # zarr and json raise many kinds for a damaged or foreign directory
        raise JobError(f"{path}: not a Zarr v3 store ({type(error).__name__}: {error})") from None
    if not isinstance(attributes, dict):
        raise JobError(f"{path}: a Zarr store, but not one that nnsym-fast sample wrote")
    if attributes.get("format") != FORMAT:
        raise JobError(f"{path}: store format {attributes.get('format')!r}; this version of nnsym_fast reads {FORMAT}")
    try:
        model = attributes["model"]
        config = attributes.get("config")
        return Store(path, _plan_of(attributes), None if model is None else Model.from_json(model), config, group)
    except (KeyError, TypeError, ValueError) as error:
        raise JobError(f"{path}: damaged attributes ({type(error).__name__}: {error})") from None


def _attributes(plan: Plan, model: Model | None, config: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "identity": plan.fingerprint(),
        "version": plan.version,
        "checkpoint": {"name": plan.checkpoint, "sha256": plan.sha256},
        "seed": plan.seed,
        "samples": plan.samples,
        "block": plan.block,
        "points": plan.points,
        "observables": list(plan.observables),
        "function": plan.function,
        "spec": json.loads(plan.spec.to_json()),
        "tensors": [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in plan.tensors],
        "model": None if model is None else model.to_json(),
    } | ({} if config is None else {"config": dict(config)})


def _plan_of(attributes: Mapping[str, Any]) -> Plan:
    return Plan(
        checkpoint=attributes["checkpoint"]["name"],
        sha256=attributes["checkpoint"]["sha256"],
        spec=SymmetrySpec.from_json(json.dumps(attributes["spec"])),
        seed=attributes["seed"],
        samples=attributes["samples"],
        observables=tuple(attributes["observables"]),
        points=attributes["points"],
        function=attributes["function"],
        version=attributes["version"],
        tensors=tuple(Tensor(t["name"], tuple(t["shape"]), t["dtype"]) for t in attributes["tensors"]),
        block=attributes["block"],
    )


def create(path: Path, plan: Plan, checkpoint: Checkpoint, observables: Mapping[str, Observable]) -> None:
    """Make a store without samples, under a temporary name until it is whole.

    Raises:
        JobError: a tensor's name cannot name an array, or the place cannot be written.
    """
    _check_names([tensor.name for tensor in plan.tensors])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise JobError(f"{path}: cannot be created ({error.strerror})") from None
    try:
        _fill(partial, plan, checkpoint, observables)
        partial.chmod(0o777 & ~_umask())
        partial.rename(path)
    except OSError as error:
        raise JobError(f"{path}: cannot be created ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill_value(dtype: str) -> float | int:
    """What a reader sees in a block that is not there yet: NaN, never a plausible weight."""
    if dtype == "bfloat16":
        return BFLOAT16_NAN
    return float("nan") if np.dtype(dtype).kind == "f" else 0


def _umask() -> int:
    """mkdtemp makes private directories; the store should have the rights of any other new directory."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fill(path: Path, plan: Plan, checkpoint: Checkpoint, observables: Mapping[str, Observable]) -> None:
    root = zarr.create_group(
        path, zarr_format=3, attributes={KEY: _attributes(plan, checkpoint.model, checkpoint.config)}
    )
    for tensor in plan.tensors:
        extra: dict[str, Any] = {"dtype": "bfloat16"} if tensor.dtype == "bfloat16" else {}
        stored = "uint16" if extra else tensor.dtype
        if plan.points or not checkpoint.large:
            base = array_of(checkpoint.params[tensor.name]).view(stored)
            root.create_array(f"base/{tensor.name}", data=base, compressors=None, attributes=extra)
        if plan.points:
            chunk = shards.chunk_samples(plan.block, tensor.nbytes)
            root.create_array(
                f"points/{tensor.name}",
                shape=(plan.samples, *tensor.shape),
                chunks=(chunk, *tensor.shape),
                shards=(plan.block, *tensor.shape),
                dtype=stored,
                compressors=None,
                fill_value=_fill_value(tensor.dtype),
                dimension_names=("sample", *(f"axis{k}" for k in range(len(tensor.shape)))),
                attributes=extra | {"state": tensor.name in plan.spec.state},
            )
    for name in plan.observables:
        observable = observables[name]
        columns = len(observable.columns)
        root.create_array(
            f"observables/{name}",
            shape=(plan.samples, columns),
            chunks=(shards.chunk_samples(plan.block, 8 * columns), columns),
            shards=(plan.block, columns),
            dtype="float64",
            compressors=None,
            fill_value=np.nan,
            dimension_names=("sample", "column"),
            attributes=observable.attributes(),
        )
    if checkpoint.probes is not None:
        root.create_array("probes", data=checkpoint.probes)
    root.create_array("complete", shape=(plan.blocks,), chunks=(1,), dtype="bool", compressors=None, fill_value=False)


def _check_names(names: list[str]) -> None:
    """Tensor names become paths inside the store, and they come from a file that may not mean well."""
    for name in names:
        for part in name.split("/"):
            if part in ("", ".", "..", "zarr.json") or part.startswith("__") or "\\" in part or "\0" in part:
                raise JobError(f"tensor {name!r}: its name cannot name an array of a Zarr store; rename it")
        parents = [name[:position] for position, letter in enumerate(name) if letter == "/"]
        if clash := [parent for parent in parents if parent in names]:
            raise JobError(f"tensor {name!r}: lies inside tensor {clash[0]!r}; rename one of them")
