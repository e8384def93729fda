"""The server that the service is compared with: one `generate` at a time, behind OpenAI's chat route."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from flask.testing import FlaskClient
from transformers import AutoModelForCausalLM

from benchmarks.harness.http_answer import ChatStream
from benchmarks.harness.lock_app import create_app, spec
from benchmarks.harness.one_by_one import OneByOne
from engine.loading.loader import load_model
from engine.types import ChatPrompt, GenerationRequest, SamplingParams
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint
from tests.fakes import image_bytes

QUESTION = "Напиши объявление: диван"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tiny checkpoints of both models."""
    text = write_text_checkpoint(tmp_path_factory.mktemp("text"))
    return text, write_vision_checkpoint(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def client(folders: tuple[Path, Path]) -> FlaskClient:
    """A client of the app over both models."""
    return create_app(*map(str, folders)).test_client()


def ask(client: FlaskClient, **fields: object) -> dict:
    """Return the body of a whole answer to one question."""
    body = {"model": "avibe", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0}
    return client.post("/v1/chat/completions", json=body | fields).get_json()


def test_a_greedy_answer_is_generates(client: FlaskClient, folders: tuple[Path, Path]) -> None:
    """Text and number of tokens are those of the library's own call."""
    loaded = load_model(spec("avibe", folders[0]), lambda progress: None)
    ids = loaded.preparer.prepare(ChatPrompt(({"role": "user", "content": QUESTION},))).token_ids
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    wanted = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=[499, 501])
    made = ask(client)
    assert made["usage"] == {"prompt_tokens": len(ids), "completion_tokens": wanted.shape[1] - len(ids)}
    assert made["choices"][0]["message"]["content"]


def test_a_stream_carries_the_same_answer(client: FlaskClient) -> None:
    """In pieces, with its token counts, as the benchmark's client reads it."""
    body = {"model": "avibe", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0}
    sent = client.post("/v1/chat/completions", json=body | {"stream": True}).data
    stream = ChatStream()
    stream.feed(sent, 0.0)
    stream.end()
    whole = ask(client)
    events = [json.loads(line[6:]) for line in sent.decode().splitlines() if line.startswith("data: {")]
    parts = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(parts) == whole["choices"][0]["message"]["content"]
    assert stream.received.tokens == whole["usage"]["completion_tokens"]


def test_a_question_about_an_image_is_answered(client: FlaskClient) -> None:
    """The image is part of the prompt."""
    url = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Что тут?"}]
    made = ask(client, model="avision", messages=[{"role": "user", "content": content}])
    plain = ask(client, model="avision", messages=[{"role": "user", "content": "Что тут?"}])
    assert made["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_a_sampled_answer_runs_to_its_length_where_no_token_ends_it(folders: tuple[Path, Path]) -> None:
    """The end token is ignored if the request says so; the timings are in order."""
    model = OneByOne(spec("avibe", folders[0]), 1024)
    sampling = SamplingParams(20, temperature=0.7, ignore_eos=True)
    made = model.submit(GenerationRequest("r", ChatPrompt(({"role": "user", "content": QUESTION},)), sampling)).result()
    assert (made.output_tokens, made.finish_reason) == (20, "length")
    assert 0 <= made.timings.queued <= (made.timings.first_token or 0) <= made.timings.total
