"""Triton kernels of the sampler. A program reads one chunk of a row's vocabulary, which is never sorted.

A row is greedy (temperature 0), plain, or ranked (top_k, top_p or min_p). `chunk_stats` and `draw` suffice for the
first two. For ranked rows `count_bins` counts the tokens by their distance to the best one; `compact` derives how far
kept tokens can reach and lists the tokens up to there, a few hundred as a rule; and `draw` searches the exact threshold
in that list by bisection. If too many tokens are within reach, `draw` reads the row itself in place of the list.

Every sum has a fixed order within its row, so a row's token depends on nothing else. Values that are not finite count
as -inf. R is the number of rows, V the vocabulary, CHUNKS the number of chunks, BLOCK the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Tokens of a chunk, and tokens of a list that are read at once.
CHUNK = tl.constexpr(4096)
# Bins of distances to the best token, which span REACH temperatures; the last one also holds what is beyond.
BINS = tl.constexpr(128)
# All tokens that are so many temperatures below the best weigh less than 2e-7 together: ranked rows may ignore them.
REACH = tl.constexpr(28.0)
# The most steps of a bisection, which tells logits apart that differ by REACH * 2^-STEPS temperatures.
STEPS = tl.constexpr(28)
# The parameters of a row, by column.
TEMPERATURE = tl.constexpr(0)
TOP_K = tl.constexpr(1)
TOP_P = tl.constexpr(2)
MIN_P = tl.constexpr(3)
MASKED = tl.constexpr(4)
COLUMNS = tl.constexpr(5)
# Words that tell of a row with biases or penalties: the row, where its tokens begin, where those with penalties do and
# where they end, three penalties, and the slot whose last token is not among them yet, negative for none.
HEAD = tl.constexpr(8)


@triton.jit
def _parameters(parameters, row, V):
    """Return 1 / temperature (0 if greedy), top_k (V if unlimited), top_p, min_p, and whether the row is ranked."""
    start = parameters + row * COLUMNS
    temperature = tl.load(start + TEMPERATURE)
    top_k = tl.load(start + TOP_K).to(tl.int32)
    top_k = tl.where((top_k <= 0) | (top_k > V), V, top_k)
    top_p, min_p = tl.load(start + TOP_P), tl.load(start + MIN_P)
    sampled = temperature > 0
    inverse = tl.where(sampled, 1.0 / tl.where(sampled, temperature, 1.0), 0.0)
    return inverse, top_k, top_p, min_p, sampled & ((top_k < V) | (top_p < 1) | (min_p > 0))


@triton.jit
def _load(values, inside):
    """Return float32 values, -inf in place of those outside and of those that are not finite."""
    loaded = tl.load(values, mask=inside, other=float("-inf")).to(tl.float32)
    return tl.where(tl.abs(loaded) < float("inf"), loaded, float("-inf"))


@triton.jit
def _row(logits, row_stride):
    return logits + tl.program_id(0).to(tl.int64) * row_stride


@triton.jit
def _peaks(maxima, row, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the largest logit of each chunk [BLOCK] and of the row, the latter 0 if all are -inf."""
    chunk = tl.arange(0, BLOCK)
    peaks = tl.load(maxima + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=float("-inf"))
    best = tl.max(peaks, axis=0)
    return peaks, tl.where(best == float("-inf"), 0.0, best)


