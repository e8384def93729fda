"""deploy/ray: both models by Ray Serve, with the names and folders of the service; the RayService holds the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from config import SETTINGS
from models.selection import SETTING_PREFIX
from tests.system_process import ROOT

DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
SERVE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/rayservice.yaml").read_text())
(APPLICATION,) = SERVE["applications"]
MODELS: dict[str, dict[str, Any]] = {
    config["model_loading_config"]["model_id"]: config for config in APPLICATION["args"]["llm_configs"]
}


def test_both_models_have_the_names_that_the_service_asks_for() -> None:
    """The defaults of VIBE_UPSTREAM_MODEL and VISION_UPSTREAM_MODEL, under the builder of Ray Serve LLM."""
    assert APPLICATION["import_path"] == "ray.serve.llm:build_openai_app"
    assert APPLICATION["route_prefix"] == "/"
    assert set(MODELS) == set(SETTING_PREFIX)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_lies_where_the_settings_look(model: str) -> None:
    """The same folder on every node, and the context that the service promises."""
    config = MODELS[model]
    assert config["model_loading_config"]["model_source"] == str(DEFAULTS[f"{SETTING_PREFIX[model]}_MODEL_DIR"])
    assert config["engine_kwargs"]["max_model_len"] == DEFAULTS["MAX_MODEL_LEN"]
    if model == "avibe":
        assert config["engine_kwargs"]["tokenizer"] == str(DEFAULTS["VIBE_TOKENIZER_DIR"])


@pytest.mark.parametrize("model", MODELS)
def test_replicas_follow_the_load(model: str) -> None:
    """One is always there; more come before a replica is full, and requests under way may end."""
    deployment = MODELS[model]["deployment_config"]
    scaling = deployment["autoscaling_config"]
    assert 1 <= scaling["min_replicas"] < scaling["max_replicas"]
    assert scaling["target_ongoing_requests"] < deployment["max_ongoing_requests"]
    assert deployment["max_ongoing_requests"] <= MODELS[model]["engine_kwargs"]["max_num_seqs"]
    assert deployment["graceful_shutdown_timeout_s"] > DEFAULTS["REQUEST_TIMEOUT"]
    assert SERVE["http_options"]["request_timeout_s"] > DEFAULTS["REQUEST_TIMEOUT"]


def test_kubernetes_gets_the_same_application() -> None:
    """The text within the RayService is the file for a cluster without Kubernetes."""
    assert SERVICE["apiVersion"] == "ray.io/v1"
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == SERVE


def test_a_cluster_that_is_replaced_finishes_its_requests() -> None:
    """KubeRay deletes it only when a request that it had at the change must have ended."""
    assert SERVICE["spec"]["rayClusterDeletionDelaySeconds"] > DEFAULTS["REQUEST_TIMEOUT"]


def test_a_worker_has_the_gpus_of_one_replica_and_there_are_enough() -> None:
    """All replicas find a pod, at the least number and at the most; the head has no GPU."""
    cluster = SERVICE["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    (box,) = group["template"]["spec"]["containers"]
    scaling = [config["deployment_config"]["autoscaling_config"] for config in MODELS.values()]
    widest = max(config["engine_kwargs"]["tensor_parallel_size"] for config in MODELS.values())
    assert int(box["resources"]["limits"]["nvidia.com/gpu"]) == widest
    assert group["minReplicas"] == sum(one["min_replicas"] for one in scaling)
    assert group["maxReplicas"] == sum(one["max_replicas"] for one in scaling)
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert head["image"] == box["image"]
    assert cluster["rayVersion"] in box["image"]


def test_all_nodes_mount_the_models() -> None:
    """At the path of the settings, read-only."""
    cluster = SERVICE["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        (mount,) = spec["containers"][0]["volumeMounts"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/data/avito", True)
        assert [volume["name"] for volume in spec["volumes"]] == [mount["name"]]
