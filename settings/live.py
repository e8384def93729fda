"""The settings of a running process: as they were at its start, but for secrets in files, which are read again.

Who renews a secret writes its file (NAME_FILE, or `key_file` in UPSTREAMS_FILE), as Vault's agent and a mounted secret
of Kubernetes do by themselves. A file that cannot be read, or has something unusable, leaves the secret as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from settings.groups import Settings
from settings.kinds import Table
from settings.table import Setting
from settings.upstreams import parse_key

log = logging.getLogger("avito_ai.settings")

Use = Callable[[object], None]
# The settings that hold the key of a server elsewhere, by the model whose server that is.
KEY_SETTINGS = {"VIBE_UPSTREAM_KEY": "avibe", "VISION_UPSTREAM_KEY": "avision"}


class FromNextStart(Exception):
    """Raised by who uses a secret, where a change counts only once the service starts again."""


@dataclass(slots=True)
class _File:
    """A file that holds a secret.

    label: what the log calls it; parse: raises ValueError for an unusable text; value: the secret that is in force;
    seen: the state of the file when it was read, None before that.
    """

    label: str
    path: Path
    parse: Callable[[str], object]
    use: Callable[[Any], None]
    value: object
    seen: tuple[int, ...] | None = None
    failing: bool = False


class LiveSettings:
    """The settings now. `refresh` is called by one thread; whoever reads `current` has all of one moment.

    declared: all settings by name; those of them that stand in files are watched. The first refresh reads every file:
    the settings may be those of a process that began long ago, and has forked this one.
    """

    def __init__(self, settings: Settings, declared: Mapping[str, Setting]) -> None:
        self.current = settings
        self._files: list[_File] = []
        self._uses: dict[str, list[Use]] = {}
        for name, path in settings.secret_files.items():
            setting = declared[name]
            value = getattr(getattr(settings, setting.group), name.lower())
            self._watch(f"{name}_FILE", path, setting.kind.parse, partial(self._renew, setting), value)
        for name, one in settings.model.upstreams.items():
            if one.key_file is not None:
                renew = partial(self._renew_key_in_file, name)
                self._watch(f"UPSTREAMS_FILE: key_file of {name!r}", one.key_file, parse_key, renew, one.key)

    @property
    def watches(self) -> bool:
        """True if there is a file to look at."""
        return bool(self._files)

    def on_change(self, name: str, use: Use) -> None:
        """Call `use` with each later value of a secret; by the thread that refreshes. It may raise FromNextStart.

        name: of a setting, or `key_file of MODEL` for the key of a server elsewhere.
        """
        self._uses.setdefault(name, []).append(use)

    def _watch(
        self, label: str, path: Path, parse: Callable[[str], object], use: Callable[[Any], None], value: object
    ) -> None:
        self._files.append(_File(label, path, parse, use, value))

    def refresh(self) -> None:
        """Read again what has changed."""
        for file in self._files:
            signature = _signature(file.path)
            if signature is None or signature != file.seen:
                self._read(file, signature)

    def _read(self, file: _File, signature: tuple[int, ...] | None) -> None:
        try:
            value = file.parse(file.path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            if not file.failing:
                log.warning("%s has no usable secret any more: the one known before stays in force.", file.label)
            file.failing = True
            return
        file.seen, file.failing = signature, False
        if value != file.value:
            file.value = value
            try:
                file.use(value)
                log.info("%s has changed: its secret is in force.", file.label)
            except FromNextStart:
                log.warning("%s has changed: that counts from the next start on.", file.label)

    def _renew(self, setting: Setting, value: Any) -> None:
        group = getattr(self.current, setting.group)
        self.current = replace(self.current, **{setting.group: replace(group, **{setting.name.lower(): value})})
        if (model := KEY_SETTINGS.get(setting.name)) is not None:
            self._renew_key(model, value)
        self._tell(setting.name, value)

    def _renew_key_in_file(self, model: str, key: str) -> None:
        self._renew_key(model, key)
        self._tell(f"key_file of {model}", key)

    def _renew_key(self, model: str, key: Any) -> None:
        group = self.current.model
        if (upstream := group.upstreams.get(model)) is not None:
            renewed = Table({**group.upstreams, model: replace(upstream, key=key)})
            self.current = replace(self.current, model=replace(group, upstreams=renewed))

    def _tell(self, name: str, value: object) -> None:
        for use in self._uses.get(name, ()):
            use(value)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
