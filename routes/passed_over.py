"""What a request of /v1 may carry without changing its answer: passed over, and not refused.

Programs send what other servers know, and send back what their own library wrote. Hints change how an answer is made
and not what it is; neutral values ask for nothing; fields of history belong to the program. Any other unknown field
would change the answer, and is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

EMPTY: tuple[Any, ...] = ("", [], {})  # with null and false, what asks for nothing in a field that no table names


@dataclass(frozen=True, slots=True)
class Use:
    """A note of what to use instead: the first of these fields that the object has, of several protocols.

    otherwise: the note for an object that has none of them.
    """

    fields: tuple[str, ...]
    otherwise: str = ""

    def sentence(self, known: Set[str]) -> str:
        """Return the note for an object with these fields."""
        return next((f"Use {name}." for name in self.fields if name.partition(".")[0] in known), self.otherwise)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """The fields that one kind of object may carry beside its own.

    hints: passed over whatever their values. within: what in them is no hint, by path, each with the values that change
    nothing; a list on the path is each of its items. neutral: not supported here, each with the values that change
    nothing. notes: what the refusal of a field adds, such as what to use instead. rest: whether all others are passed
    over, as in history.
    """

    hints: frozenset[str] = frozenset()
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    notes: Mapping[str, str | Use] = field(default_factory=dict)
    rest: bool = False
    within: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def allows(self, name: str, value: Any) -> bool:
        """Return whether a field with this value is passed over."""
        if name in self.hints or value is None:
            return self.changing(name, value) is None
        if name in self.neutral:
            return _is_one_of(value, self.neutral[name])
        return self.rest or value is False or value in EMPTY

    def changing(self, name: str, value: Any) -> str | None:
        """Return the path of what would change the answer inside a hint with this value, None if nothing would."""
        for path, values in self.within.items():
            first, *keys = path.split(".")
            if first == name and any(not _is_one_of(one, values) for one in _at(value, keys) if one is not None):
                return path
        return None

    def refusal(self, name: str, known: Set[str]) -> str | None:
        """Return what completes "<field> ..." in the refusal of a field, None if nothing is known of it.

        name: of the field, or the path of one in a hint. known: the object's own fields.
        """
        note = self.notes.get(name, "")
        shown_note = note.sentence(known) if isinstance(note, Use) else note
        neutral_values = self.within.get(name, self.neutral.get(name))
        if neutral_values is None and not shown_note:
            return None
        values = [one for one in neutral_values or () if one not in EMPTY]
        shown = " or ".join(json.dumps(one) for one in values)
        sentence = f"must be {shown}; other values are not supported." if shown else "is not supported."
        return f"{sentence} {shown_note}".rstrip()


def neutral(values: tuple[Any, ...], names: str) -> dict[str, tuple[Any, ...]]:
    """Return a table in which each of the names has these neutral values. names: separated by blanks."""
    return dict.fromkeys(names.split(), values)


def use(instead: str, names: str, otherwise: str = "") -> dict[str, Use]:
    """Return notes that name what to use instead of some fields. Both are names separated by blanks."""
    return dict.fromkeys(names.split(), Use(tuple(instead.split()), otherwise))


def hints(*names: str) -> frozenset[str]:
    """Return the names of hints. names: texts of several, separated by blanks."""
    return frozenset(name for several in names for name in several.split())


def joined(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one table of several."""
    return {name: value for table in tables for name, value in table.items()}


def same_in_json(value: Any, neutral_value: Any) -> bool:
    """Return whether two values are the same in JSON, where true is not 1."""
    return isinstance(value, bool) is isinstance(neutral_value, bool) and bool(value == neutral_value)


def _is_one_of(value: Any, values: Iterable[Any]) -> bool:
    return any(same_in_json(value, one) for one in values)


def _at(value: Any, keys: Sequence[str]) -> Iterator[Any]:
    """Yield what stands at a path of keys in a value, as often as lists on it have that."""
    if isinstance(value, list):
        for one in value:
            if not isinstance(one, list):
                yield from _at(one, keys)
    elif not keys:
        yield value
    elif isinstance(value, dict) and keys[0] in value:
        yield from _at(value[keys[0]], keys[1:])


