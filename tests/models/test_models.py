"""The set of models: how they load, drain and stop together, and which checkpoint stands behind a name."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from config import load_settings
from engine.deferred import DeferredBackend
from engine.errors import NotReady, StartError
from engine.types import BackendState, Progress, Status
from models import ModelSet, build_models, selection
from models.selection import DEMO_FOLDER, choose_checkpoints, engine_config, model_spec, planned_models
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint
from tests.fakes import PATIENCE, Clock, ScriptedBackend

ROOT = Path(__file__).parents[2]


class LoadingBackend(ScriptedBackend):
    """A backend whose load waits for the test, or fails as it says."""

    def __init__(self, name="avibe", failure=None, gate=None):
        super().__init__(name)
        self.load_failure = failure
        self.gate = gate
        self.become(Status.LOADING)

    def start(self):
        if self.gate is not None:
            assert self.gate.wait(PATIENCE)
        if self.load_failure is not None:
            raise self.load_failure
        super().start()


def pair(**first):
    return ModelSet({"avibe": LoadingBackend("avibe", **first), "avision": LoadingBackend("avision")})


class Outcome:
    """What the loading thread called at its end."""

    def __init__(self):
        self.called = threading.Event()
        self.error = None

    def failed(self, error):
        self.error = error
        self.called.set()

    def wait(self):
        assert self.called.wait(PATIENCE)
        return self.error


def settings(**environ):
    return load_settings(environ, None)


def test_models_load_one_after_another_in_the_calling_thread():
    """`start` returns when both are ready."""
    models = pair()
    assert not models.ready
    models.start()
    assert models.ready
    assert {name: state.status for name, state in models.states().items()} == {
        "avibe": Status.READY,
        "avision": Status.READY,
    }
    assert models.get("avision").info.name == "avision"
    assert [name for name, _ in models] == ["avibe", "avision"]


def test_unknown_model_is_a_key_error():
    """There is no model of another name."""
    with pytest.raises(KeyError):
        pair().get("gpt")


def test_first_failure_ends_the_load():
    """After a failed load the next model is not loaded, and the first error is raised."""
    models = pair(failure=StartError("VIBE_MODEL_DIR=/x: broken."))
    with pytest.raises(StartError, match="VIBE_MODEL_DIR=/x: broken"):
        models.start()
    assert models.get("avision").state().status is Status.LOADING


def test_an_unexpected_failure_ends_the_load_as_well(caplog):
    """With its traceback in the log and one sentence for whoever started it; the thread tells it, too."""

    def check():
        raise KeyError("factor")

    told, models = [], ModelSet({"avibe": LoadingBackend("avibe")}, check=check)
    with pytest.raises(StartError, match="could not be loaded: KeyError"):
        models.start()
    assert "Traceback" in caplog.text
    models.start_in_background(told.append, lambda: told.append("ready"))
    models._loader.join(PATIENCE)
    assert [str(error) for error in told] == ["The models could not be loaded: KeyError; the traceback is above."]


def test_a_failed_check_stops_the_start_before_anything_is_loaded():
    """The check of both models together comes first."""

    def check():
        raise StartError("too little memory.")

    backends = {"avibe": LoadingBackend("avibe")}
    models = ModelSet(backends, check=check)
    with pytest.raises(StartError, match="too little memory"):
        models.start()
    assert backends["avibe"].state().status is Status.LOADING


def test_memory_is_checked_with_the_settings_of_both_models(tmp_path):
    """Limits that fit no machine stop the start of the engine."""
    text = write_text_checkpoint(tmp_path / "text", max_position_embeddings=1_000_000)
    vision = write_vision_checkpoint(tmp_path / "vision", max_position_embeddings=1_000_000)
    huge = {
        "DEVICE": "cpu", "VIBE_MODEL_DIR": str(text), "VIBE_TOKENIZER_DIR": str(text),
        "VISION_MODEL_DIR": str(vision), "KV_CACHE_TOKENS": "1000000000", "MAX_MODEL_LEN": "1000000",
    }  # fmt: skip
    with pytest.raises(StartError, match="avibe .* avision .* lower KV_CACHE_TOKENS or MAX_MODEL_LEN"):
        build_models(settings(**huge)).start()


def test_unexpected_failure_becomes_a_sentence_and_a_traceback_in_the_log(caplog):
    """An unexpected error is logged with its traceback, and the caller gets one sentence."""
    with pytest.raises(StartError, match=r"avibe could not be loaded: ZeroDivisionError; the traceback is above\."):
        pair(failure=ZeroDivisionError("x")).start()
    assert "ZeroDivisionError" in caplog.text


class Meeting(LoadingBackend):
    """A server elsewhere whose start waits for that of all others."""

    def __init__(self, name, barrier, failure=None):
        super().__init__(name, failure)
        self.barrier = barrier

    def start(self):
        self.barrier.wait(PATIENCE)
        super().start()


def test_servers_elsewhere_are_asked_all_at_once():
    """Those that do not answer hold no other up, nor a checkpoint; all have been asked when the start is over."""
    barrier = threading.Barrier(4)
    elsewhere = {name: Meeting(name, barrier) for name in ("x0", "x1", "x2")}
    own = Meeting("avibe", barrier)
    models = ModelSet({"avibe": own, **elsewhere}, upstreams=elsewhere)
    models.start()
    assert {state.status for state in models.states().values()} == {Status.READY}


def test_a_server_elsewhere_that_cannot_be_set_up_ends_the_start():
    """Its error is the start's, once the others have been asked."""
    barrier = threading.Barrier(2)
    elsewhere = {"avision": Meeting("avision", barrier, StartError("no.")), "x1": Meeting("x1", barrier)}
    models = ModelSet({"avibe": LoadingBackend("avibe"), **elsewhere}, upstreams=elsewhere)
    with pytest.raises(StartError, match="no"):
        models.start()
    assert models.get("x1").state().status is Status.READY
    assert not models.loaded


