"""Checks what a start needs, as the service's user and in the sandbox of its unit.

`python -m deploy.sandbox_check` in a release reads its settings and every file of each model folder, and uses the GPU
once, also with a kernel that it compiles. It prints one line per check; a failed one begins with `Error: ` and has the
remedy. The exit status is 1 if a check failed.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from config import DEMO, Settings, SettingsError, apply_gpu_choice, operator_settings, versions_of
from engine.errors import StartError
from engine.loading.device import (
    DeviceRequest,
    InstalledGpus,
    TorchSupport,
    choose_devices,
    find_gpus,
    find_torch_support,
)

UNIT = "avito-ai"
# Directories that systemd may hide from a service, with the unit's option.
HIDDEN = {"/home": "ProtectHome", "/root": "ProtectHome", "/run/user": "ProtectHome", "/tmp": "PrivateTmp"}  # nosec B108 # named only


def model_folders(settings: Settings) -> dict[str, Path]:
    """Return the model folders by setting, without demos."""
    model = settings.model
    folders = {"VIBE_MODEL_DIR": model.vibe_model_dir, "VIBE_TOKENIZER_DIR": model.vibe_tokenizer_dir}
    if model.vibe_model_dir == DEMO:
        folders = {}
    folders["VISION_MODEL_DIR"] = model.vision_model_dir
    for versions in versions_of(model):
        if versions.folders:  # the default's alone has to be readable
            folders = {name: folder for name, folder in folders.items() if not name.startswith(versions.prefix)}
            folders[f"{versions.prefix}_MODELS"] = versions.folders[0][1]
    return {name: folder for name, folder in folders.items() if folder != DEMO}


def unreadable(folder: Path) -> tuple[Path, OSError] | None:
    """Return the first unreadable path in or above the folder, with the error; None if everything is readable."""
    troubles: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=troubles.append):
        folders.sort()
        for name in sorted(files):
            path = Path(here, name)
            try:
                with path.open("rb") as file:
                    file.read(1)
            except OSError as error:
                return path, error
    if not troubles:
        return None
    return _first_closed(Path(troubles[0].filename)), troubles[0]


def describe_unreadable(setting: str, folder: Path, path: Path, error: OSError, user: str) -> str:
    """Return the message about an unreadable folder, with the remedy."""
    sentence = f"{setting}={folder}: the user {user} cannot read {path}: {error.strerror}. "
    for top, switch in HIDDEN.items():
        if folder.is_relative_to(top):
            return sentence + (
                f"The unit's {switch} hides {top} from the service: move the folder, for instance to /srv or /mnt, "
                f"and set {setting} to it."
            )
    if isinstance(error, FileNotFoundError):
        return sentence + f"Set the right folder, or use the demo: {setting}=demo"
    opened = path if path.is_relative_to(folder) else f"{folder}, {path}"
    if path != folder and path.is_relative_to(folder):
        return sentence + f"Allow reading: chmod -R a+rX {folder}"
    if opened == path:
        return sentence + f"Allow reading: chmod -R a+rX {path}"
    return sentence + f"Allow access: chmod a+x {path}"


def check_folders(settings: Settings, user: str) -> Iterator[str]:
    """Yield one line per model folder."""
    for setting, folder in model_folders(settings).items():
        trouble = unreadable(folder)
        if trouble is None:
            yield f"{setting}={folder} can be read."
        else:
            yield "Error: " + describe_unreadable(setting, folder, *trouble, user)


def check_gpu(
    settings: Settings,
    visible: str | None,
    installed_gpus: Callable[[], InstalledGpus] = find_gpus,
    torch_support: Callable[[], TorchSupport] = find_torch_support,
    use: Callable[[str], str] | None = None,
    compile_kernel: Callable[[str], None] | None = None,
) -> str:
    """Return a line about the devices.

    use: runs a computation on a GPU such as `cuda:0` and returns its name; compile_kernel: compiles a kernel for it.
    """
    request = DeviceRequest(settings.model.device, visible, settings.production)
    try:
        chosen = choose_devices(request, settings.model.own_devices, installed_gpus, torch_support).values()
        gpus = sorted(set(chosen) - {"cpu"})
        if not gpus:
            return "The models run on the CPU."
        names = [(use or compute_on_gpu)(gpu) for gpu in gpus]
        devices = " and ".join([*names, *(["the CPU"] if "cpu" in chosen else [])])
        return f"The models run on {devices}; CUDA works{_kernels(gpus, compile_kernel or compile_on_gpu)}."
    except StartError as error:
        hint = "If nvidia-smi shows the GPU, the unit's DeviceAllow lines lack one of its /dev/nvidia* nodes."
        return f"Error: {error} {hint}"
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return f"Error: CUDA sees the GPU but cannot compute on it: {reason}. nvidia-smi shows its state and processes."


def compute_on_gpu(device: str) -> str:  # pragma: no cover - CUDA
    """Run a matrix product on the GPU and return its name. Raises RuntimeError if it fails."""
    import torch

    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones)[0, 0]) != 64.0:
        raise RuntimeError("a matrix product was wrong")
    return torch.cuda.get_device_name(device)


def compile_on_gpu(device: str) -> None:  # pragma: no cover - CUDA
    """Compile one of the engine's kernels and run it. Raises what Triton raises if it fails."""
    import torch

    from engine.model.cuda.runner import compile_first

    compile_first(torch.device(device))


def _kernels(gpus: list[str], compile_kernel: Callable[[str], None]) -> str:
    """Return the end of a sentence: whether kernels can be compiled for these GPUs, without which torch computes."""
    try:
        for gpu in gpus:
            compile_kernel(gpu)
    except Exception as error:  # no compiler, no headers of Python, a folder that is closed
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        return f", but its kernels cannot be compiled, so the models run slower: {reason}"
    return " and its kernels can be compiled"


def _first_closed(path: Path) -> Path:
    """Return the first parent of `path` without access, else `path` itself."""
    for parent in reversed(path.parents):
        if not os.access(parent, os.X_OK):
            return parent
    return path


def report(settings: Settings, visible: str | None, user: str) -> list[str]:
    """Return all lines of the check."""
    return [*check_folders(settings, user), check_gpu(settings, visible)]


def main() -> int:
    """Print the report; the exit status is 1 if it has an error."""
    try:
        settings = operator_settings()
    except SettingsError as error:
        lines = [f"Error: {mistake}" for mistake in error.mistakes]
    else:
        user = pwd.getpwuid(os.geteuid()).pw_name
        lines = [*(f"{UNIT}: {w}" for w in settings.warnings), *report(settings, apply_gpu_choice(settings), user)]
    print("\n".join(lines))
    return 1 if any(line.startswith("Error: ") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
