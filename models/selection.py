"""Which checkpoint stands behind each model's name: the operator's, or the demo of the same architecture; and on
which device it runs.

Importing this imports no torch; the engine is imported by the thread that loads.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from config import DEMO, Settings, apply_gpu_choice
from engine.backend import Backend
from engine.deferred import DeferredBackend
from engine.errors import StartError
from engine.loading.checkpoint import ARCHITECTURES, find_checkpoint
from engine.loading.device import (
    BATCHED_TOKENS,
    DTYPES,
    STEP_OVERHEAD,
    DeviceRequest,
    choose_devices,
    find_gpus,
    find_torch_support,
)
from engine.model.kernels.build import level_of
from engine.text.grammar_trials import GrammarProcesses
from engine.text.image_decoder import ImageDecoder
from engine.text.image_workers import ImageWorkers
from engine.types import EngineConfig, ModelInfo, ModelSpec
from models.memory_plan import budgets_of, bytes_beside, log_plan, memory_plan
from models.model_set import ModelSet
from telemetry.logs import fold_in_libraries
from telemetry.version import VERSION

log = logging.getLogger("avito_ai.loading")

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
# Owner and name as on Hugging Face, or the address of a page there, which a path holds with one slash fewer.
HUB_NAME = re.compile(r"(https?:/|hf:/)[^/]+/.+|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SETTING_PREFIX = {"avibe": "VIBE", "avision": "VISION"}

Planned = tuple[ModelSpec, EngineConfig]
# Returns what to load, by the models' names; called by the thread that loads.
PlanModels = Callable[[], dict[str, Planned]]


@dataclass(frozen=True, slots=True)
class ChosenCheckpoint:
    """The folders one model is loaded from."""

    model_dir: Path
    tokenizer_dir: Path
    demo: bool = False


def build_models(settings: Settings) -> ModelSet:
    """Return the two models, not yet loaded. Raises StartError if a folder is missing and no demo may replace it."""
    apply_gpu_choice(settings)
    checkpoints = choose_checkpoints(settings)
    planned = functools.cache(lambda: planned_models(settings, checkpoints))

    def plan() -> dict[str, Planned]:
        reserve = settings.engine.reload_reserve and not models.overlapping
        return {spec.name: (spec, replace(limits, reload_reserve=reserve)) for spec, limits in planned()}

    decoder = ImageWorkers(settings.engine.image_workers)
    backends = {
        name: _deferred(name, chosen, settings, plan, decoder, lambda: models.loaded)
        for name, chosen in checkpoints.items()
    }
    models = ModelSet(
        backends,
        check=lambda: _check_memory(settings, plan),
        image_decoder=decoder,
        grammar_trials=GrammarProcesses(),
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
    tokenizer = chosen["avibe"].tokenizer_dir
    if hub_hint(tokenizer) and not tokenizer.exists():
        wrong.append(f"VIBE_TOKENIZER_DIR={tokenizer}: there is no such folder{hub_hint(tokenizer)}.")
    if wrong:
        raise StartError(" ".join(wrong))
    return chosen


def engine_config(settings: Settings, device: str) -> EngineConfig:
    """Return the engine's limits on `cpu` or `cuda`, the automatic ones filled in."""
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
    prefix = SETTING_PREFIX[name]
    own_dtype = settings.model.vision_dtype if vision else settings.model.vibe_dtype
    quant = settings.model.vision_quant if vision else settings.model.vibe_quant
    return ModelSpec(
        name=name,
        served_id=_served_id(name, chosen),
        vision=vision,
        model_dir=chosen.model_dir,
        tokenizer_dir=chosen.tokenizer_dir,
        device=device,
        dtype=own_dtype or settings.model.dtype or _default_dtype(name, chosen, device, quant),
        dir_setting=f"{prefix}_MODEL_DIR",
        tokenizer_setting="VISION_MODEL_DIR" if vision else "VIBE_TOKENIZER_DIR",
        dtype_setting=f"{prefix}_DTYPE" if own_dtype else "DTYPE",
        demo=chosen.demo,
        checkpoint_name=(settings.model.vision_name if vision else settings.model.vibe_name) or "",
        engine_version=VERSION,
        quant=quant,
        quant_setting=f"{prefix}_QUANT",
    )


