/* Causal attention of prompt chunks in which queries, keys, values and the weights of the softmax are rounded to bfloat16,
 * for processors that multiply it; products are summed as floats, and the softmax is one of floats. */
#include "attention.h"
#include "packed.h"

#if defined(__AVX512BF16__)

typedef unsigned short word;

/* Rounds 2 * LANES floats, to even; NaN stays NaN. */
INLINE __m512i rounded(vec low, vec high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

/* Rounds x [n] to y; n is a multiple of 2 * LANES. */
INLINE void round_all(const float *x, word *y, long n) {
    for (long i = 0; i < n; i += 2 * LANES)
        _mm512_storeu_si512(y + i, rounded(*(const vec *)(x + i), *(const vec *)(x + i + LANES)));
}

/* Packs the keys of `length` tokens into panels [length / HCOLS, dim / 2, HCOLS, 2]. Columns beyond `length` may hold
 * anything: their scores are not used. */
static void pack_keys(const float *keys, const int *blocks, long stride, word *panels, long length, long dim) {
    for (long first = 0; first < length; first += LANES) {
        const float *from = keys + blocks[first / BLOCK] * stride + first % BLOCK * dim;
        word *panel = panels + first / HCOLS * HCOLS * dim + first % HCOLS * 2;
        for (long i = 0; i < dim; i += 2 * LANES) {
            vec pairs[LANES];
#pragma GCC unroll 16
            for (long r = 0; r < LANES; r++)
                pairs[r] = (vec)rounded(*(const vec *)(from + r * dim + i), *(const vec *)(from + r * dim + i + LANES));
            transpose(pairs);
#pragma GCC unroll 16
            for (long r = 0; r < LANES; r++) *(vec *)(panel + (i + 2 * r) * HCOLS) = pairs[r];
        }
    }
}

/* Packs the values of `length` tokens into panels [dim / HCOLS, padded / 2, HCOLS, 2], with zeros after the last token. */
static void pack_values(const float *values, const int *blocks, long stride, word *panels, long length, long padded,
                        long dim) {
    for (long row = 0; row < padded; row += 2) {
        const float *from = row < length ? values + blocks[row / BLOCK] * stride + row % BLOCK * dim : NULL;
        for (long i = 0; i < dim; i += LANES) {
            vec first = from ? *(const vec *)(from + i) : (vec){0};
            vec second = row + 1 < length ? *(const vec *)(from + dim + i) : (vec){0};
            __m512i both = rounded(first, second), places = _mm512_setr_epi32(
                0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007,
                0x180008, 0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
            word *panel = panels + i / HCOLS * HCOLS * padded + i % HCOLS * 2;
            _mm512_storeu_si512(panel + row * HCOLS, _mm512_permutexvar_epi16(places, both));
        }
    }
}

/* Returns 2^x for x <= 0, to 2^-14 of it, by a polynomial of the part after the point. NaN stays NaN. */
INLINE __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-150.0f), x); /* of minus infinity no part would be left; NaN is the second one */
    __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    __m512 series = _mm512_fmadd_ps(part, _mm512_set1_ps(0.0096181291f), _mm512_set1_ps(0.0555041087f));
    series = _mm512_fmadd_ps(series, part, _mm512_set1_ps(0.2402265070f));
    series = _mm512_fmadd_ps(series, part, _mm512_set1_ps(0.6931471806f));
    series = _mm512_fmadd_ps(series, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(series, whole);
}

/* The softmax of scores [seen]: writes its weights, not normalized and rounded to bfloat16, zeros after them up to
 * `length` in whole panels, and returns the reciprocal of their sum. scale: of a score, to the base of two. */
