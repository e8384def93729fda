"""The record of what kernels take: the greatest of their variants, of every kernel that the tests compile."""

import re
from pathlib import Path

from tests.engine.model.cuda.registers import LAUNCHING, greatest


def kernel(name, registers, spilled=0, shared=0):
    return {"kernel": name, "registers": registers, "spilled_bytes": spilled, "shared_bytes": shared}


def test_a_kernel_takes_what_its_greatest_variant_takes():
    """Of each figure by itself, on each architecture."""
    found = greatest({80: [kernel("a", 10, 4), kernel("a", 30), kernel("b", 5, 0, 7)], 90: [kernel("a", 12)]})
    assert found == {("a", 80): [2, 30, 4, 0], ("b", 80): [1, 5, 0, 7], ("a", 90): [1, 12, 0, 0]}


def test_every_function_that_tests_compile_is_recorded():
    """A new kernel is not forgotten."""
    named, compiled = set(), re.compile(r'compiled_by\(\s*f?"([\w.{}]+):(\w+)(?::{precision})?"')
    for path in Path(__file__).parent.glob("test_*.py"):
        for _, function in compiled.findall(path.read_text(encoding="utf-8")):
            named.add(f"{path.stem}:{function}")
    assert named == {":".join(name.split(":")[:2]) for name in LAUNCHING}  # without the precision
