/* Row-wise operations: norm, SiLU-and-multiply, rotary embedding, writing to the KV cache. */
#include "kernels.h"

/* Returns 1 / sqrt(|x|^2 + eps) for x [n]. */
INLINE float inverse_norm(const float *x, long n, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum + eps);
}

/* y [rows, n] = x / sqrt(|x|^2 + eps), row by row, times weights [n] if not NULL. */
void norm(const float *x, float *y, const float *weights, long rows, long n, float eps, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * n > MANY)
    for (long row = 0; row < rows; row++) {
        const float *from = x + row * n;
        float *to = y + row * n, factor = inverse_norm(from, n, eps);
        if (weights) {
#pragma omp simd
            for (long i = 0; i < n; i++) to[i] = from[i] * factor * weights[i];
        } else {
#pragma omp simd
            for (long i = 0; i < n; i++) to[i] = from[i] * factor;
        }
    }
}

/* y [rows, n] = silu(from[:, :n]) * from[:, n:] for from [rows, 2 n]. */
void silu_and_mul(const float *from, float *y, long rows, long n, long threads) {
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

/* Rotates the adjacent pairs of x [dim] in place. cosines: [dim], the cosine of each pair twice; sines: [dim], minus
 * and plus the sine of each pair. */
INLINE void rotate(float *x, const float *cosines, const float *sines, long dim) {
    long i = 0;
    for (; i + LANES <= dim; i += LANES) {
        mask swapped;
        for (long l = 0; l < LANES; l++) swapped[l] = (int)(l ^ 1);
        vec pair = *(vec *)(x + i);
        *(vec *)(x + i) =
            pair * *(const vec *)(cosines + i) + __builtin_shuffle(pair, swapped) * *(const vec *)(sines + i);
    }
    for (; i < dim; i += 2) {
        float a = x[i], b = x[i + 1];
        x[i] = a * cosines[i] + b * sines[i];
        x[i + 1] = b * cosines[i + 1] + a * sines[i + 1];
    }
}

/* Normalizes (if weights [heads, dim] is not NULL) and rotates the first `heads` heads of each row of x
 * [rows, (stride)], in place. rotary: [rows, dim / 2] pairs of cosine and sine. */
void qk_norm_rope(float *x, const float *weights, const float *rotary, long rows, long stride, long heads, long dim,
                  float eps, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * heads * dim > MANY)
    for (long row = 0; row < rows; row++) {
        float cosines[dim], sines[dim];
        const float *pairs = rotary + row * dim;
        for (long i = 0; i < dim; i += 2) {
            cosines[i] = cosines[i + 1] = pairs[i];
            sines[i] = -pairs[i + 1];
            sines[i + 1] = pairs[i + 1];
        }
        for (long head = 0; head < heads; head++) {
            float *target = x + row * stride + head * dim;
            if (weights) {
                float factor = inverse_norm(target, dim, eps);
#pragma omp simd
                for (long i = 0; i < dim; i++) target[i] *= factor * weights[head * dim + i];
            }
            rotate(target, cosines, sines, dim);
        }
    }
}

/* Copies the heads of each row of x [rows, (stride)] into one layer of the cache, [blocks, heads, BLOCK, dim].
 * slots: [rows], block * BLOCK + offset. */
void store(const float *x, float *layer, const long *slots, long rows, long stride, long heads, long dim) {
    for (long row = 0; row < rows; row++) {
        float *to = layer + (slots[row] / BLOCK * heads * BLOCK + slots[row] % BLOCK) * dim;
        for (long head = 0; head < heads; head++) {
            const float *from = x + row * stride + head * dim;
#pragma omp simd
            for (long i = 0; i < dim; i++) to[head * BLOCK * dim + i] = from[i];
        }
    }
}
