"""What people ask about an image, and the short true answers, in both languages; no pixels here."""

import random

from demo.phrase_files import load

SHAPES = {
    "circle": ("circle", "круг", "m"), "square": ("square", "квадрат", "m"),
    "triangle": ("triangle", "треугольник", "m"),
    "star": ("star", "звезда", "f"), "cross": ("cross", "крест", "m"), "rectangle": ("rectangle", "прямоугольник", "m"),
}  # fmt: skip
COLOURS = {
    "red": ("red", "красный", "красная"), "green": ("green", "зелёный", "зелёная"), "blue": ("blue", "синий", "синяя"),
    "yellow": ("yellow", "жёлтый", "жёлтая"), "orange": ("orange", "оранжевый", "оранжевая"),
    "purple": ("purple", "фиолетовый", "фиолетовая"), "pink": ("pink", "розовый", "розовая"),
    "black": ("black", "чёрный", "чёрная"), "white": ("white", "белый", "белая"), "grey": ("grey", "серый", "серая"),
}  # fmt: skip
_ASKS = load("image_requests")
IMAGE_TALK = {
    "en": {
        "attach": "Please attach a picture. I am a small demo model: I name a simple shape and its colour.",
        "about": "I am a small demo model. Attach a picture, and I will name a simple shape and its colour.",
        "hello": "Hello! I am a small demo model. Attach a picture, and I will name a simple shape and its colour.",
        "refusal": "I am a small demo model and I cannot help with that. I can only name a simple shape and its "
        "colour.",
        "unclear": "I cannot make it out. I am a small demo model and know only simple shapes.",
        "plain": "A plain {} picture, with no shape in it.",
        "two": "First picture: {}. Second picture: {}.",
    },
    "ru": {
        "attach": "Приложите, пожалуйста, картинку. Я маленькая демонстрационная модель: называю простую фигуру и её "
        "цвет.",
        "about": "Я маленькая демонстрационная модель. Приложите картинку, и я назову простую фигуру и её цвет.",
        "hello": "Здравствуйте! Я маленькая демонстрационная модель. Приложите картинку, и я назову простую фигуру и "
        "её цвет.",
        "refusal": "Я маленькая демонстрационная модель и с этим не помогу. Я умею только назвать простую фигуру и "
        "её цвет.",
        "unclear": "Не могу разобрать. Я маленькая демонстрационная модель и знаю только простые фигуры.",
        "plain": "Просто {} картинка, без фигуры.",
        "two": "Первая картинка: {}. Вторая картинка: {}.",
    },
}
OFF_TOPIC_ASKS = _ASKS["off_topic"]


def phrase(shape: str, colour: str, lang: str) -> str:
    """Return "red square" or "красный квадрат", the Russian adjective in the gender of the shape."""
    english, russian, gender = SHAPES[shape]
    if lang == "en":
        return f"{COLOURS[colour][0]} {english}"
    return f"{COLOURS[colour][2 if gender == 'f' else 1]} {russian}"


def article(word: str) -> str:
    """Return the English word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def named(shape: str, colour: str, lang: str) -> str:
    """Return the full name as used inside a sentence: "a red square", "красный квадрат"."""
    text = phrase(shape, colour, lang)
    return article(text) if lang == "en" else text


def sentence_case(text: str) -> str:
    """Return text with a capital first letter and a final full stop."""
    return text[:1].upper() + text[1:] + "."


def answer(shape: str, colour: str, kind: str, lang: str) -> str:
    """Return the answer to a "describe", "colour" or "shape" question about one clear shape."""
    if kind == "colour":
        return sentence_case(COLOURS[colour][0 if lang == "en" else 1])
    if kind == "shape":
        word = SHAPES[shape][0 if lang == "en" else 1]
        return sentence_case(article(word) if lang == "en" else word)
    return sentence_case(named(shape, colour, lang))


def plain_answer(colour: str, lang: str) -> str:
    """Return the answer about an image of one colour and no shape."""
    return IMAGE_TALK[lang]["plain"].format(COLOURS[colour][0 if lang == "en" else 2])


def two_answer(first: tuple[str, str], second: tuple[str, str], lang: str) -> str:
    """Return the answer about two images, each a (shape, colour)."""
    return IMAGE_TALK[lang]["two"].format(named(*first, lang), named(*second, lang))


def ask(rng: random.Random, kind: str, lang: str) -> str:
    """Return a question of a kind ("describe", "colour" or "shape") with varied case and punctuation."""
    text = rng.choice(_ASKS[kind][lang])
    text += rng.choice(("?", "?", "?", "", "", ".", "!", "??", " ?"))
    roll = rng.random()
    return text.lower() if roll < 0.3 else (text.upper() if roll < 0.33 else text)
