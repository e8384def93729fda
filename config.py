"""The settings of the service: one environment variable each, typed, checked at start, frozen afterwards.

`settings.groups` declares them. A value comes from the environment, else for secrets from the file that `<NAME>_FILE`
names, else from `.env` beside this file (or at `ENV_FILE`), else it is the default. `from config import config` reads
them on first use; `python config.py` prints them, or every mistake, and has commands of its own (`checks.command`).
This module and `gunicorn_config.py` are the only ones that read `os.environ`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take a while
    from terminal import end_quietly

    end_quietly()

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from settings import table
from settings.defaults import STATE_DIR, with_defaults
from settings.gpus import configure_allocator, has_gpu
from settings.groups import Settings
from settings.kinds import Table
from settings.live import FromNextStart, LiveSettings
from settings.money import MILLION
from settings.money import shown as as_money
from settings.rules import DEMO, broken_rules, missing_files, open_to_a_network, true_without, without_effect
from settings.sources import Sources, read_sources
from settings.table import Setting
from settings.upstreams import Upstream, upstreams_of
from settings.versions import MARK, PUBLISHED, allowable_names, full_names, unused_folders, versions_of

__all__ = [
    "DEMO",
    "MARK",
    "MILLION",
    "PUBLISHED",
    "SETTINGS",
    "FromNextStart",
    "LiveSettings",
    "Settings",
    "SettingsError",
    "Upstream",
    "allowable_names",
    "as_money",
    "config",
    "env_file_of",
    "full_names",
    "live_settings",
    "load_settings",
    "versions_of",
]

config: Settings

MASTER_BEFORE = "GUNICORN_PID"  # in the environment of a process of Gunicorn's that is to take another one's place
RELOAD_FAILED = "The service goes on with the settings that it has."


class SettingsError(Exception):
    """Unusable settings; `mistakes` has one sentence for each, secrets masked."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(["The settings cannot be used:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = tuple(mistakes)


WITHOUT_DOCSTRINGS = (
    "PYTHONOPTIMIZE=2 (python -OO) removes docstrings, without which no model can be loaded: expected 0 or 1"
)
SETTINGS: tuple[Setting, ...] = tuple(table.settings_in(Settings))


def load_settings(environ: Mapping[str, str], env_file: Path | None, has_gpu: Callable[[], bool] = has_gpu) -> Settings:
    """Read and check all settings; env_file None: there is no `.env`. Raises SettingsError with every mistake.

    has_gpu: whether this machine has a GPU, asked where a default depends on it.
    """
    sources = read_sources(SETTINGS, environ, env_file)
    settings = _build(_parse(sources), sources, has_gpu, _state_dir(environ))
    sources.mistakes += true_without(sources.unusable, broken_rules(settings))
    if sources.mistakes:
        raise SettingsError(sources.mistakes)
    unused = unused_folders(settings.model, settings.sources)
    more = (*open_to_a_network(settings), *without_effect(settings), *unused, *missing_files(settings.access))
    return replace(settings, warnings=(*settings.warnings, *more))


def live_settings(settings: Settings) -> LiveSettings:
    """Return the settings with secrets in files as they are now, once they are refreshed."""
    return LiveSettings(settings, {declared.name: declared for declared in SETTINGS})


def operator_settings() -> Settings:
    """Read the settings of this process again and store them as `config`. Raises SettingsError."""
    if sys.flags.optimize > 1:
        raise SettingsError([WITHOUT_DOCSTRINGS])
    settings = load_settings(os.environ, _env_file(os.environ))
    globals()["config"] = settings
    return settings


def settings_or_exit(fresh: bool = False) -> Settings:
    """Return `config`, read again if `fresh`. All mistakes are printed.

    Mistakes end the process with status 2, unless it already has settings, which it then keeps: a reload with a broken
    `.env` does not take a running service down.
    """
    known: Settings | None = globals().get("config")
    if known is not None and not fresh:
        return known
    try:
        return operator_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        if known is not None or MASTER_BEFORE in os.environ:
            print(RELOAD_FAILED, file=sys.stderr)
        if known is None:
            raise SystemExit(2) from None
        return known


