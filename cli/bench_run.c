/* bench_run.c - see bench_run.h.
 *
 * Decode is timed in the steady state only: from the moment the last of the requests has its first
 * token to the moment the first one ends; the tokens that arrive in between count. Prefill is timed
 * from submission to the last first token. Prompts are arbitrary tokens (a hash of their place):
 * the arithmetic does not depend on them. */
#include "cli/bench_run.h"

#include <math.h>
#include <stdlib.h>

#include "base/env.h"
#include "base/sl_assert.h"
#include "model/config.h"

struct run;

struct client {
    struct run *run;
    uint64_t first_ns, last_ns; /* tokens */
    uint64_t id;
    int tokens, ended;
    uint64_t *times; /* [generate] when each token came */
};

struct run {
    struct sl_session *s;
    struct client *clients;
    int n, left;
    struct sl_err err;
};

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct client *c = arg;
    struct run *r = c->run;
    if (fx->kind == SL_FX_TOKEN) {
        c->last_ns = sl_env_now_ns();
        if (!c->first_ns) c->first_ns = c->last_ns;
        c->times[c->tokens++] = c->last_ns;
        return;
    }
    if (fx->kind == SL_FX_FAIL) sl_err_set(&r->err, fx->fail.code, "%s", fx->fail.message);
    c->ended = 1;
    if (--r->left == 0) uv_stop(&r->s->loop);
}

static void fill_prompt(int32_t *ids, int n, int n_vocab, uint64_t salt)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(sl_mix64(salt * 1000003u + (uint64_t)i) % (uint64_t)n_vocab);
}

/* Submits all requests and waits for their ends. */
static int play(struct run *r, const struct sl_bench_test *t, uint64_t *start_ns,
                struct sl_err *err)
{
    int n_prompt = t->generate ? SL_MAX(t->depth, 1) : t->prompt,
        n_vocab = sl_service_config(r->s->service)->n_vocab;
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    if (!ids) return sl_err_set(err, SL_ENOMEM, "no memory for a prompt");
    int rc = 0;
    r->left = r->n;
    *start_ns = sl_env_now_ns();
    for (int i = 0; rc == 0 && i < r->n; i++) {
        struct sl_submit req = {.tokens = ids,
                                .n_tokens = n_prompt,
                                .max_tokens = SL_MAX(t->generate, 1),
                                .ignore_eos = 1};
        sl_sampling_default(&req.sampling);
        fill_prompt(ids, n_prompt, n_vocab, (uint64_t)i);
        rc = sl_service_submit(r->s->service, &req, on_reply, &r->clients[i], &r->clients[i].id,
                               err);
        if (rc) r->clients[i].ended = 1;
    }
    free(ids);
    for (int i = 0; rc && i < r->n; i++) /* they point to clients that are going away */
        if (r->clients[i].id && !r->clients[i].ended)
            sl_service_cancel(r->s->service, r->clients[i].id);
    while (rc == 0 && r->left > 0) uv_run(&r->s->loop, UV_RUN_DEFAULT);
    if (rc == 0 && r->err.code) {
        if (err) *err = r->err;
        rc = r->err.code;
    }
    return rc;
}

static double speed(const struct run *r, const struct sl_bench_test *t, uint64_t start_ns)
{
    uint64_t last_first = 0, first_last = UINT64_MAX;
    for (int i = 0; i < r->n; i++) {
        last_first = SL_MAX(last_first, r->clients[i].first_ns);
        first_last = SL_MIN(first_last, r->clients[i].last_ns);
    }
    if (!t->generate) return (double)t->prompt * r->n * 1e9 / (double)(last_first - start_ns);
    long tokens = 0;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < r->clients[i].tokens; k++)
            tokens += r->clients[i].times[k] > last_first && r->clients[i].times[k] <= first_last;
    return first_last > last_first ? (double)tokens * 1e9 / (double)(first_last - last_first) : 0;
}

static int once(struct sl_session *s, const struct sl_bench_test *t, double *tokens_per_s,
                struct sl_err *err)
{
    struct run r = {
        .s = s, .n = t->parallel, .clients = calloc((size_t)t->parallel, sizeof(struct client))};
    size_t room = (size_t)SL_MAX(t->generate, 1);
    uint64_t start = 0, *times = calloc((size_t)t->parallel * room, sizeof *times);
    int rc = r.clients && times
                 ? 0
                 : sl_err_set(err, SL_ENOMEM, "no memory for %d requests", t->parallel);
    for (int i = 0; rc == 0 && i < r.n; i++)
        r.clients[i] = (struct client){.run = &r, .times = times + (size_t)i * room};
    if (rc == 0) rc = play(&r, t, &start, err);
    if (rc == 0) *tokens_per_s = speed(&r, t, start);
    free(times);
    free(r.clients);
    return rc;
}

struct usage {
    uint64_t busy_ns, steps;
};

static int usage_now(struct sl_session *s, struct usage *u, uint64_t *weight_bytes)
{
    struct sl_stage_status v[SL_DEVICES_MAX];
    sl_session_settle(s);
    int n = sl_service_stages(s->service, v, SL_DEVICES_MAX), used = 0;
    for (int i = 0; i < n; i++) {
        if (v[i].stage < 0) continue;
        u[used] = (struct usage){v[i].busy_ns, v[i].steps};
        weight_bytes[used++] = v[i].weight_bytes;
    }
    return used;
}

int sl_bench_run(struct sl_session *s, const struct sl_bench_test *t, int repeats,
                 struct sl_bench_result *out, struct sl_err *err)
{
    struct usage before[SL_DEVICES_MAX], after[SL_DEVICES_MAX];
    uint64_t weights[SL_DEVICES_MAX];
    double sum = 0, sum2 = 0, v = 0;
    struct sl_coord_status st0, st1;
    int rc = once(s, t, &v, err); /* warm: pages, scratch, clocks */
    *out = (struct sl_bench_result){.test = *t, .repeats = repeats};
    usage_now(s, before, weights);
    sl_service_get_status(s->service, &st0);
    for (int i = 0; rc == 0 && i < repeats; i++) {
        rc = once(s, t, &v, err);
        sum += v;
        sum2 += v * v;
    }
    if (rc) return rc;
    sl_service_get_status(s->service, &st1);
    out->n_stages = usage_now(s, after, weights);
    out->mean = sum / repeats;
    out->sd = repeats > 1 ? sqrt(SL_MAX(0, (sum2 - sum * sum / repeats) / (repeats - 1))) : 0;
    double bytes = 0, busy = 0, work = (double)(st1.work_ns - st0.work_ns);
    for (int i = 0; i < out->n_stages; i++) {
        double b = (double)(after[i].busy_ns - before[i].busy_ns);
        out->busy[i] = work > 0 ? b / work : 0;
        bytes += (double)weights[i] * (double)(after[i].steps - before[i].steps);
        busy += b;
    }
    out->gigabytes_per_s = busy > 0 ? bytes / busy : 0; /* bytes per ns is GB/s */
    return 0;
}

void sl_bench_name(const struct sl_bench_test *t, char *out, size_t cap)
{
    int n =
        snprintf(out, cap, t->generate ? "tg%d" : "pp%d", t->generate ? t->generate : t->prompt);
    if (t->generate && t->depth && n < (int)cap)
        n += snprintf(out + n, cap - (size_t)n, " @ d%d", t->depth);
    if (t->parallel > 1 && n < (int)cap) snprintf(out + n, cap - (size_t)n, " x%d", t->parallel);
}
