/* plan.c - the cut: see plan.h.
 *
 * A cut assigns to every used device, in file order, a contiguous range of layers. Its price is the
 * time of its slowest stage, bytes read / bandwidth, the output matrix counted with the last stage;
 * its limit is memory, weights and KV together. How much KV is wanted depends on how many sequences
 * of full length shall fit, and a cut that leaves more room may be slower. So for a number k of
 * sequences a dynamic program finds the fastest cut that holds k of them, exactly; k goes over all
 * counts (over 24 or fewer, each half as much again as the last, when there are more), and the k
 * with the most sequences per slowest-stage time wins, which is the throughput of a full pipeline
 * in the weight-bound regime.
 *
 * Devices are used as far as possible: for the same k a cut over more devices is preferred. One is
 * left out when there are more devices than layers or when it cannot hold a layer. Pinned ranges
 * are cuts with no choice. */
#include "topology/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "base/text.h"

#define LAYERS_MAX 1024 /* of one model */
#define COUNTS_MAX 24   /* sequence counts tried */
#define CHUNK_ALONE                                                                                \
    512 /* prefill tokens in a micro-batch of one stage: weights are read once for many rows */
#define CHUNK_PIPELINE                                                                             \
    256 /* of several: shorter, so that a prompt's chunks fill all stages at once */

struct cut {
    int from[SL_DEVICES_MAX], to[SL_DEVICES_MAX]; /* per device; empty = left out */
    int n_used;
    double slowest_s;
};

struct state {
    int n_used; /* devices; -1 = cannot be reached */
    int from; /* the last step came from here; its own layer number when the device was left out */
    double slowest_s;
};

struct planner {
    const struct sl_plan_model *m;
    const struct sl_plan_device *d;
    const char *const *names;
    int n_devices;
    const struct sl_plan_load *load;
    uint64_t bytes_to[LAYERS_MAX + 1];     /* of layers [0, l) */
    int order[SL_DEVICES_MAX];             /* pipeline order of the devices */
    struct state (*table)[LAYERS_MAX + 1]; /* [n_devices + 1] */
};

static int is_pinned(const struct sl_plan_device *d)
{
    return d->layer_from >= 0;
}

/* ---- cost of one stage ----------------------------------------------------------------------- */

static uint64_t range_bytes(const struct planner *p, int from, int to)
{
    return p->bytes_to[to] - p->bytes_to[from];
}

static uint64_t weight_bytes(const struct planner *p, int from, int to)
{
    return range_bytes(p, from, to) + (from == 0 ? p->m->embed_bytes : 0) +
           (to == p->m->n_layers ? p->m->head_bytes : 0);
}

static uint64_t block_bytes(const struct planner *p, int layers)
{
    return p->m->kv_bytes_per_token * (uint64_t)p->load->block_tokens * (uint64_t)layers;
}

static double stage_s(const struct planner *p, int device, int from, int to)
{
    return (double)(range_bytes(p, from, to) + (to == p->m->n_layers ? p->m->head_bytes : 0)) /
           p->d[device].bandwidth;
}

static uint64_t stage_bytes(const struct planner *p, int from, int to, uint64_t n_blocks)
{
    return weight_bytes(p, from, to) + block_bytes(p, to - from) * n_blocks;
}

static int blocks_per_sequence(const struct planner *p)
{
    return (p->load->context + p->load->block_tokens - 1) / p->load->block_tokens;
}

/* ---- pins ------------------------------------------------------------------------------------ */

static int check_pin(const struct planner *p, int i, struct sl_err *err)
{
    const struct sl_plan_device *d = &p->d[i];
    /* messages name the last layer, as the topology file does */
    if (d->layer_from < 0 || d->layer_to <= d->layer_from || d->layer_to > p->m->n_layers)
        return sl_err_set(
            err, SL_EINPUT,
            "%s: layers [%d, %d] is no range of layers of this model; it has layers 0 to %d",
            p->names[i], d->layer_from, d->layer_to - 1, p->m->n_layers - 1);
    for (int k = 0; k < i; k++) {
        const struct sl_plan_device *o = &p->d[k];
        if (is_pinned(o) && d->layer_from < o->layer_to && o->layer_from < d->layer_to)
            return sl_err_set(err, SL_EINPUT, "%s: layers [%d, %d] overlap [%d, %d] of %s",
                              p->names[i], d->layer_from, d->layer_to - 1, o->layer_from,
                              o->layer_to - 1, p->names[k]);
    }
    return 0;
}

/* Pipeline order: the file's, but pinned devices trade places among themselves so that their layers
 * ascend. */
