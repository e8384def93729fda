"""Records what each kernel takes of a multiprocessor on three generations of cards, compiled without one.

Run as a program: `python -m tests.engine.model.cuda.registers`; it writes `benchmarks/results/registers.md`. Each row
is one kernel on one architecture, the greatest of all its variants that the tests compile at the real shapes.
"""

from __future__ import annotations

import tempfile

from benchmarks.harness import record
from tests.engine.model.cuda.compile_kernels import ARCHITECTURES, compiled_by

# The functions that launch the kernels, in test modules beside this one, and the architectures that have these kernels.
LAUNCHING = {
    "test_attention:launch_real_shapes:float16": ARCHITECTURES,
    "test_attention:launch_real_shapes:bfloat16": ARCHITECTURES,
    "test_ends:launch_all": ARCHITECTURES,
    "test_fp8:launch": (89, 90),
    "test_gemm:launch_every_tiles": (90,),
    "test_packed_gemm:launch_real_shapes:float16": ARCHITECTURES,
    "test_packed_gemm:launch_real_shapes:bfloat16": ARCHITECTURES,
    "test_rows:launch_real_shapes:float16": ARCHITECTURES,
    "test_rows:launch_real_shapes:bfloat16": ARCHITECTURES,
    "test_sampling:launch_real_shapes": ARCHITECTURES,
    "test_skinny:launch_real_shapes:float16": ARCHITECTURES,
    "test_skinny:launch_real_shapes:bfloat16": ARCHITECTURES,
}
FIGURES = ("registers", "spilled_bytes", "shared_bytes")
HEAD = ("kernel", "sm", "variants", "registers", "bytes spilled", "bytes of shared memory")


def greatest(compiled):
    """Return, by kernel and architecture, the number of variants and the greatest of each figure."""
    found = {}
    for architecture, kernels in compiled.items():
        for kernel in kernels:
            known = found.setdefault((kernel["kernel"], architecture), [0, 0, 0, 0])
            found[kernel["kernel"], architecture] = [
                known[0] + 1,
                *(max(before, kernel[figure]) for before, figure in zip(known[1:], FIGURES, strict=True)),
            ]
    return found


def main():
    """Compile every kernel and write the record."""
    facts, rows, kept = record.facts(["triton"]), [], {}
    with tempfile.TemporaryDirectory() as cache:
        for function, architectures in LAUNCHING.items():
            compiled = compiled_by(f"{__package__}.{function}", cache, architectures)
            kept[function] = compiled
            rows += [(name, str(sm), *map(str, own)) for (name, sm), own in sorted(greatest(compiled).items())]
    print(record.write("registers", facts, kept, "Kernels for CUDA, compiled", [record.table(HEAD, rows)]))


if __name__ == "__main__":
    main()
