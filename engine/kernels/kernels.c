/* What a step computes on a processor in float32, where torch leaves time: one core is bound by what it reads from
 * memory (weights, keys, values), so each kernel fetches ahead what it will need while it computes, and goes over a
 * row once. All tensors are contiguous float32 in row-major order unless a stride says otherwise; indices are counted
 * in elements; `threads` is the number of OpenMP threads to use. Nothing is kept between calls.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#else
enum { LANES = 8, VECTORS = 2 };
#endif
enum {
    ROWS = 6,                   /* rows of a tile; ROWS x VECTORS accumulators and VECTORS weights fit the registers */
    COLS = LANES * VECTORS,     /* columns of a tile, and of a panel of packed weights */
    DEPTH = 128,                /* rows of a panel that stay in the first cache while all rows of x pass over them */
    MANY_BLOCKS = 24,           /* blocks of rows among which fetching is shared out */
    LINE = 16,                  /* floats in a cache line */
    LINES = COLS / LINE,        /* cache lines in a row of a panel */
    AHEAD = 1024,               /* floats: how far attention fetches ahead */
    WIDEST = 256,               /* the largest head */
    TOKENS = 48,                /* tokens of a chunk whose scores are in the cache together */
    MANY = 1 << 14              /* elements from which more than one thread pays */
};
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int mask __attribute__((vector_size(LANES * sizeof(int))));

/* Fetches `count` floats from memory, for soon. */
INLINE void fetch(const float *from, long count) {
    for (long i = 0; i < count; i += LINE) __builtin_prefetch(from + i, 0, 2);
}

/* Returns the number of columns that a panel has: packed weights are padded to a multiple of it. */
long panel_columns(void) { return COLS; }

/* Packs weight [out, in] into panels [out / COLS, in, COLS]; columns beyond `out` are zero. */
void pack(const float *weight, float *packed, long out, long in, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long panel = 0; panel < (out + COLS - 1) / COLS; panel++)
        for (long i = 0; i < in; i++)
            for (long c = 0; c < COLS; c++) {
                long column = panel * COLS + c;
                packed[(panel * in + i) * COLS + c] = column < out ? weight[column * in + i] : 0.0f;
            }
}

/* y [rows, COLS] (ldy) = x [rows, depth] (ldx) w [depth, COLS], plus y where `more`, plus bias where there is one.
 * Meanwhile fetches `lines` cache lines a row of w from `next` on. Everything but depth is a constant where inlined. */
INLINE void tile(const long rows, const float *x, long ldx, const float *w, long depth, float *y, long ldy, int more,
                 const float *bias, const float *next, const long lines) {
    vec sums[ROWS][VECTORS];
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++) {
            sums[r][v] = more ? *(const vec *)(y + r * ldy + v * LANES) : (vec){0};
            if (bias) sums[r][v] += *(const vec *)(bias + v * LANES);
        }
    for (long k = 0; k < depth; k++) {
        vec weights[VECTORS];
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++) weights[v] = *(const vec *)(w + k * COLS + v * LANES);
#pragma GCC unroll 4
        for (long l = 0; l < lines; l++) __builtin_prefetch(next + (k * lines + l) * LINE, 0, 2);
#pragma GCC unroll 6
        for (long r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (long v = 0; v < VECTORS; v++) sums[r][v] += x[r * ldx + k] * weights[v];
    }
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++) *(vec *)(y + r * ldy + v * LANES) = sums[r][v];
}

#define TILE(R, L) tile(R, x, ldx, w, depth, y, ldy, more, bias, next, L)
#define TILES(R) \
    case R: \
        if (lines == 0) TILE(R, 0); \
        else if (lines == 1) TILE(R, 1); \
        else if (lines == 2) TILE(R, 2); \
        else TILE(R, 4); \
        break;

static void any_tile(long rows, const float *x, long ldx, const float *w, long depth, float *y, long ldy, int more,
                     const float *bias, const float *next, long lines) {
    switch (rows) { TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) }
}

/* One panel of a product: y [rows, COLS] (ldy). While a part of the weights is in use, the next one is fetched: by a
 * few blocks of rows as they go, or by many, before each, so that memory is never asked for much at once. */
static void panel_product(const float *x, const float *panel, const float *bias, float *y, long ldy, long rows,
                          long in, int add) {
    long blocks = (rows + ROWS - 1) / ROWS, each = rows / blocks, longer = rows % blocks;
    long fetching = blocks < LINES ? blocks : blocks < MANY_BLOCKS ? LINES : 0;
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH, row = 0;
        const float *w = panel + k * COLS, *next = w + DEPTH * COLS;
        for (long block = 0; block < blocks; block++) {
            long count = each + (block < longer);
            long lines = block < fetching ? LINES * (block + 1) / fetching - LINES * block / fetching : 0;
            any_tile(count, x + row * in + k, in, w, depth, y + row * ldy, ldy, add || k > 0, k ? NULL : bias, next,
                     lines);
            next += lines * depth * LINE;
            if (!fetching) {
                long share = DEPTH * COLS / blocks;
                fetch(next, share);
                next += share;
            }
            row += count;
        }
    }
}

