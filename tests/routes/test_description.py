"""The description of the API: complete, generated from the models, and readable without JavaScript."""

import re

import jsonschema
import pytest

from app_production import create_app
from config import load_settings
from edge.route_table import ROUTES
from routes.docs import prose
from routes.services import services
from tests.fakes import FakeMachine, scripted_models
from tests.good_requests import call


def test_every_route_is_described(client):
    """A new route cannot be left out."""
    paths = client.get("/api/openapi.json").json["paths"]
    described = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    assert described == {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", name) for name in ROUTES}
    assert all(operation["summary"] for operations in paths.values() for operation in operations.values())


def test_the_limits_of_this_service_are_in_it(app, client):
    """Bodies are described by the models that validate them, with the limits of the settings."""
    schemas = client.get("/api/openapi.json").json["components"]["schemas"]
    schema = schemas["TextGenerateRequest"]
    limits = services(app).settings.generation
    assert schema["properties"]["prompt"]["maxLength"] == limits.max_prompt_length
    assert schema["properties"]["max_tokens"]["anyOf"][0]["maximum"] == limits.max_tokens_limit
    assert schema["additionalProperties"] is False
    assert schemas["ChatCompletionRequest"]["properties"]["model"]["enum"] == ["avibe", "avision"]
    assert schemas["ImageAnalyzeForm"]["properties"]["image"]["format"] == "binary"
    assert schemas["ImageAnalyzeForm"]["properties"]["max_tokens"]["type"] == "integer"


@pytest.fixture(scope="module")
def description():
    """The document, made once for all routes."""
    return (
        create_app(load_settings({}, None), scripted_models(), FakeMachine())
        .test_client()
        .get("/api/openapi.json")
        .json
    )


@pytest.mark.parametrize("name", ROUTES)
def test_an_answer_has_the_described_shape(client, description, name):
    """Every JSON response conforms to its schema, which allows no other fields."""
    method, path = name.split()
    responses = description["paths"][re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)][method.lower()]["responses"]
    response = call(client, name)
    schema = responses[str(response.status_code)]["content"].get(response.mimetype, {}).get("schema")
    if response.is_json and schema is not None:
        jsonschema.validate(response.json, schema | {"components": description["components"]})


def test_it_is_openapi_3_1_and_built_once(client):
    """Every request gets the same document."""
    first, second = client.get("/api/openapi.json"), client.get("/api/openapi.json")
    assert first.json["openapi"] == "3.1.0"
    assert first.data == second.data


def test_every_reference_resolves(client):
    """No schema refers to one that does not exist."""
    text = client.get("/api/openapi.json").text
    schemas = client.get("/api/openapi.json").json["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/([^\"]+)", text)) <= set(schemas)


def test_the_page_needs_no_script(client):
    """Every address, field and schema is in the page; nothing is loaded from other addresses."""
    page = client.get("/api/docs")
    description = client.get("/api/openapi.json").json
    assert page.mimetype == "text/html"
    assert "<script" not in page.text
    assert "//" not in "".join(re.findall(r"(?:src|href)=\"([^\"]*)\"", page.text))
    for path in description["paths"]:
        assert path in page.text
    for name in description["components"]["schemas"]:
        assert f"<code>{name}</code>" in page.text
    assert "an integer from 1 to 2048" in page.text


def test_code_in_the_description_is_code_on_the_page(client):
    """Backticks of Markdown become code elements; markup in a text stays text."""
    page = client.get("/api/docs").text
    assert "`X-Request-ID`" in client.get("/api/openapi.json").json["info"]["description"]
    assert "<code>X-Request-ID</code>" in page
    assert "<code>{&#34;text&#34;: &#34;...&#34;}</code>" in page
    assert "`" not in page
    assert prose("a <b> `<i>` & `c`") == "a &lt;b&gt; <code>&lt;i&gt;</code> &amp; <code>c</code>"
