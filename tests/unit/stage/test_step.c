/* test_step.c - the step of a stage: its numbers against a plain computation in double precision,
 * and every way a descriptor can contradict what the stage holds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sl_assert.h"
#include "model/encode.h"
#include "stage/internal.h"
#include "tests/unit/stage/tiny.h"

#define FORMAT_ROWS 5

static struct sl_backend *backend;
static char path[TINY_PATH_MAX];

static int setup(void **state)
{
    (void)state;
    struct sl_err e;
    struct sl_backend_params p = {.kind = "ref", .n_threads = 1};
    tiny_write("llama", path);
    return sl_backend_create(&p, &backend, &e);
}

static int teardown(void **state)
{
    (void)state;
    sl_backend_destroy(backend);
    unlink(path);
    sl_frame_pool_trim();
    return 0;
}

static struct sl_stage *open_stage(const struct sl_stage_params *p)
{
    struct sl_stage *s = NULL;
    struct sl_err e = {0};
    if (sl_stage_create(backend, p, &s, &e)) fail_msg("%s", e.msg);
    return s;
}

static struct sl_stage *open_whole(void)
{
    struct sl_stage_params p = tiny_params(path, 0, 1);
    return open_stage(&p);
}

/* One micro-batch through one stage; its code, and the frame it gave in *out when it gave one. */
static int step(struct sl_stage *s, const struct sl_batch_seq *shares, int n, struct sl_frame **out)
{
    struct sl_batch b = {.n_seqs = n, .seqs = (struct sl_batch_seq *)(uintptr_t)shares};
    for (int i = 0; i < n; i++) b.n_rows += shares[i].n_tokens;
    struct sl_frame *f = NULL;
    struct sl_err e = {0};
    uint32_t rows = 0;
    int r = sl_stage_step(s, tiny_frame(&b, 1, 1), &f, &rows, &e);
    assert_int_equal(r, e.code);
    if (r == 0) assert_int_equal(rows, b.n_rows);
    if (r) assert_null(f);
    if (out)
        *out = f;
    else
        sl_frame_free(f);
    return r;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* The model computed plainly: one sequence, all positions at once, double precision. */
struct plain {
    struct sl_weights *w;
    struct sl_config c;
};

static const float *tensor(const struct plain *m, enum sl_role role, int layer)
{
    const struct sl_tensor *t;
    struct sl_err e;
    assert_int_equal(sl_config_tensor(m->w, &m->c, role, layer, &t, &e), 0);
    return t ? sl_weights_map(m->w, t, &e) : NULL;
}

static void norm(const double *x, const float *gain, double eps, int n, double *out)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    for (int i = 0; i < n; i++) out[i] = x[i] / sqrt(sum / n + eps) * (double)gain[i];
}

static void product(const float *w, const float *bias, const double *x, int rows, int cols,
                    double *out)
{
    for (int r = 0; r < rows; r++) {
        out[r] = bias ? (double)bias[r] : 0;
        for (int c = 0; c < cols; c++) out[r] += (double)w[r * cols + c] * x[c];
    }
}

static void turn(const struct sl_config *c, double *head, int pos)
{
    int half = c->rope_dims / 2;
    for (int i = 0; i < half; i++) {
        int a = c->rope == SL_ROPE_NEOX ? i : 2 * i,
            b = c->rope == SL_ROPE_NEOX ? i + half : 2 * i + 1;
        double t = pos * pow((double)c->rope_base, -2.0 * i / c->rope_dims), x = head[a],
               y = head[b];
        head[a] = x * cos(t) - y * sin(t);
        head[b] = x * sin(t) + y * cos(t);
    }
}

#define POSITIONS 20 /* more than a block */
#define WIDTH 16     /* the widest vector */

static void attend(const struct sl_config *c, double q[POSITIONS][WIDTH],
                   double k[POSITIONS][WIDTH], double v[POSITIONS][WIDTH], int t, double *out)
{
    for (int h = 0; h < c->n_heads; h++) {
        int kv = h / (c->n_heads / c->n_kv_heads), d = c->head_dim;
        double score[POSITIONS], sum = 0;
        for (int s = 0; s <= t; s++) {
            score[s] = 0;
            for (int i = 0; i < d; i++) score[s] += q[t][h * d + i] * k[s][kv * d + i];
            score[s] = exp(score[s] / sqrt(d));
            sum += score[s];
        }
        for (int i = 0; i < d; i++) {
            out[h * d + i] = 0;
            for (int s = 0; s <= t; s++) out[h * d + i] += score[s] / sum * v[s][kv * d + i];
        }
    }
}

