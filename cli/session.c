/* session.c - see session.h. */
#include "cli/session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/host.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/resolve.h"
#include "kernels/card.h"
#include "kernels/kernels.h"
#include "proto/control.h"
#include "stage/loop.h"

#define SETTLE_MS (SL_CTL_REPORT_MS * 5 / 4) /* a heartbeat, and time for it to arrive */

/* One stage inside this process. */
struct thread_stage {
    struct sl_session *session;
    struct sl_stage_loop *stage; /* NULL: stopped */
    struct thread_stage *next;
};

const char *sl_session_program(void)
{
    static char path[4096];
    size_t n = sizeof path;
    if (!path[0] && uv_exepath(path, &n)) snprintf(path, sizeof path, "sluice");
    return path;
}

int sl_session_log_level(const char *level, struct sl_err *err)
{
    const char *from = level ? level : sl_env_get("SLUICE_LOG");
    if (!from) return 0;
    int l = sl_log_parse_level(from);
    if (l < 0)
        return sl_err_set(err, SL_EUSAGE,
                          "log level '%s' is none of error, warn, info, debug, trace", from);
    sl_log_set_level((enum sl_log_level)l);
    return 0;
}

/* ---- description ----------------------------------------------------------------------------- */

int sl_session_cpus(const struct sl_session_options *o, int *cpus, struct sl_err *err)
{
    int n = o->cpus ? sl_cpus_parse(o->cpus, cpus, SL_SESSION_THREADS_MAX, err)
                    : sl_host_cpus(cpus, SL_SESSION_THREADS_MAX);
    if (n > 0 && o->threads > 0) n = (int)SL_MIN(n, o->threads);
    return n;
}

/* Is the first card one that stages can be on? A machine whose card is too old has its CPUs. */
static int card_is_usable(void)
{
    struct sl_card card;
    struct sl_err err;
    if (sl_backend_cards() == 0) return 0;
    if (sl_card_describe(0, &card, &err) || card.capability >= SL_CARD_CAPABILITY_LEAST) return 1;
    sl_log(SL_LOG_WARN, "cli", "card 0 (%s) is too old for our kernels; using the CPUs", card.name);
    return 0;
}

static int single(const struct sl_session_options *o, struct sl_cluster *out, struct sl_err *err)
{
    char path[4096];
    int cpus[SL_SESSION_THREADS_MAX];
    if (!o->model) return sl_err_set(err, SL_EUSAGE, "no model: give -m MODEL or a topology file");
    int r = sl_model_resolve(o->model, path, sizeof path, err);
    if (r) return r;
    int n = sl_session_cpus(o, cpus, err);
    if (n < 0) return n;
    int stages = o->stages ? (int)o->stages : 1, cards = sl_backend_cards();
    const char *backend = o->backend;
    if (!backend && !o->cpus && !o->threads && !sl_env_get("SLUICE_CPU") && card_is_usable())
        backend = "cuda";
    if (backend && strcmp(backend, "cuda") == 0 && stages > cards && cards) backend = "cuda:0";
    r = sl_cluster_single(path, backend, cpus, n, stages, out, err);
    for (int i = 0; r == 0 && i < out->n_devices; i++) {
        struct sl_device *d = &out->devices[i];
        int same = 0;
        for (int k = 0; k < out->n_devices; k++) same += out->devices[k].gpu == d->gpu;
        if (d->gpu >= 0 && same > 1) /* stages of this process on one card share its memory */
            d->memory_bytes = sl_backend_card_memory(d->gpu) / (uint64_t)same;
    }
    return r;
}

static int from_file(const char *yaml, struct sl_cluster *out, struct sl_err *err)
{
    int r = sl_cluster_read(yaml, out, err);
    if (r) return r;
    char path[4096];
    r = sl_model_resolve(out->model_path, path, sizeof path, err);
    if (r == 0) out->model_path = sl_arena_strdup(&out->arena, path);
    if (r) {
        sl_err_prefix(err, "%s: model.path: ", yaml);
        sl_cluster_close(out);
    }
    return r;
}

/* NAME=PATH, or a path whose last part is the name. */
static int add_adapter(const char *word, struct sl_cluster *c, struct sl_err *err)
{
    struct sl_adapter_spec *a = &c->adapters[c->n_adapters];
    const char *eq = strchr(word, '='), *path = eq ? eq + 1 : word, *from = word;
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    while (!eq && n > 1 && word[n - 1] == '/') n--;
    for (size_t i = 0; !eq && i + 1 < n; i++)
        if (word[i] == '/') from = word + i + 1;
    n -= (size_t)(from - word);
    if (n == 0 || n > SL_ADAPTER_NAME_MAX || !*path)
        return sl_err_set(err, SL_EUSAGE, "--lora %s: write NAME=PATH, a name of 1 to %d bytes",
                          word, SL_ADAPTER_NAME_MAX);
    char *name = sl_arena_alloc(&c->arena, n + 1);
    if (!name) return sl_err_set(err, SL_ENOMEM, "no memory for an adapter's name");
    memcpy(name, from, n);
    name[n] = 0;
    for (int i = 0; i < c->n_adapters; i++)
        if (strcmp(c->adapters[i].name, name) == 0)
            return sl_err_set(err, SL_EUSAGE, "two adapters are named '%s'; write NAME=PATH", name);
    *a = (struct sl_adapter_spec){.name = name, .path = sl_arena_strdup(&c->arena, path)};
    if (!a->path) return sl_err_set(err, SL_ENOMEM, "no memory for an adapter's path");
    c->n_adapters++;
    return 0;
}

