"""Decode steps that are launched before the host knows the tokens they start from.

While the device computes step n + 1, the host takes the tokens of step n: detokenizes, ends, plans. The tokens go from
one step to the next on the device. The guess is that every row of step n goes on; a row that ended meanwhile is
dropped, and if a row joined, the step in flight is thrown away and computed again, which changes no answer: a step
writes a token's keys and values before it reads them, and a row's own numbers choose its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.cuda_graphs import DecodeGraphs, DecodeRow
from engine.model.sampler import Choice, Sampled, sample, to_device
from engine.schedule.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Launched:
    """A step under way: its rows, how many tokens each had before it, and what comes of it."""

    sequences: list[Sequence]
    lengths: list[int]
    sampled: Sampled

    def rows_of(self, sequences: list[Sequence]) -> list[int] | None:
        """Return the row of each of `sequences`, None where one is missing or is not where the step took it to be."""
        known = {sequence: row for row, sequence in enumerate(self.sequences)}
        rows = [known.get(sequence, -1) for sequence in sequences]
        if any(row < 0 or self.lengths[row] != len(s.token_ids) for row, s in zip(rows, sequences, strict=True)):
            return None
        return rows


class AsyncDecode:
    """Decodes in buckets, one step ahead where nothing speaks against it. One thread only: the engine's."""

    def __init__(self, buckets: DecodeGraphs) -> None:
        self._buckets = buckets
        self._held: dict[int, Sequence] = {}
        self._in_flight: Launched | None = None

    def hold(self, sequence: Sequence) -> None:
        """Know who holds a slot from now on: a step may not write where a prompt has been read."""
        self._held[sequence.slot] = sequence
        if self._in_flight is not None and sequence in self._in_flight.sequences:
            self.forget()  # it comes back from waiting, to a slot that the step did not write

    def forget(self) -> None:
        """Drop the step in flight: what it computed is not wanted."""
        self._in_flight = None

    def launch(self, decode: list[Sequence]) -> Launched:
        """Return the step of these rows: the one in flight where it is theirs, else a new one."""
        launched, self._in_flight = self._in_flight, None
        if launched is not None and launched.rows_of(decode) is not None:
            return launched
        return self._start(decode)

    def launch_next(self, launched: Launched, decode: list[Sequence]) -> None:
        """Launch the step after `launched` for those of its rows `decode` that will not have reached their length."""
        going = [s for s in decode if s.num_output + 1 < s.sampling.max_tokens]
        if not going or any(sequence.needs_its_tokens for sequence in going):
            return
        rows = launched.rows_of(going)
        assert rows is not None
        tokens = launched.sampled.tokens
        self._in_flight = self._start(going, tokens if len(rows) == len(tokens) else _pick(tokens, rows), ahead=1)

    def collect(self, launched: Launched, decode: list[Sequence]) -> list[Choice]:
        """Wait for a step and return the choices of the rows `decode`."""
        choices = launched.sampled.collect()
        rows = launched.rows_of(decode)
        assert rows is not None
        return [choices[row] for row in rows]

    def _start(self, decode: list[Sequence], tokens: Tensor | None = None, ahead: int = 0) -> Launched:
        here = {sequence.slot for sequence in decode}
        self._held = {slot: sequence for slot, sequence in self._held.items() if sequence.slot == slot}
        # The next place of all others: one further where the step before, which is not in the books yet, writes one.
        last = self._buckets.longest - 1
        others = [(slot, min(s.num_computed + ahead, last)) for slot, s in self._held.items() if slot not in here]
        rows = [_decode_row(sequence, ahead) for sequence in decode]
        logits = self._buckets.run(rows, others, tokens)
        lengths = [len(sequence.token_ids) + ahead for sequence in decode]
        return Launched(decode, lengths, sample(logits, decode, ahead))


def _pick(tokens: Tensor, rows: list[int]) -> Tensor:
    return tokens.index_select(0, to_device(torch.tensor(rows), tokens.device))


def _decode_row(sequence: Sequence, ahead: int) -> DecodeRow:
    position = sequence.num_computed + ahead
    token_id = 0 if ahead else sequence.token_ids[position]
    return DecodeRow(sequence.slot, token_id, position, position + sequence.rope_delta)
