"""The requests of the pages and of /api/v1, as models that hold them to the limits of this service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model
from pydantic_core import PydanticCustomError

from config import Settings
from engine.errors import Message
from engine.text.images import MAX_IMAGES, TOO_MANY
from routes.locale import LOCALES
from routes.validation import RequestModel, Wording

MAX_BATCH = 256
MAX_TURNS = 50
MAX_TEMPERATURE = 2.0
SWITCH = {"": None, "true": True, "false": False}
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
# What `_readable` accepts, for OpenAPI: a text with at least one character that is not white space.
SPACES = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
READABLE = rf"^[^\x00]*[^\x00{SPACES}][^\x00]*$"
# Bounded: of a long run of digits the pattern would try every place where it might be divided.
DECIMAL_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?")


def _without_nul(text: str) -> str:
    """Refuse a text with a NUL, which tokenizers do not expect."""
    if "\0" in text:
        raise PydanticCustomError("nul", "nul")
    return text


def _readable(text: str) -> str:
    """Refuse a text of white space alone, or with a NUL."""
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    return _without_nul(text)


def _as_answered(text: str) -> str:
    """Replace each NUL, which a model may well write: whatever it has answered can be gone on from."""
    return text.replace("\0", "\ufffd")


class Turn(RequestModel):
    """A question and its answer, earlier in a conversation."""

    prompt: Annotated[str, AfterValidator(_without_nul)]
    text: Annotated[str, AfterValidator(_as_answered)]


History = Annotated[
    list[Turn] | None,
    Field(
        max_length=MAX_TURNS,
        description=f"a list of at most {MAX_TURNS} turns, each with its prompt and its text, the oldest first",
    ),
]


def _in_list(value: object) -> object:
    """Take one for a list of one."""
    return [value] if isinstance(value, str) else value


class TextRequest(RequestModel):
    """A text to generate."""

    prompt: str
    max_tokens: int | None = None
    temperature: float | None = None


class StreamedTextRequest(TextRequest):
    """A text to generate, as the API accepts it: the answer may be streamed, and may go on from a conversation."""

    names_parts: ClassVar[bool] = True

    stream: bool | None = None
    history: History = None


class TextForm(TextRequest):
    """A text to generate, as the form of the page has it: with the fields of its templates and follow-ups."""

    conversation: Annotated[str | None, Field(description="of the page with the answer")] = None
    change: Annotated[str | None, Field(description="what should change, in words")] = None
    follow_up: Annotated[str | None, Field(description="the button: the name of a usual change, or `written`")] = None
    template: Literal["free", "listing", "title", "reply", "price_line", "photo_title", "photo_condition"] | None = None
    item: str | None = None
    condition: str | None = None
    price: str | None = None
    city: str | None = None
    message: str | None = None
    length: Literal["short", "usual", "detailed"] | None = None
    tone: Literal["neutral", "friendly", "businesslike"] | None = None


class BatchRequest(RequestModel):
    """Texts to generate; each is a prompt, or an object with the fields of a single request, and fails alone."""

    prompts: Annotated[
        list[Any],
        Field(
            min_length=1,
            max_length=MAX_BATCH,
            fail_fast=True,
            description=f"a list of 1 to {MAX_BATCH} prompts, texts or objects",
        ),
    ]


class ImageRequest(TextForm):
    """A question about images, which are other parts of the form."""


class StreamedImageRequest(StreamedTextRequest):
    """A question about images, as the API accepts it."""


class ImageJsonRequest(StreamedImageRequest):
    """A question about images in JSON; image: a base64 data URL, or a list of them."""

    image: Annotated[list[str], BeforeValidator(_in_list)]


class TypedForm(RequestModel):
    """What was typed into a form of the page, which is shown again.

    kept_image: images in base64, with commas between them.
    """

    prompt: str | None = None
    max_tokens: str | None = None
    temperature: str | None = None
    template: str | None = None
    item: str | None = None
    condition: str | None = None
    price: str | None = None
    city: str | None = None
    message: str | None = None
    length: str | None = None
    tone: str | None = None
    kept_image: Annotated[str, Field(json_schema_extra={"format": "image-base64"})] | None = None


class LanguageForm(TypedForm):
    """The language that a visitor chooses, and the page to return to, or what was typed into a form of it."""

    language: Annotated[str, Field(json_schema_extra={"enum": sorted(LOCALES)})]
    page: str | None = None


class LanguageQuery(RequestModel):
    """form: the one whose fields come along, to be shown again."""

    form: Literal["text", "image"] | None = None


class FeedbackRequest(RequestModel):
    """What somebody thought of an answer: its request id, and `up` or `down`."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    rating: Literal["up", "down"]


class TokenForm(RequestModel):
    """A form of a page that only acts; csrf_token: of the page that was shown."""

    csrf_token: str | None = None


