/* config.c - from metadata to a configuration that is safe to run: which family, what all families
 * share, and the order in which the rest is read and checked.
 *
 * The rule is never to give a silently wrong answer. So a key that changes the computation in a way
 * we do not run is refused (config_read.c), and so is any tensor that no role of the family
 * explains (config_tensor.c). */
#include "model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/arch.h"

#define EMBD_MAX (1 << 17)  /* elements of a hidden state */
#define HEADS_MAX 2048      /* attention heads of a layer */
#define FF_MAX (1 << 20)    /* elements between the feed-forward matrices */
#define VOCAB_MAX (1 << 22) /* tokens */
#define CTX_MAX (1 << 30)   /* tokens of a sequence */
#define SCALE_MAX 1e6

static const struct sl_arch *const archs[] = {
    &sl_arch_llama,     &sl_arch_mistral,  &sl_arch_mixtral, &sl_arch_internlm2, &sl_arch_qwen2,
    &sl_arch_qwen2_moe, &sl_arch_qwen2_vl, &sl_arch_qwen3,   &sl_arch_qwen3_moe, &sl_arch_phi3,
    &sl_arch_gemma2,    &sl_arch_gemma3,   &sl_arch_gpt_oss, &sl_arch_deepseek,  &sl_arch_granite,
};
static const char *const arch_names[] = {
    "llama",     "mistral", "mixtral", "internlm2", "qwen2",   "qwen2_moe", "qwen2_vl", "qwen3",
    "qwen3_moe", "phi3",    "gemma2",  "gemma3",    "gpt_oss", "deepseek",  "granite",
};
_Static_assert(SL_ARRAY_LEN(archs) == SL_ARRAY_LEN(arch_names), "one name per family");

const char *const *sl_config_archs(int *n)
{
    *n = (int)SL_ARRAY_LEN(arch_names);
    return arch_names;
}

const struct sl_arch *sl_arch_find(const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(archs); i++)
        if (strcmp(archs[i]->name, name) == 0) return archs[i];
    return NULL;
}

/* ---- which family ---------------------------------------------------------------------------- */

static const struct sl_arch *find_gguf(const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(archs); i++)
        if (archs[i]->gguf && strcmp(archs[i]->gguf, name) == 0) return archs[i];
    return NULL;
}

static const struct sl_arch *find_hf(struct sl_reader *r, const char *name)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(archs); i++)
        for (size_t k = 0; k < SL_ARRAY_LEN(archs[i]->hf) && archs[i]->hf[k]; k++)
            if (strcmp(archs[i]->hf[k], name) == 0) {
                r->hf_type = archs[i]->hf[k];
                return archs[i];
            }
    return NULL;
}

static int unknown_arch(struct sl_reader *r, const char *name)
{
    char list[256] = "";
    const char *names[5 * SL_ARRAY_LEN(archs)];
    size_t n_names = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(archs); i++) {
        if (archs[i]->gguf) names[n_names++] = archs[i]->gguf;
        for (size_t k = 0; k < SL_ARRAY_LEN(archs[i]->hf) && archs[i]->hf[k]; k++)
            names[n_names++] = archs[i]->hf[k];
    }
    for (size_t i = 0, n = 0; i < SL_ARRAY_LEN(arch_names) && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", arch_names[i]);
    const char *near = sl_nearest(name, names, n_names);
    return sl_read_refuse(r, SL_EUNSUPPORTED, "architecture '%.40s' is not run here; known: %s%s%s",
                          name, list, near ? "; nearest: " : "", near ? near : "");
}

