/* check_side.c - see check_side.h. */
#include "cli/check_side.h"

#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/host.h"
#include "base/sl_assert.h"

#define THREADS_MAX 64
#define RUN_NS 20000000u /* how long a run of calls takes at least */
#define RUNS 4
#define PATIENCE_NS 300000000u /* after which a slow call is not run again */
#define MEASURES 3
#define CALLS_MAX 2000
#define CARD_BYTES (6ull << 30) /* taken of a card at most */
#define CARD_WEIGHTS ((size_t)256 << 20)
#define HOST_WEIGHTS ((size_t)64 << 20)

enum { BLOCKS = SL_CHECK_CONTEXT / SL_CHECK_BLOCK };

int sl_check_fresh(struct sl_check_side *s, struct sl_err *err)
{
    if (!s->o->reserve) return 0;
    uint64_t scratch, all = sl_backend_memory(s->b);
    const struct sl_backend_limits limits = {.max_rows = SL_CHECK_ROWS,
                                             .max_seqs = SL_CHECK_SEQS,
                                             .max_blocks = BLOCKS,
                                             .block_tokens = SL_CHECK_BLOCK,
                                             .n_embd = 4096,
                                             .n_vocab = SL_CHECK_VOCAB,
                                             .max_cols = 4096,
                                             .max_out = 4096,
                                             .logit_rows = SL_CHECK_SEQS,
                                             .n_heads = 32,
                                             .head_dim = 128,
                                             .n_experts = 8,
                                             .n_used = 2,
                                             .n_ff = 1024,
                                             .memory_bytes = SL_MIN(all, CARD_BYTES)};
    s->weight_bytes = CARD_WEIGHTS;
    return s->o->reserve(s->b, &limits, &scratch, err);
}

int sl_check_side_open(const char *kind, struct sl_check_side *s, struct sl_err *err)
{
    int cpus[SL_HOST_CPUS_MAX], n = sl_host_cpus(cpus, SL_HOST_CPUS_MAX);
    const struct sl_backend_params p = {
        .kind = kind, .cpus = cpus, .n_threads = SL_MIN(n, THREADS_MAX)};
    *s = (struct sl_check_side){.kind = kind, .weight_bytes = HOST_WEIGHTS};
    int r = sl_backend_create(&p, &s->b, err);
    if (r) return r;
    sl_backend_enter(s->b);
    s->o = sl_backend_ops(s->b);
    for (int i = 0; i < MEASURES; i++) /* others may be busy here for a moment */
        s->bandwidth = SL_MAX(s->bandwidth, sl_backend_measure(s->b));
    s->pos = calloc(SL_CHECK_ROWS, sizeof *s->pos);
    s->ids = calloc(SL_CHECK_ROWS, sizeof *s->ids);
    s->picks = calloc(SL_CHECK_ROWS, sizeof *s->picks);
    s->tables = calloc(SL_CHECK_SEQS * BLOCKS, sizeof *s->tables);
    if (!s->pos || !s->ids || !s->picks || !s->tables) r = SL_ENOMEM;
    for (int i = 0; !r && i < SL_CHECK_SEQS * BLOCKS; i++) /* blocks of a sequence lie apart */
        s->tables[i] = i % BLOCKS * SL_CHECK_SEQS + i / BLOCKS;
    for (int i = 0; !r && i < SL_CHECK_ROWS; i++) s->ids[i] = s->picks[i] = i;
    if (!r) r = sl_check_fresh(s, err);
    if (r) sl_check_side_close(s);
    return r;
}

void sl_check_side_close(struct sl_check_side *s)
{
    sl_backend_destroy(s->b);
    free(s->pos);
    free(s->ids);
    free(s->picks);
    free(s->tables);
    *s = (struct sl_check_side){0};
}

void *sl_check_put(struct sl_check_side *s, const void *from, size_t bytes, struct sl_err *err)
{
    void *p;
    if (s->o->alloc) {
        p = s->o->alloc(s->b, bytes, err);
        if (p && from) s->o->upload(s->b, p, from, bytes);
        return p;
    }
    p = aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (p && from)
        memcpy(p, from, bytes);
    else if (p)
        memset(p, 0, bytes);
    else
        sl_err_set(err, SL_ENOMEM, "no memory for %zu bytes", bytes);
    return p;
}

void sl_check_get(struct sl_check_side *s, void *to, const void *from, size_t bytes)
{
    if (s->o->download)
        s->o->download(s->b, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void sl_check_drop(struct sl_check_side *s, void *p)
{
    if (p && s->o->free)
        s->o->free(s->b, p);
    else if (!s->o->alloc)
        free(p);
}

void sl_check_shape(struct sl_check_side *s, int n)
{
    SL_ASSERT(n >= 1 && n <= SL_CHECK_ROWS);
    int decode = n <= SL_CHECK_SEQS;
    s->step = (struct sl_step){.n_rows = n,
                               .n_seqs = decode ? n : 1,
                               .pos = s->pos,
                               .ids = s->ids,
                               .seqs = s->seqs,
                               .steady = decode};
    for (int i = 0; i < s->step.n_seqs; i++)
        s->seqs[i] = (struct sl_seq_view){.row = i,
                                          .n = decode ? 1 : n,
                                          .pos = decode ? SL_CHECK_CONTEXT - 1 : 0,
                                          .blocks = s->tables + i * BLOCKS,
                                          .slot = i,
                                          .n_blocks = BLOCKS,
                                          .new_blocks = BLOCKS};
    for (int i = 0; i < n; i++) s->pos[i] = decode ? SL_CHECK_CONTEXT - 1 : i;
}

struct calls {
    void (*run)(void *arg, int call);
    void *arg;
    int n;
};

static int run_step(struct sl_check_side *s, uint32_t key, const struct calls *c,
                    struct sl_err *err)
{
    int given = 0;
    if (s->o->begin) {
        s->o->begin(s->b, &s->step);
        given = s->o->replay(s->b, key);
    }
    for (int i = 0; !given && i < c->n; i++) c->run(c->arg, i);
    if (!s->o->begin) return 0;
    if (!given) s->o->recorded(s->b);
    return s->o->end(s->b, err);
}

int sl_check_once(struct sl_check_side *s, void (*run)(void *arg, int call), void *arg,
                  struct sl_err *err)
{
    const struct calls one = {run, arg, 1};
    return run_step(s, (uint32_t)++s->keys, &one, err);
}

double sl_check_time(struct sl_check_side *s, void (*run)(void *arg, int call), void *arg,
                     struct sl_err *err)
{
    struct calls c = {run, arg, 1};
    double best = -1;
    uint64_t begun = sl_env_now_ns();
    for (uint64_t took = 0; took < RUN_NS && c.n < CALLS_MAX;) { /* how many calls are a run */
        uint64_t start = sl_env_now_ns();
        if (run_step(s, (uint32_t)++s->keys, &c, err)) return -1;
        took = SL_MAX(sl_env_now_ns() - start, 1);
        if (took < RUN_NS)
            c.n = (int)SL_MIN(CALLS_MAX, SL_MAX(2.0 * c.n, 1.2 * c.n * RUN_NS / (double)took));
    }
    uint32_t key = (uint32_t)++s->keys;
    for (int i = 0; i < RUNS; i++) { /* the second run of a key is recorded, the third replayed */
        uint64_t start = sl_env_now_ns();
        if (run_step(s, key, &c, err)) return -1;
        double t = (double)(sl_env_now_ns() - start) * 1e-9 / c.n;
        if (best < 0 || t < best) best = t;
        if (sl_env_now_ns() - begun > PATIENCE_NS) break;
    }
    return best;
}
