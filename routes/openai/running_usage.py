"""The counts of tokens in every event of a stream, for clients that ask for them (`continuous_usage_stats`)."""

from __future__ import annotations

from collections.abc import Iterator

from engine.types import Piece
from routes.generation_run import Run
from routes.sse import compact

NO_USAGE = b'"usage":null}\n\n'  # as an event ends; no text ends one, since its line ends are escaped


class RunningUsage:
    """The counts of the answer that the last piece belongs to, for one stream."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._output_tokens = [0] * len(run)
        self._index = 0

    def pieces(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        """Yield the pieces of the run, and count them."""
        for index, piece in self._run.pieces(idle):
            self._index = index
            if piece is not None:
                self._output_tokens[index] += len(piece.token_ids)
            yield index, piece

    def written(self, events: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the events with the counts so far in each that has none."""
        for event in events:
            yield event.replace(NO_USAGE, self._counts()) if NO_USAGE in event else event

    def _counts(self) -> bytes:
        prompt, output = self._run.prompt_tokens_of(self._index), self._output_tokens[self._index]
        counts = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        return f'"usage":{compact(counts)}}}\n\n'.encode()