def test_load_in_the_background_says_when_it_is_ready():
    """The caller continues at once and is called back once, at the end."""
    gate, outcome = threading.Event(), Outcome()
    models = pair(gate=gate)
    models.start_in_background(outcome.failed, outcome.called.set)
    assert models.loading
    assert not models.ready
    gate.set()
    assert outcome.wait() is None
    assert models.ready


def test_load_in_the_background_says_why_it_failed():
    """A failure reaches the caller's function, not the thread's excepthook."""
    outcome = Outcome()
    pair(failure=StartError("no.")).start_in_background(outcome.failed)
    assert str(outcome.wait()) == "no."


def test_stop_during_the_load_is_the_end_of_it():
    """After a stop the rest is not loaded and neither callback runs."""
    gate, outcome = threading.Event(), Outcome()
    models = pair(gate=gate)
    models.start_in_background(outcome.failed, outcome.called.set)
    models.stop(timeout=0)
    gate.set()
    models._loader.join(PATIENCE)
    assert not models.loading
    assert not outcome.called.is_set()
    assert models.get("avision").state().status is Status.DRAINING


def test_stop_shares_its_time_among_the_models():
    """Both drain at once; the second gets the time that the first has left."""
    clock = Clock()
    first, second = ScriptedBackend("avibe"), ScriptedBackend("avision")
    first_stop = first.stop

    def slow_stop(timeout):
        assert second.drained
        clock.advance(4)
        first_stop(timeout)

    first.stop = slow_stop
    ModelSet({"avibe": first, "avision": second}, clock).stop(timeout=10)
    assert first.stopped_with == 10
    assert second.stopped_with == 6


def test_idle_and_restart_needed_look_at_every_model():
    """One running request keeps the set busy; one model that needs a restart is enough."""
    first, second = ScriptedBackend("avibe"), ScriptedBackend("avision")
    models = ModelSet({"avibe": first, "avision": second})
    assert models.idle
    assert not models.restart_needed
    second._open["id"] = None
    second._state = BackendState(Status.DEAD, restart_needed=True)
    assert not models.idle
    assert models.restart_needed


