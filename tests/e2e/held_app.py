"""The whole application for a real Gunicorn, over models whose answers stay open, with a log of events.

Each line of `diary` in TINY_FOLDER is an event with its moment on the machine's monotonic clock.
"""

import os
import threading
import time
from pathlib import Path

from app_production import create_app
from config import settings_or_exit
from models import ModelSet
from tests.fakes import ScriptedBackend

FOLDER = Path(os.environ["TINY_FOLDER"])
DIARY = os.open(FOLDER / "diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # also written where no file can be opened


class HeldBackend(ScriptedBackend):
    """Keeps every answer open, up to `HELD_ANSWERS`, and writes down when one began and when its client was gone.

    An answer ends well once there is a file `finish-<request id>`.
    """

    def __init__(self, name):
        super().__init__(name)
        self.hold = True
        self.capacity = int(os.environ.get("HELD_ANSWERS", "4"))

    def submit(self, request):
        generation = super().submit(request)
        self._note("began", request.request_id)
        threading.Thread(target=self._finish_when_told, args=(generation, request.request_id), daemon=True).start()
        return generation

    def _finish_when_told(self, generation, request_id):
        pause = threading.Event()
        while not generation.done:
            if (FOLDER / f"finish-{request_id}").exists():
                self.finish(request_id)
            pause.wait(0.02)

    def _aborted(self, request_id):
        self._note("aborted", request_id)
        super()._aborted(request_id)

    def _note(self, event, request_id):
        os.write(DIARY, f"{event} {request_id} {time.monotonic()}\n".encode())


app = create_app(settings_or_exit(), ModelSet({name: HeldBackend(name) for name in ("avibe", "avision")}))
