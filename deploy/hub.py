"""Downloads the files of a checkpoint from Hugging Face into a plain folder: continued where it stopped, verified.

huggingface_hub's own download of a repository starts an interrupted file again in the next run and compares sizes only.
Here its transfers are called one by one, into partial files that outlive a run, and every file is compared with the
checksum in the repository's listing: the SHA-256 of large files, git's object id of the others.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.logging import set_verbosity

from deploy.hub_errors import HubError, hub_error, page_of, unreachable
from deploy.secret_file import read_secret

# Weights, and what says how they are used; nothing in a subfolder, and nothing that can hold code.
WANTED = re.compile(r"[^/\\]+\.(safetensors|json|jinja)|merges\.txt|vocab\.txt")
PICKLES = re.compile(r"[^/\\]+\.(bin|pt|pth|ckpt)")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SPARE_BYTES = 200_000_000  # left free on the disk
CHUNK = 2**22
BEYOND_THE_END = 416  # the status of a request for the rest of a file that is shorter

# What is called with the name of a file and the bytes that were added to it; less than 0 if some were given up.
Report = Callable[[str, int], None]

set_verbosity(logging.ERROR)  # every failure becomes a sentence of ours


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. sha256: of its content, None for a small file, whose git object id is `blob_id`."""

    name: str
    size: int
    blob_id: str
    sha256: str | None

    @property
    def digest(self) -> str:
        """The checksum, in hexadecimal."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True, slots=True)
class Repository:
    """The files at one commit. licence: as the repository states it."""

    name: str
    commit: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def address(self) -> str:
        """Return the page of the repository."""
        return page_of(self.name)


def hub_token() -> str | None:
    """Return the token of HF_TOKEN or HF_TOKEN_FILE; None leaves it to what `hf auth login` kept. Raises NoSecret."""
    return read_secret("HF_TOKEN", os.environ) or None


def list_repository(name: str) -> Repository:
    """Return what a repository holds that the service reads. Raises HubError and NoSecret."""
    token = hub_token()
    try:
        info = HfApi(token=token).model_info(name, files_metadata=True)
    except httpx2.TransportError as error:  # also for an address that is none
        raise unreachable(error) from error
    except Exception as error:
        raise hub_error(name, error) from error
    names = [sibling.rfilename for sibling in info.siblings or []]
    files = tuple(_remote(sibling) for sibling in info.siblings or [] if WANTED.fullmatch(sibling.rfilename))
    _check_listing(name, names)
    card: Any = info.card_data
    return Repository(name, str(info.sha), str(card.get("license") or "") if card else "", files)


def in_units(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def missing_bytes(files: Iterable[RemoteFile], folder: Path) -> int:
    """Return how many bytes of the files are not in the folder yet."""
    return sum(max(0, file.size - _present(folder, file)) for file in files)


def check_room(needed: int, folder: Path) -> int:
    """Return the free bytes where the folder is or will be. Raises HubError if they are too few."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed and needed + SPARE_BYTES > free:
        raise HubError(
            f"Not enough disk space in {there}: {in_units(needed)} are to be downloaded, and {in_units(free)} "
            "are free. Free some, or name a folder on a larger disk with --to."
        )
    return free


def download(repository: Repository, folder: Path, report: Report) -> None:
    """Bring every file into the folder: small ones first, then the shards that they name. Raises HubError."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = [file for file in repository.files if file.name.endswith(".safetensors")]
    with _alone(folder):
        for file in repository.files:
            if file not in weights:
                _bring(repository, file, folder, report)
        for file in wanted_weights(repository, folder, weights):
            _bring(repository, file, folder, report)


def wanted_weights(repository: Repository, folder: Path, weights: list[RemoteFile]) -> list[RemoteFile]:
    """Return the shards that the downloaded index names, else the single file. Raises HubError if one is not there."""
    names = {SINGLE}
    if any(file.name == INDEX for file in repository.files):
        try:
            names = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HubError(f"{repository.address}: {INDEX} is broken.") from error
    if lacking := sorted(names - {file.name for file in weights}):
        raise HubError(f"{repository.address} is incomplete: it lacks {lacking[0]}.")
    return [file for file in weights if file.name in names]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process download into the folder meanwhile. Raises HubError if one does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise HubError(f"Another download into {folder} is running.") from error
    finally:
        os.close(handle)


class _Bar:
    """What `http_get` takes for a progress bar of tqdm."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def __call__(self, **_: Any) -> _Bar:
        return self

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def update(self, added: int) -> None:
        self._report(added)


def _remote(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    if sibling.size is None or not (sha256 or sibling.blob_id):
        raise HubError(
            f"{constants.ENDPOINT} (HF_ENDPOINT) names no sizes and checksums, so nothing could be verified."
        )
    return RemoteFile(sibling.rfilename, int(sibling.size), str(sibling.blob_id or ""), sha256)


def _check_listing(name: str, names: list[str]) -> None:
    """Raise HubError for a repository from which nothing could be loaded."""
    page = page_of(name)
    if not any(file.endswith(".safetensors") and WANTED.fullmatch(file) for file in names):
        if pickles := sorted(file for file in names if PICKLES.fullmatch(file)):
            raise HubError(
                f"{page} holds its weights as {pickles[0]}, a pickle, which is never loaded: take a repository with "
                "safetensors."
            )
        raise HubError(f"{page} holds no weights as safetensors.")
    if "config.json" not in names:
        raise HubError(f"{page} holds no model: config.json is missing.")


def _present(folder: Path, file: RemoteFile) -> int:
    """Return how much of a file is there, complete or partial."""
    paths = (folder / file.name, _partial(folder, file))
    return next((path.stat().st_size for path in paths if path.is_file()), 0)


def _partial(folder: Path, file: RemoteFile) -> Path:
    """Return the path of a partial file, which belongs to one content, so that no other is ever appended to it."""
    return folder / f".{file.name}.{file.digest[:16]}.part"


def _bring(repository: Repository, file: RemoteFile, folder: Path, report: Report) -> None:
    """Have the file complete and verified in the folder. Raises HubError."""
    target, partial = folder / file.name, _partial(folder, file)
    try:
        if target.is_file() and target.stat().st_size == file.size and _digest(target, file) == file.digest:
            return report(file.name, file.size)
        _transfer(repository, file, partial, report)
        if _digest(partial, file) != file.digest:
            partial.unlink()
            raise HubError(
                f"{file.name} of {repository.address} arrived damaged: its checksum is wrong. It was deleted; run this "
                "again to download it once more."
            )
        partial.replace(target)
    except HubError:
        raise
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == BEYOND_THE_END:
            partial.unlink(missing_ok=True)
        raise hub_error(repository.name, error) from error


def _transfer(repository: Repository, file: RemoteFile, partial: Path, report: Report) -> None:
    """Append to the partial file what is missing. Raises what huggingface_hub raises."""
    present = partial.stat().st_size if partial.is_file() else 0
    if present > file.size:
        present = 0
        partial.unlink()
    report(file.name, present)
    bar: Any = _Bar(lambda added: report(file.name, added))  # http_get only calls it
    with partial.open("ab") as out:
        http_get(
            hf_hub_url(repository.name, file.name, revision=repository.commit),
            out,
            resume_size=present,
            headers=build_hf_headers(token=hub_token()),
            expected_size=file.size,
            tqdm_class=bar,
        )


def _digest(path: Path, file: RemoteFile) -> str:
    """Return the checksum of a local file, of the kind that the listing has for it."""
    if file.sha256:
        sums = hashlib.sha256()
    else:  # git's object id
        sums = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            sums.update(chunk)
    return sums.hexdigest()
