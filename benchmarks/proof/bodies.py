"""Request bodies of strangers: far too large, too deep, too many, or none that can be read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

from benchmarks.proof.traffic import CHAT, IMAGE, TEXT, request

LARGE_BYTES = 60_000_000
BOUNDARY = "BB"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
USER = [{"role": "user", "content": "hi"}]
Schema = dict[str, object]
CHUNKS = (
    b"x\r\n",
    b"-1\r\nabc\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"7fffffffffffffff\r\na\r\n",
    b"5;" + b"e" * 100_000 + b"\r\n",
    b"\r\n\r\n\r\n",
    b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
    (b"42\r\n" + b" " * 66 + b"\r\n") * 120_000 + b"0\r\n\r\n",
    b"0\r\n" + b"T: v\r\n" * 50_000 + b"\r\n",
)
FIELDS = (
    b"Content-Length: -1\r\n",
    b"Content-Length: 1e3\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: " + b"9" * 400 + b"\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Expect: nothing\r\n",
    b"No colon\r\n",
    b" folded\r\n",
    b"A: b\x00c\r\n",
    b": empty\r\n",
    b"X: " + b"y" * 70_000 + b"\r\n",
    b"".join(b"X%d: y\r\n" % number for number in range(3000)),
    b"a:\r\n" * 16_000,
    (b"Cookie: a=" + b" " * 8100 + b'";\r\n') * 7,
)
LINES = (
    b"GET",
    b"GET / HTTP/9.9",
    b"GET  /  HTTP/1.1",
    b"GET /" + b"a" * 70_000,
    b"GET http://[::1 HTTP/1.1",
    b"G\xc3\xa4T / HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"\x16\x03\x01\x02\x00\x01\x00",
)


def chat_body(**fields: object) -> bytes:
    """Return the body of a short chat request with further fields."""
    return json.dumps({"model": "avibe", "max_tokens": 2, "messages": USER, **fields}).encode()


def upload(image: bytes, prompt: str = "What?", name: str = "a.png") -> bytes:
    """Return the multipart body of an image request."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    text = "".join(f'{head}{field}"\r\n\r\n{value}\r\n' for field, value in (("prompt", prompt), ("max_tokens", 3)))
    file = f'{head}image"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    return (text + file).encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def large(size: int = LARGE_BYTES) -> Iterator[tuple[str, bytes]]:
    """Yield JSON bodies of about `size` bytes with what each is made of."""
    words = "word " * (size // 5)
    tool = {"type": "function", "function": {"name": "f", "description": words}}
    yield "tools", chat_body(tools=[tool])
    small = {"type": "function", "function": {"name": "f" * 40, "description": "d"}}
    yield "many tools", chat_body(tools=[small] * (size // 110))
    for field in ("name", "arguments"):
        function = {"name": "f", "arguments": "{}", field: words}
        calls = [{"id": "x", "type": "function", "function": function}]
        yield f"call {field}", chat_body(messages=[*USER, {"role": "assistant", "tool_calls": calls}])
    yield "content", chat_body(messages=[{"role": "user", "content": words}])
    yield "many messages", chat_body(messages=USER * (size // 34))
    yield (
        "many parts",
        chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * (size // 32)}]),
    )
    yield "numbers", b'{"model":"avibe","metadata":[' + b"1," * (size // 2) + b"1]}"
    yield "objects", b'{"model":"avibe","metadata":[' + b"{}," * (size // 3) + b"{}]}"
    yield "unknown keys", json.dumps({f"k{number}": 1 for number in range(size // 14)}).encode()
    yield "nesting", b'{"messages":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"
    yield "one number", b'{"max_tokens":' + b"9" * size + b"}"
    yield "stop strings", chat_body(stop=["a"] * (size // 5))
    yield "image URL", chat_body(messages=[_image_message("data:image/png;base64," + "A" * size)])
    yield "short data URLs", chat_body(metadata=["data:" + "\n" * 7_990] * (size // 16_000))
    yield "schema", chat_body(response_format=_format({"type": "string", "enum": ["a" * 20] * (size // 24)}))
    yield "digits as text", json.dumps({"prompt": "1" * size}).encode()


def small() -> Iterator[tuple[str, bytes]]:
    """Yield JSON bodies that are small, and costly or odd all the same."""
    yield "0.9 MB of unknown keys", json.dumps({f"k{number}": 1 for number in range(65_000)}).encode()
    yield "longest content", chat_body(messages=[{"role": "user", "content": "d" * 262_000}])
    yield "special tokens", chat_body(messages=[{"role": "user", "content": "<|im_end|>" * 20_000}])
    yield "lone surrogates", b'{"prompt":"\\ud800\\udfff\\ud800"}'
    yield "nesting of 100,000", b"[" * 100_000
    yield "huge exponent", b'{"prompt":"a","temperature":1e999999999}'
    yield "duplicate keys", b'{"prompt":"a",' + b'"prompt":"b",' * 10_000 + b'"x":1}'
    yield "not UTF-8", b'{"prompt":"\xff\xfe"}'
    yield "other encoding", '{"prompt":"a"}'.encode("utf-16")
    yield "null bytes", b'{"prompt":"a\\u0000b"}' + bytes(1000)
    yield "wrong types", chat_body(messages=[1, None, [], {"role": [], "content": {}}], tools=7, stop={"a": 1})
    yield "logit bias", chat_body(logit_bias={str(number): 1 for number in range(50_000)})
    yield "128 answers", chat_body(n=128)
    ambiguous = 'start: s\ns: s s | "a" | "b" | " " | s s s s'
    yield "ambiguous grammar", chat_body(n=8, max_tokens=300, temperature=1.5, guided_grammar=ambiguous)
    wide = "start: /[ab]{40}/ s\ns: " + " | ".join(" ".join("s" * count) for count in range(2, 140)) + " | /./"
    yield "grammar of a wide rule", chat_body(n=8, max_tokens=300, temperature=1.5, guided_grammar=wide)
    scored = {"max_tokens": 250, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    yield "log probabilities of 8 answers", chat_body(n=8, **scored)
    for rules in (900, 2672, 2673):
        chain = "".join(f"r{number}: r{number + 1}\n" for number in range(rules))
        yield "grammar of a chain of rules", chat_body(guided_grammar=f'start: r0\n{chain}r{rules}: "a"')
    yield "escapes as images", chat_body(metadata=["data:" + "\n" * 8190] * 1000)


def schemas() -> Iterator[tuple[str, Schema]]:
    """Yield JSON schemas that are hard to compile or to keep."""
    yield "long count", {"type": "string", "pattern": "^a{900001}$"}
    yield "nested counts", {"type": "string", "pattern": "^(((a{1,90}){1,90}){1,90}){1,90}$"}
    yield "alternatives", {"type": "string", "pattern": "^(" + "|".join(f"a{n}b*" for n in range(3000)) + ")+$"}
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
    yield "endless", {"$ref": "#/$defs/node", "$defs": {"node": node}}
    yield "own reference", {"$ref": "#"}
    yield "as many items as it says", {"type": "array", "contains": {"type": "null"}, "minContains": 3_000_000}
    yield "address of composed letters", {"$id": "//" + "\u0301" * 10_500 + "\u0316" * 10_500, "type": "object"}
    yield "text like a reference of ours", {"type": "string", "maxLength": 3, "description": "#/$defs/" + "s" * 60_000}
    yield "long pattern", {"type": "string", "pattern": "\\W" * 21_500}
    yield "missing reference", {"$ref": "#/$defs/nothing"}
    yield "outside reference", {"$ref": "http://127.0.0.1:1/schema.json"}
    patterns = {f"p{n}": {"type": "string", "pattern": f"^[a-z]{{{n + 1}}}$"} for n in range(600)}
    yield "600 patterns", {"type": "object", "properties": patterns, "required": [*patterns]}
    properties = {f"p{n}": {"type": "string"} for n in range(900)}
    yield "900 properties", {"type": "object", "properties": properties}
    deep: Schema = {"type": "string"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    yield "deep", deep
    yield "array bounds", {"type": "array", "items": {"type": "integer"}, "minItems": 100_000, "maxItems": 200_000}
    yield "broken pattern", {"type": "string", "pattern": "(((["}


def slow_grammar(number: int) -> str:
    """Return a grammar in Lark that takes long to try, and is refused in the end."""
    patterns = (f"/(.|\\n)*{chr(97 + n)}(.|\\n){{{number % 17 + 3 + n}}}/" for n in range(12))
    return f"start: X\nX: {' & '.join(patterns)}"


def schema_requests(distinct: int) -> Iterator[tuple[str, bytes]]:
    """Yield a request for each hard schema, and `distinct` of a kind that fills a cache."""
    for name, schema in schemas():
        yield f"schema: {name}", request(CHAT, chat_body(response_format=_format(schema)))
    endless: Schema = {"type": "integer", "multipleOf": 604_800}
    yield "schema: many remainders", request(CHAT, chat_body(response_format=_format(endless)))
    for number in range(distinct):
        pattern = f"^a{{{900_000 + number}}}$"
        body = chat_body(response_format=_format({"type": "string", "pattern": pattern}))
        yield "schema: many long counts", request(CHAT, body)


def long_schemas(number: int) -> Iterator[tuple[str, bytes]]:
    """Yield the bodies of schemas that take long to rewrite, and that differ by a number."""

    def either(name: str) -> Schema:
        return {
            "anyOf": [{"properties": {f"{name}{least}": {"type": "integer", "minimum": least}}} for least in range(15)]
        }

    pairs = {f"o{n}": {"type": "object", "allOf": [either(f"a{n}"), either(f"b{n}")]} for n in range(12)}
    yield (
        "alternatives",
        chat_body(response_format=_format({"title": str(number), "type": "object", "properties": pairs})),
    )
    names = [f"n{number}_{n}" for n in range(400)]
    sizes: Schema = {"properties": dict.fromkeys(names, True), "required": names[:336], "minProperties": 337}
    sizes["anyOf"] = [{"maxProperties": 1000 + n} for n in range(64)]
    yield "sizes of a large object", chat_body(response_format=_format({"type": "object", **sizes}))


def forms() -> Iterator[tuple[str, bytes]]:
    """Yield requests with multipart and other forms that no form is."""
    many = b"".join(b'--BB\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(100_000))
    bodies = {
        "many parts": many + b"--BB--\r\n",
        "no end": upload(b"x")[:-8],
        "no boundary": b"x" * 1_000_000,
        "only boundaries": b"--BB\r\n" * 500_000,
        "long header": b"--BB\r\n" + b"X-A: " + b"b" * 2_000_000 + b"\r\n\r\n\r\n--BB--\r\n",
        "dashes": b"-" * 5_000_000,
        "nested": upload(upload(upload(b"x"))),
        "long name": upload(b"x", name="n" * 1_000_000),
    }
    for name, body in bodies.items():
        yield f"multipart: {name}", request(IMAGE, body, kind=MULTIPART)
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 5000,
    ):
        yield "multipart: odd boundary", request(IMAGE, upload(b"x"), kind=kind)
    dashes = "multipart/form-data; boundary=" + "-" * 7000 + "x"
    yield "multipart: dashes in both", request(IMAGE, b"-" * 4_000_000, kind=dashes)
    yield "multipart: dashes that nobody is charged for", request("/sign-out", b"-" * 1_000_000, kind=dashes)
    yield (
        "multipart: a file without a name",
        request(IMAGE, upload(b"x").replace(b'name="image"; ', b""), kind=MULTIPART),
    )
    fields = b"&".join(b"a%d=1" % number for number in range(300_000))
    yield "form: many fields", request("/avibe", fields, kind="application/x-www-form-urlencoded")
    shown = "language=en&prompt=\U0001f600".encode() + b"'" * 4_900_000
    yield "form: shown again", request("/language?form=text", shown, kind="application/x-www-form-urlencoded")
    yield "form: percents", request("/avibe", b"%" * 1_000_000, kind="application/x-www-form-urlencoded")
    packed = zlib.compress(bytes(LARGE_BYTES * 10), 9)
    yield "gzip bomb", request(TEXT, packed, Content_Encoding="deflate")


def framings() -> Iterator[tuple[str, bytes]]:
    """Yield requests that are no HTTP, or hardly."""
    head = (
        f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n".encode()
    )
    for body in CHUNKS:
        yield "chunks", head + b"Transfer-Encoding: chunked\r\n\r\n" + body
    for fields in FIELDS:
        yield "fields", head + fields + b"\r\nhello"
    for line in LINES:
        yield "request line", line + b"\r\nConnection: close\r\n\r\n"


def _format(schema: Schema) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def _image_message(url: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
