/* api_completions.c - POST /v1/completions: text or token ids in, text out; echo and scoring of
 * prompts. */
#include <string.h>

#include "base/env.h"
#include "coordinator/api_endpoints.h"
#include "coordinator/api_run.h"

/* Prompt i to ids, and its text when it is to be echoed. 0, or -1 with *e. */
static int make_prompt(struct sl_service *s, struct sl_run *r, int i, struct sl_api_error *e)
{
    const char *text;
    size_t n;
    const json_t *array;
    struct sl_ids *ids = &r->prompts[i];
    int rc = 0;
    sl_api_prompt(&r->req, i, &text, &n, &array);
    if (array ? sl_api_ids(s, array, ids, e)
              : sl_api_encode(s, text, n, SL_TOK_SPECIAL | SL_TOK_BOS, ids, e))
        return -1;
    if (ids->len == 0)
        return sl_api_bad(e, "prompt", "the prompt is empty; send at least one token");
    if (!r->req.echo) return 0;
    if (!array) rc = sl_buf_add(&r->texts[i], text, n);
    struct sl_detok d = {0};
    for (size_t k = 0; array && k < ids->len && !rc; k++)
        rc = sl_detok_push(&d, sl_service_tokenizer(s), ids->data[k], 1, &r->texts[i]);
    if (array && !rc) rc = sl_detok_finish(&d, &r->texts[i]);
    return rc ? sl_api_from_code(e, rc, NULL) : 0;
}

static int make_prompts(struct sl_service *s, struct sl_run *r, struct sl_api_error *e)
{
    for (int i = 0; i < r->req.n_prompts; i++)
        if (make_prompt(s, r, i, e)) return -1;
    return 0;
}

void sl_api_completions(struct sl_http_conn *c)
{
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_api_request req;
    struct sl_api_error e;
    if (sl_api_check_ready(s, &e) ||
        sl_api_read_completion(sl_buf_str(&c->in), c->in.len, &req, &e)) {
        sl_http_reply_error(c, &e);
        return;
    }
    if (!req.has_seed) sl_env_random(&req.sampling.seed, sizeof(req.sampling.seed));
    struct sl_run *r = sl_run_new(c, &req, 0);
    if (!r) {
        sl_api_from_code(&e, SL_ENOMEM, NULL);
        sl_http_reply_error(c, &e);
        return;
    }
    if (sl_api_check_model(s, r->req.model, &e) || sl_api_check_bias(s, &r->req.sampling, &e) ||
        make_prompts(s, r, &e))
        sl_run_fail(r, &e);
    else
        sl_run_start(r);
}
