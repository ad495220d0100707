/* cmd_serve.c - `sluice serve`: the coordinator of a cluster, or everything in one process with -m,
 * until SIGTERM.
 *
 * The ports open at once (/health says 503 while stages load). SIGTERM and ^C drain: new requests
 * are refused, running ones end; a second signal fails them. The stage table is printed when it is
 * over. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/sl_assert.h"
#include "cli/cmd.h"
#include "cli/session.h"
#include "coordinator/http.h"
#include "coordinator/keys.h"
#include "coordinator/listen.h"

#define HTTP_DEFAULT "127.0.0.1:8080"

struct settings {
    struct sl_session_options session;
    const char *http, *host, *socket, *api_keys;
    int64_t port;
};

#define AT(m) offsetof(struct settings, m)
static const struct sl_conf_row rows[] = {
    {SL_CONF_STRING, "--http", "HOST:PORT", AT(http),
     "OpenAI-compatible HTTP API (default " HTTP_DEFAULT ", `off` for none)", 0, 0},
    {SL_CONF_STRING, "--host", "HOST", AT(host), "the host part of --http", 0, 0},
    {SL_CONF_INT, "--port", "PORT", AT(port), "the port part of --http", 0, 65535},
    {SL_CONF_STRING, "--socket", "PATH|HOST:PORT", AT(socket), "socket API (protobuf)", 0, 0},
    {SL_CONF_STRING, "--api-keys --api-key-file", "FILE", AT(api_keys),
     "file of API keys, one a line (default: none needed)", 0, 0},
    {SL_CONF_INT, "--queue", "N", AT(session.queue),
     "requests that may wait; more get 429 (default 64)", 0, 1 << 20},
    SL_SESSION_ROWS(struct settings),
};

struct server {
    struct sl_session session;
    const struct settings *settings;
    char http_address[300];
    const char *socket_address;
    struct sl_keys *keys;
    struct sl_http *http;
    struct sl_listen *listen;
    uv_signal_t term, intr;
    int announced, draining, failed;
    struct sl_err err;
};

static void announce(struct server *v)
{
    const struct sl_service *s = v->session.service;
    if (v->announced) {
        fprintf(stderr, "serving again\n");
        return;
    }
    v->announced = 1;
    sl_service_print_plan(s, stdout);
    printf("ready in %.1f s:", (double)(v->session.ready_ns - v->session.start_ns) / 1e9);
    if (v->http) printf(" http://%s", v->http_address);
    if (v->listen) printf(" socket %s", v->socket_address);
    printf("\n");
    fflush(stdout);
}

static void on_state(void *arg, const struct sl_err *err)
{
    struct server *v = arg;
    if (!err) {
        announce(v);
        return;
    }
    v->failed = 1;
    v->err = *err;
    uv_stop(&v->session.loop);
}

static void on_drained(void *arg)
{
    struct server *v = arg;
    v->session.closed = 1;
    uv_stop(&v->session.loop);
}

static void on_signal(uv_signal_t *h, int sig)
{
    struct server *v = h->data;
    (void)sig;
    fprintf(stderr, v->draining
                        ? "stopping now\n"
                        : "draining: running requests end first; once more to stop at once\n");
    sl_service_stop(v->session.service, v->draining, on_drained, v);
    v->draining = 1;
}

static int http_address(struct server *v, struct sl_err *err)
{
    const struct settings *s = v->settings;
    const char *base = s->http                   ? s->http
                       : v->session.cluster.http ? v->session.cluster.http
                                                 : HTTP_DEFAULT;
    const char *colon = strrchr(base, ':');
    if (strcmp(base, "off") == 0) return 0;
    if (!colon) return sl_err_set(err, SL_EUSAGE, "--http '%s' is not HOST:PORT", base);
    char port[16];
    snprintf(port, sizeof port, "%d", (int)s->port);
    snprintf(v->http_address, sizeof v->http_address, "%.*s:%s",
             s->host ? (int)strlen(s->host) : (int)(colon - base), s->host ? s->host : base,
             s->port >= 0 ? port : colon + 1);
    return 0;
}

static int open_fronts(struct server *v, struct sl_err *err)
{
    struct sl_session *s = &v->session;
    const char *keys = v->settings->api_keys ? v->settings->api_keys : s->cluster.api_keys;
    int r = keys ? sl_keys_read(keys, &v->keys, err) : 0;
    if (r == 0) r = http_address(v, err);
    if (r == 0 && v->http_address[0]) {
        r = sl_http_start(&s->loop, s->service, v->http_address, v->keys, &v->http, err);
        char *colon = strrchr(v->http_address, ':');
        if (r == 0)
            snprintf(colon, (size_t)(v->http_address + sizeof v->http_address - colon), ":%d",
                     sl_http_port(v->http));
    }
    v->socket_address = v->settings->socket ? v->settings->socket : s->cluster.socket;
    if (r == 0 && v->socket_address)
        r = sl_listen_start(&s->loop, s->service, v->socket_address, v->keys, &v->listen, err);
    return r;
}

static void on_front_stopped(void *arg)
{
    int *left = arg;
    --*left;
}

static void close_fronts(struct server *v)
{
    int left = 0;
    if (v->http) {
        left++;
        sl_http_stop(v->http, on_front_stopped, &left);
    }
    if (v->listen) {
        left++;
        sl_listen_stop(v->listen, on_front_stopped, &left);
    }
    while (left > 0) uv_run(&v->session.loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&v->term, NULL);
    uv_close((uv_handle_t *)&v->intr, NULL);
    sl_keys_free(v->keys);
}

static int serve(void *settings, const char *const words[], struct sl_err *err)
{
    const char *yaml = words[0];
    const struct settings *s = settings;
    static struct server v;
    struct sl_cluster cluster;
    v.settings = s;
    int r = sl_session_cluster(&s->session, yaml, &cluster, err);
    v.session.on_state = on_state;
    v.session.on_state_arg = &v;
    if (r == 0) r = sl_session_start(&v.session, &cluster, err);
    if (r) return r;
    uv_signal_init(&v.session.loop, &v.term);
    uv_signal_init(&v.session.loop, &v.intr);
    v.term.data = v.intr.data = &v;
    uv_signal_start(&v.term, on_signal, SIGTERM);
    uv_signal_start(&v.intr, on_signal, SIGINT);
    r = open_fronts(&v, err);
    if (r == 0) {
        while (!v.session.closed && !v.failed) uv_run(&v.session.loop, UV_RUN_DEFAULT);
        if (v.failed) {
            *err = v.err;
            r = v.err.code;
        }
        if (v.announced) sl_service_print(v.session.service, stderr);
    }
    close_fronts(&v);
    sl_session_close(&v.session, 1);
    return r;
}

int sl_cmd_serve(int argc, char **argv)
{
    static const struct sl_cmd cmd = {
        .name = "serve",
        .usage = "usage: sluice serve CLUSTER.yaml [options]\n"
                 "       sluice serve -m MODEL [options]\n"
                 "\n"
                 "Launches the stages of a topology file, or runs the model in this process, and "
                 "serves it until SIGTERM.\n"
                 "\n",
        .rows = rows,
        .n_rows = SL_ARRAY_LEN(rows),
        .words = 1,
        .work = serve,
    };
    struct settings s = {.port = -1};
    return sl_cmd_main(&cmd, &s, argc, argv);
}
