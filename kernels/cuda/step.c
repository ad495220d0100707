/* step.c - a step on the device: its descriptor sent in one copy, its operations recorded as a
 * graph and replayed (CUDA programming guide, graphs).
 *
 * A decode step of n rows is filled up to the next of a few sizes, so that few graphs serve all of
 * them; the added rows have position -1 and touch nothing. A size is run once as it is (libraries
 * load and choose their kernels then), recorded the second time, and replayed from then on. */
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "kernels/cuda/backend.h"

#define LEN_MIN 512          /* shortest sequence length that recorded steps distinguish */
#define NEW_BLOCKS_MAX 65536 /* entries of block tables in one step: SL_BATCH_BLOCKS_MAX */

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t draw_words(void)
{
    return sizeof(struct sl_draw) / sizeof(int32_t);
}

/* The descriptor of the largest step, 4-byte words. */
static size_t blob_words(const struct sl_backend_limits *l)
{
    size_t rows = (size_t)l->max_rows, tables = (size_t)l->max_seqs * (size_t)l->max_blocks;
    return SL_CUDA_BLOB_HEAD + rows * (6 + 4 + draw_words()) +
           SL_MIN(tables, (size_t)NEW_BLOCKS_MAX) * 3 + SL_ADJUSTS_MAX * 3;
}

/* The fixed arrays, in the order of `own`: where their address goes, bytes. */
struct array {
    void *to;
    size_t bytes;
};

static int arrays(struct sl_cuda_step *s, const struct sl_backend_limits *l, struct array *a)
{
    size_t rows = (size_t)l->max_rows;
    const struct array all[] = {
        {&s->pos, rows * 4},
        {&s->slot, rows * 4},
        {&s->ids, rows * 4},
        {&s->lone, rows * 4},
        {&s->picks, rows * 4},
        {&s->next, rows * 4},
        {&s->tiles, rows * sizeof(struct sl_cuda_tile)},
        {&s->draw, rows * sizeof(struct sl_draw)},
        {&s->adjust, SL_ADJUSTS_MAX * sizeof(struct sl_adjust)},
        {&s->tables, (size_t)l->max_seqs * (size_t)l->max_blocks * 4},
        {&s->drawn, rows * sizeof(struct sl_drawn)},
        {&s->scored, rows * 4},
    };
    memcpy(a, all, sizeof all);
    return (int)SL_ARRAY_LEN(all);
}

size_t sl_cuda_step_bytes(const struct sl_backend_limits *l)
{
    struct sl_cuda_step s;
    struct array a[20] = {0};
    int n = arrays(&s, l, a);
    size_t sum = blob_words(l) * sizeof(int32_t) + 256;
    for (int i = 0; i < n; i++) sum += (a[i].bytes + 255) / 256 * 256 + 256;
    return sum;
}

int sl_cuda_step_open(struct sl_cuda_backend *g, struct sl_err *err)
{
    const struct sl_backend_limits *l = &g->limits;
    struct sl_cuda_step *s = &g->c.step;
    struct array a[20] = {0};
    struct sl_backend b = {.cuda = g};
    int n = arrays(s, l, a);
    s->max_blocks = l->max_blocks;
    s->block_tokens = l->block_tokens;
    g->blob_words = blob_words(l);
    for (int i = 0; i < n; i++) {
        g->own[i] = sl_cuda_alloc(&b, a[i].bytes, err);
        if (!g->own[i]) return err ? err->code : SL_ENOMEM;
        g->n_own = i + 1;
        memcpy(a[i].to, &g->own[i], sizeof g->own[i]);
    }
    g->blob = sl_cuda_alloc(&b, g->blob_words * sizeof *g->blob, err);
    if (!g->blob) return err ? err->code : SL_ENOMEM;
    size_t rows = (size_t)l->max_rows;
    cudaMallocHost((void **)&g->blob_host, g->blob_words * sizeof *g->blob);
    cudaMallocHost((void **)&g->drawn_host, rows * sizeof *g->drawn_host);
    cudaMallocHost((void **)&g->scored_host, rows * sizeof *g->scored_host);
    return sl_cuda_check("reserving pinned memory", err);
}

static void forget(struct sl_cuda_graph *e)
{
    if (e->exec) cudaGraphExecDestroy(e->exec);
    *e = (struct sl_cuda_graph){0};
}

void sl_cuda_step_close(struct sl_cuda_backend *g)
{
    struct sl_backend b = {.cuda = g};
    for (int i = 0; i < SL_CUDA_GRAPHS_MAX; i++) forget(&g->graphs[i]);
    for (int i = 0; i < g->n_own; i++) sl_cuda_free(&b, g->own[i]);
    g->n_own = 0;
    sl_cuda_free(&b, g->blob);
    g->blob = NULL;
    cudaFreeHost(g->blob_host);
    cudaFreeHost(g->drawn_host);
    cudaFreeHost(g->scored_host);
    g->blob_host = NULL;
    g->drawn_host = NULL;
    g->scored_host = NULL;
}

