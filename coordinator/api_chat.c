/* api_chat.c - POST /v1/chat/completions. */
#include <string.h>

#include "base/env.h"
#include "coordinator/api_endpoints.h"
#include "coordinator/api_run.h"
#include "model/template.h"

/* Messages to ids. 0, or -1 with *e. */
static int make_prompt(struct sl_service *s, struct sl_run *r, struct sl_api_error *e)
{
    struct sl_buf text;
    sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
    int rc = sl_api_render(s, r->req.root, &text, e);
    if (!rc) rc = sl_api_encode_chat(s, sl_buf_str(&text), text.len, &r->prompts[0], e);
    sl_buf_close(&text);
    if (!rc && r->prompts[0].len == 0)
        rc = sl_api_bad(e, "messages", "the chat template made an empty prompt of these messages");
    return rc;
}

void sl_api_chat(struct sl_http_conn *c)
{
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_api_request req;
    struct sl_api_error e;
    if (sl_api_check_ready(s, &e) || sl_api_read_chat(sl_buf_str(&c->in), c->in.len, &req, &e)) {
        sl_http_reply_error(c, &e);
        return;
    }
    if (!req.has_seed) sl_env_random(&req.sampling.seed, sizeof(req.sampling.seed));
    struct sl_run *r = sl_run_new(c, &req, 1);
    if (!r) {
        sl_api_from_code(&e, SL_ENOMEM, NULL);
        sl_http_reply_error(c, &e);
        return;
    }
    if (sl_api_check_model(s, r->req.model, &e) || sl_api_check_bias(s, &r->req.sampling, &e) ||
        make_prompt(s, r, &e))
        sl_run_fail(r, &e);
    else
        sl_run_start(r);
}
