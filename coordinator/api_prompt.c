/* api_prompt.c - chat template, tokenizer and the checks that need the model. */
#include "coordinator/api_prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/template.h"
#include "model/chat.h"

int sl_api_check_ready(struct sl_service *s, struct sl_api_error *e)
{
    if (sl_service_tokenizer(s)) return 0;
    return sl_api_fail(e, 503, "service_unavailable_error", "loading", NULL,
                       "the model is loading; try again soon");
}

/* ---- the model's name ------------------------------------------------------------------------ */

static int is_file_name(const char *path, const char *name)
{
    static const char ext[] = ".gguf";
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t n = strlen(base), m = strlen(name), x = sizeof(ext) - 1;
    if (n == m && !memcmp(base, name, n)) return 1;
    return n > x && !strcmp(base + n - x, ext) && m == n - x && !memcmp(base, name, m);
}

int sl_api_check_model(struct sl_service *s, const char *name, struct sl_api_error *e)
{
    const struct sl_cluster *cluster = sl_service_cluster(s);
    const char *served = sl_service_model_name(s);
    if (!name || !strcmp(name, "default") || !strcmp(name, served)) return 0;
    if (sl_service_find_adapter(s, name)) return 0;
    if (cluster && cluster->model_path && is_file_name(cluster->model_path, name)) return 0;
    return sl_api_fail(e, 404, "invalid_request_error", "model_not_found", "model",
                       "the model '%.200s' does not exist; this server has '%.200s'", name, served);
}

/* ---- prompts --------------------------------------------------------------------------------- */

int sl_api_render(struct sl_service *s, const json_t *request, struct sl_buf *out,
                  struct sl_api_error *e)
{
    struct sl_err err = {0};
    const struct sl_chat *c = sl_service_chat(s);
    if (!c)
        return sl_api_bad(e, "messages",
                          "this model has no chat template; start the server with --chat-template "
                          "FILE, or use /v1/completions");
    int rc = sl_chat_render(c, request, out, &err);
    return rc ? sl_api_from_code(e, rc, err.msg) : 0;
}

/* The longest piece bounds how many bytes the context can hold. Looked up once per tokenizer. */
static size_t longest_piece(const struct sl_tokenizer *t)
{
    static const struct sl_tokenizer *known;
    static size_t longest;
    if (known == t) return longest;
    longest = 1;
    for (int id = 0, n = sl_tokenizer_size(t); id < n; id++) {
        size_t len = 0;
        sl_tokenizer_piece(t, id, &len);
        if (len > longest) longest = len;
    }
    known = t;
    return longest;
}

int sl_api_encode(struct sl_service *s, const char *text, size_t n, int flags, struct sl_ids *ids,
                  struct sl_api_error *e)
{
    struct sl_err err = {0};
    const struct sl_tokenizer *t = sl_service_tokenizer(s);
    size_t context = (size_t)SL_MAX(sl_service_context(s), 1);
    if (n / longest_piece(t) > context)
        return sl_api_fail(
            e, 400, "invalid_request_error", "context_length_exceeded", NULL,
            "the prompt has %zu bytes, more than a context of %zu tokens can hold; shorten it", n,
            context);
    int rc = sl_tokenizer_encode(t, text, n, flags, ids, &err);
    return rc ? sl_api_from_code(e, rc, err.msg) : 0;
}

int sl_api_encode_chat(struct sl_service *s, const char *text, size_t n, struct sl_ids *ids,
                       struct sl_api_error *e)
{
    const struct sl_tokenizer *t = sl_service_tokenizer(s);
    int flags = SL_TOK_SPECIAL;
    int32_t bos = sl_tokenizer_bos(t);
    size_t len = 0;
    const char *piece = bos >= 0 ? sl_tokenizer_piece(t, bos, &len) : "";
    if (len == 0 || n < len || memcmp(text, piece, len) != 0) flags |= SL_TOK_BOS;
    return sl_api_encode(s, text, n, flags, ids, e);
}

int sl_api_ids(struct sl_service *s, const json_t *array, struct sl_ids *ids,
               struct sl_api_error *e)
{
    int n_vocab = sl_tokenizer_size(sl_service_tokenizer(s));
    size_t i;
    const json_t *v;
    json_array_foreach(array, i, v)
    {
        json_int_t id = json_integer_value(v);
        if (id < 0 || id >= n_vocab)
            return sl_api_bad(e, "prompt", "token id %lld is not in the vocabulary of %d tokens",
                              (long long)id, n_vocab);
        if (sl_ids_push(ids, (int32_t)id)) return sl_api_from_code(e, SL_ENOMEM, NULL);
    }
    return 0;
}

int sl_api_check_bias(struct sl_service *s, const struct sl_sampling *p, struct sl_api_error *e)
{
    int n_vocab = sl_tokenizer_size(sl_service_tokenizer(s));
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias[i].token < 0 || p->bias[i].token >= n_vocab)
            return sl_api_bad(e, "logit_bias",
                              "'logit_bias' names token %d; the vocabulary has %d tokens",
                              p->bias[i].token, n_vocab);
    return 0;
}

/* ---- text ------------------------------------------------------------------------------------ */

json_t *sl_api_text(const char *s, size_t n)
{
    json_t *v = json_stringn(s ? s : "", n); /* fails for invalid UTF-8 */
    if (v) return v;
    char *clean = malloc(3 * n + 1);
    if (!clean) return NULL;
    v = json_stringn(clean, sl_utf8_scrub(s, n, clean));
    free(clean);
    return v;
}

json_t *sl_api_piece(struct sl_service *s, int32_t id)
{
    size_t n = 0;
    const char *piece = sl_tokenizer_piece(sl_service_tokenizer(s), id, &n);
    return sl_api_text(piece, n);
}
