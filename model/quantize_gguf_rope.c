/* quantize_gguf_rope.c - rotary positions of a GGUF file as config.json says them.
 *
 * Llama 3's scaling is a formula in config.json and a table of divisors in GGUF
 * (rope_freqs.weight). The formula's numbers are found again from the table: the largest divisor is
 * the factor, and between the unscaled and the scaled pairs the inverse divisor is linear in the
 * frequency, which gives both bounds. Whatever was found is tried: the frequencies must come out
 * equal, else the file is refused. */
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/quantize_gguf.h"

#define PI 3.14159265358979323846
#define CLOSE 2e-6          /* relative: divisors are float32 */
#define LLAMA3_CONTEXT 8192 /* tokens; only its ratio to the bounds matters */

static int no_memory(struct sl_err *err)
{
    return sl_err_set(err, SL_ENOMEM, "quantize: out of memory");
}

static int refuse(const struct sl_weights *w, const char *what, struct sl_err *err)
{
    return sl_err_set(err, SL_EUNSUPPORTED,
                      "%s: %s cannot be said in config.json; use the folder that the file was made "
                      "from",
                      sl_weights_path(w), what);
}

/* Divisors of a role as they are in the file; *n 0 when it has none. */
static int read_divisors(struct sl_weights *w, const struct sl_config *c, enum sl_role role,
                         float *out, int *n, struct sl_err *err)
{
    const struct sl_tensor *t;
    *n = 0;
    int e = sl_config_tensor(w, c, role, 0, &t, err);
    if (e || !t) return e;
    if (t->type != SL_F32) return refuse(w, "a table of divisors that is not F32", err);
    const float *data = sl_weights_map(w, t, err);
    if (!data) return err && err->code ? err->code : SL_EIO;
    *n = c->rope_dims / 2;
    memcpy(out, data, (size_t)*n * sizeof *out);
    sl_weights_unmap(w, t);
    for (int i = 0; i < *n; i++)
        if (!(out[i] > 0 && isfinite(out[i]))) return refuse(w, "a divisor that is none", err);
    return 0;
}

/* ---- Llama 3 --------------------------------------------------------------------------------- */

struct llama3 {
    double factor, low, high;
    int context;
};

static double frequency(const struct sl_config *c, int i)
{
    return pow((double)c->ropes[0].base, -2.0 * i / c->rope_dims);
}

/* The divisor that transformers applies to frequency f. */
static double divisor(const struct llama3 *s, double f)
{
    double turns = s->context * f / (2 * PI); /* within the original context */
    if (turns > s->high) return 1;
    if (turns < s->low) return s->factor;
    double smooth = (turns - s->low) / (s->high - s->low);
    return 1 / ((1 - smooth) / s->factor + smooth);
}

static int fits(const struct sl_config *c, const struct llama3 *s, const float *want)
{
    if (!(s->low > 0 && s->high > s->low && s->factor >= 1)) return 0;
    for (int i = 0; i < c->rope_dims / 2; i++)
        if (!(fabs(divisor(s, frequency(c, i)) / (double)want[i] - 1) <= CLOSE)) return 0;
    return 1;
}

static double snap(double v)
{
    double near = round(v * 100) / 100;
    return fabs(v - near) < 1e-3 ? near : v;
}

/* The bounds by the first and last pair between them. */
static int by_line(const struct sl_config *c, const float *want, struct llama3 *s)
{
    int first = -1, last = -1;
    double turns[2], smooth[2];
    for (int i = 0; i < c->rope_dims / 2; i++) {
        if (!((double)want[i] > 1 + CLOSE && (double)want[i] < s->factor * (1 - CLOSE))) continue;
        if (first < 0) first = i;
        last = i;
    }
    if (first < 0 || first == last) return 0;
    for (int k = 0; k < 2; k++) {
        int i = k ? last : first;
        turns[k] = s->context * frequency(c, i) / (2 * PI);
        smooth[k] = (1 / (double)want[i] - 1 / s->factor) / (1 - 1 / s->factor);
    }
    double width = (turns[0] - turns[1]) / (smooth[0] - smooth[1]); /* high - low */
    s->low = snap(turns[1] - smooth[1] * width);
    s->high = snap(s->low + width);
    if (!fits(c, s, want)) return 0;
    /* as configurations are written: the lower bound at one turn */
    struct llama3 usual = {s->factor, 1, snap(s->high / s->low), (int)lround(s->context / s->low)};
    if (fits(c, &usual, want)) *s = usual;
    return 1;
}

static int find_llama3(const struct sl_config *c, const float *want, struct llama3 *s)
{
    static const double usual[] = {0, 8, 32, 16, 4, 2, 64}; /* 0: the largest */
    double largest = 0;
    for (int i = 0; i < c->rope_dims / 2; i++) largest = fmax(largest, (double)want[i]);
    for (size_t i = 0; i < SL_ARRAY_LEN(usual); i++) {
        *s = (struct llama3){i ? usual[i] : snap(largest), 1, 4, LLAMA3_CONTEXT};
        if (fits(c, s, want)) return 1;
        s->context = c->ropes[0].n_ctx_orig;
        if (fits(c, s, want)) return 1;
        s->context = LLAMA3_CONTEXT;
        if (by_line(c, want, s)) return 1;
    }
    return 0;
}

