"""Defaults that follow from other settings: computed ones, and those that give way to what is set.

Settings that bound each other have defaults that fit each other. Where one of them is set, the defaults of the others
give way, so that it starts alone; what contradicts each other and is set stays, for `settings.rules` to report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path

from settings.client_groups import DataSettings
from settings.groups import ServerSettings, Settings
from settings.kinds import SHORTEST_CONTEXT, longest_default
from settings.model_groups import EngineSettings, GenerationSettings, ModelSettings
from settings.versions import count_of

STATE_DIR = Path(__file__).parents[1] / ".state"
DATABASE_FILE = "avito-ai.db"
SPARE_THREADS = 32
NUM_SEQS = {"cpu": 64, "cuda": 256}
PROMPT_ROOM = 2048  # tokens of the context that a longer answer leaves to the prompt


def with_defaults(
    settings: Settings, given: Set[str], has_gpu: Callable[[], bool], state_dir: Path = STATE_DIR
) -> Settings:
    """Return the settings with the defaults that belong to what is set. given: names of the settings that are set."""
    engine = _engine(settings.engine, settings.model, has_gpu)
    generation = _lengths(settings.generation, engine.kv_cache_tokens, given)
    return replace(
        settings,
        engine=engine,
        generation=generation,
        server=_server(settings.server, engine, settings.model),
        data=_data(settings.data, state_dir),
    )


def default_num_seqs(model: ModelSettings, has_gpu: Callable[[], bool]) -> int:
    """Return the default of MAX_NUM_SEQS for the devices of the models. has_gpu: asked where these are automatic."""
    devices = {own or model.device for own in model.own_devices.values()}
    on_cuda = any(device.startswith("cuda") for device in devices) or ("auto" in devices and has_gpu())
    return NUM_SEQS["cuda" if on_cuda else "cpu"]


def threads_needed(engine: EngineSettings, model: ModelSettings) -> int:
    """Return one thread for each request all models can hold, and some for probes, refusals and pages.

    The default has one for each batch besides: a batch may wait while the models are full of others' requests.
    """
    each = engine.max_num_seqs + engine.max_waiting
    beyond = sum(max(0, one.max_in_flight - each) for one in model.upstreams.values())
    return count_of(model) * each + beyond + SPARE_THREADS


def _data(data: DataSettings, state_dir: Path) -> DataSettings:
    folder = (data.state_dir or state_dir).absolute()
    return replace(data, state_dir=folder, database_url=data.database_url or f"sqlite:///{folder / DATABASE_FILE}")


def _server(server: ServerSettings, engine: EngineSettings, model: ModelSettings) -> ServerSettings:
    return replace(server, threads=server.threads or threads_needed(engine, model) + engine.max_batches)


def _engine(engine: EngineSettings, model: ModelSettings, has_gpu: Callable[[], bool]) -> EngineSettings:
    """Compute MAX_NUM_SEQS: each running request generates one token per step, so a step's tokens bound it."""
    rows = engine.max_num_seqs or min(
        default_num_seqs(model, has_gpu), engine.max_num_batched_tokens or NUM_SEQS["cuda"]
    )
    return replace(engine, max_num_seqs=rows)


def _lengths(generation: GenerationSettings, cache: Mapping[str, int] | None, given: Set[str]) -> GenerationSettings:
    """Make room where it is open: defaults of a request <= MAX_TOKENS_LIMIT < MAX_MODEL_LEN <= KV_CACHE_TOKENS.

    A default of a request leaves room to the prompt as well: half of the context where it gives way.
    """
    own = {"MAX_TOKENS_AVIBE": generation.max_tokens_avibe, "MAX_TOKENS_AVISION": generation.max_tokens_avision}
    longest = max((tokens for name, tokens in own.items() if name in given), default=0)
    limit, context, answer = generation.max_tokens_limit, generation.max_model_len, longest
    if "MAX_TOKENS_LIMIT" in given:
        longest, answer = limit, min(limit, answer)
    if "MAX_MODEL_LEN" not in given:
        context = max(SHORTEST_CONTEXT, min([context, *(cache or {}).values()]))
        if longest >= context or answer > longest_default(context):
            context = longest + PROMPT_ROOM
    if "MAX_TOKENS_LIMIT" not in given:
        limit = min(max(limit, longest), context - 1)
    most = min(limit, context // 2)
    return replace(
        generation,
        max_tokens_limit=limit,
        max_model_len=context,
        max_tokens_avibe=_at_most(most, "MAX_TOKENS_AVIBE", own, given),
        max_tokens_avision=_at_most(most, "MAX_TOKENS_AVISION", own, given),
    )


def _at_most(limit: int, name: str, values: Mapping[str, int], given: Set[str]) -> int:
    return values[name] if name in given else min(values[name], limit)
