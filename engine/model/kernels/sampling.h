/* What sampling.c, which samples rows, and ranked.c, which draws from the heaviest tokens of one, share. */
#ifndef SAMPLING_H
#define SAMPLING_H

#include "kernels.h"

enum {
    PART = 128,  /* tokens whose weights are added before others, a multiple of LANES and of 64 */
    BINS = 2048, /* of a histogram, and one more for the weight 1 */
    SPARE = 4    /* entries that a list has beyond its end */
};

/* The parameters of a row and its result; the fields are those of SAMPLED_ROW in library.py. */
typedef struct {
    const int *bias_ids, *counted_ids;   /* distinct tokens */
    const float *biases, *counts;        /* to be added; occurrences in the answer, 0 for tokens of the prompt alone */
    const unsigned *allowed;             /* one bit for each token, NULL without a grammar */
    int *top_ids;                        /* [logprobs], the most probable tokens */
    float *top;                          /* [logprobs], their log probabilities */
    int num_bias, num_counted, words, logprobs; /* words: of `allowed`; logprobs: -1 for none */
    float number;                        /* in [0, 1) */
    float temperature, top_p, min_p, repetition, frequency, presence; /* temperature: 0 is greedy */
    int top_k;                           /* 0 keeps all */
    int token;                           /* -1 if the grammar allows none */
    int finite;                          /* 0 if a logit is not */
    float logprob;
} Row;

/* Tokens with their weights, in the order of their ids. ids: NULL if each token is at its own index. */
typedef struct {
    float *weights;
    int *ids;
    long size;
} Tokens;

/* Weight and number of the tokens in each bin of a histogram. */
typedef struct {
    double sums[BINS + 1];
    int counts[BINS + 1];
} Histogram;

/* The memory of a thread, for rows of n tokens in `parts`. */
typedef struct {
    float *weights, *peaks, *sums; /* [parts * PART], [parts], [parts]: the largest and the sum of each part */
    Tokens best;                   /* the heaviest tokens: all that weigh at least `lowest` */
    float lowest;
    double total, best_sum;        /* of all weights, and of `best` */
    float *found;                  /* the weights and ids of the list that is being narrowed */
    int *found_ids;
    Histogram *guide, *narrow;     /* of all tokens but the best, from one of `step` vectors (0: not yet); of lists */
    long step;
} Scratch;

INLINE long parts_of(long n) { return (n + PART - 1) / PART; }

INLINE float largest(const float *x, long n) {
    float best = -INFINITY;
#pragma omp simd reduction(max : best)
    for (long i = 0; i < n; i++) best = x[i] > best ? x[i] : best;
    return best;
}

INLINE float sum_of(const float *x, long n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += x[i];
    return sum;
}

/* Draws a token from the heaviest ones: those of top_k, of them those of top_p, of both those of min_p. */
long draw_ranked(const Row *row, long n, Scratch *s);

#endif
