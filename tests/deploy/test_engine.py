"""deploy/engine.sh changes between our engine and vLLM's by two settings, and back if the other does not start."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from config import SETTINGS, load_settings
from tests.system_process import ROOT

DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
OTHERS = "# mine\nADMIN_KEY=0123456789abcdef\n"
# Files say what runs: `stopped` and `loads` are of the service; `loads` has the settings that it has read.
SYSTEMCTL = """#!/bin/sh
case "$*" in show* | is-*) ;; *) echo "$*" >>"{folder}/calls" ;; esac
vllm() {{ [ -e "{folder}/vllm-$1" ]; }}
serve() {{
    [ ! -e "{folder}/service-fails" ] || {{ rm "{folder}/service-fails"; exit 1; }}
    cp "{folder}/etc/avito-ai/.env" "{folder}/serves"
    rm -f "{folder}/stopped" "{folder}/loads"
}}
case "$*" in
"disable "*vllm* | "stop "*vllm* | "start "*vllm*)
    [ -e "{folder}/etc/systemd/system/avito-ai-vllm@.service" ] || {{ echo "$2: no such unit" >&2; exit 5; }} ;;
esac
case "$*" in
"show "*" avito-ai")
    if [ -e "{folder}/stopped" ]; then echo inactive
    elif [ -e "{folder}/loads" ]; then echo activating
    else echo active; fi ;;
"show "*" avito-ai-vllm@"*)
    if vllm runs; then echo active; elif vllm loads; then echo activating; else echo failed; fi ;;
"is-active --quiet avito-ai") [ ! -e "{folder}/stopped" ] && [ ! -e "{folder}/loads" ] ;;
"is-active --quiet avito-ai-vllm@"*) vllm runs ;;
"is-enabled --quiet avito-ai-vllm@"*) vllm enabled ;;
"stop avito-ai-vllm@"*) rm -f "{folder}/vllm-runs" "{folder}/vllm-loads" ;;
"stop avito-ai"*)
    touch "{folder}/stopped"
    case "$*" in *vllm*) rm -f "{folder}/vllm-runs" "{folder}/vllm-loads" ;; esac ;;
"start avito-ai") if [ -e "{folder}/loads" ]; then mv "{folder}/loads" "{folder}/serves"; else serve; fi ;;
"reload avito-ai" | "restart avito-ai") serve ;;
"disable avito-ai-vllm@"*) rm -f "{folder}/vllm-enabled" ;;
"disable --now "*) rm -f "{folder}/vllm-runs" "{folder}/vllm-loads" "{folder}/vllm-enabled" ;;
"start avito-ai-vllm@"*) vllm loads || touch "{folder}/vllm-runs" ;;
"enable --now "*)
    touch "{folder}/vllm-enabled"
    if [ -e "{folder}/ended-by" ]; then kill -s "$(cat "{folder}/ended-by")" "$PPID"; fi
    ! vllm fails && touch "{folder}/vllm-runs" ;;
esac
"""
UNITS = "avito-ai-vllm@avibe avito-ai-vllm@avision"


class Installed:
    """An installation below `folder`, with a systemctl that records its calls, and an `id` that says root."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, folder / "etc/avito-ai/.env"
        for name, text in (("systemctl", SYSTEMCTL.format(folder=folder)), ("id", "#!/bin/sh\necho 0\n")):
            self.program(folder / "bin" / name, text)
        self.program(folder / "opt/avito-ai/vllm/bin/vllm", "#!/bin/sh\n")
        self.settings.parent.mkdir(parents=True)
        self.settings.write_text(OTHERS)

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def change(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").write_text("")
        command = ["env", "--default-signal", "bash", str(ROOT / "deploy/engine.sh"), *arguments]
        environ = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "AVITO_AI_ROOT": str(self.folder)} | extra
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_vllm_starts_before_the_service_asks_it(installed: Installed) -> None:
    """Units and their files are installed, both models started, the two settings written, the service reloaded."""
    done = installed.change("vllm")
    assert done.returncode == 0, done.stderr
    assert installed.calls() == ["daemon-reload", f"enable --now {UNITS}", "reload avito-ai"]
    upstreams = "VIBE_UPSTREAM=http://127.0.0.1:8001/v1\nVISION_UPSTREAM=http://127.0.0.1:8002/v1\n"
    assert installed.settings.read_text() == OTHERS + upstreams
    for name in ("avito-ai-vllm@.service", "avito-ai-vllm@avision.service.d/order.conf"):
        assert (installed.folder / "etc/systemd/system" / name).exists()