# --- which checkpoint, where, how ---


def test_missing_folder_is_replaced_by_the_demo_in_development(tmp_path, caplog):
    """In development a folder that is not there becomes the demo, with a warning that names the setting."""
    caplog.set_level(logging.WARNING)
    (tmp_path / "vision").mkdir()
    chosen = choose_checkpoints(
        settings(VIBE_MODEL_DIR=str(tmp_path / "no"), VISION_MODEL_DIR=str(tmp_path / "vision"))
    )
    assert (chosen["avibe"].model_dir, chosen["avibe"].demo) == (DEMO_FOLDER / "avibe", True)
    assert chosen["avibe"].tokenizer_dir == DEMO_FOLDER / "avibe"
    assert (chosen["avision"].model_dir, chosen["avision"].demo) == (tmp_path / "vision", False)
    assert f"VIBE_MODEL_DIR={tmp_path / 'no'}: there is no such folder, so the demo model stands in" in caplog.text
    assert "VISION" not in caplog.text


def test_missing_folders_stop_the_start_in_production(tmp_path):
    """In production both missing folders are named in one error, with the way out."""
    with pytest.raises(StartError) as caught:
        choose_checkpoints(settings(ENVIRONMENT="production", VIBE_MODEL_DIR=str(tmp_path / "no")))
    assert f"VIBE_MODEL_DIR={tmp_path / 'no'}: there is no such folder" in str(caught.value)
    assert "ask for the demo with VIBE_MODEL_DIR=demo." in str(caught.value)
    assert "VISION_MODEL_DIR=/mnt/data/avito/vision/models: there is no such folder" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["AvitoTech/avibe", "someone/Model-1.5_x", "https://huggingface.co/AvitoTech/avibe", "hf://AvitoTech/avibe"]
)
@pytest.mark.parametrize("setting", ["VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR", "VISION_MODEL_DIR"])
def test_a_name_of_hugging_face_is_told_how_to_be_downloaded(tmp_path: Path, setting: str, name: str) -> None:
    """Whichever of the folders is set to it, and also if it is the address of the page."""
    folders = dict.fromkeys(("VIBE_MODEL_DIR", "VIBE_TOKENIZER_DIR", "VISION_MODEL_DIR"), str(tmp_path))
    settings = load_settings({**folders, setting: name, "ENVIRONMENT": "production", "DEVICE": "cpu"}, None)
    with pytest.raises(StartError, match=rf"{setting}=.*downloaded with ./deploy.sh models"):
        choose_checkpoints(settings)


def test_in_development_a_name_of_hugging_face_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    """The demo stands in, and the warning names the command; for any other missing folder it does not."""
    choose_checkpoints(load_settings({"VIBE_MODEL_DIR": "AvitoTech/avibe", "VISION_MODEL_DIR": "/no/such/one"}, None))
    told = [line for line in caplog.messages if "./deploy.sh models" in line]
    assert len(told) == 1
    assert told[0].startswith("VIBE_MODEL_DIR=AvitoTech/avibe: there is no such folder")


