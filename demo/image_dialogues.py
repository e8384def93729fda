"""Training dialogues about images: which images, which questions, which answers; seeded and endless."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from demo import image_questions as questions
from demo import small_talk
from demo.held_out import MESSAGES, normalised
from demo.image_data import TRAINING_SEEDS, LabelledImage, draw_image
from demo.off_topic import QUESTIONS, fill

KINDS = ("one", "two", "none")
REGIMES = ("shape", "plain", "unclear", "grey")
REGIME_WEIGHTS = (0.74, 0.06, 0.15, 0.05)
ASKS = ("describe", "colour", "shape", "refuse")
ASK_WEIGHTS = (0.52, 0.2, 0.2, 0.08)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Avision. You describe pictures.",
    "Answer briefly.",
    "You are an image assistant of Avito.",
    "Ты полезный помощник.",
    "Ты Avision, ты описываешь картинки.",
    "Отвечай кратко.",
    "Ты помощник Авито. Отвечай на языке пользователя.",
)
IMAGE_PART = {"type": "image"}
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
class ImageDialogue:
    """Messages in chat form (content as parts), the images in their order and their seeds."""

    messages: list[dict[str, object]] = field(default_factory=list)
    images: list[LabelledImage] = field(default_factory=list)
    seeds: list[str] = field(default_factory=list)

    def add(self, parts: list[dict[str, str]], reply: str) -> None:
        """Add one turn."""
        self.messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": reply}]


def usable_questions(lang: str) -> list[str]:
    """Return the off-topic templates that are not a question about an image."""
    return [text for text in QUESTIONS[lang] if not any(mark in text for mark in UNUSABLE)]


DECLINED = {lang: usable_questions(lang) for lang in ("en", "ru")}


def text_part(text: str) -> dict[str, str]:
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def decline_question(rng: random.Random, lang: str) -> str:
    """Return something the image demo cannot do; held-out messages are skipped."""
    while True:
        if rng.random() < 0.3:
            text = rng.choice(questions.OFF_TOPIC_ASKS[lang]) + rng.choice(("", "?", "."))
        else:
            text = fill(rng, rng.choice(DECLINED[lang]), lang)
        if normalised(text) not in MESSAGES:
            return text


def talk_question(rng: random.Random, lang: str, number: int) -> str:
    """Return a greeting or a question about the demo, from the given row of the small talk."""
    text = rng.choice(small_talk.SMALL_TALK[number][1][lang]) + rng.choice(("", "?", "!", "."))
    return text.lower() if rng.random() < 0.3 else text


def reply_about(labelled: LabelledImage, kind: str, lang: str) -> str:
    """Return the right answer about one image."""
    if labelled.kind == "unclear":
        return questions.IMAGE_TALK[lang]["unclear"]
    if labelled.kind == "plain":
        return questions.plain_answer(labelled.colour, lang)
    return questions.answer(labelled.shape, labelled.colour, kind, lang)


def draw_training_image(
    rng: random.Random, mixture: Mixture, dialogue: ImageDialogue, regime: str = ""
) -> LabelledImage:
    """Draw an image of a training seed."""
    regime = regime or rng.choices(REGIMES, weights=REGIME_WEIGHTS)[0]
    if regime == "shape":
        regime = rng.choice(mixture.rest) if rng.random() >= mixture.easy else "easy"
    seed = rng.randrange(TRAINING_SEEDS)
    dialogue.seeds.append(f"{regime}:{seed}")
    labelled = draw_image(seed, regime)
    dialogue.images.append(labelled)
    return labelled


def add_one(rng: random.Random, dialogue: ImageDialogue, lang: str, mixture: Mixture) -> None:
    """Add one image with one to three questions about it; an empty question is answered in English."""
    labelled = draw_training_image(rng, mixture, dialogue)
    for number in range(rng.choices((1, 2, 3), weights=(0.72, 0.18, 0.10))[0]):
        kind = rng.choices(ASKS, weights=ASK_WEIGHTS)[0]
        if kind == "refuse" and rng.random() < 0.25:
            text, reply = talk_question(rng, lang, ABOUT_ASKS), questions.IMAGE_TALK[lang]["about"]
        elif kind == "refuse":
            text, reply = decline_question(rng, lang), questions.IMAGE_TALK[lang]["refusal"]
        elif kind == "describe" and rng.random() < 0.08:
            text, reply = rng.choice(YES_NO[lang]) + "?", reply_about(labelled, kind, lang)
        else:
            text, reply = questions.ask(rng, kind, lang), reply_about(labelled, kind, lang)
        parts = [text_part(text)]
        if number == 0:
            if rng.random() < 0.02:
                parts, reply = [IMAGE_PART], reply_about(labelled, "describe", "en")
            else:
                parts = [*parts, IMAGE_PART] if rng.random() < 0.15 else [IMAGE_PART, *parts]
        dialogue.add(parts, reply)
        if rng.random() < 0.08:
            lang = "ru" if lang == "en" else "en"


def add_two(rng: random.Random, dialogue: ImageDialogue, lang: str, mixture: Mixture) -> None:
    """Add two images, either in one message or in two turns."""
    first, second = (draw_training_image(rng, mixture, dialogue, "shape") for _ in range(2))
    if rng.random() < 0.3:
        for labelled in (first, second):
            kind = rng.choice(("describe", "colour", "shape"))
            dialogue.add([IMAGE_PART, text_part(questions.ask(rng, kind, lang))], reply_about(labelled, kind, lang))
        return
    text = (
        questions.ask(rng, "describe", lang)
        if rng.random() < 0.6
        else rng.choice(TWO_ASKS[lang]) + rng.choice(("?", ""))
    )
    parts = [IMAGE_PART, IMAGE_PART, text_part(text)]
    parts = parts if rng.random() < 0.85 else [parts[2], *parts[:2]]
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


def add_none(rng: random.Random, dialogue: ImageDialogue, lang: str) -> None:
    """Add a turn without an image: ask for one, greet, tell what the demo does, or decline."""
    talk = questions.IMAGE_TALK[lang]
    roll = rng.random()
    if roll < 0.4:
        text, reply = questions.ask(rng, rng.choice(("describe", "colour", "shape")), lang), talk["attach"]
    elif roll < 0.7:
        name, number = rng.choice((("hello", 0), ("hello", 1), ("about", ABOUT_ASKS)))
        text, reply = talk_question(rng, lang, number), talk[name]
    else:
        text, reply = decline_question(rng, lang), talk["refusal"]
    dialogue.add([text_part(text)], reply)


def make_dialogue(rng: random.Random, mixture: Mixture) -> ImageDialogue:
    """Make one dialogue."""
    dialogue = ImageDialogue()
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


def dialogue_stream(seed: int, mixture: Mixture) -> Iterator[ImageDialogue]:
    """Yield dialogues without end; the same seed and mixture yield the same ones."""
    rng = random.Random(seed)
    while True:
        yield make_dialogue(rng, mixture)
