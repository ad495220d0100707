/* test_draw.c - tokens drawn by the device against stage/sample.c: the same seeds, penalties and
 * truncations over vocabularies of every size and logits of every shape. Weights agree to the bit,
 * so tokens must; only where the host's own sum of weights rounds, its neighbour in the order of
 * logits may be drawn, which is checked. "bench" prints what a draw takes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "kernels/cuda/rows.h"
#include "stage/sample.h"
#include "tests/gpu/gpu.h"

#define ROWS 33
#define ADJUSTS_MAX (64 * ROWS) /* room of the test's step */
#define MASS_ERROR 2e-5         /* of the host's sum, relative */

static int failures, drawn, beside;

static void expect(int ok, const char *what, int row, int n_vocab, double value, double wanted)
{
    if (ok) return;
    if (++failures < 40)
        printf("FAILED %s, row %d of %d logits: %g, not %g\n", what, row, n_vocab, value, wanted);
}

/* ---- logits ---------------------------------------------------------------------------------- */

enum shape { NORMAL, WIDE, FLAT, EQUAL, STEPS, HOSTILE, INFINITE, NOTHING, PEAK, FAR, SHAPES };

static float logit(enum shape s, int i, int n, uint64_t *seed)
{
    float x = gpu_normal(seed);
    switch (s) {
    case NORMAL:
        return 3 * x;
    case WIDE:
        return 20 * x - 15;
    case FLAT:
        return 0.01f * x;
    case EQUAL:
        return -2.5f;
    case STEPS:
        return roundf(x);
    case HOSTILE:
        return i % 7 == 3 ? NAN : i % 5 == 1 ? -INFINITY : i % 11 == 0 ? -0.0f : 4 * x;
    case INFINITE:
        return i % 97 == 13 ? INFINITY : x;
    case NOTHING:
        return i % 2 ? NAN : -INFINITY;
    case PEAK:
        return i == n / 2 ? 50 : x;
    default: /* everything but one is far below: the last bin of the first digit */
        return i == n / 3 ? 10 : -1000 - fabsf(x);
    }
}

/* ---- parameters ------------------------------------------------------------------------------ */

static const float temperatures[] = {0, 1, 0.7f, 3, 1e-3f, 100};
static const int top_ks[] = {0, 40, 1, 300, 5, 1 << 30, 5000};
static const float top_ps[] = {1, 0.95f, 0.5f, 0.999f, 0, 1e-3f};
static const float min_ps[] = {0, 0, 0.05f, 1e-6f, 2};
#define PICK(list, seed) list[(size_t)(sl_mix64((*seed)++) % SL_ARRAY_LEN(list))]

static void some_sampling(struct sl_sampling *p, uint64_t *seed)
{
    memset(p, 0, sizeof *p);
    p->temperature = PICK(temperatures, seed);
    p->top_k = PICK(top_ks, seed);
    p->top_p = PICK(top_ps, seed);
    p->min_p = PICK(min_ps, seed);
    p->seed = sl_mix64((*seed)++);
    p->repetition_penalty = 1;
    p->n_top = (int)(sl_mix64((*seed)++) % 4) * 7 - 1; /* -1 6 13 20 */
    if (p->n_top < 0) p->n_top = 0;
}

/* Penalties over a history on one row in four, biases on another. */
static struct sl_history *some_adjusts(struct sl_sampling *p, int row, int n_vocab, uint64_t *seed)
{
    struct sl_history *h = sl_history_create();
    if (!h) exit(1);
    for (int i = 0; row % 4 == 1 && i < 40; i++)
        sl_history_add(h, (int32_t)(sl_mix64((*seed)++) % (uint64_t)n_vocab), i % 3);
    if (row % 4 == 1) {
        p->repetition_penalty = 1.25f;
        p->presence_penalty = 0.5f;
        p->frequency_penalty = -1.5f;
    }
    for (int i = 0; row % 4 == 3 && i < 30; i++)
        p->bias[p->n_bias++] = (struct sl_logit_bias){
            (int32_t)(sl_mix64((*seed)++) % (uint64_t)(n_vocab + n_vocab / 5)),
            i == 7 ? 100 : 5 * gpu_uniform(seed)};
    return h;
}