static int add_adapters(const struct sl_conf_list *l, struct sl_cluster *c, struct sl_err *err)
{
    if (l->n == 0) return 0;
    size_t n = (size_t)c->n_adapters + (size_t)l->n;
    struct sl_adapter_spec *all = sl_arena_alloc(&c->arena, n * sizeof *all);
    if (!all) return sl_err_set(err, SL_ENOMEM, "no memory for adapters");
    if (n > SL_CLUSTER_ADAPTERS_MAX)
        return sl_err_set(err, SL_EUSAGE, "%zu adapters; at most %d can be loaded", n,
                          SL_CLUSTER_ADAPTERS_MAX);
    if (c->n_adapters) memcpy(all, c->adapters, (size_t)c->n_adapters * sizeof *all);
    c->adapters = all;
    int r = 0;
    for (int i = 0; r == 0 && i < l->n; i++) r = add_adapter(l->v[i], c, err);
    return r;
}

/* --adapter NAME, else the first --lora. */
static int choose_adapter(const struct sl_session_options *o, struct sl_cluster *c,
                          struct sl_err *err)
{
    const char *names[SL_CLUSTER_ADAPTERS_MAX];
    c->own_adapter = o->lora.n && !o->adapter ? c->n_adapters - o->lora.n + 1 : 0;
    for (int i = 0; o->adapter && i < c->n_adapters; i++) {
        names[i] = c->adapters[i].name;
        if (strcmp(names[i], o->adapter) == 0) c->own_adapter = i + 1;
    }
    if (!o->adapter || c->own_adapter) return 0;
    const char *near = sl_nearest(o->adapter, names, (size_t)c->n_adapters);
    return sl_err_set(err, SL_EUSAGE, "--adapter %s: %s%s", o->adapter,
                      near ? "there is none of that name; did you mean " : "no such adapter",
                      near ? near : "; --lora NAME=PATH loads one");
}

int sl_session_cluster(const struct sl_session_options *o, const char *yaml, struct sl_cluster *out,
                       struct sl_err *err)
{
    uint64_t memory = 0;
    int r = sl_session_log_level(o->log_level, err);
    if (r) return r;
    if (yaml && o->model)
        return sl_err_set(err, SL_EUSAGE, "give either -m MODEL or a topology file, not both");
    if (o->memory && sl_parse_bytes(o->memory, &memory))
        return sl_err_set(err, SL_EUSAGE, "--memory '%s' is not like 4GiB", o->memory);
    r = yaml ? from_file(yaml, out, err) : single(o, out, err);
    if (r) return r;
    if (o->context) out->context = (int)o->context;
    if (o->sequences) out->sequences = (int)o->sequences;
    if (o->queue) out->queue = (int)o->queue;
    if (o->chunk) out->chunk = (int)o->chunk;
    if (o->micro_batches) out->micro_batches = (int)o->micro_batches;
    if (o->kv_format) out->kv_format = o->kv_format;
    if (o->chat_template) out->chat_template = o->chat_template;
    if (o->tool_parser) out->tool_parser = o->tool_parser;
    if (o->reasoning_parser) out->reasoning_parser = o->reasoning_parser;
    r = add_adapters(&o->lora, out, err);
    if (r == 0) r = choose_adapter(o, out, err);
    if (r) {
        sl_cluster_close(out);
        return r;
    }
    for (int i = 0; memory && i < out->n_devices; i++) out->devices[i].memory_bytes = memory;
    return 0;
}

/* ---- stages of this process ------------------------------------------------------------------ */

static void on_thread_stopped(void *arg)
{
    free(arg);
}

static void stop_thread(struct thread_stage *t)
{
    struct sl_session *s = t->session;
    for (struct thread_stage **at = &s->threads; *at; at = &(*at)->next) {
        if (*at != t) continue;
        *at = t->next;
        break;
    }
    sl_stage_loop_stop(t->stage, on_thread_stopped, t);
}

static void on_thread_end(void *arg, const struct sl_err *err)
{
    (void)err; /* the stage has told the coordinator */
    stop_thread(arg);
}

