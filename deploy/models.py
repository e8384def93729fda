"""Gets the models: `python -m deploy.models --to FOLDER [--settings FILE] [--dry-run] [MODEL[=OWNER/NAME] ...]`.

MODEL is avibe or avision, both by default; OWNER/NAME is another repository than the published one. Each is downloaded
from Hugging Face into a folder of its name below FOLDER, verified, and checked as a start of the service would. The
settings of those that can be served are written to FILE as lines NAME=VALUE. The exit status is 1 if one cannot.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from config import Settings
from deploy.hub import Repository, check_room, download, hub_token, in_units, list_repository, missing_bytes
from deploy.hub_errors import HubError, Unreachable, page_of
from deploy.model_facts import BOTH_GPU_GB, CARDS_FOR_BOTH, CARDS_FOR_ONE, MODELS, PublishedModel
from deploy.secret_file import NoSecret
from engine.errors import StartError
from models.selection import ChosenCheckpoint, model_spec

USAGE = "./deploy.sh models [--to FOLDER] [--dry-run] [MODEL[=OWNER/NAME] ...]"
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# A settings file is read alike by Docker, systemd and python-dotenv only without quotes.
PLAIN_PATH = re.compile(r"[^\s'\"#$\\]+")
FILES = "*.safetensors *.json *.jinja merges.txt"
TERMINAL_SECONDS, LINE_SECONDS = 0.5, 10.0


class Progress:
    """Prints how much of a model is there: one changing line at a terminal, else a line every ten seconds."""

    def __init__(self, name: str, total: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._total, self._out, self._clock = name, total, out, clock
        self._began = self._shown = clock()
        self._there = self._added = 0
        self._files = set[str]()
        self._pause = TERMINAL_SECONDS if out.isatty() else LINE_SECONDS

    def report(self, file: str, added: int) -> None:
        """Count bytes of a file; the first report of a file is what was there before."""
        self._there += added
        if file in self._files:
            self._added += added
        self._files.add(file)
        if (now := self._clock()) - self._shown >= self._pause:
            self._shown = now
            self._show(f"{self._line()}{self._rest(now)}")

    def end(self) -> None:
        """Print the last line."""
        self._show(self._line(), end="\n")

    def _line(self) -> str:
        return f"{self._name}: {in_units(self._there)} of {in_units(self._total)}"

    def _rest(self, now: float) -> str:
        speed = self._added / max(now - self._began, 1e-3)
        if speed < 1:
            return ""
        minutes, seconds = divmod(int((self._total - self._there) / speed), 60)
        return f", {speed / 1e6:.1f} MB/s, {minutes} min {seconds} s left"

    def _show(self, text: str, end: str = "") -> None:
        line = f"\r==> {text:<70}{end}" if self._out.isatty() else f"==> {text}\n"
        self._out.write(line)
        self._out.flush()


def main(arguments: list[str]) -> int:
    """Get the models; return the exit status."""
    options = _options(arguments)
    folder: Path = options.to.expanduser().absolute()
    if not PLAIN_PATH.fullmatch(str(folder)):
        return _fail(f"{folder}: choose a folder whose path has no blanks, quotes, #, $ or backslashes.")
    try:
        hub_token()
    except NoSecret as error:
        return _fail(str(error))
    wanted = dict(map(_wanted, options.models or MODELS))
    _describe(wanted)
    lines, failed = list[str](), False
    for name, repository in wanted.items():
        try:
            if _get(MODELS[name], repository, folder / name, options.dry_run):
                lines += [f"{setting}={folder / name}" for setting in MODELS[name].settings]
        except (HubError, StartError) as error:
            failed = bool(_fail(str(error)))
        except OSError as error:
            failed = bool(_fail(f"{error.filename or folder} cannot be used: {error.strerror}."))
    if options.settings and not options.dry_run:
        options.settings.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return int(failed)


def _get(model: PublishedModel, name: str, folder: Path, dry_run: bool) -> bool:
    """Return whether the folder can be served now. Raises HubError and StartError."""
    try:
        repository = list_repository(name)
    except Unreachable as error:
        return _without_network(model, name, folder, error)
    size, missing = sum(file.size for file in repository.files), missing_bytes(repository.files, folder)
    free = check_room(missing, folder)
    licence = f", licence {repository.licence}" if repository.licence else ""
    _say(f"{model.name}: {name} at {repository.commit[:12]}, {in_units(size)}{licence}.")
    _say(f"{model.name}: {in_units(missing)} to download to {folder}; {in_units(free)} are free there.")
    if dry_run:
        return False
    _download(model, repository, folder, size)
    _check(model, folder)
    _say(f"{model.name}: complete, its checksums are right, and the service can read it.")
    return True


def _download(model: PublishedModel, repository: Repository, folder: Path, size: int) -> None:
    progress = Progress(model.name, size, sys.stdout)
    try:
        download(repository, folder, progress.report)
    except Unreachable as error:
        raise HubError(
            f"The files of {repository.address} cannot be reached, which may be on another host than its page. Run "
            f"this again to continue, or name a mirror with HF_ENDPOINT. "
            f"{_what_to_copy(model, repository.name, folder)}"
        ) from error
    progress.end()


def _check(model: PublishedModel, folder: Path) -> None:
    """Check the folder as a start of the service does. Raises StartError."""
    from engine.loading.loader import check_files  # brings torch

    check_files(model_spec(model.name, ChosenCheckpoint(folder, folder), Settings(), "cpu"))


def _without_network(model: PublishedModel, name: str, folder: Path, error: Unreachable) -> bool:
    """Return True if the folder was filled by hand. Raises HubError with what to copy if it was not, or not wholly."""
    if not folder.is_dir():
        raise HubError(f"{error} {_what_to_copy(model, name, folder)}")
    try:
        _check(model, folder)
    except StartError as problem:
        raise HubError(f"{error} {problem} {_what_to_copy(model, name, folder)}") from problem
    _say(f"{model.name}: {error} The files in {folder} could not be compared with their checksums.")
    _say(f"{model.name}: the service can read them.")
    return True


def _what_to_copy(model: PublishedModel, name: str, folder: Path) -> str:
    includes = " ".join(f"--include '{pattern}'" for pattern in FILES.split())
    return (
        "Without a network:\n"
        f"  1. On a machine that has one: pip install huggingface_hub && hf download {name} {includes} "
        f"--local-dir {model.name}\n"
        f"     (or save these files from {page_of(name)}/tree/main: {FILES.replace(' ', ', ')})\n"
        f"  2. Copy the files in the folder {model.name} to {folder} on this machine.\n"
        "  3. Run this command again: it checks them and writes the settings."
    )


def _describe(wanted: dict[str, str]) -> None:
    """Print what the models take and where their licences stand."""
    models = [MODELS[name] for name in wanted]
    for model in models:
        _say(
            f"{model.name}: {page_of(wanted[model.name])}, about {model.disk_gb} GB on disk, from {model.gpu_gb} GB of "
            "GPU memory."
        )
    _say(f"A card with 24 GB ({CARDS_FOR_ONE}) holds one of the two;")
    _say(f"one with {BOTH_GPU_GB} GB or more ({CARDS_FOR_BOTH}) holds both.")
    _say("Read the licence on the page of each model before you use it.")


def _options(arguments: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./deploy.sh models", usage=USAGE)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--settings", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("models", nargs="*", metavar="MODEL[=OWNER/NAME]")
    options = parser.parse_args(list(arguments))
    for word in options.models:
        name, _, repository = word.partition("=")
        if name not in MODELS or (repository and not REPOSITORY.fullmatch(repository)):
            parser.error(f"'{word}': expected avibe or avision, or for instance avibe=OWNER/NAME.")
    return options


def _wanted(word: str) -> tuple[str, str]:
    """Return the model's name and the repository that a word of the command line asks for."""
    name, _, repository = word.partition("=")
    return name, repository or MODELS[name].repository


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)


def _fail(text: str) -> int:
    sys.stdout.flush()
    print(f"Error: {text}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(_fail("Stopped; what was downloaded is kept, and the next run continues from there.") + 129)
