"""The settings of the service: one environment variable each, typed, checked at start, frozen afterwards.

Each field below is a setting; its name in capitals is the variable. A value comes from the environment, else for
secrets from the file that `<NAME>_FILE` names, else from `.env` beside this file (or at `ENV_FILE`), else it is the
default. `from config import config` reads them on first use; `python config.py` prints them, or every mistake.
This module and `gunicorn_config.py` are the only ones that read `os.environ`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from settings import kinds, table
from settings.kinds import number, whole
from settings.rules import DEMO, broken_rules, threads_needed
from settings.sources import Sources, read_sources
from settings.table import Group, Setting, setting

__all__ = ["DEMO", "SETTINGS", "Settings", "SettingsError", "config", "load_settings"]

DATA = Path("/mnt/data/avito")
DTYPES = ("float16", "bfloat16", "float32")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
ANY_COUNT = 1_000_000
SECONDS_A_DAY = 86_400

config: Settings


class SettingsError(Exception):
    """Settings that cannot be used; `mistakes` has a sentence for each, secrets masked."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(["The settings cannot be used:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, repr=False)
class ServerSettings(Group):
    host: str = setting("0.0.0.0", kinds.host(), "address to listen on; 127.0.0.1 behind a proxy on this machine")
    port: int = setting(8085, whole(1, 65535), "port to listen on")
    workers: int = setting(1, whole(1, 64), "worker processes; more than 1 would load the weights again and is refused")
    threads: int = setting(
        None,
        whole(1, 100_000),
        "threads that answer requests; at least what both models can hold and 32 for probes, refusals and pages",
        unset="2 x (MAX_NUM_SEQS + MAX_WAITING) + 32",
    )
    trusted_proxies: int = setting(0, whole(0, 10), "how many proxies in front may name the client's address")
    send_timeout: float = setting(
        30.0, number(1, SECONDS_A_DAY), "seconds that a client may leave an answer unread, or a request unfinished"
    )
    drain_delay: float = setting(
        0.0,
        number(0, 3600),
        "seconds that a stop takes requests for after readiness says no, for balancers that ask it",
    )
    drain_seconds: float = setting(60.0, number(0, SECONDS_A_DAY), "seconds that a stop leaves to admitted requests")


@dataclass(frozen=True, repr=False)
class ModelSettings(Group):
    cuda_visible_devices: str | None = setting(
        None, kinds.gpus(), "the GPU to use, by its number in PCI order, UUID or MIG name", unset="all of them"
    )
    device: str = setting(
        "auto", kinds.choice("auto", "cuda", "cpu"), "where the models run; cpu is asked for in production"
    )
    dtype: str | None = setting(
        None, kinds.choice(*DTYPES), "number format of both models", unset="float16 on CUDA, float32 on CPU"
    )
    vibe_dtype: str | None = setting(None, kinds.choice(*DTYPES), "number format of Avibe alone", unset="DTYPE")
    vision_dtype: str | None = setting(None, kinds.choice(*DTYPES), "number format of Avision alone", unset="DTYPE")
    vibe_model_dir: Path = setting(
        DATA / "vibe/models", kinds.folder(), "Avibe's checkpoint or Hugging Face cache folder; `demo` for the demo"
    )
    vibe_tokenizer_dir: Path = setting(
        DATA / "vibe/tokenizers", kinds.folder(), "Avibe's tokenizer or Hugging Face cache folder"
    )
    vision_model_dir: Path = setting(
        DATA / "vision/models", kinds.folder(), "Avision's checkpoint or Hugging Face cache folder; `demo` for the demo"
    )


@dataclass(frozen=True, repr=False)
class GenerationSettings(Group):
    max_tokens_avibe: int = setting(256, whole(1, ANY_COUNT), "tokens of an answer of Avibe where none are asked for")
    max_tokens_avision: int = setting(200, whole(1, ANY_COUNT), "tokens of an answer of Avision, likewise")
    max_tokens_limit: int = setting(2048, whole(1, ANY_COUNT), "most tokens of an answer that a request may ask for")
    max_model_len: int = setting(
        4096, whole(16, ANY_COUNT), "most tokens of prompt and answer together; never over the checkpoint's own"
    )
    temperature: float = setting(0.7, number(0, 2), "sampling temperature where none is asked for; 0 is greedy")
    max_prompt_length: int = setting(2000, whole(1, ANY_COUNT), "most characters of a prompt")


@dataclass(frozen=True, repr=False)
class LimitSettings(Group):
    rate_limit_per_minute: int = setting(10, whole(0, ANY_COUNT), "requests a client may make a minute; 0: any number")
    rate_limit_per_hour: int = setting(100, whole(0, ANY_COUNT), "requests a client may make an hour; 0: any number")
    rate_limit_storage: str = setting(
        "memory", kinds.storage(), "where limits are counted: memory, or a redis:// URL shared by copies", secret=True
    )


@dataclass(frozen=True, repr=False)
class EngineSettings(Group):
    engine: str = setting(
        "continuous",
        kinds.choice("continuous", "reference"),
        "continuous batching, or plain generation one by one to compare with",
    )
    max_num_seqs: int = setting(64, whole(1, 4096), "requests that run at once, per model")
    max_waiting: int = setting(128, whole(0, 65_536), "requests that wait for a place, per model")
    max_num_batched_tokens: int = setting(
        0, whole(0, ANY_COUNT), "most tokens in one step of a model; 0: 320 on the CPU, 2048 on CUDA"
    )
    queue_timeout: float = setting(30.0, number(0.1, SECONDS_A_DAY), "seconds a request may wait for a place")
    request_timeout: float = setting(300.0, number(1, SECONDS_A_DAY), "seconds a request may take in all")
    stall_seconds: float = setting(
        20.0, number(1, SECONDS_A_DAY), "seconds without a step until a busy model counts as stalled"
    )
    cpu_threads: int = setting(0, whole(0, 1024), "threads of arithmetic on the CPU; 0: one a core")
    prefix_cache: bool = setting(True, kinds.switch(), "reuse what was computed for the same beginning of a prompt")
    cuda_graphs: bool = setting(True, kinds.switch(), "replay recorded decode steps on CUDA")
    reload_reserve: bool = setting(
        False, kinds.switch(), "leave room on the GPU for a second copy of the weights during a reload"
    )


