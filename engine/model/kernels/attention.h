/* What attention.c and rounded.c, the two forms of attention, share. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "kernels.h"

INLINE long smaller(long a, long b) { return a < b ? a : b; }

/* Transposes LANES vectors. */
INLINE void transpose(vec *rows) {
#pragma GCC unroll 4
    for (long width = 1; width < LANES; width *= 2) {
        mask low, high;
        for (int l = 0; l < LANES; l++) {
            low[l] = l & width ? LANES + l - width : l;
            high[l] = l & width ? LANES + l : l + width;
        }
#pragma GCC unroll 16
        for (long r = 0; r < LANES; r++) {
            if (r & width) continue;
            vec first = rows[r], second = rows[r + width];
            rows[r] = __builtin_shuffle(first, second, low);
            rows[r + width] = __builtin_shuffle(first, second, high);
        }
    }
}

/* Whether the processor multiplies bfloat16. What follows is not called where it does not, nor does it exist there. */
#if defined(__AVX512BF16__)
enum { ROUNDED = 1 };
#else
enum { ROUNDED = 0 };
#endif

/* As `chunk_scratch` and `attend_chunk`, in bfloat16, for heads of whole pairs of vectors. */
long rounded_scratch(long length, long dim);
void attend_rounded(const float *q, const float *cache, const int *blocks, float *out, float *scratch, long start,
                    long count, long stride, long out_stride, long kv_heads, long group, long dim, long threads);

#endif
