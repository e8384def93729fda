"""deploy/kubernetes/release.sh deploys an image to a cluster, and rolls back if it does not serve."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.production_box import DEPLOY, running
from tests.e2e.gunicorn_process import until

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example.com/avito-ai@{DIGEST}"
KUBECTL = """#!/bin/sh
echo "kubectl $*" >>"{log}"
if [ -s "{folder}/waits" ] && echo "$*" | grep -q "$(cat "{folder}/waits")"; then
    case "$*" in "apply "*) touch "{folder}/released" ;; esac
    echo $$ >"{folder}/there"; sleep 600
fi
case "$*" in
"apply --kustomize "*)
    [ ! -e "{folder}/applied" ] || mv "{folder}/applied" "{folder}/applied-before"
    cp "$3/kustomization.yaml" "{folder}/applied"
    [ -n "${{4:-}}" ] || touch "{folder}/released"
    [ ! -f "$KUBECONFIG" ] || cp "$KUBECONFIG" "{folder}/kubeconfig"
    [ ! -e "{folder}/apply-fails" ] ;;
*"observedGeneration"*) if [ -e "{folder}/late" ]; then rm "{folder}/late"; echo "2 1"; else echo "2 2"; fi ;;
*"get deployment "*)
    if [ -e "{folder}/released" ] && [ -e "{folder}/late" ]; then echo 1
    elif [ -e "{folder}/released" ] && [ ! -e "{folder}/unchanged-$5" ]; then echo 2
    elif [ ! -e "{folder}/first" ]; then echo 1; fi ;;
*"rollout status deployment/avito-ai-canary"*) [ ! -e "{folder}/canary-not-ready" ] ;;
*"rollout status deployment/avito-ai-vllm"*) [ ! -e "{folder}/vllm-not-ready" ] ;;
*"rollout status"*) [ ! -e "{folder}/not-ready" ] ;;
*"delete "*)
    if grep -qs "^${{4%%,*}}$" "{folder}/deletes-fail"; then sed -i 1d "{folder}/deletes-fail"; exit 1; fi ;;
