"""Jobs that wait until a test lets them go, for what decides which of them is begun next."""

import threading

from tests.fakes import PATIENCE


class HeldJobs:
    """begun: the jobs that were, by name, in order."""

    def __init__(self):
        self.begun = []
        self._changed = threading.Condition()  # guards `begun` and the field below
        self._let_go = set()

    def let_go(self, *names):
        """Let jobs end once they begin."""
        with self._changed:
            self._let_go.update(names)
            self._changed.notify_all()

    def wait_for(self, *names):
        """Wait until these have begun, and no others."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= len(names), PATIENCE)
            assert self.begun == list(names)

    def do(self, name):
        """Begin a job, and end it once it is let go; return its name."""
        with self._changed:
            self.begun.append(name)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: name in self._let_go, PATIENCE)
        return name
