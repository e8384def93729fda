"""Calls a running service with the client that openapi-python-client makes; see generated.sh.

The package of the client is made by that program, so nothing here is imported by the test suite.
"""

import base64
import sys
from pathlib import Path

from avito_ai_api_client import Client, models
from avito_ai_api_client.api.anthropic_messages import anthropic_count_tokens, anthropic_messages
from avito_ai_api_client.api.health import health_ready
from avito_ai_api_client.api.open_ai_chats_and_completions import openai_chat_completions, openai_models
from avito_ai_api_client.api.open_ai_responses import responses_create
from avito_ai_api_client.api.texts_and_images import api_image_analyze, api_text_generate
from avito_ai_api_client.types import File

ASK = "Write a listing for: used bicycle"


def shown(call, text):
    """Print what a call has answered; an empty text is a failure."""
    assert text, call
    print(f"Python: {call}: {text!r:.60}")


def main(address):
    """Make every kind of call."""
    client = Client(base_url=address, timeout=120)
    ready = health_ready.sync(client=client)
    assert isinstance(ready, models.Readiness)
    listed = openai_models.sync(client=client)
    assert isinstance(listed, models.ModelList)
    shown("models", [model.id for model in listed.data])

    text = api_text_generate.sync(client=client, body=models.TextGenerateRequest(prompt=ASK, max_tokens=40))
    assert isinstance(text, models.GenerationAnswer)
    shown("generate", text.data.text)

    photo = Path("red-square.png")
    with photo.open("rb") as opened:
        form = models.ImageAnalyzeForm(prompt="What is in it?", image=File(payload=opened, file_name=photo.name))
        seen = api_image_analyze.sync(client=client, body=form)
    assert isinstance(seen, models.GenerationAnswer)
    shown("image, a form", seen.data.text)
    url = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    body = models.ImageAnalyzeRequest(prompt="What is in it?", image=url)
    seen = api_image_analyze.sync(client=client, body=body)
    assert isinstance(seen, models.GenerationAnswer)
    shown("image, JSON", seen.data.text)

    message = models.UserMessage(role="user", content=ASK)
    chat = models.ChatCompletionRequest(
        model=models.ChatCompletionRequestModel.AVIBE, messages=[message], max_tokens=40
    )
    answered = openai_chat_completions.sync(client=client, body=chat)
    assert isinstance(answered, models.ChatCompletion)
    shown("chat", answered.choices[0].message.content)
    see = models.ImagePart(type_=models.ImagePartType.IMAGE_URL, image_url=models.ImageUrl(url=url))
    asked = models.UserMessage(
        role="user", content=[see, models.TextPart(type_=models.TextPartType.TEXT, text="What is in it?")]
    )
    chat = models.ChatCompletionRequest(
        model=models.ChatCompletionRequestModel.AVISION, messages=[asked], max_tokens=40
    )
    answered = openai_chat_completions.sync(client=client, body=chat)
    assert isinstance(answered, models.ChatCompletion)
    shown("chat, an image", answered.choices[0].message.content)

    response = responses_create.sync(
        client=client,
        body=models.ResponseRequest(model=models.ResponseRequestModel.AVIBE, input_=ASK, max_output_tokens=40),
    )
    assert isinstance(response, models.ResponseObject)
    shown("responses", response.output[0].content[0].text)

    turn = models.UserTurn(role="user", content=ASK)
    body = models.MessagesRequest(model=models.MessagesRequestModel.AVIBE, messages=[turn], max_tokens=40)
    said = anthropic_messages.sync(client=client, body=body)
    assert isinstance(said, models.MessageAnswer)
    shown("messages", said.content[0].text)
    counted = anthropic_count_tokens.sync(
        client=client, body=models.CountTokensRequest(model=models.CountTokensRequestModel.AVIBE, messages=[turn])
    )
    assert isinstance(counted, models.TokenCount)
    shown("count_tokens", counted.input_tokens)

    refused = api_text_generate.sync(client=client, body=models.TextGenerateRequest(prompt=""))
    assert isinstance(refused, models.ApiFailure)
    shown("a refusal", refused.message)


if __name__ == "__main__":
    main(sys.argv[1])