@triton.jit
def _chunk_weights(peaks, sums, row, best, inverse, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the weight of each chunk [BLOCK], relative to the best token of the row."""
    chunk = tl.arange(0, BLOCK)
    relative = tl.load(sums + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0.0)
    return relative * tl.exp((peaks - best) * inverse)


@triton.jit
def _bin(values, best, inverse):
    """Return the bin of each logit; that of the best is 0."""
    return tl.minimum((best - values) * inverse * (BINS / REACH), BINS - 1.0).to(tl.int32)


@triton.jit
def chunk_stats(logits, parameters, maxima, positions, sums, faults, row_stride, V, CHUNKS: tl.constexpr):
    """Write each chunk's largest logit, its first position, the weights relative to it, and if a value is bad."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    inverse, _, _, _, _ = _parameters(parameters, row, V)
    position = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = position < V
    loaded = tl.load(_row(logits, row_stride) + position, mask=inside, other=0.0).to(tl.float32)
    finite = tl.abs(loaded) < float("inf")
    # A grammar rules tokens out by -inf.
    masked = tl.load(parameters + row * COLUMNS + MASKED)
    bad = (finite == 0) & (tl.where(loaded == float("-inf"), masked, 0.0) == 0)
    counted = inside & finite
    values = tl.where(counted, loaded, float("-inf"))
    best = tl.max(values, axis=0)
    distances = tl.where(counted, values - tl.where(best == float("-inf"), 0.0, best), 0.0)
    weights = tl.where(counted, tl.exp(distances * inverse), 0.0)
    at = row * CHUNKS + chunk
    tl.store(maxima + at, best)
    tl.store(positions + at, tl.min(tl.where(values == best, position, V), axis=0))
    tl.store(sums + at, tl.sum(weights, axis=0))
    tl.store(faults + at, tl.max(bad.to(tl.int32), axis=0))


@triton.jit
def count_bins(logits, parameters, maxima, bins, row_stride, V, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Write how many tokens of each chunk of a ranked row are in each bin. bins: int32 [R, CHUNKS, BINS]."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    inverse, _, _, _, ranked = _parameters(parameters, row, V)
    if ranked:
        position = chunk * CHUNK + tl.arange(0, CHUNK)
        values = _load(_row(logits, row_stride) + position, position < V)
        peaks, best = _peaks(maxima, row, CHUNKS, BLOCK)
        counts = tl.histogram(_bin(values, best, inverse), BINS)
        tl.store(bins + (row * CHUNKS + chunk) * BINS + tl.arange(0, BINS), counts)


@triton.jit
def _last_bin(counts, total, top_k, top_p, min_p, V):
    """Return the last bin that may hold a kept token. counts: int32 [BINS]; total: the weight of the row."""
    number = tl.arange(0, BINS)
    # The most that a token of each bin can weigh, and room for rounding: a longer list is as correct.
    heaviest = tl.exp(number * (-REACH / BINS)) * 1.0001
    by_top_k = tl.min(tl.where(tl.cumsum(counts, axis=0) >= top_k, number, BINS - 1), axis=0)
    weights = counts * heaviest
    beyond = tl.cumsum(weights, axis=0, reverse=True) - weights
    enough = beyond < (1 - top_p) * total * 0.999
    by_top_p = tl.min(tl.where(enough, number, BINS - 1), axis=0)
    by_min_p = tl.max(tl.where(heaviest >= min_p, number, 0), axis=0)
    # What top_p is a part of is the weight of all that top_k keeps.
    others = tl.where((top_k < V) & (top_p < 1), BINS - 1, tl.minimum(by_top_p, by_min_p))
    return tl.minimum(by_top_k, others)


@triton.jit
def compact(
    logits, parameters, maxima, sums, bins, sizes, listed, ids, row_stride, V, capacity,
    CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """List the logits of a ranked row that may be kept, and their token ids, in the order of these.

    listed, ids: [R, capacity]; sizes: int32 [R], the length of each list, -1 if it is too long to be written.
    """
    row, chunk = tl.program_id(0), tl.program_id(1)
    inverse, top_k, top_p, min_p, ranked = _parameters(parameters, row, V)
    if ranked:
        peaks, best = _peaks(maxima, row, CHUNKS, BLOCK)
        total = tl.sum(_chunk_weights(peaks, sums, row, best, inverse, CHUNKS, BLOCK), axis=0)
        chunks, number = tl.arange(0, BLOCK)[:, None], tl.arange(0, BINS)[None, :]
        counts = tl.load(bins + (row * CHUNKS + chunks) * BINS + number, mask=chunks < CHUNKS, other=0)
        last = _last_bin(tl.sum(counts, axis=0), total, top_k, top_p, min_p, V)
        by_chunk = tl.sum(tl.where(number <= last, counts, 0), axis=1)
        size = tl.sum(by_chunk, axis=0)
        # The last bin has no end, and its count includes positions beyond the vocabulary.
        fits = (last < BINS - 1) & (size <= capacity)
        if fits:
            offset = tl.sum(tl.where(tl.arange(0, BLOCK) < chunk, by_chunk, 0), axis=0)
            position = chunk * CHUNK + tl.arange(0, CHUNK)
            values = _load(_row(logits, row_stride) + position, position < V)
            near = _bin(values, best, inverse) <= last
            target = row.to(tl.int64) * capacity + offset + tl.cumsum(near.to(tl.int32), axis=0) - 1
            tl.store(listed + target, values.to(listed.dtype.element_ty), mask=near)
            tl.store(ids + target, position, mask=near)
        if chunk == 0:
            tl.store(sizes + row, tl.where(fits, size, -1))


@triton.jit
def _above(values, size, threshold, best, inverse):
    """Return how many of the `size` values are at least `threshold`, and their weight."""
    count = tl.zeros([CHUNK], tl.int32)
    weight = tl.zeros([CHUNK], tl.float32)
    for start in range(0, size, CHUNK):
        at = start + tl.arange(0, CHUNK)
        value = _load(values + at, at < size)
        above = value >= threshold
        count += above.to(tl.int32)
        weight += tl.where(above, tl.exp((value - best) * inverse), 0.0)
    return tl.sum(count, axis=0), tl.sum(weight, axis=0)


@triton.jit
def _bisect(values, size, low, low_count, low_weight, high, count, weight, best, inverse):
    """Narrow [low, high) around the greatest threshold from which on there are `count` tokens and `weight`.

    Return low, tokens and weight from low on, high, tokens and weight from high on. No value is `high` or more.
    """
    step, high_count, high_weight = 0, low_count * 0, low_weight * 0.0
    while (step < STEPS) & (low_count - high_count > 1):
        step += 1
        middle = low + (high - low) * 0.5
        found, heavy = _above(values, size, middle, best, inverse)
        enough = (found >= count) & (heavy >= weight)
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle)
        low_count, high_count = tl.where(enough, found, low_count), tl.where(enough, high_count, found)
        low_weight, high_weight = tl.where(enough, heavy, low_weight), tl.where(enough, high_weight, heavy)
    return low, low_count, low_weight, high, high_count, high_weight


@triton.jit
def _threshold(values, size, total, top_k, top_p, best, inverse):
    """Return (low, high, ties): kept are the values from `high` on and the first `ties` of those in [low, high).

    The latter are equal, or too close to tell apart. total: the weight of the row.
    """
    top = best + tl.abs(best) * 1e-6 + 0.01 / inverse
    low = best - REACH / inverse
    low_count, low_weight = _above(values, size, low, best, inverse)
    high, high_count, high_weight = low, low_count, low_weight
    if low_count >= top_k:
        low, low_count, low_weight, high, high_count, high_weight = _bisect(
            values, size, low, low_count, low_weight, top, top_k, 0.0, best, inverse
        )
        tie = (low_weight - high_weight) / (low_count - high_count)
        total = high_weight + (top_k - high_count) * tie
    ties = top_k - high_count
    wanted = total * top_p
    if top_p < 1:
        # Otherwise the weight is reached among the ties of top_k.
        if (high_weight >= wanted) & (high_count > 0):
            low, low_count, low_weight, high, high_count, high_weight = _bisect(
                values, size, high, high_count, high_weight, top, 1, wanted, best, inverse
            )
            ties = low_count - high_count
        tie = (low_weight - high_weight) / tl.maximum(low_count - high_count, 1)
        needed = tl.ceil((wanted - high_weight) / tl.maximum(tie, 1e-30))
        ties = tl.minimum(ties, tl.maximum(tl.minimum(needed, 1e9), 1.0).to(tl.int32))
    return low, high, ties


@triton.jit
def _kept(value, low, high, ties, before, min_p, best, inverse):
    """Return the weights of the kept values, 0 for the others, and the ties so far. before: the ties before these."""
    tied = ((value >= low) & (value < high)).to(tl.int32)
    first = before + tl.cumsum(tied, axis=0) <= ties
    weight = tl.exp((value - best) * inverse)
    kept = ((value >= high) | ((tied > 0) & first)) & (weight >= min_p)
    return tl.where(kept, weight, 0.0), before + tl.sum(tied, axis=0)


@triton.jit
def _weight(values, size, low, high, ties, min_p, best, inverse):
    """Return the weight of the kept values."""
    total, tied = 0.0, 0
    for start in range(0, size, CHUNK):
        at = start + tl.arange(0, CHUNK)
        value = _load(values + at, at < size)
        weight, tied = _kept(value, low, high, ties, tied, min_p, best, inverse)
        total += tl.sum(weight, axis=0)
    return total


@triton.jit
def _invert(values, size, target, low, high, ties, min_p, best, inverse):
    """Return the first index of a kept value up to which the kept values weigh more than `target`."""
    total, tied, first, last = 0.0, 0, size, 0
    for start in range(0, size, CHUNK):
        at = start + tl.arange(0, CHUNK)
        value = _load(values + at, at < size)
        weight, tied = _kept(value, low, high, ties, tied, min_p, best, inverse)
        reached = (weight > 0) & (total + tl.cumsum(weight, axis=0) > target)
        first = tl.minimum(first, tl.min(tl.where(reached, at, size), axis=0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, at, 0), axis=0))
        total += tl.sum(weight, axis=0)
    # Two sums of the same weights may differ in their last bits.
    return tl.where(first < size, first, last)


@triton.jit
def draw(
    logits, parameters, numbers, slots, maxima, positions, sums, faults, sizes, listed, ids,
    drawn, finite, last_tokens, row_stride, V, capacity,
    CHUNKS: tl.constexpr, BLOCK: tl.constexpr, RANKED: tl.constexpr,
):  # fmt: skip
    """Write each row's token and whether its logits are finite."""
    row = tl.program_id(0)
    inverse, top_k, top_p, min_p, ranked = _parameters(parameters, row, V)
    chunk = tl.arange(0, BLOCK)
    peaks, best = _peaks(maxima, row, CHUNKS, BLOCK)
    if inverse > 0:
        number = tl.load(numbers + row)
        weights = _chunk_weights(peaks, sums, row, best, inverse, CHUNKS, BLOCK)
        total = tl.sum(weights, axis=0)
        start = _row(logits, row_stride)
        reached = (weights > 0) & (tl.cumsum(weights, axis=0) > number * total)
        first = tl.min(tl.where(reached, chunk, BLOCK), axis=0)
        last = tl.max(tl.where(weights > 0, chunk, 0), axis=0)
        chosen = tl.where(first < BLOCK, first, last)
        target = number * total - tl.sum(tl.where(chunk < chosen, weights, 0.0), axis=0)
        offset = chosen * CHUNK
        # A ranked row skips this at once.
        size = tl.where(ranked & RANKED, 0, tl.minimum(V - offset, CHUNK))
        lowest = float("-inf")
        token = offset + _invert(start + offset, size, target, lowest, lowest, 0, 0.0, best, inverse)
        if RANKED:
            if ranked:
                size = tl.load(sizes + row)
                own = row.to(tl.int64) * capacity
                values = listed + own
                whole = size < 0
                if whole:
                    values, size = start, V
                low, high, ties = _threshold(values, size, total, top_k, top_p, best, inverse)
                kept = _weight(values, size, low, high, ties, min_p, best, inverse)
                token = _invert(values, size, number * kept, low, high, ties, min_p, best, inverse)
                token = tl.load(ids + own + token, mask=whole == 0, other=token)
    else:
        found = tl.load(positions + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=V)
        token = tl.min(tl.where(peaks == tl.max(peaks, axis=0), found, V), axis=0)
    token = tl.minimum(token, V - 1)
    fault = tl.max(tl.load(faults + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0), axis=0)
    fine = (fault == 0) & (tl.max(peaks, axis=0) > float("-inf"))
    tl.store(drawn + row, token.to(drawn.dtype.element_ty))
    tl.store(finite + row, fine.to(finite.dtype.element_ty))
    slot = tl.load(slots + row)
    tl.store(last_tokens + slot, token.to(last_tokens.dtype.element_ty), mask=slot >= 0)


# Whatever the width of a bitmask: the same program.
@triton.jit(do_not_specialize=["words_stride", "size"])
def mask_row(logits, rows, words, row_stride, words_stride, size, V, BLOCK: tl.constexpr):
    """Set the logits of a row to -inf whose bit in the row's words is 0, or which have no bit."""
    index = tl.program_id(0)
    position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = position // 32
    bits = tl.load(words + index * words_stride + word, mask=word < size, other=0)
    denied = ((bits >> (position % 32)) & 1) == 0
    start = logits + tl.load(rows + index).to(tl.int64) * row_stride
    tl.store(start + position, float("-inf"), mask=denied & (position < V))


# However many tokens there are: the same program.
@triton.jit(do_not_specialize=["ids_at", "values_at"])
def adjust_row(logits, words, last_tokens, row_stride, ids_at, values_at, BLOCK: tl.constexpr):
    """Add the biases of a row to its logits, then apply its penalties. words: from `sampling.packed_adjustments`.

    The token that the step before samples counts as one more, once that step has written it to last_tokens.
    """
    head = words + tl.program_id(0) * HEAD
    start = logits + tl.load(head).to(tl.int64) * row_stride
    biases, penalties, end = tl.load(head + 1), tl.load(head + 2), tl.load(head + 3)
    repetition = tl.load(head + 4).to(tl.float32, bitcast=True)
    frequency = tl.load(head + 5).to(tl.float32, bitcast=True)
    presence = tl.load(head + 6).to(tl.float32, bitcast=True)
    slot = tl.load(head + 7)
    pending = tl.load(last_tokens + slot, mask=slot >= 0, other=-1)
    for first in range(biases, penalties, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < penalties
        token = start + tl.load(words + ids_at + place, mask=inside, other=0)
        bias = tl.load(words + values_at + place, mask=inside, other=0).to(tl.float32, bitcast=True)
        tl.store(token, tl.load(token, mask=inside, other=0.0) + bias, mask=inside)
    tl.debug_barrier()  # another thread may have added the bias of a token that has a penalty as well
    found = tl.zeros([BLOCK], tl.int32)
    for first in range(penalties, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < end
        ids = tl.load(words + ids_at + place, mask=inside, other=0)
        again = (inside & (ids == pending)).to(tl.int32)
        found += again
        count = tl.load(words + values_at + place, mask=inside, other=0).to(tl.float32, bitcast=True) + again
        seen = _penalized(tl.load(start + ids, mask=inside, other=0.0), count, repetition, frequency, presence)
        tl.store(start + ids, seen, mask=inside)
    new = (pending >= 0) & (tl.sum(found) == 0)
    token = start + tl.maximum(pending, 0)
    seen = tl.load(token, mask=new, other=0.0)
    tl.store(token, _penalized(seen, new.to(tl.float32), repetition, frequency, presence), mask=new)


@triton.jit
def _penalized(logit, count, repetition, frequency, presence):
    """Return the logits of tokens that are so often in the answer; count: 0 for those of the prompt alone."""
    logit = tl.where(logit < 0, logit * repetition, logit / repetition)
    return logit - tl.where(count > 0, frequency * count + presence, 0.0)
