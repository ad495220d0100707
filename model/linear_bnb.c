/* linear_bnb.c - bitsandbytes: NF4 and FP4 codes into a codebook of 16, and LLM.int8.
 *
 * 4-bit codes are one flat run over the whole matrix, the even one in the high nibble, unlike
 * everybody else's; nibbles are swapped. A scale belongs to 64 codes of that run, so where rows are
 * no multiple of 64 the table is made finer. Scales may be quantized themselves (8-bit codes into a
 * codebook of 256, a scale per 256, an offset). A small JSON in a U8 tensor says the sizes.
 * (Dettmers et al. 2022, 2023.) */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "base/sl_assert.h"
#include "model/json_read.h"
#include "model/linear_part.h"

#define STATE_MAX 4096 /* bytes of the JSON; it has about 170 */
#define BLOCK_MAX 4096 /* codes of one scale that bitsandbytes writes, at most */
#define NESTED_BLOCK 256

struct state {
    int64_t block, nested_block;
    double offset;
};

static int read_state(struct sl_linear_job *j, struct state *out)
{
    struct sl_piece p;
    char text[STATE_MAX];
    json_t *s = NULL;
    int r = sl_job_take(j, ".weight.quant_state.bitsandbytes__nf4", 1, &p);
    if (!r && !p.t) r = sl_job_take(j, ".weight.quant_state.bitsandbytes__fp4", 0, &p);
    if (r) return r;
    if (p.bytes >= sizeof text)
        return sl_job_bad(j, p.t, SL_EINPUT, "%" PRIu64 " bytes are too many for its JSON",
                          p.bytes);
    memcpy(text, p.data, (size_t)p.bytes);
    r = sl_json_parse(p.t->name, text, (size_t)p.bytes, &s, j->err);
    if (r) return r;
    const json_t *shape = json_object_get(s, "shape"),
                 *nested = json_object_get(s, "nested_blocksize");
    int64_t n = json_integer_value(json_array_get(shape, 0));
    int64_t k = json_integer_value(json_array_get(shape, 1));
    out->block = json_integer_value(json_object_get(s, "blocksize"));
    out->nested_block = nested ? json_integer_value(nested) : NESTED_BLOCK;
    out->offset = json_number_value(json_object_get(s, "nested_offset"));
    json_decref(s);
    if (n != j->rows || k != j->cols)
        return sl_job_bad(j, p.t, SL_EINPUT,
                          "it says [%" PRId64 ", %" PRId64 "] where [%" PRId64 ", %" PRId64
                          "] is wanted; config.json and weights are of different models",
                          n, k, j->rows, j->cols);
    if (out->block < 2 || out->block > BLOCK_MAX || (out->block & (out->block - 1)) ||
        out->nested_block < 1 || !isfinite(out->offset))
        return sl_job_bad(j, p.t, SL_EINPUT,
                          "its sizes of blocks cannot be; the file is damaged, download it again");
    sl_job_drop(j, &p);
    return 0;
}

/* A tensor of n finite F32. */
static int take_floats(struct sl_linear_job *j, const char *suffix, int64_t n, struct sl_piece *p)
{
    int r = sl_job_take(j, suffix, 0, p);
    if (!r && (p->type != SL_F32 || p->count != n))
        r = sl_job_bad(j, p->t, SL_EINPUT,
                       "%" PRId64 " of %s where %" PRId64 " of F32 are wanted; the file is damaged",
                       p->count, p->t->type_name, n);
    return r ? r : sl_check_scales(j, p);
}

/* Scale i of the run, whichever way it is stored. */
struct absmax {
    struct sl_piece a, map, nested;
    struct state state;
};

static float absmax_at(const struct absmax *a, int64_t i)
{
    if (a->a.type == SL_F32) return ((const float *)a->a.data)[i];
    const float *map = (const float *)a->map.data, *nested = (const float *)a->nested.data;
    return map[a->a.data[i]] * nested[i / a->state.nested_block] + (float)a->state.offset;
}

