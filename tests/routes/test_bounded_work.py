"""What one request can cost is bounded, whatever it says. A bound that is lost makes a test here run for hours, take
gigabytes, or count what must not grow.
"""

from __future__ import annotations

import encodings
import json
import threading
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from flask import request
from pydantic import ValidationError as PydanticError
from werkzeug.test import EnvironBuilder

from engine.counting import CountingRoom
from engine.errors import ContextTooLong, ValidationError
from engine.text.detokenizer import Detokenizer, TokenTable
from engine.text.prompt_size import check_prompt_size
from engine.text.schema import meeting
from engine.text.schema.emission import rewrite
from engine.text.schema.expander import Work
from engine.text.schema.meeting import _nested
from engine.text.schema.patterns import Untranslatable, conjuncts
from engine.text.schema.refusal import MAX_TOKEN, SchemaRefused, below
from engine.types import ChatPrompt, TokenLogprob
from engine.wanted import Wanted
from routes import kept_image, markdown, sse
from routes.anthropic.blocks import AssistantTurn
from routes.anthropic.conversation import _has_results, continues
from routes.chat.names import FieldNames
from routes.chat.rewriting import QUICK_WORK
from routes.chat.shortening import _starts
from routes.chat.toolbox import FunctionTool, Schemas, Toolbox
from routes.context_fit import PER_TOKEN
from routes.json_text import read_json
from routes.markdown import LONGEST, rendered
from routes.multipart import MAX_PART_HEAD, MAX_PART_HEADERS
from routes.openai.responses import stored
from routes.openai.responses.requests import ResponseRequest
from routes.request_models import numbers_in
from routes.services import services
from tests.fakes import ScriptedBackend, image_bytes
from tests.trained_tokenizers import trained_tokenizer

MANY = 10**6
NAMES = FieldNames(answer_format="response_format", reasoning="reasoning")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("text", ["1" * MANY + "x", "." + "1" * MANY + "x", "1." + "1" * MANY + "x", "1e" + "1" * MANY])
def test_a_long_number_of_a_form_is_read_in_no_time(text):
    """It stays the text that it is, which no field takes."""
    assert numbers_in({"temperature": text, "max_tokens": text}) == {"temperature": text, "max_tokens": text}


@pytest.mark.parametrize(("text", "number"), [("0.7", 0.7), ("1", 1), (".5", 0.5), ("1.", 1), ("+2e-1", 0.2)])
def test_a_number_of_a_form_is_read_as_people_write_it(text, number):
    """Of a usual length."""
    assert numbers_in({"temperature": text})["temperature"] == number


def parts(headers: str) -> dict[str, Any]:
    """Return a form with a prompt and an image, each with more header fields."""
    body = b""
    for disposition, data in (('name="prompt"', b"What?"), ('name="image"; filename="a.png"', image_bytes())):
        body += f"--limit\r\nContent-Disposition: form-data; {disposition}\r\n{headers}\r\n".encode() + data + b"\r\n"
    return {"data": body + b"--limit--\r\n", "content_type": "multipart/form-data; boundary=limit"}


def test_names_of_charsets_are_not_kept(client):
    """Python keeps whatever name of an encoding it is asked for."""
    for number in range(20):
        unknown = f"charset=x{number}{'y' * 1000}"
        assert client.post(CHAT, data=b"{}", content_type=f"application/json; {unknown}").status_code == 415
        assert (
            client.post("/avibe", data=b"", content_type=f"application/x-www-form-urlencoded; {unknown}").status_code
            == 415
        )
        form = parts(f"Content-Type: text/plain; {unknown}\r\n")
        assert client.post("/api/v1/image/analyze", **form).status_code == 415
    assert [name for name in encodings._cache if "yyy" in name] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(("more", "status"), [(MAX_PART_HEADERS - 1, 200), (MAX_PART_HEADERS, 400)])
def test_header_fields_of_parts_are_few(client, more, status):
    """Each is kept until the form has been read, as an object many times its size."""
    assert client.post("/api/v1/image/analyze", **parts("a:\r\n" * more)).status_code == status


