/* config_rope.c - rotary positions: reading how the frequencies are scaled, from either container,
 * and making the tables.
 *
 * Su et al. 2021; YaRN: Peng et al. 2023; LongRoPE: Ding et al. 2024. Where implementations
 * differ, the numbers are those of transformers (modeling_rope_utils). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/arch.h"

#define BASE_MIN 1.001 /* its logarithm is divided by */
#define BASE_MAX 1e12
#define FACTOR_MAX 1e6
#define CTX_MAX (1 << 30) /* tokens */
#define PI 3.14159265358979323846

/* What YaRN multiplies attention by for a context stretched by `factor`. */
static double yarn_mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

/* ---- config.json ----------------------------------------------------------------------------- */

static int read_factors(struct sl_reader *r, const json_t *o, const char *key, float *out)
{
    const json_t *list = json_object_get(o, key);
    int n = r->c->rope_dims / 2;
    if (!json_is_array(list) || json_array_size(list) != (size_t)n)
        return sl_read_refuse(r, SL_EINPUT,
                              "key rope_scaling.%s should list %d numbers; download config.json "
                              "again",
                              key, n);
    for (int i = 0; i < n; i++) {
        double v = json_number_value(json_array_get(list, (size_t)i));
        if (!(v > 0 && v < FACTOR_MAX))
            return sl_read_refuse(r, SL_EINPUT,
                                  "key rope_scaling.%s: entry %d is no positive number; download "
                                  "config.json again",
                                  key, i);
        out[i] = (float)v;
    }
    return 0;
}

static int read_yarn(struct sl_reader *sub, struct sl_rope_spec *s)
{
    float mscale, given;
    int e = sl_read_float(sub, NULL, "beta_fast", 32, 0, 1e6, &s->beta_fast);
    if (!e) e = sl_read_float(sub, NULL, "beta_slow", 1, 0, 1e6, &s->beta_slow);
    if (!e) e = sl_read_bool(sub, NULL, "truncate", 1, &s->truncate);
    if (!e) e = sl_read_float(sub, NULL, "mscale", 0, 0, 100, &mscale);
    if (!e) e = sl_read_float(sub, NULL, "mscale_all_dim", 0, 0, 100, &s->mscale_all);
    if (!e) e = sl_read_float(sub, NULL, "attention_factor", 0, 0, 100, &given);
    if (e) return e;
    double f = (double)s->factor;
    double m = mscale > 0 && s->mscale_all > 0
                   ? yarn_mscale(f, (double)mscale) / yarn_mscale(f, (double)s->mscale_all)
                   : yarn_mscale(f, 1);
    s->magnitude = given > 0 ? given : (float)m;
    return 0;
}

static int read_long(struct sl_reader *sub, const json_t *o, struct sl_rope_spec *s)
{
    float given;
    int e = sl_read_float(sub, NULL, "attention_factor", 0, 0, 100, &given);
    if (!e) e = read_factors(sub, o, "short_factor", sub->c->rope_short);
    if (!e) e = read_factors(sub, o, "long_factor", sub->c->rope_long);
    if (e) return e;
    (void)sl_read_has(sub, NULL, "short_factor");
    (void)sl_read_has(sub, NULL, "long_factor");
    double f = (double)s->factor;
    s->magnitude = given > 0 ? given
                   : f <= 1  ? 1
                             : (float)sqrt(1 + log(f) / log(SL_MAX(2.0, (double)s->n_ctx_orig)));
    return 0;
}

static int read_llama3(struct sl_reader *sub, struct sl_rope_spec *s)
{
    int e = sl_read_float(sub, NULL, "low_freq_factor", SL_REQUIRED_F, 1e-6, 1e6, &s->low_freq);
    if (!e)
        e = sl_read_float(sub, NULL, "high_freq_factor", SL_REQUIRED_F, 1e-6, 1e6, &s->high_freq);
    if (!e && s->low_freq >= s->high_freq)
        e = sl_read_refuse(sub, SL_EINPUT,
                           "key high_freq_factor should be above low_freq_factor; download "
                           "config.json again");
    return e;
}