static void plain_layer(const struct plain *m, int l, double x[POSITIONS][WIDTH])
{
    const struct sl_config *c = &m->c;
    double q[POSITIONS][WIDTH], k[POSITIONS][WIDTH], v[POSITIONS][WIDTH], a[WIDTH], b[WIDTH],
        g[WIDTH], u[WIDTH];
    int nq = c->n_heads * c->head_dim, nkv = c->n_kv_heads * c->head_dim;
    for (int t = 0; t < POSITIONS; t++) {
        norm(x[t], tensor(m, SL_ROLE_ATTN_NORM, l), (double)c->rms_eps, c->n_embd, a);
        product(tensor(m, SL_ROLE_Q, l), tensor(m, SL_ROLE_Q_BIAS, l), a, nq, c->n_embd, q[t]);
        product(tensor(m, SL_ROLE_K, l), tensor(m, SL_ROLE_K_BIAS, l), a, nkv, c->n_embd, k[t]);
        product(tensor(m, SL_ROLE_V, l), tensor(m, SL_ROLE_V_BIAS, l), a, nkv, c->n_embd, v[t]);
        for (int h = 0; h < c->n_heads; h++) turn(c, q[t] + h * c->head_dim, t);
        for (int h = 0; h < c->n_kv_heads; h++) turn(c, k[t] + h * c->head_dim, t);
    }
    for (int t = 0; t < POSITIONS; t++) {
        attend(c, q, k, v, t, a);
        product(tensor(m, SL_ROLE_O, l), NULL, a, c->n_embd, nq, b);
        for (int i = 0; i < c->n_embd; i++) x[t][i] += b[i];
        norm(x[t], tensor(m, SL_ROLE_FFN_NORM, l), (double)c->rms_eps, c->n_embd, a);
        product(tensor(m, SL_ROLE_GATE, l), NULL, a, c->n_ff, c->n_embd, g);
        product(tensor(m, SL_ROLE_UP, l), NULL, a, c->n_ff, c->n_embd, u);
        for (int i = 0; i < c->n_ff; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        product(tensor(m, SL_ROLE_DOWN, l), NULL, g, c->n_embd, c->n_ff, b);
        for (int i = 0; i < c->n_embd; i++) x[t][i] += b[i];
    }
}

/* Logits of tokens 0, 1, 2, 3, 0 ... */
static void plain_logits(const char *file, double logits[POSITIONS][TINY_VOCAB])
{
    struct plain m;
    struct sl_err e;
    double x[POSITIONS][WIDTH], a[WIDTH];
    assert_int_equal(sl_weights_open(file, &m.w, &e), 0);
    assert_int_equal(sl_config_read(m.w, &m.c, &e), 0);
    const float *embed = tensor(&m, SL_ROLE_EMBED, 0);
    for (int t = 0; t < POSITIONS; t++)
        for (int i = 0; i < TINY_EMBD; i++)
            x[t][i] = (double)embed[(t % TINY_VOCAB) * TINY_EMBD + i];
    for (int l = 0; l < m.c.n_layers; l++) plain_layer(&m, l, x);
    for (int t = 0; t < POSITIONS; t++) {
        norm(x[t], tensor(&m, SL_ROLE_OUT_NORM, 0), (double)m.c.rms_eps, TINY_EMBD, a);
        product(embed, NULL, a, TINY_VOCAB, TINY_EMBD, logits[t]);
    }
    sl_weights_close(m.w);
}

/* Runs one share through a pipeline of n stages and copies the logits of its rows. */
static void run_logits(struct sl_stage *const *stages, int n, const struct sl_batch_seq *share,
                       float *logits)
{
    struct sl_frame *f;
    struct sl_err e;
    uint32_t rows;
    assert_int_equal(step(stages[0], share, 1, &f), 0);
    for (int i = 1; i < n; i++) {
        struct sl_frame *in = f;
        assert_int_equal(sl_stage_step(stages[i], in, &f, &rows, &e), 0);
    }
    assert_int_equal(f->head.kind, SL_FRAME_RESULTS);
    struct sl_results_in res = {0};
    assert_int_equal(sl_results_unpack(sl_frame_desc(f), f->head.desc_len, &res, &e), 0);
    assert_int_equal(res.results.n_scored, 1);
    assert_int_equal(res.results.scored[0].n, share->n_tokens);
    memcpy(logits, res.results.scored[0].logits,
           (size_t)share->n_tokens * TINY_VOCAB * sizeof *logits);
    sl_results_in_close(&res);
    sl_frame_free(f);
}

static void check_model(const char *arch)
{
    char file[TINY_PATH_MAX];
    double want[POSITIONS][TINY_VOCAB];
    float whole[POSITIONS][TINY_VOCAB], split[POSITIONS][TINY_VOCAB];
    tiny_write(arch, file);
    plain_logits(file, want);
    struct sl_stage_params p = tiny_params(file, 0, 1), p0 = tiny_params(file, 0, 2),
                           p1 = tiny_params(file, 1, 2);
    struct sl_stage *one[] = {open_stage(&p)}, *two[] = {open_stage(&p0), open_stage(&p1)};
    struct sl_batch_seq share = tiny_share(2, SL_SEQ_LOGITS, POSITIONS, 3, 2);
    run_logits(one, 1, &share, whole[0]);
    for (int t = 0; t < POSITIONS; t++)
        for (int i = 0; i < TINY_VOCAB; i++)
            if (!(fabs((double)whole[t][i] - want[t][i]) < 1e-4 * (1 + fabs(want[t][i]))))
                fail_msg("%s: position %d, token %d: %.7f, not %.7f", arch, t, i,
                         (double)whole[t][i], want[t][i]);

    /* two stages, and the prompt in two pieces: the same bits */
    struct sl_batch_seq head = share, tail = share;
    head.n_tokens = 7;
    head.n_blocks = 1;
    tail.flags = SL_SEQ_LOGITS;
    tail.pos = 7;
    tail.n_tokens -= 7;
    tail.tokens += 7;
    tail.blocks += 1;
    tail.n_blocks = 1;
    run_logits(two, 2, &head, split[0]);
    run_logits(two, 2, &tail, split[7]);
    assert_memory_equal(whole, split, sizeof whole);

    /* forgotten and told again */
    sl_stage_reset(one[0], SL_F32);
    tail.seq = 2;
    assert_int_equal(step(one[0], &tail, 1, NULL), SL_EPROTO);
    run_logits(one, 1, &share, split[0]);
    assert_memory_equal(whole, split, sizeof whole);
    sl_stage_destroy(one[0]);
    sl_stage_destroy(two[0]);
    sl_stage_destroy(two[1]);
    unlink(file);
}

static void test_llama(void **state)
{
    (void)state;
    check_model("llama");
}

static void test_qwen2(void **state)
{
    (void)state;
    check_model("qwen2"); /* biases, and pairs half a head apart */
}

/* ---- hostile --------------------------------------------------------------------------------- */

static void test_shares(void **state)
{
    (void)state;
    struct sl_stage *s = open_whole();
    int32_t bad_token[] = {TINY_VOCAB}, bad_block[] = {8};
    struct sl_batch_seq good = tiny_share(0, SL_SEQ_SAMPLE, 5, 0, 1), next = good, x;
    assert_int_equal(step(s, &good, 1, NULL), 0);
    next.flags = SL_SEQ_SAMPLE;
    next.pos = 5;
    next.n_tokens = 1;
    next.n_blocks = 0;

    x = next, x.seq = 1;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* never registered */
    x = next, x.seq = 4;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* over max_seqs */
    x = next, x.pos = 6;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO);
    x = next, x.pos = 4;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO);
    x = next, x.tokens = bad_token;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO);
    x = next, x.blocks = bad_block, x.n_blocks = 1;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO);
    x = tiny_share(1, SL_SEQ_SAMPLE, TINY_BLOCK + 1, 0, 1);
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* too few blocks */
    x = tiny_share(1, SL_SEQ_SAMPLE, 1, 0, 9);
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* more than there are */
    x = tiny_share(1, SL_SEQ_SAMPLE, 65, 0, 5);
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* over max_rows */
    x = tiny_share(1, 0, 3, 0, 1), x.pos = 3;
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO); /* registered in mid-air */
    x = tiny_share(1, SL_SEQ_SCORE | SL_SEQ_LOGITS, 3, 0, 1);
    assert_int_equal(step(s, &x, 1, NULL), SL_EPROTO);
    assert_int_equal(step(s, &next, 1, NULL), 0); /* it still holds what it held */
    sl_stage_destroy(s);
}

