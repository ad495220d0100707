/* config.c - from metadata to a configuration that is safe to run: reading and refusing keys;
 * config_tensor.c checks the tensors.
 *
 * The rule is never to give a silently wrong answer. So a key that changes the computation in a way
 * we do not run is refused, and so is any tensor that no role of the family explains. */
#include "model/config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "model/arch.h"

#define EMBD_MAX (1 << 17)  /* elements of a hidden state */
#define HEADS_MAX 2048      /* attention heads of a layer */
#define FF_MAX (1 << 20)    /* elements between the feed-forward matrices */
#define VOCAB_MAX (1 << 22) /* tokens */
#define CTX_MAX (1 << 30)   /* tokens of a sequence */
#define ROPE_SCALE_MAX 1e6  /* linear scaling of positions */
#define KEY_MAX 96          /* bytes of "ARCH.key" */

static const struct sl_arch *const archs[] = {&sl_arch_llama, &sl_arch_qwen2};
static const char *const arch_names[] = {"llama", "qwen2"};
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

struct reader {
    const struct sl_weights *w;
    struct sl_config *c;
    struct sl_err *err;
    char key[KEY_MAX]; /* the last one asked for, for messages */
};

static const char *full(struct reader *r, const char *key)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->c->arch, key);
    return r->key;
}

static int refuse(struct reader *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int refuse(struct reader *r, int code, const char *fmt, ...)
{
    char text[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_err_set(r->err, code, "%s: %s", sl_weights_path(r->w), text);
}

/* An integer 1..max; required when def < 0. Arrays (one value per layer) are accepted when all
 * their values agree. */
static int read_int(struct reader *r, const char *key, int64_t def, int64_t max, int *out)
{
    const struct sl_meta *m = sl_weights_meta(r->w, full(r, key));
    struct sl_meta one;
    if (!m && def < 0)
        return refuse(r, SL_EINPUT, "key %s is missing; convert the model again", r->key);
    if (m && m->type == SL_META_ARRAY && m->elem == SL_META_INT && m->len > 0) {
        one = sl_meta_at(m, 0);
        for (size_t i = 1; i < m->len; i++)
            if (sl_meta_at(m, i).i != one.i)
                return refuse(r, SL_EUNSUPPORTED,
                              "key %s differs from layer to layer, which is not run here; use "
                              "another model",
                              r->key);
        m = &one;
    }
    if (m && (m->type != SL_META_INT || m->i < 1 || m->i > max))
        return refuse(r, SL_EINPUT,
                      "key %s should be an integer from 1 to %" PRId64 "; convert the model again",
                      r->key, max);
    *out = (int)(m ? m->i : def);
    return 0;
}

/* A number from min to max; required when def < min. */
static int read_float(struct reader *r, const char *key, double def, double min, double max,
                      float *out)
{
    double v;
    if (def < min && !sl_weights_meta(r->w, full(r, key)))
        return refuse(r, SL_EINPUT, "key %s is missing; convert the model again", r->key);
    int e = sl_weights_float(r->w, full(r, key), def, &v, r->err);
    if (e) return e;
    if (!(v >= min && v <= max))
        return refuse(r, SL_EINPUT,
                      "key %s is %g, it should lie between %g and %g; convert the model again",
                      r->key, v, min, max);
    *out = (float)v;
    return 0;
}

/* Keys that change what the layers compute; any value but the neutral one is refused. */
static const struct {
    const char *key;
    double neutral;
    const char *what;
} features[] = {
    {"expert_count", 0, "a mixture of experts"},
    {"nextn_predict_layers", 0, "layers that predict further tokens"},
    {"attention.causal", 1, "attention to later tokens"},
    {"attention.clamp_kqv", 0, "clamping of q, k and v"},
    {"attention.max_alibi_bias", 0, "ALiBi positions"},
    {"attention.scale", 0, "its own attention scale"},
    {"attention.temperature_scale", 0, "attention temperature"},
    {"attn_logit_softcapping", 0, "soft-capped attention"},
    {"final_logit_softcapping", 0, "soft-capped logits"},
    {"logit_scale", 1, "scaled logits"},
    {"residual_scale", 1, "scaled residuals"},
    {"embedding_scale", 1, "scaled embeddings"},
    {"use_parallel_residual", 0, "parallel residuals"},
    {"rope.scaling.attn_factor", 1, "RoPE attention factors"},
    {"rope.scaling.yarn_log_multiplier", 0, "YaRN"},
    {"rope.dimension_sections", 0, "RoPE in sections"},
};

static int read_features(struct reader *r)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(features); i++) {
        const struct sl_meta *m = sl_weights_meta(r->w, full(r, features[i].key));
        if (!m) continue;
        double v = m->type == SL_META_BOOL ? (double)m->i : m->f;
        if (m->type == SL_META_STRING || m->type == SL_META_ARRAY || v != features[i].neutral)
            return refuse(r, SL_EUNSUPPORTED, "key %s: %s is not run here; use another model",
                          r->key, features[i].what);
    }
    /* a window as long as the context never bites */
    const struct sl_meta *m = sl_weights_meta(r->w, full(r, "attention.sliding_window"));
    if (m && (m->type != SL_META_INT || (m->i != 0 && m->i < r->c->n_ctx_train)))
        return refuse(r, SL_EUNSUPPORTED,
                      "key %s: sliding-window attention is not run here; use another model",
                      r->key);
    return 0;
}

