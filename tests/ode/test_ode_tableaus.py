# SPDX-License-Identifier: MIT
"""Butcher tableaus: every method satisfies its conditions, and a wrong number does not pass."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ode_cases import ADAPTIVE, ORDERS
from scipy.integrate import RK23, RK45
from scipy.integrate._ivp import dop853_coefficients as dop853

from nnsym_fast._trees import rooted_trees
from nnsym_fast.tableaus import ALIASES, METHODS, Tableau, tableau

FSAL = {"bosh3", "dopri5", "tsit5"}
EPS = float(np.finfo(np.float64).eps)


def matrix(table: Tableau) -> np.ndarray[Any, Any]:
    """a as a square, the extra stages included."""
    rows = table.a + table.extra_a
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def test_the_methods_are_those_of_the_interface() -> None:
    assert list(METHODS) == list(ORDERS)
    assert {name for name in METHODS if tableau(name).adaptive} == set(ADAPTIVE)
    assert {name: tableau(name).order for name in METHODS} == ORDERS
    assert all(tableau(name).citation for name in METHODS)


def test_rooted_trees_are_counted_right() -> None:
    """Hairer, Norsett, Wanner 1993, table II.2.1; the sum of n! / (density symmetry) over n vertices is (n - 1)!."""
    counts = np.bincount([tree.vertices for tree in rooted_trees(10)])[1:]
    assert counts.tolist() == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]
    trees = rooted_trees(8)
    assert len({tree.name for tree in trees}) == len(trees) == 200
    symmetry: list[int] = []
    for tree in trees:
        repeats = [tree.children.count(child) for child in set(tree.children)]
        below = math.prod(symmetry[child] for child in tree.children)
        symmetry.append(below * math.prod(map(math.factorial, repeats)))
    for n in range(1, 9):
        orderings = [
            Fraction(math.factorial(n), tree.density * symmetry[i])
            for i, tree in enumerate(trees)
            if tree.vertices == n
        ]
        assert sum(orderings) == math.factorial(n - 1)


@pytest.mark.parametrize("name", METHODS)
def test_fsal_is_found(name: str) -> None:
    assert tableau(name).fsal == (name in FSAL)


def test_fsal_needs_the_last_row_to_be_the_weights() -> None:
    """Negative control: the 3/8 rule with a fifth stage of weight 0 at another place."""
    table = tableau("rk4_38")
    there = Tableau("a", "", 4, (*table.c, 1.0), (*table.a, table.b), (*table.b, 0.0))
    elsewhere = Tableau("b", "", 4, (*table.c, 0.5), (*table.a, (0.5, 0, 0, 0)), (*table.b, 0.0))
    assert (there.fsal, elsewhere.fsal) == (True, False)


@pytest.mark.parametrize("name", METHODS)
def test_construction_is_fast(name: str) -> None:
    tableau(name)
    table = tableau.__wrapped__(name)  # trees are cached, the tableau is not
    begin = time.perf_counter()
    dataclasses.replace(table)
    assert time.perf_counter() - begin < 0.5  # a few ms; the machine may be busy
    assert tableau(name) is tableau(name)


def entries(table: Tableau) -> Iterator[tuple[str, int, int]]:
    for field in ("a", "b", "c", "error", "extra_a", "extra_c", "dense"):
        value = getattr(table, field)
        rows = value if value and isinstance(value[0], tuple) else (value,)
        yield from ((field, i, j) for i, row in enumerate(rows) for j in range(len(row)))


@pytest.mark.parametrize("name", METHODS)
def test_every_wrong_coefficient_is_caught(name: str) -> None:
    """Each number changed by 1e-9 in turn: a wrong digit in any place of a table is found."""
    table = tableau(name)
    for field, i, j in entries(table):
        value = getattr(table, field)
        nested = bool(value) and isinstance(value[0], tuple)
        rows = [list(row) for row in (value if nested else (value,))]
        rows[i][j] += 1e-9
        changed = tuple(map(tuple, rows)) if nested else tuple(rows[0])
        with pytest.raises(ValueError, match=r"off by|error_order"):
            dataclasses.replace(table, **{field: changed})


@pytest.mark.parametrize("name", METHODS)
def test_a_higher_order_is_not_believed(name: str) -> None:
    table = tableau(name)
    with pytest.raises(ValueError, match=f"order condition of the tree .* with {table.order + 1} vertices"):
        dataclasses.replace(table, order=table.order + 1)
    if table.adaptive:
        with pytest.raises(ValueError, match="error_order"):
            dataclasses.replace(table, error_order=table.error_order + 1)
        if table.dense_order < table.order:
            with pytest.raises(ValueError, match=r"dense, coefficients of theta\^"):
                dataclasses.replace(table, dense_order=table.dense_order + 1)


WRONG = {
    "length of c: expected 2, got 3": {"c": (0, 0.5, 1)},
    r"lengths of the rows of a: expected \[0, 1\], got \[0, 2\]": {"a": ((), (0.5, 0))},
    r"sum of row 1 of a, which is c\[1\]: expected 0.5, got 0.25, off by -0.25": {"a": ((), (0.25,))},
    r"b, order condition of the tree t with 1 vertices: expected 1, got 1.25": {"b": (0.25, 1)},
    r"b, order condition of the tree \[t\] with 2 vertices: expected 1/2, got 0.25, off by -0.25": {"b": (0.5, 0.5)},
    "order: expected 1 to 10, got 0": {"order": 0},
    "at most two rows, got 3": {"error": ((1, -1),) * 3, "error_order": 1},
    "error_order, .*: expected 1, got 2": {"error": ((1, -1),), "error_order": 2},
    r"any weight of error\[0\]": {"error": ((0, 0),), "error_order": 1},
    "error_order > 0": {"error": ((1, -1),)},
    "extra stages with dense output": {"extra_c": (1,), "extra_a": ((0, 1),)},
    "rows of dense: one for each stage": {"dense": ((1,),), "dense_order": 1},
    r"dense\[0\]: expected finite numbers": {"dense": ((math.nan,), (1,)), "dense_order": 1},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_tableaus_say_what_is_wrong(message: str) -> None:
    good: dict[str, Any] = {"name": "own", "citation": "", "order": 2, "c": (0, 0.5), "a": ((), (0.5,)), "b": (0, 1)}
    assert Tableau(**good) == dataclasses.replace(tableau("midpoint"), name="own", citation="")
    with pytest.raises(ValueError, match=f"tableau 'own': .*{message}"):
        Tableau(**(good | WRONG[message]))


def test_entries_are_numbers() -> None:
    with pytest.raises(TypeError, match=r"tableau 'own': a\[1\]: expected real numbers, got \('x',\)"):
        Tableau("own", "", 2, (0, 0.5), ((), ("x",)), (0, 1))  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    table = Tableau("own", "", 1, [0], [[]], [1])  # type: ignore[arg-type]
    assert (table.c, table.a, table.b) == ((0.0,), ((),), (1.0,))
    assert hash(table) == hash(Tableau("own", "", 1, (0,), ((),), (1,)))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"method: expected one of euler, .*dopri8, adaptive_heun .*, got 'rk5'"):
        tableau("rk5")
    assert all(tableau(alias) is not None and tableau(alias).name == name for alias, name in ALIASES.items())


# --- scipy's numbers


@pytest.mark.parametrize(("name", "solver"), [("bosh3", RK23), ("dopri5", RK45)])
def test_pairs_of_scipy(name: str, solver: Any) -> None:
    table, s = tableau(name), solver.n_stages
    np.testing.assert_allclose(matrix(table)[:s, : solver.A.shape[1]][:, :s], solver.A[:, :s], rtol=4 * EPS)
    np.testing.assert_allclose(table.b[:s], solver.B, rtol=4 * EPS)
    np.testing.assert_allclose(table.c[:s], solver.C, rtol=4 * EPS)
    np.testing.assert_allclose(np.abs(table.error[0]), np.abs(solver.E), rtol=4 * EPS)


def test_dop853_of_scipy() -> None:
    table = tableau("dopri8")
    assert (table.stages, len(table.extra_c)) == (12, 4)
    np.testing.assert_allclose(matrix(table), dop853.A, rtol=2 * EPS)
    np.testing.assert_allclose(table.c + table.extra_c, dop853.C, rtol=2 * EPS)
    np.testing.assert_allclose(table.b, dop853.B, rtol=2 * EPS)
    np.testing.assert_allclose(table.error, [dop853.E5[:12], dop853.E3[:12]], rtol=4 * EPS)
    assert (dop853.E5[12], dop853.E3[12]) == (0, 0)
    assert table.extra_a[0] == table.b


def dense_of_scipy(name: str, theta: float) -> Any:
    """b_j(theta) as scipy evaluates it, on unit vectors for the stages."""
    if name == "dopri5":
        return RK45.P @ theta ** np.arange(1, 5)
    if name == "bosh3":
        return RK23.P @ theta ** np.arange(1, 4)
    units = np.eye(16)
    delta, first, last = dop853.B @ units[:12], units[0], units[12]
    terms = [delta, first - delta, 2 * delta - first - last, *dop853.D]
    value = np.zeros(16)
    for i, term in enumerate(reversed(terms)):
        value = (value + term) * (theta if i % 2 == 0 else 1 - theta)
    return value


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8"])
def test_dense_output_of_scipy(name: str) -> None:
    dense = np.array(tableau(name).dense)
    for theta in (0.0, 0.1, 0.3, 0.5, 0.77, 1.0):
        powers = theta ** np.arange(1, dense.shape[1] + 1)
        size = np.abs(dense) @ powers
        assert (np.abs(dense @ powers - dense_of_scipy(name, theta)) <= 8 * EPS * size).all()


@pytest.mark.parametrize("name", ADAPTIVE)
def test_dense_output_begins_with_the_slope(name: str) -> None:
    """y'(t) = k_1; but for heun2, the slope at the end is that of the next step."""
    table = tableau(name)
    dense = np.array(table.dense)
    np.testing.assert_array_equal(dense[:, 0], np.eye(len(dense))[0])
    if name != "heun2":
        last = table.stages - (1 if table.fsal else 0)
        slope = dense @ np.arange(1, dense.shape[1] + 1)
        size = np.abs(dense) @ np.arange(1, dense.shape[1] + 1)
        assert (np.abs(slope - np.eye(len(dense))[last]) <= 4 * EPS * size).all()
