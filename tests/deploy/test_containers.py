"""Dockerfile and Compose files pass their linters and match the code: files, settings, ports, times."""

from __future__ import annotations

import ast
import fnmatch
import math
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import SETTINGS, load_settings
from deploy.health_check import PATH
from deploy.monitoring.render import read_settings
from edge.route_table import ROUTES, Need
from engine.model.kernels.build import LEVELS
from settings.sources import FOREIGN
from tests.test_lint import tool

ROOT = Path(__file__).parents[2]
SETTING = {setting.name: setting for setting in SETTINGS}
COMPOSE_FILES = ("compose.yaml", "deploy/compose/gpu.yaml", "deploy/compose/postgres.yaml", "deploy/compose/vllm.yaml")
# What does its work and exits.
ONCE = {"monitoring", "vllm-caches"}
# Where the image's command and its health check begin.
STARTS = ("gunicorn_config.py", "app_production.py", "deploy/health_check.py")
PINNED = re.compile(r"docker\.io/[a-z0-9_/-]+:v?\d+(\.\d+)+\S*|avito-ai:(cpu|cuda)")
SPARE_SECONDS = 10

Service = dict[str, Any]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(name))
    return found


SERVICES: dict[str, Service] = compose()["services"]
THE_SERVICE = SERVICES["avito-ai"]
# What the other files add, and do not change.
ADDED = {
    name: service
    for file in COMPOSE_FILES[1:]
    for name, service in compose(file)["services"].items()
    if name not in SERVICES
}

every_service = pytest.mark.parametrize("name", sorted(SERVICES | ADDED))


def instructions(word: str) -> list[str]:
    """Return the argument of a Dockerfile instruction, continued lines joined."""
    lines = text("Dockerfile").replace("\\\n", " ").splitlines()
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{word} ")]


def in_the_image(path: str) -> bool:
    """Return whether .dockerignore admits a file: the last line that matches it or a parent decides."""
    above = [path, *(str(folder) for folder in Path(path).parents)]
    taken = True
    for line in text(".dockerignore").splitlines():
        pattern = line.removeprefix("!")
        names = [name.rpartition("/")[2] for name in above] if pattern.startswith("**/") else above
        if line and not line.startswith("#") and any(fits(name, pattern.removeprefix("**/")) for name in names):
            taken = line.startswith("!")
    return taken


def fits(name: str, pattern: str) -> bool:
    """Match as Docker does: `*` stays within a folder's name."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def imported_files(start: str, known: set[str]) -> None:
    """Add a file of the tree and all its imports, transitively, to `known`."""
    if start in known:
        return
    known.add(start)
    for node in ast.walk(ast.parse(text(start))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for candidate in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
                if (ROOT / candidate).is_file():
                    imported_files(candidate, known)


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile passes its linter."""
    done = subprocess.run(
        [tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_is_imported_goes_into_the_image() -> None:
    """.dockerignore admits every module, and what the service reads at run time."""
    needed: set[str] = set()
    for start in STARTS:
        imported_files(start, needed)
    needed |= {
        str(path.relative_to(ROOT)) for name in ("engine", "telemetry/tracing") for path in (ROOT / name).rglob("*.py")
    }
    needed |= {
        "requirements.txt",
        "deploy/constraints-cuda.txt",
        "locales/ru.json",
        "static/app.js",
        "templates/base.html",
    }
    needed |= {f"demo/{name}/model.safetensors" for name in ("avibe", "avision")}
    needed |= {str(path.relative_to(ROOT)) for path in (ROOT / "engine/model/kernels").glob("*.[ch]")}
    assert sorted(path for path in needed if not in_the_image(path)) == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.production",
        ".git/config",
        "engine/.env",
        "models/model.safetensors",
        "deploy/compose/tls/privkey.pem",
        "deploy/compose/secrets/slack_webhook",
        "deploy/compose/postgres/password",
        "tests/conftest.py",
        "benchmarks/harness/load.py",
        "demo/train_avibe.py",
        "engine/__pycache__/errors.pyc",
        "engine/model/kernels/kernels-x86-64-v4-0123456789ab.so",
        "engine/model/kernels/.building-a1b2/kernels-x86-64-v4-0123456789ab.so",
        "service.log",
    ],
)
def test_secrets_weights_and_tools_stay_out(path: str) -> None:
    """No keys, real weights or development tools are in the image."""
    assert not in_the_image(path)


def test_the_kernels_are_built_for_every_processor_they_are_for() -> None:
    """They have a stage of their own, so that the final CPU image needs no compiler."""
    stages = text("Dockerfile").split("\nFROM ")
    kernels, final = (stage for stage in stages if "apt-get" in stage)
    assert kernels.startswith("${BASE} AS kernels")
    (built,) = re.findall(r"python3 build\.py (.*?);", kernels)
    assert set(built.split()) == set(LEVELS)
    assert "COPY --from=kernels /kernels engine/model/kernels" in text("Dockerfile")
    assert final.index('"$VARIANT" = cuda') < final.index("apt-get")


