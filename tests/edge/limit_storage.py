"""A storage of the `limits` library for tests: the plainest one, with a clock that a test moves."""

from limits.storage import MovingWindowSupport, Storage


class ListedEntries(Storage, MovingWindowSupport):
    """All entries that were ever made, by key."""

    STORAGE_SCHEME = None
    base_exceptions = ValueError

    def __init__(self, clock):
        super().__init__()
        self._clock, self._entries = clock, {}

    def acquire_entry(self, key, limit, expiry, amount=1):
        """Add entries if the window has room for all of them."""
        if len(self._within(key, expiry)) + amount > limit:
            return False
        self._entries.setdefault(key, []).extend([self._clock()] * amount)
        return True

    def get_moving_window(self, key, limit, expiry):
        """Return when the oldest entry was made and how many there are; (now, 0) for none."""
        within = self._within(key, expiry)
        return (within[0] if within else self._clock()), len(within)

    def _within(self, key, expiry):
        return [made for made in self._entries.get(key, []) if made > self._clock() - expiry]

    def check(self):
        """Return that it is available."""
        return True

    def reset(self):
        """Remove everything."""
        self._entries.clear()

    def clear(self, key):
        """Remove one window."""
        self._entries.pop(key, None)

    def incr(self, key, expiry, amount=1):
        """Raise: there are no fixed windows."""
        raise NotImplementedError

    get = get_expiry = incr