/* The second share empties the block table under the first, whose positions reach further. */
static void test_twice(void **state)
{
    (void)state;
    struct sl_stage *s = open_whole();
    struct sl_batch_seq twice[2];
    twice[0] = tiny_share(3, SL_SEQ_SAMPLE, 40, 0, 3);
    twice[1] = tiny_share(3, SL_SEQ_SAMPLE, 2, 7, 1);
    assert_int_equal(step(s, twice, 2, NULL), SL_EPROTO);
    sl_stage_destroy(s);
}

static void run_scores(struct sl_stage *s, struct sl_batch_seq *x, int n, float *out)
{
    struct sl_frame *f;
    struct sl_results_in res = {0};
    assert_int_equal(step(s, x, 1, &f), 0);
    assert_int_equal(sl_results_unpack(sl_frame_desc(f), f->head.desc_len, &res, NULL), 0);
    assert_int_equal(res.results.n_scored, 1);
    assert_int_equal(res.results.scored[0].n, n);
    memcpy(out, res.results.scored[0].logprobs, (size_t)n * sizeof *out);
    sl_results_in_close(&res);
    sl_frame_free(f);
}

static void test_scores(void **state)
{
    (void)state;
    struct sl_stage *s = open_whole();
    struct sl_frame *f;
    struct sl_results_in res = {0};
    struct sl_err e;
    for (int n = 1; n <= 3; n += 2) {
        struct sl_batch_seq x = tiny_share(0, SL_SEQ_SCORE, n, 0, 1);
        x.next = -1;
        assert_int_equal(step(s, &x, 1, &f), 0);
        assert_int_equal(sl_results_unpack(sl_frame_desc(f), f->head.desc_len, &res, &e), 0);
        assert_int_equal(res.results.n_scored, 1);
        assert_int_equal(res.results.scored[0].n, n - 1); /* none of one token */
        for (int i = 0; i < n - 1; i++) assert_true(res.results.scored[0].logprobs[i] < 0);
        sl_frame_free(f);
    }
    /* a text in two pieces is scored with the bits of one */
    struct sl_batch_seq whole = tiny_share(0, SL_SEQ_SCORE, 6, 0, 1), head = whole, tail = whole;
    float want[5], got[5];
    whole.next = -1;
    head.n_tokens = 4, head.next = whole.tokens[4];
    tail.flags = SL_SEQ_SCORE, tail.pos = 4, tail.n_tokens = 2, tail.n_blocks = 0;
    tail.tokens += 4, tail.next = -1;
    run_scores(s, &whole, 5, want);
    run_scores(s, &head, 4, got);
    run_scores(s, &tail, 1, got + 4);
    assert_memory_equal(want, got, sizeof want);
    head.next = TINY_VOCAB;
    assert_int_equal(step(s, &head, 1, NULL), SL_EPROTO);
    sl_results_in_close(&res);
    sl_stage_destroy(s);
}

