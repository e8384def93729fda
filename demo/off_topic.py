"""Questions the text demo cannot answer, from single characters to long stories; the reply is always the refusal."""

import random

from demo.adverts import draw_item
from demo.phrase_files import load
from demo.words import COLOURS, made_up_word, random_letters

_TEXTS = load("off_topic")
QUESTIONS, LINKS = _TEXTS["questions"], _TEXTS["links"]
FILLERS = load("fillers")
OTHER_LANGUAGES = (
    "Bonjour, comment ça va ?",
    "Wie geht es dir heute?",
    "¿Qué hora es?",
    "Ciao, come stai?",
    "Was ist die Hauptstadt?",
    "Où est la gare ?",
    "Quanto costa?",
    "Hola amigo",
    "Guten Morgen",
    "Je ne sais pas",
    "No entiendo nada",
    "你好吗",
    "こんにちは",
    "مرحبا",
    "Jak se máš?",
)
SYMBOLS = (
    "...",
    "???",
    "!!!",
    ":)",
    "?",
    ".",
    "-",
    "¿",
    "🙂",
    "👍",
    "🚲",
    "@@@",
    "***",
    "#",
    "1",
    "42",
    "0",
    "{}",
    "[]",
    "100500",
    "<br>",
)


def fill(rng: random.Random, template: str, lang: str) -> str:
    """Fill each {slot} of an off-topic template with a word of its kind, now and then with a made-up one."""
    words = {}
    for slot, options in FILLERS[lang].items():
        words[slot] = made_up_word(rng, lang) if rng.random() < 0.12 else rng.choice(options)
    words |= {"item": draw_item(rng, lang), "colour": rng.choice(COLOURS[lang])}
    while "{n}" in template:
        template = template.replace("{n}", str(rng.randint(0, 10 ** rng.randint(1, 4))), 1)
    for slot, word in words.items():
        template = template.replace("{" + slot + "}", word)
    return template


def sentence(rng: random.Random, lang: str) -> str:
    """Make up one sentence of four to sixteen phrases, with real words, made-up ones and numbers."""
    parts = []
    for _ in range(rng.randint(4, 16)):
        roll = rng.random()
        if roll < 0.45:
            parts.append(rng.choice(LINKS[lang]))
        elif roll < 0.8:
            parts.append(
                rng.choice(FILLERS[lang][rng.choice(("thing", "topic", "food", "name", "place", "quality", "action"))])
            )
        elif roll < 0.84:
            parts.append(draw_item(rng, lang))
        elif roll < 0.87:
            parts.append(rng.choice(COLOURS[lang]))
        elif roll < 0.9:
            parts.append(str(rng.randint(1, 3000)))
        else:
            parts.append(made_up_word(rng, lang))
    return " ".join(parts).capitalize() + rng.choice(".....!?")


def story(rng: random.Random, lang: str, sentences: int) -> str:
    """Return a long off-topic text, sometimes with a request that the demo cannot fulfil."""
    text = " ".join(sentence(rng, lang) for _ in range(sentences))
    roll = rng.random()
    if roll < 0.15:
        text = fill(rng, rng.choice(QUESTIONS[lang]), lang) + " " + text
    elif roll < 0.3:
        text += " " + fill(rng, rng.choice(QUESTIONS[lang]), lang)
    elif roll < 0.4:
        text = " ".join([rng.choice((sentence(rng, lang), text[:80], made_up_word(rng, lang)))] * rng.randint(3, 9))
    return text


def off_topic(rng: random.Random, lang: str) -> str:
    """Return one off-topic message in `lang`: mostly a question, sometimes a story, a single word or noise."""
    roll = rng.random()
    if roll < 0.72:
        return fill(rng, rng.choice(QUESTIONS[lang]), lang)
    if roll < 0.86:
        return sentence(rng, lang)
    if roll < 0.89:
        return story(rng, lang, rng.randint(2, 5))
    if roll < 0.95:
        return (
            rng.choice((made_up_word, random_letters))(rng, lang)
            if rng.random() < 0.6
            else rng.choice(FILLERS[lang]["thing"])
        )
    return (
        rng.choice(OTHER_LANGUAGES + SYMBOLS)
        if lang == "en"
        else "".join(rng.choice("фывапролджэ ") for _ in range(8)).strip() or "а"
    )
