/* test_config.c - reading and checking configurations of tiny models made here: every refusal names
 * its key or tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "model/config.h"
#include "tests/lib/gguf_writer.h"

/* An open model in memory. */
struct model {
    uint8_t *data;
    struct sl_weights *w;
    struct sl_config c;
    struct sl_err err;
    int r; /* of sl_config_read */
};

static struct model open_model(struct gguf_writer *g)
{
    struct model m = {0};
    size_t n;
    m.data = gguf_build(g, &n, NULL, NULL);
    gguf_close(g);
    if (sl_weights_open_memory("tiny.gguf", m.data, n, &m.w, &m.err) != 0)
        fail_msg("%s", m.err.msg);
    m.r = sl_config_read(m.w, &m.c, &m.err);
    return m;
}

static void close_model(struct model *m)
{
    sl_weights_close(m->w);
    free(m->data);
}

static void reads_llama(void **state)
{
    (void)state;
    struct gguf_writer g;
    gguf_init(&g);
    gguf_add_model(&g, "llama", 3, NULL);
    gguf_string(&g, "general.name", "tiny \xff");
    gguf_tensor(&g, "rope_freqs.weight", 1, (int64_t[]){2}, 0, NULL, 8);
    struct model m = open_model(&g);
    if (m.r) fail_msg("%s", m.err.msg);
    const struct sl_config *c = &m.c;
    assert_string_equal(c->arch, "llama");
    assert_string_equal(c->name, "tiny \xef\xbf\xbd"); /* always valid UTF-8 */
    assert_int_equal(c->n_layers, 3);
    assert_int_equal(c->n_embd, 8);
    assert_int_equal(c->n_heads, 2);
    assert_int_equal(c->n_kv_heads, 1);
    assert_int_equal(c->head_dim, 4);
    assert_int_equal(c->n_ff, 16);
    assert_int_equal(c->n_vocab, 4);
    assert_int_equal(c->n_ctx_train, 64);
    assert_true(c->rms_eps == 1e-5f && c->rope_base == 10000 && c->rope_scale == 1);
    assert_int_equal(c->rope, SL_ROPE_NORM);
    assert_int_equal(c->rope_dims, 4);
    assert_false(c->qkv_bias);
    assert_true(c->tied);
    assert_int_equal(sl_config_kv_bytes(c, 2), 16);

    const struct sl_tensor *t;
    assert_int_equal(sl_config_tensor(m.w, c, SL_ROLE_GATE, 2, &t, &m.err), 0);
    assert_string_equal(t->name, "blk.2.ffn_gate.weight");
    assert_int_equal(sl_config_tensor(m.w, c, SL_ROLE_Q_BIAS, 0, &t, &m.err), 0);
    assert_null(t);
    assert_int_equal(sl_config_tensor(m.w, c, SL_ROLE_OUTPUT, 0, &t, &m.err), 0);
    assert_null(t);
    assert_int_equal(sl_config_tensor(m.w, c, SL_ROLE_ROPE_FREQS, 0, &t, &m.err), 0);
    assert_int_equal(t->ne[0], 2);
    uint64_t layer, embed, head;
    assert_int_equal(sl_config_layer_bytes(m.w, c, 1, &layer, &m.err), 0);
    assert_int_equal(layer, 4 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 128));
    assert_int_equal(sl_config_edge_bytes(m.w, c, &embed, &head, &m.err), 0);
    assert_int_equal(embed, 128);
    assert_int_equal(head, 128 + 32);
    close_model(&m);
}

static void reads_qwen2(void **state)
{
    (void)state;
    struct gguf_writer g;
    gguf_init(&g);
    gguf_add_model(&g, "qwen2", 2, NULL);
    gguf_tensor(&g, "output.weight", 2, (int64_t[]){8, 4}, 1, NULL, 64);
    struct model m = open_model(&g);
    if (m.r) fail_msg("%s", m.err.msg);
    assert_int_equal(m.c.rope, SL_ROPE_NEOX);
    assert_true(m.c.qkv_bias);
    assert_false(m.c.tied);
    const struct sl_tensor *t;
    assert_int_equal(sl_config_tensor(m.w, &m.c, SL_ROLE_K_BIAS, 1, &t, &m.err), 0);
    assert_string_equal(t->name, "blk.1.attn_k.bias");
    uint64_t embed, head;
    assert_int_equal(sl_config_edge_bytes(m.w, &m.c, &embed, &head, &m.err), 0);
    assert_int_equal(head, 64 + 32);
    close_model(&m);
}

