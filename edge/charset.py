"""The character encoding of a request: texts are read as UTF-8, so a body that declares another one is refused."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import UnsupportedMediaType

# As clients write UTF-8, and ASCII, which is a part of it; without `-`, `_` and spaces. The codecs of Python are not
# asked: they keep every name that they are asked for, and have many more than a client means.
READ = frozenset(("utf8", "u8", "utf", "cp65001", "ascii", "usascii", "646", "ansix3.41968", "iso646us"))
LONGEST = 32
SEPARATORS = str.maketrans("", "", "-_ ")


def check_charset(parameters: Mapping[str, str]) -> None:
    """Raise UnsupportedMediaType for a charset that is not read. parameters: of a Content-Type."""
    declared = parameters.get("charset", "").strip("'\" ")
    if declared and (len(declared) > LONGEST or declared.lower().translate(SEPARATORS) not in READ):
        raise UnsupportedMediaType("Send the request in UTF-8.")