NAMED = [f"a{number}" for number in range(400)]
COSTLY = {
    "every size of a large object": {
        "properties": dict.fromkeys(NAMED, True),
        "required": NAMED[:336],
        "minProperties": 337,
        "anyOf": [{"maxProperties": 1000 + number} for number in range(64)],
    },
    "each pattern with each": {
        "allOf": [
            {"anyOf": [{"pattern": f"^{letter}{n}(\\p{{L}}|\\p{{N}}\\p{{L}}){{1,9}}$"} for n in range(200)]}
            for letter in "ab"
        ]
    },
}


@pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY)
def test_a_schema_that_is_much_work_is_refused(schema):
    """What is written counts as work, and so does every question to the library."""
    with pytest.raises(SchemaRefused, match="is too complex"):
        rewrite(schema)


def test_the_tools_of_a_request_share_their_work():
    """Each of them alone is well within the bound."""
    text = {"type": "string", "anyOf": [{"pattern": f"^{number}[a-z]+$"} for number in range(30)]}
    schema = {"type": "object", "properties": {"a": text}}
    work = Work()
    rewrite(schema, work)
    tools = [FunctionTool(f"f{number}", None, schema, f"tools[{number}]") for number in range(200)]
    toolbox = Toolbox(tools, "required", True, ScriptedBackend("avibe", tools=True).info, NAMES)
    assert 0 < Work().left - work.left < Work().left / 4
    with pytest.raises(ValidationError, match="is too complex"):
        toolbox.lark(Schemas.ALL)
    lark = toolbox.lark(Schemas.WHERE_POSSIBLE)
    assert all(f'\\"f{number}\\"' in lark for number in range(200))


@pytest.mark.parametrize(
    "pattern", ["^(?=" + "[" * MANY, "^(?=" + "[^" * MANY, "^(?=a)" + "[" * MANY, "^(?=(" + "\\[" * MANY]
)
def test_a_class_without_an_end_is_looked_at_once(pattern):
    """And not from each of its brackets again."""
    with pytest.raises(Untranslatable):
        conjuncts(f"^{pattern}")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("\\x{2d}" * 10**5, False), ("(a{2}b)+", True), ("(a+)+b{2}", False), ("(a{2}){3}", True), ("a{2}(b)", False)],
)
def test_what_is_counted_within_what_is_repeated_is_found_in_one_pass(pattern, found):
    """Of such a pattern the library is asked for a few strings."""
    assert _nested(pattern) is found


@pytest.mark.parametrize("index", ["²", "1" * 5000, "-1", "0x0", "१"])
def test_no_index_of_a_reference_is_more_than_a_number(index):
    """It refers to nothing, as one beyond the end."""
    with pytest.raises(SchemaRefused, match="refers to what the schema does not contain"):
        rewrite({"$ref": f"#/anyOf/{index}", "anyOf": [{"type": "string"}]})


def test_pointers_do_not_repeat_long_names():
    """Each place in a schema has one; below a name of 60 KB there may be a thousand."""
    assert len(below("", "properties", "n" * 60_000, "type")) < 2 * MAX_TOKEN


def test_where_a_conversation_may_start_is_found_in_one_pass():
    """Instructions that stay, and then questions, each of which takes a token."""
    messages = [{"role": "system", "content": ""}] * 200_000 + [{"role": "user", "content": ""}] * 200_000
    assert _starts(messages, 10**9)[:3] == [0, 200_001, 200_002]
    assert len(_starts(messages, 4096 * PER_TOKEN)) <= 4096


def test_numbers_do_not_grow():
    """A number of five characters would become a text of 309; what is an integer in a double stays one."""
    assert json.dumps(read_json(b"[1e308, -1e300, 5.0, 9e18]")) == "[1e+308, -1e+300, 5, 9000000000000000000]"


