/* berths.c - see berths.h. One block of device memory cut into berths, a free list and a mutex: a
 * berth is taken and given back a few times per micro-batch. */
#include "transport/berths.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/sl_assert.h"

#define BERTH_ALIGN 256 /* bytes */

struct sl_berths {
    pthread_mutex_t lock;
    struct sl_berths_memory memory;
    void *block;
    size_t bytes;          /* of a berth */
    struct sl_berth *free; /* under lock, like all below */
    int owners, out;       /* out: berths in use */
    int open;
    size_t least; /* bytes of a payload that leaves in a berth */
    void (*listener)(void *arg);
    void *listener_arg;
    struct sl_berth berths[]; /* they belong to the pool and live as long */
};

int sl_berths_create(const struct sl_berths_memory *m, int n, size_t bytes, struct sl_berths **out,
                     struct sl_err *err)
{
    SL_ASSERT(n > 0 && bytes > 0);
    size_t step = (bytes + BERTH_ALIGN - 1) & ~(size_t)(BERTH_ALIGN - 1);
    struct sl_berths *p = calloc(1, sizeof *p + (size_t)n * sizeof p->berths[0]);
    if (!p) return sl_err_set(err, SL_ENOMEM, "no memory for the link buffers' table");
    int r = m->alloc(m->arg, (size_t)n * step, &p->block, err);
    if (r) {
        free(p);
        return r;
    }
    pthread_mutex_init(&p->lock, NULL);
    p->memory = *m;
    p->bytes = bytes;
    p->owners = 1;
    for (int i = n; i-- > 0;) {
        p->berths[i] = (struct sl_berth){(char *)p->block + (size_t)i * step, p, p->free};
        p->free = &p->berths[i];
    }
    *out = p;
    return 0;
}

static void destroy(struct sl_berths *p)
{
    p->memory.free(p->memory.arg, p->block);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct sl_berths *sl_berths_share(struct sl_berths *p)
{
    pthread_mutex_lock(&p->lock);
    p->owners++;
    pthread_mutex_unlock(&p->lock);
    return p;
}

void sl_berths_release(struct sl_berths *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    SL_ASSERT(p->owners > 0);
    int last = --p->owners == 0 && p->out == 0;
    pthread_mutex_unlock(&p->lock);
    if (last) destroy(p);
}

size_t sl_berths_bytes(const struct sl_berths *p)
{
    return p->bytes;
}

static struct sl_berth *take(struct sl_berths *p, int leaving)
{
    pthread_mutex_lock(&p->lock);
    struct sl_berth *s = leaving && !p->open ? NULL : p->free;
    if (s) {
        p->free = s->next;
        s->next = NULL;
        p->out++;
    }
    pthread_mutex_unlock(&p->lock);
    return s;
}

struct sl_berth *sl_berths_take(struct sl_berths *p)
{
    return take(p, 0);
}

struct sl_berth *sl_berths_take_out(struct sl_berths *p)
{
    return p ? take(p, 1) : NULL;
}

struct sl_berth *sl_berths_take_for(struct sl_berths *p, size_t bytes)
{
    if (!p) return NULL;
    pthread_mutex_lock(&p->lock);
    int small = bytes < p->least;
    pthread_mutex_unlock(&p->lock);
    return small ? NULL : take(p, 1);
}

void sl_berths_set_least(struct sl_berths *p, size_t least)
{
    pthread_mutex_lock(&p->lock);
    p->least = least;
    pthread_mutex_unlock(&p->lock);
}

void sl_berth_free(struct sl_berth *s)
{
    if (!s) return;
    struct sl_berths *p = s->pool;
    pthread_mutex_lock(&p->lock);
    s->next = p->free;
    p->free = s;
    int last = --p->out == 0 && p->owners == 0;
    /* under the lock, so that nobody is called who has stopped listening */
    if (p->listener) p->listener(p->listener_arg);
    pthread_mutex_unlock(&p->lock);
    if (last) destroy(p);
}

void sl_berths_open(struct sl_berths *p, int open)
{
    pthread_mutex_lock(&p->lock);
    p->open = open;
    pthread_mutex_unlock(&p->lock);
}

void sl_berths_listen(struct sl_berths *p, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&p->lock);
    p->listener = fn;
    p->listener_arg = arg;
    pthread_mutex_unlock(&p->lock);
}
