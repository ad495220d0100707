/* map.c - see map.h. Removal shifts followers back, so there are no tombstones. */
#include "base/map.h"

#include <stdlib.h>

#include "base/env.h"
#include "base/err.h"
#include "base/sl_assert.h"

#define MAP_FIRST 16 /* slots */

struct sl_map_slot {
    uint64_t key;
    void *value; /* NULL = free */
};

void sl_map_init(struct sl_map *m)
{
    *m = (struct sl_map){0};
}

void sl_map_close(struct sl_map *m)
{
    free(m->slots);
    *m = (struct sl_map){0};
}

static size_t home(const struct sl_map *m, uint64_t key)
{
    return (size_t)sl_mix64(key) & (m->cap - 1);
}

static struct sl_map_slot *probe(const struct sl_map *m, uint64_t key)
{
    size_t i = home(m, key);
    while (m->slots[i].value && m->slots[i].key != key) i = (i + 1) & (m->cap - 1);
    return &m->slots[i];
}

static int grow(struct sl_map *m)
{
    struct sl_map old = *m;
    m->cap = old.cap ? old.cap * 2 : MAP_FIRST;
    m->slots = calloc(m->cap, sizeof *m->slots);
    if (!m->slots) {
        *m = old;
        return SL_ENOMEM;
    }
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].value) *probe(m, old.slots[i].key) = old.slots[i];
    free(old.slots);
    return 0;
}

int sl_map_put(struct sl_map *m, uint64_t key, void *v)
{
    SL_ASSERT(v != NULL);
    if ((m->len + 1) * 4 > m->cap * 3) {
        int r = grow(m);
        if (r) return r;
    }
    struct sl_map_slot *s = probe(m, key);
    if (!s->value) m->len++;
    *s = (struct sl_map_slot){key, v};
    return 0;
}

void *sl_map_get(const struct sl_map *m, uint64_t key)
{
    return m->cap ? probe(m, key)->value : NULL;
}

void *sl_map_remove(struct sl_map *m, uint64_t key)
{
    if (!m->cap) return NULL;
    struct sl_map_slot *s = probe(m, key);
    void *v = s->value;
    if (!v) return NULL;
    m->len--;
    size_t hole = (size_t)(s - m->slots), i = hole;
    for (;;) {
        i = (i + 1) & (m->cap - 1);
        if (!m->slots[i].value) break;
        size_t want = home(m, m->slots[i].key);
        if (((i - want) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].value = NULL;
    return v;
}

void *sl_map_next(const struct sl_map *m, size_t *pos, uint64_t *key)
{
    while (*pos < m->cap) {
        const struct sl_map_slot *s = &m->slots[(*pos)++];
        if (s->value) {
            if (key) *key = s->key;
            return s->value;
        }
    }
    return NULL;
}
