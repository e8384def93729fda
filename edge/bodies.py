"""The bodies of failures, probes and figures, as typed dictionaries: what is sent is what OpenAPI describes.

mypy holds each body to its class; nothing is validated or copied at run time.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

AFTER = "With status 429: seconds until the limit allows a request again."
WHICH = "With status 429: which `setting` of the service, or which `limit` of the caller, refused the request."

Cost = Annotated[float, Field(description="In the operator's currency; in streams, where tokens have prices.")]


@with_config(ConfigDict(extra="forbid"))
class Body(TypedDict):
    """A body or a part of one; the order of its fields is the order in which they are set."""


class ApiFailure(Body):
    """Any failure under /api."""

    error: Annotated[str, Field(description="A code for programs.")]
    message: Annotated[str, Field(description="A plain sentence.")]
    request_id: str
    retry_after: NotRequired[Annotated[int, Field(description=AFTER)]]
    details: NotRequired[Annotated[dict[str, str], Field(description=WHICH)]]


class OpenaiFailureDetails(Body):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="The field that is wrong, if it is one field.")]
    code: str | None
    request_id: str
    retry_after: NotRequired[Annotated[int, Field(description=AFTER)]]
    details: NotRequired[Annotated[dict[str, str], Field(description=WHICH)]]


class OpenaiFailure(Body):
    """Any failure under /v1."""

    error: OpenaiFailureDetails


class AnthropicFailureDetails(Body):
    """What went wrong, in Anthropic's words. details: a code for programs; at 429 the setting or limit."""

    type: str
    message: str
    retry_after: NotRequired[Annotated[int, Field(description=AFTER)]]
    details: NotRequired[dict[str, str]]


class AnthropicFailure(Body):
    """Any failure under /v1/messages."""

    type: Literal["error"]
    error: AnthropicFailureDetails
    request_id: str


class Health(Body):
    """The process answers."""

    status: Literal["healthy"]
    uptime_seconds: int


class LoadProgress(Body):
    """How far the load of a model is: its stage, bytes of weights, seconds since it began."""

    stage: str
    loaded_bytes: int
    total_bytes: int
    seconds: float


class CheckpointIdentity(Body):
    """Which weights are loaded. hash: SHA-256 of their headers and config; revision: the commit, if it is known."""

    name: str
    hash: str
    revision: str | None
    dtype: str


class ModelReadiness(Body):
    """The state of one model; model: what `X-Model` says. Of several versions each has its name here.

    checkpoint, system_fingerprint: once it is loaded.
    """

    status: str
    model: str
    demo: bool
    version: NotRequired[str]
    checkpoint: NotRequired[CheckpointIdentity]
    system_fingerprint: NotRequired[str]
    reason: NotRequired[str]
    progress: NotRequired[LoadProgress]


class Readiness(Body):
    """Whether every model takes requests. With status 503 there is a reason, and progress while models load."""

    status: str
    cuda_available: bool
    gpu_memory_gb: str
    models: dict[str, ModelReadiness]
    reason: NotRequired[str]
    progress: NotRequired[LoadProgress]


class Liveness(Body):
    """Whether the process can go on; `reason` says why not."""

    status: Literal["alive", "restart_needed"]
    reason: NotRequired[str]


class SystemHealth(Body):
    """The machine that the service runs on; as in the figures of the service."""

    status: Literal["healthy"]
    timestamp: str
    uptime_seconds: int
    system: dict[str, str]
    gpu: dict[str, str | bool]


class CheckedPart(Body):
    """One thing that the service depends on. `off`: none is set or here; `warning`: it works, and needs a look."""

    state: Literal["ok", "off", "warning", "failed"]
    detail: str


class UpstreamServer(Body):
    """A server that answers for a model. `state`: of its circuit breaker; `failures`: failed attempts by kind."""

    url: str
    state: Annotated[str, Field(description="`closed`, `half-open` or `open`.")]
    outstanding: int
    requests: int
    failures: dict[str, int]
    opened: int
    last_failure: NotRequired[str]
    seconds_since_failure: NotRequired[float]
    seconds_since_success: NotRequired[float]


class UpstreamModel(Body):
    """A model that servers elsewhere answer for."""

    kind: str
    role: Annotated[str, Field(description="`only`, `first` or `spare`.")]
    servers: list[UpstreamServer]


class UpstreamHealth(Body):
    """Servers elsewhere, by model. `degraded`: a breaker is open; `unhealthy`: all those of a model are open."""

    status: Literal["healthy", "degraded", "unhealthy"]
    upstreams: dict[str, UpstreamModel]


class DetailedHealth(Body):
    """What the service depends on, each tried for this answer. With status 503 something has failed."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    uptime_seconds: int
    checks: dict[str, CheckedPart]


class JsonFigures(Body):
    """The figures of the service, times in UTC. `gpu`: the first one in use; `gpus`: all of them, if there are more.

    `versions`: the successful answers of each version, if a model has several.
    """

    timestamp: str
    uptime_seconds: int
    system: dict[str, str]
    gpu: dict[str, str | bool]
    application: dict[str, int | str]
    versions: NotRequired[dict[str, int]]
    usage: NotRequired[dict[str, int | float]]
    gpus: NotRequired[dict[str, dict[str, str | bool]]]


class ResetAnswer(Body):
    """The figures begin again."""

    success: Literal[True]
    message: str
    request_id: str
