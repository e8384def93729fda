/* Attention of decode rows, and causal attention of prompt chunks, over the blocks of a paged KV cache. The keys, or the
 * values, of one head are [BLOCK, dim] at base + block * stride; `blocks` is the table of a sequence. */
#include "attention.h"

#include "layers.h"

/* Softmax without normalization: replaces scores [n] by e^((score - highest) * scale), pads with zeros to a multiple of
 * LANES, and returns the reciprocal of the sum. */
INLINE float softmax(float *scores, long n, float scale) {
    vec highest = {0}, total = {0};
    highest += scores[0];
    for (long i = n; i % LANES; i++) scores[i] = -INFINITY;
    for (long i = 0; i < n; i += LANES) {
        vec part = *(vec *)(scores + i);
        highest = choose(part > highest, part, highest);
    }
    float maximum = highest[0], sum = 0.0f;
    for (long l = 1; l < LANES; l++) maximum = highest[l] > maximum ? highest[l] : maximum;
    for (long i = 0; i < n; i += LANES) {
        vec part = exponential((*(vec *)(scores + i) - maximum) * scale);
        *(vec *)(scores + i) = part;
        total += part;
    }
    for (long l = 0; l < LANES; l++) sum += total[l];
    return 1.0f / sum;
}

/* Horizontal add: returns the sums of adjacent lanes, those of a in the first half, those of b in the second. */
INLINE vec horizontal_add(vec a, vec b) {
    mask even, odd;
    for (int l = 0; l < LANES; l++) {
        even[l] = 2 * l;
        odd[l] = 2 * l + 1;
    }
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

/* Tokens [count, dim] that are read later: what reads as many now prefetches one of them with each of its own, since what
 * is asked for in a burst, it waits for. */
typedef struct {
    const float *from;
    long count;
} later;

/* scores [LANES] of a query [dim] with the keys at LANES offsets of a block from `first`; offsets beyond `last` repeat
 * the key at `last`. Prefetches `ahead`. dim is a constant when inlined. */
INLINE void score(const float *query, const float *keys, float *scores, long first, long last, later ahead,
                  const long dim) {
    vec sums[LANES];
#pragma GCC unroll 16
    for (long l = 0; l < LANES; l++) {
        const float *key = keys + (first + l < last ? first + l : last) * dim;
        if (l < ahead.count) prefetch(ahead.from + l * dim, dim);
        sums[l] = *(const vec *)query * *(const vec *)key;
#pragma GCC unroll 8
        for (long i = LANES; i < dim; i += LANES) sums[l] += *(const vec *)(query + i) * *(const vec *)(key + i);
    }
#pragma GCC unroll 4
    for (long width = LANES; width > 1; width /= 2)
#pragma GCC unroll 8
        for (long l = 0; l < width / 2; l++) sums[l] = horizontal_add(sums[2 * l], sums[2 * l + 1]);
    *(vec *)scores = sums[0];
}

/* Weighted sum: adds to out [heads, dim] the first `count` values [(count), dim], weighted by weights
 * [heads, (stride)]. Prefetches `ahead`. heads and dim are constants when inlined. */
INLINE void weighted_sum(const float *weights, long stride, const float *values, float *out, long count,
                         later ahead, const long heads, const long dim) {
    vec sums[2 * WIDEST / LANES];
    const long parts = dim / LANES;
#pragma GCC unroll 16
    for (long i = 0; i < heads * parts; i++) sums[i] = *(const vec *)(out + i * LANES);
    for (long p = 0; p < count; p++) {
        if (p < ahead.count) prefetch(ahead.from + p * dim, dim);
#pragma GCC unroll 2
        for (long h = 0; h < heads; h++)
#pragma GCC unroll 8
            for (long i = 0; i < parts; i++)
                sums[h * parts + i] += weights[h * stride + p] * *(const vec *)(values + p * dim + i * LANES);
    }
#pragma GCC unroll 16
    for (long i = 0; i < heads * parts; i++) *(vec *)(out + i * LANES) = sums[i];
}

/* What attention reads: the first `length` tokens of a sequence, for one key head. */
typedef struct {
    const float *keys, *values;
    const int *blocks;
    long length;
} span;

/* Returns up to LANES tokens, from `part` of its block on, of what is read `ahead` blocks after the start of `from`: its
 * keys, its values, then the keys of `next`. */
INLINE later tokens_ahead(const span *from, const span *next, long ahead, long part, long stride, const long dim) {
    const long count = (from->length + BLOCK - 1) / BLOCK;
    const float *base = ahead < count ? from->keys : from->values;
    if (ahead >= count) ahead -= count;
    if (ahead >= count) {
        ahead -= count;
        from = next;
        base = next->keys;
    }
    long tokens = smaller(from->length - ahead * BLOCK - part, LANES);
    return tokens > 0 ? (later){base + from->blocks[ahead] * stride + part * dim, tokens} : (later){NULL, 0};
}

/* Attention out [group, dim] of queries q [group, dim] that share a key head. scores: scratch memory
 * [group, (width)]; next: what is read after this. dim, a multiple of LANES, is a constant when inlined. */
INLINE void attend_head(const float *q, const span *own, const span *next, long stride, float *out, float *scores,
                        long group, long width, const long dim) {
    const float scale = 1.0f / sqrtf((float)dim);
    const long count = (own->length + BLOCK - 1) / BLOCK;
    for (long b = 0; b < count; b++) {
        const float *block = own->keys + own->blocks[b] * stride;
        long tokens = smaller(own->length - b * BLOCK, BLOCK);
        for (long part = 0; part < tokens; part += LANES) {
            later ahead = tokens_ahead(own, next, b + AHEAD, part, stride, dim);
            for (long g = 0; g < group; g++) {
                score(q + g * dim, block, scores + g * width + b * BLOCK + part, part, tokens - 1, ahead, dim);
                ahead.count = 0;
            }
        }
    }
    float factors[group];
    for (long g = 0; g < group; g++) factors[g] = softmax(scores + g * width, own->length, scale);
    for (long i = 0; i < group * dim; i++) out[i] = 0.0f;
    for (long b = 0; b < count; b++) {
        const float *block = own->values + own->blocks[b] * stride;
        long tokens = smaller(own->length - b * BLOCK, BLOCK);
        for (long part = 0; part < tokens; part += LANES) {
            const float *weights = scores + b * BLOCK + part, *values = block + part * dim;
            long n = smaller(tokens - part, LANES), g = 0;
            later ahead = tokens_ahead(own, next, count + b + AHEAD, part, stride, dim);
            for (; g + 2 <= group; g += 2) {
                weighted_sum(weights + g * width, width, values, out + g * dim, n, ahead, 2, dim);
                ahead.count = 0;
            }
            if (g < group) weighted_sum(weights + g * width, width, values, out + g * dim, n, ahead, 1, dim);
        }
    }
    for (long g = 0; g < group; g++)
        for (long i = 0; i < dim; i += LANES) *(vec *)(out + g * dim + i) *= factors[g];
}

/* `attend_head`, specialized for the usual head sizes. */
static void attend_any_head(const float *q, const span *own, const span *next, long stride, float *out, float *scores,
                            long group, long width, long dim) {
    if (dim == 64) attend_head(q, own, next, stride, out, scores, group, width, 64);
    else if (dim == 128) attend_head(q, own, next, stride, out, scores, group, width, 128);
    else attend_head(q, own, next, stride, out, scores, group, width, dim);
}

/* Attention of rows of one token each: out [rows, kv_heads * group * dim] for q [rows, (stride)].
 * cache: one layer, [blocks, 2, kv_heads, BLOCK, dim]; tables: [slots, (columns)]; slots, lengths: [rows]; scores:
 * scratch memory [threads, group, width]. */
void attend(const float *q, const float *cache, const int *tables, const long *slots, const long *lengths, float *out,
            float *scores, long rows, long stride, long kv_heads, long group, long dim, long columns, long width,
            long threads) {
    const long heads = rows * kv_heads, half = kv_heads * BLOCK * dim;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long i = 0; i < heads; i++) {
        long following = i + 1 < heads ? i + 1 : i;
        span spans[2];
        for (long s = 0; s < 2; s++) {
            long row = (s ? following : i) / kv_heads, head = (s ? following : i) % kv_heads;
            const float *keys = cache + head * BLOCK * dim;
            spans[s] = (span){keys, keys + half, tables + slots[row] * columns, lengths[row]};
        }
        float *scratch = scores + omp_get_thread_num() * group * width;
        attend_any_head(q + i / kv_heads * stride + i % kv_heads * group * dim, spans, spans + 1, 2 * half,
                        out + i * group * dim, scratch, group, width, dim);
    }
}