@pytest.mark.parametrize(
    ("settings", "cards"),
    [
        ("", ("0", "0")),
        ("CUDA_VISIBLE_DEVICES=1\n", ("1", "1")),
        ("CUDA_VISIBLE_DEVICES=1\n export CUDA_VISIBLE_DEVICES = '3'\n", ("3", "3")),
        ('CUDA_VISIBLE_DEVICES="2,3"\nVISION_DEVICE=cuda:1\n', ("2", "3")),
        ("CUDA_VISIBLE_DEVICES=GPU-aa,GPU-bb\nVIBE_DEVICE=cuda:1\nVISION_DEVICE=cuda\n", ("GPU-bb", "GPU-aa")),
        ("VIBE_DEVICE=cuda:2\n# CUDA_VISIBLE_DEVICES=7\n", ("2", "0")),
    ],
)
def test_vllm_gets_the_cards_of_the_service(installed: Installed, settings: str, cards: tuple[str, str]) -> None:
    """Of each model its own; what the operator has changed in its file stays."""
    installed.settings.write_text(OTHERS + settings)
    assert installed.change("vllm").returncode == 0
    files = [installed.folder / f"etc/avito-ai/vllm-{model}.env" for model in ("avibe", "avision")]
    for file, card in zip(files, cards, strict=True):
        assert f"\nCUDA_VISIBLE_DEVICES={card}\n" in file.read_text()
        assert "\nMODEL=/mnt/data/avito/" in file.read_text()
    files[0].write_text("PORT=8009\nOPTIONS=\n")
    assert installed.change("vllm").returncode == 0
    assert files[0].read_text() == "PORT=8009\nOPTIONS=\n"


def test_our_engine_serves_before_vllm_stops(installed: Installed) -> None:
    """The settings are as they were before; twice changes nothing more."""
    for arguments in ("vllm", "vllm", "own", "own"):
        assert installed.change(arguments).returncode == 0
    assert installed.calls() == ["reload avito-ai", f"disable --now {UNITS}"]
    assert installed.settings.read_text() == OTHERS


def test_vllm_that_does_not_start_changes_nothing(installed: Installed) -> None:
    """The service is told nothing of it, and goes on."""
    (installed.folder / "vllm-fails").touch()
    done = installed.change("vllm")
    assert (done.returncode, "our own engine serves on" in done.stderr) == (1, True)
    assert as_before(installed)


@pytest.mark.parametrize("target", ["vllm", "own"])
def test_a_service_that_does_not_take_it_goes_back(installed: Installed, target: str) -> None:
    """The settings return, and the engine that served is started again."""
    if target == "own":
        installed.change("vllm")
    before = installed.settings.read_text()
    (installed.folder / "service-fails").touch()
    assert installed.change(target).returncode == 1
    assert installed.settings.read_text() == before
    assert installed.calls()[-1] == "reload avito-ai"
    assert (f"start {UNITS}" in installed.calls()) is (target == "own")


def test_a_card_that_holds_one_engine_is_freed_first(installed: Installed) -> None:
    """With --stop-first the service stops before vLLM loads, and starts after it."""
    assert installed.change("vllm", "--stop-first").returncode == 0
    calls = installed.calls()
    assert calls.index("stop avito-ai") < calls.index(f"enable --now {UNITS}") < calls.index("start avito-ai")
    assert installed.change("own", "--stop-first").returncode == 0
    assert f"stop avito-ai {UNITS}" in installed.calls()


def as_before(installed: Installed) -> bool:
    """Tell whether the service runs with its own engine, and vLLM does not, also after the next boot."""
    names = ("stopped", "vllm-runs", "vllm-enabled", "etc/avito-ai/.env.before")
    return not any((installed.folder / name).exists() for name in names) and installed.settings.read_text() == OTHERS


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
@pytest.mark.parametrize("options", [(), ("--stop-first",)])
def test_a_change_that_is_ended_is_taken_back(installed: Installed, name: str, options: tuple[str, ...]) -> None:
    """vLLM loads for minutes, while the operator loses patience or the connection."""
    (installed.folder / "ended-by").write_text(name)
    done = installed.change("vllm", *options)
    assert done.returncode == 128 + signal.Signals[f"SIG{name}"]
    assert as_before(installed)
    assert ("start avito-ai" in installed.calls()) is bool(options)


