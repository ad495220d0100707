/* launch.c - see launch.h.
 *
 * The exit is reported when the process has ended and its stderr is read to the end, so that its
 * last words come along; a grandchild that keeps stderr open delays this by LAST_WORDS_MS at most.
 * Children get a session of their own: a ^C in the terminal reaches the coordinator alone, which
 * drains and then tells them to leave. */
#include "coordinator/launch.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"

#define LAST_WORDS_MS 500
#define REAP_MS                                                                                    \
    2000 /* a killed process that the kernel does not give back (a device hangs, a debugger holds  \
            it) is not waited for */
#define LINE_MAX_BYTES 2000 /* of a child's stderr line; longer ones are cut */
#define ARGS_MAX 48
#define CPUS_TEXT_MAX 8192 /* bytes of a --cpus argument */

struct sl_child {
    uv_process_t process;
    uv_pipe_t err, in;
    uv_timer_t patience;
    int open_handles;
    int exited, eof, reported, has_in, killed;
    int status;
    sl_child_exit_fn on_exit; /* NULL: abandoned */
    void *arg;
    struct sl_buf line;
    char last_line[256];
    char chunk[4096];
    char key[80];
    uv_write_t key_write;
};

/* ---- the command line ------------------------------------------------------------------------ */

struct args {
    struct sl_buf text; /* all words, NUL-separated */
    size_t at[ARGS_MAX];
    int n;
};

static void add(struct args *a, const char *word)
{
    SL_ASSERT(a->n < ARGS_MAX - 1);
    a->at[a->n++] = a->text.len;
    int r = sl_buf_add(&a->text, word, strlen(word) + 1);
    SL_ASSERT(r == 0);
}

static void add_cpus(struct args *a, const struct sl_device *d)
{
    if (!d->cpus || d->n_cpus == 0) return;
    struct sl_buf list;
    sl_buf_init(&list, CPUS_TEXT_MAX);
    for (int i = 0; i < d->n_cpus; i++) sl_buf_printf(&list, "%s%d", i ? "," : "", d->cpus[i]);
    add(a, "--cpus");
    add(a, sl_buf_str(&list));
    sl_buf_close(&list);
}

static void stage_words(struct args *a, const struct sl_launch_params *p)
{
    char number[32];
    add(a, "stage");
    add(a, "--join");
    add(a, p->control);
    add(a, "--device");
    add(a, p->device->name);
    if (p->device->backend) {
        add(a, "--backend");
        add(a, p->device->backend);
    }
    add_cpus(a, p->device);
    if (p->device->memory_bytes) {
        snprintf(number, sizeof number, "%llu", (unsigned long long)p->device->memory_bytes);
        add(a, "--memory");
        add(a, number);
    }
    static const char *const levels[] = {"error", "warn", "info", "debug", "trace"};
    add(a, "--log-level");
    add(a, levels[sl_log_get_level()]);
}

/* Appends word in single quotes for the remote shell. */
static void quote(struct sl_buf *out, const char *word)
{
    sl_buf_puts(out, out->len ? " '" : "'");
    for (; *word; word++) {
        if (*word == '\'')
            sl_buf_puts(out, "'\\''");
        else
            sl_buf_putc(out, *word);
    }
    sl_buf_putc(out, '\'');
}

