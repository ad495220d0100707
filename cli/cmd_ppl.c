/* cmd_ppl.c - `sluice ppl`: perplexity of a text through the real pipeline.
 *
 * The text is tokenized once and cut into chunks of the context length; a chunk's first token is
 * replaced by BOS when the model has one, and the positions of its second half are scored, as
 * llama.cpp's perplexity tool defines it, so that figures compare. With --save-logits or --kl-base
 * the logits themselves come back, and kl.h stores or compares them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "cli/cmd.h"
#include "cli/generate.h"
#include "cli/kl.h"
#include "model/config.h"
#include "stage/sample.h"

#define PPL_CONTEXT 512 /* tokens of a chunk by default */

struct settings {
    struct sl_session_options session;
    const char *file, *save, *base;
    int64_t chunks;
    int json;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-f --file", "TEXT", AT(file), "the text", 0, 0},
    {SL_CONF_INT, "--chunks", "N", AT(chunks), "only the first N chunks (default: all)", 1,
     1 << 24},
    {SL_CONF_STRING, "--save-logits", "FILE", AT(save),
     "store log-probabilities for --kl-base (2 bytes a scored position and token)", 0, 0},
    {SL_CONF_STRING, "--kl-base --kl-divergence-base", "FILE", AT(base),
     "KL divergence from the log-probabilities stored in FILE", 0, 0},
    {SL_CONF_FLAG, "--json", NULL, AT(json), "one JSON object", 0, 0},
    SL_SESSION_ROWS(struct settings),
};

/* One run over a text. */
struct scoring {
    const struct settings *s;
    struct sl_kl_shape shape;
    struct sl_kl_file *file; /* --save-logits or --kl-base; else NULL */
    struct sl_kl_stats kl;
    double nll, nll2; /* sums of -log p and its square */
    long n;
    const int32_t *chunk; /* the one under way, and its number */
    int at;
    struct sl_err err; /* of the file */
};

static void add(struct scoring *u, double nll)
{
    u->nll += nll;
    u->nll2 += nll * nll;
    u->n++;
}

/* Position `pos` of the chunk with all its logits. */
static void on_logits(struct scoring *u, int pos, const float *logits)
{
    int per_chunk = u->shape.context - 1 - u->shape.first;
    int64_t row = (int64_t)u->at * per_chunk + pos - u->shape.first;
    int32_t right = u->chunk[pos + 1];
    add(u, -sl_logprob(logits, u->shape.n_vocab, right));
    if (u->err.code) return;
    if (u->s->save)
        sl_kl_put(u->file, row, logits, right, &u->err);
    else
        sl_kl_compare(u->file, row, logits, right, &u->kl, &u->err);
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct scoring *u = arg;
    if (fx->kind != SL_FX_SCORED) return;
    const struct sl_scored *v = fx->scored;
    for (int i = 0; i < v->n; i++) {
        int pos = v->pos + i;
        if (pos < u->shape.first || pos + 1 >= u->shape.context) continue;
        if (v->logits)
            on_logits(u, pos, v->logits + (size_t)i * (size_t)v->n_vocab);
        else
            add(u, -(double)v->logprobs[i]);
    }
}

static int read_all(const char *path, struct sl_buf *out, struct sl_err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f) return sl_err_set(err, SL_EINPUT, "cannot read %s", path);
    int r = sl_buf_read(out, f);
    fclose(f);
    if (r == SL_EIO)
        return sl_err_set(err, SL_EINPUT, "cannot read %s", path); /* a directory, say */
    return r ? sl_err_set(err, r, "%s is longer than %u bytes", path, SL_TOK_TEXT_MAX) : 0;
}

static int report(struct scoring *u)
{
    double mean = u->nll / (double)u->n, ppl = exp(mean);
    double var = u->nll2 / (double)u->n - mean * mean;
    double pm = u->n > 1 && var > 0 ? sqrt(var / (double)(u->n - 1)) * ppl : 0;
    json_t *kl = u->s->base ? sl_kl_stats_json(&u->kl) : NULL;
    json_t *j = json_pack("{s:f, s:f, s:i, s:I}", "ppl", ppl, "error", pm, "chunks",
                          u->shape.chunks, "tokens", (json_int_t)u->n);
    if (!j || (u->s->base && !kl)) {
        json_decref(j);
        json_decref(kl);
        return SL_ENOMEM;
    }
    if (u->s->json) {
        if (kl) json_object_set(j, "kl", kl);
        json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        printf("\nFinal estimate: PPL = %.4f +/- %.5f\n", ppl, pm);
        if (kl) sl_kl_stats_print(kl);
    }
    json_decref(j);
    json_decref(kl);
    return 0;
}

