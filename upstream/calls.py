"""The calls of one answer, out of the parts in which servers send them, as the tags that chat templates write.

Each part should have the index of its call, and the first its id and name. Servers leave out either, give each call the
index 0 or each part another id, or count the index up with every part.
"""

from __future__ import annotations

import json
from typing import Any

from engine.errors import UpstreamFailed

CALL, CALL_END = '<tool_call>\n{"name": ', "}\n</tool_call>"
NONSENSE = "The server that answers for this model sent something that is no answer."


class Calls:
    """The calls so far. made: their names and arguments; open: more parts of the last one may come.

    Whatever it is given may raise UpstreamFailed, TypeError, ValueError and the like: the answer is none then.
    """

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.open = False
        self._index: int | None = None  # of the open call, and its id, as far as they were told
        self._id = ""
        self._indices: set[int] = set()  # of all calls so far
        self._ids: set[str] = set()
        self._named = self._argued = False

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
        self.open, self._named, self._argued = True, False, False
        self.made.append(("", ""))

    def take(self, part: dict[str, Any]) -> str:
        """Add a part to the open call; return what is to be said of it."""
        said = ""
        told, new = _function(part)
        name, arguments = self.made[-1]
        if told and not self._named:
            said += f'{CALL}{json.dumps(told, ensure_ascii=False)}, "arguments": '
            self._named = True
            name, new, arguments = told, arguments + new, ""
        if self._named:
            said += new
        self._argued = self._argued or bool((arguments + new).strip())
        self.made[-1] = name, arguments + new
        return said

    def close(self, cut: bool) -> str:
        """Close the open call; return what ends it. cut: by the length of the answer, as it is left then."""
        self.open = False
        if not self._named:
            raise UpstreamFailed(NONSENSE)
        if cut:
            return ""
        if not self._argued:
            self.made[-1] = self.made[-1][0], "{}"
        return CALL_END if self._argued else "{}" + CALL_END

    def _goes_on(self, index: int | None, new_id: str, name: str) -> bool:
        """Return whether a part is of the call that is open."""
        if not self.open:
            return False
        if index in (None, self._index):
            return not new_id or new_id == self._id or not self._id
        return self._named and not new_id and not name and index not in self._indices and not self._is_whole()

    def _is_another(self, index: int | None, new_id: str, name: str, arguments: str) -> bool:
        """Return whether a part begins a call of which neither its index nor an id of its own tells that."""
        if not self.open or not self._named or not name or index not in (None, self._index):
            return False
        if new_id and new_id in (self._id, *self._ids):
            return False
        return name != self.made[-1][0] or bool(arguments.strip() and self._is_whole())

    def _is_new(self, index: int | None, new_id: str) -> bool:
        """Return whether no call so far has this index or, where that says nothing, this id."""
        if index is None:
            return new_id not in self._ids
        return index not in self._indices or (new_id != "" and new_id not in self._ids)

    def _is_whole(self) -> bool:
        """Return whether the arguments of the open call are a whole object."""
        arguments = self.made[-1][1]
        if not arguments.rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads(arguments), dict)
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
