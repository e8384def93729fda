"""What the operator's page says of the service: version, models with their checkpoints, limits, busiest clients."""

from __future__ import annotations

from typing import Any

from engine.types import BackendState
from routes.locale import visitors_locale
from routes.services import services
from routes.status_figures import duration
from telemetry.version import RELEASE, VERSION

BUSIEST = 10
HASH_DIGITS = 12  # of a checkpoint's hash, enough to tell those of one service apart


def service_facts() -> dict[str, Any]:
    """Return what `_status_facts.html` shows."""
    locale = visitors_locale()
    settings, texts = services().settings, locale.texts["status"]
    none = texts["facts"]["unlimited"]
    limits = settings.limits
    return {
        "version": VERSION,
        "number": locale.number,
        "facts": {
            "version": VERSION,
            "release": RELEASE,
            "uptime": duration(services().metrics.uptime, texts),
            "environment": settings.environment,
            "auth": ", ".join(settings.access.auth),
        },
        "limits": {
            "RATE_LIMIT_PER_MINUTE": locale.number(limits.rate_limit_per_minute)
            if limits.rate_limit_per_minute
            else none,
            "RATE_LIMIT_PER_HOUR": locale.number(limits.rate_limit_per_hour) if limits.rate_limit_per_hour else none,
            "MAX_PROMPT_LENGTH": locale.number(settings.generation.max_prompt_length),
            "MAX_TOKENS_LIMIT": locale.number(settings.generation.max_tokens_limit),
            "MAX_WAITING": locale.number(settings.engine.max_waiting),
            "QUEUE_TIMEOUT": f"{settings.engine.queue_timeout:g}",
            "REQUEST_TIMEOUT": f"{settings.engine.request_timeout:g}",
        },
        "checkpoints": [_checkpoint(name, state) for name, state in services().models.states().items()],
        "upstreams": [
            {
                "model": name,
                "url": one.url,
                "state": one.state,
                "outstanding": one.outstanding,
                "requests": one.requests,
                "failures": sum(one.failures.values()),
                "last_failure": one.last_failure or "–",
            }
            for name, reports in services().models.server_reports().items()
            for one in reports
        ],
        "busiest": services().metrics.busiest.most(BUSIEST),
    }


def _checkpoint(name: str, state: BackendState) -> dict[str, str]:
    """Return what the table of the models shows of one."""
    backend, number = services().models.get(name), visitors_locale().number
    info, identity = backend.info, backend.info.identity
    return {
        "name": name,
        "status": state.status.value,
        "checkpoint": identity.name if identity else "–",
        "revision": identity.revision or "–" if identity else "–",
        "hash": identity.digest[:HASH_DIGITS] if identity else "–",
        "fingerprint": identity.fingerprint if identity else "–",
        "context": number(info.max_model_len) if info.loaded else "–",
        "sequences": number(backend.stats().max_num_seqs),
        "ratings": " / ".join(map(number, services().metrics.application.ratings_of(name))),
        "answers": number(services().metrics.application.answers_of(name)),
    }