esac
"""
CURL = """#!/bin/sh
echo "curl $*" >>"{log}"
if grep -qs curl "{folder}/waits"; then echo $$ >"{folder}/there"; sleep 600; fi
cat >"{folder}/curl-config"
[ ! -e "{folder}/silent" ]
"""


class Cluster:
    """A copy of the manifests, and a kubectl and a curl that record their calls in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.bin = folder, folder / "calls", folder / "bin"
        for part in ("kubernetes", "lib"):
            shutil.copytree(ROOT / "deploy" / part, folder / part)
        self.bin.mkdir()
        for name, text in (("kubectl", KUBECTL), ("curl", CURL)):
            (self.bin / name).write_text(text.format(log=self.log, folder=folder))
            (self.bin / name).chmod(0o755)

    def release(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(self.folder / "kubernetes/release.sh"), *arguments],
            env={"PATH": path, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def leftovers(self) -> list[Path]:
        return list((self.folder / "kubernetes/overlays").glob(".release.*"))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize(
    ("image", "line"),
    [(IMAGE, f"digest: {DIGEST}"), ("registry.example.com:5000/avito-ai:1.2", 'newTag: "1.2"')],
    ids=["digest", "tag"],
)
def test_the_overlay_is_applied_with_the_image(cluster: Cluster, image: str, line: str) -> None:
    """The given image is deployed, the rollout awaited, and no temporary files are left."""
    done = cluster.release("cpu-demo", image)
    assert done.returncode == 0, done.stderr
    applied = (cluster.folder / "applied").read_text()
    assert "resources: [../cpu-demo]" in applied
    assert line in applied
    assert f"newName: {image.partition('@')[0].removesuffix(':1.2')}" in applied
    assert "rollout status deployment/avito-ai " in cluster.calls()[-1]
    assert cluster.leftovers() == []


def test_components_are_added_by_name(cluster: Cluster) -> None:
    """One that there is not is refused before kubectl is called."""
    assert cluster.release("gpu", IMAGE, COMPONENTS="cert-manager external-secrets").returncode == 0
    applied = yaml.safe_load((cluster.folder / "applied").read_text())
    assert applied["components"] == ["../../components/cert-manager", "../../components/external-secrets"]
    done = cluster.release("gpu", IMAGE, COMPONENTS="cert-manager none")
    assert (done.returncode, "no component 'none'" in done.stderr) == (1, True)


def test_one_text_is_generated_where_the_service_answers(cluster: Cluster) -> None:
    """With a URL, the release must also answer there."""
    assert cluster.release("gpu", IMAGE, "https://ai.example.com").returncode == 0
    assert "https://ai.example.com/api/v1/text/generate" in cluster.calls()[-1]


@pytest.mark.parametrize("key", ["", "sk-test"])
def test_the_text_is_asked_for_with_the_pipelines_key(cluster: Cluster, key: str) -> None:
    """Where there is one; no other user of the machine sees it."""
    assert cluster.release("gpu", IMAGE, "https://ai.example.com", API_KEY=key).returncode == 0
    config = (cluster.folder / "curl-config").read_text()
    assert config == (f'header = "Authorization: Bearer {key}"\n' if key else "")
    assert "sk-test" not in cluster.calls()[-1]


@pytest.mark.parametrize("fault", ["not-ready", "silent"])
def test_a_canary_goes_with_a_release_that_is_taken_back(cluster: Cluster, fault: str) -> None:
    """It had done well, and would keep its share of the requests for ever."""
    with_judge(cluster, 0)
    (cluster.folder / fault).touch()
    canary = ("--canary", "50", "gpu", IMAGE, "https://ai.example.com")
    done = cluster.release(*canary, PROMETHEUS="http://prometheus:9090", CANARY_SECONDS="30")
    assert done.returncode == 1
    assert "the previous release was restored" in done.stderr
    assert "delete ingress --selector avito-ai/track=canary" in cluster.calls()[-2]
    assert cluster.leftovers() == []


@pytest.mark.parametrize("fault", ["not-ready", "silent"])
def test_a_release_that_does_not_serve_is_taken_back(cluster: Cluster, fault: str) -> None:
    """The previous release is restored, as exit status and last line show."""
    (cluster.folder / fault).touch()
    done = cluster.release("cpu-demo", IMAGE, "https://ai.example.com")
    assert done.returncode == 1
    assert "rollout undo deployment/avito-ai" in cluster.calls()[-1]
    assert "the previous release was restored" in done.stderr
    assert cluster.leftovers() == []


VLLM = ("avito-ai-vllm-avibe", "avito-ai-vllm-avision")


@pytest.mark.parametrize("fault", ["vllm-not-ready", "not-ready", "silent"])
@pytest.mark.parametrize("same_image", [True, False])
def test_what_the_overlay_deploys_is_awaited_and_taken_back_as_well(
    cluster: Cluster, fault: str, same_image: bool
) -> None:
    """With the service's image unchanged, an undo of it would restore an older one, and leave vLLM as it is."""
    for name in (fault, *(["unchanged-avito-ai"] if same_image else [])):
        (cluster.folder / name).touch()
    done = cluster.release("vllm", IMAGE, "https://ai.example.com")
    changed = [*VLLM, *([] if same_image else ["avito-ai"])]
    undone = [call.rpartition("/")[2] for call in cluster.calls() if "rollout undo" in call]
    assert (done.returncode, undone) == (1, changed), done.stderr
    assert f"the previous release was restored: {' '.join(changed)}." in done.stderr


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("overlay", ["cpu-demo", "vllm"])
def test_what_can_be_applied_in_part_only_is_taken_back(cluster: Cluster, overlay: str, late: bool) -> None:
    """A quota, a webhook or a lost connection: what was applied is undone, once the controller has seen it."""
    for name in ("apply-fails", *(["late"] if late else [])):
        (cluster.folder / name).touch()
    done = cluster.release(overlay, IMAGE)
    changed = [*(VLLM if overlay == "vllm" else []), "avito-ai"]
    undone = [call.rpartition("/")[2] for call in cluster.calls() if "rollout undo" in call]
    assert (done.returncode, undone) == (1, changed), done.stderr
    last = f"Error: {IMAGE} could not be applied whole; the previous release was restored: {' '.join(changed)}."
    assert done.stderr.splitlines()[-1] == last
    assert not any("rollout status" in call for call in cluster.calls())
    assert cluster.leftovers() == []


@pytest.mark.parametrize(
    ("already", "said"),
    [("unchanged-avito-ai", "has changed no deployment"), ("first", "there is no previous release")],
)
def test_what_cannot_be_applied_is_not_called_a_rollback(cluster: Cluster, already: str, said: str) -> None:
    """Nothing was changed, or there is nothing to go back to."""
    for name in ("apply-fails", already):
        (cluster.folder / name).touch()
    done = cluster.release("cpu-demo", IMAGE)
    assert (done.returncode, said in done.stderr) == (1, True)
    assert not any("undo" in call for call in cluster.calls())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", ["apply --kustomize", "rollout status", "curl"])
def test_a_release_that_is_ended_is_taken_back(
    cluster: Cluster, step: str, number: signal.Signals, status: int
) -> None:
    """At once, though what it runs would go on for long."""
    (cluster.folder / "waits").write_text(step)
    ended, said = ended_amid(cluster, number, "gpu", IMAGE, "https://ai.example.com")
    last = f"Error: The release of {IMAGE} was ended; the previous release was restored: avito-ai."
    assert (ended, said.splitlines()[-1]) == (status, last)
    assert "rollout undo deployment/avito-ai" in cluster.calls()[-1]
    assert cluster.leftovers() == []


def ended_amid(cluster: Cluster, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """End a release once one of its programs waits, which is to end with it; return its status and its errors."""
    script = [*DEPLOY, str(cluster.folder / "kubernetes/release.sh"), *arguments]
    environ = {"PATH": f"{cluster.bin}{os.pathsep}{os.environ['PATH']}", "PROMETHEUS": "http://prometheus:9090"}
    there = cluster.folder / "there"
    with running(script, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        until(lambda: there.exists() and there.read_text().endswith("\n"), 120)
        (cluster.folder / "waits").write_text("")
        process.send_signal(number)
        said = process.communicate(timeout=120)[1].decode()
    assert not Path("/proc", there.read_text().strip()).exists()
    return process.returncode, said


def test_a_canary_is_withdrawn_at_once(cluster: Cluster) -> None:
    """Though it would be waited for, for long."""
    with_judge(cluster, 0)
    (cluster.folder / "waits").write_text("rollout status deployment/avito-ai-canary")
    status, said = ended_amid(cluster, signal.SIGTERM, "--canary", "20", "gpu", IMAGE)
    assert (status, "The watch was ended" in said) == (143, True)
    assert "delete ingress --selector avito-ai/track=canary" in cluster.calls()[-2]
    assert sum("apply" in call for call in cluster.calls()) == 1


def test_vllm_is_ready_before_the_service_is_judged(cluster: Cluster) -> None:
    """The service is not ready without it, and the message names what is to blame."""
    assert cluster.release("vllm", IMAGE).returncode == 0
    awaited = [call.split("deployment/")[1].split()[0] for call in cluster.calls() if "rollout status" in call]
    assert awaited == [*VLLM, "avito-ai"]


def test_nothing_is_taken_back_where_nothing_has_changed(cluster: Cluster) -> None:
    """The same release again, while the site does not answer: an undo would go back to an older one."""
    for name in ("silent", "unchanged-avito-ai"):
        (cluster.folder / name).touch()
    done = cluster.release("gpu", IMAGE, "https://ai.example.com")
    assert (done.returncode, "has changed no deployment" in done.stderr) == (1, True)
    assert not any("undo" in call for call in cluster.calls())


def test_a_first_release_that_does_not_serve_is_not_called_a_rollback(cluster: Cluster) -> None:
    """Without a previous release, the message does not claim a rollback."""
    for fault in ("not-ready", "first"):
        (cluster.folder / fault).touch()
    done = cluster.release("cpu-demo", IMAGE)
    assert done.returncode == 1
    assert "there is no previous release of avito-ai to return to" in done.stderr
    assert "was restored" not in done.stderr


def test_the_kubeconfig_of_a_pipeline_is_used_and_removed(cluster: Cluster) -> None:
    """KUBECONFIG_TEXT reaches kubectl as a file, which is deleted afterwards."""
    assert cluster.release("cpu-demo", IMAGE, KUBECONFIG_TEXT="clusters: []").returncode == 0
    assert (cluster.folder / "kubeconfig").read_text() == "clusters: []\n"
    assert cluster.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "usage"),
        (("nowhere", IMAGE), "nowhere"),
        (("cpu-demo", "avito-ai"), "avito-ai"),
        (("gpu", "a b:c"), "a b:c"),
    ],
)
def test_what_cannot_be_meant_is_refused(cluster: Cluster, arguments: tuple[str, ...], word: str) -> None:
    """An invalid overlay or image is reported before kubectl is called."""
    done = cluster.release(*arguments)
    assert done.returncode == 1
    assert word in done.stderr
    assert cluster.calls() == []


