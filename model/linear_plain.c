/* linear_plain.c - layers whose bytes are used as they are: floats, GGUF blocks, and gpt-oss's
 * experts in BF16.
 *
 * GGUF keeps the scale for the whole matrix, where a format has one (NVFP4), in a tensor of its own
 * beside the weight: "blk.0.attn_q.scale", one value, or one for each expert. */
#include "base/sl_assert.h"
#include "model/linear_part.h"

/* blk.N.x.scale of a GGUF file. */
static int gguf_scale(struct sl_linear_job *j, float *factor)
{
    struct sl_piece s;
    struct sl_linear_job whole = *j;
    const struct sl_tensor *t = sl_job_find(j, ".scale");
    if (!t || t->ggml_type == SL_GGML_NONE) return 0;
    if (t->n_dims == 1 && t->ne[0] == 1) whole.expert = -1; /* one for all experts */
    int r = sl_job_take(&whole, ".scale", 0, &s);
    if (!r) r = sl_job_scalar(j, &s, factor);
    sl_job_drop(j, &s);
    return r;
}

int sl_linear_plain(struct sl_linear_job *j)
{
    struct sl_piece p;
    float factor = 1;
    int r = sl_job_take(j, ".weight", 0, &p);
    if (!r) r = sl_job_shape(j, &p, j->rows, j->cols);
    if (!r && sl_dtype_kind(p.type) == SL_KIND_BLOCK) r = sl_check_blocks(j, &p);
    if (!r) r = gguf_scale(j, &factor);
    if (r) return r;
    j->out->m = sl_job_matrix(j, p.type, p.data);
    j->out->m.factor = factor;
    return 0;
}

/* [E, in, out] as gpt-oss has it: turned, since rows are outputs here. The same tensor as
 * [E, out, in] is used as it is; when both fit, the names mean the former. */
int sl_linear_fused(struct sl_linear_job *j)
{
    struct sl_piece p;
    int r = sl_job_take(j, "", 0, &p);
    if (r) return r;
    if (sl_dtype_kind(p.type) != SL_KIND_FLOAT)
        return sl_job_bad(j, p.t, SL_EUNSUPPORTED,
                          "experts of type %s in one tensor are not run here; use the model in "
                          "BF16 or MXFP4",
                          p.t->type_name);
    if (p.ne[0] == j->cols && p.ne[1] == j->rows && j->rows != j->cols) {
        j->out->m = sl_job_matrix(j, p.type, p.data);
        return 0;
    }
    r = sl_job_shape(j, &p, j->cols, j->rows);
    if (r) return r;
    void *turned = sl_job_alloc(j, p.bytes);
    if (!turned) return SL_ENOMEM;
    sl_transpose(p.data, turned, j->cols, j->rows, sl_dtype_block_bytes(p.type));
    sl_job_drop(j, &p);
    j->out->m = sl_job_matrix(j, p.type, turned);
    return 0;
}
