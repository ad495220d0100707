/* loop.c - see loop.h.
 *
 * Happy path: connect, Hello; Load -> compute thread -> Ready; Wire -> links open, new epoch ->
 * Wired; then frames: hub -> compute queue -> step -> outcome -> hub of the next hop. A Report
 * every SL_CTL_REPORT_MS is the heartbeat. Failures: the coordinator is gone or silent
 * (SL_CTL_DEAD_MS without a message): the stage ends; a load or a step fails: Fail is sent, then
 * the stage ends, for its state can no longer be trusted; a link dies: the frame is lost, the
 * coordinator notices the peer's death itself, has everybody Reopen their ports and wires them
 * anew. */
#include "stage/loop.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/cpu.h"
#include "base/env.h"
#include "base/host.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "stage/compute.h"
#include "transport/ctl.h"
#include "transport/gpu.h"
#include "transport/hub.h"

#define STAGE_THREADS_MAX 256

struct sl_stage_loop {
    uv_loop_t *loop;
    struct sl_stage_loop_params p;
    char *device, *join_key;
    struct sl_ctl_conn *ctl;
    struct sl_hub *hub;
    struct sl_backend *backend; /* until the compute thread takes it */
    struct sl_compute *compute;
    uv_async_t outcome;
    uv_timer_t beat;
    int n_threads;
    uint32_t epoch; /* 0: none, not wired or not any more */
    int n_stages, stage;
    uint64_t heard_ns, beat_ns, progress_ns;
    int ended, stopping, handles, hub_open;
    void (*done)(void *arg);
    void *done_arg;
    struct sl_ctl_step steps[SL_CTL_STEPS_MAX];
};

static void end(struct sl_stage_loop *s, const struct sl_err *err)
{
    if (s->ended || s->stopping) return;
    s->ended = 1;
    if (err) sl_log(SL_LOG_WARN, "stage", "%s", err->msg);
    s->p.on_end(s->p.arg, err);
}

static void fail(struct sl_stage_loop *s, const struct sl_err *err)
{
    struct sl_ctl m = {.kind = SL_CTL_FAIL, .fail = {.code = err->code, .message = err->msg}};
    sl_ctl_conn_send(s->ctl, &m);
    end(s, err);
}

/* Control work is queued at once or never: the coordinator would wait for its answer in vain. */
static int must(struct sl_stage_loop *s, int r, const char *what)
{
    struct sl_err e;
    if (r == 0) return 1;
    sl_err_set(&e, r, "the stage cannot %s: %s", what, sl_strerror(r));
    fail(s, &e);
    return 0;
}

/* ---- control --------------------------------------------------------------------------------- */

static int send_hello(struct sl_stage_loop *s, double bandwidth, struct sl_err *err)
{
    char host[SL_ID_MAX], process[SL_ID_MAX];
    int r = sl_host_id(host, sizeof host);
    if (r == 0) r = sl_process_id(process, sizeof process);
    if (r) return sl_err_set(err, r, "this host has no identity: /proc cannot be read");
    char gpu[SL_GPU_ID_MAX] = "";
    if (sl_backend_card(s->backend) >= 0) {
        r = sl_gpu_id(sl_backend_card(s->backend), gpu, err);
        if (r) return r;
    }
    const struct sl_ctl_port *ports;
    int n = sl_hub_ports(s->hub, &ports);
    struct sl_ctl m = {.kind = SL_CTL_HELLO,
                       .hello = {.version = SL_CTL_VERSION,
                                 .program = SLUICE_VERSION,
                                 .key = s->join_key,
                                 .device = s->device,
                                 .host_id = host,
                                 .process_id = process,
                                 .cpu = sl_cpu_name(),
                                 .backend = sl_backend_row(s->backend),
                                 .gpu = gpu,
                                 .pid = (uint32_t)getpid(),
                                 .threads = (uint32_t)s->n_threads,
                                 .memory_bytes = s->p.memory_bytes ? s->p.memory_bytes
                                                                   : sl_backend_memory(s->backend),
                                 .bandwidth = bandwidth,
                                 .n_ports = (size_t)n,
                                 .ports = ports}};
    sl_ctl_conn_send(s->ctl, &m);
    return 0;
}

