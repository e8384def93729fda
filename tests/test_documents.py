"""The documents, held to the code: what they name exists, and what they list is all there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from app_production import create_app
from config import SETTINGS, load_settings
from edge.errors import ERRORS
from edge.route_table import ROUTES
from models import ModelSet
from settings.table import markdown
from tests.fakes import ScriptedBackend

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "README_PRODUCTION.md",
    "QUICKSTART.md",
    "SUMMARY.md",
    "ARCHITECTURE.txt",
    "CHANGELOG.md",
)
NAMED_FILE = re.compile(r"(?<![\w./-])[\w./-]+\.(?:py|sh|md|txt|toml|png|html|css|js|svg|example)\b")
# Named without being in a checkout: what the old service was, and what the commands make.
NOT_IN_THE_TREE = {"app.py"}
ABOVE_THE_FOLD = 16  # lines


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table_rows(document: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = text(document).split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" |") for cell in row] for row in rows[2:]]


def code_blocks(name: str) -> str:
    """Return what a document shows as commands, continued lines joined."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", text(name), re.DOTALL)).replace("\\\n", " ")


def commands(program: str) -> set[str]:
    """Return the first argument of each call of a program, on a line of its own or between backticks."""
    pattern = re.compile(rf"(?:^|`|[A-Z_]+=\S+ ){re.escape(program)} ([a-z][\w.-]*)", re.MULTILINE)
    return {found for name in DOCUMENTS for found in pattern.findall(text(name))}


@pytest.fixture(scope="module")
def urls() -> Map:
    backends = {name: ScriptedBackend(name) for name in ("avibe", "avision")}
    return create_app(load_settings({}, None), ModelSet(backends)).url_map


# --- one place for each fact ---


def test_the_first_screen_is_the_two_commands() -> None:
    """A stranger sees what it is, how to start it, how to test it and what it looks like, without scrolling."""
    screen = "\n".join(text("README.md").splitlines()[:ABOVE_THE_FOLD])
    assert "./deploy.sh development" in screen
    assert "./deploy.sh test" in screen
    assert "docs/page.png" in screen


def test_the_settings_table_is_the_codes_own() -> None:
    """Every setting, its default and its meaning stand in the operator's document as they stand in the code."""
    assert markdown(SETTINGS) in text("README_PRODUCTION.md")


def test_the_routes_table_is_the_codes_own() -> None:
    """Every route with what it needs, none missing and none invented."""
    documented = {route.strip("`"): need for route, _, need in table_rows("README_PRODUCTION.md", "Routes")}
    assert documented == {route: row.need.value for route, row in ROUTES.items()}


def test_the_errors_table_is_the_codes_own() -> None:
    """Every code with its status."""
    documented = {(status, code.strip("`")) for status, code, _ in table_rows("README_PRODUCTION.md", "Errors")}
    assert documented == {(str(meaning.status), meaning.code) for meaning in ERRORS.values()}


def test_the_metrics_that_are_named_exist() -> None:
    """A dashboard made from the document finds what it looks for."""
    backends = {name: ScriptedBackend(name) for name in ("avibe", "avision")}
    app = create_app(load_settings({}, None), ModelSet(backends))
    exposed = set(re.findall(r"^# TYPE (\w+)", app.test_client().get("/metrics").text, re.MULTILINE))
    only_with_a_gpu = {name for name in named_metrics() if name.startswith("avito_ai_gpu_")}
    assert named_metrics() - only_with_a_gpu <= exposed
    source = text("metrics/prometheus.py")
    assert all(name.removeprefix("avito_ai_") in source for name in only_with_a_gpu)


def named_metrics() -> set[str]:
    return {name for document in DOCUMENTS for name in re.findall(r"\bavito_ai_\w+", text(document))}


# --- what is named exists ---


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    """No document sends its reader to a file that is not there."""
    named = {found.removeprefix("./") for found in NAMED_FILE.findall(without_addresses(text(name)))}
    assert sorted(file for file in named - NOT_IN_THE_TREE if not exists(file)) == []


def without_addresses(words: str) -> str:
    return re.sub(r"https?://\S+", "", words)


def exists(file: str) -> bool:
    """A path from the root, or the bare name of a file somewhere in the tree (as ARCHITECTURE.txt lists them)."""
    if (ROOT / file).exists():
        return True
    folders = (
        "edge",
        "engine",
        *(f"engine/{room}" for room in ("schedule", "model", "loading", "text")),
        "routes",
        "metrics",
        "serving",
        "settings",
        "deploy",
        "templates",
        "static",
    )
    return "/" not in file and any((ROOT / folder / file).exists() for folder in folders)


def test_settings_that_are_named_exist() -> None:
    """A name in capitals with an equals sign is a setting, or one of the few that only the scripts read."""
    known = {setting.name for setting in SETTINGS}
    known |= {f"{setting.name}_FILE" for setting in SETTINGS if setting.secret}
    known |= {"ENV_FILE", "PYTHON", "TORCH_INDEX_URL", "TMPDIR", "VARIANT"}
    pattern = re.compile(r"\b([A-Z][A-Z_]{2,})=")
    named = {found for name in DOCUMENTS for found in pattern.findall(text(name))}
    assert named - known == set()


def test_commands_of_deploy_sh_exist() -> None:
    """Each command that a document gives is one of the script's."""
    known = set(re.findall(r"^    ([a-z]+)\)", text("deploy.sh"), re.MULTILINE))
    assert commands("./deploy.sh") <= known


def test_make_targets_exist() -> None:
    """Each short name is in the Makefile, and each of the Makefile is told."""
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert commands("make") == targets


def test_modules_that_are_run_exist() -> None:
    """What follows `python -m` can be run."""
    modules = {found for name in DOCUMENTS for found in re.findall(r"python -m ([\w.]+)", text(name))}
    assert sorted(module for module in modules if find_spec(module) is None) == []


def test_addresses_that_are_asked_exist(urls: Map) -> None:
    """Each curl in the documents goes to a route of the service."""
    adapter = urls.bind("127.0.0.1")
    for name in DOCUMENTS:
        for line in code_blocks(name).splitlines():
            if line.startswith("curl "):
                words = shlex.split(line)
                path = next(word for word in words if word.startswith("http://127.0.0.1:8085"))[21:]
                method = "POST" if {"-d", "-F"} & set(words) else "GET"
                try:
                    adapter.match(path, method=method)
                except HTTPException as error:
                    raise AssertionError(f"{name}: {method} {path}") from error


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Each relative link has its target."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text(name))
    assert sorted(target for target in targets if not (ROOT / target).exists()) == []


def test_the_sizes_in_the_readme_are_those_of_the_script() -> None:
    """The download that is announced is the one that deploy.sh announces."""
    script = text("deploy/lib/install.sh")
    sizes = [found[1] for found in re.finditer(r"(?:CPU|CUDA|TEST)_DOWNLOAD_MB=(\d+)", script)]
    assert all(f"{size} MB" in text("README.md") for size in sizes)


def test_the_default_address_is_the_same_everywhere() -> None:
    """Script, documents and settings agree on the port."""
    port = next(setting.default for setting in SETTINGS if setting.name == "PORT")
    assert f"setting PORT {port}" in text("deploy/lib/serve.sh")
    ports = {found for name in DOCUMENTS for found in re.findall(r"127\.0\.0\.1:(\d+)", text(name))}
    assert ports == {str(port)}


def test_the_usage_of_deploy_sh_names_what_it_reads() -> None:
    """`deploy.sh help` lists every command that works."""
    shown = subprocess.run(["bash", "deploy.sh", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert commands("./deploy.sh") - {"production"} <= set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE))
