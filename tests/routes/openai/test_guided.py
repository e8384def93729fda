"""The form of an answer in vLLM's fields: one machine with response_format, under every name."""

import json

import pytest

from engine.types import Vocabulary
from tests.walks import Walker

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOKENS = (b"", *(bytes([code]) for code in range(1, 256)))
SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
BODIES = {CHAT: {"messages": [{"role": "user", "content": "?"}]}, TEXT: {"prompt": "?"}}


@pytest.fixture
def guided(client, avibe):
    """Ask with fields of one form; return the response, and what walks through the mask of its answer spell."""
    avibe.tokens, avibe.text = Vocabulary(TOKENS, frozenset({0}), lambda text: list(text.encode())), "{}"

    def ask(path, **fields):
        response = client.post(path, json={"model": "avibe"} | BODIES[path] | fields)
        masks = [request.sampling.token_mask for request in avibe.submitted]
        return response, [Walker(avibe.tokens).walk(mask, seed)[0].decode() for seed, mask in enumerate(masks) if mask]

    return ask


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"structured_outputs": {"json": SCHEMA}}, {'{"a": 1}'}),
        ({"structured_outputs": {"json": '{"const": "x"}'}}, {'"x"'}),
        ({"structured_outputs": {"regex": "^a{3}$"}}, {"aaa"}),
        ({"structured_outputs": {"regex": r"a\$"}}, {"a$"}),
        ({"structured_outputs": {"choice": ["да", 'a"/\n<|im_end|>']}}, {"да", 'a"/\n<|im_end|>'}),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, {"a", "b"}),
        ({"guided_json": SCHEMA}, {'{"a": 1}'}),
        ({"guided_regex": "[ab]"}, {"a", "b"}),
        ({"guided_choice": ["", "yes"]}, {"", "yes"}),
        ({"guided_grammar": 'start: "x" "y"'}, {"xy"}),
    ],
)
def test_each_name_holds_the_answer_to_its_form(guided, path, fields, allowed):
    """In chats and in completions, for each of several answers."""
    response, answers = guided(path, n=4, **fields)
    assert response.status_code == 200
    assert len(answers) == 4
    assert set(answers) <= allowed


TWICE = [
    ({"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}}, {'{"a": 1}'}),
    ({"guided_json": json.dumps(SCHEMA), "structured_outputs": {"json": SCHEMA}}, {'{"a": 1}'}),
    ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, {"a"}),
    ({"guided_choice": ["a", "b"], "structured_outputs": {"choice": ["a", "b"]}}, {"a", "b"}),
    ({"guided_grammar": 'start: "x"', "structured_outputs": {"grammar": 'start: "x"'}}, {"x"}),
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("fields", "allowed"), TWICE)
def test_a_form_under_two_names_is_one(guided, path, fields, allowed):
    """A client that knows not which of them a server reads sends both."""
    response, answers = guided(path, **fields)
    assert response.status_code == 200
    assert set(answers) <= allowed
    assert len(answers) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {
            "guided_json": SCHEMA,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
        {"structured_outputs": {"json_object": True}, "response_format": {"type": "json_object"}},
    ],
)
def test_a_form_in_response_format_too_is_one(guided, fields):
    """Of chats alone."""
    assert guided(CHAT, **fields)[0].status_code == 200


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"const": 1}, {"const": True}),
        ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}),
        (SCHEMA, {**SCHEMA, "title": "x"}),
    ],
)
def test_two_schemas_that_differ_are_refused(guided, path, one, other):
    """Whatever Python takes for equal."""
    response, _ = guided(path, guided_json=one, structured_outputs={"json": other})
    said = "guided_json and structured_outputs.json cannot be combined."
    assert (response.status_code, response.json["error"]["message"]) == (400, said)


def test_schemas_are_compared_only_if_they_are_small(guided):
    """A comparison is one call that holds the interpreter."""
    large = {"enum": ["x" * 70_000]}
    response, _ = guided(CHAT, guided_json=large, structured_outputs={"json": large})
    assert (response.status_code, "too long" in response.json["error"]["message"]) == (400, True)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "disable_any_whitespace": True, "whitespace_pattern": " "}},
        {"guided_json": None},
    ],
)
def test_without_a_form_any_text_is_allowed(guided, path, fields):
    """What changes no answer is accepted."""
    assert guided(path, **fields)[1] == []


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"guided_json": "[["}, "guided_json", "must be a JSON schema"),
        ({"guided_json": "[1]"}, "guided_json", "must be a JSON schema"),
        ({"guided_json": {"not": {}}}, "guided_json", 'not at "/not"'),
        ({"structured_outputs": {"json": {"enum": []}}}, "structured_outputs.json", 'enum at "/enum"'),
        ({"guided_regex": "("}, "guided_regex", "not a regular expression"),
        ({"guided_regex": "(?=a)a"}, "guided_regex", "look-around"),
        ({"guided_regex": "a" * 70_000}, "guided_regex", "too long"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar", "in Lark"),
        ({"guided_grammar": "start: b\nb: nothing"}, "guided_grammar", "line 2, column 4"),
        ({"guided_grammar": f"start: T\nT: {' & '.join(['A'] * 30)}\nA: /a.*/"}, "guided_grammar", "at most 12"),
        ({"guided_grammar": f"start: T\nT: {'~' * 30}A\nA: /a.*/"}, "guided_grammar", "at most 12"),
        ({"guided_grammar": 'start: %json {"type": "string"}'}, "guided_grammar", "by its own field"),
        ({"guided_choice": []}, "guided_choice", "1 to 1000 texts"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice", "cannot be combined"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
        ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos", "fixed form"),
        ({"guided_choice": ["a"], "response_format": {"type": "json_object"}}, "guided_choice", "cannot be combined"),
    ],
)
def test_a_refusal_names_the_field(guided, avibe, fields, param, sentence):
    """And what is wrong with it; nothing is generated."""
    response, _ = guided(CHAT, **fields)
    error = response.json["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert sentence in error["message"]
    assert avibe.submitted == []


@pytest.mark.parametrize(("text", "status"), [('{"a": 1}', 200), ('{"a": ', 500), ('{"a": "\n"}', 500), ("", 500)])
def test_a_complete_answer_of_a_schema_is_json(guided, avibe, text, status):
    """If it were not, that would be our error, and no `stop` may hide it."""
    avibe.text = text
    assert guided(CHAT, guided_json=SCHEMA)[0].status_code == status


def test_an_answer_that_is_cut_by_its_length_is_no_failure(guided, avibe):
    """Its client sees that from the finish reason."""
    avibe.text, avibe.finish_reason = '{"a": ', "length"
    assert guided(CHAT, guided_json=SCHEMA)[0].status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize(
    ("form", "kept"),
    [
        ({"guided_json": SCHEMA}, ()),
        ({"structured_outputs": {"json_object": True}}, ()),
        ({"guided_choice": ["red,large", "blue,small"]}, ()),
        ({"guided_regex": "[a-z]+,"}, (",",)),
        ({"guided_grammar": 'start: "a," /.*/'}, (",",)),
    ],
)
def test_stop_strings_do_not_cut_what_is_worth_nothing_in_part(guided, avibe, path, form, kept):
    """JSON and one of several texts end whole; a pattern or a grammar says nothing of what may be cut."""
    avibe.finish_reason = "length"
    assert guided(path, stop=[","], **form)[0].status_code == 200
    assert avibe.submitted[-1].sampling.stop == kept
