"""What a request of the Responses API may carry beside its fields without changing the answer.

It has the tables of all requests of /v1; here is what this protocol has beside them.
"""

from __future__ import annotations

from routes import passed_over
from routes.passed_over import PassedOver, hints, joined, neutral, use

INSTEAD = joined(
    [
        use("input", "messages"),
        use("previous_response_id", "conversation"),
        {"background": "Stream the response instead."},
        {"prompt": "Prompts are not kept here; send the text itself."},
        {"generate": "An answer is always generated."},
        {"context_management": "Nothing is compacted here; send less of the conversation."},
    ]
)
REQUEST = PassedOver(
    passed_over.HINTS
    | hints("max_tool_calls access_programs client_metadata image stream_options personality background_options"),
    joined(
        [
            passed_over.NEUTRAL,
            neutral((False,), "background"),
            neutral((True,), "generate"),
            neutral((1,), "n"),
            neutral((), "conversation prompt"),
            neutral(([],), "context_management"),
        ]
    ),
    joined([passed_over.NOTES, INSTEAD]),
    within=passed_over.WITHIN,
)
TOOL = PassedOver(passed_over.TOOL.hints | hints("output_schema namespace async"))
TEXT = PassedOver(hints("verbosity"))
REASONING = PassedOver(hints("summary generate_summary context mode"))
# What else a list of items may be asked for is in it in any case, or never.
QUERY = PassedOver(hints("include include[] before"))