HINTS = hints(
    # OpenAI, and the services that extend its API: bookkeeping, caching, billing, routing.
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options",
    "moderation verbosity user_security_context user_id chat_id session_id trace tags provider models route usage",
    "debug safety_model compliance perf_metrics_in_response prompt_cache_isolation_key speculation cache_control",
    "prediction citation_options disable_tool_validation tool_stream incremental_output include_reasoning",
    # vLLM, SGLang: scheduling and transport. Tokenizers of these models add no special tokens of their own.
    "priority request_id rid cache_salt extra_key custom_labels stream_interval stream_reasoning truncation_side",
    "add_special_tokens spaces_between_special_tokens return_cached_tokens_details return_mm_kwargs",
    "kv_transfer_params ec_transfer_params routed_dp_rank data_parallel_rank disagg_prefill_dp_rank",
    "guided_decoding_backend",
    "bootstrap_host bootstrap_port bootstrap_room routed_experts_start_len routed_experts_prompt_start",
    # llama.cpp, Ollama, LM Studio: caches, slots, timings, drafts.
    "cache_prompt id_slot n_keep n_cache_reuse timings_per_token return_progress sse_ping_interval",
    "keep_alive shift ttl draft_model speculative.n_max speculative.n_min speculative.p_min backend_sampling",
    # What tunes a way of sampling that another field, a neutral one below, switches on.
    "mirostat_tau mirostat_eta mirostat_lr mirostat_target dynatemp_exponent dynatemp_low dynatemp_high repeat_last_n",
    "dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers xtc_threshold smoothing_curve rep_pen_range",
    "rep_pen_slope adaptive_decay",
    # Settings of a client that it sends along.
    "timeout request_timeout num_retries max_retries drop_params litellm_metadata litellm_call_id litellm_trace_id",
    "litellm_session_id truncation_length max_context_length",
)
# What in these is no hint: without an answer, or with one that is withheld.
WITHIN = joined(
    [
        neutral((False,), "prompt_cache_options.prewarm"),
        neutral(("score",), "moderation.policy.input.mode moderation.policy.output.mode"),
    ]
)
# Empty tuples: null alone is neutral, since the empty value asks for something.
NEUTRAL = joined(
    [
        neutral(
            (False,),
            "use_beam_search early_stopping include_stop_str_in_output continue_final_message echo watermark "
            "watermarking return_token_ids return_tokens_as_token_ids return_tokens return_prompt_text "
            "return_full_text return_hidden_states return_routed_experts no_stop_trim raw raw_output safe_prompt "
            "deferred enable_search enable_thinking think penalize_nl ban_eos_token dynamic_temperature "
            "temperature_last post_sampling_probs decoder_input_details thinking_forced_open reasoning_in_content",
        ),
        neutral(
            (True,),
            "add_generation_prompt skip_special_tokens detokenize do_sample separate_reasoning parse_tool_calls "
            "add_bos_token",
        ),
        neutral((True, False), "truncate"),
        neutral(
            (0,),
            "min_tokens n_probs n_indent min_keep mirostat dynatemp_range dry_multiplier xtc_probability top_a "
            "epsilon_cutoff eta_cutoff smoothing_factor penalty_alpha no_repeat_ngram_size min_length skew nsigma",
        ),
        neutral((0, -1), "top_n_sigma t_max_predict_ms t_max_prompt_ms"),
        # Fields that another route has.
        neutral((0,), "presence_penalty frequency_penalty min_p top_logprobs"),
        neutral((1,), "n repetition_penalty"),
        neutral(("none", "auto", {"type": "none"}, {"type": "auto"}), "tool_choice"),
        neutral((True, False), "parallel_tool_calls"),
        neutral(("none", "minimal", "default"), "reasoning_effort"),
        neutral(({}, {"enable_thinking": False}, {"thinking": False}), "chat_template_kwargs"),
        neutral(({"include_usage": True}, {"include_usage": False}), "stream_options"),
        neutral(
            (1,),
            "best_of num_beams n_cmpl length_penalty typical_p typical tfs_z tfs guidance_scale repeat_penalty "
            "rep_pen encoder_repetition_penalty",
        ),
        neutral((-1,), "n_predict num_predict truncate_prompt_tokens reasoning_budget thinking_budget adaptive_target"),
        neutral(("", [], {}), "suffix format grammar_string"),
        neutral(
            ([],),
            "functions stop_token_ids bad_words logits_processors samplers sampler_order lora documents transforms "
            "plugins data_sources mcp_servers guardrails grammar_triggers preserved_tokens banned_tokens "
            "banned_strings",
        ),
        neutral(({},), "options extra_body vllm_xargs mm_processor_kwargs media_io_kwargs custom_params"),
        neutral(("",), "grammar regex ebnf"),
        neutral((), "audio web_search_options json_schema structural_tag"),
        neutral((), "structured_outputs guided_json guided_regex guided_choice guided_grammar prompt_logprobs"),
        neutral((), "guided_whitespace_pattern"),
        neutral((), "allowed_token_ids logprob_token_ids thinking_token_budget repetition_detection chat_template"),
        neutral((["text"], []), "modalities"),
        neutral(({"type": "text"},), "response_format"),
        neutral(("none", "auto"), "function_call"),
        neutral(("auto", "deepseek", "parsed"), "reasoning_format"),
        neutral(("error",), "context_length_exceeded_behavior"),
        neutral(("message",), "result_format"),
        neutral(({"type": "disabled"},), "thinking"),
        neutral(({"enabled": False}, {"effort": "none"}, {}), "reasoning"),
        neutral(({"mode": "off"}, {}), "search_parameters"),
    ]
)
NOTES = joined(
    [
        use(
            "max_tokens max_output_tokens",
            "n_predict num_predict max_new_tokens max_length max_tokens max_completion_tokens max_output_tokens "
            "max_tokens_to_sample",
        ),
        use("repetition_penalty", "repeat_penalty rep_pen"),
        use(
            "reasoning_effort reasoning thinking",
            "think thinking enable_thinking reasoning reasoning_effort reasoning_budget thinking_budget "
            "chat_template_kwargs",
        ),
        use(
            "response_format text.format output_config.format structured_outputs",
            "response_format json_schema format guided_json structural_tag",
        ),
        use(
            "structured_outputs",
            "grammar regex ebnf guided_regex guided_choice guided_grammar structured_outputs",
            otherwise="Use structured_outputs of /v1/chat/completions.",
        ),
        use("temperature", "do_sample"),
        use("tools", "functions"),
        use("tool_choice", "function_call"),
        use("logprobs include", "n_probs logprobs"),
        use("n", "n_cmpl"),
        use("seed", "random_seed"),
        use("stop stop_sequences", "stop stop_sequences"),
        dict.fromkeys(("audio", "modalities"), "This service writes text alone."),
        {"options": "Send its fields themselves.", "web_search_options": "Nothing is searched."},
        {"prompt_cache_options.prewarm": "An answer is always generated."},
        dict.fromkeys(("moderation.policy.input.mode", "moderation.policy.output.mode"), "Nothing is withheld here."),
        {"prompt_logprobs": "Use echo and logprobs of /v1/completions."},
    ]
)

