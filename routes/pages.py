"""The page with both forms. It is rendered on the server and works without JavaScript; `app.js` enhances it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flask import Blueprint, jsonify, redirect, render_template, request, url_for
from flask import Response as FlaskResponse
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from edge.errors import Forbidden, RateLimitExceeded, Unauthorized, meaning_of
from edge.request_state import request_state
from edge.turns import elsewhere
from engine.errors import (
    DeadlineExceeded,
    Message,
    NotReady,
    PayloadTooLarge,
    RetryLater,
    ServiceError,
    UnsupportedMediaType,
)
from engine.text import images
from engine.types import EncodedImage
from routes import follow_up, kept_image, operator_page, request_reading, seller_templates
from routes.assets import asset
from routes.compressed import compressed
from routes.generation import GenerationResult, generate
from routes.generation_run import watching
from routes.locale import LOCALES, visitors_locale
from routes.long_text import utf8
from routes.markdown import plain, rendered
from routes.privacy import readers
from routes.request_models import MAX_TEMPERATURE
from routes.services import services
from routes.state import state_of_service
from routes.status import is_for_the_operator, operators_sign_in_page
from routes.thumbnail import thumbnail_url
from routes.visitor import Kept, Visitor, visitor

pages = Blueprint("pages", __name__)

MIB = 1024 * 1024
MAX_UNREAD = 5 * MIB  # of a form with an image that can be kept (kept_image.MAX_BYTES)
FORMS = {"/avibe": "text", "/avision": "image"}
EXAMPLE_PARAMETERS = {"text": "text", "image": "picture"}  # in the address, by form
ICON_SIZES = (192, 512)  # pixels; those that an installation asks for
FORMATTED_BESIDE_FAILURE = 4000  # characters of a conversation; a refusal, as of one too many, costs little
BACKGROUND = "#f4f6f9"  # of the style sheet
# Browsers give icons one of two types, and animated PNG files one of their own.
IMAGE_KINDS = ("png", "apng", "jpeg", "webp", "gif", "bmp", "avif", "x-icon", "vnd.microsoft.icon")
IMAGE_TYPES = tuple(f"image/{kind}" for kind in IMAGE_KINDS)


@pages.get("/")
def index() -> FlaskResponse:
    """Show both forms; `?text=1` and `?picture=1` fill in an example."""
    typed = {kind: _example(kind) for kind in FORMS.values()}
    return compressed(_render(typed={kind: {"prompt": text} for kind, text in typed.items() if text}))


@pages.get("/state")
def state() -> str:
    """Show the state of the service, for an open page to refresh."""
    locale = visitors_locale()
    return render_template(
        "_state.html", t=locale.texts, number=locale.number, stage=locale.stage, **state_of_service()
    )


@pages.get("/manifest.webmanifest")
def manifest() -> FlaskResponse:
    """Describe the page as an application that can be installed."""
    texts = visitors_locale().texts
    icons = [{"src": asset(f"icon-{size}.png"), "sizes": f"{size}x{size}", "type": "image/png"} for size in ICON_SIZES]
    start = url_for("pages.index")
    described = {"name": texts["title"], "short_name": texts["heading"], "description": texts["description"]}
    response = jsonify(
        **described,
        lang=visitors_locale().code,
        id=start,
        start_url=start,
        scope=start,
        display="standalone",
        background_color=BACKGROUND,
        theme_color=BACKGROUND,
        icons=icons,
    )
    response.mimetype = "application/manifest+json"
    return response


@pages.get("/avibe", endpoint="avibe_again")
@pages.get("/avision", endpoint="avision_again")
def form_again() -> Response:
    """Redirect to the forms."""
    return redirect(url_for("pages.index"), 303)


@pages.post("/avibe")
def avibe() -> bytes:
    """Generate a text and show the page with it."""
    body, turns = request_reading.text_in_form()
    return _render(answer=generate("avibe", body, history=turns))


@pages.post("/avision")
def avision() -> bytes:
    """Answer a question about an image and show the page with both."""
    body, shown, turns = request_reading.image_in_form()
    result = generate("avision", body, shown, turns)
    return _render(answer=result, thumbnails=_thumbnails(shown))


def _thumbnails(shown: Sequence[EncodedImage]) -> list[str]:
    """Return small copies of the images to show, none where there is no capacity for them now."""
    with elsewhere(), suppress(RetryLater, DeadlineExceeded), watching() as wanted:
        return [thumbnail_url(image, services().models.image_decoder, wanted) for image in shown]
    return []


def failure_page(error: ServiceError, status: int) -> str | bytes:
    """Return the page of an error: the submitted form with the message, or a page of its own."""
    locale = visitors_locale()
    code = meaning_of(error).code
    failure = {
        "message": locale.sentence(error.message, code),
        "next": "" if _says_what_to_do(error) else locale.texts["next"][code],
        "retry_after": error.retry_after if isinstance(error, RetryLater) else None,
    }
    form = _form()
    if form is not None:
        _forget_or_remember(error)
        if isinstance(error, Unauthorized):
            state = request_state()
            return sign_in_page(Kept(form, state.typed, state.images), problem_of(error))
        return _render(failure=failure)
    if is_for_the_operator(error):
        return operators_sign_in_page(operator_page.requested_address())
    return render_template(
        "failure.html",
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        failure=failure,
        request_id=request_state().request_id,
    )


def _says_what_to_do(error: ServiceError) -> bool:
    """True for a refusal whose message has what to do next, which its code alone does not tell."""
    if isinstance(error, UnsupportedMediaType):
        return not isinstance(error.message, Message)  # of the request, and not of a picture in it
    return isinstance(error, Forbidden) and isinstance(error.message, Message)


def _forget_or_remember(error: ServiceError) -> None:
    """Keep what was typed, even if its body was not read yet, except images that the model can never read."""
    unread = not request_state().typed  # a body that was read is there no longer
    if isinstance(error, Unauthorized | Forbidden) and unread:
        _remember_unread()
    elif isinstance(error, RateLimitExceeded | NotReady) and unread and "Content-Encoding" not in request.headers:
        with suppress(ServiceError, HTTPException):
            request_reading.remember()
    elif isinstance(error, PayloadTooLarge | UnsupportedMediaType) or getattr(error, "param", None) == "image":
        request_state().images = ()


def _remember_unread() -> None:
    """Keep the form of somebody who has to sign in first, unless it is longer than what can be kept."""
    row, size = request_state().row, request.content_length or 0
    known = row is not None and request.mimetype in row.bodies and "Content-Encoding" not in request.headers
    if known and size <= MAX_UNREAD:
        request.max_content_length = MAX_UNREAD + 1
        with suppress(ServiceError, HTTPException):
            request_reading.remember()


def sign_in_page(kept: Kept | None = None, problem: str = "", retry_after: int | None = None) -> bytes:
    """Return the page with the form that takes a client's key. kept: what was typed before; problem: with the key."""
    return _render(
        seen=Visitor(signed_out=True),
        sign_in={"problem": problem, "retry_after": retry_after, "kept": kept, "typed": kept.typed if kept else {}},
        kept=kept.images if kept else (),
    )


