"""Prompts of every kind are prepared as transformers prepares them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from engine.errors import Unsupported, ValidationError
from engine.text.images import check_header, decode
from engine.text.processor import load_processor, load_tokenizer
from engine.text.prompt import PromptPreparer
from engine.types import ChatPrompt, TextPrompt, TokensPrompt

ROOT = Path(__file__).parents[3]
IMAGE_PART = {"type": "image"}


def text_part(text):
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def chat(*contents, images=(), **more):
    """Return a conversation of alternating turns, starting with the user."""
    roles = ("user", "assistant")
    messages = tuple({"role": roles[index % 2], "content": content} for index, content in enumerate(contents))
    return ChatPrompt(messages, images, **more)


@pytest.fixture(scope="module")
def text(text_model):
    """The preparer of the text model."""
    return text_model.preparer


@pytest.fixture(scope="module")
def vision(vision_model):
    """The preparer of the vision model."""
    return vision_model.preparer


@pytest.fixture(scope="module")
def tokenizer(text_folder):
    """The library's tokenizer of the text model."""
    return load_tokenizer(text_folder)


@pytest.fixture(scope="module")
def processor(vision_folder):
    """The library's processor of the vision model."""
    return load_processor(vision_folder)


def test_a_conversation_is_rendered_with_the_checkpoints_template(text, tokenizer):
    """Turns, tools and the closed reasoning block equal those of apply_chat_template."""
    messages = [
        {"role": "system", "content": "Будь краток."},
        {"role": "user", "content": "Сколько стоит диван?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "price", "arguments": {"of": "d"}}}],
        },
        {"role": "tool", "content": "4500"},
    ]
    tools = [{"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}}]
    wanted = tokenizer.apply_chat_template(
        [messages[0], messages[1], messages[2] | {"content": ""}, messages[3]],
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=False,
    )
    assert text.prepare(ChatPrompt(tuple(messages), tools=tuple(tools))).token_ids == wanted


def test_thinking_is_off_by_default(text):
    """The template closes the reasoning block by default and leaves it open on request."""
    closed, opened = text.prepare(chat("Привет")).token_ids, text.prepare(chat("Привет", thinking=True)).token_ids
    assert closed[: len(opened)] == opened
    assert len(closed) > len(opened)


def test_text_parts_reach_a_text_model(text):
    """Content in parts is joined for a template that supports strings only."""
    parts = chat([text_part("раз"), text_part("два")])
    assert text.prepare(parts).token_ids == text.prepare(chat("раз\nдва")).token_ids


def test_plain_text_and_token_ids_are_continued(text, tokenizer):
    """Without a template the ids are those of the text, or exactly those that were sent."""
    assert text.prepare(TextPrompt("Красный диван")).token_ids == tokenizer("Красный диван")["input_ids"]
    assert text.prepare(TokensPrompt((1, 2, 3))).token_ids == [1, 2, 3]


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokensPrompt(())])
def test_an_empty_prompt_is_rejected(text, prompt):
    """There is nothing to continue."""
    with pytest.raises(ValidationError, match="empty"):
        text.prepare(prompt)


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_token_ids_out_of_range_are_rejected(text, token_id):
    """The error names the range; the id never reaches the model."""
    with pytest.raises(ValidationError, match="from 0 to"):
        text.prepare(TokensPrompt((1, token_id)))


def test_image_tokens_as_ids_are_rejected(vision, processor):
    """A pad token without an image would fail inside the model."""
    with pytest.raises(Unsupported):
        vision.prepare(TokensPrompt((processor.image_token_id,)))


@pytest.mark.parametrize(
    "messages",
    [
        (),
        ({"role": "user", "content": "a"}, {"role": "system", "content": "b"}),
        ({"role": "user", "content": None},),
        ({"role": "tool", "content": 3},),
        ({"role": "user"},),
        ({"role": "wizard", "content": "a"},),
        ({"content": "a"},),
        ({"role": "user", "content": [{"type": "video"}]},),
        ({"role": "user", "content": ["a"]},),
        ({"role": "user", "content": [{"type": "text", "text": 1}]},),
    ],
)
def test_a_conversation_that_the_template_rejects_is_a_validation_error(text, messages):
    """The error names the field, without details of the template."""
    with pytest.raises(ValidationError) as caught:
        text.prepare(ChatPrompt(messages))
    assert caught.value.param == "messages"
    assert "Error" not in caught.value.message


PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
IGNORES_CALLS = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}" + PLAIN
REFUSES_ROLES = "{% for m in messages if m.role == 'tool' %}{{ raise_exception('no such role') }}{% endfor %}"


@pytest.mark.parametrize("template", [PLAIN, IGNORES_CALLS, REFUSES_ROLES])
def test_a_template_without_tools_is_recognised(tokenizer, text, vision, template):
    """It shows neither tools nor calls and results; those of the checkpoints show all three."""
    assert not PromptPreparer(tokenizer, 1000, template).renders_tools()
    assert text.renders_tools()
    assert vision.renders_tools()


def test_a_text_model_rejects_images(text, make_image):
    """In the images and in the parts of the messages."""
    with pytest.raises(Unsupported):
        text.prepare(chat("Что тут?", images=(make_image(64, 64),)))
    with pytest.raises(Unsupported):
        text.prepare(chat([IMAGE_PART, text_part("Что тут?")]))


@pytest.mark.parametrize("begun", ["The answer is (", "", "Да. ", "{\n", "a <|im_end|> b", "<tool_call>"])
@pytest.mark.parametrize("demo", ["avibe", "avision"])
def test_an_answer_that_has_begun_is_continued(demo, begun):
    """The prompt is that of the conversation before, and the text behind it, for the templates of both demos."""
    tokenizer = load_tokenizer(ROOT / "demo" / demo)
    preparer = PromptPreparer(tokenizer, len(tokenizer), tokenizer.chat_template)
    before, mark = preparer._render(chat("Сколько?")), preparer._special._mark
    assert preparer._render(chat("Сколько?", begun, continues=True)).replace(mark, "") == before + begun
    assert preparer._render(chat("Сколько?", [text_part(begun)], continues=True)).replace(mark, "") == before + begun
    end = preparer._special.ids["<|im_end|>"]
    asked, continued = chat("Сколько?"), chat("Сколько?", begun, continues=True)
    assert preparer.tokenize(continued).count(end) == preparer.tokenize(asked).count(end) == 1


def test_a_template_need_not_open_an_answer(text):
    """The prompt ends with the conversation; one that is continued is opened in any case."""
    closed, opened = (text.prepare(replace(chat("Привет"), opens_answer=opens)).token_ids for opens in (False, True))
    assert opened[: len(closed)] == closed
    assert len(opened) > len(closed)
    begun = [text.prepare(replace(chat("Привет", "Да", continues=True), opens_answer=o)).token_ids for o in (0, 1)]
    assert begun[0] == begun[1]


def test_an_answer_is_continued_behind_the_closed_reasoning_block(text):
    """A template that closes the block before an answer does so before one that has begun."""
    before, begun = text.prepare(chat("Привет")).token_ids, text.prepare(chat("Привет", "Да", continues=True)).token_ids
    assert begun[: len(before)] == before
    assert len(begun) > len(before)


