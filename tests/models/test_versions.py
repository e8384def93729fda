"""Several checkpoints of a model: which are loaded, what one that cannot be costs, and what the set makes of it."""

import gc
import weakref

import pytest

from config import load_settings
from engine.deferred import DeferredBackend
from engine.errors import NoRoom, NotReady, StartError
from engine.loading import memory_budget
from engine.types import BackendState, GenerationRequest, SamplingParams, Status, TextPrompt
from models import ModelSet, build_models, selection
from models.selection import DEMO_FOLDER, choose_checkpoints, planned_models
from tests.checkpoints import write_text_checkpoint, write_tokenizer
from tests.fakes import ScriptedBackend

DEMOS = {"DEVICE": "cpu", "VISION_MODEL_DIR": "demo", "MAX_NUM_SEQS": "4", "CPU_THREADS": "1"}


def settings(**environ):
    return load_settings(DEMOS | environ, None)


class Failing(ScriptedBackend):
    """A backend whose load fails."""

    def start(self):
        self.become(Status.DEAD, restart_needed=True)
        raise StartError("VIBE_MODELS: v2: the folder /x is broken.")


def test_each_version_has_its_folder_and_its_tokenizer(tmp_path):
    """A tokenizer of its own where there is one, else that of the model."""
    whole = write_text_checkpoint(tmp_path / "whole")
    bare = write_text_checkpoint(tmp_path / "bare", tokenizer_dir=tmp_path / "tokenizer")
    found = choose_checkpoints(
        settings(VIBE_MODELS=f"a={whole},b={bare},c=demo", VIBE_TOKENIZER_DIR=str(tmp_path / "tokenizer"))
    )
    assert list(found) == ["avibe", "avision", "avibe@b", "avibe@c"]
    assert (found["avibe"].model_dir, found["avibe"].tokenizer_dir) == (whole, whole)
    assert (found["avibe@b"].model_dir, found["avibe@b"].tokenizer_dir) == (bare, tmp_path / "tokenizer")
    assert (found["avibe@c"].model_dir, found["avibe@c"].demo) == (DEMO_FOLDER / "avibe", True)


def test_the_default_version_needs_its_folder(tmp_path):
    """In production a missing folder of the default stops the start, and one of another version does not."""
    missing = str(tmp_path / "no")
    with pytest.raises(StartError, match=r"VIBE_MODELS: a=.*/no: there is no such folder"):
        choose_checkpoints(settings(ENVIRONMENT="production", VIBE_MODELS=f"a={missing},b=demo"))
    found = choose_checkpoints(settings(ENVIRONMENT="production", VIBE_MODELS=f"a=demo,b={missing}"))
    assert str(found["avibe@b"].model_dir) == missing


@pytest.mark.parametrize("breakage", ["missing", "empty", "no json", "odd config", "odd header"])
def test_a_broken_version_is_left_out_of_the_plan(tmp_path, breakage):
    """Whatever is wrong with its files, the others are planned, and share the memory among themselves."""
    folder = tmp_path / "broken"
    if breakage != "missing":
        write_tokenizer(folder)
    if breakage in ("no json", "odd config"):
        (folder / "config.json").write_text("{" if breakage == "no json" else '{"architectures": 7}')
    if breakage == "odd header":
        write_text_checkpoint(folder, shard_size=10**9)
        header = b'{"x":{"dtype":"F32","data_offsets":[0,0]}}'
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    left_out = {}
    found = planned_models(settings(VIBE_MODELS=f"v1=demo,v2={folder},v3=demo"), left_out=left_out)
    assert [spec.name for spec, _ in found] == ["avibe", "avision", "avibe@v3"]
    assert list(left_out) == ["avibe@v2"]


def test_a_version_that_does_not_fit_is_left_out(monkeypatch):
    """The last ones give way until the rest fits; the default does not."""
    models = build_models(settings(VIBE_MODELS="v1=demo,v2=demo,v3=demo"))
    seen = []

    def check(planned):
        seen.append([spec.name for spec, _ in planned])
        if len(seen[-1]) > 3:
            raise NoRoom("too little is free.")

    monkeypatch.setattr(memory_budget, "check_together", check)
    models._check()
    assert seen == [["avibe", "avision", "avibe@v2", "avibe@v3"], ["avibe", "avision", "avibe@v2"]]
    with pytest.raises(StartError, match="too little is free"):
        models.get("avibe@v3").start()


