"""The model that a request names, and the version of it that answers, which stays the same until its end."""

from __future__ import annotations

from functools import partial

from edge.authentication import check_model
from edge.charging import charge_for, charge_if_refused
from edge.errors import UnknownModel
from edge.request_state import request_state
from engine.backend import Backend
from routes.services import services


def find_model(model_id: str) -> tuple[str, Backend]:
    """Return the name and the backend of a model. Raises UnknownModel, and Forbidden to who may not use it."""
    names, models, state = services().model_names, services().models, request_state()
    if (chosen := state.versions.get(model_id)) is not None:
        return chosen, models.get(chosen)
    found = names.find(model_id, state.account.id, models, state.account.may_use)
    if found is None:
        known = ", ".join(names.listed(models, state.account.may_use))
        raise UnknownModel(f"There is no model of this name here. The models are: {known}.")
    name, backend = found
    check_model(state.account, *names.names_of(name, backend.info), asked=model_id)
    state.versions[model_id] = name
    return found


def charge_named(model_id: str, cost: int = 1) -> None:
    """Charge a request for so many answers of the model of this name. Raises as `find_model` and `charge_for`."""
    charge_for(*charge_if_refused(partial(find_model, model_id)), cost)
