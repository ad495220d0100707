/* cmd_chat.c - `sluice chat`: a conversation in the terminal, streaming, with line editing and
 * history (libedit).
 *
 * It talks to a running coordinator (--connect, the socket API) or starts the model itself. ^C
 * stops an answer, ^D or /quit ends, /clear forgets the conversation. */
#include <errno.h>
#include <histedit.h>
#include <jansson.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "base/buf.h"
#include "base/sl_assert.h"
#include "cli/chat_peer.h"
#include "cli/cmd.h"

#define ANSWER_MAX (16u << 20) /* bytes of one answer */
#define HISTORY_LINES 500

struct settings {
    struct sl_session_options session;
    struct sl_generate_options generate;
    const char *connect, *key, *system, *once;
    int table;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "--connect", "ADDR", AT(connect),
     "a coordinator's socket: a path or HOST:PORT", 0, 0},
    {SL_CONF_STRING, "--key", "KEY", AT(key), "API key for --connect (default: SLUICE_API_KEY)", 0,
     0},
    {SL_CONF_STRING, "--system", "TEXT", AT(system), "system message", 0, 0},
    {SL_CONF_STRING, "-p --once --prompt", "TEXT", AT(once),
     "ask this one question, print the answer and end", 0, 0},
    {SL_CONF_FLAG, "--stages-table", NULL, AT(table),
     "print the stage table at the end (--connect)", 0, 0},
    SL_GENERATE_ROWS(struct settings),
    SL_SESSION_ROWS(struct settings),
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static const char *prompt_text(EditLine *e)
{
    (void)e;
    return "> ";
}

/* What is shown of an answer; reasoning is dimmed, and only a terminal can do that. */
struct answer {
    struct sl_buf text; /* without the reasoning: what the conversation keeps */
    int dim, tty;
};

static void set_dim(struct answer *a, int dim)
{
    if (a->dim == dim) return;
    a->dim = dim;
    if (a->tty) fputs(dim ? "\x1b[2m" : "\x1b[0m\n\n", stdout);
}

static int show(void *arg, enum sl_chat_part part, const char *text, size_t n)
{
    struct answer *a = arg;
    if (part == SL_CHAT_REASONING && !a->tty) return interrupted; /* it is not the answer */
    set_dim(a, part == SL_CHAT_REASONING);
    fwrite(text, 1, n, stdout);
    fflush(stdout);
    if (part == SL_CHAT_TEXT) sl_buf_add(&a->text, text, n);
    return interrupted;
}

static void add_message(json_t *messages, const char *role, const char *content, size_t n)
{
    json_t *text = json_stringn(content, n);
    if (!text) text = json_string("(not valid UTF-8)");
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", text));
}

/* One question and its answer; the conversation grows by both. */
static int ask(struct sl_chat_peer *peer, json_t *messages, const char *question,
               struct sl_err *err)
{
    struct answer answer = {.tty = isatty(STDOUT_FILENO)};
    sl_buf_init(&answer.text, ANSWER_MAX);
    add_message(messages, "user", question, strlen(question));
    interrupted = 0;
    int r = sl_chat_peer_ask(peer, messages, show, &answer, err);
    set_dim(&answer, 0);
    putchar('\n');
    if (r == 0)
        add_message(messages, "assistant", sl_buf_str(&answer.text), answer.text.len);
    else
        json_array_remove(messages,
                          json_array_size(messages) - 1); /* the question may be asked again */
    sl_buf_close(&answer.text);
    return r;
}

static void start_over(json_t *messages, const char *system)
{
    json_array_clear(messages);
    if (system) add_message(messages, "system", system, strlen(system));
}

/* One character from the terminal; the loop runs while nobody types. */
static int read_char(EditLine *e, wchar_t *out)
{
    struct sl_chat_peer *peer;
    mbstate_t state = {0};
    el_get(e, EL_CLIENTDATA, &peer);
    for (;;) {
        unsigned char byte;
        sl_chat_peer_wait(peer, STDIN_FILENO);
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR) {
            interrupted = 0; /* nothing is being answered */
            continue;
        }
        if (n <= 0) return (int)n;
        size_t r = mbrtowc(out, (const char *)&byte, 1, &state);
        if (r == (size_t)-2) continue; /* the first bytes of a character */
        if (r == (size_t)-1) *out = byte;
        return 1;
    }
}

static int converse(struct sl_chat_peer *peer, json_t *messages, const struct settings *s)
{
    HistEvent ev;
    History *h = history_init();
    EditLine *e = el_init("sluice", stdin, stdout, stderr);
    if (!h || !e) return SL_ENOMEM;
    history(h, &ev, H_SETSIZE, HISTORY_LINES);
    el_set(e, EL_PROMPT, prompt_text);
    el_set(e, EL_EDITOR, "emacs");
    el_set(e, EL_HIST, history, h);
    el_set(e, EL_SIGNAL, 1);
    el_set(e, EL_CLIENTDATA, peer);
    el_set(e, EL_GETCFN, read_char);
    for (;;) {
        int n = 0;
        const char *got = el_gets(e, &n);
        if (!got || n <= 0) break;
        char *line = strdup(got);
        if (!line) break;
        line[strcspn(line, "\r\n")] = 0;
        int quit = strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0;
        struct sl_err err = {0};
        if (quit || !*line) {
        } else if (strcmp(line, "/clear") == 0) {
            start_over(messages, s->system);
        } else {
            history(h, &ev, H_ENTER, got);
            if (ask(peer, messages, line, &err)) fprintf(stderr, "sluice chat: %s\n", err.msg);
        }
        free(line);
        if (quit) break;
    }
    el_end(e);
    history_end(h);
    return 0;
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const char *yaml = words[0];
    const struct settings *s = settings;
    struct sl_chat_peer *peer = NULL;
    int r = s->connect ? sl_chat_peer_connect(s->connect, s->key, &s->generate, &peer, err)
                       : sl_chat_peer_start(&s->session, yaml, &s->generate, &peer, err);
    if (r) return r;
    json_t *messages = json_array();
    start_over(messages, s->system);
    struct sigaction old, sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, &old);
    if (s->once)
        r = ask(peer, messages, s->once, err);
    else
        r = converse(peer, messages, s);
    sigaction(SIGINT, &old, NULL);
    if (r == 0 && s->table) r = sl_chat_peer_table(peer, stdout, err);
    json_decref(messages);
    sl_chat_peer_close(peer);
    return r;
}

int sl_cmd_chat(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "chat",
        .usage = "usage: sluice chat (--connect ADDR | -m MODEL | CLUSTER.yaml) [options]\n"
                 "\n"
                 "Talks to the model; /clear forgets, /quit or ^D ends, ^C stops an answer.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = run,
    };
    struct settings s = {.generate = SL_GENERATE_DEFAULTS};
    setlocale(LC_CTYPE, ""); /* line editing in the terminal's characters */
    return sl_cmd_main(&cmd, &s, argc, argv);
}
