"""The page with both forms, without JavaScript."""

import re
from io import BytesIO

import pytest
from PIL import Image

from config import load_settings
from edge.errors import ERRORS
from engine.errors import Message, Overloaded
from engine.text import images
from engine.types import Progress, Status
from models import ModelSet
from routes.locale import LOCALES
from telemetry.metrics.machine import GpuFigures
from tests.fakes import ScriptedBackend, image_bytes, multipart
from tests.routes.test_locale import messages_in_the_code, placeholders

RU = {"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.5"}


def upload(data=None, **fields):
    return multipart([("image", (data or image_bytes(), "a.png")), ("prompt", "Что это?"), *fields.items()])


def test_the_page_has_both_forms(client):
    """They post to /avibe and /avision, and the page has no inline scripts."""
    page = client.get("/").text
    assert re.search(r'<form action="/avibe#outcome" method="post"', page)
    assert re.search(r'<form action="/avision#outcome" method="post" enctype="multipart/form-data"', page)
    assert 'data-limit="2000"' in page
    assert not re.search(r"<script(?![^>]*src=)", page)
    assert not re.search(r"\son\w+=|style=", page)


def test_every_image_of_a_page_has_a_source(client, app):
    """As HTML requires: with an answer, with a failure, with an image kept, and on the other pages."""
    pages = [client.get(path).text for path in ("/", "/status", "/api/docs", "/nothing", "/?picture=1")]
    pages += [client.post("/avision", **upload()).text, client.post("/avision", **upload(prompt="x", stream="x")).text]
    pages += [client.post("/avibe", data={"prompt": prompt}).text for prompt in ("Hello", "")]
    images = [image for page in pages for image in re.findall(r"<img\b[^>]*>", page)]
    assert images
    assert all(re.search(r'\ssrc="[^"]+"', image) for image in images)


@pytest.mark.parametrize(
    ("accepted", "lang"), [("ru", "ru"), ("en-GB", "en"), ("de, ru;q=0.5", "ru"), ("de", "en"), ("", "en"), ("*", "en")]
)
def test_the_visitors_language_is_used(client, accepted, lang):
    """Russian or English by Accept-Language, with Vary for caches."""
    response = client.get("/", headers={"Accept-Language": accepted})
    assert f'<html lang="{lang}">' in response.text
    assert "Accept-Language" in response.headers["Vary"]


def test_a_text_form_is_answered_with_its_figures(client, avibe):
    """Answer, tokens, seconds, speed and request id; the form keeps its values."""
    page = client.post("/avibe", data={"prompt": "Hello & <b>"}, headers={"X-Request-ID": "id-7"})
    assert page.status_code == 200
    assert "An answer." in page.text
    assert "Hello &amp; &lt;b&gt;</textarea>" in page.text
    shown = dict(re.findall(r'data-figure="(\w+)">([^<]*)<', page.text.partition("<template")[0]))
    assert shown.pop("seconds")
    assert shown == {
        "input_tokens": "7",
        "generated_tokens": "5",
        "first_token": "500\N{NO-BREAK SPACE}ms",
        "tokens_per_second": "5.0",
        "request_id": "id-7",
    }
    assert page.headers["X-Model"] == "avibe"
    assert avibe.only.prompt.messages[0]["content"] == "Hello & <b>"


def test_line_ends_of_a_form_count_as_one_character(client, avibe):
    """A browser sends CRLF; the model and the limit see the single character that was typed."""
    assert client.post("/avibe", data={"prompt": "a\r\nb" + "x" * 1997}).status_code == 200
    assert avibe.only.prompt.messages[0]["content"].startswith("a\nb")


def test_an_image_form_is_answered_with_the_image(client, avision):
    """The page shows a thumbnail, made from the pixels alone."""
    page = client.post("/avision", **upload(), headers=RU)
    assert page.status_code == 200
    assert 'src="data:image/jpeg;base64,' in page.text
    assert "An answer." in page.text
    assert "Что это?</textarea>" in page.text
    assert "img-src 'self' data:" in page.headers["Content-Security-Policy"]
    assert avision.decoded == [(64, 48)]