static void test_logits_limit(void **state)
{
    (void)state;
    struct sl_stage s = {.c.n_vocab = SL_VOCAB_MAX};
    struct sl_batch_seq share = {.flags = SL_SEQ_LOGITS,
                                 .n_tokens = (int)(SL_FRAME_DESC_MAX / SL_VOCAB_MAX / 4)};
    struct sl_batch b = {.n_seqs = 1, .seqs = &share};
    struct sl_err e;
    assert_int_equal(sl_exec_check(&s, &b, &e), 0);
    share.n_tokens++;
    assert_int_equal(sl_exec_check(&s, &b, &e), SL_EPROTO);
}

static int give(struct sl_stage *s, const struct sl_frame_head *h, const void *desc)
{
    struct sl_frame *f = sl_frame_alloc(h), *out;
    struct sl_err e;
    uint32_t rows;
    assert_non_null(f);
    memset(f->body, 0, sl_frame_body_bytes(h));
    memcpy(f->body, desc, h->desc_len);
    int r = sl_stage_step(s, f, &out, &rows, &e);
    sl_frame_free(out);
    return r;
}

static void test_frames(void **state)
{
    (void)state;
    struct sl_stage_params p = tiny_params(path, 1, 2);
    struct sl_stage *s = open_stage(&p);
    struct sl_batch_seq share = tiny_share(0, SL_SEQ_SAMPLE, 3, 0, 1);
    struct sl_batch b = {.n_seqs = 1, .n_rows = 3, .seqs = &share};
    struct sl_frame *model = tiny_frame(&b, 1, 1);
    struct sl_frame_head h = model->head, x;
    h.rows = 3;
    h.cols = TINY_EMBD;
    x = h, x.rows = 2;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.cols = TINY_EMBD - 1;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.lane = 1; /* in the memory of a card */
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.rows = 0, x.cols = 0;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.kind = SL_FRAME_RESULTS;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.desc_len -= 4;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    x = h, x.desc_len = 0;
    assert_int_equal(give(s, &x, model->body), SL_EPROTO);
    assert_int_equal(give(s, &h, model->body), 0);
    sl_frame_free(model);
    sl_stage_destroy(s);
}

