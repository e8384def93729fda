/* Attention: rows of one token over what their slots hold, and chunks of prompts. */
#include "kernels.h"

/* Turns scores [n] into weights e^((score - highest) * scale), zeros up to the next multiple of LANES, and returns one
 * over their sum. */
INLINE float softmax(float *scores, long n, float scale) {
    vec highest = {0}, total = {0};
    highest += scores[0];
    for (long i = n; i % LANES; i++) scores[i] = -INFINITY;
    for (long i = 0; i < n; i += LANES) {
        vec own = *(vec *)(scores + i);
        highest = choose(own > highest, own, highest);
    }
    float most = highest[0], sum = 0.0f;
    for (long l = 1; l < LANES; l++) most = highest[l] > most ? highest[l] : most;
    for (long i = 0; i < n; i += LANES) {
        vec own = exponential((*(vec *)(scores + i) - most) * scale);
        *(vec *)(scores + i) = own;
        total += own;
    }
    for (long l = 0; l < LANES; l++) sum += total[l];
    return 1.0f / sum;
}

/* Returns the sums of neighbours: those of a in the first half, those of b in the second. */
INLINE vec horizontal_add(vec a, vec b) {
    mask even, odd;
    for (int l = 0; l < LANES; l++) {
        even[l] = 2 * l;
        odd[l] = 2 * l + 1;
    }
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

/* scores [LANES] of a query [dim] with the keys of LANES positions from `first` on; beyond `last` it repeats that one.
 * dim is a constant where inlined. */
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

/* Adds to out [together, dim] the values from `first` to `end`, each times its weight in weights [together, (room)].
 * together and dim are constants where inlined. */
INLINE void weighted_sum(const float *weights, long room, const float *values, float *out, long first, long end,
                   const long together, const long dim) {
    vec sums[2 * WIDEST / LANES];
    const long parts = dim / LANES;
#pragma GCC unroll 16
    for (long i = 0; i < together * parts; i++) sums[i] = *(const vec *)(out + i * LANES);
    for (long p = first; p < end; p++)
#pragma GCC unroll 2
        for (long g = 0; g < together; g++)
#pragma GCC unroll 8
            for (long i = 0; i < parts; i++)
                sums[g * parts + i] += weights[g * room + p] * *(const vec *)(values + p * dim + i * LANES);
#pragma GCC unroll 16
    for (long i = 0; i < together * parts; i++) *(vec *)(out + i * LANES) = sums[i];
}

/* out [group, dim] of queries q [group, dim] that share keys and values [length, dim]. scores: [group, (room)]; after:
 * what is read next, elsewhere. dim, a multiple of LANES, is a constant where inlined. */
INLINE void attend_head(const float *q, const float *keys, const float *values, const float *after, float *out,
                        float *scores, long group, long length, long room, const long dim) {
    const float scale = 1.0f / sqrtf((float)dim);
    const long ahead = AHEAD / dim < length ? AHEAD / dim : length;
    for (long first = 0; first < length; first += LANES) {
        for (long p = first; p < first + LANES && p < length; p++)
            fetch(p + ahead < length ? keys + (p + ahead) * dim : values + (p + ahead - length) * dim, dim);
        for (long g = 0; g < group; g++)
            score(q + g * dim, keys, scores + g * room + first, first, length - 1, dim);
    }
    float factors[group];
    for (long g = 0; g < group; g++) factors[g] = softmax(scores + g * room, length, scale);
    for (long i = 0; i < group * dim; i++) out[i] = 0.0f;
    for (long first = 0; first < length; first += LANES) {
        long end = first + LANES < length ? first + LANES : length, g = 0;
        for (long p = first; p < end; p++)
            fetch(p + ahead < length ? values + (p + ahead) * dim : after + (p + ahead - length) * dim, dim);
        for (; g + 2 <= group; g += 2) weighted_sum(scores + g * room, room, values, out + g * dim, first, end, 2, dim);
        if (g < group) weighted_sum(scores + g * room, room, values, out + g * dim, first, end, 1, dim);
    }
    for (long g = 0; g < group; g++)
        for (long i = 0; i < dim; i += LANES) *(vec *)(out + g * dim + i) *= factors[g];
}

static void any_head(const float *q, const float *keys, const float *values, const float *after, float *out,
                     float *scores, long group, long length, long room, long dim) {
    if (dim == 64) attend_head(q, keys, values, after, out, scores, group, length, room, 64);
    else if (dim == 128) attend_head(q, keys, values, after, out, scores, group, length, room, 128);
    else attend_head(q, keys, values, after, out, scores, group, length, room, dim);
}

/* Attention of rows of one token each over their slots: out [rows, kv_heads * group * dim] of q [rows, (stride)].
 * cache: one layer, [slots, 2, kv_heads, room, dim]; slots, lengths: [rows]; scores: room for [threads, group,
 * longest]. */
void attend(const float *q, const float *cache, const long *slots, const long *lengths, float *out, float *scores,
            long rows, long stride, long kv_heads, long group, long dim, long room, long longest, long threads) {
    const long heads = rows * kv_heads, half = kv_heads * room * dim, width = group * dim;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long i = 0; i < heads; i++) {
        long row = i / kv_heads, head = i % kv_heads, next = i + 1 < heads ? i + 1 : i;
        const float *keys = cache + slots[row] * 2 * half + head * room * dim;
        const float *after = cache + slots[next / kv_heads] * 2 * half + next % kv_heads * room * dim;
        float *own = scores + omp_get_thread_num() * group * longest;
        any_head(q + row * stride + head * width, keys, keys + half, after, out + i * width, own, group, lengths[row],
                 longest, dim);
    }
}

