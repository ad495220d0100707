/* gguf_writer.c - see gguf_writer.h. */
#include "tests/lib/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static void put(struct gguf_bytes *b, const void *p, size_t n)
{
    if (b->len + n > b->cap) {
        b->cap = (b->len + n) * 2;
        b->data = realloc(b->data, b->cap);
        if (!b->data) abort();
    }
    if (n && p) memcpy(b->data + b->len, p, n);
    if (n && !p) memset(b->data + b->len, 0, n);
    b->len += n;
}

static void put32(struct gguf_bytes *b, uint32_t v)
{
    put(b, &v, sizeof v);
}

static void put64(struct gguf_bytes *b, uint64_t v)
{
    put(b, &v, sizeof v);
}

static void put_str(struct gguf_bytes *b, const char *s)
{
    put64(b, strlen(s));
    put(b, s, strlen(s));
}

void gguf_init(struct gguf_writer *g)
{
    *g = (struct gguf_writer){.version = 3, .align = 32};
}

void gguf_close(struct gguf_writer *g)
{
    free(g->metas.data);
    free(g->infos.data);
    free(g->data.data);
}

void gguf_raw(struct gguf_writer *g, const char *key, uint32_t type, const void *bytes, size_t n)
{
    put_str(&g->metas, key);
    put32(&g->metas, type);
    put(&g->metas, bytes, n);
    g->n_metas++;
}

void gguf_value(struct gguf_writer *g, const char *key, enum gguf_type type, const void *v)
{
    gguf_raw(g, key, type, v, sizes[type]);
}

void gguf_u32(struct gguf_writer *g, const char *key, uint32_t v)
{
    gguf_value(g, key, GGUF_U32, &v);
}

void gguf_f32(struct gguf_writer *g, const char *key, float v)
{
    gguf_value(g, key, GGUF_F32, &v);
}

void gguf_bool(struct gguf_writer *g, const char *key, int v)
{
    uint8_t b = v != 0;
    gguf_value(g, key, GGUF_BOOL, &b);
}

void gguf_string(struct gguf_writer *g, const char *key, const char *s)
{
    gguf_raw(g, key, GGUF_STRING, NULL, 0);
    put_str(&g->metas, s);
}

void gguf_array(struct gguf_writer *g, const char *key, enum gguf_type elem, uint64_t n,
                const void *v)
{
    gguf_raw(g, key, GGUF_ARRAY, NULL, 0);
    put32(&g->metas, elem);
    put64(&g->metas, n);
    if (elem == GGUF_STRING)
        for (uint64_t i = 0; i < n; i++) put_str(&g->metas, ((const char *const *)v)[i]);
    else
        put(&g->metas, v, n * sizes[elem]);
}

void gguf_tensor(struct gguf_writer *g, const char *name, int n_dims, const int64_t *ne,
                 uint32_t ggml_type, const void *data, size_t bytes)
{
    put_str(&g->infos, name);
    put32(&g->infos, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++) put64(&g->infos, (uint64_t)ne[i]);
    put32(&g->infos, ggml_type);
    put64(&g->infos, g->data.len);
    put(&g->data, data, bytes);
    put(&g->data, NULL, (g->align - g->data.len % g->align) % g->align);
    g->n_tensors++;
}

uint8_t *gguf_build(const struct gguf_writer *g, size_t *len, size_t *infos_at, size_t *data_at)
{
    struct gguf_bytes b = {0};
    put(&b, "GGUF", 4);
    put32(&b, g->version);
    put64(&b, g->n_tensors);
    put64(&b, g->n_metas);
    put(&b, g->metas.data, g->metas.len);
    if (infos_at) *infos_at = b.len;
    put(&b, g->infos.data, g->infos.len);
    if (g->n_tensors) put(&b, NULL, (g->align - b.len % g->align) % g->align);
    if (data_at) *data_at = b.len;
    put(&b, g->data.data, g->data.len);
    *len = b.len;
    return b.data;
}

int gguf_save(const struct gguf_writer *g, const char *path)
{
    size_t n;
    uint8_t *data = gguf_build(g, &n, NULL, NULL);
    FILE *f = fopen(path, "wb");
    int r = f && fwrite(data, 1, n, f) == n ? 0 : -1;
    if (f && fclose(f)) r = -1;
    free(data);
    return r;
}

static int is_skipped(const char *key, const char *const *skip)
{
    for (; skip && *skip; skip++)
        if (strcmp(key, *skip) == 0) return 1;
    return 0;
}

void gguf_add_model(struct gguf_writer *g, const char *arch, int n_layers, const char *const *skip)
{
    const struct {
        const char *key;
        uint32_t value;
    } ints[] = {
        {"block_count", (uint32_t)n_layers},
        {"context_length", 64},
        {"embedding_length", 8},
        {"feed_forward_length", 16},
        {"attention.head_count", 2},
        {"attention.head_count_kv", 1},
    };
    static const struct {
        const char *name;
        int64_t ne[2];
    } layer[] = {
        {"attn_norm.weight", {8, 1}}, {"attn_q.weight", {8, 8}},      {"attn_k.weight", {8, 4}},
        {"attn_v.weight", {8, 4}},    {"attn_q.bias", {8, 1}},        {"attn_k.bias", {4, 1}},
        {"attn_v.bias", {4, 1}},      {"attn_output.weight", {8, 8}}, {"ffn_norm.weight", {8, 1}},
        {"ffn_gate.weight", {8, 16}}, {"ffn_up.weight", {8, 16}},     {"ffn_down.weight", {16, 8}},
    };
    char name[128];
    int biases = strcmp(arch, "qwen2") == 0;
    if (!is_skipped("general.architecture", skip)) gguf_string(g, "general.architecture", arch);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        snprintf(name, sizeof name, "%s.%s", arch, ints[i].key);
        if (!is_skipped(ints[i].key, skip)) gguf_u32(g, name, ints[i].value);
    }
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", arch);
    if (!is_skipped("attention.layer_norm_rms_epsilon", skip)) gguf_f32(g, name, 1e-5f);
    if (!is_skipped("token_embd.weight", skip))
        gguf_tensor(g, "token_embd.weight", 2, (int64_t[]){8, 4}, 0, NULL, 128);
    for (int l = 0; l < n_layers; l++)
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
            snprintf(name, sizeof name, "blk.%d.%s", l, layer[i].name);
            if (is_skipped(name, skip) || (!biases && strstr(name, ".bias"))) continue;
            int64_t n = layer[i].ne[0] * layer[i].ne[1];
            gguf_tensor(g, name, layer[i].ne[1] > 1 ? 2 : 1, layer[i].ne, 0, NULL, (size_t)n * 4);
        }
    if (!is_skipped("output_norm.weight", skip))
        gguf_tensor(g, "output_norm.weight", 1, (int64_t[]){8}, 0, NULL, 32);
}
