/* fuzz_tokenizer.c - any bytes as a vocabulary and a text: it is refused, or every text has ids,
 * all in range, whose bytes streamed give what they give at once. Input: length of the text (one
 * byte), the text, a GGUF file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/tokenizer.h"
#include "model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define OUT_MAX                                                                                    \
    (16u << 20) /* bytes: a token may be as long as the input, and the text may repeat it */

static void decode(const struct sl_tokenizer *t, const struct sl_ids *ids)
{
    struct sl_buf bytes, shown;
    struct sl_detok d = {0};
    sl_buf_init(&bytes, OUT_MAX);
    sl_buf_init(&shown, 3 * OUT_MAX);
    int r = 0;
    for (size_t i = 0; i < ids->len && r == 0; i++) {
        size_t len;
        SL_ASSERT(ids->data[i] >= 0 && ids->data[i] < sl_tokenizer_size(t));
        struct sl_detok whole = d; /* drops what it drops at the beginning */
        const char *piece = sl_detok_bytes(&whole, t, ids->data[i], &len);
        r = sl_buf_add(&bytes, piece, len);
        if (r == 0) r = sl_detok_push(&d, t, ids->data[i], 1, &shown);
        SL_ASSERT(sl_utf8_whole(sl_buf_str(&shown), shown.len) == shown.len);
    }
    if (r == 0 && sl_detok_finish(&d, &shown) == 0) {
        char *want = malloc(3 * bytes.len + 1);
        SL_ASSERT(want);
        SL_ASSERT(sl_utf8_scrub(sl_buf_str(&bytes), bytes.len, want) == shown.len);
        SL_ASSERT(memcmp(want, sl_buf_str(&shown), shown.len) == 0);
        free(want);
    }
    sl_buf_close(&bytes);
    sl_buf_close(&shown);
}

static void encode(const struct sl_tokenizer *t, const char *text, size_t n)
{
    for (int flags = 0; flags < 4; flags++) {
        struct sl_ids ids = {0};
        struct sl_err err;
        /* no text may fail, unless the file's character map makes it too long */
        if (sl_tokenizer_encode(t, text, n, flags, &ids, &err) == 0)
            decode(t, &ids);
        else
            SL_ASSERT(err.code == SL_ELIMIT && ids.len == 0);
        free(ids.data);
    }
    int32_t id = sl_tokenizer_find(t, text, n);
    size_t len;
    if (id >= 0) {
        const char *piece = sl_tokenizer_piece(t, id, &len);
        SL_ASSERT(len == n && memcmp(piece, text, n) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sl_weights *w;
    struct sl_tokenizer *t;
    struct sl_err err = {0};
    if (n == 0 || n - 1 < data[0]) return 0;
    size_t text_n = data[0];
    const char *text = (const char *)data + 1;
    if (sl_weights_open_memory("fuzz.gguf", data + 1 + text_n, n - 1 - text_n, &w, &err) != 0)
        return 0;
    if (sl_tokenizer_open(w, &t, &err) == 0) {
        encode(t, text, text_n);
        sl_tokenizer_close(t);
    } else {
        SL_ASSERT(!t && err.code != 0 && err.msg[0] != 0);
    }
    sl_weights_close(w);
    return 0;
}