def _default_dtype(name: str, chosen: ChosenCheckpoint, device: str, quant: str) -> str:
    """Return the dtype of a device; on a processor, that of the checkpoint where kernels compute its weights."""
    usual = DTYPES[device.partition(":")[0]]
    if device != "cpu" or level_of() is None:
        return usual
    try:
        stored = find_checkpoint(chosen.model_dir, SETTING_PREFIX[name], ARCHITECTURES[name]).stored_dtype
    except StartError:  # which the start reports when it looks at the folder
        return usual
    return stored if quant != "none" or stored == "bfloat16" else usual


def _choose(
    name: str, setting: str, requested: ChosenCheckpoint, production: bool, wrong: list[str]
) -> ChosenCheckpoint:
    """Return the checkpoint to load; if there is none, append the reason to `wrong`."""
    demo = ChosenCheckpoint(DEMO_FOLDER / name, DEMO_FOLDER / name, demo=True)
    if requested.model_dir == DEMO:
        return demo
    stated, hint = f"{setting}={requested.model_dir}", hub_hint(requested.model_dir)
    try:
        requested.model_dir.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not production:
            log.warning("%s: there is no such folder%s, so the demo model stands in for %s.", stated, hint, name)
            return demo
        wrong.append(f"{stated}: there is no such folder{hint}; name one, or ask for the demo with {setting}=demo.")
    except OSError as error:
        wrong.append(f"{stated}: the folder cannot be read: {error.strerror}.")
    return requested


def hub_hint(folder: Path) -> str:
    """Return how to get the model of a missing folder that reads like a name on Hugging Face, else an empty text."""
    if not HUB_NAME.fullmatch(str(folder)):
        return ""
    return " (a model on Hugging Face is downloaded with ./deploy.sh models, which also writes this setting)"


def _deferred(
    name: str,
    chosen: ChosenCheckpoint,
    settings: Settings,
    plan: PlanModels,
    decoder: ImageDecoder,
    is_open: Callable[[], bool],
) -> DeferredBackend:
    def build() -> Backend:
        spec, limits = plan()[name]
        load = functools.partial(import_module("engine.loading.loader").load_model, decoder=decoder)
        backend: Backend = import_module("engine.llm_engine").LLMEngine(spec, limits, load)
        fold_in_libraries()
        return backend

    spec = model_spec(name, chosen, settings, "cpu")  # the device is not known yet, and is nothing that clients see
    return DeferredBackend(ModelInfo.of(spec, settings.generation.max_model_len), build, is_open)


def _check_memory(settings: Settings, plan: PlanModels) -> None:
    """Raise StartError if the models of a device do not fit on it together."""
    models = list(plan().values())
    import_module("engine.loading.memory_budget").check_together(models)
    log_plan(memory_plan(settings, models))


def planned_models(settings: Settings, checkpoints: Mapping[str, ChosenCheckpoint] | None = None) -> list[Planned]:
    """Return what `build_models` loads, by default from the folders of the settings. Raises StartError."""
    request = DeviceRequest(settings.model.device, apply_gpu_choice(settings), settings.production)
    own = settings.model.own_devices
    devices = choose_devices(request, own, find_gpus, functools.cache(find_torch_support))
    models = [
        _planned(name, chosen, settings, devices[f"{SETTING_PREFIX[name]}_DEVICE"])
        for name, chosen in (checkpoints or choose_checkpoints(settings)).items()
    ]
    rest = bytes_beside(settings, budgets_of(models))
    sized: list[Planned] = import_module("engine.loading.cache_size").with_cache_sizes(models, rest)
    return sized


def _planned(name: str, chosen: ChosenCheckpoint, settings: Settings, device: str) -> Planned:
    """Return what to load as this model, with the size of its KV cache if the settings name one."""
    spec, sizes = model_spec(name, chosen, settings, device), settings.engine.kv_cache_tokens or {}
    return spec, replace(engine_config(settings, spec.device_type), kv_cache_tokens=sizes.get(name, 0))


def _served_id(name: str, chosen: ChosenCheckpoint) -> str:
    return f"{name}-demo" if chosen.demo else name
