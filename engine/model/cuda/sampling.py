"""Samples the next token of each row on an NVIDIA card, as `engine.model.sampler` does, without the host.

The steps of a row are the same: temperature, top_k (of equal logits the first tokens), top_p of what top_k left, min_p.
The token is drawn by inverse transform sampling with the row's own number. Unlike there, the kept tokens are in the
order of their ids, not of their probabilities: the distribution is the same, but a number may give another token.

A row depends on nothing but its own logits, parameters and number, and is repeatable to the bit. In a ranked row,
tokens that weigh less than e^-28 of the best one are never drawn.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
import triton
from torch import Tensor

from engine.model.cuda import sampling_kernels as kernels
from engine.schedule.sequence import LOWEST_TEMPERATURE, Sequence

# Tokens that may be within reach of top_k, top_p and min_p without reading the vocabulary again and again. A row of a
# language model has tens to thousands.
LISTED = 16384
# Tokens with a bias or a penalty that a program reads at once.
ADJUSTED = 1024
# In place of a slot: no step in flight samples a token of this row, or none that counts.
NONE = -1
# Warps of a program that reads a chunk.
WARPS = 8


def is_ranked(sequence: Sequence) -> bool:
    """Return whether a sequence draws from its most probable tokens only."""
    params = sequence.sampling
    return params.temperature > 0 and bool(params.top_k or params.top_p < 1 or params.min_p)


def parameters_of(sequences: abc.Sequence[Sequence]) -> np.ndarray:
    """Return the parameters of rows for `Sampler`, float32 [rows, 5]; they change only when the rows do."""
    rows = np.zeros((len(sequences), kernels.COLUMNS.value), np.float32)
    for row, sequence in zip(rows, sequences, strict=True):
        params = sequence.sampling
        greedy = params.temperature <= 0
        row[:4] = (
            0.0 if greedy else max(LOWEST_TEMPERATURE, params.temperature),
            params.top_k or 0,
            params.top_p,
            params.min_p,
        )
        row[4] = params.token_mask is not None
    return rows


class Sampler:
    """Samples rows of logits; owns the buffers between the kernels, so one step at a time may use it.

    rows: the greatest number of rows; vocabulary: logits a row; dtype: of the logits. Calls allocate nothing and do not
    synchronize, so they can be captured in a CUDA graph.
    """

    def __init__(
        self, rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device, listed: int = LISTED
    ) -> None:
        self._vocabulary, self._capacity = vocabulary, listed
        self._chunks = chunks = triton.cdiv(vocabulary, kernels.CHUNK.value)
        self._maxima, self._sums = torch.empty(2, rows, chunks, dtype=torch.float32, device=device)
        self._positions, self._faults = torch.empty(2, rows, chunks, dtype=torch.int32, device=device)
        self._bins = torch.empty(rows, chunks, kernels.BINS.value, dtype=torch.int32, device=device)
        self._sizes = torch.empty(rows, dtype=torch.int32, device=device)
        self._listed = torch.empty(rows, listed, dtype=dtype, device=device)
        self._ids = torch.empty(rows, listed, dtype=torch.int32, device=device)

    @property
    def nbytes(self) -> int:
        """The size of the buffers in bytes."""
        buffers = (self._maxima, self._sums, self._positions, self._faults, self._bins, self._sizes)
        return sum(buffer.nbytes for buffer in (*buffers, self._listed, self._ids))

    def __call__(
        self,
        logits: Tensor,
        parameters: Tensor,
        numbers: Tensor,
        slots: Tensor,
        tokens: Tensor,
        finite: Tensor,
        last_tokens: Tensor,
        ranked: bool = True,
    ) -> None:
        """Write each row's token into `tokens` [R] and `last_tokens`[slot], and 1 into `finite` [R], 0 for bad logits.

        logits: [R, vocabulary], not changed. parameters: from `parameters_of`, float32 [R, 5]; numbers: float32 [R], in
        [0, 1), 0 for greedy rows; slots: int32 or int64 [R], the index into last_tokens, negative for none. tokens,
        finite, last_tokens: int32 or int64. ranked: False if no row `is_ranked`, which saves two launches. A row is bad
        if a logit is NaN or infinite, other than -inf in a row with a grammar; its token is valid but means nothing.
        """
        rows, chunks = logits.shape[0], self._chunks
        block = triton.next_power_of_2(chunks)
        stats, size = (self._maxima, self._positions, self._sums, self._faults), self._vocabulary
        stride = logits.stride(0)
        grid = (rows, chunks)
        kernels.chunk_stats[grid](logits, parameters, *stats, stride, size, CHUNKS=chunks, num_warps=WARPS)
        if ranked:
            kernels.count_bins[grid](
                logits, parameters, self._maxima, self._bins, stride, size,
                CHUNKS=chunks, BLOCK=block, num_warps=WARPS,
            )  # fmt: skip
            kernels.compact[grid](
                logits, parameters, self._maxima, self._sums, self._bins, self._sizes, self._listed, self._ids,
                stride, size, self._capacity, CHUNKS=chunks, BLOCK=block, num_warps=WARPS,
            )  # fmt: skip
        kernels.draw[(rows,)](
            logits, parameters, numbers, slots, *stats, self._sizes, self._listed, self._ids,
            tokens, finite, last_tokens, stride, size, self._capacity,
            CHUNKS=chunks, BLOCK=block, RANKED=ranked, num_warps=WARPS,
        )  # fmt: skip


def allow_tokens(logits: Tensor, rows: Tensor, words: Tensor) -> None:
    """Set the logits of tokens that a grammar does not allow to -inf, in place.

    logits: [R, V]; rows: int32 or int64 [m], the rows with a grammar; words: int32 [m, W], their bitmasks, contiguous;
    tokens beyond the end of a bitmask are not allowed.
    """
    size, block = logits.shape[1], kernels.CHUNK.value
    kernels.mask_row[(rows.shape[0], triton.cdiv(size, block))](
        logits, rows, words, logits.stride(0), words.stride(0), words.shape[1], size, BLOCK=block, num_warps=WARPS
    )


def packed_adjustments(rows: abc.Sequence[tuple[int, Sequence]]) -> np.ndarray:
    """Return the biases and penalties of sequences for `adjust_rows`, int32; floats are there by their bits.

    rows: the row of each sequence, which has `adjustments`. First come the heads, then the tokens of all rows, then as
    many values: the biases, and how often tokens with penalties are in the answer so far, without the token that a step
    in flight samples.
    """
    heads = np.zeros((len(rows), kernels.HEAD.value), np.int32)
    ids, values, end = [], [], 0
    for head, (row, sequence) in zip(heads, rows, strict=True):
        params, adjustments = sequence.sampling, sequence.adjustments
        assert adjustments is not None
        bias_ids, biases = sequence.biases
        ids += [np.array(bias_ids, np.int32), np.array(adjustments.token_ids, np.int32)]
        values += [np.array(biases, np.float32), np.array(adjustments.counts, np.float32)]
        begin, middle = end, end + len(bias_ids)
        end = middle + len(adjustments.token_ids)
        head[:4] = row, begin, middle, end
        penalties = params.repetition_penalty, params.frequency_penalty, params.presence_penalty
        head[4:7] = np.array(penalties, np.float32).view(np.int32)
        head[7] = sequence.slot if sequence.pending and adjustments.counting else NONE
    return np.concatenate([heads.ravel(), *ids, *(value.view(np.int32) for value in values)])


def adjust_rows(logits: Tensor, words: Tensor, last_tokens: Tensor, rows: int) -> None:
    """Add biases to logits and apply penalties, in place, in one launch for all rows that have any.

    logits: float32 [R, V]; words: from `packed_adjustments`, of so many rows; last_tokens: int32, by the slot of a
    sequence the token that the step before samples for it.
    """
    heads = rows * kernels.HEAD.value
    size = (words.shape[0] - heads) // 2
    kernels.adjust_row[(rows,)](
        logits, words, last_tokens, logits.stride(0), heads, heads + size, BLOCK=ADJUSTED, num_warps=WARPS
    )
