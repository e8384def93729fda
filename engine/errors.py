"""The service's errors, as one tree. They know no HTTP: one table in `middleware` maps each class to a status.

    ServiceError
    ├── ValidationError          the request itself is wrong; `param` names the field
    │   ├── Unsupported          a parameter this backend or model cannot honour
    │   └── ContextTooLong       prompt and answer do not fit the model's context
    ├── PayloadTooLarge          the body or a picture is over its limit
    ├── UnsupportedMediaType     not a content type, or not a picture format, that we read
    ├── RateLimitExceeded        the client's budget is spent
    ├── Unauthorized             credentials are missing or wrong
    ├── Forbidden                this caller may not use this route
    ├── Overloaded               no free place; try again later
    ├── NotReady                 loading, draining or dead; try again later
    ├── DeadlineExceeded         the request's time is up
    ├── RequestAborted           the client left, or somebody stopped the request
    └── ModelError               the model failed on this request
        └── EngineDead           the engine's thread died under this request
    StartError                   the service cannot start; not a request's error
    └── NoRoom                   the models do not fit beside what is in memory now

Every message is one plain sentence that may be shown to a client: no path, stack, prompt or library text in it.
`StartError` alone goes to the operator and may name settings and folders.
"""

from __future__ import annotations

RETRY_AFTER = 5  # seconds that a client is asked to wait for a model that is not ready


class Message(str):
    """A sentence for a client that can be translated: the English one, made of a template and its values.

    key: names its translations in `locales/`, which have the same holes as the template.
    """

    key: str
    values: dict[str, object]

    def __new__(cls, key: str, template: str, /, **values: object) -> Message:
        message = super().__new__(cls, template.format(**values))
        message.key, message.values = key, values
        return message


class ServiceError(Exception):
    """A failure with a sentence for the client; a `Message` where pages translate it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationError(ServiceError):
    """The request is wrong; `param` is the field to mend, where one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unsupported(ValidationError):
    """A parameter that this backend or model cannot honour, refused by name."""


class ContextTooLong(ValidationError):
    """Prompt and answer together do not fit the model's context (in tokens)."""


class PayloadTooLarge(ServiceError):
    """A body or a picture is over its limit."""


class UnsupportedMediaType(ServiceError):
    """A content type or picture format that is not read here."""


class RetryLater(ServiceError):
    """A refusal that time cures; `retry_after` is in whole seconds, at least 1."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class RateLimitExceeded(RetryLater):
    """The client's budget is spent until `retry_after` seconds from now."""


class Unauthorized(ServiceError):
    """Credentials are missing or wrong."""


class Forbidden(ServiceError):
    """This caller may not use this route."""


class Overloaded(RetryLater):
    """Every running and waiting place is taken."""


class NotReady(RetryLater):
    """The model is loading, draining, stalled or dead."""


class DeadlineExceeded(ServiceError):
    """The request did not start, or did not finish, in its time."""


class RequestAborted(ServiceError):
    """The request was stopped before its end; its partial text is not an answer."""


class ModelError(ServiceError):
    """The model failed on this request alone."""


class EngineDead(ModelError):
    """The engine's thread died while this request was in it."""


class StartError(Exception):
    """The service cannot start: one sentence that names the setting and the folder."""


class NoRoom(StartError):
    """The memory that is free now is too small, and nothing has been loaded yet."""
