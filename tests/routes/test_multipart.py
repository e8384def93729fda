"""Multipart forms: read as werkzeug reads them, in whatever pieces they come, at a cost that their bytes bound."""

import re
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from routes.multipart import MAX_PADDING, MAX_PART_HEAD, MAX_PART_HEADERS, MAX_PREAMBLE, Decoder
from routes.parsing import READ_BYTES
from tests.fakes import image_bytes

URL, KIND = "/api/v1/image/analyze", "multipart/form-data; boundary=BB"
FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n'
FILE = b'Content-Disposition: form-data; name="image"; filename="%s"\r\n%s\r\n'
END = b"\r\n--BB--\r\n"
MIB = 2**20


def decoder(boundary=b"BB"):
    return Decoder(boundary, 16 * MIB, 32)


def read(pieces, reader=None):
    """Return the parts of a form, name and content of each, or None for what is none."""
    reader, found, content = reader or decoder(), [], b""
    try:
        for piece in (*pieces, None):
            reader.receive_data(piece)
            while not isinstance(event := reader.next_event(), NeedData | Epilogue):
                if isinstance(event, Field | File):
                    name, content = event.name, b""
                elif isinstance(event, Data):
                    content += event.data
                    if not event.more_data:
                        found.append((name, content))
    except (ValueError, RequestEntityTooLarge):
        return None
    return found


def in_pieces(body, size):
    return [body[at : at + size] for at in range(0, len(body), size)]


WORDS = (
    b"--",
    b"BB",
    b"--BB",
    b"\r\n",
    b"\n",
    b"\r\n--BB\r\n",
    b"--BB--",
    b" ",
    b"x",
    b"\0",
    b"\n\n",
    FIELD,
    b"a:b\r\n",
)


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.integers(1, 9))
def test_forms_are_read_as_by_werkzeug_in_any_pieces(words, size):
    """Whatever stands in them, also half boundaries, and boundaries behind which other things stand."""
    body = b"--BB\r\n" + b"".join(words) + END
    wanted = read([body], MultipartDecoder(b"BB", 16 * MIB, max_parts=32))
    assert read([body]) == wanted
    assert read(in_pieces(body, size)) == wanted


@given(st.lists(st.sampled_from((*WORDS, b"\r", b"\r\n--BB\r")), max_size=14), st.integers(1, 9))
def test_pieces_do_not_matter(words, size):
    """Nor where they divide a line break; a CR alone is none before a boundary."""
    body = b"--BB\r\n" + FIELD + b"".join(words) + END
    assert read(in_pieces(body, size)) == read([body])


CONTENTS = [b"", b"\r", b"\n", b"\r\n", b"\r\r\n", b"abc\r", b"x--BB", b"\r\n--B", b"\r\n--BBx", b"\r--BB--"]
CONTENTS += [b"\n--BB" + b" " * (MAX_PADDING + 1), b"x" * 500, b"\r\n" * 300, b"\r\n--BBx" * 100]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("content", CONTENTS)
def test_contents_are_read_byte_for_byte(content, size):
    """With all that looks like a boundary and is none."""
    body = b"--BB\r\n" + FIELD + content + b"\r\n--BB" + b" " * MAX_PADDING + b"\r\n" + FIELD + content + END
    assert read(in_pieces(body, size)) == [("a", content)] * 2


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n", b"This is a multi-part message in MIME format.\r\n"])
def test_little_may_stand_before_the_first_part(before, size):
    """As in mails, or a line break."""
    body = before + b"--BB\r\n" + FIELD + b"x" + END
    assert read(in_pieces(body, size)) == [("a", b"x")]
    long = b"y" * (MAX_PREAMBLE - len(before) - 8) + body
    assert read(in_pieces(long, size)) == [("a", b"x")]
    assert read(in_pieces(b"y" * 9 + long, size)) is None


