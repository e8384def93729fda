"""What an exception out of the model means: a bad request, too little memory, or a device that is lost."""

from __future__ import annotations

import sys

# What allocators and the libraries over them say; after such an error the device goes on.
_MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "_ALLOC_FAILED")


class Poisoned(Exception):
    """The device can no longer be used by this process; only a new process can help."""


class Inconsistent(Exception):
    """The engine's books are wrong: somebody holds what nobody uses."""


def _kind(name: str) -> type[BaseException] | tuple[()]:
    """Return a class of torch's errors; where torch was never imported, nothing can have raised one."""
    return getattr(sys.modules.get("torch"), name, ())


def is_memory(error: BaseException) -> bool:
    """Return whether there was too little memory."""
    if isinstance(error, MemoryError) or isinstance(error, _kind("OutOfMemoryError")):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def is_poison(error: BaseException) -> bool:
    """Return whether the device answers nothing any more: an error of CUDA is sticky, but for too little memory."""
    if isinstance(error, Poisoned):
        return True
    return not is_memory(error) and (isinstance(error, _kind("AcceleratorError")) or "CUDA error" in str(error))


def raise_if_poisoned(error: BaseException) -> None:
    """Raise Poisoned where only a new process can help."""
    if is_poison(error):
        raise Poisoned(str(error)) from error
