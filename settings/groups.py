"""The declarations of all settings, by group: type, default, accepted values and one line of help each.

A field is a setting; its name in capitals is the environment variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from settings import kinds, money
from settings.kinds import number, whole
from settings.table import Group, Setting, setting

DATA = Path("/mnt/data/avito")
QUANTS = ("none", "int8", "int4")
DTYPES = ("float16", "bfloat16", "float32")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
ANY_COUNT = 1_000_000
ANY_TOKENS = 1_000_000_000_000
SECONDS_A_DAY = 86_400


@dataclass(frozen=True, repr=False)
class ServerSettings(Group):
    host: str = setting(
        "0.0.0.0",  # nosec B104 # a service for the network; docs/proxies.md has it on loopback
        kinds.host(),
        "address to listen on; 127.0.0.1 behind a proxy on this machine",
    )
    port: int = setting(8085, whole(1, 65535), "port to listen on")
    workers: int = setting(
        1, whole(1, 64), "worker processes; only 1 is accepted, because each would load the weights again"
    )
    threads: int = setting(
        None,
        whole(1, 100_000),
        "threads that serve requests; one for each request both models can hold, and 32 for probes, refusals and "
        "pages; as many again for each further version of a model as for a model",
        unset="2 x (MAX_NUM_SEQS + MAX_WAITING) + 32",
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
class ModelSettings(Group):
    cuda_visible_devices: str | None = setting(
        None,
        kinds.gpus(),
        "GPUs that are visible: comma-separated indexes in PCI order, UUIDs or MIG names",
        unset="all of them",
    )
    device: str = setting(
        "auto",
        kinds.choice("auto", "cuda", "cpu"),
        "device of the models; in production the CPU must be set explicitly",
    )
    vibe_device: str | None = setting(
        None, kinds.device(), "device of Avibe; cuda:1 is the second of the visible GPUs", unset="DEVICE"
    )
    vision_device: str | None = setting(
        None, kinds.device(), "device of Avision; cuda:1 is the second of the visible GPUs", unset="DEVICE"
    )
    dtype: str | None = setting(
        None,
        kinds.choice(*DTYPES),
        "dtype of both models",
        unset="float16 on CUDA; on a processor bfloat16 for checkpoints stored so, else float32",
    )
    vibe_dtype: str | None = setting(None, kinds.choice(*DTYPES), "dtype of Avibe", unset="DTYPE")
    vision_dtype: str | None = setting(None, kinds.choice(*DTYPES), "dtype of Avision", unset="DTYPE")
    vibe_quant: str = setting(
        "none",
        kinds.choice(*QUANTS),
        "weights of Avibe on a processor, quantized while loading: none, int8 (8 bits) or int4 (4 bits)",
    )
    vision_quant: str = setting("none", kinds.choice(*QUANTS), "the same for Avision, its vision tower excepted")
    vibe_model_dir: Path = setting(
        DATA / "vibe/models",
        kinds.folder(),
        "Avibe's checkpoint or Hugging Face cache folder; `demo` for the demo model",
    )
    vibe_tokenizer_dir: Path = setting(
        DATA / "vibe/tokenizers", kinds.folder(), "Avibe's tokenizer or Hugging Face cache folder"
    )
    vision_model_dir: Path = setting(
        DATA / "vision/models",
        kinds.folder(),
        "Avision's checkpoint or Hugging Face cache folder; `demo` for the demo model",
    )

    vibe_name: str | None = setting(
        None,
        kinds.checkpoint_name(),
        "name of Avibe's checkpoint, shown to clients and operators",
        unset="its repository in a Hugging Face cache, else its folder",
    )
    vision_name: str | None = setting(
        None,
        kinds.checkpoint_name(),
        "name of Avision's checkpoint, shown to clients and operators",
        unset="its repository in a Hugging Face cache, else its folder",
    )

    vibe_models: tuple[tuple[str, Path], ...] | None = setting(
        None,
        kinds.versions(),
        "versions of Avibe, as name=folder,name=folder, in place of VIBE_MODEL_DIR; the first is the default",
        unset="the one checkpoint of VIBE_MODEL_DIR",
    )
    vision_models: tuple[tuple[str, Path], ...] | None = setting(
        None,
        kinds.versions(),
        "versions of Avision, as name=folder,name=folder, in place of VISION_MODEL_DIR; the first is the default",
        unset="the one checkpoint of VISION_MODEL_DIR",
    )
    vibe_split: tuple[tuple[str, float], ...] | None = setting(
        None,
        kinds.shares(),
        "percent of the clients that a version of Avibe answers where a request names just avibe, as v2=10",
        unset="none: the default answers all",
    )
    vision_split: tuple[tuple[str, float], ...] | None = setting(
        None,
        kinds.shares(),
        "percent of the clients that a version of Avision answers where a request names just avision, as v2=10",
        unset="none: the default answers all",
    )
    model_aliases: tuple[tuple[str, str], ...] | None = setting(
        None,
        kinds.aliases(),
        "others' names for the models, as gpt-3.5-turbo=avibe,gpt-4o=avision; AvitoTech/avibe and AvitoTech/avision "
        "are always known",
    )

    @property
    def own_devices(self) -> Mapping[str, str | None]:
        """Return the devices of single models, by setting."""
        return {"VIBE_DEVICE": self.vibe_device, "VISION_DEVICE": self.vision_device}


@dataclass(frozen=True, repr=False)
class GenerationSettings(Group):
    max_tokens_avibe: int = setting(256, whole(1, ANY_COUNT), "default max_tokens of Avibe")
    max_tokens_avision: int = setting(200, whole(1, ANY_COUNT), "default max_tokens of Avision")
    max_tokens_limit: int = setting(2048, whole(1, ANY_COUNT), "largest max_tokens that a request may set")
    max_model_len: int = setting(
        4096,
        whole(16, ANY_COUNT),
        "context length in tokens, prompt and answer together; the checkpoint's own limit applies as well",
    )
    temperature: float = setting(0.7, number(0, 2), "default sampling temperature; 0 is greedy")
    max_prompt_length: int = setting(2000, whole(1, ANY_COUNT), "maximum length of a prompt in characters")


@dataclass(frozen=True, repr=False)
class LimitSettings(Group):
    rate_limit_per_minute: int = setting(10, whole(0, ANY_COUNT), "requests per client and minute; 0: unlimited")
    rate_limit_per_hour: int = setting(100, whole(0, ANY_COUNT), "requests per client and hour; 0: unlimited")
    rate_limit_storage: str = setting(
        "memory",
        kinds.storage(),
        "storage of the rate limits' counters: memory, or a redis:// URL shared by several copies",
        secret=True,
    )


@dataclass(frozen=True, repr=False)
class EngineSettings(Group):
    max_num_seqs: int = setting(
        None,
        whole(1, 4096),
        "maximum number of concurrent sequences per model; the KV cache may hold fewer",
        unset="256 on CUDA, 64 on the CPU",
    )
    kv_cache_tokens: Mapping[str, int] | None = setting(
        None,
        kinds.tokens_by_model(16, 1_000_000_000),
        "size of each model's KV cache in tokens, one figure for both or avibe=...,avision=...",
        unset="as many contexts for both as the device's memory holds",
    )
    max_waiting: int = setting(128, whole(0, 65_536), "maximum length of the waiting queue per model")
    max_num_batched_tokens: int = setting(
        0, whole(0, ANY_COUNT), "token budget of one step; 0: 320 on the CPU, 2048 on CUDA"
    )
    queue_timeout: float = setting(30.0, number(0.1, SECONDS_A_DAY), "seconds a request may wait in the queue")
    request_timeout: float = setting(300.0, number(1, SECONDS_A_DAY), "seconds a request may take in total")
    stall_seconds: float = setting(
        20.0, number(1, SECONDS_A_DAY), "seconds without a step after which a busy model counts as stalled"
    )
    cpu_threads: int = setting(0, whole(0, 1024), "compute threads on the CPU; 0: one per core")
    prefix_cache: bool = setting(True, kinds.switch(), "cache keys and values of shared prompt prefixes")
    prefix_sharing: str = setting(
        "client",
        kinds.choice("client", "all", "none"),
        "between whom cached prompt prefixes are reused: requests of one client, of all clients, or none",
    )
    cuda_graphs: bool = setting(True, kinds.switch(), "replay steps as CUDA graphs")
    image_workers: int = setting(2, whole(1, 64), "processes that decode images; they serve both models and the page")
    reload_reserve: bool = setting(
        False, kinds.switch(), "reserve GPU memory for a second copy of the weights during a reload"
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
class AccessSettings(Group):
    auth: tuple[str, ...] = setting(
        ("open",),
        kinds.ways_in(),
        "who may use the service: open to all, holders of client keys, of tokens of your issuer (jwt), or of either",
    )
    api_keys_file: Path | None = setting(
        None, kinds.file(), "file of client keys, one JSON object a line, beside those in the database"
    )
    jwt_secret_key: str | None = setting(
        None, kinds.signing_key(), "key of your issuer's tokens that are signed with HS256", secret=True
    )
    jwt_jwks_file: Path | None = setting(
        None, kinds.file(), "JWK set with the public keys of your issuer's tokens that are signed with RS256 or ES256"
    )
    jwt_issuer: str | None = setting(None, kinds.text(), "issuer (iss) that a token must name", unset="any")
    jwt_audience: str | None = setting(
        None, kinds.text(), "audience (aud) that a token must name", unset="none: a token for any audience is refused"
    )
    jwt_subject_claim: str = setting("sub", kinds.text(), "claim with the id that a token's usage is kept under")
    jwt_name_claim: str = setting("name", kinds.text(), "claim with the name that logs and pages show")
    jwt_models_claim: str | None = setting(
        None, kinds.text(), "claim with the models that a token may use: a list, or names with spaces between them"
    )
    jwt_limits_claim: str | None = setting(
        None, kinds.text(), 'claim with limits of the token, as an object such as {"requests_per_minute": 60}'
    )


@dataclass(frozen=True, repr=False)
class DataSettings(Group):
    state_dir: Path = setting(
        None,
        kinds.folder(),
        "folder of the database and of the journal of usage",
        unset="the unit's StateDirectory, else .state beside config.py",
    )
    database_url: str = setting(
        None,
        kinds.database(),
        "database of keys, usage and the audit trail, as an SQLAlchemy URL such as postgresql://user@host/name",
        secret=True,
        unset="SQLite in STATE_DIR",
    )
    usage_days: int = setting(
        400,
        whole(32, 36_500),
        "days for which usage is kept by day, account, model and user; it is kept by hour for 31",
    )


@dataclass(frozen=True, repr=False)
class SpendingSettings(Group):
    prices: Mapping[str, tuple[int, int, int]] | None = setting(
        None,
        money.prices(),
        "prices of a million tokens as input/output or input/output/cached, one for both models or "
        "avibe=0.2/0.6,avision=...; cached: prompt tokens found in a cache, as input if left out",
    )
    currency: str = setting("USD", kinds.word(), "name of the currency of prices and budgets; shown, never converted")
    budget_per_day: int | None = setting(
        None, money.amount(), "money that all answers of a day (UTC) may cost together; then requests are refused"
    )
    budget_per_month: int | None = setting(
        None, money.amount(), "money that all answers of a month (UTC) may cost together; then requests are refused"
    )
    budget_webhook_url: str | None = setting(
        None,
        money.webhook(),
        "address to which a JSON message is posted when 80% of a budget is used, and when it is spent",
        secret=True,
    )
    default_concurrent_requests: int | None = setting(
        None, whole(1, ANY_COUNT), "generation requests in flight of a caller without a limit of its own"
    )
    default_tokens_per_minute: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per minute of a caller without a limit of its own"
    )
    default_tokens_per_day: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per day (UTC) of a caller without a budget of its own"
    )
    default_tokens_per_month: int | None = setting(
        None, whole(1, ANY_TOKENS), "tokens per month (UTC) of a caller without a budget of its own"
    )
    default_money_per_day: int | None = setting(
        None, money.amount(), "money per day (UTC) of a caller without a budget of its own"
    )
    default_money_per_month: int | None = setting(
        None, money.amount(), "money per month (UTC) of a caller without a budget of its own"
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
    """All settings, checked. warnings: sentences for the operator; sources: where each value that was set came from."""

    environment: str = setting(
        "development",
        kinds.choice("development", "production"),
        "production requires real models and a GPU unless the settings say otherwise",
    )
    server: ServerSettings = field(default_factory=ServerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
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

    @property
    def production(self) -> bool:
        return self.environment == "production"

    def show(self, setting: Setting) -> str:
        """Return the effective value of one setting as text, secrets masked."""
        holder = getattr(self, setting.group) if setting.group else self
        return setting.show(getattr(holder, setting.name.lower()))
