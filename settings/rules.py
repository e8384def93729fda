"""The rules between settings: what no single value shows, each broken one a sentence for the operator."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import fields
from pathlib import Path

from settings.client_groups import AccessSettings
from settings.defaults import SPARE_THREADS, threads_needed
from settings.groups import Settings
from settings.kinds import longest_default
from settings.model_groups import EngineSettings, ModelSettings
from settings.money import shown
from settings.versions import PUBLISHED, broken_version_rules, count_of, full_names, versions_of

DEMO = Path("demo")
NAME = re.compile(r"[A-Z][A-Z_]+")
UPSTREAMS = {"VIBE_UPSTREAM", "VISION_UPSTREAM", "VIBE_UPSTREAM_ROLE", "VISION_UPSTREAM_ROLE", "UPSTREAMS_FILE"}
VERSIONS = {"VIBE_MODELS", "VISION_MODELS", *UPSTREAMS}
# The settings that a rule depends on, by the first that its sentence names, where these are not those that it names.
DEPENDS: Mapping[str, Set[str]] = {
    "WORKERS": {"WORKERS"},
    "THREADS": {"THREADS", "MAX_NUM_SEQS", "MAX_WAITING", "MAX_NUM_BATCHED_TOKENS", "DEVICE", *VERSIONS},
    "PRICES": {"PRICES", *VERSIONS},
    "MODEL_ALIASES": {"MODEL_ALIASES", *VERSIONS},
}


def broken_rules(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each rule that the settings break."""
    yield from _process(settings)
    yield from _lengths(settings)
    yield from _batch(settings.engine)
    yield from _models(settings.model)
    yield from broken_version_rules(settings.model)
    yield from _upstreams(settings)
    yield from _spending(settings)
    yield from _access(settings.access)
    yield from _log_file(settings.logging.log_file)


def true_without(unusable: Set[str], sentences: Iterable[str]) -> Iterator[str]:
    """Yield the sentences that hold whatever the settings are meant to be that are set to something unusable.

    Such a setting has its default meanwhile, which nobody chose; what a rule says of that would be a false mistake.
    """
    for sentence in sentences:
        names = NAME.findall(sentence)
        if unusable.isdisjoint(DEPENDS.get(names[0], names)):
            yield sentence


