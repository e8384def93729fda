"""Answers of the text demo: plain phrasings, odd ones, and a sample of its held-out evaluation."""

import pytest

from demo import evaluate, small_talk
from demo.evaluate_text import (
    category_items,
    listing_items,
    long_items,
    price_items,
    refusal_items,
    title_items,
)
from tests.demo.samples import at_least, percent

pytestmark = pytest.mark.slow

SEED = 5
SAMPLE = 40


def test_an_advert_keeps_every_word(say):
    """A plain English ask becomes an advert with the item, the colour and the condition."""
    text = say("Write a listing for: used bicycle, red, good condition")
    assert text.startswith("For sale: used bicycle, red, good condition.")


def test_a_russian_advert_keeps_the_price(say):
    """A plain Russian ask becomes a Russian advert with its price."""
    text = say("Напиши объявление: диван, синий, отличное состояние, цена 4500")
    assert text.startswith("Продаётся: диван, синий, отличное состояние. Цена: 4500 ₽.")


def test_an_unseen_word_is_copied(say):
    """A word that training never showed comes back as it was typed."""
    assert say("zebra, green, new").startswith("For sale: zebra, green, new.")
    assert say("Напиши объявление: зебра, зелёная, новая").startswith("Продаётся: зебра, зелёная, новая.")


def test_a_title_names_the_item(say):
    """A title holds the words of the item and its colour."""
    text = say("Suggest a title for a red bicycle in good condition")
    assert text.startswith("Title: ")
    assert "red bicycle" in text


def test_a_category_is_named(say):
    """A known item gets its category."""
    assert say("К какой категории относится диван?") == "Категория: мебель."
    assert say("What category does a bicycle belong to?") == "Category: transport."


def test_a_price_is_written_in_groups(say):
    """Thousands are set apart, in the way of the language."""
    assert say("Format the price 12500") == "Price: 12,500."


@pytest.mark.parametrize(("question", "lang"), [("Hello!", "en"), ("Привет!", "ru")])
def test_a_greeting_is_returned(say, question, lang):
    """A greeting is answered with a greeting that says what the demo is."""
    assert say(question) == small_talk.GREETING[lang]


@pytest.mark.parametrize(("question", "lang"), [("What can you do?", "en"), ("Что ты умеешь?", "ru")])
def test_it_says_what_it_can_do(say, question, lang):
    """The answer says that the demo is small, and what it can do."""
    assert say(question) == small_talk.ABOUT[lang]


@pytest.mark.parametrize(
    ("question", "lang"),
    [
        ("What is the capital of France?", "en"),
        ("Write me a poem", "en"),
        ("2+2?", "en"),
        ("Order me a taxi, please", "en"),
        ("Какая столица Франции?", "ru"),
        ("Напиши мне стихотворение", "ru"),
    ],
)
def test_the_rest_is_declined_honestly(say, question, lang):
    """What it cannot do is declined in the language asked, with what it can do."""
    assert say(question) == small_talk.REFUSAL[lang]


def test_a_long_message_is_declined_and_ends(text_model):
    """Several hundred tokens of anything else get the refusal and an end token."""
    items = long_items(4, SEED)
    assert all(len(text_model.tokenizer(item.question).input_ids) > 200 for item in items)
    assert text_model.judge(items) == [True] * len(items)


def test_a_title_follows_an_advert(say):
    """A second turn may ask for a title of the thing just advertised."""
    first = "Write a listing for: bicycle, red, good condition"
    assert say(first, say(first), "And a title?") == "Title: bicycle, red, good condition"


@pytest.mark.parametrize("group", ["listing", "price", "unseen words"])
def test_held_out_adverts_meet_their_target(text_model, group):
    """A sample of held-out adverts reaches the target that the evaluation sets."""
    marks = text_model.judge(listing_items(group, SAMPLE, SEED))
    assert percent(marks) >= at_least(evaluate.TEXT_TARGETS[group], SAMPLE)


def test_held_out_titles_categories_and_refusals_meet_their_targets(text_model):
    """Samples of the other held-out groups reach their targets."""
    for group, items in (
        ("title", title_items(SAMPLE, SEED)),
        ("category", category_items(SAMPLE, SEED)),
        ("price format", price_items(SAMPLE, SEED)),
        ("off topic", refusal_items(SAMPLE)),
    ):
        assert percent(text_model.judge(items)) >= at_least(evaluate.TEXT_TARGETS[group], SAMPLE), group


def test_sampling_keeps_the_words(text_model):
    """At temperature 0.7 a sample of held-out adverts stays within two points of the greedy target."""
    items = listing_items("listing", SAMPLE, SEED)
    marks = [mark for seed in (0, 1) for mark in text_model.judge(items, evaluate.TEMPERATURE, seed)]
    assert percent(marks) >= at_least(evaluate.TEXT_TARGETS["listing"] - evaluate.SAMPLED_SLACK, len(marks))


def test_tools_in_the_prompt_are_harmless(text_model):
    """A list of tools and `enable_thinking` render, and the answer stays an advert."""
    tools = [
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
    ]
    chat = [{"role": "user", "content": "Write a listing for: bicycle, red, good condition"}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    prompt = text_model.tokenizer.apply_chat_template(chat, tools=tools, **options)
    assert '"name": "get_weather"' in prompt
    inputs = text_model.tokenizer(prompt, return_tensors="pt")
    output = text_model.model.generate(**inputs, max_new_tokens=80, do_sample=False)
    text = text_model.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.startswith("For sale: bicycle, red, good condition.")