/* What a test row adds to a tiny llama. */
enum kind { U32, F32, BOOLEAN, STRING, INTS, TENSOR1, TENSOR2 };

struct variant {
    const char *leave_out; /* key (without the family) or tensor */
    const char *key;       /* NULL: nothing is added */
    enum kind kind;
    double number; /* U32, F32, BOOLEAN; tensors: ne[0] */
    const char *text;
    int code;
    const char *says;
};

static void add_variant(struct gguf_writer *g, const struct variant *v)
{
    int64_t ne[2] = {(int64_t)v->number, 4};
    switch (v->kind) {
    case U32:
        gguf_u32(g, v->key, (uint32_t)v->number);
        break;
    case F32:
        gguf_f32(g, v->key, (float)v->number);
        break;
    case BOOLEAN:
        gguf_bool(g, v->key, v->number != 0);
        break;
    case STRING:
        gguf_string(g, v->key, v->text);
        break;
    case INTS:
        gguf_array(g, v->key, GGUF_I32, 2,
                   (int32_t[]){(int32_t)v->number, v->text ? 9 : (int32_t)v->number});
        break;
    case TENSOR1:
        gguf_tensor(g, v->key, 1, ne, 0, NULL, (size_t)ne[0] * 4);
        break;
    case TENSOR2:
        gguf_tensor(g, v->key, 2, ne, 0, NULL, (size_t)ne[0] * 16);
        break;
    }
}

