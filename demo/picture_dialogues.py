"""Training dialogues about pictures: which pictures, which questions, which answers; seeded and endless."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from demo import picture_questions as questions
from demo import small_talk
from demo.held_out import MESSAGES, normalised
from demo.off_topic import QUESTIONS, fill
from demo.picture_data import TRAINING_SEEDS, Picture, draw_picture

KINDS = ("one", "two", "none")
REGIMES = ("shape", "plain", "unclear", "grey")
REGIME_WEIGHTS = (0.74, 0.06, 0.15, 0.05)
ASKS = ("describe", "colour", "shape", "refuse")
ASK_WEIGHTS = (0.52, 0.2, 0.2, 0.08)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.|You are Avision. You describe pictures.|Answer briefly.|You are an image assistant "
    "of Avito.|"
    "Ты полезный помощник.|Ты Avision, ты описываешь картинки.|Отвечай кратко.|Ты помощник Авито. Отвечай на языке "
    "пользователя."
).split("|")
UNUSABLE = (
    "picture", "colour", "image", "What", "Why?", "How?", "Tell me more", "Continue", "картин", "фото", "цвет",
    "Что", "Продолжай", "Расскажи ещё", "Как?", "Почему?", "Can you see", "Name a", "Guess", "Really", "Правда",
)  # fmt: skip


ABOUT_ASKS = 2
YES_NO = {
    "en": (
        "Is it a circle",
        "Is it a square",
        "Is this a triangle",
        "Is it red",
        "Is this blue",
        "Is it a star",
        "Is it a cat",
    ),
    "ru": ("Это круг", "Это квадрат", "Это треугольник", "Он красный", "Это синий цвет", "Это звезда", "Это кот"),
}


@dataclass(frozen=True)
class Mixture:
    """What is drawn: a share `easy` of the shapes are large, the others of one of `rest`; `kinds` weighs KINDS."""

    easy: float = 0.0
    rest: tuple[str, ...] = ("small", "trained")
    kinds: tuple[float, float, float] = (0.86, 0.07, 0.07)


@dataclass
class PictureDialogue:
    """Messages in chat form (content as parts), the pictures in their order and their seeds."""

    messages: list[dict[str, object]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)

    def add(self, parts: list[dict[str, str]], reply: str) -> None:
        """Add one turn."""
        self.messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": reply}]


def usable_questions(lang: str) -> list[str]:
    """Return the off-topic templates that are no question about a picture."""
    return [text for text in QUESTIONS[lang] if not any(mark in text for mark in UNUSABLE)]


DECLINED = {lang: usable_questions(lang) for lang in ("en", "ru")}


def text_part(text: str) -> dict[str, str]:
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def decline_question(rng: random.Random, lang: str) -> str:
    """Return something the picture demo cannot do; held-out messages are skipped."""
    while True:
        if rng.random() < 0.3:
            text = rng.choice(questions.PICTURE_LISTING[lang].split("|")) + rng.choice(("", "?", "."))
        else:
            text = fill(rng, rng.choice(DECLINED[lang]), lang)
        if normalised(text) not in MESSAGES:
            return text


def talk_question(rng: random.Random, lang: str, number: int) -> str:
    """Return a greeting or a question about the demo, from the given row of the small talk."""
    text = rng.choice(small_talk.SMALL_TALK[lang][number][1].split("|")) + rng.choice(("", "?", "!", "."))
    return text.lower() if rng.random() < 0.3 else text


def reply_about(picture: Picture, kind: str, lang: str) -> str:
    """Return the true answer about one picture."""
    if picture.kind == "unclear":
        return questions.PICTURE_TALK[lang]["unclear"]
    if picture.kind == "plain":
        return questions.plain_answer(picture.colour, lang)
    return questions.answer(picture.shape, picture.colour, kind, lang)


def draw_training_picture(rng: random.Random, mixture: Mixture, dialogue: PictureDialogue, regime: str = "") -> Picture:
    """Draw a picture of a training seed."""
    regime = regime or rng.choices(REGIMES, weights=REGIME_WEIGHTS)[0]
    if regime == "shape":
        regime = rng.choice(mixture.rest) if rng.random() >= mixture.easy else "easy"
    seed = rng.randrange(TRAINING_SEEDS)
    dialogue.seeds.append(f"{regime}:{seed}")
    picture = draw_picture(seed, regime)
    dialogue.pictures.append(picture)
    return picture


def add_one(rng: random.Random, dialogue: PictureDialogue, lang: str, mixture: Mixture) -> None:
    """Add one picture with one to three questions about it; an empty question is answered in English."""
    picture = draw_training_picture(rng, mixture, dialogue)
    for turn in range(rng.choices((1, 2, 3), weights=(0.72, 0.18, 0.10))[0]):
        kind = rng.choices(ASKS, weights=ASK_WEIGHTS)[0]
        if kind == "refuse" and rng.random() < 0.25:
            text, reply = talk_question(rng, lang, ABOUT_ASKS), questions.PICTURE_TALK[lang]["about"]
        elif kind == "refuse":
            text, reply = decline_question(rng, lang), questions.PICTURE_TALK[lang]["refusal"]
        elif kind == "describe" and rng.random() < 0.08:
            text, reply = rng.choice(YES_NO[lang]) + "?", reply_about(picture, kind, lang)
        else:
            text, reply = questions.ask(rng, kind, lang), reply_about(picture, kind, lang)
        parts = [text_part(text)]
        if turn == 0:
            image = {"type": "image"}
            if rng.random() < 0.02:
                parts, reply = [image], reply_about(picture, "describe", "en")
            else:
                parts = [*parts, image] if rng.random() < 0.15 else [image, *parts]
        dialogue.add(parts, reply)
        if rng.random() < 0.08:
            lang = "ru" if lang == "en" else "en"


def add_two(rng: random.Random, dialogue: PictureDialogue, lang: str, mixture: Mixture) -> None:
    """Add two pictures, either in one message or in two turns."""
    first, second = (draw_training_picture(rng, mixture, dialogue, "shape") for _ in range(2))
    image = {"type": "image"}
    if rng.random() < 0.3:
        for picture in (first, second):
            kind = rng.choice(("describe", "colour", "shape"))
            dialogue.add([image, text_part(questions.ask(rng, kind, lang))], reply_about(picture, kind, lang))
        return
    text = (
        questions.ask(rng, "describe", lang)
        if rng.random() < 0.6
        else rng.choice(TWO_ASKS[lang]) + rng.choice(("?", ""))
    )
    parts = [image, image, text_part(text)] if rng.random() < 0.85 else [text_part(text), image, image]
    dialogue.add(parts, questions.two_answer((first.shape, first.colour), (second.shape, second.colour), lang))


TWO_ASKS = {
    "en": (
        "What is in the pictures",
        "Describe both pictures",
        "What are these",
        "Compare the pictures",
        "Describe the images",
    ),
    "ru": ("Что на картинках", "Опиши обе картинки", "Что это такое", "Сравни картинки", "Опиши изображения"),
}


def add_none(rng: random.Random, dialogue: PictureDialogue, lang: str) -> None:
    """Add a turn without a picture: ask for one, greet, tell what the demo does, or decline."""
    talk = questions.PICTURE_TALK[lang]
    roll = rng.random()
    if roll < 0.4:
        text, reply = questions.ask(rng, rng.choice(("describe", "colour", "shape")), lang), talk["attach"]
    elif roll < 0.7:
        name, number = rng.choice((("hello", 0), ("hello", 1), ("about", ABOUT_ASKS)))
        text, reply = talk_question(rng, lang, number), talk[name]
    else:
        text, reply = decline_question(rng, lang), talk["refusal"]
    dialogue.add([text_part(text)], reply)


def make_dialogue(rng: random.Random, mixture: Mixture) -> PictureDialogue:
    """Make one dialogue."""
    dialogue = PictureDialogue()
    if rng.random() < 0.2:
        dialogue.messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    lang = rng.choice(("en", "ru"))
    kind = rng.choices(KINDS, weights=mixture.kinds)[0]
    if kind == "one":
        add_one(rng, dialogue, lang, mixture)
    elif kind == "two":
        add_two(rng, dialogue, lang, mixture)
    else:
        add_none(rng, dialogue, lang)
    return dialogue


def dialogue_stream(seed: int, mixture: Mixture) -> Iterator[PictureDialogue]:
    """Yield dialogues without end; the same seed and mixture yield the same ones."""
    rng = random.Random(seed)
    while True:
        yield make_dialogue(rng, mixture)
