"""The versions of the models and the names that clients may call them by, as the settings state them, and their rules.

A version's full name is `avibe@v2`. The first version is the default: `avibe`, or `avibe@v1` in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from settings.model_groups import ModelSettings

MARK = "@"  # between a model and its version
# The published names of the models, which are always accepted.
PUBLISHED = {"AvitoTech/avibe": "avibe", "AvitoTech/avision": "avision"}
MAX_VERSIONS = 16  # of a model; each has its own weights in memory, and its own series in the metrics


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one model as they are set; shares in percent. Without versions there is one checkpoint."""

    model: str
    prefix: str
    folders: tuple[tuple[str, Path], ...]
    shares: tuple[tuple[str, float], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the versions, the default's first."""
        return tuple(name for name, _ in self.folders)


def versions_of(settings: ModelSettings) -> tuple[Versions, ...]:
    """Return the versions of each model."""
    return (
        Versions("avibe", "VIBE", settings.vibe_models or (), settings.vibe_split or ()),
        Versions("avision", "VISION", settings.vision_models or (), settings.vision_split or ()),
    )


def count_of(settings: ModelSettings) -> int:
    """Return how many backends take requests: one for each checkpoint, and one for each upstream beside them."""
    loaded = sum(max(1, len(versions.names)) for versions in versions_of(settings))
    return loaded + sum(1 for one in settings.upstreams.values() if one.extra or one.loads)


def full_names(settings: ModelSettings) -> Mapping[str, str]:
    """Return what each name of a model and of a version stands for: a model, or one of its further versions."""
    found = dict(PUBLISHED)
    for versions in versions_of(settings):
        found[versions.model] = versions.model
        for place, name in enumerate(versions.names):
            full = f"{versions.model}{MARK}{name}"
            found[full] = full if place else versions.model
    return found | {name: name for name in settings.upstreams}


def allowable_names(settings: ModelSettings) -> tuple[str, ...]:
    """Return the names by which a client may be allowed models: those of the service, and those that demos have."""
    own = [name for name in full_names(settings) if name not in PUBLISHED]
    return (*own, *("-demo@".join(name.split(MARK)) if MARK in name else f"{name}-demo" for name in own))


def broken_version_rules(settings: ModelSettings) -> Iterator[str]:
    """Yield a sentence for each mistake in the versions, their shares and the names of others."""
    for versions in versions_of(settings):
        yield from _of_versions(versions)
    yield from _of_aliases(settings)


def unused_folders(settings: ModelSettings, given: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each folder that is set and stands behind the versions. given: the settings that are set."""
    for versions in versions_of(settings):
        if versions.folders and f"{versions.prefix}_MODEL_DIR" in given:
            yield f"{versions.prefix}_MODEL_DIR has no effect beside {versions.prefix}_MODELS, which names the folders"


def _of_versions(versions: Versions) -> Iterator[str]:
    setting, split = f"{versions.prefix}_MODELS", f"{versions.prefix}_SPLIT"
    for name in _twice(versions.names):
        yield f"{setting}: expected each version once, but {name} is there more than once"
    if len(versions.names) > MAX_VERSIONS:
        yield f"{setting}: expected at most {MAX_VERSIONS} versions, not {len(versions.names)}"
    shared = tuple(name for name, _ in versions.shares)
    for name in _twice(shared):
        yield f"{split}: expected each version once, but {name} is there more than once"
    for name in dict.fromkeys(shared):
        if name not in versions.names:
            known = ", ".join(versions.names) or "none, because it is not set"
            yield f"{split}: expected versions of {setting} ({known}), and {name!r} is none of them"
    total = sum(share for _, share in versions.shares)
    if total > 100:
        yield f"{split}: expected shares of at most 100 percent together, not {total:g}"


def _of_aliases(settings: ModelSettings) -> Iterator[str]:
    aliases, known = settings.model_aliases or (), full_names(settings)
    for name in _twice(tuple(alias for alias, _ in aliases)):
        yield f"MODEL_ALIASES: expected each name once, but {name} is there more than once"
    for alias, target in dict(aliases).items():
        if alias.partition(MARK)[0].removesuffix("-demo") in known:
            yield f"MODEL_ALIASES: expected names that are not this service's own, and {alias!r} is"
        if target not in known:
            yield f"MODEL_ALIASES={alias}={target}: expected one of {', '.join(known)}, and {target!r} is none of them"


def _twice(names: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