class KeyForm(TokenForm):
    """A client key; what is empty is taken back to its default. Money in the operator's currency, times in UTC."""

    name: str
    expires_at: str | None = None
    models: str | None = None
    priority: str | None = None
    notes: str | None = None
    requests_per_minute: str | None = None
    requests_per_hour: str | None = None
    concurrent_requests: str | None = None
    tokens_per_minute: str | None = None
    tokens_per_day: str | None = None
    tokens_per_month: str | None = None
    money_per_day: str | None = None
    money_per_month: str | None = None


class RotateForm(TokenForm):
    """How long the old secret stays good: `none`, `hour`, `day` or `week`."""

    grace: str | None = None


class SignInForm(TokenForm):
    """A key: the operator's, or a client's."""

    key: str


class OperatorSignInForm(SignInForm):
    """The operator's key, and the page under /status to go on to."""

    page: str | None = None


class ClientSignInForm(SignInForm, TypedForm):
    """A client's key or token, and what was typed into a form of the page before. form: which, `text` or `image`."""

    form: str | None = None


@dataclass(frozen=True, slots=True)
class RequestModels:
    """The models with the limits of this service: of the page's forms (text, image), and of the API."""

    text: type[TextForm]
    text_in_batch: type[TextRequest]
    text_json: type[StreamedTextRequest]
    batch: type[BatchRequest]
    image: type[ImageRequest]
    image_form: type[StreamedImageRequest]
    image_json: type[ImageJsonRequest]


# The models follow from the settings alone, and to build them is most of the work of building an application.
@cache
def request_models(settings: Settings) -> RequestModels:
    """Return the models with the limits of the settings; a field's description completes "<field> must be ..."."""
    limits = settings.generation
    fields: dict[str, Any] = {
        "prompt": Annotated[
            str,
            Field(
                max_length=limits.max_prompt_length,
                description="a text that is not blank",
                json_schema_extra={"pattern": READABLE},
            ),
            AfterValidator(_readable),
            _prompt_wording(limits.max_prompt_length),
        ],
        "max_tokens": (
            Annotated[
                Annotated[int, Field(ge=1, le=limits.max_tokens_limit)] | None,
                _max_tokens_wording(limits.max_tokens_limit),
            ],
            Field(None, description=f"an integer from 1 to {limits.max_tokens_limit}"),
        ),
        "temperature": (
            Annotated[Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None, _temperature_wording()],
            Field(None, description=f"a number from 0 to {MAX_TEMPERATURE:g}"),
        ),
    }
    stream: Any = (bool | None, Field(None, description="true or false"))
    image = Annotated[
        list[str],
        BeforeValidator(_in_list),
        Field(
            min_length=1,
            max_length=MAX_IMAGES,
            description=f"a base64 data URL, or a list of 1 to {MAX_IMAGES} of them",
        ),
        Wording({"too_long": TOO_MANY}),
    ]
    return RequestModels(
        text=create_model("TextForm", __base__=TextForm, **fields),
        text_in_batch=create_model("TextInBatch", __base__=TextRequest, **fields),
        text_json=create_model("TextGenerateRequest", __base__=StreamedTextRequest, **fields, stream=stream),
        batch=BatchRequest,
        image=create_model("ImageForm", __base__=ImageRequest, **fields),
        image_form=create_model("ImageAnalyzeForm", __base__=StreamedImageRequest, **fields, stream=stream),
        image_json=create_model("ImageAnalyzeRequest", __base__=ImageJsonRequest, **fields, stream=stream, image=image),
    )


def _prompt_wording(longest: int) -> Wording:
    characters = Message("prompt_characters", "prompt has characters that are not allowed in a text.")
    return Wording(
        {
            "missing": Message("prompt_missing", "prompt is required."),
            "blank": Message("prompt_blank", "prompt must not be empty."),
            "nul": characters,
            "string_unicode": characters,
            "string_too_long": Message("prompt_too_long", "Prompt too long. Maximum length: {n} characters", n=longest),
        }
    )


def _max_tokens_wording(most: int) -> Wording:
    return Wording(otherwise=Message("max_tokens_range", "max_tokens must be an integer from 1 to {n}.", n=most))


def _temperature_wording() -> Wording:
    most = f"{MAX_TEMPERATURE:g}"
    return Wording(otherwise=Message("temperature_range", "temperature must be a number from 0 to {n}.", n=most))


def numbers_in(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return a form's fields with numbers and switches converted; blank ones count as absent."""
    values: dict[str, Any] = dict(fields)
    for name, pattern, number in (("max_tokens", WHOLE_NUMBER, int), ("temperature", DECIMAL_NUMBER, float)):
        text = fields.get(name, "").strip()
        if not text:
            values.pop(name, None)
        elif pattern.fullmatch(text):
            values[name] = number(text)
    if "stream" in values:
        values["stream"] = SWITCH.get(values["stream"].strip(), values["stream"])
    return values