/* ---- the descriptor -------------------------------------------------------------------------- */

/* Rows that a decode step of n rows runs. */
static int bucket(int n, int max)
{
    static const int small[] = {1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64};
    int up = (n + 31) / 32 * 32;
    for (size_t i = 0; i < SL_ARRAY_LEN(small) && n <= 64; i++)
        if (n <= small[i]) {
            up = small[i];
            break;
        }
    return SL_MIN(up, max);
}

static int power_above(int n)
{
    int p = LEN_MIN;
    while (p < n) p *= 2;
    return p;
}

static int32_t *put(int32_t *w, const void *from, size_t words)
{
    memcpy(w, from, words * sizeof *w);
    return w + words;
}

static int32_t *fill(int32_t *w, int32_t value, int n)
{
    for (int i = 0; i < n; i++) *w++ = value;
    return w;
}

/* Lone rows and tiles of the shares. */
static int32_t *put_attention(int32_t *w, const struct sl_step *s, struct sl_cuda_step *d,
                              struct sl_cuda_blob_head *h)
{
    int32_t *first = w;
    d->max_len = 1;
    for (const struct sl_seq_view *v = s->seqs; v < s->seqs + s->n_seqs; v++) {
        if (v->n > SL_CUDA_LONE_MAX) continue;
        for (int i = 0; i < v->n; i++) *w++ = v->row + i;
        d->max_len = SL_MAX(d->max_len, v->pos + v->n);
    }
    if (s->steady) w = fill(w, -1, s->run_rows - (int)(w - first));
    h->lone = (int32_t)(w - first);
    first = w;
    for (const struct sl_seq_view *v = s->seqs; v < s->seqs + s->n_seqs; v++) {
        if (v->n <= SL_CUDA_LONE_MAX) continue;
        for (int i = 0; i < v->n; i += SL_CUDA_TILE_ROWS) {
            const struct sl_cuda_tile t = {v->row + i, SL_MIN(SL_CUDA_TILE_ROWS, v->n - i), v->slot,
                                           v->pos + i};
            w = put(w, &t, sizeof t / sizeof *w);
        }
    }
    h->tiles = (int32_t)(w - first) / 4;
    return w;
}

static int32_t *put_rows(int32_t *w, const struct sl_step *s)
{
    int pad = s->run_rows - s->n_rows;
    w = put(w, s->pos, (size_t)s->n_rows);
    w = fill(w, -1, pad);
    for (const struct sl_seq_view *v = s->seqs; v < s->seqs + s->n_seqs; v++)
        w = fill(w, v->slot, v->n);
    w = fill(w, 0, pad);
    if (s->ids) {
        w = put(w, s->ids, (size_t)s->n_rows);
        w = fill(w, 0, pad);
    }
    return w;
}

static int32_t *put_picks(int32_t *w, const struct sl_step *s)
{
    int pad = s->run_picks - s->n_picks;
    const struct sl_draw none = {.n_top = -1};
    if (s->n_picks == 0) return w;
    w = put(w, s->picks, (size_t)s->n_picks);
    w = fill(w, s->picks[0], pad);
    w = put(w, s->next, (size_t)s->n_picks);
    w = fill(w, -1, pad);
    w = put(w, s->draw, (size_t)s->n_picks * draw_words());
    for (int i = 0; i < pad; i++) w = put(w, &none, draw_words());
    return put(w, s->adjust, (size_t)s->n_adjust * 3);
}

/* New entries of block tables: sequence, place, block. */
static int32_t *put_blocks(int32_t *w, const struct sl_step *s)
{
    for (const struct sl_seq_view *v = s->seqs; v < s->seqs + s->n_seqs; v++)
        for (int i = v->n_blocks - v->new_blocks; i < v->n_blocks; i++) {
            *w++ = v->slot;
            *w++ = i;
            *w++ = v->blocks[i];
        }
    return w;
}

