/* arena.c - see arena.h. */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGN 16
#define ARENA_CHUNK (32 * 1024) /* bytes of an ordinary chunk */

struct sl_arena_chunk {
    struct sl_arena_chunk *next;
    size_t used, cap;
    _Alignas(ARENA_ALIGN) char data[];
};

void sl_arena_init(struct sl_arena *a, size_t max_bytes)
{
    *a = (struct sl_arena){.max = max_bytes};
}

void sl_arena_close(struct sl_arena *a)
{
    for (struct sl_arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *a = (struct sl_arena){.max = a->max};
}

void *sl_arena_alloc(struct sl_arena *a, size_t n)
{
    if (n > a->max || n > SIZE_MAX / 2) return NULL; /* so that rounding up cannot wrap around */
    n = (n + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (n > a->max - (a->used < a->max ? a->used : a->max)) return NULL;
    struct sl_arena_chunk *c = a->head;
    if (!c || c->cap - c->used < n) {
        size_t cap = n > ARENA_CHUNK / 4 ? n : ARENA_CHUNK;
        c = calloc(1, sizeof *c + cap);
        if (!c) return NULL;
        c->cap = cap;
        /* a big allocation goes behind the current chunk, so that the rest of that one stays usable
         */
        if (cap == n && a->head) {
            c->next = a->head->next;
            a->head->next = c;
        } else {
            c->next = a->head;
            a->head = c;
        }
    }
    void *p = c->data + c->used;
    c->used += n;
    a->used += n;
    return p;
}

char *sl_arena_strndup(struct sl_arena *a, const char *s, size_t n)
{
    char *p = n < SIZE_MAX ? sl_arena_alloc(a, n + 1) : NULL;
    if (p && n) memcpy(p, s, n);
    return p;
}

char *sl_arena_strdup(struct sl_arena *a, const char *s)
{
    return sl_arena_strndup(a, s, strlen(s));
}
