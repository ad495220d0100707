/* hostile.c - see hostile.h. */
#include "tests/link/hostile.h"

#include <string.h>

#include "base/sl_assert.h"

#define AM_ID 29        /* of frames, as in transport/ucx.h */
#define ADDRESS_HEAD 16 /* bytes before UCX's own address */

void hostile_open(struct hostile *h, const char *transport, const struct sl_buf *address)
{
    int tcp = strcmp(transport, "ucx-tcp") == 0;
    ucp_config_t *config;
    SL_ASSERT(ucp_config_read(NULL, NULL, &config) == UCS_OK);
    SL_ASSERT(ucp_config_modify(config, "TLS", tcp ? "tcp,self" : "sysv,posix,cma,self") == UCS_OK);
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    SL_ASSERT(ucp_init(&params, config, &h->context) == UCS_OK);
    ucp_config_release(config);
    ucp_worker_params_t worker = {0};
    SL_ASSERT(ucp_worker_create(h->context, &worker, &h->worker) == UCS_OK);
    ucp_ep_params_t ep = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .address = (const ucp_address_t *)(address->data + ADDRESS_HEAD),
        .err_mode = tcp ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE};
    SL_ASSERT(ucp_ep_create(h->worker, &ep, &h->ep) == UCS_OK);
}

static void settle(struct hostile *h, struct rig *r, ucs_status_ptr_t request)
{
    if (!UCS_PTR_IS_PTR(request)) return;
    while (ucp_request_check_status(request) == UCS_INPROGRESS) {
        ucp_worker_progress(h->worker);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
    ucp_request_free(request);
}

void hostile_send(struct hostile *h, struct rig *r, const void *head, size_t head_bytes,
                  const void *body, size_t bytes)
{
    ucp_request_param_t param = {0};
    settle(h, r, ucp_am_send_nbx(h->ep, AM_ID, head, head_bytes, body, bytes, &param));
    settle(h, r, ucp_ep_flush_nbx(h->ep, &param));
    for (int i = 0; i < 20; i++) {
        ucp_worker_progress(h->worker);
        uv_run(&r->loop, UV_RUN_NOWAIT);
    }
}

void hostile_close(struct hostile *h, struct rig *r)
{
    ucp_request_param_t param = {0};
    settle(h, r, ucp_ep_close_nbx(h->ep, &param));
    ucp_worker_destroy(h->worker);
    ucp_cleanup(h->context);
}
