"""Which checkpoint stands behind each model's name: the operator's, or the demo of the same architecture; and on
which device it runs.

Importing this imports no torch; the engine is imported by the thread that loads.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from config import DEMO, Settings, apply_gpu_choice
from engine.backend import Backend
from engine.deferred import DeferredBackend
from engine.errors import StartError
from engine.loading.device import DeviceRequest, choose_device, find_gpus, find_torch_support
from engine.text.image_decoder import ImageDecoder
from engine.text.image_workers import ImageWorkers
from engine.types import EngineConfig, ModelInfo, ModelSpec
from models.memory_plan import log_plan, memory_plan
from models.model_set import ModelSet
from telemetry.logs import fold_in_libraries

log = logging.getLogger("avito_ai.loading")

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
BATCHED_TOKENS = {"cpu": 320, "cuda": 2048}  # on the CPU 256 prompt tokens beside 64 decoding rows
# The fixed cost of a step in tokens: measured on the CPU with the demo; on CUDA, reading the weights once.
STEP_OVERHEAD = {"cpu": 8, "cuda": 256}
DTYPES = {"cpu": "float32", "cuda": "float16"}

# Returns the device, and the engine's limits on it; called by the thread that loads.
ResolveDevice = Callable[[], tuple[str, EngineConfig]]


@dataclass(frozen=True, slots=True)
class ChosenCheckpoint:
    """The folders one model is loaded from."""

    model_dir: Path
    tokenizer_dir: Path
    demo: bool = False


def build_models(settings: Settings) -> ModelSet:
    """Return the two models, not yet loaded. Raises StartError if a folder is missing and no demo may replace it."""
    visible = apply_gpu_choice(settings)
    request = DeviceRequest(settings.model.device, visible, settings.production)
    device = functools.cache(lambda: choose_device(request, find_gpus, find_torch_support))
    checkpoints = choose_checkpoints(settings)

    def resolve_device() -> tuple[str, EngineConfig]:
        where = device()
        limits = engine_config(settings, where)
        return where, replace(limits, reload_reserve=limits.reload_reserve and not models.overlapping)

    decoder = ImageWorkers(settings.engine.image_workers)
    backends = {
        name: _deferred(name, chosen, settings, resolve_device, decoder) for name, chosen in checkpoints.items()
    }
    models = ModelSet(
        backends, check=lambda: _check_memory(checkpoints, settings, resolve_device), image_decoder=decoder
    )
    return models


def choose_checkpoints(settings: Settings) -> dict[str, ChosenCheckpoint]:
    """Decide for each model between the operator's folders and the demo's. Raises StartError with every problem."""
    model, wrong = settings.model, list[str]()
    vibe = ChosenCheckpoint(model.vibe_model_dir, model.vibe_tokenizer_dir)
    vision = ChosenCheckpoint(model.vision_model_dir, model.vision_model_dir)
    chosen = {
        "avibe": _choose("avibe", "VIBE_MODEL_DIR", vibe, settings.production, wrong),
        "avision": _choose("avision", "VISION_MODEL_DIR", vision, settings.production, wrong),
    }
    if wrong:
        raise StartError(" ".join(wrong))
    return chosen


def engine_config(settings: Settings, device: str) -> EngineConfig:
    """Return the engine's limits on this device, the automatic ones filled in."""
    engine = settings.engine
    return EngineConfig(
        max_num_seqs=engine.max_num_seqs,
        max_waiting=engine.max_waiting,
        max_model_len=settings.generation.max_model_len,
        max_num_batched_tokens=engine.max_num_batched_tokens or max(BATCHED_TOKENS[device], engine.max_num_seqs),
        stall_seconds=engine.stall_seconds,
        cpu_threads=engine.cpu_threads,
        prefix_cache=engine.prefix_cache,
        prefix_sharing=engine.prefix_sharing,
        step_overhead=STEP_OVERHEAD[device],
        cuda_graphs=engine.cuda_graphs,
        reload_reserve=engine.reload_reserve,
        image_workers=engine.image_workers,
    )


def model_spec(name: str, chosen: ChosenCheckpoint, settings: Settings, device: str) -> ModelSpec:
    """Return what to load as this model, and which settings its errors name."""
    vision = name == "avision"
    prefix = "VISION" if vision else "VIBE"
    own_dtype = settings.model.vision_dtype if vision else settings.model.vibe_dtype
    return ModelSpec(
        name=name,
        served_id=_served_id(name, chosen),
        vision=vision,
        model_dir=chosen.model_dir,
        tokenizer_dir=chosen.tokenizer_dir,
        device=device,
        dtype=own_dtype or settings.model.dtype or DTYPES[device],
        dir_setting=f"{prefix}_MODEL_DIR",
        tokenizer_setting="VISION_MODEL_DIR" if vision else "VIBE_TOKENIZER_DIR",
        dtype_setting=f"{prefix}_DTYPE" if own_dtype else "DTYPE",
        demo=chosen.demo,
    )


def _choose(
    name: str, setting: str, requested: ChosenCheckpoint, production: bool, wrong: list[str]
) -> ChosenCheckpoint:
    """Return the checkpoint to load; if there is none, append the reason to `wrong`."""
    demo = ChosenCheckpoint(DEMO_FOLDER / name, DEMO_FOLDER / name, demo=True)
    if requested.model_dir == DEMO:
        return demo
    stated = f"{setting}={requested.model_dir}"
    try:
        requested.model_dir.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not production:
            log.warning("%s: there is no such folder, so the demo model stands in for %s.", stated, name)
            return demo
        wrong.append(f"{stated}: there is no such folder; name one, or ask for the demo with {setting}=demo.")
    except OSError as error:
        wrong.append(f"{stated}: the folder cannot be read: {error.strerror}.")
    return requested


def _deferred(
    name: str, chosen: ChosenCheckpoint, settings: Settings, resolve_device: ResolveDevice, decoder: ImageDecoder
) -> DeferredBackend:
    def build() -> Backend:
        where, limits = resolve_device()
        load = functools.partial(import_module("engine.loading.loader").load_model, decoder=decoder)
        backend: Backend = import_module("engine.llm_engine").LLMEngine(
            model_spec(name, chosen, settings, where), limits, load
        )
        fold_in_libraries()
        return backend

    spec = model_spec(name, chosen, settings, "cpu")  # the device is not known yet, and is nothing that clients see
    return DeferredBackend(ModelInfo.of(spec, settings.generation.max_model_len), build)


def _check_memory(
    checkpoints: Mapping[str, ChosenCheckpoint], settings: Settings, resolve_device: ResolveDevice
) -> None:
    """Raise StartError if both models together do not fit."""
    where, limits = resolve_device()
    models = [(model_spec(name, chosen, settings, where), limits) for name, chosen in checkpoints.items()]
    import_module("engine.loading.memory_budget").check_together(models)
    log_plan(memory_plan(settings, models))


def planned_models(settings: Settings) -> list[tuple[ModelSpec, EngineConfig]]:
    """Return what `build_models` would load. Raises StartError as it does."""
    request = DeviceRequest(settings.model.device, apply_gpu_choice(settings), settings.production)
    where = choose_device(request, find_gpus, find_torch_support)
    checkpoints = choose_checkpoints(settings)
    return [
        (model_spec(name, chosen, settings, where), engine_config(settings, where))
        for name, chosen in checkpoints.items()
    ]


def _served_id(name: str, chosen: ChosenCheckpoint) -> str:
    return f"{name}-demo" if chosen.demo else name
