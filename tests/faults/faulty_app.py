"""The whole service over the demo models, in which every point that a request passes can be made to fail.

The folder in TINY_FOLDER is the remote control. While `fault` stands there, with a point and a kind in it, the point
fails for requests whose prompt or path it meets: once for each line. `stall` ends when `go` is there. What happened is
written to `hit`. Once `collect` stands there, `garbage` is written: what of ours only the collector could free. With a
text in it, nothing is collected from then on until the next time.
"""

from __future__ import annotations

import errno
import functools
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import FrameType
from typing import Any

import torch

from app_production import create_app
from config import settings_or_exit
from engine.model.runner import ModelRunner
from engine.schedule.waiting_room import WaitingRoom
from engine.text.detokenizer import Detokenizer
from engine.text.image_decoder import InProcessDecoder
from engine.text.image_workers import ImageWorkers
from engine.text.prompt import PromptPreparer
from routes import parsing
from serving.connection import ClientSocket
from serving.framing import Framing

ROOT = Path(__file__).parents[2]
OURS = {entry.name.removesuffix(".py") for entry in ROOT.iterdir() if entry.name not in ("tests", ".venv")}
FOLDER = Path(os.environ["TINY_FOLDER"])
TICK = 0.02
LOCK = threading.Lock()  # guards the file of the fault


class Death(BaseException):
    """What no part of the service expects."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "fail": lambda: RuntimeError("injected"),
    "memory": lambda: MemoryError("injected"),
    "disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "descriptors": lambda: OSError(errno.EMFILE, "Too many open files"),
    "threads": lambda: RuntimeError("can't start new thread"),
    "death": lambda: Death("injected"),
    "cuda": lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
}


def meet(point: str) -> None:
    """Fail, or stall, where that is asked for at this point."""
    kind = _taken(point)
    if kind is None:
        return
    with (FOLDER / "hit").open("a", encoding="utf-8") as hit:
        hit.write(f"{point} {kind}\n")
    if kind == "stall":
        pause = threading.Event()
        while not (FOLDER / "go").exists():
            pause.wait(TICK)
    else:
        raise ERRORS[kind]()


def _taken(point: str) -> str | None:
    """Return the kind of the fault at this point, and let the next one come."""
    fault = FOLDER / "fault"
    if not fault.exists():
        return None
    # What was healed meanwhile stays so: the file is not made anew.
    with LOCK, suppress(FileNotFoundError), fault.open("r+", encoding="utf-8") as file:
        first, *rest = file.read().splitlines() or [""]
        where, _, kind = first.partition(" ")
        if where != point:
            return None
        if rest:
            file.seek(0)
            file.write("\n".join(rest))
            file.truncate()
        else:
            fault.unlink()
        return kind
    return None


def weaken(owner: Any, name: str, point: str | Callable[..., str]) -> None:
    """Let a function meet a fault before its work. point: its name, or from the arguments of the call."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def weak(*args: Any, **kwargs: Any) -> Any:
        meet(point(*args) if callable(point) else point)
        return original(*args, **kwargs)

    setattr(owner, name, weak)


def _step(runner: ModelRunner, plan: Any) -> str:
    """Return which half of an answer a step computes."""
    return "prefill" if any(count > 1 for _, count in plan.rows) else "decode"


def _collect_when_asked() -> None:
    asked, found = FOLDER / "collect", FOLDER / "garbage"
    pause = threading.Event()
    while True:
        pause.wait(TICK)
        if asked.exists():
            keeps = bool(asked.read_text(encoding="utf-8"))
            asked.unlink()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            gc.set_debug(0)
            found.with_suffix(".new").write_text(json.dumps(_ours(gc.garbage)), encoding="utf-8")
            gc.garbage.clear()
            gc.collect()
            (gc.disable if keeps else gc.enable)()
            found.with_suffix(".new").rename(found)


def _is_ours(file: Path) -> bool:
    return file.is_relative_to(ROOT) and not file.is_relative_to(sys.prefix)


def _ours(garbage: list[Any]) -> list[str]:
    """Return the classes of our objects, and where our frames stand; no garbage is listed twice."""
    named = set()
    for one in garbage:
        if isinstance(one, FrameType) and _is_ours(Path(one.f_code.co_filename)):
            named.add(f"{Path(one.f_code.co_filename).relative_to(ROOT)}:{one.f_lineno} {one.f_code.co_qualname}")
        elif type(one).__module__.partition(".")[0] in OURS:
            named.add(f"{type(one).__module__}.{type(one).__qualname__}")
    return sorted(named)


weaken(Framing, "feed", lambda framing, data: "reading-body" if b"\r\n\r\n" in framing.head else "reading-head")
weaken(SpooledTemporaryFile, "rollover", "storing")
weaken(parsing, "read_json", "parsing")
weaken(WaitingRoom, "put", "queue")
weaken(ImageWorkers, "decode", "decoding")
weaken(InProcessDecoder, "decode", "decoding")
weaken(PromptPreparer, "encode", "tokenizing")
weaken(PromptPreparer, "_render", "tokenizing")
weaken(ModelRunner, "run", _step)
weaken(Detokenizer, "add", "detokenizing")
weaken(ClientSocket, "sendall", "sending")
weaken(threading.Thread, "start", "thread")

real_time = time.time
time.time = lambda: real_time() + float((FOLDER / "clock").read_text() if (FOLDER / "clock").exists() else 0)

app = create_app(settings_or_exit())
threading.Thread(target=_collect_when_asked, name="collect", daemon=True).start()