static void put_in_order(struct planner *p)
{
    int place[SL_DEVICES_MAX], n = 0;
    for (int i = 0; i < p->n_devices; i++) {
        p->order[i] = i;
        if (is_pinned(&p->d[i])) place[n++] = i;
    }
    for (int a = 1; a < n; a++) /* insertion sort of the pinned ones over their places */
        for (int b = a;
             b > 0 && p->d[p->order[place[b]]].layer_from < p->d[p->order[place[b - 1]]].layer_from;
             b--) {
            int t = p->order[place[b]];
            p->order[place[b]] = p->order[place[b - 1]];
            p->order[place[b - 1]] = t;
        }
}

/* Layers between pinned ranges that no unpinned device can take. */
static int check_gaps(const struct planner *p, struct sl_err *err)
{
    int layer = 0, spare = 0, last = -1;
    for (int i = 0; i <= p->n_devices; i++) {
        int end = i == p->n_devices;
        int q = end ? -1 : p->order[i];
        if (!end && !is_pinned(&p->d[q])) {
            spare++;
            continue;
        }
        int from = end ? p->m->n_layers : p->d[q].layer_from;
        if (from > layer && spare == 0)
            return sl_err_set(err, SL_EINPUT,
                              "%s: layers %d to %d belong to no device; widen a range or put a "
                              "device without layers %s",
                              p->names[end ? last : q], layer, from - 1,
                              end ? "after it" : "before it");
        if (end) break;
        layer = p->d[q].layer_to;
        spare = 0;
        last = q;
    }
    return 0;
}

/* ---- the exact cut for a number of blocks ---------------------------------------------------- */

static int is_better(int n_used, double slowest_s, const struct state *than)
{
    return n_used != than->n_used ? n_used > than->n_used : slowest_s < than->slowest_s;
}

/* table[i][l]: the first i devices (in order) hold layers [0, l). More devices first, then the
 * lower slowest time; both are decided prefix by prefix, so this is exact. O(devices x layers^2).
 */
static int best_cut(const struct planner *p, uint64_t n_blocks, struct cut *out)
{
    int L = p->m->n_layers;
    struct state(*table)[LAYERS_MAX + 1] = p->table;
    for (int l = 0; l <= L; l++) table[0][l] = (struct state){.n_used = l == 0 ? 0 : -1};
    for (int i = 0; i < p->n_devices; i++) {
        const struct sl_plan_device *d = &p->d[p->order[i]];
        for (int l = 0; l <= L; l++) {
            struct state *to = &table[i + 1][l];
            *to = table[i][l];
            to->from = l;
            if (is_pinned(d)) *to = (struct state){.n_used = -1};
            if (is_pinned(d) && l != d->layer_to) continue;
            for (int e = l - 1; e >= 0; e--) {
                if (is_pinned(d) && e != d->layer_from) continue;
                if (stage_bytes(p, e, l, n_blocks) > d->memory_bytes) {
                    if (is_pinned(d)) continue;
                    break; /* more layers are more bytes */
                }
                if (table[i][e].n_used < 0) continue;
                double t = SL_MAX(table[i][e].slowest_s, stage_s(p, p->order[i], e, l));
                if (is_better(table[i][e].n_used + 1, t, to))
                    *to = (struct state){table[i][e].n_used + 1, e, t};
            }
        }
    }
    if (table[p->n_devices][L].n_used < 0) return 0;
    out->n_used = table[p->n_devices][L].n_used;
    out->slowest_s = table[p->n_devices][L].slowest_s;
    for (int i = p->n_devices, l = L; i > 0; i--) {
        out->to[p->order[i - 1]] = l;
        l = out->from[p->order[i - 1]] = table[i][l].from;
    }
    return 1;
}

/* ---- how many sequences to make room for ----------------------------------------------------- */

/* Sequence counts to try, ascending, up to n: all of them, or when they are many each half as much
 * again as the one before. */
static int list_counts(int n, int counts[COUNTS_MAX])
{
    int len = 0;
    for (int k = 1; len < COUNTS_MAX;
         k = SL_MIN(n, n <= COUNTS_MAX ? k + 1 : SL_MAX(k + 1, k + k / 2))) {
        counts[len++] = k;
        if (k == n) break;
    }
    return len;
}

static int choose(const struct planner *p, struct cut *best)
{
    int found = 0, counts[COUNTS_MAX], n = list_counts(p->load->sequences, counts);
    double best_score = 0;
    for (int i = 0; i < n; i++) {
        struct cut c = {.n_used = 0};
        /* More sequences need more memory everywhere. */
        if (!best_cut(p, (uint64_t)counts[i] * (uint64_t)blocks_per_sequence(p), &c)) break;
        double score = counts[i] / c.slowest_s;
        if (found && (score < best_score || (score == best_score && c.n_used < best->n_used)))
            continue;
        *best = c;
        best_score = score;
        found = 1;
    }
    return found;
}

/* The longest context of which one sequence fits, by halving; own->context is left at it, or at the
 * least when not even that fits. */
