/* sample.c - see sample.h. Every pass over the vocabulary runs on vectors; only what survives the
 * thresholds is sorted. The arithmetic is plain float and double without fused operations, so one
 * seed draws one token on every machine that computes the same logits. A NaN logit counts as minus
 * infinity. */
#include "stage/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"

/* ---- history --------------------------------------------------------------------------------- */

#define HISTORY_FIRST 64 /* slots; a power of two */
#define HISTORY_SLOTS_MAX (1u << 24)

struct seen {
    int32_t token; /* -1: free */
    int32_t generated;
    int32_t prompted;
};

struct sl_history {
    struct seen *slots;
    uint32_t cap, len;
};

static struct seen *seen_slots(uint32_t cap)
{
    struct seen *s = malloc(sizeof(*s) * cap);
    for (uint32_t i = 0; s && i < cap; i++) s[i] = (struct seen){.token = -1};
    return s;
}

/* The slot of a token, or the free one where it belongs. */
static struct seen *seen_find(struct seen *slots, uint32_t cap, int32_t token)
{
    uint32_t i = (uint32_t)sl_mix64((uint32_t)token) & (cap - 1);
    while (slots[i].token != -1 && slots[i].token != token) i = (i + 1) & (cap - 1);
    return &slots[i];
}

struct sl_history *sl_history_create(void)
{
    struct sl_history *h = calloc(1, sizeof(*h));
    if (!h) return NULL;
    h->cap = HISTORY_FIRST;
    h->slots = seen_slots(h->cap);
    if (h->slots) return h;
    free(h);
    return NULL;
}

void sl_history_destroy(struct sl_history *h)
{
    if (!h) return;
    free(h->slots);
    free(h);
}

void sl_history_clear(struct sl_history *h)
{
    for (uint32_t i = 0; i < h->cap; i++) h->slots[i] = (struct seen){.token = -1};
    h->len = 0;
}

static int history_grow(struct sl_history *h)
{
    if (h->cap >= HISTORY_SLOTS_MAX) return SL_ENOMEM;
    struct seen *slots = seen_slots(2 * h->cap);
    if (!slots) return SL_ENOMEM;
    for (uint32_t i = 0; i < h->cap; i++)
        if (h->slots[i].token != -1) *seen_find(slots, 2 * h->cap, h->slots[i].token) = h->slots[i];
    free(h->slots);
    h->slots = slots;
    h->cap *= 2;
    return 0;
}

int sl_history_add(struct sl_history *h, int32_t token, int generated)
{
    if (token < 0) return 0; /* no token: nothing to remember */
    struct seen *s = seen_find(h->slots, h->cap, token);
    if (s->token == -1) {
        if (h->len >= h->cap / 2) {
            int rc = history_grow(h);
            if (rc) return rc;
            s = seen_find(h->slots, h->cap, token);
        }
        h->len++;
        s->token = token;
    }
    if (!generated)
        s->prompted = 1;
    else if (s->generated < INT32_MAX)
        s->generated++;
    return 0;
}

/* ---- passes over the vocabulary -------------------------------------------------------------- */

#define LANES 4
#define BLOCK 1024 /* logits */
#define ROUND_MAGIC                                                                                \
    12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define LOG2E 1.44269504088896340736

/* Vectors as the compiler offers them for every CPU: plain loops with these conditions stay scalar.
 */
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

static inline vf all(float x)
{
    return (vf){x, x, x, x};
}

/* n >= 1 logits as a vector, filled up with minus infinity. */
static inline vf load(const float *x, int n)
{
    vf v = all(-INFINITY);
    if (n >= LANES)
        memcpy(&v, x, sizeof(v));
    else
        memcpy(&v, x, sizeof(*x) * (size_t)n);
    return v;
}

static inline vf choose(vu mask, vf a, vf b)
{
    return (vf)(((vu)a & mask) | ((vu)b & ~mask));
}

/* exp((x - max) * by / log2(e)), relative error below 2^-22: 1 at the maximum (also an infinite
 * one), 0 for NaN and for what is below 2^-126. */