static void on_load(struct sl_stage_loop *s, const struct sl_ctl_load *l)
{
    struct sl_stage_params p = {.model = l->model,
                                .stage = (int)l->stage,
                                .n_stages = (int)l->n_stages,
                                .layer_from = (int)l->layer_from,
                                .layer_to = (int)l->layer_to,
                                .block_tokens = (int)l->block_tokens,
                                .n_blocks = (int)l->n_blocks,
                                .max_seqs = (int)l->max_seqs,
                                .max_rows = (int)l->max_rows,
                                .kv_type = l->kv_type,
                                .memory_bytes = l->memory_bytes,
                                .adapters = l->adapters,
                                .n_adapters = (int)l->n_adapters};
    s->n_stages = p.n_stages;
    s->stage = p.stage;
    sl_log(SL_LOG_INFO, "stage", "loading layers %d-%d of %s as stage %d of %d", p.layer_from,
           p.layer_to - 1, p.model, p.stage, p.n_stages);
    must(s, sl_compute_load(s->compute, &p), "load its layers");
}

/* A neighbour died: what is in flight is lost, and nobody uses the ports again that it wrote to. */
static void on_reopen(struct sl_stage_loop *s)
{
    struct sl_err e = {0};
    s->epoch = 0;
    if (sl_hub_reopen(s->hub, &e)) {
        fail(s, &e);
        return;
    }
    struct sl_ctl m = {.kind = SL_CTL_PORTS};
    m.ports.n_ports = (size_t)sl_hub_ports(s->hub, &m.ports.ports);
    sl_ctl_conn_send(s->ctl, &m);
}

static void on_wire(struct sl_stage_loop *s, const struct sl_ctl_wire *w)
{
    struct sl_err e = {0};
    s->epoch = w->epoch;
    sl_hub_disconnect_all(s->hub);
    enum sl_dtype send_as = w->n_peers ? (enum sl_dtype)w->peers[0].activations : SL_F32;
    if (!must(s, sl_compute_reset(s->compute, w->epoch, send_as), "begin a new epoch")) return;
    if (w->lane_in) sl_hub_accept_lane(s->hub, w->epoch);
    for (size_t i = 0; i < w->n_peers; i++) {
        const struct sl_ctl_peer *p = &w->peers[i];
        if (sl_hub_connect(s->hub, (int)p->stage, p->transport, p->address, p->address_len, &e)) {
            fail(s, &e);
            return;
        }
        if (*p->lane && sl_hub_add_lane(s->hub, (int)p->stage, p->lane, p->lane_address,
                                        p->lane_address_len, &e))
            sl_log(SL_LOG_WARN, "stage", "payloads travel with their frames: %s", e.msg);
    }
    struct sl_ctl m = {.kind = SL_CTL_WIRED, .wired = {.epoch = w->epoch}};
    sl_ctl_conn_send(s->ctl, &m);
}

static void on_message(void *arg, const struct sl_ctl *m)
{
    struct sl_stage_loop *s = arg;
    s->heard_ns = sl_env_now_ns();
    switch (m->kind) {
    case SL_CTL_LOAD:
        on_load(s, &m->load);
        break;
    case SL_CTL_WIRE:
        on_wire(s, &m->wire);
        break;
    case SL_CTL_REOPEN:
        on_reopen(s);
        break;
    case SL_CTL_DRAIN:
        end(s, NULL);
        break;
    case SL_CTL_FAIL: {
        struct sl_err e;
        sl_err_set(&e, m->fail.code, "the coordinator refused this stage: %s", m->fail.message);
        end(s, &e);
        break;
    }
    default: /* Ping only says that the coordinator lives; the rest is for coordinators */
        break;
    }
}

static void on_control_end(void *arg, const struct sl_err *why)
{
    end(arg, why);
}

static void send_report(struct sl_stage_loop *s)
{
    struct sl_compute_stats st;
    sl_compute_get_stats(s->compute, &st);
    struct sl_ctl_link links[2];
    size_t n_links = 0;
    int next = s->stage + 1 < s->n_stages ? s->stage + 1 : SL_CTL_COORD;
    if (s->n_stages && sl_hub_link_stats(s->hub, next, &links[n_links])) n_links++;
    int n = sl_compute_take_steps(s->compute, s->steps, SL_CTL_STEPS_MAX);
    struct sl_ctl m = {.kind = SL_CTL_REPORT,
                       .report = {.now_ns = sl_env_now_ns(),
                                  .busy_ns = st.busy_ns,
                                  .steps = st.steps,
                                  .rows = st.rows,
                                  .queued = st.queued,
                                  .layers = st.layers,
                                  .n_links = n_links,
                                  .links = links,
                                  .n_recent = (size_t)n,
                                  .recent = s->steps}};
    sl_ctl_conn_send(s->ctl, &m);
}

