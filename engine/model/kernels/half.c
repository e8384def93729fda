/* Linear layers with weights of 16 bits, bfloat16 or half floats, and x and y as floats. Decoding is bound by reading the
 * weights, which take half of what floats take; they become floats in registers. Where the processor multiplies
 * bfloat16, prompts are multiplied so: x is rounded to bfloat16 then, products are summed as floats.
 *
 * A panel holds HCOLS columns, for each pair of consecutive inputs one vector of words after the other. In it the two
 * weights of a column are side by side, as products of bfloat16 read them; of half floats, those of the first input come
 * before those of the second.
 */
#include "packed.h"

enum {
    PAIRS = FLOAT32,    /* the kind of a GEMM of weights and x in bfloat16; else that of the weights */
    HDEPTH = 512,       /* inputs of a panel that stay in the L1 cache while all rows of x pass over them */
    PAIRS_DEPTH = 2048, /* the same of products of bfloat16, which take no longer from the L2 cache */
    PAIRS_PANELS = 2    /* panels, for which such products of many rows read x once */
};

#if defined(__AVX512F__)
typedef __m512i words;
#define LOAD_WORDS(from) _mm512_loadu_si512(from)
#define FIRST_BFLOAT16(w) ((vec)_mm512_slli_epi32(w, 16))
#define SECOND_BFLOAT16(w) ((vec)_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)))
#define FIRST_HALF(w) ((vec)_mm512_cvtph_ps(_mm512_castsi512_si256(w)))
#define SECOND_HALF(w) ((vec)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(w, 1)))
#else
typedef __m256i words;
#define LOAD_WORDS(from) _mm256_loadu_si256((const __m256i *)(from))
#define FIRST_BFLOAT16(w) ((vec)_mm256_slli_epi32(w, 16))
#define SECOND_BFLOAT16(w) ((vec)_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)))
#define FIRST_HALF(w) ((vec)_mm256_cvtph_ps(_mm256_castsi256_si128(w)))
#define SECOND_HALF(w) ((vec)_mm256_cvtph_ps(_mm256_extracti128_si256(w, 1)))
#endif

/* Returns how many inputs a panel has room for: they come in pairs. */
INLINE long padded_to(long in) { return (in + 1) / 2 * 2; }

/* Returns the number of 16-bit words that a packed weight [out, in] takes. */
long half_words(long out, long in) { return (out + HCOLS - 1) / HCOLS * HCOLS * padded_to(in); }

/* Returns the number of columns of a panel. */
long half_columns(void) { return HCOLS; }

/* Returns where the weight of column c and input k of a panel is, in words. */
INLINE long word_at(long c, long k, long kind) {
    long vector = (k / 2 * HVECTORS + c / LANES) * LANES * 2, lane = c % LANES, second = k % 2;
    return vector + (kind == BFLOAT16 ? lane * 2 + second : second * LANES + lane);
}

/* Packs weight [out, in] of 16-bit words of a kind into panels; what is beyond it is zero. */
void half_pack(const unsigned short *weight, unsigned short *packed, long out, long in, long kind, long threads) {
    long padded = padded_to(in);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long first = 0; first < out; first += HCOLS)
        for (long k = 0; k < padded; k++)
            for (long c = 0; c < HCOLS; c++)
                packed[first * padded + word_at(c, k, kind)] =
                    first + c < out && k < in ? weight[(first + c) * in + k] : 0;
}

/* Writes the rows `ids` [count] of the weight as floats to y [count, in]. */
void half_rows(const unsigned short *packed, const long *ids, float *y, long count, long in, long kind) {
    long padded = padded_to(in);
    for (long row = 0; row < count; row++) {
        const unsigned short *panel = packed + ids[row] / HCOLS * HCOLS * padded;
        for (long k = 0; k < in; k++) y[row * in + k] = stored(panel, word_at(ids[row] % HCOLS, k, kind), kind);
    }
}