static const struct variant variants[] = {
    /* accepted */
    {NULL, NULL, U32, 0, NULL, 0, NULL},
    {NULL, "llama.expert_count", U32, 0, NULL, 0, NULL},
    {NULL, "llama.rope.scaling.type", STRING, 0, "none", 0, NULL},
    {NULL, "llama.attention.sliding_window", U32, 64, NULL, 0, NULL},
    {NULL, "llama.attention.causal", BOOLEAN, 1, NULL, 0, NULL},
    {"feed_forward_length", "llama.feed_forward_length", INTS, 16, NULL, 0, NULL},
    {"attention.head_count_kv", "llama.attention.head_count_kv", INTS, 1, NULL, 0, NULL},
    {NULL, "llama.vocab_size", U32, 4, NULL, 0, NULL},
    {NULL, "llama.rope.scaling.finetuned", BOOLEAN, 1, NULL, 0, NULL},
    {NULL, "llama.some_new_switch", BOOLEAN, 0, NULL, 0, NULL},
    {NULL, "llama.logit_scale", F32, 1, NULL, 0, NULL},
    {NULL, "llama.rope.scaling.type", STRING, 0, "yarn", 0, NULL},
    {NULL, "llama.rope.scaling.attn_factor", F32, 1.2, NULL, 0, NULL},
    {NULL, "llama.attention.sliding_window", U32, 63, NULL, 0, NULL},
    {NULL, "output.weight", TENSOR2, 8, NULL, 0, NULL},
    /* what we do not run */
    {NULL, "llama.some_new_number", U32, 8, NULL, SL_EUNSUPPORTED,
     "key llama.some_new_number: a 'llama' model with this setting"},
    {NULL, "llama.rope.scaling.type", STRING, 0, "ntk", SL_EUNSUPPORTED,
     "key llama.rope.scaling.type: 'ntk'"},
    {NULL, "llama.rope.scaling.yarn_log_multiplier", F32, 0.1, NULL, SL_EUNSUPPORTED,
     "yarn_log_multiplier"},
    {NULL, "llama.residual_scale", F32, 0.2, NULL, SL_EUNSUPPORTED, "key llama.residual_scale"},
    {NULL, "llama.expert_count", U32, 8, NULL, SL_EINPUT, "0 of 8 experts"},
    {NULL, "llama.attention.causal", BOOLEAN, 0, NULL, SL_EUNSUPPORTED,
     "key llama.attention.causal"},
    {NULL, "llama.logit_scale", F32, 0.5, NULL, SL_EUNSUPPORTED, "key llama.logit_scale"},
    {NULL, "llama.attention.value_length", U32, 8, NULL, SL_EUNSUPPORTED,
     "values of 8 elements with keys of 4"},
    {NULL, "llama.attention.key_length", U32, 1024, NULL, SL_EUNSUPPORTED,
     "heads of 1024 elements"},
    {NULL, "llama.attention.key_length", U32, 5, NULL, SL_EUNSUPPORTED, "heads of 5 elements"},
    {"feed_forward_length", "llama.feed_forward_length", INTS, 16, "mixed", SL_EUNSUPPORTED,
     "differs from layer to layer"},
    {NULL, "blk.0.attn_q_norm.weight", TENSOR1, 4, NULL, SL_EUNSUPPORTED,
     "tensor blk.0.attn_q_norm.weight: "},
    {NULL, "blk.0.attn_output.bias", TENSOR1, 8, NULL, 0, NULL},
    {NULL, "blk.0.attn_sinks.weight", TENSOR1, 2, NULL, SL_EUNSUPPORTED,
     "tensor blk.0.attn_sinks.weight: "},
    {NULL, "blk.1.attn_norm.weight", TENSOR1, 8, NULL, SL_EUNSUPPORTED,
     "tensor blk.1.attn_norm.weight: "},
    {NULL, "blk. 0.attn_norm.weight", TENSOR1, 8, NULL, SL_EUNSUPPORTED,
     "tensor blk. 0.attn_norm.weight: "},
    {NULL, "blk.00.attn_norm.weight", TENSOR1, 8, NULL, SL_EUNSUPPORTED,
     "tensor blk.00.attn_norm.weight: "},
    {NULL, "blk.0.attn_k.bias", TENSOR1, 4, NULL, SL_EUNSUPPORTED, "tensor blk.0.attn_k.bias: "},
    {NULL, "rope_factors_long.weight", TENSOR1, 2, NULL, SL_EUNSUPPORTED,
     "tensor rope_factors_long.weight: "},
    {"general.architecture", "general.architecture", STRING, 0, "lama", SL_EUNSUPPORTED,
     "architecture 'lama' is not run here; known: llama, mistral, mixtral, internlm2, qwen2, "
     "qwen2_moe, qwen2_vl, qwen3, qwen3_moe, phi3, gemma2, gemma3, gpt_oss, deepseek, granite; "
     "nearest: llama"},
    {"general.architecture", "general.architecture", STRING, 0, "mamba-and-more", SL_EUNSUPPORTED,
     "known: llama, mistral"},
    /* what cannot be */
    {"general.architecture", NULL, U32, 0, NULL, SL_EINPUT, "key general.architecture is missing"},
    {"general.architecture", "general.architecture", STRING, 0, "", SL_EINPUT,
     "general.architecture"},
    {"general.architecture", "general.architecture", STRING, 0, "a\033b", SL_EINPUT,
     "not a plain word"},
    {"general.architecture", "general.architecture", U32, 1, NULL, SL_EINPUT,
     "general.architecture"},
    {"block_count", NULL, U32, 0, NULL, SL_EINPUT, "key llama.block_count is missing"},
    {"block_count", "llama.block_count", U32, 0, NULL, SL_EINPUT,
     "key llama.block_count should be an integer from 1"},
    {"block_count", "llama.block_count", U32, 5000, NULL, SL_EINPUT,
     "key llama.block_count should be"},
    {"block_count", "llama.block_count", U32, 2, NULL, SL_EINPUT,
     "tensor blk.1.attn_norm.weight is missing"},
    {"block_count", "llama.block_count", STRING, 0, "1", SL_EINPUT,
     "key llama.block_count should be"},
    {"context_length", NULL, U32, 0, NULL, SL_EINPUT, "key llama.context_length is missing"},
    {"embedding_length", "llama.embedding_length", U32, 16, NULL, SL_EINPUT,
     "tensor blk.0.attn_norm.weight has 8 x 1"},
    {"embedding_length", "llama.embedding_length", U32, 1u << 31, NULL, SL_EINPUT,
     "key llama.embedding_length should be"},
    {"embedding_length", "llama.embedding_length", U32, 9, NULL, SL_EINPUT,
     "2 heads do not divide 9 elements"},
    {"attention.head_count", NULL, U32, 0, NULL, SL_EINPUT,
     "key llama.attention.head_count is missing"},
    {"attention.head_count", "llama.attention.head_count", U32, 4, NULL, SL_EINPUT,
     "tensor blk.0.attn_k.weight has 8 x 4"},
    {"attention.head_count_kv", "llama.attention.head_count_kv", U32, 3, NULL, SL_EINPUT,
     "3 does not divide the 2 heads"},
    {"attention.head_count_kv", NULL, U32, 0, NULL, SL_EINPUT,
     "tensor blk.0.attn_k.weight has 8 x 4"},
    {"feed_forward_length", NULL, U32, 0, NULL, SL_EINPUT,
     "key llama.feed_forward_length is missing"},
    {"feed_forward_length", "llama.feed_forward_length", U32, 8, NULL, SL_EINPUT,
     "tensor blk.0.ffn_gate.weight has 8 x 16"},
    {"attention.layer_norm_rms_epsilon", NULL, U32, 0, NULL, SL_EINPUT,
     "key llama.attention.layer_norm_rms_epsilon is missing"},
    {"attention.layer_norm_rms_epsilon", "llama.attention.layer_norm_rms_epsilon", F32, -1, NULL,
     SL_EINPUT, "is -1"},
    {NULL, "llama.rope.dimension_count", U32, 3, NULL, SL_EINPUT,
     "key llama.rope.dimension_count is 3"},
    {NULL, "llama.rope.dimension_count", U32, 6, NULL, SL_EINPUT,
     "key llama.rope.dimension_count is 6"},
    {NULL, "llama.rope.freq_base", F32, 0, NULL, SL_EINPUT, "key llama.rope.freq_base is 0"},
    {NULL, "llama.rope.scaling.factor", F32, 0.5, NULL, SL_EINPUT, "is 0.5, it should be 0 or"},
    {NULL, "llama.rope.scaling.factor", F32, -2, NULL, SL_EINPUT,
     "key llama.rope.scaling.factor is -2"},
    {NULL, "llama.rope.scaling.type", U32, 1, NULL, SL_EINPUT,
     "key llama.rope.scaling.type should be a string"},
    {NULL, "llama.vocab_size", U32, 5, NULL, SL_EINPUT,
     "tensor token_embd.weight has 4 rows for a vocabulary of 5"},
    {"token_embd.weight", NULL, U32, 0, NULL, SL_EINPUT, "tensor token_embd.weight is missing"},
    {"output_norm.weight", NULL, U32, 0, NULL, SL_EINPUT, "tensor output_norm.weight is missing"},
    {"blk.0.ffn_down.weight", NULL, U32, 0, NULL, SL_EINPUT,
     "tensor blk.0.ffn_down.weight is missing"},
    {"blk.0.attn_norm.weight", "blk.0.attn_norm.weight", TENSOR1, 7, NULL, SL_EINPUT,
     "tensor blk.0.attn_norm.weight has 7 x 1"},
    {"output_norm.weight", "output_norm.weight", TENSOR2, 8, NULL, SL_EINPUT,
     "tensor output_norm.weight has 8 x 4"},
    {NULL, "rope_freqs.weight", TENSOR1, 4, NULL, SL_EINPUT, "tensor rope_freqs.weight has 4 x 1"},
    {NULL, "blk.0.attn_q.bias", TENSOR1, 8, NULL, SL_EINPUT, "tensor blk.0.attn_k.bias is missing"},
};

