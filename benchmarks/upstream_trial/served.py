"""The servers that are tried, each with what the service is told of it, and the service in front of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import record, servers
from benchmarks.harness.servers import Server
from benchmarks.upstream_trial import client
from settings.upstream_kinds import KINDS

LENGTH, DEMO_LENGTH = 1024, 2048  # tokens of the context
TEMPLATE = "chat_template.jinja"
NAME = "real"  # of the table in UPSTREAMS_FILE
# Random weights write white space between the parts of an object for ever, where they may.
VLLM_OPTIONS = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
VLLM_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
# What `transformers serve` ignores by its own log, or in continuous batching, in which seeds are those of all requests.
TRANSFORMERS_LACKS = tuple("tool_choice parallel_tool_calls schema logprobs seed stop penalties logit_bias".split())


@dataclass(frozen=True, slots=True)
class Served:
    """A server to try. model: its own name of the model; kind, also, lacks: as in UPSTREAMS_FILE.

    running: returns how many requests a server at an address computes, None where it does not tell; length: of the
    context, in tokens; longest: tokens of a long answer.
    """

    server: Server
    model: str
    kind: str
    also: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    running: Callable[[str], float] | None = None
    length: int = LENGTH
    longest: int = LENGTH // 2

    @property
    def takes(self) -> frozenset[str]:
        """The capabilities that the service passes on."""
        return (KINDS[self.kind] | frozenset(self.also)) - frozenset(self.lacks)

    def table(self, address: str) -> str:
        """Return its table of UPSTREAMS_FILE."""
        values: dict[str, object] = {"name": NAME, "urls": [f"{address}/v1"], "model": self.model, "kind": self.kind}
        values |= {"also": list(self.also), "lacks": list(self.lacks), "max_model_len": self.length}
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        return "\n".join(("[[upstream]]", *lines, ""))


def vllm(program: Path, text: Path) -> Served:
    """Return vLLM's CPU build. program: its `vllm`; text: folder of the checkpoint."""
    server = servers.vllm(program, text, 0, LENGTH)
    return Served(
        replace(server, command=(*server.command, *VLLM_TOOLS, *VLLM_OPTIONS)),
        "m",
        "vllm",
        running=lambda address: _metric(address, r"vllm:num_requests_running\{[^}]*\}"),
    )


def transformers_serve(program: Path, text: Path) -> Served:
    """Return `transformers serve`. program: its `transformers`."""
    whole = text.resolve()
    server = replace(servers.transformers_serve(program.absolute(), Path(whole.name)), folder=whole.parent)
    return Served(server, whole.name, "openai", also=("completions",), lacks=TRANSFORMERS_LACKS)


def llama_cpp(python: Path, text: Path) -> Served:
    """Return llama.cpp's server. python: an interpreter with `xllamacpp` and `gguf`."""
    server = servers.llama_cpp("llama.cpp", python, text, "f32", 4, LENGTH)
    return Served(server, "m", "llamacpp", running=_slots)


def copy(text: Path | None) -> Served:
    """Return a second copy of the service. text: None for the demo model."""
    name, running = "a copy of the service", _of_a_copy
    if text is None:
        server = replace(servers.demo(name, "app_production:app"), name=name)
        return Served(server, "avibe", "vllm", running=running, length=DEMO_LENGTH, longest=DEMO_LENGTH * 3 // 4)
    return Served(servers.ours(name, text, None, LENGTH), "avibe", "vllm", running=running)


def with_tools(text: Path, folder: Path) -> Path:
    """Return a checkpoint whose chat template knows tools, as the demo's does: servers look there for how to force one.

    folder: where it is made, if it has to be.
    """
    if "tools" in (text / TEMPLATE).read_text(encoding="utf-8"):
        return text
    folder.mkdir(parents=True)
    for file in text.resolve().iterdir():
        (folder / file.name).symlink_to(file)
    (folder / TEMPLATE).unlink()
    (folder / TEMPLATE).write_bytes((record.ROOT / "demo" / "avibe" / TEMPLATE).read_bytes())
    return folder


def with_state(server: Server, folder: Path) -> Server:
    """Return a server that keeps what it writes, temporary files and downloads included, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("STATE_DIR", "TMPDIR", "HF_HUB_CACHE")  # `transformers serve` tells no models without such a cache
    return with_settings(server, dict.fromkeys(names, str(folder)))


def with_settings(server: Server, settings: Mapping[str, str]) -> Server:
    """Return a server with further variables in its environment."""
    return replace(server, env={**server.env, **settings})


def in_front(of: Served, address: str, folder: Path) -> Server:
    """Return the service that asks a server for both models, and so loads none. folder: for its files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "upstreams.toml"
    file.write_text(of.table(address), encoding="utf-8")
    server = servers.demo("the service in front", "app_production:app")
    settings = {
        "UPSTREAMS_FILE": str(file),
        "VIBE_UPSTREAM": NAME,
        "VISION_UPSTREAM": NAME,
        "VIBE_MODEL_DIR": "",
        "VISION_MODEL_DIR": "",
        "MAX_MODEL_LEN": str(of.length),
        "MAX_TOKENS_LIMIT": str(of.longest),
        "LOG_LEVEL": "INFO",
    }
    return with_state(with_settings(server, settings), folder / "state")


def _metric(address: str, pattern: str) -> float:
    """Return the sum of the samples whose name and labels match. Raises ValueError where there are none."""
    text = str(client.get(address, "/metrics").body)
    found: Sequence[str] = re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"no metric {pattern}")
    return sum(map(float, found))


def _of_a_copy(address: str) -> float:
    return _metric(address, r'avito_ai_num_requests_running\{model="avibe"\}')


def _slots(address: str) -> float:
    return float(sum(bool(slot["is_processing"]) for slot in client.get(address, "/slots").body))