@dataclass(frozen=True, repr=False)
class SecuritySettings(Group):
    allowed_origins: tuple[str, ...] = setting(("*",), kinds.origins(), "web pages that may call the API; * for all")
    admin_key: str | None = setting(
        None, kinds.key(), "the key of administrative routes; without one they are local only", secret=True
    )


@dataclass(frozen=True, repr=False)
class LoggingSettings(Group):
    log_level: str = setting("INFO", kinds.choice(*LEVELS), "the least important lines that are logged")
    log_file: Path | None = setting(None, kinds.file(), "a file to log to, beside standard output")
    log_format: str = setting("text", kinds.choice("text", "json"), "lines of text, or one JSON object a line")


@dataclass(frozen=True, repr=False)
class TracingSettings(Group):
    otel_exporter_otlp_endpoint: str | None = setting(
        None, kinds.web_address(), "the collector that traces go to, over OTLP/HTTP; without one there are no traces"
    )
    otel_exporter_otlp_headers: tuple[tuple[str, str], ...] | None = setting(
        None, kinds.header_list(), "headers for that collector, as name=value,name=value", secret=True
    )
    otel_service_name: str = setting("avito-ai", kinds.word(), "the name of this service in traces")
    otel_traces_sampler_arg: float = setting(
        1.0, number(0, 1), "share of requests that are traced, of those whose client has not decided it"
    )


@dataclass(frozen=True)
class Settings:
    """All settings, checked. warnings: what the operator should know; sources: where each value stood that was set."""

    environment: str = setting(
        "development",
        kinds.choice("development", "production"),
        "production asks for real models and for a GPU, unless told otherwise",
    )
    server: ServerSettings = field(default_factory=ServerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def production(self) -> bool:
        return self.environment == "production"

    def show(self, setting: Setting) -> str:
        """Return the effective value of one setting as text, secrets masked."""
        holder = getattr(self, setting.group) if setting.group else self
        return setting.show(getattr(holder, setting.name.lower()))


SETTINGS: tuple[Setting, ...] = tuple(table.settings_in(Settings))


def load_settings(environ: Mapping[str, str], env_file: Path | None) -> Settings:
    """Read and check all settings; env_file None: there is no `.env`. Raises SettingsError with every mistake."""
    sources = read_sources(SETTINGS, environ, env_file)
    values = _parse(sources)
    sources.mistakes += broken_rules(values)
    if sources.mistakes:
        raise SettingsError(sources.mistakes)
    values["THREADS"] = values["THREADS"] or threads_needed(values)
    return _build(values, sources)


def operator_settings() -> Settings:
    """Read the settings of this process anew and keep them as `config`. Raises SettingsError."""
    settings = load_settings(os.environ, _env_file(os.environ))
    globals()["config"] = settings
    return settings


def settings_or_exit(fresh: bool = False) -> Settings:
    """Return `config`, read anew if `fresh`. Mistakes are printed, all of them.

    They end the process with status 2, unless it has settings already: those then stay, so that a reload with a
    broken `.env` does not take a running service down.
    """
    known: Settings | None = globals().get("config")
    if known is not None and not fresh:
        return known
    try:
        return operator_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        if known is None:
            raise SystemExit(2) from None
        return known


def apply_gpu_choice(settings: Settings) -> str | None:
    """Tell CUDA which GPUs to show, in the order nvidia-smi has them; to be called before torch is imported.

    Returns what CUDA_VISIBLE_DEVICES is from now on: also where it is empty, which counts as not set here and hides
    every GPU from CUDA.
    """
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if settings.model.cuda_visible_devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.model.cuda_visible_devices
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _parse(sources: Sources) -> dict[str, Any]:
    """Return every setting's value; a text that cannot be read becomes a mistake and the default."""
    values = {s.name: s.default for s in SETTINGS}
    for declared in SETTINGS:
        text = sources.texts.get(declared.name, ("", ""))[0]
        try:
            values[declared.name] = declared.kind.parse(text) if text else declared.default
        except ValueError:
            mistake = f"{declared.name}={declared.safe(text)}: expected {declared.kind.expected}"
            sources.mistakes.append(mistake)
    return values


def _build(values: Mapping[str, Any], sources: Sources) -> Settings:
    settings = Settings(
        environment=values["ENVIRONMENT"],
        warnings=tuple(sources.warnings),
        sources={name: where for name, (_, where) in sources.texts.items()},
    )
    for name in {s.group for s in SETTINGS if s.group}:
        own = {s.name.lower(): values[s.name] for s in SETTINGS if s.group == name}
        settings = replace(settings, **{name: replace(getattr(settings, name), **own)})
    return settings


def _env_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file `ENV_FILE` names, which then must exist, else `.env` beside this one where there is one."""
    if chosen := environ.get("ENV_FILE", "").strip():
        return Path(chosen)
    beside = Path(__file__).with_name(".env")
    return beside if beside.exists() else None


def _report(settings: Settings) -> None:
    for declared in SETTINGS:
        source = settings.sources.get(declared.name)
        print(f"{declared.name}={settings.show(declared)}" + (f"  # {source}" if source else ""))
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def __getattr__(name: str) -> Any:
    if name == "config":
        return operator_settings()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    _report(settings_or_exit())
