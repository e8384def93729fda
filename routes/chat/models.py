"""The model that a request names, and the version of it that answers, which stays the same until its end."""

from __future__ import annotations

from functools import partial

from edge.authentication import check_model
from edge.charging import charge_for, charge_if_refused
from edge.errors import UnknownModel
from edge.request_state import request_state
from engine.backend import Backend
from engine.errors import ValidationError
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


def charge_batch(model_id: str, answers: int) -> None:
    """Charge a batch for so many answers of the model of this name, which need not be in flight at the same time.

    Raises as `find_model` and `charge_for`.
    """
    charge_for(*charge_if_refused(partial(find_model, model_id)), answers)


def charge_named(model_id: str, answers: int = 1, prompts: int = 1) -> None:
    """Charge a request for so many answers to each of its prompts by the model of this name.

    Raises as `find_model` and `charge_for`, and ValidationError where one client can never have so many in flight.
    """
    charge_for(*charge_if_refused(partial(_able_to_answer, model_id, answers, prompts)), answers * prompts)


def _able_to_answer(model_id: str, answers: int, prompts: int) -> tuple[str, Backend]:
    name, backend = find_model(model_id)
    most = backend.most_at_once()
    if most is None or answers * prompts <= most:
        return name, backend
    why = f"one client may have {most} answers of this model at once"
    if prompts > most:
        raise ValidationError(f"prompt must have at most {most} texts: {why}.", "prompt")
    many = f" for {prompts} texts" if prompts > 1 else ""
    raise ValidationError(f"n must be at most {most // prompts}{many}: {why}.", "n")