def apply_gpu_choice(settings: Settings) -> str | None:
    """Set the GPUs that CUDA sees, in nvidia-smi's order; must run before torch is imported.

    Texts are tokenized by the thread that asks for it, so the tokenizers' own pool of threads is not started.
    Returns CUDA_VISIBLE_DEVICES as it now stands. An empty value counts as unset here, but hides every GPU from CUDA.
    """
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    configure_allocator(os.environ)
    if settings.model.cuda_visible_devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.model.cuda_visible_devices
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _parse(sources: Sources) -> dict[str, object]:
    """Return the value of every setting; a text that does not parse is a mistake and leaves the default."""
    values = {s.name: s.default for s in SETTINGS}
    for declared in SETTINGS:
        text = sources.texts.get(declared.name, ("", ""))[0]
        try:
            values[declared.name] = declared.kind.parse(text) if text else declared.default
        except ValueError:
            mistake = f"{declared.name}={declared.safe(text)}: expected {declared.kind.expected}"
            sources.mistakes.append(mistake)
            sources.unusable.add(declared.name)
    return values


def _state_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder that systemd made for the unit, the first if it made several; else one beside this file."""
    made = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(made) if made else STATE_DIR


def _build(values: Mapping[str, object], sources: Sources, has_gpu: Callable[[], bool], state_dir: Path) -> Settings:
    """Return the settings with these values, by name, and with the defaults that follow from what is set."""
    settings = Settings(
        environment=str(values["ENVIRONMENT"]),
        warnings=tuple(sources.warnings),
        sources={name: where for name, (_, where) in sources.texts.items()},
        secret_files=sources.secret_files,
    )
    for name in {s.group for s in SETTINGS if s.group}:
        own = {s.name.lower(): values[s.name] for s in SETTINGS if s.group == name}
        settings = replace(settings, **{name: replace(getattr(settings, name), **own)})
    return with_defaults(_with_upstreams(settings, sources), sources.texts.keys(), has_gpu, state_dir)


def _with_upstreams(settings: Settings, sources: Sources) -> Settings:
    """Return the settings with the upstreams that they state, and with the prices that these have of their own."""
    given = settings.upstream
    stated = {
        "VIBE": (given.vibe_upstream, given.vibe_upstream_model, given.vibe_upstream_key, given.vibe_upstream_role),
        "VISION": (
            given.vision_upstream,
            given.vision_upstream_model,
            given.vision_upstream_key,
            given.vision_upstream_role,
        ),
    }
    upstreams, mistakes = upstreams_of(stated, given.upstreams_file)
    sources.mistakes += mistakes
    own = {name: one.price for name, one in upstreams.items() if one.price is not None}
    spending = settings.spending
    if own:
        spending = replace(spending, prices=Table({**own, **(spending.prices or {})}))
    return replace(settings, model=replace(settings.model, upstreams=Table(upstreams)), spending=spending)


def env_file_of(environ: Mapping[str, str]) -> Path:
    """Return the path of the settings file, there or not: that in `ENV_FILE`, else `.env` beside this module."""
    return Path(environ.get("ENV_FILE", "").strip() or Path(__file__).with_name(".env"))


def _env_file(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the settings file; None where none is named and there is none."""
    file = env_file_of(environ)
    return file if environ.get("ENV_FILE", "").strip() or file.exists() else None


def _report(settings: Settings) -> int:
    """Print the settings; return the exit status, 2 where files are missing that a start needs."""
    for declared in SETTINGS:
        source = settings.sources.get(declared.name)
        print(f"{declared.name}={settings.show(declared)}" + (f"  # {source}" if source else ""))
    needed = [*missing_files(settings.access, settings.access.auth)]
    for warning in settings.warnings:
        if warning not in needed:
            print(f"warning: {warning}", file=sys.stderr)
    if needed:
        print(SettingsError(needed), file=sys.stderr)
    return 2 if needed else 0


def __getattr__(name: str) -> Settings:
    if name == "config":
        return operator_settings()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from checks.command import main

        sys.exit(main(sys.argv[1:], os.environ))
    sys.exit(_report(settings_or_exit()))
