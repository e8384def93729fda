"""The upper limit of the service's memory: its lines are the limits that the code enforces."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from config import load_settings
from deploy.memory_limits import main
from engine.text.grammar import CACHED_BYTES
from engine.text.grammar_trials import MEMORY_BYTES as TRIAL_BYTES
from engine.text.grammar_trials import PROCESSES
from engine.text.image_workers import MEMORY_BYTES
from models.memory_plan import CONNECTION_BYTES, MIB, memory_plan, plan_of
from models.selection import engine_config, planned_models
from routes.resumable import MEMORY_BYTES as STREAM_MEMORY
from serving.framing import MAX_HEAD_BYTES
from serving.intake import READ_BYTES
from tests.sparse_checkpoints import sparse_text, sparse_vision

DEMO = {"VIBE_MODEL_DIR": "demo", "VISION_MODEL_DIR": "demo", "DEVICE": "cpu", "MAX_BODIES_MIB": "128"}


def budget(total=1000, images=0, decoders=0, weights=600):
    return SimpleNamespace(total=total, images=images, decoders=decoders, weights=weights)


@pytest.fixture
def settings():
    return load_settings(DEMO, None)


def test_the_total_is_the_sum_of_the_lines(settings):
    """On the processor the models are part of it; the decoders, which both share, count once."""
    budgets = {"avibe": ("cpu", budget(decoders=5)), "avision": ("cpu", budget(2000, images=70, decoders=5))}
    plan = plan_of(settings, budgets)
    told = json.loads(plan.as_json())
    assert told.pop("total") == plan.total
    assert told.pop("ready") == plan.ready
    assert sum(told.values()) == plan.total
    assert (told["avibe"], told["avision"], told["images"], told["image_decoders"]) == (1000, 2000, 70, 5)
    assert told["bodies"] == 4 * 128 * MIB


def test_on_a_gpu_the_models_pass_through_the_host(settings):
    """The larger one counts, as long as it is loaded."""
    plan = plan_of(settings, {"avibe": ("cuda", budget(weights=7)), "avision": ("cuda", budget(weights=6))})
    assert plan.lines["loading"] == 7
    assert "avibe" not in plan.lines


def test_the_lines_are_the_limits_of_the_code(settings):
    """Of connections, grammars and decoders; more threads or bodies make a larger plan."""
    assert CONNECTION_BYTES == MAX_HEAD_BYTES + READ_BYTES
    plan = memory_plan(settings, planned_models(settings))
    assert plan.lines["resumable_streams"] == STREAM_MEMORY
    assert plan.lines["grammars"] == 2 * CACHED_BYTES
    assert plan.lines["grammar_trials"] == PROCESSES * TRIAL_BYTES
    assert plan.lines["image_decoders"] == settings.engine.image_workers * MEMORY_BYTES
    larger = load_settings({**DEMO, "MAX_BODIES_MIB": "256", "THREADS": "1000"}, None)
    assert memory_plan(larger, planned_models(larger)).total > plan.total + 4 * 128 * MIB


def test_the_limits_of_the_kernel_are_above_the_plan(settings):
    """Two copies fit under systemd, for a reload; one in a container, whose request is what it takes when ready."""
    plan = plan_of(settings, {"avibe": ("cpu", budget()), "avision": ("cpu", budget())})
    unit = dict(line.split("=") for line in plan.as_systemd().splitlines()[1:])
    assert int(unit["MemoryMax"]) > int(unit["MemoryHigh"]) == 2 * plan.total
    request, limit = (
        int(line.split()[1].removesuffix("Mi")) for line in plan.as_kubernetes().splitlines() if "Mi" in line
    )
    assert plan.ready < request * MIB < plan.total < limit * MIB


@pytest.mark.parametrize(("form", "begins"), [("", "{"), ("systemd", "[Service]"), ("kubernetes", "resources:")])
def test_the_program_prints_each_form(capsys, settings, form, begins):
    """Without loading a model."""
    assert main([form] if form else [], settings) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_the_program_tells_mistakes(capsys, tmp_path):
    """An unknown form, or a folder that is no checkpoint; the status is not 0."""
    assert main(["docker"]) == 2
    wrong = load_settings({**DEMO, "VISION_MODEL_DIR": str(tmp_path)}, None)
    assert main([], wrong) == 1
    assert "VISION_MODEL_DIR" in capsys.readouterr().err


def test_the_manifests_leave_room_for_the_plan():
    """The limits of Kubernetes and Compose for the demo on the processor are at least what the command prints."""
    plan = plan_with_defaults()
    printed_request, printed_limit = printed(plan)
    deployment = Path("deploy/kubernetes/base/deployment.yaml").read_text()
    request, limit = (int(size) for size in re.findall(r"memory: (\d+)Gi", deployment))
    assert request * 2**30 >= printed_request
    assert limit * 2**30 >= printed_limit
    assert int(re.search(r"memory: (\d+)G, pids: 2048", Path("compose.yaml").read_text())[1]) * 2**30 >= printed_limit


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_manifests_leave_room_for_the_threads(device):
    """A quarter of what a container may have is left to those of torch, the compilers and the decoders."""
    threads = load_settings({"DEVICE": device}, None, lambda: False).server.threads
    limits = {"compose.yaml": r"memory: \d+G, pids: (\d+)", "deploy/quadlet/avito-ai.container": r"--pids-limit=(\d+)"}
    for path, limit in limits.items():
        assert int(re.search(limit, Path(path).read_text())[1]) * 0.75 >= threads


def test_the_manifests_for_a_gpu_leave_room_for_the_published_models(tmp_path):
    """The weights of one model at a time pass through the host's memory."""
    settings = load_settings({"DEVICE": "cuda"}, None)
    limits = engine_config(settings, "cuda")
    on_gpu = {"device": "cuda:0", "dtype": "float16"}
    specs = sparse_text(tmp_path / "vibe", **on_gpu), sparse_vision(tmp_path / "vision", **on_gpu)
    plan = memory_plan(settings, [(spec, limits) for spec in specs])
    deployment = Path("deploy/kubernetes/overlays/gpu/deployment.yaml").read_text()
    request, limit = (int(size) for size in re.findall(r"memory: (\d+)Gi", deployment))
    printed_request, printed_limit = printed(plan)
    assert request * 2**30 >= printed_request
    assert limit * 2**30 >= printed_limit
    assert int(re.search(r"memory: (\d+)G", Path("deploy/compose/gpu.yaml").read_text())[1]) * 10**9 >= printed_limit


def printed(plan):
    """Return the request and the limit in bytes that `deploy.memory_limits kubernetes` prints."""
    return [int(size) * 2**20 for size in re.findall(r"memory: (\d+)Mi", plan.as_kubernetes())]


def plan_with_defaults():
    settings = load_settings({name: value for name, value in DEMO.items() if name != "MAX_BODIES_MIB"}, None)
    return memory_plan(settings, planned_models(settings))