def test_a_change_that_fails_anywhere_is_taken_back(installed: Installed) -> None:
    """The settings that cannot be written, for instance; the service was stopped by then."""
    installed.settings.with_name(".env.new").mkdir()
    assert installed.change("vllm", "--stop-first").returncode == 1
    assert as_before(installed)


def test_a_second_change_that_is_ended_leaves_vllm_as_it_runs(installed: Installed) -> None:
    """It was not this run that started it."""
    installed.change("vllm")
    (installed.folder / "ended-by").write_text("TERM")
    installed.change("vllm", "--stop-first")
    assert (installed.folder / "vllm-runs").exists()
    assert not (installed.folder / "stopped").exists()
    assert not any(call.startswith("disable") for call in installed.calls())


@pytest.mark.parametrize("options", [(), ("--stop-first",)])
@pytest.mark.parametrize("loads", [True, False])
def test_vllm_that_does_not_serve_yet_stays_what_it_is(
    installed: Installed, loads: bool, options: tuple[str, ...]
) -> None:
    """It loads for minutes or has failed, and our own engine does not start either; the settings name it again."""
    installed.change("vllm")
    before = installed.settings.read_text()
    (installed.folder / "vllm-runs").rename(installed.folder / ("vllm-loads" if loads else "not-there"))
    (installed.folder / "service-fails").touch()
    assert installed.change("own", *options).returncode == 1
    assert installed.settings.read_text() == before
    assert (f"start {UNITS}" in installed.calls()) is loads
    assert (installed.folder / "vllm-enabled").exists()
    assert not any(call.startswith("disable") for call in installed.calls())
    assert loads or not (installed.folder / "vllm-runs").exists()


@pytest.mark.parametrize("options", [(), ("--stop-first",)])
def test_our_engine_takes_over_from_another_server(installed: Installed, options: tuple[str, ...]) -> None:
    """vLLM was never installed here, so there are no units of it."""
    installed.settings.write_text(f"{OTHERS}VIBE_UPSTREAM=http://elsewhere/v1\n")
    done = installed.change("own", *options)
    assert (done.returncode, "Our own engine computes" in done.stdout) == (0, True), done.stderr
    assert installed.settings.read_text() == OTHERS
    assert not any("vllm" in call for call in installed.calls())


@pytest.mark.parametrize("target", ["vllm", "own"])
def test_a_service_that_loads_reads_the_new_settings(installed: Installed, target: str) -> None:
    """A start would wait for the process that has read those of before, and tell what is not so."""
    if target == "own":
        installed.change("vllm")
    installed.settings.rename(installed.folder / "loads")
    installed.settings.write_text((installed.folder / "loads").read_text())
    assert installed.change(target).returncode == 0
    assert (installed.folder / "serves").read_text() == installed.settings.read_text()
    assert ("UPSTREAM" in (installed.folder / "serves").read_text()) is (target == "vllm")


def test_what_the_operator_changed_is_kept(installed: Installed) -> None:
    """Ports and shares of memory are the operator's; the settings follow them."""
    installed.change("vllm")
    file = installed.folder / "etc/avito-ai/vllm-avibe.env"
    file.write_text(file.read_text().replace("PORT=8001", "PORT=9001"))
    assert installed.change("vllm").returncode == 0
    assert "VIBE_UPSTREAM=http://127.0.0.1:9001/v1\n" in installed.settings.read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((), "usage"), (("ray",), "usage"), (("vllm", "--now"), "usage"), (("own", "x", "y"), "usage")],
)
def test_what_cannot_be_meant_is_refused(installed: Installed, arguments: tuple[str, ...], word: str) -> None:
    """Nothing is called."""
    done = installed.change(*arguments)
    assert (done.returncode, word in done.stderr, installed.calls()) == (1, True, [])


