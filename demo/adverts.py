"""Adverts: what a person wants to sell, how they may type it, and which combinations are held out.

An advert is (item, colour, condition, price); the reply copies the words as they were typed, so that a word
never seen in training survives. A combination belongs to the held-out part when its CRC-32 says so: no list is kept.
"""

import random
import zlib
from dataclasses import dataclass, replace

from demo.words import (
    BRANDS,
    COLOURS,
    CONDITIONS,
    DETAILS,
    ITEMS,
    common_word,
    made_up_word,
    random_letters,
)

HELD_OUT_OF = 8
CURRENCIES = {
    "en": [
        "",
        "",
        "",
        "$",
        "€",
        "£",
        " dollars",
        " roubles",
        " rubles",
        " euros",
        " USD",
        " rub",
        " EUR",
        " pounds",
        " ₽",
    ],
    "ru": ["", "", "", " руб", " руб.", " рублей", " р", " р.", "р", " ₽", "₽", " тысяч", " тыс", "руб"],
}
CURRENCY_SIGNS = ("$", "€", "£")


@dataclass(frozen=True)
class Advert:
    """One thing for sale: words as typed, in `lang` ("en" or "ru"); an empty string means "not said"."""

    lang: str
    item: str
    colour: str = ""
    condition: str = ""
    price: str = ""
    prefix: str = ""
    detail: str = ""

    @property
    def key(self) -> str:
        """Name the combination the split goes by: language, item, colour and condition."""
        return "|".join((self.lang, self.item, self.colour, self.condition)).lower()

    @property
    def item_phrase(self) -> str:
        """Return the item with its typed prefix, such as "used bicycle"."""
        return f"{self.prefix} {self.item}".strip()


def is_held_out(key: str) -> bool:
    """Return whether a combination belongs to the evaluation (about one in eight does)."""
    return zlib.crc32(key.lower().encode()) % HELD_OUT_OF == 0


def draw_item(rng: random.Random, lang: str) -> str:
    """Draw a known item, a branded one, or made-up words (about half of all, so that copying is learned)."""
    kind = rng.random()
    if kind < 0.46:
        return rng.choice(ITEMS[lang])
    if kind < 0.56:
        name = rng.choice(BRANDS) if rng.random() < 0.6 else made_up_word(rng, "en").capitalize()
        return f"{rng.choice(ITEMS[lang])} {name}" + (f" {rng.randint(1, 99)}" if rng.random() < 0.4 else "")
    if kind < 0.64:
        return random_letters(rng, lang if rng.random() < 0.7 else "en")
    if kind < 0.80:
        last = rng.choice(ITEMS[lang]) if rng.random() < 0.4 else free_words(rng, lang, 1)
        return f"{free_words(rng, lang, rng.choice((1, 1, 2)))} {last}"
    return made_up_word(rng, lang if rng.random() < 0.85 else "en")


def free_words(rng: random.Random, lang: str, count: int) -> str:
    """Return `count` words, common or made up, in no sensible order: whatever is typed has to be copied."""
    return " ".join(common_word(rng, lang) if rng.random() < 0.4 else made_up_word(rng, lang) for _ in range(count))


def draw_condition(rng: random.Random, lang: str) -> str:
    """Draw a known condition, sometimes a detail or free words instead."""
    roll = rng.random()
    if roll < 0.06:
        return free_words(rng, lang, rng.randint(1, 3))
    return rng.choice(CONDITIONS[lang] if roll < 0.93 else DETAILS[lang])


def draw_detail(rng: random.Random, lang: str) -> str:
    """Draw one more thing to say, or nothing (most often)."""
    roll = rng.random()
    if roll < 0.88:
        return ""
    return rng.choice(DETAILS[lang]) if roll < 0.96 else free_words(rng, lang, rng.randint(1, 3))


def draw_price(rng: random.Random, lang: str) -> str:
    """Draw a price as people type it: grouped or not, with or without a currency."""
    digits = str(
        rng.choice((rng.randint(1, 99), rng.randint(1, 99) * 10, rng.randint(1, 999) * 100, rng.randint(1, 10**6)))
    )
    if len(digits) > 3 and rng.random() < 0.25:
        digits = f"{int(digits):,}".replace(",", " " if lang == "ru" or rng.random() < 0.4 else ",")
    currency = rng.choice(CURRENCIES[lang])
    return currency + digits if currency in CURRENCY_SIGNS else digits + currency


def draw_advert(rng: random.Random, lang: str) -> Advert:
    """Draw any advert of `lang`, from either side of the split."""
    made_up = rng.random() < 0.05
    colour = made_up_word(rng, lang) if made_up else rng.choice(COLOURS[lang])
    prefix = ""
    if rng.random() < 0.1:
        prefix = rng.choice(("used", "new", "second hand", "old") if lang == "en" else ("б/у", "новый", "старый", "бу"))
    return Advert(
        lang,
        draw_item(rng, lang),
        colour if rng.random() < 0.85 else "",
        draw_condition(rng, lang) if rng.random() < 0.82 else "",
        draw_price(rng, lang) if rng.random() < 0.42 else "",
        prefix,
        draw_detail(rng, lang),
    )


def draw_from_split(rng: random.Random, lang: str, held_out: bool) -> Advert:
    """Draw an advert from one side of the split only."""
    while True:
        advert = draw_advert(rng, lang)
        if is_held_out(advert.key) == held_out:
            return advert


def shown_price(price: str, lang: str) -> str:
    """Return the price as the reply writes it: Russian prices end in the rouble sign, English ones stay as typed."""
    if lang == "en":
        return price
    for word in ("рублей", "руб.", "руб", "р.", "р", "₽"):
        if price.endswith(word):
            price = price[: -len(word)].strip()
            break
    for word in (" тысяч", " тыс"):
        if price.endswith(word):
            price = price[: -len(word)] + " тысяч"
            break
    return f"{price} ₽"


def with_typed_case(rng: random.Random, advert: Advert) -> Advert:
    """Sometimes retype the words in capitals or with a capital first letter, as people in a hurry do."""
    roll = rng.random()
    if roll < 0.84:
        return advert
    change = str.upper if roll < 0.88 else (str.capitalize if roll < 0.94 else str.title)
    return replace(advert, item=change(advert.item), colour=change(advert.colour), condition=change(advert.condition))
