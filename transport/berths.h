/* berths.h - buffers for payloads in a device's memory: a fixed number of one size, taken before
 * anything is served, handed from owner to owner with the frames that carry them.
 *
 * Who has a berth may read and write its data; work of the device on it is complete before it
 * changes hands. Everything here may be called from any thread. */
#ifndef SL_TRANSPORT_BERTHS_H
#define SL_TRANSPORT_BERTHS_H

#include <stddef.h>

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_berths;

struct sl_berth {
    void *data; /* device memory, 256-byte aligned */
    struct sl_berths *pool;
    struct sl_berth *next; /* for the owner's queue */
};

/* Where the memory comes from. */
struct sl_berths_memory {
    int (*alloc)(void *arg, size_t bytes, void **out, struct sl_err *err);
    void (*free)(void *arg, void *p);
    void *arg; /* e.g. the number of the card; must stay as long as the pool */
};

/* n berths of `bytes` each. 0, or what alloc says. The pool is freed when its owner has released it
 * and its last berth is back. */
int sl_berths_create(const struct sl_berths_memory *m, int n, size_t bytes, struct sl_berths **out,
                     struct sl_err *err);
void sl_berths_release(struct sl_berths *p);            /* NULL is fine */
struct sl_berths *sl_berths_share(struct sl_berths *p); /* one more owner */
size_t sl_berths_bytes(const struct sl_berths *p);      /* of one berth */

/* NULL when all are in use. */
struct sl_berth *sl_berths_take(struct sl_berths *p);
void sl_berth_free(struct sl_berth *s); /* NULL is fine */

/* Whether payloads that leave may be in device memory: the sending side says so (hub.c), who makes
 * payloads asks. sl_berths_take_out is sl_berths_take, and NULL while the answer is no. */
void sl_berths_open(struct sl_berths *p, int open);
struct sl_berth *sl_berths_take_out(struct sl_berths *p);
/* The same for a payload of so many bytes: also NULL below `least` (0 at first), for which the lane
 * is slower than the link. */
struct sl_berth *sl_berths_take_for(struct sl_berths *p, size_t bytes);
void sl_berths_set_least(struct sl_berths *p, size_t least);

/* fn(arg) is called, from any thread, after a berth came back that somebody might wait for; NULL:
 * not any more. At most one listener. fn must not call berths. */
void sl_berths_listen(struct sl_berths *p, void (*fn)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
