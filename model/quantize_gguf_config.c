/* quantize_gguf_config.c - a GGUF file's hyperparameters as config.json (and what is beside
 * tokenizer.json): which class of
 * transformers computes the same, and that class's keys.
 *
 * The class must compute exactly what the file says, so what a family's keys cannot tell (a scale,
 * a cap, a window in a class without one) is refused by name and never dropped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/quantize_gguf.h"
#include "model/tok.h"

#define TEMPLATE_KEY "tokenizer.chat_template"
#define KEY(name) "tokenizer.ggml." name
#define SAME 1e-5 /* relative difference of scales that float32 metadata may bring */

struct family {
    const char *arch, *type, *class; /* arch: ours, whose HF names are used */
};

static const struct family families[] = {
    {"llama", "llama", "LlamaForCausalLM"},
    {"mistral", "mistral", "MistralForCausalLM"},
    {"mixtral", "mixtral", "MixtralForCausalLM"},
    {"qwen2", "qwen2", "Qwen2ForCausalLM"},
    {"qwen2_moe", "qwen2_moe", "Qwen2MoeForCausalLM"},
    {"qwen3", "qwen3", "Qwen3ForCausalLM"},
    {"qwen3_moe", "qwen3_moe", "Qwen3MoeForCausalLM"},
    {"phi3", "phi3", "Phi3ForCausalLM"},
    {"gemma2", "gemma2", "Gemma2ForCausalLM"},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM"},
    {"granite", "granite", "GraniteForCausalLM"},
};

static int refuse(const struct sl_weights *w, const struct sl_out_model *m, const char *what,
                  struct sl_err *err)
{
    return sl_err_set(
        err, SL_EUNSUPPORTED,
        "%s: a '%s' model with %s cannot be written as a Hugging Face folder; use the "
        "folder that it was made from",
        sl_weights_path(w), m->c.arch, what);
}

static int is(const struct sl_out_model *m, const char *arch)
{
    return strcmp(m->to->name, arch) == 0;
}

/* ---- the class ------------------------------------------------------------------------------- */

/* GGUF's "llama" is whatever has Llama's tensors; a text of Qwen2-VL turns as Qwen2 does, and
 * InternLM2's matrices are Llama's once they are apart. */
static const char *target_of(const struct sl_config *c)
{
    if (strcmp(c->arch, "llama") == 0)
        return c->n_experts ? "mixtral" : c->window ? "mistral" : "llama";
    if (strcmp(c->arch, "internlm2") == 0) return "llama";
    if (strcmp(c->arch, "qwen2_vl") == 0) return "qwen2";
    return c->arch;
}

static int choose(const struct sl_weights *w, struct sl_out_model *m, struct sl_err *err)
{
    const char *name = target_of(&m->c);
    char known[160] = "";
    size_t n = 0;
    m->from = sl_arch_find(m->c.arch);
    for (size_t i = 0; i < SL_ARRAY_LEN(families); i++) {
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", families[i].arch);
        if (strcmp(families[i].arch, name) != 0) continue;
        m->to = sl_arch_find(name);
        m->type = families[i].type;
        m->class = families[i].class;
        SL_ASSERT(m->to);
        return 0;
    }
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "%s: a GGUF file of the family '%s' cannot be written as a folder; %s can",
                      sl_weights_path(w), m->c.arch, known);
}

static int same(float a, double b)
{
    return fabs((double)a - b) <= SAME * fabs(b);
}

/* What the class fixes. */
static int check(const struct sl_weights *w, const struct sl_out_model *m, struct sl_err *err)
{
    const struct sl_config *c = &m->c;
    int gemma = is(m, "gemma2") || is(m, "gemma3"), granite = is(m, "granite");
    int windows = !is(m, "llama") && !granite;
    int biased = is(m, "llama") || gemma || granite || is(m, "qwen3") || is(m, "qwen3_moe");
    double embed = gemma ? sqrt(c->n_embd) : 1;
    if (!granite && !same(c->embed_scale, embed)) return refuse(w, m, "scaled embeddings", err);
    if (!granite && (c->residual_scale != 1 || c->logit_scale != 1 || c->expert_scale != 1))
        return refuse(w, m, "scaled residuals, logits or experts", err);
    if (!granite && !gemma && !same(c->attn_scale, 1 / sqrt(c->head_dim)))
        return refuse(w, m, "a scale of attention of its own", err);
    if (!gemma && (c->attn_softcap != 0 || c->logit_softcap != 0))
        return refuse(w, m, "capped logits", err);
    if (!windows && c->window) return refuse(w, m, "a sliding window", err);
    if (biased ? c->qkv_bias != c->o_bias : c->o_bias)
        return refuse(w, m, "biases in a part of attention", err);
    if (!biased && !is(m, "qwen2_moe") && c->qkv_bias != is(m, "qwen2"))
        return refuse(w, m, "or without biases in attention", err);
    if (c->mlp_bias && !is(m, "llama") && !granite) return refuse(w, m, "feed-forward biases", err);
    if (c->act != (gemma ? SL_FFN_GELU_TANH : SL_FFN_SILU))
        return refuse(w, m, "another activation", err);
    if (c->rope_dims != c->head_dim && !is(m, "phi3"))
        return refuse(w, m, "heads that rotate in part", err);
    if (c->n_experts && is(m, "mixtral") && !c->expert_normalize)
        return refuse(w, m, "experts that are not normalised", err);
    return 0;
}