def test_long_integers_count_as_long():
    """A prompt of them is refused before it is rendered."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"enum": [10**300] * 10}}}
    prompt = ChatPrompt(({"role": "user", "content": "Hello"},), tools=(tool,))
    check_prompt_size(prompt, 32)
    with pytest.raises(ContextTooLong):
        check_prompt_size(prompt, 16)


def tools_of(path: str, description: str) -> dict[str, Any]:
    """Return a request with a tool that may not be called."""
    schema = {"type": "object", "properties": {}}
    function = {"name": "f", "description": description}
    if path == CHAT:
        tool = {"type": "function", "function": function | {"parameters": schema}}
        return {"model": "avibe", "messages": HELLO, "tools": [tool], "tool_choice": "none"}
    if path == RESPONSES:
        tool = {"type": "function", "parameters": schema, **function}
        return {"model": "avibe", "input": "Hello", "tools": [tool], "tool_choice": "none"}
    tool = {"input_schema": schema, **function}
    return {"model": "avibe", "max_tokens": 8, "messages": HELLO, "tools": [tool], "tool_choice": {"type": "none"}}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_tools_that_may_not_be_called_are_bounded_too(client, avibe, path):
    """A prompt leaves them out, and a response repeats them."""
    assert client.post(path, json=tools_of(path, "x")).status_code == 200
    response = client.post(path, json=tools_of(path, "x" * MANY))
    assert (response.status_code, len(avibe.submitted)) == (400, 1)
    assert "tools" in response.json["error"]["message"]


def test_metadata_is_counted_before_it_is_checked(client):
    """One mistake, however many there are."""
    asked = {"model": "avibe", "input": "Hello", "metadata": {f"k{number}": 1 for number in range(50_000)}}
    with pytest.raises(PydanticError) as caught:
        ResponseRequest.model_validate(asked)
    assert caught.value.error_count() == 1
    assert client.post(RESPONSES, json=asked).json["error"]["param"] == "metadata"


def test_a_stored_conversation_has_so_many_items(client, monkeypatch):
    """Those of a request are bounded; a chain of requests would have any number."""
    monkeypatch.setattr(stored, "MAX_CONVERSATION", 5)
    asked = {"model": "avibe", "input": [{"role": "user", "content": "Hello"}] * 2, "store": True}
    first = client.post(RESPONSES, json=asked).json["id"]
    second = client.post(RESPONSES, json=asked | {"previous_response_id": first})
    assert second.status_code == 200
    third = client.post(RESPONSES, json=asked | {"previous_response_id": second.json["id"]})
    assert (third.status_code, third.json["error"]["param"]) == (400, "previous_response_id")


def test_a_stored_conversation_has_so_many_parts(client, monkeypatch):
    """All of them are read for each request that goes on, however small that is."""
    monkeypatch.setattr(stored, "MAX_CONTAINERS", 30)
    parts_of_one = [{"type": "input_text", "text": "a"}] * 20
    asked = {"model": "avibe", "input": [{"role": "user", "content": parts_of_one}], "store": True}
    first = client.post(RESPONSES, json=asked).json["id"]
    second = client.post(RESPONSES, json=asked | {"previous_response_id": first})
    assert second.status_code == 200
    count = {"model": "avibe", "input": "a", "previous_response_id": second.json["id"]}
    monkeypatch.setattr(stored, "read_json", lambda *_: pytest.fail("it was read"))
    third = client.post(f"{RESPONSES}/input_tokens", json=count)
    assert (third.status_code, third.json["error"]["param"]) == (400, "previous_response_id")


def test_a_long_text_of_a_message_is_no_list_of_blocks():
    """Its characters are not looked at one by one."""

    class Text(str):
        def __iter__(self):
            pytest.fail("its characters were looked at")

    turn = AssistantTurn.model_construct(role="assistant", content=Text("a" * 100))
    assert continues([turn])
    assert not _has_results(turn)


def test_stop_strings_are_not_kept_in_all_their_lengths():
    """A detokenizer holds what it was given, and their first characters."""
    stops = tuple(letter * 255 + "!" for letter in "abcdefghijklmnop")
    detokenizer = Detokenizer(TokenTable.of(trained_tokenizer()), stops)
    held = [getattr(detokenizer, name) for name in Detokenizer.__slots__]
    texts = [text for value in held if isinstance(value, tuple | set | frozenset) for text in value]
    assert sum(map(len, texts)) == sum(map(len, stops)) + len(stops)


@pytest.mark.parametrize("head", ["a" * MAX_PART_HEAD + ":\r\n", 'X: a"' + ";" * MAX_PART_HEAD + "\r\n"])
def test_the_header_of_a_part_is_short(client, head):
    """Its fields are read in time that grows with their length, in form after form that nobody is charged for."""
    assert client.post("/api/v1/image/analyze", **parts(head)).status_code == 400
    assert client.post("/api/v1/image/analyze", **parts(head[: MAX_PART_HEAD // 2] + ":\r\n")).status_code == 200


def test_a_sign_in_that_nobody_needs_reads_no_form(client, monkeypatch):
    """Without keys there is nothing to sign in for."""
    monkeypatch.setattr(kept_image, "form_with_image", lambda: pytest.fail("it was read"))
    assert client.post("/sign-in", **parts("")).status_code == 303


@pytest.mark.parametrize("field", ["Accept", "Accept-Language", "Accept-Encoding", "Accept-Charset"])
def test_long_preferences_are_passed_over(client, field):
    """To divide one takes time that grows with its square, and holds the interpreter lock."""
    with client:
        client.get("/nothing", headers={field: "x" + " " * MANY + "y"})
        assert field not in request.headers
        client.get("/nothing", headers={field: "en"})
        assert request.headers[field] == "en"


COMPOSED = "//" + "\u0301" * MANY + "\u0316" * MANY  # to order these takes time that grows with their square
TOO_COSTLY = {
    "letters that are composed": {"$id": COMPOSED},
    "a reference to them": {"$ref": COMPOSED},
    "in a base of others": {"$id": "http://a/", "properties": {"a": {"$id": COMPOSED}}},
    "a long path": {"$id": "a/" * MANY, "$defs": {str(n): {"$id": "x", "not": {"$id": "b"}} for n in range(480)}},
    "a path that grows": {"$id": "a/" * 499, "not": {"$id": "b/" * 499, "not": {"$id": "c"}}},
    "an item for each that there must be": {"type": "array", "contains": {"type": "null"}, "minContains": 2**31 - 1},
    "the same with a bound": {"contains": {"type": "null"}, "minContains": 2**31 - 9, "maxContains": 2**31 - 1},
    "the same of several": {"allOf": [{"contains": {"const": n}, "minContains": 40_000} for n in range(3)]},
    "the same where all items fit": {"items": {"type": "null"}, "contains": {"type": "null"}, "minContains": 2**31 - 1},
}


def _nested_list(depth):
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


A_LIST = {"type": "array", "items": {"$ref": "#/$defs/S"}}
MANY_REFERENCES = [{"$ref": "#/$defs/S"}] * 500
MANY_NAMES = [str(number) for number in range(900)]
WIDE = {"type": "array", "prefixItems": [True] * 300, "anyOf": [{"type": "array", "minItems": n} for n in range(200)]}
TEXTS = {
    "type": "array",
    "items": {"enum": [f"{n}{'x' * 400}" for n in range(120)]},
    "uniqueItems": True,
    "minItems": 119,
}
UNCOUNTED = {
    "a value against a schema of itself": {
        "$defs": {"S": {"anyOf": [A_LIST, {**A_LIST}]}}, "items": {"$ref": "#/$defs/S"}, "const": _nested_list(28)
    },
    "names that need each other": {
        "$defs": {"S": {"type": "object", "required": MANY_NAMES, "additionalProperties": {"$ref": "#/$defs/S"}}},
        "allOf": [{"anyOf": [{"$ref": "#/$defs/S"}, {"type": "string"}]}, {"minProperties": 0}],
    },
    "many shapes for each reference": {"$defs": {"S": WIDE}, "type": "array", "prefixItems": MANY_REFERENCES},
    "lists that are written out": {"$defs": {"S": TEXTS}, "type": "array", "prefixItems": MANY_REFERENCES},
    "long patterns for each text": {"enum": [f"a{n}" for n in range(6)], "pattern": "\\W" * 19_000},
    "long patterns for each name": {
        "type": "object", "patternProperties": {"\\W" * 20_000: True}, "properties": dict.fromkeys(MANY_NAMES[:5], True)
    },
    "pairs of items": {"type": "array", "prefixItems": [False] * 1900, "uniqueItems": True, "maxItems": 1900},
    "a list for each item": {"type": "array", "not": {"prefixItems": [True] * 1980}},
    "many conditions of each item": {
        "type": "array", "prefixItems": [{"title": "a"}] * 500,
        "allOf": [{"type": "array", "items": {"title": "b"}} for _ in range(240)],
    },
}  # fmt: skip


@pytest.mark.parametrize("schema", UNCOUNTED.values(), ids=UNCOUNTED)
def test_what_is_not_quick_leaves_the_requests_thread(schema):
    """Each step that grows with the schema is counted: a process does more than a few, and can be ended."""
    work = Work(QUICK_WORK)
    with pytest.raises(SchemaRefused):
        rewrite(schema, work)
    assert work.left < 0


@pytest.mark.parametrize("schema", TOO_COSTLY.values(), ids=TOO_COSTLY)
def test_a_schema_is_refused_before_it_costs_anything(schema):
    """In its request's thread, which nothing ends."""
    with pytest.raises(SchemaRefused):
        rewrite(schema)


