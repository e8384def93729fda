"""The templates for sellers: which prompt a form's fields make, and how long its answer may be."""

import pytest

from app_production import create_app
from config import load_settings
from tests.fakes import image_bytes, multipart

RU = {"Accept-Language": "ru"}
BICYCLE = {"template": "listing", "item": "bicycle, red", "condition": "good", "price": "120", "city": "Kazan"}
MESSAGE = {"template": "reply", "message": "Still {there}?", "item": "a {red} desk"}


def asked(client, backend, fields, **headers):
    """Send the form of the page; return the prompt that the model gets."""
    assert client.post("/avibe", data=fields, headers=headers).status_code == 200
    return backend.only.prompt.messages[-1]["content"]


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        (BICYCLE, "Write a listing for: bicycle, red, condition: good, price: 120, city: Kazan"),
        ({**BICYCLE, "condition": "", "city": " "}, "Write a listing for: bicycle, red, price: 120"),
        (
            {**BICYCLE, "price": "", "city": "", "prompt": "It has\ntwo lamps."},
            "...condition: good\nIt has\ntwo lamps.",
        ),
        ({"template": "listing", "prompt": "A red bicycle."}, "Write a listing for: A red bicycle."),
        ({"template": "title", "item": "desk", "price": "left over"}, "Suggest a title for: desk"),
        (MESSAGE, "Write a reply to this message from a buyer: Still {there}?, the item: a {red} desk"),
        (
            {"template": "price_line", "item": "desk", "price": "9"},
            "...about the price for a listing of: desk, price: 9",
        ),
        ({"prompt": " Hello ", "template": "free", "length": "usual", "tone": "neutral"}, " Hello "),
        ({"prompt": "Hello", "length": "short", "tone": "friendly"}, "Hello\nKeep it short. The tone is friendly."),
        (
            {"template": "title", "item": "desk", "tone": "businesslike"},
            "...title for: desk\nThe tone is businesslike.",
        ),
        ({"prompt": "Hello", "item": "left over"}, "Hello"),
    ],
)
def test_a_form_makes_a_prompt(client, avibe, fields, prompt):
    """Of the fields of its template, what was written beside them, and its length and tone."""
    made = asked(client, avibe, fields)
    assert made.endswith(prompt.removeprefix("...")) if prompt.startswith("...") else made == prompt


def test_the_prompt_is_in_the_visitors_language(client, avibe):
    """So is the answer, then."""
    prompt = asked(client, avibe, {**BICYCLE, "item": "стол", "tone": "friendly"}, **RU)
    assert prompt == "Напиши объявление: стол, состояние: good, цена: 120, город: Kazan\nТон дружелюбный."


def test_a_template_for_pictures_needs_no_words(client, avision):
    """The pictures say what it is about; what is written is added."""
    photo = ("image", (image_bytes(), "a.png"))
    client.post("/avision", **multipart([photo, ("template", "photo_condition"), ("prompt", "And the lid?")]))
    text = avision.only.prompt.messages[0]["content"][-1]["text"]
    assert text.startswith("Describe the condition of what the pictures show")
    assert text.endswith("\nAnd the lid?")


@pytest.mark.parametrize(
    ("settings", "fields", "tokens"),
    [
        ({}, {}, 256),
        ({}, {"length": "short"}, 256),
        ({}, {"length": "detailed"}, 512),
        ({}, {"length": "detailed", "max_tokens": "9"}, 9),
        ({"MAX_TOKENS_LIMIT": "300"}, {"length": "detailed"}, 300),
        ({"MAX_TOKENS_AVIBE": "2000", "MAX_TOKENS_LIMIT": "4000"}, {"length": "detailed"}, 2048),  # half of the context
    ],
)
def test_an_answer_in_detail_has_room(models, machine, avibe, settings, fields, tokens):
    """Twice the default, within the limit and the context, unless a length in tokens is chosen."""
    client = create_app(load_settings(settings, None), models, machine).test_client()
    client.post("/avibe", data={"prompt": "Hello", **fields})
    assert avibe.only.sampling.max_tokens == tokens


def test_what_was_filled_in_stays_in_the_form(client):
    """After an answer and after a refusal, with the template that was chosen."""
    for fields in (BICYCLE, {**BICYCLE, "max_tokens": "x"}):
        page = client.post("/avibe", data={**fields, "length": "short"}).text
        assert 'value="listing" checked' in page
        assert 'name="item" value="bicycle, red"' in page
        assert '<option value="short" selected>' in page


@pytest.mark.parametrize(
    "fields", [{"prompt": ""}, {"template": "listing", "city": "Kazan"}, {"length": "short", "prompt": " "}]
)
def test_a_form_about_nothing_is_refused(client, avibe, fields):
    """A city or a length alone is no question."""
    refused = client.post("/avibe", data=fields)
    assert refused.status_code == 400
    assert "prompt must not be empty." in refused.text
    assert avibe.submitted == []


@pytest.mark.parametrize("name", ["template", "length", "tone"])
def test_a_value_that_the_form_does_not_have_is_refused(client, name):
    """By its field."""
    refused = client.post("/avibe", data={"prompt": "x", name: "other"})
    assert refused.status_code == 400
    assert f"{name} must be" in refused.text
