/* weights.c - weights from the model file into device memory: through pinned buffers into the end
 * of the arena as the file has them, then packed by a kernel to where they stay. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/matmul.h"

#define ALIGN 256 /* bytes */

static size_t align_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- copying --------------------------------------------------------------------------------- */

/* Pieces of `piece` bytes, `stride` apart, to be laid one behind the other. */
struct source {
    const char *at;
    size_t piece, stride, count;
};

struct copy_job {
    struct source s;
    size_t from, to; /* bytes of the whole */
    char *out;
};

/* Bytes [from, to) of the pieces. */
static void copy_bytes(const struct source *s, size_t from, size_t to, char *out)
{
    while (from < to) {
        size_t i = from / s->piece, in = from % s->piece, n = SL_MIN(s->piece - in, to - from);
        if (s->piece == s->stride) { /* without gaps */
            i = 0;
            in = from;
            n = to - from;
        }
        memcpy(out, s->at + i * s->stride + in, n);
        out += n;
        from += n;
    }
}

static void copy_run(void *arg, int thread, int n_threads)
{
    const struct copy_job *j = arg;
    int64_t from, to;
    sl_pool_share((int64_t)(j->to - j->from), 4096, thread, n_threads, &from, &to);
    if (from < to) copy_bytes(&j->s, j->from + (size_t)from, j->from + (size_t)to, j->out + from);
}

/* All of the source to device memory. The pages of the file are read by several threads, while the
 * card fetches what the other buffer holds. */
static void send(struct sl_cuda_backend *g, const struct source *s, char *out)
{
    size_t all = s->piece * s->count;
    for (size_t at = 0, n; at < all; at += n) {
        int k = g->pinned_next;
        g->pinned_next = !k;
        n = SL_MIN(all - at, (size_t)SL_CUDA_PINNED_BYTES);
        cudaEventSynchronize(g->pinned[k].free);
        struct copy_job j = {*s, at, at + n, g->pinned[k].data};
        if (n < 65536)
            copy_run(&j, 0, 1);
        else
            sl_pool_run(g->pool, copy_run, &j);
        cudaMemcpyAsync(out + at, g->pinned[k].data, n, cudaMemcpyHostToDevice, g->c.stream);
        cudaEventRecord(g->pinned[k].free, g->c.stream);
    }
}

/* ---- one matrix ------------------------------------------------------------------------------ */

/* The parts of a matrix that travel, and where they lie in the raw copy. */
struct raw {
    struct source codes, scales, zeros;
    size_t scales_at, zeros_at, order_at, bytes;
};

/* Rows of a table of which `per` stored rows share one: as sources, a row of the table for every
 * row of the matrix unless the slice lets the blocks as they are. */
static struct source table(const struct sl_matrix *m, const void *at, size_t row, int by_block)
{
    int64_t first = m->row_first / m->scale_rows;
    if (by_block) {
        size_t n = (size_t)((m->rows + m->scale_rows - 1) / m->scale_rows);
        return (struct source){(const char *)at + (size_t)first * row, row, row, n};
    }
    return (struct source){(const char *)at + (size_t)first * row, row, row * (size_t)m->row_step,
                           (size_t)m->rows};
}

/* Are the rows of scales shared by whole blocks of rows, from the first on? */
static int in_blocks(const struct sl_matrix *m)
{
    return m->scale_rows > 1 && m->row_step == 1 && m->row_first % m->scale_rows == 0;
}

static struct raw describe(const struct sl_matrix *m)
{
    struct raw r = {0};
    size_t row = (size_t)sl_dtype_row_bytes(m->type, (uint64_t)m->cols);
    size_t per_row = (size_t)sl_matrix_scales_per_row(m);
    r.codes =
        (struct source){sl_matrix_row_data(m, 0), row, row * (size_t)m->row_step, (size_t)m->rows};
    r.scales_at = align_up(row * (size_t)m->rows);
    r.zeros_at = r.order_at = r.scales_at;
    if (m->scales) {
        size_t one = (size_t)sl_dtype_row_bytes(m->scale_type, 1);
        r.scales = table(m, m->scales, per_row * one, in_blocks(m));
        r.zeros_at = r.order_at = align_up(r.scales_at + r.scales.piece * r.scales.count);
    }
    if (m->zeros) {
        r.zeros = table(m, m->zeros, per_row, in_blocks(m));
        r.order_at = align_up(r.zeros_at + r.zeros.piece * r.zeros.count);
    }
    r.bytes = r.order_at + (m->order ? align_up((size_t)m->cols * sizeof *m->order) : 0);
    return r;
}

/* A table of one row per block of rows where a row of the slice does not begin a block: the rows
 * are repeated one by one. */
static void send_table(struct sl_cuda_backend *g, const struct sl_matrix *m, const void *at,
                       const struct source *s, char *out)
{
    if (in_blocks(m) || m->scale_rows == 1) {
        send(g, s, out);
        return;
    }
    for (int64_t i = 0; i < m->rows; i++) {
        int64_t entry = sl_matrix_stored_row(m, i) / m->scale_rows;
        struct source one = {(const char *)at + (size_t)entry * s->piece, s->piece, s->piece, 1};
        send(g, &one, out + (size_t)i * s->piece);
    }
}

