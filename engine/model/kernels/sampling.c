/* Sampling: from the logits of each row to its token, by the row's own parameters and its own random number.
 *
 * The vocabulary is never sorted. The weights e^((logit - highest) / temperature) of a row are computed once; the
 * tokens are then looked up in the order of their weights, equal ones in the order of their ids, by sums alone: a
 * histogram over the weights tells between which two the wanted token lies, and only those tokens are listed. The list
 * is narrowed in the same way. A row depends on nothing else of the batch. */
#include "kernels.h"
#include <immintrin.h>
#include <string.h>

enum {
    PART = 128,      /* tokens whose weights are added before others, a multiple of LANES and of 64 */
    BINS = 2048,     /* of a histogram, and one more for the weight 1 */
    SHIFT = 18,      /* from the bits of a weight to its bin, of which 32 are between a weight and its double */
    SAMPLED = 16,     /* of so many vectors one is in the first histogram of a row */
    BEST_PARTS = 256, /* as many tokens, at least, are listed before any histogram */
    LISTED = 8192,   /* as many tokens, about, may be listed from the best one on to find several places */
    SPARE = 4,       /* entries that a list has beyond its end */
    SHORT = 16       /* tokens of a list that are simply sorted */
};
/* Lighter tokens weigh less together than the last of the 2^23 numbers that can be drawn. */
static const float FLOOR = 0x1p-64f;
#define END 0x3f800001u /* the bits after those of 1.0f, the largest weight */

/* The parameters of a row and its result; the fields are those of `ROW` in sampling.py. */
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

/* A goal in the order of the weights: the first token up to which the tokens weigh `sum` together, or are `count` if
 * that is not 0. */
typedef struct {
    double sum;
    long count;
} Goal;

/* A place in the order of the weights: the token there, and what the tokens up to it weigh together. */
typedef struct {
    long token;
    double sum;
} Place;

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

/* Writes the largest of each part of x [n] and returns the largest of all. finite: if not NULL, set to whether x holds
 * neither NaN nor infinity. */
INLINE float find_peaks(const float *x, float *peaks, long n, int *finite) {
    vec zeros = {0};
    float zero = 0.0f;
    for (long first = 0; first < n; first += PART) {
        const long count = n - first < PART ? n - first : PART;
        vec best = {0};
        best -= INFINITY;
        long i = 0;
        for (; i + LANES <= count; i += LANES) {
            const vec values = *(const vec *)(x + first + i);
            best = choose(values > best, values, best);
            if (finite) zeros += values * 0.0f;
        }
        float peak = largest((const float *)&best, LANES);
        for (; i < count; i++) {
            peak = x[first + i] > peak ? x[first + i] : peak;
            zero += x[first + i] * 0.0f;
        }
        peaks[first / PART] = peak;
    }
    if (finite) *finite = zero + sum_of((const float *)&zeros, LANES) == 0.0f;
    return largest(peaks, parts_of(n));
}

/* --- bias, penalties and grammar --- */

/* Writes logits [n] to x, -inf for tokens that are not allowed. */
static void copy_allowed(const float *logits, const Row *row, float *x, long n) {
    if (!row->allowed) {
        memcpy(x, logits, n * sizeof *x);
        return;
    }
    for (long first = 0; first < n; first += 32) {
        const long count = n - first < 32 ? n - first : 32;
        const unsigned word = first / 32 < row->words ? row->allowed[first / 32] : 0;
        if (word == 0)
            for (long i = 0; i < count; i++) x[first + i] = -INFINITY;
        else if (word == ~0u)
            for (long i = 0; i < count; i++) x[first + i] = logits[first + i];
        else
            for (long i = 0; i < count; i++) x[first + i] = word >> i & 1 ? logits[first + i] : -INFINITY;
    }
}

static void adjust(const Row *row, float *x, long n) {
    for (long i = 0; i < row->num_bias; i++)
        if (row->bias_ids[i] >= 0 && row->bias_ids[i] < n) x[row->bias_ids[i]] += row->biases[i];
    for (long i = 0; i < row->num_counted; i++) {
        const long id = row->counted_ids[i];
        if (id < 0 || id >= n) continue;
        if (row->repetition != 1.0f) x[id] = x[id] < 0.0f ? x[id] * row->repetition : x[id] / row->repetition;
        if (row->counts[i] > 0.0f) x[id] -= row->frequency * row->counts[i] + row->presence;
    }
}

/* --- weights --- */

