"""Samples the next token of each row with the C kernel, as `engine.model.sampler` does with torch."""

from __future__ import annotations

from array import array

import numpy as np
from torch import Tensor

from engine.model.choice import Choice
from engine.model.kernels.library import SAMPLED_ROW, Kernels
from engine.schedule.sequence import BELOW_ONE, LOWEST_TEMPERATURE, Sequence

# A row as numbers of 32 bits: how many it has, and where some of its fields are.
WORDS = SAMPLED_ROW.itemsize // 4
_PLACES = {name: field[1] // 4 for name, field in (SAMPLED_ROW.fields or {}).items()}
NUMBER, TOKEN, FINITE = _PLACES["number"], _PLACES["token"], _PLACES["finite"]


def sample_with_kernels(
    logits: Tensor, sequences: list[Sequence], kernels: Kernels, ahead: list[int] | None = None
) -> list[Choice]:
    """Sample one token per row. logits: float32 [n, vocabulary], contiguous; sequences: n, in the same order.

    ahead: how many tokens after the next one of its sequence each row is; None: none. Raises ValueError if the grammar
    of a row allows no token. After a step of the model nothing of NumPy is in the processor's caches, and the first
    call of each of its functions costs tens of microseconds: for the usual rows there is none.
    """
    vocabulary = logits.shape[-1]
    raw = array("i", b"".join([sequence.sampled_row or _sampled_row(sequence, vocabulary) for sequence in sequences]))
    numbers = [s.uniform() for s in sequences] if ahead is None else map(Sequence.uniform, sequences, ahead)
    raw[NUMBER::WORDS] = array("i", array("f", [min(number, BELOW_ONE) for number in numbers]).tobytes())
    held = [_adjust(raw, row, s) for row, s in enumerate(sequences) if s.adjusts_logits]
    scored = [row for row, s in enumerate(sequences) if s.sampling.logprobs is not None]
    top = _request_logprobs(raw) if scored else None
    kernels.sample(logits, raw)
    del held
    tokens = raw[TOKEN::WORDS]
    if min(tokens) < 0:
        raise ValueError("the grammar allows no token")
    choices = [Choice(token, finite == 1) for token, finite in zip(tokens, raw[FINITE::WORDS], strict=True)]
    if top is not None:
        _add_logprobs(choices, scored, raw, top)
    return choices


def _sampled_row(sequence: Sequence, vocabulary: int) -> bytes:
    """Return the row of a sequence as the kernel reads it, with all that stays; the sequence keeps it."""
    row, params = np.zeros(1, SAMPLED_ROW), sequence.sampling
    row["temperature"] = params.temperature and max(LOWEST_TEMPERATURE, params.temperature)
    row["top_k"], row["top_p"], row["min_p"] = min(params.top_k, vocabulary), params.top_p, params.min_p
    row["repetition"] = params.repetition_penalty
    row["frequency"], row["presence"] = params.frequency_penalty, params.presence_penalty
    row["logprobs"] = -1 if params.logprobs is None else min(params.logprobs, vocabulary)
    sequence.sampled_row = row.tobytes()
    return sequence.sampled_row


def _adjust(raw: array[int], number: int, sequence: Sequence) -> object:
    """Set the biased, counted and allowed tokens of a row; return what must be kept alive as long as the row."""
    row = np.frombuffer(raw, SAMPLED_ROW)[number]
    adjustments, mask = sequence.adjustments, sequence.sampling.token_mask
    if adjustments is not None:
        bias_ids, biases = sequence.biases  # kept by the adjustments
        row["bias_ids"], row["num_bias"] = bias_ids.buffer_info()
        row["biases"] = biases.buffer_info()[0]
        row["counted_ids"], row["num_counted"] = adjustments.token_ids.buffer_info()
        row["counts"] = adjustments.counts.buffer_info()[0]
    if mask is None:
        return adjustments
    words = np.ascontiguousarray(mask.bitmask())
    row["allowed"], row["words"] = words.ctypes.data, words.size
    return adjustments, words


def _request_logprobs(raw: array[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where the kernel writes the most probable tokens of the rows and their log probabilities, [n, k] each."""
    rows = np.frombuffer(raw, SAMPLED_ROW)
    shape = len(rows), max(0, int(rows["logprobs"].max()))
    ids, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    offsets = np.arange(len(rows), dtype=np.uintp) * (4 * shape[1])
    rows["top_ids"], rows["top"] = ids.ctypes.data + offsets, values.ctypes.data + offsets
    return ids, values


def _add_logprobs(
    choices: list[Choice], scored: list[int], raw: array[int], top: tuple[np.ndarray, np.ndarray]
) -> None:
    """Add to the choices of these rows the log probabilities that the kernel has written."""
    rows = np.frombuffer(raw, SAMPLED_ROW)
    for row in scored:
        ids, values = (part[row, : rows["logprobs"][row]].tolist() for part in top)
        alternatives = tuple(zip(ids, values, strict=True))
        choices[row] = Choice(choices[row].token_id, choices[row].finite, float(rows["logprob"][row]), alternatives)
