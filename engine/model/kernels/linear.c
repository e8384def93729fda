/* Linear layers: weights packed into panels, and a GEMM that reads each panel once. */
#include "kernels.h"

/* Returns the number of columns of a panel; packed weights are padded to a multiple of it. */
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

/* `tile` for constant rows and lines. */
INLINE void tile_of(const long rows, const float *x, long ldx, const float *w, long depth, const float *from, long ldf,
                    float *y, long ldy, const float *bias, const float *next, const long lines, long step) {
    vec sums[ROWS][VECTORS];
#pragma GCC unroll 6
    for (long r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++) {
            sums[r][v] = from ? *(const vec *)(from + r * ldf + v * LANES) : (vec){0};
            if (bias) sums[r][v] += *(const vec *)(bias + v * LANES);
        }
#pragma GCC unroll 4
    for (long k = 0; k < depth; k++) {
        vec weights[VECTORS];
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++) weights[v] = *(const vec *)(w + k * COLS + v * LANES);
#pragma GCC unroll 4
        for (long l = 0; l < lines; l++) __builtin_prefetch(next + (k * lines + l) * step, 0, 2);
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

#define TILE(R, L) tile_of(R, x, ldx, w, depth, from, ldf, y, ldy, bias, next, L, step)
#define TILES(R) \
    case R: \
        if (lines == 0) TILE(R, 0); \
        else if (lines == 1) TILE(R, 1); \
        else if (lines == 2) TILE(R, 2); \
        else TILE(R, 4); \
        break;

void tile(long rows, const float *x, long ldx, const float *w, long depth, const float *from, long ldf, float *y,
          long ldy, const float *bias, const float *next, long lines, long step) {
    switch (rows) { TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) }
}

/* The GEMM of one panel for up to BAND rows: y [rows, COLS] (ldy). While a part of the panel is in use, the next part is
 * prefetched, by each block of rows a share and evenly: what is asked for in a burst, the block waits for. One block
 * passes over the panel once and prefetches what is nearer. Unfinished sums stand in memory of their own: rows of y can
 * be so far apart that they push each other out of the cache. */
static void panel_gemm(const float *x, const float *panel, const float *bias, float *y, long ldy, long rows, long in,
                       int add) {
    float sums[BAND * COLS] __attribute__((aligned(sizeof(vec))));
    const long blocks = (rows + ROWS - 1) / ROWS, each = rows / blocks, longer = rows % blocks;
    const long share = DEPTH * COLS / blocks;
    const long ahead = rows == 1 ? NEAR : rows <= FEW ? CLOSE : blocks == 1 ? FAR : DEPTH * COLS;
    const long lines = blocks >= LINES ? 1 : 2 * blocks >= LINES ? 2 : 4, step = (share - 1) / (DEPTH * lines) + 1;
    for (long k = 0; k < in; k += DEPTH) {
        long depth = in - k < DEPTH ? in - k : DEPTH, row = 0, first = k == 0, last = k + DEPTH >= in;
        const float *w = panel + k * COLS, *from = first ? add ? y : NULL : sums;
        float *to = last ? y : sums;
        for (long block = 0; block < blocks; block++) {
            long count = each + (block < longer), ldf = first ? ldy : COLS, ldt = last ? ldy : COLS;
            tile(count, x + row * in + k, in, w, depth, from ? from + row * ldf : NULL, ldf, to + row * ldt, ldt,
                 first ? bias : NULL, w + ahead + block * share, lines, step);
            row += count;
        }
    }
}

/* y [rows, out] = x [rows, in] W^T, plus y if `add`, plus bias (padded to whole panels) if not NULL. */
void gemm(const float *x, const float *packed, const float *bias, float *y, long rows, long out, long in, int add,
          long threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long first = 0; first < out; first += COLS) {
        const float *panel = packed + first * in, *panel_bias = bias ? bias + first : NULL;
        long columns = out - first < COLS ? out - first : COLS;
        for (long row = 0; row < rows; row += BAND) {
            long count = rows - row < BAND ? rows - row : BAND;
            float *target = y + row * out + first;
            if (columns == COLS) {
                panel_gemm(x + row * in, panel, panel_bias, target, out, count, in, add);
                continue;
            }
            float part[BAND * COLS]; /* the last panel is wider than the rest of y */
            if (add) copy_block(target, out, part, COLS, count, columns);
            panel_gemm(x + row * in, panel, panel_bias, part, COLS, count, in, add);
            copy_block(part, COLS, target, out, count, columns);
        }
    }
}