static inline vf weights(vf x, float max, float by)
{
    vf d = (x - all(max)) * all(by), least = all(-126.0f), magic = all(ROUND_MAGIC);
    vu keep = (vu)(d > least);
    d = choose(keep, d, least);
    vf shifted = d + magic, f = d - (shifted - magic);
    vf p = all(1.54531629e-4f);
    p = p * f + all(1.33908634e-3f);
    p = p * f + all(9.61808256e-3f);
    p = p * f + all(5.55035711e-2f);
    p = p * f + all(2.40226508e-1f);
    p = p * f + all(6.93147188e-1f);
    p = p * f + all(1.0f);
    vf w = p * (vf)(((vu)shifted << 23) + 0x3f800000u);
    return choose((vu)(x == all(max)), all(1.0f), (vf)((vu)w & keep));
}

static float block_max(const float *x, int n)
{
    vf m[4] = {all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY)};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int u = 0; u < 4; u++) {
            vf v = load(x + i + u * LANES, LANES);
            m[u] = choose((vu)(v > m[u]), v, m[u]); /* false for NaN */
        }
    for (; i < n; i += LANES) {
        vf v = load(x + i, n - i);
        m[0] = choose((vu)(v > m[0]), v, m[0]);
    }
    float best = -INFINITY;
    for (int u = 0; u < 4; u++)
        for (int l = 0; l < LANES; l++) best = m[u][l] > best ? m[u][l] : best;
    return best;
}

/* The lowest id with the largest logit; -1 when every logit is minus infinity or NaN. */
static int32_t argmax(const float *x, int n)
{
    float best = -INFINITY;
    int at = -1;
    for (int i = 0; i < n; i += BLOCK) {
        float m = block_max(x + i, SL_MIN(BLOCK, n - i));
        if (m > best) {
            best = m;
            at = i;
        }
    }
    if (at < 0) return -1;
    while (x[at] != best) at++;
    return at;
}

static double block_mass(const float *x, int n, float max, float by)
{
    vf sum[2] = {all(0), all(0)};
    double total = 0;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int u = 0; u < 2; u++) sum[u] += weights(load(x + i + u * LANES, LANES), max, by);
    for (; i < n; i += LANES) sum[0] += weights(load(x + i, n - i), max, by);
    sum[0] += sum[1];
    for (int l = 0; l < LANES; l++) total += (double)sum[0][l];
    return total;
}

/* The sum of all weights. */
static double mass_of(const float *x, int n, float max, float by)
{
    double total = 0;
    for (int i = 0; i < n; i += BLOCK) total += block_mass(x + i, SL_MIN(BLOCK, n - i), max, by);
    return total;
}

double sl_logprob(const float *logits, int n_vocab, int32_t token)
{
    SL_ASSERT(token >= 0 && token < n_vocab);
    int32_t best = argmax(logits, n_vocab);
    if (best < 0 || isnan(logits[token])) return -INFINITY;
    double max = logits[best], sum = 0;
    if (isinf(max)) { /* shared by the infinite ones */
        for (int i = 0; i < n_vocab; i++) sum += logits[i] == logits[best];
        return logits[token] == logits[best] ? -log(sum) : -INFINITY;
    }
    for (int i = 0; i < n_vocab; i++) {
        double d = (double)logits[i] - max;
        if (d > -60) sum += exp(d); /* all others together are below 2^-60 of it */
    }
    return (double)logits[token] - max - log(sum);
}

/* ---- candidates ------------------------------------------------------------------------------ */

struct cand {
    float x; /* logit */
    float w; /* weight */
    int32_t id;
};

struct sl_sampler {
    int n_vocab;
    float *adjusted;    /* [n_vocab] logits after penalties and bias */
    struct cand *cands; /* [n_vocab] */
};

struct sl_sampler *sl_sampler_create(int n_vocab)
{
    SL_ASSERT(n_vocab > 0);
    struct sl_sampler *s = calloc(1, sizeof(*s));
    if (!s) return NULL;
    s->n_vocab = n_vocab;
    s->adjusted = malloc(sizeof(*s->adjusted) * (size_t)n_vocab);
    s->cands = malloc(sizeof(*s->cands) * (size_t)n_vocab);
    if (s->adjusted && s->cands) return s;
    sl_sampler_destroy(s);
    return NULL;
}

void sl_sampler_destroy(struct sl_sampler *s)
{
    if (!s) return;
    free(s->adjusted);
    free(s->cands);
    free(s);
}

/* a comes after b: smaller, or equal and of the higher id. */
static int after(const struct cand *a, const struct cand *b)
{
    return a->x < b->x || (a->x == b->x && a->id > b->id);
}

/* Restores the heap of n whose root comes last, below `i`. */
static void sift(struct cand *c, int n, int i)
{
    struct cand v = c[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && after(&c[child + 1], &c[child])) child++;
        if (!after(&c[child], &v)) break;
        c[i] = c[child];
    }
    c[i] = v;
}

