"""A Debian that is not this machine, for running `deploy.sh production` to its end: systemd, apt and users are programs
of the test that keep their state in files, everything else is real.

systemctl starts "services" that are nothing but a number and a link `proc/NUMBER/cwd` to the release that `current`
names; files in `control` make one of its verbs, the service's answers or its checks fail.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sandbox import Sandbox

# A shell cannot trap what was ignored when it began, as SIGINT is in the background of a script and SIGHUP under nohup;
# what holds here must not depend on how the tests themselves were started.
DEPLOY = ["env", "--default-signal", "bash"]

TOOLS = (
    "cmp comm date false find getent gzip flock ln ls mktemp readlink rmdir sha256sum sort stat tar touch true wc xargs"
).split()

SYSTEMCTL = """
echo "systemctl $*" >>"{log}"
state="{control}/state"; pid="{control}/pid"; current="{system}/opt/avito-ai/current"
verb="$1"; for unit; do :; done
run_service() {{
    number=$(($(cat "$pid" 2>/dev/null || echo 4000) + 1))
    echo "$number" >"$pid"; mkdir -p "{system}/proc/$number"
    ln -sfn "$(readlink -f "$current")" "{system}/proc/$number/cwd"; echo active >"$state"
}}
case "$*" in
"--version") cat "{control}/systemd" 2>/dev/null || echo "systemd 252 (252.38-1)" ;;
*"--property MainPID"*) cat "$pid" 2>/dev/null || echo 0 ;;
*"--property ActiveState"*) cat "$state" 2>/dev/null || echo inactive ;;
*"--property"*) echo "a moment" ;;
"start avito-ai-check.service")
    cp "{system}/run/systemd/system/avito-ai-check.service" "{control}/checked-unit"
    cat "{control}/check-report" >"{system}/opt/avito-ai/deploy-state/sandbox-check"
    [ ! -e "{control}/check-fails" ] ;;
"reload avito-ai.service"|"restart avito-ai.service")
    if [ -e "{control}/$verb-waits" ]; then rm "{control}/$verb-waits"; echo >"{control}/waiting"; sleep 600; fi
    if [ -e "{control}/$verb-fails" ] && [ "$(readlink "$current")" != "$(cat "{control}/good")" ]; then
        if [ "$verb" = restart ]; then echo failed >"$state"; rm -f "$pid"; fi
        exit 1
    fi
    run_service ;;
"is-active --quiet avito-ai.service") [ "$(cat "$state" 2>/dev/null)" = active ] ;;
"start --no-block avito-ai.service") run_service ;;
"stop avito-ai.service") echo inactive >"$state"; rm -f "$pid" ;;
esac
"""
PYTHON_CASES = """
*"-m deploy.smoke"*) echo "smoke of $(pwd)" >>"{log}"; [ ! -e "{control}/smoke-fails" ]; exit ;;
*"-m engine.model.kernels.build"*) echo "kernels in $(pwd)" >>"{log}"; [ ! -e "{control}/kernels-fail" ]; exit ;;
*"-m deploy.probe port "*) echo free; exit ;;
*"-m deploy.ask"*) echo "asked for answers" >>"{log}"; [ ! -e "{control}/deaf" ]; exit ;;
*"-m deploy.service listens"*) cat "{control}/listens"; exit ;;
*"-m deploy.service url"*) echo http://127.0.0.1:8085; exit ;;
*"-m deploy.service state"*) [ ! -e "{control}/unready" ]; exit ;;
*"-m keys"*|*"-m deploy.keys"*) echo "$* $ENVIRONMENT $STATE_DIRECTORY $(pwd) ${{SECRET:-clean}}"; exit ;;
*"-m compileall"*) exit ;;
*"Python.h"*) [ -e "{control}/python-headers" ]; exit ;;
*"realpath(sys.executable)"*) cat "{control}/python-lies-at"; exit ;;
"""


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, which does not outlive a test that fails in its block."""
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


