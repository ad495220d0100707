/* models.c - see models.h. */
#include "tests/golden/models.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "proto/batch.h"
#include "transport/frame.h"

#define BLOCK 16                /* tokens */
#define CARD_BYTES (1ull << 30) /* of a card, for one stage */
#define BLOCKS (MODEL_TOKENS_MAX / BLOCK)

static void open_one(struct pipeline *p, struct sl_backend *b, struct sl_stage_params params)
{
    struct sl_err e = {0};
    struct sl_stage_info info;
    if (strcmp(sl_backend_row(b), "cuda") == 0) { /* a device serves one stage */
        const struct sl_backend_params card = {.kind = "cuda:0", .n_threads = 1};
        if (sl_backend_create(&card, &b, &e)) fail_msg("%s", e.msg);
        p->own[p->n] = b;
        params.memory_bytes = CARD_BYTES;
    }
    if (sl_stage_create(b, &params, &p->stages[p->n], &e)) fail_msg("%s", e.msg);
    sl_stage_get_info(p->stages[p->n++], &info);
    p->weight_bytes += info.weight_bytes;
}

static struct sl_stage_params params(const char *path, int stage, int n, int from, int to)
{
    return (struct sl_stage_params){.model = path,
                                    .stage = stage,
                                    .n_stages = n,
                                    .layer_from = from,
                                    .layer_to = to,
                                    .block_tokens = BLOCK,
                                    .n_blocks = BLOCKS,
                                    .max_seqs = 1,
                                    .max_rows = MODEL_TOKENS_MAX,
                                    .kv_type = "f32"};
}

static int count_layers(struct pipeline *p, const char *path)
{
    static struct sl_config c;
    struct sl_weights *w = NULL;
    struct sl_err e = {0};
    if (sl_weights_open(path, &w, &e) || sl_config_read(w, &c, &e)) fail_msg("%s", e.msg);
    sl_weights_close(w);
    p->far_from = c.ropes[0].scaling == SL_ROPE_LONG ? c.ropes[0].n_ctx_orig : 0;
    return c.n_layers;
}

void pipeline_open(struct pipeline *p, struct sl_backend *b, const char *path, int n)
{
    *p = (struct pipeline){0};
    int layers = count_layers(p, path);
    assert_true(n <= layers && n <= MODEL_STAGES_MAX);
    for (int i = 0; i < n; i++) {
        struct sl_stage_params q = params(path, i, n, i * layers / n, (i + 1) * layers / n);
        open_one(p, b, q);
    }
}

void pipeline_open_head(struct pipeline *p, struct sl_backend *b, const char *path, int n_layers)
{
    struct sl_stage_params q = params(path, 0, 2, 0, n_layers);
    *p = (struct pipeline){0};
    (void)count_layers(p, path);
    open_one(p, b, q);
}

void pipeline_close(struct pipeline *p)
{
    for (int i = 0; i < p->n; i++) {
        sl_stage_destroy(p->stages[i]);
        sl_backend_destroy(p->own[i]);
    }
    *p = (struct pipeline){0};
}

static struct sl_frame *first_frame(struct pipeline *p, const int32_t *tokens, int n, int pos,
                                    int total, uint32_t flags)
{
    int32_t blocks[BLOCKS];
    struct sl_sampling greedy;
    struct sl_buf packed;
    int far = p->far_from > 0 && total > p->far_from;
    sl_sampling_default(&greedy);
    for (int i = 0; i < BLOCKS; i++) blocks[i] = BLOCKS - 1 - i; /* out of order on purpose */
    int used = (pos + BLOCK - 1) / BLOCK, want = (pos + n + BLOCK - 1) / BLOCK;
    assert_true(want <= BLOCKS);
    struct sl_batch_seq share = {.seq = 0,
                                 .flags = flags | (pos > 0 ? 0
                                                   : far   ? SL_SEQ_REGISTER | SL_SEQ_FAR
                                                           : SL_SEQ_REGISTER),
                                 .pos = pos,
                                 .n_tokens = n,
                                 .n_blocks = want - used,
                                 .tokens = tokens,
                                 .blocks = blocks + used,
                                 .next = -1,
                                 .prompt_len = total,
                                 .sampling = &greedy};
    struct sl_batch b = {.n_seqs = 1, .n_rows = n, .seqs = &share};
    sl_buf_init(&packed, SL_FRAME_DESC_MAX);
    assert_int_equal(sl_batch_pack(&b, &packed), 0);
    struct sl_frame_head h = {.kind = SL_FRAME_BATCH,
                              .epoch = 1,
                              .slot = ++p->slot,
                              .desc_len = (uint32_t)packed.len,
                              .dtype = SL_F32,
                              .n_hops = 1};
    struct sl_frame *f = sl_frame_alloc(&h);
    assert_non_null(f);
    memcpy(f->body, packed.data, packed.len);
    sl_buf_close(&packed);
    return f;
}

static struct sl_frame *run(struct pipeline *p, struct sl_frame *f)
{
    for (int i = 0; i < p->n; i++) {
        struct sl_frame *in = f;
        struct sl_err e = {0};
        uint32_t rows;
        if (sl_stage_step(p->stages[i], in, &f, &rows, &e)) fail_msg("%s", e.msg);
    }
    return f;
}

void pipeline_logits(struct pipeline *p, const int32_t *tokens, int n, int pos, int total,
                     float *logits, int n_vocab)
{
    struct sl_frame *f = run(p, first_frame(p, tokens, n, pos, total, SL_SEQ_LOGITS));
    struct sl_results_in in = {0};
    struct sl_err e = {0};
    assert_int_equal(f->head.kind, SL_FRAME_RESULTS);
    if (sl_results_unpack(sl_frame_desc(f), f->head.desc_len, &in, &e)) fail_msg("%s", e.msg);
    assert_int_equal(in.results.n_scored, 1);
    assert_int_equal(in.results.scored[0].n, n);
    assert_int_equal(in.results.scored[0].n_vocab, n_vocab);
    memcpy(logits, in.results.scored[0].logits, (size_t)n * (size_t)n_vocab * sizeof *logits);
    sl_results_in_close(&in);
    sl_frame_free(f);
}

void pipeline_hidden(struct pipeline *p, const int32_t *tokens, int n, float *x, int n_embd)
{
    struct sl_frame *f = run(p, first_frame(p, tokens, n, 0, n, 0));
    assert_int_equal(f->head.kind, SL_FRAME_BATCH);
    assert_int_equal(f->head.rows, n);
    assert_int_equal(f->head.cols, n_embd);
    memcpy(x, sl_frame_payload(f), (size_t)n * (size_t)n_embd * sizeof *x);
    sl_frame_free(f);
}