def test_a_fragment_may_have_any_letters():
    """As definitions are named in other languages."""
    schema = {"$ref": "#/$defs/Имя", "$defs": {"Имя": {"type": "string", "maxLength": 3}}}
    assert rewrite(schema).schema == {"type": "string", "maxLength": 3}


def test_a_text_that_looks_like_a_definition_costs_no_more_than_its_length():
    """Another name than all that are in it is found at once, however long these are."""
    tree = {"type": "array", "items": {"$ref": "#"}, "description": "#/$defs/" + "s" * MANY}
    (reference,) = rewrite(tree).schema["$defs"]
    assert len(reference) < 40


def test_long_patterns_are_checked_in_a_process(monkeypatch):
    """What the library takes for one grows with its length: more than a request's own thread may do."""
    monkeypatch.setattr(meeting, "satisfiability", lambda schema: pytest.fail("it was asked"))
    with pytest.raises(SchemaRefused, match="too complex"):
        rewrite({"type": "string", "pattern": "\\W" * 21_500}, Work(QUICK_WORK))


ESCAPES = {
    "lines": ["data:" + "\n" * 8190] * 4000,
    "behind what an image may be": ["data:" + "A" * 20_000 + "\n" * 20_000] * 900,
    "other letters": ["data:" + "\u00e9" * 40_000] * 80,
}


