# SPDX-License-Identifier: MIT
"""What acts at a site: finite-dimensional groups of matrices, as plain data.

An element acts on a vector of ``size`` units. Monomial groups act as ``(g x)_i = sign_i scale_i x_{perm_i}``, dense
ones head by head, ``(g x)_{a, i} = sum_j matrix_a[i, j] x_{perm(a, j)}`` (one head for a group without heads), and a
group with shifts adds ``shift_i`` where a leg says so. A group says which of these parts its elements have and how they
are drawn. Nothing in this package holds an array: drawing, composing and inverting is the work of
:mod:`nnsym_fast.elements`.

Sources: intertwiner groups of the activations, Godfrey et al. 2205.14258; monomial groups, Tran et al. 2409.11697;
Haar measure, Mezzadri math-ph/0609050.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nnsym_fast.groups.base import DRAW_PART, DRAW_SHIFT, Group
from nnsym_fast.groups.dense import Affine, GeneralLinear, Orthogonal, RotaryCommutant, SpecialLinear, Translation
from nnsym_fast.groups.heads import Heads, head_sites
from nnsym_fast.groups.monomial import Monomial, Permutation, Scaling, Signs

__all__ = [
    "DRAW_PART",
    "DRAW_SHIFT",
    "Affine",
    "GeneralLinear",
    "Group",
    "Heads",
    "Monomial",
    "Orthogonal",
    "Permutation",
    "RotaryCommutant",
    "Scaling",
    "Signs",
    "SpecialLinear",
    "Translation",
    "from_json",
    "head_sites",
]

_MONOMIAL = (Permutation, Scaling, Signs, Monomial)
_DENSE = (Orthogonal, SpecialLinear, GeneralLinear, RotaryCommutant, Translation, Affine)
_TYPES: dict[str, type[Group]] = {cls.__name__: cls for cls in (*_MONOMIAL, *_DENSE, Heads)}


def from_json(data: Mapping[str, Any]) -> Group:
    """Read a group from what ``Group.to_json`` wrote.

    Args:
        data: a mapping with the class name under ``"type"`` and the fields of that class.

    Returns:
        An equal group.

    Raises:
        TypeError: ``data`` is not a mapping, or a field has the wrong type.
        ValueError: unknown type, missing or unknown fields, or a field out of range.

    >>> from_json({"type": "Permutation", "n": 4})
    Permutation(n=4)
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"group: expected a JSON object with the key 'type', got {type(data).__name__}")
    name = data.get("type")
    if name not in _TYPES:
        raise ValueError(f"group type: expected one of {', '.join(_TYPES)}; got {name!r}")
    cls = _TYPES[name]
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    given = {key: value for key, value in data.items() if key != "type"}
    unknown = sorted(set(given) - {field.name for field in fields})
    if unknown:
        raise ValueError(f"group {name}: unknown fields {unknown}; expected {[field.name for field in fields]}")
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in given]
    if missing:
        raise ValueError(f"group {name}: missing fields {missing}")
    if "group" in given:
        given["group"] = from_json(given["group"])
    return cls(**given)
