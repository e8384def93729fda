"""What people ask about a picture, and the short true answers, in both languages; no pixels here."""

import random

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
DESCRIBE = {
    "en": (
        "What is in the picture|What is in this picture|What's in the picture|Describe the image|Describe this picture|"
        "Describe the picture|Describe this image|What do you see|What is this|What is it|What is shown here|What "
        "can you see|"
        "What does the picture show|Tell me what you see|What is on the picture|What is on the image|Describe it|"
        "Describe|"
        "Please describe the image|Please describe this photo|What is in the photo|What is in the image|Caption this "
        "image|"
        "Tell me about this picture|What have I uploaded|Can you describe the picture|Look at the picture and "
        "describe it|"
        "Write a caption|What is depicted here|Identify the object|Explain the picture|What object is this|Picture?|"
        "Describe what is in the image in detail|What do you see in this image|Which object is in the picture|And "
        "this one|"
        "Describe the photo|What's this|Hello, what is in the picture|Give a short description|What is drawn here|"
        "Name it|"
        "What shape and colour is it|Name the colour and the shape|Image description|Is this a picture of something"
    ).split("|"),
    "ru": (
        "Что на картинке|Что на этой картинке|Что изображено на картинке|Опиши изображение|Опиши картинку|Опиши эту "
        "картинку|"
        "Что ты видишь|Что это|Что это такое|Что здесь нарисовано|Что на изображении|Что на фото|Что изображено|Опиши|"
        "Опиши фото|Опиши, что на картинке|Что тут|Что здесь|Что показано на картинке|Расскажи, что на картинке|"
        "Опишите изображение|Опишите картинку|Что вы видите|Пожалуйста, опиши изображение|Дай описание картинки|"
        "Что на рисунке|Что нарисовано|Назови предмет|Что за предмет|Привет, что на картинке|Что видно на картинке|"
        "Подпиши картинку|Придумай подпись|Опиши рисунок|Что на снимке|Расскажи про картинку|Что я загрузил|А это что|"
        "Подробно опиши изображение|Посмотри на картинку и опиши её|Какой формы и какого цвета|Назови цвет и форму|"
        "Что находится на картинке|Что на этом фото|Что ты видишь на картинке|Опиши это изображение|Картинка"
    ).split("|"),
}
ASK_COLOUR = {
    "en": (
        "What colour is it|What color is it|Which colour is it|What is the colour|What is the color|Colour|Color|"
        "What colour is the shape|What color is the shape|What colour is the figure|Name the colour|Name the color|"
        "Tell me the colour|What is its colour|What is its color|And the colour|Which color is the object|"
        "What colour is the object|What color is this|What colour is this|What colour is in the picture|What colour "
        "do you see"
    ).split("|"),
    "ru": (
        "Какого цвета|Какого она цвета|Какого он цвета|Какой цвет|Какой это цвет|Какого цвета фигура|Какого цвета "
        "предмет|"
        "Назови цвет|Цвет|Какой цвет у фигуры|Скажи цвет|Какого это цвета|А цвет|Какой здесь цвет|Какого цвета эта "
        "фигура|"
        "Какой цвет на картинке|Определи цвет|Какого цвета то, что нарисовано|Цвет фигуры"
    ).split("|"),
}
ASK_SHAPE = {
    "en": (
        "What shape is it|What shape is this|Which shape is it|What is the shape|Shape|What figure is it|Name the "
        "shape|"
        "Which figure is this|What is its shape|What shape is in the picture|What shape do you see|And the shape|"
        "What geometric shape is this|Tell me the shape|What kind of shape is it|What form is it|What figure is this|"
        "Which shape is in the image|What shape is shown|Identify the shape"
    ).split("|"),
    "ru": (
        "Какая это фигура|Что за фигура|Какая фигура|Какая фигура на картинке|Назови фигуру|Какая тут фигура|Фигура|"
        "Какой формы|Какой формы предмет|Какая форма|Какая это форма|Определи фигуру|А фигура|Что это за фигура|"
        "Назови форму|"
        "Какая здесь фигура|Какая фигура изображена|Какой формы фигура|Какая геометрическая фигура|Скажи, какая это "
        "фигура"
    ).split("|"),
}
PICTURE_TALK = {
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
PICTURE_LISTING = {
    "en": "Write a listing|Write a poem about it|How much does it cost|Who drew it|Where was it made|Translate it|"
    "Draw a cat|Edit it",
    "ru": "Напиши объявление|Напиши стихи про неё|Сколько это стоит|Кто это нарисовал|Где это сделано|Переведи|"
    "Нарисуй кота|Исправь её",
}


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
    """Return the answer about a picture of one colour and no shape."""
    return PICTURE_TALK[lang]["plain"].format(COLOURS[colour][0 if lang == "en" else 2])


def two_answer(first: tuple[str, str], second: tuple[str, str], lang: str) -> str:
    """Return the answer about two pictures, each a (shape, colour)."""
    return PICTURE_TALK[lang]["two"].format(named(*first, lang), named(*second, lang))


def ask(rng: random.Random, kind: str, lang: str) -> str:
    """Return a question of a kind ("describe", "colour" or "shape") with varied case and punctuation."""
    text = rng.choice({"describe": DESCRIBE, "colour": ASK_COLOUR, "shape": ASK_SHAPE}[kind][lang])
    text += rng.choice(("?", "?", "?", "", "", ".", "!", "??", " ?"))
    roll = rng.random()
    return text.lower() if roll < 0.3 else (text.upper() if roll < 0.33 else text)
