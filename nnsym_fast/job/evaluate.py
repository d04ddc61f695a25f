# SPDX-License-Identifier: MIT
"""Outputs of a network on probe inputs: layers are evaluated here, transformers by the library of that name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nnsym_fast.job.checkpoint import Array, Checkpoint
from nnsym_fast.job.errors import JobError
from nnsym_fast.specs.network import evaluate

__all__ = ["Evaluator", "LayersEvaluator", "TransformersEvaluator", "evaluator_of"]

DType: TypeAlias = np.dtype[Any]

SLAB_POINTS = 16
"""Points that are evaluated together on the probe inputs; bounds the memory of their activations."""

SEQUENCES, LENGTH, IMAGES = 4, 16, 4
"""Probe inputs of transformers: random token ids, or random images."""


class Evaluator(Protocol):
    """Evaluates networks with the tensors of one checkpoint.

    ``draws`` is the number of random roundings of the weights that the points are compared with: the worst of them
    counts, as the worst of the points does. ``orders`` is the same for the naive computation of one point. Small
    networks, whose errors are sums of few, need more of both.
    """

    draws: int
    orders: int

    def outputs(self, params: Mapping[str, Array], dtype: DType) -> Array:
        """Outputs ``(probes, features)`` of one network, computed in float32 or float64."""

    def stacked(self, points: Mapping[str, Array], dtype: DType) -> Iterator[Array]:
        """The same of stacked networks, in batches ``(some, probes, features)``."""


def evaluator_of(checkpoint: Checkpoint, work: DType) -> Evaluator:
    """What evaluates a checkpoint.

    Args:
        checkpoint: the network.
        work: the dtype to which probe inputs are rounded: all evaluations must see the same ones.

    Raises:
        JobError: nothing does, or a library is missing.
    """
    if checkpoint.model is None and checkpoint.config is not None:
        return TransformersEvaluator(checkpoint.name, checkpoint.config)
    model, probes = checkpoint.function("the function's change")
    return LayersEvaluator(model.layers, probes.astype(work))


def floating(array: Array, dtype: npt.DTypeLike) -> Array:
    """Floating-point tensors in the format of the evaluation; counters as they are."""
    return array if array.dtype.kind in "iub" else array.astype(dtype, copy=False)


class LayersEvaluator:
    """Networks of layers, see :func:`nnsym_fast.specs.evaluate`.

    Args:
        layers: one dict per layer.
        probes: inputs ``(batch, ...)``.
    """

    draws = 16
    orders = 8

    def __init__(self, layers: Any, probes: Array) -> None:
        self.layers = layers
        self.probes = probes

    def outputs(self, params: Mapping[str, Array], dtype: DType) -> Array:
        cast = {name: floating(array, dtype) for name, array in params.items()}
        return np.asarray(evaluate(self.layers, cast, self.probes.astype(dtype))).reshape(len(self.probes), -1)

    def stacked(self, points: Mapping[str, Array], dtype: DType) -> Iterator[Array]:
        n = len(next(iter(points.values())))
        for first in range(0, n, SLAB_POINTS):
            part = {name: floating(array[first : first + SLAB_POINTS], dtype) for name, array in points.items()}
            outputs = evaluate(self.layers, part, self.probes.astype(dtype), stacked=True)
            yield outputs.reshape(len(outputs), len(self.probes), -1)


class TransformersEvaluator:
    """Networks of the library transformers, on random token ids or images, by the class that the configuration names.

    The outputs are the logits of every position; of a model without a head, its last hidden states and pooled output.

    Args:
        name: name of the checkpoint, for messages.
        config: the configuration, as in ``config.json``; code that it may point to is never run.

    Raises:
        JobError: torch or transformers is missing, or transformers does not know the architecture.
    """

    draws = 8
    orders = 2

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self.name = name
        try:
            import torch

            self.torch: Any = torch
            self.library: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise JobError(
                f"{name}: evaluating it needs {error.name}; install it with pip install torch transformers"
            ) from None
        try:
            known = self.library.CONFIG_MAPPING[config.get("model_type")]
            self.config: Any = known.from_dict(dict(config), attn_implementation="eager", use_cache=False)
            (kind,) = config.get("architectures") or [None]
            # Without a head: the class that AutoModel would take.
            self.kind: Any = getattr(self.library, kind) if kind else self.library.MODEL_MAPPING[known]
        except Exception as error:  # the library has its own for configurations that it does not take
            raise JobError(
                f"{name}: transformers {self.library.__version__} cannot evaluate its architecture "
                f"({config.get('model_type')!r}, {config.get('architectures')!r}): {type(error).__name__}"
            ) from None

    def outputs(self, params: Mapping[str, Array], dtype: DType) -> Array:
        torch = self.torch
        state = {name: torch.from_numpy(np.array(floating(array, dtype))) for name, array in params.items()}
        with _quiet(self.library), torch.no_grad(), _in_float64(torch, dtype):
            model, info = self.kind.from_pretrained(
                None, config=self.config, state_dict=state, dtype=getattr(torch, dtype.name), output_loading_info=True
            )
            for problem in ("missing_keys", "mismatched_keys"):
                if info[problem]:
                    raise JobError(
                        f"{self.name}: transformers cannot evaluate it as {self.kind.__name__}: "
                        f"{problem.replace('_', ' ')}, {min(map(str, info[problem]))} among them"
                    )
            result = model.eval()(**self._inputs(model, dtype), return_dict=True)
        rows = [result[key] for key in ("logits", "last_hidden_state", "pooler_output") if result.get(key) is not None]
        first = rows[0]
        flat = [row.reshape(-1, row.shape[-1]) for row in rows if row.shape[-1] == first.shape[-1]]
        return np.asarray(torch.cat(flat).numpy())

    def _inputs(self, model: Any, dtype: DType) -> dict[str, Any]:
        random = np.random.default_rng(0)
        if model.main_input_name == "pixel_values":
            size = self.config.image_size
            height, width = (size, size) if isinstance(size, int) else size
            pixels = random.standard_normal((IMAGES, self.config.num_channels, height, width)).astype(np.float32)
            return {"pixel_values": self.torch.from_numpy(pixels.astype(dtype))}
        words = model.get_input_embeddings().num_embeddings
        longest = getattr(self.config, "max_position_embeddings", None) or LENGTH
        ids = random.integers(0, words, (SEQUENCES, min(LENGTH, longest)))
        # Some models count positions from the padding on.
        ids[ids == getattr(self.config, "pad_token_id", None)] = 1 if words > 1 else 0
        return {"input_ids": self.torch.from_numpy(ids)}

    def stacked(self, points: Mapping[str, Array], dtype: DType) -> Iterator[Array]:
        for point in range(len(next(iter(points.values())))):
            yield self.outputs({name: array[point] for name, array in points.items()}, dtype)[None]


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without progress bars and without advice about the tensors that are loaded."""
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _in_float64(torch: Any, dtype: DType) -> Iterator[None]:
    """Let a float64 network be one: usual norms and softmaxes compute in float32 whatever the network's dtype."""
    if dtype != np.float64:
        yield
        return

    class Widen(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            options = dict(kwargs or {})
            wide = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
            if wide and function is torch.Tensor.float:
                return args[0]
            if wide:
                args = tuple(torch.float64 if value is torch.float32 else value for value in args)
                options = {key: torch.float64 if v is torch.float32 else v for key, v in options.items()}
            return function(*args, **options)

    with Widen():
        yield