void sl_cuda_begin(struct sl_backend *b, struct sl_step *s)
{
    struct sl_cuda_backend *g = b->cuda;
    struct sl_cuda_step *d = &g->c.step;
    struct sl_cuda_blob_head h = {0};
    SL_ASSERT(s->n_rows <= g->limits.max_rows && s->n_picks <= s->n_rows);
    g->step = s;
    g->steps++;
    s->run_rows = s->steady ? bucket(s->n_rows, g->limits.max_rows) : s->n_rows;
    s->run_picks = s->steady && s->n_picks ? bucket(s->n_picks, s->run_rows) : s->n_picks;
    int32_t *w = g->blob_host + SL_CUDA_BLOB_HEAD;
    h.rows = s->run_rows;
    h.has_ids = s->ids != NULL;
    h.picks = s->run_picks;
    h.adjusts = s->n_picks ? s->n_adjust : 0;
    w = put_rows(w, s);
    w = put_attention(w, s, d, &h);
    w = put_picks(w, s);
    int32_t *blocks = w;
    w = put_blocks(w, s);
    h.blocks = (int32_t)(w - blocks) / 3;
    SL_ASSERT((size_t)(w - g->blob_host) <= g->blob_words);
    d->n_rows = h.rows;
    d->n_lone = h.lone;
    d->n_tiles = h.tiles;
    d->n_picks = h.picks;
    if (s->steady) d->max_len = power_above(d->max_len);
    cudaMemcpyAsync(g->blob, g->blob_host, (size_t)(w - g->blob_host) * sizeof *w,
                    cudaMemcpyHostToDevice, g->c.stream);
    sl_cuda_spread(&g->c, g->blob, &h);
    sl_cuda_held_begin(&g->held, &g->c);
}

/* ---- recording ------------------------------------------------------------------------------- */

/* The entry of this shape of step, or the one used longest ago, emptied. */
static struct sl_cuda_graph *entry(struct sl_cuda_backend *g, uint32_t key)
{
    const struct sl_cuda_step *d = &g->c.step;
    struct sl_cuda_graph *oldest = &g->graphs[0];
    for (struct sl_cuda_graph *e = g->graphs; e < g->graphs + SL_CUDA_GRAPHS_MAX; e++) {
        if (e->seen && e->rows == d->n_rows && e->picks == d->n_picks && e->max_len == d->max_len &&
            e->key == key)
            return e;
        if (e->used < oldest->used) oldest = e;
    }
    forget(oldest);
    *oldest = (struct sl_cuda_graph){
        .rows = d->n_rows, .picks = d->n_picks, .max_len = d->max_len, .key = key};
    return oldest;
}

int sl_cuda_replay(struct sl_backend *b, uint32_t key)
{
    struct sl_cuda_backend *g = b->cuda;
    if (!g->step->steady) return 0;
    struct sl_cuda_graph *e = entry(g, key);
    e->used = g->steps;
    if (e->exec) {
        cudaGraphLaunch(e->exec, g->c.stream);
        return 1;
    }
    if (e->seen++ == 0) return 0;
    if (cudaStreamBeginCapture(g->c.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        g->recording = e;
    return 0;
}

void sl_cuda_recorded(struct sl_backend *b)
{
    struct sl_cuda_backend *g = b->cuda;
    struct sl_cuda_graph *e = g->recording;
    cudaGraph_t graph = NULL;
    sl_cuda_held_end(&g->held, &g->c);
    if (!e) return;
    g->recording = NULL;
    sl_cuda_check("recording a step", &g->failed);
    if (cudaStreamEndCapture(g->c.stream, &graph) == cudaSuccess &&
        cudaGraphInstantiate(&e->exec, graph, 0) == cudaSuccess)
        cudaGraphLaunch(e->exec, g->c.stream);
    else
        sl_cuda_check("recording a step", &g->failed);
    if (graph) cudaGraphDestroy(graph);
}

int sl_cuda_end(struct sl_backend *b, struct sl_err *err)
{
    struct sl_cuda_backend *g = b->cuda;
    const struct sl_cuda_step *d = &g->c.step;
    size_t n = (size_t)g->step->n_picks;
    if (n) {
        cudaMemcpyAsync(g->drawn_host, d->drawn, n * sizeof *d->drawn, cudaMemcpyDeviceToHost,
                        g->c.stream);
        cudaMemcpyAsync(g->scored_host, d->scored, n * sizeof *d->scored, cudaMemcpyDeviceToHost,
                        g->c.stream);
    }
    cudaError_t e = cudaStreamSynchronize(g->c.stream);
    struct sl_err failed = g->failed;
    g->failed = (struct sl_err){0};
    if (failed.code) {
        cudaGetLastError();
        return sl_err_set(err, failed.code, "%s", failed.msg);
    }
    if (e != cudaSuccess)
        return sl_err_set(err, SL_ESYS, "a step failed on card %d: CUDA: %s", g->c.device,
                          cudaGetErrorString(e));
    return sl_cuda_check("a step", err);
}

const struct sl_drawn *sl_cuda_drawn(struct sl_backend *b)
{
    return b->cuda->drawn_host;
}

const float *sl_cuda_scored(struct sl_backend *b)
{
    return b->cuda->scored_host;
}
