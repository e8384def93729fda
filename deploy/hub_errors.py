"""What can go wrong between Hugging Face and a folder, as sentences for the operator.

    HubError
    └── Unreachable              Hugging Face does not respond

`hub_error` makes them from what huggingface_hub raises.
"""

from __future__ import annotations

import errno
import os

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

UNREACHABLE = (httpx2.ConnectError, httpx2.TimeoutException, httpx2.ProxyError, OfflineModeIsEnabled)


class HubError(Exception):
    """A download that cannot go on; the message is a sentence for the operator."""


class Unreachable(HubError):
    """Hugging Face, or what HF_ENDPOINT names in its place, does not respond."""


def page_of(name: str) -> str:
    """Return the page of a repository such as `AvitoTech/avibe`."""
    return f"{constants.ENDPOINT}/{name}"


def unreachable(error: Exception) -> Unreachable:
    """Return that the hub does not respond, with the kind of the error."""
    return Unreachable(f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}).")


def hub_error(name: str, error: Exception) -> HubError:
    """Return what happened on the way to a repository, and what to do."""
    page, token = page_of(name), "HF_TOKEN=hf_... ./deploy.sh models (or HF_TOKEN_FILE=/a/file)"
    if isinstance(error, UNREACHABLE):
        return unreachable(error)
    if isinstance(error, httpx2.TransportError):
        return HubError(f"The transfer from {constants.ENDPOINT} broke off; run this again to continue.")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError) or status == 403:
        return HubError(
            f"{page} is open only to those who accepted its terms: accept them there, then run this again with a token "
            f"of your account: {token}"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        wrong = ", or the token that is set is not valid" if get_token() or os.environ.get("HF_TOKEN_FILE") else ""
        return HubError(f"{page} does not exist, or only some accounts may see it{wrong}. If yours may: {token}")
    if status == 404:
        return HubError(f"{page} lacks a file that its own listing names; try again later.")
    if status:
        return HubError(f"{constants.ENDPOINT} answered with status {status}; run this again later to continue.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError("The disk is full. Free some space and run this again; it continues where it stopped.")
    if isinstance(error, OSError) and error.errno:
        return HubError(f"{error.filename or 'A file'} cannot be written: {error.strerror}.")
    return HubError(f"{page} could not be read ({type(error).__name__}); run this again to continue.")