class ProductionBox(Sandbox):
    """The checkout of Sandbox, and a bare Debian 12 in `system`, whose ports are free whatever this machine's are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.system, self.control = folder / "system", folder / "control"
        self.words = {"log": self.log, "control": self.control, "system": self.system}
        self.control.mkdir()
        for name in ("etc", "run/systemd/system", "proc", "sys"):
            (self.system / name).mkdir(parents=True)
        self.os_release("debian", "12")
        for part in ("avito-ai.service", "gunicorn_config.py", ".gitignore"):
            self._copy(part)
        shutil.rmtree(self.root / "deploy/monitoring", ignore_errors=True)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or "")
        self._programs()

    def _programs(self) -> None:
        control = self.control
        self.tool("systemctl", SYSTEMCTL.format(**self.words))
        self.tool("journalctl", 'echo "The service cannot start: the weights are broken."')
        self.tool("id", f'case "$*" in "-u") echo 0 ;; *) [ -e "{control}/user" ] && echo 990 ;; esac')
        self.tool("useradd", f'echo "useradd $*" >>"{self.log}"; touch "{control}/user"')
        self.tool("userdel", f'echo "userdel $*" >>"{self.log}"; rm "{control}/user"')
        self.tool("runuser", f'echo "runuser $2" >>"{self.log}"; shift 3; exec "$@"')
        self.tool("chown", "exit 0")
        self.tool("nvidia-smi", "exit 9")
        (self.bin / "nvidia-smi").unlink()
        self.tool("curl", f'echo "curl $*" >>"{self.log}"; [ ! -e "{control}/curl-fails" ]')
        self.tool("apt-get", f'echo "apt-get $*" >>"{self.log}"')
        cases = PYTHON_CASES.format(**self.words)
        self.python(cases=cases)
        self.venv_python.write_text(self.venv_python.read_text().replace('case "$*" in', f'case "$*" in {cases}'))
        self.say("python-lies-at", "/usr/bin/python3")
        self.say("check-report", "The models run on the CPU.\n")
        self.say("good")
        self.say("listens", "0.0.0.0 8085\n")

    def os_release(self, system: str, version: str) -> None:
        """Change the operating system."""
        text = f'PRETTY_NAME="{system} {version}"\nID={system}\nVERSION_ID="{version}"\n'
        (self.system / "etc/os-release").write_text(text)

    def say(self, name: str, text: str = "") -> None:
        """Set an instruction for one of the programs."""
        (self.control / name).write_text(text)

    def unsay(self, name: str) -> None:
        """Remove an instruction."""
        (self.control / name).unlink()

    def environ(self, **extra: str) -> dict[str, str]:
        return super().environ(AVITO_AI_ROOT=str(self.system), TMPDIR=str(self.home), **extra)

    def production(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Install the checkout with the demo models on the CPU."""
        demo = ("DEVICE=cpu", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo")
        return self.run("production", *demo, *arguments, **extra)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start deploy.sh in a session of its own."""
        command = [*DEPLOY, str(self.root / "deploy.sh"), *arguments]
        with running(command, env=self.environ(), stdin=subprocess.DEVNULL, start_new_session=True) as process:
            yield process

    def snapshot(self) -> None:
        """Save the machine's state, with its programs, for `reset`."""
        for part in (self.system, self.control, self.root, self.bin):
            shutil.copytree(part, part.with_suffix(".kept"), symlinks=True)

    def reset(self) -> None:
        """Restore the state of the snapshot."""
        for part in (self.system, self.control, self.root, self.bin):
            shutil.rmtree(part)
            shutil.copytree(part.with_suffix(".kept"), part, symlinks=True)
        self.log.unlink(missing_ok=True)

    def commit(self) -> None:
        """Make the checkout one of git, which is then on the PATH."""
        self.tool("git", f'exec {shutil.which("git")} "$@"')
        self.git("init", "--quiet")
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "all of it")

    def git(self, *words: str) -> None:
        """Run git in the checkout."""
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *identity, *words], cwd=self.root, check=True, capture_output=True, timeout=600)

    def change(self, text: str = "# another release\n") -> None:
        """Change the checkout, so that it is a new release."""
        with (self.root / "config.py").open("a") as file:
            file.write(text)

    @property
    def prefix(self) -> Path:
        return self.system / "opt/avito-ai"

    @property
    def current(self) -> str:
        """The name of the release that `current` points to."""
        return (self.prefix / "current").readlink().name

    @property
    def serving(self) -> str | None:
        """The name of the release that is running; None if none is."""
        if not (self.control / "pid").exists():
            return None
        number = (self.control / "pid").read_text().strip()
        return (self.system / "proc" / number / "cwd").readlink().name

    @property
    def releases(self) -> list[str]:
        return sorted(path.name for path in (self.prefix / "releases").iterdir())

    @property
    def settings(self) -> list[str]:
        """The lines of the settings file that are not comments."""
        text = (self.system / "etc/avito-ai/.env").read_text()
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def asked(self, words: str) -> int:
        """Return how often a program was called with this."""
        return sum(words in call for call in self.calls())