/* No scaling, or linear. Llama 3's kind is a tensor (ROPE_FREQS); a factor without a type is
 * linear, as in old files. */
static int read_rope(struct reader *r)
{
    struct sl_config *c = r->c;
    int e = read_int(r, "rope.dimension_count", c->head_dim, SL_HEAD_DIM_MAX, &c->rope_dims);
    if (!e) e = read_float(r, "rope.freq_base", 10000, 1, 1e12, &c->rope_base);
    if (e) return e;
    if (c->rope_dims > c->head_dim || c->rope_dims % 2)
        return refuse(
            r, SL_EINPUT,
            "key %s.rope.dimension_count is %d, it should be even and at most the head size %d; "
            "convert the model again",
            c->arch, c->rope_dims, c->head_dim);
    c->rope_scale = 1;
    const struct sl_meta *t = sl_weights_meta(r->w, full(r, "rope.scaling.type"));
    if (t && t->type != SL_META_STRING)
        return refuse(r, SL_EINPUT, "key %s should be a string; convert the model again", r->key);
    if (t && t->len == 4 && memcmp(t->s, "none", 4) == 0) return 0;
    if (t && !(t->len == 6 && memcmp(t->s, "linear", 6) == 0))
        return refuse(r, SL_EUNSUPPORTED,
                      "key %s: '%.*s' scaling is not run here, only linear is; use another model",
                      r->key, (int)SL_MIN(t->len, 32), t->s);
    e = read_float(r, "rope.scale_linear", 1, 0, ROPE_SCALE_MAX, &c->rope_scale);
    if (!e)
        e = read_float(r, "rope.scaling.factor", c->rope_scale, 0, ROPE_SCALE_MAX, &c->rope_scale);
    if (e) return e;
    if (c->rope_scale == 0) c->rope_scale = 1; /* written by converters for "none" */
    if (c->rope_scale < 1)
        return refuse(r, SL_EINPUT,
                      "key %s is %g, it should be 0 or at least 1; convert the model again", r->key,
                      (double)c->rope_scale);
    return 0;
}

static int read_heads(struct reader *r)
{
    struct sl_config *c = r->c;
    int v_dim, derived = c->n_heads && c->n_embd % c->n_heads == 0 ? c->n_embd / c->n_heads : -1;
    int e = read_int(r, "attention.head_count_kv", c->n_heads, HEADS_MAX, &c->n_kv_heads);
    if (!e && derived < 0 && !sl_weights_meta(r->w, full(r, "attention.key_length")))
        e = refuse(r, SL_EINPUT,
                   "key %s.attention.head_count: %d heads do not divide %d elements; convert the "
                   "model again",
                   c->arch, c->n_heads, c->n_embd);
    if (!e) e = read_int(r, "attention.key_length", derived, INT32_MAX, &c->head_dim);
    if (!e) e = read_int(r, "attention.value_length", c->head_dim, INT32_MAX, &v_dim);
    if (e) return e;
    if (c->n_heads % c->n_kv_heads)
        return refuse(r, SL_EINPUT,
                      "key %s.attention.head_count_kv: %d does not divide the %d heads; convert "
                      "the model again",
                      c->arch, c->n_kv_heads, c->n_heads);
    if (v_dim != c->head_dim)
        return refuse(
            r, SL_EUNSUPPORTED,
            "key %s: values of %d elements with keys of %d are not run here; use another model",
            r->key, v_dim, c->head_dim);
    if (c->head_dim > SL_HEAD_DIM_MAX || c->head_dim % 2)
        return refuse(
            r, SL_EUNSUPPORTED,
            "key %s.attention.key_length: heads of %d elements are not run here, even sizes up "
            "to %d are",
            c->arch, c->head_dim, SL_HEAD_DIM_MAX);
    return 0;
}

