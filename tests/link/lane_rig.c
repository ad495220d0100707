/* lane_rig.c - see lane_rig.h. */
#include "tests/link/lane_rig.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/dtype.h"
#include "base/env.h"
#include "base/sl_assert.h"

#define COLS 64
#define PEER 1 /* the number under which parties know each other */

const struct lane_world *world;

/* ---- frames ---------------------------------------------------------------------------------- */

uint32_t frame_rows(uint64_t slot)
{
    uint64_t r = sl_mix64(slot);
    uint32_t most = PARTY_BYTES / (COLS * 4);
    return 1 + (uint32_t)(r >> 8) % (r % 8 ? 64 : most);
}

static void fill(void *to, size_t n, uint64_t slot)
{
    uint64_t *v = to;
    for (size_t i = 0; i < n / 8; i++) v[i] = (slot + 1) * 0x9e3779b97f4a7c15u + i * 0x10001;
}

static int is_right(struct party *p, const struct sl_frame *f)
{
    size_t n = (size_t)sl_frame_payload_bytes(&f->head);
    uint64_t slot;
    if (f->head.slot != p->next || f->head.epoch != p->epoch || f->recv_ns == 0 || n == 0) return 0;
    memcpy(&slot, sl_frame_desc(f), sizeof slot);
    if (slot != f->head.slot) return 0;
    uint8_t *got = p->scratch, *want = p->scratch + PARTY_BYTES;
    if (f->berth)
        world->read(p->number, got, f->berth->data, n);
    else
        memcpy(got, sl_frame_payload(f), n);
    fill(want, n, slot);
    return memcmp(got, want, n) == 0;
}

static void on_frame(void *arg, struct sl_frame *f)
{
    struct party *p = arg;
    p->received++;
    if (p->echo) {
        sl_hub_send(p->hub, PEER, f);
        return;
    }
    p->with_berth += f->berth != NULL;
    if (p->quiet) {
        sl_frame_free(f);
        return;
    }
    int right = is_right(p, f);
    if (!right)
        fprintf(stderr, "party %d: frame %llu of epoch %u is wrong, %llu of %u was due\n",
                p->number, (unsigned long long)f->head.slot, f->head.epoch,
                (unsigned long long)p->next, p->epoch);
    p->wrong += !right;
    p->next = f->head.slot + 1;
    if (p->keep && p->n_kept < (int)SL_ARRAY_LEN(p->kept))
        p->kept[p->n_kept++] = f;
    else
        sl_frame_free(f);
}

void party_forget(struct party *p)
{
    while (p->n_kept) sl_frame_free(p->kept[--p->n_kept]);
}

int party_send(struct party *a, uint64_t slot, uint32_t rows, int lane, int *rc)
{
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .epoch = a->epoch,
                              .slot = slot,
                              .desc_len = sizeof slot,
                              .rows = rows,
                              .cols = COLS,
                              .dtype = SL_F32,
                              .n_hops = 1};
    size_t n = (size_t)sl_frame_payload_bytes(&h);
    struct sl_berth *s = lane ? sl_berths_take_out(a->berths) : NULL;
    h.lane = s != NULL;
    struct sl_frame *f = sl_frame_alloc(&h);
    SL_ASSERT(f && n <= PARTY_BYTES);
    memcpy(sl_frame_desc(f), &slot, sizeof slot);
    fill(a->scratch, n, slot);
    if (s)
        world->write(a->number, s->data, a->scratch, n);
    else
        memcpy(sl_frame_payload(f), a->scratch, n);
    f->berth = s;
    int r = sl_hub_send(a->hub, PEER, f);
    if (rc) *rc = r;
    return s != NULL;
}

/* ---- parties --------------------------------------------------------------------------------- */

static void on_down(void *arg, int peer, const struct sl_err *err)
{
    (void)arg, (void)peer, (void)err;
}

static void on_watchdog(uv_timer_t *t)
{
    const struct party *p = t->data;
    fprintf(stderr, "party %d hangs: %d received, %d with a berth, %d wrong, next %llu\n",
            p->number, p->received, p->with_berth, p->wrong, (unsigned long long)p->next);
    abort();
}

void party_open(struct party *p, int number)
{
    struct sl_err err = {0};
    memset(p, 0, sizeof *p);
    p->number = number;
    p->scratch = malloc(2 * (size_t)PARTY_BYTES);
    SL_ASSERT(p->scratch && uv_loop_init(&p->loop) == 0);
    uv_timer_init(&p->loop, &p->watchdog);
    p->watchdog.data = p;
    int r = sl_hub_open(&p->loop, world->transport, on_frame, on_down, p, &p->hub, &err);
    if (r == 0) r = sl_hub_add_lanes(p->hub, world->kind(number), &err);
    if (r == 0)
        r = sl_berths_create(world->memory(number), PARTY_BERTHS, PARTY_BYTES, &p->berths, &err);
    if (r) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    sl_hub_use_berths(p->hub, p->berths);
}

static void on_closed(void *arg)
{
    ((struct party *)arg)->closed = 1;
}

