"""The whole application for a real Gunicorn, over models that answer in three pieces, at a pace.

The folder in TINY_FOLDER is the remote control: the models load once `load` is there; while `hold` is there, an answer
stops after its first piece.
"""

import os
import threading
from pathlib import Path

from app_production import create_app
from config import settings_or_exit
from engine.types import Completion, Piece, Status
from models import ModelSet
from tests.fakes import ScriptedBackend

FOLDER = Path(os.environ["TINY_FOLDER"])
PIECES = ("one ", "two ", "three")
PACE = 0.1  # seconds from piece to piece
TICK = 0.02


def wait_while(condition):
    """Poll until the condition no longer holds."""
    pause = threading.Event()
    while condition():
        pause.wait(TICK)


class PacedBackend(ScriptedBackend):
    """Loads on request, and generates each answer in a separate thread."""

    def __init__(self, name):
        super().__init__(name)
        self.hold = True
        self.become(Status.LOADING)

    def start(self):
        wait_while(lambda: not (FOLDER / "load").exists())
        super().start()

    def submit(self, request):
        generation = super().submit(request)
        threading.Thread(target=self._answer, args=(request.request_id, generation), daemon=True).start()
        return generation

    def _answer(self, request_id, generation):
        pause = threading.Event()
        for number, piece in enumerate(PIECES):
            generation.push(Piece(piece))
            if number == 0:
                wait_while((FOLDER / "hold").exists)
            pause.wait(PACE)
        if request_id in self._open:
            self._closed(request_id)
            generation.finish(Completion("".join(PIECES), "stop", 7, len(PIECES), self.timings))


app = create_app(settings_or_exit(), ModelSet({name: PacedBackend(name) for name in ("avibe", "avision")}))