static int lower_context(struct planner *p, struct sl_plan_load *own, struct cut *best)
{
    int block = own->block_tokens, fits = (own->context_least + block - 1) / block;
    int too_long = blocks_per_sequence(p);
    p->load = own;
    own->context = own->context_least;
    if (!best_cut(p, (uint64_t)blocks_per_sequence(p), best)) return 0;
    while (too_long - fits > 1) {
        int middle = fits + (too_long - fits) / 2;
        if (best_cut(p, (uint64_t)middle, best))
            fits = middle;
        else
            too_long = middle;
    }
    own->context = fits * block;
    return choose(p, best);
}

/* ---- when nothing fits ----------------------------------------------------------------------- */

/* Where the run of unpinned devices from place i on must have brought us: the next pinned layer, or
 * the end. */
static int gap_end(const struct planner *p, int i)
{
    for (; i < p->n_devices; i++)
        if (is_pinned(&p->d[p->order[i]])) return p->d[p->order[i]].layer_from;
    return p->m->n_layers;
}

static int is_short(const struct planner *p, int device, int from, int to, struct sl_err *err)
{
    const struct sl_plan_device *d = &p->d[device];
    char need[32], has[32], more[32];
    uint64_t bytes = stage_bytes(p, from, to, (uint64_t)blocks_per_sequence(p));
    const char *role = is_pinned(d) ? "its" : "with the devices before it filled, its";
    return sl_err_set(
        err, SL_ELIMIT,
        "the model does not fit: %s is %s short: %s layers %d to %d need %s with the KV cache of "
        "one sequence of %d tokens, and it has %s; %s, lower the context or take a smaller format",
        p->names[device], sl_format_bytes(bytes - d->memory_bytes, more), role, from, to - 1,
        sl_format_bytes(bytes, need), p->load->context, sl_format_bytes(d->memory_bytes, has),
        is_pinned(d) ? "give it fewer layers" : "add a device");
}

/* Fills the devices one after the other and says which one is left with more than it can hold. */
static int does_not_fit(const struct planner *p, struct sl_err *err)
{
    uint64_t blocks = (uint64_t)blocks_per_sequence(p);
    for (int i = 0, layer = 0; i < p->n_devices; i++) {
        int q = p->order[i], end = gap_end(p, i), to = layer;
        const struct sl_plan_device *d = &p->d[q];
        if (is_pinned(d)) {
            if (stage_bytes(p, d->layer_from, d->layer_to, blocks) > d->memory_bytes)
                return is_short(p, q, d->layer_from, d->layer_to, err);
            layer = d->layer_to;
            continue;
        }
        while (to < end && stage_bytes(p, layer, to + 1, blocks) <= d->memory_bytes) to++;
        int last = i + 1 == p->n_devices || is_pinned(&p->d[p->order[i + 1]]);
        if (last && to < end) return is_short(p, q, layer, end, err);
        layer = to;
    }
    return sl_err_set(
        err, SL_ELIMIT,
        "the model does not fit; add a device, lower the context or take a smaller format");
}

/* ---- the plan from the cut ------------------------------------------------------------------- */

static int blocks_that_fit(const struct planner *p, const struct cut *c)
{
    uint64_t n = (uint64_t)blocks_per_sequence(p) * (uint64_t)p->load->sequences;
    for (int q = 0; q < p->n_devices; q++) {
        if (c->to[q] == c->from[q]) continue;
        uint64_t per = block_bytes(p, c->to[q] - c->from[q]);
        if (per)
            n = SL_MIN(n, (p->d[q].memory_bytes - weight_bytes(p, c->from[q], c->to[q])) / per);
    }
    return (int)SL_MIN(n, (uint64_t)INT32_MAX);
}

static void fill_stages(const struct planner *p, const struct cut *c, struct sl_plan *out)
{
    for (int i = 0; i < p->n_devices; i++) {
        int q = p->order[i], from = c->from[q], to = c->to[q];
        if (from == to) continue;
        out->stages[out->n_stages++] =
            (struct sl_plan_stage){.device = q,
                                   .layer_from = from,
                                   .layer_to = to,
                                   .weight_bytes = weight_bytes(p, from, to),
                                   .kv_bytes = block_bytes(p, to - from) * (uint64_t)out->n_blocks,
                                   .step_ns = stage_s(p, q, from, to) * 1e9};
    }
}

/* A closed ring of m micro-batches: a round takes the sum of the stages or m times the slowest,
 * whichever is more. A row adds the reading of its KV, at half the context. */
