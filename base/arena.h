/* arena.h - capped bump allocator: many small things that live and die together.
 *
 * Used for one request, one file, one step. Allocation is 16-byte aligned and zeroed; nothing is
 * freed singly. */
#ifndef SL_BASE_ARENA_H
#define SL_BASE_ARENA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sl_arena_chunk;
struct sl_arena {
    struct sl_arena_chunk *head;
    size_t used; /* bytes handed out */
    size_t max;  /* most bytes it may hand out */
};

void sl_arena_init(struct sl_arena *a, size_t max_bytes);
void sl_arena_close(struct sl_arena *a); /* frees everything; the arena may be used again */

/* NULL when the maximum is reached or memory is out. */
void *sl_arena_alloc(struct sl_arena *a, size_t n);
char *sl_arena_strndup(struct sl_arena *a, const char *s, size_t n); /* adds a NUL */
char *sl_arena_strdup(struct sl_arena *a, const char *s);

#ifdef __cplusplus
}
#endif
#endif
