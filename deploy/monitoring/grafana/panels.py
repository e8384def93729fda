"""The panels of the dashboard, by row: title, description, unit and expressions of each.

The first row shows whether the service is healthy, those below where to look if it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SELECT = 'model=~"$model",instance=~"$instance"'
ONE = 'instance=~"$instance"'
PROCESS = f'job="avito-ai",{ONE}'
OURS = "model_error|internal_error|deadline_exceeded|not_ready|upstream_error"
OVER_TIME, STAT, STATES = "timeseries", "stat", "state-timeline"

Query = tuple[str, str]  # an expression and the legend of its series


@dataclass(frozen=True)
class Panel:
    """limit, warn: thresholds of red and yellow; falling: low values are bad; axis_max: end of the axis."""

    title: str
    text: str
    unit: str
    queries: Sequence[Query]
    kind: str = OVER_TIME
    width: int = 8
    height: int = 8
    warn: float | None = None
    limit: float | None = None
    falling: bool = False
    stacked: bool = False
    axis_max: float | None = None


def quantiles(metric: str, *shares: float) -> list[Query]:
    """Return queries of a histogram's quantiles by model."""
    rate = f"sum by (model, le) (rate({metric}_bucket{{{SELECT}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rate})", f"{{{{model}}}} p{share * 100:g}") for share in shares]


def rate(metric: str, by: str, select: str = SELECT) -> str:
    """Return the summed rate of a counter per second."""
    return f"sum by ({by}) (rate({metric}{{{select}}}[$__rate_interval]))"


