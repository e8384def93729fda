"""POST /v1/responses over scripted models: whole answers, and what reaches the model."""

import openai
import pytest

from engine.types import TokenLogprob, Vocabulary

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": False}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "я"}}\n</tool_call>'


def test_a_response_has_exactly_the_promised_fields(client):
    """Names, nesting and values in force are what OpenAI's clients read; ids cannot be guessed."""
    fields = {"model": "avibe", "input": "Hello", "instructions": "Be brief.", "max_output_tokens": 9}
    headers = {"X-Request-ID": "mine"}
    response = client.post(PATH, json=fields | {"metadata": {"a": "b"}, "top_p": 0.5}, headers=headers)
    body = response.json
    assert response.status_code == 200
    assert len(body.pop("id")) == len("resp_") + 48
    assert len(body["output"][0].pop("id")) == len("msg_") + 48
    assert 1_700_000_000 < body.pop("created_at") <= body.pop("completed_at")
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "model": "avibe",
        "output": [
            {
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "An answer.", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 0.7,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.5,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
        "request_id": "mine",
    }
    assert response.headers["X-Model"] == "avibe"


def test_the_client_reads_it(respond):
    """The text of all messages, by the helper of OpenAI's client."""
    response = respond()
    assert (response.output_text, response.status, response.usage.total_tokens) == ("An answer.", "completed", 12)


def test_the_client_finds_the_request_id_in_bodies_as_in_the_header(api, respond):
    """Of an answer and of a refusal."""
    response = respond()
    assert response.request_id == response._request_id is not None
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model="avibe", messages=[])
    assert refused.value.body["request_id"] == refused.value.request_id is not None
    assert (refused.value.code, refused.value.param) == ("validation_error", "messages")


def test_an_answer_at_its_limit_is_incomplete(respond, avibe):
    """With the reason; so is its message."""
    avibe.finish_reason = "length"
    response = respond(max_output_tokens=3)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.output[0].status, response.completed_at) == ("incomplete", None)
    assert avibe.only.sampling.max_tokens == 3


def test_sampling_fields_reach_the_engine(respond, avibe):
    """OpenAI's, and those that other servers have too."""
    more = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 7, "stop": ["a", "b"]}
    more |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    respond(temperature=0.3, top_p=0.9, extra_body=more)
    sampling = avibe.only.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.3, 0.9, 20, 0.1)
    assert (sampling.repetition_penalty, sampling.seed, sampling.stop) == (1.1, 7, ("a", "b"))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)


def test_hints_change_nothing(respond, avibe):
    """What clients set for OpenAI's billing, caches and filters is passed over, whatever it is."""
    hints = {
        "user": "somebody",
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "prompt_cache_retention": "24h",
        "service_tier": "flex",
        "max_tool_calls": 3,
        "truncation": "auto",
        "background": False,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "none", "summary": "auto"},
        "stream_options": {"include_obfuscation": False},
        "conversation": None,
        "previous_response_id": None,
        "extra_body": {
            "client_metadata": {"a": 1},
            "moderation": {},
            "prompt_cache_options": {"ttl": "30m"},
            "n": 1,
            "min_tokens": 0,
            "logit_bias": {},
            "messages": [],
            "context_management": [],
        },
    }
    assert respond(**hints).output_text == respond().output_text
    first, second = avibe.submitted
    assert first.prompt == second.prompt
    assert first.sampling == second.sampling


def test_calls_are_items(respond, avibe):
    """A text before them is a message; the arguments are a JSON text."""
    avibe.text = f"Wait.\n{CALL}\n{CALL}"
    message, first, second = respond(tools=[TOOL]).output
    assert message.content[0].text == "Wait."
    assert (first.type, first.name, first.arguments, first.status) == (
        "function_call",
        "look",
        '{"at": "я"}',
        "completed",
    )
    assert first.call_id != second.call_id
    assert len({message.id, first.id, second.id}) == 3


def test_tools_are_shown_to_the_model_in_the_templates_form(respond, avibe):
    """The flat form of this protocol becomes the nested one that chat templates take."""
    shown = respond(tools=[TOOL | {"defer_loading": True}], tool_choice="auto", parallel_tool_calls=False)
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert avibe.only.prompt.tools == ({"type": "function", "function": function},)
    assert (shown.tools[0].name, shown.parallel_tool_calls) == ("look", False)


def test_only_the_allowed_tools_are_shown(respond, avibe):
    """The others exist for another request."""
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}
    shown = respond(tools=[TOOL, TOOL | {"name": "jump"}], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in avibe.only.prompt.tools] == ["look"]
    assert shown.tool_choice.mode == "auto"
    assert len(shown.tools) == 2


GROUP = {"type": "namespace", "name": "eyes", "description": "To see.", "tools": [TOOL, TOOL | {"name": "blink"}]}