@pytest.mark.parametrize("strings", ESCAPES.values(), ids=ESCAPES)
def test_strings_of_escapes_are_no_images(client, strings):
    """They are decoded piece by piece, and count as the text that they are."""
    body = json.dumps({"model": "avibe", "messages": HELLO, "metadata": strings})
    assert client.post(CHAT, data=body, content_type="application/json").status_code == 413


HOSTS = ["xn--a", "xn--", "xn--zz-", "xn--99999999", "[1::2::3]", "[::::::]", "a" * 8000]
HOSTS.append(".".join(["xn--80ak6aa92e"] * 500))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["/", "/nothing", "/api/docs", "/avibe"])
def test_no_name_of_a_host_is_decoded(app, path, host):
    """Each of its labels takes long, and some fail."""
    seen = []
    for name in ("localhost", host):
        environ = EnvironBuilder(path=path).get_environ() | {"HTTP_HOST": name}  # the client of tests decodes it itself
        list(app(environ, lambda status, headers, error=None: seen.append(int(status.split()[0]))))
    assert seen[1] in (seen[0], 400, 404)


def test_a_grammar_has_so_many_rules(client):
    """A chain of them takes stack for each."""
    chain = "".join(f"r{number}: r{number + 1}\n" for number in range(2673))
    asked = {"model": "avibe", "messages": HELLO, "guided_grammar": f'start: r0\n{chain}r2673: "a"\n'}
    refused = client.post(CHAT, json=asked)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "guided_grammar")