static int take_absmax(struct sl_linear_job *j, struct absmax *a)
{
    int64_t n = (j->rows * j->cols + a->state.block - 1) / a->state.block;
    int r = sl_job_take(j, ".weight.absmax", 0, &a->a);
    if (r) return r;
    if (a->a.count != n || (a->a.type != SL_F32 && a->a.type != SL_U8))
        return sl_job_bad(j, a->a.t, SL_EINPUT,
                          "%" PRId64 " scales of %s where %" PRId64
                          " of F32 or U8 are wanted; the file is damaged",
                          a->a.count, a->a.t->type_name, n);
    if (a->a.type == SL_F32) return sl_check_scales(j, &a->a);
    int64_t nested = (n + a->state.nested_block - 1) / a->state.nested_block;
    r = take_floats(j, ".weight.nested_quant_map", 256, &a->map);
    return r ? r : take_floats(j, ".weight.nested_absmax", nested, &a->nested);
}

/* The table [rows, cols / step], step a power of two that divides rows and blocks alike. */
static int make_scales(struct sl_linear_job *j, int64_t *step, const float **out)
{
    struct absmax a = {.a = {.t = NULL}};
    int r = read_state(j, &a.state);
    if (!r) r = take_absmax(j, &a);
    if (r) return r;
    int64_t s = a.state.block;
    while (j->cols % s) s /= 2;
    *step = s;
    int64_t n = j->rows * (j->cols / s);
    if (a.a.type == SL_F32 && s == a.state.block) {
        *out = (const float *)a.a.data;
        return 0;
    }
    float *made = sl_job_alloc(j, (uint64_t)n * sizeof *made);
    if (!made) return SL_ENOMEM;
    for (int64_t i = 0; i < n; i++) made[i] = absmax_at(&a, i * s / a.state.block);
    *out = made;
    sl_job_drop(j, &a.a);
    sl_job_drop(j, &a.map);
    sl_job_drop(j, &a.nested);
    return 0;
}

static void swap_nibbles(const uint8_t *in, uint8_t *out, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) out[i] = (uint8_t)(in[i] << 4 | in[i] >> 4);
}

int sl_linear_bnb4(struct sl_linear_job *j)
{
    struct sl_piece q, map;
    int64_t step = 1;
    const float *scales = NULL;
    int r = sl_job_take(j, ".weight", 0, &q);
    if (r) return r;
    if (j->cols % 2 || (int64_t)q.bytes != j->rows * (j->cols / 2)) /* its dtype is mere storage */
        return sl_job_bad(j, q.t, SL_EINPUT,
                          "%" PRIu64 " bytes for %" PRId64 " x %" PRId64
                          " codes of 4 bits; config.json and weights are of different models",
                          q.bytes, j->rows, j->cols);
    r = take_floats(j, ".weight.quant_map", 16, &map);
    if (!r) r = make_scales(j, &step, &scales);
    uint8_t *codes = r ? NULL : sl_job_alloc(j, q.bytes);
    if (!codes) return r ? r : SL_ENOMEM;
    swap_nibbles(q.data, codes, q.bytes);
    sl_job_drop(j, &q);
    j->out->m = sl_job_matrix(j, SL_CB4, codes);
    j->out->m.codebook = (const float *)map.data;
    j->out->m.scales = scales;
    j->out->m.scale_type = SL_F32;
    j->out->m.scale_cols = step;
    return 0;
}

int sl_linear_bnb8(struct sl_linear_job *j)
{
    struct sl_piece q, s, f;
    int r = sl_job_take(j, ".weight", 0, &q);
    if (!r) r = sl_job_shape(j, &q, j->rows, j->cols);
    if (!r) r = take_floats(j, ".SCB", j->rows, &s);
    if (!r) r = sl_job_take(j, ".weight_format", 1, &f);
    if (r) return r;
    if (f.t && f.count == 1 && f.type == SL_U8 && f.data[0] != 0)
        return sl_job_bad(j, f.t, SL_EUNSUPPORTED,
                          "LLM.int8 weights in the layout %u of old GPUs are not read; save the "
                          "model again with a current bitsandbytes",
                          f.data[0]);
    sl_job_drop(j, &f);
    j->out->m = sl_job_matrix(j, SL_I8, q.data);
    j->out->m.scales = s.data;
    j->out->m.scale_type = SL_F32;
    j->out->m.factor = 1.0f / 127;
    return 0;
}