def test_a_missing_vllm_is_named_with_its_remedy(installed: Installed) -> None:
    """The two commands that install it."""
    (installed.folder / "opt/avito-ai/vllm/bin/vllm").unlink()
    assert "pip install vllm" in installed.change("vllm").stderr


def options_of(words: list[str]) -> dict[str, str]:
    """Return the options of a command line, "" for a flag."""
    joined = " ".join(word.replace("=", " ", 1) if word.startswith("--") else word for word in words)
    pairs = (part.partition(" ")[::2] for part in joined.split("--")[1:])
    return {name: value.strip() for name, value in pairs}


@pytest.mark.parametrize(("model", "prefix"), [("avibe", "VIBE"), ("avision", "VISION")])
def test_systemd_and_compose_serve_the_same(model: str, prefix: str) -> None:
    """Folder, name, context and format; the shares of both models fit onto the card."""
    environ = dict(
        line.split("=", 1)
        for line in (ROOT / f"deploy/vllm/{model}.env").read_text().splitlines()
        if not line.startswith("#")
    )
    compose = yaml.safe_load((ROOT / "deploy/compose/vllm.yaml").read_text())["services"]
    theirs = options_of(compose[f"vllm-{model}"]["command"])
    ours = options_of(shlex.split(environ["OPTIONS"]))  # systemd takes words and quotes as a shell does
    assert theirs.pop("model") == environ["MODEL"] == str(DEFAULTS[f"{prefix}_MODEL_DIR"])
    assert theirs.pop("served-model-name") == model
    unit = (ROOT / "deploy/systemd/avito-ai-vllm@.service").read_text()
    assert f"--shutdown-timeout {theirs.pop('shutdown-timeout')} " in unit
    assert ours == theirs
    assert int(ours["max-model-len"]) == DEFAULTS["MAX_MODEL_LEN"]
    assert 2 * float(ours["gpu-memory-utilization"]) < 0.95