/* Returns how many floats of scratch memory `attend_chunk` needs for each thread. */
long chunk_scratch(long length, long dim) {
    long padded = (length + COLS - 1) / COLS * COLS, wide = (dim + COLS - 1) / COLS * COLS;
    return padded * dim + length * wide + TOKENS * padded + TOKENS * COLS;
}

/* Lays x [rows, dim] out as panels [dim / COLS, rows, COLS], zeros behind the last column. */
static void pack_columns(const float *x, float *panels, long rows, long dim) {
    for (long first = 0; first < dim; first += COLS)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < COLS; c++)
                *panels++ = first + c < dim ? x[row * dim + first + c] : 0.0f;
}

/* y [rows, COLS] (ldy) = x [rows, in] (ldx) panel [in, COLS], all in the first caches already. */
static void small_gemm(const float *x, long ldx, const float *panel, float *y, long ldy, long rows, long in) {
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH;
        for (long row = 0; row < rows; row += ROWS)
            tile(rows - row < ROWS ? rows - row : ROWS, x + row * ldx + k, ldx, panel + k * COLS, depth, y + row * ldy,
                 ldy, k > 0, NULL, NULL, 0);
    }
}

/* Causal attention of `count` tokens that follow `start` earlier ones in their slot: out [count, (out_stride)] of
 * q [count, (stride)]. cache: the slot in one layer, [2, kv_heads, room, dim]; scratch: [threads, chunk_scratch]. */
void attend_chunk(const float *q, const float *cache, float *out, float *scratch, long start, long count, long stride,
                  long out_stride, long kv_heads, long group, long dim, long room, long threads) {
    const long length = start + count, padded = (length + COLS - 1) / COLS * COLS;
    const long wide = (dim + COLS - 1) / COLS * COLS, size = chunk_scratch(length, dim);
    const float scale = 1.0f / sqrtf((float)dim);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long head = 0; head < kv_heads; head++) {
        float *keys = scratch + omp_get_thread_num() * size, *packed = keys + padded * dim;
        float *scores = packed + length * wide, *part = scores + TOKENS * padded;
        const float *values = cache + (kv_heads + head) * room * dim;
        float factors[TOKENS];
        pack(cache + head * room * dim, keys, length, dim, 1);
        if (dim != COLS) pack_columns(values, packed, length, dim);
        for (long i = 0; i < group * ((count + TOKENS - 1) / TOKENS); i++) {
            long query_head = head * group + i % group, first = i / group * TOKENS;
            long tokens = count - first < TOKENS ? count - first : TOKENS, reach = start + first + tokens;
            for (long c = 0; c < reach; c += COLS)
                small_gemm(q + first * stride + query_head * dim, stride, keys + c * dim, scores + c, padded, tokens, dim);
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