/* What the first of two stages sends on, as float32: its frame, and its numbers in `values`. */
static struct sl_frame *first_sends(struct sl_stage *s, enum sl_dtype as, float *values)
{
    struct sl_batch_seq share = tiny_share(0, SL_SEQ_LOGITS, FORMAT_ROWS, 0, 1);
    struct sl_frame *f;
    sl_stage_reset(s, as);
    assert_int_equal(step(s, &share, 1, &f), 0);
    assert_true(f->head.dtype == as && f->head.rows == FORMAT_ROWS && f->head.lane == 0);
    assert_int_equal(f->head.cols, TINY_EMBD);
    const void *payload = sl_frame_payload(f);
    const uint16_t *half = payload;
    const float *scales = payload;
    const uint8_t *codes = (const uint8_t *)(scales + FORMAT_ROWS);
    for (int i = 0; i < FORMAT_ROWS * TINY_EMBD; i++)
        values[i] = as == SL_F32    ? ((const float *)payload)[i]
                    : as == SL_BF16 ? sl_bf16_to_float(half[i])
                                    : scales[i / TINY_EMBD] * sl_decode_e4m3(codes[i]);
    return f;
}

/* The logits that the last stage makes of a frame, which it takes. */
static void last_makes(struct sl_stage *s, struct sl_frame *f, float *logits)
{
    struct sl_results_in in = {0};
    struct sl_frame *out;
    struct sl_err e = {0};
    uint32_t rows;
    sl_stage_reset(s, SL_F32);
    assert_int_equal(sl_stage_step(s, f, &out, &rows, &e), 0);
    assert_true(out->head.kind == SL_FRAME_RESULTS && out->head.dtype == SL_F32 &&
                out->head.rows == 0 && out->head.lane == 0);
    assert_int_equal(sl_results_unpack(sl_frame_desc(out), out->head.desc_len, &in, &e), 0);
    assert_int_equal(in.results.n_scored, 1);
    memcpy(logits, in.results.scored[0].logits, sizeof(float) * FORMAT_ROWS * TINY_VOCAB);
    sl_results_in_close(&in);
    sl_frame_free(out);
}

/* Between two stages activations may travel rounded: each value is the nearest of its format, and
 * what comes out is what float32 frames with those values give. */
static void test_formats(void **state)
{
    (void)state;
    struct sl_stage_params p = tiny_params(path, 0, 2), q = tiny_params(path, 1, 2);
    struct sl_stage *first = open_stage(&p), *last = open_stage(&q);
    static const enum sl_dtype formats[] = {SL_F32, SL_BF16, SL_F8_E4M3};
    float exact[FORMAT_ROWS * TINY_EMBD], sent[FORMAT_ROWS * TINY_EMBD];
    float want[FORMAT_ROWS * TINY_VOCAB], got[FORMAT_ROWS * TINY_VOCAB];
    sl_frame_free(first_sends(first, SL_F32, exact));
    for (size_t i = 0; i < SL_ARRAY_LEN(formats); i++) {
        struct sl_frame *f = first_sends(first, formats[i], sent);
        for (int k = 0; k < FORMAT_ROWS * TINY_EMBD; k++) {
            float top = 0;
            const float *row = exact + k / TINY_EMBD * TINY_EMBD;
            for (int c = 0; c < TINY_EMBD; c++) top = fmaxf(top, fabsf(row[c]));
            float error = formats[i] == SL_F32    ? 0
                          : formats[i] == SL_BF16 ? fabsf(exact[k]) / 256
                                                  : fmaxf(fabsf(exact[k]) / 16, top / 448 / 512);
            assert_true(fabsf(sent[k] - exact[k]) <= error);
        }
        if (formats[i] != SL_F32) assert_memory_not_equal(sent, exact, sizeof sent);
        struct sl_frame *plain = first_sends(first, SL_F32, exact);
        memcpy(sl_frame_payload(plain), sent, sizeof sent);
        last_makes(last, f, got);
        last_makes(last, plain, want);
        assert_memory_equal(got, want, sizeof want);
    }
    sl_stage_destroy(first);
    sl_stage_destroy(last);
}

