/* engine.c - see engine.h. */
#include "tests/lib/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "cli/resolve.h"
#include "kernels/kernels.h"

#define TEXT_MAX (1u << 20) /* bytes of one answer's text */
#define PATHS 8
#define BANDWIDTH                                                                                  \
    1e10 /* bytes per second said of every stage: an even cut, the same on every machine and under \
            every load */

/* ---- life ------------------------------------------------------------------------------------ */

static void make_processes(struct sl_cluster *c)
{
    for (int i = 0; i < c->n_nodes; i++) {
        c->nodes[i].launch = SL_LAUNCH_LOCAL;
        c->nodes[i].program = SLUICE_PROGRAM;
    }
}

struct engine *engine_try_open(const struct engine_setup *setup, struct sl_err *err)
{
    struct engine *e = calloc(1, sizeof *e);
    struct sl_cluster cluster;
    assert_non_null(e);
    if (setup->transports)
        setenv("SLUICE_TRANSPORTS", setup->transports, 1);
    else
        unsetenv("SLUICE_TRANSPORTS");
    int r = sl_session_cluster(&setup->session, NULL, &cluster, err);
    for (int i = 0; r == 0 && i < cluster.n_devices; i++) cluster.devices[i].bandwidth = BANDWIDTH;
    if (r == 0 && setup->processes) make_processes(&cluster);
    if (r == 0) r = sl_session_open(&e->session, &cluster, err);
    if (r == 0) return e;
    free(e);
    return NULL;
}

struct engine *engine_open(const struct engine_setup *setup)
{
    struct sl_err err = {0};
    struct engine *e = engine_try_open(setup, &err);
    if (!e) fail_msg("start: %s", err.msg);
    return e;
}