def with_judge(cluster: Cluster, status: int) -> None:
    """Put a judge of canaries in place that records its call and ends with this status."""
    log = str(cluster.log)
    text = f"import sys\nopen({log!r}, 'a').write('judge ' + ' '.join(sys.argv[1:]) + '\\n')\nsys.exit({status})\n"
    (cluster.folder / "canary.py").write_text(text)


def test_a_canary_that_does_well_is_released(cluster: Cluster) -> None:
    """One pod gets its share, Prometheus judges it, the image is rolled out, and the canary goes last."""
    with_judge(cluster, 0)
    done = cluster.release("--canary", "5", "gpu", IMAGE, PROMETHEUS="http://prometheus:9090", CANARY_SECONDS="30")
    assert done.returncode == 0, done.stderr
    canary = yaml.safe_load((cluster.folder / "applied-before").read_text())
    assert canary["components"] == ["../../canary"]
    assert 'value: "5"' in canary["patches"][0]["patch"]
    assert "canary" not in (cluster.folder / "applied").read_text()
    kinds = [" ".join(call.replace("--namespace avito-ai ", "").split()[:3]) for call in cluster.calls()]
    assert kinds == [
        "kubectl apply --kustomize",
        "kubectl rollout status",
        "judge prometheus 30",
        "kubectl get deployment",
        "kubectl apply --kustomize",
        "kubectl rollout status",
        "kubectl delete ingress",
        "kubectl delete deployment,service,servicemonitor,networkpolicy,configmap",
    ]
    deleted = [call for call in cluster.calls() if "delete" in call]
    assert all(call.endswith("--selector avito-ai/track=canary") for call in [cluster.calls()[0], *deleted])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_canary_that_nobody_watches_any_more_is_withdrawn(cluster: Cluster, number: signal.Signals) -> None:
    """Whoever ends the release: the canary would keep its share for ever."""
    (cluster.folder / "canary.py").write_text(f"import os; os.kill(os.getppid(), {number:d})")
    done = cluster.release("--canary", "20", "gpu", IMAGE, PROMETHEUS="http://prometheus:9090")
    assert (done.returncode, "The watch was ended" in done.stderr) == (128 + number, True)
    assert "delete ingress --selector avito-ai/track=canary" in cluster.calls()[-2]
    assert sum("apply" in call for call in cluster.calls()) == 1
    assert cluster.leftovers() == []


