"""The declaration of settings: a field of a frozen dataclass is a setting, and the one table is read off those fields.

The field `port` of a group is the setting `PORT`: its kind, its default and its line of help stand beside it, and
reading, printing, `.env.example` and the README's table all come from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from settings.kinds import MASK, Kind


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. group: the attribute of Settings that holds it ("" for its own); unset: how an unset one shows."""

    name: str
    group: str
    kind: Kind
    default: Any
    help: str
    secret: bool
    unset: str

    def show(self, value: Any) -> str:
        """Return the value as an operator would write it, secrets masked; "" where it is not set."""
        return "" if value is None else self.kind.show(value)

    @property
    def documented_default(self) -> str:
        """The default as the documents give it."""
        return self.unset if self.default is None else self.kind.show(self.default)

    def safe(self, text: str) -> str:
        """Return what an operator wrote, fit for an error message."""
        if not self.secret:
            return repr(text)
        shown = self.kind.show(text)
        return shown if shown == MASK else repr(shown)


class Group:
    """A group of settings whose repr shows no secret."""

    def __repr__(self) -> str:
        shown = (f"{s.name.lower()}={s.show(getattr(self, s.name.lower()))!r}" for s in settings_in(type(self)))
        return f"{type(self).__name__}({', '.join(shown)})"


def setting(default: Any, kind: Kind, help: str, *, secret: bool = False, unset: str = "none") -> Any:
    """Declare a setting. default None: it may stay unset, and `unset` says what that means."""
    declared = {"kind": kind, "help": help, "secret": secret, "unset": unset}
    return dataclasses.field(default=default, metadata=declared)


def settings_in(cls: Any, group: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass and of its groups, in the order of their declaration."""
    types = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.metadata:
            yield Setting(name=field.name.upper(), group=group, default=field.default, **field.metadata)
        elif isinstance(types[field.name], type) and issubclass(types[field.name], Group):
            yield from settings_in(types[field.name], field.name)


def markdown(settings: tuple[Setting, ...]) -> str:
    """Return the table of settings for a document."""
    rows = [f"| `{s.name}` | `{s.documented_default}` | {s.help} |" for s in settings]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])
