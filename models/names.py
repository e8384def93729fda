"""What the names stand for that requests call models by: a model, a version of it, or another's name for one.

A request that names just a model is answered by its default version, or by another that has a share of the clients:
always the same one for a client, while that version is ready.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from config import MARK, PUBLISHED, Settings, full_names, versions_of
from engine.backend import Backend
from engine.types import ModelInfo, Status, is_further, model_of
from models.model_set import ModelSet

# Tells, of the names of a version, whether the caller may use it.
Allows = Callable[..., bool]


def everybody(*names: str) -> bool:
    """Allow every version."""
    return True


class ModelNames:
    """The names of the settings. Immutable.

    known: the full names, each with what it stands for; shares: of further versions by model, in percent; aliases:
    others' names.
    """

    def __init__(
        self, known: Mapping[str, str], shares: Mapping[str, Iterable[tuple[str, float]]], aliases: Mapping[str, str]
    ) -> None:
        self._known, self._listed = known, aliases
        self._shares = {model: tuple(share) for model, share in shares.items()}
        self._aliases = {**PUBLISHED, **aliases}

    @classmethod
    def of(cls, settings: Settings) -> ModelNames:
        """Return the names that the settings state."""
        shares = {
            one.model: [(f"{one.model}{MARK}{name}", share) for name, share in one.shares if name in one.names[1:]]
            for one in versions_of(settings.model)
        }
        return cls(full_names(settings.model), shares, dict(settings.model.model_aliases or ()))

    def find(self, asked: str, client: str, models: ModelSet, allows: Allows = everybody) -> tuple[str, Backend] | None:
        """Return the name and the backend of the version that answers a client's request, None for an unknown name.

        allows: keeps the client from being shared out to a version that it may not use.
        """
        found = self._aliases.get(asked, asked)
        found = PUBLISHED.get(found, found)
        if found in self._shares:
            found = self._shared_out(found, client, models, allows)
        backends = dict(models)
        if (known := self._known.get(found, found)) in backends:
            return known, backends[known]
        return next(((name, one) for name, one in models if found == one.info.served_id), None)

    def shown(self, asked: str, info: ModelInfo) -> str:
        """Return what an answer calls its model: another's name as it was asked for, else what answers."""
        return asked if asked in self._aliases else info.served_id

    def names_of(self, name: str, info: ModelInfo) -> tuple[str, ...]:
        """Return the names that a caller may be allowed a version by, first that of its model."""
        full = [one for one, target in self._known.items() if target == name and MARK in one]
        return tuple(dict.fromkeys((model_of(name), name, *full, info.served_id)))

    def listed(self, models: ModelSet, allows: Allows = everybody) -> dict[str, Backend]:
        """Return each name that clients are told of with what stands behind it: versions, and others' names for them.

        A further version that cannot be loaded is left out.
        """
        usable = {
            name: one
            for name, one in models
            if allows(*self.names_of(name, one.info)) and not (is_further(name) and one.state().status is Status.DEAD)
        }
        found: dict[str, Backend] = {}
        for name, one in usable.items():
            full = [known for known, target in self._known.items() if target == name and MARK in known]
            found |= dict.fromkeys((name, one.info.served_id, *full), one)
        for alias, target in self._listed.items():
            if (known := self._known.get(target, target)) in usable:
                found[alias] = usable[known]
        return found

    def described(self, models: ModelSet) -> list[str]:
        """Return every name that requests may use, whether it can be loaded or not, without the published ones."""
        ids = [one for _, backend in models for one in (backend.info.name, backend.info.served_id)]
        return list(dict.fromkeys([*ids, *(name for name in self._known if name not in PUBLISHED), *self._listed]))

    def _shared_out(self, model: str, client: str, models: ModelSet, allows: Allows) -> str:
        """Return the version that a client who names just the model is given: by a stable hash of the client."""
        if not self._shares[model]:
            return model
        digest = hashlib.sha256(f"{model}\n{client}".encode()).digest()
        point = 100 * int.from_bytes(digest[:8], "big") / 2**64
        for name, share in self._shares[model]:
            if point < share:
                one = dict(models).get(name)
                usable = one is not None and one.state().status is Status.READY
                return name if usable and one is not None and allows(*self.names_of(name, one.info)) else model
            point -= share
        return model
