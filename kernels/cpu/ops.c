/* ops.c - the CPU backend's table of operations and the list of its vector rows. */
#include "kernels/cpu/ops.h"

#include "base/cpu.h"
#include "kernels/backend.h"

const struct sl_op_row *const *sl_op_rows(int *n)
{
    static const struct sl_op_row *const rows[] = {
        &sl_op_row_portable,
#ifdef SL_KERNELS_X86
        &sl_op_row_avx2,
        &sl_op_row_avx512,
#endif
    };
    *n = (int)(sizeof(rows) / sizeof(rows[0]));
    return rows;
}

void sl_cpu_run(struct sl_backend *b, int64_t work, sl_pool_fn fn, void *arg)
{
    if (work <= SL_INLINE_WORK_MAX)
        fn(arg, 0, 1);
    else
        sl_pool_run(b->pool, fn, arg);
}

void sl_cpu_multiply(struct sl_backend *b, const float *x, int n, const struct sl_mm_item *items,
                     int n_items)
{
    sl_mm_run_items(b->matmul->kernels, b->pool, &b->matmul_scratch, x, n, items, n_items);
}

static int cpu_load(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                    struct sl_weight *w, struct sl_err *err)
{
    if (use == SL_USE_MATMUL) return b->matmul->load(m, w, err);
    *w = (struct sl_weight){.rows = m->rows, .cols = m->cols, .m = *m};
    return 0;
}

static void cpu_unload(struct sl_backend *b, struct sl_weight *w)
{
    if (w->packed) b->matmul->unload(w);
    *w = (struct sl_weight){0};
}

static void cpu_matmul(struct sl_backend *b, const void *x, int n, const struct sl_product *p,
                       int n_products)
{
    sl_mm_run(b->matmul->kernels, b->pool, &b->matmul_scratch, x, n, p, n_products);
}

static void cpu_norm_rows(struct sl_backend *b, const float *x, const float *gain, float eps, int n,
                          int dim, void *out)
{
    sl_cpu_rmsnorm(b, x, gain, eps, n, dim, out);
}

const struct sl_backend_ops sl_cpu_ops = {
    .name = "cpu",
    .load = cpu_load,
    .unload = cpu_unload,
    .embed = sl_cpu_embed,
    .rmsnorm = sl_cpu_rmsnorm,
    .matmul = cpu_matmul,
    .rope = sl_cpu_rope,
    .kv_write = sl_cpu_kv_write,
    .attention = sl_cpu_attention,
    .latent_write = sl_cpu_latent_write,
    .latent_attention = sl_cpu_latent_attention,
    .head_matmul = sl_cpu_head_matmul,
    .glu = sl_cpu_glu,
    .moe = sl_moe_run,
    .norm_rows = cpu_norm_rows,
    .to_rows = sl_floats_to_rows,
    .rows_bytes = sl_floats_rows_bytes,
    .mix = sl_floats_mix,
    .weigh_rows = sl_floats_weigh_rows,
    .pick = sl_floats_pick,
    .soften = sl_floats_soften,
};
