"""What generation requests may say: strict models made from the settings, and one plain sentence for each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails, PydanticCustomError

from config import Settings
from engine.errors import ValidationError
from routes.parsing import shown_name

MAX_BATCH = 256
MAX_TEMPERATURE = 2.0
SWITCH = {"": None, "true": True, "false": False}
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
# What `_readable` takes, for the description of the API: any text with a character that is not white space.
SPACES = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
READABLE = rf"^[^\x00]*[^\x00{SPACES}][^\x00]*$"
DECIMAL_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")

Asked = TypeVar("Asked", bound=BaseModel)


def _readable(text: str) -> str:
    """Refuse what only looks like a text: nothing but blanks, or a NUL that no tokenizer expects."""
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    if "\0" in text:
        raise PydanticCustomError("nul", "nul")
    return text


class TextRequest(BaseModel):
    """A text to be written."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str
    max_tokens: int | None = None
    temperature: float | None = None


class StreamedTextRequest(TextRequest):
    """The same over the API, where the answer may be streamed as it comes."""

    stream: bool | None = None


class BatchRequest(BaseModel):
    """Texts to be written; each is a prompt, or an object as one text is asked for, and fails or succeeds alone."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

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


def validated(model: type[Asked], values: Mapping[str, Any]) -> Asked:
    """Return the request that the values make. Raises ValidationError with a sentence for the first mistake."""
    try:
        return model.model_validate(values)
    except PydanticError as error:
        raise _refusal(model, error.errors(include_url=False, include_input=False)[0]) from None


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


def _refusal(model: type[BaseModel], mistake: ErrorDetails) -> ValidationError:
    name = shown_name(str(mistake["loc"][0]))
    match mistake["type"]:
        case "extra_forbidden":
            sentence = f"Unknown field: {name}."
        case "missing":
            sentence = f"{name} is required."
        case "blank":
            sentence = f"{name} must not be empty."
        case "nul" | "string_unicode":
            sentence = f"{name} has characters that are not allowed in a text."
        case "string_too_long":
            sentence = f"Prompt too long. Maximum length: {mistake['ctx']['max_length']} characters"
        case _:
            sentence = f"{name} must be {model.model_fields[name].description}."
    return ValidationError(sentence, name)
