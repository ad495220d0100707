/* frame.h - one frame in memory: parsed header and a 64-byte aligned body, handed from owner to
 * owner without copying. */
#ifndef SL_TRANSPORT_FRAME_H
#define SL_TRANSPORT_FRAME_H

#include "proto/wire.h"
#include "transport/berths.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sl_frame {
    struct sl_frame_head head;
    uint8_t *body;         /* sl_frame_body_bytes(&head) bytes, 64-byte aligned */
    size_t cap;            /* bytes allocated for body */
    struct sl_frame *next; /* for the owner's queue */
    uint64_t recv_ns;      /* when it arrived here (monotonic), 0 for frames made here */
    void *via;             /* private to the transport while it has the frame */
    /* With head.lane: the payload, in a device's memory; the frame's, freed with it. NULL without
     * (and under way over a lane). Whoever changes hands with the frame finds it complete. */
    struct sl_berth *berth;
    void (*body_free)(void *p); /* where the body goes */
};

#define SL_FRAME_POOL_MAX 64                 /* frames kept for reuse */
#define SL_FRAME_POOL_BYTES_MAX (256u << 20) /* bytes they may hold together */

/* A frame with room for `head` (desc_len, rows, cols, dtype are read). Freed frames are kept in a
 * small per-process pool (thread safe), so the steady state allocates nothing. The body is not
 * cleared but for the padding behind the descriptor. NULL when memory is out. */
struct sl_frame *sl_frame_alloc(const struct sl_frame_head *head);
void sl_frame_free(struct sl_frame *f); /* NULL is fine; any thread */
void sl_frame_pool_trim(void);          /* frees the pooled frames (tests, exit) */

/* Bodies made from here on come from alloc (SL_FRAME_ALIGN-aligned, NULL when memory is out): pages
 * that a device can read and write at full speed (gpu.h). For the whole process, once. */
void sl_frame_use_memory(void *(*alloc)(size_t bytes), void (*release)(void *p));

static inline uint8_t *sl_frame_desc(const struct sl_frame *f)
{
    return f->body;
}

static inline void *sl_frame_payload(const struct sl_frame *f)
{
    return f->body + sl_frame_desc_padded(&f->head);
}

#ifdef __cplusplus
}
#endif
#endif