void party_close(struct party *p)
{
    party_forget(p);
    sl_hub_close(p->hub, on_closed, p);
    uv_timer_start(&p->watchdog, on_watchdog, PARTY_PATIENCE_MS, 0);
    while (!p->closed) uv_run(&p->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&p->watchdog, NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    SL_ASSERT(uv_loop_close(&p->loop) == 0); /* nothing is left behind */
    sl_frame_pool_trim();
    struct sl_berth *all[PARTY_BERTHS];
    for (int i = 0; i < PARTY_BERTHS; i++) {
        all[i] = sl_berths_take(p->berths);
        SL_ASSERT(all[i]); /* every one came back */
    }
    for (int i = 0; i < PARTY_BERTHS; i++) sl_berth_free(all[i]);
    sl_berths_release(p->berths);
    free(p->scratch);
}

void party_turn(struct party *p)
{
    uv_run(&p->loop, UV_RUN_NOWAIT);
}

void party_sleep(struct party *p)
{
    uv_run(&p->loop, UV_RUN_ONCE);
}

static void watch(struct party *p)
{
    if (p) uv_timer_start(&p->watchdog, on_watchdog, PARTY_PATIENCE_MS, 0);
}

static void turn_both(struct party *a, struct party *b)
{
    party_turn(a);
    if (b) party_turn(b);
}

void party_wait(struct party *a, struct party *b, const int *value, int at_least)
{
    watch(a);
    watch(b);
    while (*value < at_least) turn_both(a, b);
}

void party_spin(struct party *a, struct party *b, int ms)
{
    uint64_t until = sl_env_now_ns() + (uint64_t)ms * 1000000;
    while (sl_env_now_ns() < until) turn_both(a, b);
}

int party_wait_up(struct party *a, struct party *b, int ms)
{
    uint64_t until = sl_env_now_ns() + (uint64_t)ms * 1000000;
    for (;;) {
        struct sl_berth *s = sl_berths_take_out(a->berths);
        sl_berth_free(s);
        if (s) return 1;
        if (sl_env_now_ns() > until) return 0;
        turn_both(a, b);
    }
}

/* ---- wiring ---------------------------------------------------------------------------------- */

struct ports {
    uint32_t epoch;
    uint32_t link_len, lane_len;
    uint8_t link[SL_PORT_ADDRESS_MAX], lane[SL_LANE_ADDRESS_MAX];
};

static struct ports ports_of(const struct party *p)
{
    const struct sl_ctl_port *list;
    struct ports out = {.epoch = p->epoch};
    int n = sl_hub_ports(p->hub, &list);
    SL_ASSERT(n == 2); /* the link's, then the lanes' */
    out.link_len = (uint32_t)list[0].address_len;
    out.lane_len = (uint32_t)list[1].address_len;
    memcpy(out.link, list[0].address, out.link_len);
    memcpy(out.lane, list[1].address, out.lane_len);
    return out;
}

static void send_to(struct party *p, const struct ports *to)
{
    struct sl_err err = {0};
    p->epoch = to->epoch;
    if (sl_hub_connect(p->hub, PEER, world->transport, to->link, to->link_len, &err) ||
        sl_hub_add_lane(p->hub, PEER, world->kind(p->number)->name, to->lane, to->lane_len, &err)) {
        fprintf(stderr, "party %d: %s\n", p->number, err.msg);
        abort();
    }
}

static void receive(struct party *p, uint32_t epoch)
{
    p->epoch = epoch;
    p->next = 0;
    sl_hub_accept_lane(p->hub, epoch);
}

void party_wire(struct party *a, struct party *b, uint32_t epoch)
{
    struct ports to = ports_of(b);
    to.epoch = epoch;
    receive(b, epoch);
    send_to(a, &to);
}

/* ---- the other process ----------------------------------------------------------------------- */

static void write_all(int fd, const void *data, size_t n)
{
    for (const char *p = data; n;) {
        ssize_t w = write(fd, p, n);
        SL_ASSERT(w > 0);
        p += w;
        n -= (size_t)w;
    }
}

static void read_all(int fd, void *data, size_t n)
{
    for (char *p = data; n;) {
        ssize_t r = read(fd, p, n);
        SL_ASSERT(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

void other_start(struct other *o, struct party *p, const char *mode, uint32_t epoch)
{
    int to[2], from[2], sends = strcmp(mode, "send") == 0, echo = strcmp(mode, "echo") == 0;
    SL_ASSERT(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
    o->pid = fork();
    SL_ASSERT(o->pid >= 0);
    if (o->pid == 0) {
        int in = fcntl(to[0], F_DUPFD, 10), out = fcntl(from[1], F_DUPFD, 10);
        if (dup2(in, 3) < 0 || dup2(out, 4) < 0) _exit(99);
        close(in);
        close(out);
        execl("/proc/self/exe", "other", "--other", mode, (char *)NULL);
        _exit(98);
    }
    close(to[0]);
    close(from[1]);
    o->to = to[1];
    o->from = from[0];
    struct ports mine = ports_of(p), its;
    mine.epoch = epoch;
    if (sends || echo) receive(p, epoch);
    write_all(o->to, &mine, sizeof mine);
    read_all(o->from, &its, sizeof its);
    its.epoch = epoch;
    if (!sends) send_to(p, &its);
}

void other_kill(struct other *o)
{
    int status;
    kill(o->pid, SIGKILL);
    SL_ASSERT(waitpid(o->pid, &status, 0) == o->pid);
    close(o->to);
    close(o->from);
}

int other_main(const char *mode)
{
    struct party p;
    struct ports mine, its;
    int sends = strcmp(mode, "send") == 0;
    party_open(&p, 1);
    p.echo = strcmp(mode, "echo") == 0;
    read_all(3, &its, sizeof its);
    mine = ports_of(&p);
    if (!sends) receive(&p, its.epoch);
    write_all(4, &mine, sizeof mine);
    if (sends || p.echo) send_to(&p, &its);
    struct sl_ctl_link st;
    for (uint64_t slot = 0, sent = 0; getppid() != 1;) {
        int room = sl_hub_link_stats(p.hub, PEER, &st) && slot - st.frames < 16;
        if (sends && room) {
            sent += (uint64_t)party_send(&p, slot, frame_rows(slot), 1, NULL);
            slot++;
        }
        if (p.echo)
            party_sleep(&p);
        else
            party_turn(&p);
    }
    _exit(0); /* whoever started us is gone */
}