def test_what_a_model_says_stays_text(client, avibe):
    """Markup and scripts in an answer are shown as text."""
    avibe.text = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    page = client.post("/avibe", data={"prompt": "x"}).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_an_empty_answer_is_shown_as_empty(client, avibe):
    """An empty answer is stated as such."""
    avibe.text = " "
    assert "returned an empty answer" in client.post("/avibe", data={"prompt": "x"}).text


@pytest.mark.parametrize(
    ("prompt", "english", "russian"),
    [
        ("", "prompt must not be empty.", "Введите текст запроса."),
        ("x" * 2001, "Prompt too long. Maximum length: 2000 characters", "Не больше 2000 символов"),
    ],
)
def test_mistakes_are_shown_in_the_form_in_both_languages(client, prompt, english, russian):
    """The status of the JSON route, the message beside the form, and the form keeps its values."""
    for headers, sentence in (({}, english), (RU, russian)):
        page = client.post("/avibe", data={"prompt": prompt}, headers=headers)
        assert page.status_code == 400
        assert sentence in page.text
        assert f"{prompt}</textarea>" in page.text


@pytest.mark.parametrize(
    ("data", "status", "russian"),
    [
        (b"text", 415, "не похож на картинку"),
        (image_bytes()[:60], 400, "повреждена"),
        (image_bytes(size=(300, 1)), 400, "слишком узкая"),
    ],
)
def test_a_bad_image_is_shown_in_the_form(client, data, status, russian):
    """400, 413 or 415 as under /api, in the visitor's language."""
    page = client.post("/avision", **upload(data), headers=RU)
    assert page.status_code == status
    assert russian in page.text
    assert "data:image" not in page.text


def test_overload_is_shown_with_retry_after_and_decodes_nothing(client, avision):
    """503 with Retry-After, and no image is decoded."""
    avision.capacity = 0
    page = client.post("/avision", **upload(), headers=RU)
    assert (page.status_code, page.headers["Retry-After"]) == (503, "3")
    assert "Попробуйте ещё раз через 3\N{NO-BREAK SPACE}с." in page.text
    assert avision.decoded == []


def test_a_message_without_translation_is_shown_by_its_code(client, avibe):
    """Every error is shown in Russian to a Russian visitor."""
    avibe.refusal = Overloaded("Some sentence without a translation.", 1)
    page = client.post("/avibe", data={"prompt": "x"}, headers=RU).text
    assert "Сейчас все места заняты." in page
    assert "Some sentence" not in page


@pytest.mark.parametrize("path", ["/avibe", "/avision"])
def test_the_address_of_an_answer_leads_back_to_the_forms(client, path):
    """A GET of an answer's address redirects to the forms."""
    response = client.get(path)
    assert (response.status_code, response.headers["Location"]) == (303, "/")


def test_other_form_encodings_are_read_too(client):
    """`curl -F` sends multipart where a browser would not."""
    assert client.post("/avibe", **multipart([("prompt", "x")])).status_code == 200
    stray = multipart([("prompt", "x"), ("image", (image_bytes(), "a.png"))])
    assert client.post("/avibe", **stray).status_code == 400