static void ssh_words(struct args *a, const struct sl_launch_params *p)
{
    const struct sl_node *n = p->node;
    char port[16];
    add(a, "ssh");
    add(a, "-o");
    add(a, "BatchMode=yes");
    add(a, "-o");
    add(a, "ConnectTimeout=10");
    if (n->ssh_port) {
        snprintf(port, sizeof port, "%d", n->ssh_port);
        add(a, "-p");
        add(a, port);
    }
    char *options = n->ssh_options ? strdup(n->ssh_options) : NULL, *save = NULL;
    for (char *t = options ? strtok_r(options, " ", &save) : NULL; t && a->n < ARGS_MAX - 4;
         t = strtok_r(NULL, " ", &save))
        add(a, t);
    free(options);
    add(a, "--");
    add(a, n->ssh ? n->ssh : n->host);
    struct args remote = {.n = 0};
    sl_buf_init(&remote.text, 64 * 1024);
    add(&remote, n->program ? n->program : "sluice");
    stage_words(&remote, p);
    add(&remote, "--key-stdin");
    struct sl_buf line;
    sl_buf_init(&line, 128 * 1024);
    sl_buf_puts(&line, "exec");
    for (int i = 0; i < remote.n; i++) quote(&line, remote.text.data + remote.at[i]);
    add(a, sl_buf_str(&line));
    sl_buf_close(&line);
    sl_buf_close(&remote.text);
}

/* ---- what the child says and how it ends ----------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
    struct sl_child *c = h->data;
    if (--c->open_handles > 0) return;
    sl_buf_close(&c->line);
    free(c);
}

static void close_handle(void *h)
{
    if (!uv_is_closing(h)) uv_close(h, on_handle_closed);
}

static void finish(struct sl_child *c)
{
    if (c->reported) return;
    c->reported = 1;
    if (c->on_exit) c->on_exit(c->arg, c->status, c->last_line);
    close_handle(&c->process);
    close_handle(&c->err);
    close_handle(&c->patience);
    if (c->has_in) close_handle(&c->in);
}

static void kill_now(struct sl_child *c);

/* The one timer: whoever was to leave is killed; what was killed, or said its last words to
 * somebody who keeps stderr open, is waited for no longer. */
static void on_patience(uv_timer_t *t)
{
    struct sl_child *c = t->data;
    if (c->exited || c->killed)
        finish(c);
    else
        kill_now(c);
}

static void kill_now(struct sl_child *c)
{
    c->killed = 1;
    uv_process_kill(&c->process, SIGKILL);
    uv_timer_start(&c->patience, on_patience, REAP_MS, 0);
}

static void on_exit_status(uv_process_t *p, int64_t status, int sig)
{
    struct sl_child *c = p->data;
    c->exited = 1;
    c->status = sig ? -sig : (int)status;
    if (c->eof)
        finish(c);
    else
        uv_timer_start(&c->patience, on_patience, LAST_WORDS_MS, 0);
}

static void say(struct sl_child *c)
{
    if (!c->line.len) return;
    snprintf(c->last_line, sizeof c->last_line, "%s", sl_buf_str(&c->line));
    sl_buf_putc(&c->line, '\n');
    ssize_t done = write(STDERR_FILENO, c->line.data, c->line.len);
    (void)done;
    sl_buf_clear(&c->line);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *buf)
{
    struct sl_child *c = h->data;
    (void)hint;
    *buf = uv_buf_init(c->chunk, sizeof c->chunk);
}

static void on_stderr(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct sl_child *c = s->data;
    for (ssize_t i = 0; i < n; i++) {
        if (buf->base[i] == '\n')
            say(c);
        else if (c->line.len < LINE_MAX_BYTES)
            sl_buf_putc(&c->line, buf->base[i]);
    }
    if (n >= 0) return;
    say(c);
    c->eof = 1;
    uv_read_stop(s);
    if (c->exited) finish(c);
}

static void send_key(struct sl_child *c, const char *key)
{
    snprintf(c->key, sizeof c->key, "%s\n", key);
    uv_buf_t b = uv_buf_init(c->key, (unsigned)strlen(c->key));
    uv_write(&c->key_write, (uv_stream_t *)&c->in, &b, 1, NULL);
}

/* The environment of a local child: ours, with the key and with our pid, so that it can tell that
 * we died before it asked the kernel to be told. */
