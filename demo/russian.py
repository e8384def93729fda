"""Just enough Russian grammar for a known item in an oblique case, as in "объявление о продаже велосипеда"."""

IRREGULAR_GENITIVE = {
    "котёнок": "котёнка", "щенок": "щенка", "молоток": "молотка", "поводок": "поводка", "ковёр": "ковра",
    "радио": "радио", "пальто": "пальто", "автомобиль": "автомобиля", "словарь": "словаря",
    "наушники": "наушников", "сапоги": "сапог", "туфли": "туфель", "джинсы": "джинсов", "кроссовки": "кроссовок",
    "перчатки": "перчаток", "брюки": "брюк", "ботинки": "ботинок", "лыжи": "лыж", "коньки": "коньков",
    "гантели": "гантелей", "ролики": "роликов", "шторы": "штор", "шахматы": "шахмат", "барабаны": "барабанов",
    "грабли": "граблей", "качели": "качелей", "марки": "марок", "мишка": "мишки",
}  # fmt: skip
ANIMATE = frozenset("котёнок щенок попугай хомяк кролик".split())
HUSH = "гкхжшщч"
ADJECTIVE_GENITIVE = {
    "ый": "ого",
    "ой": "ого",
    "ий": "его",
    "ое": "ого",
    "ее": "его",
    "ая": "ой",
    "яя": "ей",
    "ые": "ых",
    "ие": "их",
}
ADJECTIVE_ENDINGS = {"m": ("ый", "ой", "ий"), "f": ("ая", "яя"), "n": ("ое", "ее"), "p": ("ые", "ие")}


def gender(noun: str) -> str:
    """Return "m", "f", "n" or "p" (plural) of a noun in the nominative, by its ending."""
    if noun in ("автомобиль", "словарь"):
        return "m"
    last = noun[-1]
    return {"а": "f", "я": "f", "ь": "f", "о": "n", "е": "n", "ы": "p", "и": "p"}.get(last, "m")


def noun_genitive(noun: str) -> str | None:
    """Return the genitive of a one-word noun, or None if the rules do not cover it."""
    if noun in IRREGULAR_GENITIVE:
        return IRREGULAR_GENITIVE[noun]
    stem, last = noun[:-1], noun[-1]
    if last == "а":
        return stem + ("и" if stem[-1] in HUSH else "ы")
    if last in "яь":
        return stem + "и"
    if last == "о" or noun.endswith("ье"):
        return stem + ("а" if last == "о" else "я")
    if last == "й":
        return stem + "я"
    if last == "е":
        return stem + "я" if stem[-1] not in HUSH else stem + "а"
    return None if last in "ыи" or not last.isalpha() else noun + "а"


def noun_accusative(noun: str) -> str | None:
    """Return the accusative of a one-word noun, or None if the rules do not cover it."""
    if noun[-1] in "ая":
        return noun[:-1] + ("у" if noun[-1] == "а" else "ю")
    return noun_genitive(noun) if noun in ANIMATE else noun


def adjective_case(adjective: str, case: str, animate: bool = False) -> str | None:
    """Return a nominative adjective in "gen" or "acc", or None when it does not end like one."""
    ending = adjective[-2:]
    if ending not in ADJECTIVE_GENITIVE:
        return None
    if case == "acc" and not animate:
        return adjective[:-2] + {"ая": "ую", "яя": "юю"}.get(ending, ending)
    if ending == "ий" and adjective[-3] in HUSH:
        return adjective[:-2] + "ого"
    return adjective[:-2] + ADJECTIVE_GENITIVE[ending]


def inflect(item: str, case: str) -> str | None:
    """Return a one-word or adjective-noun item in "gen" or "acc", or None if the rules do not cover it."""
    words = item.split()
    if not 1 <= len(words) <= 2 or not all("а" <= letter.lower() <= "ё" for word in words for letter in word):
        return None
    noun = (noun_genitive if case == "gen" else noun_accusative)(words[-1])
    if len(words) == 1 or noun is None:
        return noun
    adjective = adjective_case(words[0], case, words[-1] in ANIMATE)
    return f"{adjective} {noun}" if adjective else None


def agrees(adjective: str, item: str) -> bool:
    """Return whether a nominative adjective has the gender and number of the item's last word."""
    return adjective.endswith(ADJECTIVE_ENDINGS[gender(item.split()[-1])])
