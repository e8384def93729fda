"""The protocols in which generations can be requested, as a label of metrics."""

from __future__ import annotations

from enum import Enum


class Protocol(Enum):
    """Which of the service's interfaces a request came through."""

    FORM = "form"
    API = "api"
    OPENAI_CHAT = "openai_chat"
    OPENAI_COMPLETIONS = "openai_completions"
    OPENAI_RESPONSES = "openai_responses"
    ANTHROPIC_MESSAGES = "anthropic_messages"
