"""The declaration of settings as fields of frozen dataclasses, and the table derived from those fields.

The field `port` of a group is the setting `PORT`, declared with its kind, default and one line of help. Parsing,
printing, `.env.example` and the table in docs/settings.md all derive from these declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_type_hints

from settings.kinds import MASK, Kind, without_credentials

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable.

    group: the attribute of Settings that holds it, "" for Settings itself; unset: the documented default if unset.
    """

    name: str
    group: str
    kind: Kind[Any]  # of the setting's own type; the table holds all of them
    default: object
    help: str
    secret: bool
    unset: str

    def show(self, value: object) -> str:
        """Return the value as an operator would write it, secrets masked; "" if it is unset."""
        return "" if value is None else self.kind.show(value)

    @property
    def documented_default(self) -> str:
        """The default as the documentation gives it."""
        return self.unset if self.default is None else self.kind.show(self.default)

    def safe(self, text: str) -> str:
        """Return an operator's text, which does not parse, for an error message: secrets and credentials masked.

        Of a secret, a URL alone is shown, without its credentials: any other text may be the secret itself.
        """
        if not self.secret:
            credentials = ":" in text.rpartition("@")[0]
            return repr(without_credentials(text) if credentials else text)
        try:
            shown = self.kind.show(text) if "://" in text else MASK
        except ValueError:  # what does not parse need not be readable as a URL
            shown = MASK
        return shown if shown == MASK else repr(shown)


@dataclass(frozen=True, repr=False)
class Group:
    """A group of settings whose repr shows no secret."""

    def __repr__(self) -> str:
        shown = (f"{s.name.lower()}={s.show(getattr(self, s.name.lower()))!r}" for s in settings_in(type(self)))
        return f"{type(self).__name__}({', '.join(shown)})"


def setting(default: T | None, kind: Kind[T], help: str, *, secret: bool = False, unset: str = "none") -> T:
    """Declare a setting. default None: it may stay unset, which `unset` describes."""
    declared = {"kind": kind, "help": help, "secret": secret, "unset": unset}
    return dataclasses.field(default=cast(T, default), metadata=declared)


def settings_in(cls: type[Group], group: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass and of its groups, in the order of their declaration."""
    types = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.metadata:
            yield Setting(name=field.name.upper(), group=group, default=field.default, **field.metadata)
        elif isinstance(types[field.name], type) and issubclass(types[field.name], Group):
            yield from settings_in(types[field.name], field.name)


def markdown(settings: tuple[Setting, ...]) -> str:
    """Return the table of settings in Markdown."""
    rows = [f"| `{s.name}` | `{s.documented_default}` | {s.help} |" for s in settings]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
