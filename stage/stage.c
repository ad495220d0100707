/* stage.c - a stage's life and its step. See stage.h; loading is load.c, memory reserve.c, the
 * layers exec.c. */
#include "stage/stage.h"

#include <stdlib.h>
#include <string.h>

#include "base/sl_assert.h"
#include "stage/internal.h"

static int check_params(const struct sl_stage_params *p, const struct sl_config *c,
                        struct sl_err *err)
{
    if (p->layer_from < 0 || p->layer_to > c->n_layers || p->layer_from >= p->layer_to)
        return sl_err_set(err, SL_EINPUT, "layers %d to %d do not exist: the model has %d",
                          p->layer_from, p->layer_to - 1, c->n_layers);
    if (p->n_stages < 1 || p->stage < 0 || p->stage >= p->n_stages)
        return sl_err_set(err, SL_EINPUT, "stage %d of %d does not exist", p->stage, p->n_stages);
    if (p->block_tokens < 1 || p->n_blocks < 1 || p->max_seqs < 1 || p->max_seqs > SL_SEQS_MAX ||
        p->max_rows < 1 || p->max_rows > SL_BATCH_ROWS_MAX)
        return sl_err_set(
            err, SL_EINPUT,
            "limits out of range: blocks of %d tokens, %d blocks, %d sequences, %d rows",
            p->block_tokens, p->n_blocks, p->max_seqs, p->max_rows);
    return 0;
}

static enum sl_act activation(enum sl_ffn_act a)
{
    static const enum sl_act acts[] = {[SL_FFN_SILU] = SL_ACT_SILU,
                                       [SL_FFN_GELU] = SL_ACT_GELU,
                                       [SL_FFN_GELU_TANH] = SL_ACT_GELU_TANH,
                                       [SL_FFN_SWIGLU_OAI] = SL_ACT_SWIGLU_OAI};
    return acts[a];
}

static int allocate_tables(struct sl_stage *s, struct sl_err *err)
{
    int last = sl_stage_is_last(s);
    s->layers = calloc((size_t)(s->p.layer_to - s->p.layer_from), sizeof *s->layers);
    s->seqs = calloc((size_t)s->p.max_seqs, sizeof *s->seqs);
    s->views = calloc(SL_BATCH_SEQS_MAX, sizeof *s->views);
    s->pos = calloc((size_t)s->p.max_rows, sizeof *s->pos);
    s->results.sampled = calloc(SL_BATCH_SEQS_MAX, sizeof *s->results.sampled);
    s->results.scored = calloc(SL_BATCH_SEQS_MAX, sizeof *s->results.scored);
    size_t rows = (size_t)s->p.max_rows;
    s->ids = calloc(rows, sizeof *s->ids);
    s->picks = calloc(rows, sizeof *s->picks);
    s->pick_rows = calloc(rows, sizeof *s->pick_rows);
    s->nexts = calloc(rows, sizeof *s->nexts);
    s->draws = calloc(rows, sizeof *s->draws);
    s->scores = calloc(rows, sizeof *s->scores);
    int drawing = last && s->ops->draw;
    if (drawing) s->adjusts = calloc(SL_ADJUSTS_MAX, sizeof *s->adjusts);
    if (drawing) s->logits_host = calloc((size_t)s->c.n_vocab, sizeof *s->logits_host);
    s->sampler = last ? sl_sampler_create(s->c.n_vocab) : NULL;
    sl_buf_init(&s->packed, SL_FRAME_DESC_MAX);
    if (!s->layers || !s->seqs || !s->views || !s->pos || !s->results.sampled ||
        !s->results.scored || (last && !s->sampler) || !s->ids || !s->picks || !s->pick_rows ||
        !s->nexts || !s->draws || !s->scores || (drawing && (!s->adjusts || !s->logits_host)))
        return sl_err_set(err, SL_ENOMEM, "no memory for the stage's tables");
    return 0;
}

int sl_stage_create(struct sl_backend *b, const struct sl_stage_params *p, struct sl_stage **out,
                    struct sl_err *err)
{
    struct sl_stage *s = calloc(1, sizeof *s);
    if (!s) return sl_err_set(err, SL_ENOMEM, "no memory for a stage");
    s->b = b;
    s->ops = sl_backend_ops(b);
    s->p = *p;
    sl_arena_init(&s->small, SL_STAGE_SMALL_MAX);
    uint64_t bytes = 0, adapters = 0;
    int r = sl_weights_open(p->model, &s->weights, err);
    if (r == 0) r = sl_config_read(s->weights, &s->c, err);
    if (r == 0) r = check_params(p, &s->c, err);
    if (r == 0) s->act = activation(s->c.act);
    if (r == 0) r = allocate_tables(s, err);
    if (r == 0) r = sl_stage_weight_bytes(s, &bytes, err);
    if (r == 0) r = sl_stage_lora_open(s, &adapters, err);
    if (r == 0) r = sl_stage_reserve_berths(s, err);
    if (r == 0) r = sl_stage_reserve(s, bytes + adapters, err);
    if (r == 0) r = sl_stage_load_weights(s, err);
    if (r == 0) r = sl_stage_reserve_cache(s, err);
    if (r) {
        sl_stage_destroy(s);
        return r;
    }
    s->p.model = s->p.kv_type = NULL; /* the caller's strings */
    s->p.adapters = NULL;
    *out = s;
    return 0;
}