static void on_beat(uv_timer_t *t)
{
    struct sl_stage_loop *s = t->data;
    if (s->ended) return;
    uint64_t now = sl_env_now_ns();
    if (now - s->beat_ns > (uint64_t)SL_CTL_DEAD_MS * 1000000)
        s->heard_ns = now; /* we slept (suspended, stopped), not they */
    s->beat_ns = now;
    uint64_t silent_ns = now - s->heard_ns;
    if (silent_ns > (uint64_t)SL_CTL_DEAD_MS * 4 *
                        1000000) { /* the coordinator is busier than we are: be patient */
        struct sl_err e;
        sl_err_set(&e, SL_ETIMEOUT, "the coordinator has been silent for %.1f s",
                   (double)silent_ns / 1e9);
        end(s, &e);
        return;
    }
    send_report(s);
}

/* ---- data ------------------------------------------------------------------------------------ */

static void on_frame(void *arg, struct sl_frame *f)
{
    struct sl_stage_loop *s = arg;
    f->recv_ns = sl_env_now_ns();
    if (f->head.epoch != s->epoch || s->epoch == 0 ||
        s->ended) { /* older: given up by the coordinator; newer cannot be: Wire comes first */
        sl_frame_free(f);
        return;
    }
    if (sl_compute_step(s->compute, f)) {
        struct sl_err e;
        sl_err_set(&e, SL_ELIMIT, "more than %d micro-batches wait in this stage",
                   SL_STAGE_QUEUE_MAX);
        fail(s, &e);
    }
}

static void on_link_down(void *arg, int peer, const struct sl_err *err)
{
    (void)arg;
    sl_log(SL_LOG_INFO, "stage", "link to %s %d is down: %s",
           peer == SL_CTL_COORD ? "coordinator" : "stage", peer, err->msg);
}

static void forward(struct sl_stage_loop *s, struct sl_frame *f)
{
    if (f->head.epoch != s->epoch) {
        sl_frame_free(f);
        return;
    }
    f->head.hop++;
    int to = f->head.kind == SL_FRAME_RESULTS || f->head.hop >= f->head.n_hops
                 ? SL_CTL_COORD
                 : f->head.route[f->head.hop];
    int r = sl_hub_send(s->hub, to, f);
    if (r) /* a receiver that has closed is leaving, or its death is noticed elsewhere */
        sl_log(r == SL_ECLOSED ? SL_LOG_INFO : SL_LOG_WARN, "stage", "lost a frame to %d: %s", to,
               sl_strerror(r));
}

static void on_progress(struct sl_stage_loop *s, const struct sl_outcome *o)
{
    uint64_t now = sl_env_now_ns();
    if (o->done < o->total && now - s->progress_ns < (uint64_t)SL_CTL_REPORT_MS * 1000000) return;
    s->progress_ns = now;
    struct sl_ctl m = {.kind = SL_CTL_PROGRESS,
                       .progress = {.done_bytes = o->done, .total_bytes = o->total}};
    sl_ctl_conn_send(s->ctl, &m);
}

static void on_loaded(struct sl_stage_loop *s, const struct sl_outcome *o)
{
    sl_hub_use_berths(s->hub, o->info.berths);
    sl_berths_release(o->info.berths);
    struct sl_ctl m = {.kind = SL_CTL_READY,
                       .ready = {.n_blocks = (uint32_t)o->info.n_blocks,
                                 .weight_bytes = o->info.weight_bytes,
                                 .kv_bytes = o->info.kv_bytes,
                                 .workspace_bytes = o->info.workspace_bytes,
                                 .load_ns = o->load_ns}};
    sl_ctl_conn_send(s->ctl, &m);
}

static void on_outcome(uv_async_t *a)
{
    struct sl_stage_loop *s = a->data;
    struct sl_outcome o;
    while (s->compute && sl_compute_take(s->compute, &o)) {
        if (s->ended) {
            sl_outcome_drop(&o);
            continue;
        }
        switch (o.kind) {
        case SL_OUTCOME_PROGRESS:
            on_progress(s, &o);
            break;
        case SL_OUTCOME_LOADED:
            on_loaded(s, &o);
            break;
        case SL_OUTCOME_FRAME:
            forward(s, o.frame);
            break;
        case SL_OUTCOME_FAILED:
            fail(s, &o.err);
            break;
        }
    }
}