static void heapify(struct cand *c, int n)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift(c, n, i);
}

/* Best first. c is such a heap. */
static void sort_heap(struct cand *c, int n)
{
    while (n > 1) {
        struct cand last = c[0];
        c[0] = c[--n];
        c[n] = last;
        sift(c, n, 0);
    }
}

/* The k best of x into c, best first; returns how many there are (NaN and minus infinity never
 * count). */
static int select_best(const float *x, int n, int k, struct cand *c)
{
    int have = 0;
    for (int i = 0; i < n; i++) {
        if (have == k) {
            if (!(x[i] > c[0].x)) continue; /* an equal one has the higher id */
            c[0] = (struct cand){.x = x[i], .id = i};
            sift(c, k, 0);
        } else if (x[i] > -INFINITY) {
            c[have++] = (struct cand){.x = x[i], .id = i};
            if (have == k) heapify(c, k);
        }
    }
    if (have < k) heapify(c, have);
    sort_heap(c, have);
    return have;
}

/* Every id whose weight is above zero and at least `least`, in order of id. */
static int gather(const float *x, int n, float max, float by, float least, struct cand *c)
{
    int have = 0;
    for (int i = 0; i < n; i += LANES) {
        vf w = weights(load(x + i, n - i), max, by);
        vu keep = (vu)(w > all(0)) & (vu)(w >= all(least));
        if (!(keep[0] | keep[1] | keep[2] | keep[3])) continue;
        for (int l = 0; l < LANES; l++)
            if (keep[l]) c[have++] = (struct cand){.x = x[i + l], .w = w[l], .id = i + l};
    }
    return have;
}

/* The shortest sorted prefix that holds top_p of `mass`, at least one. */
static int cut_top_p(const struct cand *c, int n, double mass, float top_p)
{
    double sum = 0, want = mass * (double)top_p;
    for (int i = 0; i < n; i++) {
        sum += (double)c[i].w;
        if (sum >= want) return i + 1;
    }
    return n;
}

/* The nucleus without sorting the vocabulary: gather what is above a threshold, lower it until the
 * mass suffices. */
static int nucleus(const float *x, int n, float max, float by, float top_p, struct cand *c)
{
    static const float least[] = {1e-2f, 1e-4f, 1e-7f, 0};
    double mass = mass_of(x, n, max, by);
    int have = 0;
    for (size_t t = 0; t < SL_ARRAY_LEN(least); t++) {
        have = gather(x, n, max, by, least[t], c);
        double sum = 0;
        for (int i = 0; i < have; i++) sum += (double)c[i].w;
        if (sum >= mass * (double)top_p) break;
    }
    heapify(c, have);
    sort_heap(c, have);
    return cut_top_p(c, have, mass, top_p);
}

/* ---- the draw -------------------------------------------------------------------------------- */

static int has_penalties(const struct sl_sampling *p)
{
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
           p->frequency_penalty != 0.0f;
}

/* Logits after penalties and bias; `logits` itself when there are none. */
static const float *adjust(struct sl_sampler *s, const float *logits, const struct sl_sampling *p,
                           const struct sl_history *h)
{
    int penalties = h && h->len && has_penalties(p);
    if (!penalties && p->n_bias <= 0) return logits;
    memcpy(s->adjusted, logits, sizeof(*logits) * (size_t)s->n_vocab);
    for (uint32_t i = 0; penalties && i < h->cap; i++) {
        const struct seen *t = &h->slots[i];
        if (t->token < 0 || t->token >= s->n_vocab) continue;
        float *x = &s->adjusted[t->token];
        if (p->repetition_penalty > 0)
            *x = *x > 0 ? *x / p->repetition_penalty : *x * p->repetition_penalty;
        if (t->generated) *x -= p->presence_penalty + p->frequency_penalty * (float)t->generated;
    }
    for (int i = 0; i < SL_MIN(p->n_bias, SL_LOGIT_BIAS_MAX); i++)
        if (p->bias[i].token >= 0 && p->bias[i].token < s->n_vocab)
            s->adjusted[p->bias[i].token] += p->bias[i].bias;
    return s->adjusted;
}

/* The sum of the biases of a token; *first: whether entry `at` is its first. */
static float bias_of(const struct sl_sampling *p, int32_t token, int at, int *first)
{
    float sum = 0;
    *first = 1;
    for (int i = 0; i < SL_MIN(p->n_bias, SL_LOGIT_BIAS_MAX); i++) {
        if (p->bias[i].token != token) continue;
        if (i < at) *first = 0;
        sum += p->bias[i].bias;
    }
    return sum;
}

