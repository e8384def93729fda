"""The pipeline passes its linters, uses pinned actions only, and requires staging and approval before production."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import NAMES
from tests.test_lint import tool

ROOT = Path(__file__).parents[2]
FILE = ".github/workflows/ci.yml"
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
NIGHTLY_FILE = ".github/workflows/nightly.yml"
FILES = (FILE, NIGHTLY_FILE)
RATIO = (ROOT / "benchmarks/ratio.py").read_text(encoding="utf-8")
NIGHTLY: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / NIGHTLY_FILE).read_text(encoding="utf-8"))["jobs"]
SPARE_MINUTES = 20  # for the checks after a release
ORDER = {"image": ["test", "lint", "audit", "secrets"], "staging": ["image"], "production": ["image", "staging"]}


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = JOBS[job]["steps"]
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *FILES],
        ["zizmor", "--offline", "--no-progress", *FILES],
    ],
    ids=["schema", "zizmor"],
)
def test_the_linter_has_nothing_to_say(command: list[str]) -> None:
    """The files match their schema and are safe for pull requests from forks."""
    name, *arguments = command
    done = subprocess.run([tool(name), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_every_action_is_pinned_by_its_commit(file: str) -> None:
    """A tag can be moved, a commit cannot; the tag is in a comment."""
    used = re.findall(r"uses: (.*)", (ROOT / file).read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_each_job_has_only_the_rights_it_needs() -> None:
    """None by default; reading the code, and writing packages for images."""
    assert WORKFLOW["permissions"] == {}
    rights = {name: job["permissions"] for name, job in JOBS.items()}
    assert rights.pop("image") == {"contents": "read", "packages": "write"}
    assert all(right == {"contents": "read"} for right in rights.values())


def test_the_way_to_production() -> None:
    """Failed tests stop the build, untested images are not released, and production gets staging's image."""
    for job, needed in ORDER.items():
        assert JOBS[job]["needs"] == needed
    for job in ("staging", "production"):
        assert JOBS[job]["environment"]["name"] == job
    release = "deploy/kubernetes/release.sh"
    (staged,), (released,) = (
        [s for s in steps(job) if release in s.get("run", "")] for job in ("staging", "production")
    )
    assert staged == released
    assert WORKFLOW["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_what_the_jobs_run_is_in_the_tree() -> None:
    """The test command, the cluster's release script and both variants of the image exist."""
    runs = {job: "\n".join(step.get("run", "") for step in steps(job)) for job in JOBS}
    assert runs["test"].strip() == ".ci/run"
    for words in ("./deploy.sh", "deploy/kubernetes/release.sh"):
        assert (ROOT / words).is_file()
        assert any(words in run for run in runs.values())
    linted = re.findall(r"tests/\S+", runs["lint"])
    assert [path for path in linted if not (ROOT / path).is_file()] == []
    assert {"tests/test_lint.py", "tests/deploy/test_pipeline.py"} <= set(linted)
    assert JOBS["image"]["strategy"]["matrix"]["variant"] == ["cpu", "cuda"]
    assert set(JOBS["image"]["outputs"]) == {"cpu", "cuda"}
    assert "vars.OVERLAY == 'gpu'" in steps("production")[-1]["env"]["IMAGE"]
    assert "gpu" in NAMES


def test_the_audit_is_ours_and_leaves_the_bills_behind() -> None:
    """Never pip-audit alone, which passes where it reached no advisories; the bills of both images are kept."""
    commands = [step["run"] for step in steps("audit") if "run" in step]
    assert "python -m deploy.audit" in commands
    assert not any(command.startswith("pip-audit") for command in commands)
    assert {word for command in commands for word in re.findall(r"deploy\.sbom (\w+)", command)} == {"cpu", "cuda"}
    (kept,) = [step["with"] for step in steps("audit") if "upload-artifact" in step.get("uses", "")]
    assert kept == {"name": "sbom", "path": "sbom-*.cdx.json", "if-no-files-found": "error"}


def test_what_needs_more_than_packages_is_scanned_before_it_is_pushed() -> None:
    """The bill by grype, the history by gitleaks, the image by trivy, each of which fails its job."""
    used = {job: [step.get("uses", "").partition("@")[0] for step in steps(job)] for job in JOBS}
    assert "anchore/scan-action" in used["audit"]
    assert any("detect --source" in step.get("run", "") for step in steps("secrets"))
    (checkout, _) = steps("secrets")
    assert checkout["with"]["fetch-depth"] == 0
    scanned, pushed = (used["image"].index(name) for name in ("aquasecurity/trivy-action", "docker/login-action"))
    assert scanned < pushed
    assert steps("image")[scanned]["with"]["exit-code"] == "1"


def test_staging_is_tried_as_by_a_client_after_its_release() -> None:
    """Each interface and a short load, before anybody is asked to approve production."""
    runs = [step.get("run", "") for step in steps("staging")]
    assert "release.sh" in runs[-2]
    assert runs[-1].startswith('python3 -m deploy.site_check "$URL"')
    assert "staging" in JOBS["production"]["needs"]


def test_a_release_may_take_its_time() -> None:
    """A job that ends before its release would leave it half-way: the rollouts of canary and release, and the watch."""
    script = (ROOT / "deploy/kubernetes/release.sh").read_text(encoding="utf-8")
    rollouts = [int(minutes) for minutes in re.findall(r"ROLLOUT_TIMEOUT:-(\d+)m", script)]
    (watched,) = re.findall(r"CANARY_SECONDS:-(\d+)", script)
    for job in ("staging", "production"):
        assert JOBS[job]["timeout-minutes"] >= sum(rollouts) + int(watched) / 60 + SPARE_MINUTES


def test_each_night_compares_with_the_last_release_on_one_machine() -> None:
    """Both trees are measured by one run of one program, whose status is the job's."""
    run = "\n".join(step.get("run", "") for step in NIGHTLY["benchmark"]["steps"])
    assert "git describe --tags" in run
    (command,) = re.findall(r"python -m (benchmarks\.\w+) (.*?)\\", run, re.DOTALL)
    assert (ROOT / f"{command[0].replace('.', '/')}.py").is_file()
    assert set(re.findall(r"--[\w-]+", run[run.index(command[0]) :])) <= set(re.findall(r"--[\w-]+", RATIO))
    assert not any("continue-on-error" in step for step in NIGHTLY["benchmark"]["steps"])


def test_each_night_scans_both_images() -> None:
    """What was clean at its push may not be any longer."""
    images = NIGHTLY["images"]
    assert images["strategy"]["matrix"]["variant"] == ["cpu", "cuda"]
    assert images["steps"][-1]["with"]["exit-code"] == "1"
    # Those of the last push that was tested: the newest commit may have none yet, or never.
    (push,) = [step["with"] for step in steps("image") if step.get("id") == "push"]
    assert "${{ steps.repository.outputs.name }}:main-${{ matrix.variant }}" in push["tags"].splitlines()
    assert "ghcr.io/${GITHUB_REPOSITORY,,}:main-$VARIANT" in images["steps"][0]["run"]
    assert all(set(job["permissions"].values()) == {"read"} for job in NIGHTLY.values())


def test_every_supported_python_is_tested() -> None:
    """All versions that the packages are pinned for."""
    assert JOBS["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_the_shell_of_the_jobs_is_sound() -> None:
    """The scripts in `run:` pass shellcheck."""
    jobs = [*JOBS.values(), *NIGHTLY.values()]
    scripts = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    for script in scripts:
        done = subprocess.run(
            [tool("shellcheck"), "--shell=bash", "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