/* ---- the host's answer ----------------------------------------------------------------------- */

struct cand {
    float x;
    int id;
};

static int by_order(const void *a, const void *b)
{
    const struct cand *p = a, *q = b;
    if (p->x != q->x) return p->x > q->x ? -1 : 1;
    return (p->id > q->id) - (p->id < q->id);
}

/* Whether `token` may be drawn when sums are MASS_ERROR wrong: the order of logits, truncated as
 * sample.h says, in doubles. */
static int plausible(const float *x, int n_vocab, const struct sl_sampling *p, double chance,
                     int token)
{
    struct cand *c = malloc(sizeof *c * (size_t)n_vocab);
    int n = 0, truncated = (p->top_k > 0 && p->top_k < n_vocab) || p->top_p < 1, ok = 0;
    float max = -INFINITY;
    for (int i = 0; i < n_vocab; i++)
        if (x[i] > -INFINITY) {
            c[n++] = (struct cand){x[i], i};
            max = fmaxf(max, x[i]);
        }
    if (truncated) qsort(c, (size_t)n, sizeof *c, by_order);
    double *w = malloc(sizeof *w * (size_t)n), mass = 0, kept = 0, sum = 0;
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    for (int i = 0; i < n; i++) {
        w[i] = c[i].x == max ? 1 : exp((double)(c[i].x - max) / (double)p->temperature);
        mass += w[i];
    }
    for (int i = 0; i < n; i++) {
        if (p->top_p < 1 && i && sum >= mass * (double)p->top_p) break;
        sum += w[i];
        if (w[i] < (double)SL_MIN(p->min_p, 1.0f)) w[i] = 0;
        kept += w[i];
    }
    sum = 0;
    for (int i = 0; i < n && !ok; i++) {
        double slack = MASS_ERROR * mass;
        if (c[i].id == token)
            ok = sum <= chance * kept + slack && sum + w[i] >= chance * kept - slack;
        sum += w[i];
    }
    free(c), free(w);
    return ok;
}

static int near(float a, float b)
{
    return a == b || fabsf(a - b) <= 3e-5f + 1e-6f * fabsf(b);
}

static void check_draw(const struct sl_drawn *got, const struct sl_sampled *want, const float *x,
                       int n_vocab, const struct sl_sampling *p, int32_t pos, int row)
{
    drawn++;
    if (got->token != want->token) {
        int ok = p->temperature > 0 && got->token >= 0 && got->token < n_vocab &&
                 plausible(x, n_vocab, p, sl_sample_chance(p->seed, pos), got->token);
        expect(ok, "token", row, n_vocab, got->token, want->token);
        if (!ok && failures < 40)
            printf("  temperature %g top_k %d top_p %g min_p %g\n", (double)p->temperature,
                   p->top_k, (double)p->top_p, (double)p->min_p);
        beside++;
    } else {
        expect(near(got->logprob, want->logprob), "logprob", row, n_vocab, (double)got->logprob,
               (double)want->logprob);
    }
    expect(got->n_top == want->n_top, "n_top", row, n_vocab, got->n_top, want->n_top);
    for (int i = 0; i < SL_MIN(got->n_top, want->n_top); i++) {
        expect(got->top[i] == want->top[i].token, "alternative", row, n_vocab, got->top[i],
               want->top[i].token);
        expect(near(got->top_logprob[i], want->top[i].logprob), "its logprob", row, n_vocab,
               (double)got->top_logprob[i], (double)want->top[i].logprob);
    }
}

/* ---- one step -------------------------------------------------------------------------------- */