static char **child_environment(const char *key, char *key_line, size_t key_cap, char *parent,
                                size_t parent_cap)
{
    extern char **environ;
    size_t n = 0;
    while (environ[n]) n++;
    char **env = calloc(n + 3, sizeof *env);
    if (!env) return NULL;
    size_t w = 0;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "SLUICE_JOIN_KEY=", 16) != 0 &&
            strncmp(environ[i], "SLUICE_PARENT=", 14) != 0)
            env[w++] = environ[i];
    snprintf(key_line, key_cap, "SLUICE_JOIN_KEY=%s", key);
    snprintf(parent, parent_cap, "SLUICE_PARENT=%d", (int)getpid());
    env[w++] = key_line;
    env[w++] = parent;
    return env;
}

int sl_launch(struct uv_loop_s *loop, const struct sl_launch_params *p, struct sl_child **out,
              struct sl_err *err)
{
    SL_ASSERT(p->node->launch == SL_LAUNCH_LOCAL || p->node->launch == SL_LAUNCH_SSH);
    struct sl_child *c = calloc(1, sizeof *c);
    if (!c) return sl_err_set(err, SL_ENOMEM, "no memory for a child process");
    int ssh = p->node->launch == SL_LAUNCH_SSH;
    struct args a = {.n = 0};
    sl_buf_init(&a.text, 256 * 1024);
    if (ssh) {
        ssh_words(&a, p);
    } else {
        add(&a, p->node->program ? p->node->program : p->program);
        stage_words(&a, p);
    }
    char *argv[ARGS_MAX], key_line[128], parent[48];
    for (int i = 0; i < a.n; i++) argv[i] = a.text.data + a.at[i];
    argv[a.n] = NULL;
    char **env =
        ssh ? NULL
            : child_environment(p->join_key, key_line, sizeof key_line, parent, sizeof parent);
    if (!ssh && !env) {
        sl_buf_close(&a.text);
        free(c);
        return sl_err_set(err, SL_ENOMEM, "no memory for a child process");
    }

    uv_pipe_init(loop, &c->err, 0);
    uv_pipe_init(loop, &c->in, 0);
    uv_timer_init(loop, &c->patience);
    c->err.data = c->in.data = c->patience.data = c->process.data = c;
    c->has_in = 1;
    c->open_handles = 4;
    c->on_exit = p->on_exit;
    c->arg = p->arg;
    sl_buf_init(&c->line, LINE_MAX_BYTES + 2);
    uv_stdio_container_t io[3] = {
        {.flags = ssh ? UV_CREATE_PIPE | UV_READABLE_PIPE : UV_IGNORE,
         .data.stream = (uv_stream_t *)&c->in},
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->err},
    };
    uv_process_options_t o = {.exit_cb = on_exit_status,
                              .file = argv[0],
                              .args = argv,
                              .env = env,
                              .flags = UV_PROCESS_DETACHED,
                              .stdio_count = 3,
                              .stdio = io};
    int r = uv_spawn(loop, &c->process, &o);
    free(env);
    if (r) {
        /* a program that is not there will not be there the next time */
        int code = r == UV_ENOENT || r == UV_EACCES ? SL_EINPUT : SL_ESYS;
        sl_err_set(err, code, "cannot start %s: %s; see `program:` in the topology file", argv[0],
                   uv_strerror(r));
        sl_buf_close(&a.text);
        c->on_exit = NULL;
        finish(c);
        return code;
    }
    sl_buf_close(&a.text);
    uv_read_start((uv_stream_t *)&c->err, on_alloc, on_stderr);
    if (ssh) send_key(c, p->join_key);
    *out = c;
    return 0;
}

int sl_child_pid(const struct sl_child *c)
{
    return c->process.pid;
}

void sl_child_abandon(struct sl_child *c, int grace_ms)
{
    c->on_exit = NULL;
    if (c->exited || c->reported) return;
    if (grace_ms)
        uv_timer_start(&c->patience, on_patience, (uint64_t)grace_ms, 0);
    else
        kill_now(c);
}