def test_the_kernels_for_a_gpu_have_a_folder_that_may_hold_programs() -> None:
    """The image's user owns it; Compose keeps it in a volume, since the root file system is read-only."""
    (environment,) = instructions("ENV")
    (folder,) = re.findall(r"TRITON_CACHE_DIR=(/\S+)/triton", environment)
    assert f"install --directory --owner=10001 --group=10001 {folder}" in text("Dockerfile")
    gpu = yaml.safe_load(text("deploy/compose/gpu.yaml"))
    assert f"kernels:{folder}" in gpu["services"]["avito-ai"]["volumes"]
    assert "kernels" in gpu["volumes"]


def test_the_health_check_asks_readiness_without_a_shell() -> None:
    """Its program is in the image and requests a probe's route; loading may take 15 minutes."""
    (line,) = instructions("HEALTHCHECK")
    assert line.endswith('CMD ["python", "-m", "deploy.health_check"]')
    assert "--start-period=15m" in line
    assert ROUTES[f"GET {PATH}"].need is Need.PROBE


def test_the_image_runs_gunicorn_itself_without_root() -> None:
    """Signals reach Gunicorn, which is process 1; the user is numeric, as Kubernetes requires."""
    assert instructions("CMD") == ['["python", "-m", "gunicorn", "-c", "gunicorn_config.py", "app_production:app"]']
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("EXPOSE") == [str(SETTING["PORT"].default)]


def test_one_argument_chooses_the_variant() -> None:
    """It becomes the service's DEVICE, with the same values, and the base image is pinned."""
    arguments = dict(line.split("=", 1) for line in instructions("ARG") if "=" in line)
    assert arguments["VARIANT"] == "cpu"
    assert PINNED.fullmatch(arguments["BASE"])
    (environ,) = instructions("ENV")
    assert "DEVICE=${VARIANT}" in environ
    for variant in ("cpu", "cuda"):
        assert load_settings({"ENVIRONMENT": "production", "DEVICE": variant}, None).model.device == variant


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_are_of_their_schema(name: str) -> None:
    """The Compose specification's own schema finds no mistake."""
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout


@every_service
def test_every_container_is_held_in(name: str) -> None:
    """The root is read-only, no privileges can be gained; memory, processes and logs are bounded."""
    service = (SERVICES | ADDED)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


@every_service
def test_every_image_is_pinned(name: str) -> None:
    """A restart next year runs the same images."""
    assert PINNED.fullmatch((SERVICES | ADDED)[name]["image"])


@every_service
def test_every_dependency_and_file_exists(name: str) -> None:
    """Dependencies, networks, volumes and mounted files exist."""
    service, whole = (SERVICES | ADDED)[name], compose()
    volumes = set().union(*(compose(file).get("volumes", {}) for file in COMPOSE_FILES))
    assert set(service.get("depends_on", {})) <= set(SERVICES | ADDED)
    assert set(service.get("networks", [])) <= set(whole["networks"])
    for mount in service.get("volumes", []):
        if mount.startswith("${MODELS_DIR:"):  # the operator's
            continue
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")[0]
        assert (ROOT / source).exists() if source.startswith("./") else source in volumes


def test_what_clients_send_does_not_fill_the_memory() -> None:
    """A tmpfs counts as memory: nginx keeps bodies in a volume, at most so many large ones; the service has a bound."""
    nginx, script = SERVICES["nginx"], text("deploy/compose/nginx.sh")
    folder = "/var/cache/nginx"
    assert f"nginx:{folder}" in nginx["volumes"]
    assert not [place for place in nginx["tmpfs"] if folder.startswith(place)]
    assert f"rm -rf {folder}/*" in script
    site = text("deploy/nginx/avito-ai.conf")
    limits = {name: int(most) for name, most in re.findall(r"limit_conn (avito_ai_large_bodies\w*) (\d+);", script)}
    assert set(limits) == set(re.findall(r"zone=(avito_ai_large_bodies\w*):", site))
    assert limits["avito_ai_large_bodies_of_client"] * 2 <= limits["avito_ai_large_bodies"]
    included = re.findall(r"include (/\S*)/\*\.conf;", site)
    assert [place for place in included if place in nginx["tmpfs"] and f">{place}/" in script] == included
    (size,) = re.findall(r"/tmp:size=(\d+)m", " ".join(THE_SERVICE["tmpfs"]))
    assert int(size) > SETTING["MAX_BODIES_MIB"].default


