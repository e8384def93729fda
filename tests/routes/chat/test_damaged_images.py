"""Images with a good header that cannot be decoded, in the results of tools and in questions, in each protocol."""

import base64

import pytest

from routes.chat.conversation import UNREAD_IMAGE
from tests.fakes import image_bytes

DAMAGED = base64.b64encode(image_bytes()[:60]).decode()
URL = f"data:image/png;base64,{DAMAGED}"
ASKED = {"role": "user", "content": "And now?"}
CALL = {"name": "look", "arguments": "{}"}


def chat(*images):
    """Return the address, a conversation with these images in a result of a tool, and a question about them."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": parts}
    bodies = [
        {"model": "avision", "messages": turns} for turns in ([call, result, ASKED], [ASKED | {"content": parts}])
    ]
    return "/v1/chat/completions", *bodies


def responses(*images):
    parts = [{"type": "input_image", "image_url": url} for url in images]
    call = {"type": "function_call", "call_id": "c1", **CALL}
    result = {"type": "function_call_output", "call_id": "c1", "output": parts}
    bodies = [{"model": "avision", "input": items} for items in ([call, result, ASKED], [ASKED | {"content": parts}])]
    return "/v1/responses", *bodies


def messages(*images):
    source = {"type": "base64", "media_type": "image/png"}
    parts = [{"type": "image", "source": source | {"data": url.partition(",")[2]}} for url in images]
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": parts}]}
    body = {"model": "avision", "max_tokens": 8}
    bodies = [body | {"messages": turns} for turns in ([ASKED, call, result], [ASKED | {"content": parts}])]
    return "/v1/messages", *bodies


@pytest.mark.parametrize("protocol", [chat, responses, messages])
def test_a_text_stands_for_a_damaged_image_of_a_result_and_a_damaged_question_is_refused(client, avision, protocol):
    """An agent sends the whole conversation each time, and cannot take the result back; a person can choose anew."""
    good = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
    path, conversation, question = protocol(URL, good)
    answer = client.post(path, json=conversation)
    assert answer.status_code == 200, answer.json
    prompt = avision.submitted[-1].prompt
    assert len(prompt.images) == 1
    assert str(prompt.messages).count(UNREAD_IMAGE) == 1
    refused = client.post(path, json=question)
    assert refused.status_code == 400
    assert "damaged" in refused.text
