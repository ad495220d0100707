/* hostile.h - a UCX peer that is not one of ours: sends any bytes to a port. */
#ifndef SL_TESTS_LINK_HOSTILE_H
#define SL_TESTS_LINK_HOSTILE_H

#include <ucp/api/ucp.h>

#include "tests/link/rig.h"

struct hostile {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep;
};
void hostile_open(struct hostile *h, const char *transport, const struct sl_buf *address);
/* Sends and waits until UCX is done with the bytes, running r's loop meanwhile. */
void hostile_send(struct hostile *h, struct rig *r, const void *head, size_t head_bytes,
                  const void *body, size_t bytes);
void hostile_close(struct hostile *h, struct rig *r);

#endif