def test_nginx_has_as_many_workers_as_its_memory_is_for(tmp_path: Path) -> None:
    """One for each core, as its image has it, would on a large machine be too many for the limit of the container."""
    (line,) = [line for line in text("deploy/compose/nginx.sh").splitlines() if line.startswith("sed ")]
    (tmp_path / "nginx.conf").write_text("user  nginx;\nworker_processes  auto;\n")
    line = line.replace("/etc/nginx/", f"{tmp_path}/").replace("/run/nginx.conf", f"{tmp_path}/run.conf")
    subprocess.run(["bash", "-c", line], check=True)
    assert (tmp_path / "run.conf").read_text() == "user  nginx;\nworker_processes 2;\n"


def test_vllm_can_write_where_its_home_is() -> None:
    """A new volume is root's unless the image has its folder; vLLM begins when it is its user's."""
    caches = ADDED["vllm-caches"]
    owner, *folders = caches["command"][1:]
    given = dict(mount.split(":") for mount in caches["volumes"])
    for name in ("vllm-avibe", "vllm-avision"):
        service = ADDED[name]
        assert (service["user"], service["environment"]["HOME"]) == (owner, "/cache")
        assert service["environment"]["USER"]
        (cache,) = [mount.split(":")[0] for mount in service["volumes"] if mount.endswith(":/cache")]
        assert given[cache] in folders
        assert service["depends_on"]["vllm-caches"] == {"condition": "service_completed_successfully"}
    assert caches["cap_add"] == ["CHOWN"]


@pytest.mark.linux
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
@pytest.mark.parametrize("given", [True, False])
def test_the_monitoring_reads_a_checkout_of_somebody_else(tmp_path: Path, given: bool) -> None:
    """Whose umask lets nobody else read it: by the capabilities that it has, and by no fewer."""
    monitoring = SERVICES["monitoring"]
    checkout, output = tmp_path / "monitoring", tmp_path / "output"
    shutil.copytree(ROOT / "deploy/monitoring", checkout)
    shutil.copy(ROOT / "deploy/compose/monitoring.env", checkout)
    for path in (checkout, *checkout.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o077)
        os.chown(path, 1000, 1000)
    capabilities = ["-all", *(f"+{name.lower()}" for name in monitoring["cap_add"])] if given else ["-all"]
    command = ["setpriv", f"--bounding-set={','.join(capabilities)}", "--inh-caps=-all", "python3"]
    words = [str(checkout / "render.py"), "--settings", str(checkout / "monitoring.env"), "--output", str(output)]
    done = subprocess.run([*command, *words], capture_output=True, check=False, timeout=600)
    assert (done.returncode == 0, (output / "prometheus/prometheus.yml").exists()) == (given, given), done.stderr


def test_everybody_reads_the_code_of_the_image_whatever_the_umask(tmp_path: Path) -> None:
    """The checkout may be readable by its owner only; the service is a user of its own."""
    code = text("Dockerfile").partition("AS code\n")[2].partition("\nFROM ")[0].splitlines()
    (step,) = [number for number, line in enumerate(code) if line.startswith("RUN chmod ")]
    assert max(number for number, line in enumerate(code) if line.startswith("COPY ")) < step
    assert "compileall" in code[step + 1]  # whose files have the modes of their sources
    (tmp_path / "deploy").mkdir()
    for name, mode in (("config.py", 0o600), ("deploy/engine.sh", 0o700)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "deploy").chmod(0o700)
    subprocess.run(
        ["sh", "-ec", code[step].removeprefix("RUN ").removesuffix("\\")], cwd=tmp_path, check=True, timeout=600
    )
    found = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".", "deploy", "config.py", "deploy/engine.sh")
    ]
    assert found == [0o755, 0o755, 0o644, 0o755]


def test_only_the_site_is_reached_from_outside() -> None:
    """nginx has the web ports; metrics and alerts listen on loopback, the service and Redis have no port."""
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert ports.pop("nginx") == ["80:80", "443:443"]
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert ports["avito-ai"] == ports["redis"] == []


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_every_name_of_the_environment_is_a_setting(name: str) -> None:
    """Compose sets only settings, to values that are valid in production."""
    environ = {key: str(value) for key, value in compose(name)["services"]["avito-ai"]["environment"].items()}
    files = {key for key in environ if key.endswith("_FILE") and key not in SETTING}
    assert all(SETTING[key.removesuffix("_FILE")].secret for key in files)
    environ = {key: value for key, value in environ.items() if key not in files}
    assert set(environ) <= set(SETTING)
    assert load_settings({"ENVIRONMENT": "production", **environ}, None).production