struct step {
    struct sl_sampling *sampling;
    struct sl_history *history[ROWS];
    struct sl_draw draw[ROWS];
    int32_t next[ROWS];
    struct sl_adjust adjust[ADJUSTS_MAX];
    int n_adjust;
};

static void plan(struct step *s, int n, int n_vocab, uint64_t *seed)
{
    s->n_adjust = 0;
    for (int i = 0; i < n; i++) {
        struct sl_sampling *p = &s->sampling[i];
        some_sampling(p, seed);
        s->history[i] = some_adjusts(p, i, n_vocab, seed);
        int has = sl_sample_adjustments(p, s->history[i], n_vocab, s->adjust + s->n_adjust,
                                        ADJUSTS_MAX - s->n_adjust);
        if (has < 0) exit(1);
        s->draw[i] = (struct sl_draw){.temperature = p->temperature,
                                      .top_k = p->top_k,
                                      .top_p = p->top_p,
                                      .min_p = p->min_p,
                                      .chance = sl_sample_chance(p->seed, 100 + i),
                                      .n_top = p->n_top,
                                      .first_adjust = s->n_adjust,
                                      .n_adjust = has};
        s->n_adjust += has;
        s->next[i] = i % 3 ? -1 : (int32_t)(sl_mix64((*seed)++) % (uint64_t)n_vocab);
        if (i % 8 == 6) s->draw[i].n_top = -1; /* nothing is drawn */
    }
}

static void upload(struct sl_cuda *c, const struct step *s, int first, int n)
{
    gpu_write(c->step.draw + first, s->draw, sizeof *s->draw * (size_t)n);
    gpu_write(c->step.next + first, s->next, sizeof *s->next * (size_t)n);
    gpu_write(c->step.adjust, s->adjust, sizeof *s->adjust * (size_t)s->n_adjust);
}

static void check_step(struct sl_cuda *c, struct sl_sampler *sampler, struct step *s, int first,
                       int n, int n_vocab, uint64_t *seed)
{
    static struct sl_drawn got[ROWS];
    float scored[ROWS], *x = malloc(sizeof *x * (size_t)n * (size_t)n_vocab);
    for (int i = 0; i < n; i++) {
        enum shape shape = (enum shape)(sl_mix64((*seed)++) % SHAPES);
        for (int k = 0; k < n_vocab; k++)
            x[(int64_t)i * n_vocab + k] = logit(shape, k, n_vocab, seed);
    }
    plan(s, n, n_vocab, seed);
    upload(c, s, first, n);
    memset(got, 0x55, sizeof got);
    gpu_write(c->step.drawn + first, got, sizeof *got * (size_t)n);
    void *logits = gpu_copy(x, sizeof *x * (size_t)n * (size_t)n_vocab);
    sl_cuda_draw(c, logits, first, n, n_vocab);
    gpu_read(c, got, c->step.drawn + first, sizeof *got * (size_t)n);
    gpu_read(c, scored, c->step.scored + first, sizeof *scored * (size_t)n);
    for (int i = 0; i < n; i++) {
        const float *row = x + (int64_t)i * n_vocab;
        struct sl_sampled want;
        if (s->next[i] >= 0) {
            double lp = sl_logprob(row, n_vocab, s->next[i]);
            expect(near(scored[i], (float)lp), "score", i, n_vocab, (double)scored[i], lp);
        }
        if (s->draw[i].n_top < 0) {
            expect(got[i].token == 0x55555555, "not drawn", i, n_vocab, got[i].token, 0x55555555);
        } else {
            sl_sample(sampler, row, &s->sampling[i], s->history[i], 100 + i, &want);
            check_draw(&got[i], &want, row, n_vocab, &s->sampling[i], 100 + i, i);
        }
        sl_history_destroy(s->history[i]);
    }
    gpu_free(logits);
    free(x);
}