static int find_family_gguf(struct sl_reader *r)
{
    const struct sl_meta *m = sl_weights_meta(r->w, "general.architecture");
    const struct sl_meta *name = sl_weights_meta(r->w, "general.name");
    char arch[64];
    if (!m || m->type != SL_META_STRING || m->len == 0)
        return sl_read_refuse(r, SL_EINPUT,
                              "key general.architecture is missing; this is not a language model");
    for (size_t i = 0; i < m->len; i++)
        if (m->s[i] <= 0x20 || m->s[i] > 0x7e)
            return sl_read_refuse(
                r, SL_EINPUT,
                "key general.architecture is not a plain word; convert the model again");
    snprintf(arch, sizeof arch, "%.*s", (int)SL_MIN(m->len, sizeof arch - 1), m->s);
    if (name && name->type == SL_META_STRING) {
        char clean[3 * sizeof r->c->name];
        size_t n = sl_utf8_scrub(name->s, SL_MIN(name->len, sizeof r->c->name - 1), clean);
        n = sl_utf8_whole(clean, SL_MIN(n, sizeof r->c->name - 1));
        memcpy(r->c->name, clean, n);
        r->c->name[n] = 0;
    }
    r->arch = find_gguf(arch);
    return r->arch ? 0 : unknown_arch(r, arch);
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* model_type decides; architectures[0] must be a model that continues text. */
static int find_family_hf(struct sl_reader *r, const json_t *root)
{
    const json_t *inner = json_object_get(root, "text_config");
    const char *type = json_string_value(json_object_get(root, "model_type"));
    const char *class =
        json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
    char shown[64];
    r->text = json_is_object(inner) ? inner : root;
    if (!type) type = class;
    if (!type)
        return sl_read_refuse(
            r, SL_EINPUT, "config.json: key model_type is missing; this is not a language model");
    size_t n = 0;
    for (const char *s = type; *s && n < sizeof shown - 1; s++)
        shown[n++] = *s > 0x20 && *s <= 0x7e ? *s : '?';
    shown[n] = 0;
    r->arch = find_hf(r, type);
    if (!r->arch) return unknown_arch(r, shown);
    if (class && !ends_with(class, "ForCausalLM") && !ends_with(class, "ForConditionalGeneration"))
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "config.json: a %.60s does not continue text; use the model that it "
                              "was made from",
                              class);
    return 0;
}

/* ---- what all families share ----------------------------------------------------------------- */

static int read_heads(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int v_dim, derived = c->n_embd % c->n_heads == 0 ? c->n_embd / c->n_heads : -1;
    int e = sl_read_int(r, "attention.head_count_kv", "num_key_value_heads", c->n_heads, 1,
                        HEADS_MAX, &c->n_kv_heads);
    if (!e && derived < 0 && !sl_read_has(r, "attention.key_length", "head_dim"))
        e = sl_read_refuse(
            r, SL_EINPUT, "key %s: %d heads do not divide %d elements; convert the model again",
            r->text ? "num_attention_heads" : "attention.head_count", c->n_heads, c->n_embd);
    if (!e)
        e = sl_read_int(r, "attention.key_length", "head_dim", derived, 1, INT32_MAX, &c->head_dim);
    if (!e) e = sl_read_int(r, "attention.value_length", NULL, c->head_dim, 1, INT32_MAX, &v_dim);
    if (e) return e;
    if (c->n_heads % c->n_kv_heads)
        return sl_read_refuse(
            r, SL_EINPUT, "key %s: %d does not divide the %d heads; convert the model again",
            r->text ? "num_key_value_heads" : "attention.head_count_kv", c->n_kv_heads, c->n_heads);
    if (v_dim != c->head_dim)
        return sl_read_refuse(
            r, SL_EUNSUPPORTED,
            "key %s: values of %d elements with keys of %d are not run here; use another model",
            r->key, v_dim, c->head_dim);
    if (c->head_dim > SL_HEAD_DIM_MAX || c->head_dim % 2)
        return sl_read_refuse(
            r, SL_EUNSUPPORTED,
            "key %s: heads of %d elements are not run here, even sizes up to %d are",
            r->text ? "head_dim" : "attention.key_length", c->head_dim, SL_HEAD_DIM_MAX);
    return 0;
}

static int read_shared(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    int e = sl_read_int(r, "block_count", "num_hidden_layers", SL_REQUIRED, 1, SL_LAYERS_MAX,
                        &c->n_layers);
    if (!e)
        e = sl_read_int(r, "context_length", "max_position_embeddings", SL_REQUIRED, 1, CTX_MAX,
                        &c->n_ctx_train);
    if (!e)
        e = sl_read_int(r, "embedding_length", "hidden_size", SL_REQUIRED, 1, EMBD_MAX, &c->n_embd);
    if (!e)
        e = sl_read_int(r, "attention.head_count", "num_attention_heads", SL_REQUIRED, 1, HEADS_MAX,
                        &c->n_heads);
    if (!e)
        e = sl_read_int(r, "feed_forward_length", "intermediate_size", SL_REQUIRED, 1, FF_MAX,
                        &c->n_ff);
    if (!e)
        e = sl_read_float(r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", SL_REQUIRED_F, 0,
                          0.1, &c->rms_eps);
    if (e || r->arch->latent) return e;
    e = read_heads(r);
    if (!e) e = sl_read_rope(r, c->head_dim);
    if (!e)
        e = sl_read_float(r, "attention.scale", NULL, 1 / sqrt(c->head_dim), 0, SCALE_MAX,
                          &c->attn_scale);
    if (!e && c->attn_scale == 0) c->attn_scale = 1 / sqrtf((float)c->head_dim);
    return e;
}