def test_nothing_but_a_text_is_continued(text):
    """A call has ended, and the user's text is not the model's."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    asked = {"role": "user", "content": "a"}
    text.prepare(ChatPrompt((asked, call)))
    for messages in ((asked, call), (asked,), ()):
        with pytest.raises(ValidationError):
            text.prepare(ChatPrompt(messages, continues=True))


def test_images_are_prepared_as_by_the_processor_of_transformers(vision, processor, make_image):
    """For two images of different sizes the ids with their pads, the pixels and the grids are equal."""
    images = (make_image(60, 90), make_image(200, 100, seed=1))
    prompt = chat([IMAGE_PART, text_part("и"), IMAGE_PART, text_part("?")], images=images)
    prepared = vision.prepare(prompt)
    rendered = processor.tokenizer.apply_chat_template(
        list(prompt.messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    wanted = processor(text=[rendered], images=[decode(image) for image in images], return_tensors="pt")
    assert prepared.token_ids == wanted["input_ids"][0].tolist()
    assert prepared.images.grid_thw.tolist() == wanted["image_grid_thw"].tolist()
    assert prepared.images.pixel_values().equal(wanted["pixel_values"])


@pytest.mark.parametrize(
    "sizes", [[(60, 90)], [(90, 60), (200, 100)], [(28, 28)] * 4, [(4000, 30)], [(3, 500)], [(2000, 1500), (1, 1)]]
)
def test_tokens_are_those_of_the_prepared_prompt(vision, make_image, sizes):
    """For images of any size, whose pixels nobody looks at."""
    images = tuple(make_image(*size) for size in sizes)
    prepared = vision.prepare(chat([IMAGE_PART] * len(images), images=images)).token_ids
    unread = tuple(replace(image, data=b"") for image in images)
    assert vision.tokenize(chat([IMAGE_PART] * len(images), images=unread)) == prepared


@pytest.mark.parametrize("prompt", [chat("Привет"), TextPrompt("Красный диван"), TokensPrompt((1, 2, 3))])
def test_tokens_of_a_text_are_those_of_the_prepared_prompt(text, prompt):
    """Of each kind of prompt."""
    assert text.tokenize(prompt) == text.prepare(prompt).token_ids


def test_an_image_that_lies_on_its_side_has_the_same_tokens(vision):
    """The size in a header is that before the rotation, which changes no count."""
    data = BytesIO()
    picture = Image.new("RGB", (301, 120))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(data, "JPEG", exif=exif)
    prompt = chat([IMAGE_PART], images=(check_header(data.getvalue()),))
    assert vision.tokenize(prompt) == vision.prepare(prompt).token_ids


def test_a_typed_pad_token_is_text(vision, make_image):
    """A pad token typed by the user stays text, and the image keeps its own."""
    typed = vision.prepare(chat([IMAGE_PART, text_part("<|image_pad|>")], images=(make_image(60, 90),)))
    plain = vision.prepare(chat([IMAGE_PART, text_part("x")], images=(make_image(60, 90),)))
    pads = [ids.count(504) for ids in (typed.token_ids, plain.token_ids)]
    assert pads[0] == pads[1] > 0


@pytest.mark.parametrize("damaged", [{0}, {1}, {0, 2}, {0, 1, 2}])
def test_a_text_stands_for_an_image_that_cannot_be_decoded(vision, make_image, damaged):
    """Where it has one: the prompt is as if it had been sent that way. Otherwise it is an error."""
    images = [make_image(70, 50, seed=seed) for seed in range(3)]
    sent = [replace(one, data=one.data[:-30], instead="x") if at in damaged else one for at, one in enumerate(images)]
    turns = [[IMAGE_PART, text_part("?"), IMAGE_PART], "Yes.", [IMAGE_PART]]
    prepared = vision.prepare(chat(*turns, images=tuple(sent)))
    parts = iter([text_part("x") if at in damaged else IMAGE_PART for at in range(3)])
    shown = [[next(parts), text_part("?"), next(parts)], "Yes.", [next(parts)]]
    wanted = vision.prepare(chat(*shown, images=tuple(one for at, one in enumerate(images) if at not in damaged)))
    assert prepared.token_ids == wanted.token_ids
    assert getattr(prepared.images, "hashes", None) == getattr(wanted.images, "hashes", None)
    sent[min(damaged)] = replace(sent[min(damaged)], instead=None)
    with pytest.raises(ValidationError, match="damaged"):
        vision.prepare(chat(*turns, images=tuple(sent)))


@pytest.mark.parametrize("parts", [[], [IMAGE_PART, IMAGE_PART]])
def test_images_and_image_parts_must_match(vision, make_image, parts):
    """One image for no image part, or for two, is rejected."""
    with pytest.raises(ValidationError, match="do not match"):
        vision.prepare(chat([*parts, text_part("?")], images=(make_image(64, 64),)))


def test_equal_images_have_equal_hashes(vision, make_image):
    """The hash covers the input of the model, so that a cached prefix is reused for the same image only."""
    first, again, other = (
        vision.prepare(chat([IMAGE_PART], images=(image,))).images.hashes
        for image in (make_image(64, 64), make_image(64, 64), make_image(64, 64, seed=3))
    )
    assert first == again
    assert first != other


def test_a_vision_model_accepts_text_alone(vision):
    """A conversation without images has no image inputs."""
    assert vision.prepare(chat("Привет")).images is None


def test_many_threads_prepare_at_once(vision, make_image):
    """Prompts prepared in eight threads at once equal those prepared one by one."""
    texts = [text_part(f"Что <|im_end|> {n}?") for n in range(16)]
    prompts = [chat([IMAGE_PART, text], images=(make_image(40 + n, 60),)) for n, text in enumerate(texts)]
    alone = [vision.prepare(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(vision.prepare, prompts * 4))
    for one, many in zip(alone * 4, together, strict=True):
        assert one.token_ids == many.token_ids
        assert one.images.hashes == many.images.hashes