/* Chunks of the text as the model is to see them, [chunks][context]; free *ids. */
static int read_chunks(struct scoring *u, const struct sl_tokenizer *tok, struct sl_ids *ids,
                       struct sl_err *err)
{
    struct sl_buf text;
    sl_buf_init(&text, SL_TOK_TEXT_MAX);
    int context = u->shape.context, r = read_all(u->s->file, &text, err);
    if (r == 0) r = sl_tokenizer_encode(tok, sl_buf_str(&text), text.len, SL_TOK_BOS, ids, err);
    sl_buf_close(&text);
    if (r) return r;
    u->shape.chunks = (int)(ids->len / (size_t)context);
    if (u->s->chunks && u->s->chunks < u->shape.chunks) u->shape.chunks = (int)u->s->chunks;
    if (u->shape.chunks == 0)
        return sl_err_set(err, SL_EINPUT, "%s has %zu tokens, less than one chunk of %d; lower -c",
                          u->s->file, ids->len, context);
    for (int i = 0; sl_tokenizer_adds_bos(tok) && i < u->shape.chunks; i++)
        ids->data[(size_t)i * (size_t)context] = sl_tokenizer_bos(tok);
    return 0;
}

static int score(struct scoring *u, struct sl_session *session, struct sl_err *err)
{
    const struct settings *s = u->s;
    struct sl_ids ids = {0};
    int r = read_chunks(u, sl_service_tokenizer(session->service), &ids, err);
    if (r == 0 && s->save) r = sl_kl_create(s->save, &u->shape, ids.data, &u->file, err);
    if (r == 0 && s->base) r = sl_kl_open(s->base, &u->shape, ids.data, &u->file, err);
    for (u->at = 0; r == 0 && u->at < u->shape.chunks; u->at++) {
        u->chunk = ids.data + (size_t)u->at * (size_t)u->shape.context;
        struct sl_submit req = {.tokens = u->chunk,
                                .n_tokens = u->shape.context,
                                .score = u->file == NULL,
                                .logits = u->file != NULL};
        sl_sampling_default(&req.sampling);
        r = sl_session_run(session, &req, on_reply, u, err);
        if (r == 0 && u->err.code) {
            *err = u->err;
            r = u->err.code;
        }
        if (r == 0 && !s->json) {
            printf("[%d]%.4f,", u->at + 1, exp(u->nll / (double)u->n));
            fflush(stdout);
        }
    }
    if (r == 0 && !s->json) putchar('\n');
    if (r == 0) r = report(u);
    int closed = sl_kl_close(u->file, r ? NULL : err);
    sl_kl_stats_close(&u->kl);
    free(ids.data);
    return r ? r : closed;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const char *yaml = words[0];
    struct settings *s = settings;
    static struct sl_session session;
    struct sl_cluster cluster;
    if (!s->file) return sl_err_set(err, SL_EUSAGE, "give -f TEXT");
    if (s->save && s->base)
        return sl_err_set(err, SL_EUSAGE, "--save-logits and --kl-base exclude each other");
    int context = s->session.context ? (int)s->session.context : PPL_CONTEXT;
    if (context < 4)
        return sl_err_set(err, SL_EUSAGE, "-c %d is too short to score anything", context);
    s->session.context = 0; /* ours is the length of a chunk, not a limit of the cluster */
    int r = sl_session_cluster(&s->session, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&session, &cluster, err);
    if (r) return r;
    struct scoring u = {.s = s,
                        .shape = {.context = context,
                                  .first = context / 2,
                                  .n_vocab = sl_service_config(session.service)->n_vocab}};
    r = score(&u, &session, err);
    sl_session_close(&session, 1);
    return r;
}

int sl_cmd_ppl(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "ppl",
        .usage =
            "usage: sluice ppl (-m MODEL | CLUSTER.yaml) -f TEXT [-c CHUNK] [--chunks N]\n"
            "\n"
            "Perplexity over chunks of -c tokens (default 512), the second half of each scored.\n"
            "KL divergence: run the base model with --save-logits FILE, then the other one with\n"
            "--kl-base FILE, same text, -c and --chunks.\n"
            "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
