"""What a start would stumble over, seen by the user and from the sandbox that the service runs in.

`python -m deploy.sandbox_check` in the folder of a release reads its settings and every file of each model folder, and
uses the GPU once. A line says what is well; one that begins with `Error: ` names what is not, and the remedy. The exit
status is 1 if there is any.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from config import DEMO, Settings, SettingsError, apply_gpu_choice, operator_settings
from engine.errors import StartError
from engine.loading.device import Survey, Torch, Wish, ask_torch, choose_device, survey_machine

UNIT = "avito-ai"
# What systemd may hide from a service, with the setting of the unit that does.
HIDDEN = {"/home": "ProtectHome", "/root": "ProtectHome", "/run/user": "ProtectHome", "/tmp": "PrivateTmp"}


def model_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders that the models are read from, by the setting that names each; demos are left out."""
    model = settings.model
    folders = {"VIBE_MODEL_DIR": model.vibe_model_dir, "VIBE_TOKENIZER_DIR": model.vibe_tokenizer_dir}
    if model.vibe_model_dir == DEMO:
        folders = {}
    folders["VISION_MODEL_DIR"] = model.vision_model_dir
    return {name: folder for name, folder in folders.items() if folder != DEMO}


def unreadable(folder: Path) -> tuple[Path, OSError] | None:
    """Return the first thing in or above the folder that cannot be read, with the reason; None where all can."""
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
    """Return the sentence about a folder that cannot be read, with its remedy."""
    sentence = f"{setting}={folder}: the user {user} cannot read {path}: {error.strerror}. "
    for top, switch in HIDDEN.items():
        if folder.is_relative_to(top):
            return sentence + (
                f"The unit's {switch} hides {top} from the service: move the folder, for instance to /srv or /mnt, "
                f"and set {setting} to it."
            )
    if isinstance(error, FileNotFoundError):
        return sentence + f"Name the right folder, or ask for the demo: {setting}=demo"
    opened = path if path.is_relative_to(folder) else f"{folder}, {path}"
    if path != folder and path.is_relative_to(folder):
        return sentence + f"Let it read: chmod -R a+rX {folder}"
    if opened == path:
        return sentence + f"Let it read: chmod -R a+rX {path}"
    return sentence + f"Let it pass: chmod a+x {path}"


def check_folders(settings: Settings, user: str) -> Iterator[str]:
    """Yield a line for each model folder."""
    for setting, folder in model_folders(settings).items():
        trouble = unreadable(folder)
        if trouble is None:
            yield f"{setting}={folder} can be read."
        else:
            yield "Error: " + describe_unreadable(setting, folder, *trouble, user)


def check_gpu(
    settings: Settings,
    visible: str | None,
    survey: Callable[[], Survey] = survey_machine,
    torch: Callable[[], Torch] = ask_torch,
    use: Callable[[], str] | None = None,
) -> str:
    """Return a line about the device. use: computes on the GPU and returns its name."""
    wish = Wish(settings.model.device, visible, settings.production)
    try:
        if choose_device(wish, survey, torch) == "cpu":
            return "The models run on the processor."
        return f"CUDA computes on {(use or compute_on_gpu)()}."
    except StartError as error:
        hint = "If nvidia-smi shows the GPU, the unit's DeviceAllow lines lack one of its /dev/nvidia* nodes."
        return f"Error: {error} {hint}"
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return f"Error: CUDA sees the GPU and cannot compute on it: {reason}. nvidia-smi shows its state and its users."


def compute_on_gpu() -> str:  # pragma: no cover - CUDA
    """Multiply on the GPU and return its name. Raises RuntimeError where that fails."""
    import torch

    ones = torch.ones(64, 64, device="cuda")
    if float((ones @ ones)[0, 0]) != 64.0:
        raise RuntimeError("a product came out wrong")
    return torch.cuda.get_device_name()


def _first_closed(path: Path) -> Path:
    """Return the first folder on the way to `path` that may not be entered, else `path` itself."""
    for parent in reversed(path.parents):
        if not os.access(parent, os.X_OK):
            return parent
    return path


def report(settings: Settings, visible: str | None, user: str) -> list[str]:
    """Return all lines of the check."""
    return [*check_folders(settings, user), check_gpu(settings, visible)]


def main() -> int:
    """Print the report; the exit status is 1 where a line of it is an error."""
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