REQUEST = PassedOver(HINTS, NEUTRAL, NOTES, within=WITHIN)
# Messages, their parts and their calls: a program sends back what its library made of an answer.
HISTORY = PassedOver(
    neutral=joined(
        [
            neutral(("", [], {}), "images image videos video audios files file attachments documents tools"),
            neutral(("", [], {}), "image_url input_image input_audio video_url tool_calls function_call"),
            neutral((False,), "prefix partial"),
            neutral((), "audio"),
        ]
    ),
    notes=dict.fromkeys(("images", "image", "image_url", "input_image"), "Use parts of the type image_url.")
    | dict.fromkeys(("prefix", "partial"), "Use continue_final_message of /v1/chat/completions.")
    | dict.fromkeys(
        ("tool_calls", "function_call"), "Calls belong to the assistant; in /v1/responses they are items of their own."
    ),
    rest=True,
)
# What lists of tools are made of besides: marks of caches, names for people, what a function returns.
TOOL = PassedOver(
    hints(
        "cache_control defer_loading eager_input_streaming allowed_callers strict index id metadata tags title",
        "display_name annotations icons examples input_examples return returns response output_schema outputSchema",
        "execution _meta",
    )
)
FORMAT = PassedOver(hints("name description strict"))
# Templates take what they know and ignore the rest; these are no variables of theirs, or would change any of them.
TEMPLATE = PassedOver(
    neutral=joined(
        [
            neutral((True,), "add_generation_prompt"),
            neutral((False,), "continue_final_message"),
            neutral((), "chat_template tokenize documents"),
        ]
    ),
    rest=True,
)
STREAM_OPTIONS = PassedOver(rest=True)
