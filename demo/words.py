"""The words the adverts are made of: items by category, colours, conditions, and made-up words to copy.

Everything here is plain data plus two small generators; nothing reads the clock or a global random state.
"""

import random

from demo.phrase_files import load

COLOURS_EN = (
    "red orange yellow green blue purple pink brown black white grey gray silver gold beige turquoise navy cream "
    "dark_blue light_blue dark_green bright_red light_grey maroon violet khaki burgundy multicoloured red_colour "
    "blue_color green_colour black_color white_colour"
)
COLOURS_RU_STEMS = (
    "красн-ый жёлт-ый желт-ый зелён-ый зелен-ый бел-ый чёрн-ый черн-ый сер-ый розов-ый оранжев-ый фиолетов-ый "
    "коричнев-ый бежев-ый голуб-ой золот-ой бордов-ый серебрист-ый бирюзов-ый сиренев-ый тёмно-сер-ый тёмно-зелён-ый "
    "светло-сер-ый ярко-красн-ый разноцветн-ый син-ий тёмно-син-ий темно-син-ий"
)
BRANDS = (
    "Samsung",
    "Sony",
    "LG",
    "Bosch",
    "Apple",
    "Xiaomi",
    "Nike",
    "Lenovo",
    "Philips",
    "IKEA",
    "Honda",
    "Toyota",
    "Canon",
    "Adidas",
    "Stels",
    "Asus",
)
RU_ENDINGS = {"ый": ("ый", "ая", "ое", "ые"), "ой": ("ой", "ая", "ое", "ые"), "ий": ("ий", "яя", "ее", "ие")}
ONSETS = {
    "en": "b c d f g h j k l m n p r s t v w z br cl cr dr fl gr pl pr qu sh sk sl sn sp st sw th tr ch wh".split(),
    "ru": "б в г д ж з к л м н п р с т ф х ц ч ш бр вр гл гр др зв кл кр пл пр св сл см ст тр хл шк щ".split(),
}
NUCLEI = {
    "en": "a e i o u a e i o u ai ea ee oo ou ie y io".split(),
    "ru": "а е и о у а е и о ы я ю ё э ай ой ей".split(),
}
CODAS = {
    "en": ["", "", "", *"n r l t s x m p d k g b ck ll nd nt rk st sh ng er on le".split()],
    "ru": ["", "", "", *"н р л т с к м п д в г б ч ш ль нт рк ст нь ка ник ец ок".split()],
}


def colour_words(lang: str) -> list[str]:
    """Return every colour word of `lang` (for Russian in all four endings)."""
    if lang == "en":
        return [word.replace("_", " ") for word in COLOURS_EN.split()]
    words = []
    for entry in COLOURS_RU_STEMS.split():
        stem, ending = entry.rsplit("-", 1)
        words += [stem + form for form in RU_ENDINGS[ending]]
        words.append(stem + ("его" if ending == "ий" else "ого") + " цвета")
    return words


def category_of(lang: str) -> dict[str, str]:
    """Return the category of every known item of `lang`."""
    return {item: category for category, items in load("items")[lang].items() for item in items}


ITEMS = {lang: sorted(category_of(lang)) for lang in ("en", "ru")}
COLOURS = {lang: sorted(set(colour_words(lang))) for lang in ("en", "ru")}
_WORDS = load("words")
CONDITIONS, DETAILS = _WORDS["conditions"], _WORDS["details"]


def common_word(rng: random.Random, lang: str) -> str:
    """Return an everyday word taken from the lists above, out of its context."""
    phrase = rng.choice((ITEMS[lang], CONDITIONS[lang], COLOURS[lang], DETAILS[lang]))
    return rng.choice(rng.choice(phrase).split())


def made_up_word(rng: random.Random, lang: str) -> str:
    """Make up a pronounceable word of one to four syllables, so that copying is learned and not a list of items."""
    count = rng.choices((1, 2, 3, 4), weights=(3, 5, 2, 1))[0]
    parts = [rng.choice(ONSETS[lang]) + rng.choice(NUCLEI[lang]) + rng.choice(CODAS[lang]) for _ in range(count)]
    word = "".join(parts)
    return word if rng.random() < 0.8 else rng.choice(NUCLEI[lang]) + word


def random_letters(rng: random.Random, lang: str) -> str:
    """Return 3 to 9 letters in no order at all: the hardest word to copy."""
    letters = "abcdefghijklmnopqrstuvwxyz" if lang == "en" else "абвгдежзийклмнопрстуфхцчшщыьэюя"
    return "".join(rng.choice(letters) for _ in range(rng.randint(3, 9)))
