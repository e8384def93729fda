"""openai-agents: agents over the Responses API, its default, and over chat completions."""

import asyncio
from typing import Literal

import agents
import openai
import pytest
from agents import Agent, ModelSettings, Runner, function_tool
from pydantic import BaseModel

NO_KEY = "none"  # the client insists on one, the service does not
ASK = "Напиши объявление о продаже велосипеда."
# One loop for all tests, as the clients keep their connections.
WAIT = asyncio.new_event_loop().run_until_complete
agents.set_tracing_disabled(True)


class Listing(BaseModel):
    """A listing."""

    condition: Literal["new", "used"]
    price: int


ASKED = []


@function_tool
def get_weather(city: Literal["Moscow", "Kazan"]) -> str:
    """Tell the weather."""
    ASKED.append(city)
    return "20 degrees"


@pytest.fixture(params=["responses", "chat"])
def model(request, base_url):
    """A model of either protocol, by its name."""
    kinds = {"responses": agents.OpenAIResponsesModel, "chat": agents.OpenAIChatCompletionsModel}
    client = openai.AsyncOpenAI(base_url=base_url, api_key=NO_KEY, max_retries=0)
    return lambda name="avibe": kinds[request.param](model=name, openai_client=client)


def run(agent, asked=ASK, **options):
    """Run an agent to its end."""
    return WAIT(Runner.run(agent, asked, **options))


def test_a_text_and_its_usage(model):
    """With instructions."""
    agent = Agent("writer", instructions="Be brief.", model=model(), model_settings=ModelSettings(max_tokens=500))
    done = run(agent)
    assert done.final_output
    assert done.context_wrapper.usage.total_tokens > 0


def test_a_conversation_of_its_own_items(model):
    """The first run's items go before the second question; in a session too."""
    agent = Agent("writer", model=model(), model_settings=ModelSettings(max_tokens=500))
    first = run(agent)
    assert run(agent, [*first.to_input_list(), {"role": "user", "content": "Короче!"}]).final_output
    session = agents.SQLiteSession("one")

    async def twice():
        await Runner.run(agent, ASK, session=session)
        return await Runner.run(agent, "Короче!", session=session)

    assert WAIT(twice()).final_output


def test_a_stream(model):
    """Its deltas are the output."""
    agent = Agent("writer", model=model(), model_settings=ModelSettings(max_tokens=500))

    async def follow():
        done = Runner.run_streamed(agent, ASK)
        events = [event async for event in done.stream_events()]
        raw = [event.data for event in events if event.type == "raw_response_event"]
        return "".join(data.delta for data in raw if data.type == "response.output_text.delta"), done.final_output

    said, output = WAIT(follow())
    assert said == output


def test_an_output_of_a_class(model):
    """The schema is sent in its strict form."""
    agent = Agent("writer", output_type=Listing, model=model(), model_settings=ModelSettings(max_tokens=200))
    assert isinstance(run(agent).final_output, Listing)


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_round_with_a_tool(model, choice):
    """The agent is made to call; its items, with the call and the result, go before the next question."""
    ASKED.clear()
    settings = ModelSettings(max_tokens=300, tool_choice=choice, parallel_tool_calls=False)
    agent = Agent("writer", tools=[get_weather], model=model(), model_settings=settings)
    stopping = agent.clone(tool_use_behavior="stop_on_first_tool")
    assert run(stopping).final_output == "20 degrees"
    assert ASKED
    history = [*run(stopping).to_input_list(), {"role": "user", "content": "Короче!"}]
    assert run(agent.clone(model_settings=ModelSettings(max_tokens=500, tool_choice="none")), history).final_output


def test_tools_beside_an_output_of_a_class(model):
    """Without a call the output has the form; where the model is free, it calls or has the form."""
    settings = ModelSettings(max_tokens=300, tool_choice="none", parallel_tool_calls=False)
    agent = Agent("writer", tools=[get_weather], output_type=Listing, model=model(), model_settings=settings)
    assert isinstance(run(agent).final_output, Listing)
    free = agent.clone(model_settings=ModelSettings(max_tokens=300, parallel_tool_calls=False))
    ASKED.clear()
    try:
        assert isinstance(run(free, max_turns=1).final_output, Listing)
    except agents.MaxTurnsExceeded:
        assert ASKED


def test_a_handoff(model):
    """Which is a call of a function; what the second agent is told has the call and its result."""
    other = Agent("other", handoff_description="Another.", model=model(), model_settings=ModelSettings(max_tokens=500))
    settings = ModelSettings(max_tokens=300, tool_choice="required", parallel_tool_calls=False)
    agent = Agent("writer", handoffs=[other], model=model(), model_settings=settings)
    assert run(agent, max_turns=3).last_agent.name == "other"


def test_an_image(model, image_url):
    """By Avision."""
    parts = [{"type": "input_image", "image_url": image_url, "detail": "auto"}, {"type": "input_text", "text": "What?"}]
    agent = Agent("seer", model=model("avision"), model_settings=ModelSettings(max_tokens=500))
    assert run(agent, [{"role": "user", "content": parts}]).final_output


def test_errors_are_the_clients_own(model):
    """They come through the runner."""
    with pytest.raises(openai.NotFoundError):
        run(Agent("writer", model=model("gpt-4o")))
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        run(Agent("writer", model=model()), "слово " * 4000)


def test_a_stored_conversation(base_url):
    """`previous_response_id` across runs, with responses that are stored."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key=NO_KEY, max_retries=0)
    settings = ModelSettings(max_tokens=500, store=True)
    agent = Agent("writer", model=agents.OpenAIResponsesModel("avibe", client), model_settings=settings)
    first = run(agent)
    assert run(agent, "Короче!", previous_response_id=first.last_response_id).final_output
