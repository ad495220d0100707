/* linear_shape.c - rows and columns of a layer as its tensors tell them, for those who have no
 * config.json to ask (quantize, inspect). */
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/json_read.h"
#include "model/linear_part.h"

#define STATE_MAX 4096 /* bytes of bitsandbytes' JSON */

/* Two integers in a tensor (compressed-tensors' weight_shape). */
static int in_tensor(struct sl_weights *w, const struct sl_tensor *t, int64_t out[2])
{
    int wide = t->known && t->type == SL_I64;
    if (!t->known || t->bytes != (wide ? 16 : 8)) return 0;
    const void *p = sl_weights_map(w, t, NULL);
    for (int i = 0; p && i < 2; i++)
        out[i] = wide ? ((const int64_t *)p)[i] : ((const int32_t *)p)[i];
    sl_weights_unmap(w, t);
    return p != NULL;
}

/* "shape" of the JSON that bitsandbytes keeps in a tensor. */
static int in_state(struct sl_weights *w, const struct sl_tensor *t, int64_t out[2])
{
    char text[STATE_MAX];
    json_t *s = NULL;
    const void *p = t && t->bytes < sizeof text ? sl_weights_map(w, t, NULL) : NULL;
    if (!p) return 0;
    memcpy(text, p, (size_t)t->bytes);
    sl_weights_unmap(w, t);
    if (sl_json_parse(t->name, text, (size_t)t->bytes, &s, NULL) != 0) return 0;
    const json_t *shape = json_object_get(s, "shape");
    for (size_t i = 0; i < 2; i++) out[i] = json_integer_value(json_array_get(shape, i));
    json_decref(s);
    return 1;
}

/* num_bits of the first group of layers in config.json; 4 without. */
static int64_t config_bits(const struct sl_weights *w)
{
    const json_t *groups = json_object_get(sl_linear_config(w), "config_groups");
    const char *name;
    json_t *g;
    json_object_foreach((json_t *)(uintptr_t)groups, name, g)
    {
        json_int_t n =
            json_integer_value(json_object_get(json_object_get(g, "weights"), "num_bits"));
        if (n > 0 && n <= 32) return n;
    }
    return 4;
}

/* compressed-tensors' weight_packed. */
static int of_packed(struct sl_weights *w, const char *stem, const struct sl_tensor *t,
                     int64_t out[2])
{
    const struct sl_tensor *shape = sl_linear_find(w, stem, ".weight_shape");
    out[0] = t->ne[1];
    out[1] = t->type == SL_F4 ? t->ne[0] : 2 * t->ne[0];
    if (shape) return in_tensor(w, shape, out);
    if (t->type != SL_I32) return 1;
    out[1] = t->ne[0] * 32 / config_bits(w);
    return 1;
}

/* AWQ and GPTQ: the scales have a column per output, which tells which is which. */
static int of_qweight(struct sl_weights *w, const char *stem, const struct sl_tensor *t,
                      int64_t out[2])
{
    const struct sl_tensor *scales = sl_linear_find(w, stem, ".scales");
    const struct sl_tensor *index = sl_linear_find(w, stem, ".g_idx");
    int64_t bits = sl_linear_config_int(w, "bits");
    if (!scales) return 0;
    if (strcasecmp(sl_linear_config_text(w, "version"), "gemv") == 0) {
        out[0] = t->ne[1];
        out[1] = 8 * t->ne[0];
    } else if (scales->ne[0] == t->ne[0]) { /* GPTQ */
        out[0] = t->ne[0];
        out[1] = index && index->ne[0] ? index->ne[0] : t->ne[1] * 32 / (bits > 0 ? bits : 4);
    } else {
        out[0] = scales->ne[0];
        out[1] = t->ne[1];
    }
    return 1;
}

static int of_weight(struct sl_weights *w, const char *stem, const struct sl_tensor *t,
                     int64_t out[2])
{
    const struct sl_tensor *scale = sl_linear_find(w, stem, ".weight_scale");
    if (sl_linear_find(w, stem, ".weight.absmax")) {
        const struct sl_tensor *s =
            sl_linear_find(w, stem, ".weight.quant_state.bitsandbytes__nf4");
        if (!s) s = sl_linear_find(w, stem, ".weight.quant_state.bitsandbytes__fp4");
        return in_state(w, s, out);
    }
    /* two 4-bit codes to a byte, unless these are bytes: I8 with scales of floats */
    int small = scale && scale->known &&
                (scale->type == SL_F8_E4M3 || scale->type == SL_U8 || scale->type == SL_E8M0);
    int halves =
        t->type == SL_U8 || (t->type == SL_I8 && (small || sl_linear_find(w, stem, ".scale")));
    out[0] = t->ne[1];
    out[1] = halves ? 2 * t->ne[0] : t->ne[0];
    return 1;
}

int sl_linear_shape(struct sl_weights *w, const char *stem, int64_t *rows, int64_t *cols,
                    struct sl_err *err)
{
    int64_t out[2] = {0, 0};
    const struct sl_tensor *t;
    int known = 0;
    if ((t = sl_linear_find(w, stem, ".weight_packed")))
        known = of_packed(w, stem, t, out);
    else if ((t = sl_linear_find(w, stem, ".qweight")))
        known = of_qweight(w, stem, t, out);
    else if ((t = sl_linear_find(w, stem, ".weight")))
        known = of_weight(w, stem, t, out);
    if (!known || out[0] < 1 || out[1] < 1)
        return sl_err_set(err, SL_EINPUT,
                          "%s: layer %s: its tensors do not tell its shape; the model is damaged "
                          "or incomplete, download it again",
                          sl_weights_path(w), stem);
    *rows = out[0];
    *cols = out[1];
    return 0;
}
