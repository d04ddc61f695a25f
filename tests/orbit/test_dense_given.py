# SPDX-License-Identifier: MIT
"""Dense elements that a caller brings: what is completed, and what is refused with the name of the part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from orbit_cases import assert_same_bits, attention, attention_params, repeated

import nnsym_fast as nf
from nnsym_fast.elements import SiteElements
from nnsym_fast.groups import Group, Heads, Monomial, SpecialLinear, Translation
from nnsym_fast.symmetry import SymmetrySpec

Array = npt.NDArray[Any]

ELEMENTS = attention().sample(4, dtype="float64")
PARAMS = attention_params("float64")


def moved_with(site: str, **parts: Any) -> Callable[[], Any]:
    """The action of elements of which parts of one site are replaced."""
    changed = SiteElements(**(vars(ELEMENTS[site]) | parts))
    return lambda: nf.act(attention(), {**ELEMENTS, site: changed}, PARAMS)


def part(site: str, name: str) -> Array:
    value = getattr(ELEMENTS[site], name)
    assert value is not None
    return np.array(value)


def changed(array: Array, value: float) -> Array:
    array = array.copy()
    array.reshape(-1)[3] = value
    return array


SWAPPED = np.tile(np.array([4, 5, 6, 7, 0, 1, 2, 3], np.int32), (4, 1))
HELD = np.tile(np.arange(8, dtype=np.int32), (4, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            moved_with("qk", matrix=part("qk", "matrix")[:, :1]),
            ValueError,
            r"elements\['qk'\].matrix: expected shape \(4, 2, 4, 4\), got \(4, 1, 4, 4\)",
        ),
        (
            moved_with("residual", matrix=part("residual", "matrix")[:, :4]),
            ValueError,
            r"elements\['residual'\].matrix: expected shape \(4, 5, 5\), got \(4, 4, 5\)",
        ),
        (
            moved_with("qk", shift=part("qk", "shift")[:, :7]),
            ValueError,
            r"elements\['qk'\].shift: expected shape \(4, 8\), got \(4, 7\)",
        ),
        (
            moved_with("vo", shift=part("qk", "shift")),
            ValueError,
            r"elements\['vo'\].shift: expected None, as Heads.* has no such part",
        ),
        (
            moved_with("residual", perm=np.zeros((4, 5), np.int32)),
            ValueError,
            r"elements\['residual'\].perm: expected None, as Orthogonal.* has no such part",
        ),
        (
            moved_with("q", matrix=part("vo", "matrix")),
            ValueError,
            r"elements\['q'\].matrix: expected None, as Heads.* has no such part",
        ),
        (
            moved_with("vo", inverse=None),
            ValueError,
            r"elements\['vo'\].inverse: expected the inverses of the matrices, shape \(4, 2, 4, 4\), got None",
        ),
        (moved_with("vo", matrix=None), ValueError, r"elements\['vo'\].matrix: expected"),
        (
            moved_with("vo", matrix=part("vo", "matrix").astype(int)),
            TypeError,
            r"elements\['vo'\].matrix: expected dtype float64, got int64",
        ),
        (
            moved_with("vo", inverse=part("vo", "inverse").astype(complex)),
            TypeError,
            r"elements\['vo'\].inverse: expected dtype float64, got complex128",
        ),
        *(
            (
                moved_with("qk", **{name: changed(part("qk", name), value)}),
                ValueError,
                rf"elements\['qk'\].{name}: expected finite entries",
            )
            for name in ("matrix", "inverse", "shift")
            for value in (np.nan, np.inf)
        ),
        (
            moved_with("qk", perm=np.roll(HELD, 1, axis=1)),
            ValueError,
            r"elements\['qk'\].perm: expected permutations of whole heads of 4 units",
        ),
        (
            moved_with("qk", perm=HELD % 4),
            ValueError,
            r"elements\['qk'\].perm: expected permutations of whole heads of 4 units",
        ),
        (
            moved_with("vo", perm=np.where(part("qk", "perm") == SWAPPED, HELD, SWAPPED).astype(np.int32)),
            ValueError,
            r"elements\['vo'\].perm: expected the permutation of heads of elements\['qk'\], to which the site is tied",
        ),
        (
            moved_with("q", perm=np.roll(part("q", "perm"), 3, axis=1)),
            ValueError,
            r"elements\['q'\].perm: expected the permutation of heads of elements\['qk'\], to which the site is tied",
        ),
        (
            moved_with("q", perm=np.roll(part("q", "perm"), 1, axis=1)),
            ValueError,
            r"elements\['q'\].perm: expected",
        ),
    ],
)
def test_wrong_elements_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_shifts_of_heads_need_whole_heads_too() -> None:
    spec = SymmetrySpec({"a": Heads(2, Translation(3))}, {"b": ("a+",), "w": ("a", "a*")})
    elements = spec.sample(1)
    perm = np.array([[1, 2, 3, 4, 5, 0]], np.int32)
    mixed = {"a": SiteElements(perm=perm, shift=elements["a"].shift)}
    with pytest.raises(ValueError, match=r"elements\['a'\].perm: expected permutations of whole heads of 3 units"):
        nf.act(spec, mixed, {"b": np.zeros(6), "w": np.eye(6)})


def test_elements_may_come_as_tuples_or_in_part() -> None:
    """A part that the caller leaves out is the identity's."""
    spec = attention()
    expected = nf.act(spec, ELEMENTS, PARAMS)
    tuples = {name: tuple(vars(site).values()) for name, site in ELEMENTS.items()}
    assert_same_bits(nf.act(spec, tuples, PARAMS), expected)
    still = {name: SiteElements() for name in spec.sites}
    assert_same_bits(nf.act(spec, still, PARAMS), repeated(PARAMS, 1))
    turned = still | {"residual": ELEMENTS["residual"]}
    only = nf.act(spec, turned, PARAMS)
    matrix = ELEMENTS["residual"].matrix
    np.testing.assert_allclose(only["k"], PARAMS["k"] @ np.swapaxes(matrix, 1, 2), rtol=1e-12, atol=1e-12)
    assert_same_bits({"b": only["qkv.bias"]}, {"b": repeated(PARAMS, 4)["qkv.bias"]})


def test_norms_must_be_folded_first() -> None:
    """Rotations of a residual stream do not commute with gains; with gains of one (stored: 0, offset 1) they do."""
    spec = attention()
    open_norm = PARAMS | {"norm": np.array([0.0, 0.0, 0.5, 0.0, 0.0])}
    calls: list[Callable[[], Any]] = [
        lambda: nf.Orbit(open_norm, spec),
        lambda: nf.act(spec, ELEMENTS, open_norm),
        lambda: nf.augment(repeated(open_norm, 4), spec, seed=0),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"tensor 'norm': .* gains are not one; fold the norms first, .*fold_norms"
        ):
            call()
    without = nf.act(SymmetrySpec(spec.sites, spec.legs), ELEMENTS, open_norm)
    folded = nf.act(spec, ELEMENTS, PARAMS)
    assert_same_bits({**without, "norm": folded["norm"]}, folded)


def test_a_matrix_is_no_group_element_of_a_group_without() -> None:
    """Elements of one group do not pass for those of another."""
    spec = SymmetrySpec({"a": SpecialLinear(3)}, {"w": ("a", "a*")})
    other: Group = Monomial(3)
    with pytest.raises(ValueError, match=r"elements\['a'\].perm: expected None"):
        nf.act(spec, {"a": other.sample(2)}, {"w": np.eye(3)})
