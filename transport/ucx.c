/* ucx.c - ports of the UCX transports: one context and worker per port, and how it sleeps.
 *
 * Sleeping. UCX's wake-up fd is polled by libuv. The rule: before the loop sleeps (uv_prepare),
 * progress until nothing moves, then arm the fd; "busy" means progress again. After any call of
 * ours that may have given UCX something to do, uv_idle keeps the loop from sleeping past the next
 * prepare. One case has no wake-up: shared memory whose receiver does not drain (it is busy,
 * stopped or dead) - UCX refuses to arm as long as sends are stuck. Then we stop spinning after
 * STALLS_MAX rounds and look again every TICK_STALLED_MS.
 *
 * Closing. Frames inside UCX get SL_PORT_LINGER_MS; then endpoints that can be cut are cut and the
 * worker is destroyed. Only after that are frames freed that UCX never gave back: until then it may
 * read or write them.
 *
 * Deaths over shared memory. All who send to a port put their messages into one queue in its
 * memory: they take a place there by counting, then fill it. A process killed between the two
 * leaves a place that is never filled, and the receiver waits at it for ever; what others put
 * behind it is not seen any more. UCX 1.13 neither notices nor has a call to mend that. So the port
 * is fragile: after a death its owner throws it away, queue and all, and opens another
 * (hub.h:sl_hub_reopen). */
#include "transport/ucx.h"
#include "transport/versions.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include "base/env.h"
#include "base/log.h"
#include "base/sl_assert.h"

#define PROGRESS_MAX 256 /* rounds of progress before others on the loop get their turn */
#define STALLS_MAX 5000  /* rounds of "busy" without progress before we sleep */
#define TICK_STALLED_MS 1
#define TICK_MS 20 /* for deadlines */

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* being active is what counts */
}

void sl_ucx_port_kick(struct ucx_port *p)
{
    if (p->worker && !uv_is_closing((uv_handle_t *)&p->idle)) uv_idle_start(&p->idle, on_idle);
}

static void teardown(struct ucx_port *p);

static int may_tear_down(const struct ucx_port *p)
{
    if (!p->port.closing) return 0;
    if (sl_list_empty(&p->parked) && sl_list_empty(&p->active)) return 1;
    uint64_t now = sl_env_now_ns();
    /* links that can be cut are cut at close_ns; the second half is for UCX to finish that */
    return now >= p->close_ns &&
           (!sl_ucx_links_pending(p) || now >= p->close_ns + SL_PORT_LINGER_MS * 1000000ull);
}

/* One round: lets UCX work, then tells the user. Returns how often UCX did something. */
static unsigned pump(struct ucx_port *p)
{
    unsigned moved = 0;
    do {
        while (moved < PROGRESS_MAX && ucp_worker_progress(p->worker)) moved++;
    } while (sl_ucx_recv_fetch(p) && moved < PROGRESS_MAX);
    sl_ucx_links_pump(p);
    sl_ucx_recv_pump(p);
    return moved;
}

static void on_tick(uv_timer_t *tick)
{
    struct ucx_port *p = sl_container_of(tick, struct ucx_port, tick);
    sl_ucx_port_kick(p);
}

/* Something still needs us although no event will come. */
static void set_tick(struct ucx_port *p, int stalled)
{
    uint64_t ms = stalled                                      ? TICK_STALLED_MS
                  : p->port.closing || sl_ucx_links_pending(p) ? TICK_MS
                                                               : 0;
    if (ms == 0)
        uv_timer_stop(&p->tick);
    else if (!uv_is_active((uv_handle_t *)&p->tick) || stalled)
        uv_timer_start(&p->tick, on_tick, ms, 0);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct ucx_port *p = sl_container_of(prepare, struct ucx_port, prepare);
    unsigned moved = pump(p);
    if (may_tear_down(p)) {
        teardown(p);
        return;
    }
    int stalled = 0;
    if (moved >= PROGRESS_MAX || p->first || !sl_list_empty(&p->due)) {
        p->stalls = 0;
        sl_ucx_port_kick(p); /* more to do: poll without sleeping, then come back */
    } else if (ucp_worker_arm(p->worker) == UCS_OK) {
        p->stalls = 0;
        uv_idle_stop(&p->idle);
    } else {
        p->stalls = moved ? 0 : p->stalls + 1;
        stalled = p->stalls > STALLS_MAX;
        if (stalled)
            uv_idle_stop(&p->idle);
        else
            sl_ucx_port_kick(p);
    }
    set_tick(p, stalled);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct ucx_port *p = sl_container_of(poll, struct ucx_port, poll);
    (void)status, (void)events;
    pump(p);
    sl_ucx_port_kick(p);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
    struct ucx_port *p = h->data;
    if (--p->handles) return;
    sl_port_finish(&p->port);
    free(p);
}

