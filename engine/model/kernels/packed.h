/* What half.c, quantized.c and rounded.c share: how weights are stored before they are packed, and products of bfloat16. */
#ifndef PACKED_H
#define PACKED_H

#include <immintrin.h>
#include <string.h>

#include "kernels.h"

enum { FLOAT32, BFLOAT16, FLOAT16 }; /* the kinds of stored values; those of packed.py */

/* How half.c packs weights, and what rounded.c multiplies. */
enum {
    HVECTORS = 2,             /* vectors of columns in a panel */
    HCOLS = LANES * HVECTORS, /* columns of a panel */
    HROWS = 6                 /* rows of a tile */
};

/* y [rows, HCOLS] (ldy) = x [rows, depth] (ldx) times a panel [depth / 2, HCOLS, 2], all of bfloat16 but y, on processors
 * that multiply it. depth is even. */
void half_product(const unsigned short *x, long ldx, const unsigned short *panel, float *y, long ldy, long rows,
                  long depth);

/* Returns value `at` of an array of values of a kind. */
INLINE float stored(const void *from, long at, long kind) {
    if (kind == FLOAT32) return ((const float *)from)[at];
    unsigned short bits = ((const unsigned short *)from)[at];
    if (kind == FLOAT16) return _cvtsh_ss(bits);
    unsigned int wide = (unsigned int)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

#endif
