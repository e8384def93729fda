"""Compiling the kernels: once for a processor, from the source that lies there, and never in the way of a start."""

import os
import platform
import stat

import pytest
import torch

from engine.model.kernels.build import FLAGS, HERE, LEVELS, SOURCES, compile_to, level_of, library_name, main
from engine.model.kernels.library import load_from

V3 = "flags\t\t: fpu avx2 fma bmi2 f16c movbe sse2\n"
V4 = V3[:-1] + " avx512f avx512bw avx512cd avx512dq avx512vl\n"


def program(path, script):
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "level"),
    [(V4, "x86-64-v4"), (V3, "x86-64-v3"), ("flags\t\t: fpu sse2\n", None), ("processor\t: 0\n", None)],
)
def test_the_level_is_the_best_that_the_processor_has(said, level, tmp_path):
    """By what the kernel says of it."""
    (tmp_path / "cpuinfo").write_text(said)
    assert level_of(tmp_path / "cpuinfo") == (level if platform.machine() == "x86_64" else None)


def test_a_machine_that_says_nothing_has_no_level(tmp_path):
    """Another system has no such file."""
    assert level_of(tmp_path / "missing") is None
    assert load_from(tmp_path, None) is None


@pytest.mark.parametrize("level", LEVELS)
def test_the_source_compiles_for_every_level_without_a_warning(level, tmp_path):
    """Also for one that this processor may not have."""
    strict = program(tmp_path / "strict", 'exec cc -Wall -Wextra -Werror "$@"')
    compile_to(tmp_path / "kernels.so", level, [strict])
    assert (tmp_path / "kernels.so").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_lesser_level_computes_the_same(tmp_path, kernels):
    """What a processor without the widest registers would run."""
    lesser = load_from(tmp_path, "x86-64-v3")
    assert lesser is not None
    x, weight, bias = torch.randn(29, 300), torch.randn(90, 300), torch.randn(90)
    torch.testing.assert_close(
        lesser.gemm(x, lesser.pack(weight, bias)),
        kernels.gemm(x, kernels.pack(weight, bias)),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(lesser.silu_and_mul(x), kernels.silu_and_mul(x), rtol=1e-5, atol=1e-6)
    q, layer, out = torch.randn(3, 4, 48), torch.randn(3, 2, 2, 30, 48), torch.empty(2, 3, 4 * 48)
    rotary = torch.polar(torch.ones(3, 1, 24), torch.randn(3, 1, 24))
    for each, library in zip(out, (lesser, kernels), strict=True):
        turned = q.clone()
        library.qk_norm_rope(turned, None, rotary, 0.0)
        library.attend(turned, layer, torch.tensor([2, 0, 1]), torch.tensor([1, 30, 17]), 30, each)
    torch.testing.assert_close(out[0], out[1], rtol=1e-4, atol=1e-4)


def test_what_is_compiled_is_kept_beside_the_source(tmp_path, kernels):
    """The second load needs no compiler; what an earlier source left is gone."""
    level = level_of()
    (tmp_path / f"kernels-{level}-0123456789ab.so").touch()
    assert load_from(tmp_path, level) is not None
    assert [path.name for path in tmp_path.iterdir()] == [library_name(level)]
    assert load_from(tmp_path, level, ["no-compiler-of-this-name"]) is not None


def test_the_name_changes_with_what_it_is_made_from():
    """One level's library is not another's."""
    assert len({library_name(level) for level in LEVELS}) == len(LEVELS)
    assert {*SOURCES} == {*HERE.glob("*.c")}
    assert "-ffast-math" not in FLAGS  # it would change how the whole process treats tiny numbers


def test_without_a_compiler_there_are_no_kernels(tmp_path, caplog):
    """The start goes on, and the log says what is missing."""
    assert load_from(tmp_path, "x86-64-v3", ["no-compiler-of-this-name"]) is None
    assert "no C compiler is installed (no-compiler-of-this-name)" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, caplog):
    """What it said is in the log."""
    failing = program(tmp_path / "failing", "echo no room on the disk >&2; exit 1")
    assert load_from(tmp_path, "x86-64-v3", [failing]) is None
    assert "no room on the disk" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["failing"]


def test_what_is_not_a_library_is_not_loaded(tmp_path, caplog):
    """A file that was cut short does not stop the start."""
    (tmp_path / library_name("x86-64-v3")).write_bytes(b"cut short")
    assert load_from(tmp_path, "x86-64-v3") is None
    assert "slower" in caplog.text


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path, kernels):
    """As in a release that belongs to another user: the library lives in a temporary folder."""
    folder = tmp_path / "release"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    loaded = load_from(folder, level_of(), writable=lambda path: False)
    folder.chmod(0o755)
    assert loaded is not None
    assert not os.listdir(folder)


# --- ahead: python -m engine.model.kernels.build ---


def copying(tmp_path):
    """A compiler that is quick: it writes down for which level it was asked and makes an empty library."""
    return program(
        tmp_path / "copying",
        f'echo "$*" | grep -o "march=[^ ]*" >>"{tmp_path}/asked"; for last; do :; done; : >"$last"',
    )


def test_the_levels_that_are_named_are_built_ahead(tmp_path, capsys):
    """For an image that runs elsewhere: each library is there, and its path is said."""
    folder = tmp_path / "built"
    folder.mkdir()
    assert main([*LEVELS], folder, [copying(tmp_path)]) is None
    libraries = [folder / library_name(level) for level in LEVELS]
    assert sorted(folder.iterdir()) == sorted(libraries)
    assert capsys.readouterr().out.splitlines() == [str(library) for library in libraries]
    assert (tmp_path / "asked").read_text().split() == [f"march={level}" for level in LEVELS]


def test_none_named_means_this_processor(tmp_path, kernels):
    """What an installation on the machine itself asks for."""
    folder = tmp_path / "built"
    folder.mkdir()
    assert main([], folder, [copying(tmp_path)]) is None
    assert os.listdir(folder) == [library_name(level_of())]


def test_what_is_there_is_not_built_again(tmp_path, capsys):
    """A second run needs no compiler."""
    there = tmp_path / library_name("x86-64-v3")
    there.touch()
    assert main(["x86-64-v3"], tmp_path, ["no-compiler-of-this-name"]) is None
    assert capsys.readouterr().out.strip() == str(there)


def test_an_unknown_level_is_refused_before_anything_is_built(tmp_path):
    """With the levels that there are."""
    said = main(["x86-64-v3", "x86-64-v9"], tmp_path)
    assert said == "There are kernels for x86-64-v4, x86-64-v3, and not for x86-64-v9."
    assert not list(tmp_path.iterdir())


def test_a_build_ahead_that_fails_says_why(tmp_path):
    """Whoever installs reads what the compiler said; nothing half made stays."""
    failing = program(tmp_path / "failing", "echo no room on the disk >&2; exit 1")
    assert (
        main(["x86-64-v3"], tmp_path, [failing])
        == f"The kernels cannot be built: {failing} failed: no room on the disk"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["failing"]
