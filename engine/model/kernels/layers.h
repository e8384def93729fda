/* The layers of a model, and a step through all of them in one call. layers.py builds these structures. */
#ifndef LAYERS_H
#define LAYERS_H

enum { PANELS, BFLOAT16_WEIGHTS, FLOAT16_WEIGHTS, FOUR_BITS = 4, EIGHT_BITS = 8 }; /* kinds of packed weights */

/* A linear layer [out, in] as `gemm`, `half_gemm` or `quantized_gemm` reads it. bias: padded, or NULL. */
typedef struct {
    const void *weights;
    const float *bias;
    long out, in, kind;
} GemmArguments;

/* Norms: their weights, or NULL where those are folded into the linear layers. head_norms: [heads + kv_heads, dim],
 * NULL where the model has none. */
typedef struct {
    const float *input_norm, *head_norms, *post_norm;
    GemmArguments qkv, out, gate_up, down;
} Layer;

/* What all layers of a step read. hidden: [rows, width], overwritten; result: [kept, width], where `keep` has the kept
 * rows, NULL for all or none; rotary: [rows, dim / 2] pairs; cache: that of the first layer, each `cache_stride` after the one
 * before; chunks: [num_chunks] of slot, first position and number of tokens; longest: of `lengths`, rounded up to whole
 * vectors; rounded: whether chunks are multiplied in bfloat16; the last_norm is that after the layers.
 *
 * A whole step has `ids`, and no `hidden`, `result` and `rotary`. It reads the rows `ids` of the embeddings, of the kind of
 * `embeddings_kind`, where PANELS are plain rows, and the rows `positions` of `rotations` [positions, dim / 2], also
 * pairs; and it writes logits [kept, head.out]. */
typedef struct {
    const Layer *layers;
    float *hidden, *result, *scratch, *cache;
    const float *rotary, *last_norm;
    const long *slot_mapping, *slots, *lengths, *chunks, *keep;
    const int *tables;
    const long *ids, *positions;
    const void *embeddings;
    const float *rotations;
    float *logits;
    GemmArguments head;
    long embeddings_kind;
    long count, rows, decode, num_chunks, kept, longest, width, heads, kv_heads, dim, columns, cache_stride, rounded,
        threads;
    float eps, head_eps;
} Step;

/* The parts of a step, from the other files. */
void gemm(const float *, const float *, const float *, float *, long, long, long, int, long);
void half_gemm(const float *, const unsigned short *, const float *, float *, unsigned short *, long, long, long, long,
               int, long);
long half_multiplies(void);
void half_rows(const unsigned short *, const long *, float *, long, long, long);
void quantized_rows(const unsigned char *, const long *, float *, long, long, long);
void quantize_rows(const float *, signed char *, float *, int *, long, long, long);
void quantized_gemm(const signed char *, const float *, const int *, const unsigned char *, const float *, float *, long,
                    long, long, long, int, long);
void norm(const float *, float *, const float *, long, long, float, long);
void silu_and_mul(const float *, float *, long, long, long);
void qk_norm_rope(float *, const float *, const float *, long, long, long, long, float, long);
void store(const float *, float *, const long *, long, long, long, long);
void attend(const float *, const float *, const int *, const long *, const long *, float *, float *, long, long, long,
            long, long, long, long, long);
long chunk_scratch(long, long, int);
void attend_chunk(const float *, const float *, const int *, float *, float *, long, long, long, long, long, long, long,
                  int, long);

#endif
