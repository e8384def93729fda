"""Messages and words that the evaluation alone may use; training skips every one of them."""

from demo.phrase_files import load


def normalised(text: str) -> str:
    """Return a message as the split compares it: lower case, without final marks."""
    return text.lower().strip(" ?.!")


_TEXTS = load("held_out")
UNSEEN_ITEMS, OFF_TOPIC = _TEXTS["unseen_items"], _TEXTS["off_topic"]
MESSAGES = frozenset(normalised(text) for texts in OFF_TOPIC.values() for text in texts)
