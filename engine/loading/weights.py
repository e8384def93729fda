"""Loads the weights of a checkpoint directly to the device, with progress in bytes.

transformers builds the module without memory (on the meta device), maps the shards and moves the tensors one by one: on
the CPU in the stored dtype the weights are the mapped file itself, otherwise each tensor is converted separately. Host
memory never holds a second copy of the model. Weights that a GPU's kernels are to read quantized stay the mapped file
until the runner quantizes them on the GPU, one after another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging as library_logging

from engine.errors import Message, StartError
from engine.loading.checkpoint import Checkpoint
from engine.types import ModelSpec, Progress

log = logging.getLogger("avito_ai.loading")

_LOG_EVERY = 5.0  # seconds
# Names that transformers does not know: of vision models whose language model was saved with its own head.
_RENAMED = {r"^language_model\.model\.": "model.language_model.", r"^language_model\.lm_head\.": "lm_head."}
_LOAD_LOCK = threading.Lock()  # guards the process-wide progress hook and log level of transformers


def load_weights(spec: ModelSpec, checkpoint: Checkpoint, report: Callable[[Progress], None]) -> PreTrainedModel:
    """Return the model in evaluation mode on `spec.device` in `spec.dtype`. Raises StartError.

    One that is to be quantized for a GPU is returned as the mapped files: on the CPU, as it is stored.
    """
    mapped = spec.quant != "none" and spec.device_type != "cpu"
    auto: Any = AutoModelForImageTextToText if spec.vision else AutoModelForCausalLM
    with _LOAD_LOCK, _progress(_ProgressCounter(spec, checkpoint.stored_bytes, report)), _quiet():
        try:
            model, info = auto.from_pretrained(
                checkpoint.folder,
                dtype=getattr(torch, checkpoint.stored_dtype if mapped else spec.dtype),
                device_map={"": "cpu" if mapped else spec.device},
                attn_implementation="sdpa",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                key_mapping=_RENAMED if spec.vision else None,
            )
        except Exception as error:  # transformers can fail in any way on a folder that passed our checks
            raise _failure(spec, checkpoint, f"cannot be loaded ({type(error).__name__})") from error
    for kind, keys in (("lacks", info["missing_keys"]), ("has unknown", info["unexpected_keys"])):
        if keys:
            raise _failure(
                spec,
                checkpoint,
                f"{kind} weights: {len(keys)}, among them {min(keys)}; save it with transformers again",
            )
    model.requires_grad_(False)
    loaded: PreTrainedModel = model.eval()
    return loaded


class _ProgressCounter:
    """Counts the loaded bytes, reports each change, and logs a line every `_LOG_EVERY` seconds."""

    def __init__(self, spec: ModelSpec, sizes: Mapping[str, int], report: Callable[[Progress], None]) -> None:
        self._name = spec.name
        self._sizes = sizes
        self._total = sum(sizes.values())
        self._progress = report
        self._loaded = 0
        self._started = self._logged = time.monotonic()

    def watch(self, steps: Any) -> Iterator[Any]:
        """Yield the loading steps of transformers, (name, conversion); a step is done when the next is requested."""
        self._report()
        for name, conversion in steps:
            size = sum(self._sizes.get(source, 0) for source in conversion.collected_tensors)
            yield name, conversion
            self._loaded += size
            self._report()

    def _report(self) -> None:
        now = time.monotonic()
        self._progress(Progress(Message("stage_weights", "loading weights"), self._loaded, self._total))
        if now - self._logged >= _LOG_EVERY or self._loaded == self._total:
            self._logged = now
            done, total = self._loaded / 1e6, self._total / 1e6
            log.info("%s: %.1f of %.1f MB of weights loaded, %.1f s", self._name, done, total, now - self._started)


@contextmanager
def _progress(counter: _ProgressCounter) -> Iterator[None]:
    """Replace the progress bar of transformers by the counter."""

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("desc") != "Loading weights":
            return factory(*args, **kwargs)
        return counter.watch(args[0])

    previous = library_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        library_logging.set_tqdm_hook(previous)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the multi-line load report of transformers out of the log; its content becomes one error sentence."""
    level = library_logging.get_verbosity()
    library_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        library_logging.set_verbosity(level)


def _failure(spec: ModelSpec, checkpoint: Checkpoint, problem: str) -> StartError:
    return StartError(f"{spec.dir_setting}: the model in {checkpoint.folder} {problem}.")