@pytest.mark.parametrize("kind", ["ingress", "deployment"])
@pytest.mark.parametrize("share", [True, False])
def test_a_canary_goes_at_a_second_try(cluster: Cluster, kind: str, share: bool) -> None:
    """The cluster is out of reach for a moment, at the end of a release or of one that does worse."""
    with_judge(cluster, int(not share))
    (cluster.folder / "deletes-fail").write_text(f"{kind}\n")
    done = cluster.release("--canary", "5", "gpu", IMAGE, PROMETHEUS="http://prometheus:9090")
    assert (done.returncode, "Remove it" in done.stderr) == (int(not share), False)
    deleted = [call.split()[4].partition(",")[0] for call in cluster.calls() if "delete" in call]
    assert deleted == ["ingress", "deployment"] * 2
    assert cluster.leftovers() == []


def test_a_canary_that_cannot_be_removed_is_told_with_the_remedy(cluster: Cluster) -> None:
    """The release itself serves; the exit status is that of something to do."""
    with_judge(cluster, 0)
    (cluster.folder / "deletes-fail").write_text("ingress\n" * 9)
    done = cluster.release("--canary", "5", "gpu", IMAGE, PROMETHEUS="http://prometheus:9090")
    assert (done.returncode, f"{IMAGE} serves" in done.stdout) == (1, True)
    assert "delete ingress,deployment" in done.stderr
    assert cluster.leftovers() == []


@pytest.mark.parametrize("fault", ["canary-not-ready", "judged"])
def test_a_canary_that_does_worse_changes_nothing(cluster: Cluster, fault: str) -> None:
    """It is deleted, and the Deployment that serves is not touched."""
    with_judge(cluster, int(fault == "judged"))
    (cluster.folder / fault).touch()
    done = cluster.release("--canary", "20", "gpu", IMAGE, PROMETHEUS="http://prometheus:9090")
    assert done.returncode == 1
    assert "the previous release serves on" in done.stderr
    assert sum("apply" in call for call in cluster.calls()) == 1
    assert "delete ingress --selector avito-ai/track=canary" in cluster.calls()[-2]
    assert cluster.leftovers() == []


def test_a_canary_keeps_the_components_of_the_release(cluster: Cluster) -> None:
    """What is added to the overlay is added to the canary, whose own changes come last."""
    with_judge(cluster, 0)
    environ = {"PROMETHEUS": "http://prometheus:9090", "COMPONENTS": "external-secrets"}
    assert cluster.release("--canary", "5", "gpu", IMAGE, **environ).returncode == 0
    canary = yaml.safe_load((cluster.folder / "applied-before").read_text())
    assert canary["components"] == ["../../components/external-secrets", "../../canary"]


@pytest.mark.parametrize(
    ("share", "prometheus", "word"),
    [
        ("0", "http://p", "from 1 to 99"),
        ("100", "http://p", "from 1 to 99"),
        ("5%", "http://p", "SHARE"),
        ("5", "", "PROM"),
    ],
)
def test_a_canary_that_cannot_be_judged_is_refused(cluster: Cluster, share: str, prometheus: str, word: str) -> None:
    """No share, or no Prometheus to judge by."""
    done = cluster.release("--canary", share, "gpu", IMAGE, PROMETHEUS=prometheus)
    assert (done.returncode, word in done.stderr, cluster.calls()) == (1, True, [])
