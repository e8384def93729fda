"""Any bytes are a value or a typed refusal; long texts are counted before, and read as short ones are."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import routes.json_text
from engine.errors import PayloadTooLarge, ServiceError, ValidationError
from engine.text.images import TOO_LARGE
from routes.json_text import JsonLimits, check_beginning, read_json

FEW = JsonLimits(values=20, containers=10, text_bytes=400)
ENOUGH = JsonLimits(values=1000, containers=1000, text_bytes=10**6)

NO_UTF8 = (ValidationError, "The request body is not valid UTF-8.")
NO_JSON = (ValidationError, "The request body is not valid JSON.")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=30,
)
escaped = st.sampled_from(["\\n", '\\"', "\\\\", "\\/", "\\u0041", "\\ud83d\\ude00", "\\ud83d", "\\x", "\\u12", "é"])
fragments = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ",", ":", '"', '"a"', "1", "1.5", "1e999", "NaN", "null", " ", "\\", "data:", '"data":']
    )
    | escaped
    | texts,
    max_size=40,
).map("".join)


@pytest.fixture(autouse=True)
def long(monkeypatch):
    """Take every text for a long one, and every string of a few letters; search few bytes at once."""
    monkeypatch.setattr(routes.json_text, "FIND_BYTES", 2)
    monkeypatch.setattr(routes.json_text, "SHORT_TEXT", 0)
    monkeypatch.setattr(routes.json_text, "LONG_STRING", 3)


def outcome(text, limits=ENOUGH, read=read_json):
    """Return the value of a text, or the refusal."""
    try:
        return read(text, limits)
    except ServiceError as error:
        return type(error), str(error)


def as_short(text):
    """Return the outcome for a text that is parsed in one piece."""
    whole = routes.json_text.SHORT_TEXT, routes.json_text.LONG_STRING
    routes.json_text.SHORT_TEXT = 10**9
    try:
        return outcome(text)
    finally:
        routes.json_text.SHORT_TEXT, routes.json_text.LONG_STRING = whole


@given(values)
def test_values_are_read_as_the_library_reads_them(value):
    """With and without escapes."""
    for ascii_only in (True, False):
        assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode(), ENOUGH) == value


@settings(max_examples=300)
@given(fragments.map(lambda text: text.encode()) | st.binary(max_size=60))
@example(b'{"a": "\\\\ud83d\\ude00"}')
@example(b'["\\u12"34"]')
@example(b'["abcd\\')
@example(b'["data:\\')
@example('["data:\ufeff"]'.encode())
@example(b'\xef\xbb\xbf["abcdef"]')
@example(b'["abcdef\xff"]')
def test_any_bytes_are_a_value_or_a_refusal(text):
    """The same one whether strings are taken out or not, but for which of two mistakes is named."""
    one, other = outcome(text), as_short(text)
    assert repr(one) == repr(other) or {one, other} <= {NO_UTF8, NO_JSON}


@given(texts.filter(lambda text: len(text) > 3), st.integers(1, 2000))
def test_a_string_in_pieces_is_the_string(text, times):
    """No piece ends within a character, an escape or a surrogate pair."""
    for ascii_only in (True, False):
        encoded = json.dumps([text * times], ensure_ascii=ascii_only).encode()
        assert read_json(encoded, JsonLimits()) == [text * times]


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"1," * 30 + b"1]",
        b"[" + b"[]," * 12 + b"1]",
        b"[" + b"{}," * 12 + b"1]",
        b'{"a":"' + b"x" * 500 + b'"}',
        b'{"a":"' + b'\\"' * 500 + b'"}',
        b'{"a":"' + b"x" * 500,
        b'["data:", "' + b"x" * 500 + b'"]',
        b"[" + b",".join([b'"data:' + b"x" * 90 + b'"'] * 6) + b"]",
        b"[" + b",".join([b'{"data":"' + b"x" * 90 + b'"}'] * 6) + b"]",
        b" " * 500 + b"{}",
        b'""' * 100,
        b"[" * 500,
        b"1" * 500,
    ],
)
def test_a_text_beyond_its_limits_is_not_parsed(text, monkeypatch):
    """Values, containers, strings and bytes are counted before; what it holds costs nothing."""

    def parse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(routes.json_text.json, "loads", parse)
    monkeypatch.setattr(routes.json_text, "LONG_STRING", 100)
    assert outcome(text, FEW)[0] is PayloadTooLarge


@settings(max_examples=500)
@given(fragments.map(lambda text: text.encode() or b" "), st.integers(1, 12), st.integers(0, 100), st.data())
def test_a_beginning_is_refused_for_what_the_text_is_refused_for(text, times, text_bytes, data):
    """Whatever follows: with the same error."""
    text, limits = text * times, JsonLimits(values=8, containers=4, text_bytes=text_bytes)
    beginning = bytearray(text[: data.draw(st.integers(0, len(text)))])
    told = outcome(beginning, limits, check_beginning)
    assert told in (None, outcome(text, limits))


@pytest.mark.parametrize("size", [400, 900])
def test_a_beginning_beyond_the_limits_is_refused(size):
    """However much is missing."""
    with pytest.raises(PayloadTooLarge):
        check_beginning(bytearray(b'{"a":"' + b"x" * size), FEW)


def test_a_string_is_no_longer_than_an_image(monkeypatch):
    """The text of the largest image is read; one character more is refused before it is put together."""
    monkeypatch.setattr(routes.json_text, "MAX_STRING", 5000)
    image = "data:image/png;base64,".ljust(5000, "A")
    assert read_json(json.dumps([image]).encode(), FEW) == [image]
    assert read_json(json.dumps([image]).replace("/", "\\/").encode(), FEW) == [image]
    assert outcome(json.dumps([image + "A"]).encode(), FEW) == (PayloadTooLarge, str(TOO_LARGE))


def test_what_stands_in_strings_is_not_counted():
    """Commas and brackets of a text are no values; an image is no text."""
    text = "[{,:}]" * 60
    assert read_json(json.dumps({"a": text}).encode(), FEW) == {"a": text}
    image = "data:image/png;base64," + "A" * 5000
    assert read_json(json.dumps({"a": [[image]]}).encode(), FEW) == {"a": [[image]]}


@pytest.mark.parametrize("other", ["é", "\\u00e9", "\U0001f600", "\\ud83d\\ude00"])
@pytest.mark.parametrize("value", ['"data:{}"', '{{"data": "{}"}}'])
def test_what_is_no_ascii_is_no_image(value, other):
    """One such character makes a text four times as large; it is read as far as any other text, all together."""
    for length in (380, 500):
        text = value.format(length // 2 * "A" + other + length // 2 * "A").encode()
        assert (outcome(text, FEW)[0] is PayloadTooLarge) if length > 400 else (outcome(text, FEW) == as_short(text))
        image = text.replace(other.encode(), b"A" * 5000)
        assert outcome(image, FEW) == as_short(image)
    half = value.format(100 * "A" + other + 150 * "A")
    assert outcome(f"[{half}]".encode(), FEW) == as_short(f"[{half}]".encode())
    assert outcome(f"[{half},{half}]".encode(), FEW)[0] is PayloadTooLarge


@pytest.mark.parametrize("colon", [":", ": ", " :\n\t"])
def test_a_field_data_holds_an_image(colon):
    """In base64 alone, as Anthropic's clients send it; no other field does, and no value that merely says so."""
    long = "A" * 5000
    assert read_json(f'{{"data"{colon}"{long}"}}'.encode(), FEW) == {"data": long}
    check_beginning(bytearray(f'{{"data"{colon}"{long}'.encode()), FEW)
    for text in (f'{{"date"{colon}"{long}"}}', f'["data","{long}"]', f'{{"xdata"{colon}"{long}"}}'):
        assert outcome(text.encode(), FEW)[0] is PayloadTooLarge


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"prompt": "hi \\ud83d"}', "prompt"),
        (b'{"a": 1, "b": [0, {"c": "\\udc00"}]}', "b[1].c"),
        (b'{"b": ["\\ud83d\\ude00", "\\ude00\\ud83d"]}', "b[1]"),
        (b'{"messages": [{"content": [{"text": "' + b"x" * 99 + b'\\uD800"}]}]}', "messages[0].content[0].text"),
    ],
)
def test_a_lone_surrogate_is_named_by_its_field(text, field):
    """In a short string and in a long one."""
    for read in (outcome, as_short):
        assert read(text) == (ValidationError, f"{field} has characters that are not allowed in a text.")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"\\ud800": 1}', "\ufffd"),
        (b'{"abcdef\\ud800": 1}', "abcdef\ufffd"),
        (
            b'{"tools": [{"parameters": {"properties": {"si\\udc00ze": {}}}}]}',
            "tools[0].parameters.properties.si\ufffdze",
        ),
        (b'{"logit_bias": {"' + b"x" * 99 + b'\\ud83d": 1}}', "logit_bias.(unreadable)"),
        (b'{"a": [["x", {"\\ud83d\\n": "\\ud83d"}]]}', "a[0][1].(unreadable)"),
    ],
)
def test_a_lone_surrogate_in_a_name_is_named_by_its_path(text, field):
    """Names are text too, whether values are checked or not."""
    for read in (outcome, as_short):
        assert read(text) == (ValidationError, f"{field} has characters that are not allowed in a text.")
    assert outcome(text, read=lambda text, limits: read_json(text, limits, check_strings=False)) == outcome(text)


