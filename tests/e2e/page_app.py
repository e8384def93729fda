"""The whole application for a real Gunicorn and a real browser, over models that follow a script.

TINY_FOLDER is the remote control. `script.json` there is read anew for every question and every look at the state:
pieces: the parts of the answer; hold: after them the answer stays open, until `release` has its rest; refuse:
`overloaded`; status, progress: of the models; waiting: how many wait, all of them before the question; fail: the model
fails. `aborted` collects the ids of answers that were stopped, `images` holds the sizes of the images of the last
question. With PAGE_DEMO set the models are demos.
"""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from app_production import create_app
from config import settings_or_exit
from engine.errors import Message, ModelError, Overloaded
from engine.types import Completion, Piece, Progress, QueuePosition, Status, Timings
from models import ModelSet
from tests.fakes import FakeMachine, ScriptedBackend

FOLDER = Path(os.environ["TINY_FOLDER"])
LOADING_WEIGHTS = Message("stage_weights", "loading weights")


def script():
    """Return the latest script of the test."""
    try:
        return json.loads((FOLDER / "script.json").read_text())
    except FileNotFoundError:
        return {}


def queue_position():
    """Return the queue position behind all waiting requests."""
    waiting = script().get("waiting")
    return None if waiting is None else QueuePosition(waiting, 1.3 * waiting)


class PageBackend(ScriptedBackend):
    """Answers with the pieces of the script, each its own event."""

    def submit(self, request):
        scripted = script()
        self.hold = True
        self.refusal = Overloaded("The service is busy. Please try again later.", 2) if scripted.get("refuse") else None
        self.become(Status(scripted.get("status", "ready")))
        generation = super().submit(request)
        sizes = [[image.width, image.height] for image in getattr(request.prompt, "images", ())]
        (FOLDER / "images").write_text(json.dumps(sizes))
        generation.queue_position = queue_position
        if scripted.get("fail"):
            self.fail(request.request_id, ModelError("The model failed on this request."))
        elif "waiting" not in scripted:
            threading.Thread(target=self._answer, args=(request.request_id, generation, scripted), daemon=True).start()
        return generation

    def would_refuse(self, client):
        return None  # the script decides at the question, which has to come this far

    def state(self):
        scripted = script()
        progress = Progress(LOADING_WEIGHTS, *scripted["progress"], 3.0) if "progress" in scripted else None
        return replace(super().state(), status=Status(scripted.get("status", "ready")), progress=progress)

    def stats(self):
        waiting = script().get("waiting", 0)
        running = {"num_requests_running": 64} if waiting else {}
        return replace(super().stats(), num_requests_waiting=waiting, estimated_wait_seconds=1.3 * waiting, **running)

    def _answer(self, request_id, generation, scripted):
        pieces = scripted.get("pieces", ["An answer."])
        for text in pieces:
            generation.push(Piece(text, (1,)))
        if not scripted.get("hold") or self._released(generation, pieces):
            text = "".join(pieces)
            timings = Timings(queued=0.0, first_token=0.05, total=0.5)
            generation.finish(Completion(text, scripted.get("end", "stop"), 7, len(pieces), timings))
            self._open.pop(request_id, None)

    def _released(self, generation, pieces):
        """Wait until the test lets a held answer go on; False if it is stopped before."""
        while not generation.done:
            if (FOLDER / "release").exists():
                pieces.append((FOLDER / "release").read_text())
                generation.push(Piece(pieces[-1], (1,)))
                return True
            time.sleep(0.02)
        return False

    def _aborted(self, request_id):
        with (FOLDER / "aborted").open("a") as diary:
            diary.write(f"{request_id} {time.monotonic()}\n")
        super()._aborted(request_id)


demo = "PAGE_DEMO" in os.environ
LOOK = 1_000_000  # pixels that the model looks at
models = ModelSet({name: PageBackend(name, demo=demo, image_pixels=LOOK) for name in ("avibe", "avision")})
app = create_app(settings_or_exit(), models, FakeMachine())
