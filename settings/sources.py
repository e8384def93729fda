"""The sources of settings, in order of precedence: the environment, files of secrets, and `.env`.

An empty variable counts as unset, since that is what `NAME=` in a Compose file means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from settings.old_names import OLD_NAMES, SECRETS, translated
from settings.table import Setting

# Read by other programs from the same file.
FOREIGN = frozenset(
    "ENV_FILE TORCH_INDEX_URL COMPOSE_PROJECT_NAME COMPOSE_PROFILES COMPOSE_FILE DOMAIN TLS_DIR MODELS_DIR "
    "POSTGRES_PASSWORD".split()
)
# How like a setting's a name must be to be a misspelling of it: in a file that is ours, and among others' variables.
LIKE, VERY_LIKE = 0.7, 0.85
SHORTEST_MISSPELT = 6  # letters; other programs have many names of fewer that differ from ours in one
# Of other programs, and like ours.
OTHERS = re.compile(r"(OTEL|NVIDIA|HIP|ROCR|ZE|PIP|DOCKER|COMPOSE|KUBERNETES|AVITO_AI|GUNICORN|SYSTEMD)_.*")


@dataclass(slots=True)
class Sources:
    """The text and the source of each setting that was found, and the mistakes and warnings met on the way.

    secret_files: the files of those whose text stands in one.
    unusable: the settings that are set to what cannot be read; each is a mistake already, and has its default.
    """

    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    secret_files: dict[str, Path] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_sources(settings: tuple[Setting, ...], environ: Mapping[str, str], env_file: Path | None) -> Sources:
    """Find the text of each setting; env_file None: there is no `.env`."""
    sources = Sources()
    in_file = {} if env_file is None else _read_env_file(env_file, sources)
    _warn_of_unknown(settings, in_file, env_file, sources)
    _warn_of_misspelt(settings, environ, sources)
    for setting in settings:
        found = _text_of(setting.name, setting.secret, environ, in_file, sources)
        if found is not None and found[0]:
            sources.texts[setting.name] = found
            if found[1] == f"{setting.name}_FILE":
                sources.secret_files[setting.name] = Path(_pointed(found[1], environ, in_file))
        elif found is not None and found[1] == f"{setting.name}_FILE":
            sources.unusable.add(setting.name)
    old = {name: _text_of(name, name in SECRETS, environ, in_file, sources) for name in OLD_NAMES}
    sources.texts |= translated(lambda name: (old.get(name) or ("", ""))[0], sources.texts, sources.warnings.append)
    return sources


def _text_of(
    name: str, secret: bool, environ: Mapping[str, str], in_file: Mapping[str, str], sources: Sources
) -> tuple[str, str] | None:
    """Return the text and the source of a name, None if no source has it."""
    if text := environ.get(name, "").strip():
        return text, "environment"
    pointer = f"{name}_FILE"
    path = _pointed(pointer, environ, in_file)
    if secret and path:
        return _read_secret(pointer, path, sources), pointer
    return (in_file[name], ".env") if name in in_file else None


def _pointed(pointer: str, environ: Mapping[str, str], in_file: Mapping[str, str]) -> str:
    return environ.get(pointer, "").strip() or in_file.get(pointer, "")


def _read_secret(pointer: str, path: str, sources: Sources) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        sources.mistakes.append(f"{pointer}={path!r}: expected a text file that can be read ({_reason(error)})")
        return ""
    if not text:
        sources.mistakes.append(f"{pointer}={path!r}: expected a file that holds the secret, but it is empty")
    return text


def _read_env_file(path: Path, sources: Sources) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        sources.mistakes.append(f"ENV_FILE={str(path)!r}: expected a settings file that can be read ({_reason(error)})")
        return {}
    return dict(_pairs(bindings, path, sources))


def _pairs(bindings: list[Binding], path: Path, sources: Sources) -> Iterator[tuple[str, str]]:
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            sources.mistakes.append(f"{path}, line {binding.original.line}: expected NAME=value")
        elif binding.key is not None and binding.value is not None:
            yield binding.key, binding.value.strip()


def _warn_of_unknown(
    settings: tuple[Setting, ...], in_file: Mapping[str, str], env_file: Path | None, sources: Sources
) -> None:
    known = _names_of(settings)
    for name in sorted(in_file.keys() - known - FOREIGN - OLD_NAMES):
        near = _nearest(name, known, LIKE)
        hint = f"; did you mean {near}?" if near else ""
        sources.warnings.append(f"{name} in {env_file} is not a setting and has no effect{hint}")


def _warn_of_misspelt(settings: tuple[Setting, ...], environ: Mapping[str, str], sources: Sources) -> None:
    """Warn of variables of this process whose names are almost those of settings; most others are none of ours."""
    known = _names_of(settings)
    for name in sorted(environ.keys() - known - FOREIGN - OLD_NAMES):
        if len(name) < SHORTEST_MISSPELT or OTHERS.fullmatch(name.upper()):
            continue
        if near := _nearest(name, known, VERY_LIKE):
            sources.warnings.append(
                f"{name} in the environment is not a setting and has no effect; did you mean {near}?"
            )


def _names_of(settings: tuple[Setting, ...]) -> set[str]:
    return {s.name for s in settings} | {f"{s.name}_FILE" for s in settings if s.secret}


def _nearest(name: str, known: Set[str], cutoff: float) -> str | None:
    return next(iter(get_close_matches(name.upper(), known, n=1, cutoff=cutoff)), None)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
