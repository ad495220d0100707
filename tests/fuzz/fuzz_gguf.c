/* fuzz_gguf.c - any bytes as a model file: the reader must refuse or give a handle that can be
 * walked to the last byte. */
#include <stddef.h>
#include <stdint.h>

#include "base/sl_assert.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static volatile unsigned sink; /* keeps the reads */

static void read_bytes(const void *p, uint64_t n)
{
    const uint8_t *b = p;
    unsigned sum = 0;
    for (uint64_t i = 0; i < n; i++) sum += b[i];
    sink += sum;
}

static void read_meta(const struct sl_meta *m)
{
    if (m->type == SL_META_STRING) read_bytes(m->s, m->len);
    for (size_t i = 0; m->type == SL_META_ARRAY && i < m->len; i++) {
        struct sl_meta v = sl_meta_at(m, i);
        SL_ASSERT(v.type == m->elem && v.type != SL_META_ARRAY);
        read_meta(&v);
    }
}

static void read_config(const struct sl_weights *w)
{
    struct sl_config c;
    struct sl_err err = {0};
    const struct sl_tensor *t;
    uint64_t bytes, head;
    if (sl_config_read(w, &c, &err) != 0) {
        SL_ASSERT(err.code != 0 && err.msg[0] != 0);
        return;
    }
    SL_ASSERT(c.n_layers > 0 && c.head_dim <= SL_HEAD_DIM_MAX && c.n_heads % c.n_kv_heads == 0);
    for (int role = 0; role < SL_ROLE_COUNT; role++)
        sl_config_tensor(w, &c, (enum sl_role)role, c.n_layers - 1, &t, &err);
    sl_config_layer_bytes(w, &c, 0, &bytes, &err);
    sl_config_edge_bytes(w, &c, &bytes, &head, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sl_weights *w = NULL;
    struct sl_err err = {0};
    int r = sl_weights_open_memory("fuzz", data, n, &w, &err);
    if (r != 0) {
        SL_ASSERT(w == NULL && err.code == r && err.msg[0] != 0);
        return 0;
    }
    for (size_t i = 0; i < sl_weights_meta_count(w); i++) {
        const char *key;
        const struct sl_meta *m = sl_weights_meta_nth(w, i, &key);
        SL_ASSERT(sl_weights_meta(w, key) == m);
        read_meta(m);
    }
    for (size_t i = 0; i < sl_weights_count(w); i++) {
        const struct sl_tensor *t = sl_weights_at(w, i);
        SL_ASSERT(sl_weights_find(w, t->name) == t);
        const void *p = sl_weights_map(w, t, &err);
        SL_ASSERT(p != NULL);
        read_bytes(p, t->bytes);
        sl_weights_unmap(w, t);
    }
    read_config(w);
    sl_weights_close(w);
    return 0;
}