/* y [rows, out] = x [rows, in] W^T, plus y where `add`, plus bias (padded to whole panels) where there is one. */
void product(const float *x, const float *packed, const float *bias, float *y, long rows, long out, long in, int add,
             long threads) {
    if (rows == 0) return;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long first = 0; first < out; first += COLS) {
        const float *panel = packed + first * in, *own_bias = bias ? bias + first : NULL;
        if (first + COLS <= out) {
            panel_product(x, panel, own_bias, y + first, out, rows, in, add);
            continue;
        }
        float part[ROWS * COLS]; /* the last panel sticks out of y */
        for (long row = 0; row < rows; row += ROWS) {
            long count = rows - row < ROWS ? rows - row : ROWS;
            float *target = y + row * out + first;
            if (add)
                for (long r = 0; r < count; r++)
                    for (long c = 0; first + c < out; c++) part[r * COLS + c] = target[r * out + c];
            panel_product(x + row * in, panel, own_bias, part, COLS, count, in, add);
            for (long r = 0; r < count; r++)
                for (long c = 0; first + c < out; c++) target[r * out + c] = part[r * COLS + c];
        }
    }
}

/* Returns 1 / sqrt(|x|^2 + eps) of x [n]. */
INLINE float inverse_norm(const float *x, long n, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum + eps);
}

/* y [rows, n] = x / sqrt(|x|^2 + eps), row by row. */
void norm(const float *x, float *y, long rows, long n, float eps, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * n > MANY)
    for (long row = 0; row < rows; row++) {
        const float *from = x + row * n;
        float *to = y + row * n, factor = inverse_norm(from, n, eps);
#pragma omp simd
        for (long i = 0; i < n; i++) to[i] = from[i] * factor;
    }
}

/* Returns `yes` where the mask is set, else `no`. */
INLINE vec choose(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }

/* Returns e^x to about one unit in the last place, 0 below e^-87: x is split into n ln 2 + r, |r| <= ln 2 / 2, and e^r
 * is its Taylor series. What is not a number stays so. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    mask tiny = x < -87.0f;
    x = choose(x > 88.0f, (vec){0} + 88.0f, x);
    vec n = (x * 1.44269504f + magic) - magic;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec series = r * (1.0f / 5040) + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    return choose(tiny, (vec){0}, series * (vec)((__builtin_convertvector(n, mask) + 127) << 23));
}

/* y [rows, n] = silu(from[:, :n]) * from[:, n:] of from [rows, 2 n]. */
void gate(const float *from, float *y, long rows, long n, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * n > MANY)
    for (long row = 0; row < rows; row++) {
        const float *left = from + row * 2 * n, *right = left + n;
        float *to = y + row * n;
        long i = 0;
        for (; i + LANES <= n; i += LANES) {
            vec x = *(const vec *)(left + i);
            *(vec *)(to + i) = x / (1.0f + exponential(-x)) * *(const vec *)(right + i);
        }
        for (; i < n; i++) to[i] = left[i] / (1.0f + expf(-left[i])) * right[i];
    }
}

/* Rotates the pairs of x [dim] in place. same, other: [dim], the cosine of each pair twice, and minus and plus its
 * sine. */
INLINE void rotate(float *x, const float *same, const float *other, long dim) {
    long i = 0;
    for (; i + LANES <= dim; i += LANES) {
        mask swapped;
        for (long l = 0; l < LANES; l++) swapped[l] = (int)(l ^ 1);
        vec pair = *(vec *)(x + i);
        *(vec *)(x + i) = pair * *(const vec *)(same + i) + __builtin_shuffle(pair, swapped) * *(const vec *)(other + i);
    }
    for (; i < dim; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = a * same[i] + b * other[i];
        x[i + 1] = b * same[i + 1] + a * other[i + 1];
    }
}

/* Norms (where there are weights [heads, dim]) and rotates the first `heads` heads of each row of x [rows, (stride)],
 * in place. rotary: [rows, dim / 2] pairs of cosine and sine. */
void turn(float *x, const float *weights, const float *rotary, long rows, long stride, long heads, long dim, float eps,
          long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * heads * dim > MANY)
    for (long row = 0; row < rows; row++) {
        float same[dim], other[dim];
        const float *pairs = rotary + row * dim;
        for (long i = 0; i < dim; i += 2) {
            same[i] = same[i + 1] = pairs[i];
            other[i] = -pairs[i + 1];
            other[i + 1] = pairs[i + 1];
        }
        for (long head = 0; head < heads; head++) {
            float *own = x + row * stride + head * dim;
            if (weights) {
                float factor = inverse_norm(own, dim, eps);
#pragma omp simd
                for (long i = 0; i < dim; i++) own[i] *= factor * weights[head * dim + i];
            }
            rotate(own, same, other, dim);
        }
    }
}

/* Copies the heads of each row of x [rows, (stride)] into the cache: head h of a row to places[row] + h * apart. */
void store(const float *x, float *cache, const long *places, long rows, long stride, long heads, long dim, long apart) {
    for (long row = 0; row < rows; row++)
        for (long head = 0; head < heads; head++) {
            const float *from = x + row * stride + head * dim;
            float *to = cache + places[row] + head * apart;
#pragma omp simd
            for (long i = 0; i < dim; i++) to[i] = from[i];
        }
}

