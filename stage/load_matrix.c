/* load_matrix.c - one matrix from the model file into a backend: whole, a slice of a fused one,
 * rows gathered from all over it, or turned.
 *
 * The tensors stay mapped only as long as slices of them come one after another; when the backend
 * made its own copy they are unmapped, so loading needs little more memory than its result. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

/* Room for one more of `size` bytes in a list. */
static void *more(void *list, int n, int *cap, size_t size)
{
    if (n < *cap) return list;
    int want = *cap ? 2 * *cap : 64;
    void *grown = realloc(list, (size_t)want * size);
    if (grown) *cap = want;
    return grown;
}

static int keep_linear(struct sl_stage *s, const struct sl_linear *l, struct sl_err *err)
{
    struct sl_stage_kept *k = &s->kept;
    struct sl_linear *list = more(k->linears, k->n_linears, &k->cap_linears, sizeof *list);
    if (!list) return sl_err_set(err, SL_ENOMEM, "no memory for the list of weights");
    k->linears = list;
    list[k->n_linears++] = *l;
    return 0;
}

static int keep_made(struct sl_stage *s, void *p, struct sl_err *err)
{
    struct sl_stage_kept *k = &s->kept;
    void **list = more(k->made, k->n_made, &k->cap_made, sizeof *list);
    if (!list) return sl_err_set(err, SL_ENOMEM, "no memory for the list of weights");
    k->made = list;
    list[k->n_made++] = p;
    return 0;
}

void sl_stage_let_go(struct sl_stage *s)
{
    struct sl_stage_kept *k = &s->kept;
    for (int i = 0; i < k->n_linears; i++) sl_linear_close(s->weights, &k->linears[i]);
    for (int i = 0; i < k->n_made; i++) free(k->made[i]);
    free(k->linears);
    free(k->made);
    *k = (struct sl_stage_kept){0};
}

int sl_matrix_flush(struct sl_matrix_loader *l, struct sl_err *err)
{
    int r = 0;
    if (!l->name[0]) return 0;
    if (l->keep) r = keep_linear(l->s, &l->open, err);
    if (!l->keep || r) sl_linear_close(l->s->weights, &l->open);
    l->name[0] = 0;
    return r;
}

/* Makes what lies at `p` the open linear. */
static int open_place(struct sl_matrix_loader *l, const struct sl_place *p, uint64_t *bytes,
                      struct sl_err *err)
{
    *bytes = 0;
    if (strcmp(l->name, p->name) == 0 && l->expert == p->expert) return 0;
    int r = sl_matrix_flush(l, err);
    if (r == 0)
        r = sl_linear_open(l->s->weights, p->name, p->expert, p->n_experts, p->stored_rows, p->cols,
                           &l->open, err);
    if (r) return r;
    memcpy(l->name, p->name, sizeof l->name);
    l->expert = p->expert;
    l->keep = 0;
    *bytes = l->open.bytes;
    return 0;
}

/* ---- copies ---------------------------------------------------------------------------------- */

static size_t scale_bytes(const struct sl_matrix *m)
{
    return (size_t)sl_dtype_row_bytes(m->scale_type, 1);
}

/* The rows of `p` one after another, with the scales and zero points of each. One allocation. */
static void *gather(const struct sl_matrix *m, const struct sl_place *p, struct sl_matrix *out)
{
    size_t row = (size_t)sl_dtype_row_bytes(m->type, (uint64_t)m->cols), n = (size_t)p->rows;
    size_t per_row = m->scales || m->zeros ? (size_t)sl_matrix_scales_per_row(m) : 0;
    size_t one = m->scales ? scale_bytes(m) : 0;
    size_t data = (n * row + 63) / 64 * 64, scales = (n * per_row * one + 63) / 64 * 64;
    char *copy = aligned_alloc(64, data + scales + (n * per_row + 63) / 64 * 64 + 64);
    if (!copy) return NULL;
    char *to_scales = copy + data, *to_zeros = to_scales + scales;
    for (size_t i = 0; i < n; i++) {
        int64_t at = sl_place_row(p, (int64_t)i), stored = sl_matrix_stored_row(m, at);
        size_t entry = (size_t)(stored / m->scale_rows) * per_row;
        memcpy(copy + i * row, sl_matrix_row_data(m, at), row);
        if (m->scales)
            memcpy(to_scales + i * per_row * one, (const char *)m->scales + entry * one,
                   per_row * one);
        if (m->zeros) memcpy(to_zeros + i * per_row, m->zeros + entry, per_row);
    }
    *out = *m;
    out->rows = p->rows;
    out->row_first = 0;
    out->row_step = out->scale_rows = 1;
    out->data = copy;
    if (m->scales) out->scales = to_scales;
    if (m->zeros) out->zeros = (const uint8_t *)to_zeros;
    return copy;
}

/* The transpose of the rows of `p`: BF16 as it is, all else as float32. */
static void *transpose(const struct sl_matrix *m, const struct sl_place *p, struct sl_matrix *out)
{
    int exact = m->type == SL_BF16 && m->factor == 1;
    size_t one = exact ? sizeof(uint16_t) : sizeof(float);
    size_t rows = (size_t)p->rows, cols = (size_t)m->cols;
    char *copy = aligned_alloc(64, (rows * cols * one + 63) / 64 * 64);
    float *line = malloc(cols * sizeof *line);
    if (!copy || !line) {
        free(copy);
        free(line);
        return NULL;
    }
    for (size_t i = 0; i < rows; i++) {
        sl_matrix_row(m, sl_place_row(p, (int64_t)i), line);
        for (size_t k = 0; k < cols; k++) {
            uint16_t bf = sl_float_to_bf16(line[k]);
            memcpy(copy + (k * rows + i) * one, exact ? (void *)&bf : (void *)&line[k], one);
        }
    }
    free(line);
    *out = sl_matrix_plain(exact ? SL_BF16 : SL_F32, m->cols, p->rows, copy);
    return copy;
}

/* A view of the rows, when they are evenly spaced. */
static struct sl_matrix view(const struct sl_matrix *m, const struct sl_place *p)
{
    struct sl_matrix v = *m;
    v.row_first = sl_matrix_stored_row(m, p->first);
    v.row_step = m->row_step * p->step;
    v.rows = p->rows;
    return v;
}

int sl_matrix_load(struct sl_matrix_loader *l, enum sl_role role, int layer, int slot,
                   enum sl_use use, struct sl_weight *w, uint64_t *bytes, struct sl_err *err)
{
    struct sl_stage *s = l->s;
    struct sl_place p;
    struct sl_matrix m;
    void *made = NULL;
    *bytes = 0;
    int r = sl_config_place(s->weights, &s->c, role, layer, slot, &p, err);
    if (r || !p.name[0]) return r;
    r = open_place(l, &p, bytes, err);
    if (r) return r;
    if (p.turned)
        made = transpose(&l->open.m, &p, &m);
    else if (p.block < p.rows)
        made = gather(&l->open.m, &p, &m);
    else
        m = view(&l->open.m, &p);
    if ((p.turned || p.block < p.rows) && !made)
        return sl_err_set(err, SL_ENOMEM, "no memory for a copy of %s", p.name);
    r = s->ops->load(s->b, use, &m, w, err);
    int kept = r == 0 && w->m.data != NULL;
    if (kept && (!made || m.codebook || m.order)) l->keep = 1;
    if (kept && made) {
        r = keep_made(s, made, err);
        if (r) s->ops->unload(s->b, w);
    }
    if (made && (!kept || r)) free(made);
    return r;
}
