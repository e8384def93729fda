"""The locales: the same texts in each language, and the errors' messages translated by key."""

import ast
import re

import pytest

from engine.errors import DeadlineExceeded, Message, ModelError
from routes.locale import DEFAULT, FOLDER, LOCALES
from tests.test_architecture import modules

RU = {"X-Message-Language": "ru"}
TOO_LONG = {"prompt": "x" * 2001}


def placeholders(text):
    """Return the names of the placeholders of a text."""
    return sorted(re.findall(r"\{(\w+)\}", text))


def shape(texts):
    """Return the keys of a locale, the placeholders of its texts beside them."""
    if isinstance(texts, str):
        return placeholders(texts)
    if isinstance(texts, list):
        return [shape(text) for text in texts]
    return {key: shape(value) for key, value in texts.items() if key != "messages"}


def messages_in_the_code():
    """Return the key and the English template of every `Message` that our modules make."""
    calls = [node for file in modules() for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [
        tuple(ast.literal_eval(argument) for argument in call.args)
        for call in calls
        if ast.unparse(call.func) == "Message"
    ]


def test_the_languages_say_the_same_things():
    """Every text exists in each language, with the same figures in it."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(LOCALES) == {"en", "ru"}
    assert shape(LOCALES["en"].texts) == shape(LOCALES["ru"].texts)


@pytest.mark.parametrize("code", sorted(set(LOCALES) - {DEFAULT}))
def test_every_message_of_the_code_is_translated_and_no_other(code):
    """English stands in the code; each other language has its messages, with the same values."""
    translated = LOCALES[code].texts["messages"]
    english = dict(messages_in_the_code())
    assert {key: placeholders(text) for key, text in translated.items()} == {
        key: placeholders(text) for key, text in english.items()
    }


def test_a_key_has_one_message():
    """Two sentences under one key would have one translation."""
    found = set(messages_in_the_code())
    assert len({key for key, _ in found}) == len(found)


def test_a_message_is_its_english_sentence():
    """Programs and logs see a string."""
    message = Message("prompt_too_long", "Prompt too long. Maximum length: {n} characters", n=2000)
    assert message == "Prompt too long. Maximum length: 2000 characters"
    assert LOCALES["en"].sentence(message, "validation_error") == message
    assert LOCALES["ru"].sentence(message, "validation_error") == "Запрос слишком длинный. Не больше 2000 символов"


def test_a_message_without_a_key_is_shown_by_its_code():
    """What no visitor is meant to see is shown by its code, and never half in English."""
    assert LOCALES["ru"].sentence("Something odd.", "model_error") == LOCALES["ru"].texts["codes"]["model_error"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (RU, "Запрос слишком длинный. Не больше 2000 символов"),
        ({"Accept-Language": "ru"}, "Prompt too long. Maximum length: 2000 characters"),
        ({"X-Message-Language": "xx"}, "Prompt too long. Maximum length: 2000 characters"),
    ],
)
def test_messages_of_the_api_are_english_unless_another_language_is_named(client, headers, message):
    """A browser's Accept-Language translates nothing: only the page's scripts ask for their reader's language."""
    body = client.post("/api/v1/text/generate", json=TOO_LONG, headers=headers).json
    assert body == {"error": "validation_error", "message": message, "request_id": body["request_id"]}


def test_the_error_of_a_stream_is_translated_as_well(client, avibe):
    """It comes when the request's context is over."""
    avibe.failure = DeadlineExceeded(Message("out_of_time", "The request did not finish in time."))
    stream = client.post("/api/v1/text/generate", json={"prompt": "x", "stream": True}, headers=RU)
    assert LOCALES["ru"].texts["messages"]["out_of_time"] in stream.text


def test_the_errors_of_a_batch_are_translated_as_well(client, avibe):
    """Each line has its own; one without a key is shown by its code."""
    avibe.failure = ModelError("The model failed on this request.")
    lines = client.post("/api/v1/text/batch", json={"prompts": ["", "x"]}, headers=RU).text
    assert LOCALES["ru"].texts["messages"]["prompt_blank"] in lines
    assert LOCALES["ru"].texts["codes"]["model_error"] in lines


def test_the_api_of_openai_stays_english(client):
    """Its clients are programs."""
    answer = client.post("/v1/completions", json={"model": "avibe", "prompt": "x", "odd": 1}, headers=RU)
    assert answer.json["error"]["message"] == "Unknown field: odd."


@pytest.mark.parametrize(
    ("seconds", "english", "russian"),
    [
        (0, "0 ms", "0 мс"),
        (0.000004, "<0.01 ms", "<0,01 мс"),
        (0.00746, "7.5 ms", "7,5 мс"),
        (0.0405, "40 ms", "40 мс"),
        (0.99949, "999 ms", "999 мс"),
        (0.9996, "1 s", "1 с"),
        (2.156, "2.2 s", "2,2 с"),
        (9.96, "10 s", "10 с"),
        (1234.5, "1,234 s", "1 234 с"),
    ],
)
def test_a_time_has_the_unit_of_its_size(seconds, english, russian):
    """Milliseconds below a second, and no more digits than tell something."""
    shown = [LOCALES[code].duration(seconds).replace("\u00a0", " ") for code in ("en", "ru")]
    assert shown == [english, russian]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.003, "<0.01"), (0.0167, "0.02"), (0.5, "0.5"), (8.333, "8.3"), (12.5, "12"), (1200, "1,200")],
)
def test_a_figure_has_the_decimals_of_its_size(value, shown):
    """What is something is never shown as nothing."""
    assert LOCALES["en"].figure(value) == shown