/* Rounds x [rows, in] to bfloat16, to even, in pairs [rows, in / 2, 2]; NaN stays NaN. */
static void to_bfloat16(const float *x, unsigned short *rounded, long rows, long in) {
    long padded = padded_to(in);
    for (long row = 0; row < rows; row++) {
        unsigned short *to = rounded + row * padded;
        long k = 0;
#if defined(__AVX512BF16__)
        for (; k + LANES <= in; k += LANES)
            _mm256_storeu_si256((__m256i *)(to + k), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + row * in + k)));
#endif
#pragma omp simd
        for (long i = k; i < in; i++) {
            unsigned int bits = ((const unsigned int *)(x + row * in))[i];
            unsigned int even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            to[i] = (unsigned short)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : even);
        }
        if (in < padded) to[in] = 0;
    }
}

/* Returns whether bfloat16 is multiplied as such. */
long half_multiplies(void) {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

/* Returns the prefetch distance in a panel, in words, for a GEMM of so many rows. Measured on an EPYC (Zen 4): in between
 * the prefetches disturb those of the processor, and it takes up to twice as long. */
INLINE long words_ahead(long rows) {
    if (VECTORS == 4) return rows <= HROWS ? 256 : 16384; /* AVX-512 */
    return rows == 1 ? 1024 : 4096;
}

/* A tile: y [rows, HCOLS] (ldy), for constant rows and kind. x: floats [rows, (ldx)], or pairs of bfloat16 where they are
 * multiplied. What is `ahead` is prefetched. */
INLINE void half_tile(const long rows, const long kind, const float *x, long ldx, const unsigned short *w, long depth,
                      float *y, long ldy, int more, const float *bias, long ahead) {
    vec sums[HROWS][HVECTORS];
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (long v = 0; v < HVECTORS; v++) {
            sums[r][v] = more ? *(const vec *)(y + r * ldy + v * LANES) : (vec){0};
            if (bias) sums[r][v] += *(const vec *)(bias + v * LANES);
        }
    for (long k = 0; k < depth; k += 2) {
        words weights[HVECTORS];
#pragma GCC unroll 2
        for (long v = 0; v < HVECTORS; v++) {
            const unsigned short *from = w + (k * HCOLS + v * LANES * 2);
            weights[v] = LOAD_WORDS(from);
            __builtin_prefetch(from + ahead, 0, 2);
        }
#if defined(__AVX512BF16__)
        if (kind == PAIRS) {
#pragma GCC unroll 6
            for (long r = 0; r < rows; r++) {
                int pair;
                memcpy(&pair, (const unsigned short *)x + r * ldx + k, 4);
#pragma GCC unroll 2
                for (long v = 0; v < HVECTORS; v++)
                    sums[r][v] = (vec)_mm512_dpbf16_ps((__m512)sums[r][v], (__m512bh)weights[v],
                                                       (__m512bh)_mm512_set1_epi32(pair));
            }
            continue;
        }
#endif
#pragma GCC unroll 2
        for (long second = 0; second < 2; second++) {
            if (second && k + 1 == depth) break;
            vec part[HVECTORS];
#pragma GCC unroll 2
            for (long v = 0; v < HVECTORS; v++)
                if (kind == BFLOAT16) part[v] = second ? SECOND_BFLOAT16(weights[v]) : FIRST_BFLOAT16(weights[v]);
                else part[v] = second ? SECOND_HALF(weights[v]) : FIRST_HALF(weights[v]);
#pragma GCC unroll 6
            for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
                for (long v = 0; v < HVECTORS; v++) sums[r][v] += x[r * ldx + k + second] * part[v];
        }
    }
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (long v = 0; v < HVECTORS; v++) *(vec *)(y + r * ldy + v * LANES) = sums[r][v];
}

#define HTILE(R) \
    case R: \
        if (kind == PAIRS) half_tile(R, PAIRS, x, ldx, w, depth, y, ldy, more, bias, ahead); \
        else if (kind == BFLOAT16) half_tile(R, BFLOAT16, x, ldx, w, depth, y, ldy, more, bias, ahead); \
        else half_tile(R, FLOAT16, x, ldx, w, depth, y, ldy, more, bias, ahead); \
        break;

static void half_part(long rows, long kind, const float *x, long ldx, const unsigned short *w, long depth, float *y,
                      long ldy, int more, const float *bias, long ahead) {
    switch (rows) { HTILE(1) HTILE(2) HTILE(3) HTILE(4) HTILE(5) HTILE(6) }
}

void half_product(const unsigned short *x, long ldx, const unsigned short *panel, float *y, long ldy, long rows,
                  long depth) {
    long blocks = (rows + HROWS - 1) / HROWS;
    for (long block = 0, row = 0; block < blocks; block++) {
        long count = rows / blocks + (block < rows % blocks);
        half_part(count, PAIRS, (const float *)(x + row * ldx), ldx, panel, depth, y + row * ldy, ldy, 0, NULL, 0);
        row += count;
    }
}

/* Returns x from an element on. */
INLINE const float *from_element(const float *x, long at, long kind) {
    return kind == PAIRS ? (const float *)((const unsigned short *)x + at) : x + at;
}

/* All rows of so many panels; a part of them stays in the cache while they pass. */
static void half_panels(const float *x, long kind, const unsigned short *first, long panels, const float *bias,
                        float *y, long ldy, long rows, long in, int add) {
    long blocks = (rows + HROWS - 1) / HROWS, depth_of = blocks == 1 ? in : kind == PAIRS ? PAIRS_DEPTH : HDEPTH;
    long padded = padded_to(in), ldx = kind == PAIRS ? padded : in, ahead = words_ahead(rows);
    for (long k = 0; k < in; k += depth_of) {
        long depth = in - k < depth_of ? in - k : depth_of;
        for (long block = 0, row = 0; block < blocks; block++) {
            long count = rows / blocks + (block < rows % blocks);
            const float *from = from_element(x, row * ldx + k, kind);
            for (long column = 0; column < panels * HCOLS; column += HCOLS)
                half_part(count, kind, from, ldx, first + column * padded + k * HCOLS, depth, y + row * ldy + column,
                          ldy, add || k, k || !bias ? NULL : bias + column, ahead);
            row += count;
        }
    }
}

/* y [rows, out] = x [rows, in] W^T, plus y if `add`, plus bias (padded to whole panels) if not NULL. kind: of
 * the weights. rounded: scratch of rows * (in + 1) words where bfloat16 is multiplied, else NULL. */
void half_gemm(const float *x, const unsigned short *packed, const float *bias, float *y, unsigned short *rounded,
               long rows, long out, long in, long kind, int add, long threads) {
    if (rounded) {
        to_bfloat16(x, rounded, rows, in);
        x = (const float *)rounded, kind = PAIRS;
    }
    long ldx = kind == PAIRS ? padded_to(in) : in;
    const long at_once = kind == PAIRS && rows > HROWS ? PAIRS_PANELS : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long first = 0; first < out; first += at_once * HCOLS) {
        long whole = (out - first) / HCOLS, panels = whole < at_once ? whole : at_once;
        const unsigned short *panel = packed + first * padded_to(in);
        half_panels(x, kind, panel, panels, bias ? bias + first : NULL, y + first, out, rows, in, add);
        long last = first + panels * HCOLS, columns = out - last;
        if (panels == at_once || !columns) continue;
        float part[HROWS * HCOLS]; /* the last panel is wider than the rest of y */
        for (long row = 0; row < rows; row += HROWS) {
            long count = rows - row < HROWS ? rows - row : HROWS;
            float *target = y + row * out + last;
            if (add) copy_block(target, out, part, HCOLS, count, columns);
            half_panels(from_element(x, row * ldx, kind), kind, packed + last * padded_to(in), 1,
                        bias ? bias + last : NULL, part, HCOLS, count, in, add);
            copy_block(part, HCOLS, target, out, count, columns);
        }
    }
}