static void checks_variants(void **state)
{
    (void)state;
    for (size_t i = 0; i < SL_ARRAY_LEN(variants); i++) {
        const struct variant *v = &variants[i];
        struct gguf_writer g;
        gguf_init(&g);
        gguf_add_model(&g, "llama", 1, (const char *[]){v->leave_out, NULL});
        if (v->key) add_variant(&g, v);
        struct model m = open_model(&g);
        if (m.r != v->code || (v->says && (!strstr(m.err.msg, v->says) ||
                                           strncmp(m.err.msg, "tiny.gguf: ", 11) != 0)))
            fail_msg("row %zu: got %d '%s', wanted %d '%s'", i, m.r, m.err.msg, v->code,
                     v->says ? v->says : "");
        close_model(&m);
    }
}

static void scales_rope_linearly(void **state)
{
    (void)state;
    static const struct {
        const char *type, *key;
        float factor, want;
    } rows[] = {
        {"linear", "llama.rope.scaling.factor", 4, 4},
        {NULL, "llama.rope.scaling.factor", 2.5f, 2.5f}, /* no type is linear */
        {NULL, "llama.rope.scale_linear", 8, 8},         /* the old name */
        {"linear", "llama.rope.scaling.factor", 0, 1},
        {"none", "llama.rope.scaling.factor", 4, 1},
    };
    for (size_t i = 0; i < SL_ARRAY_LEN(rows); i++) {
        struct gguf_writer g;
        gguf_init(&g);
        gguf_add_model(&g, "llama", 1, NULL);
        if (rows[i].type) gguf_string(&g, "llama.rope.scaling.type", rows[i].type);
        gguf_f32(&g, rows[i].key, rows[i].factor);
        struct model m = open_model(&g);
        if (m.r) fail_msg("%s", m.err.msg);
        assert_true(m.c.rope_scale == rows[i].want);
        close_model(&m);
    }
}