def missing_files(access: AccessSettings, ways: Collection[str] = ("keys", "jwt")) -> Iterator[str]:
    """Yield a sentence for each file of keys that is not there. ways: those of AUTH whose files are looked at.

    No mistake of the settings: `python -m keys make --line` makes the first line of one, with these settings.
    """
    for way, name in (("keys", "api_keys_file"), ("jwt", "jwt_jwks_file")):
        path = getattr(access, name)
        if way in ways and path is not None and not os.path.isfile(path):
            yield f"{name.upper()}={str(path)!r}: expected a file that can be read, and there is none"


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting that does nothing as long as another one is as it is."""
    access, spending = settings.access, settings.spending
    for name in ("jwt_secret_key", "jwt_jwks_file") if "jwt" not in access.auth else ():
        if getattr(access, name) is not None:
            yield f"{name.upper()} has no effect: AUTH={','.join(access.auth)} asks for no tokens"
    budgets = ("budget_per", "default_tokens_per_day", "default_tokens_per_month", "default_money_per")
    bounded = any(getattr(spending, one.name) is not None for one in fields(spending) if one.name.startswith(budgets))
    if spending.budget_webhook_url is not None and not bounded and access.auth == ("open",):
        yield "BUDGET_WEBHOOK_URL has no effect: no setting gives anybody a budget, and AUTH=open knows no keys"


def open_to_a_network(settings: Settings) -> Iterator[str]:
    """Yield a sentence where whoever reaches the port, itself or through a proxy, may use a service in production."""
    server = settings.server
    if not settings.production or settings.access.auth != ("open",):
        return
    if not is_loopback(server.host):
        where = f"Everybody who reaches port {server.port} of this machine"
    elif server.trusted_proxies:
        where = f"Everybody whom the proxy lets through (TRUSTED_PROXIES={server.trusted_proxies})"
    else:
        return
    yield f"{where} may use the service: AUTH=keys asks each client for a key, see docs/keys.md"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on the address or name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.casefold() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _process(settings: Settings) -> Iterator[str]:
    server, engine = settings.server, settings.engine
    if server.workers > 1:
        loads = any(versions.model not in settings.model.upstreams for versions in versions_of(settings.model))
        loads = loads or any(one.loads for one in settings.model.upstreams.values())
        each = "load the weights again" if loads else "have limits, streams and stored responses of its own"
        yield (
            f"WORKERS={server.workers}: expected 1, because each worker would {each}; "
            "to serve more, raise MAX_NUM_SEQS or run more copies of the service"
        )
    needed = threads_needed(engine, settings.model)
    if server.threads < needed:
        yield (
            f"THREADS={server.threads}: expected at least {needed} = {count_of(settings.model)} models x (MAX_NUM_SEQS "
            f"{engine.max_num_seqs} + MAX_WAITING {engine.max_waiting}) + {SPARE_THREADS} for probes, "
            "refusals and pages; leave it out to have it computed"
        )


def _lengths(settings: Settings) -> Iterator[str]:
    """Compare what is set; a limit that is not set has given way, and the context is what it gave way to."""
    generation = settings.generation
    limit, context = generation.max_tokens_limit, generation.max_model_len
    below = f"expected less than MAX_MODEL_LEN, which is {context} and holds the prompt as well"
    defaults = {"MAX_TOKENS_AVIBE": generation.max_tokens_avibe, "MAX_TOKENS_AVISION": generation.max_tokens_avision}
    for name, tokens in defaults.items():
        if tokens > limit:
            known = "MAX_TOKENS_LIMIT" in settings.sources
            yield f"{name}={tokens}: " + (f"expected at most MAX_TOKENS_LIMIT, which is {limit}" if known else below)
        elif tokens > longest_default(context) and name in settings.sources:
            yield (
                f"{name}={tokens}: expected at most {longest_default(context)}, because MAX_MODEL_LEN, "
                f"which is {context}, holds the prompt as well"
            )
    if limit >= context:
        yield f"MAX_TOKENS_LIMIT={limit}: {below}"


def _batch(engine: EngineSettings) -> Iterator[str]:
    if 0 < engine.max_num_batched_tokens < engine.max_num_seqs:
        yield (
            f"MAX_NUM_BATCHED_TOKENS={engine.max_num_batched_tokens}: expected 0 (automatic) or at least "
            f"MAX_NUM_SEQS, which is {engine.max_num_seqs}, because each running request generates one token per step"
        )


def _models(model: ModelSettings) -> Iterator[str]:
    if not model.vibe_models and model.vibe_tokenizer_dir == DEMO != model.vibe_model_dir:
        yield "VIBE_TOKENIZER_DIR='demo': expected VIBE_MODEL_DIR=demo beside it, because it fits that model alone"


def _upstreams(settings: Settings) -> Iterator[str]:
    model, given = settings.model, settings.upstream
    for versions, prefix in zip(versions_of(model), ("VIBE", "VISION"), strict=True):
        upstream = model.upstreams.get(versions.model)
        if upstream is not None and versions.folders and not upstream.loads:
            yield f"{prefix}_UPSTREAM: expected {prefix}_UPSTREAM_ROLE=first or spare beside {prefix}_MODELS"
        for name in ("model", "key", "role") if upstream is None else ():
            setting = f"{prefix}_upstream_{name}".lower()
            if getattr(given, setting) not in (None, "only") and getattr(given, f"{prefix}_upstream".lower()) is None:
                yield f"{setting.upper()}: expected {prefix}_UPSTREAM beside it"


def _spending(settings: Settings) -> Iterator[str]:
    spending, names = settings.spending, full_names(settings.model)
    for name in spending.prices or ():
        if name not in names:
            known = ", ".join(one for one in names if one not in PUBLISHED)
            yield f"PRICES: expected the names of models and versions ({known}), and not {name!r}"
    budgets = ("budget_per_day", "budget_per_month", "default_money_per_day", "default_money_per_month")
    for name in budgets if not any(map(any, (spending.prices or {}).values())) else ():
        if (amount := getattr(spending, name)) is not None:
            yield f"{name.upper()}={shown(amount)}: expected PRICES beside it; without prices nothing costs anything"


def _access(access: AccessSettings) -> Iterator[str]:
    if "jwt" in access.auth and access.jwt_secret_key is None and access.jwt_jwks_file is None:
        yield f"AUTH={','.join(access.auth)}: expected JWT_SECRET_KEY or JWT_JWKS_FILE beside it, to verify tokens with"


def _log_file(path: Path | None) -> Iterator[str]:
    """Check without creating the file: the check may run as root, and the service as another user."""
    if path is None:
        return
    try:
        writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
        usable = writable and not path.is_dir()
    except OSError:
        usable = False
    if not usable:
        yield f"LOG_FILE={str(path)!r}: expected a file that can be written, in a folder that exists"
