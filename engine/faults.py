"""What an exception from the model means: a bad request, too little memory, or a lost device."""

from __future__ import annotations

import sys

# What allocators and libraries say when memory runs out; the device works on after such an error.
_MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "_ALLOC_FAILED")


# How torch and Triton's launcher begin to tell of an error of the device.
_DEVICE_SIGNS = ("CUDA error", "Triton Error [CUDA]")


class Poisoned(Exception):
    """This process can no longer use the device; only a new process can."""


class Inconsistent(Exception):
    """The engine's accounting is wrong: a slot, a block or a request in flight has no owner."""


def _kind(name: str) -> type[BaseException] | tuple[()]:
    """Return one of torch's error classes, () while torch is not imported: nothing can have raised one then."""
    return getattr(sys.modules.get("torch"), name, ())


def is_memory(error: BaseException) -> bool:
    """Return whether memory ran out."""
    if isinstance(error, MemoryError) or isinstance(error, _kind("OutOfMemoryError")):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def is_poison(error: BaseException) -> bool:
    """Return whether the device is lost: CUDA errors are sticky, except for running out of memory."""
    if isinstance(error, Poisoned):
        return True
    told = isinstance(error, _kind("AcceleratorError")) or any(sign in str(error) for sign in _DEVICE_SIGNS)
    return told and not is_memory(error)


def raise_if_poisoned(error: BaseException) -> None:
    """Raise Poisoned if the device is lost."""
    if is_poison(error):
        raise Poisoned(str(error)) from error
