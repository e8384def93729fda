/* Kernels for the parts of a step in which torch is slow on the CPU. One core is bound by reading memory (weights, keys,
 * values), so each kernel prefetches while it computes and passes over a row once. Tensors are contiguous in row-major
 * order unless a stride is given, and of float32 but for packed weights of fewer bits (packed.h); offsets and strides are
 * in elements; `threads` is the number of OpenMP threads to use. The kernels hold no state between calls.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <math.h>
#include <omp.h>
#include <stddef.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#else
enum { LANES = 8, VECTORS = 2 };
#endif
enum {
    ROWS = 6,                   /* rows of a tile; ROWS x VECTORS accumulators and VECTORS weights fit the registers */
    FEW = VECTORS == 4 ? 5 : 3, /* rows */
    COLS = LANES * VECTORS,     /* columns of a tile, and of a panel of packed weights */
    DEPTH = 128,                /* rows of a panel that stay in the L1 cache while all rows of x pass over them */
    NEAR = 1024,                /* floats: prefetch distance in a panel for one row; measured on an AMD EPYC (Zen 4) */
    CLOSE = 320,                /* for 2 to FEW rows: farther on it takes up to six tenths longer there */
    FAR = 2048,                 /* for the other numbers of rows of one tile */
    BAND = 192,                 /* rows of a GEMM whose unfinished sums stay in the cache */
    LINE = 16,                  /* floats in a cache line */
    LINES = COLS / LINE,        /* cache lines in a row of a panel */
    BLOCK = 16,                 /* tokens in a block of the KV cache, a multiple of LANES */
    AHEAD = 2,                  /* blocks: prefetch distance of attention */
    WIDEST = 256,               /* the largest supported head size */
    TOKENS = 48,                /* tokens of a chunk whose scores fit the cache together */
    MANY = 1 << 14              /* elements above which several threads are faster than one */
};
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int mask __attribute__((vector_size(LANES * sizeof(int))));

/* Prefetches `count` floats. */
INLINE void prefetch(const float *from, long count) {
    for (long i = 0; i < count; i += LINE) __builtin_prefetch(from + i, 0, 2);
}

/* Copies a block [rows, columns] from one matrix to another; ldf, ldt: the strides of their rows. */
INLINE void copy_block(const float *from, long ldf, float *to, long ldt, long rows, long columns) {
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) to[r * ldt + c] = from[r * ldf + c];
}

/* Returns `yes` in lanes where the mask is set, else `no`. */
INLINE vec choose(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }

/* Returns e^r for |r| <= ln 2 / 2 by its Taylor series. */
INLINE vec power_series(vec r) {
    vec series = r * (1.0f / 5040) + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    return series * r + 1.0f;
}

/* Returns e^x to about one unit in the last place, 0 for x < -87: x = n ln 2 + r with |r| <= ln 2 / 2. NaN stays
 * NaN. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    mask tiny = x < -87.0f;
    x = choose(x > 88.0f, (vec){0} + 88.0f, x);
    vec n = (x * 1.44269504f + magic) - magic;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    return choose(tiny, (vec){0}, power_series(r) * (vec)((__builtin_convertvector(n, mask) + 127) << 23));
}

void pack(const float *weight, float *packed, long out, long in, long threads);

/* One tile of a GEMM: y [rows, COLS] (ldy) = x [rows, depth] (ldx) w [depth, COLS] for up to ROWS rows, plus
 * from [rows, COLS] (ldf) and bias [COLS] if not NULL. Per row of w it prefetches `lines` (0, 1, 2, 4) cache lines that
 * lie `step` floats apart, from `next` on. */
void tile(long rows, const float *x, long ldx, const float *w, long depth, const float *from, long ldf, float *y,
          long ldy, const float *bias, const float *next, long lines, long step);

#endif