def test_functions_of_a_namespace_are_called_by_both_names(client, avibe):
    """The model knows one name of them; calls have two, whole and streamed, and so have they in the history."""
    avibe.text = CALL.replace("look", "eyes.look") + CALL
    fields = {"model": "avibe", "input": "Hello", "tools": [GROUP, TOOL]}
    calls = client.post(PATH, json=fields).json["output"]
    assert [(call.get("namespace"), call["name"]) for call in calls] == [("eyes", "look"), (None, "look")]
    shown = [tool["function"] for tool in avibe.only.prompt.tools]
    assert [(one["name"], one["description"]) for one in shown] == [
        ("eyes.look", "To see.\nLooks."),
        ("eyes.blink", "To see.\nLooks."),
        ("look", "Looks."),
    ]
    streamed = client.post(PATH, json=fields | {"stream": True}).text
    assert streamed.count('"namespace":"eyes"') == 3  # the item begun, done, and in the whole response
    result = {"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "A tree."}
    client.post(PATH, json=fields | {"input": [{"role": "user", "content": "Hello"}, calls[0], result]})
    (past,) = avibe.submitted[-1].prompt.messages[1]["tool_calls"]
    assert past["function"]["name"] == "eyes.look"


def test_a_stored_call_keeps_its_namespace(client, avibe):
    """It is in the conversation that a later request goes on from."""
    avibe.text = CALL.replace("look", "eyes.look")
    fields = {"model": "avibe", "input": "Hello", "tools": [GROUP], "store": True}
    first = client.post(PATH, json=fields).json
    result = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "A tree."}
    client.post(PATH, json=fields | {"input": [result], "previous_response_id": first["id"]})
    (past,) = avibe.submitted[-1].prompt.messages[1]["tool_calls"]
    assert past["function"]["name"] == "eyes.look"


@pytest.mark.parametrize("choice", ["auto", {"type": "auto"}])
def test_a_free_choice_needs_no_tools(respond, choice):
    """Programs send it whether or not they have any."""
    assert respond(tool_choice=choice).tool_choice == "auto"


def test_no_tools_are_shown_where_none_may_be_called(respond, avibe):
    """tool_choice none."""
    respond(tools=[TOOL], tool_choice="none")
    assert avibe.only.prompt.tools == ()


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_reasoning_is_an_item_of_its_own(respond, avibe, effort):
    """Its tokens are counted apart; the answer is a message behind it."""
    avibe.text = "<think>Hm.</think>Yes."
    response = respond(reasoning={"effort": effort, "summary": "auto"})
    reasoning, message = response.output
    assert (reasoning.type, reasoning.content[0].text, reasoning.summary) == ("reasoning", "Hm.", [])
    assert (message.content[0].text, response.output_text) == ("Yes.", "Yes.")
    assert response.reasoning.effort == effort
    assert avibe.only.prompt.thinking is True


@pytest.mark.parametrize(
    "fixed",
    [
        {"text": {"format": {"type": "json_object"}}},
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}},
        {"tool_choice": "required", "tools": [TOOL]},
        {"tool_choice": {"type": "function", "name": "look"}, "tools": [TOOL]},
    ],
)
def test_an_answer_of_a_fixed_form_begins_at_once(respond, avibe, fixed):
    """The effort is a hint; agents send it with every request."""
    tokens = (b"", *(bytes([number]) for number in range(256)))
    avibe.tokens = Vocabulary(tokens, frozenset({0}), lambda text: [byte + 1 for byte in text.encode()])
    avibe.text = "{}"
    shown = respond(reasoning={"effort": "high"}, **fixed)
    assert avibe.only.prompt.thinking is False
    assert avibe.only.sampling.token_mask is not None
    assert shown.text.format.type == fixed.get("text", {}).get("format", {"type": "text"})["type"]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_stand_beside_a_form(respond, avibe, choice):
    """Agents send both: a free answer is a call or JSON of the schema, a forced one is a call."""
    tokens = (b"", *(bytes([number]) for number in range(256)))
    avibe.tokens = Vocabulary(tokens, frozenset({0}), lambda text: [byte + 1 for byte in text.encode()])
    avibe.text = CALL
    form = {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}
    response = respond(tools=[TOOL], tool_choice=choice, text=form)
    assert [item.type for item in response.output] == ["function_call"]
    assert avibe.only.sampling.token_mask is not None
    if choice == "auto":
        avibe.text = "{}"
        assert respond(tools=[TOOL], tool_choice=choice, text=form).output_text == "{}"


@pytest.mark.parametrize("effort", ["none", "minimal", "default", None])
def test_reasoning_is_off_by_default(respond, avibe, effort):
    """Then the text is not parsed."""
    avibe.text = "<think>Hm.</think>Yes."
    assert respond(reasoning={"effort": effort}).output_text == avibe.text
    assert avibe.only.prompt.thinking is False


def test_log_probabilities_come_if_they_are_included(respond, avibe):
    """By `include`, or by a number of alternatives; otherwise the engine is not asked for them."""
    avibe.logprobs = [TokenLogprob(1, "An", -0.5, ((1, "An", -0.5), (2, "A", -1.5)))]
    part = respond(include=["message.output_text.logprobs"], top_logprobs=2).output[0].content[0]
    assert [(token.token, token.logprob, len(token.top_logprobs)) for token in part.logprobs] == [("An", -0.5, 2)]
    respond(include=["message.output_text.logprobs"])
    assert respond(top_logprobs=3).top_logprobs == 3
    assert respond(top_logprobs=0).top_logprobs == 0
    assert [request.sampling.logprobs for request in avibe.submitted] == [2, 0, 3, None]


def test_an_empty_answer_is_an_empty_message(respond, avibe):
    """There is always an item."""
    avibe.text = ""
    response = respond()
    assert [item.content[0].text for item in response.output] == [""]


def test_it_is_counted_as_this_protocols(client):
    """In Prometheus, and against the budget of generations."""
    client.post(PATH, json={"model": "avibe", "input": "Hello"})
    counted = 'avito_ai_requests_total{model="avibe",protocol="openai_responses",status="success"} 1.0'
    assert counted in client.get("/metrics").text


def test_the_tokens_of_an_input_can_be_counted(api, avibe):
    """With instructions and tools, as the model would read them; nothing is generated."""
    counted = api.responses.input_tokens.count(model="avibe", input="Hello", instructions="Be brief.", tools=[TOOL])
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens > 0
    assert avibe.submitted == []
