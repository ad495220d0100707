/* api_client.h - one connection of the socket API, between listen.c (bytes) and api_client.c
 * (messages). Private. */
#ifndef SL_COORDINATOR_API_CLIENT_H
#define SL_COORDINATOR_API_CLIENT_H

#include "base/buf.h"
#include "base/map.h"
#include "coordinator/keys.h"
#include "coordinator/metrics.h"
#include "coordinator/service.h"
#include "proto/api.h"

struct sl_client {
    struct sl_service *service;
    struct sl_keys *keys;
    struct sl_metrics *metrics;
    int greeted;            /* Hello was accepted */
    int dead;               /* nothing goes in or out any more */
    struct sl_map requests; /* the client's id -> struct client_request */
    /* What listen.c provides. send takes the message's bytes (length included); drop closes after
     * what was sent. */
    void (*send)(struct sl_client *c, const char *bytes, size_t n);
    void (*drop)(struct sl_client *c, const char *why);
};

void sl_client_init(struct sl_client *c, struct sl_service *s, struct sl_keys *keys);
/* One decoded message from the client. */
void sl_client_message(struct sl_client *c, const struct sl_api_msg *m);
/* Tells the client why before it is dropped. */
void sl_client_error(struct sl_client *c, uint64_t id, int code, const char *message);
/* Cancels everything; no reply comes any more. */
void sl_client_close(struct sl_client *c);

#endif
