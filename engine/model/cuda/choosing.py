"""From the logits of a step to its tokens: adjusts rows that ask for it, samples, and copies the result to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from engine.errors import StartError
from engine.model.choice import Choice
from engine.model.cuda.graphs import Graphs
from engine.model.cuda.sampling import Sampler, adjust_rows, allow_tokens, is_ranked, packed_adjustments
from engine.model.cuda.sampling_kernels import HEAD
from engine.model.sampler import to_device
from engine.model.scoring import log_probabilities_in_parts
from engine.schedule.sequence import Phase, Sequence

# Of the rows that `Chooser.check` samples: temperature, top_k, top_p, min_p, and whether there is a grammar.
GREEDY, PLAIN = (0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0, 0.0)
BEST_ONLY, RANKED = (1.0, 1.0, 1.0, 0.0, 0.0), (0.7, 50.0, 0.9, 0.05, 0.0)
CLEARLY_BEST = 8.0  # a logit among those of a normal distribution, which often is not the one that is drawn
STRIDE = 7919  # between the best tokens of two rows; a prime, so that all parts of the vocabulary have some


@dataclass(frozen=True, slots=True)
class Choices:
    """The sampled tokens of a step on their way to the host: tokens and flags [2, n], and log probabilities."""

    result: Tensor
    logprobs: list[Tensor]
    requested: list[tuple[int, int]]  # rows that request log probabilities, and how many

    def collect(self) -> list[Choice]:
        """Return one choice for each row, once the step has been waited for."""
        tokens, finite = self.result.tolist()
        choices = [Choice(token, ok == 1) for token, ok in zip(tokens, finite, strict=True)]
        values = zip(*(part.tolist() for part in self.logprobs), strict=True)
        for (row, count), (chosen, best, ids) in zip(self.requested, values, strict=bool(self.logprobs)):
            top = tuple(zip(ids[:count], best[:count], strict=True))
            choices[row] = Choice(tokens[row], finite[row] == 1, chosen, top)
        return choices


class Chooser:
    """Samples the rows of steps; `last_tokens` [rows] keeps the last token of each row for the next step."""

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self.logits = torch.zeros(rows, vocabulary, dtype=torch.float32, device=device)
        self.last_tokens = torch.zeros(rows, dtype=torch.int32, device=device)
        self._sampler = Sampler(rows, vocabulary, torch.float32, device)
        self._result = torch.zeros(2, rows, dtype=torch.int32, device=device)
        self._graphs = Graphs()

    def choose(self, sequences: list[Sequence], inputs: dict[str, Tensor], rows: int) -> Choices:
        """Sample a token for each sequence from the first rows of the logits.

        inputs: the sampling inputs of the step on the device; rows: the bucket, at least as many as the sequences.
        """
        requested = [(row, s.sampling.logprobs) for row, s in enumerate(sequences) if s.sampling.logprobs is not None]
        index, raw = None, None
        if requested:
            index = self._index([row for row, _ in requested])
            raw = self.logits[index]  # those of the model, before bias, penalties and grammar
        self._adjust(sequences)
        ranked = any(map(is_ranked, sequences))
        self._graphs.run((rows, ranked), partial(self.sample, rows, ranked, inputs))
        parts = [self._result[:, : len(sequences)]]
        if raw is not None:
            most = max(count for _, count in requested)
            parts += log_probabilities_in_parts(raw, self._result[0][index], max(1, most))
        parts = [part.to("cpu", non_blocking=True, copy=True) for part in parts]
        return Choices(parts[0], parts[1:], requested)

    def sample(self, rows: int, ranked: bool, inputs: dict[str, Tensor]) -> None:
        """Launch the sampler over so many rows."""
        self._sampler(
            self.logits[:rows],
            inputs["parameters"].view(torch.float32),
            inputs["numbers"].view(torch.float32),
            inputs["rows"],
            self._result[0],
            self._result[1],
            self.last_tokens,
            ranked,
        )

    def capture(self, rows: int, inputs: dict[str, Tensor]) -> None:  # pragma: no cover - CUDA
        """Capture the sampler for so many rows."""
        for ranked in (False, True):
            self._graphs.capture((rows, ranked), partial(self.sample, rows, ranked, inputs))

    def warm_up(self, rows: int, inputs: dict[str, Tensor]) -> None:
        """Launch once what only some steps launch; the logits and results mean nothing afterwards."""
        for ranked in (False, True):
            self.sample(rows, ranked, inputs)
        nothing = torch.zeros(HEAD.value, dtype=torch.int32)  # a row without biases and penalties
        adjust_rows(self.logits, to_device(nothing, self.logits.device), self.last_tokens, 1)
        index = self._index([0])
        log_probabilities_in_parts(self.logits[index], self._result[0][index], 1)
        allow_tokens(self.logits, index, to_device(torch.zeros(1, 1, dtype=torch.int32), self.logits.device))

    def check(self, inputs: dict[str, Tensor]) -> None:
        """Sample rows whose best token is known, and compare every graph with its kernels. Waits for the device.

        inputs: as of `choose`; they, the logits and results mean nothing afterwards. Raises StartError where a token is
        not the best one of a row that takes no other, or a graph gives other tokens than its kernels.
        """
        most, vocabulary = self.logits.shape
        best = torch.arange(most, device=self.logits.device) * STRIDE % vocabulary
        self.logits.normal_().scatter_(1, best[:, None], CLEARLY_BEST)
        inputs["rows"][:most] = torch.arange(most, dtype=torch.int32)
        inputs["numbers"].view(torch.float32)[:most] = (torch.arange(most) + 0.5) / most
        for rows, ranked in [*self._graphs] or [(most, False), (most, True)]:
            kinds = (GREEDY, PLAIN, BEST_ONLY, RANKED) if ranked else (GREEDY, PLAIN)
            inputs["parameters"].view(torch.float32)[:rows] = torch.tensor([*islice(cycle(kinds), rows)])
            launch = partial(self.sample, rows, ranked, inputs)
            launched, replayed = (
                self._sampled(rows, launch),
                self._sampled(rows, self._graphs.run, (rows, ranked), launch),
            )
            certain = slice(None, None, 2)  # every other row takes its best token only
            if launched[0][certain] != best[:rows].tolist()[certain] or not all(launched[1]):
                raise StartError("The sampler's kernels do not choose the best token on this device.")
            if replayed != launched:
                raise StartError(
                    f"A CUDA graph of the sampler gives other tokens than its kernels for {rows} rows: set "
                    "CUDA_GRAPHS=false."
                )

    def _sampled(self, rows: int, launch: Callable[..., None], *arguments: object) -> list[list[int]]:
        """Return the tokens and flags of so many rows that a launch gives."""
        self._result.fill_(-1)
        launch(*arguments)
        sampled: list[list[int]] = self._result[:, :rows].tolist()
        return sampled

    def _adjust(self, sequences: list[Sequence]) -> None:
        """Apply bias, penalties and grammars to the rows that have any."""
        masked: list[int] = []
        words: list[np.ndarray] = []
        adjusted: list[tuple[int, Sequence]] = []
        for row, sequence in enumerate(sequences):
            if not sequence.adjusts_logits:
                continue
            if sequence.adjustments is not None:
                adjusted.append((row, sequence))
            if sequence.sampling.token_mask is not None and sequence.phase is not Phase.FINISHED:
                masked.append(row)
                words.append(np.ascontiguousarray(sequence.sampling.token_mask.bitmask()).view(np.int32).ravel())
        device = self.logits.device
        if adjusted:
            packed = to_device(torch.from_numpy(packed_adjustments(adjusted)), device)
            adjust_rows(self.logits, packed, self.last_tokens, len(adjusted))
        if masked:
            allow_tokens(self.logits, self._index(masked), to_device(torch.from_numpy(np.stack(words)), device))

    def _index(self, rows: list[int]) -> Tensor:
        return to_device(torch.from_numpy(np.array(rows, dtype=np.int64)), self.logits.device)
