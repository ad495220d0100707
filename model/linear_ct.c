/* linear_ct.c - integers of compressed-tensors: "pack-quantized" (2, 4 and 8 bits in 32-bit words)
 * and "int-quantized" (I8).
 *
 * Words are little-endian with the first column in the low bits, so 4 and 8 bits are used where
 * they are mapped. Codes have 2^(bits-1) added; the zero point, if there is one, too, so that the
 * two cancel. With an index of groups (act-order) columns are sorted by their group. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

/* ---- zero points ----------------------------------------------------------------------------- */

/* All of a symmetric layer: 2^(bits-1). */
static int same_zeros(struct sl_linear_job *j, int64_t groups, int bits, uint8_t **out)
{
    *out = sl_job_alloc(j, (uint64_t)(j->rows * groups));
    if (!*out) return SL_ENOMEM;
    memset(*out, 1 << (bits - 1), (size_t)(j->rows * groups));
    return 0;
}

/* Words that run along the rows: [ceil(rows / per word), groups]. Older files: I8 [rows, groups].
 */
static int read_zeros(struct sl_linear_job *j, struct sl_piece *p, int64_t groups, int bits,
                      uint8_t **out)
{
    int per_word = 32 / bits;
    int r = p->type == SL_I32 ? sl_job_shape(j, p, (j->rows + per_word - 1) / per_word, groups)
                              : sl_job_shape(j, p, j->rows, groups);
    if (!r && p->type != SL_I32 && p->type != SL_I8)
        r = sl_job_bad(j, p->t, SL_EUNSUPPORTED, "zero points of type %s are not read",
                       p->t->type_name);
    if (!r) r = same_zeros(j, groups, bits, out);
    if (r) return r;
    const uint32_t *words = (const uint32_t *)p->data;
    for (int64_t n = 0; n < j->rows; n++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t i = n * groups + g;
            int half = 1 << (bits - 1), z;
            if (p->type == SL_I32)
                z = (int)(words[n / per_word * groups + g] >> (n % per_word * bits) &
                          ((1u << bits) - 1));
            else
                z = half + (int8_t)p->data[i];
            if (z < 0 || z >= 2 * half)
                return sl_job_bad(j, p->t, SL_EINPUT,
                                  "zero point %" PRId64 " does not fit %d bits; the file is "
                                  "damaged, download it again",
                                  i, bits);
            (*out)[i] = (uint8_t)z;
        }
    sl_job_drop(j, p);
    return 0;
}

/* ---- pack-quantized -------------------------------------------------------------------------- */

/* group_size of the first group of layers that has one. */
static int64_t config_group(const struct sl_weights *w)
{
    const json_t *groups = json_object_get(sl_linear_config(w), "config_groups");
    const char *name;
    json_t *g;
    json_object_foreach((json_t *)groups, name, g)
    {
        const json_t *v = json_object_get(json_object_get(g, "weights"), "group_size");
        if (json_is_integer(v)) return json_integer_value(v);
    }
    return json_integer_value(json_object_get(sl_linear_config(w), "group_size"));
}

int sl_job_group(const struct sl_linear_job *j, const struct sl_tensor *t, int64_t groups,
                 int64_t *size)
{
    int64_t g = config_group(j->w);
    if (groups > 0 && j->cols % groups == 0) {
        *size = j->cols / groups;
        return 0;
    }
    if (g > 0 && (j->cols + g - 1) / g == groups) {
        *size = g;
        return 0;
    }
    return sl_job_bad(j, t, SL_EINPUT,
                      "%" PRId64 " groups of scales do not fit %" PRId64
                      " columns; config.json and weights are of different models",
                      groups, j->cols);
}

int sl_job_group_scales(struct sl_linear_job *j, struct sl_piece *s, int64_t *groups, int64_t *size)
{
    int r = sl_job_take(j, ".scales", 0, s);
    if (r) return r;
    *groups = s->n_dims < 2 ? 1 : s->ne[1];
    r = sl_job_shape(j, s, *groups, j->rows);
    if (!r) r = sl_check_scales(j, s);
    return r ? r : sl_job_group(j, s->t, *groups, size);
}