/* Returns e^x for x <= 0, as `exponential` does, but faster where the processor scales by powers of 2. */
INLINE vec decay(vec x) {
#if defined(__AVX512F__)
    const __m512 bounded = _mm512_max_ps((__m512)x, _mm512_set1_ps(-160.0f));
    const vec n = (vec)_mm512_roundscale_ps(bounded * 1.44269504f, 0);
    const vec r = ((vec)bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    return (vec)_mm512_scalef_ps((__m512)power_series(r), (__m512)n);
#else
    return exponential(x);
#endif
}

/* Writes the weights of x [n], 0 beyond its end, and the sum and the largest of each part. Returns the sum of all. */
static double weigh(const float *x, float highest, float factor, long n, Scratch *s) {
    double total = 0.0;
    for (long part = 0; part < parts_of(n); part++) {
        float *weights = s->weights + part * PART;
        const float *from = x + part * PART;
        float rest[PART];
        const long count = n - part * PART;
        if (count < PART) {
            for (long i = 0; i < PART; i++) rest[i] = i < count ? from[i] : -INFINITY;
            from = rest;
        }
        vec sums = {0}, peaks = {0};
#pragma GCC unroll 4
        for (long i = 0; i < PART; i += LANES) {
            vec weight = decay((*(const vec *)(from + i) - highest) * factor);
            *(vec *)(weights + i) = weight;
            sums += weight;
            peaks = choose(weight > peaks, weight, peaks);
        }
        s->sums[part] = sum_of((const float *)&sums, LANES);
        s->peaks[part] = largest((const float *)&peaks, LANES);
        total += s->sums[part];
    }
    return total;
}

/* Returns the first token at which the sum of the weights exceeds `target`, in the order of the ids. */
static long draw_plain(const Scratch *s, double target, long n) {
    double running = 0.0;
    long part = 0, token;
    while (part < parts_of(n) - 1 && running + s->sums[part] <= target) running += s->sums[part++];
    const long first = part * PART, end = first + PART < n ? first + PART : n;
    long drawn = first;
    for (token = first; token < end && running <= target; token++) { /* sums are rounded: stop at the last weight */
        running += s->weights[token];
        if (s->weights[token] > 0.0f) drawn = token;
    }
    return drawn;
}

/* --- places in the order of the weights --- */


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

/* Returns the place of a goal in a list whose weights have bits in [low, high), or the last one if it is not in there.
 * sum, count: of the tokens above the list. */
static Place find_in_list(Tokens list, unsigned low, unsigned high, Goal goal, double sum, long count,
                          const Scratch *s) {
    const Tokens found = {s->found, s->found_ids, 0};
    while (list.size > SHORT && high - low > 1) {
        int shift = 0;
        while ((high - low - 1) >> shift >= BINS) shift++;
        long bin = (high - low - 1) >> shift;
        count_bins(s->narrow, list.weights, list.size, low, shift, bin + 1, INFINITY, 1);
        for (; bin > 0 && !reached(goal, sum + s->narrow->sums[bin], count + s->narrow->counts[bin]); bin--) {
            sum += s->narrow->sums[bin];
            count += s->narrow->counts[bin];
        }
        low += (unsigned)bin << shift;
        high = low + (1u << shift);
        list = keep_between(list, low, high - low, found);
    }
    if (list.weights != found.weights) list = keep_between(list, low, high - low, found);
    sort(list);
    if (!list.size) return (Place){0, sum}; /* the weights are not numbers */
    long i = 0;
    for (; i < list.size; i++) {
        sum += list.weights[i];
        if (reached(goal, sum, ++count)) break;
    }
    return (Place){list.ids[i < list.size ? i : list.size - 1], sum};
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

/* Sets between which weights, as bits in [*low, *high), a goal beyond the best tokens is according to the guide. Returns
 * about how many tokens weigh more than the lower one. */
static double bracket(const Scratch *s, Goal goal, unsigned *low, unsigned *high) {
    const Histogram *h = s->guide;
    const double wanted = goal.count ? (double)goal.count - s->best.size : goal.sum - s->best_sum;
    const long last = (bits_of(s->lowest) - bits_of(FLOOR)) >> SHIFT;
    double all = 0.0, all_squares = 0.0, sum = 0.0, squares = 0.0, count = 0.0, scale = s->step;
    for (long bin = 0; bin < last; bin++) {
        all += goal.count ? h->counts[bin] : h->sums[bin];
        all_squares += goal.count ? h->counts[bin] : h->sums[bin] * weight_of(bin);
    }
    if (!goal.count && all > 0.0) scale = (s->total - s->best_sum) / all;
    int over = 0;
    *low = bits_of(FLOOR);
    *high = bits_of(s->lowest);
    for (long bin = last - 1; bin >= 0; bin--) {
        count += h->counts[bin];
        sum += goal.count ? h->counts[bin] : h->sums[bin];
        squares += goal.count ? h->counts[bin] : h->sums[bin] * weight_of(bin);
        /* Three standard deviations of a part of a sample whose total is known; without a sample, what rounding may be. */
        const double share = sum / all, others = all_squares - squares;
        const double variance = squares * (1.0 - share) * (1.0 - share) + others * share * share;
        const double error = s->step > 1 ? 3.0 * scale * sqrt(goal.count ? squares : variance) : 1e-6 * s->total;
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

/* Returns the place of a goal beyond the best tokens: in the bracket of a sample, else of all tokens, else anywhere. */
static Place find_beyond(Goal goal, long n, Scratch *s) {
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

/* Returns the place of a goal in a row. */
static Place find(Goal goal, long n, Scratch *s) {
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
static long draw_ranked(const Row *row, long n, Scratch *s) {
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

/* --- log probabilities --- */

/* Inserts a token into a list of at most `wanted` in descending order, after equal ones. Returns the new length. */
INLINE long insert(float value, long id, float *values, int *ids, long found, long wanted) {
    if (found == wanted && !(value > values[found - 1])) return found;
    long at = found < wanted ? found++ : found - 1;
    for (; at > 0 && values[at - 1] < value; at--) {
        values[at] = values[at - 1];
        ids[at] = ids[at - 1];
    }
    values[at] = value;
    ids[at] = (int)id;
    return found;
}

/* Writes the `wanted` tokens with the largest logits, in descending order, equal ones in the order of their ids. */
static void find_top(const float *logits, const float *peaks, float *values, int *ids, long wanted, long n) {
    if (wanted <= 0) return;
    long found = 0;
    for (long part = 0; part < parts_of(n); part++) found = insert(peaks[part], part, values, ids, found, wanted);
    const float least = found == wanted ? values[found - 1] : -INFINITY; /* as many parts have such a token */
    found = 0;
    for (long first = 0; first < n; first += PART) {
        if (peaks[first / PART] < least) continue;
        for (long token = first; token < n && token < first + PART; token++)
            if (logits[token] >= least) found = insert(logits[token], token, values, ids, found, wanted);
    }
}

/* --- a row --- */

/* Returns the first token whose logit is the highest. */
static long first_of(const float *x, const float *peaks, float highest) {
    long token = 0;
    while (peaks[token / PART] != highest) token += PART;
    while (x[token] != highest) token++;
    return token;
}

static void sample_row(const float *logits, Row *row, long n, Scratch *s) {
    const float own = find_peaks(logits, s->peaks, n, &row->finite);
    const float *x = logits;
    float highest = own;
    row->token = 0;
    if (!row->finite) return;
    if (row->logprobs >= 0) find_top(logits, s->peaks, row->top, row->top_ids, row->logprobs, n);
    if (row->num_bias || row->num_counted || row->allowed) {
        copy_allowed(logits, row, s->weights, n);
        adjust(row, s->weights, n);
        x = s->weights;
        highest = find_peaks(x, s->peaks, n, NULL);
    }
    if (highest == -INFINITY) {
        row->token = -1;
        return;
    }
    if (row->temperature <= 0.0f) {
        row->token = (int)first_of(x, s->peaks, highest);
    } else {
        s->total = weigh(x, highest, 1.0f / row->temperature, n, s);
        const int ranked = row->top_k > 0 || row->top_p < 1.0f || row->min_p > 0.0f;
        row->token = (int)(ranked ? draw_ranked(row, n, s) : draw_plain(s, row->number * s->total, n));
    }
    if (row->logprobs < 0) return;
    const double sum = x == logits && row->temperature == 1.0f ? s->total : weigh(logits, own, 1.0f, n, s);
    const float norm = own + (float)log(sum);
    row->logprob = logits[row->token] - norm;
    for (long i = 0; i < row->logprobs; i++) row->top[i] -= norm;
}

/* Returns the bytes of scratch memory that `sample` needs for each thread, a multiple of a cache line. */
long sample_scratch(long n) {
    const long bytes = 2 * sizeof(Histogram) + (parts_of(n) * (5 * PART + 2) + 4 * SPARE) * sizeof(float);
    return (bytes + 63) / 64 * 64;
}

/* Samples a token for each row of logits [rows, n], which are not changed. scratch: sample_scratch bytes a thread. */
void sample(const float *logits, Row *parameters, char *scratch, long rows, long n, long threads) {
    const long parts = parts_of(n), padded = parts * PART;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1 && rows * n > MANY)
    for (long row = 0; row < rows; row++) {
        Histogram *histograms = (Histogram *)(scratch + omp_get_thread_num() * sample_scratch(n));
        float *floats = (float *)(histograms + 2);
        float *best = floats + padded + 2 * parts, *found = best + padded + SPARE;
        int *ids = (int *)(found + padded + SPARE);
        Scratch s = {
            .weights = floats, .peaks = floats + padded, .sums = floats + padded + parts, .best = {best, ids, 0},
            .found = found, .found_ids = ids + padded + SPARE, .guide = histograms, .narrow = histograms + 1,
        };
        sample_row(logits + row * n, parameters + row, n, &s);
    }
}
