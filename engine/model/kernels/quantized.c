/* Linear layers with weights of 8 or 4 bits. Every GROUP consecutive weights of an output column share one scale, a
 * bfloat16, which has the range of a float; weights are quantized by the rounded scale, so its few digits cost nothing.
 * So do every GROUP consecutive values of a row of x, which is quantized to 8 bits for the GEMM. Within a group
 * products and sums are whole numbers, exact and in any order; the sums of the groups are added in one order, so a row's
 * result does not depend on the other rows.
 *
 * A panel holds QCOLS columns as one record for each group: their scales, then their weights, those of four consecutive
 * inputs side by side, as the processor's dot product of bytes reads them. Weights are stored without a sign: an offset
 * of 128 for 8 bits, of 8 for 4 bits, is taken from the sums again. 4 bits: a byte holds the weights of inputs k (low)
 * and k + 4 (high).
 */
#include <float.h>

#include "packed.h"

enum {
    GROUP = 32,              /* values that share a scale */
    QVECTORS = 2,            /* vectors of columns in a panel */
    QCOLS = LANES * QVECTORS, /* columns of a panel */
    QROWS = 6,               /* rows of a tile */
    SCALES = QCOLS * 2,      /* bytes of the scales of a record */
    FOURS = GROUP / 4,       /* steps of four inputs in a group */
    NOT_A_SCALE = 0x7FC0     /* a NaN */
};

#if defined(__AVX512F__)
typedef __m512i ints;
#define LOAD(from) _mm512_loadu_si512(from)
#define SAME(word) _mm512_set1_epi32(word)
#define SCALE_OF(from) ((vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from))), 16))
#define FLOATS(whole) ((vec)_mm512_cvtepi32_ps(whole))
#define LOW(bytes) _mm512_and_si512(bytes, _mm512_set1_epi8(15))
#define HIGH(bytes) _mm512_and_si512(_mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15))
#else
typedef __m256i ints;
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define SAME(word) _mm256_set1_epi32(word)
#define SCALE_OF(from) ((vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from))), 16))
#define FLOATS(whole) ((vec)_mm256_cvtepi32_ps(whole))
#define LOW(bytes) _mm256_and_si256(bytes, _mm256_set1_epi8(15))
#define HIGH(bytes) _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15))
#endif

/* Keeps the compiler from adding later terms to each other before they are added to this sum: it would run out of
 * registers. */
#define IN_TURN(sum) __asm__("" : "+v"(sum))

/* Sums of products of weights of 4 bits without a sign, and signed bytes of x. Without an instruction for four of them,
 * each half of a lane sums those of two inputs: it has room for a whole group, and what does not fit on the way there
 * wraps around and back. */
INLINE ints start_4(int value) {
#if defined(__AVX512VNNI__)
    return SAME(value);
#else
    return SAME(value & 0xffff);
#endif
}

/* Adds the products of four weights, and four bytes of x, to each lane of `sum`. */
INLINE ints add_products_4(ints sum, ints weights, ints x) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sum, weights, x);
#elif defined(__AVX512F__)
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(weights, x));
#else
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, x));
#endif
}

/* Returns the sums, a whole lane each. */
INLINE ints sums_4(ints sum) {
#if defined(__AVX512VNNI__)
    return sum;
#elif defined(__AVX512F__)
    return _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
#else
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
#endif
}

/* Adds products like `add_products_4`, of weights of 8 bits, offset by 128, to whole lanes. Where two products may not fit 16 bits, the offset is taken off first
 * and the sign is moved to x; `OFFSET_8` is what then is left of it. */
#if defined(__AVX512VNNI__)
enum { OFFSET_8 = 128 };
#else
enum { OFFSET_8 = 0 };
#endif
INLINE ints add_products_8(ints sum, ints weights, ints x) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sum, weights, x);
#elif defined(__AVX512F__)
    ints w = _mm512_xor_si512(weights, _mm512_set1_epi8((char)128));
    ints signed_x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x),
                                                   _mm512_set1_epi16(1)));
#else
    ints w = _mm256_xor_si256(weights, _mm256_set1_epi8((char)128));
    ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

/* Returns the number of groups of `in` values. */
INLINE long groups_of(long in) { return (in + GROUP - 1) / GROUP; }

/* Returns the bytes of a record with weights of `bits`. */
INLINE long record_bytes(long bits) { return SCALES + QCOLS * GROUP * bits / 8; }