/* Turns scores [n] into weights e^((score - highest) * scale), zeros up to the next multiple of LANES, and returns one
 * over their sum. */
INLINE float weigh(float *scores, long n, float scale) {
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
INLINE vec fold(vec a, vec b) {
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
        for (long l = 0; l < width / 2; l++) sums[l] = fold(sums[2 * l], sums[2 * l + 1]);
    *(vec *)scores = sums[0];
}

/* Adds to out [together, dim] the values from `first` to `end`, each times its weight in weights [together, (room)].
 * together and dim are constants where inlined. */
INLINE void gather(const float *weights, long room, const float *values, float *out, long first, long end,
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
    for (long g = 0; g < group; g++) factors[g] = weigh(scores + g * room, length, scale);
    for (long i = 0; i < group * dim; i++) out[i] = 0.0f;
    for (long first = 0; first < length; first += LANES) {
        long end = first + LANES < length ? first + LANES : length, g = 0;
        for (long p = first; p < end; p++)
            fetch(p + ahead < length ? values + (p + ahead) * dim : after + (p + ahead - length) * dim, dim);
        for (; g + 2 <= group; g += 2) gather(scores + g * room, room, values, out + g * dim, first, end, 2, dim);
        if (g < group) gather(scores + g * room, room, values, out + g * dim, first, end, 1, dim);
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
#ifdef _OPENMP
        float *own = scores + omp_get_thread_num() * group * longest;
#else
        float *own = scores;
#endif
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
static void small_product(const float *x, long ldx, const float *panel, float *y, long ldy, long rows, long in) {
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH;
        for (long row = 0; row < rows; row += ROWS)
            any_tile(rows - row < ROWS ? rows - row : ROWS, x + row * ldx + k, ldx, panel + k * COLS, depth,
                     y + row * ldy, ldy, k > 0, NULL, NULL, 0);
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
            long turn = head * group + i % group, first = i / group * TOKENS;
            long tokens = count - first < TOKENS ? count - first : TOKENS, reach = start + first + tokens;
            for (long c = 0; c < reach; c += COLS)
                small_product(q + first * stride + turn * dim, stride, keys + c * dim, scores + c, padded, tokens, dim);
            for (long t = 0; t < tokens; t++) {
                long seen = start + first + t + 1;
                factors[t] = weigh(scores + t * padded, seen, scale);
                for (long p = seen; p < reach; p++) scores[t * padded + p] = 0.0f;
            }
            for (long c = 0; c < dim; c += COLS) {
                small_product(scores, padded, dim == COLS ? values : packed + c * length, part, COLS, tokens, reach);
                for (long t = 0; t < tokens; t++)
                    for (long d = c; d < dim && d < c + COLS; d++)
                        out[(first + t) * out_stride + turn * dim + d] = part[t * COLS + d - c] * factors[t];
            }
        }
    }
}

/* Returns how many floats of scratch memory `draw` needs for each row. */
long draw_scratch(long n) { return (n + DEPTH - 1) / DEPTH; }

/* Draws one of n tokens for each row of logits [rows, n], which become weights e^((logit - highest) / temperature):
 * the first at which the running sum of weights passes the row's number in [0, 1) times their total. sums: room for
 * [rows, draw_scratch]. */
void draw(float *logits, const float *temperatures, const float *numbers, long *tokens, float *sums, long rows, long n,
          long threads) {
    const long parts = draw_scratch(n);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * n > MANY)
    for (long row = 0; row < rows; row++) {
        float *weights = logits + row * n, *own = sums + row * parts, highest = weights[0];
        const float factor = 1.0f / temperatures[row];
#pragma omp simd reduction(max : highest)
        for (long i = 0; i < n; i++) highest = weights[i] > highest ? weights[i] : highest;
        double total = 0.0, running = 0.0;
        for (long part = 0; part < parts; part++) {
            float *first = weights + part * DEPTH, sum = 0.0f;
            long count = n - part * DEPTH < DEPTH ? n - part * DEPTH : DEPTH, i = 0;
            for (; i + LANES <= count; i += LANES)
                *(vec *)(first + i) = exponential((*(vec *)(first + i) - highest) * factor);
            for (; i < count; i++) first[i] = expf((first[i] - highest) * factor);
#pragma omp simd reduction(+ : sum)
            for (long j = 0; j < count; j++) sum += first[j];
            own[part] = sum;
            total += sum;
        }
        const double target = numbers[row] * total;
        long part = 0;
        while (part < parts - 1 && running + own[part] <= target) running += own[part++];
        long token = part * DEPTH, last = token + DEPTH < n ? token + DEPTH - 1 : n - 1;
        tokens[row] = token;
        for (; token <= last && running <= target; token++) { /* a sum may be rounded: never past the last weight */
            running += weights[token];
            if (weights[token] > 0.0f) tokens[row] = token;
        }
    }
}