static void check_all(struct sl_cuda *c, struct step *s)
{
    static const int sizes[][3] = {/* n_vocab, rows, times */
                                   {1, 3, 4},       {2, 5, 4},      {5, 9, 20},     {127, 33, 20},
                                   {1000, 33, 20},  {4099, 33, 20}, {32000, 16, 6}, {50257, 16, 6},
                                   {128256, 16, 6}, {151936, 7, 4}, {262144, 4, 4}, {450001, 3, 3},
                                   {1 << 20, 2, 3}};
    uint64_t seed = 77;
    for (size_t i = 0; i < SL_ARRAY_LEN(sizes); i++) {
        struct sl_sampler *sampler = sl_sampler_create(sizes[i][0]);
        if (!sampler) exit(1);
        for (int t = 0; t < sizes[i][2]; t++)
            check_step(c, sampler, s, t % 3, sizes[i][1], sizes[i][0], &seed);
        sl_sampler_destroy(sampler);
    }
    expect(beside * 100 <= drawn, "draws beside the host's", -1, 0, beside, 0);
    printf("%d draws, %d of them next to the host's\n", drawn, beside);
}

/* ---- bench ----------------------------------------------------------------------------------- */

struct bench {
    struct sl_cuda *c;
    float *logits;
    int n, n_vocab;
};

static void bench_call(void *arg, int call)
{
    struct bench *b = arg;
    (void)call;
    sl_cuda_draw(b->c, b->logits, 0, b->n, b->n_vocab);
}

static void bench(struct sl_cuda *c, struct step *s)
{
    static const int vocabs[] = {32000, 128256, 151936, 201088, 262144};
    static const int counts[] = {1, 8, 30};
    static const struct {
        const char *name;
        struct sl_draw d;
    } how[] = {
        {"greedy", {.top_p = 1}},
        {"greedy, 5 alternatives", {.top_p = 1, .n_top = 5}},
        {"temperature 1", {.temperature = 1, .top_p = 1}},
        {"top-k 40", {.temperature = 1, .top_k = 40, .top_p = 1}},
        {"top-k 40, top-p 0.95", {.temperature = 0.7f, .top_k = 40, .top_p = 0.95f}},
        {"top-p 0.95", {.temperature = 1, .top_p = 0.95f}},
        {"top-p 0.95, temperature 2", {.temperature = 2, .top_p = 0.95f}},
    };
    enum { N = 30, VOCAB = 262144 };
    uint64_t seed = 5;
    float *x = malloc(sizeof *x * N * VOCAB);
    for (int i = 0; i < N * VOCAB; i++) x[i] = 3 * gpu_normal(&seed);
    struct bench b = {.c = c, .logits = gpu_copy(x, sizeof *x * N * VOCAB)};
    for (size_t v = 0; v < SL_ARRAY_LEN(vocabs); v++)
        for (size_t h = 0; h < SL_ARRAY_LEN(how); h++) {
            printf("%6d %-26s", vocabs[v], how[h].name);
            for (size_t i = 0; i < SL_ARRAY_LEN(counts); i++) {
                for (int k = 0; k < N; k++) {
                    s->draw[k] = how[h].d;
                    s->draw[k].chance = sl_sample_chance(3, k);
                    s->next[k] = -1;
                }
                upload(c, s, 0, N);
                b.n = counts[i];
                b.n_vocab = vocabs[v];
                printf("  n %2d %6.2f us", b.n, 1e6 * gpu_time_graph(c, 7, 50, bench_call, &b));
            }
            printf("\n");
        }
    gpu_free(b.logits);
    free(x);
}

int main(int argc, char **argv)
{
    struct sl_cuda *c = gpu_open(1, 2 * ROWS, 1, 1, 16);
    static struct step s;
    s.sampling = calloc(ROWS, sizeof *s.sampling);
    if (argc > 1 && !strcmp(argv[1], "bench"))
        bench(c, &s);
    else
        check_all(c, &s);
    free(s.sampling);
    gpu_close(c);
    printf("%s\n", failures ? "FAILED" : "ok");
    return failures != 0;
}