def test_what_compose_asks_of_the_env_file_is_no_mistake_there() -> None:
    """The service and Compose read the same .env, and neither rejects the other's lines; of one setting both know."""
    asked = {found for name in COMPOSE_FILES for found in re.findall(r"\$\{(\w+)", text(name))}
    assert asked == {"DOMAIN", "TLS_DIR", "MODELS_DIR", "REQUEST_TIMEOUT"}
    assert asked - FOREIGN == {"REQUEST_TIMEOUT"}
    assert f"${{REQUEST_TIMEOUT:-{SETTING['REQUEST_TIMEOUT'].default:g}}}" in text("compose.yaml")


def test_no_container_has_a_secret_in_its_environment() -> None:
    """It is in a file that git does not know, mounted into those containers alone that ask for it."""
    overlay = compose("deploy/compose/postgres.yaml")
    for service in overlay["services"].values():
        named = {name for name in service.get("environment", {}) if re.search("PASS|KEY|SECRET|TOKEN|URL", name)}
        assert all(name.endswith("_FILE") for name in named)
        paths = {service["environment"][name] for name in named}
        assert paths == {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        assert set(service.get("secrets", ())) <= set(overlay["secrets"])
    folders = {Path(secret["file"]).parent for secret in overlay["secrets"].values()}
    assert {text(str(folder / ".gitignore")) for folder in folders} == {"*\n!.gitignore\n"}


def test_the_containers_find_each_other() -> None:
    """The site, the rate limits and the scrape use the ports of the service and Redis."""
    port = THE_SERVICE["environment"]["PORT"]
    assert port == SETTING["PORT"].default
    assert f" avito-ai:{port} " in text("deploy/compose/nginx.sh")
    assert THE_SERVICE["environment"]["RATE_LIMIT_STORAGE"] == "redis://redis:6379/0"
    for one, other in (
        ("nginx", "avito-ai"),
        ("prometheus", "avito-ai"),
        ("avito-ai", "redis"),
        ("grafana", "prometheus"),
    ):
        assert set(SERVICES[one]["networks"]) & set(SERVICES[other]["networks"])


def test_the_monitoring_is_configured_for_these_containers() -> None:
    """Its settings are read by the program that renders them, and its targets are services of the file."""
    settings = read_settings(text("deploy/compose/monitoring.env"))
    for name in ("SERVICE_TARGETS", "ALERTMANAGER_TARGET", "BLACKBOX_TARGET", "REDIS_EXPORTER_TARGET"):
        assert settings[name].partition(":")[0] in SERVICES
    with_database = compose("deploy/compose/postgres.yaml")["services"]["monitoring"]["command"]
    assert [word for word in with_database if word in SERVICES["monitoring"]["command"]] == SERVICES["monitoring"][
        "command"
    ]
    (added,) = re.findall(r"POSTGRES_EXPORTER_TARGET=([\w-]+):9187", " ".join(with_database))
    assert added in ADDED
    folder = "/etc/avito-ai"
    assert settings["DASHBOARDS"] == f"{folder}/grafana/dashboards"
    for name in ("prometheus", "alertmanager", "blackbox", "grafana"):
        assert f"monitoring:{folder}:ro" in SERVICES[name]["volumes"]


def test_a_stop_is_given_the_time_of_the_drain() -> None:
    """Compose kills only after the drain and the last responses."""
    server = load_settings({}, None).server
    grace = int(THE_SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace >= math.ceil(server.drain_delay + server.drain_seconds) + 5 + SPARE_SECONDS


def test_the_gpu_file_mounts_the_models_where_the_settings_look() -> None:
    """The real models are read-only at the settings' own folders, and one GPU is reserved."""
    service = compose("deploy/compose/gpu.yaml")["services"]["avito-ai"]
    mount, _ = service["volumes"]
    folder = mount.split(":")[-2]
    for name in ("VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR", "VISION_MODEL_DIR"):
        assert service["environment"][name] == str(SETTING[name].default)
        assert str(SETTING[name].default).startswith(f"{folder}/")
    assert mount.endswith(":ro")
    (gpu,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (gpu["driver"], len(gpu["device_ids"]), gpu["capabilities"]) == ("nvidia", 1, ["gpu"])


def test_secrets_of_compose_are_in_no_release(tmp_path: Path) -> None:
    """A checkout that also runs Compose installs a release of what is not secret."""
    for folder in ("tls", "secrets", "postgres"):
        (tmp_path / "deploy/compose" / folder).mkdir(parents=True)
        (tmp_path / "deploy/compose" / folder / "word").write_text("x")
    (tmp_path / "deploy/compose/postgres.yaml").write_text("x")
    line = ". deploy/lib/release.sh && tree_files " + str(tmp_path)
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "./deploy/compose/postgres.yaml\0"
