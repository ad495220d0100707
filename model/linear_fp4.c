/* linear_fp4.c - E2M1 weights with a scale per 16 (NVFP4) or per 32 (MXFP4) columns.
 *
 * All makers agree on the codes (two to a byte, the even column low) and differ in names and in the
 * scale for the whole matrix: ModelOpt's weight_scale_2 multiplies, compressed-tensors'
 * weight_global_scale divides. The name says which; a value that only makes sense the other way
 * round is refused, since the error would be six orders of magnitude. OCP Microscaling Formats
 * 2023; NVFP4: NVIDIA, "Introducing NVFP4" 2025. */
#include <inttypes.h>

#include "base/sl_assert.h"
#include "model/linear_part.h"

#define NVFP4_COLS 16 /* columns of a scale */
#define MXFP4_COLS 32
#define BLOCK_BYTES 16 /* of 32 codes in gpt-oss's blocks */
/* 6 * 448 / amax(W): amax is between 2^-20 and 268800 in any real layer */
#define FACTOR_MAX 100.0f /* of weight_scale_2; usual 1e-6 .. 1e-2 */
#define DIVISOR_MIN 0.01f /* of weight_global_scale; usual 1e2 .. 1e6 */

/* The codes under whichever of the two names is there. F4 counts elements, U8 and I8 bytes. */
static int take_codes(struct sl_linear_job *j, struct sl_piece *p)
{
    int r = sl_job_take(j, ".weight_packed", 1, p);
    if (!r && !p->t) r = sl_job_take(j, ".weight", 0, p);
    if (r) return r;
    if (p->type != SL_F4 && p->type != SL_U8 && p->type != SL_I8)
        return sl_job_bad(j, p->t, SL_EUNSUPPORTED,
                          "4-bit codes of type %s are not read; U8 or F4 is usual",
                          p->t->type_name);
    if (j->cols % 2)
        return sl_job_bad(j, p->t, SL_EINPUT, "rows of %" PRId64 " columns end within a byte",
                          j->cols);
    return sl_job_shape(j, p, j->rows, p->type == SL_F4 ? j->cols : j->cols / 2);
}

/* Scales of `cols` columns each, of the type given (files may call it U8). */
static int take_scales(struct sl_linear_job *j, const char *suffix, int64_t cols,
                       enum sl_dtype type, struct sl_piece *s)
{
    int r = sl_job_take(j, suffix, 0, s);
    if (r) return r;
    if (s->type != type && s->type != SL_U8)
        return sl_job_bad(j, s->t, SL_EUNSUPPORTED,
                          "scales of type %s where %s is wanted; the scheme is none that is run "
                          "here",
                          s->t->type_name, sl_dtype_name(type));
    s->type = type;
    if (j->cols % cols)
        return sl_job_bad(j, s->t, SL_EINPUT,
                          "rows of %" PRId64 " columns do not divide into groups of %" PRId64
                          "; the file is damaged",
                          j->cols, cols);
    r = sl_job_shape(j, s, j->rows, j->cols / cols);
    return r ? r : sl_check_scales(j, s);
}

/* The scale for the matrix, one for all experts or one for each. */
static int take_factor(struct sl_linear_job *j, float *factor)
{
    struct sl_linear_job whole = *j;
    struct sl_piece p;
    int divides = sl_job_find(j, ".weight_scale_2") == NULL;
    const char *suffix = divides ? ".weight_global_scale" : ".weight_scale_2";
    const struct sl_tensor *t = sl_job_find(j, suffix);
    float v = 0;
    if (t && t->bytes <= sizeof v && t->n_dims <= 1) whole.expert = -1;
    int r = sl_job_take(&whole, suffix, 0, &p);
    if (!r) r = sl_job_scalar(j, &p, &v);
    if (r) return r;
    if (divides ? !(v >= DIVISOR_MIN) : !(v >= 0 && v <= FACTOR_MAX))
        return sl_job_bad(j, p.t, SL_EINPUT,
                          "%g cannot be: %s it; the file is damaged or mixes the conventions of "
                          "ModelOpt and compressed-tensors",
                          (double)v,
                          divides ? "compressed-tensors divides by" : "ModelOpt multiplies by");
    *factor = divides ? 1 / v : v;
    sl_job_drop(j, &p);
    return 0;
}

static void set(struct sl_linear_job *j, const void *codes, const struct sl_piece *s, int64_t cols)
{
    j->out->m = sl_job_matrix(j, SL_F4, codes);
    j->out->m.scales = s->data;
    j->out->m.scale_type = s->type;
    j->out->m.scale_cols = cols;
}

int sl_linear_nvfp4(struct sl_linear_job *j)
{
    struct sl_piece codes, scales;
    float factor = 1;
    int r = take_codes(j, &codes);
    if (!r) r = take_scales(j, ".weight_scale", NVFP4_COLS, SL_F8_E4M3, &scales);
    if (!r) r = take_factor(j, &factor);
    if (r) return r;
    set(j, codes.data, &scales, NVFP4_COLS);
    j->out->m.factor = factor;
    return 0;
}

int sl_linear_mxfp4(struct sl_linear_job *j)
{
    struct sl_piece codes, scales;
    int r = take_codes(j, &codes);
    if (!r)
        r = take_scales(j, sl_job_find(j, ".weight_scale") ? ".weight_scale" : ".scale", MXFP4_COLS,
                        SL_E8M0, &scales);
    if (!r) set(j, codes.data, &scales, MXFP4_COLS);
    return r;
}

/* [E, rows, cols/32, 16] and [E, rows, cols/32]. */
int sl_linear_blocks(struct sl_linear_job *j)
{
    struct sl_piece codes, scales;
    int r = sl_job_take(j, "_blocks", 0, &codes);
    if (r) return r;
    if (codes.type != SL_U8 || codes.n_dims != 3 || codes.ne[0] != BLOCK_BYTES ||
        codes.ne[1] * MXFP4_COLS != j->cols || codes.ne[2] != j->rows)
        return sl_job_bad(j, codes.t, SL_EINPUT,
                          "it should be U8 [%d, %" PRId64 ", %" PRId64 ", %d] and is not; "
                          "config.json and weights are of different models",
                          j->n_experts, j->rows, j->cols / MXFP4_COLS, BLOCK_BYTES);
    r = take_scales(j, "_scales", MXFP4_COLS, SL_E8M0, &scales);
    if (!r) set(j, codes.data, &scales, MXFP4_COLS);
    return r;
}
