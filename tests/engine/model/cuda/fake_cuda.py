"""Runs the flat step of the 8B on fake tensors of a CUDA device, without a card: the paths that only CUDA takes.

Needs the CUDA build of torch, which takes 4.6 GB with what it requires, so this is a command and no test: `make
fake-cuda`.
Exit status 1 if a step launches more than its budget, or if the host waits in it for anything but the tokens.

`python -m tests.engine.model.cuda.fake_cuda meta` runs the same program on `meta` tensors, with any build of torch; the
tests do, so that the replacements below stay those of what they replace.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"  # before the first import of Triton, which reads it

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from benchmarks.card import flat_steps
from benchmarks.cuda_step import weights_of
from engine.model.cuda import step as step_module
from engine.model.cuda.attention_plan import MULTIPROCESSORS
from engine.model.cuda.tuning import Tuning
from tests.engine.model.cuda.launches import launches_of
from tests.engine.model.cuda.variants import ask, kinds

ROWS, CHUNK = 64, 256
MOST = {ROWS: 370, ROWS + CHUNK: 400}


class NoStreams:
    """Streams belong to the driver."""

    def __init__(self, device):
        pass

    def mark(self):
        return lambda: None

    @contextlib.contextmanager
    def turn(self, urgent):
        yield


class NoEvent:
    """So do events."""

    def record(self):
        pass

    def synchronize(self):
        pass


class Pinned:
    """The host memory that was pinned, by its storage."""

    def __init__(self):
        self._storages = {}

    def add(self, tensor):
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def __contains__(self, tensor):
        return tensor.untyped_storage()._cdata in self._storages


def without_driver():
    """Replace what only a driver has: streams, events, pinned memory, and the number of multiprocessors.

    Returns the pinned memory.
    """
    assert all(name in vars(NoStreams) for name in vars(step_module.Streams) if not name.startswith("_"))
    step_module.Streams = NoStreams
    torch.cuda.Event = NoEvent
    pinned = Pinned()
    torch.Tensor.pin_memory = lambda tensor: pinned.add(tensor.clone())
    zeros = torch.zeros

    def zeros_there(*size, pin_memory=False, **options):
        made = zeros(*size, **options)
        return pinned.add(made) if pin_memory else made

    torch.zeros = zeros_there
    # The host's tensors are fake too; what it writes into them goes nowhere.
    FakeTensor.numpy = lambda tensor: np.zeros(tensor.shape, np.int32)
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=MULTIPROCESSORS)
    step_module.tuning_for = lambda device: Tuning()
    return pinned


def blocking_of_kinds(steps, is_pinned):
    """Return what the host waits for in steps whose rows have grammars, penalties, log probabilities and so on."""
    found = []
    for sampling in kinds():
        for row in steps._rows:
            ask(row, sampling)
        for new in (False, True):
            found += launches_of(steps, ROWS + CHUNK, new, is_pinned).blocking
    return found


def main(device="cuda"):
    """Count both steps and print them."""
    pinned, failed = without_driver(), False
    is_pinned = pinned.__contains__ if device == "cuda" else lambda tensor: True
    with FakeTensorMode(allow_non_fake_inputs=True) if device == "cuda" else contextlib.nullcontext():
        for shape in ("8b", "7b"):
            steps = flat_steps.Steps(weights_of(shape, device, torch.float16), ROWS + 1, 512, top_p=1.0)
            for tokens, most in MOST.items():
                launches = launches_of(steps, tokens, pinned=is_pinned)
                print(f"{shape}, {tokens} tokens: {launches.total} operations, {launches.gemms} GEMMs, "
                      f"{launches.copies} copies, blocking: {launches.blocking or 'none'}")  # fmt: skip
                failed |= launches.total > most or bool(launches.blocking)
            blocking = blocking_of_kinds(steps, is_pinned)
            print(f"{shape}, rows of every kind, known and new, blocking: {blocking or 'none'}")
            failed |= bool(blocking)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
