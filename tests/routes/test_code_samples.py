"""The examples of the description: valid, one source for curl, Python and OpenAPI, and accepted by the service."""

import ast
import json
import re
import shlex

import jsonschema
import pytest

from app_production import create_app
from config import load_settings
from edge.route_table import JSON, ROUTES, Need
from routes.code_samples import ADDRESS, KEY, OF_THE_PAGE, WIDTH, code_samples, source
from routes.examples import EXAMPLES
from routes.route_bodies import route_bodies
from routes.sections import section_of
from routes.services import services
from routes.validation import validated
from tests.fakes import FakeMachine, scripted_models

BODIES = [(name, one) for name, examples in EXAMPLES.items() for one in examples if one.body is not None]


@pytest.fixture(scope="module")
def app():
    """One for all examples."""
    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    return create_app(load_settings(off, None), scripted_models(), FakeMachine())


@pytest.fixture(scope="module")
def samples(app):
    """The samples of every route."""
    routes = route_bodies(services(app).request_models, services(app).openai_models)
    return {name: code_samples(name, route) for name, route in routes.items()}


def test_every_route_for_programs_has_an_example(samples):
    """In curl and in Python; a route for browsers has none, and no example is of a route that there is not."""
    assert set(EXAMPLES) <= set(ROUTES)
    for name in set(ROUTES) & set(samples) - {"GET /api/docs"}:
        path = name.split()[1]
        assert bool(samples[name]) is (section_of(path).key != "pages" and not path.startswith(OF_THE_PAGE)), name
        assert all(one.curl and one.python for one in samples[name])


@pytest.mark.parametrize(("name", "example"), BODIES, ids=[f"{name} {one.key}" for name, one in BODIES])
def test_an_example_is_valid(app, name, example):
    """By its schema, and by the model that validates requests."""
    document = services(app).api_description()
    content = document["paths"][name.split()[1]]["post"]["requestBody"]["content"][JSON]
    body = json.loads(json.dumps(example.body))
    assert content["examples"][example.key]["value"] == body
    jsonschema.validate(body, content["schema"] | {"components": document["components"]})
    routes = route_bodies(services(app).request_models, services(app).openai_models)
    assert validated(routes[name].requests[JSON], body)


def test_the_programs_send_the_body_of_the_example(samples):
    """What curl sends is the JSON, and Python compiles."""
    for name, found in samples.items():
        for one in found:
            ast.parse(one.python)
            words = shlex.split(one.curl.replace("\\\n", " "))
            if one.body is not None:
                assert json.loads(words[words.index("-d") + 1]) == one.body, name
                assert f"{ADDRESS}{name.split()[1]}" in words
            assert not any(word in one.python + one.curl for word in ("ADDRESS", "FIELDS", "BODY")), name


def test_where_keys_are_asked_for_every_program_sends_one(app):
    """In each of its requests, where its route wants one; and else none does."""
    routes, keyed = route_bodies(services(app).request_models, services(app).openai_models), 0
    for name, route in routes.items():
        for plain, one in zip(code_samples(name, route), code_samples(name, route, keys=True), strict=True):
            if ROUTES[name].need is not Need.CLIENT:
                assert one == plain
                continue
            keyed += 1
            ast.parse(one.python)
            assert KEY not in plain.curl + plain.python
            assert one.curl.count("curl ") == one.curl.count(f"-H 'Authorization: Bearer {KEY}'"), name
            requests = len(re.findall(r"httpx\.\w+\(|OpenAI\(|Anthropic\(", one.python))
            assert requests == one.python.count("headers=headers") + one.python.count(f'api_key="{KEY}"') > 0, name
            assert ("headers=headers" in one.python) == (f'"Bearer {KEY}"' in one.python)
    assert keyed > 30


@pytest.mark.parametrize("auth", ["open", "keys"])
def test_page_and_document_show_programs_with_keys_where_they_are_asked_for(tmp_path, auth):
    """And else without."""
    settings = load_settings({"AUTH": auth, "STATE_DIR": str(tmp_path)}, None)
    client = create_app(settings, scripted_models(), FakeMachine()).test_client()
    page, document = (client.get(path).get_data(as_text=True) for path in ("/api/docs", "/api/openapi.json"))
    assert (KEY in document) is (f"Bearer {KEY}" in page) is (auth == "keys")
    assert (f"<code>{KEY}</code>" in page) is (auth == "keys")  # which says what it stands for


@pytest.mark.parametrize(
    "value",
    [
        {"a": True, "b": [1, 2.5, False], "c": {}},
        {"texts": ["x" * 60, 'y"\n' * 20, "Привет"], "deep": {"list": [{"key": "z" * 70}], "on": True}},
        [],
        "plain",
    ],
)
def test_source_text_means_the_value(value):
    """As Python and as JSON; lines are broken where a value has parts."""
    assert ast.literal_eval(source(value)) == value
    assert json.loads(source(value, python=False)) == value
    assert max(map(len, source({"a": ["b"] * 40}).splitlines())) <= WIDTH


def test_the_document_has_the_programs(app, samples):
    """As renderers of OpenAPI documents look for them, each with its label."""
    document = services(app).api_description()
    shown = document["paths"]["/v1/chat/completions"]["post"]["x-codeSamples"]
    found = samples["POST /v1/chat/completions"]
    assert [one["source"] for one in shown] == [text for one in found for text in (one.curl, one.python)]
    assert shown[0]["label"] == "A text, curl"
    assert {one["lang"] for one in shown} == {"Shell", "Python"}


def test_the_page_is_built_once_for_a_language(app, monkeypatch):
    """Whatever address it is asked for at: each has its own in it, and nothing of another's."""
    client, built = app.test_client(), []
    monkeypatch.setattr("routes.docs.code_samples", lambda *_: built.append(1) or [])
    shown = [
        client.get("/api/docs", headers={"Host": host}).get_data(as_text=True) for host in ("a.example", "b.example")
    ]
    once = len(built)
    again = [
        client.get("/api/docs", headers={"Host": host}).get_data(as_text=True) for host in ("a.example", "b.example")
    ]
    assert (again, len(built)) == (shown, once)
    for page, host, other in zip(shown, "ab", "ba", strict=True):
        assert f"http://{host}.example/" in page
        assert f"{other}.example" not in page
        assert ADDRESS not in page
    client.get("/api/docs", headers={"Host": "a.example", "Accept-Language": "ru"})
    assert len(built) > once
