/* Attention of decode rows over their slots, and causal attention of prompt chunks. */
#include "kernels.h"

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

/* scores [LANES] of a query [dim] with the keys at LANES positions from `first`; positions beyond `last` repeat the key
 * at `last`. dim is a constant when inlined. */
INLINE void score(const float *query, const float *keys, float *scores, long first, long last, const long dim) {
    vec sums[LANES];
#pragma GCC unroll 16
    for (long l = 0; l < LANES; l++) {
        const float *key = keys + (first + l < last ? first + l : last) * dim;
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

/* Weighted sum: adds to out [heads, dim] the values at positions `first` to `end`, weighted by weights
 * [heads, (stride)]. heads and dim are constants when inlined. */
INLINE void weighted_sum(const float *weights, long stride, const float *values, float *out, long first, long end,
                         const long heads, const long dim) {
    vec sums[2 * WIDEST / LANES];
    const long parts = dim / LANES;
#pragma GCC unroll 16
    for (long i = 0; i < heads * parts; i++) sums[i] = *(const vec *)(out + i * LANES);
    for (long p = first; p < end; p++)
#pragma GCC unroll 2
        for (long h = 0; h < heads; h++)
#pragma GCC unroll 8
            for (long i = 0; i < parts; i++)
                sums[h * parts + i] += weights[h * stride + p] * *(const vec *)(values + p * dim + i * LANES);
#pragma GCC unroll 16
    for (long i = 0; i < heads * parts; i++) *(vec *)(out + i * LANES) = sums[i];
}

/* Attention out [group, dim] of queries q [group, dim] that share keys and values [length, dim]. scores: scratch memory
 * [group, (stride)]; next: the keys to prefetch after these. dim, a multiple of LANES, is a constant when inlined. */
INLINE void attend_head(const float *q, const float *keys, const float *values, const float *next, float *out,
                        float *scores, long group, long length, long stride, const long dim) {
    const float scale = 1.0f / sqrtf((float)dim);
    const long ahead = AHEAD / dim < length ? AHEAD / dim : length;
    for (long first = 0; first < length; first += LANES) {
        for (long p = first; p < first + LANES && p < length; p++)
            prefetch(p + ahead < length ? keys + (p + ahead) * dim : values + (p + ahead - length) * dim, dim);
        for (long g = 0; g < group; g++)
            score(q + g * dim, keys, scores + g * stride + first, first, length - 1, dim);
    }
    float factors[group];
    for (long g = 0; g < group; g++) factors[g] = softmax(scores + g * stride, length, scale);
    for (long i = 0; i < group * dim; i++) out[i] = 0.0f;
    for (long first = 0; first < length; first += LANES) {
        long end = first + LANES < length ? first + LANES : length, g = 0;
        for (long p = first; p < end; p++)
            prefetch(p + ahead < length ? values + (p + ahead) * dim : next + (p + ahead - length) * dim, dim);
        for (; g + 2 <= group; g += 2)
            weighted_sum(scores + g * stride, stride, values, out + g * dim, first, end, 2, dim);
        if (g < group) weighted_sum(scores + g * stride, stride, values, out + g * dim, first, end, 1, dim);
    }
    for (long g = 0; g < group; g++)
        for (long i = 0; i < dim; i += LANES) *(vec *)(out + g * dim + i) *= factors[g];
}

/* `attend_head`, specialized for the usual head sizes. */
static void attend_any_head(const float *q, const float *keys, const float *values, const float *next, float *out,
                            float *scores, long group, long length, long stride, long dim) {
    if (dim == 64) attend_head(q, keys, values, next, out, scores, group, length, stride, 64);
    else if (dim == 128) attend_head(q, keys, values, next, out, scores, group, length, stride, 128);
    else attend_head(q, keys, values, next, out, scores, group, length, stride, dim);
}

/* Attention of rows of one token each over their slots: out [rows, kv_heads * group * dim] for q [rows, (stride)].
 * cache: one layer, [slots, 2, kv_heads, capacity, dim]; slots, lengths: [rows]; scores: scratch memory
 * [threads, group, longest]. */
void attend(const float *q, const float *cache, const long *slots, const long *lengths, float *out, float *scores,
            long rows, long stride, long kv_heads, long group, long dim, long capacity, long longest, long threads) {
    const long heads = rows * kv_heads, half = kv_heads * capacity * dim, width = group * dim;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long i = 0; i < heads; i++) {
        long row = i / kv_heads, head = i % kv_heads, following = i + 1 < heads ? i + 1 : i;
        const float *keys = cache + slots[row] * 2 * half + head * capacity * dim;
        const float *next = cache + slots[following / kv_heads] * 2 * half + following % kv_heads * capacity * dim;
        float *scratch = scores + omp_get_thread_num() * group * longest;
        attend_any_head(q + row * stride + head * width, keys, keys + half, next, out + i * width, scratch, group,
                        lengths[row], longest, dim);
    }
}

/* Returns the number of floats of scratch memory that `attend_chunk` needs per thread. */
long chunk_scratch(long length, long dim) {
    long padded = (length + COLS - 1) / COLS * COLS, wide = (dim + COLS - 1) / COLS * COLS;
    return padded * dim + length * wide + TOKENS * padded + TOKENS * COLS;
}

/* Packs x [rows, dim] into panels [dim / COLS, rows, COLS], padded with zeros after the last column. */
static void pack_columns(const float *x, float *panels, long rows, long dim) {
    for (long first = 0; first < dim; first += COLS)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < COLS; c++)
                *panels++ = first + c < dim ? x[row * dim + first + c] : 0.0f;
}

/* y [rows, COLS] (ldy) = x [rows, in] (ldx) panel [in, COLS], for operands that are in the L1 and L2 caches. */
static void small_gemm(const float *x, long ldx, const float *panel, float *y, long ldy, long rows, long in) {
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH;
        for (long row = 0; row < rows; row += ROWS)
            tile(rows - row < ROWS ? rows - row : ROWS, x + row * ldx + k, ldx, panel + k * COLS, depth, y + row * ldy,
                 ldy, k > 0, NULL, NULL, 0);
    }
}

/* Causal attention of `count` tokens after `start` earlier ones in their slot: out [count, (out_stride)] for
 * q [count, (stride)]. cache: the slot in one layer, [2, kv_heads, capacity, dim]; scratch:
 * [threads, chunk_scratch]. */
void attend_chunk(const float *q, const float *cache, float *out, float *scratch, long start, long count, long stride,
                  long out_stride, long kv_heads, long group, long dim, long capacity, long threads) {
    const long length = start + count, padded = (length + COLS - 1) / COLS * COLS;
    const long wide = (dim + COLS - 1) / COLS * COLS, size = chunk_scratch(length, dim);
    const float scale = 1.0f / sqrtf((float)dim);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long head = 0; head < kv_heads; head++) {
        float *keys = scratch + omp_get_thread_num() * size, *packed = keys + padded * dim;
        float *scores = packed + length * wide, *part = scores + TOKENS * padded;
        const float *values = cache + (kv_heads + head) * capacity * dim;
        float factors[TOKENS];
        pack(cache + head * capacity * dim, keys, length, dim, 1);
        if (dim != COLS) pack_columns(values, packed, length, dim);
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
                small_gemm(scores, padded, dim == COLS ? values : packed + c * length, part, COLS, tokens, reach);
                for (long t = 0; t < tokens; t++)
                    for (long d = c; d < dim && d < c + COLS; d++)
                        out[(first + t) * out_stride + query_head * dim + d] = part[t * COLS + d - c] * factors[t];
            }
        }
    }
}
