/* All layers of a step in one call: between two calls of a step's parts, the interpreter takes longer than some of them. */
#include "kernels.h"
#include "layers.h"

enum { QUANTIZED_GROUP = 32, GROUP_BYTES = QUANTIZED_GROUP + 8 }; /* of activations: their scale and their sum too */

INLINE long larger(long a, long b) { return a > b ? a : b; }

/* Returns how many floats hold so many bytes, in whole cache lines. */
INLINE long floats_of(long bytes) { return (bytes + 63) / 64 * LINE; }

/* Returns the bytes of scratch memory of a GEMM of so many rows. */
static long gemm_bytes(const GemmArguments *p, long rows) {
    if (p->kind == FOUR_BITS || p->kind == EIGHT_BITS)
        return rows * ((p->in + QUANTIZED_GROUP - 1) / QUANTIZED_GROUP) * GROUP_BYTES;
    return p->kind == BFLOAT16_WEIGHTS && half_multiplies() ? rows * (p->in + 1) * 2 : 0;
}

/* y [rows, out] = x [rows, in] W^T + bias, plus y if `add`. */
static void multiply(const GemmArguments *p, const float *x, float *y, long rows, int add, void *scratch,
                     long threads) {
    if (p->kind == PANELS) {
        gemm(x, p->weights, p->bias, y, rows, p->out, p->in, add, threads);
    } else if (p->kind == BFLOAT16_WEIGHTS || p->kind == FLOAT16_WEIGHTS) {
        unsigned short *rounded = gemm_bytes(p, rows) ? scratch : NULL;
        half_gemm(x, p->weights, p->bias, y, rounded, rows, p->out, p->in, p->kind, add, threads);
    } else {
        long groups = rows * ((p->in + QUANTIZED_GROUP - 1) / QUANTIZED_GROUP);
        signed char *whole = scratch;
        float *scales = (float *)(whole + groups * QUANTIZED_GROUP);
        int *sums = (int *)(scales + groups);
        quantize_rows(x, whole, scales, sums, rows, p->in, threads);
        quantized_gemm(whole, scales, sums, p->weights, p->bias, y, rows, p->out, p->in, p->kind, add, threads);
    }
}

/* The scratch memory of a step, in floats from its start. */
typedef struct {
    long normed, qkv, attended, kept_hidden, kept_attended, inner, active, gemms, attention, hidden, rotary, result, end;
} Offsets;

static Offsets offsets_of(const Step *s) {
    const Layer *first = s->layers;
    long inner = first->gate_up.out, gemms = 0, attention = s->threads * (s->heads / s->kv_heads) * s->longest;
    for (long l = 0; l < s->count; l++) {
        const GemmArguments *all[] = {&s->layers[l].qkv, &s->layers[l].out, &s->layers[l].gate_up, &s->layers[l].down};
        for (long p = 0; p < 4; p++) gemms = larger(gemms, gemm_bytes(all[p], s->rows));
    }
    for (const long *c = s->chunks; c < s->chunks + 3 * s->num_chunks; c += 3)
        attention = larger(attention, s->threads * chunk_scratch(c[1] + c[2], s->dim, s->rounded));
    if (s->ids) gemms = larger(gemms, gemm_bytes(&s->head, s->kept));
    const long whole = s->ids ? 1 : 0;
    const long sizes[] = {s->rows * s->width,          s->rows * first->qkv.out, s->rows * s->heads * s->dim,
                          s->kept * s->width,          s->kept * s->heads * s->dim, s->rows * inner,
                          s->rows * inner / 2,         floats_of(gemms),         attention,
                          whole * s->rows * s->width,  whole * s->rows * s->dim, whole * s->kept * s->width};
    Offsets offsets;
    long *offset = &offsets.normed, at = 0;
    for (long i = 0; i < 12; i++) {
        offset[i] = at;
        at += floats_of(4 * sizes[i]);
    }
    offsets.end = at;
    return offsets;
}

/* Returns the number of floats of scratch memory that `layers` needs. */
long layers_scratch(const Step *s) { return offsets_of(s).end; }