def test_values_are_left_to_those_who_check_them():
    """A batch answers each of its prompts, the wrong ones too."""
    assert read_json(b'{"a": ["\\ud83d"]}', ENOUGH, check_strings=False) == {"a": ["\ud83d"]}


NO_NUMBERS = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1.5e400",
    b"9" * 310,
    b"-" + b"9" * 5000,
    b"1" + b"0" * 400,
    b"0." + b"1" * 1200,
]


@pytest.mark.parametrize("number", NO_NUMBERS, ids=[number[:9].decode() for number in NO_NUMBERS])
@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"temperature": @}', "temperature"),
        (b'{"b": [0, {"c": @, "d": @}], "e": @}', "b[1].c"),
        (b'{"m": [{"a": {"enum": ["x", [@]]}}]}', "m[0].a.enum[1][0]"),
        (b"[[], @]", "[1]"),
        (b"@", "The request body"),
    ],
)
def test_what_is_no_finite_number_is_named_by_its_field(number, text, field):
    """Wherever it stands, and whether its field is a number's or not."""
    for read in (outcome, as_short):
        assert read(text.replace(b"@", number)) == (
            ValidationError,
            f"{field} must be a finite number, at most 1.7e308.",
        )


@pytest.mark.parametrize("number", [b"1.7976931348623157e308", b"17976931348623157" + b"0" * 292, b"1e-999", b"-0.0"])
def test_the_numbers_of_a_double_are_read(number):
    """The largest of them too, as an integer and as a fraction."""
    (value,) = read_json(b"[" + number + b"]", ENOUGH)
    assert float(value) == float(number)


def test_names_are_unique():
    """Long names too."""
    assert outcome(b'{"abcdef": 1, "abcdef": 2}') == (ValidationError, "abcdef was sent more than once.")
    assert read_json(b'{"abcdef": {"abcdefg": 1}}', ENOUGH) == {"abcdef": {"abcdefg": 1}}


def test_a_name_that_stands_for_a_string_cannot_be_guessed():
    """It is another one in each text."""
    marks = {routes.json_text._Held(9).add(["x"], 1) for _ in range(3)}
    assert len(marks) == 3


@pytest.mark.parametrize("depth", [101, 5000, 200_000])
@pytest.mark.parametrize("level", [b"[", b'{"a":', b'[{"a":'])
def test_depth_is_bounded(depth, level):
    """Whoever walks a value afterwards needs no check of his own."""
    ends = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}
    text = level * depth + b"1" + ends[level] * depth
    assert outcome(text, JsonLimits(containers=10**7))[1] == "The request body is nested too deeply."
    fits = b"[" * 100 + b"]" * 100
    assert outcome(fits) == json.loads(fits)
