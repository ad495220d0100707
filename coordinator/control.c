/* control.c - the stages as the coordinator sees them: started, connected, told what to do, heard,
 * lost.
 *
 * How one joins is in join.c, how they are linked in wiring.c.
 *
 * Failure list: a child exits, its connection ends, it is silent for SL_CTL_DEAD_MS, it says Fail,
 * its link dies, it lives and neither loads nor answers: all end in sl_control_down, once per life.
 * A stage that cannot ever work (its configuration is refused) before the first time the pipeline
 * served gives the whole service up instead of being started again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "base/text.h"
#include "coordinator/internal.h"

/* ---- leaving --------------------------------------------------------------------------------- */

void sl_peer_close(struct stage_peer *p)
{
    sl_peer_forget(p);
    free(p->timeline);
    p->timeline = NULL;
}

/* The next process of this device counts from 0 again. */
static void keep_counts(struct stage_peer *p)
{
    p->before.busy_ns += p->now.busy_ns;
    p->before.steps += p->now.steps;
    p->before.rows += p->now.rows;
    p->before.link_frames += p->now.link_frames;
    p->before.link_bytes += p->now.link_bytes;
    p->before.link_busy_ns += p->now.link_busy_ns;
    p->now = (struct stage_counts){0};
}

void sl_control_down(struct sl_service *s, int device, const char *why)
{
    struct stage_peer *p = &s->peers[device];
    if (!p->ctl && !p->child) return;
    if (why != p->last_error) snprintf(p->last_error, sizeof p->last_error, "%s", why);
    sl_ctl_conn_close(p->ctl);
    free(p->link_end);
    p->ctl = NULL;
    p->link_end = NULL;
    p->loading_ns = 0;
    if (p->child) { /* alive or not, it is of no use any more */
        sl_child_abandon(p->child, 0);
        p->child = NULL;
    }
    sl_peer_forget(p);
    keep_counts(p);
    if (p->plan_stage >= 0) sl_wiring_break(s);
    sl_log(SL_LOG_WARN, "coord", "stage %s is down: %s", s->names[device], p->last_error);
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

/* Starting again cannot help: what it was told is wrong (2), or the program is not there or no
 * program (127, 126). */
static int cannot_ever_start(const struct sl_service *s, int status)
{
    struct sl_coord_status st;
    sl_service_get_status(s, &st);
    return st.epoch == 0 && (status == 2 || status == 126 || status == 127);
}

static void on_child_exit(void *arg, int status, const char *last_line)
{
    struct stage_peer *p = arg;
    struct sl_service *s = p->svc;
    int connected = p->ctl != NULL;
    p->child = NULL;
    if (status < 0)
        snprintf(p->last_error, sizeof p->last_error, "its process was killed by signal %d%s%s",
                 -status, last_line && *last_line ? "; it said: " : "", last_line ? last_line : "");
    else
        snprintf(p->last_error, sizeof p->last_error, "its process ended with status %d%s%s",
                 status, last_line && *last_line ? ": " : "", last_line ? last_line : "");
    if (connected) {
        sl_control_down(s, p->device, p->last_error);
        return;
    }
    if (cannot_ever_start(s, status)) {
        struct sl_err e;
        sl_err_set(&e, SL_EINPUT, "%s: %s", s->names[p->device], p->last_error);
        sl_service_give_up(s, &e);
        return;
    }
    sl_log(SL_LOG_WARN, "coord", "stage %s did not join: %s", s->names[p->device], p->last_error);
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = p->device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

/* ---- what a stage says ----------------------------------------------------------------------- */

static void on_report(struct stage_peer *p, const struct sl_ctl_report *r)
{
    p->now.busy_ns = r->busy_ns;
    p->now.steps = r->steps;
    p->now.rows = r->rows;
    if (r->layers != p->layers) p->moved_ns = sl_env_now_ns();
    p->layers = r->layers;
    if (r->n_links) {
        p->now.link_frames = r->links[0].frames;
        p->now.link_bytes = r->links[0].bytes;
        p->now.link_busy_ns = r->links[0].busy_ns;
        snprintf(p->link_transport, sizeof p->link_transport, "%s", r->links[0].transport);
    }
    if (!p->timeline) p->timeline = calloc(SL_TIMELINE_MAX, sizeof *p->timeline);
    for (size_t i = 0; p->timeline && i < r->n_recent; i++) {
        p->timeline[(p->timeline_at + p->timeline_len) % SL_TIMELINE_MAX] = r->recent[i];
        if (p->timeline_len < SL_TIMELINE_MAX)
            p->timeline_len++;
        else
            p->timeline_at = (p->timeline_at + 1) % SL_TIMELINE_MAX;
    }
}

/* Starting again cannot help: the file, the limits or the program are wrong. */
static int is_final(int code)
{
    return code == SL_EINPUT || code == SL_EUNSUPPORTED || code == SL_ELIMIT ||
           code == SL_ENOTFOUND || code == SL_EUSAGE;
}

static void on_stage_fail(struct stage_peer *p, const struct sl_ctl_fail *f)
{
    struct sl_service *s = p->svc;
    struct sl_coord_status st;
    sl_service_get_status(s, &st);
    snprintf(p->last_error, sizeof p->last_error, "%s", f->message);
    if (st.epoch == 0 && is_final(f->code)) {
        struct sl_err e;
        sl_err_set(&e, f->code, "%s: %s", s->names[p->device], f->message);
        sl_service_give_up(s, &e);
        return;
    }
    sl_control_down(s, p->device, p->last_error);
}

void sl_control_message(struct stage_peer *p, const struct sl_ctl *m)
{
    struct sl_service *s = p->svc;
    struct sl_event ev = {.device = p->device};
    p->heard_ns = sl_env_now_ns();
    switch (m->kind) {
    case SL_CTL_PROGRESS:
        if (p->loading_ns && p->loaded_bytes != m->progress.done_bytes) p->loading_ns = p->heard_ns;
        p->loaded_bytes = m->progress.done_bytes;
        p->total_bytes = m->progress.total_bytes;
        break;
    case SL_CTL_READY:
        p->ready = m->ready;
        p->loading_ns = 0;
        ev.kind = SL_EV_READY;
        ev.ready.n_blocks = m->ready.n_blocks;
        sl_service_event(s, &ev);
        break;
    case SL_CTL_WIRED:
        ev.kind = SL_EV_WIRED;
        ev.wired.epoch = m->wired.epoch;
        sl_service_event(s, &ev);
        break;
    case SL_CTL_PORTS:
        sl_wiring_ports(p, &m->ports);
        break;
    case SL_CTL_REPORT:
        on_report(p, &m->report);
        break;
    case SL_CTL_FAIL:
        on_stage_fail(p, &m->fail);
        break;
    default:
        break;
    }
}

/* ---- what a stage is told -------------------------------------------------------------------- */

static void start_failed(struct sl_service *s, int device, const struct sl_err *err)
{
    struct stage_peer *p = &s->peers[device];
    snprintf(p->last_error, sizeof p->last_error, "%s", err->msg);
    if (is_final(err->code)) {
        struct sl_err e = *err;
        sl_err_prefix(&e, "%s: ", s->names[device]);
        sl_service_give_up(s, &e);
        return;
    }
    struct sl_event ev = {.kind = SL_EV_DOWN, .device = device};
    ev.down.message = p->last_error;
    sl_service_event(s, &ev);
}

static void launch_thread(struct sl_service *s, int device)
{
    struct sl_err err = {0};
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds)) {
        sl_err_set(&err, SL_ESYS, "socketpair: %s", strerror(errno));
        start_failed(s, device, &err);
        return;
    }
    int r = sl_join_add(s, fds[0], device, &err);
    if (r == 0)
        r = s->p.start_thread(s->p.start_thread_arg, s->loop, &s->cluster->devices[device],
                              s->join_key, fds[1], &err);
    else
        close(fds[1]);
    if (r) start_failed(s, device, &err);
}

