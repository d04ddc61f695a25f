# SPDX-License-Identifier: MIT
"""`import nnsym_fast` needs NumPy and nothing else, and loads nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    "torch", "zarr", "typer", "rich", "click", "matplotlib", "safetensors", "scipy", "ml_dtypes", "jax", "pandas",
    "sklearn", "numcodecs", "PIL",
)  # fmt: skip


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_optional_is_loaded() -> None:
    """Nor are the parts of the standard library that are slow to load and that only rare paths need."""
    code = "import nnsym_fast, sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(code).split())
    assert "numpy" in loaded
    assert loaded.isdisjoint(OPTIONAL)
    assert loaded.isdisjoint({"multiprocessing", "asyncio", "unittest", "http"} - numpy_loads())


def numpy_loads() -> set[str]:
    return set(run("import numpy, sys; print(' '.join({name.split('.')[0] for name in sys.modules}))").split())


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import numpy as np, nnsym_fast as nf
spec = nf.specs.mlp([3, 5, 2])
layers = nf.specs.mlp_layers([3, 5, 2])
params = {{name: np.ones(shape) for name, shape in nf.specs.shapes(layers).items()}}
orbit = nf.Orbit(params, spec, seed=1)
points = orbit[0:4]
assert np.allclose(nf.specs.evaluate(layers, points, np.ones((1, 3)), stacked=True), points["2.bias"][0, 0] + 20)
nf.augment(points, spec, seed=0)
nf.show_config()
try:
    orbit.dataset()
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize("names", [OPTIONAL], ids=["NumPy alone"])
def test_it_works_without_them(names: tuple[str, ...]) -> None:
    assert run(BLOCKED.format(names=names)).splitlines()[-1] == "No module named 'torch'"
