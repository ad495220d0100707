/* metrics.c - histograms, counters and their Prometheus text (exposition format 0.0.4). */
#include "coordinator/metrics.h"

#include <math.h>
#include <string.h>

#include "base/sl_assert.h"
#include "coordinator/service.h"

/* Bounds as vLLM chose them, so that panels drawn for it keep their resolution. */
static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                     0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80,   160};
static const double itl_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                    0.3,   0.4,    0.5,   0.75, 1,     2.5,  5,     7.5, 10,   20};
static const double request_bounds[] = {0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,
                                        15,  20,  30,  40,  50, 60,  120, 240, 480, 960};

static void hist_init(struct sl_hist *h, const double *bounds, int n)
{
    memset(h, 0, sizeof(*h));
    h->bounds = bounds;
    h->n = n;
    SL_ASSERT(n <= SL_HIST_BUCKETS_MAX);
}

void sl_metrics_init(struct sl_metrics *m)
{
    memset(m, 0, sizeof(*m));
    hist_init(&m->ttft, ttft_bounds, (int)SL_ARRAY_LEN(ttft_bounds));
    hist_init(&m->itl, itl_bounds, (int)SL_ARRAY_LEN(itl_bounds));
    hist_init(&m->e2e, request_bounds, (int)SL_ARRAY_LEN(request_bounds));
    hist_init(&m->queue, request_bounds, (int)SL_ARRAY_LEN(request_bounds));
}

struct sl_metrics *sl_metrics_process(void)
{
    static struct sl_metrics m;
    if (!m.ttft.bounds) sl_metrics_init(&m);
    return &m;
}

void sl_hist_observe(struct sl_hist *h, double seconds)
{
    int i = 0;
    while (i < h->n && seconds > h->bounds[i]) i++;
    h->counts[i]++;
    h->total++;
    h->sum += seconds;
}

/* ---- one request ----------------------------------------------------------------------------- */

static double seconds_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

void sl_track_start(struct sl_track *t, uint64_t now_ns)
{
    t->submit_ns = now_ns;
    t->last_ns = 0;
}

void sl_track_reply(struct sl_metrics *m, struct sl_track *t, const struct sl_effect *reply,
                    uint64_t now_ns)
{
    switch (reply->kind) {
    case SL_FX_TOKEN:
        if (t->last_ns)
            sl_hist_observe(&m->itl, seconds_between(t->last_ns, now_ns));
        else
            sl_hist_observe(&m->ttft, seconds_between(t->submit_ns, now_ns));
        t->last_ns = now_ns;
        break;
    case SL_FX_DONE:
        sl_hist_observe(&m->e2e, seconds_between(t->submit_ns, now_ns));
        sl_hist_observe(&m->queue, (double)reply->done.timings.queue_ns * 1e-9);
        if ((unsigned)reply->done.reason < SL_ARRAY_LEN(m->success))
            m->success[reply->done.reason]++;
        break;
    case SL_FX_FAIL:
        m->failed++;
        break;
    default:
        break;
    }
}

void sl_track_cancel(struct sl_metrics *m, struct sl_track *t)
{
    (void)t;
    m->success[SL_FINISH_CANCELLED]++;
}

/* ---- text ------------------------------------------------------------------------------------ */

struct writer {
    struct sl_buf *out;
    char model[512]; /* escaped label value */
    int rc;          /* first error */
};

static void put(struct writer *w, int rc)
{
    if (!w->rc) w->rc = rc;
}

static void head(struct writer *w, const char *name, const char *type, const char *help)
{
    put(w, sl_buf_printf(w->out, "# HELP sluice:%s %s\n# TYPE sluice:%s %s\n", name, help, name,
                         type));
}

static void one(struct writer *w, const char *name, const char *type, const char *help,
                double value)
{
    head(w, name, type, help);
    put(w, sl_buf_printf(w->out, "sluice:%s{model_name=\"%s\"} %.17g\n", name, w->model, value));
}

static void hist(struct writer *w, const char *name, const char *help, const struct sl_hist *h)
{
    head(w, name, "histogram", help);
    uint64_t below = 0;
    for (int i = 0; i < h->n; i++) {
        below += h->counts[i];
        put(w, sl_buf_printf(w->out, "sluice:%s_bucket{model_name=\"%s\",le=\"%g\"} %llu\n", name,
                             w->model, h->bounds[i], (unsigned long long)below));
    }
    put(w, sl_buf_printf(w->out, "sluice:%s_bucket{model_name=\"%s\",le=\"+Inf\"} %llu\n", name,
                         w->model, (unsigned long long)h->total));
    put(w, sl_buf_printf(
               w->out,
               "sluice:%s_sum{model_name=\"%s\"} %.9g\nsluice:%s_count{model_name=\"%s\"} %llu\n",
               name, w->model, h->sum, name, w->model, (unsigned long long)h->total));
}

/* Label values escape backslash, quote and newline. */
static void escape(const char *s, char *out, size_t cap)
{
    size_t n = 0;
    for (; *s && n + 3 < cap; s++) {
        if (*s == '\\' || *s == '"' || *s == '\n') out[n++] = '\\';
        out[n++] = *s == '\n' ? 'n' : *s;
    }
    out[n] = 0;
}

struct stage_metric {
    const char *name, *type, *help;
    double (*value)(const struct sl_stage_status *s);
};

