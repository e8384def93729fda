"""The Kubernetes manifests pass their tools and match the code: routes, port, settings, metrics, times."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from config import SETTINGS, load_settings
from edge.route_table import ROUTES, Need
from models.selection import SETTING_PREFIX
from tests.deploy import manifests as cluster
from tests.deploy.monitoring.exported import exported
from tests.deploy.policies import OUTSIDE, Peer, permitted

pytestmark = pytest.mark.needs("kustomize")

KUBERNETES = "1.37"
SETTING = {setting.name: setting for setting in SETTINGS}
# What only the people who run the service may see, and what only the cluster asks; some of it is open on the machine.
PRIVATE = {"/metrics", "/api/metrics", "/health/system"}
HIDDEN = {Need.PROBE, Need.LOCAL_OR_ADMIN, Need.OPERATOR}
FIELDS_OF_A_SERVICE_MONITOR = {"port", "path", "interval", "scrapeTimeout"}
FIELDS_OF_A_SCALED_OBJECT = {
    "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback", "advanced",
    "triggers",
}  # fmt: skip
# Kinds that are not built in; their fields are looked at by tests of their own.
WITHOUT_SCHEMA = {"ServiceMonitor", "RayService"}
# Where other servers in the cluster answer for the models.
IN_FRONT = ("ray", "vllm")
SPARE_SECONDS = 10
MINUTE = 60
# The settings that name something to connect to, and its port where the address has none.
REACHED = {
    "DATABASE_URL": 5432,
    "RATE_LIMIT_STORAGE": 6379,
    "BUDGET_WEBHOOK_URL": 443,
    "OTEL_EXPORTER_OTLP_ENDPOINT": 4318,
    "VIBE_UPSTREAM": 443,
    "VISION_UPSTREAM": 443,
}
VLLM_PORT = 8000
SERVICES = [Peer({"app.kubernetes.io/name": name}) for name in ("avito-ai", "avito-ai-canary")]
REDIS, STRANGER = (Peer({"app.kubernetes.io/name": name}) for name in ("avito-ai-redis", "stranger"))

overlays = pytest.mark.parametrize("overlay", cluster.NAMES)


def test_the_overlays_are_there() -> None:
    """One for the demo models on the CPU, one for a GPU, and with vLLM behind the service, by itself or on Ray."""
    assert cluster.NAMES == ["cpu-demo", "gpu", "ray", "vllm"]


@overlays
def test_every_object_is_of_its_schema(overlay: str) -> None:
    """Each object is valid for the API server."""
    logging.getLogger("kubernetes_validate").setLevel(logging.ERROR)
    for manifest in cluster.manifests(overlay):
        if manifest["kind"] not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@overlays
def test_all_lies_in_one_namespace_that_refuses_privileged_pods(overlay: str) -> None:
    """Nothing else in the cluster is changed."""
    (namespace,) = cluster.of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [manifest for manifest in cluster.manifests(overlay) if manifest["kind"] != "Namespace"]
    assert {manifest["metadata"]["namespace"] for manifest in others} == {namespace["metadata"]["name"]}


@overlays
def test_the_probes_ask_routes_that_are_made_for_it(overlay: str) -> None:
    """Each probe uses a free route of the table; liveness fails only if a restart is needed.

    So does the start where other servers answer: to end a pod because they still load would help nothing.
    """
    probes = {kind: cluster.container(overlay)[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    assert {ROUTES[f"GET {path}"].need for path in paths.values()} == {Need.PROBE}
    assert paths == {
        "startup": f"/api/health/{'live' if overlay in IN_FRONT else 'ready'}",
        "readiness": "/api/health/ready",
        "liveness": "/api/health/live",
    }


@overlays
def test_start_up_is_given_its_time_and_a_rollout_more(overlay: str) -> None:
    """The demo loads in seconds, 31 GB of weights at 30 MB/s in 17 minutes; the rollout's limit exceeds the probe's."""
    probe = cluster.container(overlay)["startupProbe"]
    allowed = probe["periodSeconds"] * probe["failureThreshold"]
    assert allowed >= {"cpu-demo": 120, "gpu": 31_000 / 30}.get(overlay, 60)
    assert cluster.the(overlay, "Deployment")["spec"]["progressDeadlineSeconds"] > allowed


@overlays
def test_a_first_release_waits_for_the_servers_behind_it(overlay: str) -> None:
    """A pod is ready when they are, so neither its rollout nor release.sh may end before their own start must."""
    deadlines = [deployment["spec"].get("progressDeadlineSeconds", 600) for deployment in _deployments(overlay)]
    probes = [box["startupProbe"] for pod in cluster.pods(overlay) for box in _containers(pod) if "startupProbe" in box]
    longest = max(probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
    assert cluster.the(overlay, "Deployment")["spec"]["progressDeadlineSeconds"] > longest
    script = (cluster.OVERLAYS.parent / "release.sh").read_text()
    waits = {int(minutes) * MINUTE for minutes in re.findall(r"ROLLOUT_TIMEOUT:-(\d+)m", script)}
    assert min(waits) > max(deadlines)


def _deployments(overlay: str) -> list[cluster.Manifest]:
    return cluster.of_kind(overlay, "Deployment")


def _containers(pod: cluster.Manifest) -> list[cluster.Manifest]:
    found: list[cluster.Manifest] = pod["spec"]["containers"]
    return found


@overlays
def test_the_port_is_the_services_own(overlay: str) -> None:
    """Container, Service and policy use the port of the settings."""
    (port,) = cluster.container(overlay)["ports"]
    assert port == {"name": "http", "containerPort": SETTING["PORT"].default}
    (offered,) = cluster.the(overlay, "Service")["spec"]["ports"]
    assert offered["port"] == SETTING["PORT"].default
    assert offered["targetPort"] == "http"
    (rule,) = cluster.the(overlay, "NetworkPolicy")["spec"]["ingress"]
    assert [allowed["port"] for allowed in rule["ports"]] == ["http"]


@overlays
def test_every_name_of_the_environment_is_a_setting(overlay: str) -> None:
    """The ConfigMap and the secrets set only settings, to valid values."""
    environ = cluster.settings_of(overlay)
    names = {*environ, *(variable["name"] for variable in cluster.container(overlay)["env"])}
    assert names <= set(SETTING)
    load_settings({**environ, "ENVIRONMENT": "production", "ADMIN_KEY": "0123456789abcdef"}, None)


@overlays
def test_a_stop_is_given_the_time_of_the_drain(overlay: str) -> None:
    """SIGKILL comes only after DRAIN_DELAY, the drain and the last responses."""
    server = load_settings(cluster.settings_of(overlay), None).server
    needed = math.ceil(server.drain_delay + server.drain_seconds) + 5
    assert server.drain_delay >= 2 * cluster.container(overlay)["readinessProbe"]["periodSeconds"]
    grace = cluster.the(overlay, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= needed + SPARE_SECONDS


@overlays
def test_pods_have_no_rights(overlay: str) -> None:
    """No root, capabilities, writes outside /tmp or cluster token; resources are limited."""
    for deployment in cluster.of_kind(overlay, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for box in pod["containers"]:
            assert box["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(box["resources"]["limits"])
    assert {mount["mountPath"] for mount in cluster.container("cpu-demo")["volumeMounts"]} == {
        "/tmp",
        "/var/lib/avito-ai",
    }


@overlays
def test_the_namespace_admits_every_pod(overlay: str) -> None:
    """By the standard `restricted`, which it enforces: a pod that does not fit is never made, and one event says so."""
    for pod in cluster.pods(overlay):
        context = pod["spec"]["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert context["runAsUser"] > 0
        assert all({"emptyDir", "persistentVolumeClaim"} & set(volume) for volume in pod["spec"].get("volumes", []))
        added = [{"securityContext": one["spec"]["rayClusterConfig"]["autoscalerOptions"]["securityContext"]}
                 for one in cluster.of_kind(overlay, "RayService")]  # fmt: skip
        for box in (*_containers(pod), *added):
            assert box["securityContext"]["allowPrivilegeEscalation"] is False
            assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@overlays
def test_no_field_is_null(overlay: str, tmp_path: Path) -> None:
    """A null that was to remove something reaches the API server where there was nothing to remove, and as a text."""
    variants = {
        "plain": cluster.manifests(overlay),
        "canary": cluster.with_canary(overlay, _new(tmp_path / "canary")),
        "components": cluster.with_components(overlay, _new(tmp_path / "components")),
        "both": cluster.with_components(overlay, _new(tmp_path / "both"), "canary"),
    }
    found = [f"{name}: {path}" for name, objects in variants.items() for one in objects for path in _nulls(one)]
    assert found == []


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    if value is None or value == "null":
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _nulls(part, f"{path}/{key}")


@pytest.fixture(scope="module", params=cluster.NAMES)
def composed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, cluster.Manifest]:
    """An overlay with all components, by kind where there is one of it."""
    found = cluster.with_components(request.param, tmp_path_factory.mktemp("composed"))
    others = ("avito-ai-redis", "avito-ai-vllm", "avito-ai-ray")
    return {one["kind"]: one for one in found if not one["metadata"]["name"].startswith(others)}


def test_a_certificate_comes_from_the_issuer_that_the_ingress_names(composed: dict[str, cluster.Manifest]) -> None:
    """Its challenge goes through the same Ingress class; fields are those of cert-manager's v1."""
    issuer, ingress = composed["Issuer"], composed["Ingress"]
    assert issuer["apiVersion"] == "cert-manager.io/v1"
    assert ingress["metadata"]["annotations"]["cert-manager.io/issuer"] == issuer["metadata"]["name"]
    assert issuer["metadata"]["namespace"] == ingress["metadata"]["namespace"]
    assert set(issuer["spec"]["acme"]) == {"server", "email", "privateKeySecretRef", "solvers"}
    (solver,) = issuer["spec"]["acme"]["solvers"]
    assert solver == {"http01": {"ingress": {"ingressClassName": ingress["spec"]["ingressClassName"]}}}
    kubernetes_validate.validate(ingress, KUBERNETES, strict=True)


