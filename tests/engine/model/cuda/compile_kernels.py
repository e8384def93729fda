"""Compiles kernels without a card, as their host functions launch them, and prints the resources that each takes.

Run as a program without TRITON_INTERPRET: `python -m tests.engine.model.cuda.compile_kernels MODULE:FUNCTION [90]`,
where the function launches kernels on CPU tensors; MODULE:FUNCTION:bfloat16 where it takes a dtype. The launches
compile for each architecture and run nothing. Prints one JSON object: by architecture, a list of {"kernel",
"registers", "spilled_bytes", "shared_bytes", "early_accesses"}; the last is how many accesses of global memory stand
before the wait for the kernels ahead, None without such a wait.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system_programs import unmeasured

ROOT = Path(__file__).parents[4]
ARCHITECTURES = (80, 89, 90)
# Of the kernels that compute in the precision of a model: each for all cards in one, and for one card in the other.
PRECISIONS = {"float16": ARCHITECTURES, "bfloat16": (90,)}
ALL_PRECISIONS = PRECISIONS | {"float32": (89,)}  # for a card with the least shared memory
WAIT = "griddepcontrol.wait", "ACQBULK"  # in PTX, and in SASS
ACCESS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/.*\b(LD|LDG|LDGSTS|ST|STG|ATOM|ATOMG|RED)\.")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


def compiled_by(function, cache, architectures=ARCHITECTURES):
    """Return, by architecture, the resources of the kernels that a function "module:name[:dtype]" launches.

    Runs in a process of its own, since this one may be interpreting. cache: where Triton keeps what it compiled.
    """
    environment = compiling() | {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.engine.model.cuda.compile_kernels", function, *map(str, architectures)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return {int(name): kernels for name, kernels in json.loads(done.stdout).items()}


def compiling():
    """Return the environment of a process in which Triton compiles, and of which no coverage is measured."""
    return {name: value for name, value in unmeasured().items() if name != "TRITON_INTERPRET"}


class CompilingDriver:
    """Stands where Triton expects the driver of a card of one architecture."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_device(self):
        """Return a number for each architecture, by which Triton caches what it compiled."""
        return self.architecture

    def get_current_stream(self, device):
        """Return the default stream."""
        return 0

    def get_current_target(self):
        """Return the architecture to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)


def main(function, architectures):
    """Compile what the function launches."""
    import torch
    import triton
    from triton.runtime.jit import JITFunction

    module, name, *dtype = function.split(":")
    launch, run, launched = getattr(importlib.import_module(module), name), JITFunction.run, []
    dtypes = [getattr(torch, one) for one in dtype]

    def compile_only(self, *arguments, grid, warmup, **options):
        launched.append((self.fn.__name__, run(self, *arguments, grid=grid, warmup=True, **options)))

    JITFunction.run = compile_only
    found = {}
    for architecture in architectures:
        triton.runtime.driver.set_active(CompilingDriver(architecture))
        launch(*dtypes)
        found[architecture] = [{"kernel": kernel, **resources(binary)} for kernel, binary in launched]
        launched.clear()
    print(json.dumps(found))


def resources(binary):
    """Return what `compiled_by` promises of a kernel."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        waits = WAIT[0] in binary.asm["ptx"]
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", *["-sass"] * waits, file.name]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    registers, stack, local = map(int, USAGE.search(listed).groups())
    ahead, found, _ = listed.partition(WAIT[1])
    assert bool(found) == waits
    return {
        "registers": registers,
        "spilled_bytes": stack + local,
        "shared_bytes": binary.metadata.shared,
        "early_accesses": sum(map(bool, map(ACCESS.match, ahead.splitlines()))) if waits else None,
    }


if __name__ == "__main__":
    main(sys.argv[1], [*map(int, sys.argv[2:])] or ARCHITECTURES)