def test_what_stops_vllm_gives_it_the_time_that_its_streams_have() -> None:
    """Without the option it aborts them; killed within that time, it breaks them off."""
    unit = (ROOT / "deploy/systemd/avito-ai-vllm@.service").read_text()
    times = {"systemd": tuple(int(re.search(rf"{name}[= ](\d+)", unit)[1]) for name in ("timeout", "TimeoutStopSec"))}
    assert "KillMode=mixed" in unit
    for model in ("avibe", "avision"):
        service = yaml.safe_load((ROOT / "deploy/compose/vllm.yaml").read_text())["services"][f"vllm-{model}"]
        waits = int(service["stop_grace_period"].removesuffix("s"))
        times[f"compose {model}"] = int(options_of(service["command"])["shutdown-timeout"]), waits
        pod = next(yaml.safe_load_all((ROOT / f"deploy/kubernetes/overlays/vllm/{model}.yaml").read_text()))
        spec = pod["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        before = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
        streams = int(options_of(container["args"])["shutdown-timeout"])
        times[f"kubernetes {model}"] = streams, spec["terminationGracePeriodSeconds"] - before
        assert streams >= DEFAULTS["REQUEST_TIMEOUT"]
    assert {name: streams for name, (streams, limit) in times.items() if streams + 5 > limit} == {}


def test_the_service_of_compose_asks_both() -> None:
    """The addresses are those of the services, which must be healthy first."""
    services = yaml.safe_load((ROOT / "deploy/compose/vllm.yaml").read_text())["services"]
    settings = load_settings(services["avito-ai"]["environment"], None)
    assert settings.upstream.vibe_upstream == ("http://vllm-avibe:8000/v1",)
    assert settings.upstream.vision_upstream == ("http://vllm-avision:8000/v1",)
    healthy = {"condition": "service_healthy"}
    assert services["avito-ai"]["depends_on"] == {"vllm-avibe": healthy, "vllm-avision": healthy}


def test_the_unit_reads_what_the_files_hold() -> None:
    """Each variable of the unit's command is in both files, and the second model waits for the first."""
    unit = (ROOT / "deploy/systemd/avito-ai-vllm@.service").read_text()
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    names = {word.strip("${}") for word in shlex.split(start) if word.startswith("$")}
    for model in ("avibe", "avision"):
        text = (ROOT / f"deploy/vllm/{model}.env").read_text()
        assert all(f"\n{name}=" in text for name in names)
    assert "After=avito-ai-vllm@avibe.service" in (ROOT / "deploy/vllm/order.conf").read_text()
    assert "Before=avito-ai.service" in unit


@pytest.mark.parametrize("alive", [True, False])
def test_a_start_ends_with_the_process_or_its_first_answer(tmp_path: Path, alive: bool) -> None:
    """It is awaited until it answers, and given up once the process has ended."""
    Installed.program(
        tmp_path / "curl", f'#!/bin/sh\n[ -e "{tmp_path}/asked" ] && exit 0\n> "{tmp_path}/asked"\nexit 7\n'
    )
    ended = subprocess.Popen(["true"])
    ended.wait()
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": "8001"}
    environ["MAINPID"] = str(os.getpid() if alive else ended.pid)
    done = subprocess.run(["bash", str(ROOT / "deploy/vllm/wait.sh")], env=environ, check=False, timeout=600)
    assert done.returncode == (0 if alive else 1)


MEANT_FOR_ANOTHER = (
    "VIBE_UPSTREAM_MODEL=Qwen/Qwen3-8B\nexport VISION_UPSTREAM_KEY=secret\n  VIBE_UPSTREAM_ROLE = first\n"
)


@pytest.mark.parametrize("target", ["vllm", "own"])
def test_what_was_meant_for_another_server_does_not_count(installed: Installed, target: str) -> None:
    """Its name of the model, its key and its role become comments, of which the operator is told, values not shown."""
    installed.settings.write_text(f"{OTHERS}VIBE_UPSTREAM=http://elsewhere/v1\n{MEANT_FOR_ANOTHER}")
    done = installed.change(target)
    assert "VIBE_UPSTREAM_MODEL VISION_UPSTREAM_KEY VIBE_UPSTREAM_ROLE" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    lines = installed.settings.read_text().splitlines()
    assert [line for line in lines if "UPSTREAM_" in line and not line.startswith("#")] == []
    assert all(f"# {line}" in lines for line in MEANT_FOR_ANOTHER.splitlines())
    assert "elsewhere" not in installed.settings.read_text()
    assert "UPSTREAM_" not in installed.change(target).stdout


def test_the_settings_are_replaced_in_one_step(installed: Installed) -> None:
    """Whoever has the file open reads it as it was; mode and a link of its name stay, and no copy is left."""
    real = installed.folder / "kept.env"
    installed.settings.rename(real)
    installed.settings.symlink_to(real)
    real.chmod(0o640)
    real.write_text(OTHERS.removesuffix("\n"))  # whose last line does not end
    with real.open() as reader:
        assert installed.change("vllm").returncode == 0
        assert reader.read() == OTHERS.removesuffix("\n")
    assert installed.settings.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_text().startswith(f"{OTHERS}VIBE_UPSTREAM=")
    assert not [*installed.folder.glob("*.new"), *installed.folder.glob("*.before")]


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ('--dtype half --limit-mm-per-prompt {"image":4}', """--limit-mm-per-prompt '{"image":4}'"""),
        ('--limit-mm-per-prompt={"image":4} --port 1', """--limit-mm-per-prompt '{"image":4}'"""),
        ('--limit-mm-per-prompt "{"image":4}"', """--limit-mm-per-prompt '{"image":4}'"""),
        ("""'--a {"b":{"c":1}}'""", """--a '{"b":{"c":1}}'"""),
        ("""--limit-mm-per-prompt '{"image":4}'""", ""),
        ("""--a '{"b": {"c": 1}}' --d={}""", ""),
        ("""--chat-template '{% if "x" %}{{"y"}}{% endif %}'""", ""),
    ],
)
def test_json_that_systemd_would_take_the_quotes_of_is_not_started(
    installed: Installed, options: str, right: str
) -> None:
    """A file of an earlier release stays the operator's, who is told what to write."""
    file = installed.settings.with_name("vllm-avision.env")
    text = f"MODEL=/m\nPORT=8002\nOPTIONS={options}\n"
    file.write_text(text)
    done = installed.change("vllm")
    assert done.returncode == bool(right)
    assert bool(right) is (f"{file}: vLLM does not start" in done.stderr)
    assert f"Write {right} there." in done.stderr or not right
    assert file.read_text() == text
    assert not right or not any("enable" in call for call in installed.calls())