void engine_close(struct engine *e)
{
    sl_session_close(&e->session, 1);
    free(e);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Room for `need` elements. */
static void *grow(void *v, int *cap, int need, size_t size)
{
    if (need <= *cap) return v;
    *cap = need > 2 * *cap ? need : 2 * *cap;
    v = realloc(v, (size_t)*cap * size);
    assert_non_null(v);
    return v;
}

static void keep_token(struct engine_answer *a, const struct sl_effect *fx)
{
    const struct sl_sampled *s = fx->token.sampled;
    a->tokens = grow(a->tokens, &a->cap_tokens, a->n_tokens + 1, sizeof *a->tokens);
    struct engine_token *t = &a->tokens[a->n_tokens++];
    *t = (struct engine_token){.id = fx->token.token, .logprob = s->logprob, .n_top = s->n_top};
    memcpy(t->top, s->top, (size_t)s->n_top * sizeof *s->top);
    assert_int_equal(sl_buf_add(&a->text, fx->token.text, fx->token.text_len), 0);
}

static void keep_scored(struct engine_answer *a, const struct sl_scored *s)
{
    int width = s->logits ? s->n_vocab : 1;
    assert_true(a->n_scored == 0 || a->n_vocab == width);
    a->n_vocab = width;
    a->scored =
        grow(a->scored, &a->cap_scored, a->n_scored + s->n, (size_t)width * sizeof *a->scored);
    memcpy(a->scored + (size_t)a->n_scored * (size_t)width, s->logits ? s->logits : s->logprobs,
           (size_t)s->n * (size_t)width * sizeof *a->scored);
    a->n_scored += s->n;
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct engine_answer *a = arg;
    assert_false(a->ended);
    switch (fx->kind) {
    case SL_FX_TOKEN:
        keep_token(a, fx);
        break;
    case SL_FX_SCORED:
        keep_scored(a, fx->scored);
        break;
    case SL_FX_DONE:
        assert_int_equal(sl_buf_add(&a->text, fx->done.text, fx->done.text_len), 0);
        a->reason = fx->done.reason;
        a->ended = 1;
        break;
    case SL_FX_FAIL:
        a->code = fx->fail.code;
        snprintf(a->message, sizeof a->message, "%s", fx->fail.message);
        a->ended = 1;
        break;
    default:
        fail_msg("a request got an effect of kind %d", fx->kind);
    }
}

void engine_ask(struct engine *e, const struct sl_submit *requests, int n,
                struct engine_answer *answers)
{
    struct sl_err err = {0};
    for (int i = 0; i < n; i++) {
        uint64_t id;
        memset(&answers[i], 0, sizeof answers[i]);
        sl_buf_init(&answers[i].text, TEXT_MAX);
        if (sl_service_submit(e->session.service, &requests[i], on_reply, &answers[i], &id, &err))
            fail_msg("request %d was refused: %s", i, err.msg);
    }
    for (int i = 0; i < n; i++) {
        while (!answers[i].ended && !e->session.failed) uv_run(&e->session.loop, UV_RUN_ONCE);
        if (e->session.failed) fail_msg("the cluster failed: %s", e->session.err.msg);
        if (answers[i].code) fail_msg("request %d failed: %s", i, answers[i].message);
    }
}

void engine_answer_close(struct engine_answer *a)
{
    free(a->tokens);
    free(a->scored);
    sl_buf_close(&a->text);
    memset(a, 0, sizeof *a);
}

struct sl_submit engine_greedy(const int32_t *tokens, int n_tokens, int max_tokens, int n_top)
{
    struct sl_submit req = {.tokens = tokens, .n_tokens = n_tokens, .max_tokens = max_tokens};
    sl_sampling_default(&req.sampling);
    req.sampling.n_top = n_top;
    return req;
}

struct sl_submit engine_logits(const int32_t *tokens, int n_tokens)
{
    struct sl_submit req = {.tokens = tokens, .n_tokens = n_tokens, .logits = 1};
    sl_sampling_default(&req.sampling);
    return req;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void same_token(const struct engine_token *a, const struct engine_token *b, int at,
                       const char *what)
{
    if (a->id != b->id) fail_msg("%s: token %d is %d and %d", what, at, a->id, b->id);
    if (memcmp(&a->logprob, &b->logprob, sizeof a->logprob))
        fail_msg("%s: log-probability of token %d is %.9g and %.9g", what, at, (double)a->logprob,
                 (double)b->logprob);
    assert_int_equal(a->n_top, b->n_top);
    if (memcmp(a->top, b->top, (size_t)a->n_top * sizeof *a->top))
        fail_msg("%s: the alternatives of token %d differ", what, at);
}

void engine_assert_same(const struct engine_answer *a, const struct engine_answer *b,
                        const char *what)
{
    if (a->n_tokens != b->n_tokens)
        fail_msg("%s: %d and %d tokens", what, a->n_tokens, b->n_tokens);
    for (int i = 0; i < a->n_tokens; i++) same_token(&a->tokens[i], &b->tokens[i], i, what);
    assert_int_equal(a->reason, b->reason);
    if (a->text.len != b->text.len || strcmp(sl_buf_str(&a->text), sl_buf_str(&b->text)))
        fail_msg("%s: the texts differ", what);
    if (a->n_scored != b->n_scored || a->n_vocab != b->n_vocab)
        fail_msg("%s: %d x %d and %d x %d logits", what, a->n_scored, a->n_vocab, b->n_scored,
                 b->n_vocab);
    size_t n = (size_t)a->n_scored * (size_t)a->n_vocab;
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a->scored[i], &b->scored[i], sizeof *a->scored))
            fail_msg("%s: logit %zu of row %zu is %.9g and %.9g", what, i % (size_t)a->n_vocab,
                     i / (size_t)a->n_vocab, (double)a->scored[i], (double)b->scored[i]);
}

/* ---- what this machine has ------------------------------------------------------------------- */

const char *engine_data(const char *relative)
{
    static char paths[PATHS][1024];
    static int at;
    static const char *const roots[] = {SLUICE_SHARED, SLUICE_GOLDEN};
    char *path = paths[at++ % PATHS];
    for (size_t i = 0; i < SL_ARRAY_LEN(roots); i++) {
        snprintf(path, sizeof paths[0], "%s/data/%s", roots[i], relative);
        if (access(path, R_OK) == 0) return path;
    }
    return NULL;
}

const char *engine_smollm2(void)
{
    static char path[1024];
    return sl_model_resolve("smollm2", path, sizeof path, NULL) ? NULL : path;
}

int engine_has_row(const char *row)
{
    int n;
    const char *const *rows = sl_backend_rows(&n);
    for (int i = 0; i < n; i++)
        if (strcmp(rows[i], row) == 0) return 1;
    return strcmp(row, "cpu") == 0 || (strcmp(row, "cuda") == 0 && sl_backend_cards() > 0);
}
