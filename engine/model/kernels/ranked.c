/* Draws from the heaviest tokens without sorting the vocabulary: tokens are looked up in the order of their weights,
 * equal ones in the order of their ids, by sums alone. A histogram over the weights tells between which two the wanted
 * token is, and only those tokens are listed; the list is narrowed in the same way. */
#include <immintrin.h>
#include <string.h>

#include "sampling.h"

enum {
    SHIFT = 18,       /* from the bits of a weight to its bin in the guide: 32 bins for a weight and its double */
    SAMPLED = 16,     /* of so many vectors one is in the first guide of a row */
    BEST_PARTS = 256, /* at least as many tokens are listed before any guide is needed */
    LISTED = 8192,    /* about as many tokens may be listed, from the best one on, to find several places in them */
    SHORT = 16        /* tokens of a list that are simply sorted */
};
/* Lighter tokens weigh less together than the last of the 2^23 numbers that can be drawn. */
static const float FLOOR = 0x1p-64f;
#define END 0x3f800001u /* the bits after those of 1.0f, the largest weight */

/* A goal in the order of the weights: the first token up to which the tokens weigh `sum` together, or are `count` if
 * that is not 0. */
typedef struct {
    double sum;
    long count;
} Goal;

/* A rank in the order of the weights: the token there, and what the tokens up to it weigh together. */
typedef struct {
    long token;
    double sum;
} Rank;

INLINE unsigned bits_of(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Returns the least weight of a bin of the guide. */
INLINE float weight_of(long bin) { return float_of(bits_of(FLOOR) + ((unsigned)bin << SHIFT)); }

/* Returns one bit for each lane of x that is at least `bound`. */
INLINE unsigned long reaching(vec x, float bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(bound), _CMP_GE_OQ);
#else
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x, _mm256_set1_ps(bound), _CMP_GE_OQ));
#endif
}

INLINE int reached(Goal goal, double sum, long count) { return goal.count ? count >= goal.count : sum >= goal.sum; }

/* Counts tokens by bin, (bits of the weight - low) >> shift, except those outside [FLOOR, high). step: looks at one of
 * so many vectors. */
static void count_bins(Histogram *h, const float *weights, long size, unsigned low, int shift, long bins, float high,
                       long step) {
    memset(h->sums, 0, bins * sizeof *h->sums);
    memset(h->counts, 0, bins * sizeof *h->counts);
    for (long first = 0; first < size; first += step * LANES) {
        const long end = first + LANES < size ? first + LANES : size;
        for (long i = first; i < end; i++) {
            const float weight = weights[i];
            if (weight < FLOOR || weight >= high) continue;
            const unsigned bin = (bits_of(weight) - low) >> shift;
            h->sums[bin] += weight;
            h->counts[bin]++;
        }
    }
}

/* Appends those of 64 tokens whose bit is set to a list and returns its new length. Up to SPARE entries beyond it are
 * overwritten: to write four at once, whether there are as many or not, is faster than to ask for each. */
INLINE long append(Tokens list, const float *weights, long first, unsigned long bits) {
    const long size = list.size + __builtin_popcountl(bits);
    long at = list.size;
    do {
        for (long i = 0; i < SPARE; i++, bits &= bits - 1) {
            const long next = __builtin_ctzl(bits | 1ul << 63);
            list.weights[at + i] = weights[next];
            list.ids[at + i] = (int)(first + next);
        }
    } while ((at += SPARE) < size);
    return size;
}

/* Lists the tokens of a row with low <= weight < high, and adds those with more to *sum and *count. */
static Tokens list_between(const Scratch *s, long n, float low, float high, Tokens list, double *sum, long *count) {
    list.size = 0;
    for (long part = 0; part < parts_of(n); part++) {
        if (s->peaks[part] < low) continue;
        const float *from = s->weights + part * PART;
        vec sums = {0};
        for (long i = 0; i < PART; i += 64) {
            unsigned long between = 0, higher = 0;
            for (long l = 0; l < 64; l += LANES) {
                const vec weight = *(const vec *)(from + i + l);
                sums += choose(weight >= high, weight, (vec){0});
                higher |= reaching(weight, high) << l;
                between |= reaching(weight, low) << l;
            }
            *count += __builtin_popcountl(higher);
            list.size = append(list, from + i, part * PART + i, between & ~higher);
        }
        *sum += sum_of((const float *)&sums, LANES);
    }
    return list;
}

