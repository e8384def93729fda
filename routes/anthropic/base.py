"""The bases of the parts of a request to /v1/messages, and what they pass over."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ConfigDict

from routes.passed_over import HINTS, HISTORY, NEUTRAL, NOTES, WITHIN, PassedOver, hints, neutral
from routes.protocol_request import ProtocolRequest

REQUEST = PassedOver(
    HINTS
    | hints(
        "anthropic_beta anthropic_version betas billing_policy context_management diagnostics inference_geo speed",
        "fallback_credit_token",
        "user_profile_id workspace_id",
    ),
    # Null alone is neutral where there are no values.
    NEUTRAL | neutral((), "compaction container thread") | neutral(([],), "fallbacks"),
    NOTES
    | {"container": "This service runs no code.", "mcp_servers": "This service calls no other servers."}
    | dict.fromkeys(("thread", "compaction"), "Send the whole conversation.")
    | {"context_management.edits.pause_after_compaction": "Nothing is compacted here."},
    within=WITHIN | neutral((False,), "context_management.edits.pause_after_compaction"),
)
# Programs count what they are about to ask, with the fields that only an answer has.
COUNT = replace(REQUEST, hints=REQUEST.hints | hints("max_tokens temperature top_p top_k stop_sequences stream"))
HISTORY_HERE = replace(
    HISTORY,
    notes=dict.fromkeys(("images", "image", "image_url", "input_image"), "Use blocks of the type image.")
    | dict.fromkeys(("prefix", "partial"), "A message of the assistant at the end is continued without it.")
    | dict.fromkeys(("tool_calls", "function_call"), "Use blocks of the type tool_use."),
)
# Of texts they are what an earlier answer had; of what can be cited, they ask for them in the next one.
CITABLE = replace(
    HISTORY_HERE,
    neutral={**HISTORY_HERE.neutral, **neutral(({"enabled": False}, {}), "citations")},
    notes={**HISTORY_HERE.notes, "citations": "This service makes none."},
)
CHOICE = PassedOver(hints("cache_control disable_parallel_tool_use"))
THINKING = PassedOver(hints("block_binding budget_tokens effort"))
OUTPUT = PassedOver(hints("effort task_budget"))


class AnthropicRequest(ProtocolRequest):
    """A request. Beside its fields, hints and values that change no answer are passed over; others are refused."""

    union_tags = frozenset(
        {
            *("user", "assistant", "system"),
            *("text", "image", "document", "search_result", "tool_use", "tool_result", "tool_reference"),
            *("thinking", "redacted_thinking"),
            *("base64", "url", "file", "content"),
            *("auto", "any", "tool", "none"),
            *("enabled", "adaptive", "between_tools", "disabled"),
        }
    )
    passed_over = REQUEST


class Passing(AnthropicRequest):
    """A part whose other fields are passed over, whatever they are."""

    model_config = ConfigDict(extra="ignore")

    passed_over = PassedOver(rest=True)


class HistoryPart(Passing):
    """A part of the conversation. What would vanish from it in silence is refused by name."""

    passed_over = HISTORY_HERE


class CitablePart(HistoryPart):
    """A part of the conversation that answers could cite."""

    passed_over = CITABLE