/* Returns whether a chunk that is to be multiplied in bfloat16 is. */
INLINE int is_rounded(int rounded, long dim) { return ROUNDED && rounded && dim % (2 * LANES) == 0; }

/* Returns the number of floats of scratch memory that `attend_chunk` needs per thread. */
long chunk_scratch(long length, long dim, int rounded) {
    if (is_rounded(rounded, dim)) return rounded_scratch(length, dim);
    long padded = (length + COLS - 1) / COLS * COLS, wide = (dim + COLS - 1) / COLS * COLS;
    return padded * dim + length * wide + TOKENS * padded + TOKENS * COLS;
}

/* Packs the keys of `length` tokens into panels [length / COLS, dim, COLS]. Columns beyond `length` may hold anything:
 * their scores are not used. */
static void pack_keys(const float *keys, const int *blocks, long stride, float *panels, long length, long dim) {
    for (long first = 0; first < (length + COLS - 1) / COLS * COLS; first += LANES) {
        const float *from = first < length ? keys + blocks[first / BLOCK] * stride + first % BLOCK * dim : NULL;
        float *panel = panels + first / COLS * COLS * dim + first % COLS;
        for (long i = 0; i < dim; i += LANES) {
            vec rows[LANES];
#pragma GCC unroll 16
            for (long r = 0; r < LANES; r++) rows[r] = from ? *(const vec *)(from + r * dim + i) : (vec){0};
            if (from) transpose(rows);
#pragma GCC unroll 16
            for (long r = 0; r < LANES; r++) *(vec *)(panel + (i + r) * COLS) = rows[r];
        }
    }
}

