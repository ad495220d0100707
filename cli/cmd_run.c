/* cmd_run.c - `sluice run`: one prompt, one answer on stdout. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "cli/generate.h"
#include "model/chat.h"
#include "model/config.h"

#define ANSWER_MAX (64u << 20) /* bytes of text kept for --json */

struct settings {
    struct sl_session_options session;
    struct sl_generate_options generate;
    const char *prompt, *file, *tokens, *stop;
    int chat, json, stats;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "-p --prompt", "TEXT", AT(prompt), "the prompt", 0, 0},
    {SL_CONF_STRING, "-f --file", "FILE", AT(file), "read the prompt from a file", 0, 0},
    {SL_CONF_STRING, "--tokens", "1,2,3", AT(tokens), "token ids instead of text", 0, 0},
    {SL_CONF_FLAG, "--chat", NULL, AT(chat),
     "the prompt is a user's message: apply the chat template", 0, 0},
    {SL_CONF_STRING, "--stop", "TEXT", AT(stop), "end before this text", 0, 0},
    {SL_CONF_FLAG, "--json", NULL, AT(json),
     "one JSON object: text, ids, finish reason, timings, stages", 0, 0},
    {SL_CONF_FLAG, "--stats", NULL, AT(stats), "print speed and the stage table to stderr", 0, 0},
    SL_GENERATE_ROWS(struct settings),
    SL_SESSION_ROWS(struct settings),
};

struct answer {
    const struct settings *s;
    struct sl_session *session;
    struct sl_buf text;
    json_t *ids;
    struct sl_timings timings;
    int prompt_tokens, tokens;
    enum sl_finish reason;
    uint64_t first_ns, last_ns; /* of answer tokens */
};

static void show(struct answer *a, const char *text, size_t n)
{
    if (a->s->json) {
        sl_buf_add(&a->text, text, n);
        return;
    }
    fwrite(text, 1, n, stdout);
    if (!fflush(stdout)) return;
    struct sl_err e; /* nobody reads on: why compute on */
    sl_err_set(&e, SL_EIO, "standard output could not be written: %s", strerror(errno));
    sl_session_interrupt(a->session, &e);
}

static void on_reply(void *arg, const struct sl_effect *fx)
{
    struct answer *a = arg;
    if (fx->kind == SL_FX_TOKEN) {
        a->last_ns = sl_env_now_ns();
        if (!a->first_ns) a->first_ns = a->last_ns;
        json_array_append_new(a->ids, json_integer(fx->token.token));
        show(a, fx->token.text, fx->token.text_len);
    } else if (fx->kind == SL_FX_DONE) {
        show(a, fx->done.text, fx->done.text_len);
        a->timings = fx->done.timings;
        a->prompt_tokens = fx->done.prompt_tokens;
        a->tokens = fx->done.completion_tokens;
        a->reason = fx->done.reason;
    }
}

static int read_file(const char *path, struct sl_buf *out, struct sl_err *err)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!f) return sl_err_set(err, SL_EINPUT, "cannot read %s", path);
    int r = sl_buf_read(out, f);
    if (f != stdin) fclose(f);
    if (r == SL_EIO)
        return sl_err_set(err, SL_EINPUT, "cannot read %s", path); /* a directory, say */
    return r ? sl_err_set(err, r, "%s is too long for a prompt", path) : 0;
}

/* The prompt as ids: --tokens, or text, through the chat template with --chat. */
static int make_prompt(const struct settings *s, const struct sl_service *svc, struct sl_ids *ids,
                       struct sl_err *err)
{
    if (s->tokens)
        return sl_generate_parse_ids(s->tokens, sl_service_config(svc)->n_vocab, ids, err);
    struct sl_buf text, rendered;
    sl_buf_init(&text, SL_TOK_TEXT_MAX);
    sl_buf_init(&rendered, SL_TOK_TEXT_MAX);
    int r =
        s->file ? read_file(s->file, &text, err) : sl_buf_puts(&text, s->prompt ? s->prompt : "");
    const struct sl_buf *use = &text;
    int flags = SL_TOK_BOS;
    if (r == 0 && s->chat) {
        if (!sl_service_chat(svc)) {
            r = sl_err_set(err, SL_EUNSUPPORTED,
                           "the model has no chat template; give one with --chat-template FILE, or "
                           "leave --chat out");
        } else {
            json_t *req = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content",
                                    sl_buf_str(&text));
            r = req ? sl_chat_render(sl_service_chat(svc), req, &rendered, err)
                    : sl_err_set(err, SL_EINPUT, "the prompt is not valid UTF-8");
            json_decref(req);
            use = &rendered;
            flags = SL_TOK_SPECIAL;
        }
    }
    if (r == 0)
        r = sl_tokenizer_encode(sl_service_tokenizer(svc), sl_buf_str(use), use->len, flags, ids,
                                err);
    if (r == 0 && ids->len == 0)
        r = sl_err_set(err, SL_EUSAGE,
                       "the prompt is empty: give -p TEXT, -f FILE or --tokens IDS");
    sl_buf_close(&text);
    sl_buf_close(&rendered);
    return r;
}

