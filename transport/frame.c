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
    free(f->body);
    free(f);
}

struct sl_frame *sl_frame_alloc(const struct sl_frame_head *head)
{
    uint64_t body = sl_frame_body_bytes(head);
    if (body > (uint64_t)SL_FRAME_DESC_MAX + SL_FRAME_ALIGN + SL_FRAME_PAYLOAD_MAX) return NULL;
    size_t need = round_up((size_t)body);
    struct sl_frame *f = pool_take(need);
    if (!f) {
        f = malloc(sizeof *f);
        if (!f) return NULL;
        f->cap = need;
        f->body = aligned_alloc(SL_FRAME_ALIGN, need);
        if (!f->body) {
            free(f);
            return NULL;
        }
    }
    f->head = *head;
    f->next = NULL;
    f->recv_ns = 0;
    f->via = NULL;
    size_t padded = sl_frame_desc_padded(head);
    memset(f->body + head->desc_len, 0,
           padded - head->desc_len); /* nothing of ours leaks to the peer */
    return f;
}

void sl_frame_free(struct sl_frame *f)
{
    if (!f) return;
    int keep = 0;
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
