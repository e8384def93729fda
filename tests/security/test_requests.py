"""Fields of a request that crashed, blocked or exposed other servers; docs/known-vulnerabilities.md says which."""

import base64
import gzip
import json
import tracemalloc
from urllib.parse import quote

import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"
TENSOR = base64.b64encode(b"\x80\x02" + b"tensor" * 8).decode()  # a pickle's first bytes, as torch.save writes them


def ask(client, path=CHAT, **fields):
    prompt = {"messages": HELLO} if path == CHAT else {"prompt": "Hello"}
    return client.post(path, json={"model": "avibe"} | prompt | fields)


def ask_ascii(client, path, body):
    """Send JSON in ASCII, which can express what UTF-8 cannot."""
    return client.post(path, data=json.dumps(body), content_type="application/json")


def refused(response, field, code="validation_error"):
    """Check that a request was refused as the client's mistake, with the field at fault."""
    error = response.json["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"].startswith(field)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("number", [10**9, 2**63, 9, 0, -1])
def test_the_number_of_answers_is_bounded(client, avibe, path, number):
    """`n` is at most 8, and is checked before any work for the answers."""
    refused(ask(client, path, n=number), "n")
    assert avibe.submitted == []


def test_the_best_of_many_is_not_computed(client, avibe):
    """`best_of` may only be 1, or as large as `n`, which has its own bound."""
    refused(ask(client, TEXT, best_of=10**6), "best_of")
    refused(ask(client, TEXT, best_of=10**6, n=10**6), "n")
    assert avibe.submitted == []


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", ""]])
def test_an_empty_prompt_is_a_mistake(client, avibe, prompt):
    """400, and the next request is answered."""
    refused(ask(client, TEXT, prompt=prompt), "prompt")
    assert avibe.submitted == []
    assert ask(client, TEXT).status_code == 200


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"chat_template": ENDLESS}, "chat_template"),
        ({"chat_template": "{{ ''.__class__ }}"}, "chat_template"),
        ({"chat_template_kwargs": {"chat_template": ENDLESS}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"enable_thinking": False, "documents": []}}, "chat_template_kwargs.documents"),
    ],
)
def test_a_client_cannot_bring_a_template(client, avibe, fields, blamed):
    """Neither a chat template nor an argument of the loaded one, except `enable_thinking`."""
    refused(ask(client, **fields), blamed)
    assert avibe.submitted == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_embeds", "image_embeds": TENSOR},
        {"type": "prompt_embeds", "prompt_embeds": TENSOR},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{TENSOR}"}},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{TENSOR}"}},
    ],
)
def test_a_client_cannot_bring_tensors(client, avibe, part):
    """Embeddings are neither parts of a message nor fields of a request, and are not decoded."""
    refused(ask(client, messages=[{"role": "user", "content": [part]}]), "messages[0].content[0]")
    refused(ask(client, TEXT, prompt_embeds=TENSOR), "prompt_embeds")
    assert avibe.submitted == []


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": {"type": "nonsense"}},
        {"guided_regex": "("},
        {"guided_grammar": "root ::= root root"},
        {"thinking_token_budget": 1},
        {"custom_logit_processor": TENSOR},
        {"lora_path": "/tmp/adapter"},
        {"media_io_kwargs": {"video": {"fps": 10**9, "max_frames": 10**9}}},
        {"mm_processor_kwargs": {"max_pixels": 10**12}},
        {"n_discard": -1},
        {"slot_id": -1},
        {"api_base": "http://169.254.169.254/"},
        {"user_config": {"model_list": [{"litellm_params": {"api_base": "http://169.254.169.254/"}}]}},
    ],
    ids=lambda fields: next(iter(fields)),
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_fields_of_other_servers_are_refused_by_name(client, avibe, path, fields, connected):
    """An unknown field is an error, so none is passed on to a library."""
    refused(ask(client, path, **fields), next(iter(fields)))
    assert (avibe.submitted, connected) == ([], [])


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"type": ["object", 7]}, {"pattern": "("}, {"pattern": 5}, {"properties": []}]
)
def test_a_malformed_schema_of_a_tool_is_no_failure_of_ours(client, schema):
    """The request is answered or refused, and the next one is answered."""
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    for choice in ("auto", "required"):
        assert ask(client, tools=[tool], tool_choice=choice).status_code in (200, 400)
    assert ask(client).status_code == 200


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "sha256:../../x", "hf.co/a/b", "C:\\x", "\0"])
def test_the_name_of_a_model_is_no_path(client, name):
    """Names are looked up among the loaded models only, so existing and missing files give the same response."""
    asked, other = ask(client, model=name), ask(client, model="nothing")
    assert (asked.status_code, other.status_code) == (404, 404)
    assert asked.json["error"]["code"] == other.json["error"]["code"] == "model_not_found"
    listed = client.get(f"/v1/models/{quote(name, safe='')}", follow_redirects=True)
    assert (listed.status_code, "root:" in listed.text) == (404, False)


def test_a_decompression_bomb_is_unpacked_up_to_the_limit_only(client, avibe):
    """It is refused as any body over the limit is, as soon as so much of it has come out."""
    bomb = gzip.compress(b" " * (4 * 2**20))
    assert len(bomb) < 5000
    sent = {"data": bomb, "content_type": "application/json", "headers": {"Content-Encoding": "gzip"}}
    assert client.post("/api/v1/text/generate", **sent).status_code == 413
    tracemalloc.start()
    try:
        assert client.post("/api/v1/text/generate", **sent).status_code == 413
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()
    assert avibe.submitted == []


def upload(client, prompt, image, name="a.png"):
    """Send a form as a browser does, without the temporary files that a test client makes of large parts."""
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    text = f'Content-Disposition: form-data; name="prompt"\r\n\r\n{prompt}'.encode()
    body = b"--limit\r\n" + text + b"\r\n--limit\r\n" + head + image + b"\r\n--limit--\r\n"
    return client.post("/api/v1/image/analyze", data=body, content_type="multipart/form-data; boundary=limit")


def test_a_form_is_bounded_before_it_is_read(client, avision, encoded):
    """A field that is not a file has a limit far below that of the whole body."""
    assert upload(client, "a" * (2 * 1024 * 1024), encoded()).status_code in (400, 413)
    assert upload(client, "Hello", b"\0" * (18 * 1024 * 1024)).status_code == 413
    assert avision.submitted == []


@pytest.mark.parametrize("name", ["a.png; touch marker", "$(touch marker).png", "../../../marker.png", "pwn.html"])
def test_the_name_of_an_upload_is_not_used(client, encoded, name, tmp_path, monkeypatch):
    """Nothing is run, written or served under that name."""
    monkeypatch.chdir(tmp_path)
    response = upload(client, "Hello", encoded(), name)
    assert (response.status_code, list(tmp_path.iterdir())) == (200, [])
    assert name not in response.text
