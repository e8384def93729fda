"""A request of the real engine with a tiny checkpoint: its spans have the engine's times and counts."""

from __future__ import annotations

import time

import pytest

from app_production import create_app
from engine.llm_engine import LLMEngine
from engine.types import EngineConfig
from models import ModelSet
from telemetry.tracing.request_trace import PARTS
from tests.checkpoints import text_spec, write_text_checkpoint
from tests.fakes import ScriptedBackend

ASKED = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, "ignore_eos": True}


@pytest.fixture
def client(settings, machine, traced, tmp_path):
    spec = text_spec(write_text_checkpoint(tmp_path / "avibe"))
    engine = LLMEngine(spec, EngineConfig(max_num_seqs=2, max_model_len=256, cpu_threads=1))
    engine.start()
    models = ModelSet({"avibe": engine, "avision": ScriptedBackend("avision")})
    yield create_app(settings, models, machine, traced.tracing).test_client()
    engine.stop(5.0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_spans_are_what_the_engine_did(client, traced, stream):
    """Queue, prefill and decode follow each other inside the request's own span, with the engine's counts."""
    before = time.time_ns()
    with client.post("/v1/chat/completions", json=ASKED | {"stream": stream}) as response:
        assert b'"finish_reason":"length"' in response.data.replace(b": ", b":")
    after = time.time_ns()
    request = traced.only("chat avibe")
    prepare, queue, prefill, decode = (traced.only(name) for name in PARTS)
    moments = [before, request.start_time, prepare.start_time, queue.start_time, prefill.start_time, decode.start_time]
    moments += [decode.end_time, request.end_time, after]
    assert all(late - early > -1_000_000 for early, late in zip(moments, moments[1:], strict=False)), moments
    assert prepare.end_time > prepare.start_time
    assert prefill.end_time > prefill.start_time
    assert decode.end_time > decode.start_time
    assert request.attributes["gen_ai.usage.output_tokens"] == decode.attributes["gen_ai.usage.output_tokens"] == 6
    assert request.attributes["gen_ai.usage.input_tokens"] == prefill.attributes["gen_ai.usage.input_tokens"] > 1
    assert request.attributes["gen_ai.response.finish_reasons"] == ("length",)