void sl_control_launch(struct sl_service *s, int device)
{
    const struct sl_device *d = &s->cluster->devices[device];
    const struct sl_node *n = &s->cluster->nodes[d->node];
    struct stage_peer *p = &s->peers[device];
    struct sl_err err = {0};
    if (n->launch == SL_LAUNCH_THREAD) {
        launch_thread(s, device);
        return;
    }
    if (n->launch == SL_LAUNCH_EXTERNAL) {
        sl_log(SL_LOG_INFO, "coord", "waiting for %s: sluice stage --join %s --device %s", d->name,
               s->control, d->name);
        return;
    }
    struct sl_launch_params lp = {.program = s->p.program,
                                  .control = s->control,
                                  .join_key = s->join_key,
                                  .node = n,
                                  .device = d,
                                  .on_exit = on_child_exit,
                                  .arg = p};
    p->launched_ns = sl_env_now_ns();
    if (sl_launch(s->loop, &lp, &p->child, &err)) start_failed(s, device, &err);
}

static const char *model_of(const struct sl_service *s, int device)
{
    const struct sl_node *n = &s->cluster->nodes[s->cluster->devices[device].node];
    return n->model_path ? n->model_path : s->cluster->model_path;
}

void sl_control_load(struct sl_service *s, int device, const struct sl_effect *fx)
{
    const struct sl_cluster *c = s->cluster;
    struct stage_peer *p = &s->peers[device];
    p->plan_stage = fx->load.stage;
    p->loaded_bytes = p->total_bytes = 0;
    p->loading_ns = sl_env_now_ns();
    const char *adapters[SL_CLUSTER_ADAPTERS_MAX];
    for (int i = 0; i < c->n_adapters; i++) adapters[i] = c->adapters[i].path;
    struct sl_ctl m = {.kind = SL_CTL_LOAD,
                       .load = {.stage = (uint32_t)fx->load.stage,
                                .n_stages = (uint32_t)fx->load.n_stages,
                                .model = model_of(s, device),
                                .layer_from = (uint32_t)fx->load.layer_from,
                                .layer_to = (uint32_t)fx->load.layer_to,
                                .block_tokens = SL_BLOCK_TOKENS,
                                .n_blocks = fx->load.n_blocks,
                                .max_seqs = (uint32_t)(c->sequences ? c->sequences : 16),
                                .max_rows = (uint32_t)s->max_rows,
                                .kv_type = c->kv_format ? c->kv_format : "auto",
                                .memory_bytes = fx->load.memory_bytes + s->workspace_bytes,
                                .adapters = adapters,
                                .n_adapters = (size_t)c->n_adapters}};
    if (p->ctl) sl_ctl_conn_send(p->ctl, &m);
}