static void teardown(struct ucx_port *p)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&p->poll, (uv_handle_t *)&p->prepare,
                              (uv_handle_t *)&p->idle, (uv_handle_t *)&p->tick};
    uv_poll_stop(&p->poll); /* before its fd goes away */
    ucp_worker_destroy(p->worker);
    ucp_cleanup(p->context);
    p->worker = NULL;
    sl_ucx_links_release(p);
    sl_ucx_recv_release(p);
    for (size_t i = 0; i < SL_ARRAY_LEN(handles); i++) uv_close(handles[i], on_handle_closed);
}

static void ucx_port_close(struct sl_port *port)
{
    struct ucx_port *p = sl_container_of(port, struct ucx_port, port);
    p->close_ns = sl_env_now_ns() + SL_PORT_LINGER_MS * 1000000ull;
    sl_ucx_port_kick(p);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int ucx_error(struct sl_err *err, const struct ucx_kind *kind, const char *what,
                     ucs_status_t status)
{
    int code = status == UCS_ERR_NO_MEMORY ? SL_ENOMEM : SL_ESYS;
    return sl_err_set(err, code, "%s port: %s: %s", kind->transport->name, what,
                      ucs_status_string(status));
}

/* UCX prints to standard output, which is not ours to fill, and ends the process when a peer dies
 * while its memory is being read over shared memory (a "fatal" line) although it has returned the
 * error to us. Hence its lines come here: they are shown at a level where somebody is looking for
 * them, and a peer's death is only a peer's death. Failed assertions of UCX do not come this way
 * and still abort. */
static ucs_log_func_rc_t on_ucx_log(const char *file, unsigned line, const char *function,
                                    ucs_log_level_t level,
                                    const ucs_log_component_config_t *component, const char *format,
                                    va_list args)
{
    char text[256];
    (void)function, (void)component;
    vsnprintf(text, sizeof text, format, args);
    sl_log(level <= UCS_LOG_LEVEL_ERROR ? SL_LOG_INFO : SL_LOG_DEBUG, "ucx", "%s (%s:%u)", text,
           file, line);
    return UCS_LOG_FUNC_RC_STOP;
}

static void take_ucx_logs(void)
{
    ucs_log_push_handler(on_ucx_log);
}

static pthread_once_t logs_once = PTHREAD_ONCE_INIT;

void sl_transport_setup(void)
{
    static const int crashes[] = {SIGILL, SIGBUS, SIGFPE, SIGSEGV};
    pthread_once(&logs_once, take_ucx_logs); /* its own way is standard output, which is ours */
    for (size_t i = 0; i < SL_ARRAY_LEN(crashes); i++) ucs_debug_disable_signal(crashes[i]);
}

static int open_context(struct ucx_port *p, struct sl_err *err)
{
    const char *device = p->kind->peer_errors ? sl_env_get("SLUICE_NET_DEVICE") : NULL;
    ucp_config_t *config;
    pthread_once(&logs_once, take_ucx_logs);
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK) return ucx_error(err, p->kind, "reading the UCX configuration", status);
    status = ucp_config_modify(config, "TLS", p->kind->tls);
    if (status == UCS_OK && device) status = ucp_config_modify(config, "NET_DEVICES", device);
    if (status == UCS_OK) status = ucp_config_modify(config, "RNDV_SCHEME", p->kind->rndv_scheme);
    if (status == UCS_OK && p->kind->peer_errors)
        status = ucp_config_modify(config, "ZCOPY_THRESH", "inf");
    if (status == UCS_OK) {
        ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                               .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
        status = ucp_init(&params, config, &p->context);
    }
    ucp_config_release(config);
    if (status == UCS_OK) return 0;
    if (device)
        return sl_err_set(
            err, SL_EINPUT,
            "ucx-tcp port on the interface of SLUICE_NET_DEVICE \"%s\": %s; does it exist?", device,
            ucs_status_string(status));
    return ucx_error(err, p->kind, "starting UCX", status);
}