/* Whether the output matrix is the embedding. Says neither the text's config.json nor the whole
 * model's, then what is in the file decides. */
static int read_tied(struct sl_reader *r, const json_t *root)
{
    struct sl_config *c = r->c;
    const char *output = r->arch->names[SL_ROLE_OUTPUT].gguf[0].name;
    char name[SL_TENSOR_NAME_MAX];
    if (!r->text) {
        snprintf(name, sizeof name, "%s.weight", output);
        c->tied = sl_weights_find(r->w, name) == NULL;
        return 0;
    }
    snprintf(name, sizeof name, "%s%s.weight", c->head_prefix,
             r->arch->names[SL_ROLE_OUTPUT].hf[0].name);
    const json_t *outer = json_object_get(root, "tie_word_embeddings");
    int absent = sl_weights_find(r->w, name) == NULL;
    if (json_is_boolean(outer) && !json_object_get(r->text, "tie_word_embeddings")) {
        c->tied = json_is_true(outer);
        (void)sl_read_has(r, NULL, "tie_word_embeddings");
        return 0;
    }
    return sl_read_bool(r, NULL, "tie_word_embeddings", absent, &c->tied);
}

/* The rows of the embedding are the vocabulary; what the metadata says must agree. */
static int read_vocab(struct sl_reader *r)
{
    struct sl_config *c = r->c;
    const struct sl_names *embed = &r->arch->names[SL_ROLE_EMBED];
    char name[SL_TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%s%s.weight", c->prefix,
             r->text ? embed->hf[0].name : embed->gguf[0].name);
    const struct sl_tensor *t = sl_weights_find(r->w, name);
    const struct sl_meta *tokens = sl_weights_meta(r->w, "tokenizer.ggml.tokens");
    if (!t)
        return sl_read_refuse(r, SL_EINPUT, "tensor %s is missing; this file has no complete model",
                              name);
    if (t->ne[1] > VOCAB_MAX)
        return sl_read_refuse(r, SL_EINPUT, "tensor %s has %" PRId64 " rows, at most %d are run",
                              t->name, t->ne[1], VOCAB_MAX);
    int e = sl_read_int(r, "vocab_size", "vocab_size", t->ne[1], 1, VOCAB_MAX, &c->n_vocab);
    if (e) return e;
    if (c->n_vocab != t->ne[1] ||
        (tokens && tokens->type == SL_META_ARRAY && tokens->len > (size_t)c->n_vocab))
        return sl_read_refuse(
            r, SL_EINPUT,
            "tensor %s has %" PRId64 " rows for a vocabulary of %zu; convert the model again",
            t->name, t->ne[1], c->n_vocab != t->ne[1] ? (size_t)c->n_vocab : tokens->len);
    return 0;
}

/* What several fields together must satisfy, whoever read them. */
static int check_whole(struct sl_reader *r)
{
    const struct sl_config *c = r->c;
    if (!c->hf && c->ropes[0].mscale_all != 0 && !c->kv_lora)
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key %s.rope.scaling.yarn_log_multiplier: this kind of YaRN is not "
                              "run here; use another model",
                              r->arch->gguf);
    return 0;
}

int sl_config_read(const struct sl_weights *w, struct sl_config *out, struct sl_err *err)
{
    struct sl_config c = {.embed_scale = 1,
                          .residual_scale = 1,
                          .logit_scale = 1,
                          .expert_scale = 1,
                          .n_groups = 1,
                          .n_groups_used = 1};
    struct sl_reader r = {.w = w, .c = &c, .err = err};
    const json_t *root = sl_weights_json(w, SL_JSON_CONFIG);
    int e = root ? find_family_hf(&r, root) : find_family_gguf(&r);
    if (e) return e;
    snprintf(c.arch, sizeof c.arch, "%s", r.arch->name);
    c.hf = r.text != NULL;
    c.rope = c.hf ? r.arch->rope_hf : r.arch->rope;
    c.norm_offset = c.hf ? r.arch->hf_norm_offset : 0;
    e = read_shared(&r);
    if (!e) e = r.arch->read(&r);
    if (!e && c.hf) e = sl_arch_find_prefix(r.arch, w, &c, err);
    if (!e) e = read_tied(&r, root);
    if (!e) e = read_vocab(&r);
    if (!e) e = check_whole(&r);
    if (!e) e = sl_read_leftovers(&r);
    if (!e) e = sl_arch_check_tensors(r.arch, w, &c, err);
    if (!e) *out = c;
    return e;
}
