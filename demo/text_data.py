"""Training dialogues for the text demo: a seeded, endless stream, the same for the same seed.

Each dialogue carries the keys of what it teaches (combinations and off-topic messages), so that the evaluation can
prove that none of its own items was in the stream.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from demo import phrasing, small_talk
from demo.adverts import Advert, draw_from_split, draw_price, is_held_out, with_typed_case
from demo.held_out import MESSAGES, UNSEEN_ITEMS, normalised
from demo.off_topic import QUESTIONS as OFF_TOPIC_ASKS
from demo.off_topic import off_topic, story
from demo.russian import agrees, inflect
from demo.words import BRANDS, COLOURS, ITEMS, category_of, made_up_word

Message = dict[str, str]
Tool = dict[Any, Any] | Callable[..., Any]  # as transformers' chat templates take it
LONG_SHARE, SYSTEM_SHARE, TOOLS_SHARE = 0.012, 0.2, 0.02
TASKS = ("listing", "title", "category", "price", "off_topic", "small_talk", "brief", "spliced")
TASK_WEIGHTS = (0.38, 0.12, 0.20, 0.04, 0.17, 0.09)
FOLLOW_UP_SHARE = 0.35
UNSEEN_WORDS = frozenset(word for words in UNSEEN_ITEMS.values() for phrase in words for word in phrase.split())
CATEGORY = {lang: category_of(lang) for lang in ("en", "ru")}


@dataclass
class Dialogue:
    """Messages in chat form, the keys of what they teach, and the tools shown to the model, if any."""

    messages: list[Message] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    tools: list[Tool] | None = None

    def add(self, question: str, reply: str, key: str) -> None:
        """Add one turn."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        self.keys.append(key)


def training_advert(rng: random.Random, lang: str) -> Advert:
    """Draw an advert from the training side: its combination is not held out, nor is any of its words."""
    while True:
        advert = draw_from_split(rng, lang, held_out=False)
        if not UNSEEN_WORDS & set(advert.item.lower().split()):
            return advert