/* Whether the stage has reported micro-batch `slot`, or a later one, as done. */
static int has_done(const struct stage_peer *p, uint64_t slot)
{
    if (!p->timeline_len) return 0;
    return p->timeline[(p->timeline_at + p->timeline_len - 1) % SL_TIMELINE_MAX].slot >= slot;
}

void sl_control_stalled(struct sl_service *s, uint64_t slot, uint64_t age_ns)
{
    const struct sl_plan *plan = sl_coord_plan(s->coord);
    int i = 0;
    while (i < plan->n_stages - 1 && has_done(&s->peers[plan->stages[i].device], slot)) i++;
    const struct stage_peer *p = &s->peers[plan->stages[i].device];
    if (sl_env_now_ns() - p->moved_ns < SL_MOVED_NS)
        return; /* slow, not stuck: it finished a layer a moment ago */
    char why[160];
    snprintf(why, sizeof why, "it lives but has not answered micro-batch %llu for %.1f s",
             (unsigned long long)slot, (double)age_ns / 1e9);
    sl_control_down(s, plan->stages[i].device, why);
}

/* ---- time and life --------------------------------------------------------------------------- */

/* A stage whose disk or network share does not answer lives on and waits for ever. */
static void check_loading(struct sl_service *s, struct stage_peer *p, uint64_t now)
{
    if (!p->loading_ns || now < p->loading_ns || now - p->loading_ns < s->load_stall_ns) return;
    char why[SL_ERR_MSG_MAX], part[32], all[32];
    snprintf(why, sizeof why,
             "it has loaded %s of %s and nothing more for %.0f s; does the disk or network share "
             "with %s answer?",
             sl_format_bytes(p->loaded_bytes, part),
             p->total_bytes ? sl_format_bytes(p->total_bytes, all) : "its layers",
             (double)(now - p->loading_ns) / 1e9, model_of(s, p->device));
    sl_control_down(s, p->device, why);
}

