"""How much a request may have: JSON for what could fit into a model's context, and stop strings."""

from __future__ import annotations

from edge.route_table import MIB
from engine.text.prompt_size import LONGEST_TOKEN
from routes.json_text import MAX_VALUES, JsonLimits

MAX_STOPS = 16  # the autocompletion of editors sends about ten


def body_limits(max_model_len: int, prompts: int = 0) -> JsonLimits:
    """Return what a body may have for a context of so many tokens: the text of one, or so many prompts as ids.

    A character takes at most twelve bytes of JSON, as the escapes of a surrogate pair.
    """
    return JsonLimits(values=MAX_VALUES + prompts * max_model_len, text_bytes=MIB + 12 * LONGEST_TOKEN * max_model_len)
