"""The errors that the engine raises, as one tree. They know no HTTP: the table in `edge.errors` gives each its status.

    ServiceError
    ├── ValidationError          the request itself is wrong; `param` names the field
    │   ├── Unsupported          a parameter that this model cannot honour
    │   └── ContextTooLong       prompt and answer do not fit the model's context
    ├── PayloadTooLarge          an image, or a body, is over its limit
    ├── UnsupportedMediaType     an image format, or a content type, that is not read
    ├── RetryLater               a refusal for now; `retry_after` is in seconds
    │   ├── Overloaded           the service is at capacity
    │   └── NotReady             loading, draining, stalled or dead
    ├── DeadlineExceeded         the request's time is up
    │   └── UpstreamTimedOut     the model's server did not answer, or fell silent
    ├── RequestAborted           the client disconnected
    └── ModelError               the model failed on this request
        ├── EngineDead           the engine's loop died while this request was in it
        └── UpstreamFailed       the model's server failed, or its answer is none
    StartError                   the service cannot start; not a request's error
    ├── NoRoom                   the models do not fit into the memory that is free now
    └── DamagedWeights           weights to be quantized are no finite numbers

Every message is one plain sentence that may be shown to a client: no path, stack, prompt or library text in it.
`StartError` alone goes to the operator and may name settings and folders.
"""

from __future__ import annotations

RETRY_AFTER = 5  # seconds until a client may retry with a model that is not ready


class Message(str):
    """A sentence for a client that can be translated: the English one, made of a template and its values.

    key: names its translations in `locales/`, which have the same placeholders as the template.
    """

    key: str
    values: dict[str, object]

    def __new__(cls, key: str, template: str, /, **values: object) -> Message:
        message = super().__new__(cls, template.format(**values))
        message.key, message.values = key, values
        return message

    @classmethod
    def restored(cls, key: str, text: str, values: dict[str, object]) -> Message:
        """Return a message that another process has sent, with its English sentence."""
        message = super().__new__(cls, text)
        message.key, message.values = key, values
        return message


class ServiceError(Exception):
    """A failure with a sentence for the client; a `Message` where pages translate it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationError(ServiceError):
    """The request is wrong; `param` is the field to correct, if it is one field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(ValidationError):
    """A parameter that this model cannot honour; `param` names it."""


class ContextTooLong(ValidationError):
    """Prompt and answer together do not fit the model's context.

    max_model_len: the context, in tokens; prompt_tokens: those of the prompt, None where they were not all counted.
    """

    def __init__(
        self, message: str, param: str | None = None, max_model_len: int = 0, prompt_tokens: int | None = None
    ) -> None:
        super().__init__(message, param)
        self.max_model_len, self.prompt_tokens = max_model_len, prompt_tokens


class PayloadTooLarge(ServiceError):
    """A body or an image is over its limit; `param` is the field of the image, where it is one of a conversation."""

    param: str | None = None


class UnsupportedMediaType(ServiceError):
    """A content type or image format that is not read here; `param` as in `PayloadTooLarge`."""

    param: str | None = None


class RetryLater(ServiceError):
    """A refusal for now; a later retry may succeed. `retry_after` is in whole seconds, at least 1."""

    def __init__(self, message: str, retry_after: int = RETRY_AFTER) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


BUSY = "The service is busy; try again later."


class Overloaded(RetryLater):
    """As many requests are in flight as the service admits."""


class NotReady(RetryLater):
    """The model is loading, draining, stalled or dead."""


class DeadlineExceeded(ServiceError):
    """The request did not start, or did not finish, in its time."""


STOPPED = "The request was stopped before it finished."
OUT_OF_TIME = Message("out_of_time", "The request did not finish in time.")
WAITED_TOO_LONG = Message("waited_too_long", "The request waited too long for its turn.")


class UpstreamTimedOut(DeadlineExceeded):
    """The server that answers for the model did not begin to answer in time, or fell silent in its answer."""


class RequestAborted(ServiceError):
    """The request was stopped before its end; its partial text is not an answer."""


class ModelError(ServiceError):
    """The model failed on this request alone."""


class EngineDead(ModelError):
    """The engine's loop died while this request was in it."""


class UpstreamFailed(ModelError):
    """The server that answers for the model could not be reached, failed, or sent what is no answer."""


class StartError(Exception):
    """The service cannot start: one sentence that names the setting and the folder."""


class NoRoom(StartError):
    """The memory that is free now is too small, and nothing has been loaded yet."""


class DamagedWeights(StartError):
    """Weights that are to be quantized have values that are no finite numbers."""


def forget_frames(error: BaseException | None) -> None:
    """Drop the traceback of an error that has been handled, and the errors that led to it with theirs.

    They refer to all that the frames hold which it has passed, and often back to the error: that would be garbage which
    only a full collection finds, be it the values of a whole body.
    """
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        before = error.__cause__ if error.__cause__ is not None else error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before