static int start_thread(void *arg, struct uv_loop_s *loop, const struct sl_device *d,
                        const char *join_key, int fd, struct sl_err *err)
{
    struct sl_session *s = arg;
    struct thread_stage *t = calloc(1, sizeof *t);
    if (!t) {
        close(fd);
        return sl_err_set(err, SL_ENOMEM, "no memory for a stage");
    }
    t->session = s;
    int alone = 1;
    for (int i = 0; i < s->cluster.n_nodes; i++)
        alone &= s->cluster.nodes[i].launch == SL_LAUNCH_THREAD;
    const char *forced = sl_env_get("SLUICE_TRANSPORTS");
    struct sl_stage_loop_params p = {.device = d->name,
                                     .join_key = join_key,
                                     .backend = d->backend,
                                     .cpus = d->cpus,
                                     .n_cpus = d->n_cpus,
                                     .memory_bytes = d->memory_bytes,
                                     .ports = forced                     ? forced
                                              : !alone                   ? NULL
                                              : s->cluster.n_devices > 1 ? "local nccl"
                                                                         : "local",
                                     .bandwidth = d->bandwidth,
                                     .on_end = on_thread_end,
                                     .arg = t};
    int r = sl_stage_loop_start(loop, &p, fd, &t->stage, err);
    if (r) {
        free(t);
        return r;
    }
    t->next = s->threads;
    s->threads = t;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void on_state(void *arg, const struct sl_err *err)
{
    struct sl_session *s = arg;
    if (err) {
        s->failed = 1;
        s->err = *err;
    } else {
        s->serving = 1;
        if (!s->ready_ns) s->ready_ns = sl_env_now_ns();
    }
    if (s->on_state)
        s->on_state(s->on_state_arg, err);
    else
        uv_stop(&s->loop);
}

int sl_session_start(struct sl_session *s, struct sl_cluster *cluster, struct sl_err *err)
{
    s->cluster = *cluster;
    memset(cluster, 0, sizeof *cluster);
    s->start_ns = sl_env_now_ns();
    uv_loop_init(&s->loop);
    s->open = 1;
    struct sl_service_params p = {.cluster = &s->cluster,
                                  .program = sl_session_program(),
                                  .start_thread = start_thread,
                                  .start_thread_arg = s,
                                  .on_state = on_state,
                                  .on_state_arg = s};
    int r = sl_service_start(&s->loop, &p, &s->service, err);
    if (r) sl_session_close(s, 1);
    return r;
}

int sl_session_open(struct sl_session *s, struct sl_cluster *cluster, struct sl_err *err)
{
    int r = sl_session_start(s, cluster, err);
    if (r) return r;
    while (!s->serving && !s->failed) uv_run(&s->loop, UV_RUN_DEFAULT);
    if (!s->failed) return 0;
    if (err) *err = s->err;
    r = s->err.code;
    sl_session_close(s, 1);
    return r;
}

static void on_service_stopped(void *arg)
{
    struct sl_session *s = arg;
    s->closed = 1;
    uv_stop(&s->loop);
}

void sl_session_close(struct sl_session *s, int now)
{
    if (!s->open) return;
    s->open = 0;
    if (s->service) {
        if (!s->closed) sl_service_stop(s->service, now, on_service_stopped, s);
        while (!s->closed) uv_run(&s->loop, UV_RUN_DEFAULT);
        sl_service_destroy(s->service);
        s->service = NULL;
    }
    while (s->threads) stop_thread(s->threads);
    uv_run(&s->loop, UV_RUN_DEFAULT); /* lets every handle finish closing */
    int r = uv_loop_close(&s->loop);
    SL_ASSERT(r == 0); /* a handle that its owner forgot to close */
    sl_cluster_close(&s->cluster);
}

struct waiting {
    struct sl_session *s;
    sl_reply_fn fn;
    void *arg;
    int ended;
    struct sl_err err;
};

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct waiting *w = arg;
    if (w->fn) w->fn(w->arg, fx);
    if (fx->kind == SL_FX_FAIL) sl_err_set(&w->err, fx->fail.code, "%s", fx->fail.message);
    if (fx->kind != SL_FX_FAIL && fx->kind != SL_FX_DONE) return;
    w->ended = 1;
    uv_stop(&w->s->loop);
}

int sl_session_run(struct sl_session *s, const struct sl_submit *req, sl_reply_fn fn, void *arg,
                   struct sl_err *err)
{
    struct waiting w = {.s = s, .fn = fn, .arg = arg};
    struct sl_submit own = *req;
    uint64_t id;
    if (!own.adapter) own.adapter = s->cluster.own_adapter;
    int r = sl_service_submit(s->service, &own, on_reply, &w, &id, err);
    if (r) return r;
    s->stop.code = 0;
    while (!w.ended && !s->stop.code) uv_run(&s->loop, UV_RUN_DEFAULT);
    if (!w.ended) {
        sl_service_cancel(s->service, id);
        w.err = s->stop;
    }
    if (w.err.code && err) *err = w.err;
    return w.err.code;
}

void sl_session_interrupt(struct sl_session *s, const struct sl_err *why)
{
    s->stop = *why;
    uv_stop(&s->loop);
}

static void on_settled(uv_timer_t *t)
{
    *(int *)t->data = 1;
    uv_stop(t->loop);
}

void sl_session_settle(struct sl_session *s)
{
    int settled = 0;
    uv_timer_t t = {.data = &settled};
    uv_timer_init(&s->loop, &t);
    uv_timer_start(&t, on_settled, SETTLE_MS, 0);
    while (!settled) uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&t, NULL);
    uv_run(&s->loop, UV_RUN_NOWAIT);
}
