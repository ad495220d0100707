/* test_sample.c - the sampler against the plainest code that follows the same rules, its
 * determinism and its distribution. */
#include "stage/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"
#include "base/sl_assert.h"

static struct sl_sampling plain(void)
{
    return (struct sl_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};
}

static void fill(float *x, int n, uint64_t seed, float scale)
{
    for (int i = 0; i < n; i++)
        x[i] = ((float)(sl_mix64(seed * 1000003 + (uint64_t)i) >> 40) * 0x1p-23f - 1) * scale;
}

/* ---- slow and plain -------------------------------------------------------------------------- */

struct slow {
    double x; /* logit */
    double w;
    int id;
};

static int by_logit(const void *a, const void *b)
{
    const struct slow *p = a, *q = b;
    return p->x != q->x ? (p->x < q->x) - (p->x > q->x) : p->id - q->id;
}

/* Which ids survive, sorted, their weights: all the rules after the bias. Returns how many. */
static int slow_survivors(const float *x, int n, const struct sl_sampling *p, struct slow *s)
{
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) s[i] = (struct slow){x[i], 0, i};
    qsort(s, (size_t)n, sizeof(*s), by_logit);
    if (p->top_k > 0) n = SL_MIN(n, p->top_k);
    for (int i = 0; i < n; i++) {
        s[i].w = exp((s[i].x - s[0].x) / (double)p->temperature);
        total += s[i].w;
    }
    int keep = 0;
    while (keep < n && (keep == 0 || p->top_p >= 1 || sum < total * (double)p->top_p))
        sum += s[keep++].w;
    while (keep > 1 && s[keep - 1].w < (double)p->min_p) keep--;
    return keep;
}

/* ---- rules ----------------------------------------------------------------------------------- */

/* Over many positions exactly the survivors appear, each about as often as its weight says
 * (chi-square, 4 sigma). */
static void check_distribution(const float *x, int n, const struct sl_sampling *p, int draws)
{
    struct slow *s = malloc(sizeof(*s) * (size_t)n);
    int *seen = calloc((size_t)n, sizeof(int));
    int keep = slow_survivors(x, n, p, s), cells = 0;
    struct sl_sampler *sampler = sl_sampler_create(n);
    for (int pos = 0; pos < draws; pos++) {
        struct sl_sampled out;
        sl_sample(sampler, x, p, NULL, pos, &out);
        assert_in_range(out.token, 0, n - 1);
        seen[out.token]++;
    }
    double total = 0, chi = 0, rare = 0, rare_seen = 0;
    int all = 0;
    for (int i = 0; i < keep; i++) total += s[i].w;
    for (int i = 0; i < keep; i++) {
        double want = s[i].w / total * draws;
        all += seen[s[i].id];
        if (want < 10) {
            rare += want;
            rare_seen += seen[s[i].id];
            continue;
        }
        chi += (seen[s[i].id] - want) * (seen[s[i].id] - want) / want;
        cells++;
    }
    assert_int_equal(all, draws); /* nothing else was drawn */
    if (rare >= 10) {
        chi += (rare_seen - rare) * (rare_seen - rare) / rare;
        cells++;
    }
    int freedom = SL_MAX(cells - 1, 1);
    if (chi > freedom + 4 * sqrt(2.0 * freedom) + 4)
        fail_msg("chi-square %g at %d cells", chi, cells);
    sl_sampler_destroy(sampler);
    free(s);
    free(seen);
}

static void distributions_follow_the_rules(void **state)
{
    (void)state;
    enum { N = 300, DRAWS = 100000 };
    float x[N];
    fill(x, N, 1, 4);
    struct sl_sampling p = plain();
    check_distribution(x, N, &p, DRAWS);
    p.temperature = 0.5f;
    check_distribution(x, N, &p, DRAWS);
    p.top_k = 7;
    check_distribution(x, N, &p, DRAWS);
    p = plain();
    p.top_p = 0.63f;
    check_distribution(x, N, &p, DRAWS);
    p.top_k = 40;
    check_distribution(x, N, &p, DRAWS);
    p.min_p = 0.3f;
    check_distribution(x, N, &p, DRAWS);
    p = plain();
    p.min_p = 0.1f;
    p.temperature = 2;
    check_distribution(x, N, &p, DRAWS);
    p = plain();
    p.top_p = 0.999f;
    p.temperature = 3;
    check_distribution(x, N, &p, DRAWS);
}

/* On flat and steep logits of several sizes: the set of survivors is right at the cuts (seen
 * through min draws). */
static void survivors_at_random_settings(void **state)
{
    (void)state;
    for (uint64_t t = 0; t < 60; t++) {
        int n = 1 + (int)(sl_mix64(t) % 40);
        float x[40];
        fill(x, n, t + 100, (float)(1 + t % 5));
        struct sl_sampling p = plain();
        p.temperature = 0.25f + (float)(sl_mix64(t + 1000) % 8) * 0.25f;
        p.top_k = (int32_t)(sl_mix64(t + 2000) % 45);
        p.top_p = t % 3 ? 1.0f - (float)(sl_mix64(t + 3000) % 90) * 0.01f : 1.0f;
        p.min_p = t % 2 ? (float)(sl_mix64(t + 4000) % 50) * 0.01f : 0.0f;
        p.seed = t;
        check_distribution(x, n, &p, 3000);
    }
}

