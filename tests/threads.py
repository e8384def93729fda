"""Calls at the same time."""

import threading

from tests.fakes import PATIENCE


def together(*calls):
    """Run every call in a thread of its own, all at once, and wait for their ends."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