/* The rows of the embedding are the vocabulary; what the metadata says must agree. */
static int read_vocab(struct reader *r, const struct sl_arch *a)
{
    struct sl_config *c = r->c;
    const struct sl_tensor *t = sl_weights_find(r->w, a->tensors[SL_ROLE_EMBED]);
    const struct sl_meta *tokens = sl_weights_meta(r->w, "tokenizer.ggml.tokens");
    if (!t)
        return refuse(r, SL_EINPUT, "tensor %s is missing; this file has no complete model",
                      a->tensors[SL_ROLE_EMBED]);
    if (t->ne[1] > VOCAB_MAX)
        return refuse(r, SL_EINPUT, "tensor %s has %" PRId64 " rows, at most %d are run", t->name,
                      t->ne[1], VOCAB_MAX);
    int e = read_int(r, "vocab_size", t->ne[1], VOCAB_MAX, &c->n_vocab);
    if (e) return e;
    if (c->n_vocab != t->ne[1] ||
        (tokens && tokens->type == SL_META_ARRAY && tokens->len > (size_t)c->n_vocab))
        return refuse(r, SL_EINPUT,
                      "tensor %s has %" PRId64
                      " rows for a vocabulary of %zu; convert the model again",
                      t->name, t->ne[1], c->n_vocab != t->ne[1] ? (size_t)c->n_vocab : tokens->len);
    return 0;
}

static int read_names(struct reader *r)
{
    const struct sl_meta *arch = sl_weights_meta(r->w, "general.architecture");
    const struct sl_meta *name = sl_weights_meta(r->w, "general.name");
    if (!arch || arch->type != SL_META_STRING || arch->len == 0)
        return refuse(r, SL_EINPUT,
                      "key general.architecture is missing; this is not a language model");
    for (size_t i = 0; i < arch->len; i++)
        if (arch->s[i] <= 0x20 || arch->s[i] > 0x7e)
            return refuse(r, SL_EINPUT,
                          "key general.architecture is not a plain word; convert the model again");
    snprintf(r->c->arch, sizeof r->c->arch, "%.*s", (int)SL_MIN(arch->len, sizeof r->c->arch - 1),
             arch->s);
    if (name && name->type == SL_META_STRING) {
        char clean[3 * sizeof r->c->name];
        size_t n = sl_utf8_scrub(name->s, SL_MIN(name->len, sizeof r->c->name - 1), clean);
        n = sl_utf8_whole(clean, SL_MIN(n, sizeof r->c->name - 1));
        memcpy(r->c->name, clean, n);
        r->c->name[n] = 0;
    }
    return 0;
}

static int unknown_arch(struct reader *r)
{
    char list[128] = "";
    const char *near = sl_nearest(r->c->arch, arch_names, SL_ARRAY_LEN(arch_names));
    for (size_t i = 0, n = 0; i < SL_ARRAY_LEN(arch_names) && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", arch_names[i]);
    return refuse(r, SL_EUNSUPPORTED, "architecture '%s' is not run here; known: %s%s%s",
                  r->c->arch, list, near ? "; nearest: " : "", near ? near : "");
}

static int read_shared(struct reader *r)
{
    struct sl_config *c = r->c;
    int e = read_int(r, "block_count", -1, SL_LAYERS_MAX, &c->n_layers);
    if (!e) e = read_int(r, "context_length", -1, CTX_MAX, &c->n_ctx_train);
    if (!e) e = read_int(r, "embedding_length", -1, EMBD_MAX, &c->n_embd);
    if (!e) e = read_int(r, "attention.head_count", -1, HEADS_MAX, &c->n_heads);
    if (!e) e = read_features(r); /* before the sizes that such a feature makes look wrong */
    if (!e) e = read_int(r, "feed_forward_length", -1, FF_MAX, &c->n_ff);
    if (!e) e = read_heads(r);
    if (!e) e = read_rope(r);
    if (!e) e = read_float(r, "attention.layer_norm_rms_epsilon", -1, 0, 0.1, &c->rms_eps);
    return e;
}

int sl_config_read(const struct sl_weights *w, struct sl_config *out, struct sl_err *err)
{
    struct sl_config c = {0};
    struct reader r = {.w = w, .c = &c, .err = err};
    int e = read_names(&r);
    if (e) return e;
    const struct sl_arch *a = sl_arch_find(c.arch);
    if (!a) return unknown_arch(&r);
    c.rope = a->rope;
    c.tied = sl_weights_find(w, a->tensors[SL_ROLE_OUTPUT]) == NULL;
    e = read_shared(&r);
    if (!e) e = read_vocab(&r, a);
    if (!e) e = a->read(w, &c, err);
    if (!e) e = sl_arch_check_tensors(a, w, &c, err);
    if (!e) *out = c;
    return e;
}