def lately(metric: str) -> str:
    """Return the increase of a counter by model in the last hour."""
    return f"sum by (model) (increase({metric}{{{SELECT}}}[1h]))"


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Overview",
        (
            Panel(
                "Ready copies", "Copies with both their models ready.", "short",
                [(
                    f'sum(min by (instance) (avito_ai_model_status{{{ONE},status="ready",model=~"avibe|avision"}}))',
                    "ready",
                )],
                STAT, 4, 4, 1, 0.5, True,
            ),
            Panel(
                "Requests", "Successful generation requests per second.", "reqps",
                [(f'sum(rate(avito_ai_requests_total{{{SELECT},status="success"}}[$__rate_interval]))', "answered")],
                STAT, 4, 4,
            ),
            Panel(
                "Errors", "Share of generation requests with an error of the service, overload included.",
                "percentunit",
                [(
                    f'sum(rate(avito_ai_requests_total{{{SELECT},status=~"{OURS}|overloaded"}}[$__rate_interval])) '
                    f"/ sum(rate(avito_ai_requests_total{{{SELECT}}}[$__rate_interval]))",
                    "failed",
                )],
                STAT, 4, 4, 0.01, 0.05,
            ),
            Panel(
                "Time to first token, p95", "The slower of both models.", "s",
                [(
                    "max(histogram_quantile(0.95, sum by (model, le) "
                    f"(rate(avito_ai_time_to_first_token_seconds_bucket{{{SELECT}}}[$__rate_interval]))))",
                    "p95",
                )],
                STAT, 4, 4, 2, 5,
            ),
            Panel(
                "Tokens", "Generated tokens per second, both models.", "short",
                [(f"sum(rate(avito_ai_generation_tokens_total{{{SELECT}}}[$__rate_interval]))", "tokens/s")],
                STAT, 4, 4,
            ),
            Panel(
                "Alerts", "Firing alerts.", "short",
                [('count(ALERTS{alertstate="firing",alertname=~"Avito.*"}) or vector(0)', "firing")],
                STAT, 4, 4, 1, 1,
            ),
            Panel(
                "State of the models", "By model and copy.", "short",
                [(f"avito_ai_model_status{{{SELECT}}} == 1", "{{instance}} {{model}} {{status}}")],
                STATES, 18, 6,
            ),
            Panel(
                "Release", "By copy.", "short",
                [(f"avito_ai_build_info{{{ONE}}}", "{{instance}} {{version}} {{release}}")],
                STATES, 6, 6,
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Requests by status", "Generation requests per second by final status.", "reqps",
                [(rate("avito_ai_requests_total", "model, status"), "{{model}} {{status}}")], stacked=True,
            ),
            Panel(
                "Refusals by reason", "Refused requests per second: overloaded, not ready, or over a rate limit.",
                "reqps",
                [
                    (
                        rate("avito_ai_requests_total", "model, status", SELECT + ',status=~"overloaded|not_ready"'),
                        "{{model}} {{status}}",
                    ),
                    (rate("avito_ai_rate_limit_refusals_total", "budget, window", ONE), "{{budget}} per {{window}}"),
                ],
            ),
            Panel(
                "Errors by route", "HTTP responses with status 400 and above per second.", "reqps",
                [(
                    rate("avito_ai_http_requests_total", "route, status", ONE + ',status=~"[45].."'),
                    "{{route}} {{status}}",
                )],
            ),
            Panel(
                "HTTP requests by route", "HTTP requests per second, probes included.", "reqps",
                [(rate("avito_ai_http_requests_total", "route", ONE), "{{route}}")], stacked=True,
            ),
            Panel(
                "Requests by protocol", "Generation requests per second by the interface that they came through.",
                "reqps", [(rate("avito_ai_requests_total", "protocol"), "{{protocol}}")], stacked=True,
            ),
            Panel(
                "Batches", "Batches in flight, their maximum, and those that were refused beyond it.", "short",
                [
                    (f"avito_ai_batches_in_flight{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_max_batches{{{ONE}}}", "{{instance}}, maximum"),
                    (f"increase(avito_ai_batches_refused_total{{{ONE}}}[5m])", "{{instance}}, refused in 5 minutes"),
                ],
            ),
            Panel(
                "Time to headers by route, p95", "Slow probes indicate that no threads are free.", "s",
                [(
                    "histogram_quantile(0.95, sum by (route, le) "
                    f"(rate(avito_ai_http_request_duration_seconds_bucket{{{ONE}}}[$__rate_interval])))",
                    "{{route}}",
                )],
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Time to first token", "From arrival.", "s",
                quantiles("avito_ai_time_to_first_token_seconds", 0.5, 0.95, 0.99), limit=5,
            ),
            Panel(
                "Time per output token", "Mean time between the tokens of an answer.", "s",
                quantiles("avito_ai_inter_token_latency_seconds", 0.5, 0.95, 0.99),
            ),
            Panel(
                "Latency", "From arrival to completion.", "s",
                quantiles("avito_ai_e2e_request_latency_seconds", 0.5, 0.95, 0.99), limit=60,
            ),
            Panel(
                "Queueing time", "From arrival to the first step.", "s",
                quantiles("avito_ai_request_queue_time_seconds", 0.5, 0.95),
            ),
            Panel(
                "Prompt length", "In tokens.", "short", quantiles("avito_ai_request_prompt_tokens", 0.5, 0.95)
            ),
            Panel(
                "Answer length", "In tokens.", "short", quantiles("avito_ai_request_generation_tokens", 0.5, 0.95)
            ),
        ),
    ),
    (
        "Engine",
        (
            Panel(
                "Running", "Running sequences and their maximum.", "short",
                [
                    (f"avito_ai_num_requests_running{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_max_num_seqs{{{SELECT}}}", "{{instance}} {{model}} maximum"),
                ],
            ),
            Panel(
                "Waiting", "Waiting sequences and their maximum.", "short",
                [
                    (f"avito_ai_num_requests_waiting{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_max_waiting{{{SELECT}}}", "{{instance}} {{model}} maximum"),
                ],
            ),
            Panel(
                "Estimated wait", "The engine's estimate for a new request.", "s",
                [(f"avito_ai_estimated_wait_seconds{{{SELECT}}}", "{{instance}} {{model}}")],
            ),
            Panel(
                "Tokens", "Tokens per second: generated, of prompts, and found in the prefix cache.", "short",
                [
                    (rate("avito_ai_generation_tokens_total", "model"), "{{model}} generated"),
                    (rate("avito_ai_prompt_tokens_total", "model"), "{{model}} prompt"),
                    (rate("avito_ai_cached_tokens_total", "model"), "{{model}} cached"),
                ],
            ),
            Panel(
                "KV cache", "Used share.", "percentunit",
                [(f"avito_ai_kv_cache_usage_ratio{{{SELECT}}}", "{{instance}} {{model}}")],
                axis_max=1, warn=0.8, limit=0.95,
            ),
            Panel(
                "KV cache tokens", "In use, and the capacity.", "short",
                [
                    (f"avito_ai_kv_cache_tokens_used{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_kv_cache_tokens_capacity{{{SELECT}}}", "{{instance}} {{model}} capacity"),
                ],
            ),
            Panel(
                "Prefix-cache hits", "Share of prompt tokens found in the prefix cache.", "percentunit",
                [(
                    rate("avito_ai_cached_tokens_total", "model")
                    + " / " + rate("avito_ai_prompt_tokens_total", "model"),
                    "{{model}}",
                )],
                axis_max=1,
            ),
            Panel(
                "Steps", "Engine steps per second.", "ops", [(rate("avito_ai_steps_total", "model"), "{{model}}")]
            ),
            Panel(
                "Since the last step", "Only a problem while there are requests.", "s",
                [(f"avito_ai_seconds_since_step{{{SELECT}}}", "{{instance}} {{model}}")],
            ),
            Panel(
                "Preemptions, restarts, NaN logits", "In the last hour.", "short",
                [
                    (lately("avito_ai_preemptions_total"), "{{model}} preemptions"),
                    (lately("avito_ai_engine_restarts_total"), "{{model}} restarts"),
                    (lately("avito_ai_nan_logits_total"), "{{model}} not finite"),
                ],
            ),
            Panel(
                "Draft tokens", "In the last hour: proposed, and accepted by the model.", "short",
                [
                    (lately("avito_ai_draft_tokens_total"), "{{model}} proposed"),
                    (lately("avito_ai_accepted_draft_tokens_total"), "{{model}} accepted"),
                ],
            ),
        ),
    ),
    (
        "Client keys",
        (
            Panel(
                "Requests by key",
                "HTTP requests per second, by the name of a client key or token; added up where Prometheus "
                "reaches the service from outside its machine or container and does not send ADMIN_KEY.",
                "reqps",
                [(
                    f'label_replace({rate("avito_ai_key_requests_total", "key", ONE)}, "key", "all keys", "key", "")',
                    "{{key}}",
                )],
                stacked=True,
            ),
            Panel(
                "Refused keys", "Requests per second without a key, or with one that does not count.", "reqps",
                [(rate("avito_ai_credential_refusals_total", "reason", ONE), "{{reason}}")],
            ),
            Panel(
                "Ratings of answers", "Answers that somebody rated, per hour.", "short",
                [(f"sum by (model, rating) (increase(avito_ai_feedback_total{{{ONE}}}[1h]))", "{{model}} {{rating}}")],
            ),
            Panel(
                "Known keys", "Of the database and of API_KEYS_FILE; stale is 1 while they cannot be read.", "short",
                [
                    (f"avito_ai_client_keys{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_client_keys_stale{{{ONE}}}", "{{instance}} stale"),
                ],
            ),
        ),
    ),
    (
        "Spending",
        (
            Panel(
                "Cost per hour", "In the currency of the settings; 0 without PRICES.", "short",
                [(lately("avito_ai_cost_total"), "{{model}}")], stacked=True,
            ),
            Panel(
                "Budget of the service", "Used share of BUDGET_PER_DAY and BUDGET_PER_MONTH; 0 without them.",
                "percentunit", [(f"max by (period) (avito_ai_budget_used_ratio{{{ONE}}})", "{{period}}")],
                warn=0.8, limit=1,
            ),
            Panel(
                "Budgets of accounts", "Those of accounts in use that are nearly spent (80%), or spent.", "short",
                [(f"max by (state) (avito_ai_account_budgets{{{ONE}}})", "{{state}}")],
            ),
            Panel(
                "Refusals by budget or limit", "Requests refused per second, by the limit.", "reqps",
                [(rate("avito_ai_limit_refusals_total", "limit", ONE), "{{limit}}")],
            ),
            Panel(
                "Budgets without the database", "1 while usage cannot be read, and a copy counts alone.", "short",
                [(f"avito_ai_budgets_stale{{{ONE}}}", "{{instance}}")], axis_max=1,
            ),
            Panel(
                "Webhook failures", "Warnings that could not be posted in the last hour.", "short",
                [(f"increase(avito_ai_webhook_failures_total{{{ONE}}}[1h])", "{{instance}}")],
            ),
        ),
    ),
    (
        "Usage",
        (
            Panel(
                "Recorded requests", "Recorded requests per second, and lost ones in the last hour.",
                "short",
                [
                    (rate("avito_ai_usage_records_total", "instance", ONE), "{{instance}}"),
                    (f"increase(avito_ai_usage_lost_records_total{{{ONE}}}[1h])", "{{instance}} lost"),
                ],
            ),
            Panel(
                "Usage that waits for the database", "Age of the oldest waiting record; failures in an hour.",
                "s",
                [
                    (f"avito_ai_usage_lag_seconds{{{ONE}}}", "{{instance}}"),
                    (f"increase(avito_ai_usage_failures_total{{{ONE}}}[1h])", "{{instance}} failures, {{where}}"),
                ],
            ),
            Panel(
                "Usage outside the database", "Bytes in the journal, and records in memory where it cannot be written.",
                "short",
                [
                    (f"avito_ai_usage_journal_bytes{{{ONE}}}", "{{instance}} bytes"),
                    (f"avito_ai_usage_memory_records{{{ONE}}}", "{{instance}} records"),
                ],
            ),
        ),
    ),
    (
        "Checkpoints and servers elsewhere",
        (
            Panel(
                "Servers that take requests", "0 while a server's breaker is open.", "short",
                [(f'1 - avito_ai_upstream_state{{{SELECT},state="open"}}', "{{model}} {{server}} {{instance}}")],
                axis_max=1,
            ),
            Panel(
                "Requests to servers", "Sent in a second.", "reqps",
                [(f"rate(avito_ai_upstream_requests_total{{{SELECT}}}[$__rate_interval])", "{{model}} {{server}}")],
            ),
            Panel(
                "Requests that servers answer", "Not ended yet.", "short",
                [(f"avito_ai_upstream_requests_outstanding{{{SELECT}}}", "{{model}} {{server}} {{instance}}")],
            ),
            Panel(
                "Failures of servers", "In five minutes: attempts by kind, and openings of a breaker.", "short",
                [
                    (
                        f"sum by (model, server, kind) (increase(avito_ai_upstream_failures_total{{{SELECT}}}[5m]))",
                        "{{model}} {{server}} {{kind}}",
                    ),
                    (
                        f"sum by (model, server) (increase(avito_ai_upstream_breaker_openings_total{{{SELECT}}}[5m]))",
                        "{{model}} {{server}} opened",
                    ),
                ],
            ),
            Panel(
                "Checkpoints", "Copies by what each model has loaded: more than one at a time is a release under way.",
                "short",
                [(
                    f"count by (model, checkpoint, dtype) (avito_ai_model_info{{{SELECT}}})",
                    "{{model}} {{checkpoint}} {{dtype}}",
                )],
            ),
        ),
    ),
    (
        "GPU and machine",
        (
            Panel(
                "GPU memory", "Allocated, reserved by this process, and total. Empty without a GPU.", "bytes",
                [
                    (f"avito_ai_gpu_memory_allocated_bytes{{{ONE}}}", "{{instance}} {{gpu}} allocated"),
                    (f"avito_ai_gpu_memory_reserved_bytes{{{ONE}}}", "{{instance}} {{gpu}} reserved"),
                    (f"avito_ai_gpu_memory_total_bytes{{{ONE}}}", "{{instance}} {{gpu}} total"),
                ],
            ),
            Panel(
                "GPU utilization", "Empty without a GPU.", "percentunit",
                [(f"avito_ai_gpu_busy_ratio{{{ONE}}}", "{{instance}} {{gpu}}")], axis_max=1,
            ),
            Panel(
                "GPU in use", "1 if the models run on a GPU.", "short",
                [(f"avito_ai_gpu_available{{{ONE}}}", "{{instance}}")], axis_max=1,
            ),
            Panel(
                "CPU", "Utilization of the machine, and the cores used by the service.", "short",
                [
                    (f"avito_ai_system_cpu_ratio{{{ONE}}}", "{{instance}} machine"),
                    (f"rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", "{{instance}} cores"),
                ],
            ),
            Panel(
                "Memory", "Used share of the machine's memory.", "percentunit",
                [(f"avito_ai_system_memory_ratio{{{ONE}}}", "{{instance}}")], axis_max=1, warn=0.85, limit=0.92,
            ),
            Panel(
                "Disk", "Used share of the file system of /.", "percentunit",
                [(f"avito_ai_system_disk_ratio{{{ONE}}}", "{{instance}}")], axis_max=1, warn=0.85, limit=0.95,
            ),
        ),
    ),
    (
        "Process and site",
        (
            Panel(
                "Memory of the process", "Resident, and available on the machine.", "bytes",
                [
                    (f"process_resident_memory_bytes{{{PROCESS}}}", "{{instance}} resident"),
                    (f"avito_ai_system_memory_available_bytes{{{ONE}}}", "{{instance}} available"),
                ],
            ),
            Panel(
                "File descriptors", "Used share of the limit.", "percentunit",
                [(f"process_open_fds{{{PROCESS}}} / process_max_fds{{{PROCESS}}}", "{{instance}}")],
                axis_max=1, warn=0.6, limit=0.8,
            ),
            Panel(
                "Age of the process", "Every drop to zero is a restart.", "s",
                [(f"time() - process_start_time_seconds{{{PROCESS}}}", "{{instance}}")],
            ),
            Panel(
                "Rate limits without Redis", "Failed calls to Redis in 5 minutes. 0 if Redis is not used.", "short",
                [(f"increase(avito_ai_rate_limit_storage_failures_total{{{ONE}}}[5m])", "{{instance}}")],
            ),
            Panel(
                "Image decoders", "Decoding processes that were ended and replaced, in five minutes.", "short",
                [(f"increase(avito_ai_image_worker_restarts_total{{{ONE}}}[5m])", "{{instance}}")],
            ),
            Panel(
                "Grammar cache", "Compiled grammars that are kept; at most 64 MiB for each model.", "bytes",
                [
                    (f"avito_ai_grammar_cache_bytes{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_grammar_cache_entries{{{ONE}}}", "{{instance}}, entries"),
                ],
            ),
            Panel(
                "Stored responses", "Kept for an hour; at most STORED_RESPONSES_MIB.", "bytes",
                [
                    (f"avito_ai_stored_responses_bytes{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_stored_responses{{{ONE}}}", "{{instance}}, responses"),
                ],
            ),
            Panel(
                "Resumable streams", "Kept for a minute after their end, to be read again.", "bytes",
                [
                    (f"avito_ai_resumable_streams_bytes{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_resumable_streams{{{ONE}}}", "{{instance}}, streams"),
                ],
            ),
            Panel(
                "Answer cache", "Kept for an hour; at most ANSWER_CACHE_MIB.", "bytes",
                [
                    (f"avito_ai_answer_cache_bytes{{{ONE}}}", "{{instance}}"),
                    (f"avito_ai_answer_cache_entries{{{ONE}}}", "{{instance}}, requests"),
                ],
            ),
            Panel(
                "Answer cache, requests", "A minute: answered from kept answers, and such as might have been.", "short",
                [
                    (f"60 * rate(avito_ai_answer_cache_hits_total{{{ONE}}}[5m])", "{{instance}}, hits"),
                    (f"60 * rate(avito_ai_answer_cache_misses_total{{{ONE}}}[5m])", "{{instance}}, misses"),
                ],
            ),
            Panel(
                "Backup", "Hours since the last one. Empty where deploy/backup.sh makes none.", "h",
                [
                    (f"(time() - avito_ai_backup_timestamp_seconds{{{ONE}}}) / 3600", "{{instance}}"),
                    (f"(time() - avito_ai_backup_test_timestamp_seconds{{{ONE}}}) / 3600", "{{instance}}, test"),
                ],
                warn=50, limit=100,
            ),
            Panel(
                "Size of the backup", "Of the last one.", "bytes",
                [(f"avito_ai_backup_size_bytes{{{ONE}}}", "{{instance}}")],
            ),
            Panel(
                "Certificate", "Days until it expires. Empty without SITE_URL.", "d",
                [('(probe_ssl_earliest_cert_expiry{job="avito-ai-site"} - time()) / 86400', "{{instance}}")],
                warn=14, limit=3, falling=True,
            ),
            Panel(
                "Site", "1 while it responds through the proxy. Empty without SITE_URL.", "short",
                [('probe_success{job="avito-ai-site"}', "{{instance}}")], axis_max=1,
            ),
        ),
    ),
)  # fmt: skip
