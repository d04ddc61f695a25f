# SPDX-License-Identifier: MIT
"""Write the shards of a Zarr v3 array as plain files, straight from a kernel's buffer.

A shard of the ``sharding_indexed`` codec (Zarr enhancement proposal 2) is the bytes of its inner chunks and an index:
the offset and the length of every chunk as little-endian uint64, then the CRC-32C of the index. Here the chunks are cut
along the leading axis only and are not compressed, so the concatenated chunks are the block in C order: one ``write``
of the buffer, no copy. The weights of an orbit are mantissas multiplied by random factors; compressors gain a few per
cent on them and cost more than the disk.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["chunk_samples", "crc32c", "shard_bytes", "shard_path", "write_file", "write_shard"]

CHUNK_BYTES = 1 << 20
"""Target size of an inner chunk: the least that a reader of one sample has to fetch."""

MISSING = (1 << 64) - 1
"""Offset and length of a chunk that lies wholly beyond the end of the array."""


def crc32c(data: bytes) -> int:
    """Castagnoli's cyclic redundancy check (RFC 3720, appendix B.4).

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    register = 0xFFFFFFFF
    for byte in data:
        register = _CRC_TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def chunk_samples(block: int, sample_bytes: int) -> int:
    """Samples per inner chunk: the largest divisor of ``block`` whose chunk has at most 1 MiB (or one sample).

    >>> chunk_samples(64, 65536), chunk_samples(64, 1 << 24)
    (16, 1)
    """
    limit = max(1, CHUNK_BYTES // max(1, sample_bytes))
    return max(divisor for divisor in range(1, min(block, limit) + 1) if block % divisor == 0)


@lru_cache(maxsize=256)
def _index(chunks: int, used: int, chunk_bytes: int) -> bytes:
    entries = np.full((chunks, 2), MISSING, dtype="<u8")
    entries[:used, 0] = np.arange(used, dtype="<u8") * np.uint64(chunk_bytes)
    entries[:used, 1] = chunk_bytes
    data = entries.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def shard_bytes(samples: int, block: int, sample_bytes: int) -> int:
    """Size of the file of a shard that holds ``samples`` of at most ``block`` samples."""
    chunk = chunk_samples(block, sample_bytes)
    return -(-samples // chunk) * chunk * sample_bytes + 16 * (block // chunk) + 4


def shard_path(array: Path, block: int, ndim: int) -> Path:
    """File of shard ``block`` of an array that is cut along its leading axis only (key encoding "default")."""
    return array.joinpath("c", str(block), *["0"] * (ndim - 1))


def write_shard(path: Path, values: npt.NDArray[Any], block: int) -> None:
    """Write one shard.

    Args:
        path: file to write; its parents are made.
        values: C-contiguous, little-endian, ``(samples, ...)`` with ``samples <= block``.
        block: samples per shard of the array.

    Raises:
        OSError: see :func:`write_file`.
    """
    sample_bytes = values.nbytes // len(values)
    chunk = chunk_samples(block, sample_bytes)
    used = -(-len(values) // chunk)
    # A reader decodes whole chunks, so the last one is filled up.
    padding = bytes((used * chunk - len(values)) * sample_bytes)
    write_file(
        path, values.reshape(-1).view(np.uint8).data, padding, _index(block // chunk, used, chunk * sample_bytes)
    )


def write_file(path: Path, *pieces: memoryview | bytes) -> None:
    """Write a file under a temporary name until it is whole.

    Raises:
        OSError: the disk is full, or what else a file system may say; no partial file is left.
    """
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                # A raw write may take less than it is given, above all when the disk is nearly full.
                while len(view):
                    view = view[os.write(file.fileno(), view) :]
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