def test_a_folder_that_reads_like_a_name_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder with one slash is a folder, if it exists."""
    monkeypatch.chdir(tmp_path)
    Path("AvitoTech/avibe").mkdir(parents=True)
    folders = {"VIBE_MODEL_DIR": "AvitoTech/avibe", "VIBE_TOKENIZER_DIR": "AvitoTech/avibe", "VISION_MODEL_DIR": "demo"}
    chosen = choose_checkpoints(load_settings({**folders, "ENVIRONMENT": "production", "DEVICE": "cpu"}, None))
    assert chosen["avibe"].model_dir == Path("AvitoTech/avibe")


def test_demo_named_in_the_settings_is_used_in_production(caplog):
    """`demo` is the demo in every environment, without a warning."""
    chosen = choose_checkpoints(settings(ENVIRONMENT="production", VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo"))
    assert all(checkpoint.demo for checkpoint in chosen.values())
    assert caplog.text == ""


def test_unreadable_folder_is_not_replaced_by_the_demo():
    """If the folder may exist but cannot be read, the start stops and says so, in development too."""
    with pytest.raises(StartError, match=r"the folder cannot be read: File name too long\."):
        choose_checkpoints(settings(VIBE_MODEL_DIR="/" + "x" * 300))


def test_spec_names_the_settings_of_each_model(tmp_path):
    """An error about a model names the settings to correct: folder, tokenizer or dtype."""
    found = settings(
        VIBE_MODEL_DIR=str(tmp_path), VISION_MODEL_DIR=str(tmp_path), VISION_DTYPE="bfloat16", DTYPE="float32"
    )
    chosen = choose_checkpoints(found)
    vibe, vision = (model_spec(name, chosen[name], found, "cuda") for name in ("avibe", "avision"))
    assert (vibe.dir_setting, vibe.tokenizer_setting, vibe.dtype_setting) == (
        "VIBE_MODEL_DIR",
        "VIBE_TOKENIZER_DIR",
        "DTYPE",
    )
    assert (vision.dir_setting, vision.tokenizer_setting, vision.dtype_setting) == (
        "VISION_MODEL_DIR",
        "VISION_MODEL_DIR",
        "VISION_DTYPE",
    )
    assert (vibe.served_id, vibe.vision, vibe.dtype) == ("avibe", False, "float32")
    assert (vision.served_id, vision.vision, vision.dtype) == ("avision", True, "bfloat16")
    assert vibe.tokenizer_dir == Path("/mnt/data/avito/vibe/tokenizers")
    assert vision.tokenizer_dir == tmp_path


@pytest.mark.parametrize(("device", "dtype", "tokens"), [("cpu", "float32", 320), ("cuda", "float16", 2048)])
def test_automatic_values_follow_the_device(device, dtype, tokens):
    """The dtype and the token budget are chosen for the device, and a step fits all running sequences."""
    found = settings()
    assert model_spec("avibe", choose_checkpoints(found)["avibe"], found, device).dtype == dtype
    assert engine_config(found, device).max_num_batched_tokens == tokens
    assert engine_config(settings(MAX_NUM_SEQS="4000"), device).max_num_batched_tokens == 4000
    assert engine_config(settings(MAX_NUM_BATCHED_TOKENS="100"), device).max_num_batched_tokens == 100


@pytest.mark.parametrize(
    ("stored", "quant", "given", "expected"),
    [
        ("bfloat16", "none", "", "bfloat16"),
        ("float16", "none", "", "float32"),
        ("float32", "none", "", "float32"),
        ("bfloat16", "none", "float32", "float32"),
        ("float16", "int8", "", "float16"),
        ("bfloat16", "int4", "", "bfloat16"),
    ],
)
def test_a_processor_keeps_the_bits_that_its_kernels_compute(stored, quant, given, expected, tmp_path):
    """bfloat16 stays what it is stored as, quantized weights are read as they are stored; a setting wins."""
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    save_file({"weight": torch.zeros(4, 4, dtype=getattr(torch, stored))}, tmp_path / "model.safetensors")
    found = settings(VIBE_MODEL_DIR=str(tmp_path), VIBE_QUANT=quant, VIBE_DTYPE=given)
    spec = model_spec("avibe", choose_checkpoints(found)["avibe"], found, "cpu")
    assert (spec.dtype, spec.quant, spec.quant_setting) == (expected, quant, "VIBE_QUANT")
    assert model_spec("avibe", choose_checkpoints(found)["avibe"], found, "cuda").dtype == (given or "float16")


def test_without_kernels_a_processor_computes_in_float32(tmp_path, monkeypatch):
    """torch alone would gain nothing from bfloat16; a setting wins."""
    monkeypatch.setattr(selection, "obtainable", lambda level: False)
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    save_file({"weight": torch.zeros(4, 4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    for given, expected in (("", "float32"), ("bfloat16", "bfloat16")):
        found = settings(VIBE_MODEL_DIR=str(tmp_path), VIBE_DTYPE=given)
        assert model_spec("avibe", choose_checkpoints(found)["avibe"], found, "cpu").dtype == expected


def test_each_model_has_the_limits_of_its_device(monkeypatch):
    """A model on the CPU beside one on a GPU: dtype, step and cache follow each one's device."""
    monkeypatch.setattr(selection, "choose_devices", lambda *_: {"VIBE_DEVICE": "cuda:1", "VISION_DEVICE": "cpu"})
    (vibe, on_gpu), (vision, on_cpu) = planned_models(
        settings(VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo", KV_CACHE_TOKENS="avibe=8192,avision=4096")
    )
    assert (vibe.device, vibe.device_type, vibe.dtype) == ("cuda:1", "cuda", "float16")
    assert (vision.device, vision.device_type, vision.dtype) == ("cpu", "cpu", "float32")
    assert (on_gpu.max_num_batched_tokens, on_gpu.kv_cache_tokens) == (2048, 8192)
    assert (on_cpu.max_num_batched_tokens, on_cpu.kv_cache_tokens) == (320, 4096)


def test_a_cache_whose_size_is_open_is_sized(caplog):
    """The demos on the CPU hold every sequence at its full length, and some prefixes."""
    planned = planned_models(settings(DEVICE="cpu", VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo", MAX_NUM_SEQS="8"))
    assert [config.kv_cache_tokens for _, config in planned] == [(8 + 4) * 2048] * 2


def test_models_are_known_before_they_are_loaded():
    """Right after the building, readiness can name both models and nothing has imported torch."""
    code = (
        "import sys, config, models\n"
        "built = models.build_models(config.load_settings({}, None))\n"
        "print([backend.info.served_id for _, backend in built], built.ready, 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.stdout.splitlines()[-1] == "['avibe-demo', 'avision-demo'] False False"


def test_built_models_answer_on_the_cpu():
    """The engine loads the demo checkpoint that it was built for, and serves it once all models are loaded."""
    models = build_models(settings(DEVICE="cpu", VIBE_MODEL_DIR="demo", CPU_THREADS="1"))
    backend = models.get("avibe")
    try:
        backend.start()
        assert backend.state().status is Status.LOADING
        models.loaded = True
        assert backend.state().status is Status.READY
        assert (backend.info.served_id, backend.info.demo) == ("avibe-demo", True)
    finally:
        models.stop(timeout=0)


# --- the backend that is built when it is started ---


def deferred(build):
    return DeferredBackend(ScriptedBackend("avibe").info, build)


def test_deferred_backend_is_loading_until_it_is_built():
    """Before the start it knows its name and refuses; afterwards it is the backend that was built."""
    built = ScriptedBackend("avibe", max_model_len=77)
    backend = deferred(lambda: built)
    assert backend.state().status is Status.LOADING
    assert backend.stats().num_requests_running == 0
    assert backend.info.max_model_len == 4096
    assert backend.most_at_once() is None
    with pytest.raises(Exception, match="still loading"):
        backend.submit(None)
    backend.start()
    assert backend.state().status is Status.READY
    assert backend.info.max_model_len == 77
    assert backend.stats().max_num_seqs == 64
    built.most = 7
    assert backend.most_at_once() == 7
    backend.stop(3.0)
    assert (built.drained, built.stopped_with) == (True, 3.0)


def test_deferred_backend_serves_only_once_it_is_open():
    """A model that is started takes no request while another one still loads."""
    opened = []
    backend = DeferredBackend(ScriptedBackend("avibe").info, lambda: ScriptedBackend("avibe"), lambda: bool(opened))
    backend.start()
    assert backend.state().status is Status.LOADING
    assert backend.would_refuse("client") is not None
    with pytest.raises(NotReady):
        backend.submit(None)
    opened.append(True)
    assert backend.state().status is Status.READY
    assert backend.would_refuse("client") is None


class StagedBackend(LoadingBackend):
    """A backend that reports stages while it loads, and keeps the last one; `at_each` is called at each."""

    def __init__(self, stages, at_each):
        super().__init__()
        self.stages, self.at_each = stages, at_each

    def start(self):
        for progress in self.stages:
            self.become(Status.LOADING, progress=progress)
            self.at_each()
        self.become(Status.READY, progress=progress)


def test_a_load_has_its_bytes_and_its_time_at_every_stage():
    """Seconds count from the start of a model, whatever it reports; one that has loaded keeps its bytes."""
    clock, opened, seen = Clock(), [], []

    def look():
        progress = models.states()["avibe"].progress
        seen.append((progress.stage, progress.loaded_bytes, progress.seconds))
        clock.advance(2)

    def build():
        look()
        return StagedBackend([Progress("weights", 3, 4), Progress("check", 4, 4)], look)

    backend = DeferredBackend(ScriptedBackend("avibe").info, build, lambda: bool(opened))
    models = ModelSet({"avibe": backend}, clock)
    look()
    models.start()
    look()
    assert seen == [
        ("waiting", 0, 0.0),
        ("starting", 0, 0.0),
        ("weights", 3, 2.0),
        ("check", 4, 4.0),
        ("waiting for the other models", 4, 6.0),
    ]
    opened.append(True)
    assert models.states()["avibe"] == BackendState(Status.READY)


def test_deferred_backend_that_could_not_be_built_needs_a_restart():
    """The state reports a failed load for the lifetime of the process."""
    backend = deferred(lambda: LoadingBackend(failure=StartError("no.")))
    with pytest.raises(StartError):
        backend.start()
    assert backend.state().status is Status.DEAD
    assert backend.state().restart_needed


def test_deferred_backend_drained_while_it_loads_stays_drained():
    """A drain during the load holds when the load ends."""
    built = ScriptedBackend("avibe")
    backend = deferred(lambda: built)
    backend.stop(timeout=0)
    assert backend.state().status is Status.DRAINING
    backend.start()
    assert built.drained
    assert backend.state().status is Status.DRAINING


def test_deferred_backend_hands_requests_on():
    """After the start a request goes to the built backend."""
    built = ScriptedBackend("avibe")
    backend = deferred(lambda: built)
    backend.stop_waiting(print)
    with pytest.raises(NotReady):
        backend.submit_when_free(None, True, print)
    backend.start()
    built.refusal = StartError("reached")
    with pytest.raises(StartError, match="reached"):
        backend.submit(None)
    with pytest.raises(StartError, match="reached"):
        backend.submit_when_free(None, True, print)
    backend.stop_waiting(print)


def test_announced_stop_shows_in_the_state_while_requests_are_taken():
    """Load balancers that query readiness avoid this copy; another reason for not being ready takes precedence."""
    models = ModelSet({"avibe": ScriptedBackend("avibe"), "avision": LoadingBackend("avision")})
    models.announce_stop()
    assert [state.status for state in models.states().values()] == [Status.DRAINING, Status.LOADING]
    assert not models.ready
    assert models.get("avibe").state().status is Status.READY


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_reserve_for_a_second_copy_is_what_that_copy_uses(tmp_path, overlapping):
    """While the old copy is still in memory, RELOAD_RESERVE does not reserve memory for a third."""
    text = write_text_checkpoint(tmp_path / "text", max_position_embeddings=1_000_000)
    huge = {"VIBE_MODEL_DIR": str(text), "VIBE_TOKENIZER_DIR": str(text), "KV_CACHE_TOKENS": "1000000000"}
    huge |= {"DEVICE": "cpu", "VISION_MODEL_DIR": "demo", "MAX_MODEL_LEN": "1000000", "RELOAD_RESERVE": "on"}
    models = build_models(settings(**huge))
    models.overlapping = overlapping
    with pytest.raises(StartError) as stopped:
        models.start()
    assert ("RELOAD_RESERVE" in str(stopped.value)) is not overlapping


def test_preparations_end_before_the_first_request_is_accepted():
    """They see every model started and none serving yet."""
    models = pair()
    seen = []
    models.before_ready = lambda: seen.append((models.ready, models.loaded))
    models.start()
    assert seen == [(True, False)]
    assert models.loaded
