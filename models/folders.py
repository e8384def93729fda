"""The folders that each model, and each further version of it, is loaded from: the operator's, or the demo's."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from config import DEMO, MARK, Settings, versions_of
from engine.errors import StartError
from engine.loading.checkpoint import find_tokenizer

log = logging.getLogger("avito_ai.loading")

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
# Owner and name as on Hugging Face, or the address of a page there, which a path holds with one slash fewer.
HUB_NAME = re.compile(r"(https?:/|hf:/)[^/]+/.+|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class ChosenCheckpoint:
    """The folders one model is loaded from."""

    model_dir: Path
    tokenizer_dir: Path
    demo: bool = False


def choose_checkpoints(settings: Settings) -> dict[str, ChosenCheckpoint]:
    """Decide for each model between the operator's folders and the demo's. Raises StartError with every problem.

    The folder of a further version is not looked at: that it cannot be loaded does not stop the start. A model that a
    server elsewhere answers for has none.
    """
    model, wrong = settings.model, list[str]()
    own = {
        "avibe": ChosenCheckpoint(model.vibe_model_dir, model.vibe_tokenizer_dir),
        "avision": ChosenCheckpoint(model.vision_model_dir, model.vision_model_dir),
    }
    chosen: dict[str, ChosenCheckpoint] = {}
    further: dict[str, ChosenCheckpoint] = {}
    for versions in versions_of(model):
        name, setting = versions.model, f"{versions.prefix}_MODEL_DIR"
        if name in model.upstreams and not model.upstreams[name].loads:
            continue
        if versions.folders:
            setting = f"{versions.prefix}_MODELS: {versions.names[0]}"
            (_, first), *rest = ((one, _version(folder, own[name])) for one, folder in versions.folders)
            own[name] = first
            further |= {f"{name}{MARK}{one}": _or_demo(name, version) for one, version in rest}
        chosen[name] = _choose(name, setting, own[name], settings.production, wrong)
    tokenizer = chosen["avibe"].tokenizer_dir if "avibe" in chosen else None
    if tokenizer is not None and hub_hint(tokenizer) and not tokenizer.exists():
        wrong.append(f"VIBE_TOKENIZER_DIR={tokenizer}: there is no such folder{hub_hint(tokenizer)}.")
    if wrong:
        raise StartError(" ".join(wrong))
    return chosen | further  # what the service needs is loaded first


def _version(folder: Path, single: ChosenCheckpoint) -> ChosenCheckpoint:
    """Return a version in this folder: with a tokenizer of its own, else with the model's."""
    try:
        return ChosenCheckpoint(folder, find_tokenizer(folder, ""))
    except StartError:
        return ChosenCheckpoint(folder, folder if single.tokenizer_dir == single.model_dir else single.tokenizer_dir)


def _or_demo(name: str, version: ChosenCheckpoint) -> ChosenCheckpoint:
    return _demo(name) if version.model_dir == DEMO else version


def _demo(name: str) -> ChosenCheckpoint:
    return ChosenCheckpoint(DEMO_FOLDER / name, DEMO_FOLDER / name, demo=True)


def _choose(
    name: str, setting: str, requested: ChosenCheckpoint, production: bool, wrong: list[str]
) -> ChosenCheckpoint:
    """Return the checkpoint to load; if there is none, append the reason to `wrong`."""
    demo = _demo(name)
    if requested.model_dir == DEMO:
        return demo
    stated, hint = f"{setting}={requested.model_dir}", hub_hint(requested.model_dir)
    try:
        requested.model_dir.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not production:
            log.warning("%s: there is no such folder%s, so the demo model stands in for %s.", stated, hint, name)
            return demo
        wrong.append(f"{stated}: there is no such folder{hint}; name one, or ask for the demo with {setting}=demo.")
    except OSError as error:
        wrong.append(f"{stated}: the folder cannot be read: {error.strerror}.")
    return requested


def hub_hint(folder: Path) -> str:
    """Return how to get the model of a missing folder that reads like a name on Hugging Face, else an empty text."""
    if not HUB_NAME.fullmatch(str(folder)):
        return ""
    return " (a model on Hugging Face is downloaded with ./deploy.sh models, which also writes this setting)"
