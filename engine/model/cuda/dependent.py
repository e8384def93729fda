"""Programmatic dependent launch: a kernel starts while the one ahead of it ends, on compute capability 9.0 and above.

A kernel launched with `launch_options(True)` calls `wait_for_kernels_ahead` in every program, before it reads or writes
what any kernel may write. The kernel ahead has ended then, and since that one waited too, so have all before it. The
kernel behind may start as soon as every program of this one has. `launch_pdl` of Triton sets
CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, which a CUDA graph captures as an edge between the two kernels.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def launch_options(wanted: bool) -> dict[str, Any]:
    """Return the arguments of a launch, where a device has dependent launches and they are wanted."""
    if wanted and not triton.knobs.runtime.interpret:
        if triton.runtime.driver.active.get_current_target().arch >= 90:
            return {"DEPENDENT": True, "launch_pdl": True}
    return {"DEPENDENT": False}


@triton.jit
def wait_for_kernels_ahead(DEPENDENT: tl.constexpr):
    """Let the kernel behind start, and wait until those ahead have ended."""
    if DEPENDENT:
        gdc_launch_dependents()
        gdc_wait()
