"""Writes the corpus: small hostile and good inputs of each target, from which mutation starts.

`python -m tests.fuzz.seeds` adds what is missing to `corpus/`; inputs that once crashed a target are kept beside them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.proof import bodies, images

CORPUS = Path(__file__).parent / "corpus"
LARGEST = 20_000  # bytes of one seed


def seeds(target: str) -> Iterator[bytes]:
    """Yield the seeds of a target."""
    match target:
        case "image":
            yield from _images()
        case "json":
            yield from _texts()
        case "data_url":
            for data in _images():
                yield b"data:image/png;base64," + base64.b64encode(data)
            yield from (
                b"data:,",
                b"data:image/png;base64,",
                b"data:image/png;a=b;base64,====",
                b"DATA:x/y;BASE64,AA=A",
            )
        case "multipart":
            for data in (images.encoded("PNG"), b"x", b"\r\n--BB--", b"--BB\r\n" * 40):
                yield b"BB\n" + bodies.upload(data)
            yield b"BB\n" + bodies.upload(b"x")[:-9]
            yield b'"B B"\n--B B\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--B B--'
            yield b"BB\n--BB\r\nContent-Disposition: form-data; name*=utf-8''%ff; filename=\"a\"\r\n\r\nx\r\n--BB--"
        case "form":
            yield from (b"prompt=a&max_tokens=3", b"a=1&a=2", b"%", b"%ff=%zz&+=+", b"&" * 50, b"a;b=c", b"=", b"a=%00")
        case "http_head":
            yield from (data for _, data in bodies.framings())
            yield b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n"
            # Once taken apart so that other fields changed.
            yield b"POST /a HTTP/1.1\r\n\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"
            yield b"POST /a HTTP/1.1\r\nX-Expect: 100-continue\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab"
            yield b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nA: b\r\n\r\nrest"
        case "schema":
            yield from (json.dumps(schema).encode() for _, schema in bodies.schemas())
            yield from (json.dumps(schema).encode() for schema in SCHEMAS)
        case "pattern":
            yield from (pattern.encode() for pattern in PATTERNS)


SCHEMAS: tuple[dict[str, Any], ...] = (
    {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"items": {"$ref": "#/$defs/a"}}]}}},
    {"type": "object", "properties": {"a": {"const": 1}}, "patternProperties": {"^a": {"type": "integer"}}},
    {"oneOf": [{"required": ["a"], "maxProperties": 2}, {"not": {"enum": ["a", 1, None]}}], "minProperties": 1},
    {"if": {"properties": {"a": {"type": "string"}}}, "then": {"required": ["a"]}, "else": {"minProperties": 3}},
    {"type": ["string", "number"], "pattern": "^(?=a)[a-z]+$", "multipleOf": 0.5, "minimum": 1, "format": "date"},
    {"prefixItems": [True, False], "contains": {"const": 1}, "minContains": 2, "unevaluatedItems": False},
    {
        "allOf": [{"$anchor": "x", "minLength": 1}, {"$ref": "#x"}],
        "dependentRequired": {"a": ["b"]},
        "$id": "http://x/y",
    },
)
PATTERNS = (
    r"^(?=[a-z]*\d)(?!a*$)[\w\-]{1,9}$",
    r"[^\d\s](a|b)*?\p{Lu}\x41\u{1F600}",
    r"(?<name>a)\1|\bx{2,}[]a-\]]",
    r"^(?=(a{2}b)+)(?=[^\]]+$)\cA\0\ud83d\ude00.$",
    r"^\+?[0-9]{1,3}(?:[ \-][0-9]{2,4}){2,4}$",
    r"(([a-z]+)*|\W{,3})+?\B",
    "[" * 40,
)


def _images() -> Iterator[bytes]:
    for kind in (*images.KINDS, "ICO"):
        yield images.encoded(kind, (16, 16) if kind == "ICO" else (9, 7))
    yield images.encoded("JPEG", (16, 16), progressive=True)
    yield images.encoded("PNG", (8, 8), "RGBA")
    yield images.encoded("PNG", (8, 8), "I;16")
    yield images.scan_bomb(8, (16, 16))
    yield images.webp_bomb((16, 16))
    yield images.png_bomb((16, 16))
    yield images.text_bomb(2**20)
    yield images.profile_bomb(2**20)
    yield images.frames_bomb(3)
    yield from images.lying_headers()
    yield from images.damaged(20)


def _texts() -> Iterator[bytes]:
    yield from (body for _, body in bodies.small())
    yield from (bodies.chat_body(response_format=schema) for _, schema in bodies.schemas())
    yield from (b"", b"null", b"[]", b"1", b"-0", b"1e400", b"NaN", b'"\\u0000"', b'{"a":1,"a":2}', b"\xef\xbb\xbf{}")
    yield b'{"prompt":"' + b"\\ud83d\\ude00a\\n" * 1200 + b'"}'  # long enough to be taken out and put back
    yield b'{"image":"data:' + b"A" * 17_000 + b'","x":["b"]}'
    yield b"[" * 99 + b"]" * 99


def write(target: str) -> None:
    """Add the seeds of a target that are small enough and not there yet."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(target):
        if len(seed) <= LARGEST:
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    for name in ("image", "json", "data_url", "multipart", "form", "http_head", "schema", "pattern"):
        write(name)