static void greedy_takes_the_first_of_equals(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 15, 16, 17, 1023, 1024, 1025, 49152, 262144};
    for (size_t i = 0; i < SL_ARRAY_LEN(sizes); i++) {
        int n = sizes[i];
        float *x = malloc(sizeof(float) * (size_t)n);
        struct sl_sampler *s = sl_sampler_create(n);
        struct sl_sampling p = plain();
        struct sl_sampled out;
        p.temperature = 0;
        for (int t = 0; t < 8; t++) {
            fill(x, n, (uint64_t)t, 5);
            int a = (int)(sl_mix64((uint64_t)t) % (uint64_t)n),
                b = (int)(sl_mix64((uint64_t)t + 50) % (uint64_t)n);
            x[a] = x[b] = 9;
            sl_sample(s, x, &p, NULL, t, &out);
            assert_int_equal(out.token, SL_MIN(a, b));
            assert_int_equal(out.pos, t);
            assert_true(fabs((double)out.logprob - sl_logprob(x, n, out.token)) < 1e-5);
        }
        sl_sampler_destroy(s);
        free(x);
    }
}

static void logprobs_and_alternatives(void **state)
{
    (void)state;
    enum { N = 1000 };
    float x[N];
    fill(x, N, 9, 6);
    x[17] = x[900] = 7; /* a tie for the second place */
    x[5] = 8;
    struct sl_sampler *s = sl_sampler_create(N);
    struct slow sorted[N];
    struct sl_sampling p = plain();
    struct sl_sampled out;
    slow_survivors(x, N, &p, sorted);
    p.n_top = 20;
    p.temperature = 1.7f; /* must not change what is reported */
    p.top_k = 3;
    sl_sample(s, x, &p, NULL, 4, &out);
    assert_int_equal(out.n_top, 20);
    double mass = 0;
    for (int i = 0; i < N; i++) mass += exp((double)x[i] - 8);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(out.top[i].token, sorted[i].id);
        assert_true(fabs((double)out.top[i].logprob - (sorted[i].x - 8 - log(mass))) < 1e-5);
    }
    assert_true(fabs((double)out.logprob - sl_logprob(x, N, out.token)) < 1e-5);
    assert_true(fabs(sl_logprob(x, N, 5) + log(mass)) < 1e-12);
    sl_sampler_destroy(s);

    s = sl_sampler_create(3); /* fewer tokens than alternatives */
    sl_sample(s, x, &p, NULL, 4, &out);
    assert_int_equal(out.n_top, 3);
    sl_sampler_destroy(s);
}

/* Of equal logits the lower ids are kept. */
static void ties_at_the_cut(void **state)
{
    (void)state;
    float x[50];
    for (int i = 0; i < 50; i++) x[i] = 1;
    struct sl_sampling p = plain();
    struct sl_sampled out;
    struct sl_sampler *s = sl_sampler_create(50);
    p.top_k = 3;
    p.n_top = 4;
    for (int pos = 0; pos < 200; pos++) {
        sl_sample(s, x, &p, NULL, pos, &out);
        assert_in_range(out.token, 0, 2);
        for (int i = 0; i < 4; i++) assert_int_equal(out.top[i].token, i);
    }
    sl_sampler_destroy(s);
}

/* Greedy over adjusted logits shows the adjustment: alternatives' differences are logit
 * differences. */
static void penalties_and_bias(void **state)
{
    (void)state;
    const float x[6] = {2, -1, 1, 0.5f, -2, 0};
    struct sl_sampling p = plain();
    p.temperature = 0;
    p.repetition_penalty = 2;
    p.presence_penalty = 0.25f;
    p.frequency_penalty = 0.5f;
    p.n_bias = 2;
    p.bias[0] = (struct sl_logit_bias){5, 0.75f};
    p.bias[1] = (struct sl_logit_bias){77, 100}; /* no such token: ignored */
    p.n_top = 6;
    struct sl_history *h = sl_history_create();
    sl_history_add(h, 0, 0); /* prompt: 2 / 2 */
    sl_history_add(h, 1, 0); /* prompt: -1 * 2 */
    sl_history_add(h, 2, 1); /* answer, three times: 1 / 2 - 0.25 - 1.5 */
    sl_history_add(h, 2, 1);
    sl_history_add(h, 2, 1);
    sl_history_add(h, 4, 0); /* both: -4 - 0.25 - 0.5 */
    sl_history_add(h, 4, 1);
    sl_history_add(h, 1000, 1); /* outside the vocabulary */
    sl_history_add(h, -5, 1);
    const float want[6] = {1, -2, -1.25f, 0.5f, -4.75f, 0.75f};
    struct sl_sampler *s = sl_sampler_create(6);
    struct sl_sampled out;
    sl_sample(s, x, &p, h, 0, &out);
    assert_int_equal(out.token, 0);
    assert_int_equal(out.n_top, 6);
    double mass = 0;
    for (int i = 0; i < 6; i++) mass += exp((double)want[i]);
    for (int i = 0; i < 6; i++)
        assert_true(
            fabs((double)out.top[i].logprob - ((double)want[out.top[i].token] - log(mass))) < 1e-5);
    sl_history_clear(h);
    sl_sample(s, x, &p, h, 0, &out); /* forgotten: only the bias is left */
    assert_true(fabs((double)(out.top[0].logprob - out.top[2].logprob) - 1.25) < 1e-5);
    assert_int_equal(out.top[2].token, 5);
    sl_sampler_destroy(s);
    sl_history_destroy(h);
}

