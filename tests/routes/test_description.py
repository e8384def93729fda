"""The description of the API: complete, generated from the models, and readable without JavaScript."""

import copy
import html
import re

import jsonschema
import pytest

from app_production import create_app
from config import load_settings
from edge.authentication import TRIES_PER_MINUTE
from edge.errors import ERRORS
from edge.route_table import ROUTES, Budget, Need
from engine.errors import DeadlineExceeded, ModelError
from routes.assets import FOLDER
from routes.code_samples import ADDRESS
from routes.docs import prose
from routes.locale import LOCALES
from routes.route_bodies import FILES
from routes.sections import SECTIONS, section_of
from routes.services import services
from tests.fakes import FakeMachine, scripted_models
from tests.good_requests import call, good_request, real_path


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
    assert schemas["ImageAnalyzeForm"]["properties"]["image"]["anyOf"][0]["format"] == "binary"
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


def walked(value):
    """Yield every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walked(inner)


def operations(description):
    """Return every operation with its name."""
    return {f"{method} {path}": one for path, two in description["paths"].items() for method, one in two.items()}


def test_no_two_schemas_have_one_title(description):
    """Generators name classes after titles; a title inside a schema would be one more."""
    schemas = description["components"]["schemas"]
    assert [name for name, schema in schemas.items() if schema["title"] != name] == []
    assert [name for name in schemas if not re.fullmatch("[A-Za-z0-9]+", name)] == []
    assert len({name.lower() for name in schemas}) == len(schemas)
    bare = [{key: value for key, value in schema.items() if key != "title"} for schema in schemas.values()]
    assert [one for one in walked(bare) if isinstance(one.get("title"), str)] == []


def test_no_optional_field_has_a_default_of_null(description):
    """Generators require a field that has a default, and every field without one that is not required is optional."""
    assert [
        one for one in walked(description) if "type" in one or "anyOf" in one if one.get("default", 0) is None
    ] == []
    asked = description["components"]["schemas"]["ChatCompletionRequest"]
    assert asked["required"] == ["model", "messages"]
    assert "default" not in asked["properties"]["max_tokens"]


def test_every_operation_says_who_may_call_it(description):
    """Also where it is everybody; a scheme that is named is described."""
    schemes = set(description["components"]["securitySchemes"])
    for name, operation in operations(description).items():
        assert operation["security"], name
        assert {scheme for one in operation["security"] for scheme in one} <= schemes
    assert operations(description)["get /api/health"]["security"] == [{}]
    assert operations(description)["post /api/metrics/reset"]["security"] == [{"admin": []}, {}]


def test_the_operations_stand_in_the_order_of_their_sections(description):
    """Each has one described tag; generation comes first, pages last."""
    tags = [tag["name"] for tag in description["tags"]]
    assert len(set(tags)) == len(tags) == len(SECTIONS)
    assert all(tag["description"] for tag in description["tags"])
    used = [tags.index(tag) for operation in operations(description).values() for tag in operation["tags"]]
    assert used == sorted(used)
    assert len(used) == len(ROUTES)
    assert section_of("/v1/responses/input_tokens").key == "responses"
    assert section_of("/v1/models").key == "chat"
    assert section_of("/api/health/live").key == "health"
    assert section_of("/avibe").key == section_of("/").key == "pages"


def test_every_operation_can_be_refused_and_can_succeed(description):
    """Malformed HTTP is a 400 everywhere; a client that follows redirects sees the page behind one."""
    for name, operation in operations(description).items():
        assert "200" in operation["responses"], name
        assert "400" in operation["responses"], name
    assert "Location" in operations(description)["post /language"]["responses"]["303"]["headers"]


def test_generation_can_end_in_every_failure_of_a_model(description):
    """Those of a server elsewhere included; what generates nothing has none of them."""
    for name, row in ROUTES.items():
        method, path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", name).split()
        told = {int(status) for status in description["paths"][path][method.lower()]["responses"]}
        failures = {
            meaning.status for kind, meaning in ERRORS.items() if issubclass(kind, ModelError | DeadlineExceeded)
        }
        assert failures & told == (failures if row.budget is Budget.GENERATION else told & {504}), name


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A client, elsewhere, of a service that asks for keys."""
    environ = {"AUTH": "keys", "ADMIN_KEY": "k" * 32, "STATE_DIR": str(tmp_path_factory.mktemp("keys"))}
    client = create_app(load_settings(environ, None), scripted_models(), FakeMachine()).test_client()
    client.environ_base["REMOTE_ADDR"] = "203.0.113.9"
    return client


@pytest.mark.parametrize("name", ROUTES)
def test_whatever_a_route_refuses_a_caller_with_is_described(guarded, description, name):
    """No key, too many wrong ones, a form of another site's page: 401, 429 and 403, of open routes too."""
    method, path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", name).split()
    told = description["paths"][path][method.lower()]["responses"]
    body = good_request(name.split()[1]) if ROUTES[name].bodies else {}

    def status(**headers):
        with guarded.open(real_path(name), method=method, headers=headers, **copy.deepcopy(body)) as response:
            return response.status_code

    keyless, foreign = status(), status(Origin="https://elsewhere.example")
    wrong = next((429 for _ in range(TRIES_PER_MINUTE + 1) if status(Authorization="Bearer wrong") == 429), 401)
    assert {str(one) for one in (keyless, foreign) if one in (401, 403, 429)} <= set(told)
    if ROUTES[name].own_page:
        assert (foreign, "403" in told) == (403, True)
    elif ROUTES[name].need not in (Need.OPEN, Need.PROBE):
        assert (keyless, wrong) == (401, 429)
        assert {"401", "403", "429"} <= set(told)


