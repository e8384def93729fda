"""The documents match the code: what they name exists, and their lists are complete."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from app_production import create_app
from config import SETTINGS, load_settings
from deploy.monitoring.render import DEFAULTS as MONITORING_SETTINGS
from edge.errors import ERRORS
from edge.route_table import ROUTES
from models import ModelSet
from settings.old_names import OLD_NAMES
from settings.sources import FOREIGN
from settings.table import markdown
from tests.fakes import ScriptedBackend

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "README_PRODUCTION.md",
    "QUICKSTART.md",
    "README.ru.md",
    "QUICKSTART.ru.md",
    "SUMMARY.md",
    "ARCHITECTURE.txt",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "demo/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
)
ONE_SCREEN = 40  # lines
NAMED_FILE = re.compile(r"(?<![\w./*-])[\w./-]+\.(?:py|c|sh|md|txt|toml|yml|yaml|png|html|css|js|jinja|svg|example)\b")
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)")
# Named without being in a checkout: what the old service was, what is not to be made, and what the commands make.
NOT_IN_THE_TREE = {"check_env.py", "test_db_connection.py", "config_cli.py"}  # of older guides
NOT_IN_THE_TREE |= {"app.py", "utils.py", "helpers.py", "NAME.md", "NAME.png", "kubernetes/avito-ai-rules.yml"}
ABOVE_THE_FOLD = 16  # lines


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text(document), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


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


# --- each fact is stated once ---


def test_the_first_screen_is_the_two_commands() -> None:
    """A newcomer sees what it is, how to start it, how to test it and what it looks like, without scrolling."""
    screen = "\n".join(text("README.md").splitlines()[:ABOVE_THE_FOLD])
    assert "./deploy.sh development" in screen
    assert "./deploy.sh test" in screen
    assert "docs/page.png" in screen


def test_the_operators_index_is_one_screen_and_leads_to_every_page() -> None:
    """README_PRODUCTION.md holds no facts of its own, and no page of docs/ is left out."""
    assert len(text("README_PRODUCTION.md").splitlines()) <= ONE_SCREEN
    linked = set(LINK.findall(text("README_PRODUCTION.md")))
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")} <= linked


def test_the_decisions_are_all_listed() -> None:
    """The index of the decisions leads to each of them."""
    pages = {path.name for path in ROOT.glob("docs/decisions/*.md")} - {"README.md"}
    assert set(LINK.findall(text("docs/decisions/README.md"))) >= pages


def test_every_secret_of_the_settings_is_in_the_page_of_secrets() -> None:
    """With its file, and what a new value of it does."""
    rows = "".join(line for line in text("docs/secrets.md").splitlines() if line.startswith("|"))
    assert set(re.findall(r"`([A-Z_]+_FILE)`", rows)) == {f"{one.name}_FILE" for one in SETTINGS if one.secret}


def test_the_settings_table_is_the_codes_own() -> None:
    """The table of settings is up to date; `python -m settings.generate` updates it."""
    assert markdown(SETTINGS) in text("docs/settings.md")


def test_the_routes_table_is_the_codes_own() -> None:
    """Every route with its access and budget, and no other."""
    documented = {route.strip("`"): need for route, _, need in table_rows("docs/api.md", "Routes")}
    assert documented == {route: row.need.value for route, row in ROUTES.items()}


def test_the_errors_table_is_the_codes_own() -> None:
    """Every code with its status."""
    documented = {(status, code.strip("`")) for status, code, _ in table_rows("docs/api.md", "Errors")}
    assert documented == {(str(meaning.status), meaning.code) for meaning in ERRORS.values()}


def test_the_metrics_that_are_named_exist() -> None:
    """A dashboard built from the document finds its metrics."""
    backends = {name: ScriptedBackend(name) for name in ("avibe", "avision")}
    app = create_app(load_settings({}, None), ModelSet(backends))
    exposed = set(re.findall(r"^# TYPE (\w+)", app.test_client().get("/metrics").text, re.MULTILINE))
    elsewhere = {name for name in named_metrics() if name.startswith(("avito_ai_gpu_", "avito_ai_backup_"))}
    assert named_metrics() - elsewhere <= exposed
    source = text("telemetry/metrics/prometheus.py") + text("telemetry/metrics/backup.py")
    assert all(name.removeprefix("avito_ai_") in source for name in elsewhere)


def named_metrics() -> set[str]:
    names = re.compile(r"(?<!zone=)(?<!limit_conn )\bavito_ai_\w+")  # but for those of nginx's zones
    return {name for document in DOCUMENTS for name in names.findall(text(document))}


# --- what is named exists ---


@pytest.fixture(scope="module")
def tree() -> frozenset[str]:
    """The paths of all files, and every end of them: a file may be named from any folder above it."""
    skipped = {".git", ".venv", "__pycache__"}
    paths = (path.relative_to(ROOT).parts for path in walk(ROOT, skipped))
    return frozenset("/".join(parts[start:]) for parts in paths for start in range(len(parts)))


def walk(folder: Path, skipped: set[str]) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in skipped and not path.is_symlink():
            yield from walk(path, skipped)
        elif path.is_file():
            yield path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str, tree: frozenset[str]) -> None:
    """No document names a missing file."""
    words = re.sub(r"https?://\S+", "", LINK.sub("", text(name)))
    named = {found.removeprefix("./") for found in NAMED_FILE.findall(words)}
    assert sorted(named - tree - NOT_IN_THE_TREE) == []


def test_settings_that_are_named_exist() -> None:
    """A name in capitals with an equals sign is a setting, or one of the few that only scripts or libraries read."""
    known = {setting.name for setting in SETTINGS}
    known |= {f"{setting.name}_FILE" for setting in SETTINGS if setting.secret}
    known |= {"ENV_FILE", "PYTHON", "TORCH_INDEX_URL", "TMPDIR", "VARIANT", "PYTORCH_ALLOC_CONF", "GPU_SOAK_SECONDS"}
    known |= OLD_NAMES
    known |= MONITORING_SETTINGS.keys() | FOREIGN | {"COMPONENTS", "AFFINITY", "BALANCE", "DATABASE"}
    pattern = re.compile(r"\b([A-Z][A-Z_]{2,})=")
    named = {found for name in DOCUMENTS for found in pattern.findall(text(name))}
    assert named - known == set()


def test_commands_of_deploy_sh_exist() -> None:
    """Each command that a document gives is one of the script's."""
    known = set(re.findall(r"^    ([a-z]+)\)", text("deploy.sh"), re.MULTILINE))
    assert commands("./deploy.sh") <= known