/* Returns the number of bytes that a weight [out, in] of `bits` takes. */
long quantized_bytes(long out, long in, long bits) {
    return (out + QCOLS - 1) / QCOLS * groups_of(in) * record_bytes(bits);
}

/* Returns the number of columns of a panel. */
long quantized_columns(void) { return QCOLS; }

/* Returns a scale as the nearest bfloat16; 0 where its inverse would be no finite number. It is off by 2^-8 at most, so 127
 * stays within half a level of the weight that it stands for. */
INLINE unsigned short scale_bits(float scale) {
    unsigned int bits;
    if (fabsf(scale) < FLT_MIN) return 0;
    memcpy(&bits, &scale, 4);
    return (unsigned short)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Returns the squared error of w [GROUP] at this scale, and writes the weights at it [GROUP], from -low to high. */
static float at_scale(const float *w, float scale, int low, int high, signed char *whole) {
    float error = 0.0f, inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (long i = 0; i < GROUP; i++) {
        float n = nearbyintf(w[i] * inverse);
        n = n < -low ? -low : n > high ? high : n;
        whole[i] = (signed char)n;
        error += (w[i] - n * scale) * (w[i] - n * scale);
    }
    return error;
}

/* Quantizes w [GROUP]: returns the scale, a bfloat16, and writes whole numbers [GROUP]. Eight bits: of -127 to 127, the
 * largest of w at an end. Four bits: of -8 to 7, the largest of w near -8 or beyond it, whichever of some scales loses
 * least; the scale is then the one that fits these whole numbers best, by least squares. These are computed of w relative
 * to its largest, so that no square overflows. Returns NaN, and zeros, for any weight that is no finite number. */
static unsigned short quantize_group(float *w, long bits, signed char *whole) {
    float largest = 0.0f, of_largest = 0.0f, not_finite = 0.0f;
    for (long i = 0; i < GROUP; i++) {
        not_finite += 0.0f * w[i];
        if (fabsf(w[i]) > largest) largest = fabsf(w[i]), of_largest = w[i];
    }
    memset(whole, 0, GROUP);
    if (not_finite != 0.0f) return NOT_A_SCALE;
    if (bits == 8) {
        unsigned short scale = scale_bits(largest / 127.0f);
        at_scale(w, stored(&scale, 0, BFLOAT16), 127, 127, whole);
        return scale;
    }
    if (largest == 0.0f) return 0;
    float least = INFINITY, products = 0.0f, squares = 0.0f;
    signed char tried[GROUP];
    for (long i = 0; i < GROUP; i++) w[i] /= of_largest;
    for (float divisor = -7.5f; divisor >= -9.0f; divisor -= 0.5f) {
        float error = at_scale(w, 1.0f / divisor, 8, 7, tried);
        if (!(error < least)) continue;
        least = error;
        memcpy(whole, tried, GROUP);
    }
    for (long i = 0; i < GROUP; i++) {
        products += w[i] * whole[i];
        squares += (float)(whole[i] * whole[i]);
    }
    return scale_bits(products / squares * of_largest);
}

/* Writes one record: the weights of `columns` columns from `first` on, of the inputs of one group. Returns how many of
 * them have weights that are no finite numbers. */
static long pack_record(const void *weight, long kind, unsigned char *record, long first, long out, long group, long in,
                        long bits) {
    memset(record, 0, SCALES);
    unsigned char *bytes = record + SCALES;
    long damaged = 0;
    for (long c = 0; c < QCOLS; c++) {
        float w[GROUP];
        signed char whole[GROUP];
        for (long i = 0; i < GROUP; i++) {
            long k = group * GROUP + i;
            w[i] = first + c < out && k < in ? stored(weight, (first + c) * in + k, kind) : 0.0f;
        }
        unsigned short scale = quantize_group(w, bits, whole);
        damaged += scale == NOT_A_SCALE;
        memcpy(record + c * 2, &scale, 2);
        for (long i = 0; i < GROUP; i++) {
            if (bits == 8) {
                bytes[(i / 4 * QCOLS + c) * 4 + i % 4] = (unsigned char)(whole[i] + 128);
            } else {
                unsigned char *byte = bytes + (i / 8 * QCOLS + c) * 4 + i % 4;
                *byte = i % 8 < 4 ? (unsigned char)(whole[i] + 8) : (unsigned char)(*byte | (whole[i] + 8) << 4);
            }
        }
    }
    return damaged;
}

/* Quantizes a weight [out, in] of values of a kind to panels of records. Returns how many groups have weights that are no
 * finite numbers; what is multiplied by them is NaN. */
long quantize(const void *weight, unsigned char *panels, long kind, long out, long in, long bits, long threads) {
    long groups = groups_of(in), record = record_bytes(bits), damaged = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(+ : damaged)
    for (long first = 0; first < out; first += QCOLS)
        for (long group = 0; group < groups; group++) {
            unsigned char *to = panels + (first / QCOLS * groups + group) * record;
            damaged += pack_record(weight, kind, to, first, out, group, in, bits);
        }
    return damaged;
}

/* Writes the rows `ids` [count] of the weight as floats to y [count, in]. */
void quantized_rows(const unsigned char *panels, const long *ids, float *y, long count, long in, long bits) {
    long groups = groups_of(in), record = record_bytes(bits);
    for (long row = 0; row < count; row++) {
        long c = ids[row] % QCOLS;
        for (long group = 0; group < groups; group++) {
            const unsigned char *from = panels + (ids[row] / QCOLS * groups + group) * record, *bytes = from + SCALES;
            float scale = stored(from, c, BFLOAT16);
            for (long i = 0; i < GROUP && group * GROUP + i < in; i++) {
                int whole = bits == 8 ? bytes[(i / 4 * QCOLS + c) * 4 + i % 4] - 128
                                      : (bytes[(i / 8 * QCOLS + c) * 4 + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15) - 8;
                y[row * in + group * GROUP + i] = scale * (float)whole;
            }
        }
    }
}

/* Quantizes x [rows, in] by groups to `whole` [rows, groups, GROUP] with `scales` and `sums`, both [rows, groups]. */
void quantize_rows(const float *x, signed char *whole, float *scales, int *sums, long rows, long in, long threads) {
    long groups = groups_of(in);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * in > MANY)
    for (long row = 0; row < rows; row++)
        for (long group = 0; group < groups; group++) {
            float w[GROUP] = {0}, largest = 0.0f, sum = 0.0f;
            long at = row * groups + group, count = in - group * GROUP;
            memcpy(w, x + row * in + group * GROUP, (count < GROUP ? count : GROUP) * sizeof(float));
#pragma omp simd reduction(max : largest) reduction(+ : sum)
            for (long i = 0; i < GROUP; i++) {
                float size = fabsf(w[i]);
                largest = size > largest ? size : largest;
                sum += w[i];
            }
            float inverse = 127.0f / largest;
            if (!(inverse < INFINITY)) inverse = 0.0f; /* zeros, and values that are as good as zero */
            int total = 0;
#pragma omp simd reduction(+ : total)
            for (long i = 0; i < GROUP; i++) {
                const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
                float rounded = (w[i] * inverse + magic) - magic;
                int n = rounded == rounded ? (int)rounded : 0;
                whole[at * GROUP + i] = (signed char)n;
                total += n;
            }
            scales[at] = largest / 127.0f + 0.0f * sum; /* NaN for any value that is no finite number, so that it shows */
            sums[at] = total;
        }
}

/* Returns the prefetch distance in a panel, in bytes, for a GEMM of so many rows. Measured on an EPYC (Zen 4): near ones
 * take up to four fifths longer from some number of rows on with AVX-512, far ones below it and with AVX2. */
INLINE long bytes_ahead(long rows, long bits) {
    if (VECTORS == 4) return rows < (bits == 8 ? 5 : 3) ? 64 : 16384; /* AVX-512 */
    return 1024;
}

/* A tile: y [rows, QCOLS] (ldy), for constant rows and bits. whole, scales, sums: of the first row. What is `ahead` is
 * prefetched. */
INLINE void quantized_tile(const long rows, const long bits, const signed char *whole, const float *scales,
                           const int *sums, const unsigned char *panel, long groups, float *y, long ldy, int more,
                           const float *bias, long ahead) {
    vec totals[QROWS][QVECTORS];
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (long v = 0; v < QVECTORS; v++) {
            totals[r][v] = more ? *(const vec *)(y + r * ldy + v * LANES) : (vec){0};
            if (bias) totals[r][v] += *(const vec *)(bias + v * LANES);
        }
    for (long group = 0; group < groups; group++) {
        const unsigned char *bytes = panel + SCALES;
        ints parts[QROWS][QVECTORS];
#pragma GCC unroll 6
        for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (long v = 0; v < QVECTORS; v++)
                parts[r][v] = bits == 8 ? SAME(-OFFSET_8 * sums[r * groups + group])
                                        : start_4(-8 * sums[r * groups + group]);
#pragma GCC unroll 8
        for (long k = 0; k < FOURS; k++) {
            ints weights[QVECTORS];
#pragma GCC unroll 2
            for (long v = 0; v < QVECTORS; v++) {
                if (bits == 8) weights[v] = LOAD(bytes + (k * QCOLS + v * LANES) * 4);
                else if (k % 2 == 0) weights[v] = LOW(LOAD(bytes + (k / 2 * QCOLS + v * LANES) * 4));
                else weights[v] = HIGH(LOAD(bytes + (k / 2 * QCOLS + v * LANES) * 4));
            }
#pragma GCC unroll 6
            for (long r = 0; r < rows; r++) {
                int word;
                memcpy(&word, whole + (r * groups + group) * GROUP + k * 4, 4);
#pragma GCC unroll 2
                for (long v = 0; v < QVECTORS; v++) {
                    parts[r][v] = bits == 8 ? add_products_8(parts[r][v], weights[v], SAME(word))
                                            : add_products_4(parts[r][v], weights[v], SAME(word));
                    IN_TURN(parts[r][v]);
                }
            }
        }
#pragma GCC unroll 2
        for (long v = 0; v < QVECTORS; v++) {
            vec scale = SCALE_OF(panel + v * LANES * 2);
#pragma GCC unroll 6
            for (long r = 0; r < rows; r++)
                totals[r][v] += FLOATS(bits == 8 ? parts[r][v] : sums_4(parts[r][v])) *
                                (scale * scales[r * groups + group]);
        }
        panel += record_bytes(bits);
        for (long line = 0; line < record_bytes(bits) / 64; line++)
            __builtin_prefetch(panel + ahead + line * 64, 0, 2);
    }
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (long v = 0; v < QVECTORS; v++) *(vec *)(y + r * ldy + v * LANES) = totals[r][v];
}

#define QTILE(R) \
    case R: \
        if (bits == 8) quantized_tile(R, 8, whole, scales, sums, panel, groups, y, ldy, more, bias, ahead); \
        else quantized_tile(R, 4, whole, scales, sums, panel, groups, y, ldy, more, bias, ahead); \
        break;

static void quantized_panel(long rows, long bits, const signed char *whole, const float *scales, const int *sums,
                            const unsigned char *panel, long groups, float *y, long ldy, int more, const float *bias,
                            long ahead) {
    switch (rows) { QTILE(1) QTILE(2) QTILE(3) QTILE(4) QTILE(5) QTILE(6) }
}

/* y [rows, out] = x W^T, plus y if `add`, plus bias (padded to whole panels) if not NULL; x as `quantize_rows` wrote it. */
void quantized_gemm(const signed char *whole, const float *scales, const int *sums, const unsigned char *panels,
                    const float *bias, float *y, long rows, long out, long in, long bits, int add, long threads) {
    long groups = groups_of(in), record = record_bytes(bits);
    long blocks = (rows + QROWS - 1) / QROWS, ahead = bytes_ahead(rows, bits);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long first = 0; first < out; first += QCOLS) {
        const unsigned char *panel = panels + first / QCOLS * groups * record;
        const float *panel_bias = bias ? bias + first : NULL;
        for (long block = 0, row = 0; block < blocks; block++) {
            long count = rows / blocks + (block < rows % blocks);
            const signed char *at = whole + row * groups * GROUP;
            const float *at_scales = scales + row * groups;
            const int *at_sums = sums + row * groups;
            float *target = y + row * out + first;
            if (first + QCOLS <= out) {
                quantized_panel(count, bits, at, at_scales, at_sums, panel, groups, target, out, add, panel_bias,
                                ahead);
            } else { /* the last panel is wider than the rest of y */
                float part[QROWS * QCOLS];
                if (add) copy_block(target, out, part, QCOLS, count, out - first);
                quantized_panel(count, bits, at, at_scales, at_sums, panel, groups, part, QCOLS, add, panel_bias,
                                ahead);
                copy_block(part, QCOLS, target, out, count, out - first);
            }
            row += count;
        }
    }
}
