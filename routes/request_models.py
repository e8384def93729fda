"""The requests of the pages and of /api/v1, as models that hold them to the limits of this service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model
from pydantic_core import PydanticCustomError

from config import Settings
from routes.validation import RequestModel

MAX_BATCH = 256
MAX_TEMPERATURE = 2.0
SWITCH = {"": None, "true": True, "false": False}
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
# What `_readable` takes, for the description of the API: any text with a character that is not white space.
SPACES = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
READABLE = rf"^[^\x00]*[^\x00{SPACES}][^\x00]*$"
DECIMAL_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


def _readable(text: str) -> str:
    """Refuse what only looks like a text: nothing but blanks, or a NUL that no tokenizer expects."""
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    if "\0" in text:
        raise PydanticCustomError("nul", "nul")
    return text


class ApiRequest(RequestModel):
    """A request of the pages or of /api/v1, where every sentence is about a whole field."""

    sentences = {
        **RequestModel.sentences,
        "blank": "{path} must not be empty.",
        "nul": "{path} has characters that are not allowed in a text.",
        "string_unicode": "{path} has characters that are not allowed in a text.",
        "string_too_long": "Prompt too long. Maximum length: {max_length} characters",
    }


class TextRequest(ApiRequest):
    """A text to be written."""

    prompt: str
    max_tokens: int | None = None
    temperature: float | None = None


class StreamedTextRequest(TextRequest):
    """The same over the API, where the answer may be streamed as it comes."""

    stream: bool | None = None


class BatchRequest(ApiRequest):
    """Texts to be written; each is a prompt, or an object as one text is asked for, and fails or succeeds alone."""

    prompts: Annotated[
        list[str | dict[str, Any]],
        Field(min_length=1, max_length=MAX_BATCH, description=f"a list of 1 to {MAX_BATCH} prompts, texts or objects"),
    ]


class ImageRequest(TextRequest):
    """A question about a picture, which travels beside it in a form."""


class StreamedImageRequest(ImageRequest):
    """The same over the API."""

    stream: bool | None = None


class ImageJsonRequest(StreamedImageRequest):
    """The same in JSON; `image` is a base64 data URL."""

    image: str


class LanguageForm(RequestModel):
    """The language a visitor has chosen, and the page to lead back to."""

    page: str
    language: str


class SignInForm(RequestModel):
    """The operator's key."""

    key: str


@dataclass(frozen=True, slots=True)
class RequestModels:
    """The models with the limits of this service in them: of the pages' forms (text, image), and of the API."""

    text: type[TextRequest]
    text_json: type[StreamedTextRequest]
    batch: type[BatchRequest]
    image: type[ImageRequest]
    image_form: type[StreamedImageRequest]
    image_json: type[ImageJsonRequest]


def request_models(settings: Settings) -> RequestModels:
    """Return the models that hold requests to the settings' limits; descriptions complete "<field> must be ..."."""
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
        ],
        "max_tokens": (
            Annotated[int, Field(ge=1, le=limits.max_tokens_limit)] | None,
            Field(None, description=f"an integer from 1 to {limits.max_tokens_limit}"),
        ),
        "temperature": (
            Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None,
            Field(None, description=f"a number from 0 to {MAX_TEMPERATURE:g}"),
        ),
    }
    stream: Any = (bool | None, Field(None, description="true or false"))
    image = Annotated[str, Field(description="a base64 data URL")]
    return RequestModels(
        text=create_model("TextForm", __base__=TextRequest, **fields),
        text_json=create_model("TextGenerateRequest", __base__=StreamedTextRequest, **fields, stream=stream),
        batch=BatchRequest,
        image=create_model("ImageForm", __base__=ImageRequest, **fields),
        image_form=create_model("ImageAnalyzeForm", __base__=StreamedImageRequest, **fields, stream=stream),
        image_json=create_model("ImageAnalyzeRequest", __base__=ImageJsonRequest, **fields, stream=stream, image=image),
    )


def numbers_in(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return a form's fields with numbers and switches for those that are; blank ones count as absent."""
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
