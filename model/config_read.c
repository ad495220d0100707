/* config_read.c - see config_read.h. */
#include "model/config_read.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/arch.h"

int sl_read_refuse(struct sl_reader *r, int code, const char *fmt, ...)
{
    char text[SL_ERR_MSG_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sl_err_set(r->err, code, "%s: %s", sl_weights_path(r->w), text);
}

/* What to do about a wrong key. */
static const char *remedy(const struct sl_reader *r)
{
    return r->text ? "download config.json again" : "convert the model again";
}

/* ---- one value of either container ----------------------------------------------------------- */

enum kind { ABSENT, NUMBER, BOOLEAN, STRING, LIST, OTHER };

struct value {
    enum kind kind;
    int whole; /* NUMBER: an integer */
    int64_t i; /* NUMBER that is whole, BOOLEAN */
    double f;
    const char *s; /* STRING */
    size_t len;
    const json_t *list; /* LIST of config.json */
    const struct sl_meta *meta;
};

static struct value of_json(const json_t *j)
{
    struct value v = {.kind = OTHER};
    if (!j || json_is_null(j)) return (struct value){.kind = ABSENT};
    if (json_is_number(j)) {
        v.kind = NUMBER;
        v.f = json_number_value(j);
        v.whole = fabs(v.f) < 9e15 && floor(v.f) == v.f;
        v.i = json_is_integer(j) ? json_integer_value(j) : v.whole ? (int64_t)v.f : 0;
    } else if (json_is_boolean(j)) {
        v.kind = BOOLEAN;
        v.i = json_is_true(j);
    } else if (json_is_string(j)) {
        v.kind = STRING;
        v.s = json_string_value(j);
        v.len = json_string_length(j);
    } else if (json_is_array(j)) {
        v.kind = LIST;
        v.list = j;
        v.len = json_array_size(j);
    }
    return v;
}

static struct value of_meta(const struct sl_meta *m)
{
    static const enum kind kinds[] = {[SL_META_INT] = NUMBER,
                                      [SL_META_FLOAT] = NUMBER,
                                      [SL_META_BOOL] = BOOLEAN,
                                      [SL_META_STRING] = STRING,
                                      [SL_META_ARRAY] = LIST};
    if (!m) return (struct value){.kind = ABSENT};
    return (struct value){.kind = kinds[m->type],
                          .whole = m->type == SL_META_INT,
                          .i = m->i,
                          .f = m->f,
                          .s = m->s,
                          .len = m->len,
                          .meta = m};
}

static struct value entry(const struct value *v, size_t i)
{
    if (v->list) return of_json(json_array_get(v->list, i));
    struct sl_meta m = sl_meta_at(v->meta, i);
    return of_meta(&m);
}

static void remember(struct sl_reader *r, const char *key)
{
    for (int i = 0; i < r->n_seen; i++)
        if (strcmp(r->seen[i], key) == 0) return;
    SL_ASSERT(r->n_seen < SL_KEYS_SEEN_MAX);
    r->seen[r->n_seen++] = key;
}

static int was_seen(const struct sl_reader *r, const char *key)
{
    for (int i = 0; i < r->n_seen; i++)
        if (strcmp(r->seen[i], key) == 0) return 1;
    return 0;
}

static struct value lookup(struct sl_reader *r, const char *gguf, const char *hf)
{
    const char *key = r->text ? hf : gguf;
    snprintf(r->key, sizeof r->key, "%s%s%s", r->text ? "" : r->arch->gguf, r->text ? "" : ".",
             key ? key : "?");
    if (!key) return (struct value){.kind = ABSENT};
    remember(r, key);
    if (!r->text) return of_meta(sl_weights_meta(r->w, r->key));
    const json_t *j = json_object_get(r->text, key);
    if (j) return of_json(j); /* an explicit null is no default */
    for (const struct sl_hf_default *d = r->arch->hf_defaults; d && d->key; d++)
        if (strcmp(d->key, key) == 0)
            return (struct value){.kind = NUMBER,
                                  .whole = floor(d->value) == d->value,
                                  .i = (int64_t)d->value,
                                  .f = d->value};
    return (struct value){.kind = ABSENT};
}

/* ---- typed access ---------------------------------------------------------------------------- */

int sl_read_has(struct sl_reader *r, const char *gguf, const char *hf)
{
    return lookup(r, gguf, hf).kind != ABSENT;
}

static int missing(struct sl_reader *r)
{
    return sl_read_refuse(r, SL_EINPUT, "key %s is missing; %s", r->key, remedy(r));
}

int sl_read_int(struct sl_reader *r, const char *gguf, const char *hf, int64_t def, int64_t min,
                int64_t max, int *out)
{
    struct value v = lookup(r, gguf, hf);
    if (v.kind == ABSENT && def == SL_REQUIRED) return missing(r);
    if (v.kind == LIST && !r->text && v.len > 0) {
        struct value one = entry(&v, 0);
        for (size_t i = 1; i < v.len; i++)
            if (entry(&v, i).i != one.i)
                return sl_read_refuse(
                    r, SL_EUNSUPPORTED,
                    "key %s differs from layer to layer, which is not run here; use another model",
                    r->key);
        v = one;
    }
    if (v.kind != ABSENT && (v.kind != NUMBER || !v.whole || v.i < min || v.i > max))
        return sl_read_refuse(r, SL_EINPUT,
                              "key %s should be an integer from %" PRId64 " to %" PRId64 "; %s",
                              r->key, min, max, remedy(r));
    *out = (int)(v.kind != ABSENT ? v.i : def);
    return 0;
}

int sl_read_float(struct sl_reader *r, const char *gguf, const char *hf, double def, double min,
                  double max, float *out)
{
    struct value v = lookup(r, gguf, hf);
    if (v.kind == ABSENT && def <= SL_REQUIRED_F) return missing(r);
    if (v.kind != ABSENT && (v.kind != NUMBER || !isfinite(v.f)))
        return sl_read_refuse(r, SL_EINPUT, "key %s should be a finite number; %s", r->key,
                              remedy(r));
    double x = v.kind == ABSENT ? def : v.f;
    if (v.kind != ABSENT && !(x >= min && x <= max))
        return sl_read_refuse(r, SL_EINPUT, "key %s is %g, it should lie between %g and %g; %s",
                              r->key, x, min, max, remedy(r));
    *out = (float)x;
    return 0;
}

int sl_read_bool(struct sl_reader *r, const char *gguf, const char *hf, int def, int *out)
{
    struct value v = lookup(r, gguf, hf);
    if (v.kind != ABSENT && v.kind != BOOLEAN && !(v.kind == NUMBER && v.whole && v.i >> 1 == 0))
        return sl_read_refuse(r, SL_EINPUT, "key %s should be true or false; %s", r->key,
                              remedy(r));
    *out = v.kind == ABSENT ? def : v.i != 0;
    return 0;
}

int sl_read_string(struct sl_reader *r, const char *gguf, const char *hf, char *out, size_t cap)
{
    struct value v = lookup(r, gguf, hf);
    out[0] = 0;
    if (v.kind == ABSENT) return 0;
    if (v.kind != STRING)
        return sl_read_refuse(r, SL_EINPUT, "key %s should be a string; %s", r->key, remedy(r));
    snprintf(out, cap, "%.*s", (int)SL_MIN(v.len, cap - 1), v.s);
    return 0;
}

int sl_read_entry(struct sl_reader *r, const char *gguf, const char *hf, size_t i, int *out,
                  size_t *n)
{
    struct value v = lookup(r, gguf, hf);
    *n = 0;
    if (v.kind == ABSENT) return 0;
    if (v.kind != LIST)
        return sl_read_refuse(r, SL_EINPUT, "key %s should be a list; %s", r->key, remedy(r));
    *n = v.len;
    if (i >= v.len) return 0;
    struct value e = entry(&v, i);
    if (!((e.kind == NUMBER && e.whole && e.i >= 0 && e.i <= INT32_MAX) || e.kind == BOOLEAN))
        return sl_read_refuse(r, SL_EINPUT, "key %s should be a list of integers; %s", r->key,
                              remedy(r));
    *out = (int)e.i;
    return 0;
}

int sl_read_only(struct sl_reader *r, const char *gguf, const char *hf, double value,
                 const char *what)
{
    struct value v = lookup(r, gguf, hf);
    double x = v.kind == BOOLEAN ? (double)v.i : v.f;
    if (v.kind == ABSENT || ((v.kind == BOOLEAN || v.kind == NUMBER) && x == value)) return 0;
    return sl_read_refuse(r, SL_EUNSUPPORTED, "key %s: %s is not run here; use another model",
                          r->key, what);
}

int sl_read_act(struct sl_reader *r, const char *hf, enum sl_ffn_act def)
{
    static const struct {
        const char *name;
        enum sl_ffn_act act;
    } names[] = {{"", SL_FFN_SILU},
                 {"silu", SL_FFN_SILU},
                 {"swish", SL_FFN_SILU},
                 {"gelu", SL_FFN_GELU},
                 {"gelu_pytorch_tanh", SL_FFN_GELU_TANH},
                 {"gelu_new", SL_FFN_GELU_TANH}};
    char name[32];
    r->c->act = def;
    if (!r->text) return 0;
    int e = sl_read_string(r, NULL, hf, name, sizeof name);
    if (e || !name[0]) return e;
    for (size_t i = 0; i < SL_ARRAY_LEN(names); i++)
        if (strcmp(names[i].name, name) == 0) {
            r->c->act = names[i].act;
            return 0;
        }
    return sl_read_refuse(r, SL_EUNSUPPORTED,
                          "key %s: the activation '%s' is not run here; use another model", r->key,
                          name);
}

/* ---- kinds of layers ------------------------------------------------------------------------- */

static int read_type_names(struct sl_reader *r, const struct value *types)
{
    struct sl_config *c = r->c;
    if (types->kind != LIST || types->len != (size_t)c->n_layers)
        return sl_read_refuse(r, SL_EINPUT, "key %s should list the kinds of %d layers; %s", r->key,
                              c->n_layers, remedy(r));
    for (int i = 0; i < c->n_layers; i++) {
        struct value v = entry(types, (size_t)i);
        int slides = v.kind == STRING && strcmp(v.s, "sliding_attention") == 0;
        if (!slides && !(v.kind == STRING && strcmp(v.s, "full_attention") == 0))
            return sl_read_refuse(
                r, SL_EUNSUPPORTED,
                "key %s: layers of kind '%.32s' are not run here; use another model", r->key,
                v.kind == STRING ? v.s : "?");
        if (slides) c->layer_flags[i] |= SL_LAYER_WINDOW;
    }
    return 0;
}

int sl_read_layer_types(struct sl_reader *r, int pattern)
{
    struct sl_config *c = r->c;
    for (int i = 0; i < c->n_layers; i++) c->layer_flags[i] &= (uint8_t)~SL_LAYER_WINDOW;
    struct value types = lookup(r, NULL, "layer_types");
    int e = 0;
    if (types.kind != ABSENT)
        e = read_type_names(r, &types);
    else
        for (int i = 0; i < c->n_layers; i++)
            if (pattern == 0 || (i + 1) % pattern != 0) c->layer_flags[i] |= SL_LAYER_WINDOW;
    if (c->window == 0)
        for (int i = 0; i < c->n_layers; i++) c->layer_flags[i] &= (uint8_t)~SL_LAYER_WINDOW;
    return e;
}

/* ---- what nobody asked for ------------------------------------------------------------------- */

/* Keys that change nothing of what a trained model answers to given tokens, or belong to others
 * (the tokenizer, generation, the quantization scheme). */
static const char *const harmless_gguf[] = {
    "rope.scaling.finetuned", "tensor_data_layout", "attention.layer_norm_epsilon",
    "pooling_type",           "vocab_size",         "rope.scale_linear",
    "quantization_version",
};

static const char *const harmless_hf[] = {
    /* what the file is */
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "auto_map",
    "name_or_path",
    "tokenizer_class",
    "quantization_config",
    "compression_config",
    "unsloth_fixed",
    "unsloth_version",
    "transformers.js_config",
    "language",
    "license",
    "use_bfloat16",
    "torchscript",
    "problem_type",
    "id2label",
    "label2id",
    "task_specific_params",
    "finetuning_task",
    "is_decoder",
    "is_encoder_decoder",
    "is_composition",
    "prefix",
    "model_max_length",
    "max_sequence_length",
    "vision_config",
    "audio_config",
    /* training */
    "initializer_range",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "embed_dropout",
    "pretraining_tp",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
    "aux_loss_alpha",
    "seq_aux",
    "ep_size",
    "neftune_noise_alpha",
    "router_z_loss_coef",
    "use_qkv_bias_in_training",
    /* how it is run */
    "use_cache",
    "attn_implementation",
    "cache_implementation",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "use_return_dict",
    "chunk_size_feed_forward",
    "pruned_heads",
    "tie_encoder_decoder",
    "cross_attention_hidden_size",
    "attention_softmax_in_fp32",
    "use_flash_attn",
    "use_flash_attn_2",
    "fused_rms_norm",
    /* tokens and generation */
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "bad_words_ids",
    "begin_suppress_tokens",
    "suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "do_sample",
    "early_stopping",
    "diversity_penalty",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "tf_legacy_loss",
    "suppress",
    "min_p",
};

static int listed(const char *const *list, size_t n, const char *key)
{
    for (size_t i = 0; i < n && list[i]; i++)
        if (strcmp(list[i], key) == 0) return 1;
    return 0;
}

/* Nothing, no, none, zero; and one for factors. */
static int says_nothing(const struct value *v, const char *key)
{
    static const char *const factors[] = {"logit_scale", "residual_scale", "embedding_scale",
                                          "rope.scaling.attn_factor", "attention.causal"};
    if (v->kind == NUMBER && v->f == 1 && listed(factors, SL_ARRAY_LEN(factors), key)) return 1;
    if (v->kind == BOOLEAN && v->i == 1 && strcmp(key, "attention.causal") == 0) return 1;
    if (strcmp(key, "attention.causal") == 0) return 0;
    return v->kind == ABSENT || (v->kind == NUMBER && v->f == 0) ||
           (v->kind == BOOLEAN && v->i == 0) ||
           ((v->kind == STRING || v->kind == LIST) && v->len == 0);
}

static int leftover(struct sl_reader *r, const char *key)
{
    return sl_read_refuse(r, SL_EUNSUPPORTED,
                          "key %s: a '%s' model with this setting is a variant that is not run "
                          "here; use another model",
                          key, r->arch->name);
}

static int leftovers_hf(struct sl_reader *r)
{
    const char *key;
    json_t *j;
    json_object_foreach((json_t *)(uintptr_t)r->text, key, j)
    {
        struct value v = of_json(j);
        if (key[0] == '_' || was_seen(r, key) ||
            listed(harmless_hf, SL_ARRAY_LEN(harmless_hf), key) ||
            (r->arch->hf_ignored && listed(r->arch->hf_ignored, SIZE_MAX, key)) ||
            says_nothing(&v, key) || (json_is_object(j) && json_object_size(j) == 0))
            continue;
        return leftover(r, key);
    }
    return 0;
}

int sl_read_leftovers(struct sl_reader *r)
{
    if (r->text) return leftovers_hf(r);
    size_t n = strlen(r->arch->gguf);
    for (size_t i = 0; i < sl_weights_meta_count(r->w); i++) {
        const char *key;
        struct value v = of_meta(sl_weights_meta_nth(r->w, i, &key));
        if (strncmp(key, r->arch->gguf, n) != 0 || key[n] != '.') continue;
        const char *own = key + n + 1;
        if (was_seen(r, own) || listed(harmless_gguf, SL_ARRAY_LEN(harmless_gguf), own) ||
            says_nothing(&v, own))
            continue;
        return leftover(r, key);
    }
    return 0;
}
