"""The declarations of all settings, by group: type, default, accepted values and one line of help each.

A field is a setting; its name in capitals is the environment variable. The groups of the models and of clients stand in
files of their own; `Settings` has all, in the order in which they are documented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from settings import kinds
from settings.client_groups import AccessSettings, DataSettings, SpendingSettings
from settings.kinds import ANY_COUNT, SECONDS_A_DAY, number, whole
from settings.model_groups import EngineSettings, GenerationSettings, ModelSettings
from settings.table import Group, Setting, setting
from settings.upstream_groups import UpstreamSettings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, repr=False)
class ServerSettings(Group):
    host: str = setting(
        "0.0.0.0",  # nosec B104 # a service for the network; docs/proxies.md has it on loopback
        kinds.host(),
        "address to listen on; 127.0.0.1 behind a proxy on this machine",
    )
    port: int = setting(8085, whole(1, 65535), "port to listen on")
    workers: int = setting(
        1,
        whole(1, 64),
        "worker processes; only 1 is accepted, because each would have weights, limits, streams and stored responses "
        "of its own",
    )
    threads: int = setting(
        None,
        whole(1, 100_000),
        "threads that serve requests; one for each request both models can hold and for each of MAX_NUM_SEQS + 16 "
        "batches, and 32 for probes, refusals and pages; as many again for each further version of a model as for a "
        "model; at least as many as without batches",
        unset="2 x (MAX_NUM_SEQS + MAX_WAITING) + MAX_NUM_SEQS + 48",
    )
    trusted_proxies: int = setting(
        0, whole(0, 10), "number of trusted proxies in front of the service, for X-Forwarded-For and X-Forwarded-Proto"
    )
    send_timeout: float = setting(
        30.0,
        number(1, SECONDS_A_DAY),
        "seconds after which a client that stops reading its response or sending its request is disconnected",
    )
    max_bodies_mib: int = setting(
        256,
        whole(128, 1_000_000),
        "request bodies in flight in MiB, of all clients together; one client may have half of them",
    )
    stored_responses_mib: int = setting(
        64,
        whole(0, 1_000_000),
        "responses that programs asked to be stored (store: true of /v1/responses) in MiB, of all clients together; "
        "0 stores none",
    )
    answer_cache_mib: int = setting(
        0,
        whole(0, 1_000_000),
        "answers kept for an hour in MiB, for equal requests of one client with temperature 0 or a seed; 0 keeps none",
    )
    drain_delay: float = setting(
        0.0,
        number(0, 3600),
        "seconds at a stop in which readiness is 503 and requests are still accepted, for load balancers that probe it",
    )
    drain_seconds: float = setting(60.0, number(0, SECONDS_A_DAY), "seconds that admitted requests have at a stop")


@dataclass(frozen=True, repr=False)
class LimitSettings(Group):
    rate_limit_per_minute: int = setting(10, whole(0, ANY_COUNT), "requests per client and minute; 0: unlimited")
    rate_limit_per_hour: int = setting(100, whole(0, ANY_COUNT), "requests per client and hour; 0: unlimited")
    rate_limit_storage: str = setting(
        "memory",
        kinds.storage(),
        "storage of the counters of rate limits, tokens a minute and concurrent requests: memory, or a redis:// URL "
        "that several copies share",
        secret=True,
    )


@dataclass(frozen=True, repr=False)
class SecuritySettings(Group):
    allowed_origins: tuple[str, ...] = setting(
        ("*",), kinds.origins(), "origins of web pages that may call the API (CORS); * for all"
    )
    admin_key: str | None = setting(
        None, kinds.key(), "key for the administrative routes; without one they accept local requests only", secret=True
    )


@dataclass(frozen=True, repr=False)
class LoggingSettings(Group):
    log_level: str = setting("INFO", kinds.choice(*LEVELS), "minimum level of logged lines")
    log_file: Path | None = setting(None, kinds.file(), "log file, in addition to standard output")
    log_format: str = setting("text", kinds.choice("text", "json"), "plain text, or one JSON object per line")


@dataclass(frozen=True, repr=False)
class TracingSettings(Group):
    otel_exporter_otlp_endpoint: str | None = setting(
        None, kinds.web_address(), "OTLP/HTTP collector of traces; without one there are no traces"
    )
    otel_exporter_otlp_headers: tuple[tuple[str, str], ...] | None = setting(
        None, kinds.header_list(), "headers for the collector, as name=value,name=value", secret=True
    )
    otel_service_name: str = setting("avito-ai", kinds.word(), "service name in traces")
    otel_traces_sampler_arg: float = setting(
        1.0, number(0, 1), "share of requests to trace, 0 to 1, where the client has not decided"
    )


@dataclass(frozen=True)
class Settings(Group):
    """All settings, checked. warnings: sentences for the operator; sources: where each value that was set came from;
    secret_files: the files of those that stand in one."""

    environment: str = setting(
        "development",
        kinds.choice("development", "production"),
        "production requires real models and a GPU unless the settings say otherwise",
    )
    server: ServerSettings = field(default_factory=ServerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    data: DataSettings = field(default_factory=DataSettings)
    spending: SpendingSettings = field(default_factory=SpendingSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    secret_files: Mapping[str, Path] = field(default_factory=dict, repr=False, compare=False)

    @property
    def production(self) -> bool:
        return self.environment == "production"

    def show(self, setting: Setting) -> str:
        """Return the effective value of one setting as text, secrets masked."""
        holder = getattr(self, setting.group) if setting.group else self
        return setting.show(getattr(holder, setting.name.lower()))
