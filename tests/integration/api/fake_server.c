/* fake_server.c - the HTTP API in front of the fake service as a program: for clients in other
 * languages.
 *
 * Prints the port on stdout and serves until standard input ends. `--key KEY` asks for that API
 * key; `--answer TEXT` is what every request is answered with; `--template FILE`, `--tool-parser`
 * and `--reasoning-parser` choose how the model is talked to. */
#include <stdio.h>
#include <string.h>
#include <uv.h>

#include "coordinator/http.h"
#include "coordinator/keys.h"
#include "tests/lib/fake_service.h"

static struct sl_http *http;
static struct sl_service *service;
static uv_pipe_t in;

static void on_service_closed(void *arg)
{
    (void)arg;
}

static void on_http_stopped(void *arg)
{
    (void)arg;
    fake_close(service, on_service_closed, NULL);
}

static void on_alloc(uv_handle_t *h, size_t n, uv_buf_t *buf)
{
    static char bytes[256];
    (void)h, (void)n;
    *buf = uv_buf_init(bytes, sizeof(bytes));
}

static void on_input(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    (void)buf;
    if (n >= 0) return;
    uv_close((uv_handle_t *)s, NULL);
    sl_http_stop(http, on_http_stopped, NULL);
}

/* Takes the options; 0, or 2 with a word on stderr. */
static int configure(uv_loop_t *loop, int argc, char **argv, struct sl_keys **keys)
{
    struct sl_chat_options chat = {0};
    struct sl_err err = {0};
    int rc = 0;
    service = fake_new(loop);
    for (int i = 1; i + 1 < argc && rc == 0; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--key"))
            rc = sl_keys_parse("--key", value, strlen(value), keys, &err);
        else if (!strcmp(name, "--answer"))
            fake_script(service)->answer = value;
        else if (!strcmp(name, "--template"))
            chat.template_file = value;
        else if (!strcmp(name, "--tool-parser"))
            chat.tool_parser = value;
        else if (!strcmp(name, "--reasoning-parser"))
            chat.reasoning_parser = value;
        else
            rc = sl_err_set(&err, SL_EUSAGE, "%s is no option", name);
    }
    if (rc == 0) rc = fake_chat(service, &chat, &err);
    if (rc) fprintf(stderr, "%s\n", err.msg);
    return rc ? 2 : 0;
}

int main(int argc, char **argv)
{
    uv_loop_t loop;
    struct sl_err err = {0};
    struct sl_keys *keys = NULL;
    uv_loop_init(&loop);
    if (configure(&loop, argc, argv, &keys)) return 2;
    if (sl_http_start(&loop, service, "127.0.0.1:0", keys, &http, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 2;
    }
    printf("%d\n", sl_http_port(http));
    fflush(stdout);
    uv_pipe_init(&loop, &in, 0);
    uv_pipe_open(&in, 0);
    uv_read_start((uv_stream_t *)&in, on_alloc, on_input);
    uv_run(&loop, UV_RUN_DEFAULT);
    sl_keys_free(keys);
    return uv_loop_close(&loop) ? 1 : 0;
}
