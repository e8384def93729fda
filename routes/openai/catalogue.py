"""The models that /v1 lists: under every name that requests may call them by."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from edge.checkpoint_identity import shown_identity
from edge.request_state import request_state
from engine.backend import Backend
from routes.chat.models import find_model
from routes.response_models import ModelEntry, ModelList
from routes.services import services

CREATED = int(time.time())
CREATED_AT = datetime.fromtimestamp(CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def listing() -> ModelList:
    """Return the list, with an entry for every name that the caller is told of."""
    listed = services().model_names.listed(services().models, request_state().account.may_use)
    entries = [_entry(model_id, backend) for model_id, backend in listed.items()]
    first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
    return ModelList(object="list", data=entries, has_more=False, first_id=first, last_id=last)


def entry(model_id: str) -> ModelEntry:
    """Return the entry of one model. Raises UnknownModel."""
    _, backend = find_model(model_id)
    return _entry(model_id, backend)


def _entry(model_id: str, backend: Backend) -> ModelEntry:
    info = backend.info
    shown = ModelEntry(
        id=model_id,
        object="model",
        type="model",
        display_name=model_id,
        created=CREATED,
        created_at=CREATED_AT,
        lifecycle="active",
        owned_by="avito-ai",
        root=info.served_id,
    )
    if info.loaded:  # before that, the context may turn out to be shorter than the setting
        shown["max_model_len"] = info.max_model_len
    if info.identity is not None:
        shown["checkpoint"] = shown_identity(info.identity)
        shown["system_fingerprint"] = info.identity.fingerprint
    return shown
