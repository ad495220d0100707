/* fuzz_tokenizer_json.c - any JSON as tokenizer.json, any bytes as tokenizer.model, and a text: it
 * is refused with one line, or the text has ids, all in range, that stream back as whole
 * characters. Input: length of the text (one byte), the text, the file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define OUT_MAX (16u << 20) /* bytes of the text that comes back */

static void decode(const struct sl_tokenizer *t, const struct sl_ids *ids, int special)
{
    struct sl_buf shown;
    struct sl_detok d = {0};
    int r = 0;
    sl_buf_init(&shown, OUT_MAX);
    for (size_t i = 0; i < ids->len && r == 0; i++) {
        SL_ASSERT(ids->data[i] >= 0 && ids->data[i] < sl_tokenizer_size(t));
        r = sl_detok_push(&d, t, ids->data[i], special, &shown);
        SL_ASSERT(sl_utf8_whole(sl_buf_str(&shown), shown.len) == shown.len);
    }
    if (r == 0) r = sl_detok_finish(&d, &shown);
    SL_ASSERT(r == 0 || r == SL_ELIMIT);
    sl_buf_close(&shown);
}

static void use(struct sl_tokenizer *t, const char *text, size_t n)
{
    for (int flags = 0; flags < 4; flags++) {
        struct sl_ids ids = {0};
        struct sl_err err = {0};
        int r = sl_tokenizer_encode(t, text, n, flags, &ids, &err);
        if (r == 0)
            decode(t, &ids, flags & SL_TOK_SPECIAL);
        else
            SL_ASSERT(r == SL_ELIMIT && err.msg[0] != 0 && ids.len == 0);
        free(ids.data);
    }
    int32_t id = sl_tokenizer_find(t, text, n);
    SL_ASSERT(id >= -1 && id < sl_tokenizer_size(t));
    sl_tokenizer_close(t);
}

static void check_error(const struct sl_tokenizer *t, const struct sl_err *err)
{
    SL_ASSERT(!t && err->code != 0 && err->msg[0] != 0 && !strchr(err->msg, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sl_tokenizer *t;
    struct sl_err err = {0};
    if (n == 0 || n - 1 < data[0]) return 0;
    size_t text_n = data[0];
    const char *text = (const char *)data + 1, *file = text + text_n;
    json_t *v = json_loadb(file, n - 1 - text_n, JSON_ALLOW_NUL, NULL);
    if (v) {
        struct sl_tokenizer_json in = {.tokenizer = v, .config = v, .generation = v, .model = v};
        if (sl_tokenizer_open_json("fuzz.json", &in, &t, &err) == 0)
            use(t, text, text_n);
        else
            check_error(t, &err);
        json_decref(v);
        return 0;
    }
    if (sl_tokenizer_open_spm("fuzz.model", file, n - 1 - text_n, NULL, &t, &err) == 0)
        use(t, text, text_n);
    else
        check_error(t, &err);
    return 0;
}
