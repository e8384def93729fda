"""The models that a request of /v1 may name: by their names, and by the ids of the loaded checkpoints."""

from __future__ import annotations

from edge.authentication import check_model
from edge.errors import UnknownModel
from edge.request_state import request_state
from engine.backend import Backend
from engine.types import ModelInfo
from routes.services import services


def find_model(model_id: str) -> tuple[str, Backend]:
    """Return the name and the backend of a model. Raises UnknownModel, and Forbidden to who may not use it."""
    for name, backend in services().models:
        if model_id in (name, backend.info.served_id):
            check_model(request_state().account, name, backend.info.served_id)
            return name, backend
    known = ", ".join(one for _, backend in services().models for one in model_ids(backend.info))
    raise UnknownModel(f"There is no model of this name here. The models are: {known}.")


def model_ids(info: ModelInfo) -> tuple[str, ...]:
    """Return every id that requests can name a model by; its name comes before its checkpoint's."""
    return tuple(dict.fromkeys((info.name, info.served_id)))