void sl_stage_destroy(struct sl_stage *s)
{
    if (!s) return;
    sl_stage_unload_weights(s);
    sl_stage_lora_close(s);
    sl_stage_unreserve(s);
    for (int i = 0; s->seqs && i < s->p.max_seqs; i++) {
        free(s->seqs[i].blocks);
        sl_history_destroy(s->seqs[i].history);
    }
    sl_sampler_destroy(s->sampler);
    sl_batch_in_close(&s->in);
    sl_buf_close(&s->packed);
    sl_arena_close(&s->small);
    sl_weights_close(s->weights);
    free(s->results.sampled);
    free(s->results.scored);
    free(s->ids);
    free(s->picks);
    free(s->pick_rows);
    free(s->nexts);
    free(s->draws);
    free(s->scores);
    free(s->adjusts);
    free(s->logits_host);
    free(s->all_logits);
    free(s->pos);
    free(s->views);
    free(s->seqs);
    free(s->layers);
    free(s);
}

void sl_stage_get_info(const struct sl_stage *s, struct sl_stage_info *out)
{
    *out = s->info;
    out->berths = s->berths;
}

void sl_stage_reset(struct sl_stage *s, enum sl_dtype send_as)
{
    s->send_as = send_as;
    for (int i = 0; i < s->p.max_seqs; i++) sl_stage_forget(&s->seqs[i]);
}

/* Everything between descriptor and answer, on x. */
static void compute(struct sl_stage *s, float *x)
{
    const struct sl_batch *b = &s->in.batch;
    if (sl_stage_is_first(s)) sl_exec_embed(s, x);
    sl_exec_layers(s, b, x);
    if (sl_stage_is_last(s)) sl_exec_head(s, b, x);
}

/* The same on a device, whose step holds what brings the stream there and back. */
static int compute_away(struct sl_stage *s, struct sl_carry *c, struct sl_err *err)
{
    s->ops->begin(s->b, &s->step);
    sl_carry_in(s, c);
    if (!s->ops->replay(s->b, 0)) {
        compute(s, c->x);
        s->ops->recorded(s->b);
    } else if (s->p.moved) {
        s->p.moved(s->p.progress_arg);
    }
    sl_carry_out(s, c);
    return s->ops->end(s->b, err);
}

static int compute_here(struct sl_stage *s, struct sl_carry *c)
{
    sl_carry_in(s, c);
    compute(s, c->x);
    sl_carry_out(s, c);
    return 0;
}

static int results_frame(struct sl_stage *s, const struct sl_frame *in, struct sl_frame **out,
                         struct sl_err *err)
{
    struct sl_frame_head h = in->head;
    h.kind = SL_FRAME_RESULTS;
    h.desc_len = (uint32_t)s->packed.len;
    h.rows = h.cols = h.lane = 0;
    h.dtype = SL_F32;
    struct sl_frame *f = sl_frame_alloc(&h);
    if (!f) return sl_err_set(err, SL_ENOMEM, "no memory for the results of a micro-batch");
    memcpy(f->body, s->packed.data, s->packed.len);
    *out = f;
    return 0;
}

int sl_stage_step(struct sl_stage *s, struct sl_frame *in, struct sl_frame **out, uint32_t *rows,
                  struct sl_err *err)
{
    struct sl_carry c = {.in = in};
    struct sl_frame *results = NULL;
    int r = 0;
    if (in->head.kind != SL_FRAME_BATCH)
        r = sl_err_set(err, SL_EPROTO, "a stage was sent a frame of kind %u", in->head.kind);
    if (r == 0) r = sl_batch_unpack(sl_frame_desc(in), in->head.desc_len, &s->in, err);
    if (r == 0) r = sl_exec_check(s, &s->in.batch, err);
    if (r == 0) r = sl_stage_apply(s, &s->in.batch, err);
    if (r == 0) sl_stage_lora_begin(s, &s->in.batch);
    if (r == 0) r = sl_stage_plan(s, &s->in.batch, err);
    if (r == 0) r = sl_carry_open(s, in, &c, err);
    if (r == 0) {
        *rows = (uint32_t)s->in.batch.n_rows;
        r = s->ops->begin ? compute_away(s, &c, err) : compute_here(s, &c);
    }
    if (r == 0 && sl_stage_is_last(s)) {
        r = sl_stage_answer(s, &s->in.batch, err);
        if (r == 0) r = results_frame(s, in, &results, err);
    }
    /* the frame that came stays until here: the unpacked batch points into it */
    struct sl_frame *onward = sl_carry_close(&c, r == 0);
    *out = results ? results : onward;
    return r;
}
