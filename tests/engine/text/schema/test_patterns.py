"""Patterns of ECMA 262 in the syntax of the grammar library, compared with two other engines."""

import re

import pytest
import regress

from engine.text.schema.formats import FORMATS
from engine.text.schema.patterns import Untranslatable, any_but, conjuncts, literally, translate
from engine.text.schema.probe import Satisfiability, matches, satisfiability, tried

TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "a-b",
    "A",
    "я",
    "1",
    "٣",
    "_",
    " ",
    "\u00a0",
    "\ufeff",
    "\n",
    "a\nb",
    "\r",
    "\u2028",
    "\x1c",
]
TEXTS += [
    "[",
    "]",
    "{x}",
    "a{,2}",
    "\\",
    "/",
    "&",
    "--",
    "~",
    "^",
    "$",
    "\b",
    "\x00",
    "\x01",
    "€",
    "😀",
    "q",
    "#",
    "aaa",
]


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "^a",
            "b$",
            "^$",
            "a|b",
            "^a|b$",
            "(?:a)+",
            "(?<n>a)b?",
            "a{2,}",
            "a{1,2}?",
            "^a{,2}$",
            "^{x}$",
            "a.b",
            "^.$",
        ),
        *(r"^\w+$", r"^\W$", r"^\d$", r"^\D$", r"^\s$", r"^\S$", r"^[\w.-]+$", r"^[^\w]$", r"^[^\s]$", r"^[\D]$"),
        *(r"^[^\D]$", r"^[^\S]$", r"^[\W]$", r"^[^\W]$", "^[[]$", "^[]$", "^[^]$", "^[a&&b]$", "^[+--]$", "^[~~]$"),
        *(r"^[\b]$", r"^\cA$", r"^\0$", r"^\x01$", r"^\u0041$", r"^\u{1F600}$", r"^\ud83d\ude00$", r"^[\u{1F600}a]$"),
        *(r"^\/$", r"^[\]\\^-]$", r"^\p{L}+$", r"^[^\p{L}]$", r"^\P{L}$", "#", "^ $", "€", "^[a-]$", r"^[\d-x]$"),
    ],
)
def test_a_text_matches_as_in_ecma_262(pattern):
    """What we match, ECMA 262 matches; the rest are characters that readers see differently."""
    ours, theirs = (
        translate(pattern),
        regress.Regex(pattern, "u" if "\\u{" in pattern or "\\p" in pattern.lower() else ""),
    )
    assert satisfiability({"type": "string", "pattern": ours}) in (Satisfiability.FINE, Satisfiability.EMPTY)
    assert [text for text in TEXTS if matches(ours, text) and not theirs.find(text)] == []
    disputed = {"\u00a0", "\ufeff", "\x1c", "٣", "я", "\u2028"}
    assert {text for text in TEXTS if theirs.find(text) and not matches(ours, text)} <= disputed


@pytest.mark.parametrize("pattern", [r"^\w+$", r"^\D$", r"^\W$", r"^\S$", r"^[^\d]$", r"^[^\s]$", r"^\s$", r"^[\S]$"])
def test_a_class_is_one_that_python_agrees_with(pattern):
    """Programs check answers with Python's `re` too, whose classes know Unicode."""
    assert [text for text in TEXTS if matches(translate(pattern), text) and not re.search(pattern, text)] == []


@pytest.mark.parametrize(
    "pattern", ["(?=a)", "(?!a)", "(?<=a)b", "(?i)a", r"(a)\1", r"\bfoo", r"\k<n>", r"\Z", "[b-a]"]
)
def test_what_has_no_equivalent_is_told(pattern):
    """Before anything is compiled."""
    with pytest.raises(Untranslatable):
        translate(pattern)


AHEAD = [
    "^(?=a)",
    "^(?=.*b)(?=.*a).{2,}$",
    r"^(?!\s*$).+",
    "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$",
    "^(?![ab]+$)",
    r"^(?!\d*$)(?=.a)",
]
NUMBERS = ["", "-", "+.", "-1", "0.5", ".", "12", "a1", "1a", " ", "  ", " a", "aa", "ba", "bab"]


@pytest.mark.parametrize("pattern", AHEAD)
def test_look_ahead_at_the_beginning_is_a_condition_of_its_own(pattern):
    """As programs write it for passwords, for what is not blank, and for decimal numbers."""
    ours, theirs = conjuncts(pattern), regress.Regex(pattern)
    texts = {*TEXTS, *NUMBERS} - {"\u00a0", "\ufeff", "\x1c", "٣"}
    matching = {text for text in texts if all(matches(one, text) for one in ours)}
    assert matching == {text for text in texts if theirs.find(text)}


@pytest.mark.parametrize("pattern", ["^(?!ab)", "^(?=a)b|c", "^(?!a*)", "a(?=b)", "^(?=(a)", "^(?![a]*$)(?<=a)"])
def test_other_look_ahead_is_told(pattern):
    """It says more than patterns can that a text matches all."""
    with pytest.raises(Untranslatable):
        conjuncts(pattern)


