"""Builds the messages of a chat as a chat template takes them, and holds their images to the service's rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from engine.errors import PayloadTooLarge, ServiceError, Unsupported, UnsupportedMediaType, ValidationError
from engine.text.images import MAX_IMAGES, TOO_MANY, check_header
from engine.types import EncodedImage, ModelInfo
from routes.chat.output import CALL, CALL_END
from routes.parsing import image_in_base64, image_in_data_url
from routes.sse import compact

# In a result or an earlier turn, which a program cannot take back, in place of what would be refused of a new question.
UNREAD_IMAGE = "[An image, which is not read here.]"
UNREAD_DOCUMENT = "[A document, of which only plain text is read here.]"
NO_RESULT = "[This call has no result.]"
OF_RESULT = -1  # no turn of the user's
MOST_READ = 4 * MAX_IMAGES  # images of results and earlier turns that are looked at, most of which may be damaged
WITH_CALLS = "with_calls"  # marks a message of which calls or a result have become text; templates ignore it


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image as it was sent: a data URL, or base64 alone. path: where it stands in the request."""

    path: str
    url: str | None = None
    base64: str = ""


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call in an earlier answer. arguments: a JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class PastImage:
    """An image that a text may stand for, so that it is read only where it is shown."""

    source: ImageSource


Part = str | ImageSource
Past = Part | PastImage
Content = str | Sequence[Part]


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of a call in an earlier answer."""

    call_id: str
    content: str | Sequence[Past]


@dataclass(slots=True, eq=False)
class _Shown:
    """An image of a conversation, None until it is read, and the part that shows it. turn: the user's turn it is of."""

    part: dict[str, str]
    source: ImageSource
    image: EncodedImage | None
    turn: int


