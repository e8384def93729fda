"""Held-out evaluation of the image demo: exact answers about images of seeds that training never drew."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from demo import image_questions as questions
from demo.image_data import TRAINING_SEEDS, draw_image
from demo.image_dialogues import reply_about
from demo.processor import load_processor

FOLDER = Path(__file__).with_name("avision")
BATCH = 32
MAX_NEW_TOKENS = 60
KINDS = ("describe", "colour", "shape")
LANGUAGES = ("en", "ru")


@dataclass(frozen=True)
class ImageItem:
    """One question about one or two held-out images, and the only right answer."""

    group: str
    seeds: tuple[int, ...]
    images: tuple[Image.Image, ...]
    question: str
    answer: str


def image_items(group: str, count: int, seed: int) -> list[ImageItem]:
    """Return questions about images of one regime ("trained", "outside", "clean", "grey", "plain" or "unclear")."""
    rng, items = random.Random(f"{group}:{seed}"), []
    for index in range(count):
        lang, kind = LANGUAGES[index % 2], rng.choice(KINDS)
        number = TRAINING_SEEDS + seed * 10**6 + index
        labelled = draw_image(number, group)
        question, answer = questions.ask(rng, kind, lang), reply_about(labelled, kind, lang)
        items.append(ImageItem(group, (number,), (labelled.image,), question, answer))
    return items


def two_image_items(count: int, seed: int) -> list[ImageItem]:
    """Return questions about two images at once."""
    rng, items = random.Random(f"two:{seed}"), []
    for index in range(count):
        lang = LANGUAGES[index % 2]
        numbers = tuple(TRAINING_SEEDS + seed * 10**6 + 500_000 + 2 * index + part for part in (0, 1))
        first, second = (draw_image(number) for number in numbers)
        answer = questions.two_answer((first.shape, first.colour), (second.shape, second.colour), lang)
        question = questions.ask(rng, "describe", lang)
        items.append(ImageItem("two images", numbers, (first.image, second.image), question, answer))
    return items


class ImageModel:
    """The checkpoint with its processor, asked many questions at a time."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.processor = load_processor(folder)
        self.processor.tokenizer.padding_side = "left"
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def reply(
        self, asked: Sequence[tuple[Sequence[Image.Image], str]], temperature: float = 0.0, seed: int = 0
    ) -> list[tuple[str, bool]]:
        """Return (text, ended) for each (images, question); temperature 0 is greedy."""
        torch.manual_seed(seed)
        return [
            reply
            for start in range(0, len(asked), BATCH)
            for reply in self._reply_batch(asked[start : start + BATCH], temperature)
        ]

    def _reply_batch(
        self, asked: Sequence[tuple[Sequence[Image.Image], str]], temperature: float
    ) -> list[tuple[str, bool]]:
        texts = [self._prompt(len(given), question) for given, question in asked]
        images = [image.convert("RGB") for given, _ in asked for image in given]
        inputs = self.processor(text=texts, images=images or None, return_tensors="pt", padding=True)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        ends = set(self.model.generation_config.eos_token_id)
        decode = self.processor.tokenizer.decode
        return [(decode(row, skip_special_tokens=True), bool(ends & set(row.tolist()))) for row in new]

    def _prompt(self, image_count: int, question: str) -> str:
        content = [{"type": "image"}] * image_count + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def judge(self, items: Sequence[ImageItem], temperature: float = 0.0, seed: int = 0) -> list[bool]:
        """Return whether each item was answered exactly, with the end token."""
        replies = self.reply([(item.images, item.question) for item in items], temperature, seed)
        return [reply == (item.answer, True) for item, reply in zip(items, replies, strict=True)]
