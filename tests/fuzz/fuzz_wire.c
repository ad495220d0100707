/* fuzz_wire.c - everything that unpacks bytes of a peer: the first byte picks the parser. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/batch.h"
#include "proto/control.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_head(const uint8_t *data, size_t n)
{
    uint8_t bytes[SL_FRAME_HEAD_BYTES] = {0}, again[SL_FRAME_HEAD_BYTES];
    struct sl_frame_head h;
    memcpy(bytes, data, n < sizeof bytes ? n : sizeof bytes);
    if (sl_frame_head_unpack(bytes, &h, NULL)) return;
    if (sl_frame_body_bytes(&h) >
        (uint64_t)SL_FRAME_DESC_MAX + SL_FRAME_ALIGN + SL_FRAME_PAYLOAD_MAX)
        abort();
    sl_frame_head_pack(&h, again);
}

/* What unpacks must pack, and into the same bytes. */
static void fuzz_batch(const void *data, size_t n)
{
    struct sl_batch_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 64 << 20);
    if (sl_batch_unpack(data, n, &in, NULL) == 0 &&
        (sl_batch_pack(&in.batch, &b) || b.len != n || memcmp(b.data, data, n)))
        abort();
    sl_buf_close(&b);
    sl_batch_in_close(&in);
}

static void fuzz_results(const void *data, size_t n)
{
    struct sl_results_in in = {0};
    struct sl_buf b;
    sl_buf_init(&b, 64 << 20);
    if (sl_results_unpack(data, n, &in, NULL) == 0 &&
        (sl_results_pack(&in.results, &b) || b.len != n || memcmp(b.data, data, n)))
        abort();
    sl_buf_close(&b);
    sl_results_in_close(&in);
}

static void fuzz_control(const uint8_t *data, size_t n)
{
    size_t at = 0, used;
    struct sl_ctl m;
    struct sl_buf b;
    sl_buf_init(&b, 4 << 20);
    while (sl_ctl_unpack(data + at, n - at, &m, &used, NULL) == 0) {
        sl_buf_clear(&b);
        sl_ctl_pack(&m, &b);
        sl_ctl_free(&m);
        at += used;
    }
    sl_buf_close(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0) return 0;
    uint8_t *copy = malloc(n); /* aligned, and of exactly the length */
    if (!copy) return 0;
    memcpy(copy, data + 1, n - 1);
    switch (data[0] % 4) {
    case 0:
        fuzz_head(copy, n - 1);
        break;
    case 1:
        fuzz_batch(copy, n - 1);
        break;
    case 2:
        fuzz_results(copy, n - 1);
        break;
    case 3:
        fuzz_control(copy, n - 1);
        break;
    }
    free(copy);
    return 0;
}