/* Writes keys and values of the step's rows [rows, (qkv)] to the cache, and the attention of its queries to `out`. */
static void attend_all(const Step *s, float *qkv, float *cache, long stride, float *out, float *scratch) {
    const long group = s->heads / s->kv_heads, wide = s->heads * s->dim;
    store(qkv + wide, cache, s->slot_mapping, s->rows, stride, 2 * s->kv_heads, s->dim);
    if (s->decode)
        attend(qkv, cache, s->tables, s->slots, s->lengths, out, scratch, s->decode, stride, s->kv_heads, group, s->dim,
               s->columns, s->longest, s->threads);
    long row = s->decode;
    for (const long *c = s->chunks; c < s->chunks + 3 * s->num_chunks; row += c[2], c += 3)
        attend_chunk(qkv + row * stride, cache, s->tables + c[0] * s->columns, out + row * wide, scratch, c[1], c[2],
                     stride, wide, s->kv_heads, group, s->dim, s->rounded, s->threads);
}

/* Copies the kept rows of x [rows, n] to y [kept, n]. */
static void gather(const Step *s, const float *x, float *y, long n) {
    for (long i = 0; i < s->kept; i++) copy_block(x + s->keep[i] * n, n, y + i * n, n, 1, n);
}

/* Writes the embeddings of the rows of a whole step to `hidden` [rows, width]. */
static void embed(const Step *s, float *hidden) {
    const long kind = s->embeddings_kind;
    if (kind == BFLOAT16_WEIGHTS || kind == FLOAT16_WEIGHTS)
        half_rows(s->embeddings, s->ids, hidden, s->rows, s->width, kind);
    else if (kind == PANELS)
        for (long i = 0; i < s->rows; i++)
            copy_block((const float *)s->embeddings + s->ids[i] * s->width, s->width, hidden + i * s->width, s->width, 1, s->width);
    else
        quantized_rows(s->embeddings, s->ids, hidden, s->rows, s->width, kind);
}

/* All layers and the norm after them; of a whole step the embeddings before them and the head behind them too. Rows that
 * are not kept write their keys and values and skip the rest of the last layer. */
void layers(const Step *s) {
    const Offsets at = offsets_of(s);
    float *normed = s->scratch + at.normed, *qkv = s->scratch + at.qkv, *attended = s->scratch + at.attended;
    float *inner = s->scratch + at.inner, *active = s->scratch + at.active, *gemms = s->scratch + at.gemms;
    float *hidden = s->hidden, *result = s->result, *turned = s->scratch + at.rotary;
    const float *rotary = s->rotary;
    long rows = s->rows;
    if (s->ids) {
        hidden = s->scratch + at.hidden, result = s->scratch + at.result, rotary = turned;
        embed(s, hidden);
        for (long i = 0; i < rows; i++)
            copy_block(s->rotations + s->positions[i] * s->dim, s->dim, turned + i * s->dim, s->dim, 1, s->dim);
    }
    for (long l = 0; l < s->count; l++) {
        const Layer *layer = s->layers + l;
        const long stride = layer->qkv.out;
        norm(hidden, normed, layer->input_norm, rows, s->width, s->eps, s->threads);
        multiply(&layer->qkv, normed, qkv, rows, 0, gemms, s->threads);
        qk_norm_rope(qkv, layer->head_norms, rotary, rows, stride, s->heads + s->kv_heads, s->dim, s->head_eps,
                     s->threads);
        attend_all(s, qkv, s->cache + l * s->cache_stride, stride, attended, s->scratch + at.attention);
        if ((s->keep || s->kept < s->rows) && l == s->count - 1) {
            gather(s, hidden, s->scratch + at.kept_hidden, s->width);
            gather(s, attended, s->scratch + at.kept_attended, s->heads * s->dim);
            hidden = s->scratch + at.kept_hidden, attended = s->scratch + at.kept_attended, rows = s->kept;
        }
        multiply(&layer->out, attended, hidden, rows, 1, gemms, s->threads);
        norm(hidden, normed, layer->post_norm, rows, s->width, s->eps, s->threads);
        multiply(&layer->gate_up, normed, inner, rows, 0, gemms, s->threads);
        silu_and_mul(inner, active, rows, layer->gate_up.out / 2, s->threads);
        multiply(&layer->down, active, hidden, rows, 1, gemms, s->threads);
    }
    norm(hidden, result, s->last_norm, rows, s->width, s->eps, s->threads);
    if (s->ids) multiply(&s->head, result, s->logits, rows, 0, gemms, s->threads);
}
