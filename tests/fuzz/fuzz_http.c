/* fuzz_http.c - bodies of HTTP requests: the first byte picks the reader, the rest is the body.
 * Whatever is accepted must keep the promises of api_json.h; whatever is refused must give a
 * well-formed error. The chunked decoder gets the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "coordinator/api_json.h"
#include "coordinator/http_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(const struct sl_api_request *r, int chat)
{
    const struct sl_sampling *s = &r->sampling;
    SL_ASSERT(s->temperature >= 0 && s->top_p >= 0 && s->top_p <= 1 && s->min_p >= 0 &&
              s->min_p <= 1 && s->top_k >= 0);
    SL_ASSERT(s->n_top >= 0 && s->n_top <= SL_TOP_LOGPROBS_MAX && s->n_bias >= 0 &&
              s->n_bias <= SL_LOGIT_BIAS_MAX);
    SL_ASSERT(r->n >= 1 && r->n <= SL_API_N_MAX && r->n_stops >= 0 && r->n_stops <= SL_STOPS_MAX);
    SL_ASSERT(r->max_tokens >= -1 && (r->max_tokens != 0 || r->echo));
    for (int i = 0; i < r->n_stops; i++)
        SL_ASSERT(*r->stops[i] && strlen(r->stops[i]) <= SL_STOP_LEN_MAX);
    for (int i = 0; !chat && i < r->n_prompts; i++) {
        const char *text;
        const json_t *ids, *v;
        size_t len, k;
        sl_api_prompt(r, i, &text, &len, &ids);
        SL_ASSERT((text != NULL) != (ids != NULL));
        json_array_foreach(ids, k, v) SL_ASSERT(json_is_integer(v) && json_integer_value(v) >= 0);
    }
}

static void decode_chunks(const uint8_t *data, size_t n)
{
    struct sl_http_chunks whole, pieces;
    struct sl_buf a, b;
    size_t used_a = 0, used_b = 0, used;
    int rc_b = 0;
    sl_buf_init(&a, 4096);
    sl_buf_init(&b, 4096);
    sl_http_chunks_init(&whole);
    sl_http_chunks_init(&pieces);
    int rc_a = sl_http_chunks_feed(&whole, (const char *)data, n, &used_a, &a);
    for (size_t i = 0; i < n && rc_b == 0; i++) {
        rc_b = sl_http_chunks_feed(&pieces, (const char *)data + i, 1, &used, &b);
        used_b += used;
    }
    SL_ASSERT(rc_a == rc_b && (rc_a < 0 || used_a == used_b)); /* however the bytes are cut */
    SL_ASSERT(rc_a < 0 || (a.len == b.len && (a.len == 0 || !memcmp(a.data, b.data, a.len))));
    sl_buf_close(&a);
    sl_buf_close(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sl_api_request r;
    struct sl_api_error e;
    if (n == 0) return 0;
    int chat = data[0] & 1;
    const char *body = (const char *)data + 1;
    if (chat ? sl_api_read_chat(body, n - 1, &r, &e)
             : sl_api_read_completion(body, n - 1, &r, &e)) {
        json_t *o = sl_api_error_json(&e);
        SL_ASSERT(o && e.status >= 400 && e.status < 600 && strlen(e.message) > 5);
        json_decref(o);
    } else {
        check(&r, chat);
        sl_api_request_close(&r);
    }
    decode_chunks(data, n);
    return 0;
}
