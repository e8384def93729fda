"""Builds the messages of a chat as a chat template takes them, and holds their images to the service's rules."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import PayloadTooLarge, ServiceError, Unsupported, UnsupportedMediaType, ValidationError
from engine.text.images import MAX_IMAGES, TOO_MANY, check_header
from engine.types import EncodedImage, ModelInfo
from routes.chat.output import CALL, CALL_END
from routes.parsing import image_in_base64, image_in_data_url

# In the result of a tool, which an agent cannot take back, in place of what would be refused of a user.
UNREAD_IMAGE = "[An image, which is not read here.]"
UNREAD_DOCUMENT = "[A document, of which only plain text is read here.]"
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


Part = str | ImageSource
ReadPart = Part | EncodedImage  # an image of a result has been read before it is added
Content = str | Sequence[Part]


class ConversationBuilder:
    """The messages of one request, in order, and their images. info: of the model that will read them.

    Each method adds a message. Raises ServiceError with the path of the image for one that cannot be read.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._messages: list[dict[str, Any]] = []
        self._images: list[EncodedImage] = []
        self._of_results: deque[tuple[dict[str, str], EncodedImage]] = deque()  # those among them, and their parts

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The messages as a chat template takes them."""
        return tuple(self._messages)

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """The images of all messages, in order."""
        return tuple(self._images)

    def system(self, content: Content) -> None:
        """Add instructions."""
        self._add("system", content)

    def user(self, content: Content) -> None:
        """Add a message of the user."""
        self._add("user", content)

    def assistant(self, content: Content, calls: Sequence[PastCall] = ()) -> None:
        """Add an earlier answer. Its calls become text for a model whose chat template has none."""
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

        A text stands for an image that is not read or turns out to be damaged, and for the oldest of more than a
        request may carry: the program that sends them on cannot do without.
        """
        found = content if isinstance(content, str) else [self._of_result(part) for part in content]
        if self._info.uses_tools:
            self._add("tool", found)
            self._messages[-1]["tool_call_id"] = call_id
        else:
            found = [found] if isinstance(found, str) else found
            self._add_calls("user", ["<tool_response>", *found, "</tool_response>"])

    def _of_result(self, part: Part) -> ReadPart:
        if isinstance(part, str):
            return part
        try:
            return replace(self._read(part), instead=UNREAD_IMAGE)
        except ServiceError:
            return UNREAD_IMAGE

    def _add_calls(self, role: str, lines: Sequence[ReadPart]) -> None:
        """Add a message that stands for calls or a result, each part on a line of its own."""
        parted = [part for line in lines if line for part in ("\n", line)][1:]
        if all(isinstance(part, str) for part in parted):
            self._add(role, "".join(map(str, parted)))
        else:
            self._add(role, parted)
        self._messages[-1][WITH_CALLS] = True

    def _add(self, role: str, content: str | Sequence[ReadPart]) -> None:
        shown = content if isinstance(content, str) else [self._part(part) for part in content]
        self._messages.append({"role": role, "content": shown})

    def _part(self, part: ReadPart) -> dict[str, str]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        full = len(self._images) == MAX_IMAGES
        if full and not self._of_results:
            if isinstance(part, EncodedImage):
                return {"type": "text", "text": UNREAD_IMAGE}
            raise ValidationError(TOO_MANY, part.path)
        image = part if isinstance(part, EncodedImage) else self._read(part)
        if full:
            self._forget_a_result()
        shown = {"type": "image"}
        self._images.append(image)
        if image is part:
            self._of_results.append((shown, image))
        return shown

    def _forget_a_result(self) -> None:
        """Put a text in place of the oldest image of a result."""
        part, oldest = self._of_results.popleft()
        part |= {"type": "text", "text": UNREAD_IMAGE}
        self._images = [image for image in self._images if image is not oldest]

    def _read(self, source: ImageSource) -> EncodedImage:
        if not self._info.vision:
            raise Unsupported("This model does not read images.", source.path)
        if source.url is not None and source.url[:4].lower() == "http":
            raise Unsupported("Images are not fetched from other addresses; send a base64 data URL.", source.path)
        try:
            data = image_in_base64(source.base64) if source.url is None else image_in_data_url(source.url)
            return replace(check_header(data), param=source.path)
        except (ValidationError, PayloadTooLarge, UnsupportedMediaType) as error:
            error.param = source.path
            raise


def has_calls(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a conversation has calls or results, so that a model may write more of them by habit."""
    return any(name in message for message in messages for name in ("tool_calls", "tool_call_id", WITH_CALLS))


def _as_text(call: PastCall) -> str:
    """Return a call as the models that the service is made for write it."""
    return f'{CALL}\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}\n{CALL_END}'


def _shown(call: PastCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
