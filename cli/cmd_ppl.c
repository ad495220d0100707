/* cmd_ppl.c - `sluice ppl`: perplexity of a text through the real pipeline.
 *
 * The text is tokenized once and cut into chunks of the context length; a chunk's first token is
 * replaced by BOS when the model has one, and the positions of its second half are scored, as
 * llama.cpp's perplexity tool defines it, so that figures compare. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "cli/cmd.h"
#include "cli/generate.h"

#define PPL_CONTEXT 512 /* tokens of a chunk by default */

struct settings {
    struct sl_session_options session;
    const char *file;
    int64_t chunks;
    int json;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-f --file", "TEXT", AT(file), "the text", 0, 0},
    {SL_CONF_INT, "--chunks", "N", AT(chunks), "only the first N chunks (default: all)", 1,
     1 << 24},
    {SL_CONF_FLAG, "--json", NULL, AT(json), "one JSON object", 0, 0},
    SL_SESSION_ROWS(struct settings),
};

struct sums {
    double nll, nll2; /* sums of -log p and its square */
    long n;
    int first; /* score rows from this position on */
};

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct sums *u = arg;
    if (fx->kind != SL_FX_SCORED || !fx->scored->logprobs) return;
    for (int i = 0; i < fx->scored->n; i++) {
        if (fx->scored->pos + i < u->first) continue;
        double v = -(double)fx->scored->logprobs[i];
        u->nll += v;
        u->nll2 += v * v;
        u->n++;
    }
}

static int read_all(const char *path, struct sl_buf *out, struct sl_err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f) return sl_err_set(err, SL_EINPUT, "cannot read %s", path);
    char chunk[65536];
    size_t n;
    int r = 0;
    while (r == 0 && (n = fread(chunk, 1, sizeof chunk, f)) > 0) r = sl_buf_add(out, chunk, n);
    int bad = ferror(f);
    fclose(f);
    if (bad) return sl_err_set(err, SL_EINPUT, "cannot read %s", path); /* a directory, say */
    return r ? sl_err_set(err, r, "%s is longer than %u bytes", path, SL_TOK_TEXT_MAX) : 0;
}

static void report(const struct sums *u, int chunks, int json)
{
    double mean = u->nll / (double)u->n, ppl = exp(mean);
    double var = u->nll2 / (double)u->n - mean * mean;
    double pm = u->n > 1 && var > 0 ? sqrt(var / (double)(u->n - 1)) * ppl : 0;
    if (json)
        printf("{\"ppl\":%.6f,\"error\":%.6f,\"chunks\":%d,\"tokens\":%ld}\n", ppl, pm, chunks,
               u->n);
    else
        printf("Final estimate: PPL = %.4f +/- %.5f\n", ppl, pm);
}

static int score(const struct settings *s, struct sl_session *session, int context,
                 struct sl_err *err)
{
    const struct sl_tokenizer *tok = sl_service_tokenizer(session->service);
    struct sl_buf text;
    struct sl_ids ids = {0};
    sl_buf_init(&text, SL_TOK_TEXT_MAX);
    int r = read_all(s->file, &text, err);
    if (r == 0) r = sl_tokenizer_encode(tok, sl_buf_str(&text), text.len, SL_TOK_BOS, &ids, err);
    sl_buf_close(&text);
    int chunks = (int)(ids.len / (size_t)context);
    if (s->chunks && s->chunks < chunks) chunks = (int)s->chunks;
    if (r == 0 && chunks == 0)
        r = sl_err_set(err, SL_EINPUT, "%s has %zu tokens, less than one chunk of %d; lower -c",
                       s->file, ids.len, context);
    struct sums u = {.first = context / 2};
    for (int i = 0; r == 0 && i < chunks; i++) {
        int32_t *at = ids.data + (size_t)i * (size_t)context, kept = at[0];
        if (sl_tokenizer_adds_bos(tok)) at[0] = sl_tokenizer_bos(tok);
        struct sl_submit req = {.tokens = at, .n_tokens = context, .score = 1};
        sl_sampling_default(&req.sampling);
        r = sl_session_run(session, &req, on_reply, &u, err);
        at[0] = kept;
        if (r == 0 && !s->json) {
            printf("[%d]%.4f,", i + 1, exp(u.nll / (double)u.n));
            fflush(stdout);
        }
    }
    if (r == 0 && !s->json) putchar('\n');
    if (r == 0) report(&u, chunks, s->json);
    free(ids.data);
    return r;
}

static int run(void *settings, const char *yaml, struct sl_err *err)
{
    struct settings *s = settings;
    static struct sl_session session;
    struct sl_cluster cluster;
    if (!s->file) return sl_err_set(err, SL_EUSAGE, "give -f TEXT");
    int context = s->session.context ? (int)s->session.context : PPL_CONTEXT;
    if (context < 4)
        return sl_err_set(err, SL_EUSAGE, "-c %d is too short to score anything", context);
    s->session.context = 0; /* ours is the length of a chunk, not a limit of the cluster */
    int r = sl_session_cluster(&s->session, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&session, &cluster, err);
    if (r) return r;
    r = score(s, &session, context, err);
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
            "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
