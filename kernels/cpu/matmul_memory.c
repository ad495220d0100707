/* matmul_memory.c - the memory that packed weights live in.
 *
 * Expected use: once per matrix at start, hundreds of matrices of 0.1 to 100 MB, freed all
 * together. */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/matmul_pack.h"

/* Matrices share slabs, so that small ones get huge pages too: decode reads all of the weights for
 * each token, and 4 KB pages would make it walk page tables. A slab goes when its last matrix goes.
 */
#define HUGE_PAGE ((size_t)2 << 20)
#define SLAB_BYTES (4 * HUGE_PAGE)
#define HEAD 64 /* bytes before a matrix, holding its slab */

struct slab {
    size_t bytes, used;
    int live;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slab *current; /* where the next small matrix goes; NULL or with live > 0 */

static struct slab *slab_map(size_t bytes)
{
    bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    size_t over = bytes + HUGE_PAGE;
    uint8_t *p = mmap(NULL, over, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t skip = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (skip) munmap(p, skip);
    if (HUGE_PAGE - skip) munmap(p + skip + bytes, HUGE_PAGE - skip);
    madvise(p + skip, bytes, MADV_HUGEPAGE);
    struct slab *s = (struct slab *)(p + skip);
    *s = (struct slab){.bytes = bytes, .used = HEAD};
    return s;
}

static void *slab_take(struct slab *s, size_t bytes)
{
    uint8_t *p = (uint8_t *)s + s->used;
    memcpy(p, &s, sizeof(struct slab *));
    s->used += bytes;
    s->live++;
    return p + HEAD;
}

void *sl_mm_memory_get(size_t bytes)
{
    bytes = HEAD + ((bytes + 63) & ~(size_t)63);
    if (bytes > SLAB_BYTES / 2) {
        struct slab *s = slab_map(HEAD + bytes);
        return s ? slab_take(s, bytes) : NULL;
    }
    pthread_mutex_lock(&lock);
    if (!current || current->bytes - current->used < bytes) {
        struct slab *s = slab_map(SLAB_BYTES);
        if (!s) {
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        current = s;
    }
    void *p = slab_take(current, bytes);
    pthread_mutex_unlock(&lock);
    return p;
}

void sl_mm_memory_put(void *p)
{
    if (!p) return;
    struct slab *s;
    memcpy(&s, (uint8_t *)p - HEAD, sizeof(struct slab *));
    pthread_mutex_lock(&lock);
    if (--s->live == 0) {
        if (s == current) current = NULL;
        munmap(s, s->bytes);
    }
    pthread_mutex_unlock(&lock);
}