@pytest.mark.parametrize("body", [b"prompt=%ff", b"prompt=\xff", b"&".join([b"a=b"] * 200)])
def test_a_broken_form_is_a_mistake_of_the_request(client, body):
    """Invalid UTF-8, escaped or raw, and too many fields."""
    response = client.post("/avibe", data=body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 400


def test_raw_utf8_in_a_form_is_read(client, avibe):
    """What `curl -d` sends."""
    body = "prompt=Привет, мир".encode()
    client.post("/avibe", data=body, content_type="application/x-www-form-urlencoded")
    assert avibe.only.prompt.messages[0]["content"] == "Привет, мир"


def test_loading_is_shown_with_its_progress(client, avibe, avision):
    """The progress is shown; the page never refreshes itself, which would lose what is typed without JavaScript."""
    avibe.become(Status.LOADING, progress=Progress("weights", 4_000_000_000, 16_000_000_000, 3))
    page = client.get("/").text
    assert "http-equiv" not in page
    assert '<a href="/" target="look">' in page
    assert "3,814 of 15,258\N{NO-BREAK SPACE}MiB" in page
    assert 'data-status="loading"' in page


STAGES = sorted({found for found in messages_in_the_code() if found[0].startswith("stage_")})


@pytest.mark.parametrize(("key", "template"), STAGES)
def test_each_stage_of_a_load_is_shown_with_its_time_and_bytes(client, avibe, key, template):
    """In the language of the visitor, whatever the stage: a load that has begun never reads as one that waits."""
    values = {name: number for number, name in enumerate(placeholders(template), 9)}
    stage = Message(key, template, **values)
    avibe.become(Status.LOADING, progress=Progress(stage, 16_000_000_000, 16_000_000_000, 42.5))
    for code, unit, bytes_shown in (("en", "s", "15,258 of 15,258"), ("ru", "с", "15\N{NO-BREAK SPACE}258 из")):
        page = client.get("/state", headers={"Accept-Language": code}).text
        said = LOCALES[code].sentence(stage, "not_ready")
        assert f"{said}, 42\N{NO-BREAK SPACE}{unit}, {bytes_shown}" in page
        assert page.count("<progress") == 1
    avibe.become(Status.LOADING, progress=Progress(stage))
    line = client.get("/state").text.partition("Avibe:")[2].partition("</li>")[0]
    assert line.split() == stage.split()


def test_a_model_that_has_no_stage_yet_starts_and_one_that_failed_is_named(settings, machine):
    """A further version that was left out does not wait, and stops no other."""
    from app_production import create_app

    models = ModelSet({name: ScriptedBackend(name) for name in ("avibe", "avision", "avibe@b")})
    models.get("avibe").become(Status.LOADING)
    models.get("avibe@b").become(Status.DEAD)
    page = create_app(settings, models, machine).test_client().get("/state").text
    shown = [" ".join(line.partition("</li>")[0].split()) for line in page.split("<li>")[1:]]
    assert shown == ["Avibe: starting", "Avision: ready", "Avibe@b: could not be loaded"]


def test_a_page_with_an_answer_is_not_reloaded(client, avision):
    """A page with an answer does not refresh."""
    avision.become(Status.LOADING)
    assert "refresh" not in client.post("/avibe", data={"prompt": "x"}).text


@pytest.mark.parametrize("status", [Status.DRAINING, Status.STALLED, Status.DEAD])
def test_trouble_is_shown_on_the_page(client, avibe, status):
    """Each state has its notice."""
    avibe.become(status)
    for code, locale in LOCALES.items():
        page = client.get("/", headers={"Accept-Language": code}).text
        assert locale.texts["notices"][status.value] in page


def test_a_demo_says_that_it_is_one(settings, machine):
    """Demo models are named as such."""
    from app_production import create_app

    models = ModelSet({name: ScriptedBackend(name, demo=True) for name in ("avibe", "avision")})
    client = create_app(settings, models, machine).test_client()
    assert "avibe-demo, avision-demo" in client.get("/").text
    assert client.post("/avibe", data={"prompt": "x"}).headers["X-Model"] == "avibe-demo"


def test_a_chosen_language_is_remembered(client):
    """The cookie wins over Accept-Language; the switch redirects to its own page only."""
    for page, back in (("/", "/"), ("/status", "/status"), ("//elsewhere", "/")):
        answer = client.post("/language", data={"language": "en", "page": page}, headers=RU)
        assert (answer.status_code, answer.headers["Location"]) == (303, back)
    assert client.post("/language", data={"language": "en"}).headers["Location"] == "/"
    assert "SameSite=Lax" in answer.headers["Set-Cookie"]
    assert '<html lang="en">' in client.get("/", headers=RU).text
    assert "Cookie" in client.get("/").headers["Vary"]


@pytest.mark.parametrize(
    "data", [{}, {"page": "/"}, {"language": "", "page": "/"}, {"language": "xx"}, {"language": "EN", "page": "/"}]
)
def test_a_language_that_is_none_of_ours_is_refused(client, data):
    """No cookie is set for it, and an unknown value in a cookie is ignored."""
    answer = client.post("/language", data=data, content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer.mimetype) == (400, "text/html")
    assert "Set-Cookie" not in answer.headers
    client.set_cookie("avito_ai_language", "../../etc")
    assert '<html lang="ru">' in client.get("/", headers=RU).text


@pytest.mark.parametrize(("query", "form", "number"), [("text=2", "text", 1), ("picture=1", "image", 0)])
def test_an_example_can_be_begun_with_by_a_link(client, query, form, number):
    """A link fills in an example without JavaScript."""
    page = client.get(f"/?{query}", headers=RU).text
    assert f"{LOCALES['ru'].texts[form]['examples'][number]}</textarea>" in page


@pytest.mark.parametrize("query", ["text=0", "text=99", "text=-1", "text=x", "picture=", "other=1"])
def test_an_example_that_is_none_leaves_the_form_empty(client, query):
    """A query cannot fill in any other text."""
    page = client.get(f"/?{query}").text
    assert len(re.findall(r'id="(?:text|image)-prompt"[^>]*></textarea>', page)) == 2


def test_an_open_page_gets_the_state_alone(client, avibe, machine):
    """Which model is busy and for how long, and that there is no GPU."""
    avibe.report(num_requests_waiting=3, max_num_seqs=0, estimated_wait_seconds=1.2)
    state = client.get("/state").text
    assert state.startswith('<div id="state" data-status="ready"')
    assert "Avibe is busy: 3 waiting. A new question waits about 2\N{NO-BREAK SPACE}s." in state
    assert "There is no GPU here" in state
    machine.gpu_figures = (GpuFigures("GPU", 1, 1, 2),)
    assert "no GPU" not in client.get("/state").text


def test_a_service_that_is_not_ready_says_that_alone(client, avibe, avision):
    """Whether there is a GPU is not known before the models are loaded, and nobody waits for one that takes nothing."""
    avision.report(num_requests_waiting=3, max_num_seqs=0, estimated_wait_seconds=1.2)
    avibe.become(Status.LOADING)
    state = client.get("/state").text
    assert 'data-status="loading"' in state
    assert "no GPU" not in state
    assert "is busy" not in state


def test_a_model_with_free_capacity_is_not_busy(client, avibe):
    """Requests about to start are not a queue, and an unmeasured wait is not shown."""
    avibe.report(num_requests_waiting=1, max_num_seqs=1)
    assert "is busy" not in client.get("/state").text
    avibe.report(num_requests_waiting=1, max_num_seqs=0)
    state = client.get("/state").text
    assert "Avibe is busy: 1 waiting." in state
    assert "waits about" not in state


def test_figures_are_written_as_the_reader_writes_them(client, avibe):
    """Separators of the language, as in the scripts' numbers."""
    avibe.output_tokens = 12345
    for headers, tokens, speed in (
        ({}, "12,345", "12,345.0"),
        (RU, "12\N{NO-BREAK SPACE}345", "12\N{NO-BREAK SPACE}345,0"),
    ):
        page = client.post("/avibe", data={"prompt": "x"}, headers=headers).text
        shown = dict(re.findall(r'data-figure="(\w+)">([^<]*)<', page.partition("<template")[0]))
        assert (shown["generated_tokens"], shown["tokens_per_second"]) == (tokens, speed)


def test_every_limit_on_the_page_is_the_services_own(models, machine):
    """The page's limits are those that the server enforces."""
    from app_production import create_app

    lengths = {"MAX_TOKENS_LIMIT": "99", "MAX_TOKENS_AVIBE": "55", "MAX_TOKENS_AVISION": "44"}
    settings = load_settings({"MAX_PROMPT_LENGTH": "77", **lengths}, None)
    page = create_app(settings, models, machine).test_client().get("/").text
    assert page.count('data-limit="77"') == 3  # the two prompts, and what is to change in an answer
    assert page.count('max="99"') == 2
    assert "default: 55<" in page
    for name, limit in (
        ("bytes", images.MAX_IMAGE_BYTES),
        ("pixels", images.MAX_IMAGE_PIXELS),
        ("side", images.MAX_IMAGE_SIDE),
        ("aspect", images.MAX_IMAGE_ASPECT),
    ):
        assert f'data-{name}="{limit}"' in page


def test_an_answer_that_was_cut_says_so(client, avibe):
    """An answer at its maximum length says how to get a longer one."""
    assert "its maximum length" not in client.post("/avibe", data={"prompt": "x"}).text.partition("<template")[0]
    avibe.finish_reason = "length"
    assert "its maximum length" in client.post("/avibe", data={"prompt": "x"}).text.partition("<template")[0]


def test_every_failure_says_what_to_do_next():
    """Every error code has a next step in each language."""
    codes = {meaning.code for meaning in ERRORS.values()}
    for locale in LOCALES.values():
        assert set(locale.texts["next"]) == set(locale.texts["codes"]) == codes


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_page_can_be_installed(client, language):
    """The manifest has what browsers ask for, in the visitor's language; its icons exist in the sizes it names."""
    headers = {"Accept-Language": language}
    assert 'rel="manifest" href="/manifest.webmanifest"' in client.get("/").text
    described = client.get("/manifest.webmanifest", headers=headers)
    assert (described.status_code, described.mimetype) == (200, "application/manifest+json")
    assert described.json["name"] == LOCALES[language].texts["title"]
    assert (described.json["start_url"], described.json["display"]) == ("/", "standalone")
    sizes = {f"{size}x{size}" for size in (192, 512)}
    assert {icon["sizes"] for icon in described.json["icons"]} == sizes
    for icon in described.json["icons"]:
        width, height = Image.open(BytesIO(client.get(icon["src"], buffered=True).data)).size
        assert f"{width}x{height}" == icon["sizes"]


def test_browsers_find_an_icon_by_themselves(client):
    """An icon file with the sizes of tabs."""
    answer = client.get("/favicon.ico", buffered=True)
    assert (answer.status_code, answer.mimetype) == (200, "image/vnd.microsoft.icon")
    assert Image.open(BytesIO(answer.data)).info["sizes"] >= {(16, 16), (32, 32)}


@pytest.mark.parametrize("path", ["/avibe", "/avision"])
def test_what_was_typed_stays_while_the_models_load(client, avibe, avision, path):
    """The page of the refusal has it in its form, though the body was not read before it was refused."""
    for model in (avibe, avision):
        model.become(Status.LOADING)
    response = client.post(path, **multipart([("prompt", "Typed <before>"), ("max_tokens", "77")]))
    assert response.status_code == 503
    assert "Typed &lt;before&gt;" in response.text
    assert 'value="77"' in response.text


@pytest.mark.parametrize("code", LOCALES)
def test_a_request_of_another_kind_is_not_told_to_choose_a_picture(client, code):
    """Its mistake is no file; a file that is no picture is."""
    texts, language = LOCALES[code].texts, {"Accept-Language": code}
    advice = f'<p data-failure="next">{texts["next"]["unsupported_media_type"]}</p>'
    for path in ("/avibe", "/avision"):
        refused = client.post(path, json={"prompt": "x"}, headers=language)
        assert (refused.status_code, advice in refused.text) == (415, False)
    file = multipart([("prompt", "x"), ("image", (b"text", "a.txt"))])
    assert advice in client.post("/avision", **file, headers=language).text