def test_a_secret_from_a_store_is_the_one_that_pods_read(composed: dict[str, cluster.Manifest]) -> None:
    """Fields are those of the operator's v1."""
    external, deployment = composed["ExternalSecret"], composed["Deployment"]
    assert external["apiVersion"] == "external-secrets.io/v1"
    assert set(external["spec"]) == {"refreshInterval", "secretStoreRef", "target", "dataFrom"}
    (box,) = deployment["spec"]["template"]["spec"]["containers"]
    read = {one["valueFrom"]["secretKeyRef"]["name"] for one in box["env"] if "valueFrom" in one}
    assert read == {external["spec"]["target"]["name"]}


def test_prometheus_sends_the_key_that_the_pods_know(composed: dict[str, cluster.Manifest]) -> None:
    """As a bearer's, which is what the operator makes of it where no type is named."""
    (endpoint,) = composed["ServiceMonitor"]["spec"]["endpoints"]
    assert set(endpoint) == FIELDS_OF_A_SERVICE_MONITOR | {"authorization"}
    (box,) = composed["Deployment"]["spec"]["template"]["spec"]["containers"]
    (admin_key,) = [one["valueFrom"]["secretKeyRef"] for one in box["env"] if one["name"] == "ADMIN_KEY"]
    assert endpoint["authorization"] == {"credentials": {name: admin_key[name] for name in ("name", "key")}}


