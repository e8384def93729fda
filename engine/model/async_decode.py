"""Async decode: a decode step is launched before the host knows the tokens of the step before it.

While the device computes step n + 1, the host processes the tokens of step n: it detokenizes, finishes sequences and
plans. The tokens pass from one step to the next on the device. A step in flight assumes that every row of the step
before it continues. A row that has finished meanwhile is dropped from its result; if a row joins, the step is discarded
and computed again. Neither changes an answer: a step writes the keys and values of a token before it reads them, and
sampling uses only the row's own random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.choice import Choice
from engine.model.cuda_graphs import DecodeGraphs, DecodeRow
from engine.model.sampler import Sampled, sample, to_device
from engine.schedule.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Launched:
    """A launched step: its rows, the number of tokens each row had before it, and the sampled result."""

    sequences: list[Sequence]
    lengths: list[int]
    sampled: Sampled

    def rows_of(self, sequences: list[Sequence]) -> list[int] | None:
        """Return the row of each of `sequences`, None if one is missing or has another length than the step assumed."""
        row_of = {sequence: row for row, sequence in enumerate(self.sequences)}
        rows = [row_of.get(sequence, -1) for sequence in sequences]
        if any(row < 0 or self.lengths[row] != len(s.token_ids) for row, s in zip(rows, sequences, strict=True)):
            return None
        return rows


class AsyncDecode:
    """Launches decode steps, one step ahead where the rows allow it. Used by the engine's thread only."""

    def __init__(self, graphs: DecodeGraphs) -> None:
        self._graphs = graphs
        self._held: dict[int, Sequence] = {}  # by slot
        self._in_flight: Launched | None = None

    def hold(self, sequence: Sequence) -> None:
        """Record the sequence that now holds its slot: steps must not overwrite the keys and values of its prompt."""
        self._held[sequence.slot] = sequence
        if self._in_flight is not None and sequence in self._in_flight.sequences:
            self.discard()  # it was preempted and has a new slot, which the step in flight did not write

    def discard(self) -> None:
        """Discard the step in flight, if any."""
        self._in_flight = None

    def launch(self, decode: list[Sequence]) -> Launched:
        """Return the step that decodes these rows: the step in flight if it covers them, else a new one."""
        launched, self._in_flight = self._in_flight, None
        if launched is not None and launched.rows_of(decode) is not None:
            return launched
        return self._start(decode)

    def launch_next(self, launched: Launched, decode: list[Sequence]) -> None:
        """Launch the step after `launched` for the rows of `decode` that will not have reached `max_tokens` by then.

        Launches nothing if a row needs its previous token on the host to sample the next one.
        """
        unfinished = [s for s in decode if s.num_output + 1 < s.sampling.max_tokens]
        if not unfinished or any(sequence.needs_its_tokens for sequence in unfinished):
            return
        rows = launched.rows_of(unfinished)
        assert rows is not None
        tokens = launched.sampled.tokens
        if len(rows) < len(tokens):
            tokens = tokens.index_select(0, to_device(torch.tensor(rows), tokens.device))
        self._in_flight = self._start(unfinished, tokens, ahead=1)

    def collect(self, launched: Launched, decode: list[Sequence]) -> list[Choice]:
        """Wait for a step and return the choice of each row in `decode`."""
        choices = launched.sampled.collect()
        rows = launched.rows_of(decode)
        assert rows is not None
        return [choices[row] for row in rows]

    def _start(self, decode: list[Sequence], tokens: Tensor | None = None, ahead: int = 0) -> Launched:
        decoding = {sequence.slot for sequence in decode}
        self._held = {slot: sequence for slot, sequence in self._held.items() if sequence.slot == slot}
        # The next position of every other slot, one further if the step before may write one: num_computed does not
        # count that token yet.
        last = self._graphs.longest - 1
        others = [(slot, min(s.num_computed + ahead, last)) for slot, s in self._held.items() if slot not in decoding]
        rows = [_decode_row(sequence, ahead) for sequence in decode]
        logits = self._graphs.run(rows, others, tokens)
        lengths = [len(sequence.token_ids) + ahead for sequence in decode]
        return Launched(decode, lengths, sample(logits, decode, ahead))


def _decode_row(sequence: Sequence, ahead: int) -> DecodeRow:
    position = sequence.num_computed + ahead
    token_id = 0 if ahead else sequence.token_ids[position]
    return DecodeRow(sequence.slot, token_id, position, position + sequence.rope_delta)
