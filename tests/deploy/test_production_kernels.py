"""`deploy.sh production` brings what compiles the kernels, compiles those for the CPU, and does not fail without."""

from __future__ import annotations

import sys

import pytest

from tests.deploy.production_box import ProductionBox

pytestmark = [pytest.mark.slow, pytest.mark.linux]

DEMO = ("VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo")
GPU = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa)'"
HEADERS = f"python3.{sys.version_info.minor}-dev"
FAILING_APT = 'case "$*" in *gcc*) echo "E: no such package"; exit 100 ;; esac'


def give_compiler(box: ProductionBox) -> None:
    """Install what Debian's gcc and libc6-dev contain."""
    box.tool("gcc", "exit 0")
    headers = box.system / "usr/include"
    headers.mkdir(parents=True)
    (headers / "stdio.h").touch()


def test_a_compiler_is_installed_for_the_processor(bare: ProductionBox) -> None:
    """The compiler and the headers, without what they recommend; the release is compiled in its own folder."""
    done = bare.production()
    assert done.returncode == 0, done.stderr
    assert bare.asked("install --yes --no-install-recommends gcc libc6-dev") == 1
    assert bare.asked(f"kernels in {bare.prefix}/releases/{bare.current}") == 1


def test_a_compiler_that_is_there_is_taken(bare: ProductionBox) -> None:
    """Nothing else is installed."""
    give_compiler(bare)
    assert bare.production().returncode == 0
    assert bare.asked("gcc") == bare.asked("libc6-dev") == 0
    assert bare.asked("kernels in") == 1


def test_a_gpu_gets_a_compiler_and_the_headers_of_its_python(bare: ProductionBox) -> None:
    """Its kernels are compiled by the start on that GPU, those for the CPU not at all."""
    bare.tool("nvidia-smi", GPU)
    done = bare.run("production", *DEMO)
    assert done.returncode == 0, done.stderr
    assert bare.asked(f"install --yes --no-install-recommends gcc libc6-dev {HEADERS}") == 1
    assert bare.asked("kernels in") == 0


def test_headers_that_are_there_are_taken(bare: ProductionBox) -> None:
    """A Python of one's own usually has them."""
    bare.tool("nvidia-smi", GPU)
    bare.say("python-headers")
    give_compiler(bare)
    assert bare.run("production", *DEMO).returncode == 0
    assert bare.asked("gcc") == bare.asked("-dev") == 0


def test_another_kind_of_processor_gets_no_compiler(bare: ProductionBox) -> None:
    """There are no kernels for it."""
    bare.tool("uname", 'case "$*" in -m) echo aarch64 ;; *) echo Linux ;; esac')
    assert bare.production().returncode == 0
    assert bare.asked("gcc") == 0


def test_apt_without_a_compiler_does_not_stop_the_run(bare: ProductionBox) -> None:
    """A warning is printed, and the service runs without the kernels."""
    bare.tool("apt-get", FAILING_APT)
    done = bare.production()
    assert done.returncode == 0
    assert "E: no such package" in done.stdout
    assert "Warning: apt could not install gcc libc6-dev" in done.stderr
    assert bare.serving == bare.current


def test_kernels_that_cannot_be_built_do_not_stop_the_run(box: ProductionBox) -> None:
    """One line describes the effect, and the release serves."""
    box.change()
    box.say("kernels-fail")
    done = box.run("production")
    assert done.returncode == 0
    assert "Warning: The models run without the kernels, which is slower" in done.stderr
    assert box.serving == box.current


def test_a_release_that_lacks_its_kernels_gets_them_with_the_next_run(box: ProductionBox) -> None:
    """For example if the compiler was installed later, or the service moved from a GPU to the CPU."""
    assert box.run("production").returncode == 0
    assert box.asked("kernels in") == 1
    assert len(box.releases) == 1


def test_a_library_of_the_checkout_stays_there(box: ProductionBox) -> None:
    """Locally compiled libraries, and what a killed compiler left, are not part of a release nor change its hash."""
    folder = box.root / "engine/model/kernels"
    (folder / ".building-a1b2").mkdir(parents=True)
    for name in ("kernels-x86-64-v3-0123456789ab.so", ".building-a1b2/layers.o"):
        (folder / name).touch()
    assert "nothing is restarted" in box.run("production").stdout
    box.change()
    assert box.run("production").returncode == 0
    release = box.prefix / "releases" / box.current
    assert not [*release.rglob("*.so"), *release.rglob(".building-*")]


@pytest.mark.parametrize(("device", "packages"), [("cpu", "gcc libc6-dev"), ("auto", f"gcc libc6-dev {HEADERS}")])
def test_the_plan_says_what_is_compiled(bare: ProductionBox, device: str, packages: str) -> None:
    """And the packages for that; for a GPU nothing is compiled before the start."""
    bare.tool("nvidia-smi", GPU)
    plan = bare.run("production", "--dry-run", f"DEVICE={device}", *DEMO).stdout
    assert ("compile its kernels" in plan) is (device == "cpu")
    assert f"would install the compiler for the kernels: {packages} \n" in plan