static double decode_speed(const struct answer *a)
{
    uint64_t ns = a->last_ns - a->first_ns;
    return a->tokens > 1 && ns ? (double)(a->tokens - 1) * 1e9 / (double)ns : 0;
}

static void print_json(const struct sl_session *s, struct answer *a)
{
    char *clean = malloc(3 * a->text.len + 1);
    size_t n = clean ? sl_utf8_scrub(sl_buf_str(&a->text), a->text.len, clean) : 0;
    double prefill_s = (double)a->timings.prefill_ns / 1e9;
    json_t *j = json_pack(
        "{s:o, s:o, s:s, s:i, s:i, s:{s:f, s:f, s:f, s:f, s:f}, s:o}", "text",
        json_stringn(clean ? clean : "", n), "tokens", json_incref(a->ids), "finish_reason",
        sl_generate_reason(a->reason), "prompt_tokens", a->prompt_tokens, "completion_tokens",
        a->tokens, "timings", "queue_ms", (double)a->timings.queue_ns / 1e6, "prefill_ms",
        (double)a->timings.prefill_ns / 1e6, "decode_ms", (double)a->timings.decode_ns / 1e6,
        "prefill_tokens_per_second", prefill_s > 0 ? a->prompt_tokens / prefill_s : 0.0,
        "decode_tokens_per_second", decode_speed(a), "stages", sl_generate_stages_json(s->service));
    json_dumpf(j, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(j);
    free(clean);
}

static void print_stats(const struct sl_session *s, const struct answer *a)
{
    fprintf(stderr, "\n%d prompt tokens in %.1f ms, %d answer tokens at %.1f tok/s\n",
            a->prompt_tokens, (double)a->timings.prefill_ns / 1e6, a->tokens, decode_speed(a));
    sl_service_print(s->service, stderr);
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const char *yaml = words[0];
    const struct settings *s = settings;
    static struct sl_session session;
    struct sl_cluster cluster;
    struct sl_ids ids = {0};
    struct answer a = {.s = s, .session = &session, .ids = json_array()};
    sl_buf_init(&a.text, ANSWER_MAX);
    int r = sl_session_cluster(&s->session, yaml, &cluster, err);
    if (r == 0) r = sl_session_open(&session, &cluster, err);
    if (r == 0) {
        struct sl_submit req = {.id = 0};
        sl_generate_fill(&s->generate, &req);
        r = make_prompt(s, session.service, &ids, err);
        req.tokens = ids.data;
        req.n_tokens = (int)ids.len;
        if (s->stop) req.stops[req.n_stops++] = s->stop;
        if (r == 0) r = sl_session_run(&session, &req, on_reply, &a, err);
        if (r == 0 && (s->json || s->stats)) sl_session_settle(&session);
        if (r == 0 && s->json) print_json(&session, &a);
        if (r == 0 && !s->json) putchar('\n');
        if (r == 0 && s->stats) print_stats(&session, &a);
        sl_session_close(&session, 1);
    }
    free(ids.data);
    sl_buf_close(&a.text);
    json_decref(a.ids);
    return r;
}

int sl_cmd_run(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "run",
        .usage = "usage: sluice run (-m MODEL | CLUSTER.yaml) -p TEXT [options]\n"
                 "\n"
                 "Starts the model, or the cluster, answers one prompt on stdout and ends.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {.generate = SL_GENERATE_DEFAULTS};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