def test_keda_scales_by_figures_that_exist(composed: dict[str, cluster.Manifest]) -> None:
    """It alone sets the number of pods, by requests that wait and run; fields are those of its v1alpha1."""
    scaled, deployment = composed["ScaledObject"], composed["Deployment"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert set(scaled["spec"]) <= FIELDS_OF_A_SCALED_OBJECT
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"]
    assert "HorizontalPodAutoscaler" not in composed
    for trigger in scaled["spec"]["triggers"]:
        assert set(trigger) == {"type", "metricType", "metadata"}
        assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
        assert set(re.findall(r"avito_ai_\w+", trigger["metadata"]["query"])) <= set(exported())
        assert scaled["metadata"]["namespace"] in trigger["metadata"]["query"]


@overlays
def test_a_canary_stands_beside_the_others(overlay: str, tmp_path: Path) -> None:
    """All that release.sh applies of it has a name of its own, and no selector of the others finds its pods."""
    found = [
        one for one in cluster.with_canary(overlay, tmp_path) if "avito-ai/track" in one["metadata"].get("labels", {})
    ]
    kinds = {one["kind"]: one for one in found if one["metadata"]["name"] != "avito-ai-redis-canary"}
    assert set(kinds) == {"Deployment", "Service", "ServiceMonitor", "NetworkPolicy", "ConfigMap", "Ingress"}
    mine = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert not mine & {(one["kind"], one["metadata"]["name"]) for one in cluster.manifests(overlay)}
    for manifest in found:
        if manifest["kind"] not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    pod = kinds["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert not cluster.the(overlay, "Service")["spec"]["selector"].items() <= labels
    assert kinds["Service"]["spec"]["selector"].items() <= labels
    assert kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert (
        kinds["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
        <= kinds["Service"]["metadata"]["labels"].items()
    )
    (source,) = pod["spec"]["containers"][0]["envFrom"]
    assert source["configMapRef"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    paths = kinds["Ingress"]["spec"]["rules"][0]["http"]["paths"]
    assert {path["backend"]["service"]["name"] for path in paths} == {kinds["Service"]["metadata"]["name"]}
    assert kinds["Ingress"]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary"] == "true"


def test_a_gpu_has_a_folder_for_its_compiled_kernels() -> None:
    """It can be written to, and is a disk's: the image's user compiles them there before the pod is ready."""
    mounts = {mount["mountPath"]: mount for mount in cluster.container("gpu")["volumeMounts"]}
    kernels = mounts["/var/cache/avito-ai"]
    volumes = cluster.the("gpu", "Deployment")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == kernels["name"]]
    assert not kernels.get("readOnly")
    assert volume["emptyDir"].get("medium") != "Memory"


@overlays
def test_what_is_referred_to_exists(overlay: str) -> None:
    """Settings, volumes, accounts and Redis exist under the names that the pods use."""
    pod = cluster.the(overlay, "Deployment")["spec"]["template"]["spec"]
    pods = [template["spec"] for template in cluster.pods(overlay)]
    volumes = [volume for one in pods for volume in one["volumes"] if "emptyDir" not in volume]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes]
    assert {claim["metadata"]["name"] for claim in cluster.of_kind(overlay, "PersistentVolumeClaim")} == set(claims)
    (source,) = cluster.container(overlay)["envFrom"]
    assert cluster.of_kind(overlay, "ConfigMap")[0]["metadata"]["name"] == source["configMapRef"]["name"]
    assert cluster.the(overlay, "ServiceAccount", pod["serviceAccountName"])
    redis = cluster.the(overlay, "Service", "avito-ai-redis")["spec"]["ports"][0]["port"]
    assert cluster.settings_of(overlay)["RATE_LIMIT_STORAGE"] == f"redis://avito-ai-redis:{redis}/0"


@overlays
def test_selectors_select_the_pods(overlay: str) -> None:
    """Service, disruption budget, policy and monitor select existing pods and the Service."""
    labels = cluster.the(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    service = cluster.the(overlay, "Service")
    assert service["spec"]["selector"].items() <= labels
    for kind in ("PodDisruptionBudget", "ServiceMonitor"):
        selected = cluster.the(overlay, kind)["spec"]["selector"]["matchLabels"].items()
        assert selected <= (service["metadata"]["labels"].items() if kind == "ServiceMonitor" else labels)
    assert cluster.the(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels


@overlays
def test_prometheus_scrapes_the_route_of_the_figures(overlay: str) -> None:
    """The ServiceMonitor, which has no built-in schema, uses the operator's fields and the service's route and port."""
    monitor = cluster.the(overlay, "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == FIELDS_OF_A_SERVICE_MONITOR
    assert f"GET {endpoint['path']}" in ROUTES
    assert endpoint["port"] == cluster.the(overlay, "Service")["spec"]["ports"][0]["name"]


def test_the_autoscaler_follows_a_metric_that_exists() -> None:
    """Besides the CPU it uses the number of waiting requests, under the name that the service exports."""
    scaler = cluster.the("cpu-demo", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == cluster.the("cpu-demo", "Deployment")["metadata"]["name"]
    kinds = {metric["type"]: metric for metric in scaler["metrics"]}
    assert set(kinds) == {"Resource", "Pods"}
    assert kinds["Pods"]["pods"]["metric"]["name"] in exported()
    assert "replicas" not in cluster.the("cpu-demo", "Deployment")["spec"]


@overlays
def test_the_ingress_opens_what_is_for_clients(overlay: str) -> None:
    """Every public route has a path; metrics, probes and the operator's page have none."""
    paths = cluster.the(overlay, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    exact = {path["path"] for path in paths if path["pathType"] == "Exact"}
    below = tuple(f"{path['path']}/" for path in paths if path["pathType"] == "Prefix")
    for row, rules in ROUTES.items():
        path = re.sub(r"<.*", "x", row.split()[1])
        hidden = rules.need in HIDDEN or path in PRIVATE or path.startswith(("/status", "/api/admin/"))
        assert (path in exact or path.startswith(below)) is not hidden, row


@overlays
def test_the_ingress_lets_streams_and_images_through(overlay: str) -> None:
    """No buffering, the largest body fits, and the service's time-out comes first, for both controllers."""
    notes = cluster.the(overlay, "Ingress")["metadata"]["annotations"]
    deadline = SETTING["REQUEST_TIMEOUT"].default
    largest = max(limit for row in ROUTES.values() for limit in row.bodies.values())
    for family, off in (("nginx.ingress.kubernetes.io", "off"), ("nginx.org", "False")):
        own = {name.split("/")[1]: value for name, value in notes.items() if name.startswith(f"{family}/")}
        size = own.get("proxy-body-size") or own["client-max-body-size"]
        assert own["proxy-buffering"] == off
        assert size == f"{largest // 2**20}m"
        assert int(own["proxy-read-timeout"].removesuffix("s")) > deadline


def test_the_gpu_overlay_mounts_the_models_where_the_settings_look() -> None:
    """The volume holds all three folders, read-only; the pod requests one GPU and runs the CUDA image."""
    box = cluster.container("gpu")
    mount = next(mount for mount in box["volumeMounts"] if mount["name"] == "models")
    folders = [SETTING[name].default for name in ("VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR", "VISION_MODEL_DIR")]
    assert all(str(folder).startswith(f"{mount['mountPath']}/") for folder in folders)
    assert mount["readOnly"] is True
    assert box["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert box["image"] == "avito-ai:cuda"
    assert cluster.of_kind("gpu", "HorizontalPodAutoscaler") == []


@pytest.mark.parametrize("model", ["avibe", "avision"])
def test_vllm_runs_as_a_user_that_its_image_does_not_know(model: str) -> None:
    """torch asks for the user's name, which then comes from the environment only, and vLLM for a home to write to."""
    pod = cluster.the("vllm", "Deployment", f"avito-ai-vllm-{model}")["spec"]["template"]["spec"]
    (box,) = pod["containers"]
    environ = {variable["name"]: variable["value"] for variable in box["env"]}
    assert environ["USER"]
    assert environ["HOME"] in {mount["mountPath"] for mount in box["volumeMounts"] if not mount.get("readOnly")}


@pytest.mark.parametrize("model", ["avibe", "avision"])
def test_vllm_answers_for_each_model(model: str) -> None:
    """The service asks the address of its Service; folder, name and context are those of the settings."""
    prefix = SETTING_PREFIX[model]
    settings = cluster.settings_of("vllm")
    (port,) = cluster.the("vllm", "Service", f"avito-ai-vllm-{model}")["spec"]["ports"]
    assert settings[f"{prefix}_UPSTREAM"] == f"http://avito-ai-vllm-{model}:{port['port']}/v1"
    pod = cluster.the("vllm", "Deployment", f"avito-ai-vllm-{model}")["spec"]["template"]
    (box,) = pod["spec"]["containers"]
    options = dict(option.removeprefix("--").partition("=")[::2] for option in box["args"])
    assert options["model"] == str(SETTING[f"{prefix}_MODEL_DIR"].default)
    assert options["served-model-name"] == model
    assert int(options["max-model-len"]) == SETTING["MAX_MODEL_LEN"].default
    assert box["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in cluster.container("vllm")["resources"]["limits"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > SETTING["REQUEST_TIMEOUT"].default


def test_only_the_service_and_prometheus_reach_vllm(tmp_path: Path) -> None:
    """vLLM asks nobody for a key, so its policy admits nobody else; it reaches nobody itself."""
    found = cluster.with_canary("vllm", tmp_path) + cluster.manifests("vllm")
    policies = [one for one in found if one["kind"] == "NetworkPolicy"]
    for name in SETTING_PREFIX:
        pod = cluster.the("vllm", "Deployment", f"avito-ai-vllm-{name}")["spec"]["template"]
        vllm = Peer(pod["metadata"]["labels"])
        assert all(permitted(policies, peer, vllm, VLLM_PORT) for peer in (*SERVICES, Peer(namespace="monitoring")))
        assert not any(permitted(policies, peer, vllm, VLLM_PORT) for peer in (STRANGER, REDIS, OUTSIDE))
        assert not any(permitted(policies, vllm, OUTSIDE, port) for port in (53, 443))
    assert not permitted(policies, SERVICES[0], STRANGER, VLLM_PORT)


def test_ray_answers_for_both_models() -> None:
    """The service asks the address that KubeRay makes of the RayService's name, and needs no GPU."""
    (service,) = cluster.of_kind("ray", "RayService")
    settings = cluster.settings_of("ray")
    address = f"http://{service['metadata']['name']}-serve-svc:{VLLM_PORT}/v1"
    assert {settings[f"{prefix}_UPSTREAM"] for prefix in SETTING_PREFIX.values()} == {address}
    assert "nvidia.com/gpu" not in cluster.container("ray")["resources"]["limits"]
    assert cluster.container("ray")["image"] == "avito-ai:cpu"


@pytest.fixture(scope="module", params=cluster.NAMES)
def policies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[cluster.Manifest]:
    """The policies of an overlay beside its canary's."""
    found = cluster.with_canary(request.param, tmp_path_factory.mktemp("canary")) + cluster.manifests(request.param)
    return [one for one in found if one["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_service_reaches_what_the_base_brings(policies: list[cluster.Manifest], service: Peer) -> None:
    """Redis, DNS and a PostgreSQL wherever it is, and nothing else; only the Ingress and Prometheus reach it."""
    assert permitted(policies, service, REDIS, 6379)
    assert permitted(policies, service, Peer(namespace="kube-system"), 53)
    for database in (OUTSIDE, Peer(namespace="databases")):
        assert permitted(policies, service, database, 5432)
        assert not permitted(policies, service, database, 443)
    assert permitted(policies, Peer(namespace="ingress-nginx"), service, 8085)
    assert permitted(policies, Peer(namespace="monitoring"), service, 8085)
    assert not permitted(policies, STRANGER, service, 8085)
    assert not permitted(policies, STRANGER, REDIS, 6379)


@overlays
def test_every_setting_that_names_an_address_has_a_way_there(overlay: str, tmp_path: Path) -> None:
    """By the component `egress` beyond what the base has; a canary has the same."""
    names = {name for name in SETTING if re.search("(_URL|_ENDPOINT|_UPSTREAM|_STORAGE)$", name)}
    assert names == set(REACHED)
    found = cluster.composed(overlay, _new(tmp_path / "canary"), "components/egress", "canary")
    found += cluster.composed(overlay, _new(tmp_path / "all"), "components/egress")
    policies = [one for one in found if one["kind"] == "NetworkPolicy"]
    for port in {*REACHED.values(), VLLM_PORT}:
        assert all(permitted(policies, service, OUTSIDE, port) for service in SERVICES), port


def test_ray_is_reached_by_those_who_need_it() -> None:
    """Its pods by each other, its head by KubeRay too, Ray Serve by the service: its dashboard runs any program."""
    policies = cluster.of_kind("ray", "NetworkPolicy")
    head, worker = (
        Peer(pod["metadata"]["labels"] | {"ray.io/node-type": kind})
        for pod, kind in zip(cluster.pods("ray")[-2:], ("head", "worker"), strict=True)
    )
    operator = Peer({"app.kubernetes.io/component": "kuberay-operator"}, "ray-system")
    for one, other in ((head, worker), (worker, head), (worker, worker)):
        assert all(permitted(policies, one, other, port) for port in (6379, 8265, 10002, 52365))
    assert all(permitted(policies, operator, head, port) for port in (8265, 8000))
    assert not permitted(policies, operator, worker, 8265)
    for service in SERVICES:
        assert permitted(policies, service, head, VLLM_PORT)
        assert permitted(policies, service, worker, VLLM_PORT)
        assert not any(permitted(policies, service, head, port) for port in (6379, 8265, 10001))
    for stranger in (STRANGER, Peer(namespace="default"), OUTSIDE):
        assert not any(permitted(policies, stranger, head, port) for port in (8000, 8265, 10001))
    assert all(permitted(policies, pod, Peer(namespace="kube-system"), 53) for pod in (head, worker))
    assert (permitted(policies, head, OUTSIDE, 443), permitted(policies, worker, OUTSIDE, 443)) == (True, False)


def test_the_demo_overlay_needs_nothing_mounted() -> None:
    """The demo models are in the image and set explicitly, as production requires."""
    assert cluster.container("cpu-demo")["image"] == "avito-ai:cpu"
    environ = cluster.settings_of("cpu-demo")
    assert {environ["VIBE_MODEL_DIR"], environ["VISION_MODEL_DIR"]} == {"demo"}
    assert environ["CPU_THREADS"] == cluster.container("cpu-demo")["resources"]["limits"]["cpu"]
