/* members.c - see members.h. */
#include "coordinator/members.h"

#include <string.h>

void sl_members_init(struct sl_members *m, const struct sl_coord_params *p)
{
    memset(m, 0, sizeof *m);
    m->p = p;
    for (int i = 0; i < p->n_devices; i++) m->v[i].stage = -1;
}

static enum sl_members_news give_up(struct sl_members *m)
{
    m->failed = 1;
    m->serving = m->wiring = 0;
    return SL_NEWS_FAILED;
}

static int is_planned(const struct sl_members *m, int device)
{
    return m->planned && m->v[device].stage >= 0;
}

/* ---- launching ------------------------------------------------------------------------------- */

enum sl_members_news sl_members_tick(struct sl_members *m, uint64_t now_ns, struct sl_sink *fx)
{
    if (m->failed) return SL_NEWS_NONE;
    for (int i = 0; i < m->p->n_devices; i++) {
        struct sl_member *d = &m->v[i];
        int again = d->relaunch_ns && now_ns >= d->relaunch_ns;
        if (m->started && !again) continue;
        if (again) d->restarts++;
        d->relaunch_ns = 0;
        if (d->state != SL_MEMBER_ABSENT) continue; /* came by itself in the meantime */
        d->launched = 1;
        sl_sink_add(fx, SL_FX_LAUNCH)->device = i;
    }
    m->started = 1;
    return SL_NEWS_NONE;
}

/* Deaths within the last SL_RESTART_WINDOW_NS, this one included. */
static int note_death(struct sl_member *d, uint64_t now_ns)
{
    if (d->n_deaths == SL_RESTARTS_MAX + 1) {
        memmove(d->deaths, d->deaths + 1, sizeof d->deaths - sizeof d->deaths[0]);
        d->n_deaths--;
    }
    d->deaths[d->n_deaths++] = now_ns;
    int recent = 0;
    for (int i = 0; i < d->n_deaths; i++) recent += now_ns - d->deaths[i] < SL_RESTART_WINDOW_NS;
    return recent;
}

/* ---- planning, loading, wiring --------------------------------------------------------------- */

static void load(struct sl_members *m, int device, struct sl_sink *fx)
{
    struct sl_member *d = &m->v[device];
    if (d->stage < 0) {
        d->state = SL_MEMBER_LEFT_OUT;
        return;
    }
    const struct sl_plan_stage *s = &m->plan.stages[d->stage];
    d->state = SL_MEMBER_LOADING;
    struct sl_effect *e = sl_sink_add(fx, SL_FX_LOAD);
    e->device = device;
    e->load.stage = d->stage;
    e->load.n_stages = m->plan.n_stages;
    e->load.layer_from = s->layer_from;
    e->load.layer_to = s->layer_to;
    e->load.n_blocks = (uint32_t)m->plan.n_blocks;
    e->load.memory_bytes = d->facts.memory_bytes;
}

static enum sl_members_news make_plan(struct sl_members *m, struct sl_sink *fx)
{
    struct sl_plan_device facts[SL_DEVICES_MAX];
    for (int i = 0; i < m->p->n_devices; i++) facts[i] = m->v[i].facts;
    if (sl_plan_make(&m->p->model, facts, m->p->names, m->p->n_devices, &m->p->load, &m->plan,
                     &m->err) != 0)
        return give_up(m);
    m->planned = 1;
    for (int s = 0; s < m->plan.n_stages; s++) m->v[m->plan.stages[s].device].stage = s;
    for (int i = 0; i < m->p->n_devices; i++) load(m, i, fx);
    return SL_NEWS_NONE;
}

enum sl_members_news sl_members_joined(struct sl_members *m, int device, uint64_t memory_bytes,
                                       double bandwidth, uint64_t now_ns, struct sl_sink *fx)
{
    SL_ASSERT(device >= 0 && device < m->p->n_devices);
    if (m->failed) return SL_NEWS_NONE;
    struct sl_member *d = &m->v[device];
    enum sl_members_news news = SL_NEWS_NONE;
    if (d->state !=
        SL_MEMBER_ABSENT) /* a new process in the place of one whose end we were not told of */
        news = sl_members_down(m, device, "it was replaced by a new process", now_ns);
    if (news == SL_NEWS_FAILED) return news;
    const struct sl_plan_device *hint = &m->p->hints[device];
    d->relaunch_ns = 0;
    d->launched = 1;
    d->facts = *hint;
    if (d->facts.memory_bytes == 0) d->facts.memory_bytes = memory_bytes;
    if (!(d->facts.bandwidth > 0)) d->facts.bandwidth = bandwidth;
    d->state = SL_MEMBER_JOINED;
    if (m->planned) {
        load(m, device, fx);
        return news;
    }
    for (int i = 0; i < m->p->n_devices; i++)
        if (m->v[i].state != SL_MEMBER_JOINED) return news;
    return make_plan(m, fx);
}

