"""What the old guides name and docs/old-guides.md says of it: each command, setting, address, metric and file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from flask.testing import FlaskClient

import config
from app_production import create_app
from checks import command
from config import SETTINGS, load_settings
from edge.errors import ERRORS
from edge.route_table import ROUTES
from tests.deploy.monitoring.test_other_names import ALERTS
from tests.fakes import FakeMachine, scripted_models

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/old-guides.md").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")
DEFAULT_FOLDERS = "/mnt/data/avito/"


def rows(heading: str) -> list[tuple[list[str], list[str]]]:
    """Return what the old and the new column of a section name, row by row; `the same` is the old one."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = [(CODE.findall(cells[0]), cells[1]) for cells in lines]
    return [(old, CODE.findall(new) or (old if new.startswith("the same") else [])) for old, new in named]


# What the last table names as the new way; the first cell of a row need not be code there.
PROMISES = [
    name
    for line in PAGE.split("## What else they promise\n", 1)[1].split("\n## ", 1)[0].splitlines()[3:]
    for name in CODE.findall(line.split(" | ")[1] if " | " in line else "")
]


def test_the_page_names_what_there_is_to_try() -> None:
    """The sections are read as they are written."""
    least = {"Commands": 20, "Settings": 9, "Addresses": 9, "Metrics": 6, "Files and folders": 4}
    assert {name: len(rows(name)) >= number for name, number in least.items()} == dict.fromkeys(least, True)
    assert len(PROMISES) > 15


def of_docker(words: list[str]) -> None:
    """What is built has the arguments that the command names."""
    if words[0] == "build":
        assert "ARG VARIANT" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert words[-1] == "."
        assert set(words[1:-1]) <= {"-t", "avito-ai", "--build-arg", "VARIANT=cuda"}
    else:
        assert words[0] == "compose"
        assert (ROOT / "compose.yaml").is_file()


def of_systemd(words: list[str]) -> None:
    assert (ROOT / "avito-ai.service").is_file()
    assert "avito-ai" in words


def of_kubectl(words: list[str]) -> None:
    """The page for day two has it."""
    assert f"kubectl {words[0]} " in (ROOT / "docs/kubernetes-day-two.md").read_text(encoding="utf-8")


def of_curl(words: list[str]) -> None:
    path = urlsplit(words[-1]).path
    assert f"GET {path}" in ROUTES


PROGRAMS = {
    "docker": of_docker,
    "systemctl": of_systemd,
    "journalctl": of_systemd,
    "kubectl": of_kubectl,
    "curl": of_curl,
}


@pytest.mark.parametrize("line", [new for _, new in rows("Commands") for new in new])
def test_a_command_exists(line: str) -> None:
    """Its program, the file it runs and the command that it is given."""
    words = [word for word in line.split() if word != "sudo"]
    program, *rest = words
    if program == "./deploy.sh":
        done = subprocess.run(
            ["bash", "deploy.sh", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
        )
        assert re.search(rf"^  {rest[0]}\b", done.stdout, re.MULTILINE)
    elif rest and rest[0] == "config.py":
        assert f"python config.py {rest[1]}" in str(command.__doc__)
    elif program in PROGRAMS:
        PROGRAMS[program](rest)
    elif program.endswith(".sh"):
        assert (ROOT / program).is_file()
        assert (ROOT / "deploy/kubernetes/overlays" / rest[0]).is_dir()
    else:
        assert program in {"python", "gunicorn", "pip"}
        files = [word for word in rest if re.search(r"\.(py|txt)$", word)]
        assert files
        assert all((ROOT / file).exists() for file in files)


def test_settings_are_read_written_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with the gateway's program, by the commands that took its place."""
    file = tmp_path / ".env"
    file.write_text("LOG_LEVEL=DEBUG\n")
    environ = {"ENV_FILE": str(file)}
    assert command.main(["set", "PORT=9000"], environ) == 0
    assert file.read_text() == "LOG_LEVEL=DEBUG\nPORT=9000\n"
    assert command.main(["set", "PORT=none"], environ) == 2
    assert command.main(["get", "PROT"], environ) == 2
    assert "did you mean PORT?" in capsys.readouterr().err


def example(text: str) -> tuple[str, str]:
    """Return a setting with a value that a guide would give it."""
    name, _, value = text.partition("=")
    value = value.replace("...", "me@db.example/name").replace("HOST", "cache.example")
    samples = {
        "REDIS_URL": "redis://cache.example/0",
        "JWT_SECRET_KEY": "x" * 40,
        "HOST": "127.0.0.1",
        "LOG_LEVEL": "INFO",
        "REDIS_PORT": "6380",
        "REDIS_DB": "1",
        "REDIS_SSL": "true",
        "REDIS_TLS": "true",
    }
    defaults = {one.name: one.documented_default for one in SETTINGS}
    return name, value or samples.get(name) or defaults.get(name) or "cache.example"


@pytest.mark.parametrize("old", [old for row, _ in rows("Settings") for old in row])
def test_a_setting_is_read(old: str, tmp_path: Path) -> None:
    """Under its old name, in the environment and in `.env`; one that became another is told by both names."""
    name, value = example(old)
    if name == "LOG_FILE":
        value = str(tmp_path / "service.log")
    known = {setting.name for setting in SETTINGS}
    (becomes,) = {
        new.partition("=")[0] for row, news in rows("Settings") if old in row for new in news if news != row
    } or {""}
    given = {name: value}
    if becomes == "REDIS_HOST":  # a part of it, and nothing alone
        assert any("no effect without REDIS_HOST" in line for line in load_settings(given, None).warnings)
        given, becomes = given | {becomes: "cache.example"}, "RATE_LIMIT_STORAGE"
    (tmp_path / ".env").write_text("".join(f"{one}={its}\n" for one, its in given.items()))
    for settings in (load_settings(given, None), load_settings({}, tmp_path / ".env")):
        told = [line for line in settings.warnings if name in line.partition(":")[0] or line.startswith(name)]
        assert (name in known and not becomes) or name == becomes or (told and becomes in told[0])
        assert "is not a setting" not in " ".join(settings.warnings)
        assert becomes in ("", *settings.sources)


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}, None)
    return create_app(settings, scripted_models(), FakeMachine()).test_client()


