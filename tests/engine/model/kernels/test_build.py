"""Compiling the kernels: once per processor level and source, and a failure never stops the start."""

import os
import platform
import stat
import subprocess
from pathlib import Path

import pytest
import torch

from engine.model.kernels.build import (
    FLAGS,
    HEADERS,
    HERE,
    LEVELS,
    SOURCES,
    compile_to,
    level_of,
    library_name,
    main,
    obtainable,
)
from engine.model.kernels.library import load_from, load_kernels
from engine.model.kernels.packed import Arena

V3 = "flags\t\t: fpu avx2 fma bmi2 f16c movbe sse2\n"
V4 = V3[:-1] + " avx512f avx512bw avx512cd avx512dq avx512vl\n"
VNNI, BF16 = V4[:-1] + " avx512_vnni\n", V4[:-1] + " avx512_vnni avx512_bf16\n"


def program(path, script):
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("cpu_info", "level"),
    [
        (BF16, "x86-64-v4+bf16"),
        (VNNI, "x86-64-v4+vnni"),
        (V4, "x86-64-v4"),
        (V3, "x86-64-v3"),
        ("flags\t\t: fpu sse2\n", None),
        ("processor\t: 0\n", None),
    ],
)
def test_the_level_is_the_best_that_the_processor_supports(cpu_info, level, tmp_path):
    """By the flags in /proc/cpuinfo."""
    (tmp_path / "cpuinfo").write_text(cpu_info)
    assert level_of(tmp_path / "cpuinfo") == (level if platform.machine() == "x86_64" else None)


def test_a_machine_without_cpuinfo_has_no_level(tmp_path):
    """Other systems have no such file."""
    assert level_of(tmp_path / "missing") is None
    assert load_from(tmp_path, None) is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.needs("cc")
def test_the_source_compiles_for_every_level_without_a_warning(level, tmp_path):
    """Including levels that this processor may not support."""
    strict = program(tmp_path / "strict", 'exec cc -Wall -Wextra -Werror "$@"')
    compile_to(tmp_path / "kernels.so", level, [strict])
    assert (tmp_path / "kernels.so").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.needs("cc")
def test_the_lower_level_computes_the_same(tmp_path):
    """It is what a processor without AVX-512 runs."""
    lower, kernels = load_from(tmp_path, "x86-64-v3"), load_kernels()
    assert lower is not None
    assert kernels is not None
    x, weight, bias = torch.randn(29, 300), torch.randn(90, 300), torch.randn(90)
    torch.testing.assert_close(
        lower.gemm(x, lower.pack(weight, bias, Arena())),
        kernels.gemm(x, kernels.pack(weight, bias, Arena())),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(lower.silu_and_mul(x), kernels.silu_and_mul(x), rtol=1e-5, atol=1e-6)
    q, layer, out = torch.randn(3, 4, 48), torch.randn(7, 2, 2, 16, 48), torch.empty(2, 3, 4 * 48)
    tables = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int32)
    rotary = torch.polar(torch.ones(3, 1, 24), torch.randn(3, 1, 24))
    for each, library in zip(out, (lower, kernels), strict=True):
        rotated = q.clone()
        library.qk_norm_rope(rotated, None, rotary, 0.0)
        library.attend(rotated, layer, tables, torch.tensor([2, 0, 1]), torch.tensor([1, 30, 17]), 30, each)
    torch.testing.assert_close(out[0], out[1], rtol=1e-4, atol=1e-4)


@pytest.mark.needs("cc")
def test_the_library_is_kept_beside_the_source(tmp_path):
    """The second load needs no compiler; the library of an earlier source is deleted."""
    level = level_of()
    (tmp_path / f"kernels-{level}-0123456789ab.so").touch()
    assert load_from(tmp_path, level) is not None
    assert [path.name for path in tmp_path.iterdir()] == [library_name(level)]
    assert load_from(tmp_path, level, ["no-compiler-of-this-name"]) is not None


@pytest.mark.parametrize(
    ("level", "compiled", "compilers", "expected"),
    [
        ("x86-64-v3", False, ["sh"], True),
        ("x86-64-v3", False, ["no-compiler-of-this-name"], False),
        ("x86-64-v3", True, ["no-compiler-of-this-name"], True),
        (None, True, ["sh"], False),
    ],
)
def test_whether_there_are_kernels_is_known_without_compiling(tmp_path, level, compiled, compilers, expected):
    """A library, or what would make one, for a processor that is supported."""
    if compiled:
        (tmp_path / library_name("x86-64-v3")).touch()
    before = os.listdir(tmp_path)
    assert obtainable(level, tmp_path, compilers) is expected
    assert os.listdir(tmp_path) == before


