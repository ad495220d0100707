/* api_chat.c - POST /v1/chat/completions. */
#include <string.h>

#include "base/env.h"
#include "coordinator/api_endpoints.h"
#include "coordinator/api_run.h"
#include "model/template.h"

static int on_event(void *arg, const struct sl_answer_event *ev)
{
    return sl_answer_event_add(arg, ev);
}

/* A parser for each choice. 0, or -1 with *e. */
static int open_answers(struct sl_service *s, struct sl_run *r, const struct sl_buf *prompt,
                        const struct sl_buf *forced, struct sl_api_error *e)
{
    int rc = 0;
    for (int i = 0; i < r->n_choices && !rc; i++)
        rc = sl_api_answer_open(s, r->req.root, &r->req.tools, prompt, forced, on_event,
                                &r->choices[i], &r->choices[i].answer, e);
    return rc;
}

/* Messages to ids. 0, or -1 with *e. */
static int make_prompt(struct sl_service *s, struct sl_run *r, struct sl_api_error *e)
{
    struct sl_buf text, forced;
    sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
    sl_buf_init(&forced, SL_TEMPLATE_OUTPUT_MAX);
    int rc = sl_api_render(s, r->req.root, &text, e);
    if (!rc) rc = sl_api_force(s, &r->req.tools, &text, &forced, e);
    if (!rc) rc = open_answers(s, r, &text, &forced, e);
    if (!rc) rc = sl_api_encode_chat(s, sl_buf_str(&text), text.len, &r->prompts[0], e);
    sl_buf_close(&text);
    sl_buf_close(&forced);
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
