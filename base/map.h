/* map.h - hash map from 64-bit id to pointer: open addressing, linear probing, grows by doubling.
 *
 * Iteration order depends only on the sequence of calls, never on addresses, so decisions stay
 * deterministic. */
#ifndef SL_BASE_MAP_H
#define SL_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sl_map_slot;
struct sl_map {
    struct sl_map_slot *slots;
    size_t len, cap; /* cap is 0 or a power of two */
};

void sl_map_init(struct sl_map *m);
void sl_map_close(struct sl_map *m);                     /* values are the caller's */
int sl_map_put(struct sl_map *m, uint64_t key, void *v); /* v != NULL; replaces; 0 or SL_ENOMEM */
void *sl_map_get(const struct sl_map *m, uint64_t key);  /* NULL when absent */
void *sl_map_remove(struct sl_map *m, uint64_t key);     /* the value, NULL when absent */

/* Start with *pos = 0; returns the next value or NULL at the end. No changes during iteration. */
void *sl_map_next(const struct sl_map *m, size_t *pos, uint64_t *key);

#ifdef __cplusplus
}
#endif
#endif
