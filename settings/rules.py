"""The rules between settings: what no single value shows, each broken one a sentence for the operator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from settings.groups import EngineSettings, GenerationSettings, ModelSettings, Settings

DEMO = Path("demo")
MODELS = 2
SPARE_THREADS = 32
NUM_SEQS = {"cpu": 64, "cuda": 256}


def default_num_seqs(model: ModelSettings, has_gpu: Callable[[], bool]) -> int:
    """Return the default of MAX_NUM_SEQS for the devices of the models. has_gpu: asked where these are automatic."""
    devices = {own or model.device for own in model.own_devices.values()}
    on_cuda = any(device.startswith("cuda") for device in devices) or ("auto" in devices and has_gpu())
    return NUM_SEQS["cuda" if on_cuda else "cpu"]


def threads_needed(engine: EngineSettings) -> int:
    """Return one thread for each request both models can hold, and some for probes, refusals and pages."""
    return MODELS * (engine.max_num_seqs + engine.max_waiting) + SPARE_THREADS


def broken_rules(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each rule that the settings break."""
    yield from _process(settings)
    yield from _lengths(settings.generation)
    yield from _batch(settings.engine)
    yield from _models(settings.model)
    yield from _log_file(settings.logging.log_file)


def _process(settings: Settings) -> Iterator[str]:
    server, engine = settings.server, settings.engine
    if server.workers > 1:
        yield (
            f"WORKERS={server.workers}: expected 1, because each worker would load the weights again; "
            "to serve more, raise MAX_NUM_SEQS or run more copies of the service"
        )
    needed = threads_needed(engine)
    if server.threads < needed:
        yield (
            f"THREADS={server.threads}: expected at least {needed} = {MODELS} models x (MAX_NUM_SEQS "
            f"{engine.max_num_seqs} + MAX_WAITING {engine.max_waiting}) + {SPARE_THREADS} for probes, "
            "refusals and pages; leave it out to have it computed"
        )


def _lengths(generation: GenerationSettings) -> Iterator[str]:
    limit = generation.max_tokens_limit
    defaults = {"MAX_TOKENS_AVIBE": generation.max_tokens_avibe, "MAX_TOKENS_AVISION": generation.max_tokens_avision}
    for name, tokens in defaults.items():
        if tokens > limit:
            yield f"{name}={tokens}: expected at most MAX_TOKENS_LIMIT, which is {limit}"
    if limit >= generation.max_model_len:
        yield (
            f"MAX_TOKENS_LIMIT={limit}: expected less than MAX_MODEL_LEN, which is "
            f"{generation.max_model_len} and holds the prompt as well"
        )


def _batch(engine: EngineSettings) -> Iterator[str]:
    if 0 < engine.max_num_batched_tokens < engine.max_num_seqs:
        yield (
            f"MAX_NUM_BATCHED_TOKENS={engine.max_num_batched_tokens}: expected 0 (automatic) or at least "
            f"MAX_NUM_SEQS, which is {engine.max_num_seqs}, because each running request generates one token per step"
        )


def _models(model: ModelSettings) -> Iterator[str]:
    if model.vibe_tokenizer_dir == DEMO != model.vibe_model_dir:
        yield "VIBE_TOKENIZER_DIR='demo': expected VIBE_MODEL_DIR=demo beside it, because it fits that model alone"


def _log_file(path: Path | None) -> Iterator[str]:
    """Check without creating the file: the check may run as root, and the service as another user."""
    if path is None:
        return
    try:
        writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
        usable = writable and not path.is_dir()
    except OSError:
        usable = False
    if not usable:
        yield f"LOG_FILE={str(path)!r}: expected a file that can be written, in a folder that exists"
