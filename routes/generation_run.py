"""The answers of one request: begun together, watched together, counted one by one, ended together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flask import request

from edge.errors import as_service_error, meaning_of
from edge.request_state import request_state
from engine.backend import Backend, Generation, Mailbox
from engine.errors import ServiceError
from engine.types import Completion, GenerationRequest, Piece, Priority, Prompt, QueuePosition, SamplingParams
from routes.services import services

Prompts = Sequence[tuple[Prompt, SamplingParams]]


class Run:
    """One or more answers of one model, to one client. `close` has to be called, whatever happens; it may be twice.

    Made in the request's thread, inside its context; used by that thread alone afterwards.
    """

    def __init__(self, model: str, backend: Backend, wanted: Prompts) -> None:
        state = request_state()
        self.served_id = backend.info.served_id
        self._generations: list[Generation] = []
        self._observer = state.observer
        self._observer.validated(model, self.served_id, len({id(prompt) for prompt, _ in wanted}), len(wanted))
        try:
            for number, (prompt, sampling) in enumerate(wanted):
                asked = _wanted(number, prompt, sampling)
                self._observer.submitting(number, asked)
                self._generations.append(backend.submit(asked))
                self._observer.submitted(number)
        except BaseException:
            self.abort()
            raise
        self._observer.tokenized(sum(one.prompt_tokens for one in self._generations))
        self._release = services().client_watch.watch(request.environ, self.abort)
        self._end_trace = self._observer.hold()

    def __len__(self) -> int:
        return len(self._generations)

    def abort(self) -> None:
        """Ask that no more tokens be made for any of the answers; from any thread."""
        for generation in self._generations:
            generation.abort()

    def queue_position(self) -> QueuePosition | None:
        """Return where the first answer waits, None once it has started."""
        return self._generations[0].queue_position()

    def close(self) -> None:
        """End the watch, and whatever is still in the making."""
        self._release()
        self.abort()
        self._end_trace()

    def results(self) -> list[Completion]:
        """Wait for all answers and return them in order. Raises the first error that one of them ended with."""
        try:
            return [self.completion(number) for number in range(len(self))]
        finally:
            self.close()

    def completion(self, number: int) -> Completion:
        """Return an answer that has ended, and count it. Raises the error it ended with."""
        completion = self._generations[number].result()
        self._observer.answered(number, completion)
        return completion

    def pieces(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        """Yield the parts of all answers as they come, each with its answer's number, and None at an answer's end.

        After `idle` seconds without a part there is an empty one. Raises the first error that an answer ends with.
        """
        if len(self) > 1:
            yield from self._merged(idle)
            return
        for piece in self._generations[0].pieces(idle):
            yield 0, piece
        yield 0, None

    def failed(self, error: Exception) -> ServiceError:
        """Count a failure that came after the answer had begun; return it as one of ours."""
        ours = as_service_error(error)
        meaning = meaning_of(ours)
        self._observer.failed(meaning.code, meaning.status, ours.message)
        return ours

    def _merged(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        mailbox = Mailbox()
        for number, generation in enumerate(self._generations):
            mailbox.add(number, generation, streaming=True)
        while len(mailbox):
            event = mailbox.wait(idle)
            if event is not None and event[1] is None:
                self._generations[event[0]].result()  # raises what it ended with
            yield event or (0, Piece(""))


def _wanted(number: int, prompt: Prompt, sampling: SamplingParams) -> GenerationRequest:
    state, limits = request_state(), services().settings.engine
    return GenerationRequest(
        request_id=state.request_id if number == 0 else f"{state.request_id}-{number}",
        prompt=prompt,
        sampling=sampling,
        client=state.client,
        priority=Priority.INTERACTIVE,
        queue_timeout=limits.queue_timeout,
        timeout=limits.request_timeout,
    )