@pytest.mark.parametrize(
    "address", [name for row in rows("Addresses") for side in row for name in side if " /" in name]
)
def test_an_address_answers(client: FlaskClient, address: str) -> None:
    """It is a route, and those that are only read answer with 200."""
    assert address in ROUTES
    method, path = address.split()
    if method == "GET":
        assert client.get(path).status_code in (200, 503 if path == "/health/detailed" else 200)


def test_figures_of_a_gpu_are_named_without_one(client: FlaskClient) -> None:
    """As programs of the summary read them."""
    metrics = client.get("/api/metrics").json
    assert metrics["gpu"]["gpu_utilization"] == "0.00%"
    assert metrics["application"]["success_rate"].endswith("%")


@pytest.mark.parametrize("key", re.findall(r'`metrics\["(\w+)"\]\["(\w+)"\]`', PAGE))
def test_a_figure_is_where_programs_look_for_it(client: FlaskClient, key: tuple[str, str]) -> None:
    """In the JSON of the metrics, on a machine without a GPU."""
    assert isinstance(client.get("/api/metrics").json[key[0]][key[1]], str)


RULES = yaml.safe_load((ROOT / "deploy/monitoring/prometheus/rules/other-names.yml").read_text(encoding="utf-8"))
RECORDED = [rule for group in RULES["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("metric", [old for row, _ in rows("Metrics") for old in row])
def test_a_metric_of_the_guides_is_recorded(metric: str) -> None:
    """With the labels that the page names; tests/deploy/monitoring feeds the rules with metrics of the service."""
    name, _, labels = metric.rstrip("}").partition("{")
    found = [rule for rule in RECORDED if rule["record"] in (name, f"{name}_bucket")]
    assert found
    by_name = {rule["record"]: rule for rule in RECORDED}
    sources = [by_name.get(rule["expr"].partition("{")[0], rule) for rule in found]
    assert all(set(filter(None, labels.split(","))) | {"provider"} <= set(rule["labels"]) for rule in sources)


def test_every_recorded_name_is_on_the_page() -> None:
    """But for the parts of a histogram, which its name stands for."""
    named = {metric.partition("{")[0] for row, _ in rows("Metrics") for metric in row}
    assert {re.sub("_(bucket|sum|count)$", "", rule["record"]) for rule in RECORDED} == named


def test_the_alerts_that_the_page_names_are_tried() -> None:
    """By promtool, with the metrics of the service (tests/deploy/monitoring/test_other_names.py)."""
    names = set(re.findall(r"`(High\w+|TooMany\w+)`", PAGE))
    assert len(names) == 4
    assert names <= {one["alert"] for one in ALERTS}


def test_the_settings_object_has_its_old_names() -> None:
    """`from config import config`, and the attributes that the summary names."""
    settings = config.config
    assert settings.environment == "development"
    assert settings.server.port == 8085
    assert str(settings.model.vibe_model_dir).startswith(DEFAULT_FOLDERS)


@pytest.mark.parametrize("path", [old for row, _ in rows("Files and folders") for old in row])
def test_a_path_is_known(path: str) -> None:
    """It is a file of the tree, a default of a setting, or what the installation makes."""
    made = (ROOT / "deploy/lib/paths.sh").read_text(encoding="utf-8")
    defaults = {one.documented_default for one in SETTINGS}
    assert path in ("app.py", ".env") or path in defaults or f"$SYSTEM_ROOT{path}" in made


@pytest.mark.parametrize("name", PROMISES)
def test_what_else_was_promised_is_there(name: str) -> None:
    """A route, a setting of the service or of its backups, a code of an error, a command, a unit or a file."""
    known = {setting.name: setting for setting in SETTINGS}
    word = name.partition("=")[0]
    if " /" in name:
        assert name in ROUTES
    elif word.endswith("_FILE") and word not in known:
        assert known[word.removesuffix("_FILE")].secret
    elif word.isupper():
        assert word in known or f"{word}=" in (ROOT / "deploy/backup.env.example").read_text(encoding="utf-8")
    elif name.startswith(".venv/bin/python -m "):
        assert (ROOT / f"{name.split()[2].replace('.', '/')}.py").is_file()
    elif name.endswith(".timer"):
        assert (ROOT / "deploy/systemd" / name).is_file()
    else:
        assert name in {meaning.code for meaning in ERRORS.values()} or (ROOT / name).is_file()