static int find_bits(const struct sl_linear_job *j, const struct sl_piece *p, int *bits)
{
    static const int known[] = {4, 8, 2};
    for (size_t i = 0; i < SL_ARRAY_LEN(known); i++)
        if (p->ne[0] == sl_words_of(known[i], j->cols)) {
            *bits = known[i];
            return sl_job_shape(j, p, j->rows, p->ne[0]);
        }
    return sl_job_bad(j, p->t, SL_EUNSUPPORTED,
                      "rows of %" PRId64 " words for %" PRId64
                      " columns: neither 2, 4 nor 8 bits; other widths are not run here",
                      p->ne[0], j->cols);
}

/* weight_shape, which repeats what config.json says. */
static int check_shape_tensor(struct sl_linear_job *j)
{
    struct sl_piece p;
    int64_t n = 0, k = 0;
    int r = sl_job_take(j, ".weight_shape", 1, &p);
    if (r || !p.t) return r;
    if (p.count == 2 && p.type == SL_I64) {
        n = ((const int64_t *)p.data)[0];
        k = ((const int64_t *)p.data)[1];
    } else if (p.count == 2 && p.type == SL_I32) {
        n = ((const int32_t *)p.data)[0];
        k = ((const int32_t *)p.data)[1];
    }
    if (n != j->rows || k != j->cols)
        return sl_job_bad(j, p.t, SL_EINPUT,
                          "it says [%" PRId64 ", %" PRId64 "] where [%" PRId64 ", %" PRId64
                          "] is wanted; config.json and weights are of different models",
                          n, k, j->rows, j->cols);
    sl_job_drop(j, &p);
    return 0;
}

int sl_job_unpack(struct sl_linear_job *j, const uint32_t *words, int bits, const int32_t *order,
                  uint8_t **out)
{
    int wide = bits > 4;
    int64_t per_row = sl_words_of(bits, j->cols), bytes = wide ? j->cols : j->cols / 2;
    uint8_t *codes = malloc(2 * (size_t)j->cols), *turned = codes ? codes + j->cols : NULL;
    *out = codes ? sl_job_alloc(j, (uint64_t)(j->rows * bytes)) : NULL;
    if (!*out) {
        free(codes);
        return sl_err_set(j->err, SL_ENOMEM, "%s: layer %s: out of memory", sl_weights_path(j->w),
                          j->stem);
    }
    for (int64_t n = 0; n < j->rows; n++) {
        sl_unpack_words(words + n * per_row, bits, j->cols, codes);
        const uint8_t *from = codes;
        if (order) {
            for (int64_t k = 0; k < j->cols; k++) turned[k] = codes[order[k]];
            from = turned;
        }
        if (wide)
            memcpy(*out + n * bytes, from, (size_t)bytes);
        else
            sl_pack_nibbles(from, j->cols, *out + n * bytes);
    }
    free(codes);
    return 0;
}

int sl_job_order(struct sl_linear_job *j, const char *suffix, int64_t groups, int64_t size,
                 int32_t **order)
{
    struct sl_piece p;
    int sorted = 1, r = sl_job_take(j, suffix, 1, &p);
    *order = NULL;
    if (r || !p.t) return r;
    if (p.count == 0 || groups <= 1) { /* written empty, or nothing to sort */
        sl_job_drop(j, &p);
        return 0;
    }
    if (p.type != SL_I32)
        return sl_job_bad(j, p.t, SL_EINPUT, "an index of groups of type %s, I32 is wanted",
                          p.t->type_name);
    r = sl_job_shape(j, &p, 1, j->cols);
    int32_t *made = r ? NULL : sl_job_alloc(j, (uint64_t)j->cols * sizeof *made);
    if (!made) return r ? r : SL_ENOMEM;
    r = sl_order_by_group(j, p.t, (const int32_t *)p.data, groups, size, made, &sorted);
    if (!r && !sorted) *order = made;
    if (!r) sl_job_drop(j, &p);
    return r;
}