static struct sl_matrix send_raw(struct sl_cuda_backend *g, const struct sl_matrix *m,
                                 const struct raw *r, char *at)
{
    struct sl_matrix d = *m;
    send(g, &r->codes, at);
    d.data = at;
    d.row_first = 0;
    d.row_step = 1;
    if (m->scales) send_table(g, m, m->scales, &r->scales, at + r->scales_at);
    if (m->zeros) send_table(g, m, m->zeros, &r->zeros, at + r->zeros_at);
    if (m->scales) d.scales = at + r->scales_at;
    if (m->zeros) d.zeros = (const uint8_t *)at + r->zeros_at;
    if (!in_blocks(m)) d.scale_rows = 1;
    if (m->order) {
        size_t n = (size_t)m->cols * sizeof *m->order;
        struct source order = {(const char *)m->order, n, n, 1};
        send(g, &order, at + r->order_at);
        d.order = (const int32_t *)(const void *)(at + r->order_at);
    }
    return d;
}

int sl_cuda_load(struct sl_backend *b, enum sl_use use, const struct sl_matrix *m,
                 struct sl_weight *w, struct sl_err *err)
{
    struct sl_cuda_backend *g = b->cuda;
    struct sl_cuda_arena *a = &g->arena;
    struct sl_matrix normal = *m;
    (void)use;
    /* a table of one row for all: any row will do */
    if (m->scales && m->scale_rows >= m->row_first + m->rows * m->row_step)
        normal.scale_rows = INT32_MAX;
    struct raw r = describe(&normal);
    uint64_t bytes = sl_cuda_weight_bytes(&normal);
    if (!bytes)
        return sl_err_set(err, SL_EUNSUPPORTED, "no CUDA kernel for a matrix of %s, %lld x %lld",
                          sl_dtype_name(m->type), (long long)m->rows, (long long)m->cols);
    struct sl_cuda_weight *packed = calloc(1, sizeof *packed);
    if (!packed) return sl_err_set(err, SL_ENOMEM, "no memory for a weight");
    char *memory = sl_cuda_alloc(b, bytes, err);
    if (!memory || align_up(r.bytes) > a->bytes - a->used) {
        char want[32];
        if (memory)
            sl_err_set(err, SL_ELIMIT,
                       "card %d has no room for %s of weights on their way; give the device fewer "
                       "layers or more memory",
                       g->c.device, sl_format_bytes(r.bytes, want));
        sl_cuda_free(b, memory);
        free(packed);
        return err ? err->code : SL_ELIMIT;
    }
    size_t back = a->bytes / ALIGN * ALIGN - align_up(r.bytes);
    struct sl_matrix raw = send_raw(g, &normal, &r, a->base + back);
    sl_cuda_weight_pack(&g->c, &raw, memory, packed);
    *w = (struct sl_weight){.rows = m->rows, .cols = m->cols, .packed = packed};
    w->packed_bytes = bytes;
    int rc = sl_cuda_check("loading a weight", err);
    if (rc) sl_cuda_unload(b, w);
    return rc;
}

void sl_cuda_unload(struct sl_backend *b, struct sl_weight *w)
{
    if (w->packed) {
        sl_cuda_free(b, b->cuda->arena.base); /* the arena only counts */
        if (w->group) sl_cuda_free(b, w->group);
        free(w->packed);
    }
    *w = (struct sl_weight){0};
}

/* Kernels for many weights look at the first to know them all. */
static int one_form(const struct sl_cuda_weight *a, const struct sl_cuda_weight *b)
{
    return a->code_kind == b->code_kind && a->scale_kind == b->scale_kind &&
           a->min_kind == b->min_kind && a->group == b->group && a->offset == b->offset &&
           a->rows == b->rows && a->cols == b->cols && a->grid_rows == b->grid_rows &&
           !a->order == !b->order;
}

int sl_cuda_group(struct sl_backend *b, struct sl_weight *w, int n, struct sl_err *err)
{
    struct sl_cuda_weight *all = malloc((size_t)n * sizeof *all);
    if (!all) return sl_err_set(err, SL_ENOMEM, "no memory for %d weights", n);
    const struct sl_cuda_weight *first = w[0].packed;
    for (int i = 0; i < n; i++) {
        all[i] = *(const struct sl_cuda_weight *)w[i].packed;
        if (!one_form(&all[i], first)) {
            free(all);
            return sl_err_set(err, SL_EUNSUPPORTED,
                              "experts of one layer in different formats do not run on a GPU; "
                              "run this model on CPUs");
        }
    }
    w[0].group = sl_cuda_alloc(b, (size_t)n * sizeof *all, err);
    if (w[0].group) sl_cuda_upload(b, w[0].group, all, (size_t)n * sizeof *all);
    free(all);
    return w[0].group ? 0 : err ? err->code : SL_ENOMEM;
}