static void predict(const struct planner *p, struct sl_plan *out)
{
    int per = blocks_per_sequence(p);
    int rows = SL_MAX(1, SL_MIN(p->load->sequences, out->n_blocks / SL_MAX(1, per)));
    double one = 0, sum = 0, slowest = 0, in_batch = ceil((double)rows / out->micro_batches);
    for (int s = 0; s < out->n_stages; s++) {
        const struct sl_plan_stage *st = &out->stages[s];
        double kv = (double)p->m->kv_bytes_per_token * (st->layer_to - st->layer_from) *
                    p->load->context / 2 / p->d[st->device].bandwidth * 1e9;
        one += st->step_ns + kv;
        sum += st->step_ns + kv * in_batch;
        slowest = SL_MAX(slowest, st->step_ns + kv * in_batch);
    }
    out->tokens_per_s_1 = 1e9 / one;
    out->tokens_per_s_n = rows * 1e9 / SL_MAX(sum, SL_MIN(out->micro_batches, rows) * slowest);
}

static int check_input(const struct planner *p, struct sl_err *err)
{
    if (p->m->n_layers < 1 || p->m->n_layers > LAYERS_MAX)
        return sl_err_set(err, SL_ELIMIT, "the model has %d layers; 1 to %d can be planned",
                          p->m->n_layers, LAYERS_MAX);
    for (int i = 0; i < p->n_devices; i++) {
        if (!(p->d[i].bandwidth > 0) || !isfinite(p->d[i].bandwidth))
            return sl_err_set(
                err, SL_EINPUT,
                "%s: its bandwidth is not known; write bandwidth: into the topology file",
                p->names[i]);
        int rc = is_pinned(&p->d[i]) ? check_pin(p, i, err) : 0;
        if (rc) return rc;
    }
    return check_gaps(p, err);
}

int sl_plan_make(const struct sl_plan_model *m, const struct sl_plan_device *d,
                 const char *const *names, int n_devices, const struct sl_plan_load *load,
                 struct sl_plan *out, struct sl_err *err)
{
    SL_ASSERT(n_devices > 0 && n_devices <= SL_DEVICES_MAX && load->context > 0 &&
              load->sequences > 0 && load->block_tokens > 0);
    SL_ASSERT(load->max_rows > 0);
    struct planner p = {.m = m, .d = d, .names = names, .n_devices = n_devices, .load = load};
    put_in_order(&p);
    int rc = check_input(&p, err);
    if (rc) return rc;
    for (int l = 0; l < m->n_layers; l++) p.bytes_to[l + 1] = p.bytes_to[l] + m->layer_bytes[l];
    p.table = malloc(sizeof *p.table * (size_t)(n_devices + 1));
    if (!p.table) return sl_err_set(err, SL_ENOMEM, "no memory to plan");
    struct cut c;
    struct sl_plan_load own = *load;
    int fits = choose(&p, &c);
    if (!fits && load->context_least) fits = lower_context(&p, &own, &c);
    free(p.table);
    if (!fits) return does_not_fit(&p, err);
    memset(out, 0, sizeof *out);
    out->context = p.load->context;
    out->n_blocks = blocks_that_fit(&p, &c);
    fill_stages(&p, &c, out);
    /* One per stage keeps all of them busy. A lone stage gets one: a second would read the weights
     * again for half the rows, which costs more than the coordinator's turn-around that it hides.
     */
    out->micro_batches =
        SL_MIN(load->micro_batches ? load->micro_batches : out->n_stages, SL_MICRO_BATCHES_MAX);
    out->chunk = load->chunk ? load->chunk : out->n_stages == 1 ? CHUNK_ALONE : CHUNK_PIPELINE;
    out->chunk = SL_MIN(out->chunk, load->max_rows);
    out->max_rows = load->max_rows;
    predict(&p, out);
    return 0;
}

void sl_plan_print(const struct sl_plan *p, const char *const *names, FILE *out)
{
    int width = (int)strlen("device");
    for (int s = 0; s < p->n_stages; s++)
        width = SL_MAX(width, (int)strlen(names[p->stages[s].device]));
    fprintf(out, "stage  %-*s  layers      weights         KV  step\n", width, "device");
    for (int s = 0; s < p->n_stages; s++) {
        const struct sl_plan_stage *st = &p->stages[s];
        char layers[32], weights[32], kv[32];
        snprintf(layers, sizeof layers, "%d-%d", st->layer_from, st->layer_to - 1);
        fprintf(out, "%5d  %-*s  %-7s  %10s %10s  %.3f ms\n", s, width, names[st->device], layers,
                sl_format_bytes(st->weight_bytes, weights), sl_format_bytes(st->kv_bytes, kv),
                st->step_ns / 1e6);
    }
    fprintf(out,
            "%d micro-batches in flight, chunks of %d tokens, %d KV blocks; predicted %.1f "
            "tokens/s alone, %.1f full\n",
            p->micro_batches, p->chunk, p->n_blocks, p->tokens_per_s_1, p->tokens_per_s_n);
}