json_t *sl_out_real(float v)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    return json_real(strtod(text, NULL));
}

/* ---- config.json ----------------------------------------------------------------------------- */

static int put(json_t *o, const char *key, json_t *v)
{
    return json_object_set_new(o, key, v);
}

static int put_shared(const struct sl_out_model *m, json_t *o)
{
    const struct sl_config *c = &m->c;
    int ff = is(m, "mixtral") ? c->n_ff_expert : c->n_ff, bad = 0;
    bad |= put(o, "architectures", json_pack("[s]", m->class));
    bad |= put(o, "model_type", json_string(m->type));
    bad |= put(o, "torch_dtype", json_string("bfloat16"));
    bad |= put(o, "num_hidden_layers", json_integer(c->n_layers));
    bad |= put(o, "hidden_size", json_integer(c->n_embd));
    bad |= put(o, "intermediate_size", json_integer(ff));
    bad |= put(o, "num_attention_heads", json_integer(c->n_heads));
    bad |= put(o, "num_key_value_heads", json_integer(c->n_kv_heads));
    if (!is(m, "phi3") && !is(m, "qwen2") && !is(m, "qwen2_moe"))
        bad |= put(o, "head_dim", json_integer(c->head_dim));
    bad |= put(o, "max_position_embeddings", json_integer(c->n_ctx_train));
    bad |= put(o, "vocab_size", json_integer(c->n_vocab));
    bad |= put(o, "rms_norm_eps", sl_out_real(c->rms_eps));
    bad |= put(o, "tie_word_embeddings", json_boolean(c->tied));
    bad |= put(o, "attention_dropout", json_real(0));
    return bad;
}

static int put_layer_types(const struct sl_config *c, json_t *o)
{
    json_t *list = json_array();
    int bad = 0;
    for (int i = 0; i < c->n_layers; i++)
        bad |= json_array_append_new(list, json_string(c->layer_flags[i] & SL_LAYER_WINDOW
                                                           ? "sliding_attention"
                                                           : "full_attention"));
    return put(o, "layer_types", list) | bad;
}

static json_t *number_or_null(int n)
{
    return n ? json_integer(n) : json_null();
}

static json_t *cap_or_null(float cap)
{
    return cap != 0 ? sl_out_real(cap) : json_null();
}

static int put_gemma(const struct sl_out_model *m, json_t *o)
{
    const struct sl_config *c = &m->c;
    double scalar = 1 / ((double)c->attn_scale * (double)c->attn_scale), whole = round(scalar);
    json_t *s =
        fabs(scalar - whole) < SAME * scalar ? json_integer((json_int_t)whole) : json_real(scalar);
    int bad = put(o, "query_pre_attn_scalar", s);
    bad |= put(o, "hidden_activation", json_string("gelu_pytorch_tanh"));
    bad |= put(o, "attn_logit_softcapping", cap_or_null(c->attn_softcap));
    bad |= put(o, "final_logit_softcapping", cap_or_null(c->logit_softcap));
    bad |= put(o, "attention_bias", json_boolean(c->qkv_bias));
    bad |= put(o, "sliding_window", json_integer(c->window ? c->window : c->n_ctx_train));
    return bad | put_layer_types(c, o);
}

static int put_qwen(const struct sl_out_model *m, json_t *o)
{
    const struct sl_config *c = &m->c;
    int bad = put(o, "use_sliding_window", json_boolean(c->window));
    bad |= put(o, "sliding_window", number_or_null(c->window));
    if (c->window) bad |= put_layer_types(c, o);
    if (c->qk_norm) bad |= put(o, "attention_bias", json_boolean(c->qkv_bias));
    if (is(m, "qwen2_moe")) bad |= put(o, "qkv_bias", json_boolean(c->qkv_bias));
    return bad;
}

