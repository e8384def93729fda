"""LlamaIndex: OpenAILike and OpenAIResponses."""

import asyncio
from typing import Literal

import openai
import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

NO_KEY = "none"  # the client insists on one, the service does not
ASK = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Продай велосипед.")]
WAIT = asyncio.new_event_loop().run_until_complete


class Listing(BaseModel):
    """A listing."""

    condition: Literal["new", "used"]
    price: int


@pytest.fixture(params=["chat", "responses"])
def llm(request, base_url):
    """A model of either class, by its name."""

    def make(model="avibe", **fields):
        given = {"model": model, "api_base": base_url, "api_key": NO_KEY, "max_retries": 0, "context_window": 2048}
        if request.param == "chat":
            shape = {"is_chat_model": True, "is_function_calling_model": True}
            return OpenAILike(**given | shape | {"max_tokens": 300} | fields)
        return OpenAIResponses(**given | {"max_output_tokens": 300} | fields)

    return make


def test_a_text_and_its_stream(llm):
    """`chat`, `complete` and their streams."""
    model = llm(temperature=0)
    whole = model.chat(ASK).message.content
    assert "".join(piece.delta or "" for piece in model.stream_chat(ASK)) == whole
    assert model.complete("Продай велосипед.").text
    assert WAIT(model.achat(ASK)).message.content == whole


def test_a_conversation_of_its_own_objects(llm):
    """A message as the library made it."""
    said = llm().chat(ASK).message
    assert llm().chat([*ASK, said, ChatMessage(role="user", content="Короче!")]).message.content


def test_a_round_with_a_tool(llm):
    """A forced call, whole and streamed; its message goes back with the result."""

    def get_weather(city: Literal["Moscow", "Kazan"]) -> str:
        """Tell the weather."""
        return f"{city}: 20 degrees"

    tool = FunctionTool.from_defaults(get_weather)
    model = llm()
    said = model.chat_with_tools([tool], chat_history=ASK, tool_required=True, allow_parallel_tool_calls=False)
    (call,) = model.get_tool_calls_from_response(said)
    assert call.tool_kwargs["city"] in ("Moscow", "Kazan")
    result = ChatMessage(role="tool", content="20 degrees", additional_kwargs={"tool_call_id": call.tool_id})
    assert model.chat([*ASK, said.message, result]).message is not None
    pieces = list(model.stream_chat_with_tools([tool], chat_history=ASK, tool_required=True))
    assert model.get_tool_calls_from_response(pieces[-1])[0].tool_kwargs["city"] in ("Moscow", "Kazan")


def test_an_object(llm):
    """Of a class, by the library's own choice of method."""
    assert isinstance(llm().as_structured_llm(Listing).complete("Продай велосипед.").raw, Listing)


def test_completions(base_url):
    """Over /v1/completions."""
    model = OpenAILike(model="avibe", api_base=base_url, api_key=NO_KEY, is_chat_model=False, max_tokens=8)
    assert model.complete("Продаётся").text
    assert "".join(piece.delta or "" for piece in model.stream_complete("Продаётся"))


def test_an_image(llm, image_url):
    """By Avision."""
    message = ChatMessage(role="user", blocks=[TextBlock(text="What?"), ImageBlock(url=image_url)])
    assert llm("avision").chat([message]).message.content


def test_errors_are_the_clients_own(llm):
    """They come through."""
    with pytest.raises(openai.NotFoundError):
        llm("gpt-4o").chat(ASK)
    with pytest.raises(openai.BadRequestError):
        llm().chat([ChatMessage(role="user", content="слово " * 4000)])