def test_a_reload_makes_room_rather_than_leave_a_version_out(monkeypatch):
    """While an older copy is in memory, lack of room is what stops it first, for all versions."""
    models = build_models(settings(VIBE_MODELS="v1=demo,v2=demo"))
    models.overlapping = True

    def check(planned):
        raise NoRoom("too little is free.")

    monkeypatch.setattr(memory_budget, "check_together", check)
    with pytest.raises(NoRoom):
        models._check()
    models.overlapping = False
    with pytest.raises(NoRoom):  # not even the defaults fit
        models._check()
    assert [spec.name for spec, _ in selection.planned_models(settings())] == ["avibe", "avision"]


def test_a_version_that_fails_to_load_leaves_the_service_ready(caplog):
    """It is logged, is dead, needs no restart; the default is ready."""
    models = ModelSet(
        {"avibe": ScriptedBackend(), "avibe@v2": Failing("avibe@v2"), "avision": ScriptedBackend("avision")}
    )
    models.start()
    assert models.ready
    assert models.loaded
    assert not models.restart_needed
    assert models.states()["avibe@v2"].status is Status.DEAD
    assert "avibe@v2 is left out, and the others serve without it: VIBE_MODELS: v2" in caplog.text


def test_what_a_version_has_loaded_is_free_before_the_next_one_loads():
    """Its error held the frames of its start, and a backend refers to itself."""
    held, found = [], []

    class FailingLate(Failing):
        def start(self):
            self.weights = FailingLate("weights")
            self.weights.owner = self
            held.append(weakref.ref(self.weights))
            super().start()

    def build():
        found.append(held[0]() is None)
        return ScriptedBackend("avibe@v3")

    models = ModelSet(
        {
            "avibe": ScriptedBackend(),
            "avibe@v2": DeferredBackend(Failing("avibe@v2").info, lambda: FailingLate("avibe@v2")),
            "avibe@v3": DeferredBackend(Failing("avibe@v3").info, build),
        }
    )
    gc.disable()
    try:
        models.start()
    finally:
        gc.enable()
    assert found == [True]


def test_the_default_that_fails_to_load_ends_the_start():
    """As without versions."""
    models = ModelSet({"avibe": Failing(), "avibe@v2": ScriptedBackend("avibe@v2")})
    with pytest.raises(StartError):
        models.start()
    assert not models.ready


def test_stop_and_drain_reach_every_version():
    """None is left running, and a busy version keeps the set busy."""
    backends = {name: ScriptedBackend(name) for name in ("avibe", "avision", "avibe@v2")}
    models = ModelSet(backends)
    backends["avibe@v2"].hold = True
    backends["avibe@v2"].submit(GenerationRequest("id", TextPrompt("x"), SamplingParams(1)))
    assert not models.idle
    models.stop(3.0)
    assert all(one.drained and one.stopped_with is not None for one in backends.values())


def test_a_version_that_dies_later_is_not_worth_a_restart():
    """The watchdog acts on the defaults alone."""
    models = ModelSet({"avibe": ScriptedBackend(), "avibe@v2": ScriptedBackend("avibe@v2")})
    models.get("avibe@v2")._state = BackendState(Status.DEAD, restart_needed=True)
    assert not models.restart_needed
    models.get("avibe")._state = BackendState(Status.DEAD, restart_needed=True)
    assert models.restart_needed


def test_a_built_version_of_a_broken_folder_refuses_with_a_reason(tmp_path):
    """Its error is typed, and no memory is held for it."""
    models = build_models(settings(VIBE_MODELS=f"v1=demo,v2={tmp_path}"))
    broken = models.get("avibe@v2")
    with pytest.raises(StartError, match=r"VIBE_MODELS: v2: the folder .* holds no model"):
        broken.start()
    assert broken.state().status is Status.DEAD
    for call in (broken.submit, broken.tokenize, broken.detokenize):
        with pytest.raises(NotReady, match="could not be loaded"):
            call(None)
    assert str(broken.would_refuse("client").message) == "The model could not be loaded."