/* Layers without experts are listed. */
static int put_experts(const struct sl_out_model *m, json_t *o)
{
    const struct sl_config *c = &m->c;
    int bad = put(o, "num_experts_per_tok", json_integer(c->n_experts_used));
    if (is(m, "mixtral")) return bad | put(o, "num_local_experts", json_integer(c->n_experts));
    json_t *dense = json_array();
    for (int i = 0; i < c->n_layers; i++)
        if (!(c->layer_flags[i] & SL_LAYER_MOE))
            bad |= json_array_append_new(dense, json_integer(i));
    bad |= put(o, "mlp_only_layers", dense);
    bad |= put(o, "decoder_sparse_step", json_integer(1));
    bad |= put(o, "num_experts", json_integer(c->n_experts));
    bad |= put(o, "moe_intermediate_size", json_integer(c->n_ff_expert));
    bad |= put(o, "norm_topk_prob", json_boolean(c->expert_normalize));
    if (c->n_ff_shared)
        bad |= put(o, "shared_expert_intermediate_size", json_integer(c->n_ff_shared));
    return bad;
}

static int put_granite(const struct sl_config *c, json_t *o)
{
    int bad = put(o, "embedding_multiplier", sl_out_real(c->embed_scale));
    bad |= put(o, "residual_multiplier", sl_out_real(c->residual_scale));
    bad |= put(o, "attention_multiplier", sl_out_real(c->attn_scale));
    return bad | put(o, "logits_scaling", sl_out_real(1 / c->logit_scale));
}

static int put_family(const struct sl_out_model *m, json_t *o)
{
    const struct sl_config *c = &m->c;
    int gemma = is(m, "gemma2") || is(m, "gemma3"), bad = 0;
    int biases = is(m, "llama") || is(m, "granite");
    if (gemma) return put_gemma(m, o);
    bad |= put(o, "hidden_act", json_string("silu"));
    if (biases) bad |= put(o, "attention_bias", json_boolean(c->qkv_bias));
    if (biases) bad |= put(o, "mlp_bias", json_boolean(c->mlp_bias));
    if (is(m, "mistral") || is(m, "mixtral") || is(m, "phi3"))
        bad |= put(o, "sliding_window", number_or_null(c->window));
    if (strncmp(m->to->name, "qwen", 4) == 0) bad |= put_qwen(m, o);
    if (c->n_experts) bad |= put_experts(m, o);
    if (is(m, "granite")) bad |= put_granite(c, o);
    if (is(m, "phi3") && c->rope_dims != c->head_dim)
        bad |= put(o, "partial_rotary_factor", json_real((double)c->rope_dims / c->head_dim));
    return bad;
}

/* ---- ends of texts --------------------------------------------------------------------------- */

static int put_ends(const struct sl_weights *w, const struct sl_out_model *m, json_t *config,
                    json_t *generation, struct sl_err *err)
{
    static const char *const keys[] = {KEY("eos_token_id"), KEY("eot_token_id"),
                                       KEY("eom_token_id")};
    json_t *ends = json_array();
    int64_t id, max = m->c.n_vocab - 1;
    int bad = 0, e = 0;
    for (size_t i = 0; i < SL_ARRAY_LEN(keys) && !e; i++) {
        int seen = 0;
        e = sl_weights_int(w, keys[i], -1, 0, max, &id, err);
        for (size_t k = 0; k < json_array_size(ends); k++)
            seen |= json_integer_value(json_array_get(ends, k)) == id;
        if (!e && id >= 0 && !seen) bad |= json_array_append_new(ends, json_integer(id));
    }
    size_t n = json_array_size(ends);
    for (int i = 0; i < 2 && n && !e; i++)
        bad |= json_object_set(i ? generation : config, "eos_token_id",
                               n == 1 ? json_array_get(ends, 0) : ends);
    if (!n) bad |= put(config, "eos_token_id", json_null()); /* else the class's own */
    json_decref(ends);
    for (int i = 0; i < 2 && !e; i++) {
        e = sl_weights_int(w, i ? KEY("padding_token_id") : KEY("bos_token_id"), -1, 0, max, &id,
                           err);
        const char *key = i ? "pad_token_id" : "bos_token_id";
        if (e) break;
        bad |= put(config, key, id >= 0 ? json_integer(id) : json_null());
        if (id >= 0) bad |= put(generation, key, json_integer(id));
    }
    if (!e && bad) e = sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
    return e;
}