def test_each_level_has_its_own_library_name():
    """The library of one level is never loaded for another."""
    assert len({library_name(level) for level in LEVELS}) == len(LEVELS)
    assert {*SOURCES} == {*HERE.glob("*.c")}
    assert {*HEADERS} == {*HERE.glob("*.h")}
    assert "-ffast-math" not in FLAGS  # it would change the handling of subnormal numbers in the whole process


def test_without_a_compiler_there_are_no_kernels(tmp_path, caplog):
    """The start continues, and the log says what is missing."""
    assert load_from(tmp_path, "x86-64-v3", ["no-compiler-of-this-name"]) is None
    assert "no C compiler is installed (no-compiler-of-this-name)" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, caplog):
    """Its message is in the log."""
    failing = program(tmp_path / "failing", "echo no room on the disk >&2; exit 1")
    assert load_from(tmp_path, "x86-64-v3", [failing]) is None
    assert "no room on the disk" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["failing"]


@pytest.mark.needs("git")
def test_what_a_killed_compiler_leaves_is_not_committed(tmp_path):
    """A compiler sees where it writes: git ignores that beside the sources, as it ignores the library."""
    told = tmp_path / "told"
    failing = program(tmp_path / "failing", f'echo "$@" >{told}; exit 1')
    assert load_from(tmp_path, "x86-64-v3", [failing]) is None
    unfinished = Path(told.read_text().split()[-1]).relative_to(tmp_path)
    ignored = subprocess.run(["git", "check-ignore", "-q", unfinished], cwd=HERE, timeout=60, check=False)
    assert ignored.returncode == 0


def test_a_truncated_library_is_not_loaded(tmp_path, caplog):
    """A file that was cut short does not stop the start."""
    (tmp_path / library_name("x86-64-v3")).write_bytes(b"cut short")
    assert load_from(tmp_path, "x86-64-v3") is None
    assert "slower" in caplog.text


@pytest.mark.needs("cc")
def test_a_read_only_folder_is_left_unchanged(tmp_path):
    """As in a release owned by another user: the library is compiled in a temporary folder."""
    folder = tmp_path / "release"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    loaded = load_from(folder, level_of(), writable=lambda path: False)
    folder.chmod(0o755)
    assert loaded is not None
    assert not os.listdir(folder)


# --- before the first start: python -m engine.model.kernels.build ---


def copying(tmp_path):
    """Return a stand-in compiler: it records the level and writes an empty library."""
    return program(
        tmp_path / "copying",
        f'echo "$*" | grep -o "march=[^ ]*" >>"{tmp_path}/asked"; for last; do :; done; : >"$last"',
    )


def test_the_named_levels_are_built(tmp_path, capsys):
    """For an image that runs on other machines: each library exists, and its path is printed."""
    folder = tmp_path / "built"
    folder.mkdir()
    assert main([*LEVELS], folder, [copying(tmp_path)]) is None
    libraries = [folder / library_name(level) for level in LEVELS]
    assert sorted(folder.iterdir()) == sorted(libraries)
    assert capsys.readouterr().out.splitlines() == [str(library) for library in libraries]
    assert (tmp_path / "asked").read_text().split() == [LEVELS[level][1][0].removeprefix("-") for level in LEVELS]


@pytest.mark.needs("cc")
def test_without_a_name_the_level_of_this_processor_is_built(tmp_path):
    """As an installation on the machine itself does."""
    folder = tmp_path / "built"
    folder.mkdir()
    assert main([], folder, [copying(tmp_path)]) is None
    assert os.listdir(folder) == [library_name(level_of())]


def test_an_existing_library_is_not_built_again(tmp_path, capsys):
    """A second run needs no compiler."""
    there = tmp_path / library_name("x86-64-v3")
    there.touch()
    assert main(["x86-64-v3"], tmp_path, ["no-compiler-of-this-name"]) is None
    assert capsys.readouterr().out.strip() == str(there)


def test_an_unknown_level_is_rejected_before_anything_is_built(tmp_path):
    """The message names the supported levels."""
    message = main(["x86-64-v3", "x86-64-v9"], tmp_path)
    assert message == f"Kernels exist for {', '.join(LEVELS)} only, not for x86-64-v9."
    assert not list(tmp_path.iterdir())


def test_a_failed_build_says_why(tmp_path):
    """The message contains that of the compiler, and no partial library is left behind."""
    failing = program(tmp_path / "failing", "echo no room on the disk >&2; exit 1")
    assert (
        main(["x86-64-v3"], tmp_path, [failing])
        == f"The kernels cannot be built: {failing} failed: no room on the disk"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["failing"]