/* SLUICE_LOAD_STALL: "900s" for storage slower than we think of. */
static int read_load_stall(struct sl_service *s, struct sl_err *err)
{
    const char *text = sl_env_get("SLUICE_LOAD_STALL");
    s->load_stall_ns = SL_LOAD_STALL_MS * 1000000ull;
    if (!text || (sl_parse_duration(text, &s->load_stall_ns) == 0 && s->load_stall_ns > 0))
        return 0;
    return sl_err_set(err, SL_EINPUT,
                      "SLUICE_LOAD_STALL is \"%s\"; give a time with its unit, as 300s", text);
}

void sl_control_tick(struct sl_service *s, uint64_t now)
{
    int ping = now - s->pinged_ns >= (uint64_t)SL_CTL_REPORT_MS * 1000000;
    if (ping) s->pinged_ns = now;
    /* When we ourselves did not run (stopped, starved), what the stages said in the meantime is
     * still unread: silence counts from now. */
    int slept = s->ticked_ns && now - s->ticked_ns > (uint64_t)SL_CTL_DEAD_MS * 1000000 / 2;
    s->ticked_ns = now;
    for (int i = 0; i < s->cluster->n_devices; i++) {
        struct stage_peer *p = &s->peers[i];
        if (p->child && !p->ctl && now > p->launched_ns &&
            now - p->launched_ns > (uint64_t)SL_JOIN_MS * 1000000) {
            char late[80];
            snprintf(late, sizeof late, "it was started and has not joined for %d s",
                     SL_JOIN_MS / 1000);
            sl_control_down(s, i, late);
        }
        if (!p->ctl) continue;
        struct sl_ctl m = {.kind = SL_CTL_PING};
        if (ping) sl_ctl_conn_send(p->ctl, &m);
        if (slept) p->heard_ns = now;
        if (slept && p->loading_ns) p->loading_ns = now;
        if (now > p->heard_ns && now - p->heard_ns > (uint64_t)SL_CTL_DEAD_MS * 1000000) {
            char why[80];
            snprintf(why, sizeof why, "silent for %.1f s", (double)(now - p->heard_ns) / 1e9);
            sl_control_down(s, i, why);
        } else {
            check_loading(s, p, now);
        }
    }
    sl_join_tick(s, now);
}

int sl_control_start(struct sl_service *s, struct sl_err *err)
{
    const struct sl_cluster *c = s->cluster;
    s->peers = calloc((size_t)c->n_devices, sizeof *s->peers);
    if (!s->peers) return sl_err_set(err, SL_ENOMEM, "no memory for %d stages", c->n_devices);
    for (int i = 0; i < c->n_devices; i++)
        s->peers[i] = (struct stage_peer){.svc = s, .device = i, .plan_stage = -1};
    int r = read_load_stall(s, err);
    return r ? r : sl_join_start(s, err);
}

void sl_control_drain(struct sl_service *s)
{
    for (int i = 0; s->peers && i < s->cluster->n_devices; i++) {
        struct sl_ctl m = {.kind = SL_CTL_DRAIN};
        if (s->peers[i].ctl) sl_ctl_conn_send(s->peers[i].ctl, &m);
    }
}

void sl_control_close(struct sl_service *s)
{
    for (int i = 0; s->peers && i < s->cluster->n_devices; i++) {
        struct stage_peer *p = &s->peers[i];
        if (p->child) sl_child_abandon(p->child, SL_CHILD_LEAVE_MS); /* it was told to leave */
        sl_ctl_conn_close(p->ctl);
        free(p->link_end);
        p->child = NULL;
        p->ctl = NULL;
        p->link_end = NULL;
    }
    sl_join_close(s);
}