static int open_worker(struct ucx_port *p, int *fd, struct sl_err *err)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucs_status_t status = ucp_worker_create(p->context, &params, &p->worker);
    if (status != UCS_OK) return ucx_error(err, p->kind, "creating a worker", status);
    status = sl_ucx_recv_start(p);
    if (status == UCS_OK) status = ucp_worker_get_efd(p->worker, fd);
    if (status == UCS_OK) return 0;
    ucp_worker_destroy(p->worker);
    return ucx_error(err, p->kind, "preparing the worker", status);
}

static int open_handles(struct ucx_port *p, uv_loop_t *loop, int fd, struct sl_err *err)
{
    int rc = uv_poll_init(loop, &p->poll, fd);
    if (rc)
        return sl_err_set(err, SL_ESYS, "%s port: %s", p->kind->transport->name, uv_strerror(rc));
    uv_prepare_init(loop, &p->prepare);
    uv_idle_init(loop, &p->idle);
    uv_timer_init(loop, &p->tick);
    p->poll.data = p->prepare.data = p->idle.data = p->tick.data = p;
    p->handles = 4;
    uv_poll_start(&p->poll, UV_READABLE, on_poll);
    uv_prepare_start(&p->prepare, on_prepare);
    sl_ucx_port_kick(p);
    return 0;
}

static int port_open(const struct ucx_kind *kind, struct uv_loop_s *loop, struct sl_port **out,
                     struct sl_err *err)
{
    struct ucx_port *p = calloc(1, sizeof *p);
    int fd, rc;
    if (!p) return sl_err_set(err, SL_ENOMEM, "%s port: out of memory", kind->transport->name);
    p->kind = kind;
    p->last = &p->first;
    sl_list_init(&p->parked);
    sl_list_init(&p->active);
    sl_list_init(&p->due);
    sl_map_init(&p->senders);
    rc = open_context(p, err);
    if (rc) goto free_port;
    rc = open_worker(p, &fd, err);
    if (rc) goto close_context;
    sl_list_init(&p->port.links);
    rc = open_handles(p, loop, fd, err);
    if (rc) goto close_worker;
    *out = &p->port;
    return 0;
close_worker:
    ucp_worker_destroy(p->worker);
close_context:
    ucp_cleanup(p->context);
free_port:
    free(p);
    return rc;
}

static int shm_port_open(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err);
static int tcp_port_open(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err);

#define UCX_OPS                                                                                    \
    .port_close = ucx_port_close, .address = sl_ucx_address, .link_open = sl_ucx_link_open,        \
    .link_send = sl_ucx_link_send, .link_close = sl_ucx_link_close,                                \
    .link_stats = sl_ucx_link_stats

const struct sl_transport sl_transport_ucx_shm = {
    .name = "ucx-shm", .same_host = 1, .fragile = 1, .port_open = shm_port_open, UCX_OPS};
const struct sl_transport sl_transport_ucx_tcp = {
    .name = "ucx-tcp", .port_open = tcp_port_open, UCX_OPS};

/* shm: the receiver fetches, so that nobody writes into a body that we may have given up. tcp:
 * copied fragments, for UCX 1.13 runs into an assertion of its own when a peer dies under a
 * zero-copy send. */
static const struct ucx_kind shm_kind = {&sl_transport_ucx_shm, "sysv,posix,cma,self", "get_zcopy",
                                         0};
static const struct ucx_kind tcp_kind = {&sl_transport_ucx_tcp, "tcp,self", "am", 1};

static int shm_port_open(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err)
{
    return port_open(&shm_kind, loop, out, err);
}

static int tcp_port_open(struct uv_loop_s *loop, struct sl_port **out, struct sl_err *err)
{
    return port_open(&tcp_kind, loop, out, err);
}

const char *sl_ucx_version(void)
{
    return ucp_get_version_string();
}