@pytest.mark.parametrize("path", ["/", "/state", "/nothing", "/api/docs"])
@pytest.mark.parametrize(
    "cookie",
    [
        "a=" + " " * MANY + '"',
        "avito_ai_form=" + " \t" * MANY + '"',
        ";".join(["a=" + " " * 9000 + '"'] * 99),
        ";" * MANY,
    ],
)
def test_cookies_with_many_spaces_are_passed_over(app, path, cookie):
    """None of ours has one; to find where one ends takes time that grows with its square."""
    with app.test_client(use_cookies=False) as client:
        client.get(path, headers={"Cookie": cookie})
        assert request.headers["Cookie"] == ""


def test_our_own_cookies_are_read_beside_others(app):
    """Whatever another site of the same host has set."""
    others = 'theirs="a b"; avito_ai_language=ru ;other=x y; avito_ai_form="q"'
    with app.test_client(use_cookies=False) as client:
        page = client.get("/", headers={"Cookie": others})
        assert request.headers["Cookie"] == "avito_ai_language=ru"
    assert 'lang="ru"' in page.text


@pytest.mark.parametrize("path", ["/sign-out", "/language", "/avibe", "/avision", "/api/v1/image/analyze"])
def test_a_boundary_is_short(client, path):
    """All of a form is searched for it, in one call that holds the interpreter lock."""
    for boundary in ("-" * MANY, "-" * 71):
        form = {"data": b"-" * MANY, "content_type": f"multipart/form-data; boundary={boundary}"}
        assert client.post(path, **form).status_code in (400, 403), path


def test_a_boundary_of_the_greatest_length_is_read(client):
    """RFC 2046 has 70 characters."""
    form = parts("")
    longest = "x" * 70
    form["data"] = form["data"].replace(b"--limit", f"--{longest}".encode())
    form["content_type"] = f"multipart/form-data; boundary={longest}"
    assert client.post("/api/v1/image/analyze", **form).status_code == 200


def test_what_is_shown_again_of_a_form_is_bounded(client):
    """Five million apostrophes are twenty-five million characters in a page."""
    form = {"language": "en", "prompt": "\U0001f600" + "'" * (1024 * 1024)}
    assert client.post("/language?form=text", data=form).status_code == 413
    assert client.post("/avibe", data={"prompt": form["prompt"]}).status_code == 413
    assert client.post("/language?form=text", data=form | {"prompt": "'" * 1024}).status_code == 200


def test_the_description_is_rendered_once_whatever_hosts_are_asked_for(app, client):
    """To render it takes tens of milliseconds, and a client chooses the Host."""
    for number in range(20):
        page = client.get("/api/docs", base_url=f"http://a{number}.example")
        assert f"http://a{number}.example/api/v1/text/generate" in page.text
    assert services(app).docs_page.cache_info().misses == 1


