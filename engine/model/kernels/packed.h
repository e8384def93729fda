/* What half.c and quantized.c, the kernels of packed weights, share: how weights are stored before they are packed. */
#ifndef PACKED_H
#define PACKED_H

#include <immintrin.h>
#include <string.h>

#include "kernels.h"

enum { FLOAT32, BFLOAT16, FLOAT16 }; /* the kinds of stored values; those of packed.py */

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
