/* Sampling: from the logits of each row to its token, by the row's own parameters and its own random number. A row
 * depends on nothing else of the batch. */
#include <immintrin.h>
#include <string.h>

#include "sampling.h"

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
