# SPDX-License-Identifier: MIT
"""Exponentials without rounding errors: integer arithmetic with 256 bits after the point.

As exact as mpmath for what is asked here (which a test confirms), and fast enough for matrices of size 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BITS = 256
SMALL = 16
"""The Taylor series is summed at a norm below 2^-16: after 13 terms nothing of 256 bits is left."""


def _shift(value: int, places: int) -> int:
    return value << places if places >= 0 else value >> -places


_shifted = np.frompyfunc(_shift, 2, 1)


def to_fixed(a: Array) -> Array:
    """Integers a 2^BITS, exact for whatever is a multiple of 2^-BITS."""
    mantissa, exponent = np.frexp(a.astype(np.float64))
    integers = (mantissa * 2.0**53).astype(np.int64).astype(object)
    return np.asarray(_shifted(integers, exponent.astype(object) + (BITS - 53)))


def from_fixed(a: Array) -> Array:
    """The nearest float64."""
    return np.asarray(np.frompyfunc(lambda value: value / (1 << BITS), 1, 1)(a), dtype=np.float64)


def tall(a: Array) -> Array:
    """A complex matrix as the real [[Re], [Im]]."""
    return np.concatenate([a.real, a.imag]) if np.iscomplexobj(a) else a


def square(a: Array) -> Array:
    """[[Re, -Im], [Im, Re]] of a tall matrix: that of a product is the product. A real matrix stays as it is."""
    d = a.shape[1]
    return np.block([[a[:d], -a[d:]], [a[d:], a[:d]]]) if len(a) > d else a


class Exact:
    """The exponential of one finite matrix as integers, ``value / 2^BITS``, in the form of :func:`tall`."""

    def __init__(self, a: Array) -> None:
        x = to_fixed(tall(a))
        # 1-norms below 1 are of no interest.
        norm = max(1, int(np.abs(x).sum(axis=0).max()))
        squarings = max(0, norm.bit_length() - BITS + SMALL)
        # More places while the errors of the squarings grow.
        places = BITS + 2 * squarings + 16
        one = np.zeros(x.shape, dtype=object)
        one[np.diag_indices(x.shape[1])] = 1 << places
        x = square(_shifted(x, places - BITS - squarings))
        total, term, k = one, one, 0
        while np.any(term):
            k += 1
            term = (x @ term >> places) // k
            term[term == -1] = 0  # rounding down never takes a negative number to 0
            total = total + term
        for _ in range(squarings):
            total = square(total) @ total >> places
        self.value: Array = total >> (places - BITS)

    def error(self, p: Array) -> float:
        """||p - exp(a)|| / ||exp(a)|| in the Frobenius norm, with no cancellation in the difference."""
        if not np.isfinite(p).all():
            return float("inf")
        difference = from_fixed(to_fixed(tall(p)) - self.value)
        return float(np.linalg.norm(difference) / np.linalg.norm(from_fixed(self.value)))
