/* lane_fake.c - see lane_fake.h. */
#include "tests/link/lane_fake.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/env.h"
#include "base/sl_assert.h"

#define NAME_BYTES 24
#define LISTENERS_MAX 64

struct fake_faults fake_faults;
int fake_allocated;

struct piece {
    uint8_t *data;
    uint64_t n;  /* of the payload; it is announced in front of it */
    uint64_t at; /* bytes through, announcement included */
    uint64_t announced;
};

struct fake_conn {
    int listener, fd, sends, up;
    int first, active, begun; /* places */
    struct piece pieces[SL_LANE_WINDOW];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[NAME_BYTES];
    int fd;
} listeners[LISTENERS_MAX];

static struct sockaddr_un address_of(const char name[NAME_BYTES], socklen_t *n)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path + 1, name, NAME_BYTES); /* abstract: nothing is left behind */
    *n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + NAME_BYTES);
    return a;
}

static int fake_attach(void *arg, struct sl_err *err)
{
    (void)arg, (void)err;
    return 0;
}

static int fake_make_address(void *arg, uint8_t *out, struct sl_err *err)
{
    char name[NAME_BYTES + 1];
    uint64_t r;
    (void)arg, (void)err;
    sl_env_random(&r, sizeof r);
    snprintf(name, sizeof name, "fakelane%016llx", (unsigned long long)r);
    socklen_t n;
    struct sockaddr_un a = address_of(name, &n);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    SL_ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, 1) == 0);
    pthread_mutex_lock(&lock);
    int at = 0;
    while (at < LISTENERS_MAX && listeners[at].fd) at++;
    SL_ASSERT(at < LISTENERS_MAX);
    memcpy(listeners[at].name, name, NAME_BYTES);
    listeners[at].fd = fd;
    pthread_mutex_unlock(&lock);
    memcpy(out, name, NAME_BYTES);
    return NAME_BYTES;
}

static int take_listener(const uint8_t *name)
{
    int fd = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < LISTENERS_MAX; i++)
        if (listeners[i].fd && memcmp(listeners[i].name, name, NAME_BYTES) == 0) {
            fd = listeners[i].fd;
            listeners[i].fd = 0;
        }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int fake_check(void *arg, const uint8_t *address, size_t n, struct sl_err *err)
{
    (void)arg;
    if (n == NAME_BYTES && memcmp(address, "fakelane", 8) == 0) return 0;
    return sl_err_set(err, SL_EINPUT, "not the address of a fake lane");
}

static int fake_start(void *arg, const uint8_t *address, size_t n, int sends, void **conn,
                      struct sl_err *err)
{
    (void)arg, (void)n;
    if (fake_faults.start) return sl_err_set(err, SL_ESYS, "told not to start");
    struct fake_conn *c = calloc(1, sizeof *c);
    SL_ASSERT(c);
    c->sends = sends;
    c->fd = -1;
    c->listener = -1;
    if (sends) {
        socklen_t len;
        struct sockaddr_un a = address_of((const char *)address, &len);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (connect(c->fd, (struct sockaddr *)&a, len)) { /* gone: as one that never answers */
            close(c->fd);
            c->fd = -1;
        }
    } else {
        c->listener = take_listener(address);
        SL_ASSERT(c->listener >= 0); /* an address is used once */
    }
    *conn = c;
    return 0;
}

static int fake_ready(void *conn, struct sl_err *err)
{
    struct fake_conn *c = conn;
    char byte = 1;
    if (c->sends) return c->fd >= 0 && read(c->fd, &byte, 1) == 1;
    if (fake_faults.ready_in) return sl_err_set(err, SL_ESYS, "told not to come up");
    if (c->fd < 0) c->fd = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return c->fd >= 0 && send(c->fd, &byte, 1, MSG_NOSIGNAL) == 1;
}

static int fake_begin(void *conn, int place, void *data, size_t n, struct sl_err *err)
{
    struct fake_conn *c = conn;
    if (fake_faults.busy && sl_mix64(sl_env_now_ns()) % 3 == 0) return SL_EAGAIN;
    if (fake_faults.begin_after && ++c->begun >= fake_faults.begin_after)
        return sl_err_set(err, SL_ESYS, "told to fail at payload %d", c->begun);
    SL_ASSERT(c->active < SL_LANE_WINDOW && place == (c->first + c->active) % SL_LANE_WINDOW);
    c->pieces[place] = (struct piece){.data = data, .n = n, .announced = n};
    c->active++;
    return 0;
}

/* Moves bytes of one piece: 1 when it is through. */
static int move(struct fake_conn *c, struct piece *p, int *dead)
{
    while (p->at < sizeof p->announced + p->n) {
        uint8_t *from = p->at < sizeof p->announced ? (uint8_t *)&p->announced + p->at
                                                    : p->data + (p->at - sizeof p->announced);
        uint64_t left = p->at < sizeof p->announced ? sizeof p->announced - p->at
                                                    : sizeof p->announced + p->n - p->at;
        ssize_t r = c->sends ? send(c->fd, from, left, MSG_NOSIGNAL) : read(c->fd, from, left);
        if (r < 0 && errno == EAGAIN) return 0;
        if (r <= 0) {
            *dead = 1;
            return 0;
        }
        p->at += (uint64_t)r;
    }
    SL_ASSERT(p->announced == p->n); /* the payload of another frame */
    return 1;
}

static int fake_done(void *conn, int place, struct sl_err *err)
{
    struct fake_conn *c = conn;
    int dead = 0;
    SL_ASSERT(c->active && place == c->first);
    if (!move(c, &c->pieces[place], &dead))
        return dead && !fake_faults.blind ? sl_err_set(err, SL_ECLOSED, "its peer is gone") : 0;
    c->first = (c->first + 1) % SL_LANE_WINDOW;
    c->active--;
    return 1;
}

static void fake_stop(void *conn)
{
    struct fake_conn *c = conn;
    if (c->fd >= 0) close(c->fd);
    if (c->listener >= 0) close(c->listener);
    free(c);
}

static const struct sl_lane_kind kind = {.name = "fake",
                                         .attach = fake_attach,
                                         .make_address = fake_make_address,
                                         .check_address = fake_check,
                                         .start = fake_start,
                                         .ready = fake_ready,
                                         .begin = fake_begin,
                                         .done = fake_done,
                                         .stop = fake_stop};

static const struct sl_lane_kind *kind_of(int party)
{
    (void)party;
    return &kind;
}

static int take_memory(void *arg, size_t bytes, void **out, struct sl_err *err)
{
    (void)arg, (void)err;
    *out = aligned_alloc(256, bytes);
    SL_ASSERT(*out);
    fake_allocated++;
    return 0;
}

static void give_memory(void *arg, void *p)
{
    (void)arg;
    fake_allocated--;
    free(p);
}

static const struct sl_berths_memory *memory_of(int party)
{
    static const struct sl_berths_memory m = {take_memory, give_memory, NULL};
    (void)party;
    return &m;
}

static void put(int party, void *device, const void *host, size_t n)
{
    (void)party;
    memcpy(device, host, n);
}

static void get(int party, void *host, const void *device, size_t n)
{
    (void)party;
    memcpy(host, device, n);
}

const struct lane_world fake_world = {"ucx-shm", kind_of, memory_of, put, get, 5};
