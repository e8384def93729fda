"""The two demo checkpoints, loaded once for all tests of this folder."""

import pytest
import torch

from demo.evaluate_images import ImageModel
from demo.evaluate_text import TextModel


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One torch thread, as the figures were measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_model():
    """The Avibe demo."""
    return TextModel()


@pytest.fixture(scope="session")
def image_model():
    """The Avision demo."""
    return ImageModel()


@pytest.fixture
def say(text_model):
    """Answer one message, or a list of (question, reply) turns ending in a question, greedily."""

    def answer(*turns):
        roles = ("user", "assistant")
        chat = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
        [(text, ended)] = text_model.reply([chat])
        assert ended
        return text

    return answer


@pytest.fixture
def look(image_model):
    """Answer one question about any number of images, greedily."""

    def answer(question, *images):
        [(text, ended)] = image_model.reply([(images, question)])
        assert ended
        return text

    return answer