/* Codes as they lie in the file, or, when columns move or do not fill bytes, unpacked anew. */
static int use_codes(struct sl_linear_job *j, struct sl_piece *p, int bits, const int32_t *order)
{
    int as_is = !order && (bits == 4 || bits == 8) && j->cols * bits % 32 == 0;
    uint8_t *made = NULL;
    int r = 0;
    if (j->cols % 2)
        return sl_job_bad(j, p->t, SL_EUNSUPPORTED,
                          "rows of %" PRId64 " columns; an even number is wanted", j->cols);
    if (!as_is) {
        r = sl_job_unpack(j, (const uint32_t *)p->data, bits, order, &made);
        sl_job_drop(j, p);
    }
    if (r) return r;
    j->out->m = sl_job_matrix(j, bits > 4 ? SL_U8 : SL_U4, as_is ? p->data : made);
    j->out->m.order = order;
    return 0;
}

int sl_linear_packed(struct sl_linear_job *j)
{
    struct sl_piece p, s, z;
    int64_t groups, size = j->cols;
    int32_t *order = NULL;
    uint8_t *zeros;
    int bits = 4, r = sl_job_take(j, ".weight_packed", 0, &p);
    if (!r) r = find_bits(j, &p, &bits);
    if (!r) r = check_shape_tensor(j);
    if (!r) r = sl_job_take(j, ".weight_scale", 0, &s);
    if (!r) r = sl_check_scales(j, &s);
    if (r) return r;
    int single = s.count == 1 && j->rows > 1; /* one scale for the matrix */
    groups = single ? 1 : s.n_dims < 2 ? s.count / j->rows : s.ne[0];
    if (!single) r = sl_job_shape(j, &s, j->rows, groups);
    if (!r) r = sl_job_group(j, s.t, groups, &size);
    if (!r) r = sl_job_order(j, ".weight_g_idx", groups, size, &order);
    if (!r) r = sl_job_take(j, ".weight_zero_point", 1, &z);
    if (!r) r = z.t ? read_zeros(j, &z, groups, bits, &zeros) : same_zeros(j, groups, bits, &zeros);
    if (!r) r = use_codes(j, &p, bits, order);
    if (r) return r;
    j->out->m.zeros = zeros;
    j->out->m.scale_cols = size;
    if (single) return sl_job_scalar(j, &s, &j->out->m.factor);
    j->out->m.scales = s.data;
    j->out->m.scale_type = s.type;
    return 0;
}

/* ---- int-quantized --------------------------------------------------------------------------- */

/* Codes and zero points with 128 added: the matrix has unsigned ones only. */
static int shift(struct sl_linear_job *j, struct sl_piece *w, struct sl_piece *z)
{
    struct sl_matrix *m = &j->out->m;
    int64_t n = (j->rows + m->scale_rows - 1) / m->scale_rows * sl_matrix_scales_per_row(m);
    if (z->type != SL_I8 || (z->count != n && z->count != 1))
        return sl_job_bad(j, z->t, SL_EINPUT,
                          "%" PRId64 " zero points of %s where %" PRId64 " of I8 are wanted",
                          z->count, z->t->type_name, n);
    uint8_t *codes = sl_job_alloc(j, w->bytes), *zeros = sl_job_alloc(j, (uint64_t)n);
    if (!codes || !zeros) return SL_ENOMEM;
    for (uint64_t i = 0; i < w->bytes; i++) codes[i] = w->data[i] ^ 0x80;
    for (int64_t i = 0; i < n; i++) zeros[i] = z->data[z->count == 1 ? 0 : i] ^ 0x80;
    sl_job_drop(j, w);
    sl_job_drop(j, z);
    m->type = SL_U8;
    m->data = codes;
    m->zeros = zeros;
    return 0;
}

int sl_linear_int8(struct sl_linear_job *j)
{
    struct sl_piece w, s, z;
    struct sl_scales scales;
    int r = sl_job_take(j, ".weight", 0, &w);
    if (!r) r = sl_job_shape(j, &w, j->rows, j->cols);
    if (!r) r = sl_job_take(j, ".weight_scale", 0, &s);
    if (!r) r = sl_job_scales(j, &s, &scales);
    if (!r) r = sl_job_take(j, ".weight_zero_point", 1, &z);
    if (r) return r;
    j->out->m = sl_job_matrix(j, SL_I8, w.data);
    sl_job_use_scales(&j->out->m, &scales);
    for (uint64_t i = 0; z.t && i < z.bytes; i++)
        if (z.data[i]) return shift(j, &w, &z);
    sl_job_drop(j, &z);
    return 0;
}