DASHES = b"-" * 69 + b"x"
ENDLESS = {
    "spaces": (b"BB", b" " * MIB),
    "dashes": (DASHES, b"-" * MIB),
    "a boundary that is none": (DASHES, b"--" + DASHES + b"y" + b"-" * MIB),
    "boundaries that are none": (b"BB", b"--BBx" * (MIB // 5)),
    "blanks behind the boundary": (b"BB", b"--BB" + b" " * MIB),
    "a head": (b"BB", b"--BB\r\n" + b"a" * MIB),
    "a head of half line breaks": (b"BB", b"--BB\r\n" + b"\r\n\rx" * (MIB // 4)),
}


@pytest.mark.parametrize(("boundary", "body"), ENDLESS.values(), ids=ENDLESS)
def test_what_begins_like_no_form_is_refused_from_its_beginning(client, boundary, body):
    """The rest is not searched, nor read."""
    stream = BytesIO(body)
    kind = "multipart/form-data; boundary=" + boundary.decode()
    response = client.post(URL, input_stream=stream, content_type=kind, content_length=len(body))
    assert response.status_code == 400
    assert stream.tell() <= READ_BYTES


class Counted:
    """A pattern that counts the bytes that it is given to search."""

    def __init__(self, pattern):
        self.pattern, self.bytes = pattern, 0

    def search(self, data, start=0, end=2**60):
        self.bytes += min(len(data), end) - start
        return self.pattern.search(data, start, end)


@pytest.mark.parametrize(
    "content", [b"\r\n" * 15_000 + b"--BBx", b"\n--BBx", b"--BB", b"\n--BB" + b" " * 60 + b"x", b"\r\n", b"\0"]
)
def test_each_byte_of_content_is_searched_once(content):
    """However much of it looks like a boundary: the pattern begins with a text, and is tried nowhere else."""
    sent = b"x" + (content * (MIB // len(content))) + b"x"
    reader, body = decoder(), b"--BB\r\n" + FIELD + sent + END
    reader._delimiter = pattern = Counted(reader._delimiter)
    reader.boundary_re = None  # werkzeug's, which is tried at each line break
    assert read(in_pieces(body, READ_BYTES), reader) == [("a", sent)]
    assert pattern.bytes <= len(body) * 1.01
    assert pattern.pattern.pattern.startswith(re.escape(b"\n--BB"))


@pytest.mark.parametrize("line_break", [b"\r\n", b"\n", b"\r", b"\r\n "])
def test_header_fields_are_counted_as_they_are_read(client, line_break):
    """Whatever ends them, and those that are continued."""
    for lines, status in ((MAX_PART_HEADERS - 1, 200), (MAX_PART_HEADERS, 400)):
        more = b"a:" + (line_break + b"a:") * (lines - 1) + b"\r\n"
        prompt = b'--BB\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nWhat?\r\n'
        body = prompt + b"--BB\r\n" + FILE % (b"a.png", more) + image_bytes() + END
        assert client.post(URL, data=body, content_type=KIND).status_code == status


def test_a_long_head_is_refused_in_any_pieces():
    """It has an end, but not within its bound."""
    body = b"--BB\r\n" + b"a:" + b"b" * MAX_PART_HEAD + b"\r\n" + FIELD + b"x" + END
    assert read([body]) is read(in_pieces(body, 100)) is None


RUSSIAN = "фото.jpg"


@pytest.mark.parametrize(
    "name", [RUSSIAN.encode("cp1251"), RUSSIAN.encode(), b"\xff\xfe\x00", RUSSIAN.encode("koi8-r")]
)
def test_the_name_of_a_file_may_be_in_any_encoding(client, avision, name):
    """It is not used; old programs write it in that of their system."""
    prompt = b'--BB\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nWhat?\r\n'
    body = prompt + b"--BB\r\n" + FILE % (name, b"X-Name: " + name + b"\r\n") + image_bytes() + END
    assert client.post(URL, data=body, content_type=KIND).status_code == 200
    assert avision.submitted[0].prompt.images[0].data == image_bytes()


PART = b"--BB\r\nContent-Disposition: form-data; %s\r\n\r\n%s"
NOT_UTF8 = [
    PART % (b'name="prompt"', b"\xf4\xee\xf2\xee"),
    PART % (b'name="prompt"; filename=""', b"x") + b"\r\n" + PART % (b'name="prompt"', b"\xf4"),
    PART % (b'name="\xef\xf0"', b"What?"),
    PART % (b'name="\xef\xf0"; filename="a"', b"What?"),
    PART % (b"name*=UTF-8''%ff", b"What?"),
]


@pytest.mark.parametrize("body", NOT_UTF8)
def test_names_and_values_of_fields_are_utf8(client, avision, body):
    """What they mean is not guessed."""
    response = client.post(URL, data=body + END, content_type=KIND)
    assert (response.status_code, response.json["message"]) == (400, "The request body is not valid UTF-8.")
    assert avision.submitted == []


@pytest.mark.parametrize(
    "boundary", ["", "boundary=", "boundary=" + "b" * 71, "boundary*=UTF-8''b%0Ab", "boundary=\xe9"]
)
def test_a_boundary_is_a_short_text_of_one_line(client, boundary):
    """All of a body is searched for it."""
    response = client.post(URL, data=b"--b\nb\r\n", content_type="multipart/form-data; " + boundary)
    assert (response.status_code, response.json["message"]) == (400, "The request body is not a valid form.")