class ConversationBuilder:
    """The messages of one request, in order, and their images. info: of the model that will read them.

    Each method adds a message. The images of the latest turn of the user do not give way to others. Raises ServiceError
    with the path of the image for one that cannot be read.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._messages: list[dict[str, Any]] = []
        self._shown: list[_Shown] = []
        self._calls: list[str] = []  # ids of the last answer's calls, behind those that have results or notes
        self._noted: dict[str, dict[str, Any]] = {}  # by the id of such a call, the note that stands for its result
        self._results: list[_Result] = []  # that follow each other, until they are in order
        self._turn = 0
        self._asked = False  # whether the new question has begun

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The messages as a chat template takes them, once all are added."""
        self._settle()
        return tuple(self._messages)

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """The images of all messages, in order, once all are added."""
        self._settle()
        return tuple(one.image for one in self._shown if one.image is not None)

    def system(self, content: Content, earlier: bool = False) -> None:
        """Add instructions. earlier: as of the user's messages."""
        self._add_results()
        if isinstance(content, str) or all(isinstance(part, str) for part in content):
            self._add("system", content)
        else:
            self._say("system", content, earlier)

    def user(self, content: Content, earlier: bool = False) -> None:
        """Add a message of the user. earlier: of a turn before the new question, read as results are."""
        self._add_results()
        self._say("user", content, earlier)

    def assistant(self, content: Content, calls: Sequence[PastCall] = ()) -> None:
        """Add an earlier answer. Its calls become text for a model whose chat template has none."""
        self._add_results()
        if calls:  # what is said between calls and their results may be an answer of its own
            self._calls, self._noted = [call.id for call in calls], {}
        if not calls:
            self._add("assistant", content)
        elif self._info.uses_tools:
            self._add("assistant", content)
            self._messages[-1]["tool_calls"] = [_shown(call) for call in calls]
        else:
            said = [content] if isinstance(content, str) else [*content]
            self._add_calls("assistant", [*said, "\n".join(map(_as_text, calls))])

    def tool_result(self, call_id: str, content: Content) -> None:
        """Add the result of a call; for a model whose chat template has no such role, as a message of the user.

        Results that follow each other are put in the order of their calls: templates show no ids. A text stands for an
        image that is not read or turns out to be damaged, and for the oldest of more than a request may carry: the
        program that sends them on cannot do without.
        """
        self._results.append(_Result(call_id, self._past(content)))

    def _add_results(self) -> None:
        results, self._results = self._results, []
        late = {id(self._noted.pop(result.call_id)) for result in results if result.call_id in self._noted}
        if late:  # their notes go
            self._messages = [message for message in self._messages if id(message) not in late]
        place = {call: number for number, call in enumerate(self._calls)}
        by_call = {result.call_id: result for result in results}
        each_known = by_call.keys() <= place.keys() and len(by_call) == len(results) and len(place) == len(self._calls)
        if results and each_known:
            end = max(place[call] for call in by_call) + 1
            results = [by_call.get(call) or _Result(call, NO_RESULT) for call in self._calls[:end]]
            self._calls = self._calls[end:]
        for result in results:
            self._add_result(result)
            if result.content is NO_RESULT:
                self._noted[result.call_id] = self._messages[-1]

    def _add_result(self, result: _Result) -> None:
        if self._info.uses_tools:
            self._add("tool", result.content)
            self._messages[-1]["tool_call_id"] = result.call_id
        else:
            found = [result.content] if isinstance(result.content, str) else result.content
            self._add_calls("user", ["<tool_response>", *found, "</tool_response>"])

    def _past(self, content: Content) -> str | Sequence[Past]:
        return content if isinstance(content, str) else [self._past_part(part) for part in content]

    def _past_part(self, part: Part) -> Past:
        if isinstance(part, str):
            return part
        return UNREAD_IMAGE if _is_elsewhere(part) or not self._info.vision else PastImage(part)

    def _add_calls(self, role: str, lines: Sequence[Past]) -> None:
        """Add a message that stands for calls or a result, each part on a line of its own."""
        parted = [part for line in lines if line for part in ("\n", line)][1:]
        if all(isinstance(part, str) for part in parted):
            self._add(role, "".join(map(str, parted)))
        else:
            self._add(role, parted)
        self._messages[-1][WITH_CALLS] = True

    def _say(self, role: str, content: Content, earlier: bool) -> None:
        if earlier or not self._asked:
            self._turn += 1
        self._asked = not earlier
        self._add(role, self._past(content) if earlier else content, self._turn)

    def _add(self, role: str, content: str | Sequence[Past], turn: int = OF_RESULT) -> None:
        shown = content if isinstance(content, str) else [self._part(part, turn) for part in content]
        self._messages.append({"role": role, "content": shown})

    def _part(self, part: Past, turn: int) -> dict[str, str]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if isinstance(part, PastImage):
            shown = _Shown({"type": "image"}, part.source, None, turn)
        else:
            if turn == self._turn and sum(one.turn == turn for one in self._shown) == MAX_IMAGES:
                raise ValidationError(TOO_MANY, part.path)
            shown = _Shown({"type": "image"}, part, self._read(part), turn)
        self._shown.append(shown)
        return shown.part

    def _settle(self) -> None:
        """Have a text stand for every image but those of the latest turn, and the newest others for which there is
        room beside them. Those of the past are read here only, the newest first, and no more than MOST_READ.
        """
        self._add_results()
        latest = [one for one in self._shown if one.turn == self._turn]
        others = [one for one in self._shown if one.turn != self._turn]
        kept, left = set[int](), MOST_READ
        for one in chain(latest, reversed(others)):
            if one.image is None and left and len(kept) < MAX_IMAGES:
                one.image, left = self._past_image(one.source), left - 1
            if one.image is None or len(kept) == MAX_IMAGES:
                one.part |= {"type": "text", "text": UNREAD_IMAGE}
            else:
                kept.add(id(one))
        self._shown = [one for one in self._shown if id(one) in kept]
        for message in self._messages:
            if WITH_CALLS in message:  # in one text, as where it never had an image: templates join texts differently
                message["content"] = _as_one_text(message["content"])

    def _past_image(self, source: ImageSource) -> EncodedImage | None:
        try:
            return replace(self._read(source), instead=UNREAD_IMAGE)
        except ServiceError:
            return None

    def _read(self, source: ImageSource) -> EncodedImage:
        if not self._info.vision:
            raise Unsupported("This model does not read images.", source.path)
        if _is_elsewhere(source):
            raise Unsupported("Images are not fetched from other addresses; send a base64 data URL.", source.path)
        try:
            data = image_in_base64(source.base64) if source.url is None else image_in_data_url(source.url)
            return replace(check_header(data), param=source.path)
        except (ValidationError, PayloadTooLarge, UnsupportedMediaType) as error:
            error.param = source.path
            raise


def _as_one_text(content: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    """Return the content of a message as a string, unless it has an image."""
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "".join(part["text"] for part in content)


def _is_elsewhere(source: ImageSource) -> bool:
    return source.url is not None and source.url[:4].lower() == "http"


def arguments_text(sent: str | Mapping[str, Any] | None) -> str:
    """Return the arguments of a past call as a JSON text, which programs send as one, as the object or not at all."""
    return (sent or "").strip() or "{}" if sent is None or isinstance(sent, str) else compact(sent)


def has_calls(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a conversation has calls or results, so that a model may write more of them by habit."""
    return any(name in message for message in messages for name in ("tool_calls", "tool_call_id", WITH_CALLS))


def _as_text(call: PastCall) -> str:
    """Return a call as the models that the service is made for write it."""
    return f'{CALL}\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}\n{CALL_END}'


def _shown(call: PastCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
