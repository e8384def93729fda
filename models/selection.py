"""Which checkpoint stands behind each model's name: the operator's, or the demo of the same architecture; and on
which device it runs.

Importing this imports no torch; the engine is imported by the thread that loads.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

from config import MARK, Settings, apply_gpu_choice, versions_of
from engine.backend import Backend
from engine.deferred import DeferredBackend
from engine.errors import NoRoom, StartError
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
from engine.model.kernels.build import level_of, obtainable
from engine.text.grammar_trials import GrammarProcesses
from engine.text.image_decoder import ImageDecoder
from engine.text.image_workers import ImageWorkers
from engine.types import EngineConfig, ModelInfo, ModelSpec, is_further, model_of
from models.elsewhere import upstream_backends, with_upstreams
from models.folders import DEMO_FOLDER, ChosenCheckpoint, choose_checkpoints
from models.memory_plan import budgets_of, bytes_beside, log_plan, memory_plan
from models.model_set import ModelSet
from telemetry.logs import fold_in_libraries
from telemetry.version import VERSION

__all__ = [
    "DEMO_FOLDER",
    "ChosenCheckpoint",
    "build_models",
    "choose_checkpoints",
    "engine_config",
    "model_spec",
    "planned_models",
]

log = logging.getLogger("avito_ai.loading")

SETTING_PREFIX = {"avibe": "VIBE", "avision": "VISION"}

Planned = tuple[ModelSpec, EngineConfig]
# Returns what to load, by the models' names; called by the thread that loads.
PlanModels = Callable[[], dict[str, Planned]]
LeaveOut = Callable[[str, StartError], None]


def build_models(settings: Settings) -> ModelSet:
    """Return the models, not yet loaded. Raises StartError if a folder is missing and no demo may replace it."""
    apply_gpu_choice(settings)
    checkpoints = choose_checkpoints(settings)
    planned = ModelPlan(settings, checkpoints)

    def plan() -> dict[str, Planned]:
        reserve = settings.engine.reload_reserve and not models.overlapping
        return {spec.name: (spec, replace(limits, reload_reserve=reserve)) for spec, limits in planned.models()}

    def find(name: str) -> Planned:
        found = plan()
        if name in planned.left_out:
            raise planned.left_out[name]
        return found[name]

    decoder = ImageWorkers(settings.engine.image_workers)
    backends = {
        name: _deferred(name, chosen, settings, find, decoder, lambda: models.loaded)
        for name, chosen in checkpoints.items()
    }
    elsewhere = upstream_backends(settings)
    models = ModelSet(
        with_upstreams(backends, elsewhere),
        check=lambda: _check_memory(settings, plan, planned.leave_out, models.overlapping),
        image_decoder=decoder,
        grammar_trials=GrammarProcesses(),
        upstreams=elsewhere,
    )
    return models


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
        draft_tokens=engine.draft_tokens,
    )


def model_spec(name: str, chosen: ChosenCheckpoint, settings: Settings, device: str) -> ModelSpec:
    """Return what to load as this model, and which settings its errors name."""
    model = model_of(name)
    vision, prefix = model == "avision", SETTING_PREFIX[model]
    versions = versions_of(settings.model)[vision].names
    version = name.partition(MARK)[2] or next(iter(versions), "")
    ours = "" if is_further(name) else (settings.model.vision_name if vision else settings.model.vibe_name)
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
        dir_setting=f"{prefix}_MODELS: {version}" if versions else f"{prefix}_MODEL_DIR",
        tokenizer_setting="VISION_MODEL_DIR" if vision else "VIBE_TOKENIZER_DIR",
        dtype_setting=f"{prefix}_DTYPE" if own_dtype else "DTYPE",
        demo=chosen.demo,
        version=version,
        checkpoint_name=ours or "",
        engine_version=VERSION,
        quant=quant,
        quant_setting=f"{prefix}_QUANT",
        system_prompt=settings.generation.system_prompt(model),
    )


def _default_dtype(name: str, chosen: ChosenCheckpoint, device: str, quant: str) -> str:
    """Return the dtype of a device; on a processor, that of the checkpoint where our kernels compute it."""
    model, usual = model_of(name), DTYPES[device.partition(":")[0]]
    if device != "cpu" or not obtainable(level_of()):
        return usual
    try:
        stored = find_checkpoint(chosen.model_dir, SETTING_PREFIX[model], ARCHITECTURES[model]).stored_dtype
    except Exception:  # whatever is wrong with the files, the start reports it when it looks at the folder
        return usual
    return stored if quant != "none" or stored == "bfloat16" else usual


def _deferred(
    name: str,
    chosen: ChosenCheckpoint,
    settings: Settings,
    find: Callable[[str], Planned],
    decoder: ImageDecoder,
    is_open: Callable[[], bool],
) -> DeferredBackend:
    def build() -> Backend:
        spec, limits = find(name)
        load = functools.partial(import_module("engine.loading.loader").load_model, decoder=decoder)
        backend: Backend = import_module("engine.llm_engine").LLMEngine(spec, limits, load)
        fold_in_libraries()
        return backend

    spec = model_spec(name, chosen, settings, "cpu")  # the device is not known yet, and is nothing that clients see
    return DeferredBackend(ModelInfo.of(spec, settings.generation.max_model_len), build, is_open)


def _check_memory(settings: Settings, plan: PlanModels, leave_out: LeaveOut, overlapping: bool) -> None:
    """Raise StartError if the models of a device do not fit on it together; further versions give way before.

    overlapping: an older copy will make room, so that nothing gives way for it.
    """
    while True:
        models = list(plan().values())
        try:
            if models:
                import_module("engine.loading.memory_budget").check_together(models)
        except StartError as error:
            last = models[-1][0].name
            if not is_further(last) or (overlapping and isinstance(error, NoRoom)):
                raise
            leave_out(last, error)
        else:
            log_plan(memory_plan(settings, models))
            return


class ModelPlan:
    """What is loaded, found once; of one thread. left_out: further versions that cannot be, each with the reason."""

    def __init__(self, settings: Settings, checkpoints: Mapping[str, ChosenCheckpoint]) -> None:
        self._settings, self._checkpoints = settings, dict(checkpoints)
        self._models: list[Planned] | None = None
        self.left_out: dict[str, StartError] = {}

    def models(self) -> list[Planned]:
        """Return the models with their limits; further versions come last. Raises StartError for any other."""
        if self._models is None:
            self._models = planned_models(self._settings, self._checkpoints, self.left_out)
        return self._models

    def leave_out(self, name: str, reason: StartError) -> None:
        """Load a further version no longer; what it took is shared among the others."""
        self.left_out[name] = reason
        del self._checkpoints[name]
        self._models = None


def planned_models(
    settings: Settings,
    checkpoints: Mapping[str, ChosenCheckpoint] | None = None,
    left_out: dict[str, StartError] | None = None,
) -> list[Planned]:
    """Return what `build_models` loads, by default from the folders of the settings. Raises StartError.

    left_out: takes the further versions whose files are unusable, which are not returned.
    """
    chosen = choose_checkpoints(settings) if checkpoints is None else checkpoints
    if not chosen:
        return []
    request = DeviceRequest(settings.model.device, apply_gpu_choice(settings), settings.production)
    own = settings.model.own_devices
    devices = choose_devices(request, own, find_gpus, functools.cache(find_torch_support))
    models = [
        _planned(name, chosen, settings, devices[f"{SETTING_PREFIX[model_of(name)]}_DEVICE"])
        for name, chosen in chosen.items()
    ]
    models = [planned for planned in models if _usable(planned, {} if left_out is None else left_out)]
    rest = bytes_beside(settings, budgets_of(models))
    sized: list[Planned] = import_module("engine.loading.cache_size").with_cache_sizes(models, rest)
    return sized


def _usable(planned: Planned, left_out: dict[str, StartError]) -> bool:
    """Return whether the files of a model are fit to be planned with; those of a further version need not be."""
    name = planned[0].name
    if is_further(name):
        try:
            budgets_of([planned])
        except StartError as error:
            left_out[name] = error
            return False
        except Exception as error:  # whatever a broken config makes of the library that reads it
            left_out[name] = StartError(f"{planned[0].dir_setting}: the files cannot be read: {type(error).__name__}.")
            return False
    return True


def _planned(name: str, chosen: ChosenCheckpoint, settings: Settings, device: str) -> Planned:
    """Return what to load as this model, with the size of its KV cache if the settings name one."""
    spec, sizes = model_spec(name, chosen, settings, device), settings.engine.kv_cache_tokens or {}
    return spec, replace(engine_config(settings, spec.device_type), kv_cache_tokens=sizes.get(model_of(name), 0))


def _served_id(name: str, chosen: ChosenCheckpoint) -> str:
    model, mark, version = name.partition(MARK)
    return f"{model}-demo{mark}{version}" if chosen.demo else name
