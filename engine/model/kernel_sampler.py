"""Samples the next token of each row with the C kernel, as `engine.model.sampler` does with torch."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from engine.model.choice import Choice
from engine.model.kernels.library import SAMPLED_ROW, Kernels
from engine.schedule.sequence import BELOW_ONE, LOWEST_TEMPERATURE, Sequence


def sample_with_kernels(
    logits: Tensor, sequences: list[Sequence], kernels: Kernels, ahead: list[int] | None = None
) -> list[Choice]:
    """Sample one token per row. logits: float32 [n, vocabulary], contiguous; sequences: n, in the same order.

    ahead: how many tokens after the next one of its sequence each row is; None: none. Raises ValueError if the grammar
    of a row allows no token.
    """
    rows = np.zeros(len(sequences), SAMPLED_ROW)
    params = [sequence.sampling for sequence in sequences]
    places = zip(sequences, ahead or [0] * len(sequences), strict=True)
    rows["number"] = [min(sequence.uniform(after), BELOW_ONE) for sequence, after in places]
    rows["temperature"] = [p.temperature and max(LOWEST_TEMPERATURE, p.temperature) for p in params]
    rows["top_k"] = [min(p.top_k, logits.shape[-1]) for p in params]
    rows["top_p"] = [p.top_p for p in params]
    rows["min_p"] = [p.min_p for p in params]
    held = [_adjust(row, sequence) for row, sequence in zip(rows, sequences, strict=True) if sequence.adjusts_logits]
    top = _request_logprobs(rows, sequences, logits.shape[-1])
    kernels.sample(logits, rows)
    del held
    if (rows["token"] < 0).any():
        raise ValueError("the grammar allows no token")
    return _choices(rows, top)


def _adjust(row: np.void, sequence: Sequence) -> object:
    """Set bias, penalties and grammar of a row; return what must be kept alive as long as the row."""
    params, adjustments, mask = sequence.sampling, sequence.adjustments, sequence.sampling.token_mask
    if adjustments is not None:
        bias_ids, biases = sequence.biases  # kept by the adjustments
        row["bias_ids"], row["num_bias"] = bias_ids.buffer_info()
        row["biases"] = biases.buffer_info()[0]
        row["counted_ids"], row["num_counted"] = adjustments.token_ids.buffer_info()
        row["counts"] = adjustments.counts.buffer_info()[0]
        row["repetition"] = params.repetition_penalty
        row["frequency"], row["presence"] = params.frequency_penalty, params.presence_penalty
    if mask is None:
        return adjustments
    words = np.ascontiguousarray(mask.bitmask())
    row["allowed"], row["words"] = words.ctypes.data, words.size
    return adjustments, words


def _request_logprobs(rows: np.ndarray, sequences: list[Sequence], vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Set how many log probabilities each row requests; return where the kernel writes them, [n, k] each."""
    counts = [s.sampling.logprobs for s in sequences]
    rows["logprobs"] = [-1 if count is None else min(count, vocabulary) for count in counts]
    shape = len(rows), max(0, int(rows["logprobs"].max(initial=0)))
    ids, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    offsets = np.arange(len(rows), dtype=np.uintp) * (4 * shape[1])
    rows["top_ids"], rows["top"] = ids.ctypes.data + offsets, values.ctypes.data + offsets
    return ids, values


def _choices(rows: np.ndarray, top: tuple[np.ndarray, np.ndarray]) -> list[Choice]:
    found = zip(rows["token"].tolist(), rows["finite"].tolist(), strict=True)
    choices = [Choice(token, finite == 1) for token, finite in found]
    counts = rows["logprobs"].tolist()
    for row, count in enumerate(counts):
        if count >= 0:
            ids, values = (part[row, :count].tolist() for part in top)
            alternatives = tuple(zip(ids, values, strict=True))
            choices[row] = Choice(choices[row].token_id, choices[row].finite, float(rows["logprob"][row]), alternatives)
    return choices
