/* list.h - intrusive doubly linked list. A list is a ring through a head; an unlinked node points
 * at itself. */
#ifndef SL_BASE_LIST_H
#define SL_BASE_LIST_H

#include "base/sl_assert.h"

struct sl_list {
    struct sl_list *next, *prev;
};

static inline void sl_list_init(struct sl_list *l)
{
    l->next = l->prev = l;
}

static inline int sl_list_empty(const struct sl_list *l)
{
    return l->next == l;
}

/* Links n before `at`: at == head appends, at == head->next prepends. */
static inline void sl_list_insert(struct sl_list *at, struct sl_list *n)
{
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}

static inline void sl_list_append(struct sl_list *head, struct sl_list *n)
{
    sl_list_insert(head, n);
}

static inline void sl_list_prepend(struct sl_list *head, struct sl_list *n)
{
    sl_list_insert(head->next, n);
}

/* Safe on an unlinked node that was initialised. */
static inline void sl_list_remove(struct sl_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    sl_list_init(n);
}

/* Iterates with removal of the current node allowed. `it` and `tmp` are struct sl_list *. */
#define sl_list_each(it, tmp, head)                                                                \
    for ((it) = (head)->next, (tmp) = (it)->next; (it) != (head); (it) = (tmp), (tmp) = (it)->next)

#endif
