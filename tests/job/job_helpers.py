# SPDX-License-Identifier: MIT
"""Small networks as files and folders, the command line in a process of its own, and directories as bytes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from nnsym_fast import specs

Params = dict[str, npt.NDArray[Any]]
ROOT = Path(__file__).resolve().parents[2]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The error, after checking that it is one line and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("nnsym-fast: ")]
        assert "Traceback" not in self.err + self.out
        assert len(lines) == 1, self.err
        return lines[0]


def mlp_params(widths: list[int], seed: int = 0, dtype: Any = np.float32) -> Params:
    """He-initialised parameters with the names of nn.Sequential."""
    random = np.random.default_rng(seed)
    params: Params = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        params[f"{2 * number}.weight"] = (random.standard_normal((outputs, inputs)) * (2 / inputs) ** 0.5).astype(dtype)
        params[f"{2 * number}.bias"] = (0.1 * random.standard_normal(outputs)).astype(dtype)
    return params


def write_mlp(path: Path, widths: list[int], activation: str = "relu", seed: int = 0, dtype: Any = np.float32) -> Path:
    """An MLP as a safetensors file with its spec and layers in the metadata."""
    metadata = {
        "nnsym_fast.spec": specs.mlp(widths, activation).to_json(),
        "nnsym_fast.model": json.dumps({"layers": specs.mlp_layers(widths, activation), "input_shape": [widths[0]]}),
    }
    save_file(mlp_params(widths, seed, dtype), path, metadata)
    return path


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own; Ctrl-C reaches it even if this one, in the background, ignores it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "nnsym_fast.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **{"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options},
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=300)
    return Outcome(process.returncode, out, err)


def tree(directory: Path) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def example_script(name: str) -> ModuleType:
    """A script of ``examples/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LLAMA = {"hidden": 32, "ff": 48, "layers": 3, "heads": 4, "kv_heads": 2, "vocab": 64}
"""The size of the checkpoint that :func:`write_llama` writes."""


def write_llama(path: Path, shard_bytes: int = 12_000, dtype: str = "bfloat16", **sizes: int) -> Path:
    """A random checkpoint folder of the shape of Llama, in several shards; another dtype than bfloat16 in one file."""
    script = example_script("make_llama")
    config = script.config_of(argparse.Namespace(**(LLAMA | sizes)))
    if dtype == "bfloat16":
        script.write(path, config, shard_bytes, 0)
        return path
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    random = np.random.default_rng(0)
    tensors = {
        name: (np.concatenate(list(script.numbers(shape, random))).reshape(shape).astype(dtype))
        for name, shape in script.shapes_of(config).items()
    }
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path
