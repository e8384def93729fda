"""The Russian documents say what the English ones say: the same headings, commands, settings, links and figures."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAIRS = ("README", "QUICKSTART")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)]+)\)")
# Of sizes, counts and versions; Russian writes a decimal comma, and groups of digits with a space.
FIGURE = re.compile(r"\d+(?:[.,\u00a0 ]\d+)*")
CYRILLIC = re.compile(r"[а-яё]", re.IGNORECASE)


def text(name: str, end: str) -> str:
    return (ROOT / f"{name}{end}").read_text(encoding="utf-8")


def prose(document: str) -> str:
    """Return a document without its blocks of code and the targets of its links."""
    return LINK.sub("]", BLOCK.sub("", document))


def headings(document: str) -> list[int]:
    """Return the levels of the headings, in their order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", document), re.MULTILINE)]


def blocks(document: str) -> list[tuple[str, str]]:
    """Return the language and the lines of each block of code, without comments."""
    return [(language, re.sub(r" +#.*", "", code)) for language, code in BLOCK.findall(document)]


def anchors(document: str) -> list[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    names = re.findall(r"^#+ (.+)$", BLOCK.sub("", document), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", name).strip().lower().replace(" ", "-") for name in names]


def links(name: str, end: str) -> Counter[str]:
    """Return the targets of the links, those of the translated documents as the English ones, sections by number."""
    return Counter(_target(name, end, link) for link in LINK.findall(text(name, end)))


def _target(name: str, end: str, link: str) -> str:
    file, _, anchor = link.partition("#")
    pair = next((pair for pair in PAIRS if file in (f"{pair}.md", f"{pair}.ru.md")), name if not file else None)
    if pair is None:
        return link
    shown = text(pair, ".ru.md" if file.endswith(".ru.md") or (not file and end == ".ru.md") else ".md")
    return f"{pair} {anchors(shown).index(anchor) if anchor else ''}"


def figures(document: str) -> Counter[str]:
    """Return the numbers of the prose, in one notation."""
    return Counter(re.sub(r"\D", "", found) for found in FIGURE.findall(CODE.sub("", prose(document))))


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A document in English and in Russian."""
    return text(request.param, ".md"), text(request.param, ".ru.md")


def test_the_headings_are_the_same(pair: tuple[str, str]) -> None:
    """As many, in the same order and of the same levels."""
    english, russian = map(headings, pair)
    assert english == russian


def test_the_commands_are_the_same(pair: tuple[str, str]) -> None:
    """Each block of code, letter by letter but for its comments."""
    english, russian = map(blocks, pair)
    assert english == russian


def test_the_settings_and_names_are_the_same(pair: tuple[str, str]) -> None:
    """Whatever stands between backticks: settings, files, messages and options, as often."""
    english, russian = (Counter(CODE.findall(BLOCK.sub("", one))) for one in pair)
    names = {f"{name}{end}" for name in PAIRS for end in (".md", ".ru.md")}
    assert {k: v for k, v in english.items() if k not in names} == {k: v for k, v in russian.items() if k not in names}


def test_each_section_names_the_same_things(pair: tuple[str, str]) -> None:
    """A fact is in the section of the same number."""
    english, russian = (
        [sorted(CODE.findall(part)) for part in re.split(r"^## ", BLOCK.sub("", one), flags=re.MULTILINE)]
        for one in pair
    )
    assert english == russian


def test_the_tables_have_the_same_rows(pair: tuple[str, str]) -> None:
    """And cells."""
    english, russian = ([row.count("|") for row in one.splitlines() if row.startswith("|")] for one in pair)
    assert english == russian


def test_the_figures_are_the_same(pair: tuple[str, str]) -> None:
    """Sizes, counts and versions, whatever the notation of decimals and thousands."""
    english, russian = map(figures, pair)
    assert english == russian


@pytest.mark.parametrize("name", PAIRS)
def test_the_links_lead_to_the_same_places(name: str) -> None:
    """Those between the documents stay within the language, but for the one that changes it; no anchor is missing."""
    assert links(name, ".md") == links(name, ".ru.md")
    assert text(name, ".ru.md").count(f"({name}.md)") == text(name, ".md").count(f"({name}.ru.md)") == 1
    others = {f"{other}.md" for other in PAIRS} - {f"{name}.md"}
    assert not others & {link.partition("#")[0] for link in LINK.findall(text(name, ".ru.md"))}


def test_the_language_is_russian(pair: tuple[str, str]) -> None:
    """No paragraph was left in English."""
    for paragraph in re.split(r"\n\n", CODE.sub("", prose(pair[1]))):
        words = re.findall(r"[A-Za-zА-Яа-яё]{3,}", paragraph)
        assert len(words) < 12 or CYRILLIC.search(paragraph), paragraph


def test_each_language_leads_to_the_other_on_its_first_screen(pair: tuple[str, str]) -> None:
    """In the language that the reader looks for."""
    english, russian = ("\n".join(one.splitlines()[:6]) for one in pair)
    assert "[По-русски](" in english
    assert "[In English](" in russian
