"""Prompts of every kind are prepared as transformers prepares them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import Unsupported, ValidationError
from engine.text.images import decode
from engine.text.processor import load_processor, load_tokenizer
from engine.types import ChatPrompt, TextPrompt, TokensPrompt

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


def test_a_text_model_rejects_images(text, make_image):
    """In the images and in the parts of the messages."""
    with pytest.raises(Unsupported):
        text.prepare(chat("Что тут?", images=(make_image(64, 64),)))
    with pytest.raises(Unsupported):
        text.prepare(chat([IMAGE_PART, text_part("Что тут?")]))


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


def test_a_typed_pad_token_is_text(vision, make_image):
    """A pad token typed by the user stays text, and the image keeps its own."""
    typed = vision.prepare(chat([IMAGE_PART, text_part("<|image_pad|>")], images=(make_image(60, 90),)))
    plain = vision.prepare(chat([IMAGE_PART, text_part("x")], images=(make_image(60, 90),)))
    pads = [ids.count(504) for ids in (typed.token_ids, plain.token_ids)]
    assert pads[0] == pads[1] > 0


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