/* One object of rope_scaling or rope_parameters. Names of kinds: transformers 4 and 5. */
static int read_kind(struct sl_reader *sub, const json_t *o, const char *kind,
                     struct sl_rope_spec *s)
{
    struct sl_config *c = sub->c;
    float def = (float)c->n_ctx_train / (float)s->n_ctx_orig;
    int phi = strcmp(sub->arch->name, "phi3") == 0;
    if (!*kind || strcmp(kind, "default") == 0 || strcmp(kind, "mrope") == 0) return 0;
    if (strcmp(kind, "dynamic") == 0) { /* plain as far as the model was trained */
        c->n_ctx_limit = c->n_ctx_train;
        return sl_read_float(sub, NULL, "factor", 1, 0, FACTOR_MAX, &s->factor);
    }
    int e = sl_read_float(sub, NULL, "factor", (double)def, 1, FACTOR_MAX, &s->factor);
    if (e) return e;
    if (strcmp(kind, "linear") == 0) {
        s->scaling = SL_ROPE_LINEAR;
        return 0;
    }
    if (strcmp(kind, "llama3") == 0) {
        s->scaling = SL_ROPE_LLAMA3;
        return read_llama3(sub, s);
    }
    if (strcmp(kind, "longrope") == 0 || strcmp(kind, "su") == 0 ||
        (phi && strcmp(kind, "yarn") == 0)) {
        s->scaling = SL_ROPE_LONG;
        return read_long(sub, o, s);
    }
    if (strcmp(kind, "yarn") == 0) {
        s->scaling = SL_ROPE_YARN;
        return read_yarn(sub, s);
    }
    return sl_read_refuse(sub, SL_EUNSUPPORTED,
                          "key rope_scaling: '%.32s' scaling is not run here; default, linear, "
                          "dynamic, llama3, yarn and longrope are",
                          kind);
}

static int read_object(struct sl_reader *r, const json_t *o, float base, struct sl_rope_spec *s)
{
    struct sl_arch plain = *r->arch; /* its defaults are about the outer object */
    struct sl_reader sub = *r;
    char kind[40], old[40];
    int orig;
    plain.hf_defaults = NULL;
    plain.hf_ignored = NULL;
    sub.arch = &plain;
    sub.text = o;
    sub.n_seen = 0;
    *s = (struct sl_rope_spec){.base = base, .factor = 1, .magnitude = 1, .truncate = 1};
    int e = sl_read_int(r, NULL, "original_max_position_embeddings", r->c->n_ctx_train, 1, CTX_MAX,
                        &orig);
    s->n_ctx_orig = orig;
    if (e || !o) return e;
    e = sl_read_string(&sub, NULL, "type", old, sizeof old);
    if (!e) e = sl_read_string(&sub, NULL, "rope_type", kind, sizeof kind);
    if (!e) e = sl_read_float(&sub, NULL, "rope_theta", (double)base, BASE_MIN, BASE_MAX, &s->base);
    if (!e)
        e = sl_read_int(&sub, NULL, "original_max_position_embeddings", orig, 1, CTX_MAX,
                        &s->n_ctx_orig);
    (void)sl_read_has(&sub, NULL, "partial_rotary_factor"); /* read by the caller */
    (void)sl_read_has(&sub, NULL, "mrope_section");         /* text has equal positions in all */
    if (!e) e = read_kind(&sub, o, kind[0] ? kind : old, s);
    return e ? e : sl_read_leftovers(&sub);
}

static const json_t *object_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_object(v) ? v : NULL;
}