/* Copies those tokens whose weights have bits in [low, low + range) to another list, or to the same. */
static Tokens keep_between(Tokens from, unsigned low, unsigned range, Tokens to) {
    to.size = 0;
    for (long i = 0; i < from.size; i++) {
        const float weight = from.weights[i];
        if (bits_of(weight) - low >= range) continue;
        to.ids[to.size] = from.ids[i];
        to.weights[to.size++] = weight;
    }
    return to;
}

/* Sorts a short list by weight; equal ones stay in their order. */
static void sort(Tokens list) {
    for (long i = 1; i < list.size; i++) {
        const float weight = list.weights[i];
        const int id = list.ids[i];
        long at = i;
        for (; at > 0 && list.weights[at - 1] < weight; at--) {
            list.weights[at] = list.weights[at - 1];
            list.ids[at] = list.ids[at - 1];
        }
        list.weights[at] = weight;
        list.ids[at] = id;
    }
}

/* Returns the rank of a goal in a list whose weights have bits in [low, high), or the last one if it is not in there.
 * sum, count: of the tokens above the list. */
static Rank find_in_list(Tokens list, unsigned low, unsigned high, Goal goal, double sum, long count,
                         const Scratch *s) {
    const Tokens found = {s->found, s->found_ids, 0};
    while (list.size > SHORT && high - low > 1) {
        int shift = 0;
        while ((high - low - 1) >> shift >= BINS) shift++;
        const long top = (high - low - 1) >> shift;
        long bin = top;
        count_bins(s->narrow, list.weights, list.size, low, shift, bin + 1, INFINITY, 1);
        for (; bin > 0 && !reached(goal, sum + s->narrow->sums[bin], count + s->narrow->counts[bin]); bin--) {
            sum += s->narrow->sums[bin];
            count += s->narrow->counts[bin];
        }
        if (!s->narrow->counts[bin]) { /* a goal of rounded sums may lie beyond all weights: then the last of them */
            long last = bin;
            while (last < top && !s->narrow->counts[last]) last++;
            if (last > bin) {
                bin = last;
                sum -= s->narrow->sums[bin];
                count -= s->narrow->counts[bin];
            }
        }
        low += (unsigned)bin << shift;
        high = low + (1u << shift);
        list = keep_between(list, low, high - low, found);
    }
    if (list.weights != found.weights) list = keep_between(list, low, high - low, found);
    sort(list);
    if (!list.size) return (Rank){0, sum}; /* the weights are not numbers */
    long i = 0;
    for (; i < list.size; i++) {
        sum += list.weights[i];
        if (reached(goal, sum, ++count)) break;
    }
    return (Rank){list.ids[i < list.size ? i : list.size - 1], sum};
}

/* Returns the sum of the weights that are at least `lowest`. */
static double sum_from(Tokens list, float lowest) {
    double total = 0.0;
    for (long first = 0; first < list.size; first += PART) {
        const long end = first + PART < list.size ? first + PART : list.size;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (long i = first; i < end; i++) sum += list.weights[i] >= lowest ? list.weights[i] : 0.0f;
        total += sum;
    }
    return total;
}

/* Returns what a bin of the guide has of what a goal counts, and sets its part of the variance of a sum. */
INLINE double amount_of(const Histogram *h, long bin, Goal goal, double *square) {
    const double amount = goal.count ? h->counts[bin] : h->sums[bin];
    *square = goal.count ? amount : amount * weight_of(bin);
    return amount;
}

/* Sets between which weights, as bits in [*low, *high), a goal beyond the best tokens is according to the guide.
 * Returns about how many tokens weigh more than the lower one. */
