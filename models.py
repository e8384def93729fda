"""The models of the service: one `ModelSet`, made from the settings, that loads, drains and stops them together.

Importing this imports no torch; the engine is imported by the thread that loads. Which checkpoint stands behind a
name is decided here: the operator's, or the demo of the same architecture.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from config import DEMO, Settings, apply_gpu_choice
from engine.backend import Backend
from engine.deferred import DeferredBackend
from engine.errors import StartError
from engine.loading.device import Wish, ask_torch, choose_device, survey_machine
from engine.types import BackendState, EngineConfig, ModelInfo, ModelSpec, Status
from logs import fold_in_libraries

log = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parent / "demo"
BATCHED_TOKENS = {"cpu": 320, "cuda": 2048}  # on the CPU 256 of prompts beside 64 rows that decode
DTYPES = {"cpu": "float32", "cuda": "float16"}
ENGINES = {
    "continuous": ("engine.llm_engine", "LLMEngine"),
    "reference": ("engine.reference", "ReferenceBackend"),
}

# Returns the device, and the engine's limits on it; called by the thread that loads.
ResolveDevice = Callable[[], tuple[str, EngineConfig]]


class ModelSet:
    """The models by name, loaded one after another. Safe to use from any thread.

    check: called before the first is loaded; it raises StartError where that is foreseen to fail. overlapping: set
    before the start where another copy is still in memory, so that the room kept for one counts as used.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._backends = dict(backends)
        self._clock, self._check = clock, check
        self._stopping = threading.Event()
        self._stop_announced = False
        self.overlapping = False
        self._loader: threading.Thread | None = None

    def __iter__(self) -> Iterator[tuple[str, Backend]]:
        return iter(self._backends.items())

    def get(self, name: str) -> Backend:
        """Return the model of this name. Raises KeyError."""
        return self._backends[name]

    def states(self) -> dict[str, BackendState]:
        """Return the state of each model; never blocks."""
        return {name: self._shown(backend.state()) for name, backend in self}

    @property
    def ready(self) -> bool:
        """True while every model takes requests."""
        return all(state.status is Status.READY for state in self.states().values())

    @property
    def idle(self) -> bool:
        """True while no model has an admitted request."""
        figures = [backend.stats() for _, backend in self]
        return all(f.num_requests_running + f.num_requests_waiting == 0 for f in figures)

    @property
    def restart_needed(self) -> bool:
        """True where only a new process can help."""
        return any(state.restart_needed for state in self.states().values())

    @property
    def loading(self) -> bool:
        """True while the thread of `start_in_background` is at work."""
        return self._loader is not None and self._loader.is_alive()

    def start(self) -> None:
        """Load the models one after another in this thread, unless stopped meanwhile. Raises StartError."""
        self._check()
        for name, backend in self:
            if not self._stopping.is_set():
                self._start_one(name, backend)

    def start_in_background(
        self, on_failure: Callable[[StartError], None], on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Load the models in a thread that then calls one of the two, neither if `stop` came first."""
        self._loader = threading.Thread(target=self._load, args=(on_failure, on_ready), name="load-models", daemon=True)
        self._loader.start()

    def announce_stop(self) -> None:
        """Call ready models draining from now on, though they still take requests: a balancer shall look elsewhere."""
        self._stop_announced = True

    def drain(self) -> None:
        """Refuse new requests from now on and let the admitted ones finish; returns at once."""
        for _, backend in self:
            backend.drain()

    def stop(self, timeout: float) -> None:
        """Drain, leave `timeout` seconds in all to the admitted requests, abort what is left, end the threads."""
        self._stopping.set()
        self.drain()
        deadline = self._clock() + timeout
        for _, backend in self:
            backend.stop(max(0.0, deadline - self._clock()))

    def _shown(self, state: BackendState) -> BackendState:
        announced = self._stop_announced and state.status is Status.READY
        return replace(state, status=Status.DRAINING) if announced else state

    def _load(self, on_failure: Callable[[StartError], None], on_ready: Callable[[], None]) -> None:
        try:
            self.start()
        except StartError as error:
            outcome: Callable[[], None] = functools.partial(on_failure, error)
        else:
            outcome = on_ready
        if not self._stopping.is_set():
            outcome()

    def _start_one(self, name: str, backend: Backend) -> None:
        began = self._clock()
        log.info("Loading %s (%s).", name, backend.info.served_id)
        try:
            backend.start()
        except StartError:
            raise
        except Exception as error:
            log.exception("Loading %s failed in a way that nobody expected.", name)
            raise StartError(f"{name} could not be loaded: {type(error).__name__}; the traceback is above.") from error
        log.info("%s is ready after %.1f s.", name, self._clock() - began)


@dataclass(frozen=True, slots=True)
class ChosenCheckpoint:
    """The folders one model is loaded from."""

    model_dir: Path
    tokenizer_dir: Path
    demo: bool = False


def build_models(settings: Settings) -> ModelSet:
    """Return the two models, not yet loaded. Raises StartError if a folder is missing and no demo may replace it."""
    visible = apply_gpu_choice(settings)
    wish = Wish(settings.model.device, visible, settings.production)
    device = functools.cache(lambda: choose_device(wish, survey_machine, ask_torch))
    checkpoints = choose_checkpoints(settings)

    def resolve_device() -> tuple[str, EngineConfig]:
        where = device()
        limits = engine_config(settings, where)
        return where, replace(limits, reload_reserve=limits.reload_reserve and not models.overlapping)

    backends = {name: _deferred(name, chosen, settings, resolve_device) for name, chosen in checkpoints.items()}
    models = ModelSet(backends, check=lambda: _check_memory(checkpoints, settings, resolve_device))
    return models


def choose_checkpoints(settings: Settings) -> dict[str, ChosenCheckpoint]:
    """Decide for each model between the operator's folders and the demo's. Raises StartError with all that is wrong."""
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
        cuda_graphs=engine.cuda_graphs,
        reload_reserve=engine.reload_reserve,
    )


def model_spec(name: str, chosen: ChosenCheckpoint, settings: Settings, device: str) -> ModelSpec:
    """Return what to load as this model, and which settings an error about it shall name."""
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


def _choose(name: str, setting: str, wanted: ChosenCheckpoint, production: bool, wrong: list[str]) -> ChosenCheckpoint:
    """Return the checkpoint to load; where there can be none, a sentence goes to `wrong`."""
    demo = ChosenCheckpoint(DEMO_FOLDER / name, DEMO_FOLDER / name, demo=True)
    if wanted.model_dir == DEMO:
        return demo
    asked = f"{setting}={wanted.model_dir}"
    try:
        wanted.model_dir.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not production:
            log.warning("%s: there is no such folder, so the demo model stands in for %s.", asked, name)
            return demo
        wrong.append(f"{asked}: there is no such folder; name one, or ask for the demo with {setting}=demo.")
    except OSError as error:
        wrong.append(f"{asked}: the folder cannot be read: {error.strerror}.")
    return wanted


def _deferred(
    name: str, chosen: ChosenCheckpoint, settings: Settings, resolve_device: ResolveDevice
) -> DeferredBackend:
    def build() -> Backend:
        module, class_name = ENGINES[settings.engine.engine]
        where, limits = resolve_device()
        backend: Backend = getattr(import_module(module), class_name)(model_spec(name, chosen, settings, where), limits)
        fold_in_libraries()
        return backend

    info = ModelInfo(name, _served_id(name, chosen), name == "avision", chosen.demo, settings.generation.max_model_len)
    return DeferredBackend(info, build)


def _check_memory(
    checkpoints: Mapping[str, ChosenCheckpoint], settings: Settings, resolve_device: ResolveDevice
) -> None:
    """Raise StartError where both models together would not fit; the plain path has no cache of a stated size."""
    if settings.engine.engine != "continuous":
        return
    where, limits = resolve_device()
    specs = [model_spec(name, chosen, settings, where) for name, chosen in checkpoints.items()]
    import_module("engine.loading.memory_budget").check_together([(spec, limits) for spec in specs])


def _served_id(name: str, chosen: ChosenCheckpoint) -> str:
    return f"{name}-demo" if chosen.demo else name