def test_line_ends_of_other_scripts_are_escaped_together():
    """A text for each of a million of them would take a hundred megabytes."""
    text = "\x85\u2028" * (MANY // 2)
    tracemalloc.start()
    try:
        assert sse.compact([text]) == '["' + "\\u0085\\u2028" * (MANY // 2) + '"]'
        assert tracemalloc.get_traced_memory()[1] < 60 * MANY
    finally:
        tracemalloc.stop()


def test_no_more_tokens_are_spelled_than_a_context_has():
    """Those of a small request may be the longest of the vocabulary, tens of megabytes together."""
    loaded = SimpleNamespace(max_model_len=100, vocab_size=9, spelling=SimpleNamespace(spelled=len))
    room, wanted = CountingRoom(), Wanted(float("inf"), "c")
    assert room.detokenize(loaded, [1] * 100, wanted) == 100  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="At most 100"):
        room.detokenize(loaded, [1] * 101, wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(("characters", "kept"), [(LONGEST, False), (LONGEST + 1, True)])
def test_the_longest_answers_are_shown_as_they_are(characters, kept):
    """Markdown of brackets costs a second for some ten thousand."""
    text = "*a* <b>".ljust(characters)
    assert ("*a* &lt;b&gt;" in rendered(text)) is kept
    assert ("<em>a</em> &lt;b&gt;" in rendered(text)) is not kept


def test_brackets_are_looked_at_to_a_depth():
    """The library starts anew at each bracket, once for each level."""
    assert markdown._MARKDOWN.options["maxNesting"] == markdown.NESTED < 100


@pytest.mark.parametrize("mark", ["- ", "> "])
def test_what_is_nested_deeper_is_shown_as_it_is(mark):
    """The library would leave it out, and all that follows."""
    for depth in (1, 3, 8, 10, 12, 30):
        lines = [
            "".join(
                (mark if mark == "> " else "  " * level + mark)
                for level in ([number] if mark == "- " else range(number + 1))
            )
            + f"item {number}"
            for number in range(depth)
        ]
        shown = rendered("\n".join([*lines, "", "The end of the answer."]))
        assert all(f"item {number}" in shown for number in range(depth))
        assert "The end of the answer." in shown


@pytest.mark.parametrize(("prompts", "n", "status"), [(4, 4, 200), (16, 1, 200), (4, 5, 400), (16, 8, 400)])
def test_prompts_are_scored_for_few_answers(client, prompts, n, status):
    """The scores of their tokens are kept for each answer, until all have been sent."""
    asked = {"model": "avibe", "prompt": ["Hello"] * prompts, "n": n, "max_tokens": 1}
    assert client.post("/v1/completions", json=asked | {"echo": True, "logprobs": 1}).status_code == status
    assert client.post("/v1/completions", json=asked | {"echo": True}).status_code == 200


@pytest.mark.parametrize("before", ["9223372036854775808", "1" * 5000, "²", "-1", "x"])
def test_a_number_of_an_act_that_cannot_be_is_passed_over(client, before):
    """A database has no room for it."""
    assert client.get(f"/status/audit?before={before}").status_code in (200, 503)


LOGPROBS = {
    "chat": (CHAT, {"messages": HELLO, "n": 4, "logprobs": True, "top_logprobs": 5}),
    "completion": ("/v1/completions", {"prompt": "x", "n": 4, "logprobs": 5}),
    "echo": ("/v1/completions", {"prompt": "x", "n": 4, "logprobs": 5, "echo": True}),
    "response": (RESPONSES, {"input": "Hello", "top_logprobs": 5, "include": ["message.output_text.logprobs"]}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("path", "asked"), LOGPROBS.values(), ids=LOGPROBS)
def test_log_probabilities_are_encoded_in_pieces(client, avibe, monkeypatch, path, asked, stream):
    """An encoder holds the interpreter lock for all that it is given; the whole body would take it for a second."""
    top = tuple((number, f"word{number}", -0.5 * number) for number in range(5))
    avibe.logprobs = [TokenLogprob(1, "word", -0.25, top, offset=4 * number) for number in range(1000)]
    avibe.echo = SimpleNamespace(text="word" * 1000, logprobs=avibe.logprobs) if "echo" in asked else None
    encoded, dumps = [], json.dumps

    def dumped(*values: Any, **options: Any) -> str:
        text = dumps(*values, **options)
        encoded.append(len(text))
        return text

    def fallen_behind() -> None:
        """Hand the answers over as a client gets them that reads late."""
        avibe.wait_for(lambda avibe: len(avibe.submitted) == asked.get("n", 1))
        for one in avibe.submitted:
            avibe.push(one.request_id, "word", logprobs=tuple(avibe.logprobs))
            avibe.finish(one.request_id)

    avibe.hold, late = stream, threading.Thread(target=fallen_behind)
    monkeypatch.setattr(json, "dumps", dumped)
    if stream:
        late.start()
    response = client.post(path, json={"model": "avibe", **asked, "stream": stream})
    body = response.get_data()
    if stream:
        late.join()
    monkeypatch.undo()
    assert response.status_code == 200
    assert len(body) > 200_000
    assert max(encoded) <= 64 * 1024
    if not stream:
        assert body.rstrip() == dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
