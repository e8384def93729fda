"""The models that /v1 lists: by their names, and by the ids of the loaded checkpoints where those differ."""

from __future__ import annotations

import time

from edge.checkpoint_identity import shown_identity
from edge.request_state import request_state
from engine.backend import Backend
from routes.chat.models import find_model, model_ids
from routes.response_models import ModelEntry
from routes.services import services

CREATED = int(time.time())


def entries() -> list[ModelEntry]:
    """Return an entry for every id that the caller can name; a model's name comes before its checkpoint's."""
    account = request_state().account
    usable = [backend for name, backend in services().models if account.may_use(name, backend.info.served_id)]
    return [entry for backend in usable for entry in _entries_of(backend)]


def entry(model_id: str) -> ModelEntry:
    """Return the entry of one model. Raises UnknownModel."""
    _, backend = find_model(model_id)
    return _entry(model_id, backend)


def _entries_of(backend: Backend) -> list[ModelEntry]:
    return [_entry(model_id, backend) for model_id in model_ids(backend.info)]


def _entry(model_id: str, backend: Backend) -> ModelEntry:
    info = backend.info
    shown = ModelEntry(id=model_id, object="model", created=CREATED, owned_by="avito-ai", root=info.served_id)
    if info.loaded:  # before that, the context may turn out to be shorter than the setting
        shown["max_model_len"] = info.max_model_len
    if info.identity is not None:
        shown["checkpoint"] = shown_identity(info.identity)
        shown["system_fingerprint"] = info.identity.fingerprint
    return shown
