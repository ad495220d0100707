/* cmd_logits.c - `sluice logits`: float32 logits of every position of a token sequence, written as
 * safetensors, for comparing with other implementations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/sl_assert.h"
#include "cli/cmd.h"
#include "cli/generate.h"
#include "model/config.h"

struct settings {
    struct sl_session_options session;
    const char *tokens, *text, *out;
    int json;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "--tokens", "1,2,3", AT(tokens), "the token ids", 0, 0},
    {SL_CONF_STRING, "-p --prompt", "TEXT", AT(text), "or a text to tokenize", 0, 0},
    {SL_CONF_STRING, "-o --output", "FILE", AT(out),
     "file to write: tensor `logits`, F32 [n_tokens, vocab]", 0, 0},
    {SL_CONF_FLAG, "--json", NULL, AT(json), "print shape and argmax of each position as JSON", 0,
     0},
    SL_SESSION_ROWS(struct settings),
};

struct collect {
    float *logits; /* [n_tokens][n_vocab] */
    int n_tokens, n_vocab, got;
};

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct collect *c = arg;
    if (fx->kind != SL_FX_SCORED || !fx->scored->logits) return;
    const struct sl_scored *s = fx->scored;
    SL_ASSERT(s->n_vocab == c->n_vocab && s->pos + s->n <= c->n_tokens);
    memcpy(c->logits + (size_t)s->pos * (size_t)c->n_vocab, s->logits,
           (size_t)s->n * (size_t)c->n_vocab * sizeof *c->logits);
    c->got += s->n;
}

/* One tensor: u64 header length, JSON header padded to 8 bytes, data (safetensors format). */
static int write_safetensors(const char *path, const struct collect *c, struct sl_err *err)
{
    char json[256];
    size_t bytes = (size_t)c->n_tokens * (size_t)c->n_vocab * sizeof *c->logits;
    int n = snprintf(
        json, sizeof json,
        "{\"__metadata__\":{\"format\":\"pt\"},\"logits\":{\"dtype\":\"F32\",\"shape\":[%d,%d],"
        "\"data_offsets\":[0,%zu]}}",
        c->n_tokens, c->n_vocab, bytes);
    while (n % 8) json[n++] = ' ';
    uint64_t len = (uint64_t)n;
    FILE *f = fopen(path, "wb");
    if (!f) return sl_err_set(err, SL_EINPUT, "cannot write %s; choose another -o", path);
    int ok = fwrite(&len, sizeof len, 1, f) == 1 && fwrite(json, 1, (size_t)n, f) == (size_t)n &&
             fwrite(c->logits, 1, bytes, f) == bytes;
    struct stat st;
    int ours = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode); /* never unlink a device */
    if (fclose(f)) ok = 0;
    if (!ok) {
        if (ours) remove(path);
        return sl_err_set(err, SL_EIO, "could not write %zu bytes to %s (disk full?)", bytes, path);
    }
    return 0;
}

static void print_json(const struct collect *c)
{
    json_t *best = json_array();
    for (int t = 0; t < c->n_tokens; t++) {
        const float *row = c->logits + (size_t)t * (size_t)c->n_vocab;
        int top = 0;
        for (int i = 1; i < c->n_vocab; i++)
            if (row[i] > row[top]) top = i;
        json_array_append_new(best, json_integer(top));
    }
    json_t *j = json_pack("{s:[i,i], s:o}", "shape", c->n_tokens, c->n_vocab, "argmax", best);
    json_dumpf(j, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(j);
}

static int collect(const struct settings *s, struct sl_session *session, struct sl_err *err)
{
    struct sl_ids ids = {0};
    struct collect c = {.n_vocab = sl_service_config(session->service)->n_vocab};
    int r = s->tokens ? sl_generate_parse_ids(s->tokens, c.n_vocab, &ids, err)
                      : sl_tokenizer_encode(sl_service_tokenizer(session->service), s->text,
                                            strlen(s->text), SL_TOK_BOS, &ids, err);
    if (r == 0 && ids.len == 0) r = sl_err_set(err, SL_EUSAGE, "no tokens: the text is empty");
    c.n_tokens = (int)ids.len;
    c.logits = r == 0 ? malloc(ids.len * (size_t)c.n_vocab * sizeof *c.logits) : NULL;
    if (r == 0 && !c.logits)
        r = sl_err_set(err, SL_ENOMEM, "no memory for the logits of %d tokens", c.n_tokens);
    struct sl_submit req = {.tokens = ids.data, .n_tokens = c.n_tokens, .logits = 1};
    sl_sampling_default(&req.sampling);
    if (r == 0) r = sl_session_run(session, &req, on_reply, &c, err);
    SL_ASSERT(r || c.got == c.n_tokens);
    if (r == 0 && s->out) r = write_safetensors(s->out, &c, err);
    if (r == 0 && s->json) print_json(&c);
    free(c.logits);
    free(ids.data);
    return r;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const char *yaml = words[0];
    const struct settings *s = settings;
    static struct sl_session session;
    struct sl_cluster cluster;
    if (!s->tokens == !s->text) return sl_err_set(err, SL_EUSAGE, "give --tokens IDS or -p TEXT");
    if (!s->out && !s->json)
        return sl_err_set(err, SL_EUSAGE, "give -o FILE (or --json for the argmax only)");
    int r = sl_session_cluster(&s->session, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&session, &cluster, err);
    if (r) return r;
    r = collect(s, &session, err);
    sl_session_close(&session, 1);
    return r;
}

int sl_cmd_logits(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "logits",
        .usage =
            "usage: sluice logits (-m MODEL | CLUSTER.yaml) --tokens 1,2,3 -o OUT.safetensors\n"
            "\n"
            "Writes the float32 logits of every position.\n"
            "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {0};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