def test_every_operation_takes_a_request_id(description):
    """An optional parameter also has openapi-python-client import what it needs where a route reads several types."""
    (ours,) = description["components"]["parameters"].values()
    assert (ours["name"], ours["in"], ours["required"]) == ("X-Request-ID", "header", False)
    for name, operation in operations(description).items():
        assert {"$ref": "#/components/parameters/RequestId"} in operation["parameters"], name


def test_every_operation_has_its_summary_in_each_language(description):
    """English is what the document says."""
    ids = {operation["operationId"]: operation["summary"] for operation in operations(description).values()}
    assert len(ids) == len(ROUTES)
    for locale in LOCALES.values():
        assert set(locale.texts["docs"]["operations"]) >= set(ids)
    assert {one: LOCALES["en"].texts["docs"]["operations"][one] for one in ids} == ids


def test_the_types_of_the_static_files_are_described(client):
    """Each file of the pages has one of them."""
    kinds = {client.get(f"/static/{file.name}", buffered=True).mimetype for file in FOLDER.iterdir() if file.is_file()}
    assert kinds <= set(FILES)


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


def test_the_page_goes_from_what_people_need_first_to_what_they_need_last(client):
    """Generation, the protocols, tokens, health, operation, pages; the contents name every section and operation."""
    page = client.get("/api/docs").text
    shown = re.findall(r'<section id="(\w+)">', page)
    assert shown == [*(section.key for section in SECTIONS), "schemas"]
    links, ids = set(re.findall(r'href="#([^"]+)"', page)), re.findall(r'\sid="([^"]+)"', page)
    assert links <= set(ids)
    assert len(set(ids)) == len(ids)
    assert (
        set(shown) | {one["operationId"] for one in operations(client.get("/api/openapi.json").json).values()} <= links
    )


@pytest.mark.parametrize(("proxies", "scheme"), [("0", "http"), ("1", "https")])
def test_the_readers_address_has_the_scheme_that_a_trusted_proxy_names(environ, models, machine, proxies, scheme):
    """And of no other, like everything else that is said of a client's connection."""
    client = create_app(load_settings(environ | {"TRUSTED_PROXIES": proxies}, None), models, machine).test_client()
    headers = {"Host": "ai.example.com", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    assert f"{scheme}://ai.example.com/v1/messages" in html.unescape(client.get("/api/docs", headers=headers).text)


@pytest.mark.parametrize("address", ["https://ai.example.com", "http://avito_api:8085", "http://[::1]:8085"])
def test_the_page_shows_the_examples_at_the_readers_address(client, address):
    """As in the document, for curl and Python; fields and answers are folded, the first example is not."""
    page = html.unescape(client.get("/api/docs", base_url=address).text)
    described = operations(client.get("/api/openapi.json").json)["post /v1/messages"]
    for sample in described["x-codeSamples"]:
        assert sample["source"].replace(ADDRESS, address) in page
    assert ADDRESS not in page
    assert "<details open>" not in page
    assert page.count('<details class="sample" open>') == sum(
        "x-codeSamples" in one for one in operations(client.get("/api/openapi.json").json).values()
    )


@pytest.mark.parametrize("host", ["a'b", "a;b", "a$(b)", 'a"b', "a b", "a\\b"])
def test_no_host_becomes_a_part_of_a_program(client, host):
    """Whoever could choose a reader's Host cannot write into what is copied to a shell."""
    page = client.get("/api/docs", headers={"Host": host})
    assert f"//{host}" not in html.unescape(page.text)


def test_the_page_is_in_the_readers_language(client):
    """Headings, summaries and notes; the switch is that of the other pages, and returns here."""
    page = client.get("/api/docs", headers={"Accept-Language": "ru"}).text
    texts = LOCALES["ru"].texts["docs"]
    assert '<html lang="ru">' in page
    for text in (texts["heading"], texts["lead"], texts["charged"], texts["operations"]["openai_chat_completions"]):
        assert text in page
    assert '<dd lang="en">' in page
    assert '<dd lang="en">' not in client.get("/api/docs").text
    chosen = client.post("/language", data={"language": "ru", "page": "/api/docs"})
    assert (chosen.status_code, chosen.location) == (303, "/api/docs")


def test_the_page_is_of_a_moderate_size(client):
    """With every field of every schema."""
    for language in LOCALES:
        assert len(client.get("/api/docs", headers={"Accept-Language": language}).data) < 340_000


def test_the_page_with_the_forms_links_to_the_description(client):
    """In its foot."""
    assert 'href="/api/docs"' in client.get("/").text.partition("<footer>")[2]


def test_code_in_the_description_is_code_on_the_page(client):
    """Backticks of Markdown become code elements; markup in a text stays text."""
    page = client.get("/api/docs").text
    assert "`X-Request-ID`" in client.get("/api/openapi.json").json["info"]["description"]
    assert "<code>X-Request-ID</code>" in page
    assert "<code>{&#34;text&#34;: &#34;...&#34;}</code>" in page
    assert "`" not in page
    assert prose("a <b> `<i>` & `c`") == "a &lt;b&gt; <code>&lt;i&gt;</code> &amp; <code>c</code>"
