"""The values that are generated for each `format`: a part of what its standard allows, which every reader accepts.

Years have four digits and are not zero, days exist in their month, and no second is 60, which most libraries refuse.
A format that is not listed is an annotation (JSON Schema 2020-12, validation, section 7.2.1).
"""

from __future__ import annotations

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"
_UNITS = "(?:{0}|{0}{1}|{0}{1}{2}|{1}|{1}{2}|{2})"
_DURATION_DATE = _UNITS.format("[0-9]{1,4}Y", "[0-9]{1,4}M", "[0-9]{1,4}D")
_DURATION_TIME = "T" + _UNITS.format("[0-9]{1,4}H", "[0-9]{1,4}M", "[0-9]{1,4}S")
_ATOM = "[A-Za-z0-9_+-]{1,20}"
_LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,20}){0,2}"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_GROUP = "[0-9a-fA-F]{1,4}"


def _ipv6() -> str:
    """All eight groups, or some before and some after `::`, which stands for one group at least."""
    counted = [f"(?:{_GROUP}:){{{before - 1}}}{_GROUP}::{_after(before)}" for before in range(1, 8)]
    return "|".join([f"(?:{_GROUP}:){{7}}{_GROUP}", f"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?", *counted])


def _after(before: int) -> str:
    return f"(?:{_GROUP}(?::{_GROUP}){{0,{6 - before}}})?" if before < 7 else ""


_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-F]{2})"
_PATH = f"(?:/(?:{_CHARACTER}|:)*)*"
_TAIL = rf"(?:\?(?:{_CHARACTER}|[/?:])*)?(?:#(?:{_CHARACTER}|[/?:])*)?"
_URI = rf"[A-Za-z][A-Za-z0-9+.-]*:(?://{_HOST}(?::[0-9]{{1,4}})?{_PATH}|(?:{_CHARACTER}|:)+{_PATH}){_TAIL}"
_REFERENCE = rf"(?:{_URI}|(?:/?{_CHARACTER}+{_PATH})?{_TAIL})"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"

_WHOLE = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|[0-9]{{1,4}}W)",
    "email": rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "uuid": "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "uri": _URI,
    "uri-reference": _REFERENCE,
    "uri-template": rf"(?:{_CHARACTER}|/|\{{[A-Za-z0-9_]{{1,20}}\}})*",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,3}})(?:#|{_POINTER})",
    "regex": r"\^?(?:(?:[A-Za-z0-9_ -]|\\[dws]|\.|\[(?:[a-z]-z|0-[0-9])\])[*+?]?)*\$?",
}
# ASCII text of the narrower format is valid for the international one.
_SAME = {"idn-email": "email", "idn-hostname": "hostname", "iri": "uri", "iri-reference": "uri-reference"}

# By the name of a format: a pattern in Rust's syntax.
FORMATS = {name: f"^(?:{pattern})$" for name, pattern in _WHOLE.items()}
FORMATS |= {name: FORMATS[same] for name, same in _SAME.items()}