static double bracket(const Scratch *s, Goal goal, unsigned *low, unsigned *high) {
    const double wanted = goal.count ? (double)goal.count - s->best.size : goal.sum - s->best_sum;
    const long last = (bits_of(s->lowest) - bits_of(FLOOR)) >> SHIFT;
    double all = 0.0, all_squares = 0.0, sum = 0.0, squares = 0.0, count = 0.0, square;
    for (long bin = 0; bin < last; bin++) {
        all += amount_of(s->guide, bin, goal, &square);
        all_squares += square;
    }
    const double scale = goal.count || all == 0.0 ? (double)s->step : (s->total - s->best_sum) / all;
    int over = 0;
    *low = bits_of(FLOOR);
    *high = bits_of(s->lowest);
    for (long bin = last - 1; bin >= 0; bin--) {
        count += s->guide->counts[bin];
        sum += amount_of(s->guide, bin, goal, &square);
        squares += square;
        /* Three standard deviations of a part of a sample of known total; without a sample, room for rounding. */
        const double share = goal.count ? 0.0 : sum / all;
        const double variance = squares * (1.0 - share) * (1.0 - share) + (all_squares - squares) * share * share;
        const double error = s->step > 1 ? 3.0 * scale * sqrt(variance) : 1e-6 * s->total;
        over |= scale * sum + error >= wanted;
        if (!over) *high = bits_of(weight_of(bin));
        if (scale * sum - error >= wanted) {
            *low = bits_of(weight_of(bin));
            break;
        }
    }
    return s->best.size + s->step * count;
}

/* Lists all tokens that weigh at least `lowest` as the best ones. */
static void list_best(float lowest, long n, Scratch *s) {
    double sum = 0.0;
    long count = 0;
    s->lowest = lowest;
    s->best = list_between(s, n, lowest, INFINITY, s->best, &sum, &count);
    s->best_sum = sum_from(s->best, 0.0f);
}

static void make_guide(long step, long n, Scratch *s) {
    count_bins(s->guide, s->weights, parts_of(n) * PART, bits_of(FLOOR), SHIFT, BINS + 1, s->lowest, step);
    s->step = step;
}

/* Returns the rank of a goal beyond the best tokens: in the bracket of a sample, else of all tokens, else anywhere. */
static Rank find_beyond(Goal goal, long n, Scratch *s) {
    for (;; make_guide(1, n, s)) {
        unsigned low, high;
        double sum = 0.0;
        long count = 0;
        bracket(s, goal, &low, &high);
        const Tokens list = {s->found, s->found_ids, 0};
        const Tokens near = list_between(s, n, float_of(low), float_of(high), list, &sum, &count);
        const int inside = !reached(goal, sum, count) && reached(goal, sum + sum_from(near, 0.0f), count + near.size);
        if (inside) return find_in_list(near, low, high, goal, sum, count, s);
        if (s->step == 1) break;
    }
    list_best(FLOOR, n, s);
    return find_in_list(s->best, bits_of(FLOOR), END, goal, 0.0, 0, s);
}

/* Returns the rank of a goal in a row. */
static Rank find(Goal goal, long n, Scratch *s) {
    while (s->lowest > FLOOR && !reached(goal, s->best_sum, s->best.size)) {
        unsigned low, high;
        if (!s->step) make_guide(SAMPLED, n, s);
        if (bracket(s, goal, &low, &high) > LISTED) return find_beyond(goal, n, s);
        list_best(float_of(low), n, s);
    }
    return find_in_list(s->best, bits_of(s->lowest), END, goal, 0.0, 0, s);
}

/* Returns a weight that the best tokens of BEST_PARTS parts reach, or FLOOR if there are not as many. */
static float weight_of_the_best(long n, const Scratch *s) {
    long bin = BINS, found = 0;
    count_bins(s->narrow, s->peaks, parts_of(n), bits_of(FLOOR), SHIFT, BINS + 1, INFINITY, 1);
    for (; bin > 0 && (found += s->narrow->counts[bin]) < BEST_PARTS; bin--) {}
    return weight_of(bin);
}

/* Draws a token from the heaviest ones: those of top_k, of them those of top_p, of both those of min_p. */
long draw_ranked(const Row *row, long n, Scratch *s) {
    s->step = 0;
    list_best(weight_of_the_best(n, s), n, s);
    if (s->lowest <= FLOOR) s->total = s->best_sum;
    const Tokens all = {s->weights, NULL, parts_of(n) * PART};
    double kept = s->total, part;
    if (row->top_k > 0 && row->top_k < n) kept = find((Goal){0.0, row->top_k}, n, s).sum;
    if (row->top_p < 1.0f && (part = find((Goal){row->top_p * kept, 0}, n, s).sum) < kept) kept = part;
    if (row->min_p > 0.0f && (part = sum_from(row->min_p < s->lowest ? all : s->best, row->min_p)) < kept) kept = part;
    return find((Goal){nextafter(row->number * kept, INFINITY), 0}, n, s).token;
}