def problem_of(error: Unauthorized) -> str:
    """Return what is wrong with the key that a visitor has, or has not."""
    if getattr(error, "reason", None) == "missing":
        missing: str = visitors_locale().texts["key_sign_in"]["missing"]
        return missing
    return visitors_locale().sentence(error.message, "unauthorized")


def page_with(kept: Kept, seen: Visitor) -> bytes:
    """Return the page with what was typed before its visitor signed in."""
    return _render(typed={kept.form: dict(kept.typed)}, kept=kept.images, seen=seen)


def _render(
    answer: GenerationResult | None = None,
    thumbnails: Sequence[str] = (),
    failure: dict[str, Any] | None = None,
    typed: dict[str, dict[str, str]] | None = None,
    kept: Sequence[bytes] = (),
    seen: Visitor | None = None,
    sign_in: dict[str, Any] | None = None,
) -> bytes:
    locale = visitors_locale()
    form = _form()
    kept = kept or request_state().images
    seen, typed = seen or visitor(), typed or {form or "": dict(request_state().typed)}
    text, dropped = (answer.text, answer.dropped_turns or 0) if answer else (None, 0)
    talk = follow_up.talk(form, typed[form], text, dropped) if form in typed else follow_up.Talk()
    cheap = failure is None or sum(len(turn.text) for turn in talk.turns) <= FORMATTED_BESIDE_FAILURE
    page = render_template(
        "index.html",
        t=locale.texts,
        lang=locale.code,
        languages=LOCALES,
        form=form,
        visitor=seen,
        sign_in=sign_in or {"typed": {}},
        example_parameters=EXAMPLE_PARAMETERS,
        typed=typed,
        talk=talk,
        rendered=rendered if cheap else plain,
        answer=answer,
        markdown=rendered(answer.text) if answer else "",
        thumbnails=thumbnails,
        failure=failure,
        has_image=bool(kept),
        kept_field=kept_image.FIELD,
        kept=kept_image.packed(kept) if kept else None,
        number=locale.number,
        stage=locale.stage,
        duration=locale.duration,
        request_id=request_state().request_id,
        limits=_limits(),
        templates=seller_templates.TEMPLATES,
        seller_fields={kind: seller_templates.fields_of(kind) for kind in FORMS.values()},
        lengths=seller_templates.LENGTHS,
        tones=seller_templates.TONES,
        client_texts=locale.for_scripts(),
        readers=readers(),
        **state_of_service(),
    )
    return utf8(page)  # which is long where images are kept


def _form() -> str | None:
    """Return the kind of the form that was sent, None for another request."""
    return FORMS.get(request.path.removesuffix("/"))


def _limits() -> dict[str, Any]:
    """Return the limits that the page shows or checks, as the service itself enforces them."""
    settings = services().settings.generation
    return {
        "prompt": settings.max_prompt_length,
        "max_tokens": settings.max_tokens_limit,
        "default_tokens": {kind: seller_templates.default_tokens(kind) for kind in FORMS.values()},
        "detailed_tokens": {kind: seller_templates.detailed_tokens(kind) for kind in FORMS.values()},
        "temperature": MAX_TEMPERATURE,
        "default_temperature": settings.temperature,
        "image_types": IMAGE_TYPES,
        "image_bytes": images.MAX_IMAGE_BYTES,
        "image_pixels": images.MAX_IMAGE_PIXELS,
        "image_side": images.MAX_IMAGE_SIDE,
        "image_aspect": images.MAX_IMAGE_ASPECT,
        "image_mib": images.MAX_IMAGE_BYTES // MIB,
        "images_mib": images.MAX_IMAGES_BYTES // MIB,
        "images": images.MAX_IMAGES,
        "image_look": services().models.get("avision").info.image_pixels,
        "images_bytes": images.MAX_IMAGES_BYTES,
    }


def _example(kind: str) -> str:
    """Return the example that the query names, which is how visitors without JavaScript choose one."""
    texts: list[str] = visitors_locale().texts[kind]["examples"]
    number = request.args.get(EXAMPLE_PARAMETERS[kind], 0, type=int)
    return texts[number - 1] if 0 < number <= len(texts) else ""