static double busy_ratio(const struct sl_stage_status *s)
{
    return s->busy_ratio;
}
static double bubble_ratio(const struct sl_stage_status *s)
{
    return s->bubble_ratio;
}
static double busy_seconds(const struct sl_stage_status *s)
{
    return (double)s->busy_ns * 1e-9;
}
static double stage_steps(const struct sl_stage_status *s)
{
    return (double)s->steps;
}
static double link_bytes(const struct sl_stage_status *s)
{
    return (double)s->link_bytes;
}
static double link_frames(const struct sl_stage_status *s)
{
    return (double)s->link_frames;
}
static double link_seconds(const struct sl_stage_status *s)
{
    return (double)s->link_busy_ns * 1e-9;
}
static double restarts(const struct sl_stage_status *s)
{
    return s->restarts;
}

static const struct stage_metric stage_metrics[] = {
    {"stage_busy_ratio", "gauge", "Share of the time with work that the stage computed.",
     busy_ratio},
    {"stage_bubble_ratio", "gauge", "Share of the time with work that the stage stood idle.",
     bubble_ratio},
    {"stage_busy_seconds_total", "counter", "Time the stage computed.", busy_seconds},
    {"stage_steps_total", "counter", "Micro-batches the stage ran.", stage_steps},
    {"stage_restarts_total", "counter", "Times the stage was started again.", restarts},
    {"link_bytes_total", "counter", "Bytes sent on the stage's link to the next one.", link_bytes},
    {"link_frames_total", "counter", "Frames sent on the stage's link to the next one.",
     link_frames},
    {"link_busy_seconds_total", "counter", "Time frames were under way on the link.", link_seconds},
};

static void stages(struct writer *w, const struct sl_service *s)
{
    struct sl_stage_status st[SL_DEVICES_MAX];
    int n = sl_service_stages(s, st, SL_DEVICES_MAX);
    for (size_t m = 0; m < SL_ARRAY_LEN(stage_metrics); m++) {
        const struct stage_metric *row = &stage_metrics[m];
        int is_link = strncmp(row->name, "link_", 5) == 0;
        head(w, row->name, row->type, row->help);
        for (int i = 0; i < n; i++) {
            char device[256], via[64];
            if (st[i].stage < 0) continue;
            escape(st[i].device ? st[i].device : "", device, sizeof(device));
            put(w, sl_buf_printf(w->out, "sluice:%s{model_name=\"%s\",stage=\"%d\",device=\"%s\"",
                                 row->name, w->model, st[i].stage, device));
            if (is_link) {
                escape(st[i].transport_out ? st[i].transport_out : "", via, sizeof(via));
                put(w, sl_buf_printf(w->out, ",transport=\"%s\"", via));
            }
            double v = row->value(&st[i]);
            put(w, sl_buf_printf(w->out, "} %.17g\n", isfinite(v) ? v : 0.0));
        }
    }
}

static void requests(struct writer *w, const struct sl_metrics *m, const struct sl_coord_status *st)
{
    static const char *const reason[] = {"stop", "length", "abort"};
    one(w, "num_requests_running", "gauge", "Requests in the pipeline.", st->running);
    one(w, "num_requests_waiting", "gauge", "Requests waiting for a place.", st->waiting);
    one(w, "kv_cache_usage_perc", "gauge", "KV-cache usage, 1 means 100 percent.",
        st->blocks_total > 0 ? (double)(st->blocks_total - st->blocks_free) / st->blocks_total : 0);
    one(w, "num_preemptions_total", "counter",
        "Requests put back to the queue for lack of KV blocks.", (double)st->preemptions);
    one(w, "prompt_tokens_total", "counter", "Prompt tokens processed.", (double)st->prompt_tokens);
    one(w, "generation_tokens_total", "counter", "Tokens generated.", (double)st->generated_tokens);
    head(w, "request_success_total", "counter", "Requests that ended, by finish reason.");
    for (size_t i = 0; i < SL_ARRAY_LEN(reason); i++)
        put(w, sl_buf_printf(
                   w->out,
                   "sluice:request_success_total{model_name=\"%s\",finished_reason=\"%s\"} %llu\n",
                   w->model, reason[i], (unsigned long long)m->success[i]));
    one(w, "request_failed_total", "counter", "Requests that ended with an error.",
        (double)m->failed);
    one(w, "request_refused_total", "counter", "Requests that were not accepted.",
        (double)m->refused);
    one(w, "request_unauthorised_total", "counter", "Requests without a valid API key.",
        (double)m->unauthorised);
    hist(w, "time_to_first_token_seconds", "Time from request to first token.", &m->ttft);
    hist(w, "inter_token_latency_seconds", "Time between two tokens of a request.", &m->itl);
    hist(w, "e2e_request_latency_seconds", "Time from request to its end.", &m->e2e);
    hist(w, "request_queue_time_seconds", "Time a request waited for its first step.", &m->queue);
}

int sl_metrics_write(const struct sl_metrics *m, const struct sl_service *s, struct sl_buf *out)
{
    struct writer w = {.out = out};
    struct sl_coord_status st;
    escape(sl_service_model_name(s), w.model, sizeof(w.model));
    sl_service_get_status(s, &st);
    one(&w, "up", "gauge", "1 when the pipeline serves.", sl_service_is_serving(s) ? 1 : 0);
    one(&w, "micro_batches_in_flight", "gauge", "Micro-batches in the pipeline.", st.in_flight);
    one(&w, "micro_batches_total", "counter", "Micro-batches sent down the pipeline.",
        (double)st.batches);
    requests(&w, m, &st);
    stages(&w, s);
    return w.rc;
}
