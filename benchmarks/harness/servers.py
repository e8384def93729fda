"""Starts the servers to measure, waits until they are ready, and stops them. Pinning needs Linux (taskset)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.http_client import OWN_IMAGE, OWN_TEXT, Target

OPENAI_PATH = "/v1/chat/completions"

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", "-b", "127.0.0.1:{port}")

START_SECONDS = 600.0
END_SECONDS = 30.0
POLL_SECONDS = 0.2
# Seconds; long enough for 64 requests to a server that answers one by one.
PATIENCE = "900"


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure. `{port}` in the command is replaced.

    ready: the path that answers 200 once the server is ready; text, images: the route and the model's name in chat
    requests, None if not supported; env: in addition to this process's environment; folder: where it is started.
    """

    name: str
    command: tuple[str, ...]
    ready: str
    text: tuple[str, str] | None = None
    images: tuple[str, str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path = record.ROOT

    def target(self, address: str, images: bool) -> Target | None:
        """Return the target of text or image requests, None if not supported."""
        route = self.images if images else self.text
        return Target(address + route[0], route[1]) if route else None


def demo(name: str, app: str) -> Server:
    """Return an app on Gunicorn with the demo models and rate limits off, whatever settings the environment has."""
    from config import SETTINGS  # not needed by those that measure an engine alone

    others = {setting.name: "" for setting in SETTINGS}  # as if they were unset
    models = {"VIBE_MODEL_DIR": "demo", "VISION_MODEL_DIR": "demo", "DEVICE": "cpu"}
    settings = {"HOST": "127.0.0.1", "ENV_FILE": os.devnull, "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    return Server(name, (*GUNICORN, app), "/api/health/ready", env=others | models | settings)


def ours(
    name: str, text: Path, vision: Path | None, length: int, chat: bool = True, weights: str = "float32"
) -> Server:
    """Return our service on Gunicorn, as deployed, without rate limits and with long timeouts.

    vision: None serves the demo model instead; length: MAX_MODEL_LEN; chat: send requests to /v1 rather than /api/v1;
    weights: the format of the text model's, a dtype or a quantized one.
    """
    env = {
        "ENVIRONMENT": "production",  # in which a missing folder is an error rather than replaced by a demo
        "ENV_FILE": os.devnull,
        "HOST": "127.0.0.1",
        "DEVICE": "cpu",
        "VIBE_QUANT" if weights.startswith("int") else "VIBE_DTYPE": weights,
        "VISION_DTYPE": "float32",
        "VIBE_MODEL_DIR": str(text.resolve()),
        "VIBE_TOKENIZER_DIR": str(text.resolve()),
        "VISION_MODEL_DIR": str(vision.resolve()) if vision else "demo",
        "MAX_MODEL_LEN": str(length),
        "MAX_TOKENS_LIMIT": str(length // 2),
        "RATE_LIMIT_PER_MINUTE": "0",
        "RATE_LIMIT_PER_HOUR": "0",
        "QUEUE_TIMEOUT": PATIENCE,
        "REQUEST_TIMEOUT": PATIENCE,
    }
    text_route = (OPENAI_PATH if chat else OWN_TEXT, "avibe")
    image_route = (OPENAI_PATH if chat else OWN_IMAGE, "avision") if vision else None
    return Server(name, (*GUNICORN, "app_production:app"), "/api/health/ready", text_route, image_route, env)


def under_a_lock(name: str, text: Path, vision: Path | None, length: int) -> Server:
    """Return the app that answers one request at a time. length: of its model's context."""
    folders = [repr(str(folder.resolve())) if folder else "None" for folder in (text, vision)]
    app = f"benchmarks.harness.lock_app:create_app({', '.join(folders)}, {length})"
    command = (sys.executable, "-m", "gunicorn", "--threads", "128", "--timeout", "0", "-b", "127.0.0.1:{port}", app)
    images = (OPENAI_PATH, "avision") if vision else None
    return Server(name, command, "/ready", (OPENAI_PATH, "avibe"), images, {"HF_HUB_OFFLINE": "1"})


def vllm(program: Path, folder: Path, core: int, length: int) -> Server:
    """Return vLLM's CPU build. program: path of its `vllm`; core: the core for its computation."""
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
    }
    limits = ("--dtype", "float32", "--max-model-len", str(length), "--max-num-seqs", "64")
    command = (str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", "{port}", *limits)
    return Server("vLLM", (*command, "--served-model-name", "m"), "/health", (OPENAI_PATH, "m"), env=env)


def transformers_serve(program: Path, folder: Path) -> Server:
    """Return `transformers serve` with continuous batching. program: path of its `transformers`."""
    options = ("--dtype", "float32", "--device", "cpu", "--continuous-batching")
    command = (str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", "{port}", *options)
    route = (OPENAI_PATH, str(folder))
    return Server("transformers serve", command, "/health", route, env={"HF_HUB_OFFLINE": "1"})


def llama_cpp(name: str, python: Path, folder: Path, kind: str, slots: int, length: int) -> Server:
    """Return llama.cpp's server over the same weights. python: one with xllamacpp and gguf; kind: f32, q8_0 or q4_0."""
    program = str(record.ROOT / "benchmarks" / "harness" / "llamacpp.py")
    command = (str(python), program, str(folder), kind, "{port}", str(slots), str(length), "1")
    return Server(name, command, "/health", (OPENAI_PATH, "m"))


@contextmanager
def running(server: Server, log: Path, core: int | None = None) -> Iterator[str]:
    """Run a server until the block ends; yield its address (http://host:port). log: file for its output.

    core: pins it and its children to one core. Raises RuntimeError if it does not become ready.
    """
    port = free_port()
    pinned = ("taskset", "-c", str(core)) if core is not None else ()
    command = [*pinned, *(part.format(port=port) for part in server.command)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=server.folder,
            env={**os.environ, **server.env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}{server.ready}")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float = START_SECONDS) -> None:
    """Poll until the URL answers 200. Raises RuntimeError if the server ends or takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise RuntimeError(f"The server did not become ready at {url}; see its output.")


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server, and after END_SECONDS kill what is left of its session, children included."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
