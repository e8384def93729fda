"""The calls of one answer, out of the parts in which servers send them, as the tags that chat templates write.

Each part should have the index of its call, and the first its id and name. Servers leave out either, give each call the
index 0 or each part another id, or count the index up with every part.
"""

from __future__ import annotations

import json
import re
from typing import Any

from engine.errors import UpstreamFailed

CALL, CALL_END = '<tool_call>\n{"name": ', "}\n</tool_call>"
NONSENSE = "The server that answers for this model sent something that is no answer."
MARKS = re.compile(r'\\.|[\\"{}\[\]]', re.DOTALL)  # quotes, brackets and escapes of JSON


class Calls:
    """The calls so far. made: their names and arguments, without those of the open one; open: more parts of the last
    one may come; most: characters that the arguments of all of them may have.

    Whatever it is given may raise UpstreamFailed, TypeError, ValueError and the like: the answer is none then.
    """

    def __init__(self, most: int) -> None:
        self.made: list[tuple[str, str]] = []
        self.open = False
        self._left = most
        self._arguments = _Arguments()  # of the open call
        self._index: int | None = None  # of the open call, and its id, as far as they were told
        self._id = ""
        self._indices: set[int] = set()  # of all calls so far
        self._ids: set[str] = set()
        self._named = False

    def begins(self, part: dict[str, Any]) -> bool:
        """Note which call a part is of; return whether that is another than the one that is open."""
        told, new_id, name, arguments = part.get("index"), str(part.get("id") or ""), *_function(part)
        index = None if told is None else int(told)
        if self.open and index is not None and index == self._index and not name:
            new_id = ""  # of the call that is open, which some servers give another with each part
        another = self._is_another(index, new_id, name, arguments)
        if not another and self._goes_on(index, new_id, name):
            self._id = self._id or new_id
            self._ids |= {new_id} - {""}
            return False
        if not another and not self._is_new(index, new_id):
            raise UpstreamFailed(NONSENSE)
        self._index, self._id = index, new_id
        self._indices |= set() if index is None else {index}
        self._ids |= {new_id} - {""}
        return True

    def begin(self) -> None:
        """Open a call; the one before must be closed."""
        self.open, self._named = True, False
        self.made.append(("", ""))

    def take(self, part: dict[str, Any]) -> str:
        """Add a part to the open call; return what is to be said of it."""
        told, new = _function(part)
        self._left -= len(new)
        if self._left < 0:
            raise UpstreamFailed(NONSENSE)
        self._arguments.add(new)
        if self._named:
            return new
        if not told:
            return ""
        self._named = True
        self.made[-1] = told, ""
        return f'{CALL}{json.dumps(told, ensure_ascii=False)}, "arguments": {self._arguments.text()}'

    def close(self, cut: bool, last: bool) -> str:
        """Close the open call; return what ends it, nothing where its arguments have no end. cut: the answer was, so
        that arguments which have not begun are none; last: nothing follows the call.
        """
        self.open = False
        empty, ended = self._arguments.blank and not cut, self._arguments.have_end()
        if not self._named or not (empty or ended or last):
            raise UpstreamFailed(NONSENSE)
        self.made[-1] = self.made[-1][0], "{}" if empty else self._arguments.text()
        self._arguments = _Arguments()
        return "{}" + CALL_END if empty else CALL_END if ended else ""

    def _goes_on(self, index: int | None, new_id: str, name: str) -> bool:
        """Return whether a part is of the call that is open."""
        if not self.open:
            return False
        if index in (None, self._index):
            return not new_id or new_id == self._id or not self._id
        return self._named and not new_id and not name and index not in self._indices and not self._arguments.is_whole()

    def _is_another(self, index: int | None, new_id: str, name: str, arguments: str) -> bool:
        """Return whether a part begins a call of which neither its index nor an id of its own tells that."""
        if not self.open or not self._named or not name or index not in (None, self._index):
            return False
        if new_id and (new_id == self._id or new_id in self._ids):
            return False
        return name != self.made[-1][0] or bool(arguments.strip() and self._arguments.is_whole())

    def _is_new(self, index: int | None, new_id: str) -> bool:
        """Return whether no call so far has this index or, where that says nothing, this id."""
        if index is None:
            return new_id not in self._ids
        return index not in self._indices or (new_id != "" and new_id not in self._ids)


class _Arguments:
    """The arguments of one call, in the parts in which they come.

    Whether they are whole is told in time that grows with their length alone, however often it is asked.
    """

    def __init__(self) -> None:
        self.blank = True  # nothing but white space has come
        self._parts: list[str] = []
        self._seen = self._depth = 0  # parts that were looked at, and brackets that are open behind them
        self._quoted = False  # they end within a string
        self._rest = ""  # a backslash at their end
        self._whole: bool | None = None  # None while they may still become an object

    def add(self, part: str) -> None:
        """Take a part."""
        if not part:
            return
        self._parts.append(part)
        if part.strip():
            self.blank = False
            self._whole = None if self._whole is None else False  # nothing follows a whole object

    def text(self) -> str:
        """Return all of them."""
        return "".join(self._parts)

    def is_whole(self) -> bool:
        """Return whether they are an object that has come to its end."""
        if self._whole is None and self.have_end():
            self._whole = _is_object(self.text())
        return bool(self._whole)

    def have_end(self) -> bool:
        """Return whether no string and no bracket is open in them, whatever they are."""
        self._look()
        return not self.blank and not self._quoted and self._depth <= 0

    def _look(self) -> None:
        """Count the brackets of the parts that have come since the last look."""
        new = self._rest + "".join(self._parts[self._seen :])
        self._seen, self._rest = len(self._parts), ""
        for mark in MARKS.findall(new):
            if mark == "\\":
                self._rest = mark
            elif mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted:
                self._depth += (mark in "{[") - (mark in "]}")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _function(part: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the arguments in a part of a call; some servers send the arguments as an object."""
    function = part.get("function") or {}
    arguments = function.get("arguments")
    return text_of(function.get("name")), json.dumps(arguments) if isinstance(arguments, dict) else text_of(arguments)


def text_of(value: Any) -> str:
    """Return a text that may be left out. Raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value
