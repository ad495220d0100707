/* api_tokenize.c - POST /tokenize, /detokenize and /apply-template.
 *
 * Both families of names are understood and answered: llama.cpp's `content`, `add_special`,
 * `with_pieces`, `tokens` and vLLM's `prompt`, `messages`, `add_special_tokens`, `count`,
 * `max_model_len`. */
#include <string.h>

#include "coordinator/api_endpoints.h"
#include "coordinator/api_prompt.h"
#include "coordinator/http_conn.h"
#include "coordinator/http.h"
#include "model/template.h"

#include <stdlib.h>

/* The rendered chat of a request with messages. 0, or -1 with *e. */
static int render(struct sl_service *s, const json_t *o, struct sl_buf *text,
                  struct sl_api_error *e)
{
    return sl_api_check_messages(json_object_get(o, "messages"), e) ? -1
                                                                    : sl_api_render(s, o, text, e);
}

/* ---- /tokenize ------------------------------------------------------------------------------- */

static int read_ids(struct sl_service *s, json_t *o, struct sl_ids *ids, struct sl_api_error *e)
{
    const char *content = NULL, *prompt = NULL;
    int special = json_object_get(o, "prompt") != NULL,
        parse = 1; /* llama.cpp adds none unless asked, vLLM does */
    if (sl_api_get_string(o, "content", &content, e) ||
        sl_api_get_string(o, "prompt", &prompt, e) ||
        sl_api_get_bool(o, "add_special", &special, e) ||
        sl_api_get_bool(o, "add_special_tokens", &special, e) ||
        sl_api_get_bool(o, "parse_special", &parse, e))
        return -1;
    if (json_object_get(o, "messages") && !content && !prompt) {
        struct sl_buf text;
        sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
        int rc = render(s, o, &text, e);
        if (!rc) rc = sl_api_encode_chat(s, sl_buf_str(&text), text.len, ids, e);
        sl_buf_close(&text);
        return rc;
    }
    if (!content) content = prompt;
    if (!content)
        return sl_api_bad(e, "content",
                          "send 'content' (or 'prompt') with the text, or 'messages'");
    struct sl_err err = {0};
    int rc =
        sl_tokenizer_encode(sl_service_tokenizer(s), content, strlen(content),
                            (special ? SL_TOK_BOS : 0) | (parse ? SL_TOK_SPECIAL : 0), ids, &err);
    return rc ? sl_api_from_code(e, rc, err.msg) : 0;
}

static json_t *ids_json(struct sl_service *s, const struct sl_ids *ids, int pieces, json_t *strings)
{
    json_t *tokens = json_array();
    for (size_t i = 0; i < ids->len; i++) {
        json_t *id = json_integer(ids->data[i]);
        if (pieces) id = json_pack("{s:o,s:o}", "id", id, "piece", sl_api_piece(s, ids->data[i]));
        json_array_append_new(tokens, id);
        if (strings) json_array_append_new(strings, sl_api_piece(s, ids->data[i]));
    }
    return tokens;
}

void sl_api_tokenize(struct sl_http_conn *c)
{
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_api_error e;
    struct sl_ids ids = {0};
    int pieces = 0, strs = 0;
    const char *model = NULL;
    json_t *o = sl_api_check_ready(s, &e) ? NULL : sl_api_object(sl_buf_str(&c->in), c->in.len, &e);
    if (!o || sl_api_get_string(o, "model", &model, &e) || sl_api_check_model(s, model, &e) ||
        sl_api_get_bool(o, "with_pieces", &pieces, &e) ||
        sl_api_get_bool(o, "return_token_strs", &strs, &e) || read_ids(s, o, &ids, &e)) {
        sl_http_reply_error(c, &e);
    } else {
        json_t *strings = strs ? json_array() : NULL;
        json_t *tokens = ids_json(s, &ids, pieces, strings);
        json_t *answer = json_pack("{s:o,s:I,s:i}", "tokens", tokens, "count", (json_int_t)ids.len,
                                   "max_model_len", sl_service_context(s));
        if (answer && strings) json_object_set_new(answer, "token_strs", strings);
        sl_http_reply_json(c, 200, answer);
    }
    free(ids.data);
    json_decref(o);
}

/* ---- /detokenize ----------------------------------------------------------------------------- */

void sl_api_detokenize(struct sl_http_conn *c)
{
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_api_error e;
    struct sl_ids ids = {0};
    struct sl_buf text;
    struct sl_detok d = {0};
    const char *model = NULL;
    sl_buf_init(&text, SL_HTTP_REPLY_MAX);
    json_t *o = sl_api_check_ready(s, &e) ? NULL : sl_api_object(sl_buf_str(&c->in), c->in.len, &e);
    json_t *tokens = json_object_get(o, "tokens");
    int rc = !o || sl_api_get_string(o, "model", &model, &e) || sl_api_check_model(s, model, &e) ||
             sl_api_check_ids(tokens, "tokens", &e) || sl_api_ids(s, tokens, &ids, &e);
    for (size_t i = 0; i < ids.len && !rc; i++)
        if (sl_detok_push(&d, sl_service_tokenizer(s), ids.data[i], 1, &text))
            rc = sl_api_from_code(&e, SL_ENOMEM, NULL);
    if (!rc && sl_detok_finish(&d, &text)) rc = sl_api_from_code(&e, SL_ENOMEM, NULL);
    if (rc)
        sl_http_reply_error(c, &e);
    else
        sl_http_reply_json(c, 200,
                           json_pack("{s:o,s:o}", "content", sl_api_text(text.data, text.len),
                                     "prompt", sl_api_text(text.data, text.len)));
    sl_buf_close(&text);
    free(ids.data);
    json_decref(o);
}

/* ---- /apply-template ------------------------------------------------------------------------- */

void sl_api_apply_template(struct sl_http_conn *c)
{
    struct sl_service *s = sl_http_api(c)->service;
    struct sl_api_error e;
    struct sl_buf text;
    sl_buf_init(&text, SL_TEMPLATE_OUTPUT_MAX);
    json_t *o = sl_api_check_ready(s, &e) ? NULL : sl_api_object(sl_buf_str(&c->in), c->in.len, &e);
    if (!o || render(s, o, &text, &e))
        sl_http_reply_error(c, &e);
    else
        sl_http_reply_json(c, 200, json_pack("{s:o}", "prompt", sl_api_text(text.data, text.len)));
    sl_buf_close(&text);
    json_decref(o);
}