static void wake(void *arg)
{
    struct sl_stage_loop *s = arg;
    uv_async_send(&s->outcome);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void maybe_done(struct sl_stage_loop *s)
{
    if (s->handles > 0 || s->hub_open) return;
    void (*done)(void *) = s->done;
    void *arg = s->done_arg;
    free(s->device);
    free(s->join_key);
    free(s);
    if (done) done(arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct sl_stage_loop *s = h->data;
    s->handles--;
    maybe_done(s);
}

static void on_hub_closed(void *arg)
{
    struct sl_stage_loop *s = arg;
    s->hub_open = 0;
    maybe_done(s);
}

void sl_stage_loop_stop(struct sl_stage_loop *s, void (*done)(void *arg), void *arg)
{
    SL_ASSERT(!s->stopping);
    s->stopping = 1;
    s->done = done;
    s->done_arg = arg;
    sl_compute_stop(s->compute);
    s->compute = NULL;
    sl_backend_destroy(s->backend);
    sl_ctl_conn_close(s->ctl);
    s->ctl = NULL;
    s->handles = 2;
    if (s->hub_open) sl_hub_close(s->hub, on_hub_closed, s);
    uv_close((uv_handle_t *)&s->outcome, on_handle_closed);
    uv_close((uv_handle_t *)&s->beat, on_handle_closed);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static int create_backend(struct sl_stage_loop *s, struct sl_err *err)
{
    if (s->p.backend && strncmp(s->p.backend, "cuda", 4) == 0) { /* its CPUs only feed the card */
        const struct sl_backend_params card = {.kind = s->p.backend, .n_threads = 1};
        s->n_threads = 1;
        return sl_backend_create(&card, &s->backend, err);
    }
    int all[SL_HOST_CPUS_MAX], n_all = sl_host_cpus(all, SL_HOST_CPUS_MAX);
    struct sl_backend_params p = {
        .kind = s->p.backend ? s->p.backend : "cpu", .cpus = s->p.cpus, .n_threads = s->p.n_cpus};
    if (!p.cpus || p.n_threads == 0) {
        p.n_threads = SL_MIN(n_all, STAGE_THREADS_MAX);
        p.cpus = all;
    }
    for (int i = 0; i < p.n_threads;
         i++) /* threads elsewhere than the user said would be slow without a word */
        if (!bsearch(&p.cpus[i], all, (size_t)n_all, sizeof *all, by_number))
            return sl_err_set(
                err, SL_EINPUT,
                "CPU %d does not exist here or is not allowed to this process, which has %d of "
                "them, from %d to %d; name others",
                p.cpus[i], n_all, all[0], all[n_all - 1]);
    s->n_threads = p.n_threads;
    return sl_backend_create(&p, &s->backend, err);
}

static int is_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; (p = strstr(p, name)); p += n)
        if ((p == list || strchr(" ,", p[-1])) && (!p[n] || strchr(" ,", p[n]))) return 1;
    return 0;
}

/* What links of a stage on a card have besides. Without NCCL its edges work too. */
static void open_lanes(struct sl_stage_loop *s)
{
    int card = sl_backend_card(s->backend);
    const struct sl_lane_kind *kind = card < 0 ? NULL : sl_nccl_lanes(card);
    struct sl_err e = {0};
    if (card >= 0) sl_gpu_pin_frames();
    if (!kind || (s->p.ports && !is_listed(s->p.ports, kind->name))) return;
    if (sl_hub_add_lanes(s->hub, kind, &e))
        sl_log(SL_LOG_WARN, "stage", "no %s here: %s", kind->name, e.msg);
}

int sl_stage_loop_start(struct uv_loop_s *loop, const struct sl_stage_loop_params *p, int fd,
                        struct sl_stage_loop **out, struct sl_err *err)
{
    struct sl_stage_loop *s = calloc(1, sizeof *s);
    SL_ASSERT(s);
    s->loop = loop;
    s->p = *p;
    s->device = strdup(p->device ? p->device : "");
    s->join_key = strdup(p->join_key ? p->join_key : "");
    s->outcome.data = s->beat.data = s;
    s->heard_ns = s->beat_ns = sl_env_now_ns();
    uv_async_init(loop, &s->outcome, on_outcome);
    uv_timer_init(loop, &s->beat);
    int r = sl_ctl_conn_open(loop, fd, on_message, on_control_end, s, &s->ctl, err);
    if (r == 0) r = create_backend(s, err);
    if (r == 0) r = sl_hub_open(loop, p->ports, on_frame, on_link_down, s, &s->hub, err);
    if (r == 0) s->hub_open = 1;
    if (r == 0) {
        open_lanes(s);
        r = send_hello(s, p->bandwidth > 0 ? p->bandwidth : sl_backend_measure(s->backend), err);
    }
    if (r == 0) {
        r = sl_compute_start(s->backend, wake, s, &s->compute, err);
        if (r == 0) s->backend = NULL;
    }
    if (r) {
        struct sl_ctl m = {.kind = SL_CTL_FAIL,
                           .fail = {.code = r, .message = err ? err->msg : sl_strerror(r)}};
        if (s->ctl) sl_ctl_conn_send(s->ctl, &m);
        sl_stage_loop_stop(s, NULL, NULL);
        return r;
    }
    uv_timer_start(&s->beat, on_beat, SL_CTL_REPORT_MS, SL_CTL_REPORT_MS);
    *out = s;
    return 0;
}