static float weigh(const float *scores, word *weights, long seen, long length, float scale) {
    const __m512 factor = _mm512_set1_ps(scale), none = _mm512_set1_ps(-INFINITY);
    const long whole = seen / LANES * LANES;
    const __mmask16 rest = (__mmask16)((1u << (seen - whole)) - 1);
    const __m512 last = _mm512_mask_loadu_ps(none, rest, scores + whole);
    __m512 highest = _mm512_max_ps(last, none), total = _mm512_setzero_ps(); /* NaN is never the highest */
    for (long i = 0; i < whole; i += LANES) highest = _mm512_max_ps(_mm512_loadu_ps(scores + i), highest);
    highest = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    for (long i = 0; i < whole; i += LANES) {
        __m512 part = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), highest), factor));
        _mm256_storeu_si256((__m256i *)(weights + i), (__m256i)_mm512_cvtneps_pbh(part));
        total = _mm512_add_ps(total, part);
    }
    for (long i = whole; i < length; i += LANES) _mm256_storeu_si256((__m256i *)(weights + i), _mm256_setzero_si256());
    __m512 part = _mm512_maskz_mov_ps(rest, power_of_two(_mm512_mul_ps(_mm512_sub_ps(last, highest), factor)));
    if (rest) _mm256_storeu_si256((__m256i *)(weights + whole), (__m256i)_mm512_cvtneps_pbh(part));
    return 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(total, part));
}

/* What one head reads, and its scratch memory: panels of keys and values, and for TOKENS rows their rounded queries
 * [dim], scores [padded] and rounded weights [padded]. padded: the length, in whole panels. */
typedef struct {
    word *keys, *values, *queries, *weights;
    float *scores;
    long padded, dim;
} Head;

static Head head_of(float *scratch, long length, long dim) {
    Head h = {.padded = (length + HCOLS - 1) / HCOLS * HCOLS, .dim = dim, .keys = (word *)scratch};
    h.values = h.keys + h.padded * dim;
    h.queries = h.values + h.padded * dim;
    h.weights = h.queries + TOKENS * dim;
    h.scores = (float *)(h.weights + TOKENS * h.padded);
    return h;
}

/* Attention of `tokens` queries q [tokens, dim] (stride), the first at position `at`: out [tokens, dim] (out_stride). No
 * product is computed of a panel of keys that a row does not see, nor of most of the weights that are zero. */
static void attend_rows(const Head *h, const float *q, long stride, float *out, long out_stride, long at, long tokens) {
    const float scale = 1.44269504f / sqrtf((float)h->dim); /* weights are powers of two */
    float factors[TOKENS];
    for (long t = 0; t < tokens; t++) round_all(q + t * stride, h->queries + t * h->dim, h->dim);
    for (long c = 0; c < at + tokens; c += HCOLS) {
        long t = c > at ? c - at : 0;
        half_product(h->queries + t * h->dim, h->dim, h->keys + c * h->dim, h->scores + t * h->padded + c, h->padded,
                     tokens - t, h->dim);
    }
    for (long t = 0; t < tokens; t++)
        factors[t] = weigh(h->scores + t * h->padded, h->weights + t * h->padded, at + t + 1, at + tokens, scale);
    for (long c = 0; c < h->dim; c += HCOLS)
        for (long t = 0; t < tokens; t += HROWS) {
            long rows = smaller(HROWS, tokens - t), depth = (at + t + rows + 1) / 2 * 2;
            half_product(h->weights + t * h->padded, h->padded, h->values + c * h->padded, out + t * out_stride + c,
                         out_stride, rows, depth);
        }
    for (long t = 0; t < tokens; t++)
        for (long d = 0; d < h->dim; d += LANES) *(vec *)(out + t * out_stride + d) *= factors[t];
}

long rounded_scratch(long length, long dim) {
    long padded = (length + HCOLS - 1) / HCOLS * HCOLS;
    return padded * dim + TOKENS * (dim + padded) / 2 + TOKENS * padded;
}

void attend_rounded(const float *q, const float *cache, const int *blocks, float *out, float *scratch, long start,
                    long count, long stride, long out_stride, long kv_heads, long group, long dim, long threads) {
    const long length = start + count, block = 2 * kv_heads * BLOCK * dim, size = rounded_scratch(length, dim);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long head = 0; head < kv_heads; head++) {
        const Head h = head_of(scratch + omp_get_thread_num() * size, length, dim);
        pack_keys(cache + head * BLOCK * dim, blocks, block, h.keys, length, dim);
        pack_values(cache + (kv_heads + head) * BLOCK * dim, blocks, block, h.values, length, h.padded, dim);
        for (long first = 0; first < count; first += TOKENS)
            for (long own = head * group; own < (head + 1) * group; own++)
                attend_rows(&h, q + first * stride + own * dim, stride, out + first * out_stride + own * dim,
                            out_stride, start + first, smaller(TOKENS, count - first));
    }
}

#endif