static void refuses_more_tokens_than_rows(void **state)
{
    (void)state;
    struct gguf_writer g;
    gguf_init(&g);
    gguf_add_model(&g, "llama", 1, NULL);
    gguf_array(&g, "tokenizer.ggml.tokens", GGUF_STRING, 5,
               (const char *[]){"a", "b", "c", "d", "e"});
    struct model m = open_model(&g);
    assert_int_equal(m.r, SL_EINPUT);
    assert_non_null(strstr(m.err.msg, "4 rows for a vocabulary of 5"));
    close_model(&m);
}

static void refuses_formats_without_a_row(void **state)
{
    (void)state;
    struct gguf_writer g;
    gguf_init(&g);
    gguf_add_model(&g, "llama", 1, (const char *[]){"blk.0.ffn_up.weight", NULL});
    gguf_tensor(&g, "blk.0.ffn_up.weight", 2, (int64_t[]){8, 16}, 28, NULL, 1024); /* F64 */
    struct model m = open_model(&g);
    if (m.r) fail_msg("%s", m.err.msg);
    const struct sl_tensor *t = NULL;
    assert_int_equal(sl_config_tensor(m.w, &m.c, SL_ROLE_UP, 0, &t, &m.err), SL_EUNSUPPORTED);
    assert_non_null(strstr(m.err.msg, "tensor blk.0.ffn_up.weight: the format F64"));
    assert_null(t);
    uint64_t bytes;
    assert_int_equal(sl_config_layer_bytes(m.w, &m.c, 0, &bytes, &m.err), SL_EUNSUPPORTED);
    close_model(&m);
}

static void lists_families(void **state)
{
    (void)state;
    int n;
    const char *const *names = sl_config_archs(&n);
    assert_int_equal(n, 15);
    assert_string_equal(names[0], "llama");
    assert_string_equal(names[n - 1], "granite");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_llama),
        cmocka_unit_test(reads_qwen2),
        cmocka_unit_test(checks_variants),
        cmocka_unit_test(scales_rope_linearly),
        cmocka_unit_test(refuses_more_tokens_than_rows),
        cmocka_unit_test(refuses_formats_without_a_row),
        cmocka_unit_test(lists_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
