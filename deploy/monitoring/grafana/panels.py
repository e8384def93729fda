"""The panels of the dashboard: a row is a topic; a panel is a title, what it tells, a unit and its expressions.

One operator, one server: the first row answers whether all is well, those below say where to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SELECT = 'model=~"$model",instance=~"$instance"'
ONE = 'instance=~"$instance"'
PROCESS = f'job="avito-ai",{ONE}'
OURS = "model_error|internal_error|deadline_exceeded|not_ready"
OVER_TIME, STAT, STATES = "timeseries", "stat", "state-timeline"

Query = tuple[str, str]  # an expression and the legend of its series


@dataclass(frozen=True)
class Panel:
    """limit: from where on a value is red, warn: yellow; falling: a value is bad below these instead."""

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
    most: float | None = None


def quantiles(metric: str, *shares: float) -> list[Query]:
    """Return the quantiles of a histogram by model."""
    rate = f"sum by (model, le) (rate({metric}_bucket{{{SELECT}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rate})", f"{{{{model}}}} p{share * 100:g}") for share in shares]


def rate(metric: str, by: str, select: str = SELECT) -> str:
    """Return the sum of a counter's rates, a second."""
    return f"sum by ({by}) (rate({metric}{{{select}}}[$__rate_interval]))"


def lately(metric: str) -> str:
    """Return how much a counter of the models grew in the last hour."""
    return f"sum by (model) (increase({metric}{{{SELECT}}}[1h]))"


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Is all well?",
        (
            Panel(
                "Ready copies", "Copies whose models are all ready.", "short",
                [(f'sum(min by (instance) (avito_ai_model_status{{{ONE},status="ready"}}))', "ready")],
                STAT, 4, 4, 1, 0.5, True,
            ),
            Panel(
                "Requests", "Generation requests a second that were answered.", "reqps",
                [(f'sum(rate(avito_ai_requests_total{{{SELECT},status="success"}}[$__rate_interval]))', "answered")],
                STAT, 4, 4,
            ),
            Panel(
                "Errors", "Share of generation requests that failed for a fault of the service, overload included.",
                "percentunit",
                [(
                    f'sum(rate(avito_ai_requests_total{{{SELECT},status=~"{OURS}|overloaded"}}[$__rate_interval])) '
                    f"/ sum(rate(avito_ai_requests_total{{{SELECT}}}[$__rate_interval]))",
                    "failed",
                )],
                STAT, 4, 4, 0.01, 0.05,
            ),
            Panel(
                "First token, p95", "Time from arrival to the first token; the worse model.", "s",
                [(
                    "max(histogram_quantile(0.95, sum by (model, le) "
                    f"(rate(avito_ai_time_to_first_token_seconds_bucket{{{SELECT}}}[$__rate_interval]))))",
                    "p95",
                )],
                STAT, 4, 4, 2, 5,
            ),
            Panel(
                "Tokens", "New tokens a second, both models.", "short",
                [(f"sum(rate(avito_ai_generation_tokens_total{{{SELECT}}}[$__rate_interval]))", "tokens/s")],
                STAT, 4, 4,
            ),
            Panel(
                "Alerts", "Alerts that are firing now.", "short",
                [('count(ALERTS{alertstate="firing",alertname=~"Avito.*"}) or vector(0)', "firing")],
                STAT, 4, 4, 1, 1,
            ),
            Panel(
                "State of the models", "The state of each model on each copy.", "short",
                [(f"avito_ai_model_status{{{SELECT}}} == 1", "{{instance}} {{model}} {{status}}")],
                STATES, 18, 6,
            ),
            Panel(
                "Release", "Which release each copy runs.", "short",
                [(f"avito_ai_build_info{{{ONE}}}", "{{instance}} {{version}} {{release}}")],
                STATES, 6, 6,
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel(
                "Requests by end", "Generation requests a second by how they ended.", "reqps",
                [(rate("avito_ai_requests_total", "model, status"), "{{model}} {{status}}")], stacked=True,
            ),
            Panel(
                "Refusals by reason", "Requests a second that were refused: no place, not ready, or over a budget.",
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
                "Errors by route", "HTTP answers of 400 and above, a second.", "reqps",
                [(
                    rate("avito_ai_http_requests_total", "route, status", ONE + ',status=~"[45].."'),
                    "{{route}} {{status}}",
                )],
            ),
            Panel(
                "HTTP requests by route", "Every HTTP request a second, probes included.", "reqps",
                [(rate("avito_ai_http_requests_total", "route", ONE), "{{route}}")], width=12, stacked=True,
            ),
            Panel(
                "Time to headers by route, p95", "A probe that is slow means that threads are short.", "s",
                [(
                    "histogram_quantile(0.95, sum by (route, le) "
                    f"(rate(avito_ai_http_request_duration_seconds_bucket{{{ONE}}}[$__rate_interval])))",
                    "{{route}}",
                )],
                width=12,
            ),
        ),
    ),
    (
        "Latency",
        (
            Panel(
                "Time to first token", "From arrival to the first token.", "s",
                quantiles("avito_ai_time_to_first_token_seconds", 0.5, 0.95, 0.99), limit=5,
            ),
            Panel(
                "Time per output token", "Mean gap between the tokens of an answer.", "s",
                quantiles("avito_ai_inter_token_latency_seconds", 0.5, 0.95, 0.99),
            ),
            Panel(
                "Whole answer", "From arrival to the end.", "s",
                quantiles("avito_ai_e2e_request_latency_seconds", 0.5, 0.95, 0.99), limit=60,
            ),
            Panel(
                "Wait for a place", "From arrival to the first work.", "s",
                quantiles("avito_ai_request_queue_time_seconds", 0.5, 0.95),
            ),
            Panel(
                "Length of prompts", "In tokens.", "short", quantiles("avito_ai_request_prompt_tokens", 0.5, 0.95)
            ),
            Panel(
                "Length of answers", "In tokens.", "short", quantiles("avito_ai_request_generation_tokens", 0.5, 0.95)
            ),
        ),
    ),
    (
        "Engine",
        (
            Panel(
                "Running", "Requests that make tokens, and the places there are.", "short",
                [
                    (f"avito_ai_num_requests_running{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_max_num_seqs{{{SELECT}}}", "{{instance}} {{model}} places"),
                ],
            ),
            Panel(
                "Waiting", "Requests that wait, and the places there are.", "short",
                [
                    (f"avito_ai_num_requests_waiting{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_max_waiting{{{SELECT}}}", "{{instance}} {{model}} places"),
                ],
            ),
            Panel(
                "Wait of a new request", "As the engine estimates it.", "s",
                [(f"avito_ai_estimated_wait_seconds{{{SELECT}}}", "{{instance}} {{model}}")],
            ),
            Panel(
                "Tokens", "Tokens a second: made, read from prompts, and found in the cache.", "short",
                [
                    (rate("avito_ai_generation_tokens_total", "model"), "{{model}} made"),
                    (rate("avito_ai_prompt_tokens_total", "model"), "{{model}} prompts"),
                    (rate("avito_ai_cached_tokens_total", "model"), "{{model}} cached"),
                ],
            ),
            Panel(
                "Cache of keys and values", "Used share.", "percentunit",
                [(f"avito_ai_kv_cache_usage_ratio{{{SELECT}}}", "{{instance}} {{model}}")],
                most=1, warn=0.8, limit=0.95,
            ),
            Panel(
                "Tokens in the cache", "Of the requests that run, and how many fit.", "short",
                [
                    (f"avito_ai_kv_cache_tokens_used{{{SELECT}}}", "{{instance}} {{model}}"),
                    (f"avito_ai_kv_cache_tokens_total{{{SELECT}}}", "{{instance}} {{model}} fit"),
                ],
            ),
            Panel(
                "Prefix-cache hits", "Share of the prompts' tokens that had been computed before.", "percentunit",
                [(
                    rate("avito_ai_cached_tokens_total", "model")
                    + " / " + rate("avito_ai_prompt_tokens_total", "model"),
                    "{{model}}",
                )],
                most=1,
            ),
            Panel(
                "Steps", "Steps of the engine a second.", "ops", [(rate("avito_ai_steps_total", "model"), "{{model}}")]
            ),
            Panel(
                "Since the last step", "Only a problem while requests wait.", "s",
                [(f"avito_ai_seconds_since_step{{{SELECT}}}", "{{instance}} {{model}}")],
            ),
            Panel(
                "Preemptions, restarts, bad numbers", "In the last hour.", "short",
                [
                    (lately("avito_ai_preemptions_total"), "{{model}} preemptions"),
                    (lately("avito_ai_engine_restarts_total"), "{{model}} restarts"),
                    (lately("avito_ai_nan_logits_total"), "{{model}} not finite"),
                ],
            ),
        ),
    ),
    (
        "GPU and machine",
        (
            Panel(
                "GPU memory", "Allocated, held by this process, and in all. Empty without a GPU.", "bytes",
                [
                    (f"avito_ai_gpu_memory_allocated_bytes{{{ONE}}}", "{{instance}} allocated"),
                    (f"avito_ai_gpu_memory_reserved_bytes{{{ONE}}}", "{{instance}} held"),
                    (f"avito_ai_gpu_memory_total_bytes{{{ONE}}}", "{{instance}} in all"),
                ],
            ),
            Panel(
                "GPU busy", "Share of time that the GPU works. Empty without a GPU.", "percentunit",
                [(f"avito_ai_gpu_busy_ratio{{{ONE}}}", "{{instance}}")], most=1,
            ),
            Panel(
                "GPU in use", "1 where the models run on a GPU.", "short",
                [(f"avito_ai_gpu_available{{{ONE}}}", "{{instance}}")], most=1,
            ),
            Panel(
                "Processor", "Busy share of all cores, and the cores that the service itself uses.", "short",
                [
                    (f"avito_ai_system_cpu_ratio{{{ONE}}}", "{{instance}} machine"),
                    (f"rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", "{{instance}} cores"),
                ],
            ),
            Panel(
                "Memory", "Used share of the machine's memory.", "percentunit",
                [(f"avito_ai_system_memory_ratio{{{ONE}}}", "{{instance}}")], most=1, warn=0.85, limit=0.92,
            ),
            Panel(
                "Disk", "Used share of the file system of /.", "percentunit",
                [(f"avito_ai_system_disk_ratio{{{ONE}}}", "{{instance}}")], most=1, warn=0.85, limit=0.95,
            ),
        ),
    ),
    (
        "Process and edge",
        (
            Panel(
                "Memory of the process", "Resident, and what the machine has left.", "bytes",
                [
                    (f"process_resident_memory_bytes{{{PROCESS}}}", "{{instance}} resident"),
                    (f"avito_ai_system_memory_available_bytes{{{ONE}}}", "{{instance}} left"),
                ],
            ),
            Panel(
                "File descriptors", "Used share of those allowed.", "percentunit",
                [(f"process_open_fds{{{PROCESS}}} / process_max_fds{{{PROCESS}}}", "{{instance}}")],
                most=1, warn=0.6, limit=0.8,
            ),
            Panel(
                "Age of the process", "A saw means restarts.", "s",
                [(f"time() - process_start_time_seconds{{{PROCESS}}}", "{{instance}}")],
            ),
            Panel(
                "Limits counted alone", "Calls that Redis did not answer, in five minutes. 0 without Redis.", "short",
                [(f"increase(avito_ai_rate_limit_storage_failures_total{{{ONE}}}[5m])", "{{instance}}")],
            ),
            Panel(
                "Certificate", "Days until it expires. Empty where no site is watched.", "d",
                [('(probe_ssl_earliest_cert_expiry{job="avito-ai-site"} - time()) / 86400', "{{instance}}")],
                warn=14, limit=3, falling=True,
            ),
            Panel(
                "Site", "1 while it answers through the proxy. Empty where no site is watched.", "short",
                [('probe_success{job="avito-ai-site"}', "{{instance}}")], most=1,
            ),
        ),
    ),
)  # fmt: skip
