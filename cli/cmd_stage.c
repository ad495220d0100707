/* cmd_stage.c - `sluice stage`: one stage process that joins a coordinator. Started by `serve`, by
 * ssh, or by whatever starts processes on that host. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/conf.h"
#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "cli/session.h"
#include "stage/loop.h"

#define JOIN_RETRY_MS 500 /* between attempts to reach the coordinator */

struct settings {
    const char *join, *device, *cpus, *backend, *memory, *transports, *key_file, *log_level;
    int64_t threads, wait_s;
    int key_stdin;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "--join", "HOST:PORT", AT(join),
     "where the coordinator waits for stages (its log says)", 0, 0},
    {SL_CONF_STRING, "--device", "NAME", AT(device),
     "the topology's device this is, e.g. beta/0 (default: the next free one)", 0, 0},
    {SL_CONF_STRING, "--cpus", "LIST", AT(cpus),
     "logical CPUs of the compute threads, e.g. 0-7 (default: all)", 0, 0},
    {SL_CONF_INT, "-t --threads", "N", AT(threads), "use only the first N of them", 1,
     SL_SESSION_THREADS_MAX},
    {SL_CONF_STRING, "--backend", "ROW", AT(backend),
     "kernels: cuda:N (a card), cpu (best), ref, portable, avx2, avx512, amx", 0, 0},
    {SL_CONF_STRING, "--memory", "BYTES", AT(memory),
     "limit for weights and KV cache (default: what is free)", 0, 0},
    {SL_CONF_STRING, "--transports", "LIST", AT(transports),
     "data transports to offer, e.g. ucx-tcp (default: all)", 0, 0},
    {SL_CONF_STRING, "--key-file", "FILE", AT(key_file),
     "file with the join key (default: SLUICE_JOIN_KEY)", 0, 0},
    {SL_CONF_FLAG, "--key-stdin", NULL, AT(key_stdin), "read the join key from standard input", 0,
     0},
    {SL_CONF_INT, "--wait", "SECONDS", AT(wait_s),
     "keep trying to reach the coordinator that long (default 60)", 0, 86400},
    {SL_CONF_STRING, "--log-level", "LEVEL", AT(log_level), "error, warn, info, debug, trace", 0,
     0},
};

struct joining {
    uv_loop_t loop;
    struct sl_stage_loop *stage;
    int ended;
    struct sl_err err;
};

static void on_end(void *arg, const struct sl_err *err)
{
    struct joining *j = arg;
    j->ended = 1;
    if (err) j->err = *err;
    uv_stop(&j->loop);
}

static void on_signal(uv_signal_t *s, int sig)
{
    struct joining *j = s->data;
    (void)sig;
    j->ended = 1;
    uv_stop(&j->loop);
}

static int read_key(const struct settings *s, char *key, size_t cap, struct sl_err *err)
{
    FILE *f = s->key_stdin ? stdin : s->key_file ? fopen(s->key_file, "r") : NULL;
    if (s->key_file && !f)
        return sl_err_set(err, SL_EINPUT, "cannot read the key file %s", s->key_file);
    const char *from_env = sl_env_get("SLUICE_JOIN_KEY");
    if (!f) {
        if (!from_env)
            return sl_err_set(
                err, SL_EUSAGE,
                "no join key: set SLUICE_JOIN_KEY or give --key-file (topology: join_key)");
        snprintf(key, cap, "%s", from_env);
        return 0;
    }
    if (!fgets(key, (int)cap, f)) key[0] = 0;
    key[strcspn(key, "\r\n")] = 0;
    if (f != stdin) fclose(f);
    return 0;
}

struct dial {
    uv_connect_t req;
    uv_tcp_t tcp;
    int status, done;
};

static void on_connect(uv_connect_t *req, int status)
{
    struct dial *d = sl_container_of(req, struct dial, req);
    d->status = status;
    d->done = 1;
}