def test_make_targets_exist() -> None:
    """Each documented target is in the Makefile, and each target is documented."""
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert targets <= commands("make") <= targets | {"check"}


def test_modules_that_are_run_exist() -> None:
    """What follows `python -m` can be run."""
    modules = {found for name in DOCUMENTS for found in re.findall(r"python -m ([\w.]+)", text(name))}
    assert sorted(module for module in modules if find_spec(module) is None) == []


def test_the_python_of_a_command_has_the_packages() -> None:
    """Operators are given the interpreter of the checkout, which alone has what ours need; a container has no other."""
    bare = re.compile(r"(?<!in a container )(?:^|`)python3? (?:config\.py|-m \w+)", re.MULTILINE)
    names = ["README.md", "README_PRODUCTION.md", "QUICKSTART.md", "SECURITY.md", *map(str, ROOT.glob("docs/*.md"))]
    found = [(name, one[0]) for name in names for one in bare.finditer(text(name))]
    assert [one for one in found if not one[1].endswith(("-m venv", "-m pip"))] == []


def test_addresses_in_curl_commands_exist(urls: Map) -> None:
    """Each curl command in the documents requests a route of the service."""
    adapter = urls.bind("127.0.0.1")
    for name in DOCUMENTS:
        for line in code_blocks(name).splitlines():
            if line.startswith("curl "):
                words = shlex.split(line)
                path = next(word for word in words if word.startswith("http://127.0.0.1:8085"))[21:]
                method = "POST" if {"-d", "-F"} & set(words) else "GET"
                try:
                    adapter.match(path.partition("?")[0], method=method)
                except HTTPException as error:
                    raise AssertionError(f"{name}: {method} {path}") from error


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """Each relative link has its target, and each fragment its heading."""
    for target in LINK.findall(text(name)):
        path, _, fragment = target.partition("#")
        goal = (ROOT / name).parent / path if path else ROOT / name
        assert goal.exists(), target
        if fragment:
            assert fragment in anchors(str(goal.resolve().relative_to(ROOT))), target


def test_panels_that_the_runbook_names_exist() -> None:
    """A title in quotes under "Alerts" is a panel of the dashboard."""
    alerts = text("docs/runbook.md").partition("\n## Alerts\n")[2]
    dashboard = json.loads(text("deploy/monitoring/grafana/dashboards/avito-ai.json"))
    titles = {panel.get("title") for panel in dashboard["panels"]}
    assert set(re.findall(r'"([A-Z][^"\n]+)"', alerts)) <= titles


def test_the_sizes_in_the_readme_are_those_of_the_script() -> None:
    """The download that is announced is the one that deploy.sh announces."""
    script = text("deploy/lib/install.sh")
    sizes = [found[1] for found in re.finditer(r"(?:CPU|CUDA|TEST)_DOWNLOAD_MB=(\d+)", script)]
    assert all(f"{size} MB" in text("README.md") for size in sizes)


@pytest.mark.parametrize("name", ["QUICKSTART.md", "QUICKSTART.ru.md"])
def test_torch_without_cuda_is_installed_by_hand_as_by_the_script(name: str) -> None:
    """The version that is pinned, from the same index, and nothing else from there."""
    index = re.search(r'^CPU_INDEX="(.+)"$', text("deploy/lib/install.sh"), re.MULTILINE)
    pin = re.search(r"^torch==\S+$", text("requirements.txt"), re.MULTILINE)
    assert index
    assert pin
    assert f"pip install --no-deps --index-url {index[1]} {pin[0]}\n" in text(name)


def test_the_default_address_is_the_same_everywhere() -> None:
    """Script, documents and settings agree on the port."""
    port = next(setting.default for setting in SETTINGS if setting.name == "PORT")
    assert f"setting PORT {port}" in text("deploy/lib/serve.sh")
    ports = {found for name in DOCUMENTS for found in re.findall(r"127\.0\.0\.1:(\d+)", text(name))}
    assert ports == {str(port)}


def test_the_usage_of_deploy_sh_names_what_it_reads() -> None:
    """`deploy.sh help` lists every command that works."""
    shown = subprocess.run(
        ["bash", "deploy.sh", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    assert commands("./deploy.sh") - {"production"} <= set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE))
