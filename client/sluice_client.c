/* sluice_client.c - the client side of the socket API, blocking, on POSIX sockets. */
#pragma GCC visibility push(default)
#include "client/sluice_client.h"
#pragma GCC visibility pop

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/text.h"
#include "proto/api.h"

#define READ_SIZE 65536
#define CONNECT_TIMEOUT_S 10

struct sl_remote {
    int fd;
    pthread_mutex_t sending; /* sl_remote_cancel may come from another thread */
    atomic_ullong current;   /* id of the request under way, 0 for none */
    uint64_t next_id;
    struct sl_buf in;
    size_t used; /* bytes of `in` that were taken */
    char *model;
    char error[SL_REMOTE_ERROR_MAX];
};

static int fail(struct sl_remote *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(struct sl_remote *r, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->error, sizeof(r->error), fmt, ap);
    va_end(ap);
    return code;
}

const char *sl_remote_error(const struct sl_remote *r)
{
    return r->error;
}

const char *sl_remote_model(const struct sl_remote *r)
{
    return r->model ? r->model : "";
}

/* ---- messages -------------------------------------------------------------------------------- */

static int send_all(struct sl_remote *r, const char *data, size_t n)
{
    int rc = 0;
    pthread_mutex_lock(&r->sending);
    while (n && !rc) {
        ssize_t k = send(r->fd, data, n, MSG_NOSIGNAL);
        if (k >= 0) {
            data += k;
            n -= (size_t)k;
        } else if (errno != EINTR) {
            rc = SL_REMOTE_LOST;
        }
    }
    pthread_mutex_unlock(&r->sending);
    return rc;
}

static int send_msg(struct sl_remote *r, const struct sl_api_msg *m)
{
    struct sl_buf out;
    sl_buf_init(&out, SL_API_MESSAGE_MAX + SL_API_LENGTH_BYTES);
    int rc = sl_api_msg_pack(m, &out);
    if (rc == SL_ELIMIT)
        rc = fail(r, SL_REMOTE_REFUSED, "the request is larger than %u bytes; shorten it",
                  SL_API_MESSAGE_MAX);
    else if (rc)
        rc = fail(r, SL_REMOTE_MEMORY, "out of memory");
    else if ((rc = send_all(r, out.data, out.len)))
        fail(r, rc, "the connection to the server broke: %s; connect again", strerror(errno));
    sl_buf_close(&out);
    return rc;
}

static int read_more(struct sl_remote *r)
{
    sl_buf_consume(&r->in, r->used);
    r->used = 0;
    if (sl_buf_reserve(&r->in, READ_SIZE)) return fail(r, SL_REMOTE_MEMORY, "out of memory");
    for (;;) {
        ssize_t k = recv(r->fd, r->in.data + r->in.len, READ_SIZE, 0);
        if (k > 0) {
            r->in.len += (size_t)k;
            r->in.data[r->in.len] = 0;
            return 0;
        }
        if (k == 0)
            return fail(r, SL_REMOTE_LOST, "the server closed the connection; connect again");
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return fail(r, SL_REMOTE_LOST,
                        "the server sent nothing in time; connect again or allow more time");
        if (errno != EINTR)
            return fail(r, SL_REMOTE_LOST, "the connection to the server broke: %s; connect again",
                        strerror(errno));
    }
}

/* The next message, of any kind we know. */
static int next_msg(struct sl_remote *r, struct sl_api_msg *m)
{
    for (;;) {
        struct sl_err err = {0};
        size_t used = 0;
        int rc = sl_api_msg_unpack(r->in.data + r->used, r->in.len - r->used, m, &used, &err);
        r->used += used;
        if (rc == 0) return 0;
        if (rc == SL_EAGAIN)
            rc = read_more(r);
        else if (rc == SL_EUNSUPPORTED)
            rc = 0; /* a newer server tells more than we understand */
        else
            rc = fail(r, SL_REMOTE_LOST,
                      "the server's answer makes no sense: %s; is it a sluice server?", err.msg);
        if (rc) return rc;
    }
}