/* A connected socket to the coordinator, trying again until wait_s has passed. */
static int dial(uv_loop_t *loop, const char *where, int64_t wait_s, int *fd, struct sl_err *err)
{
    char host[256], service[16];
    int port;
    if (sl_parse_hostport(where, host, sizeof host, &port))
        return sl_err_set(err, SL_EUSAGE, "--join '%s' is not HOST:PORT", where);
    snprintf(service, sizeof service, "%d", port);
    uint64_t until = sl_env_now_ns() + (uint64_t)wait_s * 1000000000u;
    for (;;) {
        struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
        uv_getaddrinfo_t look;
        int r = uv_getaddrinfo(loop, &look, NULL, host, service, &hints);
        if (r == 0) {
            struct dial d = {.done = 0};
            uv_tcp_init(loop, &d.tcp);
            r = uv_tcp_connect(&d.req, &d.tcp, look.addrinfo->ai_addr, on_connect);
            while (r == 0 && !d.done) uv_run(loop, UV_RUN_ONCE);
            if (r == 0) r = d.status;
            uv_os_fd_t got;
            if (r == 0 && uv_fileno((uv_handle_t *)&d.tcp, &got) == 0)
                *fd = fcntl(got, F_DUPFD_CLOEXEC, 0);
            uv_close((uv_handle_t *)&d.tcp, NULL);
            uv_run(loop, UV_RUN_NOWAIT);
            uv_freeaddrinfo(look.addrinfo);
        }
        if (r == 0) return 0;
        if (sl_env_now_ns() >= until)
            return sl_err_set(err, SL_EUNREACHABLE,
                              "no coordinator at %s: %s; is it running, is --join right?", where,
                              uv_strerror(r));
        uv_sleep(JOIN_RETRY_MS);
    }
}

static int run(void *settings, const char *const words[], struct sl_err *err)
{
    const struct settings *s = settings;
    static char name[128]; /* the log keeps the pointer */
    (void)words;
    snprintf(name, sizeof name, "[%s]", s->device ? s->device : "stage");
    sl_log_set_name(name);
    char key[128] = "";
    int cpus[SL_SESSION_THREADS_MAX], n_cpus = 0, fd = -1;
    uint64_t memory = 0;
    int r = sl_session_log_level(s->log_level, err);
    if (r) return r;
    if (!s->join) return sl_err_set(err, SL_EUSAGE, "give --join HOST:PORT");
    r = read_key(s, key, sizeof key, err);
    if (r) return r;
    if (s->memory && sl_parse_bytes(s->memory, &memory))
        return sl_err_set(err, SL_EUSAGE, "--memory '%s' is not like 4GiB", s->memory);
    struct sl_session_options pick = {.cpus = s->cpus, .threads = s->threads};
    n_cpus = sl_session_cpus(&pick, cpus, err);
    if (n_cpus < 0) return n_cpus;
    static struct joining j;
    uv_loop_init(&j.loop);
    r = dial(&j.loop, s->join, s->wait_s, &fd, err);
    if (r) return r;
    uv_signal_t term, intr;
    uv_signal_init(&j.loop, &term);
    uv_signal_init(&j.loop, &intr);
    term.data = intr.data = &j;
    uv_signal_start(&term, on_signal, SIGTERM);
    uv_signal_start(&intr, on_signal, SIGINT);
    struct sl_stage_loop_params p = {.device = s->device,
                                     .join_key = key,
                                     .backend = s->backend,
                                     .cpus = cpus,
                                     .n_cpus = n_cpus,
                                     .memory_bytes = memory,
                                     .ports = s->transports ? s->transports
                                                            : sl_env_get("SLUICE_TRANSPORTS"),
                                     .on_end = on_end,
                                     .arg = &j};
    r = sl_stage_loop_start(&j.loop, &p, fd, &j.stage, err);
    while (r == 0 && !j.ended) uv_run(&j.loop, UV_RUN_DEFAULT);
    if (r == 0 && j.err.code) {
        *err = j.err;
        r = j.err.code;
    }
    if (j.stage) sl_stage_loop_stop(j.stage, NULL, NULL);
    uv_close((uv_handle_t *)&term, NULL);
    uv_close((uv_handle_t *)&intr, NULL);
    uv_run(&j.loop, UV_RUN_DEFAULT);
    return r;
}

/* A child of a coordinator dies with it, however that one ends. */
static void follow_parent(void)
{
    const char *parent = sl_env_get("SLUICE_PARENT");
    if (!parent) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != atoi(parent)) _exit(1);
}

int sl_cmd_stage(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "stage",
        .usage = "usage: sluice stage --join HOST:PORT [options]\n"
                 "\n"
                 "Runs one stage of a cluster: joins the coordinator, loads the layers it is told "
                 "to and computes until told to\n"
                 "leave. Topology entries with `launch: external` wait for such stages.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 0,
        .work = run,
    };
    struct settings s = {.wait_s = 60};
    follow_parent();
    return sl_cmd_main(&cmd, &s, argc, argv);
}
