# SPDX-License-Identifier: MIT
"""Memory layouts: arrays equal to the one given, stored in another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def fortran(array: Array) -> Array:
    return np.asfortranarray(array)


def strided(array: Array) -> Array:
    """Every second entry of a larger array."""
    larger = np.zeros([2 * length for length in array.shape], array.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def negative(array: Array) -> Array:
    """Negative strides along every axis."""
    flip = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[flip])[flip]


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


def byte_swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("S"))


def misaligned(array: Array) -> Array:
    """One byte off every boundary."""
    memory = bytearray(array.nbytes + 1)
    view = np.frombuffer(memory, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


LAYOUTS = (fortran, strided, negative, read_only, byte_swapped, misaligned)
