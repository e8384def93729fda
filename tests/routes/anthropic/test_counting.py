"""POST /v1/messages/count_tokens: the prompt that would be answered, and a budget of its own."""

import pytest

from engine.errors import ContextTooLong, NotReady, Overloaded
from tests.routes.anthropic.test_requests import CALL, COUNT, HELLO, IMAGE, MESSAGES, RESULT, TOOL, ask, assistant, user


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"system": "Be brief.", "tools": [TOOL], "tool_choice": {"type": "any"}}, "avibe"),
        ({"messages": [*HELLO, assistant(CALL), user(RESULT)], "tools": [TOOL]}, "avibe"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Well"}]}, "avibe"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "avibe"),
        ({"messages": [user(IMAGE)]}, "avision"),
    ],
)
def test_the_prompt_that_would_be_answered_is_counted(client, models, fields, model):
    """With its tools, images, reasoning and beginning; nothing is submitted and no image is decoded."""
    backend = models.get(model)
    response = ask(client, COUNT, model=model, **fields)
    assert (response.status_code, response.json) == (200, {"input_tokens": 7})
    (counted,) = backend.tokenized
    assert (backend.submitted, backend.decoded) == ([], [])
    if fields.get("tool_choice") is None:  # what is forced needs a grammar, which these models have none for
        assert ask(client, MESSAGES, model=model, **fields).status_code == 200
        assert backend.submitted[0].prompt == counted.prompt
        assert backend.submitted[0].client == counted.client


def test_what_only_an_answer_has_is_passed_over(client):
    """Programs count the request that they are about to send; a field of neither is refused."""
    answer = {"max_tokens": 8, "temperature": 1, "top_p": 1, "top_k": 5, "stop_sequences": ["a"], "stream": True}
    assert ask(client, COUNT, **answer).json == {"input_tokens": 7}
    assert ask(client, COUNT, max_words=8).json["error"]["message"] == "Unknown field: max_words."


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (NotReady("The model is loading.", 5), 503, "overloaded_error"),
        (Overloaded("Too many.", 1), 503, "overloaded_error"),
        (ContextTooLong("Too long.", "messages"), 400, "invalid_request_error"),
    ],
)
def test_what_the_model_refuses_is_told(client, avibe, refusal, status, kind):
    """With its status, in Anthropic's shape."""
    avibe.refusal = refusal
    response = ask(client, COUNT)
    assert (response.status_code, response.json["error"]["type"]) == (status, kind)


class TestItsBudget:
    """Ten times as large as that of answers, and apart from it."""

    @pytest.fixture
    def environ(self):
        return {"RATE_LIMIT_PER_MINUTE": "2", "RATE_LIMIT_PER_HOUR": "0"}

    def test_counting_costs_no_answers(self, client):
        """And answers cost no counting; a count that is refused is charged, like any request."""
        assert [ask(client, MESSAGES).status_code for _ in range(3)] == [200, 200, 429]
        counted = [ask(client, COUNT) for _ in range(19)]
        assert {response.status_code for response in counted} == {200}
        assert ask(client, COUNT, model="none").status_code == 404
        assert counted[-1].headers["RateLimit-Remaining"] == "1"
        refused = ask(client, COUNT)
        assert refused.status_code == 429
        assert refused.json["error"] == {
            "type": "rate_limit_error",
            "message": "Rate limit exceeded: 20 requests per minute",
            "retry_after": int(refused.headers["Retry-After"]),
            "details": {"setting": "RATE_LIMIT_PER_MINUTE"},
        }
        assert int(refused.headers["Retry-After"]) > 0