/* ---- kinds ----------------------------------------------------------------------------------- */

static int set_divisors(struct sl_weights *w, const struct sl_config *c, const float *d, int n,
                        json_t **out, struct sl_err *err)
{
    struct llama3 s;
    int equal = 1;
    for (int i = 1; i < n; i++) equal &= d[i] == d[0];
    if (n == 0 || (equal && d[0] == 1)) return 0;
    if (c->ropes[0].scaling != SL_ROPE_PLAIN)
        return refuse(w, "divisors of frequencies that are scaled too", err);
    if (equal) {
        *out = json_pack("{s:s, s:s, s:f}", "type", "linear", "rope_type", "linear", "factor",
                         (double)d[0]);
        return *out ? 0 : no_memory(err);
    }
    if (!find_llama3(c, d, &s))
        return refuse(w, "tensor rope_freqs.weight, which is not Llama 3's scaling,", err);
    *out = json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", s.factor,
                     "low_freq_factor", s.low, "high_freq_factor", s.high,
                     "original_max_position_embeddings", s.context);
    return *out ? 0 : no_memory(err);
}

static int set_yarn(const struct sl_config *c, json_t **out, struct sl_err *err)
{
    const struct sl_rope_spec *s = &c->ropes[0];
    *out = json_pack("{s:s, s:s, s:f, s:i, s:f, s:f, s:f}", "type", "yarn", "rope_type", "yarn",
                     "factor", (double)s->factor, "original_max_position_embeddings", s->n_ctx_orig,
                     "beta_fast", (double)s->beta_fast, "beta_slow", (double)s->beta_slow,
                     "attention_factor", (double)s->magnitude);
    return *out ? 0 : no_memory(err);
}

/* transformers computes the magnitude from the two contexts. */
static int set_long(struct sl_weights *w, struct sl_out_model *m, json_t **out, struct sl_err *err)
{
    static const enum sl_role roles[2] = {SL_ROLE_ROPE_SHORT, SL_ROLE_ROPE_LONG};
    static const char *const keys[2] = {"short_factor", "long_factor"};
    const struct sl_rope_spec *s = &m->c.ropes[0];
    double f = (double)m->c.n_ctx_train / s->n_ctx_orig;
    double magnitude = f <= 1 ? 1 : sqrt(1 + log(f) / log(s->n_ctx_orig));
    float d[SL_ROPE_PAIRS_MAX];
    int n, e = 0;
    if (fabs((double)s->magnitude - magnitude) > 1e-5)
        return refuse(w, "LongRoPE with a scale of attention of its own", err);
    *out = json_pack("{s:s}", "type", "longrope");
    for (int k = 0; k < 2 && !e && *out; k++) {
        json_t *list = json_array();
        e = read_divisors(w, &m->c, roles[k], d, &n, err);
        for (int i = 0; i < n && !e; i++) json_array_append_new(list, sl_out_real(d[i]));
        if (json_object_set_new(*out, keys[k], list)) return no_memory(err);
    }
    if (!*out || json_object_set_new(m->files[SL_OUT_CONFIG], "original_max_position_embeddings",
                                     json_integer(s->n_ctx_orig)))
        return no_memory(err);
    return e;
}

int sl_out_model_rope(struct sl_weights *w, struct sl_out_model *m, struct sl_err *err)
{
    const struct sl_rope_spec *s = &m->c.ropes[0];
    json_t *config = m->files[SL_OUT_CONFIG], *scaling = NULL;
    float d[SL_ROPE_PAIRS_MAX];
    int n, e = read_divisors(w, &m->c, SL_ROLE_ROPE_FREQS, d, &n, err);
    if (!e && s->scaling != SL_ROPE_LONG && s->scaling != SL_ROPE_YARN && s->magnitude != 1)
        e = refuse(w, "a scale of attention without YaRN", err);
    if (!e) e = set_divisors(w, &m->c, d, n, &scaling, err);
    if (!e && s->scaling == SL_ROPE_YARN) e = set_yarn(&m->c, &scaling, err);
    if (!e && s->scaling == SL_ROPE_LONG) e = set_long(w, m, &scaling, err);
    if (!e && s->scaling == SL_ROPE_LINEAR) {
        scaling = json_pack("{s:s, s:s, s:f}", "type", "linear", "rope_type", "linear", "factor",
                            (double)s->factor);
        if (!scaling) e = no_memory(err);
    }
    int bad = json_object_set_new(config, "rope_theta", sl_out_real(s->base));
    if (strcmp(m->to->name, "gemma3") == 0)
        bad |= json_object_set_new(config, "rope_local_base_freq", sl_out_real(m->c.ropes[1].base));
    bad |= json_object_set_new(config, "rope_scaling", scaling ? scaling : json_null());
    return e ? e : bad ? no_memory(err) : 0;
}