static int take_error(struct sl_remote *r, const struct sl_api_msg *m)
{
    return fail(r, m->error.retry ? SL_REMOTE_RETRY : SL_REMOTE_REFUSED, "%s", m->error.message);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void set_timeouts(int fd, int which, unsigned ms)
{
    struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
    setsockopt(fd, SOL_SOCKET, which, &tv, sizeof(tv));
}

static int try_connect(int family, const struct sockaddr *a, socklen_t n)
{
    int one = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    set_timeouts(fd, SO_SNDTIMEO, CONNECT_TIMEOUT_S * 1000); /* bounds connect as well */
    if (connect(fd, a, n)) {
        int e = errno;
        close(fd);
        errno = e;
        return -1;
    }
    set_timeouts(fd, SO_SNDTIMEO, 0);
    if (family != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static int open_path(struct sl_remote *r, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        return fail(r, SL_REMOTE_REFUSED, "the path '%s' is longer than %zu bytes", path,
                    sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    r->fd = try_connect(AF_UNIX, (struct sockaddr *)&a, sizeof(a));
    return r->fd < 0 ? fail(r, SL_REMOTE_LOST, "cannot connect to %s: %s; is the server running?",
                            path, strerror(errno))
                     : 0;
}

static int open_port(struct sl_remote *r, const char *address)
{
    char host[256], service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int port;
    if (sl_parse_hostport(address, host, sizeof(host), &port))
        return fail(r, SL_REMOTE_REFUSED, "'%s' is neither a path (with a '/') nor HOST:PORT",
                    address);
    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(host[0] ? host : NULL, service, &hints, &list);
    if (rc) return fail(r, SL_REMOTE_LOST, "cannot resolve '%s': %s", host, gai_strerror(rc));
    for (const struct addrinfo *ai = list; ai && r->fd < 0; ai = ai->ai_next)
        r->fd = try_connect(ai->ai_family, ai->ai_addr, ai->ai_addrlen);
    int e = errno;
    freeaddrinfo(list);
    return r->fd < 0 ? fail(r, SL_REMOTE_LOST, "cannot connect to %s: %s; is the server running?",
                            address, strerror(e))
                     : 0;
}

static int greet(struct sl_remote *r, const char *key)
{
    struct sl_api_msg m = {.kind = SL_API_HELLO};
    m.hello = (struct sl_api_hello){SL_API_VERSION, key ? key : "",
                                    "libsluice-client " SLUICE_VERSION, ""};
    int rc = send_msg(r, &m);
    if (!rc) rc = next_msg(r, &m);
    if (rc) return rc;
    if (m.kind == SL_API_ERROR)
        rc = take_error(r, &m);
    else if (m.kind != SL_API_HELLO)
        rc = fail(r, SL_REMOTE_LOST, "the server did not answer Hello; is it a sluice server?");
    else if (!(r->model = strdup(m.hello.model)))
        rc = fail(r, SL_REMOTE_MEMORY, "out of memory");
    sl_api_msg_free(&m);
    return rc;
}

int sl_remote_connect(const char *address, const char *key, struct sl_remote **out, char *error)
{
    struct sl_remote *r = calloc(1, sizeof(*r));
    *out = NULL;
    if (!r) {
        if (error) snprintf(error, SL_REMOTE_ERROR_MAX, "out of memory");
        return SL_REMOTE_MEMORY;
    }
    r->fd = -1;
    r->next_id = 1;
    pthread_mutex_init(&r->sending, NULL);
    sl_buf_init(&r->in, SL_API_MESSAGE_MAX + SL_API_LENGTH_BYTES + READ_SIZE);
    int rc = strchr(address, '/') ? open_path(r, address) : open_port(r, address);
    if (!rc) rc = greet(r, key);
    if (rc) {
        if (error) snprintf(error, SL_REMOTE_ERROR_MAX, "%s", r->error);
        sl_remote_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void sl_remote_close(struct sl_remote *r)
{
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    pthread_mutex_destroy(&r->sending);
    sl_buf_close(&r->in);
    free(r->model);
    free(r);
}

void sl_remote_set_timeout(struct sl_remote *r, unsigned milliseconds)
{
    set_timeouts(r->fd, SO_RCVTIMEO, milliseconds);
}

/* ---- generating ------------------------------------------------------------------------------ */

void sl_remote_request_init(struct sl_remote_request *r)
{
    memset(r, 0, sizeof(*r));
    r->temperature = r->top_p = r->min_p = NAN;
    r->repetition_penalty = r->presence_penalty = r->frequency_penalty = NAN;
    r->top_k = -1;
}

static void give(struct sl_api_generate *g, unsigned bit, float *to, float v)
{
    if (isnan(v)) return;
    g->given |= bit;
    *to = v;
}

static int fill(struct sl_remote *r, const struct sl_remote_request *q, struct sl_api_generate *g)
{
    struct sl_sampling *s = &g->sampling;
    if ((q->prompt != NULL) + (q->messages_json != NULL) + (q->tokens != NULL) != 1)
        return fail(r, SL_REMOTE_REFUSED, "give exactly one of prompt, messages_json and tokens");
    if (q->n_bias > SL_LOGIT_BIAS_MAX)
        return fail(r, SL_REMOTE_REFUSED, "%zu logit biases; at most %d are allowed", q->n_bias,
                    SL_LOGIT_BIAS_MAX);
    if (q->top_logprobs > SL_TOP_LOGPROBS_MAX)
        return fail(r, SL_REMOTE_REFUSED, "top_logprobs is %u; at most %d are allowed",
                    q->top_logprobs, SL_TOP_LOGPROBS_MAX);
    g->prompt = q->prompt;
    g->messages_json = q->messages_json;
    g->tools_json = q->tools_json;
    g->parse = q->parse;
    g->options_json = q->options_json;
    g->tokens = q->tokens;
    g->n_tokens = q->n_tokens;
    give(g, SL_API_TEMPERATURE, &s->temperature, q->temperature);
    give(g, SL_API_TOP_P, &s->top_p, q->top_p);
    give(g, SL_API_MIN_P, &s->min_p, q->min_p);
    give(g, SL_API_REPETITION, &s->repetition_penalty, q->repetition_penalty);
    give(g, SL_API_PRESENCE, &s->presence_penalty, q->presence_penalty);
    give(g, SL_API_FREQUENCY, &s->frequency_penalty, q->frequency_penalty);
    if (q->top_k >= 0) g->given |= SL_API_TOP_K, s->top_k = q->top_k;
    if (q->has_seed) g->given |= SL_API_SEED, s->seed = q->seed;
    s->n_bias = (int32_t)q->n_bias;
    for (size_t i = 0; i < q->n_bias; i++)
        s->bias[i] = (struct sl_logit_bias){q->bias[i].token, q->bias[i].bias};
    s->n_top = (int32_t)q->top_logprobs;
    g->max_tokens = q->max_tokens;
    g->stops = q->stops;
    g->n_stops = q->n_stops;
    g->ignore_eos = q->ignore_eos;
    g->want_logprobs = q->want_logprobs;
    g->priority = q->priority;
    g->model = q->model;
    return 0;
}

/* A NUL-terminated copy that moves on *to. */
static const char *copy(char **to, const char *s, size_t n)
{
    char *at = memcpy(*to, s, n);
    at[n] = 0;
    *to += n + 1;
    return at;
}

static int show(struct sl_remote *r, const struct sl_api_token *t, sl_remote_token_fn fn, void *arg)
{
    struct sl_remote_top top[SL_TOP_LOGPROBS_MAX];
    for (size_t i = 0; i < t->n_top; i++)
        top[i] = (struct sl_remote_top){t->top[i].token, t->top[i].logprob, t->top[i].text};
    size_t head = t->n_calls * sizeof(struct sl_remote_call),
           n = t->text_len + t->reasoning_len + 2;
    for (size_t i = 0; i < t->n_calls; i++) n += t->calls[i].arguments_len + 1;
    char *block = malloc(head + n);
    if (!block) return fail(r, SL_REMOTE_MEMORY, "out of memory");
    struct sl_remote_call *calls = (struct sl_remote_call *)block;
    char *to = block + head;
    for (size_t i = 0; i < t->n_calls; i++) {
        const struct sl_api_call *c = &t->calls[i];
        calls[i] = (struct sl_remote_call){c->index, c->id, c->name,
                                           copy(&to, c->arguments, c->arguments_len)};
    }
    struct sl_remote_token token = {.id = t->id,
                                    .text = copy(&to, t->text, t->text_len),
                                    .text_len = t->text_len,
                                    .logprob = t->logprob,
                                    .top = top,
                                    .n_top = t->n_top,
                                    .reasoning = copy(&to, t->reasoning, t->reasoning_len),
                                    .reasoning_len = t->reasoning_len,
                                    .calls = calls,
                                    .n_calls = t->n_calls};
    int stop = fn(arg, &token);
    free(block);
    if (stop && sl_remote_cancel(r))
        return fail(r, SL_REMOTE_LOST, "the connection to the server broke; connect again");
    return 0;
}

static void take_done(const struct sl_api_done *d, struct sl_remote_result *out)
{
    if (!out) return;
    snprintf(out->finish_reason, sizeof(out->finish_reason), "%s", d->finish_reason);
    out->prompt_tokens = d->prompt_tokens;
    out->completion_tokens = d->completion_tokens;
    out->queue_ns = d->queue_ns;
    out->prefill_ns = d->prefill_ns;
    out->decode_ns = d->decode_ns;
}

/* Reads until request `id` has ended. Answers to earlier, abandoned requests are passed over. */
static int receive(struct sl_remote *r, uint64_t id, sl_remote_token_fn fn, void *arg,
                   struct sl_remote_result *result)
{
    for (;;) {
        struct sl_api_msg m;
        int rc = next_msg(r, &m), ended = 0;
        if (rc) return rc;
        if (m.kind == SL_API_ERROR && (m.id == id || m.id == 0)) {
            ended = 1;
            rc = take_error(r, &m);
        } else if (m.id == id && m.kind == SL_API_TOKEN && fn) {
            rc = show(r, &m.token, fn, arg);
        } else if (m.id == id && m.kind == SL_API_DONE) {
            ended = 1;
            take_done(&m.done, result);
        }
        sl_api_msg_free(&m);
        if (rc || ended) return rc;
    }
}

int sl_remote_generate(struct sl_remote *r, const struct sl_remote_request *request,
                       sl_remote_token_fn fn, void *arg, struct sl_remote_result *result)
{
    struct sl_api_msg m = {.kind = SL_API_GENERATE, .id = r->next_id++};
    if (result) memset(result, 0, sizeof(*result));
    int rc = fill(r, request, &m.generate);
    if (!rc) rc = send_msg(r, &m);
    if (rc) return rc;
    atomic_store(&r->current, m.id);
    rc = receive(r, m.id, fn, arg, result);
    atomic_store(&r->current, 0);
    return rc;
}

int sl_remote_cancel(struct sl_remote *r)
{
    struct sl_api_msg m = {.kind = SL_API_CANCEL, .id = atomic_load(&r->current)};
    struct sl_buf out;
    if (!m.id) return 0;
    /* No word to r->error here: the thread that waits owns it, and it will notice a broken
     * connection itself. */
    sl_buf_init(&out, 64);
    int rc = sl_api_msg_pack(&m, &out) ? SL_REMOTE_MEMORY : send_all(r, out.data, out.len);
    sl_buf_close(&out);
    return rc;
}

/* ---- documents ------------------------------------------------------------------------------- */

static int document(struct sl_remote *r, enum sl_api_msg_kind kind, char **json)
{
    struct sl_api_msg m = {.kind = kind, .id = r->next_id++};
    uint64_t id = m.id;
    *json = NULL;
    int rc = send_msg(r, &m);
    while (!rc && !*json) {
        if ((rc = next_msg(r, &m))) break;
        if (m.kind == SL_API_ERROR && (m.id == id || m.id == 0))
            rc = take_error(r, &m);
        else if (m.kind == kind && m.id == id && !(*json = strdup(m.document.json)))
            rc = fail(r, SL_REMOTE_MEMORY, "out of memory");
        sl_api_msg_free(&m);
    }
    return rc;
}

int sl_remote_status(struct sl_remote *r, char **json)
{
    return document(r, SL_API_STATUS, json);
}

int sl_remote_plan(struct sl_remote *r, char **json)
{
    return document(r, SL_API_PLAN, json);
}