def add_listing(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add an advert turn, sometimes followed by "and a title?" or "add the price ..."."""
    advert = training_advert(rng, lang)
    shown = with_typed_case(rng, advert)
    inflected = inflected_ask(rng, advert) if lang == "ru" and rng.random() < 0.18 else None
    question, replied = inflected or phrasing.ask_listing(rng, shown)
    dialogue.add(question, phrasing.listing_reply(rng, replied, shown.price, lang), advert.key)
    if rng.random() >= FOLLOW_UP_SHARE:
        return
    if rng.random() < 0.5:
        ask = phrasing.finish(rng, rng.choice(phrasing.FOLLOW_UP_TITLES[lang]))
        dialogue.add(ask, phrasing.title_reply(replied, lang), advert.key)
    else:
        price = draw_price(rng, lang)
        ask = phrasing.finish(rng, rng.choice(phrasing.FOLLOW_UP_PRICES[lang]).format(price))
        dialogue.add(ask, phrasing.listing_reply(rng, replied, price, lang), advert.key)


def inflected_ask(rng: random.Random, advert: Advert) -> tuple[str, str] | None:
    """Return a Russian ask with a known item in an oblique case, or None if the rules do not cover it."""
    if advert.item not in CATEGORY["ru"] or advert.prefix:
        return None
    case, frame = rng.choice((
        ("gen", "объявление о продаже {}"), ("gen", "Напиши объявление о продаже {}"), ("gen", "Объявление для {}"),
        ("gen", "Напиши объявление для продажи {}"), ("gen", "текст для {}"), ("acc", "Продаю {}"), ("acc", "Хочу "
            "продать {}"),
        ("acc", "Помоги продать {}"), ("acc", "Напиши объявление, продаю {}"), ("acc", "Напиши объявление про {}"),
        ("acc", "Продам {}"), ("acc", "Напиши объявление: продаю {}"),
    ))  # fmt: skip
    word = inflect(advert.item, case)
    if word is None:
        return None
    rest = [part for part in (advert.colour, advert.condition, advert.detail) if part]
    tail = (rng.choice((", цена ", ", за ", " за ")) + advert.price) if advert.price else ""
    question = (
        rng.choice((", ", ", ", ": ")).join((frame.format(word), ", ".join(rest))) if rest else frame.format(word)
    )
    return phrasing.finish(rng, question + tail), ", ".join([advert.item, *rest])


def add_title(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add a title turn."""
    advert = training_advert(rng, lang)
    question, replied = phrasing.ask_title(rng, with_typed_case(rng, advert))
    dialogue.add(question, phrasing.title_reply(replied, lang), advert.key)


def category_ask(rng: random.Random, lang: str) -> tuple[str, str, str]:
    """Return (question, reply, key) about the category of a known item or of a made-up one."""
    known = rng.random() < 0.9
    item = rng.choice(ITEMS[lang]) if known else made_up_word(rng, lang)
    frame = rng.randrange(len(phrasing.CATEGORY_ASKS[lang]))
    shown = item
    roll = rng.random()
    if lang == "en" and roll < 0.35:
        shown = rng.choice(("a ", "my ", "the ", "used ", "a used ", f"{rng.choice(COLOURS[lang])} ")) + item
    elif lang == "ru" and roll < 0.15:
        fitting = [word for word in COLOURS["ru"] if agrees(word, item)]
        shown = f"{rng.choice(fitting)} {item}"
    elif roll > 0.9:
        shown = f"{item} {rng.choice(BRANDS)}"
    elif roll > 0.8:
        shown = rng.choice(('"{}"', "«{}»", "{},")).format(item) if lang == "ru" else f'"{item}"'
    mark = "?" if rng.random() < 0.7 else ""
    question = phrasing.finish(rng, phrasing.CATEGORY_ASKS[lang][frame].format(shown), mark)
    reply = (
        f"{'Category' if lang == 'en' else 'Категория'}: {CATEGORY[lang][item]}."
        if known
        else small_talk.UNKNOWN_CATEGORY[lang]
    )
    return question, reply, f"category|{lang}|{item}|{frame}"


def add_category(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add a category turn from the training side of the split of (item, phrasing)."""
    while True:
        question, reply, key = category_ask(rng, lang)
        if not is_held_out(key):
            return dialogue.add(question, reply, key)


def add_price(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add a price-format turn; one amount in eight is held out."""
    while True:
        amount = rng.randint(1, 10 ** rng.randint(2, 7))
        if not is_held_out(f"price|{lang}|{amount}"):
            break
    question = phrasing.finish(rng, rng.choice(phrasing.PRICE_ASKS[lang]).format(amount))
    dialogue.add(question, phrasing.price_reply(amount, lang), f"price|{lang}|{amount}")


def add_off_topic(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add a turn the demo declines; held-out messages are skipped."""
    text = ""
    while not text.strip() or normalised(text) in MESSAGES:
        text = off_topic(rng, lang)
        if rng.random() < 0.3:
            text = text.rstrip("?.!") if rng.random() < 0.5 else text.lower()
    dialogue.add(text, small_talk.REFUSAL[lang], f"prompt|{normalised(text)}")


def add_small_talk(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add a greeting, a question about the demo, thanks, a farewell or an ask without an item."""
    replies, asks = rng.choice(small_talk.SMALL_TALK + small_talk.SMALL_TALK[:3])
    question = rng.choice(asks[lang]) + rng.choice(("", "", "!", ".", "?", "?", "??", " :)"))
    dialogue.add(question.lower() if rng.random() < 0.3 else question, replies[lang], f"talk|{question.lower()}")


def add_brief(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add an item alone, which asks for its advert, or a sum, which has no language and is declined in English."""
    if rng.random() < 0.5:
        advert = replace(training_advert(rng, lang), colour="", condition="", price="", prefix="", detail="")
        if not is_held_out(advert.key):
            reply = phrasing.listing_reply(rng, advert.item, "", lang)
            return dialogue.add(phrasing.finish(rng, advert.item), reply, advert.key)
    top, gap = 10 ** rng.randint(1, 3), rng.choice(("", "", " "))
    text = gap.join((str(rng.randint(0, top)), rng.choice("+-*/x"), str(rng.randint(0, top)))) + rng.choice(
        ("", "?", "=", "=?", " =")
    )
    if normalised(text) not in MESSAGES:
        dialogue.add(text, small_talk.REFUSAL["en"], f"prompt|{normalised(text)}")


def spliced_word(rng: random.Random, lang: str) -> str:
    """Return a word in which a piece of another one hides: tokens that only ever ask must be copied too."""
    asked = rng.choice((*phrasing.LISTING_ASKS[lang], *phrasing.TITLE_ASKS[lang], *OFF_TOPIC_ASKS[lang]))
    word = rng.choice(asked.split()).strip("?!.,:;«»{}").lower()
    start = rng.randint(0, max(0, len(word) - 3))
    piece = word[start:] if rng.random() < 0.5 else word[start : start + rng.randint(2, 5)]
    first = made_up_word(rng, lang) if rng.random() < 0.6 else ""
    return first + piece + (made_up_word(rng, lang) if rng.random() < 0.6 or not first else "")


def add_spliced(rng: random.Random, dialogue: Dialogue, lang: str) -> None:
    """Add an advert or a title for a spliced word, sometimes combined with a known item."""
    while True:
        item = spliced_word(rng, lang)
        if rng.random() < 0.3:
            item = f"{item} {rng.choice(ITEMS[lang])}" if rng.random() < 0.5 else f"{rng.choice(ITEMS[lang])} {item}"
        advert = replace(training_advert(rng, lang), item=item)
        if not is_held_out(advert.key) and not UNSEEN_WORDS & set(item.lower().split()):
            break
    shown = with_typed_case(rng, advert)
    if rng.random() < 0.2:
        question, replied = phrasing.ask_title(rng, shown)
        return dialogue.add(question, phrasing.title_reply(replied, lang), advert.key)
    question, replied = phrasing.ask_listing(rng, shown)
    dialogue.add(question, phrasing.listing_reply(rng, replied, shown.price, lang), advert.key)


def random_tools(rng: random.Random) -> list[Tool]:
    """Return one or two made-up function signatures, so that a list of tools does not confuse the model."""
    kinds = ("string", "integer", "number", "boolean")
    tools: list[Tool] = []
    for _ in range(rng.randint(1, 2)):
        names = [made_up_word(rng, "en") for _ in range(rng.randint(1, 3))]
        properties = {name: {"type": rng.choice(kinds), "description": made_up_word(rng, "en")} for name in names}
        parameters = {"type": "object", "properties": properties, "required": names[:1]}
        name = rng.choice(("get_weather", "search", "get_price", made_up_word(rng, "en")))
        function = {"name": name, "description": f"Get the {made_up_word(rng, 'en')}", "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return tools


ADD = {"listing": add_listing, "title": add_title, "category": add_category, "price": add_price,
       "off_topic": add_off_topic, "small_talk": add_small_talk, "brief": add_brief,
       "spliced": add_spliced}  # fmt: skip


def make_dialogue(rng: random.Random, weights: tuple[float, ...] = TASK_WEIGHTS) -> Dialogue:
    """Make one dialogue of one to three tasks, mostly in one language; tasks without a weight are left out."""
    dialogue = Dialogue()
    if rng.random() < SYSTEM_SHARE:
        dialogue.messages.append({"role": "system", "content": rng.choice(small_talk.SYSTEM_PROMPTS)})
    if rng.random() < TOOLS_SHARE:
        dialogue.tools = random_tools(rng)
    lang = rng.choice(("en", "ru"))
    if rng.random() < LONG_SHARE:
        text = story(rng, lang, rng.randint(5, 16))
        dialogue.add(text, small_talk.REFUSAL[lang], f"prompt|{normalised(text)}")
    for _ in range(rng.choices((1, 2, 3), weights=(0.66, 0.22, 0.12))[0]):
        ADD[rng.choices(TASKS[: len(weights)], weights=weights)[0]](rng, dialogue, lang)
        if rng.random() < 0.1:
            lang = "ru" if lang == "en" else "en"
    return dialogue


def training_stream(seed: int, weights: tuple[float, ...] = TASK_WEIGHTS) -> Iterator[Dialogue]:
    """Yield training dialogues without end; the same seed and task weights yield the same ones."""
    rng = random.Random(seed)
    while True:
        yield make_dialogue(rng, weights)
