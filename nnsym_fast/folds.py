# SPDX-License-Identifier: MIT
"""Norms whose gains and biases move into the weights that read them: the first step towards residual rotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Fold", "Reader"]


@dataclass(frozen=True)
class Reader:
    """A weight that reads what a norm writes.

    Args:
        weight: its tensor.
        axis: the axis of the weight that is contracted with the norm's output.
        bias: the bias that is added to the product, one number per entry of the other axis; empty: there is none.
    """

    weight: str
    axis: int
    bias: str = ""


@dataclass(frozen=True)
class Fold:
    """A norm ``x -> (offset + gain) normalised(x) + bias`` and its readers.

    Args:
        gain: tensor of the gains.
        bias: tensor of the biases; empty: there is none.
        offset: what the network adds to the stored gain (1 for Gemma).
        readers: all weights that read the norm's output, and nothing else does.
    """

    gain: str
    readers: tuple[Reader, ...]
    bias: str = ""
    offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "readers", tuple(self.readers))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that take part."""
        names = [self.gain, self.bias]
        for reader in self.readers:
            names += [reader.weight, reader.bias]
        return tuple(name for name in names if name)

    def to_json(self) -> dict[str, Any]:
        """The fold as JSON-ready data; :meth:`from_json` reads it back."""
        return vars(self) | {"readers": [vars(reader) for reader in self.readers]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fold:
        """Read back what :meth:`to_json` wrote."""
        return cls(**{**data, "readers": tuple(Reader(**reader) for reader in data["readers"])})