int sl_sample_adjustments(const struct sl_sampling *p, const struct sl_history *h, int n_vocab,
                          struct sl_adjust *out, int max)
{
    int n = 0, first, penalties = h && h->len && has_penalties(p);
    for (uint32_t i = 0; penalties && i < h->cap; i++) {
        const struct seen *t = &h->slots[i];
        if (t->token < 0 || t->token >= n_vocab) continue;
        if (n == max) return -1;
        out[n] = (struct sl_adjust){t->token, p->repetition_penalty > 0 ? p->repetition_penalty : 1,
                                    bias_of(p, t->token, 0, &first)};
        if (t->generated)
            out[n].add -= p->presence_penalty + p->frequency_penalty * (float)t->generated;
        n++;
    }
    for (int i = 0; i < SL_MIN(p->n_bias, SL_LOGIT_BIAS_MAX); i++) {
        int32_t token = p->bias[i].token;
        float add = bias_of(p, token, i, &first);
        if (token < 0 || token >= n_vocab || !first) continue;
        if (penalties && seen_find(h->slots, h->cap, token)->token == token) continue;
        if (n == max) return -1;
        out[n++] = (struct sl_adjust){token, 1, add};
    }
    return n;
}

/* Uniform in [0, 1), 53 bits. */
double sl_sample_chance(uint64_t seed, int32_t pos)
{
    return (double)(sl_mix64(sl_mix64(seed) + (uint32_t)pos) >> 11) * 0x1p-53;
}

static int32_t pick(const struct cand *c, int n, double u)
{
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) total += (double)c[i].w;
    for (int i = 0; i < n; i++) {
        sum += (double)c[i].w;
        if (sum > u * total) return c[i].id;
    }
    return c[n - 1].id; /* rounding only */
}

/* A token drawn from x, whose maximum is at `best`. */
static int32_t draw(struct sl_sampler *s, const float *x, const struct sl_sampling *p, int32_t best,
                    int32_t pos)
{
    struct cand *c = s->cands;
    float max = x[best], by = (float)(LOG2E / (double)p->temperature);
    float min_p = SL_MIN(p->min_p, 1.0f);
    int n, n_vocab = s->n_vocab;
    if (p->top_k > 0 && p->top_k < n_vocab) {
        double mass = 0;
        n = select_best(x, n_vocab, p->top_k, c);
        for (int i = 0; i < n; i++) mass += (double)(c[i].w = weights(all(c[i].x), max, by)[0]);
        if (p->top_p < 1.0f) n = cut_top_p(c, n, mass, p->top_p);
    } else if (p->top_p < 1.0f) {
        n = nucleus(x, n_vocab, max, by, p->top_p, c);
    } else {
        n = gather(x, n_vocab, max, by, min_p, c);
    }
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (c[i].w >= min_p) c[kept++] = c[i];
    return pick(c, kept, sl_sample_chance(p->seed, pos));
}

void sl_sample(struct sl_sampler *s, const float *logits, const struct sl_sampling *p,
               const struct sl_history *h, int32_t pos, struct sl_sampled *out)
{
    const float *x = adjust(s, logits, p, h);
    int32_t best = argmax(x, s->n_vocab);
    out->pos = pos;
    out->n_top = 0;
    out->token = 0;
    out->logprob = -INFINITY;
    if (best < 0) return; /* nothing but NaN and minus infinity */
    out->token = p->temperature > 0 ? draw(s, x, p, best, pos) : best;
    double log_mass = log(mass_of(x, s->n_vocab, x[best], (float)LOG2E));
    float d = x[out->token] == x[best] ? 0 : x[out->token] - x[best]; /* not inf - inf */
    out->logprob = (float)((double)d - log_mass);
    int n_top = SL_MAX(0, SL_MIN(SL_MIN(p->n_top, SL_TOP_LOGPROBS_MAX), s->n_vocab));
    if (!n_top) return;
    out->n_top = select_best(x, s->n_vocab, n_top, s->cands);
    for (int i = 0; i < out->n_top; i++) {
        d = s->cands[i].x == x[best] ? 0 : s->cands[i].x - x[best];
        out->top[i] = (struct sl_top){s->cands[i].id, (float)((double)d - log_mass)};
    }
}
