"""The settings of a process: `python config.py` prints them, `from config import config` reads them on first use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import SETTINGS, _env_file

ROOT = Path(__file__).parents[1]
CLEAN = {name: value for name, value in os.environ.items() if name not in {setting.name for setting in SETTINGS}}
KEY = "correct-horse-battery"


def run_config(**environ):
    return subprocess.run(
        [sys.executable, "config.py"],
        cwd=ROOT,
        env=CLEAN | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_printed_settings_are_complete_and_masked(tmp_path):
    """`python config.py` prints every setting with its source, secrets masked, and exits with 0."""
    (tmp_path / "settings").write_text("PROT=1\n")
    run = run_config(PORT="9000", ADMIN_KEY=KEY, ENV_FILE=str(tmp_path / "settings"))
    lines = run.stdout.splitlines()
    assert run.returncode == 0
    assert [line.split("=")[0] for line in lines] == [setting.name for setting in SETTINGS]
    assert "PORT=9000  # environment" in lines
    assert "ADMIN_KEY=********  # environment" in lines
    assert "THREADS=496" in lines
    assert "PROT" in run.stderr
    assert "did you mean PORT?" in run.stderr


def test_docstrings_are_needed():
    """One sentence instead of a model that cannot be loaded; without assertions alone the service works."""
    refused = run_config(PYTHONOPTIMIZE="2")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "The settings cannot be used:",
        "  PYTHONOPTIMIZE=2 (python -OO) removes docstrings, without which no model can be loaded: expected 0 or 1",
    ]
    assert run_config(PYTHONOPTIMIZE="1").returncode == 0


def test_printed_mistakes_are_complete_and_masked():
    """`python config.py` prints all mistakes and exits with 2."""
    run = run_config(PORT="x", ADMIN_KEY="pa55 word", LOG_FORMAT="y", RATE_LIMIT_STORAGE="reds://u:pa55@h")
    assert run.returncode == 2
    assert run.stdout == ""
    assert "PORT='x'" in run.stderr
    assert "LOG_FORMAT='y'" in run.stderr
    assert "ADMIN_KEY=********: expected 16 to 256" in run.stderr
    assert "RATE_LIMIT_STORAGE='reds://********@h'" in run.stderr
    assert "pa55" not in run.stderr


@pytest.mark.parametrize(("auth", "status"), [("keys", 2), ("keys,jwt", 2), ("jwt", 0), ("open", 0)])
def test_a_file_of_keys_that_a_start_needs_has_to_be_there(tmp_path, auth, status):
    """The check refuses what the start would; a file that AUTH does not read is warned of."""
    missing = str(tmp_path / "keys")
    run = run_config(AUTH=auth, API_KEYS_FILE=missing, JWT_SECRET_KEY="x" * 32)
    assert run.returncode == status
    assert f"API_KEYS_FILE={missing!r}: expected a file that can be read" in run.stderr
    assert run.stderr.count("API_KEYS_FILE") == 1
    assert ("warning: API_KEYS_FILE" in run.stderr) is (status == 0)


def python(code, **environ):
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=CLEAN | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return run.stdout.split(), run


def test_config_is_read_on_first_use():
    """`from config import config` gives the settings of this process, the same object every time."""
    out, _ = python(
        "from config import config, settings_or_exit\n"
        "print(config.environment, config.server.port, config.model.vibe_model_dir, config is settings_or_exit())",
        PORT="9000",
    )
    assert out == ["development", "9000", "/mnt/data/avito/vibe/models", "True"]


def test_config_has_no_other_attribute():
    """Another attribute is an AttributeError, as in any module."""
    _, run = python("import config; config.confg")
    assert "AttributeError: module 'config' has no attribute 'confg'" in run.stderr


def test_wrong_settings_end_the_process_with_2():
    """Invalid settings at the start are printed, and the exit status is 2."""
    _, run = python("from config import settings_or_exit; settings_or_exit()", PORT="x")
    assert run.returncode == 2
    assert run.stderr.startswith("The settings cannot be used:\n  PORT='x'")


def test_gpu_choice_reaches_cuda():
    """CUDA orders GPUs as nvidia-smi and sees those of the settings; without one its own view is kept."""
    code = (
        "import os, config\n"
        "print(config.apply_gpu_choice(config.config), os.environ['CUDA_DEVICE_ORDER'],"
        " os.environ.get('CUDA_VISIBLE_DEVICES'))"
    )
    assert python(code, CUDA_VISIBLE_DEVICES=" 1 ")[0] == ["1", "PCI_BUS_ID", "1"]
    assert python(code)[0] == ["None", "PCI_BUS_ID", "None"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "None expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "None backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "backend:native None"),
    ],
)
def test_the_allocator_of_a_gpu_may_grow_unless_it_is_configured(own, expected):
    """An operator's own configuration is kept, whichever of torch's two names it has."""
    code = (
        "import os, config\n"
        "config.apply_gpu_choice(config.config)\n"
        "print(os.environ.get('PYTORCH_CUDA_ALLOC_CONF'), os.environ.get('PYTORCH_ALLOC_CONF'), sep='\\n')"
    )
    assert " ".join(python(code, **own)[0]) == expected


def test_env_file_beside_the_code_is_read(tmp_path):
    """Without ENV_FILE, `.env` in the folder of `config.py` is read if it exists."""
    (tmp_path / "config.py").write_text((ROOT / "config.py").read_text())
    (tmp_path / "settings").symlink_to(ROOT / "settings")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from config import config; print(config.server.port)"
    assert python(code, ENV_FILE="")[0] == ["8085"]
    (tmp_path / ".env").write_text("PORT=9000\n")
    assert python(code, ENV_FILE="")[0] == ["9000"]
    assert _env_file({}) in (None, ROOT / ".env")
