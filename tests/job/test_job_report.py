# SPDX-License-Identifier: MIT
"""The report: it is there, it shows something, and its numbers are those of the store."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from job_helpers import Outcome, mlp_params, write_mlp

import nnsym_fast as nf
from nnsym_fast import specs
from nnsym_fast.job.checkpoint import Checkpoint, load
from nnsym_fast.job.errors import JobError
from nnsym_fast.job.plan import make_plan
from nnsym_fast.job.projection import project_networks, project_position
from nnsym_fast.job.report import write_report
from nnsym_fast.job.run import run
from nnsym_fast.job.store import Store

matplotlib_image = pytest.importorskip("matplotlib.image")

PICTURES = {"norms.png", "distances.png", "function.png", "orbit.png", "position.png"}


def make(tmp_path: Path, source: str | Path, samples: int, **options: object) -> Store:
    checkpoint = load(source)
    plan = make_plan(checkpoint, samples=samples, **options)  # type: ignore[arg-type]
    return run(checkpoint, plan, tmp_path / "x.zarr").store


class _Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects pictures and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
            assert dict(attrs)["alt"]
        elif tag != "meta":
            self.open.append(tag)
        assert tag != "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " " + data


def read(page: Path) -> _Page:
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert not parsed.open
    return parsed


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_the_report_of_a_trained_network(tmp_path: Path, name: str, cli: Callable[..., Outcome]) -> None:
    assert cli("sample", name, "--samples", 60, "--out", tmp_path / "x.zarr").code == 0
    outcome = cli("report", tmp_path / "x.zarr")
    assert outcome.code == 0
    page = tmp_path / "x-report" / "index.html"
    assert outcome.out.strip() == str(page)
    parsed = read(page)
    assert set(parsed.pictures) == PICTURES
    for picture in PICTURES:
        pixels = matplotlib_image.imread(page.parent / picture)
        assert min(pixels.shape[:2]) > 300
        ink = (pixels[..., :3].min(axis=-1) < 0.9).mean()
        assert 0.005 < ink < 0.5  # neither an empty frame nor a black one
    text = re.sub(r"\s+", " ", parsed.text)
    assert "All 60 points compute the same function, to within rounding." in text
    assert "0.9" in text  # the accuracy of the network
    assert "NaN" not in text
    assert "nan" not in text.replace("finance", "")


def test_the_summary_holds_the_numbers_of_the_store(tmp_path: Path) -> None:
    store = make(tmp_path, "digits-mlp", 40, seed=4)
    write_report(store, tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    checkpoint = load("digits-mlp")
    assert summary["parameters"] == 50_826
    assert summary["dimension"] == 384
    assert summary["seed"] == 4
    assert summary["same_function"] is True
    points = nf.Orbit(checkpoint.params, checkpoint.spec, seed=4).points(0, 40)

    def norms(tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.sqrt(sum(np.sum(t.astype(float) ** 2, axis=tuple(range(1, t.ndim))) for t in tensors.values()))

    base = norms({name: array[None] for name, array in checkpoint.params.items()})[0]
    ratio = norms(points) / base
    far = norms({name: points[name].astype(float) - array for name, array in checkpoint.params.items()}) / base
    for key, values in (("norm_ratio", ratio), ("distance_ratio", far)):
        expected = {"smallest": values.min(), "median": np.median(values), "largest": values.max()}
        assert summary[key] == pytest.approx(expected, rel=5e-3)


def test_the_table_does_not_depend_on_how_the_job_was_run(tmp_path: Path) -> None:
    summaries = []
    for number, block in enumerate((None, 7)):
        store = make(tmp_path / str(number), "digits-cnn", 50, block=block)
        write_report(store, tmp_path / str(number) / "report")
        summaries.append((tmp_path / str(number) / "report" / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("observables", [[], ["norm"], ["distance"]])
def test_what_was_not_measured_is_said_not_drawn(tmp_path: Path, tiny: Path, observables: list[str]) -> None:
    parsed = read(write_report(make(tmp_path, tiny, 20, observables=observables), tmp_path / "report"))
    files = {"norm": "norms.png", "distance": "distances.png", "function": "function.png"}
    for name, picture in files.items():
        assert (picture in parsed.pictures) == (name in observables)
        assert (f"does not hold the observable “{name}”" in parsed.text) == (name not in observables)
    assert "compute the same function, to within rounding" not in parsed.text


def test_without_points_they_are_computed_again(tmp_path: Path, tiny: Path) -> None:
    with_points = write_report(make(tmp_path / "a", tiny, 30), tmp_path / "a" / "report").parent
    without = write_report(make(tmp_path / "b", tiny, 30, points=False), tmp_path / "b" / "report").parent
    for picture in PICTURES:
        np.testing.assert_array_equal(
            matplotlib_image.imread(with_points / picture), matplotlib_image.imread(without / picture)
        )


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_few_points_are_enough(tmp_path: Path, tiny: Path, samples: int) -> None:
    parsed = read(write_report(make(tmp_path, tiny, samples), tmp_path / "report"))
    assert ("orbit.png" in parsed.pictures) == (samples >= 3)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_groups_without_scales(tmp_path: Path, activation: str) -> None:
    path = write_mlp(tmp_path / "net.safetensors", [3, 6, 2], activation)
    parsed = read(write_report(make(tmp_path, path, 50), tmp_path / "report"))
    assert "Every point has the norm of the starting network" in parsed.text
    assert ("mirror image" in parsed.text) == (activation == "tanh")


def test_a_wrong_spec_is_shown_as_such(tmp_path: Path, tiny: Path) -> None:
    right = load(tiny)
    wrong = Checkpoint(
        right.name, right.sha256, right.params, specs.mlp([3, 8, 5, 2], "tanh"), right.model, right.probes
    )
    store = run(wrong, make_plan(wrong, samples=20), tmp_path / "x.zarr").store
    parsed = read(write_report(store, tmp_path / "report"))
    assert "Some points do NOT compute the same function." in parsed.text
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["same_function"] is False


def test_names_from_the_file_are_text_not_markup(tmp_path: Path) -> None:
    params = mlp_params([3, 4, 2])
    spec = specs.mlp([3, 4, 2])
    evil = Checkpoint("<script>alert(1)</script>", "0" * 64, params, spec, None, None)
    page = write_report(run(evil, make_plan(evil, samples=5), tmp_path / "x.zarr").store, tmp_path / "report")
    assert "<script" not in page.read_text()
    assert "<script>alert(1)</script>" in read(page).text


def test_an_unfinished_store_is_refused(tmp_path: Path, tiny: Path) -> None:
    store = make(tmp_path, tiny, 20, block=5)
    (tmp_path / "x.zarr" / "complete" / "c" / "2").unlink()
    with pytest.raises(JobError, match="1 of 4 blocks are missing"):
        write_report(store, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JobError, match="the report cannot be written"):
        write_report(make(tmp_path, tiny, 5), tmp_path / "file")


# --- the projections


def test_the_two_planes_of_known_points() -> None:
    """Points on two orthogonal axes at right angles to the base: the planes must be spanned by these axes."""
    spec = nf.SymmetrySpec({"h": nf.groups.Permutation(4)}, {"a": ("h",), "b": ("h*",)})
    base = {"a": np.array([2.0, 0, 0, 0]), "b": np.zeros(4)}
    steps = [3.0, -3.0, 3.0, -3.0, 1.0, -1.0]
    points = {"a": np.zeros((6, 4)), "b": np.zeros((6, 4))}
    for row, step in enumerate(steps):
        points["a"][row, 2 if row < 4 else 1] = step
    plane = project_networks(points, base, spec)
    np.testing.assert_allclose(plane.against_base[:, 0], 0.0, atol=1e-7)
    np.testing.assert_allclose(np.abs(plane.against_base[:4, 1]), 1.5, rtol=1e-6)  # in units of the base's norm 2
    np.testing.assert_allclose(np.abs(plane.principal[4:, 1]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(plane.base, 0.0, atol=1e-6)
    assert plane.explained == pytest.approx((4 / 6, 2 / 6))  # by directions, not by distances
    assert plane.effective == pytest.approx(1 / ((2 / 3) ** 2 + (1 / 3) ** 2))


def test_the_unit_at_position_zero_is_row_zero_of_the_points() -> None:
    params = {name: array.astype(np.float64) for name, array in mlp_params([5, 7, 3]).items()}
    for activation in ("relu", "tanh", "gelu"):
        spec = specs.mlp([5, 7, 3], activation)
        orbit = nf.Orbit(params, spec, seed=1)
        position = project_position(orbit.elements(0, 20), params, spec)
        assert position is not None
        assert (position.scaled, position.signed) == (activation == "relu", activation == "tanh")
        _, _, directions = np.linalg.svd(params["0.weight"], full_matrices=False)
        rows = orbit.points(0, 20)["0.weight"][:, 0]
        np.testing.assert_allclose(position.occupants, rows @ directions[:2].T, rtol=1e-10, atol=1e-12)


def test_a_network_whose_first_weight_has_one_column_has_no_such_picture() -> None:
    spec = specs.mlp([1, 4, 1])
    params = mlp_params([1, 4, 1])
    assert project_position(nf.Orbit(params, spec).elements(0, 5), params, spec) is None
