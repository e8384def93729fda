"""Held-out evaluation of the text demo: which messages are asked, and what counts as a right reply."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import phrasing, small_talk
from demo.adverts import Advert, draw_from_split, is_held_out, shown_price
from demo.held_out import OFF_TOPIC, UNSEEN_ITEMS, normalised
from demo.off_topic import story
from demo.text_data import CATEGORY, Message, category_ask, training_stream
from demo.words import COLOURS, CONDITIONS, ITEMS

FOLDER = Path(__file__).with_name("avibe")
BATCH = 32
MAX_NEW_TOKENS = 160
LONG_SENTENCES = 12
LANGUAGES = ("en", "ru")
LEADS = {"en": "For sale: ", "ru": "Продаётся: "}


@dataclass(frozen=True)
class TextItem:
    """One held-out message; right means: ended, starts with `lead`, and holds (or equals) what is wanted."""

    group: str
    question: str
    key: str
    lead: str
    wanted: tuple[str, ...]
    whole: bool = False

    def is_right(self, reply: str, ended: bool) -> bool:
        """Judge a decoded reply."""
        if not ended or not reply.startswith(self.lead):
            return False
        return reply == self.wanted[0] if self.whole else all(part in reply for part in self.wanted)


def known_advert(rng: random.Random, lang: str) -> Advert:
    """Draw a held-out combination of a known item, colour and condition."""
    while True:
        advert = draw_from_split(rng, lang, held_out=True)
        if advert.item in CATEGORY[lang] and advert.colour in COLOURS[lang] and advert.condition in CONDITIONS[lang]:
            return advert


def unseen_advert(rng: random.Random, lang: str) -> Advert:
    """Draw an advert for an item whose words training never showed."""
    advert = replace(known_advert(rng, lang), item=rng.choice(UNSEEN_ITEMS[lang]))
    return advert if is_held_out(advert.key) else unseen_advert(rng, lang)


def listing_items(group: str, count: int, seed: int) -> list[TextItem]:
    """Return asks for adverts of known items, of unseen ones, or with a price, by group."""
    rng, items = random.Random(f"{group}:{seed}"), []
    for index in range(count):
        lang = LANGUAGES[index % 2]
        advert = unseen_advert(rng, lang) if group == "unseen words" else known_advert(rng, lang)
        if group == "price" and not advert.price:
            advert = replace(advert, price=str(rng.randint(10, 99999)))
        question, _ = phrasing.ask_listing(rng, advert)
        wanted = [advert.item_phrase, advert.colour, advert.condition]
        if advert.prefix and advert.item_phrase not in question:
            wanted[0] = advert.item
        if advert.price:
            wanted.append(shown_price(advert.price, lang) + ".")
        items.append(TextItem(group, question, advert.key, LEADS[lang], tuple(wanted)))
    return items


def title_items(count: int, seed: int) -> list[TextItem]:
    """Return asks for titles of held-out combinations."""
    rng, items = random.Random(f"title:{seed}"), []
    for index in range(count):
        lang = LANGUAGES[index % 2]
        advert = known_advert(rng, lang)
        question, _ = phrasing.ask_title(rng, advert)
        items.append(
            TextItem(
                "title",
                question,
                advert.key,
                phrasing.title_reply("", lang),
                (advert.item, advert.colour, advert.condition),
            )
        )
    return items


def category_items(count: int, seed: int) -> list[TextItem]:
    """Return held-out (item, phrasing) pairs about the category of known items."""
    rng, items = random.Random(f"category:{seed}"), list[TextItem]()
    while len(items) < count:
        lang = LANGUAGES[len(items) % 2]
        question, reply, key = category_ask(rng, lang)
        if is_held_out(key) and key.split("|")[2] in ITEMS[lang]:
            items.append(TextItem("category", question, key, "", (reply,), whole=True))
    return items


def price_items(count: int, seed: int) -> list[TextItem]:
    """Return held-out amounts, of two to seven digits at most, to be written as prices."""
    rng, items = random.Random(f"price format:{seed}"), list[TextItem]()
    while len(items) < count:
        lang = LANGUAGES[len(items) % 2]
        amount = rng.randint(1, 10 ** rng.randint(2, 7))
        key = f"price|{lang}|{amount}"
        if is_held_out(key):
            question = phrasing.finish(rng, rng.choice(phrasing.PRICE_ASKS[lang]).format(amount))
            items.append(TextItem("price format", question, key, "", (phrasing.price_reply(amount, lang),), whole=True))
    return items


def refusal_items(count: int) -> list[TextItem]:
    """Return the hand-written off-topic messages of both languages in turn, at most `count`."""
    items = []
    for pair in zip(OFF_TOPIC["en"], OFF_TOPIC["ru"], strict=False):
        for lang, text in zip(LANGUAGES, pair, strict=True):
            wanted = (small_talk.REFUSAL[lang],)
            items.append(TextItem("off topic", text, f"prompt|{normalised(text)}", "", wanted, whole=True))
    return items[:count]


def long_items(count: int, seed: int) -> list[TextItem]:
    """Return off-topic stories of some 300 to 500 tokens."""
    rng, items = random.Random(f"long:{seed}"), []
    for index in range(count):
        lang = LANGUAGES[index % 2]
        text = story(rng, lang, LONG_SENTENCES)
        items.append(
            TextItem("long off topic", text, f"prompt|{normalised(text)}", "", (small_talk.REFUSAL[lang],), whole=True)
        )
    return items


def training_keys(dialogues: int, seed: int, weights: tuple[float, ...]) -> set[str]:
    """Return every key that the first `dialogues` training dialogues taught."""
    return {key for dialogue in islice(training_stream(seed, weights), dialogues) for key in dialogue.keys}


class TextModel:
    """The checkpoint, asked many messages at a time."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def reply(self, chats: Sequence[list[Message]], temperature: float = 0.0, seed: int = 0) -> list[tuple[str, bool]]:
        """Return (text, ended) for each chat; temperature 0 is greedy, above it plain sampling from `seed`."""
        torch.manual_seed(seed)
        order = sorted(range(len(chats)), key=lambda index: len(str(chats[index])))
        found: dict[int, tuple[str, bool]] = {}
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            found.update(zip(indices, self._reply_batch([chats[index] for index in indices], temperature), strict=True))
        return [found[index] for index in range(len(chats))]

    def _reply_batch(self, chats: list[list[Message]], temperature: float) -> list[tuple[str, bool]]:
        texts = [self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        ends = set(self.model.generation_config.eos_token_id)
        return [
            (str(self.tokenizer.decode(row, skip_special_tokens=True)), bool(ends & set(row.tolist()))) for row in new
        ]

    def judge(self, items: Sequence[TextItem], temperature: float = 0.0, seed: int = 0) -> list[bool]:
        """Return whether each item was answered right."""
        replies = self.reply([[{"role": "user", "content": item.question}] for item in items], temperature, seed)
        return [item.is_right(*reply) for item, reply in zip(items, replies, strict=True)]
