/* lora.c - LoRA adapters of a stage: loaded beside its weights, applied unmerged to the rows of the
 * sequences that ask for them (Hu et al. 2021; several at a time as in Chen et al. 2023, Punica).
 *
 * out += B' (A x), B' with the adapter's scale in it. Rows of one micro-batch that share an adapter
 * and lie side by side go through together; kernels give a row the same bits in any company, so an
 * answer does not depend on who else is served. */
#include <stdlib.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

#define N_ROLES (SL_ROLE_LAYER_COUNT - SL_ROLE_VECTORS)

/* What an adapter adds to one product; rank 0: nothing. */
struct sl_low {
    int rank;
    struct sl_weight a, b;
    struct sl_lora_pair pair; /* while the backend has no copy of its own */
};

static struct sl_low *low_of(const struct sl_layer *y, int adapter, enum sl_role role)
{
    return &y->low[(adapter - 1) * N_ROLES + (int)role - SL_ROLE_VECTORS];
}

int sl_stage_lora_open(struct sl_stage *s, uint64_t *bytes, struct sl_err *err)
{
    *bytes = 0;
    if (s->p.n_adapters == 0) return 0;
    s->adapters = calloc((size_t)s->p.n_adapters, sizeof *s->adapters);
    s->runs = calloc(SL_BATCH_SEQS_MAX, sizeof *s->runs);
    if (!s->adapters || !s->runs) return sl_err_set(err, SL_ENOMEM, "no memory for adapters");
    for (int i = 0; i < s->p.n_adapters; i++) {
        int r = sl_lora_open(s->p.adapters[i], &s->c, &s->adapters[i], err);
        if (r) return r;
        s->low_rank = SL_MAX(s->low_rank, sl_lora_rank(s->adapters[i]));
        *bytes += sl_lora_bytes(s->adapters[i], s->p.layer_from, s->p.layer_to);
    }
    return 0;
}

static int load_pair(struct sl_stage *s, struct sl_lora *l, enum sl_role role, int layer,
                     struct sl_low *low, struct sl_err *err)
{
    int r = sl_lora_read(l, role, layer, &low->pair, err);
    if (r || low->pair.rank == 0) return r;
    r = s->ops->load(s->b, SL_USE_MATMUL, &low->pair.a, &low->a, err);
    if (r == 0) r = s->ops->load(s->b, SL_USE_MATMUL, &low->pair.b, &low->b, err);
    if (r) return r;
    low->rank = low->pair.rank;
    if (!low->a.m.data && !low->b.m.data) sl_lora_pair_close(&low->pair);
    return 0;
}

int sl_stage_lora_load(struct sl_stage *s, int layer, struct sl_layer *y, uint64_t *bytes,
                       struct sl_err *err)
{
    int r = 0;
    *bytes = 0;
    if (s->p.n_adapters == 0) return 0;
    y->low = calloc((size_t)s->p.n_adapters * N_ROLES, sizeof *y->low);
    if (!y->low) return sl_err_set(err, SL_ENOMEM, "no memory for adapters");
    for (int i = 0; i < s->p.n_adapters; i++)
        *bytes += sl_lora_bytes(s->adapters[i], layer, layer + 1);
    for (int i = 0; r == 0 && i < s->p.n_adapters; i++)
        for (int role = SL_ROLE_VECTORS; r == 0 && role < SL_ROLE_LAYER_COUNT; role++)
            r = load_pair(s, s->adapters[i], (enum sl_role)role, layer,
                          low_of(y, i + 1, (enum sl_role)role), err);
    return r;
}

void sl_stage_lora_unload(struct sl_stage *s, struct sl_layer *y)
{
    for (int i = 0; y->low && i < s->p.n_adapters * N_ROLES; i++) {
        s->ops->unload(s->b, &y->low[i].a);
        s->ops->unload(s->b, &y->low[i].b);
        sl_lora_pair_close(&y->low[i].pair);
    }
    free(y->low);
    y->low = NULL;
}

void sl_stage_lora_close(struct sl_stage *s)
{
    for (int i = 0; s->adapters && i < s->p.n_adapters; i++) sl_lora_close(s->adapters[i]);
    free(s->adapters);
    free(s->runs);
    s->adapters = NULL;
    s->runs = NULL;
}

void sl_stage_lora_begin(struct sl_stage *s, const struct sl_batch *b)
{
    s->n_runs = 0;
    for (int i = 0; s->p.n_adapters && i < b->n_seqs; i++) {
        int adapter = s->seqs[b->seqs[i].seq].adapter;
        struct sl_lora_run *last = s->n_runs ? &s->runs[s->n_runs - 1] : NULL;
        if (adapter == 0) continue;
        if (last && last->adapter == adapter && last->row + last->n == s->views[i].row)
            last->n += s->views[i].n;
        else
            s->runs[s->n_runs++] = (struct sl_lora_run){s->views[i].row, s->views[i].n, adapter};
    }
}

void sl_stage_lora_add(struct sl_stage *s, const struct sl_layer *y, enum sl_role role,
                       const void *x, float *out)
{
    for (int i = 0; i < s->n_runs; i++) {
        const struct sl_lora_run *run = &s->runs[i];
        const struct sl_low *low = low_of(y, run->adapter, role);
        if (low->rank == 0) continue;
        const struct sl_product down = {&low->a, NULL, s->low, 0};
        const struct sl_product up = {&low->b, NULL, out + (int64_t)run->row * low->b.rows,
                                      SL_MATMUL_ADD};
        size_t row_bytes = s->ops->rows_bytes(1, low->a.cols);
        s->ops->matmul(s->b, (const char *)x + (size_t)run->row * row_bytes, run->n, &down, 1);
        s->ops->to_rows(s->b, s->low, run->n, low->rank, s->low_rows);
        s->ops->matmul(s->b, s->low_rows, run->n, &up, 1);
    }
}