static int read_hf(struct sl_reader *r, int dims)
{
    struct sl_config *c = r->c;
    const json_t *o = object_of(r->text, "rope_parameters");
    float part, base, local;
    if (!o) o = object_of(r->text, "rope_scaling");
    (void)sl_read_has(r, NULL, "rope_parameters");
    (void)sl_read_has(r, NULL, "rope_scaling");
    const json_t *full = object_of(o, "full_attention"), *slid = object_of(o, "sliding_attention");
    const json_t *global = full || slid ? full : o;
    const json_t *inner = json_object_get(global, "partial_rotary_factor");
    int e = sl_read_float(r, NULL, "partial_rotary_factor", 1, 0, 1, &part);
    if (!e) e = sl_read_float(r, NULL, "rope_theta", 10000, BASE_MIN, BASE_MAX, &base);
    if (!e)
        e = sl_read_float(r, NULL, "rope_local_base_freq", (double)base, BASE_MIN, BASE_MAX,
                          &local);
    if (e) return e;
    if (json_is_number(inner)) part = (float)json_number_value(inner);
    c->rope_dims = (int)((double)dims * (double)part);
    if (c->rope_dims < 2 || c->rope_dims > dims || c->rope_dims % 2)
        return sl_read_refuse(r, SL_EINPUT,
                              "key partial_rotary_factor: %d of %d elements cannot rotate; "
                              "download config.json again",
                              c->rope_dims, dims);
    e = read_object(r, global, base, &c->ropes[0]);
    if (!e) e = read_object(r, slid, local, &c->ropes[1]);
    return e;
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static int read_gguf_yarn(struct sl_reader *r, struct sl_rope_spec *s)
{
    float times;
    int e = sl_read_float(r, "rope.scaling.yarn_beta_fast", NULL, 32, 0, 1e6, &s->beta_fast);
    if (!e) e = sl_read_float(r, "rope.scaling.yarn_beta_slow", NULL, 1, 0, 1e6, &s->beta_slow);
    if (!e) e = sl_read_float(r, "rope.scaling.yarn_attn_factor", NULL, 1, 0, 100, &times);
    if (!e) e = sl_read_only(r, "rope.scaling.yarn_ext_factor", NULL, 1, "half of YaRN");
    s->magnitude *= times * (float)yarn_mscale((double)s->factor, 1);
    return e;
}

/* A factor without a kind is linear, as in old files; Llama 3's kind is a tensor (ROPE_FREQS). */
static int read_gguf(struct sl_reader *r, int dims)
{
    struct sl_config *c = r->c;
    struct sl_rope_spec *s = &c->ropes[0];
    char kind[40];
    float log_multiplier;
    *s = (struct sl_rope_spec){.factor = 1, .magnitude = 1, .truncate = 1};
    int e = sl_read_int(r, "rope.dimension_count", NULL, dims, 1, SL_HEAD_DIM_MAX, &c->rope_dims);
    if (!e) e = sl_read_float(r, "rope.freq_base", NULL, 10000, BASE_MIN, BASE_MAX, &s->base);
    if (e) return e;
    if (c->rope_dims > dims || c->rope_dims % 2)
        return sl_read_refuse(r, SL_EINPUT,
                              "key %s.rope.dimension_count is %d, it should be even and at most "
                              "the head size %d; convert the model again",
                              r->arch->gguf, c->rope_dims, dims);
    e = sl_read_int(r, "rope.scaling.original_context_length", NULL, c->n_ctx_train, 1, CTX_MAX,
                    &s->n_ctx_orig);
    if (!e) e = sl_read_float(r, "rope.scaling.attn_factor", NULL, 1, 0, 100, &s->magnitude);
    if (!e)
        e = sl_read_float(r, "rope.scaling.yarn_log_multiplier", NULL, 0, 0, 10, &log_multiplier);
    if (!e) e = sl_read_float(r, "rope.scale_linear", NULL, 1, 0, FACTOR_MAX, &s->factor);
    if (!e)
        e = sl_read_float(r, "rope.scaling.factor", NULL, (double)s->factor, 0, FACTOR_MAX,
                          &s->factor);
    if (!e) e = sl_read_string(r, "rope.scaling.type", NULL, kind, sizeof kind);
    if (e) return e;
    s->mscale_all = 10 * log_multiplier;
    if (s->factor == 0 || strcmp(kind, "none") == 0) s->factor = 1; /* converters' way of "none" */
    if (s->factor < 1)
        return sl_read_refuse(r, SL_EINPUT,
                              "key %s.rope.scaling.factor is %g, it should be 0 or at least 1; "
                              "convert the model again",
                              r->arch->gguf, (double)s->factor);
    if (strcmp(kind, "yarn") == 0) {
        s->scaling = SL_ROPE_YARN;
        return read_gguf_yarn(r, s);
    }
    if (kind[0] && strcmp(kind, "linear") != 0 && strcmp(kind, "none") != 0 &&
        strcmp(kind, "longrope") != 0)
        return sl_read_refuse(r, SL_EUNSUPPORTED,
                              "key %s: '%.32s' scaling is not run here; linear, yarn and longrope "
                              "are",
                              r->key, kind);
    if (s->factor != 1) s->scaling = SL_ROPE_LINEAR;
    if (strcmp(kind, "longrope") == 0) s->scaling = SL_ROPE_LONG; /* checked with its tensors */
    return 0;
}

int sl_read_rope(struct sl_reader *r, int dims)
{
    struct sl_config *c = r->c;
    int e = r->text ? read_hf(r, dims) : read_gguf(r, dims);
    c->rope_base = c->ropes[0].base;
    c->rope_scale = c->ropes[0].scaling == SL_ROPE_LINEAR ? c->ropes[0].factor : 1;
    return e;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* The pair whose wavelength turns `turns` times within the original context. */
static double pair_of(const struct sl_rope_spec *s, int dims, double turns)
{
    return dims * log(s->n_ctx_orig / (turns * 2 * PI)) / (2 * log((double)s->base));
}

static void yarn(const struct sl_rope_spec *s, int dims, float *f)
{
    double low = pair_of(s, dims, (double)s->beta_fast),
           high = pair_of(s, dims, (double)s->beta_slow);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < dims - 1 ? high : dims - 1;
    if (low == high) high += 0.001;
    for (int i = 0; i < dims / 2; i++) {
        double ramp = (i - low) / (high - low), plain = pow((double)s->base, -2.0 * i / dims);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        f[i] = (float)(plain / (double)s->factor * ramp + plain * (1 - ramp));
    }
}

static double llama3(const struct sl_rope_spec *s, double f)
{
    double wave = 2 * PI / f, orig = s->n_ctx_orig, factor = (double)s->factor;
    double low = (double)s->low_freq, high = (double)s->high_freq;
    if (wave < orig / high) return f;
    if (wave > orig / low) return f / factor;
    double smooth = (orig / wave - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

/* Divisors kept in a tensor; all 1 when the model has none. */
static int tensor_factors(struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                          float *out, struct sl_err *err)
{
    const struct sl_tensor *t;
    for (int i = 0; i < c->rope_dims / 2; i++) out[i] = 1;
    int e = sl_config_tensor(w, c, role, 0, &t, err);
    if (e || !t) return e;
    if (t->type != SL_F32)
        return sl_err_set(err, SL_EUNSUPPORTED,
                          "%s: tensor %s: factors are read in F32 only; convert the model again",
                          sl_weights_path(w), t->name);
    const float *data = sl_weights_map(w, t, err);
    if (!data) return err ? err->code : SL_EIO;
    memcpy(out, data, (size_t)(c->rope_dims / 2) * sizeof *out);
    sl_weights_unmap(w, t);
    for (int i = 0; i < c->rope_dims / 2; i++)
        if (!(out[i] > 0) || !isfinite(out[i]))
            return sl_err_set(err, SL_EINPUT,
                              "%s: tensor %s: entry %d is no positive number; convert the model "
                              "again",
                              sl_weights_path(w), t->name, i);
    return 0;
}

int sl_config_rope(struct sl_weights *w, const struct sl_config *c, int which, int far,
                   float *inv_freq, float *magnitude, struct sl_err *err)
{
    const struct sl_rope_spec *s = &c->ropes[which];
    float factors[SL_ROPE_PAIRS_MAX];
    int n = c->rope_dims / 2, e = 0;
    SL_ASSERT(n <= SL_ROPE_PAIRS_MAX);
    *magnitude = s->magnitude;
    if (s->scaling == SL_ROPE_YARN) {
        yarn(s, c->rope_dims, inv_freq);
        return 0;
    }
    if (c->hf && s->scaling == SL_ROPE_LONG)
        memcpy(factors, far ? c->rope_long : c->rope_short, sizeof factors);
    else
        e = tensor_factors(w, c,
                           s->scaling != SL_ROPE_LONG ? SL_ROLE_ROPE_FREQS
                           : far                      ? SL_ROLE_ROPE_LONG
                                                      : SL_ROLE_ROPE_SHORT,
                           factors, err);
    for (int i = 0; e == 0 && i < n; i++) {
        double f = pow((double)s->base, -2.0 * i / c->rope_dims);
        if (s->scaling == SL_ROPE_LINEAR) f /= (double)s->factor;
        if (s->scaling == SL_ROPE_LLAMA3) f = llama3(s, f);
        inv_freq[i] = (float)(f / (double)factors[i]);
    }
    return e;
}