/* Packs the values of `length` tokens into panels [dim / COLS, length, COLS], padded with zeros after the last column. */
static void pack_values(const float *values, const int *blocks, long stride, float *panels, long length, long dim) {
    for (long column = 0; column < dim; column += COLS)
        for (long row = 0; row < length; row++) {
            const float *from = values + blocks[row / BLOCK] * stride + row % BLOCK * dim + column;
            long count = dim - column < COLS ? dim - column : COLS;
#pragma omp simd
            for (long c = 0; c < count; c++) panels[c] = from[c];
            for (long c = count; c < COLS; c++) panels[c] = 0.0f;
            panels += COLS;
        }
}

/* y [rows, COLS] (ldy) = x [rows, in] (ldx) panel [in, COLS], for operands that are in the L1 and L2 caches. */
static void small_gemm(const float *x, long ldx, const float *panel, float *y, long ldy, long rows, long in) {
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH;
        for (long row = 0; row < rows; row += ROWS)
            tile(rows - row < ROWS ? rows - row : ROWS, x + row * ldx + k, ldx, panel + k * COLS, depth,
                 k ? y + row * ldy : NULL, ldy, y + row * ldy, ldy, NULL, NULL, 0, 0);
    }
}

/* Causal attention of `count` tokens after `start` earlier ones of their sequence: out [count, (out_stride)] for
 * q [count, (stride)]. cache: one layer, [blocks, 2, kv_heads, BLOCK, dim]; blocks: the table; scratch:
 * [threads, chunk_scratch]; rounded: whether to multiply in bfloat16, where the processor does. */
void attend_chunk(const float *q, const float *cache, const int *blocks, float *out, float *scratch, long start,
                  long count, long stride, long out_stride, long kv_heads, long group, long dim, int rounded,
                  long threads) {
    if (is_rounded(rounded, dim)) {
        attend_rounded(q, cache, blocks, out, scratch, start, count, stride, out_stride, kv_heads, group, dim, threads);
        return;
    }
    const long length = start + count, padded = (length + COLS - 1) / COLS * COLS, block = 2 * kv_heads * BLOCK * dim;
    const long wide = (dim + COLS - 1) / COLS * COLS, size = chunk_scratch(length, dim, 0);
    const float scale = 1.0f / sqrtf((float)dim);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long head = 0; head < kv_heads; head++) {
        float *keys = scratch + omp_get_thread_num() * size, *values = keys + padded * dim;
        float *scores = values + length * wide, *part = scores + TOKENS * padded;
        float factors[TOKENS];
        pack_keys(cache + head * BLOCK * dim, blocks, block, keys, length, dim);
        pack_values(cache + (kv_heads + head) * BLOCK * dim, blocks, block, values, length, dim);
        for (long i = 0; i < group * ((count + TOKENS - 1) / TOKENS); i++) {
            long query_head = head * group + i % group, first = i / group * TOKENS;
            long tokens = count - first < TOKENS ? count - first : TOKENS, reach = start + first + tokens;
            for (long c = 0; c < reach; c += COLS)
                small_gemm(q + first * stride + query_head * dim, stride, keys + c * dim, scores + c, padded, tokens,
                           dim);
            for (long t = 0; t < tokens; t++) {
                long seen = start + first + t + 1;
                factors[t] = softmax(scores + t * padded, seen, scale);
                for (long p = seen; p < reach; p++) scores[t * padded + p] = 0.0f;
            }
            for (long c = 0; c < dim; c += COLS) {
                small_gemm(scores, padded, values + c * length, part, COLS, tokens, reach);
                for (long t = 0; t < tokens; t++)
                    for (long d = c; d < dim && d < c + COLS; d++)
                        out[(first + t) * out_stride + query_head * dim + d] = part[t * COLS + d - c] * factors[t];
            }
        }
    }
}