/* ---- tokenizer_config.json ------------------------------------------------------------------- */

/* One text, or a list of {name, template} when the file names others beside it. */
static int put_templates(const struct sl_weights *w, json_t *config)
{
    const struct sl_meta *plain = sl_weights_meta(w, TEMPLATE_KEY);
    json_t *list = json_array();
    int bad = 0;
    if (plain && plain->type == SL_META_STRING)
        bad |= json_array_append_new(list, json_pack("{s:s, s:o}", "name", "default", "template",
                                                     json_stringn(plain->s, plain->len)));
    for (size_t i = 0; i < sl_weights_meta_count(w); i++) {
        const char *key;
        const struct sl_meta *m = sl_weights_meta_nth(w, i, &key);
        size_t n = strlen(TEMPLATE_KEY ".");
        if (strncmp(key, TEMPLATE_KEY ".", n) != 0 || m->type != SL_META_STRING) continue;
        bad |= json_array_append_new(
            list, json_pack("{s:s, s:o}", "name", key + n, "template", json_stringn(m->s, m->len)));
    }
    json_t *one = json_object_get(json_array_get(list, 0), "template");
    if (json_array_size(list) > 0)
        bad |= json_object_set(config, "chat_template",
                               plain && json_array_size(list) == 1 ? one : list);
    json_decref(list);
    return bad;
}

int sl_out_tokenizer_config(const struct sl_weights *w, const struct sl_tokenizer *t, int unk,
                            struct sl_out_model *m, struct sl_err *err)
{
    json_t *config = m->files[SL_OUT_TOKENIZER_CONFIG];
    int64_t pad = -1;
    int e = sl_weights_int(w, KEY("padding_token_id"), -1, 0, t->vocab.n - 1, &pad, err);
    const struct {
        const char *key;
        int32_t id;
    } named[] = {{"bos_token", t->bos},
                 {"eos_token", t->eos},
                 {"unk_token", unk ? t->bpe.unk : -1},
                 {"pad_token", (int32_t)pad}};
    if (e) return e;
    int bad = put(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    for (size_t i = 0; i < SL_ARRAY_LEN(named); i++) {
        size_t n;
        const char *s = named[i].id >= 0 ? sl_tok_vocab_text(&t->vocab, named[i].id, &n) : NULL;
        bad |= put(config, named[i].key, s ? json_stringn(s, n) : json_null());
    }
    bad |= put(config, "add_bos_token", json_boolean(t->n_before));
    bad |= put(config, "add_eos_token", json_boolean(t->n_after));
    bad |= put(config, "clean_up_tokenization_spaces", json_false());
    bad |= put(config, "model_max_length", json_integer(m->c.n_ctx_train));
    if (bad) return sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
    return put_templates(w, config)
               ? sl_err_set(err, SL_EINPUT,
                            "%s: a chat template is no UTF-8; convert the model again",
                            sl_weights_path(w))
               : 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

int sl_out_model_read(struct sl_weights *w, struct sl_out_model *m, struct sl_err *err)
{
    int e = sl_config_read(w, &m->c, err);
    if (!e) e = choose(w, m, err);
    if (!e) e = check(w, m, err);
    if (e) return e;
    json_t *config = m->files[SL_OUT_CONFIG] = json_object();
    json_t *generation = m->files[SL_OUT_GENERATION] = json_object();
    if (!config || !generation || put_shared(m, config) || put_family(m, config))
        return sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
    e = put_ends(w, m, config, generation, err);
    if (!e) e = sl_out_model_rope(w, m, err);
    return e ? e : sl_out_model_tokenizer(w, m, err);
}

void sl_out_model_close(struct sl_out_model *m)
{
    for (int i = 0; i < SL_OUT_FILES; i++) json_decref(m->files[i]);
    *m = (struct sl_out_model){0};
}

int sl_out_gguf_files(const struct sl_out_plan *p, enum sl_quantize_to to, const char *dir,
                      struct sl_err *err)
{
    static const char *const names[SL_OUT_FILES] = {
        [SL_OUT_GENERATION] = "generation_config.json",
        [SL_OUT_TOKENIZER] = "tokenizer.json",
        [SL_OUT_TOKENIZER_CONFIG] = "tokenizer_config.json",
    };
    int e = sl_out_write_config(p->model->files[SL_OUT_CONFIG], p, to, dir, err);
    for (int i = 0; i < SL_OUT_FILES && !e; i++)
        if (names[i] && p->model->files[i]) e = sl_out_dump(p->model->files[i], dir, names[i], err);
    return e;
}