/* Every byte of a good descriptor turned into others: an answer or a refusal, never a crash (the
 * sanitizers watch). */
static void test_bent(void **state)
{
    (void)state;
    struct sl_stage *s = open_whole();
    struct sl_batch_seq shares[2];
    shares[0] = tiny_share(0, SL_SEQ_SAMPLE, 20, 0, 2);
    shares[1] = tiny_share(1, SL_SEQ_SCORE, 3, 2, 1);
    struct sl_batch b = {.n_seqs = 2, .n_rows = 23, .seqs = shares};
    struct sl_frame *model = tiny_frame(&b, 1, 1);
    int refused = 0;
    for (uint32_t i = 0; i < model->head.desc_len; i++)
        for (int bit = 0; bit < 8; bit++) {
            model->body[i] ^= (uint8_t)(1 << bit);
            int r = give(s, &model->head, model->body);
            assert_true(r == 0 || r == SL_EPROTO);
            refused += r != 0;
            model->body[i] ^= (uint8_t)(1 << bit);
        }
    assert_true(refused > 0);
    assert_int_equal(give(s, &model->head, model->body), 0);
    sl_frame_free(model);
    sl_stage_destroy(s);
}

/* ---- memory and parameters ------------------------------------------------------------------- */

static int creates(const struct sl_stage_params *p, struct sl_stage_info *info)
{
    struct sl_stage *s;
    struct sl_err e = {0};
    int r = sl_stage_create(backend, p, &s, &e);
    assert_int_equal(r, e.code);
    if (r) return r;
    if (info) sl_stage_get_info(s, info);
    sl_stage_destroy(s);
    return 0;
}

static void test_reserve(void **state)
{
    (void)state;
    struct sl_stage_params p = tiny_params(path, 0, 1);
    struct sl_stage_info all, some;
    assert_int_equal(creates(&p, &all), 0);
    assert_int_equal(all.n_blocks, 8);
    uint64_t block = all.kv_bytes / 8, fixed = all.weight_bytes + all.workspace_bytes;
    p.memory_bytes = fixed + 3 * block;
    assert_int_equal(creates(&p, &some), 0);
    assert_int_equal(some.n_blocks, 3);
    p.memory_bytes--;
    assert_int_equal(creates(&p, &some), 0);
    assert_int_equal(some.n_blocks, 2);
    p.memory_bytes = fixed + block - 1;
    assert_int_equal(creates(&p, NULL), SL_ELIMIT);
    p.memory_bytes = 1;
    assert_int_equal(creates(&p, NULL), SL_ELIMIT);
}

static int count_and_stop(void *arg, uint64_t done, uint64_t total)
{
    assert_true(done > 0 && done <= total);
    return ++*(int *)arg == 2;
}

static void test_params(void **state)
{
    (void)state;
    struct sl_stage_params p = tiny_params(path, 0, 1), x;
    int calls = 0;
    x = p, x.layer_to = TINY_LAYERS + 1;
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.layer_from = x.layer_to;
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.stage = 1;
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.n_blocks = 0;
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.kv_type = "q4_0";
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.kv_type = "fp8"; /* only cards have it */
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.kv_type = "f8_e4m3"; /* a format that there is, but not of caches */
    assert_int_equal(creates(&x, NULL), SL_EINPUT);
    x = p, x.model = "/nonexistent.gguf";
    assert_true(creates(&x, NULL) < 0);
    x = p, x.progress = count_and_stop, x.progress_arg = &calls;
    assert_int_equal(creates(&x, NULL), SL_ECANCELLED);
    assert_int_equal(calls, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),  cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_shares), cmocka_unit_test(test_twice),
        cmocka_unit_test(test_scores), cmocka_unit_test(test_logits_limit),
        cmocka_unit_test(test_frames), cmocka_unit_test(test_formats),
        cmocka_unit_test(test_bent),   cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_params),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
