"""Secrets that programs of this folder take from the environment: NAME, or the file that NAME_FILE names.

As the settings of the service have them. Standard library only, since a pipeline runs some of the programs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class NoSecret(Exception):
    """The file of a secret cannot be used; the message is a sentence for the operator."""


def read_secret(name: str, environ: Mapping[str, str]) -> str:
    """Return a secret without the blanks around it, "" if neither variable is set. Raises NoSecret."""
    if text := environ.get(name, "").strip():
        return text
    pointer = f"{name}_FILE"
    path = environ.get(pointer, "").strip()
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise NoSecret(f"{pointer}={path} cannot be read: {reason}.") from error
    if not text:
        raise NoSecret(f"{pointer}={path} is empty.")
    return text
