"""How people ask for an advert, a title, a category or a price format, and what the demo replies.

`ask_*` functions return (question, body) where body is the phrase that the reply copies.
"""

import random

from demo.adverts import Advert, shown_price
from demo.phrase_files import load
from demo.words import COLOURS, CONDITIONS

_REQUESTS = load("requests")
LISTING_ASKS, TITLE_ASKS = _REQUESTS["listing"], _REQUESTS["title"]
CATEGORY_ASKS, PRICE_ASKS = _REQUESTS["category"], _REQUESTS["price"]
FOLLOW_UP_TITLES, FOLLOW_UP_PRICES = _REQUESTS["follow_up_title"], _REQUESTS["follow_up_price"]
CLOSINGS = {
    "en": (
        "Write to me and I will gladly answer your questions.",
        "You can come and see it: write to me to choose a time.",
        "Message me for photos and details.",
    ),
    "ru": (
        "Пишите, с радостью отвечу на вопросы.",
        "Можно приехать и посмотреть, напишите мне.",
        "Напишите мне, пришлю фото и подробности.",
    ),
}
LABELS = {
    "en": (
        ("item", "colour", "condition"),
        ("product", "color", "state"),
        ("Item", "Color", "Condition"),
        ("", "color", "condition"),
    ),
    "ru": (
        ("товар", "цвет", "состояние"),
        ("Товар", "Цвет", "Состояние"),
        ("", "цвет", "состояние"),
        ("вещь", "цвет", "состояние"),
    ),
}
SOFTENERS = {"en": ("{}, please", "{} please", "{}, thanks"), "ru": ("{}, пожалуйста", "{} пожалуйста", "{}, спасибо")}
OPENERS = {
    "en": ("Hello! ", "Hi, ", "Hey. ", "Please ", "Hello, "),
    "ru": ("Привет! ", "Здравствуйте, ", "Привет, ", "Пожалуйста, "),
}
LINKS = {
    "en": (
        ". It is ",
        ", it is ",
        ". It's ",
        " that is ",
        ", condition: ",
        ". Condition: ",
        ", condition ",
        ". The condition is ",
    ),
    "ru": (". Состояние: ", ", состояние ", ". Состояние ", ", состояние: ", " - ", ". Он ", ". Она "),
}
PRICE_LEADS = {
    "en": ("price ", "price: ", "for ", "", "at ", "asking ", "cost ", "Price ", "price is ", "I want ", "it costs "),
    "ru": (
        "цена ",
        "цена: ",
        "за ",
        "",
        "цена - ",
        "стоимость ",
        "Цена ",
        "прошу ",
        "отдам за ",
        "стоит ",
        "Стоимость ",
    ),
}


def typed_phrase(rng: random.Random, advert: Advert) -> tuple[str, str]:
    """Return (as typed, as replied) for the parts; the reply keeps the words and drops the clutter."""
    style = rng.random()
    item, colour, condition = advert.item_phrase, advert.colour, advert.condition
    if style < 0.14 and colour and not advert.detail:
        return _noun_phrase(rng, advert)
    parts = [part for part in (item, colour, condition, advert.detail) if part]
    replied = ", ".join(parts)
    if style < 0.24 and not advert.detail:
        return _labelled(rng, advert), replied
    if style < 0.36 and len(parts) > 1 and _scrambles(advert):
        rng.shuffle(parts)
        return rng.choice((", ", ", ", ",")).join(parts), replied
    roll = rng.random()
    roll = min(roll, 0.8) if advert.detail else roll
    comma = (
        ", "
        if roll < 0.74
        else ("," if roll < 0.81 else (" " if roll < 0.90 else rng.choice(("; ", " , ", " - ", ",  ", "\n"))))
    )
    if advert.lang == "en" and rng.random() < 0.15 and parts[0] == item:
        parts[0] = rng.choice(("a ", "my ", "an ", "the ")) + parts[0]
    return comma.join(parts), replied


def _scrambles(advert: Advert) -> bool:
    """Return whether the parts can be distinguished in any order: colour and condition are known words."""
    known_condition = not advert.condition or advert.condition.lower() in CONDITIONS[advert.lang]
    return not advert.detail and advert.colour.lower() in COLOURS[advert.lang] and known_condition


