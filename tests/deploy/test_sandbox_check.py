"""The check in the unit's sandbox reports unreadable folders and unusable GPUs, with a remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config import Settings, load_settings
from deploy import sandbox_check
from engine.loading.device import InstalledGpus, TorchSupport

ROOT = Path(__file__).parents[2]
ONE_GPU = InstalledGpus(("0: NVIDIA H200",), "580.1")


def settings(**values: str) -> Settings:
    return load_settings({"ENVIRONMENT": "production", **values}, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models/part").mkdir(parents=True)
    (tmp_path / "models/config.json").write_text("{}")
    (tmp_path / "models/part/weights").write_text("w")
    return tmp_path / "models"


def of_folder(folder: Path) -> Settings:
    return settings(VIBE_MODEL_DIR="demo", VISION_MODEL_DIR=str(folder))


def test_demos_are_not_looked_for() -> None:
    """Demo models are part of the release."""
    assert sandbox_check.model_folders(settings(VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo")) == {}


def test_every_folder_that_is_set_is_read(folder: Path) -> None:
    """Avibe's, its tokenizer's and Avision's."""
    named = settings(VIBE_MODEL_DIR=str(folder), VIBE_TOKENIZER_DIR=str(folder), VISION_MODEL_DIR=str(folder))
    lines = list(sandbox_check.check_folders(named, "avito-ai"))
    assert [line.split("=")[0] for line in lines] == ["VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR", "VISION_MODEL_DIR"]
    assert all(line.endswith("can be read.") for line in lines)


def test_a_folder_that_is_missing_is_named(folder: Path) -> None:
    """The message mentions the demo."""
    (line,) = sandbox_check.check_folders(of_folder(folder / "gone"), "avito-ai")
    assert line.startswith(f"Error: VISION_MODEL_DIR={folder}/gone: the user avito-ai cannot read")


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    """Hugging Face's caches are links; a dangling one is found before the switch."""
    (folder / "part/model").symlink_to(folder / "blob")
    found = sandbox_check.unreadable(folder)
    assert found is not None
    assert found[0] == folder / "part/model"


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/srv/m/weights", "chmod -R a+rX /srv/m"),
        ("/srv/m", "chmod -R a+rX /srv/m"),
        ("/srv", "chmod a+x /srv"),
    ],
)
def test_the_remedy_fits_what_is_closed(path: str, remedy: str) -> None:
    """A file in the folder, the folder itself, or a parent, which needs only access."""
    error = PermissionError(13, "Permission denied")
    sentence = sandbox_check.describe_unreadable("VIBE_MODEL_DIR", Path("/srv/m"), Path(path), error, "avito-ai")
    assert sentence.startswith(f"VIBE_MODEL_DIR=/srv/m: the user avito-ai cannot read {path}: Permission denied.")
    assert sentence.endswith(remedy)


def test_a_folder_that_the_sandbox_hides_must_move() -> None:
    """chmod cannot lift the unit's own limits."""
    error = FileNotFoundError(2, "No such file or directory")
    folder = Path("/tmp/models")
    sentence = sandbox_check.describe_unreadable("VIBE_MODEL_DIR", folder, folder, error, "avito-ai")
    assert "PrivateTmp hides /tmp" in sentence
    assert "move the folder" in sentence


def test_the_processor_is_no_trouble() -> None:
    """If it is set explicitly."""
    assert "CPU" in sandbox_check.check_gpu(settings(DEVICE="cpu"), None)


def compiles(gpu: str) -> None:
    """Stand for a kernel that was compiled."""


def gpu_line(
    installed: InstalledGpus, gpus: int, use: Callable[[str], str], compile_kernel: Callable[[str], None] = compiles
) -> str:
    support = TorchSupport(gpus, "13.0")
    return sandbox_check.check_gpu(settings(), None, lambda: installed, lambda: support, use, compile_kernel)


def test_the_gpu_is_used_once() -> None:
    """The GPU must compute, not only be visible."""
    line = gpu_line(ONE_GPU, 1, lambda gpu: "NVIDIA H200")
    assert line == "The models run on NVIDIA H200; CUDA works and its kernels can be compiled."


def test_kernels_that_cannot_be_compiled_are_no_error() -> None:
    """The service starts without them; the line says the effect and the reason."""

    def fail(gpu: str) -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    assert gpu_line(ONE_GPU, 1, lambda gpu: "NVIDIA H200", fail) == (
        "The models run on NVIDIA H200; CUDA works, but its kernels cannot be compiled, so the models run slower: "
        "Failed to find C compiler."
    )


def test_every_gpu_of_a_model_is_used() -> None:
    """Each must compute; a model on the CPU is told of as well."""
    two = InstalledGpus(("0: NVIDIA H200", "1: NVIDIA L4"), "580.1")
    names = {"cuda:0": "NVIDIA H200", "cuda:1": "NVIDIA L4"}

    def line(**devices: str) -> str:
        chosen = settings(**devices)
        support = TorchSupport(2, "13.0")
        return sandbox_check.check_gpu(chosen, None, lambda: two, lambda: support, names.__getitem__, compiled.append)

    compiled: list[str] = []
    assert line(VISION_DEVICE="cuda:1").startswith("The models run on NVIDIA H200 and NVIDIA L4; CUDA works and")
    assert compiled == ["cuda:0", "cuda:1"]
    both = line(VIBE_DEVICE="cuda:1", VISION_DEVICE="cpu")
    assert both.startswith("The models run on NVIDIA L4 and the CPU; CUDA works and")
    assert line(VISION_DEVICE="cuda:2").startswith("Error: VISION_DEVICE=cuda:2, but CUDA shows 2 GPUs")


def test_a_gpu_that_torch_cannot_see_is_an_error() -> None:
    """The message has the engine's reason, and a hint about the sandbox."""
    line = gpu_line(ONE_GPU, 0, lambda gpu: "")
    assert line.startswith("Error: torch can use no GPU")
    assert "DeviceAllow" in line


def test_a_gpu_that_cannot_compute_is_an_error() -> None:
    """The message has the first line of CUDA's error."""

    def fail(gpu: str) -> str:
        raise RuntimeError("CUDA error: out of memory\nmore\nmore")

    line = gpu_line(ONE_GPU, 1, fail)
    assert line.startswith("Error: CUDA sees the GPU but cannot compute on it: CUDA error: out of memory.")


def run(*, temperature: str) -> subprocess.CompletedProcess[str]:
    environment = {"DEVICE": "cpu", "VIBE_MODEL_DIR": "demo", "VISION_MODEL_DIR": "demo", "TEMPERATURE": temperature}
    command = [sys.executable, "-m", "deploy.sandbox_check"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_the_whole_check_as_the_unit_runs_it() -> None:
    """Status 0 and its lines; with an invalid setting status 1 and the mistake."""
    done = run(temperature="0.5")
    assert (done.returncode, done.stdout) == (0, "The models run on the CPU.\n")
    done = run(temperature="hot")
    assert done.returncode == 1
    assert done.stdout.startswith("Error: TEMPERATURE=")