static void histories_grow(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct sl_history *h = sl_history_create();
    float *x = calloc(N, sizeof(float));
    for (int i = 0; i < N; i++)
        if (i != 4321) assert_int_equal(sl_history_add(h, i, 1), 0);
    struct sl_sampling p = plain();
    p.temperature = 0;
    p.presence_penalty = 1;
    struct sl_sampler *s = sl_sampler_create(N);
    struct sl_sampled out;
    sl_sample(s, x, &p, h, 0, &out);
    assert_int_equal(out.token, 4321);
    sl_sampler_destroy(s);
    sl_history_destroy(h);
    free(x);
}

static void draws_depend_on_seed_and_position_only(void **state)
{
    (void)state;
    enum { N = 4000 };
    float x[N];
    fill(x, N, 3, 1);
    struct sl_sampler *a = sl_sampler_create(N), *b = sl_sampler_create(N);
    struct sl_sampling p = plain(), q = plain();
    q.seed = 2;
    int same_pos = 0, same_seed = 0;
    for (int pos = 0; pos < 400; pos++) {
        struct sl_sampled o1, o2, o3, o4;
        sl_sample(a, x, &p, NULL, pos, &o1);
        sl_sample(b, x, &p, NULL, pos, &o2);
        sl_sample(b, x, &p, NULL, pos + 1, &o3);
        sl_sample(b, x, &q, NULL, pos, &o4);
        assert_int_equal(o1.token, o2.token);
        assert_memory_equal(&o1.logprob, &o2.logprob, sizeof(float));
        same_pos += o1.token == o3.token;
        same_seed += o1.token == o4.token;
    }
    assert_true(same_pos < 10 && same_seed < 10);
    sl_sampler_destroy(a);
    sl_sampler_destroy(b);
}

/* NaN is minus infinity; infinities and absurd settings give some token and a number or -inf, never
 * more. */
static void hostile_logits(void **state)
{
    (void)state;
    enum { N = 100 };
    float x[N];
    struct sl_sampler *s = sl_sampler_create(N);
    struct sl_sampled out;
    const float temps[] = {0, 1, 1e-38f, 1e38f, INFINITY, NAN, -1};
    for (size_t t = 0; t < SL_ARRAY_LEN(temps); t++) {
        struct sl_sampling p = plain();
        p.temperature = temps[t];
        p.n_top = 5;
        for (int i = 0; i < N; i++) x[i] = NAN;
        sl_sample(s, x, &p, NULL, 0, &out);
        assert_int_equal(out.token, 0);
        assert_true(isinf(out.logprob) && out.logprob < 0 && out.n_top == 0);
        x[42] = -3; /* the only one */
        sl_sample(s, x, &p, NULL, 0, &out);
        assert_int_equal(out.token, 42);
        assert_true(out.logprob == 0 && out.n_top == 1);
        x[7] = INFINITY;
        x[8] = -INFINITY;
        for (int mode = 0; mode < 3; mode++) {
            p.top_k = mode == 1 ? 4 : 0;
            p.top_p = mode == 2 ? 0.5f : 1;
            sl_sample(s, x, &p, NULL, 0, &out);
            assert_true(out.token == 7 || (temps[t] > 1e37f && out.token == 42));
        }
        p.top_p = 0;
        p.min_p = 5;
        sl_sample(s, x, &p, NULL, 0, &out);
        assert_int_equal(out.token, 7);
    }
    assert_true(isinf(sl_logprob(x, N, 1)) && sl_logprob(x, N, 7) == 0);
    sl_sampler_destroy(s);
    sl_sampler_destroy(NULL);
    sl_history_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distributions_follow_the_rules),
        cmocka_unit_test(survivors_at_random_settings),
        cmocka_unit_test(greedy_takes_the_first_of_equals),
        cmocka_unit_test(logprobs_and_alternatives),
        cmocka_unit_test(ties_at_the_cut),
        cmocka_unit_test(penalties_and_bias),
        cmocka_unit_test(histories_grow),
        cmocka_unit_test(draws_depend_on_seed_and_position_only),
        cmocka_unit_test(hostile_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