def _noun_phrase(rng: random.Random, advert: Advert) -> tuple[str, str]:
    """Return the colour before the item, and the condition after it: "red bicycle in good condition"."""
    phrase = " ".join(part for part in (advert.prefix, advert.colour, advert.item) if part)
    typed = phrase
    if advert.condition and rng.random() < 0.5:
        typed, phrase = phrase + rng.choice(LINKS[advert.lang]) + advert.condition, f"{phrase}, {advert.condition}"
    elif advert.condition:
        typed = phrase = phrase + (", " if rng.random() < 0.5 else " ") + advert.condition
    lead = rng.choice(("a ", "my ", "", "the ")) if advert.lang == "en" else rng.choice(("", "", "мой "))
    return lead + typed, phrase


def _labelled(rng: random.Random, advert: Advert) -> str:
    """Return the parts with their names, such as "colour: red"."""
    names = rng.choice(LABELS[advert.lang])
    colon = rng.choice((": ", ": ", " ", " - "))
    pairs = zip(names, (advert.item_phrase, advert.colour, advert.condition), strict=True)
    return rng.choice((", ", "; ", ". ")).join((name + colon if name else "") + part for name, part in pairs if part)


def finish(rng: random.Random, text: str, mark: str = "") -> str:
    """Vary case, final punctuation and spacing the way people type."""
    text += mark if rng.random() < 0.6 else rng.choice(("", "", ".", "!", " "))
    roll = rng.random()
    if roll < 0.2:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.05:
        text = " " * rng.randint(1, 2) + text + " " * rng.randint(0, 2)
    return text


def ask_listing(rng: random.Random, advert: Advert) -> tuple[str, str]:
    """Return (question, replied phrase) for an advert, the price somewhere in it."""
    typed, replied = typed_phrase(rng, advert)
    if advert.price:
        price = rng.choice(PRICE_LEADS[advert.lang]) + advert.price
        gap = rng.choice((", ", ", ", ", ", " ", ". "))
        typed = price + ", " + typed if rng.random() < 0.08 else typed + gap + price
    if typed == advert.item and rng.random() < 0.15:
        return finish(rng, typed), replied
    typed = rng.choice(SOFTENERS[advert.lang]).format(typed) if rng.random() < 0.08 else typed
    roll = rng.random()
    rich = bool(advert.colour) + bool(advert.condition) + bool(advert.price) >= 2
    if roll < 0.08 and rich:
        return finish(rng, typed), replied
    if roll < 0.13 and rich:
        tail = (
            ("make a listing", "write an ad", "listing please")
            if advert.lang == "en"
            else ("напиши объявление", "объявление")
        )
        return finish(rng, f"{typed}{rng.choice((' - ', '. ', ', ', ': '))}{rng.choice(tail)}"), replied
    colon = rng.choice((": ", ": ", ": ", " ", " ", " - ", ":", "\n"))
    hello = rng.choice(OPENERS[advert.lang]) if rng.random() < 0.07 else ""
    return finish(rng, hello + rng.choice(LISTING_ASKS[advert.lang]) + colon + typed), replied


def ask_title(rng: random.Random, advert: Advert) -> tuple[str, str]:
    """Return (question, replied phrase) for a title; the price is left out of the reply."""
    typed, replied = typed_phrase(rng, advert)
    if advert.price and rng.random() < 0.5:
        typed += ", " + rng.choice(PRICE_LEADS[advert.lang]) + advert.price
    colon = rng.choice((": ", ": ", " ", " ", " - ", ":"))
    return finish(rng, rng.choice(TITLE_ASKS[advert.lang]) + colon + typed), replied


def listing_reply(rng: random.Random, replied: str, price: str, lang: str) -> str:
    """Return the advert itself: the phrase, the price if there is one, and a closing sentence."""
    lead, label = ("For sale: ", " Price: ") if lang == "en" else ("Продаётся: ", " Цена: ")
    middle = f"{label}{shown_price(price, lang)}." if price else ""
    return f"{lead}{replied}.{middle} {rng.choice(CLOSINGS[lang])}"


def title_reply(replied: str, lang: str) -> str:
    """Return the title line."""
    return ("Title: " if lang == "en" else "Заголовок: ") + replied


def price_reply(amount: int, lang: str) -> str:
    """Return the amount with its thousands apart: "12,500" in English, "12 500 ₽" in Russian."""
    return f"Price: {amount:,}." if lang == "en" else f"Цена: {amount:,} ₽.".replace(",", " ")
