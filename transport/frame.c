/* frame.c - frames and their pool.
 *
 * Workload: per micro-batch one frame of a few KB (decoding) or some MB (prefill), allocated on the
 * loop thread and freed on another. Freed frames go on a short list, newest first; a frame is
 * reused when its body is large enough and not wastefully larger. Both the number of frames and
 * their bytes are bounded, the rest is freed. */
#include "transport/frame.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"

#define BODY_MIN 4096 /* bytes: smaller bodies share one size */
#define WASTE_MAX 4   /* a reused body is at most this many times what is needed */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sl_frame *pool; /* under lock, like the two below */
static size_t pool_frames, pool_bytes;

static void *plain_alloc(size_t bytes)
{
    return aligned_alloc(SL_FRAME_ALIGN, bytes);
}

static void *(*body_alloc)(size_t bytes) = plain_alloc; /* under lock, like the next */
static void (*body_release)(void *p) = free;

void sl_frame_use_memory(void *(*alloc)(size_t bytes), void (*release)(void *p))
{
    pthread_mutex_lock(&lock);
    body_alloc = alloc;
    body_release = release;
    pthread_mutex_unlock(&lock);
    sl_frame_pool_trim();
}

/* Next power of two up to 64 KiB, then steps of 64 KiB: few sizes, little waste. */
static size_t round_up(size_t n)
{
    size_t cap = BODY_MIN;
    while (cap < n && cap < 65536) cap *= 2;
    return cap >= n ? cap : (n + 65535) & ~(size_t)65535;
}

static struct sl_frame *pool_take(size_t need)
{
    struct sl_frame *found = NULL;
    pthread_mutex_lock(&lock);
    for (struct sl_frame **at = &pool; *at; at = &(*at)->next)
        if ((*at)->cap >= need && (*at)->cap / WASTE_MAX <= need) {
            found = *at;
            *at = found->next;
            pool_frames--;
            pool_bytes -= found->cap;
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

static void frame_destroy(struct sl_frame *f)
{
    f->body_free(f->body);
    free(f);
}

/* A new frame with a body of `cap` bytes. */
static struct sl_frame *frame_create(size_t cap)
{
    struct sl_frame *f = malloc(sizeof *f);
    if (!f) return NULL;
    pthread_mutex_lock(&lock);
    void *(*alloc)(size_t) = body_alloc;
    f->body_free = body_release;
    pthread_mutex_unlock(&lock);
    f->cap = cap;
    f->body = alloc(cap);
    if (f->body) return f;
    free(f);
    return NULL;
}

struct sl_frame *sl_frame_alloc(const struct sl_frame_head *head)
{
    uint64_t body = sl_frame_body_bytes(head);
    if (body > (uint64_t)SL_FRAME_DESC_MAX + SL_FRAME_ALIGN + SL_FRAME_PAYLOAD_MAX) return NULL;
    size_t need = round_up((size_t)body);
    struct sl_frame *f = pool_take(need);
    if (!f) f = frame_create(need);
    if (!f) return NULL;
    f->head = *head;
    f->next = NULL;
    f->recv_ns = 0;
    f->via = NULL;
    f->berth = NULL;
    size_t padded = sl_frame_desc_padded(head);
    memset(f->body + head->desc_len, 0,
           padded - head->desc_len); /* nothing of ours leaks to the peer */
    return f;
}

void sl_frame_free(struct sl_frame *f)
{
    if (!f) return;
    int keep = 0;
    sl_berth_free(f->berth);
    f->berth = NULL;
    pthread_mutex_lock(&lock);
    if (pool_frames < SL_FRAME_POOL_MAX && f->cap <= SL_FRAME_POOL_BYTES_MAX - pool_bytes) {
        keep = 1;
        f->next = pool;
        pool = f;
        pool_frames++;
        pool_bytes += f->cap;
    }
    pthread_mutex_unlock(&lock);
    if (!keep) frame_destroy(f);
}

void sl_frame_pool_trim(void)
{
    pthread_mutex_lock(&lock);
    struct sl_frame *all = pool;
    pool = NULL;
    pool_frames = pool_bytes = 0;
    pthread_mutex_unlock(&lock);
    while (all) {
        struct sl_frame *next = all->next;
        frame_destroy(all);
        all = next;
    }
}