@pytest.mark.parametrize("times", ["*", "+", "?", "{0}", "{0,1}", "{2}", "{1,}", "*?"])
@pytest.mark.parametrize("place", ["^(?=a)", "^(?![ab]*$)", "^(?=a)(?=b)", "^", "a$", "(?:^"])
def test_a_condition_or_an_end_that_is_repeated_is_told(place, times):
    """Readers disagree about it; none takes the number for the rest of the pattern."""
    with pytest.raises(Untranslatable, match="nothing to repeat"):
        conjuncts(f"{place}{times}b")


@pytest.mark.parametrize("pattern", ["^(?=a)a{2}$", "^(?=a)(?:a|b)*$", r"^(?=.)\{0}$", "^[$^]*$", r"^\^*\$?$", "^{x}$"])
def test_other_repetitions_beside_conditions_and_ends_are_followed(pattern):
    """Of what stands there itself."""
    texts = {*TEXTS, "aa", "aab", "{0}", "^^$"} - {"\u00a0", "\ufeff", "\x1c", "٣"}
    matching = {text for text in texts if all(matches(one, text) for one in conjuncts(pattern))}
    assert matching
    assert matching == {text for text in texts if regress.Regex(pattern).find(text)}


@pytest.mark.parametrize("pattern", ["[a", r"[\d", "\\", r"\ud83d", r"[\ude00]", r"\u{110000}"])
def test_a_broken_pattern_is_told(pattern):
    """Half a class, an escape of nothing, and half a character."""
    with pytest.raises(Untranslatable):
        translate(pattern)


@pytest.mark.parametrize("texts", [{""}, {"a"}, {"a", "ab", "b"}, {"^$", "[x]\n"}, {"<|im_end|>", "<|im"}, {"", "я"}])
def test_all_texts_but_some(texts):
    """The complement is exact."""
    pattern = any_but(frozenset(texts))
    others = [*TEXTS, *(text + "x" for text in texts), *(text[:-1] for text in texts), "<|im_"]
    assert [text for text in {*others, *texts} if matches(pattern, text)] == [
        t for t in {*others, *texts} if t not in texts
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_can_be_a_pattern(text):
    """Of itself and of nothing else."""
    assert [other for other in TEXTS if matches(f"^(?:{literally(text)})$", other)] == [text]


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "(a|a)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "^((a{1,100}){1,100}){1,100}$"]
)
def test_matching_takes_time_in_proportion_to_the_text(pattern):
    """No pattern backtracks; one that is too hard is told when it is tried."""
    assert not matches(pattern, "a" * 3000 + "!")
    assert tried({"type": "string", "pattern": pattern}) in Satisfiability


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("^a+$", True), ("b", False), ("[^\\x{0}-\\x{10ffff}]", False), ("a[ab]{200}$", None), ("(", None)],
)
def test_what_is_too_hard_to_match_is_neither_a_match_nor_none(pattern, found):
    """The library gives up before the end of the text, or before its beginning."""
    assert matches(pattern, "a" * 5000) is found


FORMAT_VALUES = {
    "date": (
        ["2024-02-29", "1999-12-31"],
        ["2023-02-29", "2024-13-01", "0000-01-01", "2024-04-31", "1900-02-29", "2024-1-1"],
    ),
    "time": (["23:59:59Z", "00:00:00.5+03:00"], ["23:59:60Z", "24:00:00Z", "12:00", "12:00:00"]),
    "date-time": (["2024-02-29T12:00:00Z"], ["2024-02-29T12:59:60Z", "2024-02-29 12:00:00Z", "2024-02-29T12:00:00"]),
    "duration": (["P1Y2M3DT4H5M6S", "P3W", "PT1S"], ["P", "PT", "1Y", "P1S", "P1Y2W"]),
    "email": (["a.b+c@example.com"], ["a", "@b", "a@", ".a@b.c", "a..b@c.d"]),
    "hostname": (["a-b.example"], ["-a", "a-", "a..b", "a_b", ""]),
    "ipv4": (["127.0.0.1", "255.255.255.255"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
    "ipv6": (
        ["::", "::1", "1::", "fe80::1:2", "1:2:3:4:5:6:7:8"],
        ["1:2:3", ":::", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"],
    ),
    "uuid": (
        ["123e4567-e89b-12d3-a456-426614174000"],
        ["123e4567e89b12d3a456426614174000", "x"],  # pragma: allowlist secret
    ),
    "uri": (["https://example.com/a?b=c#d", "urn:isbn:1"], ["/a", "a b:c", "://x", ""]),
    "uri-reference": (["/a/b?c", "#x", ""], ["a b", "\\"]),
    "json-pointer": (["", "/a~0b/~1"], ["a", "/~2"]),
    "relative-json-pointer": (["0#", "1/a"], ["/a", "01"]),
}


@pytest.mark.parametrize("name", FORMAT_VALUES)
def test_values_of_a_format_are_valid(name):
    """And what is none cannot be made."""
    right, wrong = FORMAT_VALUES[name]
    assert all(matches(FORMATS[name], text) for text in right)
    assert not any(matches(FORMATS[name], text) for text in wrong)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_generates_is_valid(answers, name):
    """For a library that checks formats, in whatever way the model writes them."""
    import jsonschema_rs

    check = jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid
    values = answers.of({"type": "string", "format": name}, most=200)
    assert values
    assert [value for value in values if not check(value)] == []
