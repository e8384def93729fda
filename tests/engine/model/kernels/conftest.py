"""The kernels of two levels: the best that this processor has, and the one that any other has as well."""

import ctypes
import os
import subprocess

import pytest

from engine.model.kernels.build import FLAGS, LEVELS, SOURCES, level_of
from engine.model.kernels.library import Kernels, load_kernels

LOWEST = [*LEVELS][-1]


@pytest.fixture(scope="session", params=dict.fromkeys([level_of() or LOWEST, LOWEST]))
def kernels(request, tmp_path_factory):
    """The kernels of a level; `make sanitize` adds CFLAGS, which the library beside the source was compiled without."""
    extra = os.environ.get("CFLAGS", "").split()
    if request.param == level_of() and not extra:
        loaded = load_kernels()
        assert loaded is not None
        return loaded
    file = tmp_path_factory.mktemp("level") / "kernels.so"
    command = ["cc", *FLAGS, *LEVELS[request.param][1], *extra, *map(str, SOURCES), "-o", str(file)]
    subprocess.run(command, check=True, timeout=600)
    return Kernels(ctypes.CDLL(str(file)))