static int all_planned_in(const struct sl_members *m, enum sl_member_state state)
{
    for (int s = 0; s < m->plan.n_stages; s++)
        if (m->v[m->plan.stages[s].device].state != state) return 0;
    return 1;
}

enum sl_members_news sl_members_ready(struct sl_members *m, int device, uint32_t n_blocks,
                                      struct sl_sink *fx)
{
    SL_ASSERT(device >= 0 && device < m->p->n_devices);
    struct sl_member *d = &m->v[device];
    if (m->failed || d->state != SL_MEMBER_LOADING)
        return SL_NEWS_NONE; /* of a process we gave up on */
    if (n_blocks == 0) {
        sl_err_set(
            &m->err, SL_ELIMIT,
            "%s has no memory left for the KV cache; lower its share of layers or the context",
            m->p->names[device]);
        return give_up(m);
    }
    d->n_blocks = n_blocks;
    d->state = SL_MEMBER_READY;
    if (!all_planned_in(m, SL_MEMBER_READY)) return SL_NEWS_NONE;
    uint32_t least = (uint32_t)m->plan.n_blocks;
    for (int s = 0; s < m->plan.n_stages; s++)
        least = SL_MIN(least, m->v[m->plan.stages[s].device].n_blocks);
    m->n_blocks = (int)least;
    m->wiring = 1;
    sl_sink_add(fx, SL_FX_WIRE)->wire.epoch = ++m->epoch;
    return SL_NEWS_NONE;
}

enum sl_members_news sl_members_wired(struct sl_members *m, int device, uint32_t epoch)
{
    SL_ASSERT(device >= 0 && device < m->p->n_devices);
    struct sl_member *d = &m->v[device];
    if (!m->wiring || epoch != m->epoch || d->state != SL_MEMBER_READY) return SL_NEWS_NONE;
    d->state = SL_MEMBER_WIRED;
    if (!all_planned_in(m, SL_MEMBER_WIRED)) return SL_NEWS_NONE;
    m->wiring = 0;
    m->serving = 1;
    return SL_NEWS_SERVING;
}

/* ---- death ----------------------------------------------------------------------------------- */

enum sl_members_news sl_members_down(struct sl_members *m, int device, const char *message,
                                     uint64_t now_ns)
{
    SL_ASSERT(device >= 0 && device < m->p->n_devices);
    struct sl_member *d = &m->v[device];
    if (m->failed || !d->launched) return SL_NEWS_NONE; /* told twice: connection and child */
    const char *name = m->p->names[device];
    int planned = is_planned(m, device), was_serving = m->serving && planned;
    d->launched = 0;
    d->state = SL_MEMBER_ABSENT;
    sl_err_set(&m->err, SL_ERETRY, "stage %s died: %s", name,
               message ? message : "connection lost");
    if (planned) {
        /* The others keep their weights; the links of this epoch are dead. */
        m->serving = m->wiring = 0; /* answers to this epoch's WIRE come too late */
        for (int s = 0; s < m->plan.n_stages; s++) {
            struct sl_member *o = &m->v[m->plan.stages[s].device];
            if (o->state == SL_MEMBER_WIRED) o->state = SL_MEMBER_READY;
        }
    }
    if (m->p->restartable[device]) {
        int deaths = note_death(d, now_ns);
        if (deaths <= SL_RESTARTS_MAX) {
            d->relaunch_ns = now_ns + (SL_RELAUNCH_NS << (deaths - 1));
        } else if (planned || !m->planned) {
            sl_err_set(&m->err, SL_ERETRY,
                       "stage %s died %d times within %llu s, the last time: %s; see its log and "
                       "start the cluster again",
                       name, deaths, (unsigned long long)(SL_RESTART_WINDOW_NS / 1000000000ull),
                       message ? message : "connection lost");
            return give_up(m);
        }
    }
    return was_serving ? SL_NEWS_BROKEN : SL_NEWS_NONE;
}
